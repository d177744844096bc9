#include "syscall.h"

#include "desc.h"
#include "io.h"
#include "irq.h"
#include "proc.h"

#include <stddef.h>

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define MSR_KERNEL_GS_BASE 0xc0000102
#define EFER_SCE 1

/* What the kernel's GS points to while it has it. With several CPUs there would be several. */
static struct cpu {
	uint64_t user_rsp, kernel_rsp;
} cpu;

_Static_assert(offsetof(struct cpu, user_rsp) == CPU_USER_RSP && offsetof(struct cpu, kernel_rsp) == CPU_KERNEL_RSP,
	       "trapasm.S relies on it");

void syscall_entry(void); /* trapasm.S */

void syscall_init(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (uint64_t)SEL_USER_BASE << 48 | (uint64_t)SEL_KCODE << 32);
	wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
	/* What user mode may have set and the kernel must not run with. */
	wrmsr(MSR_SFMASK, RFLAGS_IF | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC);
	wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)&cpu);
}

void syscall_set_stack(uint64_t top)
{
	tss_set_rsp0(top);
	cpu.kernel_rsp = top;
}

static int64_t sys_write(const struct trap_frame *f)
{
	if (!space_may_read(f->rdi, f->rsi))
		return -SYS_EFAULT;
	return proc_write((const char *)f->rdi, f->rsi);
}

static int64_t sys_getpid(const struct trap_frame *f)
{
	(void)f;
	return current->pid;
}

static int64_t sys_yield(const struct trap_frame *f)
{
	(void)f;
	proc_yield();
	return 0;
}

static int64_t sys_sleep(const struct trap_frame *f)
{
	proc_sleep_ticks(f->rdi);
	return 0;
}

static int64_t sys_exit(const struct trap_frame *f)
{
	proc_exit(f->rdi, NOT_KILLED);
}

static int64_t sys_time(const struct trap_frame *f)
{
	(void)f;
	return ticks;
}

static int64_t sys_fork(const struct trap_frame *f)
{
	return proc_fork(f);
}

static int64_t sys_wait(const struct trap_frame *f)
{
	return proc_wait_child(f->rdi);
}

static int64_t sys_sbrk(const struct trap_frame *f)
{
	return space_grow(f->rdi);
}

static int64_t sys_mprotect(const struct trap_frame *f)
{
	return space_protect(f->rdi, f->rsi, f->rdx);
}

static int64_t (*const calls[SYS_COUNT])(const struct trap_frame *f) = {
	[SYS_WRITE] = sys_write, [SYS_GETPID] = sys_getpid, [SYS_YIELD] = sys_yield,
	[SYS_SLEEP] = sys_sleep, [SYS_EXIT] = sys_exit,	    [SYS_TIME] = sys_time,
	[SYS_FORK] = sys_fork,	 [SYS_WAIT] = sys_wait,	    [SYS_SBRK] = sys_sbrk,   [SYS_MPROTECT] = sys_mprotect,
};

/* Called by syscall_entry with interrupts off. They are on while the call is served, which may take long. */
void syscall_dispatch(struct trap_frame *f)
{
	irq_follow(false);
	irq_restore(true);
	f->rax = f->rax < SYS_COUNT ? calls[f->rax](f) : -SYS_ENOSYS;
	irq_save();
	proc_before_user();
}
