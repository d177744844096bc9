"""Saved VMs of every version of the stream that there ever was (tests/fixtures) are restored, and go on where they were: the
guest, beat.c, prints a sum over its memory at each beat, which is computed here from the beat's number.
"""

import functools
import itertools
import pathlib
import re
import unittest

import host

FIXTURES = host.TOP / "tests/fixtures"
DEVICES = "--disk disk --net user --rng --console --rings packed --balloon".split()
ENGINES = {"vcpu": ("trap", "hvm"), "kvm": ("kvm",)}
VERSIONS = 1  # that were released
SECONDS = 1.5
MASK = (1 << 64) - 1
# beat.h
PAGES, WORDS, CHANGES = (int(re.search(rf"#define BEAT_{name} (\d+)", (host.TOP / "tests/vm/guests/beat.h").read_text())[1])
                         for name in ("PAGES", "WORDS", "CHANGES"))


def mix(z):
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9 & MASK
    z = (z ^ z >> 27) * 0x94d049bb133111eb & MASK
    return z ^ z >> 31


def add(total, word):
    return (total ^ word) * 0x100000001b3 & MASK


@functools.cache
def page_sum(seed):
    return functools.reduce(add, (seed * (2 * word + 1) & MASK for word in range(WORDS)), 0)


def beats():
    """The guest's lines, from its first one on."""
    sums = [page_sum(0)] * PAGES
    for n in itertools.count(1):
        for i in range(CHANGES):
            seed = mix(n * CHANGES + i ^ MASK)
            sums[mix(n * CHANGES + i) % PAGES] = page_sum(seed | 1 if seed % 4 else 0)
        yield f"{n:x} {functools.reduce(add, sums, 0) >> 32:x}"


class StreamFixtures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "vmguests")
        cls.names = sorted(path.name for path in FIXTURES.glob("*.hv"))
        commands = {}
        for name in cls.names:
            kind = re.fullmatch(r"stream-v\d+-(\w+?)(-devices)?\.hv", name)
            for engine, lazy in itertools.product(ENGINES[kind[1]], ([], ["--lazy"])):
                options = [*lazy, "--engine", engine, "--timeout", str(SECONDS), *(DEVICES if kind[2] else [])]
                commands[name, engine, *lazy] = host.Command(["hv", "restore", name, *options], limit=30)
        commands = {"disk": host.Command(["dd", "if=/dev/zero", "of=disk", "bs=1k", "count=64"]), **commands}
        cls.results = host.run(commands, [host.HV, *(FIXTURES / name for name in cls.names)])

    def test_every_version_and_kind_is_there(self):
        self.assertEqual({re.sub(r"-devices", "", name) for name in self.names},
                         {f"stream-v{version}-{kind}.hv" for version in range(1, VERSIONS + 1) for kind in ENGINES})
        header = pathlib.Path(host.TOP / "labs/common/hv/stream.h").read_text()
        self.assertIn(f"#define STREAM_VERSION {VERSIONS}u", header, "a new version: let tests/fixtures/make.py write its files")

    def test_they_go_on(self):
        for name, result in self.results.items():
            if name == "disk":
                continue
            with self.subTest(name):
                self.assertEqual(result.status, host.TIMEOUT, result.stderr)
                # The rest of a line may be in front.
                lines = result.stdout.decode().split("\n")[1:-1]
                self.assertGreater(len(lines), 5)
                first = int(lines[0].split()[0], 16)
                self.assertGreater(first, 3, "it did not begin anew")
                self.assertEqual(lines, list(itertools.islice(beats(), first - 1, first - 1 + len(lines))))


if __name__ == "__main__":
    unittest.main()
