"""Checkpoints 1.11 to 1.19: exceptions, interrupts, user mode.

The guests start a few instructions with registers and stack that were chosen here, and report each event that came of it as the
handler found it: vector, stack pointer, the words that were pushed, flags, registers. What all of that has to be is computed
here, from the manual and the params.
"""

import os
import re
from dataclasses import dataclass, field
from typing import Optional

from checks import first, printed_by_traps, reported, trapped
from elf import Elf
from model import HV_STOPPED, Checkpoint, Failure, Run
from probes import ARITHMETIC, MASK64, after, registers, u64
from signatures import describe_end
from system_faults import FAULT_RUNS, verify_faults

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
    "at": "The CPU aligns the stack pointer down to 16 bytes, then pushes 5 words of 8 bytes, and a sixth when the exception has an error code.",
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
    found = [differs(result, key, "vector", e.vector, one("vector"), hint), differs(result, key, "at", e.at, one("at"))]
    found += [differs(result, key, *item, hint) for item in zip(names, values, seen)]
    found.append(differs(result, key, "entry", e.flags & ~cleared & ENTRY_FLAGS, entry & ENTRY_FLAGS if entry is not None else None))
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


# --- where a guest's things lie, chosen anew each time ------------------------------------------------------------------------


def place(rng, low_mib, high_mib, aligned=1):
    """An address in guest memory, not aligned unless so wished, and at a distance of the end of the range."""
    return rng.randrange(low_mib << 20, (high_mib << 20) - 0x10000, aligned)


def base_params(rng):
    """SEED, CODE, STACK: the guests' first three."""
    seed = u64(rng)
    # The flags of neighbouring seeds differ in the lowest bits only; the high ones stay, so let them be mixed.
    return [seed & ~0xFF, place(rng, 4, 16), place(rng, 20, 30) | 1]


def non_canonical(rng):
    return rng.randrange(1 << 47, (1 << 64) - (1 << 47)) & ~7


def beyond_memory(rng):
    """A canonical address above 4 GiB, where nothing is mapped; the hypervisor's own part of the address space is no exception."""
    low, high = rng.choice(((4 << 30, 1 << 47), ((1 << 64) - (1 << 47), (1 << 64) - (4 << 20)), ((1 << 64) - (2 << 20), (1 << 64) - 0x10000)))
    return rng.randrange(low, high - 0x10000) & ~0xFFF | 0x100


# --- 1.11 -----------------------------------------------------------------------------------------------------------------

# Opcodes that 64-bit mode does not have (SDM vol. 2, appendix A).
INVALID = (b"\x0f\x0b", b"\x06", b"\x0e", b"\x16", b"\x1e", b"\x27", b"\x2f", b"\x37", b"\x3f", b"\x60", b"\x61", b"\xce", b"\xd4\x0a")


def exception_params(rng):
    new_flags = rng.getrandbits(64) & ~(TF | NT | RF | 0x1A0000) | 0x8028
    return base_params(rng) + [int.from_bytes(rng.choice(INVALID).ljust(8, b"\x90"), "little"), rng.randrange(1, 4),
                               rng.choice((0xE, 0xF)), new_flags, place(rng, 34, 40)]


def exception_verify(results, params):
    r, p = results["exception"], params["exception"]
    _, rpl, div_gate, new_flags, new_stack = p[3:8]
    t = Trials(r, p)
    handler, other = 64, 128
    t.one("interrupt", UD)
    t.one("trap", UD, keeps_if=True, flags=IF | DFLAG)
    t.one("off", UD, keeps_if=True, flags=0)
    t.one("divide", DE, keeps_if=div_gate == 0xF, given={"rcx": 0})
    t.start()
    t.expect("marked", t.event(UD, 9, flags=t.flags | TF | NT, keeps_if=True))

    t.start()
    outer = t.event(UD)
    t.expect("nested", outer, Event(UD, t.code + handler, outer.at, t.flags & ~IF),
             hint="The gate's selector has RPL %d, but CS in the handler has the level of the code segment, 0." % rpl)

    back = "IRETQ takes rip, cs, rflags, rsp and ss from the stack; bits of RFLAGS that do not exist stay as they are."
    t.start()
    t.expect("resume", t.event(UD), t.event(UD, 3), hint=back)
    t.start()
    flags = new_flags & FLAGS_DEFINED | FIXED
    t.expect("edit", t.event(UD), Event(UD, t.code + other, new_stack, flags), hint=back, r8=t.code + other, r9=new_flags, r10=new_stack)
    return t.verdict(trapped(r, 10, "one for each instruction that does not exist", UD), trapped(r, 1, "a division by zero", DE),
                     t.all_printed())


# --- 1.12 -----------------------------------------------------------------------------------------------------------------


def errors_params(mode):
    def make(rng):
        return base_params(rng) + [mode, non_canonical(rng), beyond_memory(rng), rng.randrange(0x90, 0x10000, 8) | rng.randrange(4),
                                   rng.randrange(8, 0x10000, 8) | 4 | rng.randrange(4), rng.randrange(0x1000, 0x7000, 64)]

    return make


