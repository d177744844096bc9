"""Checkpoints 3.1 and 3.2: single entries, both ways, against nestwalk.py."""

import random

import nestcases
import nestscript
import nestwalk
from nestscript import Wrong
from nestwalk import Entry, rights_text, size

CPUS, ENTRIES = 24, 40  # of each: entries to write, entries to read


def cpu_text(cpu):
    return "%s, CPU with %s, addresses of %d bits" % (cpu.format, cpu.caps, cpu.bits)


def drawn_entry(rng, cpu, level):
    """Something that can be said in an entry of that level."""
    kind = "page" if level == 1 else "table" if level == 4 or not cpu.has(level) else rng.choice(("page", "table"))
    rights = rng.choice([r for r in nestcases.RIGHTS[cpu.format] if cpu.can(r)])
    ma = rng.randrange(0, 1 << cpu.bits, size(level) if kind == "page" else 4096)
    page = kind == "page"
    type_ = rng.choice(tuple(nestwalk.TYPES)) if page and cpu.format == "ept" else nestwalk.WB
    return Entry(kind, rights, type_, rng.random() < 0.5, page and rng.random() < 0.5, ma)


def encode_step(script, rng, cpu):
    level = rng.randrange(1, 5)
    entry = drawn_entry(rng, cpu, level) if rng.random() < 0.95 else Entry("absent")
    line = "encode %d %s %s %s %s %#x" % (level, entry.kind, rights_text(entry.rights), nestwalk.TYPES[entry.type],
                                          nestwalk.ad_text(entry.a, entry.d), entry.ma)
    if not cpu.ad:
        entry.a = entry.d = False  # this CPU knows nothing of them

    def check(answer):
        words = answer.text.split()
        raw = int(words[1], 16) if len(words) == 2 else None
        hint = "What was to be said (%s): level %d, %s. Bits that would be needed: %#x." % (
            cpu_text(cpu), level, entry, nestwalk.encode(cpu, entry, level))
        if raw is None or entry.kind == "absent" and raw:
            return Wrong("encode 0" if entry.kind == "absent" else "encode and an entry", answer.text, hint)
        found = nestwalk.decode(cpu, raw, level)
        if str(found) != str(entry):
            return Wrong(str(entry), "%#x, which says: %s%s" % (raw, found, " (%s)" % found.why if found.why else ""), hint)
        if cpu.format == "ept" and entry.kind == "page" and raw & nestwalk.EPT_IGNORE_PAT:
            return Wrong("bit 6 clear: the guest's PAT has its say", "%#x" % raw, hint)
        return None
    script.add(line, check)


def odd_entry(rng, cpu, level):
    """64 bits: often one bit away from something good."""
    entry = drawn_entry(rng, cpu, level)
    raw = nestwalk.encode(cpu, entry, level)
    kind = rng.randrange(8)
    if kind == 0:
        return rng.getrandbits(64)
    if kind == 1:  # what the manuals call ignored or available, at random
        ignored = 0x7FF << 52 | 0xE00 if cpu.format == "npt" else 0xFFF << 52 | 0xC00
        return raw | rng.getrandbits(64) & ignored
    if kind == 2 and cpu.format == "ept":
        return raw & ~0x7F | rng.getrandbits(7)
    if kind == 3 and level in (2, 3):
        return raw ^ nestwalk.LARGE
    if kind == 4:
        return raw
    return raw ^ 1 << rng.choice((rng.randrange(64), rng.randrange(12), rng.randrange(12, 30)))


def decode_step(script, rng, cpu):
    level = rng.randrange(1, 5)
    raw = odd_entry(rng, cpu, level)
    entry = nestwalk.decode(cpu, raw, level)
    why = "That entry (%s): %s." % (cpu_text(cpu), entry.why) if entry.why else "That entry is read for: %s." % cpu_text(cpu)
    script.says("decode %d %#x" % (level, raw), "decode %s" % entry, why)


def root_step(script, cpu):
    def check(answer):
        words = answer.text.split()
        raw = int(words[1], 16) if len(words) == 2 else -1
        want = nestscript.POOL | ((6 | 3 << 3 | (1 << 6 if cpu.ad else 0)) if cpu.format == "ept" else 0)
        if raw == want:
            return None
        hint = ("EPTP: memory type of the walk in bits 2:0 (6, write-back), walk length less one in bits 5:3, A and D in bit 6 if the CPU "
                "has them, the table's address. (SDM vol. 3, 24.6.11)" if cpu.format == "ept" else
                "nCR3 is the address of the table; its low bits are those of CR3. (APM vol. 2, 15.25.3)")
        return Wrong("root %#x" % want, answer.text, hint)
    script.add("root", check)


def make(format_, seed):
    rng, script = random.Random("%s/%d" % (format_, seed)), nestscript.Script()
    for _ in range(CPUS):
        cpu = nestcases.cpu_of(rng, format_)
        script.add("new %s %s %d 4" % (format_, cpu.caps, cpu.bits))
        root_step(script, cpu)
        for _ in range(ENTRIES):
            encode_step(script, rng, cpu)
            decode_step(script, rng, cpu)
            decode_step(script, rng, cpu)
    return script
