"""Checkpoint 3.22: what a CPU reads to translate one address of a guest, in order. The guest's tables are made up; hv makes the nested
ones, and they are read back.
"""

import random

import nestcases
import nestscript
import nestwalk
from nestscript import PAGE, Wrong
from nestwalk import Cpu, index, rights_text, size

CASES = 60
MEMORY = 16 << 20  # of the guest (SCRIPT_MEM)
P, RW, US, PS = 1, 2, 4, 1 << 7


def guest_case(rng):
    """(gva, cr3, [(level, gpa of the entry, entry)], gpa of the data or None)"""
    last = rng.choice((1, 1, 1, 2, 3))
    gva = rng.getrandbits(48)
    gva |= 0xFFFF << 48 if gva >> 47 else 0
    missing = rng.choice((0,) * 8 + (4, 3, 2, 1))  # the level whose entry is not present
    tables = rng.sample(range(1, MEMORY // PAGE), 4)
    path = []
    for level in (4, 3, 2, 1):
        gpa = tables[level - 1] * PAGE + 8 * index(gva, level)
        if level == last:
            target = rng.randrange(0, 64 << 30, size(level))
            entry = target | P | RW | US | (PS if level > 1 else 0)
        else:
            entry = tables[level - 2] * PAGE | P | RW | US
        if level == missing:
            entry &= ~P
        path.append((level, gpa, entry))
        if level == missing:
            return gva, tables[3] * PAGE, path, None
        if level == last:
            return gva, tables[3] * PAGE, path, target | gva & size(level) - 1
    raise AssertionError("the entry of level 1 is the last")


def expected(cpu, read, path, data):
    """The references, as hv prints them."""
    lines = []

    def nested(level, gpa, access):
        found = nestwalk.walk(cpu, read, nestscript.POOL, gpa, access)
        lines.extend("nested %d %d %#x %#x %#x" % (level, at, gpa, ma, raw) for at, ma, raw in found.path)
        return found.ma if found.end == "ok" else None

    # The walk may have to set A in the guest's entry, and where nested tables have A and D it is taken for a write.
    walks = nestwalk.R | (nestwalk.W if cpu.ad else 0)
    for level, gpa, entry in path:
        ma = nested(level, gpa, walks)
        if ma is None:
            return lines
        lines.append("guest %d %#x %#x %#x" % (level, gpa, ma, entry))
    if data is not None:
        ma = nested(0, data, nestwalk.R)
        if ma is not None:
            lines.append("data %#x %#x" % (data, ma))
    return lines


def map_around(script, rng, cpu, gpa, done, full):
    """A nested page of some size, or none, where gpa is. Those of done are not mapped over."""
    level = rng.choice([n for n in (1, 2, 3) if cpu.has(n)])
    while level > 1 and any(start < (gpa & -size(level)) + size(level) and gpa & -size(level) < end for start, end in done):
        level -= 1
    start = gpa & -size(level)
    if any(low <= gpa < high for low, high in done):
        return
    done.append((start, start + size(level)))
    if not full and rng.random() < 0.08:
        return
    rights = 7 if full or rng.random() < 0.85 else rng.choice([r for r in nestcases.RIGHTS[cpu.format] if cpu.can(r)])
    ma = rng.randrange(1 << 32, 1 << 36, size(level))
    script.says("map %#x %#x %#x %s wb %d" % (start, ma, size(level), rights_text(rights), level), "map 0")


def walk_case(script, rng, format_, full):
    cpu = Cpu(format_, ad=format_ == "npt" or rng.random() < 0.5, page_1g=rng.random() < 0.7)
    pool = 40
    gva, cr3, path, data = guest_case(rng)
    script.add("new %s %s %d %d" % (format_, cpu.caps, cpu.bits, pool))
    for _, gpa, entry in path:
        script.add("guest %#x %#x" % (gpa, entry))
    script.add("cr3 %#x" % (cr3 | rng.choice((0, 0x18))))  # PWT and PCD are no part of the address
    done = []
    for gpa in [gpa for _, gpa, _ in path] + ([] if data is None else [data]):
        map_around(script, rng, cpu, gpa, done, full)
    script.add("tables")

    def check(answer):
        want = expected(cpu, nestscript.reader(nestscript.memory_of(answer.previous), pool), path, data)
        have = [" ".join(words) for words in answer.lines]
        if want == have and answer.text == "twodim %d" % len(want):
            return None
        n = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b), min(len(want), len(have)))
        hint = "\n".join(["The references (%s, A and D %s; nested: guest's level, level, gpa, ma, entry; guest: level, gpa, ma, entry):" %
                          (cpu.format, "on" if cpu.ad else "off"), *("  %2d. %s" % pair for pair in enumerate(want, 1)),
                          "A walk ends where the CPU's would. What reading one of the guest's entries needs of the nested tables: SDM "
                          "vol. 3, 28.3.3.2; APM vol. 2, 15.25.5."])
        if n < min(len(want), len(have)):
            return Wrong("reference %d of %d: %s" % (n + 1, len(want), want[n]), have[n], hint)
        return Wrong("%d references" % len(want), answer.text.replace("twodim ", "") + " references", hint)
    script.add("twodim %#x" % gva, check)


def make(seed):
    rng, script = random.Random("twodim/%d" % seed), nestscript.Script()
    for n in range(CASES):
        walk_case(script, rng, nestcases.FORMATS[n % 2], n % 4 < 2)
    for guest in (1, 2, 3):
        for nested in (1, 2, 3):
            # Each of the guest's entries is read behind a walk to it, and then there is the walk for the data.
            count = sum((5 - nested) + 1 for _ in range(4, guest - 1, -1)) + (5 - nested)
            script.says("cost %d %d" % (guest, nested), "cost %d" % count,
                        "A page of level 1 takes a walk four entries, one of level 3 two; each of the guest's is found by a nested walk.")
    return script
