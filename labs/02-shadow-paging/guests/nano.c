/*
 * What paging costs: one operation, as often as the params say. `make bench` and checkpoints 2.19 to 2.21 run it twice with different
 * counts; the difference of the exits belongs to the operations alone.
 *
 * The operations are the memory rows of Adams and Agesen, "A Comparison of Software and Hardware Techniques for x86
 * Virtualization" (ASPLOS 2006), and a few between them. A small kernel does for each what any kernel does: its own half is in global
 * pages, a process has a root of its own, page tables are written through a map of all memory, and a system call is an `int`.
 * Reported are the sums that the processes computed over their pages, and how many faults the kernel served.
 */
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "string.h"

#include <stdbool.h>
#include <stdint.h>

volatile uint64_t params[16] __attribute__((section(".params"), aligned(64)));

enum { OPERATION, COUNT, PAGES, WRITES, SEED }; /* WRITES: pages that each of parent and child writes to in OP_FORK */

/* COUNT times each. The numbers are also in checks/nano.py. */
enum {
	OP_FAULT = 1, /* a process touches a page for the first time */
	OP_TURNS, /* the same in two processes; each fault gives the CPU to the other one, as when a page comes from a disk */
	OP_PTE,	  /* an entry is changed, INVLPG */
	OP_PTE_BULK,  /* the entries of all PAGES are changed, then CR3 is written */
	OP_CR3,	      /* CR3 is written with the value that it has */
	OP_CR3_OTHER, /* CR3 is written, two roots in turn */
	OP_SWITCH,    /* in two processes: read and write all PAGES, then yield */
	OP_FORK,      /* read all PAGES, fork; the child reads them, writes to some and ends; the parent writes to some */
	OP_RANDOM,    /* read one of PAGES at random: most often the TLB does not know it */
};

#define PAGE 4096ul
#define ENTRIES 512
#define ROOT 4 /* level */

#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_LARGE (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_ADDR 0x000ffffffffff000ull

#define CR0_WP (1ull << 16)
#define CR4_PGE (1ull << 7)

/* User memory: slot 1 of the root. The heap has tables of its own. */
#define USER_CODE (1ull << 39)
#define USER_STACK (USER_CODE + 0x100000) /* its end */
#define USER_HEAP (USER_CODE + 0x200000)

/* --- page frames --------------------------------------------------------------------------------------------------------- */

#define MEMORY_END (64ul << 20)
#define FRAMES_BEGIN (8ul << 20)
#define MAX_FRAMES 8192
#define SPARE 64

#define VEC_PF 14

static uint16_t users[MAX_FRAMES], queue[MAX_FRAMES];
static unsigned nframes, first_free, nfree;

static _Noreturn void panic(const char *why)
{
	dputs(why);
	dputs("\n");
	guest_exit(1);
}

static void frames_init(unsigned n)
{
	if (n > MAX_FRAMES)
		panic("more pages than there is memory for");
	nframes = nfree = n;
	for (unsigned i = 0; i < n; i++)
		queue[i] = i;
}

/* Memory is mapped one to one, so a gpa can be used as it is. */
static uint64_t frame_alloc(void)
{
	unsigned i = queue[first_free];

	if (!nfree--)
		panic("out of memory");
	first_free = (first_free + 1) % nframes;
	users[i] = 1;
	return FRAMES_BEGIN + i * PAGE;
}

static uint64_t frame_alloc_zeroed(void)
{
	uint64_t gpa = frame_alloc();

	memset((void *)gpa, 0, PAGE);
	return gpa;
}

static uint16_t *frame_users(uint64_t gpa)
{
	return &users[(gpa - FRAMES_BEGIN) / PAGE];
}

/* What was freed last is used last: who still relies on it is found out as late as possible. */
static void frame_put(uint64_t gpa)
{
	if (!--*frame_users(gpa))
		queue[(first_free + nfree++) % nframes] = (gpa - FRAMES_BEGIN) / PAGE;
}

/* --- page tables --------------------------------------------------------------------------------------------------------- */

