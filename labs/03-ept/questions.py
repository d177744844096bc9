"""Lab 3's questions with numbers for answers. Each function draws its numbers and returns (question, answer)."""

PAGE = 4096
SIZES = {1: "4 KiB", 2: "2 MiB", 3: "1 GiB"}
LEVEL_NAMES = {4: "the root (level 4)", 3: "a table of level 3", 2: "a table of level 2", 1: "a table of level 1"}
R, W, X = 1, 2, 4
ADDRESS = 0x000ffffffffff000


def size_of(level):
    return PAGE << 9 * (level - 1)


def index(gpa, level):
    return gpa >> 12 + 9 * (level - 1) & 511


def rights_text(rights):
    return "".join(letter if rights & bit else "-" for letter, bit in (("r", R), ("w", W), ("x", X)))


def references(guest, nested):
    """Memory references of a walk that reads so many entries of the guest's, each found by so many nested ones, as the page is."""
    return guest * (nested + 1) + nested


def tables_for(pages, level):
    """How many nested tables map these pages (gpa / size) of one level."""
    return sum(len({page >> 9 * (above - level + 1) for page in pages}) for above in range(level, 4)) + 1


def cost_of_a_walk(rng):
    guest, nested = rng.choice([(g, n) for g in (1, 2, 3) for n in (1, 2, 3) if (g, n) != (1, 1)])
    return (f"A guest with four levels of tables has mapped an address with a page of {SIZES[guest]}. All its memory, tables "
            f"included, is mapped by nested pages of {SIZES[nested]}, also with four levels. No cache and no TLB helps. How "
            f"many references to memory does the CPU make to translate the address, the access to the data not "
            f"counted?", references(5 - guest, 5 - nested))


def cost_with_other_depths(rng):
    guest, nested = rng.choice((0, 2, 5)), rng.choice((4, 5))
    mode = {0: "is in real mode, without paging", 2: "uses 32-bit paging: two levels, pages of 4 KiB",
            5: "uses five levels and pages of 4 KiB"}
    return (f"A guest {mode[guest]}; the nested tables have {nested} levels and pages of 4 KiB. How many references does a "
            f"translation take when no cache and no TLB helps, the data not counted?", references(guest, nested))


def cost_with_a_nested_tlb(rng):
    guest, nested = rng.choice((1, 2)), rng.choice((1, 2))
    return (f"Four levels in both dimensions; the guest's page is one of {SIZES[guest]}, the nested pages are of "
            f"{SIZES[nested]}. The CPU remembers the nested translations of all pages that hold the guest's tables, and "
            f"nothing else. How many references are left, the data not counted?", 5 - guest + 5 - nested)


def table_memory(rng):
    mib = rng.randrange(3, 4000)
    first = range(0, mib * 256, 512)  # a page of each table is enough
    return (f"A guest has {mib} MiB of memory from gpa 0 and has touched all of it. The nested tables have four levels and "
            f"pages of 4 KiB. How many KiB do the tables take?", 4 * tables_for(first, 1))


