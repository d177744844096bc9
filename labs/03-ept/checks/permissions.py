"""Checkpoints 3.16 and 3.17: rights, mappings and sizes of pages change under a running guest."""

import random

import touchresults
from checks import first
from model import BOCHS, HV_STOPPED, QEMU, Checkpoint, Failure
from touchscript import DATA, LARGE, PAGE, Denied, Trial, touch_run

HOSTS = (QEMU, BOCHS)
CODE = ((0, 5, ()), (5, 1, ()))  # mov $number, %eax; ret


def put_code(trial, gpa, number):
    trial.write(gpa, 0xB8 | number << 8 | 0xC3 << 40)


class Pages:
    """Pages that the guest has in use: code at their beginning, seeded words behind it."""

    def __init__(self, trial, rng, pages):
        self.trial, self.rng, self.pages = trial, rng, pages
        self.number = {}
        for gpa in pages:
            self.fill(gpa)

    def fill(self, gpa):
        number = self.rng.getrandbits(31)
        self.number[gpa] = number
        put_code(self.trial, gpa, number)
        for offset in self.offsets():
            self.trial.write(gpa + offset, self.rng.getrandbits(64))

    @staticmethod
    def offsets():
        return (8, 0x7F8, 0xFF8)

    def can(self, gpa):
        rule = self.trial.rule(gpa)
        return 7 if not rule or rule[3] else rule[2]

    def use(self, gpa):
        """Everything that is allowed, or watched."""
        trial, rng, can = self.trial, self.rng, self.can(gpa)
        if can & 1:
            trial.read(gpa + rng.choice(self.offsets()))
        if can & 4:
            trial.call(gpa, CODE, int.from_bytes(trial.peek(gpa + 1, 4), "little"))
        if can & 2:
            trial.write(gpa + 8 * rng.randrange(16, 255), rng.getrandbits(64))

    def use_all(self):
        for gpa in self.rng.sample(self.pages, len(self.pages)):
            self.use(gpa)


