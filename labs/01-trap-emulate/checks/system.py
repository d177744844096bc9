"""Checkpoints 1.7 to 1.10 and 1.20: the parts of the CPU that only an operating system touches, and what CPUID says of it all.

The faults that these instructions can raise need exception delivery, which is written later: see system_faults.py.
"""

import struct

from checks import first, printed_by_traps, reported
from model import Checkpoint, Failure, Run
from probes import MASK64, after, low, registers, u64

MASK32 = (1 << 32) - 1


def canonical(rng):
    """An address with bits 47 to 63 all equal and both halves full of bits. (SDM vol. 1, 3.3.7.1)"""
    value = rng.getrandbits(47) | 1 << 40 | 1
    return value | (0xFFFF8 << 44 if rng.getrandbits(1) else 0)


def pack(*small):
    """Numbers below 256 in one parameter."""
    return int.from_bytes(bytes(small), "little")


# --- 1.7 ------------------------------------------------------------------------------------------------------------------

# SDM vol. 3, figure 17-1: what can be written, and what reads as one.
DR6_FREE, DR6_ONES = 0xE00F, 0xFFFF0FF0
DR7_FREE, DR7_ONES = 0xFFFF23FF, 0x400
DR7_WRITTEN = 0xD000  # reserved bits that the guest tries to set


def dr7(rng):
    """Any breakpoints on, of kinds and lengths that exist (SDM vol. 3, 17.2.4 and 17.2.5), and GD off."""
    value = rng.getrandbits(10) | rng.getrandbits(16) & DR7_WRITTEN
    for i in range(4):
        kind = rng.choice((0, 1, 3))
        value |= (kind | (rng.getrandbits(2) << 2 if kind else 0)) << 16 + 4 * i
    return value


def dr_params(rng):
    # Bit 63 set and 62 clear: no address at all, so that no breakpoint is ever hit.
    addresses = [u64(rng) & ~(1 << 62) for _ in range(5)]
    return [u64(rng), *addresses[:4], rng.getrandbits(32), dr7(rng), rng.getrandbits(32), dr7(rng), addresses[4]]


def dr_verify(results, params):
    r = results["dr"]
    seed, a, b, c, d, w6, w7, w4, w5, again = params["dr"][:10]

    def status(value):
        return value & DR6_FREE | DR6_ONES

    def control(value):
        return value & DR7_FREE | DR7_ONES

    fixed = "Some bits of DR6 and DR7 cannot be changed: they always read as ones, or as zeros (SDM vol. 3, figure 17-1)."
    alias = "While CR4.DE is 0, DR4 and DR5 are other names of DR6 and DR7 (SDM vol. 3, 17.2.2)."
    # probe, the register that was written or None, the register that gets a value or None, the value, hint
    steps = (
        ("reset6", None, "rdx", DR6_ONES, fixed), ("reset7", None, "r11", DR7_ONES, fixed),
        ("w0", "rax", None, a, None), ("w1", "r9", None, b, None), ("w2", "rbp", None, c, None), ("w3", "r15", None, d, None),
        ("w6", "rdi", None, w6, None), ("r6", None, "rdx", status(w6), fixed),
        ("w7", "r10", None, w7, None), ("r7", None, "r11", control(w7), fixed),
        ("r6b", None, "rdx", status(w6), None),
        ("r4", None, "r13", status(w6), alias), ("r5", None, "rax", control(w7), alias),
        ("w4", "r12", None, w4, alias), ("w5", "rsi", None, w5, alias),
        ("r6c", None, "rdx", status(w4), alias), ("r7c", None, "r11", control(w5), alias),
        ("r0", None, "r8", a, None), ("r1", None, "rcx", b, None), ("r2", None, "r14", c, None), ("r3", None, "rbx", d, None),
        ("w0b", "rax", None, again, None), ("r0b", None, "r8", again, None), ("r1b", None, "rcx", b, None),
    )
    found = []
    for i, (probe, given, got, value, hint) in enumerate(steps):
        before = registers(seed + i, **({given: value} if given else {}))
        found.append(after(r, probe, before, hint, **({got: value} if got else {})))
    return first(*found, printed_by_traps(r, r.output, len(steps)))


