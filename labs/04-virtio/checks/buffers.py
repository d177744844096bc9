"""Checkpoints 4.4 to 4.6 and 4.8: chains of the split ring, on the entropy device (guests/driver.c)."""

import random

from driverscript import Script, counted, devices, driver, judged, pattern
from model import HV_OK, HV_TODO, Checkpoint, Failure
from ring import (EVENT_IDX, INDIRECT, INDIRECT_DESC, NEEDS_RESET, NEXT, NO_INTERRUPT, RUNNING, STATUS, VERSION_1, WRITE, Device, Ring,
                  outside)
from signatures import describe_end

MARGIN = 24  # bytes on both sides of a buffer that nobody may touch
RNG_HINT = "The entropy device fills the buffer with random bytes, and says how many."


def running(s, slot, size, features=VERSION_1, flags=NO_INTERRUPT, across=False):
    """A device that runs, and its queue."""
    d = Device(s, slot)
    d.negotiate(features)
    ring = Ring(d, size, features=features, across=across)
    ring.set_flags(flags)
    ring.configure()
    d.start()
    return d, ring


class Buffers:
    """Device-writable buffers of one chain, in memory that holds a pattern before."""

    def __init__(self, s, lengths):
        self.s, self.lengths, self.seed = s, lengths, s.rng.getrandbits(60)
        self.at = []
        for i, length in enumerate(lengths):
            at = s.memory.take(length + 2 * MARGIN) + MARGIN
            s.fill(at - MARGIN, length + 2 * MARGIN, self.seed + i)
            self.at.append(at)

    @property
    def total(self):
        return sum(self.lengths)

    def list(self, flags=WRITE):
        return [(at, length, flags) for at, length in zip(self.at, self.lengths)]

    def filled(self, what):
        """Every buffer was filled to its last byte, and no byte beside it changed."""
        s = self.s
        for i, (at, length) in enumerate(zip(self.at, self.lengths)):
            old, part = pattern(self.seed + i, length + 2 * MARGIN), min(length, 8)
            s.same(at - MARGIN, old[:MARGIN], "%s: in front of buffer %d what was there before" % (what, i))
            s.same(at + length, old[-MARGIN:], "%s: behind buffer %d what was there before" % (what, i))
            if part == 8:  # by chance random bytes may be what they were, but not eight of them
                self._changed(at, old[MARGIN : MARGIN + 8], "%s: random bytes at the begin of buffer %d" % (what, i))
                self._changed(at + length - 8, old[-MARGIN - 8 : -MARGIN], "%s: random bytes at the end of buffer %d" % (what, i))

    def _changed(self, at, old, what):
        number = self.s.load(at, 8)

        def judge(report):
            seen = report.value(number)
            if seen is None:
                return what, "nothing"
            data = seen.to_bytes(8, "little")
            return (what, "the bytes that were there before") if data == old else (what, data.hex(" ")) if len(set(data)) == 1 else None

        self.s.check(judge)


# --- 4.4 ------------------------------------------------------------------------------------------------------------------

def answer(seed):
    rng = random.Random(seed)
    s = Script(rng)
    size = 1 << rng.randrange(1, 9)
    d, ring = running(s, 0, size)
    s.hint = "Nothing is available, so nothing is done."
    ring.kick()
    ring.look("after a kick without a buffer")
    s.hint = RNG_HINT
    buffers = Buffers(s, [rng.randrange(40, 200)])
    head = ring.chain(buffers.list())
    ring.offer(head)
    ring.kick()
    ring.look("after a kick without a new available index")
    ring.publish()
    ring.kick()
    ring.expect(head, buffers.total)
    ring.wait("the used index after one buffer")
    ring.look("after one buffer")
    buffers.filled("one buffer")
    d.read(STATUS, RUNNING, "after one buffer")
    return s


def answer_verify(result, params):
    """A solution without 4.5 ends where the used ring is to be written."""
    hint = "split_pop() finds the chain, add_buffer() its memory, rng_kick() fills it; giving it back is the next checkpoint."
    if result.status == HV_TODO and "4.5" not in result.reason:
        return Failure("the chain to be taken and filled; giving it back may be unwritten (4.5)", describe_end(result), hint, result.name)
    if result.status == HV_OK:
        return answer(params[0]).judge(result)
    return counted(result, 0, "one buffer was made available", hint, chains=1)


