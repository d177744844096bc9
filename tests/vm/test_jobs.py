#!/usr/bin/env python3
"""Jobs one after another, and what the control socket says of them; a paused VM stays paused on its way; memory that is mapped."""

import random
import sys
import tempfile
import unittest
from pathlib import Path

import host  # before the grader's modules, which it makes known

sys.path.append(str(host.TOP / "labs/05-migration/checks"))

import elf  # noqa: E402
import staging  # noqa: E402
from model import Capture, RunResult  # noqa: E402
from testhost import TOOLS, build_program  # noqa: E402
from writer import Writer  # noqa: E402

OPTIONS = "--mem 4M --engine trap"
PAGES = 200
SECONDS = 30
ENDED = '"state":"done" | "state":"failed"'


def in_a_row():
    """Nobody looks at how the first one ended, and the second one begins all the same."""
    play = staging.Play()
    play.vm("S", OPTIONS)
    play.step("await S ready")
    play.first = play.step("ask S.ctl save a.hv")
    play.step("there a.hv")
    play.step("rest 100")
    play.second = play.step("ask S.ctl save b.hv")
    play.job = play.step("poll S.ctl job | " + ENDED)
    play.third = play.step("ask S.ctl save nowhere/c.hv")
    play.failed = play.step("poll S.ctl job | " + ENDED)
    play.nobody = play.step("ask S.ctl migrate unix:/nowhere/link --timeout 1")
    play.step("rest 300")
    play.busy = play.step("ask S.ctl save d.hv")
    play.step("ask S.ctl migrate-cancel")
    play.gone = play.step("poll S.ctl job | " + ENDED)
    play.step("type S h")
    play.step("answer S hash=")
    play.step("ask S.ctl quit")
    return play


def paused():
    """Saved while it is paused, restored twice, once with its memory mapped from the file."""
    play = staging.Play()
    play.vm("S", OPTIONS)
    play.step("await S ready")
    play.step("type S w 77 50")
    play.step("await S wrote")
    play.step("ask S.ctl pause")
    play.step("ask S.ctl save a.hv --quit")
    play.step("end S")
    for name, options in (("A", ""), ("B", "--lazy")):
        play.restore(name, "a.hv", options)
        play.step(f"there {name}.ctl")
        play.step(f'poll {name}.ctl status | "state":"paused"')
        play.step(f"type {name} h")
        play.step(f"silent {name} 200")
        play.step(f"ask {name}.ctl resume")
        play.step(f"answer {name} hash=")
        play.step(f"type {name} q")
        play.step(f"end {name}")
    return play


def too_slow():
    """It writes without end, and hardly anything can be sent: it is given up when its time is over."""
    play = staging.Play()
    play.vm("S", OPTIONS)
    play.step("await S ready")
    play.incoming("D", "unix:link", OPTIONS)
    play.step("there link")
    play.step("ask S.ctl migrate unix:link --bandwidth 64K --timeout 1")
    play.job = play.step("poll S.ctl job | " + ENDED)
    play.step("type S h")
    play.step("answer S hash=")
    play.step("end D")
    play.step("ask S.ctl quit")
    return play


class TestJobs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "build/guests/lab5/writer.elf")
        cls.seed = host.seed_from_environment(random)
        print(f"jobs: TRAPDOOR_SEED={cls.seed}")
        cls.params = [random.Random(cls.seed).getrandbits(63), PAGES]
        plays = {"in_a_row": in_a_row(), "paused": paused(), "too_slow": too_slow()}
        stage = build_program(str(host.TOP), *TOOLS["/bin/stage"])
        with tempfile.TemporaryDirectory() as directory:
            guest = Path(directory) / "guest.elf"
            guest.write_bytes(elf.patch_params((host.GUESTS / "lab5/writer.elf").read_bytes(), cls.params))
            files, commands = [host.HV, f"{stage}:/bin/stage", guest], {}
            for name, play in plays.items():
                script = Path(directory) / name
                script.write_text(play.text())
                files.append(script)
                commands[name] = host.Command(["sh", "-c", f"d=/tmp/{name}; mkdir $d; cp guest.elf $d; cp {name} $d/script; cd $d; "
                                               f"exec /bin/stage {SECONDS} $d /work/hv"], limit=SECONDS + 20)
            results = host.run(commands, files, timeout=300)
        cls.told = {}
        for name, play in plays.items():
            out = results[name].stdout
            cls.told[name] = staging.told(RunResult(name, results[name].status, stdout=Capture(head=out, total=len(out))), play)

    def played(self, name):
        told = self.told[name]
        self.assertFalse(told.failed, f"{told.failed} {told.explain()}")
        return told, told.play

    def hash(self, *writes):
        guest = Writer(self.params)
        for seed, count in writes:
            guest.write(seed, count)
        return guest.hash()

    def test_in_a_row(self):
        told, play = self.played("in_a_row")
        self.assertEqual([told.job(step).get("state") for step in (play.first, play.second, play.third)], ["running"] * 3)
        self.assertEqual(told.job(play.job)["reason"], "saved to b.hv")
        self.assertIn("nowhere/c.hv.partial", told.job(play.failed)["reason"])
        self.assertIn("already", told.job(play.busy)["error"])
        gone = told.job(play.gone)
        self.assertEqual((gone["state"], gone["downtime"]["total_ms"]), ("failed", 0))
        self.assertEqual(told["S"].values("hash"), [self.hash()])

    def test_paused(self):
        told, _ = self.played("paused")
        for name in ("A", "B"):
            self.assertEqual(told[name].values("hash"), [self.hash((77, 50))], name)

    def test_too_slow(self):
        told, play = self.played("too_slow")
        self.assertEqual(told.job(play.job)["reason"], "the VM goes on here: it could not be moved in the time that it has")
        self.assertEqual(told["S"].values("hash"), [self.hash()])


if __name__ == "__main__":
    unittest.main()
