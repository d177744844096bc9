"""The guests of checkpoints 2.19 to 2.21 on every engine that has paging: the same results everywhere, and a number of exits that the
reference's cached shadow keeps within each checkpoint's bound and its virtual TLB does not. Without the second, the bounds
would ask for nothing.
"""

import json
import pathlib
import random
import sys
import tempfile
import unittest

import host

import elf  # of the grader, whose directory host.py put on the path
import ladder

sys.path.append(str(host.TOP / "labs/02-shadow-paging/checks"))
import nano  # noqa: E402
import speed  # noqa: E402

OPTIONS = {"vtlb": ["--shadow", "vtlb"], "cached": ["--shadow", "cached"], "kvm": ["--engine", "kvm"]}
# Exits that a checkpoint allows for one count, in which each process does the operation once.
BOUNDS = {"2.19": 2 * speed.SWITCH_BOUND, "2.20": 2 * speed.TURNS_BOUND, "2.21": speed.FORK_BOUND}


class TestSpeed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        seed = host.seed_from_environment(random)
        print(f"speed test: TRAPDOOR_SEED={seed}")
        cls.params, commands, images = {}, {}, []
        image = (host.GUESTS / "lab2/nano.elf").read_bytes()
        with tempfile.TemporaryDirectory() as directory:
            for checkpoint in speed.CHECKPOINTS:
                for run in checkpoint.runs:
                    if checkpoint.id not in BOUNDS:
                        continue
                    params = cls.params[checkpoint.id, run.name] = ladder.make_params(checkpoint, run, seed)
                    path = pathlib.Path(directory, f"{checkpoint.id}-{run.name}.elf")
                    path.write_bytes(elf.patch_params(image, params, run.guest))
                    images.append(path)
                    for engine, options in OPTIONS.items():
                        commands[checkpoint.id, run.name, engine] = host.Command(
                            ["hv", "run", *options, "--stats", "json", "--timeout", "50", path.name])
            cls.results = host.run(commands, [host.HV, *images])

    def exits(self, checkpoint, engine):
        """For one count of the operation."""
        few, many = (json.loads(self.results[checkpoint, run, engine].stderr.splitlines()[-1])["exits"] for run in ("few", "many"))
        return (many - few) / (self.params[checkpoint, "many"][nano.COUNT] - self.params[checkpoint, "few"][nano.COUNT])

    def test_results_are_right_everywhere(self):
        for (checkpoint, run, engine), result in self.results.items():
            with self.subTest(checkpoint=checkpoint, run=run, engine=engine):
                lines = nano.lines(self.params[checkpoint, run])
                self.assertEqual((result.status, result.stdout.decode().splitlines()), (host.OK, lines), result.stderr)

    def test_bounds_tell_the_modes_apart(self):
        for checkpoint, bound in BOUNDS.items():
            with self.subTest(checkpoint):
                self.assertLess(self.exits(checkpoint, "cached"), bound)
                self.assertGreater(self.exits(checkpoint, "vtlb"), 2 * bound)


if __name__ == "__main__":
    unittest.main()
