"""What is shown: progress while the grading runs, the report at the end, and the JSON for other programs."""

import json
import os
import sys
import tempfile
import textwrap

from escape import block, compare, visible
from hosts import TITLES
from ladder import BLOCKED, ERROR, FAILED, NOT_CHECKED, PASSED
from signatures import NOT_WRITTEN, recognise

WIDTH = 96
_COLOURS = {PASSED: "32", FAILED: "31", BLOCKED: "33", ERROR: "35", "bold": "1"}


class Style:
    """Colour says nothing that the words do not say too. NO_COLOR (no-color.org) turns it off."""

    def __init__(self, stream):
        self.terminal = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self.colour = self.terminal and not os.environ.get("NO_COLOR")

    def paint(self, what, text):
        return "\x1b[%sm%s\x1b[0m" % (_COLOURS[what], text) if self.colour else text


def verdict_line(verdict, style):
    c = verdict.checkpoint
    if verdict.status == NOT_CHECKED:
        return "%-5s %-14s  %s" % (c.id, verdict.status, c.title)
    points = "%d/%d" % (verdict.points, c.points)
    line = "%-5s %s  %5s  %s" % (c.id, style.paint(verdict.status, "%-7s" % verdict.status), points, c.title)
    if verdict.status == BLOCKED:
        line += " (%s)" % verdict.message
    return line


class Progress:
    """A line for each checkpoint as it is judged; on a terminal also what is going on, in a line that is overwritten."""

    def __init__(self, stream, quiet=False, verbose=False):
        self.stream, self.quiet, self.verbose, self.style = stream, quiet, verbose, Style(stream)
        self._status = False

    def _clear(self):
        if self._status:
            self.stream.write("\r\x1b[K")
            self._status = False

    def stage(self, text):
        if self.quiet:
            return
        self._clear()
        if self.style.terminal:
            self.stream.write("... " + text)
            self._status = True
        elif self.verbose:
            self.stream.write("... %s\n" % text)
        self.stream.flush()

    def judged(self, verdict):
        if self.quiet:
            return
        self._clear()
        self.stream.write(verdict_line(verdict, self.style) + "\n")
        if self.verbose:
            for line in run_lines(verdict):
                self.stream.write(line + "\n")
        self.stream.flush()

    def end(self):
        self._clear()
        self.stream.flush()


def run_lines(verdict):
    lines = []
    for name, r in verdict.labelled():
        counted = ", %d exits counted by the kernel" % r.witness.exits if r.witness else ""
        lines.append("        run %s: %d ms%s" % (name, r.wall_ms, counted))
        lines += block(r.stdout.data, 12, 120, "        | ")
        lines += block(r.stderr.data, 12, 120, "        ! ")
    return lines


def _wrap(label, text):
    indent = " " * 13
    paragraphs = text.splitlines() or [""]
    lines = []
    for i, paragraph in enumerate(paragraphs):
        lines += textwrap.wrap(paragraph, WIDTH, initial_indent="  %-11s" % label if i == 0 else indent, subsequent_indent=indent,
                               break_on_hyphens=False, break_long_words=False) or [""]
    return lines


def explain(grading, verdict, style):
    """Everything about one failed checkpoint."""
    c, failure, result = verdict.checkpoint, verdict.failure, verdict.result
    lines = ["", style.paint("bold", "%s %s: %s" % (c.id, verdict.status, c.title))]
    built = not (grading.errors_of_compiler or grading.solution.problems)
    if built:
        lines += _wrap("required", c.requirement)
    found = recognise(result) if result else None
    if verdict.status == ERROR:
        lines += _wrap("error", verdict.message)
    elif grading.errors_of_compiler:
        lines += ["  the compiler says"] + block(grading.errors_of_compiler, 20, 160, "    | ")
        lines += _wrap("hint", failure.hint)
    elif grading.solution.problems:
        for problem in grading.solution.problems:
            lines += _wrap("problem", problem)
    elif found and found[0] == NOT_WRITTEN:
        lines += _wrap("to do", found[1])
    else:
        if result and len(c.runs) > 1:
            lines += _wrap("in run", result.name)
        if result and len(verdict.hosts) > 1:
            lines += _wrap("on", TITLES[result.host])
        if failure.exact:
            lines += ["  " + line for line in compare(failure.expected, failure.seen)]
        else:
            lines += _wrap("expected", visible(failure.expected, 2000)) + _wrap("seen", visible(failure.seen, 2000))
        if found:
            lines += _wrap("looks like", "%s. %s" % found)
        lines += _wrap("hint", failure.hint or c.hint)
    lines += _wrap("seed", str(grading.seed))
    lines.append("  %-11s%s" % ("replay", grading.replay(verdict)))
    lines.append("  %-11s%s" % ("log", verdict.log))
    if verdict.guest:
        lines.append("  %-11s%s" % ("guest", verdict.guest + " (run it with hv run --trace exits)"))
    return lines


