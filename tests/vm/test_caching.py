"""The guests of checkpoints 2.13 to 2.16 find on the kvm engine, and in both modes of shadow paging, what the grader expects: its
expectations are the architecture's, and not what one MMU does. (Costs are asked about by the grader only, which has the witness.)
"""

import pathlib
import sys
import tempfile
import unittest

import graded
import host

LAB = host.TOP / "labs/02-shadow-paging"
sys.path.append(str(LAB / "checks"))

import caching  # noqa: E402
import elf  # noqa: E402

ENGINES = {"kvm": ("--engine", "kvm"), "vtlb": ("--shadow", "vtlb"), "cached": ("--shadow", "cached")}


class TestCaching(graded.OnEveryEngine, unittest.TestCase):
    checkpoints = caching.CHECKPOINTS
    engines = ENGINES

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.draw("guests of 2.13 to 2.16")
        commands, files = {}, [f"{host.HV}:/work/hv"]
        with tempfile.TemporaryDirectory() as top:
            for c in cls.checkpoints:
                for n, r in enumerate(c.runs):
                    image = pathlib.Path(top) / f"{c.id}-{n}.elf"
                    image.write_bytes(elf.patch_params((host.TOP / "build/guests" / r.guest).read_bytes(), cls.params[c.id, r.name]))
                    files.append(image)
                    for engine, options in ENGINES.items():
                        commands[c.id, r.name, engine] = host.Command(["hv", "run", *options, "--timeout", "20", image.name])
            cls.results = host.run(commands, files)


if __name__ == "__main__":
    unittest.main()
