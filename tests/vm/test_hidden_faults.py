"""A hidden page fault happens to the machine and not to the guest: what was pending or held off before it is so afterwards."""

import unittest

import host


class TestHiddenFaults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "vmguests")
        commands = {mode: host.Command(["hv", "run", "--timeout", "10", "--trace", "exits", "--shadow", mode, "held.elf"])
                    for mode in ("off", "vtlb")}
        cls.results = host.run(commands, [host.HV, host.VM_GUESTS / "held.elf"])

    def test_interrupts_stay_held_off(self):
        """The interrupt strikes behind HLT, although the page of HLT was not in the shadow when STI had been executed."""
        for mode, result in self.results.items():
            with self.subTest(mode, trace=result.stderr[-2000:]):
                self.assertEqual(result.status, host.OK)
                self.assertIn(b"halt.events=1\n", result.stdout)
                self.assertIn(b"halt0.vector=24\n", result.stdout)
                self.assertIn(b"halt0.frame=2000001\n", result.stdout)

    def test_there_was_a_hidden_fault(self):
        self.assertRegex(self.results["vtlb"].stderr, r"rip 0x2000000 .*hidden: the shadow of 0x2000000 is filled")


if __name__ == "__main__":
    unittest.main()
