"""Debian's cloud kernel, as it comes out of its package, on the kvm and hvm engines: boot, shell, a script, typing, power-off."""

import json
import unittest

import host
from host import Command

FILES = [host.HV, host.TOP / "build/testhost/vmlinuz", host.GUESTS / "initrd.cpio"]
BOOT = ["hv", "run", "--engine", "%s", "--mem", "256M", "--timeout", "150", "--stats", "json", "--initrd", "initrd.cpio"]
QUIET = "console=ttyS0 quiet"
HVM_BOOTS = 2

# What the kernel looks for on hv's platform and does not find there, by port. Everything else that nothing answers is a mistake.
ABSENT = {
    **dict.fromkeys(range(0xCF8, 0xD00), "PCI configuration: there is no PCI bus"),
    0x80: "the delay port: only the time that an access takes is wanted",
    **dict.fromkeys((0x2F9, 0x3E9, 0x2E9), "the interrupt registers of COM2 to COM4"),
}

# Why the hvm engine leaves this guest. An exit of another kind would be one that hv did not ask for, or that a PC does not need.
EXITS = {"violation", "cpuid", "control register", "rdmsr", "wrmsr", "io", "kick", "interrupted", "interrupt window", "pause", "hlt",
         "cache", "monitor"}

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
        commands = {}
        for engine, boots in (("kvm", 3), ("hvm", HVM_BOOTS)):
            boot = [word % engine if word == "%s" else word for word in BOOT]
            commands.update({f"{engine}{i}": Command([*boot, "--append", QUIET, "vmlinuz"], limit=160) for i in range(boots)})
            commands[f"typing-{engine}"] = Command(["sh", "-c", TYPING % " ".join(boot)], limit=160)
        cls.results = host.run(commands, FILES, mem=1024, timeout=900)

    def test_shell_prints_uname_and_powers_off(self):
        for name, result in self.results.items():
            if name.startswith("typing"):
                continue
            with self.subTest(name):
                self.assertEqual(result.status, host.OK, result.stderr[-800:])
                self.assertRegex(result.stdout.decode(), r"(?m)^.*# uname -a\r?$")
                self.assertRegex(result.stdout.decode(), r"Linux \(none\) \S+ #1 SMP .*Debian .* x86_64 GNU/Linux")
                self.assertIn("the guest powered the machine off", result.stderr)

    def test_exits_are_accounted_for(self):
        stats = json.loads(self.results["kvm0"].stderr.splitlines()[-1])
        self.assertEqual(stats["engine"], "kvm")
        self.assertEqual(stats["exits"], sum(stats["by_kind"].values()))
        self.assertGreater(stats["by_kind"]["io out"], 100)

    def test_no_exit_of_the_hvm_engine_is_unexplained(self):
        for i in range(HVM_BOOTS):
            stats = json.loads(self.results[f"hvm{i}"].stderr.splitlines()[-1])
            self.assertEqual(stats["exits"], sum(stats["by_kind"].values()))
            self.assertEqual(set(stats["by_kind"]) - EXITS, set())
            self.assertEqual({int(u["addr"], 16) for u in stats["unclaimed"]} - set(ABSENT), set())
            self.assertEqual({u["bus"] for u in stats["unclaimed"]}, {"port"})
            # The page tables of 256 MiB, in pages of 2 MiB where nothing stands against it.
            self.assertLess(stats["nested"]["violations"], 256)

    def test_what_is_typed_arrives(self):
        for engine in ("kvm", "hvm"):
            with self.subTest(engine):
                result = self.results["typing-" + engine]
                self.assertEqual(result.status, host.OK, result.stderr[-800:])
                self.assertIn(b"typed 42", result.stdout)


if __name__ == "__main__":
    unittest.main()
