#!/usr/bin/env python3
"""Post-copy between two hv processes in the test host, on every engine: the pages that follow the VM are counted where they pass, the guest
says what it finds in its memory, and the connection breaks in between.

TRAPDOOR_SEED chooses the guest's numbers.
"""

import random
import sys
import tempfile
import unittest
from pathlib import Path

import host  # before the grader's modules, which it makes known

sys.path.append(str(host.TOP / "labs/05-migration/checks"))

import elf  # noqa: E402
import staging  # noqa: E402
import streamfile  # noqa: E402
from model import Capture, RunResult  # noqa: E402
from testhost import TOOLS, build_program  # noqa: E402
from writer import FIRST, STORM_WORD, WORDS, Writer  # noqa: E402

ENGINES = ("kvm", "trap", "hvm")
OPTIONS = "--mem 4M --engine %s"
PAGES = 400  # of the guest
SECONDS = 40
FROM, TO, AGAIN = "unix:@DIR@/r.sock", "@DIR@/d.sock", "unix:@DIR@/a.sock"
ENDED = '"state":"done" | "state":"failed" | "state":"standing"'
SLOW = "512K"  # bytes a second: about a hundred pages


def begin(engine):
    """A source with a guest, a destination, a relay between them."""
    play = staging.Play()
    play.vm("S", OPTIONS % engine)
    play.step("await S ready")
    play.incoming("D", "unix:" + TO, OPTIONS % engine)
    play.step("there " + TO)
    play.step("relay R @DIR@/r.sock " + TO)
    play.step("there @DIR@/r.sock")
    return play


def storm(engine, seed):
    """A guest that writes to 128 pages in turn while it moves, and looks whether what it wrote is there."""
    play = begin(engine)
    play.step("type S s 0 128")
    play.step("await S storm")
    play.step("ask S.ctl migrate %s --mode postcopy --bandwidth 8M" % FROM)
    play.job = play.step("poll S.ctl job | " + ENDED)
    play.step("type D x")
    play.step("await D wrong=")
    finish(play)
    return play


def stepped(play, bandwidth, dirty):
    """It moves with that many writes between the beginning of the log and the stop, and runs at the destination with most of its pages
    missing."""
    play.step("ask S.ctl migrate %s --mode postcopy --bandwidth %s --step" % (FROM, bandwidth))
    play.step('poll S.ctl job | "waits_for_step":true')
    play.step("type S w %d %d" % dirty)
    play.step("await S wrote")
    play.step("ask S.ctl migrate-step")
    play.step('poll S.ctl job | "follows":true | ' + ENDED)


def finish(play):
    play.step("type D h")
    play.step("answer D hash=")
    play.step("type D q")
    play.step("end D")
    play.step("end S")


def urgent(engine, seed):
    """A guest that touches pages here and there while they come slowly."""
    play = begin(engine)
    stepped(play, SLOW, (seed, 500))
    play.step("type D w %d 60" % (seed + 1))
    play.step("await D wrote")
    play.job = play.step("poll S.ctl job | " + ENDED)
    finish(play)
    return play


def broken(engine, seed):
    """The connection breaks; the guest goes on until it needs a page that is not there; its user connects the two again."""
    play = begin(engine)
    stepped(play, SLOW, (seed, 500))
    play.step("rest 400")
    play.step("kill R")
    play.broken = play.step('poll S.ctl job | "broken":true | ' + ENDED)
    play.cancelled = play.step("ask S.ctl migrate-cancel")
    play.step("type D t")
    play.step("await D tsc")
    play.step("type D h")
    play.step("rest 300")
    play.nowhere = play.step("ask S.ctl migrate-resume nowhere")
    play.step("relay A @DIR@/a.sock " + TO)
    play.step("there @DIR@/a.sock")
    play.step("ask S.ctl migrate-resume " + AGAIN)
    play.job = play.step("poll S.ctl job | " + ENDED)
    play.step("answer D hash=")
    play.step("type D q")
    play.step("end D")
    play.step("end S")
    return play


def ended(engine, seed):
    """The destination's user gives up while the connection is broken and a vCPU waits for a page."""
    play = begin(engine)
    stepped(play, SLOW, (seed, 500))
    play.step("rest 400")
    play.step("kill R")
    play.step('poll S.ctl job | "broken":true | ' + ENDED)
    play.step("type D h")
    play.step("rest 300")
    play.step("ask D.ctl quit")
    play.step("end D")
    return play


