#!/usr/bin/env python3
"""Runs the commands that the decks show: demos.py [--list] [DECK]... (default: every deck of this directory).

A demonstration is a fenced block marked ```sh demo. It is run by bash in the top directory and must exit with 0, or with N
where the mark is ```sh demo status=N. The block ```text expect that may follow shows lines of its output: each must appear,
in that order. "..." stands for anything, on a line of its own for any lines; any number of blanks is as good as one.

The last line is "N passed, M failed"; the exit status is 0 when nothing failed.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time

SLIDES = pathlib.Path(__file__).resolve().parent
TOP = SLIDES.parent
SECONDS = 600  # ends commands that hang
FENCE = re.compile(r"^```(\w+)(.*?)\n(.*?)^```$", re.M | re.S)
WORDS = re.compile(r"^( (demo|expect|status=\d+))*$")


class Mistake(Exception):
    """A deck with a mark that means nothing."""


@dataclasses.dataclass
class Demo:
    deck: str
    line: int
    command: str
    status: int = 0
    expect: tuple = ()


def parse(text, deck):
    """The demonstrations of a deck."""
    found = []
    for match in FENCE.finditer(text):
        words = match[2].split()
        line = text.count("\n", 0, match.start()) + 1
        if not words:
            continue
        if not WORDS.match(match[2]) or ("demo" in words) == ("expect" in words):
            raise Mistake(f"{deck}:{line}: this mark of a code block means nothing: {match[2].strip()}")
        if "expect" in words:
            if not found or found[-1].expect:
                raise Mistake(f"{deck}:{line}: these expected lines follow no demonstration")
            found[-1].expect = tuple(match[3].splitlines())
            continue
        options = dict(word.split("=") for word in words if "=" in word)
        found.append(Demo(deck, line, match[3], int(options.get("status", 0))))
    return found


def clean(text):
    """Output as it is read: no colours, no carriage returns."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "")


def one_blank(line):
    """A line as it is compared: columns may be aligned in another way, or by tabs."""
    return " ".join(line.split())


def first_missing(output, expect):
    """The first expected line that does not appear behind those before it, or None."""
    lines = iter([one_blank(line) for line in clean(output).splitlines()])
    for wanted in expect:
        if wanted.strip() in ("...", ""):
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in one_blank(wanted).split("...")) + "$")
        if not any(pattern.match(line) for line in lines):
            return wanted
    return None


def run(demo):
    """(complaint or None, output)"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    try:
        done = subprocess.run(["bash", "-c", demo.command], cwd=TOP, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as late:
        return f"was still running after {SECONDS} seconds", (late.stdout or b"").decode(errors="replace")
    if done.returncode != demo.status:
        return f"exit status {done.returncode}, not {demo.status}", done.stdout
    missing = first_missing(done.stdout, demo.expect)
    return (f"did not print, or not in this order: {missing}" if missing else None), done.stdout


def first_line(command):
    lines = command.strip().splitlines()
    return lines[0] + (" ..." if lines[1:] else "")


def run_all(demos):
    """Runs them, says how each went, and returns (passed, failed)."""
    passed = failed = 0
    for demo in demos:
        where = f"{demo.deck}:{demo.line}"
        started = time.monotonic()
        complaint, output = run(demo)
        if complaint:
            failed += 1
            print(f"{where}: FAILED: {complaint}\n    " + "\n    ".join([*demo.command.splitlines(), "--- printed:",
                                                                        *clean(output).splitlines()[-40:]]), flush=True)
        else:
            passed += 1
            print(f"{where}: ok, {time.monotonic() - started:.1f} s: {first_line(demo.command)}", flush=True)
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description="Run the commands that the decks show.")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("deck", nargs="*", type=pathlib.Path, metavar="DECK")
    args = parser.parse_args()
    demos = []
    try:
        for deck in args.deck or sorted(SLIDES.glob("[0-9][0-9]-*.md")):
            demos += parse(deck.read_text(encoding="utf-8"), os.path.relpath(deck))
    except (Mistake, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if args.list:
        for demo in demos:
            print(f"{demo.deck}:{demo.line}: {first_line(demo.command)}")
        return 0
    passed, failed = run_all(demos)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
