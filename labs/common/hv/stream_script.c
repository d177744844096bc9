/*
 * The operations of `hv stream`. Each is one call of the lab's code; what comes back is printed, and nothing is judged here.
 */
#define _GNU_SOURCE /* strerrorname_np */
#include "stream_script.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define PIECES_MAX 7

/* --- answers ------------------------------------------------------------------------------------------------------------------ */

static int problem(struct stream_script *s, const char *what)
{
	snprintf(s->problem, sizeof s->problem, "%s", what);
	return -EINVAL;
}

/* Begins an answer: the operation's name, and its status as a word; a refusal with its sentence. -ECANCELED: there is nothing to print. */
static int answer(struct stream_script *s, const char *name, int status)
{
	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: %s ", s->line, name);
	if (status < 0)
		printf("-%s : %s\n", status == -ENOTSUP ? "ENOTSUP" : strerrorname_np(-status), s->m.stream.err);
	else
		puts("0");
	s->m.stream.err[0] = 0;
	return 0;
}

/* --- memory ------------------------------------------------------------------------------------------------------------------- */

static uint64_t random64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void fill_from_seed(void *at, uint64_t bytes, uint64_t seed)
{
	for (uint8_t *p = at; bytes; bytes -= bytes < 8 ? bytes : 8, p += 8) {
		uint64_t word = random64(&seed);

		memcpy(p, &word, bytes < 8 ? bytes : 8);
	}
}

static uint8_t *pages_at(struct stream_script *s, uint64_t gfn, uint64_t count)
{
	uint64_t all = s->vm->mem.size / PAGE;

	if (gfn < all && count && count <= all - gfn)
		return s->vm->mem.hva + gfn * PAGE;
	problem(s, "the guest does not have these pages");
	return NULL;
}

static int op_fill(struct stream_script *s, const uint64_t *a)
{
	uint8_t *p = pages_at(s, a[0], a[1]);

	if (!p)
		return -EINVAL;
	fill_from_seed(p, a[1] * PAGE, a[2]);
	return answer(s, "fill", 0);
}

/* What gets smaller when it is packed: the same 64 bytes again and again. */
static int op_text(struct stream_script *s, const uint64_t *a)
{
	uint8_t *p = pages_at(s, a[0], a[1]);

	if (!p)
		return -EINVAL;
	for (uint64_t at = 0; at < a[1] * PAGE; at += 64)
		fill_from_seed(p + at, 64, a[2]);
	return answer(s, "text", 0);
}

static int op_poke(struct stream_script *s, const uint64_t *a)
{
	uint8_t *p = pages_at(s, a[0], 1);

	if (!p || a[1] >= PAGE)
		return p ? problem(s, "a page has 4096 bytes") : -EINVAL;
	p[a[1]] = (uint8_t)a[2];
	return answer(s, "poke", 0);
}

static int op_zero(struct stream_script *s, const uint64_t *a)
{
	uint8_t *p = pages_at(s, a[0], a[1]);

	if (!p)
		return -EINVAL;
	memset(p, 0, a[1] * PAGE);
	return answer(s, "zero", 0);
}

static int op_sums(struct stream_script *s, const uint64_t *a)
{
	static const uint8_t zeros[PAGE];
	uint8_t *p = pages_at(s, a[0], a[1]);

	if (!p)
		return -EINVAL;
	for (uint64_t i = 0; i < a[1]; i++, p += PAGE)
		if (memcmp(p, zeros, PAGE))
			printf("  page %llu %x\n", (unsigned long long)(a[0] + i), crc32c(0, p, PAGE));
	return answer(s, "sums", 0);
}

/* A vCPU that writes: one word in the middle of each page, zero and not zero. */
static void *write_on(void *opaque)
{
	struct restless *r = opaque;

	for (uint64_t value = 0; r->on; value = value ? 0 : UINT64_MAX)
		for (uint64_t i = 0; i < r->count; i++)
			*(volatile uint64_t *)(r->first + i * PAGE + PAGE / 2) = value;
	return NULL;
}

static int op_calm(struct stream_script *s, const uint64_t *a)
{
	(void)a;
	if (s->restless.on) {
		s->restless.on = false;
		pthread_join(s->restless.thread, NULL);
	}
	return answer(s, "calm", 0);
}

