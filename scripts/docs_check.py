#!/usr/bin/env python3
"""Checks the documentation: docs_check.py [--sources]

In the sources: links between files, files and make targets that are named, figures with a text alternative, the manual page
against `hv --help`. In what Sphinx made of them (left out with --sources, when it need not be there): every link and anchor,
every picture, and the manual page by mandoc. Links to other sites are checked for their form only: nothing is fetched.
Prints each complaint; exit status 1 when there is one.
"""

import html.parser
import pathlib
import re
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

TOP = pathlib.Path(__file__).resolve().parent.parent
HTML = TOP / "build/docs/html"
MAN = TOP / "build/docs/man/hv.1"
HV = TOP / "build/reference/hv"

# Named as something that will be there; the page must say so itself.
PLANNED = {"compare", "levels"}
PLACES = "labs|reference-solution|grader|slides|docs|scripts|tests"
SVG = "{http://www.w3.org/2000/svg}"


def pages():
    return [TOP / "README.md", *sorted((TOP / "docs").glob("*.md")), TOP / "grader/README.md", *sorted((TOP / "labs").glob("*/README.md"))]


def without_blocks(text):
    """The text with its fenced blocks emptied, so that line numbers stay."""
    return re.sub(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)


def external(url):
    """A complaint about the form of a link to another site, or None."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc) or re.search(r"\s", url):
        return f"{url}: not the form of a link (https://host/...)"
    return None


def links(path, text):
    for target in re.findall(r"\]\(([^)]*)\)", without_blocks(text)):
        if "://" in target or target.startswith("mailto:"):
            complaint = external(target)
            if complaint:
                yield complaint
        elif target.partition("#")[0] and not (path.parent / target.partition("#")[0]).exists():
            yield f"a link to {target}, which does not exist"


def named_things(text, targets, solved=True):
    """Files and make targets that the text names in `code`. Capital letters and angle brackets stand for a name."""
    for place in set(re.findall(rf"`(?:\.\./|\./)?((?:{PLACES})/[^`\s:]*)`", text)):
        if re.search(r"[A-Z]{2,}(?!ME)|<|\.\.\.", place.replace("README", "")):
            continue
        if place.startswith("reference-solution") and not solved:
            continue
        if not (list(TOP.glob(place)) if "*" in place else (TOP / place).exists()):
            yield f"`{place}` is named, but does not exist"
    for target in set(re.findall(r"`make ([a-z][\w-]*)", text)):
        if target not in targets and target not in PLANNED:
            yield f"`make {target}` is named, but the Makefile has no such target"


def alternatives(text):
    for alt, source in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text):
        if len(alt.split()) < 3:
            yield f"the image {source} has no text alternative"
    for kind, source, body in re.findall(r"^```+\{(image|figure)\} *(\S*)\n(.*?)^```", text, re.M | re.S):
        alt = re.search(r"^:alt: *(.*)$", body, re.M)
        if not alt or len(alt[1].split()) < 3:
            yield f"the {kind} {source} has no text alternative"


def drawing(path):
    """Complaints about one SVG: it needs a title and a description, and nothing from elsewhere."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        yield f"no XML: {error}"
        return
    for name in ("title", "desc"):
        found = root.find(SVG + name)
        if found is None or not (found.text or "").strip():
            yield f"no <{name}>"
    if "viewBox" not in root.attrib:
        yield "no viewBox, so it cannot shrink"
    for element in root.iter():
        if element.tag in (SVG + "script", SVG + "image", SVG + "foreignObject"):
            yield f"<{element.tag.partition('}')[2]}> does not belong into a figure"
        if any(name.endswith("href") and not value.startswith("#") for name, value in element.attrib.items()):
            yield "it refers to something outside"


def options_of_help(text):
    """Options in the help: {name: what follows it on its line, up to two blanks}."""
    return dict(re.findall(r"^  (--[a-z-]+)((?: \S+)*)", text, re.M))


