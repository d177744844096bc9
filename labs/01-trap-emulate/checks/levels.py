"""Checkpoints 1.14 to 1.17: privilege levels, the stacks that belong to them, and system calls."""

from checks import trapped
from model import HV_STOPPED, Checkpoint, Failure
from probes import MASK64, registers
from signatures import describe_end
from trials import (
    ABSENT_DATA, BP, DE, DF, DFLAG, ERROR_CODE, EXT, FIXED, GP, IDT, IF, IOPL, KCODE, KCODE2, KDATA, NP, NT, PF, SS,
    TF, TR, TS, UCODE, UD, UDATA, VM, Event, Trials, base_params, beyond_memory, guest, non_canonical, place)

# --- 1.14 -----------------------------------------------------------------------------------------------------------------

# One of each family is tried, so that no function of the lab goes without: emulate_cr(), emulate_dr(), emulate_tables(), emulate_msr(),
# and port_allowed() in front of IN and OUT. With PRIVILEGED_REGISTERS each of them would do something at CPL 0, or fail otherwise.
PRIVILEGED = (
    (b"\x0f\x06", b"\x0f\x20\xc2", b"\x0f\x22\xd8", b"\x44\x0f\x22\xc0", b"\x0f\x01\xf0"),  # clts, mov, mov, mov, lmsw
    (b"\x0f\x21\xfa", b"\x0f\x23\xc0"),
    (b"\x0f\x01\x14\x24", b"\x0f\x01\x1c\x24", b"\x0f\x00\xd8", b"\x0f\x00\xd0"),  # lgdt, lidt, ltr, lldt
    (b"\x0f\x32", b"\x0f\x30", b"\x0f\x01\xf8"),  # rdmsr, wrmsr, swapgs
    (b"\xe4\x80", b"\xe6\xe9"))
UD2 = b"\x0f\x0b"
PRIVILEGED_REGISTERS = {"rax": 8, "rcx": 0xC0000082, "rdx": 0}
PRIVILEGED_HINTS = 4 * (
    "At CPL 3 a privileged instruction is #GP(0) for the guest's own kernel, whatever it would have done: look at v->cpl first.",) + (
    "At CPL 3 IOPL or the I/O permission map must allow the port: port_allowed() comes before port_in() and port_out().",)
IOPL_HINT = ("CLI and STI are allowed where CPL <= IOPL; at CPL 3 with a smaller IOPL they raise #GP(0). Does emulate_flags() compare "
             "v->cpl with the two bits FLAG_IOPL of v->rflags? (SDM vol. 2, CLI, STI)")


def ring3_params(rng, mode=0):
    codes = [int.from_bytes(rng.choice(family).ljust(6, b"\x90") + UD2, "little") for family in PRIVILEGED]
    # Ports that nothing answers: all but those of ACPI's power management at 0x600.
    port = rng.choice([p for p in range(0x500, 0x700, 8) if p != 0x600]) | rng.choice((7, rng.randrange(7)))
    return base_params(rng) + [place(rng, 32, 34) | 1, *codes, rng.randrange(0x20, 0x100), port, beyond_memory(rng),
                               rng.choice(ERROR_CODE[:-1]), mode]


