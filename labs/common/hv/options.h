/*
 * The options of hv run. options.c knows which there are and which of them go together, option_values.c what stands behind them.
 * All functions that return an int: 0, or -EINVAL after one sentence on stderr.
 */
#ifndef HV_OPTIONS_H
#define HV_OPTIONS_H

#include "vm.h"

#include <stdio.h>

/* What hv --help says. */
void hv_usage(FILE *out);

/* One sentence for wrong usage, fmt with one %s for `what`. -EINVAL. */
int bad_usage(const char *fmt, const char *what);

struct config;
/* The devices of a VM in a file, where the command line named none. What is in config must live as long as o. */
int options_devices(struct vm_options *o, const struct config *config);
/* Reads all options; argv[0] is the command. Ends the program for --help. */
int options_parse(int argc, char **argv, struct vm_options *o);

int parse_size(const char *s, uint64_t *size);
int parse_cpus(const char *s, unsigned *cpus);
int parse_timeout(const char *s, double *seconds);
int parse_port(const char *s, int *port);
int parse_steps(const char *s, uint64_t *steps);
/* fmt: the sentence for something that is neither on nor off. */
int parse_switch(const char *fmt, const char *s, bool *on);
int parse_shadow(const char *s, int *mode);
int parse_pages(const char *s, unsigned *pages);
int parse_dump(const char *s, struct vm_options *o);
int parse_page_size(const char *s, unsigned *level);
int parse_rings(const char *s, uint64_t *rings);

#endif
