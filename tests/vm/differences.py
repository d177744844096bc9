"""What the equivalence test does not compare, item by item, and why. Numbers of figures and chapters are those of the SDM.

Nearly all of it is the test host's processor, QEMU 7.2's TCG, below the kvm engine and as bare QEMU, where it does not follow the
manuals and the trap engine does.
"""

import re
from dataclasses import dataclass

# What is compared with the trap engine and its flat memory; the trap engine with popf and pushf patched is compared with the kvm engine.
KVM, QEMU, PATCHED, VTLB, CACHED = "kvm", "qemu", "patched", "vtlb", "cached"
# What is compared with the kvm engine, because the same processor runs the guest itself.
HVM, HVM_CACHED, HVM_VTLB = "hvm", "hvm cached", "hvm vtlb"
TCG = (KVM, QEMU)
ALL = (KVM, QEMU, PATCHED)
SHADOWED = (VTLB, CACHED)
GUEST_MODE = (HVM, HVM_CACHED)
ANY = ()  # every case


@dataclass(frozen=True)
class Difference:
    cases: tuple    # names of cases, or ANY
    engines: tuple
    items: str      # regular expression: names of items, as equivalence.items() gives them
    reason: str
    bits: int = 0   # only these bits of them are not compared
    behind: bool = False     # nothing from the first such item on, and not the end
    chance: str = ""  # "some": of the items are the same now and then; "all": even all of them

    def concerns(self, name, engine):
        return engine in self.engines and (self.cases is ANY or name in self.cases)

    def names(self, item):
        return re.fullmatch(self.items, item)


# Probes behind which TCG cannot go on, so that the guest runs a second time without them: case -> (parameter that is set to 1,
# reason). Up to the probe the first run is compared as well.
LEFT_OUT = {
    "1.10-segments": (6, "a far call with a 32-bit operand is held to the limit of the 64-bit code segment (vol. 3, 5.3.1)"),
    "1.12-seg_fault": (4, "LGDT, LIDT and far returns take addresses that are not canonical, and a far jump takes a segment with L "
                          "and D (vol. 2; vol. 3, 5.2.1)"),
}

RF = 1 << 16
IOPL, IF = 3 << 12, 1 << 9
STATUS = 0x8D5

VM = 1 << 17

GATE = "an error code that names a gate has its vector times 16, and EXT is never set (vol. 3, figure 6-6)"
EXT = "the bit EXT of an error code is never set (vol. 3, 6.13)"

