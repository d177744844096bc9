"""Finds a student's files, refuses what could harm the grading machine, and compiles hv from them.

The compiler runs on the grading machine, with the rights of whoever grades. What a source file can make it do is limited
here to reading headers: no file of the student's choice is included, no Makefile of the student's is used, nothing that was
compiled is started outside the test host. Whoever grades strangers should still do it in a container (grader/README.md).
"""

import fcntl
import glob
import hashlib
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field

from escape import visible
from model import GraderError, UsageError

MAX_SOURCE = 1 << 20
BUILD_SECONDS = 300  # ends compilers that hang, nothing else

_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
_DIRECTIVE = re.compile(r"^[ \t]*(?:#|%:)[ \t]*(include|include_next|embed|import)\b[ \t]*(.*)$", re.M)
_PLAIN_NAME = re.compile(r'^(?:"([^"]+)"|<([^>]+)>)\s*$')
# Directives of the assembler that read files, or could be used to spell one that does.
_ASSEMBLER = re.compile(r"\.\s*(incbin|include|macro|irpc?|rept|altmacro)\b", re.I)


@dataclass
class Solution:
    """The files of one lab that are graded."""

    lab: int
    label: str  # as given on the command line
    directory: str
    tag: str  # name for build/grade/labN/TAG
    files: dict = field(default_factory=dict)  # name -> bytes
    problems: list = field(default_factory=list)  # sentences; not empty: it cannot be built


def lab_directory(root, lab):
    found = sorted(glob.glob(os.path.join(root, "labs", "%02d-*" % lab)))
    if len(found) != 1 or not os.path.exists(os.path.join(found[0], "checkpoints.py")):
        known = sorted(int(os.path.basename(os.path.dirname(p))[:2])
                       for p in glob.glob(os.path.join(root, "labs", "[0-9][0-9]-*", "checkpoints.py")))
        raise UsageError("There is no lab %d to grade. Labs: %s." % (lab, ", ".join(map(str, known)) or "none"))
    return found[0]


def _strip(text):
    """Without comments and with spliced lines, as the compiler sees it before it looks for directives."""
    text = text.replace("\\\r\n", "").replace("\\\n", "")
    return _TOKEN.sub(lambda m: " " if m[0].startswith("/") else m[0], text)


def source_problem(name, data):
    """A sentence about a source file that must not be given to the compiler, or None."""
    text = _strip(data.decode("utf-8", "replace").replace("??/", "\\").replace("??=", "#"))
    for directive, operand in _DIRECTIVE.findall(text):
        plain = _PLAIN_NAME.match(operand.strip())
        path = (plain[1] or plain[2]) if plain else ""
        if directive == "embed":
            return "%s uses #embed, which the grader does not allow." % name
        if not plain:
            return "%s has an #%s that does not name a file plainly (%s)." % (name, directive, visible(operand, 60))
        if path.startswith(("/", "~")) or ".." in path.split("/"):
            return "%s includes %s: only headers of the course and of the system may be included." % (name, visible(path, 60))
    for literal in _literals(text):
        found = _ASSEMBLER.search(literal)
        if found:
            return "%s contains the assembler directive .%s, which the grader does not allow." % (name, found[1])
    return None


def _literals(text):
    """String literals; neighbours are one to the compiler: ".inc" "bin"."""
    joined, end = "", None
    for token in _TOKEN.finditer(text):
        if not token[0].startswith('"'):
            continue
        if end is not None and not text[end : token.start()].strip():
            joined += token[0][1:-1]
        else:
            yield joined
            joined = token[0][1:-1]
        end = token.end()
    yield joined


