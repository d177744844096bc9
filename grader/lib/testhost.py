"""The test hosts: run jobs in as few boots as possible and go on when the host dies under one of them.

Each boot gets an initramfs with the runner (grader/testhost), the KVM modules, the program under test, and the jobs that are
still to be done.
"""

import os
import shutil
import struct
import subprocess

from bochs import BochsMachine
from elf import libraries
from initramfs import Initramfs
from jobs import CAPTURE, NOMINAL_BOOT_MS, Outcome
from machine import BOOT_SECONDS, HostDied, HostRefused, QemuMachine, find_compiler
from made import made
from model import Capture, GraderError, Witness, parse_witness

FIRST_UID = 2000  # each job of a boot is a user of its own
SILENCE_SECONDS = 60  # beyond the job's own limit
BOOT_ATTEMPTS = 3
KNOWN_FAULT_ATTEMPTS = 4

# Programs of the grader's own that run in the test host, from grader/testhost.
RUNNER = ("runner", "runner.c", "job.c", "witness.c", "mailbox.c", "channel.c")
RESUME = ("resume", "resume.c", "mailbox.c", "channel.c")
TELL = ("tell", "tell.c", "channel.c")
# And programs that a run may name in its command, as /bin/NAME.
TOOLS = {"/bin/netrun": ("netrun", "netrun.c"), "/bin/stage": ("stage", "stage.c", "relay.c")}


def build_program(root, name, *sources):
    """Compiles a program for the test host when it is missing or old. Returns its path."""
    directory = os.path.join(root, "grader", "testhost")
    inputs = [os.path.join(directory, file) for file in sources]

    def compile_it(target):
        done = subprocess.run(
            [find_compiler(), "-std=gnu17", "-O2", "-Wall", "-Wextra", "-static", "-o", target] + inputs,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )
        if done.returncode:
            raise GraderError("The test host's %s could not be compiled:\n" % name + done.stderr[:2000])

    return made(os.path.join(root, "build", "grade", name), inputs + [os.path.join(directory, "runner.h")], compile_it)


# Of a module: type information, the tables with which stack traces are made, and where functions could be traced.
SECTIONS = (".BTF", ".comment", ".orc_unwind", ".orc_unwind_ip", "__mcount_loc")


