"""hv popek in the test host: what its table says is compared with the manual, with itself, and with what the guest had loaded."""

import html.parser
import json
import re
import subprocess
import tempfile
import unittest

import host
from host import Command

SHIM = host.VM_GUESTS / "refuse.so"
STARTER = host.TOP / "build/lab1/hv"
MACHINES = host.TOP / "docs/machines"
COLUMNS = ("cpl0", "cpl3", "cpl3_umip", "trap", "trap_patch")
DEPRIVILEGED = COLUMNS[1:]

# Robin and Irvine, "Analysis of the Intel Pentium's ability to support a secure virtual machine monitor", 2000.
ROBIN_IRVINE = set("SGDT SIDT SLDT SMSW PUSHF POPF LAR LSL VERR VERW POP PUSH CALL JMP INT RET STR MOV".split())
# SDM vol. 3, 5.9, and what IOPL refuses (vol. 1, 19.5).
PRIVILEGED = set("LGDT LLDT LTR LIDT LMSW CLTS WBINVD INVLPG HLT RDMSR WRMSR SYSRET SWAPGS CLI STI IN OUT INS OUTS".split())
UMIP = {"SGDT", "SIDT", "SLDT", "SMSW", "STR"}
# State that only CPL 0 may change.
STATE = set("CPL IF IOPL halted device CR0 CR2 CR3 CR4 CR8 EFER GDTR IDTR LDTR TR DR0 DR6 DR7 STAR LSTAR SFMASK".split()) | {
    "GDTR limit", "IDTR limit", "KGS base"}


def instruction(row):
    return re.split("[, ]", row["name"])[0]


def sensitive(row):
    return row["control"] or row["mode"] or row["location"]


def breaks(row, column):
    """The condition of theorem 1, read from the row."""
    outcome = row[column]["outcome"]
    return outcome == "different" or (outcome == "same" and sensitive(row))


