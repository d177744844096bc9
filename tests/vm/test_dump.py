"""hv run --dump-tables and --dump-html: what they show of a guest agrees with the tables that the guest was given here, entry by entry,
in the test host, on every kind of memory; the page is well formed, complete in itself, and bounded whatever the guest maps.
"""

import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

import host

sys.path.append(str(host.TOP / "tests/cli"))
from support import elf  # noqa: E402

P, W, U, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
GUEST_MA = 4 << 20

CODE, PAGES = 0x200000, 0x800000
PML4, PDPT, PD, PT, PT2 = 0x300000, 0x301000, 0x302000, 0x303000, 0x304000
# What is behind CODE in the address space: a page for each case.
WRITTEN, READ, UNTOUCHED, DEVICE, TABLE, TAKEN, PT_WINDOW, PD_WINDOW, USERS = (CODE + n * 0x1000 for n in range(1, 10))
LARGE, SECOND, ABSENT, NO_TABLE = 0x600000, 0x400000, 0x20f000, 0x7000000000
NOWHERE = 0xd0000000
# gva: (gpa, rights in the entry). The tables above allow everything.
MAPPED = {
    CODE: (CODE, P), WRITTEN: (PAGES, P | W | NX), READ: (PAGES + 0x1000, P | W | NX), UNTOUCHED: (PAGES + 0x2000, P | W | U),
    DEVICE: (NOWHERE, P | W), TABLE: (PT2, P | W | NX | A | D), TAKEN: (PAGES + 0x3000, P | W | NX), PT_WINDOW: (PT, P | W | NX | A | D),
    PD_WINDOW: (PD, P | W | NX), USERS: (PAGES + 0x4000, P | U | NX), SECOND: (PAGES + 0x5000, P | W),
}
EVERY = (*MAPPED, LARGE, ABSENT, NO_TABLE, 0xffffffffffe00000)
SOME = (CODE, WRITTEN, READ, DEVICE, LARGE, ABSENT, NO_TABLE)  # where there is no shadow to compare with


def tables():
    """The guest's page tables, as (address, bytes)."""
    table = {at: [0] * 512 for at in (PML4, PDPT, PD, PT, PT2)}
    table[PML4][0], table[PDPT][0] = PDPT | P | W | U, PD | P | W | U
    table[PD][1], table[PD][2], table[PD][3] = PT | P | W | U, PT2 | P | W | U, LARGE | P | W | U | PS
    for gva, (gpa, bits) in MAPPED.items():
        table[PT if gva < SECOND else PT2][gva >> 12 & 511] = gpa | bits
    return [(at, struct.pack("<512Q", *entries)) for at, entries in table.items()]


def load(gva):
    return b"\x48\xbb" + struct.pack("<Q", gva) + b"\x8a\x03"  # mov $gva, %rbx; mov (%rbx), %al


def store(gva, value=0):
    return b"\x48\xb8" + struct.pack("<Q", value) + b"\x48\xbb" + struct.pack("<Q", gva) + b"\x48\x89\x03"  # mov %rax, (%rbx)


START = (b"\xb9\x80\0\0\xc0\x0f\x32\x0d\0\x08\0\0\x0f\x30" +  # EFER.NXE
         b"\xb8" + struct.pack("<I", PML4) + b"\x0f\x22\xd8")  # mov %rax, %cr3
END = b"\x31\xc0\xe6\xf4"
# Rights are taken from TAKEN at the end, and nothing is flushed: what a TLB has may stay.
STALE = store(PT_WINDOW + (TAKEN >> 12 & 511) * 8, MAPPED[TAKEN][0] | P | NX | A | D)
BODY = store(WRITTEN) + load(READ) + load(TABLE) + store(TAKEN) + load(SECOND)


def image(code, root=None):
    return elf(segments=((CODE, code, None), *((at, root if root and at == PML4 else content, None) for at, content in tables())))


def fan_out():
    """Besides the first entry, which leads to the code, the topmost table is its own child: 511^4 pages."""
    return image(START + END, struct.pack("<512Q", PDPT | P | W | U, *[PML4 | P | W | U] * 511))


IMAGES = {"same.elf": image(START + BODY + END), "stale.elf": image(START + BODY + STALE + END), "fan.elf": fan_out(),
          "real.elf": image(START + b"\x0f\x0b" + END),
          "moved.elf": image(START + load(SECOND) + store(PD_WINDOW + 16) + END)}  # SECOND's table is taken away
MEMORIES = {"kvm": ["--engine", "kvm"], "off": ["--engine", "trap"], "vtlb": ["--shadow", "vtlb"], "cached": ["--shadow", "cached"]}


