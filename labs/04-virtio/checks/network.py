"""Checkpoints 4.15 and 4.16: the network card (virtio 1.2, 5.1), two of them in one VM, joined with each other (guests/driver.c)."""

import random
import struct

from configspace import LINK, cards, net_options
from driverscript import Script, devices, driver, judged, pattern
from model import Checkpoint, Failure
from ring import (CONFIG, DEVICE_FEATURES, DEVICE_FEATURES_SEL, DEVICE_ID, NEEDS_RESET, NO_INTERRUPT, QUEUE_SEL, QUEUE_SIZE_MAX,
                  RUNNING, STATUS, VERSION_1, WRITE, Device, Ring)

F_MTU, F_MAC, F_MRG_RXBUF, F_STATUS = 1 << 3, 1 << 5, 1 << 15, 1 << 16
HEADER, ETHERNET, TAG = 12, 14, 4
RX, TX = 0, 1


class Card:
    """A card that runs, and its two queues."""

    def __init__(self, s, slot, features):
        self.s, self.d, self.features, self.dropped, self.sent = s, Device(s, slot), features, 0, 0
        self.start()

    def start(self):
        self.d.negotiate(self.features)
        self.queues = [Ring(self.d, 1 << self.s.rng.randrange(5, 8), index) for index in (RX, TX)]
        for ring in self.queues:
            ring.set_flags(NO_INTERRUPT)
            ring.configure()
        self.d.start()

    def wait_for_link(self):
        self.s.wait16(self.d.base + CONFIG + LINK, 1, "the link of device %d" % self.d.slot)

    def put(self, data, flags=0, cuts=None):
        """A device-readable chain of these bytes, cut anywhere, with a kick."""
        s, ring = self.s, self.queues[TX]
        at = s.memory.take(len(data))
        s.write(at, data)
        cuts = s.rng.randrange(5) if cuts is None else cuts
        edges = [0, *sorted(s.rng.sample(range(1, len(data)), min(cuts, len(data) - 1))), len(data)]
        head = ring.chain([(at + a, b - a, flags) for a, b in zip(edges, edges[1:])])
        ring.offer(head)
        ring.publish()
        ring.kick()
        return head

    def send(self, frame, header=bytes(HEADER), dropped=False, cuts=None, what="a frame"):
        self.queues[TX].expect(self.put(header + frame, cuts=cuts), 0)
        self.queues[TX].wait("the used index of the transmit queue after %s" % what)
        self.dropped += dropped
        self.sent += not dropped

    def buffer(self, length, pieces=1):
        """A receive buffer of that many bytes. Returns (head, address)."""
        ring, at = self.queues[RX], self.s.memory.take(length + 8)
        self.s.set(at, length + 8, 0xC3)
        step = -(-length // pieces)
        parts = [(at + i, min(step, length - i), WRITE) for i in range(0, length, step)]
        numbers = ring.pick(len(parts))
        ring.reserved |= set(numbers)  # there are enough for a whole script
        head = ring.chain(parts, numbers)
        ring.offer(head)
        return head, at

    def publish(self):
        self.queues[RX].publish()
        self.queues[RX].kick()

    def received(self, buffers, frame, what):
        """The frame came into these buffers: (head, address, length), all full but the last."""
        data = struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, len(buffers)) + frame
        for head, _, length in buffers:
            self.queues[RX].expect(head, min(length, len(data)))
            data = data[length:]
        data = struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, len(buffers)) + frame
        self.queues[RX].wait("the used index of the receive queue after %s" % what)
        for number, (_, at, length) in enumerate(buffers):
            part, data = data[:length], data[length:]
            self.s.same(at, part + b"\xc3" * 8, "%s, buffer %d: header and frame, and nothing behind them" % (what, number))
        self.queues[RX].look(what, False)


def frame_of(rng, length):
    return pattern(rng.getrandbits(60), length)


# --- 4.15 -----------------------------------------------------------------------------------------------------------------

