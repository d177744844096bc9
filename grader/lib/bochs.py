"""The Bochs test host: a PC with an Intel processor that has VMX and EPT, in software. QEMU's emulation has neither.

The machine has no BIOS, no display and no disk. Its firmware is testhost/rom.S, which enters a kernel that Bochs has loaded
itself; that saves half of the boot.
"""

import os
import re
import shutil
import struct
import subprocess

from bzimage import HEADER, cached_vmlinux, setup_header
from elf import PT_LOAD, Elf
from machine import QUICK, HostDied, Machine, find_compiler
from made import made
from model import GraderError

MEMORY_MIB = 512
# Instructions in a second of the guest's time, whatever they take outside: 50 to 90 million in a second were seen. A guest that
# must do something for each tick of a timer gets as far between two of them as it does on a slow real machine.
IPS = 100_000_000
APPEND = (
    "console=ttyS0,115200 quiet loglevel=1 panic=-1 oops=panic reboot=t acpi=off pci=off lpj=1000000 "
    "random.trust_cpu=on channel=parallel " + QUICK
)

# Debian's Bochs has its debugger built in, which waits for a command (`c`) before it starts. The term interface is the only one that
# listens nowhere; it wants a terminal's name and no terminal. A BIOS for a display, which is not there, must be a file all the same.
BOCHSRC = """\
plugin_ctrl: unmapped=1, biosdev=0, speaker=0, gameport=0, parallel=1, extfpuirq=1, iodebug=0, serial=1
config_interface: textconfig
display_library: term
cpu: model=corei7_haswell_4770, count=1, ips={ips}, reset_on_triple_fault=0
memory: guest={mib}, host={mib}
romimage: file={dir}/rom
vgaromimage: file={dir}/nothing
optramimage1: file={dir}/image, address={base:#x}
com1: enabled=1, mode=file, dev={dir}/console
com2: enabled=1, mode=term, dev=/proc/self/fd/{answers}
parport1: enabled=1, file=/proc/self/fd/{records}
clock: sync=none
mouse: enabled=0
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
log: {dir}/log
"""

PAGE, BLOCK = 4096, 0x20000  # Bochs' unit of memory: rom.S
E820_RAM = 1
ROM_NUMBERS = "<IIIIIHI"  # what rom.S begins with


def installed():
    """True when Debian's packages bochs and bochs-term, or others like them, are there."""
    return shutil.which("bochs-bin") is not None or shutil.which("bochs") is not None


def build_rom(root):
    """Assembles the ROM when it is missing or old. Returns its bytes."""
    source = os.path.join(root, "grader", "testhost", "rom.S")

    def assemble(target):
        done = subprocess.run(
            [find_compiler(), "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0xffff0000,--oformat=binary,--build-id=none", "-o", target,
             source], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )
        if done.returncode:
            raise GraderError("The boot ROM of the Bochs test host could not be assembled:\n" + done.stderr[:2000])

    with open(made(os.path.join(root, "build", "grade", "rom"), [source], assemble), "rb") as f:
        return f.read()


def _align(image, size):
    image.extend(bytes(-len(image) % size))


def boot_image(rom, kernel, initrd, memory, append):
    """Returns (ROM, image, address of the image): the ROM's bytes with its numbers filled in, and what is in memory when the ROM
    begins. kernel: path of the bzImage. memory: bytes."""
    with open(kernel, "rb") as f:
        header = setup_header(f.read(8192))
    elf = Elf(cached_vmlinux(kernel), kernel)
    segments = [s for s in elf.segments() if s[0] == PT_LOAD]
    base = min(s[4] for s in segments)
    image = bytearray(max(s[4] + s[6] for s in segments) - base)
    for _, _, offset, _, physical, size, _ in segments:
        image[physical - base : physical - base + size] = elf.data[offset : offset + size]
    _align(image, PAGE)
    tables = base + len(image)
    image += _identity_map(tables)
    gdt = base + len(image)
    image += struct.pack("<4Q", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)  # __BOOT_CS, __BOOT_DS
    command_line = base + len(image)
    image += append.encode("ascii") + b"\0"
    _align(image, PAGE)
    params = base + len(image)
    image.extend(bytes(PAGE))
    ramdisk = base + len(image)
    image += initrd
    _align(image, BLOCK)
    if base + len(image) > memory:
        raise GraderError("What the jobs need (%d MiB) does not fit into the Bochs test host's memory." % (len(image) >> 20))
    at = params - base
    image[at : at + PAGE] = _boot_params(header, command_line, ramdisk, len(initrd), memory)
    (entry,) = struct.unpack_from("<Q", elf.data, 24)
    numbers = struct.pack(ROM_NUMBERS, base, base + len(image), tables, params, entry, 31, gdt)
    return numbers + rom[len(numbers) :], image, base


