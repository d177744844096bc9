/*
 * The grader's half inside a test host: process 1 there, started by the kernel from the initramfs.
 *
 * It takes a plan (a text file that the grader packed beside it), runs the plan's jobs one after the other as ordinary
 * users who own nothing, and reports what happened on a port that only root can use. Programs of students run here and
 * nowhere else.
 */
#ifndef GRADER_RUNNER_H
#define GRADER_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JAIL "/jail"    /* what a job sees as its root directory */
#define JOB_ARGS 64
#define JOB_TEXT 8192   /* bytes of argument text of one job */
#define CAPTURE_MAX (1u << 20)

/* One job of the plan. Times are already scaled to this machine's speed. */
struct job {
	unsigned index;
	unsigned uid;
	unsigned wall_ms;         /* after that the job is killed */
	unsigned cpu_s;           /* RLIMIT_CPU */
	unsigned as_mib;          /* RLIMIT_AS */
	unsigned fsize_kib;       /* RLIMIT_FSIZE */
	unsigned disk_kib;        /* size of the job's own file system */
	unsigned nofile, nproc;   /* RLIMIT_NOFILE, RLIMIT_NPROC */
	unsigned capture;         /* bytes kept of each output stream */
	char *argv[JOB_ARGS + 1]; /* paths as seen inside the jail; NULL at the end */
	unsigned argc;
	char stdin_path[256];     /* outside the jail; empty for /dev/null */
	char kill_at[64];         /* when the program has printed this on stdout it is killed, */
	unsigned kill_ms;         /* so much later; empty: never */
	char back[64];            /* one of the job's files: how it differs at the end is sent; empty: none */
	char text[JOB_TEXT];
	size_t used;
};

/* --- channel.c: records to the grader --- */

/* Opens the port in raw mode. Ends the test host when that fails: nobody could be told. */
void channel_open(void);
/* One record: 4 bytes of mark, 1 byte of type, 4 bytes of length (little-endian), the payload in up to two pieces. */
void channel_send(char type, const void *a, size_t alen, const void *b, size_t blen);
void channel_printf(char type, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Waits for one byte from the grader. */
char channel_receive(void);
/* Reports why the test host cannot work, and ends it. */
void fatal(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* --- mailbox.c: the job of a machine that was saved before it had one --- */

/* True when the machine is to be saved: its job comes later. */
bool mailbox_expected(void);
/* Says that the machine can be saved, waits for the job, unpacks it and sets the clock. */
void mailbox_take(void);

/* --- witness.c: what the kernel saw of KVM --- */

/* Attaches histograms to KVM's tracepoints. 0, or a negative errno when this kernel cannot. */
int witness_open(void);
/* Sends the totals since the last reset as a 'W' record. Called when no job runs. */
void witness_send(void);

/* --- job.c --- */

/* Runs one job to its end, sends its output and its result, and leaves nothing of it behind. */
void job_run(const struct job *job);

/* --- runner.c --- */
uint64_t now_ms(void);

#endif
