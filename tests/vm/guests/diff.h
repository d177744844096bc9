/*
 * The differential guest: random sequences of privileged instructions and exceptions, run the same way on every engine.
 *
 * A sequence is a dozen steps. A step loads all registers, enters one fragment of assembly at some privilege level with IRETQ,
 * and ends with the first event: an exception, an interrupt, or the `int $END` behind the fragment. What the event left in
 * registers and on the stack is mixed into a hash; at the end of the sequence so are the control, debug and model-specific
 * registers, and all memory that fragments can reach. One line per sequence is printed: its hash.
 */
#ifndef DIFF_H
#define DIFF_H

#include "desc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- diff-arena.c: the memory that a sequence may change, and the state that it starts from ------------------------------ */

/* Selectors beyond those of desc.h. */
#define SEL_TSS_B 0x48
#define SEL_LDT 0x58
#define SEL_DATA_RO 0x68
#define SEL_DATA3_FRESH 0x70 /* not yet marked as accessed */
#define SEL_DATA_DOWN 0x78
#define SEL_CODE_XO 0x80 /* execute-only */
#define SEL_CODE3 0x88
#define SEL_CONF0 0x90
#define SEL_CONF3 0x98
#define SEL_DATA_ABSENT 0xa0
#define SEL_CODE_ABSENT 0xa8
#define SEL_DATA1 0xb0
#define SEL_DATA2 0xb8
#define SEL_CODE1 0xc0
#define SEL_CODE2 0xc8
#define SEL_DATA_BASE 0xd0 /* with a base, for FS and GS */
#define SEL_DATA3_BASE 0xd8
#define SEL_DATA3_ABSENT 0xe0
#define SEL_TSS_ABSENT 0xe8
#define SEL_LDT_ABSENT 0xf8
#define SEL_NONSENSE 0x108 /* a system type that does not exist */
#define SEL_TSS_SHORT 0x110 /* ends behind RSP0 */
#define SEL_LDT_HIGH 0x120 /* lies above 4 GiB, where nothing is mapped */
#define GDT_ENTRIES 38
#define LDT_ENTRIES 6

#define SFMASK_START 0xfd5ull /* the status flags, TF, IF and DF */

#define END 0x81 /* the vector that ends a step */
#define IRQ_BASE 0x20
#define IRQ_UART (IRQ_BASE + 4)
#define ODD_GATES 0x30 /* 16 gates, most of them wrong in some way */
#define IDT_SHORT_LIMIT (0x82 * 16 - 1)

#define IOMAP_PORTS 0x400
#define TSS_IOMAP 0x68
#define TSS_LIMIT (TSS_IOMAP + IOMAP_PORTS / 8) /* one byte of ones ends the map */

enum { STACK_KERNEL, STACK_USER, STACK_RSP0, STACK_RSP0_B, STACK_IST1, STACK_IST2, STACKS };
#define STACK_SIZE 1024

struct arena {
	uint64_t gdt[2][GDT_ENTRIES];
	uint64_t ldt[LDT_ENTRIES];
	uint64_t idt[2][256][2];
	uint8_t tss[2][TSS_LIMIT + 1 + 7 - TSS_LIMIT % 8];
	uint8_t data[512];
	uint8_t stack[STACKS][STACK_SIZE];
} __attribute__((aligned(4096)));
extern struct arena arena;

#define ABOVE_4G 0x100000000ull
#define NON_CANONICAL 0x0000800000000000ull

/* Builds the pristine arena. Once. */
void arena_init(void);
/* Puts memory and all registers into the state that every sequence begins with. */
void arena_reset(uint64_t stack_fill);
/* Undoes what would keep further steps from being delivered: reloads TR. */
void arena_repair_tr(void);
/* One hash for each part, in the order of struct arena. */
#define ARENA_PARTS 6
extern const char *const arena_part_names[ARENA_PARTS];
uint64_t arena_hash(unsigned part);

extern bool irq_raised; /* the UART's interrupt is pending */
void irq_acknowledge(void);

/* --- diff-fragments.c: what is run -------------------------------------------------------------------------------------- */

uint64_t random64(void);
static inline unsigned below(unsigned n) { return (unsigned)(random64() >> 33) % n; }
static inline bool one_in(unsigned n) { return !below(n); }

struct fragment {
	const char *name;
	const uint8_t *code, *end;
	void (*prepare)(struct trap_frame *f); /* sets the registers that the fragment wants; NULL: any will do */
	unsigned levels;                       /* a bit for each privilege level that it may run at */
	unsigned flags;
};
#define SHORT_TR 1 /* may leave a task register with which nothing can be delivered to an IST */
#define NO_TF 2    /* not with the trap flag: see where it is used */
#define GOOD_RSP 4 /* not with a stack pointer that points nowhere */

extern const struct fragment fragments[];
extern const unsigned nfragments;
/* What is run at the end of each sequence to see the registers that no event shows. */
extern const struct fragment observers[];
extern const unsigned nobservers;
extern const uint8_t landing[]; /* int $END, for jumps */

/* --- diff-asm.S ----------------------------------------------------------------------------------------------------------- */

/* Enters the frame; returns when an event ends the step, after on_event(). */
void enter(struct trap_frame *f);
void on_event(struct trap_frame *f, uint64_t handler_flags);
extern const uint8_t stubs[256][16];

#endif
