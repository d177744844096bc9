"""Random edits of page tables and accesses through them, compared step by step with a model that is written from the manual.

The guest is checkpoint 2.17's (labs/02-shadow-paging/guests/edits.c); its steps are compared with checks/edit_model.py, which takes every
translation from checks/walker.py. Both shadow modes, pools from large to tiny, and the processor itself (the kvm engine) must do what the
model says; so must the same shadows below a guest that has its own CPL (the hvm engine), in the first round. The seed is new in every run
and printed; TRAPDOOR_SEED=N fixes it, TRAPDOOR_STEPS=N and TRAPDOOR_ROUNDS=N make it longer.
"""

import json
import os
import random
import sys
import tempfile
import unittest
from dataclasses import dataclass

import host

sys.path.insert(0, str(host.TOP / "labs/02-shadow-paging/checks"))
import edit_model  # noqa: E402
import edit_output  # noqa: E402
import elf  # noqa: E402
from edit_model import ALL, CALM, GLOBAL, NX, OUTSIDE_PAGE, OUTSIDE_TABLE, PGE, SMAP_ALONE, SMX, USER_LEVEL  # noqa: E402

STEPS = int(os.environ.get("TRAPDOOR_STEPS") or 3500)
ROUNDS = int(os.environ.get("TRAPDOOR_ROUNDS") or 3)
BLOCK = 50
BATCH = 4  # rounds in one boot of the test host

# What the kvm engine is not asked, because no processor answers there: KVM carries out the instruction itself when a page has no memory,
# without a look at all of its rights, and does not get by when a page table has none.
NOT_ON_KVM = OUTSIDE_PAGE | OUTSIDE_TABLE
# What the processor below the kvm engine, QEMU 7.2's TCG, does otherwise than a shadow is in edit_model.Model's tcg.


@dataclass(frozen=True)
class Kind:
    """What a round is made of. A round without what flushes everything keeps its shadows longer."""

    features: int
    tables: int
    edits: int  # of 32 steps


KINDS = (
    Kind(ALL, 12, 6),
    Kind(ALL & ~(PGE | GLOBAL | SMX | NX) | CALM, 12, 8),
    Kind(ALL & ~(PGE | GLOBAL | SMX | NX) | CALM, 4, 8),
    Kind(ALL & ~(PGE | GLOBAL | SMX | USER_LEVEL), 8, 4),
    Kind(ALL & ~SMX, 12, 8),
    Kind(ALL & ~GLOBAL, 4, 12),
)


def kinds_of(seed, rounds):
    """(name, engine's arguments, features, tables, edits, the guest's seed) of every run."""
    rng = random.Random(seed)
    for n in range(rounds):
        kind, start, pages = KINDS[n % len(KINDS)], rng.getrandbits(63) | 1, rng.randrange(20, 25)
        on_kvm = kind.features & ~NOT_ON_KVM | (SMAP_ALONE if kind.features & SMX else 0)
        engines = [
            ("vtlb", ("--shadow", "vtlb"), kind.features),
            ("vtlb-small", ("--shadow", "vtlb", "--shadow-pages", str(pages)), kind.features),
            ("cached", ("--shadow", "cached"), kind.features),
            ("cached-small", ("--shadow", "cached", "--shadow-pages", str(pages)), kind.features),
            ("kvm", ("--engine", "kvm"), on_kvm),
        ]
        if n == 0:  # once: the tables are made by the same code; without SMAP, which that engine does not offer with shadows
            small = ("--shadow", "cached", "--shadow-pages", str(pages))
            engines += [("hvm-vtlb", ("--engine", "hvm", "--shadow", "vtlb"), kind.features & ~SMX),
                        ("hvm-cached-small", ("--engine", "hvm", *small), kind.features & ~SMX)]
        for name, arguments, features in engines:
            yield "%d-%s" % (n, name), arguments, [start, STEPS, features, BLOCK, kind.tables, kind.edits]


def run(runs):
    """name -> host.Result of runs as kinds_of() gives them."""
    image, results = (host.GUESTS / "lab2/edits.elf").read_bytes(), {}
    runs, size = list(runs), BATCH * 5
    for first in range(0, len(runs), size):
        with tempfile.TemporaryDirectory() as directory:
            commands, files = {}, [host.HV]
            for name, arguments, params in runs[first : first + size]:
                path = os.path.join(directory, "edits-%s.elf" % name)
                with open(path, "wb") as file:
                    file.write(elf.patch_params(image, params))
                files.append(path)
                argv = ["hv", "run", "--stats", "json", "--timeout", "200", *arguments, os.path.basename(path)]
                commands[name] = host.Command(argv, limit=220)
            results.update(host.run(commands, files, timeout=600))
    return results


class TestPagingDifferential(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.seed = host.seed_from_environment(random)
        print(f"paging, differential test: TRAPDOOR_SEED={cls.seed}, {ROUNDS} rounds of {STEPS} steps")
        cls.runs = list(kinds_of(cls.seed, ROUNDS))
        cls.results = run(cls.runs)
        cls.counts = {}

    def compare(self, name, params):
        """The first difference in words, or None."""
        result = self.results[name]
        head = edit_output.split(result.stdout)
        if head is None:
            return f"the guest said nothing: status {result.status}, {' '.join(result.sentences)}"
        model = edit_model.Model(params, head[0], tcg=name.endswith("kvm"))
        difference = model.compare(head[1])
        self.counts[name] = model.counts
        if difference or result.status != host.OK:
            return f"{difference}\n  hv's status {result.status}: {' '.join(result.sentences)}"
        return None

    def test_every_step_is_the_models(self):
        for name, arguments, params in self.runs:
            with self.subTest(name, params=params):
                difference = self.compare(name, params)
                self.assertIsNone(difference, f"seed {self.seed}, {name} ({' '.join(arguments)}), params {params}:\n{difference}")
                # Not by luck: enough of everything happens.
                for kind, share in (("done", 20), ("pf", 10), ("gp", 200)):
                    self.assertGreater(self.counts[name][kind], STEPS // share)

    def test_all_features_were_there(self):
        """The test host has all that is tested; a guest that leaves something out tests less."""
        for name, _, params in self.runs:
            self.assertEqual(edit_output.split(self.results[name].stdout)[0].features, params[2], name)

    def test_shadows_were_used(self):
        for name, arguments, _ in self.runs:
            if "--shadow" not in arguments:
                continue
            shadow = json.loads(self.results[name].stderr.splitlines()[-1])["shadow"]
            with self.subTest(name, shadow=shadow):
                self.assertGreater(shadow["hidden"], STEPS // 20)
                self.assertLessEqual(shadow["peak"], shadow["pages"])
                if "cached" in arguments:
                    self.assertGreater(min(shadow["unsync"], shadow["synced"], shadow["emulated"]), 0)
                if name.endswith("cached-small"):
                    self.assertGreater(shadow["evicted"], 0)


if __name__ == "__main__":
    unittest.main()
