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
    by_hv = ("An exception that hv raises goes in with the next entry: its own vector, its error code if it has one, RIP at the "
             "instruction, and no register changed.")
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

    shadow = ("No interrupt directly behind an STI that set IF: v->shadow says that the guest is there. (APM vol. 2, 15.21.5; "
              "SDM vol. 3, 24.4.2)")
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
        happened(r, "irq7", [event(GP, 1, 0, True), event(irq, 3, 0, True)],
                 "The instruction in the STI's shadow faults first; then comes what waits, once."),
        happened(r, "irq8", [at["3"]], window), happened(r, "irq9", [at["2"]], once),
        happened(r, "irqa", [event(timer, 2, 0, True), event(irq, 2, 0, True)],
                 "Two wait: one goes in at each entry, the more urgent one first, and the other asks for a window again."),
        reported(r, "times0", times, "Each interrupt that was raised is delivered exactly once."),
        reported(r, "ticks0", 2 * ticks, "A timer's interrupt reaches a guest in a loop that never leaves it, and one that halts.")]
    delivered = (r.stats or {}).get("delivered") or {}
    # irq1 to irq5, irq7 to irqa, then one after the other.
    if delivered.get(str(irq)) != 9 + times:
        found.append(Failure("%d interrupts with vector %#x to be injected" % (9 + times, irq),
                             "%s" % delivered.get(str(irq), 0), once, r.name))
    return first(*found, left(r, "A window is asked for only while something waits that the guest does not take yet.",
                              interrupt_window=(4, 40)))


# --- 3.14 -----------------------------------------------------------------------------------------------------------------

END = 0xFF  # the last event of each trial of redeliver.c
PIC_BASE = 0x20


def redeliver_params(rng):
    order = list(range(8)) + rng.sample(range(8), 4)
    rng.shuffle(order)
    return [u64(rng), rng.randrange(*rng.choice(UNKNOWN)), rng.randrange(0x60, END), rng.randrange(0x1000, 0x3000) << 12,
            sum(kind << 4 * n for n, kind in enumerate(order))]


def redeliver_verify(results, params):
    r, p = results["redeliver"], params["redeliver"]
    seed, _, vector, _, order = p[:5]
    irq, cr2 = PIC_BASE + IRQ_COM1, seed >> 18 | 1 << 45
    # the event, whether it pushes an error code, where INT END is, whether IF is set there
    kinds_of_event = (
        (event(UD, 1), False, event(END, 5)), (event(BP, 2), False, event(END, 4)), (event(vector, 3), False, event(END, 5)),
        (event(PF, 1), True, event(END, 6)), (event(GP, 1, 0x7FF0), True, event(END, 5)), (event(GP, 1), True, event(END, 5)),
        (event(irq, 3, 0, True), False, event(END, 6, 0, True)), (event(irq, 3, 0, True), False, event(END, 6, 0, True)))
    names = ("UD2", "INT3", "INT %#x" % vector, "a page fault", "a load of DS beyond the GDT", "RDMSR of what is not there (raised by hv)",
             "an interrupt, injected at once", "an interrupt, injected in its window")
    found = []
    for n in range(12):
        kind = order >> 4 * n & 0xF
        first_event, error, end = kinds_of_event[kind]
        rsp = -(seed >> 2 * n & 0xFF) & ~15
        if n % 2:  # on the stack that the TSS names
            rsp = 0
        key = "trial%x" % n
        hint = ("%s, with IDT, GDT%s and stack in pages that nobody has touched before. The exit that brings such a page says which "
                "event was on its way: inject it again, or it is lost. What INT n raises comes again by itself, because RIP is still "
                "there." % (
                    names[kind], ", TSS" if n % 2 else ""))
        found += [happened(r, key, [first_event, end], hint, cr2 if kind == 3 else None),
                  reported(r, key + ".at", [rsp - (48 if error else 40) & 0xFFF, rsp - 40 & 0xFFF],
                           "The CPU pushes the frame, and the error code if the event has one: on a stack aligned to 16 bytes."),
                  reported(r, key + ".isr", 0, "The 8259 was asked once for this interrupt, and told once of its end.")]
    # IDT, GDT, stack; TSS in half of the trials
    return first(*found, left(r, "Each of these pages is brought by a violation of its own.", violation=(12 * 3 + 6, 140)))