def manual(text, hv=HV):
    """The options of the manual page against those of hv. Those that the help does not list must be ones that hv knows."""
    def help_of(*words):
        return subprocess.run([str(hv), *words, "--help"], capture_output=True, text=True, check=False).stdout

    summary = help_of()
    commands = set(re.findall(r"^(?:usage:)? +hv ([a-z]+) \[options\]", summary, re.M))
    helped = {name: value.strip() for text_of_help in (summary, *map(help_of, commands))
              for name, value in options_of_help(text_of_help).items()}
    written = dict(re.findall(r"^```+\{option\} (--[a-z-]+) ?(.*)$", text, re.M))
    if not helped:
        yield "hv --help lists no options"
    for name in helped.keys() - written.keys():
        yield f"hv --help has {name}, the manual page does not"
    for name in written.keys() - helped.keys():
        if subprocess.run([str(hv), name], capture_output=True, check=False).returncode:
            yield f"the manual page has {name}, which hv does not know"
    for name in helped.keys() & written.keys():
        if helped[name] != written[name].strip():
            yield f"{name}: hv --help says it takes \"{helped[name]}\", the manual page says \"{written[name].strip()}\""
    for status in re.findall(r"\b(\d+) [a-z]", summary.partition("Exit status:")[2]):
        if not re.search(rf"^{status}\n: ", text, re.M):
            yield f"exit status {status} is missing"


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.hrefs, self.images = set(), [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.add(attrs["id"])
        if tag == "a" and "href" in attrs:
            self.hrefs.append(attrs["href"])
        if tag == "img":
            self.images.append((attrs.get("src", ""), attrs.get("alt", "")))


def built(root=HTML):
    """Complaints about the pages that Sphinx made: (page, text)."""
    found = {}
    for path in sorted(root.rglob("*.html")):
        found[path.resolve()] = page = Page()
        page.feed(path.read_text(encoding="utf-8"))
    if not found:
        yield root.name, "no pages were made"
    for path, page in found.items():
        name = path.relative_to(root.resolve())
        for source, alt in page.images:
            if len(alt.split()) < 3:
                yield name, f"the image {source} has no text alternative"
            if not source.startswith("data:") and not (path.parent / urllib.parse.unquote(source)).exists():
                yield name, f"the image {source} is missing"
        for href in page.hrefs:
            target, _, anchor = href.partition("#")
            if re.match(r"[a-z]+:", target):
                complaint = external(href)
                if complaint:
                    yield name, complaint
                continue
            there = (path.parent / urllib.parse.unquote(target)).resolve() if target else path
            if not there.exists():
                yield name, f"a link to {href}, which does not exist"
            elif anchor and there in found and urllib.parse.unquote(anchor) not in found[there].ids:
                yield name, f"a link to {href}: that page has no such place"


def complaints(sources_only):
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.M))
    solved = (TOP / "reference-solution").exists()
    for path in pages():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(TOP)
        for complaint in (*links(path, text), *named_things(text, targets, solved), *alternatives(text)):
            yield f"{name}: {complaint}"
    for path in sorted((TOP / "docs/img").glob("*.svg")):
        yield from (f"{path.relative_to(TOP)}: {complaint}" for complaint in drawing(path))
    yield from (f"docs/hv.md: {complaint}" for complaint in manual((TOP / "docs/hv.md").read_text(encoding="utf-8")))
    if sources_only:
        return
    yield from (f"{page}: {complaint}" for page, complaint in built())
    linted = subprocess.run(["mandoc", "-T", "lint", "-W", "error", str(MAN)], capture_output=True, text=True, check=False)
    yield from (linted.stdout + linted.stderr).splitlines()


def main():
    if sys.argv[1:] not in ([], ["--sources"]):
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    if not HV.exists():
        print("docs_check: the manual page is compared with build/reference/hv, which is not built. Type: make hv", file=sys.stderr)
        return 2
    found = list(complaints("--sources" in sys.argv))
    for complaint in found:
        print(complaint)
    print(f"docs: {len(pages())} pages, {len(list((TOP / 'docs/img').glob('*.svg')))} figures, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
