/* The differential guest's runner. Command line: seed=N first=N count=N, and `trace` to see every step. */
#include "diff.h"

#include "io.h"
#include "options.h"
#include "start_info.h"

#define VEC_PF 14
#define FLAG_STATUS 0x8d5ull
#define FLAG_TF (1ull << 8)
#define FLAG_IF (1ull << 9)
#define FLAG_DF (1ull << 10)
#define FLAG_IOPL (3ull << 12)
#define FLAG_NT (1ull << 14)
#define FLAG_RF (1ull << 16)
#define FLAG_AC (1ull << 18)
#define FLAG_ID (1ull << 21)

static uint64_t random_state, hash, cr2, handler_flags;
static struct trap_frame event;
static bool tracing;

uint64_t random64(void)
{
	/* xorshift64*, Marsaglia 2003, Vigna 2016 */
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dull;
}

static void mix(uint64_t v)
{
	hash = (hash ^ v) * 0x9e3779b97f4a7c15ull;
	hash ^= hash >> 32;
}

/*
 * What the engines may differ in, or what TCG gets wrong, is made equal, in the frame itself because the stacks are compared
 * too. RF: TCG never sets it in a frame (SDM vol. 3, 17.3.1.1). Error codes: TCG 7.2 writes a gate's vector times 16 (the
 * manual: times 8; SDM vol. 3, figure 6-6) and never sets EXT.
 */
static void normalise(struct trap_frame *f)
{
	f->rflags &= ~FLAG_RF;
	/* An IST alone does not change SS (SDM vol. 2, INT n, intra-privilege-level interrupt); TCG makes it null, as is seen here
	 * when the next IRETQ into a step faults. */
	if (f->rip >= (uint64_t)trap_return && f->rip < (uint64_t)trap_return + 64)
		f->ss = 0;
	if (f->vector >= 10 && f->vector <= 13)
		f->error = f->error & 2 ? 2 : f->error & ~1ull;
}

void on_event(struct trap_frame *f, uint64_t flags)
{
	normalise(f);
	event = *f;
	cr2 = event.vector == VEC_PF ? read_cr2() : 0;
	if (event.vector == IRQ_UART)
		irq_acknowledge();
	for (const uint64_t *p = (const uint64_t *)&event; p < (const uint64_t *)(&event + 1); p++)
		mix(*p);
	mix(cr2);
	handler_flags = flags & ~(uint64_t)FLAG_IOPL; /* IOPL is hidden from a deprivileged pushf */
	mix(handler_flags);
}

/* Each exit costs more than everything else, so a line leaves in one string instruction. */
static char line[4096];
static unsigned line_length;

static void print(const char *s)
{
	while (*s)
		line[line_length++] = *s++;
}

static void print_line(void)
{
	const char *at = line;
	uint64_t n;

	print("\n");
	n = line_length;
	asm volatile("rep outsb" : "+S"(at), "+c"(n) : "d"(0xe9) : "memory");
	line_length = 0;
}

static void print_number(const char *name, uint64_t v, unsigned digits)
{
	print(name);
	while (digits > 1 && !(v >> (4 * digits - 4)))
		digits--;
	while (digits--)
		line[line_length++] = "0123456789abcdef"[v >> 4 * digits & 15];
}

/* One line: what the step was given, and behind the bar what came of it. */
static void trace_step(unsigned number, const struct fragment *fragment, const struct trap_frame *before)
{
	static const char *const names[] = { " r15=", " r14=", " r13=", " r12=", " r11=", " r10=", " r9=", " r8=", " rdi=", " rsi=",
					      " rbp=", " rbx=", " rdx=", " rcx=", " rax=", " vector=", " error=", " rip=", " cs=",
					      " rflags=", " rsp=", " ss=" };
	const uint64_t *in = (const uint64_t *)before, *out = (const uint64_t *)&event;

	print_number("step ", number, 8);
	print(" ");
	print(fragment->name);
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (i != 15 && i != 16)
			print_number(names[i], in[i], 16);
	print(" |");
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		print_number(names[i], out[i], 16);
	print_number(" cr2=", cr2, 16);
	print_number(" handler=", handler_flags, 16);
	for (unsigned i = 0; i < ARENA_PARTS; i++) {
		print(" ");
		print(arena_part_names[i]);
		print_number("=", arena_hash(i), 16);
	}
	print_line();
}

