"""Checkpoints 4.12 to 4.14: the block device (guests/driver.c)."""

import random

from blockdevice import (DISCARD, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_RO, F_WRITE_ZEROES, GET_ID, IN, IOERR, OUT, SECTOR, UNSUPP,
                         UNTOUCHED, WRITEBACK, ZEROES, Disk, image)
from driverscript import Script, counted, devices, driver, judged, pattern
from model import Checkpoint, Failure
from ring import DEVICE_FEATURES, DEVICE_FEATURES_SEL, NEEDS_RESET, RUNNING, STATUS, VERSION_1, WRITE

UNSUPPORTED = (2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 255, 0x80000000, 0xFFFFFFFF)


def geometry(seed):
    """Sectors of the disk, and its ID."""
    rng = random.Random(~seed)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
    return rng.randrange(300, 700), "".join(rng.choice(letters) for _ in range(rng.choice((3, 7, 12, 19, 20))))


def option(seed, *more):
    return ["--disk", ",".join(("@DIR@/disk", "id=" + geometry(seed)[1]) + more)]


def files(seed):
    return {"disk": image(seed, geometry(seed)[0])}


# --- 4.12 -----------------------------------------------------------------------------------------------------------------

def transfers(seed):
    rng = random.Random(seed)
    s = Script(rng)
    sectors, name = geometry(seed)
    s.hint = "Header, data and status may be cut into descriptors anywhere: chain_read(), chain_in_iov(), chain_out_iov() (2.7.4.1)."
    disk = Disk(s, image(seed, sectors), features=VERSION_1 | F_FLUSH, size=1 << rng.randrange(5, 9))
    disk.read(0, 1, cuts=0)
    disk.read(sectors - 1, 1, cuts=0)
    for _ in range(4):
        count = rng.randrange(1, 20)
        disk.read(rng.randrange(sectors - count + 1), count)
        count = rng.randrange(1, 20)
        at = rng.randrange(sectors - count + 1)
        disk.write(at, count)
        disk.read(at, count)
    disk.write(sectors - 3, 3)
    disk.read(0, 8, cuts=12)

    s.hint = "The ID has 20 bytes, filled up with zeros, and no zero behind it if it is that long (5.2.6)."
    disk.request(GET_ID, length=20, data=name.encode().ljust(20, b"\0"), cuts=rng.randrange(4), what="GET_ID")

    s.hint = ("A request that goes beyond the end, or is not whole sectors, ends with IOERR (1), and nothing is transferred. The sum of "
              "sector and length may wrap.")
    for sector, count in rng.sample(((sectors, 1), (sectors - 1, 2), (sectors + 1, 1), (1 << 55, 1), ((1 << 64) - 1, 1), ((1 << 64) - 1, 2),
                                     (1 << 63, 8), (sectors - 3, 8)), 8):
        disk.request(IN, sector, length=count * SECTOR, status=IOERR)
        disk.request(OUT, sector, pattern(seed, count * SECTOR), status=IOERR)
    for length in rng.sample((1, 511, 513, 1000), 2):
        disk.request(IN, 0, length=length, status=IOERR)
        disk.request(OUT, 0, pattern(seed, length), status=IOERR)
    s.hint = "What there is not is answered with UNSUPP (2)."
    for type_ in rng.sample(UNSUPPORTED, 3):
        disk.request(type_, 0, status=UNSUPP)
    s.hint = "What was written is there, and nothing else has changed."
    disk.all("the whole disk at the end")
    disk.d.read(STATUS, RUNNING, "after all requests")

    s.hint = "Without a whole header, or without a byte for the status, nobody can be told how it ended: virtio_broken()."
    for kind in rng.sample(("header", "status", "order"), 3):
        disk.start()
        at = s.memory.take(600)
        s.write(at, bytes(16))
        disk.ring.offer(disk.ring.chain(
            {"header": [(at, rng.randrange(1, 16), 0), (at + 20, 513, WRITE)], "status": [(at, 16, 0)],
             "order": [(at, 8, 0), (at + 20, 512, WRITE), (at + 8, 8, 0), (at + 540, 1, WRITE)]}[kind]))
        disk.ring.publish()
        disk.ring.kick()
        disk.d.read(STATUS, RUNNING | NEEDS_RESET, {
            "header": "after a request with less than a header", "status": "after a request without a byte for its status",
            "order": "after a request with a readable buffer behind a writable one"}[kind])
    return s


def no_errors(result, script):
    """What must be refused is refused before the backend sees it."""
    seen = (devices(result) or [{}])[0].get("errors")
    if seen == 0:
        return None
    return Failure("no request to reach the disk's backend that this cannot carry out", "%s" % seen,
                   "What does not exist, or must not be written, is refused by the device itself: bounds without a sum that "
                   "wraps.", result.name)


# --- 4.13 -----------------------------------------------------------------------------------------------------------------

