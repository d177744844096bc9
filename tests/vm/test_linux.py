"""Debian's cloud kernel, as it comes out of its package, on the kvm and hvm engines: boot, shell, a script, typing, power-off."""

import json
import re
import unittest

import host
from host import Command

FILES = [host.HV, host.TOP / "build/testhost/vmlinuz", host.GUESTS / "initrd.cpio"]
LOCAL_TIMER = "236"  # the vector of Linux's local APIC timer
BOOT = ["hv", "run", "--engine", "%s", "--mem", "256M", "--timeout", "150", "--stats", "json", "--initrd", "initrd.cpio"]
QUIET = "console=ttyS0 quiet"

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
mkfifo keys; : >screen
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

# What the kernel made of several CPUs, then an ending.
SEVERAL = """
mkfifo keys%(cpus)d
%(boot)s --cpus %(cpus)d --append "console=ttyS0 quiet shell" vmlinuz <keys%(cpus)d >screen%(cpus)d & hv=$!
exec 3>keys%(cpus)d
until grep -q '# ' screen%(cpus)d; do sleep 0.2; done
echo 'grep ^processor /proc/cpuinfo; cat /proc/interrupts; echo the end of $((40 + 2)) lines' >&3
until grep -q 'end of 42 lines' screen%(cpus)d; do sleep 0.2; done
echo '%(ending)s' >&3
wait $hv; status=$?
cat screen%(cpus)d
exit $status
"""
ENDINGS = {2: ("poweroff -f", "hv: the guest powered the machine off"), 4: ("reboot -f", "hv: the guest reset the machine")}


class Linux(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "testhost", "build/vm/usage")
        commands = {}
        for engine in ("kvm", "hvm"):
            boot = [word % engine if word == "%s" else word for word in BOOT]
            commands[engine] = Command([*boot, "--append", QUIET, "vmlinuz"], limit=160)
            commands[f"typing-{engine}"] = Command(["sh", "-c", TYPING % " ".join(boot)], limit=160)
            if engine == "kvm":
                for cpus, (ending, _) in ENDINGS.items():
                    script = SEVERAL % {"boot": " ".join(boot), "cpus": cpus, "ending": ending}
                    commands[f"several-{cpus}"] = Command(["sh", "-c", script], limit=160)
        cls.results = host.run(commands, FILES, mem=1024, timeout=900)

    def test_shell_prints_uname_and_powers_off(self):
        for engine in ("kvm", "hvm"):
            result = self.results[engine]
            with self.subTest(engine):
                self.assertEqual(result.status, host.OK, result.stderr[-800:])
                self.assertRegex(result.stdout.decode(), r"(?m)^.*# uname -a\r?$")
                self.assertRegex(result.stdout.decode(), r"Linux \(none\) \S+ #1 SMP .*Debian .* x86_64 GNU/Linux")
                self.assertIn("the guest powered the machine off", result.stderr)

    def test_exits_are_accounted_for(self):
        stats = json.loads(self.results["kvm"].stderr.splitlines()[-1])
        self.assertEqual(stats["engine"], "kvm")
        self.assertEqual(stats["exits"], sum(stats["by_kind"].values()))
        self.assertGreater(stats["by_kind"]["io out"], 100)

    def test_no_exit_of_the_hvm_engine_is_unexplained(self):
        stats = json.loads(self.results["hvm"].stderr.splitlines()[-1])
        self.assertEqual(stats["exits"], sum(stats["by_kind"].values()))
        self.assertEqual(set(stats["by_kind"]) - EXITS, set())
        self.assertEqual({int(u["addr"], 16) for u in stats["unclaimed"]} - set(ABSENT), set())
        self.assertEqual({u["bus"] for u in stats["unclaimed"]}, {"port"})
        self.assertGreater(stats["delivered"].get(LOCAL_TIMER, 0), 0)
        # The page tables of 256 MiB, in pages of 2 MiB where nothing stands against it. The other violations are accesses to devices.
        self.assertLess(stats["nested"]["mapped"], 256)

    def test_several_vcpus(self):
        for cpus, (_, sentence) in ENDINGS.items():
            result = self.results[f"several-{cpus}"]
            screen = result.stdout.decode().replace("\r\n", "\n")
            with self.subTest(cpus=cpus):
                self.assertEqual(result.status, host.OK, result.stderr[-800:])
                self.assertIn(sentence, result.sentences)
                self.assertEqual(re.findall(r"(?m)^processor\s*: (\d+)$", screen), [str(i) for i in range(cpus)])
                lines = dict(re.findall(r"(?m)^ *(\w+):((?: +\d+)+.*)$", screen))
                # The UART's line goes through the IOAPIC, and the CPUs' own timers and calls to each other through local APICs.
                self.assertRegex(lines["4"], r"IO-APIC +4-edge +ttyS0")
                for kind in ("LOC", "CAL"):
                    counts = [int(count) for count in lines[kind].split()[:cpus]]
                    self.assertEqual(len(counts), cpus)
                    self.assertTrue(all(counts), (kind, counts))
                stats = json.loads(result.stderr.splitlines()[-1])
                self.assertEqual(len(stats["vcpus"]), cpus)
                self.assertTrue(all(vcpu["exits"] for vcpu in stats["vcpus"]))
                self.assertEqual(stats["exits"], sum(vcpu["exits"] for vcpu in stats["vcpus"]))
                self.assertEqual(stats["exits"], sum(stats["by_kind"].values()))

    def test_what_is_typed_arrives(self):
        for engine in ("kvm", "hvm"):
            with self.subTest(engine):
                result = self.results["typing-" + engine]
                self.assertEqual(result.status, host.OK, result.stderr[-800:])
                self.assertIn(b"typed 42", result.stdout)


if __name__ == "__main__":
    unittest.main()
