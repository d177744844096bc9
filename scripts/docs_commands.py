#!/usr/bin/env python3
"""Runs the commands that the documentation tells people to type, and compares what they print with what it says they print.

    scripts/docs_commands.py [--list] [--keep] [PAGE]...

They run in a copy of the tree, build/docs/tree, so that a page may pretend to be a student who has written some of the lab. A
comment before a block says what is to happen with it; on the page it is invisible and the block an ordinary one:

    <!-- run -->                      ```sh: run with bash; must end with status 0
    <!-- run status=1 -->             ... with this status
    <!-- run with=solved -->          ... with the lab's files solved; with=mutant:NAME or with=mistake:NAME, with this
                                      mistake in them (of reference-solution/mutants or mistakes); with=upto:1.6, solved so far
    <!-- run lab=2 -->                ... with= is about this lab (the lab of the handout that the page is; in other pages 1)
    <!-- run until="some text" -->    ... in the background; goes on with the page when this text was printed
    <!-- run port=1234 -->            ... with a port that is free here in place of this one, up to the end of the page
    <!-- run needs=/dev/kvm -->       ... only where this file exists
    <!-- run limit=120 -->            ... ended after so many seconds (90)
    <!-- not run: why -->             ```sh: only shown
    <!-- output -->                   ```text: lines of the output of the block before, one behind the other; a line "..."
                                      stands for any lines, "..." within one for anything
    <!-- output numbers=any -->       ... where numbers may be others: addresses and sizes depend on the compiler
    <!-- output of=background -->     ... of the block with until=, which is waited for

Every ```sh block of docs/*.md must have such a comment; in the other pages (README.md, the handouts) only those are run that have one.
Skipped, with a word about why, is what this tree cannot do: solutions in a student's tree, a file that a mark needs.
The last line is "N passed, M failed"; the exit status is 0 when nothing failed.
"""

import argparse
import os
import pathlib
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

TOP = pathlib.Path(__file__).resolve().parent.parent
TREE = TOP / "build/docs/tree"
LABS = {path.name[:2].lstrip("0"): path.name for path in (TOP / "labs").glob("[0-9][0-9]-*")}
# What need not be compiled again.
BUILT = ("frame", "san-frame", "reference", "san-reference", "lab1", "lab2", "lab3", "lab4", "lab5", "guests", "vm", "probe")
MISTAKES = {"mutant": "reference-solution/mutants", "mistake": "reference-solution/mistakes"}
LIMIT = 90
SETTLE = 2  # seconds between the sentence of a background command and the next block

sys.path.insert(0, str(TOP / "grader/lib"))
import mutants  # noqa: E402
import starters  # noqa: E402
from model import GraderError  # noqa: E402

MARK = re.compile(r"^\s*<!--\s*(run|not run|output)\b:?\s*(.*?)\s*-->\s*$")
# 0x100, 4.5, and what guests report: rax=5de9.
NUMBER = re.compile(r"(0x[0-9a-f]+|(?<==)[0-9a-f]+|\d+(?:\.\d+)?)")
FENCE = re.compile(r"^(\s*)(```+)\s*([^\s`]*)[^`]*$")


class DocsError(Exception):
    """A page's marks make no sense; the message says where."""


@dataclass
class Block:
    page: str
    line: int
    language: str
    text: str
    kind: str = ""  # "run", "not run", "output", or "" without a mark
    options: dict = field(default_factory=dict)
    reason: str = ""

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    @property
    def lab(self):
        """The number, as text, of the lab that with= is about."""
        handout = re.match(r"labs/0*(\d+)-", self.page)
        return self.options.get("lab") or (handout[1] if handout else "1")


KNOWN = {"run": {"status", "with", "lab", "until", "port", "limit", "needs"}, "output": {"numbers", "of"}, "not run": set()}


def options_of(kind, words, place):
    found = {}
    for word in shlex.split(words):
        name, equals, value = word.partition("=")
        if name not in KNOWN[kind] or not equals:
            raise DocsError(f"{place}: a mark \"{kind}\" has no option \"{word}\"")
        found[name] = value
    return found


def blocks_of(text, page):
    """The fenced blocks of a page, with their marks."""
    found, mark, fence = [], None, None
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            if line.strip() == fence[0]:
                found.append(fence[1])
                fence = None
            else:
                fence[1].text += line[fence[2]:] + "\n"
            continue
        opened, marked = FENCE.match(line), MARK.match(line)
        if opened:
            block = Block(page, number, opened[3], "")
            if mark:
                block.kind = mark[0]
                if mark[0] == "not run":
                    block.reason = mark[1]
                else:
                    block.options = options_of(*mark, block.place)
                if block.lab not in LABS:
                    raise DocsError(f"{block.place}: there is no lab {block.lab}")
                if mark[0] == "not run" and not mark[1]:
                    raise DocsError(f"{block.place}: \"not run\" needs a reason")
            mark = None
            fence = (opened[2], block, len(opened[1]))
        elif marked:
            mark = (marked[1], marked[2])
        elif line.strip():
            if mark:
                raise DocsError(f"{page}:{number}: a mark must stand right before its block")
    if mark:
        raise DocsError(f"{page}: a mark at the end, with no block behind it")
    for block in found:
        if block.kind in ("run", "not run") and block.language != "sh" or block.kind == "output" and block.language == "sh":
            raise DocsError(f"{block.place}: a mark \"{block.kind}\" before a block of the kind \"{block.language}\"")
    return found


