"""What Lab 5 decides without any machine: the rules of checkpoints 5.7, 5.8, 5.11 and 5.17, asked with facts from the seed, and
what must come of them."""

import random

from streamfile import PAGE
from streamscript import Script

SECOND = 10**9

# --- 5.7: clock_gap() -------------------------------------------------------------------------------------------------------

LONGEST = 10 * SECOND


def gap(live, stopped, now):
    return min(max(now - stopped, 0), LONGEST) if live else 0


def gaps(seed):
    rng, script = random.Random(seed), Script()
    script.hint = ("A VM from a file goes on where it stopped. One that moves was away for now - stopped; the two times are of "
                   "two hosts: less than 0 is 0, more than 10 s is 10 s.")
    for live in (0, 1):
        for away in (0, 1, rng.randrange(1, SECOND), rng.randrange(SECOND, LONGEST), LONGEST, LONGEST + 1,
                     rng.randrange(20, 10**6) * SECOND,
                     -1, -rng.randrange(1, 10**6) * SECOND):
            stopped = 1_790_000_000 * SECOND + rng.randrange(10**17)
            script.says("gap %d %d %d" % (live, stopped, stopped + away), "gap %d" % gap(live, stopped, stopped + away),
                        "%s, and %d ns lie between" % ("it moved while it ran" if live else "it was in a file", away))
    return script


# --- 5.8: cpuid_covers() ----------------------------------------------------------------------------------------------------

EAX, EBX, ECX, EDX = range(4)
# Leaves whose bits are features, and in which registers (SDM vol. 2, CPUID; APM vol. 3, appendix E).
FEATURES = {(1, 0): (ECX, EDX), (7, 0): (EBX, ECX, EDX), (7, 1): (EAX, EBX, ECX, EDX), (0xD, 0): (EAX, EDX), (0xD, 1): (EAX,),
            (0x40000001, 0): (EAX,), (0x80000001, 0): (ECX, EDX), (0x80000008, 0): (EBX,)}
VENDORS = ((0x68747541, 0x444D4163, 0x69746E65), (0x756E6547, 0x6C65746E, 0x49656E69))


def _table(rng):
    """A CPU: leaf -> [eax, ebx, ecx, edx]."""
    ebx, ecx, edx = rng.choice(VENDORS)
    table = {(0, 0): [0x10, ebx, ecx, edx], (4, 0): [rng.getrandbits(32) for _ in range(4)],
             (0xB, 1): [rng.getrandbits(32) for _ in range(4)]}
    for leaf in FEATURES:
        table[leaf] = [rng.getrandbits(32) for _ in range(4)]
    table[7, 0][EAX] = 1
    table[0x80000008, 0][EAX] = 0x3000 | rng.randrange(37, 52)
    return table


def _copy(table):
    return {leaf: list(registers) for leaf, registers in table.items()}


def _ask(script, rng, have, seen, fits, what):
    for name, table in (("have", have), ("seen", seen)):
        leaves = list(table)
        rng.shuffle(leaves)
        for leaf in leaves:
            script.add("%s %#x %d %#x %#x %#x %#x" % (name, *leaf, *table[leaf]))
    if fits:
        script.does("covers", what)
    else:
        script.refuses("covers", ("ENOTSUP",), what)


def tables(seed):
    rng, script = random.Random(seed), Script()
    script.hint = ("Every feature bit that the guest has seen must be there: leaves 1, 7.0, 7.1, 0xd.0, 0xd.1, 0x40000001, 0x80000001 and "
                   "0x80000008 EBX, found by function and index; the same vendor; physical addresses at least as wide. More does no harm.")
    seen = _table(rng)
    _ask(script, rng, seen, seen, True, "the same CPU")
    for leaf, registers in FEATURES.items():
        for register in registers:
            name = "CPUID %#x.%d %s" % (*leaf, ("EAX", "EBX", "ECX", "EDX")[register])
            bit = rng.randrange(32)
            seen, have = _table(rng), None
            seen[leaf][register] |= 1 << bit
            have = _copy(seen)
            have[leaf][register] &= ~(1 << bit)
            _ask(script, rng, have, seen, False, "without bit %d of %s, which the guest has seen" % (bit, name))
            _ask(script, rng, seen, have, True, "with bit %d of %s, which the guest has not seen" % (bit, name))
    for leaf in FEATURES:
        seen = _table(rng)
        seen[leaf][FEATURES[leaf][0]] |= 4
        have = {other: registers for other, registers in seen.items() if other != leaf}
        _ask(script, rng, have, seen, False, "without leaf %#x.%d, of which the guest has seen features" % leaf)
        _ask(script, rng, seen, have, True, "with leaf %#x.%d, which the guest does not have" % leaf)
    seen = _table(rng)
    seen[0, 0][1:] = VENDORS[0]
    for register in (EBX, ECX, EDX):
        have = _copy(seen)
        have[0, 0][register] = VENDORS[1][register - 1]
        _ask(script, rng, have, seen, False, "another vendor")
    for width, fits in ((-1, False), (1, True), (0, True)):
        seen = _table(rng)
        have = _copy(seen)
        have[0x80000008, 0][EAX] += width
        _ask(script, rng, have, seen, fits, "physical addresses of %+d bits against those that the guest has seen" % width)
    seen, have = _table(rng), None
    have = _copy(seen)
    have[4, 0] = [rng.getrandbits(32) for _ in range(4)]  # caches, not features
    have[1, 0][EAX] ^= 0xF0  # model
    have[0xD, 0][ECX] ^= 0xFF  # how large the area of all features is
    _ask(script, rng, have, seen, True, "another model and other caches")
    return script


