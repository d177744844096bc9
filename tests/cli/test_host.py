"""What hv says about the host it runs on, and in what state it leaves a terminal: in the test host, where /dev/kvm works, can be
forbidden and can be taken away."""

import json
import subprocess
import tempfile
import unittest

from support import (CRASH, GUESTS, HOST, INTERRUPTED, OK, PROGRAMS, STOPPED, TIMEOUT, TOP, USAGE, elf, in_test_host)

SPIN = "run spin.elf"
TERMINAL = {
    "ctrl-a x": ("terminal --type ^Ax", OK),
    "sigint": ("terminal --signal 2", INTERRUPTED),
    "sigterm": ("terminal --signal 15", INTERRUPTED),
    "sighup": ("terminal --signal 1", None),
    "timeout": ("terminal", TIMEOUT),
}


class TestHost(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        terminal = f"{directory.name}/terminal"
        subprocess.run(["gcc", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-o", terminal,
                        TOP / "tests/cli/terminal.c"], check=True)
        image = f"{directory.name}/good.elf"
        with open(image, "wb") as file:
            file.write(elf())
        hv, san = PROGRAMS.values()
        files = [f"{hv}:/work/hv", f"{san}:/work/hv-san", terminal, image,
                 *(GUESTS / f"{name}.elf" for name in ("spin", "hello", "triple", "badport"))]
        cases = {}
        for program in ("hv", "hv-san"):
            for name, (how, _) in TERMINAL.items():
                limit = "--timeout 2 " if name == "timeout" else ""
                cases[f"{program} {name}"] = f"{how} {program} {SPIN.replace('run', 'run ' + limit)}"
            cases[f"{program} bad image on a terminal"] = f"terminal {program} run /work"
            cases[f"{program} hello"] = f"{program} run hello.elf"
            cases[f"{program} hello on a terminal"] = f"terminal {program} run hello.elf"
            cases[f"{program} stats"] = f"{program} run --stats json hello.elf"
            cases[f"{program} trace"] = f"{program} run --trace exits hello.elf"
            cases[f"{program} triple fault"] = f"{program} run triple.elf"
            cases[f"{program} nothing there"] = f"{program} run badport.elf"
            cases[f"{program} output closed"] = f"{program} run hello.elf >&-"
            cases[f"{program} output full"] = f"{program} run hello.elf >/dev/full"
            cases[f"{program} input closed"] = f"{program} run hello.elf <&-"
            cases[f"{program} reader gone"] = f"{program} run --trace exits hello.elf 2>&1 | head -n 1"
            cases[f"{program} port taken"] = (f"nc -l -p 4321 & sleep 1; {program} run --gdb 4321 --timeout 5 hello.elf; "
                                              "status=$?; kill $!; exit $status")
            cases[f"{program} unreadable image"] = f"chmod 600 good.elf; su student -c '{program} run good.elf'"
            cases[f"{program} no permission"] = (f"chmod 600 /dev/kvm; su student -c '{program} run hello.elf'; "
                                                 "status=$?; chmod 666 /dev/kvm; exit $status")
            cases[f"{program} ordinary user"] = f"su student -c '{program} run hello.elf'"
        for program in ("hv", "hv-san"):
            cases[f"{program} no /dev/kvm"] = f"rm -f /dev/kvm; {program} run hello.elf"
        cls.results = in_test_host(files, cases)

    def each(self, case):
        """What the case gave with the plain build and with the sanitizers."""
        results = [self.results[f"{program} {case}"] for program in ("hv", "hv-san")]
        for _, out, err in results:
            self.assertNotRegex(out + err, CRASH)
        return results

    def refused(self, case, status, words):
        for got, out, err in self.each(case):
            self.assertEqual((got, out), (status, ""), err)
            self.assertRegex(err, r"\Ahv: [^\n]+\Z")
            self.assertRegex(err, words)

    def test_no_kvm(self):
        self.refused("no /dev/kvm", HOST, "there is no /dev/kvm.*make doctor")

    def test_no_permission(self):
        self.refused("no permission", HOST, "no permission to open /dev/kvm")

    def test_unreadable_image(self):
        self.refused("unreadable image", USAGE, "Permission denied")

    def test_debugger_port_taken(self):
        for status, _, err in self.each("port taken"):
            self.assertIn(status, (USAGE, HOST))
            self.assertRegex(err, r"hv: [^\n]*4321")

    def test_terminal_is_restored(self):
        for case, (_, expected) in TERMINAL.items():
            for status, out, err in self.each(case):
                self.assertEqual(status, 0, err)
                self.assertRegex(out, r"\Araw=1 .*restored=1", f"{case}: {err}")
                if expected is not None:
                    self.assertIn(f"status={expected} signal=0", out, f"{case}: {err}")

    def test_terminal_is_restored_at_the_guests_end(self):
        for _, out, _ in self.each("hello on a terminal"):
            self.assertRegex(out, r"\Araw=1 status=0 signal=0 restored=1")
            self.assertIn("Hello from ring 0", out)

    def test_refused_image_does_not_touch_the_terminal(self):
        for _, out, _ in self.each("bad image on a terminal"):
            self.assertRegex(out, rf"\Araw=0 status={USAGE} signal=0 restored=1")

    def test_guest_runs(self):
        for case in ("hello", "ordinary user", "input closed"):
            for status, out, err in self.each(case):
                self.assertEqual((status, out, err), (OK, "Hello from ring 0", ""), case)

    def test_output_that_goes_nowhere(self):
        for case in ("output closed", "output full"):
            for status, out, _ in self.each(case):
                self.assertIn(status, (OK, HOST), case)
                self.assertEqual(out, "")

    def test_stats_are_one_line_of_json(self):
        for status, out, err in self.each("stats"):
            self.assertEqual((status, out), (OK, "Hello from ring 0"))
            stats = json.loads(err)
            self.assertEqual((stats["engine"], stats["status"], stats["guest_code"]), ("trap", 0, 0))
            # One exit for each privileged instruction of hello.S: the letters, cli twice, sti, and the end.
            self.assertEqual(stats["emulated"]["out"], len("Hello from ring 0\n") + 1)
            self.assertEqual((stats["emulated"]["cli"], stats["emulated"]["sti"]), (2, 1))

    def test_trace_names_the_instructions(self):
        for status, _, err in self.each("trace"):
            self.assertEqual(status, OK)
            for text in ("cli", "sti", r"out %al, \$0xe9"):
                self.assertRegex(err, rf"(?mi)^exit +\d+ .*{text}")

    def test_triple_fault_is_a_sentence(self):
        for status, _, err in self.each("triple fault"):
            self.assertEqual(status, STOPPED)
            self.assertRegex(err, r"\Ahv: [^\n]*triple fault")

    def test_unclaimed_addresses_are_reported(self):
        for status, _, err in self.each("nothing there"):
            self.assertEqual(status, OK)
            self.assertIn("0x1234", err)
            self.assertIn("0xd0000000", err)


if __name__ == "__main__":
    unittest.main()
