"""Linux as a guest on virtio devices: Debian's kernel (build/testhost/vmlinuz), the drivers that it has as modules, busybox, and a script
that is to run, in an initial RAM disk or on an ext4 file system that the RAM disk only leads to.

The script runs as root with all of busybox; its status is printed as "status N", then the machine is powered off. Everything is made
without root rights.
"""

import functools
import os
import re
import shutil
import struct
import subprocess
import tempfile

from elf import libraries
from initramfs import Initramfs
from model import GraderError
from testhost import build_program, stripped_modules

BUS = ("virtio_ring", "virtio", "virtio_mmio")
# What each of hv's devices needs beside the bus, in the order of loading. One that is built into the kernel has no file, and is skipped.
DRIVERS = {
    "pci": ("virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),  # not hv's: another bus, of other VMMs
    "disk": ("virtio_blk",),
    "net": ("failover", "net_failover", "virtio_net"),
    "rng": ("rng-core", "virtio-rng"),
    "balloon": ("virtio_balloon",),
    "console": ("virtio_console",),
}
# The kernel prints little, and powers a machine off on which it panics.
APPEND = "console=ttyS0 quiet panic=-1"

MOUNT = "mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null\n"
HEAD = """#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin HOME=/ TERM=linux
""" + MOUNT

LOAD = "for m in %s; do insmod /modules/$m || echo \"module $m: failed\"; done\n"

# stty waits until all output has left; poweroff -f does not. Read-only, so that the journal of a root file system is empty at the end.
RUN = """mount -t tmpfs tmp /tmp
cd /tmp
sh /script </dev/null
echo "status $?"
cd /
sync; mount -o remount,ro / 2>/dev/null
stty sane </dev/console
poweroff -f
"""

# A device is there as soon as its driver is loaded, and the file system has a driver in the kernel.
SWITCH = """mount -t ext4 -o %s /dev/vda /root || { echo "no root file system"; poweroff -f; }
umount /proc /sys; mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""


def _busybox():
    path = shutil.which("busybox")
    if not path:
        raise GraderError("busybox is not installed. Type: make setup")
    return [("bin/busybox", path)] + [(where.lstrip("/"), source) for where, source in libraries(path)]


def _programs(programs):
    """(path in the guest, path here) of programs of this machine and of the libraries that they need."""
    found = {}
    for where, source in programs.items():
        found[where.lstrip("/")] = source
        with open(source, "rb") as file:
            dynamic = file.read(5) == b"\x7fELF\x02"
        found.update((path.lstrip("/"), library) for path, library in (libraries(source) if dynamic else []))
    return list(found.items())


def archive(root, devices):
    """(an initial RAM disk that is not finished: busybox, and the drivers of these devices; the line of a script that loads them)"""
    ramfs = Initramfs()
    for directory in ("dev", "proc", "sys", "tmp", "root"):
        ramfs.directory(directory)
    ramfs.character_device("dev/console", 5, 1)
    for path, source in _busybox():
        ramfs.copy(path, source, 0o755)
    names = [*BUS, *(name for device in devices for name in DRIVERS[device])] if devices else []
    modules = stripped_modules(os.path.join(root, "build/testhost"), names, os.path.join(root, "build/grade/guest-modules"), "guest")
    for name, path in modules:
        ramfs.copy("modules/" + name, path)
    return ramfs, LOAD % " ".join(name for name, _ in modules) if modules else ""


def initrd(root, script, devices=(), files=None, programs=None):
    """An initial RAM disk that loads the drivers of these devices and runs the script. files: path -> bytes; programs: path -> program
    of this machine, which comes with its libraries. root: of the project."""
    ramfs, load = archive(root, devices)
    for path, data in (files or {}).items():
        ramfs.file(path, data)
    for path, source in _programs(programs or {}):
        ramfs.copy(path, source, 0o755)
    ramfs.file("script", script.encode())
    ramfs.file("init", (HEAD + load + RUN).encode(), 0o755)
    return ramfs.bytes()


def initrd_for_disk(root, devices=("disk",), options="rw"):
    """One that loads the drivers and goes on with what disk() made, /dev/vda, mounted with these options."""
    ramfs, load = archive(root, devices)
    ramfs.file("init", (HEAD + load + SWITCH % options).encode(), 0o755)
    return ramfs.bytes()


@functools.lru_cache(maxsize=None)
def kernel(root):
    """Debian's kernel, a bzImage."""
    try:
        with open(os.path.join(root, "build", "testhost", "vmlinuz"), "rb") as file:
            return file.read()
    except OSError:
        raise GraderError("The guest's kernel is missing (build/testhost/vmlinuz). Run: make testhost") from None


def tool(name):
    """A program of e2fsprogs: on Debian they lie where only root looks."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if not path:
        raise GraderError("%s is not installed (Debian and Ubuntu: apt install e2fsprogs)." % name)
    return path


def disk(path, mib, script, files=None, programs=None):
    """Writes an image of an ext4 file system of so many MiB with busybox and the script, which is run when it is booted from."""
    with tempfile.TemporaryDirectory(prefix="guest-disk.") as top:
        for directory in ("bin", "dev", "proc", "sys", "tmp", "sbin"):
            os.mkdir(os.path.join(top, directory))

        def put(where, data, mode):
            target = os.path.join(top, where.lstrip("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as out:
                out.write(data)
            os.chmod(target, mode)

        for where, source in _busybox() + _programs(programs or {}):
            with open(source, "rb") as file:
                put(where, file.read(), 0o755)
        for where, data in (files or {}).items():
            put(where, data, 0o644)
        put("script", script.encode(), 0o644)
        put("sbin/init", (HEAD + RUN).encode(), 0o755)
        if os.path.exists(path):
            os.unlink(path)
        done = subprocess.run([tool("mke2fs"), "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", top, path, "%dM" % mib],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GraderError("The guest's disk could not be made:\n" + done.stdout + done.stderr)


def durable(root):
    """The program that writes records and says which of them are on stable storage: grader/testhost/durable.c."""
    return build_program(root, "durable", "durable.c")


RECORD_WORDS = 64


def first_missing(data, count, seed):
    """Of what durable wrote with this seed: the number of the first of `count` records that is not there as it was written, or None."""
    size = 8 * RECORD_WORDS
    for number in range(1, count + 1):
        word, words = number, [number]
        for _ in range(RECORD_WORDS - 1):
            word = ((word ^ seed) * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
            words.append(word)
        if data[(number - 1) * size : number * size] != struct.pack("<%dQ" % RECORD_WORDS, *words):
            return number
    return None


def told_durable(console):
    """The number of the last record of which a whole line of the console says so."""
    return max((int(n) for n in re.findall(rb"durable (\d+)\r?\n", console)), default=0)
