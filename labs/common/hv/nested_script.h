/* What a script of `hv nested` works on, and one line of it. */
#ifndef HV_NESTED_SCRIPT_H
#define HV_NESTED_SCRIPT_H

#include "lab3.h"
#include "nested_raw.h"

#include <stdio.h>

#define SCRIPT_MEM (16 * MiB) /* of the guest, for the tables of twodim */
#define SCRIPT_TABLES_MAX 512
#define SCRIPT_WORDS 8 /* in a line, at most */

struct script {
	struct vm *vm; /* of which only memory and vCPU serve */
	struct nested nested;
	struct nested_raw raw;
	struct dirty_log log;
	bool *kept;    /* by gfn of the log: may not be written whether there is a log or not */
	uint8_t *pool; /* SCRIPT_TABLES_MAX pages */
	unsigned line;
	char problem[256]; /* -EINVAL: what is wrong with the line */
};

/* 0 or -ENOMEM. Begins with the tables that the line "new ept 2m,1g,ad,x 40 64" makes. */
int script_create(struct script *s, struct vm *vm);
void script_destroy(struct script *s);

/* Carries one line out and prints its answer. 0; -EINVAL with s->problem; -ENOMEM; -ECANCELED with the VM stopped. The line is changed. */
int script_line(struct script *s, char *line);
/* The list of operations, for the help. */
void script_help(FILE *out);

#endif
