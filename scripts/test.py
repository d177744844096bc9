#!/usr/bin/env python3
"""Every test there is. test.py [SUITE]... runs only these suites. TRAPDOOR_ALL=1 adds documentation and slides, with what they install;
TRAPDOOR_MATRIX=1 grades the mutants of every lab by all checkpoints, not only by the one that must catch them, and tries out make bench-io.

Each suite reports one line with its counts, its whole output is in build/test/SUITE.log, and what failed is shown at the end. Several
emulated machines at a time can keep each other waiting for seconds: a suite of which hardly anything failed is run once more alone, and
that counts; what failed at first is shown all the same, and stays in SUITE.first.log.
The very last line is "N passed, M failed"; the exit status is 0 when nothing failed.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
LOGS = TOP / "build/test"
SECONDS = 1500  # ends suites that hang
# The same values in every run, so that a change is judged and not its luck. The grader, and a test run by itself, draw fresh ones.
SEED = os.environ.get("TRAPDOOR_SEED") or "453480640"
LABS = sorted(str(int(path.name[:2])) for path in (TOP / "labs").glob("[0-9][0-9]-*"))
WORKERS = 2     # suites that keep a processor busy: most wait for a test host, which does
# Those that hardly do run one after the other beside them.
WAITING = ("tests/vm/migration_faults", "mutants-5", "unit-san", "unit", "tests/vm/postcopy", "tests/vm/kvm_state", "tests/cli/gdb",
           "tests/vm/stream_fixtures")
# Those that take longest, the longest first: what is left at the end then keeps both workers busy.
LONGEST = ("docs-commands", "tests/vm/equivalence", "slides-demos", "mutants-3", "mutants-4", "tests/vm/hostile", "mutants-2", "mutants-1",
           "fuzz", "tests/vm/hostile_hvm", "tests/vm/hostile_paging", "tests/vm/linux_disk", "tests/vm/linux", "grade-4-reference",
           "docs-and-slides", "grade-3-reference", "tests/vm/paging_differential", "grade-5-reference", "tests/vm/differential",
           "tests/vm/linux_virtio", "tests/vm/linux_net", "tests/grader/testhost", "tests/vm/two_hosts", "tests/grader/bochs",
           "tests/cli/control", "tests/vm/save_engines", "lint", "tests/vm/dirty_log", "tests/vm/dump_nested", "grade-2-reference",
           *WAITING)

FEW = 3  # tests of a suite, which may have failed because of what ran beside it

worked = {}  # log -> seconds of processor time


def run(log, *command):
    """Runs a command with its output at the end of a log. Returns (exit status, that output)."""
    # Which make started this is nothing to the makes that are started here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment.setdefault("TRAPDOOR_SEED", SEED)
    command = [str(word) for word in command]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(command, cwd=TOP, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        late = threading.Timer(SECONDS, process.kill)
        late.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read() + ("" if late.is_alive() else f"\nended after {SECONDS} seconds\n")
        late.cancel()
    worked[log] = worked.get(log, 0) + used.ru_utime + used.ru_stime
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{output}\n")
    return status, output


# Each suite is a function of its log that returns (passed, failed).

def commands(*list_of_commands):
    """One test for each command: it succeeds."""
    def suite(log):
        good = sum(run(log, *command)[0] == 0 for command in list_of_commands)
        return good, len(list_of_commands) - good
    return suite


def counted(*list_of_commands):
    """Commands that print "N passed, M failed" themselves. One that counts nothing is one test; one that fails without saying so has
    failed once."""
    def suite(log):
        passed = failed = 0
        for command in list_of_commands:
            status, output = run(log, *command)
            counts = re.findall(r"^(\d+) passed, (\d+) failed$", output, re.M) or [(int(status == 0), int(status != 0))]
            bad = sum(int(bad) for _, bad in counts)
            passed += sum(int(good) for good, _ in counts)
            failed += bad or int(status != 0)
        return passed, failed
    return suite


def starters(log):
    """The starter files are what the solved ones make them, and a compiler has nothing to say against them."""
    same, _ = run(log, sys.executable, "scripts/starters.py", "--check")
    good = same == 0
    for lab in LABS:
        status, output = run(log, "sh", "-c", f"rm -rf build/lab{lab}; make hv LAB={lab}")
        good += status == 0 and "warning:" not in output
    return good, 1 + len(LABS) - good


def unit(*options):
    """cmocka's programs: a program that dies has failed once more than it said."""
    def suite(log):
        status, output = run(log, "make", "-k", "unit", *options)
        passed = sum(map(int, re.findall(r"^\[  PASSED  \] (\d+) test", output, re.M)))
        failed = sum(map(int, re.findall(r"^\[  FAILED  \].*?(\d+) test\(s\), listed below", output, re.M)))
        return passed, failed if failed or status == 0 else 1
    return suite


