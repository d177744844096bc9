"""Checkpoints 5.14 to 5.17: who has the VM. A guest moves through a relay that cuts, delays and damages what is said, and the
guest, wherever it runs then, tells what it finds in its memory."""

import random

import rules
import staging
import streamfile
import streamscript
from model import Checkpoint, Failure
from staging import Play, told
from streamfile import ACCEPT, ANSWER, ASK, COMMIT, COMMITTED, CONFIG, END, PAGES, PART, READY, ROUND
from writer import Writer

VM = "--engine kvm --mem 4M"
ENDED = '"state":"failed" | "state":"done" | "state":"standing"'


class Journey:
    """Plays in which a guest moves again and again, and the oracle of its memory."""

    def __init__(self, p):
        self.play, self.writer = Play(), Writer(p)
        self.rng, self.moves, self.hashes = random.Random(p[2]), 0, []  # hashes: (who, what it must say)
        self.play.vm("A", VM)
        self.play.step("await A ready")
        self.at = "A"  # who has the VM

    def write(self):
        seed, count = self.rng.getrandbits(60), self.rng.randrange(5, 40)
        self.play.type(self.at, "w %d %d" % (seed, count), "wrote=")
        self.writer.write(seed, count)

    def begin(self, faults="", options="", vm=VM):
        """A destination, a relay with faults, and the migration. Returns both names."""
        self.moves += 1
        d, r = "ABCDEFGHIJKLMN"[self.moves], "R%s" % chr(ord("a") + self.moves)
        play = self.play
        play.incoming(d, "unix:%s.sock" % d, vm)
        play.step("relay %s %s.sock %s.sock %s" % (r, r, d, faults))
        play.step("there %s.sock" % d)
        play.step("there %s.sock" % r)
        self.write()
        play.step("ask %s.ctl migrate unix:%s.sock --detach --downtime 300 --timeout 60 %s" % (self.at, r, options))
        return d, r

    def stays(self, d, ends=True):
        """The migration has failed: the guest goes on where it was, and the destination ends; at once, or when nobody has come to ask."""
        self.play.step("poll %s.ctl job | %s" % (self.at, ENDED))
        self.write()
        self.hash()
        if ends:
            self.play.step("end %s" % d)

    def moved(self, d):
        """It has moved: it goes on at the destination, and the source ends."""
        self.play.step("poll %s.ctl job | %s" % (self.at, ENDED))
        self.play.step("end %s" % self.at)
        self.at = d
        self.write()
        self.hash()

    def hash(self):
        self.play.type(self.at, "h", "hash=")
        self.hashes.append((self.at, self.writer.hash()))

    def judge(self, t, hint):
        """What the guest said everywhere: at each place exactly the hashes that it must have."""
        for name in dict.fromkeys(name for name, _ in self.hashes):
            expected = [value for who, value in self.hashes if who == name]
            seen = t[name].values("hash")
            for number, (e, s) in enumerate(zip(expected, seen), 1):
                if e != s:
                    return t.fail("hash %d of the guest's memory at %s: %#x" % (number, name, e), "%#x" % s, hint)
            if len(seen) > len(expected):
                return t.fail("the guest to answer at %s %d times" % (name, len(expected)), "%d times" % len(seen), hint)
        return t.failure(hint)


def ended_badly(t, names, hint):
    """These have ended, with an error and a sentence."""
    for name in names:
        p = t[name]
        if p.how == "killed":
            continue  # it was not waited for
        if p.how != "status" or not p.number or b"hv: " not in p.err:
            return t.fail("the destination %s to end with an error and a sentence" % name, "%s %d" % (p.how, p.number), hint)
    return None


def order(t, relay, expected, hint):
    """Messages in this order: (whether the source says it, type)."""
    said = [(m.source, m.type) for m in t.messages(relay)]
    at = 0
    for source, type_ in expected:
        place = next((i for i in range(at, len(said)) if said[i] == (source, type_)), None)
        what = "%s from the %s" % (streamfile.NAMES[type_], "source" if source else "destination")
        if place is None:
            if (source, type_) in said:
                return t.fail(what + " behind what it answers", "it came before %s" % ", ".join(
                    streamfile.NAMES.get(type_, "header") for _, type_ in said[said.index((source, type_)) + 1 :][:3]), hint)
            return t.fail(what, "it was never said", hint)
        at = place + 1
    return None


# --- 5.14: the commit -------------------------------------------------------------------------------------------------------

COMMIT_HINT = ("The source waits for READY before it says COMMIT, and for COMMITTED before it ends; the destination says READY "
               "when everything is loaded, and runs when COMMIT has come, not before.")


def commit_journey(p):
    j = Journey(p)
    d, r = j.begin("--times 1 --fault S:%d wait=500" % COMMIT)
    j.play.step("await %s fault | end" % r)
    j.play.type(d, "h")
    j.play.type(j.at, "h")
    j.play.step("silent %s 150" % d)
    j.play.step("silent %s 150" % j.at)
    j.play.step("answer %s hash=" % d)
    j.hashes.append((d, j.writer.hash()))
    j.moved(d)
    return j


def commit_verify(results, params):
    j = commit_journey(params["move"])
    t = told(results["move"], j.play)
    for type_ in (READY, COMMIT, COMMITTED):
        said = [m.type for m in t.messages("Rb")].count(type_)
        if said > 1:
            return t.fail("%s said once" % streamfile.NAMES[type_], "%d times" % said, COMMIT_HINT)
    return (order(t, "Rb", [(True, CONFIG), (False, ACCEPT), (True, PAGES), (True, ROUND), (True, PART), (True, END),
                            (False, READY), (True, COMMIT),
                            (False, COMMITTED)], COMMIT_HINT) or j.judge(t, COMMIT_HINT) or _gone(t, "A", COMMIT_HINT))


