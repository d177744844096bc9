"""Lab 3: hardware-assisted virtualization. The checkpoints are in checks/, by topic; what each is about: README.md beside this file."""

import os
import sys

# "checks" itself is the name of one of the grader's modules, so this is not a package. The other labs have what this one shares with them.
LABS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path += [os.path.join(LABS, lab, "checks") for lab in ("03-ept", "02-shadow-paging", "01-trap-emulate")]

import apart  # noqa: E402
import entering  # noqa: E402
import injection  # noqa: E402
import introspect  # noqa: E402
import nestedtables  # noqa: E402
import permissions  # noqa: E402
import software  # noqa: E402
import violations  # noqa: E402
import workingset  # noqa: E402

TITLE = "hardware-assisted virtualization with EPT and NPT"
TOPICS = (nestedtables, entering, violations, injection, permissions, workingset, introspect, apart, software)

CHECKPOINTS = sorted((c for topic in TOPICS for c in topic.CHECKPOINTS), key=lambda c: [int(n) for n in c.id.split(".")])
