"""Checkpoints 5.5 to 5.8: state. A VM is saved to a file and goes on from it, on the same engine or the other one; a vCPU of
KVM's keeps all that it has; its clocks neither jump nor stall; and what does not fit is refused before anything runs."""

import random
import re
import struct

import rules
import staging
import streamfile
import streamscript
from model import Checkpoint, Failure
from staging import Play, told
from streamfile import CPU, END, PART

# --- 5.5: all state, in order -----------------------------------------------------------------------------------------------

KERNEL = "kernel.elf"
LINE = "to be read backwards"
ORDER_HINT = ("machine_save(): group by group, as enum part_group says, and SECTION_END; machine_load(): each part as it "
              "comes, all of them, each once, before anything runs.")

CLOCK, CHIPS, DEVICES, VIRTIO, CPUS = range(5)
GROUPS = {1: CLOCK, 2: CHIPS, 3: CHIPS, 4: CHIPS, 11: CHIPS}
NAMES = ("the clock", "interrupt controllers", "devices", "virtio devices", "vCPUs")


def _group(message):
    return CPUS if message.type == CPU else VIRTIO if message.instance >= 32 else GROUPS.get(message.instance, DEVICES)


def engines(p):
    """The engine that it begins on and the one that it goes on with, from the seed."""
    return ("trap", "hvm") if p[0] & 1 else ("hvm", "trap")


def save_play(p):
    """An undisturbed run, and one that is saved while it computes and again while it waits for input, and goes on each time."""
    first, second = engines(p)
    play = Play()
    play.step("start U @HV@ run --stats json --timeout 60 --engine %s --mem 8M --append procs=1\\_echo @DIR@/guest.elf" % first)
    play.step("await U type a line: ")
    play.type("U", LINE)
    play.step("end U")
    play.step("start A @HV@ run --stats json --control A.ctl --timeout 60 --engine %s --mem 8M --append procs=1\\_echo "
              "@DIR@/guest.elf" % first)
    play.step("await A course kernel")
    play.step("rest %d" % (p[1] % 250))
    play.step("ask A.ctl save one --quit --detach")
    play.step("end A")
    play.step("sections Fa one")
    play.restore("B", "one", "--engine " + second)
    play.step("await B type a line: ")
    play.step("ask B.ctl save two --quit --detach")
    play.step("end B")
    play.step("sections Fb two")
    play.restore("C", "two", "--engine " + first)
    play.type("C", LINE)
    play.step("end C")
    return play


def judge_file(t, name, hint):
    """The state in a file: groups in order, vCPUs last, the end."""
    messages, wrong = t.file(name)
    parts = [m for m in messages if m.type in (PART, CPU)]
    if wrong:
        return t.fail("a whole file", wrong, hint)
    if not parts or messages[-1].type != END or messages[-1].length:
        return t.fail("parts of state and then an empty END", "the last section is %s" % messages[-1].name, hint)
    for before, after in zip(parts, parts[1:]):
        if _group(after) < _group(before):
            return t.fail("%s before %s" % (NAMES[_group(after)], NAMES[_group(before)]),
                          "%s %d behind %s %d" % (after.name, after.instance, before.name, before.instance), hint)
    keys = [(m.type, m.instance) for m in parts]
    if len(set(keys)) != len(keys) or (CPU, 0) not in keys or (PART, 1) not in keys:
        return t.fail("each part once, the clock and vCPU 0 among them", str(keys), hint)
    return None


def save_verify(results, params):
    for name, result in results.items():
        t = told(result, save_play(params[name]))
        failure = t.failure(ORDER_HINT)
        if failure and not t.programs.get("Fa"):
            return failure
        failure = judge_file(t, "Fa", ORDER_HINT) or failure or judge_file(t, "Fb", ORDER_HINT)
        if failure:
            return failure
        whole, pieces = t["U"].out, t["A"].out + t["B"].out + t["C"].out
        if b"the kernel has ended" not in whole or not t["U"].ended_well:
            return t.fail("the course kernel to come to its end undisturbed", whole[-200:].decode("ascii", "replace"))
        if pieces != whole:
            at = next((i for i, (a, b) in enumerate(zip(pieces, whole)) if a != b), min(len(pieces), len(whole)))
            return t.fail("the transcript of an undisturbed run: ...%r" % whole[max(0, at - 30) : at + 60].decode("ascii", "replace"),
                          "...%r" % pieces[max(0, at - 30) : at + 60].decode("ascii", "replace"), ORDER_HINT)
        if not t["C"].ended_well:
            return t.fail("the kernel to end with code 0 where it was restored", "%s %d" % (t["C"].how, t["C"].number), ORDER_HINT)
    return None


