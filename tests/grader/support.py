"""What the grader's tests share."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = pathlib.Path(__file__).resolve().parent / "fixtures"
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "grader" / "lib"))

GCC = "gcc" if os.uname().machine == "x86_64" else "x86_64-linux-gnu-gcc"

needs_testhost = unittest.skipUnless(
    (TOP / "build" / "testhost" / "vmlinuz").exists() and shutil.which("qemu-system-x86_64"),
    "needs the test host: make testhost",
)


needs_bochs = unittest.skipUnless(
    (TOP / "build" / "testhost" / "modules" / "kvm-intel.ko").exists() and shutil.which("bochs-bin"),
    "needs the Bochs test host: make setup testhost",
)


def compile_c(source, target, *flags):
    subprocess.run([GCC, "-O1", "-Wall", "-Werror", *flags, "-o", str(target), str(source)], check=True)
    return str(target)


class TempDir(unittest.TestCase):
    """Tests with a directory of their own in self.dir."""

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="grader-test-"))
        self.addCleanup(shutil.rmtree, self.dir)


# A tree with one lab whose "hv" is fixtures/standin.c compiled with the macros that the "lab file" defines.
MAKEFILE = """\
tools testhost:
$(OUT)/hv:
\t@mkdir -p $(OUT)
\t@%(gcc)s -O1 -static -include $(LABFILES)/main.c -o $@ %(standin)s
"""

CHECKPOINTS = '''\
from checks import printed_by_traps, reported
from model import Checkpoint, Run

TITLE = "a lab for tests"


def verify(results, params):
    r = results["only"]
    return reported(r, "answer", 0x2a) or printed_by_traps(r, r.output)


def point(name, *depends):
    return Checkpoint(name, "checkpoint " + name, 2, "It must answer.", "Think.", [Run("only", "guest", timeout=2)], verify, depends)


CHECKPOINTS = [point("7.1"), point("7.2", "7.1"), point("7.3", "7.2"), point("7.4")]
'''


def make_tree(at):
    """The tree with its lab 7. Returns its path."""
    lab = at / "labs" / "07-test"
    lab.mkdir(parents=True)
    (lab / "checkpoints.py").write_text(CHECKPOINTS)
    (lab / "main.c").write_text("/* the starter: nothing yet */\n")
    (at / "Makefile").write_text(MAKEFILE % {"gcc": GCC, "standin": FIXTURES / "standin.c"})
    (at / "build" / "guests").mkdir(parents=True)
    (at / "build" / "guests" / "guest").write_bytes(b"no ELF, and nobody looks")
    (at / "build" / "testhost").symlink_to(TOP / "build" / "testhost")
    (at / "grader").symlink_to(TOP / "grader")
    return at
