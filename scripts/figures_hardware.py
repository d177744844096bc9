#!/usr/bin/env python3
"""Measures what hardware assistance saves and draws it: figures_hardware.py [--from DIR] [FIGURE]...

The same guests on the trap engine with shadows, on the hvm engine with shadows and with nested tables, in the test hosts with SVM and with
VMX: docs/img/hardware-exits.svg and hardware-linux.svg. And docs/img/hardware-walk.svg, the two-dimensional walk of one address as
`hv run --dump-tables` lists it. Counts, never times, as in figures.py; so is --from.
"""

import json
import re
import subprocess
import sys

import figures
from figures import TOP, Drawing, FigureError, said, stacked

HV, GUEST = "build/reference/hv", "build/guests/paging.elf"
KERNEL, INITRD = "build/testhost/vmlinuz", "build/guests/initrd.cpio"
FORK = {"trap, vtlb": "--engine trap --shadow vtlb", "trap, cached": "--engine trap --shadow cached",
        "hvm, vtlb": "--engine hvm --shadow vtlb", "hvm, cached": "--engine hvm --shadow cached",
        "hvm, 4 KiB": "--engine hvm --page-size 4K", "hvm, 2 MiB": "--engine hvm --page-size 2M"}
LINUX = {"4 KiB": "4K", "2 MiB": "2M", "1 GiB": "1G"}
ADDRESS = 0xffffffff80117000  # of a page of the course kernel's, the one of Lab 2's figures
WHERE = "Counted by --stats json in the test host with SVM, one run each; the last bar in the one with VMX. Devices and timer vary."
WHERE_LINUX = "Counted by --stats json in the test host with SVM, one run each."

KINDS = (("the guest's own page faults", "#1d4ed8", "#ffffff"), ("hidden page faults, emulated stores", "#b3261e", "#ffffff"),
         ("page faults about kernel or program", "#f9a8d4", "#111827"), ("nested violations", "#7c3aed", "#ffffff"),
         ("instructions", "#fde68a", "#111827"), ("devices", "#9ca3af", "#111827"), ("timer, and the rest", "#e5e7eb", "#111827"))
INSTRUCTIONS = ("cpuid", "rdmsr", "wrmsr", "control register", "debug register", "invlpg", "hlt", "pause", "hypercall", "xsetbv", "cache")


def by_kind(run):
    """The exits of a run, in the order of KINDS. Their sum is all of them."""
    kinds, emulated, shadow = run["by_kind"], run["emulated"], run.get("shadow", {"true": 0, "hidden": 0, "emulated": 0})
    ports = sum(emulated.get(name, 0) for name in ("in", "out"))  # trap engine: a #GP
    instructions = kinds.get("trap #GP", 0) - ports if run["engine"] == "trap" else sum(kinds.get(name, 0) for name in INSTRUCTIONS)
    counts = [shadow["true"], shadow["hidden"] + shadow["emulated"], shadow.get("switches", 0), kinds.get("violation", 0), instructions,
              (ports if run["engine"] == "trap" else 0) + kinds.get("io", 0)]
    return counts + [run["exits"] - sum(counts)]


# --- measuring --------------------------------------------------------------------------------------------------------


