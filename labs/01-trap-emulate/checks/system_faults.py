"""What the instructions of 1.6 to 1.10 must refuse. Part of checkpoint 1.12, because it takes exceptions with error codes.

exceptions.py takes two names from here: FAULT_RUNS, a list of runs, and verify_faults(results, params), which looks at these runs alone
and returns None or a Failure.
"""

from checks import first, printed_by_traps, reported
from model import Failure, Run
from probes import CR0_FIXED, CR0_FREE, CR4_FIXED, CR4_FREE, MASK64, some_bits, u64
from system import DR6_ONES, canonical, pack

DB, UD, NM, NP, SS, GP = 1, 6, 7, 11, 12, 13
NAMES = {DB: "#DB", UD: "#UD", NM: "#NM", NP: "#NP", SS: "#SS", GP: "#GP", 14: "#PF"}
NO_FAULT = 0xFFFF


def not_canonical(rng):
    """No address: bits 47 to 63 are not all equal. Its low half would be a good one."""
    return rng.randrange(1, 1 << 15) << 48 | rng.randrange(16 << 20, 32 << 20)


def describe(vector, error):
    if vector == NO_FAULT:
        return "no exception"
    return "%s with error code %#x" % (NAMES.get(vector, "vector %d" % vector), error)


def refused(result, probe, vector, error=0, hint=None):
    """The instruction raised this exception and changed nothing: RIP at it, RSP as before, no register different."""
    lines = result.lines
    seen = [lines.get("%s.%s" % (probe, key), [None])[0] for key in ("vector", "error")]
    if seen != [vector, error]:
        what = "no report" if seen[0] is None else describe(seen[0], seen[1] or 0)
        return Failure("%s from the instruction `%s`" % (describe(vector, error), probe), what, hint, result.name, exact=True)
    back = "A fault leaves everything as it was before the instruction: RIP at it, RSP and all registers unchanged."
    return first(reported(result, probe + ".rip", 0, back), reported(result, probe + ".rsp", 0, back),
                 reported(result, probe + ".changed", 0, back))


def went_through(result, probe, hint):
    """The instruction raised nothing and changed no general register."""
    seen = result.lines.get(probe + ".vector", [None])[0]
    if seen == NO_FAULT:
        return reported(result, probe + ".changed", 0, hint)
    return Failure("no exception from the instruction `%s`" % probe, "no report" if seen is None else describe(seen, 0), hint, result.name)


# --- control registers ------------------------------------------------------------------------------------------------------

CR0_RESERVED = (*range(6, 16), 17, *range(19, 29))
# VMXE, SMXE, FSGSBASE, PCIDE, OSXSAVE, KL, SMEP, SMAP, PKE: of CPUs that have more than the guest's. 15 is nobody's.
CR4_ABSENT = (13, 14, 15, 16, 17, 18, 19, 20, 21, 22)


def cr_params(mode):
    def make(rng):
        return [u64(rng), some_bits(rng, CR0_FIXED, CR0_FREE), 1 << rng.randrange(32, 64), 1 << rng.randrange(52, 64),
                some_bits(rng, CR4_FIXED, CR4_FREE), 1 << rng.randrange(32, 64), 1 << rng.choice(CR4_ABSENT), rng.randrange(16),
                1 << rng.randrange(4, 64), mode, 1 << rng.choice(CR0_RESERVED)]

    return make


def cr_verify(r, params):
    told = ("Guest code uses the FPU without a trap, so the machine must hear of every change of %s: trap_special_changed() behind %s "
            "(SDM vol. 3, 2.5).")
    mov, clts, lmsw = (told % ("CR0's bits MP, EM and TS", how) for how in ("a MOV to CR0", "CLTS", "LMSW"))
    cr4 = told % ("CR4's bit OSFXSR", "a MOV to CR4")
    found = [refused(r, "ts", NM, 0, mov), refused(r, "tssse", NM, 0, mov), went_through(r, "tswait", mov),
             went_through(r, "clts", clts), refused(r, "lmsw", NM, 0, lmsw), refused(r, "mpwait", NM, 0, mov), went_through(r, "off", mov),
             refused(r, "em", NM, 0, mov), refused(r, "emsse", UD, 0, mov), refused(r, "nofxsr", UD, 0, cr4), went_through(r, "fxsr", cr4)]
    # 7 IRETQ; 9 writes of control registers.
    return first(*found, printed_by_traps(r, r.output, 16))


