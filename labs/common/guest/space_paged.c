/*
 * Address spaces. There is no other description of a process' memory than its page tables: a page belongs to it when its
 * entry is not 0. Whether a frame is behind it yet, and whether others share that, only page faults ever ask.
 */
#include "space.h"

#include "console.h"
#include "frames.h"
#include "io.h"
#include "pgtable.h"
#include "proc.h"
#include "string.h"
#include "syscall.h"
#include "trap.h"
#include "user.h"

#define CPUID_1_EDX_PGE (1u << 13)
#define CR4_PGE (1 << 7)

#define ERROR_P (1 << 0) /* a page is there, but the access is not allowed */
#define ERROR_W (1 << 1)
#define ERROR_U (1 << 2)
#define ERROR_RESERVED (1 << 3)
#define ERROR_FETCH (1 << 4)

#define CODE (PTE_U)
#define DATA (PTE_U | PTE_MAYWRITE | PTE_NX)

#define USER_STACK (USER_END - USER_STACK_PAGES * PAGE_SIZE)

const char space_kind[] = "paged memory, at most 39 processes";
_Static_assert(NPROC == 40, "space_kind says it");

/* paged.ld. The image of the user programs is at a gpa too; user_image_start is its gva. */
extern const char user_image_gpa[], user_bss_start[], user_bss_end[];

static uint64_t kernel_root; /* of the tables without user memory */
static unsigned free_at_start;

/*
 * What boot_paging() had mapped from 0 for the jump goes. PGE comes afterwards: until then the TLB holds no global entry,
 * and loading CR3 drops all of it (SDM vol. 3, 4.10.4.1).
 */
void space_init(const struct hvm_start_info *info)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;

	kernel_root = read_cr3();
	pt_set(pt_entry(PT_ROOT, 0), 0);
	pt_flush_all();
	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	if (edx & CPUID_1_EDX_PGE)
		write_cr4(read_cr4() | CR4_PGE);
	frames_init(info);
	free_at_start = frames_free();
}

const void *space_direct(uint64_t gpa)
{
	return direct(gpa);
}

/* The entry of a page of user memory; NULL when there is no such page. */
static pte_t *find_user(uint64_t gva)
{
	pte_t *e = gva < USER_END ? pt_find(gva) : NULL;

	return e && *e ? e : NULL;
}

/* Takes pages away, with the frames that they have. */
static void remove(uint64_t begin, uint64_t end)
{
	for (uint64_t gva = begin; gva < end; gva += PAGE_SIZE) {
		pte_t old = __atomic_exchange_n(find_user(gva), 0, __ATOMIC_SEQ_CST);

		if (!(old & PTE_P))
			continue;
		pt_flush_page(gva);
		frame_put(old & PTE_ADDR);
	}
}

/* Makes pages that have no frame yet; all or none. */
static int add_lazy(uint64_t begin, uint64_t end, pte_t access)
{
	for (uint64_t gva = begin; gva < end; gva += PAGE_SIZE) {
		pte_t *e = pt_make(gva);

		if (!e) {
			remove(begin, gva);
			return -SYS_ENOMEM;
		}
		pt_set(e, access | PTE_LAZY);
	}
	return 0;
}

static int add_programs(void)
{
	uint64_t gpa = (uint64_t)user_image_gpa;

	for (uint64_t gva = (uint64_t)user_image_start; gva < (uint64_t)user_image_end; gva += PAGE_SIZE, gpa += PAGE_SIZE) {
		pte_t *e = pt_make(gva);

		if (!e)
			return -SYS_ENOMEM;
		frame_get(gpa);
		pt_set(e, gpa | CODE | PTE_P);
	}
	return 0;
}

/* Entries are made through the self-map, so the new space is the current one meanwhile. */
int space_create(struct space *s)
{
	uint64_t before = read_cr3();
	int error;

	*s = (struct space){ .base = pt_new_root(), .heap_end = USER_HEAP };
	if (!s->base)
		return -SYS_ENOMEM;
	write_cr3(s->base);
	error = add_programs();
	if (!error)
		error = add_lazy((uint64_t)user_bss_start, (uint64_t)user_bss_end, DATA);
	if (!error)
		error = add_lazy(USER_STACK, USER_END, DATA);
	write_cr3(before);
	if (error)
		space_free(s);
	return error;
}

/*
 * Copy on write: parent and child go on with the same frames, and neither may write to them. W is taken from the parent's
 * entry by one locked instruction: between a read and a write another CPU could set the accessed or the dirty bit.
 */
static pte_t share(pte_t *from)
{
	if (!(*from & PTE_P))
		return *from;
	frame_get(*from & PTE_ADDR);
	if (*from & PTE_W)
		__atomic_fetch_and(from, ~PTE_W, __ATOMIC_SEQ_CST);
	return *from;
}

