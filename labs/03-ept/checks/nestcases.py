"""The scripts of checkpoints 3.3 to 3.6, made from a seed, with what must come out of them by nestmodel.py and nestwalk.py."""

import random

import nestmodel
import nestscript
import nestwalk
from nestmodel import PAGE, REACH
from nestscript import Wrong
from nestwalk import Cpu, rights_text, size

FORMATS = ("ept", "npt")
RIGHTS = {"ept": (1, 3, 5, 7, 4), "npt": (1, 3, 5, 7)}
# Around these a mistake with an index shows.
EDGES = (0, 2 << 20, 1 << 30, 3 << 30, 512 << 30, 1 << 47, REACH)

EDGE_TABLES = 8  # more than an operation needs at the two ends of its range

LEAK = ("Each table has two ends: the entry that leads to it, and nested_retire(). A table that became empty goes, and then perhaps "
        "the one above it; the root stays.")
FLUSH = ("A flush is due when an entry that was not absent says less or something else than before: the CPU may remember it. What was "
         "absent it does not remember, and a right that it lacks it looks up again. (SDM vol. 3, 28.4.3.4)")
UNNOTED = "An entry that the CPU may remember was stored without nested_set(), which must know of it."


class Trial:
    """One set of tables: operations go to the script and to the model at once."""

    def __init__(self, script, rng, cpu, pool):
        self.script, self.rng, self.cpu, self.pool = script, rng, cpu, pool
        self.model = nestmodel.Tables(cpu, pool)
        self.script.add("new %s %s %d %d" % (cpu.format, cpu.caps, cpu.bits, pool))

    # --- what is drawn ---

    def rights(self):
        return self.rng.choice([r for r in RIGHTS[self.cpu.format] if self.cpu.can(r)])

    def type(self):
        return self.rng.choice(tuple(nestwalk.TYPES) + (nestwalk.WB,) * 5) if self.cpu.format == "ept" else nestwalk.WB

    def ma(self, level, length):
        """Aligned for pages of that level; not a table's."""
        return self.rng.randrange(1 << 32, (1 << self.cpu.bits) - length, size(level))

    def some(self):
        """An address that is mapped, or, if nothing is, some other."""
        table, level, gpa = self.model.root, 4, 0
        if not table:
            return self.rng.randrange(0, 4 << 30, PAGE)
        while isinstance(table, dict):
            slot = self.rng.choice(sorted(table))
            table, gpa, level = table[slot], gpa + slot * size(level), level - 1
        return gpa + self.rng.randrange(0, size(level + 1), PAGE)

    # --- steps ---

    def state(self, text, hint="", exact=True):
        """The check of an operation: its status, and the state of the tables as the model has it now."""
        model = self.model
        used, retired, due, touched = model.used, model.retired, model.due, model.touched

        def check(answer):
            if answer.text != text:
                return Wrong(text, answer.text, hint)
            if exact and (answer.used, answer.retired) != (used, retired):
                return Wrong("tables: %d in use, %d retired since the last flush" % (used, retired),
                             "%d in use, %d retired" % (answer.used, answer.retired), LEAK)
            if due and not answer.flush:
                return Wrong("a flush is due: n->flush is set", "no flush is due", FLUSH)
            if answer.flush and not touched:
                return Wrong("no flush is due: nothing was changed that was not absent", "a flush is due", FLUSH)
            return None
        return check

    def op(self, line, status, hint="", exact=True):
        self.script.add(line, self.state("%s %s" % (line.split()[0], status), hint, exact))

    def map(self, gpa, ma, length, rights, type_, level):
        line = "map %#x %#x %#x %s %s %d" % (gpa, ma, length, rights_text(rights), nestwalk.TYPES[type_], level)
        return self._ending(line, gpa, length, lambda: self.model.map(gpa, ma, length, rights, type_, level),
                            lambda page, old: (ma + page - gpa, rights, type_), length // (2 << 20) + EDGE_TABLES)

    def unmap(self, gpa, length):
        return self._ending("unmap %#x %#x" % (gpa, length), gpa, length, lambda: self.model.unmap(gpa, length), lambda page, old: None)

    def protect(self, gpa, length, rights):
        return self._ending("protect %#x %#x %s" % (gpa, length, rights_text(rights)), gpa, length,
                            lambda: self.model.protect(gpa, length, rights), lambda page, old: old and (old[0], rights, old[2]))

    def _ending(self, line, gpa, length, run, after, most=EDGE_TABLES):
        """An operation that may need tables, `most` of them. Where they run out, how far it came is hv's affair, and these tables are at
        their end. after(page, old): what a page is when it is done."""
        before = self.model.pages() if self.model.free < most else None
        status = run()
        if status != "-ENOMEM":
            self.op(line, status)
            return True
        self.op(line, status, "The pool is empty, and what is retired is not free before the flush.", exact=False)
        self.script.add("tables", nestscript.check_tables(self.cpu, self.pool, None, self._partly(before, gpa, length, after)))
        self.finish(exact=False)
        return False

    def _partly(self, before, gpa, length, after):
        """The check of tables behind -ENOMEM: in the range each page is as before or done, and elsewhere as before."""
        cpu, rng = self.cpu, random.Random(gpa)

        def said(hit):
            return hit and (hit if cpu.format == "ept" else hit[:2])

        def check(pages):
            probes = set(before) | set(pages) | {p + size(level) - PAGE for p, (level, _) in before.items()}
            probes |= {gpa + PAGE * rng.randrange(length // PAGE) for _ in range(50)} | {gpa, gpa + length - PAGE}
            for page in sorted(probes):
                have, old = said(nestmodel.at(pages, page)), said(nestmodel.at(before, page))
                if have == old or (gpa <= page < gpa + length and have == said(after(page, nestmodel.at(before, page)))):
                    continue
                return Wrong("behind -ENOMEM, gpa %#x as it was before%s: %s" %
                             (page, " or as it was to be" if gpa <= page < gpa + length else "", old), str(have))
            return None
        return check

    def split(self, gpa, level):
        self.op("split %#x %d" % (gpa, level), self.model.split(gpa, level))

    def join(self, gpa, level):
        self.op("join %#x %d" % (gpa, level), self.model.join(gpa, level),
                "A join must be invisible to the guest: 512 pages, in order, one aligned piece of memory, the same rights and type.")

    def touch(self, gpa, write):
        level = self.model.touch(gpa, write)
        self.script.says("touch %#x %s" % (gpa, "-w-" if write else "r--"), "touch level %d" % level)

    def flush(self):
        self.model.flush()
        state = self.state("flush 0")

        def check(answer):
            if answer.lines:
                return Wrong("each change noted", "the entry at ma %s was changed behind nested_set()'s back" % answer.lines[0][1], UNNOTED)
            return state(answer)
        self.script.add("flush", check)

    def tables(self):
        self.script.add("tables", nestscript.check_tables(self.cpu, self.pool, self.model.pages()))

    def walk(self, gpa, access):
        hit, (_, level) = nestmodel.at(self.model.pages(), gpa), self.model._way(gpa)[-1]
        if not hit:
            text = "walk absent level %d rights ---" % level
        else:
            text = "walk %s level %d rights %s ma %#x" % ("forbidden" if access & ~hit[1] else "ok", level, rights_text(hit[1]), hit[0])
        self.script.says("walk %#x %s" % (gpa, rights_text(access)), text)

    def finish(self, exact=True):
        """Everything away: nothing may be left but the root."""
        self.model.unmap(0, REACH)
        self.op("unmap 0 %#x" % REACH, "0", LEAK, exact)
        self.flush()
        self.tables()


def cpu_of(rng, format_, large=True):
    """Most CPUs have everything. Without A and D only those with EPT."""
    lacks = rng.randrange(6) if large else 5
    return Cpu(format_, page_2m=lacks != 0, page_1g=lacks > 1, ad=format_ == "npt" or rng.random() < 0.7, exec_only=rng.random() < 0.6,
               bits=rng.choice((36, 39, 40, 46, 52)))


# --- 3.3: tables made by hand ------------------------------------------------------------------------------------------------


def walk_case(script, rng, format_):
    """One way of four entries (or fewer), and walks along it and beside it."""
    cpu, pool = cpu_of(rng, format_), 8
    script.add("new %s %s %d %d" % (format_, cpu.caps, cpu.bits, pool))
    gpa = rng.choice(EDGES[:-1]) + rng.randrange(1 << 31) & REACH - 1
    memory, table, oddity = {}, nestscript.POOL, rng.choice(("", "", "", "absent", "invalid", "outside"))
    odd_level = rng.choice((4, 3, 2) if oddity == "outside" else (4, 3, 2, 1))
    last = rng.choice([n for n in (3, 2, 1, 1, 1) if cpu.has(n)])
    levels = range(4, max(last, odd_level if oddity else 1) - 1, -1)
    narrow = rng.choice(levels)  # at least one level's rights are less
    for level in levels:
        page = level == last
        choices = [r for r in RIGHTS[format_] if cpu.can(r)]
        rights = rng.choice(choices) if level == narrow or rng.random() < 0.3 else 7
        below = nestscript.POOL + rng.choice([i for i in range(1, pool)]) * PAGE
        ma = rng.randrange(1 << 32, 1 << cpu.bits, size(level)) if page else below
        raw = nestwalk.encode(cpu, nestwalk.Entry("page" if page else "table", rights, rng.choice(tuple(nestwalk.TYPES)), ma=ma,
                                                  a=cpu.ad and rng.random() < 0.5, d=cpu.ad and rng.random() < 0.5), level)
        if level == odd_level and oddity == "absent":
            raw &= ~7 if format_ == "ept" else ~1
        elif level == odd_level and oddity == "outside" and not page:
            raw = raw & ~nestwalk.ADDRESS | rng.choice((nestscript.POOL + pool * PAGE, nestscript.POOL - PAGE, 1 << 33, 0))
        elif level == odd_level and oddity == "invalid":
            raw = spoil(rng, cpu, raw, level)
        place = table + 8 * nestwalk.index(gpa, level)
        if place in memory:  # a table that leads to itself; then the first entry counts, and it is still a fair question
            raw = memory[place]
        memory[place] = raw
        script.says("poke %#x %d %#x" % (gpa, level, raw), "poke 0")
        entry = nestwalk.decode(cpu, raw, level)
        if entry.kind != "table" or not nestscript.POOL <= entry.ma < nestscript.POOL + pool * PAGE:
            break
        table = entry.ma
    read = nestscript.reader(memory, pool)
    for access in (0, 1, 2, 4, rng.randrange(8)):
        where = gpa if access or rng.random() < 0.5 else gpa ^ 1 << rng.randrange(48)
        found = nestwalk.walk(cpu, read, nestscript.POOL, where, access)
        text = "walk %s level %d rights %s" % (found.end, found.level, rights_text(found.rights))
        text += " ma %#x" % found.ma if found.end in ("ok", "forbidden") else ""
        script.add("walk %#x %s" % (where, rights_text(access)), walk_check(cpu, text, found))


def walk_check(cpu, text, found):
    def check(answer):
        if answer.text == text:
            return None
        path = ["  level %d at ma %#x: %#x: %s" % (level, ma, raw, nestwalk.decode(cpu, raw, level)) for level, ma, raw in found.path]
        why = ["The walk ends there: %s." % found.why] if found.why else []
        return Wrong(text, answer.text, "\n".join(["The entries on the way (%s, CPU with %s, addresses of %d bits):" %
                                                   (cpu.format, cpu.caps, cpu.bits), *path, *why]))
    return check


def spoil(rng, cpu, raw, level):
    """The entry with a bit or two that make it invalid; or as it was, where none does."""
    bits = [1 << b for b in range(64)] + [3 << 3, 7 << 3]
    choices = [raw ^ b for b in bits if nestwalk.decode(cpu, raw ^ b, level).kind == "invalid"]
    return rng.choice(choices) if choices else raw


def walks(rng):
    script = nestscript.Script()
    for _ in range(150):
        for format_ in FORMATS:
            walk_case(script, rng, format_)
    return script


# --- 3.4: pages of 4 KiB ------------------------------------------------------------------------------------------------------


def near(rng, edges):
    edge = rng.choice(edges) + PAGE * rng.randrange(-8, 8)
    return min(max(edge, 0), REACH - 16 * PAGE)


def small_trial(script, rng, format_, pool, steps):
    trial = Trial(script, rng, cpu_of(rng, format_), pool)
    edges = rng.sample(EDGES, 3)
    for step in range(steps):
        kind = rng.choices(("map", "unmap", "large", "touch", "walk", "flush", "invalid"), (8, 4, 1, 3, 2, 1, 1))[0]
        gpa, length = near(rng, edges), PAGE * rng.randrange(1, 13)
        if kind == "map":
            if not trial.map(gpa, trial.ma(1, length), length, trial.rights(), trial.type(), 1):
                return
        elif kind == "unmap":
            trial.unmap(gpa, length)
        elif kind == "large":
            edge = rng.choice(EDGES[:-1])
            trial.unmap(edge, rng.choice((2 << 20, 1 << 30, 1 << 39, REACH - edge)) if edge + (1 << 39) <= REACH else PAGE)
        elif kind == "touch":
            trial.touch(trial.some() + rng.randrange(PAGE), rng.random() < 0.5)
        elif kind == "walk":
            trial.walk(rng.choice((gpa, trial.some())) + rng.randrange(PAGE), rng.choice((0, 1, 2, 4)))
        elif kind == "flush":
            trial.flush()
        else:
            refused(trial, "map")
        if step % 7 == 6:
            trial.tables()
    trial.finish()


def refused(trial, name):
    """Operands that are not allowed: -EINVAL, and nothing else happens."""
    rng, gpa = trial.rng, trial.rng.randrange(0, 1 << 30, PAGE)
    end = 1 << trial.cpu.bits
    bad = [(gpa + rng.randrange(1, PAGE), 1 << 32, PAGE, 7), (gpa, 1 << 32, rng.randrange(1, PAGE), 7),
           (REACH - PAGE, 1 << 32, 2 * PAGE, 7), (REACH + gpa, 1 << 32, PAGE, 7), (gpa, 1 << 32, PAGE, 2), (gpa, 1 << 32, PAGE, 6)]
    bad += [(gpa, (1 << 32) + 0x10, PAGE, 7), (gpa, end - PAGE, 2 * PAGE, 7), (gpa, end, PAGE, 7)] if name == "map" else []
    bad += [] if trial.cpu.can(4) else [(gpa, 1 << 32, PAGE, 4)]
    start, ma, length, rights = rng.choice(bad)
    if name == "map":
        trial.map(start, ma, length, rights, nestwalk.WB, 1)
    else:
        trial.protect(start, length, rights)


def small(rng):
    script = nestscript.Script()
    for _ in range(4):
        for format_ in FORMATS:
            small_trial(script, rng, format_, rng.randrange(24, 40), 60)
            small_trial(script, rng, format_, rng.randrange(4, 12), 60)  # here the pool runs out
            waiting(script, rng, format_)
    return script


def waiting(script, rng, format_):
    """A full pool, then everything away: there is no table before the flush, and there are all of them behind it."""
    trial = Trial(script, rng, cpu_of(rng, format_), 4)
    gpa, ma = rng.randrange(0, REACH, PAGE), trial.ma(1, PAGE)
    trial.map(gpa, ma, PAGE, 7, nestwalk.WB, 1)
    trial.unmap(gpa, PAGE)
    trial.op("map %#x %#x 0x1000 rwx wb 1" % (gpa, ma), trial.model.map(gpa, ma, PAGE, 7, nestwalk.WB, 1),
             "A retired table may still be in the CPU's caches. It is free behind the flush, which the engine does, and not before.")
    trial.flush()
    trial.map(gpa, ma, PAGE, 3, nestwalk.WB, 1)
    trial.tables()
    trial.finish()


# --- 3.5: large pages ---------------------------------------------------------------------------------------------------------


def large_map(trial):
    """False when these tables are at their end."""
    rng = trial.rng
    level = rng.choice((1, 2, 2, 3))
    gpa = rng.choice((0, 1 << 30, 512 << 30)) + size(level) * rng.randrange({1: 2048, 2: 1024, 3: 3}[level])
    length = size(level) * rng.randrange(1, {1: 9, 2: 4, 3: 3}[level]) + rng.choice((0, 0, 3 * PAGE, 2 << 20))
    ma = trial.ma(rng.choice((level, level, level, max(level - 1, 1))), length)
    biggest = rng.choice((level, 3, max(level - 1, 2)))
    if not trial.cpu.page_2m:
        length = min(length, 6 << 20)  # three tables for pages of 4 KiB; 1 GiB would take 512
    return trial.map(gpa, ma, length, trial.rights(), trial.type(), biggest)


def cut(trial):
    """A range that often begins or ends inside a page."""
    rng, gpa = trial.rng, trial.some()
    return gpa, PAGE * rng.choice((1, 5, 512, 600, 512 * 3 + 1, 512 * 512))


def join_trial(script, rng, format_, level):
    """512 pages that are alike, or nearly: each way in which they may differ, and none."""
    for oddity in ("none", "one-short", "other-memory", "rights", "type", "unaligned", "a-table", "cpu"):
        lacks = oddity == "cpu"
        cpu = Cpu(format_, page_2m=not (lacks and level == 2), page_1g=not (lacks and level == 3), bits=40)
        trial = Trial(script, rng, cpu, 12)
        gpa, piece = size(level) * rng.randrange(1 << 48 - 12 - 9 * (level - 1)), size(level - 1)
        ma, odd = trial.ma(level, size(level)), piece * rng.randrange(512)
        if oddity == "unaligned":
            ma += piece * rng.randrange(1, 512)
            ma -= 1 << 39 if ma + size(level) > 1 << 40 else 0
        rights, type_ = rng.choice((3, 5, 7)), rng.choice((0, 6)) if format_ == "ept" else 6
        if lacks and level == 3:
            rights = 7
        trial.map(gpa, ma, size(level), rights, type_, level - 1)
        for _ in range(4):
            trial.touch(gpa + rng.randrange(size(level)), rng.random() < 0.3)
        if oddity == "one-short":
            trial.unmap(gpa + odd, piece)
        elif oddity == "other-memory":
            trial.map(gpa + odd, ma + (odd + piece) % size(level), piece, rights, type_, level - 1)
        elif oddity == "rights":
            trial.map(gpa + odd, ma + odd, piece, 1, type_, level - 1)
        elif oddity == "type":
            trial.map(gpa + odd, ma + odd, piece, rights, 6 - type_, level - 1)
        elif oddity == "a-table" and level == 3:
            trial.split(gpa + odd, 2)
        trial.flush()
        trial.join(gpa + rng.randrange(size(level)), level)
        trial.tables()
        trial.join(gpa, level)  # there is a page now, or it is refused again
        trial.finish()


def split_trial(script, rng, format_, level):
    """One piece of a page that could do little gets other memory and every right; a piece of another is taken away."""
    trial = Trial(script, rng, Cpu(format_), 12)
    gpa, piece = size(level) * rng.randrange(1 << 48 - 12 - 9 * (level - 1)), size(level - 1)
    some, other = rng.sample(range(512), 2)
    trial.map(gpa, trial.ma(level, size(level)), size(level), 1, nestwalk.WB, level)
    trial.touch(gpa + rng.randrange(size(level)), False)
    if rng.random() < 0.5:
        trial.split(gpa + rng.randrange(size(level)), level)
        trial.tables()
    trial.map(gpa + some * piece, trial.ma(1, piece), piece, 7, nestwalk.WB, 1 if level == 2 else 2)
    trial.walk(gpa + some * piece + rng.randrange(piece), 2)
    trial.unmap(gpa + other * piece, piece)
    trial.tables()
    trial.finish()


def lacking_trial(script, rng, format_, level):
    """Memory that would fit into one page of a size that this CPU does not have."""
    trial = Trial(script, rng, Cpu(format_, page_2m=level != 2, page_1g=False), 12)
    gpa = size(level) * rng.randrange(1 << 48 - 12 - 9 * (level - 1))
    trial.map(gpa, trial.ma(level, size(level)), size(level), 7, nestwalk.WB, 3)
    trial.walk(gpa + rng.randrange(size(level)), 2)
    trial.tables()
    trial.finish()


def large_trial(script, rng, format_, pool, steps):
    trial = Trial(script, rng, cpu_of(rng, format_), pool)
    for step in range(steps):
        kind = rng.choices(("map", "unmap", "split", "join", "touch", "walk", "flush"), (5, 3, 3, 1, 4, 1, 1))[0]
        if kind == "map":
            if not large_map(trial):
                return
        elif kind == "unmap":
            if not trial.unmap(*cut(trial)):
                return
        elif kind == "split":
            trial.split(trial.some(), rng.choice((2, 3)))
        elif kind == "join":
            trial.join(trial.some(), rng.choice((2, 3)))
        elif kind == "touch":
            trial.touch(trial.some() + rng.randrange(PAGE), rng.random() < 0.5)
        elif kind == "walk":
            trial.walk(trial.some() + rng.randrange(PAGE), rng.choice((0, 1, 2, 4)))
        else:
            trial.flush()
        if step % 7 == 6:
            trial.tables()
    trial.finish()


def large(rng):
    script = nestscript.Script()
    for format_ in FORMATS:
        for level in (2, 3):
            join_trial(script, rng, format_, level)
            split_trial(script, rng, format_, level)
            lacking_trial(script, rng, format_, level)
        for _ in range(3):
            large_trial(script, rng, format_, rng.randrange(24, 48), 40)
            large_trial(script, rng, format_, rng.randrange(6, 12), 40)
    return script


# --- 3.6: rights --------------------------------------------------------------------------------------------------------------


def protect_trial(script, rng, format_, pool, steps):
    trial = Trial(script, rng, cpu_of(rng, format_), pool)
    for step in range(steps):
        kind = rng.choices(("map", "protect", "all", "touch", "walk", "flush", "invalid"), (3, 6, 1, 4, 2, 2, 1))[0]
        if kind == "map":
            if not large_map(trial):
                return
        elif kind == "protect":
            if not trial.protect(*cut(trial), trial.rights()):
                return
        elif kind == "all":
            trial.protect(0, REACH, trial.rights())
        elif kind == "touch":
            trial.touch(trial.some() + rng.randrange(PAGE), rng.random() < 0.5)
        elif kind == "walk":
            trial.walk(trial.some() + rng.randrange(PAGE), rng.choice((1, 2, 4)))
        elif kind == "flush":
            trial.flush()
        else:
            refused(trial, "protect")
        if step % 6 == 5:
            trial.tables()
    trial.finish()


def protect(rng):
    script = nestscript.Script()
    for _ in range(3):
        for format_ in FORMATS:
            protect_trial(script, rng, format_, rng.randrange(24, 48), 40)
            protect_trial(script, rng, format_, rng.randrange(6, 12), 40)
    return script


MAKERS = {"3.3": walks, "3.4": small, "3.5": large, "3.6": protect}


def make(checkpoint, seed):
    return MAKERS[checkpoint](random.Random("%s/%d" % (checkpoint, seed)))