# --- 5.11: precopy_next() ---------------------------------------------------------------------------------------------------


def next_(sent, dirty, bandwidth, downtime, elapsed, timeout, slow, throttle):
    """(choice, throttle): the rule of the handout."""
    if dirty * PAGE * SECOND <= downtime * bandwidth:
        return "stop", throttle
    if timeout and elapsed >= timeout:
        return "give-up", throttle
    if slow >= 2 and throttle < 99:
        return "throttle", min(throttle + 10, 99) if throttle else 20
    return "round", throttle


def choices(seed):
    rng, script = random.Random(seed), Script()
    script.hint = ("In this order: stop when dirty pages * 4096 / bandwidth is within the downtime; give up when there is a "
                   "timeout and it is over; with two slow rounds or more: throttle, 0 -> 20, then 10 more, at most 99 (at 99: "
                   "another round); else another round.")
    asked = []
    for _ in range(40):
        bandwidth, downtime = rng.randrange(1, 2000) << 20, rng.randrange(1, 500) * 10**6
        most = downtime * bandwidth // SECOND // PAGE  # pages that fit
        timeout = rng.choice((0, rng.randrange(1, 100) * SECOND))
        elapsed = rng.choice((rng.randrange(1, 200) * SECOND, timeout, max(timeout - 1, 0)))
        for dirty in (most, most + 1, rng.randrange(0, most + 1), most + rng.randrange(2, 10**6)):
            asked.append((rng.randrange(10**6), dirty, bandwidth, downtime, elapsed, timeout, rng.randrange(5),
                          rng.choice((0, 20, 30, 80, 90, 95, 99))))
    # Each choice at its border, and with everything that the rule must not look at.
    far = (1000, 10**6, 1 << 20, 10**8)
    for slow in range(4):
        for throttle in (0, 20, 80, 89, 90, 98, 99):
            asked.append((*far, 5 * SECOND, 0, slow, throttle))
            asked.append((*far, 5 * SECOND, 5 * SECOND, slow, throttle))
            asked.append((*far, 5 * SECOND - 1, 5 * SECOND, slow, throttle))
    asked.append((10**6, 0, 1 << 20, 0, SECOND, 0, 0, 0))
    asked.append((10**6, 1 << 45, 1 << 20, SECOND, SECOND, 0, 0, 0))  # dirty bytes times ns: more than 64 bits
    for facts in asked:
        if facts[1] * PAGE * SECOND == facts[3] * facts[2] and facts[1]:
            continue  # equal but for rounding
        script.says("next %d %d %d %d %d %d %d %d" % facts, "next %s %d" % next_(*facts),
                    "%d pages sent, %d dirty, %d bytes/s, %d ns of downtime, %d of %d ns gone, %d slow rounds, throttle %d" % facts)
    return script


# --- 5.17: commit_fate() ----------------------------------------------------------------------------------------------------

STAGES = ("SRC_SENDING", "SRC_READY", "SRC_COMMITTING", "SRC_COMMITTED", "DST_LOADING", "DST_READY", "DST_COMMITTED")
NEWS = ("NEWS_BROKEN", "NEWS_REFUSED", "NEWS_CANCEL", "NEWS_TAKEN", "NEWS_LOST", "NEWS_ANSWER_NO", "NEWS_ANSWER_YES", "NEWS_SILENCE")
# The failure table; what cannot happen is not asked.
FATES = {
    "SRC_SENDING": {"BROKEN": "run", "REFUSED": "run", "CANCEL": "run"},
    "SRC_READY": {"BROKEN": "run", "REFUSED": "run", "CANCEL": "run"},
    "SRC_COMMITTING": {"BROKEN": "ask", "REFUSED": "run", "CANCEL": "ask", "TAKEN": "run", "LOST": "end",
                       "ANSWER_NO": "commit", "ANSWER_YES": "end",
                       "SILENCE": "stand"},
    "SRC_COMMITTED": {"BROKEN": "end", "CANCEL": "end"},
    "DST_LOADING": {"BROKEN": "end", "CANCEL": "end"},
    "DST_READY": {"BROKEN": "wait", "CANCEL": "end", "LOST": "end", "SILENCE": "end"},
    "DST_COMMITTED": {"BROKEN": "run", "CANCEL": "run", "SILENCE": "run"},
}


def fates(seed):
    rng, script = random.Random(seed), Script()
    script.hint = ("What does the other side know at most? Before any part of MSG_COMMIT has left, the VM is the source's. "
                   "Behind it only the record or an answer can tell; silence tells nothing. The destination has it from the "
                   "record on, whatever the connection does.")
    rows = [(stage, news, fate) for stage, row in FATES.items() for news, fate in row.items()]
    rng.shuffle(rows)
    for stage, news, fate in rows:
        script.says("fate %d %d" % (STAGES.index(stage), NEWS.index("NEWS_" + news)), "fate %s" % fate, "%s and NEWS_%s" % (stage, news))
    return script
