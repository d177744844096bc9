"""What is checked in Lab 1, in the order in which it is written.

Every guest gets fresh values from the seed, reports what it saw, and does not know what it should have seen.
checks/ holds the later steps.
"""

import os
import struct
import sys

from checks import first, printed_by_traps, reported, trapped
from model import HV_GUEST_FAILED, HV_STOPPED, VEC_GP, Checkpoint, Failure, Run
from signatures import describe_end

# "checks" itself is the name of one of the grader's modules, so this is not a package.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks"))

from events import CHECKPOINTS as EVENTS  # noqa: E402
from popek import CHECKPOINTS as POPEK  # noqa: E402
from probes import CR0_ET, CR0_FIXED, CR0_FREE, CR4_FIXED, CR4_FREE, MASK64, after, low, registers, some_bits, u64  # noqa: E402
from system import CHECKPOINTS as SYSTEM  # noqa: E402

TITLE = "trap and emulate"

FLAG_IF = 0x200


def text64(rng, length):
    """Printable text without characters that mean something to anybody, packed into numbers of 8 characters."""
    text = bytes(rng.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") for _ in range(length))
    return text, list(struct.unpack("<%dQ" % (length // 8), text))


def unclaimed(result, port, reads, writes):
    """hv counted these accesses to a port that nothing answers."""
    entries = (result.stats or {}).get("unclaimed")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("addr") == "%#x" % port and entry.get("bus") == "port":
            if (entry.get("reads"), entry.get("writes")) == (reads, writes):
                return None
            return Failure("port %#x: %d reads, %d writes" % (port, reads, writes),
                           "port %#x: %s reads, %s writes" % (port, entry.get("reads"), entry.get("writes")), run=result.name)
    return Failure("port %#x: %d reads, %d writes" % (port, reads, writes), "port %#x was never used" % port, run=result.name)


# --- 1.1 ------------------------------------------------------------------------------------------------------------------

# Instructions that raise #GP at CPL 3 and do no harm to a hypervisor that can already emulate them.
PRIVILEGED = (b"\xfa", b"\x0f\x06", b"\xe6\xe9", b"\xe4\x71", b"\x0f\x20\xc2", b"\x44\x0f\x20\xc1", b"\x0f\x20\xd3", b"\x0f\x22\xd0")


def first_params(rng):
    code = rng.choice(PRIVILEGED).ljust(8, b"\x90")
    return [rng.randrange(2 << 20, 60 << 20), u64(rng), int.from_bytes(code, "little")]


def first_verify(results, params):
    r, (address, value, *_) = results["first"], params["first"]
    trap = (r.stats or {}).get("first_trap")
    if not isinstance(trap, dict):
        return Failure("the guest to trap at %#x" % address, "no trap was seen; " + describe_end(r))
    seen = "vector %s at rip %s with rax %s" % (trap.get("vector"), trap.get("rip"), trap.get("rax"))
    expected = "vector %d at rip %#x with rax %#x" % (VEC_GP, address, value)
    if seen != expected:
        return Failure(expected, seen, exact=True)
    return trapped(r, 1, "its first privileged instruction")


# --- 1.2 ------------------------------------------------------------------------------------------------------------------

OUT_WIDTHS = {"byte": 1, "word": 2, "long": 4}


def out_params(width):
    def make(rng):
        _, text = text64(rng, 8)
        # No byte of the code is 0, so that a width that is too small is a different code.
        code = int.from_bytes(bytes(rng.randrange(1, 256) for _ in range(4)), "little")
        return text + [u64(rng), rng.randrange(0x1000, 0x7000, 64), width, code]

    return make


def out_verify(results, params):
    for name, width in OUT_WIDTHS.items():
        r, p = results[name], params[name]
        text, seed, port, code = p[0].to_bytes(8, "little")[:4], p[1], p[2], p[4]
        head = r.output[:5]
        if head != text + b"\n":
            return Failure(text + b"\n", head, "Only AL is written to port 0xe9, which is an 8-bit port: the value is the low byte of RAX.",
                           r.name, exact=True)
        hint = "OUT changes no register and no flag. The guest goes on behind the instruction, whatever its prefixes made its length."
        probes = [after(r, probe, registers(seed), hint) for probe in ("imm", "dx", "rex", "prefix", "word", "long")]
        seen = (r.stats or {}).get("guest_code")
        wanted = code & (1 << 8 * width) - 1
        failure = first(
            *probes, unclaimed(r, port, 0, 1), unclaimed(r, port + 16, 0, 1),
            None if seen == wanted else Failure(
                "exit code %#x (%d bytes written to port 0xf4)" % (wanted, width), "exit code %s" % (
                    "%#x" % seen if isinstance(seen, int) else seen),
                "The operand's width decides how many bytes of RAX are written.", r.name, exact=True),
            printed_by_traps(r, r.output, 3))
        if failure:
            return failure
    return None


# --- 1.3 ------------------------------------------------------------------------------------------------------------------


def in_params(rng):
    return [int.from_bytes(bytes(rng.randrange(1, 255) for _ in range(4)), "little"), u64(rng), rng.randrange(0x1000, 0x7000, 64),
            rng.randrange(0x40, 0x80)]


def in_verify(results, params):
    r, (data, seed, port, _, *_) = results["in"], params["in"]
    byte = [data >> 8 * i & 0xFF for i in range(3)]
    # probe, width in bits, what the port gives
    probes = (("scratch", 8, byte[0]), ("again", 8, byte[1]), ("cmos", 8, byte[2]), ("none8", 8, 0xFF), ("none16", 16, 0xFFFF),
              ("none32", 32, 0xFFFFFFFF), ("rex", 32, 0xFFFFFFFF), ("imm16", 16, 0xFFFF), ("imm32", 32, 0xFFFFFFFF))
    found = []
    for i, (probe, bits, value) in enumerate(probes):
        before = registers(seed + i)
        # SDM vol. 1, 3.4.1.1: a 32-bit result clears the upper half, 8 and 16 bits leave the rest alone.
        found.append(after(r, probe, before, rax=value if bits == 32 else low(before["rax"], bits, value)))
    return first(*found, unclaimed(r, port, 4, 0), unclaimed(r, 0xE0, 2, 0), printed_by_traps(r, r.output, len(probes) + 5))


# --- 1.4 ------------------------------------------------------------------------------------------------------------------


def flags_params(halt):
    return lambda rng: [rng.getrandbits(64), u64(rng), halt]


def flags_verify(results, params):
    found = []
    for name, r in results.items():
        sequence, seed = params[name][:2]
        found += [
            reported(r, "if", sequence, "Each bit is the interrupt flag behind one CLI (0) or STI (1), the first in bit 0."),
            after(r, "sti", registers(seed)), reported(r, "sti.if", FLAG_IF),
            after(r, "cli", registers(seed + 1)), reported(r, "cli.if", 0),
            printed_by_traps(r, r.output, 64 + 5),
        ]
    halted = results["hlt"]
    if "woke" in halted.lines or "halt" not in halted.reason:
        found.append(Failure("the VM to stop with a sentence about the guest halting for ever", describe_end(halted), run="hlt"))
    return first(*found)


# --- 1.5 ------------------------------------------------------------------------------------------------------------------


def strio_params(rng):
    _, text = text64(rng, 32)
    return text + [u64(rng), rng.randrange(0x1000, 0x7000, 64), rng.randrange(8, 15), rng.randrange(0, 8)]


def strio_verify(results, params):
    r, p = results["strio"], params["strio"]
    text = struct.pack("<4Q", *p[:4])
    seed, port, count, at = p[4:8]
    found = []

    # OUTS: what it printed, then the registers.
    outs = (("outsb", 0xE9, 1, False, at, 1, count), ("outsbdown", 0xE9, 1, True, at, 1, count),
            ("rep", 0xE9, 1, False, at, count, 0), ("repdown", 0xE9, 1, True, 31 - at, count, 0),
            ("repzero", 0xE9, 1, False, at, 0, 0), ("outsw", port, 2, False, 0, count, 0),
            ("outsl", port + 16, 4, True, 28, count // 2, 0))
    console = [line for line in r.output.split(b"\n") if b"=" not in line]
    lines = []
    for i, (probe, dx, size, down, start, n, rcx) in enumerate(outs):
        step = -size if down else size
        lines.append(bytes(text[start + k * step] for k in range(n)) if dx == 0xE9 else b"")
        found.append(after(r, probe, registers(seed + i, rcx=count if n else 0, rsi=start), rcx=rcx, rsi=start + n * step & MASK64))
    lines.append(text[at : at + count])
    address_hint = "With 32-bit addresses (prefix 67h) only ESI, EDI and ECX take part, and writing them clears the upper halves."
    found.append(after(r, "addr32", registers(seed + 50), address_hint, rcx=0, rsi=at + count))
    for i, line in enumerate(lines):
        if i >= len(console) or console[i] != line:
            seen = console[i] if i < len(console) else b""
            found.insert(0, Failure(line, seen, "Bytes written by OUTS, case %s." % (outs + (("addr32",),))[i][0], r.name, exact=True))
            break

    # INS: the buffer around what was read, then the registers.
    stream = text  # what loopback gives back
    ins = (("insb", 0x3F8, 1, False, 3, 1, count, stream[:1]), ("insbdown", 0x3F8, 1, True, 60, 1, count, stream[1:2]),
           ("repins", 0x3F8, 1, False, at, count, 0, stream[:count]), ("repinsdown", 0x3F8, 1, True, 63 - at, count, 0, stream[:count]),
           ("repins32", 0x3F8, 1, False, at, count, 0, stream[:count]), ("inszero", port, 1, False, at, 0, 0, b""),
           ("insw", port, 2, False, at, count, 0, b"\xff" * 2 * count),
           ("insl", port, 4, True, 60 - at, count // 2, 0, b"\xff" * 4 * (count // 2)))
    for i, (probe, dx, size, down, start, n, rcx, data) in enumerate(ins):
        step = -size if down else size
        buffer = bytearray(b"\xaa" * 64)
        for k in range(n):
            buffer[start + k * step : start + k * step + size] = data[k * size : (k + 1) * size]
        found.append(reported(r, probe, list(struct.unpack("<8Q", buffer)), "The buffer, 8 bytes a line; what INS did not fill is 0xaa."))
        wide = probe == "repins32"
        before = registers(seed + 100 + i, rcx=(count if n else 0) | wide << 40, rdi=start)
        found.append(after(r, probe, before, address_hint if wide else None, rcx=rcx, rdi=start + n * step & MASK64))
    found += [unclaimed(r, port, count + count // 2, count), unclaimed(r, port + 16, 0, count // 2)]
    # A repeated instruction may be emulated in one go, so it counts for one trap here.
    plain = b"".join(line + b"\n" for line in r.output.split(b"\n")[:-1] if b"=" in line)
    found.append(printed_by_traps(r, plain, len(outs) + len(ins) + 1))
    return first(*found)


# --- 1.6 ------------------------------------------------------------------------------------------------------------------

def cr_params(rng):
    cr0, cr4 = ([some_bits(rng, *bits) for _ in range(2)] for bits in ((CR0_FIXED, CR0_FREE), (CR4_FIXED, CR4_FREE)))
    return [u64(rng), u64(rng), u64(rng), cr0[0] | 8, cr0[1] & ~CR0_ET, *cr4, rng.randrange(1, 16), rng.choice((0x08, 0x10, 0x18)),
            u64(rng) & ~0xF | rng.randrange(0, 15, 2), rng.randrange(0, 15, 2) | 0xFFF0]


def cr_verify(results, params):
    r = results["cr"]
    seed, cr2a, cr2b, cr0a, cr0b, cr4a, cr4b, cr8, cr3bits, lmsw_a, lmsw_b = params["cr"][:11]
    fixed_hint = "CR0's bit 4 (ET) is always 1, whatever was written (SDM vol. 3, 2.5)."
    cr0b |= CR0_ET
    lmsw_hint = "LMSW writes the low four bits of CR0 and no others; PE can be set with it, never cleared."
    cr0_a = cr0b & ~0xE | lmsw_a & 0xE
    cr0_b = cr0_a & ~0xE | lmsw_b & 0xE
    # probe, the register that was set before, its value, the register that holds a result, the result, hint
    steps = (
        ("cr2w", "rbx", cr2a, None, 0, None), ("cr2r", None, 0, "r13", cr2a, None),
        ("cr2w2", "r15", cr2b, None, 0, None), ("cr2r2", None, 0, "rdi", cr2b, None),
        ("cr0w", "rsi", cr0a, None, 0, None), ("cr0r", None, 0, "rbp", cr0a, None),
        ("clts", None, 0, None, 0, None), ("cltsr", None, 0, "rbp", cr0a & ~8, "CLTS clears bit 3 of CR0 (TS) and nothing else."),
        ("cr0w2", "rsi", cr0b & ~CR0_ET, None, 0, None), ("cr0r2", None, 0, "rbp", cr0b, fixed_hint),
        ("lmsw", "rbx", lmsw_a, None, 0, None), ("lmswr", None, 0, "rbp", cr0_a, lmsw_hint),
        ("lmswm", "rdi", None, None, 0, None), ("lmswmr", None, 0, "rbp", cr0_b, lmsw_hint),
        ("cr4w", "r9", cr4a, None, 0, None), ("cr4r", None, 0, "rcx", cr4a, None),
        ("cr4w2", "r9", cr4b, None, 0, None), ("cr4r2", None, 0, "rcx", cr4b, None),
        ("cr8w", "r10", cr8, None, 0, None), ("cr8r", None, 0, "rax", cr8, None),
        ("cr3old", None, 0, "rdx", None, None), ("cr3w", "r12", None, None, 0, None), ("cr3r", None, 0, "rdx", None, None),
    )
    found = []
    for i, (probe, given, value, changed, result, hint) in enumerate(steps):
        before = registers(seed + i)
        if given is None:
            before["flags"] = 0  # look() in cr.c sets the flags and nothing else
        elif value is not None:
            before[given] = value
        # The address of a table or a variable is the guest's business.
        free = [name for name, known in ((given, value), (changed, result)) if name and known is None]
        found.append(after(r, probe, before, hint, free, **({changed: result} if changed and result is not None else {})))
    old, new = (r.lines.get("%s.rdx" % name, [0])[0] for name in ("cr3old", "cr3r"))
    found.append(None if new == old ^ cr3bits else Failure("cr3=%x" % (old ^ cr3bits), "cr3=%x" % new, run=r.name, exact=True))
    return first(*found, printed_by_traps(r, r.output, len(steps)))


CHECKPOINTS = [
    Checkpoint(
        "1.1", "first exit: a machine on /dev/kvm", 5,
        "machine.c makes a virtual machine with memory and one CPU, runs it, and says why it came back. The guest's first "
        "privileged instruction must arrive as a trap at its own address, with the guest's registers.",
        "Fill in machine.c from top to bottom: each function is one ioctl, and its contract is in machine.h.",
        runs=[Run("first", "lab1/first.elf", params=first_params, ends=None)], verify=first_verify),
    Checkpoint(
        "1.2", "OUT, and stepping over it", 5,
        "OUT writes 1, 2 or 4 bytes of RAX to the port in the instruction or in DX, changes nothing else, and the guest goes on "
        "behind it.",
        "The decoder tells the operand's size and the instruction's length; port_out() does the rest.",
        runs=[Run(name, "lab1/out.elf", params=out_params(width), ends=(HV_GUEST_FAILED,)) for name, width in OUT_WIDTHS.items()],
        verify=out_verify, depends=["1.1"]),
    Checkpoint(
        "1.3", "IN", 4,
        "IN reads 1, 2 or 4 bytes into AL, AX or EAX. AL and AX leave the rest of RAX as it is, EAX clears the upper half of "
        "RAX. A port that nothing answers reads as all ones of that width.",
        "Think about what a 32-bit result does to a 64-bit register, and what 8 and 16 bits do (SDM vol. 1, 3.4.1.1).",
        runs=[Run("in", "lab1/in.elf", params=in_params)], verify=in_verify, depends=["1.2"]),
    Checkpoint(
        "1.4", "CLI, STI, HLT", 4,
        "CLI and STI change the guest's own interrupt flag and nothing else. HLT halts the virtual CPU; with interrupts off "
        "nothing can ever wake it, and the VM stops with a sentence that says so.",
        "The flag is bit 9 of v->rflags. HLT sets v->halted; the frame waits, or finds that waiting is hopeless.",
        runs=[Run("flags", "lab1/flags.elf", params=flags_params(0)),
              Run("hlt", "lab1/flags.elf", params=flags_params(1), ends=(HV_STOPPED,))],
        verify=flags_verify, depends=["1.2"]),
    Checkpoint(
        "1.5", "INS and OUTS", 6,
        "INS and OUTS move 1, 2 or 4 bytes between a port and memory, step RDI or RSI up or down by DF, repeat RCX times with REP "
        "(not at all when it is 0), and use 32-bit addresses and counts with the prefix 67h.",
        "Write one element first, then the repetition around it. Which registers change at the end, and how wide are they?",
        runs=[Run("strio", "lab1/strio.elf", params=strio_params)], verify=strio_verify, depends=["1.3"]),
    Checkpoint(
        "1.6", "control registers", 4,
        "MOV to and from CR0, CR2, CR3, CR4 and CR8 works with every general register on the guest's own control registers; CLTS "
        "clears TS; LMSW sets the low bits of CR0 but cannot clear PE.",
        "The guest's control registers are fields of struct vcpu. The operand that is not a control register may be any of 16.",
        runs=[Run("cr", "lab1/cr.elf", params=cr_params)], verify=cr_verify, depends=["1.2"]),
]

# The files are by topic, the ladder is by number.
CHECKPOINTS = sorted(CHECKPOINTS + SYSTEM + EVENTS + POPEK, key=lambda c: [int(n) for n in c.id.split(".")])
