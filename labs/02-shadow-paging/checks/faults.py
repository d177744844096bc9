"""Checkpoints 2.6 to 2.11: what becomes of a page fault of the machine."""

from accesses import Numbers, canonical, page_faults, said, said_by_traps, seed_params, went
from checks import first
from model import Checkpoint, Run

VTLB = ("--shadow", "vtlb", "--stats", "json")

# --- 2.6 ------------------------------------------------------------------------------------------------------------------

PLACES, PAGES, TWICE, CODES = 12, 4, 8, 4
COUNT = PLACES * PAGES


def fill_verify(results, params):
    r, (seed, code, *_) = results["fill"], params["fill"]
    numbers = Numbers(seed)
    for _ in range(PLACES // 2):
        numbers.gva()
    loaded = [numbers.u64() for _ in range(COUNT - TWICE)]
    loaded += loaded[:TWICE]  # the frames that are mapped twice
    stored = [numbers.u64() for _ in range(COUNT)]
    wrong = ("Each 4 KiB page must lead to the guest's own frame for it. Addresses that differ in their highest index only, or that share "
             "a page table, must not be mixed up.")
    found = [went(r, "load%x" % i, v, hint=wrong) for i, v in enumerate(loaded)]
    found += [went(r, "store%x" % i, v, hint=wrong) for i, v in enumerate(stored)]
    found += [went(r, "call%x" % i, code + i, hint=wrong) for i in range(CODES)]
    # Each mapped page costs one for its first load and one for its first store; the frames behind them, the tables and the guest's image
    # are touched where the loader mapped them.
    most = 2 * COUNT + 2 * (COUNT - TWICE) + 3 * PLACES + 30
    return first(*found, said(r, "sum0", sum(stored) * 6 & (1 << 64) - 1), said_by_traps(r), page_faults(
        r, COUNT, most, "the guest touches each page often, but only the first load and the first store need the shadow to be filled",
        "What was filled in must stay: an entry that is already right must not be made again, and no other may get lost when one is set."))


CHECKPOINTS = [
    Checkpoint(
        "2.6", "hidden faults: the shadow is filled", 5,
        "A page fault of the machine that the guest's tables do not explain is hidden from the guest: the shadow gets the entry that it "
        "lacked, and the guest repeats the instruction. (--shadow=vtlb, 4 KiB pages, one fault for each page.)",
        "shadow_fault(), shadow_fill(), shadow_child() and shadow_rights() in fill.c. `hv run --trace exits --shadow vtlb` says what "
        "became of each fault.",
        runs=[Run("fill", "lab2/fill.elf", VTLB, seed_params)], verify=fill_verify, depends=["2.5"]),
]
