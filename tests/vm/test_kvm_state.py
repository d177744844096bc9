"""A CPU of the kvm engine in a file: everything that is in it, its time and its timers, from inside the guest.

The guests say what they find, and what is right is decided here: what the guest said before it was saved, and how long each hv ran.
"""

import random
import re
import tempfile
import unittest
from pathlib import Path

import host
import linuxguest
from host import Command

GUEST = host.GUESTS / "lab5/cpustate.elf"
MODES = ("oneshot", "deadline", "halt", "nmi", "step")
AWAY = 4  # seconds between the end of the one hv and the start of the other

# The machine's time in ms, and hv in the background until the guest is ready; then into a file, and back after a while. @ lines are ours.
SCRIPT = """
now() { cut -d' ' -f1 /proc/uptime | tr -d . | sed 's/^0*//;s/$/0/'; }
there() { for i in $(seq 600); do grep -q ready first && return; sleep 0.1; done; }
rm -f first file; : >first
hv run --engine kvm --timeout 60 --control /tmp/socket %(boot)s </dev/null >first & hv=$!
there; ready=$(now); sleep %(run)s
hv ctl /tmp/socket save file --quit >/dev/null 2>&1; saved=$?
wait $hv; echo "@first $saved $? $(($(now) - ready))"
cat first; echo
sleep %(away)d
begun=$(now)
(sleep %(run)s; echo go; sleep 1) | hv restore file --timeout 60 >second
echo "@second $? $(($(now) - begun))"
cat second
"""


def values(text, prefix):
    return {key: int(value, 16) for key, value in re.findall(rf"(?m)^{prefix}([\w.]+)=([0-9a-f]+)\r?$", text)}


class Saved:
    """What a run of SCRIPT said."""

    def __init__(self, result):
        text = result.stdout.decode(errors="replace")
        found = re.search(r"@first (\d+) (\d+) (\d+)\n(.*)@second (\d+) (\d+)\n(.*)", text, re.S)
        if not found:
            raise AssertionError(f"the script did not come to its end: {text[-500:]} {result.stderr[-500:]}")
        self.saved, self.first_status, self.first_ms, self.status, self.second_ms = map(int, found.group(1, 2, 3, 5, 6))
        self.first, self.second = found.group(4), found.group(7)
        self.trouble = result.stderr[-800:]


class CpuState(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "testhost", "build/vm/usage", "build/vm/keeper")
        cls.seed = host.seed_from_environment(random)
        commands = {mode: cls.command(f"--append 'seed={cls.seed:x} mode={mode} ms=3000' cpustate.elf", 0.2) for mode in MODES}
        with tempfile.TemporaryDirectory() as directory:
            initrd = Path(directory) / "keeper.cpio"
            initrd.write_bytes(linuxguest.initrd(host.TOP, "keeper 8\n", programs={"bin/keeper": host.VM_GUESTS / "keeper"}))
            boot = "--cpus 2 --mem 128M --initrd keeper.cpio --append 'console=ttyS0 quiet' vmlinuz"
            commands["linux"] = cls.command(boot, 3)
            files = [host.HV, GUEST, host.TOP / "build/testhost/vmlinuz", initrd]
            results = host.run(commands, files, mem=1024, timeout=400)
        cls.runs = {name: Saved(result) for name, result in results.items()}

    @staticmethod
    def command(boot, run):
        return Command(["sh", "-c", SCRIPT % {"boot": boot, "run": run, "away": AWAY}], limit=150)

    def test_all_end_well(self):
        for name, run in self.runs.items():
            with self.subTest(name, seed=self.seed):
                self.assertEqual((run.saved, run.first_status, run.status), (0, host.OK, host.OK), run.trouble)

    def test_registers_are_the_same(self):
        for mode in MODES:
            run = self.runs[mode]
            before, after = values(run.first + run.second, "a."), values(run.second, "b.")
            with self.subTest(mode, seed=self.seed):
                other = {key for key in before if key.startswith(("tsc", "kvmclock")) or key in ("ipis", "nmis")}
                self.assertGreater(len(before), 60)
                self.assertEqual({key: after.get(key) for key in before if key not in other},
                                 {key: value for key, value in before.items() if key not in other})

    def test_events_come_once(self):
        for mode in ("oneshot", "deadline", "halt"):
            run, after = self.runs[mode], values(self.runs[mode].second, "b.")
            with self.subTest(mode, seed=self.seed):
                if "fired=" in run.first:
                    self.skipTest("the machine is too slow: the timer fired before the VM was saved")
                self.assertEqual(run.second.count("fired="), 1)
                self.assertEqual((after["fires"], after["ipis"], after.get("wakes", 1)), (1, 1, 1))
                slack = 30 * values(run.first, "")["khz"] if mode == "oneshot" else 0
                self.assertLessEqual(after["early"], slack)

    def test_blocked_and_single_stepped(self):
        after = values(self.runs["nmi"].second, "b.")
        self.assertEqual((after["nmis"], after["nested"]), (2, 0), self.seed)
        after = values(self.runs["step"].second, "b.")
        self.assertEqual((after["traps"], after["silent"]), (19 * after["loops"] + 3, 0), self.seed)

    def test_clocks_neither_jump_nor_stall(self):
        """Between ready and the end a guest sees the time in which an hv ran it, and no other."""
        for mode in ("oneshot", "deadline", "halt"):
            run = self.runs[mode]
            before, after = values(run.first, "a."), values(run.second, "b.")
            with self.subTest(mode, seed=self.seed):
                seen = (after["kvmclock"] - before["kvmclock"]) / 1e6
                self.assertEqual(after["back"], 0)
                self.assertLess(seen, run.first_ms + run.second_ms)
                # The TSC says the same, as far as khz was measured well.
                self.assertAlmostEqual((after["tsc"] - before["tsc"]) / values(run.first, "")["khz"] / seen, 1, delta=0.05)
                self.assertEqual(after["kvmclock.flags"] & 2, 2)

    def test_linux_goes_on(self):
        run = self.runs["linux"]
        found = re.search(r"keeper: sums (\d+) wrong (\d+) ticks (\d+) longest (\d+) warps (\d+) back (\d+) monotonic (\d+) realtime (\d+)",
                          run.second)
        self.assertTrue(found, run.second[-500:] + run.trouble)
        sums, wrong, ticks, longest, warps, back, monotonic, realtime = map(int, found.groups())
        self.assertEqual((wrong, warps, back), (0, 0, 0))
        self.assertGreater(sums, 10)
        self.assertGreater(ticks, 100)  # of 10 ms, in 8 s: the machine may be slow
        self.assertLess(longest, AWAY * 900)  # it would be more than AWAY, had a clock jumped
        self.assertAlmostEqual(monotonic, realtime, delta=200)
        # 8 s of its own time took no less here; writing and reading the file and the power-off come to that.
        self.assertLess(monotonic, run.first_ms + run.second_ms)


if __name__ == "__main__":
    unittest.main()
