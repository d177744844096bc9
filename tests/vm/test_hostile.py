"""Resource control, Popek and Goldberg's second requirement: no guest, however wrong or ill-willed, harms hv, its host or the next
guest. Each attack (guests/hostile*.c) must end in one of the documented ways with a sentence that says why, in bounded memory and
time, and guests that run afterwards notice nothing.
"""

import json
import random
import re
import unittest
from dataclasses import dataclass

import host

MEM = 16  # MiB of guest RAM; and that many more hv may ever have
OVERHEAD = 32
LONG = 1  # seconds for what never ends
SECONDS = 60

ENDED, FAILED, STOPPED, TIMEOUT = (host.OK,), (host.GUEST_FAILED,), (host.STOPPED,), (host.TIMEOUT,)
ANY = (host.OK, host.GUEST_FAILED, host.STOPPED, host.TIMEOUT)
TRIPLE = "triple fault"
SAYS_SO = r"hv does not emulate this instruction|where there is no memory|triple fault|nothing can ever wake it|^$"


@dataclass(frozen=True)
class Attack:
    name: str
    statuses: tuple
    reason: str = "^$"  # regular expressions: hv's sentence on the trap engine,
    output: str = r"\A"  # and what the guest printed
    variants: int = 1  # n=0 and so on
    sanitized: int = 1  # how many of the variants also run with the sanitizers
    kvm: bool = False  # also on the kvm engine, where the processor decides and only the end is looked at
    seconds: int = SECONDS


ATTACKS = (
    Attack("endless", TIMEOUT, "still running", kvm=True, seconds=LONG),
    Attack("sleep_forever", TIMEOUT, "still running", kvm=True, seconds=LONG),
    Attack("huge_repetition", TIMEOUT, "still running", variants=3, seconds=LONG),
    Attack("wild_ram", ENDED, output="all written", kvm=True),
    Attack("wild_above", ENDED, output=r"completed=2fd0\n(?s:.*)vector_0d=\w+\nvector_0e=\w+\ncompleted=2fe", kvm=True),
    Attack("unclaimed", ENDED, output="done"),
    # The monitor's range: page faults, whatever is tried there, and no data.
    Attack("monitor_pages", ENDED, output=r"\Avector_0e=604\ncompleted=0\n\Z", kvm=True),
    Attack("monitor_jumps", ENDED, output=r"\Avector_0e=608\ncompleted=0\n\Z", kvm=True),
    # #UD and int $0x80 are probes that do not touch memory, and unaligned FXSAVE, FXRSTOR and CMPXCHG16B are refused before they do.
    Attack("monitor_probes", ENDED, output=r"\Avector_06=c\nvector_0d=3\nvector_0e=231\nvector_80=c\ncompleted=0\n\Z"),
    Attack("no_memory_probe", ENDED + STOPPED, SAYS_SO, variants=50, sanitized=10),
    Attack("above_probes", ENDED, output="vector_0e="),
    Attack("jump_nowhere", STOPPED, "where there is no memory", kvm=True),
    Attack("last_page", ENDED + STOPPED, SAYS_SO, variants=9, sanitized=3, kvm=True),
    Attack("self_modifying", ENDED, output=r"\Abdfhjlnprtvxz\n\Z", kvm=True),
    Attack("bad_idt", STOPPED, TRIPLE, variants=12, sanitized=3, kvm=True),
    Attack("bad_gdt", STOPPED, TRIPLE, variants=12, sanitized=3),
    Attack("bad_tss", STOPPED, TRIPLE, variants=12, sanitized=3),
    Attack("bad_stack", STOPPED + FAILED, SAYS_SO, variants=12, sanitized=6),
    Attack("bad_stack_ist", ENDED, output="vector_0"),
    Attack("nested_exceptions", STOPPED, TRIPLE, kvm=True),
    Attack("all_selectors", ENDED, output="vector_0d="),
    Attack("random_tables", ENDED + STOPPED, "|jumped to 32-bit code"),
    Attack("bad_iret", ENDED + STOPPED, "^$|runs 64-bit code only"),
    Attack("bad_syscall", ENDED, output="vector_0d=\\w+\nvector_0e="),
    Attack("random_registers", ENDED, output="vector_0d="),
    Attack("random_msrs", ENDED, output="vector_0d="),
    Attack("timer_storm", ENDED, output="enough", kvm=True),
    Attack("uart_storm", ENDED, output="enough", kvm=True),
    Attack("nested_interrupts", TIMEOUT, "still running", seconds=LONG),
    Attack("all_ports", ENDED, output="all ports"),
    # Noise can make the controller level-triggered, and then an interrupt that is not acknowledged leaves the guest no time.
    Attack("device_noise", ENDED + TIMEOUT, "^$|still running", variants=4, sanitized=2, seconds=LONG),
    Attack("noise", ANY, ".*", variants=24, sanitized=6, seconds=LONG),
)


