"""Guests that begin where a PC begins, in real mode or 32-bit protected mode: the same under the kvm and hvm engines as on bare
QEMU, and what hv says when they go wrong.
"""

import pathlib
import random
import re
import tempfile
import unittest

import host

import elf

ENGINES = ("kvm", "hvm")
LOW = (1 << 32) - 1
ALL = (1 << 64) - 1


def sector(code):
    """A boot sector with this code."""
    return code + bytes(510 - len(code)) + b"\x55\xaa"


# name -> (sector, what hv says, as a regular expression)
ENDINGS = {
    "halted": (sector(b"\xf4"), r"halted with interrupts off at rip 0x7c01"),
    # lidt with a limit of 0; int3
    "triple": (sector(b"\x0f\x01\x1e\x08\x7c\xcc\x90\x90" + bytes(6)), r"triple fault"),
    # ljmp $0x900,$0; there: jmp .
    "spin": (sector(b"\xc7\x06\x00\x90\xeb\xfe\xea\x00\x00\x00\x09"), r"still running.* at cs 0x900, rip 0x0 \(`jmp 0x"),
}


class TestModes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv guests", "vmguests")
        cls.seed = host.seed_from_environment(random)
        values = random.Random(cls.seed)
        cls.params = [values.getrandbits(64) for _ in range(16)]
        commands, cls.bare = {}, {}
        with tempfile.TemporaryDirectory() as directory:
            images = {}
            for name, count in (("bootsector.bin", 4), ("protected.elf", 16)):
                images[name] = pathlib.Path(directory, name)
                images[name].write_bytes(elf.patch_params((host.GUESTS / "lab3" / name).read_bytes(), cls.params[:count]))
                cls.bare[name] = host.qemu(images[name], seconds=20)
            for name, (image, _) in ENDINGS.items():
                images[name] = pathlib.Path(directory, name)
                images[name].write_bytes(image)
            for name, path in images.items():
                for engine in ENGINES:
                    seconds = "1" if name in ENDINGS else "10"
                    commands[name, engine] = host.Command(["hv", "run", "--engine", engine, "--timeout", seconds, path.name])
            commands["bootsector.bin", "trap"] = host.Command(["hv", "run", "--engine", "trap", "bootsector.bin"])
            commands["protected.elf", "trap"] = host.Command(["hv", "run", "--engine", "trap", "protected.elf"])
            cls.results = host.run(commands, [host.HV, *images.values()])

    def test_boot_sector(self):
        p = self.params
        real = (p[1] ^ p[2]) & LOW
        protected = (p[1] & LOW) * (p[2] & LOW) + (p[3] & LOW) & ALL
        expected = f"real={real:016x}\nprotected={protected:016x}\nlong={protected * p[3] & ALL ^ p[0]:016x}\n".encode()
        self.assertEqual((self.bare["bootsector.bin"].stdout, self.bare["bootsector.bin"].status), (expected, 1), self.seed)
        for engine in ENGINES:
            result = self.results["bootsector.bin", engine]
            self.assertEqual((result.stdout, result.status), (expected, host.OK), (engine, self.seed, result.stderr))

    def test_protected_mode(self):
        bare = self.bare["protected.elf"]
        self.assertEqual(bare.status, 1)
        self.assertIn(b"allowed=", bare.stdout)
        for engine in ENGINES:
            result = self.results["protected.elf", engine]
            self.assertEqual((result.stdout, result.status), (bare.stdout, host.OK), (engine, self.seed, result.stderr))
            # The store through a segment and a page table reached the bus where it had to.
            at = 0xd0000000 + (self.params[6] & LOW) % (1 << 20) // 4 * 4
            self.assertIn(f"nothing answers at address {at:#x}: 0 reads, 1 write", result.stderr, (engine, self.seed))

    def test_trap_engine_refuses(self):
        for name, mode in (("bootsector.bin", "real"), ("protected.elf", "32-bit protected")):
            result = self.results[name, "trap"]
            self.assertEqual((result.status, result.stdout), (host.USAGE, b""))
            self.assertRegex(result.stderr, rf"\Ahv: {name}: this [^\n]* starts in {mode} mode, and the trap engine runs 64-bit code only")

    def test_endings(self):
        for name, (_, words) in ENDINGS.items():
            for engine in ENGINES:
                result = self.results[name, engine]
                self.assertIn(result.status, (host.STOPPED, host.TIMEOUT), (name, engine))
                self.assertEqual(len(result.sentences), 1, result.stderr)
                self.assertTrue(re.search(words, result.sentences[0]), (name, engine, result.stderr))


if __name__ == "__main__":
    unittest.main()
