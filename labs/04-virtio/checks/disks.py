"""4.19 and 4.22: Debian's kernel on the student's block device. What is on the disk afterwards is looked at here, outside of everything
that the student's program could have touched: the image came out of the test host."""

import functools
import os
import subprocess
import tempfile

import linuxguest
from grading import HV
from model import HV_OK, Checkpoint, Failure, Run
from signatures import describe_end

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
MIB = 12
GIVEN = 48 * 1024  # bytes of the file that the guest copies
SECONDS = 20.0  # of which booting takes less than half
RECORDS_DISK = 512 * 1024

# Everything that a file system does: directories, files of some size, links, removal.
SCRIPT = """
mkdir -p /made/below && cp /given /made/below/copy && ln -s below/copy /made/link && rm /given
i=0; while [ $i -lt 30 ]; do echo $i >/made/$i; i=$((i + 1)); done; rm /made/7
sync; dd if=/dev/vda of=/dev/null bs=64k count=64 2>/dev/null
"""

DURABLE = """
%s
exec /bin/durable /dev/vda %d
"""
WRITETHROUGH = "echo 'write through' >/sys/block/vda/cache_type"


def _given(seed):
    """Bytes that nobody knows before."""
    data, state = bytearray(), seed
    while len(data) < GIVEN:
        state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        data += state.to_bytes(8, "little")
    return bytes(data)


def _command(disk):
    return (HV, "run", "--engine", "kvm", "--mem", "96M", "--timeout", "@SECONDS@", "--stats", "json", "--append", linuxguest.APPEND,
            "--initrd", "@DIR@/guest.cpio", "--disk", "@DIR@/" + disk, "@DIR@/vmlinuz")


def _root_files(params):
    with tempfile.TemporaryDirectory(prefix="guest-root.") as directory:
        image = os.path.join(directory, "root.img")
        linuxguest.disk(image, MIB, SCRIPT, {"given": _given(params[0])})
        with open(image, "rb") as file:
            return {"vmlinuz": linuxguest.kernel(ROOT), "guest.cpio": linuxguest.initrd_for_disk(ROOT), "root.img": file.read()}


def _record_files(params, before):
    script = DURABLE % (before, params[0])
    return {"vmlinuz": linuxguest.kernel(ROOT), "records.img": bytes(RECORDS_DISK),
            "guest.cpio": linuxguest.initrd(ROOT, script, ["disk"], programs={"bin/durable": linuxguest.durable(ROOT)})}


def _debugfs(image, command):
    return subprocess.run([linuxguest.tool("debugfs"), "-R", command, image], stdin=subprocess.DEVNULL, capture_output=True,
                          check=False).stdout


def _boots(results, params):
    result = results["boot"]
    if b"status 0" not in result.output:
        return Failure("Linux to boot from the disk and its script to end with status 0", describe_end(result) + "; the console's end: " +
                       result.output[-300:].decode("ascii", "replace"), run=result.name)
    with tempfile.TemporaryDirectory(prefix="guest-disk.") as directory:
        image = os.path.join(directory, "root.img")
        with open(image, "wb") as file:
            file.write(result.back)
        fsck = subprocess.run([linuxguest.tool("e2fsck"), "-fn", image], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", check=False)
        if fsck.returncode:
            return Failure("e2fsck -fn to find nothing wrong on the disk after power-off", "\n".join(fsck.stdout.splitlines()[-6:]),
                           run=result.name)
        if _debugfs(image, "cat /made/below/copy") != _given(params["boot"][0]):
            return Failure("/made/below/copy to have what the guest copied there", "other bytes, or no such file", run=result.name)
        names = {word for line in _debugfs(image, "ls -p /made").decode("ascii", "replace").split() for word in line.split("/")}
        missing = [name for name in ["link", *map(str, range(30))] if (name in names) == (name == "7")]
        if missing:
            return Failure("the directory /made with what the guest made there, and without what it removed", "wrong: " + " ".join(missing),
                           run=result.name)
    return None


def _kill(params):
    return "durable %d" % (params[1] % 60 + 2), params[2] % 200


def _survives(results, params):
    for name, result in results.items():
        told = linuxguest.told_durable(result.stdout.data)
        if result.signal != 9 or not told:
            return Failure("a guest that writes records until hv is killed", describe_end(result) + "; the console's end: " +
                           result.output[-300:].decode("ascii", "replace"), run=name)
        lost = linuxguest.first_missing(result.back, told, params[name][0])
        if lost:
            return Failure("the first %d records on the disk, of which the guest was told that they are durable" % told,
                           "record %d is not there" % lost, run=name)
    return None


def _numbers(rng):
    return [rng.getrandbits(63), rng.getrandbits(32), rng.getrandbits(32)]


CHECKPOINTS = (
    Checkpoint(
        "4.19", "Linux boots from ext4", 4,
        "Debian's kernel, with its own driver, has its root file system on your block device. It works on files and powers off; then "
        "e2fsck finds nothing wrong, and the files are there.",
        "If the kernel does not find the disk, look at 4.1 and 4.11; if it hangs, at interrupts (4.7, 4.9); if files are wrong, at 4.12.",
        [Run("boot", params=_numbers, command=_command("root.img"), files=_root_files, back="root.img", timeout=SECONDS, ends=(HV_OK,))],
        _boots, depends=("4.9", "4.13"),
    ),
    Checkpoint(
        "4.22", "What was flushed survives", 4,
        "hv is killed (SIGKILL) while Linux writes and syncs. Every record of which the guest was told that it is on stable storage is on "
        "the disk, in writeback and in writethrough mode.",
        "A flush is complete when fdatasync() has returned, and not before; in writethrough mode that goes for every write "
        "(choose_cache()).",
        [Run(name, params=_numbers, command=_command("records.img"), files=functools.partial(_record_files, before=before),
             kill_at=_kill, back="records.img", timeout=SECONDS, ends=None)
         for name, before in (("writeback", ""), ("writethrough", WRITETHROUGH))],
        _survives, depends=("4.19",),
    ),
)
