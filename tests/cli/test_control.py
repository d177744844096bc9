"""hv run --control and --name, hv ctl, hv list: one VM that another program looks at and commands."""

import json
import os
import socket
import tempfile
import threading
import unittest

from support import CRASH, GUEST_FAILED, GUESTS, HOST, INTERRUPTED, OK, PROGRAMS, USAGE, in_test_host, run

# Waits until the VM answers, or its socket is gone.
SHELL = "up() {{ until {hv} ctl $1 status >/dev/null 2>&1; do usleep 50000; done; }}\n"
CASES = {
    # The answers, one a line, then how the VM ended and what is left of it.
    "commands": """{hv} run --engine {engine} --mem 32M --name one spin.elf 2>err & up one
        {hv} ctl one status; {hv} ctl one stats; {hv} ctl one screen | tail -n 1; {hv} ctl one balloon 4; echo $?
        {hv} ctl one quit; {hv} ctl one status; echo $?; wait $!; echo $?; cat err; ls -A /tmp/trapdoor-0""",
    "list": """{hv} run --name two spin.elf 2>err & up two; {hv} run --engine kvm --name three spin.elf & up three
        kill -9 $!; wait $! 2>/dev/null; {hv} run --mem 4M --name four spin.elf 2>err & up four
        {hv} list; {hv} ctl two quit; {hv} list; {hv} ctl four quit; {hv} list; ls -A /tmp/trapdoor-0; wait""",
    "taken": """{hv} run --control vm.sock spin.elf 2>err & up vm.sock; {hv} run --control vm.sock spin.elf; echo $?
        {hv} ctl vm.sock status; kill -9 $!; wait $! 2>/dev/null; {hv} run --control vm.sock --timeout 1 spin.elf; echo $?; ls vm.sock""",
    # While it is paused its processor enters the guest no more; then it does again.
    "pause": """{hv} run --engine {engine} --name one spin.elf 2>err & up one; {hv} ctl one pause; {hv} ctl one stats; usleep 600000
        {hv} ctl one stats; {hv} ctl one status; {hv} ctl one resume; usleep 600000; {hv} ctl one pause
        {hv} ctl one stats; {hv} ctl one quit; wait $!; echo $?""",
    "names": r"""run() {{ cp spin.elf $1; {hv} run --name one $1 2>err & up one; {hv} ctl one status; {hv} ctl one quit; wait; }}
        run Gäste.elf; run "$(printf 'G\344ste.elf')" """,
    "signal": "{hv} run --control vm.sock spin.elf 2>err & up vm.sock; kill $!; wait $!; echo $?; ls vm.sock",
    "others": """chmod 755 .; {hv} run --control vm.sock spin.elf 2>err & up vm.sock
        su student -c '{hv} ctl vm.sock quit'; echo $?; {hv} ctl vm.sock quit; wait
        su student -c 'mkdir /tmp/trapdoor-0; ln -s /tmp/trapdoor-0 /tmp/trapdoor-1' ; {hv} run --name x spin.elf; echo $?
        {hv} list; echo $?; rm -r /tmp/trapdoor-0 /tmp/trapdoor-1""",
}
ENGINES = ("trap", "kvm", "hvm")