static int op_restless(struct stream_script *s, const uint64_t *a)
{
	uint8_t *p = pages_at(s, a[0], a[1]);

	if (!p || s->restless.on)
		return p ? problem(s, "restless twice") : -EINVAL;
	s->restless = (struct restless){ .on = true, .first = p, .count = a[1] };
	if (pthread_create(&s->restless.thread, NULL, write_on, &s->restless)) {
		s->restless.on = false;
		return problem(s, "there is no thread to be had");
	}
	return answer(s, "restless", 0);
}

/* --- streams ------------------------------------------------------------------------------------------------------------------ */

static int op_close(struct stream_script *s, const uint64_t *a)
{
	(void)a;
	s->section.payload = NULL;
	wire_close(&s->m.stream.wire);
	return answer(s, "close", 0);
}

static int open_wire(struct stream_script *s, const char *name, const uint64_t *a, int flags)
{
	wire_close(&s->m.stream.wire);
	s->section.payload = NULL;
	s->m.stream.wire = (struct wire){ .fd = open((const char *)(uintptr_t)a[0], flags | O_CLOEXEC, 0666) };
	if (s->m.stream.wire.fd < 0)
		return problem(s, strerror(errno));
	return answer(s, name, 0);
}

static int op_out(struct stream_script *s, const uint64_t *a)
{
	s->m.stream.align = a[1];
	s->m.stream.zstd = (int)a[2];
	return open_wire(s, "out", a, O_WRONLY | O_CREAT | O_TRUNC);
}

static int op_in(struct stream_script *s, const uint64_t *a)
{
	return open_wire(s, "in", a, O_RDONLY);
}

static int op_begin(struct stream_script *s, const uint64_t *a)
{
	return answer(s, "begin", stream_begin(&s->m.stream, a[0], (uint32_t)a[1]));
}

static int op_section(struct stream_script *s, const uint64_t *a)
{
	struct iovec piece[PIECES_MAX];
	uint64_t length = a[2], pieces = a[4], at = 0;

	if (pieces > PIECES_MAX || length > UINT32_MAX || (!pieces && length))
		return problem(s, "a payload has from 1 to 7 pieces, and less than 4 GiB");
	uint8_t *payload = malloc(length + 8);
	if (!payload)
		return problem(s, "there is no memory for that payload");
	fill_from_seed(payload, length, a[3]);
	for (unsigned i = 0; i < pieces; i++) { /* the first half, half of the rest, ...; the last one is what is left */
		uint64_t n = i + 1 == pieces ? length - at : (length - at) / 2;

		piece[i] = (struct iovec){ payload + at, n };
		at += n;
	}
	int status = section_write(&s->m.stream, (uint16_t)a[0], (uint32_t)a[1], piece, (unsigned)pieces);
	free(payload);
	return answer(s, "section", status);
}

static int op_pages(struct stream_script *s, const uint64_t *a)
{
	return pages_at(s, a[0], a[1]) ? answer(s, "pages", pages_write(&s->m.stream, &s->vm->mem, a[0], a[1])) : -EINVAL;
}

static int op_expect(struct stream_script *s, const uint64_t *a)
{
	(void)a;
	int status = stream_expect(&s->m.stream);
	if (!status && !s->vm->stopping)
		printf("  header version %u flags %u id 0x%llx\n", s->m.stream.header.version, s->m.stream.header.flags,
		       (unsigned long long)s->m.stream.header.id);
	return answer(s, "expect", status);
}

static int op_read(struct stream_script *s, const uint64_t *a)
{
	(void)a;
	int status = section_read(&s->m.stream, &s->section);
	const struct section_header *h = &s->section.header;

	if (!status && !s->vm->stopping)
		printf("  section type %u instance %u length %u sequence %u payload %x\n", h->type, h->instance, h->length,
		       h->sequence, crc32c(0, s->section.payload, h->length));
	else
		s->section.payload = NULL;
	return answer(s, "read", status);
}

static int put_page(void *opaque, uint64_t gfn, const void *page)
{
	struct stream_script *s = opaque;
	uint8_t *p = pages_at(s, gfn, 1);

	printf("  page %llu %s\n", (unsigned long long)gfn, page ? "data" : "zero");
	if (p && page)
		memcpy(p, page, PAGE);
	else if (p)
		memset(p, 0, PAGE);
	return p ? 0 : stream_fail(&s->m.stream, EPROTO, "a page that there is not was given to the sink");
}

static int op_take(struct stream_script *s, const uint64_t *a)
{
	if (!s->section.payload)
		return problem(s, "no section was read");
	return answer(s, "take", pages_read(&s->m.stream, &s->section, a[0], put_page, s));
}

