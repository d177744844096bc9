#!/usr/bin/env python3
"""diagrams_migration.py: draws those figures of docs/background-migration.md and slides/05-migration.md that have no numbers.
Those that have are scripts/figures_migration.py's."""

from figures import IMAGES, Drawing

WIDTH = 1152
# What it is: fill, line, text.
GUEST, HV, MACHINE, BAD, KVM = (("#dbeafe", "#1d4ed8", "#1e3a8a"), ("#dcfce7", "#15803d", "#14532d"), ("#f3f4f6", "#6b7280", "#111827"),
                                ("#fee2e2", "#b3261e", "#7f1d1d"), ("#fde68a", "#92400e", "#78350f"))
GREY, DARK = "#9ca3af", "#374151"


class Diagram(Drawing):
    def __init__(self, height, title, description):
        super().__init__(WIDTH, height, title, description, {})
        self.parts[3] = "<defs>" + "".join(
            f'<marker id="a{line[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" '
            f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{line}"/></marker>'
            for _, line, _ in (GUEST, HV, MACHINE, BAD, KVM)) + "</defs>"

    def box(self, x, y, width, height, lines, kind=MACHINE, bold=False, size=20):
        fill, line, ink = kind
        self.rect(x, y, width, height, fill=fill, stroke=line, stroke_width=2)
        lines = lines.split("|")
        for i, words in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 7 + (i - (len(lines) - 1) / 2) * (size + 4), words, fill=ink, text_anchor="middle",
                      font_size=size, **({"font_weight": "bold"} if bold else {}))

    def arrow(self, points, kind=MACHINE, dash="none"):
        self.path(points, stroke=kind[1], stroke_width=3, stroke_dasharray=dash, marker_end=f"url(#a{kind[1][1:]})")

    def head(self, x, y, words, kind=None, anchor="start"):
        self.text(x, y, words, font_weight="bold", fill=kind[2] if kind else "#111827", text_anchor=anchor)

    def small(self, x, y, words, anchor="start", fill=DARK):
        self.text(x, y, words, font_size=20, fill=fill, text_anchor=anchor)


def state():
    d = Diagram(420, "What a VM consists of, and the file that it becomes",
                "On the left what a VM has: memory, vCPUs, the platform's chips, virtio devices with requests in flight; outside of it "
                "the disk's image and connections. In the middle the file: header, CONFIG, PAGES, ROUND, PART for each chip and device, "
                "CPU for each vCPU, END. On the right what can be done with the file: copy it, restore it here or elsewhere, restore it "
                "lazily, and send the same bytes over a connection.")
    d.head(20, 34, "a VM that runs", GUEST)
    for i, (words, kind) in enumerate((("memory: pages", GUEST), ("vCPUs: registers, events", GUEST), ("clock, PIC, IOAPIC, PIT, UART", HV),
                                       ("virtio: rings, requests in flight", HV))):
        d.box(20, 54 + i * 56, 350, 46, words, kind)
    d.box(20, 300, 350, 46, "disk image, network", MACHINE)
    d.small(20, 376, "not in the file: it is named there")
    d.head(450, 34, "a stream", HV)
    for i, words in enumerate(("header, CONFIG, CPUID", "PAGES, PAGES, ...  ROUND", "PART  PART  PART ...", "CPU  CPU  END")):
        d.box(450, 54 + i * 56, 300, 46, words, HV)
    d.arrow([(370, 77), (430, 77), (430, 125), (448, 125)], GUEST)
    d.arrow([(370, 133), (414, 133), (414, 245), (448, 245)], GUEST)
    d.arrow([(370, 182), (448, 182)], HV)
    d.arrow([(370, 245), (396, 245), (396, 198), (448, 198)], HV)
    d.small(450, 320, "each section: length, number, CRC")
    d.head(830, 34, "what one does with it")
    for i, words in enumerate(("cp: two VMs", "restore: tomorrow, elsewhere", "restore --lazy: at once", "send it while the VM runs")):
        d.box(830, 54 + i * 56, 302, 46, words)
    d.arrow([(750, 160), (828, 160)])
    d.small(830, 320, "The last one is live migration.")
    return d


