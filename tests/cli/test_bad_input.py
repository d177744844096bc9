"""Bad arguments and bad files: one clear sentence on stderr, the right exit status, and never a crash."""

import pathlib
import random
import re
import struct
import tempfile
import unittest

from support import CRASH, HOST, OK, PROGRAMS, STATUSES, TOP, USAGE, bzimage, elf, run


class Refusals(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.path = pathlib.Path(cls.directory.name)
        cls.good = cls.file("good.elf", elf())

    @classmethod
    def file(cls, name, content):
        path = cls.path / name
        path.write_bytes(content)
        return path

    def refused(self, words, *arguments, status=USAGE):
        """Every build says one sentence that contains `words` (a regular expression) and ends with that status."""
        for name, program in PROGRAMS.items():
            with self.subTest(program=name, arguments=[str(a) for a in arguments]):
                done = run(program, *arguments)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, r"\Ahv: [^\n]+\n\Z")
                self.assertRegex(done.stderr, words)

    def image_refused(self, words, content, *arguments):
        self.refused(words, "run", *arguments, self.file("image", content))

    # --- arguments ---

    def test_no_command(self):
        self.refused("command is missing")

    def test_unknown_command(self):
        self.refused("no command \"start\"", "start", self.good)

    def test_missing_image(self):
        self.refused("image is missing", "run")
        self.refused("image is missing", "run", "--mem", "64M")

    def test_two_images(self):
        self.refused("one image", "run", self.good, self.good)

    def test_unknown_flag(self):
        self.refused("no option --fast", "run", "--fast", self.good)
        self.refused("no option", "run", "-x", self.good)

    def test_flag_without_value(self):
        for flag in ("--mem", "--engine", "--initrd", "--append", "--timeout", "--trace", "--stats", "--gdb", "--sample-steps",
                     "--dump-tables", "--dump-html", "--plan", "--page-size", "--neighbour", "--control", "--name", "--cpus"):
            self.refused(f"{flag} needs a value", "run", flag)

    def test_unknown_engine(self):
        self.refused("no engine \"warp\"", "run", "--engine", "warp", self.good)
        self.refused("no engine \"\"", "run", "--engine", "", self.good)

    def test_memory_sizes(self):
        for size in ("0", "1", "999T", "abc", "", "-1", "-1M", "64MM", "1.5M", "64 M", "4G", "99999999999999999999", "2097153"):
            self.refused("--mem takes", "run", "--mem", size, self.good)

    def test_cpus(self):
        for value in ("0", "9", "-1", "abc", "", "2x"):
            self.refused("--cpus takes", "run", "--engine", "kvm", "--cpus", value, self.good)
        for engine in ("trap", "hvm"):
            self.refused(f"the {engine} engine runs one vCPU", "run", "--engine", engine, "--cpus", "2", self.good)
        self.refused("--gdb .* one vCPU", "run", "--engine", "kvm", "--cpus", "2", "--gdb", "1234", self.good)
        self.refused("--sample-steps .* one vCPU", "run", "--engine", "kvm", "--cpus", "2", "--stats", "json", "--sample-steps", "9",
                     self.good)

    def test_timeouts(self):
        for value in ("abc", "", "0", "-1", "nan", "inf", "1e300", "1s"):
            self.refused("--timeout takes", "run", "--timeout", value, self.good)

    def test_gdb_ports(self):
        for value in ("99999", "0", "-1", "abc", "", "1234x"):
            self.refused("--gdb takes", "run", "--gdb", value, self.good)

    def test_measurements(self):
        for value in ("0", "-1", "+1", "abc", "", "12x", "1e3", "1000000001", "99999999999999999999"):
            self.refused("--sample-steps takes", "run", "--stats", "json", "--sample-steps", value, self.good)
        self.refused("--sample-steps shows .* --stats json", "run", "--sample-steps", "10", self.good)
        self.refused("--hash-memory shows .* --stats json", "run", "--hash-memory", self.good)
        self.refused("both want to single-step", "run", "--stats", "json", "--sample-steps", "10", "--gdb", "1234", self.good)

    def test_walk(self):
        for option, values in (("--seed", ("", "-1", "+1", "x", "1x", "4294967296")), ("--count", ("", "0", "-1", "100001", "1.5")),
                               ("--case", ("", "-1", "x", "4294967296", "99999999999999999999")), ("--kind", ("", "2m", "4K"))):
            for value in values:
                self.refused(f"{option} takes [^\n]*, not \"{re.escape(value)}\"; see hv walk --help", "walk", option, value)
            self.refused(f"{option} needs a value", "walk", option)
        self.refused("no option --fast", "walk", "--fast")
        self.refused("no image: what is \"a.elf\"", "walk", "a.elf")
        self.refused("takes no --count", "walk", "--case", "1", "--count", "2")
        self.refused("takes no --brief", "walk", "--brief", "--case", "1")

    def test_nested(self):
        for line, words in (("fly 1", "no operation \"fly\""), ("map 0 0", "LEN is missing"), ("tables now", "what is \"now\""),
                            ("map 0 0 0x1000 rwx wb 4", "LEVEL is from 1 to 3 here, not 4"), ("walk 0 rw", "RIGHTS is a word such as"),
                            ("walk 0x1000000000000 r--", "reach no GPA above"), ("walk -1 r--", "GPA is a number"),
                            ("walk 99999999999999999999 r--", "GPA is a number"), ("map 0 0 0 rwx xx 1", "TYPE is uc, wc"),
                            ("new ept - 35 8", "from 36 to 52 bits"), ("new ept 2m,3m 40 8", "CAPS is a list"),
                            ("new ept 2m 40 513", "from 4 to 512 tables"), ("new xpt - 40 8", "FORMAT is ept or npt"),
                            ("encode 1 thing r-- wb -- 0", "KIND is absent, table or page"), ("harvest 0 0x1000 AD", "AD is ad,"),
                            ("harvest 0x1000 0xffffffffffffffff ad", "GPA . LEN is at most"), ("log-fetch", "was started"),
                            ("log-fault 0", "was started"), ("log-start 0", "from 1 to"), ("keep 0 0x1000000000000", "ends at"),
                            ("guest 0x1000000 1", "memory ends at"), ("guest 0xfffffffffffffffc 1", "reach no GPA above"),
                            ("twodim 0x800000000000", "not canonical"), ("cost 0 1", "LEVEL is from 1 to 3"),
                            ("#\n" + "x" * 300, "longer than")):
            self.refused("line %d: [^\n]*%s" % (line.count("\n") + 1, words), "nested", self.file("script", line.encode()))

    def test_scripts(self):
        for command in ("nested", "stream"):
            self.refused("No such file", command, self.path / "absent")
            self.refused("is a directory", command, self.path)
            self.refused("no option --fast", command, "--fast")
            self.refused("what is \"b\"", command, "a", "b")

    def test_dumps(self):
        for value in ("rip", "", "-1", "+1", " 1", "0x", "0xg", "1 ", "12x", "ALL", "0x10000000000000000", "99999999999999999999"):
            self.refused("--dump-tables takes an address such as", "run", "--dump-tables", value, self.good)
        for value in ("0x800000000000", "0xffff7fffffffffff", "0x8000000000000000"):
            self.refused("not canonical", "run", "--dump-tables", value, self.good)
        self.refused("--dump-html shows what --dump-tables asks for", "run", "--dump-html", self.path / "page", self.good)
        for page in (self.path / "absent/page", self.path):
            self.refused("cannot write the page", "run", "--dump-tables", "all", "--dump-html", page, self.good)
        # A file is not touched before it is known that there is a guest to run.
        page = self.file("page", b"kept")
        self.refused("No such file", "run", "--dump-tables", "all", "--dump-html", page, self.path / "absent.elf")
        self.assertEqual(page.read_bytes(), b"kept")

    def test_control(self):
        for name in ("", "a/b", "..", "-x", "a b", "n" * 41):
            self.refused("--name takes", "run", "--name", name, self.good)
        self.refused("one of them only", "run", "--name", "a", "--control", "b", self.good)
        for option in ("--name", "--control"):
            self.refused(f"--neighbour does not go with {option}", "run", "--engine", "hvm", "--neighbour", self.good,
                         option, "a", self.good)
        self.refused("socket and a command are missing", "ctl")
        self.refused("command is missing", "ctl", "a")
        self.refused("no command \"jump\"", "ctl", "a", "jump")
        self.refused("status takes no value", "ctl", "a", "status", "now")
        self.refused("balloon needs a value", "ctl", "a", "balloon")
        self.refused("one value is enough", "ctl", "a", "balloon", "1", "2")
        self.refused("one line of less than 512 bytes", "ctl", "a", "balloon", "1\nquit")
        self.refused("one line of less than 512 bytes", "ctl", "a", "balloon", "1" * 600)
        self.refused("list takes nothing", "list", "all")
        self.refused("no VM answers", "ctl", self.path / "absent", "status", status=HOST)
        self.refused("no VM answers", "ctl", self.good, "status", status=HOST)  # no socket
        self.refused("no VM answers", "ctl", "/" + "x" * 200, "status", status=HOST)

    def test_nested_paging(self):
        hvm = ["run", "--engine", "hvm"]
        for size in ("3K", "4k", "", "4096", "512G", "2M,4K", "-1"):
            self.refused(f"--page-size takes 4K, 2M or 1G, not \"{size}\"", *hvm, "--page-size", size, self.good)
        for option, words in ((["--plan", self.good], "--plan is for the hvm engine"), (["--premap"], "--premap is for the hvm engine"),
                              (["--page-size", "2M"], "--page-size is for the hvm engine"),
                              (["--neighbour", self.good], "--neighbour is for the hvm engine")):
            for engine in ("trap", "kvm"):
                self.refused(words, "run", "--engine", engine, *option, self.good)
        for option in (["--plan", self.good], ["--premap"], ["--page-size", "2M"]):
            self.refused(f"{option[0]} is about nested page tables", *hvm, "--shadow", "vtlb", *option, self.good)
        self.refused("--neighbour does not go with --gdb", *hvm, "--neighbour", self.good, "--gdb", "1234", self.good)
        self.refused("--neighbour does not go with --shadow", *hvm, "--neighbour", self.good, "--shadow", "cached", self.good)
        self.refused("--shadow is for the trap and hvm engines", "run", "--engine", "kvm", "--shadow", "cached", self.good)
        self.refused("--dump-html draws", *hvm, "--dump-tables", "all", "--dump-html", self.path / "page", self.good)

    def test_hvm_without_hardware(self):
        """Where the machine has no SVM and no VMX, or there is no /dev/kvm, that is said before anything else is tried."""
        if run(PROGRAMS["hv"], "run", "--engine", "hvm", "--timeout", "10", self.good).returncode != HOST:
            self.skipTest("this machine has hardware assistance")
        for options in ([], ["--shadow", "cached"], ["--page-size", "1G", "--premap"], ["--plan", self.path / "absent"]):
            self.refused("/dev/kvm", "run", "--engine", "hvm", *options, self.good, status=HOST)
        # The image comes first, as on the other engines.
        self.refused("No such file", "run", "--engine", "hvm", self.path / "absent.elf")

    def test_requirements(self):
        for arguments, words in ((["--format", "xml"], "invalid choice: 'xml'"), (["now"], "unrecognized arguments: now")):
            done = run(TOP / "scripts/requirements.py", *arguments)
            self.assertEqual((done.returncode, done.stdout), (USAGE, ""))
            self.assertRegex(done.stderr, rf"\Arequirements.py: [^\n]*{words}[^\n]*\n\Z")

    def test_trace_and_stats(self):
        self.refused("--trace takes", "run", "--trace", "everything", self.good)
        self.refused("--stats takes", "run", "--stats", "xml", self.good)

    def test_help_and_version(self):
        for program in PROGRAMS.values():
            for arguments, word in ((["--help"], "--engine"), (["run", "--help"], "--engine"), (["--version"], "hv "),
                                    (["walk", "--help"], "--seed"), (["nested", "--help"], "protect")):
                done = run(program, *arguments)
                self.assertEqual((done.returncode, done.stderr), (OK, ""))
                self.assertIn(word, done.stdout)

    # --- files ---

    def test_missing_file(self):
        self.refused("No such file", "run", self.path / "absent.elf")

    def test_directory(self):
        self.refused("is a directory", "run", self.path)

    def test_device(self):
        self.refused("not a regular file", "run", "/dev/null")

    def test_empty_file(self):
        self.image_refused("is empty", b"")

    def test_neither_elf_nor_linux(self):
        self.image_refused("neither an ELF file nor", b"#!/bin/sh\n" * 100)

    def test_truncated_elf(self):
        whole = elf(segments=((0x100000, b"\xf4" * 500, None),))
        for length in (5, 20, 63, 64, 100, 119, 120, 400):
            self.image_refused("truncated|outside the file|neither", whole[:length])

    def test_elf32(self):
        self.image_refused("not 32-bit x86", elf(bits=1))  # a 64-bit machine's
        self.image_refused("not x86-64", elf(machine=3))

    def test_boot_sector(self):
        sector = b"\xf4" * 510 + b"\x55\xaa"
        self.image_refused("is followed by a disk", sector + bytes(1 << 20))
        self.image_refused("neither an ELF file nor", sector[:511])
        self.refused("neither a command line nor", "run", "--append", "x", self.file("sector", sector))
        self.refused("starts in real mode, and the trap engine", "run", "--engine", "trap", self.file("sector", sector))

    def test_big_endian(self):
        self.image_refused("big-endian", elf(data=2))

    def test_other_architecture(self):
        self.image_refused("architecture.*AArch64", elf(machine=183))

    def test_not_an_executable(self):
        self.image_refused("position independent", elf(kind=3))
        self.image_refused("not an executable", elf(kind=1))

    def test_no_loadable_segment(self):
        self.image_refused("no loadable segment", elf(segments=()))

    def test_segment_outside_memory(self):
        self.image_refused("outside guest memory", elf(segments=((0x100000, b"\xf4", None), (0x10000000, b"x", None))))
        self.image_refused("outside guest memory", elf(segments=((0x100000, b"\xf4", 1 << 40),)))
        self.image_refused("wraps|outside", elf(segments=((0xfffffffffffff000, b"\xf4", 0x2000),)))

    def test_segment_larger_in_the_file_than_in_memory(self):
        self.image_refused("more bytes in the file", elf(segments=((0x100000, b"\xf4" * 16, 8),)))

    def test_overlapping_segments(self):
        self.image_refused("overlap", elf(segments=((0x100000, b"\xf4" * 32, None), (0x100010, b"x" * 32, None))))

    def test_segment_on_the_boot_data(self):
        self.image_refused("below 1 MiB", elf(segments=((0x9000, b"\xf4", None),)))

    def test_entry_outside_all_segments(self):
        self.image_refused("entry point", elf(entry=0x200000))
        self.image_refused("entry point", elf(entry=0xffffffffffffffff))

    def test_too_many_segments(self):
        self.image_refused("segments", elf(segments=tuple((0x100000 + i * 0x1000, b"\xf4", None) for i in range(500))))

    def test_bzimage_too_old(self):
        self.image_refused("too old: boot protocol 2.04", bzimage(version=0x204))

    def test_bzimage_without_64_bit_entry(self):
        image = bytearray(bzimage())
        struct.pack_into("<H", image, 0x236, 0)
        self.image_refused("64-bit entry", bytes(image))

    def test_truncated_bzimage(self):
        whole = bzimage()
        for length in (0x206, 0x240, 0x268, 0x9ff, 0x1000):
            self.image_refused("truncated|neither|too short", whole[:length])

    def test_bzimage_larger_than_memory(self):
        self.image_refused("does not fit", bzimage(), "--mem", "8M")

    def test_initrd(self):
        big = self.file("big", b"\0" * (9 << 20))
        linux = self.file("linux", bzimage())
        self.refused("cannot open the initrd", "run", "--initrd", self.path / "absent", self.good)
        self.refused("initrd.* is a directory", "run", "--initrd", self.path, self.good)
        self.refused("initrd.* is empty", "run", "--initrd", self.file("nothing", b""), self.good)
        self.refused("initrd.* does not fit", "run", "--mem", "8M", "--initrd", big, self.good)
        self.refused("initrd.* does not fit", "run", "--mem", "24M", "--initrd", big, linux)

    def test_command_line_too_long(self):
        self.refused("command line", "run", "--append", "x" * 5000, self.good)


class Damage(unittest.TestCase):
    """Damaged headers, the same ones each time: some run, some are refused, none makes hv crash or hang."""

    def test_damaged_headers(self):
        program = PROGRAMS["hv with sanitizers"]
        generator = random.Random(1)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "image")
            for number in range(120):
                image = bytearray(elf(segments=((0x100000, b"\xf4" * 64, None), (0x200000, b"data", 8192)))
                                  if number % 2 else bzimage(size=0x4000))
                start, end = (4, 176) if number % 2 else (0x1f1, 0x268)
                for _ in range(generator.randint(1, 6)):
                    image[generator.randrange(start, end)] = generator.choice((0, 1, 0x7f, 0x80, 0xff, generator.randrange(256)))
                path.write_bytes(image)
                done = run(program, "run", "--timeout", "2", path)
                with self.subTest(number=number):
                    self.assertIn(done.returncode, STATUSES, done.stderr)
                    self.assertNotRegex(done.stderr, CRASH)
                    if done.returncode in (USAGE, HOST):
                        self.assertRegex(done.stderr, r"\Ahv: [^\n]+\n\Z")


if __name__ == "__main__":
    unittest.main()
