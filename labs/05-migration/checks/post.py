"""Checkpoints 5.19 to 5.21, the extension: memory that follows the VM. The relay counts which pages pass when, and the guest
says what it finds."""

import random

import staging
import streamfile
from model import Checkpoint
from staging import Play, told
from streamfile import COMMITTED, DONE, HAVE, NEED, OWED, PAGES
from writer import FIRST, Writer

VM = "--engine kvm --mem 4M"
COUNT = 250  # pages of the guest
ENDED = '"state":"failed" | "state":"done" | "state":"standing"'
SLOW = "1M"
ON_THE_WAY = 64  # pages between a question and its answer: the relay and the sockets hold some pieces
STORM = 100


def numbers(rng):
    """Without KVM's clock: KVM looks at its page as soon as it knows where it is, when the page may still be owed."""
    return staging.numbers(rng, COUNT) + [1]


def begin(options, seed=None):
    """A guest that moves; with a seed, it writes 300 words when its log is on, and so owes these pages."""
    play = Play()
    play.incoming("D", "unix:d.sock", VM)
    play.vm("S", VM)
    play.step("relay R r.sock d.sock --times 1")
    play.step("there r.sock")
    play.step("there d.sock")
    play.step("await S ready")
    if seed is None:
        play.type("S", "s 0 %d" % STORM, "storm")
    play.step("ask S.ctl migrate unix:r.sock --detach --mode postcopy %s" % options)
    if seed is not None:
        play.step('poll S.ctl job | "waits_for_step":true')
        play.type("S", "w %d 300" % seed, "wrote=")
        play.step("ask S.ctl migrate-step")
        play.step("await R type %d instance 0 | S end" % COMMITTED)
    return play


def seeds(p):
    rng = random.Random(p[2])
    return rng.getrandbits(60), rng.getrandbits(60)


def behind(messages):
    """What was said behind the commit."""
    at = next((i for i, m in enumerate(messages) if m.type == COMMITTED), len(messages))
    return messages[at + 1 :]


def gfns(messages):
    return [gfn for m in messages if m.source and m.type == PAGES for gfn in range(m.gfn, m.gfn + m.count)]


