"""Scripts of `hv nested` and what hv must answer. A step is a line and what is expected of its answer."""

import re
from dataclasses import dataclass, field

import nestmodel
import nestwalk
from model import HV_OK, Failure
from signatures import describe_end

POOL = 2 << 20  # machine address of the first table, the root (HVM_POOL_MA)
PAGE = nestmodel.PAGE

_ANSWER = re.compile(r"^(\d+): (.*?)(?: \| used (\d+) free (\d+) retired (\d+)( flush)?)?$")


@dataclass
class Answer:
    text: str
    used: int = 0
    free: int = 0
    retired: int = 0
    flush: bool = False
    lines: list = field(default_factory=list)  # the indented ones
    previous: "Answer" = None


@dataclass
class Wrong:
    expected: str
    seen: str
    hint: str = ""


@dataclass
class Step:
    line: str
    check: callable  # of an Answer: None or a Wrong


def parse(output):
    """{line of the script: Answer}"""
    answers, lines, previous = {}, [], None
    for line in output.decode("ascii", "replace").splitlines():
        if line.startswith("  "):
            lines.append(line.split())
            continue
        m = _ANSWER.match(line)
        if m:
            numbers = (int(n or 0) for n in m.group(3, 4, 5))
            previous = answers[int(m[1])] = Answer(m[2], *numbers, bool(m[6]), lines, previous)
        lines = []
    return answers


class Script:
    def __init__(self):
        self.steps = []

    @property
    def text(self):
        return "".join(step.line + "\n" for step in self.steps)

    def add(self, line, check=None):
        self.steps.append(Step(line, check or (lambda answer: None)))

    def says(self, line, text, hint=""):
        """The answer, but for the state of the tables, is exactly this."""
        self.add(line, lambda answer: None if answer.text == text else Wrong(text, answer.text, hint))

    def verify(self, result, repeat, hint):
        """None or the Failure. repeat: how to do it by hand; hint: the checkpoint's."""
        cut = result.stdout.elided
        answers = parse(result.stdout.head.rsplit(b"\n", 1)[0] if cut else result.output)
        for number, step in enumerate(self.steps, 1):
            answer = answers.get(number)
            if answer is None and result.status == HV_OK and step.line.split()[0] in ("guest", "cr3"):
                continue
            if answer is None and cut:
                return Failure("an output not much longer than the script", "%d bytes" % result.stdout.total, repeat)
            if answer is None:
                if result.status == HV_OK:
                    return Failure("an answer to line %d of the script, %s" % (number, step.line), "none", repeat)
                continue
            wrong = step.check(answer)
            if wrong:
                return Failure(wrong.expected, wrong.seen, "\n".join(
                    ["This is about line %d of the script, behind the lines before it:" % number, *self._context(number),
                     wrong.hint or hint, repeat]))
        if result.status != HV_OK:
            last = max(answers, default=0)
            return Failure("hv nested to do the whole script (status 0)", describe_end(result), "\n".join(
                ["The last line that it answered is line %d:" % last, *self._context(last + 1), repeat]))
        return None

    def _context(self, number, before=5):
        """The last lines up to this one; and the one that began these tables."""
        new = max((n for n in range(number) if n < len(self.steps) and self.steps[n].line.startswith("new ")), default=0)
        shown = sorted({new, *range(max(new, number - 1 - before), min(number, len(self.steps)))})
        return ["  %d: %s" % (n + 1, self.steps[n].line) for n in shown]


# --- what the tables hold ---------------------------------------------------------------------------------------------------


def runs_of(answer):
    """{table: [(index, entry, how many, difference)]} as `tables` printed them."""
    found = {}
    for table, first, entry, *row in answer.lines:
        count, step = row or ("1", "0")
        found.setdefault(int(table, 16), []).append((int(first), int(entry, 16), int(count), int(step, 16)))
    return found


def memory_of(answer):
    """{ma of a word: word} of the same; 0 everywhere else."""
    return {table + 8 * (first + i): entry + i * step & (1 << 64) - 1
            for table, runs in runs_of(answer).items() for first, entry, count, step in runs for i in range(count)}


