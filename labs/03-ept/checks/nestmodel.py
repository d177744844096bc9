"""What nested.c must do with the tables, done to a tree: a table is a dict from index to Page or table. Statuses are hv's words."""

from typing import NamedTuple

from nestwalk import index, size

PAGE = 4096
REACH = 1 << 48


class Page(NamedTuple):
    ma: int
    rights: int
    type: int
    a: bool = False
    d: bool = False


class Tables:
    def __init__(self, cpu, pool):
        self.cpu, self.pool = cpu, pool
        self.root = {}
        self.used, self.retired = 1, 0
        self.due = False  # a flush: the CPU could act on what is not true any more
        self.touched = False  # an entry that said something was stored again: a flush is not wrong

    @property
    def free(self):
        return self.pool - self.used - self.retired

    # --- the entries ---

    def _take(self):
        if not self.free:
            return None
        self.used += 1
        return {}

    def _release(self, table):
        for entry in table.values():
            if isinstance(entry, dict):
                self._release(entry)
        self.used -= 1
        self.retired += 1

    def _put(self, table, slot, new):
        """Stores a Page, a table, or None."""
        old = table.get(slot)
        if old is not None:
            self.touched = True
            if isinstance(old, dict) or not isinstance(new, Page):
                self.due = True
            else:
                lost = old.rights & ~new.rights or old.a and not new.a or old.d and not new.d
                if lost or old.ma != new.ma or (self.cpu.format == "ept" and old.type != new.type):
                    self.due = True
        if new is None:
            table.pop(slot, None)
        else:
            table[slot] = new

    def _split(self, table, slot, level):
        page, fresh = table[slot], self._take()
        if fresh is None:
            return False
        for i in range(512):
            fresh[i] = Page(page.ma + i * size(level - 1), *page[1:])
        self._put(table, slot, fresh)
        return True

    def _way(self, gpa, to=1):
        """[(table, level)] from the root down, as far as there are tables, to level `to` at most."""
        way = [(self.root, 4)]
        while way[-1][1] > to:
            table, level = way[-1]
            below = table.get(index(gpa, level))
            if not isinstance(below, dict):
                break
            way.append((below, level - 1))
        return way

    # --- the operations ---

    def _valid(self, gpa, length):
        return gpa % PAGE == 0 and length % PAGE == 0 and gpa + length <= REACH

    def map(self, gpa, ma, length, rights, type_, max_level):
        if not self._valid(gpa, length) or ma % PAGE or ma + length > 1 << self.cpu.bits or not self.cpu.can(rights):
            return "-EINVAL"
        while length:
            level = next(n for n in range(max_level, 0, -1)
                         if n == 1 or self.cpu.has(n) and (gpa | ma) % size(n) == 0 and length >= size(n))
            table, at = self._way(gpa, level)[-1]
            if self.free < at - level:
                return "-ENOMEM"
            for n in range(at, level, -1):
                if index(gpa, n) in table:
                    self._split(table, index(gpa, n), n)
                else:
                    self._put(table, index(gpa, n), self._take())
                table = table[index(gpa, n)]
            old = table.get(index(gpa, level))
            self._put(table, index(gpa, level), Page(ma, rights, type_))
            if isinstance(old, dict):
                self._release(old)
            gpa, ma, length = gpa + size(level), ma + size(level), length - size(level)
        return "0"

    def _change(self, table, level, gpa, end, rights):
        """rights None: unmap. False when there was no table for a split."""
        for slot in sorted(table):
            start = (gpa & -size(level + 1) if level < 4 else 0) + slot * size(level)
            low, high = max(gpa, start), min(end, start + size(level))
            if low >= high:
                continue
            if isinstance(table[slot], Page) and high - low < size(level) and not self._split(table, slot, level):
                return False
            entry = table[slot]
            if isinstance(entry, dict):
                done = self._change(entry, level - 1, low, high, rights)
                if rights is None and not entry:
                    self._put(table, slot, None)
                    self._release(entry)
                if not done:
                    return False
            else:
                self._put(table, slot, None if rights is None else entry._replace(rights=rights))
        return True

    def unmap(self, gpa, length):
        if not self._valid(gpa, length):
            return "-EINVAL"
        return "0" if self._change(self.root, 4, gpa, gpa + length, None) else "-ENOMEM"

    def protect(self, gpa, length, rights):
        if not self._valid(gpa, length) or not self.cpu.can(rights):
            return "-EINVAL"
        return "0" if self._change(self.root, 4, gpa, gpa + length, rights) else "-ENOMEM"

    def split(self, gpa, level):
        table, at = self._way(gpa, level)[-1]
        if at != level or not isinstance(table.get(index(gpa, level)), Page):
            return "-ENOENT"
        return "0" if self._split(table, index(gpa, level), level) else "-ENOMEM"

    def join(self, gpa, level):
        if not self.cpu.has(level):
            return "-EOPNOTSUPP"
        table, at = self._way(gpa, level)[-1]
        below = table.get(index(gpa, level)) if at == level else None
        if not isinstance(below, dict):
            return "-ENOENT"
        first = below.get(0)
        if not isinstance(first, Page) or first.ma % size(level):
            return "-EBUSY"
        for i in range(512):
            piece = below.get(i)
            if not isinstance(piece, Page) or piece.ma != first.ma + i * size(level - 1) or piece.rights != first.rights:
                return "-EBUSY"
            if self.cpu.format == "ept" and piece.type != first.type:
                return "-EBUSY"
        pieces = below.values()
        self._put(table, index(gpa, level), first._replace(a=any(p.a for p in pieces), d=any(p.d for p in pieces)))
        self._release(below)
        return "0"

    def touch(self, gpa, write):
        """The page's level, 0 when there is none."""
        table, level = self._way(gpa)[-1]
        page = table.get(index(gpa, level))
        if page is None:
            return 0
        if self.cpu.ad:
            table[index(gpa, level)] = page._replace(a=True, d=page.d or bool(write))
        return level

    def flush(self):
        self.retired, self.due, self.touched = 0, False, False

    # --- looking ---

    def pages(self):
        """{gpa: (level, Page)}"""
        found = {}

        def visit(table, level, base):
            step = size(level)
            for slot, entry in table.items():
                if isinstance(entry, dict):
                    visit(entry, level - 1, base + slot * step)
                else:
                    found[base + slot * step] = level, entry

        visit(self.root, 4, 0)
        return found


def at(pages, gpa):
    """What the tables with these pages make of gpa: (ma, rights, type), or None."""
    for level in (1, 2, 3):
        hit = pages.get(gpa & -size(level))
        if hit and hit[0] == level:
            return hit[1].ma + (gpa & size(level) - 1), hit[1].rights, hit[1].type
    return None

