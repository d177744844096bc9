#!/usr/bin/env python3
"""Popek and Goldberg's three requirements as numbers, measured now: `make requirements`, or requirements.py [--format text|json|tsv].

Equivalence: every guest of the equivalence test on each engine, its transcript against bare QEMU's and its memory at the end against
the other engine's. Resource control: the attacks of the hostile guests. Efficiency: the share of instructions that the machine
carries out by itself, from single-stepping a sample. What is compared and what counts as stopped is the tests' business
(tests/vm/equivalence.py, differences.py, test_hostile.py); here it is counted.
"""

import argparse
import contextlib
import json
import pathlib
import random
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests/vm"))

import equivalence  # noqa: E402
import host  # noqa: E402
import test_hostile  # noqa: E402
from differences import KVM, QEMU  # noqa: E402
from equivalence import TRAP  # noqa: E402

ENGINES = (TRAP, KVM)
SAMPLED = ("kernel-0", "hello", "1.5-strio", "1.8-tables", "1.10-segments-rest")  # cases of the equivalence test
STEPS = 20000  # of each; the small ones end earlier

# The loader's page tables (BOOT_PML4, loader.h). The processor marks entries in them as accessed and dirty where the guest runs on
# them, and on the trap engine it does not: there the machine has tables of its own.
BOOT_TABLES = range(0x9000, 0xF000)


def stats(result):
    last = (result.stderr.splitlines() or [""])[-1]
    return json.loads(last) if last.startswith("{") else {}


def memory(result):
    pages = {int(gpa, 16): crc for gpa, crc in stats(result).get("memory", {}).items()}
    return {gpa: crc for gpa, crc in pages.items() if gpa not in BOOT_TABLES}


def measure_equivalence(cases):
    """engine -> what of it is equal."""
    results = equivalence.run(cases, ["--hash-memory"], engines={engine: equivalence.HV_OPTIONS[engine] for engine in ENGINES})
    found = {}
    for engine in ENGINES:
        row = {"guests": len(cases), "transcript_equal": 0, "transcript_agrees": 0, "transcript_different": [], "memory_equal": 0,
               "same_output": 0, "same_output_and_memory": 0, "memory_pages": 0, "memory_pages_different": 0, "memory_different": []}
        for name in cases:
            known = [e for e in equivalence.EXCEPTIONS if e.concerns(name, QEMU) or e.concerns(name, engine)]
            here, there = results[name, engine], results[name, QEMU]
            row["transcript_equal"] += equivalence.comparable(here, ()) == equivalence.comparable(there, ())
            if equivalence.comparable(here, known) == equivalence.comparable(there, known):
                row["transcript_agrees"] += 1
            else:
                row["transcript_different"].append(name)
            counterpart = results[name, KVM if engine == TRAP else TRAP]
            mine, other = memory(here), memory(counterpart)
            pages = mine.keys() | other.keys()
            different = sorted(gpa for gpa in pages if mine.get(gpa) != other.get(gpa))
            equal, same_output = bool(pages) and not different, here.stdout == counterpart.stdout
            row["memory_equal"] += equal
            row["same_output"] += same_output
            row["same_output_and_memory"] += equal and same_output
            row["memory_pages"] += len(pages)
            row["memory_pages_different"] += len(different)
            if different:
                row["memory_different"].append({"guest": name, "pages": [f"{gpa:#x}" for gpa in different]})
        found[engine] = row
    return found


def measure_control():
    """engine -> attacks that were tried, and how many of them passed each test of the hostile suite."""
    suite = test_hostile.TestHostile
    suite.setUpClass()
    everything = dict(suite.results)
    found = {engine: {"attacks": 0, "stopped": 0, "not_stopped": []} for engine in ENGINES}
    for key, result in everything.items():
        if key[1] == "next":
            continue
        # The tests look at whatever is in results: here one attack, and the guest that ran after it.
        suite.results = {key: result, (key[0], "next"): everything[key[0], "next"]}
        verdict = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(type("OneAttack", (suite,), {"setUpClass": lambda: None})).run(verdict)
        row = found[key[2]]
        row["attacks"] += 1
        row["stopped"] += verdict.wasSuccessful()
        if not verdict.wasSuccessful():
            row["not_stopped"].append(f"{key[0]} n={key[1]}")
    return found


