"""Checkpoints 4.20 and 4.21: Debian's virtio_net driver, with this machine and with a second VM. What is transferred comes from the seed,
and its checksum is made here."""

import hashlib
import os
import random
import re

import linuxguest
from model import HV_OK, Checkpoint, Failure, Run

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
DIGEST = re.compile(rb"(?m)^(\w+) ([0-9a-f]{64})\b")

USER = """
cat >/tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] && ip addr add $ip/$mask dev $interface && ip route add default via $router
END
chmod +x /tmp/lease
ip link set eth0 up
udhcpc -i eth0 -n -q -s /tmp/lease >/dev/null 2>&1 || echo no lease
wget -q -O - http://10.0.2.2:%d/ | sha256sum | sed 's/^/payload /'
"""

# Who is first with an address waits for the other. Both serve, both fetch; each stays until the other has what it wanted.
PAIR = """
ip link set eth0 up; ip addr add 192.168.7.%(me)d/24 dev eth0
httpd -p 80 -h /www
n=0; until wget -q -O /tmp/file http://192.168.7.%(other)d/file 2>/dev/null || [ $n = 60 ]; do sleep 0.2; n=$((n + 1)); done
sha256sum /tmp/file | sed 's/^/fetched /'
touch /www/done
n=0; until wget -q -O /dev/null http://192.168.7.%(other)d/done 2>/dev/null || [ $n = 30 ]; do sleep 0.2; n=$((n + 1)); done
sleep 0.5
"""


def payload(seed, size):
    return random.Random(seed).randbytes(size)


def linux(name, *options):
    """hv with a Linux guest, whose initial RAM disk is the run's file `name`."""
    return ["/bin/hv", "run", "--engine", "kvm", "--mem", "128M", "--timeout", "@SECONDS@", "--stats", "json", *options,
            "--append", linuxguest.APPEND, "--initrd", "@DIR@/" + name, "@DIR@/vmlinuz"]


def digests(output, word):
    return [digest.decode() for found, digest in DIGEST.findall(output.replace(b"\r", b"")) if found == word]


def compare(result, word, expected, what, hint):
    seen = digests(result.output, word)
    if seen == expected:
        return None
    return Failure("%s, SHA-256 %s" % (what, " and ".join(expected)), " and ".join(seen) or "no checksum on the console", hint, result.name)


# --- 4.20 -----------------------------------------------------------------------------------------------------------------

USER_SIZE = 600_000


def user_params(rng):
    return [rng.getrandbits(64), rng.randrange(20000, 30000)]


def user_files(p):
    initrd = linuxguest.initrd(ROOT, USER % p[1], ["net"])
    return {"vmlinuz": linuxguest.kernel(ROOT), "initrd": initrd, "payload": payload(p[0], USER_SIZE)}


def user_command(p):
    return ["/bin/netrun", "--serve", str(p[1]), "@DIR@/payload", *linux("initrd", "--net", "user")]


def user_verify(results, params):
    expected = hashlib.sha256(payload(params["user"][0], USER_SIZE)).hexdigest()
    return compare(results["user"], b"payload", [expected], "the file that this machine serves",
                   "Frames from the guest: transmit() in net.c; frames to it: take_buffers() and fill_buffers(). \"no lease\" on "
                   "the console means that not even DHCP worked. --stats json counts frames in both directions.")


# --- 4.21 -----------------------------------------------------------------------------------------------------------------

PAIR_SIZE = 400_000


def pair_params(rng):
    return [rng.getrandbits(64), rng.getrandbits(64)]


def pair_files(p):
    files = {"vmlinuz": linuxguest.kernel(ROOT)}
    for me, seed in ((1, p[0]), (2, p[1])):
        files["initrd%d" % me] = linuxguest.initrd(ROOT, PAIR % {"me": me, "other": 3 - me}, ["net"],
                                                       {"www/file": payload(seed, PAIR_SIZE)})
    return files


def pair_command(p):
    options = ["--net", "socket=cable,mtu=%d" % (1500 + p[0] % 7500)]
    return ["/bin/netrun", *linux("initrd1", "--cpus", "2", *options), "++", *linux("initrd2", *options)]


def pair_verify(results, params):
    expected = [hashlib.sha256(payload(seed, PAIR_SIZE)).hexdigest() for seed in (params["pair"][1], params["pair"][0])]
    return compare(results["pair"], b"fetched", expected, "what each VM serves arrives in the other",
                   "Two VMs on one cable, one of them with two CPUs: a CPU may look at the used ring while the device writes it. "
                   "Frames are longer than one buffer here: fill_buffers() and virtqueue_push_more().")


CHECKPOINTS = [
    Checkpoint(
        "4.20", "Linux on the network", 5,
        "Debian's kernel with its own virtio_net driver has an address by DHCP and downloads a file from this machine; "
        "the checksum is right.",
        "net.c.",
        runs=[Run("user", params=user_params, command=user_command, files=user_files, timeout=20.0, ends=(HV_OK,))],
        verify=user_verify, depends=["4.9", "4.15", "4.16"]),
    Checkpoint(
        "4.21", "two VMs on one cable", 5,
        "Two VMs joined by a socket, one of them with two CPUs, download a file from each other at the same time; both checksums "
        "are right.",
        "net.c.",
        runs=[Run("pair", params=pair_params, command=pair_command, files=pair_files, timeout=45.0, ends=(HV_OK,))],
        verify=pair_verify, depends=["4.20"]),
]
