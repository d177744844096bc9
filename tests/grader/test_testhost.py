"""The test host: what a program can do there, what is seen of it, and what happens when the host dies."""

import os
import shutil
import time
import unittest
from unittest import mock

from support import FIXTURES, TOP, TempDir, compile_c, needs_testhost

from jobs import Job, Limits
from model import GraderError
from testhost import QemuHost

LIMITS = Limits(seconds=2, grace=0, disk_kib=2048, file_kib=1024, processes=16)


def job(*args, **more):
    return Job(args, ["/bin/attack", *args], {"secret": b"x"}, limits=LIMITS, **more)


@needs_testhost
class Attacks(TempDir):
    """All in one boot, so that what one leaves would be found by the next."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        import tempfile

        cls.tmp = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.tmp.cleanup)
        program = compile_c(FIXTURES / "attack.c", cls.tmp.name + "/attack", "-static")
        modes = ["channel", "privileges", "survive", "disk", "forks", "memory", "flood", "sleep", "spin", "crash", "look", "witness"]
        jobs = [job(mode) for mode in modes]
        jobs.append(job("echo", "7", stdin=b"hello\n\xff\x1b[31m\n"))
        cls.outcomes = {}
        host = QemuHost(str(TOP), {"/bin/attack": program})
        host.run(jobs, lambda job: True, lambda job, outcome: cls.outcomes.__setitem__(job.key[0], outcome))
        cls.boots = host.boots

    def quiet(self, mode, allowed=()):
        """It ran to its end and achieved nothing."""
        outcome = self.outcomes[mode]
        lines = outcome.stdout.data.decode().splitlines()
        self.assertEqual(outcome.code, 0, outcome)
        self.assertEqual([line for line in lines if not line.startswith("uid=")], list(allowed))
        self.assertGreaterEqual(int(lines[-1][4:], 16), 2000)

    def test_one_boot_serves_all(self):
        self.assertEqual(self.boots, 1)
        self.assertEqual(len(self.outcomes), 13)

    def test_results_channel_is_out_of_reach(self):
        self.quiet("channel")

    def test_no_privileges(self):
        self.quiet("privileges")

    def test_nothing_survives(self):
        self.assertGreaterEqual(self.outcomes["survive"].left, 5)
        self.quiet("look", ["can read /job/10/secret"])  # its own, and no other

    def test_disk_is_limited(self):
        self.assertLessEqual(self._number("disk"), LIMITS.disk_kib * 1024)

    def test_processes_are_limited(self):
        self.assertLess(self._number("forks"), LIMITS.processes)

    def test_memory_is_limited(self):
        self.assertLess(self._number("memory"), LIMITS.memory_mib)

    def _number(self, key):
        (line,) = [x for x in self.outcomes[key].stdout.data.decode().splitlines() if x.startswith(key + "=")]
        return int(line.split("=")[1], 16)

    def test_flood_keeps_beginning_and_end(self):
        for stream, end in ((self.outcomes["flood"].stdout, b"\nlast=1\nuid="), (self.outcomes["flood"].stderr, b'{"last": 1}\n')):
            self.assertGreater(stream.total, 512 * 65536)
            self.assertLess(len(stream.head) + len(stream.tail), 200000)
            self.assertIn(end, stream.tail[-40:])
        self.assertTrue(self.outcomes["flood"].stdout.head.startswith(b"first\n"))

    def test_sleeper_is_ended_by_time(self):
        self.assertTrue(self.outcomes["sleep"].timed_out)
        self.assertIsNone(self.outcomes["sleep"].code)

    def test_spinner_is_ended(self):
        self.assertTrue(self.outcomes["spin"].timed_out or self.outcomes["spin"].signal)

    def test_crash_is_named(self):
        self.assertEqual((self.outcomes["crash"].signal, self.outcomes["crash"].code), (11, None))

    def test_input_output_and_status(self):
        outcome = self.outcomes["echo"]
        self.assertEqual(outcome.code, 7)
        self.assertTrue(outcome.stdout.data.startswith(b"hello\n\xff\x1b[31m\nuid="))

    def test_no_exits_without_a_virtual_machine(self):
        self.assertEqual(self.outcomes["witness"].witness.exits, 0)
        self.assertEqual(sum(self.outcomes["witness"].witness.pio.values()), 0)


@needs_testhost
class Witnessed(TempDir):
    def test_counts_what_virtual_machines_do(self):
        honest = compile_c(FIXTURES / "standin.c", self.dir / "honest", "-static", '-DLINES="abcab"', "-DTEXT=1")
        decoy = compile_c(FIXTURES / "standin.c", self.dir / "decoy", "-static", '-DLINES="abcab"', "-DTRAPS=7")
        host = QemuHost(str(TOP), {"/bin/honest": honest, "/bin/decoy": decoy})
        seen = {}
        jobs = [Job(name, ["/bin/" + name]) for name in ("honest", "decoy")]
        jobs.append(Job("again", ["/bin/honest"]))
        host.run(jobs, lambda job: True, lambda job, outcome: seen.__setitem__(job.key, outcome))
        for name in ("honest", "again"):
            self.assertEqual(seen[name].witness.pio[13], 5)
            self.assertEqual(seen[name].witness.values[13], {ord("a"): 2, ord("b"): 2, ord("c"): 1})
            self.assertGreaterEqual(seen[name].witness.exits, 5)
        self.assertEqual(seen["decoy"].witness.pio[13], 7)
        self.assertEqual(seen["decoy"].witness.values[13], {0: 7})


@needs_testhost
class Snapshots(TempDir):
    """A test host that goes on from a snapshot is as good as one that has just booted."""

    COMMANDS = {"clock": ("date", "+%s"), "random": ("head", "-c", "16", "/dev/urandom"), "echo": ("cat",), "status": ("false",)}

    def run_jobs(self, directory=None, **environment):
        """(the host, what each command printed)"""
        host = QemuHost(str(TOP), {"/bin/busybox": shutil.which("busybox")})
        host._dir = directory or host._dir
        outcomes = {}
        jobs = [Job(name, ["/bin/busybox", *command], {"file": b"x"}, stdin=b"in") for name, command in self.COMMANDS.items()]
        with mock.patch.dict(os.environ, environment):
            host.run(jobs, lambda job: True, lambda job, outcome: outcomes.__setitem__(job.key, outcome))
        self.assertEqual({name: outcome.code for name, outcome in outcomes.items()}, {"clock": 0, "random": 0, "echo": 0, "status": 1})
        self.assertEqual(outcomes["echo"].stdout.data, b"in")
        self.assertLess(abs(int(outcomes["clock"].stdout.data) - time.time()), 60)
        return host, {name: outcome.stdout.data for name, outcome in outcomes.items()}

    def test_as_good_as_a_boot(self):
        booted, _ = self.run_jobs(TRAPDOOR_SNAPSHOT="0")
        first, said = self.run_jobs(TRAPDOOR_SNAPSHOT="")
        second, said_then = self.run_jobs(TRAPDOOR_SNAPSHOT="")
        self.assertEqual([host.machine.booted for host in (booted, first, second)], [True, False, False])
        self.assertEqual(booted.facts["kernel"], first.facts["kernel"])
        self.assertNotEqual(said["random"], said_then["random"])

    def test_a_damaged_one_is_not_needed(self):
        shutil.copy(TOP / "build/testhost/vmlinuz", self.dir)
        (self.dir / "modules").symlink_to(TOP / "build/testhost/modules")
        host, _ = self.run_jobs(str(self.dir), TRAPDOOR_SNAPSHOT="")
        self.assertFalse(host.machine.booted)
        (state,) = self.dir.glob("snapshot-*/state")
        os.truncate(state, state.stat().st_size // 2)
        host, _ = self.run_jobs(str(self.dir), TRAPDOOR_SNAPSHOT="")
        self.assertTrue(host.machine.booted)
        self.assertEqual(host.boots, 2)
        # It is not kept: the next one makes another, which is good.
        host, _ = self.run_jobs(str(self.dir), TRAPDOOR_SNAPSHOT="")
        self.assertFalse(host.machine.booted)
        self.assertEqual(host.boots, 1)


@needs_testhost
class Death(TempDir):
    """The host is killed from outside while a job runs: for the job it is as if it had broken the machine."""

    def setUp(self):
        super().setUp()
        program = compile_c(FIXTURES / "attack.c", self.dir / "attack", "-static")
        self.log = []
        self.host = QemuHost(str(TOP), {"/bin/attack": program}, self.log.append)
        self.outcomes = {}

    def run_jobs(self, deaths):
        """The host dies the first `deaths` times that job 2 is started."""
        started = []

        def on_start(job):
            started.append(job.key[1])
            if job.key[1] == "2" and started.count("2") <= deaths:
                self.host.machine._process.kill()

        jobs = [job("none", str(i)) for i in range(1, 5)]
        self.host.run(jobs, lambda job: True, lambda job, outcome: self.outcomes.__setitem__(job.key[1], outcome), on_start)
        return started

    def test_one_death_is_forgiven(self):
        started = self.run_jobs(1)
        self.assertEqual(started, ["1", "2", "2", "3", "4"])
        self.assertEqual(self.host.boots, 3)  # all; job 2 alone; the rest
        self.assertEqual({key: o.code for key, o in self.outcomes.items()}, {"1": 1, "2": 2, "3": 3, "4": 4})
        self.assertTrue(any("The test host died" in text for text in self.log))

    def test_two_deaths_count_against_the_job(self):
        self.run_jobs(99)
        self.assertIn("died twice", self.outcomes["2"].host_trouble)
        self.assertEqual([self.outcomes[k].code for k in "134"], [1, 3, 4])

    def test_a_host_that_never_starts_is_the_graders_fault(self):
        (self.dir / "kernel").mkdir()
        (self.dir / "kernel" / "vmlinuz").write_bytes(b"\0" * 65536)
        (self.dir / "kernel" / "modules").mkdir()
        self.host._dir = str(self.dir / "kernel")
        with self.assertRaisesRegex(GraderError, "did not start"):
            self.run_jobs(0)

    def test_a_host_without_kvm_says_so(self):
        (self.dir / "kernel" / "modules").mkdir(parents=True)
        os.symlink(TOP / "build" / "testhost" / "vmlinuz", self.dir / "kernel" / "vmlinuz")
        self.host._dir = str(self.dir / "kernel")
        with self.assertRaisesRegex(GraderError, "no /dev/kvm"):
            self.run_jobs(0)


if __name__ == "__main__":
    unittest.main()
