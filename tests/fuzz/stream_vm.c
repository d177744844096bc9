#define _GNU_SOURCE /* memfd_create */
#include "stream_vm.h"
#include "engine.h"
#include "incoming.h"
#include "kvm_state_io.h"
#include "lab4.h"
#include "vcpu_state.h"
#include "virtio_balloon.h"
#include "virtio_console.h"
#include "virtio_state.h"
#include "vm_life.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (2 * MiB)

struct vm vm;
uint64_t now;
static uint8_t *memory;
int file, again;
static int disk;

uint64_t clock_ns(void)
{
	return now;
}

/* --- an engine that runs nothing --------------------------------------------------------------------------------- */

static void irq_line(struct vm *v, unsigned irq, bool level)
{
	(void)v, (void)irq, (void)level;
}
static void kick(struct vm *v)
{
	(void)v;
}

static void clock_io(struct vm *v, struct state_io *io)
{
	uint64_t tsc = 1;

	(void)v;
	STATE(io, tsc);
}

static void vcpu_io(struct vm *v, unsigned cpu, struct state_io *io)
{
	struct vcpu_state s;

	(void)cpu;
	vcpu_state_of(v, &s);
	vcpu_state_io(&s, io);
	if (io->loading && !state_failed(io))
		v->vcpu = s.cpu;
}

static void kvm_io(struct vm *v, unsigned cpu, struct state_io *io)
{
	static struct kvm_cpu_state state;

	(void)v, (void)cpu;
	if (!io->loading)
		state = (struct kvm_cpu_state){ .regs.rflags = 2, .xcrs.nr_xcrs = 1, .xsave_size = 4096, .nmsrs = 3 };
	kvm_cpu_state_io(&state, io);
}

static void kvm_chips(struct vm *v, struct state_io *io)
{
	static struct kvm_chips_state state;

	(void)v;
	if (!io->loading) {
		state = (struct kvm_chips_state){ 0 };
		state.ioapic.base_address = IOAPIC_BASE;
	}
	kvm_chips_state_io(&state, io);
}

static int cpuid(struct vm *v, struct cpuid_table *out)
{
	(void)v;
	*out = (struct cpuid_table){ .n = 3,
				     .entry = { { .function = 0, .eax = 1, .ebx = 0x68747541 },
						{ .function = 1, .eax = 0x800f12, .ecx = 0x7ffafbff, .edx = 0x178bfbff },
						{ .function = 0x80000008, .eax = 0x3030 } } };
	return 0;
}

static const struct engine_ops engines[2] = {
	{ .name = "trap",
	  .state_kind = "vcpu",
	  .irq_line = irq_line,
	  .kick = kick,
	  .clock_io = clock_io,
	  .cpu_io = vcpu_io },
	{ .name = "kvm",
	  .state_kind = "kvm",
	  .irq_line = irq_line,
	  .kick = kick,
	  .clock_io = clock_io,
	  .cpu_io = kvm_io,
	  .chips_io = kvm_chips,
	  .cpuid_table = cpuid,
	  .has_pic = true,
	  .has_pit = true },
};

/* --- a VM -----------------------------------------------------------------------------------------------------------  */

static void add(const char *name, int (*create)(struct vm *vm, const char *arg), const char *arg)
{
	const uint64_t rings = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | F_RING_PACKED;

	vm.opt.device[vm.opt.ndevices++] = (struct device_option){ create, arg, rings, name };
	if (create(&vm, arg))
		abort();
}

