"""Checkpoints 1.11 to 1.13: exceptions with and without an error code, and those that a program asks for."""

from checks import reported, trapped
from model import Checkpoint
from probes import MASK64, registers
from system_faults import FAULT_RUNS, verify_faults
from trials import (
    ABSENT_CODE, ABSENT_DATA, BP, DB, DE, DFLAG, ERROR_CODE, EXT, FIXED, FLAGS_DEFINED, GP, IDT, IF, KDATA, NP, NT,
    PF, RF, SS, TF, TR, UCODE, UD, UDATA, Event, Trials, base_params, beyond_memory, guest, non_canonical, place)

# --- 1.11 -----------------------------------------------------------------------------------------------------------------

# Opcodes that 64-bit mode does not have (SDM vol. 2, appendix A).
INVALID = (b"\x0f\x0b", b"\x06", b"\x0e", b"\x16", b"\x1e", b"\x27", b"\x2f", b"\x37", b"\x3f", b"\x60", b"\x61", b"\xce",
           b"\xd4\x0a")


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
    t.expect("edit", t.event(UD), Event(UD, t.code + other, new_stack, flags), hint=back,
             r8=t.code + other, r9=new_flags, r10=new_stack)
    return t.verdict(trapped(r, 10, "one for each instruction that does not exist", UD),
                     trapped(r, 1, "a division by zero", DE), t.all_printed())


# --- 1.12 -----------------------------------------------------------------------------------------------------------------


def errors_params(mode):
    def make(rng):
        outside = rng.randrange(0x90, 0x10000, 8) | rng.randrange(4)
        local = rng.randrange(8, 0x10000, 8) | 4 | rng.randrange(4)
        port = rng.randrange(0x1000, 0x7000, 64)
        return base_params(rng) + [mode, non_canonical(rng), beyond_memory(rng), outside, local, port, rng.randrange(1, 4)]

    return make


def nothing_lost(t, high, before_end):
    """INS that faults has read nothing. The UART's bytes are the seed's."""
    first = "INS tests the memory (gva_writable()) before it reads the device, or what the device gave is lost."
    uart, text = 0x3F8, t.seed.to_bytes(8, "little")
    t.one("ins", PF, 0, 2, first, given={"rdx": uart, "rcx": 1, "rdi": high}, extra={"cr2": high})
    t.found.append(reported(t.result, "ins.next", text[0], first))
    end, count = 1 << 32, len(text) - 2
    t.one("repins", PF, 0, 2, "REP INS that faults leaves RIP at it; RCX and RDI say how many elements it has done.",
          given={"rdx": uart, "rcx": count, "rdi": end - before_end}, extra={"cr2": end},
          changed={"rcx": count - before_end, "rdi": end})
    t.found.append(reported(t.result, "repins.next", text[1 + before_end], first))


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
    for name, vector, selector in (("outside", GP, outside), ("local", GP, local), ("system", GP, TR),
                                   ("absent", NP, ABSENT_DATA), ("absentss", SS, ABSENT_DATA), ("userss", GP, UDATA)):
        t.one(name, vector, 0, selector & 0xFFFC, given={"rax": selector})
    for name, vector, selector in (("far", GP, KDATA), ("farabsent", NP, ABSENT_CODE), ("farnull", GP, 0)):
        t.one(name, vector, 0, selector, given={"rdx": port}, free=("rsi",))
    for name, vector, error, flags in (("iretdata", GP, KDATA, 0), ("iretabsent", NP, ABSENT_CODE, 0),
                                       ("iretnull", GP, 0, 0), ("irettask", GP, 0, NT)):
        iretq(name, vector, error, flags)
    failure = t.verdict(trapped(r, 5, "page faults above 4 GiB", PF), t.all_printed())
    if failure:
        return failure

    # MODE 1: a fault while #UD is delivered, through a gate that cannot be used.
    r, p = results["manual"], params["manual"]
    outside = p[6]
    t, frame = Trials(r, p), p[2] & ~15
    nothing_lost(t, p[5], p[9])
    ext = "Bit 0 (EXT) is set when the fault came up while an exception or interrupt was being delivered (SDM vol. 3, 6.13)."
    for name, vector, error in (("gateabsent", NP, UD * 8 + IDT), ("gatecall", GP, UD * 8 + IDT), ("gatenull", GP, 0),
                                ("gateoutside", GP, outside & 0xFFFC), ("gatedata", GP, KDATA), ("gateuser", GP, UCODE & ~3),
                                ("codeabsent", NP, ABSENT_CODE)):
        t.one(name, vector, 0, error | EXT, ext, given={"rax": 0})
    iretq("iretaway", GP, 0)
    return t.verdict(t.all_printed()) or verify_faults(results, params)


# --- 1.13 -----------------------------------------------------------------------------------------------------------------

