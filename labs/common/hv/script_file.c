#include "script_file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static FILE *open_file(const char *path)
{
	FILE *f = fopen(path, "r");
	struct stat st;

	if (!f) {
		fprintf(stderr, "hv: %s: %s\n", path, strerror(errno));
	} else if (fstat(fileno(f), &st) || S_ISDIR(st.st_mode)) {
		fprintf(stderr, "hv: %s is a directory\n", path);
		fclose(f);
		f = NULL;
	}
	return f;
}

FILE *script_open(int argc, char **argv, const char *command, const char **name)
{
	*name = "standard input";
	if (argc > 1 && argv[1][0] == '-' && argv[1][1]) {
		fprintf(stderr, "hv: there is no option %s; see hv %s --help\n", argv[1], command);
		return NULL;
	}
	if (argc > 2) {
		fprintf(stderr, "hv: one script is enough: what is \"%s\"; see hv %s --help\n", argv[2], command);
		return NULL;
	}
	if (argc < 2 || !strcmp(argv[1], "-"))
		return stdin;
	*name = argv[1];
	return open_file(argv[1]);
}

int script_close(FILE *in, int status)
{
	if (in != stdin)
		fclose(in);
	if (!status && (fflush(stdout) || ferror(stdout))) {
		fprintf(stderr, "hv: cannot write to stdout: %s\n", strerror(errno));
		return HV_HOST;
	}
	return status;
}

int script_read(const struct script_reader *r, FILE *in, const char *name)
{
	char line[SCRIPT_LINE_MAX];
	int err = 0;

	while (!err && fgets(line, (int)r->line_max, in)) {
		if (!strchr(line, '\n') && !feof(in)) {
			(*r->number)++;
			snprintf(r->problem, r->problem_size, "the line is longer than %u characters", r->line_max - 2);
			err = -EINVAL;
		} else {
			err = r->line(r->script, line);
		}
	}
	fflush(stdout);
	if (err == -EINVAL)
		fprintf(stderr, "hv: %s, line %u: %s; see hv %s --help\n", name, *r->number, r->problem, r->command);
	else if (err == -ENOMEM)
		fprintf(stderr, "hv: not enough memory for %s\n", r->memory);
	else if (r->vm->stopping)
		fprintf(stderr, "hv: %s, line %u: %s\n", name, *r->number, r->vm->reason);
	return err == -EINVAL ? HV_USAGE : err == -ENOMEM ? HV_HOST : r->vm->status;
}
