"""Drivers that break the rules of the rings on purpose, on the kvm engine: the device says that it needs a reset, the VM and the other
devices go on, hv's memory stays bounded, and no address of hv's gets into the guest. TRAPDOOR_KICKS=1000000 kicks a million times, which
takes about two minutes in the test host.

Elsewhere: memory that changes between two looks of the device, and a look for addresses of hv's in all of the guest's memory, are
tests/unit/test_virtio_race.c; a million kicks are test_virtio_kicks.c; queue registers after DRIVER_OK are checkpoint 4.10; a reset with
requests in flight is 4.14.
"""

import os
import pathlib
import random
import struct
import sys
import tempfile
import unittest

import host

LAB = host.TOP / "labs/04-virtio"
sys.path.append(str(LAB / "checks"))

from blockdevice import IN, SECTOR, UNTOUCHED, Disk, image  # noqa: E402
from buffers import REFUSED_CHAINS, REFUSED_POPS, REFUSED_TABLES, running  # noqa: E402
from driverscript import Report, Script  # noqa: E402
from model import Capture, RunResult  # noqa: E402
from notifications import Traffic  # noqa: E402
from ring import INDIRECT, INDIRECT_DESC, NEEDS_RESET, NO_INTERRUPT, RUNNING, STATUS, VERSION_1, WRITE, Device, Ring  # noqa: E402

KICKS = int(os.environ.get("TRAPDOOR_KICKS", "50000"))
PATIENCE = 100 + KICKS // 5000  # seconds; in the test host 9000 kicks a second were measured
RSS_MIB = 40  # of hv with 32 MiB of guest memory, most of which the guests here never touch
SIZES = 24  # malformed rings of each kind
SECTORS = 64  # of a disk


def every_kind(seed):
    """Every kind of malformed chain, several times, with another device at work between them."""
    rng = random.Random(seed)
    s = Script(rng)
    other = Traffic(s, 1, 16, VERSION_1)
    other.ring.set_flags(NO_INTERRUPT)
    other.d.start()
    for turn in range(3):
        for make in rng.sample(REFUSED_POPS + REFUSED_CHAINS + REFUSED_TABLES, 20):
            d, ring = running(s, 0, 1 << rng.randrange(3, 9), VERSION_1 | INDIRECT_DESC)
            what = make(rng, s, ring)
            ring.publish()
            ring.kick()
            d.read(STATUS, RUNNING | NEEDS_RESET, "after " + what)
            other.hand_over(1)
            other.ring.wait("the other device's used index after " + what)
    return s


def noise(seed):
    """Rings full of random bytes, registers written at random. Nothing is expected but that the other device works at the end."""
    rng = random.Random(seed)
    s = Script(rng)
    for _ in range(SIZES):
        d = Device(s, 0)
        d.negotiate(VERSION_1 | INDIRECT_DESC)
        ring = Ring(d, 1 << rng.randrange(0, 9))
        ring.configure()
        d.start()
        s.fill(ring.desc, 16 * ring.size, rng.getrandbits(60))
        s.fill(ring.avail, 6 + 2 * ring.size, rng.getrandbits(60))
        s.store(ring.avail + 2, 2, rng.randrange(ring.size + 2))
        for _ in range(ring.size if ring.size < 8 else 8):
            head = rng.randrange(ring.size)
            ring.descriptor(head, s.memory.take(16), rng.randrange(40), rng.randrange(8), rng.randrange(ring.size))
            s.store(ring.avail + 4 + 2 * rng.randrange(ring.size), 2, head)
        ring.kick()
        for _ in range(20):
            s.store(d.base + rng.randrange(0, 0x200), rng.choice((1, 2, 4, 8)), rng.getrandbits(64))
    other = Traffic(s, 1, 16, VERSION_1)
    other.ring.set_flags(NO_INTERRUPT)
    other.d.start()
    other.hand_over(5)
    other.ring.wait("the other device's used index")
    other.ring.look("the other device")
    return s


