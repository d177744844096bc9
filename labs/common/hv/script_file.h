/*
 * Scripts of hv's commands that let a lab's code work without a virtual machine (hv nested, hv stream): where they come from, line by line.
 */
#ifndef HV_SCRIPT_FILE_H
#define HV_SCRIPT_FILE_H

#include "vm.h"

#include <stdio.h>

#define SCRIPT_LINE_MAX 1024

struct script_reader {
	const char *command; /* "nested", for sentences */
	const char *memory;  /* what -ENOMEM is about: "the tables" */
	unsigned line_max;   /* bytes of a line with its end and a zero, SCRIPT_LINE_MAX at most */
	struct vm *vm;	     /* that a line may stop */
	/* Carries one line out: 0; -EINVAL with a sentence in problem; -ENOMEM; -ECANCELED with the VM stopped. Counts *number. */
	int (*line)(void *script, char *line);
	void *script;
	unsigned *number;
	char *problem;
	size_t problem_size;
};

/* What `hv COMMAND [FILE]` reads: FILE, or standard input without it or with "-". NULL after a sentence. *name is for sentences. */
FILE *script_open(int argc, char **argv, const char *command, const char **name);
/* Closes it, and sees that all answers have been written: status, or HV_HOST after a sentence. */
int script_close(FILE *in, int status);
/* Reads until the end or until a line fails. HV_OK, HV_USAGE, HV_HOST, or what the VM was stopped with, after a sentence. */
int script_read(const struct script_reader *r, FILE *in, const char *name);

#endif
