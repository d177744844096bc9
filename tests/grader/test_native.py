"""Running jobs on this machine itself, as `--host native` does."""

import os
import time
import unittest

from support import FIXTURES, TempDir, compile_c

from jobs import Job, Limits
from native import NativeHost


@unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "needs a usable /dev/kvm")
class Native(TempDir):
    def setUp(self):
        super().setUp()
        self.host = NativeHost({"/bin/attack": compile_c(FIXTURES / "attack.c", self.dir / "attack")})

    def one(self, *args, **more):
        outcomes = []
        limits = Limits(seconds=0.5, grace=0.5)
        self.host.run([Job(None, ["/bin/attack", *args], limits=limits, **more)], lambda job: True, lambda job, o: outcomes.append(o))
        return outcomes[0]

    def test_input_output_status(self):
        outcome = self.one("echo", "7", stdin=b"hello\n")
        self.assertEqual((outcome.code, outcome.signal, outcome.timed_out), (7, 0, False))
        self.assertTrue(outcome.stdout.data.startswith(b"hello\nuid="))
        self.assertIsNone(outcome.witness)

    def test_ends_of_all_kinds(self):
        self.assertEqual(self.one("crash").signal, 11)
        begin = time.monotonic()
        self.assertTrue(self.one("sleep").timed_out)
        self.assertLess(time.monotonic() - begin, 5)

    def test_flood_is_capped(self):
        stdout = self.one("flood").stdout
        self.assertLess(len(stdout.head) + len(stdout.tail), 200000)
        self.assertTrue(stdout.head.startswith(b"first\n") and stdout.tail.rstrip().split(b"\n")[-2] == b"last=1")

    def test_a_program_that_does_not_exist(self):
        self.host._programs["/bin/attack"] = "/nonexistent"
        self.assertIn("could not be started", self.one("echo").grader_trouble)


if __name__ == "__main__":
    unittest.main()