static uint64_t kernel_pdpt[ENTRIES] __attribute__((aligned(4096))), kernel_pd[ENTRIES] __attribute__((aligned(4096)));

static void paging_init(void)
{
	for (uint64_t gpa = 0; gpa < MEMORY_END; gpa += 0x200000)
		kernel_pd[gpa / 0x200000] = gpa | PTE_LARGE | PTE_G | PTE_W | PTE_P;
	kernel_pdpt[0] = (uint64_t)kernel_pd | PTE_W | PTE_P;
}

static uint64_t root_new(void)
{
	uint64_t *root = (uint64_t *)frame_alloc_zeroed();

	root[0] = (uint64_t)kernel_pdpt | PTE_W | PTE_P;
	return (uint64_t)root;
}

/* The last entry for gva; tables that are missing are made. */
static uint64_t *entry_of(uint64_t root, uint64_t gva)
{
	uint64_t *table = (uint64_t *)root;

	for (unsigned level = ROOT; level > 1; level--) {
		uint64_t *e = &table[gva >> (12 + 9 * (level - 1)) & 511];

		if (!(*e & PTE_P))
			*e = frame_alloc_zeroed() | PTE_U | PTE_W | PTE_P;
		table = (uint64_t *)(*e & PTE_ADDR);
	}
	return &table[gva >> 12 & 511];
}

/* A page of memory for a process; returns where the kernel can reach it. */
static void *map_new(uint64_t root, uint64_t gva, uint64_t rights)
{
	uint64_t gpa = frame_alloc_zeroed();

	*entry_of(root, gva) = gpa | rights | PTE_U | PTE_P;
	return (void *)gpa;
}

static void invlpg(uint64_t gva)
{
	asm volatile("invlpg (%0)" : : "r"(gva) : "memory");
}

/* Copy on write: one by one the parent's entries lose W, and the child gets the same. Slot 0 of the root is the kernel's. */
static void copy_tables(uint64_t from, uint64_t to, unsigned level)
{
	volatile uint64_t *parent = (uint64_t *)from, *child = (uint64_t *)to;

	for (unsigned i = level == ROOT; i < ENTRIES; i++) {
		uint64_t e = parent[i];

		if (!(e & PTE_P))
			continue;
		if (level == 1) {
			++*frame_users(e & PTE_ADDR);
			parent[i] = child[i] = e & ~PTE_W;
		} else {
			uint64_t table = frame_alloc_zeroed();

			child[i] = table | (e & ~PTE_ADDR);
			copy_tables(e & PTE_ADDR, table, level - 1);
		}
	}
}

static void free_tables(uint64_t table, unsigned level)
{
	const uint64_t *entries = (const uint64_t *)table;

	for (unsigned i = level == ROOT; i < ENTRIES; i++) {
		if (!(entries[i] & PTE_P))
			continue;
		if (level == 1)
			frame_put(entries[i] & PTE_ADDR);
		else
			free_tables(entries[i] & PTE_ADDR, level - 1);
	}
	frame_put(table);
}

/* --- processes ----------------------------------------------------------------------------------------------------------- */

enum { SYS_YIELD, SYS_FORK, SYS_WAIT, SYS_EXIT, SYS_VECTOR = 0x80 };

static struct proc {
	struct trap_frame frame;
	uint64_t root, result;
	bool used, waits, ended;
} procs[2], *current;

static uint64_t kernel_stack[1024] __attribute__((aligned(16)));
static uint64_t demand, copied, reused, switches;

/* Round robin. What is on the stack at f belongs to whoever runs next. */
static void schedule(struct trap_frame *f)
{
	struct proc *other = &procs[current == procs];

	if (!other->used || other->ended || other->waits)
		return;
	current->frame = *f;
	*f = other->frame;
	current = other;
	switches++;
	write_cr3(current->root);
}

static void fork(struct trap_frame *f)
{
	struct proc *child = &procs[current == procs];

	*child = (struct proc){ .frame = *f, .root = root_new(), .used = true };
	child->frame.rax = 0;
	copy_tables(current->root, child->root, ROOT);
	write_cr3(current->root); /* many pages have lost W */
	f->rax = 1;
}

