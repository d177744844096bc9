"""What breaks while a VM moves: the connection is cut at every boundary of a message and in between, bits flip, messages are
missing, come twice or in another order, nothing comes any more, one of the two processes is killed, the disk gets full; and around
the commit also where no record decides. One guest lives through all of it (faults.c). Whatever happens, exactly one side has it
afterwards, its memory is what it has to be, and somebody says what happened.
"""

import collections
import json
import random
import re
import unittest

import host

AT_LEAST = 500
HERE, THERE, NOBODY = "source", "destination", "nobody"

# Which kinds end how, where the two sides cannot see one record and so have to ask.
APART = {"apart-before": HERE, "apart-behind": THERE, "apart-killed": "source, when told so"}

# What the source says of a VM that stays, and the destination of one that it does not get, by the kind of fault.
SECTION = r"(section \d+|its header|the header)"
BROKE = rf"it ends (before|within) {SECTION}|{SECTION} could not be (written|read): (Broken pipe|Connection reset by peer)"
SILENT = rf"{SECTION} could not be read: Connection timed out"
WRONG = "|".join((rf"{SECTION} is damaged", r"section \d+ claims to have \d+ bytes",
                  r"section \d+ is missing: number \d+ comes in its place",
                  r"section \d+ \(type \d+\) has version \d+ of its layout, which this hv does not know", "it is no saved VM: .*"))
# With a wrong length, or when the last message is missing, somebody waits for what never comes.
ANY = f"{BROKE}|{WRONG}|{SILENT}"
STAYS = {"cut": BROKE, "byte": BROKE, "kill-source": BROKE, "kill-destination": BROKE, "apart-before": BROKE, "mute": SILENT,
         "flip": ANY, "twice": ANY, "swap": ANY, "drop": ANY}
FULL = r"^the VM goes on here: it was not saved: section \d+ could not be written: No space left on device$"
SAYS_HERE = r"the VM goes on here: (the connection broke: |the destination refuse[sd]: )?({})"
SAYS_THERE = (r"the VM that was to come does not: ({0})|"
              r"the VM stays where it was: (the connection broke: ({0})|the source has taken it back)")
UNKNOWN = r"^nobody knows whether the VM runs at unix:r\d+ \(.*\): make sure that it does not, and say resume, or quit$"
# Every kind on one engine each: what the sides say to each other does not depend on it, what they load does.
PLAYED = {"trap": ("cut", "twice", "apart-before", "apart-behind", "apart-killed"),
          "hvm": ("byte", "swap", "kill-source", "kill-destination", "save-full"), "kvm": ("flip", "drop", "wait", "mute", "save-kill")}
LOST = 3  # exit status of a destination that did not get the VM


class MigrationFaults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        host.build("hv", "guests", "vmguests")
        cls.seed = host.seed_from_environment(random)
        print(f"MigrationFaults: TRAPDOOR_SEED={cls.seed}")
        files = [f"{host.HV}:/work/hv", host.VM_GUESTS / "beat.elf", host.VM_GUESTS / "faults"]
        commands = {engine: host.Command(["faults", "hv", engine, str(cls.seed), *kinds], limit=540) for engine, kinds in PLAYED.items()}
        cls.results = host.run(commands, files, mem=1024, timeout=1200)
        cls.faults, cls.ends = [], {}
        for engine, result in cls.results.items():
            *faults, cls.ends[engine] = [{**json.loads(line), "engine": engine}
                                         for line in result.stdout.decode(errors="replace").splitlines()] or [{}]
            cls.faults += faults

    def each(self, check, *kinds):
        """check(fault), for all faults or those of these kinds; a failure shows everything that is known of it."""
        for fault in self.faults:
            if fault["kind"] in kinds or not kinds:
                with self.subTest(**fault):
                    check(fault)

    def test_all_were_played(self):
        for engine, result in self.results.items():
            self.assertEqual((result.status, result.stderr, self.ends[engine].get("kind")), (host.OK, "", "end"), engine)
        count = collections.Counter(fault["kind"] for fault in self.faults if fault["harmed"] and fault["kind"] != "late")
        print("faults:", dict(count))
        self.assertGreaterEqual(sum(count.values()), AT_LEAST)
        messages, answers = self.ends["trap"]["messages"]
        self.assertGreater(messages, 25)
        self.assertGreater(count["cut"], messages + answers)  # some boundaries are behind the end of a migration with fewer rounds
        for kind in (*STAYS, *APART, "wait", "save-full", "save-kill"):
            self.assertGreater(count[kind], 0, kind)

    def test_exactly_one_side_runs(self):
        """The driver's own rules: no byte of the guest's output missing, twice or of a wrong memory; the loser ends, and was silent."""
        self.each(lambda fault: self.assertEqual(fault["trouble"], ""))

    def test_somebody_has_it_unless_its_process_was_killed(self):
        def check(fault):
            if fault["ran"] == NOBODY and fault["kind"] != "late":
                self.assertIn(fault["kind"], ("kill-source", "kill-destination"))
                self.assertEqual(fault["committed"], fault["kind"] == "kill-destination", "who was killed did not have it")

        self.each(check)

    def test_without_harm_it_moves(self):
        self.each(lambda fault: self.assertEqual(fault["ran"], THERE), "none", "wait")
        self.each(lambda fault: self.assertTrue(fault["harmed"] or fault["ran"] == THERE))

    def test_with_harm_before_the_commit_it_stays(self):
        def check(fault):
            if fault["harmed"] and fault["ran"] == THERE:
                self.assertTrue(fault["committed"], "nobody had said so")
            # All that the source says up to there is needed.
            if fault["harmed"] and fault["kind"] in ("drop", "swap"):
                self.assertEqual(fault["ran"], HERE)

        self.each(check, "byte", "flip", "twice", "drop", "swap", "cut", "mute")

    def test_without_a_record_they_ask(self):
        self.each(lambda fault: self.assertEqual(fault["ran"], APART[fault["kind"]]), *APART)
        self.each(lambda fault: self.assertRegex(fault["source"], UNKNOWN), "apart-killed")

    def test_the_source_says_what_happened(self):
        def check(fault):
            if fault["ran"] == THERE and (fault["kind"] != "kill-source" or fault["source"]):
                self.assertRegex(fault["source"], r"^moved to unix:r\d+$")
            elif fault["ran"] == HERE and fault["kind"] in STAYS:
                self.assertRegex(fault["source"], f"^{SAYS_HERE.format(STAYS[fault['kind']])}$")

        self.each(check)
        self.each(lambda fault: self.assertRegex(fault["source"], FULL), "save-full")

    def test_the_destination_says_what_happened(self):
        def check(fault):
            if fault["destination_status"] == LOST or fault["destination"]:  # it may need a moment more to end
                self.assertRegex(fault["destination"], f"^{SAYS_THERE.format(STAYS.get(fault['kind'], ANY))}$")
            elif fault["kind"] not in ("kill-destination", "apart-killed"):
                self.assertEqual(fault["destination_status"], -1)

        self.each(check)

    def test_a_killed_save_leaves_either_file(self):
        left = [fault["source"] for fault in self.faults if fault["kind"] == "save-kill"]
        self.assertGreater(len(left), 5)
        self.assertLessEqual(set(left), {"the old file", "the new file"})


if __name__ == "__main__":
    unittest.main()
