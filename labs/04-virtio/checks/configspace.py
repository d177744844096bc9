"""Checkpoint 4.11: the configuration space and its generation (guests/driver.c), on a disk and two network cards joined with each other."""

import random
import struct

from block import files, geometry
from driverscript import Script, driver, judged
from model import Checkpoint
from ring import CONFIG, CONFIG_GENERATION, STATUS, VERSION_1, Device

F_CONFIG_WCE = 1 << 11
WRITEBACK = 32  # offset
LENGTH = 60  # of the disk's configuration
LINK = 6  # offset of the network card's status


def cards(seed):
    """MAC addresses and MTU of the two cards."""
    rng = random.Random(seed ^ 0xCA4D)
    return [bytes([2]) + bytes(rng.randrange(256) for _ in range(5)) for _ in range(2)], rng.randrange(600, 9000)


def net_options(seed):
    macs, mtu = cards(seed)
    return [word for mac in macs for word in ("--net", "socket=/work/link,mac=%s,mtu=%d" % (mac.hex(":"), mtu))]


def options(seed):
    return ["--disk", "@DIR@/disk", *net_options(seed)]


def config(seed):
    rng = random.Random(seed)
    s = Script(rng)
    d = Device(s, 0)
    sectors, _ = geometry(seed)
    s.hint = "An access of 1, 2, 4 or 8 bytes anywhere in the configuration space; what lies behind its end reads as 0."
    head = struct.pack("<Q", sectors)
    for offset in rng.sample(range(8), 5) + [0]:
        for size in (1, 2, 4, 8):
            if offset + size <= 8:
                d.read(CONFIG + offset, int.from_bytes(head[offset : offset + size], "little"), "(capacity), read with %d bytes" % size,
                       size)
    d.read(CONFIG + 20, 512, "(blk_size)")
    for offset in rng.sample((LENGTH, LENGTH + 4, 0x80, 0xF0), 3):
        d.read(CONFIG + offset, 0, "behind the end of the configuration", rng.choice((1, 2, 4, 8)))
    macs, mtu = cards(seed)
    cards_ = [Device(s, slot) for slot in (1, 2)]
    for card, mac in zip(cards_, macs):
        for i in rng.sample(range(6), 6):
            card.read(CONFIG + i, mac[i], "(byte %d of the MAC address)" % i, 1)
        card.read(CONFIG + 10, mtu, "(mtu)", 2)
        card.read(CONFIG + 8, mtu << 16, "(max_virtqueue_pairs and mtu together)")
        card.read(CONFIG + 12, 0, "behind the end of the configuration", 8)

    s.hint = "A write reaches the device when it lies inside the configuration, has 1, 2 or 4 bytes, and the device takes it."
    d.negotiate(VERSION_1 | F_CONFIG_WCE | 1 << 9)
    for value in (0, 1):
        d.write(CONFIG + WRITEBACK, value, size=1)
        d.read(CONFIG + WRITEBACK, value, "(writeback), after a write of %d" % value, 1)
    d.write(CONFIG, rng.getrandbits(32))
    d.read(CONFIG, sectors, "(capacity), which the driver cannot change")

    s.hint = ("ConfigGeneration changes with the configuration, so that a driver which reads it before and behind knows that its pieces "
              "belong "
              "together (2.5). Here the link of the first card came up.")
    card = cards_[0]
    s.wait16(card.base + CONFIG + LINK, 1, "the status of the first card, joined with the second")
    number = s.load(card.base + CONFIG_GENERATION, 4)

    def judge(report):
        value = report.value(number)
        return None if value else ("ConfigGeneration not to be 0 any more after the link came up", "0" if value == 0 else "nothing")

    s.check(judge)
    d.read(CONFIG_GENERATION, 0, "of the disk, whose configuration nothing has changed")
    d.reset()
    d.read(STATUS, 0, "after a reset")
    d.read(CONFIG, sectors & 0xFFFFFFFF, "(capacity), after a reset")
    return s


CHECKPOINTS = [
    Checkpoint(
        "4.11", "The configuration space, and its generation", 4,
        "Each kind of device has a configuration of its own behind the registers. It is read in pieces of any size, nothing is read behind "
        "its end, and a number tells when it changed.",
        "config_read() and ConfigGeneration in mmio.c.",
        runs=[driver("config", config, options, files=files)], verify=judged(("config", config)), depends=["4.2"]),
]
