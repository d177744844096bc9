"""Checkpoints 4.1 to 4.3: the registers before any buffer is handed over (guests/driver.c)."""

import random

from driverscript import MEMORY, SLOT_BASE, Script, counted, driver, judged
from model import Checkpoint
from ring import (ACKNOWLEDGE, DEVICE_FEATURES, DEVICE_FEATURES_SEL, DEVICE_ID, DRIVER, DRIVER_FEATURES, DRIVER_FEATURES_SEL, DRIVER_OK,
                  EVENT_IDX, FAILED, FEATURES_OK, INDIRECT_DESC, MAGIC, MAX, NEEDS_RESET, QUEUE_DESC, QUEUE_DEVICE,
                  QUEUE_DRIVER, QUEUE_READY, QUEUE_SEL, QUEUE_SIZE, QUEUE_SIZE_MAX, RING_PACKED, RUNNING, STATUS, VENDOR, VERSION,
                  VERSION_1, Device, Ring)

RNG = 4  # device type


def offers(seed):
    """What two entropy devices offer: (options, features) of each. The first has something that it does not offer."""
    rng = random.Random(seed)
    found = []
    for slot in (0, 1):
        indirect, event, packed = (rng.randrange(2) for _ in range(3))
        if slot == 0 and indirect and event:
            event = 0
        words = ["packed" if packed else "split", "indirect=" + ("on" if indirect else "off"), "event-idx=" + ("on" if event else "off")]
        features = VERSION_1 | INDIRECT_DESC * indirect | EVENT_IDX * event | RING_PACKED * packed
        found.append((["--rings", ",".join(words), "--rng"], features))
    return found


def options(seed):
    return [word for words, _ in offers(seed) for word in words]


# --- 4.1 ------------------------------------------------------------------------------------------------------------------

def identification(seed):
    rng = random.Random(~seed)
    s = Script(rng)
    order = [0, 1] * 2
    rng.shuffle(order)
    for slot in order:
        d, features = Device(s, slot), offers(seed)[slot][1]
        s.section()
        s.hint = "The registers that say who the device is: table 4.2.2; the constants are at the top of mmio.c."
        for register, value in rng.sample(((MAGIC, 0x74726976), (VERSION, 2), (DEVICE_ID, RNG), (VENDOR, 0x50415254)), 4):
            d.read(register, value, "of the entropy device")
        s.hint = ("DeviceFeatures shows 32 bits of what the device offers, those that DeviceFeaturesSel chooses: 0 the low half of "
                  "d->offered, 1 the high one. Whatever else is chosen, there is nothing there.")
        for select in rng.sample((0, 1, 2, 3, 32, 33, 0x80000000, 0xFFFFFFFF, rng.randrange(4, 1 << 32)), 9) + [1, 0]:
            d.write(DEVICE_FEATURES_SEL, select)
            value = features >> 32 * select & 0xFFFFFFFF if select < 2 else 0
            d.read(DEVICE_FEATURES, value, "with DeviceFeaturesSel = %#x" % select)
        s.hint = "Registers are 4 bytes wide; an access of another size is none."
        d.write(DEVICE_FEATURES_SEL, 1, size=rng.choice((1, 2, 8)))
        d.read(DEVICE_FEATURES, features & 0xFFFFFFFF, "after a store of the wrong size to DeviceFeaturesSel")
        d.read(MAGIC, 0, "read with 2 bytes", size=2)
    return s


# --- 4.2 ------------------------------------------------------------------------------------------------------------------

def steps(d, *values):
    """Writes to Status, and what it reads as behind each."""
    for written, expected in values:
        d.write(STATUS, written)
        d.read(STATUS, expected, "after a write of %#x" % written)


