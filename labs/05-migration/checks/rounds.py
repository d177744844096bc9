"""Checkpoints 5.9 to 5.13: pre-copy, on the machine that is made up (madeup.py) and with a guest that writes while it moves."""

import random
import struct

import madeup
import rules
import staging
import streamfile
import streamscript
from madeup import MEMORY, Plan, Seen, judge_round
from model import Checkpoint, Failure
from staging import Play, told
from streamfile import PAGE, ROUND
from writer import FIRST, STORM_WORD, Writer

ALL = set(range(MEMORY))

# --- 5.9: the first round ---------------------------------------------------------------------------------------------------

LOG_HINT = "page_log_start() first: what is written between the first page's copy and the log is lost, and nobody knows of it."


def first_plan(seed):
    return Plan(seed, (40, 0))


def first_verify(results, params):
    result = results["made-up"]
    plan, seen = first_plan(params["made-up"][0]), Seen(result)
    if seen.wrong:
        return Failure("a stream of pages and rounds", seen.wrong, run=result.name)
    if not seen.events or seen.events[0] != ("log on", False, streamfile.HEADER.size):
        at = seen.events[0] if seen.events else None
        return Failure("the log switched on before anything is sent", "%s when %d bytes were sent" % (at[0], at[2]) if at else
                       "it was never switched on" + seen.end(), LOG_HINT, result.name)
    if [e[0] for e in seen.events].count("log on") != 1:
        return Failure("the log switched on once", "%d times" % [e[0] for e in seen.events].count("log on"), LOG_HINT, result.name)
    return judge_round(plan, seen, 1, ALL, 0, result, "A bit in `left` for every page of the guest's memory, and migration_send().")


# --- 5.10: rounds -----------------------------------------------------------------------------------------------------------

ROUND_HINT = ("page_log_fetch() once a round, when its pages are sent: it forgets what it returns. The round ends with that "
              "number of pages, and the next one sends exactly these.")


