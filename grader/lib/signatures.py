"""Failures that look alike have a name. Each signature recognises one from what a run left behind, and says what it usually
means. They explain a failure; they never decide whether there is one.
"""

import re
import signal

from escape import visible
from model import HV_GUEST_FAILED, HV_HOST, HV_STOPPED, HV_TIMEOUT, HV_TODO, HV_USAGE

_EXIT_LINE = re.compile(r"^exit \d+\s+(.*?)\s+rip (0x[0-9a-f]+)", re.M)
NOT_WRITTEN = "not written yet"
UNHANDLED_TRAP = 0xEE  # the exit code of a guest (labs/common/guest/desc.h)
MANY = 1000  # exits of a guest that does only a few things

# A guest that runs for seconds is interrupted by its host's timer, hundreds of times a second (APM vol. 2, appendix C).
SVM_INTR = 0x60
INTERRUPTED = 50


def _stderr(result):
    return result.stderr.data.decode("utf-8", "replace")


def _messages(result):
    """hv's own sentences on stderr, without the line of statistics."""
    lines = [line for line in _stderr(result).splitlines() if line.strip() and not line.startswith("{")]
    return [line for line in lines if line.startswith("hv:")] or lines


def _exits(result):
    exits = (result.stats or {}).get("exits")
    return exits if isinstance(exits, int) else None


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def describe_end(result):
    """How the run ended, in one sentence without a full stop."""
    if result.host_trouble:
        return result.host_trouble
    if result.timed_out:
        return "hv did not end even after its own time limit, and was killed"
    if result.signal:
        return "hv was killed by %s" % signal_name(result.signal)
    reason = result.reason or (_messages(result) or [""])[-1]
    reason = (": " + visible(reason, 300)) if reason else ""
    names = {
        0: "hv ended normally (status 0)",
        HV_GUEST_FAILED: "the guest ended itself with an exit code that is not 0 (hv's status 1)",
        HV_USAGE: "hv refused its command line or the image (status 2)",
        HV_HOST: "hv says that the machine lacks something (status 3)",
        HV_STOPPED: "hv stopped the VM (status 4)",
        HV_TODO: "hv reached a step that is not written yet (status 5)",
        HV_TIMEOUT: "the guest was still running when the time was up (status 124)",
    }
    return names.get(result.status, "hv ended with status %s" % result.status) + reason


def _todo(result):
    if result.status == HV_TODO:
        said = visible((_messages(result) or [result.reason])[-1], 500)
        return NOT_WRITTEN, "Write this step first: " + said


def _crash(result):
    if result.signal in (signal.SIGSEGV, signal.SIGBUS):
        return "hv crashed", (
            "hv itself read or wrote memory that it does not have. Usual causes: a guest address used as a pointer without "
            "guest_read() or guest_write(), a field of kvm_run read before it was mapped, an index from the guest used unchecked. "
            "Build with SAN=1 beside LAB= (make hv LAB=... SAN=1) and run the guest again: the sanitizer names the line.")
    if result.signal == signal.SIGABRT:
        return "hv aborted", "A check inside hv or the C library failed; the last lines of stderr in the log say which."
    if result.signal == signal.SIGXCPU:
        return "hv used up its CPU time", "hv was computing, not waiting: look for a loop in the emulation that never ends."
    if result.signal == signal.SIGKILL:
        return "hv was killed", "It used more memory or CPU time than a job may have."
    if result.signal:
        return "hv was killed by %s" % signal_name(result.signal), "The log has what it printed before."


def _host(result):
    if result.status != HV_HOST:
        return None
    text = _stderr(result)
    if "/dev/kvm" in text and ("open" in text or "no such" in text.lower() or "permission" in text.lower()):
        return "no usable /dev/kvm", (
            "This machine offers no KVM to your user. Grade in the test host instead (--host qemu, the default), or see `make "
            "doctor`.")
    return "KVM refused", (
        "KVM did not accept what machine.c asked of it. The sentence on stderr names the call: check its arguments, their order, "
        "and that each file descriptor is the one the call belongs to.")


