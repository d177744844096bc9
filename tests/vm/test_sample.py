"""hv's own measurements: --sample-steps counts what runs directly and what does not, --hash-memory says what memory held. Both are
compared with what follows from a guest's code alone: it is written here, byte by byte.
"""

import json
import pathlib
import struct
import sys
import tempfile
import unittest
import zlib

import host

sys.path.append(str(host.TOP / "tests/cli"))
from support import elf  # noqa: E402

BASE = 0x200000
ROUNDS = 50
# Each instruction: its bytes, how often it is executed, and the engines that must intervene.
BOTH, TRAP = ("trap", "kvm"), ("trap",)
LOOP = (
    (b"\xfa", TRAP),      # cli: privileged for a deprivileged guest
    (b"\x90", ()),        # nop
    (b"\xe6\x80", BOTH),  # out %al, $0x80
    (b"\x51", ()),        # push %rcx
    (b"\x0f\xa2", BOTH),  # cpuid
    (b"\x59", ()),        # pop %rcx
    (b"\x9c", ()),        # pushf and popf: sensitive, and nobody hears of them
    (b"\x9d", ()),
    (b"\xff\xc9", ()),    # dec %ecx
)
LOOP_BYTES = b"".join(code for code, _ in LOOP)
PROGRAM = (
    [(b"\xb9" + struct.pack("<I", ROUNDS), ())] +  # mov $ROUNDS, %ecx
    [*LOOP, (b"\x75" + struct.pack("b", -len(LOOP_BYTES) - 2), ())] * ROUNDS +  # jne
    [(b"\xb9\x05\0\0\0", ()), (b"\xbe" + struct.pack("<I", BASE), ()), (b"\xbf" + struct.pack("<I", BASE + 0x3000), ()),
     (b"\xf3\xa4", ()),   # rep movsb: five steps, one instruction
     (b"\x31\xc0", ()), (b"\xe6\xf4", BOTH)]  # xor %eax, %eax; out %al, $0xf4 ends the guest
)


def code():
    """The program's bytes: what is repeated lies there once."""
    once = PROGRAM[:2 + len(LOOP)] + PROGRAM[1 + ROUNDS * (1 + len(LOOP)):]
    return b"".join(instruction for instruction, _ in once)


def expected(engine, steps):
    executed = PROGRAM[:steps]
    return {"instructions": len(executed), "intervened": sum(engine in who for _, who in executed)}


class TestMeasurements(unittest.TestCase):
    STEPS = (1, 5, 123, 10 ** 6)

    @classmethod
    def setUpClass(cls):
        host.build("hv", "vmguests")
        with tempfile.TemporaryDirectory() as directory:
            guest = pathlib.Path(directory, "counted.elf")
            guest.write_bytes(elf([(BASE, code(), None)]))
            cls.results = host.run({(engine, steps): host.Command(
                ["hv", "run", "--engine", engine, "--stats", "json", "--hash-memory", "--sample-steps", str(steps), "counted.elf"])
                for engine in BOTH for steps in cls.STEPS}, [host.HV, guest])

    def stats(self, *key):
        return json.loads(self.results[key].stderr.splitlines()[-1])

    def test_instructions_and_interventions_are_counted(self):
        for engine, steps in self.results:
            with self.subTest(engine=engine, steps=steps):
                self.assertEqual(self.stats(engine, steps)["sample"], expected(engine, steps))

    def test_guest_notices_nothing(self):
        for key, result in self.results.items():
            with self.subTest(key):
                self.assertEqual(result.status, host.OK, result.stderr)

    def test_memory_is_hashed(self):
        pages = {BASE: code(), BASE + 0x3000: code()[:5]}
        for engine in BOTH:
            memory = self.stats(engine, self.STEPS[-1])["memory"]
            with self.subTest(engine=engine):
                for gpa, data in pages.items():
                    self.assertEqual(memory[f"{gpa:#x}"], f"{zlib.crc32(data.ljust(4096, bytes(1))):08x}")
                self.assertEqual([gpa for gpa in memory if int(gpa, 16) >= BASE], [f"{gpa:#x}" for gpa in pages])


if __name__ == "__main__":
    unittest.main()
