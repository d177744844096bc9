#!/usr/bin/env python3
"""Counts what a kilobyte of output costs: exits through the UART, and exits, notifications and interrupts through the virtio console with
and without suppression of notifications. The guest is labs/04-virtio/guests/output.c; each run prints the same lines, which are compared.
Only counts are printed, so the table is the same on every machine. Runs in the test host, or with --native here."""

import argparse
import json
import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
GUEST = TOP / "build/guests/lab4/output.elf"
HV = TOP / "build/reference/hv"
ROWS = (
    ("uart", "UART, FIFO of 16 bytes", "--console"),
    ("each", "console, nothing suppressed", "--rings split,event-idx=off --console"),
    ("quiet", "console, no interrupts", "--rings split,event-idx=off --console"),
    ("batch", "console, EVENT_IDX, 64 lines at once", "--console"),
)
KIB = 16
TEXT = "".join("".join(chr(97 + (i + k) % 26) for k in range(63)) + "\n" for i in range(KIB * 16))


def commands(program, guest):
    for how, _, options in ROWS:
        yield f"{program} run --engine kvm --event-fds off --timeout 60 --stats json {options} --append {how} {guest}"


def run(native):
    """(output, line of JSON) of each row."""
    if native:
        for command in commands(HV, GUEST):
            done = subprocess.run(command.split(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            yield done.stdout, done.stderr
        return
    script = "; ".join(f"echo '== '; {c} 2>err </dev/null; echo '-- '; tail -n 1 err" for c in commands("./hv", "output.elf"))
    done = subprocess.run([TOP / "scripts/testhost-run", "--file", HV, "--file", GUEST, "--", script], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        sys.exit(f"bench_console.py: the test host did not work:\n{done.stdout}{done.stderr}")
    for part in done.stdout.replace("\r", "").split("== \n")[1:]:
        output, _, stats = part.partition("-- \n")
        yield output, stats


def main():
    parser = argparse.ArgumentParser(description="Counts what a kilobyte of output costs.")
    parser.add_argument("--native", action="store_true", help="here, not in the test host")
    args = parser.parse_args()
    print(f"{'per KiB of output':38} {'exits':>8} {'of these kicks':>15} {'interrupts':>11}")
    for (how, what, _), (output, stats) in zip(ROWS, run(args.native), strict=True):
        if output != TEXT:
            sys.exit(f"bench_console.py: {how}: the output is not what the guest was to print")
        result = json.loads(stats.strip().splitlines()[-1])
        queue = result["virtio"][0]["queues"][1]
        exits = sum(n for kind, n in result["by_kind"].items() if kind != "interrupted")
        print(f"{what:38} {exits / KIB:8.1f} {queue['kicks'] / KIB:15.1f} {queue['interrupts'] / KIB:11.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
