#!/usr/bin/env python3
"""script.py CHECKPOINT SEED: prints the script that a checkpoint gave to hv nested, so that it can be run again, or cut down."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "../../../grader/lib"))

import nestedtables  # noqa: E402


def main():
    known = [c.id for c in nestedtables.CHECKPOINTS]
    if len(sys.argv) != 3 or sys.argv[1] not in known or not sys.argv[2].isdigit():
        sys.exit("usage: script.py %s SEED" % "|".join(known))
    sys.stdout.write(nestedtables.make(sys.argv[1], int(sys.argv[2])).text)


if __name__ == "__main__":
    main()
