"""Checkpoint 4.10: a driver that breaks the rules breaks its own device, and a reset repairs that (guests/driver.c)."""

import random

from buffers import REFUSED_CHAINS, REFUSED_POPS, REFUSED_TABLES, Buffers
from driverscript import Script, counted, driver, judged
from model import Checkpoint, Failure
from notifications import Traffic
from ring import (CONFIGURED, INDIRECT_DESC, INTERRUPT_ACK, INTERRUPT_STATUS, NEEDS_RESET, NO_INTERRUPT,
                  QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER, QUEUE_NOTIFY, QUEUE_READY, QUEUE_SIZE, RUNNING, STATUS, VERSION_1, Device, Ring)

BROKEN = ("virtio_broken() sets NEEDS_RESET and tells the driver that the configuration changed (2.1.2). From then on the "
          "device does nothing, "
          "whatever is written, until it is reset. The other devices know nothing of it.")


def one_good(s, ring):
    buffers = Buffers(s, [s.rng.randrange(8, 60) for _ in range(min(2, ring.size))])
    numbers = s.rng.sample(range(3, ring.size), len(buffers.at))  # the others make use of the first ones
    ring.reserved = set(numbers)
    head = ring.chain(buffers.list(), numbers)
    ring.offer(head)
    ring.expect(head, buffers.total)
    return buffers


def served(s, ring, what):
    """A good chain is given back."""
    buffers = one_good(s, ring)
    ring.publish()
    ring.kick()
    ring.wait("the used index, " + what)
    ring.look(what)
    buffers.filled(what)


def begin(d, ring):
    d.negotiate(VERSION_1 | INDIRECT_DESC)
    ring.fresh()
    ring.configure()
    d.start()


def malformed(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.slot, hostile = rng.sample((0, 1), 2)
    other = Traffic(s, s.slot, 16, VERSION_1)
    other.d.start()
    s.listen(other.d.irq, other.d.base)
    d = Device(s, hostile)
    size = 1 << rng.randrange(3, 9)
    ring = Ring(d, size, features=VERSION_1 | INDIRECT_DESC)
    s.broken = 0
    kinds = rng.sample(REFUSED_POPS, 3) + rng.sample(REFUSED_CHAINS, 2) + rng.sample(REFUSED_TABLES, 3)
    for turn, make in enumerate(rng.sample(kinds, len(kinds))):
        s.section()
        s.hint = BROKEN
        begin(d, ring)
        s.listen(d.irq)
        s.listen(other.d.irq, other.d.base)
        good = make.__name__ != "too_far" and rng.randrange(2)
        if good:
            one_good(s, ring)
        ring.set_flags(NO_INTERRUPT)
        what = "after %s%s" % (make(rng, s, ring), " behind a good chain" if good else "")
        ring.publish()
        ring.kick()
        s.broken += 1
        d.read(STATUS, RUNNING | NEEDS_RESET, what)
        d.read(INTERRUPT_STATUS, CONFIGURED, what)
        s.irqs(d.irq, 1, 0, what)
        ring.look(what, False)
        d.write(STATUS, RUNNING)
        d.read(STATUS, RUNNING | NEEDS_RESET, "after another DRIVER_OK, %s" % what)
        ring.script.store(ring.avail + 4, 2, ring.chain(Buffers(s, [32]).list()))
        ring.script.store(ring.avail + 2, 2, ring.idx + 1)
        ring.kick()
        ring.look("after a kick of a device that needs a reset, " + what, False)
        other.hand_over(rng.randrange(1, 9))
        other.ring.wait("the used index of the other device, %s" % what)
        s.wait_irq(other.d.irq, 1, 1, 1, "the other device, %s" % what)
        s.hint = "A reset revives the device: Status, InterruptStatus and queues are as at the start."
        d.write(INTERRUPT_ACK, CONFIGURED * rng.randrange(2))
        d.reset()
        d.read(STATUS, 0, "after the reset, %s" % what)
        d.read(INTERRUPT_STATUS, 0, "after the reset, %s" % what)
        begin(d, ring)
        ring.set_flags(NO_INTERRUPT)
        served(s, ring, "after the reset, %s" % what)

    s.section()
    s.hint = "QueueNotify takes any number; only that of a queue which is there, ready and of a device that runs means something."
    d.negotiate(VERSION_1 | INDIRECT_DESC)
    ring.fresh()
    ring.configure()
    ring.set_flags(NO_INTERRUPT)
    head = ring.chain(Buffers(s, [32]).list())
    ring.offer(head)
    ring.publish()
    ring.kick()
    ring.look("after a kick before DRIVER_OK", False)
    d.start()
    for number in rng.sample((1, 2, 3, 4, 31, 32, 255, 256, 0x10000, 0x1000000, 0x80000000, 0xFFFFFFFF), 12):
        d.write(QUEUE_NOTIFY, number)
    ring.look("after kicks of queues that do not exist", False)
    d.read(STATUS, RUNNING, "after kicks of queues that do not exist")
    s.hint = "Where a queue lies and how long it is was agreed on: it does not change under a device that runs."
    d.write(QUEUE_SIZE, rng.choice((1, 2)))
    for register in (QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE):
        d.write64(register, s.memory.take(4096, 4096))
    ring.kick()
    ring.expect(head, 32)
    ring.wait("the used index of a queue whose registers were written after DRIVER_OK")
    served(s, ring, "after writes to the registers of a queue in use")
    s.hint = "A queue that was taken back is not looked at."
    d.write(QUEUE_READY, 0)
    ring.offer(ring.chain(Buffers(s, [32]).list()))
    ring.publish()
    ring.kick()
    ring.look("after a kick of a queue that was taken back", False)
    d.read(STATUS, RUNNING, "after a kick of a queue that was taken back")
    s.hostile, s.resets = hostile, d.resets
    return s


def counts(result, script):
    hint = "Each malformed chain breaks the device once, and nothing else does."
    failure = counted(result, script.hostile, "the driver's mistakes and resets", hint, broken=script.broken, resets=script.resets)
    failure = failure or counted(result, script.slot, "the other device's", hint, broken=0, resets=1)
    rss = result.maxrss_kib
    if not failure and rss > 512 * 1024:
        failure = Failure("hv to need no more memory for malformed chains", "%d KiB" % rss, hint, result.name)
    return failure


CHECKPOINTS = [
    Checkpoint(
        "4.10", "Malformed rings: NEEDS_RESET, and nothing worse", 8,
        "Whatever a driver writes, hv and the other devices go on. The device says that it needs a reset, raises a configuration "
        "interrupt, "
        "does nothing more, and works again after the reset.",
        "virtio_broken() wherever something cannot be, and return; write_status() keeps NEEDS_RESET; reset() starts from nothing.",
        runs=[driver("malformed", malformed, ["--rng", "--rng"])], verify=judged(("malformed", malformed, counts)),
        depends=["4.7", "4.8"]),
]