# (what, how to make it): each breaks the device.
def too_far(rng, s, ring):
    ring.chain(Buffers(s, [32]).list(), [0])
    for _ in range(ring.size):
        ring.offer(0)
    ring.idx = rng.choice((ring.size + 1, ring.size + 1 + rng.randrange(1000), 0x8000, 0xFFFF))
    return "an available index of %d right behind the start, with %d entries" % (ring.idx, ring.size)


def no_descriptor(rng, s, ring):
    head = rng.choice((ring.size, ring.size + 1, 0x7FFF, 0x8000, 0xFFFF, 256 + ring.size))
    ring.chain(Buffers(s, [32]).list(), [head % ring.size])
    ring.offer(head)
    return "descriptor %d in the available ring, of a queue with %d" % (head, ring.size)


def no_memory(rng, s, ring):
    length = rng.choice((1, 16, 4096, 100000))
    at = outside(rng, length)
    ring.offer(ring.chain([(at, length, WRITE)]))
    return "a buffer of %d bytes at %#x" % (length, at)


def too_long(rng, s, ring):
    at = s.memory.take(64)
    ring.offer(ring.chain([(at, 0xFFFFFFFF - rng.randrange(64), WRITE)]))
    return "a buffer of nearly 4 GiB"


def readable(rng, s, ring):
    ring.offer(ring.chain(Buffers(s, [32]).list(0)))
    return "a device-readable buffer for the entropy device"


REFUSED_POPS = (too_far, no_descriptor, no_memory, no_memory, no_memory, too_long, readable)


def refuse(s, rng, slot, kinds, features=VERSION_1, least=1):
    """Each of these breaks the device: a reset, the queue, one bad chain."""
    for make in rng.sample(kinds, len(kinds)):
        d, ring = running(s, slot, 1 << rng.randrange(least, 9), features)
        what = make(rng, s, ring)
        ring.publish()
        ring.kick()
        d.read(STATUS, RUNNING | NEEDS_RESET, "after " + what)
        ring.look("after " + what)