# --- 1.8 ------------------------------------------------------------------------------------------------------------------

BUSY = 2  # bit 1 of a descriptor's type; the type is in byte 5


def tables_params(rng):
    # Places of descriptors of 16 bytes that do not overlap. LTR is first tried with one of the lower ones.
    slots = [2 * n + rng.getrandbits(1) for n in rng.sample(range(2, 29, 2), 4)]
    return [u64(rng), pack(*(rng.randrange(256) for _ in range(3))), pack(*slots), canonical(rng) & ~0xFFF, rng.randrange(1 << 31),
            rng.randrange(1, 4)]


def tables_verify(results, params):
    r = results["tables"]
    seed, offsets, slots, _, _, _ = params["tables"][:6]
    offset = [offsets >> 8 * i & 0xFF for i in range(3)]
    one, two, ldt, three = (slots >> 8 * i & 0xFF for i in range(4))
    # probe, register with an address in it, other registers that were set
    probes = (("lgdt", "rdi", {}), ("lidt", "rsi", {}), ("ltr", None, {"r9": one * 8}), ("lgdtindex", "rbx", {"rcx": 5}),
              ("ltrmem", "rdx", {}), ("lgdtprefix", "r13", {}), ("lldt", None, {"rax": ldt * 8}), ("lidtagain", "r12", {}),
              ("ltragain", None, {"r9": three * 8}), ("lldtnull", "r8", {}), ("ltrlast", None, {"r9": one * 8}))
    found = []
    for i, (probe, address, given) in enumerate(probes):
        before = registers(seed + i)
        for name, value in given.items():
            before[name] = value if name == "rcx" else low(before[name], 16, value)
        found.append(after(r, probe, before, free=[address] if address else []))
    # report, which table changed, which entry of it, hint
    busy = "LTR sets the busy bit (bit 41) of the TSS descriptor, in the guest's own GDT (SDM vol. 2, LTR)."
    stays = "LIDT and LLDT do not change where the GDT is. An LDT descriptor is not marked in any way."
    prefix = "In 64-bit mode the operand of LGDT always has 10 bytes: a limit of 2 and a base of 8 (SDM vol. 2, LGDT)."
    for name, table, slot, hint in (("ltr", 0, one, busy), ("ltrmem", 1, two, busy), ("lldt", None, 0, stays),
                                    ("ltragain", 2, three, prefix), ("ltrlast", 2, one, stays)):
        at = [(offset[i] + slot * 8 + 5) << 8 | BUSY if i == table else 0 for i in range(3)]
        found += [reported(r, name + ".last", at, hint), reported(r, name + ".count", [int(i == table) for i in range(3)], hint)]
    return first(*found, printed_by_traps(r, r.output, len(probes)))


# --- 1.9 ------------------------------------------------------------------------------------------------------------------

MSRS = ((0xC0000081, "star"), (0xC0000082, "lstar"), (0xC0000083, "cstar"), (0xC0000084, "sfmask"), (0xC0000100, "fs"),
        (0xC0000101, "gs"), (0xC0000102, "kernelgs"), (0x174, "syscs"), (0x175, "sysesp"), (0x176, "syseip"), (0x277, "pat"))
# Their places in the parameters, and in the guest's list.
MSR_PARAMS = {"star": 1, "lstar": 2, "cstar": 3, "sfmask": 4, "kernelgs": 5, "syscs": 6, "sysesp": 7, "syseip": 8, "pat": 9, "fs": 10,
              "gs": 11}
MSR_EFER, EFER_LONG, PAT_RESET = 0xC0000080, 0x500, 0x0007040600070406
TSC_SLACK = 1 << 42  # more cycles than any run may take


def msr_params(rng):
    pat = pack(*(rng.choice((0, 1, 4, 5, 6, 7)) for _ in range(8)))
    cells = rng.sample(range(1, 250), 3)
    return [u64(rng), u64(rng), canonical(rng), canonical(rng), rng.getrandbits(32) | 1 << 31, canonical(rng), rng.getrandbits(16) | 1,
            canonical(rng), canonical(rng), pat, canonical(rng), canonical(rng), pack(*cells), rng.getrandbits(16),
            rng.randrange(1 << 50, 1 << 51), rng.randrange(1 << 45, 1 << 46)]