def reader(memory, pool):
    """For nestwalk.walk(): None outside the pool."""
    return lambda ma: memory.get(ma, 0) if POOL <= ma < POOL + pool * PAGE else None


class Damage(Exception):
    """The tables cannot be what they are meant to be."""


def collect(cpu, by_table, pool):
    """({gpa: (level, Page)}, {tables}) that a CPU can reach from the root."""
    pages, tables = {}, set()

    def decode(raw, level, gpa):
        entry = nestwalk.decode(cpu, raw, level)
        if entry.kind == "invalid":
            raise Damage("the entry of level %d for gpa %#x, %#x, is not valid: %s" % (level, gpa, raw, entry.why))
        return entry

    def visit(table, level, base, rights):
        if not POOL <= table < POOL + pool * PAGE:
            raise Damage("an entry of level %d for gpa %#x leads to %#x, which is no table of the pool" % (level + 1, base, table))
        if table in tables:
            raise Damage("two entries lead to the table at %#x" % table)
        tables.add(table)
        step = nestwalk.size(level)
        for first, raw, count, difference in by_table.get(table, ()):
            gpa, entry = base + first * step, decode(raw, level, base + first * step)
            if entry.kind == "page" and difference == step and count > 1:  # all say the same, but for the address
                decode(raw + (count - 1) * difference, level, gpa + (count - 1) * step)
                rest = rights & entry.rights, entry.type, entry.a, entry.d
                pages.update({gpa + i * step: (level, nestmodel.Page(entry.ma + i * step, *rest)) for i in range(count)})
                continue
            for i in range(count):
                entry = decode(raw + i * difference & (1 << 64) - 1, level, gpa + i * step)
                if entry.kind == "table":
                    visit(entry.ma, level - 1, gpa + i * step, rights & entry.rights)
                elif entry.kind == "page":
                    pages[gpa + i * step] = level, nestmodel.Page(entry.ma, rights & entry.rights, entry.type, entry.a, entry.d)

    visit(POOL, 4, 0, 7)
    return pages, tables


def page_text(cpu, gpa, hit):
    if not hit:
        return "nothing mapped by a page that begins at gpa %#x" % gpa
    level, page = hit
    kind = " " + nestwalk.TYPES[page.type] if cpu.format == "ept" else ""
    marks = " " + nestwalk.ad_text(page.a, page.d) if cpu.ad else ""
    return "gpa %#x: a page of %s at ma %#x, %s%s%s" % (gpa, ("4 KiB", "2 MiB", "1 GiB")[level - 1], page.ma,
                                                       nestwalk.rights_text(page.rights), kind, marks)


def differ(cpu, want, have):
    """Do these (level, Page) differ in what this CPU's entries say?"""
    if want == have:
        return False
    if not want or not have:
        return True
    return any(l != r for l, r, said in zip((want[0], *want[1]), (have[0], *have[1]),
                                            (True, True, True, cpu.format == "ept", cpu.ad, cpu.ad)) if said)


def check_tables(cpu, pool, expected, loose=None):
    """The check of a `tables` step: these pages and no others. loose: a function of the pages found, instead."""
    def check(answer):
        try:
            pages, tables = collect(cpu, runs_of(answer), pool)
        except Damage as e:
            return Wrong("tables that a CPU can walk", str(e))
        if len(tables) != answer.used:
            return Wrong("as many tables in use as the root leads to: %d" % len(tables), "%d in use" % answer.used,
                         "A table that nothing leads to any more belongs to nested_retire(); one that something leads to does not.")
        if loose:
            return loose(pages)
        wrong = [gpa for gpa in set(expected) | set(pages) if differ(cpu, expected.get(gpa), pages.get(gpa))]
        if not wrong:
            return None
        gpa = min(wrong)
        return Wrong(page_text(cpu, gpa, expected.get(gpa)), page_text(cpu, gpa, pages.get(gpa)))
    return check
