/*
 * Finds out what a /dev/kvm can do by doing it; `make doctor` and `make bench` run this program, here and in the test host.
 *
 *	probe open		can it be opened, and which API version answers
 *	probe traps		does a deprivileged guest's sensitive instruction reach the monitor, one line each
 *	probe cost N		microseconds for one trap with the least work possible, over N traps
 *	probe cpuid		does CPUID at CPL 3 trap when CPUID faulting is on
 *	probe real|paging|pae	does a guest run in that mode
 *	probe svm|vmx		does the machine offer hardware virtualization to its guests
 *
 * Exit status 0: yes; 1: no, and standard output says in a few words what happened instead. Every attempt that does not come
 * back is ended by a timer. The monitor is the trap engine's own.
 */
#include "trapengine.h"
#include "vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#define GUEST_SIZE (4 * MiB)
#define CODE 0x1000ul /* gva of the guest's code, and of its stack and data */
#define STACK 0x8000
#define SECONDS 3     /* one KVM_RUN may take */

static int kvm, vm, vcpu;
static struct kvm_run *run;
static struct kvm_cpuid2 *cpuid;
static uint8_t *mem; /* the machine's memory: monitor, tables, guest */
static struct kvm_sregs reset_sregs;

/* Ends the program with "no" and the reason. */
static void no(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static void on_alarm(int sig)
{
	(void)sig;
	run->immediate_exit = 1;
}

static const struct kvm_cpuid_entry2 *cpuid_leaf(uint32_t leaf)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == leaf && cpuid->entries[i].index == 0)
			return &cpuid->entries[i];
	return NULL;
}

static void open_kvm(void)
{
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		no("open");
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		printf("API version %d instead of %d\n", version, KVM_API_VERSION);
		exit(1);
	}
}

static void make_machine(void)
{
	size_t size = GUEST_MA + GUEST_SIZE;

	open_kvm();
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		no("KVM_CREATE_VM");
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		no("memory");
	struct kvm_userspace_memory_region slot = { .memory_size = size, .userspace_addr = (uintptr_t)mem };
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		no("KVM_SET_USER_MEMORY_REGION");
	cpuid = calloc(1, sizeof *cpuid + MACHINE_CPUID_MAX * sizeof cpuid->entries[0]);
	if (!cpuid)
		no("memory");
	cpuid->nent = MACHINE_CPUID_MAX;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		no("KVM_GET_SUPPORTED_CPUID");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		no("KVM_CREATE_VCPU");
	if (ioctl(vcpu, KVM_SET_CPUID2, cpuid) < 0)
		no("KVM_SET_CPUID2");
	run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		no("mapping kvm_run");
	if (ioctl(vcpu, KVM_GET_SREGS, &reset_sregs) < 0)
		no("KVM_GET_SREGS");
	signal(SIGALRM, on_alarm);
}

static int set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };
	return ioctl(vcpu, KVM_SET_MSRS, &msr) == 1 ? 0 : -1;
}

/* Runs `code` at rip with these special registers until the machine leaves KVM_RUN for good. Returns KVM's exit reason, or
 * -1 when the time is up or KVM refuses (errno). */
