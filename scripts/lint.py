#!/usr/bin/env python3
"""Static checks: cppcheck on all C, the layout rules that a tool can decide, and whether every Python file compiles.

Exit status 0 when there is nothing to complain about. What clang-format would do is only counted, because tables that are
laid out by hand stay as they are.
"""

import os
import pathlib
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
C_PLACES = ("labs", "reference-solution", "grader/testhost", "scripts", "tests/unit")
PYTHON_PLACES = ("grader", "labs", "reference-solution", "scripts", "slides", "tests")
WIDTH = 140  # The aim is 125; a line that reads better a little longer is no reason to fail.


def files(places, *endings):
    found = sorted(path for place in places for path in (TOP / place).rglob("*") if path.suffix in endings and path.is_file())
    return [path for path in found if "node_modules" not in path.parts]


def programs(places):
    """Python programs without an ending."""
    for path in files(places, ""):
        with open(path, "rb") as file:
            if file.readline().startswith(b"#!/usr/bin/env python3"):
                yield path


def layout(path):
    """Complaints about one file's layout, each as file:line: text."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(TOP)
    if text and not text.endswith("\n"):
        yield f"{name}: the last line has no end"
    for number, line in enumerate(text.splitlines(), 1):
        # The Makefile reads what a unit test links from its first line.
        if len(line.expandtabs(8)) > WIDTH and not line.startswith("// sources: "):
            yield f"{name}:{number}: longer than {WIDTH} columns"
        if line != line.rstrip():
            yield f"{name}:{number}: blanks at the end"
        if path.suffix not in (".c", ".h") and "\t" in line[: len(line) - len(line.lstrip())]:
            yield f"{name}:{number}: indented with a tab"
        if path.suffix in (".c", ".h") and line.startswith(" " * 8):
            yield f"{name}:{number}: indented with spaces"


def compiles(path):
    try:
        compile(path.read_text(encoding="utf-8"), str(path.relative_to(TOP)), "exec")
    except SyntaxError as error:
        yield f"{path.relative_to(TOP)}:{error.lineno}: {error.msg}"


def cppcheck(sources):
    """Complaints of cppcheck; those about code that it misreads are listed with their reasons in scripts/cppcheck.txt."""
    tool = os.environ.get("CPPCHECK", "cppcheck")
    if not shutil.which(tool):
        return ["cppcheck is not installed. Type: make setup"]
    done = subprocess.run(
        [tool, "--quiet", "--std=c11", "--enable=warning,performance,portability", "--error-exitcode=1", "--inline-suppr",
         f"--suppressions-list={TOP / 'scripts/cppcheck.txt'}", "--template={file}:{line}: {message} [{id}]",
         "-j", str(os.cpu_count() or 1), *(f"-I{TOP / place}" for place in ("labs/common/hv", "labs/common/guest")),
         *(str(path.relative_to(TOP)) for path in sources)],
        cwd=TOP, capture_output=True, text=True, check=False)
    return done.stderr.splitlines() if done.returncode or done.stderr else []


def main():
    # Mutants are wrong on purpose.
    c_files = [path for path in files(C_PLACES, ".c", ".h") if "mutants" not in path.parts]
    python_files = files(PYTHON_PLACES, ".py") + list(programs(("grader", "scripts")))
    complaints = [text for path in c_files + python_files for text in layout(path)]
    complaints += [text for path in python_files for text in compiles(path)]
    complaints += cppcheck([path for path in c_files if path.suffix == ".c"])
    for text in complaints:
        print(text)
    if shutil.which("clang-format"):
        done = subprocess.run(["clang-format", "--dry-run", "-Werror", "--ferror-limit=1", *c_files], capture_output=True, text=True,
                              check=False)
        changed = done.stderr.count("[-Wclang-format-violations]")  # one of each file
        print(f"clang-format would lay out {changed} of {len(c_files)} C files differently (a note, not a complaint)")
    print(f"lint: {len(c_files)} C files and {len(python_files)} Python files, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
