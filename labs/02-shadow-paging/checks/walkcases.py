"""The cases of `hv walk`, made once more: the same CPUs, accesses and page tables from the same seed (labs/common/hv/walk_cases.h),
and the line that hv must print for each, by walker.py."""

from dataclasses import dataclass

import walker
from splitmix import MASK64, SplitMix64
from walker import FETCH, SYSTEM, USER, WRITE

ONES = MASK64
PAGE = 4096
MEMORY = 2 << 20
TABLES = 8

FLAG_AC = 1 << 18
WIDTHS = (36, 39, 40, 46, 48, 51, 52, 52)
EDGES = (0, 255, 256, 511)
LOOSE = walker.A | walker.D | walker.G | 0xE18 | 0x7FF << 52

# What a kind has: pages and entries that are out of the ordinary; SMEP and SMAP.
ODD, SUPERVISOR = {"large", "marks"}, {"smap", "marks"}


@dataclass
class Case:
    kind: str
    number: int
    cpu: walker.Cpu
    access: int
    gva: int
    places: list  # gpa of the entry of level 4, 3, 2, 1
    memory: dict  # what is there; the rest of memory is 0

    def read(self, gpa):
        return self.memory.get(gpa, 0) if gpa < MEMORY else ONES


def table(n):
    return ((n + 1) << 18) - PAGE


def draw_cpu(kind, numbers):
    """(Cpu with only the low bits of CR3, access)"""
    r = numbers.next()
    cr4 = walker.CR4_PGE if r & 0x10 else 0
    if kind in SUPERVISOR:
        cr4 |= (walker.CR4_SMEP if r & 0x20 else 0) | (walker.CR4_SMAP if r & 0x40 else 0)
    who = r >> 22 & 7
    access = 0 if who < 4 else USER if who < 6 else SYSTEM | (USER if who == 7 else 0)
    what = (r >> 30 & 0xFF) % (2 if access & SYSTEM else 3)
    access |= (0, WRITE, FETCH)[what]
    efer = walker.EFER_NXE if r & 0x100 else 0
    return walker.Cpu(walker.CR0_WP if r & 8 else 0, r >> 10 & 0xFFF, cr4, efer, bool(r & 0x200), WIDTHS[r & 7]), access


def draw_way(kind, numbers, cpu):
    """(tables by level, indices by level, gva); completes CR3."""
    tables, indices = [0] * 5, [0] * 5
    for level in (4, 3, 2, 1):
        r = numbers.next()
        indices[level] = r >> 4 & 511 if r & 3 else EDGES[r >> 2 & 3]
        tables[level] = table(r >> 13 & TABLES - 1)
    r = numbers.next()
    level = r & 7
    if 2 <= level <= 4:  # this level's entry points to its own table
        last = level - 1 - (r >> 3 & 0xFF) % (level - 1)
        for below in range(last, level):
            tables[below], indices[below] = tables[level], indices[level]
        if last > 1:
            tables[last - 1] = tables[level]
    gva = r >> 11 & PAGE - 1
    for level in (4, 3, 2, 1):
        gva |= indices[level] << walker.index_at(level)
    if gva >> 47:
        gva |= MASK64 << 48 & MASK64
    cpu.cr3 |= MEMORY if kind in ODD and not r >> 23 & 31 else tables[4]
    return tables, indices, gva


def draw_reserved(cpu, level, large, r):
    if level == 4 and r & 1:
        return walker.PS
    if large and r & 1:
        return 1 << 13 + (r >> 1 & 0xFF) % (9 * level - 10)
    return 1 << cpu.phys_bits + (r >> 1 & 0xFF) % (52 - cpu.phys_bits) if cpu.phys_bits < 52 else 0


def draw_entry(kind, numbers, cpu, level, below):
    rights, bits, reserved, entry = (numbers.next() for _ in range(4))
    address = bits & walker.ADDRESS & (1 << cpu.phys_bits) - 1
    odd = kind in ODD
    large = odd and level in (2, 3) and not rights >> 15 & 3
    oddity = rights >> 17 & (3 if large else 15) if odd else 2
    entry &= LOOSE
    entry |= (walker.P if rights & 0x1F else 0) | (walker.RW if rights & 0xE0 else 0) | (walker.US if rights & 0x700 else 0)
    if not rights & 0x7800 and (odd or cpu.efer & walker.EFER_NXE):
        entry |= walker.XD
    if level == 1:
        entry |= address | bits & walker.PS
    elif large:
        entry |= walker.PS | address & (-(1 << walker.index_at(level)) | walker.PAT_LARGE)
    elif oddity == 1:
        entry |= MEMORY if bits & 1 else address | MEMORY
    else:
        entry |= below
    return entry if oddity else entry | draw_reserved(cpu, level, large, reserved)


def make(kind, seed, number):
    numbers = SplitMix64(seed << 32 | number)
    cpu, access = draw_cpu(kind, numbers)
    tables, indices, gva = draw_way(kind, numbers, cpu)
    places = [tables[level] + 8 * indices[level] for level in (4, 3, 2, 1)]
    memory = {}
    for level, place in zip((4, 3, 2, 1), places):
        entry = draw_entry(kind, numbers, cpu, level, tables[level - 1])
        memory.setdefault(place, entry)  # where one entry serves two levels, the upper one decides
    return Case(kind, number, cpu, access, gva, places, memory)


def who(access):
    if not access & SYSTEM:
        return "user" if access & USER else "kernel"
    return "cpu-in-user" if access & USER else "cpu-in-kernel"


def what(access):
    return "write" if access & WRITE else "fetch" if access & FETCH else "read"


def modes(cpu):
    on = ((cpu.cr0 & walker.CR0_WP, "WP"), (cpu.cr4 & walker.CR4_PGE, "PGE"), (cpu.cr4 & walker.CR4_SMEP, "SMEP"),
          (cpu.cr4 & walker.CR4_SMAP, "SMAP"), (cpu.efer & walker.EFER_NXE, "NXE"), (cpu.ac, "AC"))
    return ",".join(name for bit, name in on if bit) or "-"


def outcome_of(case):
    """What the CPU does; for the kind 4k, which knows no rights, what it does where everything is allowed."""
    if case.kind != "4k":
        return walker.translate(case.read, case.cpu, case.gva, case.access)
    free = walker.Cpu(0, case.cpu.cr3, case.cpu.cr4 & walker.CR4_PGE, case.cpu.efer, False, case.cpu.phys_bits)
    return walker.translate(case.read, free, case.gva, 0)


def question(case):
    """What hv prints of a case in front of the colon."""
    cpu = case.cpu
    return "%d %x %s %s %s %d" % (case.number, case.gva, who(case.access), what(case.access), modes(cpu), cpu.phys_bits)


def answer(case, outcome):
    """What hv must print behind it."""
    if outcome.gpa is None:
        return "fault %x level %d" % (outcome.error, outcome.level)
    text = "gpa %x level %d " % (outcome.gpa, outcome.level)
    if case.kind != "4k":
        text += ("W" if outcome.writable else "-") + ("U" if outcome.user else "-") + ("N" if outcome.nx else "-")
    marks = case.kind == "marks"
    dirty = outcome.dirty or (marks and case.access & WRITE)
    text += ("G" if outcome.global_ else "-") + ("D" if dirty else "-")
    if marks:
        changed = {}
        for gpa, bits in outcome.marks:
            changed[gpa] = changed.get(gpa, 0) | bits
        for level, gpa in zip((4, 3, 2, 1), case.places):
            if gpa in changed:
                text += " %d:%x" % (level, changed[gpa])
    return text