def _identity_map(at):
    """Page tables at this address that map the first 4 GiB to themselves, in 2 MiB pages (present, writable)."""
    directory = at + 2 * PAGE
    pml4 = struct.pack("<Q", at + PAGE | 3).ljust(PAGE, b"\0")
    pdpt = struct.pack("<4Q", *(directory + i * PAGE | 3 for i in range(4))).ljust(PAGE, b"\0")
    return pml4 + pdpt + struct.pack("<2048Q", *(i << 21 | 0x83 for i in range(2048)))


def _boot_params(header, command_line, ramdisk, ramdisk_size, memory):
    """struct boot_params (Linux, zero-page.rst): the kernel's own header, with what the boot loader answers."""
    params = bytearray(PAGE)
    params[HEADER : HEADER + len(header)] = header
    params[0x210] = 0xFF  # type_of_loader: none that is registered
    params[0x211] |= 1  # loadflags: the protected-mode code is at 1 MiB or above
    struct.pack_into("<II", params, 0x218, ramdisk, ramdisk_size)
    struct.pack_into("<I", params, 0x228, command_line)
    ranges = [(0, 0x9F000), (0x100000, memory - 0x100000)]
    params[0x1E8] = len(ranges)
    for i, (start, size) in enumerate(ranges):
        struct.pack_into("<QQI", params, 0x2D0 + 20 * i, start, size, E820_RAM)
    return params


class BochsMachine(Machine):
    """Records come out of the parallel port, which costs the emulator a hundredth of what a serial port costs; answers go into the
    second serial port. Both are pipes without a name in the file system."""

    program = "Bochs"

    def __init__(self, root, kernel, initrd, memory_mib=MEMORY_MIB, append=APPEND):
        super().__init__()
        self._bochs = shutil.which("bochs-bin") or shutil.which("bochs")
        if not self._bochs:
            raise GraderError("Bochs is not installed (Debian and Ubuntu: apt install bochs bochs-term).")
        self._rom = build_rom(root)
        self._kernel, self._initrd, self._mib, self._append = kernel, initrd, memory_mib, append

    def _start(self, messages):
        rom, image, base = boot_image(self._rom, self._kernel, self._initrd, self._mib << 20, self._append)
        records, records_in = os.pipe()
        answers_out, answers = os.pipe()
        config = BOCHSRC.format(ips=IPS, mib=self._mib, dir=self._dir, base=base, answers=answers_out, records=records_in)
        for name, data in (("rom", rom), ("image", image), ("bochsrc", config.encode()), ("debugger", b"c\n"), ("nothing", bytes(512))):
            with open(os.path.join(self._dir, name), "wb") as f:
                f.write(data)
        try:
            with open(os.path.join(self._dir, "debugger"), "rb") as commands:
                process = self._spawn([self._bochs, "-q", "-f", os.path.join(self._dir, "bochsrc")], messages, [records_in, answers_out],
                                      stdin=commands, env=dict(os.environ, TERM="dumb"))
        finally:
            os.close(records_in)
            os.close(answers_out)
        self._records, self._answers = open(records, "rb", buffering=0), open(answers, "wb", buffering=0)
        return process

    def _receive_from(self):
        return self._records

    def _receive(self):
        return self._records.read(1 << 16)

    def _send(self, data):
        self._answers.write(data)

    def _close(self):
        self._records.close()
        self._answers.close()

    def _cause_of_death(self, log):
        # A kernel that reboots does it by a triple fault, with which Bochs ends as it does when its own settings displease it.
        said = re.search(r"exiting with the following message:\n(.*)", log)
        if said and "Kernel panic" not in log:
            return HostDied("Bochs gave up: %s" % said[1].strip())
        return None
