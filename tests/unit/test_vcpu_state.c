// sources: vcpu_state.c flat_memory.c machine_state.c state_io.c boot_vcpu.c boot.c gva.c segment.c legacy_walk.c registers.c decode.c mem.c bus.c spt.c walk.c fill.c flush.c pool.c cache.c
/*
 * The state of a vCPU of trap and hvm as bytes: what a CPU can be in goes through them unchanged, from one engine to the other; everything
 * else is refused with a sentence, and so are damaged bytes, unless they are a state that a CPU can be in again.
 */
#include "lab1.h"
#include "lab2.h"
#include "lapic.h"
#include "vcpu_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define MEM (4 * MiB)
#define SEEDS 100000

static struct vm vm;
static struct shadow some_shadow; /* that there is one is all that matters here */
static uint64_t seed;

/* --- what the code asks of the rest of hv ----------------------------------------------------------------------------------------- */

int vm_stop(struct vm *m, int status, const char *fmt, ...)
{
	(void)fmt;
	m->stopping = 1;
	m->status = status;
	return -ECANCELED;
}
uint64_t clock_ns(void) { return 0; }
void trap_refresh_segments(struct vcpu *v) { (void)v; }
void trap_special_changed(struct vcpu *v) { (void)v; }
uint64_t segment_base(struct vcpu *v, unsigned sreg) { return v->seg[sreg].base; }
uint64_t trap_machine_tsc(struct vcpu *v)
{
	(void)v;
	return 0;
}
void trap_set_tsc(struct vcpu *v, uint64_t value) { (void)v, (void)value; }
uint64_t trap_cr4_allowed(const struct vcpu *v)
{
	return CR4_PAE | CR4_PGE | CR4_DE | CR4_OSFXSR | CR4_OSXMMEXCPT | (v->vm->all_modes ? CR4_SMEP : 0);
}

/* --- engines, and states that their guests can be in --------------------------------------------------------------------------------- */

enum engine { TRAP, TRAP_SHADOW, HVM, HVM_SHADOW };

static void be(enum engine e)
{
	vm.all_modes = e >= HVM;
	vm.shadow = e == TRAP_SHADOW || e == HVM_SHADOW ? &some_shadow : NULL;
}

static void boot(enum boot_mode mode)
{
	const struct boot_state b = { .mode = mode, .entry = 0x100000, .rbx = 0x6000 };

	boot_vcpu(&vm.vcpu, &b);
}

static struct fpu_state a_fpu(void) { return (struct fpu_state){ .fcw = 0x37f, .mxcsr = 0x1f80, .xmm[3][5] = 7 }; }

/* Saves *s: the bytes, which belong to the caller. */
static uint8_t *save(struct vcpu_state *s, size_t *len)
{
	struct state_io io;

	state_save_begin(&io, "the vCPU", 0);
	vcpu_state_io(s, &io);
	assert_int_equal(state_end(&io), 0);
	*len = io.len;
	return io.data;
}

/* Loads into the engine that vm is now. NULL, or the sentence. */
static const char *load(const uint8_t *data, size_t len, struct vcpu_state *out)
{
	static char sentence[STATE_ERR];
	struct state_io io;

	vcpu_state_of(&vm, out);
	state_load_begin(&io, "the vCPU", 0, data, len);
	vcpu_state_io(out, &io);
	if (!state_end(&io))
		return NULL;
	assert_true(io.err[0]);
	memcpy(sentence, io.err, sizeof sentence);
	return sentence;
}

/* From engine `from`, where the guest is in vm.vcpu, to engine `to`. */
static const char *move(enum engine from, enum engine to, struct vcpu_state *out)
{
	struct vcpu_state s;
	size_t len;

	be(from);
	vcpu_state_of(&vm, &s);
	s.fpu = a_fpu();
	uint8_t *data = save(&s, &len);
	be(to);
	const char *sentence = load(data, len, out);
	free(data);
	return sentence;
}

static void goes(enum engine from, enum engine to)
{
	struct vcpu_state s;
	const char *sentence = move(from, to, &s);

	if (sentence)
		fail_msg("%d to %d: %s", from, to, sentence);
}

