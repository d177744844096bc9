"""A driver of the block device (virtio 1.2, 5.2) in Python: requests, and what becomes of the disk."""

import struct

from driverscript import pattern
from ring import NO_INTERRUPT, VERSION_1, WRITE, Device, Ring

SECTOR = 512
F_RO, F_FLUSH, F_CONFIG_WCE, F_DISCARD, F_WRITE_ZEROES = 1 << 5, 1 << 9, 1 << 11, 1 << 13, 1 << 14
IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
WRITEBACK = 0x100 + 32  # register: a byte of the configuration space
UNTOUCHED = 0x5A  # what a status byte is before
TYPES = {IN: "a read", OUT: "a write", FLUSH: "a flush", GET_ID: "GET_ID", DISCARD: "a discard", ZEROES: "write-zeroes"}


def image(seed, sectors):
    return pattern(seed ^ 0xD15C, sectors * SECTOR)


class Disk:
    """One device, its queue, and what must be on the image."""

    def __init__(self, s, content, slot=0, features=VERSION_1 | F_FLUSH, size=64):
        self.s, self.content, self.slot = s, bytearray(content), slot
        self.d = Device(s, slot)
        self.features, self.size = features, size
        self.start()

    def start(self):
        self.d.negotiate(self.features)
        self.ring = Ring(self.d, self.size, features=self.features)
        self.ring.set_flags(NO_INTERRUPT)
        self.ring.configure()
        self.d.start()

    @property
    def sectors(self):
        return len(self.content) // SECTOR

    def pieces(self, gpa, length, flags, cuts):
        """A buffer in several descriptors, cut anywhere."""
        if length < 1:
            return []
        at = [0, *sorted(self.s.rng.sample(range(1, length), min(cuts, length - 1))), length]
        return [(gpa + a, b - a, flags) for a, b in zip(at, at[1:])]

    def put(self, type_, sector=0, out=b"", length=0, cuts=None):
        """Offers a request without a kick. Returns (head, where the data comes to, where the status comes to). cuts: into how many more
        descriptors than one the readable and the writable part are divided."""
        s, rng = self.s, self.s.rng
        readable = struct.pack("<IIQ", type_, rng.getrandbits(32), sector) + out
        source = s.memory.take(len(readable))
        s.write(source, readable)
        target = s.memory.take(length + 1)
        s.set(target, length + 1, UNTOUCHED)
        cuts = rng.randrange(0, 5) if cuts is None else cuts
        chain = self.pieces(source, len(readable), 0, cuts) + self.pieces(target, length + 1, WRITE, cuts)
        head = self.ring.chain(chain)
        self.ring.offer(head)
        return head, target, target + length

    def request(self, type_, sector=0, out=b"", length=0, status=OK, data=None, cuts=None, what=""):
        """One request, kicked and waited for. data: what must be read, or None. Of a read that fails the used length says nothing."""
        s, ring = self.s, self.ring
        head, target, at = self.put(type_, sector, out, length, cuts)
        ring.publish()
        ring.kick()
        what = what or "%s of %d bytes at sector %d" % (TYPES.get(type_, "a request of type %d" % type_), len(out) or length, sector)
        place = ring.used + 4 + 8 * (ring.used_idx % ring.size)
        ring.expect(head, length + 1)
        ring.wait("the used index after " + what)
        s.load(at, 1, status, "the status byte after %s" % what)
        s.load(place, 4, head, "the id in the used ring after %s" % what)
        if status == OK or not length:
            s.load(place + 4, 4, length + 1, "the length in the used ring after %s" % what)
        if data is not None:
            s.same(target, data, what)

    # --- requests that succeed ---

    def read(self, sector, count, **more):
        data = bytes(self.content[sector * SECTOR : (sector + count) * SECTOR])
        self.request(IN, sector, length=count * SECTOR, data=data, **more)

    def write(self, sector, count, **more):
        data = pattern(self.s.rng.getrandbits(60), count * SECTOR)
        self.content[sector * SECTOR : (sector + count) * SECTOR] = data
        self.request(OUT, sector, data, **more)

    def flush(self):
        self.request(FLUSH, cuts=0)

    def ranges(self, type_, ranges, status=OK, flags=0, what=""):
        if status == OK:
            for sector, count in ranges:
                self.content[sector * SECTOR : (sector + count) * SECTOR] = bytes(count * SECTOR)
        self.request(type_, 0, b"".join(struct.pack("<QII", sector, count, flags) for sector, count in ranges), status=status,
                     what=what or "%s of %s" % (TYPES[type_], ranges))

    def all(self, what):
        """Reads the whole disk."""
        self.request(IN, 0, length=len(self.content), data=bytes(self.content), what=what)
