"""What is inside a Linux kernel image (bzImage): the ELF file vmlinux, for a machine whose firmware enters that directly."""

import lzma
import os
import struct
import zlib

from made import made
from model import GraderError

SETUP_SECTS, HEADER, HEADER_END, PAYLOAD = 0x1F1, 0x1F1, 0x201, 0x248  # offsets in the file (Linux, boot.rst)
LZ4_LEGACY = b"\x02\x21\x4c\x18"


def setup_header(image):
    """The setup header, which belongs at the same offset, HEADER, in struct boot_params."""
    if image[0x202:0x206] != b"HdrS":
        raise GraderError("The test host's kernel (build/testhost/vmlinuz) is not a Linux kernel image for x86.")
    return image[HEADER : 0x202 + image[HEADER_END]]


def vmlinux(image):
    """The kernel's ELF file, decompressed."""
    setup_header(image)
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = ((image[SETUP_SECTS] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    if payload[:4] == LZ4_LEGACY:
        elf = _lz4_legacy(payload)
    elif payload[:6] == b"\xfd7zXZ\0":
        elf = lzma.LZMADecompressor().decompress(payload)
    elif payload[:2] == b"\x1f\x8b":
        elf = zlib.decompressobj(31).decompress(payload)
    else:
        raise GraderError("The test host's kernel is compressed in a way that is not known here (LZ4, xz and gzip are).")
    if elf[:4] != b"\x7fELF":
        raise GraderError("The test host's kernel image holds no ELF file.")
    return elf


def cached_vmlinux(path):
    """vmlinux() of the image at path, kept as a file beside it, because decompressing takes a second. Beside a kernel in a place that
    cannot be written to nothing is kept."""
    elf = None

    def decompress(target):
        nonlocal elf
        with open(path, "rb") as f:
            elf = vmlinux(f.read())
        with open(target, "wb") as f:
            f.write(elf)

    try:
        with open(made(os.path.join(os.path.dirname(path), "vmlinux"), [path], decompress), "rb") as f:
            return f.read()
    except OSError:
        if elf is None:
            raise
        return elf


def _lz4_legacy(payload):
    """The legacy frame that `lz4 -l` writes and the kernel's build appends four bytes to: length and block, again and again."""
    blocks, at = [], 4
    while at + 4 <= len(payload):
        (length,) = struct.unpack_from("<I", payload, at)
        at += 4
        if length > len(payload) - at:
            break  # the size of the whole, which the build appends
        blocks.append(_lz4_block(payload[at : at + length]))
        at += length
    return b"".join(blocks)


def _lz4_length(source, at, length):
    """A length of 15 goes on in further bytes, up to one that is not 255."""
    while True:
        length += source[at]
        at += 1
        if source[at - 1] != 255:
            return at, length


def _lz4_block(source):
    out, at, end = bytearray(), 0, len(source)
    while True:
        token = source[at]
        at += 1
        literals, match = token >> 4, token & 15
        if literals == 15:
            at, literals = _lz4_length(source, at, literals)
        out += source[at : at + literals]
        at += literals
        if at >= end:
            return out
        distance = source[at] | source[at + 1] << 8
        at += 2
        if match == 15:
            at, match = _lz4_length(source, at, match)
        match += 4
        start = len(out) - distance
        if distance >= match:
            out += out[start : start + match]
        else:  # it overlaps what it makes: a pattern, repeated
            out += (out[start:] * (match // distance + 1))[:match]
