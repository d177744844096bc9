"""Checkpoints 3.7 to 3.10: the guest is entered and left, and what it asks for is done."""

import struct

from checks import first, reported
from guestmode import AMD, INTEL, guest, left, said_why, unclaimed
from model import BOCHS, HV_STOPPED, QEMU, Checkpoint, Failure
from probes import ARITHMETIC, CR0_ET, CR0_FIXED, CR0_FREE, MASK64, NAMES, after, low, registers, some_bits, u64
from splitmix import SplitMix64
from trials import place

PREMAP = "--premap"  # memory on demand is 3.11

# --- 3.7 and 3.8 ----------------------------------------------------------------------------------------------------------

WORDS = 4096


def enter_params(rng):
    return [u64(rng), rng.randrange(3, 12), place(rng, 20, 30, 4096), place(rng, 32, 60)]


def enter_verify(results, params):
    ((name, r),) = results.items()
    seed, rounds, _, end, *_ = params[name]
    random, area, mixed = SplitMix64(seed), [0] * WORDS, 0

    def mix(v):
        nonlocal mixed
        mixed = (mixed ^ v) * 0x9E3779B97F4A7C15 & MASK64

    for i in range(rounds):
        for register in NAMES[:-1]:
            mix(registers(seed + i & MASK64)[register])
        mix(seed + i & ARITHMETIC)
        for _ in range(64):
            n = random.next()
            area[n % WORDS] = area[n % WORDS] + (n >> 12) & MASK64
            mix(area[n >> 52])
    limit, numbers = mixed & 0x3F, []
    for i in (1, 2, 3):
        mix(i)
        numbers.append(mixed)
    base, cr2, rsp = numbers[0] >> 17, numbers[1], numbers[2]
    return first(
        left(r, "Each INVD of the guest's is an exit, and the triple fault at its end. Registers and memory must be the guest's again "
             "behind each.", cache=rounds, shutdown=1),
        said_why(r, "triple fault at rip %#x:" % end,
                 "The guest calculates, in 15 registers and in memory, and ends by a triple fault where it was told to."),
        said_why(r, "IDT base %#x limit %#x, rsp %#x, cr2 %#x" % (base, limit, rsp, cr2),
                 "These four are the result of what the guest calculated: registers or memory were not the guest's own at some time."))


# --- 3.9 ------------------------------------------------------------------------------------------------------------------

PLAIN, STRIDE, SCRATCH = 10, 4, 0x3FF
# leaf, register, bits that a guest must not see
HIDDEN = ((1, "rcx", 1 << 31, "bit 31, by which a hypervisor announces itself"), (1, "rcx", 1 << 5, "VMX"),
          (0x80000001, "rcx", 1 << 2, "SVM"), (1, "rcx", 1 << 26 | 1 << 27 | 1 << 28, "XSAVE or AVX"))
VENDORS = (b"AuthenticAMD", b"GenuineIntel")
LEAVES = ((0, 0), (1, 0), (7, 0), (7, 1), (0x80000001, 0), (0x8000000A, 0), (0x40000000, 0), (0x80000002, 0))
EMPTY = (0x8000000A, 0x40000000)


def answers_params(rng):
    more = [rng.randrange(8, 0x1000), rng.randrange(0x40000001, 0x40000100), rng.randrange(0x80000009, 0x80001000),
            7 | rng.randrange(2, 100) << 32]
    return [u64(rng), rng.randrange(0x1000, 0x7000, 64), rng.randrange(8, 15), rng.randrange(600, 1500), *more, place(rng, 32, 60)]


