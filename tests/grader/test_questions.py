"""The questions of the labs: reproducible, checkable, and true."""

import io
import os
import pathlib
import re
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
    LAB, DIRECTORY = 1, "labs/01-trap-emulate"

    def setUp(self):
        self.functions = questions.load(str(TOP / self.DIRECTORY))

    def check(self, text, seed=7):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "answers")
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            return call(str(self.LAB), "--seed", str(seed), "--check", path)

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
        _, out = call(str(self.LAB), "--seed", "7")
        for answer in self.answers():
            self.assertNotIn(" %d\n" % answer, out)


class QuestionsOfLab2(Questions):
    LAB, DIRECTORY = 2, "labs/02-shadow-paging"

    def test_every_seed_gives_answers_that_can_be_written(self):
        for seed in range(500):
            for question, answer in questions.ask(self.functions, seed):
                self.assertIsInstance(answer, int, question)
                self.assertTrue(0 <= answer < 1 << 64, question)

    def test_the_self_map_is_where_a_walk_finds_it(self):
        """The walk of the answer through tables whose root is entered again is one level behind the walk of the address."""
        def index(gva, level):
            return gva >> 12 + 9 * (level - 1) & 511

        for seed in range(50):
            question, answer = next(q for q in questions.ask(self.functions, seed) if "root itself" in q[0])
            slot, gva = (int(n, 0) for n in re.findall(r"Entry (\d+) .* address (0x[0-9a-f]+)", question)[0])
            self.assertEqual([index(answer, level) for level in (4, 3, 2, 1)], [slot] + [index(gva, level) for level in (4, 3, 2)])
            self.assertEqual(answer % 4096, index(gva, 1) * 8)


if __name__ == "__main__":
    unittest.main()
