/*
 * The receiving side: a file that somebody made to do harm, given to what hv restore and hv run --incoming read it with.
 * There is a VM without an engine, with all devices, some of them at work; what it is saved as is the file, and the input
 * is what is changed of it. So the fuzzer need not find out checksums and forms: an edit is a few bytes, and all sums are
 * right again behind it unless it says otherwise.
 *
 * Whatever comes in: no access outside of what is there, no number that overflows, and an end with a sentence. What was
 * accepted is a VM: its devices can be used, and it can be saved again.
 */
#include "stream_vm.h"
#include "virtio_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAYLOAD (64 * KiB)
#define SPOILS 8

/* --- the input --------------------------------------------------------------------------------------------------- */

struct input {
	const uint8_t *data;
	size_t len;
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes && in->len; i++, in->data++, in->len--)
		value |= (uint64_t)*in->data << 8 * i;
	return value;
}

struct edited {
	struct piece piece[SECTIONS];
	unsigned n;
	struct {
		uint64_t at;
		uint8_t bits;
	} spoil[SPOILS]; /* bytes that change behind the sums */
	unsigned spoils;
	uint64_t cut; /* the file ends there; 0: nowhere */
};

static uint8_t room[SECTIONS][PAYLOAD];

static void insert(struct edited *e, unsigned at, const struct piece *p)
{
	if (e->n == SECTIONS)
		return;
	memmove(&e->piece[at + 1], &e->piece[at], (e->n - at) * sizeof *p);
	e->piece[at] = *p;
	/* What it says is its own: the slot of `room` that nobody uses is the one behind all others. */
	e->piece[at].payload = memcpy(room[e->n], p->payload, p->length);
	e->n++;
}

static void edit(struct edited *e, struct input *in)
{
	unsigned op = (unsigned)take(in, 1), at = e->n ? (unsigned)take(in, 1) % e->n : 0;
	struct piece *p = &e->piece[at], other;
	uint32_t where = (uint32_t)take(in, 2) % (p->length + 1);
	unsigned size = 1u << op / 16 % 4;

	if (!e->n)
		return;
	switch (op % 16) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
	case 5: { /* a field */
		uint64_t value = take(in, size);
		if (where + size <= p->length)
			memcpy(p->payload + where, &value, size);
		break;
	}
	case 6:
		if (where < p->length)
			p->payload[where] ^= (uint8_t)take(in, 1);
		break;
	case 7: /* gone */
		memmove(p, p + 1, (e->n - at - 1) * sizeof *p);
		e->n--;
		break;
	case 8: insert(e, at, p); break;
	case 9:
		if (at + 1 < e->n) {
			other = p[0];
			p[0] = p[1];
			p[1] = other;
		}
		break;
	case 10: p->length = where; break;
	case 11:
		for (unsigned n = size * 2; n && p->length < PAYLOAD; n--)
			p->payload[p->length++] = (uint8_t)take(in, 1);
		break;
	case 12: p->instance = (uint32_t)take(in, size); break;
	case 13:
		if (size == 1)
			p->version = (uint16_t)take(in, 1);
		else
			p->type = (uint16_t)take(in, 1);
		break;
	case 14:
		if (e->spoils < SPOILS) {
			e->spoil[e->spoils].at = take(in, 3);
			e->spoil[e->spoils++].bits = (uint8_t)take(in, 1);
		}
		break;
	case 15: e->cut = take(in, 3); break;
	}
}

static void write_all(int fd, const void *p, size_t n)
{
	if (write(fd, p, n) != (ssize_t)n)
		abort();
}

static void write_file(const struct edited *e)
{
	struct stream_header h = { .version = STREAM_VERSION, .id = 1 };
	off_t end;

	if (ftruncate(file, 0) || lseek(file, 0, SEEK_SET))
		abort();
	memcpy(h.magic, STREAM_MAGIC, sizeof h.magic);
	h.crc = crc32c(0, &h, offsetof(struct stream_header, crc));
	write_all(file, &h, sizeof h);
	for (unsigned i = 0; i < e->n; i++) {
		const struct piece *p = &e->piece[i];
		struct section_header s = { p->type, p->version, p->instance, p->length, i, 0, 0 };
		s.crc = crc32c(crc32c(0, &s, offsetof(struct section_header, crc)), p->payload, p->length);
		write_all(file, &s, sizeof s);
		write_all(file, p->payload, p->length);
	}
	end = lseek(file, 0, SEEK_CUR);
	for (unsigned i = 0; i < e->spoils; i++) {
		uint8_t byte;
		off_t at = (off_t)(e->spoil[i].at % (uint64_t)end);
		if (pread(file, &byte, 1, at) != 1)
			abort();
		byte ^= e->spoil[i].bits;
		if (pwrite(file, &byte, 1, at) != 1)
			abort();
	}
	if (e->cut && ftruncate(file, (off_t)(e->cut % (uint64_t)end)))
		abort();
}

/* It was accepted, so it is a VM like any other. */
static void use_vm(unsigned which)
{
	uint64_t value;

	pthread_mutex_lock(&vm.lock);
	for (unsigned i = 0; i < 4; i++) {
		now += 300000000;
		loop_pass(&vm.loop, false);
	}
	for (unsigned port = 0x20; port < 0x400; port++)
		bus_read(&vm.pio, port, 1, &value);
	for (unsigned i = 0; i < vm.nvirtio; i++) {
		for (unsigned q = 0; q < vm.virtio[i]->ops->nqueues; q++)
			reg(vm.virtio[i], 0x50, q);
		for (unsigned offset = 0; offset < 0x110; offset += 4)
			bus_read(&vm.mmio, VIRTIO_MMIO_BASE + vm.virtio[i]->slot * VIRTIO_MMIO_STRIDE + offset, 4, &value);
	}
	loop_pass(&vm.loop, false);
	pthread_mutex_unlock(&vm.lock);
	if (!vm.stopping && save(again, which))
		abort();
	pthread_mutex_lock(&vm.lock);
	virtio_unsettle(&vm);
	for (unsigned i = 0; i < vm.nvirtio; i++)
		start_device(vm.virtio[i]);
	loop_pass(&vm.loop, false);
	pthread_mutex_unlock(&vm.lock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct edited e;
	struct input in = { data, len };

	if (!nsaved[1])
		start();
	now = 2000000000000;
	unsigned how = (unsigned)take(&in, 1), which = how & 1;
	e = (struct edited){ .n = nsaved[which] };
	for (unsigned i = 0; i < e.n; i++) {
		e.piece[i] = saved[which][i];
		e.piece[i].payload = memcpy(room[i], saved[which][i].payload, saved[which][i].length);
	}
	while (in.len)
		edit(&e, &in);
	write_file(&e);

	if (load(which, how & 2)) {
		use_vm(which);
	} else if (!vm.stopping || !vm.reason[0] || !vm.status) {
		fprintf(stderr, "refused without a sentence: status is %d\n", vm.status);
		abort();
	}
	end_vm();
	return 0;
}
