"""Checkpoints 3.18 and 3.19: what the guest touched, from accessed and dirty bits, and what it wrote, from write protection."""

import random

import touchresults
from checks import first
from model import Checkpoint
from touchscript import DATA, LARGE, PAGE, TABLES, Trial, touch_run

# Entries of the guest's own tables (SDM vol. 3, tables 4-15 to 4-20).
PTE = 7  # present, writable, user; A and D clear
SLOT = 4  # of the guest's root: addresses from 4 * 512 GiB


class Mapped:
    """Pages of data under a second address, by tables of the guest's own. A and D are clear in their entries until the CPU walks."""

    def __init__(self, trial, rng, pages):
        self.trial = trial
        self.table = {level: TABLES + n * PAGE for level, n in zip((3, 2, 1), rng.sample(range(200), 3))}
        self.marked = set()  # (level, slot, bit) that the CPU has set already
        self.gpa = {}
        trial.write(self.table[3], self.table[2] | PTE)
        trial.write(self.table[2], self.table[1] | PTE)
        for slot, gpa in zip(rng.sample(range(512), len(pages)), pages):
            trial.write(self.table[1] + 8 * slot, gpa | PTE)
            self.gpa[slot] = gpa
        trial.root(SLOT, self.table[3] | PTE)

    def use(self, slot, offset, value=None):
        """A read, or a write of value. The CPU's walk writes to each table in whose entry a bit was clear, and may to the others."""
        bits = {(level, slot if level == 1 else 0, "A") for level in (3, 2, 1)} | ({(1, slot, "D")} if value is not None else set())
        must = {self.table[level] for level, _, _ in bits - self.marked}
        self.marked |= bits
        self.trial.walked(must, set(self.table.values()))
        self.trial.mapped_access(SLOT << 39 | slot << 12 | offset, self.gpa[slot] + offset, value)


def some_pages(rng, count, regions):
    return sorted(rng.sample([region + n * PAGE for region in regions for n in range(512)], count))