static void step(unsigned number, const struct fragment *fragment, const struct trap_frame *f)
{
	/* Where IRETQ itself faults, the exception's frame comes to lie below the one that it reads. */
	static struct {
		uint8_t room[512];
		struct trap_frame f;
	} __attribute__((aligned(16))) entry;

	entry.f = *f;
	enter(&entry.f);
	if (tracing)
		trace_step(number, fragment, f);
	if (fragment->flags & SHORT_TR)
		arena_repair_tr();
}

/* Registers for one step: any values, a stack of the level, flags that a program at this level may have. */
static void random_frame(struct trap_frame *f, const struct fragment *fragment)
{
	static const struct {
		uint16_t cs, ss;
	} segments[4] = { { SEL_KCODE, SEL_KDATA }, { SEL_CODE1 | 1, SEL_DATA1 | 1 }, { SEL_CODE2 | 2, SEL_DATA2 | 2 },
			  { SEL_UCODE, SEL_UDATA } };
	unsigned level = below(8) < 5 ? 0 : below(8) < 6 ? 3 : 1 + below(2);

	while (!(fragment->levels >> level & 1))
		level = (level + 1) % 4;
	for (uint64_t *p = (uint64_t *)f; p < (uint64_t *)(f + 1); p++)
		*p = random64();
	f->rip = (uint64_t)fragment->code;
	f->cs = segments[level].cs;
	f->ss = segments[level].ss;
	f->rsp = (uint64_t)arena.stack[level ? STACK_USER : STACK_KERNEL] + STACK_SIZE / 2 + 8 * below(32);
	if (one_in(4))
		f->rsp += below(8);
	else if (one_in(16) && !(fragment->flags & GOOD_RSP) && !irq_raised) /* or nobody would acknowledge the interrupt */
		f->rsp = one_in(2) ? ABOVE_4G + 0x1000 : NON_CANONICAL + 8 * below(4);
	f->rflags = (f->rflags & (FLAG_STATUS | FLAG_IF | FLAG_ID)) | RFLAGS_FIXED;
	if (one_in(4))
		f->rflags |= FLAG_DF;
	if (one_in(8))
		f->rflags |= FLAG_AC;
	if (one_in(6))
		f->rflags |= below(4) << 12; /* IOPL */
	if (one_in(16))
		f->rflags |= FLAG_NT;
	if (one_in(12) && !(fragment->flags & NO_TF))
		f->rflags |= FLAG_TF;
	if (fragment->prepare)
		fragment->prepare(f);
}

#define STEPS 12

static void sequence(uint64_t seed, uint64_t number)
{
	struct trap_frame f;
	unsigned n = 0;

	random_state = (seed * 0x9e3779b97f4a7c15ull ^ (number + 1) * 0xbf58476d1ce4e5b9ull) | 1;
	for (unsigned i = 0; i < 4; i++)
		random64();
	hash = number;
	arena_reset(random64());
	for (; n < STEPS; n++) {
		const struct fragment *fragment = &fragments[below(nfragments)];

		random_frame(&f, fragment);
		step(n, fragment, &f);
	}
	for (unsigned i = 0; i < nobservers; i++) {
		memset(&f, 0, sizeof(f));
		f.rip = (uint64_t)observers[i].code;
		f.cs = SEL_KCODE;
		f.ss = SEL_KDATA;
		f.rsp = (uint64_t)arena.stack[STACK_KERNEL] + STACK_SIZE;
		f.rflags = RFLAGS_FIXED;
		step(n++, &observers[i], &f);
	}
	for (unsigned i = 0; i < ARENA_PARTS; i++)
		mix(arena_hash(i));
}

int guest_main(const struct hvm_start_info *info)
{
	const char *options = start_info_cmdline(info);
	uint64_t seed = option_number(options, "seed", 1), first = option_number(options, "first", 0);
	uint64_t count = option_number(options, "count", 1);

	tracing = option_word(options, "trace");
	arena_init();
	for (uint64_t i = first; i < first + count; i++) {
		sequence(seed, i);
		print_number("", hash, 16);
		print_line();
	}
	return 0;
}