def counting(result, key, start):
    """The time stamp counter. On a busy test host, whose kernel then trusts its own counter no longer, KVM may set it back by
    what passed since the guest last ran; never to before the value that was written."""
    seen = result.lines.get(key, [])
    if len(seen) == 3 and all(start <= value < start + TSC_SLACK for value in seen) and seen[0] != seen[2]:
        return None
    return Failure("three readings of the time stamp counter (RDMSR, RDTSC, RDMSR), just above %#x and not the same" % start,
                   ", ".join("%#x" % v for v in seen) or "none",
                   "WRMSR to MSR 0x10 sets the counter that RDTSC reads too: trap_set_tsc(), trap_machine_tsc().", result.name)


def null_base(result, key, offset, cell):
    """After a null selector the base is 0 or what it was, but the MSR and memory agree about it."""
    at, base = (result.lines.get("null." + name, [None])[0] for name in (key, key + "base"))
    if (base, at) in ((0, cell(0)), (offset * 8, cell(offset))):
        return None
    what = {"fs": "RDMSR reports for FS", "gs": "RDMSR reports for GS", "swap": "SWAPGS puts into KERNEL_GS_BASE"}[key]
    return Failure("the base that %s to be the one that memory accesses used before" % what,
                   "%s, while an access found what lies at base %s" % (
                       "%#x" % base if base is not None else "nothing", "0" if at == cell(0) else "%#x" % (offset * 8)),
                   "Loading a null selector does not trap, and may clear the base: trap_refresh_segments() asks the machine.", result.name)


def msr_verify(results, params):
    r, p = results["msr"], params["msr"]
    seed, step, found = p[0], 0, []
    halves = "RDMSR puts 32 bits into EAX and 32 into EDX, which clears the upper halves; WRMSR and ECX ignore upper halves."

    def look(probe, index, value, hint=halves):
        nonlocal step
        before = registers(seed + step)
        before["rcx"] = low(before["rcx"], 32, index)
        found.append(after(r, probe, before, hint, rax=value & MASK32, rdx=value >> 32))
        step += 1

    def write(probe, index, value):
        nonlocal step
        before = registers(seed + step)
        for name, part in (("rcx", index), ("rax", value & MASK32), ("rdx", value >> 32)):
            before[name] = low(before[name], 32, part)
        found.append(after(r, probe, before, "WRMSR changes no general register."))
        step += 1

    look("resetpat", 0x277, PAT_RESET)
    look("resetefer", MSR_EFER, EFER_LONG)
    for index, name in MSRS:
        write("w" + name, index, p[MSR_PARAMS[name]])
    for index, name in reversed(MSRS):
        look("r" + name, index, p[MSR_PARAMS[name]])

    def cell(i):
        return seed * (2 * i + 1) & MASK64

    a, b, c = (p[12] >> 8 * i & 0xFF for i in range(3))
    effect = "FS_BASE and GS_BASE must reach the machine: trap_special_changed()."
    found += [reported(r, "fs", cell(a), effect), reported(r, "fs8", cell(a + 1), effect)]
    swap = "SWAPGS exchanges the base of GS and KERNEL_GS_BASE, and nothing else (SDM vol. 2, SWAPGS)."
    found.append(after(r, "swapgs", registers(seed + step), swap))
    step += 1
    for name, gs, kernel in (("gs", b, c), ("swap1", c, b), ("swap2", b, c)):
        hint = effect if name == "gs" else swap
        found += [reported(r, name + ".at", cell(gs), hint), reported(r, name + ".base", gs * 8, hint),
                  reported(r, name + ".kernel", kernel * 8, hint)]
    found += [reported(r, "swap3.at", cell(c), swap), reported(r, "fsagain", cell(a), swap)]
    found += [null_base(r, "fs", a, cell), null_base(r, "gs", b, cell), null_base(r, "swap", b, cell)]
    replaced = ("A base that the guest sets to the number that it had before it loaded a null selector: hv must know that the machine's is "
                "another by now, or it believes that there is nothing to do. trap_refresh_segments() comes first, for %s too.")
    found += [reported(r, "again.fs", cell(a), replaced % "WRMSR"), reported(r, "again.gs", cell(b), replaced % "SWAPGS")]

    toggled = [EFER_LONG | p[13] >> 2 * i & 1 | (p[13] >> 2 * i + 1 & 1) << 11 for i in range(8)]
    found.append(reported(r, "efer", toggled, "SCE (bit 0) and NXE (bit 11) can be switched; LME and LMA stay on."))
    write("wefer", MSR_EFER, EFER_LONG)
    look("refer", MSR_EFER, EFER_LONG)
    found += [counting(r, "tsca", p[14]), counting(r, "tscb", p[15])]
    # Besides the probes: 3 + 7 writes of bases, 6 + 3 reads and 2 + 2 swaps; 16 for EFER, 6 for the counter.
    return first(*found, printed_by_traps(r, r.output, step + 45))


