#!/usr/bin/env python3
"""Measures what operations on page tables cost under shadow paging: exits by kind, and time as a multiple of the kvm engine's in the same
run, for the memory rows of Adams and Agesen's nanobenchmarks (ASPLOS 2006). Times say something about this machine only; exits are
the same on every one. The guest is labs/02-shadow-paging/guests/nano.c: each operation is done a few and many times, and the difference
is the operation's own. What it reports is compared with what it must report.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(TOP / "grader/lib"), str(TOP / "labs/02-shadow-paging/checks")]
import elf  # noqa: E402
import nano  # noqa: E402

ROUNDS = 2  # the fastest counts: what disturbs only ever adds
ENGINES = {"vtlb": "--shadow vtlb", "cached": "--shadow cached", "kvm": "--engine kvm"}
FORK_AIM = 0.2  # of the virtual TLB's exits
SEED = 1 << 62  # all sums and counts are of the same length, so that printing them costs the same

# Name, operation, how often at least and at most, the same for kvm (which is fast), pages, pages written by a fork's two processes, and
# operations in one count.
ROWS = (
    ("page fault (first touch)", nano.FAULT, 64, 1088, 4160, 16, 0, 1),
    ("page fault, in turns", nano.TURNS, 16, 48, 208, 24, 0, 2),
    ("change an entry, INVLPG", nano.PTE, 64, 1088, 32832, 64, 0, 1),
    ("change 256 entries, CR3", nano.PTE_BULK, 16, 272, 2064, 256, 0, 1),
    ("write CR3, same space", nano.CR3, 64, 1088, 32832, 64, 0, 1),
    ("write CR3, other space", nano.CR3_OTHER, 64, 1088, 32832, 64, 0, 1),
    ("context switch, 32 pages", nano.SWITCH, 16, 80, 4112, 32, 0, 2),
    ("context switch, 256 pages", nano.SWITCH, 16, 24, 1040, 256, 0, 2),
    ("fork, 4 MiB", nano.FORK, 6, 8, 38, 1024, 16, 1),
)
FORK = "fork, 4 MiB"


def counts(row, engine):
    _, _, few, many, many_kvm, *_ = row
    return few, many_kvm if engine == "kvm" else many


def cases():
    """file name -> (row, engine, count, params)."""
    found = {}
    for number, row in enumerate(ROWS):
        _, operation, _, _, _, pages, writes, _ = row
        for engine in ENGINES:
            for which, count in enumerate(counts(row, engine)):
                found[f"{number}-{engine}-{which}"] = (row, engine, count, nano.params(operation, count, pages, writes, SEED))
    return found


def command(found, rounds=ROUNDS):
    runs = "; ".join(f"echo @{name}; hv run --timeout 60 --stats json {ENGINES[engine]} {name}.elf 2>&1"
                     for name, (_, engine, _, _) in found.items())
    return f"for i in {' '.join(map(str, range(rounds)))}; do {runs}; done"


def measured(found, output):
    """name -> (stats, least microseconds). ValueError says which run went wrong."""
    results = {}
    for name, text in re.findall(r"^@(\S+)\n([^@]*)", output.replace("\r\n", "\n"), re.M):
        *lines, last = text.rstrip().split("\n")
        row, engine, _, params = found[name]
        if lines != nano.lines(params) or not last.startswith("{"):
            raise ValueError(f"{row[0]}, {engine}: the guest reported something else than it must")
        stats = json.loads(last)
        time = (stats["guest_ms"] + stats["hv_ms"]) * 1000
        results[name] = stats, min(time, results[name][1]) if name in results else time
    if set(results) != set(found):
        raise ValueError(output.rstrip().split("\n")[-1] if output.strip() else "no output")
    return results


def kinds(stats):
    """Exits by what they were for. emulated: stores to page tables."""
    shadow = stats.get("shadow", {})
    found = {kind: shadow.get(kind, 0) for kind in ("hidden", "true", "emulated")}
    return {"exits": stats["exits"], **found, "instructions": stats["exits"] - sum(found.values())}


def report(where, found, output):
    """All rows of one machine, or why there are none. exits of each (row, engine)."""
    try:
        results = measured(found, output)
    except ValueError as error:
        print(f"# {where}: not measured ({error})")
        return {}
    exits = {}
    for number, row in enumerate(ROWS):
        each = {}
        for engine in ENGINES:
            few, many = (results[f"{number}-{engine}-{which}"] for which in (0, 1))
            done = (counts(row, engine)[1] - counts(row, engine)[0]) * row[-1]
            before, after = kinds(few[0]), kinds(many[0])
            each[engine] = {kind: (after[kind] - before[kind]) / done for kind in after}
            each[engine]["us"] = (many[1] - few[1]) / done
        for engine, values in each.items():
            exits[row[0], engine] = values["exits"]
            cells = [f"{values[kind]:.1f}" for kind in ("exits", "hidden", "true", "emulated", "instructions")]
            if min(values["us"], each["kvm"]["us"]) > 0:
                cells += [f"{values['us']:.2f}", f"{values['us'] / each['kvm']['us']:.1f}"]
            else:  # the machine was too busy with something else for a difference to be seen
                cells += ["-", "-"]
            print("\t".join([where, row[0], engine, *cells]), flush=True)
    return exits


def run(*argv):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False).stdout


def main():
    files = ("build/reference/hv", "build/guests/lab2/nano.elf")
    subprocess.run(["make", "-s", "-C", TOP, "hv", "guests"], check=True)
    found = cases()
    print(f"# Operations on page tables, the best of {ROUNDS} runs each. exits: for one operation; hidden and true: page faults,\n"
          "# the shadow's and the guest's own; emulated: stores to page tables; instructions: that trapped. ratio: to the time that\n"
          "# the kvm engine takes.")
    print("machine\toperation\tengine\texits\thidden\ttrue\temulated\tinstructions\tus\tratio", flush=True)
    image = (TOP / files[1]).read_bytes()
    with tempfile.TemporaryDirectory() as directory:
        for name, (_, _, _, params) in found.items():
            pathlib.Path(directory, f"{name}.elf").write_bytes(elf.patch_params(image, params + [0] * (16 - len(params)), name))
        arguments = [word for file in sorted(pathlib.Path(directory).iterdir()) for word in ("--file", file)]
        output = run(TOP / "scripts/testhost-run", "--timeout", "600", "--file", TOP / files[0], *arguments, "--", command(found))
        exits = report("testhost", found, output)
        native = ("env", "-C", directory, f"PATH={TOP}/build/reference:/usr/bin:/bin", "sh", "-c")
        few = {name: case for name, case in found.items() if name.endswith("-0")}
        try:
            measured(few, run(*native, command(few, rounds=1)))  # is this machine able, and not very slow?
            report("native", found, run(*native, command(found)))
        except ValueError as error:
            print(f"# native: not measured ({error})")
    if not exits:
        return 1
    share = exits[FORK, "cached"] / exits[FORK, "vtlb"]
    print(f"# {FORK}: cached takes {share:.2f} of the virtual TLB's exits; the aim is {FORK_AIM} at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
