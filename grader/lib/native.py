"""Runs jobs directly on this machine's /dev/kvm, as the present user. For practice: quick, but without the witness, and the
program has the rights of whoever started the grader.
"""

import os
import resource
import selectors
import shutil
import signal
import subprocess
import tempfile
import time

from jobs import CAPTURE, Outcome
from model import Capture, GraderError


END_SECONDS = 2.0  # for the pipes to close once the program is gone


class _Reader:
    """Keeps the beginning and the end of a stream."""

    def __init__(self):
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, data):
        self.total += len(data)
        room = CAPTURE // 2 - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-CAPTURE // 2 :] if room < len(data) else self.tail

    def capture(self):
        return Capture(self.head, self.tail, self.total)


class NativeHost:
    has_witness = False
    name = "native"
    boots = 0

    def __init__(self, programs):
        self._programs = dict(programs)
        self.facts = {}
        self._stopped = False
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise GraderError("/dev/kvm cannot be used by this user on this machine. Use --host qemu (the default), which needs none.")

    def run(self, jobs, wanted, done, started=lambda job: None):
        for job in jobs:
            if not self._stopped and wanted(job):
                started(job)
                done(job, self._job(job))

    def stop(self):
        self._stopped = True

    def _job(self, job):
        limits = job.limits

        def setup():
            resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
            for what, value in ((resource.RLIMIT_AS, limits.memory_mib << 20), (resource.RLIMIT_FSIZE, limits.file_kib << 10),
                                (resource.RLIMIT_NOFILE, limits.open_files), (resource.RLIMIT_CORE, 0)):
                resource.setrlimit(what, (value, value))
            # RLIMIT_NPROC would count all processes of the present user.

        work = tempfile.mkdtemp(prefix="trapdoor-job-")
        files = tempfile.mkdtemp(prefix="trapdoor-files-")
        try:
            for name, data in job.files.items():
                with open(os.path.join(files, name), "wb") as f:
                    f.write(data)
            argv = [a.replace("@DIR@", files).replace("@SECONDS@", "%g" % limits.seconds) for a in job.argv]
            argv = [self._programs.get(a, a) for a in argv]
            with tempfile.TemporaryFile() as stdin:
                stdin.write(job.stdin)
                stdin.seek(0)
                begin = time.monotonic()
                process = subprocess.Popen(argv, cwd=work, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                           preexec_fn=setup, start_new_session=True)
                return self._wait(process, begin, limits.wall_ms / 1000)
        except OSError as e:
            return Outcome(grader_trouble="the program could not be started: %s" % e)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(files, ignore_errors=True)

    @staticmethod
    def _wait(process, begin, seconds):
        readers = {process.stdout: _Reader(), process.stderr: _Reader()}
        selector = selectors.DefaultSelector()
        for stream in readers:
            selector.register(stream, selectors.EVENT_READ)
        deadline = begin + seconds
        timed_out, rusage, status = False, None, None
        while status is None or selector.get_map():
            now = time.monotonic()
            if now >= deadline:
                if status is not None or timed_out:
                    break  # a process that left the group keeps the pipes open; nobody waits for it
                timed_out = True
                deadline = now + END_SECONDS
                _kill_group(process.pid)
            if not selector.get_map():
                time.sleep(0.005)
            for key, _ in selector.select(0.05) if selector.get_map() else ():
                data = os.read(key.fd, 65536)
                readers[key.fileobj].add(data)
                if not data:
                    selector.unregister(key.fileobj)
            if status is None:
                pid, wait_status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    status, rusage = wait_status, usage
                    deadline = min(deadline, time.monotonic() + END_SECONDS)
                    _kill_group(process.pid)
        selector.close()
        process.returncode = 0  # it has been waited for
        process.stdout.close()
        process.stderr.close()
        if status is None:
            return Outcome(grader_trouble="a program could not be killed")
        signaled = os.WIFSIGNALED(status) and not timed_out
        return Outcome(
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) and not timed_out else None,
            signal=os.WTERMSIG(status) if signaled else 0, timed_out=timed_out,
            stdout=readers[process.stdout].capture(), stderr=readers[process.stderr].capture(),
            wall_ms=int((time.monotonic() - begin) * 1000), cpu_ms=int((rusage.ru_utime + rusage.ru_stime) * 1000),
            maxrss_kib=rusage.ru_maxrss,
        )


def _kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
