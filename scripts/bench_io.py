#!/usr/bin/env python3
"""bench_io.py [--quick] [--runs N] [--seconds S] [--json FILE]

Compares hv with QEMU in one run: the same kernel, the same initial RAM disk and command line, the same images, in the same test host,
in turns, and who goes first rotates. QEMU has KVM as hv has, on the machines pc (virtio on PCI) and microvm (virtio-mmio, as hv).

  boot     from the start of the VMM's process to the first line of the guest's first process; no devices but the UART
  memory   resident pages of the VMM without the guest's memory: all mappings that are smaller than that (scripts/vmmrun.c), idle guest
  block    fio in the guest on a raw image in memory of the test host: direct, libaio, 4 KiB; cache=writeback, io_uring on all three
  network  iperf3 between the guest and the test host, ping; user mode network, the same libslirp for all

The same is tried on this machine's own /dev/kvm; where that cannot, a sentence says so.

A table with medians, least and most is printed, and everything that was measured goes to build/bench/io.json, or to FILE. Times say
something about this machine only: the processor of the test host is one in software.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "grader/lib"))
import elf  # noqa: E402
import linuxguest  # noqa: E402

HV = TOP / "build/reference/hv"
VMMRUN = TOP / "build/vmmrun"
KERNEL = TOP / "build/testhost/vmlinuz"
RESULT = TOP / "build/bench/io.json"

RUNS = 5
ATTEMPTS = 3  # QEMU 7.2 as a test host dies or hangs now and then with nested guests
RAM_MIB = 256
HOST_MIB = 1792  # the test host: a guest, its images, QEMU
SECONDS_MAX = 600  # of one boot of the test host
QUICK_MS = 400  # for each fio of --quick
NATIVE_SECONDS = 60  # for a boot of each VMM, to see whether they can
APPEND = linuxguest.APPEND
DISK_MIB = 64

# What QEMU finds by name, and where.
FIRMWARE = ("bios-256k.bin", "bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin")
FIRMWARE_DIRS = ("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm", "/usr/local/share/qemu")

QEMU = ("qemu-system-x86_64 -L {firmware} -accel kvm -cpu host -m {ram} -nodefaults -no-user-config -display none -no-reboot "
        "-serial stdio -kernel {kernel} -initrd {initrd} -append {append}")
QEMU_DISK = "-drive file={file},format=raw,if=none,id={id},cache=writeback,aio=io_uring -device virtio-blk-{bus},drive={id}"
QEMU_NET = "-netdev user,id=net -device virtio-net-{bus},netdev=net{rom}"
VMMS = ("hv", "pc", "microvm")
NAMES = {"hv": "hv --engine kvm", "pc": "QEMU -M pc", "microvm": "QEMU -M microvm"}

# key -> (what, unit, which is better)
ROWS = {
    "boot": ("start to first line of init", "ms", "less"),
    "boot_cpu": ("the same, processor time", "ms", "less"),
    "rss": ("resident, no devices", "KiB", "less"),
    "rss_devices": ("resident, disk and network", "KiB", "less"),
    "rss_total": ("the same with guest memory", "KiB", "less"),
    "seqread": ("read 4 KiB in order, depth 32", "IOPS", "more"),
    "seqwrite": ("write 4 KiB in order, depth 32", "IOPS", "more"),
    "randread": ("read 4 KiB at random, depth 32", "IOPS", "more"),
    "randwrite": ("write 4 KiB at random, depth 32", "IOPS", "more"),
    "oneread": ("read 4 KiB at random, depth 1", "IOPS", "more"),
    "send": ("guest to host, TCP", "Mbit/s", "more"),
    "receive": ("host to guest, TCP", "Mbit/s", "more"),
    "ping": ("round trip, guest to network", "us", "less"),
}
FIO = {  # row -> (rw, depth)
    "seqread": ("read", 32), "seqwrite": ("write", 32), "randread": ("randread", 32), "randwrite": ("randwrite", 32),
    "oneread": ("randread", 1),
}
AIMS = {"boot": 0.9, "seqread": 1.0, "seqwrite": 1.0, "randread": 1.0, "randwrite": 1.0, "send": 1.0, "receive": 1.0}  # hv/pc
RSS_AIM, RSS_ROWS = 3072, ("rss", "rss_devices")


def guest_initrd():
    """The first thing that it does is the line that is waited for. Without a disk it only stays idle for a while."""
    ramfs, load = linuxguest.archive(TOP, ["pci", "disk", "net"])
    head = linuxguest.HEAD.replace("\n", "\necho @init\n", 1)
    idle = "grep -q bench=boot /proc/cmdline && { sleep 1; echo @idle; sleep 1; poweroff -f; }\n"
    ramfs.file("init", (head + idle + load + linuxguest.SWITCH % "noatime").encode(), 0o755)
    return ramfs.bytes()


def fio_jobs(ms):
    """One job file: loading fio takes longer than a job. Each job says on the console when it begins."""
    lines = ["[global]", "filename=/dev/vdb", "direct=1", "ioengine=libaio", "bs=4k", "time_based=1", f"runtime={ms}ms",
             f"ramp_time={ms // 4}ms", "randseed=1", "thread=1", "stonewall=1"]
    for row, (rw, depth) in FIO.items():
        lines += [f"[{row}]", f"rw={rw}", f"iodepth={depth}", f"exec_prerun=(echo '@cpu {row}' >/dev/console)"]
    return "\n".join(lines) + "\n"


def guest_script(seconds):
    """What is done on the disk's file system."""
    lines = ["ifconfig lo 127.0.0.1 up; ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || echo '@no network'",
             # Pages of the programs are read before anything is measured.
             "fio --version >/dev/null; iperf3 --version >/dev/null; sleep 1; echo @idle; sleep 1",
             "fio --minimal /jobs >out 2>&1 || cat out; grep '^3;' out | cut -d';' -f3,7,8,48,49 | sed 's/^/@fio /'"]
    for row, reverse in (("send", ""), ("receive", "-R")):
        lines.append(f"echo '@cpu {row}'; iperf3 -c 10.0.2.2 -t {seconds} -f k {reverse} >out 2>&1 || cat out; "
                     f"echo \"@iperf {row} $(grep receiver out)\"")
    lines += ["echo '@cpu ping'; echo \"@ping $(ping -q -A -c 300 10.0.2.2 | tail -n 1)\"", "echo '@cpu end'"]
    return "\n".join(lines) + "\n"


