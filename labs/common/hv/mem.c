#include "mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int guest_mem_create(struct guest_mem *mem, uint64_t size)
{
	if (size < MEM_MIN || size > MEM_MAX || size % (4 * KiB))
		return -EINVAL;
	/* Aligned to 2 MiB so that the host may back it with huge pages, which makes a Linux guest boot faster. */
	uint64_t reserve = size + 2 * MiB;
	uint8_t *p = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	uint8_t *aligned = (uint8_t *)(((uintptr_t)p + 2 * MiB - 1) & ~(uintptr_t)(2 * MiB - 1));
	if (aligned != p)
		munmap(p, (size_t)(aligned - p));
	munmap(aligned + size, reserve - size - (size_t)(aligned - p));
	if (mprotect(aligned, size, PROT_READ | PROT_WRITE)) {
		munmap(aligned, size);
		return -ENOMEM;
	}
	madvise(aligned, size, MADV_HUGEPAGE);
	mem->hva = aligned;
	mem->size = size;
	return 0;
}

int guest_mem_share(uint8_t **block, uint64_t size, unsigned guests)
{
	if (size < MEM_MIN || size > MEM_MAX || size % (4 * KiB))
		return -EINVAL;
	*block = mmap(NULL, size * guests, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return *block == MAP_FAILED ? -ENOMEM : 0;
}

void guest_mem_destroy(struct guest_mem *mem)
{
	if (mem->hva)
		munmap(mem->hva, mem->size);
	mem->hva = NULL;
	mem->size = 0;
}

void *sparse_alloc(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, size, MADV_NOHUGEPAGE);
	return p;
}

void sparse_free(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

void *guest_range(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	/* Written so that neither side can overflow: gpa + len may wrap, size - gpa cannot. */
	if (gpa > mem->size || len > mem->size - gpa)
		return NULL;
	return mem->hva + gpa;
}

int guest_read(const struct guest_mem *mem, uint64_t gpa, void *dst, uint64_t len)
{
	const void *p = guest_range(mem, gpa, len);
	if (!p)
		return -EFAULT;
	memcpy(dst, p, len);
	return 0;
}

int guest_write(const struct guest_mem *mem, uint64_t gpa, const void *src, uint64_t len)
{
	void *p = guest_range(mem, gpa, len);
	if (!p)
		return -EFAULT;
	memcpy(p, src, len);
	guest_written(mem, gpa, len);
	return 0;
}
