/*
 * Writes to memory in all ways in which a hypervisor may have to do it for the guest. Each letter that comes at the UART does one of them; in
 * between nothing is written at all. Behind it: "done N.", how many there were.
 *
 *	s  stores to pages, here and there       p  a frame that the CPU pushes, alone in its page
 *	c  A and D are cleared in page tables    a  and come back, because the pages are used: two are read, one is written
 *	i  bytes from a port, over a page's end  t  a store to a page table
 *	r  a locked operation on a page table    g  a descriptor becomes accessed
 *
 * All of this lies in 2 MiB that are mapped one to one, so that it makes no difference whether page tables count.
 */
#include "dbg.h"
#include "desc.h"
#include "io.h"
#include "pgtable.h"
#include "random.h"

#define TABLES 0x300000ul
#define DATA 0x400000ul
#define HUGE 0x200000ul
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)

/* Pages of DATA, by number. */
#define STORES 400 /* the first ones */
#define FRAMES 400 /* pairs: the frame begins in the second one */
#define MARKED 470
#define BYTES 475  /* pairs */
#define TABLE_USE 495
#define GDT_PAGE 500

#define VECTOR 0x30
#define FIRST_DESCRIPTOR 16
#define DESCRIPTORS 32
#define DESC_NOT_ACCESSED 0x00cf92000000ffff

#define COM1 0x3f8
#define UART_LSR (COM1 + 5)
#define LSR_RX_READY 1
#define PIT_COUNTER 0x40

static pte_t *const pml4 = (pte_t *)TABLES, *const pdpt = (pte_t *)(TABLES + PAGE_SIZE), *const pd = (pte_t *)(TABLES + 2 * PAGE_SIZE),
		    *const pt = (pte_t *)(TABLES + 3 * PAGE_SIZE);

static volatile uint64_t *page(unsigned n)
{
	return (volatile uint64_t *)(DATA + n * PAGE_SIZE);
}

static void map(void)
{
	pml4[0] = (uint64_t)pdpt | PTE_P | PTE_W;
	pdpt[0] = (uint64_t)pd | PTE_P | PTE_W;
	for (uint64_t i = 0; i < PT_ENTRIES; i++) {
		pd[i] = i * HUGE | PTE_P | PTE_W | PTE_LEAF;
		pt[i] = (DATA + i * PAGE_SIZE) | PTE_P | PTE_W;
	}
	pd[DATA / HUGE] = (uint64_t)pt | PTE_P | PTE_W;
	write_cr3((uint64_t)pml4);
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		page(i)[0] = i + 1;
}

/* Segment registers stay what they are: the selectors mean the same. */
static void own_gdt(void)
{
	uint64_t *gdt = (uint64_t *)page(GDT_PAGE);
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) gdtr = { (FIRST_DESCRIPTOR + DESCRIPTORS) * 8 - 1, (uint64_t)gdt };

	gdt[SEL_KCODE / 8] = DESC_KCODE;
	gdt[SEL_KDATA / 8] = DESC_KDATA;
	gdt[SEL_UDATA / 8] = DESC_UDATA;
	gdt[SEL_UCODE / 8] = DESC_UCODE;
	for (unsigned i = 0; i < DESCRIPTORS; i++)
		gdt[FIRST_DESCRIPTOR + i] = DESC_NOT_ACCESSED;
	asm volatile("lgdt %0" : : "m"(gdtr));
}

static void on_interrupt(struct trap_frame *f)
{
	(void)f;
}

/* SS, RSP, RFLAGS and CS lie in the second page, everything else that is pushed in the first. */
static void push_frame(unsigned n)
{
	uint64_t stack = (uint64_t)page(FRAMES + 2 * (n % 32) + 1) + 32;

	asm volatile("mov %%rsp, %%rbx; mov %0, %%rsp; int %1; mov %%rbx, %%rsp" : : "r"(stack), "i"(VECTOR) : "rbx", "memory");
}

static void use_marked(void)
{
	(void)page(MARKED)[1];
	(void)page(MARKED + 1)[1];
	page(MARKED + 2)[1]++;
}

static void clear_marks(void)
{
	for (unsigned i = MARKED; i < MARKED + 3; i++)
		pt_set(&pt[i], pt[i] & ~(PTE_A | PTE_D));
	write_cr3(read_cr3());
}

static void read_port(unsigned n)
{
	uint64_t to = (uint64_t)page(BYTES + 2 * (n % 8) + 1) - 4, count = 8;

	asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(PIT_COUNTER) : "memory");
}

static void store_to_table(void)
{
	pt_set(&pt[TABLE_USE], pt[TABLE_USE] ^ 1 << 9);
	(void)page(TABLE_USE)[0];
}

static void lock_table(void)
{
	asm volatile("lock xorq %1, %0" : "+m"(pt[TABLE_USE + 1]) : "r"(1ul << 10) : "memory");
	(void)page(TABLE_USE + 1)[0];
}

static void load_segment(unsigned n)
{
	uint16_t selector = (uint16_t)((FIRST_DESCRIPTOR + n % DESCRIPTORS) * 8);

	asm volatile("mov %0, %%es" : : "r"(selector));
}

static void stores(void)
{
	for (unsigned i = 0; i < 24; i++) {
		uint64_t r = random64();

		page((r >> 9) % STORES)[r & 511] += random64() | 1;
	}
}

int guest_main(void)
{
	gdt_init();
	idt_init();
	trap_handlers[VECTOR] = on_interrupt;
	map();
	own_gdt();
	dputs("ready\n");
	for (unsigned n = 1;; n++) {
		while (!(inb(UART_LSR) & LSR_RX_READY))
			asm volatile("pause");
		switch (inb(COM1)) {
		case 's': stores(); break;
		case 'p': push_frame(n); break;
		case 'c': clear_marks(); break;
		case 'a': use_marked(); break;
		case 'i': read_port(n); break;
		case 't': store_to_table(); break;
		case 'r': lock_table(); break;
		case 'g': load_segment(n); break;
		case 'q': return 0;
		default: n--; continue;
		}
		dputs("done ");
		dprint_hex(n);
		dputs(".\n");
	}
}
