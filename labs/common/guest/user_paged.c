#include "user_paged.h"

#include "layout.h"
#include "space.h"
#include "user_lib.h"

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))

static int64_t fork(void)
{
	return syscall(SYS_FORK, 0, 0);
}

static int64_t wait(int64_t pid)
{
	return syscall(SYS_WAIT, pid, 0);
}

static uint64_t *sbrk(int64_t bytes)
{
	return (uint64_t *)syscall(SYS_SBRK, bytes, 0);
}

static void protect(const void *page, unsigned access)
{
	if (syscall3(SYS_MPROTECT, (uint64_t)page, PAGE, access))
		print("mprotect failed\n");
}

static int complain(const char *what)
{
	print(what);
	print("\n");
	return 1;
}

/* Of node 0, which is nobody, and zero before the first write; then every node of the tree has its own. */
static struct {
	uint64_t node;
	uint64_t data[2 * WORDS];
} tree;

static void tree_fill(void)
{
	for (uint64_t i = 0; i < 2 * WORDS; i++)
		tree.data[i] = tree.node * i;
}

static bool tree_holds(uint64_t node)
{
	for (uint64_t i = 0; i < 2 * WORDS; i++)
		if (tree.data[i] != node * i)
			return false;
	return true;
}

/* Each finds its parent's data, and changes it while the others look at theirs. */
static int grow_tree(uint64_t depth, uint64_t node)
{
	int64_t child[2];

	if (!tree_holds(tree.node))
		return complain("what was inherited is not what the parent had");
	tree.node = node;
	tree_fill();
	for (uint64_t i = 0; depth && i < 2; i++) {
		child[i] = fork();
		if (child[i] < 0)
			return complain("fork failed");
		if (!child[i])
			return grow_tree(depth - 1, node * 10 + i + 1);
	}
	syscall(SYS_YIELD, 0, 0);
	for (uint64_t i = 0; depth && i < 2; i++)
		if (wait(child[i]))
			return complain("a child has failed");
	print("node ");
	print_number(node);
	if (!tree_holds(node))
		return complain(" has lost its data");
	print(" has its own data\n");
	return 0;
}

/* The children of node 12 are 121 and 122. */
int user_tree(uint64_t depth)
{
	return grow_tree(depth, 1);
}

static bool all_zero(const uint64_t *words, uint64_t count)
{
	uint64_t any = 0;

	for (uint64_t i = 0; i < count; i++)
		any |= words[i];
	return !any;
}

static uint64_t sum(const uint64_t *words, uint64_t count)
{
	uint64_t result = 0;

	for (uint64_t i = 0; i < count; i++)
		result += words[i];
	return result;
}

int user_zero(uint64_t pages)
{
	uint64_t words = pages * WORDS, *heap = sbrk(pages * PAGE);

	if (!all_zero(heap, words))
		return complain("new memory is not zero");
	for (uint64_t i = 0; i < words; i++)
		heap[i] = i;
	print("the sum is ");
	print_number(sum(heap, words));
	sbrk(-(int64_t)(pages / 2 * PAGE));
	sbrk(pages / 2 * PAGE);
	if (!all_zero(heap + words / 2, words / 2))
		return complain(", but memory that was given back returns as it was");
	print(", and half of the memory given back leaves ");
	print_number(sum(heap, words));
	print("\n");
	return 0;
}

/* The array makes each call's frame large, volatile keeps the compiler from making a loop of it. */
static uint64_t descend(uint64_t calls)
{
	volatile uint64_t room[8] = { calls };

	return calls ? descend(calls - 1) + room[0] : 0;
}

int user_deep(uint64_t calls)
{
	print("the sum on the stack is ");
	print_number(descend(calls));
	print("\n");
	return 0;
}

int user_bottom(uint64_t unused)
{
	(void)unused;
	print("about to use up the stack\n");
	print_number(descend(-1));
	return complain("still here");
}

int user_readonly(uint64_t unused)
{
	volatile uint64_t *page = sbrk(PAGE);

	(void)unused;
	for (uint64_t i = 1; i <= 2; i++) {
		*page = i;
		protect((void *)page, SPACE_READ);
		print("read ");
		print_number(*page);
		print("\n");
		if (i == 1)
			protect((void *)page, SPACE_READ | SPACE_WRITE);
	}
	*page = 3;
	return complain("still here");
}

int user_noexec(uint64_t unused)
{
	uint64_t *page = sbrk(PAGE);
	void (*code)(void) = (void (*)(void))page;

	(void)unused;
	*(volatile uint8_t *)page = 0xc3; /* ret */
	protect(page, SPACE_READ | SPACE_EXEC);
	code();
	print("code that was written can be executed when that is asked for\n");
	protect(page, SPACE_READ | SPACE_WRITE);
	code();
	return complain("still here");
}

int user_spy(uint64_t address)
{
	if (syscall(SYS_WRITE, address, 1) == -SYS_EFAULT)
		print("the kernel does not read that for me\n");
	print_number(*(volatile uint64_t *)address);
	return complain(" is what I have read");
}

int user_null(uint64_t unused)
{
	const volatile uint64_t *pointer = (const uint64_t *)unused;

	print("about to follow a null pointer\n");
	print_number(*pointer);
	return complain(" is there");
}

/* A function whose bytes are known: it returns 1. */
int one(void);
asm("	.text\n"
    "one:	mov	$1, %eax\n"
    "	ret\n");
#define ONE_OPERAND 1 /* offset of the number in it */

int user_patch(uint64_t unused)
{
	char *page = (char *)((uint64_t)one / PAGE * PAGE);
	int64_t child = fork();

	(void)unused;
	if (!child) {
		protect(page, SPACE_READ | SPACE_WRITE | SPACE_EXEC);
		((volatile uint8_t *)one)[ONE_OPERAND] = 2;
		protect(page, SPACE_READ | SPACE_EXEC);
		return one();
	}
	print("in the child the function returns ");
	print_number(wait(child));
	print(", here ");
	print_number(one());
	print("\n");
	return 0;
}

#define CHANGED 16 /* so many pages are changed */

static void number_pages(uint64_t *heap, uint64_t pages, uint64_t step, uint64_t offset)
{
	for (uint64_t i = 0; i < pages; i += step)
		heap[i * WORDS] = i + offset;
}

static bool pages_hold(const uint64_t *heap, uint64_t pages, uint64_t step, uint64_t offset)
{
	for (uint64_t i = 0; i < pages; i++)
		if (heap[i * WORDS] != i + (i % step ? 0 : offset))
			return false;
	return true;
}

int user_bigfork(uint64_t pages)
{
	uint64_t step = pages / CHANGED, *heap = sbrk(pages * PAGE);
	volatile uint64_t *last = heap + pages * WORDS - 1;
	int64_t child;

	number_pages(heap, pages, 1, 0);
	*last = 1;
	child = fork();
	if (!child) {
		number_pages(heap, pages, step, 1000);
		return *last != 1 || !pages_hold(heap, pages, step, 1000);
	}
	*last = 2; /* the TLB must not remember that this page could be written a moment ago */
	if (wait(child) || !pages_hold(heap, pages, step, 0))
		return complain("parent and child have not each their own memory");
	number_pages(heap, pages, step, 2000); /* nobody else uses them any more: nothing is copied */
	if (!pages_hold(heap, pages, step, 2000))
		return complain("what was written after the child's end is not there");
	print("of ");
	print_number(pages);
	print(" pages the child has changed ");
	print_number(CHANGED);
	print(" and the parent has seen none of it\n");
	return 0;
}
