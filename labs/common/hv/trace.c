#include "trace.h"
#include "engine.h"
#include "json.h"
#include "memhash.h"
#include "spt.h"
#include "vm.h"

#include <stdarg.h>
#include <string.h>
#include <x86intrin.h>

void trace_init(struct trace *t, bool exits, FILE *out)
{
	memset(t, 0, sizeof *t);
	t->exits = exits;
	t->out = out;
	t->start_ns = clock_ns();
	t->start_ticks = t->cpu[0].mark_ticks = __rdtsc();
}

void trace_count(struct trace_count *table, const char *name)
{
	for (unsigned i = 0; i < TRACE_KINDS; i++) {
		struct trace_count *c = &table[i];
		if (!c->name)
			c->name = i == TRACE_KINDS - 1 ? "other" : name;
		if (c->name == name || i == TRACE_KINDS - 1 || !strcmp(c->name, name)) {
			c->count++;
			return;
		}
	}
}

const char *vector_name(uint8_t vector)
{
	static const char *const names[] = {
		"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9", "#TS", "#NP", "#SS", "#GP", "#PF",
		"vector 15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"
	};
	return vector < sizeof names / sizeof *names ? names[vector] : "vector above 21";
}

void trace_enter_guest(struct trace_cpu *cpu)
{
	uint64_t now = __rdtsc();
	if (cpu->mark_ticks)
		cpu->hv_ticks += now - cpu->mark_ticks;
	cpu->mark_ticks = now;
}

void trace_leave_guest(struct trace_cpu *cpu)
{
	uint64_t now = __rdtsc();
	cpu->guest_ticks += now - cpu->mark_ticks;
	cpu->mark_ticks = now;
	cpu->exits++;
}

uint64_t trace_total(const struct trace *t)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < VM_CPUS_MAX; i++)
		total += t->cpu[i].exits;
	return total;
}

void trace_exit(struct vm *vm, const char *what, uint64_t rip, const char *text, const char *did, ...)
{
	struct trace *t = &vm->trace;
	char note[200];
	va_list ap;

	if (!t->exits)
		return;
	va_start(ap, did);
	vsnprintf(note, sizeof note, did, ap);
	va_end(ap);
	fprintf(t->out, "exit %-6llu %-12s rip 0x%-10llx %-28s", (unsigned long long)trace_total(t), what, (unsigned long long)rip,
		text && *text ? text : "");
	if (note[0])
		fprintf(t->out, " -> %s", note);
	/* The console may be a raw terminal, where a newline alone only goes down. */
	fputs(vm->con.raw ? "\r\n" : "\n", t->out);
}

/* "name":count, without the braces around the list. Returns whether a comma must precede what follows. */
static bool json_counts(FILE *out, const struct trace_count *table, bool comma)
{
	for (unsigned i = 0; i < TRACE_KINDS && table[i].name; i++) {
		if (comma)
			fputc(',', out);
		json_string(out, table[i].name);
		fprintf(out, ":%llu", (unsigned long long)table[i].count);
		comma = true;
	}
	return comma;
}

static bool json_traps(FILE *out, const struct trace *t)
{
	bool comma = false;
	for (unsigned i = 0; i < 256; i++) {
		if (!t->trap[i])
			continue;
		fprintf(out, "%s\"trap %s\":%llu", comma ? "," : "", vector_name((uint8_t)i), (unsigned long long)t->trap[i]);
		comma = true;
	}
	return comma;
}

static bool json_unclaimed(FILE *out, const struct bus *bus, bool first)
{
	for (unsigned i = 0; i < bus->nunclaimed; i++) {
		const struct bus_unclaimed *u = &bus->unclaimed[i];
		fprintf(out, "%s{\"bus\":\"%s\",\"addr\":\"0x%llx\",\"reads\":%llu,\"writes\":%llu}", first ? "" : ",", bus->name,
			(unsigned long long)u->addr, (unsigned long long)u->reads, (unsigned long long)u->writes);
		first = false;
	}
	return first;
}

