"""Checkpoints 3.11 and 3.12: violations of the nested tables: memory on demand, and addresses where there is none."""

from checks import first, reported
from faults import mmio_found, mmio_params
from guestmode import BOTH, guest, kinds, left, witnessed
from model import Checkpoint, Failure, Run
from probes import MASK64
from splitmix import SplitMix64

# --- 3.11 -----------------------------------------------------------------------------------------------------------------

SMALL, LARGE = 4096, 2 << 20
OVERHEAD = 60  # pages of the guest's image, its stack and its tables, at most


def demand_params(size, low, high):
    return lambda rng: [rng.getrandbits(40), rng.randrange(low, high), size]


def demand_content(r, params):
    seed, count, _ = params[:3]
    random, read = SplitMix64(seed), 0
    for i in range(count):
        value = (random.next() << 48 | 0xB8 | i << 8 | 0xC3 << 40) & MASK64
        read = (read ^ value) * 0x9E3779B97F4A7C15 & MASK64
    hint = ("Guest memory begins as zeros, and each page must lead to its own: gpa + the machine address of gpa 0, in the tables as in "
            "what hv itself reads.")
    return first(reported(r, "zeros0", 0, hint), reported(r, "read0", read, hint), reported(r, "called0", count * (count - 1) // 2, hint))


def demand_verify(results, params):
    found = [demand_content(r, params[name]) for name, r in results.items()]
    for few, many, size in (("few", "many", "4K"), ("few-large", "many-large", "2M")):
        a, b = results[few], results[many]
        pages = params[many][1] - params[few][1]
        cost = kinds(b).get("violation", 0) - kinds(a).get("violation", 0)
        base = kinds(a).get("violation", 0)
        hint = ("The first access to a page maps it, with all rights that it may have, and only it: hvm_level() says how large it is. "
                "Nothing about it comes to hv a second time.")
        if cost != pages:
            found.append(Failure("%d pages more to cost %d violations more (--page-size %s)" % (pages, pages, size),
                                 "%d more: %d instead of %d" % (cost, base + cost, base), hint, many))
        if not params[few][1] <= base <= params[few][1] + OVERHEAD:
            found.append(Failure("%d pages and the guest's own to cost not many more violations" % params[few][1], "%d" % base, hint, few))
        found += [witnessed(a), witnessed(b)]
    return first(*found)


# --- 3.12 -----------------------------------------------------------------------------------------------------------------

OF_MEMORY = 25  # violations that bring memory


def device_verify(results, params):
    r = results["mmio"]
    found, accesses = mmio_found(r, params["mmio"], "the nested tables")
    return first(*found, left(r, "One violation for each access to a device, and it stays one: nothing is mapped there.",
                              violation=(accesses, accesses + OF_MEMORY)))


CHECKPOINTS = [
    Checkpoint(
        "3.11", "Memory on demand", 6,
        "What the guest touches for the first time is mapped then, as large as hvm_level() says, to its own memory; each page costs "
        "exactly one violation, however it is used.",
        "exit_violation() in exits.c. `hv run --trace exits --page-size 4K` shows each violation's gpa.",
        runs=[guest("demand", demand_params(SMALL, 20, 40), "--page-size", "4K", run="few"),
              guest("demand", demand_params(SMALL, 150, 250), "--page-size", "4K", run="many"),
              guest("demand", demand_params(LARGE, 3, 6), run="few-large"),
              guest("demand", demand_params(LARGE, 15, 28), run="many-large")],
        verify=demand_verify, depends=["3.10"]),
    Checkpoint(
        "3.12", "Devices: a violation where there is no memory", 5,
        "An access to an address without memory is carried out by hv: it reaches the bus with the address and width that it has, "
        "whatever the instruction, and the guest sees its result. So is the CPU's own access to a page table that lies there.",
        "exit_violation() in exits.c: memory_emulate() decodes and does it, once all of the guest's state is there: hvm_fetch().",
        runs=[Run("mmio", "lab2/mmio.elf", ("--engine", "hvm"), mmio_params, hosts=BOTH)], verify=device_verify, depends=["3.11"]),
]