def status(seed):
    rng = random.Random(~seed)
    s = Script(rng)
    d, features = Device(s, 0), offers(seed)[0][1]
    missing = [bit for bit in (INDIRECT_DESC, EVENT_IDX) if not features & bit]
    both = ACKNOWLEDGE | DRIVER
    s.hint = "Each step adds a bit to Status; a bit that was set stays until the reset, which is a write of 0. (2.1, 3.1.1)"
    d.reset()
    d.read(STATUS, 0, "after a reset")
    steps(d, (ACKNOWLEDGE, ACKNOWLEDGE), (both, both), (DRIVER, both), (ACKNOWLEDGE, both))
    s.hint = "DRIVER_OK without FEATURES_OK: nothing is agreed on, so the device cannot start."
    steps(d, (both | DRIVER_OK, both))
    s.hint = "NEEDS_RESET is the device's to set, not the driver's."
    steps(d, (both | NEEDS_RESET, both))
    s.hint = ("FEATURES_OK stays 0 when the driver accepted what was not offered, or did not accept VERSION_1; Status is read back to "
              "find out. The driver may then choose anew.")
    good = VERSION_1 | rng.choice((0, features & (INDIRECT_DESC | EVENT_IDX)))
    wrong = [good | rng.choice(missing), good & ~VERSION_1, good | 1 << rng.randrange(24), good | 1 << rng.randrange(41, 64), 0]
    for tried in rng.sample(wrong, len(wrong)):
        d.features(tried)
        d.write(STATUS, both | FEATURES_OK)
        d.read(STATUS, both, "after FEATURES_OK with the features %#x, where %#x are offered" % (tried, features))
    d.features(good)
    steps(d, (both | FEATURES_OK, both | FEATURES_OK))
    s.hint = "FAILED is a note of the driver's; it stays like the others."
    d.reset()
    steps(d, (both | FAILED, both | FAILED), (both, both | FAILED))
    s.hint = "A reset takes back what the driver accepted, too: VERSION_1 is not agreed on any more."
    d.reset()
    d.read(STATUS, 0, "after a reset")
    steps(d, (both, both), (both | FEATURES_OK, both))
    s.hint = "DriverFeaturesSel chooses the half that DriverFeatures writes; a third half does not exist."
    d.features(good)
    d.write(DRIVER_FEATURES_SEL, rng.choice((2, 33, 0xFFFFFFFF)))
    d.write(DRIVER_FEATURES, 0)
    d.write(DRIVER_FEATURES, 0xFFFFFFFF)
    steps(d, (both | FEATURES_OK, both | FEATURES_OK))
    s.hint = "From FEATURES_OK on the features do not change."
    d.features(VERSION_1 | rng.choice(missing))
    steps(d, (RUNNING, RUNNING))
    d.features(0)
    d.read(STATUS, RUNNING, "after features were written to a device that runs")
    s.good, s.resets = good, d.resets
    return s


def status_counts(result, script):
    return counted(result, 0, "the driver's features, and how often it reset the device",
                   "write_features() keeps them until FEATURES_OK; a write of 0 to Status is a reset, nothing else is.",
                   features=script.good, resets=script.resets, broken=0)


# --- 4.3 ------------------------------------------------------------------------------------------------------------------

