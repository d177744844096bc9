"""The figures with numbers: scripts/figures.py measures and draws them. Here nothing is measured."""

import pathlib
import sys
import tempfile
import unittest
from xml.etree import ElementTree

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

import figures  # noqa: E402

VTLB = {"exits": 100, "by_kind": {"trap #GP": 50, "trap #PF": 30, "trap #DB": 3, "interrupted": 7, "syscall": 10},
        "emulated": {"in": 4, "out": 16, "mov": 9, "cli": 21}, "shadow": {"true": 8, "hidden": 20, "emulated": 2}}
KVM = {"exits": 9, "by_kind": {"io out": 5, "io in": 3, "interrupted": 1}, "emulated": {}}


class Kinds(unittest.TestCase):
    def test_every_exit_is_counted_once(self):
        self.assertEqual(figures.by_kind(VTLB), [8, 20, 2, 30, 20, 20])
        self.assertEqual(figures.by_kind(KVM), [0, 0, 0, 0, 8, 1])
        for run in (VTLB, KVM):
            self.assertEqual(sum(figures.by_kind(run)), run["exits"])


class Committed(unittest.TestCase):
    """The figures that the pages and slides show."""

    def test_they_are_drawn_from_the_numbers_that_they_carry(self):
        for name, numbers in figures.carried(figures.IMAGES).items():
            text = (figures.IMAGES / f"memory-{name}.svg").read_text(encoding="utf-8")
            self.assertEqual(str(figures.FIGURES[name](numbers)), text, f"memory-{name}.svg was changed by hand, or figures.py since")

    def test_they_show_what_the_text_beside_them_says(self):
        exits, pool = (figures.carried(figures.IMAGES)[name] for name in ("exits", "pool"))
        true, hidden = ({mode: counts[i] for mode, counts in exits.items()} for i in (0, 1))
        self.assertEqual(true["vtlb"], true["cached"])
        self.assertEqual(true["kvm"] + hidden["kvm"], 0)
        self.assertLess(3 * hidden["cached"], hidden["vtlb"])
        for counts, enough in ((pool["vtlb"], "32"), (pool["cached"], "500")):
            self.assertGreater(counts["20"], 1.2 * counts[enough])
        for pages in map(str, figures.POOLS):
            self.assertLess(pool["cached"][pages], pool["vtlb"][pages])


class Drawing(unittest.TestCase):
    def test_what_is_drawn_can_be_read_again(self):
        numbers = {"exits": {"vtlb": [8, 20, 2, 30, 20, 20], "kvm": [0, 0, 0, 0, 8, 1]},
                   "pool": {"vtlb": {"20": 900, "500": 30}, "cached": {"20": 90, "500": 20}}}
        with tempfile.TemporaryDirectory() as directory:
            for name, draw in figures.FIGURES.items():
                path = pathlib.Path(directory, f"memory-{name}.svg")
                path.write_text(str(draw(numbers[name])), encoding="utf-8")
                ElementTree.parse(path)
            self.assertEqual(figures.carried(pathlib.Path(directory)), numbers)

    def test_lengths_are_to_scale(self):
        bars = [float(part.split('width="')[1].split('"')[0]) for part in figures.draw_exits({"vtlb": [10, 30, 0, 0, 0, 0]}).parts
                if 'height="62"' in part]
        self.assertEqual(len(bars), 2)
        self.assertAlmostEqual(bars[1], 3 * bars[0], places=3)
