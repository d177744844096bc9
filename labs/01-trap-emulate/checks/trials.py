"""What the guests of checkpoints 1.11 to 1.19 report, and how it is compared: the other half of guests/event.h.

A guest starts a few instructions with registers and a stack that were chosen here, and reports each event that came of
it as the handler found it: vector, stack pointer, the words that were pushed, flags, registers. What all of that has to be
is computed by those who use this module, from the manual and the params.
"""

from dataclasses import dataclass, field
from typing import Optional

from checks import first, printed_by_traps
from model import Failure, Run
from probes import ARITHMETIC, MASK64, after, registers, u64
from signatures import describe_end

DE, DB, BP, UD, DF, TS, NP, SS, GP, PF = 0, 1, 3, 6, 8, 10, 11, 12, 13, 14
ERROR_CODE = (8, 10, 11, 12, 13, 14, 17)  # vectors that push one when the CPU raises them (SDM vol. 3, table 6-1)
FIXED, TF, IF, DFLAG, IOPL, NT, RF, VM = 2, 0x100, 0x200, 0x400, 0x3000, 0x4000, 0x10000, 0x20000
FLAGS_DEFINED = 0x3F7FD7 & ~0x1A0000  # without VM, VIF, VIP
KCODE, KDATA, UDATA, UCODE, TR = 0x10, 0x18, 0x2B, 0x33, 0x38
ABSENT_DATA, ABSENT_CODE, KCODE2 = 0x48, 0x50, 0x58
IDT, EXT = 2, 1  # bits of an error code

# Flags that a handler sees in itself; a deprivileged one is shown IOPL as 0.
ENTRY_FLAGS = ARITHMETIC | DFLAG | IF | TF | NT


# --- what an event should look like ---------------------------------------------------------------------------------------


@dataclass
class Event:
    """rsp, rip, cs, ss, flags: the interrupted program's. stack: where the handler's begins, else rsp."""

    vector: int
    rip: int
    rsp: int
    flags: int
    stack: Optional[int] = None
    cs: int = KCODE
    ss: int = KDATA
    error: Optional[int] = None
    keeps_if: bool = False
    extra: dict = field(default_factory=dict)  # cr2, dr6
    changed: dict = field(default_factory=dict)  # registers
    free: tuple = ()

    @property
    def at(self):
        top = (self.rsp if self.stack is None else self.stack) & ~15 & MASK64
        return top - (40 if self.error is None else 48)


HINTS = {
    "vector": "Which exception is it, and may its gate be used? (SDM vol. 3, 6.15)",
    "at": "The CPU aligns the stack pointer down to 16 bytes, then pushes 5 words of 8 bytes, and a sixth when there is an "
          "error code; on which stack is a matter of the level and the gate.",
    "error": "The error code is pushed last, so it lies lowest. (SDM vol. 3, 6.13)",
    "rip": "The frame of a fault points at the instruction, that of a trap or INT n behind it.",
    "cs": "The low two bits of CS are the privilege level.",
    "rflags": "The frame holds the flags as they were before the handler's were made of them.",
    "rsp": "The frame holds the old stack pointer as it was, not aligned.",
    "ss": "After a change to a more privileged level SS is null; otherwise it stays. (SDM vol. 3, 6.14.4)",
    "entry": "An interrupt gate clears IF, a trap gate leaves it; both clear TF and NT. (SDM vol. 3, 6.12.1.3)",
}


def differs(result, key, what, expected, seen, hint=None):
    if expected == seen:
        return None
    text = "%s: %s = %%x" % (key, what)
    return Failure(text % expected, text % seen if seen is not None else "%s: no %s" % (key, what), hint or HINTS.get(what),
                   result.name, exact=True)