# --- 3.15 -----------------------------------------------------------------------------------------------------------------

ENTER, LEAVE, MARK, TRAP, IRQ = 1, 2, 3, 4, 5
STEPS = {ENTER: "NMI handler begins", LEAVE: "NMI handler ends", MARK: "the program that came to the stage goes on", TRAP: "INT3's handler",
         IRQ: "interrupt"}
PLAN = "1 nmi\n2 nmi\n2 nmi\n"


def nmi_params(rng):
    return [u64(rng), rng.randrange(4, 12), rng.randrange(0x1000, 0x3000) << 12]


def nibbles(value):
    while value:
        yield value & 0xF
        value >>= 4


def nmi_order(r, n, steps, deepest, hint):
    key = "nmi%x.order" % n
    seen = list(nibbles(r.lines.get(key, [0])[0]))
    if seen != steps:
        return Failure("; ".join(STEPS[s] for s in steps),
                       "; ".join(STEPS.get(s, "?") for s in seen) or "nothing; " + describe_end(r), hint, r.name)
    return first(reported(r, "nmi%x.count" % n, steps.count(ENTER), hint), reported(r, "nmi%x.deepest" % n, deepest, hint))


def nmi_verify(results, params):
    r, (_, rounds, *_) = results["nmi"], params["nmi"]
    again = [ENTER, MARK, LEAVE, ENTER, LEAVE, MARK]
    window = ("While the guest is in its NMI handler the next one waits for the IRET, and one is all that can wait. SVM: the IRET is "
              "intercepted, and behind it the window is open; VMX: NMI-window exiting. (SDM vol. 3, 6.7.1)")
    return first(
        nmi_order(r, 0, [ENTER, LEAVE, MARK], 1, "An NMI does not ask for IF; its handler runs once, at once."),
        nmi_order(r, 1, again, 1, window), nmi_order(r, 2, again, 1, window),
        nmi_order(r, 3, [ENTER, MARK, TRAP, ENTER, LEAVE, MARK, LEAVE, MARK], 2,
                  "The first IRET ends the blocking, whosever it is: here that of another exception's handler. (SDM vol. 3, 6.7.1)"),
        nmi_order(r, 4, again, 1, window),
        nmi_order(r, 5, again + [IRQ], 1, "Of an NMI and an interrupt that wait, the NMI goes first; and IF concerns the interrupt alone."),
        reported(r, "many0", rounds + rounds // 2, "An NMI whose delivery was interrupted by a violation (its stack was not there yet) is "
                 "injected again, once, though NMIs count as blocked by then."),
        left(r, hypercall=6 + 5 + rounds + rounds // 2))


CHECKPOINTS = [
    Checkpoint(
        "3.13", "Exceptions, interrupts, and the interrupt window", 8,
        "Exceptions that hv raises reach the guest with vector and error code. An interrupt that waits at the 8259 is injected when "
        "the guest takes it: IF is set, and it is not behind STI or MOV SS. Until then the interrupt window is asked for. None is "
        "lost, none comes twice.",
        "events_next() chooses, svm_inject() and vmx_inject() tell the CPU, svm_windows() and vmx_windows() ask to be called back.",
        runs=[guest("inject", inject_params, "--page-size", "4K")], verify=inject_verify, depends=["3.11"]),
    Checkpoint(
        "3.14", "An interrupted delivery", 8,
        "A violation while the CPU delivers an event (its gate, its stack, the GDT or the TSS is not mapped yet) must not lose the "
        "event, nor bring it twice.",
        "x->interrupted, from EXITINTINFO or the IDT-vectoring information; events_interrupted() keeps it, events_next() takes it first.",
        runs=[guest("redeliver", redeliver_params, "--page-size", "4K")], verify=redeliver_verify, depends=["3.13"]),
    Checkpoint(
        "3.15", "NMI, and its window", 6,
        "An NMI that hv wants the guest to have (a plan's `nmi`) is injected whatever IF is, but not while the guest is in its NMI "
        "handler: then directly behind the IRET that ends it.",
        "h->nmi_pending, h->nmi_blocked and h->nmi_window in events_next(); svm_windows() and vmx_windows() ask for the moment.",
        runs=[guest("nmi", nmi_params, "--page-size", "4K", "--plan", "@DIR@/plan", files={"plan": PLAN})],
        verify=nmi_verify, depends=["3.14"]),
]
