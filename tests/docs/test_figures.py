"""The figures with numbers: scripts/figures.py and the other figures_*.py measure and draw them. Here nothing is measured."""

import pathlib
import sys
import tempfile
import unittest
from xml.etree import ElementTree

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

import figures  # noqa: E402
import figures_devices as devices  # noqa: E402
import figures_hardware as hardware  # noqa: E402

VTLB = {"exits": 100, "by_kind": {"trap #GP": 50, "trap #PF": 30, "trap #DB": 3, "interrupted": 7, "syscall": 10},
        "emulated": {"in": 4, "out": 16, "mov": 9, "cli": 21}, "shadow": {"true": 8, "hidden": 20, "emulated": 2}}
KVM = {"exits": 9, "by_kind": {"io out": 5, "io in": 3, "interrupted": 1}, "emulated": {}}
NESTED = {"engine": "hvm", "exits": 40, "by_kind": {"violation": 9, "cpuid": 2, "io": 20, "kick": 3, "interrupted": 4}, "emulated": {}}
HVM_SHADOW = {"engine": "hvm", "exits": 60, "by_kind": {"exception": 30, "control register": 7, "invlpg": 3, "io": 15},
              "emulated": {"mov": 2}, "shadow": {"true": 8, "hidden": 17, "emulated": 1, "switches": 4}}
OUTPUT = {"by_kind": {"interrupted": 4, "mmio write": 40, "mmio read": 21, "io out": 1},
          "virtio": [{"queues": [{"kicks": 0}, {"kicks": 18}]}]}
EVERY = {**figures.FIGURES, **hardware.FIGURES, **devices.FIGURES}


class Kinds(unittest.TestCase):
    def test_every_exit_is_counted_once(self):
        self.assertEqual(figures.by_kind(VTLB), [8, 20, 2, 30, 20, 20])
        self.assertEqual(figures.by_kind(KVM), [0, 0, 0, 0, 8, 1])
        for run in (VTLB, KVM):
            self.assertEqual(sum(figures.by_kind(run)), run["exits"])

    def test_so_are_those_of_the_hvm_engine(self):
        self.assertEqual(hardware.by_kind({"engine": "trap", **VTLB}), [8, 22, 0, 0, 30, 20, 20])
        self.assertEqual(hardware.by_kind(NESTED), [0, 0, 0, 9, 2, 20, 9])
        self.assertEqual(hardware.by_kind(HVM_SHADOW), [8, 18, 4, 0, 10, 15, 5])

    def test_so_are_those_of_devices(self):
        self.assertEqual(devices.output_kinds(OUTPUT), [0, 18, 43, 1])
        self.assertEqual(devices.register_kinds(OUTPUT, "off"), {"exits": [18, 21, 22], "kicks": 18})
        self.assertEqual(devices.register_kinds(OUTPUT, "on"), {"exits": [0, 21, 40], "kicks": 18})


class Committed(unittest.TestCase):
    """The figures that the pages and slides show."""

    def test_they_are_drawn_from_the_numbers_that_they_carry(self):
        for name, numbers in figures.carried(figures.IMAGES, EVERY).items():
            text = (figures.IMAGES / f"{name}.svg").read_text(encoding="utf-8")
            self.assertEqual(str(EVERY[name](numbers)), text, f"{name}.svg was changed by hand, or the script since")

    def test_they_show_what_the_text_beside_them_says(self):
        exits, pool = figures.carried(figures.IMAGES, figures.FIGURES).values()
        true, hidden = ({mode: counts[i] for mode, counts in exits.items()} for i in (0, 1))
        self.assertEqual(true["vtlb"], true["cached"])
        self.assertEqual(true["kvm"] + hidden["kvm"], 0)
        self.assertLess(3 * hidden["cached"], hidden["vtlb"])
        for counts, enough in ((pool["vtlb"], "32"), (pool["cached"], "500")):
            self.assertGreater(counts["20"], 1.2 * counts[enough])
        for pages in map(str, figures.POOLS):
            self.assertLess(pool["cached"][pages], pool["vtlb"][pages])

    def test_hardware_assistance_takes_away_what_the_text_says(self):
        exits, linux, walk = figures.carried(figures.IMAGES, hardware.FIGURES).values()
        own, hidden, wrong_tables, violations, instructions = range(5)
        self.assertEqual(list(exits)[:6], list(hardware.FORK))
        for shadow in ("vtlb", "cached"):
            self.assertLess(20 * exits[f"hvm, {shadow}"][instructions], exits[f"trap, {shadow}"][instructions])
            self.assertLess(1000, exits[f"hvm, {shadow}"][wrong_tables])
        for size, most in (("hvm, 4 KiB", 1200), ("hvm, 2 MiB", 3)):
            self.assertEqual(exits[size][own] + exits[size][hidden], 0)
            self.assertTrue(0 < exits[size][violations] <= most)
        self.assertGreater(exits["hvm, 4 KiB"][violations], 1024)
        self.assertGreater(linux["4 KiB"]["exits"][violations], 20000)
        self.assertLess(linux["2 MiB"]["exits"][violations], 100)
        self.assertEqual(linux["1 GiB"]["exits"][violations], 1)
        self.assertEqual(len(walk), 24)

    def test_devices_cost_what_the_text_says(self):
        output, linux = figures.carried(figures.IMAGES, devices.FIGURES).values()
        uart, notifications, registers = range(3)
        self.assertGreater(output["uart"][uart], devices.bench_console.KIB * 1024)
        self.assertEqual(output["each"][notifications], output["quiet"][notifications])
        self.assertLess(2 * output["each"][notifications], output["each"][registers])
        self.assertLess(sum(output["batch"]), 40)
        for device in ("entropy", "disk"):
            kicks = linux[device]["kicks"]
            self.assertEqual([linux[device]["exits"][0], linux[f"{device}, eventfd"]["exits"][0]], [kicks, 0])
            self.assertLess(0.9, linux[f"{device}, eventfd"]["kicks"] / kicks)
            self.assertGreater(min(linux[f"{device}, eventfd"]["exits"][1:]), kicks)
        self.assertLess(linux["disk, 1 MiB"]["kicks"], 10)


class Drawing(unittest.TestCase):
    def test_what_is_drawn_can_be_read_again(self):
        numbers = {"memory-exits": {"vtlb": [8, 20, 2, 30, 20, 20], "kvm": [0, 0, 0, 0, 8, 1]},
                   "memory-pool": {"vtlb": {"20": 900, "500": 30}, "cached": {"20": 90, "500": 20}}}
        with tempfile.TemporaryDirectory() as directory:
            for name, draw in figures.FIGURES.items():
                path = pathlib.Path(directory, f"{name}.svg")
                path.write_text(str(draw(numbers[name])), encoding="utf-8")
                ElementTree.parse(path)
            self.assertEqual(figures.carried(pathlib.Path(directory), figures.FIGURES), numbers)

    def test_lengths_are_to_scale(self):
        bars = [float(part.split('width="')[1].split('"')[0]) for part in figures.draw_exits({"vtlb": [10, 30, 0, 0, 0, 0]}).parts
                if 'height="62"' in part]
        self.assertEqual(len(bars), 2)
        self.assertAlmostEqual(bars[1], 3 * bars[0], places=3)
