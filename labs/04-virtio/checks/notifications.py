"""Checkpoints 4.7 and 4.9: who tells whom, and when not (guests/driver.c)."""

import random

from driverscript import Script, counted, driver, judged
from model import Checkpoint
from ring import (ACKNOWLEDGE, EVENT_IDX, INTERRUPT_ACK, INTERRUPT_STATUS, NO_INTERRUPT, RUNNING, STATUS, USED, VERSION_1, WRITE, Device,
                  Ring)


class Traffic:
    """One device whose buffers are all the same one byte, and how many interrupts are due."""

    def __init__(self, s, slot, size, features):
        self.s = s
        self.d = Device(s, slot)
        self.d.negotiate(features)
        self.ring = Ring(self.d, size, features=features)
        buffer = s.memory.take(64)
        for number in range(size):
            self.ring.descriptor(number, buffer, 1, WRITE)
        self.ring.configure()
        self.interrupts = self.kicks = 0

    def hand_over(self, batch):
        """batch chains with one kick."""
        for _ in range(batch):
            head = self.ring.idx % self.ring.size
            self.ring.offer(head)
            self.ring.expect(head, 1)
        self.ring.publish()
        self.kick()

    def kick(self):
        self.ring.kick()
        self.kicks += 1


# --- 4.7 ------------------------------------------------------------------------------------------------------------------

def interrupts(seed):
    rng = random.Random(seed)
    s = Script(rng)
    slot = rng.randrange(8)
    s.slot = slot
    t = Traffic(s, slot, 1 << rng.randrange(3, 9), VERSION_1)
    d, ring = t.d, t.ring

    s.hint = "No interrupt without a used buffer."
    s.listen(d.irq)
    d.read(INTERRUPT_STATUS, 0, "before DRIVER_OK")
    d.start()
    t.kick()
    d.read(INTERRUPT_STATUS, 0, "after a kick without a buffer")
    s.irqs(d.irq, 0, 0, "after a kick without a buffer")

    s.hint = ("virtqueue_notify() asks split_should_interrupt() once for all that was pushed. The line is high as long as InterruptStatus "
              "is not 0; a guest that takes edges sees the next one after the ACK. (4.2.2, 4.2.3.4)")
    batch = rng.randrange(2, ring.size)
    t.hand_over(batch)
    t.interrupts += 1
    s.wait_irq(d.irq, 1, 1, 0, "after %d buffers with one kick" % batch)
    d.read(INTERRUPT_STATUS, USED, "after used buffers")
    d.write(INTERRUPT_ACK, 0xFFFFFFFF & ~USED)
    d.read(INTERRUPT_STATUS, USED, "after an ACK of everything else")
    t.hand_over(1)
    t.interrupts += 1
    s.irqs(d.irq, 1, 0, "with the line still high")
    d.write(INTERRUPT_ACK, USED)
    d.read(INTERRUPT_STATUS, 0, "after its ACK")
    t.hand_over(1)
    t.interrupts += 1
    s.wait_irq(d.irq, 2, 2, 0, "after the ACK and one more buffer")
    d.write(INTERRUPT_ACK, USED)

    s.hint = "AVAIL_F_NO_INTERRUPT: the driver looks at the used ring by itself. It is read each time anew. (2.7.7)"
    s.section()
    s.listen(d.irq, d.base)
    for turn, quiet in enumerate([1, 0, rng.randrange(2), 1, 0, rng.randrange(2), rng.randrange(2)]):
        ring.set_flags(NO_INTERRUPT * quiet | rng.choice((0, 2)))
        t.hand_over(rng.randrange(1, ring.size))
        before = t.interrupts
        t.interrupts += not quiet
        due = t.interrupts - 3
        what = "in round %d, %s NO_INTERRUPT" % (turn + 1, "with" if quiet else "without")
        s.wait_irq(d.irq, due, due, USED * (due > 0), what)
        d.read(INTERRUPT_STATUS, 0, what)
        assert t.interrupts - before in (0, 1)
    ring.set_flags(0)
    t.kick()
    due = t.interrupts - 3
    s.irqs(d.irq, due, USED, "after a kick that brought nothing")
    ring.look("after all rounds")

    s.hint = "A reset takes an interrupt back that nobody has acknowledged."
    s.section()
    s.listen(d.irq)
    t.hand_over(1)
    t.interrupts += 1
    s.wait_irq(d.irq, 1, 1, 0, "after one more buffer")
    d.reset()
    d.read(INTERRUPT_STATUS, 0, "after a reset")
    d.write(STATUS, ACKNOWLEDGE)
    again = Traffic(s, slot, 4, VERSION_1)
    again.d.start()
    again.hand_over(1)
    s.wait_irq(d.irq, 2, 2, 0, "after a reset with an interrupt pending, and one buffer")
    again.d.read(STATUS, RUNNING, "at the end")
    s.counts = {"interrupts": t.interrupts + 1, "kicks": t.kicks + 1, "chains": ring.idx + 1}
    return s


def interrupts_options(seed):
    return ["--rng"] * (interrupts(seed).slot + 1)


def exact_counts(result, script):
    return counted(result, script.slot, "what the driver asked for", script.hint, broken=0, **script.counts)


# --- 4.9 ------------------------------------------------------------------------------------------------------------------