def _rejected_state(result):
    text = result.reason + _stderr(result)
    if re.search(r"KVM_EXIT_FAIL_ENTRY|entry failed|fail_entry|KVM_EXIT_INTERNAL_ERROR|internal error|monitor itself faulted", text, re.I):
        return "the machine rejected the state", (
            "hv resumed the guest with a state that no CPU can have. Usual causes: a RIP that is not canonical, reserved bits set "
            "in RFLAGS or a control register, a selector or base put into the wrong field.")


def _triple_fault(result):
    if re.search(r"triple fault", result.reason + _stderr(result), re.I):
        return "triple fault", (
            "An exception could not be delivered, nor the double fault that followed. Look at the first exception, not at the "
            "last: run the guest with --trace exits and find what it was doing before. (SDM vol. 3, 6.15)")


def _same_rip(result):
    places = _EXIT_LINE.findall(_stderr(result))[-20:]
    if len(places) >= 10 and len(set(places)) == 1:
        kind, rip = places[0]
        return "the same instruction traps again and again", (
            "%s at rip %s repeats without end: the instruction was emulated, but the guest was resumed at it and not behind it. "
            "Add the instruction's length to v->rip." % (visible(kind, 30), rip))


def _endless(result):
    """Without a trace, endless repetition shows as one kind of instruction that is emulated far too often."""
    if result.status != HV_TIMEOUT and not result.timed_out:
        return None
    exits, stats = _exits(result), result.stats or {}
    seen = result.witness.exits if result.witness else exits
    if exits is None and seen is None:
        return None
    traps = exits if exits is not None else seen
    emulated = stats.get("emulated")
    if traps >= MANY:
        if isinstance(emulated, dict) and emulated:
            counts = [(n, name) for name, n in emulated.items() if isinstance(n, int)]
            if counts:
                most, name = max(counts)
                if most > 0.9 * sum(n for n, _ in counts):
                    return "the same instruction traps again and again", (
                        "`%s` was emulated %d times. Probably the guest is resumed at the instruction that trapped and not behind it: "
                        "v->rip must grow by the instruction's length." % (visible(name, 20), most))
        return "the guest traps without end", (
            "%d exits and no end. Probably the guest is resumed at the instruction that trapped and not behind it, or it waits for "
            "a value that your code never gives it. See what repeats: hv run --trace exits." % traps)
    if result.cpu_ms < result.wall_ms // 3:
        return "the guest sleeps for ever", (
            "%d exits, and then nothing happened and nothing was computed. Usual causes: the guest halted and waits for an interrupt "
            "that never comes, or a thread of hv waits for a lock that it holds itself." % traps)
    if result.witness and result.witness.reasons[SVM_INTR] < INTERRUPTED:
        return "hv loops", (
            "%d exits, and then the virtual machine was not entered again while hv went on computing: look for a loop in your code "
            "that never ends." % traps)
    return "the guest loops without trapping", (
        "Only %d exits, then the guest ran on its own until the time was up: it is in a loop that hv never sees. Usual causes: it "
        "waits for an interrupt that is never delivered, or was resumed at a wrong address." % traps)


def _stopped(result):
    if result.status == HV_STOPPED and result.reason:
        return "the VM was stopped", visible(result.reason, 400)


def _host_died(result):
    if result.host_trouble:
        return "the test host died", (
            "The program brought down the virtual machine that it was tested in, twice. The log has the console of that machine.")


def _unexpected(result):
    if result.status == HV_GUEST_FAILED and (result.stats or {}).get("guest_code") == UNHANDLED_TRAP and result.lines.get("vector"):
        vector, rip = result.lines["vector"][-1], result.lines.get("rip", [0])[-1]
        return "the guest took an exception that it did not expect", (
            "Vector %d arrived at rip 0x%x, for which this guest has no handler. Either it should not have been raised there, or an "
            "exception that the guest was waiting for did not come and it ran on. The lines that the guest printed before (--verbose) "
            "tell which of its trials was the last." % (vector, rip))


SIGNATURES = (_host_died, _todo, _crash, _host, _rejected_state, _triple_fault, _same_rip, _endless, _stopped, _unexpected)


def recognise(result):
    """(name, explanation) of the first signature that fits, or None."""
    for signature in SIGNATURES:
        found = signature(result)
        if found:
            return found
    return None
