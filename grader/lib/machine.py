"""One boot of a test host: starting it, reading its records, ending it. QEMU's is here, Bochs' in bochs.py."""

import os
import platform
import resource
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time

from model import GraderError
from snapshot import QemuStart, end_with_parent

MARK = b"TDR1"
MAX_RECORD = 16 << 20
# Ends boots that hang, nothing else: the slowest machine that finishes one in this time is good enough.
BOOT_SECONDS = 240
MEMORY_MIB = 1024
# Work of the kernel's that a test host has no use for: it tests ciphers; it reads certificates; for BPF it reads descriptions of all of
# its types; for tracing it looks up names of enumerations, and which functions could be traced. A third of a boot.
_SKIPPED = (
    "load_system_certificate_list", "load_revocation_certificate_list", "btf_vmlinux_init", "cubictcp_register", "bpf_tcp_ca_kfunc_init",
    "kfunc_init", "bpf_prog_test_run_init", "bpf_rstat_kfunc_init", "bpf_key_sig_kfuncs_init", "ftrace_check_for_weak_functions",
    "ftrace_check_sync", "trace_eval_init", "trace_eval_sync", "init_kprobe_trace", "init_uprobe_trace", "init_blk_tracer",
)
LEAVE_OUT = "cryptomgr.notests initcall_blacklist=" + ",".join(_SKIPPED)
# Nor for defences against a processor's leaks, which it has not, nor for random addresses: QEMU translates code anew when it comes to
# lie at another virtual address, as that of each new process would. Each level of page tables that is not there is one that QEMU need
# not walk, and it walks them after each world switch.
QUICK = "mitigations=off nokaslr norandmaps no5lvl rcupdate.rcu_expedited=1 " + LEAVE_OUT
APPEND = "console=ttyS0 quiet panic=-1 oops=panic " + QUICK
CONSOLE_LIMIT = 64 << 20


class HostDied(Exception):
    """The test host ended or fell silent. The message is a sentence."""

    def __init__(self, sentence, known_fault=False):
        super().__init__(sentence)
        self.known_fault = known_fault  # QEMU's own, whatever ran


class HostRefused(GraderError):
    """The test host itself says that it cannot work."""


def find_compiler():
    """The C compiler for x86-64, which the test hosts are."""
    name = "gcc" if platform.machine() in ("x86_64", "AMD64") else "x86_64-linux-gnu-gcc"
    compiler = shutil.which(name)
    if not compiler:
        raise GraderError("No C compiler for x86-64 was found (%s)." % name)
    return compiler


