"""The stream of a saved or moving VM (docs/stream.md) in Python: written, damaged, and taken apart. Nothing here is hv's."""

import ctypes
import ctypes.util
import struct
from dataclasses import dataclass

MAGIC = b"TRAPDOOR"
VERSION = 1
SECTION_MAX = 8 << 20
PAGE = 4096
PAGES_MAX = 1024

CONFIG, CPUID, PAGES, ROUND, PART, CPU, OWED, END = range(1, 9)
ACCEPT, REFUSE, READY, COMMIT, COMMITTED, CANCEL, ASK, ANSWER, NEED, HAVE, DONE = range(64, 75)
NAMES = {CONFIG: "CONFIG", CPUID: "CPUID", PAGES: "PAGES", ROUND: "ROUND", PART: "PART", CPU: "CPU", OWED: "OWED", END: "END",
         ACCEPT: "ACCEPT", REFUSE: "REFUSE", READY: "READY", COMMIT: "COMMIT", COMMITTED: "COMMITTED", CANCEL: "CANCEL", ASK: "ASK",
         ANSWER: "ANSWER", NEED: "NEED", HAVE: "HAVE", DONE: "DONE"}
RAW, ZERO, ZSTD = range(3)

HEADER = struct.Struct("<8sIIQII")
SECTION = struct.Struct("<HHIIIII")
RUN = struct.Struct("<QIIII")

# Castagnoli's polynomial, bits reversed (RFC 3720, appendix B.4).
_TABLE = []
for _v in range(256):
    for _ in range(8):
        _v = _v >> 1 ^ (0x82F63B78 if _v & 1 else 0)
    _TABLE.append(_v)


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# --- writing ----------------------------------------------------------------------------------------------------------------


def header(ident, flags=0, magic=MAGIC, version=VERSION, reserved=0, crc=None):
    head = HEADER.pack(magic, version, flags, ident, reserved, 0)[:-4]
    return head + struct.pack("<I", crc32c(head) if crc is None else crc)


def section(type_, payload=b"", instance=0, sequence=0, version=1, reserved=0, length=None, crc=None):
    length = len(payload) if length is None else length
    head = SECTION.pack(type_, version, instance, length, sequence, reserved, 0)[:-4]
    return head + struct.pack("<I", crc32c(payload, crc32c(head)) if crc is None else crc) + payload


def pages(gfn, count, kind, content=b"", gap=0, data=None, size=None):
    """The payload of a run of pages. gap: bytes of zeros in front of them."""
    data = RUN.size + gap if data is None else data
    return RUN.pack(gfn, count, kind, data, len(content) if size is None else size) + bytes(gap) + content


# --- zstd, by the library that hv is linked with as well ---------------------------------------------------------------------


def _library():
    name = ctypes.util.find_library("zstd")
    if not name:
        return None
    library = ctypes.CDLL(name)
    for function in ("ZSTD_compress", "ZSTD_decompress", "ZSTD_compressBound"):
        getattr(library, function).restype = ctypes.c_size_t
    return library


_zstd = _library()


def compress(data):
    """A frame, or None where there is no library."""
    if not _zstd:
        return None
    room = _zstd.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    out = ctypes.create_string_buffer(room)
    size = _zstd.ZSTD_compress(out, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), 3)
    return None if _zstd.ZSTD_isError(ctypes.c_size_t(size)) else out.raw[:size]


def uncompress(frame, length):
    """The bytes of a frame, None if it is none, or has another length."""
    out = ctypes.create_string_buffer(length)
    size = _zstd.ZSTD_decompress(out, ctypes.c_size_t(length), frame, ctypes.c_size_t(len(frame))) if _zstd else 0
    return out.raw if size == length else None


# --- reading ----------------------------------------------------------------------------------------------------------------


@dataclass
class Section:
    type: int
    instance: int
    sequence: int
    payload: bytes
    at: int  # where it begins in the stream


class Damaged(Exception):
    """The message says what is wrong with a stream."""


def parse_header(data, at=0):
    """(id, flags), or Damaged."""
    if len(data) - at < HEADER.size:
        raise Damaged("there are %d bytes where a header of %d belongs" % (len(data) - at, HEADER.size))
    magic, version, flags, ident, reserved, crc = HEADER.unpack_from(data, at)
    if magic != MAGIC:
        raise Damaged("it does not begin with %s but with %r" % (MAGIC.decode(), magic))
    if crc != crc32c(data[at : at + HEADER.size - 4]):
        raise Damaged("the CRC of the header is %#x, and should be %#x" % (crc, crc32c(data[at : at + HEADER.size - 4])))
    if version != VERSION or reserved or not ident:
        raise Damaged("the header has version %d, id %#x, reserved %#x" % (version, ident, reserved))
    return ident, flags


def parse(data, at=HEADER.size):
    """All sections behind the header; Damaged."""
    found = []
    while at < len(data):
        number = len(found)
        if len(data) - at < SECTION.size:
            raise Damaged("%d bytes are left behind section %d" % (len(data) - at, number - 1))
        type_, version, instance, length, sequence, reserved, crc = SECTION.unpack_from(data, at)
        if length > SECTION_MAX or length > len(data) - at - SECTION.size:
            raise Damaged("section %d says that it has %d bytes; %d are left" % (number, length, len(data) - at - SECTION.size))
        payload = data[at + SECTION.size : at + SECTION.size + length]
        expected = crc32c(payload, crc32c(data[at : at + SECTION.size - 4]))
        if crc != expected:
            raise Damaged("the CRC of section %d (type %d) is %#x, and should be %#x" % (number, type_, crc, expected))
        if sequence != number:
            raise Damaged("section %d has the sequence number %d" % (number, sequence))
        if version != 1 or reserved:
            raise Damaged("section %d has version %d, reserved %#x" % (number, version, reserved))
        found.append(Section(type_, instance, sequence, payload, at))
        at += SECTION.size + length
    return found


def parse_pages(s):
    """(gfn, count, kind, data, the pages' bytes or None) of a section of pages; Damaged."""
    if len(s.payload) < RUN.size:
        raise Damaged("section %d has %d bytes, too few for pages" % (s.sequence, len(s.payload)))
    gfn, count, kind, data, size = RUN.unpack_from(s.payload)
    if not 0 < count <= PAGES_MAX or data < RUN.size or data + size != len(s.payload) or any(s.payload[RUN.size : data]):
        raise Damaged("section %d: gfn %d, count %d, kind %d, data %d, size %d in a payload of %d bytes" %
                      (s.sequence, gfn, count, kind, data, size, len(s.payload)))
    content = s.payload[data:]
    if kind == ZERO:
        return (gfn, count, kind, data, None) if not size else _wrong(s, "zero pages with %d bytes of data" % size)
    if kind == ZSTD:
        content = uncompress(content, count * PAGE) if _zstd else bytes(count * PAGE)
    if kind not in (RAW, ZSTD) or content is None or len(content) != count * PAGE:
        return _wrong(s, "%d pages of kind %d in %d bytes" % (count, kind, size))
    return gfn, count, kind, data, content


def _wrong(s, what):
    raise Damaged("section %d: %s" % (s.sequence, what))
