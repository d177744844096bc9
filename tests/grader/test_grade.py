"""The grader as a whole, on a small lab whose "hypervisor" is a stand-in, and its command line."""

import contextlib
import io
import json
import os
import subprocess
import sys
import unittest

from support import TOP, TempDir, make_tree, needs_testhost

from cli import main


class Graded(TempDir):
    def setUp(self):
        super().setUp()
        self.root = str(make_tree(self.dir / "tree"))
        self.number = 0

    def solution(self, source):
        self.number += 1
        mine = self.dir / ("solution%d" % self.number)
        mine.mkdir()
        (mine / "main.c").write_text(source)
        return str(mine)

    def grade(self, *args):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(err):
            status = main(list(args), self.root, out)
        return status, out.getvalue(), err.getvalue()

    def grade_json(self, source, *args):
        status, out, err = self.grade("7", "--solution", self.solution(source), "--format", "json", *args)
        self.assertEqual(err, "")
        return status, json.loads(out)


HONEST = '#define LINES "answer=2a\\n"\n#define TEXT 1\n'


@needs_testhost
class Verdicts(Graded):
    def test_honest(self):
        status, result = self.grade_json(HONEST)
        self.assertEqual((status, result["score"], result["max_score"]), (0, 8, 8))
        self.assertEqual([c["status"] for c in result["checkpoints"]], ["passed"] * 4)
        for key in ("lab", "title", "seed", "seconds", "checkpoints"):
            self.assertIn(key, result)
        for key in ("id", "title", "status", "points", "max_points", "message", "hint", "log", "replay"):
            self.assertIn(key, result["checkpoints"][0])
        self.assertTrue(os.path.exists(os.path.join(self.root, result["checkpoints"][0]["log"])))

    def test_printing_what_is_expected_earns_nothing(self):
        status, result = self.grade_json('#define LINES "answer=2a\\n"\n')
        self.assertEqual((status, result["score"]), (1, 0))
        # The guest with its numbers is kept where somebody can run it again.
        failed = next(c for c in result["checkpoints"] if c["status"] == "failed")
        self.assertTrue(os.path.exists(os.path.join(self.root, failed["guest"])), failed)
        self.assertIn("no virtual machine ran", result["checkpoints"][0]["seen"])

    def test_a_decoy_machine_earns_nothing(self):
        status, result = self.grade_json('#define LINES "answer=2a\\n"\n#define TRAPS 500\n')
        self.assertEqual((status, result["score"]), (1, 0))
        self.assertIn("counted by the test host", result["checkpoints"][0]["seen"])

    def test_first_failure_in_full_and_the_rest_blocked(self):
        status, out, _ = self.grade("7", "--solution", self.solution('#define LINES "answer=2b\\n"\n#define TEXT 1\n'), "--seed", "5")
        self.assertEqual(status, 1)
        lines = out.splitlines()
        self.assertEqual([line.split()[:2] for line in lines[:4]],
                         [["7.1", "failed"], ["7.2", "blocked"], ["7.3", "blocked"], ["7.4", "failed"]])
        self.assertEqual(out.count("required"), 1)
        for text in ("expected   answer=2a", "seen       answer=2b", "^ first difference", "Think.", "--checkpoint 7.1 --seed 5", "7.1.log",
                     "Also failed:", "0 of 4 checkpoints passed, 0 of 8 points"):
            self.assertIn(text, out)

    def test_a_status_is_not_a_verdict(self):
        status, result = self.grade_json(HONEST + "#define STATUS 4\n", "--checkpoint", "7.2")
        self.assertEqual((status, [c["status"] for c in result["checkpoints"]]), (1, ["failed"]))

    def test_what_does_not_compile(self):
        status, result = self.grade_json("int main(void) { return x; \x1b[31m\n")
        self.assertEqual(status, 1)
        self.assertEqual([c["status"] for c in result["checkpoints"]], ["failed"] + ["blocked"] * 3)
        self.assertIn("error:", result["checkpoints"][0]["seen"])
        self.assertNotIn("\x1b", json.dumps(result, ensure_ascii=False))

    def test_hostile_output_is_harmless(self):
        source = '#define LINES "\\x1b]0;x\\x07\\n::error::x\\nanswer=2a\\n{\\"checkpoints\\":[]}\\n"\n#define TEXT 1\n#define STATUS 9\n'
        _, out, _ = self.grade("7", "--solution", self.solution(source), "--verbose")
        self.assertTrue(all(c == "\n" or 32 <= ord(c) < 127 for c in out))
        self.assertFalse(any(line.lstrip().startswith("::") for line in out.splitlines()))

    def test_report_to_a_file(self):
        report = self.dir / "report.json"
        status, out, _ = self.grade("7", "--solution", self.solution(HONEST), "--format", "json", "--output", str(report), "--seed", "9")
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(report.read_text())["seed"], 9)
        self.assertIn("4 of 4 checkpoints passed", out)
        self.assertEqual([name for name in os.listdir(self.dir) if name.startswith(".grade")], [])