static _Noreturn void all_ended(void)
{
	for (unsigned i = 0; i < 2; i++)
		if (procs[i].used)
			report("sum", procs[i].result);
	report("demand", demand);
	report("copied", copied);
	report("reused", reused);
	report("switches", switches);
	guest_exit(0);
}

static void exit(struct trap_frame *f)
{
	struct proc *other = &procs[current == procs];

	current->result = f->rdi;
	current->ended = true;
	other->waits = false;
	if (!other->used || other->ended)
		all_ended();
	schedule(f);
}

/* The parent has the result of its child, whose memory goes. */
static void reap(struct trap_frame *f)
{
	struct proc *child = &procs[current == procs];

	if (!child->ended) {
		f->rip -= 2; /* asks again when it is woken up: the length of `int` */
		current->waits = true;
		schedule(f);
		return;
	}
	f->rax = child->result;
	child->used = false;
	free_tables(child->root, ROOT);
}

static void system_call(struct trap_frame *f)
{
	switch (f->rax) {
	case SYS_YIELD: schedule(f); break;
	case SYS_FORK: fork(f); break;
	case SYS_WAIT: reap(f); break;
	case SYS_EXIT: exit(f); break;
	default: panic("no such system call");
	}
}

/* A page of the heap that is not there yet, or a write to a page that is shared or was. */
static void page_fault(struct trap_frame *f)
{
	uint64_t gva = read_cr2() & ~(PAGE - 1), *e, old;

	if (!from_user(f) || gva < USER_CODE || gva >= USER_HEAP + MAX_FRAMES * PAGE)
		panic("a page fault that nobody has asked for");
	e = entry_of(current->root, gva);
	old = *e & PTE_ADDR;
	if (!(*e & PTE_P)) {
		*e = frame_alloc_zeroed() | PTE_U | PTE_W | PTE_P;
		demand++;
		if (params[OPERATION] == OP_TURNS)
			schedule(f);
		return;
	}
	if (*frame_users(old) == 1) {
		*e |= PTE_W;
		reused++;
	} else {
		uint64_t copy = frame_alloc();

		memcpy((void *)copy, (void *)old, PAGE);
		*e = copy | PTE_W | (*e & ~PTE_ADDR);
		frame_put(old);
		copied++;
	}
	invlpg(gva);
}

/* --- programs: copied to a process' own pages and run there, so they must not use anything outside of this section --------------- */

#define PROGRAM __attribute__((section("programs"), noipa))
extern const uint8_t __start_programs[], __stop_programs[];

static inline __attribute__((always_inline)) uint64_t call(uint64_t number, uint64_t a)
{
	asm volatile("int %2" : "+a"(number) : "D"(a), "i"(SYS_VECTOR) : "memory");
	return number;
}

static inline __attribute__((always_inline)) volatile uint64_t *heap(uint64_t page)
{
	return (uint64_t *)(USER_HEAP + page * PAGE);
}

/* The first word of each page, in an order-sensitive sum. */
PROGRAM static uint64_t read_pages(uint64_t sum, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		sum = sum * 3 + *heap(i);
	return sum;
}

PROGRAM static void write_pages(uint64_t pages, uint64_t writes, uint64_t add)
{
	for (uint64_t i = 0; i < writes; i++)
		*heap(i * pages / writes) += add;
}

/* Knuth's linear congruential generator; its upper bits are good enough, and nothing but a register is touched. */
PROGRAM static uint64_t read_random(uint64_t sum, uint64_t pages, uint64_t times)
{
	for (uint64_t n = 0, x = 0; n < times; n++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		sum = sum * 3 + *heap((x >> 33) % pages);
	}
	return sum;
}

