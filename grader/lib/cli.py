"""The command line of the grader."""

import argparse
import fcntl
import os
import secrets
import signal
import sys

from escape import visible
from grading import Grading
from hosts import NAMES, Hosts
from ladder import load, select
from model import GraderError, UsageError
from report import Progress, complain, json_text, summary, text_report, write_atomically
from solution import find_solution, lab_directory

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

EPILOG = """\
exit status: 0 all passed; 1 a checkpoint failed; 2 wrong usage; 3 the grader itself could not work, which says nothing
about the solution. Without --seed the values that the test guests get are drawn anew each time.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message[0].upper() + message[1:] + ". See ./grader/grade --help.")


def number(low, high, what):
    def convert(text):
        try:
            value = int(text, 0)
        except ValueError:
            value = -1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError("%s is not %s" % (visible(text, 40), what))
        return value

    return convert


def parser():
    p = Parser(prog="grade", description="Checks a lab's files by booting test guests on the hypervisor that they make.",
               epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("lab", metavar="LAB", type=number(1, 99, "the number of a lab"), help="number of the lab")
    p.add_argument("--solution", default="labs", metavar="DIR",
                   help="labs (your files, the default), reference-solution, or a directory that holds the lab's files")
    p.add_argument("--checkpoint", metavar="ID", help="only this one, without those it depends on")
    p.add_argument("--seed", metavar="N", type=number(0, (1 << 63) - 1, "a number for a seed"), help="replay the values of an earlier run")
    p.add_argument("--format", choices=("text", "json"), default="text")
    p.add_argument("--host", choices=NAMES,
                   help="where hv runs: only in the QEMU test host (AMD), only in the Bochs test host (Intel), or directly on this "
                   "machine's /dev/kvm, for practice. Default: the test hosts that the lab's checkpoints ask for")
    p.add_argument("--output", metavar="FILE", help="write the report there, in the format of --format")
    p.add_argument("--verbose", action="store_true", help="show what each run printed")
    return p


def check_output(path):
    """Better now than after the work."""
    if path is None:
        return
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError("The report cannot be written to %s." % visible(path, 200))


def run(argv, root, stdout):
    args = parser().parse_args(argv)
    title, checkpoints = load(lab_directory(root, args.lab))
    hosts = Hosts(checkpoints, args.host)
    checkpoints = select(checkpoints, args.checkpoint)
    if not any(hosts.pairs(c) for c in checkpoints):
        raise (UsageError if args.host else GraderError)(" ".join(hosts.not_checked(checkpoints)))
    check_output(args.output)
    solution = find_solution(root, args.lab, args.solution)
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    to_stdout = args.format == "json" and not args.output
    progress = Progress(stdout, quiet=to_stdout, verbose=args.verbose)
    grading = Grading(root, args.lab, title, solution, checkpoints, seed, hosts, progress)
    # Two gradings of the same solution would write the same logs.
    with open(os.path.join(grading.work, ".lock"), "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.stage("waiting for another grading of the same solution")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            grading.run()
        finally:
            progress.end()
        write_atomically(os.path.join(grading.work, "result.json"), json_text(grading))
    if args.output:
        write_atomically(args.output, json_text(grading) if args.format == "json" else text_report(grading))
    stdout.write(json_text(grading) if to_stdout else "\n".join(summary(grading, progress.style)) + "\n")
    return grading.exit_status()


def _terminated(*_):
    raise KeyboardInterrupt  # so that the test host and its files go too


def main(argv=None, root=ROOT, stdout=None):
    stdout = stdout or sys.stdout
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return run(sys.argv[1:] if argv is None else argv, root, stdout)
    except UsageError as e:
        complain("grade: %s" % e)
        return 2
    except GraderError as e:
        complain("grade: %s\nThe grader itself could not work. This says nothing about the solution." % e)
        return 3
    except KeyboardInterrupt:
        complain("grade: interrupted")
        return 3
    except BrokenPipeError:
        # Whoever read the report left; what counts is in result.json.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 3
    except OSError as e:
        complain("grade: %s. The grader itself could not work; this says nothing about the solution." % e)
        return 3
