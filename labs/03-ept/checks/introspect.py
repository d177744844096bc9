"""Checkpoint 3.20: hv watches memory without the guest knowing."""

import random

import touchresults
from checks import first
from model import Checkpoint
from touchscript import DATA, LARGE, PAGE, Trial, touch_run

# Instructions of the code that is put into the guest's memory. Each is (bytes, [(where it writes, what)]).


def load(number):
    return b"\xb8" + number.to_bytes(4, "little"), ()  # mov $number, %eax


def add(number):
    return b"\x05" + number.to_bytes(4, "little"), ()  # add $number, %eax


def store(to, number):
    return b"\x48\xbf" + to.to_bytes(8, "little"), b"\xc7\x07" + number.to_bytes(4, "little")  # movabs $to, %rdi; movl $number, (%rdi)


RET = b"\xc3", ()


class Code:
    """Straight code from one address on. A patch changes the number of a later `add`, before it is reached."""

    def __init__(self, rng, base, length, patches):
        self.at = []  # [address, bytes, writes]
        self.adds = []
        at = base
        plan = sorted(rng.sample(range(2, length - 2), patches))

        def append(code, writes=()):
            nonlocal at
            self.at.append([at, bytearray(code), writes])
            at += len(code)

        append(load(rng.getrandbits(31))[0])
        holes = []
        for n in range(length):
            if n in plan:
                pointer, move = store(0, 0)
                holes.append(len(self.at))
                append(pointer)
                append(move)
            else:
                self.adds.append(len(self.at))
                append(add(rng.getrandbits(31))[0])
        append(RET[0])
        for hole in holes:
            later = [n for n in self.adds if n > hole]
            target, number = self.at[rng.choice(later)][0] + 1, rng.getrandbits(31)
            self.at[hole][1][2:] = target.to_bytes(8, "little")
            self.at[hole + 1][1][2:] = number.to_bytes(4, "little")
            self.at[hole + 1][2] = ((target, number.to_bytes(4, "little")),)
        self.base, self.end = base, at

    def image(self):
        return b"".join(code for _, code, _ in self.at)

    def put(self, trial):
        """Written by the guest, 8 bytes at a time, and the rest byte by byte."""
        image = self.image()
        for i in range(0, len(image) & -8, 8):
            trial.write(self.base + i, int.from_bytes(image[i : i + 8], "little"))
        for i in range(len(image) & -8, len(image)):
            trial.write(self.base + i, image[i], 1)

    def run(self, trial):
        """Calls it. The result is what a CPU computes that executes what is in memory when it comes there."""
        patched = {}
        for _, _, writes in self.at:
            patched.update(writes)
        total = 0
        for at, code, _ in self.at:
            number = int.from_bytes(patched.get(at + 1, code[1:5]), "little")
            if code[0] == 0xB8:
                total = number
            elif code[0] == 0x05:
                total = total + number & 0xFFFFFFFF
        trial.call(self.base, [(at - self.base, len(code), writes) for at, code, writes in self.at], total)


def write_watch(seed, format_):
    """A page of code is watched while the guest writes it and runs it, over its border too; some of the code changes itself."""
    rng = random.Random(seed)
    trial = Trial(format_, 2)
    page = DATA + LARGE * rng.randrange(10) + PAGE * rng.randrange(2, 500)
    codes = [Code(rng, page + 0x100, 24, 0), Code(rng, page + PAGE - rng.randrange(60, 90), 24, 4),
             Code(rng, page - rng.randrange(60, 90), 24, 4)]
    words = [page + 8 * rng.randrange(100, 300) for _ in range(8)]
    for code in codes:
        code.put(trial)
        code.run(trial)
    trial.stage("count", "watch %#x 0x1000 r-x" % page, "count")
    for _ in range(2):
        for code in rng.sample(codes, len(codes)):
            code.put(trial)  # what it has changed is as it was
            code.run(trial)
        for gpa in rng.sample(words, 6):
            how = rng.choice(("write", "write", "add", "push", "movups"))
            if how == "add":  # whether it reads before it writes is a CPU's own affair: an absent page would show
                trial.read(gpa & -16)
            trial.write(gpa & -16, rng.getrandbits(64), how=how)
        trial.write(page - 1 - rng.randrange(6), rng.getrandbits(64))
        trial.write(page + PAGE - 1 - rng.randrange(6), rng.getrandbits(64))
        trial.copy(page + 0xA00, rng.choice(words), 6)
        trial.fill(page + PAGE - 16, rng.getrandbits(64), 4)
        trial.sum(page + 0x300, 64)
        trial.stage("count")
    trial.stage("allow %#x 0x1000" % page)
    for code in codes:
        code.put(trial)
        code.run(trial)
    trial.sum(page, 512)
    trial.check()
    return trial


