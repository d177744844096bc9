"""Mutants: known-bad solutions, each with the checkpoint that must catch it.

A mutant is the reference solution with one mistake. Its file, reference-solution/mutants/NN-name/WHAT.mutant, says

    wrong: what this student got wrong, in a sentence
    kills: 1.5
    file: emulate.c
    <<<<
    lines of the reference, exactly once in the file
    ====
    what stands there instead
    >>>>

(file and the block may be repeated). A mutant must fail at the checkpoint that it names and nowhere else: what depends on that
checkpoint is blocked, everything else passes. Otherwise a checkpoint is blind, or two of them test the same thing.
"""

import argparse
import concurrent.futures
import io
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass, field

from grading import Grading, run_together
from hosts import Hosts
from ladder import NOT_CHECKED, PASSED, load, select
from model import BOCHS, QEMU, GraderError, UsageError
from report import Progress
from solution import find_solution, lab_directory

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOGETHER = 20  # mutants in one boot of the test host
MARKS = {"passed": ".", "failed": "X", "blocked": "-", "error": "?", "not checked": ""}


@dataclass
class Mutant:
    name: str
    wrong: str = ""
    kills: str = ""
    edits: list = field(default_factory=list)  # (file, old, new)


def parse(name, text):
    """A mutant file's text. GraderError says what is wrong with it."""
    mutant, file, old, new, part = Mutant(name), "", [], [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line == "<<<<" and part is None and file:
            old, new = [], []
            part = old
        elif line == "====" and part is old and part is not None:
            part = new
        elif line == ">>>>" and part is new and part is not None:
            mutant.edits.append((file, "\n".join(old) + "\n", "\n".join(new) + "\n" if new else ""))
            part = None
        elif part is not None:
            part.append(line)
        elif line.startswith(("wrong: ", "kills: ", "file: ")):
            key, value = line.split(": ", 1)
            if key == "file":
                file = value.strip()
            else:
                setattr(mutant, key, value.strip())
        elif line.strip():
            raise GraderError("%s, line %d: this belongs to no part of a mutant" % (name, number))
    if part is not None or not (mutant.wrong and mutant.kills and mutant.edits):
        raise GraderError("%s: a mutant needs wrong:, kills:, file: and a complete block" % name)
    return mutant


def read_all(root, lab_dir):
    directory = os.path.join(root, "reference-solution", "mutants", os.path.basename(lab_dir))
    mutants = []
    for entry in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        if entry.endswith(".mutant"):
            with open(os.path.join(directory, entry), encoding="utf-8") as f:
                mutants.append(parse(entry[: -len(".mutant")], f.read()))
    if not mutants:
        raise GraderError("There are no mutants in %s." % directory)
    return mutants


def apply(mutant, reference, target):
    """Writes the mutated files of the reference into the directory target."""
    files = {}
    for entry in os.listdir(reference):
        if entry.endswith(".c"):
            with open(os.path.join(reference, entry), encoding="utf-8") as f:
                files[entry] = f.read()
    for name, old, new in mutant.edits:
        count = files.get(name, "").count(old)
        if count != 1:
            raise GraderError("mutant %s: its lines occur %d times in %s, not once; has the reference changed?" %
                              (mutant.name, count, name))
        files[name] = files[name].replace(old, new)
    for name, text in files.items():
        with open(os.path.join(target, name), "w", encoding="utf-8") as f:
            f.write(text)


def complaint(mutant, verdicts):
    """What is wrong with how a mutant died; empty when it died as it must."""
    status, message = verdicts[mutant.kills]
    if status != "failed":
        return "is not caught: %s is %s" % (mutant.kills, status)
    if "compile" in message:
        return "does not compile"
    others = [i for i, (s, _) in verdicts.items() if s in ("failed", "error") and i != mutant.kills]
    return "also fails at %s" % ", ".join(others) if others else ""


def run_group(root, lab, lab_dir, mutants, seed, named, hosts):
    """Of each, (status, message) by checkpoint id. They share a boot of each test host."""
    reference = os.path.join(root, "reference-solution", os.path.basename(lab_dir))
    title, checkpoints = load(lab_dir)
    gradings = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as top:
        for mutant in mutants:
            directory = os.path.join(top, mutant.name)
            os.mkdir(directory)
            apply(mutant, reference, directory)
            chosen = select(checkpoints, mutant.kills if named else None)
            gradings.append(Grading(root, lab, title, find_solution(root, lab, directory), chosen, seed, hosts,
                                    Progress(io.StringIO(), quiet=True)))
        run_together(root, gradings)
    return [{v.checkpoint.id: (v.status, v.message or "") for v in grading.verdicts} for grading in gradings]


def in_turn(mutant, names):
    """The hosts in the order in which they are asked about a mutant: first the one whose processor runs the files that it changes."""
    intel = all(file.startswith("vmx") for file, _, _ in mutant.edits)
    return sorted(names, key=lambda name: (name == BOCHS) != intel)


def run_named(run_some, checkpoints, mutants, hosts):
    """The verdict on the checkpoint that each names, in their order. One host is enough to fail a checkpoint, so the other is asked only
    where the first let the mutant pass. run_some(mutants, hosts) starts groups and returns (mutants, future) of each."""
    of = {c.id: c for c in checkpoints}
    verdicts = {m.name: {m.kills: (NOT_CHECKED, "")} for m in mutants}
    for turn in range(len(hosts.names)):
        started = []
        for name in hosts.names:
            there = [m for m in mutants if in_turn(m, hosts.names)[turn] == name and hosts.runs(of[m.kills], name) and
                     verdicts[m.name][m.kills][0] in (NOT_CHECKED, PASSED)]
            started += run_some(there, hosts.only(name))
        for group, future in started:
            verdicts.update(zip((m.name for m in group), future.result()))
    return [verdicts[m.name] for m in mutants]


def run(argv, root):
    p = argparse.ArgumentParser(prog="mutants", description="Grades every mutant of a lab and prints the kill matrix. Exit status 0: "
                                "each died at the checkpoint that names it, and only there.")
    p.add_argument("lab", type=int, metavar="LAB")
    p.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    p.add_argument("--seed", type=int, default=None, metavar="N")
    p.add_argument("--named", action="store_true", help="grade only the checkpoint that a mutant names: much quicker, and "
                   "blind to what else it breaks")
    p.add_argument("--jobs", type=int, metavar="N", help="boots of the test hosts at a time (default: two hosts are busy)")
    p.add_argument("--host", choices=(QEMU, BOCHS), help="only what is run there (default: all that the checkpoints ask for)")
    args = p.parse_args(argv)
    lab_dir = lab_directory(root, args.lab)
    _, checkpoints = load(lab_dir)
    mutants = [m for m in read_all(root, lab_dir) if not args.names or m.name in args.names]
    unknown = set(args.names) - {m.name for m in mutants}
    strangers = [m.name for m in mutants if m.kills not in {c.id for c in checkpoints}]
    if strangers:
        raise GraderError("%s: there is no checkpoint of that number" % ", ".join(strangers))
    if unknown:
        raise UsageError("There is no mutant %s." % ", ".join(sorted(unknown)))
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    width = max(len(m.name) for m in mutants)
    ids = [c.id for c in checkpoints]
    print("%-*s  %s" % (width, "mutant", " ".join("%4s" % i for i in ids)))
    bad, killers, unjudged = [], set(), 0
    hosts = Hosts(checkpoints, args.host)
    incomplete = {c.id for c in checkpoints if not hosts.complete(c)}
    busy = 1 if args.named else len(hosts.names)  # at a time
    with concurrent.futures.ThreadPoolExecutor(max(1, args.jobs or min(2, os.cpu_count() or 1) // busy)) as pool:

        def run_some(some, hosts):
            groups = [some[i : i + TOGETHER] for i in range(0, len(some), TOGETHER)]
            return [(group, pool.submit(run_group, root, args.lab, lab_dir, group, seed, args.named, hosts)) for group in groups]

        if args.named:
            results = run_named(run_some, checkpoints, mutants, hosts)
        else:
            results = (verdicts for _, future in run_some(mutants, hosts) for verdicts in future.result())
        for mutant, verdicts in zip(mutants, results):
            why = complaint(mutant, verdicts)
            if mutant.kills in incomplete and verdicts[mutant.kills][0] in ("passed", "not checked"):
                print("%-*s  not judged: %s has runs on a host that is not used" % (width, mutant.name, mutant.kills), flush=True)
                unjudged += 1
                continue
            cells = " ".join("%4s" % (MARKS.get(verdicts[i][0], "?") if i in verdicts else "") for i in ids)
            print("%-*s  %s  %s" % (width, mutant.name, cells, "WRONG: " + why if why else "killed by " + mutant.kills), flush=True)
            if why:
                bad.append(mutant.name)
            else:
                killers.add(mutant.kills)
    print("\n. passed   X failed   - blocked by the failed one   seed %d" % seed)
    idle = [i for i in ids if i not in {m.kills for m in mutants}]
    if idle and not args.names:
        print("checkpoints that no mutant names: %s" % ", ".join(idle))
    for sentence in hosts.not_checked(checkpoints):
        print(sentence)
    judged = len(mutants) - unjudged
    print("%d mutants, %d killed where they must be, %d not" % (judged, judged - len(bad), len(bad)))
    return 1 if bad else 0


def main(argv=None, root=ROOT):
    try:
        return run(sys.argv[1:] if argv is None else argv, root)
    except UsageError as e:
        print("mutants: %s" % e, file=sys.stderr)
        return 2
    except GraderError as e:
        print("mutants: %s" % e, file=sys.stderr)
        return 3
