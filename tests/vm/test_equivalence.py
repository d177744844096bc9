"""Equivalence, Popek and Goldberg's first requirement: a guest does the same on the trap engine, on the kvm engine and on bare
QEMU, where there is no hypervisor of ours: the same output, the same end.

Every guest in build/guests takes part, with the parameters of every checkpoint that uses it; where one may differ is in EXCEPTIONS
with the reason. TRAPDOOR_SEED=N fixes the parameters.
"""

import concurrent.futures
import json
import pathlib
import random
import re
import tempfile
import unittest
from dataclasses import dataclass

import host

import elf  # of the grader, whose directory host.py put on the path
import ladder

# Command line, input, and what the kernel prints before it wants that.
KERNEL_OPTIONS = (("", b"", b""), ("quiet procs=4", b"", b""), ("procs=0", b"", b""), ("procs=8", b"", b""),
                  ("echo procs=1", b"backwards\r", b"type a line:"))
SECONDS = 12  # for hv and for QEMU; more than any guest needs that ever ends
EVERYTHING = ".*"


@dataclass(frozen=True)
class Difference:
    """What is not compared, and why."""

    case: str  # regular expressions: the case's name,
    engines: str  # the engine that the trap engine is compared with,
    lines: str  # and the lines of output; EVERYTHING: the end is not compared either
    reason: str

    def concerns(self, name, engine):
        return re.fullmatch(self.case, name) and re.fullmatch(self.engines, engine)


TCG = "kvm|qemu"  # the test host's processor is QEMU's TCG as well
EXCEPTIONS = (
    Difference("1.22-.*", TCG, EVERYTHING, "popf.c shows the violation: popf loses IF, pushf hides IOPL; --patch on repairs it"),
    Difference("1.20-.*", TCG, EVERYTHING, "cpuid.c: which leaves and features there are is each hypervisor's policy"),
    Difference("1.19-loop", TCG, EVERYTHING, "preempt.c reports how far a loop came until the clock ticked"),
    Difference("1.9-msr", TCG, "tsc[ab]=.*", "the time stamp counter"),
    Difference("1.9-msr", TCG, "(reset)?pat.*", "TCG does not switch the PAT between a nested guest and its host"),
    Difference("1.6-cr", "qemu", r"cr3(old|r)\.rdx=.*", "each loader puts its page tables elsewhere"),
    Difference("1.7-dr", TCG, r"r[4-7][a-z]?\..*", "TCG keeps bits of DR6 and DR7 that are always 0 (SDM vol. 3, figure 17-1)"),
    Difference("1.10-segments", TCG, EVERYTHING,
               "TCG reads 32 bits for LFS and LGS with REX.W, as AMD's CPUs do, and applies the limit of a "
               "64-bit code segment to far calls with 32-bit operands"),
    Difference("1.12-dr_fault", TCG, EVERYTHING, "TCG has no general-detect exception (DR7.GD)"),
    Difference("1.12-msr_fault", TCG, EVERYTHING, "TCG refuses neither MSRs that do not exist nor addresses that are not canonical"),
    Difference("1.12-seg_fault", TCG, EVERYTHING, "TCG takes a null selector in LTR and addresses that are not canonical in LGDT and LIDT"),
    Difference(".*-manual", TCG, EVERYTHING, "trials that follow the manuals where TCG does not: error codes of gates (the vector "
               "times 16 instead of 8, never EXT), SS after a switch by IST, status flags after SYSCALL, a second shadow "
               "behind the one of STI"),
    Difference("1.13-traps", "kvm", r"rep\d*\..*", "KVM emulates OUTS itself, and takes all elements for one single step"),
    Difference("1.14-ring3", "qemu", r"map\w*\.rax=.*", "ports that nothing answers under hv; QEMU's PC has more devices"),
    Difference("1.18-interrupts", "qemu", EVERYTHING,
               "without nesting TCG looks at interrupts only between blocks of instructions, so those "
               "that an OUT raises come later"),
    Difference("bench", TCG, EVERYTHING, "bench.elf measures time"),
)


def comparable(name, engine, output):
    """The lines of output that count, with what is known to be shown differently made equal."""
    lines = output.replace(b"\r\n", b"\n").decode(errors="replace").splitlines()
    for exception in EXCEPTIONS:
        if exception.concerns(name, engine):
            lines = [line for line in lines if not re.fullmatch(exception.lines, line)]

    def without(bits, match):
        return f"{match[1]}={int(match[2], 16) & ~bits:x}"

    # RF in a frame: TCG does not set it (SDM vol. 3, 17.3.1.1). IOPL in flags that a handler saw: a deprivileged pushf hides it.
    lines = [re.sub(r"(\w+\.frame)=([0-9a-f]+)", lambda m: without(1 << 16, m), line) for line in lines]
    return [re.sub(r"(\w+\.entry)=([0-9a-f]+)", lambda m: without(3 << 12, m), line) for line in lines]


