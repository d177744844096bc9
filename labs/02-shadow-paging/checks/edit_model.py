"""The other half of guests/edits.c: the same steps from the same seed, and how each has to end.

Where a translation leads is the walker's business (walker.py). What is known here is memory, registers, and what the guest prints.
"""

from collections import Counter
from dataclasses import dataclass, field

from edit_output import Decoder, Ended, Seen
from walker import (
    ADDRESS, CR0_WP, CR4_PGE, CR4_SMAP, CR4_SMEP, EFER_NXE, FETCH, PF_P, PF_RSVD, USER, WRITE, A, Cpu, D, G, P, PS, RW, US, XD, translate)

MASK64 = (1 << 64) - 1

# Features of a run, as in the guest.
OUTSIDE_TABLE, OUTSIDE_PAGE, RESERVED, GLOBAL, PGE, WP, SMX, NX, GIANT, USER_LEVEL, SMAP_ALONE, CALM = (1 << i for i in range(12))
ALL = SMAP_ALONE - 1  # that a shadow can show

PAGE, MIB = 4096, 1 << 20
TABLES_GPA, DATA_GPA, OUTSIDE = 4 * MIB, 6 * MIB, 80 * MIB
TABLES_MAX, POOL, ADDRESSES, CODE_SLOT = 12, 19, 16, 256
SLOTS = (2, 3, 259)
CODE_BYTES = 0x900B0F00000000B8
MEMORY = 64 * MIB
POOL_GPA = [TABLES_GPA + i * PAGE for i in range(TABLES_MAX)] + [DATA_GPA + i * PAGE for i in (0, 2, 3, 4)] + [0, 2 * PAGE, 3 * PAGE]
PAGE_OF = {gpa: number for number, gpa in enumerate(POOL_GPA)}
GOLDEN = 0x9E3779B97F4A7C15


def address(n):
    gva = (259 if n & 8 else 2) << 39 | (3 if n & 4 else 2) << 30 | (3 if n & 2 else 2) << 21 | (3 if n & 1 else 2) << 12
    return gva | 0xFFFF << 48 if gva >> 47 else gva


def fold(value):
    return (value * GOLDEN & MASK64) >> 48


def is_code(value):
    return value & 0xFFFFFF00000000FF == CODE_BYTES


