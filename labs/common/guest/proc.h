/*
 * Processes. One CPU, one run queue (the process table, searched round), one time slice per tick. A process is preempted
 * only in user mode: kernel code runs until it sleeps, yields or returns, and only interrupt handlers get in between.
 *
 * What a process writes is kept until somebody waits for it. So the transcript depends on the order of waiting and not on
 * when the timer happened to strike.
 */
#ifndef GUEST_PROC_H
#define GUEST_PROC_H

#include "space.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NPROC 40

struct trap_frame;

enum proc_state { PROC_FREE, PROC_READY, PROC_SLEEPING, PROC_ZOMBIE };
#define NOT_KILLED -1

struct proc {
	int pid;
	struct proc *parent; /* NULL: nobody will wait for it */
	const char *name;
	enum proc_state state; /* the running process is READY as well */
	const void *channel;   /* what it sleeps on */
	void *sp;	       /* kernel stack pointer while another process runs; see context_switch() */
	uint8_t *kstack;
	struct space space; /* user memory */
	int exit_code;
	int killed_by;	       /* exception vector, or NOT_KILLED */
	uint64_t began, ended; /* running numbers of the context switches that these were; began is 0 before */
	bool gave_way;	       /* slept or yielded at least once before its end */
	char out[512];	       /* what it has written */
	size_t outlen;
};

extern struct proc *current;

/* What runs from here on is process 0, the kernel's own. */
void proc_init(void);
/* A new process that will run fn(arg) at CPL 3. name is not copied. NULL when there is no room for it. */
struct proc *proc_spawn(const char *name, int (*fn)(uint64_t), uint64_t arg);
/* A copy of the current process, to which the system call of that frame returns 0. Its pid or a negative error. */
int proc_fork(const struct trap_frame *frame);
/* Sleeps until p has ended. p can be read until proc_free(). */
void proc_wait(struct proc *p);
void proc_free(struct proc *p);
/*
 * Waits for a child of the current process and frees it. What it has written becomes its parent's output. Returns its exit
 * code, PROC_KILLED + vector if it was killed, or a negative error.
 */
int proc_wait_child(int pid);
#define PROC_KILLED 256
/* The current process ends. */
_Noreturn void proc_exit(int code, int killed_by);

/* Lets others run first. */
void proc_yield(void);
/*
 * Sleeps until proc_wakeup() on the same channel, which is any address that both sides know. To be called in a loop around
 * the condition, with interrupts off from the test on: else the wake-up can slip in between test and sleep, and be lost.
 */
void proc_sleep_on(const void *channel);
void proc_wakeup(const void *channel);
void proc_sleep_ticks(uint64_t n);

/* The tick: before user mode goes on, somebody else is to run. */
void proc_slice_over(void);
/* Every return to user mode passes here, with interrupts off. */
void proc_before_user(void);

/* Appends to what the current process has written; returns how much fitted. */
size_t proc_write(const char *s, size_t len);
void proc_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * True when both ran in turns although neither of them ever gave way. Then the CPU was taken from them: without preemption
 * one would have ended before the other began.
 */
bool proc_interleaved(const struct proc *a, const struct proc *b);

#endif
