"""hv run --dump-tables on the hvm engine, in the test host, by the hv with sanitizers: the way that it prints agrees with the guest's
tables as they were built here and with the nested tables as they lie in memory (a plan's `dump`), entry by entry; `all` lists what is
mapped, no more and no less.
"""

import json
import pathlib
import re
import tempfile
import unittest

import host
from test_dump import (BODY, CODE, END, EVERY, LARGE, NOWHERE, NX, PAGES, PS, READ, START, TABLE, TAKEN, WRITTEN, A, D, P, U, W, bits,
                       image, walk)

GUEST_MA = 4 << 30
MEM = 64 << 20
ENTRY_MA = 0x000ffffffffff000
# mov $1, %eax; mov $1, %ebx; vmmcall: the guest has come to stage 1.
STAGE = b"\xb8\x01\0\0\0\xbb\x01\0\0\0\x0f\x01\xd9"
PLANS = {"plain": "1 dump\n",
         "rights": f"1 protect {PAGES:#x} 0x1000 r--\n1 protect {LARGE + 0x100000:#x} 0x3000 ---\n1 protect 0x805000 0x1000 r-x\n1 dump\n"}
RUNS = {"small": ("plain", "4K"), "large": ("plain", "2M"), "huge": ("plain", "1G"), "rights": ("rights", "2M")}
GVAS = (*EVERY, LARGE + 0x101234)
NAMES = {4: "PML4", 3: "PDPT", 2: "PD", 1: "PT"}
SIZES = {1: "4K", 2: "2M", 3: "1G"}
# What the guest did before the stage: the entries in which the CPU has set A and D.
USED = {CODE: A, WRITTEN: A | D, READ: A, TABLE: A, TAKEN: A | D, 0x400000: A}
BOOT_SECTOR = bytes.fromhex("fa" "f4").ljust(510, b"\0") + b"\x55\xaa"  # cli; hlt


def rights(word):
    return "".join(letter if on else "-" for letter, on in zip("rwx", word))


def nested_walk(root, memory, gpa):
    """By the manual (APM vol. 2, 5.3, 15.25), from raw entries: [(level, ma of the entry, entry)], and (ma, level, rights) or None."""
    table, way, word = root & ENTRY_MA, [], [True, True, True]
    for level in (4, 3, 2, 1):
        index = gpa >> (3 + 9 * level) & 511
        entry = memory.get(table, {}).get(index, 0)
        way.append((level, table + index * 8, entry))
        if not entry & P:
            return way, None
        word = [word[0] and bool(entry & U), word[1] and bool(entry & W), word[2] and not entry & NX]
        if level == 1 or entry & PS:
            size = 1 << (3 + 9 * level)
            return way, ((entry & ENTRY_MA & -size) | (gpa & (size - 1)), level, word)
        table = entry & ENTRY_MA
    raise AssertionError


