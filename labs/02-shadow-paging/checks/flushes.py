"""Checkpoint 2.12: what must be gone behind a flush, and what may stay."""

from accesses import (A, D, MASK64, PF_I, PF_P, PF_RSVD, PF_U, PF_W, Numbers, faulted, page_faults, said, said_by_traps, seed_params)
from checks import first, reported
from faults import CODE_WORD, FETCH, KIND, READ, VTLB, WRITE
from model import Checkpoint, Failure, Run

# --- flush.c: pages are used, changed, flushed and used again -----------------------------------------------------------------

INVLPG, CR3, PGE, CR3_WITHOUT_PGE = range(4)
OTHER_FRAME, ABSENT, READONLY, NO_EXEC, KERNELS, CLEAN, IDLE, OTHER_TABLE = range(8)
KINDS = (READ, READ, WRITE, FETCH, READ, WRITE, READ, READ)
FLUSHED_BY = ("INVLPG", "a write of CR3", "clearing and setting CR4.PGE", "a write of CR3 with CR4.PGE clear")
CHANGED_TO = ("another frame", "an absent page", "a read-only page", "a page without execution", "a kernel's page",
              "a clean page (D clear)",
              "a page without accessed bit", "another page table")


def word(number):
    return CODE_WORD | number << 8


def page_verify(r, first_number, number, flush, change, user, is_global):
    old, new, written = first_number + 2 * number, first_number + 2 * number + 1, first_number + number
    key, found = "page%x" % number, []
    hint = "This %s%s page was used, its entry changed to %s, flushed by %s, and used again." % (
        "program's" if user else "kernel's", " global" if is_global else "", CHANGED_TO[change], FLUSHED_BY[flush])
    if change == OTHER_FRAME:
        found.append(said(r, "between%x" % number, word(old), word(new), hint="Between the change of an entry and the flush "
                                                                              "the page may be "
                          "what it was or what it will be, and nothing else."))
    stays = flush == CR3 and is_global
    if stays and change != OTHER_FRAME:
        return first(*found)
    kind = KINDS[change]
    wrong = {ABSENT: 0, READONLY: PF_P, NO_EXEC: PF_P}.get(change)
    if change == KERNELS and user:
        wrong = PF_P
    if wrong is not None:
        found.append(reported(r, key + ".error", wrong | KIND[kind] | (PF_U if user else 0), hint))
        value = [written]
    elif key + ".error" in r.lines:
        return Failure("%s: no page fault" % key, "%s: a page fault with error code %#x" % (key, r.lines[key + ".error"][0]), hint, r.name)
    else:
        value = {READ: [word(new if change in (OTHER_FRAME, OTHER_TABLE) else old)], WRITE: [written], FETCH: [old]}[kind]
    if stays:
        value.append(word(old))
    left = {ABSENT: 0, READONLY: A | D, CLEAN: A | D}.get(change, A)
    return first(*found, said(r, key, *value, hint=hint), said(r, key + ".left", left, hint=hint))


def flush_verify(r, params):
    _, number, *_ = params
    found, n = [], 0
    for flush in (INVLPG, CR3, PGE, CR3_WITHOUT_PGE):
        for change in range(8):
            for k in range(4):
                if k & 2 and change not in (OTHER_FRAME, READONLY):
                    continue
                found.append(page_verify(r, number, n, flush, change, bool(k & 1), bool(k & 2)))
                n += 1
    for i, value in enumerate((number, number, number + 2, number + 3, word(number + 4))):
        hint = "The entry allows more than before. Nothing was flushed, so one more page fault is right, but then the access must succeed."
        found += [said(r, "upgrade%x.faults" % i, 0, 1, hint=hint), said(r, "upgrade%x" % i, value, hint=hint)]
    found += [said(r, "space%x" % i, word(number + 300 + (i & 1)), hint="Another CR3 is another address space, for the kernel "
                                                                        "and for programs.")
              for i in range(6)]
    found += [said(r, "nxe0.error", PF_P | PF_RSVD, hint="Without EFER.NXE bit 63 of an entry is reserved."),
              said(r, "nxe1", word(number + 310))]
    return first(*found, said_by_traps(r))


# --- large.c ----------------------------------------------------------------------------------------------------------------

PIECES, LARGE = 4, 2 << 20