static void make_vm(unsigned which)
{
	static char image[40];

	vm = (struct vm){ .opt = { .engine = engines[which].name, .mem_size = MEMORY, .cpus = 1, .gdb_port = -1 } };
	vm_init(&vm);
	vm.engine = &engines[which];
	vm.phys_bits = 40;
	/* Outside of the memory nothing is mapped. In it something may be, of the input before. */
	if (mmap(memory, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    loop_init(&vm.loop, &vm.lock))
		abort();
	vm.mem = (struct guest_mem){ .hva = memory, .size = MEMORY };
	boot_vcpu(&vm.vcpu, &(const struct boot_state){ .mode = BOOT_LONG, .entry = 0x1000 });
	bus_init(&vm.pio, "port");
	bus_init(&vm.mmio, "address");
	if (vm_create_devices(&vm))
		abort();
	snprintf(image, sizeof image, "/proc/self/fd/%d", disk);
	add("disk", blk_create, image);
	add("net", net_create, "user");
	add("rng", rng_create, NULL);
	add("console", virtio_console_create, NULL);
	add("balloon", virtio_balloon_create, NULL);
}

void end_vm(void)
{
	incoming_destroy(&vm);
	virtio_destroy(&vm);
	written_free(&vm);
	loop_destroy(&vm.loop);
	pthread_cond_destroy(&vm.wake);
	pthread_mutex_destroy(&vm.lock);
}

void reg(const struct virtio_dev *d, unsigned offset, uint32_t value)
{
	bus_write(&vm.mmio, VIRTIO_MMIO_BASE + d->slot * VIRTIO_MMIO_STRIDE + offset, 4, value);
}

void start_device(const struct virtio_dev *d)
{
	uint64_t features = F_VERSION_1 | (d->slot % 2 ? F_RING_PACKED : 0);

	reg(d, 0x70, 0);
	reg(d, 0x70, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	reg(d, 0x24, 1);
	reg(d, 0x20, (uint32_t)(features >> 32));
	reg(d, 0x70, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	for (unsigned q = 0; q < d->ops->nqueues; q++) {
		uint32_t at = 0x10000 + 0x8000 * d->slot + 0x2000 * q;
		reg(d, 0x30, q);
		reg(d, 0x38, 16);
		reg(d, 0x80, at);
		reg(d, 0x90, at + 0x800);
		reg(d, 0xa0, at + 0x1000);
		reg(d, 0x44, 1);
	}
	reg(d, 0x70, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

/* Platform devices that are at work: a timer that runs, interrupts that are unmasked, a UART with its FIFO. */
static void start_platform(void)
{
	static const struct {
		uint16_t port;
		uint8_t value;
	} writes[] = {
		{ 0x20, 0x11 }, { 0x21, 0x20 },	 { 0x21, 4 },	{ 0x21, 1 },	{ 0x21, 0 },	{ 0xa0, 0x11 },
		{ 0xa1, 0x28 }, { 0xa1, 2 },	 { 0xa1, 1 },	{ 0x43, 0x34 }, { 0x40, 0 },	{ 0x40, 0x10 },
		{ 0x3f9, 3 },	{ 0x3fa, 0xc7 }, { 0x70, 0xb }, { 0x71, 0x42 }, { 0x64, 0x20 },
	};

	for (unsigned i = 0; i < sizeof writes / sizeof *writes; i++)
		bus_write(&vm.pio, writes[i].port, 1, writes[i].value);
}

/* --- what it is saved as ----------------------------------------------------------------------------------------- */

struct piece saved[2][SECTIONS];
unsigned nsaved[2];

static void struct_out(struct stream *s, uint16_t type, unsigned which)
{
	struct cpuid_table table;
	struct config config;
	struct state_io io;

	state_save_begin(&io, "it", 0);
	if (type == SECTION_CONFIG) {
		config_of(&vm, &config);
		config_io(&config, &io);
	} else if (which) {
		cpuid(&vm, &table);
		cpuid_table_io(&table, &io);
	}
	struct iovec iov = { io.data, io.len };
	if (io.len && section_write(s, type, 0, &iov, 1))
		abort();
	state_free(&io);
}

int save(int fd, unsigned which)
{
	static uint64_t said[2];
	struct iovec iov = { said, sizeof said };
	struct stream s;

	if (stream_init(&s) || ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET))
		abort();
	s.wire.fd = dup(fd);
	s.align = true;
	if (stream_begin(&s, 1, 0))
		abort();
	struct_out(&s, SECTION_CONFIG, which);
	struct_out(&s, SECTION_CPUID, which);
	if (pages_write(&s, &vm.mem, 0, MEMORY / PAGE) || section_write(&s, SECTION_ROUND, 1, &iov, 1))
		abort();
	vm.stopped_ns = now;
	pthread_mutex_lock(&vm.lock);
	int err = virtio_settle(&vm);
	pthread_mutex_unlock(&vm.lock);
	if (!err)
		err = machine_save(&vm, &s);
	if (err)
		fprintf(stderr, "it cannot be saved: %s\n", s.err);
	stream_free(&s);
	return err;
}

static void read_saved(unsigned which)
{
	struct section sec;
	struct stream s;

	if (stream_init(&s) || lseek(file, 0, SEEK_SET))
		abort();
	s.wire.fd = dup(file);
	if (stream_expect(&s))
		abort();
	do {
		struct piece *p = &saved[which][nsaved[which]++];
		if (section_read(&s, &sec))
			abort();
		*p = (struct piece){ sec.header.type, 1, sec.header.instance, sec.header.length,
				     malloc(sec.header.length + 1) };
		memcpy(p->payload, sec.payload, p->length);
	} while (sec.header.type != SECTION_END && nsaved[which] < SECTIONS / 2);
	stream_free(&s);
}

bool load(unsigned which, bool lazy)
{
	static char path[40];

	make_vm(which);
	snprintf(path, sizeof path, "/proc/self/fd/%d", file);
	vm.opt.restore = path;
	vm.opt.lazy = lazy;
	return !incoming_take(&vm);
}

void start(void)
{
	uint8_t *all = mmap(NULL, 3 * MEMORY, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (all == MAP_FAILED)
		abort();
	memory = all + MEMORY;
	disk = memfd_create("disk", MFD_CLOEXEC);
	file = memfd_create("stream", MFD_CLOEXEC);
	again = memfd_create("again", MFD_CLOEXEC);
	if (disk < 0 || file < 0 || again < 0 || ftruncate(disk, 64 * KiB))
		abort();
	for (unsigned which = 0; which < 2; which++) {
		now = 1000000000000;
		make_vm(which);
		start_platform();
		for (unsigned i = 0; i < vm.nvirtio; i++)
			start_device(vm.virtio[i]);
		memory[5 * PAGE] = 1; /* so that not all is zero */
		if (save(file, which))
			abort();
		read_saved(which);
		end_vm();
		if (!load(which, false)) {
			fprintf(stderr, "what nobody has changed is refused: %s\n", vm.reason);
			abort();
		}
		end_vm();
	}
}
