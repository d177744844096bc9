/*
 * The instructions that `hv popek` tries. The assembler makes their code, so that what is written here is what runs.
 *
 * All is 64-bit code. Some of Robin and Irvine's have two forms here, which differ in the selector: "kernel" is a segment with
 * DPL 0, "user" one with DPL 3, "conf." conforming code with DPL 0, which every level may call. TSD: with CR4.TSD set.
 */
#include "popek.h"

#define STR2(x) #x
#define STR(x) STR2(x)

#define DATA STR(POPEK_DATA)
#define RFLAGS_IF_OFF FLAG_FIXED
#define TARGET POPEK_TARGET

/* X(label, code, name, in Robin and Irvine's list?, manual's word, its section, what it finds) */
#define PROBES(X)                                                                                                              \
	X(sgdt, "sgdt " DATA, "SGDT m", true, UMIP, "vol. 2, SGDT", )                                                          \
	X(sidt, "sidt " DATA, "SIDT m", true, UMIP, "vol. 2, SIDT", )                                                          \
	X(sldt, "sldt %eax", "SLDT r", true, UMIP, "vol. 2, SLDT", )                                                           \
	X(str, "str %eax", "STR r", true, UMIP, "vol. 2, STR", )                                                               \
	X(smsw, "smsw %eax", "SMSW r", true, UMIP, "vol. 2, SMSW", )                                                           \
	X(pushf, "pushfq", "PUSHF", true, ALLOWED, "vol. 2, PUSHF", .if_off = true)                                            \
	X(popf, "popfq", "POPF", true, ALLOWED, "vol. 2, POPF", .stack = { RFLAGS_IF_OFF })                                    \
	X(lar, "lar %cx,%eax", "LAR r, kernel", true, ALLOWED, "vol. 2, LAR", .rcx = SEL_EXAMINED)                           \
	X(lsl, "lsl %cx,%eax", "LSL r, kernel", true, ALLOWED, "vol. 2, LSL", .rcx = SEL_EXAMINED)                           \
	X(verr, "verr %cx", "VERR kernel", true, ALLOWED, "vol. 2, VERR", .rcx = SEL_EXAMINED)                               \
	X(verw, "verw %cx", "VERW kernel", true, ALLOWED, "vol. 2, VERW", .rcx = SEL_EXAMINED)                               \
	X(push_fs, "push %fs", "PUSH FS", true, ALLOWED, "vol. 2, PUSH", )                                                     \
	X(pop_fs, "pop %fs", "POP FS, user", true, ALLOWED, "vol. 2, POP", .stack = { SEL_FS | 3 })                          \
	X(pop_fs_k, "pop %fs", "POP FS, kernel", true, CHECKED, "vol. 3, 5.6", .stack = { SEL_EXAMINED })                       \
	X(mov_cs, "mov %cs,%eax", "MOV r, CS", true, ALLOWED, "vol. 2, MOV", )                                                 \
	X(mov_ds, "mov %ds,%eax", "MOV r, DS", true, ALLOWED, "vol. 2, MOV", )                                                 \
	X(to_fs, "mov %ecx,%fs", "MOV FS, user", true, ALLOWED, "vol. 2, MOV", .rcx = SEL_FS | 3)                            \
	X(to_ds_k, "mov %ecx,%ds", "MOV DS, kernel", true, CHECKED, "vol. 3, 5.6", .rcx = SEL_EXAMINED)                         \
	X(call_k, "lcall *" STR(POPEK_FAR_KERNEL), "CALL far, kernel", true, CHECKED, "vol. 3, 5.8.1", )                     \
	X(call_c, "lcall *" STR(POPEK_FAR_CONFORMING), "CALL far, conf.", true, ALLOWED, "vol. 3, 5.8.1.2", )             \
	X(jmp_k, "ljmp *" STR(POPEK_FAR_KERNEL), "JMP far, kernel", true, CHECKED, "vol. 3, 5.8.1", )                        \
	X(jmp_c, "ljmp *" STR(POPEK_FAR_CONFORMING), "JMP far, conf.", true, ALLOWED, "vol. 3, 5.8.1.2", )                \
	X(ret_k, "lretq", "RET far, kernel", true, CHECKED, "vol. 3, 5.8.6", .stack = { TARGET, SEL_KCODE })                \
	X(ret_u, "lretq", "RET far, user", true, ALLOWED, "vol. 3, 5.8.6",                                                  \
	  .stack = { TARGET, SEL_UCODE | 3, POPEK_STACK + 0x100, SEL_UDATA | 3 })                                              \
	X(int_n, "int $" STR(POPEK_INT), "INT n", true, TRAPS, "vol. 2, INT n", )                                              \
	X(iret_k, "iretq", "IRET, kernel", false, CHECKED, "vol. 2, IRET",                                                  \
	  .stack = { TARGET, SEL_KCODE, RFLAGS_IF_OFF, POPEK_STACK + 0x100, SEL_KDATA })                                       \
	X(iret_u, "iretq", "IRET, user", false, ALLOWED, "vol. 2, IRET",                                                    \
	  .stack = { TARGET, SEL_UCODE | 3, RFLAGS_IF_OFF, POPEK_STACK + 0x100, SEL_UDATA | 3 })                               \
	X(lfs, "lfsl " STR(POPEK_FAR_FS) ",%eax", "LFS r, user", false, ALLOWED, "vol. 2, LDS", )                            \
	X(cpuid, "cpuid", "CPUID", false, ALLOWED, "vol. 2, CPUID", .rax = 1)                                                  \
	X(cli, "cli", "CLI", false, IOPL, "vol. 2, CLI", )                                                                     \
	X(sti, "sti", "STI", false, IOPL, "vol. 2, STI", .if_off = true)                                                       \
	X(hlt, "hlt", "HLT", false, PRIVILEGED, "vol. 3, 5.9", .if_off = true)                                                 \
	X(in, "in $" STR(POPEK_PORT_IN) ",%al", "IN", false, IOPL, "vol. 1, 19.5", )                                           \
	X(out, "out %al,$" STR(POPEK_PORT_OUT), "OUT", false, IOPL, "vol. 1, 19.5", .rax = 0x21)                               \
	X(ins, "insb", "INS", false, IOPL, "vol. 1, 19.5", .rdi = POPEK_DATA, .rdx = POPEK_PORT_IN)                            \
	X(outs, "outsb", "OUTS", false, IOPL, "vol. 1, 19.5", .rsi = POPEK_BYTE, .rdx = POPEK_PORT_OUT)                        \
	X(from_cr0, "mov %cr0,%rax", "MOV r, CR0", false, PRIVILEGED, "vol. 3, 5.9", )                                         \
	X(to_cr0, "mov %rax,%cr0", "MOV CR0, r", false, PRIVILEGED, "vol. 3, 5.9", .rax = POPEK_CR0 & ~CR0_TS)                 \
	X(from_cr3, "mov %cr3,%rax", "MOV r, CR3", false, PRIVILEGED, "vol. 3, 5.9", )                                         \
	X(to_cr3, "mov %rax,%cr3", "MOV CR3, r", false, PRIVILEGED, "vol. 3, 5.9", .rax = POPEK_NEW_CR3)                       \
	X(to_cr4, "mov %rax,%cr4", "MOV CR4, r", false, PRIVILEGED, "vol. 3, 5.9", .rax = POPEK_CR4 | CR4_DE)                  \
	X(clts, "clts", "CLTS", false, PRIVILEGED, "vol. 3, 5.9", )                                                            \
	X(lmsw, "lmsw %ax", "LMSW", false, PRIVILEGED, "vol. 3, 5.9", .rax = CR0_PE | CR0_MP)                                  \
	X(from_dr, "mov %dr0,%rax", "MOV r, DR0", false, PRIVILEGED, "vol. 3, 5.9", )                                          \
	X(to_dr, "mov %rax,%dr0", "MOV DR0, r", false, PRIVILEGED, "vol. 3, 5.9", .rax = 0x7000)                               \
	X(lgdt, "lgdt " STR(POPEK_NEW_TABLE), "LGDT", false, PRIVILEGED, "vol. 3, 5.9", )                                      \
	X(lidt, "lidt " STR(POPEK_NEW_TABLE), "LIDT", false, PRIVILEGED, "vol. 3, 5.9", )                                      \
	X(lldt, "lldt %ax", "LLDT", false, PRIVILEGED, "vol. 3, 5.9", .rax = SEL_LDT2)                                         \
	X(ltr, "ltr %ax", "LTR", false, PRIVILEGED, "vol. 3, 5.9", .rax = SEL_TSS2)                                            \
	X(rdmsr, "rdmsr", "RDMSR", false, PRIVILEGED, "vol. 3, 5.9", .rcx = MSR_LSTAR)                                         \
	X(wrmsr, "wrmsr", "WRMSR", false, PRIVILEGED, "vol. 3, 5.9", .rcx = MSR_LSTAR, .rax = 0x7000)                          \
	X(swapgs, "swapgs", "SWAPGS", false, PRIVILEGED, "vol. 2, SWAPGS", )                                                   \
	X(invlpg, "invlpg " DATA, "INVLPG", false, PRIVILEGED, "vol. 3, 5.9", )                                                \
	X(wbinvd, "wbinvd", "WBINVD", false, PRIVILEGED, "vol. 3, 5.9", )                                                      \
	X(sysret, "sysretq", "SYSRET", false, PRIVILEGED, "vol. 3, 5.9", .rcx = TARGET, .r11 = RFLAGS_IF_OFF)                  \
	X(syscall, "syscall", "SYSCALL", false, TRAPS, "vol. 2, SYSCALL", )                                                    \
	X(int3, "int3", "INT3", false, TRAPS, "vol. 2, INT n", )                                                               \
	X(ud2, "ud2", "UD2", false, TRAPS, "vol. 2, UD", )                                                                     \
	X(rdtsc, "rdtsc", "RDTSC", false, ALLOWED, "vol. 2, RDTSC", .clock = true)                                             \
	X(rdtsc_tsd, "rdtsc", "RDTSC, TSD", false, OPTION, "vol. 3, 2.5", .clock = true, .set_cr4 = CR4_TSD)               \
	X(clflush, "clflush " DATA, "CLFLUSH", false, ALLOWED, "vol. 2, CLFLUSH", )                                            \
	X(mov, "mov %rcx," DATA, "MOV m, r", false, ALLOWED, "vol. 2, MOV", .rcx = 0x1234)                                     \
	X(add, "add %rcx,%rax", "ADD", false, ALLOWED, "vol. 2, ADD", .rax = 2, .rcx = 3)                                      \
	X(nop, "nop", "NOP", false, ALLOWED, "vol. 2, NOP", .idle = true)

#define CODE(label, text, ...)                                                                                                 \
	__asm__(".pushsection .rodata\n"                                                                                       \
		"popek_" #label ": " text "\n"                                                                                 \
		"popek_" #label "_end:\n"                                                                                      \
		".popsection");                                                                                                \
	extern const uint8_t label##_code[] __asm__("popek_" #label), label##_end[] __asm__("popek_" #label "_end");
PROBES(CODE)

#define ROW(label, text, name_, listed, manual_, section_, ...)                                                             \
	{ .name = (name_), .robin_irvine = (listed), .manual = MANUAL_##manual_, .section = (section_), .code = label##_code, \
	  .end = label##_end, __VA_ARGS__ },
const struct popek_probe popek_probes[] = { PROBES(ROW) };
const unsigned popek_nprobes = sizeof popek_probes / sizeof *popek_probes;
