"""The local APIC and the IOAPIC: a guest that uses them prints the same on hv's own chips (the trap and hvm engines, with shadows and
without), on KVM's (the kvm engine) and on bare QEMU's.
"""

import json
import pathlib
import tempfile
import unittest

import host

import elf

ENGINES = {
    "trap": ("--engine", "trap"), "trap cached": ("--engine", "trap", "--shadow", "cached"), "hvm": ("--engine", "hvm"),
    "hvm cached": ("--engine", "hvm", "--shadow", "cached"), "kvm": ("--engine", "kvm"),
}
WITH_NMI = {name: how for name, how in ENGINES.items() if not name.startswith("trap")}
GUEST = host.VM_GUESTS / "apic.elf"

# Of what the guest prints, what each part of it must have found; that all agree does not say that anything worked.
FOUND = {
    "wire.vector": [0x24], "unwired.count": [0], "cpuid.apic": [1], "base": [0xFEE00900], "ipi.irr": [7],
    "ipi.vector": [0x62, 0x51, 0x81, 0x55, 0x41], "physical.vector": [0x41], "logical.vector": [0x41], "tpr.cr8": [6], "tpr.held": [0],
    "tpr.vector": [0x71, 0x62], "tpr.low": [0x40], "timer.once": [1], "timer.ticks": [1], "timer.masked": [0], "edge.vector": [0x71],
    "lost.count": [0], "again.vector": [0x71], "level.vector": [0x72] * 3, "level.entry": [0xC072], "level.after": [0x8072],
    "pit.vector": [0x73], "off.base": [0xFEE00100], "off.cpuid": [0], "off.vector": [0x24],
}


class TestApic(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        with tempfile.TemporaryDirectory() as directory:
            with_nmi = pathlib.Path(directory, "nmi.elf")
            with_nmi.write_bytes(elf.patch_params(GUEST.read_bytes(), [1], "nmi.elf"))
            commands, cls.bare = {}, {}
            for image, engines in ((GUEST, ENGINES), (with_nmi, WITH_NMI)):
                cls.bare[image.name] = host.qemu(image, seconds=20)
                for engine, how in engines.items():
                    argv = ["hv", "run", *how, "--timeout", "20", "--stats", "json", image.name]
                    commands[image.name, engine] = host.Command(argv)
            cls.results = host.run(commands, [host.HV, GUEST, with_nmi])

    def test_the_same_everywhere(self):
        for (image, engine), result in self.results.items():
            with self.subTest(image=image, engine=engine):
                self.assertEqual(result.stdout.decode(), self.bare[image].stdout.decode(), result.stderr)
                self.assertEqual(result.status, host.OK)
                self.assertNotRegex(result.stderr, host.CRASH)
                self.assertEqual(json.loads(result.stderr.splitlines()[-1])["unclaimed"], [])

    def test_what_was_found(self):
        for image, result in self.bare.items():
            self.assertEqual(result.status, 1)  # exit code 0
            lines = {}
            for line in result.stdout.decode().split():
                name, value = line.split("=")
                lines.setdefault(name, []).append(int(value, 16))
            self.assertEqual({name: lines.get(name) for name in FOUND}, FOUND)
            self.assertEqual(lines.get("nmi"), [1] if image == "nmi.elf" else None)


if __name__ == "__main__":
    unittest.main()