def unittests(file):
    """Python's unittest: one test with several failing parts has failed once."""
    def suite(log):
        status, output = run(log, sys.executable, "-m", "unittest", "discover", "-s", file.parent, "-t", file.parent, "-p", file.name)
        ran = re.search(r"^Ran (\d+) test", output, re.M)
        names = set(re.findall(r"^(?:FAIL|ERROR): (\S+ \([^)]*\))", output, re.M))
        skipped = re.search(r"skipped=(\d+)", output)
        total = (int(ran[1]) if ran else 0) - (int(skipped[1]) if skipped else 0)
        failed = len(names) or int(status != 0 or not ran)
        return max(total - failed, 0), failed
    return suite


def grade(lab, solution, good_status):
    """One test for each checkpoint: it must be `good_status` for this solution ("passed"), or anything but that (None)."""
    def suite(log):
        # JSON goes to a file: standard output also carries what the grader says while it works.
        report = LOGS / f"grade-{lab}-{solution}.json"
        report.unlink(missing_ok=True)
        status, _ = run(log, "grader/grade", lab, "--solution", solution, "--seed", SEED, "--format", "json", "--output", report)
        if status not in (0, 1) or not report.exists():
            return 0, 1
        checkpoints = json.loads(report.read_text(encoding="utf-8"))["checkpoints"]
        # A checkpoint that the grader could not decide proves nothing either way.
        states = [checkpoint["status"] for checkpoint in checkpoints if checkpoint["status"] != "not checked"]
        good = sum(state == good_status if good_status else state in ("failed", "blocked") for state in states)
        return good, len(states) - good
    return suite


def mutants(lab):
    """One test for each mutant: it dies at the checkpoint that it names, and with TRAPDOOR_MATRIX only there."""
    whole = os.environ.get("TRAPDOOR_MATRIX")

    def suite(log):
        status, output = run(log, "grader/mutants", lab, "--seed", SEED, "--jobs", "1", *([] if whole else ["--named"]))
        killed = len(re.findall(r"  killed by \d", output))
        wrong = len(re.findall(r"  WRONG: ", output))
        return killed, wrong or int(status != 0)
    return suite