static void refused(enum engine from, enum engine to, const char *part)
{
	struct vcpu_state s;
	const char *sentence = move(from, to, &s);

	if (!sentence || !strstr(sentence, part))
		fail_msg("%d to %d: \"%s\" instead of \"%s\"", from, to, sentence ? sentence : "", part);
}

static int setup(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof vm);
	vm.vcpu.vm = &vm;
	vm.phys_bits = 40;
	vm.lapic.base = LAPIC_BASE | APIC_BASE_ENABLE | APIC_BASE_BSP;
	if (guest_mem_create(&vm.mem, MEM))
		return -1;
	boot_tables_write(&vm.mem); /* the first 4 GiB, one to one */
	boot(BOOT_LONG);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	guest_mem_destroy(&vm.mem);
	return 0;
}

/* --- what goes through ---------------------------------------------------------------------------------------------------------- */

static void test_all_fields_arrive(void **state)
{
	struct vcpu_state s, t;
	struct vcpu *v = &s.cpu;
	size_t len;

	(void)state;
	be(HVM);
	vcpu_state_of(&vm, &s);
	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = 0x1111111111111111ull * (i + 1);
	v->rip = 0xffffffff80001234;
	v->rflags = FLAG_FIXED | FLAG_IF | FLAG_CF;
	v->cpl = 3;
	v->seg[CS] = (struct segment){ .selector = 0x33, .attr = 0xa0fb, .limit = ~0u };
	v->seg[SS] = (struct segment){ .selector = 0x2b, .attr = 0xc0f3, .limit = ~0u };
	v->seg[DS] = (struct segment){ 0 };
	v->seg[FS].base = 0x7fff12345678;
	v->seg[GS] = (struct segment){ .base = 0xffff888000000000 };
	v->ldtr = (struct segment){ .selector = 0x48, .attr = 0x82, .limit = 0x1f, .base = 0xffff888000002000 };
	v->tr = (struct segment){ .selector = 0x40, .attr = 0x8b, .limit = 0x206f, .base = 0xfffffe0000003000 };
	v->gdtr = (struct dtable){ 0xfffffe0000001000, 0x7f };
	v->idtr = (struct dtable){ 0xfffffe0000000000, 0xfff };
	v->cr0 |= CR0_AM | CR0_TS;
	v->cr2 = 0x123456789abc;
	v->cr3 = 0x3fe000;
	v->cr4 |= CR4_PGE | CR4_SMEP;
	v->cr8 = 5;
	v->efer |= EFER_SCE | EFER_NXE;
	for (unsigned i = 0; i < 4; i++)
		v->dr[i] = 0x1000 * (i + 1);
	v->dr[6] |= DR6_BS | 1;
	v->dr[7] |= 0x33;
	uint64_t *msr = (uint64_t *)&v->msr;
	for (unsigned i = 0; i < sizeof v->msr / sizeof *msr; i++)
		if (&msr[i] != &v->msr.pat && &msr[i] != &v->msr.apic_base)
			msr[i] = 0x10000 + i;
	v->event = (struct event){ .pending = true, .kind = EVENT_EXCEPTION, .vector = VEC_PF, .has_error = true, .error = 7 };
	v->shadow = true;
	s.nmi_pending = s.nmi_blocked = true;
	for (unsigned i = 0; i < sizeof s.fpu.xmm; i++)
		((uint8_t *)s.fpu.xmm)[i] = (uint8_t)i, ((uint8_t *)s.fpu.st)[i % sizeof s.fpu.st] = (uint8_t)(i * 3);
	s.fpu.fcw = 0x27f, s.fpu.fsw = 0x3800, s.fpu.ftw = 0x80, s.fpu.fop = 0x7ff, s.fpu.fip = 1ull << 40, s.fpu.fdp = 2,
	s.fpu.mxcsr = 0x9fc0;
	uint8_t *data = save(&s, &len);
	vcpu_state_of(&vm, &t);
	memset(&t.cpu.gpr, 1, sizeof t.cpu - offsetof(struct vcpu, gpr)); /* but for cpu.vm */
	t.cpu.event = (struct event){ 0 };
	t.cpu.dr[4] = t.cpu.dr[5] = 0;
	struct state_io io;
	state_load_begin(&io, "the vCPU", 0, data, len);
	vcpu_state_io(&t, &io);
	if (state_end(&io))
		fail_msg("%s", io.err);
	/* Field by field where the compiler has put holes in between. */
	assert_memory_equal(t.cpu.gpr, v->gpr, sizeof v->gpr);
	assert_true(t.cpu.rip == v->rip && t.cpu.rflags == v->rflags && t.cpu.cpl == 3);
	assert_memory_equal(t.cpu.seg, v->seg, sizeof v->seg);
	assert_memory_equal(&t.cpu.ldtr, &v->ldtr, sizeof v->ldtr);
	assert_memory_equal(&t.cpu.tr, &v->tr, sizeof v->tr);
	assert_true(t.cpu.gdtr.base == v->gdtr.base && t.cpu.gdtr.limit == v->gdtr.limit);
	assert_true(t.cpu.idtr.base == v->idtr.base && t.cpu.idtr.limit == v->idtr.limit);
	assert_true(t.cpu.cr0 == v->cr0 && t.cpu.cr2 == v->cr2 && t.cpu.cr3 == v->cr3 && t.cpu.cr4 == v->cr4 && t.cpu.cr8 == v->cr8);
	assert_true(t.cpu.efer == v->efer);
	assert_memory_equal(t.cpu.dr, v->dr, sizeof v->dr);
	assert_memory_equal(&t.cpu.msr, &v->msr, sizeof v->msr);
	assert_true(t.cpu.event.pending && t.cpu.event.vector == VEC_PF && t.cpu.event.has_error && t.cpu.event.error == 7);
	assert_true(t.cpu.shadow && !t.cpu.halted && t.nmi_pending && t.nmi_blocked && !t.flat && !t.patched);
	assert_memory_equal(&t.fpu, &s.fpu, sizeof s.fpu);
	free(data);
}