def transmit(seed):
    rng = random.Random(seed)
    s = Script(rng)
    _, mtu = cards(seed)
    s.hint = "A network card: type 1, a receive queue and a transmit queue, MAC, MTU, MRG_RXBUF and STATUS, and no offloads."
    d = Device(s, 0)
    d.read(DEVICE_ID, 1, "of the network card")
    d.write(DEVICE_FEATURES_SEL, 0)
    offered = s.load(d.base + DEVICE_FEATURES, 4)
    s.check(lambda report: None if (report.value(offered) or 0) & 0xFFFFFF == F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS else (
        "DeviceFeatures, bits 0 to 23: %#x" % (F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS), "%#x" % ((report.value(offered) or 0) & 0xFFFFFF)))
    for queue in range(3):
        d.write(QUEUE_SEL, queue)
        d.read(QUEUE_SIZE_MAX, 256 if queue < 2 else 0, "of queue %d" % queue)
    card = s.card = Card(s, 0, VERSION_1 | rng.choice((0, F_MRG_RXBUF)))
    card.wait_for_link()
    s.hint = ("The header has 12 bytes, with MRG_RXBUF and without it, because VERSION_1 is agreed on (5.1.6.1). It may be cut anywhere. "
              "The "
              "device writes nothing, so the used length is 0.")
    least, most = ETHERNET, mtu + ETHERNET + TAG
    for length in rng.sample((least, least + 1, most, rng.randrange(least, most - 20), rng.randrange(60, 600)), 5):
        card.send(frame_of(rng, length), what="a frame of %d bytes" % length)
    card.send(frame_of(rng, 60), cuts=20, what="a frame cut into 21 pieces")
    card.queues[TX].look("after these frames", False)
    s.hint = ("A frame that cannot be sent is dropped, and its chain comes back: too short (14), too long (mtu + 18), or one that asks for "
              "what was not agreed on: NEEDS_CSUM, or a gso_type.")
    for length in rng.sample((0, 1, least - 3, least - 1, least - 2, most + 1, most + 2), 7):
        card.send(frame_of(rng, length), dropped=True, what="a frame of %d bytes" % length)
    card.send(frame_of(rng, 60), bytes([1]) + bytes(11), dropped=True, what="a frame with NEEDS_CSUM")
    card.send(frame_of(rng, 60), bytes([0, rng.choice((1, 3, 4, 5))]) + bytes(10), dropped=True, what="a frame with a gso_type")
    card.queues[TX].look("after frames that cannot be sent", False)
    card.d.read(STATUS, RUNNING, "after frames that cannot be sent")
    s.hint = "Less than a header, or memory for the device to write, is no frame: virtio_broken()."
    card.put(bytes(rng.choice((1, 10, 11))))
    card.d.read(STATUS, RUNNING | NEEDS_RESET, "after a chain of less than a header")
    card.start()
    card.put(bytes(80), WRITE)
    card.d.read(STATUS, RUNNING | NEEDS_RESET, "after a device-writable chain in the transmit queue")
    return s


def transmit_counts(result, script):
    found = (devices(result) or [{}])[0]
    for name, value in (("tx_frames", script.card.sent), ("tx_dropped", script.card.dropped)):
        if found.get(name) != value:
            return Failure("%s to be %d" % (name, value), "%s" % found.get(name),
                           "Header and frame are told apart by 12 bytes, wherever a descriptor ends.", result.name)
    return None


# --- 4.16 -----------------------------------------------------------------------------------------------------------------