def _read(path):
    """A regular file's content; OSError or a sentence in ValueError otherwise. Links are not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as f:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise ValueError("is not a regular file")
        data = f.read(MAX_SOURCE + 1)
    if len(data) > MAX_SOURCE:
        raise ValueError("is larger than %d bytes" % MAX_SOURCE)
    return data


def find_solution(root, lab, name):
    """name: labs, reference-solution, or a directory that holds the lab's files or the lab's directory."""
    lab_dir = lab_directory(root, lab)
    base = os.path.basename(lab_dir)
    directory = os.path.join(root, name) if name in ("labs", "reference-solution") else name
    if not os.path.isdir(directory):
        raise UsageError("The solution %s is not a directory." % visible(name, 200))
    directory = os.path.realpath(directory)
    if os.path.isdir(os.path.join(directory, base)):
        directory = os.path.join(directory, base)
    if name in ("labs", "reference-solution"):
        tag = name
    else:
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(os.path.normpath(name)))[:40].strip(".") or "solution"
        tag = "%s-%s" % (stem, hashlib.sha256(directory.encode("utf-8", "surrogateescape")).hexdigest()[:8])
    solution = Solution(lab, name, directory, tag)
    names = sorted(os.path.basename(p) for p in glob.glob(os.path.join(lab_dir, "*.c")))
    if not names:
        raise GraderError("labs/%s holds no .c files, so it is not known which files belong to the lab." % base)
    for file_name in names:
        path = os.path.join(directory, file_name)
        try:
            data = _read(path)
        except FileNotFoundError:
            solution.problems.append("%s is missing: lab %d consists of %s." % (file_name, lab, ", ".join(names)))
            continue
        except OSError:
            solution.problems.append("%s cannot be read; it must be a regular file, not a link." % file_name)
            continue
        except ValueError as e:
            solution.problems.append("%s %s." % (file_name, e))
            continue
        problem = source_problem(file_name, data)
        if problem:
            solution.problems.append(problem)
        solution.files[file_name] = data
    return solution


@contextmanager
def build_lock(root):
    """One make at a time in a tree: the frame's objects are shared by all builds."""
    os.makedirs(os.path.join(root, "build"), exist_ok=True)
    with open(os.path.join(root, "build", ".grade.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _limits():
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 20, 512 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make(root, *args):
    """Runs make in the tree. Returns (exit status, output)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "CPATH", "C_INCLUDE_PATH"))}
    env["LC_ALL"] = "C"
    command = ["make", "--no-print-directory", "-C", root, "-j", str(min(4, os.cpu_count() or 1)), *args]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                                   preexec_fn=_limits, start_new_session=True)
    except OSError as e:
        raise GraderError("make could not be started: %s." % e.strerror) from None
    try:
        output = process.communicate(timeout=BUILD_SECONDS)[0]
    except subprocess.TimeoutExpired:
        output = b"the build took longer than %d seconds and was ended\n" % BUILD_SECONDS
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # nothing of it may go on
        except ProcessLookupError:
            pass
    if process.poll() is None:
        process.wait()
    return process.returncode, output.decode("utf-8", "replace")


_made = set()  # (root, target): what this process has made need not be asked for again, for a mutant after the other


def make_parts(root, targets):
    """What does not depend on the student. Failing here is the grader's fault."""
    with build_lock(root):
        targets = [target for target in targets if (root, target) not in _made]
        if not targets:
            return
        status, output = make(root, *targets)
    if status:
        tail = "\n".join("  | " + visible(line, 200) for line in output.splitlines()[-15:])
        raise GraderError("`make %s` failed:\n%s" % (" ".join(targets), tail))
    _made.update((root, target) for target in targets)


def compile_hv(root, solution, work):
    """Builds WORK/out/hv from a private copy of the files. Returns (path or None, compiler output)."""
    source = os.path.join(work, "src")
    out = os.path.join(work, "out")
    hv = os.path.join(out, "hv")
    shutil.rmtree(source, ignore_errors=True)
    os.makedirs(source)
    os.makedirs(out, exist_ok=True)
    for name, data in solution.files.items():
        with open(os.path.join(source, name), "wb") as f:
            f.write(data)
    if os.path.lexists(hv):
        os.unlink(hv)
    args = [os.path.relpath(hv, root), "LAB=%d" % solution.lab, "LABFILES=" + os.path.relpath(source, root),
            "OUT=" + os.path.relpath(out, root)]
    with build_lock(root):
        status, output = make(root, *args)
    output = output.replace(os.path.relpath(source, root) + os.sep, "")  # students know their files by name
    if status or not os.path.exists(hv):
        return None, output
    return hv, output
