"""What guests/edits.c prints: a head of three lines, then bytes."""

import re
from dataclasses import dataclass

from walker import PF_I, PF_P, PF_RSVD, PF_U, PF_W


@dataclass(frozen=True)
class Head:
    """What a guest reports before its first step."""

    features: int
    phys_bits: int
    root: int  # slot 0 of all pages


def split(output):
    """(Head, the rest) of what the guest printed, or None."""
    match = re.match(rb"features=([0-9a-f]+)\nbits=([0-9a-f]+)\nroot=([0-9a-f]+)\n", output)
    return match and (Head(*(int(group, 16) for group in match.groups())), output[match.end() :])


@dataclass(frozen=True)
class Seen:
    """An access's end. kind: "done" (value: fold() of it, or None), "pf", "gp" (error), "other" (vector)."""

    kind: str
    value: int = None
    error: int = 0
    cr2: int = None  # None: right

    def __str__(self):
        if self.kind == "done":
            return "done" if self.value is None else "done, a value with checksum %04x" % self.value
        if self.kind == "pf":
            bits = ((PF_P, "P"), (PF_W, "W"), (PF_U, "U"), (PF_RSVD, "RSVD"), (PF_I, "I"))
            names = " ".join(name for bit, name in bits if self.error & bit) or "0"
            return "#PF with error code %#x (%s)%s" % (self.error, names, "" if self.cr2 is None else " and CR2 = %#x" % self.cr2)
        if self.kind == "gp":
            return "#GP with error code %#x" % self.error
        return "exception %d" % self.error


class Ended(Exception):
    """The output ends here."""


class Decoder:
    """The guest's bytes, one thing after another."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise Ended
        self.at += n
        return int.from_bytes(self.data[self.at - n : self.at], "little")

    def access(self, valued):
        byte = self.take(1)
        if byte >> 6 == 1:
            return Seen("pf", error=byte & 31, cr2=None if byte & 32 else self.take(8))
        if byte >> 6 == 2:
            return Seen("gp", error=byte & 31)
        if byte:
            return Seen("other", error=byte & 31)
        return Seen("done", self.take(2) if valued else None)

    def entries(self, count):
        """([A | D << 1 of each entry], sum of the rest)."""
        bits = [self.take(1) for _ in range(-(-count // 4))]
        return [bits[i // 4] >> 2 * (i % 4) & 3 for i in range(count)], self.take(2)