static int run_code(const struct kvm_sregs *sregs, uint64_t rip, uint64_t rsp, const void *code, size_t len)
{
	struct kvm_regs regs = { .rip = rip, .rsp = rsp, .rflags = FLAG_FIXED };
	struct itimerval once = { .it_value.tv_sec = SECONDS }, never = { 0 };

	memcpy(mem + (sregs->cr0 & CR0_PG && sregs->efer & EFER_LMA ? GUEST_MA : 0) + rip, code, len);
	if (ioctl(vcpu, KVM_SET_SREGS, sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		return -1;
	run->immediate_exit = 0;
	setitimer(ITIMER_REAL, &once, NULL);
	int ret = ioctl(vcpu, KVM_RUN, 0);
	setitimer(ITIMER_REAL, &never, NULL);
	return ret < 0 ? -1 : (int)run->exit_reason;
}

static const char *const exceptions[] = {
	[VEC_DE] = "DE", [VEC_DB] = "DB", [VEC_BP] = "BP", [VEC_OF] = "OF", [VEC_BR] = "BR", [VEC_UD] = "UD",
	[VEC_NM] = "NM", [VEC_DF] = "DF", [VEC_TS] = "TS", [VEC_NP] = "NP", [VEC_SS] = "SS", [VEC_GP] = "GP",
	[VEC_PF] = "PF", [VEC_AC] = "AC",
};

/* In a few words, what run_code() returned when it is not what was hoped for. */
static const char *ending(int reason)
{
	static char text[64];

	if (reason == -1 && errno == EINTR)
		return "did not come back in time";
	if (reason == -1)
		return strerror(errno);
	if (reason == KVM_EXIT_SHUTDOWN)
		return "triple fault";
	if (reason == KVM_EXIT_INTERNAL_ERROR)
		return "KVM internal error";
	if (reason == KVM_EXIT_IO && run->io.port < sizeof exceptions / sizeof *exceptions && exceptions[run->io.port])
		snprintf(text, sizeof text, "arrives as #%s", exceptions[run->io.port]);
	else if (reason == KVM_EXIT_IO)
		snprintf(text, sizeof text, "arrives at port 0x%x", run->io.port);
	else
		snprintf(text, sizeof text, "KVM exit reason %d", reason);
	return text;
}

/* --- 64-bit mode with the monitor: the trap engine's technique --- */

static struct kvm_sregs deprivileged(unsigned cpl)
{
	struct kvm_sregs s = reset_sregs;

	s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	s.cr3 = monitor_tables_write(mem + POOL_MA, GUEST_SIZE);
	s.gdt = (struct kvm_dtable){ .base = MONITOR_GVA + MON_GDT, .limit = MON_GDT_LIMIT };
	s.idt = (struct kvm_dtable){ .base = MONITOR_GVA + MON_IDT, .limit = 4095 };
	s.tr = (struct kvm_segment){
		.base = MONITOR_GVA + MON_TSS, .limit = 0x67, .selector = MON_TR, .type = 11, .present = 1
	};
	s.ss = (struct kvm_segment){ .limit = ~0u, .type = 3, .present = 1, .dpl = cpl, .s = 1, .db = 1, .g = 1 };
	s.ss.selector = cpl ? GUEST_SS : MON_SS;
	s.ds = s.es = s.fs = s.gs = s.cs = s.ss;
	s.cs.selector = cpl ? GUEST_CS : MON_CS;
	s.cs.type = 11;
	s.cs.db = 0;
	s.cs.l = 1;
	return s;
}

static void make_monitored_machine(void)
{
	make_machine();
	monitor_write(mem);
	if (set_msr(MSR_STAR, (uint64_t)MON_SS << 48 | (uint64_t)MON_CS << 32) ||
	    set_msr(MSR_LSTAR, MONITOR_GVA + MON_SYSCALL) || set_msr(MSR_SFMASK, FLAGS_DEFINED & ~FLAG_FIXED))
		no("KVM_SET_MSRS");
}

/* How each instruction arrives on the reference, the test host: a vector, or the port of the syscall stub. Instructions with
 * `quiet` are the ones that x86 lets pass in user mode (the Popek-Goldberg failure): they must run through to the cli. */
static const struct {
	const char *name, *code;
	uint8_t len, port;
	bool quiet;
} sensitive[] = {
	{ "cli", "\xfa", 1, VEC_GP, false },
	{ "mov %cr0,%rax", "\x0f\x20\xc0", 3, VEC_GP, false },
	{ "mov %ax,%ds (absent selector 0x10)", "\x66\xb8\x10\x00\x8e\xd8", 6, VEC_GP, false },
	{ "int $0x80", "\xcd\x80", 2, VEC_GP, false },
	{ "int3", "\xcc", 1, VEC_GP, false },
	{ "iretq to absent selector 8", "\x48\xcf", 2, VEC_GP, false },
	{ "swapgs", "\x0f\x01\xf8", 3, VEC_GP, false },
	{ "syscall", "\x0f\x05", 2, MON_PORT_SYSCALL, false },
	{ "a load from unmapped memory", "\x8b\x04\x25\x00\x00\x00\x40", 7, VEC_PF, false },
	{ "ud2", "\x0f\x0b", 2, VEC_UD, false },
	{ "pushf", "\x9c", 1, 0, true },
	{ "popf", "\x9d", 1, 0, true },
	{ "mov %cs,%eax", "\x8c\xc8", 2, 0, true },
	{ "sidt", "\x0f\x01\x0c\x24", 4, 0, true },
};

static int probe_traps(void)
{
	int deviations = 0;

	make_monitored_machine();
	for (size_t i = 0; i < sizeof sensitive / sizeof *sensitive; i++) {
		struct kvm_sregs s = deprivileged(3);
		uint64_t stack[5] = { CODE, 8, FLAG_FIXED, STACK, 0x10 };
		uint8_t code[16];
		memcpy(code, sensitive[i].code, sensitive[i].len);
		code[sensitive[i].len] = 0xfa; /* cli: where the quiet ones end, with #GP at their own length */
		memcpy(mem + GUEST_MA + STACK, stack, sizeof stack);
		int reason = run_code(&s, CODE, STACK, code, sensitive[i].len + 1);
		unsigned expected = sensitive[i].quiet ? VEC_GP : sensitive[i].port;
		bool arrived = reason == KVM_EXIT_IO && run->io.port == expected;
		if (arrived && expected != MON_PORT_SYSCALL) {
			/* It must be this instruction that was stopped, not the cli behind it, and the other way round. */
			struct kvm_regs regs;
			ioctl(vcpu, KVM_GET_REGS, &regs);
			bool error = expected == VEC_GP || expected == VEC_PF;
			uint64_t rip = *(uint64_t *)(mem + (regs.rsp - MONITOR_GVA) % MONITOR_SIZE + (error ? 8 : 0));
			arrived = (rip == CODE + sensitive[i].len) == sensitive[i].quiet;
		}
		printf("%s\t%s\t%s\n", arrived ? "same" : "differs", sensitive[i].name, arrived ? "" : ending(reason));
		deviations += !arrived;
	}
	return deviations ? 1 : 0;
}

static int probe_cost(long traps)
{
	struct timespec a, b;

	make_monitored_machine();
	struct kvm_sregs s = deprivileged(3);
	/* The stub's iretq goes back to the cli itself: nothing but the trap is measured. */
	if (run_code(&s, CODE, STACK, "\xfa", 1) != KVM_EXIT_IO || run->io.port != VEC_GP) {
		printf("cli does not trap\n");
		return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < traps; i++)
		if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
			no("KVM_RUN");
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.2f\n", ((b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) * 1e-3) / traps);
	return 0;
}

static int probe_cpuid(void)
{
	make_monitored_machine();
	if (set_msr(0x140, 1)) { /* MISC_FEATURES_ENABLES, bit 0: CPUID faulting */
		printf("MSR 0x140 is refused\n");
		return 1;
	}
	struct kvm_sregs s = deprivileged(3);
	int reason = run_code(&s, CODE, STACK, "\x0f\xa2\x0f\x0b", 4); /* cpuid; ud2 */
	if (reason == KVM_EXIT_IO && run->io.port == VEC_GP)
		return 0;
	bool ignored = reason == KVM_EXIT_IO && run->io.port == VEC_UD;
	printf("%s\n", ignored ? "the MSR is accepted, and CPUID does not fault" : ending(reason));
	return 1;
}

/* Runs code at CPL 0 in 64-bit mode that ends with out %al,$0xf1 when all is well. */
static int privileged_code(const struct kvm_sregs *s, const char *code, size_t len)
{
	int reason = run_code(s, CODE, STACK, code, len);
	if (reason == KVM_EXIT_IO && run->io.port == 0xf1)
		return 0;
	printf("%s\n", ending(reason));
	return 1;
}

static int probe_svm(void)
{
	make_monitored_machine();
	const struct kvm_cpuid_entry2 *e = cpuid_leaf(0x80000001);
	if (!e || !(e->ecx & 1u << 2)) { /* APM vol. 3, CPUID Fn8000_0001_ECX[SVM] */
		printf("CPUID does not offer it\n");
		return 1;
	}
	struct kvm_sregs s = deprivileged(0);
	s.efer |= 1u << 12; /* EFER.SVME */
	return privileged_code(&s, "\x0f\x01\xdd\x0f\x01\xdc\xe6\xf1", 8); /* clgi; stgi; out %al,$0xf1 */
}

static int probe_vmx(void)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} basic = { .head.nmsrs = 1, .entry.index = 0x480 }; /* IA32_VMX_BASIC */

	make_monitored_machine();
	const struct kvm_cpuid_entry2 *e = cpuid_leaf(1);
	if (!e || !(e->ecx & 1u << 5)) { /* SDM vol. 3, 24.6 */
		printf("CPUID does not offer it\n");
		return 1;
	}
	/* IA32_FEATURE_CONTROL: locked, VMXON outside SMX allowed. The VMXON region begins with the revision number. */
	if (ioctl(vcpu, KVM_GET_MSRS, &basic) != 1 || set_msr(0x3a, 5))
		no("the VMX MSRs");
	*(uint32_t *)(mem + GUEST_MA + 0x3000) = basic.entry.data & 0x7fffffff;
	*(uint64_t *)(mem + GUEST_MA + 0x2000) = GUEST_MA + 0x3000;
	struct kvm_sregs s = deprivileged(0);
	s.cr4 |= 1u << 13; /* CR4.VMXE */
	/* vmxon 0x2000; jbe over; out %al,$0xf1; over: ud2 */
	return privileged_code(&s, "\xf3\x0f\xc7\x34\x25\x00\x20\x00\x00\x76\x02\xe6\xf1\x0f\x0b", 15);
}