# Instructions for single steps: bytes and what they do. Of the second kind each traps and is emulated.
NATIVE = (
    (b"\x90", {}), (b"\x48\x8d\x5b\x01", {"rbx": lambda r: r["rbx"] + 1 & MASK64}),
    (b"\x48\xf7\xd1", {"rcx": lambda r: r["rcx"] ^ MASK64}))
EMULATED = (
    (b"\xfa", {}), (b"\x0f\x06", {}), (b"\xe4\x80", {"rax": lambda r: r["rax"] | 0xFF}),
    (b"\x44\x0f\x20\xc2", {"rdx": lambda r: 0}))
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
    return base_params(rng) + [vector, gate, rng.choice(ERROR_CODE[:-1]), refused, *words, len(code) | lengths, mode,
                               rng.randrange(0x1000, 0x7000, 64), place(rng, 40, 60), rng.randrange(2, 6)]


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


def steps_of_rep(t, port, memory, count):
    """REP OUTSB under TF: one #DB for each element, at the instruction until the last is done."""
    t.start()
    events = []
    for left in reversed(range(count)):
        done = {"rcx": left, "rsi": memory + count - left}
        events.append(t.event(DB, SET_TF if left else SET_TF + 2, flags=t.flags | TF, extra={"dr6": DR6_STEP}, changed=done))
    events.append(t.event(UD, SET_TF + 2, flags=t.flags | TF, changed=done))
    t.expect("rep", *events, hint="A single step of a repeated string instruction is one element: RIP stays at it while RCX is not 0. "
             "(SDM vol. 3, 17.3.1.4)", rcx=count, rsi=memory, rdx=port)


def traps_verify(results, params):
    r, p = results["traps"], params["traps"]
    vector, gate, error_vector, refused = p[3:7]
    t = Trials(r, p)
    t.one("int", vector, 2, keeps_if=gate & 1 == 1, hint="INT n at CPL 0 may use any gate; the frame points behind it.")
    t.one("noerror", error_vector, 2, hint="INT n never pushes an error code, whatever its vector (SDM vol. 3, 6.4.2).")
    t.one("int3", BP, 1)
    t.one("long3", BP, 2)
    at_it = "An INT n that fails has not happened: the fault's frame points at it. EXT is 0, for the program asked for it."
    for name, v, error in (("null", GP, 0), ("codeabsent", NP, ABSENT_CODE), ("data", GP, KDATA)):
        t.one(name, v, 0, error, at_it)
    t.one("fits", refused, 2)
    one = ("With TF set there is one #DB behind each instruction, also behind one that hv emulated: DR6.BS says why. "
           "(SDM vol. 3, 17.3.1.4)")
    single_steps(t, "step", 5, one)
    single_steps(t, "stop", 2, one)
    steps_of_rep(t, *p[12:15])
    failure = t.verdict(t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    t, refused = Trials(r, p), p[6]
    for name, v in (("absent", NP), ("call", GP), ("limit", GP)):
        t.one(name, v, 0, refused * 8 + IDT, at_it)
    return t.verdict(t.all_printed())


CHECKPOINTS = [
    Checkpoint(
        "1.11", "exceptions, and the way back by IRETQ", 8,
        "An exception goes through the guest's own IDT: old stack pointer, flags and rip are pushed on a stack aligned to 16 "
        "bytes, the gate decides about IF, the handler runs with all registers as they were, and IRETQ takes back what it "
        "finds.",
        "Write deliver.c from find_gate() to enter_handler(), then emulate_iret(). SDM vol. 3, 6.12 and 6.14, has the "
        "figures; what the guest's tables say is read with gva_read_system().",
        runs=[guest("exception", "exception", exception_params)], verify=exception_verify, depends=["1.4", "1.8"]),
    Checkpoint(
        "1.12", "error codes", 6,
        "#GP, #NP, #SS, #TS and #PF push an error code below rip: 0, a selector without its RPL, or the number of a gate; "
        "with the EXT bit when another event was being delivered. A page fault also sets CR2.",
        "raise_error() already says what the code is; push_frame() has to put it on the stack as a sixth word.",
        runs=[guest("errors", "errors", errors_params(0)), guest("errors", "manual", errors_params(1)), *FAULT_RUNS],
        verify=errors_verify, depends=["1.5", "1.6", "1.7", "1.9", "1.10", "1.11"]),
    Checkpoint(
        "1.13", "INT n, INT3, single steps", 6,
        "INT n and INT3 go through the IDT like exceptions, but the frame points behind the instruction and has no error "
        "code. When the gate refuses, the instruction has not happened. With TF set, one #DB follows each instruction.",
        "emulate_int(): step over the instruction first, and step back when try_deliver() fails. Single steps come by "
        "themselves once 1.11 is right: the machine's own #DB, or the frame's when you emulated the instruction.",
        runs=[guest("traps", "traps", traps_params), guest("traps", "manual", lambda rng: traps_params(rng, 1))],
        verify=traps_verify, depends=["1.12"]),
]