/* --- pre-copy ------------------------------------------------------------------------------------------------------------------- */

static int op_write(struct stream_script *s, const uint64_t *a)
{
	if (!pages_at(s, a[1], a[2]))
		return -EINVAL;
	if (s->made_up.writes == PLANNED_WRITES)
		return problem(s, "there is no room for more writes");
	s->made_up.write[s->made_up.writes++] = (struct planned_write){ a[0], a[1], a[2], a[3] };
	return 0;
}

static int op_precopy(struct stream_script *s, const uint64_t *a)
{
	struct migration *m = &s->m;

	m->bandwidth = a[0];
	m->downtime = a[1];
	m->postcopy = a[2];
	int status = made_up_precopy(&s->made_up, m);
	s->made_up.writes = 0;
	return answer(s, "precopy", status);
}

/* --- rules -------------------------------------------------------------------------------------------------------------------- */

static int op_next(struct stream_script *s, const uint64_t *a)
{
	static const char *const choices[] = { "round", "throttle", "stop", "give-up" };
	struct precopy_facts f = { .sent = a[0],
				   .dirty = a[1],
				   .bandwidth = a[2],
				   .downtime = a[3],
				   .elapsed = a[4],
				   .timeout = a[5],
				   .slow_rounds = (unsigned)a[6],
				   .throttle = (unsigned)a[7] };
	unsigned throttle = f.throttle, choice = precopy_next(&f, &throttle);

	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: next %s %u\n", s->line, choice < 4 ? choices[choice] : "?", throttle);
	return 0;
}

static int op_fate(struct stream_script *s, const uint64_t *a)
{
	static const char *const fates[] = { "run", "end", "ask", "commit", "wait", "stand" };
	unsigned fate = commit_fate((enum commit_stage)a[0], (enum commit_news)a[1]);

	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: fate %s\n", s->line, fate < 6 ? fates[fate] : "?");
	return 0;
}

static int op_gap(struct stream_script *s, const uint64_t *a)
{
	uint64_t gap = clock_gap(a[0], a[1], a[2]);

	if (s->vm->stopping)
		return -ECANCELED;
	printf("%u: gap %llu\n", s->line, (unsigned long long)gap);
	return 0;
}

static int cpuid_entry(struct stream_script *s, struct cpuid_table *t, const uint64_t *a)
{
	if (t->n == CPUID_TABLE_MAX)
		return problem(s, "there is no room for more leaves");
	t->entry[t->n++] = (struct kvm_cpuid_entry2){ .function = (uint32_t)a[0],
						      .index = (uint32_t)a[1],
						      .eax = (uint32_t)a[2],
						      .ebx = (uint32_t)a[3],
						      .ecx = (uint32_t)a[4],
						      .edx = (uint32_t)a[5] };
	return 0;
}

static int op_have(struct stream_script *s, const uint64_t *a)
{
	return cpuid_entry(s, &s->have, a);
}

static int op_seen(struct stream_script *s, const uint64_t *a)
{
	return cpuid_entry(s, &s->seen, a);
}

/* Of these two tables; the next ones begin empty. */
static int op_covers(struct stream_script *s, const uint64_t *a)
{
	(void)a;
	int status = cpuid_covers(&s->have, &s->seen, s->m.stream.err, sizeof s->m.stream.err);

	s->have.n = s->seen.n = 0;
	return answer(s, "covers", status);
}

/* --- a line ------------------------------------------------------------------------------------------------------------------- */