@dataclass(frozen=True)
class Case:
    guest: str  # below build/guests
    params: tuple = ()
    append: str = ""
    stdin: bytes = b""
    prompt: bytes = b""

    def image(self):
        data = (host.GUESTS / self.guest).read_bytes()
        return elf.patch_params(data, list(self.params), self.guest) if self.params else data


def cases(seed):
    """name -> Case: what the checkpoints run, then every guest that they did not run."""
    found = {}
    _, checkpoints = ladder.load(str(host.TOP / "labs/01-trap-emulate"))
    for checkpoint in checkpoints:
        for run in checkpoint.runs:
            if not run.guest or callable(run.args):
                continue
            params = tuple(ladder.make_params(checkpoint, run, seed))
            stdin = run.stdin(list(params)) if callable(run.stdin) else run.stdin
            case = Case(run.guest, params, stdin=stdin)
            if case not in found.values():
                found[f"{checkpoint.id}-{run.name}"] = case
    for number, (append, stdin, prompt) in enumerate(KERNEL_OPTIONS):
        found[f"kernel-{number}"] = Case("kernel.elf", append=append, stdin=stdin, prompt=prompt)
    used = {case.guest for case in found.values()}
    for path in sorted(host.GUESTS.rglob("*.elf")):
        name = str(path.relative_to(host.GUESTS))
        if name not in used:
            found[path.stem] = Case(name)
    return found


def end_of(result):
    """How the guest ended: the number it exited with, "reset", or "never" when it was stopped from outside or waits for ever."""
    if result.status is None or result.status == host.TIMEOUT:
        return "never"
    if result.argv[0].startswith("qemu"):
        return "reset" if result.status == 0 else f"exit {result.status >> 1}"
    stats = json.loads(result.stderr.splitlines()[-1])
    if result.status in (host.OK, host.GUEST_FAILED):
        return f"exit {stats['guest_code'] & 0x7f}"  # what QEMU's exit status leaves of it
    if result.status == host.STOPPED and "triple fault" in stats["reason"]:
        return "reset"
    return "never" if "nothing can ever wake it" in stats["reason"] else f"hv's status {result.status}: {stats['reason']}"


class TestEquivalence(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.seed = host.seed_from_environment(random)
        print(f"equivalence test: TRAPDOOR_SEED={cls.seed}")
        cls.cases = cases(cls.seed)
        commands, files, images = {}, [host.HV], {}
        with tempfile.TemporaryDirectory() as directory:
            for name, case in cls.cases.items():
                images[name] = pathlib.Path(directory, f"{name}.elf")
                images[name].write_bytes(case.image())
                files.append(images[name])
                for engine in ("trap", "kvm"):
                    commands[name, engine] = host.Command(
                        ["hv", "run", "--engine", engine, "--stats", "json", "--timeout", str(SECONDS), "--append", case.append,
                         images[name].name], stdin=case.stdin)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                bare = {name: pool.submit(host.qemu, images[name], case.append, case.stdin, case.prompt, seconds=SECONDS)
                        for name, case in cls.cases.items()}
                cls.results = host.run(commands, files)
                cls.results.update({(name, "qemu"): future.result() for name, future in bare.items()})

    def test_all_engines_agree(self):
        for name, case in self.cases.items():
            trap = self.results[name, "trap"]
            for engine in ("kvm", "qemu"):
                other = self.results[name, engine]
                with self.subTest(case=name, guest=case.guest, engine=engine, seed=self.seed):
                    self.assertEqual(comparable(name, engine, trap.stdout), comparable(name, engine, other.stdout))
                    if not any(e.lines == EVERYTHING and e.concerns(name, engine) for e in EXCEPTIONS):
                        self.assertEqual(end_of(trap), end_of(other), f"{trap.stderr}\n{other.stderr}")

    def test_no_engine_crashes(self):
        for key, result in self.results.items():
            with self.subTest(case=key):
                self.assertNotRegex(result.stderr, host.CRASH)
                if key[1] != "qemu":
                    self.assertIn(result.status, host.DOCUMENTED)

    def test_every_guest_takes_part(self):
        built = {str(path.relative_to(host.GUESTS)) for path in host.GUESTS.rglob("*.elf")}
        self.assertEqual({case.guest for case in self.cases.values()}, built)
        self.assertIn("kernel.elf", built)

    def test_every_exception_is_needed(self):
        for exception in EXCEPTIONS:
            if exception.case == "bench":  # built by `make bench` only
                continue
            with self.subTest(exception.reason):
                self.assertTrue(any(exception.concerns(name, engine) for name, engine in self.results))


if __name__ == "__main__":
    unittest.main()