def many_kicks(seed):
    """Kicks of a queue that is empty, and of one that is broken."""
    s = Script(random.Random(seed))
    d, ring = running(s, 0, 16)
    s.loop(ring.kick, KICKS // 2)
    d.read(STATUS, RUNNING, "after so many kicks")
    ring.offer(99)
    ring.publish()
    ring.kick()
    d.read(STATUS, RUNNING | NEEDS_RESET, "after a bad chain")
    s.loop(ring.kick, KICKS // 2)
    d.read(STATUS, RUNNING | NEEDS_RESET, "after as many again")
    return s


def changing(seed):
    """Everything that requests are made of changes while they are in flight, on a disk that is slow enough for that: what was asked for
    when the device was told is what is done, where it was to be done."""
    rng = random.Random(seed)
    s = Script(rng)
    disk = Disk(s, image(seed, SECTORS), features=VERSION_1 | INDIRECT_DESC, size=64)
    ring = disk.ring
    for turn in range(3):
        free, heads, headers, tables = rng.sample(range(64), 64), {}, [], []
        for _ in range(20):
            sector = rng.randrange(SECTORS)
            headers.append(s.memory.take(16))
            s.write(headers[-1], IN.to_bytes(8, "little") + sector.to_bytes(8, "little"))
            target = s.memory.take(SECTOR + 1)
            s.set(target, SECTOR + 1, UNTOUCHED)
            buffers = [(headers[-1], 16, 0), (target, SECTOR, WRITE), (target + SECTOR, 1, WRITE)]
            if rng.randrange(2):
                tables.append(ring.table(buffers))
                buffers = [(*tables[-1], INDIRECT)]
            head = ring.chain(buffers, [free.pop() for _ in buffers])
            ring.offer(head)
            ring.used_idx += 1
            heads[head] = target, bytes(disk.content[sector * SECTOR : (sector + 1) * SECTOR])
        ring.publish()
        ring.kick()
        for header in headers:
            s.write(header, rng.getrandbits(128).to_bytes(16, "little"))
        for at, length in [*tables, (ring.desc, 16 * 64), (ring.avail + 4, 2 * 64)]:
            s.fill(at, length, rng.getrandbits(60))
        ring.wait("the used index after 20 reads that changed under way")
        first = ring.used_idx - 20

        def judge(data, first=first, heads=heads):
            seen = {struct.unpack_from("<II", data, 8 * ((first + i) % 64)) for i in range(20)}
            must = {(head, SECTOR + 1) for head in heads}
            return None if seen == must else ("these ids, each with %d: %s" % (SECTOR + 1, sorted(heads)), str(sorted(seen)))

        s.dump(ring.used + 4, 8 * 64, judge)
        for target, data in heads.values():
            s.same(target, data + b"\0", "what a read got that changed under way, and its status")
        disk.d.read(STATUS, RUNNING, "after requests that changed under way")
    return s


def disclosure(seed):
    """What devices wrote into the guest's memory, as seen by the guest, has no address of hv's."""
    rng = random.Random(seed)
    s = Script(rng)
    dumps = []
    for _ in range(6):
        d, ring = running(s, 0, 64, VERSION_1 | INDIRECT_DESC)
        at = s.memory.take(512)
        for turn in range(4):
            ring.offer(ring.chain([(at + 64 * turn, 0, WRITE), (at + 64 * turn, rng.randrange(1, 4), WRITE)]))
        make = rng.choice(REFUSED_CHAINS + REFUSED_TABLES)
        make(rng, s, ring)
        ring.publish()
        ring.kick()
        dumps += [s.dump(ring.used, 6 + 8 * 64), s.dump(ring.desc, 16 * 64)]
        dumps += [s.load(d.base + offset, 4) for offset in range(0, 0x200, 4)]
    s.dumps = dumps
    return s


SCRIPTS = {"every_kind": every_kind, "noise": noise, "many_kicks": many_kicks, "changing": changing, "disclosure": disclosure}
JUDGED = ("every_kind", "noise", "many_kicks", "changing")


class TestHostileVirtio(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.seed = host.seed_from_environment(random)
        print(f"hostile drivers: TRAPDOOR_SEED={cls.seed}")
        cls.scripts = {name: make(cls.seed) for name, make in SCRIPTS.items()}
        commands, files = {}, [f"{host.HV}:/work/hv", f"{host.GUESTS}/lab4/driver.elf:/work/driver.elf"]
        with tempfile.TemporaryDirectory() as top:
            disk = pathlib.Path(top) / "disk"
            disk.write_bytes(image(cls.seed, SECTORS))
            files.append(disk)
            for name, script in cls.scripts.items():
                path = pathlib.Path(top) / (name + ".script")
                path.write_bytes(script.image())
                files.append(path)
                devices = ["--disk", "disk,slow=3"] if name == "changing" else ["--rng", "--rng"]
                commands[name] = host.Command(
                    ["hv", "run", "--stats", "json", "--timeout", str(PATIENCE), "--engine", "kvm", "--mem", "32M", "--event-fds",
                     "on" if name == "many_kicks" else "off", *devices, "--initrd", path.name, "driver.elf"], limit=PATIENCE + 20)
            cls.results = host.run(commands, files, timeout=PATIENCE + 200)

    def result(self, name):
        seen = self.results[name]
        self.assertEqual(seen.status, host.OK, seen.stderr)
        self.assertIsNone(host.CRASH.search(seen.stderr))
        self.assertLess(seen.maxrss_kib, RSS_MIB * 1024)
        stderr = seen.stderr.encode()
        return RunResult(name, seen.status, stdout=Capture(head=seen.stdout, total=len(seen.stdout)),
                         stderr=Capture(head=stderr, total=len(stderr)))

    def test_the_scripts_saw_what_they_must(self):
        for name in JUDGED:
            with self.subTest(script=name):
                self.assertIsNone(self.scripts[name].judge(self.result(name)))

    def test_no_address_of_hv_is_shown(self):
        report = Report(self.result("disclosure"))
        script = self.scripts["disclosure"]
        words = b""
        for number in script.dumps:
            said = report.said.get(number)
            self.assertIsNotNone(said, "the guest said nothing of operation %x" % number)
            words += bytes.fromhex(said.rjust(8, "0"))[::-1] if len(said) <= 8 else bytes.fromhex(said)
        for at in range(0, len(words) - 7, 2):
            value = int.from_bytes(words[at : at + 8], "little")
            if 1 << 40 <= value < 1 << 47 and value >> 40 in (0x7F, 0x55, 0x56):
                self.fail("%#x looks like an address of a program" % value)


if __name__ == "__main__":
    unittest.main()