def _gone(t, name, hint):
    p = t[name]
    if not p.ended_well:
        return t.fail("the source %s to end with status 0 when the VM has moved" % name, "%s %d" % (p.how, p.number), hint)
    return None


# --- 5.15: before the commit ------------------------------------------------------------------------------------------------

ABORT_HINT = ("Before any part of COMMIT has left, the VM is the source's: whatever breaks, it goes on there (FATE_RUN), and "
              "the destination ends (FATE_END).")


def abort_journey(p):
    j = Journey(p)
    rng = random.Random(p[2] ^ 1)
    places = ["D%d cut" % rng.randrange(2), "S%d cut" % rng.randrange(1, 8), "S:%d cut" % PART,
              "S:%d flip=%d" % (PART, 8 * 24 + rng.randrange(8 * 8)),
              "S@%d cut" % rng.randrange(40, 100_000)]
    places = [*rng.sample(places, 3), "S:%d cut" % END, "D:%d cut" % READY]
    rng.shuffle(places)
    for place in places:
        j.stays(j.begin("--times 1 --fault " + place)[0], not place.startswith("D:%d" % READY))
    d, _ = j.begin("--times 1", vm="--engine kvm --mem 8M")  # it cannot take such a machine
    j.stays(d)
    return j


def abort_verify(results, params):
    j = abort_journey(params["aborts"])
    t = told(results["aborts"], j.play)
    return j.judge(t, ABORT_HINT) or ended_badly(t, "BCDEFG", ABORT_HINT)


# --- 5.16: behind the commit ------------------------------------------------------------------------------------------------

ASK_HINT = ("Behind COMMIT nobody may guess. record_take(): 1, the VM is the source's again; 0, the destination has it; else "
            "migration_ask(). The destination commits with record_commit(), which tells it when the source was faster.")


def record_journey(p):
    """COMMIT is lost: the source takes it back. COMMITTED is lost: the record says so."""
    j = Journey(p)
    d, _ = j.begin("--times 1 --fault S:%d cut" % COMMIT)
    j.stays(d, False)
    d, _ = j.begin("--times 1 --fault D:%d cut" % COMMITTED)  # cut behind COMMIT, and whoever is faster would have it
    j.moved(d)
    return j


def ask_journey(p):
    """The same without a record that the source could see: it connects again, asks, and says COMMIT once more; or hears that it
    was done."""
    j = Journey(p)
    for fault in ("S:%d cut" % COMMIT, "D:%d cut" % COMMITTED):
        j.moved(j.begin("--times 2 --fault D:%d empty --fault %s" % (ACCEPT, fault))[0])
    return j


def behind_verify(results, params):
    j = record_journey(params["record"])
    t = told(results["record"], j.play)
    failure = j.judge(t, ASK_HINT) or ended_badly(t, "B", ASK_HINT) or _gone(t, "A", ASK_HINT)
    if failure:
        return failure
    j = ask_journey(params["ask"])
    t = told(results["ask"], j.play)
    return (j.judge(t, ASK_HINT) or order(t, "Rb", [(True, END), (False, READY), (True, COMMIT), (True, ASK), (False, ANSWER),
                                                    (True, COMMIT),
                                                      (False, COMMITTED)], ASK_HINT) or
            order(t, "Rc", [(True, COMMIT), (False, COMMITTED), (True, ASK), (False, ANSWER)], ASK_HINT) or
            _gone(t, "A", ASK_HINT) or _gone(t, "B", ASK_HINT))


# --- 5.17: the failure table ------------------------------------------------------------------------------------------------


def table_verify(results, params):
    return rules.fates(params["table"][0]).judge(results["table"]) or streamscript.ended(results["table"])


CHECKPOINTS = [
    Checkpoint(
        "5.14", "the commit", 7,
        "END, READY, COMMIT, COMMITTED: the VM goes on at the destination when the source has given it away, with all that it "
        "has written, and the source ends.",
        "commit_source() and commit_destination() in commit.c.",
        runs=[staging.staged("move", lambda p: commit_journey(p).play)], verify=commit_verify, depends=["5.12"]),
    Checkpoint(
        "5.15", "what breaks before the commit", 6,
        "The connection is cut at the boundaries of messages and within, a byte is damaged, the destination refuses: each time "
        "the VM goes on at the source with all that it has written, and can be moved again.",
        "commit_source() and commit_fate() in commit.c.",
        runs=[staging.staged("aborts", lambda p: abort_journey(p).play, timeout=25.0)], verify=abort_verify, depends=["5.14"]),
    Checkpoint(
        "5.16", "what breaks behind the commit", 7,
        "A connection that breaks behind COMMIT: the record tells who has the VM or, where there is none that both sides see, "
        "a question does.",
        "inquire() and commit_source() in commit.c.",
        runs=[staging.staged("record", lambda p: record_journey(p).play), staging.staged("ask", lambda p: ask_journey(p).play)],
        verify=behind_verify, depends=["5.15"]),
    Checkpoint(
        "5.17", "the failure table", 6,
        "commit_fate() knows who runs for each stage and each piece of news, and never lets both.",
        "commit_fate() in commit.c.",
        runs=[streamscript.stream("table", rules.fates)], verify=table_verify),
]
