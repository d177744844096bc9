"""The ladder: which checkpoints there are, in which order they depend on each other, and what became of each."""

import importlib.util
import os
import random
import signal
import traceback
from dataclasses import dataclass, field
from typing import Optional

from escape import visible
from model import (BOCHS, HV_GUEST_FAILED, HV_HOST, HV_OK, HV_STOPPED, HV_TODO, HV_USAGE, PARAMS, QEMU, Checkpoint, Failure,
                   GraderError, UsageError)
from signatures import describe_end

PASSED, FAILED, BLOCKED, ERROR = "passed", "failed", "blocked", "error"
NOT_CHECKED = "not checked"  # none of its runs is for a host that is there: it counts neither way


def load(lab_dir):
    """(title, checkpoints) of a lab's checkpoints.py. Checks what would otherwise be found by a confused student."""
    path = os.path.join(lab_dir, "checkpoints.py")
    spec = importlib.util.spec_from_file_location("checkpoints", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        checkpoints = list(module.CHECKPOINTS)
        check_ladder(checkpoints)
        return module.TITLE, checkpoints
    except GraderError:
        raise
    except Exception:
        raise GraderError("%s cannot be used:\n%s" % (path, traceback.format_exc())) from None


def check_ladder(checkpoints):
    seen = set()
    for c in checkpoints:
        if not isinstance(c, Checkpoint):
            raise GraderError("checkpoints.py: %r is not a Checkpoint" % (c,))
        if c.id in seen:
            raise GraderError("checkpoints.py: %s occurs twice" % c.id)
        for name in c.depends:
            if name not in seen:
                raise GraderError("checkpoints.py: %s depends on %s, which does not come before it" % (c.id, name))
        names = [run.name for run in c.runs]
        if not names or len(set(names)) != len(names):
            raise GraderError("checkpoints.py: the runs of %s need different names" % c.id)
        if any(not run.hosts or not set(run.hosts) <= {QEMU, BOCHS} for run in c.runs):
            raise GraderError("checkpoints.py: a run of %s names a host that there is not, or none" % c.id)
        if not (c.title and c.requirement and c.hint and c.points > 0):
            raise GraderError("checkpoints.py: %s needs a title, points, a requirement and a hint" % c.id)
        seen.add(c.id)


def select(checkpoints, wanted):
    """All checkpoints, or the one that was asked for."""
    if wanted is None:
        return checkpoints
    chosen = [c for c in checkpoints if c.id == wanted]
    if not chosen:
        raise UsageError("There is no checkpoint %s. Checkpoints: %s." % (visible(wanted, 40), ", ".join(c.id for c in checkpoints)))
    return chosen


def make_params(checkpoint, run, seed):
    """The run's numbers. They depend on the seed, the checkpoint and the run alone, so that a replay has the same."""
    if run.params is None:
        return []
    values = [int(v) for v in run.params(random.Random("%d/%s/%s" % (seed, checkpoint.id, run.name)))]
    if len(values) > PARAMS:
        raise GraderError("checkpoints.py: %s has more than %d params" % (checkpoint.id, PARAMS))
    return padded(values)


def padded(params):
    return list(params) + [0] * (PARAMS - len(params))


@dataclass
class Verdict:
    """What became of a checkpoint."""

    checkpoint: Checkpoint
    hosts: tuple = (QEMU,)  # on which it has runs
    status: str = ""
    failure: Optional[Failure] = None
    message: str = ""  # one sentence
    result: object = None  # the run that the message is about
    results: dict = field(default_factory=dict)  # host, name of the run -> RunResult
    log: str = ""  # path below the root
    guest: str = ""  # the failed run's guest with its numbers: path below the root

    @property
    def points(self):
        return self.checkpoint.points if self.status == PASSED else 0

    @property
    def max_points(self):
        return self.checkpoint.points if self.status != NOT_CHECKED else 0

    def labelled(self):
        """(what to call the run, its result) of all results."""
        return [(name if len(self.hosts) == 1 else "%s on %s" % (name, host), r) for (host, name), r in self.results.items()]


class Ladder:
    """Verdicts of the selected checkpoints, as their runs come in.

    pairs(checkpoint) gives the (host, run) that are made. Hosts run side by side, so a checkpoint may be decided before one that
    it depends on; it is settled, and nothing changes any more, when all before it in the ladder are.
    """

    def __init__(self, checkpoints, seed, pairs=lambda checkpoint: [(QEMU, run) for run in checkpoint.runs]):
        self.seed = seed
        self._pairs = {c.id: pairs(c) for c in checkpoints}
        self.verdicts = {c.id: Verdict(c, tuple(dict.fromkeys(host for host, _ in self._pairs[c.id]))) for c in checkpoints}
        for verdict in self.verdicts.values():
            if not verdict.hosts:
                verdict.status = NOT_CHECKED
        self._unsettled = list(checkpoints)

    def blocker(self, checkpoint):
        """The selected checkpoint that failed or will not be tried, and so keeps this one from being tried."""
        for name in checkpoint.depends:
            other = self.verdicts.get(name)
            if not other:
                continue
            if other.status in (FAILED, BLOCKED, ERROR):
                return name
            deeper = self.blocker(other.checkpoint)
            if deeper:
                return deeper if other.status == NOT_CHECKED else name
        return None

    def settle(self):
        """Yields the checkpoints whose verdicts are final now, in the order of the ladder, each once."""
        while self._unsettled:
            checkpoint = self._unsettled[0]
            verdict = self.verdicts[checkpoint.id]
            blocker = verdict.status != NOT_CHECKED and self.blocker(checkpoint)
            if blocker:
                self.block(checkpoint, blocker)
            if not verdict.status:
                return
            del self._unsettled[0]
            yield checkpoint

    def block(self, checkpoint, name):
        """Whatever its runs showed: without the other one that proves nothing."""
        verdict = self.verdicts[checkpoint.id]
        verdict.status, verdict.failure, verdict.result = BLOCKED, None, None
        verdict.message = "blocked by %s" % name

    def error(self, checkpoint, sentence):
        self.verdicts[checkpoint.id].status = ERROR
        self.verdicts[checkpoint.id].message = sentence

    def fail(self, checkpoint, failure, message="", result=None):
        verdict = self.verdicts[checkpoint.id]
        verdict.status, verdict.failure, verdict.result = FAILED, failure, result
        verdict.message = message or "expected %s, saw %s" % (visible(failure.expected, 160), visible(failure.seen, 160))

    def add(self, checkpoint, run, result):
        """Takes a run's result. Judges the checkpoint when it was the last or nothing can save it; returns True then."""
        verdict = self.verdicts[checkpoint.id]
        verdict.results[result.host, run.name] = result
        if verdict.status:
            return False  # another host's runs have decided it
        failure = _ended_wrongly(run, result) or (run.vm and _never_ran(result))
        if failure:
            self.fail(checkpoint, failure, result=result)
            return True
        results = {name: r for (host, name), r in verdict.results.items() if host == result.host}
        if len(results) == sum(host == result.host for host, _ in self._pairs[checkpoint.id]):
            self._judge(checkpoint, verdict, results)
        return bool(verdict.status)

    def _judge(self, checkpoint, verdict, results):
        """All runs on one host are there. The last host that has nothing against the checkpoint lets it pass."""
        try:
            failure = checkpoint.verify(results, {name: r.params for name, r in results.items()})
        except Exception:
            self.error(checkpoint, "the grader's own check failed:\n" + traceback.format_exc())
            return
        if failure:
            self.fail(checkpoint, failure, result=results.get(failure.run) or next(iter(results.values())))
        elif len(verdict.results) == len(self._pairs[checkpoint.id]):
            verdict.status, verdict.message = PASSED, ""


def _ended_wrongly(run, result):
    if run.kill_at and result.signal == signal.SIGKILL and not result.timed_out:
        return None  # as it was to be
    if run.ends is None and not (result.signal or result.timed_out or result.host_trouble):
        return None
    if result.status is not None and not result.host_trouble and (run.ends is None or result.status in run.ends):
        return None
    if run.ends is None:
        return Failure("hv to end by itself", describe_end(result))
    return Failure(" or ".join(_ENDS.get(status, "hv to end with status %d" % status) for status in run.ends), describe_end(result))


_ENDS = {
    HV_OK: "the guest to run to its end (hv's status 0)",
    HV_GUEST_FAILED: "the guest to end itself with its exit code (hv's status 1)",
    HV_STOPPED: "hv to stop the VM with a reason (hv's status 4)",
}


def _never_ran(result):
    """The witness saw no virtual machine run at all, whatever the program printed. A program that says itself that it could
    not run one is left to verify()."""
    if result.witness is None or result.witness.exits or result.status in (HV_TODO, HV_HOST, HV_USAGE):
        return None
    return Failure("the guest to run in a virtual machine", "no virtual machine ran while hv was running",
                   "KVM in the test host counted no exit at all: what hv printed did not come from a guest.")
