"""One boot of the QEMU test host: starting it, reading its records, ending it."""

import ctypes
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

from model import GraderError

MARK = b"TDR1"
MAX_RECORD = 16 << 20
# Ends boots that hang, nothing else: the slowest machine that finishes one in this time is good enough.
BOOT_SECONDS = 240
MEMORY_MIB = 1024
APPEND = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1"
PR_SET_PDEATHSIG = 1
CONSOLE_LIMIT = 64 << 20


class HostDied(Exception):
    """The test host ended or fell silent. The message is a sentence."""

    def __init__(self, sentence, known_fault=False):
        super().__init__(sentence)
        self.known_fault = known_fault  # QEMU's own, whatever ran


class HostRefused(GraderError):
    """The test host itself says that it cannot work."""


def _child_setup():
    """QEMU ends with the grader, however that ends, and cannot fill the disk."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CONSOLE_LIMIT, CONSOLE_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Machine:
    """A running test host. Use it as a context manager."""

    def __init__(self, kernel, initrd):
        self._qemu = shutil.which("qemu-system-x86_64")
        if not self._qemu:
            raise GraderError("qemu-system-x86_64 is not installed (Debian and Ubuntu: apt install qemu-system-x86).")
        self._kernel, self._initrd = kernel, initrd
        self._buffer = b""
        self.log = ""  # console and QEMU's messages, once the machine has ended

    def __enter__(self):
        self._dir = tempfile.mkdtemp(prefix="trapdoor-")
        self._console = os.path.join(self._dir, "console")
        self._messages = os.path.join(self._dir, "messages")
        initrd = os.path.join(self._dir, "initrd")
        with open(initrd, "wb") as f:
            f.write(self._initrd)
        # The channel has no name in the file system, so nobody else on this machine can be at its other end.
        self._channel, theirs = socket.socketpair()
        command = [
            self._qemu, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config",
            "-nic", "none", "-vga", "none", "-display", "none", "-no-reboot",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-kernel", self._kernel, "-initrd", initrd, "-append", APPEND,
            "-serial", "file:" + self._console,
            "-chardev", "socket,id=results,fd=%d" % theirs.fileno(), "-serial", "chardev:results",
        ]
        with open(self._messages, "wb") as messages:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, pass_fds=[theirs.fileno()],
                preexec_fn=_child_setup, start_new_session=True,
            )
        theirs.close()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self.log = self._read_log()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _read_log(self):
        parts = []
        for path in (self._messages, self._console):
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
        known = "qemu_mutex_iothread_locked" in log
        if known:
            return HostDied("QEMU aborted in its own code (qemu_mutex_iothread_locked, a fault of QEMU 7.2)", True)
        if "Kernel panic" in log:
            return HostDied("the test host's kernel panicked")
        last = log.strip().splitlines()[-1:] or ["no message"]
        if status:
            return HostDied("QEMU ended with status %d (%s)" % (status, last[0]))
        return HostDied("the test host ended (%s)" % last[0])

    def _fill(self, wanted, deadline):
        while len(self._buffer) < wanted:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._channel], [], [], left)[0]:
                raise HostDied("the test host fell silent")
            try:
                data = self._channel.recv(1 << 16)
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
            self._channel.sendall(byte)
        except OSError:
            raise self._died() from None
