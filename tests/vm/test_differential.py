"""Random sequences of privileged instructions and exceptions, on the trap engine and on the processor (the kvm engine).

The guest (guests/diff*.c) makes them from a seed and prints one hash for each sequence; here the lines are compared. The seed is
new in every run and printed; TRAPDOOR_SEED=N fixes it, TRAPDOOR_SEQUENCES=N makes more of them.
"""

import collections
import os
import random
import unittest

import host

SEQUENCES = int(os.environ.get("TRAPDOOR_SEQUENCES") or 1500)
ENGINES = ("trap", "kvm")
EXPLAINED = 3  # that many differences are explained
REPLAYS = 3    # of a sequence that differs, on each engine, alone and behind its predecessors
BEFORE = 25    # that many of them
DOUBTFUL = 12  # differences that are replayed; with more there is no point in it


def command(engine, seed, first, count, *words):
    options = " ".join([f"seed={seed}", f"first={first}", f"count={count}", *words])
    return host.Command(["hv", "run", "--timeout", "200", "--engine", engine, "--append", options, "diff.elf"], limit=220)


def run(commands):
    return host.run(commands, [host.HV, host.VM_GUESTS / "diff.elf"])


def fields(text):
    """The words `name=value` of one half of a trace line."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def first_difference(trap, kvm):
    """What the first step did that ended differently: some lines of text."""
    for left, right in zip(trap, kvm):
        if left == right:
            continue
        if "|" not in left or "|" not in right:
            break
        given, after = (left.split("|"), right.split("|"))
        lines = [f"  {given[0].strip()}"]
        if given[0] != after[0]:
            lines.append(f"  (on kvm it was given: {after[0].strip()})")
        here, there = fields(given[1]), fields(after[1])
        context = ("vector", "error", "rip", "cs", "cr2")
        lines += [f"  {name:>8}  trap {here[name]:>16}  kvm {there.get(name, ''):>16}{'' if here[name] == there.get(name) else '  <--'}"
                  for name in here if name in context or here[name] != there.get(name)]
        return "\n".join(lines)
    return "  every step ended in the same way; what differs is the memory at the end, or one engine printed less"


class TestDifferential(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        host.build("hv", "vmguests")
        cls.seed = host.seed_from_environment(random)
        print(f"differential test: TRAPDOOR_SEED={cls.seed}, {SEQUENCES} sequences")
        cls.results = run({engine: command(engine, cls.seed, 0, SEQUENCES) for engine in ENGINES})
        cls.lines = {engine: result.stdout.decode(errors="replace").split() for engine, result in cls.results.items()}

    def test_both_engines_ran_all_sequences(self):
        for engine, result in self.results.items():
            self.assertEqual((result.status, len(self.lines[engine])), (host.OK, SEQUENCES),
                             f"engine {engine}, seed {self.seed}: {' '.join(result.sentences)}")

    def test_sequences_do_something(self):
        """A guest that compares nothing would agree with itself: the hashes are all different."""
        self.assertEqual(len(set(self.lines["trap"])), SEQUENCES)

    def test_engines_agree(self):
        """A difference counts unless replays prove that the kvm engine was wrong by chance: the trap engine must give the same answer
        each time, and the kvm engine in most cases that very answer."""
        different = [n for n, (trap, kvm) in enumerate(zip(self.lines["trap"], self.lines["kvm"])) if trap != kvm]
        if len(different) > DOUBTFUL:
            print(f"{len(different)} of {SEQUENCES} sequences end differently on the two engines; the first are looked into")
        report = []
        for n, replays in self.replays(different[:DOUBTFUL]).items():
            trap, kvm = (collections.Counter([self.lines[engine][n], *replays[engine]]) for engine in ENGINES)
            answer, times = kvm.most_common(1)[0]
            if len(trap) > 1:
                report.append(f"sequence {n} of seed {self.seed}: the trap engine does not always do the same: {dict(trap)}")
            elif answer not in trap or times <= len(replays["kvm"]) // 2:
                report.append(self.explain(n) + f"\n  trap {dict(trap)}, kvm {dict(kvm)}")
            else:
                print(f"sequence {n} of seed {self.seed}: {kvm.total() - times} of {kvm.total()} times kvm did something else; "
                      "trap never did")
        if report or len(different) > DOUBTFUL:
            self.fail(f"{len(different)} of {SEQUENCES} sequences end differently on the two engines.\n" + "\n".join(report[:EXPLAINED]))

    def replays(self, numbers):
        """number -> engine -> the last lines of its replays."""
        if not numbers:
            return {}
        again = run({(n, engine, first, i): command(engine, self.seed, first, n - first + 1) for n in numbers for engine in ENGINES
                     for first in {n, max(0, n - BEFORE)} for i in range(REPLAYS)})
        return {n: {engine: [(result.stdout.decode(errors="replace").split() or [""])[-1] for key, result in again.items()
                             if key[:2] == (n, engine)] for engine in ENGINES} for n in numbers}

    def explain(self, n):
        again = run({engine: command(engine, self.seed, n, 1, "trace") for engine in ENGINES})
        trap, kvm = (again[engine].stdout.decode(errors="replace").splitlines() for engine in ENGINES)
        names = [line.split()[2] for line in trap if line.startswith("step")]
        text = first_difference(trap, kvm) if trap != kvm else f"  alone it does not differ, behind its {BEFORE} predecessors it does"
        return (f"sequence {n} of seed {self.seed}: {' '.join(names)}\n{text}\n  to see it again:\n" +
                "".join(f"    {self.replay(engine, n)}\n" for engine in ENGINES))

    def replay(self, engine, n):
        return ("scripts/testhost-run --file build/reference/hv --file build/vm/diff.elf -- "
                f"hv run --engine {engine} --append 'seed={self.seed} first={n} count=1 trace' diff.elf")


if __name__ == "__main__":
    unittest.main()