def cpuid_verify(r, params):
    hint = "hvm_cpuid() says what this guest's CPU has; CPUID writes four 32-bit registers, and clears the upper halves of all four."
    vendor = b""
    for n, (leaf, sub) in enumerate(LEAVES + tuple((p & 0xFFFFFFFF, p >> 32) for p in params[4:8])):
        key = "cpuid%x" % n
        seen = {name: r.lines.get("%s.%s" % (key, name), [None])[0] for name in ("rax", "rbx", "rcx", "rdx")}
        if None in seen.values():
            return reported(r, key + ".rax", 0, hint)
        for name, value in seen.items():
            if value >> 32:
                return Failure("%s of CPUID leaf %#x with its upper half cleared" % (name.upper(), leaf), "%#x" % value, hint, r.name, True)
            if (leaf in EMPTY or n >= len(LEAVES) or (leaf, sub) == (7, 1)) and value:
                return Failure("zeros from CPUID leaf %#x, subleaf %d" % (leaf, sub), "%s = %#x" % (name.upper(), value), hint,
                               r.name, True)
        for where, name, bits, what in HIDDEN:
            if where == leaf and seen[name] & bits:
                return Failure("CPUID leaf %#x without %s" % (leaf, what), "%s = %#x" % (name.upper(), seen[name]), hint, r.name, True)
        if not leaf:
            vendor = struct.pack("<3I", seen["rbx"], seen["rdx"], seen["rcx"])
        others = r.lines.get(key + ".changed", [0])[0] & ~0xF
        if others:
            return Failure("%s: no other register changed" % key, "changed: %#x" % others, hint, r.name, True)
    wanted = VENDORS[r.host == BOCHS]
    if r.witness is not None and vendor != wanted:
        return Failure("CPUID leaf 0 to name the maker of this host's CPU, %s" % wanted.decode(), repr(vendor), hint, r.name)
    return None


def answers_verify(results, params):
    r, p = results["answers"], params["answers"]
    seed, port, count, long, *_, halt = p[:9]
    scratch = seed >> 8 & 0xFF
    found = [cpuid_verify(r, p)]
    hint = ("OUT changes no register. IN of 8 and 16 bits leaves the rest of RAX as it is, of 32 bits clears the upper half. "
            "Then on behind it.")
    for i in range(PLAIN):
        before, at = registers(seed + 50 + i & MASK64), {4: 0xE0, 9: 0xE4}.get(i, port + STRIDE * i)
        before["rdx"] = low(before["rdx"], 16, port + STRIDE * i)
        changed = {} if i < 5 else {"rax": low(before["rax"], 8 << i - 5, MASK64 >> 64 - (8 << i - 5)) if i < 7 else 0xFFFFFFFF}
        found += [after(r, "port%x" % i, before, hint, **changed), unclaimed(r, "port", at, i >= 5, i < 5, hint)]
    found.append(reported(r, "scratch0", scratch, "A byte written to the UART's scratch register reads back."))
    found += [reported(r, "enable%d" % i, value & PM1_ENABLE,
                       "OUT of 16 bits writes both bytes of the power management's enable register, IN of 16 bits reads both.")
              for i, value in enumerate((seed, ~seed))]

    port += STRIDE * PLAIN
    hint = "Lab 1's emulate_string_io() does what INS and OUTS do, with the guest's state fetched first; EMU_NEXT: the instruction is done."
    # count given, count left, steps of the index register, up or down, in or out, port
    strings = ((long, 0, long, 1, 0, port), (count, 0, count * 2, -1, 0, port + STRIDE), (count, count, 4, 1, 0, port + 2 * STRIDE),
               (count, 0, count, 1, 1, None), (count, 0, count * 2, -1, 1, port + 3 * STRIDE),
               (count, count, 4, 1, 1, port + 4 * STRIDE))
    for i, (given, rest, moved, direction, is_in, at) in enumerate(strings):
        before = registers(seed + 100 + i & MASK64, rcx=given, rsi=0, rdi=0)
        before["rdx"] = low(before["rdx"], 16, SCRATCH if at is None else at)
        before["flags"] |= 0x400 if direction < 0 else 0
        found.append(after(r, "string%x" % i, before, hint, rcx=rest, **{"rdi" if is_in else "rsi": moved * direction & MASK64}))
        times = given if not rest else 1
        if at is not None:
            found.append(unclaimed(r, "port", at, times * is_in, times * (1 - is_in), hint))
    buffer = bytearray(b"\xaa" * 64)
    buffer[1 : 1 + count] = bytes([scratch]) * count
    buffer[50 - 2 * count : 50] = b"\xff" * 2 * count
    buffer[56:60] = b"\xff" * 4
    found += [reported(r, "buffer%x" % i, v, hint) for i, v in enumerate(struct.unpack("<8Q", buffer))]
    found += [
        said_why(r, "halted with interrupts off at rip %#x:" % (halt + 1), "HLT with interrupts off is the end of this guest, and RIP is "
                 "behind the instruction: there it would go on."),
        left(r, "One exit for each of these instructions, and no other.", cpuid=len(LEAVES) + 4, hlt=1,
             io=(PLAIN + 12, PLAIN + 32))]
    return first(*found)


