"""docs/virtio-conformance.md: every statement has a test that exists, or a reason why it has none."""

import functools
import pathlib
import re
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = TOP / "docs/virtio-conformance.md"
PLACES = ("labs/common/hv", "reference-solution/04-virtio")
HEAD = ["id", "the device", "n", "where", "test"]
REASON = re.compile(r"(not offered|no test of its own): \S")


@functools.cache
def unit_tests(program):
    """The functions that a unit test registers, by itself or through a macro of its own."""
    path = TOP / f"tests/unit/{program}.c"
    text = path.read_text() if path.exists() else ""
    macros = re.findall(r"#define (\w+)\(\w+\) cmocka_unit_test", text) + [r"cmocka_unit_test\w*"]
    registered = set(re.findall(rf"\b(?:{'|'.join(macros)})\((\w+)", text))
    return registered & set(re.findall(r"^static void (\w+)\(void \*\*\w+\)$", text, re.M))


@functools.cache
def checkpoints():
    return {name for path in (TOP / "labs/04-virtio/checks").glob("*.py")
            for name in re.findall(r'\bCheckpoint\(\s*"([\d.]+)"', path.read_text())}


@functools.cache
def methods(module):
    path = TOP / f"tests/vm/{module}.py"
    found, of = set(), None
    for line in path.read_text().splitlines() if path.exists() else ():
        if begins := re.match(r"class (\w+)", line):
            of = begins[1]
        elif begins := re.match(r"    def (test_\w+)", line):
            found.add(f"{of}.{begins[1]}")
    return found


def exists(test):
    if re.fullmatch(r"[\d.]+", test):
        return test in checkpoints()
    if test.startswith("fuzz:"):
        return (TOP / f"tests/fuzz/fuzz_{test[5:]}.c").exists()
    first, _, rest = test.partition(".")
    return rest in (methods(first) if "." in rest else unit_tests(first))


def places(where):
    """Complaints about functions that are not where the page says. `file.c`: `f()`, `g()`; `other.c`: `h()`."""
    text = ""
    for name in re.findall(r"`([^`]*)`", where):
        if name.endswith(".c"):
            found = [path for top in PLACES for path in (TOP / top).glob(name)]
            text = found[0].read_text() if found else ""
            if not found:
                yield f"there is no {name}"
        elif not re.search(rf"\b{re.escape(name[:-2])}\(", text):
            yield f"{name} is not there"


def sections(page):
    """(title, announced number, rows) of each table of statements."""
    for part in re.split(r"^## ", page, flags=re.M)[1:]:
        title, text = part.split("\n", 1)
        number = re.search(r"^(\d+) statements?\b", text, re.M)
        table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
        yield title, int(number[1]) if number else None, table


def complaints(page):
    summary = dict(re.findall(r"^\| (\w[\w ]*) \| [\d., to]+ \| (\d+) \|$", page, re.M))
    seen = set()
    for title, number, table in sections(page):
        if table[:1] != [HEAD]:
            yield f"{title}: no table with {HEAD}"
            continue
        counted = 0
        for row in table[2:]:
            if len(row) != len(HEAD) or not row[2].isdigit():
                yield f"{title}: {row}: not {len(HEAD)} columns with a number in the third"
                continue
            name, text, n, where, last = row
            counted += int(n)
            tests = re.findall(r"`([^`]*)`", last)
            if not re.fullmatch(r"\d(\.\d+)+-\d+", name):
                yield f"{name}: no id (section and number)"
            if name in seen:
                yield f"{name}: stands there twice"
            seen.add(name)
            if not text:
                yield f"{name}: says nothing"
            if not where and not last.startswith("not offered: "):
                yield f"{name}: does not say where"
            if not tests and not REASON.match(last):
                yield f"{name}: has neither a test nor a reason"
            yield from (f"{name}: {complaint}" for complaint in places(where))
            yield from (f"{name}: there is no test {test}" for test in tests if not exists(test))
        if counted != number:
            yield f"{title}: {number} statements are announced, and the rows stand for {counted}"
    numbers = [number for _, number, _ in sections(page)]
    if [int(n) for n in summary.values()] != numbers:
        yield f"the summary says {list(summary.values())}, the sections {numbers}"


