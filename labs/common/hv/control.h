/*
 * The control socket of a running VM (hv run --control or --name): a Unix socket on which a client sends a line, and gets a line of
 * JSON back, as often as it likes. control_answer.c has the commands, control_command.c is the client (hv ctl, hv list).
 *
 *   a command, and what belongs to it behind a blank      {"state":"running"}      or      {"error":"a sentence"}
 *
 * Everything runs on the event loop and nothing waits for a client: one that does not take its answers is not listened to
 * meanwhile. There are at most CONTROL_CLIENTS; when one more comes, the one that has been quiet for longest is sent away.
 */
#ifndef HV_CONTROL_H
#define HV_CONTROL_H

#include <stdbool.h>
#include <stdio.h>

struct vm;

#define CONTROL_CLIENTS 4
#define CONTROL_LINE 512 /* a longer line gets an error, and the connection is closed */

/*
 * Listens at vm->opt.control, or at the place of vm->opt.name (control_path.h); nothing to do when both are NULL. A socket that nobody
 * answers at any more is replaced. 0, or negative after vm_stop() said what is wrong: HV_HOST where another VM answers there, HV_USAGE
 * where the place cannot be used. Before loop_start().
 */
int control_start(struct vm *vm);
/* Sends all clients away and removes the socket. After loop_stop(), or when control_start() did nothing or failed. */
void control_stop(struct vm *vm);
/* Removes the socket only; for a program that is about to end without control_stop(). */
void control_remove(const struct vm *vm);

/* --- the commands (control_answer.c) --- */

struct control_command {
	const char *name, *argument; /* what the argument is called in the help, or NULL: it takes none */
	const char *what;	     /* the help */
	/* Writes the answer, one line with its end. Called with the VM's lock held, on the event loop. */
	void (*answer)(struct vm *vm, const char *argument, FILE *out);
};

/* All commands; the last one has no name. */
extern const struct control_command control_commands[];
/* The command that a line begins with, and its argument ("" if there is none). NULL with a sentence in err: there is no such command, an
 * argument is missing or too much. */
const struct control_command *control_parse(const char *line, const char **argument, char *err, size_t errlen);
/* Answers one line with one line. Called with the VM's lock held. */
void control_answer(struct vm *vm, const char *line, FILE *out);

#endif