# --- 1.10 -----------------------------------------------------------------------------------------------------------------

# The entries of the guest's tables, as in segments.c.
(D_FS, D_GS, D_POP_FS, D_POP_GS, D_POP_W, D_LFS, D_LGS, D_LGS_W, D_LSS, D_SS, D_DS, D_ES, C_JUMP, C_JUMP32, C_CALL, C_CALL32, C_RET,
 D_UNUSED, D_LDT) = range(4, 23)
L_DATA, L_CODE, LDT_SIZE = 40, 41, 42
ACCESSED = 1 << 40
BOOT_CS = 0x10


def segments_params(rng):
    cells = rng.sample(range(256), 16)
    return [u64(rng), rng.randrange(17 << 20, 60 << 20, 8), pack(*cells[:8]), pack(*cells[8:]),
            rng.getrandbits(3), rng.getrandbits(2)]


def segments_verify(results, params):
    r = results["segments"]
    seed, _, index_a, index_b, order, rpl = params["segments"][:6]
    index = struct.pack("<2Q", index_a, index_b)
    found, step = [], 0

    def probe(name, given=None, address=(), hint=None, **changed):
        nonlocal step
        before = registers(seed + step)
        for reg, value in (given or {}).items():
            before[reg] = value if reg == "rcx" else low(before[reg], 16, value)
        changed = {reg: make(before[reg]) for reg, make in changed.items()}
        found.append(after(r, name, before, hint, address, **changed))
        step += 1

    def at(key, n, offset=0, hint="The base of FS and GS comes from the descriptor, and must reach the machine."):
        found.append(reported(r, key, seed * (2 * (index[n] + offset) + 1) & MASK64, hint))

    far = "A far pointer in memory is the offset, 2, 4 or 8 bytes by the operand's size, with the selector behind it."
    probe("movfs", {"r9": D_FS * 8 | rpl})
    at("movfs.at", 0)
    probe("movgs", address=["rdi"])
    at("movgs.at", 1, 1)
    at("movgs.fs", 0)
    probe("movds", {"r14": D_DS * 8})
    probe("moves", {"rax": D_ES * 8})
    probe("movss", {"rbx": D_SS * 8})
    pop = "POP of a segment register takes 8 bytes off the stack (2 with the prefix 66h), of which the low 2 are the selector."
    for key, size in (("popfs", 0), ("popgs", 0), ("popw", 6)):
        found.append(reported(r, key + ".sp", size, pop))
    at("popfs.at", 2, hint=pop)
    at("popgs.at", 3, 1, hint=pop)
    at("popw.at", 4, 1, hint=pop)
    probe("lfs", address=["rsi"], hint=far, rbx=lambda old: seed & MASK32)
    at("lfs.at", 5, hint=far)
    probe("lgs", address=["r12"], hint=far, r11=lambda old: seed * 3 & MASK64 & ~(0xFFFF << 32) | D_LGS << 35)
    at("lgs.at", 6, 1, hint=far)
    probe("lgsw", address=["rbp"], hint=far, rcx=lambda old: low(old, 16, seed * 5 & 0xFFFF))
    at("lgsw.at", 7, 1, hint=far)
    probe("lss", {"rcx": 3}, ["r15"], far, rdx=lambda old: seed * 7 & MASK32)
    probe("ssnull", {"rbx": 0})
    local = "Bit 2 of a selector chooses between GDT and LDT, and each has a base and a limit of its own (SDM vol. 3, 3.4.2)."
    probe("ldt", {"r9": L_DATA * 8 | 4}, hint=local)
    at("ldt.at", 12, hint=local)
    probe("ldtlow", {"r9": D_FS * 8 | 4}, hint=local)
    at("ldtlow.at", 13, hint=local)
    probe("again", {"r9": D_FS * 8})
    at("again.at", 0)

    jumps = "A far jump goes to the offset in the far pointer and loads CS with the selector behind it."
    for n, key in enumerate(("jump", "jump32", "jumpldt")):
        found.append(reported(r, key, 0xB if order >> n & 1 else 0xA, jumps))
    calls = ("A far call pushes the old CS and then the address behind it, each with the operand's size; a far return takes both off "
             "again, and more by its immediate operand.")
    # key, the CS that is pushed, the bytes that are, by how much RSP has risen behind the call
    for key, cs, pushed, back in (
            ("call", BOOT_CS, 16, 0), ("jumped", C_JUMP * 8, 16, 0), ("returned", C_JUMP * 8, 16, 0), ("call32", C_JUMP32 * 8, 8, 0),
            ("callpop", C_RET * 8, 16, 24), ("callldt", L_CODE * 8 | 4, 16, 0)):
        found += [reported(r, key + ".rip", 0, calls), reported(r, key + ".cs", cs, calls), reported(r, key + ".pushed", pushed, calls),
                  reported(r, key + ".back", back, calls)]
    found.append(reported(r, "ret.sp", 0, calls))
    marks = ("Loading a descriptor sets its accessed bit (bit 40) in the guest's table, and changes nothing else in it (SDM vol. 3, "
             "3.4.5.1).")
    found.append(reported(r, "gdt", [0 if i in (D_UNUSED, D_LDT, D_LDT + 1) else ACCESSED for i in range(D_FS, D_LDT + 2)], marks))
    found.append(reported(r, "ldt", [ACCESSED if i in (D_FS, L_DATA, L_CODE) else 0 for i in range(D_FS, LDT_SIZE)], marks))
    # Besides the probes: LGDT and LLDT, 3 POPs, 3 jumps, 6 calls, 7 returns.
    return first(*found, printed_by_traps(r, r.output, step + 21))


