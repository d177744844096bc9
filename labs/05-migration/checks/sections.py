"""Checkpoints 5.1 and 5.2: sections out and in. What hv writes is compared byte by byte with what is made here; what it reads was made here
as well, and damaged in every way."""

import random

import streamfile
import streamscript
from model import Checkpoint, Failure
from streamfile import HEADER, SECTION, SECTION_MAX
from streamscript import OUT, Script, filling

LENGTHS = (0, 1, 3, 24, 4096, 9000)

# --- 5.1 --------------------------------------------------------------------------------------------------------------------


def _written(seed):
    """(the script, the bytes that the file must have)"""
    rng, script, data = random.Random(seed), Script(), b""
    script.hint = ("stream_begin() writes the 32 bytes of struct stream_header, section_write() 24 bytes and the payload. A refused "
                   "section leaves nothing in the stream.")
    script.does("out %s 0 0" % OUT)
    for turn in range(2):  # a header counts from 0 again
        ident, flags = rng.getrandbits(64) | 1, turn
        script.does("begin %#x %d" % (ident, flags))
        data += streamfile.header(ident, flags)
        refused = rng.randrange(2, 8)
        for number in range(12):
            if number == refused:
                script.refuses("section 5 0 %d 1 2" % (SECTION_MAX + 1), ("EINVAL",), "a section of more than SECTION_MAX bytes")
            type_, instance = rng.randrange(1, 75), rng.choice((0, 1, 7, 0xFFFFFFFF))
            length = LENGTHS[number] if number < len(LENGTHS) else rng.randrange(1500)
            seed, pieces = rng.getrandbits(40), rng.randrange(1, 8) if length or rng.randrange(2) else 0
            script.does("section %d %d %d %d %d" % (type_, instance, length, seed, pieces))
            data += streamfile.section(type_, filling(seed, length), instance, number)
    script.does("close")
    return script, data


def _explain(data, expected):
    """Where a stream differs from the one that it is to be: (expected, seen) as sentences."""
    at, number = 0, -1
    while data[at : at + 1] and data[at] == expected[at]:
        at += 1
    begin, fields = 0, ()
    while True:  # the header or section of `expected` that has byte `at`
        is_header = expected[begin : begin + 8] == streamfile.MAGIC
        size = HEADER.size if is_header else SECTION.size + SECTION.unpack_from(expected, begin)[3]
        if at < begin + size or begin + size >= len(expected):
            break
        begin, number = begin + size, -1 if expected[begin + size : begin + size + 8] == streamfile.MAGIC else number + 1
    if is_header:
        fields, shape, name = ("magic", "version", "flags", "id", "reserved", "crc"), HEADER, "the header"
    else:
        fields, shape, name = ("type", "version", "instance", "length", "sequence", "reserved", "crc"), SECTION, "section %d" % number
    if at >= len(data):
        return "a file of %d bytes" % len(expected), "it ends at byte %d, in %s" % (len(data), name)
    if at >= begin + shape.size:
        return "the payload of %s, from its byte %d on: %s" % (name, at - begin - shape.size, expected[at : at + 12].hex(" ")), \
               data[at : at + 12].hex(" ")
    have = shape.unpack_from(data.ljust(begin + shape.size, b"\0"), begin)
    want = shape.unpack_from(expected, begin)
    for field, h, w in zip(fields, have, want):
        if h != w:
            return "%s of %s: %s" % (field, name, w if isinstance(w, bytes) else "%#x" % w), "%s" % (
                h if isinstance(h, bytes) else "%#x" % h)
    return "nothing behind byte %d" % len(expected), "%d bytes" % len(data)


def _write_verify(results, params):
    result = results["write"]
    script, expected = _written(params["write"][0])
    failure = script.judge(result) or streamscript.ended(result)
    if failure or result.back == expected:
        return failure
    if len(result.back) > len(expected) and result.back.startswith(expected):
        return Failure("a file of %d bytes" % len(expected), "one of %d" % len(result.back), script.hint, result.name)
    return Failure(*_explain(result.back, expected), "The CRC-32C is that of everything before it in the header and, for a section, of the "
                   "payload behind; numbers are little-endian.", result.name)


