#!/usr/bin/env python3
"""guest_linux.py [--devices disk,net,...] [--file HOST:GUEST]... [--program HOST:GUEST]... [--disk IMAGE [--mib N]] SCRIPT INITRD

Makes a Linux guest that runs a shell script and powers off: its initial RAM disk INITRD, with the drivers of hv's devices, and with --disk
an ext4 root file system on an image, on which the script and the files then are. SCRIPT - is the standard input."""

import argparse
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "grader/lib"))
import linuxguest  # noqa: E402
from model import GraderError  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description="Makes a Linux guest that runs a shell script and powers off.")
    parser.add_argument("--devices", default="", help="drivers to load: " + ",".join(linuxguest.DRIVERS))
    parser.add_argument("--file", action="append", default=[], metavar="HOST:GUEST")
    parser.add_argument("--program", action="append", default=[], metavar="HOST:GUEST", help="with the libraries that it needs")
    parser.add_argument("--disk", metavar="IMAGE", help="make an ext4 root file system there")
    parser.add_argument("--mib", type=int, default=32, help="its size (32)")
    parser.add_argument("script")
    parser.add_argument("initrd")
    args = parser.parse_args()
    devices = [d for d in args.devices.split(",") if d]
    for device in devices:
        if device not in linuxguest.DRIVERS:
            parser.error(f"there is no device {device}: it is one of {', '.join(linuxguest.DRIVERS)}")
    script = sys.stdin.read() if args.script == "-" else pathlib.Path(args.script).read_text(encoding="utf-8")
    pairs = [item.partition(":") for item in args.file]
    files = {guest: pathlib.Path(host).read_bytes() for host, _, guest in pairs}
    programs = {guest: host for host, _, guest in (item.partition(":") for item in args.program)}
    try:
        if args.disk:
            linuxguest.disk(args.disk, args.mib, script, files, programs)
            archive = linuxguest.initrd_for_disk(TOP, ["disk", *(d for d in devices if d != "disk")])
        else:
            archive = linuxguest.initrd(TOP, script, devices, files, programs)
    except GraderError as error:
        print(f"guest_linux.py: {error}", file=sys.stderr)
        return 2
    pathlib.Path(args.initrd).write_bytes(archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