# --- 3.10 -----------------------------------------------------------------------------------------------------------------
OWN_BITS = (64, 48, 48, 32, 48, 48, 48, 16, 48, 48)
PAT, MISC_ENABLE, EFER = 0x277, 0x1A0, 0xC0000080
EFER_LONG = 0x500
CR0_NE = 1 << 5
PM1_ENABLE = 0x4721  # the bits of that register that exist (labs/common/hv/acpi_pm.c)
TSC_SLACK = 1 << 45
SAFE_CR4 = (2, 3, 4, 7, 9, 10)


def registers_params(rng):
    pat = int.from_bytes(bytes(rng.choice((0, 1, 4, 5, 6, 7)) for _ in range(8)), "little")
    cr0a, cr0b = (some_bits(rng, CR0_FIXED, CR0_FREE) for _ in range(2))
    cr0b |= CR0_NE  # Linux 6.1's KVM below a VMX guest sets what it sees of NE when it does LMSW for it
    cr4 = [some_bits(rng, 1 << 5, SAFE_CR4) for _ in range(2)]
    return [u64(rng), rng.randrange(2, 5), pat, rng.getrandbits(12) & ~4 | 1 << 11, rng.randrange(1 << 50, 1 << 51),
            cr0a | 8, cr0b, u64(rng), *cr4,
            rng.randrange(1, 16), rng.randrange(1, 16), rng.choice((8, 0x10, 0x18)), u64(rng) & ~0xF | rng.randrange(0, 15, 2)]


def registers_verify(results, params):
    r, p = results["registers"], params["registers"]
    seed, rounds, pat, efer, tsc, cr0a, cr0b, cr2, cr4a, cr4b, cr8a, cr8b, cr3bits, lmsw = p[:14]
    random, found = SplitMix64(seed), []
    hint = ("FS and GS bases and the MSRs of SYSCALL, SWAPGS and SYSENTER are the CPU's to keep for the guest: they must pass, "
            "and survive an exit.")
    for i in range(rounds):
        for k, bits in enumerate(OWN_BITS):
            v = random.next()
            value = v >> 64 - bits
            if bits == 48:
                value = v & (1 << 48) - 1
                value |= 0xFFFF << 48 if value >> 47 else 0
            found.append(reported(r, "own%x" % (i * len(OWN_BITS) + k), value, hint))
    step = 0

    def msr(index, given, value, hint=None):
        """given is written, or value is read."""
        nonlocal step
        before = registers(seed + step & MASK64, rcx=index)
        for name, v in (("rax", (given or 0) & 0xFFFFFFFF), ("rdx", (given or 0) >> 32)):
            before[name] = low(before[name], 32, v)
        changed = {} if value is None else {"rax": value & 0xFFFFFFFF, "rdx": value >> 32}
        found.append(after(r, "msr%x" % step, before, hint, **changed))
        step += 1

    halves = "RDMSR puts 32 bits into EAX and 32 into EDX, which clears the upper halves; WRMSR and ECX ignore upper halves."
    msr(PAT, pat, None)
    msr(MISC_ENABLE, seed, None)
    msr(PAT, None, pat, halves)
    msr(MISC_ENABLE, None, seed, halves)
    for i in range(4):
        bits = efer >> 3 * i
        written = 0x100 | bits & 1 | (bits >> 1 & 1) << 11 | (0x400 if bits & 4 else 0)
        msr(EFER, written, None)
        msr(EFER, None, written | EFER_LONG,
            "LMA says whether long mode is active: the CPU's to say, and not to be written (APM vol. 2, 3.1.7).")
    for i in range(2):
        seen = r.lines.get("tsc%d" % i, [0])[0]
        if not tsc <= seen < tsc + TSC_SLACK:
            found.append(Failure("the time stamp counter just above %#x" % tsc, "%#x" % seen,
                                 "What is written to MSR 0x10 is what RDTSC counts on from: trap_set_tsc(), "
                                 "trap_machine_tsc().", r.name))

    cr0b |= CR0_ET
    cr0c = cr0b & ~0xE | lmsw & 0xE
    steps = (("rsi", cr0a, None, 0), ("r15", cr2, None, 0), (None, 0, "rbp", cr0a), (None, 0, None, 0), (None, 0, "rbp", cr0a & ~8),
             ("rsi", cr0b, None, 0), (None, 0, "rbp", cr0b), ("rbx", lmsw, None, 0), (None, 0, "rbp", cr0c), ("r9", cr4a, None, 0),
             (None, 0, "rcx", cr4a), ("r10", cr8a, None, 0), (None, 0, "rax", cr8a), ("r9", cr4b, None, 0), (None, 0, "rcx", cr4b),
             ("r10", cr8b, None, 0), (None, 0, "rax", cr8b), (None, 0, "r13", cr2))
    hint = "The operand that is not a control register may be any general register, and only it is read or written; then on behind it."
    for i, (given, value, changed, result) in enumerate(steps):
        before = registers(seed + 200 + i & MASK64)
        if given:
            before[given] = value
        found.append(after(r, "cr%x" % i, before, hint, **({changed: result} if changed else {})))
    old = r.lines.get("cr30", [0])[0]
    found.append(reported(r, "cr31", old ^ cr3bits, "CR3 is not hv's business any more: the CPU walks the guest's tables."))
    # AMD's CR4 is intercepted, Intel's is not while only bits change that the guest owns.
    crs = 6 if r.host == QEMU else (4, 8)
    found.append(left(r, "What need not come to hv must not: the MSR bitmap has a clear bit for it, the control register no intercept. And "
                      "what hv must see must come.", rdmsr=6 + 1, wrmsr=6 + 1, control_register=crs))
    return first(*found)


