"""Guests that attack the hvm engine: by every way there is to make the CPU leave the guest (guests/hostile-hvm.c), in the modes that only
this engine runs (guests/real.S), and with what test_hostile.py and test_hostile_paging.py have for the others. What test_hostile.py asks of
every attack is asked here, on AMD's hardware assistance (the QEMU test host) and, of some, on Intel's (Bochs).

In Bochs 2.7 external interrupts stay masked when a guest is entered with interrupts off: a guest that loops like that, without exits, stops
the whole test host, its timers included. So nothing that may be endless runs there.
"""

import pathlib
import re
import tempfile
import unittest
from dataclasses import dataclass

import host
import test_hostile as hostile
from test_hostile import ANY, ENDED, MEM, SAYS_SO, STOPPED, TIMEOUT, Attack, stats

LONG = 0.5  # seconds for what never ends
ALL_MEM = 3072
BOCHS_MEM = 1280  # more 2 MiB than there are tables
# Of 256 counters each, so that the results become long: what a guest may make hv remember is bounded.
PLANS = {"watch": "1 watch 0x400000 0x2000 r-x\n2 watch 0x400000 0x2000 rw-\n3 allow 0x400000 0x2000\n", "nmi": "1 nmi\n",
         "bomb": "1 count\n" * 256}
REFUSED = "the CPU refuses to enter the guest"
NOT_THERE = "where there is no memory|accesses a device"


@dataclass(frozen=True)
class HvmAttack(Attack):
    which: tuple = (0,)  # numbers of the variants
    sanitized: bool = False
    bochs: bool = False
    plan: str = ""
    page_size: str = "2M"
    mem: int = MEM


def real(n, statuses, reason, **more):
    return HvmAttack(f"real{n}", statuses, reason, seconds=LONG, **more)


