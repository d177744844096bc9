"""The documentation's sources, and the two programs that check them. What Sphinx makes of them is checked by `make docs`."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

import docs_check  # noqa: E402
import docs_commands  # noqa: E402
from docs_commands import DocsError, blocks_of, compare  # noqa: E402


def complaints(generator):
    return list(generator)


class Sources(unittest.TestCase):
    def test_nothing_to_complain_about(self):
        subprocess.run(["make", "-s", "hv"], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(complaints(docs_check.complaints(sources_only=True)), [])

    def test_each_shell_block_says_whether_it_is_run(self):
        pages = docs_commands.pages([])
        self.assertGreaterEqual(len(pages), 12)
        for path, blocks in pages:
            if path.parent == TOP / "docs":
                for block in blocks:
                    self.assertTrue(block.kind or block.language != "sh", block.place)
        self.assertGreaterEqual(sum(block.kind == "run" for _, blocks in pages for block in blocks), 30)

    def test_solutions_that_the_pages_ask_for_exist(self):
        for _, blocks in docs_commands.pages([]):
            for block in blocks:
                kind, _, name = block.options.get("with", "").partition(":")
                if kind in docs_commands.MISTAKES and (TOP / "reference-solution").exists():
                    directory = TOP / docs_commands.MISTAKES[kind] / docs_commands.LABS[block.lab]
                    self.assertTrue((directory / f"{name}.mutant").exists(), block.place)


class Marks(unittest.TestCase):
    def test_a_mark_belongs_to_the_next_block(self):
        text = ('a\n<!-- run status=4 until="two words" -->\n```sh\nls\n```\n\n<!-- output numbers=any -->\n```text\nx\n```\n'
                '```sh\npwd\n```\n')
        run, output, plain = blocks_of(text, "page")
        self.assertEqual((run.kind, run.options, run.text, run.line), ("run", {"status": "4", "until": "two words"}, "ls\n", 3))
        self.assertEqual((output.kind, output.options), ("output", {"numbers": "any"}))
        self.assertEqual((plain.kind, plain.text), ("", "pwd\n"))

    def test_blocks_in_lists_and_directives(self):
        text = "1. x\n   <!-- run -->\n   ```sh\n   ls\n     -l\n   ```\n```{figure} a.svg\n:alt: b\n```\n```sh\nid\n```\n"
        self.assertEqual([block.text for block in blocks_of(text, "p")], ["ls\n  -l\n", ":alt: b\n", "id\n"])

    def test_which_lab_a_block_is_about(self):
        text = "<!-- run -->\n```sh\nls\n```\n<!-- run lab=2 -->\n```sh\nls\n```\n"
        self.assertEqual([block.lab for block in blocks_of(text, "docs/a.md")], ["1", "2"])
        self.assertEqual([block.lab for block in blocks_of(text, "labs/02-shadow-paging/README.md")], ["2", "2"])

    def test_what_makes_no_sense_is_refused(self):
        for text in ("<!-- run color=red -->\n```sh\nls\n```\n", "<!-- run quickly -->\n```sh\nls\n```\n",
                     "<!-- run lab=9 -->\n```sh\nls\n```\n", "<!-- not run -->\n```sh\nls\n```\n",
                     "<!-- run -->\nwords\n```sh\nls\n```\n",
                     "<!-- run -->\n```text\nls\n```\n", "<!-- output -->\n```sh\nls\n```\n",
                     "```sh\nls\n```\n<!-- run -->\n"):
            with self.assertRaises(DocsError, msg=text):
                blocks_of(text, "page")


class Comparison(unittest.TestCase):
    def test_lines_one_behind_the_other(self):
        self.assertIsNone(compare("b\nc\n", "a\nb\nc\nd\n"))
        self.assertIn("not one behind the other", compare("b\nd\n", "a\nb\nc\nd\n"))
        self.assertIn("was not printed: x", compare("b\nx\n", "a\nb\nc\n"))
        self.assertIn("was not printed: b", compare("b\n", "ab\nbc\n"))

    def test_dots(self):
        self.assertIsNone(compare("a\n...\nd\n", "a\nb\nc\nd\n"))
        self.assertIsNone(compare("a\n...\nb\n", "a\nb\n"))
        self.assertIsNone(compare("at ... (x)\n", "at 17 of 20 (x)\n"))
        self.assertIsNotNone(compare("d\n...\na\n", "a\nb\nc\nd\n"))

    def test_numbers(self):
        self.assertIsNotNone(compare("rip 0x10 after 5 of 7.5 s\n", "rip 0x1f3 after 12 of 3 s\n"))
        self.assertIsNone(compare("rip 0x10 after 5 of 7.5 s\n", "rip 0x1f3    after 12 of 3 s\n", any_number=True))
        self.assertIsNone(compare("rax=5de9\n", "rax=17\n", any_number=True))
        self.assertIsNotNone(compare("rip 0x10 cli\n", "rip 0x10 sti\n", any_number=True))
        self.assertIsNotNone(compare("exit 5\n", "exit none\n", any_number=True))


class Checks(unittest.TestCase):
    def some(self, generator, words):
        found = complaints(generator)
        self.assertEqual(len(found), 1, found)
        self.assertIn(words, found[0])

    def test_links(self):
        page = TOP / "README.md"
        self.assertEqual(complaints(docs_check.links(page, "[a](docs/design.md#x) [b](https://example.org/x) ```no [c](gone.md)```")),
                         ["a link to gone.md, which does not exist"])
        self.some(docs_check.links(page, "[a](docs/gone.md)"), "docs/gone.md")
        self.some(docs_check.links(page, "[a](http://example.org)"), "not the form")
        self.some(docs_check.links(page, "[a](https://localhost)"), "not the form")
        self.assertEqual(complaints(docs_check.links(page, "```text\n[a](gone.md)\n```\n")), [])

    def test_named_things(self):
        targets = {"hv"}
        text = "`docs/design.md` `labs/NN-name/x.py` `make hv LAB=1` `tests/*/`"
        self.assertEqual(complaints(docs_check.named_things(text, targets)), [])
        self.some(docs_check.named_things("`docs/gone.md`", targets), "does not exist")
        self.some(docs_check.named_things("`make tea`", targets), "no such target")

    def test_pictures_have_words(self):
        self.some(docs_check.alternatives("![](a.svg)"), "a.svg")
        self.some(docs_check.alternatives("```{figure} a.svg\n:width: 3\n```\n"), "a.svg")
        self.assertEqual(complaints(docs_check.alternatives("```{figure} a.svg\n:alt: three words here\n```\n")), [])

    def test_drawings(self):
        head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">'
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "a.svg")
            for body, words in (("<title>a</title>", "no <desc>"), ("<title>a</title><desc>b</desc><script/>", "script"),
                                ('<title>a</title><desc>b</desc><a href="https://x.org"/>', "outside"), ("<", "no XML")):
                path.write_text(f"{head}{body}</svg>", encoding="utf-8")
                self.some(docs_check.drawing(path), words)

    def test_manual_page(self):
        text = (TOP / "docs/hv.md").read_text(encoding="utf-8")
        self.assertEqual(complaints(docs_check.manual(text)), [])
        self.some(docs_check.manual(text.replace("{option} --patch", "{other} --patch")), "has --patch")
        self.some(docs_check.manual(text + "```{option} --magic\nx\n```\n"), "--magic, which hv does not know")
        self.some(docs_check.manual(text.replace("--mem SIZE", "--mem BYTES")), "--mem")
        self.some(docs_check.manual(text.replace("\n124\n: ", "\n125\n: ")), "124")

    def test_built_pages(self):
        with tempfile.TemporaryDirectory() as directory:
            page = pathlib.Path(directory, "a.html")
            for body, words in (('<a href="b.html">', "does not exist"), ('<a href="#gone">', "no such place"),
                                ('<img src="data:x">', "alternative"), ('<img src="a.png" alt="three words here">', "missing")):
                page.write_text(f'<p id="here"><a href="#here">{body}', encoding="utf-8")
                found = complaints(docs_check.built(pathlib.Path(directory)))
                self.assertEqual(len(found), 1, found)
                self.assertIn(words, found[0][1])


if __name__ == "__main__":
    unittest.main()