# --- 5.6: the pieces of a vCPU ----------------------------------------------------------------------------------------------

PIECES_HINT = ("kvm_cpu_take() and kvm_cpu_put(): all pieces, and put back in an order in which each finds what it needs: "
               "special registers, then XCR0, then the XSAVE area; the local APIC before the MSR of its deadline; events at "
               "the end.")
MODES = ("deadline", "halt", "nmi", "step")  # guests/cpustate.c
TIMER_MS = 900
TIMES = ("tsc", "kvmclock", "kvmclock.flags", "ipis", "nmis")  # not the same before and behind
_SAID = re.compile(rb"(?m)^([ab])\.([A-Za-z0-9_.]+)=([0-9a-f]{1,16})\r?$")
MUST = {
    "fires": (1, "the local APIC's timer, armed before the VM was saved, fires once"),
    "early": (0, "the timer fires when it is due (cycles too early)"),
    "wakes": (1, "a HLT during which the VM was saved ends once, by the timer"),
    "ipis": (1, "the interrupt that was pending in the local APIC comes once"),
    "nmis": (2, "an NMI that came while one was handled comes behind it"),
    "nested": (0, "no NMI within an NMI: the vCPU was in one when it was saved (KVM_GET_VCPU_EVENTS)"),
    "silent": (0, "each #DB of a single step says BS in DR6"),
}


def pieces_play(p):
    play = Play()
    for number, mode in enumerate(MODES):
        a, b = "A%s" % mode, "B%s" % mode
        play.vm(a, "--engine kvm --mem 4M --append seed=%x\\_mode=%s\\_ms=%d" % (p[0] + number, mode, TIMER_MS))
        play.step("await %s ready" % a)
        play.step("ask %s.ctl save %s.vm --quit --detach" % (a, mode))
        play.step("end %s" % a)
        play.restore(b, mode + ".vm")
        if mode != "halt":
            play.type(b, "x")
    for mode in MODES:
        play.step("end B%s" % mode)
    return play


def _said(program, side):
    found = {}
    for which, key, value in _SAID.findall(program.out):
        if which == side:
            found.setdefault(key.decode(), []).append(int(value, 16))
    return found


def judge_mode(t, mode):
    """What a guest found when it went on, against what it had before."""
    before, then = _said(t["A" + mode], b"a"), _said(t["B" + mode], b"b")
    if not before:
        return t.fail("the guest to say what it has (mode %s)" % mode, "nothing", PIECES_HINT)
    if not then:
        return t.fail("the guest to go on from the file (mode %s)" % mode, "it says nothing", PIECES_HINT)
    for key, values in before.items():
        if key not in TIMES and then.get(key) != values:
            seen = then.get(key, [])
            at = next((i for i, (a, b) in enumerate(zip(values, seen)) if a != b), 0)
            return t.fail("%s as before: %#x (mode %s)" % (key, values[at], mode),
                          "%#x" % seen[at] if at < len(seen) else "nothing", PIECES_HINT)
    late = b"fired=" in t["A" + mode].out  # the timer came before the VM was saved: nothing can be said of it
    for key, (value, what) in MUST.items():
        if key in then and then[key] != [value] and not (late and key in ("fires", "early", "wakes")):
            return t.fail("%s: %d (mode %s)" % (what, value, mode), "%d" % then[key][0], PIECES_HINT)
    if mode == "step" and then.get("traps") != [19 * then.get("loops", [0])[0] + 3]:
        return t.fail("one #DB for each instruction while TF is set",
                      "%s in %s loops" % (then.get("traps"), then.get("loops")), PIECES_HINT)
    return None


