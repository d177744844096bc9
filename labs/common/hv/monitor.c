/*
 * The monitor: all the code that hv has inside the machine. It is 256 stubs, and each does nothing but leave KVM_RUN:
 *
 *	out %al, $vector	-> KVM_EXIT_IO, port = vector, the trap frame on the monitor's stack
 *	add $8, %rsp		   (vectors with an error code)
 *	jmp resume		-> perhaps a new CR3; iretq: back into the guest, wherever hv made the frame point
 *
 * Editing the frame between the two is the world switch. No policy lives here.
 */
#include "paging.h"
#include "trapengine.h"

#include <string.h>

/* Vectors that push an error code (SDM vol. 3, table 6-1; 21 is #CP, 29 and 30 are AMD's #VC and #SX). */
static int has_error(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30;
}

static uint8_t *emit(uint8_t *p, const void *code, size_t len)
{
	memcpy(p, code, len);
	return p + len;
}

/* jmp MON_RESUME, from offset `at` in the monitor. */
static void emit_resume(uint8_t *p, uint64_t at)
{
	int32_t distance = (int32_t)(MON_RESUME - (at + 5));

	*p = 0xe9;
	memcpy(p + 1, &distance, 4);
}

/* The way back into the guest. Loading CR3 is how hv changes the machine's tables, or makes it forget what they were; it is here because
 * the machine does this without leaving KVM_RUN. The flags are the guest's again with iretq. */
static void write_resume(uint8_t *mon)
{
	uint64_t where = MONITOR_GVA + MON_NEXT_CR3;
	uint8_t *p = mon + MON_RESUME;

	p = emit(p, "\x50\x48\xa1", 3); /* push %rax; mov MON_NEXT_CR3,%rax */
	p = emit(p, &where, 8);
	p = emit(p, "\x48\x85\xc0\x74\x03\x0f\x22\xd8", 8); /* test %rax,%rax; je over; mov %rax,%cr3 */
	emit(p, "\x58\x48\xcf", 3);                            /* over: pop %rax; iretq */
}

static void write_stub(uint8_t *mon, unsigned vector)
{
	uint8_t *p = mon + MON_STUBS + vector * MON_STUB_SIZE;

	if (vector == 14) {
		/* CR2 is the one piece of a fault that is not in the frame: push %rax; mov %cr2,%rax; mov %rax,MON_CR2; pop %rax */
		uint64_t where = MONITOR_GVA + MON_CR2;
		p = emit(p, "\x50\x0f\x20\xd0\x48\xa3", 6);
		p = emit(p, &where, 8);
		p = emit(p, "\x58", 1);
	}
	uint8_t out[2] = { 0xe6, (uint8_t)vector };
	p = emit(p, out, 2);
	if (has_error(vector))
		p = emit(p, "\x48\x83\xc4\x08", 4); /* add $8,%rsp */
	emit_resume(p, (uint64_t)(p - mon));
}

void monitor_write(uint8_t *mon)
{
	uint64_t *gdt = (uint64_t *)(mon + MON_GDT);
	uint64_t *idt = (uint64_t *)(mon + MON_IDT);
	uint64_t tss = MONITOR_GVA + MON_TSS, rsp0 = MONITOR_GVA + MON_STACK_TOP;

	gdt[MON_CS / 8] = 0x00af9b000000ffff;   /* 64-bit code, DPL 0 */
	gdt[MON_SS / 8] = 0x00cf93000000ffff;   /* data, DPL 0 */
	gdt[GUEST_SS / 8] = 0x00cff3000000ffff; /* data, DPL 3; at syscall's place behind MON_SS */
	gdt[GUEST_CS / 8] = 0x00affb000000ffff; /* 64-bit code, DPL 3 */
	gdt[MON_TR / 8] = 0x67 | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
	gdt[MON_TR / 8 + 1] = tss >> 32;
	memcpy(mon + MON_TSS + 4, &rsp0, 8);
	/* An I/O map base behind the limit: no port is open to CPL 3. */
	*(uint16_t *)(mon + MON_TSS + 0x66) = 0x68;

	for (unsigned v = 0; v < 256; v++) {
		uint64_t h = MONITOR_GVA + MON_STUBS + v * MON_STUB_SIZE;
		write_stub(mon, v);
		/* 64-bit interrupt gate, DPL 0: `int n` at CPL 3 is refused by the CPU and so arrives as #GP. */
		idt[2 * v] = (h & 0xffff) | (uint64_t)MON_CS << 16 | 0x8eull << 40 | (h >> 16 & 0xffff) << 48;
		idt[2 * v + 1] = h >> 32;
	}
	/* syscall pushes no frame: the stub reports, hv builds a frame and points RSP at it, iretq goes on from there. Its port
	 * is a vector that no exception has and no `int` can reach, because the gates have DPL 0. */
	emit_resume(emit(mon + MON_SYSCALL, "\xe6\xf0", 2), MON_SYSCALL + 2);
	write_resume(mon);
}

uint64_t monitor_tables_write(uint8_t *pool, uint64_t guest_size)
{
	uint64_t next = 0x1000; /* the first page is the PML4 */
	uint64_t *pml4 = (uint64_t *)pool;

	/* Guest RAM: PDPT, page directories, and one page table where the size ends within 2 MiB. */
	uint64_t *pdpt = (uint64_t *)(pool + next);
	pml4[0] = (POOL_MA + next) | PTE_P | PTE_W | PTE_U;
	next += 0x1000;
	for (uint64_t gpa = 0; gpa < guest_size; gpa += 2 * MiB) {
		uint64_t *pde = &pdpt[gpa >> 30];
		if (!*pde) {
			*pde = (POOL_MA + next) | PTE_P | PTE_W | PTE_U;
			next += 0x1000;
		}
		uint64_t *pd = (uint64_t *)(pool + (*pde & ~0xfffull) - POOL_MA);
		if (guest_size - gpa >= 2 * MiB) {
			pd[gpa >> 21 & 511] = (GUEST_MA + gpa) | PTE_P | PTE_W | PTE_U | PTE_PS;
			continue;
		}
		uint64_t *pt = (uint64_t *)(pool + next);
		pd[gpa >> 21 & 511] = (POOL_MA + next) | PTE_P | PTE_W | PTE_U;
		next += 0x1000;
		for (uint64_t page = gpa; page < guest_size; page += 4 * KiB)
			pt[page >> 12 & 511] = (GUEST_MA + page) | PTE_P | PTE_W | PTE_U;
	}
	/* The monitor: one supervisor page of 2 MiB, out of the guest's reach. */
	pml4[511] = (POOL_MA + next) | PTE_P | PTE_W;
	((uint64_t *)(pool + next))[511] = (POOL_MA + next + 0x1000) | PTE_P | PTE_W;
	((uint64_t *)(pool + next + 0x1000))[511] = MONITOR_MA | PTE_P | PTE_W | PTE_PS;
	return POOL_MA;
}
