"""Debian's cloud kernel, as it comes out of its package, on the kvm engine: boot, shell, typing, power-off."""

import json
import unittest

import host
from host import Command

FILES = [host.HV, host.TOP / "build/testhost/vmlinuz", host.GUESTS / "initrd.cpio"]
BOOT = ["hv", "run", "--engine", "kvm", "--mem", "256M", "--timeout", "150", "--stats", "json", "--initrd", "initrd.cpio"]
QUIET = "console=ttyS0 quiet"

# Somebody who types: what is sent before the guest's driver has opened the port is lost, as on a real serial line.
TYPING = """
mkfifo keys
%s --append "console=ttyS0 quiet shell" vmlinuz <keys >screen & hv=$!
exec 3>keys
until grep -q '# ' screen; do sleep 0.2; done
echo 'echo typed $((40 + 2))' >&3
until grep -q 'typed 42' screen; do sleep 0.2; done
echo 'poweroff -f' >&3
wait $hv; status=$?
cat screen
exit $status
"""


class Linux(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "testhost", "build/vm/usage")
        commands = {f"boot{i}": Command([*BOOT, "--append", QUIET, "vmlinuz"], limit=160) for i in range(3)}
        commands["typing"] = Command(["sh", "-c", TYPING % " ".join(BOOT)], limit=160)
        cls.results = host.run(commands, FILES, mem=1024, timeout=700)

    def test_shell_prints_uname_and_powers_off(self):
        for name in ("boot0", "boot1", "boot2"):
            with self.subTest(name):
                result = self.results[name]
                self.assertEqual(result.status, host.OK, result.stderr[-800:])
                self.assertRegex(result.stdout.decode(), r"(?m)^.*# uname -a\r?$")
                self.assertRegex(result.stdout.decode(), r"Linux \(none\) \S+ #1 SMP .*Debian .* x86_64 GNU/Linux")
                self.assertIn("the guest powered the machine off", result.stderr)

    def test_exits_are_accounted_for(self):
        stats = json.loads(self.results["boot0"].stderr.splitlines()[-1])
        self.assertEqual(stats["engine"], "kvm")
        self.assertEqual(stats["exits"], sum(stats["by_kind"].values()))
        self.assertGreater(stats["by_kind"]["io out"], 100)

    def test_what_is_typed_arrives(self):
        result = self.results["typing"]
        self.assertEqual(result.status, host.OK, result.stderr[-800:])
        self.assertIn(b"typed 42", result.stdout)


if __name__ == "__main__":
    unittest.main()
