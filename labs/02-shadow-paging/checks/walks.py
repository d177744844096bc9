"""Checkpoints 2.1 to 2.5: walk.c alone, on page tables that `hv walk` makes up, against walker.py on the same ones."""

import walkcases
import walker
from model import HV_OK, Checkpoint, Failure, Run
from signatures import describe_end

COUNT = 1200  # cases of a kind: the rarest combination that matters occurs ten times and more

PF_BITS = ((walker.PF_P, "P"), (walker.PF_W, "W"), (walker.PF_U, "U"), (walker.PF_RSVD, "RSVD"), (walker.PF_I, "I"))


def walk_params(rng):
    return [rng.getrandbits(32)]


def entry_text(step):
    bits = ((walker.P, "P"), (walker.RW, "W"), (walker.US, "U"), (walker.A, "A"), (walker.D, "D"),
            (walker.PS if step.level > 1 else 0, "PS"), (walker.G, "G"), (walker.XD, "NX"))
    names = " ".join(name for bit, name in bits if step.entry & bit)
    return "  level %d at %#x: %016x (%s)" % (step.level, step.gpa, step.entry, names or "no bits")


def case_text(case):
    """Who does what: "the kernel's write at 0x1234 (WP,NXE; physical addresses of 40 bits)"."""
    access = ""
    if case.kind != "4k":
        user = case.access & walker.USER
        who = "the CPU's own" if case.access & walker.SYSTEM else "a user's" if user else "the kernel's"
        level = " at CPL %d" % (3 if user else 0) if case.access & walker.SYSTEM else ""
        access = "%s %s%s at " % (who, walkcases.what(case.access), level)
    on = walkcases.modes(case.cpu).replace("-", "nothing on")
    return "%s%#x (%s; physical addresses of %d bits)" % (access, case.gva, on, case.cpu.phys_bits)


def answer_text(answer):
    """What hv says of a case, with a fault's error code spelled out."""
    words = answer.split()
    try:
        error = int(words[1], 16) if words[0] == "fault" else None
    except (IndexError, ValueError):
        error = None
    if error is None:
        return answer or "no line for this case"
    return "%s (%s)" % (answer, " ".join(name for bit, name in PF_BITS if error & bit) or "no bits")


def manual(case, outcome, seen):
    """Which paragraph of the manual the difference is about, where it can be told; else None."""
    fault = outcome.gpa is None
    if outcome.path[-1].gpa >= walkcases.MEMORY:
        return "The last of these entries is in no memory. There nobody answers, and what nobody answers reads as ones."
    if fault and outcome.error & walker.PF_RSVD:
        return ("In the last of these entries a reserved bit is set. Which bits are reserved depends on the level, on PS, on EFER.NXE "
                "and on the width of physical addresses. (SDM vol. 3, 4.5.4, tables 4-15 to 4-20)")
    if case.kind == "4k":
        return None
    if fault and seen.startswith("fault"):
        return "It is right that this access faults. What the error code says about it: SDM vol. 3, 4.7."
    if case.access & walker.SYSTEM and fault != seen.startswith("fault"):
        return ("Here the CPU itself reads or writes the GDT, the IDT, a TSS or an LDT: as a supervisor whatever the CPL is, and "
                "implicitly, so that RFLAGS.AC has no say. (SDM vol. 3, 4.6.1)")
    return None


def describe(kind, seed, case, seen, hint):
    """The Failure that this answer of hv's is."""
    outcome = walkcases.outcome_of(case)
    expected = answer_text(walkcases.answer(case, outcome))
    return Failure("%s for %s" % (expected, case_text(case)), answer_text(seen), "\n".join((
        "The entries on the way, from CR3 = %#x:" % case.cpu.cr3, *map(entry_text, outcome.path), manual(case, outcome, seen) or hint,
        "hv walk --kind %s --seed %d --case %d shows it at length; hv walk --help says what is what." % (kind, seed, case.number))))


def plain(case):
    """The smaller, the easier the case is to think about: no table that points to itself, little that is switched on."""
    return 4 - len({place & -walkcases.PAGE for place in case.places}), len(walkcases.modes(case.cpu))


def walk(kind, hint):
    """What a checkpoint of one kind has in common with the others: its run, its verdict."""
    def verify(results, params):
        result, (seed, *_) = results["walk"], params["walk"]
        if result.status != HV_OK:
            return Failure("hv walk to print a line for each case (status 0)", describe_end(result))
        lines = result.output.decode("ascii", "replace").splitlines()
        answers = dict(line.split(": ", 1) for line in lines if ": " in line)
        cases = (walkcases.make(kind, seed, number) for number in range(COUNT))
        wrong = [c for c in cases if answers.get(str(c.number)) != walkcases.answer(c, walkcases.outcome_of(c))]
        if not wrong:
            return None
        case = min(wrong, key=plain)
        return describe(kind, seed, case, answers.get(str(case.number), ""), hint)

    def command(params):
        return "/bin/hv", "walk", "--brief", "--kind", kind, "--seed", str(params[0]), "--count", str(COUNT)

    return {"hint": hint, "verify": verify, "runs": [Run("walk", command=command, params=walk_params, vm=False, ends=None)]}


CHECKPOINTS = [
    Checkpoint(
        "2.1", "A walk through the guest's tables", 4,
        "guest_walk() follows the entries of the guest's tables from CR3 down to the 4 KiB page, keeps where each lies and what it held, "
        "and stops at one that is not present.",
        **walk("4k", "An entry's address is bits 51:12; the index into the next table is nine bits of the address, from bit 39 at level 4 "
               "to bit 12 at level 1. G counts in the last entry only, and with CR4.PGE. (SDM vol. 3, 4.5)")),
    Checkpoint(
        "2.2", "Access rights and error codes", 5,
        "guest_translate() allows what all entries on the way allow together, for users and for the kernel, with CR0.WP on and off, and "
        "makes the page fault's whole error code of what they forbid.",
        depends=["2.1"],
        **walk("rights", "W and U must be set in every entry on the way, NX in none. The kernel may read and fetch without U, and write "
               "without W while CR0.WP is 0. (SDM vol. 3, 4.6.1)")),
    Checkpoint(
        "2.3", "Large pages and reserved bits", 5,
        "Entries with PS map 2 MiB at level 2 and 1 GiB at level 3. A present entry in which a reserved bit is set ends the walk with a "
        "page fault that says so; one outside of memory reads as ones.",
        depends=["2.2"],
        **walk("large", "The larger the page, the more bits of the address are its offset and the fewer of the entry are its address; bit "
               "12 of such an entry is its PAT bit. (SDM vol. 3, 4.5.4, tables 4-16 and 4-18)")),
    Checkpoint(
        "2.4", "SMEP and SMAP", 4,
        "With CR4.SMEP the kernel executes nothing on a user's page; with CR4.SMAP it reads and writes nothing there unless RFLAGS.AC is "
        "set, and the CPU's own accesses never do.",
        depends=["2.2"],
        **walk("smap", "A page is a user's when U is set in every entry on the way. SMEP is about fetches and SMAP about reads and writes, "
               "both of them by the kernel only. (SDM vol. 3, 4.6.1)")),
    Checkpoint(
        "2.5", "Accessed and dirty bits", 4,
        "walk_mark() sets A in each entry on the way and D in the one that maps the page when it is written to, in the guest's memory; "
        "nothing else changes there.",
        depends=["2.3", "2.4"],
        **walk("marks", "At the end of hv's line stands what changed, as level:bits; 20 is A, 40 is D. A read sets no D, and D is only "
               "in the entry that maps the page, whatever its level. (SDM vol. 3, 4.8)")),
]
