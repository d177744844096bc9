"""Debian's kernel with an ext4 root file system on virtio-blk: boot, files, power-off, discard, read-only, and kill -9 of hv in between.

What is on the image is looked at in the test host, outside the guest, with e2fsprogs.
"""

import pathlib
import random
import re
import tempfile
import unittest

import host
from host import Command

import linuxguest

SEED = host.seed_from_environment(random)
RANDOM = random.Random(SEED)

BOOT = ("hv run --engine kvm --mem 128M --timeout 100 --append 'console=ttyS0 quiet panic=-1' --initrd %s --disk /tmp/d.img%s "
        "--stats json vmlinuz")

# What the guest does is in the file /phase of the image.
SCRIPT = """
case $(cat /phase) in
first)
    mkdir -p /a/b && echo 'hello %(seed)d' >/a/b/c
    dd if=/dev/urandom of=/data bs=64k count=100 2>/dev/null
    echo "sum $(sha256sum </data)"
    echo second >/phase ;;
second)
    echo "sum $(sha256sum </data)"
    rm /data && sync && fstrim / && echo trimmed
    echo kill >/phase ;;
kill)
    [ -f /through ] && echo 'write through' >/sys/block/vda/cache_type
    cat /sys/block/vda/cache_type
    exec /bin/durable /records %(seed)d ;;
esac
"""

LOOK = """
e2fsck -fn /tmp/d.img >/tmp/fsck 2>&1; echo "fsck $?"
echo "blocks $(du -k /tmp/d.img | cut -f1)"
"""

# One guest after the other, with the image that the one before has left.
PHASES = "cp root.img /tmp/d.img; %s; " + LOOK + "debugfs -R 'cat /a/b/c' /tmp/d.img; %s;" + LOOK

READ_ONLY = "cp root.img /tmp/d.img; sum=$(sha256sum </tmp/d.img); %s; [ \"$sum\" = \"$(sha256sum </tmp/d.img)\" ] && echo unchanged"
READ_ONLY_SCRIPT = """
insmod_done=$(cat /sys/block/vda/ro); echo "ro $insmod_done"
mount -t ext4 -o ro,noload /dev/vda /root && cat /root/phase
dd if=/dev/zero of=/dev/vda bs=4k count=1 2>/dev/null || echo "not written"
"""

# hv dies in the middle. The journal is replayed, which a mount would do, and nothing may be wrong then.
KILL = r"""
cp root.img /tmp/d.img; echo kill >/tmp/phase; : >/tmp/empty
printf 'rm /phase\nwrite /tmp/phase /phase\n%(through)s\n' >/tmp/commands; : >/tmp/screen
debugfs -w -f /tmp/commands /tmp/d.img >/dev/null 2>&1
%(boot)s </dev/null >/tmp/screen 2>/tmp/err & hv=$!
until grep -q 'durable %(after)d' /tmp/screen; do usleep 20000; kill -0 $hv 2>/dev/null || break; done
usleep %(late)d
kill -9 $hv; wait $hv; echo "ended $?"
cat /tmp/screen; cat /tmp/err
e2fsck -y -E journal_only /tmp/d.img >/tmp/replay 2>&1; echo "replay $?"
e2fsck -fn /tmp/d.img >/tmp/fsck 2>&1; echo "fsck $?"; [ -s /tmp/fsck ] && tail -n 5 /tmp/fsck
debugfs -R 'dump /records /tmp/records' /tmp/d.img 2>/dev/null
echo @@records
cat /tmp/records
"""
KILLS = 5


class LinuxDisk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "testhost", "build/vm/usage")
        top = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="linux-disk.")))
        linuxguest.disk(top / "root.img", 24, SCRIPT % {"seed": SEED}, {"phase": b"first\n"}, {"bin/durable": linuxguest.durable(host.TOP)})
        (top / "root.cpio").write_bytes(linuxguest.initrd_for_disk(host.TOP))
        (top / "look.cpio").write_bytes(linuxguest.initrd(host.TOP, READ_ONLY_SCRIPT, ["disk"]))
        boot = BOOT % ("root.cpio", "")
        commands = {
            "phases": PHASES % (boot, boot),
            "read-only": READ_ONLY % (BOOT % ("look.cpio", ",ro")),
        }
        cls.kills = {}
        for number in range(KILLS):
            through, way = number % 2, ("io_uring", "threads")[number // 2 % 2]
            name = f"kill {number} {'writethrough' if through else 'writeback'} {way}"
            cls.kills[name] = {
                "boot": BOOT % ("root.cpio", ",aio=" + way), "through": "write /tmp/empty /through" if through else "",
                "after": RANDOM.randrange(1, 40), "late": RANDOM.randrange(0, 300000),
            }
            commands[name] = KILL % cls.kills[name]
        files = [host.HV, host.TOP / "build/testhost/vmlinuz", top / "root.img", top / "root.cpio", top / "look.cpio",
                 linuxguest.tool("e2fsck"), linuxguest.tool("debugfs")]
        cls.results = host.run({name: Command(["sh", "-c", line], limit=150) for name, line in commands.items()}, files, mem=1024,
                               timeout=900)

    def output(self, name):
        result = self.results[name]
        self.assertIsNone(host.CRASH.search(result.stderr), result.stderr[-800:])
        return result.stdout.decode(errors="replace").replace("\r", "")

    def test_files_are_there_in_the_next_boot_and_the_file_system_is_clean(self):
        output = self.output("phases")
        self.assertEqual(self.results["phases"].stderr.count("hv: the guest powered the machine off"), 2,
                         self.results["phases"].stderr[-800:])
        sums = re.findall(r"^sum (\w{64})", output, re.M)
        self.assertEqual(len(sums), 2, output)
        self.assertEqual(sums[0], sums[1])
        self.assertEqual(re.findall(r"^fsck (\d+)", output, re.M), ["0", "0"], output)
        self.assertIn(f"hello {SEED}", output)

    def test_what_the_guest_trims_the_image_gives_back(self):
        output = self.output("phases")
        self.assertIn("trimmed", output)
        before, after = (int(n) for n in re.findall(r"^blocks (\d+)", output, re.M))
        self.assertLess(after, before - 5000, output)

    def test_a_read_only_disk_is_not_written(self):
        output = self.output("read-only")
        for line in ("ro 1", "first", "not written", "unchanged"):
            self.assertRegex(output, "(?m)^" + line + "$")

    def test_what_was_told_to_be_durable_survives_kill(self):
        for name, kill in self.kills.items():
            with self.subTest(name, seed=SEED):
                whole = self.results[name].stdout
                text, _, records = whole.partition(b"@@records\n")
                output = text.decode(errors="replace").replace("\r", "")
                self.assertIn("ended 137", output)
                self.assertIn("write through" if kill["through"] else "write back", output)
                self.assertRegex(output, r"(?m)^fsck 0$")
                told = linuxguest.told_durable(text)
                self.assertGreaterEqual(told, kill["after"], output)
                self.assertIsNone(linuxguest.first_missing(records, told, SEED), f"{told} records were durable, {len(records)} bytes")


if __name__ == "__main__":
    unittest.main()