def walk(gva):
    """What the guest's tables say as they were built: [(level, where the entry lies, entry)], and the gpa or None."""
    contents = dict(tables())
    table, way = PML4, []
    for level in (4, 3, 2, 1):
        at = table + (gva >> (3 + 9 * level) & 511) * 8
        entry, = struct.unpack_from("<Q", contents[table], at & 0xfff)
        way.append((level, at, entry))
        if not entry & P:
            return way, None
        size = 1 << (3 + 9 * level)
        table = entry & 0x000ffffffffff000
        if level == 1 or (entry & PS and level < 4):
            return way, (table & -size) | (gva & (size - 1))
    raise AssertionError


def bits(level, entry):
    large = level in (2, 3) and entry & PS
    names = (("P", P), ("W", W), ("U", U), ("A", A), ("D", D if large or level == 1 else 0), ("PS", PS if large else 0), ("NX", NX))
    return " ".join(name for name, bit in names if entry & bit) or "-"


def build_other(name, change):
    """hv with the files of Lab 2 as change(directory) leaves them: build/dump-NAME/hv."""
    directory = host.TOP / f"build/dump-{name}/files"
    change(directory)
    host.build(f"hv LAB=2 LABFILES={directory} OUT=build/dump-{name}")


def starter(directory):
    shutil.copytree(host.TOP / "labs/02-shadow-paging", directory, dirs_exist_ok=True)


def forgetful(directory):
    """The solved files, but a store to a guest table leaves the shadow as it was."""
    shutil.copytree(host.TOP / "reference-solution/02-shadow-paging", directory, dirs_exist_ok=True)
    text = (directory / "cache.c").read_text(encoding="utf-8")
    clear = "s->flush |= spt_clear(s, p, at / 8 % PT_ENTRIES);"
    assert text.count(clear) == 1
    (directory / "cache.c").write_text(text.replace(clear, ""), encoding="utf-8")


PROGRAMS = {"hv": host.HV, "hv-starter": host.TOP / "build/dump-starter/hv", "hv-forgetful": host.TOP / "build/dump-forgetful/hv"}
GUEST = re.compile(r"^  guest +gpa 0x([0-9a-f]+) +0x([0-9a-f]{16})  (.*)$", re.M)
VERDICTS = {
    "same": "allows the same as", "not filled": "is not filled here yet", "not dirty": r"is read-only until .* \(not dirty yet\)",
    "table": "is write-protected here because", "older": "do not allow any more", "device": "there is no memory at this gpa",
    "monitor": "belongs to the monitor", "none": "does not exist in the present mode", "broken": "the invariant is violated$",
}


def verdict(text, whose="kernel"):
    line = re.search(rf"^  shadow, {whose} .*: it (.*)$", text, re.M)
    return next((name for name, words in VERDICTS.items() if line and re.search(words, line[1])), line and line[1])