def owed(messages):
    bits = int.from_bytes(next((m.payload for m in messages if m.type == OWED), b""), "little")
    return {gfn for gfn in range((4 << 20) // streamfile.PAGE) if bits >> gfn & 1}


def judge_once(t, sent, expected, hint):
    missing, more = expected - set(sent), set(sent) - expected
    if missing or more or len(sent) != len(set(sent)):
        return t.fail("each of the %d pages that are owed exactly once" % len(expected),
                      "%d are missing" % len(missing) if missing else "%d were not owed" % len(more) if more else
                      "%d come twice" % (len(sent) - len(set(sent))), hint)
    return None


# --- 5.19: those first that somebody waits for ------------------------------------------------------------------------------

URGENT_HINT = ("postcopy_fault(): MSG_NEED, once for each page that is owed; serve(): that page at once, before more of the "
               "background; put(): into its place.")


def urgent_play(p):
    first, second = seeds(p)
    play = begin("--step --bandwidth " + SLOW, first)
    play.type("D", "w %d 40" % second, "wrote=")
    play.type("D", "h", "hash=")
    return play


def urgent_verify(results, params):
    result, p = results["urgent"], params["urgent"]
    play = urgent_play(p)
    t = told(result, play)
    messages = t.messages()
    writer, asked, waits = Writer(p), {}, []
    writer.write(seeds(p)[0], 300)
    touched = writer.write(seeds(p)[1], 40)
    for m in behind(messages):
        if m.type == NEED and not m.source:
            for at in range(0, len(m.payload), 8):
                gfn = int.from_bytes(m.payload[at : at + 8], "little")
                if gfn in asked:
                    return t.fail("each page asked for once", "gfn %d twice" % gfn, URGENT_HINT)
                asked[gfn] = 0
        elif m.source and m.type == PAGES:
            for gfn in [gfn for gfn, wait in asked.items() if wait is not None]:
                if m.gfn <= gfn < m.gfn + m.count:
                    waits.append(asked[gfn])
                    asked[gfn] = None
                else:
                    asked[gfn] += m.count
    if waits and max(waits) > ON_THE_WAY:
        return t.fail("a page that is asked for to come at once, behind at most %d others that were on their way" % ON_THE_WAY,
                      "behind %d" % max(waits), URGENT_HINT)
    failure = t.failure(URGENT_HINT)
    if failure:
        return failure
    if not asked or not set(asked) <= owed(messages):
        return t.fail("pages asked for that the guest touches, of those that are owed", "%d asked for, %d of them not owed" %
                      (len(asked), len(set(asked) - owed(messages))), URGENT_HINT)
    if t["D"].values("hash") != [writer.hash()]:
        return t.fail("the guest to find its memory at the destination: hash %#x" % writer.hash(), str(t["D"].values("hash")), URGENT_HINT)
    return None if touched else t.fail("pages touched", "none")


# --- 5.20: all of them, once, and the end -----------------------------------------------------------------------------------

ONCE_HINT = ("background(): what is taken out of m->owed before it is sent cannot go twice. When none is left: MSG_DONE, and "
             "the other side's; done(): only when none is missing.")


def once_play(p):
    play = begin("--bandwidth 2M")
    play.step("poll S.ctl job | %s" % ENDED)
    play.step("end S")
    play.type("D", "", "wrong=")
    play.step("await R S end | D end")
    return play


def asked_play(p):
    """Pages here and there go before their turn, which comes all the same."""
    first, second = seeds(p)
    play = begin("--step --bandwidth 1M", first)
    play.type("D", "w %d 40" % second, "wrote=")
    play.step("poll S.ctl job | %s" % ENDED)
    play.step("end S")
    play.step("await R S end | D end")
    return play


def once_verify(results, params):
    t = told(results["asked"], asked_play(params["asked"]))
    failure = t.failure(ONCE_HINT) or judge_once(t, gfns(behind(t.messages())), owed(t.messages()), ONCE_HINT)
    if failure:
        return failure
    t = told(results["storm"], once_play(params["storm"]))
    messages = t.messages()
    expected = owed(messages)
    # What the storm wrote since the first round: the guest does not stop.
    if expected and not {FIRST + i for i in range(STORM)} <= expected:
        return t.fail("what the guest has written owed",
                      "%d pages of it are not" % len({FIRST + i for i in range(STORM)} - expected), ONCE_HINT)
    failure = t.failure(ONCE_HINT) or judge_once(t, gfns(behind(messages)), expected, ONCE_HINT)
    if failure:
        return failure
    ends = [m.source for m in messages if m.type == DONE]
    if ends != [True, False]:
        return t.fail("DONE from the source, then from the destination", "%s" % ["source" if e else "destination" for e in ends], ONCE_HINT)
    if t["D"].values("wrong") != [0]:
        return t.fail("the guest to find all that it has written", "%s pages have not what it wrote" % t["D"].values("wrong"), ONCE_HINT)
    if not t["S"].ended_well:
        return t.fail("the source to end with status 0", "%s %d" % (t["S"].how, t["S"].number), ONCE_HINT)
    return None


# --- 5.21: a connection that breaks -----------------------------------------------------------------------------------------

AGAIN_HINT = ("postcopy_rejoin(): MSG_HAVE first, then MSG_NEED for what was asked for and has not come; postcopy_recount(): "
              "what the destination does not have is owed, whatever was sent.")


def again_play(p):
    first, _ = seeds(p)
    play = begin("--step --bandwidth " + SLOW, first)
    play.step("await R type %d | S end" % PAGES)
    play.step("rest %d" % (p[2] % 150))
    play.step("kill R")
    play.step('poll S.ctl job | "broken":true | ' + ENDED)
    play.step("type D h")
    play.step("silent D 100")
    play.step("relay Q q.sock d.sock --times 1")
    play.step("there q.sock")
    play.step("ask S.ctl migrate-resume unix:q.sock")
    play.step("poll S.ctl job | " + ENDED)
    play.step("answer D hash=")
    play.step("end S")
    return play


def again_verify(results, params):
    result, p = results["broken"], params["broken"]
    t = told(result, again_play(p))
    failure = t.failure(AGAIN_HINT)
    if failure:
        return failure
    before, then = t.messages("R"), t.messages("Q")
    said = [m.type for m in then if not m.source and m.type]
    if not said or said[0] != HAVE:
        return t.fail("HAVE, before anything else, from the destination on the new connection",
                      str([streamfile.NAMES.get(s, s) for s in said[:3]]),
                      AGAIN_HINT)
    have = int.from_bytes(next(m.payload for m in then if m.type == HAVE), "little")
    missing = {gfn for gfn in owed(before) if not have >> gfn & 1}
    # The guest adds its pages up from the first on, so it waits for the first that is missing, if not for one of its own.
    waits = min((gfn for gfn in missing if gfn >= FIRST), default=0)
    asked = next((int.from_bytes(m.payload[:8], "little") for m in then if m.type == NEED), None)
    if said[1:2] != [NEED] or asked > waits:
        return t.fail("NEED behind HAVE for the page that the guest waits for, gfn %d" % waits,
                      "it is not asked for" if asked is None else "gfn %d is asked for first" % asked, AGAIN_HINT)
    lied = owed(before) - missing - set(gfns(behind(before)))
    if lied:
        return t.fail("HAVE to name pages that have come", "gfn %d never did" % min(lied), AGAIN_HINT)
    failure = judge_once(t, gfns(then), missing, AGAIN_HINT)
    if failure:
        return failure
    writer = Writer(p)
    writer.write(seeds(p)[0], 300)
    if t["D"].values("hash") != [writer.hash()] or t["S"].values("hash"):
        return t.fail("the guest to find its memory at the destination: hash %#x" % writer.hash(), "%s; at the source: %s" %
                      (t["D"].values("hash"), t["S"].values("hash")), AGAIN_HINT)
    return None


CHECKPOINTS = [
    Checkpoint(
        "5.19", "those first that somebody waits for", 4,
        "Extension. A VM that has moved with its memory behind it asks for a page that it needs, once, and gets it before all others.",
        "postcopy_fault(), serve(), postcopy_send() and postcopy_receive() in postcopy.c.",
        runs=[staging.staged("urgent", urgent_play, numbers)], verify=urgent_verify, depends=["5.14"]),
    Checkpoint(
        "5.20", "each page once, and the end", 5,
        "Extension. All pages follow, each exactly once, while the guest writes; then both sides say so, and the source ends.",
        "background() and done() in postcopy.c.",
        runs=[staging.staged("storm", once_play, numbers), staging.staged("asked", asked_play, numbers)],
        verify=once_verify, depends=["5.19"]),
    Checkpoint(
        "5.21", "another connection", 5,
        "Extension. The connection breaks while memory follows: the guest waits for what it needs, and over another connection "
        "gets exactly what has not come.",
        "postcopy_rejoin() and postcopy_recount() in postcopy.c.",
        runs=[staging.staged("broken", again_play, numbers)], verify=again_verify, depends=["5.20"]),
]
