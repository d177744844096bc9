"""The dirty logs of trap and hvm against memory itself: a guest writes in all ways in which hv may have to do it for the guest,
round by round of a migration that is stepped through. Memory is hashed before and behind each step, page by page: a page
that has changed must be in the next round. At the end, memory at the other side is what it was here.
"""

import json
import pathlib
import random
import sys
import tempfile
import types
import unittest

import host

sys.path.append(str(host.TOP / "labs/05-migration/checks"))

import staging  # noqa: E402
import testhost  # noqa: E402

ENGINES = {
    "trap": "--engine trap",
    "trap-vtlb": "--engine trap --shadow vtlb",
    "trap-cached": "--engine trap --shadow cached",
    "hvm": "--engine hvm",
    "hvm-4k": "--engine hvm --page-size 4K",
    "hvm-vtlb": "--engine hvm --shadow vtlb",
    "hvm-cached": "--engine hvm --shadow cached",
}
PAGE = 4096
SECONDS = 50
# By how much a round may be larger than what has changed: pages that got the same bytes again (stacks, tables that are used).
SLACK = 12
# Five pages may be left for the last round: under nested paging a CPU that reads page tables counts as one that writes them, so there are
# always three.
DOWNTIME = "--downtime 5 --bandwidth 4M"
SECTION_PAGES, SECTION_ROUND = 3, 4


def steps(rng):
    """Letters for tests/vm/guests/writes.c, one string for each round. Each way of writing is alone in some round, but for plain stores to
    other pages: enough of them that it is not the last round (DOWNTIME)."""
    alone = list("paitrg")
    rng.shuffle(alone)
    # Marks are cleared in the round before the one that sets them.
    found = ["s"] + ["s" + word for letter in alone for word in (["c", "a"] if letter == "a" else [letter])]
    return found + ["s" + "".join(rng.choices("pcaitrg", k=rng.randrange(1, 5))) for _ in range(2)]


class Journey:
    """A play in which a VM moves, and which of its steps asked for what."""

    def __init__(self, options, letters):
        self.play = play = staging.Play()
        options += " --mem 16M --hash-memory"
        play.incoming("D", "unix:@DIR@/d", options)
        play.step("relay R @DIR@/s @DIR@/d --times 1")
        play.vm("S", options, "writes.elf")
        play.step("await S ready")
        play.step(f"ask S.ctl migrate unix:@DIR@/s --step --detach {DOWNTIME}")
        self.before, self.behind, count = [], [], 0
        for word in letters:
            play.step('poll S.ctl job | "waits_for_step":true')
            self.before.append(play.step("ask S.ctl stats"))
            for letter in word:
                count += 1
                play.type("S", letter, f"done {count:x}.")
            self.behind.append(play.step("ask S.ctl stats"))
            play.step("ask S.ctl migrate-step")
            play.step("rest 150")  # until it does not wait any more
        play.step('poll S.ctl job | "waits_for_step":true')
        # Nothing has been written meanwhile, so one step is enough; or two, if the machine was so busy that it still waited above.
        play.step("ask S.ctl migrate-step")
        play.step("ask S.ctl migrate-step")
        play.step("end S")
        self.arrived = play.step("ask D.ctl stats")
        play.step("ask D.ctl quit")
        play.step("end D")


def rounds(messages):
    """The pages of each round."""
    found, pages = [], set()
    for m in messages:
        if m.source and m.type == SECTION_PAGES:
            pages.update(range(m.gfn, m.gfn + m.count))
        elif m.source and m.type == SECTION_ROUND:
            found.append(pages)
            pages = set()
    return found


class TestDirtyLog(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "vmguests")
        stage = testhost.build_program(str(host.TOP), *testhost.TOOLS["/bin/stage"])
        seed = host.seed_from_environment(random)
        print(f"TRAPDOOR_SEED={seed}", flush=True)
        rng = random.Random(seed)
        commands, cls.journeys, cls.letters = {}, {}, {}
        with tempfile.TemporaryDirectory() as top:
            files = [host.HV, host.VM_GUESTS / "writes.elf", f"{stage}:/bin/stage"]
            for name, options in ENGINES.items():
                cls.letters[name] = steps(rng)
                cls.journeys[name] = Journey(options, cls.letters[name])
                where = pathlib.Path(top) / name
                where.mkdir()
                (where / "script").write_text(cls.journeys[name].play.text())
                files.append(f"{where}:/work/{name}")
                commands[name] = host.Command(["stage", SECONDS, f"/work/{name}", "/work/hv"], limit=SECONDS + 20)
            cls.results = host.run(commands, files, timeout=600)

    def journey(self, name):
        """(what was told, memory before and behind each step, memory at the other side)"""
        told = staging.told(types.SimpleNamespace(output=self.results[name].stdout), self.journeys[name].play)
        self.assertFalse(told.failed, (told.failed, told["S"].err[:300], told["D"].err[:300]))

        def memory(step):
            return {int(gpa, 16) // PAGE: crc for gpa, crc in json.loads(told.answers[step])["memory"].items()}

        journey = self.journeys[name]
        return told, [memory(s) for s in journey.before], [memory(s) for s in journey.behind], memory(journey.arrived)

    def test_every_page_that_changed_is_in_the_next_round(self):
        for name, letters in self.letters.items():
            with self.subTest(engine=name):
                told, before, behind, _ = self.journey(name)
                sent = rounds(told.messages())
                self.assertGreaterEqual(len(sent), len(letters) + 2, "a round for each step, all of memory before, and the last one")
                for number, word in enumerate(letters):
                    old, new = before[number], behind[number]
                    changed = {page for page in old.keys() | new.keys() if old.get(page) != new.get(page)}
                    with self.subTest(step=number, letters=word):
                        self.assertTrue(changed)
                        self.assertFalse(changed - sent[number + 1], "changed, and not sent in the next round")
                        self.assertLessEqual(len(sent[number + 1] - changed), SLACK, sorted(sent[number + 1] - changed))

    def test_nothing_changes_that_nobody_writes(self):
        for name in ENGINES:
            with self.subTest(engine=name):
                _, before, behind, arrived = self.journey(name)
                for number in range(1, len(before)):
                    self.assertEqual(before[number], behind[number - 1])
                self.assertEqual(arrived, behind[-1])


if __name__ == "__main__":
    unittest.main()