EXCEPTIONS = (
    # --- the violation: sensitive instructions that do not trap
    Difference(("1.22-on", "1.22-off"), TCG, r"if|interrupts(\.at)?",
               "a deprivileged popf loses IF without a word (--patch on repairs it)"),
    Difference(("1.22-on", "1.22-off"), TCG, r"(image|word|user|moved)(\[\d\])?|word\.stack", "the same in images of the flags, and IOPL",
               bits=IF | IOPL | (IF | IOPL) << 48),
    Difference(ANY, TCG, r"\w+\.entry", "IOPL in the flags that a handler saw: a deprivileged pushf hides it", bits=IOPL),
    Difference(("1.11-exception",), (PATCHED,), r"(interrupt|trap|off)0\..*|\w+\.frame\[5\]",
               "one of the opcodes that stand for a patched pushf and popf may be the guest's own undefined one", chance="all"),
    # --- what no two machines have in common
    Difference(("1.9-msr",), ALL + SHADOWED + GUEST_MODE, r"tsc[ab](\[\d\])?", "the time stamp counter"),
    Difference(("1.19-loop",), ALL + SHADOWED + GUEST_MODE, r"loop0\.r[ab]x", "how far a loop came until the clock ticked"),
    Difference(("1.19-loop",), ALL + SHADOWED + GUEST_MODE, r"loop0\.(frame\[2\]|entry)", "the status flags there",
               bits=STATUS, chance="all"),
    Difference(("1.6-cr",), (QEMU,), r"cr3(old|r)\.rdx", "each loader puts its page tables elsewhere"),
    Difference(("1.20-trap", "1.20-kvm"), (KVM, PATCHED) + GUEST_MODE,
               r"l(0\.0\.a|1\.[01]\.[cd]|b\.[01]\.[bc]|6\.0\.a|7\.0\.[bcd]|d\.0\.[abc]|d\.1\.a|40000000\.0\.[abcd]|40000001\.0\.a|"
               r"80000000\.0\.a|"
               r"80000001\.0\.[cd]|80000008\.0\.[ab]|8000000a\.0\.[abd]|(8|e|80000009|8000000b)\.0\.[abcd])",
               "CPUID: which features there are is each hypervisor's policy"),
    Difference(("1.20-trap", "1.20-kvm"), (QEMU,), r"l(?!0\.0\.[bc]|1\.[01]\.a|[249a]\.[03]\.|80000007\.)\w+\.\w+\.[abc]|"
               r"l(1\.[01]|[8e]\.0|40000000\.0|8000000[19ab]\.0)\.d",
               "CPUID: QEMU's own policy, and leaves that do not exist answer as on Intel's CPUs", chance="some"),
    # --- what flat memory cannot offer
    Difference(("1.20-trap", "1.20-kvm"), SHADOWED, r"l7\.0\.b|l80000001\.0\.d", "CPUID: SMEP, SMAP, pages of 1 GiB",
               bits=1 << 7 | 1 << 20 | 1 << 26),
    Difference(("1.12-cr-manual",), SHADOWED, r"cr4absent\.vector",
               "a bit of CR4 that may be SMEP or SMAP, which then forbid what the guest goes on with", behind=True, chance="all"),
    # --- TCG: registers
    Difference(("1.7-dr",), ALL, r"r[46]\w?\.r\w+", "keeps bits of DR6 that are always 0 (vol. 3, figure 17-1)", bits=1 << 12),
    Difference(("1.7-dr",), ALL, r"r[57]\w?\.r\w+", "keeps bits of DR7 that are always 0 (vol. 3, figure 17-1)", bits=0xD000),
    Difference(("1.9-msr",), (KVM, PATCHED) + GUEST_MODE, r"resetpat\.r[ad]x",
               "the PAT is not switched between a nested guest and its host", chance="all"),
    Difference(("1.12-dr_fault",), ALL, r"gd[rw]\.(vector|error|rip|rsp|dr[67])|gdr\.(changed|rax)",
               "there is no general-detect exception (DR7.GD; vol. 3, 17.2.4)"),
    Difference(("1.12-msr_fault",), ALL, r"(lstar|cstar|fs|gs|kernelgs)\.(vector|error|rip|rsp|kept)",
               "WRMSR takes addresses that are not canonical (vol. 2, WRMSR)"),
    Difference(("1.12-msr_fault",), ALL, r"rkvm\.(vector|error|rip|rsp|changed|r[ad]x)",
               "KVM has MSRs of its own, and QEMU refuses none"),
    Difference(("1.12-msr_fault",), (QEMU,),
               r"(rx2apic|rmissing)\.(vector|error|rip|rsp|changed|r[ad]x)|(wmissing|pat)\.(vector|error|rip|rsp)",
               "RDMSR and WRMSR take MSRs that do not exist, and a PAT with reserved types (vol. 2; vol. 3, 11.12.4)"),
    Difference(("1.12-msr_fault",), (KVM, PATCHED), r"(rx2apic|pat)\.(vector|error|rip|rsp|changed|r[ad]x)",
               "whether KVM is asked about an MSR: in a nested guest TCG looks it up by all of RCX, not by ECX (vol. 2, RDMSR)",
               chance="all"),
    Difference(("1.12-msr_fault",), (QEMU,), r"(efer|lme)\.(vector|error|rip|rsp|kept)|pat\.kept",
               "WRMSR takes reserved bits of EFER, and clears LME with paging on (vol. 3, 4.1.2)"),
    Difference(("1.12-cr-manual",), (KVM, PATCHED), r"cr0high\.vector", "MOV to CR0 and CR3 takes values that it does not take, and KVM "
               "cannot go on (vol. 2, MOV to control registers)", behind=True),
    Difference(("1.12-cr-manual",), (QEMU,), r"cr0pg\.vector", "MOV to CR0 takes values that it does not take (vol. 2, MOV to control "
               "registers)", behind=True),
    # --- TCG: segments
    Difference(("1.10-segments", "1.10-segments-rest"), ALL, r"lgs\.r11",
               "LGS with REX.W reads an offset of 32 bits, as AMD's CPUs do"),
    Difference(("1.10-segments-rest",), ALL, r"gdt\[1[2346]\]|ldt\[37\]",
               "a far transfer does not mark its segment as accessed (vol. 3, 3.4.5.1)"),
    Difference(("1.10-segments",), ALL, r"call32\.rip", LEFT_OUT["1.10-segments"][1], behind=True),
    Difference(("1.12-seg_fault", "1.12-seg_fault-rest"), ALL, r"ltrnull\.(vector|error|rip|rsp)",
               "LTR takes a null selector (vol. 2, LTR)"),
    Difference(("1.12-seg_fault-rest",), ALL, r"ssnull\.(vector|error|rip|rsp)", "MOV to SS takes null with any RPL (vol. 2, MOV)"),
    Difference(("1.12-seg_fault-rest",), ALL, r"jmpnowhere\.rip", "a far jump to an address that is not canonical faults there, "
               "and not at the jump (vol. 2, JMP)"),
    Difference(("1.12-seg_fault",), ALL, r"lgdt\.vector", LEFT_OUT["1.12-seg_fault"][1], behind=True),
    # --- TCG: events
    Difference(ANY, ALL, r"\w+\.frame\[[23]\]", "RF in a frame is never set (vol. 3, 17.3.1.1)", bits=RF),
    Difference(("1.12-manual",), ALL, r"(gateabsent|gatecall)0\.frame", GATE),
    Difference(("1.12-manual",), ALL, r"(gate(null|outside|data|user)|codeabsent)0\.frame", EXT),
    Difference(("1.12-manual",), ALL, r"iretaway0\.(at|frame\[[134]\]|entry|flags|changed)",
               "IRETQ to an address that is not canonical faults there, and not at the IRETQ (vol. 2, IRET)"),
    Difference(("1.12-manual",), (KVM, PATCHED), r"(rep)?ins\.next", "KVM emulates INS itself, and reads the port before it knows where to "
               "store"),
    Difference(("1.13-traps",), (KVM, PATCHED), r"rep\d\.(vector|frame|dr6|rcx|rsi)", "KVM emulates OUTS itself, and takes all elements "
               "for one single step", chance="some"),
    Difference(("1.13-manual",), ALL, r"(absent|call|limit)0\.frame", GATE),
    Difference(("1.14-manual",), ALL, r"(int|fake|int3)0\.frame", GATE),
    Difference(("1.13-manual", "1.14-manual"), (KVM, PATCHED, HVM_CACHED), r"(absent|int)0\.frame\[1\]",
               "KVM does not know how long the INT was without nrip-save, which TCG does not have: it may point behind it", chance="all"),
    Difference(("1.15-manual",), ALL, r"(nested[12]|stay[01])\.frame\[4\]|(limit|away)0\.frame\[5\]",
               "an IST makes SS null without a change of level too (vol. 3, 6.14.4)"),
    Difference(("1.15-manual",), ALL, r"(limit|away)0\.frame", EXT),
    Difference(("1.16-manual",), ALL, r"(ud|int)0\.frame", GATE),
    Difference(("1.16-manual",), (KVM, PATCHED), r"gpnp0\.(vector|at|frame)",
               "KVM intercepts the #GP and gives it back, and then it does not count for a double fault"),
    Difference(("1.17-manual",), ALL, r"(call|nomask)0\.(frame\[2\]|entry|flags|changed)",
               "SYSCALL clears DF and the status flags whatever SFMASK says (vol. 2, SYSCALL)", chance="some"),
    Difference(("1.17-manual",), ALL, r"rpl0\.frame\[2\]", "SYSRET sets VM (vol. 2, SYSRET)", bits=VM),
    Difference(("1.17-manual",), ALL, r"away0\.(at|frame\[[1235]\]|entry|flags|changed)",
               "SYSRET to an address that is not canonical faults there, and not at the SYSRET (vol. 2, SYSRET)"),
    Difference(("1.18-manual",), ALL, r"absent0\.frame", GATE),
    Difference(("1.18-manual",), ALL, r"rep0\.r(cx|si)", "how far REP came until the clock ticked"),
    Difference(("1.22-on", "1.22-off"), (PATCHED,), r"fault\.(popf|pushf)\[1\]",
               "a stack at an address that is not canonical raises #GP, and not #SS (vol. 3, 6.15)"),
    Difference(("1.18-interrupts",), GUEST_MODE, r"(nop|out|close|twice|halt|fault|noeoi|eoi|masked|sleep\d_)\d?\.\w+",
               "VMRUN forgets the shadow of STI, if the machine is left just then for whatever reason", chance="all"),
    # --- guest mode: TCG and KVM on the kvm engine's side
    Difference(ANY, GUEST_MODE, r"\w+\.frame\[[23]\]",
               "TCG never sets RF in a frame, hv does when it injects a fault (vol. 3, 17.3.1.1)", bits=RF),
    Difference(("1.12-manual",), GUEST_MODE, r"(rep)?ins\.next",
               "KVM emulates INS itself, and reads the port before it knows where to store"),
    Difference(("1.12-cr-manual",), GUEST_MODE, r"cr0high\.vector", "MOV to CR0 and CR3 takes values that it does not take, and KVM "
               "cannot go on, nor the hvm engine unless it intercepts them (vol. 2, MOV to control registers)", behind=True),
    Difference(("1.12-msr_fault",), GUEST_MODE, r"rkvm\.(vector|error|rip|rsp|changed|r[ad]x)", "KVM has MSRs of its own"),
    # With shadows hv carries out an INT that needs what is not in the root: Lab 1's code, which follows the manual.
    Difference(("1.13-manual",), (HVM_CACHED,), r"absent0\.frame", GATE),
    Difference(("1.14-manual",), (HVM_CACHED,), r"(int|fake|int3)0\.frame", GATE),
    Difference(("1.16-triple", "1.16-idt", "1.16-afterwards"), (HVM_CACHED,), r"pfnp0\.(vector|at|frame)",
               "an exception that hv injects does not count for a double fault (vol. 3, 6.15)"),
    Difference(("1.16-manual",), GUEST_MODE, r"dsnp0\.(vector|at|frame)",
               "the same of one that hv injects again because its delivery was interrupted"),
    Difference(("1.18-manual",), GUEST_MODE, r"rep0\.r(cx|si)", "how far REP came until the clock ticked"),
    Difference(("1.18-manual",), ALL + GUEST_MODE, r"(sti|ss)loop\.places", "where in the loop the clock struck, and on TCG also in the "
               "shadow of STI or of a load of SS (vol. 2, STI; vol. 3, 6.8.3)", bits=~0, chance="all"),
    # --- QEMU's PC
    Difference(("1.14-ring3",), (QEMU,), r"(map\w*|ioplin0)\.rax", "ports that nothing answers under hv; QEMU's PC has more devices",
               chance="all"),
    Difference(("1.18-interrupts", "1.18-manual"), (QEMU,), r"\w+\.irr", "the clock that the firmware started asks too", bits=1),
    Difference(("1.18-interrupts",), (QEMU,), r"(raise|unmask)0\.(vector|frame)|first0\..*",
               "an interrupt that OUT raises comes later, because TCG looks only between blocks of instructions", chance="some"),
)