def measure_efficiency(cases):
    """engine -> the instructions of the sample, and how many of them did not run directly."""
    with tempfile.TemporaryDirectory() as directory:
        images = {name: pathlib.Path(directory, f"{name}.elf") for name in SAMPLED}
        for name, image in images.items():
            image.write_bytes(cases[name].image())
        results = host.run({(engine, name): host.Command(
            ["hv", "run", "--engine", engine, "--sample-steps", str(STEPS), "--stats", "json", "--timeout", "60", "--append",
             cases[name].append, image.name], limit=80) for engine in ENGINES for name, image in images.items()},
            [host.HV, *images.values()])
    found = {}
    for engine in ENGINES:
        samples = {name: stats(results[engine, name]).get("sample") for name in SAMPLED}
        missing = [name for name, sample in samples.items() if not sample or not sample["instructions"]]
        if missing:
            raise RuntimeError(f"no sample of {', '.join(missing)} on the {engine} engine: {results[engine, missing[0]].stderr[-400:]}")
        total, intervened = (sum(sample[what] for sample in samples.values()) for what in ("instructions", "intervened"))
        found[engine] = {"instructions": total, "intervened": intervened, "direct_share": (total - intervened) / total, "samples": samples}
    return found


def rows(found):
    """(requirement, number, trap, kvm), as text."""
    def both(what, text):
        return [text(found[what][engine]) for engine in ENGINES]

    yield ("equivalence", "transcripts like bare QEMU's, every line",
           *both("equivalence", lambda r: f"{r['transcript_equal']}/{r['guests']}"))
    yield ("equivalence", "but for the listed lines", *both("equivalence", lambda r: f"{r['transcript_agrees']}/{r['guests']}"))
    yield ("equivalence", "memory like the other engine's", *both("equivalence", lambda r: f"{r['memory_equal']}/{r['guests']}"))
    yield ("equivalence", "the same, of guests that print the same",
           *both("equivalence", lambda r: f"{r['same_output_and_memory']}/{r['same_output']}"))
    yield ("equivalence", "pages that differ", *both("equivalence", lambda r: f"{r['memory_pages_different']}/{r['memory_pages']}"))
    yield ("resource control", "attacks stopped", *both("resource_control", lambda r: f"{r['stopped']}/{r['attacks']}"))
    yield ("efficiency", "instructions sampled", *both("efficiency", lambda r: str(r["instructions"])))
    yield ("efficiency", "of these ran directly", *both("efficiency", lambda r: f"{100 * r['direct_share']:.1f} %"))
    for name in SAMPLED:
        yield ("", f"  {name}", *both("efficiency", lambda r, name=name: "{instructions} - {intervened}".format(**r["samples"][name])))


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"requirements.py: {message}\n")


def main():
    parser = Parser(description="Popek and Goldberg's three requirements as numbers.")
    parser.add_argument("--format", choices=("text", "json", "tsv"), default="text")
    options = parser.parse_args()
    seed = host.seed_from_environment(random)
    host.build("hv", "guests", "vmguests")
    cases = equivalence.cases(seed)
    print("a few minutes: all guests on all engines, then the attacks, then the samples", file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):  # the tests say what they do
        found = {"seed": seed, "equivalence": measure_equivalence(cases), "resource_control": measure_control(),
                 "efficiency": measure_efficiency(cases)}
    if options.format == "json":
        print(json.dumps(found, indent=1))
        return
    table = [("requirement", "number", "trap", "kvm"), *rows(found)]
    for row in table:
        print("\t".join(row) if options.format == "tsv" else "{:18}{:42}{:>16}{:>16}".format(*row))


if __name__ == "__main__":
    main()