def pieces_verify(results, params):
    t = told(results["pieces"], pieces_play(params["pieces"]))
    stopped = t.failure(PIECES_HINT)
    for mode in MODES:
        if stopped and "B" + mode not in t.programs:
            return stopped
        failure = judge_mode(t, mode)
        if failure:
            return failure
    return stopped


# --- 5.7: time --------------------------------------------------------------------------------------------------------------

TIME_HINT = "clock_gap(): 0 for a VM from a file; for one that moved, the time between its stop and its start."
AWAY = 1500  # ms
SLACK = 100  # ms


def file_play(p):
    play = Play()
    play.vm("A", "--engine kvm --mem 4M")
    play.step("await A ready")
    play.type("A", "t", "clock=")
    play.step("ask A.ctl save one --quit --detach")
    play.step("end A")
    play.step("rest %d" % AWAY)
    play.restore("B", "one")
    play.type("B", "t", "clock=")
    return play


def move_play(p):
    play = Play()
    play.incoming("B", "unix:b.sock", "--engine kvm --mem 4M")
    play.vm("A", "--engine kvm --mem 4M")
    play.step("relay R r.sock b.sock --times 1 --fault S:%d wait=%d" % (END, AWAY))
    play.step("await A ready")
    play.step("there r.sock")
    play.type("A", "t", "clock=")
    play.step("ask A.ctl migrate unix:r.sock --detach")
    play.step("end A")
    play.type("B", "t", "clock=")
    return play


def _at(play, text):
    """Numbers of the steps that begin so."""
    return [n for n in range(1, play.text().count("\n") + 1) if play.line(n).startswith(text)]


def judge_time(t, play, what):
    """The guest's clock between its two looks. Each is somewhere between a question and its answer, however long the test host takes for
    that; a VM that is a file need not have run at all."""
    a, b = t["A"].values("clock"), t["B"].values("clock")
    if not (a and b and t["A"].values("tsc") and t["B"].values("tsc")):
        return t.failure(TIME_HINT) or t.fail("the guest to tell the time before and behind", "nothing", TIME_HINT)
    (asked, asked_again), (told_a, told_b) = _at(play, "type"), _at(play, "answer")
    most, least = t.times[told_b] - t.times[asked - 1], t.times[asked_again - 1] - t.times[told_a]
    for rest in _at(play, "rest"):
        most, least = most - (t.times[rest] - t.times[rest - 1]), 0
    clock = (b[0] - a[0]) / 1e6
    if not least - SLACK <= clock <= most + SLACK:
        return t.fail("%s: the guest's clock (kvmclock) goes on by %d to %d ms" % (what, least, most), "%d ms" % clock, TIME_HINT)
    return None


def tsc_verify(t, what):
    """The TSC has gone on, too."""
    a, b = t["A"].values("tsc"), t["B"].values("tsc")
    if len(a) < 1 or len(b) < 1 or b[0] <= a[0]:
        return t.fail("%s: a TSC that goes on" % what, "%s, then %s" % (a, b), TIME_HINT)
    return None


def time_verify(results, params):
    failure = rules.gaps(params["gap"][0]).judge(results["gap"]) or streamscript.ended(results["gap"])
    if failure:
        return failure
    for name, play, what in (("file", file_play(None), "saved and restored"), ("moved", move_play(None), "moved")):
        t = told(results[name], play)
        failure = judge_time(t, play, what) or tsc_verify(t, what)
        if failure:
            return failure
    return None


# --- 5.8: what does not fit -------------------------------------------------------------------------------------------------

FIT_HINT = "cpuid_covers(): -ENOTSUP and a sentence that names the leaf, the register and the bit."


def _text(s):
    return struct.pack("<H", len(s)) + s.encode()


def _config(mem):
    return _text("kvm") + _text("kvm") + struct.pack("<QII", mem, 1, 0)


def _cpuid(rng):
    """More than any CPU has: every feature of leaves 1 and 7."""
    leaves = ((0, 0, [0xD, 0x68747541, 0x444D4163, 0x69746E65]), (1, 0, [0x800F12, 0, 0xFFFFFFFF, 0xFFFFFFFF]),
              (7, 0, [1, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF]))
    return struct.pack("<I", len(leaves)) + b"".join(struct.pack("<7I", function, index, 1, *registers)
                                                     for function, index, registers in leaves)


