/* The commands of the control socket. */
#include "control.h"
#include "engine.h"
#include "job.h"
#include "json.h"
#include "vm.h"
#include "vm_pause.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void refuse(FILE *out, const char *sentence)
{
	fputs("{\"error\":", out);
	json_string(out, sentence);
	fputs("}\n", out);
}

static const char *state(const struct vm *vm)
{
	if (vm->job && vm->job->state == JOB_STANDING)
		return "standing";
	return vm->stopping ? "ending" : vm->paused ? "paused" : "running";
}

static void answer_state(const struct vm *vm, FILE *out)
{
	fprintf(out, "{\"state\":\"%s\"}\n", state(vm));
}

static void do_status(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	fprintf(out, "{\"state\":\"%s\",\"pid\":%ld,\"engine\":\"%s\",\"cpus\":%u,\"memory_kib\":%llu,\"image\":", state(vm),
		(long)getpid(), vm->engine->name, vm->opt.cpus, (unsigned long long)(vm->mem.size / KiB));
	json_string(out, vm->opt.image ? vm->opt.image : vm->opt.restore ? vm->opt.restore : vm->opt.incoming);
	fputs("}\n", out);
}

static void do_pause(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	int err = vm->paused ? 0 : vm_pause(vm);
	if (err && !vm->stopping) {
		refuse(out, "the VM goes on: a processor does not come back from its last exit");
		return;
	}
	vm->paused = !err;
	answer_state(vm, out);
}

static void do_resume(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	job_release(vm);
	if (vm->paused)
		vm_resume(vm);
	vm->paused = false;
	answer_state(vm, out);
}

static void do_balloon(struct vm *vm, const char *argument, FILE *out)
{
	char *end;
	uint64_t most = vm->mem.size / MiB;

	errno = 0;
	unsigned long long n = strtoull(argument, &end, 10);
	if (*argument < '0' || *argument > '9' || *end || errno || n > most) {
		refuse(out, "balloon takes a number of MiB, not more than the VM has");
		return;
	}
	if (!vm->balloon_set) {
		refuse(out, "this VM has no balloon; start it with --balloon");
		return;
	}
	vm->balloon_set(vm, n);
	fprintf(out, "{\"balloon_mib\":%llu}\n", n);
}

static void do_stats(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	trace_json(vm, out);
}

static void do_screen(struct vm *vm, const char *argument, FILE *out)
{
	struct screen screen;
	(void)argument;

	screen_read(&vm->crtc, &vm->mem, &screen);
	fprintf(out, "{\"cursor\":%s,\"row\":%u,\"column\":%u,\"lines\":[", screen.cursor ? "true" : "false", screen.row,
		screen.column);
	for (unsigned row = 0; row < SCREEN_ROWS; row++) {
		fputs(row ? "," : "", out);
		json_string(out, screen.line[row]);
	}
	fputs("]}\n", out);
}

static void do_key(struct vm *vm, const char *argument, FILE *out)
{
	int err = i8042_type(&vm->i8042, argument);

	if (err == -EINVAL)
		refuse(out, "there is a character in it that no key has");
	else if (err == -ENOSPC)
		refuse(out, "the guest has not read yet what was typed before");
	else if (err)
		refuse(out, "the guest has switched the keyboard off");
	else
		fputs("{\"typed\":true}\n", out);
}

static void do_quit(struct vm *vm, const char *argument, FILE *out)
{
	(void)argument;
	vm_stop(vm, HV_OK, "ended by hv ctl quit");
	answer_state(vm, out);
}

const struct control_command control_commands[] = {
	{ "status", NULL, "state, process, engine, processors, memory, image", do_status },
	{ "pause", NULL, "the guest stands still from when this is answered", do_pause },
	{ "resume", NULL, "it goes on", do_resume },
	{ "balloon", "MIB", "asks the guest to give up that much of its memory", do_balloon },
	{ "stats", NULL, "what --stats json prints at the end, as it is now", do_stats },
	{ "screen", NULL, "the text screen, 25 lines of 80 columns, and where the cursor is", do_screen },
	{ "key", "TEXT", "types it on the keyboard; \\n is Enter, \\t Tab, \\b Backspace, \\e Escape", do_key },
	{ "save", "FILE", "the VM into a file, and on; --quit: it ends there; --compress LEVEL", job_save },
	{ "migrate", "URI", "to the hv that waits there: --downtime MS, --bandwidth RATE, --timeout S, --mode postcopy, ...", job_migrate },
	{ "job", NULL, "how far the saving or moving is, and how the last one ended", job_status },
	{ "migrate-step", NULL, "lets the next round of a migration with --step begin", job_step },
	{ "migrate-cancel", NULL, "the VM stays here", job_cancel },
	{ "migrate-resume", "URI", "post-copy whose connection broke: goes on over a new one", job_again },
	{ "quit", NULL, "ends the VM", do_quit },
	{ 0 },
};

const struct control_command *control_parse(const char *line, const char **argument, char *err, size_t errlen)
{
	size_t n = strcspn(line, " ");

	*argument = line[n] ? line + n + 1 : line + n;
	for (const struct control_command *c = control_commands; c->name; c++) {
		if (strlen(c->name) != n || strncmp(c->name, line, n))
			continue;
		if (c->argument && !**argument)
			snprintf(err, errlen, "%s needs a value, %s", c->name, c->argument);
		else if (!c->argument && line[n])
			snprintf(err, errlen, "%s takes no value", c->name);
		else
			return c;
		return NULL;
	}
	snprintf(err, errlen, "there is no command \"%.*s\"", (int)(n < 40 ? n : 40), line);
	return NULL;
}

void control_answer(struct vm *vm, const char *line, FILE *out)
{
	const char *argument;
	char err[100];
	const struct control_command *command = control_parse(line, &argument, err, sizeof err);

	if (command)
		command->answer(vm, argument, out);
	else
		refuse(out, err);
}