def events(seed):
    rng = random.Random(seed)
    s = Script(rng)
    s.slot = 0
    size = 1 << rng.randrange(3, 8)
    t = Traffic(s, 0, size, VERSION_1 | EVENT_IDX)
    d, ring = t.d, t.ring
    d.start()
    s.listen(d.irq, d.base)

    def step(batch, event, what):
        """One kick: batch chains while used_event is `event`. Due when the used index goes past it: event is among those indices."""
        ring.used_event(event)
        before = ring.used_idx
        t.hand_over(batch)
        t.interrupts += (event - before) % 65536 < batch
        s.wait_irq(d.irq, t.interrupts, t.interrupts, USED * (t.interrupts > 0), "%s: %d buffers from index %d on, used_event %d" % (
            what, batch, before % 65536, event % 65536))

    s.hint = ("used_event, behind the available ring, is an index: the interrupt is due when the used index goes past it, from before or "
              "at used_event to behind it, modulo 65536. The flags say nothing now. (2.7.7, 2.7.10)")
    ring.set_flags(rng.choice((NO_INTERRUPT, 0)))
    for _ in range(3):
        for offset in rng.sample(("first", "last", "behind", "far behind", "one before", "before"), 6):
            batch = rng.randrange(1, size)
            at = {"first": 0, "last": batch - 1, "behind": batch, "far behind": batch + rng.randrange(1, 30000), "one before": -1,
                  "before": -rng.randrange(2, 30000)}[offset]
            step(batch, (ring.used_idx + at) & 0xFFFF, "used_event %s" % offset)
        ring.set_flags(rng.choice((NO_INTERRUPT, 0)))
    s.hint = ("avail_event, behind the used ring, is the index from which on the device wants a kick: the one of the next chain, when it "
              "has "
              "taken all that are there. (2.7.10)")
    ring.look("after %d chains" % ring.idx)

    # To the wrap: full rings without an interrupt, then step by step.
    s.hint = "Indices are compared modulo 65536: what goes past 65535 is behind it, not before everything."
    rounds = (65536 - ring.idx) // size - 1
    ring.used_event(ring.idx - 1)
    for _ in range(size):  # from now on the available ring stays as it is
        head = ring.idx % size
        ring.offer(head)
        ring.expect(head, 1)
    ring.idx -= size
    ring.used_idx -= size

    def round_():
        s.add16(ring.avail + 2, size)
        ring.kick()
        s.same16(ring.avail + 2, ring.used + 2)

    quiet = (ring.idx - 1) & 0xFFFF
    s.loop(round_, rounds)
    t.kicks += rounds
    ring.idx += rounds * size
    ring.used_idx += rounds * size
    assert quiet != ring.idx
    while ring.idx < 65536 + size:
        batch = rng.randrange(1, size)
        at = rng.choice((0, batch - 1, batch, -1, rng.randrange(batch), 65535 - ring.idx, 65536 - ring.idx))
        step(batch, (ring.used_idx + at) & 0xFFFF, "near the wrap")
    ring.look("behind the wrap")
    d.read(STATUS, RUNNING, "at the end")
    s.counts = {"interrupts": t.interrupts, "kicks": t.kicks, "chains": ring.idx}
    return s


def without(seed):
    """The same words when EVENT_IDX is offered but not agreed on: they are no one's."""
    rng = random.Random(seed)
    s = Script(rng)
    s.slot = 0
    t = Traffic(s, 0, 1 << rng.randrange(3, 8), VERSION_1)
    d, ring = t.d, t.ring
    d.start()
    s.listen(d.irq, d.base)
    s.hint = "Without EVENT_IDX the flags decide, and the words behind the rings are not read and not written."
    for turn in range(4):
        ring.used_event(rng.randrange(1 << 16))
        quiet = turn % 2
        ring.set_flags(NO_INTERRUPT * quiet)
        t.hand_over(rng.randrange(1, ring.size))
        t.interrupts += not quiet
        s.wait_irq(d.irq, t.interrupts, t.interrupts, USED, "EVENT_IDX not agreed on, %s NO_INTERRUPT" % ("with" if quiet else "without"))
    ring.look("EVENT_IDX not agreed on")
    s.counts = {"interrupts": t.interrupts, "kicks": t.kicks, "chains": ring.idx}
    return s


CHECKPOINTS = [
    Checkpoint(
        "4.7", "Interrupts: when, until when, and when not", 6,
        "Used buffers raise the interrupt, once for all that came back together, unless the driver does not want it. InterruptStatus says "
        "why, and the line stays high until the driver has acknowledged that.",
        "InterruptStatus and InterruptACK in mmio.c, split_should_interrupt() in virtqueue.c.",
        runs=[driver("interrupts", interrupts, interrupts_options)], verify=judged(("interrupts", interrupts, exact_counts)),
        depends=["4.5"]),
    Checkpoint(
        "4.9", "The event index, both ways", 8,
        "With EVENT_IDX each side names the index at which it wants to be told, so that there is not one notification too many, and none "
        "is missing.",
        "split_should_interrupt(), split_arm() and split_disarm() in virtqueue.c.",
        runs=[driver("events", events, ["--rng"], timeout=15.0), driver("without", without, ["--rng"])],
        verify=judged(("events", events, exact_counts), ("without", without, exact_counts)), depends=["4.7"]),
]