static void test_from_every_engine_to_every_other(void **state)
{
	(void)state;
	for (enum engine from = TRAP; from <= HVM_SHADOW; from++)
		for (enum engine to = TRAP; to <= HVM_SHADOW; to++)
			goes(from, to);
	for (enum boot_mode mode = BOOT_PROTECTED; mode <= BOOT_REAL; mode++) {
		const char *name = mode == BOOT_REAL ? "in real mode" : "in protected mode";

		boot(mode);
		goes(HVM, HVM);
		refused(HVM, TRAP, name);
		refused(HVM, TRAP_SHADOW, name);
		refused(HVM, HVM_SHADOW, "without page tables of four levels");
	}
	boot(BOOT_LONG); /* in a compatibility segment */
	vm.vcpu.seg[CS].attr = 0xc09b;
	goes(HVM, HVM);
	refused(HVM, TRAP, "16- or 32-bit code");
}

static void test_page_tables_that_count_or_do_not(void **state)
{
	uint64_t *pd = guest_range(&vm.mem, BOOT_PML4 + 2 * PAGE, PAGE), *pml4 = guest_range(&vm.mem, BOOT_PML4, PAGE);
	uint64_t *pdpt = pml4 + PT_ENTRIES;

	(void)state;
	uint64_t *const slot[] = { &pd[1], &pd[1], &pd[1], &pml4[7], &pdpt[4], &pml4[0] };
	const uint64_t bad[] = { 0, pd[1] + 2 * MiB, pd[1] & ~PTE_W, pml4[0], pdpt[0], MEM | PTE_P | PTE_W };
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		uint64_t good = *slot[i];

		*slot[i] = bad[i];
		refused(TRAP, HVM, "did not count");
		refused(TRAP, TRAP_SHADOW, "did not count");
		refused(HVM, TRAP, "ignores them");
		goes(TRAP, TRAP);
		goes(HVM, TRAP_SHADOW);
		*slot[i] = good;
	}
	pd[MEM / (2 * MiB)] = 0; /* where there is no memory, nothing need be mapped */
	goes(HVM, TRAP);
	goes(TRAP, HVM);
}