def durable(seed):
    rng = random.Random(seed)
    s = Script(rng)
    sectors, _ = geometry(seed)
    features = VERSION_1 | F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_CONFIG_WCE
    disk = Disk(s, image(seed, sectors), features=features)
    s.flushes, s.writes = 0, 0
    s.hint = "A flush is complete when DISK_FLUSH is, and not before. With a cache that writes back, writes need none."
    for _ in range(rng.randrange(2, 5)):
        for _ in range(rng.randrange(0, 3)):
            disk.write(rng.randrange(sectors - 4), rng.randrange(1, 4))
            s.writes += 1
        disk.flush()
        s.flushes += 1
    s.hint = "config.writeback = 0: each write is durable when it is complete, so a flush goes behind it (5.2.6.2)."
    disk.d.write(WRITEBACK, 0, size=1)
    for _ in range(rng.randrange(1, 4)):
        disk.write(rng.randrange(sectors - 4), rng.randrange(1, 4))
        s.writes += 1
        s.flushes += 1
    disk.d.write(WRITEBACK, 1, size=1)

    s.hint = ("Discard and write-zeroes have ranges as data, 16 bytes each: sector, count, flags. All are looked at before anything is "
              "done. Afterwards write-zeroes reads as zeros.")
    places = rng.sample(range(0, sectors - 16, 16), 6)
    disk.ranges(ZEROES, [(places[0], rng.randrange(1, 16))], flags=rng.randrange(2))
    disk.ranges(ZEROES, [(at, rng.randrange(1, 16)) for at in places[1:4]])
    disk.ranges(ZEROES, [(places[4], 1), (sectors, 1)], status=IOERR)
    disk.ranges(ZEROES, [(sectors - 1, 2)], status=IOERR)
    disk.ranges(ZEROES, [((1 << 64) - 1, 2)], status=IOERR)
    disk.ranges(DISCARD, [(sectors - 8, 9)], status=IOERR)
    disk.ranges(ZEROES, [(places[5], 1)], status=UNSUPP, flags=2, what="write-zeroes with a flag that does not exist")
    disk.ranges(DISCARD, [(places[5], 1)], status=UNSUPP, flags=1, what="a discard with the flag of write-zeroes")
    disk.request(ZEROES, 0, bytes(15), status=IOERR, what="write-zeroes with 15 bytes of ranges")
    disk.all("the whole disk after write-zeroes")
    count = rng.randrange(1, 8)
    disk.request(DISCARD, 0, places[5].to_bytes(8, "little") + count.to_bytes(4, "little") + bytes(4), what="a discard")
    disk.content = disk.content[: places[5] * SECTOR]  # what a discard leaves is not said
    disk.request(IN, 0, length=len(disk.content), data=bytes(disk.content), what="the disk before what was discarded")

    s.hint = "A driver that did not accept FLUSH cannot ask for it: then each write is durable when it is complete."
    disk.features = VERSION_1
    disk.start()
    for _ in range(rng.randrange(1, 3)):
        disk.write(rng.randrange(places[5] - 1) if places[5] > 1 else sectors - 1, 1)
        s.writes += 1
        s.flushes += 1
    s.hint = "Discard and write-zeroes that were not agreed on: UNSUPP."
    disk.ranges(ZEROES, [(0, 1)], status=UNSUPP)
    disk.ranges(DISCARD, [(0, 1)], status=UNSUPP)
    return s


def durable_counts(result, script):
    found = (devices(result) or [{}])[0]
    for name, value in (("flushes", script.flushes), ("writes", script.writes)):
        if found.get(name) != value:
            return Failure("%d %s to reach the disk's backend" % (value, name), "%s" % found.get(name),
                           "flush() and disk_done() in blk.c: what is said to be durable must have been flushed.", result.name)
    return None


def read_only(seed):
    rng = random.Random(seed)
    s = Script(rng)
    sectors, _ = geometry(seed)
    s.hint = "A disk with ,ro offers RO, and takes no write: IOERR, and no change."
    disk = Disk(s, image(seed, sectors), features=VERSION_1 | rng.choice((F_RO, 0)) | rng.choice((F_FLUSH, 0)))
    disk.d.write(DEVICE_FEATURES_SEL, 0)
    number = s.load(disk.d.base + DEVICE_FEATURES, 4)

    def judge(report):
        value = report.value(number) or 0
        return None if value & F_RO else ("DeviceFeatures with RO (bit 5)", "%#x" % value)

    s.check(judge)
    for _ in range(2):
        disk.request(OUT, rng.randrange(sectors - 2), pattern(seed, SECTOR), status=IOERR)
    disk.ranges(ZEROES, [(0, 1)], status=UNSUPP)
    disk.all("the whole disk, which is read-only")
    return s


# --- 4.14 -----------------------------------------------------------------------------------------------------------------