class CommandLine(Graded):
    def test_wrong_usage(self):
        for args in ((), ("x",), ("0",), ("99",), ("7", "--checkpoint", "9.9"), ("7", "--seed", "-1"), ("7", "--seed", "abc"),
                     ("7", "--format", "xml"), ("7", "--host", "moon"), ("7", "--solution", "/nonexistent"), ("7", "8"),
                     ("7", "--output", "/nonexistent/x"), ("7", "--output", "/"), ("7", "--nonsense")):
            status, out, err = self.grade(*args)
            self.assertEqual((status, out), (2, ""), args)
            self.assertEqual(len(err.splitlines()), 1, err)
            self.assertTrue(err.startswith("grade: ") and err.endswith(".\n"), err)

    def test_help(self):
        done = subprocess.run([sys.executable, str(TOP / "grader" / "grade"), "--help"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0)
        self.assertIn("--checkpoint", done.stdout)

    def test_a_missing_file_needs_no_test_host(self):
        mine = self.dir / "empty"
        mine.mkdir()
        status, out, _ = self.grade("7", "--solution", str(mine))
        self.assertEqual(status, 1)
        self.assertIn("main.c is missing", out)
        self.assertIn("0 of 8 points", out)

    def test_a_tree_that_does_not_build_is_the_graders_fault(self):
        with open(os.path.join(self.root, "Makefile"), "a", encoding="ascii") as f:
            f.write("build/guests/guest: FORCE\n\t@echo no; false\nFORCE:\n")
        status, out, err = self.grade("7", "--solution", self.solution(HONEST))
        self.assertEqual(status, 3)
        self.assertIn("says nothing about the solution", err)

    def test_a_missing_test_host_is_the_graders_fault(self):
        os.unlink(os.path.join(self.root, "build", "testhost"))
        status, out, err = self.grade("7", "--solution", self.solution(HONEST))
        self.assertEqual(status, 3)
        self.assertIn("make testhost", err)

    def test_no_qemu_is_the_graders_fault(self):
        path = os.environ["PATH"]
        bin_dir = self.dir / "bin"
        bin_dir.mkdir()
        for tool in ("make", "gcc", "mkdir", "sh", "bash", "as", "ld", "x86_64-linux-gnu-gcc"):
            found = subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip()
            if found:
                (bin_dir / tool).symlink_to(found)
        os.environ["PATH"] = str(bin_dir)
        self.addCleanup(os.environ.__setitem__, "PATH", path)
        (self.dir / "fake").mkdir()
        (self.dir / "fake" / "vmlinuz").write_text("")
        (self.dir / "fake" / "modules").mkdir()
        os.unlink(os.path.join(self.root, "build", "testhost"))
        os.symlink(self.dir / "fake", os.path.join(self.root, "build", "testhost"))
        status, out, err = self.grade("7", "--solution", self.solution(HONEST))
        self.assertEqual(status, 3)
        self.assertIn("qemu-system-x86_64 is not installed", err)


if __name__ == "__main__":
    unittest.main()
