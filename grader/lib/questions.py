"""Questions with numbers for answers: printed with values from a seed, and checked against the same seed."""

import argparse
import importlib.util
import os
import random
import re
import sys
import textwrap

from model import GraderError, UsageError
from solution import lab_directory

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def load(directory):
    path = os.path.join(directory, "questions.py")
    if not os.path.exists(path):
        raise UsageError("This lab has no questions.")
    spec = importlib.util.spec_from_file_location("lab_questions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.QUESTIONS


def ask(functions, seed):
    """[(question, answer)]; each question's numbers depend on the seed and its own name only."""
    return [f(random.Random("%d/%s" % (seed, f.__name__))) for f in functions]


def read_answers(path):
    """Lines "3: 0x1f" or "3 = 31" as number -> answer; a line that is neither, nor empty, nor a # comment is an error."""
    try:
        with open(path, encoding="utf-8") as f:
            lines = f.read().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError("The answers cannot be read from %s: %s." % (path, e)) from None
    answers = {}
    for number, line in enumerate(lines, 1):
        if not line.split("#")[0].strip():
            continue
        found = re.fullmatch(r"\s*(\d+)\s*[:=]\s*(0[xX][0-9a-fA-F]+|\d+)\s*", line.split("#")[0])
        if not found:
            raise UsageError('%s, line %d: an answer is written like "3: 0x1f" or "3: 31".' % (path, number))
        answers[int(found[1])] = int(found[2], 0)
    return answers


def run(argv, root, out):
    p = argparse.ArgumentParser(prog="questions", description="Prints a lab's questions with numbers from a seed, or checks answers "
                                "to them. Exit status: 0, 1 when an answer is wrong or missing, 2 wrong usage.")
    p.add_argument("lab", type=int, metavar="LAB")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="your numbers: a student id, say (default 1)")
    p.add_argument("--check", metavar="FILE", help='a file with a line for each answer, such as "3: 0x1f"')
    args = p.parse_args(argv)
    asked = ask(load(lab_directory(root, args.lab)), args.seed)
    if not args.check:
        for number, (question, _) in enumerate(asked, 1):
            print(textwrap.fill(question, 100, initial_indent="%2d. " % number, subsequent_indent="    "), file=out)
        print("\nCheck your answers with ./grader/questions %d --seed %d --check FILE" % (args.lab, args.seed), file=out)
        return 0
    answers = read_answers(args.check)
    right = 0
    for number, (_, answer) in enumerate(asked, 1):
        given = answers.get(number)
        right += given == answer
        verdict = "right" if given == answer else "no answer" if given is None else "wrong: %d (%#x)" % (given, given)
        print("%2d. %s" % (number, verdict), file=out)
    print("%d of %d right" % (right, len(asked)), file=out)
    return 0 if right == len(asked) else 1


def main(argv=None, root=ROOT, out=None):
    try:
        return run(sys.argv[1:] if argv is None else argv, root, out or sys.stdout)
    except (UsageError, GraderError) as e:
        print("questions: %s" % e, file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read the questions left
        return 1
