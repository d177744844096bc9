"""Checkpoint 5.18: Debian's kernel with two CPUs, a disk and a network moves while a program looks at all that it has written to memory,
another one writes records that are durable, and a transfer from a third VM is open. The disk is looked at here, outside of everything
that the student's program could have touched."""

import hashlib
import os
import random
import re

import linuxguest
from model import Checkpoint, Failure, Run
from staging import Play, told
from testhost import build_program

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
RECORDS_DISK = 512 * 1024
PIECE, PIECES = 20_000, 25
SECONDS = 60.0

# The file goes piece by piece, and again from its beginning, until somebody types a line: when the VM has moved.
PEER = """
ip link set eth0 up; ip addr add 192.168.7.1/24 dev eth0
(head -n 1 </dev/console >/tmp/typed; touch /tmp/go) &
echo peer ready
i=0; (until [ -e /tmp/go ]; do dd if=/file bs=%d skip=$((i %% %d)) count=1 2>/dev/null; i=$((i + 1)); sleep 0.3; done; echo $i >/tmp/n) |
    nc -l -p 99
echo "sent $(cat /tmp/n) pieces"
sleep 5
""" % (PIECE, PIECES)

MOVER = """
ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0
churn 8 100 %d >/tmp/churn & churn=$!
durable /dev/vda %d 50 & durable=$!
mkfifo /tmp/open; exec 9<>/tmp/open # input that does not end, for then nc would hang up
(nc 192.168.7.1 99 <&9 | sha256sum | sed 's/^/transfer /') & transfer=$!
sleep 2
echo under way
wait $transfer
sleep 1
kill $churn $durable
sed 's/^/moved /' /tmp/churn
"""


def payload(seed):
    return random.Random(seed).randbytes(PIECE * PIECES)


def params(rng):
    return [rng.getrandbits(62), rng.getrandbits(62), rng.getrandbits(62)]


def play(p):
    # A step's words are divided by blanks, the kernel's command line by tabs as well.
    script, append = Play(), linuxguest.APPEND.replace(" ", "\t")
    linux = "--append %s --initrd @DIR@/%s"
    options = "--engine kvm --cpus 2 --mem 80M --net socket=cable --disk @DIR@/records.img"
    script.vm("P", "--engine kvm --mem 80M --net socket=cable " + linux % (append, "peer"), "@DIR@/vmlinuz")
    script.step("await P peer ready")
    script.vm("S", options + " " + linux % (append, "mover"), "@DIR@/vmlinuz")
    script.step("await S under way")
    script.incoming("D", "unix:link", options)
    script.step("there link")
    script.step("ask S.ctl migrate unix:link --downtime %d" % (p[2] % 200 + 100))
    script.step('poll S.ctl job | "state":"done" | "state":"failed" | "state":"standing"')
    script.step("end S")
    script.step("rest 1000")
    script.type("P", "go", "pieces")
    script.step("await D status")
    script.step("end D")
    return script


def files(p):
    programs = {"bin/churn": build_program(ROOT, "churn", "churn.c"), "bin/durable": linuxguest.durable(ROOT)}
    return {"script": play(p).text(), "vmlinuz": linuxguest.kernel(ROOT), "records.img": bytes(RECORDS_DISK),
            "peer": linuxguest.initrd(ROOT, PEER, ["net"], {"file": payload(p[0])}),
            "mover": linuxguest.initrd(ROOT, MOVER % (p[1], p[1]), ["net", "disk"], programs=programs)}


def verify(results, params_of):
    result, p = results["move"], params_of["move"]
    t = told(result, play(p))
    failure = t.failure("Read what both sides say. The job's answer has the reason (hv ctl SOCKET job).")
    if failure:
        return failure
    if not t["S"].ended_well or b"moved to" not in t["S"].err:
        return t.fail("the source to end because the VM has moved", "the source %s %d" % (t["S"].how, t["S"].number))
    arrived = t["D"].out.replace(b"\r", b"")
    churn = [tuple(map(int, line)) for line in re.findall(rb"(?m)^moved churn (\d+) (\d+) (\d+)$", arrived)]
    if len(churn) < 3:
        return t.fail("the program that writes to memory to go on at the destination", "%d lines of it" % len(churn))
    wrong = max(bad for _, bad, _ in churn)
    if wrong:
        return t.fail("every page of memory as the guest wrote it last", "%d pages were not" % wrong,
                      "A page that was written while it was sent is dirty again. A device's writes count, too.")
    sent = re.findall(rb"(?m)^sent (\d+) pieces", t["P"].out)
    pieces, data = int(sent[0]) if sent and len(sent[0]) < 6 else 0, payload(p[0])
    expected = hashlib.sha256(data * (pieces // PIECES) + data[: pieces % PIECES * PIECE]).hexdigest()
    seen = re.findall(rb"(?m)^transfer ([0-9a-f]{64})\b", arrived)
    if not pieces or seen != [expected.encode()]:
        return t.fail("the transfer that was open to go on: %d bytes, SHA-256 %s" % (pieces * PIECE, expected),
                      b" ".join(seen).decode() or "it did not come to its end")
    durable = linuxguest.told_durable(t["S"].out + b"\n" + t["D"].out)
    lost = linuxguest.first_missing(result.back, durable, p[1]) if result.back else 1
    if not durable or lost:
        return t.fail("the first %d records on the disk, of which the guest was told that they are durable" % durable,
                      "record %s is not there" % lost)
    return None


CHECKPOINTS = [
    Checkpoint(
        "5.18", "Linux moves", 8,
        "Debian's kernel with two CPUs moves to another process while it works: memory is as it was written, records on the "
        "disk are durable, and a transfer over the network goes on.",
        "Everything before this was smaller: see which of memory, disk and network is wrong.",
        runs=[Run("move", params=params, command=("/bin/stage", "@SECONDS@", "@DIR@", "/bin/hv"), files=files, timeout=SECONDS, ends=None,
                  back="records.img")],
        verify=verify, depends=["5.12"]),
]
