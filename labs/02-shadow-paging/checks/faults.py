"""Checkpoints 2.6 to 2.11: what becomes of a page fault of the machine."""

from accesses import (A, D, MASK64, NX, PF_I, PF_P, PF_RSVD, PF_U, PF_W, VEC_PF, Numbers, P, U, W, faulted, page_faults, said,
                      said_by_traps, seed_params, unclaimed, went)
from checks import first, reported
from model import VEC_GP, Checkpoint, Failure, Run

VTLB = ("--shadow", "vtlb", "--stats", "json")

# --- 2.6 ------------------------------------------------------------------------------------------------------------------

PLACES, PAGES, TWICE, CODES = 12, 4, 8, 4
COUNT = PLACES * PAGES


def fill_verify(results, params):
    r, (seed, code, *_) = results["fill"], params["fill"]
    numbers = Numbers(seed)
    for _ in range(PLACES // 2):
        numbers.gva()
    loaded = [numbers.u64() for _ in range(COUNT - TWICE)]
    loaded += loaded[:TWICE]  # the frames that are mapped twice
    stored = [numbers.u64() for _ in range(COUNT)]
    wrong = ("Each 4 KiB page must lead to the guest's own frame for it. Addresses that differ in their highest index only, or that share "
             "a page table, must not be mixed up.")
    found = [went(r, "load%x" % i, v, hint=wrong) for i, v in enumerate(loaded)]
    found += [went(r, "store%x" % i, v, hint=wrong) for i, v in enumerate(stored)]
    found += [went(r, "call%x" % i, code + i, hint=wrong) for i in range(CODES)]
    # Each mapped page costs one for its first load and one for its first store; the frames behind them, the tables and the guest's image
    # are touched where the loader mapped them.
    most = 2 * COUNT + 2 * (COUNT - TWICE) + 3 * PLACES + 30
    return first(*found, said(r, "sum0", sum(stored) * 6 & MASK64), said_by_traps(r), page_faults(
        r, COUNT, most, "the guest touches each page often, but only the first load and the first store need the shadow to be filled",
        "What was filled in must stay: an entry that is already right must not be made again, and no other may get lost when one is set."))


# --- 2.7 ------------------------------------------------------------------------------------------------------------------

READ, WRITE, FETCH, USER = 0, 1, 2, 4
KIND = {READ: 0, WRITE: PF_W, FETCH: PF_I}  # bits of the error code; I is told because NXE is on
CODE_WORD = 0xB8 | 0xC3 << 40  # put_code() of paging.h, with the number from bit 8 on

FAULT_HINT = ("Error code: bit 0 (P) there was a translation and it forbids this, bit 1 (W) a write, bit 2 (U) at CPL 3, bit 3 (RSVD) a "
              "reserved bit was set, bit 4 (I) an instruction fetch (SDM vol. 3, 4.7). CR2 is the address that was accessed. The handler "
              "puts the entry right and the same instruction must then succeed, although nothing was flushed.")


def faults_params(rng):
    return seed_params(rng) + [rng.randrange(1 << 47) & ~7]


def faults_verify(results, params):
    r, (seed, number, other, *_) = results["faults"], params["faults"]
    numbers = Numbers(seed)
    found = []

    def expect(tag, kind, error):
        gva = numbers.gva() + 8 * (numbers.u64() % 500)
        value = CODE_WORD | number << 8 if kind == READ else number
        found.append(faulted(r, tag, error, gva, value, hint=FAULT_HINT))
        if kind == WRITE:
            found.append(said(r, tag + ".stored", number, hint="The store itself must reach memory in the end."))
        return gva

    gva = 0
    for level in (4, 3, 2, 1):
        for kind in (READ, WRITE, FETCH):
            expect("absent%x" % (level << 4 | kind), kind, KIND[kind])
        expect("nothing%x" % level, WRITE, PF_W)
        expect("readonly%x" % level, WRITE, PF_P | PF_W)
        expect("nx%x" % level, FETCH, PF_P | PF_I)
        for kind in (READ, WRITE, FETCH):
            gva = expect("reserved%x" % (level << 4 | kind), kind, PF_P | PF_RSVD | KIND[kind])
    for kind in (READ, WRITE):
        hint = "An address that is not canonical is a general protection fault with error code 0, and CR2 keeps what it had."
        found += [faulted(r, "canonical%x" % kind, 0, None, vector=VEC_GP, hint=hint), said(r, "canonical%x.left" % kind, gva, hint=hint)]
    for kind in (READ, WRITE):
        gva = (numbers.gva() & ~0x1000) + 0x1000
        hint = ("The access lies on two pages. CR2 is the first address that cannot be reached: the second page's. Nothing was "
                "stored before.")
        found += [faulted(r, "two%x" % kind, KIND[kind], gva, number >> 32 if kind == READ else MASK64, hint=hint),
                  said(r, "two%x.stored" % kind, number | MASK64 << 32 & MASK64 if kind == WRITE else number, hint=hint)]
    return first(*found, said_by_traps(r), indirect_verify(results["indirect"], params["indirect"]))


LENGTH = 64


def indirect_params(rng):
    return seed_params(rng) + [rng.randrange(0x1000, 0x7000, 64)]


def indirect_verify(r, params):
    seed, _, port, *_ = params
    numbers = Numbers(seed)

    def half():
        return (numbers.gva() & ~0x1000) + 0x1000

    strings = ("The elements in front of the absent page are done, the registers say so, and what a device gave is not lost: "
               "nothing is read "
               "from a port before it can be stored.")
    found = [said(r, "outs0", 0x123456789, hint=strings),
             faulted(r, "outs.fault0", 0, half(), hint=strings), said(r, "outs.fault0.rcx", 8), said(r, "outs.fault0.rsi", 4096),
             faulted(r, "ins0", PF_P | PF_W, half(), hint=strings), said(r, "ins0.rcx", LENGTH - 8), said(r, "ins0.rdi", 4096),
             said(r, "ins0.first", MASK64), said(r, "ins0.last", MASK64), said(r, "ins0.behind", 0), unclaimed(r, "port", port, LENGTH, 0)]
    gdt, operand = half(), half()
    found += [faulted(r, "lgdt0", 0, operand, hint=FAULT_HINT),
              faulted(r, "load0", 0, gdt, hint="The CPU reads descriptors itself; for the page fault that is the kernel reading.")]
    found += [faulted(r, "iretq%x" % part, 0, half(), hint="The frame that IRETQ reads lies on two pages, or on one that is absent.")
              for part in (0, 24)]
    gva = numbers.gva()
    found.append(faulted(r, "push0", PF_W, gva + 2052 - 12, faults=2, hint="The CPU pushes the frame of an exception itself, "
                                                                           "below RSP rounded "
                         "down to 16. That page fault comes first; the other exception comes when the instruction is tried again."))
    stack = numbers.gva()
    numbers.gva()
    double = "A page fault while a page fault is delivered is a double fault with error code 0. CR2 is the second one's (SDM vol. 3, 6.15)."
    found += [said(r, "double0." + field, value, hint=double) for field, value in (("vector", 8), ("error", 0), ("cr2", stack + 56))]
    gva = half() - 4096
    found.append(faulted(r, "gate0", 0, gva + 4096 - 8 * 16 + 6 * 16, faults=2, hint="The CPU reads the IDT itself, at the "
                                                                                     "kernel's level."))
    gva = half() - 4096
    numbers.gva()
    found += [said(r, "nogate0." + field, value, hint=double)
              for field, value in (("vector", 8), ("error", 0), ("cr2", gva + 4096 - 9 * 16 + VEC_PF * 16))]
    return first(*found, said_by_traps(r))


# --- 2.8 ------------------------------------------------------------------------------------------------------------------

PAIRS, TURNS = 4, 12

# The entry of the page, the access, the error code.
OWN_FAULTS = ((0, READ, 0), (0, WRITE, PF_W), (0, FETCH, PF_I), (P | U, WRITE, PF_P | PF_W), (P, WRITE, PF_P | PF_W),
              (P | W | U | NX, FETCH, PF_P | PF_I), (P | W | NX, FETCH, PF_P | PF_I), (P | W | U | 1 << 51, READ, PF_P | PF_RSVD))


def rings_verify(results, params):
    r, (seed, number, *_) = results["rings"], params["rings"]
    numbers = Numbers(seed)
    word = CODE_WORD | number << 8
    hint = ("A page belongs to programs only if U is set in the entries of all levels. To the kernel it makes no difference "
            "here, and what the "
            "kernel has used must not become visible to programs: both run at CPL 3 of the machine, so each needs tables of its own.")
    found = []
    for level in (4, 3, 2, 1):
        for kind in (READ, WRITE, FETCH):
            gva, key = numbers.gva(), "%x" % (level << 4 | kind)
            if kind == WRITE:
                found.append(went(r, "kernelfirst%x" % level, word, hint=hint))
            error = PF_P | PF_U | KIND[kind]
            found += [faulted(r, "program" + key, error, gva, number, hint=hint),
                      went(r, "kernel" + key, word if kind == READ else number, hint=hint),
                      faulted(r, "again" + key, error, gva, number, hint=hint)]
    for i, (_, kind, error) in enumerate(OWN_FAULTS):
        found.append(faulted(r, "own%x" % i, error | PF_U, numbers.gva(), word if kind == READ else number, hint=FAULT_HINT))
    found.append(faulted(r, "push0", PF_W, numbers.gva() + 256 - 8, None, rip=3, hint="The frame is pushed by the CPU "
                         "itself when a program's system call is delivered: for the page fault that is the kernel writing."))
    values, total = [], 0
    for _ in range(PAIRS):
        numbers.gva()
        values.append(numbers.u64())
    for turn in range(TURNS):
        for i in range(PAIRS):
            total += values[i]
            values[i] += turn
            total += values[i]
    found.append(said(r, "turns0", total & MASK64))
    # Programs: code, stack; for each pair a read and a first write, twice; the rest as counted in 2.6.
    most = 12 * 6 + 2 * len(OWN_FAULTS) + 4 * PAIRS + 3 * (12 + 8 + PAIRS) + 12 * 2 + 40
    return first(*found, said_by_traps(r), page_faults(
        r, 12 * 3, most, "kernel and programs take turns at pages that both have touched before",
        "Going from one root to the other must throw nothing away: each keeps what was filled in."))


# --- 2.9 ------------------------------------------------------------------------------------------------------------------

WP, SMEP, SMAP, AC = 1, 2, 4, 8
MODES = 16
NAMES = {READ: "read", WRITE: "write", FETCH: "fetch"}
PAGES_OF_MODES = (("writable program's page", True, True), ("read-only program's page", True, False),
                  ("read-only kernel's page", False, False))

# What is tried in each mode: the first in the lowest 5 bits of what the guest says.
TRIED = [(page, kind, False) for page in range(3) for kind in (READ, WRITE, FETCH)] + [(0, FETCH, True), (1, WRITE, True), (1, READ, True)]


def modes_params(popf):
    return lambda rng: seed_params(rng) + [popf, rng.getrandbits(6)]


def mode_error(mode, page, kind, program):
    """The page fault's error code; 0 if there is none. All pages are present."""
    _, user, writable = PAGES_OF_MODES[page]
    if program:
        refused = not user or (kind == WRITE and not writable)
    else:
        refused = kind == WRITE and not writable and mode & WP
        if user and kind == FETCH:
            refused = mode & SMEP
        elif user and mode & SMAP and not mode & AC:
            refused = True
    return PF_P | KIND[kind] | (PF_U if program else 0) if refused else 0


def mode_verify(r, mode, hint):
    seen = r.lines.get("mode%x" % mode, [])
    if len(seen) != 1:
        return Failure("a line mode%x=..." % mode, "%d such lines" % len(seen), hint, r.name)
    for i, (page, kind, program) in enumerate(TRIED):
        error, wanted = seen[0] >> 5 * i & 31, mode_error(mode, page, kind, program)
        if error != wanted:
            outcome = ["a page fault with error code %#x" % e if e else "no page fault" for e in (wanted, error)]
            where = "with WP=%d SMEP=%d SMAP=%d AC=%d a %s by the %s of a %s: " % (
                mode & 1, mode >> 1 & 1, mode >> 2 & 1, mode >> 3, NAMES[kind], "program" if program else "kernel", PAGES_OF_MODES[page][0])
            return Failure(where + outcome[0], where + outcome[1], hint, r.name)
    return None


def modes_verify(results, params):
    found = []
    for name, r in results.items():
        seed = params[name][0]
        can = r.lines.get("can0", [0])[0]
        numbers = Numbers(seed)
        for _ in range(3):
            numbers.gva()
        order = []
        for i in range(MODES):
            j = numbers.u64() % (i + 1)
            order.append(0)
            order[i] = order[j]
            order[j] = i
        hint = ("The mode is the guest's CR0.WP, CR4.SMEP, CR4.SMAP and RFLAGS.AC at the moment of the access, and concerns "
                "the kernel only. "
                "What one mode allows must not be there in another (SDM vol. 3, 4.6).")
        last = [0, 0, 0]
        for i, mode in enumerate(order):
            if mode & ~can:
                continue
            found.append(mode_verify(r, mode, hint))
            for page, kind, program in TRIED:
                if kind == WRITE and not mode_error(mode, page, kind, program):
                    last[page] = i + 1
        found += [said(r, "page%x" % page, value, hint="A store that is allowed reaches memory, one that is refused does not.")
                  for page, value in enumerate(last)]
        if can & SMAP:
            found.append(faulted(r, "push0", PF_P | PF_W, numbers.gva() + 256 - 8, 0, rip=3, hint="To the CPU's own accesses SMAP applies "
                                 "whatever AC is."))
        found.append(said_by_traps(r))
    return first(*found)


# --- 2.10 -----------------------------------------------------------------------------------------------------------------

MANY = 16


def marks_verify(results, params):
    r, (_, number, *_) = results["marks"], params["marks"]
    hint = ("For each level, from 4 to 1, a digit: 1 is the accessed bit, 2 the dirty bit. A is set in every entry that an "
            "access used, D only "
            "in the last one and only by a write that succeeds. A page that was only read so far must not be writable in the "
            "shadow, or its "
            "first write is never seen (SDM vol. 3, 4.8).")
    read_write, written = [0, 0x1111, 0x1113, 0x1113], [0, 0x1113, 0x1113, 0x1113]
    wanted = {"rw0": read_write, "wr0": written, "fw0": read_write, "urw0": read_write, "kruw0": read_write, "urkw0": read_write,
              "uwkr0": written, "readonly1": 0, "userro1": 0, "kernels1": 0, "one0": [0x1113, 0x1113], "other0": [0x1111, 0x1113],
              "large0": [0x1110, 0x1130, 0x1130], "largeat0": [number, number], "many0": MANY * 0x1113}
    # For each page of `many` a fault by the first load; where D is clear a second one by the first store.
    most = 7 * 3 + 3 * 3 + 6 + 6 + 2 * MANY + 3 * 13 + 70
    return first(*(reported(r, key, values, hint) for key, values in wanted.items()), said_by_traps(r), page_faults(
        r, MANY + MANY // 2, most, "each page costs one for the first access and at most one more for the first write",
        "When D is set and the guest may write, the shadow may let it write: then nothing is left to be seen."))


# --- 2.11 -----------------------------------------------------------------------------------------------------------------

STRIDE, LARGE = 16, 2 << 20
SF, ZF, CF = 0x80, 0x40, 1
ONES32 = (1 << 32) - 1


def operations(n):
    """What mmio.c does with RAX = n: loads and stores that a device sees, RAX and flags (of SF, ZF, CF) behind it."""
    loads = [MASK64, ONES32, n & ~0xFFFF | 0xFFFF, n & ~0xFF | 0xFF, 0xFF, MASK64]  # mov by width, movzx, movsx
    return ([(1, 0, rax, ZF) for rax in loads] + [(0, 1, n, ZF)] * 5 + [
        (1, 1, n, CF), (1, 1, n, SF), (1, 1, n, SF), (1, 1, n, ZF), (1, 1, n, CF), (1, 1, n, ZF),  # add or xor inc neg not
        (1, 1, ONES32, ZF), (1, 1, MASK64, CF), (1, 1, ONES32, CF), (1, 1, n, ZF | CF),  # xchg xadd cmpxchg bts
        (1, 0, n, 0), (1, 0, n, ZF), (1, 0, n, 0), (0, 1, n, ZF), (1, 0, MASK64, ZF), (0, 1, n, ZF)])  # test cmp and stosb push pop


def mmio_params(rng):
    page = rng.randrange(0x80000, 0x90000)
    return [rng.getrandbits(64), rng.randrange(2, 1 << 30), page << 12, rng.randrange(0x500, 0x580) << 21, 1]


def mmio_found(r, params, tables):
    """What is wrong with what mmio.c reports, on any engine, and how many accesses there were at least. tables: the page tables that
    must not lead to devices."""
    seed, n, device, large, *_ = params
    numbers = Numbers(seed)
    numbers.gva(), numbers.gva(), numbers.gva()
    inside = numbers.u64() % 0x1FF000 & ~7
    hint = ("Where there is no memory nothing may be put into %s: every access must be carried out by hv, and reach "
            "the bus with its own "
            "address and width. Loads there read ones." % tables)
    found, accesses = [], 4
    for name, base, step in (("small", device, 1), ("large", large + inside, 5)):
        for i, (reads, writes, rax, flags) in list(enumerate(operations(n)))[::step]:
            key = "%s%x" % (name, i)
            found += [said(r, key, rax, hint=hint), said(r, key + ".flags", flags, hint=hint),
                      unclaimed(r, "address", base + STRIDE * i, reads, writes)]
            accesses += 1
    found += [went(r, "program0", MASK64, hint=hint), went(r, "program1", n, hint=hint),
              unclaimed(r, "address", large + LARGE - 2048, 1, 0), unclaimed(r, "address", large + LARGE - 2040, 0, 1),
              said(r, "marks0", (A | D) * 0x101, hint="Entries that lead to devices have accessed and dirty bits too."),
              went(r, "both0", n | ONES32 << 32, hint="Half of this access is memory, the other half is not."),
              went(r, "both1", ~n & MASK64),
              reported(r, "both0.memory", n << 32 & MASK64), reported(r, "both1.memory", (~n & ONES32) << 32),
              unclaimed(r, "address", device + 4096, 1, 1)]
    gva = numbers.gva()
    found += [faulted(r, "forbidden1", PF_P | PF_W, gva, hint=FAULT_HINT), faulted(r, "forbidden4", PF_P | PF_U, gva, hint=FAULT_HINT),
              faulted(r, "table0", PF_P | PF_RSVD, numbers.gva(), hint="A page table where there is no memory reads as ones, and so has "
                      "reserved bits set.")]
    return found, accesses


def mmio_verify(results, params):
    r = results["mmio"]
    found, accesses = mmio_found(r, params["mmio"], "the shadow")
    return first(*found, said_by_traps(r), page_faults(r, accesses, 1000, "one for each access to a device",
                                                       "Every access to a device must be carried out by hv."))


CHECKPOINTS = [
    Checkpoint(
        "2.6", "hidden faults: the shadow is filled", 5,
        "A page fault of the machine that the guest's tables do not explain is hidden from the guest: the shadow gets the entry that it "
        "lacked, and the guest repeats the instruction. (--shadow=vtlb, 4 KiB pages, one fault for each page.)",
        "shadow_fault(), shadow_fill(), shadow_child() and shadow_rights() in fill.c. `hv run --trace exits --shadow vtlb` says what "
        "became of each fault.",
        runs=[Run("fill", "lab2/fill.elf", VTLB, seed_params)], verify=fill_verify, depends=["2.5"]),
    Checkpoint(
        "2.7", "true faults: error code and CR2", 6,
        "An access that the guest's own tables forbid is the guest's page fault: error code, CR2 and return address as its CPU would give "
        "them, whether the access was the program's, part of an instruction that hv carries out, or the CPU's own while it delivers an "
        "exception.",
        FAULT_HINT,
        runs=[Run("faults", "lab2/faults.elf", VTLB, faults_params), Run("indirect", "lab2/indirect.elf", VTLB, indirect_params)],
        verify=faults_verify, depends=["2.6"]),
    Checkpoint(
        "2.8", "two roots: ring compression", 6,
        "A program (CPL 3 as the guest sees it) has only the pages whose entries have U at all levels; its faults say so. The "
        "kernel's pages "
        "never show in the program's shadow, and changing between the two is free.",
        "shadow_mode_role() and shadow_rights() in fill.c; shadow_root() in flush.c finds the root for the role.",
        runs=[Run("rings", "lab2/rings.elf", VTLB, seed_params)], verify=rings_verify, depends=["2.7"]),
    Checkpoint(
        "2.9", "CR0.WP, SMEP and SMAP through the shadow", 6,
        "With WP off the guest's kernel writes to read-only pages, programs do not. With SMEP it cannot execute programs' pages, with SMAP "
        "not touch them unless AC is set. All of this changes from one access to the next.",
        "The role of a shadow page says for which mode it is (spt.h): shadow_mode_role() and shadow_rights() in fill.c.",
        runs=[Run("modes", "lab2/modes.elf", VTLB, modes_params(0)),
              Run("popf", "lab2/modes.elf", VTLB + ("--patch", "on"), modes_params(1))],
        verify=modes_verify, depends=["2.8"]),
    Checkpoint(
        "2.10", "accessed and dirty bits through the shadow", 5,
        "The guest finds the accessed and dirty bits in its entries as its CPU would have set them, wherever its tables lie "
        "and however they "
        "are mapped.",
        "What walk_mark() sets comes too late for a store that the machine carried out alone: when may a leaf have W? shadow_rights().",
        runs=[Run("marks", "lab2/marks.elf", VTLB, seed_params)], verify=marks_verify, depends=["2.8"]),
    Checkpoint(
        "2.11", "devices, and addresses without memory", 4,
        "An access to an address that is not memory is carried out by hv and goes to the bus, through mappings of any size, "
        "for the kernel and "
        "for programs, for instructions that read and write, and for those that lie half in memory.",
        "shadow_fault() in fill.c can answer in more ways than two: see enum fault_action in lab2.h.",
        runs=[Run("mmio", "lab2/mmio.elf", VTLB, mmio_params)], verify=mmio_verify, depends=["2.8"]),
]
