"""Plays for /bin/stage (grader/testhost/stage.c): VMs that move, the relay between them, and what they all said."""

import json
import re
import struct
from dataclasses import dataclass, field

import streamfile
from model import HV_OK, Capture, Failure, Run, RunResult
from signatures import describe_end
from writer import GUEST

_STEP = re.compile(rb"^(\d+) ([@<!]) (.*)$")
_PROGRAM = re.compile(rb"^([A-Za-z0-9]+) (status|signal|killed) (\d+) (\d+) (\d+)$")
_RELAYED = re.compile(r"^(\d+) ([SD]) (\d+) (?:header version (\d+) flags (\d+) id ([0-9a-f]+)|type (\d+) instance (\d+) length (\d+) "
                      r"sequence (\d+)) crc (ok|wrong)(?: gfn (\d+) count (\d+) kind (\d+) data (\d+))?"
                      r"(?: :((?: [0-9a-f]+)+))?(?: = ?([0-9a-f]*))?$")


class Play:
    """The script of a run. vm(), at() and so on append steps."""

    def __init__(self):
        self._lines, self.commands = [], {}

    def step(self, line):
        """Returns its number."""
        self._lines.append(line)
        return len(self._lines)

    def vm(self, name, options, image="@DIR@/guest.elf"):
        """Starts hv with a guest and a control socket of its name."""
        self.step("start %s @HV@ run --stats json --control %s.ctl %s %s" % (name, name, options, image))

    def incoming(self, name, uri, options):
        self.step("start %s @HV@ run --stats json --control %s.ctl --incoming %s %s" % (name, name, uri, options))

    def restore(self, name, file, options=""):
        self.step("start %s @HV@ restore %s --stats json --control %s.ctl %s" % (name, file, name, options))

    def type(self, name, text, answer=None):
        """A line for the guest, and its answer."""
        self.step("type %s %s" % (name, text))
        return self.step("answer %s %s" % (name, answer)) if answer else None

    def text(self):
        return "\n".join(self._lines) + "\n"

    def line(self, number):
        return self._lines[number - 1]


@dataclass
class Message:
    """What passed the relay: a header (type 0) or a section."""

    connection: int
    source: bool
    number: int
    type: int
    instance: int = 0
    length: int = 0
    sequence: int = 0
    good: bool = True  # its CRC
    ident: int = 0
    flags: int = 0
    gfn: int = 0
    count: int = 0
    kind: int = -1
    data: int = 0
    sums: tuple = ()
    payload: bytes = b""

    @property
    def name(self):
        return streamfile.NAMES.get(self.type, str(self.type)) if self.type else "header"


@dataclass
class Program:
    name: str
    how: str = "missing"  # status, signal, killed
    number: int = 0
    out: bytes = b""
    err: bytes = b""

    @property
    def ended_well(self):
        return self.how == "status" and self.number == 0

    def result(self, like):
        """As a RunResult, for what explains those."""
        return RunResult(like.name, status=self.number if self.how == "status" else None,
                         signal=self.number if self.how == "signal" else 0, timed_out=self.how == "killed",
                         stdout=Capture(self.out, b"", len(self.out)), stderr=Capture(self.err, b"", len(self.err)))

    def values(self, key):
        """Of the guest's lines key=hex."""
        return [int(n, 16) for n in re.findall(rb"(?m)^%s=([0-9a-f]{1,16})\r?$" % key.encode(), self.out)]


