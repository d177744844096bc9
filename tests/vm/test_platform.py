"""Kernels that people bring: multiboot images in their containers, with modules, text screen and keyboard controller, on the engines with
all modes and on bare QEMU; Linux' vmlinux by its PVH note; the course's own images, which have both entries."""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import host

import bzimage

ENGINES = ("kvm", "hvm")
IMAGES = ("teaching.elf", "teaching64.elf", "teaching.bin")
MODULES = {"first": b"the first module\n", "second": bytes(range(256)) * 33}
LINES = ["first with arguments", "second"]
KEYS = """: >out; hv run --engine {engine} --name t --append keys teaching.elf >out 2>&1 & until grep -q ready out; do usleep 50000; done
hv ctl t key 'Hello 1\\n' >/dev/null; until grep -q 'key=1c' out || ! kill -0 $!; do usleep 50000; done; hv ctl t screen
hv ctl t stats; hv ctl t quit >/dev/null; wait $!; cat out"""
LINUX = "hv run --engine kvm --mem 256M --initrd initrd.cpio --append 'console=ttyS0 quiet' --timeout 100 vmlinux </dev/null"


def fletcher(data):
    a = b = 0
    for byte in data:
        a = (a + byte) % 65535
        b = (b + a) % 65535
    return b << 16 | a


def on_qemu(image, directory):
    """The same modules; QEMU wants an image of 32 bits and a screen of its own."""
    argv = ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-nic", "none", "-vga", "std",
            "-display", "none", "-no-reboot", "-chardev", "stdio,id=console", "-device", "isa-debugcon,iobase=0xe9,chardev=console",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", image.name, "-append", "one two", "-initrd", ",".join(LINES)]
    done = subprocess.run(argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.splitlines()


class TestPlatform(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv guests", "vmguests", "build/guests/initrd.cpio")
        commands, cls.bare = {}, {}
        modules = [word for line in LINES for word in ("--module", line)]
        with tempfile.TemporaryDirectory() as directory:
            place = pathlib.Path(directory)
            for name, content in MODULES.items():
                (place / name).write_bytes(content)
            (place / "vmlinux").write_bytes(bzimage.cached_vmlinux(str(host.TOP / "build/testhost/vmlinuz")))
            for name in IMAGES:
                (place / name).write_bytes((host.VM_GUESTS / name).read_bytes())
                for engine in ENGINES:
                    commands[name, engine] = host.Command(["hv", "run", "--engine", engine, "--timeout", "20", "--append", "one two",
                                                           *modules, name])
                if name != "teaching64.elf":
                    cls.bare[name] = on_qemu(place / name, directory)
            for engine in ENGINES:
                commands["reset", engine] = host.Command(["hv", "run", "--engine", engine, "--timeout", "20", "--append", "reset",
                                                          "teaching.elf"])
                commands["keys", engine] = host.Command(["sh", "-c", KEYS.format(engine=engine)])
            commands["trap"] = host.Command(["hv", "run", "teaching.elf"])
            commands["trap linux"] = host.Command(["hv", "run", "--mem", "256M", "vmlinux"])
            commands["linux"] = host.Command(["sh", "-c", LINUX], limit=120)
            for engine in ("trap", *ENGINES):
                commands["own", engine] = host.Command(["hv", "run", "--engine", engine, "--timeout", "20", *modules, "hello.elf"])
            files = [host.HV, host.GUESTS / "initrd.cpio", host.GUESTS / "lab1/hello.elf", *place.iterdir()]
            cls.results = host.run(commands, files, mem=768)

    def lines(self, *case, status=host.OK):
        result = self.results[case if len(case) > 1 else case[0]]
        self.assertEqual(result.status, status, result.stderr)
        return result.stdout.decode(errors="replace").splitlines()

    def test_what_the_kernel_is_told(self):
        expected = {"magic": "2badb002", "paging": "1", "interrupts": "0", "bss": "0", "flags": "4d", "modules": "2", "lower": "27f",
                    "upper": f"{63 << 10:x}", "loader": "Trapdoor", "kbd.test": "55", "kbd.lines": "0", "kbd.irq": "2"}
        for name in IMAGES:
            for engine in ENGINES:
                with self.subTest(image=name, engine=engine):
                    lines = self.lines(name, engine)
                    told = dict(line.split("=", 1) for line in lines)
                    self.assertEqual({key: told[key] for key in expected}, expected)
                    self.assertEqual(told["cmdline"], f"{name} one two")
                    self.assertEqual([line.split("=")[1] for line in lines if line.startswith("module.string=")], LINES)
                    self.assertEqual([line.split("=")[1] for line in lines if line.startswith("module.length=")],
                                     [f"{len(content):x}" for content in MODULES.values()])
                    self.assertEqual([line.split("=")[1] for line in lines if line.startswith("module.sum=")],
                                     [f"{fletcher(content):x}" for content in MODULES.values()])

    def test_same_as_on_bare_qemu(self):
        """But for what differs between any two machines: where memory ends and modules lie, and the loader's name."""
        def comparable(lines):
            return [line for line in lines if not re.match(r"upper=|module\.start=|map\.|loader=", line)]
        for name, (status, lines) in self.bare.items():
            self.assertEqual(status, 1, lines)
            self.assertGreater(len(comparable(lines)), 25)
            for engine in ENGINES:
                with self.subTest(image=name, engine=engine):
                    self.assertEqual(comparable(self.lines(name, engine)), comparable(lines))

    def test_containers_make_no_difference(self):
        def comparable(name, engine):
            return [line for line in self.lines(name, engine) if not line.startswith("cmdline=")]
        for engine in ENGINES:
            for name in IMAGES[1:]:
                self.assertEqual(comparable(name, engine), comparable(IMAGES[0], engine))

    def test_keys_and_screen(self):
        for engine in ENGINES:
            lines = self.lines("keys", engine)
            self.assertEqual(lines[0].rstrip(), "teaching kernel ╔═╗")
            self.assertEqual([len(line) for line in lines[:25]], [80] * 25)
            self.assertEqual(lines[1].rstrip(), ".hello 1.")  # shift and Enter are keys, too
            self.assertEqual(lines[25], "cursor: row 1, column 9")
            self.assertIn('"unclaimed":[]', lines[26])
            codes = [line[4:] for line in lines[27:] if line.startswith("key=")]
            self.assertEqual(codes[:4], ["2a", "23", "a3", "aa"])  # H
            self.assertEqual(codes[-1], "1c")

    def test_keyboard_controller_resets(self):
        for engine in ENGINES:
            self.lines("reset", engine)
            self.assertEqual(self.results["reset", engine].sentences, ["hv: the guest reset the machine"])

    def test_trap_engine_refuses(self):
        for case in ("trap", "trap linux"):
            self.assertEqual(self.lines(case, status=host.USAGE), [])
            self.assertRegex(self.results[case].stderr, r"\Ahv: [^\n]* starts in 32-bit protected mode, [^\n]*\n\Z")

    def test_linux_by_pvh(self):
        output = "\n".join(self.lines("linux"))
        self.assertIn("Linux (none) ", output)
        self.assertEqual(self.results["linux"].sentences, ["hv: the guest powered the machine off"])

    def test_images_with_both_entries(self):
        """The course's guests have a PVH note, for QEMU, and one that says that hv may take the 64-bit entry."""
        outputs = [self.lines("own", engine) for engine in ("trap", *ENGINES)]
        self.assertTrue(outputs[0])
        self.assertEqual(outputs, outputs[:1] * 3)


if __name__ == "__main__":
    sys.exit(unittest.main())