class Dumps:
    """The same for the hosts; runs(commands) -> name -> (status, stdout, stderr)."""

    @classmethod
    def setUpClass(cls):
        host.build("hv", "vmguests")
        build_other("starter", starter)
        build_other("forgetful", forgetful)
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.path = pathlib.Path(directory.name)
        for name, content in IMAGES.items():
            (cls.path / name).write_bytes(content)
        commands = {}
        for memory, options in MEMORIES.items():
            run = ["hv", "run", "--timeout", "20", *options, "--stats", "json"]
            for gva in EVERY if options[0] == "--shadow" else SOME:
                commands[memory, gva] = [*run, "--dump-tables", hex(gva), "same.elf"]
            commands[memory, "stale"] = [*run, "--dump-tables", hex(TAKEN), "stale.elf"]
            for name in ("same", "stale", "fan", "real"):
                commands[memory, name, "all"] = [*run, "--dump-tables", "all", f"{name}.elf"]
                commands[memory, name, "page"] = [*run, "--dump-tables", hex(READ), "--dump-html", "/proc/self/fd/1", f"{name}.elf"]
        for program in ("hv", "hv-forgetful"):
            for what in (hex(SECOND), "all"):
                commands[program, what] = [program, "run", "--shadow", "cached", "--stats", "json", "--dump-tables", what, "moved.elf"]
        for engine, what in (("kvm", hex(READ)), ("kvm", "all"), ("trap", "all")):
            commands["hv-starter", engine, what] = ["hv-starter", "run", "--engine", engine, "--stats", "json", "--dump-tables", what,
                                                    "same.elf"]
        cls.results = cls.runs(commands)

    def each(self, memories=tuple(MEMORIES)):
        for (memory, gva, *more), (_, _, err) in self.results.items():
            if memory in memories and isinstance(gva, int) and not more:
                with self.subTest(memory=memory, gva=hex(gva)):
                    yield memory, gva, err

    def test_the_run_is_as_without(self):
        for name, (status, _, err) in self.results.items():
            if name[1] != "real":
                with self.subTest(name=name):
                    self.assertEqual(status, host.OK, err)
                    last = json.loads(err.splitlines()[-1])
                    self.assertEqual((last["status"], last["reason"]), (0, ""))

    def test_entries_of_the_guest(self):
        """Each entry of the way lies where it was put and holds what was put there; A and D are what the guest did."""
        used = {CODE: A, WRITTEN: A | D, READ: A, TABLE: A | D, TAKEN: A | D, SECOND: A, PT_WINDOW: A | D}
        tables_used = {(4, PML4), (3, PDPT), (2, PD + 8), (2, PD + 16)}
        for memory, gva, err in self.each():
            way, gpa = walk(gva)
            expected = []
            for level, at, entry in way:
                if memory != "off":
                    entry |= used.get(gva, 0) if level == 1 else A if (level, at) in tables_used else 0
                expected.append((hex(at), hex(entry), bits(level, entry)))
            self.assertEqual([(f"0x{at}", hex(int(entry, 16)), names) for at, entry, names in GUEST.findall(err)], expected, err)
            if gpa is None:
                self.assertIn("no translation: the entry is not present", err)
            else:
                self.assertRegex(err, rf"\n  guest +gpa {gpa:#x}[ ,;]")
                self.assertEqual("(no memory there" in err, gpa == NOWHERE)

    def test_rights(self):
        for _, gva, err in self.each():
            if gva in MAPPED:
                entry = MAPPED[gva][1]
                rights = "r" + ("w" if entry & W else "-") + ("-" if entry & NX else "x")
                self.assertIn(f"; kernel {rights}, user {rights if entry & U else '---'}\n", err)

    def test_leaves_of_the_shadow(self):
        """ma = gpa + 4 MiB, in the entry as in the last line."""
        for memory, gva, err in self.each(("vtlb", "cached")):
            leaf = re.search(r"^PT\[.*\n.*\n  shadow, kernel +ma 0x\w+ +0x(\w{16})", err, re.M)
            if leaf and int(leaf[1], 16):
                ma = MAPPED[gva][0] + GUEST_MA
                self.assertEqual(int(leaf[1], 16) & 0xffffffffff000, ma)
                self.assertIn(f"shadow, kernel ma {ma:#x} = gpa {MAPPED[gva][0]:#x} + 0x400000; kernel r", err)

    def test_why_they_differ(self):
        same = {CODE, WRITTEN, TAKEN, ABSENT, NO_TABLE, 0xffffffffffe00000}
        for memory, gva, err in self.each(("vtlb", "cached")):
            expected = "same" if gva in same else "not dirty" if gva in (READ, SECOND) else "device" if gva == DEVICE else "not filled"
            if gva in (TABLE, PT_WINDOW) and (memory == "cached" or gva == TABLE):
                expected = "table" if memory == "cached" else "same"
            self.assertEqual(verdict(err), expected, err)
            self.assertEqual(verdict(err, "user"), "none" if gva in (UNTOUCHED, USERS, LARGE) else "same", err)
        for memory in ("vtlb", "cached"):
            self.assertEqual(verdict(self.results[memory, "stale"][2]), "older")
            for name in ("same", "stale"):
                self.assertEqual("! 1 shadow entries are older" in self.results[memory, name, "all"][2], name == "stale")

    def test_without_shadow(self):
        for memory, words in (("kvm", "there is no shadow, and ma = gpa"), ("off", "memory is flat")):
            for _, _, err in self.each((memory,)):
                self.assertIn(words, err)
                self.assertNotIn("\n  shadow, ", err)
        self.assertIn(f"ma {READ + GUEST_MA:#x} = gpa {READ:#x} + 0x400000", self.results["off", READ][2])

    def test_all_ranges(self):
        expected = [(0x200000, 0x200fff, 0x200000, "r-x kernel 4K"), (0x201000, 0x202fff, PAGES, "rw- kernel 4K"),
                    (0x203000, 0x203fff, PAGES + 0x2000, "rwx user   4K"), (0x204000, 0x204fff, NOWHERE, "rwx kernel 4K (no memory)"),
                    (0x205000, 0x208fff, 0x302000, "rw- kernel 4K"), (0x209000, 0x209fff, PAGES + 0x4000, "r-- user   4K"),
                    (0x400000, 0x400fff, PAGES + 0x5000, "rwx kernel 4K"), (0x600000, 0x7fffff, LARGE, "rwx user   2M")]
        for memory in MEMORIES:
            lines = re.findall(r"^(\w{16})-(\w{16}) +(\w+)[-~]\w+ +(r.. \w+ +\w+(?: \(no memory\))?)",
                               self.results[memory, "same", "all"][2], re.M)
            self.assertEqual([(int(first, 16), int(last, 16), int(gpa, 16), rights) for first, last, gpa, rights in lines], expected)

    def test_endless_tables(self):
        for memory in MEMORIES:
            status, _, err = self.results[memory, "fan", "all"]
            self.assertEqual(status, host.OK)
            self.assertLess(len(err), 40000)
            self.assertRegex(err, r"\.\.\. and more from gva 0x[0-9a-f]+ on")

    def test_violation(self):
        """A shadow that allows what the guest's tables do not, and that no flush would have changed."""
        for program, gva_says, all_says in (("hv", "same", ""), ("hv-forgetful", "broken", "!! 1 shadow entries: each has what")):
            self.assertEqual(verdict(self.results[program, hex(SECOND)][2]), gva_says)
            self.assertEqual("!!" in self.results[program, "all"][2], bool(all_says))
            self.assertIn(all_says, self.results[program, "all"][2])

    def test_walk_that_is_not_written(self):
        """The step is named, and the run ends as it would have."""
        for name, (_, _, err) in self.results.items():
            if name[0] == "hv-starter":
                self.assertIn("no walk: step 2.1 is not written yet", err)
                self.assertNotRegex(err, r"  guest |rwx")

    def test_dump_of_a_stopped_guest(self):
        """Whatever ended the run, the tables come before the sentence about it."""
        for memory in MEMORIES:
            status, _, err = self.results[memory, "real", "all"]
            self.assertEqual(status, host.STOPPED)
            self.assertLess(err.index("Tables of"), err.index("hv: "), err)

    def test_pages(self):
        for memory in MEMORIES:
            for name in ("same", "stale", "fan", "real"):
                with self.subTest(memory=memory, name=name):
                    self.page(memory, name)

    def page(self, memory, name):
        text = self.results[memory, name, "page"][1]
        self.assertLess(len(text), 400000)
        self.assertEqual(re.findall(r"\S*(?://|src=|href=|url\(|@import)[^\"\s]*", text), ['xmlns="http://www.w3.org/2000/svg'])
        page = ElementTree.fromstring(text.partition("\n")[2])
        svg = page.find(".//{http://www.w3.org/2000/svg}svg")
        self.assertTrue(svg.findtext("{http://www.w3.org/2000/svg}title"))
        self.assertIn(f"{READ:#x}", svg.findtext("{http://www.w3.org/2000/svg}desc"))
        self.assertEqual({element.tag.rpartition("}")[2] for element in svg.iter()}, {"svg", "title", "desc", "g", "rect", "text", "path"})
        rows = [g for g in svg.iter("{http://www.w3.org/2000/svg}g") if {"row", "on"} <= set(g.get("class").split())]
        shown = {"".join(part.text + " " for part in row.iter("{http://www.w3.org/2000/svg}text")).strip() for row in rows}
        if name in ("same", "stale"):
            expected = {"0 rwx u 301000", "0 rwx u 302000", "1 rwx u 303000", "2 rw- k 801000"}
            expected |= {"2 r-- c01000"} if memory in ("vtlb", "cached") else set()
            self.assertLessEqual(expected, shown)
            self.assertEqual(len(rows), {"kvm": 5, "off": 5, "vtlb": 9, "cached": 9}[memory])
        self.assertEqual(len([g for g in svg.iter("{http://www.w3.org/2000/svg}g") if g.get("class").startswith("way") and
                              g.get("class").endswith(" on")]), 1)
        self.assertIn(f"Tables of {READ:#x}", "".join(page.find(".//pre[@class='p0 on']").itertext()))


class TestHost(Dumps, unittest.TestCase):
    @classmethod
    def runs(cls, commands):
        files = [*(f"{program}:/work/{name}" for name, program in PROGRAMS.items()), *(cls.path / name for name in IMAGES)]
        results = host.run({name: host.Command(argv) for name, argv in commands.items()}, files)
        return {name: (result.status, result.stdout.decode(), result.stderr) for name, result in results.items()}


@unittest.skipUnless(os.access("/dev/kvm", os.R_OK | os.W_OK), "no /dev/kvm here")
class TestNative(Dumps, unittest.TestCase):
    @classmethod
    def runs(cls, commands):
        results = {}
        for name, argv in commands.items():
            done = subprocess.run([PROGRAMS[argv[0]], *argv[1:]], cwd=cls.path, stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, check=False)
            results[name] = done.returncode, done.stdout, done.stderr
        return results


if __name__ == "__main__":
    unittest.main()
