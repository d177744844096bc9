#!/usr/bin/env python3
"""Measures live migrations and draws them: figures_migration.py [--from DIR] [FIGURE]...

The same guest as in scripts/bench_migrate.py, Linux with 128 MiB of which a program writes to 64 MiB at a given rate, moves between two
processes of hv in one test host.
docs/img/migration-rounds.svg: pages of each round at three rates.
docs/img/migration-never.svg: a guest that writes faster than the connection carries: pages and throttle of each round.
docs/img/migration-modes.svg: pre-copy and post-copy of the same guest: pages sent, and how long it stood still.
docs/img/migration-report.svg: what hv migrate-report draws of one migration.
The times are those of one machine, whose processor is one in software; what the figures show are the shapes. --from is as in figures.py.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile

import bench_migrate
import figures
from figures import TOP, Drawing, FigureError, thousands
from testhost import build_program

WHERE = "Linux, 128 MiB, kvm engine, two hv in one test host; one run each, from the answers of hv ctl."
RATES, BANDWIDTH, DOWNTIME = (0, 1000, 2000), 32, 50
BLUE, RED, GREEN, DARK = "#1d4ed8", "#b3261e", "#15803d", "#374151"
ATTEMPTS = 3


# --- measuring --------------------------------------------------------------------------------------------------------


def moved(host, rate, downtime, bandwidth, more="", whole=False):
    text = bench_migrate.job("hv", rate, downtime, bandwidth, 120).replace("--downtime", f"{more} --downtime")
    for _ in range(ATTEMPTS):
        try:
            got = bench_migrate.read("hv", host.run(text))
        except (ValueError, TypeError) as error:
            said = error
            continue
        facts = got["job"]
        if whole:
            return facts
        return {"rounds": [[r["pages"], r["zero"], r["dirty"], r["throttle"]] for r in facts["rounds"]], "pages": facts["pages"],
                "ms": round(facts["ms"]), "downtime_ms": round(facts["downtime"]["total_ms"]), "gap_ms": round(got["gap"])}
    raise FigureError(f"{rate} pages/s: {said}")


def measure(names):
    subprocess.run(["make", "-s", "-C", TOP, "hv", "testhost"], check=True)
    found = {}
    with tempfile.TemporaryDirectory(prefix="figures.") as made:
        host = bench_migrate.Host(pathlib.Path(made), build_program(TOP, "churn", "churn.c"))
        if "migration-rounds" in names:
            found["migration-rounds"] = {str(rate): moved(host, rate, DOWNTIME, BANDWIDTH) for rate in RATES}
        if "migration-never" in names:
            found["migration-never"] = moved(host, 4000, DOWNTIME, 8)
        if "migration-modes" in names:
            found["migration-modes"] = {"pre-copy": moved(host, RATES[-1], DOWNTIME, BANDWIDTH),
                                        "post-copy": moved(host, RATES[-1], DOWNTIME, BANDWIDTH, "--mode postcopy")}
        if "migration-report" in names:
            found["migration-report"] = moved(host, 1000, 300, 128, whole=True)
    return found


# --- drawing ----------------------------------------------------------------------------------------------------------


def said(run):
    return ", ".join(thousands(r[0]) for r in run["rounds"])


def draw_rounds(runs):
    words = "; ".join(f"{rate} pages/s: {said(run)}, standing still for {run['downtime_ms']} ms" for rate, run in runs.items())
    d = Drawing(1152, 560, "Pages of each round",
                f"A row of bars for each rate, one bar for each round, by the logarithm of its pages. {words}. {WHERE}", runs)
    most = math.log10(max(r[0] for run in runs.values() for r in run["rounds"]) + 1)
    width = min(80, 900 / max(len(run["rounds"]) for run in runs.values()))
    for i, (rate, run) in enumerate(runs.items()):
        bottom = 150 + i * 160
        d.text(20, bottom - 40, f"{rate} pages/s", font_weight="bold")
        d.text(20, bottom - 12, f"stood {run['downtime_ms']} ms", font_size=20, fill=DARK)
        for n, (pages, _, _, throttle) in enumerate(run["rounds"]):
            x, height = 220 + n * width, 100 * math.log10(pages + 1) / most
            d.rect(x, bottom - height, width - 6, height, fill=RED if throttle else BLUE)
            d.text(x + width / 2 - 3, bottom - height - 8, str(pages), text_anchor="middle", font_size=20)
        d.path([(212, bottom), (220 + width * len(run["rounds"]), bottom)], stroke=DARK, stroke_width=2)
    d.text(220, 508, f"Red: vCPUs are slowed down. Heights are logarithms. Limits: {BANDWIDTH} MiB/s, {DOWNTIME} ms.", font_size=20,
           fill=DARK)
    d.text(220, 536, WHERE, font_size=20, fill=DARK)
    return d


def draw_never(run):
    rounds = run["rounds"]
    d = Drawing(1152, 560, "A guest that writes faster than the connection carries",
                "Two panels over the rounds. Above, pages that were written during each round: " + ", ".join(str(r[2]) for r in rounds) +
                ". Below, the percentage of their time that the vCPUs stood still: " + ", ".join(str(r[3]) for r in rounds) +
                f". Standing still at the end: {run['downtime_ms']} ms. {WHERE}", run)
    width = 1040 / len(rounds)
    most = max(max(r[2] for r in rounds), 1)
    for i, (_, _, dirty, throttle) in enumerate(rounds):
        x = 60 + i * width
        height = dirty * 196 / most
        d.rect(x, 270 - height, width - 6, height, fill=BLUE)
        if width > 52:
            d.text(x + width / 2 - 3, 262 - height, str(dirty), text_anchor="middle", font_size=20)
        height = throttle * 120 / 100
        d.rect(x, 450 - height, width - 6, height, fill=RED)
        if width > 30:
            d.text(x + width / 2 - 3, 442 - height, str(throttle), text_anchor="middle", font_size=20)
    for y in (270, 450):
        d.path([(54, y), (1100, y)], stroke=DARK, stroke_width=2)
    d.text(60, 30, "pages written while each round was sent", font_weight="bold", fill=BLUE)
    d.text(60, 306, "percent of their time that the vCPUs stand still", font_weight="bold", fill=RED)
    d.note(488, f"4000 pages/s over 8 MiB/s, which are 2048 pages/s. It ends after {run['ms'] / 1000:.0f} s; the last pause: "
                f"{run['downtime_ms']} ms.")
    d.note(514, "Each bar is a round; the last one is sent while the VM stands.")
    d.note(540, WHERE)
    return d


def draw_modes(runs):
    names = (("pages", "pages sent", BLUE), ("gap_ms", "longest gap that the guest saw, ms", RED),
             ("downtime_ms", "stood still, as hv says, ms", GREEN))
    words = "; ".join(f"{mode}: " + ", ".join(f"{label} {run[key]}" for key, label, _ in names) for mode, run in runs.items())
    d = Drawing(1152, 450, "Pre-copy and post-copy of the same guest", f"Three pairs of bars. {words}. {WHERE}", runs)
    for i, (key, label, colour) in enumerate(names):
        y, most = 20 + i * 124, max(run[key] for run in runs.values()) or 1
        d.text(20, y + 20, label, font_weight="bold", fill=colour)
        for j, (mode, run) in enumerate(runs.items()):
            d.text(40, y + 52 + j * 38, mode)
            d.rect(180, y + 32 + j * 38, max(run[key] * 780 / most, 2), 28, fill=colour)
            d.text(180 + run[key] * 780 / most + 12, y + 53 + j * 38, thousands(run[key]), font_weight="bold")
    d.note(412, f"{RATES[-1]} pages/s, {BANDWIDTH} MiB/s, {DOWNTIME} ms allowed. The guest's gap has everything in it, also page faults "
                "and its scheduler.")
    d.note(438, WHERE)
    return d


def draw_report(facts):
    done = subprocess.run([TOP / "build/reference/hv", "migrate-report", "-"], input=json.dumps(facts), stdout=subprocess.PIPE, text=True,
                          check=True)
    return done.stdout.replace("</desc>", f"</desc>\n<metadata>{json.dumps(facts)}</metadata>", 1)


FIGURES = {"migration-rounds": draw_rounds, "migration-never": draw_never, "migration-modes": draw_modes,
           "migration-report": draw_report}


if __name__ == "__main__":
    sys.exit(figures.main(FIGURES, measure))
