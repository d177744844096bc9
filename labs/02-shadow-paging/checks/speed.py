"""2.18 to 2.21: the course kernel, and what the cached shadow must have saved: exits per context switch, page fault and fork.

Only exits are counted, never time, and only by the test host's kernel. Each guest runs twice with different counts of the same operation,
so that beginning, end and output cancel out; what the exits of one operation are is derived beside each bound. A virtual TLB misses
all of them by a factor (tests/vm/test_speed.py).
"""

import nano
import paged_kernel
from checks import first, printed_by_traps
from model import HV_GUEST_FAILED, HV_OK, Checkpoint, Failure, Run

VTLB = ("--shadow", "vtlb")
CACHED = ("--shadow", "cached")

# --- 2.18: the rest of the kernel's programs are the same without those that only compute, which take the most time.


def kernel_options(mode, compute):
    return [*mode, "--append", "procs=%d" % compute]


def kernel_run(name, mode, compute):
    """compute: a range."""
    return Run(name, "paging.elf", args=lambda p: kernel_options(mode, p[0]), params=lambda rng: [rng.randrange(*compute)], timeout=20.0,
               ends=(HV_OK, HV_GUEST_FAILED))  # what it says when it panics is compared too


def kernel_verify(results, params):
    return first(*(paged_kernel.verify(results[name], params[name][0], " ".join(kernel_options(mode, params[name][0])))
                   for name, mode in (("vtlb", VTLB), ("cached", CACHED))))


# --- 2.19 to 2.21

# Fixed, so that both runs of a checkpoint begin alike.
SWITCH_PAGES = 32
TURNS_PAGES = 24
FORK_PAGES, FORK_WRITES = 256, 16


def runs(operation, few, many, pages, writes=0):
    """Two runs; few and many are ranges of the count."""

    def params(count):
        return lambda rng: nano.params(operation, rng.randrange(*count), pages, writes, rng.getrandbits(62) | 1 << 62)

    return [Run(name, "lab2/nano.elf", CACHED, params(count), timeout=10.0) for name, count in (("few", few), ("many", many))]


def exits(result):
    """Every exit of the trap engine is a write to a port by the monitor."""
    return sum(result.witness.pio.values())


def costs(results, params, operations, bound, what, spent, hint):
    """Right results first. operations: of one count. bound: exits allowed for an operation; spent: on what."""
    for name in ("few", "many"):
        failure = nano.wrong_report(results[name], params[name],
                                    "The guest's memory is wrong, whatever it costs. The same guest with --shadow vtlb shows whether the "
                                    "cached shadow is at fault.") or printed_by_traps(results[name], results[name].output)
        if failure:
            return failure
    if not results["many"].witness:
        return None  # a native host: nobody to ask
    done = (params["many"][nano.COUNT] - params["few"][nano.COUNT]) * operations
    each = (exits(results["many"]) - exits(results["few"])) / done
    if each <= bound:
        return None
    return Failure("at most %d exits for each %s: %s" % (bound, what, spent),
                   "%.1f exits for each of %d, counted by the test host's kernel (--stats json says of which kind, --trace exits which)" % (
                       each, done), hint)


# --- 2.19: `int` into the kernel 1, its write of CR3 1, IRETQ to the other process 1. Nobody has changed a table, so that the shadows of
# both spaces, the kernel's global pages among them, are as true as they were: no fault. A virtual TLB adds one hidden fault for each
# page that the process touches again: 32 of the heap, code and stack. One more exit is allowed.

SWITCH_BOUND = 4


def switch_verify(results, params):
    return costs(results, params, 2, SWITCH_BOUND, "context switch", "one into the kernel, one for CR3, one out again",
                 "Nothing in a shadow becomes wrong because the guest loads another root: its own tables have not changed. What was made "
                 "for the old one must be there when it comes back, with all its leaves.")


