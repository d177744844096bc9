#!/usr/bin/env python3
"""Migration between two test hosts: two QEMU machines on one network, whose cable is in this program's hands. Neither host can see the
other's files, so no record decides who has the VM: where the connection does not say, the source has to ask.

Linux moves at work. Of small guests, the connection breaks in front of COMMITTED; or falls silent behind COMMIT, for good or until the
source connects again; or the destination's host loses its power before COMMIT.

TRAPDOOR_SEED chooses the numbers.
"""

import base64
import gzip
import random
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import host  # before the grader's modules, which it makes known

sys.path.append(str(host.TOP / "labs/05-migration/checks"))

import elf  # noqa: E402
import linuxguest  # noqa: E402
import staging  # noqa: E402
import streamfile  # noqa: E402
from model import Capture, RunResult  # noqa: E402
from testhost import TOOLS, build_program  # noqa: E402
from writer import Writer  # noqa: E402

A, B = "10.9.0.1", "10.9.0.2"
PORTS = {"linux": 4441, "broken": 4442, "lost": 4443, "dark": 4444, "dead": 4445}
B_WAITS, B_IS_DONE = 4451, 4452  # ports on which B listens for a moment: its hvs wait for their VMs; its play is over
SMALL = "--mem 4M --engine trap"
LINUX = "--mem 80M --engine kvm --cpus 2"
PAGES = 400  # of a small guest
PLAY_SECONDS, SURVIVOR_SECONDS = 200, 60
BOOT_SECONDS = 350
ATTEMPTS = 3  # QEMU 7.2 dies or hangs now and then with nested guests
ENDED = '"state":"done" | "state":"failed" | "state":"standing"'

# It writes until somebody types a line, and looks at all that it has written every five seconds.
CHURN = """
(head -n 1 </dev/console >/tmp/typed; touch /tmp/go) &
echo under way
until [ -e /tmp/go ]; do churn 8 200 %d 5; done >/tmp/churn
sed 's/^/moved /' /tmp/churn
"""


# --- the cable ------------------------------------------------------------------------------------------------------------------------

SYN, RST, ACK = 2, 4, 16


class Segment:
    """A TCP segment in an Ethernet frame."""

    def __init__(self, frame):
        ip = frame[14:]
        tcp = ip[(ip[0] & 15) * 4 : struct.unpack_from(">H", ip, 2)[0]]
        self.addresses = frame[6:12], frame[:6], ip[12:16], ip[16:20]  # MAC and IP, from and to
        self.ports = struct.unpack_from(">HH", tcp)
        self.sequence, self.acknowledged = struct.unpack_from(">II", tcp, 4)
        self.payload = tcp[(tcp[12] >> 4) * 4 :]

    @staticmethod
    def of(frame):
        """None for what is none."""
        return Segment(frame) if len(frame) >= 54 and frame[12:14] == b"\x08\x00" and frame[23] == 6 else None

    @property
    def message(self):
        """(type, instance) of a message without payload, which hv sends in one piece."""
        if len(self.payload) != streamfile.SECTION.size:
            return None
        kind, version, instance, length = struct.unpack_from("<HHII", self.payload)
        return (kind, instance) if version == 1 and not length else None

    def reset(self):
        """The frame by which the receiver of this segment learns that the connection is gone."""
        mac_from, mac_to, ip_from, ip_to = self.addresses
        tcp = struct.pack(">HHIIBBHHH", *self.ports, self.sequence, self.acknowledged, 5 << 4, RST | ACK, 0, 0, 0)
        tcp = tcp[:16] + _checksum(ip_from + ip_to + struct.pack(">HH", 6, len(tcp)) + tcp) + tcp[18:]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + ip_from + ip_to
        return mac_to + mac_from + b"\x08\x00" + ip[:10] + _checksum(ip) + ip[12:] + tcp


def _checksum(data):
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF)


