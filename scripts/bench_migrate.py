#!/usr/bin/env python3
"""bench_migrate.py [--quick] [--runs N] [--rates N,N] [--never] [--json FILE]

Moves the same Linux guest between two processes of hv, and between two of QEMU (-accel kvm, -M pc), in the same test host:
128 MiB of memory, of which a program in the guest writes 64 MiB at a given rate (grader/testhost/churn.c), over a Unix
socket, with a limit of bandwidth and of downtime. In turns, and who goes first changes. Measured are

  total      from the command until the destination has the guest, ms
  pages      sent, those of zeros among them
  downtime   as the VMM reports it, ms
  gap        the longest time that the guest was away, by its own clock, ms

and the guest finds every page as it left it, or the run does not count. What has not ended after two minutes is infinite.
Then one migration that cannot end: 8000 pages a second over 32 MiB/s. What the VMM makes of it is printed.

A table of medians is printed, all numbers go to build/bench/migrate.json, or to FILE. Times say something about this machine only: the
processor of the test host is one in software.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "scripts"))
sys.path.insert(0, str(TOP / "grader/lib"))
import linuxguest  # noqa: E402
from bench_io import firmware  # noqa: E402
from testhost import build_program  # noqa: E402

RESULT = TOP / "build/bench/migrate.json"
RUNS = 3
ATTEMPTS = 3
HOST_MIB = 1024
SECONDS_MAX = 300
RATES, DOWNTIMES, BANDWIDTH = (0, 1000, 4000), (300, 50), 128
NEVER_RATE, NEVER_BANDWIDTH, NEVER_SECONDS = 8000, 32, 40
NAMES = {"hv": "hv --engine kvm", "qemu": "QEMU -M pc"}
ROWS = {"total": "ms", "pages": "pages", "downtime": "ms", "gap": "ms"}

HV = """
src="hv run --engine kvm --mem 128M --control ./src --append '{append}' --initrd initrd vmlinuz"
dst="hv run --engine kvm --mem 128M --control ./dst --incoming unix:link"
eval $src >src.out 2>src.err & S=$!
eval $dst >dst.out 2>dst.err & D=$!
ready
timeout {limit} hv ctl ./src migrate unix:link --bandwidth {bandwidth}M --downtime {downtime} --timeout {seconds} 2>/dev/null |
    sed 's/^/@job /'
