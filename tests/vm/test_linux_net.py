"""Debian's virtio_net driver on hv's network device: this machine through libslirp, and two VMs on a socket. All traffic stays in the test
host. What was transferred is compared by checksum, made on the side that has the original."""

import hashlib
import json
import pathlib
import random
import re
import sys
import tempfile
import unittest

import host
from host import Command

sys.path.insert(0, str(host.TOP / "grader/lib"))
import linuxguest  # noqa: E402

PORT, FORWARDED = 8099, 8080
PAYLOAD = 2_000_000
FROM_GUEST = 1_000_000
BOOT = f'--engine kvm --mem 256M --timeout 150 --stats json --append "{linuxguest.APPEND}"'

# What udhcpc tells is believed.
LEASE = r"""
cat >/tmp/lease <<'END'
[ "$1" = bound ] || exit 0
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
ip route replace default via $router
echo "lease $interface $ip router $router dns $dns"
END
chmod +x /tmp/lease
sed -i '1i #!/bin/sh' /tmp/lease
up() {
    for i in /sys/class/net/eth*; do ip addr flush dev ${i##*/}; ip link set ${i##*/} down; done
    ip link set $1 up; udhcpc -i $1 -n -q -s /tmp/lease 2>/dev/null
}
"""

USER = LEASE + f"""
for i in 0 1 2; do echo "mac$i $(cat /sys/class/net/eth$i/address) mtu $(cat /sys/class/net/eth$i/mtu)"; done
up eth2
timeout 20 wget -q -O - http://10.0.2.2:{PORT}/payload | sha256sum | sed 's/^/large /'
up eth1
timeout 2 wget -q -O - http://10.0.2.2:{PORT}/payload >/tmp/none 2>/tmp/refused && echo restricted let it through ||
    echo "restricted $(wc -c </tmp/none)"
up eth0
ping -c 3 -q 10.0.2.2 | grep received
nslookup -type=a answer.example 10.0.2.3 | grep -A1 answer.example
timeout 20 wget -q -O - http://10.0.2.2:{PORT}/payload | sha256sum | sed 's/^/payload /'
mkdir /www; head -c {FROM_GUEST} /dev/urandom >/www/made; sha256sum /www/made | sed 's/^/made /'
httpd -p 80 -h /www
n=0; until [ "$(timeout 5 wget -q -O - http://10.0.2.2:{PORT}/stop 2>/dev/null)" = stop ] || [ $n = 200 ]; do sleep 0.2; n=$((n + 1)); done
"""

USER_HOST = f"""
echo nameserver 127.0.0.1 >/etc/resolv.conf
nameserver & dns=$!
httpd -p 127.0.0.1:{PORT} -h /www
hv run {BOOT} --net user,mac=02:12:34:56:78:9a,hostfwd=tcp::{FORWARDED}-:80 --net user,restrict=on --net user,mtu=65520 \\
    --initrd user.cpio vmlinuz </dev/null & hv=$!
n=0; until timeout 20 wget -q -O /tmp/made http://127.0.0.1:{FORWARDED}/made 2>/dev/null || [ $n = 200 ]; do sleep 0.3; n=$((n + 1)); done
sha256sum /tmp/made | sed 's/^/forwarded /'
echo stop >/www/stop
wait $hv; status=$?
kill $dns
exit $status
"""

SERVER = f"""
ip link set eth0 up; ip addr add 192.168.7.1/24 dev eth0
mkdir /www; head -c {PAYLOAD} /dev/urandom >/www/file; sha256sum /www/file | sed 's/^/served /'
httpd -p 80 -h /www
n=0; until [ "$(timeout 5 wget -q -O - http://192.168.7.2/done 2>/dev/null)" = done ] || [ $n = 200 ]; do sleep 0.2; n=$((n + 1)); done
sha256sum /www/file | sed 's/^/still /'
"""

# The driver goes and comes again in the middle, as on a reset.
CLIENT = """
ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0
fetch() {
    n=0; until timeout 20 wget -q -O /tmp/file http://192.168.7.1/file || [ $n = 200 ]; do sleep 0.2; n=$((n + 1)); done
    sha256sum /tmp/file | sed "s/^/$1 /"; rm /tmp/file
}
fetch first
ping -c 3 -q 192.168.7.1 | grep received
ip link set eth0 down; rmmod virtio_net; insmod /modules/virtio_net.ko
ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0
fetch again
mkdir /www; echo done >/www/done; httpd -p 80 -h /www
n=0; while [ "$(cat /sys/class/net/eth0/carrier)" = 1 ] && [ $n -lt 100 ]; do sleep 0.2; n=$((n + 1)); done
echo "carrier $(cat /sys/class/net/eth0/carrier)"
"""