/* --- modes without the monitor: memory from 0, code at CODE, a byte that must arrive at port 0x10 --- */

static int mode_arrived(int reason)
{
	if (reason == KVM_EXIT_IO && run->io.port == 0x10 && *((uint8_t *)run + run->io.data_offset) == 0x5a)
		return 0;
	printf("%s\n", ending(reason));
	return 1;
}

static int probe_real(void)
{
	make_machine();
	struct kvm_sregs s = reset_sregs;
	s.cs.base = s.cs.selector = 0;
	return mode_arrived(run_code(&s, CODE, STACK, "\xb0\x5a\xe6\x10\xf4", 5)); /* mov $0x5a,%al; out %al,$0x10; hlt */
}

/* 32-bit protected mode with paging: the second large page shows the same memory as the first, and the byte is read there. */
static int probe_paging(bool pae)
{
	char code[] = "\xa0\x00\x08\x40\x00\xe6\x10\xf4"; /* mov 0x400800,%al; out %al,$0x10; hlt */

	make_machine();
	struct kvm_sregs s = reset_sregs;
	s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
	s.cr3 = 0x10000;
	mem[0x800] = 0x5a;
	if (pae) {
		s.cr4 = CR4_PAE;
		*(uint64_t *)(mem + 0x10000) = 0x11001;
		((uint64_t *)(mem + 0x11000))[0] = 0x83;
		((uint64_t *)(mem + 0x11000))[2] = 0x83; /* 4 MiB */
	} else {
		s.cr4 = CR4_PSE;
		((uint32_t *)(mem + 0x10000))[0] = 0x83;
		((uint32_t *)(mem + 0x10000))[1] = 0x83;
	}
	s.ds = (struct kvm_segment){ .limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	s.es = s.fs = s.gs = s.ss = s.cs = s.ds;
	s.cs.selector = 8;
	s.cs.type = 11;
	return mode_arrived(run_code(&s, CODE, STACK, code, sizeof code - 1));
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "open"))
		return open_kvm(), 0;
	if (!strcmp(what, "traps"))
		return probe_traps();
	if (!strcmp(what, "cost") && argc > 2 && atol(argv[2]) > 0)
		return probe_cost(atol(argv[2]));
	if (!strcmp(what, "cpuid"))
		return probe_cpuid();
	if (!strcmp(what, "real"))
		return probe_real();
	if (!strcmp(what, "paging") || !strcmp(what, "pae"))
		return probe_paging(!strcmp(what, "pae"));
	if (!strcmp(what, "svm"))
		return probe_svm();
	if (!strcmp(what, "vmx"))
		return probe_vmx();
	fprintf(stderr, "usage: probe open|traps|cost N|cpuid|real|paging|pae|svm|vmx\n");
	return 2;
}
