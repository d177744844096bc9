#!/usr/bin/env python3
"""Says in sentences what works on this machine and what to do about the rest. Each thing is found out by doing it.

Exit status 0 when the courseware can be used here, which is the case as soon as the test host works; otherwise 1.
"""

import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
PROBE = TOP / "build/probe"
SOLVED = (TOP / "reference-solution").is_dir()
HV = TOP / ("build/reference/hv" if SOLVED else "build/lab1/hv")
HELLO = TOP / "build/guests/lab1/hello.elf"
PAGED_KERNEL = TOP / "build/guests/paging.elf"
TODO = 5  # hv's exit status for a step that is not written
TRAPS = 20000  # enough that the first ones do not matter, and less than two seconds on the slowest machine seen


def run(command, seconds):
    """(exit status, output of both kinds). The status is None when the program cannot be started or does not end in time; it
    is left alone then if it does not even die, as a process inside a broken /dev/kvm may not."""
    # The make that started this must not take part in what is started here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    try:
        process = subprocess.Popen([str(word) for word in command], cwd=TOP, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                   start_new_session=True)
    except OSError as error:
        return None, str(error)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output.strip()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, f"no answer within {seconds} seconds"


def last_line(text):
    return text.splitlines()[-1] if text else "no message"


def say(good, sentence):
    """One finding. good: True, False (needs something done), or None (a fact)."""
    print(f"  {'ok' if good else '--' if good is None else '!!'}  {sentence}", flush=True)


def heading(text):
    print(f"\n{text}", flush=True)


def os_name():
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "an unknown Linux")
    except OSError:
        return platform.system()


def check_machine():
    heading("This machine")
    debian = shutil.which("apt-get") is not None
    say(debian or None, f"{os_name()}, {platform.machine()}, {os.cpu_count()} processors."
        + ("" if debian else " Not a Debian, so `make setup` can only name the packages."))
    status, missing = run([TOP / "scripts/setup.sh", "--list"], 60)
    if status == 0:
        say(True, "All tools and libraries are installed.")
    elif status is None:
        say(False, f"The check of the installed packages did not work: {missing}.")
    else:
        packages = ", ".join(line.split(":")[0].strip() for line in missing.splitlines())
        say(False, f"Not installed: {packages}. Type: make setup")


def check_build():
    """Builds what is tried out below. Returns whether the probe, and whether hv with its guests, exist."""
    built = []
    # A student's tree has no solution; there the lab's own files must compile, written or not.
    hv = "The reference hypervisor" if SOLVED else "Your hypervisor"
    for what, targets in (("The probe of /dev/kvm", "build/probe"), (hv, "hv guests" if SOLVED else "hv guests LAB=1")):
        status, _ = run(["make", "-C", TOP, *targets.split()], 300)
        built.append(status == 0)
        if status != 0:
            say(False, f"{what} cannot be built. `make {targets}` shows why.")
    if all(built):
        say(True, f"{hv} and its guests are built.")
    return built


def check_traps(lines):
    """What `probe traps` reported, as a sentence. Returns True when all is as on the reference."""
    rows = [line.split("\t") for line in lines.splitlines() if line.startswith(("same\t", "differs\t"))]
    differing = [f"`{row[1]}` ({row[2]})" for row in rows if row[0] == "differs" and len(row) > 2]
    if not rows:
        say(False, f"A deprivileged guest (64-bit mode, CPL 3) does not run: {last_line(lines)}.")
        return False
    if differing:
        say(None, f"{len(rows) - len(differing)} of {len(rows)} sensitive instructions of a deprivileged guest behave as in "
            f"the test host. Different: {', '.join(differing)}.")
        return False
    say(True, f"All {len(rows)} sensitive instructions that were tried behave as the course expects.")
    return True


def check_kvm():
    """The machine's own /dev/kvm. Returns True when it can be opened."""
    heading("Hardware virtualization here (/dev/kvm; not needed, but faster)")
    if platform.machine() not in ("x86_64", "AMD64"):
        say(None, f"This processor ({platform.machine()}) cannot run x86 guests itself.")
        return False
    status, output = run([PROBE, "open"], 10)
    if status != 0:
        if "No such file" in output:
            say(None, "There is no /dev/kvm: virtualization is switched off in the firmware, the kvm module is not loaded, "
                "or this is a virtual machine or container that has none.")
        elif "ermission" in output or "not permitted" in output:
            say(False, "/dev/kvm is there, but you may not open it. Type: sudo adduser $USER kvm, and log in again.")
        else:
            say(None, f"/dev/kvm cannot be used: {last_line(output)}.")
        return False
    say(True, "/dev/kvm opens and answers with the API version 12.")

    _, output = run([PROBE, "traps"], 60)
    check_traps(output)
    status, output = run([PROBE, "cost", TRAPS], 60)
    if status == 0:
        say(None, f"One trap and return takes {output} us.")
    status, output = run([PROBE, "cpuid"], 15)
    say(None, "CPUID at CPL 3 traps, so the guest sees the CPUID that hv wants (step 1.20)." if status == 0 else
        f"CPUID at CPL 3 does not trap here ({last_line(output)}), so step 1.20 shows in the test host only.")
    modes = (("real", "real mode"), ("paging", "32-bit paging"), ("pae", "PAE paging"))
    absent = [name for mode, name in modes if run([PROBE, mode], 15)[0] != 0]
    say(None, f"Guests outside long mode: no {', no '.join(absent)} here." if absent else
        "Guests run in real mode, with 32-bit paging and with PAE paging.")
    offers = [name for mode, name in (("svm", "SVM"), ("vmx", "VMX")) if run([PROBE, mode], 15)[0] == 0]
    say(None, f"A machine made here has {' and '.join(offers)}, so a hypervisor can run inside it (Lab 3)." if offers else
        "A machine made here has neither SVM nor VMX, so Lab 3 needs the test host.")
    return True