class Control(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        hv, san = PROGRAMS.values()
        files = [f"{hv}:/work/hv", f"{san}:/work/hv-san", GUESTS / "spin.elf"]
        cases = {}
        for program in ("hv", "hv-san"):
            for name, script in CASES.items():
                for engine in ENGINES if "{engine}" in script else ("",):
                    script_now = ("exec 2>&1; rm -rf /tmp/trapdoor-0\n" + SHELL + script).format(hv=program, engine=engine)
                    cases[f"{program} {name} {engine}"] = script_now
        cls.results = in_test_host(files, cases)

    def each(self, case, engine=""):
        """The lines that the case printed with the plain build and with the sanitizers."""
        found = [self.results[f"{program} {case} {engine}"][1] for program in ("hv", "hv-san")]
        for out in found:
            self.assertNotRegex(out, CRASH)
        return [out.splitlines() for out in found]

    def test_commands(self):
        for engine in ENGINES:
            for lines in self.each("commands", engine):
                status, stats = json.loads(lines[0]), json.loads(lines[1])
                self.assertEqual((status["state"], status["engine"], status["memory_kib"], status["image"]),
                                 ("running", engine, 32 << 10, "spin.elf"))
                self.assertEqual((stats["engine"], stats["reason"], stats["unclaimed"]), (engine, "", []))
                self.assertRegex(lines[2], r"^cursor: row \d+, column \d+$")
                self.assertEqual(lines[3:6], ["hv: this VM has no balloon; start it with --balloon", "1", '{"state":"ending"}'])
                self.assertRegex(lines[6], "^hv: no VM answers at ")
                self.assertEqual(lines[7:], [str(HOST), str(OK), "hv: ended by hv ctl quit"])

    def test_pause(self):
        for engine in ENGINES:
            for lines in self.each("pause", engine):
                before, after, resumed = (json.loads(lines[i])["guest_ms"] for i in (1, 2, 6))
                self.assertEqual((lines[0], lines[4]), ('{"state":"paused"}', '{"state":"running"}'))
                self.assertEqual(json.loads(lines[3])["state"], "paused")
                self.assertLess(after - before, 1, lines)  # of the clock's scale, which is measured anew
                self.assertGreater(resumed - after, 100, lines)
                self.assertEqual(lines[5:6] + lines[7:], ['{"state":"paused"}', '{"state":"ending"}', str(OK)])

    def test_list(self):
        for lines in self.each("list"):
            rows = [[word for word in line.split() if not word.isdigit() or int(word) in (1, 4096, 65536)] for line in lines
                    if "Killed" not in line]
            head, four, two = rows[0], ["four", "running", "1", "4096", "KiB", "trap"], ["two", "running", "1", "65536", "KiB", "trap"]
            end = ['{"state":"ending"}']
            self.assertEqual(head, ["Name", "State", "PID", "CPUs", "Memory", "Engine"])
            # In the order of their names. The killed one is gone, and its socket with it.
            self.assertEqual(rows, [head, four, two, end, head, four, end, head], lines)

    def test_a_socket_that_is_taken_and_one_that_was_left_behind(self):
        for lines in self.each("taken"):
            self.assertRegex(lines[0], "^hv: a VM is already controlled through /work/vm.sock$")
            self.assertEqual(lines[1], str(HOST))
            self.assertEqual(json.loads(lines[2])["state"], "running")
            self.assertIn("124", lines)
            self.assertRegex(lines[-1], "vm.sock: No such file")

    def test_a_signal_removes_it(self):
        for lines in self.each("signal"):
            self.assertIn(str(INTERRUPTED), lines)
            self.assertRegex(lines[-1], "vm.sock: No such file")

    def test_names_that_are_not_ascii(self):
        for lines in self.each("names"):
            self.assertIn('"image":"Gäste.elf"', lines[0])
            self.assertEqual([json.loads(line).get("image") for line in lines],
                             ["Gäste.elf", None, r"G\xe4ste.elf", None])  # the second is Latin-1, of which JSON knows nothing

    def test_other_users(self):
        for lines in self.each("others"):
            self.assertRegex(lines[0], "^hv: no VM answers at vm.sock: Permission denied$")
            self.assertEqual(lines[1:3], [str(HOST), '{"state":"ending"}'])
            self.assertRegex(lines[3], "is not a directory that only its owner may enter")
            self.assertEqual(lines[4], str(USAGE))
            self.assertEqual(lines[-1], str(HOST))


class Answers(unittest.TestCase):
    """What hv ctl and hv list make of what they hear. Here the test plays the VM, and no guest is needed."""

    def ask(self, answer, *arguments):
        """Runs hv with these arguments while a VM called "vm" answers that to a command. Returns (status, stdout, stderr)."""
        results = set()
        for program in PROGRAMS.values():
            with tempfile.TemporaryDirectory() as top, socket.socket(socket.AF_UNIX) as vm:
                os.mkdir(f"{top}/trapdoor", 0o700)
                vm.bind(f"{top}/trapdoor/vm.sock")
                vm.listen()

                def serve(vm=vm):
                    client, _ = vm.accept()
                    with client:
                        client.recv(512)
                        client.sendall(answer)

                thread = threading.Thread(target=serve)
                thread.start()
                done = run(program, *arguments, env=dict(os.environ, XDG_RUNTIME_DIR=top))
                thread.join()
            self.assertNotRegex(done.stderr, CRASH)
            results.add((done.returncode, done.stdout, done.stderr.replace(top, "DIR")))
        self.assertEqual(len(results), 1, results)
        return results.pop()

    def test_answers_are_printed_as_they_came(self):
        for answer in ('{"state":"paused"}\n', '{ "a": [1.5, {"b": "ä\\u00e4"}] }\n', "{}\n"):
            self.assertEqual(self.ask(answer.encode(), "ctl", "vm", "status"), (OK, answer, ""))

    def test_an_error_is_a_sentence(self):
        seen = self.ask(rb'{"error": "\u00dc\"\\ber"}' + b"\n", "ctl", "vm", "pause")
        self.assertEqual(seen, (GUEST_FAILED, "", 'hv: Ü"\\ber\n'))

    def test_a_screen(self):
        def shown(screen):
            return self.ask(json.dumps(screen).encode() + b"\n", "ctl", "vm", "screen")

        screen = {"cursor": True, "row": 1, "column": 79, "lines": ['"quoted" \\', "█ß", ""]}
        text = '"quoted" \\\n█ß\n\n'
        self.assertEqual(shown(screen), (OK, text + "cursor: row 1, column 79\n", ""))
        self.assertEqual(shown(dict(screen, cursor=False)), (OK, text + "cursor: not shown\n", ""))
        for name in screen:
            without = {key: value for key, value in screen.items() if key != name}
            self.assertEqual(shown(without), (HOST, "", "hv: the VM's answer is no screen\n"))

    def test_what_is_no_answer(self):
        whole = b'{"state":"running","pid":1}'
        for answer in [b"", whole]:  # a line is not complete without its end
            said = "hv: no VM answers at DIR/trapdoor/vm.sock: Connection reset by peer\n"
            self.assertEqual(self.ask(answer, "ctl", "vm", "status"), (HOST, "", said))
        others = [b"7", b"[{}]", b"null", b'"error"', b"{}{}", b"[" * 5000, b"\0", b'{"a":"\xff']
        for answer in [whole[:n] for n in range(len(whole))] + others:
            self.assertEqual(self.ask(answer + b"\n", "ctl", "vm", "status"), (HOST, "", "hv: what answers there is no VM\n"), answer)

    def test_a_line_of_the_list(self):
        vm = {"state": "running", "pid": 12345, "engine": "hvm", "cpus": 4, "memory_kib": 3145728, "image": "x"}
        for answer, row in ((json.dumps(vm).encode(), "vm                running      12345     4   3145728 KiB  hvm"),
                            (b"{}", "vm                -                -     -             -  -"),
                            (b"nonsense", "vm                -                -     -             -  -")):
            status, out, err = self.ask(answer + b"\n", "list")
            self.assertEqual((status, out.splitlines()[1:], err), (OK, [row], ""))


if __name__ == "__main__":
    unittest.main()
