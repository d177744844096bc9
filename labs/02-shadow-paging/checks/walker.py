"""What an x86-64 CPU finds in 4-level page tables, written from the manual: Intel SDM vol. 3, 4.5 to 4.8.

It knows nothing of hv. Memory is a function, so that it serves any memory: one that was generated, or one that was read from a file.
"""

from dataclasses import dataclass, field

# Bits of an entry. (SDM vol. 3, tables 4-15 to 4-20)
P = 1 << 0
RW = 1 << 1
US = 1 << 2
A = 1 << 5
D = 1 << 6
PS = 1 << 7
G = 1 << 8
PAT_LARGE = 1 << 12  # in entries that map 2 MiB or 1 GiB: below the page's address, but not reserved
XD = 1 << 63
ADDRESS = 0x000FFFFFFFFFF000  # bits 51:12

CR0_WP = 1 << 16
CR4_PGE = 1 << 7
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
EFER_NXE = 1 << 11

# An access; without WRITE and FETCH it reads. SYSTEM: the CPU's own, to the GDT, IDT, LDT or TSS, at whatever CPL.
WRITE, FETCH, USER, SYSTEM = 1, 2, 4, 8

# The error code of a page fault. (SDM vol. 3, 4.7)
PF_P, PF_W, PF_U, PF_RSVD, PF_I = 1, 2, 4, 8, 16


@dataclass
class Cpu:
    """The registers that a translation depends on. Paging is on, with four levels."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    ac: bool  # RFLAGS.AC
    phys_bits: int  # MAXPHYADDR, CPUID 0x80000008


@dataclass
class Step:
    """One entry on the way."""

    level: int  # 4 = PML4, 3 = PDPT, 2 = page directory, 1 = page table
    gpa: int
    entry: int


@dataclass
class Outcome:
    gpa: int = None  # None: a page fault
    error: int = None  # its error code
    level: int = 0  # of the last entry that was read: it maps the page, or is to blame
    writable: bool = True  # over all entries that were read
    user: bool = True
    nx: bool = False
    global_: bool = False  # of the page, with CR4.PGE
    dirty: bool = False  # D of the page's entry, before the access
    path: list = field(default_factory=list)  # of Step, level 4 first
    marks: list = field(default_factory=list)  # (gpa of an entry, bits that the access sets there and that were 0); none if it faults


def index_at(level):
    """The lowest bit of an address's index into the tables of that level."""
    return 12 + 9 * (level - 1)


def reserved(cpu, level, entry):
    """Which bits must be 0 in this present entry. (SDM vol. 3, tables 4-15 to 4-20; 4.5.4)"""
    bits = ADDRESS & -(1 << cpu.phys_bits)
    if not cpu.efer & EFER_NXE:
        bits |= XD
    if level == 4:
        bits |= PS
    elif level in (2, 3) and entry & PS:
        bits |= ((1 << index_at(level)) - 1) & ADDRESS & ~PAT_LARGE
    return bits


def allowed(cpu, outcome, access):
    """May the access be done through this translation? (SDM vol. 3, 4.6.1)"""
    if access & USER and not access & SYSTEM:
        if not outcome.user:
            return False
        if access & WRITE and not outcome.writable:
            return False
        return not (access & FETCH and outcome.nx)
    if access & FETCH:
        if outcome.user and cpu.cr4 & CR4_SMEP:
            return False
        return not outcome.nx
    if outcome.user and cpu.cr4 & CR4_SMAP:
        # AC speaks for the program's own accesses, which are explicit; not for the CPU's.
        if access & SYSTEM or not cpu.ac:
            return False
    return not access & WRITE or outcome.writable or not cpu.cr0 & CR0_WP


def translate(read, cpu, gva, access):
    """Does one access. read(gpa) gives the 64-bit entry there, all ones where there is no memory. gva is canonical."""
    if (gva >> 47) not in (0, 0x1FFFF):
        raise ValueError("%#x is not canonical: it raises #GP or #SS and is never translated" % gva)
    outcome = Outcome(error=0)
    if access & WRITE:
        outcome.error |= PF_W
    if access & USER and not access & SYSTEM:
        outcome.error |= PF_U
    if access & FETCH and (cpu.efer & EFER_NXE or cpu.cr4 & CR4_SMEP):
        outcome.error |= PF_I

    table = cpu.cr3 & ADDRESS
    for level in (4, 3, 2, 1):
        gpa = table | (gva >> index_at(level) & 511) << 3
        entry = read(gpa)
        outcome.level = level
        outcome.path.append(Step(level, gpa, entry))
        if not entry & P:
            return outcome
        if entry & reserved(cpu, level, entry):
            outcome.error |= PF_P | PF_RSVD
            return outcome
        outcome.writable = outcome.writable and bool(entry & RW)
        outcome.user = outcome.user and bool(entry & US)
        outcome.nx = outcome.nx or bool(entry & XD)
        if level == 1 or (level < 4 and entry & PS):
            break
        table = entry & ADDRESS
    outcome.global_ = bool(entry & G and cpu.cr4 & CR4_PGE)
    outcome.dirty = bool(entry & D)
    if not allowed(cpu, outcome, access):
        outcome.error |= PF_P
        return outcome

    offset = (1 << index_at(level)) - 1
    outcome.gpa = entry & ADDRESS & ~offset | gva & offset
    outcome.error = None
    # A in every entry that was used, D in the one that maps the page (SDM vol. 3, 4.8). One entry may serve two levels, where a table
    # points to itself.
    for step in outcome.path:
        bits = A | (D if step.level == level and access & WRITE else 0)
        if bits & ~step.entry:
            outcome.marks.append((step.gpa, bits & ~step.entry))
    return outcome
