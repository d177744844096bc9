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


class QuestionsOfLab3(Questions):
    LAB, DIRECTORY = 3, "labs/03-ept"

    def asked(self, words, seeds=60):
        """(question, answer) of the question with these words in it, from many seeds."""
        for seed in range(seeds):
            yield next(q for q in questions.ask(self.functions, seed) if words in q[0])

    def test_every_seed_gives_answers_that_can_be_written(self):
        for seed in range(500):
            for question, answer in questions.ask(self.functions, seed):
                self.assertIsInstance(answer, int, question)
                self.assertTrue(0 <= answer < 1 << 64, question)

    def test_a_walk_is_counted_as_it_is_made(self):
        entries = {"4 KiB": 4, "2 MiB": 3, "1 GiB": 2}
        for question, answer in self.asked("All its memory, tables included"):
            guest, nested = (entries[size] for size in re.findall(r"pages? of (\d \w+)", question))
            made = [place for step in range(guest) for place in (*[("nested", step, i) for i in range(nested)], ("guest", step))]
            made += [("nested", "data", i) for i in range(nested)]
            self.assertEqual(answer, len(made), question)

    def test_tables_are_those_that_the_pages_lie_in(self):
        for question, answer in self.asked("has touched all of it"):
            mib = int(re.search(r"has (\d+) MiB", question)[1])
            roof = {size: -(-(mib << 20) // size) for size in (2 << 20, 1 << 30, 512 << 30)}
            self.assertEqual(answer, 4 * (1 + sum(roof.values())), question)

    def test_entries_say_what_was_asked_for(self):
        for question, answer in self.asked("Which EPT entry"):
            rights = re.search(r"rights ([rwx-]{3})", question)[1]
            self.assertEqual("".join(c if answer >> i & 1 else "-" for i, c in enumerate("rwx")), rights)
            self.assertEqual(bool(answer & 0x80), "4 KiB" not in question)
            self.assertEqual(bool(answer & 0x200), "not dirty" not in question)
        for question, answer in self.asked("Which NPT entry"):
            rights = re.search(r"rights ([rwx-]{3})", question)[1]
            self.assertEqual([answer >> 1 & 1, answer >> 63 ^ 1], [int("w" in rights), int("x" in rights)], question)
            self.assertEqual(answer & 5, 5)

    def test_one_bit_of_the_msr_bitmap_for_each_msr_and_direction(self):
        seen = {}
        for question, answer in self.asked("Which bit of", 300):
            vendor, way, msr = re.search(r"(SVM|VMX).* about (reading|writing) MSR (0x[0-9a-f]+)", question).groups()
            self.assertEqual(seen.setdefault((vendor, answer), (way, msr)), (way, msr))
            self.assertLess(answer, 8 * (8192 if vendor == "SVM" else 4096))
        self.assertEqual(len(set(seen.values())), 12)


if __name__ == "__main__":
    unittest.main()