def firmware():
    found = {}
    for name in FIRMWARE:
        for directory in FIRMWARE_DIRS:
            if os.path.exists(os.path.join(directory, name)):
                found[name] = os.path.join(directory, name)
                break
    return found


def command(vmm, paths, devices):
    """The command line of one VMM. paths: of firmware, kernel, initrd, root and data images, hv."""
    append = APPEND + (" bench=io" if devices else " bench=boot")
    if vmm == "hv":
        words = [paths["hv"], "run", "--engine", "kvm", "--mem", f"{RAM_MIB}M", "--stats", "json", "--initrd", paths["initrd"],
                 "--append", append]
        if devices:
            words += ["--disk", paths["root"], "--disk", paths["data"], "--net", "user"]
        return shlex.join([*words, paths["kernel"]])
    bus = "pci" if vmm == "pc" else "device"
    line = QEMU.format(firmware=paths["firmware"], ram=RAM_MIB, kernel=paths["kernel"], initrd=paths["initrd"], append=shlex.quote(append))
    # What the second disk is called in the guest is decided by who is found first.
    disks = [QEMU_DISK.format(file=paths["root"], id="root", bus=bus),
             QEMU_DISK.format(file=paths["data"], id="data", bus=bus)]
    more = [*disks, QEMU_NET.format(bus=bus, rom=",romfile=" if vmm == "pc" else "")] if devices else []
    return " ".join([line, "-M", vmm, *more])


def job(order, kinds, paths):
    """A line for the shell: all VMMs in this order, without devices, with them, or both."""
    lines = [f"dd if=/dev/urandom of={paths['data']} bs=1M count={DISK_MIB} 2>/dev/null; iperf3 -s -D -I /tmp/iperf3.pid >/dev/null"]
    for devices in kinds:
        for vmm in order:
            run = f"{paths['vmmrun']} {RAM_MIB} {command(vmm, paths, devices)}"
            lines.append(f"echo '== {vmm} {int(devices)}'; {run} 2>&1; echo '== status' $?")
    return "\n".join([*lines, "kill $(cat /tmp/iperf3.pid)"])


