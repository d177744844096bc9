"""Small comparisons that checkpoints.py files share. Each returns None or a Failure."""

from collections import Counter

from model import VEC_GP, VEC_UD, Failure


def first(*checks):
    """The first failure of several, or None."""
    return next((c for c in checks if c is not None), None)


def _show(key, values):
    return "\n".join("%s=%x" % (key, v) for v in values) if values else "no line %s=..." % key


def reported(result, key, expected, hint=None):
    """The guest reported exactly these values under this key. expected: a number or a list of numbers."""
    expected = list(expected) if isinstance(expected, (list, tuple)) else [expected]
    seen = result.lines.get(key, [])
    if seen == expected:
        return None
    for e, s in zip(expected, seen):
        if e != s:
            return Failure(_show(key, [e]), _show(key, [s]), hint, result.name, exact=True)
    return Failure(_show(key, expected), _show(key, seen), hint, result.name, exact=True)


def printed(result, expected, hint=None):
    """The console's output is exactly this."""
    return None if result.output == expected else Failure(expected, result.output, hint, result.name, exact=True)


def trapped(result, minimum, what, *vectors):
    """The witness saw at least that many traps of the guest (none to ask on a native host); by default those of privileged instructions.
    One that is also invalid, as MOV from DR4 with CR4.DE set, is #GP to some processors and #UD to others."""
    seen = sum(result.witness.pio[vector] for vector in vectors or (VEC_GP, VEC_UD)) if result.witness else 0
    if result.witness is None or seen >= minimum:
        return None
    return Failure("at least %d traps of the guest: %s" % (minimum, what), "%d traps, counted by the test host's kernel" % seen,
                   "What hv prints and counts itself was not compared here. The kernel below it saw fewer traps than this guest "
                   "has privileged instructions, so they were not emulated one by one as they trapped.", result.name)


def printed_by_traps(result, text, extra=0, what="one for each byte that it printed"):
    """The witness saw each byte of text in AL when the guest trapped: the output came through the guest's own OUTs."""
    failure = trapped(result, len(text) + extra, what)
    if failure or result.witness is None:
        return failure
    seen = result.witness.values.get(VEC_GP, Counter())
    for byte, count in Counter(text).items():
        if seen[byte] < count:
            return Failure("the guest to trap %d times with AL = %#x, once for each such byte that hv printed" % (count, byte),
                           "%d such traps, counted by the test host's kernel" % seen[byte],
                           "The text that hv printed is not what the guest gave it by OUT.", result.name)
    return None
