"""A job: one program start with its files and limits, and what came of it. The test host and a native host both run these."""

from dataclasses import dataclass, field
from typing import Optional, Sequence

from model import Capture, Witness

CAPTURE = 128 * 1024  # bytes kept of each output stream

# The boot of the test host takes this long, to the point where the first job could start, on the machine that the
# limits were made for. A slower machine multiplies all limits by what it takes longer.
NOMINAL_BOOT_MS = 1500


@dataclass
class Limits:
    seconds: float = 5.0  # hv is told to give up then; the grader waits half as long again, and the grace
    grace: float = 4.0
    memory_mib: int = 768
    file_kib: int = 8 * 1024
    disk_kib: int = 16 * 1024
    open_files: int = 128
    processes: int = 48

    @property
    def wall_ms(self):
        return int((self.seconds * 1.5 + self.grace) * 1000)

    @property
    def cpu_s(self):
        return int(self.seconds * 1.5 + self.grace) + 1


@dataclass
class Job:
    """argv: paths as in the test host. In an argument @DIR@ stands for the directory of the job's files and @SECONDS@ for the
    time limit, scaled to the machine."""

    key: object  # whose job it is; the grader's own
    argv: Sequence[str]
    files: dict = field(default_factory=dict)  # name -> bytes
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)
    # (text, milliseconds): so long after that text on stdout it is killed. Its first character is in it once
    kill_at: Optional[tuple] = None
    back: str = ""  # one of the files: as it is at the end, it comes back


@dataclass
class Outcome:
    code: Optional[int] = None
    signal: int = 0
    timed_out: bool = False
    stdout: Capture = field(default_factory=Capture)
    stderr: Capture = field(default_factory=Capture)
    witness: Optional[Witness] = None
    wall_ms: int = 0
    cpu_ms: int = 0
    maxrss_kib: int = 0
    left: int = 0
    back: Optional[bytes] = None  # of Job.back
    host_trouble: str = ""  # a sentence: the test host died twice while this job ran
    grader_trouble: str = ""  # a sentence: the job could not be run through no fault of its own