static void shadow_json(const struct shadow *s, FILE *out)
{
	const struct shadow_counts *c = &s->count;
	const struct {
		const char *name;
		uint64_t count;
	} counts[] = {
		{ "hidden", c->hidden }, { "true", c->true_faults }, { "emulated", c->emulated }, { "unsync", c->unsync },
		{ "synced", c->synced }, { "cr3_loads", c->cr3_loads }, { "roots", c->roots }, { "switches", c->switches },
		{ "made", c->made }, { "evicted", c->evicted }, { "zapped", c->zapped }, { "peak", c->peak }, { "pages", s->npages },
	};

	fprintf(out, ",\"shadow\":{\"mode\":\"%s\"", s->mode == SHADOW_VTLB ? "vtlb" : "cached");
	for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++)
		fprintf(out, ",\"%s\":%llu", counts[i].name, (unsigned long long)counts[i].count);
	fputc('}', out);
}

/* Each vCPU's own account, then the times of all together. ms: per tick. */
static void cpus_json(const struct trace *t, unsigned cpus, double ms, FILE *out)
{
	double guest = 0, hv = 0;

	fputs(",\"vcpus\":[", out);
	for (unsigned i = 0; i < cpus; i++) {
		const struct trace_cpu *c = &t->cpu[i];
		fprintf(out, "%s{\"exits\":%llu,\"guest_ms\":%.3f,\"hv_ms\":%.3f}", i ? "," : "", (unsigned long long)c->exits,
			(double)c->guest_ticks * ms, (double)c->hv_ticks * ms);
		guest += (double)c->guest_ticks * ms;
		hv += (double)c->hv_ticks * ms;
	}
	fprintf(out, "],\"guest_ms\":%.3f,\"hv_ms\":%.3f", guest, hv);
}

void trace_json(struct vm *vm, FILE *out)
{
	const struct trace *t = &vm->trace;

	fprintf(out, "{\"engine\":\"%s\"", vm->engine->name);
	if (vm->neighbour.block)
		fprintf(out, ",\"vm\":%u", vm->neighbour.index + 1);
	fprintf(out, ",\"status\":%d,\"reason\":", vm->status);
	json_string(out, vm->reason);
	fprintf(out, ",\"guest_code\":%u,\"exits\":%llu", vm->guest_code, (unsigned long long)trace_total(t));
	fputs(",\"by_kind\":{", out);
	json_counts(out, t->kind, json_traps(out, t));
	fputs("},\"emulated\":{", out);
	json_counts(out, t->mnemonic, false);
	fputs("},\"delivered\":{", out);
	bool first = true;
	for (unsigned i = 0; i < 256; i++) {
		if (!t->delivered[i])
			continue;
		fprintf(out, "%s\"%u\":%llu", first ? "" : ",", i, (unsigned long long)t->delivered[i]);
		first = false;
	}
	fputc('}', out);
	if (t->first_trap.seen)
		fprintf(out, ",\"first_trap\":{\"vector\":%u,\"rip\":\"0x%llx\",\"rax\":\"0x%llx\"}", t->first_trap.vector,
			(unsigned long long)t->first_trap.rip, (unsigned long long)t->first_trap.rax);
	fputs(",\"unclaimed\":[", out);
	first = json_unclaimed(out, &vm->pio, true);
	json_unclaimed(out, &vm->mmio, first);
	uint64_t ticks = __rdtsc() - t->start_ticks;
	double ms = ticks ? (double)(clock_ns() - t->start_ns) / 1e6 / (double)ticks : 0;
	fputc(']', out);
	if (vm->opt.sample_steps)
		fprintf(out, ",\"sample\":{\"instructions\":%llu,\"intervened\":%llu}", (unsigned long long)vm->sample.instructions,
			(unsigned long long)vm->sample.intervened);
	if (vm->shadow)
		shadow_json(vm->shadow, out);
	if (vm->engine->stats && vm->engine_state)
		vm->engine->stats(vm, out);
	if (vm->nvirtio)
		virtio_json(vm, out);
	if (vm->opt.hash_memory && vm->mem.hva) {
		fputs(",\"memory\":", out);
		memhash_json(&vm->mem, out);
	}
	cpus_json(t, vm->opt.cpus, ms, out);
	fputs("}\n", out);
}
