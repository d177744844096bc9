"""The generator of the starter files: what it writes, and what it refuses."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

from starters import MarkerError, make_starter  # noqa: E402

SOLVED = """int before;

static int step(struct vm *vm)
{
\t// SOLUTION 1.3
\tint n = solve();
\tif (n)
\t\treturn n;
\t// STARTER 1.3: Do the step. Hint: look at solve().
\t//     (void)vm;
\t//     if (1)
\t//         return vm_todo(vm, "1.3", "do the step");
\t// END
\treturn 0;
}
"""

STARTER = """int before;

static int step(struct vm *vm)
{
\t// TODO 1.3: Do the step. Hint: look at solve().
\t(void)vm;
\tif (1)
\t\treturn vm_todo(vm, "1.3", "do the step");
\treturn 0;
}
"""


class Generation(unittest.TestCase):
    def test_region_becomes_todo_and_code(self):
        self.assertEqual(make_starter(SOLVED, "a.c"), STARTER)

    def test_steps_that_stay_solved(self):
        later = SOLVED.replace("step(", "later(").replace("1.3", "1.10")
        solved = "".join(line for line in SOLVED.splitlines(True)
                         if not line.strip().startswith("//"))
        self.assertEqual(make_starter(SOLVED + later, "a.c", "1.9"), solved + STARTER.replace("step(", "later(").replace("1.3", "1.10"))

    def test_file_without_markers_is_copied(self):
        self.assertEqual(make_starter("int a;\n\nint b;\n", "a.c"), "int a;\n\nint b;\n")

    def test_marker_in_first_column_replaces_a_function(self):
        solved = "// SOLUTION 1.20\nint f(void)\n{\n\treturn 1;\n}\n" \
                 "// STARTER 1.20: Write f.\n// int f(void)\n// {\n//     return 0;\n// }\n// END\n"
        self.assertEqual(make_starter(solved, "a.c"), "// TODO 1.20: Write f.\nint f(void)\n{\n\treturn 0;\n}\n")

    def test_marker_in_first_column_inside_a_function(self):
        solved = "{\n// SOLUTION 1.2\n\tx();\n// STARTER 1.2: Call x.\n//     return 0;\n// END\n}\n"
        self.assertEqual(make_starter(solved, "a.c"), "{\n// TODO 1.2: Call x.\n\treturn 0;\n}\n")

    def test_empty_comment_line_is_an_empty_line(self):
        solved = "\t// SOLUTION 1.2\n\t// STARTER 1.2: Go.\n\t//     a();\n\t//\n\t//     b();\n\t// END\n"
        self.assertEqual(make_starter(solved, "a.c"), "\t// TODO 1.2: Go.\n\ta();\n\n\tb();\n")

    def test_region_may_leave_only_the_instruction(self):
        self.assertEqual(make_starter("// SOLUTION 1.2\nint a;\n// STARTER 1.2: Add what you need.\n// END\n", "a.c"),
                         "// TODO 1.2: Add what you need.\n")

    def test_region_without_starter_leaves_nothing(self):
        self.assertEqual(make_starter("a\n// SOLUTION 1.2\nx\n// END\nb\n", "a.c"), "a\nb\n")

    def test_instruction_of_two_lines(self):
        self.assertEqual(make_starter("\t// SOLUTION 1.2\n\t// STARTER 1.2: Go. Hint: there\n\t// or here.\n\t//\ta();\n\t// END\n", "a.c"),
                         "\t// TODO 1.2: Go. Hint: there or here.\n\ta();\n")

    def test_word_in_a_sentence_is_no_marker(self):
        text = "// The SOLUTION 1.3 is elsewhere.\n// ENDED\n"
        self.assertEqual(make_starter(text, "a.c"), text)


class Refusal(unittest.TestCase):
    def refuse(self, text, line, words):
        with self.assertRaises(MarkerError) as caught:
            make_starter(text, "dir/a.c")
        self.assertRegex(str(caught.exception), rf"^dir/a\.c:{line}: .*{words}")

    def test_missing_end(self):
        self.refuse("x\n// SOLUTION 1.1\n", 2, "has no END")
        self.refuse("x\n// SOLUTION 1.1\n// STARTER 1.1: Go.\n//  a();\n", 2, "has no END")

    def test_code_after_starter_without_end(self):
        self.refuse("// SOLUTION 1.1\n// STARTER 1.1: Go.\n//  a();\nint b;\n// END\n", 4, "not a comment")

    def test_starter_without_solution(self):
        self.refuse("// STARTER 1.1: Go.\n// END\n", 1, "without a SOLUTION")

    def test_end_without_solution(self):
        self.refuse("a\n// END\n", 2, "END without")

    def test_different_numbers(self):
        self.refuse("// SOLUTION 1.1\n// STARTER 1.2: Go.\n// END\n", 2, "must agree")

    def test_nesting(self):
        self.refuse("// SOLUTION 1.1\n// SOLUTION 1.2\n", 2, "begins in line 1")
        self.refuse("// SOLUTION 1.1\n// STARTER 1.1: Go.\n// SOLUTION 1.2\n", 3, "begins in line 1")
        self.refuse("// SOLUTION 1.1\n// STARTER 1.1: Go.\n// STARTER 1.1: Go.\n", 3, "second STARTER")

    def test_misspelt_markers(self):
        self.refuse("//SOLUTION\n", 1, "is written")
        self.refuse("// SOLUTION one\n", 1, "is written")
        self.refuse("// SOLUTION 1.1\n// STARTER 1.1\n// END\n", 2, "is written")
        self.refuse("// SOLUTION 1.1\n// STARTER 1.1: Go.\n// END 1.1\n", 3, "is written")


class Program(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        (self.root / "reference-solution/01-first/mutants").mkdir(parents=True)
        (self.root / "reference-solution/01-first/a.c").write_text(SOLVED)
        (self.root / "reference-solution/01-first/mutants/m.c").write_text("int mutant;\n")

    def run_it(self, *args):
        return subprocess.run([sys.executable, TOP / "scripts/starters.py", "--root", self.root, *args],
                              capture_output=True, text=True, timeout=60)

    def test_write_then_check(self):
        check = self.run_it("--check")
        self.assertEqual(check.returncode, 1)
        self.assertIn("+\t// TODO 1.3", check.stdout)
        self.assertFalse((self.root / "labs").exists(), "--check wrote something")
        self.assertEqual(self.run_it().returncode, 0)
        self.assertEqual((self.root / "labs/01-first/a.c").read_text(), STARTER)
        self.assertFalse((self.root / "labs/01-first/m.c").exists())
        check = self.run_it("--check")
        self.assertEqual((check.returncode, check.stdout, check.stderr), (0, "", ""))

    def test_edited_starter_is_shown_as_a_diff(self):
        self.run_it()
        starter = self.root / "labs/01-first/a.c"
        starter.write_text(starter.read_text().replace("int before", "int changed"))
        check = self.run_it("--check")
        self.assertEqual(check.returncode, 1)
        self.assertIn("-int changed;\n+int before;\n", check.stdout)

    def test_starter_without_a_solution_is_named(self):
        self.run_it()
        (self.root / "labs/01-first/extra.c").write_text("int a;\n")
        check = self.run_it("--check")
        self.assertEqual(check.returncode, 1)
        self.assertIn("labs/01-first/extra.c", check.stderr)

    def test_malformed_marker_names_file_and_line(self):
        (self.root / "reference-solution/01-first/a.c").write_text("int a;\n// END\n")
        result = self.run_it()
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr, "reference-solution/01-first/a.c:2: END without a SOLUTION before it\n")

    def test_tree_without_solutions(self):
        result = subprocess.run([sys.executable, TOP / "scripts/starters.py", "--root", self.root / "labs"],
                                capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