def _child_setup():
    """The emulator ends with the grader, however that ends, and cannot fill the disk."""
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_FSIZE, (CONSOLE_LIMIT, CONSOLE_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Machine:
    """A running test host. Use it as a context manager. Each kind says how it is started and how bytes get in and out; its files
    are in self._dir, and what the guest's kernel says goes to the file `console` there."""

    program = ""  # the emulator's name, in sentences

    def __init__(self):
        self._process = None
        self._buffer = b""
        self.booted = True  # not when it went on from a snapshot
        self.log = ""  # console and the emulator's messages, once the machine has ended

    def _start(self, messages):
        """Starts it with messages, a file, for what the emulator says. Returns the process."""
        raise NotImplementedError

    def _receive_from(self):
        """What select() waits for."""
        raise NotImplementedError

    def _receive(self):
        """Some bytes that are there; none when the other end is gone."""
        raise NotImplementedError

    def _send(self, data):
        raise NotImplementedError

    def _close(self):
        """Closes the channel."""
        raise NotImplementedError

    def _cause_of_death(self, log):
        """A HostDied when the log tells why it died, or None."""
        raise NotImplementedError

    def _spawn(self, command, messages, pass_fds, stdin=subprocess.DEVNULL, env=None):
        return subprocess.Popen(command, stdin=stdin, stdout=messages, stderr=messages, pass_fds=pass_fds, env=env,
                                preexec_fn=_child_setup, start_new_session=True)

    def __enter__(self):
        self._dir = tempfile.mkdtemp(prefix="trapdoor-")
        try:
            with open(os.path.join(self._dir, "messages"), "wb") as messages:
                self._process = self._start(messages)
        except BaseException:
            shutil.rmtree(self._dir, ignore_errors=True)
            raise
        return self

    def not_started(self):
        """It died before its first job."""

    def kill(self):
        if self._process:
            self._process.kill()

    def __exit__(self, *_):
        self.kill()
        self._process.wait()
        self._close()
        self.log = self._read_log()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _read_log(self):
        parts = []
        for name in ("messages", "console"):
            path = os.path.join(self._dir, name)
            try:
                with open(path, "rb") as f:
                    f.seek(max(0, os.path.getsize(path) - 65536))
                    parts.append(f.read())
            except OSError:
                pass
        return b"\n".join(parts).decode("ascii", "backslashreplace")

    def _died(self):
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = None
        log = self._read_log()
        known = self._cause_of_death(log)
        if known:
            return known
        if "Kernel panic" in log:
            return HostDied("the test host's kernel panicked")
        last = log.strip().splitlines()[-1:] or ["no message"]
        if status:
            return HostDied("%s ended with status %d (%s)" % (self.program, status, last[0]))
        return HostDied("the test host ended (%s)" % last[0])

    def _fill(self, wanted, deadline):
        while len(self._buffer) < wanted:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._receive_from()], [], [], left)[0]:
                raise HostDied("the test host fell silent")
            try:
                data = self._receive()
            except ConnectionError:
                data = b""
            if not data:
                raise self._died()
            self._buffer += data

    def read(self, seconds):
        """The next record, (type, payload). Waits that long for it."""
        deadline = time.monotonic() + seconds
        self._fill(9, deadline)
        if self._buffer[:4] != MARK:
            raise HostDied("the test host sent something that is not a record")
        kind = chr(self._buffer[4])
        (length,) = struct.unpack_from("<I", self._buffer, 5)
        if length > MAX_RECORD:
            raise HostDied("the test host sent a record of %d bytes" % length)
        self._fill(9 + length, deadline)
        payload = self._buffer[9 : 9 + length]
        self._buffer = self._buffer[9 + length :]
        if kind == "F":
            raise HostRefused("The test host cannot work: %s." % payload.decode("ascii", "backslashreplace"))
        return kind, payload

    def answer(self, byte):
        try:
            self._send(byte)
        except OSError:
            raise self._died() from None


class QemuMachine(Machine):
    program = "QEMU"

    def __init__(self, kernel, base, cargo, boot=False):
        super().__init__()
        qemu = shutil.which("qemu-system-x86_64")
        if not qemu:
            raise GraderError("qemu-system-x86_64 is not installed (Debian and Ubuntu: apt install qemu-system-x86).")
        self._qemu = QemuStart(qemu, kernel, base, APPEND, MEMORY_MIB, 2)
        self._cargo, self._boot = cargo, boot

    def _start(self, messages):
        # The channel has no name in the file system, so nobody else on this machine can be at its other end.
        self._channel, theirs = socket.socketpair()
        chardevs = ["file,path=" + os.path.join(self._dir, "console"), "socket,fd=%d" % theirs.fileno()]
        with theirs, self._qemu.command(self._dir, self._cargo, chardevs, self._boot) as (command, fds, self.booted):
            return self._spawn(command, messages, [theirs.fileno(), *fds])

    def not_started(self):
        if not self.booted:
            self._qemu.forget()

    def _receive_from(self):
        return self._channel

    def _receive(self):
        return self._channel.recv(1 << 16)

    def _send(self, data):
        self._channel.sendall(data)

    def _close(self):
        self._channel.close()

    def _cause_of_death(self, log):
        if "qemu_mutex_iothread_locked" in log:
            return HostDied("QEMU aborted in its own code (qemu_mutex_iothread_locked, a fault of QEMU 7.2)", True)
        return None