def place(gpa):
    """A name for a place in memory."""
    page = PAGE_OF.get(gpa & ~(PAGE - 1))
    return "no memory (%#x)" % gpa if page is None else "%s %d slot %d" % ("page" if page >= TABLES_MAX else "table", page, gpa % PAGE // 8)


def show_entry(entry):
    names = ((P, "P"), (RW, "W"), (US, "U"), (A, "A"), (D, "D"), (PS, "PS"), (G, "G"), (XD, "NX"))
    flags = " ".join(name for bit, name in names if entry & bit) or "0"
    page = PAGE_OF.get(entry & ADDRESS)
    return "%#x (%s%s)" % (entry, flags, "" if page is None else ", to %d" % page)


@dataclass
class Difference:
    step: int
    what: str
    expected: str
    seen: str
    story: list = field(default_factory=list)  # lines: what had been done to the entries concerned, and the last steps

    def __str__(self):
        return "step %d, %s: expected %s, seen %s\n  %s" % (self.step, self.what, self.expected, self.seen, "\n  ".join(self.story))


class Model:
    """One run. head: what the guest reported first. tcg: the CPU is QEMU's (7.2). It sets A also on the way
    to a fault, which the manual leaves open (SDM vol. 3, 4.8), a fault for a reserved bit has an error code
    without P, and an XCHG of the entry that it is translated by reads it before it sets D."""

    def __init__(self, params, head, tcg=False):
        self.rng, self.steps, _, self.block, self.ntables, self.edits = params[:6]
        self.features = head.features
        self.tcg = tcg
        self.cpu = Cpu(CR0_WP, POOL_GPA[0], 0, EFER_NXE if head.features & NX else 0, False, head.phys_bits)
        self.pages = [[head.root] + [0] * 511 for _ in range(POOL)]
        self.stale = [False] * ADDRESSES
        self.step, self.log = 0, []
        self.changed = {}  # gpa of an entry -> what changed it last
        self.flushed = ["step 0, by a write of CR3"] * ADDRESSES
        self.address = 0  # the last that was accessed
        self.counts = Counter()
        for page, table in enumerate(self.pages):
            table[CODE_SLOT] = CODE_BYTES | page << 8
            for slot in SLOTS:
                table[slot] = self.make_entry(page) if page < self.ntables else 0xDA7A00000000 | page << 16 | slot << 4

    def has(self, feature):
        return bool(self.features & feature)

    def draw(self, n):
        x = self.rng
        x ^= x << 13 & MASK64
        x ^= x >> 7
        x ^= x << 17 & MASK64
        self.rng = x
        return ((x * 0x2545F4914F6CDD1D & MASK64) >> 33) % n

    def make_entry(self, page):
        level = 4 - page * 4 // self.ntables if page < self.ntables else 1 + self.draw(4)
        kind, anywhere, below, region, r = (self.draw(n) for n in (20, POOL, self.ntables // 4, 3, 2))
        natural = POOL_GPA[self.ntables * (5 - level) // 4 + below if level > 1 else anywhere]
        e = natural
        if kind == 19:
            e = (TABLES_GPA, DATA_GPA, 0)[region] | PS if r else natural | (1 << (51 if region else 45) if self.has(RESERVED) else 0)
        elif kind == 18 and r:
            e = OUTSIDE if region and self.has(OUTSIDE_TABLE) else OUTSIDE | PS if self.has(OUTSIDE_PAGE) else natural
        elif kind == 17:
            e = POOL_GPA[anywhere]
        elif 14 <= kind < 17 and level == 2:
            e = (TABLES_GPA, DATA_GPA, 0)[region] | PS
        elif 14 <= kind < 17 and level == 3:
            e = (0 if self.has(GIANT) else DATA_GPA) | PS
        for n, bit in ((32, P), (6, RW), (8, US), (2, A), (2, D)):
            e |= bit if self.draw(n) else 0
        for n, bit, feature in ((3, G, GLOBAL), (24, XD, NX)):
            e |= bit if not self.draw(n) and self.has(feature) else 0
        return e

    # --- memory

    def read(self, gpa):
        page = PAGE_OF.get(gpa & ~(PAGE - 1))
        return MASK64 if page is None else self.pages[page][gpa % PAGE // 8]

    def mark(self, gpa, bits):
        page = PAGE_OF.get(gpa & ~(PAGE - 1))
        if page is not None:
            self.pages[page][gpa % PAGE // 8] |= bits

    def store(self, gpa, value, how):
        page = PAGE_OF.get(gpa & ~(PAGE - 1))
        if page is None:
            return
        old = self.pages[page][gpa % PAGE // 8]
        self.pages[page][gpa % PAGE // 8] = value
        self.changed[gpa] = "step %d, %s: %s became %s" % (self.step, how, show_entry(old), show_entry(value))
        self.note("%s to %s: %s becomes %s" % (how, place(gpa), show_entry(old), show_entry(value)))

    # --- flushes

    def all_stale(self):
        self.stale = [True] * ADDRESSES

    def all_flushed(self, how):
        self.stale = [False] * ADDRESSES
        self.flushed = ["step %d, by %s" % (self.step, how)] * ADDRESSES

    def follow(self, gva, entry):
        """As the guest's: (whether the way comes to that entry, where it leads)."""
        table = self.cpu.cr3
        for shift in (39, 30, 21, 12):
            where, offset = table + (gva >> shift & 511) * 8, (1 << shift) - 1
            if where == entry:
                return True, None
            if table >= MEMORY:
                return False, None
            e = self.read(where)
            if not e & P:
                return False, None
            table = e & ADDRESS
            if shift == 12 or shift < 39 and e & PS:
                return False, table & ~offset | gva & offset
        return False, None

    def users_of(self, entry):
        if not self.read(entry) & P:
            return []
        return [i for i in range(ADDRESSES) if self.follow(address(i), entry)[0]]

    def make_stale(self, users):
        for i in users:
            self.stale[i] = True

    def global_pages(self):
        return self.has(GLOBAL) and self.cpu.cr4 & CR4_PGE

    def load_cr3(self, value):
        if not self.global_pages():
            self.all_flushed("a write of CR3")
        elif value != self.cpu.cr3:
            self.all_stale()
        self.note("CR3 = %#x (%s)" % (value, "again" if value == self.cpu.cr3 else "table %d" % PAGE_OF[value]))
        self.cpu.cr3 = value

    def invalidate(self, i):
        self.note("INVLPG %#x" % address(i))
        self.stale[i] = False
        self.flushed[i] = "step %d, by INVLPG" % self.step

    def flush(self, i):
        how = self.draw(4)
        if how == 2 and not self.global_pages() and not self.has(CALM):
            self.load_cr3(self.cpu.cr3)
        elif how == 3 and self.has(PGE):
            self.cpu.cr4 ^= CR4_PGE
            self.note("CR4.PGE = %d" % bool(self.cpu.cr4 & CR4_PGE))
            self.all_flushed("a change of CR4.PGE")
        else:
            self.invalidate(i)

    # --- steps

    def note(self, text):
        self.log.append("step %d: %s" % (self.step, text))

    def edit(self):
        page = self.draw(self.ntables) if self.draw(8) else self.draw(POOL)
        slot = SLOTS[self.draw(len(SLOTS))]
        how, via, other, equal = (self.draw(n) for n in (12, 4, self.ntables, 2))
        bit = (0, 1, 2, 5, 6, 7, 8, 63)[self.draw(8)]
        value = self.make_entry(page)
        if bit == 8 and not self.has(GLOBAL) or bit == 63 and not self.has(NX) or bit == 7 and not self.has(OUTSIDE_TABLE):
            bit = 1
        if not self.draw(24):
            value &= ~P
        table, new = self.pages[page], {slot: value}
        if how == 4:
            new = {slot: value if equal or table[slot] == MASK64 else table[slot]}
        elif how == 5:
            new = {slot: table[slot] | 1 << bit}
        elif how == 6:
            new = {slot: table[slot] & ~(1 << bit)}
        elif how == 7:
            half = 0xFFFFFFFF << 32 * equal
            new = {slot: table[slot] & ~half | value & half}
        elif how == 8:
            new = {SLOTS[0]: value, SLOTS[1]: value}
        elif how == 9:
            new = {s: self.pages[other][s] for s in SLOTS[:2]}
        elif how == 11:
            new = {slot: table[slot] & ~P if table[slot] & P and not equal and other & 1 else table[slot] | P}
        name = {3: "XCHG", 4: "CMPXCHG", 5: "BTS", 6: "BTR", 7: "32-bit MOV", 8: "REP STOS", 9: "REP MOVS", 10: "MOVNTI"}.get(how, "MOV")
        alias = ", by its 4 KiB alias" if via == 1 else ", by its 1 GiB alias" if via == 2 and self.has(GIANT) else ""
        users = [self.users_of(POOL_GPA[page] + s * 8) for s, e in new.items() if table[s] != e]
        for each in users:
            self.make_stale(each)
        for s, e in new.items():
            self.store(POOL_GPA[page] + s * 8, e, name + alias)

    def access_one(self, gva, access, ac, new=None, crooked=False):
        """One access as the CPU does it. Returns (Seen, the value or None, the way)."""
        if crooked:
            return Seen("gp"), None, []
        self.cpu.ac = ac
        outcome = translate(self.read, self.cpu, gva, access)
        before = outcome.gpa is not None and self.read(outcome.gpa)
        for gpa, bits in outcome.marks:
            self.mark(gpa, bits)
        if outcome.gpa is None:
            if self.tcg:
                self.mark_way(outcome)
            error = outcome.error & ~PF_P if self.tcg and outcome.error & PF_RSVD else outcome.error
            return Seen("pf", error=error), None, outcome.path
        value = before if self.tcg and access & WRITE else self.read(outcome.gpa)
        if new is not None:
            self.store(outcome.gpa, new, "a write through %#x" % gva)
        return Seen("done"), value, outcome.path

    def mark_way(self, outcome):
        """All entries that were good enough to go on. Of a 1 GiB page it looks at what is left to check only after A is set."""
        reserved = ADDRESS & -(1 << self.cpu.phys_bits) | (0 if self.cpu.efer & EFER_NXE else XD)
        for step in outcome.path:
            if step is not outcome.path[-1] or step.level == 3 and step.entry & P and not step.entry & reserved:
                self.mark(step.gpa, A)

    def expect(self, decoder, what, seen, value, valued, path):
        if seen.kind == "done" and valued:
            seen = Seen("done", fold(value))
        self.counts[seen.kind] += 1
        got = decoder.access(valued)
        if got == seen:
            return None
        expected = str(seen) + (": %s" % show_entry(value) if seen.kind == "done" and valued else "")
        return Difference(self.step, what, expected, str(got) + self.recognized(got), self.story(path))

    def recognized(self, got):
        """Where the value lies that the guest read, if it did."""
        if got.kind != "done" or got.value is None:
            return ""
        found = [place(POOL_GPA[p] + s * 8) for p in range(POOL) for s in (*SLOTS, CODE_SLOT) if fold(self.pages[p][s]) == got.value]
        if got.value == fold(MASK64):
            found.append("no memory")
        return " (as in %s)" % ", ".join(found[:3]) if found else ""

    def story(self, path=(), gpa=None):
        lines = [self.state()]
        for step in path:
            lines += ["level %d: %s: %s" % (step.level, place(step.gpa), show_entry(step.entry)), *self.change(step.gpa)]
        if path:
            lines.append("this address was flushed last in " + self.flushed[self.address])
        if gpa is not None:
            lines += self.change(gpa)
        return lines + ["the last steps:"] + ["  " + line for line in self.log[-20:]]

    def change(self, gpa):
        return ["    changed in " + self.changed[gpa]] if gpa in self.changed else []

    def state(self):
        c = self.cpu
        bits = (("WP", c.cr0 & CR0_WP), ("PGE", c.cr4 & CR4_PGE), ("SMEP", c.cr4 & CR4_SMEP), ("SMAP", c.cr4 & CR4_SMAP),
                ("NXE", c.efer & EFER_NXE))
        return ", ".join(["CR3 = table %d" % PAGE_OF[c.cr3], *("%s %d" % (name, bool(bit)) for name, bit in bits)])

    def choose_address(self):
        i, anywhere = self.draw(ADDRESSES), self.draw(2)
        for _ in range(ADDRESSES):
            if not anywhere and self.stale[i]:
                i = (i + 1) % ADDRESSES
        return i

    def access(self, decoder):
        i, kind, slot = self.choose_address(), self.draw(8), SLOTS[self.draw(len(SLOTS))]
        user = bool(self.draw(2)) and self.has(USER_LEVEL)
        ac, crooked, split_read = bool(self.draw(2)), not self.draw(48), not self.draw(8)
        new = self.make_entry(self.draw(POOL))
        gva = address(i) + (slot if kind < 6 else CODE_SLOT) * 8
        if not self.draw(4):
            new &= ~P
        if crooked:
            gva ^= 1 << 48
        elif self.stale[i]:
            self.flush(i)
        self.address = i
        if split_read and kind < 3 and not crooked and not i & 1:
            return self.read_two(decoder, i, USER if user else 0, ac)
        level = USER if user else 0
        who = "%s at %#x, CPL %d" % ("%s", gva, 3 if user else 0) + (", AC" if ac and not user else "")
        if kind >= 6 and not crooked:
            return self.fetch(decoder, gva, level, who)
        if kind not in (3, 4):
            seen, old, path = self.access_one(gva, level, ac, None, crooked)
            difference = self.expect(decoder, who % "read", seen, old, True, path)
            self.note("%s: %s" % (who % "read", seen))
            if difference or kind != 5 or seen.kind != "done":
                return difference
        entry = self.follow(gva, None)[1]
        if entry is not None and entry < MEMORY:
            before, users = self.read(entry), self.users_of(entry)
        what = who % ("XCHG" if kind == 5 else "write")
        seen, old, path = self.access_one(gva, level | WRITE, ac, new, crooked)
        difference = self.expect(decoder, what, seen, old, kind == 5, path)
        self.note("%s: %s" % (what, seen))
        if entry is not None and entry < MEMORY and seen.kind == "done" and self.read(entry) != before:
            self.make_stale(users)
        return difference

    def read_two(self, decoder, i, level, ac):
        """The last 4 bytes of a page and the first 4 of the next. The first page comes first."""
        gva, second = address(i) + PAGE - 8, address(i + 1)
        if self.stale[i + 1]:
            self.flush(i + 1)
        what = "read at %#x, over the end of the page, CPL %d%s" % (gva + 4, 3 if level else 0, ", AC" if ac and not level else "")
        seen, low, path = self.access_one(gva, level, ac)
        value = 0
        if seen.kind == "done":
            seen, high, path = self.access_one(second, level, ac)
            if seen.kind == "done":
                value = low >> 32 | high << 32 & MASK64
            else:
                self.address, seen = i + 1, Seen("pf", error=seen.error, cr2=second)
        difference = self.expect(decoder, what, seen, value, True, path)
        self.note("%s: %s" % (what, seen))
        return difference

    def fetch(self, decoder, gva, level, who):
        seen, value, path = self.access_one(gva, level, True)
        difference = self.expect(decoder, who % "read (before a fetch)", seen, value, True, path)
        self.note("%s: %s" % (who % "read", seen))
        if difference or seen.kind == "done" and not is_code(value):
            return difference
        seen, value, path = self.access_one(gva, level | FETCH, False)
        if value is not None:
            value = value >> 8 & 0xFFFFFFFF
        difference = self.expect(decoder, who % "fetch", seen, value, True, path)
        self.note("%s: %s" % (who % "fetch", seen))
        return difference

    def control(self):
        which = self.draw(5)
        if which < 2 and self.has(WP):
            self.cpu.cr0 ^= CR0_WP
        elif which in (2, 3) and self.has(SMX):
            self.cpu.cr4 ^= CR4_SMEP if which == 2 else CR4_SMAP
            if self.cpu.cr4 & (CR4_SMEP | CR4_SMAP) == CR4_SMAP and not self.has(SMAP_ALONE):
                self.cpu.cr4 ^= CR4_SMEP | CR4_SMAP
        elif which == 4 and self.has(NX):
            self.cpu.efer ^= EFER_NXE
            self.all_stale()
        self.note(self.state())

    def look(self, decoder):
        marks, rest = decoder.entries(POOL * len(SLOTS))
        places = [(page, slot) for page in range(POOL) for slot in SLOTS]
        total = 0
        for (page, slot), seen in zip(places, marks):
            entry = self.pages[page][slot]
            total = (total ^ entry & ~(A | D)) * GOLDEN & MASK64
            if entry >> 5 & 3 != seen:
                gpa, show = POOL_GPA[page] + slot * 8, "A=%d D=%d"
                return Difference(self.step, "accessed and dirty bits of the entry in %s, %s" % (place(gpa), show_entry(entry)),
                                  show % (entry >> 5 & 1, entry >> 6 & 1), show % (seen & 1, seen >> 1), self.story(gpa=gpa))
        if total >> 48 == rest:
            return None
        return Difference(self.step, "all entries without their A and D bits", "checksum %04x" % (total >> 48), "%04x" % rest, self.story())

    def one(self, decoder):
        op = self.draw(32)
        if op < self.edits:
            for _ in range(1 + self.draw(3)):
                self.edit()
        elif op < 27:
            return self.access(decoder)
        elif op < 29:
            natural, root, anything = self.draw(8), self.draw(self.ntables // 4), self.draw(self.ntables)
            if not self.draw(8) or not self.has(CALM):
                self.load_cr3(POOL_GPA[root if natural else anything])
        elif op < 31:
            self.control()
        else:
            self.invalidate(self.draw(ADDRESSES))
        return None

    def compare(self, data):
        """Goes through the run beside what the guest printed. None, or the first Difference."""
        decoder = Decoder(data)
        try:
            for self.step in range(self.steps):
                difference = self.one(decoder)
                if not difference and self.step % self.block == self.block - 1:
                    difference = self.look(decoder)
                if difference:
                    return difference
                del self.log[:-20]
        except Ended:
            return Difference(self.step, "the guest's output", "more of it", "its end", self.story())
        left = len(data) - decoder.at
        return Difference(self.steps, "the guest's output", "its end", "%d bytes more" % left) if left else None
