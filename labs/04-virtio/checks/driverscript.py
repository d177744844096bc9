"""Scripts for guests/driver.c, what is expected of their reports, and how a report is read."""

import json
import struct
import zlib

from model import HV_OK, Failure, Run
from signatures import describe_end
from splitmix import SplitMix64

GUEST = "lab4/driver.elf"
MEMORY = 32 << 20
FIRST, LAST = 4 << 20, 24 << 20  # where a script's rings and buffers are; below lies the guest, above the script
TICKS = 600  # of a wait, 200 a second: it ends only what would never come
SLOT_BASE, SLOT_STRIDE = 0xD0000000, 0x1000
IRQ = (5, 6, 7, 10, 11, 12, 14, 15)  # of slot 0, 1, ... (virtio.h)

_OPS = "END SECTION LOAD STORE COPY FILL SET DUMP CRC LISTEN DEAF WAIT_IRQ IRQS WAIT16 SAME16 ADD16 LOOP REST CHECK".split()
_OP = {name: number for number, name in enumerate(_OPS)}
_SIZE = struct.calcsize("<4Q")
_NOTED = 1 << 16
_NOTES = 16384  # of what is expected, checked together


def pattern(seed, length):
    """What FILL writes."""
    words = SplitMix64(seed)
    return b"".join(struct.pack("<Q", words.next()) for _ in range((length + 7) // 8))[:length]


class Memory:
    """Places for rings and buffers, none of them over another, with gaps."""

    def __init__(self, rng):
        self._rng, self._next = rng, FIRST + rng.randrange(1 << 16) * 16

    def take(self, length, align=1):
        at = -(-(self._next + self._rng.randrange(300)) // align) * align
        self._next = at + length
        if self._next > LAST:
            raise ValueError("a script needs more memory than there is")
        return at


class Report:
    """What the guest said: the number of an operation -> the text behind it."""

    def __init__(self, result):
        self.result, self.said = result, {}
        for line in result.output.split(b"\n"):
            number, found, text = line.rstrip(b"\r").partition(b"=")
            try:
                if found and len(number) <= 8:
                    self.said[int(number, 16)] = text.decode("ascii")
            except ValueError:
                pass

    def value(self, number):
        """An integer, or None."""
        try:
            return int(self.said[number], 16)
        except (KeyError, ValueError):
            return None

    def data(self, number):
        """Bytes of a DUMP, or None."""
        try:
            return bytes.fromhex(self.said[number])
        except (KeyError, ValueError):
            return None


class Script:
    """Operations in their order, each with what must come of it. what: a clause for people, "Status after a reset"."""

    def __init__(self, rng):
        self.rng, self.memory = rng, Memory(rng)
        self._ops, self._blob, self._fix, self._checks = [], bytearray(), [], []
        self._notes, self._noted, self._blocks = "", [], {}  # what must have been noted since the last CHECK, by which operations
        self.hint = None  # of the operations that follow

    def _op(self, name, a=0, b=0, c=0, size=0):
        self._ops.append((_OP[name] | size << 8, a, b, c))
        return len(self._ops) - 1

    def check(self, judge):
        """judge(report) gives None or a pair (expected, seen) of texts; asked in the order in which the script was written."""
        self._checks.append((judge, self.hint))

    def _note(self, number, text):
        """The operation is expected to say exactly this."""
        what, a, b, c = self._ops[number]
        self._ops[number] = what | _NOTED, a, b, c
        self._notes += "%x=%s\n" % (number, text)
        self._noted.append((number, text))
        if len(self._notes) > _NOTES:
            self._close()

    def _close(self):
        if self._notes:
            number = self._op("CHECK", zlib.crc32(self._notes.encode()))
            self._blocks[number] = self._noted
            self._notes, self._noted = "", []

    def _complete(self, report):
        """What the guest did not say because it noted exactly what it must."""
        for number, noted in self._blocks.items():
            if report.value(number) == self._ops[number][1]:
                for operation, text in noted:
                    report.said.setdefault(operation, text)

    def equal(self, number, value, what):
        self._note(number, "%x" % value)

        def judge(report):
            seen = report.value(number)
            if seen == value:
                return None
            return "%s: %#x" % (what, value), "nothing" if seen is None else "%#x" % seen

        self.check(judge)

    # --- operations ---

    def section(self):
        self._close()
        self._op("SECTION")

    def load(self, gpa, size, value=None, what=""):
        number = self._op("LOAD", gpa, size=size)
        if value is not None:
            self.equal(number, value, what)
        return number

    def store(self, gpa, size, value):
        self._op("STORE", gpa, value & (1 << 8 * size) - 1, size=size)

    def write(self, gpa, data):
        """Bytes into memory."""
        if len(data) in (1, 2, 4, 8):
            self.store(gpa, len(data), int.from_bytes(data, "little"))
            return
        self._fix.append(len(self._ops))
        self._op("COPY", gpa, len(self._blob), len(data))
        self._blob += data

    def fill(self, gpa, length, seed):
        self._op("FILL", gpa, length, seed)

    def set(self, gpa, length, byte):
        self._op("SET", gpa, length, byte)

    def dump(self, gpa, length, judge=None):
        """judge(data) as in check(); data is what was there."""
        number = self._op("DUMP", gpa, length)
        if judge:
            def look(report):
                data = report.data(number)
                if data is None or len(data) != length:
                    return "%d bytes of memory in the guest's report" % length, "nothing"
                return judge(data)

            self.check(look)
        return number

    def exactly(self, gpa, data, judge):
        """As dump(), where it is known what judge() wants to see."""
        self._note(self.dump(gpa, len(data), judge), data.hex())

    def same(self, gpa, data, what):
        """Memory holds exactly this."""
        def judge(seen):
            at = next((i for i in range(len(data)) if seen[i] != data[i]), None)
            if at is None:
                return None
            end = min(len(data), at + 16)
            return ("%s: %s at byte %d" % (what, data[at:end].hex(" "), at)), "%s" % seen[at:end].hex(" ")

        if len(data) <= 4096:
            self.exactly(gpa, data, judge)
        else:
            self.equal(self._op("CRC", gpa, len(data)), zlib.crc32(data), "%s, as a CRC-32" % what)

    def listen(self, irq, device=0):
        """Counts a line's interrupts from here on; device: base of the device that each of them is acknowledged at."""
        self._op("LISTEN", device, size=irq)

    def deaf(self, irq):
        self._op("DEAF", size=irq)

    def _irqs(self, number, count, seen, what):
        def judge(report):
            value = report.value(number)
            if value is None:
                return "%s: %d interrupts" % (what, count), "nothing"
            if value & 0xFFFFFFFF != count:
                return "%s: %d interrupts on the device's line" % (what, count), "%d" % (value & 0xFFFFFFFF)
            if seen is not None and value >> 32 != seen:
                return "%s: InterruptStatus %#x when they came" % (what, seen), "%#x" % (value >> 32)
            return None

        if count is not None:
            if seen is not None:
                self._note(number, "%x" % (seen << 32 | count))
            self.check(judge)
        return number

    def wait_irq(self, irq, least, count=None, seen=None, what=""):
        return self._irqs(self._op("WAIT_IRQ", least, TICKS, size=irq), count, seen, what)

    def irqs(self, irq, count=None, seen=None, what=""):
        return self._irqs(self._op("IRQS", size=irq), count, seen, what)

    def wait16(self, gpa, value, what=""):
        """Waits until a word of memory has that value."""
        number = self._op("WAIT16", gpa, value & 0xFFFF, TICKS)
        self.equal(number, value & 0xFFFF, what)

    def same16(self, a, b):
        self._op("SAME16", a, b, TICKS)

    def add16(self, gpa, value):
        self._op("ADD16", gpa, value)

    def rest(self, ticks):
        self._op("REST", ticks)

    def loop(self, operations, times):
        """operations: a function that appends some."""
        number = self._op("LOOP")
        operations()
        self._ops[number] = (_OP["LOOP"], len(self._ops) - number - 1, times, 0)

    # --- the whole ---

    def image(self):
        self._close()
        ops = list(self._ops) + [(_OP["END"], 0, 0, 0)]
        blob = len(ops) * _SIZE
        for number in self._fix:
            what, a, b, c = ops[number]
            ops[number] = what, a, b + blob, c
        return b"".join(struct.pack("<4Q", *op) for op in ops) + bytes(self._blob)

    def judge(self, result):
        """The first thing that is not as it must be, as a Failure, or None."""
        self._close()
        report = Report(result)
        self._complete(report)
        for judge, hint in self._checks:
            found = judge(report)
            if found:
                expected, seen = found
                return Failure(expected, seen + explained(result, seen), hint, result.name)
        if report.value(len(self._ops)) != 0:
            return Failure("the driver to come to the end of its script", describe_end(result), None, result.name)
        return None


def devices(result):
    """The devices as hv --stats json shows them."""
    found = (result.stats or {}).get("virtio")
    return found if isinstance(found, list) and all(isinstance(d, dict) for d in found) else []


def explained(result, seen):
    """What hv says of a run that went wrong: why it ended, or why a device needs a reset."""
    if seen == "nothing":
        return "; " + describe_end(result)
    reasons = [str(d.get("reason"))[:200] for d in devices(result) if d.get("reason")]
    return "; at the end a device needs a reset: \"%s\"" % reasons[0] if reasons else ""


def counted(result, slot, what, hint, **expected):
    """Numbers of a device: resets, broken, features; or chains, kicks, interrupts of its queue 0, or of queue N with chains_N."""
    found = devices(result)
    if slot >= len(found):
        return Failure("statistics of device %d" % slot, json.dumps(found)[:200], hint, result.name)
    for key, value in expected.items():
        name, _, queue = key.partition("_")
        try:
            seen = found[slot][name] if name in ("resets", "broken", "features") else found[slot]["queues"][int(queue or 0)][name]
        except (KeyError, IndexError, TypeError):
            seen = None
        seen = int(seen, 16) if name == "features" and isinstance(seen, str) else seen
        if seen != value:
            return Failure("%s: %s %s" % (what, name, hex(value) if name == "features" else value),
                           "%s, counted by hv" % (hex(seen) if name == "features" and isinstance(seen, int) else seen), hint, result.name)
    return None


def one_seed(rng):
    return [rng.getrandbits(62)]


def driver(name, make, options, engine="kvm", ends=(HV_OK,), timeout=6.0, files=None, events=False):
    """A run of the driver. make(seed) gives the Script; options: hv's, or a function of the seed; events: kicks and interrupts through
    eventfds; without them a kick is done when the store to QueueNotify is, and everything can be counted."""
    def args(params):
        chosen = options(params[0]) if callable(options) else options
        return ["--engine", engine, "--mem", "%dM" % (MEMORY >> 20), "--initrd", "@DIR@/script",
                "--event-fds", "on" if events else "off", *chosen]

    def all_files(params):
        return {"script": make(params[0]).image(), **(files(params[0]) if files else {})}

    return Run(name, GUEST, args, one_seed, timeout=timeout, files=all_files, ends=ends)


def judged(*runs):
    """verify() of a checkpoint. runs: (name, make) or (name, make, more), more(result, script) being asked too."""
    def verify(results, params):
        for name, make, *more in runs:
            script = make(params[name][0])
            failure = script.judge(results[name])
            for ask in more:
                failure = failure or ask(results[name], script)
            if failure:
                return failure
        return None

    return verify