def queue_registers(seed):
    rng = random.Random(~seed)
    s = Script(rng)
    d, features = Device(s, 0), VERSION_1
    agreed = ACKNOWLEDGE | DRIVER | FEATURES_OK
    s.broken = 0
    s.hint = "QueueSel may name a queue that does not exist: then QueueSizeMax and QueueReady are 0, and writes go nowhere."
    d.negotiate(features)
    for select in rng.sample((0, 1, 2, 3, 4, 5, 31, 255, 256, 0x10000, 0x80000000, 0xFFFFFFFF), 12) + [0]:
        d.write(QUEUE_SEL, select)
        if select:
            d.write(QUEUE_SIZE, rng.choice((0, 3, 256, 65536)))
            d.write(QUEUE_READY, 1)
        d.read(QUEUE_SIZE_MAX, MAX if select == 0 else 0, "of queue %#x" % select)
        d.read(QUEUE_READY, 0, "of queue %#x" % select)
    d.read(STATUS, agreed, "after writes to queues that do not exist")

    s.hint = "A queue of this size, aligned and in memory: it becomes ready, up to the last byte of memory."
    for size in rng.sample([1 << n for n in range(9)], 4):
        d.negotiate(features)
        Ring(d, size).configure()
    size = 1 << rng.randrange(1, 9)
    for area in ("desc", "avail", "used"):
        ring = Ring(d, size)
        length = {"desc": 16 * size, "avail": 6 + 2 * size, "used": 6 + 8 * size}[area]
        setattr(ring, area, MEMORY - length & {"desc": ~15, "avail": ~1, "used": ~3}[area])
        d.negotiate(features)
        ring.configure()

    s.hint = ("A queue is made ready after FEATURES_OK, not before. One that is ready can be taken back with 0, and configured anew. "
              "A reset takes every queue back.")
    d.reset()
    d.write(STATUS, ACKNOWLEDGE | DRIVER)
    Ring(d, size).configure(ready=0)
    d.write(QUEUE_READY, 1)
    d.read(QUEUE_READY, 0, "of a queue that was to be ready before FEATURES_OK")
    d.negotiate(features)
    d.read(QUEUE_READY, 0, "after a reset")
    ring = Ring(d, size)
    ring.configure()
    d.write(QUEUE_READY, 0)
    d.read(QUEUE_READY, 0, "of a queue that was taken back")
    Ring(d, size).configure()
    d.reset()
    d.write(QUEUE_SEL, 0)
    d.read(QUEUE_READY, 0, "after the reset of a device with a queue")

    s.hint = ("What cannot be a queue breaks the device (virtio_broken()), not hv: sizes are a power of two from 1 to QueueSizeMax, the "
              "descriptor table is aligned to 16, the available ring to 2, the used ring to 4 (2.7), and all of each lies in memory.")
    bad = [("size", n) for n in rng.sample((0, 3, 100, 255, 257, 512, 65535, 0x10000, 0x10001, 0x10100, 0x80000000, 0xFFFFFFFF), 12)]
    size = 1 << rng.randrange(1, 9)
    areas = (("desc", 16 * size, 16), ("avail", 6 + 2 * size, 2), ("used", 6 + 8 * size, 4))
    for area, length, align in areas:
        bad += [(area, "unaligned", rng.randrange(1, align)),
                (area, MEMORY - length + align & -align), (area, MEMORY), (area, SLOT_BASE),
                (area, (1 << 64) - rng.choice((16, 4096, length + 15 & ~15))), (area, 1 << 32 | 5 << 20)]
    for what, value, *more in rng.sample(bad, len(bad)):
        d.negotiate(features)
        ring = Ring(d, size)
        if what == "size":
            ring.size = value
        elif value == "unaligned":
            setattr(ring, what, getattr(ring, what) + more[0])
        else:
            setattr(ring, what, value)
        ring.configure(ready=0)
        d.write(QUEUE_READY, 1)
        text = "a queue of %d entries" % value if what == "size" else "%s at %#x, %d entries" % (
            {"desc": "a descriptor table", "avail": "an available ring", "used": "a used ring"}[what], getattr(ring, what), size)
        d.read(QUEUE_READY, 0, "with " + text)
        d.read(STATUS, agreed | NEEDS_RESET, "with " + text)
        s.broken += 1

    s.hint = ("The configuration of a queue freezes when it is ready, and all of them at DRIVER_OK: writes are ignored, valid or not. "
              "(4.2.2.2)")
    d.negotiate(features)
    Ring(d, size).configure()
    for running in (False, True):
        if running:
            d.start()
        for register, value in rng.sample(((QUEUE_SIZE, 0), (QUEUE_SIZE, 257), (QUEUE_DESC, 8), (QUEUE_DRIVER + 4, 1),
                                           (QUEUE_DEVICE, 0xFFFFFFFF), (QUEUE_READY, 1)), 6):
            d.write(register, value)
        d.read(STATUS, RUNNING if running else agreed, "after writes to the registers of a queue that is ready")
        d.read(QUEUE_READY, 1, "after writes to its registers")
    d.write(QUEUE_READY, 0)
    d.read(QUEUE_READY, 0, "of a queue that was taken back while the device runs")
    Ring(d, size).configure(ready=0)
    d.write(QUEUE_READY, 1)
    d.read(QUEUE_READY, 0, "of a queue that was to be added to a device that runs")
    s.resets = d.resets
    return s


def queue_counts(result, script):
    return counted(result, 0, "what the driver did", "A size or place that cannot be breaks the device, once each.",
                   resets=script.resets, chains=0, kicks=0, interrupts=0)


CHECKPOINTS = [
    Checkpoint(
        "4.1", "The register file: who is there, and what it offers", 4,
        "A driver that knows nothing finds out from the registers what the device is. The features come in halves of 32 bits; what does "
        "not exist reads as 0.",
        "virtio_mmio_read() in mmio.c.",
        runs=[driver("identify", identification, options)], verify=judged(("identify", identification))),
    Checkpoint(
        "4.2", "Status: the steps of an initialization, and reset", 5,
        "Status follows the driver from ACKNOWLEDGE to DRIVER_OK. FEATURES_OK is refused when the features do not fit; a write of 0 is a "
        "reset, after which nothing of the driver is left.",
        "write_status() and write_features() in mmio.c.",
        runs=[driver("status", status, options)], verify=judged(("status", status, status_counts)), depends=["4.1"]),
    Checkpoint(
        "4.3", "The registers of a queue", 6,
        "A queue becomes ready when its size is one that can be and its three areas are aligned and in memory. What is wrong breaks the "
        "device and nothing else. A queue in use does not move.",
        "write_queue() in mmio.c, split_enable() in virtqueue.c.",
        runs=[driver("queues", queue_registers, ["--rng"])], verify=judged(("queues", queue_registers, queue_counts)), depends=["4.2"]),
]
