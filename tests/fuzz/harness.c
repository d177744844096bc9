/*
 * A driver made of random bytes. Most of what a fuzzer tries would never get past the negotiation, so the operations are of two kinds: raw
 * ones (any register, any byte of memory), and helpers that do what a correct driver does (negotiate, set up a queue, add a chain, kick),
 * which the raw ones then spoil.
 *
 * Behind the guest's memory nothing is mapped, so an access outside it ends the process. After each input the device must still be able to be
 * reset and driven, and nothing that looks like a pointer of this process may be in the guest's memory.
 *
 * There are no threads of hv's here: the event loop makes a pass when the input says so, and time is what this file says.
 */
#include "harness.h"
#include "engine.h"
#include "lab4.h"
#include "vm_life.h"
#include "vring.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY (2 * MiB)
#define DRIVEN (144 * KiB) /* of it the driver works in */
#define SIZE 16u	   /* of the queues of the correct driver */
#define RING(q) (0x1000u + 0x2000u * (q))
#define AVAIL 0x400u
#define USED 0x800u
#define TABLE 0xc000u
#define BUFFERS 0x10000u

static struct vm vm;
static struct virtio_dev *dev; /* the one that this input drives */
static unsigned line_changes;
static uint64_t now = 1;

/* Between two passes of the loop every timer becomes due. */
uint64_t clock_ns(void)
{
	return now;
}

static void irq_line(struct vm *v, unsigned irq, bool level)
{
	(void)v;
	(void)irq;
	(void)level;
	line_changes++;
}
static void kick(struct vm *v)
{
	(void)v;
}
static const struct engine_ops engine_none = { .name = "none", .irq_line = irq_line, .kick = kick };

struct input {
	const uint8_t *data;
	size_t len;
};

static uint32_t take(struct input *in, unsigned bytes)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < bytes && in->len; i++, in->data++, in->len--)
		value |= (uint32_t)*in->data << 8 * i;
	return value;
}

static uint64_t slot(void)
{
	return VIRTIO_MMIO_BASE + dev->slot * VIRTIO_MMIO_STRIDE;
}

static void reg(unsigned offset, uint32_t value)
{
	bus_write(&vm.mmio, slot() + offset, 4, value);
}

static uint32_t get(unsigned offset)
{
	uint64_t value;

	bus_read(&vm.mmio, slot() + offset, 4, &value);
	return (uint32_t)value;
}

static void store(uint64_t gpa, const void *p, size_t len)
{
	if (guest_write(&vm.mem, gpa, p, len))
		abort();
}

static void set_up_queue(unsigned q)
{
	reg(0x30, q);
	reg(0x38, SIZE);
	reg(0x80, RING(q));
	reg(0x84, 0);
	reg(0x90, RING(q) + AVAIL);
	reg(0x94, 0);
	reg(0xa0, RING(q) + USED);
	reg(0xa4, 0);
	reg(0x44, 1);
}