class Page(unittest.TestCase):
    @unittest.skipUnless((TOP / "reference-solution").exists(), "the lab's files are not written yet")
    def test_every_statement_has_a_test_or_a_reason(self):
        self.assertEqual(list(complaints(PAGE.read_text())), [])

    def test_the_page_is_read_at_all(self):
        rows = [row for _, _, table in sections(PAGE.read_text()) for row in table[2:]]
        self.assertGreaterEqual(len(rows), 70)
        self.assertGreaterEqual(sum(int(row[2]) for row in rows), 110)


class Complaints(unittest.TestCase):
    """The checker sees what can be wrong. `row` is the one that each case changes."""

    row = "| 2.1-2 | does that | 1 | `virtio.c`: `virtio_kick()` | `test_blk.test_bounds`, `4.1`, `fuzz:block` |"

    def page(self, row, number=2):
        return (f"| part | section | statements |\n|---|---|---|\n| all | 2.1 to 2.3 | {number} |\n\n## All\n\n{number} statements.\n\n"
                "| id | the device | n | where | test |\n|---|---|---|---|---|\n"
                f"| 2.1-1 | does this | 1 | | not offered: that |\n{row}\n")

    def said(self, old="", new="", number=2):
        self.assertIn(old, self.row)
        return list(complaints(self.page(self.row.replace(old, new) if old else self.row, number)))

    def test_nothing_wrong(self):
        self.assertEqual(self.said(), [])
        self.assertEqual(self.said("test_blk.test_bounds", "test_linux_disk.LinuxDisk.test_a_read_only_disk_is_not_written"), [])
        self.assertEqual(self.said("test_blk.test_bounds", "test_net_receive.receive_merged"), [])

    def test_tests_that_do_not_exist(self):
        for new in ("test_blk.test_nothing", "test_nothing.test_bounds", "test_blk.framing", "test_linux_disk.LinuxDisk.test_nothing",
                    "test_linux_disk.Linux.test_a_read_only_disk_is_not_written", "4.99", "fuzz:nothing", "nothing"):
            with self.subTest(new):
                self.assertEqual(self.said("test_blk.test_bounds", new), [f"2.1-2: there is no test {new}"])

    def test_neither_test_nor_reason(self):
        for new in ("", "not offered:", "later", "not offered"):
            with self.subTest(new):
                self.assertEqual(self.said("`test_blk.test_bounds`, `4.1`, `fuzz:block`", new), ["2.1-2: has neither a test nor a reason"])

    def test_ids(self):
        self.assertEqual(self.said("2.1-2", "2.1-1"), ["2.1-1: stands there twice"])
        self.assertEqual(self.said("2.1-2", "x"), ["x: no id (section and number)"])

    def test_places(self):
        self.assertEqual(self.said("virtio_kick", "virtio_nothing"), ["2.1-2: virtio_nothing() is not there"])
        self.assertEqual(self.said("virtio.c", "nothing.c"), ["2.1-2: there is no nothing.c", "2.1-2: virtio_kick() is not there"])
        self.assertEqual(self.said("`virtio.c`: `virtio_kick()`", ""), ["2.1-2: does not say where"])

    def test_numbers(self):
        self.assertEqual(self.said(number=3), ["All: 3 statements are announced, and the rows stand for 2"])
        self.assertIn("2.1-2', 'does that', 'x'", self.said("| 1 |", "| x |")[0])
        self.assertIn("the summary says ['2'], the sections [3]",
                      complaints(self.page(self.row).replace("2 statements", "3 statements")))


if __name__ == "__main__":
    unittest.main()
