"""Checkpoint 3.21: two VMs whose memory never meets (guests/apart.c)."""

import json

from model import BOCHS, HV_OK, QEMU, Checkpoint, Failure, Image, Run
from touchscript import PAGE

GUEST = "lab3/apart.elf"
HINT = ("Both memories lie in one machine, one behind the other, and only the tables say what belongs to whom. What is mapped must lie "
        "within the guest's memory to its last page, whatever size of page would be convenient; what lies outside is no memory and reads "
        "as ones.")


def apart_params(rng):
    """Two secrets, the memory of each in bytes, seeds. The memory ends in the middle of a large page."""
    secrets = rng.getrandbits(62) | 1 << 62, rng.getrandbits(62) | 3 << 62
    return [*secrets, rng.randrange(800, 1000) * PAGE, rng.getrandbits(64), rng.getrandbits(64)]


def files(params):
    own, other, size, seed, second_seed = params[:5]
    return {"first.elf": Image(GUEST, [own, other, size, seed]), "second.elf": Image(GUEST, [other, own, size, second_seed])}


def command(params):
    return ["/bin/hv", "run", "--engine", "hvm", "--stats", "json", "--timeout", "@SECONDS@", "--mem", "%dK" % (params[2] // 1024),
            "--neighbour", "@DIR@/second.elf", "@DIR@/first.elf"]


def said(r, prefix):
    """What the guest said whose lines begin so."""
    found = {}
    for line in r.output.split(b"\n"):
        name, _, value = line[len(prefix):].partition(b"=")
        if line.startswith(prefix) and name.isalpha() and len(value) <= 16:
            try:
                found[name.decode()] = int(value, 16)
            except ValueError:
                pass
    return found


WRONG = {
    "found": "times the other's secret",
    "foreign": "reads of what is no memory of this guest's that did not answer all ones",
    "damaged": "words of its own memory that it did not write like this",
}


def ended(r):
    """{1: status, 2: status} as both hv's say at their ends."""
    found = {}
    for line in r.stderr.data.split(b"\n"):
        try:
            stats = json.loads(line) if line.startswith(b"{") else {}
        except (ValueError, RecursionError):
            continue
        if isinstance(stats, dict) and "status" in stats:
            found[stats.get("vm", 1)] = stats["status"]
    return found


def verify(results, params):
    r = results["apart"]
    for number, prefix in ((1, b""), (2, b"2| ")):
        seen = said(r, prefix)
        for name, what in WRONG.items():
            if seen.get(name) != 0:
                return Failure("guest %d: 0 %s" % (number, what), "no such line" if name not in seen else str(seen[name]), HINT, r.name)
        if ended(r).get(number) != 0:
            return Failure("both VMs at their end (status 0)", "guest %d: status %s" % (number, ended(r).get(number)), HINT, r.name)
    return None


CHECKPOINTS = [
    Checkpoint(
        "3.21", "two VMs whose memory never meets", 5,
        "Two VMs run in one machine, their memories side by side. Each fills its own with a secret and looks for the other's everywhere: "
        "in its memory before it wrote there, right behind its end, at any address up to the physical width. Nothing is found, nothing is "
        "damaged.",
        "exits.c: exit_violation(): an address without memory is never mapped, and hvm_level() says how large a page may be.",
        runs=[Run("apart", params=apart_params, command=command, files=files, others=(GUEST,), hosts=(QEMU, BOCHS), timeout=6.0,
                  ends=(HV_OK,))],
        verify=verify, depends=["3.12"]),
]
