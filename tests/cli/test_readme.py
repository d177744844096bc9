"""What the README tells people to type works as typed, and what it names is there."""

import os
import pathlib
import re
import shlex
import subprocess
import tempfile
import unittest

from support import OK, STATUSES, TODO, TOP, run

README = (TOP / "README.md").read_text(encoding="utf-8")


def commands(first):
    """The commands of the README's shell blocks that begin with this word."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(first)]


class Readme(unittest.TestCase):
    def test_makes(self):
        lines = commands("make ")
        self.assertGreaterEqual(len(lines), 4)
        for line in lines:
            done = run("make", "-n", *line[1:], cwd=TOP)
            self.assertEqual(done.returncode, 0, f"{line}: {done.stderr}")

    def test_targets_in_sentences_are_in_the_help(self):
        known = run("make", cwd=TOP).stdout
        for target in set(re.findall(r"`make (\w+)", README)):
            self.assertRegex(known, rf"(?m)^  {target} ")

    def test_scripts(self):
        for lab in 1, 3, 4:
            self.assertEqual(run("make", "hv", "guests", f"LAB={lab}", cwd=TOP).returncode, 0)
        lines = commands("scripts/")
        self.assertEqual(len(lines), 3)
        for line in lines:
            done = run(TOP / line[0], *line[1:], cwd=TOP)
            self.assertIn(done.returncode, (OK, TODO), done.stdout + done.stderr)

    def test_programs(self):
        for lab in 1, 2, 3:
            self.assertEqual(run("make", "hv", "guests", f"LAB={lab}", cwd=TOP).returncode, 0)
        for line in commands("build/"):
            self.assertIn(run(TOP / line[0], *line[1:], cwd=TOP).returncode, STATUSES)

    def test_searches(self):
        for line in commands("grep "):
            done = subprocess.run(" ".join(line), shell=True, cwd=TOP, capture_output=True, check=False)
            self.assertIn(done.returncode, (0, 1), done.stderr)

    def test_what_the_grader_says_first(self):
        """The excerpt is what is really printed, without the lines for which it has dots."""
        excerpt = re.search(r"^```\n(1\.1 .*?)^```", README, re.M | re.S)[1]
        printed = run(TOP / "grader/grade", "1", cwd=TOP).stdout
        for line in excerpt.splitlines():
            if line != "...":
                self.assertIn(line, printed)

    def test_places_exist(self):
        places = re.findall(r"`((?:labs|reference-solution|grader|slides|docs|scripts|tests)/[\w./-]*)`", README)
        self.assertGreaterEqual(len(places), 10)
        for place in places:
            if (TOP / "reference-solution").exists() or not place.startswith("reference-solution"):
                self.assertTrue((TOP / place).exists(), place)


class StudentTree(unittest.TestCase):
    def test_hv_is_the_students_where_there_are_no_solutions(self):
        for solutions, built in ((True, "build/reference/hv"), (False, "build/lab1/hv")):
            with self.subTest(built), tempfile.TemporaryDirectory() as tree:
                for name in ["Makefile", "labs", "scripts", "tests"] + ["reference-solution"] * solutions:
                    os.symlink(TOP / name, pathlib.Path(tree, name))
                done = subprocess.run(["make", "-n", "hv"], cwd=tree, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(f"-o {built} ", done.stdout)


if __name__ == "__main__":
    unittest.main()
