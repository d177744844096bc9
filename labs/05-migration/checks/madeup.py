"""Pre-copy of the machine that `hv stream` makes up (`precopy`, `write`): what its guest writes between two looks at the dirty
log is drawn here, so each page of each round is known, and what it holds."""

import functools
import random
import re

import staging
import streamfile
import streamscript
from model import Failure
from streamfile import PAGE
from streamscript import OUT, Script, filling

MEMORY = (16 << 20) // PAGE  # pages of `hv stream`
RUNS = 8        # of pages that are written between two looks

_EVENT = re.compile(r"^  (log on|log off|fetch) stands ([01]) bytes (\d+)$", re.M)
_ROUND = re.compile(r"^  round (\d+) pages (\d+) dirty (\d+) throttle (\d+)$", re.M)
_THEN = re.compile(r"^  then stands ([01]) throttle (\d+)$", re.M)
_OWED = re.compile(r"^  owed (\d+)$", re.M)


@functools.lru_cache(maxsize=None)
def _sum(data):
    return streamfile.crc32c(data)


class Plan:
    """A migration. sizes: how many pages are written before each look at the log, after the one before. downtime: ns, 0: the
    rounds end when nothing is dirty. bandwidth: bytes/s."""

    def __init__(self, seed, sizes, bandwidth=1 << 30, downtime=0, postcopy=False):
        self.rng, self.script, self.fetches = random.Random(seed), Script(), []
        self.versions = {}  # gfn -> [(look at the log before which it was written, its bytes)], in this order
        for _ in range(4):
            self._write(0, self.rng.randrange(MEMORY - 16), self.rng.randrange(1, 16))
        for look, size in enumerate(sizes, 1):
            self.fetches.append(self._look(look, size))
        self.script.does("out %s 0 0" % OUT)
        self.script.does("begin %d 0" % (self.rng.getrandbits(60) | 1))
        self.script.add("precopy %d %d %d" % (bandwidth, downtime, postcopy))
        self.script.does("close")

    def _write(self, look, gfn, count):
        seed = self.rng.getrandbits(40)
        self.script.add("write %d %d %d %d" % (look, gfn, count, seed) if look else "fill %d %d %d" % (gfn, count, seed))
        data = filling(seed, count * PAGE)
        for i in range(count):
            self.versions.setdefault(gfn + i, []).append((look, data[i * PAGE : (i + 1) * PAGE]))
        return set(range(gfn, gfn + count))

    def _look(self, look, size):
        pages, used = set(), sorted(self.versions)
        cuts = sorted(self.rng.sample(range(1, size), min(RUNS, size) - 1)) if size else []
        for count in [b - a for a, b in zip([0, *cuts], [*cuts, size])] if size else []:
            gfn = self.rng.choice(used) if self.rng.randrange(2) else self.rng.randrange(MEMORY)
            gfn = min(gfn, MEMORY - count)
            while pages & set(range(gfn, gfn + count)):
                gfn = self.rng.randrange(MEMORY - count)
            pages |= self._write(look, gfn, count)
        return pages

    def page(self, gfn, look):
        """Its bytes behind that look, None for zeros."""
        return next((data for when, data in reversed(self.versions.get(gfn, ())) if when <= look), None)

    def sum(self, gfn, look):
        """The CRC-32C of that."""
        data = self.page(gfn, look)
        return data and _sum(data)


class Seen:
    """What a run of a plan showed."""

    def __init__(self, result):
        self.hv, messages, self.wrong = streamscript.seen_written(result)
        text = self.hv.output.decode("ascii", "replace")
        self.events = [(what, stands == "1", int(at)) for what, stands, at in _EVENT.findall(text)]
        self.rounds = [(int(pages), int(dirty), int(throttle)) for _, pages, dirty, throttle in _ROUND.findall(text)]
        self.owed = {int(gfn) for gfn in _OWED.findall(text)}
        self.then = _THEN.search(text)
        self.pages, self.said = staging.rounds(messages)  # of each round: (gfn, its CRC-32C or None); (number, pages, dirty) of ROUND
        if not self.wrong and len(messages) <= 1:
            self.wrong = "an empty one"

    def end(self):
        """How hv ended, if not well, behind a semicolon."""
        failure = streamscript.ended(self.hv)
        return "; " + failure.seen if failure else ""

    @property
    def looks(self):
        """Fetches of the log before the machine stood, and then."""
        return ([e for e in self.events if e[0] == "fetch" and not e[1]], [e for e in self.events if e[0] == "fetch" and e[1]])


def some(gfns, most=4):
    gfns = sorted(gfns)
    return ", ".join("%d" % gfn for gfn in gfns[:most]) + (", ... (%d in all)" % len(gfns) if len(gfns) > most else "")


def judge_round(plan, seen, number, expected, look, result, hint):
    """Round `number` (from 1) has exactly these pages, each once, with what they held behind that look at the log."""
    what = "round %d: " % number
    if number > len(seen.pages) or (number > len(seen.said) + 1):
        return Failure(what + "%d pages" % len(expected), "there is no such round" + seen.end(), hint, result.name)
    sent = [gfn for gfn, _ in seen.pages[number - 1]]
    if len(set(sent)) != len(sent):
        twice = {gfn for gfn in sent if sent.count(gfn) > 1} if len(sent) < 5000 else set()
        return Failure(what + "each page once", "more than once: gfn %s" % some(twice), hint, result.name)
    missing, more = expected - set(sent), set(sent) - expected
    if missing or more:
        return Failure(what + "exactly the %d pages that were written since the last look at the log" % len(expected) if number > 1 else
                       what + "all %d pages" % len(expected),
                       "missing: gfn %s" % some(missing) if missing else "not written since: gfn %s" % some(more), hint, result.name)
    for gfn, crc in seen.pages[number - 1]:
        if crc != plan.sum(gfn, look):
            return Failure(what + "gfn %d with what it holds then" % gfn, "zeros" if crc is None else "other bytes", hint, result.name)
    return None


def run(name, plan):
    """plan(seed) gives the Plan."""
    return streamscript.written(name, lambda seed: plan(seed).script)
