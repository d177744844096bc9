"""Checkpoints 3.13 to 3.15: exceptions, interrupts and NMIs that hv injects, and deliveries that an exit interrupted."""

from checks import first, reported
from guestmode import guest, kinds, left, witnessed
from model import QEMU, Checkpoint, Failure
from probes import u64
from signatures import describe_end
from trials import place

DE, NMI, BP, UD, GP, PF = 0, 2, 3, 6, 13, 14
IRQ_TIMER, IRQ_COM1 = 0, 4
IF = 1 << 63


def event(vector, at=0, error=0, opened=False):
    """As guests/inject.c packs it."""
    return vector | error << 8 | at << 32 | (IF if opened else 0)


def words(value):
    """The other way, for people."""
    at = value >> 32 & 0xFFFF
    return "vector %#x, error code %#x, %d bytes behind the first instruction, IF %d" % (
        value & 0xFF, value >> 8 & 0xFFFFFF, at - 0x10000 if at & 0x8000 else at, value >> 63)


def happened(r, key, events, hint=None, cr2=None, also=()):
    """Exactly these events, in this order. also: other lists that will do."""
    seen = r.lines.get(key + ".event", [])
    if key + ".events" not in r.lines:
        return Failure("a report of `%s`" % key, "none; " + describe_end(r), hint, r.name)
    if seen not in (events, *also):
        return Failure("%s: %s" % (key, "; then ".join(map(words, events)) or "no event"),
                       "%s: %s" % (key, "; then ".join(map(words, seen)) or "no event"), hint, r.name, exact=True)
    return reported(r, key + ".cr2", cr2, hint) if cr2 is not None else None


# --- 3.13 -----------------------------------------------------------------------------------------------------------------

CR4_REFUSED = (6, 8, 11, 12, 13, 14, 16, 17, 18, 22)  # MCE PCE UMIP LA57 VMXE SMXE FSGSBASE PCIDE OSXSAVE PKE
UNKNOWN = ((0x20, 0xFF), (0x300, 0x3FF), (0x600, 0x7FF), (0xC0000200, 0xC0000FFF), (0x4B564D00, 0x4B564DFF))


def inject_params(rng):
    return [u64(rng), rng.randrange(*rng.choice(UNKNOWN)), 1 << rng.choice((1, 2, 4, 6, 9, 16, 20, 31)), 1 << rng.choice(CR4_REFUSED),
            rng.randrange(16, 1 << 32), rng.randrange(0x60, 0x100), rng.randrange(0x20, 0x58, 8), place(rng, 32, 60), rng.randrange(5, 20),
            rng.randrange(3, 6)]


def inject_verify(results, params):
    r, p = results["inject"], params["inject"]
    seed, _, _, _, _, vector, base, _, times, ticks = p[:10]
    irq, timer = base + IRQ_COM1, base + IRQ_TIMER
    by_hv = ("An exception that hv raises goes in with the next entry: its own vector, its error code if it has one, RIP at the instruction, "
             "and no register changed.")
    by_cpu = "The CPU delivers this by itself: hv must neither see it nor change anything of it."
    canonical = seed >> 18 | 1 << 45
    faults = [(event(GP), "an MSR that is not there")] * 2 + [(event(GP), "what EFER does not have")] * 2 + [
        (event(GP), "a memory type that does not exist"), (event(GP), "a bit of CR4 that the guest's CPU does not offer"),
        (event(GP), "CR4.PAE cleared in long mode"), (event(GP), "more than four bits in CR8"), (event(UD), "VMRUN"), (event(UD), "VMXON"),
        (event(UD), "MONITOR")]
    found = [happened(r, "fault%x" % i, [e], "%s: %s" % (what, by_hv)) for i, (e, what) in enumerate(faults)]
    own = [(event(GP), None), (event(UD), None), (event(DE, 4), None), (event(BP, 1), None), (event(vector, 2), None), (event(GP), None),
           (event(PF), canonical), (event(PF, 0, 2), canonical), (event(GP, 0, 0x7FF0 | seed & 4), None)]
    found += [happened(r, "fault%x" % (len(faults) + i), [e], by_cpu, cr2) for i, (e, cr2) in enumerate(own)]
    found += [reported(r, "fault%x.rax" % i, seed, by_hv) for i in (0, 1, 9)]

    shadow = "No interrupt directly behind an STI that set IF: v->shadow says that the guest is there. (APM vol. 2, 15.21.5; SDM vol. 3, 24.4.2)"
    never = "No interrupt while IF is 0: it waits at the 8259, and the window is asked for."
    window = "With IF set the guest is interrupted at the next boundary: the interrupt window brings hv back at that moment."
    once = "What was taken from the 8259 has to be delivered, once; what was not stays there."
    at = {name: event(irq, offset, 0, True) for name, offset in (("2", 2), ("3", 3), ("4", 4), ("9", 9))}
    # QEMU's processor (7.2) forgets the shadow at VMRUN, so an exit in the shadow ends it there.
    lost = ([event(irq, 1, 0, True)],) if r.host == QEMU else ()
    found += [
        happened(r, "irq0", [], never), happened(r, "irq1", [at["2"]], shadow), happened(r, "irq2", [at["3"]], shadow),
        happened(r, "irq3", [at["4"]], shadow, also=lost), happened(r, "irq4", [at["9"]], "POPF casts no shadow. " + window),
        happened(r, "irq5", [at["2"]], "STI; HLT with an interrupt waiting: HLT ends at once, and RIP is behind it."),
        happened(r, "irq6", [], "STI; CLI opens nothing: the CLI runs in the shadow of the STI."),
        happened(r, "irq7", [event(GP, 1, 0, True), event(irq, 3, 0, True)], "The instruction in the STI's shadow faults first; then comes what "
                 "waits, once."),
        happened(r, "irq8", [at["3"]], window), happened(r, "irq9", [at["2"]], once),
        happened(r, "irqa", [event(timer, 2, 0, True), event(irq, 2, 0, True)], "Two wait: one goes in at each entry, the more urgent one first, "
                 "and the other asks for a window again."),
        reported(r, "times0", times, "Each interrupt that was raised is delivered exactly once."),
        reported(r, "ticks0", 2 * ticks, "A timer's interrupt reaches a guest in a loop that never leaves it, and one that halts.")]
    delivered = (r.stats or {}).get("delivered") or {}
    # irq1 to irq5, irq7 to irqa, then one after the other.
    if delivered.get(str(irq)) != 9 + times:
        found.append(Failure("%d interrupts with vector %#x to be injected" % (9 + times, irq), "%s" % delivered.get(str(irq), 0), once, r.name))
    return first(*found, left(r, "A window is asked for only while something waits that the guest does not take yet.",
                              interrupt_window=(4, 40)))


CHECKPOINTS = [
    Checkpoint(
        "3.13", "exceptions, interrupts, and the interrupt window", 8,
        "Exceptions that hv raises reach the guest with vector and error code. An interrupt that waits at the 8259 is injected when the guest "
        "takes it: IF is set, and it is not behind STI or MOV SS. Until then the interrupt window is asked for. None is lost, none comes twice.",
        "events_next() chooses, svm_inject() and vmx_inject() tell the CPU, svm_windows() and vmx_windows() ask to be called back.",
        runs=[guest("inject", inject_params, "--page-size", "4K")], verify=inject_verify, depends=["3.11"]),
]
