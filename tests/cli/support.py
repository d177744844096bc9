"""What the command-line tests share: the programs under test, images made by hand, and commands run in the test host."""

import pathlib
import re
import struct
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {"hv": TOP / "build/reference/hv", "hv with sanitizers": TOP / "build/san-reference/hv"}
GUESTS = TOP / "build/guests/lab1"

OK, GUEST_FAILED, USAGE, HOST, STOPPED, TODO, TIMEOUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 124, 130
STATUSES = {OK, GUEST_FAILED, USAGE, HOST, STOPPED, TODO, TIMEOUT, INTERRUPTED}
CRASH = re.compile(r"AddressSanitizer|UndefinedBehaviorSanitizer|runtime error|LeakSanitizer|Segmentation|core dumped")


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


def in_test_host(files, cases, timeout=240):
    """Runs shell commands in one boot of the test host. cases: name -> command. Returns name -> (status, stdout, stderr)."""
    script = ""
    for name, command in cases.items():
        script += f'echo "@case {name}"; ( {command} ) >/tmp/out 2>/tmp/err; echo "@status $?"\n'
        script += 'cat /tmp/out; echo; echo "@stderr"; cat /tmp/err; echo; echo "@end"\n'
    arguments = [word for file in files for word in ("--file", str(file))]
    done = run(TOP / "scripts/testhost-run", "--timeout", timeout, *arguments, "--", script)
    results = {}
    pattern = r"^@case (.*?)\n@status (\d+)\n(.*?)\n?@stderr\n(.*?)\n?@end$"
    for name, status, out, err in re.findall(pattern, done.stdout, re.M | re.S):
        results[name] = (int(status), out.rstrip("\n"), err.rstrip("\n"))
    if set(results) != set(cases):
        missing = ", ".join(sorted(set(cases) - set(results)))
        raise RuntimeError(f"the test host did not come to: {missing}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return results