def check_engines():
    """Runs the first guest natively. Returns the engines that work."""
    works = []
    for engine in ("trap", "kvm"):
        status, output = run([HV, "run", "--engine", engine, "--timeout", "20", HELLO], 40)
        if status == 0:
            works.append(engine)
        else:
            say(None, f"`hv run --engine {engine}` does not work here: {last_line(output)}.")
    if works:
        say(True, f"`hv run` works here with the engine{'s' if len(works) > 1 else ''} {' and '.join(works)}.")
    return works


def check_shadow_paging():
    """The kernel with paging under both kinds of shadow: some software /dev/kvm runs a flat guest right and this one wrong."""
    for mode in ("vtlb", "cached"):
        status, output = run([HV, "run", "--shadow", mode, "--timeout", "20", PAGED_KERNEL], 40)
        if status == TODO:
            say(None, f"Whether shadow paging works here can be told when Lab 2 is written ({last_line(output)}).")
            return
        if status != 0 or "all page frames came back" not in output:
            reason = textwrap.shorten(last_line(output).removeprefix("hv: "), 110, placeholder=" ...")
            say(None, f"Shadow paging does not work here, so do Lab 2 in the test host only (--shadow {mode}: {reason}).")
            return
    say(True, "Shadow paging works here as well (Lab 2).")


def check_test_host(have_probe):
    heading("The test host (a PC in software, in which everything is graded)")
    status, output = run(["qemu-system-x86_64", "--version"], 20)
    if status != 0:
        say(False, "QEMU is not installed or does not start. Type: make setup")
        return False
    version = re.search(r"version (\d+)\.(\d+)", output)
    if not version or (int(version[1]), int(version[2])) < (6, 0):
        say(False, f"This QEMU is too old ({last_line(output)}); version 6.0 or later is needed.")
        return False
    say(True, f"QEMU {version[1]}.{version[2]} is installed.")
    if not (TOP / "build/testhost/vmlinuz").exists():
        say(False, "Its kernel has not been unpacked yet. Type: make testhost")
        return False
    if not have_probe:
        return False
    started = time.monotonic()
    status, output = run([TOP / "scripts/testhost-run", "--timeout", "120", "--file", PROBE, "--",
                          f"probe traps; probe cost {TRAPS}; probe svm && echo svm works"], 150)
    seconds = time.monotonic() - started
    if status != 0:
        say(False, f"It does not work: {last_line(output)}.")
        return False
    say(True, f"It boots, probes its own /dev/kvm and ends in {seconds:.1f} s.")
    cost = re.search(r"^\d+\.\d+$", output, re.M)
    if cost:
        say(None, f"One trap and return takes {cost[0]} us.")
    svm = "svm works" in output
    say(svm or None, f"Its machines have {'SVM' if svm else 'no SVM, so Lab 3 will not work'}.")
    return check_traps(output)


def check_bochs(have_probe):
    """The second test host, for the Intel half of Lab 3. Nothing else needs it."""
    if not shutil.which("bochs-bin"):
        say(None, "Bochs, the second test host, is not installed, so what Lab 3 does on Intel processors is not checked. Type: make setup")
        return
    if not (TOP / "build/testhost/modules/kvm-intel.ko").exists():
        say(None, "Bochs is installed, but its kernel's module kvm-intel has not been unpacked. Type: make testhost")
        return
    if not have_probe:
        return
    started = time.monotonic()
    status, output = run([TOP / "scripts/testhost-run", "--host", "bochs", "--timeout", "120", "--file", PROBE, "--",
                          "probe vmx && echo works"], 150)
    if status == 0 and output.endswith("works"):
        say(True, f"Bochs, the second test host, boots and ends in {time.monotonic() - started:.1f} s. Its machines have VMX, for "
            "Lab 3's Intel half.")
    else:
        say(False, "Bochs, the second test host, does not work, so what Lab 3 does on Intel processors cannot be checked: "
            f"{last_line(output)}.")


def main():
    print("What works on this machine:  ok = yes, -- = a fact or a restriction, !! = something to do")
    check_machine()
    have_probe, have_hv = check_build()
    native = check_kvm() if have_probe else False
    engines = check_engines() if native and have_hv else []
    if "trap" in engines:
        check_shadow_paging()
    usable = check_test_host(have_probe) and have_hv
    check_bochs(have_probe)

    heading("So")
    if usable:
        say(True, "Everything can be done here. Work is graded in the test host, on this machine like on any other.")
    else:
        say(False, "The course cannot be used yet; the lines with !! say what to do.")
    say(None, f"For trying things out, `hv run` can be used directly (engine {', '.join(engines)})." if engines else
        "`hv run` does not work directly here; for trying things out use scripts/testhost-run.")
    return 0 if usable else 1


if __name__ == "__main__":
    sys.exit(main())