PROGRAM static void program(uint64_t operation, uint64_t count, uint64_t pages, uint64_t writes)
{
	uint64_t sum = 0, all = pages;

	if (operation == OP_RANDOM)
		sum = read_random(read_pages(sum, pages), pages, count);
	for (uint64_t n = 0; n < count; n++) {
		switch (operation) {
		case OP_FAULT: *heap(all++) = n; break;
		case OP_TURNS:
			sum = read_pages(sum, all);
			write_pages(all, all, 1);
			*heap(all++) = n;
			break;
		case OP_SWITCH:
			sum = read_pages(sum, pages);
			write_pages(pages, pages, 1);
			call(SYS_YIELD, 0);
			break;
		case OP_FORK:
			sum = read_pages(sum, pages);
			if (!call(SYS_FORK, 0)) {
				write_pages(pages, writes, 1);
				call(SYS_EXIT, read_pages(sum, pages));
			}
			sum += call(SYS_WAIT, 0);
			write_pages(pages, writes, 2);
			break;
		}
	}
	call(SYS_EXIT, read_pages(sum, all));
}

static void spawn(struct proc *p, uint64_t heap_pages)
{
	*p = (struct proc){ .root = root_new(), .used = true };
	for (uint64_t at = 0; at < (uint64_t)__stop_programs - (uint64_t)__start_programs; at += PAGE)
		memcpy(map_new(p->root, USER_CODE + at, 0), __start_programs + at, PAGE);
	map_new(p->root, USER_STACK - PAGE, PTE_W);
	for (uint64_t i = 0; i < heap_pages; i++)
		*(uint64_t *)map_new(p->root, USER_HEAP + i * PAGE, PTE_W) = params[SEED] + (p - procs) + i;
	user_frame(&p->frame, USER_CODE + ((uint64_t)program - (uint64_t)__start_programs), USER_STACK - 8);
	p->frame.rdi = params[OPERATION];
	p->frame.rsi = params[COUNT];
	p->frame.rdx = params[PAGES];
	p->frame.rcx = params[WRITES];
}

/* --- what the kernel does alone ------------------------------------------------------------------------------------------- */

/* Changes W, as mprotect() would. */
static void change(volatile uint64_t *e)
{
	*e ^= PTE_W;
}

static void alone(void)
{
	uint64_t pages = params[PAGES], sum = 0, writable = 0;

	for (uint64_t i = 0; i < pages; i++) /* the shadow, or the TLB, shall know them all */
		sum = sum * 3 + *heap(i);
	for (uint64_t n = 0; n < params[COUNT]; n++) {
		switch (params[OPERATION]) {
		case OP_PTE:
			change(entry_of(procs[0].root, (uint64_t)heap(n % pages)));
			invlpg((uint64_t)heap(n % pages));
			break;
		case OP_PTE_BULK:
			for (uint64_t i = 0; i < pages; i++)
				change(entry_of(procs[0].root, (uint64_t)heap(i)));
			write_cr3(procs[0].root);
			break;
		case OP_CR3: write_cr3(procs[0].root); break;
		case OP_CR3_OTHER: write_cr3(procs[~n & 1].root); break;
		}
	}
	report("sum", sum);
	for (uint64_t i = 0; i < pages; i++)
		writable += !!(*entry_of(procs[0].root, (uint64_t)heap(i)) & PTE_W);
	report("writable", writable);
}

int guest_main(void)
{
	uint64_t operation = params[OPERATION], touched = operation <= OP_TURNS ? params[COUNT] : 0;
	unsigned n = operation == OP_FAULT || operation == OP_FORK || operation == OP_RANDOM ? 1 : 2;

	gdt_init();
	idt_init();
	idt_gate(SYS_VECTOR, 3, 0);
	tss_set_rsp0((uint64_t)(kernel_stack + 1024));
	trap_handlers[SYS_VECTOR] = system_call;
	trap_handlers[VEC_PF] = page_fault;
	frames_init(n * (params[PAGES] + touched) + SPARE);
	paging_init();
	write_cr0(read_cr0() | CR0_WP);
	write_cr3(root_new());
	write_cr4(read_cr4() | CR4_PGE);

	for (unsigned i = 0; i < n; i++)
		spawn(&procs[i], params[PAGES]);
	current = procs;
	write_cr3(current->root);
	if (operation < OP_PTE || operation > OP_CR3_OTHER)
		trap_return(&current->frame);
	alone();
	return 0;
}