# --- 5.2 --------------------------------------------------------------------------------------------------------------------


class Good:
    """A stream without a fault: its header, and its sections as arguments of streamfile.section()."""

    def __init__(self, rng, count=6):
        self.ident, self.flags = rng.getrandbits(64) | 1, rng.randrange(2)
        self.sections = [dict(type_=rng.randrange(1, 75), instance=rng.choice((0, 3, 0xFFFFFFFF)), sequence=i,
                              payload=rng.randbytes(rng.choice((0, 1, 24, 300, rng.randrange(3000))))) for i in range(count)]

    def header(self, **more):
        return streamfile.header(self.ident, self.flags, **more)

    def bytes(self, count=None):
        return self.header() + b"".join(streamfile.section(**s) for s in self.sections[:count])


class Case:
    """A stream and what reading it must do: the statuses of its refusal, when it was read so far as `good` sections."""

    def __init__(self, what, data, source, good, statuses=(), header=True):
        self.what, self.data, self.source, self.good, self.statuses, self.header = what, data, source, good, statuses, header

    def play(self, script, name):
        script.does("in %s" % name)
        if not self.header:
            script.refuses("expect", self.statuses, self.what)
            return
        script.says("expect", "expect 0", self.what, ["header version 1 flags %d id %#x" % (self.source.flags, self.source.ident)])
        for s in self.source.sections[: self.good]:
            script.says("read", "read 0", self.what, ["section type %d instance %d length %d sequence %d payload %x" % (
                s["type_"], s["instance"], len(s["payload"]), s["sequence"], streamfile.crc32c(s["payload"]))])
        script.refuses("read", self.statuses, self.what)


def _flipped(data, bit):
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


PROTOCOL, END = ("EPROTO",), ("ENODATA",)


def _headers(rng):
    """Headers that are none."""
    for what, more in (("another magic number, with its CRC", {"magic": b"TRAPDOOS"}), ("version 2, with its CRC", {"version": 2}),
                       ("version 0, with its CRC", {"version": 0})):
        good = Good(rng)
        yield Case("a header with " + what, good.bytes().replace(good.header(), good.header(**more), 1), good, 0, PROTOCOL, False)
    good = Good(rng)
    good.ident = 0
    yield Case("a header with id 0", good.bytes(), good, 0, PROTOCOL, False)
    for first, last in ((0, 8), (8, 12), (12, 16), (16, 24), (28, 32)):
        good, bit = Good(rng), rng.randrange(8 * first, 8 * last)
        yield Case("a header with bit %d the other way round" % bit, _flipped(good.bytes(), bit), good, 0, PROTOCOL, False)
    for length in (0, rng.randrange(1, 31), 31):
        good = Good(rng)
        yield Case("the first %d bytes of a header" % length, good.bytes()[:length], good, 0, END, False)


def _sections(rng):
    """Streams of which one section is not as it must be."""
    def spoilt(what, statuses, **more):
        good = Good(rng)
        at = rng.randrange(len(good.sections))
        bad = {**good.sections[at], **more}
        data = good.bytes(at) + streamfile.section(**bad) + b"".join(streamfile.section(**s) for s in good.sections[at + 1 :])
        return Case("section %d with %s" % (at, what), data, good, at, statuses)

    yield spoilt("version 2, with its CRC", PROTOCOL, version=2)
    yield spoilt("version 0, with its CRC", PROTOCOL, version=0)
    yield spoilt("a reserved bit, with its CRC", PROTOCOL, reserved=1 << rng.randrange(32))
    yield spoilt("the number 100, with its CRC", PROTOCOL, sequence=100)
    yield spoilt("the number 0xffffffff, with its CRC", PROTOCOL, sequence=0xFFFFFFFF)
    yield spoilt("CRC 0", PROTOCOL, crc=0)
    for length in (SECTION_MAX + 1, 0x80000000, 0xFFFFFFFF):
        yield spoilt("a length of %#x" % length, PROTOCOL, length=length)
    for first, last in ((0, 2), (2, 4), (4, 8), (12, 16), (16, 20), (20, 24)):
        good = Good(rng)
        at, bit = rng.randrange(len(good.sections)), rng.randrange(8 * first, 8 * last)
        yield Case("section %d with bit %d of its header the other way round" % (at, bit),
                   _flipped(good.bytes(), 8 * len(good.bytes(at)) + bit), good, at, PROTOCOL)
    for _ in range(3):
        good = Good(rng)
        at = rng.choice([i for i, s in enumerate(good.sections) if s["payload"]] or [None])
        if at is not None:
            bit = rng.randrange(8 * len(good.sections[at]["payload"]))
            yield Case("section %d with bit %d of its payload the other way round" % (at, bit),
                       _flipped(good.bytes(), 8 * (len(good.bytes(at)) + SECTION.size) + bit), good, at, PROTOCOL)