def sequence():
    d = Diagram(600, "The messages of a migration, and who runs when",
                "Time goes down. The source sends header and configuration, the destination accepts or refuses. Rounds of pages follow "
                "while the VM runs at the source. Then it stands still: last pages, parts, END. The destination says READY, the source "
                "COMMIT, the destination COMMITTED and runs.")
    d.head(190, 34, "S, the source", GUEST, "middle")
    d.head(960, 34, "D, the destination", HV, "middle")
    for x in (300, 850):
        d.path([(x, 50), (x, 590)], stroke=GREY, stroke_width=2)
    d.rect(150, 60, 80, 226, fill="#dbeafe", stroke="#1d4ed8", stroke_width=2)
    d.text(190, 180, "runs", text_anchor="middle", fill="#1e3a8a")
    d.rect(150, 286, 80, 262, fill="#fee2e2", stroke="#b3261e", stroke_width=2)
    d.text(190, 420, "stands", text_anchor="middle", fill="#7f1d1d")
    d.rect(920, 508, 80, 82, fill="#dcfce7", stroke="#15803d", stroke_width=2)
    d.text(960, 556, "runs", text_anchor="middle", fill="#14532d")
    left, right = 304, 846
    for y, words, forward, kind in ((84, "header, CONFIG, CPUID", True, GUEST), (126, "ACCEPT, or REFUSE and why", False, HV),
                                    (168, "PAGES ... ROUND 1", True, GUEST), (210, "PAGES ... ROUND 2", True, GUEST),
                                    (252, "PAGES ... ROUND 3", True, GUEST), (316, "PAGES ROUND 4: the last", True, GUEST),
                                    (358, "PART ... CPU ... END", True, GUEST), (400, "READY: it makes sense, nothing runs", False, HV),
                                    (448, "COMMIT: it is yours", True, BAD), (504, "COMMITTED: it is mine", False, HV)):
        d.small(575, y - 6, words, "middle")
        d.arrow([(left, y), (right, y)] if forward else [(right, y), (left, y)], kind)
    d.small(20, 310, "downtime")
    d.path([(130, 288), (120, 288), (120, 508), (130, 508)], stroke=DARK, stroke_width=2)
    d.small(866, 482, "enters it in the record")
    d.small(300 - 14, 580, "ends", "end")
    return d


def race():
    d = Diagram(430, "Why the log is cleared before the page is read",
                "Two orders. Read the page, the guest writes, clear the log: the write is in neither, it is lost. Clear the log, the "
                "guest writes, read the page: the page is sent with the write or half of it, and the log says that it has to go again.")
    read, write, clear = "hv reads page 7", "guest writes to 7|log: 7", "hv clears the log"
    for y, title, steps, end, kind in ((20, "read, then forget", (read, write, clear), "the write is lost", BAD),
                                       (220, "forget, then read", (clear, write, read), "sent twice, never lost", HV)):
        d.head(20, y + 16, title)
        for i, words in enumerate(steps):
            d.box(20 + i * 280, y + 36, 230, 66, words, GUEST if i == 1 else MACHINE)
            d.arrow([(250 + i * 280, y + 69), (298 + i * 280, y + 69)])
        d.box(860, y + 36, 272, 66, end, kind, True)
        d.small(20, y + 138, "The log is empty, and the other side has the old page." if kind is BAD else
                "The other side has the new page or a torn one; the log still has 7, so the next round sends it whole.")
    return d


def logs():
    d = Diagram(470, "Where a dirty log comes from",
                "Three rows. Write protection: pages are read-only, the first write faults, the fault sets a bit and makes the page "
                "writable. D bits: the processor sets them in the last table of the walk, hv collects and clears them, and flushes the "
                "TLB. KVM's log: one ioctl returns a bitmap and protects again. Below: hv's devices, which write through a pointer and "
                "must add their pages themselves.")
    rows = (("write protection", "trap, hvm",
             ("read-only entry", "first write: a fault|sets the bit", "writable until|the log is fetched"), KVM),
            ("D bits", "hvm", ("clean entry", "CPU sets D|in its walk", "fetch: collect, clear,|flush the TLB"), GUEST),
            ("KVM's log", "kvm", ("slot with|LOG_DIRTY_PAGES", "KVM does one of|the two above", "one ioctl returns|the bitmap"), MACHINE))
    for i, (name, engine, steps, kind) in enumerate(rows):
        y = 20 + i * 108
        d.head(20, y + 36, name)
        d.small(20, y + 64, engine)
        for j, words in enumerate(steps):
            d.box(240 + j * 310, y + 8, 250, 72, words, kind)
            if j:
                d.arrow([(180 + j * 310, y + 44), (238 + j * 310, y + 44)])
    d.head(20, 380, "hv itself")
    d.small(20, 408, "all engines")
    d.box(240, 350, 870, 72, "devices, emulated stores, A and D bits that hv's walks set: no table sees these|page_log_add()", HV)
    d.small(20, 458, "A log that lacks the last row works until the disk is busy.")
    return d


def order():
    d = Diagram(330, "The order in which state comes back",
                "Memory, then five groups: clock, interrupt controllers, devices, virtio devices, vCPUs. Below each why: all times are "
                "distances from the clock; controllers take what devices raise; devices raise lines while they are loaded; virtio looks "
                "at rings in memory; what is pending for the vCPUs is there already.")
    groups = (("memory", GUEST, "all of it,|before anybody|looks into it"), ("clock", HV, "all other times|are distances|from it"),
              ("controllers", HV, "PIC, IOAPIC,|LAPIC: they take|what is raised"),
              ("devices", HV, "PIT, UART, ...:|their lines rise|as they load"),
              ("virtio", HV, "looks at its|rings in|memory"), ("vCPUs", GUEST, "what is pending|for them is|there already"))
    for i, (name, kind, why) in enumerate(groups):
        x = 20 + i * 190
        d.box(x, 40, 150, 70, name, kind, True)
        if i:
            d.arrow([(x - 40, 75), (x - 2, 75)])
        for j, words in enumerate(why.split("|")):
            d.small(x + 75, 146 + j * 26, words, "middle")
    d.path([(20, 236), (1120, 236)], stroke=GREY, stroke_width=1)
    d.small(20, 270, "A controller that is loaded behind its devices overwrites what they have just raised: an interrupt is gone,")
    d.small(20, 298, "and the guest waits for it for ever. Nothing says so. Saving goes in the same order.")
    return d


