"""Lab 5's questions with numbers for answers. Each function draws its numbers and returns (question, answer)."""

import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks"))

import rules  # noqa: E402

PAGE = 4096
MIB = 1 << 20


def convergence(pages, bandwidth, dirty_rate, downtime):
    """Clark's rounds: round 1 sends all pages, each further one what was written during the one before. Numbers are exact: pages a second.
    (pages sent while the guest runs, rounds, pages of the last round)."""
    rate, left, sent, rounds = bandwidth // PAGE, pages, 0, 0
    while left * 1000 > downtime * rate:
        sent, rounds, left = sent + left, rounds + 1, left * dirty_rate // rate
    return sent, rounds, left


def _facts(rng):
    """Memory in pages, bandwidth, pages dirtied a second, downtime in ms: it converges."""
    bandwidth = rng.choice((32, 64, 128)) * MIB
    rate = bandwidth // PAGE
    return rng.choice((64, 128, 256)) * MIB // PAGE, bandwidth, rate * rng.choice((1, 2, 3)) // 8, rng.choice((10, 20, 40))


def _say(pages, bandwidth, dirty, downtime):
    return (f"A guest with {pages * PAGE // MIB} MiB writes to {dirty} different pages a second, none twice while one round is "
            f"sent. The connection carries {bandwidth // MIB} MiB/s; {downtime} ms of downtime are allowed. Round 1 sends all "
            f"pages, and a fraction of a page counts as none.")


def rounds_until_it_fits(rng):
    facts = _facts(rng)
    return _say(*facts) + " How many rounds run before the guest is stopped?", convergence(*facts)[1]


def pages_of_the_last_round(rng):
    facts = _facts(rng)
    return _say(*facts) + " How many pages does the last round send, with the guest stopped?", convergence(*facts)[2]


def pages_in_all(rng):
    facts = _facts(rng)
    sent, _, last = convergence(*facts)
    return _say(*facts) + " How many pages are sent in all, the last round included?", sent + last


