"""Guests that attack with page tables (guests/hostile-paging.c): the shadow MMU of the trap engine, in both modes, with the smallest pool
and the largest. What test_hostile.py asks of every attack is asked here, and that there are never more shadow pages than the pool has.
"""

import re
import unittest

import test_hostile as hostile
from test_hostile import ENDED, MEM, SAYS_SO, STOPPED, Attack, stats

COMPRESSION = "address-space compression"
OTHER_MODES = "the trap engine runs 64-bit code only"
POOLS = (20, 500)

ATTACKS = (
    Attack("tables_outside", ENDED, output="vector_0e="),
    Attack("cycle", ENDED + STOPPED, SAYS_SO, variants=4, sanitized=2, kvm=True),
    Attack("monitor_mapped", STOPPED, COMPRESSION, r"mapped\n\Z", variants=9, sanitized=3),
    Attack("machine_addresses", ENDED, output=r"\Aroot=0\nroot=2\nroot=4\nroot=6\ncompleted=0\n\Z", kvm=True),
    Attack("fan_out", ENDED, output=r"\Asum=bb8\n\Z", kvm=True),
    Attack("all_tables", ENDED, output=r"\Asum=7d0\n\Z", kvm=True),
    Attack("garbage", ENDED + STOPPED, SAYS_SO + "|" + COMPRESSION + "|" + OTHER_MODES, variants=4, sanitized=2),
    Attack("cr3_garbage", STOPPED, hostile.TRIPLE, variants=3, sanitized=3),
    Attack("cr3_beyond", STOPPED, hostile.TRIPLE, r"\Avector_0d=b\ncompleted=0\n\Z", variants=4, sanitized=2),
    Attack("own_mapping", ENDED + STOPPED, SAYS_SO, variants=2, sanitized=2),
    Attack("own_pair", ENDED, output=r"\Afirst=1\nsecond=1230\nelsewhere=0\ncompleted=0\n\Z", kvm=True),
    Attack("stack_in_table", ENDED + STOPPED, SAYS_SO, variants=4, sanitized=4),
    Attack("descriptors_in_table", ENDED, output=r"(busy=1\n){4}", kvm=True),
    Attack("six_ways", ENDED, output=r"\Aabcdefg\n\Z", kvm=True),
    Attack("switches", ENDED, output=r"\Awrong=0\n\Z", kvm=True),
)


class HostilePaging(hostile.Hostile):
    attacks = ATTACKS

    @classmethod
    def engines(cls, attack):
        pools = POOLS if cls.program == "hv" else POOLS[:1]  # what is small is used up
        found = {f"trap {mode} {pages}": ["--shadow", mode, "--shadow-pages", str(pages)] for mode in ("vtlb", "cached") for pages in pools}
        if attack.kvm and cls.program == "hv":
            found["kvm"] = ["--engine", "kvm"]
        return found

    def test_the_pool_is_bounded(self):
        def check(_, result):
            shadow = stats(result)["shadow"]
            self.assertIn(shadow["pages"], POOLS)
            self.assertLessEqual(shadow["peak"], shadow["pages"])

        self.each_attack(("trap",), check)

    def test_all_engines_agree(self):
        """Where the architecture leaves no choice an attack finds the same in all modes."""
        for attack in self.attacks:
            if attack.statuses != ENDED:
                continue
            outputs = {key: result.stdout for key, result in self.results.items() if key[0] == attack.name and key[1] != "next"}
            with self.subTest(attack=attack.name):
                self.assertEqual(len(set(outputs.values())), 1, outputs)


class TestHostilePaging(HostilePaging, unittest.TestCase):
    program = "hv"


class TestHostilePagingSanitized(HostilePaging, unittest.TestCase):
    program = "hv-san"


if __name__ == "__main__":
    unittest.main()