def _orders(rng):
    """Sections that are whole, in an order that is not."""
    def ordered(what, good, order, count):
        data = good.header() + b"".join(streamfile.section(**good.sections[i]) for i in order)
        return Case(what, data, good, count, PROTOCOL)

    at = rng.randrange(1, 5)
    yield ordered("section %d left out" % at, Good(rng), [i for i in range(6) if i != at], at)
    yield ordered("section 0 left out", Good(rng), range(1, 6), 0)
    yield ordered("section %d twice" % at, Good(rng), sorted([*range(6), at]), at + 1)
    yield ordered("sections %d and %d in each other's place" % (at, at + 1), Good(rng), [*range(at), at + 1, at, *range(at + 2, 6)], at)


def _ends(rng):
    """Streams that end too early; the whole one ends as well."""
    good = Good(rng)
    yield Case("the end behind the last section", good.bytes(), good, len(good.sections), END)
    good = Good(rng)
    yield Case("nothing behind the header", good.header(), good, 0, END)
    for part in ("header", "payload"):
        good = Good(rng)
        at = rng.randrange(len(good.sections))
        good.sections[at]["payload"] = rng.randbytes(200)
        cut = rng.randrange(1, SECTION.size) if part == "header" else SECTION.size + rng.randrange(200)
        yield Case("an end within the %s of section %d" % (part, at), good.bytes()[: len(good.bytes(at)) + cut], good, at, END)


def _cases(seed):
    rng = random.Random(seed)
    cases = [case for kind in (_ends, _headers, _sections, _orders) for case in kind(rng)]
    return {"s%d" % i: case for i, case in enumerate(cases)}


def _read_script(seed):
    script = Script()
    for name, case in _cases(seed).items():
        script.hint = ("Length first (it is bounded before anything is read for it), then the payload, the CRC, the number, the version. "
                       "A stream that ends is -ENODATA, a wrong one -EPROTO, and stream_fail() says why.")
        case.play(script, name)
    return script


def _read_verify(results, params):
    result = results["read"]
    return _read_script(params["read"][0]).judge(result) or streamscript.ended(result)


CHECKPOINTS = [
    Checkpoint(
        "5.1", "sections out", 4,
        "stream_begin() and section_write() write a header and sections with their lengths, numbers and checksums; the file is the same "
        "byte by byte as one that was made elsewhere.",
        "stream_begin() and section_write() in stream.c.",
        runs=[streamscript.stream("write", lambda seed: _written(seed)[0], back=OUT, room=100_000)],
        verify=_write_verify),
    Checkpoint(
        "5.2", "sections in", 6,
        "stream_expect() and section_read() read what is whole, and refuse everything else with -EPROTO or -ENODATA and a "
        "sentence: damaged headers, flipped bits, lengths that are too large, sections that are missing, twice, swapped or cut "
        "off.",
        "stream_expect() and section_read() in stream.c.",
        runs=[streamscript.stream("read", _read_script, lambda seed: {name: case.data for name, case in _cases(seed).items()})],
        verify=_read_verify, depends=["5.1"]),
]