def table_memory_large(rng):
    gib = rng.randrange(2, 60)
    mib = gib * 1024 + 2 * rng.randrange(1, 512)
    return (f"The same for a guest of {mib} MiB and pages of 2 MiB.", 4 * tables_for(range(0, mib // 2, 512), 2))


def table_memory_spread(rng):
    count, level = rng.randrange(5, 30), rng.choice((1, 2))
    gap = rng.choice((1, 3, 5)) << 30
    first = rng.randrange(1, 4) << 30
    pages = {(first + i * gap) // size_of(level) for i in range(count)}
    return (f"A guest has touched {count} bytes: the first at gpa {first:#x}, each further one {gap:#x} behind. They were "
            f"mapped on demand by pages of {SIZES[level]}. How many nested tables are in use, the root "
            f"included?", tables_for(pages, level))


def ept_entry(rng):
    level = rng.choice((1, 2, 3))
    rights = rng.choice((R, R | W, R | X, R | W | X))
    kind = rng.choice((("write-back", 6), ("uncacheable", 0), ("write-combining", 1)))
    ma, dirty = rng.randrange(1, 1 << 38 - 12 - 9 * (level - 1)) * size_of(level), rng.random() < 0.5
    bits = rights | kind[1] << 3 | (0x80 if level > 1 else 0) | 0x100 | (0x200 if dirty else 0)
    return (f"Which EPT entry maps a page of {SIZES[level]} at ma {ma:#x} with the rights {rights_text(rights)}, memory type "
            f"{kind[0]}, accessed and {'dirty' if dirty else 'not dirty'}, all other bits 0? (hexadecimal with 0x)", ma | bits)


def npt_entry(rng):
    level = rng.choice((1, 2, 3))
    rights = rng.choice((R, R | W, R | X, R | W | X))
    ma, dirty = rng.randrange(1, 1 << 38 - 12 - 9 * (level - 1)) * size_of(level), rng.random() < 0.5
    bits = 5 | rights & W | (0 if rights & X else 1 << 63) | 0x20 | (0x40 if dirty else 0) | (0x80 if level > 1 else 0)
    return (f"Which NPT entry maps a page of {SIZES[level]} at ma {ma:#x} with the rights {rights_text(rights)}, accessed and "
            f"{'dirty' if dirty else 'not dirty'}, all other bits 0? (hexadecimal with 0x)", ma | bits)


def ept_translation(rng):
    level = rng.choice((2, 3))
    gpa, ma = rng.randrange(1 << 38), rng.randrange(1, 64) * size_of(level)
    return (f"A walk for gpa {gpa:#x} finds the EPT entry {ma | 0xb7:#x} in {LEVEL_NAMES[level]}. To which ma does the gpa "
            f"lead? (hexadecimal with 0x)", ma | gpa & size_of(level) - 1)


def next_entry(rng):
    level = rng.choice((2, 3, 4))
    gpa, table = rng.randrange(1 << 46), rng.randrange(0x200, 0x400) * PAGE
    return (f"A walk for gpa {gpa:#x} finds the EPT entry {table | 0x107:#x} in {LEVEL_NAMES[level]}. At which ma lies the "
            f"entry that the CPU reads next? (hexadecimal with 0x)", table + 8 * index(gpa, level - 1))


def rights_of_a_chain(rng):
    ept = rng.random() < 0.5
    chain = [rng.choice((R | W | X, R | W | X, R | W, R | X, R)) for _ in range(4)]
    allowed = R | W | X
    entries = []
    for level, rights in zip((4, 3, 2, 1), chain):
        allowed &= rights
        ma = rng.randrange(0x200, 0x400) * PAGE
        if ept:
            entries.append(ma | rights | (0x30 if level == 1 else 0))
        else:
            entries.append(ma | 5 | rights & W | (0 if rights & X else 1 << 63))
    return (f"A walk reads these {'EPT' if ept else 'NPT'} entries, from level 4 to level 1: "
            f"{', '.join(f'{e:#x}' for e in entries)}. What may the guest do with the page? (the sum of 1 for reading, 2 for "
            f"writing, 4 for executing)", allowed)


def misconfigured(entry, level, exec_only):
    """As SDM vol. 3, 28.3.3.1, for an entry without address bits; False also for one that is absent."""
    rights, kind = entry & 7, entry >> 3 & 7
    if not rights:
        return False
    if rights & W and not rights & R or rights == X and not exec_only:
        return True
    if level == 4:
        return bool(entry & 0xf8)
    return kind in (2, 3, 7) if level == 1 or entry & 0x80 else bool(entry & 0x78)


def misconfigurations(rng):
    level, exec_only = rng.choice((1, 2, 4)), rng.random() < 0.5
    entries = [rng.choice((0x200000, 0x40000000)) | rng.choice((0, 0, 0, 0x80)) | rng.choice((0, 0, 1, 2, 3, 6, 6, 7)) << 3 |
               rng.randrange(8) for _ in range(8)]
    return (f"An EPT walk finds one of these entries in {LEVEL_NAMES[level]}: {', '.join(f'{e:#x}' for e in entries)}. The CPU "
            f"{'knows' if exec_only else 'does not know'} execute-only pages. How many of the eight are misconfigurations?",
            sum(misconfigured(e, level, exec_only) for e in entries))


def reserved_bits(rng):
    level, width = rng.choice((2, 3)), rng.randrange(36, 49)
    return (f"Machine addresses have {width} bits. Which of the bits 51 to 12 are reserved in an EPT entry that maps "
            f"{SIZES[level]}? Give them as one number in which these bits are 1. (hexadecimal with "
            f"0x)", ADDRESS & ~((1 << width) - 1) | size_of(level) - 1 & ADDRESS)


def ept_pointer(rng):
    root, marks = rng.randrange(0x200, 0x400) * PAGE, rng.random() < 0.5
    return (f"The EPT tables, of four levels, begin at ma {root:#x}; the CPU is to read them as write-back memory and "
            f"{'to keep' if marks else 'not to keep'} accessed and dirty bits. What is the EPT pointer? (hexadecimal with 0x)",
            root | 6 | 3 << 3 | (1 << 6 if marks else 0))


def qualification(rng):
    rights = rng.choice((0, R, R | X, R | W))
    if rng.random() < 0.3:
        rights = 0 if rights == R | W else rights
        marks = rights == R or rng.random() < 0.5
        rights = rights if marks else 0
        return (f"EPT's accessed and dirty bits are {'on' if marks else 'off'}. The CPU walks the guest's tables to translate "
            f"an address, and the page that holds the guest's entry of level 2 has the rights {rights_text(rights)} in the "
            f"EPT tables. An EPT violation follows. What are bits 8 to 0 of its qualification? (bit 6 is 0 here; hexadecimal "
            f"with 0x)", (R | W if marks else R) | rights << 3 | 0x80)
    word, access = rng.choice([(w, a) for w, a in (("reads from", R), ("writes to", W), ("executes", X)) if not rights & a])
    return (f"A guest {word} an address whose page has the rights {rights_text(rights)} in the EPT tables; the guest's own "
            f"tables allow it, and their walk has gone well. What are bits 8 to 0 of the EPT violation's qualification? (bit "
            f"6 is 0 here; hexadecimal with 0x)",
            access | rights << 3 | 0x180)


def exitinfo(rng):
    if rng.random() < 0.3:
        present = rng.random() < 0.5
        how = "is mapped without W" if present else "is not mapped"
        return (f"The CPU walks a guest's tables, and the page that holds the guest's entry of level 3 {how} in the nested "
            f"tables. What is EXITINFO1 of the nested page fault? (hexadecimal with 0x)", 0x200000006 | present)
    access, bits, lacks = rng.choice((("writes to", 2, "W"), ("reads from", 0, None), ("executes", 16, "X")))
    present = lacks is not None and rng.random() < 0.6
    how = f"is mapped without {lacks}" if present else "is not mapped"
    return (f"The kernel of a guest, at CPL 0, {access} a page that {how} in the nested tables (NPT). The guest's own tables "
            f"allow it. What is EXITINFO1 of the nested page fault? (hexadecimal with 0x)", 0x100000004 | bits | present)


def violations_of_a_sequence(rng):
    level = rng.choice((1, 2))
    base = rng.sample(range(1, 24), 4)
    gpas = [rng.choice(base) * (2 << 20) + rng.choice((0, 0x10, 0xff8, 0x1000, 0x1ff000, 0x100000)) for _ in range(10)]
    return (f"A guest without paging of its own, with 64 MiB of memory, runs with --page-size {'4K' if level == 1 else '2M'}. "
            f"Only the page of its code, in the first 2 MiB, is mapped. It reads eight bytes at each of these gpa: "
            f"{', '.join(f'{g:#x}' for g in gpas)}. How many violations does that cost?",
            len({gpa // size_of(level) for gpa in gpas}))


def writes_under_the_log(rng):
    count, again = rng.randrange(20, 90), rng.randrange(3, 18)
    times = rng.randrange(2, 9)
    return (f"All of a guest's memory is mapped. The dirty log, by write protection, is started; the guest writes {times} "
            f"times to each of {count} pages of 4 KiB; the log is fetched; the guest writes {times} times to each of {again} "
            f"of the same pages; the log is fetched again. How many violations do these writes cost? (The guest uses no "
            f"paging.)", count + again)


def splits_of_the_log(rng):
    regions, each = rng.randrange(2, 30), rng.randrange(2, 60)
    return (f"A guest of 256 MiB is mapped by pages of 2 MiB. The dirty log is started, and the guest writes to {each} pages "
            f"of 4 KiB in each of {regions} of them. By how many KiB do the nested tables grow?", 4 * regions)


def working_set(rng):
    runs = rng.randrange(3, 25)
    pages = rng.randrange(1, 60)
    return (f"In each of {runs} regions of 2 MiB a guest uses {pages} pages of 4 KiB. All is mapped by 2 MiB, and hv reads "
            f"the accessed bits. By how many KiB does it take the guest's working set for larger than it "
            f"is?", runs * (2048 - 4 * pages))


def reach(rng):
    entries, guest, nested = rng.choice((512, 1024, 1536, 2048)), rng.choice((1, 2, 3)), rng.choice((1, 2))
    return (f"A TLB has {entries} entries, which may hold pages of any size. A guest maps its memory with pages of "
            f"{SIZES[guest]}, hv maps the guest's with pages of {SIZES[nested]}. How many KiB can the TLB "
            f"reach?", entries * size_of(min(guest, nested)) // 1024)


def io_bitmap(rng):
    port = rng.choice((0x20, 0x40, 0x43, 0x60, 0x70, 0xcf8, 0xcfc, rng.randrange(0x8000, 0x10000)))
    ma = rng.randrange(0x10, 0x80) * PAGE
    return (f"VMX's I/O bitmaps A and B lie one behind the other, from ma {ma:#x} on. A guest reads a byte from port "
            f"{port:#x}. At which ma lies the byte with the bit that decides whether it is left? (hexadecimal with "
            f"0x)", ma + port // 8)


def msr_bitmap(rng):
    name, msr = rng.choice((("EFER", 0xc0000080), ("LSTAR", 0xc0000082), ("KERNEL_GS_BASE", 0xc0000102), ("SYSENTER_EIP", 0x176),
                            ("APIC_BASE", 0x1b), ("PAT", 0x277)))
    svm, write = rng.random() < 0.5, rng.random() < 0.5
    word = "writing" if write else "reading"
    if svm:
        start = 0x800 if msr >> 31 else 0
        return (f"Which bit of SVM's MSR permission map decides about {word} MSR {msr:#x} ({name})? (its number, counted from "
            f"the map's first byte on: bit 0 of byte 1 is 8)", start * 8 + (msr & 0x1fff) * 2 + write)
    start = (0x400 if msr >> 31 else 0) + (0x800 if write else 0)
    return (f"Which bit of VMX's MSR bitmap decides about {word} MSR {msr:#x} ({name})? (its number, counted from the "
            f"bitmap's first byte on: bit 0 of byte 1 is 8)", start * 8 + (msr & 0x1fff))


def event(rng):
    kind = rng.choice(("interrupt", "nmi", "page fault", "protection fault"))
    if kind == "interrupt":
        vector = rng.randrange(32, 256)
        what, value = f"an external interrupt with vector {vector}", vector
    elif kind == "nmi":
        what, value = "an NMI", 2 << 8 | 2
    else:
        vector, error = (14, rng.choice((4, 6, 7, 0x15))) if kind == "page fault" else (13, 8 * rng.randrange(1, 64))
        what = f"a {kind} (#{'PF' if vector == 14 else 'GP'}) with error code {error:#x}"
        value = error << 32 | 1 << 11 | 3 << 8 | vector
    return (f"hv is to give its guest {what}. What does it write to EVENTINJ in the VMCB? (hexadecimal with "
            f"0x)", 1 << 31 | value)


def break_even(rng):
    misses, ns, us = rng.randrange(2, 30) * 100000, rng.choice((2, 3, 4, 5)), rng.choice((1, 2, 4))
    extra = misses * (24 - 4) * ns // 1000
    return (f"A guest misses the TLB {misses} times a second. A shadow has 4 references a miss, nested tables have 24; each "
            f"takes {ns} ns. An exit takes {us} us. How many exits a second does the shadow have to cost more than nested "
            f"tables before they are the faster way? (rounded down)", extra // us)


QUESTIONS = [cost_of_a_walk, cost_with_other_depths, cost_with_a_nested_tlb, table_memory, table_memory_large,
             table_memory_spread, ept_entry, npt_entry, ept_translation, next_entry, rights_of_a_chain, misconfigurations,
             reserved_bits, ept_pointer, qualification, exitinfo, violations_of_a_sequence, writes_under_the_log,
             splits_of_the_log, working_set, reach, io_bitmap, msr_bitmap, event, break_even]