def cr_manual_verify(r, params):
    cr0, _, _, cr4, _, _, cr8 = params[1:8]
    why = "A MOV to CR%d that %s raises #GP(0), and nothing has changed (SDM vol. 2, MOV to control registers)."
    reserved = "sets a reserved bit"
    cases = (("cr0pg", 0, "switches paging off while CS is a 64-bit segment"), ("cr0pe", 0, "sets PG without PE"),
             ("cr0nw", 0, "sets NW without CD"), ("cr0high", 0, "sets one of the bits 32 to 63"), ("cr3high", 3, reserved),
             ("cr4pae", 4, "clears PAE in 64-bit mode"), ("cr4high", 4, reserved),
             ("cr4absent", 4, "sets a bit of a feature that the guest's CPU does not have (trap_cr4_allowed())"), ("cr8high", 8, reserved))
    found = [refused(r, probe, GP, 0, why % (cr, what)) for probe, cr, what in cases]
    kept = "A control register keeps its value when a new one is refused, and CR0 ignores reserved bits below 32 (CR0_DEFINED)."
    found += [reported(r, name, value, kept) for name, value in (("cr0", cr0), ("cr3", 0), ("cr4", cr4), ("cr8", cr8))]
    # 9 probes and 9 IRETQ; 3 writes, 5 reads.
    return first(*found, printed_by_traps(r, r.output, 26))


# --- debug registers --------------------------------------------------------------------------------------------------------

GD = 1 << 13  # in DR7
BD = 1 << 13  # in DR6


def dr_params(rng):
    # Bits 0-3 of DR6 may or may not survive a #DB that is no breakpoint's; BS and BT (14, 15) do (SDM vol. 3, 17.2.3).
    return [u64(rng), DR6_ONES | rng.getrandbits(2) << 14, rng.getrandbits(2) << 8, u64(rng)]


def dr_verify(r, params):
    _, dr6, control, _ = params[:4]
    control |= 0x400
    upper = "A write to DR6 or DR7 with anything in bits 32-63 raises #GP(0) (SDM vol. 3, 17.2.6)."
    names = "With CR4.DE set, DR4 and DR5 do not exist: #UD, which has no error code (SDM vol. 3, 17.2.2)."
    detect = ("With DR7.GD set, touching a debug register raises #DB before anything happens; the CPU clears GD and sets BD in DR6, so "
              "that the handler may use them (SDM vol. 3, 17.2.4).")
    found = [refused(r, "dr6high", GP, 0, upper), refused(r, "dr7high", GP, 0, upper)]
    found += [refused(r, probe, UD, 0, names) for probe in ("dr4r", "dr5r", "dr4w", "dr5w")]
    found += [reported(r, "dr4back.vector", NO_FAULT, "Without CR4.DE, DR4 is DR6 again."), reported(r, "dr4back.r9", dr6)]
    found += [refused(r, probe, DB, 0, detect) for probe in ("gdr", "gdw")]
    for step, status, hint in (("high", dr6, upper), ("de", dr6, names), ("gdr", dr6 | BD, detect), ("gdw", dr6 | BD, detect)):
        found += [reported(r, step + ".dr6", status, hint), reported(r, step + ".dr7", control, hint)]
    # 9 probes and 8 IRETQ; 6 writes and 8 reads of debug registers, 4 of CR4.
    return first(*found, printed_by_traps(r, r.output, 35))


# --- MSRs -------------------------------------------------------------------------------------------------------------------


def msr_params(rng):
    good = [rng.choice((0, 1, 4, 5, 6, 7)) for _ in range(8)]
    bad = list(good)
    bad[rng.randrange(8)] = rng.choice((2, 3, rng.randrange(8, 256)))
    # No MSR has a number in this range.
    return [u64(rng), rng.randrange(0x50000000, 0xB0000000), rng.randrange(0x50000000, 0xB0000000), canonical(rng), not_canonical(rng),
            pack(*good), pack(*bad), 1 << rng.choice((1, 7, 9, rng.randrange(20, 63)))]


def msr_verify(r, params):
    _, _, _, address, _, pat = params[:6]
    missing = "An MSR that the guest's CPU does not have raises #GP(0), and RDMSR then changes no register."
    found = [refused(r, probe, GP, 0, missing) for probe in ("rmissing", "wmissing", "rkvm", "rx2apic")]
    values = "A value that the MSR does not take raises #GP(0), and the old one stays: msr_value_valid()."
    efer = "EFER has reserved bits, and LME cannot be changed while paging is on: #GP(0)."
    for probe, kept, hint in (*((name, address, values) for name in ("lstar", "cstar", "fs", "gs", "kernelgs")), ("pat", pat, values),
                              ("efer", 0x501, efer), ("lme", 0x500, efer)):
        found += [refused(r, probe, GP, 0, hint), reported(r, probe + ".kept", kept, hint)]
    # 12 probes and 12 IRETQ, 8 writes and 8 reads.
    return first(*found, printed_by_traps(r, r.output, 40))


# --- selectors --------------------------------------------------------------------------------------------------------------

# The entries of the guest's tables, as in seg_fault.c.
(ABSENT_DATA, ABSENT_USER, ABSENT_CODE, READ_ONLY, USER_DATA, KERNEL_DATA, EXECUTE_ONLY, EXECUTE_ABSENT, USER_CODE, LONG_AND_32,
 TSS_BUSY) = range(4, 15)
