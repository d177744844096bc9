"""Which hosts a lab's runs are run on: those that its checkpoints name, as far as they are wanted and there are any."""

import copy
import os

import bochs
from model import BOCHS, NATIVE, QEMU, GraderError
from native import NativeHost
from testhost import HOSTS

NAMES = (QEMU, BOCHS, NATIVE)
TITLES = {QEMU: "QEMU (AMD)", BOCHS: "Bochs (Intel)"}
HOW_TO_INSTALL = "apt install --no-install-recommends bochs bochs-term"


class Hosts:
    """checkpoints: all of the lab. asked: the host that the user names, or None for those that the checkpoints name."""

    def __init__(self, checkpoints, asked=None):
        self._named = [name for name in (QEMU, BOCHS) if any(name in run.hosts for c in checkpoints for run in c.runs)]
        self.asked = asked
        if asked:
            self.names = [asked]
        else:
            self.names = [name for name in self._named if name != BOCHS or bochs.installed()]

    def only(self, name):
        """The same, but of these hosts only this one is there."""
        one = copy.copy(self)
        one.names = [name]
        return one

    def runs(self, checkpoint, host):
        """The runs of a checkpoint on a host. One that no checkpoint of the lab names does what QEMU would do."""
        where = host if host in self._named else QEMU
        return [run for run in checkpoint.runs if where in run.hosts]

    def pairs(self, checkpoint):
        """(host, run) for all runs of a checkpoint."""
        return [(host, run) for host in self.names for run in self.runs(checkpoint, host)]

    def complete(self, checkpoint):
        """True when all of a checkpoint's runs are made, if only on the host that was asked for instead of QEMU."""
        made = {id(run) for _, run in self.pairs(checkpoint)}
        missing = {host for run in checkpoint.runs for host in run.hosts} - set(self.names)
        return len(made) == len(checkpoint.runs) and (not missing or self.asked not in (None, *self._named))

    def not_checked(self, checkpoints):
        """A sentence for each host that has runs of these checkpoints which are not made."""
        sentences = []
        for name in self._named:
            ids = [c.id for c in checkpoints if any(name in run.hosts for run in c.runs)]
            if name in self.names or not ids or (self.asked == NATIVE and name == QEMU):
                continue
            why = "only --host %s was asked for" % self.asked if self.asked else "it is not installed (%s)" % HOW_TO_INSTALL
            what = ", ".join(ids) if len(ids) < len(checkpoints) else "everything"
            sentences.append("Not checked on %s, because %s: %s." % (TITLES[name], why, what))
        return sentences

    @property
    def have_witness(self):
        return NATIVE not in self.names

    def __str__(self):
        return "+".join(self.names)


def needed_targets(root, names):
    """What make must make before these hosts can start: there is no kernel yet, the user names one, or a module is missing."""
    if names == [NATIVE]:
        return set()
    directory = os.path.join(root, "build", "testhost")
    wanted = [os.path.join(directory, "vmlinuz")]
    if BOCHS in names:
        wanted.append(os.path.join(directory, "modules", "kvm-intel.ko"))
    return {"testhost"} if os.environ.get("TESTHOST_KERNEL") or not all(map(os.path.exists, wanted)) else set()


def make_host(name, root, programs, log):
    if name == NATIVE:
        return NativeHost(programs)
    if name == BOCHS and not bochs.installed():
        raise GraderError("Bochs is not installed (Debian and Ubuntu: %s)." % HOW_TO_INSTALL)
    return HOSTS[name](root, programs, log)
