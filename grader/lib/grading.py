"""One grading from beginning to end: build, boot, judge, write the logs."""

import os
import time
from glob import glob

from elf import patch_params
from escape import block, visible
from jobs import Job, Limits
from ladder import BLOCKED, ERROR, FAILED, PASSED, Ladder, make_params
from model import Failure, GraderError, RunResult
from native import NativeHost
from signatures import describe_end
from solution import compile_hv, make_parts
from testhost import QemuHost, needs_kernel

HV = "/bin/hv"  # in the jail; where several share a boot, each has a number behind it

COMPILE_HINT = "Begin with the first error: the later ones are often its consequences. The whole output is in log/build.log."
LINK_HINT = "Every function that the lab's headers declare must be in your files, with its own name and not static."


def first_errors(output, lines=12):
    """The compiler's first error and what it shows with it."""
    text = [line for line in output.splitlines() if not line.startswith("make: ***") or "No rule" in line]
    start = next((i for i, line in enumerate(text) if "error:" in line or "undefined reference" in line), None)
    if start is None:
        start = max(0, len(text) - lines)
    return "\n".join(text[start : start + lines])


class Grading:
    """options: the parsed command line. progress: told what happens, see report.py."""

    def __init__(self, root, lab, title, solution, checkpoints, seed, host, progress):
        self.root, self.lab, self.title, self.solution = root, lab, title, solution
        self.checkpoints, self.seed, self.host_name, self.progress = checkpoints, seed, host, progress
        self.ladder = Ladder(checkpoints, seed)
        self.work = os.path.join(root, "build", "grade", "lab%d" % lab, solution.tag)
        self.logs = os.path.join(self.work, "log")
        self.hv = HV
        self.seconds = 0.0
        self.host_facts = {}
        self.errors_of_compiler = ""
        self._images = {}  # (checkpoint id, run name) -> guest with its numbers, as it was booted
        os.makedirs(self.logs, exist_ok=True)

    def run(self):
        begin = time.monotonic()
        try:
            self._run()
        finally:
            self.seconds = time.monotonic() - begin

    def _run(self):
        hv = self._build()
        if not hv:
            return
        programs = {self.hv: hv}
        self.progress.stage("starting the test host" if self.host_name == "qemu" else "starting")
        console = []
        host = QemuHost(self.root, programs, console.append) if self.host_name == "qemu" else NativeHost(programs)
        try:
            host.run(self._jobs(), self._wanted, self._done, self._started)
        finally:
            self._write_log("testhost", "".join(console).splitlines())
        self.host_facts = dict(host.facts, boots=host.boots)

    def _build(self):
        """The file of hv with this solution in it, or None when all verdicts are there already: it cannot be compiled."""
        if self.solution.problems:
            self._not_built("a solution that can be compiled", "\n".join(self.solution.problems),
                            "Nothing was compiled. " + " ".join(self.solution.problems))
            return None
        self.progress.stage("building")
        targets = {"build/guests/" + run.guest for c in self.checkpoints for run in c.runs if run.guest}
        # The frame on its own first: if that does not compile, it is not the student's fault.
        targets |= {"build/frame/%s.o" % os.path.basename(name)[:-2] for name in glob(os.path.join(self.root, "labs/common/hv/*.c"))}
        if self.host_name == "qemu" and needs_kernel(self.root):
            targets.add("testhost")
        make_parts(self.root, sorted(targets))
        hv, output = compile_hv(self.root, self.solution, self.work)
        self._write_log("build", output.splitlines())
        if not hv:
            self.errors_of_compiler = first_errors(output)
            hint = LINK_HINT if "undefined reference" in self.errors_of_compiler else COMPILE_HINT
            self._not_built("the lab's files to compile", self.errors_of_compiler, "It does not compile.", hint)
            return None
        return hv

    def _not_built(self, expected, seen, message, hint=None):
        head, *rest = self.checkpoints
        self.ladder.fail(head, Failure(expected, seen, hint), message)
        self._judged(head)
        for checkpoint in rest:
            self.ladder.block(checkpoint, head.id)
            self.ladder.verdicts[checkpoint.id].message = "blocked: nothing could be compiled"
            self._judged(checkpoint)

    def _guest(self, name):
        try:
            with open(os.path.join(self.root, "build", "guests", name), "rb") as f:
                return f.read()
        except OSError as e:
            raise GraderError("The test guest build/guests/%s cannot be read: %s." % (name, e.strerror)) from None

    def _jobs(self):
        jobs = []
        for checkpoint in self.checkpoints:
            for run in checkpoint.runs:
                params = make_params(checkpoint, run, self.seed)
                files = {}
                if run.guest:
                    image = self._guest(run.guest)
                    patched = run.params and not callable(run.args)
                    files["guest.elf"] = patch_params(image, params, run.guest) if patched else image
                    self._images[checkpoint.id, run.name] = files["guest.elf"]
                args = run.args(params) if callable(run.args) else run.args
                command = run.command(params) if callable(run.command) else run.command
                argv = list(command) or [HV, "run", "--stats", "json", "--timeout", "@SECONDS@", *args, "@DIR@/guest.elf"]
                argv[0] = self.hv if argv[0] == HV else argv[0]
                stdin = run.stdin(params) if callable(run.stdin) else run.stdin
                jobs.append(Job((checkpoint, run, params), argv, files, stdin, Limits(seconds=run.timeout)))
        return jobs

    def _wanted(self, job):
        checkpoint = job.key[0]
        if self.ladder.verdicts[checkpoint.id].status:
            return False
        blocker = self.ladder.blocker(checkpoint)
        if not blocker:
            return True
        self.ladder.block(checkpoint, blocker)
        self._judged(checkpoint)
        return False

    def _started(self, job):
        checkpoint, run, _ = job.key
        self.progress.stage("%s %s" % (checkpoint.id, run.name))

    def _done(self, job, outcome):
        checkpoint, run, params = job.key
        if outcome.grader_trouble:
            self.ladder.error(checkpoint, outcome.grader_trouble)
            self._judged(checkpoint)
            return
        result = RunResult(
            run.name, outcome.code, outcome.signal, outcome.timed_out, outcome.stdout, outcome.stderr, outcome.witness, params,
            outcome.wall_ms, outcome.cpu_ms, outcome.maxrss_kib, outcome.left, outcome.host_trouble, tuple(job.argv),
        )
        if self.ladder.add(checkpoint, run, result):
            self._judged(checkpoint)

    def _judged(self, checkpoint):
        verdict = self.ladder.verdicts[checkpoint.id]
        verdict.log = os.path.relpath(self._write_log(checkpoint.id, self._log_lines(verdict)), self.root)
        verdict.guest = self._keep_guest(verdict)
        self.progress.judged(verdict)

    def _keep_guest(self, verdict):
        """The guest that a failure is about, beside the log, so that it can be run again by hand. Its path below the root, or ''."""
        run = verdict.result.name if verdict.status == FAILED and verdict.result else None
        image = self._images.get((verdict.checkpoint.id, run))
        if image is None:
            return ""
        path = os.path.join(self.logs, "%s-%s.elf" % (verdict.checkpoint.id, run))
        with open(path, "wb") as f:
            f.write(image)
        return os.path.relpath(path, self.root)

    def _log_lines(self, verdict):
        c = verdict.checkpoint
        lines = ["checkpoint %s: %s" % (c.id, c.title), "status: %s" % verdict.status, "seed: %d" % self.seed]
        if verdict.message:
            lines += ["message:"] + block(verdict.message, 200)
        for name, r in verdict.results.items():
            lines += ["", "run %s: %s" % (name, " ".join(r.command)), "  %s" % describe_end(r)]
            lines.append("  %d ms, of which computing %d ms; %d KiB; %d processes left behind" %
                         (r.wall_ms, r.cpu_ms, r.maxrss_kib, r.left))
            if r.params:
                lines.append("  params: " + " ".join("%#x" % p for p in r.params))
            if r.witness:
                ports = ", ".join("%#x: %d" % (port, n) for port, n in sorted(r.witness.pio.items()))
                lines.append("  counted by the kernel: %d exits; port writes: %s" % (r.witness.exits, ports or "none"))
            for title, capture in (("console", r.stdout), ("stderr", r.stderr)):
                lines += ["  %s, %d bytes:" % (title, capture.total)] + block(capture.data, 4000, 1000, "    | ")
        return lines

    def _write_log(self, name, lines):
        path = os.path.join(self.logs, name + ".log")
        with open(path + ".new", "w", encoding="ascii", errors="backslashreplace") as f:
            f.write("\n".join(lines) + "\n")
        os.replace(path + ".new", path)
        return path

    # --- the result ---------------------------------------------------------------------------------------------------

    @property
    def verdicts(self):
        return list(self.ladder.verdicts.values())

    @property
    def score(self):
        return sum(v.points for v in self.verdicts)

    @property
    def max_score(self):
        return sum(c.points for c in self.checkpoints)

    def exit_status(self):
        """0 all passed, 1 something failed, 3 something could not be judged."""
        states = {v.status for v in self.verdicts}
        if ERROR in states:
            return 3
        return 1 if states & {FAILED, BLOCKED} else 0

    def replay(self, verdict):
        solution = visible(self.solution.label, 300)
        if not solution.replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum():
            solution = "'%s'" % solution.replace("'", "'\\''")
        command = "./grader/grade %d" % self.lab
        if self.solution.label != "labs":
            command += " --solution " + solution
        if self.host_name != "qemu":
            command += " --host " + self.host_name
        return command + " --checkpoint %s --seed %d" % (verdict.checkpoint.id, self.seed)


def run_together(root, gradings):
    """Several gradings in one boot of the test host. Its console is in the first one's log."""
    programs, jobs, owner, console = {}, [], {}, []
    for number, grading in enumerate(gradings):
        grading.hv = "%s-%d" % (HV, number)
        hv = grading._build()
        if not hv:
            continue
        programs[grading.hv] = hv
        for job in grading._jobs():
            owner[id(job)] = grading
            jobs.append(job)
    host = QemuHost(root, programs, console.append)
    try:
        host.run(jobs, lambda job: owner[id(job)]._wanted(job), lambda job, outcome: owner[id(job)]._done(job, outcome))
    finally:
        gradings[0]._write_log("testhost", "".join(console).splitlines())


__all__ = ["Grading", "run_together", "first_errors", "PASSED", "FAILED", "BLOCKED", "ERROR"]