# --- 1.20 -----------------------------------------------------------------------------------------------------------------


def bits(*numbers):
    return sum(1 << n for n in numbers)


REGISTERS = ("a", "b", "c", "d")
# Leaf, register, names, bits. What the guest's CPU has as soon as the host's has it, because the trap engine need do nothing for it.
MUST_HAVE = (
    (1, "d", "FPU, TSC, MSR, PAE, CX8, PGE, CMOV, PAT, FXSR, SSE, SSE2", bits(0, 4, 5, 6, 8, 13, 15, 16, 24, 25, 26)),
    (0x80000001, "d", "SYSCALL, NX, LM (64-bit mode)", bits(11, 20, 29)),
)
# What it must not have, because nothing here virtualizes it: its registers, its CR4 bit or its instructions would fault.
MUST_NOT_HAVE = (
    (1, "c", "bit 31, by which a hypervisor announces itself", bits(31)),
    (1, "c", "DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, PDCM, PCID, x2APIC or the TSC deadline timer",
     bits(2, 3, 4, 5, 6, 7, 8, 15, 17, 21, 24)),
    (1, "c", "XSAVE, OSXSAVE, or AVX, F16C and FMA, which need it", bits(12, 26, 27, 28, 29)),
    # Bit 9, the local APIC, is the frame's to set, here and in 0x80000001 (irqchip_cpuid()).
    (1, "d", "VME, machine checks, SYSENTER, MTRRs, DS, ACPI, TM, PBE or several logical CPUs (HTT)",
     bits(1, 7, 11, 12, 14, 21, 22, 28, 29, 31)),
    (7, "b", "FSGSBASE, TSC_ADJUST, SGX, HLE, SMEP, INVPCID, RTM, MPX, SMAP, processor trace, AVX2 or AVX-512",
     bits(0, 1, 2, 4, 5, 7, 10, 11, 12, 14, 15, 16, 17, 20, 21, 25, 26, 27, 28, 30, 31)),
    (7, "c", "UMIP, PKU, WAITPKG, CET, LA57, RDPID or key locker", bits(2, 3, 4, 5, 7, 16, 22, 23)),
    (7, "d", "anything that needs an MSR which RDMSR refuses (SPEC_CTRL, ARCH_CAPABILITIES and so on)",
     bits(5, 14, 15, 18, 19, 20, 26, 27, 28, 29, 30, 31)),
    (0x80000001, "c", "SVM, the extended APIC space, OSVW, IBS, XOP, SKINIT, LWP, FMA4, topology or counters of AMD's, or MONITORX",
     bits(2, 3, 9, 10, 11, 12, 13, 15, 16, 19, 22, 23, 24, 28, 29)),
    (0x80000001, "d", "machine checks, MTRRs, FFXSR or RDTSCP", bits(7, 12, 14, 25, 27)),
    (0x80000008, "b", "IBPB, IBRS, STIBP or SSBD, whose MSRs RDMSR refuses", bits(12, 14, 15, 16, 17, 18, 19, 24, 25)),
    (0x80000008, "c", "more than one core", 0xFF),
)
# Leaves that describe what the guest's CPU does not have, whatever the largest leaf is said to be: MONITOR, cache access, counters,
# XSAVE, resource directors, SGX, processor trace, key locker; SVM, IBS, LWP, topology, memory encryption.
MUST_BE_EMPTY = (5, 9, 0xA, 0xD, 0xF, 0x10, 0x12, 0x14, 0x19, 0x8000000A, 0x8000001B, 0x8000001C, 0x8000001E, 0x8000001F)
# Registers that consist of features: leaf, subleaf, register.
FEATURES = ((1, 0, "c"), (1, 0, "d"), (7, 0, "b"), (7, 0, "c"), (7, 0, "d"), (7, 1, "a"), (0x80000001, 0, "c"), (0x80000001, 0, "d"),
            (0x80000007, 0, "d"), (0x80000008, 0, "b"), (0x80000008, 0, "c"))
