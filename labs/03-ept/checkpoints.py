"""Lab 3: hardware-assisted virtualization. The checkpoints are in checks/, by topic; what each is about: README.md beside this file."""

import os
import sys

# "checks" itself is the name of one of the grader's modules, so this is not a package.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks"))

import nestedtables  # noqa: E402

TITLE = "EPT and NPT"
TOPICS = (nestedtables,)

CHECKPOINTS = sorted((c for topic in TOPICS for c in topic.CHECKPOINTS), key=lambda c: [int(n) for n in c.id.split(".")])
