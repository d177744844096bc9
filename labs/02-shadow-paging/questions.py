"""Lab 2's questions with numbers for answers. Each function draws its numbers and returns (question, answer)."""

PAGE = 4096
ADDRESS = 0x000ffffffffff000
GUEST_MA = 4 << 20  # where the guest's memory begins in the machine
LEVEL_NAMES = {4: "root (level 4)", 3: "page-directory-pointer table (level 3)", 2: "page directory (level 2)", 1: "page table (level 1)"}


def index(gva, level):
    return gva >> 12 + 9 * (level - 1) & 511


def canonical(gva):
    gva &= (1 << 48) - 1
    return gva | 0xffff << 48 if gva >> 47 else gva


def tables_of(pages):
    """How many tables, on all four levels, lead to these pages (gva / 4096)."""
    return sum(len({page >> 9 * level for page in pages}) for level in range(1, 5))


def walk_slots(rng):
    gva, level = canonical(rng.getrandbits(48) & ~0xfff), rng.randrange(1, 5)
    return (f"Which entry of the {LEVEL_NAMES[level]} does address {gva:#x} use? (decimal, from 0)", index(gva, level))


def entry_place(rng):
    gva = canonical(rng.getrandbits(48))
    entry = rng.randrange(0x100, 0x4000) * PAGE | rng.choice((0x07, 0x27, 0x63, 0x67)) | rng.choice((0, 1 << 63))
    return (f"A walk for address {gva:#x} finds {entry:#018x} at level 2. At which gpa lies the entry that it reads next? (hexadecimal "
            f"with 0x)", (entry & ADDRESS) + index(gva, 1) * 8)


def large_page(rng):
    level = rng.choice((2, 3))
    size = 1 << 12 + 9 * (level - 1)
    gva, base = rng.randrange(1 << 47), rng.randrange(1, 64) * size
    return (f"A walk for address {gva:#x} finds {base | 0x10e3:#x} at level {level}. To which gpa does the address lead? "
            f"(hexadecimal with "
            f"0x; 0x1000 is the PAT bit)", base | gva & size - 1)


def reserved_bits(rng):
    level, width = rng.choice((2, 3)), rng.randrange(36, 49)
    size = 1 << 12 + 9 * (level - 1)
    return (f"Physical addresses have {width} bits. Which of the bits 51 to 12 are reserved in an entry that maps "
            f"{'2 MiB' if level == 2 else '1 GiB'}? Give them as one number in which these bits are 1. (hexadecimal with 0x)",
            (ADDRESS & ~((1 << width) - 1)) | (size - 1 & ADDRESS & ~0x1000))


def error_code(rng):
    user, nxe = rng.random() < 0.5, rng.random() < 0.5
    access, bit = rng.choice((("reads", 0), ("writes", 2), ("fetches an instruction from", 16 if nxe else 0)))
    what, present = "is not mapped: the entry at level 2 is not present", 0
    if access == "writes" and rng.random() < 0.7:
        what, present = "is mapped, with W set at levels 4, 3 and 1 and clear at level 2", 1
    elif user and rng.random() < 0.7:
        what, present = "is mapped, with U set at levels 4 to 2 and clear at level 1", 1
    return (f"CR0.WP is 1, CR4.SMEP and SMAP are 0, EFER.NXE is {int(nxe)}. {'A program at CPL 3' if user else 'The kernel'} {access} a "
            f"page that {what}. Which error code does the guest's page-fault handler find? (hexadecimal with 0x)",
            present | bit | (4 if user else 0))


def self_map(rng):
    slot, gva = rng.randrange(256, 511), rng.randrange(1 << 47) & ~0xfff
    return (f"Entry {slot} of a guest's root leads to the root itself. At which gva does the guest find the last-level entry of address "
            f"{gva:#x}? (hexadecimal with 0x, canonical)", canonical(slot << 39 | gva >> 12 << 3))


def machine_address(rng):
    gpa = rng.randrange(0x100, 0x3f00) * PAGE + rng.randrange(PAGE)
    return (f"The guest's entry for a page says {gpa & ~0xfff | 0x67:#x}. Which address, in bits 51 to 12, must the shadow's leaf have? "
            f"(hexadecimal with 0x, low 12 bits 0)", (gpa & ~0xfff) + GUEST_MA)


