"""The Bochs test host: jobs in it, its witness, its death; and gradings that use both hosts."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from support import FIXTURES, TOP, TempDir, compile_c, make_tree, needs_bochs, needs_testhost

import bochs
import bzimage
import testhost
from cli import main
from hosts import Hosts
from jobs import Job, Limits
from ladder import BLOCKED, FAILED, NOT_CHECKED, PASSED, Ladder
from model import BOCHS, QEMU, Capture, Checkpoint, Failure, GraderError, Run, RunResult, Witness

LIMITS = Limits(seconds=1, grace=0, disk_kib=2048, file_kib=1024, processes=16)


@needs_bochs
class Jobs(unittest.TestCase):
    """One boot, in which the host is killed under one job: so two boots more, for that job alone and for the rest."""

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        attack = compile_c(FIXTURES / "attack.c", directory.name + "/attack", "-static")
        honest = compile_c(FIXTURES / "standin.c", directory.name + "/honest", "-static", '-DLINES="abcab"', "-DTEXT=1")
        jobs = [Job("echo", ["/bin/attack", "echo", "7"], stdin=b"hello\n\xff\x1b[31m\n", limits=LIMITS),
                *(Job(mode, ["/bin/attack", mode], {"secret": b"x"}, limits=LIMITS) for mode in ("channel", "spin", "bytes")),
                Job("honest", ["/bin/honest"])]
        cls.outcomes, cls.log, cls.started = {}, [], []

        def on_start(job):
            cls.started.append(job.key)
            if cls.started.count("spin") == 1 and job.key == "spin":
                cls.host.machine.kill()

        cls.host = testhost.BochsHost(str(TOP), {"/bin/attack": attack, "/bin/honest": honest}, cls.log.append)
        cls.host.run(jobs, lambda job: True, lambda job, outcome: cls.outcomes.__setitem__(job.key, outcome), on_start)

    def test_input_output_and_status(self):
        outcome = self.outcomes["echo"]
        self.assertEqual(outcome.code, 7)
        self.assertTrue(outcome.stdout.data.startswith(b"hello\n\xff\x1b[31m\nuid="))

    def test_results_channel_is_out_of_reach(self):
        lines = self.outcomes["channel"].stdout.data.decode().splitlines()
        self.assertEqual((self.outcomes["channel"].code, len(lines)), (0, 1), lines)

    def test_every_byte_arrives(self):
        stdout = self.outcomes["bytes"].stdout
        self.assertEqual(stdout.data[: 65536], bytes(i % 256 for i in range(65536)))

    def test_witness(self):
        witness = self.outcomes["honest"].witness
        self.assertEqual((witness.pio[13], witness.values[13]), (5, {ord("a"): 2, ord("b"): 2, ord("c"): 1}))
        self.assertGreaterEqual(witness.exits, 5)
        self.assertEqual(self.outcomes["echo"].witness.exits, 0)

    def test_one_death_is_forgiven(self):
        self.assertEqual(self.started, ["echo", "channel", "spin", "spin", "bytes", "honest"])
        self.assertEqual(self.host.boots, 3)
        self.assertTrue(self.outcomes["spin"].timed_out or self.outcomes["spin"].signal)
        self.assertTrue(any("The test host died" in text for text in self.log))


class Image(unittest.TestCase):
    """What is put into memory, without a machine."""

    def test_lz4(self):
        #  "abc", 9 bytes from 3 back (overlapping), 20 literals (a longer length), the end
        block = bytes([0x35]) + b"abc" + bytes([3, 0, 0xF0, 5]) + b"0123456789abcdefghij"
        self.assertEqual(bytes(bzimage._lz4_block(block)), b"abcabcabcabc0123456789abcdefghij")

    def test_not_a_kernel(self):
        for image in (b"", b"MZ" * 4096, b"\x7fELF" + bytes(4096)):
            with self.assertRaises(GraderError):
                bzimage.vmlinux(image)

    def test_tables_map_four_gib_to_themselves(self):
        at = 0x5000000
        tables = bochs._identity_map(at)

        def entry(address):
            return struct.unpack_from("<Q", tables, address - at)[0]

        for address in (0, 0x1234567, 0x3FFFFFFF, 0x40000000, 0xFFFF0000):
            pdpt = entry(at + 8 * (address >> 39))
            directory = entry((pdpt & ~0xFFF) + 8 * (address >> 30 & 511))
            page = entry((directory & ~0xFFF) + 8 * (address >> 21 & 511))
            self.assertEqual((pdpt & 0xFFF, directory & 0xFFF, page & 0x1FFFFF), (3, 3, 0x83))
            self.assertEqual(page & ~0x1FFFFF, address & ~0x1FFFFF)


def run(name, *hosts):
    return Run(name, hosts=hosts)


def checkpoint(name, runs, depends=(), verify=lambda results, params: None):
    return Checkpoint(name, name, 1, "Do it.", "Think.", runs, verify, depends)


class TwoHosts(unittest.TestCase):
    """Verdicts from results that come from two hosts, in any order."""

    def ladder(self, *checkpoints, asked=None):
        with mock.patch.object(bochs, "installed", lambda: True):
            hosts = Hosts(checkpoints, asked)
        return Ladder(checkpoints, 1, hosts.pairs)

    def add(self, ladder, name, host, status=0, run="r"):
        ladder.add(ladder.verdicts[name].checkpoint, Run(run), RunResult(run, status, witness=Witness(5), host=host))
        return [c.id for c in ladder.settle()]

    def statuses(self, ladder):
        return [v.status for v in ladder.verdicts.values()]

    def test_all_hosts_must_pass(self):
        for first, second in ((QEMU, BOCHS), (BOCHS, QEMU)):
            ladder = self.ladder(checkpoint("1", [run("r", QEMU, BOCHS)]))
            self.assertEqual(self.add(ladder, "1", first), [])
            self.assertEqual(self.add(ladder, "1", second), ["1"])
            self.assertEqual(self.statuses(ladder), [PASSED])
            ladder = self.ladder(checkpoint("1", [run("r", QEMU, BOCHS)]))
            self.add(ladder, "1", first)
            self.add(ladder, "1", second, status=4)
            self.assertEqual(self.statuses(ladder), [FAILED])
            self.assertEqual(ladder.verdicts["1"].result.host, second)

    def test_each_host_is_judged_by_itself(self):
        def verify(results, params):
            hosts = {r.host for r in results.values()}
            assert len(hosts) == 1
            seen.append((hosts.pop(), sorted(results)))
            return Failure("a", "b", run="own") if "own" in results else None

        seen = []
        ladder = self.ladder(checkpoint("1", [run("r", QEMU, BOCHS), run("own", BOCHS)], verify=verify))
        self.add(ladder, "1", QEMU)
        self.add(ladder, "1", BOCHS)
        self.add(ladder, "1", BOCHS, run="own")
        self.assertEqual(seen, [(QEMU, ["r"]), (BOCHS, ["own", "r"])])
        self.assertEqual((self.statuses(ladder), ladder.verdicts["1"].result.name), ([FAILED], "own"))

    def test_a_slow_host_blocks_what_a_quick_one_has_passed(self):
        both = [run("r", QEMU, BOCHS)]
        ladder = self.ladder(checkpoint("1", both), checkpoint("2", [run("r", QEMU)], ["1"]), checkpoint("3", [run("r", QEMU)]),
                             checkpoint("4", both, ["2"]))
        self.assertEqual([self.add(ladder, name, QEMU) for name in "1234"], [[]] * 4)
        self.assertEqual(self.add(ladder, "1", BOCHS, status=4), ["1", "2", "3", "4"])
        self.assertEqual(self.statuses(ladder), [FAILED, BLOCKED, PASSED, BLOCKED])

    def test_results_are_settled_in_the_order_of_the_ladder(self):
        quick = [run("r", QEMU)]
        ladder = self.ladder(checkpoint("1", [run("r", BOCHS)]), checkpoint("2", quick), checkpoint("3", quick, ["2"]))
        self.assertEqual(self.add(ladder, "2", QEMU, status=4), [])
        self.assertEqual(ladder.blocker(ladder.verdicts["3"].checkpoint), "2")  # at once: its turn comes before 1 is settled
        self.assertEqual(self.add(ladder, "1", BOCHS), ["1", "2", "3"])

    def test_what_has_no_host_counts_neither_way(self):
        points = (checkpoint("1", [run("r", BOCHS)]), checkpoint("2", [run("r", QEMU, BOCHS)], ["1"]))
        ladder = self.ladder(*points, asked=QEMU)
        self.assertEqual(self.add(ladder, "2", QEMU), ["1", "2"])
        self.assertEqual(self.statuses(ladder), [NOT_CHECKED, PASSED])
        self.assertEqual([v.max_points for v in ladder.verdicts.values()], [0, 1])
        self.assertEqual(Hosts(points, QEMU).not_checked(points), [
            "Not checked on Bochs (Intel), because only --host qemu was asked for: everything."])

    def test_a_host_that_the_lab_does_not_name_does_everything(self):
        points = [checkpoint("1", [run("r", QEMU)])]
        self.assertEqual(len(Hosts(points, BOCHS).pairs(points[0])), 1)
        self.assertTrue(Hosts(points, BOCHS).complete(points[0]))
        self.assertEqual(Hosts(points).names, [QEMU])

    def test_without_bochs(self):
        points = [checkpoint("1", [run("r", QEMU, BOCHS)]), checkpoint("2", [run("r", BOCHS)]), checkpoint("3", [run("r", QEMU)])]
        with mock.patch.object(bochs, "installed", lambda: False):
            hosts = Hosts(points)
        self.assertEqual(hosts.names, [QEMU])
        (sentence,) = hosts.not_checked(points)
        self.assertIn("not installed (apt install", sentence)
        self.assertTrue(sentence.endswith(": 1, 2."), sentence)
        self.assertEqual([hosts.complete(point) for point in points], [False, False, True])


HONEST = '#define LINES "answer=2a\\n"\n#define TEXT 1\n'
BOTH = """\
from model import BOCHS, QEMU


