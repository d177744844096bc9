"""Checkpoint 2.17: random edits of page tables, and accesses through them (guests/edits.c; edit_model.py says how each ends)."""

import edit_model
from checks import first, trapped
from model import Checkpoint, Failure, Run

BLOCK = 50  # steps between two looks at all accessed and dirty bits
EDITS = 9  # of 32 steps
VEC_PF = 14

# Without CR4.PGE there are fewer flushes of everything, and more that is kept.
QUIET = edit_model.ALL & ~(edit_model.PGE | edit_model.GLOBAL)
CALM = QUIET & ~(edit_model.SMX | edit_model.NX) | edit_model.CALM


def edits_params(steps, features, tables):
    return lambda rng: [rng.getrandbits(63) | 1, steps, features, BLOCK, tables, EDITS]


def compare(result, params):
    head = edit_model.split(result.output)
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


def run(name, steps, features, tables, *args):
    return Run(name, "lab2/edits.elf", ("--shadow", *args), edits_params(steps, features, tables), timeout=20.0)


CHECKPOINTS = [
    Checkpoint(
        "2.17", "Random edits and accesses", 8,
        "Whatever a guest does to its tables, each access through them ends as on a CPU: with the value that is there, or with the exception, "
        "error code and CR2 that the manual says; and the accessed and dirty bits are as a CPU leaves them.",
        "One of the earlier checkpoints' rules does not hold in a combination that they do not try. Replay the run with the seed.",
        runs=[run("vtlb", 800, edit_model.ALL, 12, "vtlb"), run("cached", 800, QUIET, 12, "cached"),
              run("calm", 800, CALM, 8, "cached"), run("global", 500, edit_model.ALL, 8, "cached"),
              run("small", 500, QUIET, 4, "cached", "--shadow-pages", "20")],
        verify=edits_verify, depends=["2.11", "2.12", "2.15", "2.16"]),
]
