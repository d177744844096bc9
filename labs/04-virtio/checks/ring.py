"""A driver in Python: what it writes to a virtio-mmio device and into its split rings (virtio 1.2, 2.7, 3.1, 4.2), as a script."""

import struct

from driverscript import IRQ, MEMORY, SLOT_BASE, SLOT_STRIDE

MAGIC, VERSION, DEVICE_ID, VENDOR = 0x00, 0x04, 0x08, 0x0C
DEVICE_FEATURES, DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x10, 0x14, 0x20, 0x24
QUEUE_SEL, QUEUE_SIZE_MAX, QUEUE_SIZE, QUEUE_READY, QUEUE_NOTIFY = 0x30, 0x34, 0x38, 0x44, 0x50
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x60, 0x64, 0x70
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x80, 0x90, 0xA0
CONFIG_GENERATION, CONFIG = 0xFC, 0x100

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80
RUNNING = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
USED, CONFIGURED = 1, 2  # bits of InterruptStatus

INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED = 1 << 28, 1 << 29, 1 << 32, 1 << 34

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1
MAX = 256  # QueueSizeMax of every queue

NAMES = {STATUS: "Status", QUEUE_READY: "QueueReady", QUEUE_SIZE_MAX: "QueueSizeMax", INTERRUPT_STATUS: "InterruptStatus",
         DEVICE_FEATURES: "DeviceFeatures", MAGIC: "MagicValue", VERSION: "Version", DEVICE_ID: "DeviceID", VENDOR: "VendorID",
         CONFIG_GENERATION: "ConfigGeneration"}


class Device:
    """The registers of the device in a slot."""

    def __init__(self, script, slot):
        self.script, self.slot = script, slot
        self.base, self.irq = SLOT_BASE + slot * SLOT_STRIDE, IRQ[slot]
        self.resets = 0

    def read(self, register, value=None, when="", size=4):
        name = NAMES.get(register, "the register at offset %#x" % register)
        return self.script.load(self.base + register, size, value, "device %d, %s %s" % (self.slot, name, when))

    def write(self, register, value, size=4):
        self.script.store(self.base + register, size, value)

    def write64(self, register, value):
        self.write(register, value & 0xFFFFFFFF)
        self.write(register + 4, value >> 32)

    def reset(self):
        self.write(STATUS, 0)
        self.resets += 1

    def features(self, value):
        for half in (0, 1):
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, value >> 32 * half & 0xFFFFFFFF)

    def negotiate(self, features):
        """From a reset to FEATURES_OK (3.1.1)."""
        self.reset()
        self.write(STATUS, ACKNOWLEDGE)
        self.write(STATUS, ACKNOWLEDGE | DRIVER)
        self.features(features)
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        self.read(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK, "behind FEATURES_OK, all features being offered ones")

    def start(self):
        self.write(STATUS, RUNNING)
        self.read(STATUS, RUNNING, "behind DRIVER_OK")

    def kick(self, queue=0):
        self.write(QUEUE_NOTIFY, queue)


