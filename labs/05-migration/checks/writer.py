"""The guest guests/writer.c in Python: what its pages hold at any time."""

import struct

import streamfile
from splitmix import MASK64, STEP, SplitMix64

GUEST = "lab5/writer.elf"
FIRST = (2 << 20) // streamfile.PAGE  # gfn of its first page; below lies everything that is the guest's own
WORDS = 512
STORM_WORD = 8


class Writer:
    """params: those of the guest, a seed and the number of its pages."""

    def __init__(self, params):
        self.count = params[1]
        self.words = {}  # number of a word, from the first page on -> its value, if that is not 0
        rng = SplitMix64(params[0])
        for page in range(self.count):
            r = rng.next()
            if r & 3:
                self._set(page * WORDS + (r >> 2 & 511), rng.next() | 1)
                self._set(page * WORDS + (r >> 11 & 511), rng.next() | 1)

    def _set(self, word, value):
        self.words[word] = value & MASK64

    def write(self, seed, count):
        """The command w. The set of gfns that it writes to."""
        rng, written = SplitMix64(seed), set()
        for _ in range(count):
            r = rng.next()
            page = (r >> 9) % self.count
            word = page * WORDS + (r & 511)
            self._set(word, self.words.get(word, 0) + (rng.next() | 1))
            written.add(FIRST + page)
        return written

    def hash(self):
        """The command h."""
        return sum(value * ((2 * word + 1) * STEP & MASK64) for word, value in self.words.items()) & MASK64

    def page(self, gfn):
        """A page's bytes."""
        base, data = (gfn - FIRST) * WORDS, bytearray(streamfile.PAGE)
        for word in range(base, base + WORDS):
            if self.words.get(word):
                struct.pack_into("<Q", data, 8 * (word - base), self.words[word])
        return bytes(data)

    def sums(self):
        """gfn -> CRC-32C of the page, of all that are not zero."""
        gfns = sorted({FIRST + word // WORDS for word, value in self.words.items() if value})
        return {gfn: streamfile.crc32c(self.page(gfn)) for gfn in gfns}
