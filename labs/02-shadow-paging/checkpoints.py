"""Lab 2: shadow paging. The checkpoints are in checks/, by topic; what each is about: README.md beside this file."""

import os
import sys

# "checks" itself is the name of one of the grader's modules, so this is not a package.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks"))

import caching  # noqa: E402
import edits  # noqa: E402
import faults  # noqa: E402
import flushes  # noqa: E402
import speed  # noqa: E402
import walks  # noqa: E402

TITLE = "shadow paging"
TOPICS = (walks, faults, flushes, caching, edits, speed)

CHECKPOINTS = sorted((c for topic in TOPICS for c in topic.CHECKPOINTS), key=lambda c: [int(n) for n in c.id.split(".")])