# --- 2.20: the guest's fault 1; its handler reads CR2 1, stores the entry 1 (the table is protected, and let go for all stores until
# the next flush), gives the CPU to the other process by writing CR3 1, IRETQ 1; back again, the new page is a hidden fault 1. That is 6.
# The leaves of the other pages of the same table must have survived its synchronization, or each is a fault: 24 to 64 of them.
# Two more are allowed: a way through the upper levels that must be linked anew, for each of the two roots.

TURNS_BOUND = 8


def turns_verify(results, params):
    return costs(results, params, 2, TURNS_BOUND, "page fault of two processes that take turns",
                 "the fault, CR2, the store to the table, CR3, IRETQ, and the hidden fault of the new page",
                 "One entry of the table was stored to; the others are what they were. The flush makes the shadow agree with the table "
                 "again; what agrees already is not to be lost, nor are its rights.")


# --- 2.21: each of parent and child writes to 16 pages and its stack, 34 copies on write at 5: the guest's fault, CR2, INVLPG, IRETQ,
# and a hidden fault for the page that was dropped. System calls fork, wait, exit: 3 at 2, and one more for the second wait. Writes of CR3:
# 3. Two tables of the parent are let go, once, however many of their entries are changed: 2. That is 183.
# For the child's five tables and the frames that were something else before: new shadows (their leaves are filled in at once: the child
# finds A set), stores into what was a table once, 16 for each: 80.
# What must not be: a fault for each of the 256 entries that the kernel changes, or for each page that the child or the parent reads.

FORK_BOUND = 5 * 2 * (FORK_WRITES + 1) + 8 + 3 + 2 + 16 * 5


def fork_verify(results, params):
    return costs(results, params, 1, FORK_BOUND, "fork of a process with %d pages" % FORK_PAGES,
                 "five for each of %d pages that are copied on write, and a fixed number" % (2 * (FORK_WRITES + 1)),
                 "Three things of fork come in bulk: the parent's entries change, the child's tables are new but say what has been used "
                 "before, and each copy on write ends with an INVLPG of one page. Which of them costs faults for all pages?")


CHECKPOINTS = [
    Checkpoint(
        "2.18", "the course kernel with paging runs", 8,
        "A kernel with address spaces of its own, copy-on-write fork, demand-zero and protected pages prints under shadow paging, with "
        "both modes, what it prints on any other machine.",
        "Nothing new is to be written: if the steps before pass and this fails, compare --trace exits of the two modes: where do "
        "they part?",
        runs=[kernel_run("vtlb", VTLB, (0, 1)), kernel_run("cached", CACHED, (2, 4))], verify=kernel_verify, depends=["2.17"]),
    Checkpoint(
        "2.19", "exits per context switch", 5,
        "Two processes that take turns cost no page fault once the shadows of both exist: a switch is a system call and a write of CR3.",
        "hv run --shadow cached --trace exits shows every exit, and which page faults are hidden ones.",
        runs=runs(nano.SWITCH, (6, 10), (38, 42), SWITCH_PAGES), verify=switch_verify, depends=["2.18"]),
    Checkpoint(
        "2.20", "exits per page fault", 5,
        "A page fault costs the guest's own exits, one for the first store to the table, and one hidden fault; the other pages of the "
        "process stay in the shadow, although their table was written.",
        "hv run --shadow cached --trace exits shows every exit, and which page faults are hidden ones.",
        runs=runs(nano.TURNS, (4, 8), (36, 40), TURNS_PAGES), verify=turns_verify, depends=["2.19"]),
    Checkpoint(
        "2.21", "exits per fork", 6,
        "A fork costs exits for the pages that are then copied, and for each page table a few; none for each page that is only read or "
        "whose entry the kernel changes.",
        "hv run --shadow cached --trace exits shows every exit, and which page faults are hidden ones.",
        runs=runs(nano.FORK, (6, 8), (14, 17), FORK_PAGES, FORK_WRITES), verify=fork_verify, depends=["2.20"]),
]