def write_somehow(trial, rng, gpa):
    """A write of a seeded size in that page, or over its end."""
    how = rng.randrange(8)
    if how < 4:
        width = 1 << how
        trial.write(gpa + rng.randrange(PAGE // width) * width, rng.getrandbits(64), width)
    elif how == 4:
        trial.write(gpa + 8 * rng.randrange(512), rng.getrandbits(64), how="add")
    elif how == 5:
        trial.write(gpa + 8 * rng.randrange(511), rng.getrandbits(64), how="push")
    elif how == 6:
        trial.write(gpa + 16 * rng.randrange(256), rng.getrandbits(64), how="movups")
    else:
        trial.fill(gpa + 8 * rng.randrange(500), rng.getrandbits(64), rng.randrange(1, 12))


def age_scenario(level):
    def scenario(seed, format_):
        rng = random.Random(seed)
        trial = Trial(format_, level)
        regions = [DATA + LARGE * n for n in rng.sample(range(10), 3 if level == 1 else 6)]
        pages = some_pages(rng, 16, regions[:3])
        for gpa in pages:
            trial.write(gpa + 8, rng.getrandbits(64))
        if level == 2:
            for region in regions[3:]:
                trial.write(region + 8 * rng.randrange(1 << 18), rng.getrandbits(64))
            trial.stage("split %#x 2" % regions[0])
        trial.stage("age")
        # Each round: the same pages may be in it again, although the CPU has used them before.
        for n in range(5):
            trial.stage("age")
            for gpa in rng.sample(pages, 6):
                trial.read(gpa + 8 * rng.randrange(512))
            for gpa in rng.sample(pages, 4):
                write_somehow(trial, rng, gpa)
            if level == 2:
                region = rng.choice(regions[3:])
                trial.read(region + 8 * rng.randrange(1 << 18))
                if n % 2:
                    trial.write(region + 8 * rng.randrange(1 << 18), rng.getrandbits(64))
            else:
                trial.read(rng.choice(regions) + 8 * rng.randrange(1 << 18))
            trial.stage("age", "age")
        trial.stage("age")
        trial.stage("age")
        if level == 2:
            # What the pieces had, the page has.
            trial.write(rng.choice([p for p in pages if p & -LARGE == regions[0]] or pages), 1)
            trial.stage("join %#x 2" % regions[0], "age", "split %#x 2" % regions[0])
        trial.read(pages[0])
        trial.write(pages[1], rng.getrandbits(64))
        if level == 2:
            trial.stage("split %#x 2" % regions[1])
        trial.stage("age")
        return trial
    return scenario


small_age, large_age = age_scenario(1), age_scenario(2)

AGE = ("A page that was used since the last look has A, one that was written D too; looking clears both. The CPU sets a bit in the tables "
       "when it walks them, and what it remembers it need not walk for: a cleared bit must be forgotten (flush).")


def age_verify(results, params):
    return first(*(touchresults.verify_trial(results[name], params[name], scenario, AGE)
                               for name, scenario in (("small", small_age), ("large", large_age))))


# --- 3.19: the dirty log -----------------------------------------------------------------------------------------------------------------


def log_scenario(level):
    def scenario(seed, format_):
        rng = random.Random(seed)
        trial = Trial(format_, level)
        regions = [DATA + LARGE * n for n in rng.sample(range(11), 4)]
        pages = some_pages(rng, 14, regions[:3])
        # First touched while the log is on.
        late = [page + 256 * PAGE for page in rng.sample(range(regions[3], regions[3] + LARGE // 2, PAGE), 4)]
        for gpa in pages:
            trial.write(gpa + 8, rng.getrandbits(64))
        second = Mapped(trial, rng, pages[:6])
        watched = regions[3] + 100 * PAGE
        trial.write(watched, rng.getrandbits(64))
        trial.stage("watch %#x 0x2000 r--" % watched, "count")
        trial.stage("log start", "log fetch")
        for n in range(4):
            for gpa in rng.sample(pages, 5):
                write_somehow(trial, rng, gpa)
            for gpa in rng.sample(pages, 4):
                trial.read(gpa + 8 * rng.randrange(512))
            gpa = rng.choice(pages)
            trial.write(gpa - rng.randrange(1, 8), rng.getrandbits(64))  # into the page before it too
            gpa = rng.choice(pages)
            trial.copy(gpa + PAGE - rng.randrange(1, 9), rng.choice(pages) + 64, 12)
            trial.write(rng.choice(pages) + rng.randrange(PAGE), 0, how="ins")
            if n:  # the watch and the log at once: hv carries the write out, or steps over it
                trial.write(watched + 8 * rng.randrange(512), rng.getrandbits(64), how=rng.choice(("write", "movups")))
                trial.read(watched + 8 * rng.randrange(512))
            trial.read(late[n])
            if n % 2:
                trial.write(late[n] + 8 * rng.randrange(512), rng.getrandbits(64))
            for slot in rng.sample(sorted(second.gpa), 2):
                second.use(slot, 8 * rng.randrange(512), rng.choice((None, rng.getrandbits(64))))
            trial.stage("log fetch")
        trial.stage("log fetch")
        write_somehow(trial, rng, pages[0])
        trial.stage("log stop", "count")
        for gpa in pages:
            write_somehow(trial, rng, gpa)
        trial.write(watched + 8 * rng.randrange(512), rng.getrandbits(64))
        trial.write(watched + PAGE + 8 * rng.randrange(512), rng.getrandbits(64))
        trial.stage("count")
        trial.stage("log start")
        write_somehow(trial, rng, pages[-1])
        trial.stage("log fetch", "log stop")
        trial.check()
        return trial
    return scenario


small_log, large_log = log_scenario(1), log_scenario(2)

LOG = ("Every page of 4 KiB that was written since the last look, and no other: also those that were not mapped, that were part of a "
       "large page, that an access only just reached, and that the CPU wrote itself when it set A and D in the guest's tables.")


def log_verify(results, params):
    return first(*(touchresults.verify_trial(results[name], params[name], scenario, LOG)
                               for name, scenario in (("small", small_log), ("large", large_log))))


CHECKPOINTS = [
    Checkpoint(
        "3.18", "accessed and dirty: the working set", 6,
        "`age` reports which pages the guest used and which it wrote since the last time, exactly, and as large as they are mapped; and "
        "begins anew.",
        "dirty.c: nested_harvest(). Which entries say something of a page? And what must the CPU forget?",
        runs=[touch_run("small", small_age, "4K"), touch_run("large", large_age)], verify=age_verify, depends=["3.11"]),
    Checkpoint(
        "3.19", "the dirty log, exact to the page", 7,
        "While the log is on, every page of 4 KiB that the guest writes is in it, and no other; after each look it begins anew; when it "
        "is stopped nothing is protected any more.",
        "dirty.c: dirty_start(), dirty_fault(), dirty_fetch(), dirty_stop(); exits.c: exit_violation(). What is mapped while the log is "
        "on?",
        runs=[touch_run("small", small_log, "4K"), touch_run("large", large_log)], verify=log_verify, depends=["3.16"]),
]