def fit_file(p):
    rng = random.Random(p[0])
    data = streamfile.header(rng.getrandbits(63) | 1)
    for number, (type_, payload) in enumerate(((streamfile.CONFIG, _config(4 << 20)), (streamfile.CPUID, _cpuid(rng)),
                                               (streamfile.PAGES, streamfile.pages(0, 1024, streamfile.ZERO)))):
        data += streamfile.section(type_, payload, sequence=number)
    return data


def fit_play(p):
    play = Play()
    play.restore("R", "@DIR@/strange")
    play.step("end R")
    for name, options in (("D", "--engine kvm --mem 8M"), ("E", "--engine trap --mem 4M"), ("F", "--engine kvm --mem 4M --rng")):
        play.incoming(name, "unix:%s.sock" % name, options)
    play.vm("A", "--engine kvm --mem 4M")
    play.step("await A ready")
    for name in "DEF":
        play.step("there %s.sock" % name)
        play.step("ask A.ctl migrate unix:%s.sock --detach" % name)
        play.step('poll A.ctl job | "state":"failed" | "state":"done"')
        play.step("end %s" % name)
    play.type("A", "h", "hash=")
    return play


def fit_verify(results, params):
    failure = rules.tables(params["rule"][0]).judge(results["rule"]) or streamscript.ended(results["rule"])
    if failure:
        return failure
    play = fit_play(params["refused"])
    t = told(results["refused"], play)
    failure = t.failure(FIT_HINT)
    if failure:
        return failure
    if t["R"].how != "status" or not t["R"].number or b"CPUID" not in t["R"].err:
        return t.fail("a file of a VM that has seen more features than there are to be refused, with a sentence about CPUID",
                      "%s %d: %s" % (t["R"].how, t["R"].number, t["R"].err[:200].decode("ascii", "replace")), FIT_HINT)
    for name, step in zip("DEF", _at(play, "poll A.ctl job")):
        job = t.job(step)
        if job.get("state") != "failed" or not t[name].number or b"hv: " not in t[name].err:
            return t.fail("another machine to refuse the VM, and to end with a sentence",
                          "the migration is %s; the destination %s ended with %s %d" %
                          (job.get("state"), name, t[name].how, t[name].number))
    return None


CHECKPOINTS = [
    Checkpoint(
        "5.5", "state, in order", 8,
        "machine_save() and machine_load(): the course kernel, saved while it computes and while it waits, goes on from the "
        "file, on the trap engine and the hvm engine by turns, and its transcript is that of an undisturbed run.",
        "machine_save() and machine_load() in state.c.",
        runs=[staging.staged("kernel", save_play, lambda rng: [rng.getrandbits(30), rng.getrandbits(30)], guest=KERNEL,
                             timeout=20.0, patched=False)],
        verify=save_verify, depends=["5.4"]),
    Checkpoint(
        "5.6", "the pieces of a vCPU", 7,
        "A vCPU of the kvm engine is saved and restored with all that it has: x87, SSE and AVX, MSRs, debug registers, local "
        "APIC, a timer that is armed, an interrupt that is pending, an NMI that is being handled.",
        "kvm_cpu_take() and kvm_cpu_put() in state.c.",
        runs=[staging.staged("pieces", pieces_play, lambda rng: [rng.getrandbits(60)], guest="lab5/cpustate.elf",
                             patched=False)], verify=pieces_verify, depends=["5.5"]),
    Checkpoint(
        "5.7", "time", 5,
        "The guest's clocks neither jump nor stall: from a file they go on where they stopped, and of a VM that moved they "
        "have counted the time on its way.",
        "clock_gap() in state.c.",
        runs=[streamscript.stream("gap", rules.gaps), staging.staged("file", file_play), staging.staged("moved", move_play)],
        verify=time_verify, depends=["5.6"]),
    Checkpoint(
        "5.8", "what does not fit", 5,
        "A machine that lacks what the guest has seen is refused, with a sentence that says what, before anything runs.",
        "cpuid_covers() in state.c.",
        runs=[streamscript.stream("rule", rules.tables), staging.staged("refused", fit_play, files=lambda p: {"strange": fit_file(p)})],
        verify=fit_verify, depends=["5.5"]),
]
