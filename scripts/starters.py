#!/usr/bin/env python3
"""starters.py [--check] [--root DIR]: writes labs/NN-*/*.c, the files that students edit, from reference-solution/NN-*/*.c.

A solved file marks what a student is to write:

    // SOLUTION 1.3
    ...the solved lines...
    // STARTER 1.3: One sentence that says what to do. Hint: another one.
    //     return vm_todo(...);
    // END

The starter has the STARTER line as a TODO comment and the lines below it without their comment signs; everything outside
the markers is the same in both files. A region without a STARTER line leaves nothing: more of a solution that is announced
elsewhere. Lines right below STARTER with one blank after // belong to the instruction. The markers stand at the indentation
of the code that they replace. A marker in the first column may replace anything: after it "// " comes off and four spaces
count as one tab.

With --check nothing is written: what would change is printed as a diff, and the exit status is 1 when there is any.
"""

import argparse
import difflib
import pathlib
import re
import sys
import textwrap

TOP = pathlib.Path(__file__).resolve().parent.parent

# Anything that looks like a marker is one, so that a misspelt marker is an error and not solved code in a starter.
MARKER = re.compile(r"^([ \t]*)//[ \t]*(SOLUTION|STARTER|END)\b(.*)$")
STEP = r"(\d+\.\d+)"


WIDTH = 120  # of the instructions, with tabs of 8


class MarkerError(Exception):
    """A malformed marker. The message begins with file:line."""


def starter_line(text, indent, common):
    """One commented line of a STARTER region as code. indent is the marker's, common what all lines have after //."""
    body = text.lstrip(" \t")[2:]
    if not indent:
        body = body[1:] if body.startswith(" ") else body
        spaces = len(body) - len(body.lstrip(" "))
        return "\t" * (spaces // 4) + body[spaces:]
    body = body[common:]
    spaces = len(body) - len(body.lstrip(" "))
    return (indent + "\t" * (spaces // 4) + body[spaces:]).rstrip()


def blanks_after_slashes(text):
    body = text.lstrip(" \t")[2:]
    return len(body) - len(body.lstrip(" \t"))


def order(step):
    """For comparing: 1.9 comes before 1.10."""
    return [int(part) for part in step.split(".")]


def make_starter(text, name, solved="0"):
    """The starter of a solved file's text. Raises MarkerError; name is the file's name in its messages. With solved="1.3" the
    steps up to 1.3 stay solved: somebody's work who has come so far."""
    out = []
    state = None  # None, "SOLUTION" or "STARTER": the region that we are in
    step = indent = instruction = None
    done = False
    start = 0
    starter = []

    def fail(number, message):
        raise MarkerError(f"{name}:{number}: {message}")

    for number, line in enumerate(text.splitlines(), 1):
        marker = MARKER.match(line)
        if not marker:
            if state is None or (state == "SOLUTION" and done):
                out.append(line)
            elif state == "STARTER":
                if not line.lstrip(" \t").startswith("//"):
                    fail(number, f"this line of STARTER {step} is not a comment; the region must end with // END")
                if indent and not starter and re.match(r"// \S", line.lstrip(" \t")):
                    instruction += " " + line.lstrip(" \t")[3:].strip()  # it goes on: code is further to the right
                else:
                    starter.append(line)
            continue
        kind, rest = marker.group(2), marker.group(3)
        if kind == "SOLUTION":
            if state:
                fail(number, f"SOLUTION inside the {state} {step} that begins in line {start}; is its END missing?")
            found = re.fullmatch(rf" {STEP}\s*", rest)
            if not found:
                fail(number, "a SOLUTION marker is written '// SOLUTION 1.3'")
            state, step, indent, start, starter = kind, found.group(1), marker.group(1), number, []
            done = order(step) <= order(solved)
        elif kind == "STARTER":
            found = re.fullmatch(rf" {STEP}: (\S.*)", rest)
            if not found:
                fail(number, "a STARTER marker is written '// STARTER 1.3: what to do'")
            if state is None:
                fail(number, f"STARTER {found.group(1)} without a SOLUTION before it")
            if state == "STARTER":
                fail(number, f"a second STARTER in the region that begins in line {start}")
            if found.group(1) != step:
                fail(number, f"STARTER {found.group(1)} ends SOLUTION {step} of line {start}; the numbers must agree")
            state = kind
            instruction = found.group(2).strip()
        else:
            if rest.strip():
                fail(number, "an END marker is written '// END'")
            if state is None:
                fail(number, "END without a SOLUTION before it")
            if state == "STARTER" and not done:
                width = WIDTH - 8 * len(indent)
                out += [indent + part for part in textwrap.wrap(f"// TODO {step}: {instruction}", width, subsequent_indent="// ",
                                                                 break_long_words=False, break_on_hyphens=False)]
            common = min((blanks_after_slashes(s) for s in starter if s.strip(" \t/")), default=0)
            out += [starter_line(s, indent, common) for s in starter if not done]
            state = None
    if state:
        fail(start, f"{state if state == 'STARTER' else 'SOLUTION'} {step} has no END")
    # A region that left nothing must not leave two blank lines either.
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)) + "\n"


def pairs(root):
    """(solved file, starter file) of every lab below root."""
    for directory in sorted((root / "reference-solution").glob("[0-9][0-9]-*")):
        for solved in sorted(directory.glob("*.c")):
            yield solved, root / "labs" / directory.name / solved.name


def main():
    parser = argparse.ArgumentParser(description="Write the starter files from the solved files.")
    parser.add_argument("--check", action="store_true", help="write nothing; print a diff and fail when there is one")
    parser.add_argument("--root", type=pathlib.Path, default=TOP, help="the tree (default: this one)")
    args = parser.parse_args()

    problems = 0
    twins = list(pairs(args.root))
    if not twins:
        print(f"{args.root}/reference-solution holds no solved files to make starters from.", file=sys.stderr)
        return 2
    for solved, starter in twins:
        name = starter.relative_to(args.root)
        try:
            wanted = make_starter(solved.read_text(encoding="utf-8"), solved.relative_to(args.root))
        except MarkerError as error:
            print(error, file=sys.stderr)
            problems += 1
            continue
        present = starter.read_text(encoding="utf-8") if starter.exists() else None
        if present == wanted:
            continue
        if args.check:
            problems += 1
            is_now, should_be = (present or "").splitlines(True), wanted.splitlines(True)
            sys.stdout.writelines(difflib.unified_diff(is_now, should_be, f"{name} (is)", f"{name} (from the solution)"))
        else:
            starter.parent.mkdir(parents=True, exist_ok=True)
            starter.write_text(wanted, encoding="utf-8")
            print(f"{name} written")
    solved_names = {starter for _, starter in twins}
    for directory in sorted({starter.parent for starter in solved_names}):
        for orphan in sorted(set(directory.glob("*.c")) - solved_names):
            print(f"{orphan.relative_to(args.root)}: no solved file of that name in reference-solution", file=sys.stderr)
            problems += 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