CHECKPOINTS = [
    Checkpoint(
        "3.7", "SVM: entering the guest", 6,
        "svm_controls() fills the VMCB so that the CPU enters the guest with its nested tables, and leaves it for what hv must see. "
        "svm_decode_exit() says in hv's words why. (--premap: all of memory is mapped.)",
        "`hv run --engine hvm --premap --trace exits` shows each exit. A CPU that refuses the VMCB says so at once: VMRUN must be "
        "intercepted, the ASID not 0 (APM vol. 2, 15.5.1).",
        runs=[guest("enter", enter_params, PREMAP, run="svm", hosts=AMD, ends=(HV_STOPPED,))], verify=enter_verify, depends=["3.4"]),
    Checkpoint(
        "3.8", "VMX: entering the guest", 6,
        "The same with a VMCS: vmx_controls() writes its control fields and the EPT pointer, vmx_decode_exit() reads what an exit "
        "left in it.",
        "VM-entry checks are in SDM vol. 3, 26.2 and 26.3; hv prints the VM-instruction error or the failed check.",
        runs=[guest("enter", enter_params, PREMAP, run="vmx", hosts=INTEL, ends=(HV_STOPPED,))], verify=enter_verify, depends=["3.4"]),
    Checkpoint(
        "3.9", "Exits: CPUID, ports, HLT", 6,
        "CPUID answers what the policy says, in four registers with their upper halves cleared. IN, OUT, INS and OUTS of all sizes "
        "reach the port bus and change what the CPU would change. HLT halts, with RIP behind it.",
        "exit_cpuid(), exit_io() and exit_hlt() in exits.c. gpr_write() knows what a result of 1, 2 or 4 bytes does to a register.",
        runs=[guest("answers", answers_params, PREMAP, ends=(HV_STOPPED,))], verify=answers_verify, depends=["3.7", "3.8"]),
    Checkpoint(
        "3.10", "MSRs and control registers", 6,
        "MSRs that are the guest's own, and CR0, CR2 and CR3, are read and written without an exit, and survive one. The others come "
        "to hv and hold what they are given; EFER.LMA stays as it is.",
        "svm_msr_pass() and vmx_msr_pass() for the first kind; exit_msr() and exit_cr() for the second.",
        runs=[guest("registers", registers_params, PREMAP)], verify=registers_verify, depends=["3.9"]),
]
