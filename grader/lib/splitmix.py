"""Numbers from a seed, the same here and in C: SplitMix64 (Steele, Lea and Flood, 2014)."""

MASK64 = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


class SplitMix64:
    def __init__(self, state):
        self.state = state

    def next(self):
        self.state = self.state + STEP & MASK64
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK64
        return z ^ z >> 31
