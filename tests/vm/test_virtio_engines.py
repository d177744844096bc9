"""Devices are the same on every engine: scripts of Lab 4's checks (labs/04-virtio/checks), carried out on trap, hvm and kvm, must show what
the grader expects. The grader itself uses kvm only.
"""

import pathlib
import sys
import tempfile
import unittest

import graded
import host

LAB = host.TOP / "labs/04-virtio"
sys.path.append(str(LAB / "checks"))

import ladder  # noqa: E402

_, CHECKPOINTS = ladder.load(str(LAB))
ENGINES = ("trap", "hvm", "kvm")
# One or two of each topic; what counts to 65536 is left to the fast engine.
CHOSEN = {"4.2", "4.3", "4.7", "4.8", "4.10", "4.11", "4.12", "4.13", "4.16", "4.18"}


class TestVirtioEngines(graded.OnEveryEngine, unittest.TestCase):
    checkpoints = [c for c in CHECKPOINTS if c.id in CHOSEN]
    engines = ENGINES

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.draw("scripts of Lab 4")
        commands, files = {}, [f"{host.HV}:/work/hv", f"{host.GUESTS}/lab4/driver.elf:/work/driver.elf"]
        with tempfile.TemporaryDirectory() as top:
            for c in cls.checkpoints:
                for r in c.runs:
                    params = cls.params[c.id, r.name]
                    for engine in ENGINES:
                        prefix = f"{c.id}-{r.name}-{engine}-"
                        for name, content in r.files(params).items():
                            path = pathlib.Path(top) / (prefix + name)
                            path.write_bytes(content)
                            files.append(path)
                        args = [a.replace("@DIR@/", prefix).replace("/work/link", "/work/" + prefix + "link") for a in r.args(params)]
                        args[args.index("--engine") + 1] = engine
                        commands[c.id, r.name, engine] = host.Command(
                            ["hv", "run", "--stats", "json", "--timeout", "40", *args, "driver.elf"])
            cls.results = host.run(commands, files)


if __name__ == "__main__":
    unittest.main()