def ring3_verify(results, params):
    r, p = results["ring3"], params["ring3"]
    rsp0, vector, port, high, error_vector = p[3], *p[9:13]
    t = Trials(r, p, rsp0)

    def user(name, v, at=0, error=None, flags=IF, hint=None, given=None, **other):
        t.start(flags, user=True)
        t.expect(name, t.event(v, at, error, **other), hint=hint, **(given or {}))

    for i, hint in enumerate(PRIVILEGED_HINTS):
        user("privileged%d_" % i, GP, 0, 0, hint=hint, given=PRIVILEGED_REGISTERS)
    for name in ("cli", "sti"):
        user(name, GP, 0, 0, hint=IOPL_HINT)
    user("ud", UD, flags=IF | DFLAG)
    t.start(IF, user=True)
    outer = t.event(UD)
    t.expect("nested", outer, Event(UD, t.code + 64, outer.at, t.flags & ~IF, ss=0))

    user("intopen", vector, 2)
    user("fakeopen", error_vector, 2)
    user("int3open", BP, 1, keeps_if=True)

    def flags(*remove):
        return t.flags & ~sum(remove)

    t.start(IF | IOPL, user=True)
    t.expect("ioplcli", t.event(UD, 4, flags=flags(IF)))
    t.start(IOPL, user=True)
    t.expect("ioplsti", t.event(UD, 2, flags=t.flags | IF))
    user("ioplhlt", GP, 0, 0, flags=IF | IOPL, hint="IOPL opens CLI, STI and the ports, not HLT.")

    def io(name, number, bits, wide=False, flags=IF):
        """bits: what is read into RAX, 0 for OUT, None when it is refused."""
        rax = registers(t.seed + t.next & MASK64)["rax"]
        hint = "The I/O permission map: one bit a port, and all bits of the access must be 0. (SDM vol. 1, 19.5.2)"
        if bits is None:
            user(name, GP, 0, 0, flags, hint, {"rdx": number})
        else:
            user(name, UD, 2 if wide else 1, None, flags, hint, {"rdx": number}, changed={"rax": rax | bits} if bits else {})

    io("ioplin", port, 0xFF, flags=IOPL)
    user("iopl2", GP, 0, 0, flags=IF | 0x2000, hint=IOPL_HINT)
    io("mapin", port, 0xFF)
    io("mapout", port, 0)
    io("mapword", port, None)
    io("mapnext", port + 1, None)
    io("mapfar", port + 0x4000, None)
    io("mapboth", port, 0xFFFF, wide=True)
    io("mapnone", port, None)

    level = "Bit 2 of a page fault's error code tells that the access came from CPL 3."
    for i, (name, error, added) in enumerate((("read", 4, IF), ("write", 6, IF), ("outs", 4, IF | IOPL))):
        user(name, PF, 0, error, added, level, {"rsi": high + 8 * i, "rdx": port}, extra={"cr2": high + 8 * i})

    def iretq(name, begin, becomes, from_user=True, hint=None):
        t.start(begin, from_user, rsp=p[2] + t.next & ~15)
        t.expect(name, t.event(UD, 64, rsp=p[2] + 4096, flags=becomes, cs=UCODE, ss=UDATA, stack=rsp0), hint=hint)

    protected = "IRETQ changes IOPL only at CPL 0, and IF only where CPL is not above IOPL. (SDM vol. 2, IRET)"
    iretq("keep", IF, FIXED | IF, hint=protected)
    iretq("keepoff", 0, FIXED, hint=protected)
    iretq("ioplflags", IF | IOPL, FIXED | IOPL, hint=protected)
    t.start(IF, True, rsp=p[2] + t.next & ~15)
    t.expect("inward", t.event(GP, 0, KCODE), hint="IRETQ never leads to a more privileged level.")
    iretq("outward", 0, FIXED | IF | IOPL, False, hint=protected)
    for name, error in (("kernelss", KDATA), ("nullss", 0), ("readonlyss", 0x80), ("userss", UDATA & ~3)):
        t.start(0, rsp=p[2] + t.next & ~15)
        t.expect(name, t.event(GP, 0, error),
                 hint="IRETQ checks SS for the level that it returns to; when it refuses, the old level has not been left.")
    failure = t.verdict(trapped(r, 60, "each IRETQ and each privileged instruction"), t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    t = Trials(r, p, p[3])
    dpl = "INT n needs a gate whose DPL is at least the CPL, else #GP with 8 times the vector, plus 2. (SDM vol. 3, 6.12.1.2)"
    for name, number in (("int", p[9]), ("fake", p[12]), ("int3", BP)):
        user(name, GP, 0, number * 8 + IDT, hint=dpl)
    return t.verdict(t.all_printed())


# --- 1.15 -----------------------------------------------------------------------------------------------------------------


def ist_params(mode):
    def make(rng):
        slots = rng.sample(range(7), 7)
        ist = [(36 << 20) + slot * (2 << 20) + rng.randrange(0x10000, 1 << 20) for slot in slots]
        return base_params(rng) + [place(rng, 32, 34), *ist, mode, *rng.sample(range(1, 8), 2), non_canonical(rng)]

    return make


def ist_verify(results, params):
    r, p = results["ist"], params["ist"]
    rsp0, ist, first_ist = p[3], [None, *p[4:11]], p[12]
    t = Trials(r, p, rsp0)
    table = ("A gate with an IST number switches to that entry of the TSS, whatever the level: number 1 at offset 0x24. "
             "(SDM vol. 3, 6.14.5)")
    for i in range(1, 8):
        t.one("ist%d_" % i, UD, hint=table, stack=ist[i])
    t.start(IF, user=True)
    t.expect("user", t.event(UD, stack=ist[first_ist]), hint=table)
    t.start(IF, user=True)
    t.expect("user0_", t.event(UD))

    t.start()
    t.expect("back", t.event(UD, stack=ist[first_ist]), t.event(UD, 2, stack=ist[first_ist]), hint=table)
    failure = t.verdict(trapped(r, 11, "one for each instruction that does not exist", UD), t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    ist, first_ist, second_ist = [None, *p[4:11]], *p[12:14]
    t = Trials(r, p)
    t.start()
    one = t.event(UD, stack=ist[first_ist])
    zero = {"rcx": 0}
    two = t.event(DE, 69, rsp=one.at, stack=ist[second_ist], flags=t.flags & ~IF, changed=zero)
    three = t.event(UD, 128, rsp=two.at, stack=ist[first_ist], flags=t.flags & ~IF, changed=zero)
    t.expect("nested", one, two, three, hint=table)
    t.start()
    one = t.event(UD, stack=ist[first_ist])
    t.expect("stay", one, t.event(DE, 69, rsp=one.at, flags=t.flags & ~IF, changed=zero),
             hint="A gate without IST stays on the stack that it finds, at the same level.")
    t.one("limit", TS, 0, TR | EXT, "An entry of the TSS beyond its limit: #TS with the TSS' selector.")
    t.one("away", SS, 0, EXT, "A stack whose address is not canonical: #SS.")
    return t.verdict(t.all_printed())


# --- 1.16 -----------------------------------------------------------------------------------------------------------------


def double_params(triple, mode=0):
    def make(rng):
        return base_params(rng) + [place(rng, 44, 46), non_canonical(rng), beyond_memory(rng) & ~0xFFF,
                                   rng.choice(triple) if triple else 0, mode]

    return make


def serial_page_fault(t, name, high, **given):
    """A page fault while the frame is pushed: CR2 is the word that is pushed first or the frame's lowest, CPUs differ."""
    t.one(name, PF, 0, 2, "A page fault in the delivery of #GP or #UD is simply delivered next.", given=given)
    seen = t.result.lines.get(name + "0.cr2", [0])[0]
    if not high + 4096 - 48 <= seen < high + 4096:
        t.found.append(Failure("%s0: cr2 within the frame, from %x to %x" % (name, high + 4048, high + 4095),
                               "%s0: cr2 = %x" % (name, seen), run=t.result.name))


def double_verify(results, params):
    ud_hint = "#UD is benign: the exception in its delivery is delivered as if it had come alone."
    double = ("Two contributory exceptions, or a page fault and any of these or another: #DF, error code 0. "
              "(SDM vol. 3, table 6-5)")
    for name, r in results.items():
        p = params[name]
        df_stack, away, high, how, mode = p[3:8]
        t = Trials(r, p)
        if mode:
            t.one("ud", NP, 0, UD * 8 + IDT + EXT, ud_hint, given={"rax": 0})
            t.one("int", NP, 0, GP * 8 + IDT, "INT 13 is not #GP: nothing makes a double fault here.", given={"rax": 0})
        else:
            serial_page_fault(t, "udpf", high, rax=0)

        def df(name, **given):
            t.one(name, DF, 0, 0, double, given=given, stack=df_stack)

        if mode:
            df("gpnp", rsi=away)
            df("dsnp", rax=0x1230)
            serial_page_fault(t, "gppf", high, rsi=away)
        else:
            df("npnp", rax=ABSENT_DATA)
            serial_page_fault(t, "nppf", high, rax=ABSENT_DATA)
            df("denp", rcx=0)
            df("pfnp", rsi=high)
            df("pfpf", rsi=high)
            df("three", rax=ABSENT_DATA)
        failure = t.verdict(t.all_printed())
        if failure:
            return failure
        if not how:
            continue
        if "survived" in r.lines or r.lines.get("triple.events"):
            return Failure("the VM to stop: the double fault's handler cannot be reached", "an event was delivered", run=name)
        if "triple fault" not in r.reason.lower() or "%x" % t.code not in r.reason.lower():
            return Failure("a sentence that says \"triple fault\" and names rip %#x" % t.code, describe_end(r),
                           "vm_stop() with HV_STOPPED; v->rip is still at the instruction that began it.", name)
    return None


# --- 1.17 -----------------------------------------------------------------------------------------------------------------


def syscall_params(mode):
    def make(rng):
        kernel, user = rng.choice((KCODE, KCODE2)), rng.choice((0x23, 0x6B))
        star = user << 48 | kernel << 32 | rng.getrandbits(32)
        flags = sum(bit for bit in (IF, DFLAG, 0x1000, 0x2000, NT, 1 << 18, 1 << 21) if rng.getrandbits(1))
        # VM and RF are not among the flags that SYSRET takes, nor are bits that do not exist.
        back = rng.getrandbits(64) & ~(TF | NT | VM | 0x180000) | 0x18028 | (VM if mode else 0)
        sfmask = rng.getrandbits(22) | rng.choice((IF, NT))
        return base_params(rng) + [place(rng, 32, 34), star, sfmask, flags, back, mode, non_canonical(rng)]

    return make


def syscall_verify(results, params):
    r, p = results["syscalls"], params["syscalls"]
    rsp0, star, sfmask, user_flags, back = p[3:8]
    user_flags &= ~DFLAG
    t = Trials(r, p, rsp0, 0)
    kernel, user = star >> 32 & 0xFFFF, star >> 48
    there = dict(cs=kernel, ss=kernel + 8, stack=None)
    home = dict(cs=user + 16 | 3, ss=user + 8 | 3, stack=rsp0, flags=back & 0x3C7FD7 | FIXED)

    def call(name, from_user, mask, flags=None):
        t.start(user_flags if from_user else IF, from_user)
        t.expect(name, t.event(UD, 64, flags=t.flags & ~mask | FIXED, changed={"rcx": t.code + 2, "r11": t.flags}, **there),
                 hint="SYSCALL: RCX = the next rip, R11 = RFLAGS, RFLAGS without the bits in SFMASK, CS and SS by STAR bits "
                      "32-47, RSP as it was. (SDM vol. 2, SYSCALL)")

    disabled = "Without EFER.SCE neither SYSCALL nor SYSRET exists."
    t.start(user_flags, True)
    t.expect("off", t.event(UD), hint=disabled)
    t.start()
    t.expect("offret", t.event(UD), hint=disabled, rcx=t.code + 128, r11=back)
    call("call", True, sfmask)
    call("nomask", True, 0)
    call("kernel", False, sfmask)
    sysret = ("SYSRET: rip = RCX, RFLAGS = R11 without RF, VM and reserved bits, CS and SS by STAR bits 48-63, RPL 3. "
              "(SDM vol. 2, SYSRET)")
    t.start()
    t.expect("return", t.event(UD, 128, **home), hint=sysret, rcx=t.code + 128, r11=back)
    t.start(IF, True)
    t.expect("user", t.event(GP, 0, 0), hint="SYSRET is privileged.", rcx=t.code + 128)
    t.start(user_flags, True)
    t.expect("round", t.event(UD, 2, changed={"rcx": t.code + 2, "r11": back}, **home), hint=sysret, r8=back)
    t.start()
    t.expect("offagain", t.event(UD), hint="A SYSCALL that does not exist changes no register. The machine must know that EFER.SCE is off, "
             "or RCX and R11 are lost before hv hears of it: trap_special_changed() behind a WRMSR to EFER.")
    failure = t.verdict(trapped(r, 4, "one for each SYSCALL while it is switched on", 0xF0), t.all_printed())
    if failure:
        return failure

    r, p = results["manual"], params["manual"]
    rsp0, star, sfmask, user_flags, back, _, away = p[3:10]
    t = Trials(r, p, rsp0)
    kernel = star >> 32 & 0xFFFF
    there = dict(cs=kernel, ss=kernel + 8, stack=None)
    call("call", True, sfmask)
    call("nomask", True, 0)
    user = star >> 48 & ~3
    t.start()
    t.expect("rpl", t.event(UD, 128, cs=user + 16 | 3, ss=user + 8 | 3, stack=p[3], flags=back & 0x3C7FD7 | FIXED),
             hint=sysret, rcx=t.code + 128, r11=back)
    t.start()
    t.expect("away", t.event(GP, 0, 0), hint="RCX must be canonical: #GP(0), still at CPL 0.", rcx=away, r11=back)
    return t.verdict(t.all_printed())


CHECKPOINTS = [
    Checkpoint(
        "1.14", "user mode", 8,
        "IRETQ can lead to CPL 3. There, privileged instructions and gates with DPL 0 are #GP for the guest's kernel, which "
        "runs on the stack that its TSS names; IOPL and the I/O permission map open ports, and IRETQ cannot change IF or IOPL.",
        "handler_stack() reads RSP0 from the guest's TSS at v->tr.base. In emulate_iret(), check SS as the new level would "
        "load it, and leave v->cpl alone when the check fails.",
        runs=[guest("ring3", "ring3", ring3_params), guest("ring3", "manual", lambda rng: ring3_params(rng, 1))],
        verify=ring3_verify, depends=["1.3", "1.13"]),
    Checkpoint(
        "1.15", "interrupt stack table", 4,
        "A gate with an IST number from 1 to 7 switches to that stack of the TSS, at every level.",
        "The entries are 8 bytes each and begin at offset 0x24 of the TSS; the limit in TR says how many are there.",
        runs=[guest("ist", "ist", ist_params(0)), guest("ist", "manual", ist_params(1))],
        verify=ist_verify, depends=["1.14"]),
    Checkpoint(
        "1.16", "double and triple faults", 6,
        "Some pairs of exceptions make a double fault (#DF, error code 0), others are delivered one after the other. When "
        "#DF cannot be delivered either, the VM stops, with a sentence that names the triple fault and its rip.",
        "deliver_event() sees both: the event that it was delivering and the one in v->event. Write SDM vol. 3, table 6-5, as "
        "two small functions.",
        runs=[guest("double", "triple", double_params((1, 2)), ends=(HV_STOPPED,)),
              guest("double", "idt", double_params((3, 4)), ends=(HV_STOPPED,)),
              guest("double", "afterwards", double_params(())), guest("double", "manual", double_params((), 1))],
        verify=double_verify, depends=["1.15"]),
    Checkpoint(
        "1.17", "SYSCALL and SYSRET", 6,
        "SYSCALL saves rip in RCX and RFLAGS in R11, clears the flags in SFMASK and goes to LSTAR at CPL 0; SYSRET goes "
        "back to CPL 3. Neither touches RSP, and both are #UD while EFER.SCE is 0.",
        "All of it is assignments, in emulate_syscall(): take them one by one from the manual's Operation section.",
        runs=[guest("syscalls", "syscalls", syscall_params(0)), guest("syscalls", "manual", syscall_params(1))],
        verify=syscall_verify, depends=["1.14"]),
]