def read(text):
    """row -> number of one run of a VMM, and row -> processor time in ms. ValueError when something is missing."""
    found, cpu, stamps = {}, {}, []
    for line in text.replace("\r", "").split("\n"):
        word, _, rest = line.partition(" ")
        if word in ("init_ms", "init_cpu_ms", "rss_kib", "anon_kib", "total_kib"):
            found[word] = float(rest)
        elif word == "@fio":
            row = rest.split(";")[0]
            values = [float(v) for v in rest.split(";")[1:]]
            found[row] = values[1] or values[3]  # IOPS of reads, or else of writes
        elif word == "@iperf":
            rate = re.search(r"(\w+) .*?([\d.]+) Kbits/sec", rest)
            if rate:
                found[rate[1]] = float(rate[2]) / 1000
        elif word == "@ping":
            times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+) ms", rest)
            if times:
                found["ping"] = float(times[2]) * 1000
        elif word == "cpu_ms":
            stamps.append((rest.split()[1], float(rest.split()[0])))
        elif word == "{" or line.startswith('{"'):
            found["stats"] = json.loads(line)
    for (row, before), (_, after) in zip(stamps, stamps[1:]):
        cpu[row] = after - before
    return found, cpu


def results(output, vmms):
    """vmm -> row -> number, from what one round printed. ValueError: a run of it did not get to its end."""
    got = {vmm: {} for vmm in vmms}
    for vmm, devices, text, status in re.findall(r"^== (\w+) (\d)\r?\n(.*?)^== status (\d+)", output, re.M | re.S):
        found, cpu = read(text)
        if status != "0":
            raise ValueError(f"{NAMES[vmm]} ended with status {status}:\n{text[-1500:]}")
        if devices == "1":
            rows = {row: found.get(row) for row in (*FIO, "send", "receive", "ping")}
            rows.update(rss_devices=found.get("rss_kib"), rss_total=found.get("total_kib"), anon_devices=found.get("anon_kib"))
        else:
            rows = {"boot": found.get("init_ms"), "boot_cpu": found.get("init_cpu_ms"), "rss": found.get("rss_kib"),
                    "anon": found.get("anon_kib")}
        missing = [row for row, value in rows.items() if not value]
        if missing:
            raise ValueError(f"{NAMES[vmm]} did not report {', '.join(missing)}:\n{text[-1500:]}")
        got[vmm].update(rows)
        got[vmm].update((f"cpu_{row}", value) for row, value in cpu.items())
        if "stats" in found:
            got[vmm]["stats_io" if devices == "1" else "stats_boot"] = found["stats"]
    for vmm, rows in got.items():
        if not rows:
            raise ValueError(f"{NAMES[vmm]} did not get to the end in time.\n{output[-1500:]}")
    return got


class Machine:
    """Where it is measured, the test host: the files that go along, and how a line for the shell is run."""

    def __init__(self, directory):
        self.paths = {"hv": "hv", "vmmrun": "vmmrun", "firmware": "/work/firmware", "kernel": "vmlinuz", "initrd": "initrd",
                      "root": "root.img", "data": "/tmp/data.img"}
        files = {"hv": HV, "vmmrun": VMMRUN, "vmlinuz": KERNEL, "initrd": directory / "initrd", "root.img": directory / "root.img",
                 "qemu-system-x86_64": shutil.which("qemu-system-x86_64"), "iperf3": shutil.which("iperf3")}
        files.update((f"firmware/{name}", path) for name, path in firmware().items())
        self.files = [word for name, path in files.items() for word in ("--file", f"{path}:work/{name}")]

    def run(self, line, seconds):
        argv = [TOP / "scripts/testhost-run", "--mem", str(HOST_MIB), "--timeout", str(seconds), *self.files, "--", line]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              check=False)
        return done.stdout