def on(point, *hosts):
    run = dataclasses.replace(point.runs[0], hosts=hosts)
    return dataclasses.replace(point, runs=[run])


CHECKPOINTS = [on(point("7.1"), QEMU, BOCHS), on(point("7.2", "7.1"), BOCHS), on(point("7.3", "7.1"), QEMU), on(point("7.4"), QEMU, BOCHS)]
"""


@needs_testhost
@needs_bochs
class Graded(TempDir):
    def grade(self, source, *args):
        root = make_tree(self.dir / "tree")
        lab = root / "labs" / "07-test"
        (lab / "checkpoints.py").write_text("import dataclasses\n" + (lab / "checkpoints.py").read_text() + BOTH)
        (lab / "main.c").write_text(source)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(err):
            status = main(["7", "--format", "json", *args], str(root), out)
        self.assertEqual(err.getvalue(), "")
        result = json.loads(out.getvalue())
        return status, result, {c["id"]: c for c in result["checkpoints"]}

    def test_both_hosts(self):
        # It works on one processor only: bit 5 of ECX in CPUID's leaf 1 is VMX.
        wrong_on_intel = '#include <cpuid.h>\nstatic int vmx(void) { unsigned a, b, c, d; __cpuid(1, a, b, c, d); return c >> 5 & 1; }\n' \
                         '#define STATUS (vmx() ? 4 : 0)\n' + HONEST
        status, result, found = self.grade(wrong_on_intel)
        self.assertEqual((status, result["host"], result["witness"]), (1, "qemu+bochs", True))
        self.assertEqual([c["status"] for c in found.values()], ["failed", "blocked", "blocked", "failed"])
        self.assertEqual([found[i]["hosts"] for i in ("7.1", "7.2", "7.3")], [["qemu", "bochs"], ["bochs"], ["qemu"]])
        self.assertIn("--host bochs --checkpoint 7.1", found["7.1"]["replay"])
        self.assertEqual({name: facts["boots"] for name, facts in result["test_hosts"].items()}, {"qemu": 1, "bochs": 1})
        self.assertEqual(result["not_checked"], [])

    def test_one_host(self):
        status, result, found = self.grade(HONEST, "--host", "qemu")
        self.assertEqual((status, result["score"], result["max_score"]), (0, 6, 6))
        self.assertEqual([c["status"] for c in found.values()], ["passed", "not checked", "passed", "passed"])
        self.assertEqual(len(result["not_checked"]), 1)


@needs_bochs
class Command(TempDir):
    """scripts/testhost-run --host bochs"""

    def test_output_files_and_status(self):
        (self.dir / "in").write_bytes(bytes(range(256)) * 300)
        done = subprocess.run(
            [sys.executable, str(TOP / "scripts/testhost-run"), "--host", "bochs", "--file", str(self.dir / "in"), "--get",
             "/work/copy:%s" % (self.dir / "out"), "--", "cp in copy; ls /dev/kvm; sleep 1000 & grep -om1 vmx /proc/cpuinfo"],
            capture_output=True, timeout=200, env=dict(os.environ))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"/dev/kvm\nvmx\n", b""))
        self.assertEqual((self.dir / "out").read_bytes(), (self.dir / "in").read_bytes())


if __name__ == "__main__":
    unittest.main()
