"""Debian's drivers on hv's entropy, console and balloon devices: split and packed rings, with and without indirect
tables, event indices and eventfds."""

import json
import pathlib
import re
import sys
import tempfile
import unittest

import host
from host import Command

sys.path.insert(0, str(host.TOP / "grader/lib"))
import linuxguest  # noqa: E402

VMLINUZ = host.TOP / "build/testhost/vmlinuz"
BALLOON_MIB = 40
CASES = {  # options, and the feature bits that the driver must have accepted and must not
    "packed": ("--rings packed", {28, 29, 34}, set()),
    "packed-bare": ("--rings packed,indirect=off,event-idx=off --event-fds off", {34}, {28, 29}),
    "split": ("--rings split", {28, 29}, {34}),
    "split-bare": ("--rings split,indirect=off,event-idx=off --event-fds off", set(), {28, 29, 34}),
}

# In the guest. Descriptor 3 stays open: a terminal that nobody has open forgets its mode and its input.
SCRIPT = """
memory() { echo "memory $1 $(grep MemAvailable /proc/meminfo | tr -dc 0-9)"; }
for d in /sys/bus/virtio/devices/*; do echo "device $(cat $d/device) $(cat $d/features)"; done
echo "random $(dd if=/dev/hwrng bs=1000 count=8 2>/dev/null | md5sum) $(dd if=/dev/hwrng bs=1000 count=8 2>/dev/null | md5sum)"
dd if=/dev/hwrng bs=1000 count=8 2>/dev/null | wc -c | sed 's/^/bytes /'
exec 3<>/dev/hvc0
stty raw -echo <&3
echo ready >&3
for i in 1 2 3; do read line <&3; echo "back $line" >&3; done
seq 1 2000 | tr '\\n' ' ' >&3; echo >&3
dd if=/dev/zero of=/tmp/fill bs=1M count=48 2>/dev/null; rm /tmp/fill
memory before
echo inflate >&3; read line <&3; memory during
echo deflate >&3; read line <&3; memory after
"""

# In the test host: somebody who types, and who asks for memory.
TALK = """
wait_for() { n=0; until grep -q "$1" out; do sleep 0.2; n=$((n + 1)); [ $n -lt 300 ] || exit 1; done; }
rss() { for p in $(pidof hv); do sed -n 's/^RssAnon:/rss/p' /proc/$p/status; done | head -n 1 >&2; }
ask() { hv ctl ./socket balloon $1 >&2; n=0; until hv ctl ./socket stats | grep -q "actual_pages\\":$(($1 * 256)),"; do
    sleep 0.2; n=$((n + 1)); [ $n -lt 100 ] || break; done; }
wait_for ready; echo one; wait_for 'back one'; echo two; wait_for 'back two'; echo three
wait_for inflate; rss; ask %(mib)d; rss; hv ctl ./socket stats >/dev/null; sleep 0.5; hv ctl ./socket stats >&2; echo go
wait_for deflate; ask 0; echo go
""" % {"mib": BALLOON_MIB}

RUN = """
rm -f socket
cat >talk <<'END'
%s
END
: >out
sh talk 2>said | hv run --engine kvm --mem 128M --timeout 100 --stats json --control ./socket --initrd initrd --append '%s' %s \
    --rng --console --balloon vmlinuz >out 2>err
status=$?
cat said err >&2
cat out
exit $status
"""


class Devices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "testhost", "build/vm/usage")
        with tempfile.TemporaryDirectory() as top:
            initrd = pathlib.Path(top) / "initrd"
            initrd.write_bytes(linuxguest.initrd(host.TOP, SCRIPT, ["rng", "console", "balloon"]))
            commands = {name: Command(["sh", "-c", RUN % (TALK, linuxguest.APPEND, options)], limit=120)
                        for name, (options, _, _) in CASES.items()}
            cls.results = host.run(commands, [host.HV, VMLINUZ, initrd], mem=768, timeout=500)

    def lines(self, name):
        result = self.results[name]
        text = result.stdout.decode(errors="replace").replace("\r", "")
        self.assertEqual(result.status, 0, text[-2000:] + result.stderr[-2000:])
        return text

    def test_features(self):
        for name, (_, wanted, unwanted) in CASES.items():
            with self.subTest(name):
                found = re.findall(r"^device 0x(\d+) ([01]+)$", self.lines(name), re.M)
                self.assertEqual([int(number) for number, _ in found], [4, 3, 5])
                for number, bits in found:
                    accepted = {i for i, bit in enumerate(bits) if bit == "1"}
                    # Linux's balloon takes no indirect tables: they would need memory just when there is little.
                    self.assertLessEqual((wanted | {32}) - ({28} if number == "0005" else set()), accepted)
                    self.assertFalse(unwanted & accepted)

    def test_entropy(self):
        for name in CASES:
            with self.subTest(name):
                text = self.lines(name)
                sums = re.search(r"^random (\w+)  - (\w+)  -$", text, re.M)
                self.assertTrue(sums, text[-1000:])
                self.assertNotEqual(sums[1], sums[2])
                self.assertIn("\nbytes 8000\n", text)

    def test_console(self):
        for name in CASES:
            with self.subTest(name):
                text = self.lines(name)
                for word in ("one", "two", "three"):
                    self.assertIn(f"back {word}\n", text)
                self.assertIn(" ".join(str(i) for i in range(1, 2001)) + " \n", text)

    def test_balloon(self):
        for name in CASES:
            with self.subTest(name):
                memory = dict(re.findall(r"^memory (\w+) (\d+)$", self.lines(name), re.M))
                before, during, after = (int(memory[when]) for when in ("before", "during", "after"))
                self.assertGreater(before - during, BALLOON_MIB * 1024 * 0.9)
                self.assertLess(abs(after - before), BALLOON_MIB * 1024 * 0.2)
                said = self.results[name].stderr
                rss = [int(kib) for kib in re.findall(r"^rss\s+(\d+) kB$", said, re.M)]
                self.assertEqual(len(rss), 2, said)
                self.assertGreater(rss[0] - rss[1], BALLOON_MIB * 1024 * 0.9)
                asked = [json.loads(line) for line in said.splitlines() if line.startswith('{"engine"')]
                balloon = asked[0]["virtio"][2]
                self.assertEqual(balloon["actual_pages"], BALLOON_MIB * 256)
                self.assertLess(abs(balloon["memory"]["available"] - during * 1024), 8 << 20)

    def test_nothing_is_broken(self):
        for name in CASES:
            with self.subTest(name):
                self.lines(name)
                stats = [json.loads(line) for line in self.results[name].stderr.splitlines() if line.startswith('{"engine"')]
                for device in stats[-1]["virtio"]:
                    self.assertEqual((device["broken"], device["reason"]), (0, ""))


if __name__ == "__main__":
    unittest.main()