def pick(rng, count, regions):
    """That many pages, in some large pages; each has a neighbour among them."""
    found = []
    for i in range(count // 2):
        base = regions[i % len(regions)] + rng.randrange(2, 500) * PAGE
        found += [base, base + PAGE]
    return sorted(set(found))


def changes(seed, format_, level):
    """Rights and mappings change, some pages are watched; what the guest used before must not help it afterwards."""
    rng = random.Random(seed)
    trial = Trial(format_, level)
    regions = [DATA + LARGE * n for n in rng.sample(range(10), 3)]
    pages = Pages(trial, rng, pick(rng, 12, regions))
    others = [DATA + 10 * LARGE + n * PAGE for n in rng.sample(range(512), 4)]
    for gpa in others:
        pages.fill(gpa)
    remapped = set(rng.sample(pages.pages, 3))
    trial.stage("count")
    for n in range(9):
        pages.use_all()
        # One kind of change in a stage, and what it changed is used at once: a flush for something else would help.
        kind = ("watch", "remap", "unmap")[n % 3]
        if kind == "remap":
            changed = rng.sample(sorted(remapped), 2)
            commands = ["remap %#x %#x" % (gpa, rng.choice(others)) for gpa in changed]
        else:
            changed = rng.sample([p for p in pages.pages if p not in remapped], 4)
            rights = [rng.choice(("r--", "r-x", "rw-", "---", "r--")) for _ in changed]
            commands = ["unmap %#x 0x1000" % gpa if kind == "unmap" else
                        "%s %#x 0x1000 %s" % (rng.choice(("protect", "watch")) if i else "watch", gpa, rights[i])
                        for i, gpa in enumerate(changed)]
        trial.stage(*commands)
        for gpa in changed:
            pages.use(gpa)
        trial.stage("count")
        pages.use_all()
        trial.stage("count")
        if n == 5:
            # More rights: the guest goes on at once, and nothing has to be forgotten.
            trial.stage("count")
            trial.stage(*("allow %#x 0x1000" % gpa for gpa in pages.pages), "count")
            pages.use_all()
            trial.stage("count")
    if level == 1:
        trial.stage("dump")
    trial.check()
    return trial


def small(seed, format_):
    return changes(seed, format_, 1)


def large(seed, format_):
    return changes(seed, format_, 2)


def reused(seed, format_):
    """Tables are retired and used again, for other addresses, again and again."""
    rng = random.Random(seed)
    trial = Trial(format_, 2)
    regions = [DATA + LARGE * n for n in rng.sample(range(10), 4)]
    pages = Pages(trial, rng, pick(rng, 8, regions))
    for _ in range(8):
        pages.use_all()
        commands = []
        for region in rng.sample(regions, 3):
            commands.append(rng.choice(("unmap %#x 0x200000", "split %#x 2", "join %#x 2")) % region)
        trial.stage(*commands)
    pages.use_all()
    trial.stage("count")
    return trial


def denied(*kinds):
    """The last access is not allowed; one of the same kind was, a moment ago."""
    def scenario(seed, format_):
        rng = random.Random(seed)
        kind = rng.choice(kinds)
        trial = Trial(format_, 1)  # nothing is split, which would be a reason for a flush
        pages = Pages(trial, rng, pick(rng, 4, [DATA + LARGE * rng.randrange(10)]))
        gpa = rng.choice(pages.pages)
        pages.use_all()
        pages.use_all()
        trial.stage("protect %#x 0x1000 %s" % (gpa, {"read": "---", "write": "r-x", "fetch": "rw-"}[kind]))
        for other in pages.pages:
            if other != gpa:
                pages.use(other)
        trial.check()
        try:
            if kind == "read":
                trial.read(gpa + 8 * rng.randrange(512))
            elif kind == "write":
                trial.write(gpa + 8 * rng.randrange(512), rng.getrandbits(64))
            else:
                trial.call(gpa, CODE, 0)
        except Denied:
            trial.block = []
        return trial
    return scenario


DENIED = {"denied": denied("read", "write"), "fetch": denied("fetch")}


def denied_verify(r, params):
    trial = DENIED[r.name](params[0], touchresults.format_of(r))
    trial.script()
    gpa, rip, word = trial.denied
    hint = "The page was in use, so the CPU remembers what it was allowed to do there."
    failure = touchresults.values(r, trial, hint)
    wanted = "the guest's %s of gpa %#x at rip %#x is not allowed there" % (word, gpa, touchresults.rip_of(r, rip))
    if not failure and (r.status != HV_STOPPED or not (r.reason + ";").startswith(wanted + ";")):
        failure = Failure("the VM is stopped: " + wanted, "status %s: %s" % (r.status, r.reason or "no reason"), hint, r.name)
    return failure


CHANGED = ("Less rights, another page or none: as long as the CPU remembers what was there, the guest goes on with that. What was "
           "remembered must be forgotten before the guest runs again (n->flush, nested_put()).")


def changes_verify(results, params):
    return first(touchresults.verify_trial(results["small"], params["small"], small, CHANGED),
                 touchresults.verify_trial(results["large"], params["large"], large, CHANGED),
                 touchresults.verify_trial(results["reused"], params["reused"], reused,
                                          "A table that nothing leads to is used again for other addresses. Until the flush the CPU may "
                                          "walk through it, and remembers what it said."),
                 *(denied_verify(results[name], params[name]) for name in DENIED))


# --- 3.17: a large page is split ---------------------------------------------------------------------------------------------------------


def split(seed, format_):
    """The guest reads and writes all over a large page that is split and joined under it."""
    rng = random.Random(seed)
    trial = Trial(format_, 2)
    base = DATA + LARGE * rng.randrange(2, 10)
    places = sorted({base + rng.randrange(512) * PAGE + 8 * rng.randrange(510) for _ in range(24)} | {base, base + LARGE - 8})
    pieces = sorted(rng.sample(sorted({p & -PAGE for p in places}), 4))

    def touch_all():
        for gpa in rng.sample(places, len(places)):
            trial.read(gpa)
            if rng.random() < 0.5:
                trial.write(gpa, rng.getrandbits(64))

    for gpa in places:
        trial.write(gpa, rng.getrandbits(64))
    trial.write(base - 4, rng.getrandbits(64))  # over the border, into it
    put_code(trial, pieces[0] + 0x20, rng.getrandbits(31))
    trial.stage("count")
    touch_all()
    trial.stage("split %#x 2" % (base + rng.randrange(512) * PAGE), "split %#x 2" % base, "count", "dump")
    touch_all()
    trial.stage("count")
    # Single pieces have rights of their own, neighbours keep theirs.
    trial.stage("watch %#x 0x1000 r--" % pieces[0], "watch %#x 0x1000 rw-" % pieces[1], "watch %#x 0x1000 ---" % pieces[2],
                "join %#x 2" % base)
    touch_all()
    trial.stage("count")
    trial.stage(*("allow %#x 0x1000" % gpa for gpa in pieces[:3]), "unmap %#x 0x1000" % pieces[3], "join %#x 2" % base)
    touch_all()
    trial.stage("count", "join %#x 2" % base, "join %#x 2" % base, "count", "dump")
    touch_all()
    trial.call(pieces[0] + 0x20, CODE, int.from_bytes(trial.peek(pieces[0] + 0x21, 4), "little"))
    trial.stage("count")
    # And by a change of a part.
    trial.stage("watch %#x 0x3000 r-x" % (base + 255 * PAGE), "count")
    touch_all()
    trial.write(base + 255 * PAGE - 4, rng.getrandbits(64))
    trial.write(base + 258 * PAGE + 8, rng.getrandbits(64))
    trial.stage("count")
    trial.sum(pieces[1], 32)
    trial.check()
    return trial


SPLIT = ("The guest must not notice that a large page becomes 512 small ones or the other way round: the same memory, rights and "
         "contents, no violation, and rights that one piece loses are lost there and nowhere else.")


def split_verify(results, params):
    return touchresults.verify_trial(results["split"], params["split"], split, SPLIT)


CHECKPOINTS = [
    Checkpoint(
        "3.16", "permission changes, and the flush that they need", 7,
        "What the guest may do on a page changes while it uses the page: rights go, mappings go or lead to other memory. It takes effect "
        "at once, even on what the CPU remembers; an access that is forbidden does not happen. More rights need no flush. Tables that are "
        "used again show nothing old.",
        "exits.c: exit_violation() asks hvm_rights() first. nested.c: nested_put() says when a flush is due. SDM vol. 3, 28.4.3; APM vol. "
        "2, 15.16.",
        runs=[touch_run("small", small, "4K"), touch_run("large", large), touch_run("reused", reused)] +
             [touch_run(name, DENIED[name], "4K", ends=(HV_STOPPED,)) for name in DENIED],
        verify=changes_verify, depends=["3.11"]),
    Checkpoint(
        "3.17", "a large page is split under a running guest", 5,
        "A large page is split and joined while the guest uses it. Nothing changes for the guest: same memory, no violation. Pieces get "
        "rights of their own; a join is refused until all are alike.",
        "nested.c: nested_split(), nested_join(), nested_protect(), nested_unmap(). The new table must be complete before anything leads "
        "to it, and the CPU must forget the large page when a piece differs from it.",
        runs=[touch_run("split", split)], verify=split_verify, depends=["3.16"]),
]
