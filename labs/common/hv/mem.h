/*
 * Guest memory: one block of host memory that the guest calls physical, from gpa 0 upwards.
 *
 * guest_range() is the only way from a gpa to a host pointer. Everything that takes an address from a guest (a loader, a
 * device, the instruction emulator) goes through it, so there is one place where the bounds are checked.
 *
 * Address names used everywhere: gva (guest virtual), gpa (guest physical), ma (machine address: what KVM calls guest
 * physical), hva (host virtual).
 */
#ifndef HV_MEM_H
#define HV_MEM_H

#include <stddef.h>
#include <stdint.h>

#define KiB (1ull << 10)
#define MiB (1ull << 20)
#define GiB (1ull << 30)
#define PAGE (4 * KiB)

#define MEM_MIN (2 * MiB)  /* the smallest guest that the boot tables fit in */
#define MEM_MAX (3 * GiB)  /* the 32-bit MMIO hole begins here */

struct guest_mem {
	uint8_t *hva;  /* host address of gpa 0 */
	uint64_t size; /* bytes; a multiple of 4 KiB */
	/* Hears of what hv itself has written there, from whatever thread; NULL: nobody wants to know. Set before the guest runs. */
	void (*written)(void *opaque, uint64_t gpa, uint64_t len);
	void *opaque;
};

/* [gpa, gpa + len) was written through a pointer; guest_write() says so itself. Behind the write, never before it: who copies pages
 * and asks for this first would miss it. */
static inline void guest_written(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	if (mem->written)
		mem->written(mem->opaque, gpa, len);
}

/* Reserves zeroed memory for a guest. 0, -EINVAL (size out of MEM_MIN..MEM_MAX or not a multiple of 4 KiB), -ENOMEM. */
int guest_mem_create(struct guest_mem *mem, uint64_t size);
void guest_mem_destroy(struct guest_mem *mem);
/* The same for several guests in one block, which processes share after fork(): guest i's memory begins at *block + i * size. */
int guest_mem_share(uint8_t **block, uint64_t size, unsigned guests);

/* Memory of zeros for hv itself, of which only what is touched costs anything, one page at a time: where the host gives huge pages without
 * being asked for them, the first byte of malloc()'s would cost 2 MiB. NULL when there is none. */
void *sparse_alloc(size_t size);
void sparse_free(void *p, size_t size); /* NULL is allowed */

/* The host address of [gpa, gpa + len), or NULL when any byte of it lies outside guest memory. len 0 is a valid range. */
void *guest_range(const struct guest_mem *mem, uint64_t gpa, uint64_t len);

/* Copies out of or into guest memory. 0, or -EFAULT with nothing copied. */
int guest_read(const struct guest_mem *mem, uint64_t gpa, void *dst, uint64_t len);
int guest_write(const struct guest_mem *mem, uint64_t gpa, const void *src, uint64_t len);

#endif
