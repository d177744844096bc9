"""Checkpoints 1.21 and 1.22: sensitive instructions that do not trap, and POPF made to."""

from checks import first, printed, reported, trapped
from model import HV_GUEST_FAILED, HV_OK, Checkpoint, Failure, Run

MASK64 = (1 << 64) - 1
VEC_SS, VEC_UD, VEC_PF = 12, 6, 14
EXCEPTIONS = range(32)

# --- 1.21 -----------------------------------------------------------------------------------------------------------------

# In the order of guests/popek.S.
INSNS = ("sgdt", "sidt", "sldt", "str", "smsw", "pushf", "popf", "lar", "lsl", "verr", "verw", "push-seg", "mov-from-seg", "pop-seg",
         "mov-to-seg", "call-far", "jmp-far", "ret-far", "int", "iret", "cli", "sti", "hlt", "in", "out", "mov-cr")
# What else traps with the same AL in each execution: HLT stands in the shadow of an STI.
COMPANIONS = {"hlt": 1}
# For a host where no kernel counts: what an x86 without UMIP does with the monitor's tables.
SILENT = INSNS[:13]


def popek_params(rng):
    """Every instruction once in the list, in any order, each with its own AL: that is how the witness knows them apart."""
    order = rng.sample(range(len(INSNS)), len(INSNS))
    tags = rng.sample(range(0x40, 0xE0), len(INSNS))  # the guest's own traps have an AL outside of this
    plan = b"".join(bytes((n + 1, rng.randrange(1, 5), tag)) for n, tag in zip(order, tags)).ljust(128, b"\0")
    return [int.from_bytes(plan[i : i + 8], "little") for i in range(0, 128, 8)]


def popek_plan(params):
    """(instruction, how often, AL) in the order of execution."""
    plan = b"".join(p.to_bytes(8, "little") for p in params)
    return [(INSNS[n - 1], times, tag) for n, times, tag in zip(plan[::3], plan[1::3], plan[2::3]) if n]


def popek_verify(results, params):
    guest, report = results["popek"], results["report"]
    plan = popek_plan(params["popek"])
    failure = printed(guest, b"".join(b"%s: passed\n" % insn.encode() * times for insn, times, _ in plan),
                      "The guest did not come through its instructions. What it prints is the plan that the seed gave it.")
    if failure:
        return failure
    truth = {}
    for insn, times, tag in plan:
        if guest.witness is None:
            truth[insn] = "silent" if insn in SILENT else "traps"
            continue
        extra = times * COMPANIONS.get(insn, 0)
        traps = sum(guest.witness.values.get(vector, {}).get(tag, 0) for vector in EXCEPTIONS) - extra
        if traps not in (0, times):
            return Failure("%s to trap each time or never" % insn, "%d traps at %d executions" % (traps, times),
                           "An instruction that was emulated must not be executed again: v->rip goes on behind it.", guest.name)
        truth[insn] = "traps" if traps else "silent"
    answers = dict(line.split("=", 1) for line in report.output.decode("ascii", "replace").splitlines() if "=" in line)
    wrong = [(insn, times) for insn, times, _ in sorted(plan) if answers.get(insn) != truth[insn]]
    if not wrong:
        return None
    insn, times = wrong[0]
    said = "%s=%s" % (insn, answers[insn]) if insn in answers else "no entry \"%s\"" % insn
    others = "" if len(wrong) == 1 else "; %d other entries are wrong too" % (len(wrong) - 1)
    counted = "" if guest.witness is None else ": the kernel below counted %d traps at %d executions" % (
        times if truth[insn] == "traps" else 0, times)
    return Failure("%s=%s in popek_report[]%s" % (insn, truth[insn], counted), said + others,
                   "hv run --trace exits build/guests/lab1/popek.elf shows it: which lines stand between the two `rep outsb` around "
                   "%s?" % insn,
                   report.name)


# --- 1.22 -----------------------------------------------------------------------------------------------------------------

TF, IF, IOPL, RF, VM, AC, VIF, VIP = 1 << 8, 1 << 9, 3 << 12, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20
FIXED, DEFINED = 1 << 1, 0x3F7FD7
STEPS, ROUNDS = 64, 16


def popf(old, image, size=8, cpl=0):
    """The flags behind POPF (SDM vol. 2, POPF/POPFD/POPFQ, Operation)."""
    mask = DEFINED & ~(RF | VM | VIF | VIP)
    if cpl:
        mask &= ~IOPL
    if cpl > (old & IOPL) >> 12:
        mask &= ~IF
    if size == 2:
        mask &= 0xFFFF
    return old & ~mask & ~RF | image & mask | FIXED


def popf_params(rng):
    def image():  # a single step is a test of its own
        return rng.getrandbits(64) & ~TF

    # IF begins as the opposite of what the user program asks for, so that keeping it and changing it differ.
    user = image()
    rights = [FIXED | ~user & IF | iopl << 12 for iopl in (rng.randrange(0, 3), 3)]
    rng.shuffle(rights)
    return [rng.getrandbits(STEPS), rng.getrandbits(ROUNDS), image(), image(), image(), image(), image() & 0xFFFF, user, *rights,
            rng.randrange(0, 4096), rng.getrandbits(64), rng.getrandbits(64),
            rng.randrange(1 << 32, 1 << 46) & ~0xFF, rng.randrange(1 << 48, 1 << 62) & ~0xFF | 1 << 47]


