#!/usr/bin/env python3
"""guest_writer.py PAGES FILE [SEED]

Makes Lab 5's guest (labs/05-migration/guests/writer.c) with so many pages to write to, and memory from that seed. What it is told to do
comes by its serial port, hv's standard input: see the comment at its head."""

import argparse
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "grader/lib"))
import elf  # noqa: E402
from model import GraderError  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description="Makes Lab 5's guest, which writes where it is told to.")
    parser.add_argument("pages", type=int)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    args = parser.parse_args()
    try:
        image = (TOP / "build/guests/lab5/writer.elf").read_bytes()
        args.file.write_bytes(elf.patch_params(image, [args.seed, args.pages]))
    except (GraderError, OSError) as error:
        print(f"guest_writer.py: {error} (make guests)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
