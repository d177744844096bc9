"""Checkpoints 1.11 to 1.19: all about events. Those of 1.18 and 1.19, interrupts, are here."""

import os
import re

from checks import first, printed_by_traps, reported, trapped
from elf import Elf
from exceptions import CHECKPOINTS as EXCEPTIONS
from levels import CHECKPOINTS as LEVELS
from model import HV_GUEST_FAILED, HV_OK, Checkpoint, Failure, Run
from probes import MASK64
from signatures import describe_end
from trials import EXT, IDT, IF, NP, UCODE, UD, UDATA, Trials, base_params, differs, guest, place

# --- 1.18 -----------------------------------------------------------------------------------------------------------------


def interrupts_params(mode):
    def make(rng):
        # A base of 8, the PC's of old, gives the lines the numbers of exceptions: 12 is #SS, but this one is an interrupt.
        base = 8 if mode else rng.randrange(0x20, 0xF8, 8)
        return base_params(rng) + [place(rng, 32, 34), base, mode, rng.randrange(5, 12), rng.randrange(200, 500), place(rng, 40, 60),
                                   rng.randrange(300000, 600000)]

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


def inside_rep(t, irq, buffer, count):
    """REP OUTSB is interrupted on its way; how far it came then is up to hv, but not all the way."""
    left = t.result.lines.get("rep0.rcx", [0])[0]
    done = count - left
    if not 0 < done < count:
        t.found.append(Failure("the interrupt that the first byte raises to strike within `rep outsb`, RCX between 0 and %#x" % count,
                               "RCX = %#x" % left, "The guest chooses RCX, so one trap must not do it all: emulate some elements, leave "
                               "rip at the instruction and the rest in RCX, and let the guest run on. (1.5; SDM vol. 2, REP)",
                               t.result.name))
    t.start(IF)
    t.expect("rep", t.event(irq, 0, changed={"rcx": left, "rsi": buffer + done}), rdx=0x3F9, rcx=count, rsi=buffer,
             hint="Interrupted between two elements, RIP points at the REP, and RCX and RSI say how far it came.")


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
    waits("halt", 2, "STI; HLT with an interrupt waiting: HLT begins in the shadow and ends at once; the frame points behind it.")
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
    t.expect("noeoi", t.event(UD, 3, flags=t.flags | IF),
             hint="Until the EOI the line is in service, and holds back its next request.")
    t.start(0)
    t.expect("eoi", t.event(irq, 2, flags=t.flags | IF), hint=shadow)
    t.start(IF, True)
    t.expect("user", t.event(irq, 0), hint="IRETQ that sets IF casts no shadow, and the gate's DPL is for INT n alone.")

    for i in range(3):
        t.start(0)
        t.expect("sleep%d_" % i, t.event(base + IRQ_TIMER, 2, flags=t.flags | IF),
                 hint="HLT ends when an interrupt comes; the frame points behind it.")
    failure = t.verdict(t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    t = Trials(r, p)
    inside_rep(t, p[4] + IRQ_COM1, *p[8:10])
    t.start(0)
    t.expect("absent", t.event(NP, 2, (p[4] + IRQ_COM1) * 8 + IDT + EXT, flags=t.flags | IF),
             hint="An interrupt whose gate is not present: #NP with EXT, and no double fault.")
    loop(t, "stiloop", p[6], {2}, shadow)
    loop(t, "ssloop", p[6], {1, 4, 5}, "A load of SS holds interrupts off for one instruction. (SDM vol. 3, 6.8.3)")
    return t.verdict(t.all_printed())


# --- 1.19 -----------------------------------------------------------------------------------------------------------------

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")


def preempt_params(rng):
    return base_params(rng) + [place(rng, 32, 34), rng.randrange(0x20, 0xF8, 8), rng.randrange(20, 60),
                               rng.randrange(150, 400), rng.getrandbits(32) | 1]


def preempt_verify(results, params):
    r, p = results["loop"], params["loop"]
    _, code, stack, rsp0, _, ticks, _, step = p[:8]
    lines, key = r.lines, "loop0"
    found = [reported(r, "ticks", ticks, "Each tick is one interrupt, acknowledged by the guest's EOI."),
             reported(r, "loop.events", 1)]
    frame = lines.get(key + ".frame", [0] * 6)
    rip, cs, rflags, rsp, ss = frame[:5]
    rax, rbx = lines.get(key + ".rax", [0])[0], lines.get(key + ".rbx", [0])[0]
    offset = rip - code
    if offset not in (0, 3, 6):
        found.append(Failure("the program to be interrupted at %x, %x or %x" % (code, code + 3, code + 6), "at %x" % rip,
                             run=r.name))
    found += [differs(r, key, "cs", UCODE, cs), differs(r, key, "ss", UDATA, ss), differs(r, key, "rsp", stack, rsp),
              differs(r, key, "at", (rsp0 & ~15) - 40, lines.get(key + ".at", [None])[0]),
              differs(r, key, "rflags (IF)", IF, rflags & IF)]
    rounds = rax - (offset == 3)
    if not rax:
        found.append(Failure("the loop to have gone round", "not one round", run=r.name))
    found.append(differs(r, key, "rbx after %d rounds" % rounds, rounds * step & MASK64, rbx,
                         "An interrupt changes no register of the program."))
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


def kernel_transcript(r, n):
    """What kmain.c prints is the same everywhere but for two addresses, which must lie in the functions at fault."""
    text = r.output.replace(b"\r\n", b"\n").decode("ascii", "replace")
    lines = ["course kernel: 64 bits, flat memory, at most 15 processes",
             "waiting for the timer ... it ticks, 100 times a second"]
    for pid in range(1, n + 1):
        lines += ["%2d compute | %d primes below 20000, the same in every round" % (pid, primes_below(20000)),
                  "%2d compute : exit code 0" % pid]
    at = []
    for name, what in (("user_rogue", "#GP general protection"), ("user_divide", "#DE divide error")):
        match = re.search(what + r" at rip 0x([0-9a-f]{1,16}),", text)
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
                           "Line %d of what the course kernel prints. Run it yourself: hv run --append procs=%d "
                           "build/guests/kernel.elf. If the kernel itself is at fault: it changes RSP0 of its TSS with every process; do "
                           "you read it each time?" % (i + 1, n), r.name, exact=True)
    if r.status != HV_OK:
        return Failure("the course kernel to end with exit code 0", describe_end(r), run=r.name)
    return None


