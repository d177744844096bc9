"""Checkpoints 2.13 to 2.16: --shadow=cached, and a pool that is too small. The guests' half of this is guests/cached.h."""

from checks import first, printed_by_traps, reported
from model import Checkpoint, Failure, Run
from splitmix import MASK64, STEP, SplitMix64

VEC_PF = 14
FAULTED = 0xFA170000  # and the page fault's error code
A, D = 0x20, 0x40
PF_P, PF_W, PF_U, PF_I = 1, 2, 4, 16


def number(seed, n):
    return SplitMix64(seed + n * STEP).next() >> 32


def word(seed, n):
    """What is in the page of data with this number."""
    return 0x9090C300000000B8 | number(seed, n) << 8


def fold(values):
    total = 0
    for value in values:
        total = (total << 7 | total >> 57) & MASK64 ^ value
    return total


def guest(name, image, mode, own=lambda rng: [], shadow="cached", pages=None):
    """A run: the guest's params begin with the seed, where its pages begin, and the first PML4 entry that it may use."""

    def params(rng):
        return [rng.getrandbits(64), (4 << 20) + rng.randrange(1024) * 4096, rng.randrange(1, 150), mode, *own(rng)]

    args = ("--shadow", shadow) + (("--shadow-pages", str(pages)) if pages else ())
    return Run(name, "lab2/%s.elf" % image, args, params, timeout=10)


def bounded(result, most, what, hint):
    """The witness saw at most so many page faults of the machine (none to ask on a native host)."""
    if result.witness is None or result.witness.pio[VEC_PF] <= most:
        return None
    return Failure("at most %d page faults of the machine: %s" % (most, what),
                   "%d, counted by the test host's kernel" % result.witness.pio[VEC_PF], hint, result.name)


def sequences(result, wanted, hint):
    """All of the keys were reported with these values, and nothing else was."""
    found = [reported(result, key, values, hint) for key, values in wanted.items()]
    extra = [key for key in result.lines if key not in wanted]
    if extra and not any(found):
        found.append(Failure("no line %s=..." % extra[0], "one", hint, result.name))
    return first(*found, printed_by_traps(result, result.output))


def by_table(rows):
    """verify() for runs whose whole output is known. name -> (function of the params that gives key -> values; hint; what bounded()
    is told, or None)."""

    def verify(results, params):
        for name, result in results.items():
            expected, hint, bound = rows[name]
            failure = sequences(result, expected(params[name]), hint)
            if not failure and bound:
                failure = bounded(result, *bound)
            if failure:
                return failure
        return None

    return verify


# --- 2.13 -----------------------------------------------------------------------------------------------------------------

ROUNDS = 300
SPACES = 8
KEPT = ("A switch of CR3 must cost no page fault once the address spaces have been used: their shadows are still there, "
        "and shadow_child() finds them by the guest's tables and not by address.")
PREFILLED = ("A new shadow of a page table is filled at once, from all entries of the guest's that have A set: "
             "shadow_made() in cache.c.")
ROLES = ("Two ways to one table may differ in what the levels above take away. Their shadows must differ too: "
         "ROLE_NO_WRITE, ROLE_NO_USER and ROLE_NO_EXEC in shadow_child(), and every level adds to what those above it "
         "have taken.")
BITS = ("What is filled in ahead must not be usable before the guest's entry is marked: nothing where A is clear, no W "
        "where D is clear, or nobody sets these bits. (SDM vol. 3, 4.8)")
LARGE = ("A large page whose D bit is clear must not be writable anywhere in its pieces, or the first write does not set "
         "D: ROLE_CLEAN in shadow_child(). (SDM vol. 3, 4.8)")


