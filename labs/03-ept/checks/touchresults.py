"""What hv and guests/touch.c said of a trial (touchscript.py), compared with what had to come of it."""

import nestwalk
from checks import first
from model import BOCHS, Failure
from nestwalk import rights_text, size
from touchscript import DATA, DATA_END, LARGE, PAGE, TABLES, TABLES_END


def format_of(result):
    nested = (result.stats or {}).get("nested")
    found = nested.get("format") if isinstance(nested, dict) else None
    return found if found in ("ept", "npt") else "ept" if result.host == BOCHS else "npt"


def values(result, trial, hint):
    """What the guest read."""
    for number, (total, block) in enumerate(trial.blocks):
        key = "block%x" % number
        if result.lines.get(key) == [total]:
            continue
        for i, (value, what) in enumerate(block):
            seen = result.lines.get("%s.%x" % (key, i))
            if seen is not None and seen != [value]:
                return Failure("%#x from %s" % (value, what), "%#x" % seen[0], hint, result.name)
        return Failure("a line %s=%x: the hash of what the guest saw" % (key, total),
                       "%s" % (["%x" % v for v in result.lines.get(key, [])] or "no such line"), hint, result.name)
    return None


def runs_of(pages):
    """Sorted (gpa, level) in words."""
    return ", ".join("%#x%s" % (gpa, " (2 MiB)" if level == 2 else "") for gpa, level in sorted(pages)) or "none"


def in_data(gpa):
    return DATA <= gpa < DATA_END


def _aged(entries):
    """The pages of "accessed" or "dirty"; None when that is not what is there."""
    found = set()
    try:
        for gpa, level, count in entries:
            for i in range(min(count, 1 << 16)):
                found.add((int(gpa, 0) + i * size(level), level))
    except (TypeError, ValueError):
        return None
    return found


def difference(where, wanted, seen, hint, run, show):
    missing, more = wanted - seen, seen - wanted
    if not missing and not more:
        return None
    text = []
    if missing:
        text.append("without " + show(missing))
    if more:
        text.append("and also " + show(more))
    return Failure("%s: %s" % (where, show(wanted)), "; ".join(text), hint, run)


def own(gpa):
    """Does the guest keep itself there: code, stack, script, tables?"""
    return gpa < LARGE or gpa >= TABLES


def aged(result, want, got, hint):
    """The data area exactly; of the guest's own memory its code at least, unless nothing ran since the last time."""
    code = rip_of(result, "read8")
    for name in ("accessed", "dirty"):
        seen = _aged(got.get(name) or [])
        if seen is None:
            return Failure("stage %d: lists of pages" % want["stage"], str(got.get(name))[:100], hint, result.name)
        failure = difference("stage %d, %s pages of the data area" % (want["stage"], name),
                             {p for p in want[name] if in_data(p[0])}, {p for p in seen if in_data(p[0])}, hint, result.name, runs_of)
        strange = {p for p in seen if not in_data(p[0]) and (want["again"] or not own(p[0]))}
        if not failure and strange:
            failure = Failure("stage %d, %s pages: %s" % (want["stage"], name, "none, the guest did not run since the last time"
                              if want["again"] else "nothing that the guest did not touch"), runs_of(strange), hint, result.name)
        if not failure and name == "accessed" and not want["again"] and not any(
                gpa <= code < gpa + size(level) for gpa, level in seen):
            failure = Failure("stage %d, accessed pages: the guest's code at %#x, which runs all the time" % (want["stage"], code),
                              runs_of({p for p in seen if own(p[0])}), hint, result.name)
        if failure:
            return failure
    return None


def pages_of_dump(cpu, dump):
    """{gpa: (level, ma, rights)} by the walk of nestwalk.py; or a sentence."""
    try:
        memory = {int(table, 0): {int(i): int(raw, 0) for i, raw in entries.items()} for table, entries in dump["tables"].items()}
        root = int(dump["root"], 0) & nestwalk.ADDRESS
    except (KeyError, TypeError, ValueError, AttributeError):
        return "no tables"
    found = {}

    def visit(table, level, base):
        for i, raw in sorted(memory.get(table, {}).items()):
            gpa, entry = base + i * size(level), nestwalk.decode(cpu, raw, level)
            if entry.kind == "invalid":
                raise ValueError("the entry %#x of level %d at gpa %#x is not valid: %s" % (raw, level, gpa, entry.why))
            if entry.kind == "page":
                found[gpa] = level, entry.ma, entry.rights
            elif entry.kind == "table":
                visit(entry.ma, level - 1, gpa)

    try:
        visit(root, 4, 0)
    except (ValueError, RecursionError) as e:
        return str(e)
    return found


def dumped(result, trial, want, got, hint):
    pages = pages_of_dump(trial.cpu, got)
    if isinstance(pages, str):
        return Failure("stage %d: tables that the CPU can walk" % want["stage"], pages, hint, result.name)
    wanted = {(gpa, *page) for gpa, page in want["tables"].items() if in_data(gpa)}
    seen = {(gpa, *page) for gpa, page in pages.items() if in_data(gpa)}
    return difference("stage %d: the tables" % want["stage"], wanted, seen, hint, result.name, lambda pages: ", ".join(
        "%#x -> %#x %s level %d" % (gpa, ma, rights_text(rights), level) for gpa, level, ma, rights in sorted(pages)[:6]) or "nothing")