int space_fork(struct space *child)
{
	bool complete;

	*child = (struct space){ .base = pt_new_root(), .heap_end = current->space.heap_end };
	if (!child->base)
		return -SYS_ENOMEM;
	complete = pt_copy(child->base, share);
	pt_flush_all(); /* many pages have lost W */
	if (!complete)
		space_free(child);
	return complete ? 0 : -SYS_ENOMEM;
}

/* Memory is only given back when no TLB entry leads there: the current tables are left first. */
void space_free(struct space *s)
{
	if (read_cr3() == s->base)
		write_cr3(kernel_root);
	pt_free(s->base);
	s->base = 0;
}

bool space_all_back(void)
{
	if (frames_free() == free_at_start) {
		kprintf("all page frames came back\n");
		return true;
	}
	kprintf("%d page frames did not come back\n", (int)(free_at_start - frames_free()));
	return false;
}

void space_switch(const struct space *s)
{
	write_cr3(s->base ? s->base : kernel_root);
}

uint64_t space_stack_top(const struct space *s)
{
	(void)s;
	return USER_END;
}

bool space_may_read(uint64_t addr, uint64_t len)
{
	if (addr >= USER_END || len > USER_END - addr)
		return false;
	for (uint64_t gva = addr / PAGE_SIZE * PAGE_SIZE; gva < addr + len; gva += PAGE_SIZE) {
		const pte_t *e = find_user(gva);

		if (!e || !(*e & PTE_U))
			return false;
	}
	return true;
}

static bool allowed(pte_t e, uint64_t error)
{
	return !(error & ERROR_RESERVED) && !(error & ERROR_U && !(e & PTE_U)) &&
	       !(error & ERROR_W && !(e & PTE_MAYWRITE)) && !(error & ERROR_FETCH && e & PTE_NX);
}

/* The first access to a page. */
static bool fill(pte_t *e)
{
	uint64_t frame = frame_alloc_zeroed();

	if (!frame)
		return false;
	pt_set(e, (*e & ~PTE_LAZY) | frame | PTE_P | (*e & PTE_MAYWRITE ? PTE_W : 0));
	return true; /* nothing to flush: it was not present */
}

/* The first write since the frame has been shared: its last user simply keeps it, others take a copy. */
static bool make_writable(pte_t *e, uint64_t gva)
{
	uint64_t old = *e & PTE_ADDR, new = old;

	if (frame_users(old) > 1) {
		new = frame_alloc();
		if (!new)
			return false;
		memcpy(direct(new), direct(old), PAGE_SIZE);
	}
	pt_set(e, (*e & ~PTE_ADDR) | new | PTE_W);
	pt_flush_page(gva); /* strictly, the page fault has done that (SDM vol. 3, 4.10.4.1) */
	if (new != old)
		frame_put(old);
	return true;
}

bool space_fault(uint64_t addr, uint64_t error)
{
	pte_t *e = find_user(addr);

	if (!e || !allowed(*e, error))
		return false;
	if (!(*e & PTE_P))
		return fill(e);
	return error & ERROR_W && make_writable(e, addr);
}

int64_t space_grow(int64_t bytes)
{
	uint64_t before = current->space.heap_end, after = before + bytes;
	int error = 0;

	if (bytes % (int64_t)PAGE_SIZE || after < USER_HEAP || after > USER_STACK - PAGE_SIZE)
		return -SYS_EINVAL;
	if (after < before)
		remove(after, before);
	else
		error = add_lazy(before, after, DATA);
	if (error)
		return error;
	current->space.heap_end = after;
	return before;
}

int space_protect(uint64_t addr, uint64_t len, unsigned access)
{
	pte_t bits = (access & SPACE_READ ? PTE_U : 0) | (access & SPACE_WRITE ? PTE_MAYWRITE : 0) |
		     (access & SPACE_EXEC ? 0 : PTE_NX);

	if (addr % PAGE_SIZE || len % PAGE_SIZE || addr >= USER_END || len > USER_END - addr)
		return -SYS_EINVAL;
	for (uint64_t gva = addr; gva < addr + len; gva += PAGE_SIZE)
		if (!find_user(gva))
			return -SYS_ENOMEM;
	for (uint64_t gva = addr; gva < addr + len; gva += PAGE_SIZE) {
		pte_t *e = pt_find(gva);

		/* W comes with the first write, by way of a page fault: it depends on who else has the frame. */
		pt_set(e, (*e & ~(PTE_U | PTE_W | PTE_MAYWRITE | PTE_NX)) | bits);
		pt_flush_page(gva);
	}
	return 0;
}