PAIR_HOST = f"""
one() {{
    hv run {BOOT} $2 --net socket=/tmp/cable,mtu=9000 --initrd $1.cpio vmlinuz </dev/null >$1.out 2>$1.err
    echo "ended $1 $?" >>$1.out
}}
one server "$1" & one client "$1"; wait
cat server.out client.out
cat server.err client.err >&2
[ -e /tmp/cable ] && echo "the socket is still there" || true
"""


def sums(text):
    """word -> checksum."""
    return dict(re.findall(r"(?m)^(\w+) ([0-9a-f]{64}) ", text))


class LinuxNet(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "testhost", "build/vm/usage", "build/vm/nameserver")
        rng = random.Random(host.seed_from_environment(random))
        cls.payload = rng.randbytes(PAYLOAD)
        with tempfile.TemporaryDirectory(prefix="linux-net.") as directory:
            top = pathlib.Path(directory)
            files = [host.HV, host.TOP / "build/testhost/vmlinuz", host.VM_GUESTS / "nameserver", f"{top / 'payload'}:/www/payload"]
            (top / "payload").write_bytes(cls.payload)
            for name, script in (("user", USER), ("server", SERVER), ("client", CLIENT)):
                (top / f"{name}.cpio").write_bytes(linuxguest.initrd(str(host.TOP), script, ["net"]))
                files.append(top / f"{name}.cpio")
            commands = {"user": Command(["sh", "-c", USER_HOST], limit=170),
                        "pair": Command(["sh", "-c", PAIR_HOST, "pair", "--cpus 2"], limit=170),
                        "tap": Command(["hv", "run", "--engine", "kvm", "--mem", "256M", "--net", "tap=none", "vmlinuz"])}
            cls.results = host.run(commands, files, mem=1536, timeout=600)
        cls.user, cls.pair = (cls.results[name].stdout.decode(errors="replace").replace("\r\n", "\n") for name in ("user", "pair"))

    def devices(self, name):
        lines = [line for line in self.results[name].stderr.splitlines() if line.startswith("{")]
        return [device for line in lines for device in json.loads(line)["virtio"]]

    def test_guest_ends_well(self):
        for name in ("user", "pair"):
            self.assertEqual(self.results[name].status, host.OK, self.results[name].stderr[-1500:])
        self.assertEqual(re.findall(r"(?m)^ended (\w+) (\d+)$", self.pair), [("server", "0"), ("client", "0")], self.pair)
        self.assertNotIn("the socket is still there", self.pair)

    def test_address_and_mtu_are_the_configured_ones(self):
        seen = {number: (mac, mtu) for number, mac, mtu in re.findall(r"(?m)^mac(\d) (\S+) mtu (\d+)$", self.user)}
        self.assertEqual(seen["0"], ("02:12:34:56:78:9a", "1500"))
        self.assertEqual(seen["2"][1], "65520")
        self.assertEqual(len({mac for mac, _ in seen.values()}), 3)
        for mac, _ in seen.values():
            self.assertEqual(int(mac[:2], 16) & 3, 2, "not a locally administered address of one interface")

    def test_dhcp_ping_and_a_name(self):
        self.assertIn("lease eth0 10.0.2.15 router 10.0.2.2 dns 10.0.2.3", self.user)
        self.assertIn("3 packets transmitted, 3 packets received", self.user)
        self.assertRegex(self.user, r"answer\.example\nAddress: 10\.9\.8\.7")

    def test_guest_downloads_from_the_host(self):
        expected = hashlib.sha256(self.payload).hexdigest()
        self.assertEqual(sums(self.user).get("payload"), expected, self.user)
        self.assertEqual(sums(self.user).get("large"), expected, "with an MTU of 65520: " + self.user)

    def test_host_downloads_from_the_guest(self):
        found = sums(self.user)
        self.assertTrue(found.get("made"))
        self.assertEqual(found.get("forwarded"), found["made"])

    def test_restricted_guest_reaches_nothing(self):
        self.assertIn("lease eth1 10.0.2.15", self.user)
        self.assertRegex(self.user, r"(?m)^restricted 0$")

    def test_two_vms(self):
        found = sums(self.pair)
        self.assertTrue(found.get("served"))
        self.assertEqual({found.get(word) for word in ("first", "again", "still")}, {found["served"]}, self.pair)
        self.assertIn("3 packets transmitted, 3 packets received", self.pair)
        self.assertIn("carrier 0", self.pair)

    def test_devices_were_not_broken(self):
        for name, count in (("user", 3), ("pair", 2)):
            devices = self.devices(name)
            self.assertEqual(len(devices), count)
            for device in devices:
                self.assertEqual((device["broken"], device["tx_dropped"]), (0, 0), device)
                self.assertGreater(device["rx_frames"], 0)

    def test_tap_that_is_not_there(self):
        self.assertEqual(self.results["tap"].status, host.HOST)
        self.assertRegex(self.results["tap"].stderr, r"hv: /dev/net/tun cannot be opened .*or use --net user")


if __name__ == "__main__":
    unittest.main()
