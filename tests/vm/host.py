"""What the tests of virtual machines share: building, many commands in one boot of the test host, guests on bare QEMU.

Every command's output comes back compressed and in base64 (usage.c), so that a guest may print whatever it likes.
"""

import base64
import os
import pathlib
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field

TOP = pathlib.Path(__file__).resolve().parents[2]
HV = TOP / "build/reference/hv"
HV_SAN = TOP / "build/san-reference/hv"
GUESTS = TOP / "build/guests"
VM_GUESTS = TOP / "build/vm"

sys.path.insert(0, str(TOP / "grader/lib"))
from bochs import installed as bochs_installed  # noqa: E402,F401

# Exit statuses of hv (labs/common/hv/vm.h).
OK, GUEST_FAILED, USAGE, HOST, STOPPED, TODO, TIMEOUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 124, 130
DOCUMENTED = {OK, GUEST_FAILED, USAGE, HOST, STOPPED, TODO, TIMEOUT, INTERRUPTED}

# What the sanitizers and a crash of hv leave on stderr.
CRASH = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error:|crashed in its own code|"
                   r"Segmentation fault|Aborted|core dumped|hv: bug")

BOOTS = 3  # of the test host for one set of commands


@dataclass
class Command:
    """argv in the test host, where the files that go along are in the working directory and on the search path."""

    argv: list
    stdin: bytes = b""
    limit: int = 60  # seconds after which it is killed, by SIGALRM


@dataclass
class Result:
    status: int  # None when a signal ended it, or, with QEMU, when it was stopped
    stdout: bytes
    stderr: str
    signal: int = 0
    maxrss_kib: int = 0  # the largest resident set
    argv: list = field(default_factory=list)

    @property
    def sentences(self):
        """hv's own words: the lines of stderr that begin with its name."""
        return [line for line in self.stderr.splitlines() if line.startswith("hv: ")]


def build(*targets):
    """Makes targets of the Makefile, quickly when everything is up to date."""
    files = ["-f", "Makefile", "-f", "tests/vm/vm.mk"]
    for target in targets:
        done = subprocess.run(["make", "-s", *files, *target.split()], cwd=TOP, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"make {target} failed:\n{done.stdout}{done.stderr}")


def _results(console, commands):
    pattern = r"^@case (\d+) (exit|signal) (\d+) rss (\d+) out (\d+)\n(.*)\n@end$"
    names, found = list(commands), {}
    for number, how, value, rss, length, packed in re.findall(pattern, console, re.M):
        name, written = names[int(number)], zlib.decompress(base64.b64decode(packed))
        out, err = written[: int(length)], written[int(length) :]
        found[name] = Result(int(value) if how == "exit" else None, out, err.decode(errors="replace"),
                             int(value) if how == "signal" else 0, int(rss), commands[name].argv)
    return found


def _boot(commands, files, mem, timeout, which="qemu"):
    script = ""
    for number, (name, command) in enumerate(commands.items()):
        stdin = f"printf %b {shlex.quote(''.join(f'{chr(92)}0{byte:03o}' for byte in command.stdin))} | " if command.stdin else ""
        script += f"{stdin}/bin/usage {number} {command.limit} {shlex.join(map(str, command.argv))}\n"
    arguments = [word for file in [*files, f"{VM_GUESTS / 'usage'}:/bin/usage"] for word in ("--file", str(file))]
    argv = [TOP / "scripts/testhost-run", "--host", which, "--mem", str(mem), "--timeout", f"{timeout:g}", *arguments, "--", script]
    output, trouble = watch(argv, quiet=max(command.limit for command in commands.values()) + 30)
    console = output.decode(errors="replace").replace("\r\n", "\n")
    return _results(console, commands), console[-2000:] + trouble


def watch(argv, quiet):
    """Runs the test host. Returns (its output, what went wrong). It is stopped when it says nothing for so many seconds, in which any
    command would have ended: QEMU's emulated SVM can lose the timer interrupt that the machine then waits for, for ever."""
    output, trouble = bytearray(), ""
    with tempfile.TemporaryFile() as err:
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err) as process:
            while True:
                if not select.select([process.stdout], [], [], quiet)[0]:
                    trouble = f"the test host said nothing for {quiet} seconds and was stopped\n"
                    process.terminate()  # it ends its QEMU
                    break
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    break
                output += data
        err.seek(0)
        return bytes(output), trouble + err.read().decode(errors="replace")[-2000:]


def run(commands, files, mem=512, timeout=300, which="qemu"):
    """Runs commands (name -> Command) one after another in one boot of the test host (which: qemu or bochs). Returns name -> Result.

    The QEMU that the test host runs in can abort when a nested guest writes CR8 while an interrupt is pending, and can lose a timer
    interrupt. That is not the guest's fault, so what was not reached then is tried again.
    """
    results, trouble = {}, ""
    for _ in range(BOOTS):
        missing = {name: command for name, command in commands.items() if name not in results}
        if not missing:
            return results
        found, trouble = _boot(missing, files, mem, timeout, which)
        results.update(found)
    missing = [name for name in commands if name not in results]
    if missing:
        raise RuntimeError(f"the test host did not come to: {', '.join(map(str, missing))}\n{trouble}")
    return results


def qemu(image, append="", stdin=b"", prompt=b"", mem=64, seconds=60.0):
    """A guest on bare QEMU: no hypervisor of ours. Serial port and debug console go to the same place, as under hv.

    Input is typed once the guest has printed prompt, because QEMU's serial port loses what comes before the guest has set it up.
    The status is QEMU's: 2N+1 for exit code N, 0 for a reset, None when it was stopped. A .bin is a disk that the BIOS starts.
    """
    disk = ["-drive", f"file={image},format=raw,if=ide,snapshot=on"]
    kernel = ["-kernel", str(image), "-append", append]
    command = ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", str(mem), "-nodefaults", "-nic", "none",
               "-vga", "none", "-display", "none", "-no-reboot", "-chardev", "stdio,id=console,mux=on,signal=off",
               "-device", "isa-debugcon,iobase=0xe9,chardev=console",
               "-device", "isa-serial,index=0,chardev=console",  # the last has the input
               "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *(disk if str(image).endswith(".bin") else kernel)]
    end = time.monotonic() + seconds
    with tempfile.NamedTemporaryFile() as out, tempfile.TemporaryFile() as err:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err) as process:
            while process.poll() is None and time.monotonic() < end:
                if stdin and prompt in pathlib.Path(out.name).read_bytes():
                    process.stdin.write(stdin)
                    process.stdin.flush()
                    stdin = b""
                time.sleep(0.02)
            status = process.poll()
            process.kill()
        out.seek(0)
        err.seek(0)
        return Result(status, out.read(), err.read().decode(errors="replace"), argv=command)


def seed_from_environment(random):
    """A fresh seed, or TRAPDOOR_SEED."""
    return int(os.environ.get("TRAPDOOR_SEED") or random.SystemRandom().randrange(1, 1 << 32))