sleep 3
hv ctl ./src status | sed 's/^/@source /'
hv ctl ./dst quit >/dev/null; hv ctl ./src quit >/dev/null
wait $S; wait $D
"""

QEMU = """
qemu="qemu-system-x86_64 -L firmware -accel kvm -cpu host -m 128 -M pc -nodefaults -no-user-config -display none -no-reboot -monitor stdio"
mkfifo in1 in2; exec 5<>in1 6<>in2
$qemu -kernel vmlinuz -initrd initrd -append '{append}' -serial file:src.out <in1 >mon 2>&1 & S=$!
$qemu -kernel vmlinuz -initrd initrd -append '{append}' -serial file:dst.out -incoming unix:link <in2 >/dev/null 2>&1 & D=$!
ready
echo 'migrate_set_parameter max-bandwidth {bandwidth}M' >&5
echo 'migrate_set_parameter downtime-limit {downtime}' >&5
sleep 1; : >mon
echo 'migrate -d unix:link' >&5
i=0
while [ $i -lt {limit} ] && ! grep -q 'status: completed' mon; do sleep 1; i=$((i+1)); : >mon; echo 'info migrate' >&5; sleep 0.2; done
sed 's/^/@mon /' mon
sleep 3; kill -9 $S $D; wait
"""

SHELL = """ready() {{
    i=0
    while [ $i -lt 60 ] && ! grep -q 'churn [0-9]' src.out 2>/dev/null; do sleep 1; i=$((i+1)); done
    sleep 2
}}
"""


def job(vmm, rate, downtime, bandwidth, seconds):
    text = (SHELL + (HV if vmm == "hv" else QEMU)).format(append=f"{linuxguest.APPEND} rate={rate}", downtime=downtime, bandwidth=bandwidth,
                                                          seconds=seconds, limit=seconds + 10)
    return text + "sed 's/^/@src /' src.out | tail -n 3; sed 's/^/@dst /' dst.out; tail -n 2 dst.err 2>/dev/null\n"


def number(pattern, text):
    found = re.search(pattern, text)
    return float(found[1]) if found else None


def read(vmm, output):
    """row -> number; all of them infinite when it had not ended in its time. ValueError when the guest did not arrive as it was."""
    if "Migration status: active" in output and "status: completed" not in output:
        return dict.fromkeys(ROWS, float("inf"))
    churn = [tuple(map(int, line)) for line in re.findall(r"^@dst .*?churn (\d+) (\d+) (\d+)\s*$", output, re.M)]
    if not churn or any(bad for _, bad, _ in churn):
        raise ValueError(f"{NAMES[vmm]}: the guest did not arrive, or not as it was:\n{output[-1500:]}")
    got = {"gap": max(gap for _, _, gap in churn) / 1000}
    if vmm == "hv":
        facts = json.loads(re.search(r"^@job (\{.*\})\s*$", output, re.M)[1])
        got.update(total=facts["ms"], pages=facts["pages"], downtime=facts["downtime"]["total_ms"], job=facts)
    else:
        got.update(total=number(r"total time: (\d+)", output), downtime=number(r"downtime: (\d+)", output),
                   pages=(number(r"normal: (\d+)", output) or 0) + (number(r"duplicate: (\d+)", output) or 0))
    if any(got[row] is None for row in ROWS):
        raise ValueError(f"{NAMES[vmm]} did not report everything:\n{output[-1500:]}")
    return got


class Host:
    def __init__(self, directory, churn):
        # 64 MiB are nearly all that such a guest has left.
        script = 'echo 256 >/proc/sys/vm/min_free_kbytes; rate=$(sed "s/.*rate=//" /proc/cmdline); churn 64 $rate 7\n'
        (directory / "initrd").write_bytes(linuxguest.initrd(TOP, script, programs={"bin/churn": churn}))
        files = {"hv": TOP / "build/reference/hv", "vmlinuz": TOP / "build/testhost/vmlinuz", "initrd": directory / "initrd",
                 "qemu-system-x86_64": shutil.which("qemu-system-x86_64")}
        files.update((f"firmware/{name}", path) for name, path in firmware().items())
        self.files = [word for name, path in files.items() for word in ("--file", f"{path}:work/{name}")]

    def run(self, line):
        argv = [TOP / "scripts/testhost-run", "--mem", str(HOST_MIB), "--timeout", str(SECONDS_MAX), *self.files, "--", line]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              check=False).stdout.replace("\r", "")


def measure(host, runs, rates, downtimes):
    """(rate, downtime) -> vmm -> list of results"""
    got = {(rate, downtime): {"hv": [], "qemu": []} for rate in rates for downtime in downtimes}
    for number_of_run in range(runs):
        for rate, downtime in got:
            for vmm in ("hv", "qemu") if number_of_run % 2 == 0 else ("qemu", "hv"):
                for attempt in range(ATTEMPTS):
                    try:
                        got[rate, downtime][vmm].append(read(vmm, host.run(job(vmm, rate, downtime, BANDWIDTH, 120))))
                        break
                    except ValueError as error:
                        print(f"# {error}", file=sys.stderr, flush=True)
                        if attempt == ATTEMPTS - 1:
                            raise
        print(f"# run {number_of_run + 1} of {runs}; load {os.getloadavg()[0]:.1f}", flush=True)
    return got


def never(host):
    """What becomes of a migration that cannot converge, in words."""
    said = {}
    for vmm in NAMES:
        output = host.run(job(vmm, NEVER_RATE, 50, NEVER_BANDWIDTH, NEVER_SECONDS))
        facts = re.search(r"^@job (\{.*\})\s*$", output, re.M)
        if facts:
            facts = json.loads(facts[1])
            throttle = facts["rounds"][-1]["throttle"] if facts["rounds"] else 0
            said[vmm] = (f"{facts['state']} after {facts['ms'] / 1000:.1f} s and {len(facts['rounds'])} rounds, slowed down by "
                         f"{throttle} %, downtime {facts['downtime']['total_ms']:.0f} ms: {facts['reason']}")
        else:
            status = re.search(r"Migration status: (\w+)", output)
            ms = number(r"total time: (\d+)", output) or (NEVER_SECONDS + 10) * 1000
            downtime = number(r"downtime: (\d+) ms", output) or 0
            said[vmm] = f"{status[1] if status else 'no answer'} after {ms / 1000:.1f} s, downtime {downtime:.0f} ms"
    return said


def table(got):
    print("\t".join(["pages/s", "downtime limit", "what", "unit", *NAMES.values(), "hv/QEMU", "aim"]))
    for (rate, downtime), vmms in got.items():
        for row, unit in ROWS.items():
            median = {vmm: statistics.median(run[row] for run in runs) for vmm, runs in vmms.items()}
            cells = [f"{median[vmm]:.4g} ({min(run[row] for run in runs):.4g}..{max(run[row] for run in runs):.4g})"
                     for vmm, runs in vmms.items()]
            ratio = median["hv"] / median["qemu"] if median["qemu"] else float("inf")
            aim = f"<= 1.0: {'met' if ratio <= 1 else 'missed'}"
            print("\t".join([str(rate), f"{downtime} ms", row, unit, *cells, f"{ratio:.2f}", aim]))


def main():
    parser = argparse.ArgumentParser(description="Compares the live migration of hv with QEMU's.")
    parser.add_argument("--quick", action="store_true", help="one run of one rate, to see that all of it works")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--rates", type=lambda text: tuple(map(int, text.split(","))), default=RATES, metavar="N,N",
                        help="pages that the guest writes a second (0,1000,4000)")
    parser.add_argument("--never", action="store_true", help="only the migration that cannot end")
    parser.add_argument("--json", type=pathlib.Path, default=RESULT, metavar="FILE", help="all numbers (build/bench/migrate.json)")
    args = parser.parse_args()
    subprocess.run(["make", "-s", "-C", TOP, "hv", "testhost"], check=True)
    with tempfile.TemporaryDirectory(prefix="bench-migrate.") as name:
        host = Host(pathlib.Path(name), build_program(TOP, "churn", "churn.c"))
        got, said = {}, {}
        if args.quick:
            got = measure(host, 1, RATES[1:2], DOWNTIMES[:1])
        elif not args.never:
            got = measure(host, args.runs, args.rates, DOWNTIMES)
        if args.never or args.rates == RATES and not args.quick:
            said = never(host)
    facts = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "host": platform.platform(), "processors": os.cpu_count(),
             "load": os.getloadavg()}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"facts": facts, "never": said,
                                     "runs": [{"rate": rate, "downtime": downtime, **vmms} for (rate, downtime), vmms in got.items()]},
                                    indent=1) + "\n", encoding="utf-8")
    table(got)
    for vmm, sentence in said.items():
        print(f"# {NEVER_RATE} pages/s over {NEVER_BANDWIDTH} MiB/s, {NAMES[vmm]}: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
