"""scripts/bench_io.py --quick: every row of its table has a number for every VMM. How large they are is no matter of a test."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "scripts"))
import bench_io  # noqa: E402


class BenchIo(unittest.TestCase):
    def test_aims(self):
        """An aim says which way: a ratio that is too small misses one, and meets the other."""
        rows = dict.fromkeys(bench_io.ROWS, 100.0)
        rounds = [{"hv": rows | {"boot": 91.0, "send": 99.0, "receive": 101.0, "rss": 3073.0}, "pc": rows, "microvm": rows}]
        aims = {row: bench_io.aim(row, bench_io.medians(rounds, row)) for row in bench_io.ROWS}
        self.assertEqual({row for row, text in aims.items() if text.endswith("missed")}, {"boot", "send", "rss"})
        self.assertIn("receive", {row for row, text in aims.items() if text.endswith("met")})

    @unittest.skipUnless(os.environ.get("TRAPDOOR_MATRIX") and shutil.which("fio") and shutil.which("iperf3"),
                         "with TRAPDOOR_MATRIX=1, and with fio and iperf3, which make bench-io installs")
    def test_quick(self):
        with tempfile.TemporaryDirectory() as directory:
            found = pathlib.Path(directory, "io.json")
            done = subprocess.run([TOP / "scripts/bench_io.py", "--quick", "--json", found], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            (round_,) = json.loads(found.read_text(encoding="utf-8"))["testhost"]
        lines = done.stdout.splitlines()
        for row, (what, unit, _) in bench_io.ROWS.items():
            self.assertEqual(len([line for line in lines if line.startswith(f"{what}\t{unit}\t")]), 1, what)
            for vmm in bench_io.VMMS:
                self.assertGreater(round_[vmm][row], 0, f"{vmm}: {what}")


if __name__ == "__main__":
    unittest.main()
