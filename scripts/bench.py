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
TRAPS = 20000
AIM = 1.2

COMMAND = f"for i in {' '.join(map(str, range(ROUNDS)))}; do probe cost {TRAPS}; hv run --stats json bench.elf; done"


def report(where, output):
    """One row about one machine, or why there is none."""
    least = [float(text) for text in re.findall(r"^(\d+\.\d+)$", output, re.M)]
    runs = [json.loads(text) for text in re.findall(r"^{.*}$", output, re.M)]
    costs = [(run["guest_ms"] + run["hv_ms"]) * 1000 / run["exits"] for run in runs if run["exits"] >= TRAPS]
    if not least or not costs:
        print(f"# {where}: not measured ({output.splitlines()[-1] if output else 'no output'})")
        return False
    print(f"{where}\tcli\t{TRAPS}\t{min(least):.2f}\t{min(costs):.2f}\t{min(costs) / min(least):.2f}", flush=True)
    return True


def main():
    files = ("build/reference/hv", "build/probe", "build/guests/bench.elf")
    subprocess.run(["make", "-s", "-C", TOP, "hv", "build/probe", "build/guests/bench.elf"], check=True)
    arguments = [word for file in files for word in ("--file", TOP / file)]
    print(f"# The cost of one trap, the best of {ROUNDS} runs each. raw_us: the trap and nothing done about it. hv_us: decoded, emulated,\n"
          f"# counted, resumed. The aim for the ratio is {AIM}.")
    print("machine\tinstruction\ttraps\traw_us\thv_us\tratio", flush=True)
    measured = []
    for where, command in (("testhost", [TOP / "scripts/testhost-run", *arguments, "--", COMMAND]),
                           ("native", ["env", f"PATH={TOP}/build:{TOP}/build/reference:/usr/bin:/bin", "sh", "-c",
                                                f"cd {TOP}/build/guests && {COMMAND}"])):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        measured.append(report(where, done.stdout))
    return 0 if measured[0] else 1


if __name__ == "__main__":
    sys.exit(main())