def event(result, key, e, before, hint=None):
    """One event of a trial. key: the trial's name and the event's number."""
    lines = result.lines

    def one(what):
        return lines.get("%s.%s" % (key, what), [None])[0]

    frame = lines.get(key + ".frame", [])
    names = ["rip", "cs", "rflags", "rsp", "ss"]
    values = [e.rip, e.cs, e.flags | FIXED, e.rsp, e.ss]
    if e.error is not None:
        names, values = ["error"] + names, [e.error] + values
    if len(frame) < len(names):
        return Failure("a report of event `%s`" % key, "none; " + describe_end(result), hint, result.name)
    # RF is no flag of the program's, and hosts differ in when they set it in a frame.
    seen = [word & ~RF if name == "rflags" else word for name, word in zip(names, frame)]
    cleared = TF | NT | (0 if e.keeps_if else IF)
    entry = one("entry")
    found = [differs(result, key, "vector", e.vector, one("vector"), hint)]
    found += [differs(result, key, *item, hint) for item in zip(names, values, seen)]
    found.append(differs(result, key, "at", e.at, one("at")))  # last: a frame of the wrong event lies elsewhere too
    found.append(differs(result, key, "entry", e.flags & ~cleared & ENTRY_FLAGS,
                         None if entry is None else entry & ENTRY_FLAGS))
    found += [differs(result, key, name, value, one(name), hint) for name, value in e.extra.items()]
    found.append(after(result, key, before, hint or "An exception changes no general register.", e.free,
                       flags=e.flags & (ARITHMETIC | DFLAG), **e.changed))
    return first(*found)


def trial(result, name, seed, events, flags, hint=None, **given):
    """All events of a trial, in order. flags: at its beginning. given: registers that were set after the seed's were."""
    before = registers(seed, **given)
    before["flags"] = flags & (ARITHMETIC | DFLAG)
    seen = result.lines.get(name + ".events", [])
    found = [event(result, "%s%d" % (name, i), e, before, hint) for i, e in enumerate(events)]
    if seen != [len(events)]:
        found.append(Failure("%d events in `%s`" % (len(events), name),
                             "%d" % seen[0] if seen else "no report; " + describe_end(result), hint, result.name))
    return first(*found)


class Trials:
    """The trials of a guest in its order: seed and stack pointer grow by one from each to the next."""

    def __init__(self, result, params, rsp0=None, arithmetic=ARITHMETIC):
        self.result, self.params, self.rsp0 = result, params, rsp0
        self.seed, self.code, self.stack = params[:3]
        self.next, self.found = 0, []
        self.arithmetic = arithmetic  # which of the seed's flags a trial begins with

    def start(self, flags=IF, user=False, rsp=None):
        """The next trial begins with these flags beside the seed's."""
        self.rsp = self.stack + self.next if rsp is None else rsp
        self.now = self.seed + self.next & MASK64
        self.flags, self.user = self.now & self.arithmetic | FIXED | flags, user
        self.next += 1

    def event(self, vector, at=0, error=None, **other):
        """An event of the present trial's program, at an offset of its code."""
        where = {"rip": self.code + at, "rsp": self.rsp, "flags": self.flags}
        if self.user:
            where.update(cs=UCODE, ss=UDATA, stack=self.rsp0)
        where.update(other)
        return Event(vector, error=error, **where)

    def expect(self, name, *events, hint=None, **given):
        self.found.append(trial(self.result, name, self.now, events, self.flags, hint, **given))

    def one(self, name, vector, at=0, error=None, hint=None, flags=IF, given=None, **other):
        """The next trial, when it has one event."""
        self.start(flags)
        self.expect(name, self.event(vector, at, error, **other), hint=hint, **(given or {}))

    def verdict(self, *more):
        return first(*self.found, *more)

    def all_printed(self):
        """Every character came out of the guest by a trap of its own."""
        return printed_by_traps(self.result, self.result.output)


# --- where a guest's things lie, chosen anew each time --------------------------------------------------------------------


def place(rng, low_mib, high_mib, aligned=1):
    """An address in guest memory, not aligned unless so wished, and at a distance of the end of the range."""
    return rng.randrange(low_mib << 20, (high_mib << 20) - 0x10000, aligned)


def base_params(rng):
    """SEED, CODE, STACK: the guests' first three."""
    return [u64(rng), place(rng, 4, 16), place(rng, 20, 30) | 1]


def non_canonical(rng):
    return rng.randrange(1 << 47, (1 << 64) - (1 << 47)) & ~7


def beyond_memory(rng):
    """A canonical address above 4 GiB, with nothing mapped. The last 2 MiB, where hv's monitor hides, are no exception."""
    top = 1 << 64
    low, high = rng.choice(((4 << 30, 1 << 47), (top - (1 << 47), top - (4 << 20)), (top - (2 << 20), top - 0x10000)))
    return rng.randrange(low, high - 0x10000) & ~0xFFF | 0x100


def guest(name, verify_name, params, **other):
    return Run(verify_name, "lab1/%s.elf" % name, params=params, **other)