static void test_common_form(void **state)
{
	struct vcpu_state s;
	struct vcpu *v = &vm.vcpu;

	(void)state;
	/* A jump to where no address is: the fault comes next. */
	v->rip = 1ull << 47;
	assert_null(move(TRAP, HVM, &s));
	assert_true(s.cpu.event.pending && s.cpu.event.vector == VEC_GP && s.cpu.event.has_error && !s.cpu.event.error);
	v->rip = 0x1000;
	/* An event wakes. */
	v->halted = true;
	raise_exception(v, VEC_DB);
	assert_null(move(TRAP, HVM, &s));
	assert_true(s.cpu.event.pending && !s.cpu.halted);
	v->event = (struct event){ .vector = 3, .error = 5 }; /* what was delivered long ago */
	assert_null(move(TRAP, HVM, &s));
	assert_true(s.cpu.halted && !s.cpu.event.vector && !s.cpu.event.error);
	/* SS knows the CPL. */
	v->cpl = 3;
	v->seg[CS].attr |= SEG_DPL;
	v->seg[SS] = (struct segment){ .selector = 3 };
	assert_null(move(TRAP, HVM, &s));
	assert_int_equal(s.cpu.seg[SS].attr, SEG_DPL);
	/* Bits of DR6 and DR7 that are always set, or never. */
	v->dr[6] = 0x4001;
	v->dr[7] = 0;
	assert_null(move(HVM, TRAP, &s));
	assert_int_equal(s.cpu.dr[6], 0xffff4ff1);
	assert_int_equal(s.cpu.dr[7], 0x400);
}

/* --- what does not ------------------------------------------------------------------------------------------------------------------ */

#define RULE(set, part)                      \
	do {                                 \
		boot(BOOT_LONG);             \
		set;                         \
		refused(HVM, HVM, part);     \
	} while (0)

static void test_values_that_no_cpu_has(void **state)
{
	struct vcpu *v = &vm.vcpu;

	(void)state;
	RULE(v->cr0 &= ~CR0_PE, "CR0 is");
	RULE(v->cr0 &= ~CR0_PG, "CR0 is"); /* in 64-bit code */
	RULE(v->cr0 &= ~CR0_ET, "CR0 is");
	RULE(v->cr0 |= CR0_NW, "CR0 is");
	RULE(v->cr0 |= 1ull << 40, "CR0 is");
	RULE(v->cr0 |= 1 << 7, "CR0 is");
	RULE(v->efer &= ~EFER_LMA, "EFER is");
	RULE(v->efer &= ~EFER_LME, "EFER is");
	RULE(v->efer |= 1 << 12, "EFER is"); /* SVME */
	RULE(v->cr4 &= ~CR4_PAE, "EFER is");
	RULE(v->cr4 |= CR4_OSXSAVE, "CR4 is");
	RULE(v->cr3 = 1ull << 40, "CR3 is");
	RULE(v->cr8 = 16, "CR8 is");
	RULE(v->cpl = 4, "CPL is 4"); /* saving puts it into SS, too, where there are two bits */
	RULE(v->rflags = 0, "RFLAGS is");
	RULE(v->rflags |= 1 << 15, "RFLAGS is");
	RULE(v->rflags |= 1ull << 32, "RFLAGS is");
	RULE((v->rflags |= FLAG_VM, v->cpl = 3), "virtual-8086");
	RULE(v->rflags |= FLAG_VM, "CPL is 0");
	RULE(v->seg[CS].attr |= SEG_DB, "CS has");
	RULE(v->seg[CS].attr &= (uint16_t)~SEG_P, "CS has");
	RULE(v->seg[CS].attr |= SEG_DPL, "CS has"); /* not conforming: its level is the CPL */
	RULE((v->seg[CS].attr |= SEG_DPL | 4), "CS has"); /* conforming: at most */
	RULE(v->seg[CS].attr |= 0x100, "CS has");
	RULE(v->seg[CS].attr &= (uint16_t)~SEG_S, "CS has");
	RULE(v->seg[SS].attr |= 8, "SS has");
	RULE(v->seg[SS].attr &= (uint16_t)~2, "SS has");
	RULE(v->seg[DS].attr = 0xc099, "DS has"); /* code that cannot be read */
	RULE(v->seg[DS].limit = 0xffff0000, "DS has");
	RULE(v->seg[ES].attr = 0x4093, "ES has"); /* 4 GiB in bytes */
	RULE(v->seg[ES].base = 1ull << 32, "ES has");
	RULE(v->seg[FS].base = 1ull << 47, "MSR 0xc0000100");
	RULE(v->seg[GS].base = 1ull << 63, "MSR 0xc0000101");
	RULE(v->tr.attr = 0x83, "TR has"); /* 16-bit, in long mode */
	RULE(v->tr.attr = 0, "TR has");
	RULE(v->tr.attr = 0x9b, "TR has");
	RULE(v->ldtr.attr = 0x89, "LDTR has");
	RULE(v->ldtr.base = 1ull << 47, "LDTR has");
	RULE(v->gdtr.base = 1ull << 47, "GDTR or IDTR");
	RULE(v->idtr.base = 1ull << 62, "GDTR or IDTR");
	RULE(v->msr.lstar = 1ull << 47, "MSR 0xc0000082");
	RULE(v->msr.kernel_gs_base = 1ull << 47, "MSR 0xc0000102");
	RULE(v->msr.sysenter_eip = 1ull << 47, "MSR 0x176");
	RULE(v->msr.pat = 2, "MSR 0x277");
	RULE(v->msr.apic_base = 0xfee01000, "MSR 0x1b");
	RULE(v->msr.apic_base &= ~(uint64_t)APIC_BASE_ENABLE, "do not agree");
}

