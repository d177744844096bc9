"""Scripts for `hv stream`, what is expected of their answers, and how these are read."""

import re
import struct

from model import HV_OK, Failure, Run
from signatures import describe_end
from splitmix import SplitMix64
from staging import Play, staged, told

_ANSWER = re.compile(r"^(\d+): (.*)$")


def filling(seed, length):
    """The bytes that `fill` and `section` make of a seed."""
    words = SplitMix64(seed)
    return b"".join(struct.pack("<Q", words.next()) for _ in range((length + 7) // 8))[:length]


def one_seed(rng):
    return [rng.getrandbits(62)]


class Answer:
    def __init__(self, text, lines):
        self.text, self.lines = text, lines  # behind the number; the indented ones above it
        self.word, _, sentence = text.partition(" : ")
        self.sentence = sentence.strip()


class Script:
    """Operations, each with a check: a function of its Answer that gives None or (expected, seen[, hint])."""

    def __init__(self):
        self._lines, self._checks = [], []
        self.hint = None  # of the operations that follow

    def add(self, line, check=None):
        self._lines.append(line)
        self._checks.append((check, self.hint))

    def does(self, line, what=""):
        """An operation that must succeed."""
        name = line.split()[0]
        self.says(line, "%s 0" % name, what)

    def says(self, line, text, what="", lines=None):
        """An operation with exactly this answer; lines: those above it, in any order."""
        def check(answer):
            if answer.word != text:
                return "%s%s" % (what and what + ": ", text), answer.text
            if lines is not None and sorted(answer.lines) != sorted(lines):
                missing = [line for line in lines if line not in answer.lines]
                more = [line for line in answer.lines if line not in lines]
                return "%s%s" % (what and what + ": ", missing[0] if missing else "nothing more"), more[0] if more else "no such line"
            return None

        self.add(line, check)

    def refuses(self, line, statuses, what):
        """An operation that must be refused with one of these errors, a sentence, and without a line."""
        name = line.split()[0]

        def check(answer):
            if answer.word not in ["%s -%s" % (name, status) for status in statuses]:
                return "%s: refused with -%s" % (what, " or -".join(statuses)), answer.text
            if not answer.sentence:
                return "%s: refused with a sentence in s->err" % what, "no sentence"
            if answer.lines:
                return "%s: refused, and nothing done" % what, answer.lines[0]
            return None

        self.add(line, check)

    def text(self):
        return "\n".join(self._lines) + "\n"

    def judge(self, result):
        """The first answer that is not as it must be, as a Failure, or None."""
        answers, above = {}, []
        for line in result.output.decode("ascii", "replace").splitlines():
            if line.startswith("  "):
                above.append(line.strip())
                continue
            found = _ANSWER.match(line)
            if found:
                answers[int(found[1])] = Answer(found[2], above)
            above = []
        for number, (check, hint) in enumerate(self._checks, 1):
            if not check:
                continue
            answer = answers.get(number)
            wrong = check(answer) if answer else ("an answer to \"%s\"" % self._lines[number - 1], describe_end(result))
            if wrong:
                expected, seen = wrong[:2]
                return Failure(expected, "%s (line %d of the script: %s)" % (seen, number, self._lines[number - 1]), hint, result.name)
        return None


OUT = "out"  # the file that a script writes


def written(name, make):
    """A run of `hv stream` whose script writes a stream to OUT; seen_written() has what that is."""
    return staged(name, lambda params: _PLAY, lambda rng: one_seed(rng), guest="", vm=False,
                  files=lambda params: {"operations": make(params[0]).text(), OUT: b""})


_PLAY = Play()
_PLAY.step("start H @HV@ stream @DIR@/operations")
_PLAY.step("end H")
_PLAY.step("sections F @DIR@/" + OUT)


def seen_written(result):
    """(hv's end and output as a RunResult, the messages in its file, what is wrong with the file or "")."""
    t = told(result, _PLAY)
    messages, wrong = t.file("F")
    return t["H"].result(result), messages, wrong


def stream(name, make, files=None, back="", room=0, timeout=6.0):
    """A run of `hv stream`. make(seed) gives the Script; files(seed): more files; back: the file that it writes, of `room`
    bytes at most."""
    def all_files(params):
        found = {"script": make(params[0]).text(), **(files(params[0]) if files else {})}
        if back:
            found[back] = bytes(room)
        return found

    return Run(name, params=one_seed, command=("/bin/hv", "stream", "@DIR@/script"), files=all_files, back=back, timeout=timeout,
               ends=None, vm=False)


def ended(result):
    """A Failure when hv did not come to the end of its script."""
    if result.status == HV_OK:
        return None
    return Failure("hv stream to come to the end of its script", describe_end(result), run=result.name)