/* FILE is a path, the others are numbers. */
static const struct op {
	const char *name, *operands;
	int (*run)(struct stream_script *s, const uint64_t *a);
	const char *what;
} ops[] = {
	{ "fill", "GFN COUNT SEED", op_fill, "memory: these pages get bytes from a seed" },
	{ "text", "GFN COUNT SEED", op_text, "or 64 bytes from a seed, again and again" },
	{ "zero", "GFN COUNT", op_zero, "or zeros" },
	{ "poke", "GFN OFFSET BYTE", op_poke, "one byte of a page" },
	{ "sums", "GFN COUNT", op_sums, "\"page GFN CRC-32C\" for each page that is not all zero" },
	{ "restless", "GFN COUNT", op_restless, "somebody writes to these pages all the time" },
	{ "calm", "", op_calm, "and has stopped" },
	{ "out", "FILE ALIGN ZSTD", op_out,
	  "what follows writes to that file; ALIGN: raw pages at multiples of 4096; ZSTD: its level, 0 none" },
	{ "begin", "ID FLAGS", op_begin, "stream_begin()" },
	{ "section", "TYPE INSTANCE LENGTH SEED PIECES", op_section,
	  "section_write() of bytes from a seed, in so many pieces" },
	{ "pages", "GFN COUNT", op_pages, "pages_write()" },
	{ "close", "", op_close, "that was the file" },
	{ "in", "FILE", op_in, "what follows reads from that file" },
	{ "expect", "", op_expect, "stream_expect()" },
	{ "read", "", op_read, "section_read(); payload: its CRC-32C" },
	{ "take", "PAGES", op_take, "pages_read() of the section that was read last, for a guest with so many pages" },
	{ "write", "FETCH GFN COUNT SEED", op_write,
	  "precopy: when the log is fetched for the FETCH-th time, these pages were written (no answer)" },
	{ "precopy", "BANDWIDTH DOWNTIME POSTCOPY", op_precopy, "precopy() of a machine that is made up: bytes/s, ns" },
	{ "next", "SENT DIRTY BANDWIDTH DOWNTIME ELAPSED TIMEOUT SLOW THROTTLE", op_next, "precopy_next()" },
	{ "fate", "STAGE NEWS", op_fate, "commit_fate(), of numbers of enum commit_stage and enum commit_news" },
	{ "gap", "LIVE STOPPED NOW", op_gap, "clock_gap()" },
	{ "have", "FUNCTION INDEX EAX EBX ECX EDX", op_have, "an entry of what a machine offers (no answer)" },
	{ "seen", "FUNCTION INDEX EAX EBX ECX EDX", op_seen, "an entry of what a guest has seen (no answer)" },
	{ "covers", "", op_covers, "cpuid_covers() of these; then both are empty again" },
};

void stream_script_help(FILE *out)
{
	for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++)
		fprintf(out, "  %s%s%-*s  %s\n", ops[i].name, *ops[i].operands ? " " : "",
			(int)(44 - strlen(ops[i].name) - !!*ops[i].operands), ops[i].operands, ops[i].what);
}

int stream_script_create(struct stream_script *s, struct vm *vm)
{
	*s = (struct stream_script){ .vm = vm };
	int err = stream_init(&s->m.stream);
	s->m.vm = s->m.stream.vm = vm;
	s->m.listening = -1;
	pthread_mutex_init(&s->m.send_lock, NULL);
	return err;
}

void stream_script_destroy(struct stream_script *s)
{
	s->restless.on ? (void)op_calm(s, NULL) : (void)0;
	stream_free(&s->m.stream);
	free(s->m.owed);
}

static int operand(struct stream_script *s, const char *name, size_t length, const char *word, uint64_t *value)
{
	char *end;

	if (length == 4 && !strncmp(name, "FILE", 4)) {
		*value = (uintptr_t)word;
		return 0;
	}
	errno = 0;
	*value = strtoull(word, &end, word[0] == '0' && word[1] == 'x' ? 16 : 10);
	if (*word >= '0' && *word <= '9' && !*end && !errno)
		return 0;
	snprintf(s->problem, sizeof s->problem, "%.*s is a number such as 4096 or 0x1000, not \"%s\"", (int)length, name,
		 word);
	return -EINVAL;
}

int stream_script_line(struct stream_script *s, char *line)
{
	uint64_t value[STREAM_SCRIPT_WORDS] = { 0 };
	char *rest, *word;
	unsigned i;

	s->line++;
	line[strcspn(line, "#\n")] = 0;
	word = strtok_r(line, " \t", &rest);
	if (!word)
		return 0;
	const struct op *op = ops, *end = ops + sizeof ops / sizeof *ops;
	while (op < end && strcmp(op->name, word))
		op++;
	if (op == end) {
		snprintf(s->problem, sizeof s->problem, "there is no operation \"%s\"", word);
		return -EINVAL;
	}
	const char *name = op->operands;
	for (i = 0; *name; i++) {
		size_t length = strcspn(name, " ");
		word = strtok_r(NULL, " \t", &rest);
		if (!word || operand(s, name, length, word, &value[i]))
			return word ? -EINVAL : problem(s, "an operand is missing");
		name += length + strspn(name + length, " ");
	}
	if (strtok_r(NULL, " \t", &rest))
		return problem(s, "there is an operand too much");
	return op->run(s, value);
}