def rounds_plan(seed):
    rng = random.Random(seed)
    sizes = [rng.randrange(150, 250)]
    for _ in range(4):
        sizes.append(sizes[-1] * rng.randrange(20, 48) // 100 + 1)  # no round is slow
    return Plan(seed, (*sizes, 0, 0))


def judge_rounds(plan, seen, result, rounds, hint=ROUND_HINT):
    """The first so many rounds, and what is said at the end of each."""
    for number in range(1, rounds + 1):
        expected = plan.fetches[number - 2] if number > 1 else ALL
        failure = judge_round(plan, seen, number, expected, number - 1, result, hint)
        if failure:
            return failure
        wanted = number, len(expected), len(plan.fetches[number - 1])
        if number <= len(seen.said) and seen.said[number - 1] != wanted:
            return Failure("the end of round %d: number, pages sent, pages dirty since: %s" % (number, wanted), str(seen.said[number - 1]),
                           hint, result.name)
    return None


def rounds_verify(results, params):
    result = results["made-up"]
    plan, seen = rounds_plan(params["made-up"][0]), Seen(result)
    if seen.wrong:
        return Failure("a stream of pages and rounds", seen.wrong, run=result.name)
    return judge_rounds(plan, seen, result, 6) or moving_verify(results["moving"])


# The same with a guest: it writes when it is told to, and a step lets a round begin.

MOVING = "--engine kvm --mem 4M"
OWN_MOST = 24  # pages below FIRST that a guest, and KVM's clock in it, write by themselves


def moving_sizes(seed):
    """How many words are written before each round, the first one included."""
    rng = random.Random(seed)
    sizes = [rng.randrange(170, 230)]
    for _ in range(3):
        sizes.append(sizes[-1] * rng.randrange(30, 40) // 100)
    return [(rng.getrandbits(60), size) for size in sizes]


def begin_moving(play, options="", fault="", storm=0):
    """Two sides and the relay; storm: the guest writes to so many pages when the migration begins."""
    play.incoming("D", "unix:d.sock", MOVING)
    play.vm("S", MOVING)
    play.step("relay R r.sock d.sock --times 1" + fault)
    play.step("await S ready")
    play.step("there r.sock")
    play.step("there d.sock")
    if storm:
        play.type("S", "s 0 %d" % storm, "storm")
    return play.step("ask S.ctl migrate unix:r.sock --detach " + options)


def next_round(play, number):
    play.step('poll S.ctl job | "waits_for_step":true | "state":"failed" | "state":"done"')
    play.step("ask S.ctl migrate-step")
    play.step("await R type %d instance %d | S end" % (ROUND, number))


def moving_play(p):
    play = Play()
    begin_moving(play, "--step --downtime 0 --timeout 60")
    for number, (seed, size) in enumerate(moving_sizes(p[2]), 1):
        play.step('poll S.ctl job | "waits_for_step":true | "state":"failed"')
        play.type("S", "w %d %d" % (seed, size), "wrote=")
        next_round(play, number)
    next_round(play, len(moving_sizes(p[2])) + 1)
    play.step("ask S.ctl migrate-cancel")
    play.step('poll S.ctl job | "state":"failed"')
    play.type("S", "h", "hash=")
    return play


def judge_sent(t, number, sent, expected, sums, hint):
    """A round of the guest's: of its pages exactly the expected ones, with what they held."""
    gfns = [gfn for gfn, _ in sent]
    own = [gfn for gfn in gfns if gfn < FIRST]
    missing, more = expected - set(gfns), {gfn for gfn in gfns if gfn >= FIRST} - expected
    if missing or more or len(set(gfns)) != len(gfns):
        return t.fail("round %d: exactly the %d pages that the guest has written since" % (number, len(expected)),
                      "missing: gfn %s" % madeup.some(missing) if missing else "not written since: gfn %s" % madeup.some(more) if more else
                      "a page more than once", hint)
    if len(own) > OWN_MOST:
        return t.fail("round %d: beside these, at most the %d pages that the guest needs for itself" % (number, OWN_MOST),
                      "%d below 2 MiB" % len(own), hint)
    for gfn, crc in sent:
        if gfn >= FIRST and crc != sums.get(gfn):
            return t.fail("round %d: gfn %d with what it holds then" % (number, gfn), "zeros" if crc is None else "other bytes", hint)
    return None


def moving_verify(result):
    play, p = moving_play(result.params), result.params
    t = told(result, play)
    rounds, said = staging.rounds(t.messages())
    writer, written = Writer(p), []
    for number, (seed, size) in enumerate(moving_sizes(p[2]), 1):
        written.append(writer.write(seed, size))
        if number > len(said):
            return t.failure(ROUND_HINT) or t.fail("%d rounds" % len(moving_sizes(p[2])), "%d" % len(said), ROUND_HINT)
        # Round 1 has all pages, and what was written before it counts as dirty in it.
        expected = written[number - 2] if number > 1 else set(range(FIRST, FIRST + p[1]))
        failure = judge_sent(t, number, [e for e in rounds[number - 1] if number > 1 or e[0] >= FIRST], expected, writer.sums(), ROUND_HINT)
        if failure:
            return failure
    failure = judge_sent(t, number + 1, rounds[number], written[-1], writer.sums(), ROUND_HINT) or t.failure()
    if failure:
        return failure
    if t["S"].values("hash") != [writer.hash()]:
        return t.fail("the guest to go on at the source with hash %#x of its memory" % writer.hash(), str(t["S"].values("hash")))
    return None


# --- 5.11: when to stop -----------------------------------------------------------------------------------------------------


def stop_facts(seed):
    """(sizes, downtime, bandwidth, how many rounds run with the guest)"""
    rng = random.Random(seed)
    sizes = [rng.randrange(70, 90)]  # in all less than what a bandwidth is measured with
    for _ in range(3):
        sizes.append(sizes[-1] * rng.randrange(30, 48) // 100)
    rounds = rng.randrange(2, 5)
    bandwidth = rng.randrange(20, 200) << 20
    limit = sizes[rounds - 1] + rng.choice((0, 1, (sizes[rounds - 2] - sizes[rounds - 1]) // 2))  # pages that fit
    return sizes, (limit * PAGE + PAGE // 2) * 10**9 // bandwidth, bandwidth, rounds


def stop_plan(seed):
    sizes, downtime, bandwidth, _ = stop_facts(seed)
    return Plan(seed, sizes, bandwidth, downtime)


def stop_verify(results, params):
    failure = rules.choices(params["rule"][0]).judge(results["rule"])
    if failure:
        return failure
    for name in ("first", "second"):
        result = results[name]
        _, _, _, rounds = stop_facts(params[name][0])
        seen = Seen(result)
        looks = len(seen.looks[0])
        if looks != rounds:
            return Failure("%d rounds while the guest runs: then what is dirty fits into the downtime" % rounds, "%d" % looks + seen.end(),
                           rules.choices(0).hint, result.name)
    return None


# --- 5.12: the last round ---------------------------------------------------------------------------------------------------

LAST_HINT = ("migration_stop(), then once more page_log_fetch(): what was written between the last look and the stop belongs "
             "to the last round, too. With post-copy nothing of it is sent; `left` says what is owed.")
LATE = 20


def last_plan(seed, postcopy=False):
    rng = random.Random(seed)
    size = rng.randrange(60, 100)
    sizes = (size, LATE) if postcopy else (size, size // 3, size // 10, LATE)
    return Plan(seed, sizes, 1 << 30, 0 if postcopy else (size // 6) * PAGE * 10**9 // (1 << 30), postcopy)


def judge_last(plan, seen, result):
    """The last round of the made-up machine."""
    if seen.wrong:
        return Failure("a stream of pages and rounds", seen.wrong, run=result.name)
    failure = judge_rounds(plan, seen, result, 3)
    if failure:
        return failure
    if len(seen.looks[1]) != 1:
        return Failure("one look at the log when the vCPUs stand", "%d; %d while they run%s" % (len(seen.looks[1]), len(seen.looks[0]),
                                                                                                   seen.end()), LAST_HINT, result.name)
    failure = judge_round(plan, seen, 4, plan.fetches[2] | plan.fetches[3], 4, result, LAST_HINT)
    if failure:
        return failure
    if len(seen.said) != 4 or seen.said[3] != (4, len(plan.fetches[2] | plan.fetches[3]), 0) or seen.pages[4]:
        return Failure("round 4 to be the last, with no page dirty behind it", "%s" % (seen.said[3:],), LAST_HINT, result.name)
    return None


def judge_owed(plan, seen, result):
    if seen.wrong or len(seen.said) != 1 or seen.pages[1]:
        return Failure("post-copy: one round, and nothing behind it", seen.wrong or "%d rounds, %d pages behind the first" %
                       (len(seen.said), sum(map(len, seen.pages[1:]))), LAST_HINT, result.name)
    owed = plan.fetches[0] | plan.fetches[1]
    if seen.owed != owed:
        return Failure("post-copy: %d pages owed, written since they were sent or before the stop" % len(owed),
                       "missing: gfn %s" % madeup.some(owed - seen.owed) if owed - seen.owed else
                       "not written: gfn %s" % madeup.some(seen.owed - owed), LAST_HINT, result.name)
    return None


# And a guest that does not stop writing until it is stopped: a pass over its pages, then the next.

STORM = 100


def storm_play(p):
    play = Play()
    begin_moving(play, "--downtime 500 --timeout 60", storm=STORM)
    play.step("await R type 8 instance 0 | S end")
    play.step("poll D.ctl status | pid")
    play.step("end S")
    play.type("D", "", "wrong=")
    return play


def _storm_numbers(base, sums):
    """What the storm's word holds of pages with these CRCs, or None: a CRC is linear in the bits of a word."""
    zero = streamfile.crc32c(base)
    columns = []
    for bit in range(28):
        data = bytearray(base)
        struct.pack_into("<Q", data, 8 * STORM_WORD, 1 << bit)
        columns.append(streamfile.crc32c(data) ^ zero)
    rows = {}  # leading bit -> (vector, which columns)
    for bit, vector in enumerate(columns):
        which = 1 << bit
        while vector:
            lead = vector.bit_length()
            if lead not in rows:
                rows[lead] = vector, which
                break
            vector, which = vector ^ rows[lead][0], which ^ rows[lead][1]
    vector, value = sums ^ zero, 0
    while vector:
        lead = vector.bit_length()
        if lead not in rows:
            return None
        vector, value = vector ^ rows[lead][0], value ^ rows[lead][1]
    return value


def storm_verify(result):
    play, p = storm_play(result.params), result.params
    t = told(result, play)
    rounds, said = staging.rounds(t.messages())
    last = {gfn: crc for sent in rounds for gfn, crc in sent}
    if len(said) < 2:
        return t.failure(LAST_HINT) or t.fail("at least two rounds", "%d" % len(said), LAST_HINT)
    writer, numbers = Writer(p), []
    for i in range(STORM):
        base = bytearray(writer.page(FIRST + i))
        struct.pack_into("<Q", base, 8 * STORM_WORD, 0)
        numbers.append(_storm_numbers(base, last.get(FIRST + i) or streamfile.crc32c(bytes(PAGE))))
    # One pass is under way: pages before some place have its number, those behind it the one before.
    place = next((i for i in range(1, STORM) if numbers[i] != numbers[i - 1]), STORM)
    good = numbers[0] is not None and all(n == numbers[0] for n in numbers[:place]) and all(n == numbers[0] - 1 for n in numbers[place:])
    if not good:
        odd = next((i for i in range(1, STORM) if numbers[i] not in (numbers[i - 1], (numbers[0] or 0) - 1)), 0)
        return t.fail("the pages at the destination as they were at one moment, at which no vCPU ran",
                      "gfn %d is of pass %s, gfn %d before it of pass %s" % (FIRST + odd, numbers[odd], FIRST + odd - 1,
                                                                             numbers[odd - 1]), LAST_HINT)
    if t["D"].values("wrong") and t["D"].values("wrong") != [0]:
        return t.fail("the guest to find all that it has written", "%d pages have not what it wrote" % t["D"].values("wrong")[0], LAST_HINT)
    return None


def last_verify(results, params):
    return (judge_last(last_plan(params["made-up"][0]), Seen(results["made-up"]), results["made-up"]) or
            judge_owed(last_plan(params["owed"][0], True), Seen(results["owed"]), results["owed"]) or storm_verify(results["storm"]))


# --- 5.13: what does not converge -------------------------------------------------------------------------------------------

SLOW_HINT = "slow_down(): migration_throttle() with the rule's percentage; and however precopy() ends, 0 percent behind it."


def slow_plan(seed):
    rng = random.Random(seed)
    size = rng.randrange(60, 90)
    return Plan(seed, [size] * (4 + rng.randrange(3)) + [0, 0])


def slow_throttles(plan):
    """Of each round: the rule, applied to what was sent and what was dirty then."""
    sent, slow, throttle, found = MEMORY, 0, 0, []
    for dirty in (len(pages) for pages in plan.fetches[:-1]):
        found.append(throttle)
        slow = slow + 1 if 2 * dirty > sent else 0
        throttle = rules.next_(sent, dirty, 1 << 30, 0, 0, 0, slow, throttle)[1]
        sent = dirty
    return found + [throttle]


def slow_play(p):
    play = Play()
    begin_moving(play, "--downtime 1 --timeout 2 --bandwidth 2M", storm=STORM)
    play.step('poll S.ctl job | "state":"failed" | "state":"done"')
    play.type("S", "", "wrong=")
    play.type("S", "h", "hash=")
    play.step("end D")
    return play


def slow_verify(results, params):
    result = results["made-up"]
    plan, seen = slow_plan(params["made-up"][0]), Seen(result)
    expected = slow_throttles(plan)
    throttles = [throttle for _, _, throttle in seen.rounds]
    if throttles != expected:
        return Failure("percent that the vCPUs stand still, round by round: %s" % expected, "%s%s" % (throttles, seen.end()), SLOW_HINT,
                       result.name)
    if not seen.then or seen.then[2] != "0":
        return Failure("no throttle behind the last round", "%s percent" % (seen.then[2] if seen.then else "?"), SLOW_HINT, result.name)
    play = slow_play(params["storm"])
    t = told(results["storm"], play)
    failure = t.failure("Behind --timeout: -ETIMEDOUT from precopy(), and the guest runs at the source as before.")
    if failure:
        return failure
    job = t.job(next(n for n in range(1, 99) if play.line(n).startswith("poll S.ctl job")))
    rounds = [r for r in job.get("rounds") or () if isinstance(r, dict)]
    if job.get("state") != "failed" or "time" not in str(job.get("reason")):
        return t.fail("the migration to be given up within its time, with a reason that says so",
                      "%s: %s" % (job.get("state"), job.get("reason")))
    if len(rounds) > 3 and not any(r.get("throttle") for r in rounds):
        return t.fail("the vCPUs slowed down before it is given up", "throttle %s" % [r.get("throttle") for r in rounds], SLOW_HINT)
    if t["S"].values("wrong") != [0] or t["D"].how != "status" or not t["D"].number:
        return t.fail("the guest to go on at the source with what it wrote, and the destination to end with an error",
                      "%s pages wrong; the destination %s %d" % (t["S"].values("wrong"), t["D"].how, t["D"].number))
    return None


CHECKPOINTS = [
    Checkpoint(
        "5.9", "the first round", 5,
        "precopy() has writes logged before it looks at the first page, and sends every page once.",
        "first_round() in precopy.c.",
        runs=[madeup.run("made-up", first_plan)], verify=first_verify, depends=["5.3"]),
    Checkpoint(
        "5.10", "rounds", 8,
        "Each round sends precisely the pages that were written since the last look at the dirty log, as they are then, and "
        "says how many they are; with a guest that writes a seeded pattern, too.",
        "more_rounds() in precopy.c.",
        runs=[madeup.run("made-up", rounds_plan), staging.staged("moving", moving_play)], verify=rounds_verify, depends=["5.4", "5.9"]),
    Checkpoint(
        "5.11", "when to stop", 6,
        "precopy_next() stops, goes on, throttles or gives up as the rule says, and the rounds are as many as it follows from "
        "what is written.",
        "precopy_next() in precopy.c.",
        runs=[streamscript.stream("rule", rules.choices), madeup.run("first", stop_plan), madeup.run("second", stop_plan)],
        verify=stop_verify, depends=["5.10"]),
    Checkpoint(
        "5.12", "the last round", 6,
        "When the rounds are over the vCPUs stand still, and what is dirty then is sent: memory is at the other side as it was "
        "at one moment. With post-copy it is owed.",
        "last_round() in precopy.c.",
        runs=[madeup.run("made-up", last_plan), madeup.run("owed", lambda seed: last_plan(seed, True)),
              staging.staged("storm", storm_play)],
        verify=last_verify, depends=["5.11"]),
    Checkpoint(
        "5.13", "what does not converge", 5,
        "A guest that writes faster than the connection carries is slowed down as the rule says; when the time is over, it "
        "goes on at the source at full speed.",
        "slow_down() and the end of precopy() in precopy.c.",
        runs=[madeup.run("made-up", slow_plan), staging.staged("storm", slow_play)], verify=slow_verify, depends=["5.12"]),
]