def record():
    d = Diagram(400, "One file decides",
                "As long as the record has its own name, the VM is the source's. The destination renames it to committed when COMMIT has "
                "come, before it says COMMITTED and runs. The source renames it to taken when the connection broke behind COMMIT, before "
                "it runs again. Only one rename finds the file. Without a record the source asks over a new connection; when nobody "
                "answers it stands still.")
    d.box(430, 30, 290, 70, "link.record|both see it", MACHINE, True)
    d.box(60, 190, 330, 70, "link.record.committed", HV, True)
    d.box(762, 190, 330, 70, "link.record.taken", GUEST, True)
    d.arrow([(430, 65), (225, 65), (225, 188)], HV)
    d.arrow([(720, 65), (927, 65), (927, 188)], GUEST)
    d.small(20, 130, "D: COMMIT has come", fill=HV[2])
    d.small(20, 156, "rename()", fill=HV[2])
    d.small(943, 130, "S: it broke", fill=GUEST[2])
    d.small(943, 156, "rename()", fill=GUEST[2])
    d.small(225, 292, "D says COMMITTED, and runs", "middle")
    d.small(927, 292, "S runs; D's rename fails: it ends", "middle")
    d.head(576, 190, "one of the two", anchor="middle")
    d.head(576, 220, "succeeds", anchor="middle")
    d.box(60, 324, 1032, 56, "no file that both see:  connect again and ask;  no answer:  stand still until a person decides", BAD)
    return d


def postcopy():
    d = Diagram(430, "A page that is missing",
                "The destination's vCPU touches a page that is not there. userfaultfd stops it and tells hv. hv asks with NEED; the "
                "source sends that page before all others; hv puts it in with UFFDIO_COPY and the vCPU goes on. Between such questions "
                "the source sends the other pages, from the place that was asked for last.")
    d.head(20, 34, "destination", HV)
    d.head(760, 34, "source", GUEST)
    d.box(20, 60, 220, 66, "vCPU touches|page 90", GUEST)
    d.box(300, 60, 240, 66, "userfaultfd: it|stands, hv is told", KVM)
    d.box(300, 190, 240, 66, "hv: UFFDIO_COPY,|the vCPU goes on", HV)
    d.arrow([(240, 93), (298, 93)], BAD)
    d.arrow([(300, 223), (130, 223), (130, 128)], HV)
    d.box(760, 60, 372, 66, "90 is owed: it goes before all others", GUEST)
    d.box(760, 190, 372, 66, "then 91, 92, ... in small pieces,|look for questions between them", GUEST)
    d.arrow([(540, 80), (758, 80)], HV)
    d.small(650, 72, "NEED 90", "middle")
    d.arrow([(760, 112), (660, 112), (660, 210), (542, 210)], GUEST)
    d.small(700, 164, "page 90", "start")
    d.arrow([(760, 238), (542, 238)], GUEST, "8 5")
    d.small(650, 264, "pages 91 - 106", "middle")
    d.path([(20, 300), (1132, 300)], stroke=GREY, stroke_width=1)
    d.head(20, 334, "The connection breaks")
    d.small(20, 364, "D goes on until it touches a missing page. A new connection: D says HAVE, a bit for each page there, and asks")
    d.small(20, 390, "again for what is waited for. S owes what HAVE lacks, whatever it sent before. D dies: the VM is lost.")
    return d


def clocks():
    d = Diagram(400, "What the guest's clock does between stop and start",
                "Two cases over real time. From a file: the guest's clock stands from the save to the restore, an hour later, and goes on "
                "with the next nanosecond. Live: it was away for 80 ms and its clock goes on by 80 ms. Both TSC and kvmclock, and all "
                "timers of devices, by the same distance.")
    for y, name, gap, why, kind in ((40, "from a file", "an hour in a drawer",
                                     "goes on where it stopped: for the guest no time passed", GUEST),
                                    (210, "live", "80 ms", "goes on 80 ms later: connections, leases and users did see them pass", HV)):
        d.head(20, y + 34, name)
        d.box(200, y, 300, 56, "guest's clock runs", GUEST)
        d.box(500, y, 260, 56, gap, MACHINE)
        d.box(760, y, 300, 56, "runs", kind)
        d.small(500, y + 82, "stop", "middle")
        d.small(760, y + 82, "start", "middle")
        d.small(200, y + 118, why)
    d.small(20, 380, "TSC, kvmclock and every device's timer by the same distance, or the guest's kernel distrusts one of them.")
    return d


FIGURES = {"migration-state": state, "migration-sequence": sequence, "migration-race": race, "migration-log": logs,
           "migration-order": order, "migration-record": record, "migration-postcopy": postcopy, "migration-time": clocks}


def main():
    for name, draw in FIGURES.items():
        (IMAGES / f"{name}.svg").write_text(str(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()
