#include "proc.h"

#include "desc.h"
#include "fmt.h"
#include "irq.h"
#include "string.h"
#include "syscall.h"
#include "trap.h"
#include "user.h"

#define KSTACK_SIZE 8192

struct proc *current;

static struct proc table[NPROC];
static uint8_t kstacks[NPROC][KSTACK_SIZE] __attribute__((aligned(16)));
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
static void make_stack(struct proc *p, const struct trap_frame *frame)
{
	struct trap_frame *top = (struct trap_frame *)(p->kstack + KSTACK_SIZE) - 1;
	uint64_t *sp = (uint64_t *)top;

	*top = *frame;
	*--sp = 0;
	*--sp = (uint64_t)begin;
	sp -= CALLEE_SAVED;
	memset(sp, 0, CALLEE_SAVED * sizeof(*sp));
	p->sp = sp;
}

/* A place in the table, which is not taken before it is READY; NULL when there is none. */
static struct proc *new_proc(const char *name)
{
	for (int i = 1; i < NPROC; i++) {
		struct proc *p = &table[i];

		if (p->state != PROC_FREE)
			continue;
		*p = (struct proc){
			.name = name,
			.parent = current,
			.killed_by = NOT_KILLED,
			.kstack = kstacks[i],
		};
		return p;
	}
	return NULL;
}

static void make_ready(struct proc *p, const struct trap_frame *frame)
{
	p->pid = ++last_pid;
	make_stack(p, frame);
	p->state = PROC_READY;
}

struct proc *proc_spawn(const char *name, int (*fn)(uint64_t), uint64_t arg)
{
	struct proc *p = new_proc(name);
	struct trap_frame frame;

	if (!p || space_create(&p->space))
		return NULL;
	user_frame(&frame, (uint64_t)user_start, space_stack_top(&p->space) - 8); /* as if by a call: ABI 3.2.2 */
	frame.rdi = (uint64_t)fn;
	frame.rsi = arg;
	make_ready(p, &frame);
	return p;
}

int proc_fork(const struct trap_frame *frame)
{
	struct proc *p = new_proc(current->name);
	struct trap_frame copy = *frame;
	int error = p ? space_fork(&p->space) : -SYS_EAGAIN;

	if (error)
		return error;
	copy.rax = 0;
	make_ready(p, &copy);
	return p->pid;
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
	space_switch(&next->space);
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

int proc_wait_child(int pid)
{
	for (struct proc *p = table; p < table + NPROC; p++) {
		int result;

		if (p->state == PROC_FREE || p->pid != pid || p->parent != current)
			continue;
		proc_wait(p);
		proc_write(p->out, p->outlen);
		result = p->killed_by == NOT_KILLED ? p->exit_code : PROC_KILLED + p->killed_by;
		proc_free(p);
		return result;
	}
	return -SYS_ECHILD;
}

/* Whose parent has ended can itself be forgotten when it ends. */
static void disown_children(void)
{
	for (struct proc *p = table; p < table + NPROC; p++) {
		if (p->state == PROC_FREE || p->parent != current)
			continue;
		p->parent = NULL;
		if (p->state == PROC_ZOMBIE)
			proc_free(p);
	}
}

void proc_exit(int code, int killed_by)
{
	irq_save();
	space_free(&current->space);
	disown_children();
	current->exit_code = code;
	current->killed_by = killed_by;
	current->ended = switches;
	current->state = current->parent ? PROC_ZOMBIE : PROC_FREE; /* nobody can take the place before schedule() */
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

bool proc_interleaved(const struct proc *a, const struct proc *b)
{
	return !a->gave_way && !b->gave_way && a->began <= b->ended && b->began <= a->ended;
}
