#include "gva.h"
#include "options.h"
#include "spt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_MAX 1000000000ull

int parse_size(const char *s, uint64_t *size)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(s, &end, 10);
	uint64_t unit = *end == 'K' || *end == 'k'   ? KiB
			: *end == 'M' || *end == 'm' ? MiB
			: *end == 'G' || *end == 'g' ? GiB
						     : 0;

	if (end == s || *s == '-' || *s == '+' || (*end && (!unit || end[1])))
		return bad_usage("--mem takes a size such as 64M, not \"%s\"", s);
	if (!unit)
		unit = 1;
	if (errno || n > MEM_MAX / unit || n * unit < MEM_MIN || n * unit % (4 * KiB))
		return bad_usage("--mem takes from 2M to 3G in whole pages of 4K, not \"%s\"", s);
	*size = n * unit;
	return 0;
}

int parse_timeout(const char *s, double *seconds)
{
	char *end;
	*seconds = strtod(s, &end);
	if (end == s || *end || !isfinite(*seconds) || *seconds <= 0 || *seconds > 1e6)
		return bad_usage("--timeout takes a number of seconds above 0, not \"%s\"", s);
	return 0;
}

int parse_cpus(const char *s, unsigned *cpus)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (end == s || *end || n < 1 || n > VM_CPUS_MAX)
		return bad_usage("--cpus takes a number from 1 to 8, not \"%s\"", s);
	*cpus = (unsigned)n;
	return 0;
}

int parse_port(const char *s, int *port)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (end == s || *end || n < 1 || n > 65535)
		return bad_usage("--gdb takes a port number from 1 to 65535, not \"%s\"", s);
	*port = (int)n;
	return 0;
}

int parse_steps(const char *s, uint64_t *steps)
{
	char *end;
	errno = 0;
	*steps = strtoull(s, &end, 10);
	if (end == s || *end || *s == '-' || *s == '+' || errno || !*steps || *steps > SAMPLE_MAX)
		return bad_usage("--sample-steps takes a number of instructions from 1 to 1000000000, not \"%s\"", s);
	return 0;
}

int parse_switch(const char *fmt, const char *s, bool *on)
{
	*on = !strcmp(s, "on");
	return *on || !strcmp(s, "off") ? 0 : bad_usage(fmt, s);
}

int parse_shadow(const char *s, int *mode)
{
	static const char *const names[] = { [SHADOW_OFF] = "off", [SHADOW_VTLB] = "vtlb", [SHADOW_CACHED] = "cached" };

	for (*mode = 0; *mode < 3; ++*mode)
		if (!strcmp(s, names[*mode]))
			return 0;
	return bad_usage("--shadow takes off, vtlb or cached, not \"%s\"", s);
}

int parse_pages(const char *s, unsigned *pages)
{
	char *end;
	long n = strtol(s, &end, 10);
	if (end == s || *end || n < SHADOW_PAGES_MIN || n > SHADOW_PAGES_MAX)
		return bad_usage("--shadow-pages takes a number from 20 to 500, not \"%s\"", s);
	*pages = (unsigned)n;
	return 0;
}

int parse_dump(const char *s, struct vm_options *o)
{
	char *end;

	o->dump = strcmp(s, "all") ? DUMP_GVA : DUMP_ALL;
	if (o->dump == DUMP_ALL)
		return 0;
	errno = 0;
	o->dump_gva = strtoull(s, &end, s[0] == '0' && s[1] == 'x' ? 16 : 10);
	if (*s < '0' || *s > '9' || *end || errno)
		return bad_usage("--dump-tables takes an address such as 0x200000, or all, not \"%s\"", s);
	return canonical(o->dump_gva)
		       ? 0
		       : bad_usage("--dump-tables: %s is not canonical (bits 63 to 47 differ), no tables can map it", s);
}

int parse_page_size(const char *s, unsigned *level)
{
	static const char *const names[] = { "4K", "2M", "1G" };

	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(s, names[i])) {
			*level = i + 1;
			return 0;
		}
	return bad_usage("--page-size takes 4K, 2M or 1G, not \"%s\"", s);
}

int parse_rings(const char *s, uint64_t *rings)
{
	static const struct {
		const char *word;
		uint64_t clear, set;
	} words[] = {
		{ "split", F_RING_PACKED, 0 },
		{ "packed", 0, F_RING_PACKED },
		{ "indirect=on", 0, F_RING_INDIRECT_DESC },
		{ "indirect=off", F_RING_INDIRECT_DESC, 0 },
		{ "event-idx=on", 0, F_RING_EVENT_IDX },
		{ "event-idx=off", F_RING_EVENT_IDX, 0 },
	};

	for (const char *p = s;; p++) {
		size_t len = strcspn(p, ",");
		unsigned i = 0;

		while (i < sizeof words / sizeof *words && (strlen(words[i].word) != len || strncmp(p, words[i].word, len)))
			i++;
		if (i == sizeof words / sizeof *words)
			return bad_usage("--rings takes split, packed, indirect=on|off and event-idx=on|off, with commas "
					 "between, not \"%s\"",
					 s);
		*rings = (*rings & ~words[i].clear) | words[i].set;
		p += len;
		if (!*p)
			return 0;
	}
}
