"""What the command-line tests share: the programs under test, images made by hand, and commands run in the test host."""

import pathlib
import struct
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]

sys.path.insert(0, str(TOP / "tests/vm"))
import host  # noqa: E402
from host import CRASH, GUEST_FAILED, HOST, INTERRUPTED, OK, STOPPED, TIMEOUT, TODO, USAGE  # noqa: E402,F401

PROGRAMS = {"hv": host.HV, "hv with sanitizers": host.HV_SAN}
GUESTS = host.GUESTS / "lab1"

STATUSES = host.DOCUMENTED


def run(program, *arguments, **options):
    return subprocess.run([str(program), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=120, check=False, **options)


def elf(segments=((0x100000, b"\xf4", None),), entry=None, machine=62, bits=2, data=1, kind=2):
    """An ELF file. segments: (address, bytes, size in memory or None for as many as there are bytes)."""
    header_size, program_size = 64, 56
    offset = header_size + program_size * len(segments)
    headers, body = b"", b""
    for address, content, size in segments:
        headers += struct.pack("<IIQQQQQQ", 1, 7, offset + len(body), address, address, len(content),
                               len(content) if size is None else size, 0x1000)
        body += content
    if entry is None:
        entry = segments[0][0] if segments else 0
    ident = b"\x7fELF" + bytes([bits, data, 1]) + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, entry, header_size, 0, 0, header_size, program_size,
                       len(segments), 64, 0, 0)
    return ident + head + headers + body


def bzimage(version=0x20f, size=0x20000):
    """The beginning of a Linux image with this boot protocol version; behind it nothing that could run."""
    image = bytearray(size)
    image[0x1f1] = 4  # setup sectors
    struct.pack_into("<H", image, 0x1fe, 0xaa55)
    image[0x200:0x202] = b"\xeb\x66"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = 1  # LOADED_HIGH
    struct.pack_into("<I", image, 0x1f4, (size - 5 * 512) // 16)
    struct.pack_into("<H", image, 0x236, 1)  # XLF_KERNEL_64
    struct.pack_into("<I", image, 0x230, 0x200000)  # alignment
    struct.pack_into("<Q", image, 0x258, 0x1000000)  # preferred address
    struct.pack_into("<I", image, 0x260, 0x100000)  # init_size
    return bytes(image)


def in_test_host(files, cases):
    """Runs shell commands in one boot of the test host. cases: name -> command. Returns name -> (status, stdout, stderr)."""
    commands = {name: host.Command(["sh", "-c", command], limit=90) for name, command in cases.items()}
    results = host.run(commands, files)
    return {name: (result.status, result.stdout.decode(errors="replace").rstrip("\n"), result.stderr.rstrip("\n"))
            for name, result in results.items()}