def kernel_verify(r, n):
    return first(kernel_transcript(r, n), trapped(r, 1000, "the course kernel's own instructions"), printed_by_traps(r, r.output))


CHECKPOINTS = EXCEPTIONS + LEVELS + [
    Checkpoint(
        "1.18", "interrupts", 8,
        "An interrupt is taken when IF is set, but not directly behind an STI that set it or a load of SS. It ends HLT, and "
        "returns behind it. Until it is taken the PIC keeps it.",
        "interrupt_window_open() decides; v->shadow tells of STI and SS. Look again at STI and HLT in emulate_flags().",
        runs=[guest("interrupts", "interrupts", interrupts_params(0)), guest("interrupts", "manual", interrupts_params(1))],
        verify=interrupts_verify, depends=["1.16"]),
    Checkpoint(
        "1.19", "preemption: the course kernel runs", 8,
        "A program that never gives up the CPU is interrupted by the timer and goes on as if nothing had happened; and the "
        "course kernel, with several such processes, runs to its end and prints what it prints on any other machine.",
        "Nothing new is to be written: if 1.11 to 1.18 pass and this fails, compare --trace exits with what the kernel does "
        "in labs/common/guest.",
        runs=[guest("preempt", "loop", preempt_params),
              Run("kernel", "kernel.elf", args=kernel_args, params=lambda rng: [rng.randrange(2, 7)], timeout=20.0,
                  ends=(HV_OK, HV_GUEST_FAILED))],  # what it says when it panics is compared too
        verify=preempt_verify, depends=["1.17", "1.18"]),
]
