#!/usr/bin/env python3
"""Measures what one trap costs: in hv (fault, decode, emulate, resume), and with nothing done about it (probe cost), which is
what the machine underneath costs. Times say something about this machine only; nothing is passed or failed by them."""

import json
import pathlib
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = 3  # the fastest counts: what disturbs only ever adds
TRAPS = 50000
AIM = 1.2

COMMAND = f"for i in {' '.join(map(str, range(ROUNDS)))}; do probe cost {TRAPS}; hv run --stats json bench.elf; done"


def report(where, output):
    """One line about one machine, or why there is none."""
    least = [float(text) for text in re.findall(r"^(\d+\.\d+)$", output, re.M)]
    runs = [json.loads(text) for text in re.findall(r"^{.*}$", output, re.M)]
    costs = [(run["guest_ms"] + run["hv_ms"]) * 1000 / run["exits"] for run in runs if run["exits"] >= TRAPS]
    if not least or not costs:
        print(f"{where}: not measured ({output.splitlines()[-1] if output else 'no output'})")
        return False
    ratio = min(costs) / min(least)
    print(f"{where}: one trap costs {min(costs):.1f} us in hv, {min(least):.1f} us with nothing done; ratio {ratio:.2f} (aim: {AIM})")
    return True


def main():
    files = ("build/reference/hv", "build/probe", "build/guests/bench.elf")
    subprocess.run(["make", "-s", "-C", TOP, "hv", "build/probe", "build/guests/bench.elf"], check=True)
    arguments = [word for file in files for word in ("--file", TOP / file)]
    measured = []
    for where, command in (("in the test host", [TOP / "scripts/testhost-run", *arguments, "--", COMMAND]),
                           ("on this machine", ["env", f"PATH={TOP}/build:{TOP}/build/reference:/usr/bin:/bin", "sh", "-c",
                                                f"cd {TOP}/build/guests && {COMMAND}"])):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        measured.append(report(where, done.stdout))
    return 0 if measured[0] else 1


if __name__ == "__main__":
    sys.exit(main())