def downtime_of_the_last_round(rng):
    rate, pages = rng.choice((32, 64, 128)) * MIB, rng.randrange(200, 2000)
    return (f"{pages} pages are dirty when the guest is stopped, and the connection carries {rate // MIB} MiB/s. How many "
            f"microseconds do they take? (Whole microseconds, the fraction cut off; headers count nothing.)", pages * PAGE * 10**6 // rate)


def pages_that_fit(rng):
    bandwidth, downtime = rng.choice((10, 40, 110)) * MIB, rng.choice((30, 50, 300))
    return (f"The connection carries {bandwidth // MIB} MiB/s and {downtime} ms of downtime are allowed. How many dirty pages "
            f"may be left at most?",
            downtime * bandwidth // 1000 // PAGE)


def fastest_guest(rng):
    bandwidth = rng.choice((16, 32, 64, 128)) * MIB
    return (f"Over a connection of {bandwidth // MIB} MiB/s, how many different pages a second does a guest write to when the "
            f"rounds just stop getting smaller?", bandwidth // PAGE)


def throttled(rng):
    slow = rng.randrange(3, 9)
    percent = 0
    for n in range(2, slow + 1):
        percent = rules.next_(1000, 1000, MIB, 0, 0, 0, n, percent)[1]
    return (f"Behind each of {slow} rounds more than half of what it sent is dirty again, and it does not fit. By the rule of "
            f"step 5.11, for how many percent of their time do the vCPUs stand still then?", percent)


def share_that_is_left(rng):
    percent, dirty = rng.choice((20, 40, 60, 80, 90)), rng.randrange(4, 40) * 500
    return (f"A guest writes to {dirty} pages a second. Its vCPUs are made to stand still for {percent} percent of their time, "
            f"and it does nothing but write. How many pages a second are left?", dirty * (100 - percent) // 100)


def sections_of_a_run(rng):
    zero, other = rng.randrange(1030, 9000), rng.randrange(1030, 9000)
    return (f"pages_write() is called once for {zero} pages of zeros with {other} others behind them. How many sections does "
            f"it write at least, with PAGES_MAX = 1024?", -(-zero // 1024) - (-other // 1024))


def bytes_of_zero_pages(rng):
    pages = rng.randrange(100, 1024)
    return f"How many bytes of the stream do {pages} pages of zeros take that lie side by side?", 24 + 24


def padding(rng):
    at = rng.randrange(100, 100_000)
    return (f"In a file, a section of raw pages begins at byte {at}. At which byte of the file do its pages begin?",
            -(-(at + 24 + 24) // PAGE) * PAGE)


def bitmap_of_what_is_owed(rng):
    mib = rng.choice((64, 96, 128, 200, 512))
    return f"Post-copy: how many bytes has the payload of SECTION_OWED for a guest with {mib} MiB?", (mib * MIB // PAGE + 63) // 64 * 8


def time_that_passed(rng):
    live = rng.randrange(2)
    away = rng.choice((rng.randrange(1, 9000), rng.randrange(20_000, 90_000)))
    where = "It moved while it ran" if live else "It was in a file"
    return (f"A VM was stopped at one host, and started at the other {away} ms later, by the two hosts' clocks. {where}. By "
            f"how many ms do its clocks go on?",
            rules.gap(live, 0, away * 10**6) // 10**6)


def urgent_page(rng):
    batch, rate = rng.choice((16, 64, 256)), rng.choice((1, 10)) * 125_000_000
    return (f"Post-copy sends {batch} pages in one piece while nobody waits, over a connection of {rate} bytes a second. A "
            f"page is asked for when such a piece has just begun. For how many whole microseconds does its answer wait for the "
            f"piece?", batch * PAGE * 10**6 // rate)


FATE_NUMBERS = {"run": 1, "end": 2, "ask": 3, "commit": 4, "wait": 5, "stand": 6}
SAID = {"BROKEN": "the connection breaks", "REFUSED": "REFUSE comes", "CANCEL": "the migration is cancelled",
        "TAKEN": "the record could be taken back",
        "LOST": "the record says that the other side was faster", "ANSWER_NO": "asked, the other side says: not yet",
        "ANSWER_YES": "asked, the other side says: yes", "SILENCE": "nobody answers, or asks, for long"}
WHERE = {"SRC_SENDING": "The source has not heard READY", "SRC_READY": "The source has heard READY and has sent nothing of COMMIT",
         "SRC_COMMITTING": "The source may have sent some of COMMIT", "SRC_COMMITTED": "The source has heard COMMITTED",
         "DST_LOADING": "The destination has not said READY", "DST_READY": "The destination may have said READY and has not heard COMMIT",
         "DST_COMMITTED": "The destination has heard COMMIT, and the record says so"}


def _fate(rng, stages):
    stage = rng.choice(stages)
    news = rng.choice(sorted(rules.FATES[stage]))
    return (f"{WHERE[stage]}; then {SAID[news]}. What does it do with the VM? 1 it runs here, 2 it ends here, 3 look at the "
            f"record or ask, 4 say COMMIT again, 5 stand until somebody connects, 6 stand until the user decides.",
            FATE_NUMBERS[rules.FATES[stage][news]])


def fate_of_the_source_before(rng):
    return _fate(rng, ("SRC_SENDING", "SRC_READY"))


def fate_of_the_source_behind(rng):
    return _fate(rng, ("SRC_COMMITTING",))


def fate_of_the_destination(rng):
    return _fate(rng, ("DST_LOADING", "DST_READY", "DST_COMMITTED"))


QUESTIONS = [rounds_until_it_fits, pages_of_the_last_round, pages_in_all, downtime_of_the_last_round, pages_that_fit,
             fastest_guest, throttled,
             share_that_is_left, sections_of_a_run, bytes_of_zero_pages, padding, bitmap_of_what_is_owed, time_that_passed, urgent_page,
             fate_of_the_source_before, fate_of_the_source_behind, fate_of_the_destination]