def large_verify(r, params):
    seed, number, *_ = params
    numbers = Numbers(seed)
    offsets = [(128 * k + numbers.u64() % 128) * 4096 for k in range(PIECES)]
    hint = ("INVLPG flushes the page that contains its address. If the guest's page is large, that is all of it, for the "
            "kernel and for programs.")

    def pieces(*pages):
        """Of each page all pieces, seen by the kernel and by the program, by piece."""
        return [[number + i * PIECES + k for i in pages for _ in range(2)] for k in range(PIECES)]

    wanted = {"moved": pieces(0, 1, 0, 1), "split": pieces(2, 3, 7), "huge": pieces(9, 3, 10, 4)}
    for k, column in enumerate(wanted["split"]):  # each quarter of the split page leads to the next large page of memory
        column[2:4] = [number + (3 + k) * PIECES + k] * 2
    if not r.lines.get("can0", [0])[0]:
        del wanted["huge"]
    found = [reported(r, "%s%x" % (name, k), column, hint) for name, columns in wanted.items() for k, column in enumerate(columns)]
    for _ in range(6):  # three pages before this one: their addresses, and where in them was flushed
        numbers.u64()
    gva = numbers.gva() & ~(LARGE - 1)
    found += [said(r, "dirty0", D, hint="The D bit of a large page was cleared and flushed; the next write in any piece sets it again."),
              faulted(r, "written1", PF_P | PF_W, gva + offsets[1] + 8, 3, hint=hint),
              faulted(r, "written2", PF_P | PF_W | PF_U, gva + offsets[2] + 8, 3, hint=hint)]
    return first(*found, said_by_traps(r))


# --- globals.c --------------------------------------------------------------------------------------------------------------

GLOBALS, LOCALS, ROUNDS = 32, 4, 8


def machine_flushes(r):
    """In the test host no TLB of the machine outlives an exit, so a flush of it that is missing shows in no value. hv counts them."""
    least, loads = ROUNDS + GLOBALS, ((r.stats or {}).get("shadow") or {}).get("cr3_loads")
    if isinstance(loads, int) and loads >= least:
        return None
    return Failure("at least %d loads of the machine's CR3: the guest wrote CR3 %d times and executed INVLPG %d times, and "
                   "each time something "
                   "had to go" % (least, ROUNDS, GLOBALS), "%s loads" % loads, "The machine has a TLB too. What is taken out "
                                                                               "of the shadow must "
                   "be flushed there before the guest runs again: see `flush` in spt.h.", r.name)


def globals_verify(r, params):
    numbers = Numbers(params[0])
    numbers.gva(), numbers.gva()
    values = [numbers.u64() for _ in range(GLOBALS)]
    total = sum(sum(values) + sum(values[n : n + LOCALS]) + values[n] for n in range(ROUNDS)) + sum(values)
    # The others fault once in each round. The frames are touched once more, where the loader mapped them.
    most = 2 * GLOBALS + (LOCALS + 1) * ROUNDS + 60
    return first(said(r, "sum0", total & MASK64, hint="The pages that are not global lead to another frame behind each write of CR3."),
                 said_by_traps(r), machine_flushes(r), page_faults(
        r, GLOBALS, most, "%d global pages are used, and CR3 is written %d times" % (GLOBALS, ROUNDS),
        "With CR4.PGE set, global pages stay when CR3 is written (SDM vol. 3, 4.10.2.4), also where others in their table go."))


def verify(results, params):
    return first(flush_verify(results["flush"], params["flush"]), large_verify(results["large"], params["large"]),
                 globals_verify(results["globals"], params["globals"]))


CHECKPOINTS = [
    Checkpoint(
        "2.12", "flushes: CR3, INVLPG, global pages", 7,
        "Behind a flush the guest sees its tables as they are then: a write of CR3 flushes all pages but global ones, INVLPG "
        "the whole page "
        "that contains the address, a change of CR4.PGE everything. Programs' translations go too. Before the flush old and new are both "
        "right. Global pages survive writes of CR3.",
        "flush.c: shadow_cr3_written(), shadow_invlpg(), shadow_control_changed(). Which pages may a flush not forget, and "
        "which may it keep? "
        "SDM vol. 3, 4.10.4.",
        runs=[Run(name, "lab2/%s.elf" % name, VTLB, seed_params) for name in ("flush", "large", "globals")],
        verify=verify, depends=["2.9", "2.10"]),
]