class Cable:
    """What joins the two network cards: QEMU's socket networks connect to it, each frame with its length in front. It sees the
    migrations' messages, and harms those connections that are to be harmed. Use it as a context manager."""

    def __init__(self):
        self._listening = [socket.create_server(("127.0.0.1", 0)) for _ in (A, B)]
        self.ports = [server.getsockname()[1] for server in self._listening]
        self.messages = {name: [] for name in PORTS}  # (from A, number of the connection, type, instance), also those that did not pass
        self.power_off = threading.Event()  # now B's host loses its power
        self._connections = {name: [] for name in PORTS}  # A's ports, in order
        self._cut = set()  # (name, number of the connection or None for all of them): nothing passes any more
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        for server in self._listening:
            server.close()

    def _run(self):
        ends, came = {}, {}
        while not self._stop.is_set():
            for ready in select.select([*self._listening, *ends.values()], [], [], 0.1)[0]:
                if ready in self._listening:
                    number = self._listening.index(ready)
                    ends[number], came[number] = ready.accept()[0], b""
                    continue
                number = next(n for n, end in ends.items() if end is ready)
                try:
                    data = ready.recv(1 << 18)
                except OSError:
                    data = b""
                if not data:
                    ends.pop(number).close()
                    continue
                frames, came[number] = self._frames(came[number] + data)
                for to, frame in [item for frame in frames for item in self._pass(frame, number)]:
                    if to in ends:
                        self._send(ends[to], frame)
        for end in ends.values():
            end.close()

    @staticmethod
    def _frames(data):
        frames, at = [], 0
        while len(data) - at >= 4:
            (length,) = struct.unpack_from(">I", data, at)
            if len(data) - at - 4 < length:
                break
            frames.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        return frames, data[at:]

    @staticmethod
    def _send(end, frame):
        try:
            end.sendall(struct.pack(">I", len(frame)) + frame)
        except OSError:
            pass  # that host is gone, which the next read finds out

    def _pass(self, frame, sender):
        """What becomes of it: (to whom, frame)s."""
        onward = [(1 - sender, frame)]
        segment = Segment.of(frame)
        from_a = sender == 0
        port, other = (segment.ports[from_a], segment.ports[not from_a]) if segment else (None, None)
        name = next((name for name, number in PORTS.items() if number == port), None)
        if not name:
            return onward
        known = self._connections[name]
        if other not in known:
            known.append(other)
        number = known.index(other)
        said = (from_a, number, *segment.message) if segment.message else None
        if said and said not in self.messages[name]:  # TCP may have sent it again
            self.messages[name].append(said)
        if (name, number) in self._cut or (name, None) in self._cut:
            return []
        return self._harm(name, number, said[2], segment, onward) if said else onward

    def _harm(self, name, number, kind, segment, onward):
        if name == "broken" and kind == streamfile.COMMITTED and number == 0:
            self._cut.add((name, 0))
            return [(0, segment.reset())]
        if name == "lost" and kind == streamfile.COMMIT and number == 0:
            self._cut.add((name, 0))
            return onward
        if name == "dark" and kind == streamfile.COMMIT:
            self._cut.add((name, None))
            return []
        if name == "dead" and kind == streamfile.READY:
            self._cut.add((name, None))
            self.power_off.set()
            return []
        return onward


# --- the plays ------------------------------------------------------------------------------------------------------------------------

def uri(name):
    return f"tcp:{B}:{PORTS[name]}"


def start_small(play, name, seed):
    play.vm(name, SMALL)
    play.step(f"await {name} ready")
    play.type(name, f"w {seed} 300")
    play.step(f"await {name} wrote")


def sources(seeds):
    play = staging.Play()
    for name in ("broken", "lost", "dark"):
        start_small(play, name, seeds[name])
        play.step(f"ask {name}.ctl migrate {uri(name)}")
    append = linuxguest.APPEND.replace(" ", "\t")  # blanks divide a step's words
    play.vm("linux", f"{LINUX} --append {append} --initrd @DIR@/churn.cpio", "@DIR@/vmlinuz")
    play.step("await linux under way")
    play.step("rest 2000")
    play.step(f"ask linux.ctl migrate {uri('linux')}")
    for name in ("linux", "broken"):
        play.step(f"poll {name}.ctl job | " + ENDED)
    play.lost = play.step("poll lost.ctl job | " + ENDED)
    play.standing = play.step("poll dark.ctl job | " + ENDED)
    play.type("dark", "h")
    play.step("silent dark 1000")
    play.step("ask dark.ctl resume")
    play.step("answer dark hash=")
    return play


