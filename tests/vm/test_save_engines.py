"""Saving on trap and hvm: the course kernel is saved at random moments and goes on from the file, on the same engine or the other one, with
shadow paging or without. What it prints in all its places together is what it prints when nobody disturbs it.
"""

import pathlib
import random
import re
import tempfile
import unittest

import host

# Options of hv behind --engine, with commas.
FLAT = ("trap", "hvm", "hvm,--page-size,4K", "hvm,--shadow,cached", "trap,--shadow,vtlb", "trap,--shadow,cached")
PAGED = ("hvm", "trap,--shadow,vtlb", "trap,--shadow,cached", "hvm,--shadow,vtlb", "hvm,--shadow,cached")
KERNELS = {"kernel.elf": FLAT, "paging.elf": PAGED}
LIFE_US = 900000  # about as long as the kernel runs
HOPS = 3


def lives(rng):
    """Each engine begins one, and then comes any."""
    for kernel, engines in KERNELS.items():
        for first in engines:
            life = [kernel, first]
            for _ in range(HOPS):
                life += [rng.randrange(20000, LIFE_US // HOPS), rng.choice(engines)]
            yield tuple(life)


class TestSaveEngines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        seed = host.seed_from_environment(random)
        print(f"TRAPDOOR_SEED={seed}", flush=True)
        cls.lives = list(lives(random.Random(seed)))
        commands = {("undisturbed", kernel): host.Command(["hv", "run", "--engine", "hvm", kernel]) for kernel in KERNELS}
        commands |= {life: host.Command(["sh", "hops.sh", *map(str, life)]) for life in cls.lives}
        # What cannot go on there.
        commands["paged to flat"] = host.Command(["sh", "hops.sh", "paging.elf", "trap,--shadow,cached", "200000", "trap"])
        commands["real to trap"] = host.Command(["sh", "hops.sh", "loop.bin", "hvm", "200000", "trap"])
        commands["patched to hvm"] = host.Command(["sh", "hops.sh", "kernel.elf", "trap,--patch,on", "200000", "hvm"])
        files = [host.HV, *(host.GUESTS / kernel for kernel in KERNELS), host.TOP / "tests/vm/hops.sh"]
        with tempfile.TemporaryDirectory() as top:
            loop = pathlib.Path(top) / "loop.bin"
            loop.write_bytes(b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa")  # a boot sector: jmp to itself
            cls.results = host.run(commands, [*files, loop])

    def test_the_transcript_is_that_of_an_undisturbed_run(self):
        saved = 0
        for life in self.lives:
            result, expected = self.results[life], self.results["undisturbed", life[0]]
            places = re.findall(r"^place (\S+) (\d+) (\w+)$", result.stderr, re.M)
            with self.subTest(life=life, places=places):
                self.assertEqual(result.stdout.decode(), expected.stdout.decode(), result.stderr)
                self.assertEqual(result.status, host.OK, result.stderr)
                self.assertTrue(all(status == "0" for _, status, _ in places), places)
                saved += sum(end == "saved" for _, _, end in places)
        # A slow kernel would make this test easy, a fast one empty.
        self.assertGreater(saved, len(self.lives))

    def refused(self, name, status, words):
        result = self.results[name]
        self.assertEqual(result.status, status, result.stderr)
        self.assertRegex(result.stderr, words)
        self.assertEqual([end for *_, end in re.findall(r"^place (\S+) (\d+) (\w+)$", result.stderr, re.M)], ["saved", "ended"])

    def test_tables_that_count_do_not_become_flat_memory(self):
        self.refused("paged to flat", host.USAGE, "its page tables count where it comes from, and are not one to one")

    def test_a_guest_in_real_mode_is_none_for_trap(self):
        self.refused("real to trap", host.USAGE, "the guest is in real mode, and the trap engine runs 64-bit code only")

    def test_a_patched_image_stays_with_trap(self):
        self.refused("patched to hvm", host.USAGE, "the guest's image was patched for the trap engine")


if __name__ == "__main__":
    unittest.main()
