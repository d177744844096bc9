#!/usr/bin/env python3
"""Measures what shadow paging costs and draws it: figures.py [--from DIR] [FIGURE]...

One boot of the test host runs the course kernel with paging under each engine and mode, and the counts of `--stats json` become
docs/img/memory-exits.svg and docs/img/memory-pool.svg. Counts, never times: they do not depend on how fast this machine is. What depends
on when the timer strikes differs a little from run to run. With --from nothing is measured: the figures are drawn from the numbers that
those in DIR carry along.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
from html import escape

TOP = pathlib.Path(__file__).resolve().parent.parent
IMAGES = TOP / "docs/img"
POOLS = (20, 22, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 500)
MODES = {"vtlb": "--shadow vtlb", "cached": "--shadow cached", "kvm": "--engine kvm"}
WHERE = "Counted by --stats json in the test host (QEMU without hardware virtualization), one run each."

# What an exit was: name, colour, colour of the text on it.
KINDS = (("the guest's own page faults", "#1d4ed8", "#ffffff"), ("hidden page faults", "#b3261e", "#ffffff"),
         ("emulated stores to page tables", "#15803d", "#ffffff"), ("privileged instructions", "#fde68a", "#111827"),
         ("devices", "#9ca3af", "#111827"), ("the rest", "#e5e7eb", "#111827"))


class FigureError(Exception):
    """What was measured cannot be used; the message says why."""


def measure(_):
    """{figure: {mode: counts by kind}, figure: {mode: {pages: hidden faults}}} from one boot."""
    runs = [f"{option} --append only=bigfork" for option in MODES.values()]
    sweep = [(mode, pages) for mode in ("vtlb", "cached") for pages in POOLS]
    runs += [f"--shadow {mode} --shadow-pages {pages}" for mode, pages in sweep]
    files = ("build/reference/hv", "build/guests/paging.elf")
    subprocess.run(["make", "-s", "-C", TOP, "hv", files[1]], check=True)
    command = "; ".join(f"hv run --stats json {options} paging.elf 2>&1 >/dev/null" for options in runs)
    arguments = [word for file in files for word in ("--file", TOP / file)]
    done = subprocess.run([TOP / "scripts/testhost-run", "--timeout", "300", *arguments, "--", command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    stats = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(stats) != len(runs) or any(run["status"] for run in stats):
        raise FigureError(f"{len(stats)} of {len(runs)} runs ended, and not all of them well:\n{done.stdout[-2000:]}")
    pool = {mode: {} for mode in ("vtlb", "cached")}
    for (mode, pages), run in zip(sweep, stats[len(MODES):]):
        pool[mode][str(pages)] = run["shadow"]["hidden"]
    return {"memory-exits": {mode: by_kind(run) for mode, run in zip(MODES, stats)}, "memory-pool": pool}


def by_kind(run):
    """The exits of a run, in the order of KINDS. Their sum is all of them."""
    kinds, emulated, shadow = run["by_kind"], run["emulated"], run.get("shadow", {"true": 0, "hidden": 0, "emulated": 0})
    ports = sum(emulated.get(name, 0) for name in ("in", "out"))  # trap engine: a #GP
    devices = sum(n for name, n in kinds.items() if name.startswith("io "))  # kvm engine
    counts = [shadow["true"], shadow["hidden"], shadow["emulated"], kinds.get("trap #GP", 0) - ports, ports + devices]
    return counts + [run["exits"] - sum(counts)]


# --- drawing ----------------------------------------------------------------------------------------------------------


class Drawing:
    """An SVG that carries its numbers along. Coordinates are those of the viewBox."""

    def __init__(self, width, height, title, description, numbers):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
                      'role="img" aria-labelledby="title desc" font-family="Liberation Sans, Arial, sans-serif" font-size="22">',
                      f'<title id="title">{escape(title, False)}</title>', f'<desc id="desc">{escape(description, False)}</desc>',
                      f"<metadata>{json.dumps(numbers)}</metadata>", f'<rect width="{width}" height="{height}" fill="#ffffff"/>']

    def text(self, x, y, words, **attributes):
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{written(attributes)}>{escape(words, False)}</text>')

    def note(self, y, words):
        self.text(20, y, words, font_size=20, fill="#374151")

    def rect(self, x, y, width, height, **attributes):
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"{written(attributes)}/>')

    def path(self, points, **attributes):
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path d="M{steps}" fill="none"{written(attributes)}/>')

    def __str__(self):
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def written(attributes):
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())


def thousands(number):
    return f"{number:,}".replace(",", " ")


def stacked(d, rows, kinds, left, widest, bar=62, gap=26):
    """Bars of counts by kind, one below the other and to one scale, with a legend. Returns the y below it."""
    scale = widest / max(sum(counts) for counts in rows.values())
    for row, (mode, counts) in enumerate(rows.items()):
        y = 24 + row * (bar + gap)
        middle = y + bar // 2 + 8
        d.text(20, middle, mode, font_weight="bold")
        x = left
        for (_, colour, on_it), n in zip(kinds, counts):
            width = n * scale
            if n:
                d.rect(x, y, width, bar, fill=colour, stroke="#ffffff", stroke_width=1)
            if width > 66:
                d.text(x + width / 2, middle, thousands(n), fill=on_it, text_anchor="middle")
            x += width
        d.text(x + 12, middle, thousands(sum(counts)), font_weight="bold")
    below = 38 + len(rows) * (bar + gap)
    for i, (name, colour, _) in enumerate(kinds):
        x, y = 120 + i % 2 * 480, below + i // 2 * 38
        d.rect(x, y, 26, 26, fill=colour, stroke="#6b7280")
        d.text(x + 38, y + 21, name)
    return below + (len(kinds) + 1) // 2 * 38


def said(rows, kinds):
    """The same in words."""
    return "; ".join(f"{mode}: {sum(counts)} exits, " + ", ".join(f"{name} {n}" for (name, *_), n in zip(kinds, counts) if n)
                     for mode, counts in rows.items())


def draw_exits(exits):
    d = Drawing(1152, 470, "Exits of one fork of a process with 1024 pages", f"Three bars. {said(exits, KINDS)}. {WHERE}", exits)
    stacked(d, exits, KINDS, 120, 920)
    d.note(436, "The course kernel, only=bigfork: 1024 pages filled, fork; child and parent read all and write to 16.")
    d.note(462, WHERE)
    return d


def draw_pool(pool):
    most = max(max(counts.values()) for counts in pool.values())
    words = "; ".join(f"{mode}: " + ", ".join(f"{n} with {pages} pages" for pages, n in counts.items()) for mode, counts in pool.items())
    d = Drawing(1152, 500, "Hidden faults by the size of the pool", f"Two falling curves over the number of shadow pages. {words}. {WHERE}",
                pool)
    left, right, top, bottom = 130, 1000, 30, 370

    def at(pages, n):
        # Even steps for the sizes that were measured: what happens happens among the small ones.
        return left + POOLS.index(int(pages)) * (right - left) / (len(POOLS) - 1), bottom - n * (bottom - top) / most

    for n in range(0, most + 1, 2000):
        y = at(POOLS[0], n)[1]
        d.path([(left, y), (right, y)], stroke="#d1d5db", stroke_width=1)
        d.text(left - 14, y + 7, thousands(n), text_anchor="end", fill="#374151", font_size=20)
    for pages in POOLS:
        d.text(at(pages, 0)[0], bottom + 30, str(pages), text_anchor="middle", fill="#374151", font_size=20)
    for (mode, counts), colour, dash in zip(pool.items(), ("#b3261e", "#15803d"), ("none", "10 5")):
        points = [at(pages, n) for pages, n in counts.items()]
        d.path(points, stroke=colour, stroke_width=4, stroke_dasharray=dash)
        for x, y in points:
            d.rect(x - 5, y - 5, 10, 10, fill=colour)
        d.text(right + 16, points[-1][1] + 8, mode, fill=colour, font_weight="bold")
    d.text(left + 20, top - 4, "hidden faults", font_weight="bold", fill="#374151")
    d.text(right, bottom + 60, "shadow pages (--shadow-pages); the steps are not even", text_anchor="end", font_weight="bold",
           fill="#374151")
    d.note(466, "The whole course kernel: 17 processes with an address space each, forks, 1024 pages in one of them.")
    d.note(492, WHERE)
    return d


FIGURES = {"memory-exits": draw_exits, "memory-pool": draw_pool}


def carried(directory, names):
    """The numbers in figures that were drawn before."""
    return {name: json.loads(re.search("<metadata>(.*)</metadata>", (directory / f"{name}.svg").read_text(encoding="utf-8"))[1])
            for name in names}


def main(drawn, measured):
    """For a script whose figures are `drawn`, {name: function}, from what measured(names) returns: {name: numbers}."""
    parser = argparse.ArgumentParser(description="Measure, and draw what was measured.")
    parser.add_argument("--from", dest="source", type=pathlib.Path, metavar="DIR",
                        help="measure nothing: take the numbers of the figures there")
    parser.add_argument("figure", nargs="*", help=f"only these: {', '.join(drawn)}")
    args = parser.parse_args()
    try:
        names = [name for name in drawn if name in args.figure or not args.figure]
        numbers = carried(args.source, names) if args.source else measured(names)
    except FigureError as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1
    for name in names:
        (IMAGES / f"{name}.svg").write_text(str(drawn[name](numbers[name])), encoding="utf-8")
        print(f"docs/img/{name}.svg: {json.dumps(numbers[name])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(FIGURES, measure))
