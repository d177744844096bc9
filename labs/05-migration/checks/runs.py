"""Checkpoints 5.3 and 5.4: memory out and in, as runs of pages."""

import random

import streamfile
import streamscript
from model import Checkpoint, Failure
from streamfile import PAGE, PAGES_MAX, RAW, RUN, ZERO, ZSTD
from streamscript import OUT, Script, filling

MEMORY = (16 << 20) // PAGE  # pages of `hv stream`

# --- 5.3 --------------------------------------------------------------------------------------------------------------------


class Memory:
    """What the script has put into memory: gfn -> the page's bytes, none of them all zero."""

    def __init__(self, script):
        self.script, self.pages = script, {}

    def _set(self, gfn, data):
        for i in range(0, len(data), PAGE):
            self.pages[gfn + i // PAGE] = data[i : i + PAGE]

    def fill(self, gfn, count, seed):
        self.script.does("fill %d %d %d" % (gfn, count, seed))
        self._set(gfn, filling(seed, count * PAGE))

    def text(self, gfn, count, seed):
        self.script.does("text %d %d %d" % (gfn, count, seed))
        self._set(gfn, filling(seed, 64) * (count * PAGE // 64))

    def poke(self, gfn, offset, byte):
        """A page that is zero but for one byte."""
        self.script.does("poke %d %d %d" % (gfn, offset, byte))
        self._set(gfn, bytes(offset) + bytes([byte]) + bytes(PAGE - offset - 1))

    def runs(self, gfn, count):
        """The longest runs of pages of the same kind: (gfn, count, whether they are zero)."""
        found = []
        for page in range(gfn, gfn + count):
            zero = page not in self.pages
            if found and found[-1][2] == zero and found[-1][1] < PAGES_MAX:
                found[-1][1] += 1
            else:
                found.append([page, 1, zero])
        return [tuple(run) for run in found]


def _layout(seed, packed):
    """(script, memory, the calls of pages_write()) of a run of 5.3."""
    rng, script = random.Random(seed), Script()
    script.hint = ("One section for a run of zero pages, or of others: a page is zero when all of its 4096 bytes are, and a "
                   "run ends where the kind changes, behind PAGES_MAX pages, or with the call.")
    memory, at = Memory(script), rng.randrange(1, 20)
    for _ in range(7):
        (memory.text if rng.randrange(2) or packed else memory.fill)(at, rng.randrange(1, 9), rng.getrandbits(40))
        at = max(memory.pages) + rng.randrange(1, 30)
    for offset in (0, 4095, rng.randrange(8, 4088)):
        memory.poke(at, offset, rng.randrange(1, 256))
        at += rng.randrange(1, 3)
    if packed:
        at += 1  # a run that gets smaller is short enough to be told whole
        memory.fill(at, 4, rng.getrandbits(40))  # it does not get smaller
        at += 5
        memory.text(at, PAGES_MAX + 200, rng.getrandbits(40))
        at += PAGES_MAX + 200
    lone = at + PAGES_MAX + rng.randrange(100)
    memory.poke(lone, rng.randrange(PAGE), 1)
    calls = [(0, at), (at, lone - at + 5), (MEMORY - 3, 3), (min(memory.pages), 1)]
    script.does("out %s %d %d" % (OUT, not packed, 3 if packed else 0))
    script.does("begin %d 0" % (rng.getrandbits(60) | 1))
    for gfn, count in calls:
        script.does("pages %d %d" % (gfn, count))
    script.does("close")
    return script, memory, calls


def _judge_pages(result, packed):
    script, memory, calls = _layout(result.params[0], packed)
    hv, messages, wrong = streamscript.seen_written(result)
    failure = script.judge(hv) or streamscript.ended(hv)
    if failure or wrong:
        return failure or Failure("a whole stream", wrong, script.hint, result.name)
    expected = [run for call in calls for run in memory.runs(*call)]
    begin = streamfile.HEADER.size  # of the section
    for (gfn, count, zero), m in zip(expected, messages[1:]):
        what = "a run of %d %s from gfn %d on" % (count, "zero pages" if zero else "pages that are not zero", gfn)
        if (m.type, m.gfn, m.count, m.kind == ZERO) != (streamfile.PAGES, gfn, count, zero):
            return Failure(what, "one of %d %s from gfn %d on (section %d, type %d)" %
                           (m.count, "zero pages" if m.kind == ZERO else "others", m.gfn, m.sequence, m.type), script.hint, result.name)
        failure = None if zero else _judge_content(what, [memory.pages[gfn + i] for i in range(count)], m, packed, result)
        if failure:
            return failure
        if m.kind == RAW and (m.data - RUN.size >= PAGE or (not packed and (begin + streamfile.SECTION.size + m.data) % PAGE)):
            return Failure("%s: in a file its bytes lie at the next multiple of 4096 behind struct pages_header" % what,
                           "they lie at byte %d of the file" % (begin + streamfile.SECTION.size + m.data),
                           "s->wire.written says where the section begins; the zeros in between count as payload, and for its "
                           "CRC.", result.name)
        begin += streamfile.SECTION.size + m.length
    if len(messages) - 1 != len(expected):
        return Failure("%d sections, all of pages" % len(expected), "%d" % (len(messages) - 1), script.hint, result.name)
    return None


def _judge_content(what, pages, m, packed, result):
    """A run of pages that are not zero."""
    whole = b"".join(pages)
    frame = streamfile.compress(whole) if packed else None
    smaller = frame and len(frame) < len(whole)
    if (m.kind == ZSTD) != bool(smaller):
        return Failure("%s: kind %d%s" % (what, ZSTD if smaller else RAW, " (it gets smaller)" if smaller else ""), "kind %d" % m.kind,
                       "PAGES_ZSTD when s->zstd is set and pages_compress() says that it gets smaller.", result.name)
    if smaller:
        same = streamfile.uncompress(m.payload[m.data :], len(whole)) == whole
        return None if same else Failure("%s, packed" % what, "a frame that does not hold them", None, result.name)
    if m.length != m.data + len(whole):
        return Failure("%s: %d bytes" % (what, len(whole)),
                       "a section of %d bytes, whose data begins at byte %d" % (m.length, m.data), None,
                       result.name)
    for i, page in enumerate(pages):
        if m.sums[i] != streamfile.crc32c(page):
            return Failure("%s: page %d with what it holds" % (what, m.gfn + i), "other bytes", None, result.name)
    return None


RESTLESS, TIMES = 24, 30


def _restless_script(seed):
    """Somebody writes to the pages while they are written out. Whether each section's CRC is that of what it has, hv's reader says; it has
    passed 5.2."""
    rng, script = random.Random(seed), Script()
    script.hint = ("A vCPU may write to a page between the look whether it is zero, the CRC and the write. Copy a run first, "
                   "to s->scratch, and look at nothing but the copy.")
    gfn = rng.randrange(8, 100)
    script.does("fill %d %d %d" % (gfn, RESTLESS // 2, rng.getrandbits(40)))
    script.does("out mine 0 0")
    script.does("begin %d 0" % (rng.getrandbits(60) | 1))
    script.does("restless %d %d" % (gfn, RESTLESS))
    for _ in range(TIMES):
        script.does("pages %d %d" % (gfn, RESTLESS // 2))
    script.does("calm")
    script.does("close")
    script.does("in mine")
    script.says("expect", "expect 0")
    for i in range(TIMES):
        script.says("read", "read 0", "section %d, written while its pages change: its CRC is right" % i)
    return script


def _out_verify(results, params):
    return (_judge_pages(results["pages"], False) or _judge_pages(results["packed"], True) or
            _restless_script(params["restless"][0]).judge(results["restless"]) or streamscript.ended(results["restless"]))


# --- 5.4 --------------------------------------------------------------------------------------------------------------------

GUEST = 1000  # pages of the guest that the streams are for


def _good_runs(rng):
    """(what, payload, gfn, pages' bytes or None for zeros) of runs that are as they must be."""
    for gap in (0, rng.randrange(1, 5000)):
        gfn, count = rng.randrange(100, 300), rng.randrange(1, 6)
        content = rng.randbytes(count * PAGE)
        yield "pages", streamfile.pages(gfn, count, RAW, content, gap=gap), gfn, count, content
    yield "the guest's first page", streamfile.pages(0, 1, RAW, b"\x01" * PAGE), 0, 1, b"\x01" * PAGE
    yield "zero pages over others", streamfile.pages(200, 10, ZERO), 200, 10, None
    count = rng.randrange(3, 9)
    content = rng.randbytes(count * PAGE)
    yield "the guest's last pages", streamfile.pages(GUEST - count, count, RAW, content), GUEST - count, count, content
    yield "all of the guest, zero", streamfile.pages(0, GUEST, ZERO), 0, GUEST, None
    content = rng.randbytes(50) * (7 * PAGE // 50 + 1)
    frame = streamfile.compress(content[: 7 * PAGE])
    if frame:
        yield "packed pages", streamfile.pages(300, 7, ZSTD, frame), 300, 7, content[: 7 * PAGE]


def _bad_runs(rng):
    """(what, payload) of runs that have no sense."""
    page = rng.randbytes(PAGE)
    yield "of 0 pages", streamfile.pages(5, 0, RAW)
    yield "of 0 zero pages", streamfile.pages(5, 0, ZERO)
    yield "of more than PAGES_MAX zero pages", RUN.pack(0, PAGES_MAX + 1, ZERO, RUN.size, 0)
    yield "of 0xffffffff zero pages", RUN.pack(5, 0xFFFFFFFF, ZERO, RUN.size, 0)
    yield "of zero pages, one behind the guest's memory", RUN.pack(GUEST - 3, 4, ZERO, RUN.size, 0)
    yield "of pages, one behind the guest's memory", streamfile.pages(GUEST - 1, 2, RAW, page * 2)
    yield "that begins behind the guest's memory", streamfile.pages(GUEST, 1, RAW, page)
    yield "whose gfn is 2^64 - 1", streamfile.pages((1 << 64) - 1, 2, RAW, page * 2)
    yield "whose gfn is 2^52", streamfile.pages(1 << 52, 1, ZERO)
    yield "of kind 3", streamfile.pages(7, 1, 3, page)
    yield "of 2 pages with the bytes of 1", streamfile.pages(7, 2, RAW, page)
    yield "of 1 page with the bytes of 2", streamfile.pages(7, 1, RAW, page * 2)
    yield "of 1 page with 4095 bytes", streamfile.pages(7, 1, RAW, page[1:])
    yield "of zero pages with bytes", streamfile.pages(7, 1, ZERO, page)
    yield "whose data begins in struct pages_header", streamfile.pages(7, 1, RAW, page, data=RUN.size - 1)
    yield "whose data begins behind the section", RUN.pack(7, 1, RAW, 0xFFFFFFFF, PAGE) + page
    yield "whose data + size is more than the section", streamfile.pages(7, 1, RAW, page, data=RUN.size + 1)
    yield "whose data + size is less than the section", streamfile.pages(7, 1, RAW, page + b"\0", size=PAGE)
    yield "whose data + size overflows", RUN.pack(7, 1, RAW, 0xFFFFF100, 0xF00 + RUN.size + PAGE) + page
    yield "in a section of %d bytes" % (RUN.size - 1), RUN.pack(7, 1, ZERO, RUN.size, 0)[:-1]
    yield "in a section of 0 bytes", b""
    yield "that says packed, and is not", streamfile.pages(7, 1, ZSTD, page[:100])
    frame = streamfile.compress(bytes(3) + page + page)
    if frame:
        whole = streamfile.compress(page * 2)
        yield "of 1 packed page that holds 2", streamfile.pages(7, 1, ZSTD, whole)
        yield "of 3 packed pages that hold 2", streamfile.pages(7, 3, ZSTD, whole)
        yield "of packed pages, cut off", streamfile.pages(7, 2, ZSTD, whole[:-5])


def _in_plan(seed):
    """(the script, the stream)"""
    rng, script = random.Random(seed), Script()
    script.hint = ("Check gfn, count, data and size against each other, against the section's length and against the guest's "
                   "pages, none of them with an addition that can overflow, before you follow one. A run of zeros clears what "
                   "was there: the sink gets NULL.")
    good, bad = list(_good_runs(rng)), list(_bad_runs(rng))
    entries = [(what, payload, run) for what, payload, *run in good] + [(what, payload, None) for what, payload in bad]
    tail = entries[:4]
    rng.shuffle(entries)
    entries += tail  # so that something is there at the end
    stream = streamfile.header(rng.getrandbits(60) | 1)
    memory = {gfn: None for gfn in range(GUEST)}
    seed = rng.getrandbits(40)
    script.does("fill 0 %d %d" % (GUEST, seed))  # memory that was used before
    before = filling(seed, GUEST * PAGE)
    memory = {gfn: before[gfn * PAGE : (gfn + 1) * PAGE] for gfn in range(GUEST)}
    script.does("in s")
    script.says("expect", "expect 0")
    for number, (what, payload, run) in enumerate(entries):
        stream += streamfile.section(streamfile.PAGES, payload, sequence=number)
        script.says("read", "read 0")
        if not run:
            script.refuses("take %d" % GUEST, ("EPROTO",), "a run %s" % what)
            continue
        gfn, count, content = run
        script.says("take %d" % GUEST, "take 0", "a run of %s, from gfn %d on" % (what, gfn),
                    ["page %d %s" % (gfn + i, "data" if content else "zero") for i in range(count)])
        for i in range(count):
            memory[gfn + i] = content[i * PAGE : (i + 1) * PAGE] if content else bytes(PAGE)
    sums = ["page %d %x" % (gfn, streamfile.crc32c(data)) for gfn, data in memory.items() if any(data)]
    script.says("sums 0 %d" % GUEST, "sums 0", "what is in memory then", sums)
    return script, stream


def _in_verify(results, params):
    result = results["pages"]
    return _in_plan(params["pages"][0])[0].judge(result) or streamscript.ended(result)


CHECKPOINTS = [
    Checkpoint(
        "5.3", "pages out", 5,
        "pages_write() writes memory as runs of zero pages and of others, in as few sections as it takes; in a file, raw pages "
        "lie at multiples of 4096; runs that get smaller are packed; and a page that changes meanwhile tears no checksum.",
        "pages_write() in stream.c.",
        runs=[streamscript.written("pages", lambda seed: _layout(seed, False)[0]),
              streamscript.written("packed", lambda seed: _layout(seed, True)[0]),
              streamscript.stream("restless", _restless_script, lambda seed: {"mine": b""})],
        verify=_out_verify, depends=["5.1", "5.2"]),
    Checkpoint(
        "5.4", "pages in", 6,
        "pages_read() puts pages where they belong, zeros over what was there included, and refuses runs that lie outside of "
        "memory or do not hold what they say.",
        "pages_read() in stream.c.",
        runs=[streamscript.stream("pages", lambda seed: _in_plan(seed)[0], lambda seed: {"s": _in_plan(seed)[1]})],
        verify=_in_verify, depends=["5.2"]),
]
