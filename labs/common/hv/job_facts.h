/*
 * What the control command "job" answers, read back: how far saving or migrating is, or how it ended (docs/hv.md lists the members). For
 * hv ctl, which shows it while it goes on, and hv migrate-report, which draws it.
 */
#ifndef HV_JOB_FACTS_H
#define HV_JOB_FACTS_H

#include "migration.h"

#include <stdbool.h>
#include <stddef.h>

enum job_state {
	JOB_RUNNING,
	JOB_DONE,
	JOB_FAILED,  /* the VM is where it was */
	JOB_STANDING /* it cannot go on by itself: post-copy whose connection broke, or nobody can know who has the VM */
};

/* The parts of the downtime, in the order in which they pass. */
enum job_part { JOB_FINAL_ROUND, JOB_STATE, JOB_SEND, JOB_COMMIT, JOB_PARTS };

struct job_facts {
	char job[16]; /* "save", "migrate" */
	enum job_state state;
	char reason[256];
	double dirty_rate, bandwidth; /* pages and bytes a second */
	double expected_ms;	      /* of downtime, if it stopped now */
	double part_ms[JOB_PARTS];
	unsigned rounds;
	struct job_round {
		double pages, zero; /* sent, and how many of these were of zeros */
		double bytes, ms;
		double dirty;	 /* pages that were written since it began */
		double throttle; /* percent of their time that vCPUs stood still */
	} round[ROUNDS_MAX];
};

/* 0, or -EINVAL with what is wrong as a sentence in err: no JSON, a member is missing or no number that could be true. */
int job_facts_read(struct job_facts *f, const char *json, char *err, size_t errlen);
/* Is it {"error":"sentence"}, as the control socket answers to what it does not do? The sentence is copied. */
bool job_refused(const char *json, char *sentence, size_t len);

#endif
