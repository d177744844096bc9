"""The little that the grader must know about ELF files and boot sectors: where a guest's parameters lie, and what hv needs to be started.

hv is never executed to find that out (as ldd might): what it consists of comes from a student.
"""

import os
import struct

from model import PARAMS, GraderError

SHT_NOBITS = 8
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED, DT_STRTAB = 1, 5


class Elf:
    """A little-endian ELF file of 64 or 32 bits, read whole."""

    def __init__(self, data, name):
        self.data, self.name = data, name
        if data[:6] not in (b"\x7fELF\x02\x01", b"\x7fELF\x01\x01") or len(data) < 64:
            raise GraderError("%s is not an ELF file." % name)
        self.wide = data[4] == 2
        self.phoff, self.shoff = struct.unpack_from("<QQ" if self.wide else "<II", data, 32 if self.wide else 28)
        (self.phentsize, self.phnum, self.shentsize, self.shnum, self.shstrndx) = struct.unpack_from("<5H", data, 54 if self.wide else 42)

    def _unpack(self, fmt, offset):
        try:
            return struct.unpack_from(fmt, self.data, offset)
        except struct.error:
            raise GraderError("%s is a damaged ELF file." % self.name) from None

    def sections(self):
        """(name offset, type, flags, address, offset, size, link) of each section."""
        return [self._unpack("<IIQQQQI" if self.wide else "<7I", self.shoff + i * self.shentsize) for i in range(self.shnum)]

    def segments(self):
        """(type, flags, offset, vaddr, paddr, filesz, memsz) of each segment of a 64-bit file."""
        if not self.wide:
            raise GraderError("%s is not a 64-bit ELF file." % self.name)
        return [self._unpack("<IIQQQQQ", self.phoff + i * self.phentsize) for i in range(self.phnum)]

    def string(self, offset):
        end = self.data.find(b"\0", offset)
        return self.data[offset:end].decode("ascii", "replace") if end >= 0 else ""

    def loaded_later(self):
        """Names of libraries that the program loads when it needs them: it tells them in a section, each with a zero behind it."""
        sections = self.sections()
        names = sections[self.shstrndx][4] if self.shstrndx < len(sections) else 0
        for name, _, _, _, offset, size, _ in sections:
            if names and self.string(names + name) == ".dlopen":
                return self.data[offset : offset + size].decode("ascii", "replace").strip("\0").split("\0")
        return []

    def symbol(self, name):
        """(address, section index, size) of a symbol, or None."""
        sections = self.sections()
        for _, kind, _, _, offset, size, link in sections:
            if kind != 2:  # SHT_SYMTAB
                continue
            strings = sections[link][4]
            for at in range(offset, offset + size, 24 if self.wide else 16):
                if self.wide:
                    st_name, _, _, shndx, value, st_size = self._unpack("<IBBHQQ", at)
                else:
                    st_name, value, st_size, _, _, shndx = self._unpack("<IIIBBH", at)
                if st_name and self.string(strings + st_name) == name:
                    return value, shndx, st_size
        return None

    def needed(self):
        """Names of the shared libraries, and the program interpreter's path or None."""
        interp, names, strtab = None, [], None
        for kind, _, offset, _, _, filesz, _ in self.segments():
            if kind == PT_INTERP:
                interp = self.data[offset : offset + filesz].rstrip(b"\0").decode("ascii", "replace")
            elif kind == PT_DYNAMIC:
                entries = [self._unpack("<QQ", at) for at in range(offset, offset + filesz - 15, 16)]
                strtab = next((value for tag, value in entries if tag == DT_STRTAB), None)
                names = [value for tag, value in entries if tag == DT_NEEDED]
        if strtab is None:
            return [], interp
        base = next((o - v + strtab for k, _, o, v, _, f, _ in self.segments() if k == PT_LOAD and v <= strtab < v + f), 0)
        return [self.string(base + n) for n in names], interp


# A boot sector has room for four parameters, right before the signature.
SECTOR, SECTOR_PARAMS = 512, 4


def _patch_sector(image, values, name):
    if any(values[SECTOR_PARAMS:]):  # a run always has PARAMS numbers, zeros behind its own
        raise GraderError("%s: a boot sector has %d params" % (name, SECTOR_PARAMS))
    padded = (list(values) + [0] * SECTOR_PARAMS)[:SECTOR_PARAMS]
    return image[: SECTOR - 2 - 8 * SECTOR_PARAMS] + struct.pack("<%dQ" % SECTOR_PARAMS, *padded) + image[SECTOR - 2 :]


def patch_params(image, values, name="guest"):
    """A copy of a guest's image with these 64-bit values in its array `params`, or where a boot sector has its parameters."""
    if len(values) > PARAMS or any(not 0 <= v < 1 << 64 for v in values):
        raise GraderError("%s: params are at most %d numbers of 64 bits" % (name, PARAMS))
    if image[:4] != b"\x7fELF" and image[SECTOR - 2 : SECTOR] == b"\x55\xaa":
        return _patch_sector(image, values, name)
    elf = Elf(image, name)
    found = elf.symbol("params")
    if not found:
        raise GraderError("%s has no symbol `params`, so the grader cannot give it its values." % name)
    address, shndx, size = found
    if shndx >= elf.shnum or size != 8 * PARAMS:
        raise GraderError("%s: `params` must be an array of %d 64-bit numbers in a section." % (name, PARAMS))
    _, kind, _, start, offset, length, _ = elf.sections()[shndx]
    where = offset + address - start
    if kind == SHT_NOBITS or not start <= address <= start + length - size or where + size > len(image):
        raise GraderError("%s: `params` has no bytes in the file; it belongs in the section .params." % name)
    padded = list(values) + [0] * (PARAMS - len(values))
    return image[:where] + struct.pack("<%dQ" % PARAMS, *padded) + image[where + size :]


# Where x86-64 libraries are on Debian, with its cross packages on other machines, and elsewhere.
LIBRARY_DIRS = (
    "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/x86_64-linux-gnu/lib", "/usr/x86_64-linux-gnu/lib64",
    "/lib64", "/usr/lib64", "/lib", "/usr/lib",
    "/usr/lib/x86_64-linux-gnu/ceph",  # fio's, by a path in a library
)


def _find_library(name):
    for directory in LIBRARY_DIRS:
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as f:
                head = f.read(20)
        except OSError:
            continue
        if head[:5] == b"\x7fELF\x02" and head[18:20] == b"\x3e\x00":  # EM_X86_64
            return path
    return None


def libraries(program):
    """The files that a dynamic program needs, as (path where the program looks, path of the file here)."""
    found, queue, seen = [], [program], set()
    while queue:
        with open(queue.pop(), "rb") as f:
            elf = Elf(f.read(), program)
        names, interp = elf.needed()
        names += elf.loaded_later()
        if interp and "interp" not in seen:
            seen.add("interp")
            # A fixed place: what is written in the program would be a path of the program's choice.
            loader = _find_library("ld-linux-x86-64.so.2")
            if not loader:
                raise GraderError("No loader for x86-64 programs (ld-linux-x86-64.so.2) was found on this machine.")
            found.append(("/lib64/ld-linux-x86-64.so.2", loader))
        for name in names:
            if name in seen or name == "ld-linux-x86-64.so.2":
                continue
            seen.add(name)
            path = _find_library(os.path.basename(name))
            if not path:
                raise GraderError("The library %s, which hv needs, was not found on this machine." % name)
            found.append(("/lib/x86_64-linux-gnu/" + os.path.basename(name), path))
            queue.append(path)
    return found
