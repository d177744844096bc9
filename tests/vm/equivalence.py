"""The same guests on the trap engine, with popf and pushf patched, with its memory shadowed, on the kvm engine and on bare QEMU, and what
of their transcripts must agree. What is not compared is listed in differences.py.
"""

import concurrent.futures
import json
import pathlib
import re
import tempfile
from dataclasses import dataclass, replace

import host

import elf  # of the grader, whose directory host.py put on the path
import ladder
from differences import CACHED, EXCEPTIONS, HVM, HVM_CACHED, HVM_VTLB, KVM, LEFT_OUT, PATCHED, QEMU, VTLB

TRAP = "trap"
# What is compared with what. The patched trap engine meets the kvm engine, because the plain one shows the violation.
PAIRS = {
    KVM: (TRAP, KVM), QEMU: (TRAP, QEMU), PATCHED: (PATCHED, KVM), VTLB: (TRAP, VTLB), CACHED: (TRAP, CACHED), HVM: (KVM, HVM),
    HVM_CACHED: (KVM, HVM_CACHED),
}
HV_OPTIONS = {
    TRAP: ("--engine", "trap"), PATCHED: ("--engine", "trap", "--patch", "on"), KVM: ("--engine", "kvm"),
    VTLB: ("--engine", "trap", "--shadow", "vtlb"), CACHED: ("--engine", "trap", "--shadow", "cached"),
    HVM: ("--engine", "hvm"), HVM_CACHED: ("--engine", "hvm", "--shadow", "cached"),
}

# What runs the kernel that has paging; all of it is compared with bare QEMU.
PAGED_KERNEL = "paging.elf"
PAGED_OPTIONS = {engine: HV_OPTIONS[engine] for engine in (KVM, VTLB, CACHED)}
GUEST_MODE_OPTIONS = {HVM: HV_OPTIONS[HVM], HVM_CACHED: HV_OPTIONS[HVM_CACHED], HVM_VTLB: ("--engine", "hvm", "--shadow", "vtlb")}

# Command line, input, and what the kernel prints before it wants that.
KERNEL_OPTIONS = (("", b"", b""), ("quiet procs=4", b"", b""), ("procs=0", b"", b""), ("procs=8", b"", b""),
                  ("echo procs=1", b"backwards\r", b"type a line:"))
SECONDS = 20  # for hv and for QEMU; more than any guest needs that ever ends, on a machine with other work too
ENDLESS = {"spin": 1}  # and for those that never do
# On bare QEMU one computes for ever behind a probe that TCG cannot go on from (differences.py): its transcript is complete long before.
ENDLESS_BARE = {"1.12-cr-manual": 8}


@dataclass(frozen=True)
class Case:
    guest: str  # below build/guests
    params: tuple = ()
    append: str = ""
    stdin: bytes = b""
    prompt: bytes = b""
    seconds: int = SECONDS
    options: tuple = ()  # more of hv's

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
    for name, (index, _) in LEFT_OUT.items():
        params = list(found[name].params)
        params[index] = 1
        found[f"{name}-rest"] = replace(found[name], params=tuple(params))
    for number, (append, stdin, prompt) in enumerate(KERNEL_OPTIONS):
        found[f"kernel-{number}"] = Case("kernel.elf", append=append, stdin=stdin, prompt=prompt)
    used = {case.guest for case in found.values()} | {PAGED_KERNEL}
    for path in sorted(host.GUESTS.rglob("*.elf")):
        name = str(path.relative_to(host.GUESTS))
        # bench.elf is built by `make bench` only, and prints how long things took; Lab 2's guests want their own tables, Lab 3's
        # a CPU with all modes, Lab 4's and Lab 5's somebody who tells them what to do.
        if name not in used and path.stem != "bench" and path.parent.name not in ("lab2", "lab3", "lab4", "lab5"):
            found[path.stem] = Case(name, seconds=ENDLESS.get(path.stem, SECONDS))
    return found


def paged_cases():
    """name -> Case: the kernel that has paging. It needs no more than 16 MiB, and does the same whatever it gets."""
    found = {f"paging-{number}": Case(PAGED_KERNEL, append=append, stdin=stdin, prompt=prompt)
             for number, (append, stdin, prompt) in enumerate(KERNEL_OPTIONS)}
    found["paging-small"] = Case(PAGED_KERNEL, options=("--mem", "16M"))
    found["paging-only"] = Case(PAGED_KERNEL, append="only=bigfork")
    return found


def run(the_cases, options=(), engines=None):
    """(case's name, engine) -> host.Result, on bare QEMU and on engines: name -> hv's options, else HV_OPTIONS. options: more of hv's."""
    commands, files, images = {}, [host.HV], {}
    with tempfile.TemporaryDirectory() as directory:
        for name, case in the_cases.items():
            images[name] = pathlib.Path(directory, f"{name}.elf")
            images[name].write_bytes(case.image())
            files.append(images[name])
            for engine, how in (engines or HV_OPTIONS).items():
                commands[name, engine] = host.Command(
                    ["hv", "run", *how, *options, *case.options, "--stats", "json", "--timeout", str(case.seconds), "--append", case.append,
                     images[name].name], stdin=case.stdin)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            bare = {name: pool.submit(host.qemu, images[name], case.append, case.stdin, case.prompt,
                                      seconds=ENDLESS_BARE.get(name, case.seconds))
                    for name, case in the_cases.items()}
            results = host.run(commands, files)
            results.update({(name, QEMU): future.result() for name, future in bare.items()})
    return results


def items(output):
    """A transcript as (name, value) of each line `name=value`; the second of a name is name[1]. Other lines are names only."""
    seen, found = {}, []
    for line in output.replace(b"\r\n", b"\n").decode(errors="replace").splitlines():
        match = re.fullmatch(r"([\w.]+)=([0-9a-f]{1,16})", line)
        name, value = (match[1], int(match[2], 16)) if match else (line, None)
        number = seen[name] = seen.get(name, -1) + 1
        found.append((f"{name}[{number}]" if number else name, value))
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


def comparable(result, exceptions):
    """The transcript's items that count and the end, with what the exceptions name left out."""
    left = items(result.stdout)
    end = end_of(result)
    for exception in exceptions:
        if exception.behind:
            first = next((i for i, (name, _) in enumerate(left) if exception.names(name)), len(left))
            left, end = left[:first], "not compared"
        elif exception.bits:
            left = [(name, value & ~exception.bits if value is not None and exception.names(name) else value) for name, value in left]
        else:
            left = [(name, value) for name, value in left if not exception.names(name)]
    return left, end


def concerning(name, engine, exceptions=EXCEPTIONS):
    return [exception for exception in exceptions if exception.concerns(name, engine)]


def compared(results, name, pair, exceptions=EXCEPTIONS):
    """The two transcripts of a pair, as comparable() makes them."""
    those = concerning(name, pair, exceptions)
    return [comparable(results[name, engine], those) for engine in PAIRS[pair]]
