#!/usr/bin/env python3
"""run.py [--seconds N] [--jobs N] [--keep] [TARGET]...: lets libFuzzer loose on each target of tests/fuzz, for N seconds (60), two
at a time.

Each begins with its corpus, tests/fuzz/corpus/TARGET, and works on a copy in build/fuzz/corpus; --keep brings what is new and small
back, merged. An input that breaks a target is kept as build/fuzz/TARGET.crash-*; `build/fuzz/TARGET FILE` runs it again. It belongs
into the corpus then, so that it is tried in every run. The last line is "N passed, M failed".
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = TOP / "build/fuzz"
LONGEST = 512   # bytes of an input
KEPT = 160      # inputs of a corpus in the tree


def fuzz(target, seconds):
    """Returns (did it go well, what to say)."""
    corpus = BUILD / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for file in (TOP / "tests/fuzz/corpus" / target).glob("*"):
        shutil.copy(file, corpus)
    command = [BUILD / target, f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-print_final_stats=1", "-timeout=20",
               f"-artifact_prefix={BUILD}/{target}.", corpus]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds * 3 + 120, check=False,
                              env=os.environ | {"ASAN_OPTIONS": "detect_leaks=1"})
    except subprocess.TimeoutExpired:
        return False, "did not end"
    (BUILD / f"{target}.log").write_text(done.stderr)
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    cover = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode or not runs or not int(runs[1]):
        telling = re.compile(r"ERROR|runtime error|Test unit written|SUMMARY|pointer of|status is")
        interesting = [line for line in done.stderr.splitlines() if telling.search(line)]
        return False, "\n    ".join(interesting or done.stderr.splitlines()[-5:])
    return True, f"{runs[1]} inputs, {cover[-1] if cover else '?'} places reached"


def keep(target):
    """A small set of inputs that reach what all of them reach, and those that once broke the target."""
    to = TOP / "tests/fuzz/corpus" / target
    merged = BUILD / "merged" / target
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    # Places only, not how often each is reached: that would be several times as many inputs.
    subprocess.run([BUILD / target, "-merge=1", "-use_counters=0", f"-max_len={LONGEST}", merged, BUILD / "corpus" / target],
                   capture_output=True, check=True)
    to.mkdir(parents=True, exist_ok=True)
    for file in to.iterdir():
        if not file.name.startswith("crash-"):
            file.unlink()
    for file in sorted(merged.iterdir(), key=lambda f: (f.stat().st_size, f.name))[:KEPT]:
        shutil.copy(file, to)


def main():
    every = sorted(path.stem.removeprefix("fuzz_") for path in (TOP / "tests/fuzz").glob("fuzz_*.c"))
    parser = argparse.ArgumentParser(description="fuzzes the virtio devices, and what reads a saved VM")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time")
    parser.add_argument("--keep", action="store_true", help="bring new inputs into the tree")
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[[], *every], help=" ".join(every))
    args = parser.parse_args()
    subprocess.run(["make", "fuzz-targets"], cwd=TOP, check=True)
    targets = args.targets or every
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for target, (good, text) in zip(targets, pool.map(lambda t: fuzz(t, args.seconds), targets)):
            print(f"{'ok    ' if good else 'FAILED'} {target}: {text}", flush=True)
            failed += not good
            if good and args.keep:
                keep(target)
    print(f"{len(targets) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