def logged(result, want, got, hint):
    """The data area exactly; of the guest's page tables what the CPU had to write at least, and at most what it may have written."""
    seen = got.get("pages")
    if not isinstance(seen, list) or not all(isinstance(p, int) for p in seen):
        return Failure("stage %d: a list of pages" % want["stage"], str(seen)[:100], hint, result.name)
    seen = {p * PAGE for p in seen}
    tables = {p for p in seen if TABLES <= p < TABLES_END}
    sometimes = (tables & want["may"]) - want["must"]
    return first(
        difference("stage %d, pages of the data area that were written" % want["stage"],
                   {p * PAGE for p in want["pages"] if in_data(p * PAGE)}, {p for p in seen if in_data(p)}, hint, result.name, addresses),
        difference("stage %d, page tables of the guest's that the CPU wrote (A and D)" % want["stage"],
                   want["must"], tables - sometimes, hint, result.name, addresses),
        difference("stage %d, nothing that the guest did not touch" % want["stage"], set(),
                   {p for p in seen if not in_data(p) and not own(p)}, hint, result.name, addresses))


def addresses(pages):
    return ", ".join("%#x" % p for p in sorted(pages)) or "none"


COUNT_HINTS = {
    "violations": "Each violation that was not necessary costs an exit: what is in the tables must be there with the rights that it may "
                  "have. One that is missing is an access that hv should have seen.",
    "splits": "A large page is split when a part of it must differ from the rest, and not before.",
    "joins": "See nested_join().",
    "flushes": "A flush is needed when the CPU may remember what is not true any more. What was absent it does not remember, and what it "
               "remembers with too few rights it looks up again: for more rights none is needed.",
}


def counted(result, before, want, got, exact=("violations", "splits", "joins"), most=("flushes",)):
    """Between two counts. before: (want, got) of the one before."""
    for name in exact + most:
        wanted = want[name] - before[0][name]
        numbers = got.get(name), before[1].get(name)
        seen = numbers[0] - numbers[1] if all(isinstance(n, int) for n in numbers) else None
        if seen is None or (seen != wanted if name in exact else seen > wanted):
            return Failure("%s%d %s between stages %d and %d" % ("" if name in exact else "at most ", wanted, name, before[0]["stage"],
                                                                 want["stage"]), str(seen), COUNT_HINTS[name], result.name)
    return None


def planned(result, trial, hint):
    """What hv said of the commands of its plan."""
    seen = (result.stats or {}).get("plan")
    if not isinstance(seen, list) or len(seen) != len(trial.results):
        return Failure("the results of %d commands of the plan, in --stats json" % len(trial.results),
                       "%d results" % len(seen) if isinstance(seen, list) else "none", hint, result.name)
    before = None
    for want, got in zip(trial.results, seen):
        head = {key: got.get(key) for key in ("stage", "command", "result")} if isinstance(got, dict) else {}
        if any(head.get(key) != want[key] for key in ("stage", "command", "result")):
            return Failure("stage %d: %s, result %d" % (want["stage"], want["command"], want["result"]), str(head), hint, result.name)
        failure = None
        if want["command"] == "count":
            # While the log is on the guest's own memory has its part in violations and splits.
            failure = counted(result, before, want, got) if before and not want["loose"] else None
            before = want, got
        elif want["command"] == "age":
            failure = aged(result, want, got, hint)
        elif want["command"] == "dump":
            failure = dumped(result, trial, want, got, hint)
        elif want["command"] == "log fetch":
            failure = logged(result, want, got, hint)
        if failure:
            return failure
    return None


def rip_of(result, rip):
    return rip if isinstance(rip, int) else (result.lines.get("rip." + rip) or [0])[0]


def reports(result, trial, hint):
    """The watch: all accesses, in their order."""
    seen = (result.stats or {}).get("watched")
    wanted = [{"gpa": "%#x" % gpa, "rip": "%#x" % rip_of(result, rip), "access": letter} for gpa, rip, letter in trial.watched]
    if not isinstance(seen, list):
        return Failure("reports of %d accesses" % len(wanted), "none", hint, result.name)
    for i, (want, got) in enumerate(zip(wanted, seen)):
        if want != got:
            return Failure("report %d: %s" % (i, _show(want)), _show(got), hint, result.name)
    total = result.stats.get("watched_total")
    if total != len(wanted):
        return Failure("%d reports" % len(wanted), "%s; the last one: %s" % (total, _show(seen[-1]) if seen else "none"), hint, result.name)
    return None


def _show(report):
    if not isinstance(report, dict):
        return str(report)
    kind = {"r": "read", "w": "write", "x": "fetch"}.get(report.get("access"))
    return "%s of gpa %s at rip %s" % (kind, report.get("gpa"), report.get("rip"))


def verify_trial(result, params, scenario, hint):
    trial = scenario(params[0], format_of(result))
    trial.script()
    return first(values(result, trial, hint), planned(result, trial, hint), reports(result, trial, hint))