/* What a driver does that keeps to the rules, with these features as far as they are offered. */
static void negotiate(uint64_t features)
{
	features &= dev->offered;
	features |= F_VERSION_1;
	reg(0x70, 0);
	reg(0x70, STATUS_ACKNOWLEDGE);
	reg(0x70, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	reg(0x24, 0);
	reg(0x20, (uint32_t)features);
	reg(0x24, 1);
	reg(0x20, (uint32_t)(features >> 32));
	reg(0x70, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	memset(guest_range(&vm.mem, 0, 0xc000), 0, 0xc000);
	for (unsigned q = 0; q < dev->ops->nqueues; q++)
		set_up_queue(q);
	reg(0x70, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

/* A chain of 1 to 4 buffers, the first `out` of them readable. Packed: in the slots from `at` on, made available. */
static void add_chain(struct input *in)
{
	unsigned q = take(in, 1) % dev->ops->nqueues, shape = take(in, 1), n = 1 + shape % 4, out = shape / 4 % 5,
		 at = shape / 32;
	bool packed = virtio_has(dev, F_RING_PACKED), indirect = take(in, 1) & 1;
	uint64_t table = indirect ? TABLE : RING(q) + 16 * (uint64_t)at;

	for (unsigned i = 0; i < n; i++) {
		uint32_t len = take(in, 2), where = take(in, 1);
		uint16_t flags = (uint16_t)((i < out ? 0 : DESC_F_WRITE) | (i + 1 < n ? DESC_F_NEXT : 0));
		if (packed) {
			struct packed_desc d = { BUFFERS + 256 * (uint64_t)where, len, (uint16_t)at,
						 (uint16_t)(flags | (indirect ? 0 : PACKED_F_AVAIL)) };
			store(table + 16 * i, &d, sizeof d);
		} else {
			struct split_desc d = { BUFFERS + 256 * (uint64_t)where, len, flags,
						(uint16_t)((indirect ? 0 : at) + i + 1) };
			store(table + 16 * i, &d, sizeof d);
		}
	}
	if (indirect && packed) {
		struct packed_desc d = { TABLE, 16 * n, (uint16_t)at, DESC_F_INDIRECT | PACKED_F_AVAIL };
		store(RING(q) + 16 * (uint64_t)at, &d, sizeof d);
	} else if (indirect) {
		struct split_desc d = { TABLE, 16 * n, DESC_F_INDIRECT, 0 };
		store(RING(q) + 16 * (uint64_t)at, &d, sizeof d);
	}
	if (!packed) {
		struct split_avail *avail = guest_range(&vm.mem, RING(q) + AVAIL, 4 + 2 * SIZE);
		avail->ring[avail->idx % SIZE] = (uint16_t)at;
		avail->idx++;
	}
}

/* The world goes on: frames arrive, requests of the disk complete, timers run out. */
static void outside(const uint8_t *bytes, size_t len)
{
	fuzz_outside(&vm, bytes, len);
	now += 1000000000;
	loop_pass(&vm.loop, false);
}

/* One operation. */
static void operate(struct input *in)
{
	uint8_t bytes[256];
	uint64_t value;
	unsigned op = take(in, 1);

	switch (op % 10) {
	case 0: reg(take(in, 1) % 0x80 * 4, take(in, 4)); break;
	case 1: bus_read(&vm.mmio, slot() + take(in, 2) % VIRTIO_MMIO_LEN, 1u << op / 10 % 4, &value); break;
	case 2: bus_write(&vm.mmio, slot() + take(in, 2) % VIRTIO_MMIO_LEN, 1u << op / 10 % 4, take(in, 4)); break;
	case 3: {
		uint32_t at = take(in, 3) % (DRIVEN - sizeof bytes);
		unsigned len = take(in, 1);
		for (unsigned i = 0; i < len; i++)
			bytes[i] = (uint8_t)take(in, 1);
		store(at, bytes, len);
		break;
	}
	case 4: reg(0x50, take(in, 1)); break;
	case 5: negotiate((uint64_t)take(in, 4) | (uint64_t)take(in, 1) << 32); break;
	case 6: add_chain(in); break;
	case 7: /* the header of a request, where a device looks for it */
		for (unsigned i = 0; i < 16; i++)
			bytes[i] = (uint8_t)take(in, 1);
		store(BUFFERS + 256 * (uint64_t)take(in, 1), bytes, 16);
		break;
	case 8: {
		unsigned len = take(in, 1);
		for (unsigned i = 0; i < len; i++)
			bytes[i] = (uint8_t)take(in, 1);
		outside(bytes, len);
		break;
	}
	case 9: reg(0x64, 3); break;
	}
}

/* None of this is instrumented, else libFuzzer would learn where the memory is. */
#define NOT_INSTRUMENTED __attribute__((no_sanitize("address", "undefined", "coverage")))

NOT_INSTRUMENTED static bool is_pointer(uint64_t value)
{
	return value - (uintptr_t)vm.mem.hva < vm.mem.size || value - (uintptr_t)dev < sizeof *dev;
}

/* Host pointers in guest memory: the guest could read where hv is. */
NOT_INSTRUMENTED static void look_for_pointers(void)
{
	const uint64_t *words = (const uint64_t *)vm.mem.hva;

	for (uint64_t i = 0; i < DRIVEN / 8; i++)
		if (is_pointer(words[i])) {
			fprintf(stderr, "a pointer of hv's is in guest memory at 0x%llx\n", (unsigned long long)i * 8);
			abort();
		}
}

/* libFuzzer makes inputs from what is compared anywhere in the program, and some of that is pointers. Of their eight bytes six are not 0. */
NOT_INSTRUMENTED static bool brings_pointer(const uint8_t *data, size_t len)
{
	uint64_t last = 0;

	for (size_t i = 0; i < len; i++) {
		last = last >> 8 | (uint64_t)data[i] << 40;
		if (is_pointer(last))
			return true;
	}
	return false;
}

static void start(void)
{
	vm.opt.engine = "kvm";
	vm_init(&vm);
	vm.engine = &engine_none;
	for (unsigned i = 0; i < VIRTIO_SLOTS; i++)
		vm.opt.device[i].rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;
	/* Nothing is mapped on both sides, so that what is outside is noticed. */
	uint8_t *all = mmap(NULL, 3 * MEMORY, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED || mprotect(all + MEMORY, MEMORY, PROT_READ | PROT_WRITE) || loop_init(&vm.loop, &vm.lock))
		abort();
	vm.mem = (struct guest_mem){ .hva = all + MEMORY, .size = MEMORY };
	bus_init(&vm.pio, "port");
	bus_init(&vm.mmio, "address");
	fuzz_create(&vm);
	if (!vm.nvirtio || vm.stopping) {
		fprintf(stderr, "no device: %s\n", vm.reason);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };

	if (!vm.nvirtio)
		start();
	dev = vm.virtio[vm.nvirtio > 1 ? take(&in, 1) % vm.nvirtio : 0];
	if (brings_pointer(data, len))
		return -1; /* not for the corpus */
	pthread_mutex_lock(&vm.lock);
	memset(vm.mem.hva, 0, DRIVEN);
	negotiate(~0ull ^ (len & 1 ? F_RING_PACKED : 0));
	while (in.len)
		operate(&in);
	outside(NULL, 0);
	look_for_pointers();
	/* Whatever was done: a reset works, and then the device. */
	negotiate(0);
	if (get(0x70) != (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK) || vm.stopping) {
		fprintf(stderr, "after a reset the status is 0x%x\n", get(0x70));
		abort();
	}
	reg(0x70, 0);
	pthread_mutex_unlock(&vm.lock);
	return 0;
}