class Page(html.parser.HTMLParser):
    """Cells by their class, and whether every tag that must be closed is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.marks, self.text, self.good = [], [], "", True
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.good = self.good and tag not in ("script", "link", "img", "iframe") and not {"src", "href"} & set(attrs)
        if tag == "td":
            self.marks.append(set(attrs.get("class", "").split()))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.good = self.good and bool(self.open) and self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class Popek(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "hv LAB=1", "hv SAN=1", "testhost", "build/vm/usage")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", SHIM, host.TOP / "tests/vm/refuse.c", "-ldl"], check=True)
        # All in one command: another boot of the test host does not have the files.
        names = [f"/tmp/popek.{ending}" for ending in ("json", "html", "txt")]
        script = (f"hv popek {' '.join(f'--output {name}' for name in names)}; s=$?; "
                  f"for f in {' '.join(names)}; do echo @@@; cat $f; done; exit $s")
        commands = {"all": Command(["sh", "-c", script])}
        commands |= {
            "again": Command(["hv", "popek", "--format", "json"]),
            "sanitized": Command(["hv-san", "popek", "--format", "json"], limit=120),
            "starter": Command(["hv-starter", "popek"]),
            "full disk": Command(["hv", "popek", "--format", "html", "--output", "/dev/full"]),
            "no machine": Command(["env", "TRAPDOOR_REFUSE=KVM_SET_SREGS", "LD_PRELOAD=/work/refuse.so", "hv", "popek"]),
            "no patching": Command(["env", "TRAPDOOR_REFUSE=KVM_SET_MSRS", "LD_PRELOAD=/work/refuse.so", "hv", "popek"]),
        }
        cls.results = host.run(commands, [host.HV, SHIM, f"{host.HV_SAN}:/bin/hv-san", f"{STARTER}:/bin/hv-starter"])
        silence, json_text, cls.page, cls.text = cls.results["all"].stdout.decode().split("@@@\n")
        if silence or cls.results["all"].status:
            raise AssertionError(f"hv popek: {cls.results['all']}")
        cls.table = json.loads(json_text)
        cls.rows = cls.table["instructions"]
        cls.row = {row["name"]: row for row in cls.rows}

    def test_it_ran(self):
        for name in ("all", "again", "sanitized"):
            self.assertEqual((self.results[name].status, self.results[name].stderr), (host.OK, ""), name)

    def test_enough_instructions(self):
        self.assertEqual(len(self.row), len(self.rows))
        harmless = {"MOV m, r", "ADD", "NOP", "CLFLUSH"}
        self.assertLess(harmless, set(self.row))
        self.assertGreaterEqual(len(set(self.row) - harmless), 40)
        self.assertEqual({instruction(r) for r in self.rows if r["robin_irvine"]}, ROBIN_IRVINE)
        self.assertLessEqual(PRIVILEGED | UMIP, {instruction(r) for r in self.rows})

    def test_every_cell_was_run(self):
        for row in self.rows:
            for column in (*COLUMNS, "cpl0_moved", "cpl3_home"):
                with self.subTest(row["name"], column=column):
                    self.assertNotEqual(row[column]["outcome"], "not on this machine")
                    self.assertNotEqual(row[column]["end"], "stopped")

    def test_same_in_every_run(self):
        """Only the time differs from run to run, and sanitizers change nothing."""
        def without_time(rows):
            return [{key: value for key, value in row.items() if key not in (*COLUMNS, "cpl0_moved", "cpl3_home")}
                    | {column: row[column]["outcome"] for column in COLUMNS} for row in rows]
        for name in ("again", "sanitized"):
            self.assertEqual(without_time(json.loads(self.results[name].stdout)["instructions"]), without_time(self.rows), name)

    def test_by_the_manual(self):
        self.assertTrue(all(row["manual_agrees"] for row in self.rows))
        self.assertIn("Manual and trial agree everywhere.", self.text)
        for row in self.rows:
            with self.subTest(row["name"]):
                if instruction(row) in PRIVILEGED or re.search(r"\b[CD]R\d", row["name"]):
                    self.assertEqual(row["trial"], "yes")
                    self.assertEqual((row["cpl3"]["outcome"], row["cpl3"]["end"]), ("trapped", "#GP"))
                    self.assertEqual((row["trap"]["outcome"], row["trap_patch"]["outcome"]), ("trapped", "trapped"))
                if instruction(row) in UMIP:
                    self.assertEqual(row["trial"], "no")
                    self.assertEqual(row["cpl3"]["outcome"], "different")
                    self.assertEqual((row["cpl3_umip"]["outcome"], row["cpl3_umip"]["end"]), ("trapped", "#GP"))
                else:
                    self.assertEqual(row["cpl3_umip"]["outcome"], row["cpl3"]["outcome"])

    def test_popf_loses_the_interrupt_flag(self):
        popf = self.row["POPF"]
        self.assertEqual(popf["cpl0"]["changed"]["IF"], [1, 0])
        for column in ("cpl3", "cpl3_umip", "trap"):
            self.assertEqual((popf[column]["outcome"], popf[column]["differs"]["IF"]), ("different", [0, 1]), column)
        self.assertEqual(popf["trap_patch"]["outcome"], "trapped")
        self.assertTrue(popf["control"] and popf["mode"])
        self.assertEqual(popf["trap"]["cell"], "IF 0/1")

    def test_patching_changes_only_two(self):
        changed = {row["name"] for row in self.rows if row["trap"]["outcome"] != row["trap_patch"]["outcome"]}
        self.assertEqual(changed, {"PUSHF", "POPF"})

    def test_both_values(self):
        """What stores told at CPL 0 is what was there before the loads; elsewhere it is the monitor's."""
        header = (host.TOP / "labs/common/hv/trapengine.h").read_text(encoding="utf-8")
        define = {name: int(value, 0) for name, value in re.findall(r"^#define (MON\w+) (0x[0-9a-f]+)(?:ull)?", header, re.M)}
        monitor = {"SGDT m": ("base", "LGDT", "GDTR", define["MONITOR_GVA"] + define["MON_GDT"]),
                   "SIDT m": ("base", "LIDT", "IDTR", define["MONITOR_GVA"] + define["MON_IDT"]),
                   "STR r": ("rax", "LTR", "TR", define["MON_TR"]), "SLDT r": ("rax", "LLDT", "LDTR", 0)}
        for name, (field, load, register, theirs) in monitor.items():
            with self.subTest(name):
                own = self.row[load]["cpl0"]["changed"][register][0]
                self.assertEqual(self.row[name]["cpl0"]["changed"][field][1], own)
                self.assertEqual(self.row[name]["trap"]["differs"][field], [own, theirs])
                moved = self.row[name]["cpl3"]["differs"][field]
                self.assertTrue(moved[0] == own != moved[1])
        self.assertEqual(self.row["SMSW r"]["cpl0"]["changed"]["rax"], self.row["MOV r, CR0"]["cpl0"]["changed"]["rax"])
        self.assertEqual(self.row["MOV r, CS"]["cpl3"]["differs"]["rax"][1] & 3, 3)
        self.assertEqual(self.row["MOV r, CS"]["cpl0"]["changed"]["rax"][1] & 3, 0)

    def test_classes(self):
        for row in self.rows:
            with self.subTest(row["name"]):
                changed = set(row["cpl0"]["changed"]) & STATE
                self.assertEqual(row["control"], bool(changed) and row["trial"] != "always traps")
                self.assertEqual(row["mode"], row["cpl3_home"]["outcome"] == "different")
                if row["cpl0_moved"]["outcome"] == "different" and row["trial"] != "always traps":
                    self.assertTrue(row["location"])
        for name in ("ADD", "NOP", "MOV m, r", "CLFLUSH", "UD2", "INT n", "WBINVD"):
            self.assertFalse(sensitive(self.row[name]), name)

    def test_differences_are_differences(self):
        for row in self.rows:
            for column in DEPRIVILEGED:
                cell, reference = row[column], row["cpl0"]
                with self.subTest(row["name"], column=column):
                    for field, (first, second) in cell["differs"].items():
                        self.assertNotEqual(first, second)
                        self.assertEqual(reference["changed"].get(field, [0, first])[1], first)
                        self.assertEqual(cell["changed"].get(field, [0, second])[1], second)
                    if cell["outcome"] in ("same", "trapped"):
                        self.assertEqual(cell["differs"], {})
                    if cell["outcome"] == "different":
                        self.assertTrue(cell["differs"] or cell["end"] != reference["end"])
                    if cell["outcome"] == "same" and "RDTSC" not in row["name"]:
                        self.assertEqual(cell["changed"], reference["changed"])

    def test_verdicts(self):
        self.assertEqual(set(self.table["verdicts"]), set(DEPRIVILEGED))
        names = {column: {row["name"] for row in self.rows if breaks(row, column)} for column in DEPRIVILEGED}
        for column, verdict in self.table["verdicts"].items():
            self.assertEqual(set(verdict["broken_by"]), names[column])
            self.assertEqual(verdict["virtualizable"], not names[column])
        # Each step repairs something and breaks nothing.
        self.assertEqual({self.row[name]["name"].split()[0] for name in names["cpl3"] - names["cpl3_umip"]}, UMIP)
        self.assertLess(names["cpl3_umip"], names["cpl3"])
        self.assertLess(names["trap"], names["cpl3"])
        self.assertEqual(names["trap"] - names["trap_patch"], {"PUSHF", "POPF"})
        self.assertLess(names["trap_patch"], names["trap"])

    def test_text(self):
        for row in self.rows:
            line = next(line for line in self.text.splitlines() if line[2:].startswith(f"{row['name']} "))
            self.assertEqual(line[0] == "*", row["robin_irvine"])
            self.assertIn(row["manual"], line)
        for column, title in zip(DEPRIVILEGED, ("CPL 3", "CPL 3, UMIP", "trap engine", "with patching")):
            self.assertRegex(self.text, rf"\n  {title} +no, because of {self.table['verdicts'][column]['instructions']} ")

    def test_slide(self):
        page = Page(self.page)
        self.assertTrue(page.good and not page.open)
        self.assertNotRegex(self.page, "http|url\\(|@import")
        for row in self.rows:
            self.assertIn(row["name"], page.text)
        for mark, outcome in (("t", "trapped"), ("s", "same"), ("d", "different"), ("a", "trapped, other answer")):
            cells = sum(row[column]["outcome"] == outcome for row in self.rows for column in DEPRIVILEGED)
            self.assertEqual(sum(mark in marks for marks in page.marks), cells, outcome)

    def test_failures(self):
        for name, status, words in (("starter", host.TODO, "step 1.1 is not written yet"), ("full disk", host.USAGE, "cannot write"),
                                    ("no machine", host.HOST, "KVM_SET_SREGS was refused"),
                                    ("no patching", host.HOST, "KVM_SET_MSRS")):
            with self.subTest(name):
                result = self.results[name]
                self.assertEqual(result.status, status, result.stderr)
                self.assertEqual(result.stdout, b"")
                self.assertRegex(result.stderr, r"\Ahv: [^\n]+\n\Z")
                self.assertIn(words, result.stderr)