def stats(result):
    """The line of JSON, or an empty dictionary."""
    last = result.stderr.splitlines()[-1:] or [""]
    return json.loads(last[0]) if last[0].startswith("{") else {}


class Hostile:
    """What is the same for the plain hv and the one with sanitizers; each boots the test host once."""

    program = ""
    attacks = ATTACKS
    named = ("trap",)  # engines whose sentences and whose guests' output are known
    every = ("trap", "kvm")

    @classmethod
    def engines(cls, attack):
        """name -> hv's options, for each engine that the attack runs on. Names that begin with trap have hv's own sentences."""
        return {"trap": [], **({"kvm": ["--engine", "kvm"]} if attack.kvm and cls.program == "hv" else {})}

    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests", *(["hv SAN=1"] if cls.program == "hv-san" else []))
        cls.seed = host.seed_from_environment(random)
        print(f"{cls.__name__}, {cls.program}: TRAPDOOR_SEED={cls.seed}")
        cls.results = cls.run_attacks()

    @classmethod
    def command(cls, attack, n, engine_options):
        options = f"{attack.name} n={n} mem={MEM} seed={cls.seed + n}"
        return host.Command([cls.program, "run", *engine_options, "--mem", f"{MEM}M", "--timeout", str(attack.seconds), "--stats", "json",
                             "--append", options, "hostile.elf"], limit=attack.seconds + 20)

    @classmethod
    def run_attacks(cls):
        commands = {}
        for attack in cls.attacks:
            for n in range(attack.variants if cls.program == "hv" else attack.sanitized):
                for engine, engine_options in cls.engines(attack).items():
                    commands[attack.name, n, engine] = cls.command(attack, n, engine_options)
            commands[attack.name, "next"] = host.Command([cls.program, "run", "--timeout", "20", "hello.elf"])
        commands["kernel", "next"] = host.Command([cls.program, "run", "--timeout", "60", "--append", "procs=0", "kernel.elf"])
        files = [f"{host.HV}:/work/hv", host.VM_GUESTS / "hostile.elf", host.GUESTS / "lab1/hello.elf", host.GUESTS / "kernel.elf"]
        if cls.program == "hv-san":
            files.append(f"{host.HV_SAN}:/work/hv-san")
        return host.run(commands, files, mem=1024, timeout=600)

    def each_attack(self, engines, check):
        """check(attack, result) for each run; a failure says how to do it again."""
        for attack in self.attacks:
            for key, result in self.results.items():
                if key[0] == attack.name and key[1] != "next" and key[2].split()[0] in engines:
                    with self.subTest(attack=attack.name, n=key[1], command=" ".join(map(str, result.argv))):
                        check(attack, result)

    def test_hv_survives(self):
        def check(_, result):
            self.assertEqual(result.signal, 0, f"hv was killed by signal {result.signal}: {result.stderr[-3000:]}")
            self.assertNotRegex(result.stderr, host.CRASH)
            self.assertIn(result.status, ANY)

        self.each_attack(self.every, check)

    def test_ends_as_documented(self):
        def check(attack, result):
            self.assertIn(result.status, attack.statuses, result.stderr)
            reason = stats(result)["reason"]
            self.assertRegex(reason, attack.reason)
            if result.status in STOPPED + TIMEOUT + FAILED:
                self.assertEqual(result.sentences, [f"hv: {reason}"])
            self.assertRegex(result.stdout.decode("latin-1"), attack.output)

        self.each_attack(self.named, check)

    def test_kvm_ends_with_a_sentence(self):
        def check(_, result):
            if result.status in STOPPED + TIMEOUT + FAILED:
                self.assertEqual(len(result.sentences), 1, result.stderr)

        self.each_attack(("kvm",), check)

    def test_memory_is_bounded(self):
        if self.program == "hv-san":
            self.skipTest("the sanitizers' own memory is not bounded")
        self.each_attack(self.every, lambda _, result: self.assertLess(result.maxrss_kib, (MEM + OVERHEAD) * 1024))

    def test_stderr_is_bounded(self):
        """However many addresses a guest tries, the report of them stays short."""
        self.each_attack(self.every, lambda _, result: self.assertLess(len(result.stderr), 20000))

    def test_next_guest_is_not_affected(self):
        for key, result in self.results.items():
            if key[1] != "next":
                continue
            with self.subTest(after=key[0]):
                self.assertEqual(result.status, host.OK, result.stderr)
                wanted = b"Hello from ring 0\n" if key[0] != "kernel" else b"the kernel has ended\n"
                self.assertTrue(re.search(re.escape(wanted), result.stdout.replace(b"\r\n", b"\n")), result.stdout)


class TestHostile(Hostile, unittest.TestCase):
    program = "hv"


class TestHostileSanitized(Hostile, unittest.TestCase):
    program = "hv-san"


if __name__ == "__main__":
    unittest.main()