@dataclass
class Told:
    """What a play showed."""

    result: RunResult
    play: Play
    failed: tuple = ()  # (number of the step, why)
    answers: dict = field(default_factory=dict)  # number of a step -> what the control socket answered
    times: dict = field(default_factory=dict)    # number of a step -> when it was done, ms
    programs: dict = field(default_factory=dict)

    def __getitem__(self, name):
        return self.programs.get(name, Program(name))

    def job(self, step):
        """The answer to a step as JSON, {} if it is none."""
        try:
            answer = json.loads(self.answers.get(step, ""))
        except (ValueError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def messages(self, relay="R"):
        found = []
        for line in self[relay].out.decode("ascii", "replace").splitlines():
            m = _RELAYED.match(line)
            if not m:
                continue
            number = [int(n) if n is not None else 0 for n in m.group(1, 3, 7, 8, 9, 10, 12, 13, 15)]
            found.append(Message(number[0], m[2] == "S", number[1], number[2], number[3], number[4], number[5], m[11] == "ok",
                                 int(m[6], 16) if m[6] else 0, int(m[5] or 0), number[6], number[7], int(m[14]) if m[14] else -1,
                                 number[8], tuple(int(s, 16) for s in (m[16] or "").split()), bytes.fromhex(m[17]) if m[17] else b""))
        return found

    def file(self, name):
        """(the messages of a file that the step `sections` told of, what is wrong with it or "")."""
        messages, wrong = self.messages(name), ""
        if not messages or messages[0].type or not messages[0].good:
            wrong = "it does not begin with a whole header"
        elif not self[name].out.rstrip().endswith(b"S end 0"):
            wrong = "its end is no whole section"
        for number, m in enumerate(messages[1:]):
            if not wrong and not m.good:
                wrong = "section %d (%s) has a wrong CRC" % (number, m.name)
            if not wrong and m.sequence != number:
                wrong = "section %d (%s) has the sequence number %d" % (number, m.name, m.sequence)
        return messages, wrong

    def explain(self):
        """How the programs ended that did not end well, and what a destination refused, in a clause."""
        ends = ["%s: %s" % (p.name, describe_end(p.result(self.result))) for p in self.programs.values()
                if not p.ended_well and (p.how != "killed" or p.err.strip())]
        refused = [m.payload.decode("ascii", "replace") for name in self.programs for m in self.messages(name)
                   if m.type == streamfile.REFUSE]
        return "; ".join(ends + ["the destination refused: " + sentence for sentence in refused[:1]])

    def failure(self, hint=None):
        """A step that could not be done, as a Failure, or None."""
        if self.result.host_trouble or self.result.status != HV_OK:
            return Failure("the play to come to its end", describe_end(self.result), hint, self.result.name)
        if not self.failed:
            return None
        number, why = self.failed
        said = self.explain()
        return Failure("step %d of the play: %s" % (number, self.play.line(number)), why + ("; " + said if said else ""),
                       hint, self.result.name)

    def fail(self, expected, seen, hint=None):
        said = self.explain()
        return Failure(expected, seen + ("; " + said if said else ""), hint, self.result.name)


def rounds(messages):
    """[[(gfn, CRC-32C or None for zeros)]] of each round, the last of them what came behind the last ROUND; and of each ROUND its number,
    pages sent, pages dirty since."""
    found, said = [[]], []
    for m in messages:
        if m.source and m.type == streamfile.PAGES:
            found[-1] += [(m.gfn + i, m.sums[i] if i < len(m.sums) else None) for i in range(m.count)]
        elif m.source and m.type == streamfile.ROUND and len(m.payload) == 16:
            said.append((m.instance, *struct.unpack("<2Q", m.payload)))
            found.append([])
    return found, said


def told(result, play):
    """Takes apart what /bin/stage said."""
    t, data, at = Told(result, play), result.output, 0
    while at < len(data):
        end = data.find(b"\n", at)
        line, at = data[at : end if end >= 0 else len(data)], end + 1 if end >= 0 else len(data)
        step, program = _STEP.match(line), _PROGRAM.match(line)
        if step:
            number, text = int(step[1]), step[3].decode("utf-8", "replace")
            if step[2] == b"<":
                t.answers[number] = text
            elif step[2] == b"@":
                t.times[number] = int(text) if text.isdigit() else 0
            else:
                t.failed = number, text
        elif program:
            name, out, err = program[1].decode(), int(program[4]), int(program[5])
            t.programs[name] = Program(name, program[2].decode(), int(program[3]), data[at : at + out], data[at + out : at + out + err])
            at += out + err + 1
    return t


def staged(name, make, params=None, timeout=15.0, guest=GUEST, files=None, others=(), vm=True, patched=True):
    """A run of a play. make(params) gives it. patched: its guest has `params`."""
    def all_files(p):
        return {"script": make(p).text(), **(files(p) if files else {})}

    return Run(name, guest=guest, params=params or numbers, args=() if patched else lambda p: (),
               command=("/bin/stage", "@SECONDS@", "@DIR@", "/bin/hv"), files=all_files,
               timeout=timeout, ends=None, others=others, vm=vm)


def numbers(rng, pages=512):
    """The guest's: a seed, its pages; and a seed for the rest."""
    return [rng.getrandbits(63), pages, rng.getrandbits(62)]
