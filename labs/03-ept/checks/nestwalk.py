"""Entries of nested page tables and the walk through them, written from the manuals: Intel SDM vol. 3, 28.3 (EPT); AMD APM vol. 2,
15.25 and 5.3 (NPT). It knows nothing of hv. Memory is a function.
"""

from dataclasses import dataclass, field

R, W, X = 1, 2, 4
TYPES = {0: "uc", 1: "wc", 4: "wt", 5: "wp", 6: "wb"}
TYPE_NUMBERS = {name: number for number, name in TYPES.items()}
WB = 6
ADDRESS = 0x000FFFFFFFFFF000  # bits 51:12
LARGE = 1 << 7  # in both formats, levels 3 and 2

# EPT (SDM vol. 3, tables 28-1 to 28-6)
EPT_A, EPT_D, EPT_IGNORE_PAT = 1 << 8, 1 << 9, 1 << 6
# NPT (APM vol. 2, 5.4)
P, RW, US, A, D, G, NX, PAT_LARGE = 1, 2, 4, 1 << 5, 1 << 6, 1 << 8, 1 << 63, 1 << 12


def size(level):
    return 1 << 12 + 9 * (level - 1)


def index(gpa, level):
    return gpa >> 12 + 9 * (level - 1) & 511


@dataclass(frozen=True)
class Cpu:
    """What a CPU's nested paging can do. A CPU with NPT always keeps A and D."""

    format: str = "ept"
    page_2m: bool = True
    page_1g: bool = True
    ad: bool = True
    exec_only: bool = True
    bits: int = 40

    def has(self, level):
        return (True, self.page_2m, self.page_1g)[level - 1]

    def can(self, rights):
        """Can a present entry say this?"""
        return bool(rights & R) or (rights == X and self.format == "ept" and self.exec_only)

    @property
    def caps(self):
        names = (("2m", self.page_2m), ("1g", self.page_1g), ("ad", self.ad), ("x", self.exec_only))
        return ",".join(name for name, on in names if on) or "-"


@dataclass
class Entry:
    kind: str  # "absent", "table", "page", "invalid"
    rights: int = 0
    type: int = WB
    a: bool = False
    d: bool = False
    ma: int = 0
    why: str = ""  # of an invalid one: the rule

    def __str__(self):
        if self.kind in ("absent", "invalid"):
            return self.kind
        return "%s %s %s %s %#x" % (self.kind, rights_text(self.rights), TYPES[self.type], ad_text(self.a, self.d), self.ma)


def rights_text(rights):
    return "".join(c if rights & bit else "-" for c, bit in (("r", R), ("w", W), ("x", X)))


def ad_text(a, d):
    return ("a" if a else "-") + ("d" if d else "-")


def _first(rules):
    return next((why for broken, why in rules if broken), "")


def _bits(entry, high, low):
    return entry >> low & (1 << high - low + 1) - 1


def _decode_ept(cpu, entry, level):
    rights = entry & 7
    if not rights:
        return Entry("absent")
    page = level == 1 or level < 4 and bool(entry & LARGE)
    kind = entry >> 3 & 7
    why = _first((
        (rights & (R | W) == W, "W without R (SDM vol. 3, 28.3.3.1)"),
        (rights == X and not cpu.exec_only, "X without R, and this CPU has no execute-only (SDM vol. 3, 28.3.3.1)"),
        (cpu.bits < 52 and _bits(entry, 51, cpu.bits),
         "an address bit from %d up is set: machine addresses have %d bits (SDM vol. 3, 28.3.3.1)" % (cpu.bits, cpu.bits)),
        (level == 4 and _bits(entry, 7, 3), "bits 7:3 are reserved at level 4 (SDM vol. 3, table 28-1)"),
        (level in (2, 3) and not page and _bits(entry, 6, 3), "bits 6:3 are reserved in what leads to a table (SDM vol. 3, 28.3.2)"),
        (page and not cpu.has(level), "this CPU has no pages of that size (SDM vol. 3, A.10)"),
        (page and level > 1 and _bits(entry, 11 + 9 * (level - 1), 12),
         "bits %d:12 are reserved in a page of that size (SDM vol. 3, 28.3.2)" % (11 + 9 * (level - 1))),
        (page and kind not in TYPES, "there is no memory type %d (SDM vol. 3, 28.3.3.1)" % kind),
    ))
    if why:
        return Entry("invalid", why=why)
    a, d = cpu.ad and bool(entry & EPT_A), cpu.ad and bool(entry & EPT_D)
    return Entry("page", rights, kind, a, d, entry & ADDRESS) if page else Entry("table", rights, a=a, ma=entry & ADDRESS)