def errors_verify(results, params):
    r, p = results["errors"], params["errors"]
    away, high, outside, local, port = p[4:9]
    t = Trials(r, p)
    frame = p[2] & ~15  # for iretq

    def page_fault(name, offset, error, hint=None, where="rsi", **other):
        t.one(name, PF, 0, error, hint, extra={"cr2": high + offset}, given={where: high + offset, "rdx": port}, **other)

    def iretq(name, vector, error, flags=0):
        t.start(IF | flags, rsp=frame)
        t.expect(name, t.event(vector, 0, error), hint="IRETQ that fails changes nothing: the fault is at the instruction.")

    emulated = "An instruction that hv emulates faults like any other: at its own address, with nothing changed."
    fetch = "Bit 4 of a page fault's error code tells a fetch, but only while EFER.NXE is set (SDM vol. 3, 4.7)."
    for name in ("gp", "gpw"):
        t.one(name, GP, 0, 0, given={"rsi": away, "rdx": port})
    page_fault("pfr", 0, 0)
    page_fault("pfw", 8, 2)
    page_fault("pfo", 16, 0, emulated)
    page_fault("pfi", 24, 2, emulated, "rdi")
    page_fault("pfx", 32, 0, fetch, rip=high + 32)
    page_fault("pfxn", 40, 16, fetch, rip=high + 40)
    page_fault("pfrn", 48, 0)
    for name, vector, selector in (("outside", GP, outside), ("local", GP, local), ("system", GP, TR), ("absent", NP, ABSENT_DATA),
                                   ("absentss", SS, ABSENT_DATA), ("userss", GP, UDATA)):
        t.one(name, vector, 0, selector & 0xFFFC, given={"rax": selector})
    for name, vector, selector in (("far", GP, KDATA), ("farabsent", NP, ABSENT_CODE), ("farnull", GP, 0)):
        t.one(name, vector, 0, selector, given={"rdx": port}, free=("rsi",))
    for name, vector, error, flags in (("iretdata", GP, KDATA, 0), ("iretabsent", NP, ABSENT_CODE, 0), ("iretnull", GP, 0, 0),
                                       ("irettask", GP, 0, NT)):
        iretq(name, vector, error, flags)
    failure = t.verdict(trapped(r, 5, "page faults above 4 GiB", PF), t.all_printed())
    if failure:
        return failure

    # MODE 1: a fault while #UD is delivered, through a gate that cannot be used.
    r, p = results["manual"], params["manual"]
    outside = p[6]
    t, frame = Trials(r, p), p[2] & ~15
    ext = "Bit 0 (EXT) is set when the fault came up while an exception or interrupt was being delivered (SDM vol. 3, 6.13)."
    for name, vector, error in (("gateabsent", NP, UD * 8 + IDT), ("gatecall", GP, UD * 8 + IDT), ("gatenull", GP, 0),
                                ("gateoutside", GP, outside & 0xFFFC), ("gatedata", GP, KDATA), ("gateuser", GP, UCODE & ~3),
                                ("codeabsent", NP, ABSENT_CODE)):
        t.one(name, vector, 0, error | EXT, ext, given={"rax": 0})
    iretq("iretaway", GP, 0)
    return t.verdict(t.all_printed()) or verify_faults(results, params)


# --- 1.13 -----------------------------------------------------------------------------------------------------------------

# Instructions for single steps: bytes and what they do. Of the second kind each traps and is emulated.
NATIVE = ((b"\x90", {}), (b"\x48\x8d\x5b\x01", {"rbx": lambda r: r["rbx"] + 1 & MASK64}), (b"\x48\xf7\xd1", {"rcx": lambda r: r["rcx"] ^ MASK64}))
EMULATED = ((b"\xfa", {}), (b"\x0f\x06", {}), (b"\xe4\x80", {"rax": lambda r: r["rax"] | 0xFF}), (b"\x44\x0f\x20\xc2", {"rdx": lambda r: 0}))
CLI = b"\xfa"
SET_TF = 9  # bytes of the instructions that set TF
DR6_STEP = 0xFFFF4FF0


def traps_params(rng, mode=0):
    steps = rng.sample(NATIVE, 2) + rng.sample(EMULATED, 3)
    rng.shuffle(steps)
    lengths = sum(len(code) << 8 * i for i, (code, _) in enumerate(steps, 1))
    code = b"".join(code for code, _ in steps)
    vector, refused = rng.sample(range(0x20, 0x100), 2)
    gate = 0x80 | rng.randrange(4) << 5 | rng.choice((0xE, 0xF))
    words = [int.from_bytes(code.ljust(24, b"\x90")[i : i + 8], "little") for i in (0, 8, 16)]
    return base_params(rng) + [vector, gate, rng.choice(ERROR_CODE[:-1]), refused, *words, len(code) | lengths, mode]


def steps_of(p):
    """The instructions that were chosen, from the params: [(length, effect, is it CLI)]."""
    code = b"".join(word.to_bytes(8, "little") for word in p[7:10])
    known, steps = dict(NATIVE + EMULATED), []
    for i in range(1, 6):
        length = p[10] >> 8 * i & 0xFF
        steps.append((length, known[code[:length]], code[:length] == CLI))
        code = code[length:]
    return steps


def single_steps(t, name, stepped, hint):
    """One #DB behind each of the first `stepped` instructions, #UD behind the last."""
    t.start()
    now, changed, at = registers(t.now), {}, SET_TF
    flags, events = t.flags | TF, []
    for i, (length, effect, is_cli) in enumerate(steps_of(t.params)):
        at += length
        for reg, what in effect.items():
            now[reg] = changed[reg] = what(now)
        flags &= ~IF if is_cli else ~0
        if i < stepped:
            events.append(t.event(DB, at, flags=flags, extra={"dr6": DR6_STEP}, changed=dict(changed)))
        if i + 1 == stepped and stepped < 5:
            flags &= ~TF
    events.append(t.event(UD, at, flags=flags, changed=dict(changed)))
    t.expect(name, *events, hint=hint)


