/*
 * The witness: independent evidence of what a student's program did with KVM. The kernel counts, in histograms on its
 * tracepoints, every write and read of a port by the virtual machine and every exit; a program can print what it likes,
 * it cannot move these numbers without running a guest (Documentation/trace/histogram.rst).
 */
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRACEFS "/tracing"
#define PIO TRACEFS "/events/kvm/kvm_pio/"
#define EXIT TRACEFS "/events/kvm/kvm_exit/"
/* The value that was written is part of the key: the trap stubs write AL as the guest left it. */
#define PIO_KEYS "hist:keys=rw,port,val"
#define PIO_SIZE 8192
#define EXIT_KEYS "hist:keys=exit_reason"
/* A full histogram drops events, so it is emptied while there is room for the busiest job. */
#define PIO_RESET (PIO_SIZE / 8)

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

int witness_open(void)
{
	char pio[96];
	int err;

	mkdir(TRACEFS, 0700);
	if (mount("tracefs", TRACEFS, "tracefs", 0, NULL) < 0)
		return -errno;
	snprintf(pio, sizeof pio, PIO_KEYS ":size=%d", PIO_SIZE);
	err = put(PIO "trigger", pio);
	return err ? err : put(EXIT "trigger", EXIT_KEYS);
}

/* Copies one histogram into the record, a line per entry. Returns the number of entries. */
static unsigned collect(const char *path, FILE *out)
{
	unsigned long long rw, port, val, reason, hits;
	FILE *in = fopen(path, "re");
	unsigned entries = 0;
	char line[256];

	while (in && fgets(line, sizeof line, in)) {
		if (sscanf(line, "{ rw: %llu, port: %llu, val: %llu } hitcount: %llu", &rw, &port, &val, &hits) == 4)
			fprintf(out, "pio %llu %llu %llu %llu\n", rw, port, val, hits);
		else if (sscanf(line, "{ exit_reason: %llu } hitcount: %llu", &reason, &hits) == 2)
			fprintf(out, "exit %llu %llu\n", reason, hits);
		else if (sscanf(line, " Dropped: %llu", &hits) == 1 && hits)
			fprintf(out, "dropped %llu\n", hits);
		else
			continue;
		entries++;
	}
	if (!in)
		fprintf(out, "lost %s\n", strerror(errno));
	else
		fclose(in);
	return entries;
}

void witness_send(void)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		fatal("no memory for the witness's record");
	if (collect(PIO "hist", out) > PIO_RESET) {
		put(PIO "trigger", PIO_KEYS ":clear");
		fprintf(out, "reset\n"); /* the next record counts from zero */
	}
	collect(EXIT "hist", out);
	fclose(out);
	channel_send('W', text, len, NULL, 0);
	free(text);
}