def receive(seed):
    rng = random.Random(seed)
    s = Script(rng)
    _, mtu = cards(seed)
    slots = rng.sample((0, 1), 2)
    sender = Card(s, slots[0], VERSION_1)
    plain = Card(s, slots[1], VERSION_1)
    for card in (sender, plain):
        card.wait_for_link()
    s.hint = ("One buffer a frame: a header of 12 bytes, all 0 but num_buffers, which is 1, and the frame behind it. The used length "
              "counts "
              "both (5.1.6.4).")
    for _ in range(3):
        length = rng.randrange(ETHERNET, mtu + 18)
        size = HEADER + mtu + 18 + rng.randrange(40)
        head, at = plain.buffer(size, rng.randrange(1, 5))
        plain.publish()
        frame = frame_of(rng, length)
        sender.send(frame)
        plain.received([(head, at, size)], frame, "a frame of %d bytes" % length)
    s.hint = "Without a buffer a frame waits, and comes in its turn when there is one."
    frames = [frame_of(rng, rng.randrange(40, 300)) for _ in range(3)]
    for frame in frames:
        sender.send(frame)
    s.rest(2)
    plain.queues[RX].look("frames without a receive buffer", False)
    buffers = [plain.buffer(400) for _ in frames]
    plain.publish()
    for (head, at), frame in zip(buffers, frames):
        plain.queues[RX].expect(head, HEADER + len(frame))
    plain.queues[RX].wait("the used index of the receive queue, for frames that waited")
    plain.queues[RX].look("frames that waited for buffers", False)
    for (head, at), frame in zip(buffers, frames):
        s.same(at + HEADER, frame, "a frame that waited for a buffer")
    s.hint = "Without MRG_RXBUF a frame that its buffer has no room for is dropped, and the buffer stays for the next."
    head, at = plain.buffer(HEADER + 100)
    plain.publish()
    sender.send(frame_of(rng, 101))
    frame = frame_of(rng, 100)
    sender.send(frame)
    plain.received([(head, at, HEADER + 100)], frame, "a frame behind one that was too long for the buffer")

    s.hint = "With MRG_RXBUF a frame takes as many buffers as it needs, each of them full but the last, and num_buffers says how many."
    plain.features = VERSION_1 | F_MRG_RXBUF
    plain.start()
    for lengths in ([40, 64, 100], [200], [13, 30, 30, 30]):
        total = sum(lengths) - HEADER - rng.randrange(0, min(lengths[-1], 8))
        total = max(total, ETHERNET)
        buffers = [plain.buffer(length) + (length,) for length in lengths]
        plain.publish()
        frame = frame_of(rng, total)
        sender.send(frame)
        plain.received(buffers, frame, "a frame of %d bytes in %d buffers" % (total, len(buffers)))
    s.hint = "A receive buffer with a device-readable part, or without room for a header, breaks the device when it is needed."
    at = s.memory.take(64)
    plain.queues[RX].offer(plain.queues[RX].chain(rng.choice(([(at, 11, WRITE)], [(at, 20, 0), (at + 20, 40, WRITE)]))))
    plain.publish()
    sender.send(frame_of(rng, 60))
    number = s.load(plain.d.base + STATUS, 4)
    s.rest(4)
    again = s.load(plain.d.base + STATUS, 4)
    s.check(lambda report: None if RUNNING | NEEDS_RESET in (report.value(number), report.value(again)) else (
        "Status of the receiving device with NEEDS_RESET", "%#x" % (report.value(again) or 0)))
    return s


CHECKPOINTS = [
    Checkpoint(
        "4.15", "Network: transmit", 6,
        "A frame leaves the VM, however header and frame lie in the descriptors. What cannot be sent is dropped, what is no frame breaks "
        "the "
        "device.",
        "transmit() in net.c.",
        runs=[driver("transmit", transmit, net_options)], verify=judged(("transmit", transmit, transmit_counts)), depends=["4.11", "4.6"]),
    Checkpoint(
        "4.16", "Network: receive", 8,
        "A frame from the network lands in the driver's buffers, in order, with a header that says how many it took. Without buffers it "
        "waits.",
        "take_buffers() and give_frame() in net.c.",
        runs=[driver("receive", receive, net_options)], verify=judged(("receive", receive)), depends=["4.15"]),
]
