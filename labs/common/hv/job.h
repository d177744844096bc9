/*
 * A VM that is being saved or moved away: one job at a time, on a thread of its own, begun and watched through the control socket.
 *
 *   job.c       the commands, what they answer, the thread
 *   outgoing.c  what the thread does
 *   rounds.c    migration_...()
 */
#ifndef HV_JOB_H
#define HV_JOB_H

#include "migration.h"

#include <pthread.h>
#include <stdio.h>

enum job_state {
	JOB_RUNNING,
	JOB_DONE,
	JOB_FAILED,  /* the VM goes on here; the reason says what happened */
	JOB_STANDING /* nobody knows who has the VM: it stands still until the user says resume or quit */
};

struct job {
	struct vm *vm;
	struct migration m;
	enum job_state state;
	pthread_t thread;
	bool joinable;
	bool quit;     /* saving: the VM ends behind it */
	bool detached; /* nobody waits for the last answer */
	bool seen;     /* somebody has got it */
	char uri[512]; /* or the file */
};

/* What `save` and `migrate` do, on the job's thread. They end with job_end(). */
void save_to_file(struct job *job);
void migrate_away(struct job *job);
/* How it ended, with a sentence for m->reason. Waits a little, without the lock, until who asked has heard it if the VM is gone then. */
void job_end(struct job *job, enum job_state state, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The commands of the control socket. */
void job_save(struct vm *vm, const char *argument, FILE *out);
void job_migrate(struct vm *vm, const char *argument, FILE *out);
void job_status(struct vm *vm, const char *argument, FILE *out);
void job_step(struct vm *vm, const char *argument, FILE *out);
void job_cancel(struct vm *vm, const char *argument, FILE *out);
void job_again(struct vm *vm, const char *argument, FILE *out);
/* The VM of a job that stands goes on here: the user takes the blame. false: there is no such job. With the lock held. */
bool job_release(struct vm *vm);
/* The VM ends: the job's thread is told and waited for. Without the lock. */
void job_destroy(struct vm *vm);

#endif