MAX_BASIC, MAX_EXTENDED = 0x1F, 0x80000021
QUESTIONS = 37 + 2 + 8  # fixed ones, those behind the largest leaves, random ones


def cpuid_params(rng):
    anywhere = [rng.randrange(0x30, 0x40000000), rng.randrange(0x40000002, 0x40000010), 0x40000000 + 0x100 * rng.randrange(1, 0x100),
                rng.randrange(0x40000000, 0x40010000), rng.randrange(0x40010000, 0x80000000), rng.randrange(0x80000030, 0x80010000),
                rng.randrange(0x80010000, 0xC0000000), rng.randrange(0xC0000000, 0xFFFFFFFF)]
    return [u64(rng), *(leaf | rng.getrandbits(4) << 32 for leaf in anywhere)]


def cpuid_answers(result):
    """{(leaf, subleaf): {"a": EAX, ...}} of the questions that were answered completely."""
    answers = {}
    for key, values in result.lines.items():
        parts = key[1:].split(".")
        if key[0] == "l" and len(parts) == 3 and parts[2] in REGISTERS:
            answers.setdefault((int(parts[0], 16), int(parts[1], 16)), {})[parts[2]] = values[-1]
    return {question: answer for question, answer in answers.items() if len(answer) == 4}


def show(leaf, register, value):
    return "CPUID leaf %#x: E%sX = %08x" % (leaf, register.upper(), value)


