"""Checkpoint 2.17: random edits of page tables, and accesses through them (guests/edits.c; edit_model.py says how each ends)."""

import edit_model
import edit_output
from checks import first, trapped
from edit_model import ALL, CALM, GLOBAL, NX, PGE, SMX, USER_LEVEL
from model import Checkpoint, Failure, Run

BLOCK = 50  # steps between two looks at all accessed and dirty bits
VEC_PF = 14

# Rules that a combination breaks show where something is kept for long: without what flushes everything (CR4.PGE and so on), with few
# writes of CR3, or with the kernel alone.
QUIET = ALL & ~(PGE | GLOBAL | SMX)
KERNEL = QUIET & ~USER_LEVEL


def edits_params(steps, features, tables, edits):
    return lambda rng: [rng.getrandbits(63) | 1, steps, features, BLOCK, tables, edits]


def compare(result, params):
    head = edit_output.split(result.output)
    if head is None:
        return Failure("the guest to say what its CPU can do (features=, bits=, root=)", "something else", run=result.name)
    model = edit_model.Model(params, head[0])
    difference = model.compare(head[1])
    if difference:
        hint = "\n".join([
            "The guest edits its tables at random, flushes what an edit needs, and then uses the addresses. This is the first step that "
            "ended otherwise than on a CPU. Every entry on the way, and what changed it last:", *difference.story,
            "`hv run --trace exits` with the guest of this replay shows what hv did at that address."])
        return Failure("step %d, %s: %s" % (difference.step, difference.what, difference.expected), difference.seen, hint, result.name)
    return first(trapped(result, model.counts["pf"], "each page fault that the guest's tables ask for", VEC_PF),
                 trapped(result, len(result.output), "one for each byte that it printed"))


def edits_verify(results, params):
    return first(*(compare(results[name], params[name]) for name in results))


def run(name, steps, features, tables, edits, *args):
    """tables: how many there are. edits: of 32 steps."""
    return Run(name, "lab2/edits.elf", ("--shadow", *args), edits_params(steps, features, tables, edits), timeout=20.0)


CHECKPOINTS = [
    Checkpoint(
        "2.17", "Random edits and accesses", 8,
        "Whatever a guest does to its tables, each access through them ends as on a CPU: with the value that is there, or with the "
        "exception, error code and CR2 that the manual says; and the accessed and dirty bits are as a CPU leaves them.",
        "One of the earlier checkpoints' rules does not hold in a combination that they do not try. Replay the run with the seed.",
        runs=[run("vtlb", 700, ALL, 12, 6, "vtlb"), run("cached", 700, QUIET, 12, 4, "cached"),
              run("kernel", 700, KERNEL, 8, 4, "cached"), run("calm", 600, QUIET & ~NX | CALM, 8, 6, "cached"),
              run("global", 500, ALL, 8, 6, "cached"), run("small", 500, QUIET, 4, 6, "cached", "--shadow-pages", "20")],
        verify=edits_verify, depends=["2.11", "2.12", "2.15", "2.16"]),
]
