"""A whole session of gdb with a guest: in the test host runs hv, here runs gdb, and --link joins the two."""

import re
import shutil
import socket
import subprocess
import unittest

from support import GUESTS, OK, PROGRAMS, TOP

# Output is told apart by the echoed marks: gdb's own words for the same thing change from version to version.
SESSION = r"""
set pagination off
set confirm off
set remotetimeout 60
target remote 127.0.0.1:@PORT@
echo @entry\n
print/x $rip
break guest_main
continue
echo @stopped at the breakpoint\n
print $rip == (unsigned long)&guest_main
x/s &message
delete
stepi
echo @after one instruction\n
print $rip == (unsigned long)&guest_main + 1
set var *(char *)&message = 'J'
set $rbx = 0x1234
print/x $rbx
break done
continue
echo @at done\n
print $rip == (unsigned long)&done
delete
continue
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@unittest.skipUnless(shutil.which("gdb"), "gdb is not installed")
class Session(unittest.TestCase):
    def session(self, engine):
        port = free_port()
        command = (f"hv run --engine {engine} --gdb {port} hello.elf & "
                   f"until netstat -ltn | grep -q ':{port} '; do sleep 0.1; done; sleep 1; echo @ready; wait $!")
        host = subprocess.Popen([TOP / "scripts/testhost-run", "--timeout", "120", "--link", str(port),
                                 "--file", PROGRAMS["hv"], "--file", GUESTS / "hello.elf", "--", command],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said = ""
            while "@ready" not in said:
                line = host.stdout.readline()
                self.assertTrue(line, f"the test host ended early: {said}")
                said += line
            script = [word for line in SESSION.replace("@PORT@", str(port)).strip().splitlines() for word in ("-ex", line)]
            gdb = subprocess.run(["gdb", "-nx", "-batch", *script, GUESTS / "hello.elf"], stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, timeout=120, check=False)
            rest, _ = host.communicate(timeout=120)
        finally:
            host.kill()
            host.wait()
        return gdb.stdout + gdb.stderr, rest, host.returncode

    def check(self, engine):
        gdb, console, status = self.session(engine)

        def printed(mark):
            found = re.search(rf"^@{mark}\n\$\d+ = (\S+)", gdb, re.M)
            self.assertTrue(found, f"nothing after @{mark}:\n{gdb}")
            return found[1]

        self.assertRegex(printed("entry"), r"^0x1\w{5}$")
        self.assertEqual(printed("stopped at the breakpoint"), "1")
        self.assertIn('"Hello from ring 0\\n"', gdb)
        self.assertEqual(printed("after one instruction"), "1")
        self.assertIn("= 0x1234", gdb)
        self.assertEqual(printed("at done"), "1")
        # What the debugger wrote into memory is what the guest then printed.
        self.assertIn("Jello from ring 0", console)
        self.assertEqual(status, OK, console)

    def test_trap_engine(self):
        self.check("trap")

    def test_shadow_paging(self):
        """Steps and breakpoints do not notice that the shadow is filled underneath."""
        self.check("trap --shadow cached")

    def test_hvm_engine(self):
        """A step is the machine's, and a violation underneath is none."""
        self.check("hvm --page-size 4K")

    def test_kvm_engine(self):
        self.check("kvm")


if __name__ == "__main__":
    unittest.main()