def cpuid_judge(r, guest, host):
    """Failures in the answers, one by one. guest and host: what cpuid_answers() made of the two runs."""
    name = r.name
    for (leaf, _), answer in guest.items():
        for register in REGISTERS:
            if answer[register] >> 32:
                yield Failure("E%sX of leaf %#x with the upper half of the register cleared" % (register.upper(), leaf),
                              "%#x" % answer[register], "CPUID writes 32-bit registers.", name, exact=True)
    basic, extended = guest[0, 0], guest[0x80000000, 0]
    if not 7 <= basic["a"] <= MAX_BASIC:
        yield Failure("a largest basic leaf between 7 and %#x" % MAX_BASIC, show(0, "a", basic["a"]), run=name)
    if not 0x80000008 <= extended["a"] <= MAX_EXTENDED:
        yield Failure("a largest extended leaf between 0x80000008 and %#x" % MAX_EXTENDED, show(0x80000000, "a", extended["a"]), run=name)
    for register in "bdc":
        if basic[register] != host[0, 0][register]:
            yield Failure(show(0, register, host[0, 0][register]), show(0, register, basic[register]),
                          "Leaf 0 names the maker of the CPU. Programs choose instructions by it, so it must be the host's.", name,
                          exact=True)
    if guest[1, 0]["a"] != host[1, 0]["a"]:
        yield Failure(show(1, "a", host[1, 0]["a"]), show(1, "a", guest[1, 0]["a"]), "Family, model and stepping are the host's.", name,
                      exact=True)

    for (leaf, subleaf), answer in guest.items():
        hypervisors = 0x40000000 <= leaf < 0x80000000
        beyond = basic["a"] < leaf < 0x40000000 or extended["a"] < leaf
        if not (hypervisors or beyond or leaf in MUST_BE_EMPTY):
            continue
        for register in REGISTERS:
            if answer[register]:
                yield Failure("nothing but zeros from leaf %#x, subleaf %d" % (leaf, subleaf), show(leaf, register, answer[register]),
                              "Leaves from 0x40000000 on are where hypervisors tell about themselves." if hypervisors else
                              "A leaf that does not exist is answered with zeros, and so is one about something that the guest's CPU does "
                              "not have.", name)

    for leaf, register, what, mask in MUST_HAVE:
        answer = guest[leaf, 0][register]
        missing = host[leaf, 0][register] & mask & ~answer
        if missing:
            yield Failure("a CPU with the bits %08x of this register, as the host has them" % missing, show(leaf, register, answer),
                          "Nothing needs to be done for %s: the guest's CPU has them when the host's has." % what, name)
    for leaf, register, what, mask in MUST_NOT_HAVE:
        answer = guest[leaf, 0][register]
        if answer & mask:
            yield Failure("a CPU without " + what, show(leaf, register, answer) + ", of which %08x should be 0" % (answer & mask),
                          "The trap engine virtualizes none of these, so the guest must not hear of them.", name)
    for leaf, subleaf, register in FEATURES:
        answer = guest[leaf, subleaf][register]
        more = answer & ~host[leaf, subleaf][register]
        if more:
            yield Failure("no feature that the host lacks", show(leaf, register, answer) + ", of which the host does not have %08x" % more,
                          "An answer begins with what the host says, and takes away.", name)

    ebx = guest[1, 0]["b"]
    if ebx >> 16 & 0xFF > 1 or ebx >> 24:  # without HTT the number need not be there
        yield Failure("leaf 1 to tell of 1 logical CPU with APIC id 0", show(1, "b", ebx),
                      "EBX of leaf 1: bits 16-23 are the number of logical CPUs, 1 here, bits 24-31 this one's APIC id.", name)
    if guest[1, 0]["d"] & bits(19) and ebx >> 8 & 0xFF != host[1, 0]["b"] >> 8 & 0xFF:
        yield Failure("the host's CLFLUSH line size (%08x, bits 8-15)" % host[1, 0]["b"], show(1, "b", ebx), run=name)
    if guest[4, 0]["a"] >> 26:
        yield Failure("one core in the description of the caches (EAX bits 26-31)", show(4, "a", guest[4, 0]["a"]), run=name)
    widths, most = guest[0x80000008, 0]["a"], host[0x80000008, 0]["a"]
    if not 32 <= widths & 0xFF <= most & 0xFF or widths >> 8 & 0xFF != 48:
        yield Failure("physical addresses of 32 to %d bits and virtual ones of 48" % (most & 0xFF), show(0x80000008, "a", widths), run=name)


