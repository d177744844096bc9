#!/usr/bin/env python3
"""guest_initrd.py OUTPUT: an initial RAM disk with busybox for a Linux guest, whose shell then runs `uname -a` and powers off. With the
word `shell` on the guest's command line a shell for people comes first."""

import pathlib
import shutil
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "grader/lib"))
import elf  # noqa: E402
import initramfs  # noqa: E402

INIT = b"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=linux
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
case " $(cat /proc/cmdline) " in
*" shell "*) setsid cttyhack sh ;;
esac
# stty waits until all output has left; poweroff -f does not.
printf 'uname -a\\nstty sane </dev/console\\npoweroff -f\\n' >/tmp/commands
exec sh -iv </tmp/commands
"""


def main():
    busybox = shutil.which("busybox")
    if len(sys.argv) != 2 or not busybox:
        print("guest_initrd.py: which file is to be written? (busybox must be installed: make setup)", file=sys.stderr)
        return 2
    ramfs = initramfs.Initramfs()
    for directory in ("dev", "proc", "sys", "tmp"):
        ramfs.directory(directory)
    ramfs.character_device("dev/console", 5, 1)
    ramfs.copy("bin/busybox", busybox, 0o755)
    for path, library in elf.libraries(busybox):
        ramfs.copy(path, library, 0o755)
    ramfs.file("init", INIT, 0o755)
    pathlib.Path(sys.argv[1]).write_bytes(ramfs.bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
