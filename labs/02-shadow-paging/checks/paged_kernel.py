"""What the course kernel with paging (build/guests/paging.elf) prints on a correct machine.

It is the same everywhere but for addresses in its programs, which must lie in the functions at fault.
"""

import os
import re

from checks import first, printed_by_traps, trapped
from elf import Elf
from model import HV_OK, Failure
from signatures import describe_end

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
VEC_PF = 14

# labs/common/guest/layout.h
HEAP = 0x10000000
STACK_BOTTOM = 0x7FFFFFFFF000 - 16 * 4096
ROOT_SELF = 0xFFFFFF7FBFDFE000
WORDS = 512  # in a page


class Kernel:
    """Its image: where things are, and what is there."""

    def __init__(self):
        with open(os.path.join(ROOT, "build", "guests", "paging.elf"), "rb") as f:
            self.elf = Elf(f.read(), "paging.elf")

    def address(self, name):
        return self.elf.symbol(name)[0]

    def function(self, name):
        address, _, size = self.elf.symbol(name)
        return range(address, address + size)

    def byte(self, address):
        for kind, _, offset, vaddr, _, filesz, _ in self.elf.segments():
            if kind == 1 and vaddr <= address < vaddr + filesz:
                return self.elf.data[offset + address - vaddr]
        return 0


def oops(kernel, prefix, what, function, error, addresses=None):
    """A line about an exception, as a function of the line that was seen: any rip in the function will do, and any of the addresses."""

    def line(seen):
        found = re.search(r" at rip 0x([0-9a-f]{1,16}),(?:.* address 0x([0-9a-f]{1,16}),)?", seen)
        rip, address = (int(text or "0", 16) for text in found.groups()) if found else (0, 0)
        code = kernel.function(function)
        rip = rip if rip in code else code.start
        text = "%s| oops: %s at rip 0x%x, error code 0x%x, " % (prefix, what, rip, error)
        if addresses:
            text += "address 0x%x, " % (address if address in addresses else addresses[0])
        return text + "first byte there %02x" % kernel.byte(rip)

    return line


def primes_below(limit):
    return sum(all(n % d for d in range(2, int(n ** 0.5) + 1)) for n in range(2, limit))


def transcript(compute):
    """The lines, each a text or a function as above. compute: how many of the programs that only compute there are."""
    kernel = Kernel()
    tree = (111, 112, 11, 121, 122, 12, 1)
    words = 64 * WORDS
    page_fault = "#PF page fault"
    spied = "the kernel does not read that for me"
    # name, what it prints, and what it dies of: exception, function, error code, addresses
    programs = [("compute", ["%d primes below 20000, the same in every round" % primes_below(20000)], None)] * compute + [
        ("writer", ["line %%d of process %d" % (compute + 1) % i for i in (1, 2, 3)], None),
        ("rogue", ["about to turn interrupts off"], ("#GP general protection", "user_rogue", 0, None)),
        ("divide", ["about to divide by 0"], ("#DE divide error", "user_divide", 0, None)),
        ("sleeper", ["slept 10 ticks at least"], None),
        ("tree", ["node %d has its own data" % node for node in tree], None),
        ("zero", ["the sum is %d, and half of the memory given back leaves %d" % (sum(range(words)), sum(range(words // 2)))], None),
        ("deep", ["the sum on the stack is %d" % sum(range(501))], None),
        ("bottom", ["about to use up the stack"], (page_fault, "descend", 6, range(STACK_BOTTOM - 4096, STACK_BOTTOM))),
        ("readonly", ["read 1", "read 2"], (page_fault, "user_readonly", 7, [HEAP])),
        ("noexec", ["code that was written can be executed when that is asked for"], (page_fault, None, 0x15, [HEAP])),
        ("spy", [spied], (page_fault, "user_spy", 5, [kernel.address("kernel_data")])),
        ("tables", [spied], (page_fault, "user_spy", 5, [ROOT_SELF])),
        ("null", ["about to follow a null pointer"], (page_fault, "user_null", 4, [0])),
        ("patch", ["in the child the function returns 2, here 1"], None),
        ("bigfork", ["of 1024 pages the child has changed 16 and the parent has seen none of it"], None),
    ]
    lines = ["course kernel: 64 bits, paged memory, at most 39 processes", "waiting for the timer ... it ticks, 100 times a second"]
    for pid, (name, printed, death) in enumerate(programs, 1):
        prefix = "%2d %-8s" % (pid, name)
        lines += ["%s| %s" % (prefix, text) for text in printed]
        if not death:
            lines.append(prefix + ": exit code 0")
            continue
        what, function, error, addresses = death
        if function:
            lines.append(oops(kernel, prefix, what, function, error, addresses))
        else:  # at the first address of the heap, where the program has put a RET
            lines.append("%s| oops: %s at rip 0x%x, error code 0x%x, address 0x%x, first byte there c3" % (
                prefix, what, addresses[0], error, addresses[0]))
        lines.append(prefix + ": killed by the kernel")
    killed = sum(death is not None for _, _, death in programs)
    lines.append("%d processes: %d ended by themselves, %d were killed" % (len(programs), len(programs) - killed, killed))
    if compute:
        lines.append("%d processes that never yield were interleaved by the timer" % compute)
    return lines + ["all page frames came back", "the kernel has ended", ""]


def compare(result, compute, options):
    """What it printed is what it prints everywhere. options: of hv, to say how this is repeated."""
    seen = result.output.replace(b"\r\n", b"\n").decode("ascii", "replace").split("\n")
    for i, line in enumerate(transcript(compute)):
        there = seen[i] if i < len(seen) else "the end of the output"
        wanted = line if isinstance(line, str) else line(there)
        if there != wanted:
            return Failure(wanted, there, "Line %d of what the course kernel prints. Run it yourself: hv run %s build/guests/paging.elf. "
                           "labs/common/guest/user_paged.c has the programs, each about one thing." % (i + 1, options),
                           result.name, exact=True)
    if result.status != HV_OK:
        return Failure("the course kernel to end with exit code 0", describe_end(result), run=result.name)
    return None


def verify(result, compute, options):
    return first(compare(result, compute, options), trapped(result, 1000, "page faults of its programs and of the shadow", VEC_PF),
                 printed_by_traps(result, result.output))