class CommandLine(unittest.TestCase):
    """What needs no /dev/kvm."""

    @classmethod
    def setUpClass(cls):
        host.build("hv", "hv SAN=1")
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)

    def run_both(self, *arguments):
        for program in (host.HV, host.HV_SAN):
            done = subprocess.run([program, "popek", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  check=False, timeout=60)
            self.assertNotRegex(done.stderr, host.CRASH)
            yield done

    def refused(self, words, *arguments):
        for done in self.run_both(*arguments):
            with self.subTest(arguments=arguments):
                self.assertEqual(done.returncode, host.USAGE, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, r"\Ahv: [^\n]+\n\Z")
                self.assertRegex(done.stderr, words)

    def test_bad_usage(self):
        good = MACHINES / "textbook.txt"
        self.refused("--format takes text, json or html, not \"xml\"", "--format", "xml")
        self.refused("--format takes", "--format", "")
        self.refused("--format needs a value", "--format")
        self.refused("--output needs a value", "--output")
        self.refused("no option --fast", "--fast")
        self.refused("takes no image", "kernel.elf")
        self.refused("too many outputs", *(word for n in range(9) for word in ("--output", f"/tmp/{n}")))
        self.refused("cannot write '/no/such/place'", "--output", "/no/such/place")
        self.refused("cannot write '/': Is a directory", "--output", "/")
        self.refused("takes no --format", "--machine", good, "--format", "json")
        self.refused("takes no --output", "--machine", good, "--output", "/tmp/x")

    def test_bad_machines(self):
        self.refused("No such file", "--machine", "/no/such/file")
        self.refused("is a directory", "--machine", "/")
        self.refused("not a regular file", "--machine", "/dev/zero")
        path = f"{self.directory.name}/machine"
        for content, words in ((b"", "is empty"), (b"state r\nADD: supervisor adds; user traps\n", f"{path}, line 2: what does \"adds\""),
                               (bytes(range(256)), "line 1: there is a control character"), (b"\n" * 9, "line 9: .*no instruction")):
            with open(path, "wb") as file:
                file.write(content)
            self.refused(words, "--machine", path)

    def test_examples(self):
        refused = "not virtualizable by trap and emulate. Sensitive and not privileged: "
        answers = {"textbook.txt": ("Theorem 1 (a monitor): virtualizable", None),
                   "jump-to-user.txt": (refused + "JRST 1\n", "hybrid monitor): possible"),
                   "silent-flags.txt": (refused + "POPF, PUSHF, SGDT, SMSW, MOV CS\n",
                                        "hybrid monitor): not possible. User-sensitive and not privileged: PUSHF, SGDT, SMSW\n")}
        self.assertEqual({path.name for path in MACHINES.iterdir()}, set(answers))
        for name, expected in answers.items():
            for done in self.run_both("--machine", MACHINES / name):
                self.assertEqual((done.returncode, done.stderr), (host.OK, ""))
                for words in filter(None, expected):
                    self.assertIn(words, done.stdout)

    def test_help(self):
        for done in self.run_both("--help"):
            self.assertEqual(done.returncode, host.OK)
            self.assertIn("--machine FILE", done.stdout)


if __name__ == "__main__":
    unittest.main()