def forbidden(engine, seed):
    """No userfaultfd: the destination refuses, and the VM stays where it is."""
    play = begin(engine)
    stepped(play, "64M", (seed, 500))
    play.job = play.step("poll S.ctl job | " + ENDED)
    play.step("end D")
    play.step("type S h")
    play.step("answer S hash=")
    return play


PLAYS = {(make, engine): make for make in (storm, urgent, broken, ended) for engine in ENGINES}
PLAYS[forbidden, "kvm"] = forbidden


def name_of(key):
    return "%s-%s" % (key[0].__name__, key[1])


class TestPostcopy(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "build/guests/lab5/writer.elf", "build/vm/usage")
        cls.seed = host.seed_from_environment(random)
        print(f"post-copy: TRAPDOOR_SEED={cls.seed}")
        rng = random.Random(cls.seed)
        cls.params = [rng.getrandbits(63), PAGES]
        cls.seeds = {key: rng.getrandbits(40) for key in PLAYS}
        stage = build_program(str(host.TOP), *TOOLS["/bin/stage"])
        guest = (host.GUESTS / "lab5/writer.elf").read_bytes()
        cls.plays = {key: make(key[1], cls.seeds[key]) for key, make in PLAYS.items()}
        commands = {}
        with tempfile.TemporaryDirectory() as directory:
            files = [host.HV, f"{stage}:/bin/stage"]
            (Path(directory) / "guest.elf").write_bytes(elf.patch_params(guest, cls.params))
            files.append(Path(directory) / "guest.elf")
            for key, play in cls.plays.items():
                script = Path(directory) / name_of(key)
                script.write_text(play.text())
                files.append(script)
                allowed = int(key[0] is not forbidden)
                commands[key] = host.Command(["sh", "-c", (
                    f"echo {allowed} >/proc/sys/vm/unprivileged_userfaultfd; d=/tmp/{script.name}; mkdir $d; cp guest.elf $d; "
                    f"cp {script.name} $d/script; cp hv /tmp; chmod 777 $d; cd $d; chmod 755 /tmp/hv; "
                    f"exec su student -c '/bin/stage {SECONDS} $PWD /tmp/hv'")], limit=SECONDS + 20)
            results = host.run(commands, files, timeout=900)
        cls.told = {}
        for key, result in results.items():
            run = RunResult(name_of(key), result.status, stdout=Capture(head=result.stdout, total=len(result.stdout)))
            cls.told[key] = staging.told(run, cls.plays[key])

    def played(self, make, engine):
        """(play, what it told, the seed)."""
        told = self.told[make, engine]
        if told.failed:
            self.fail(f"{told.play.line(told.failed[0])}: {told.failed[1]} {told.explain()}")
        return told.play, told, self.seeds[make, engine]

    def job(self, play, told):
        job = told.job(play.job)
        self.assertEqual(job["state"], "done", job["reason"])
        return job

    def pages(self, messages):
        """gfns that were sent behind the commit, in order."""
        at = next(i for i, m in enumerate(messages) if m.type == streamfile.COMMITTED)
        return [gfn for m in messages[at:] if m.source and m.type == streamfile.PAGES for gfn in range(m.gfn, m.gfn + m.count)]

    def owed(self, messages):
        bits = int.from_bytes(next(m.payload for m in messages if m.type == streamfile.OWED), "little")
        return {gfn for gfn in range((4 << 20) // streamfile.PAGE) if bits >> gfn & 1}

    def memory(self, told, writes, passes=None):
        """The guest finds at the destination what it must."""
        model = Writer(self.params)
        for write in writes:
            model.write(*write)
        if passes is not None:
            for page in range(128):
                model.words[page * WORDS + STORM_WORD] = passes
        self.assertEqual(told["D"].values("hash"), [model.hash()])
        self.assertTrue(told["D"].ended_well, told["D"])

    def gone(self, told):
        """The source has ended, and nothing ran there since."""
        self.assertTrue(told["S"].ended_well, told["S"])
        self.assertIn(b"hv: moved to", told["S"].err)
        self.assertNotIn(b"hash", told["S"].out)

    def test_storm(self):
        for engine in ENGINES:
            with self.subTest(engine=engine):
                play, told, _ = self.played(storm, engine)
                self.job(play, told)
                self.gone(told)
                self.assertEqual(told["D"].values("wrong"), [0])
                passes = told["D"].values("passes")[0]
                self.assertGreater(passes, 1)
                self.memory(told, (), passes)
                # Everything that is owed, each page once, and nothing else.
                messages = told.messages()
                owed, sent = self.owed(messages), self.pages(messages)
                self.assertGreater(len(owed & {FIRST + page for page in range(128)}), 20)
                self.assertEqual(sorted(sent), sorted(owed))
                ends = [m.source for m in messages if m.type == streamfile.DONE]
                self.assertEqual(ends, [True, False])
                self.assertEqual(messages[-1].type, streamfile.DONE)

    def test_urgent_first(self):
        """Between a question and its answer there is at most what was on its way: a piece of the background, and answers to other
        questions."""
        for engine in ENGINES:
            with self.subTest(engine=engine):
                play, told, seed = self.played(urgent, engine)
                job = self.job(play, told)
                self.gone(told)
                self.memory(told, ((seed, 500), (seed + 1, 60)))
                messages = told.messages()
                owed, sent = self.owed(messages), self.pages(messages)
                self.assertEqual(sorted(sent), sorted(owed))
                written = Writer(self.params).write(seed, 500)
                self.assertLessEqual(written, owed)
                asked, waits = {}, []
                for m in messages:
                    if m.type == streamfile.NEED and not m.source:
                        asked[int.from_bytes(m.payload[:8], "little")] = 0
                    elif m.type == streamfile.PAGES and m.source:
                        for gfn in list(asked):
                            if m.gfn <= gfn < m.gfn + m.count:
                                waits.append(asked.pop(gfn))
                            else:
                                asked[gfn] += 1
                self.assertGreater(len(waits), 10)
                # Pieces are of one page at this speed, and the relay's sockets may hold several while its host is busy. Without an order
                # it would be half of what is missing.
                self.assertLessEqual(max(waits), 40, waits)
                self.assertLessEqual(sum(waits) / len(waits), 4, waits)
                self.assertEqual(job["postcopy"]["urgent"] + job["postcopy"]["background"], len(owed))
                self.assertGreater(job["postcopy"]["urgent"], 10)
                print(f"{told.result.name}: {len(waits)} questions, {max(waits)} other pieces before the answer at most, "
                      f"{sum(waits) / len(waits):.1f} on average; {job['postcopy']}")

    def test_break(self):
        for engine in ENGINES:
            with self.subTest(engine=engine):
                play, told, seed = self.played(broken, engine)
                job = self.job(play, told)
                self.gone(told)
                self.memory(told, ((seed, 500),))
                said = told.job(play.broken)
                self.assertEqual(said["state"], "running")
                self.assertRegex(said["reason"], r"without \d+ pages that are still here .*: say migrate-resume URI")
                self.assertIn("needs what is here", told.job(play.cancelled)["error"])
                self.assertIn("nowhere", told.job(play.nowhere)["error"])
                self.assertEqual(job["postcopy"]["breaks"], 1)
                self.assertIn(b"migrate-resume URI goes on", told["D"].err)
                # What has arrived is not sent again: the destination says what it has, and gets the rest.
                before, behind = told.messages("R"), told.messages("A")
                first, owed = self.pages(before), self.owed(before)
                self.assertGreater(len(first), 10)
                self.assertEqual([m.flags for m in behind if not m.type], [2, 2])
                have = int.from_bytes(next(m.payload for m in behind if m.type == streamfile.HAVE), "little")
                missing = {gfn for gfn in owed if not have >> gfn & 1}
                self.assertLessEqual(owed - missing, set(first))
                self.assertGreater(len(missing), 10)
                sent = [gfn for m in behind if m.source and m.type == streamfile.PAGES for gfn in range(m.gfn, m.gfn + m.count)]
                self.assertEqual(sorted(sent), sorted(missing))
                # Who waited is asked for again, at once.
                asked = [m.type for m in behind if not m.source and m.type]
                self.assertEqual(asked[:2], [streamfile.HAVE, streamfile.NEED])

    def test_end_of_the_destination(self):
        """It ends soon, by itself or because it must, and the guest has seen nothing that is not there."""
        for engine in ENGINES:
            with self.subTest(engine=engine):
                _, told, _ = self.played(ended, engine)
                self.assertEqual((told["D"].how, told["D"].number), ("status", host.OK), told["D"])
                self.assertNotIn(b"hash", told["D"].out)
                self.assertRegex(told["D"].err, b"hv: the VM ends while it waits for memory|hv: ended by hv ctl quit")

    def test_no_userfaultfd(self):
        play, told, seed = self.played(forbidden, "kvm")
        job = told.job(play.job)
        self.assertEqual(job["state"], "failed")
        self.assertRegex(job["reason"], "the VM goes on here: .*userfaultfd, which this host does not allow")
        self.assertEqual(told["D"].number, host.HOST)
        model = Writer(self.params)
        model.write(seed, 500)
        self.assertEqual(told["S"].values("hash"), [model.hash()])


LINUX = "--mem 96M --engine kvm --cpus 2"
LINUX_SCRIPT = """#!/bin/sh
exec /work/hv run %s --control S.ctl --initrd /work/initrd.cpio --append "console=ttyS0 quiet shell" /work/vmlinuz
""" % LINUX


def linux():
    """Two processors that read and write 8 MiB again and again, and look whether it is what it was, while their memory follows them."""
    play = staging.Play()
    play.step("start S @DIR@/linux.sh")
    play.step("await S # ")
    play.step("type S dd if=/dev/urandom of=/a bs=1M count=8 2>/dev/null; md5sum /a >/s; echo made $((1+1))")
    play.step("await S made 2")
    play.step("type S for i in 1 2; do (while md5sum -cs /s; do :; done; echo BROKEN) & done; "
              "(while true; do dd if=/a of=/b bs=1M 2>/dev/null; cmp /a /b || echo DIFFERS; done) & echo going $((1+1))")
    play.step("await S going 2")
    play.incoming("D", "unix:" + TO, LINUX)
    play.step("there " + TO)
    play.step("ask S.ctl migrate unix:%s --mode postcopy" % TO)
    play.job = play.step("poll S.ctl job | " + ENDED)
    play.step("rest 2000")
    play.step("type D kill $(jobs -p); sleep 1; md5sum -c /s; cmp /a /b; dmesg | grep -c -i -e stall -e lockup -e bug:; "
              "echo alive $((6*7))")
    play.step("await D alive 42")
    play.step("type D poweroff -f")
    play.step("end D")
    play.step("end S")
    return play


class TestLinux(unittest.TestCase):
    def test_two_processors(self):
        host.build("hv", "guests", "testhost", "build/vm/usage")
        stage = build_program(str(host.TOP), *TOOLS["/bin/stage"])
        play = linux()
        with tempfile.TemporaryDirectory() as directory:
            script, start = Path(directory) / "script", Path(directory) / "linux.sh"
            script.write_text(play.text())
            start.write_text(LINUX_SCRIPT)
            start.chmod(0o755)
            kernel = host.TOP / "build/testhost/vmlinuz"
            files = [host.HV, f"{stage}:/bin/stage", script, start, kernel, host.GUESTS / "initrd.cpio"]
            command = host.Command(["sh", "-c", "mkdir /tmp/linux; cp script linux.sh /tmp/linux; cd /tmp/linux; "
                                                "exec stage 200 $PWD /work/hv"], limit=220)
            result = host.run({"linux": command}, files, mem=768, timeout=400)["linux"]
        told = staging.told(RunResult("linux", result.status, stdout=Capture(head=result.stdout, total=len(result.stdout))), play)
        if told.failed:
            self.fail(f"{play.line(told.failed[0])}: {told.failed[1]} {told.explain()}")
        job, said = told.job(play.job), told["D"].out.decode(errors="replace")
        self.assertEqual(job["state"], "done", job["reason"])
        self.assertTrue(told["S"].ended_well and told["D"].ended_well, told.programs)
        self.assertRegex(said, r"(?m)^/a: OK\r?$")
        self.assertRegex(said, r"(?m)^0\r?$")
        self.assertNotRegex(said, r"(?m)^(BROKEN|DIFFERS)|differ:")
        self.assertGreater(job["postcopy"]["waits"], 0)
        print(f"Linux: downtime {job['downtime']['total_ms']:.0f} ms, {job['postcopy']}")


if __name__ == "__main__":
    unittest.main()
