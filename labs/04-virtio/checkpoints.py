"""Lab 4: virtio. The checkpoints are in checks/, by topic; what each is about: README.md beside this file."""

import os
import sys

# "checks" itself is the name of one of the grader's modules, so this is not a package. The other labs have what this one shares with them.
LABS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path += [os.path.join(LABS, lab, "checks") for lab in ("04-virtio", "03-ept", "02-shadow-paging", "01-trap-emulate")]

import buffers  # noqa: E402
import block  # noqa: E402
import configspace  # noqa: E402
import disks  # noqa: E402
import malformed  # noqa: E402
import network  # noqa: E402
import networks  # noqa: E402
import notifications  # noqa: E402
import packedring  # noqa: E402
import registers  # noqa: E402

TITLE = "virtio: devices that real drivers drive"
TOPICS = (registers, buffers, notifications, malformed, configspace, block, packedring, networks, network, disks)

CHECKPOINTS = sorted((c for topic in TOPICS for c in topic.CHECKPOINTS), key=lambda c: [int(n) for n in c.id.split(".")])
