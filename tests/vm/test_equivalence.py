"""Equivalence, Popek and Goldberg's first requirement: a guest does the same on the trap engine, with or without its popf and pushf
patched, on the kvm engine and on bare QEMU, where there is no hypervisor of ours: the same output, the same end.

Every guest in build/guests takes part, with the parameters of every checkpoint that uses it. What is not compared is listed in
differences.py, item by item with the reason; it is checked here that each of them hides something, in every guest that it
names. TRAPDOOR_SEED=N fixes the parameters. The kernel that has paging has a test of its own, without exceptions.
"""

import difflib
import random
import unittest

import equivalence
import host
from equivalence import PAIRS
from differences import ANY, EXCEPTIONS, LEFT_OUT, TCG


def difference(left, right):
    """Two transcripts for people: the lines that only one of them has."""
    texts = [[name if value is None else f"{name}={value:x}" for name, value in found] + [f"end: {end}"] for found, end in (left, right)]
    return "\n".join(line for line in difflib.unified_diff(*texts, lineterm="", n=0) if not line.startswith(("---", "+++", "@@")))


class TestEquivalence(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.seed = host.seed_from_environment(random)
        print(f"equivalence test: TRAPDOOR_SEED={cls.seed}")
        cls.cases = equivalence.cases(cls.seed)
        cls.results = equivalence.run(cls.cases)

    def test_all_engines_agree(self):
        for name, case in self.cases.items():
            for pair in PAIRS:
                with self.subTest(case=name, guest=case.guest, pair=PAIRS[pair], seed=self.seed):
                    self.assertEqual(difference(*equivalence.compared(self.results, name, pair)), "")

    def test_no_engine_crashes(self):
        for key, result in self.results.items():
            with self.subTest(case=key):
                self.assertNotRegex(result.stderr, host.CRASH)
                if key[1] != equivalence.QEMU:
                    self.assertIn(result.status, host.DOCUMENTED)

    def test_every_guest_takes_part(self):
        built = {str(path.relative_to(host.GUESTS)) for path in host.GUESTS.rglob("*.elf")} - {"bench.elf"}
        built = {name for name in built if not name.startswith(("lab2/", "lab3/", "lab4/", "lab5/"))}
        self.assertEqual({case.guest for case in self.cases.values()}, built - {equivalence.PAGED_KERNEL})
        self.assertIn("kernel.elf", built)

    def test_every_guest_is_compared(self):
        """Whatever is excepted: some run of every guest is compared to its end, and in a good part of its items."""
        for guest in {case.guest for case in self.cases.values()}:
            for pair in PAIRS:
                with self.subTest(guest=guest, pair=pair):
                    self.assertTrue(any(self.share(name, pair) > 0.1 for name, case in self.cases.items() if case.guest == guest))

    def share(self, name, pair):
        """The share of a transcript that is compared, or 0 when the end is not."""
        those = [exception for exception in equivalence.concerning(name, pair) if not exception.bits]
        output = self.results[name, PAIRS[pair][0]]
        left, _ = equivalence.comparable(output, those)
        return 0 if any(e.behind for e in those) else (len(left) + 1) / (len(equivalence.items(output.stdout)) + 1)

    def test_every_exception_is_needed(self):
        """Without it, but with all others, there is a difference: in each pair and in each case that it names."""
        for exception in EXCEPTIONS:
            others = [e for e in EXCEPTIONS if e is not exception]
            for pair in exception.engines:
                named = [name for name in self.cases if exception.concerns(name, pair) and self.can_show(exception, name, pair)]
                hides = [name for name in named if len({repr(t) for t in equivalence.compared(self.results, name, pair, others)}) > 1]
                with self.subTest(pair=pair, items=exception.items, reason=exception.reason, seed=self.seed):
                    self.assertLessEqual(set(exception.cases), set(self.cases))
                    if exception.cases is ANY:
                        self.assertTrue(hides)
                    elif exception.chance != "all":
                        self.assertEqual(hides, named)

    def can_show(self, exception, name, pair):
        """Parameters are random, and bits that are 0 everywhere say nothing."""
        transcripts = [equivalence.items(self.results[name, engine].stdout) for engine in PAIRS[pair]]
        return not exception.bits or any(value and value & exception.bits and exception.names(item)
                                         for transcript in transcripts for item, value in transcript)

    def test_no_exception_is_too_wide(self):
        """What is left out, and not only masked, is different."""
        for exception in EXCEPTIONS:
            if exception.bits or exception.behind or exception.chance:
                continue
            for pair in exception.engines:
                for name in exception.cases:
                    with self.subTest(case=name, pair=pair, seed=self.seed, items=exception.items):
                        left, right = (dict(equivalence.items(self.results[name, engine].stdout)) for engine in PAIRS[pair])
                        self.assertEqual([item for item in left if exception.names(item) and left[item] == right.get(item)], [])

    def test_left_out_probes_end_the_run(self):
        """What a LEFT_OUT entry keeps out of a second run is why the first one cannot be compared to its end."""
        for name in LEFT_OUT:
            for engine in TCG:
                with self.subTest(case=name, engine=engine):
                    trap, other = (equivalence.end_of(self.results[name, which]) for which in (equivalence.TRAP, engine))
                    self.assertNotEqual(trap, other)


class TestPagedKernel(unittest.TestCase):
    """The kernel with paging prints the same to the last byte wherever it runs, and finds nothing wrong."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.cases = equivalence.paged_cases()
        cls.results = equivalence.run(cls.cases, engines=equivalence.PAGED_OPTIONS)
        few = {name: cls.cases[name] for name in ("paging-0", "paging-small")}  # the others would take too long
        cls.results.update(equivalence.run(few, engines=equivalence.GUEST_MODE_OPTIONS))

    def test_all_engines_agree(self):
        for (name, engine), result in self.results.items():
            with self.subTest(case=name, engine=engine):
                self.assertEqual(result.stdout.decode(), self.results[name, equivalence.QEMU].stdout.decode())

    def test_it_ends_well(self):
        for (name, engine), result in self.results.items():
            with self.subTest(case=name, engine=engine):
                self.assertEqual(equivalence.end_of(result), "exit 0")
                self.assertNotRegex(result.stderr, host.CRASH)
                self.assertIn(b"all page frames came back", result.stdout)


if __name__ == "__main__":
    unittest.main()
