"""docs/stream.md: its tables have the numbers that stream.h has, all of them, and its offsets are those of the structs."""

import pathlib
import re
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs/stream.md").read_text()
HEADER = (TOP / "labs/common/hv/stream.h").read_text()
SIZES = {"char": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8}


def rows(title):
    """The rows of the first table under a heading."""
    table = re.search(rf"^## {title}\n.*?\n\|---.*?\n((?:\|[^\n]*\n)+)", PAGE, re.M | re.S)[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def fields(struct):
    """(offset, bytes) of each run of fields of one line of a struct."""
    body = re.search(rf"^struct {struct} {{\n(.*?)^}};", HEADER, re.M | re.S)[1]
    at, found = 0, []
    for kind, names in re.findall(r"^\s*(\w+) ([\w\[\], ]+);", body, re.M):
        for name in names.split(","):
            size = SIZES[kind] * int((re.search(r"\[(\d+)\]", name) or [0, 1])[1])
            found.append((at, size))
            at += size
    return found


class Stream(unittest.TestCase):
    def test_layouts(self):
        for title, struct in (("Header", "stream_header"), ("Sections", "section_header"), ("Pages", "pages_header")):
            self.assertEqual([(int(row[0]), int(row[1])) for row in rows(title)], fields(struct), struct)

    def test_types(self):
        body = re.search(r"^enum section_type {\n(.*?)^};", HEADER, re.M | re.S)[1]
        types = {(int(number), name) for name, number in re.findall(r"(?:SECTION|MSG)_(\w+) = (\d+)", body)}
        table = re.search(r"^\| type \| name .*?\n\|---.*?\n((?:\|[^\n]*\n)+)", PAGE, re.M)[1]
        self.assertEqual({(int(number), name) for number, name in re.findall(r"^\| (\d+) \| (\w+) ", table, re.M)}, types)

    def test_parts(self):
        body = re.search(r"^enum state_part_id {\n(.*?)^};", HEADER, re.M | re.S)[1]
        parts = [int(number) for number in re.findall(r"PART_\w+ = (\d+)", body)]
        self.assertEqual([int(re.match(r"\d+", row[0])[0]) for row in rows("State")], parts)

    def test_functions_and_files(self):
        for name in re.findall(r"`(\w+)\(\)`", PAGE):
            sources = [path for path in TOP.glob("labs/common/hv/*.c") if re.search(rf"^void {name}\(", path.read_text(), re.M)]
            self.assertTrue(sources, f"{name}() writes no state")
        for file in re.findall(r"`(?:labs/common/hv/|)(\w+\.[ch])`", PAGE):
            self.assertTrue((TOP / "labs/common/hv" / file).exists() or list(TOP.glob(f"reference-solution/*/{file}")), file)
        for file in re.findall(r"`(tests/[\w./]+)`", PAGE):
            self.assertTrue((TOP / file).exists(), file)


if __name__ == "__main__":
    unittest.main()
