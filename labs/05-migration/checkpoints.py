"""Lab 5: saving and migration. The checkpoints are in checks/, by topic; what each is about: README.md beside this file."""

import os
import sys

# "checks" itself is the name of one of the grader's modules, so this is not a package.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks"))

import linuxmove  # noqa: E402
import moves  # noqa: E402
import post  # noqa: E402
import restore  # noqa: E402
import rounds  # noqa: E402
import runs  # noqa: E402
import sections  # noqa: E402

TITLE = "a VM is a file, and a file can move while it runs"
TOPICS = (sections, runs, restore, rounds, moves, post, linuxmove)

CHECKPOINTS = sorted((c for topic in TOPICS for c in topic.CHECKPOINTS), key=lambda c: [int(n) for n in c.id.split(".")])