def summary(grading, style):
    verdicts = grading.verdicts
    lines = []
    first = next((v for v in verdicts if v.status in (FAILED, ERROR)), None)
    if first:
        lines += explain(grading, first, style)
        others = [v for v in verdicts if v.status == FAILED and v is not first]
        if others:
            lines += ["", "Also failed:"]
            lines += ["  %s %s: %s" % (v.checkpoint.id, v.checkpoint.title, visible(v.message, 160)) for v in others]
        for v in verdicts:
            if v.status == ERROR and v is not first:
                lines += ["  %s could not be judged: %s" % (v.checkpoint.id, visible(v.message, 300))]
    lines.append("")
    count, checked = sum(v.status == PASSED for v in verdicts), sum(v.status != NOT_CHECKED for v in verdicts)
    lines.append("Lab %d, %s: %d of %d checkpoints passed, %d of %d points, %.1f s, seed %d." % (
        grading.lab, grading.title, count, checked, grading.score, grading.max_score, grading.seconds, grading.seed))
    lines += grading.not_checked
    if not grading.hosts.have_witness:
        lines.append("Practice run on this machine's own /dev/kvm: without the test host nobody counted the VM's exits, so this is "
                     "no proof.")
        if count < checked:
            lines.append("Confirm a failure in the test host (--host qemu): a /dev/kvm that is made of software may differ from a CPU.")
    if any(v.status == ERROR for v in verdicts):
        lines.append("The grader could not judge everything. That is not the fault of the solution and costs no points: grade again.")
    return lines


def as_json(grading):
    checkpoints = []
    for v in grading.verdicts:
        c, found = v.checkpoint, recognise(v.result) if v.result else None
        hint = (v.failure.hint or c.hint) if v.failure else ""
        entry = {
            "id": c.id, "title": c.title, "status": v.status, "points": v.points, "max_points": v.max_points,
            "requirement": c.requirement, "message": v.message, "hint": hint, "log": v.log, "guest": v.guest, "replay": grading.replay(v),
            "depends": list(c.depends), "hosts": list(v.hosts),
        }
        if v.failure:
            entry["expected"], entry["seen"] = visible(v.failure.expected, 4000), visible(v.failure.seen, 4000)
        if found:
            entry["signature"] = {"name": found[0], "explanation": found[1]}
        checkpoints.append(entry)
    return {
        "lab": grading.lab, "title": grading.title, "seed": grading.seed, "score": grading.score, "max_score": grading.max_score,
        "seconds": round(grading.seconds, 1), "solution": visible(grading.solution.label, 300), "host": str(grading.hosts),
        "witness": grading.hosts.have_witness, "test_host": grading.host_facts.get(grading.hosts.names[0], {}),
        "test_hosts": grading.host_facts,
        "not_checked": grading.not_checked, "checkpoints": checkpoints,
    }


def write_atomically(path, text):
    """The file is complete or not there. Readable for its owner and whoever the umask lets."""
    directory = os.path.dirname(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(prefix=".grade-", dir=directory)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def json_text(grading):
    return json.dumps(as_json(grading), indent=2, ensure_ascii=True) + "\n"


def text_report(grading, stream=None):
    """The report as a file gets it: every verdict, then the summary."""
    style = Style(stream or open(os.devnull, encoding="ascii"))
    return "\n".join([verdict_line(v, style) for v in grading.verdicts] + summary(grading, style)) + "\n"


def complain(text):
    print(text, file=sys.stderr)