def cpuid_verify(results, params):
    r, native = results["trap"], results["kvm"]
    guest, host = cpuid_answers(r), cpuid_answers(native)
    failure = first(reported(r, "others", 0, "CPUID changes RAX, RBX, RCX and RDX and no other register."),
                    reported(native, "others", 0), printed_by_traps(r, r.output, QUESTIONS))
    if failure:
        return failure
    needed = {key[:2] for key in FEATURES} | {(0, 0), (4, 0), (0x80000000, 0)}
    for result, answers in ((r, guest), (native, host)):
        if not needed <= answers.keys():
            return Failure("answers to all of the guest's questions", "%d answers" % len(answers), run=result.name)
    return next(cpuid_judge(r, guest, host), None)


CHECKPOINTS = [
    Checkpoint(
        "1.7", "debug registers", 4,
        "MOV to and from DR0-DR3, DR6 and DR7 works on the guest's own debug registers, with every general register. Bits of DR6 and "
        "DR7 that are fixed read as what they always are, and DR4 and DR5 are other names of DR6 and DR7 while CR4.DE is 0.",
        "Draw the fixed bits first (SDM vol. 3, figure 17-1). The machine learns about a change through trap_debugregs_changed().",
        runs=[Run("dr", "lab1/dr.elf", params=dr_params)], verify=dr_verify, depends=["1.2"]),
    Checkpoint(
        "1.8", "LGDT, LIDT, LLDT, LTR", 5,
        "LGDT and LIDT take a limit of 2 bytes and a base of 8 from memory. LTR and LLDT take a selector from a register or memory and "
        "load the descriptor of 16 bytes that it names in the guest's GDT; LTR marks it busy there. A null selector for LLDT is fine.",
        "descriptor_read() finds a descriptor by selector; segment_from_descriptor() makes the hidden part of a segment register of it.",
        runs=[Run("tables", "lab1/tables.elf", params=tables_params)], verify=tables_verify, depends=["1.2"]),
    Checkpoint(
        "1.9", "RDMSR, WRMSR, SWAPGS", 5,
        "The MSRs of SYSCALL and SYSENTER, PAT, KERNEL_GS_BASE and EFER keep what the guest wrote. FS_BASE, GS_BASE and SWAPGS change "
        "what memory accesses through FS and GS reach. The time stamp counter can be set and goes on from there.",
        "Most MSRs are a field of struct vcpu: one function that finds the field serves both directions. Then look at the exceptions.",
        runs=[Run("msr", "lab1/msr.elf", params=msr_params)], verify=msr_verify, depends=["1.2"]),
    Checkpoint(
        "1.10", "segment loads and far transfers", 6,
        "MOV, POP, LSS, LFS and LGS load a segment register from the guest's GDT or LDT and mark the descriptor accessed; the base of FS "
        "and GS takes effect. Far jumps, calls and returns change CS and RIP together, with operands of 4 and 8 bytes.",
        "load_data_segment() and far_transfer() in protect.h do the checks; what is left is where selector and offset come from.",
        runs=[Run("segments", "lab1/segments.elf", params=segments_params)], verify=segments_verify, depends=["1.8"]),
    Checkpoint(
        "1.20", "what CPUID says", 6,
        "CPUID describes the virtual CPU: the host's maker and model, no feature that the host lacks or that is not virtualized here, "
        "one logical CPU, and no trace of a hypervisor. Leaves that do not exist are zero. What needs no help of hv's (FPU, SSE2, "
        "64-bit mode, SYSCALL, NX) stays.",
        "Begin with an answer of zeros and let through, leaf by leaf and bit by bit, what the guest can really use.",
        runs=[Run("trap", "lab1/cpuid.elf", params=cpuid_params),
              Run("kvm", "lab1/cpuid.elf", args=("--engine", "kvm"), params=cpuid_params)],
        verify=cpuid_verify, depends=["1.2"]),
]
