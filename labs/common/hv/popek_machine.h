/*
 * `hv popek --machine FILE`: Popek and Goldberg's theorems for a machine that a text file describes, as in an exam.
 *
 *	# a comment
 *	machine A machine with a name
 *	state relocation interrupts
 *	ADD: supervisor nothing; user nothing
 *	LRB: supervisor writes relocation; user traps
 *	RDI: supervisor reads interrupts; user reads interrupts
 *
 * `state` names what belongs to the supervisor; `mode` is always there. An instruction `traps`, does `nothing` that concerns the state
 * (whatever it does otherwise), or `reads` and `writes` parts of it, with commas between. Reading means that the result depends on it.
 */
#ifndef HV_POPEK_MACHINE_H
#define HV_POPEK_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MADE_UP_NAME 32 /* with the terminating 0 */
#define MADE_UP_STATES 16
#define MADE_UP_INSNS 64
#define MADE_UP_MODE 0 /* index of the state that every machine has */

/* What an instruction does at one level; bits are numbers of states. */
struct made_up_action {
	bool traps;
	uint32_t reads, writes;
};

struct made_up_insn {
	char name[MADE_UP_NAME];
	struct made_up_action supervisor, user;
};

struct made_up_machine {
	char name[80];
	char state[MADE_UP_STATES][MADE_UP_NAME];
	unsigned states;
	struct made_up_insn insn[MADE_UP_INSNS];
	unsigned insns;
};

/* Reads a description. 0, or -EINVAL with one sentence in err that begins with the number of the line. */
int made_up_parse(const char *text, size_t len, struct made_up_machine *m, char *err, size_t errlen);

/* Popek and Goldberg's definitions. (CACM 17, 7, 1974, section 3) */
bool made_up_privileged(const struct made_up_insn *i);        /* traps in user mode, and not in supervisor mode */
bool made_up_control_sensitive(const struct made_up_insn *i); /* changes state without a trap */
bool made_up_location_sensitive(const struct made_up_insn *i);/* its result depends on state other than the mode */
bool made_up_mode_sensitive(const struct made_up_insn *i);    /* its result depends on the mode */
bool made_up_sensitive(const struct made_up_insn *i);
bool made_up_user_sensitive(const struct made_up_insn *i);    /* control- or location-sensitive in user mode */

/* Theorem 1: a monitor can be built when all sensitive instructions are privileged. Theorem 3: a hybrid monitor, which interprets all
 * that runs in the virtual supervisor mode, when all user-sensitive ones are. */
bool made_up_virtualizable(const struct made_up_machine *m);
bool made_up_hybrid(const struct made_up_machine *m);

/* The classification as a table, and what the theorems say. */
void made_up_show(const struct made_up_machine *m, FILE *out);

/* All of it for a file: an exit status of hv. */
int popek_machine_main(const char *path);

#endif
