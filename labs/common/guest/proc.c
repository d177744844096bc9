#include "proc.h"

#include "desc.h"
#include "fmt.h"
#include "irq.h"
#include "string.h"
#include "syscall.h"
#include "trap.h"
#include "user.h"

#define KSTACK_SIZE 8192
#define USTACK_SIZE 4096

struct proc *current;

static struct proc table[NPROC];
static uint8_t kstacks[NPROC][KSTACK_SIZE] __attribute__((aligned(16)));
static uint8_t ustacks[NPROC][USTACK_SIZE] __attribute__((aligned(4096)));
static int last_pid;
static uint64_t switches;
static bool slice_over;

/* trapasm.S: pushes what a C function must preserve, stores RSP in *save, loads it from load, pops the same, returns. */
void context_switch(void **save, void *load);
#define CALLEE_SAVED 6

void proc_init(void)
{
	current = &table[0];
	*current = (struct proc){ .name = "kernel", .state = PROC_READY, .killed_by = NOT_KILLED };
}

/* The first thing that a new process does: context_switch() "returns" here. */
static void begin(void)
{
	proc_before_user();
	trap_return((struct trap_frame *)(current->kstack + KSTACK_SIZE) - 1);
}

/*
 * A kernel stack that looks as if the process had once come from user mode and had then called context_switch(): the trap
 * frame on top, then a slot for begin()'s own return address, which is never used, then what context_switch() pops.
 */
static void make_stack(struct proc *p, int (*fn)(uint64_t), uint64_t arg)
{
	struct trap_frame *frame = (struct trap_frame *)(p->kstack + KSTACK_SIZE) - 1;
	uint64_t *sp = (uint64_t *)frame;

	user_frame(frame, (uint64_t)user_start, (uint64_t)p->ustack + USTACK_SIZE - 8); /* as if by a call: ABI 3.2.2 */
	frame->rdi = (uint64_t)fn;
	frame->rsi = arg;
	*--sp = 0;
	*--sp = (uint64_t)begin;
	sp -= CALLEE_SAVED;
	memset(sp, 0, CALLEE_SAVED * sizeof(*sp));
	p->sp = sp;
}

struct proc *proc_spawn(const char *name, int (*fn)(uint64_t), uint64_t arg)
{
	for (int i = 1; i < NPROC; i++) {
		struct proc *p = &table[i];

		if (p->state != PROC_FREE)
			continue;
		*p = (struct proc){
			.pid = ++last_pid,
			.name = name,
			.killed_by = NOT_KILLED,
			.kstack = kstacks[i],
			.ustack = ustacks[i],
		};
		make_stack(p, fn, arg);
		p->state = PROC_READY;
		return p;
	}
	return NULL;
}

/* Round robin: the search begins behind the current process, which is therefore the last choice. */
static struct proc *next_ready(void)
{
	for (int i = 1; i <= NPROC; i++) {
		struct proc *p = &table[(current - table + i) % NPROC];

		if (p->state == PROC_READY)
			return p;
	}
	return NULL;
}

/*
 * Gives the CPU away and returns when it is this process' turn again. Interrupts are off. When nobody can run, the CPU rests
 * here, on the stack of whoever came last, until an interrupt handler wakes somebody.
 */
static void schedule(void)
{
	struct proc *prev = current, *next;

	while (!(next = next_ready()))
		irq_wait();
	slice_over = false;
	if (next == prev)
		return;
	switches++;
	if (!next->began)
		next->began = switches;
	current = next;
	/* Lab 2 loads the process' own page tables here. */
	if (next != &table[0]) /* process 0 never leaves the kernel */
		syscall_set_stack((uint64_t)next->kstack + KSTACK_SIZE);
	context_switch(&prev->sp, next->sp);
}

void proc_yield(void)
{
	bool was = irq_save();

	current->gave_way = true;
	schedule();
	irq_restore(was);
}

void proc_sleep_on(const void *channel)
{
	current->gave_way = true;
	current->channel = channel;
	current->state = PROC_SLEEPING;
	schedule();
}

void proc_wakeup(const void *channel)
{
	bool was = irq_save();

	for (struct proc *p = table; p < table + NPROC; p++)
		if (p->state == PROC_SLEEPING && p->channel == channel)
			p->state = PROC_READY;
	irq_restore(was);
}

void proc_sleep_ticks(uint64_t n)
{
	bool was = irq_save();
	uint64_t begin = ticks;

	while (ticks - begin < n)
		proc_sleep_on((void *)&ticks);
	irq_restore(was);
}

void proc_wait(struct proc *p)
{
	bool was = irq_save();

	while (p->state != PROC_ZOMBIE)
		proc_sleep_on(p);
	irq_restore(was);
}

void proc_free(struct proc *p)
{
	p->state = PROC_FREE;
}

void proc_exit(int code, int killed_by)
{
	irq_save();
	current->exit_code = code;
	current->killed_by = killed_by;
	current->ended = switches;
	current->state = PROC_ZOMBIE;
	proc_wakeup(current);
	schedule();
	panic("a process that has ended was scheduled");
}

void proc_slice_over(void)
{
	slice_over = true;
}

void proc_before_user(void)
{
	if (slice_over)
		schedule();
	irq_follow(true);
}

size_t proc_write(const char *s, size_t len)
{
	size_t room = sizeof(current->out) - current->outlen;

	if (len > room)
		len = room;
	memcpy(current->out + current->outlen, s, len);
	current->outlen += len;
	return len;
}

void proc_printf(const char *fmt, ...)
{
	char buf[256];
	va_list args;
	size_t len;

	va_start(args, fmt);
	len = format(buf, sizeof(buf), fmt, args);
	va_end(args);
	proc_write(buf, len);
}

/* Without paging this is a courtesy among programs, not protection: user code itself can still touch everything. */
static bool within(uint64_t addr, uint64_t len, const void *begin, const void *end)
{
	return addr >= (uint64_t)begin && addr <= (uint64_t)end && len <= (uint64_t)end - addr;
}

bool proc_may_read(uint64_t addr, uint64_t len)
{
	return within(addr, len, current->ustack, current->ustack + USTACK_SIZE) ||
	       within(addr, len, user_image_start, user_image_end);
}

bool proc_interleaved(const struct proc *a, const struct proc *b)
{
	return !a->gave_way && !b->gave_way && a->began <= b->ended && b->began <= a->ended;
}