def pops(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.hint = ("What the driver writes is believed only as far as it can be: an index may be ahead by the queue's size at most, a "
              "descriptor "
              "has a number below it, a buffer lies in memory to its last byte. Else virtio_broken().")
    refuse(s, rng, 0, REFUSED_POPS)
    return s


# --- 4.5 ------------------------------------------------------------------------------------------------------------------

def rounds(seed, across=False):
    rng = random.Random(seed)
    s = Script(rng)
    s.hint = ("Element next_used % size, then the index, which counts on and never begins anew before 65536; the driver finds the chain by "
              "the number of its first descriptor.")
    s.chains = 0
    for size in (1, 1 << rng.randrange(1, 4)):
        d, ring = running(s, 0, size, across=across)
        for turn in range(rng.randrange(4, 8)):
            batch = rng.randrange(1, size + 1)
            chosen, heads = [], rng.sample(range(size), batch)
            for head in heads:
                buffers = Buffers(s, [rng.randrange(20, 80)])
                chosen.append(buffers)
                ring.offer(ring.chain(buffers.list(), [head]))
                ring.expect(head, buffers.total)
            ring.publish()
            ring.kick()
            what = "round %d of a queue with %d entries" % (turn + 1, size)
            ring.wait("the used index after " + what)
            ring.look(what, batch < size)
            for buffers in rng.sample(chosen, 1):
                buffers.filled(what)
        d.read(STATUS, RUNNING, "after %d chains" % ring.idx)
        s.chains += ring.idx
    return s


def wrap(seed):
    """More than 65536 chains, 256 with each kick; and a queue of another size across the wrap."""
    rng = random.Random(seed)
    s = Script(rng)
    s.hint = ("Both indices are 16 bits wide and wrap at 65536, whatever the queue's size: what is new is their difference, as a uint16_t; "
              "the place in the ring is the index modulo the size. (2.7.6, 2.7.8)")
    d, ring = running(s, 0, 256)
    buffer = s.memory.take(300)
    for number in range(256):
        ring.descriptor(number, buffer + number, 1, WRITE)
    heads = rng.sample(range(256), 256)
    for head in heads:
        ring.offer(head)
    times = 65536 // 256

    def fill_once():
        s.add16(ring.avail + 2, 256)
        ring.kick()
        s.same16(ring.avail + 2, ring.used + 2)

    s.loop(fill_once, times - 1)
    ring.idx = ring.used_idx = (times - 1) * 256
    for head in heads:
        ring.elements[ring.used_idx % 256] = head, 1
        ring.used_idx += 1
    # The last of them are handed over in pieces, so that one of these ends at 65536 or goes across.
    cuts = sorted(rng.sample(range(1, 256), 2)) + [256 + rng.randrange(0, 100), 256 + rng.randrange(101, 255)]
    for cut in cuts:
        ring.idx = ring.used_idx = (times - 1) * 256 + cut
        ring.publish()
        ring.kick()
        ring.wait("the used index after %d chains" % ring.idx)
    ring.look("after %d chains" % ring.used_idx, False)
    d.read(STATUS, RUNNING, "after %d chains" % ring.idx)
    s.chains = ring.idx
    return s


def order(seed):
    """The same, and each element is to be there before the index tells of it: hv watches the page of the elements (--watch-used)."""
    return rounds(seed, across=True)


def order_kept(result, script):
    hint = ("A driver on another CPU reads the element as soon as it sees the index: first the one, then, by ring_store16(), the other "
            "(2.7.8.2).")
    seen = (result.stats or {}).get("used_ring")
    must = {"watched": script.chains, "index_first": 0}
    if seen == must:
        return None
    if isinstance(seen, dict) and seen.get("index_first"):
        return Failure("each element of the used ring before the index that tells of it", "%s of %d times the index first" %
                       (str(seen["index_first"])[:20], script.chains), hint, result.name)
    return Failure("%d stores to elements of the used ring" % script.chains, str(seen)[:100], hint, result.name)


def wrap_counts(result, script):
    return counted(result, 0, "so many chains were made available", script.hint, chains=script.chains)


# --- 4.6 ------------------------------------------------------------------------------------------------------------------

def lengths_of(rng, most):
    return [rng.choice((0, 1, rng.randrange(2, 60), rng.randrange(60, 200))) for _ in range(rng.randrange(2, most + 1))] + [
        rng.randrange(16, 60)]


def chains(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.hint = ("F_NEXT says that the chain goes on, with the descriptor `next`; without the flag `next` means nothing. The buffers are "
              "filled in the order of the chain, and the used ring has one element for all of it, with their sum. Empty ones count for "
              "nothing.")
    for size in rng.sample((8, 16, 32, 256), 3):
        d, ring = running(s, 0, size)
        for turn in range(4):
            free, chosen = rng.sample(range(size), size), []
            for _ in range(rng.randrange(1, 3)):
                lengths = lengths_of(rng, 3) if turn else [rng.randrange(1, 9)] * min(size, 32)
                if len(lengths) > len(free):
                    break
                numbers = [free.pop() for _ in lengths]
                buffers = Buffers(s, lengths)
                chosen.append(buffers)
                ring.offer(ring.chain(buffers.list(), numbers))
                ring.expect(numbers[0], buffers.total)
            ring.publish()
            ring.kick()
            what = "chains of several buffers, in a queue with %d entries" % size
            ring.wait("the used index after " + what)
            ring.look(what)
            for buffers in chosen:
                buffers.filled(what)
        d.read(STATUS, RUNNING, "after these chains")
    s.hint = ("A chain as long as the queue is allowed, a longer one goes round in circles; a number that is no descriptor's leads "
              "nowhere; "
              "and a device-readable buffer does not come behind a device-writable one (2.7.4.2).")
    refuse(s, rng, 0, REFUSED_CHAINS, least=2)
    return s


def loop_to_itself(rng, s, ring):
    at = s.memory.take(64)
    ring.descriptor(1, at, 16, WRITE | NEXT, 1)
    ring.offer(1)
    return "a descriptor that goes on with itself"


def loop_of_all(rng, s, ring):
    at, numbers = s.memory.take(64), ring.pick(min(ring.size - len(ring.reserved), 8))
    for i, number in enumerate(numbers):
        ring.descriptor(number, at, 16, WRITE | NEXT, numbers[(i + 1) % len(numbers)])
    ring.offer(numbers[0])
    return "%d descriptors in a circle" % len(numbers)


def next_beyond(rng, s, ring):
    at, beyond = s.memory.take(64), rng.choice((ring.size, ring.size + 1, 0x8000, 0xFFFF))
    ring.descriptor(beyond % ring.size, at + 16, 16, WRITE)  # what it would be for one who wraps the number
    ring.descriptor(2, at, 16, WRITE | NEXT, beyond)
    ring.offer(2)
    return "a chain that goes on with descriptor %d, of %d" % (beyond, ring.size)


def readable_behind(rng, s, ring):
    at = s.memory.take(64)
    ring.offer(ring.chain([(at, 16, WRITE), (at + 16, 16, 0)]))
    return "a device-readable buffer behind a device-writable one"


def second_outside(rng, s, ring):
    at = s.memory.take(64)
    ring.offer(ring.chain([(at, 16, WRITE), (outside(rng, 64), 64, WRITE)]))
    return "a chain whose second buffer is not in memory"


REFUSED_CHAINS = (loop_to_itself, loop_of_all, next_beyond, readable_behind, second_outside)


# --- 4.8 ------------------------------------------------------------------------------------------------------------------

def indirect(seed):
    rng = random.Random(seed)
    s = Script(rng)
    features = VERSION_1 | INDIRECT_DESC
    s.hint = ("A descriptor with F_INDIRECT names a table of descriptors, anywhere in memory; the chain begins with its entry 0 and stays "
              "in it. The used ring names the descriptor in the queue. F_WRITE beside F_INDIRECT says nothing (2.7.5.3).")
    for size in rng.sample((2, 4, 16, 64, 256), 3):
        d, ring = running(s, 0, size, features)
        for turn in range(4):
            lengths = ([rng.randrange(1, 20)] * min(size, 40) if turn == 0 else
                       lengths_of(rng, min(6, size - 1)) if size > 2 else [rng.randrange(16, 99)] * rng.randrange(1, 3))[:size]
            buffers = Buffers(s, lengths)
            direct = rng.randrange(0, 2) if turn > 1 and len(lengths) > 1 and size > 2 else 0
            listed = buffers.list()
            at, length = ring.table(listed[direct:])
            numbers = rng.sample(range(size), direct + 1)
            ring.descriptor(numbers[-1], at, length, INDIRECT | rng.choice((0, WRITE)), rng.randrange(1 << 16))
            for i in range(direct):
                ring.descriptor(numbers[i], listed[i][0], listed[i][1], WRITE | NEXT, numbers[i + 1])
            ring.offer(numbers[0])
            ring.expect(numbers[0], buffers.total)
            ring.publish()
            ring.kick()
            what = "a table of %d descriptors%s" % (len(lengths) - direct, " behind a direct one" if direct else "")
            ring.wait("the used index after " + what)
            ring.look(what)
            buffers.filled(what)
        d.read(STATUS, RUNNING, "after indirect tables")
    s.hint = ("What makes no sense of a table breaks the device: not agreed on, empty, no multiple of 16 bytes, not in memory, inside "
              "another table, together with F_NEXT, a `next` behind its end, a circle.")
    refuse(s, rng, 0, REFUSED_TABLES, features, least=3)
    refuse(s, rng, 0, (table_of_two,), VERSION_1 | EVENT_IDX * rng.randrange(2), least=3)
    return s


def put_table(ring, at, length, flags=INDIRECT, next_=0):
    ring.descriptor(1, at, length, flags, next_)
    ring.offer(1)


def two_entries(s, ring):
    at = s.memory.take(64)
    return ring.table([(at, 16, WRITE), (at + 16, 16, WRITE)])


def table_of_two(rng, s, ring):
    put_table(ring, *two_entries(s, ring))
    return "an indirect table, which was not agreed on"


def table_empty(rng, s, ring):
    put_table(ring, two_entries(s, ring)[0], 0)
    return "an indirect table of 0 bytes"


def table_uneven(rng, s, ring):
    at, length = two_entries(s, ring)
    length += rng.choice((-1, 1, 8, -8, 15))
    put_table(ring, at, length)
    return "an indirect table of %d bytes" % length


def table_outside(rng, s, ring):
    at = outside(rng, 32)
    put_table(ring, at, 32)
    return "an indirect table at %#x" % at


def table_in_table(rng, s, ring):
    inner, length = two_entries(s, ring)
    outer = ring.table([(inner, length, INDIRECT)])
    put_table(ring, *outer)
    return "an indirect table in an indirect table"


def table_on_the_queue(rng, s, ring):
    ring.descriptor(0, ring.desc, 16, INDIRECT)
    ring.offer(0)
    return "an indirect table that lies on the queue's descriptors, and names itself"


def table_and_next(rng, s, ring):
    at = s.memory.take(64)
    ring.descriptor(2, at, 16, WRITE)
    put_table(ring, *two_entries(s, ring), flags=INDIRECT | NEXT, next_=2)
    return "F_INDIRECT together with F_NEXT"


def table_next_beyond(rng, s, ring):
    at = s.memory.take(64)
    number = rng.choice((2, 2, 7, 0xFFFF))
    table = s.memory.take(32, 16)
    s.write(table, b"".join(int.to_bytes(v, n, "little") for v, n in (
        (at, 8), (16, 4), (WRITE | NEXT, 2), (1, 2), (at, 8), (16, 4), (WRITE | NEXT, 2), (number, 2))))
    ring.descriptor(number % ring.size, at, 16, WRITE)
    put_table(ring, table, 32)
    return "an indirect table of 2 that goes on with entry %d" % number


def table_circle(rng, s, ring):
    at, table = s.memory.take(64), s.memory.take(16, 16)
    s.write(table, b"".join(int.to_bytes(v, n, "little") for v, n in ((at, 8), (16, 4), (WRITE | NEXT, 2), (0, 2))))
    put_table(ring, table, 16)
    return "an indirect table that goes round in a circle"


def table_huge(rng, s, ring):
    length = 16 * rng.choice((ring.size + 300, 65536, (1 << 28) - 1))
    put_table(ring, s.memory.take(16, 16), length)
    return "an indirect table of %d bytes" % length


REFUSED_TABLES = (table_empty, table_uneven, table_outside, table_in_table, table_on_the_queue, table_and_next, table_next_beyond,
                  table_circle, table_huge)


def first_answer(results, params):
    refused = judged(("pops", pops))({"pops": results["pops"]}, params)
    return answer_verify(results["answer"], params["answer"]) or refused


def popped_something(result, script):
    """Every chain that the device took is one that it counted."""
    return None if devices(result) else Failure("statistics of the device", "none", None, result.name)


CHECKPOINTS = [
    Checkpoint(
        "4.4", "The first buffer: entropy", 6,
        "A kick makes the device look at the available ring. It takes the chain, finds its memory and fills it with random bytes. What "
        "cannot be a buffer breaks the device.",
        "split_pop() and add_buffer() in virtqueue.c, rng_kick() in rng.c.",
        runs=[driver("answer", answer, ["--rng"], ends=(HV_OK, HV_TODO)), driver("pops", pops, ["--rng"])],
        verify=first_answer, depends=["4.3"]),
    Checkpoint(
        "4.5", "Giving back: the used ring, and the wrap at 65536", 6,
        "Each chain comes back in the used ring, once, with the number of bytes that were written. The indices go on counting beyond "
        "65535 as 0.",
        "split_push() in virtqueue.c.",
        runs=[driver("rounds", rounds, ["--rng"]), driver("order", order, ["--rng", "--watch-used"]),
              driver("wrap", wrap, ["--rng"], timeout=15.0)],
        verify=judged(("rounds", rounds), ("order", order, order_kept), ("wrap", wrap, wrap_counts)), depends=["4.4"]),
    Checkpoint(
        "4.6", "Chains", 6,
        "A request may lie in several buffers. The chain is followed to its end and no further, and one that does not end breaks the "
        "device.",
        "collect() in virtqueue.c.",
        runs=[driver("chains", chains, ["--rng"])], verify=judged(("chains", chains, popped_something)), depends=["4.5"]),
    Checkpoint(
        "4.8", "Indirect descriptors", 6,
        "A chain may lie in a table of its own, if that was agreed on. A table in a table, one that is no table, and one that leads out "
        "of itself break the device.",
        "open_table() in virtqueue.c.",
        runs=[driver("indirect", indirect, ["--rng"])], verify=judged(("indirect", indirect, popped_something)), depends=["4.6"]),
]
