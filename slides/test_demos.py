"""The runner of demonstrations notices what it is there to notice."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
import unittest

import demos


def deck(*blocks):
    return "# A deck\n\n" + "\n---\n\n".join(f"## Slide\n\n{block}\n" for block in blocks)


def block(mark, text):
    return f"```{mark}\n{text}\n```\n"


def outcome(text):
    """(passed, failed, what was printed)"""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        passed, failed = demos.run_all(demos.parse(text, "deck.md"))
    return passed, failed, printed.getvalue()


class Demos(unittest.TestCase):
    def test_only_marked_blocks_run(self):
        found = demos.parse(deck(block("sh", "false"), block("sh demo", "true"), block("text", "demo")), "deck.md")
        self.assertEqual([(demo.command, demo.line) for demo in found], [("true\n", 14)])

    def test_success(self):
        self.assertEqual(outcome(deck(block("sh demo", "echo one; echo two >&2")))[:2], (1, 0))

    def test_exit_status(self):
        passed, failed, printed = outcome(deck(block("sh demo", "exit 4"), block("sh demo status=4", "exit 4"),
                                               block("sh demo status=4", "true")))
        self.assertEqual((passed, failed), (1, 2))
        self.assertIn("deck.md:5: FAILED: exit status 4, not 0", printed)
        self.assertIn("exit status 0, not 4", printed)

    def expect(self, command, *lines):
        return outcome(deck(block("sh demo", command) + "\nText.\n\n" + block("text expect", "\n".join(lines))))

    def test_expected_lines(self):
        command = "echo one two three; echo; echo four"
        self.assertEqual(self.expect(command, "one two three", "four")[:2], (1, 0))
        self.assertEqual(self.expect(command, "...", "four")[:2], (1, 0))
        self.assertEqual(self.expect(command, "one ... three")[:2], (1, 0))

    def test_missing_lines(self):
        command = "echo one two three; echo; echo four"
        for lines in (["one two"], ["two three"], ["five"], ["four", "one two three"], ["four", "four"], ["one ... four"]):
            passed, failed, printed = self.expect(command, *lines)
            self.assertEqual((passed, failed), (0, 1), lines)
            self.assertIn(f"did not print, or not in this order: {lines[-1]}", printed)

    def test_blanks(self):
        self.assertEqual(self.expect(r"printf 'one\ttwo   three\n'", "one two  three")[:2], (1, 0))
        self.assertEqual(self.expect("echo onetwo", "one two")[:2], (0, 1))

    def test_colours_do_not_matter(self):
        self.assertEqual(self.expect(r"printf '\033[1mbold\033[0m\r\n'", "bold")[:2], (1, 0))

    def test_marks_that_mean_nothing(self):
        for text in (block("sh dmeo", "true"), block("sh demo status=x", "true"), block("sh demo expect", "true"),
                     block("text expect", "a line"), block("sh demo", "true") + block("text expect", "a") + block("text expect", "b")):
            with self.assertRaises(demos.Mistake, msg=text):
                demos.parse(deck(text), "deck.md")

    def test_program(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "deck.md")
            path.write_text(deck(block("sh demo", "echo hello"), block("sh demo", "false")), encoding="utf-8")
            done = subprocess.run([sys.executable, demos.__file__, path], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stdout.endswith("\n1 passed, 1 failed\n"), done.stdout)
            path.write_text(deck(block("sh dmeo", "true")), encoding="utf-8")
            self.assertEqual(subprocess.run([sys.executable, demos.__file__, path], capture_output=True, check=False).returncode, 2)

    def test_the_decks_marks_are_right(self):
        for path in demos.SLIDES.glob("[0-9][0-9]-*.md"):
            self.assertGreater(len(demos.parse(path.read_text(encoding="utf-8"), path.name)), 0)


if __name__ == "__main__":
    unittest.main()