def traps_verify(results, params):
    r, p = results["traps"], params["traps"]
    vector, gate, error_vector, refused = p[3:7]
    t = Trials(r, p)
    t.one("int", vector, 2, keeps_if=gate & 1 == 1, hint="INT n at CPL 0 may use any gate; the frame points behind it.")
    t.one("noerror", error_vector, 2, hint="INT n never pushes an error code, whatever its vector (SDM vol. 3, 6.4.2).")
    t.one("int3", BP, 1)
    t.one("long3", BP, 2)
    at_it = "An INT n that fails has not happened: the fault's frame points at it, and EXT is 0 because the program asked for it."
    for name, v, error in (("null", GP, 0), ("codeabsent", NP, ABSENT_CODE), ("data", GP, KDATA)):
        t.one(name, v, 0, error, at_it)
    t.one("fits", refused, 2)
    one = ("With TF set there is one #DB behind each instruction, also behind one that hv emulated: DR6.BS says why. (SDM vol. 3, "
           "17.3.1.4)")
    single_steps(t, "step", 5, one)
    single_steps(t, "stop", 2, one)
    failure = t.verdict(t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    t, refused = Trials(r, p), p[6]
    for name, v in (("absent", NP), ("call", GP), ("limit", GP)):
        t.one(name, v, 0, refused * 8 + IDT, at_it)
    return t.verdict(t.all_printed())


# --- 1.14 -----------------------------------------------------------------------------------------------------------------

PRIVILEGED = (
    b"\xfa", b"\xfb", b"\xf4", b"\x0f\x06", b"\x0f\x20\xc2", b"\x0f\x22\xd8", b"\x0f\x01\x14\x24", b"\x0f\x01\x1c\x24", b"\x0f\x00\xd8",
    b"\x0f\x00\xd0", b"\x0f\x32", b"\x0f\x30", b"\x0f\x21\xfa", b"\x0f\x23\xc0", b"\x0f\x01\x3c\x24", b"\x0f\x09", b"\x0f\x01\xf8",
    b"\x0f\x01\xf0", b"\xe4\x80", b"\xe6\xe9", b"\x44\x0f\x22\xc0")


def ring3_params(rng, mode=0):
    codes = [int.from_bytes(code.ljust(8, b"\x90"), "little") for code in rng.sample(PRIVILEGED, 3)]
    port = rng.randrange(0x500, 0x700, 8) | rng.choice((7, rng.randrange(7)))
    return base_params(rng) + [place(rng, 32, 34) | 1, *codes, rng.randrange(0x20, 0x100), port, beyond_memory(rng), rng.choice(ERROR_CODE[:-1]),
                               mode]


def ring3_verify(results, params):
    r, p = results["ring3"], params["ring3"]
    rsp0, vector, port, high, error_vector = p[3], *p[7:11]
    t = Trials(r, p, rsp0)

    def user(name, v, at=0, error=None, flags=IF, hint=None, given=None, **other):
        t.start(flags, user=True)
        t.expect(name, t.event(v, at, error, **other), hint=hint, **(given or {}))

    for i in range(3):
        user("privileged%d_" % i, GP, 0, 0, hint="At CPL 3 a privileged instruction is #GP(0), delivered to the guest's own kernel.")
    user("cli", GP, 0, 0)
    user("ud", UD, flags=IF | DFLAG)
    t.start(IF, user=True)
    outer = t.event(UD)
    t.expect("nested", outer, Event(UD, t.code + 64, outer.at, t.flags & ~IF, ss=0))

    user("intopen", vector, 2)
    user("fakeopen", error_vector, 2)
    user("int3open", BP, 1, keeps_if=True)

    def flags(*remove):
        return t.flags & ~sum(remove)

    t.start(IF | IOPL, user=True)
    t.expect("ioplcli", t.event(UD, 4, flags=flags(IF)))
    t.start(IOPL, user=True)
    t.expect("ioplsti", t.event(UD, 2, flags=t.flags | IF))
    user("ioplhlt", GP, 0, 0, flags=IF | IOPL, hint="IOPL opens CLI, STI and the ports, not HLT.")

    def io(name, number, bits, wide=False, flags=IF):
        """bits: what is read into RAX, 0 for OUT, None when it is refused."""
        rax = registers(t.seed + t.next & MASK64)["rax"]
        hint = "The I/O permission map: one bit a port, and all bits of the access must be 0. (SDM vol. 1, 19.5.2)"
        if bits is None:
            user(name, GP, 0, 0, flags, hint, {"rdx": number})
        else:
            user(name, UD, 2 if wide else 1, None, flags, hint, {"rdx": number}, changed={"rax": rax | bits} if bits else {})

    io("ioplin", port, 0xFF, flags=IOPL)
    user("iopl2", GP, 0, 0, flags=IF | 0x2000)
    io("mapin", port, 0xFF)
    io("mapout", port, 0)
    io("mapword", port, None)
    io("mapnext", port + 1, None)
    io("mapfar", port + 0x4000, None)
    io("mapboth", port, 0xFFFF, wide=True)
    io("mapnone", port, None)

    level = "Bit 2 of a page fault's error code tells that the access came from CPL 3."
    for i, (name, error, added) in enumerate((("read", 4, IF), ("write", 6, IF), ("outs", 4, IF | IOPL))):
        user(name, PF, 0, error, added, level, {"rsi": high + 8 * i, "rdx": port}, extra={"cr2": high + 8 * i})

    def iretq(name, begin, becomes, from_user=True, hint=None):
        t.start(begin, from_user, rsp=(p[2] + t.next if from_user else p[2]) & ~15)
        t.expect(name, t.event(UD, 64, rsp=p[2] + 4096, flags=becomes, cs=UCODE, ss=UDATA, stack=rsp0), hint=hint)

    protected = "IRETQ changes IOPL only at CPL 0, and IF only where CPL is not above IOPL. (SDM vol. 2, IRET)"
    iretq("keep", IF, FIXED | IF, hint=protected)
    iretq("keepoff", 0, FIXED, hint=protected)
    iretq("ioplflags", IF | IOPL, FIXED | IOPL, hint=protected)
    t.start(IF, True, rsp=p[2] + t.next & ~15)
    t.expect("inward", t.event(GP, 0, KCODE), hint="IRETQ never leads to a more privileged level.")
    iretq("outward", 0, FIXED | IF | IOPL, False, hint=protected)
    for name, error in (("kernelss", KDATA), ("nullss", 0), ("readonlyss", 0x80), ("userss", UDATA & ~3)):
        t.start(0, rsp=p[2] & ~15)
        t.expect(name, t.event(GP, 0, error),
                 hint="IRETQ checks SS for the level that it returns to; when it refuses, the old level has not been left.")
    failure = t.verdict(trapped(r, 60, "each IRETQ and each privileged instruction"), t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    t = Trials(r, p, p[3])
    dpl = "INT n needs a gate whose DPL is at least the CPL: else #GP with the vector, times 8, plus 2. (SDM vol. 3, 6.12.1.2)"
    for name, number in (("int", p[7]), ("fake", p[10]), ("int3", BP)):
        user(name, GP, 0, number * 8 + IDT, hint=dpl)
    return t.verdict(t.all_printed())


# --- 1.15 -----------------------------------------------------------------------------------------------------------------


def ist_params(mode):
    def make(rng):
        slots = rng.sample(range(7), 7)
        ist = [(36 << 20) + slot * (2 << 20) + rng.randrange(0x10000, 1 << 20) for slot in slots]
        return base_params(rng) + [place(rng, 32, 34), *ist, mode, *rng.sample(range(1, 8), 2), non_canonical(rng)]

    return make


def ist_verify(results, params):
    r, p = results["ist"], params["ist"]
    rsp0, ist, first_ist = p[3], [None, *p[4:11]], p[12]
    t = Trials(r, p, rsp0)
    table = "A gate with an IST number switches to that entry of the TSS, whatever the level: number 1 at offset 0x24. (SDM vol. 3, 6.14.5)"
    for i in range(1, 8):
        t.one("ist%d_" % i, UD, hint=table, stack=ist[i])
    t.start(IF, user=True)
    t.expect("user", t.event(UD, stack=ist[first_ist]), hint=table)
    t.start(IF, user=True)
    t.expect("user0_", t.event(UD))

    t.start()
    t.expect("back", t.event(UD, stack=ist[first_ist]), t.event(UD, 2, stack=ist[first_ist]), hint=table)
    failure = t.verdict(trapped(r, 11, "one for each instruction that does not exist", UD), t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    ist, first_ist, second_ist = [None, *p[4:11]], *p[12:14]
    t = Trials(r, p)
    t.start()
    one = t.event(UD, stack=ist[first_ist])
    zero = {"rcx": 0}
    two = t.event(DE, 69, rsp=one.at, stack=ist[second_ist], flags=t.flags & ~IF, changed=zero)
    three = t.event(UD, 128, rsp=two.at, stack=ist[first_ist], flags=t.flags & ~IF, changed=zero)
    t.expect("nested", one, two, three, hint=table)
    t.start()
    one = t.event(UD, stack=ist[first_ist])
    t.expect("stay", one, t.event(DE, 69, rsp=one.at, flags=t.flags & ~IF, changed=zero), hint="A gate without IST stays on the stack that it finds, at the same level.")
    t.one("limit", TS, 0, TR | EXT, "An entry of the TSS beyond its limit: #TS with the TSS' selector.")
    t.one("away", SS, 0, EXT, "A stack whose address is not canonical: #SS.")
    return t.verdict(t.all_printed())


# --- 1.16 -----------------------------------------------------------------------------------------------------------------


def double_params(triple, mode=0):
    def make(rng):
        return base_params(rng) + [place(rng, 44, 46), non_canonical(rng), beyond_memory(rng) & ~0xFFF, rng.choice(triple) if triple else 0, mode]

    return make


def serial_page_fault(t, name, high, **given):
    """A page fault while the frame is pushed: CR2 is the word that is pushed first or the frame's lowest, CPUs differ."""
    t.one(name, PF, 0, 2, "A page fault in the delivery of #GP or #UD is simply delivered next.", given=given)
    seen = t.result.lines.get(name + "0.cr2", [0])[0]
    if not high + 4096 - 48 <= seen < high + 4096:
        t.found.append(Failure("%s0: cr2 within the frame, from %x to %x" % (name, high + 4048, high + 4095), "%s0: cr2 = %x" % (name, seen),
                               run=t.result.name))


def double_verify(results, params):
    ud_hint = "#UD is benign: the exception in its delivery is delivered as if it had come alone."
    double = "Two contributory exceptions, or a page fault and any of these or another: #DF, error code 0. (SDM vol. 3, table 6-5)"
    for name, r in results.items():
        p = params[name]
        df_stack, away, high, how, mode = p[3:8]
        t = Trials(r, p)
        if mode:
            t.one("ud", NP, 0, UD * 8 + IDT + EXT, ud_hint, given={"rax": 0})
            t.one("int", NP, 0, GP * 8 + IDT, "INT 13 is not #GP: nothing makes a double fault here.", given={"rax": 0})
        else:
            serial_page_fault(t, "udpf", high, rax=0)

        def df(name, **given):
            t.one(name, DF, 0, 0, double, given=given, stack=df_stack)

        if mode:
            df("gpnp", rsi=away)
            df("dsnp", rax=0x1230)
            serial_page_fault(t, "gppf", high, rsi=away)
        else:
            df("npnp", rax=ABSENT_DATA)
            serial_page_fault(t, "nppf", high, rax=ABSENT_DATA)
            df("denp", rcx=0)
            df("pfnp", rsi=high)
            df("pfpf", rsi=high)
            df("three", rax=ABSENT_DATA)
        failure = t.verdict(t.all_printed())
        if failure:
            return failure
        if not how:
            continue
        if "survived" in r.lines or r.lines.get("triple.events"):
            return Failure("the VM to stop: the double fault's handler cannot be reached", "an event was delivered", run=name)
        if "triple fault" not in r.reason.lower() or "%x" % t.code not in r.reason.lower():
            return Failure("a sentence that says \"triple fault\" and names rip %#x" % t.code, describe_end(r),
                           "vm_stop() with HV_STOPPED; v->rip is still at the instruction that began it.", name)
    return None


# --- 1.17 -----------------------------------------------------------------------------------------------------------------


def syscall_params(mode):
    def make(rng):
        kernel, user = rng.choice((KCODE, KCODE2)), rng.choice((0x23, 0x6B))
        star = user << 48 | kernel << 32 | rng.getrandbits(32)
        flags = sum(bit for bit in (IF, DFLAG, 0x1000, 0x2000, NT, 1 << 18, 1 << 21) if rng.getrandbits(1))
        # VM and RF are not among the flags that SYSRET takes, nor are bits that do not exist.
        back = rng.getrandbits(64) & ~(TF | NT | VM | 0x180000) | 0x18028 | (VM if mode else 0)
        return base_params(rng) + [place(rng, 32, 34), star, rng.getrandbits(22) | rng.choice((IF, NT)), flags, back, mode, non_canonical(rng)]

    return make


def syscall_verify(results, params):
    r, p = results["syscalls"], params["syscalls"]
    rsp0, star, sfmask, user_flags, back = p[3:8]
    user_flags &= ~DFLAG
    t = Trials(r, p, rsp0, 0)
    kernel, user = star >> 32 & 0xFFFF, star >> 48
    there = dict(cs=kernel, ss=kernel + 8, stack=None)
    home = dict(cs=user + 16 | 3, ss=user + 8 | 3, stack=rsp0, flags=back & 0x3C7FD7 | FIXED)

    def call(name, from_user, mask, flags=None):
        t.start(user_flags if from_user else IF, from_user)
        t.expect(name, t.event(UD, 64, flags=t.flags & ~mask | FIXED, changed={"rcx": t.code + 2, "r11": t.flags}, **there),
                 hint="SYSCALL: RCX = the next rip, R11 = RFLAGS, RFLAGS without the bits in SFMASK, CS and SS by STAR bits 32-47, RSP as it "
                      "was. (SDM vol. 2, SYSCALL)")

    disabled = "Without EFER.SCE neither SYSCALL nor SYSRET exists."
    t.start(user_flags, True)
    t.expect("off", t.event(UD), hint=disabled)
    t.start()
    t.expect("offret", t.event(UD), hint=disabled, rcx=t.code + 128, r11=back)
    call("call", True, sfmask)
    call("nomask", True, 0)
    call("kernel", False, sfmask)
    sysret = "SYSRET: rip = RCX, RFLAGS = R11 without RF, VM and reserved bits, CS and SS by STAR bits 48-63, RPL 3. (SDM vol. 2, SYSRET)"
    t.start()
    t.expect("return", t.event(UD, 128, **home), hint=sysret, rcx=t.code + 128, r11=back)
    t.start(IF, True)
    t.expect("user", t.event(GP, 0, 0), hint="SYSRET is privileged.", rcx=t.code + 128)
    t.start(user_flags, True)
    t.expect("round", t.event(UD, 2, changed={"rcx": t.code + 2, "r11": back}, **home), hint=sysret, r8=back)
    failure = t.verdict(trapped(r, 5, "one for each SYSCALL", 0xF0), t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    rsp0, star, sfmask, user_flags, back, _, away = p[3:10]
    t = Trials(r, p, rsp0)
    kernel = star >> 32 & 0xFFFF
    there = dict(cs=kernel, ss=kernel + 8, stack=None)
    call("call", True, sfmask)
    call("nomask", True, 0)
    user = star >> 48 & ~3
    t.start()
    t.expect("rpl", t.event(UD, 128, cs=user + 16 | 3, ss=user + 8 | 3, stack=p[3], flags=back & 0x3C7FD7 | FIXED), hint=sysret,
             rcx=t.code + 128, r11=back)
    t.start()
    t.expect("away", t.event(GP, 0, 0), hint="RCX must be canonical: #GP(0), still at CPL 0.", rcx=away, r11=back)
    return t.verdict(t.all_printed())


# --- 1.18 -----------------------------------------------------------------------------------------------------------------


def interrupts_params(mode):
    def make(rng):
        # A base of 8, the PC's of old, gives the lines the numbers of exceptions: 12 is #SS, but this one is an interrupt.
        base = 8 if mode else rng.randrange(0x20, 0xF8, 8)
        return base_params(rng) + [place(rng, 32, 34), base, mode, rng.randrange(5, 12), rng.randrange(200, 500)]

    return make


IRQ_TIMER, IRQ_COM1 = 0, 4


def pic_state(t, name, irr, isr):
    """What the PIC had of IRQ 4 afterwards: asked for, in service."""
    hint = "The PIC hands out the interrupt when it is delivered, not before: until then it stays in IRR and ISR is 0."
    for what, wanted in (("irr", irr), ("isr", isr)):
        seen = t.result.lines.get("%s.%s" % (name, what), [None])[0]
        t.found.append(differs(t.result, name, what + " (bit 4)", wanted << 4, None if seen is None else seen & 0x10, hint))


def loop(t, name, ticks, where, hint):
    """A loop under timer interrupts. How often is chosen; where is a matter of time, but not all places are possible."""
    t.start(0)
    t.found += [reported(t.result, name + ".events", 0), reported(t.result, name + ".ticks", ticks)]
    seen = {bit for bit in range(64) if t.result.lines.get(name + ".places", [1 << 63])[0] >> bit & 1}
    if not seen or seen - where:
        t.found.append(Failure("`%s` to be interrupted only at the offsets %s of its code" % (name, sorted(where)),
                               "offsets %s" % sorted(seen), hint, t.result.name))


def interrupts_verify(results, params):
    r, p = results["interrupts"], params["interrupts"]
    rsp0, base = p[3:5]
    irq = base + IRQ_COM1
    t = Trials(r, p, rsp0)

    def waits(name, at, hint, flags=IF):
        """An interrupt waits while IF is 0; it strikes at this offset."""
        t.start(0)
        t.expect(name, t.event(irq, at, flags=t.flags | IF), hint=hint)
        pic_state(t, name, 0, 1)

    shadow = "The instruction behind an STI that set IF still runs without interrupts. (SDM vol. 2, STI)"
    never = "No interrupt while IF is 0."
    t.start(0)
    t.expect("closed", t.event(UD, 2), hint=never)
    pic_state(t, "closed", 1, 0)
    waits("nop", 2, shadow)
    waits("out", 3, shadow)
    t.start(0)
    t.expect("close", t.event(UD, 4), hint="STI; CLI opens nothing: the CLI runs in the shadow of the STI.")
    pic_state(t, "close", 1, 0)
    waits("twice", 2, "An STI casts a shadow only when IF was 0 before it.")
    waits("halt", 2, "STI; HLT with an interrupt waiting: HLT begins in the shadow, ends at once, and the frame points behind it.")
    t.start(0)
    t.expect("fault", t.event(UD, 1, flags=t.flags | IF), t.event(irq, 3, flags=t.flags | IF), hint=shadow)

    soon = "With IF set an interrupt strikes at the next instruction's boundary."
    raise_it = {"rax": 2, "rdx": 0x3F9}
    t.start(IF)
    t.expect("raise", t.event(irq, 1), hint=soon, **raise_it)
    t.start(0)
    t.expect("masked", t.event(UD, 3, flags=t.flags | IF), hint="What the PIC masks does not arrive.")
    t.start(IF)
    t.expect("unmask", t.event(irq, 1), hint=soon, rax=0xEF, rdx=0x21)
    t.start(IF)
    t.expect("first", t.event(irq, 1), t.event(UD, 2), hint="It strikes once, and IRETQ goes on where it struck.", **raise_it)
    t.start(0)
    t.expect("noeoi", t.event(UD, 3, flags=t.flags | IF), hint="Until the EOI the line is in service, and holds back its next request.")
    t.start(0)
    t.expect("eoi", t.event(irq, 2, flags=t.flags | IF), hint=shadow)
    t.start(IF, True)
    t.expect("user", t.event(irq, 0), hint="IRETQ that sets IF casts no shadow; an interrupt does not ask for the gate's DPL.")

    for i in range(3):
        t.start(0)
        t.expect("sleep%d_" % i, t.event(base + IRQ_TIMER, 2, flags=t.flags | IF), hint="HLT ends when an interrupt comes; the frame points behind it.")
    failure = t.verdict(t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    t = Trials(r, p)
    t.start(0)
    t.expect("absent", t.event(NP, 2, (p[4] + IRQ_COM1) * 8 + IDT + EXT, flags=t.flags | IF),
             hint="An interrupt whose gate is not present: #NP with EXT, and no double fault.")
    loop(t, "stiloop", p[6], {2}, shadow)
    loop(t, "ssloop", p[6], {1, 4, 5}, "A load of SS holds interrupts off for one instruction. (SDM vol. 3, 6.8.3)")
    return t.verdict(t.all_printed())


# --- 1.19 -----------------------------------------------------------------------------------------------------------------

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")


def preempt_params(rng):
    return base_params(rng) + [place(rng, 32, 34), rng.randrange(0x20, 0xF8, 8), rng.randrange(20, 60), rng.randrange(150, 400),
                               rng.getrandbits(32) | 1]


def preempt_verify(results, params):
    r, p = results["loop"], params["loop"]
    _, code, stack, rsp0, _, ticks, _, step = p[:8]
    lines, key = r.lines, "loop0"
    found = [reported(r, "ticks", ticks, "Each tick is one interrupt, acknowledged by the guest's EOI."), reported(r, "loop.events", 1)]
    frame = lines.get(key + ".frame", [0] * 6)
    rip, cs, rflags, rsp, ss = frame[:5]
    rax, rbx = lines.get(key + ".rax", [0])[0], lines.get(key + ".rbx", [0])[0]
    offset = rip - code
    if offset not in (0, 3, 6):
        found.append(Failure("the program to be interrupted at %x, %x or %x" % (code, code + 3, code + 6), "at %x" % rip, run=r.name, exact=True))
    found += [differs(r, key, "cs", UCODE, cs), differs(r, key, "ss", UDATA, ss), differs(r, key, "rsp", stack, rsp),
              differs(r, key, "at", (rsp0 & ~15) - 40, lines.get(key + ".at", [None])[0]), differs(r, key, "rflags (IF)", IF, rflags & IF)]
    rounds = rax - (offset == 3)
    if not rax:
        found.append(Failure("the loop to have gone round", "not one round", run=r.name))
    found.append(differs(r, key, "rbx after %d rounds" % rounds, rounds * step & MASK64, rbx, "An interrupt changes no register of the program."))
    found.append(trapped(r, 2 * ticks, "an EOI and an IRETQ for each of %d ticks" % ticks))
    return first(*found, printed_by_traps(r, r.output)) or kernel_verify(results["kernel"], params["kernel"][0])


def kernel_args(p):
    return ["--append", "procs=%d" % p[0]]


def primes_below(limit):
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(sieve[n * n :: n]))
    return sum(sieve)


def function_range(name):
    """Where a function of the course kernel lies."""
    with open(os.path.join(ROOT, "build", "guests", "kernel.elf"), "rb") as f:
        address, _, size = Elf(f.read(), "kernel.elf").symbol(name)
    return range(address, address + size)


def kernel_verify(r, n):
    """labs/common/guest/kmain.c prints the same everywhere but for two addresses, which must lie in the functions at fault."""
    text = r.output.replace(b"\r\n", b"\n").decode("ascii", "replace")
    lines = ["course kernel: 64 bits, flat memory, at most 15 processes", "waiting for the timer ... it ticks, 100 times a second"]
    for pid in range(1, n + 1):
        lines += ["%2d compute | %d primes below 20000, the same in every round" % (pid, primes_below(20000)), "%2d compute : exit code 0" % pid]
    rogue, divide = (re.search(pattern, text) for pattern in (r"#GP general protection at rip 0x([0-9a-f]{1,16}),", r"#DE divide error at rip 0x([0-9a-f]{1,16}),"))
    at = []
    for name, match in (("user_rogue", rogue), ("user_divide", divide)):
        address = int(match[1], 16) if match else 0
        at.append(address if address in function_range(name) else function_range(name).start)
    lines += ["%2d writer  | line %d of process %d" % (n + 1, i, n + 1) for i in (1, 2, 3)]
    lines += ["%2d writer  : exit code 0" % (n + 1),
              "%2d rogue   | about to turn interrupts off" % (n + 2),
              "%2d rogue   | oops: #GP general protection at rip 0x%x, error code 0x0, first byte there fa" % (n + 2, at[0]),
              "%2d rogue   : killed by the kernel" % (n + 2),
              "%2d divide  | about to divide by 0" % (n + 3),
              "%2d divide  | oops: #DE divide error at rip 0x%x, error code 0x0, first byte there 49" % (n + 3, at[1]),
              "%2d divide  : killed by the kernel" % (n + 3),
              "%2d sleeper | slept 10 ticks at least" % (n + 4),
              "%2d sleeper : exit code 0" % (n + 4),
              "%d processes: %d ended by themselves, 2 were killed" % (n + 4, n + 2),
              "%d processes that never yield were interleaved by the timer" % n,
              "the kernel has ended"]
    seen = text.split("\n")
    for i, line in enumerate(lines + [""]):
        if i >= len(seen) or seen[i] != line:
            return Failure(line, seen[i] if i < len(seen) else "the end of the output",
                           "Line %d of what the course kernel prints. Run it yourself: hv run --append procs=%d build/guests/kernel.elf" % (i + 1, n),
                           r.name, exact=True)
    return first(trapped(r, 1000, "the course kernel's own instructions"), printed_by_traps(r, r.output))


# --- the ladder -----------------------------------------------------------------------------------------------------------


def guest(name, verify_name, params, **other):
    return Run(verify_name, "lab1/%s.elf" % name, params=params, **other)


CHECKPOINTS = [
    Checkpoint(
        "1.11", "exceptions, and the way back by IRETQ", 8,
        "An exception goes through the guest's own IDT: old stack pointer, flags and rip are pushed on a stack aligned to 16 "
        "bytes, the gate decides about IF, the handler runs with all registers as they were, and IRETQ takes back what it finds.",
        "Write deliver.c from find_gate() to enter_handler(), then emulate_iret(). SDM vol. 3, 6.12 and 6.14, has the figures; what "
        "the guest's tables say is read with gva_read_system().",
        runs=[guest("exception", "exception", exception_params)], verify=exception_verify, depends=["1.8"]),
    Checkpoint(
        "1.12", "error codes", 6,
        "#GP, #NP, #SS, #TS and #PF push an error code below rip: 0, a selector without its RPL, or the number of a gate; with "
        "the EXT bit when another event was being delivered. A page fault also sets CR2.",
        "raise_error() already says what the code is; push_frame() has to put it on the stack as a sixth word.",
        runs=[guest("errors", "errors", errors_params(0)), guest("errors", "manual", errors_params(1)), *FAULT_RUNS],
        verify=errors_verify, depends=["1.11", "1.10"]),
    Checkpoint(
        "1.13", "INT n, INT3, single steps", 6,
        "INT n and INT3 go through the IDT like exceptions, but the frame points behind the instruction and has no error code. "
        "When the gate refuses, the instruction has not happened. With TF set, one #DB follows each instruction.",
        "emulate_int(): step over the instruction first, and step back when try_deliver() fails. Single steps come by themselves "
        "once 1.11 is right: the machine's own #DB, or the frame's when you emulated the instruction.",
        runs=[guest("traps", "traps", traps_params), guest("traps", "manual", lambda rng: traps_params(rng, 1))], verify=traps_verify, depends=["1.12"]),
    Checkpoint(
        "1.14", "user mode", 8,
        "IRETQ can lead to CPL 3. There, privileged instructions and gates with DPL 0 are #GP for the guest's kernel, which runs "
        "on the stack that its TSS names; IOPL and the I/O permission map open ports, and IRETQ cannot change IF or IOPL.",
        "handler_stack() reads RSP0 from the guest's TSS at v->tr.base. In emulate_iret(), check SS as the new level would load "
        "it, and leave v->cpl alone when the check fails.",
        runs=[guest("ring3", "ring3", ring3_params), guest("ring3", "manual", lambda rng: ring3_params(rng, 1))], verify=ring3_verify, depends=["1.13"]),
    Checkpoint(
        "1.15", "interrupt stack table", 4,
        "A gate with an IST number from 1 to 7 switches to that stack of the TSS, at every level.",
        "The entries are 8 bytes each and begin at offset 0x24 of the TSS; the limit in TR says how many are there.",
        runs=[guest("ist", "ist", ist_params(0)), guest("ist", "manual", ist_params(1))], verify=ist_verify, depends=["1.14"]),
    Checkpoint(
        "1.16", "double and triple faults", 6,
        "Some pairs of exceptions make a double fault (#DF, error code 0), others are delivered one after the other. When #DF "
        "cannot be delivered either, the VM stops, with a sentence that names the triple fault and its rip.",
        "deliver_event() sees both: the event that it was delivering and the one in v->event. SDM vol. 3, table 6-5, in two small functions.",
        runs=[guest("double", "triple", double_params((1, 2)), ends=(HV_STOPPED,)), guest("double", "idt", double_params((3, 4)), ends=(HV_STOPPED,)),
              guest("double", "afterwards", double_params(())), guest("double", "manual", double_params((), 1))],
        verify=double_verify, depends=["1.15"]),
    Checkpoint(
        "1.17", "SYSCALL and SYSRET", 6,
        "SYSCALL saves rip in RCX and RFLAGS in R11, clears the flags in SFMASK and goes to LSTAR at CPL 0; SYSRET goes back to "
        "CPL 3. Neither touches RSP, and both are #UD while EFER.SCE is 0.",
        "All of it is assignments, in emulate_syscall(): take them one by one from the manual's Operation section.",
        runs=[guest("syscalls", "syscalls", syscall_params(0)), guest("syscalls", "manual", syscall_params(1))],
        verify=syscall_verify, depends=["1.14"]),
    Checkpoint(
        "1.18", "interrupts", 8,
        "An interrupt is taken when IF is set, but not directly behind an STI that set it or a load of SS. It ends HLT, and "
        "returns behind it. Until it is taken the PIC keeps it.",
        "interrupt_window_open() decides; v->shadow tells of STI and SS. Look again at what STI and HLT do in emulate_flags().",
        runs=[guest("interrupts", "interrupts", interrupts_params(0)), guest("interrupts", "manual", interrupts_params(1))],
        verify=interrupts_verify, depends=["1.16"]),
    Checkpoint(
        "1.19", "preemption: the course kernel runs", 8,
        "A program that never gives up the CPU is interrupted by the timer and goes on as if nothing had happened; and the course "
        "kernel, with several such processes, runs to its end and prints what it prints on any other machine.",
        "Nothing new is to be written: if 1.11 to 1.18 pass and this fails, compare --trace exits with what the kernel does in "
        "labs/common/guest.",
        runs=[guest("preempt", "loop", preempt_params),
              Run("kernel", "kernel.elf", args=kernel_args, params=lambda rng: [rng.randrange(2, 7)], timeout=20.0)],
        verify=preempt_verify, depends=["1.17", "1.18"]),
]
