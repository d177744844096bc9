"""Checkpoints 3.1 to 3.6 and 3.22: the lab's tables alone, at work on scripts of `hv nested`. The scripts are made, and judged, by
entries.py, nestcases.py and twodim.py; what is right is said by nestmodel.py and nestwalk.py.
"""

import functools

import entries
import nestcases
import twodim
from model import Checkpoint, Run


def script_params(rng):
    return [rng.getrandbits(31)]


@functools.lru_cache(maxsize=16)
def make(checkpoint, seed):
    """The script of that checkpoint."""
    if checkpoint in nestcases.MAKERS:
        return nestcases.make(checkpoint, seed)
    if checkpoint == "3.22":
        return twodim.make(seed)
    return entries.make({"3.1": "ept", "3.2": "npt"}[checkpoint], seed)


def scripted(checkpoint, hint):
    """What these checkpoints have in common: their run, their verdict."""
    def verify(results, params):
        seed = params["script"][0]
        repeat = ("labs/03-ept/checks/script.py %s %d prints the whole script; hv nested runs it, and hv nested --help says what its "
                  "lines mean." % (checkpoint, seed))
        return make(checkpoint, seed).verify(results["script"], repeat, hint)

    run = Run("script", command=("/bin/hv", "nested"), params=script_params, vm=False, ends=None,
              stdin=lambda params: make(checkpoint, params[0]).text.encode())
    return {"hint": hint, "verify": verify, "runs": [run]}


CHECKPOINTS = [
    Checkpoint(
        "3.1", "Entries of EPT", 6,
        "ept_encode() and ept_decode() write and read entries of all four levels: rights, memory type, A and D, address. What SDM vol. 3, "
        "28.3.3.1 calls a misconfiguration is NESTED_INVALID. ept_root() makes the EPT pointer.",
        **scripted("3.1", "SDM vol. 3, tables 28-1 to 28-6, has the bits of each level, 28.3.3.1 what makes an entry a misconfiguration.")),
    Checkpoint(
        "3.2", "Entries of NPT", 6,
        "npt_encode() and npt_decode() do the same for AMD's entries: those of ordinary page tables, walked as a user's, with NX on. "
        "npt_root() makes nCR3.",
        **scripted("3.2", "APM vol. 2, 5.3, has the entries and which bits must be zero; 15.25.5 says as whom the CPU walks.")),
    Checkpoint(
        "3.3", "A walk, and why it ended", 6,
        "nested_walk() follows the entries of either format from the root, ends at the first that is absent or invalid or leads out of the "
        "pool, and says which rights all levels together give.",
        depends=["3.1", "3.2"],
        **scripted("3.3", "Absent and invalid entries end a walk where they are. Rights are collected on the way, and compared "
                   "at its end.")),
    Checkpoint(
        "3.4", "Map, unmap, and a bounded pool", 8,
        "nested_map() makes the tables on the way and pages of 4 KiB, in the place of what was there; nested_unmap() takes pages away, and "
        "tables that became empty. n->flush is set when the CPU could remember what is not true any more, and not otherwise.",
        depends=["3.3"],
        **scripted("3.4", "Where a table is needed and there is none, -ENOMEM says so, and what is mapped stays mapped.")),
    Checkpoint(
        "3.5", "Large pages: split and join", 8,
        "nested_map() uses pages as large as alignment, length, CPU and max_level allow. What reaches beyond a range is split first. "
        "nested_split() and nested_join() change the size of pages and nothing that a guest could see.",
        depends=["3.4"],
        **scripted("3.5", "The 512 pieces of a page say what the page said: rights, type, A and D. 512 pieces become one page if nobody "
                   "could tell; its A and D are set if any piece had them.")),
    Checkpoint(
        "3.6", "Permissions", 6,
        "nested_protect() changes the rights of what is mapped in a range, exactly there, and nothing else: memory, type, A and D stay. "
        "What is not mapped stays so.",
        depends=["3.5"],
        **scripted("3.6", "A page that reaches beyond the range is split first; rights that are taken away need a flush.")),
    Checkpoint(
        "3.22", "The two-dimensional walk", 6,
        "twodim_walk() lists what a CPU reads to translate an address of a guest: each entry of the guest's tables behind the nested ones "
        "that lead to it. twodim_cost() counts.",
        depends=["3.5"],
        **scripted("3.22", "Every gpa is translated before it is used: four of tables, one of the data.")),
]
