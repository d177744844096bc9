#include "gdbcommand.h"
#include "gdbregs.h"

#include "engine.h"
#include "vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define INT3 0xcc
/* Signal numbers of the protocol (GDB manual, E.3), not the host's. */
#define GDB_SIGINT 2
#define GDB_SIGTRAP 5
/* What fits in a reply as hexadecimal digits. */
#define BYTES_MAX (GDB_PACKET_MAX / 2)

void gdb_session_init(struct gdb_session *s, struct vm *vm)
{
	memset(s, 0, sizeof(*s));
	s->vm = vm;
}

/* --- replies ------------------------------------------------------------------------------------------------------------- */

static enum gdb_next reply(struct gdb_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static enum gdb_next reply(struct gdb_session *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(s->reply, sizeof(s->reply), fmt, ap);
	va_end(ap);
	s->reply_len = n < 0 ? 0 : (size_t)n;
	return GDB_STAY;
}

/* "E" and two digits: an errno, which debuggers print as a number. */
static enum gdb_next reply_error(struct gdb_session *s, int error)
{
	return reply(s, "E%02x", -error & 0xff);
}

static enum gdb_next reply_result(struct gdb_session *s, int r)
{
	return r ? reply_error(s, r) : reply(s, "OK");
}

/* An empty reply says: no such command. */
static enum gdb_next reply_unknown(struct gdb_session *s)
{
	s->reply_len = 0;
	return GDB_STAY;
}

void gdb_session_stop_reply(struct gdb_session *s)
{
	struct vcpu v;
	int signal = s->interrupted ? GDB_SIGINT : GDB_SIGTRAP;
	/* "swbreak" says that rip is at the breakpoint; without it the debugger would expect it one byte further. */
	bool at_breakpoint = s->swbreak && !s->interrupted && !s->single && !s->vm->engine->get_state(s->vm, &v) &&
			     gdb_session_has_breakpoint(s, v.rip);

	reply(s, "T%02x%sthread:1;", signal, at_breakpoint ? "swbreak:;" : "");
}

void gdb_session_exit_reply(struct gdb_session *s)
{
	unsigned code = s->vm->status == HV_GUEST_FAILED ? s->vm->guest_code : (unsigned)s->vm->status;

	reply(s, "W%02x", code & 0xff);
}

/* --- memory -------------------------------------------------------------------------------------------------------------- */

/*
 * Copies between guest memory, by gva, and buf (NULL: only looks whether it is there). Page by page, since neighbours in
 * virtual memory need not be neighbours in physical memory. Returns how many bytes could be reached.
 */
static size_t access_memory(struct vm *vm, uint64_t gva, uint8_t *buf, size_t len, bool write)
{
	size_t done = 0;

	while (done < len) {
		uint64_t at = gva + done, gpa;
		size_t n = PAGE - at % PAGE;
		if (n > len - done)
			n = len - done;
		uint8_t *p = vm->engine->translate(vm, at, &gpa) ? NULL : guest_range(&vm->mem, gpa, n);
		if (!p)
			break;
		if (buf && write) {
			memcpy(p, buf + done, n);
			guest_written(&vm->mem, gpa, n);
			if (vm->engine->memory_written)
				vm->engine->memory_written(vm, gpa, n);
		} else if (buf)
			memcpy(buf + done, p, n);
		done += n;
	}
	return done;
}

/* "ADDR,LENGTH" as in m, M, Z and z. */
static bool parse_pair(const char **p, uint64_t *first, uint64_t *second)
{
	if (!gdb_hex_number(p, first) || **p != ',')
		return false;
	++*p;
	return gdb_hex_number(p, second);
}

static enum gdb_next read_memory(struct gdb_session *s, const char *p)
{
	uint8_t bytes[BYTES_MAX];
	uint64_t gva, len;

	if (!parse_pair(&p, &gva, &len) || *p || !len)
		return reply_error(s, -EINVAL);
	/* Less than was asked for is a valid answer; the debugger asks again from there. */
	size_t n = access_memory(s->vm, gva, bytes, len < BYTES_MAX ? len : BYTES_MAX, false);
	if (!n)
		return reply_error(s, -EFAULT);
	s->reply_len = (size_t)(gdb_hex_encode(s->reply, bytes, n) - s->reply);
	return GDB_STAY;
}

static enum gdb_next write_memory(struct gdb_session *s, const char *p)
{
	uint8_t bytes[BYTES_MAX];
	uint64_t gva, len;

	if (!parse_pair(&p, &gva, &len) || len > BYTES_MAX || *p++ != ':' || !gdb_hex_decode(&p, bytes, len) || *p)
		return reply_error(s, -EINVAL);
	/* All or nothing. */
	if (access_memory(s->vm, gva, NULL, len, true) < len)
		return reply_error(s, -EFAULT);
	access_memory(s->vm, gva, bytes, len, true);
	return reply(s, "OK");
}

/* --- registers ----------------------------------------------------------------------------------------------------------- */

/* Appends one register; "xx" for each byte of one that hv does not keep. */
static void append_register(struct gdb_session *s, const struct vcpu *v, unsigned n)
{
	uint8_t bytes[GDB_REG_BYTES_MAX];
	size_t size = gdb_reg_size(n);

	if (gdb_reg_get(v, n, bytes))
		gdb_hex_encode(s->reply + s->reply_len, bytes, size);
	else
		memset(s->reply + s->reply_len, 'x', 2 * size);
	s->reply_len += 2 * size;
}

static enum gdb_next read_registers(struct gdb_session *s)
{
	struct vcpu v;
	int r = s->vm->engine->get_state(s->vm, &v);

	if (r)
		return reply_error(s, r);
	s->reply_len = 0;
	for (unsigned n = 0; n < gdb_reg_count(); n++)
		append_register(s, &v, n);
	return GDB_STAY;
}

static enum gdb_next read_register(struct gdb_session *s, const char *p)
{
	struct vcpu v;
	uint64_t n;

	if (!gdb_hex_number(&p, &n) || *p || n >= gdb_reg_count())
		return reply_error(s, -EINVAL);
	int r = s->vm->engine->get_state(s->vm, &v);
	if (r)
		return reply_error(s, r);
	s->reply_len = 0;
	append_register(s, &v, (unsigned)n);
	return GDB_STAY;
}

/* G carries all registers: those that hv does not keep are passed over, whatever the debugger has put there. */
static enum gdb_next write_registers(struct gdb_session *s, const char *p)
{
	struct vcpu v;
	int r = s->vm->engine->get_state(s->vm, &v);

	for (unsigned n = 0; !r && n < gdb_reg_count(); n++) {
		uint8_t bytes[GDB_REG_BYTES_MAX];
		size_t digits = 2 * gdb_reg_size(n);
		if (strlen(p) < digits) {
			r = -EINVAL;
		} else if (!gdb_reg_get(&v, n, bytes)) {
			p += digits;
		} else {
			r = gdb_hex_decode(&p, bytes, gdb_reg_size(n)) ? gdb_reg_set(&v, n, bytes) : -EINVAL;
		}
	}
	if (!r)
		r = *p ? -EINVAL : s->vm->engine->set_state(s->vm, &v);
	return reply_result(s, r);
}

static enum gdb_next write_register(struct gdb_session *s, const char *p)
{
	uint8_t bytes[GDB_REG_BYTES_MAX];
	struct vcpu v;
	uint64_t n;

	if (!gdb_hex_number(&p, &n) || n >= gdb_reg_count() || *p++ != '=')
		return reply_error(s, -EINVAL);
	if (!gdb_hex_decode(&p, bytes, gdb_reg_size((unsigned)n)) || *p)
		return reply_error(s, -EINVAL);
	int r = s->vm->engine->get_state(s->vm, &v);
	if (!r)
		r = gdb_reg_set(&v, (unsigned)n, bytes);
	if (!r)
		r = s->vm->engine->set_state(s->vm, &v);
	return reply_result(s, r);
}

/* --- breakpoints ----------------------------------------------------------------------------------------------------------- */

static struct gdb_breakpoint *find_breakpoint(struct gdb_session *s, uint64_t gva)
{
	for (unsigned i = 0; i < s->nbreakpoints; i++) {
		if (s->breakpoint[i].gva == gva)
			return &s->breakpoint[i];
	}
	return NULL;
}

bool gdb_session_has_breakpoint(const struct gdb_session *s, uint64_t gva)
{
	return find_breakpoint((struct gdb_session *)s, gva) != NULL;
}

/* Z0,ADDR,KIND sets and z0,ADDR,KIND takes away a software breakpoint; either may be asked for twice. */
static enum gdb_next change_breakpoint(struct gdb_session *s, const char *p, bool set)
{
	uint64_t gva, kind;

	if (p[0] != '0' || p[1] != ',')
		return reply_unknown(s); /* hardware breakpoints and watchpoints */
	p += 2;
	if (!parse_pair(&p, &gva, &kind) || kind != 1)
		return reply_error(s, -EINVAL);
	struct gdb_breakpoint *b = find_breakpoint(s, gva);
	if (!set && b)
		*b = s->breakpoint[--s->nbreakpoints];
	if (!set || b)
		return reply(s, "OK");
	/* Where nothing is mapped now no int3 can be put, and the debugger must not believe in one. */
	if (!access_memory(s->vm, gva, NULL, 1, true))
		return reply_error(s, -EFAULT);
	if (s->nbreakpoints == GDB_BREAKPOINTS)
		return reply_error(s, -ENOSPC);
	s->breakpoint[s->nbreakpoints++] = (struct gdb_breakpoint){ .gva = gva };
	return reply(s, "OK");
}

/* In reverse, because two gvas may lead to one byte; a byte that the guest has written meanwhile is the guest's. */
void gdb_session_stopped(struct gdb_session *s, bool interrupted)
{
	s->interrupted = interrupted;
	for (unsigned i = s->nbreakpoints; i-- > 0;) {
		struct gdb_breakpoint *b = &s->breakpoint[i];
		uint8_t *p = b->inserted ? guest_range(&s->vm->mem, b->gpa, 1) : NULL;
		if (p && *p == INT3) {
			*p = b->original;
			guest_written(&s->vm->mem, b->gpa, 1);
		}
		b->inserted = false;
	}
}

int gdb_session_resume(struct gdb_session *s)
{
	struct vcpu v;
	int r = s->vm->engine->get_state(s->vm, &v);

	for (unsigned i = 0; !r && i < s->nbreakpoints; i++) {
		struct gdb_breakpoint *b = &s->breakpoint[i];
		/* A step is to carry out the instruction under the breakpoint where it begins. */
		if (s->single && b->gva == v.rip)
			continue;
		uint8_t *p = s->vm->engine->translate(s->vm, b->gva, &b->gpa) ? NULL : guest_range(&s->vm->mem, b->gpa, 1);
		if (!p)
			continue; /* the guest has unmapped it; it may map it again */
		b->original = *p;
		b->inserted = true;
		*p = INT3;
		guest_written(&s->vm->mem, b->gpa, 1);
	}
	if (!r)
		r = s->vm->engine->set_debug(s->vm, s->single, s->nbreakpoints > 0);
	if (r)
		vm_stop(s->vm, HV_HOST, "the %s engine cannot go on under the debugger: %s", s->vm->engine->name,
			strerror(-r));
	return r;
}

/* --- going on -------------------------------------------------------------------------------------------------------------- */

/* c[ADDR], s[ADDR], and C and S with a signal first, which means nothing to a machine. */
static enum gdb_next resume(struct gdb_session *s, char how, const char *p)
{
	struct vcpu v;
	uint64_t value;

	if (how == 'C' || how == 'S') {
		if (!gdb_hex_number(&p, &value))
			return reply_error(s, -EINVAL);
		p += *p == ';';
	}
	if (*p) {
		int r = gdb_hex_number(&p, &value) && !*p ? s->vm->engine->get_state(s->vm, &v) : -EINVAL;
		if (r)
			return reply_error(s, r);
		v.rip = value;
		r = s->vm->engine->set_state(s->vm, &v);
		if (r)
			return reply_error(s, r);
	}
	s->single = how == 's' || how == 'S';
	return GDB_RESUME;
}

/* vCont;ACTION[:THREAD][;...]: there is one thread, so the first action is the one that holds for it. */
static enum gdb_next resume_list(struct gdb_session *s, const char *p)
{
	if (!p[0] || !strchr("cCsS", p[0]))
		return reply_error(s, -EINVAL);
	s->single = p[0] == 's' || p[0] == 'S';
	return GDB_RESUME;
}

/* --- queries --------------------------------------------------------------------------------------------------------------- */

/* qXfer:features:read:target.xml:OFFSET,LENGTH, answered with a part of it after 'm' (more follows) or 'l' (last). */
static enum gdb_next read_features(struct gdb_session *s, const char *p)
{
	char xml[GDB_XML_MAX];
	uint64_t offset, len;

	if (!parse_pair(&p, &offset, &len) || *p)
		return reply_error(s, -EINVAL);
	size_t total = gdb_target_xml(xml);
	if (offset > total)
		return reply_error(s, -EINVAL);
	if (len > BYTES_MAX)
		len = BYTES_MAX;
	if (len > total - offset)
		len = total - offset;
	s->reply[0] = offset + len < total ? 'm' : 'l';
	memcpy(s->reply + 1, xml + offset, len);
	s->reply_len = 1 + len;
	return GDB_STAY;
}

/* Does the packet begin with that word? Then rest is what follows. */
static bool begins(const char *packet, const char *word, const char **rest)
{
	size_t len = strlen(word);

	if (strncmp(packet, word, len))
		return false;
	*rest = packet + len;
	return true;
}

static enum gdb_next query(struct gdb_session *s, const char *packet)
{
	const char *rest;

	if (begins(packet, "qSupported", &rest)) {
		s->swbreak = strstr(rest, "swbreak+") != NULL;
		return reply(s, "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+%s", GDB_PACKET_MAX,
			     s->swbreak ? ";swbreak+" : "");
	}
	if (begins(packet, "qXfer:features:read:target.xml:", &rest))
		return read_features(s, rest);
	if (!strcmp(packet, "QStartNoAckMode")) {
		s->no_ack = true;
		return reply(s, "OK");
	}
	if (!strcmp(packet, "qfThreadInfo"))
		return reply(s, "m1");
	if (!strcmp(packet, "qsThreadInfo"))
		return reply(s, "l");
	if (!strcmp(packet, "qC"))
		return reply(s, "QC1");
	if (begins(packet, "qAttached", &rest))
		return reply(s, "1"); /* so that a debugger that quits detaches and does not kill */
	return reply_unknown(s);
}

enum gdb_next gdb_command(struct gdb_session *s, const char *packet)
{
	const char *rest = packet[0] ? packet + 1 : packet;

	switch (packet[0]) {
	case '?': gdb_session_stop_reply(s); return GDB_STAY;
	case 'g': return read_registers(s);
	case 'G': return write_registers(s, rest);
	case 'p': return read_register(s, rest);
	case 'P': return write_register(s, rest);
	case 'm': return read_memory(s, rest);
	case 'M': return write_memory(s, rest);
	case 'Z': return change_breakpoint(s, rest, true);
	case 'z': return change_breakpoint(s, rest, false);
	case 'c':
	case 'C':
	case 's':
	case 'S': return resume(s, packet[0], rest);
	case 'H': /* which thread: there is one */
	case 'T': return reply(s, "OK");
	case 'D': reply(s, "OK"); return GDB_DETACH;
	case 'k': return GDB_KILL;
	case 'q':
	case 'Q': return query(s, packet);
	case 'v':
		if (!strcmp(packet, "vCont?"))
			return reply(s, "vCont;c;C;s;S");
		if (begins(packet, "vCont;", &rest))
			return resume_list(s, rest);
		return reply_unknown(s);
	default: return reply_unknown(s);
	}
}
