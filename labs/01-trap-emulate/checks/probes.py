"""The other half of guests/probe.h: which registers an instruction under observation got, and what it made of them."""

from checks import reported
from model import Failure

MASK64 = (1 << 64) - 1
NAMES = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "flags")
ARITHMETIC = 0x8D5

CR0_ET = 1 << 4
CR0_FIXED = 1 << 31 | 1 << 4 | 1  # PG, ET, PE
CR0_FREE = (1, 2, 3, 5, 16, 18)  # MP EM TS NE WP AM
CR4_FIXED = 1 << 5  # PAE
CR4_FREE = (2, 3, 4, 7, 9, 10)  # TSD DE PSE PGE OSFXSR OSXMMEXCPT


def u64(rng):
    return rng.getrandbits(64) | 1 << 63 | 1  # no half of it is 0


def some_bits(rng, fixed, free):
    """fixed, and some of the bits with these numbers."""
    return fixed | sum(1 << bit for bit in free if rng.getrandbits(1))


def registers(seed, **changed):
    """What fill() in guests/probe.h makes of a seed, with some registers set otherwise."""
    values = {name: seed * (2 * i + 3) & MASK64 for i, name in enumerate(NAMES[:-1])}
    values["flags"] = seed & ARITHMETIC
    values.update(changed)
    return values


def low(value, bits, new):
    """value with its low bits replaced."""
    return value & ~((1 << bits) - 1) & MASK64 | new


def after(result, probe, before, hint=None, free=(), **changed):
    """A probe changed these registers in this way and no others; what becomes of those in free is not looked at."""
    lines, wanted, ignored = result.lines, 0, 0
    for i, name in enumerate(NAMES):
        if name in free:
            ignored |= 1 << i
            continue
        key = "%s.%s" % (probe, name)
        value = changed.get(name, before[name])
        if value != before[name]:
            wanted |= 1 << i
            failure = reported(result, key, value, hint)
            if failure and key not in lines and probe + ".changed" in lines:
                failure = Failure("%s=%x" % (key, value), "%s=%x, as before" % (key, before[name]), hint, result.name, exact=True)
            if failure:
                return failure
        elif key in lines:
            return Failure("%s=%x, as before" % (key, value), "%s=%x" % (key, lines[key][0]), hint, result.name, exact=True)
    seen = [mask & ~ignored for mask in lines.get(probe + ".changed", [])]
    if seen == [wanted & ~ignored]:
        return None
    return Failure("one report of the registers behind `%s`" % probe, "%d" % len(seen), hint, result.name)