static void test_events_that_cannot_wait(void **state)
{
	struct vcpu *v = &vm.vcpu;

	(void)state;
	RULE((v->event = (struct event){ .pending = true, .kind = EVENT_SOFTWARE, .vector = 0x80 }), "an event of kind 1");
	RULE((v->event = (struct event){ .pending = true, .kind = (enum event_kind)3 }), "an event of kind 3");
	RULE((v->event = (struct event){ .pending = true, .vector = 32 }), "vector 32");
	RULE((v->event = (struct event){ .pending = true, .vector = 9 }), "vector 9");
	RULE((v->event = (struct event){ .pending = true, .vector = VEC_GP }), "vector 13");
	RULE((v->event = (struct event){ .pending = true, .vector = VEC_UD, .has_error = true }), "vector 6");
	RULE((v->event = (struct event){ .pending = true, .vector = VEC_UD, .error = 1 }), "vector 6");
	RULE((v->event = (struct event){ .pending = true, .vector = VEC_GP, .has_error = true, .error = 1 << 16 }), "vector 13");
	RULE((v->event = (struct event){ .pending = true, .kind = EVENT_INTERRUPT, .vector = 32 }), "vector 32"); /* IF is off */
	boot(BOOT_LONG);
	v->rflags |= FLAG_IF;
	v->event = (struct event){ .pending = true, .kind = EVENT_INTERRUPT, .vector = 32 };
	goes(HVM, TRAP);
	boot(BOOT_LONG);
	v->event = (struct event){ .pending = true, .vector = VEC_NMI }; /* one whose delivery was interrupted */
	goes(HVM, TRAP);
	boot(BOOT_REAL); /* no error codes there */
	v->event = (struct event){ .pending = true, .vector = VEC_GP };
	goes(HVM, HVM);
	v->event.has_error = true;
	refused(HVM, HVM, "vector 13");
}