class Native(Machine):
    """This machine itself."""

    def __init__(self, directory):
        super().__init__(directory)
        self.paths.update(hv=str(HV), vmmrun=str(VMMRUN), kernel=str(KERNEL), data=str(directory / "data.img"),
                          firmware=os.path.dirname(firmware()["linuxboot_dma.bin"]))
        self._directory = directory

    def run(self, line, seconds):
        done = subprocess.run(["timeout", "-k", "5", str(seconds), "sh", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", check=False, cwd=self._directory)
        return done.stdout

    def able(self):
        """Do all of them boot here? If not, a sentence says so."""
        try:
            results(self.run(job(VMMS, (False,), self.paths), NATIVE_SECONDS), VMMS)
            return True
        except ValueError as error:
            print(f"# Native: not measured. {str(error).splitlines()[0]}", flush=True)
            return False


def measure(machine, runs):
    """A list with a round's results for each round. Each VMM has a test host of its own, because a host is not the same when others have
    used up and given back its memory: the first guest in it boots twice as fast as the second."""
    rounds = []
    for number in range(runs):
        order = VMMS[number % 3:] + VMMS[:number % 3]
        got = {vmm: {} for vmm in VMMS}
        for vmm, devices in [(vmm, devices) for devices in (False, True) for vmm in order]:
            for attempt in range(ATTEMPTS):
                try:
                    got[vmm].update(results(machine.run(job([vmm], (devices,), machine.paths), SECONDS_MAX), [vmm])[vmm])
                    break
                except ValueError as error:
                    print(f"# round {number + 1}: {error}", file=sys.stderr, flush=True)
                    if attempt == ATTEMPTS - 1:
                        raise
        rounds.append(got)
        print(f"# round {number + 1} of {runs}, {order[0]} first; load {os.getloadavg()[0]:.1f}", flush=True)
    return rounds


def spread(values):
    return f"{statistics.median(values):.4g} ({min(values):.4g}..{max(values):.4g})"


def medians(rounds, row):
    return {vmm: statistics.median(got[vmm][row] for got in rounds) for vmm in VMMS}


def aim(row, median):
    """What the row is to be, and whether it is."""
    if row in RSS_ROWS:
        return f"<= {RSS_AIM} KiB: {'met' if median['hv'] <= RSS_AIM else 'missed'}"
    if row not in AIMS:
        return "-"
    ratio, less = median["hv"] / median["pc"], ROWS[row][2] == "less"
    return f"{'<=' if less else '>='} {AIMS[row]:.1f}: {'met' if (ratio <= AIMS[row] if less else ratio >= AIMS[row]) else 'missed'}"


def table(rounds):
    print("\t".join(["what", "unit", *(NAMES[vmm] for vmm in VMMS), "hv/pc", "hv/microvm", "aim"]))
    for row, (what, unit, _) in ROWS.items():
        median = medians(rounds, row)
        ratios = [f"{median['hv'] / median[vmm]:.2f}" for vmm in VMMS[1:]]
        print("\t".join([what, unit, *(spread([got[vmm][row] for got in rounds]) for vmm in VMMS), *ratios, aim(row, median)]))


def main():
    parser = argparse.ArgumentParser(description="Compares hv with QEMU: boot, memory, block, network.")
    parser.add_argument("--quick", action="store_true", help="one short run, to see that all of it works")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=int, default=4, help="how long each fio and iperf3 takes")
    parser.add_argument("--json", type=pathlib.Path, default=RESULT, metavar="FILE", help="all numbers (build/bench/io.json)")
    args = parser.parse_args()
    runs, seconds = (1, 1) if args.quick else (args.runs, args.seconds)
    subprocess.run(["make", "-s", "-C", TOP, "hv", "build/vmmrun", "testhost"], check=True)
    with tempfile.TemporaryDirectory(prefix="bench-io.") as name:
        directory = pathlib.Path(name)
        (directory / "initrd").write_bytes(guest_initrd())
        jobs = fio_jobs(QUICK_MS if args.quick else seconds * 1000).encode()
        linuxguest.disk(str(directory / "root.img"), 128, guest_script(seconds), files={"jobs": jobs},
                        programs={f"bin/{p}": shutil.which(p) for p in ("fio", "iperf3")})
        where = {"testhost": measure(Machine(directory), runs)}
        if not args.quick and (native := Native(directory)).able():
            where["native"] = measure(native, runs)
    facts = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "host": platform.platform(), "processors": os.cpu_count(),
             "load": os.getloadavg(), "runs": runs, "seconds": seconds}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"facts": facts, **where}, indent=1) + "\n", encoding="utf-8")
    for name, rounds in where.items():
        print(f"# {name}: medians of {runs} runs (least..most)")
        table(rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