ATTACKS = (
    HvmAttack("instructions", ENDED, output=r"\Agot_through=0\n", sanitized=True, bochs=True),
    HvmAttack("cpuid_all", ENDED, output=r"\Aupper=0\noffered=0\n\Z", bochs=True),
    HvmAttack("msrs_all", ENDED, output=r"\Agot_through=0\nvector_0d=", sanitized=True, bochs=True),
    HvmAttack("registers", ENDED, output="vector_0d=", bochs=True, sanitized=True),
    HvmAttack("registers", ENDED + STOPPED + TIMEOUT, f"^$|triple fault|{REFUSED}|still running", which=(1, 2), seconds=LONG),
    HvmAttack("hypercalls", ENDED, output=r"\Awrong=0\n\Z", bochs=True),
    HvmAttack("port_strings", ENDED, output="all strings", sanitized=True),
    HvmAttack("stages", STOPPED, "the plan's results", which=(1,), plan="bomb", sanitized=True),
    HvmAttack("spread", ENDED, output=r"\Awrong=0\n\Z", page_size="4K", mem=ALL_MEM),
    HvmAttack("event_storm", ENDED, output=r"\Anmis=44c\nexceptions=3e8\nticks=1\n\Z", plan="nmi", sanitized=True),
    HvmAttack("watched_code", ENDED, output=r"\A([a-z]{26}){2}\n\Z", plan="watch", sanitized=True, bochs=True),
    HvmAttack("endless", TIMEOUT, "still running", seconds=LONG),
    HvmAttack("sleep_forever", TIMEOUT, "still running", seconds=LONG),
    HvmAttack("huge_repetition", TIMEOUT, "still running", which=(2,), seconds=LONG),
    HvmAttack("wild_ram", ENDED + STOPPED, f"^$|triple fault|{REFUSED}"),  # the tables are overwritten too
    HvmAttack("no_memory_probe", ENDED + STOPPED, SAYS_SO, which=(1, 6, 13, 19, 25, 32, 38, 42, 46, 49), sanitized=True),
    HvmAttack("above_probes", ENDED, output="vector_0e="),
    HvmAttack("jump_nowhere", STOPPED, "where there is no memory", bochs=True),
    HvmAttack("last_page", ENDED + STOPPED, SAYS_SO, which=(3, 7, 8)),
    HvmAttack("self_modifying", ENDED, output=r"\Abdfhjlnprtvxz\n\Z", bochs=True),
    HvmAttack("bad_idt", STOPPED, "triple fault", which=(0, 4), bochs=True),
    HvmAttack("bad_gdt", STOPPED, "triple fault|accesses a device", which=(0, 4)),
    HvmAttack("bad_tss", STOPPED, "triple fault", which=(1, 4)),
    HvmAttack("bad_stack", STOPPED, "triple fault|accesses a device", which=(2, 4)),
    HvmAttack("nested_exceptions", STOPPED, "triple fault", bochs=True),
    HvmAttack("random_tables", ENDED, output="vector_0"),
    HvmAttack("bad_iret", ENDED, output="vector_0d="),
    HvmAttack("timer_storm", ENDED, output="enough"),
    HvmAttack("noise", ANY, ".*", which=(0, 1, 2), seconds=LONG, sanitized=True),
    HvmAttack("tables_outside", ENDED, output="vector_0e=", sanitized=True),
    HvmAttack("cycle", ENDED + STOPPED, SAYS_SO),
    HvmAttack("fan_out", ENDED, output=r"\Asum=bb8\n\Z"),
    HvmAttack("garbage", ENDED + STOPPED, f"{SAYS_SO}|{REFUSED}", which=(0, 2)),
    HvmAttack("cr3_garbage", STOPPED, "triple fault", bochs=True),
    # QEMU's CPU takes a CR3 that no CPU takes, and its VMRUN does not.
    HvmAttack("cr3_beyond", STOPPED, f"{NOT_THERE}|triple fault|{REFUSED}", which=(0, 2), bochs=True),
    HvmAttack("own_mapping", ENDED + STOPPED, SAYS_SO, which=(1,)),
    HvmAttack("own_pair", ENDED, output=r"\Afirst=1\nsecond=1230\nelsewhere=0\ncompleted=0\n\Z", bochs=True),
    HvmAttack("stack_in_table", ENDED + STOPPED, SAYS_SO, which=(1,)),
    HvmAttack("descriptors_in_table", ENDED, output=r"(busy=1\n){4}"),
    HvmAttack("six_ways", ENDED, output=r"\Aabcdefg\n\Z", bochs=True),
    # guests/real.S: real mode,
    real(0, STOPPED, "triple fault", bochs=True),
    *(real(n, TIMEOUT, "still running") for n in (1, 3, 5)),
    real(2, TIMEOUT + STOPPED, "still running|triple fault"),
    real(4, ANY, ".*"),
    real(6, STOPPED, "nothing can ever wake it", bochs=True),
    # and protected mode.
    real(8, STOPPED, "triple fault", bochs=True),
    real(9, STOPPED, "where there is no memory", bochs=True),
    *(real(n, STOPPED, "switches tasks by hardware|triple fault", bochs=True) for n in (10, 11)),  # QEMU switches without asking
    real(12, STOPPED, NOT_THERE, bochs=True),
    real(13, STOPPED, "accesses a device", bochs=True),
    real(14, STOPPED, "in long mode only", bochs=True),
    real(15, STOPPED, "triple fault", bochs=True),
    real(16, STOPPED, "triple fault"),
    real(17, STOPPED, "accesses a device", bochs=True),
)
BAD_PLANS = {
    "x nmi": "a line is", "1": "a line is", "-1 nmi": "a line is", "1 fly": "no such command", "1 log": "no such command",
    "1 log stop now": "another number of arguments", "1 nmi 3": "another number", "1 watch 0x1000 0x1000": "another number",
    "1 split 0x1000 4": "the level is 2 or 3", "1 irq 16": "the line is 0 to 15", "1 unmap 0x1001 0x1000": "a page of the guest's memory",
    "1 unmap 0x1000000 0x1000": "a page of the guest's memory", "1 unmap 0x1000 0": "that length", "1 unmap 0x1000 0xfffffffffffff000":
    "that length", "1 protect 0 0x1000 rxw": "rights are", "1 protect 0 0x1000 rwxx": "rights are", "1 remap 0 99999999999999999999":
    "a number is missing", "1 protect 0 0x1000 rwx r": "too much for one line", "1 nmi #" + "x" * 300: "too long",
    "\n".join(["1 nmi"] * 257): "at most 256 lines",
}
QUIET = "watchman n=%d mem=16"
NEIGHBOURS = {"wild_ram": ENDED + STOPPED, "tables_outside": ENDED, "bad_idt n=1": STOPPED, "bad_iret": ENDED, "garbage": ENDED + STOPPED}


