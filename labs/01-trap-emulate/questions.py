"""Lab 1's questions with numbers for answers. Each function draws its numbers and returns (question, answer)."""


def traps_of_a_string(rng):
    n, flag_pairs = rng.randrange(20, 200), rng.randrange(2, 9)
    return (f"A guest executes cli and sti {flag_pairs} times each, prints {n} characters with `out %al, $0xe9`, one at a time, and ends "
            f"itself by an `out` to port 0xf4. How many traps does the trap engine take?", 2 * flag_pairs + n + 1)


def traps_of_rep_outs(rng):
    n = rng.randrange(700, 9000)
    return (f"The same guest prints {n} bytes with one `rep outsb`. hv handles at most 512 elements before it lets the guest run on. "
            f"How many traps does the instruction cause?", (n + 511) // 512)


def slowdown(rng):
    trap, every = rng.randrange(20, 60), rng.choice((100, 200, 500, 1000))
    total = every + trap * 1000
    return (f"An instruction takes 1 ns when it does not trap, and {trap} us when it does. One instruction in {every} traps (the other "
            f"{every - 1} do not; count the trapping one as {trap} us). How many times slower is the guest than with no trap at all, "
            f"rounded down?", (total - 1) // every)


def stack_after_fault(rng):
    rsp0 = 0x100000 + rng.randrange(0x1000, 0x8000) * 8 + 8
    return (f"A program at CPL 3 executes cli. RSP0 in the TSS is {rsp0:#x}, the gate names no IST. What is RSP at the handler's first "
            f"instruction? (hexadecimal with 0x)", (rsp0 & ~15) - 48)


def refused_int(rng):
    n = rng.randrange(0x20, 0xff)
    return (f"A program at CPL 3 executes `int ${n:#x}`, whose gate has DPL 0. Which error code does the handler of the #GP find on its "
            f"stack? (hexadecimal with 0x)", n * 8 + 2)


def permission_bit(rng):
    base, port = rng.randrange(0x68, 0x90), rng.randrange(0x40, 0x3ff)
    return (f"The I/O map base in the TSS is {base:#x}. At which offset from the start of the TSS lies the byte with the bit of port "
            f"{port:#x}? (hexadecimal with 0x)", base + port // 8)


def pit_reload(rng):
    hz = rng.choice((50, 60, 100, 128, 250, 300, 1000))
    return (f"The 8254 counts at 1193182 Hz. Which reload value, rounded to the nearest integer, makes it tick {hz} times a second?",
            (1193182 + hz // 2) // hz)


def flags_after_syscall(rng):
    mask = rng.choice((0x200, 0x300, 0x700, 0x40200, 0x4700))
    flags = 0x202 | rng.choice((0, 0x100)) | rng.choice((0, 0x400)) | rng.choice((0, 0x40000))
    return (f"RFLAGS is {flags:#x} and SFMASK is {mask:#x} when a program executes syscall. What is RFLAGS at the first instruction of the "
            f"kernel? (hexadecimal with 0x)", (flags & ~mask) | 2)


QUESTIONS = [traps_of_a_string, traps_of_rep_outs, slowdown, stack_after_fault, refused_int, permission_bit, pit_reload,
             flags_after_syscall]
