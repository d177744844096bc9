"""Checkpoint 3.23: software that was not written to be tested: the course kernels, a boot sector, a guest of 32 bits."""

from checks import first, printed
from events import kernel_args, kernel_transcript
from guestmode import AMD, BOTH, unclaimed, witnessed
from model import HV_GUEST_FAILED, HV_OK, Checkpoint, Run
from paged_kernel import compare
from probes import MASK64

MASK32 = (1 << 32) - 1
HVM = ("--engine", "hvm")


def u64s(count):
    return lambda rng: [rng.getrandbits(64) for _ in range(count)]


def boot_sector(p):
    """What bootsector.boot.S prints."""
    p0, p1, p2, p3 = p[:4]
    real = (p1 ^ p2) & MASK32
    protected = (p1 & MASK32) * (p2 & MASK32) + (p3 & MASK32) & MASK64
    return b"real=%016x\nprotected=%016x\nlong=%016x\n" % (real, protected, protected * p3 & MASK64 ^ p0)


# --- protected.32.c -------------------------------------------------------------------------------------------------------

LARGE, PAGE = 4 << 20, 4096
AREA, DEVICE = 2 * LARGE, 0xD0000000
NP, GP, PF, SOFTWARE = 11, 13, 14, 0x30
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407


def line(name, value):
    return "%s=%x\n" % (name, value)


def exception(name, vector, error=0, cr2=0):
    return name + ":\n" + line("count", 1) + line("vector", vector) + line("error", error) + line("cr2", cr2)


def rotated(words, seed):
    """The sum that segments() makes of these many words."""
    value, total, data = seed | 1, 0, bytearray()
    for _ in range(words + 1):
        value = value * MULTIPLIER + INCREMENT & MASK64
        data += (value >> 32).to_bytes(4, "little")
    for i in range(words):
        total = (total << 1 | total >> 31) & MASK32 ^ int.from_bytes(data[4 * i + i % 4 : 4 * i + i % 4 + 4], "little")
    return total


def protected(p):
    """What protected.32.c prints, from the SDM and its params."""
    words, seed, window, slot, alias, page_at, _, text_seed = p[:8]
    small_params = [v & MASK32 for v in p]
    words, window, slot, alias, page_at = (small_params[i] for i in (0, 2, 3, 4, 5))
    segments = line("window", rotated(words % 500 + 20, seed)) + exception("not present", NP, 0x18) + exception("not readable", GP, 0x18)
    segments += exception("no segment", GP, 0x18) + exception("no such slot", GP, (4 + slot % 100) * 8) + exception("null stack", GP)
    text, value = "", text_seed | 1
    for _ in range(31):
        value = value * MULTIPLIER + INCREMENT & MASK64
        text += chr(ord("a") + (value >> 33) % 26)
    word, offset = (seed & MASK32) * 2654435761 & MASK32, window % (LARGE - 8) & ~3
    small = (16 + alias % 700 + 1) * LARGE + page_at % 1023 * PAGE + offset % PAGE
    paging = line("large", word) + line("large-bits", 0x20) + line("written", word ^ MASK32) + line("large-bits", 0x60)
    paging += line("small", word ^ MASK32) + line("small-bits", 0x20) + exception("write to read-only", PF, 3, small)
    paging += exception("absent", PF, 0, small + PAGE) + line("allowed", word) + line("small-bits", 0x60)
    return (line("magic", 0x336EC578) + exception("int", SOFTWARE) + segments + text + "\n" + line("esi", 32) + line("ecx", 0) + paging +
            segments).encode()


def software_verify(results, params):
    found = []
    if "boot-sector" in results:
        found.append(printed(results["boot-sector"], boot_sector(params["boot-sector"]),
                             "From real mode to 64-bit mode: segments, the interrupt vectors of real mode, and the mode switches are "
                             "the guest CPU's own. EFER.LMA follows CR0.PG."))
    r = results["protected"]
    found += [printed(r, protected(params["protected"]), "32-bit protected mode: segments with bases, a 32-bit IDT, page tables of two "
                      "levels."),
              unclaimed(r, "address", DEVICE + ((params["protected"][6] & MASK32) % (LARGE // 4) & ~3), 0, 1),
              kernel_transcript(results["kernel"], params["kernel"][0])]
    if "paging" in results:
        found.append(compare(results["paging"], 2, "--engine hvm"))
    return first(*found, *(witnessed(r) for r in results.values()))


ENDS = (HV_OK, HV_GUEST_FAILED)  # what a kernel says when it panics is compared too
CHECKPOINTS = [
    Checkpoint(
        "3.23", "Real software", 8,
        "Both course kernels print what they print on the other engines; a boot sector goes from real mode over protected mode to "
        "64-bit mode; a guest of 32 bits has its segments and page tables.",
        "Nothing new is to be written. `hv run --engine hvm --trace exits` beside `hv run --engine kvm` shows where they part.",
        runs=[Run("boot-sector", "lab3/bootsector.bin", HVM, u64s(4), hosts=BOTH),
              Run("protected", "lab3/protected.elf", HVM, u64s(8), hosts=BOTH),
              Run("kernel", "kernel.elf", lambda p: [*HVM, *kernel_args(p)], lambda rng: [rng.randrange(2, 4)], timeout=20.0, ends=ENDS,
                  hosts=BOTH),
              Run("paging", "paging.elf", HVM, timeout=20.0, ends=ENDS, hosts=AMD)],
        verify=software_verify, depends=["3.12", "3.14"]),
]