def fetch_watch(seed, format_):
    """Each instruction that is fetched from a page is reported; data in it may be used as before."""
    rng = random.Random(seed)
    trial = Trial(format_, 2)
    page = DATA + LARGE * rng.randrange(10) + PAGE * rng.randrange(2, 500)
    code = Code(rng, page + 8 * rng.randrange(100), rng.randrange(6, 12), 2)
    across = Code(rng, page + PAGE - rng.randrange(10, 40), 10, 0)
    for c in (code, across):
        c.put(trial)
        c.run(trial)
    trial.stage("watch %#x 0x1000 rw-" % page)
    for c in (code, across):
        c.put(trial)
        c.run(trial)
        trial.read(page + 8 * rng.randrange(500))
    trial.stage("watch %#x 0x1000 r--" % page)
    code.put(trial)
    code.run(trial)
    trial.stage("allow %#x 0x1000" % page)
    code.put(trial)
    code.run(trial)
    trial.check()
    return trial


def execute_only(seed, format_):
    """The guest runs a page that only may be executed, and reads it, as integrity checks do. No entry of NPT says this: hv refuses, and
    everything stays allowed."""
    rng = random.Random(seed)
    trial = Trial(format_, 2)
    page = DATA + LARGE * rng.randrange(10) + PAGE * rng.randrange(2, 500)
    code = Code(rng, page + 8 * rng.randrange(100), 12, 0)
    code.put(trial)
    code.run(trial)
    trial.sum(page, 8)
    trial.stage("watch %#x 0x1000 --x" % page, "watch %#x 0x1000 -w-" % page, "count")
    for n in range(3):
        if n == 2:
            trial.stage("unmap %#x 0x1000" % page)
        code.run(trial)
        for _ in range(4):
            trial.read(page + 8 * rng.randrange(200), 1 << rng.randrange(4))
        trial.write(page + 0xF00 + 8 * rng.randrange(30), rng.getrandbits(64))
    trial.stage("count", "allow %#x 0x1000" % page)
    trial.sum(page, 128)
    trial.check()
    return trial


SCENARIOS = {"write": write_watch, "fetch": fetch_watch, "execute": execute_only}
HINTS = {
    "write": "Each write to the watched page is reported, in order, with the address where it begins in the page and the instruction's; "
             "the guest reads, runs and writes the page as if nobody looked.",
    "fetch": "A page without X is watched for fetches: each instruction from it is one report, and is carried out.",
    "execute": "X without R: EPT has it when IA32_VMX_EPT_VPID_CAP says so (SDM vol. 3, A.10), NPT does not. W without R no format has.",
}


def verify(results, params):
    return first(*(touchresults.verify_trial(results[name], params[name], scenario, HINTS[name]) for name, scenario in SCENARIOS.items()
                   if name in results))


CHECKPOINTS = [
    Checkpoint(
        "3.20", "introspection: a page is watched without the guest knowing", 6,
        "Writes to a watched page of code are reported: where, by which instruction, in order; the guest's code, which changes itself "
        "too, runs as ever. Fetches can be watched, and on Intel code that may be executed and not read.",
        "The rights of a watched page must never be more than the watch leaves, whatever is mapped, split or handled beside it: "
        "exit_violation() in exits.c.",
        runs=[touch_run(name, scenario) for name, scenario in SCENARIOS.items()], verify=verify, depends=["3.16"]),
]