def destinations():
    play = staging.Play()
    for name in ("broken", "lost", "dark", "linux"):
        play.incoming(name, uri(name), LINUX if name == "linux" else SMALL)
        if name != "linux":
            play.type(name, "h")  # hv keeps it until there is a VM that could read it
        play.step(f"there {name}.ctl")
    play.step(f"start gate /bin/nc -l -p {B_WAITS}")
    for name in ("broken", "lost"):
        play.step(f"answer {name} hash=")
    play.type("linux", "go")
    play.step("end linux")
    play.step("end dark")
    # By now the source of the other one has asked as well, which nobody could answer behind the VM's end.
    for name in ("broken", "lost"):
        play.type(name, "q")
        play.step(f"end {name}")
    return play


def survivor(seed):
    play = staging.Play()
    start_small(play, "dead", seed)
    play.step(f"ask dead.ctl migrate {uri('dead')}")
    play.ended = play.step("poll dead.ctl job | " + ENDED)
    play.type("dead", "h")
    play.step("answer dead hash=")
    return play


def staged(name, seconds):
    return (f"mkdir -p /tmp/{name}; cd /tmp/{name}; cp /work/{name} script; ln -s /work/guest.elf /work/churn.cpio /work/vmlinuz .; "
            f"stage {seconds} $PWD /work/hv >told; echo; echo @{name}; gzip -c told | base64; echo @end\n")


def wait_for(port):
    return f"until nc {B} {port} </dev/null 2>/dev/null; do sleep 0.2; done\n"


SCRIPT_A = wait_for(B_WAITS) + staged("sources", PLAY_SECONDS) + wait_for(B_IS_DONE) + staged("survivor", SURVIVOR_SECONDS)
SCRIPT_B = staged("destinations", PLAY_SECONDS) + f"nc -l -p {B_IS_DONE} </dev/null\nexec hv run {SMALL} --incoming {uri('dead')}\n"


class HostFailed(Exception):
    """A test host did not come to its end."""


class TestTwoHosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "testhost", "build/guests/lab5/writer.elf")
        seed = host.seed_from_environment(random)
        print(f"two hosts: TRAPDOOR_SEED={seed}")
        rng = random.Random(seed)
        cls.params = [rng.getrandbits(63), PAGES]
        cls.seeds = {name: rng.getrandbits(40) for name in PORTS}
        cls.plays = {"sources": sources(cls.seeds), "destinations": destinations(), "survivor": survivor(cls.seeds["dead"])}
        for attempt in range(ATTEMPTS):
            try:
                output, cls.messages = cls.boot_both()
                break
            except HostFailed as failed:
                if attempt == ATTEMPTS - 1:
                    raise
                print(f"again: {failed}")
        cls.told = {}
        for name, play in cls.plays.items():
            text = re.search(rf"(?ms)^@{name}\n(.*?)^@end$", output)
            if not text:
                raise RuntimeError(f"nothing is known of the play {name}:\n{output[-2000:]}")
            data = gzip.decompress(base64.b64decode(text[1]))
            cls.told[name] = staging.told(RunResult(name, 0, stdout=Capture(head=data, total=len(data))), play)

    @classmethod
    def boot_both(cls):
        """Both hosts' output, and the messages that passed the cable. A ends by itself, B is killed."""
        with tempfile.TemporaryDirectory() as directory, Cable() as cable:
            top = Path(directory)
            (top / "guest.elf").write_bytes(elf.patch_params((host.GUESTS / "lab5/writer.elf").read_bytes(), cls.params))
            churn = {"bin/churn": build_program(str(host.TOP), "churn", "churn.c")}
            script = CHURN % cls.seeds["linux"]
            (top / "churn.cpio").write_bytes(linuxguest.initrd(str(host.TOP), script, programs=churn))
            for name, play in cls.plays.items():
                (top / name).write_text(play.text())
            files = [host.HV, f"{build_program(str(host.TOP), *TOOLS['/bin/stage'])}:/bin/stage", host.TOP / "build/testhost/vmlinuz"]
            files += [top / name for name in ("guest.elf", "churn.cpio", *cls.plays)]
            with open(top / "a.out", "w+b") as out_a, open(top / "b.out", "w+b") as out_b:
                processes = [cls.start(*args, files) for args in zip((A, B), cable.ports, (SCRIPT_A, SCRIPT_B), (out_a, out_b))]
                try:
                    cls.await_both(processes, cable)
                finally:
                    for process in processes:
                        process.terminate()  # each kills its QEMU
                        process.wait()
                    output = [Path(out.name).read_text(errors="replace").replace("\r\n", "\n") for out in (out_a, out_b)]
            if processes[0].returncode:
                raise HostFailed(f"{output[0][-1000:]}\n{output[1][-1000:]}")
            return "\n".join(output), cable.messages

    @staticmethod
    def start(address, port, script, out, files):
        arguments = [word for file in files for word in ("--file", str(file))]
        argv = [host.TOP / "scripts/testhost-run", "--nic", f"{address}/24,socket,connect=127.0.0.1:{port}", "--timeout", str(BOOT_SECONDS),
                *arguments, "--", script]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    @staticmethod
    def await_both(processes, cable):
        source, destination = processes
        while source.poll() is None:
            if cable.power_off.is_set():
                destination.terminate()
            elif destination.poll() is not None:
                return  # too early: A waits for it in vain
            time.sleep(0.05)

    def played(self, name):
        told = self.told[name]
        if told.failed:
            self.fail(f"{told.play.line(told.failed[0])}: {told.failed[1]} {told.explain()}")
        return told

    def expected(self, name):
        model = Writer(self.params)
        model.write(self.seeds[name], 300)
        return [model.hash()]

    def is_at_destination(self, name):
        there, here = self.played("destinations")[name], self.played("sources")[name]
        self.assertTrue(here.ended_well, (here, self.messages[name]))
        self.assertIn(f"hv: moved to {uri(name)}".encode(), here.err)
        self.assertTrue(there.ended_well, there)
        return there

    def types(self, name):
        """Of the messages that decide who has a VM, those that were said."""
        return [kind for _, _, kind, _ in self.messages[name] if kind in (streamfile.READY, streamfile.COMMIT, streamfile.COMMITTED)]

    def asked_and_heard(self, name):
        """COMMITTED did not arrive, so the source asked over another connection."""
        told = self.told["sources"]
        if name == "lost":
            self.assertNotIn("standing", told.answers.get(told.play.lost, ""))
        there = self.is_at_destination(name)
        self.assertEqual(there.values("hash"), self.expected(name))
        later = [message for message in self.messages[name] if message[1] > 0]
        self.assertEqual([(from_a, kind, instance) for from_a, _, kind, instance in later[:2]],
                         [(True, streamfile.ASK, 0), (False, streamfile.ANSWER, 1)], self.messages[name])

    def test_linux(self):
        there = self.is_at_destination("linux")
        out = there.out.replace(b"\r", b"")
        churn = [tuple(map(int, line)) for line in re.findall(rb"(?m)^moved churn (\d+) (\d+) (\d+)$", out)]
        self.assertGreater(len(churn), 5, out)
        self.assertEqual([bad for _, bad, _ in churn if bad], [])
        self.assertIn(b"moved churn ended", out)
        self.assertIn(b"status 0", out)
        self.assertNotIn(b"moved churn", self.played("sources")["linux"].out)
        print(f"Linux between two hosts: {len(churn)} lines of churn, its longest gap {max(gap for _, _, gap in churn) / 1000:.0f} ms")

    def test_broken_in_front_of_committed(self):
        self.asked_and_heard("broken")

    def test_silent_connection_behind_commit(self):
        self.asked_and_heard("lost")

    def test_no_way_behind_commit(self):
        """COMMIT did not arrive either, but the source cannot know: it stands until its user knows better."""
        told = self.played("sources")
        job = told.job(told.play.standing)
        self.assertEqual(job["state"], "standing", job)
        self.assertIn("nobody knows whether the VM runs at " + uri("dark"), job["reason"])
        self.assertEqual(told["dark"].values("hash"), self.expected("dark"))
        there = self.played("destinations")["dark"]
        self.assertEqual((there.how, there.number), ("status", host.HOST), there)
        self.assertIn(b"hv: the VM stays where it was", there.err)
        self.assertNotIn(b"hash", there.out)
        self.assertEqual(self.types("dark"), [streamfile.READY, streamfile.COMMIT])

    def test_host_without_power(self):
        told = self.played("survivor")
        job = told.job(told.play.ended)
        self.assertEqual(job["state"], "failed", job)
        self.assertIn("the VM goes on here", job["reason"])
        self.assertEqual(told["dead"].values("hash"), self.expected("dead"))
        self.assertEqual(self.types("dead"), [streamfile.READY])


if __name__ == "__main__":
    unittest.main()