def boot(host, files, commands, *options):
    """What these runs of hv print on standard error, from one boot of that host. One that does not end well is made once more: the test
    hosts' KVM loses an interrupt now and then (docs/design.md), and a guest that waits for it stands still."""
    words = [word for file in files for word in ("--file", TOP / file)]
    runs = [f"hv run --timeout 150 {command} 2>&1 >/dev/null" for command in commands]
    done = subprocess.run([TOP / "scripts/testhost-run", "--host", host, "--timeout", "550", *options, *words, "--",
                           "; ".join(f"{run} || {run}" for run in runs)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout


def stats(output, expected):
    runs = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    good = [run for run in runs if not run["status"]]
    if len(good) != expected:
        raise FigureError(f"{len(good)} of {expected} runs ended well:\n{output[-2000:]}")
    return good


def measure(names):
    subprocess.run(["make", "-s", "-C", TOP, "hv", "testhost", GUEST, INITRD], check=True)
    found = {} if names == ["hardware-linux"] else measure_fork()
    return found | ({"hardware-linux": measure_linux()} if "hardware-linux" in names else {})


def measure_fork():
    fork = "--stats json --append only=bigfork paging.elf"
    dump = f"--engine hvm --page-size 4K --append only=spy --dump-tables {ADDRESS:#x} paging.elf"
    svm = boot("qemu", (HV, GUEST), [*(f"{options} {fork}" for options in FORK.values()), dump])
    vmx = boot("bochs", (HV, GUEST), [f"--engine hvm {fork}"])
    exits = dict(zip([*FORK, "the same, VMX"], map(by_kind, stats(svm, len(FORK)) + stats(vmx, 1))))
    return {"hardware-exits": exits, "hardware-walk": walk(svm)}


def measure_linux():
    # Without APICs, whose registers are in memory: the violations that are counted are those of memory.
    debian = "--engine hvm --mem 1G --stats json --initrd initrd.cpio --append 'console=ttyS0 quiet noapic nolapic' --page-size"
    booted = boot("qemu", (HV, KERNEL, INITRD), [f"{debian} {size} vmlinuz" for size in LINUX.values()], "--mem", "2048")
    return {size: {"exits": by_kind(run), "tables": run["nested"]["peak"]} for size, run in zip(LINUX, stats(booted, len(LINUX)))}


def walk(printed):
    """[[where, level, entry's address, entry], ...] in the order of the references, from what --dump-tables prints."""
    found, names = [], {"PML4": 4, "PDPT": 3, "PD": 2, "PT": 1}
    own = None
    for line in printed[printed.index("Tables of"):].splitlines():
        head = re.match(r"(\w+)\[\d+\]: guest's entry at gpa (0x[0-9a-f]+)", line)
        nested = re.match(r" +nested +(\w+)\[ *\d+\] +ma (0x[0-9a-f]+) +(0x[0-9a-f]+)", line)
        held = re.match(r" +holds (0x[0-9a-f]+)", line)
        if head:
            own = (names[head[1]], head[2])
        elif nested:
            found.append(["nested", names[nested[1]], nested[2], nested[3]])
        elif held:
            found.append(["guest", *own, held[1]])
    if [step[:2] for step in found] != [["nested", n] for n in (4, 3, 2, 1)] + [
            [where, level] for g in (4, 3, 2, 1) for where, level in [("guest", g)] + [("nested", n) for n in (4, 3, 2, 1)]]:
        raise FigureError(f"this is not a walk of 24 references: {found}")
    return found


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw_exits(exits):
    d = Drawing(1152, 594, "The same fork with and without hardware assistance", f"{len(exits)} bars. {said(exits, KINDS)}. {WHERE}", exits)
    y = stacked(d, exits, KINDS, 200, 850, 40, 8)
    d.note(y + 26, "The course kernel, only=bigfork: 1024 pages filled, fork; child and parent read all and write to 16.")
    d.note(y + 52, WHERE)
    return d


def draw_linux(linux):
    """Without devices and the timer: these depend on how long the run takes."""
    shown = slice(3, 5)
    rows = {size: run["exits"][shown] for size, run in linux.items()}
    tables = "; ".join(f"{size}: {run['tables']} tables" for size, run in linux.items())
    d = Drawing(1152, 362, "Debian's kernel, booted with nested pages of three sizes",
                f"Three bars. {said(rows, KINDS[shown])}. Nested tables: {tables}. {WHERE_LINUX}", linux)
    y = stacked(d, rows, KINDS[shown], 120, 880, 52, 14)
    d.note(y + 26, "Booted to a shell, a command, power-off; 1 GiB of memory. Exits for devices and the timer are left out:")
    d.note(y + 52, "they depend on how long a run takes. Nested tables in use at most: " +
           ", ".join(f"{run['tables']} ({size})" for size, run in linux.items()) + ".")
    d.note(y + 78, WHERE_LINUX)
    return d


def draw_walk(steps):
    words = "; ".join(f"{i}: {where} level {level}, entry {entry}" for i, (where, level, _, entry) in enumerate(steps, 1))
    d = Drawing(1152, 560, f"The 24 references that translate {ADDRESS:#x}",
                "Five columns, one for each address of the guest's that is to be found: its tables of level 4 to 1, and the page. In each, "
                f"the CPU reads four nested entries from the top down; then, in four of the columns, the guest's own. {words}.", steps)
    names = [f"guest's level {level}" for level in (4, 3, 2, 1)] + ["the page"]
    for column, name in enumerate(names):
        x = 20 + column * 226
        d.text(x + 104, 34, name, text_anchor="middle", font_weight="bold", fill="#1e3a8a")
        for row in range(5 if column < 4 else 4):
            number = column * 5 + row
            where, level, address, entry = steps[number]
            y, own = 48 + row * 76, where == "guest"
            d.rect(x, y, 208, 66, fill="#dbeafe" if own else "#dcfce7", stroke="#1d4ed8" if own else "#15803d", stroke_width=2)
            d.text(x + 10, y + 27, str(number + 1), font_weight="bold", fill="#111827")
            d.text(x + 198, y + 27, f"gpa {address}" if own else f"level {level}", text_anchor="end", font_size=20)
            d.text(x + 198, y + 56, shortened(entry), text_anchor="end", font_family="DejaVu Sans Mono, monospace", font_size=20)
    d.text(924 + 104, 390, "then the data", text_anchor="middle", fill="#1e3a8a", font_weight="bold")
    d.note(458, "Green: an entry of the nested tables, which are all at ma 0x200000 and above. Blue: one of the guest's own; its gpa")
    d.note(484, "is what the four entries above it translate. The number on the left is the order in which the CPU reads them.")
    d.note(520, f"gva {ADDRESS:#x} of the course kernel, nested pages of 4 KiB, NPT;")
    d.note(546, "from hv run --dump-tables in the test host.")
    return d


def shortened(entry):
    """An entry without its leading zeros, and with NX as a word."""
    value = int(entry, 16)
    return f"{value & ~(1 << 63):#x}" + (" NX" if value >> 63 else "")


FIGURES = {"hardware-exits": draw_exits, "hardware-linux": draw_linux, "hardware-walk": draw_walk}


if __name__ == "__main__":
    sys.exit(figures.main(FIGURES, measure))
