"""The grader's parts that need no test host: ELF files, escaping, the ladder, seeds, signatures, what is compiled."""

import os
import random
import struct
import unittest
from collections import Counter

from support import TOP, TempDir, compile_c

import checks
import escape
import signatures
from elf import libraries, patch_params
from initramfs import Initramfs
from ladder import BLOCKED, ERROR, FAILED, PASSED, Ladder, check_ladder, load, make_params
from model import PARAMS, Capture, Checkpoint, Failure, GraderError, Run, RunResult, UsageError, Witness, parse_witness
from solution import find_solution, source_problem

GUEST = """
#include <stdint.h>
volatile uint64_t before = 0x1111;
%s
volatile uint64_t behind = 0x2222;
void _start(void) { for (;;) before = PARAM; }
"""
PARAMS_LINE = 'volatile uint64_t params[16] __attribute__((section(".params"), aligned(64))) = { 0 };\n#define PARAM params[0]'


class Params(TempDir):
    def guest(self, line=PARAMS_LINE):
        (self.dir / "g.c").write_text(GUEST % line)
        compile_c(self.dir / "g.c", self.dir / "g", "-ffreestanding", "-nostdlib", "-static", "-no-pie")
        return (self.dir / "g").read_bytes()

    def test_patched_in_place_and_nowhere_else(self):
        image = self.guest()
        values = [random.Random(1).getrandbits(64) for _ in range(PARAMS)]
        patched = patch_params(image, values)
        self.assertEqual(len(patched), len(image))
        changed = [i for i, (a, b) in enumerate(zip(image, patched)) if a != b]
        self.assertLess(changed[-1] - changed[0], 8 * PARAMS)
        self.assertIn(struct.pack("<16Q", *values), patched)

    def test_fewer_values_are_padded(self):
        self.assertIn(struct.pack("<16Q", 5, *[0] * 15), patch_params(self.guest(), [5]))

    def test_32_bit_guests(self):
        (self.dir / "n.c").write_text(GUEST % PARAMS_LINE)
        compile_c(self.dir / "n.c", self.dir / "n", "-m32", "-ffreestanding", "-nostdlib", "-static", "-no-pie")
        image = (self.dir / "n").read_bytes()
        self.assertEqual(image[4], 1)
        values = [random.Random(2).getrandbits(64) for _ in range(PARAMS)]
        patched = patch_params(image, values)
        where = patched.find(struct.pack("<16Q", *values))
        self.assertGreater(where, 0)
        self.assertEqual(patched[:where] + bytes(8 * PARAMS) + patched[where + 8 * PARAMS :], image)
        with self.assertRaises(GraderError):
            libraries(self.dir / "n")

    def test_boot_sectors(self):
        sector = bytes(range(256)) * 2
        sector = sector[:510] + b"\x55\xaa"
        patched = patch_params(sector + b"more", [1, 2, 3])
        self.assertEqual(patched, sector[:478] + struct.pack("<4Q", 1, 2, 3, 0) + b"\x55\xaa" + b"more")
        with self.assertRaises(GraderError):
            patch_params(sector, [1] * 5)

    def test_refuses(self):
        image = self.guest()
        for bad in (b"", b"\x7fELF", b"text", image[:200], image[: len(image) // 2]):
            with self.assertRaises(GraderError):
                patch_params(bad, [1])
        for values in ([1] * 17, [1 << 64], [-1]):
            with self.assertRaises(GraderError):
                patch_params(image, values)
        for line in ("#define PARAM 1", PARAMS_LINE.replace("16", "15"), "volatile uint64_t params[16];\n#define PARAM params[0]"):
            with self.assertRaises(GraderError):
                patch_params(self.guest(line), [1])

    def test_libraries_without_running_the_program(self):
        (self.dir / "p.c").write_text("#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n")
        found = dict(libraries(compile_c(self.dir / "p.c", self.dir / "p")))
        self.assertIn("/lib64/ld-linux-x86-64.so.2", found)
        self.assertTrue(any(name.endswith("/libc.so.6") for name in found))
        self.assertEqual(libraries(compile_c(self.dir / "p.c", self.dir / "s", "-static")), [])


class Archive(TempDir):
    def test_is_what_cpio_reads(self):
        archive = Initramfs()
        archive.file("/a/b/file", b"content", 0o600)
        archive.character_device("/dev/console", 5, 1)
        data = archive.bytes()
        self.assertEqual(data[:6], b"070701")
        names = []
        at = 0
        while at < len(data):
            size, name_size = int(data[at + 54 : at + 62], 16), int(data[at + 94 : at + 102], 16)
            names.append(data[at + 110 : at + 109 + name_size].decode())
            at += (110 + name_size + 3 & ~3) + (size + 3 & ~3)
        self.assertEqual(names, ["a", "a/b", "a/b/file", "dev", "dev/console", "TRAILER!!!"])


class Escaping(unittest.TestCase):
    HOSTILE = b"\x1b[2J\x1b]0;x\x07\r\n::error::no\n::set-output name=x::y\n\xe2\x80\xae\x00\t\\" + bytes(range(128, 256))

    def test_only_printable_ascii_comes_out(self):
        text = escape.visible(self.HOSTILE, 10000)
        self.assertTrue(all(32 <= ord(c) < 127 for c in text))
        self.assertIn("\\x1b[2J", text)
        for line in escape.block(self.HOSTILE):
            self.assertTrue(line.startswith("  | "))
            self.assertTrue(all(32 <= ord(c) < 127 for c in line))

    def test_different_bytes_look_different(self):
        self.assertEqual(len({escape.visible(bytes([b])) for b in range(256)}), 256)

    def test_caps(self):
        self.assertLessEqual(len(escape.visible(b"x" * 10**6, 300)), 340)
        lines = escape.block(b"a\n" * 10**5, 20)
        self.assertLessEqual(len(lines), 22)
        self.assertTrue(any("left out" in line for line in lines))

    def test_marks_the_first_difference(self):
        for a, b in ((b"abcdef", b"abcxef"), (b"a\nb", b"a\nc"), (b"abc", b"ab"), (b"x" * 500 + b"1", b"x" * 500 + b"2")):
            expected, seen, mark = escape.compare(a, b)
            at = mark.index("^")
            self.assertEqual(expected[11:at], seen[11:at])
            self.assertNotEqual(expected[at:], seen[at:])
            self.assertLess(len(expected), 200)


class Observations(unittest.TestCase):
    def test_lines(self):
        out = b"a=1\nnoise\nb=ff\r\na=2\nc=xyz\nd=11112222333344445\n\xff=1\ne.rax=ffffffffffffffff"
        self.assertEqual(RunResult("r", stdout=Capture(out, b"", len(out))).lines,
                         {"a": [1, 2], "b": [255], "e.rax": [2**64 - 1]})

    def test_stats_is_the_last_line_only(self):
        def stats(text):
            return RunResult("r", stderr=Capture(text, b"", len(text))).stats

        self.assertEqual(stats(b'{"exits": 1}\nhv: x\n{"exits": 2}\n'), {"exits": 2})
        for bad in (b"", b'{"exits": 1}\nhv: late\n', b"{", b"[1]", b"[" * 100000, b'{"a":' * 30000):
            self.assertIsNone(stats(bad))

    def test_witness_is_the_difference(self):
        before, reset, error = parse_witness("pio 1 13 65 10\npio 0 5 0 3\nexit 123 13\n")
        self.assertEqual((reset, error), (False, None))
        after, reset, _ = parse_witness("pio 1 13 65 12\npio 1 13 66 1\npio 0 5 0 3\nexit 123 16\nreset\n")
        self.assertTrue(reset)
        w = Witness.between(before, after)
        self.assertEqual((w.exits, w.pio, w.values), (3, Counter({13: 3}), {13: Counter({65: 2, 66: 1})}))

    def test_a_witness_that_is_lost_is_no_witness(self):
        self.assertEqual(parse_witness("lost Permission denied")[2], "Permission denied")

    def test_printed_by_traps(self):
        def result(**values):
            w = Witness(9, pio=Counter({13: 4}), values={13: Counter(values)})
            w.values[13] = Counter({ord(k): v for k, v in values.items()})
            return RunResult("r", 0, witness=w)

        self.assertIsNone(checks.printed_by_traps(result(a=2, b=1), b"aab"))
        self.assertIsNotNone(checks.printed_by_traps(result(a=1, b=2), b"aab"))
        self.assertIsNotNone(checks.printed_by_traps(result(a=2, b=1), b"aab", extra=2))
        self.assertIsNone(checks.printed_by_traps(RunResult("r", 0), b"aab"))  # native: nobody to ask


def checkpoint(name, depends=(), verify=lambda results, params: None, **more):
    run = more.pop("run", Run("only", params=lambda rng: [rng.getrandbits(64)]))
    return Checkpoint(name, name, 1, "Do it.", "Think.", [run], verify, depends)


class LadderTests(unittest.TestCase):
    def result(self, status=0, exits=5, **more):
        return RunResult("only", status, witness=Witness(exits), **more)

    def judge(self, c, result):
        ladder = Ladder([c], 1)
        self.assertTrue(ladder.add(c, c.runs[0], result))
        return ladder.verdicts[c.id]

    def test_a_failure_blocks_what_depends_on_it(self):
        points = [checkpoint("1"), checkpoint("2", ["1"]), checkpoint("3", ["2"]), checkpoint("4")]
        ladder = Ladder(points, 1)
        ladder.add(points[0], points[0].runs[0], self.result(status=4))
        self.assertEqual(ladder.verdicts["1"].status, FAILED)
        for c in points[1:]:
            name = ladder.blocker(c)
            if name:
                ladder.block(c, name)
        self.assertEqual([ladder.verdicts[n].status for n in "1234"], [FAILED, BLOCKED, BLOCKED, ""])
        self.assertEqual(ladder.verdicts["3"].points, 0)

    def test_without_its_dependencies_a_checkpoint_is_tried(self):
        c = checkpoint("2", ["1"])
        self.assertIsNone(Ladder([c], 1).blocker(c))

    def test_verdicts(self):
        self.assertEqual(self.judge(checkpoint("1"), self.result()).status, PASSED)
        self.assertEqual(self.judge(checkpoint("1", verify=lambda r, p: Failure("a", "b")), self.result()).status, FAILED)
        for bad in (self.result(124), self.result(None, signal=11), self.result(None, timed_out=True), self.result(exits=0),
                    self.result(None, host_trouble="it died twice")):
            self.assertEqual(self.judge(checkpoint("1"), bad).status, FAILED)

    def test_any_end_does_not_mean_any_crash(self):
        c = checkpoint("1", run=Run("only", ends=None))
        self.assertEqual(self.judge(c, self.result(5)).status, PASSED)
        self.assertEqual(self.judge(c, self.result(None, signal=11)).status, FAILED)

    def test_a_broken_check_is_the_graders_fault(self):
        verdict = self.judge(checkpoint("1", verify=lambda r, p: 1 / 0), self.result())
        self.assertEqual((verdict.status, verdict.points), (ERROR, 0))
        self.assertIn("ZeroDivisionError", verdict.message)

    def test_seeds(self):
        a, b = checkpoint("1"), checkpoint("2")
        values = make_params(a, a.runs[0], 7)
        self.assertEqual(values, make_params(checkpoint("1"), a.runs[0], 7))
        self.assertEqual(len(values), PARAMS)
        self.assertNotEqual(values, make_params(a, a.runs[0], 8))
        self.assertNotEqual(values, make_params(b, b.runs[0], 7))
        # The same on every machine and version of Python: replays are exchanged.
        self.assertEqual(make_params(a, Run("only", params=lambda rng: [rng.getrandbits(32)]), 7)[0], 0x9dc5151a)

    def test_ladders_that_are_wrong(self):
        for bad in ([checkpoint("1"), checkpoint("1")], [checkpoint("1", ["2"]), checkpoint("2")], ["x"]):
            with self.assertRaises(GraderError):
                check_ladder(bad)

    def test_real_ladders_load(self):
        for lab in sorted(TOP.glob("labs/[0-9][0-9]-*/checkpoints.py")):
            title, points = load(str(lab.parent))
            self.assertTrue(title and points)
            for c in points:
                for run in c.runs:
                    self.assertEqual(make_params(c, run, 3), make_params(c, run, 3))


class Signatures(unittest.TestCase):
    def name(self, status=None, stderr=b"", **more):
        found = signatures.recognise(RunResult("r", status, stderr=Capture(stderr, b"", len(stderr)), **more))
        return found and found[0]

    def test_each(self):
        self.assertIsNone(self.name(0, b'{"exits":3}'))
        self.assertEqual(self.name(5, b"hv: 1.3 is not written yet: do it"), "not written yet")
        self.assertEqual(self.name(None, signal=11), "hv crashed")
        self.assertEqual(self.name(None, signal=6), "hv aborted")
        self.assertEqual(self.name(None, signal=15), "hv was killed by SIGTERM")
        self.assertEqual(self.name(3, b"hv: cannot open /dev/kvm: No such file or directory"), "no usable /dev/kvm")
        self.assertEqual(self.name(3, b"hv: KVM_CREATE_VCPU failed: Invalid argument"), "KVM refused")
        self.assertEqual(self.name(4, b'{"reason":"KVM_EXIT_FAIL_ENTRY, hardware reason 0x80000021"}'),
                         "the machine rejected the state")
        self.assertEqual(self.name(4, b'{"reason":"triple fault at rip 0x100000"}'), "triple fault")
        self.assertEqual(self.name(4, b'{"reason":"the guest halted with interrupts off"}'), "the VM was stopped")
        looping, computing = Witness(500, Counter({0x60: 480})), Witness(12)
        self.assertEqual(self.name(124, b'{"exits":12}', wall_ms=5000, cpu_ms=4900, witness=looping), "the guest loops without trapping")
        self.assertEqual(self.name(124, b'{"exits":12}', wall_ms=5000, cpu_ms=4900, witness=computing), "hv loops")
        self.assertEqual(self.name(124, b'{"exits":12}', wall_ms=5000, cpu_ms=20, witness=computing), "the guest sleeps for ever")
        self.assertEqual(self.name(124, b'{"exits":90000,"emulated":{"cli":89990,"out":10}}'),
                         "the same instruction traps again and again")
        self.assertEqual(self.name(124, b'{"exits":90000,"emulated":{"in":50000,"out":40000}}'), "the guest traps without end")
        self.assertEqual(self.name(124, b"exit 12  trap #GP  rip 0x100005  cli  -> x\n" * 30),
                         "the same instruction traps again and again")
        self.assertEqual(self.name(None, host_trouble="it died"), "the test host died")
        said = b"probe=1\nunhandled trap\nvector=d\nerror=0\nrip=1000fa\n"
        self.assertEqual(self.name(1, b'{"guest_code":238}', stdout=Capture(said, b"", len(said))),
                         "the guest took an exception that it did not expect")
        self.assertIsNone(self.name(1, b'{"guest_code":3}', stdout=Capture(said, b"", len(said))))

    def test_a_killed_program_that_left_no_statistics(self):
        self.assertEqual(signatures.recognise(RunResult("r", None, timed_out=True, witness=Witness(999, Counter({0x60: 999}))))[0],
                         "the guest loops without trapping")

    def test_what_a_student_made_the_program_say_is_escaped(self):
        name, text = signatures.recognise(RunResult("r", 5, stderr=Capture(b"hv: \x1b[31m red", b"", 12)))
        self.assertNotIn("\x1b", text)

    def test_hostile_statistics_do_no_harm(self):
        for stats in (b'{"exits":"x"}', b'{"exits":null,"emulated":5}', b'{"exits":1e400,"reason":[]}',
                      b'{"exits":5000,"emulated":{"a":"b"}}'):
            for status in (0, 1, 3, 4, 5, 124):
                self.name(status, stats)
                signatures.describe_end(RunResult("r", status, stderr=Capture(stats, b"", len(stats))))


class Sources(TempDir):
    def test_refused(self):
        for text in ('#include "/etc/passwd"', '#include "../other/secret.h"', "# include </etc/passwd>", '#/**/include "/etc/passwd"',
                     '#inc\\\nlude "/etc/passwd"', '%:include "/etc/passwd"', '??=include "/etc/passwd"',
                     "#define X </etc/passwd>\n#include X",
                     '#embed "x"', 'asm(".incbin \\"/etc/passwd\\"");', 'asm(".inc" "bin \\"/etc/passwd\\"");', 'asm(".include \\"x\\"");',
                     'asm(".macro m\\n.endm");', '#include_next "../x.h"', '#include "~/x.h"'):
            self.assertIsNotNone(source_problem("a.c", text.encode()), text)

    def test_accepted(self):
        for text in ('#include "lab1.h"', "#include <sys/ioctl.h>", '#include "sub/x.h" // mine', '/* #include "/etc/passwd" */',
                     'const char *s = "// #include \\"/etc/passwd\\"";', "int including; // .incbin",
                     'char c = \'"\'; /* " */ char *d = "x";'):
            self.assertIsNone(source_problem("a.c", text.encode()), text)

    def tree(self):
        lab = self.dir / "labs" / "01-x"
        lab.mkdir(parents=True)
        for name in ("a.c", "b.c"):
            (lab / name).write_text("int %s;\n" % name[0])
        (lab / "checkpoints.py").write_text("")
        return self.dir

    def test_only_the_labs_own_files_are_taken(self):
        root, mine = self.tree(), self.dir / "mine"
        mine.mkdir()
        for name in ("a.c", "b.c", "evil.c", "Makefile", "lab1.h"):
            (mine / name).write_text("int x;\n")
        solution = find_solution(str(root), 1, str(mine))
        self.assertEqual((sorted(solution.files), solution.problems), (["a.c", "b.c"], []))
        self.assertTrue(solution.tag.startswith("mine-"))
        self.assertEqual(sorted(find_solution(str(root), 1, "labs").files), ["a.c", "b.c"])

    def test_a_directory_of_labs(self):
        root, mine = self.tree(), self.dir / "mine" / "01-x"
        mine.mkdir(parents=True)
        (mine / "a.c").write_text("")
        self.assertEqual(find_solution(str(root), 1, str(mine.parent)).problems, ["b.c is missing: lab 1 consists of a.c, b.c."])

    def test_odd_files(self):
        root, mine = self.tree(), self.dir / "mine"
        for make in (lambda p: p.symlink_to("/etc/passwd"), lambda p: os.mkfifo(p), lambda p: p.mkdir(),
                     lambda p: p.write_bytes(b"x" * (2 << 20))):
            mine.mkdir()
            (mine / "a.c").write_text("")
            make(mine / "b.c")
            self.assertEqual(len(find_solution(str(root), 1, str(mine)).problems), 1)
            os.system("rm -rf '%s'" % mine)

    def test_no_such_directory_or_lab(self):
        root = str(self.tree())
        for lab, name in ((1, "/nonexistent"), (1, __file__), (2, "labs")):
            with self.assertRaises(UsageError):
                find_solution(root, lab, name)


if __name__ == "__main__":
    unittest.main()