def stripped_modules(testhost, names, cache, directory="modules"):
    """(file name, path) of those of the kernel's modules that there are, without symbols, type information and signature: checking
    a signature takes longer in an emulated machine than all else that loading a module does. testhost: build/testhost; directory: of
    it, "modules" or "guest". cache: where they are kept."""
    strip = shutil.which(os.path.basename(find_compiler()).replace("gcc", "strip"))
    found = []
    for name in (name + ".ko" for name in names):
        source = os.path.join(testhost, directory, name)

        def strip_it(target, source=source):
            done = subprocess.run([strip, "--strip-unneeded", *("-R" + section for section in SECTIONS), "-o", target, source],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
            if done.returncode:
                raise GraderError("A module of the test host's kernel could not be stripped:\n" + done.stderr[:2000])

        if os.path.exists(source):
            found.append((name, made(os.path.join(cache, name), [source], strip_it) if strip else source))
    return found


def _plan(jobs):
    lines = ["nominal %d" % NOMINAL_BOOT_MS]
    for i, job in enumerate(jobs):
        limits = job.limits
        lines += [
            "job %d" % i, "uid %d" % (FIRST_UID + i), "wall %d" % limits.wall_ms, "cpu %d" % limits.cpu_s,
            "as %d" % limits.memory_mib, "fsize %d" % limits.file_kib, "disk %d" % limits.disk_kib,
            "nofile %d" % limits.open_files, "nproc %d" % limits.processes, "capture %d" % CAPTURE,
        ]
        for arg in job.argv:
            arg = arg.replace("@DIR@", "/job/%d" % i).replace("@SECONDS@", "@SECONDS:%g@" % limits.seconds)
            if "\n" in arg or "\0" in arg:
                raise GraderError("an argument of a run contains a line end: %r" % arg)
            lines.append("arg " + arg)
        if job.stdin:
            lines.append("stdin /input/%d" % i)
        if job.kill_at:
            lines.append("killat %d %s" % (job.kill_at[1], job.kill_at[0]))
        if job.back:
            lines.append("back " + job.back)
        lines.append("end")
    return ("\n".join(lines) + "\n").encode()


BLOCK = 4096


def _changed(original, payload):
    """A file after a job, from what it was and the record of its changes (testhost/job.c)."""
    (size,) = struct.unpack_from("<Q", payload)
    data = bytearray(original)
    for at in range(8, len(payload), 8 + BLOCK):
        (where,) = struct.unpack_from("<Q", payload, at)
        data[where : where + BLOCK] = payload[at + 8 : at + 8 + BLOCK]
    return bytes(data[:size])


def _capture(payload, total):
    (head,) = struct.unpack_from("<I", payload)
    return Capture(payload[4 : 4 + head], payload[4 + head :], total)


class TestHost:
    """programs: path in the jail -> file here. log(text) receives what the boots said on their consoles."""

    has_witness = True
    name = ""
    modules = ()  # of the kernel, as far as it has them
    patience = 1  # of the host's seconds, how many the guest's clock may need for one of its own

    def __init__(self, root, programs, log=lambda text: None):
        self._root = root
        self._dir = os.path.join(root, "build", "testhost")
        if not os.path.exists(self._kernel):
            raise GraderError("The test host's kernel is missing (build/testhost/vmlinuz). Run: make testhost")
        self._log = log
        self._programs = dict(programs)
        for path in programs.values():
            self._programs.update(libraries(path))
        self._runner = build_program(root, *RUNNER)
        self.boots = 0
        self.facts = {}
        self.machine = None  # of the present boot
        self._stopped = False

    @property
    def _kernel(self):
        return os.path.join(self._dir, "vmlinuz")

    def _machine(self, base, cargo, boot):
        """A Machine with what these two archives hold. boot: it must not go on from a snapshot."""
        raise NotImplementedError

    def _base(self):
        """What is the same for all jobs."""
        ramfs = Initramfs()
        ramfs.copy("/init", self._runner, 0o755)
        ramfs.character_device("/dev/console", 5, 1)
        ramfs.directory("/jail")
        for name, path in stripped_modules(self._dir, self.modules, os.path.join(self._root, "build", "grade", "modules")):
            ramfs.copy("/modules/" + name, path)
        return ramfs.bytes()

    def _cargo(self, jobs):
        ramfs = Initramfs()
        for path, source in self._programs.items():
            ramfs.copy("/jail" + path, source, 0o755)
        ramfs.file("/plan", _plan(jobs), 0o600)
        ramfs.directory("/input", 0o700)
        for i, job in enumerate(jobs):
            ramfs.directory("/jail/job/%d" % i, 0o700)
            for name, data in job.files.items():
                # Its own copies, disks for its guest among them: nobody else reaches the directory.
                ramfs.file("/jail/job/%d/%s" % (i, name), data, 0o666)
            if job.stdin:
                ramfs.file("/input/%d" % i, job.stdin)
        return ramfs.bytes()

    def stop(self):
        """Ends what runs, from another thread; run() returns soon."""
        self._stopped = True
        if self.machine:
            self.machine.kill()

    def run(self, jobs, wanted, done, started=lambda job: None):
        """Runs all jobs for which wanted(job), asked right before its turn, is true. Calls done(job, outcome) after each.
        A job under which the host dies is run once more, alone, before the host's death counts as its outcome."""
        pending, deaths = list(jobs), {}
        boot_failures, known_faults = 0, 0
        alone = False
        while pending and not self._stopped:
            batch = pending[:1] if alone else pending
            finished, running, death = self._boot(batch, wanted, done, started, boot_failures > 0)
            pending = [job for job in pending if job not in finished]
            alone = False
            if not death or self._stopped:
                continue
            self._log("The test host died: %s\n" % death)
            if running is None:
                self.machine.not_started()
                boot_failures += 1
                if boot_failures >= BOOT_ATTEMPTS:
                    raise GraderError("The test host did not start in %d attempts; the last time: %s." % (boot_failures, death))
                continue
            if death.known_fault and known_faults < KNOWN_FAULT_ATTEMPTS:
                known_faults += 1
                alone = True
                continue
            deaths[id(running)] = deaths.get(id(running), 0) + 1
            if deaths[id(running)] == 1:
                alone = True
                continue
            pending.remove(running)
            sentence = "the test host died twice while this ran, the second time with nothing else: %s" % death
            if death.known_fault:
                done(running, Outcome(grader_trouble=sentence))
            else:
                done(running, Outcome(host_trouble=sentence))

    def _boot(self, jobs, wanted, done, started, boot):
        """One boot, or, if boot is false, a snapshot's. Returns (finished jobs, the job that was running or None, HostDied or None)."""
        finished, running, death = [], None, None
        machine = self.machine = self._machine(self._base(), self._cargo(jobs), boot)
        self.boots += 1
        try:
            with machine:
                if self._stopped:  # before there was anything to kill
                    raise HostDied("the test host was stopped")
                kind, payload = machine.read(BOOT_SECONDS)
                if kind != "H":
                    raise HostDied("the test host began with a record of kind %s" % kind)
                self.facts = dict(line.split("=", 1) for line in payload.decode("ascii", "replace").splitlines())
                base = self._witness(machine, {})[1]
                while len(finished) < len(jobs):
                    kind, payload = machine.read(SILENCE_SECONDS)
                    if kind != "?":
                        raise HostDied("the test host sent a record of kind %s out of order" % kind)
                    index, wall_ms = (int(n) for n in payload.split())
                    job = jobs[index]
                    if not wanted(job):
                        machine.answer(b"s")
                        finished.append(job)
                        continue
                    running = job
                    started(job)
                    machine.answer(b"g")
                    outcome, base = self._outcome(machine, wall_ms / 1000 * self.patience + SILENCE_SECONDS, base, job)
                    running = None
                    finished.append(job)
                    done(job, outcome)
        except HostDied as died:
            death = died
        finally:
            self._log(machine.log)
        return finished, running, death

    def _witness(self, machine, base, seconds=SILENCE_SECONDS):
        kind, payload = machine.read(seconds)
        if kind != "W":
            raise HostDied("the test host sent a record of kind %s where its counts belong" % kind)
        snapshot, reset, error = parse_witness(payload.decode("ascii", "replace"))
        if error:
            raise HostRefused("The test host lost sight of KVM's events (%s), so nothing can be proven." % error)
        difference = Witness.between(base, snapshot)
        if reset:
            snapshot = {key: count for key, count in snapshot.items() if key[0] == "exit"}
        return difference, snapshot

    def _outcome(self, machine, seconds, base, job):
        streams = []
        for expected in "OE":
            kind, payload = machine.read(seconds)
            if kind != expected:
                raise HostDied("the test host sent a record of kind %s out of order" % kind)
            streams.append(payload)
        back = None
        if job.back:
            kind, payload = machine.read(SILENCE_SECONDS)
            if kind != "D":
                raise HostDied("the test host sent a record of kind %s out of order" % kind)
            back = _changed(job.files[job.back], payload)
        witness, base = self._witness(machine, base)
        kind, payload = machine.read(SILENCE_SECONDS)
        if kind != "R":
            raise HostDied("the test host sent a record of kind %s out of order" % kind)
        facts = dict(line.split("=", 1) for line in payload.decode("ascii", "replace").splitlines())
        number = {key: int(value) for key, value in facts.items() if key != "setup_what"}
        outcome = Outcome(
            code=number["code"] if number["code"] >= 0 and not number["timed_out"] else None,
            signal=0 if number["timed_out"] else number["signal"],
            timed_out=bool(number["timed_out"]),
            stdout=_capture(streams[0], number["stdout_total"]),
            stderr=_capture(streams[1], number["stderr_total"]),
            witness=witness, wall_ms=number["wall_ms"], cpu_ms=number["cpu_ms"], maxrss_kib=number["maxrss_kib"],
            left=number["left"], back=back,
        )
        if number["setup_errno"]:
            outcome.grader_trouble = "the program could not be started in the test host (%s: %s)" % (
                facts["setup_what"], os.strerror(number["setup_errno"]))
        return outcome, base


class QemuHost(TestHost):
    """QEMU without acceleration: an AMD processor with SVM and nested paging."""

    name = "qemu"
    modules = ("irqbypass", "ccp", "kvm", "kvm-amd")

    def _machine(self, base, cargo, boot):
        return QemuMachine(self._kernel, base, cargo, boot)


class BochsHost(TestHost):
    """Bochs: an Intel processor with VMX and EPT."""

    name = "bochs"
    modules = ("irqbypass", "kvm", "kvm-intel")
    patience = 10  # its clock counts instructions, however long they take

    def _machine(self, base, cargo, boot):
        return BochsMachine(self._root, self._kernel, base + bytes(-len(base) % 4) + cargo)


HOSTS = {host.name: host for host in (QemuHost, BochsHost)}
