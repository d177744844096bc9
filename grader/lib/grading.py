"""One grading from beginning to end: build, boot, judge, write the logs."""

import os
import threading
import time
from glob import glob

from elf import patch_params
from escape import block, visible
from jobs import Job, Limits
from hosts import make_host, needed_targets
from ladder import BLOCKED, ERROR, FAILED, NOT_CHECKED, PASSED, Ladder, make_params, padded
from model import NATIVE, QEMU, Failure, GraderError, Image, RunResult
from signatures import describe_end
from solution import compile_hv, make_parts
from testhost import TOOLS, build_program

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
    """hosts: a Hosts. progress: told what happens, see report.py."""

    def __init__(self, root, lab, title, solution, checkpoints, seed, hosts, progress):
        self.root, self.lab, self.title, self.solution = root, lab, title, solution
        self.checkpoints, self.seed, self.hosts, self.progress = checkpoints, seed, hosts, progress
        self.ladder = Ladder(checkpoints, seed, hosts.pairs)
        self._lock = threading.Lock()  # hosts that run side by side report to one ladder
        self.work = os.path.join(root, "build", "grade", "lab%d" % lab, solution.tag)
        self.logs = os.path.join(self.work, "log")
        self.hv = HV
        self.seconds = 0.0
        self.host_facts = {}  # of each host, by its name
        self.errors_of_compiler = ""
        self._files = {}  # (checkpoint id, run name) -> its files: the guest with its numbers, as it was booted, and others
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
        names = [name for name in self.hosts.names if any(self.hosts.runs(c, name) for c in self.checkpoints)]
        self.progress.stage("starting" if names == [NATIVE] else "starting the test host%s" % ("s" if len(names) > 1 else ""))
        run_hosts(self.root, {self.hv: hv}, {name: self._jobs(name) for name in names}, lambda job: self)

    def _build(self):
        """The file of hv with this solution in it, or None when all verdicts are there already: it cannot be compiled."""
        if self.solution.problems:
            self._not_built("a solution that can be compiled", "\n".join(self.solution.problems),
                            "Nothing was compiled. " + " ".join(self.solution.problems))
            return None
        self.progress.stage("building")
        targets = {"build/guests/" + guest for c in self.checkpoints for run in c.runs for guest in (run.guest, *run.others) if guest}
        # The frame on its own first: if that does not compile, it is not the student's fault.
        targets |= {"build/frame/%s.o" % os.path.basename(name)[:-2] for name in glob(os.path.join(self.root, "labs/common/hv/*.c"))}
        targets |= {"tools"} | needed_targets(self.root, self.hosts.names)
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
        head, *rest = [c for c in self.checkpoints if self.ladder.verdicts[c.id].status != NOT_CHECKED]
        self.ladder.fail(head, Failure(expected, seen, hint), message)
        for checkpoint in rest:
            self.ladder.block(checkpoint, head.id)
        for checkpoint in self.ladder.settle():
            if checkpoint in rest:
                self.ladder.verdicts[checkpoint.id].message = "blocked: nothing could be compiled"
            self._judged(checkpoint)

    def _guest(self, name):
        try:
            with open(os.path.join(self.root, "build", "guests", name), "rb") as f:
                return f.read()
        except OSError as e:
            raise GraderError("The test guest build/guests/%s cannot be read: %s." % (name, e.strerror)) from None

    def _jobs(self, host):
        jobs = []
        for checkpoint in self.checkpoints:
            for run in self.hosts.runs(checkpoint, host):
                params = make_params(checkpoint, run, self.seed)
                files = {}
                if run.guest:
                    image = self._guest(run.guest)
                    patched = run.params and not callable(run.args)
                    files["guest.elf"] = patch_params(image, params, run.guest) if patched else image
                for name, content in (run.files(params) if callable(run.files) else run.files).items():
                    if isinstance(content, Image):
                        content = patch_params(self._guest(content.guest), padded(content.params), content.guest)
                    files[name] = content.encode() if isinstance(content, str) else content
                self._files[checkpoint.id, run.name] = files
                args = run.args(params) if callable(run.args) else run.args
                command = run.command(params) if callable(run.command) else run.command
                argv = list(command) or [HV, "run", "--stats", "json", "--timeout", "@SECONDS@", *args, "@DIR@/guest.elf"]
                argv = [self.hv if arg == HV else arg for arg in argv]
                stdin = run.stdin(params) if callable(run.stdin) else run.stdin
                limits = Limits(seconds=run.timeout)
                if run.back:  # it may write all of it
                    limits.file_kib = max(limits.file_kib, -(-len(files[run.back]) // 1024))
                kill_at = run.kill_at(params) if callable(run.kill_at) else run.kill_at
                jobs.append(Job((checkpoint, run, params, host), argv, files, stdin, limits, kill_at, run.back))
        return jobs

    def wanted(self, job):
        with self._lock:
            checkpoint = job.key[0]
            if self.ladder.verdicts[checkpoint.id].status:
                return False
            blocker = self.ladder.blocker(checkpoint)
            if not blocker:
                return True
            self.ladder.block(checkpoint, blocker)
            self._settle()
            return False

    def started(self, job):
        checkpoint, run, _, host = job.key
        with self._lock:
            self.progress.stage("%s %s%s" % (checkpoint.id, run.name, " on " + host if len(self.hosts.names) > 1 else ""))

    def done(self, job, outcome):
        checkpoint, run, params, host = job.key
        with self._lock:
            if outcome.grader_trouble:
                self.ladder.error(checkpoint, outcome.grader_trouble)
            else:
                self.ladder.add(checkpoint, run, RunResult(
                    run.name, outcome.code, outcome.signal, outcome.timed_out, outcome.stdout, outcome.stderr, outcome.witness, params,
                    outcome.wall_ms, outcome.cpu_ms, outcome.maxrss_kib, outcome.left, outcome.back, outcome.host_trouble,
                    tuple(job.argv), host,
                ))
            self._settle()

    def host_ended(self, host, console):
        with self._lock:
            self.host_facts[host.name] = dict(host.facts, boots=host.boots)
            self._write_log("testhost" if host.name == QEMU else "testhost-" + host.name, "".join(console).splitlines())

    def _settle(self):
        for checkpoint in self.ladder.settle():
            self._judged(checkpoint)

    def _judged(self, checkpoint):
        verdict = self.ladder.verdicts[checkpoint.id]
        verdict.log = os.path.relpath(self._write_log(checkpoint.id, self._log_lines(verdict)), self.root)
        verdict.guest = self._keep_files(verdict)
        self.progress.judged(verdict)

    def _keep_files(self, verdict):
        """The guest that a failure is about and the run's other files, beside the log, so that it can be run again by hand. The
        guest's path below the root, or ''."""
        run = verdict.result.name if verdict.status == FAILED and verdict.result else None
        kept = ""
        for name, content in self._files.get((verdict.checkpoint.id, run), {}).items():
            stem = "%s-%s" % (verdict.checkpoint.id, run)
            path = os.path.join(self.logs, stem + ".elf" if name == "guest.elf" else "%s.%s" % (stem, name))
            with open(path, "wb") as f:
                f.write(content)
            if name == "guest.elf":
                kept = os.path.relpath(path, self.root)
        return kept

    def _log_lines(self, verdict):
        c = verdict.checkpoint
        lines = ["checkpoint %s: %s" % (c.id, c.title), "status: %s" % verdict.status, "seed: %d" % self.seed]
        if verdict.message:
            lines += ["message:"] + block(verdict.message, 200)
        for name, r in verdict.labelled():
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
        return sum(v.max_points for v in self.verdicts)

    @property
    def not_checked(self):
        return self.hosts.not_checked(self.checkpoints)

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
        if self.hosts.asked or (len(verdict.hosts) > 1 and verdict.result):
            command += " --host " + (self.hosts.asked or verdict.result.host)
        return command + " --checkpoint %s --seed %d" % (verdict.checkpoint.id, self.seed)


def run_hosts(root, programs, jobs, owner):
    """Runs jobs, host's name -> list, on their hosts at the same time. owner(job) is the Grading that a job belongs to."""
    hosts, troubles = [], []
    used = {job.argv[0] for of_host in jobs.values() for job in of_host}
    programs = {**programs, **{path: build_program(root, *parts) for path, parts in TOOLS.items() if path in used}}

    def run(host, console):
        try:
            host.run(jobs[host.name], lambda job: owner(job).wanted(job), lambda job, outcome: owner(job).done(job, outcome),
                     lambda job: owner(job).started(job))
        except BaseException as trouble:
            troubles.append(trouble)
            for other, _ in hosts:  # what they find out would not be reported
                other.stop()
        finally:
            for grading in {id(g): g for g in map(owner, jobs[host.name])}.values():
                grading.host_ended(host, console)

    for name in jobs:
        console = []
        hosts.append((make_host(name, root, programs, console.append), console))
    threads = [threading.Thread(target=run, args=pair) for pair in hosts[1:]]
    try:
        for thread in threads:
            thread.start()
        for pair in hosts[:1]:
            run(*pair)  # here, because an interrupt arrives in the main thread
        for thread in threads:
            thread.join()
    finally:
        for host, _ in hosts:
            host.stop()
    if troubles:
        raise troubles[0]


def run_together(root, gradings):
    """Several gradings of the same hosts, in one boot of each."""
    programs, jobs, owner = {}, {}, {}
    for number, grading in enumerate(gradings):
        grading.hv = "%s-%d" % (HV, number)
        hv = grading._build()
        if not hv:
            continue
        programs[grading.hv] = hv
        for name in grading.hosts.names:
            for job in grading._jobs(name):
                owner[id(job)] = grading
                jobs.setdefault(name, []).append(job)
    run_hosts(root, programs, jobs, lambda job: owner[id(job)])


__all__ = ["Grading", "run_together", "first_errors", "PASSED", "FAILED", "BLOCKED", "ERROR", "NOT_CHECKED"]