class Ring:
    """One split queue, and the driver's place in it. Nothing of it is known to be zero: each part is written before it is used."""

    def __init__(self, device, size, index=0, features=0, across=False):
        """across: the used ring's elements are on another page than its index, and alone there."""
        self.device, self.script, self.size, self.index, self.features = device, device.script, size, index, features
        memory = self.script.memory
        self.desc = memory.take(16 * size, 16)
        self.avail = memory.take(6 + 2 * size, 2)
        self.used = memory.take(2 * 4096, 4096) + 4096 - 4 if across else memory.take(6 + 8 * size, 4)
        self.rng = self.script.rng
        self.fresh()

    def fresh(self):
        """The memory as it must be before the queue is made ready."""
        self.idx = self.used_idx = 0
        self.reserved = set()  # descriptors of chains that the device has not given back
        self.elements = [(0, 0)] * self.size  # of the used ring: (id, length)
        self.script.set(self.desc, 16 * self.size, 0xEE)
        self.script.set(self.avail, 6 + 2 * self.size, 0)
        self.script.set(self.used, 6 + 8 * self.size, 0)

    def configure(self, ready=1):
        device = self.device
        device.write(QUEUE_SEL, self.index)
        device.write(QUEUE_SIZE, self.size)
        device.write64(QUEUE_DESC, self.desc)
        device.write64(QUEUE_DRIVER, self.avail)
        device.write64(QUEUE_DEVICE, self.used)
        if ready:
            device.write(QUEUE_READY, 1)
            device.read(QUEUE_READY, 1, "of a queue with %d entries" % self.size)

    # --- the driver's side ---

    def descriptor(self, number, gpa, length, flags=0, next_=0):
        self.script.write(self.desc + 16 * number, struct.pack("<QIHH", gpa, length, flags, next_))

    def pick(self, count):
        """Numbers of descriptors that are free."""
        return self.rng.sample([n for n in range(self.size) if n not in self.reserved], count)

    def chain(self, buffers, numbers=None):
        """buffers: (gpa, length, flags without NEXT). numbers: of the descriptors. Returns the head."""
        numbers = numbers if numbers is not None else self.pick(len(buffers))
        for i, (gpa, length, flags) in enumerate(buffers):
            last = i == len(buffers) - 1
            # `next` means nothing without NEXT
            following = self.rng.randrange(1 << 16) if last else numbers[i + 1]
            self.descriptor(numbers[i], gpa, length, flags | (0 if last else NEXT), following)
        return numbers[0]

    def table(self, buffers, order=None):
        """An indirect table with these buffers, as (gpa, length) for the descriptor. Its first entry is the chain's first."""
        order = order if order is not None else [0] + self.rng.sample(range(1, len(buffers)), len(buffers) - 1)
        entries = [b""] * len(buffers)
        for i, (gpa, length, flags) in enumerate(buffers):
            last = i == len(buffers) - 1
            entries[order[i]] = struct.pack("<QIHH", gpa, length, flags | (0 if last else NEXT),
                                            self.rng.randrange(1 << 16) if last else order[i + 1])
        at = self.script.memory.take(16 * len(buffers), 1 << self.rng.randrange(5))
        self.script.write(at, b"".join(entries))
        return at, 16 * len(buffers)

    def offer(self, head):
        """Puts a chain into the available ring; publish() makes it visible."""
        self.script.store(self.avail + 4 + 2 * (self.idx % self.size), 2, head)
        self.idx += 1

    def publish(self):
        self.script.store(self.avail + 2, 2, self.idx)

    def set_flags(self, flags):
        self.script.store(self.avail, 2, flags)

    def used_event(self, index):
        self.script.store(self.avail + 4 + 2 * self.size, 2, index)

    def kick(self):
        self.device.kick(self.index)

    # --- the device's side ---

    def expect(self, head, length):
        """The device gives this chain back next, having written so many bytes."""
        self.elements[self.used_idx % self.size] = head, length
        self.used_idx += 1

    def wait(self, what="the used index"):
        self.script.wait16(self.used + 2, self.used_idx, "device %d, %s" % (self.device.slot, what))

    def look(self, what, armed=True):
        """The used ring is what the chains that were expected make it; armed: so are its flags and avail_event, because the device has
        seen that nothing more is there. (After as many chains as the queue has entries it looks again, but not at once.)"""
        size, event = self.size, self.used_idx & 0xFFFF if self.features & EVENT_IDX else 0
        fields = [("used index", struct.pack("<H", self.used_idx & 0xFFFF), 2)]
        fields += [("element %d of the used ring, id and length" % i, struct.pack("<II", *element), 4 + 8 * i)
                   for i, element in enumerate(self.elements)]
        if armed:
            fields += [("flags of the used ring", struct.pack("<H", 0), 0), ("avail_event", struct.pack("<H", event), 4 + 8 * size)]
        begin = min(at for _, _, at in fields)

        def judge(data):
            for name, must, at in fields:
                seen = data[at - begin : at - begin + len(must)]
                if seen != must:
                    return "%s: %s %s" % (what, name, numbers(must)), numbers(seen)
            return None

        must = b"".join(data for _, data, at in sorted(fields, key=lambda field: field[2]))
        self.script.exactly(self.used + begin, must, judge)


def numbers(data):
    """A word, or the two of an element."""
    return "%d" % int.from_bytes(data, "little") if len(data) == 2 else "%d, %d" % struct.unpack("<II", data)


def outside(rng, length):
    """An address where a piece of that length, or its last byte, is not in memory."""
    return rng.choice([MEMORY - length + 1, MEMORY, 1 << 32 | rng.randrange(1 << 20) << 4, (1 << 64) - length - 15 & ~15, SLOT_BASE,
                       1 << 63, (1 << 64) - 1])


__all__ = [name for name in dir() if name[0].isupper()] + ["outside"]