class TestDumpNested(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv SAN=1", "vmguests")
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        path = pathlib.Path(directory.name)
        files = {"same.elf": image(START + BODY + STAGE + END), "real.bin": BOOT_SECTOR,
                 **{f"{name}.plan": text.encode() for name, text in PLANS.items()}}
        for name, content in files.items():
            (path / name).write_bytes(content)
        run = ["hv-san", "run", "--engine", "hvm", "--timeout", "20", "--stats", "json"]
        commands = {}
        for name, (plan, size) in RUNS.items():
            for what in (*map(hex, GVAS), "all"):
                commands[name, what] = host.Command(
                    [*run, "--page-size", size, "--plan", f"{plan}.plan", "--dump-tables", what, "same.elf"])
        for what in ("0x7c00", "0x200000000", "all"):
            commands["real", what] = host.Command([*run, "--dump-tables", what, "real.bin"])
        cls.results = host.run(commands, [f"{host.HV_SAN}:/work/hv-san", *(path / name for name in files)], mem=1024)

    def memory(self, result):
        """(root, {table: {index: entry}}) as the plan's dump had it."""
        for step in json.loads(result.stderr.splitlines()[-1])["plan"]:
            if step["command"] == "dump":
                return int(step["root"], 16), {int(table, 16): {int(i): int(entry, 16) for i, entry in entries.items()}
                                               for table, entries in step["tables"].items()}
        raise AssertionError(result.stderr)

    def ways(self):
        for (name, what), result in self.results.items():
            if name in RUNS and what != "all":
                with self.subTest(run=name, gva=what):
                    self.assertEqual(result.status, host.OK, result.stderr)
                    self.assertNotRegex(result.stderr, host.CRASH)
                    yield int(what, 16), result, *self.memory(result)

    def nested_lines(self, root, memory, gpa):
        """What is to be printed of one gpa."""
        way, page = nested_walk(root, memory, gpa)
        lines = []
        for level, at, entry in way:
            word = rights((entry & U, entry & W, not entry & NX))
            if not entry & P:
                says = "absent: the first access is a violation"
            elif page and level == page[1]:
                says = f"page of {SIZES[level]}, {word}{' A' if entry & A else ''}{' D' if entry & D else ''} -> ma {page[0]:#x}"
            else:
                says = f"table, {word}"
            lines.append((NAMES[level], gpa >> (3 + 9 * level) & 511, at, entry, says))
        return lines

    def printed(self, text):
        """The nested entries in blocks, one for each gpa that was looked at."""
        pattern = r"^    nested +(\w+)\[ *(\d+)\]  ma 0x(\w+) +0x(\w{16})  (.*)$"
        blocks = re.split(r"^(?! {4}nested)", text, flags=re.M)
        found = [[(name, int(i), int(at, 16), int(entry, 16), says) for name, i, at, entry, says in re.findall(pattern, block, re.M)]
                 for block in blocks]
        return [block for block in found if block]

    def test_every_entry(self):
        """The guest's entries, and for each of them and for the page the nested ones."""
        for gva, result, root, memory in self.ways():
            way, gpa = walk(gva)
            looked = [at for _, at, _ in way] + ([gpa] if gpa is not None else [])
            self.assertEqual(self.printed(result.stderr), [self.nested_lines(root, memory, at) for at in looked], result.stderr)
            heads = re.findall(r"^(\w+)\[(\d+)\]: guest's entry at gpa 0x(\w+)\n(?:    nested.*\n)*    holds 0x(\w{16})  (.*)$",
                               result.stderr, re.M)
            self.assertEqual(len(heads), len(way))
            for (name, index, at, entry, names), (level, expected_at, expected) in zip(heads, way):
                entry = int(entry, 16)
                self.assertEqual((name, int(index), int(at, 16)), (NAMES[level], gva >> (3 + 9 * level) & 511, expected_at))
                self.assertEqual(entry & ~(A | D), expected & ~(A | D))
                self.assertEqual(names, bits(level, entry))
                if level == 1:
                    self.assertEqual(entry, expected | USED.get(gva, 0))

    def test_the_end_of_the_way(self):
        for gva, result, root, memory in self.ways():
            way, gpa = walk(gva)
            if gpa is None:
                self.assertIn("guest: no translation: the entry is not present", result.stderr)
                continue
            level, _, entry = way[-1]
            kernel = (True, bool(entry & W), not entry & NX)
            user = kernel if entry & U else (False, False, False)
            size = f"page of {SIZES[level]}; guest's tables: kernel {rights(kernel)}, user {rights(user)}\n"
            self.assertIn(f"page: gpa {gpa:#x}, {size}", result.stderr)
            page = nested_walk(root, memory, gpa)[1]
            if gpa == NOWHERE:
                self.assertIn(f"combined: no memory at gpa {gpa:#x}: a violation", result.stderr)
            elif not page:
                self.assertIn(f"combined: gpa {gpa:#x} is not mapped now", result.stderr)
            else:
                ma, nested_level, word = page
                both = [rights(a and b for a, b in zip(side, word)) for side in (kernel, user)]
                self.assertEqual(ma, GUEST_MA + gpa)
                self.assertIn(f"combined: gva {gva:#x} -> gpa {gpa:#x} -> ma {ma:#x}; kernel {both[0]}, user {both[1]}; "
                              f"one TLB entry covers {SIZES[min(level, nested_level)]}\n", result.stderr)

    def test_references(self):
        """In the order in which the CPU makes them: the nested walk of each of the guest's entries, the entry, the page's, the data."""
        for gva, result, root, memory in self.ways():
            way, gpa = walk(gva)
            expected = []
            for level, at, _ in way:
                expected += [f"n{nested}" for nested, _, _ in nested_walk(root, memory, at)[0]] + [f"G{level}"]
            if gpa is not None:
                nested, page = nested_walk(root, memory, gpa)
                expected += [f"n{level}" for level, _, _ in nested] + (["data"] if page and page[2][0] else [])
            line = re.search(r"^references in order:(.*)\n(\d+) references", result.stderr, re.M)
            self.assertEqual(line[1].split(), expected)
            self.assertEqual(int(line[2]), len(expected) - expected.count("data"))

    def test_all(self):
        for name in RUNS:
            result = self.results[name, "all"]
            root, memory = self.memory(result)
            expected, gpa = [], 0
            while gpa < MEM:
                way, page = nested_walk(root, memory, gpa)
                size = 1 << (3 + 9 * way[-1][0])
                if page:
                    ma, level, word = page
                    last = expected[-1] if expected else None
                    if last and last[:2] == [gpa - last[6], ma - last[6]] and last[2:4] == [rights(word), SIZES[level]]:
                        last[6] += size
                    else:
                        last = [gpa, ma, rights(word), SIZES[level], 0, 0, size]
                        expected.append(last)
                    last[4] += bool(way[-1][2] & A)
                    last[5] += bool(way[-1][2] & D)
                gpa = (gpa & -size) + size
            lines = re.findall(r"^(\w{12})-(\w{12})  (\w{12})  (\S+)  (\w+) +(\d+) +(\d+) +(\d+)$", result.stderr, re.M)
            with self.subTest(run=name):
                self.assertEqual([[int(first, 16), int(ma, 16), word, size, int(accessed), int(dirty), int(last, 16) + 1 - int(first, 16)]
                                  for first, last, ma, word, size, _, accessed, dirty in lines], expected)
                self.assertTrue(expected)
                for first, last, _, _, size, pages, _, _ in lines:
                    self.assertEqual(int(pages) << {"4K": 12, "2M": 21, "1G": 30}[size], int(last, 16) + 1 - int(first, 16))

    def test_different_runs_differ(self):
        """Pages of the sizes that were asked for, and rights that a plan has taken."""
        sizes = {name: set(re.findall(r"page of (\w\w),", self.results[name, hex(WRITTEN)].stderr)) for name in RUNS}
        self.assertEqual(sizes, {"small": {"4K"}, "large": {"2M"}, "huge": {"2M"}, "rights": {"2M", "4K"}})  # 64 MiB have no GiB
        for gva, words in ((WRITTEN, "kernel r--, user ---"), (LARGE + 0x101234, "is not mapped now"), (0x400000, "kernel r-x, user ---")):
            self.assertIn(words, re.search(r"^combined: .*$", self.results["rights", hex(gva)].stderr, re.M)[0])

    def test_real_mode(self):
        """There is no guest's table; what a linear address is to the guest is looked up at once."""
        for what in ("0x7c00", "0x200000000", "all"):
            result = self.results["real", what]
            with self.subTest(what=what):
                self.assertEqual(result.status, host.STOPPED)
                self.assertNotRegex(result.stderr, host.CRASH)
                self.assertLess(result.stderr.index("ables"), result.stderr.index("hv: "))
        blocks = self.printed(self.results["real", "0x7c00"].stderr)
        self.assertEqual([entry[0] for entry in blocks[0]], ["PML4", "PDPT", "PD"])
        self.assertEqual(blocks[0][-1][4].split(" -> ")[1], f"ma {GUEST_MA + 0x7c00:#x}")
        self.assertIn("the guest is not in 64-bit mode", self.results["real", "0x7c00"].stderr)
        self.assertIn("absent", self.printed(self.results["real", "0x200000000"].stderr)[0][-1][4])
        self.assertRegex(self.results["real", "all"].stderr, r"(?m)^000000000000-0000001fffff  000100000000  rwx  2M +1 ")


if __name__ == "__main__":
    unittest.main()