def pattern_of(expected, any_number):
    """The regular expression for what a page says is printed."""
    lines = []
    for line in expected.rstrip("\n").split("\n"):
        if line.strip() == "...":
            lines.append(r"(?:[^\n]*\n)*?")
            continue
        parts = []
        for part in line.rstrip().split("..."):
            words = NUMBER.split(part) if any_number else [part]
            text = "".join(f"(?:{NUMBER.pattern[1:-1]})" if i % 2 else re.escape(word) for i, word in enumerate(words))
            # Columns move with the numbers in them.
            parts.append(re.sub(r"(?:\\ )+", " +", text) if any_number else text)
        lines.append(r"[^\n]*?".join(parts) + r"[ \t]*\n")
    return re.compile("^" + "".join(lines), re.M)


def compare(expected, printed, any_number=False):
    """None when the lines were printed, or a sentence."""
    printed = printed.replace("\r\n", "\n").rstrip("\n") + "\n"
    if pattern_of(expected, any_number).search(printed):
        return None
    for line in expected.splitlines():
        if line.strip() not in ("", "...") and not pattern_of(line, any_number).search(printed):
            return f"this line was not printed: {line}"
    return "the lines were printed, but not one behind the other in this order"


def children_cpu():
    """Seconds that the processors worked for commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(argv, output):
    """In a session of its own, so that all of it can be ended."""
    return subprocess.Popen(argv, cwd=TREE, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True,
                            errors="replace", start_new_session=True)


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_to_end(argv, limit):
    """(exit status, output); the status is None when it did not end in time."""
    process = start(argv, subprocess.PIPE)
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        end(process)
        return None, process.stdout.read()


class Tree:
    """The copy of the tree in which the commands run."""

    def __init__(self):
        shutil.rmtree(TREE, ignore_errors=True)
        done = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=TOP, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DocsError("the commands run in a copy of the files that git knows, and this tree is none of git's")
        for name in filter(None, done.stdout.split("\0")):
            if (TOP / name).is_file():
                (TREE / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TOP / name, TREE / name)
        (TREE / "build").mkdir()
        for name in BUILT:
            source = TOP / "build" / name
            if source.is_dir():
                shutil.copytree(source, TREE / "build" / name)
            elif source.is_file():
                shutil.copy2(source, TREE / "build" / name)
        if (TOP / "build/testhost").is_dir():
            (TREE / "build/testhost").symlink_to(TOP / "build/testhost")
        self.has = {}

    def solution(self, lab, name):
        """Puts this solution into the lab's directory: "" for what a student begins with."""
        if name == self.has.get(lab):
            return
        self.has[lab] = name
        source = TOP / ("reference-solution" if name else "labs") / LABS[lab]
        target = TREE / "labs" / LABS[lab]
        kind, _, wanted = name.partition(":")
        if kind in MISTAKES:
            path = TOP / MISTAKES[kind] / LABS[lab] / f"{wanted}.mutant"
            if not path.exists():
                raise DocsError(f"there is no {path.relative_to(TOP)}")
            mutants.apply(mutants.parse(wanted, path.read_text(encoding="utf-8")), source, target)
        elif kind == "upto" and re.fullmatch(starters.STEP, wanted):
            for file in source.glob("*.c"):
                text = starters.make_starter(file.read_text(encoding="utf-8"), file.name, wanted)
                (target / file.name).write_text(text, encoding="utf-8")
        elif name in ("", "solved"):
            for file in source.glob("*.c"):
                shutil.copy(file, target)
        else:
            raise DocsError(f"with={name}: it is solved, mutant:NAME, mistake:NAME or upto:STEP")
        # Both wrote the files now, so that make takes them for newer than what it compiled. A page need not say `make` each time.
        status, output = run_to_end(["make", "-j2", "hv", "guests", f"LAB={lab}"], LIMIT * 2)
        if status:
            raise DocsError(f"with={name}: make hv failed:\n{output}")


