"""A /dev/kvm that cannot do what it is asked: each time one sentence and an exit status, never a bare number or a hang."""

import subprocess
import unittest

import host
from host import Command

HELLO = host.GUESTS / "lab1/hello.elf"
SHIM = host.VM_GUESTS / "refuse.so"

FAIL_ENTRY, INTERNAL_ERROR, UNKNOWN, ODD = 9, 17, 0, 99

# name -> (environment, engine, exit status, what the sentence must say)
CASES = {
    "no sync regs": ("TRAPDOOR_NO_CAP=74", "trap", host.HOST, "registers in kvm_run"),
    "no immediate exit": ("TRAPDOOR_NO_CAP=136", "kvm", host.HOST, "immediate_exit"),
    "no vm": ("TRAPDOOR_REFUSE=KVM_CREATE_VM", "trap", host.HOST, "KVM_CREATE_VM was refused"),
    "no long mode (trap)": ("TRAPDOOR_REFUSE=KVM_SET_SREGS", "trap", host.HOST, "KVM_SET_SREGS was refused"),
    "no long mode (kvm)": ("TRAPDOOR_REFUSE=KVM_SET_SREGS", "kvm", host.HOST, "KVM_SET_SREGS was refused"),
    "no irqchip": ("TRAPDOOR_REFUSE=KVM_CREATE_IRQCHIP", "kvm", host.HOST, "KVM_CREATE_IRQCHIP was refused"),
    "no msrs": ("TRAPDOOR_REFUSE=KVM_SET_MSRS", "trap", host.HOST, "KVM_SET_MSRS"),
    "no memory slot": ("TRAPDOOR_REFUSE=KVM_SET_USER_MEMORY_REGION", "trap", host.HOST, "KVM_SET_USER_MEMORY_REGION"),
    "run fails": ("TRAPDOOR_REFUSE=KVM_RUN", "trap", host.HOST, "KVM_RUN"),
    "state rejected": (f"TRAPDOOR_EXIT={FAIL_ENTRY}", "trap", host.STOPPED, "rejected the machine's register state"),
    "state rejected (kvm)": (f"TRAPDOOR_EXIT={FAIL_ENTRY}", "kvm", host.STOPPED, "rejected the machine's register state"),
    "internal error": (f"TRAPDOOR_EXIT={INTERNAL_ERROR}", "kvm", host.STOPPED, "KVM gave up at rip 0x"),
    "unknown exit": (f"TRAPDOOR_EXIT={UNKNOWN}", "kvm", host.STOPPED, "a reason KVM does not know"),
    "odd exit": (f"TRAPDOOR_EXIT={ODD}", "trap", host.STOPPED, "exit reason 99"),
}


class Capability(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "testhost", "build/vm/usage")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", SHIM, host.TOP / "tests/vm/refuse.c", "-ldl"],
                       check=True)
        commands = {
            name: Command(["env", environment, "LD_PRELOAD=/work/refuse.so",
                           "hv", "run", "--engine", engine, "--timeout", "20", "hello.elf"], limit=40)
            for name, (environment, engine, _, _) in CASES.items()
        }
        commands["not a kvm"] = Command(["sh", "-c", "mv /dev/kvm /dev/k; ln -s null /dev/kvm; hv run hello.elf; s=$?; "
                                         "rm /dev/kvm; mv /dev/k /dev/kvm; exit $s"], limit=40)
        commands["all there"] = Command(["env", "LD_PRELOAD=/work/refuse.so", "hv", "run", "hello.elf"], limit=40)
        cls.results = host.run(commands, [host.HV, HELLO, SHIM])

    def test_one_sentence_each(self):
        for name, (_, _, status, words) in CASES.items():
            with self.subTest(name):
                result = self.results[name]
                self.assertEqual(result.status, status, result.stderr)
                self.assertEqual(len(result.sentences), 1, result.stderr)
                self.assertIn(words, result.sentences[0])
                self.assertNotRegex(result.stderr, host.CRASH)

    def test_other_device(self):
        result = self.results["not a kvm"]
        self.assertEqual(result.status, host.HOST, result.stderr)
        self.assertIn("/dev/kvm answers with API version", result.stderr)

    def test_the_shim_alone_changes_nothing(self):
        self.assertEqual(self.results["all there"].status, host.OK, self.results["all there"].stderr)


if __name__ == "__main__":
    unittest.main()
