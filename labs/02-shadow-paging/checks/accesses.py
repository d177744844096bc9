"""The other half of guests/paging.h: the numbers that its guests draw from the seed, and what they say of each access."""

from collections import Counter

from checks import reported
from model import VEC_GP, Failure
from splitmix import MASK64, SplitMix64

VEC_PF = 14

# Entries, and error codes of page faults (SDM vol. 3, 4.5 and 4.7).
P, W, U, A, D, PS, G, NX = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
PF_P, PF_W, PF_U, PF_RSVD, PF_I = 1, 2, 4, 8, 16

FRAMES, FRAME_COUNT = 24 << 20, 0x2000


class Numbers(SplitMix64):
    """random64() and random_gva() of paging.h, from the same seed."""

    u64 = SplitMix64.next

    def gva(self):
        r = self.u64()
        return canonical((4 + (r >> 36) % 506) << 39 | (r & 0x7FFFFFF) << 12)


def canonical(gva):
    return gva | 0xFFFF << 48 if gva >> 47 & 1 else gva


def frame(seed, i):
    return FRAMES + (i * 0x9E5 + seed & MASK64) % FRAME_COUNT * 4096


def seed_params(rng):
    """What every guest here gets: its seed, and a number that fits into 31 bits."""
    return [rng.getrandbits(64), rng.getrandbits(30)]


def said(result, key, *values, hint=None):
    """A line key=value. With several values each of them is allowed."""
    seen = result.lines.get(key, [])
    if len(seen) == 1 and seen[0] in values and len(values) > 1:
        return None
    return reported(result, key, values[0], hint)


def went(result, key, *values, hint=None):
    """The access brought no fault; one of these values was read, returned or written."""
    if key + ".vector" in result.lines:
        error = result.lines.get(key + ".error", [0])[0]
        return Failure("%s: no fault" % key, "%s: exception %d, error code %#x, CR2 %#x" % (
            key, result.lines[key + ".vector"][0], error, result.lines.get(key + ".cr2", [0])[0]), hint, result.name)
    return said(result, key, *values, hint=hint)


def faulted(result, key, error, cr2, value=0, vector=VEC_PF, rip=0, hint=None, faults=1):
    """The access brought this fault and no second one; value: RAX in the end (what it was before, unless the handler put things right).
    cr2, value None: not looked at. rip: of the fault, relative to the instruction."""
    checks = [(".vector", vector), (".error", error)] + ([(".cr2", cr2)] if cr2 is not None else [])
    checks += [(".rip", rip & MASK64), (".faults", faults)] + ([("", value)] if value is not None else [])
    for field, wanted in checks:
        failure = reported(result, key + field, wanted, hint)
        if failure:
            return failure
    return None


def said_by_traps(result):
    """The witness saw the sum of each line's bytes in AL when the guest trapped: the lines are the guest's."""
    if result.witness is None:
        return None
    seen = result.witness.values.get(VEC_GP, Counter())
    wanted = Counter(sum(line) + 10 & 0xFF for line in result.output.split(b"\n")[:-1])
    for value, count in wanted.items():
        if seen[value] < count:
            return Failure("the guest to trap %d times with AL = %#x, once for each such line that hv printed" % (count, value),
                           "%d such traps, counted by the test host's kernel" % seen[value],
                           "The lines that hv printed are not what the guest gave it by OUTS.", result.name)
    return None


def page_faults(result, least, most, what, hint):
    """The machine's page faults, counted by the witness, lie between these bounds."""
    if result.witness is None or least <= result.witness.pio[VEC_PF] <= most:
        return None
    return Failure("between %d and %d page faults of the machine: %s" % (least, most, what),
                   "%d, counted by the test host's kernel" % result.witness.pio[VEC_PF], hint, result.name)


def unclaimed(result, bus, address, reads, writes):
    """hv counted these accesses to an address that nothing answers. bus: "port" or "address"."""
    for entry in (result.stats or {}).get("unclaimed") or []:
        if isinstance(entry, dict) and entry.get("addr") == "%#x" % address and entry.get("bus") == bus:
            seen = "%s %#x: %s reads, %s writes" % (bus, address, entry.get("reads"), entry.get("writes"))
            break
    else:
        seen = "%s %#x was never used" % (bus, address)
    wanted = "%s %#x: %d reads, %d writes" % (bus, address, reads, writes)
    return None if seen == wanted else Failure(wanted, seen, run=result.name)
