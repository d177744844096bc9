"""Trials with guests/touch.c: a script for the guest and a plan for hv, made together with a model of what must come of both."""

import struct

import nestmodel
import nestwalk
from model import BOCHS, HV_OK, QEMU, Run
from nestwalk import R, W, X, size

PAGE, LARGE = 4096, 2 << 20
MASK64 = (1 << 64) - 1
MEMORY = 32 << 20
GUEST_MA = 4 << 30  # machine address of gpa 0 (HVM_GUEST_MA)
DATA, DATA_END = 4 << 20, 28 << 20  # what the trials use; below lies the guest itself, above the script
TABLES, TABLES_END = 28 << 20, 30 << 20  # page tables that the guest makes
RWX = R | W | X
BLOCK_MAX = 1024
EBUSY, ENOENT, EOPNOTSUPP = -16, -2, -95

_OPS = ("END STAGE CHECK READ WRITE ADD MOVUPS PUSH COPY FILL INS CALL SUM WARM ROOT INVLPG").split()
_OP = {name: number for number, name in enumerate(_OPS)}
_LETTER = {R: "r", W: "w", X: "x"}
_WORD = {R: "read", W: "write", X: "fetch"}
DEBUG_PORT_VALUE = 0xE9  # what a read of the debug console's port answers


def parse_rights(text):
    return sum(bit for bit, letter in zip((R, W, X), "rwx") if letter in text)


class Denied(Exception):
    """The guest does what stops the VM."""