class Background:
    """A command that runs on while the page goes on."""

    def __init__(self, command, until, limit):
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.process = start(["bash", "-euc", command], self.log)
        self.end = time.monotonic() + limit
        while until not in self.printed():
            if self.process.poll() is not None or time.monotonic() > self.end:
                end(self.process)
                raise DocsError(f"\"{until}\" was not printed:\n{self.printed()}")
            time.sleep(0.1)
        time.sleep(SETTLE)

    def printed(self):
        self.log.seek(0)
        return self.log.read()

    def wait(self):
        """(exit status, output)."""
        try:
            self.process.wait(max(self.end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            end(self.process)
        return self.process.returncode, self.printed()


class Runner:
    def __init__(self):
        self.tree = Tree()
        self.passed = self.failed = self.skipped = 0
        self.background = None
        self.printed, self.ports, self.skipping = "", {}, False

    def good(self):
        self.passed += 1

    def bad(self, block, why, printed=""):
        self.failed += 1
        print(f"  FAILED {block.place}: {why}")
        if printed:
            print("  it printed:\n" + "".join(f"    {line}\n" for line in printed.rstrip().splitlines()[-40:]), end="")

    def cannot(self, block):
        """Why this tree cannot run a block, or None."""
        if block.options.get("with") and not (TOP / "reference-solution").is_dir():
            return "this tree has no solutions"
        if not pathlib.Path(block.options.get("needs", "/")).exists():
            return f"there is no {block.options['needs']} here"
        return None

    def run(self, block):
        why = self.cannot(block)
        self.skipping = bool(why)
        if why:
            self.skipped += 1
            print(f"  skipped {block.place}: {why}")
            return
        options, command = block.options, block.text
        if "port" in options:
            self.ports[options["port"]] = str(free_port())
        for shown, real in self.ports.items():
            command = re.sub(rf"\b{shown}\b", real, command)
        limit, status = float(options.get("limit", LIMIT)), int(options.get("status", 0))
        self.tree.solution(block.lab, options.get("with", ""))
        print("".join(f"  $ {line}\n" for line in command.strip().splitlines()), end="", flush=True)
        started, cpu = time.monotonic(), children_cpu()
        if "until" in options:
            self.background = Background(command, options["until"], limit)
            return self.good()
        ended, self.printed = run_to_end(["bash", "-euc", command], limit)
        print(f"    status {ended}, {time.monotonic() - started:.1f} s, CPU {children_cpu() - cpu:.1f} s", flush=True)
        if ended is None:
            return self.bad(block, f"it did not end within {limit:g} seconds", self.printed)
        if ended != status:
            return self.bad(block, f"it ended with status {ended}, not {status}", self.printed)
        return self.good()

    def output(self, block):
        if self.skipping:
            return
        printed = self.printed
        if block.options.get("of") == "background":
            if not self.background:
                return self.bad(block, "no command runs in the background")
            _, printed = self.background.wait()
            self.background = None
        for shown, real in self.ports.items():
            printed = re.sub(rf"\b{real}\b", shown, printed)
        why = compare(block.text, printed, block.options.get("numbers") == "any")
        return self.bad(block, why, printed) if why else self.good()

    def page(self, blocks):
        self.printed, self.ports, self.skipping = "", {}, False
        for block in blocks:
            try:
                if block.kind == "run":
                    self.run(block)
                elif block.kind == "output":
                    self.output(block)
                elif block.kind == "not run":
                    print(f"  not run {block.place}: {block.reason}")
                elif block.language == "sh" and block.page.startswith("docs/"):
                    self.bad(block, "no mark says whether these commands are run")
            except (DocsError, GraderError, RuntimeError) as error:
                self.bad(block, str(error))
        if self.background:
            self.background.wait()
            self.background = None


def pages(names):
    paths = [TOP / name for name in names] or [TOP / "README.md", *sorted((TOP / "docs").glob("*.md")), TOP / "grader/README.md",
                                               *sorted((TOP / "labs").glob("*/README.md"))]
    return [(path, blocks_of(path.read_text(encoding="utf-8"), str(path.resolve().relative_to(TOP)))) for path in paths]


def main():
    parser = argparse.ArgumentParser(description="Run the commands of the documentation.")
    parser.add_argument("--list", action="store_true", help="only say what would be done with each block")
    parser.add_argument("--keep", action="store_true", help="leave the copy of the tree behind")
    parser.add_argument("page", nargs="*")
    args = parser.parse_args()
    try:
        found = pages(args.page)
        if args.list:
            for block in (block for _, blocks in found for block in blocks if block.kind or block.language == "sh"):
                print(f"{block.place}: {block.kind or 'no mark'} {block.options or ''}{block.reason}")
            return 0
        started = time.monotonic()
        runner = Runner()
    except (DocsError, OSError, ValueError) as error:
        print(f"docs_commands: {error}", file=sys.stderr)
        return 2
    for path, blocks in found:
        if any(block.kind for block in blocks) or path.parent == TOP / "docs":
            print(f"{path.relative_to(TOP)}", flush=True)
            runner.page(blocks)
    if not args.keep:
        shutil.rmtree(TREE, ignore_errors=True)
    print(f"\n{time.monotonic() - started:.0f} seconds, {runner.skipped} skipped")
    print(f"{runner.passed} passed, {runner.failed} failed")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
