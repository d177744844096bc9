"""How QEMU's test host starts: where an earlier one, that had booted as far as its first job, was saved. That takes a tenth of a boot.

A snapshot is made once for each kind of test host and lies beside the kernel, in snapshot-KEY/: `ram`, the file that was the
machine's memory, and `state`, the rest of the machine. Whoever starts from it maps `ram` privately, so many can do so at a time.
The guest's half is testhost/mailbox.c: what the job needs (an archive, the time, random bytes) lies in a second piece of memory that
the kernel was told to leave alone, and is not part of the snapshot.

Where a snapshot cannot be made or would not do, the machine boots, with one archive behind the other. TRAPDOOR_SNAPSHOT=0 asks for that.
One from which a machine did not get as far as its first job is removed.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

MAILBOX = 256 << 20  # bytes; of the file behind it only what is written takes up space
MEMORY_END = 3 << 30  # the memory of QEMU's PC goes on above 4 GiB then
MAGIC = b"TDRMAIL1"
HEADER = "<8sQQ32s"  # magic, length of the archive behind it, nanoseconds since 1970, random bytes
READY = b"TDR1S"  # how the record begins that says: save me (testhost/channel.c)
BOOT_SECONDS = 240
SAVE_SECONDS = 60
ATTEMPTS = 3
KEPT = 10  # snapshots: more than there are kinds of test host
PR_SET_PDEATHSIG = 1
IRQS = (4, 3, 5)  # of the serial ports; by convention the third shares the first one's


def end_with_parent():
    """For a process that is about to become an emulator: it ends with its parent, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class QemuStart:
    """One kind of test host. base: the archive with its process 1, the same for every job. ports: how many serial ports there are;
    what comes out of them is not part of the kind."""

    def __init__(self, qemu, kernel, base, append, memory_mib, ports):
        self._qemu, self._kernel, self._base, self._append, self._mib, self._ports = qemu, kernel, base, append, memory_mib, ports
        self._used = None  # the directory of the snapshot that was used last

    @contextlib.contextmanager
    def command(self, directory, cargo, chardevs, boot=False):
        """(QEMU's command line, descriptors that it needs, whether it boots). directory: for the files that it needs. cargo: the job's
        archive. chardevs: the back end of each serial port, without id. boot: without a snapshot in any case."""
        fits = self._mib + (MAILBOX >> 20) <= MEMORY_END >> 20 and len(cargo) + struct.calcsize(HEADER) <= MAILBOX
        asked = os.environ.get("TRAPDOOR_SNAPSHOT") != "0"
        snapshot = self._snapshot() if fits and asked and not boot else None
        if not snapshot:
            initrd = os.path.join(directory, "initrd")
            with open(initrd, "wb") as f:
                f.write(self._base + bytes(-len(self._base) % 4) + cargo)
            yield self._machine(chardevs) + ["-m", str(self._mib)] + self._linux(initrd), [], True
            return
        mailbox = os.path.join(directory, "mailbox")
        with open(mailbox, "wb") as f:
            f.write(struct.pack(HEADER, MAGIC, len(cargo), time.time_ns(), os.urandom(32)) + cargo)
            f.truncate(MAILBOX)
        with contextlib.ExitStack() as files:
            # By descriptor: whoever makes a newer snapshot removes this one's files.
            ram, state = (files.enter_context(file) for file in snapshot)
            # Both ends of the connection that QEMU gets its orders by are QEMU's: nobody need listen to what it answers.
            ours, theirs = (files.enter_context(end) for end in socket.socketpair())
            orders = (*PREPARE, ("migrate-incoming", {"uri": "fd:%d" % state.fileno()}))
            ours.sendall(b"".join(_order(name, **arguments) for name, arguments in orders))
            yield (self._machine(chardevs) + self._memory("/proc/self/fd/%d" % ram.fileno(), "off", mailbox) +
                   ["-incoming", "defer", *_control(theirs)], [file.fileno() for file in (ram, state, ours, theirs)], False)

    def _machine(self, chardevs):
        """All but the memory and what runs there."""
        command = [self._qemu, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-nic", "none",
                   "-vga", "none", "-display", "none", "-no-reboot",
                   "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
        for n, chardev in enumerate(chardevs):
            kind, _, rest = chardev.partition(",")
            command += ["-chardev", "%s,id=port%d%s" % (kind, n, rest and "," + rest),
                        "-device", "isa-serial,chardev=port%d,index=%d,irq=%d" % (n, n, IRQS[n])]
        return command

    def _linux(self, initrd, more=""):
        return ["-kernel", self._kernel, "-initrd", initrd, "-append", self._append + more]

    def _memory(self, ram, share, mailbox):
        """The machine's memory and, right behind it, the mailbox. What is shared is not saved."""
        return ["-m", str(self._mib + (MAILBOX >> 20)),
                "-object", "memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s" % (self._mib, ram, share),
                "-object", "memory-backend-file,id=mailbox,size=%d,mem-path=%s,share=on" % (MAILBOX, mailbox),
                "-numa", "node,nodeid=0,memdev=ram", "-numa", "node,nodeid=1,memdev=mailbox"]

    def _key(self):
        """Changes with everything that the snapshot depends on. The machine's clock runs with this one's, so a snapshot is of no use
        on another machine, or after this one has been started again."""
        parts = [self._base, self._append.encode(), b"%d %d %d" % (self._mib, self._ports, MAILBOX)]
        for path in (self._qemu, self._kernel, __file__):
            status = os.stat(path)
            parts.append(("%s %d %d" % (os.path.realpath(path), status.st_size, status.st_mtime_ns)).encode())
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            parts.append(f.read())
        return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]

    def _snapshot(self):
        """The open files of this kind's snapshot, which is made if there is none; None when it cannot be made."""
        with contextlib.suppress(OSError):
            home = os.path.dirname(os.path.realpath(self._kernel))
            directory = os.path.join(home, "snapshot-" + self._key())
            with open(os.path.join(home, "snapshot.lock"), "w", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.path.isdir(directory):
                    self._make(home, directory)
                self._used = directory
                return [open(os.path.join(directory, name), mode) for name, mode in (("ram", "r+b"), ("state", "rb"))]
        return None  # also when an earlier attempt failed: then the directory is empty

    def forget(self):
        """The snapshot that was used last did not get as far as a job. The next one who wants it makes another one."""
        if self._used:
            shutil.rmtree(self._used, ignore_errors=True)

    def _make(self, home, directory):
        """Leaves an empty directory when it does not work, so that it is not tried for ever."""
        for name in os.listdir(home):  # of one who was ended meanwhile
            if name.startswith("snapshot-new."):
                shutil.rmtree(os.path.join(home, name), ignore_errors=True)
        new = tempfile.mkdtemp(prefix="snapshot-new.", dir=home)
        if not any(self._save(new) for _ in range(ATTEMPTS)):
            for name in os.listdir(new):
                os.unlink(os.path.join(new, name))
        others = sorted((os.path.join(home, name) for name in os.listdir(home) if re.fullmatch("snapshot-[0-9a-f]{16}", name)),
                        key=os.path.getmtime)
        for path in others[: -KEPT + 1]:
            shutil.rmtree(path, ignore_errors=True)
        os.rename(new, directory)

    def _save(self, directory):
        """Boots and saves. False when that fails."""
        names = [os.path.join(directory, name) for name in ("ram", "state", "mailbox", "initrd")]
        ram, state, mailbox, initrd = names
        for path, size in ((ram, self._mib << 20), (mailbox, MAILBOX)):
            with open(path, "wb") as f:
                f.truncate(size)
        with open(initrd, "wb") as f:
            f.write(self._base)
        port, port_in = socket.socketpair()
        control, control_in = socket.socketpair()
        chardevs = ["null", "socket,fd=%d" % port_in.fileno(), "null"][: self._ports]
        # Page tables for the mailbox, and nothing else, are what the kernel has of it.
        reserve = " memmap=%d$%d mailbox=%d" % (MAILBOX, self._mib << 20, self._mib << 20)
        with port, control, port_in, control_in, open(state, "wb") as out:
            process = subprocess.Popen(
                self._machine(chardevs) + self._memory(ram, "on", mailbox) + self._linux(initrd, reserve) +
                _control(control_in),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[port_in.fileno(), control_in.fileno()], preexec_fn=end_with_parent, start_new_session=True)
            port_in.close()
            control_in.close()
            try:
                return _ready(port) and _migrate(control, out.fileno())
            except (OSError, ValueError, KeyError):
                return False
            finally:
                process.kill()
                process.wait()
                os.unlink(mailbox)
                os.unlink(initrd)


# What both sides of a snapshot are told by QEMU's machine protocol, QMP.
PREPARE = (("qmp_capabilities", {}), ("migrate-set-capabilities", {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}))


def _order(name, **arguments):
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


def _control(end):
    return ["-chardev", "socket,id=control,fd=%d" % end.fileno(), "-mon", "chardev=control,mode=control"]


def _ready(port):
    """Waits until the machine says that it can be saved."""
    port.settimeout(BOOT_SECONDS)
    came = b""
    while len(came) < len(READY):
        data = port.recv(64)
        if not data:
            return False
        came += data
    return came.startswith(READY)


def _migrate(control, out):
    """Writes the state to a file. The machine runs until it has been written, so that it also runs
    when it goes on from there."""
    control.settimeout(SAVE_SECONDS)
    deadline = time.monotonic() + SAVE_SECONDS
    with control.makefile("r", encoding="utf-8") as answers:

        def ask(name, fds=(), **arguments):
            socket.send_fds(control, [_order(name, **arguments)], fds)
            while True:
                answer = json.loads(answers.readline())
                if "error" in answer:
                    raise ValueError(answer["error"])
                if "return" in answer:
                    return answer["return"]

        answers.readline()  # its greeting
        for name, arguments in PREPARE:
            ask(name, **arguments)
        ask("getfd", [out], fdname="out")
        ask("migrate", uri="fd:out")
        while time.monotonic() < deadline:
            status = ask("query-migrate").get("status")
            if status in ("completed", "failed", "cancelled"):
                return status == "completed"
            time.sleep(0.01)
    return False