def batches(seed):
    """Many requests with one kick, in any order back; then resets while they are in flight."""
    rng = random.Random(seed)
    s = Script(rng)
    sectors, _ = geometry(seed)
    disk = Disk(s, image(seed, sectors), size=256)
    ring = disk.ring
    s.hint = "Requests of one kick are under way together, and each comes back once, whenever it is done."
    for turn in range(2):
        free = rng.sample(range(256), 256)
        heads = {}
        for _ in range(40):
            count = rng.randrange(1, 4)
            sector = rng.randrange(sectors - count + 1)
            length = count * SECTOR
            header = s.memory.take(16)
            s.write(header, IN.to_bytes(8, "little") + sector.to_bytes(8, "little"))
            target = s.memory.take(length + 1)
            s.set(target, length + 1, UNTOUCHED)
            numbers = [free.pop() for _ in range(3)]
            ring.offer(ring.chain([(header, 16, 0), (target, length, WRITE), (target + length, 1, WRITE)], numbers))
            heads[numbers[0]] = length + 1
            ring.used_idx += 1
            disk_data = bytes(disk.content[sector * SECTOR : sector * SECTOR + length])
            heads[numbers[0]] = length + 1, target, disk_data
        ring.publish()
        ring.kick()
        what = "40 reads with one kick"
        ring.wait("the used index after " + what)
        first = ring.used_idx - 40

        def judge(data, first=first, heads=heads):
            seen = {}
            for i in range(40):
                at = 8 * ((first + i) % 256)
                seen[int.from_bytes(data[at : at + 4], "little")] = int.from_bytes(data[at + 4 : at + 8], "little")
            for head, (length, _, _) in heads.items():
                if seen.get(head) != length:
                    return ("the used ring after 40 reads with one kick: id %d, length %d" % (head, length),
                            "no such id" if head not in seen else "length %d" % seen[head])
            return None

        s.dump(ring.used + 4, 8 * 256, judge)
        for _, target, data in heads.values():
            s.same(target, data + b"\0", "what one of 40 reads got, and its status")

    s.hint = ("A reset is over when no request is in flight: blk_drain(). Afterwards the driver's memory is its own again, and the device "
              "writes nowhere.")
    disk.size = 256
    target = s.memory.take(85 * 8 * SECTOR)
    for turn in range(3):
        disk.start()
        ring = disk.ring
        header = s.memory.take(16)
        s.write(header, IN.to_bytes(8, "little") + bytes(8))
        for i in range(85):
            ring.offer(ring.chain([(header, 16, 0), (target + i * 8 * SECTOR, 8 * SECTOR, WRITE), (target - 1, 1, WRITE)],
                                  [3 * i, 3 * i + 1, 3 * i + 2]))
        ring.publish()
        ring.kick()
        disk.d.reset()
        s.set(target, 85 * 8 * SECTOR, turn + 1)
        s.set(ring.used, 6 + 8 * 256, turn + 1)
        disk.d.read(STATUS, 0, "after a reset with requests in flight")
        s.rest(4)
        s.same(target, bytes([turn + 1]) * (85 * 8 * SECTOR), "the driver's memory after a reset with requests in flight")
        s.same(ring.used, bytes([turn + 1]) * (6 + 8 * 256), "the used ring after a reset with requests in flight")
    disk.start()
    disk.read(rng.randrange(sectors - 2), 2)
    s.resets = disk.d.resets
    return s


def batch_counts(result, script):
    return counted(result, 0, "the disk's resets", script.hint, resets=script.resets, broken=0)


CHECKPOINTS = [
    Checkpoint(
        "4.12", "Block: read and write", 8,
        "Sectors go from the image into the guest's memory and back, however the driver has cut the request into descriptors. What does "
        "not exist is refused with a status, not with a reset.",
        "begin(), transfer(), inside() and finish() in blk.c.",
        runs=[driver("transfers", transfers, option, files=files)], verify=judged(("transfers", transfers, no_errors)), depends=["4.6"]),
    Checkpoint(
        "4.13", "Block: durable means durable, and read-only means read-only", 8,
        "What the driver was told is on stable storage has been flushed there. Discard and write-zeroes touch their ranges and nothing "
        "else. A read-only disk is not written to.",
        "flush(), ranges(), disk_done() and choose_cache() in blk.c.",
        runs=[driver("durable", durable, option, files=files),
              driver("read_only", read_only, lambda seed: option(seed, "ro"), files=files)],
        verify=judged(("durable", durable, durable_counts), ("read_only", read_only, no_errors)), depends=["4.12"]),
    Checkpoint(
        "4.14", "Requests in flight, and a reset", 6,
        "Many requests are under way at a time and come back in any order. A reset owns all of them: when it is over, the device writes "
        "nowhere.",
        "blk_kick() and blk_drain() in blk.c.",
        runs=[driver("batches", batches, lambda seed: option(seed, "slow=2"), files=files, timeout=10.0)],
        verify=judged(("batches", batches, batch_counts)), depends=["4.12"]),
]