class Trial:
    """One guest. Its calls append to the script and the plan, and do the same to the model. Random numbers are the scenario's own affair;
    they must not depend on the format."""

    def __init__(self, format_, level=2):
        self.cpu = nestwalk.Cpu(format_, page_1g=False, bits=52)
        self.level = level  # of the largest pages on demand
        self.tables = nestmodel.Tables(self.cpu, 1 << 16)
        self.ram = {}  # page of memory -> bytearray
        self.policy = []  # (gpa, length, rights, watch), later ones count
        self.watched = []  # (gpa, rip's name or address, letter)
        self.dirty = None  # while the log is on: pages
        self.tables_must, self.tables_may = set(), set()  # of the guest's own, which the CPU writes
        self.logging = False  # since the last count
        self.violations = self.splits = self.joins = self.flushes = 0
        self.ops, self.lines, self.results = [], [], []
        self.blocks, self.block = [], []
        self.stages = 0
        self.denied = None  # (gpa, rip, letter): the access that stops the VM
        self.warm()

    # --- memory ---

    def _page(self, number):
        return self.ram.setdefault(number, bytearray(PAGE))

    def _frame(self, gpa):
        """The page of memory that the guest sees at gpa."""
        found = self._lookup(gpa)
        return (found.ma - GUEST_MA + (gpa & size(self._level) - 1)) // PAGE if found else gpa // PAGE

    def _lookup(self, gpa):
        """What maps gpa, or None; its level is left in _level."""
        table, level = self.tables._way(gpa)[-1]
        self._level = level
        return table.get(nestwalk.index(gpa, level))

    def peek(self, gpa, length):
        return bytes(self._page(self._frame(gpa + i))[(gpa + i) % PAGE] for i in range(length))

    def poke(self, gpa, data, direct=False):
        for i, byte in enumerate(data):
            at = gpa + i
            self._page(at // PAGE if direct else self._frame(at))[at % PAGE] = byte

    # --- what hv does about an access ---

    def rule(self, gpa):
        return next((p for p in reversed(self.policy) if p[0] <= gpa < p[0] + p[1]), None)

    def _uniform(self, base, length):
        return not any(p[0] < base + length and base < p[0] + p[1] and not (p[0] <= base and base + length <= p[0] + p[1])
                       for p in self.policy)

    def _demand(self, gpa, rights):
        table, at = self.tables._way(gpa)[-1]
        level = 1 if self.dirty is not None else min(self.level, at)
        while level > 1:
            base = gpa & -size(level)
            if base + size(level) <= MEMORY and self._uniform(base, size(level)):
                break
            level -= 1
        base = gpa & -size(level)
        self.tables.map(base, GUEST_MA + base, size(level), rights, nestwalk.WB, level)

    def _split_all(self, gpa):
        if self.tables.split(gpa, 2) == "0":
            self.splits += 1

    def _enter(self):
        if self.tables.due:
            self.flushes += 1
        self.tables.flush()

    def instruction(self, rip, pieces, emulated=True):
        """pieces: (gpa, length, right) in the CPU's order, none over a page's end. Returns False when hv carried it out by itself."""
        passing = []
        while True:
            self._enter()
            for gpa, _, right in pieces:
                page, found = gpa & -PAGE, self._lookup(gpa)
                if found is not None and found.rights & right:
                    continue
                self.violations += 1
                rule = self.rule(gpa)
                rights = RWX if page in passing or not rule else rule[2]
                if not rights & right:
                    if not rule[3]:
                        self.denied = gpa, rip, _WORD[right]
                        raise Denied()
                    self.watched.append((gpa, rip, _LETTER[right]))
                    if emulated and right != X:
                        for to, _, kind in pieces:
                            if kind == W:
                                self._hv_writes(to)
                        return False
                    passing.append(page)
                    if self.dirty is not None and right == W:
                        self.dirty.add(page // PAGE)
                    self._map_small(page, RWX if self.dirty is None or right == W else R | X)
                    break
                if self.dirty is not None:
                    rights &= ~W
                if found is None:
                    self._demand(gpa, rights)
                else:
                    self._count_split(lambda: self.tables.protect(page, PAGE, rights), page)
                if self.dirty is not None and right == W:
                    self._split_all(gpa)
                    self.tables.protect(page, PAGE, self._lookup(gpa).rights | W)
                    self.dirty.add(page // PAGE)
                break
            else:
                break
        for gpa, _, right in pieces:
            self.tables.touch(gpa, right == W)
        self.after = passing
        return True

    def _count_split(self, change, gpa):
        """change() may have to split the page at gpa."""
        large = self._lookup(gpa) is not None and self._level > 1
        change()
        if large and self._lookup(gpa) is not None and self._level == 1:
            self.splits += 1

    def _map_small(self, page, rights):
        self._count_split(lambda: self.tables.map(page, GUEST_MA + page, PAGE, rights, nestwalk.WB, 1), page)

    def _passed(self):
        for page in self.after:
            self.tables.unmap(page, PAGE)
        self.after = []

    @staticmethod
    def _pieces(gpa, length, right):
        cut = min(length, -gpa % PAGE or PAGE)
        return [(gpa, cut, right)] + ([(gpa + cut, length - cut, right)] if length > cut else [])

    def _op(self, name, a=0, b=0, c=0, width=0):
        self.ops.append((_OP[name] | width << 8, a, b & MASK64, c))

    def _saw(self, value, what):
        self.block.append((value & MASK64, what))
        if len(self.block) == BLOCK_MAX:
            self.check()

    # --- what the guest does ---

    def warm(self):
        """The guest's own memory is used, so that it is mapped before anything is counted."""
        for a, b in ((0x5000, 0xF000), (1 << 20, (1 << 20) + (256 << 10))):
            self._op("WARM", a, b)
        self.ops.append(None)  # the script itself: where it lies is known when it is complete

    def read(self, gpa, width=8):
        self._op("READ", gpa, width=width)
        seen = self.instruction("read%d" % width, self._pieces(gpa, width, R))
        value = int.from_bytes(self.peek(gpa, width) if seen else bytes(
            self._page((gpa + i) // PAGE)[(gpa + i) % PAGE] for i in range(width)), "little")
        if seen:
            self._passed()
        self._saw(value, "a read of %d bytes at %#x" % (width, gpa))

    def write(self, gpa, value, width=8, how="write"):
        """how: write, add (lock add), movups (16 bytes), push, ins (a byte from a port)."""
        data = (value & MASK64).to_bytes(8, "little")
        rip, emulated = how, True
        if how == "write":
            rip, data = "write%d" % width, data[:width]
            self._op("WRITE", gpa, value & (1 << 8 * width) - 1, width=width)
        elif how == "ins":
            data = bytes([DEBUG_PORT_VALUE])
            self._op("INS", gpa)
            self._hv_writes(gpa)
            self.poke(gpa, data, direct=True)
            return
        else:
            self._op(how.upper(), gpa, value)
        if how == "movups":
            data, emulated = data * 2, False
        if how == "push":
            emulated = False
        pieces = self._pieces(gpa, len(data), W)
        if how == "add":
            data = (int.from_bytes(self.peek(gpa, 8), "little") + value & MASK64).to_bytes(8, "little")
        done = self.instruction(rip, pieces, emulated)
        self.poke(gpa, data, direct=not done)
        if done:
            self._passed()

    def mapped_access(self, gva, gpa, value):
        """A read of 8 bytes (value None) or a write at gva, which leads to gpa."""
        if value is None:
            self._op("READ", gva, width=8)
            self.instruction("read8", self._pieces(gpa, 8, R))
            self._saw(int.from_bytes(self.peek(gpa, 8), "little"), "a read of 8 bytes at %#x" % gva)
        else:
            self._op("WRITE", gva, value, width=8)
            self.instruction("write8", self._pieces(gpa, 8, W))
            self.poke(gpa, value.to_bytes(8, "little"))

    def walked(self, must, may):
        """The CPU wrote to these page tables, perhaps to those."""
        self.tables_must |= must
        self.tables_may |= may

    def _hv_writes(self, gpa):
        """hv writes to the guest's memory for it, past the tables: what counts writes must count this one."""
        if self.dirty is not None:
            self.dirty.add(gpa // PAGE)

    def call(self, gpa, code, value, what="a call of code"):
        """code: (offset, length, [writes as (gpa, bytes)]) of each instruction; all of it was written there before."""
        self._op("CALL", gpa)
        for offset, length, writes in code:
            at = gpa + offset
            pieces = self._pieces(at, length, X) + [p for to, data in writes for p in self._pieces(to, len(data), W)]
            done = self.instruction(at, pieces)
            for to, data in writes:
                self.poke(to, data, direct=not done)
            if done:
                self._passed()
        self._saw(value, "%s at %#x" % (what, gpa))

    def copy(self, to, source, length):
        self._op("COPY", to, source, length)
        for i in range(length):
            byte = self.peek(source + i, 1)
            done = self.instruction("copy", [(source + i, 1, R), (to + i, 1, W)])
            self.poke(to + i, byte, direct=not done)

    def fill(self, to, value, words):
        self._op("FILL", to, value, words)
        for i in range(words):
            at = to + 8 * i
            done = self.instruction("fill", self._pieces(at, 8, W))
            self.poke(at, (value & MASK64).to_bytes(8, "little"), direct=not done)

    def sum(self, gpa, words):
        """Reads that many words, one after the other; they are not to be watched."""
        self._op("SUM", gpa, words)
        for i in range(words):
            at = gpa + 8 * i
            self.instruction("sum", [(at, 8, R)])
            self._saw(int.from_bytes(self.peek(at, 8), "little"), "a read of 8 bytes at %#x" % at)

    def root(self, slot, entry):
        self._op("ROOT", slot, entry)

    def invlpg(self, gva):
        self._op("INVLPG", gva)

    def check(self):
        """Ends a block of what was seen."""
        total = 0
        for value, _ in self.block:
            total = (total ^ value) * 0x9E3779B97F4A7C15 & MASK64
            total ^= total >> 32
        self._op("CHECK", total)
        self.blocks.append((total, self.block))
        self.block = []

    # --- what hv does at a stage ---

    def stage(self, *commands):
        """Commands of the plan, without the number. Returns their results, which the scenario may change."""
        self.stages += 1
        self._op("STAGE", self.stages)
        self._enter()
        found = self.results_here = []
        for command in commands:
            self.lines.append("%d %s" % (self.stages, command))
            words = command.split()
            name = " ".join(words[:2]) if words[0] == "log" else words[0]
            result = {"stage": self.stages, "command": name, "result": 0}
            getattr(self, "_do_" + name.replace(" ", "_"))(result, *words[2 if words[0] == "log" else 1:])
            found.append(result)
        self.results += found
        self._saw(0, "the answer to stage %d" % self.stages)
        return found

    def _restrict(self, result, gpa, length, text, watch):
        gpa, length, rights = int(gpa, 0), int(length, 0), parse_rights(text)
        if rights and not self.cpu.can(rights):
            result["result"] = EOPNOTSUPP
            return
        self.policy.append((gpa, length, rights, watch))
        if self.dirty is not None:
            rights &= ~W
        change = (lambda: self.tables.protect(gpa, length, rights)) if self.cpu.can(rights) else (lambda: self.tables.unmap(gpa, length))
        self._edges(gpa, length, change)

    def _edges(self, gpa, length, change):
        """A change of a range splits at most the large pages at its two ends."""
        ends = {page for page in (gpa & -LARGE, gpa + length - 1 & -LARGE) if self._lookup(page) is not None and self._level == 2
                and not (gpa <= page and page + LARGE <= gpa + length)}
        self.splits += len(ends)
        change()

    def _do_protect(self, result, gpa, length, rights):
        self._restrict(result, gpa, length, rights, False)

    def _do_watch(self, result, gpa, length, rights):
        self._restrict(result, gpa, length, rights, True)

    def _do_allow(self, result, gpa, length):
        self._restrict(result, gpa, length, "rwx", False)

    def _do_unmap(self, result, gpa, length):
        self._edges(int(gpa, 0), int(length, 0), lambda: self.tables.unmap(int(gpa, 0), int(length, 0)))

    def _do_remap(self, result, gpa, other):
        gpa, other = int(gpa, 0), int(other, 0)
        rule = self.rule(gpa)
        change = lambda: self.tables.map(gpa, GUEST_MA + other, PAGE, rule[2] if rule else RWX, nestwalk.WB, 1)  # noqa: E731
        self._count_split(change, gpa)

    def _do_split(self, result, gpa, level):
        result["result"] = 0 if self.tables.split(int(gpa, 0), int(level)) == "0" else ENOENT
        self.splits += not result["result"]

    def _do_join(self, result, gpa, level):
        result["result"] = {"0": 0, "-ENOENT": ENOENT, "-EBUSY": EBUSY}[self.tables.join(int(gpa, 0), int(level))]
        self.joins += not result["result"]

    def _do_age(self, result):
        pages = self.tables.pages()
        result["again"] = bool(self.results_here and self.results_here[-1]["command"] == "age")
        result["accessed"] = {(gpa, level) for gpa, (level, p) in pages.items() if p.a}
        result["dirty"] = {(gpa, level) for gpa, (level, p) in pages.items() if p.d}
        for gpa, level in result["accessed"] | result["dirty"]:
            table, _ = self.tables._way(gpa)[-1]
            slot = nestwalk.index(gpa, level)
            self.tables._put(table, slot, table[slot]._replace(a=False, d=False))

    def _set_write(self, gpa, on):
        table, level = self.tables._way(gpa)[-1]
        page = table.get(nestwalk.index(gpa, level))
        if page is not None and page.rights & R:
            self.tables._put(table, nestwalk.index(gpa, level),
                             page._replace(rights=page.rights | W if on else page.rights & ~W))

    def _do_log_start(self, result):
        self.dirty, self.logging = set(), True
        self.tables_must, self.tables_may = set(), set()
        for gpa in self.tables.pages():
            self._set_write(gpa, False)

    def _do_log_fetch(self, result):
        result["pages"] = self.dirty
        result["must"], result["may"] = self.tables_must, self.tables_may
        self.tables_must, self.tables_may = set(), set()
        for page in self.dirty:
            self._set_write(page * PAGE, False)
        self.dirty = set()

    def _do_log_stop(self, result):
        def may(gpa):
            rule = self.rule(gpa)
            return not rule or rule[2] & W

        for gpa, (level, page) in sorted(self.tables.pages().items()):
            allowed = [gpa + i for i in range(0, size(level), PAGE) if may(gpa + i)]
            if page.rights & W or not allowed:
                continue
            if len(allowed) < size(level) // PAGE:
                self._split_all(gpa)
            for at in [gpa] if self._lookup(gpa) is not None and self._level == level else allowed:
                self._set_write(at, True)
        self.dirty = None

    def _do_count(self, result):
        result.update(violations=self.violations, splits=self.splits, joins=self.joins, flushes=self.flushes, loose=self.logging)
        self.logging = self.dirty is not None

    def _do_dump(self, result):
        result["tables"] = {gpa: (level, page.ma, page.rights) for gpa, (level, page) in self.tables.pages().items()}

    # --- files ---

    def script(self):
        """What guests/touch.c reads."""
        if self.block:
            self.check()
        length = 32 * (len(self.ops) + 1)
        begin = (MEMORY - length) & -PAGE
        ops = [(_OP["WARM"], begin, MEMORY, 0) if op is None else op for op in self.ops] + [(_OP["END"], 0, 0, 0)]
        return b"".join(struct.pack("<4Q", *op) for op in ops)

    def plan(self):
        return "".join(line + "\n" for line in self.lines).encode()


def touch_run(name, scenario, page_size="2M", ends=(HV_OK,), hosts=(QEMU, BOCHS), timeout=5.0):
    """scenario(seed, format) makes a Trial. One that ends with Denied has that as its last step."""
    def files(params):
        trial = scenario(params[0], "npt")  # script and plan are the same for both formats
        return {"script": trial.script(), "plan": trial.plan()}

    args = ["--engine", "hvm", "--mem", "32M", "--page-size", page_size, "--plan", "@DIR@/plan", "--initrd", "@DIR@/script"]
    return Run(name, "lab3/touch.elf", lambda params: args,  # the guest itself has no numbers
               lambda rng: [rng.getrandbits(64)], ends=ends, hosts=hosts, files=files, timeout=timeout)
