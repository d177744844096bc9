#!/usr/bin/env python3
"""Measures what operations on page tables cost under shadow paging and under nested paging: exits by kind, the memory of hv's tables, and
time as a multiple of the kvm engine's in the same run, for the memory rows of Adams and Agesen's nanobenchmarks (ASPLOS 2006) and
for reads that the TLB does not know. Times say something about this machine only; exits are the same on every one. The guest is
labs/02-shadow-paging/guests/nano.c: each operation is done a few and many times, and the difference is the operation's own. What it
reports is compared with what it must report.

The trap engine and the hvm engine use the same shadows. In the test host the machine itself has nested paging below it (its KVM's), so
what hv calls one dimension is two there, and two are not four: KVM makes one of them. A miss of the TLB costs about the same for all
engines then. What it costs on bare hardware is said in memory references, which are counted and not measured.
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
ENGINES = {
    "kvm": "--engine kvm",
    "trap-vtlb": "--shadow vtlb", "trap-cached": "--shadow cached",
    "hvm-vtlb": "--engine hvm --shadow vtlb", "hvm-cached": "--engine hvm --shadow cached",
    "hvm-4K": "--engine hvm --page-size 4K", "hvm-2M": "--engine hvm --page-size 2M",
}
PEER = "kvm"  # whose time the others' is compared with
NESTED = ("hvm-4K", "hvm-2M", "kvm")  # fast, so that a difference takes many operations to be seen
FORK_AIM = 0.2  # of the virtual TLB's exits
SEED = 1 << 62  # all sums and counts are of the same length, so that printing them costs the same

# Name, operation, how often at least and at most, the same for the NESTED, pages, pages written by a fork's two processes, and
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
    ("read at random, 16 MiB", nano.RANDOM, 1 << 12, 1 << 18, 1 << 18, 4096, 0, 1),
)
FORK = "fork, 4 MiB"


def counts(row, engine):
    _, _, few, many, many_nested, *_ = row
    return few, many_nested if engine in NESTED else many


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


KINDS = ("exits", "hidden", "true", "emulated", "switches", "violations", "other")


def kinds(stats):
    """Exits by what they were for. What the machine's own interrupts cause is left out: it depends on the time that a run takes."""
    shadow = stats.get("shadow", {})
    found = {kind: shadow.get(kind, 0) for kind in ("hidden", "true", "emulated", "switches")}
    found["violations"] = stats["by_kind"].get("violation", 0)
    exits = stats["exits"] - sum(stats["by_kind"].get(kind, 0) for kind in ("interrupted", "kick"))
    return {"exits": exits, **found, "other": exits - sum(found.values())}


def tables(stats):
    """KiB of the tables that hv made, at most."""
    return 4 * (stats.get("shadow") or stats.get("nested") or {}).get("peak", 0)


def references(guest, nested):
    """Memory references of a walk through tables of so many levels, the data not counted. (APM vol. 2, figure 15-14)"""
    return (guest + 1) * (nested + 1) - 1


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
        for engine in [e for e in ENGINES if f"{number}-{e}-0" in found]:
            few, many = (results[f"{number}-{engine}-{which}"] for which in (0, 1))
            done = (counts(row, engine)[1] - counts(row, engine)[0]) * row[-1]
            before, after = kinds(few[0]), kinds(many[0])
            each[engine] = {kind: (after[kind] - before[kind]) / done for kind in after}
            each[engine]["us"] = (many[1] - few[1]) / done
            each[engine]["tables"] = tables(many[0])
        for engine, values in each.items():
            exits[row[0], engine] = values["exits"]
            cells = [f"{values[kind]:.1f}" for kind in KINDS] + [str(values["tables"]) if engine != PEER else "-"]
            if min(values["us"], each[PEER]["us"]) > 0:
                cells += [f"{values['us']:.2f}", f"{values['us'] / each['kvm']['us']:.1f}"]
            else:  # the machine was too busy with something else for a difference to be seen
                cells += ["-", "-"]
            print("\t".join([where, row[0], engine, *cells]), flush=True)
    return exits


def able(found, native):
    """What of the cases this machine can do without being very slow. Prints why not the rest."""
    left = {}
    for engine in ENGINES:
        those = {name: case for name, case in found.items() if case[1] == engine}
        few = {name: case for name, case in those.items() if name.endswith("-0")}
        try:
            measured(few, run(*native, command(few, rounds=1)))
            left.update(those)
        except ValueError as error:
            print(f"# native, {engine}: not measured ({error})", flush=True)
            if engine == PEER:
                return {}
    return left


def run(*argv):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False).stdout


def main():
    files = ("build/reference/hv", "build/guests/lab2/nano.elf")
    subprocess.run(["make", "-s", "-C", TOP, "hv", "guests"], check=True)
    found = cases()
    print(f"# Operations on page tables, the best of {ROUNDS} runs each. exits: for one operation; hidden and true: page faults,\n"
          "# the shadow's and the guest's own; emulated: stores to page tables; switches: page faults that were about the other root\n"
          "# only; violations: of nested tables; other: instructions, and page faults that were served once more. KiB: of hv's tables at\n"
          "# most. ratio: to the time that the kvm engine takes. Memory references of a TLB miss on hardware, with pages of 4 KiB in the\n"
          f"# guest: {references(4, 0)} with shadows, {references(4, 4)} with nested pages of 4K, {references(4, 3)} with 2M.")
    print("\t".join(("machine", "operation", "engine", *KINDS, "KiB", "us", "ratio")), flush=True)
    image = (TOP / files[1]).read_bytes()
    with tempfile.TemporaryDirectory() as directory:
        for name, (_, _, _, params) in found.items():
            pathlib.Path(directory, f"{name}.elf").write_bytes(elf.patch_params(image, params + [0] * (16 - len(params)), name))
        arguments = [word for file in sorted(pathlib.Path(directory).iterdir()) for word in ("--file", file)]
        output = run(TOP / "scripts/testhost-run", "--timeout", "1500", "--file", TOP / files[0], *arguments, "--", command(found))
        exits = report("testhost", found, output)
        native = ("env", "-C", directory, f"PATH={TOP}/build/reference:/usr/bin:/bin", "sh", "-c")
        here = able(found, native)
        if here:
            report("native", here, run(*native, command(here)))
    if not exits:
        return 1
    share = exits[FORK, "trap-cached"] / exits[FORK, "trap-vtlb"]
    print(f"# {FORK}: cached takes {share:.2f} of the virtual TLB's exits; the aim is {FORK_AIM} at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