class HostileHvm(hostile.Hostile):
    attacks = ATTACKS
    named = every = ("hvm",)
    which_host = "qemu"

    @classmethod
    def engines(cls, attack):
        return {"hvm": ["--engine", "hvm"]}

    @classmethod
    def command(cls, attack, n, engine_options):
        mem = min(attack.mem, BOCHS_MEM) if cls.which_host == "bochs" else attack.mem
        argv = [cls.program, "run", *engine_options, "--mem", f"{mem}M", "--timeout", str(attack.seconds), "--stats", "json",
                "--page-size", attack.page_size, *(["--plan", f"{attack.plan}.plan"] if attack.plan else [])]
        if attack.name.startswith("real"):
            argv.append(f"{attack.name}.bin")
        else:
            argv += ["--append", f"{attack.name} n={n} mem={mem} seed={cls.seed + n}", "hostile.elf"]
        return host.Command(argv, limit=int(attack.seconds) + 20)

    @classmethod
    def chosen(cls):
        """(attack, number of the variant)"""
        return [(attack, n) for attack in cls.attacks for n in attack.which]

    @classmethod
    def run_attacks(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.path = pathlib.Path(directory.name)
        commands = {}
        for i, (attack, n) in enumerate(cls.chosen()):
            commands[attack.name, n, "hvm"] = cls.command(attack, n, ["--engine", "hvm"])
            if i % 8 == 7:
                commands[attack.name, "next"] = host.Command([cls.program, "run", "--engine", "hvm", "--timeout", "20", "hello.elf"])
        commands["kernel", "next"] = host.Command([cls.program, "run", "--engine", "hvm", "--timeout", "60", "--append", "procs=0",
                                                   "kernel.elf"])
        commands.update(cls.more_commands())
        files = [f"{host.HV_SAN if cls.program == 'hv-san' else host.HV}:/work/{cls.program}", host.VM_GUESTS / "hostile.elf",
                 host.GUESTS / "lab1/hello.elf", host.GUESTS / "kernel.elf", *cls.made()]
        return host.run(commands, files, mem=512 if cls.which_host == "bochs" else 1024, timeout=600, which=cls.which_host)

    @classmethod
    def more_commands(cls):
        return {}

    @classmethod
    def made(cls):
        """Files that are made here: plans, boot sectors with the number of what they do, guests that have their options in them."""
        image = (host.VM_GUESTS / "hostile.elf").read_bytes()
        sector = (host.VM_GUESTS / "real.bin").read_bytes()
        files = {f"{name}.plan": text.encode() for name, text in PLANS.items()}
        files |= {f"bad{n}.plan": f"{text}\n".encode() for n, text in enumerate(BAD_PLANS)}
        files |= {f"{attack.name}.bin": sector[:509] + bytes([int(attack.name[4:])]) + sector[510:] for attack in cls.attacks
                  if attack.name.startswith("real")}
        place = b"@other options".ljust(64, b"\0")
        assert image.count(place) == 1
        files |= {f"other{n}.elf": image.replace(place, options.encode().ljust(64, b"\0"))
                  for n, options in enumerate([QUIET % 3, *(f"{name} mem={MEM} seed={cls.seed}" for name in NEIGHBOURS)])}
        for name, content in files.items():
            (cls.path / name).write_bytes(content)
        return [cls.path / name for name in files]

    def each_attack(self, engines, check):
        for attack, n in self.chosen():
            result = self.results[attack.name, n, "hvm"]
            with self.subTest(attack=attack.name, n=n, command=" ".join(map(str, result.argv))):
                check(attack, result)

    def test_stderr_is_bounded(self):
        """As without a plan; what a plan reports is some MiB at most."""
        self.each_attack(self.every, lambda attack, result: self.assertLess(len(result.stderr), 10 << 20 if attack.plan else 20000))

    def test_the_pool_is_bounded(self):
        def check(attack, result):
            nested = stats(result)["nested"]
            self.assertLessEqual(nested["peak"], 512)
            if attack.name == "spread":
                self.assertEqual(nested["peak"], 512)  # and there were not enough

        self.each_attack(self.every, check)


class TestHostileHvm(HostileHvm, unittest.TestCase):
    program = "hv"

    @classmethod
    def more_commands(cls):
        run = [cls.program, "run", "--engine", "hvm", "--mem", f"{MEM}M"]
        commands = {("plan", n): host.Command([*run, "--plan", f"bad{n}.plan", "hostile.elf"]) for n in range(len(BAD_PLANS))}
        commands["plan", "absent"] = host.Command([*run, "--plan", "absent", "hostile.elf"])
        commands["plan", "directory"] = host.Command([*run, "--plan", "/work", "hostile.elf"])
        commands["neighbour", "absent"] = host.Command([*run, "--neighbour", "absent", "--append", QUIET % 1, "hostile.elf"])
        for n, name in enumerate(NEIGHBOURS):
            commands["hostile first", name] = host.Command(
                [*run, "--timeout", "60", "--append", f"{name} mem={MEM} seed={cls.seed}", "--neighbour", "other0.elf", "hostile.elf"])
            commands["hostile second", name] = host.Command(
                [*run, "--timeout", "60", "--append", QUIET % 3, "--neighbour", f"other{n + 1}.elf", "hostile.elf"])
        return commands

    def test_bad_plans(self):
        for n, (text, words) in enumerate(BAD_PLANS.items()):
            with self.subTest(plan=text[:60]):
                result = self.results["plan", n]
                self.assertEqual((result.status, result.stdout), (host.USAGE, b""), result.stderr)
                self.assertRegex(result.stderr, rf"\Ahv: plan \"bad{n}.plan\", line \d+: [^\n]*{words}[^\n]*\n\Z")

    def test_files_that_cannot_be_read(self):
        for name, words in (("absent", "No such file"), ("directory", "directory")):
            result = self.results["plan", name]
            self.assertEqual((result.status, result.stdout), (host.USAGE, b""), result.stderr)
            self.assertRegex(result.stderr, rf"\Ahv: cannot read the plan \"[^\n]*{words}[^\n]*\n\Z")
        result = self.results["neighbour", "absent"]  # the first one is a guest like any other
        self.assertEqual((result.status, result.stdout), (host.USAGE, b"lost=0\n"), result.stderr)
        self.assertRegex(result.stderr, r"\Ahv: cannot open the image 'absent'[^\n]*\n\Z")

    def test_neighbours(self):
        """Whatever one guest does, the other one's memory stays as it is, and it comes to its end."""
        for order, prefix in (("hostile first", "2| "), ("hostile second", "")):
            for name, statuses in NEIGHBOURS.items():
                with self.subTest(order=order, attack=name):
                    result = self.results[order, name]
                    self.assertIn(result.status, statuses, result.stderr)
                    self.assertNotRegex(result.stderr, host.CRASH)
                    self.assertRegex(result.stdout.decode("latin-1"), rf"(?m)^{re.escape(prefix)}lost=0$")


class TestHostileHvmSanitized(HostileHvm, unittest.TestCase):
    program = "hv-san"

    @classmethod
    def chosen(cls):
        return [(attack, attack.which[cls.seed % len(attack.which)]) for attack in cls.attacks if attack.sanitized]


@unittest.skipUnless(host.bochs_installed(), "Bochs is not installed")
class TestHostileBochs(HostileHvm, unittest.TestCase):
    program = "hv"
    which_host = "bochs"

    @classmethod
    def chosen(cls):
        return [(attack, n) for attack in cls.attacks for n in attack.which if attack.bochs]


if __name__ == "__main__":
    unittest.main()