def _decode_npt(cpu, entry, level):
    if not entry & P:
        return Entry("absent")
    page = level == 1 or level < 4 and bool(entry & LARGE)
    why = _first((
        (cpu.bits < 52 and _bits(entry, 51, cpu.bits),
         "an address bit from %d up is set: machine addresses have %d bits (APM vol. 2, 5.3)" % (cpu.bits, cpu.bits)),
        (level == 4 and entry & (LARGE | G), "bits 8:7 must be zero at level 4 (APM vol. 2, figure 5-20)"),
        (level == 3 and not page and entry & G, "bit 8 must be zero in what leads to a table at level 3 (APM vol. 2, figure 5-21)"),
        (page and not cpu.has(level), "this CPU has no pages of that size (APM vol. 2, 5.3)"),
        (page and level > 1 and _bits(entry & ~PAT_LARGE, 11 + 9 * (level - 1), 12),
         "bits %d:13 must be zero in a page of that size (APM vol. 2, 5.3)" % (11 + 9 * (level - 1))),
    ))
    if why:
        return Entry("invalid", why=why)
    rights = 0
    if entry & US:  # who is not allowed as a user is not allowed at all (APM vol. 2, 15.25.5)
        rights = R | (W if entry & RW else 0) | (0 if entry & NX else X)
    ma = entry & ADDRESS & -(size(level) if page else 4096)
    return Entry("page" if page else "table", rights, WB, bool(entry & A), page and bool(entry & D), ma)


def decode(cpu, entry, level):
    """What the entry says at that level."""
    return (_decode_ept if cpu.format == "ept" else _decode_npt)(cpu, entry, level)


def encode(cpu, entry, level):
    """Bits that say this."""
    if entry.kind == "absent":
        return 0
    page = entry.kind == "page"
    raw = entry.ma | (LARGE if page and level > 1 else 0)
    if cpu.format == "ept":
        raw |= entry.rights | (EPT_A if entry.a else 0) | (EPT_D if page and entry.d else 0)
        return raw | (entry.type << 3 if page else 0)
    raw |= P | US | (RW if entry.rights & W else 0) | (0 if entry.rights & X else NX)
    return raw | (A if entry.a else 0) | (D if page and entry.d else 0)


@dataclass
class Walk:
    end: str = ""  # "ok", "absent", "forbidden", "invalid"
    level: int = 0
    rights: int = 0  # over all levels; 0 when the walk did not come to a page
    ma: int = 0
    why: str = ""
    path: list = field(default_factory=list)  # (level, ma of the entry, what it holds)


def walk(cpu, read, root, gpa, access):
    """As the CPU does. read(ma) gives a table's entry; None where no table is."""
    found, table, rights = Walk(), root, R | W | X
    for level in (4, 3, 2, 1):
        place = table + 8 * index(gpa, level)
        raw = read(place)
        if raw is None:
            found.end, found.why = "invalid", "%#x is no table of the pool" % table
            return found
        found.level = level
        found.path.append((level, place, raw))
        entry = decode(cpu, raw, level)
        if entry.kind in ("absent", "invalid"):
            found.end, found.why = entry.kind, entry.why
            return found
        rights &= entry.rights
        if entry.kind == "page":
            found.rights = rights
            found.ma = entry.ma | gpa & size(level) - 1
            found.end = "forbidden" if access & ~rights else "ok"
            return found
        table = entry.ma
    raise AssertionError("the entry of level 1 is a page's")
