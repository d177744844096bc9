"""The questions of the labs: reproducible, checkable, and true."""

import io
import os
import pathlib
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "grader/lib"))

import questions  # noqa: E402


def call(*argv):
    out = io.StringIO()
    return questions.main(list(argv), str(TOP), out), out.getvalue()


class Questions(unittest.TestCase):
    def setUp(self):
        self.functions = questions.load(str(TOP / "labs/01-trap-emulate"))

    def check(self, text, seed=7):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "answers")
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            return call("1", "--seed", str(seed), "--check", path)

    def answers(self, seed=7):
        return [a for _, a in questions.ask(self.functions, seed)]

    def test_same_seed_same_numbers(self):
        self.assertEqual(questions.ask(self.functions, 5), questions.ask(self.functions, 5))
        self.assertNotEqual(questions.ask(self.functions, 5), questions.ask(self.functions, 6))

    def test_right_answers_in_both_notations(self):
        text = "# mine\n" + "".join("%d: %s\n" % (i, hex(a) if i % 2 else a) for i, a in enumerate(self.answers(), 1))
        self.assertEqual(self.check(text)[0], 0)

    def test_a_wrong_and_a_missing_answer_count(self):
        answers = self.answers()
        text = "".join("%d: %d\n" % (i, a + (i == 2)) for i, a in enumerate(answers, 1) if i != 3)
        status, out = self.check(text)
        self.assertEqual(status, 1)
        self.assertIn(" 2. wrong", out)
        self.assertIn(" 3. no answer", out)
        self.assertIn("%d of %d right" % (len(answers) - 2, len(answers)), out)

    def test_other_seed_other_answers(self):
        text = "".join("%d: %d\n" % (i, a) for i, a in enumerate(self.answers(7), 1))
        self.assertEqual(self.check(text, seed=8)[0], 1)

    def test_garbage_is_wrong_usage(self):
        self.assertEqual(self.check("1: many\n")[0], 2)
        self.assertEqual(call("1", "--check", "/does/not/exist")[0], 2)

    def test_answers_are_not_printed(self):
        _, out = call("1", "--seed", "7")
        for answer in self.answers():
            self.assertNotIn(" %d\n" % answer, out)


if __name__ == "__main__":
    unittest.main()