/* What only the bytes can say, because saving brings it to the common form. */
static void test_bytes_that_saving_does_not_write(void **state)
{
	struct vcpu_state s, t;
	size_t len;

	(void)state;
	be(HVM);
	vcpu_state_of(&vm, &s);
	s.fpu.mxcsr = 0x10000;
	uint8_t *data = save(&s, &len);
	assert_non_null(strstr(load(data, len, &t), "MXCSR"));
	free(data);
	vcpu_state_of(&vm, &s);
	s.nmi_pending = true;
	data = save(&s, &len);
	assert_null(load(data, len, &t));
	be(TRAP);
	assert_non_null(strstr(load(data, len, &t), "an NMI waits"));
	free(data);
	vcpu_state_of(&vm, &s);
	s.patched = true;
	data = save(&s, &len);
	assert_non_null(strstr(load(data, len, &t), "was patched"));
	vm.opt.patch = true;
	assert_null(load(data, len, &t));
	be(HVM);
	assert_non_null(strstr(load(data, len, &t), "was patched"));
	free(data);
	be(TRAP);
	vcpu_state_of(&vm, &s);
	s.patched = false;
	data = save(&s, &len);
	assert_non_null(strstr(load(data, len, &t), "was not patched"));
	/* Every length but the right one. */
	vm.opt.patch = false;
	assert_null(load(data, len, &t));
	for (size_t n = 0; n < len; n++)
		assert_non_null(load(data, n, &t));
	uint8_t *longer = calloc(1, len + 1);
	assert_non_null(longer);
	memcpy(longer, data, len);
	assert_non_null(strstr(load(longer, len + 1, &t), "left over"));
	free(longer);
	free(data);
}

static uint64_t rnd(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/*
 * Damaged bytes are refused, or they are the state of a CPU: then saving it gives the same bytes again (it was in the common form), and
 * the rest of hv can rely on what the checks promise.
 */
static void test_garbage(void **state)
{
	const char *given = getenv("TRAPDOOR_SEED");
	unsigned taken = 0;

	(void)state;
	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	printf("TRAPDOOR_SEED=%llu\n", (unsigned long long)seed);
	for (unsigned i = 0; i < SEEDS; i++) {
		enum engine e = (enum engine)(rnd() % 4);
		struct vcpu_state s, t;
		size_t len, again;

		be(e);
		boot(e == HVM ? (enum boot_mode)(rnd() % 3) : BOOT_LONG);
		vcpu_state_of(&vm, &s);
		s.fpu = a_fpu();
		uint8_t *data = save(&s, &len);
		if (rnd() % 8 == 0) /* all of it */
			for (size_t n = 0; n < len; n++)
				data[n] = (uint8_t)rnd();
		for (unsigned n = 1 + rnd() % 3; n--;)
			if (rnd() % 2)
				data[rnd() % len] ^= (uint8_t)(1u << rnd() % 8);
			else
				data[rnd() % len] = (uint8_t)rnd();
		be(rnd() % 2 ? e : (enum engine)(rnd() % 4));
		if (!load(data, len, &t)) {
			struct vcpu *v = &t.cpu;

			taken++;
			assert_true(v->cpl <= 3 && v->cr8 <= 15);
			assert_true(vm.all_modes || ((v->efer & EFER_LMA) && (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE)));
			assert_true(!(v->cr4 & ~trap_cr4_allowed(v)));
			assert_true(canonical(v->gdtr.base) && canonical(v->seg[FS].base) && canonical(v->msr.lstar));
			uint8_t *data2 = save(&t, &again);
			assert_int_equal(again, len);
			assert_memory_equal(data2, data, len);
			free(data2);
		}
		free(data);
	}
	/* Most single bits of registers may have either value. */
	assert_true(taken > SEEDS / 20 && taken < SEEDS * 19 / 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_all_fields_arrive, setup, teardown),
		cmocka_unit_test_setup_teardown(test_from_every_engine_to_every_other, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_tables_that_count_or_do_not, setup, teardown),
		cmocka_unit_test_setup_teardown(test_common_form, setup, teardown),
		cmocka_unit_test_setup_teardown(test_values_that_no_cpu_has, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_that_cannot_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bytes_that_saving_does_not_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
	};

	return cmocka_run_group_tests_name("vcpu_state", tests, NULL, NULL);
}