def pieces_of_a_large_page(rng):
    stride = rng.choice((512, 1024, 2048, 4096, 8192, 16384, 65536))
    count = rng.randrange(1, 4)
    return (f"A guest's kernel maps {2 * count} MiB with large pages of 2 MiB ({count}), and reads one byte in every {stride}. The "
            f"shadow is "
            f"empty and the mode is vtlb. How many hidden faults does that cost?", count * (2 << 20) // max(stride, PAGE))


def pieces_filled_at_once(rng):
    stride, size = rng.choice((4, 64, 256, 1024, 4096, 8192)) << 10, rng.randrange(2, 16) * 64
    return (f"A guest's kernel reads one byte in every {stride >> 10} KiB of the first {size} MiB of a page of 1 GiB; all of it is "
            f"memory. The "
            f"shadow is empty and the mode is cached. How many hidden faults does that cost?", (size << 20) // max(stride, 2 << 20))


def first_reads_and_writes(rng):
    pages = rng.randrange(40, 200)
    writes = rng.randrange(5, 40)
    return (f"{pages} pages of a process are mapped writable, A and D are clear in their entries. It reads all of them, then writes to "
            f"{writes} of them, then reads all again. The shadow is empty at first, and the mode is vtlb. How many page faults does the "
            f"machine take for these pages?", pages + writes)


def faults_of_demand_paging(rng):
    new, old = rng.randrange(10, 90), rng.randrange(10, 90)
    return (f"A process writes once to each of {new + old} pages. {old} of them are mapped writable; the other {new} its kernel maps, "
            f"writable, when they are touched. The shadow is empty at first, and the mode is vtlb. How many page faults does the "
            f"machine take for these pages, hidden and true ones together?", 2 * new + old)


def shadow_pages_of_a_program(rng):
    code, heap, stack = rng.randrange(2, 20), rng.randrange(200, 1800), rng.randrange(2, 9)
    pages = {0x400000 // PAGE + i for i in range(code)} | {0x10000000000 // PAGE + i for i in range(heap)}
    pages |= {0x7ffffffff000 // PAGE - 1 - i for i in range(stack)}
    return (f"A program touches {code} pages of code from 0x400000 up, {heap} pages of heap from 0x10000000000 up and {stack} pages "
            f"of stack "
            f"below 0x7ffffffff000. All are 4 KiB pages. How many shadow pages does its user root have in vtlb mode, the root included?",
            tables_of(pages))


def fan_out(rng):
    slots = rng.randrange(20, 200)
    return (f"{slots} entries of a guest's root lead to one and the same table of level 3, which has one entry, and so on down to "
            f"one page. "
            f"The guest reads that page through each of the {slots} addresses. How many shadow pages would that take in vtlb mode, "
            f"the root "
            f"included, if the pool had them?", 1 + 3 * slots)


def shadows_of_one_table(rng):
    smap, readers, writers = rng.random() < 0.5, rng.randrange(0, 4), rng.randrange(1, 5)
    modes = 3 if smap else 2
    how = "all of them reach it through directory entries with W" if not readers else (
        f"{writers} of them reach it through directory entries with W, {readers} through entries without W")
    return (f"In cached mode, {writers + readers} processes share one guest table of the last level; {how} (all other bits, and all "
            f"levels above, are alike). Programs and the kernel use it; CR0.WP is 1, CR4.SMEP is 0, CR4.SMAP is {int(smap)}, and "
            f"the kernel "
            f"uses it with RFLAGS.AC set and clear. How many shadows of that table can there be at the same time?",
            modes * (2 if readers else 1))


def switch_in_vtlb(rng):
    pages, switches = rng.randrange(8, 60), rng.randrange(20, 90)
    return (f"By the handout's account of a context switch: two processes take turns, and each touches {pages} pages of its own in "
            f"a turn, "
            f"code and stack among them. How many exits do {switches} switches cost in vtlb mode?", switches * (3 + pages))


def switch_in_cached(rng):
    pages, switches = rng.randrange(8, 60), rng.randrange(20, 90)
    return (f"The same in cached mode, with {switches} switches and {pages} pages, when the shadows of both processes exist. How "
            f"many exits?",
            switches * 3)


def copies_of_a_fork(rng):
    parent, child = rng.randrange(4, 40), rng.randrange(4, 40)
    return (f"After a fork, the child writes to {child} of the shared pages and then the parent to {parent} others and to "
            f"{child // 2} of "
            f"those that the child wrote to. Where nobody else uses the page any more, the kernel gives the right to write back "
            f"instead of copying, which costs as many exits. By the handout's account, how many exits do these writes cost in "
            f"cached mode, tables let go not counted?",
            5 * (child + parent + child // 2))


def bulk_change(rng):
    tables, entries = rng.randrange(2, 9), rng.randrange(50, 400)
    return (f"In cached mode, a kernel takes W from {entries} entries in each of {tables} last-level tables, whose shadows are in "
            f"use, and "
            f"then writes CR3. How many exits does this cost until CR3 is written, that write included?", tables + 1)


def time_of_hidden_faults(rng):
    pages, switches, cost = rng.randrange(20, 60), rng.randrange(200, 900), rng.choice((2, 20, 40))
    return (f"An exit costs {cost} us. How many milliseconds, rounded down, do {switches} context switches spend on hidden faults "
            f"alone in "
            f"vtlb mode, if {pages} pages are touched in each turn?", switches * pages * cost // 1000)


QUESTIONS = [walk_slots, entry_place, large_page, reserved_bits, error_code, self_map, machine_address, pieces_of_a_large_page,
             pieces_filled_at_once, first_reads_and_writes, faults_of_demand_paging, shadow_pages_of_a_program, fan_out,
             shadows_of_one_table, switch_in_vtlb,
             switch_in_cached, copies_of_a_fork, bulk_change, time_of_hidden_faults]