TSS_ABSENT, LDT, LDT_ABSENT, TSS_CUT, GDT_SIZE = range(16, 25, 2)
L_DATA, L_TSS, L_LDT, L_CUT = 1, 2, 4, 6
KCODE = 0x10


def seg_params(rng):
    return [u64(rng), not_canonical(rng), 8 * rng.randrange(GDT_SIZE, 60), rng.randrange(1, 4)]


def seg_verify(r, params):
    seed, _, outside, _ = params[:4]
    code = "The error code is the selector with its two low bits cleared; the bit that chooses the LDT stays."
    order = "The checks come in this order: outside the table, wrong type, wrong level (all #GP), and last not present (#NP, for SS #SS)."
    tss = "LTR takes an available TSS from the GDT, LLDT an LDT; descriptors of 16 bytes must lie within the limit as a whole."
    base = "The base must be canonical, or #GP(0) and the old table stays."
    null = "A null selector loads neither TR nor CS, nor SS with another level than CPL: #GP(0)."
    far = "A far transfer needs a present 64-bit code segment of the guest's own level and a canonical target."
    ldt = "The LDT has a limit of its own, and none at all after a null selector went into LDTR."
    cases = (
        ("ltrnull", GP, 0, null), ("ltrldt", GP, L_TSS * 8 | 4, tss), ("ltrbusy", GP, TSS_BUSY * 8, tss),
        ("ltrabsent", NP, TSS_ABSENT * 8, order), ("ltrtype", GP, LDT * 8, tss), ("ltrcut", GP, TSS_CUT * 8, tss),
        ("ltroutside", GP, outside, code), ("lldttype", GP, TSS_BUSY * 8, tss), ("lldtabsent", NP, LDT_ABSENT * 8, order),
        ("lldtldt", GP, L_LDT * 8 | 4, tss), ("lgdt", GP, 0, base), ("lidt", GP, 0, base),
        ("absent", NP, ABSENT_USER * 8, order), ("execute", GP, EXECUTE_ONLY * 8, order), ("executeabsent", GP, EXECUTE_ABSENT * 8, order),
        ("system", GP, TSS_BUSY * 8, order), ("level", GP, KERNEL_DATA * 8, order), ("outside", GP, outside, code),
        ("ldtcut", GP, L_CUT * 8 | 4, ldt), ("fs", NP, ABSENT_USER * 8, order),
        ("ssnull", GP, 0, null), ("ssreadonly", GP, READ_ONLY * 8, order), ("ssuser", GP, USER_DATA * 8, order),
        ("sslevel", GP, KERNEL_DATA * 8, order), ("sscode", GP, EXECUTE_ONLY * 8, order), ("ssabsent", SS, ABSENT_DATA * 8, order),
        ("lgs", NP, ABSENT_USER * 8, order), ("pop", GP, outside, code), ("noldt", GP, L_DATA * 8 | 4, ldt),
        ("jmpnull", GP, 0, null), ("jmpdata", GP, KERNEL_DATA * 8, far), ("jmpabsent", NP, ABSENT_CODE * 8, far),
        ("jmpuser", GP, USER_CODE * 8, far), ("jmplevel", GP, KCODE, far), ("jmpboth", GP, LONG_AND_32 * 8, far),
        ("jmpoutside", GP, outside, code), ("jmpnowhere", GP, 0, far), ("callabsent", NP, ABSENT_CODE * 8, far),
        ("calldata", GP, READ_ONLY * 8, far), ("retnull", GP, 0, null), ("retabsent", NP, ABSENT_CODE * 8, far),
        ("retdata", GP, READ_ONLY * 8, far), ("retnowhere", GP, 0, far),
    )
    found = [refused(r, *case) for case in cases]
    found += [reported(r, "fs.kept", seed & MASK64, "A refused load leaves the segment register as it was."),
              reported(r, "changed", 0, "A descriptor that was refused is marked neither accessed nor busy.")]
    # A trap for each probe and for its handler's IRETQ; LIDT, LGDT, twice LLDT, WRMSR.
    return first(*found, printed_by_traps(r, r.output, 2 * len(cases) + 5))


# Name, guest, params, check.
FAULTS = (("cr_fault", "cr_fault", cr_params(0), cr_verify), ("cr-manual", "cr_fault", cr_params(1), cr_manual_verify),
          ("dr_fault", "dr_fault", dr_params, dr_verify), ("msr_fault", "msr_fault", msr_params, msr_verify),
          ("seg_fault", "seg_fault", seg_params, seg_verify))
FAULT_RUNS = [Run(name, "lab1/%s.elf" % elf, params=make) for name, elf, make, _ in FAULTS]


def verify_faults(results, params):
    """None, or the first Failure in the runs that FAULT_RUNS describes."""
    return first(*(check(results[name], params[name]) for name, _, _, check in FAULTS))
