"""Checkpoints of the grader on every engine: a lab's grader runs its guests on one, and its expectations hold for all."""

import random

import host  # before the grader's modules, which it makes known
import ladder
from model import Capture, RunResult


class OnEveryEngine:
    """For a test case with checkpoints and engines, whose setUpClass calls draw() and carries out the runs."""

    checkpoints, engines = (), ()  # a checkpoint as in the grader's model.py, an engine by a name of the test's own
    params = {}  # (checkpoint's ID, run's name) -> parameters
    results = {}  # (checkpoint's ID, run's name, engine) -> host.Result

    @classmethod
    def draw(cls, what):
        """Parameters for every run, by a seed that is printed."""
        seed = host.seed_from_environment(random)
        print(f"{what}: TRAPDOOR_SEED={seed}")
        cls.params = {(c.id, r.name): ladder.make_params(c, r, seed) for c in cls.checkpoints for r in c.runs}

    def test_every_engine_satisfies_the_grader(self):
        for c in self.checkpoints:
            for engine in self.engines:
                with self.subTest(checkpoint=c.id, engine=engine):
                    results = {}
                    for r in c.runs:
                        seen = self.results[c.id, r.name, engine]
                        self.assertEqual(seen.status, host.OK, seen.stderr)
                        stderr = seen.stderr.encode()
                        results[r.name] = RunResult(r.name, seen.status, stdout=Capture(head=seen.stdout, total=len(seen.stdout)),
                                                    stderr=Capture(head=stderr, total=len(stderr)), maxrss_kib=seen.maxrss_kib)
                    self.assertIsNone(c.verify(results, {r.name: self.params[c.id, r.name] for r in c.runs}))
