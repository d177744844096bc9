"""scripts/bench_migrate.py: what it reads off a run. A run in which the guest lost anything gives no number."""

import json
import pathlib
import sys
import unittest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "scripts"))
import bench_migrate  # noqa: E402

JOB = {"ms": 5000.5, "pages": 40000, "downtime": {"total_ms": 80.25}, "state": "done"}
HV = "@job " + json.dumps(JOB) + "\n@src churn 900 0 4000\n@dst churn 1000 0 95000\n@dst churn 2000 0 5000\n"
QEMU = ("@mon Migration status: completed\n@mon total time: 9000 ms\n@mon downtime: 120 ms\n@mon duplicate: 300 pages\n"
        "@mon normal: 700 pages\n@dst churn 2000 0 150000\n")


class BenchMigrate(unittest.TestCase):
    def test_hv(self):
        got = bench_migrate.read("hv", HV)
        self.assertEqual({row: got[row] for row in bench_migrate.ROWS}, {"total": 5000.5, "pages": 40000, "downtime": 80.25, "gap": 95.0})

    def test_qemu(self):
        self.assertEqual(bench_migrate.read("qemu", QEMU), {"total": 9000.0, "pages": 1000.0, "downtime": 120.0, "gap": 150.0})

    def test_without_end(self):
        got = bench_migrate.read("qemu", QEMU.replace("completed", "active").replace("@dst", "@src"))
        self.assertEqual(set(got.values()), {float("inf")})

    def test_not_as_it_was(self):
        for output in (HV.replace("@dst churn 1000 0", "@dst churn 1000 1"), HV.replace("@dst", "@src"),
                       QEMU.replace("downtime", "time down")):
            with self.assertRaises(ValueError):
                bench_migrate.read("hv" if "@job" in output else "qemu", output)


if __name__ == "__main__":
    unittest.main()
