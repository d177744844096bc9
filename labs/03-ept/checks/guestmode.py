"""What the checks of guests in guest mode (3.7 on) share: on which hosts they run, and how exits are counted."""

from model import BOCHS, QEMU, Failure, Run
from signatures import describe_end

AMD, INTEL, BOTH = (QEMU,), (BOCHS,), (QEMU, BOCHS)

PORT_EXIT = 0xEE  # the monitor writes to it each time the guest was left (labs/common/hv/hvm_monitor.h)
NOBODY = ("interrupted", "kick", "monitor")  # kinds that are hv's own doing, not the guest's


def guest(name, params, *args, run=None, hosts=BOTH, **other):
    return Run(run or name, "lab3/%s.elf" % name, ("--engine", "hvm") + args, params, hosts=hosts, **other)


def kinds(result):
    """Exits by kind, as hv counted them."""
    counted = (result.stats or {}).get("by_kind")
    return {k: n for k, n in counted.items() if isinstance(n, int)} if isinstance(counted, dict) else {}


def left(result, hint=None, **wanted):
    """The guest was left exactly so often for these reasons (spaces are _ here; a pair is least and most). What hv counts is
    believed when the test host's kernel has seen as many exits."""
    seen = kinds(result)
    for name, count in wanted.items():
        least, most = count if isinstance(count, tuple) else (count, count)
        n = seen.get(name.replace("_", " "), 0)
        if not least <= n <= most:
            text = "%d" % least if least == most else "from %d to %d" % (least, most)
            return Failure("the guest to be left %s times for `%s`" % (text, name.replace("_", " ")),
                           "%d times%s" % (n, "" if seen else "; " + describe_end(result)), hint, result.name)
    return witnessed(result)


def witnessed(result):
    """The kernel below saw as many exits as hv says there were."""
    if result.witness is None:
        return None
    counted = sum(n for k, n in kinds(result).items() if k not in NOBODY)
    own = sum(n for k, n in kinds(result).items() if k in NOBODY)
    seen = result.witness.pio[PORT_EXIT]
    # The monitor reports once more when it was interrupted between two entries, and Intel's whenever hv has it read or write fields.
    if counted <= seen <= (counted + 2 * own + 4 if result.host == QEMU else 4 * (counted + own) + 40):
        return None
    return Failure("%d exits of the guest, as hv counted" % counted, "%d, counted by the test host's kernel" % seen,
                   "What hv says of its exits is not what the kernel below it has seen.", result.name)


def unclaimed(result, bus, address, reads, writes, hint=None):
    """hv counted these accesses to an address that nothing answers. bus: "port" or "address"."""
    wanted = "%s %#x: %d reads, %d writes" % (bus, address, reads, writes)
    seen = "%s %#x was never used" % (bus, address)
    for entry in (result.stats or {}).get("unclaimed") or []:
        if isinstance(entry, dict) and entry.get("addr") == "%#x" % address and entry.get("bus") == bus:
            seen = "%s %#x: %s reads, %s writes" % (bus, address, entry.get("reads"), entry.get("writes"))
    return None if seen == wanted else Failure(wanted, seen, hint, result.name)


def said_why(result, words, hint=None):
    """hv's sentence about the end has these words in it."""
    if words in result.reason:
        return None
    return Failure("the VM to stop with \"... %s ...\"" % words, describe_end(result), hint, result.name)