def suites():
    """(what is built first, what then runs side by side), as name -> suite."""
    build = {"build": commands(["make", "-j2", "hv", "guests", "vmguests", "testhost", "build/probe", "build/guests/bench.elf"],
                               ["make", "-j2", "hv", "SAN=1"]),
             "starters": starters}
    rest = {}
    if os.environ.get("TRAPDOOR_ALL"):
        # What a student's machine need not be able to build; one after the other, because they install packages.
        rest["docs-and-slides"] = counted(*(["make", target] for target in ("docs", "slides", "slides-lint")))
        rest.update({name: counted(["make", name]) for name in ("docs-commands", "slides-demos")})
    for path in sorted((TOP / "tests").glob("*/test_*.py")):
        rest[f"tests/{path.parent.name}/{path.stem.removeprefix('test_')}"] = unittests(path.relative_to(TOP))
    # All at a time: each waits, most of the time, for the device's threads. That tries as many inputs as one after the other.
    targets = len(list((TOP / "tests/fuzz").glob("fuzz_*.c")))
    rest["fuzz"] = counted([sys.executable, "tests/fuzz/run.py", "--jobs", str(targets),
                            "--seconds", "60" if os.environ.get("TRAPDOOR_ALL") else "10"])
    rest.update({f"mutants-{lab}": mutants(lab) for lab in reversed(LABS)})
    rest.update({
        **{f"grade-{lab}-reference": grade(lab, "reference-solution", "passed") for lab in LABS},
        "unit": unit(),
        "unit-san": unit("SAN=1"),
        "lint": commands(["make", "lint"]),
        **{f"grade-{lab}-starter": grade(lab, "labs", None) for lab in LABS},
    })
    if not os.environ.get("TRAPDOOR_ALL"):  # the documentation and a slide show it
        rest["doctor"] = commands(["make", "doctor"])
    return build, dict(sorted(rest.items(), key=lambda item: LONGEST.index(item[0]) if item[0] in LONGEST else len(LONGEST)))


def run_suite(name, suite):
    log = LOGS / f"{name.replace('/', '-')}.log"
    log.unlink(missing_ok=True)
    started = time.monotonic()
    passed, failed = suite(log)
    print(f"{name:30} {passed:4} passed, {failed:3} failed  {time.monotonic() - started:6.1f} s, CPU {worked.get(log, 0):6.1f} s",
          flush=True)
    return name, passed, failed, log


def show(name, log):
    """The end of a failed suite's log; from the first failure on where it is one of Python's."""
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    start = text.find("\n=====")
    lines = text[max(start, 0):].strip().splitlines()
    print(f"\n--- {name}, from {log.relative_to(TOP)} ---")
    print("\n".join(lines[:120] if start >= 0 else lines[-60:]))


def main():
    LOGS.mkdir(parents=True, exist_ok=True)
    build, rest = suites()
    wanted = sys.argv[1:]
    unknown = {word for word in wanted if not any(f"{name}/".startswith(f"{word}/") for name in (*build, *rest, "bench"))}
    if unknown:
        print(f"There is no suite {', '.join(sorted(unknown))}. Suites: {', '.join([*build, *rest])}", file=sys.stderr)
        return 2
    if wanted:
        rest = {name: suite for name, suite in rest.items() if f"{name}/".startswith(tuple(f"{word}/" for word in wanted))}
    results = [run_suite(name, suite) for name, suite in build.items()]
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as busy, concurrent.futures.ThreadPoolExecutor(1) as waiting:
        started = [(waiting if name in WAITING else busy).submit(run_suite, name, suite) for name, suite in rest.items()]
        results += [suite.result() for suite in started]
    doubtful = []
    for number, (name, _, failed, log) in enumerate(results):
        if name in rest and 0 < failed <= FEW:
            show(name, log)
            log.rename(log.with_suffix(".first.log"))
            print("\nonce more, alone:")
            results[number] = run_suite(name, rest[name])
            if not results[number][2]:
                doubtful.append(name)
    # With the slides it has been run already: one of them shows it.
    if "bench" in wanted or not (wanted or os.environ.get("TRAPDOOR_ALL")):
        print("bench (measured alone, for information):")
        _, output = run(LOGS / "bench.log", sys.executable, "scripts/bench.py")
        print("  " + "\n  ".join(output.strip().splitlines()))
    for name, _, failed, log in results:
        if failed:
            show(name, log)
    if doubtful:
        print(f"\nFailed beside others, and not alone: {', '.join(doubtful)}. Look at what is shown above: it may be a race of ours.")
    passed, failed = sum(r[1] for r in results), sum(r[2] for r in results)
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
