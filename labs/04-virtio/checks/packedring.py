"""Checkpoints 4.17 and 4.18: the packed ring (virtio 1.2, 2.8), on the entropy device (guests/driver.c)."""

import random
import struct

from buffers import Buffers
from driverscript import Script, counted, driver, judged
from model import Checkpoint
from ring import (EVENT_IDX, INDIRECT, INDIRECT_DESC, NEEDS_RESET, NEXT, QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER, QUEUE_READY, QUEUE_SEL,
                  QUEUE_SIZE, RING_PACKED, RUNNING, STATUS, USED, VERSION_1, WRITE, Device, outside)

AVAIL_BIT, USED_BIT = 1 << 7, 1 << 15
ENABLE, DISABLE, DESC = 0, 1, 2
OPTIONS = ["--rings", "packed", "--rng"]


class Packed:
    """One packed queue and the driver's place in it."""

    def __init__(self, device, size, features):
        self.device, self.s, self.size = device, device.script, size
        memory = self.s.memory
        self.ring, self.driver, self.events = memory.take(16 * size, 16), memory.take(4, 4), memory.take(4, 4)
        self.s.set(self.ring, 16 * size, 0)
        self.s.set(self.driver, 4, 0)
        self.s.set(self.events, 4, 0)
        self.avail = self.used = 0  # slots since the start: a place and a lap
        self.interrupts = self.chains = 0
        device.negotiate(VERSION_1 | RING_PACKED | features)
        device.write(QUEUE_SEL, 0)
        device.write(QUEUE_SIZE, size)
        device.write64(QUEUE_DESC, self.ring)
        device.write64(QUEUE_DRIVER, self.driver)
        device.write64(QUEUE_DEVICE, self.events)
        device.write(QUEUE_READY, 1)
        device.read(QUEUE_READY, 1, "of a packed queue with %d entries" % size)
        device.start()

    def wrap(self, place):
        return 1 - place // self.size % 2

    def slot(self, number, gpa, length, id_, flags, wrap):
        flags |= AVAIL_BIT * wrap | USED_BIT * (1 - wrap)
        self.s.write(self.ring + 16 * number, struct.pack("<QIHH", gpa, length, id_, flags))

    def offer(self, buffers, id_):
        """The first slot last: only then the chain is available."""
        places = range(self.avail, self.avail + len(buffers))
        for i in reversed(range(len(buffers))):
            gpa, length, flags = buffers[i]
            last = i == len(buffers) - 1
            # Only the last descriptor's ID counts.
            self.slot(places[i] % self.size, gpa, length, id_ if last else self.s.rng.randrange(1 << 16),
                      flags | (0 if last else NEXT), self.wrap(places[i]))
        self.avail += len(buffers)

    def expect(self, id_, length, slots, what):
        """The next chain comes back here, and takes as many slots as it had."""
        at, wrap = self.ring + 16 * (self.used % self.size), self.wrap(self.used)
        where = "slot %d, lap %d, %s" % (self.used % self.size, self.used // self.size + 1, what)
        self.s.load(at + 12, 2, id_, "the ID in %s" % where)
        self.s.load(at + 8, 4, length, "the length in %s" % where)
        number = self.s.load(at + 14, 2)
        must = wrap * (AVAIL_BIT | USED_BIT)

        def judge(report):
            seen = report.value(number)
            if seen is None or seen & (AVAIL_BIT | USED_BIT) != must:
                bits = "AVAIL = USED = %d, the wrap counter of that lap" % wrap
                return "the flags of %s: %s" % (where, bits), "nothing" if seen is None else "flags %#x" % seen
            return None

        self.s.check(judge)
        self.used += slots
        self.chains += 1

    def look_untouched(self, place, what):
        """The device wrote nothing here: the slot is still available, or was never used."""
        self.s.load(self.ring + 16 * (place % self.size) + 14, 2, 0, "the flags of slot %d, %s" % (place % self.size, what))


def chain_of(s, ring, count, what):
    buffers = Buffers(s, [s.rng.randrange(8, 40) for _ in range(count)])
    id_ = s.rng.randrange(ring.size)
    ring.offer(buffers.list(), id_)
    ring.device.kick()
    ring.expect(id_, buffers.total, count, what)
    buffers.filled(what)


# --- 4.17 -----------------------------------------------------------------------------------------------------------------

def first_lap(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.hint = ("A slot is available when AVAIL is the wrap counter and USED is not; both counters begin as 1. Any size will do. The chain "
              "comes back in one slot: the first of those that it took, with the ID of its last descriptor; the next comes back as many "
              "slots further on.")
    for size in (rng.randrange(9, 40), rng.randrange(100, 257), 1 << rng.randrange(4, 9)):
        d = Device(s, 0)
        ring = Packed(d, size, INDIRECT_DESC)
        s.store(ring.driver + 2, 2, DISABLE)
        d.kick()
        ring.look_untouched(0, "after a kick without a buffer")
        while ring.avail + 4 < min(size, 14):
            chain_of(s, ring, rng.randrange(1, 4), "a queue with %d entries" % size)
        if ring.avail + 1 < size:
            s.hint = "An indirect table of a packed ring: its descriptors follow each other, NEXT and ID in it mean nothing (2.8.7)."
            buffers = Buffers(s, [rng.randrange(8, 40) for _ in range(rng.randrange(2, 5))])
            table = s.memory.take(16 * len(buffers.at), 16)
            s.write(table, b"".join(struct.pack("<QIHH", at, length, rng.randrange(1 << 16), flags)
                                    for at, length, flags in buffers.list()))
            id_ = rng.randrange(size)
            ring.offer([(table, 16 * len(buffers.at), INDIRECT)], id_)
            d.kick()
            ring.expect(id_, buffers.total, 1, "an indirect table")
            buffers.filled("an indirect table")
        d.read(STATUS, RUNNING, "after %d chains" % ring.chains)
    s.hint = "What cannot be breaks the device here, too."
    refuse(s, rng, ("outside", "readable", "table"))
    return s


def refuse(s, rng, kinds):
    """Each breaks the device."""
    for kind in rng.sample(kinds, len(kinds)):
        d = Device(s, 0)
        size = rng.randrange(6, 60)
        ring = Packed(d, size, INDIRECT_DESC * (kind != "table"))
        at = s.memory.take(64)
        if kind == "outside":
            ring.offer([(outside(rng, 16), 16, WRITE)], 0)
        elif kind == "endless":
            ring.offer([(at, 8, WRITE)] * size, 0)
            ring.slot(size - 1, at, 8, 0, WRITE | NEXT, 1)
        elif kind == "readable":
            ring.offer([(at, 8, WRITE), (at + 8, 8, 0)], 0)
        else:
            s.write(at, struct.pack("<QIHH", at + 32, 16, 0, WRITE))
            ring.offer([(at, 16, INDIRECT)], 0)
        d.kick()
        d.read(STATUS, RUNNING | NEEDS_RESET, {
            "outside": "after a buffer outside memory", "endless": "after a chain that has NEXT in every slot",
            "readable": "after a readable buffer behind a writable one", "table": "after an indirect table, which was not agreed on"}[kind])


# --- 4.18 -----------------------------------------------------------------------------------------------------------------

def laps(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.hint = ("At the end of the ring the wrap counters turn over, the driver's and the device's each when it comes by; a chain may lie "
              "across the end, and comes back in one slot.")
    for size in (rng.choice((2, 3, 5)), rng.randrange(6, 12)):
        d = Device(s, 0)
        ring = Packed(d, size, 0)
        s.store(ring.driver + 2, 2, DISABLE)
        for _ in range(14):
            chain_of(s, ring, rng.randrange(1, min(size, 3) + 1), "a queue with %d entries" % size)
        d.read(STATUS, RUNNING, "after %d laps" % (ring.used // size))
    refuse(s, rng, ("endless",))
    return s


def suppression(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.slot = 0
    d = Device(s, 0)
    size = rng.randrange(5, 40)
    ring = Packed(d, size, EVENT_IDX)
    s.listen(d.irq, d.base)
    buffer = s.memory.take(16)
    s.kicks = 0
    for turn in range(24):
        batch = rng.randrange(1, size)
        kind = rng.choice((ENABLE, DISABLE, DESC, DESC, DESC))
        place = ring.used + rng.choice((0, batch - 1, batch, rng.randrange(2 * size)))
        while place - ring.used >= 2 * size:
            place -= 2 * size
        s.store(ring.driver, 2, place % size | ring.wrap(place) << 15)
        s.store(ring.driver + 2, 2, kind)
        due = kind == ENABLE or kind == DESC and place - ring.used < batch
        for _ in range(batch):
            ring.offer([(buffer, 1, WRITE)], rng.randrange(size))
        ring.used += batch
        ring.chains += batch
        d.kick()
        s.kicks += 1
        ring.interrupts += due
        s.hint = ("The driver's event structure: always, never, or (with EVENT_IDX) when the used slot goes past the one that it names, on "
                  "that lap (2.8.10, 2.8.14).")
        s.wait_irq(d.irq, ring.interrupts, ring.interrupts, USED * (ring.interrupts > 0), "round %d: %d slots from %d (lap %d) on, %s" % (
            turn + 1, batch, (ring.used - batch) % size, (ring.used - batch) // size + 1,
            {ENABLE: "interrupts enabled", DISABLE: "interrupts disabled", DESC: "event slot %d, wrap %d" % (
                place % size, ring.wrap(place))}[kind]))
    d.read(STATUS, RUNNING, "after all rounds")
    s.counts = {"chains": ring.chains, "kicks": s.kicks, "interrupts": ring.interrupts}
    return s


def suppression_counts(result, script):
    return counted(result, 0, "what the driver asked for", script.hint, **script.counts)


CHECKPOINTS = [
    Checkpoint(
        "4.17", "Extension: the packed ring", 6,
        "One ring in place of three areas: the device finds available descriptors by two bits of their flags, and writes over them what "
        "became of them.",
        "packed_enable(), packed_pop() and packed_push() in packed.c.",
        runs=[driver("first_lap", first_lap, OPTIONS)], verify=judged(("first_lap", first_lap)), depends=["4.8"]),
    Checkpoint(
        "4.18", "Extension: wrap counters and event suppression", 6,
        "The packed ring goes round and round, chains across its end included, and interrupts come when the driver's event structure "
        "wants them.",
        "advance(), packed_should_interrupt() and packed_arm() in packed.c.",
        runs=[driver("laps", laps, OPTIONS), driver("suppression", suppression, OPTIONS)],
        verify=judged(("laps", laps), ("suppression", suppression, suppression_counts)), depends=["4.17", "4.9"]),
]