def lookalikes(a, b):
    """What the function of that name in guests/popf.c computes."""
    signed_a, signed_b = (n - (1 << 64) if n >> 63 else n for n in (a, b))
    value = 0x9D9C9D179C9D169D ^ (a + 0x179D9C9D & MASK64) ^ (a + 0x169C9D9C & 0xFFFFFFFF)
    value ^= 1 if signed_a >= signed_b else 0x100
    return value + 0x1C9D9D9C & MASK64


def popf_verify(results, params):
    r = results["on"]
    sequence, pattern, *rest = params["on"]
    images, (wide, word, user), rights, (_, a, b, page, address) = rest[:3], rest[3:6], rest[6:8], rest[8:13]
    widest = popf(FIXED, wide)
    narrow = popf(widest, word, size=2)
    found = [
        reported(r, "if", sequence,
                 "Each bit is IF as PUSHF showed it behind a POPF, the first in bit 0. Is every popf and pushf patched?"),
        reported(r, "image", [popf(FIXED, image) for image in images],
                 "At CPL 0 POPFQ changes every flag but RF (which becomes 0), VM, VIF and VIP."),
        reported(r, "image.rsp", [8] * 3, "RSP moves by 8. In the number's low byte is PUSHFQ's step, above it how far POPFQ was off."),
        reported(r, "word", narrow, "With the prefix 66h POPF pops two bytes and changes the low 16 flags only."),
        reported(r, "word.stack", (narrow & 0xFFFF) << 48 | a & (1 << 48) - 1, "With the prefix 66h PUSHF writes two bytes and no more."),
        reported(r, "word.rsp", 2, "With the prefix 66h RSP moves by 2."),
        reported(r, "user", [popf(flags, user, cpl=3) for flags in rights],
                 "At CPL 3 IOPL never changes, and IF only when IOPL is 3. Without the right nothing is raised."),
        reported(r, "moved", popf(FIXED, images[0]), "This is patched code that the guest copied and ran elsewhere."),
        reported(r, "lookalikes", lookalikes(a, b),
                 "9c and 9d also occur inside other instructions, which must stay as they are: insn->op says what an instruction is."),
        reported(r, "interrupts.at", pattern, "Each bit says whether a pending interrupt came right behind a POPF that set IF."),
        reported(r, "interrupts", ROUNDS),
    ]
    step_hint = "TF set by POPF raises #DB behind the next instruction, once, whether that instruction is patched or not."
    found += [reported(r, key, 1 << 32, step_hint) for key in ("step.nop", "step.pushf", "step.popf")]
    found.append(reported(r, "step.flags", FIXED | TF))
    fault_hint = "A stack that faults: POPF and PUSHF raise #PF or, at a non-canonical address, #SS(0), and change nothing. This is "
    found += [
        reported(r, "fault.popf", [VEC_PF << 32, VEC_SS << 32], fault_hint + "the vector, then the error code in 32 bits."),
        reported(r, "fault.pushf", [VEC_PF << 32 | 2, VEC_SS << 32], fault_hint + "the vector, then the error code in 32 bits."),
        reported(r, "fault.rip", [0] * 4, fault_hint + "how far RIP was from the instruction."),
        reported(r, "fault.rsp", [page, page, address, address], fault_hint + "RSP."),
        reported(r, "fault.cr2", [page, page - 8], fault_hint + "CR2."),
        trapped(r, 2 * STEPS + 3 * ROUNDS, "one for each POPF and PUSHF that it executed, as #UD", VEC_UD),
        # The same guest without the patch shows what the patch is for.
        reported(results["off"], "if", 0, "Without --patch on nothing may be patched."),
    ]
    return first(*found)


CHECKPOINTS = [
    Checkpoint(
        "1.21", "Popek and Goldberg's report", 4,
        "popek_report[] says of each sensitive instruction whether it trapped or ran silently when a guest at virtual CPL 0 executed "
        "it. A machine where every sensitive instruction traps can be virtualized by trap and emulate alone.",
        "Run the guest popek.elf with --trace exits and look what stands between the two `rep outsb` around each instruction.",
        runs=[Run("popek", "lab1/popek.elf", params=popek_params),
              Run("report", command=("/bin/hv", "report"), vm=False)],
        verify=popek_verify, depends=["1.5", "1.10", "1.13", "1.18"]),
    Checkpoint(
        "1.22", "POPF repaired by patching", 8,
        "With --patch on each PUSHF and POPF of the image is replaced by a one-byte opcode that is undefined in 64-bit mode, and is "
        "then emulated exactly on the virtual flags, wherever the code was moved to. No other instruction is changed.",
        "First patch_instruction(), then PUSHF, then POPF at CPL 0; after that what CPL 3, the operand size, TF and the stack change.",
        runs=[Run("on", "lab1/popf.elf", args=("--patch", "on", "--mirror-if", "off"), params=popf_params,
                  ends=(HV_OK, HV_GUEST_FAILED)),  # what an exception that it did not expect kept it from reporting says more
              Run("off", "lab1/popf.elf", params=popf_params)],
        verify=popf_verify, depends=["1.14", "1.15", "1.18"]),
]
