#!/usr/bin/env python3
"""Measures what devices cost and draws it: figures_devices.py [--from DIR] [FIGURE]...

docs/img/devices-output.svg: 16 KiB of output through the UART and through the virtio console, as scripts/bench_console.py runs them.
docs/img/devices-registers.svg: accesses to registers that Linux' drivers make for entropy and for a disk, with notifications as exits and
as eventfds. Counts, never times, as in figures.py; so is --from.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import bench_console
import figures
from figures import TOP, Drawing, FigureError, said, stacked, thousands

sys.path.insert(0, str(TOP / "grader/lib"))
import linuxguest  # noqa: E402

HV, KERNEL, OUTPUT = "build/reference/hv", "build/testhost/vmlinuz", "build/guests/lab4/output.elf"
WHERE = "Counted by --stats json in the test host, kvm engine, one run each."

# name, colour, colour of the text on it
OUTPUT_KINDS = (("the UART's registers", "#b3261e", "#ffffff"), ("notifications", "#1d4ed8", "#ffffff"),
                ("other virtio registers", "#9ca3af", "#111827"), ("the rest", "#e5e7eb", "#111827"))
OUTPUT_NAMES = {"uart": "UART", "each": "virtio, each", "quiet": "virtio, quiet", "batch": "virtio, batch"}
REGISTER_KINDS = (("QueueNotify, an exit each", "#1d4ed8", "#ffffff"), ("reads: InterruptStatus, set-up", "#9ca3af", "#111827"),
                  ("writes: InterruptACK, set-up", "#e5e7eb", "#111827"))

# What the guest does, on which devices. The disk is read past the guest's cache.
ENTROPY = ("rng", "dd if=/dev/hwrng of=/dev/null bs=4k count=16")
BY_PAGE = ("disk", "dd if=/dev/vda of=/dev/null bs=4k count=256 iflag=direct")
AT_ONCE = ("disk", "dd if=/dev/vda of=/dev/null bs=1M count=1 iflag=direct")
LINUX = {"entropy": (ENTROPY, "off"), "entropy, eventfd": (ENTROPY, "on"), "disk": (BY_PAGE, "off"),
         "disk, eventfd": (BY_PAGE, "on"), "disk, 1 MiB": (AT_ONCE, "on")}


# --- measuring --------------------------------------------------------------------------------------------------------


def output_kinds(run):
    """The exits of a run of guests/output.c, in the order of OUTPUT_KINDS. A signal that interrupts hv is none."""
    kinds, kicks = run["by_kind"], run["virtio"][0]["queues"][1]["kicks"]
    ports = kinds.get("io out", 0) + kinds.get("io in", 0)
    registers = kinds.get("mmio read", 0) + kinds.get("mmio write", 0)
    # The last one ends the guest (port 0xf4).
    return [ports - 1, kicks, registers - kicks, 1]


def register_kinds(run, eventfds):
    """Accesses to virtio registers that left the guest, in the order of REGISTER_KINDS; and how many notifications there were."""
    kinds = run["by_kind"]
    kicks = sum(queue["kicks"] for queue in run["virtio"][0]["queues"])
    exits = 0 if eventfds == "on" else kicks
    return {"exits": [exits, kinds["mmio read"], kinds["mmio write"] - exits], "kicks": kicks}


def measure(names):
    subprocess.run(["make", "-s", "-C", TOP, "hv", "testhost", OUTPUT], check=True)
    found = {}
    if "devices-output" in names:
        found["devices-output"] = measure_output()
    if "devices-registers" in names:
        found["devices-registers"] = measure_linux()
    return found


def measure_output():
    counts = {}
    for (how, _, _), (output, stats) in zip(bench_console.ROWS, bench_console.run(native=False), strict=True):
        if output != bench_console.TEXT:
            raise FigureError(f"{how}: the output is not what the guest was to print")
        counts[how] = output_kinds(json.loads(stats.strip().splitlines()[-1]))
    return counts


def measure_linux():
    with tempfile.TemporaryDirectory(prefix="figures.") as made:
        top = pathlib.Path(made)
        (top / "disk.img").write_bytes(bytes(4 << 20))
        for (device, script), _ in LINUX.values():
            name = f"{device}{len(script)}.cpio"
            (top / name).write_bytes(linuxguest.initrd(TOP, script, [device]))
        runs = []
        for (device, script), eventfds in LINUX.values():
            option = "--disk disk.img" if device == "disk" else f"--{device}"
            runs.append(f"hv run --engine kvm --mem 128M --timeout 150 --stats json --event-fds {eventfds} {option} "
                        f"--initrd {device}{len(script)}.cpio --append '{linuxguest.APPEND}' vmlinuz 2>&1 >/dev/null | grep '^{{'")
        files = [word for path in (TOP / HV, TOP / KERNEL, *top.iterdir()) for word in ("--file", path)]
        done = subprocess.run([TOP / "scripts/testhost-run", "--timeout", "500", *files, "--", "; ".join(runs)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    stats = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(stats) != len(runs) or any(run["status"] for run in stats):
        raise FigureError(f"{len(stats)} of {len(runs)} runs ended, and not all of them well:\n{done.stdout[-2000:]}")
    return {name: register_kinds(run, eventfds) for (name, (_, eventfds)), run in zip(LINUX.items(), stats)}


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw_output(counts):
    rows = {OUTPUT_NAMES[how]: row for how, row in counts.items()}
    per_kib = "; ".join(f"{name} {sum(row) / bench_console.KIB:.1f}" for name, row in rows.items())
    d = Drawing(1152, 570, "Exits for 16 KiB of output", "Four bars to one scale, and the last three of them enlarged. "
                f"{said(rows, OUTPUT_KINDS)}. For each KiB: {per_kib}. {WHERE}", counts)
    top = max(map(sum, rows.values()))
    bars(d, rows, 20, 780 / top)
    virtio = {name: row for name, row in rows.items() if name != OUTPUT_NAMES["uart"]}
    widest = max(map(sum, virtio.values()))
    d.text(20, 232, f"The same three, enlarged {round(780 * top / widest / 780)} times", font_weight="bold", fill="#374151")
    bars(d, virtio, 246, 780 / widest)
    for i, (name, colour, _) in enumerate(OUTPUT_KINDS):
        x, y = 200 + i % 2 * 400, 402 + i // 2 * 36
        d.rect(x, y, 26, 26, fill=colour, stroke="#6b7280")
        d.text(x + 38, y + 21, name)
    d.note(506, f"256 lines of 64 bytes; exits for each KiB: {per_kib}.")
    d.note(532, "each: a notification and an interrupt a line. quiet: no interrupts. batch: EVENT_IDX, 64 lines at once.")
    d.note(556, WHERE)
    return d


def bars(d, rows, top, scale):
    for i, (name, row) in enumerate(rows.items()):
        x, y = 200, top + i * 48
        d.text(20, y + 28, name, font_weight="bold")
        for (_, colour, on_it), n in zip(OUTPUT_KINDS, row):
            if n:
                d.rect(x, y, n * scale, 40, fill=colour, stroke="#ffffff", stroke_width=1 if n * scale > 3 else 0)
            if n * scale > 66:
                d.text(x + n * scale / 2, y + 28, thousands(n), fill=on_it, text_anchor="middle")
            x += n * scale
        d.text(x + 12, y + 28, thousands(sum(row)), font_weight="bold")


def draw_registers(linux):
    rows = {name: run["exits"] for name, run in linux.items()}
    kicks = ", ".join(f"{name} {run['kicks']}" for name, run in linux.items())
    d = Drawing(1152, 530, "Exits for the registers of virtio devices under Linux' drivers",
                f"Five bars. {said(rows, REGISTER_KINDS)}. Notifications, as exits or as eventfds: {kicks}. {WHERE}", linux)
    y = stacked(d, rows, REGISTER_KINDS, 210, 820, 46, 14)
    d.note(y + 26, "Entropy: 64 KiB from /dev/hwrng, 64 bytes a request. Disk: 1 MiB, 4 KiB a request, or as few as the kernel makes.")
    d.note(y + 52, f"Notifications: {kicks}.")
    d.note(y + 78, WHERE)
    return d


FIGURES = {"devices-output": draw_output, "devices-registers": draw_registers}


if __name__ == "__main__":
    sys.exit(figures.main(FIGURES, measure))