def switching(p):
    seed, found = p[0], []
    for n in range(p[4]):
        found += [word(seed, number(seed, n) % SPACES), word(seed, SPACES + number(seed, n) // SPACES % 64)]
    return {"sum": [fold(found)]}


WAYS = 8
ACCESSES = ("a read", "a write", "a fetch", "a program's read", "a program's write", "a program's fetch")


def ways_params(rng):
    return [take | rng.choice((2, 3, 4)) << 4 for take in rng.sample(range(WAYS), WAYS)]


def way(take):
    """Error codes of the six accesses, None where they succeed."""
    no_write, no_user, no_fetch = take & 1, take & 2, take & 4
    return (None, PF_P | PF_W if no_write else None, PF_P | PF_I if no_fetch else None, PF_P | PF_U if no_user else None,
            PF_P | PF_U | PF_W if no_user or no_write else None, PF_P | PF_U | PF_I if no_user or no_fetch else None)


def outcome(got):
    return "page fault, error code %#x" % (got & 0x7F) if got & 0x80 else "a wrong value" if got else "success"


def ways_verify(result, p):
    seen = result.lines.get("way", [])
    if len(seen) != WAYS:
        return Failure("%d lines way=..." % WAYS, "%d" % len(seen), ROLES, result.name)
    for i, packed in enumerate(seen):
        take, level = p[4 + i] & 7, p[4 + i] >> 4
        for access, error, got in zip(ACCESSES, way(take), (packed & (1 << 48) - 1).to_bytes(6, "big")):
            wanted = 0 if error is None else 0x80 | error
            if got != wanted:
                gone = " and ".join(name for bit, name in ((1, "W"), (2, "U"), (4, "execution")) if take & bit)
                where = "level %d takes away %s" % (level, gone) if gone else "nothing is taken away"
                return Failure("way %d, %s where %s: %s" % (i, access, where, outcome(wanted)), outcome(got), ROLES, result.name)
    return printed_by_traps(result, result.output)


MARKED = 508  # entries


def bits_params(rng):
    used = [rng.getrandbits(64) for _ in range(4)]
    return used + [rng.getrandbits(64) & word for word in used]


def bits_verify(result, p):
    used, written = p[4:8], p[8:12]
    marks = [(used[i % 256 // 64] >> i % 64 & 1) | (written[i % 256 // 64] >> i % 64 & 1) << 1 for i in range(MARKED)]
    for i in range(24):
        marks[number(p[0], 100 + i) % MARKED] |= 1 if i % 3 else 3
    seen = result.lines.get("bits", [])
    if len(seen) != 16:
        return Failure("16 lines bits=...", "%d" % len(seen), BITS, result.name)
    for i, wanted in enumerate(marks):
        got = seen[i // 32] >> i % 32 * 2 & 3
        if got != wanted:
            text = "entry %d: A=%d D=%d"
            return Failure(text % (i, wanted & 1, wanted >> 1), text % (i, got & 1, got >> 1), BITS, result.name, exact=True)
    return first(reported(result, "absent", FAULTED), printed_by_traps(result, result.output))


def full(p):
    return {"sum": [fold(word(p[0], i) for i in range(512))]}


def large(p):
    w = [word(p[0], i) for i in range(8)]
    return {"write": [0] * 3, "read": [w[1], w[2], w[6], w[2], w[7]], "entry": [A, A | D, A, A | D]}


def shared_verify(results, params):
    tables = by_table({
        "switching": (switching, KEPT, (100, "eight address spaces, first used and then switched %d times" % ROUNDS, KEPT)),
        "full": (full, PREFILLED, (60, "one table of 512 pages that have all been used", PREFILLED)),
        "large": (large, LARGE, None)})
    return first(tables({k: results[k] for k in ("full",)}, params), ways_verify(results["ways"], params["ways"]),
                 bits_verify(results["bits"], params["bits"]), tables({k: results[k] for k in ("large", "switching")}, params))


# --- 2.14 -----------------------------------------------------------------------------------------------------------------

KINDS = ("mov", "mov of 4 bytes", "mov of 2 bytes and 1", "xchg", "lock cmpxchg", "lock cmpxchg16b", "lock bts and btr",
         "lock add", "xor", "rep stosq", "rep movsl", "push", "an SSE move")
SEEN = ("A page of which there is a shadow must not be writable through any mapping: in shadow_made() those that are "
        "there, in shadow_fill() and where shadow_made() loads leaves those that come. After each store that hv carries out, "
        "shadow_written() drops what the shadows knew.")
ALL_SHADOWS = ("One page can be the table of several levels, and have several shadows. A store is about all of them: "
               "spt_next_of().")
NO_TABLE = ("A page that is stored to again and again while nobody uses it as a table is none any more: free its shadows, "
            "and the stores cost nothing. What is in a page that was freed must not be found through any shadow later.")


def recursive_verify(result, p):
    seen = result.lines.get("stored", [])
    if len(seen) != len(KINDS):
        return Failure("%d lines stored=..." % len(KINDS), "%d" % len(seen), SEEN, result.name)
    for kind, (name, packed) in enumerate(zip(KINDS, seen)):
        for level in range(p[4], 5):
            wanted, got = number(p[0], 4 * kind + level - 1) & 0xFFFF, packed >> 16 * (4 - level) & 0xFFFF
            if got != wanted:
                where = "behind a store by %s to an entry of level %d, and INVLPG: " % (name, level)
                return Failure(where + "page %04x" % wanted, "%04x" % got, SEEN, result.name, exact=True)
    return printed_by_traps(result, result.output)


def aliases(p):
    levels = 4 - p[4]
    found = [[number(p[0], (4 * level + i + 1) % 8) & 0xFFFF for i in range(4)] for level in range(levels)]
    return {"alias": [a << 48 | b << 32 | c << 16 | d for a, b, c, d in found], "unlinked": [FAULTED] * levels}


def two_shadows(p):
    w = [word(p[0], i) for i in range(2)]
    return {"writable": w, "readonly": w + [FAULTED | PF_P | PF_W]}


def two_levels(p):
    return {"low": [3, 3], "high": [word(p[0], 0), word(p[0], 1), word(p[0], 2), FAULTED], "write": [0, 0]}


def frames(p):
    return {"before": [word(p[0], 511)], "after": [FAULTED], "frame": [0x18], "again": [word(p[0], 510)], "interrupts": [1]}


def port_input(p):
    w = [word(p[0], i) for i in range(4)]
    return {"before": [w[0], w[2]][p[4] - 1:], "after": [w[1], w[3]][p[4] - 1:]}


def two_entries(p):
    return {"first": [word(p[0], 0), FAULTED | PF_P | PF_I], "second": [word(p[0], 1), word(p[0], 0)]}


def freed(p):
    data = [0] * 512
    for i in range(p[5]):
        data[i % 512] = number(p[0], i) * 2
    return {"other": [word(p[0], 1)], "mine": [word(p[0], 0)], "data": [fold(data)] * 4, "gone": [FAULTED] * 3,
            "new": [word(p[0], 2)], "absent": [FAULTED]}


def split(p):
    w = [word(p[0], i) for i in range(10)]
    return {"large": [w[3]], "split": [w[2], 0, w[5]], "joined": [w[9], w[2], w[4]], "readonly": [FAULTED | PF_P | PF_W, w[2]],
            "huge": [w[4]]}


def stores_runs(lowest):
    """Tables of which levels take part. Page tables of the last level may be let go, which is another checkpoint's affair."""
    return [guest("recursive", "stores", 0, lambda rng: [lowest]),
            guest("aliases", "stores", 1, lambda rng: [lowest, rng.randrange(6)]),
            guest("frames", "stores", 4, lambda rng: [lowest]), guest("input", "stores", 5, lambda rng: [lowest])]


STORED = {
    "aliases": (aliases, SEEN, None),
    "frames": (frames, "The CPU stores too: an exception's frame can land in a page table. " + SEEN, None),
    "input": (port_input, "What hv emulates for another reason can store to a page table too. " + SEEN, None)}


def stores_verify(results, params):
    verify = by_table({
        **STORED,
        "two shadows": (two_shadows, ALL_SHADOWS, None),
        "two entries": (two_entries, "A store of 8 bytes that is not aligned is about two entries.", None),
        "freed": (freed, NO_TABLE, (90, "four tables that become data, stored to %d times each" % params["freed"][5], NO_TABLE)),
        "split": (split, "An entry that maps a large page can become one that leads to a table, and back. " + SEEN, None)})
    return recursive_verify(results["recursive"], params["recursive"]) or verify(
        {name: result for name, result in results.items() if name != "recursive"}, params)


# --- 2.15 -----------------------------------------------------------------------------------------------------------------

SMALL = 20  # shadow pages, the fewest that hv takes
EIGHT = 40  # enough for eight of the address spaces of guests/pool.c
POOL = ("When the pool is empty the page goes that was not used for longest: victim() in pool.c. The root that the "
        "machine's CPU uses must stay, and so must what belongs to the way that is being made.")
OLDEST = ("The address spaces that are used all the time must stay when another one comes by: shadow_touch() says when a "
          "page was used, and the smallest stamp goes.")


def spaces_params(spaces, working, every, rounds):
    return lambda rng: [rounds, spaces, working, every]


def spaces(p):
    seed, rounds, count, working, every = p[0], *p[4:8]
    words, found = [word(seed, i) for i in range(2 * count)], []
    for n in range(rounds):
        random = number(seed, 1000 + n)
        page = random // 2 % (working if every and n % every else count) * 2 + random % 2
        found.append(words[page])
        if not random >> 28:
            words[page] += 0x100
    return {"sum": [fold(found)]}


def wide(p):
    order = [n if n < p[5] else number(p[0], 1000 + n) % p[5] for n in range(p[4])]
    return {"sum": [fold(word(p[0], i) for i in order)], "absent": [FAULTED]}


def evicted(p):
    found = []
    for n in range(p[4]):
        found += [word(p[0], 100 + n), *(word(p[0], i) for i in range(p[5])), FAULTED]
    return {"sum": [fold(found)]}


# --- 2.16 -----------------------------------------------------------------------------------------------------------------

SYNC = ("Behind a write of CR3 every table that was let go has been compared with its shadow: what is gone or changed in "
        "the guest's entry is gone or changed there, and the next store faults again. INVLPG does the same for one page.")
ALL_ROLES = "A table that is let go may have a shadow for the kernel and one for programs. Both must be synchronized."
NEW_PLACE = ("What a table held before it was changed may be found only where the guest could have used it then. On a new "
             "way to the table, or at another level, everything must be as the guest's table says now.")
BULK = ("A page table of the last level costs one page fault when it is written first, and no more until the next flush: "
        "shadow_let_write() in cache.c.")
NO_LEAF = ("When nothing is left of a table that was let go, it is probably data now. Free its shadow, or each flush "
           "makes the next store fault again.")
CHANGES = 12
BULK_ROUNDS, BULK_STORES = 20, 256
DATA_ROUNDS, DATA_STORES = 150, 400


def rounds_verify(result, p):
    w, found = [word(p[0], i) for i in range(16)], {"round": [], "write": [], "rights": []}
    for n in range(CHANGES):
        found["round"].append(fold((w[(n + 1) % 16], w[8] if n % 2 else FAULTED, w[n % 16], w[8])))
        found["write"].append(0 if n % 3 else FAULTED | PF_P | PF_W)
        found["rights"].append(0 if n % 2 else FAULTED | PF_P | PF_W)
    stale = result.lines.get("stale", [])
    for n, seen in enumerate(stale):  # before the flush
        if seen not in (w[n % 16], w[(n + 1) % 16]):
            return Failure("stale=%x, or %x" % (w[n % 16], w[(n + 1) % 16]), "stale=%x" % seen, SYNC, result.name, exact=True)
    return sequences(result, dict(found, stale=stale), SYNC)


def both_roots(p):
    found = {"user": [], "kernel": []}
    for n in range(p[4]):
        page = word(p[0], number(p[0], n + 50) % 16)
        found["user"] += [page, FAULTED | PF_P | PF_U]
        found["kernel"] += [page, page]
    return found


def linked_again(p):
    return {"top": [word(p[0], 4 + i) for i in range(4)], "elsewhere": [word(p[0], 8 + i) for i in range(4)],
            "above": [word(p[0], i) for i in (105, 106, 200)]}


def root_at_once(p):
    return {"new": [word(p[0], 20)], "old": [FAULTED], "linked": [word(p[0], 20)], "unlinked": [FAULTED]}


def bulk(p):
    found = []
    for n in range(p[4]):
        found += [word(p[0], (number(p[0], 4 * n + k) % p[5] + n) % 16) for k in range(4)]
    return {"sum": [fold(found)]}


def data_now(p):
    data = [0] * 512
    for n in range(p[4]):
        for i in range(p[5]):
            data[(i + n) % 512] = number(p[0], n) * 2 & ~(A | D)
    return {"sum": [fold(data)]}


def unsync_verify(results, params):
    verify = by_table({
        **STORED,
        "two levels": (two_levels, ALL_SHADOWS, None),
        "both roots": (both_roots, ALL_ROLES, None),
        "linked again": (linked_again, NEW_PLACE, None),
        "root at once": (root_at_once, NEW_PLACE, None),
        "bulk": (bulk, SYNC, (30 + 2 * BULK_ROUNDS, "%d stores to one page table, %d times, and four pages used each time" %
                              (BULK_STORES, BULK_ROUNDS), BULK)),
        "data": (data_now, NO_LEAF, (60, "a page that was a page table once, and %d flushes" % DATA_ROUNDS, NO_LEAF))})
    return first(rounds_verify(results["rounds"], params["rounds"]), recursive_verify(results["recursive"], params["recursive"]),
                 verify({name: result for name, result in results.items() if name not in ("rounds", "recursive")}, params))


CHECKPOINTS = [
    Checkpoint(
        "2.13", "Cached: one shadow for each guest table", 7,
        "With --shadow=cached a shadow page belongs to a guest table and outlives a switch of CR3. Address spaces share "
        "it where the guest's do, unless their ways to it differ in rights. A new one of the last level is filled at once "
        "with all that the guest has used.",
        "shadow_child() in fill.c says what a shadow page is the shadow of; shadow_made() in cache.c makes leaves from "
        "the guest's entry.",
        runs=[guest("switching", "shared", 0, lambda rng: [ROUNDS]), guest("ways", "shared", 1, ways_params),
              guest("bits", "shared", 2, bits_params), guest("full", "shared", 3), guest("large", "shared", 4)],
        verify=shared_verify, depends=["2.11", "2.12"]),
    Checkpoint(
        "2.14", "Cached: protected tables, emulated stores", 8,
        "Every store of the guest to one of its tables is seen, whatever the instruction, the mapping and the level, and "
        "behind the guest's INVLPG counts. Pages that are tables no more are left alone.",
        "shadow_made() protects, shadow_fault() notices, shadow_written() drops.",
        runs=[*stores_runs(2), guest("two shadows", "stores", 2), guest("two entries", "stores", 6),
              guest("freed", "stores", 7, lambda rng: [2, rng.randrange(520, 600)]), guest("split", "stores", 8)],
        verify=stores_verify, depends=["2.13"]),
    Checkpoint(
        "2.15", "A bounded pool", 5,
        "Guests may use more page tables than there are shadow pages, with --shadow=vtlb and cached: what was not used "
        "for longest is given up and made again when it is needed.",
        POOL,
        runs=[guest("vtlb spaces", "pool", 0, spaces_params(64, 0, 0, 200), "vtlb", SMALL),
              guest("cached spaces", "pool", 0, spaces_params(64, 0, 0, 300), pages=EIGHT),
              guest("working set", "pool", 0, spaces_params(64, 6, 16, 600), pages=EIGHT),
              *(guest(shadow + " wide", "pool", 1, lambda rng: [300, 200], shadow, SMALL) for shadow in ("vtlb", "cached")),
              *(guest(shadow + " evicted", "pool", 2, lambda rng: [10, 20], shadow, SMALL) for shadow in ("vtlb", "cached"))],
        verify=by_table({
            "vtlb spaces": (spaces, POOL, None), "cached spaces": (spaces, POOL, None),
            "working set": (spaces, POOL, (320, "six address spaces used 15 times out of 16, and room for eight", OLDEST)),
            **{shadow + " wide": (wide, POOL, None) for shadow in ("vtlb", "cached")},
            **{shadow + " evicted": (evicted, POOL, None) for shadow in ("vtlb", "cached")}}),
        depends=["2.14"]),
    Checkpoint(
        "2.16", "Cached: let go and synchronize", 8,
        "A page table of the last level may be written freely from the first store until the guest's next flush, and then "
        "its shadow is brought up to date. Before the flush, old and new entries are both right; behind it, only the new "
        "ones are.",
        "shadow_let_write() and shadow_sync_all() in cache.c.",
        runs=[guest("rounds", "unsync", 0, lambda rng: [CHANGES]), guest("both roots", "unsync", 1, lambda rng: [6]),
              guest("linked again", "unsync", 2), *stores_runs(1), guest("two levels", "stores", 3),
              guest("root at once", "unsync", 3),
              guest("bulk", "unsync", 4, lambda rng: [BULK_ROUNDS, BULK_STORES]),
              guest("data", "unsync", 5, lambda rng: [DATA_ROUNDS, DATA_STORES])],
        verify=unsync_verify, depends=["2.14"]),
]
