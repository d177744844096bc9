"""What a lab's checkpoints.py is written in: checkpoints, the runs they need, and what a run showed."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable, Optional, Sequence, Union

# Exit statuses of hv (labs/common/hv/vm.h).
HV_OK, HV_GUEST_FAILED, HV_USAGE, HV_HOST, HV_STOPPED, HV_TODO = 0, 1, 2, 3, 4, 5
HV_TIMEOUT = 124

VEC_UD, VEC_GP = 6, 13  # ports that the trap engine's stubs for #UD and #GP write to, and so what the witness counts

QEMU, BOCHS, NATIVE = "qemu", "bochs", "native"  # hosts that a run can be run on

PARAMS = 16  # volatile uint64_t params[16] in every test guest

_LINE = re.compile(rb"^([A-Za-z0-9_.]{1,40})=([0-9a-f]{1,16})$")


@dataclass(frozen=True)
class Run:
    """One start of hv with one guest.

    guest: path below build/guests, "lab1/out.elf". params(rng) gives the 16 numbers that are patched into the guest.
    args: options of hv; or a function of the params that makes them, and then nothing is patched.
    stdin: bytes, or a function of the params. timeout: seconds on the machine the limits were made for; hv is told to give up
    then. ends: the exit statuses of hv with which the guest may have ended; None means that verify() looks at it.
    hosts: the test hosts that it is run on, each with the same numbers: QEMU's processor has SVM, Bochs' has VMX.
    files: more files for the run, by name: texts, bytes or Images; or a function of the params that makes them. In args @DIR@/NAME
    is such a file's path. others: the guests of the Images, which must be built.
    kill_at: (text, milliseconds), or a function of the params that makes them: hv is killed so long after it has printed that text.
    back: one of the files, which hv may change: what it is at the end is in RunResult.back.
    """

    name: str
    guest: str = ""
    args: Union[Sequence[str], Callable] = ()
    params: Optional[Callable] = None
    stdin: Union[bytes, Callable] = b""
    timeout: float = 5.0
    ends: Optional[Sequence[int]] = (HV_OK,)
    command: Union[Sequence[str], Callable] = ()  # instead of `hv run`; or a function of the params that makes it; /bin/hv is hv
    files: Union[dict, Callable] = field(default_factory=dict)
    vm: bool = True  # a virtual machine runs in it, and the witness must have seen it
    hosts: Sequence[str] = (QEMU,)
    others: Sequence[str] = ()
    kill_at: Union[tuple, Callable, None] = None
    back: str = ""


@dataclass(frozen=True)
class Image:
    """One more guest, as a file of a run: its path below build/guests, and the numbers that are patched into it."""

    guest: str
    params: Sequence[int]


@dataclass(frozen=True)
class Checkpoint:
    """One rung of the ladder.

    requirement: what the student's code must do, one or two sentences. hint: shown with a failure unless the failure has a
    better one. verify(results, params): results and params are dicts by the run's name; None, or a Failure. It is called once for
    each host that has a part in this, with the results of the runs there (RunResult.host); all must pass.
    """

    id: str
    title: str
    points: int
    requirement: str
    hint: str
    runs: Sequence[Run]
    verify: Callable
    depends: Sequence[str] = ()


@dataclass(frozen=True)
class Failure:
    """expected and seen: str or bytes."""

    expected: Union[str, bytes]
    seen: Union[str, bytes]
    hint: Optional[str] = None
    run: str = ""  # which run it is about, when there are several
    exact: bool = False  # data that is compared character by character, not two sentences


@dataclass
class Witness:
    """What the test host's kernel counted while the run was going on. No program can print itself into this."""

    exits: int = 0
    reasons: Counter = field(default_factory=Counter)  # exits by the hardware's reason
    pio: Counter = field(default_factory=Counter)  # port writes by the virtual machine, by port
    pio_reads: Counter = field(default_factory=Counter)
    values: dict = field(default_factory=dict)  # port -> Counter of the values written
    lost: int = 0  # events that the kernel could not count

    @staticmethod
    def between(before, after):
        """The difference of two snapshots, as parse_witness() makes them."""
        w = Witness()
        for key, count in after.items():
            count -= before.get(key, 0)
            if count <= 0:
                continue
            if key[0] == "exit":
                w.exits += count
                w.reasons[key[1]] += count
            elif key[0] == "pio":
                _, is_write, port, value = key
                (w.pio if is_write else w.pio_reads)[port] += count
                if is_write:
                    w.values.setdefault(port, Counter())[value] += count
            else:
                w.lost += count
        return w


def parse_witness(text):
    """The runner's 'W' record. Returns (snapshot, was_reset, error or None)."""
    snapshot, reset = {}, False
    for line in text.splitlines():
        word, *rest = line.split()
        if word == "lost":
            return {}, False, " ".join(rest)
        numbers = tuple(int(n) for n in rest)
        if word == "pio":
            snapshot[("pio",) + numbers[:3]] = numbers[3]
        elif word == "exit":
            snapshot[("exit", numbers[0])] = numbers[1]
        elif word == "dropped":
            snapshot[("dropped",)] = snapshot.get(("dropped",), 0) + numbers[0]
        elif word == "reset":
            reset = True
    return snapshot, reset, None


@dataclass
class Capture:
    """An output stream: all of it, or its beginning and its end when it was longer than what is kept."""

    head: bytes = b""
    tail: bytes = b""
    total: int = 0

    @property
    def elided(self):
        return self.total - len(self.head) - len(self.tail)

    @property
    def data(self):
        if not self.elided:
            return self.head + self.tail
        return self.head + b"\n[%d bytes left out]\n" % self.elided + self.tail


@dataclass
class RunResult:
    """What a run showed. Everything in it but the witness was written by the student's program."""

    name: str
    status: Optional[int] = None  # exit status; None when a signal or the grader ended it
    signal: int = 0
    timed_out: bool = False  # the grader ended it (hv's own --timeout is status 124)
    stdout: Capture = field(default_factory=Capture)
    stderr: Capture = field(default_factory=Capture)
    witness: Optional[Witness] = None  # None on a native host
    params: Sequence[int] = ()
    wall_ms: int = 0
    cpu_ms: int = 0
    maxrss_kib: int = 0
    left: int = 0  # processes that outlived the program
    back: Optional[bytes] = None  # the run's file of that name as it is at the end
    host_trouble: str = ""  # the test host died; set only when that is the run's result
    command: Sequence[str] = ()
    host: str = QEMU  # where it ran

    @property
    def output(self):
        return self.stdout.data

    @property
    def lines(self):
        """key=hexvalue lines of the guest, as key -> list of numbers."""
        found = {}
        for line in self.output.split(b"\n"):
            m = _LINE.match(line.rstrip(b"\r"))
            if m:
                found.setdefault(m[1].decode(), []).append(int(m[2], 16))
        return found

    @property
    def stats(self):
        """The line of JSON that hv --stats json ends with, or None."""
        last = self.stderr.data.rstrip().rsplit(b"\n", 1)[-1]
        if not last.startswith(b"{") or len(last) > 65536:
            return None
        try:
            stats = json.loads(last)
        except (ValueError, RecursionError):
            return None
        return stats if isinstance(stats, dict) else None

    @property
    def reason(self):
        """Why hv stopped the VM, in hv's words."""
        reason = (self.stats or {}).get("reason")
        return reason if isinstance(reason, str) else ""


class GraderError(Exception):
    """The grader itself could not work. Never a student's fault, never costs points (exit status 3)."""


class UsageError(Exception):
    """Wrong command line (exit status 2)."""
