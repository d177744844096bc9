/*
 * Lab 4, checkpoints 4.12 to 4.14: the block device (virtio 1.2, 5.2).
 *
 * A request is a header that the device reads, data in one direction, and a status byte that it writes. How the driver cut that into
 * descriptors means nothing. Data goes from the guest's memory to the image and back without a copy, while the guest runs on: disk.h.
 */
#include "disk.h"
#include "lab4.h"
#include "state_io.h"

#include <stddef.h>

/* Features (5.2.3). */
#define BLK_F_SEG_MAX FEATURE(2)
#define BLK_F_RO FEATURE(5)
#define BLK_F_BLK_SIZE FEATURE(6)
#define BLK_F_FLUSH FEATURE(9)
#define BLK_F_CONFIG_WCE FEATURE(11)
#define BLK_F_DISCARD FEATURE(13)
#define BLK_F_WRITE_ZEROES FEATURE(14)

/* Requests and how they end (5.2.6). */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector; /* of 512 bytes, whatever blk_size says */
};

/* What discard and write-zeroes have as data, once or several times. */
#define RANGES_MAX 16u
#define RANGE_SECTORS_MAX (256 * MiB / SECTOR)
#define RANGE_UNMAP 1u
struct blk_range {
	uint64_t sector;
	uint32_t sectors, flags;
};

/* 5.2.4 */
struct blk_config {
	uint64_t capacity; /* sectors */
	uint32_t size_max, seg_max;
	uint16_t cylinders;
	uint8_t heads, sectors_per_track;
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};
#define BLK_CONFIG_LEN 60u
_Static_assert(offsetof(struct blk_config, writeback) == 32 && offsetof(struct blk_config, unused1) == BLK_CONFIG_LEN - 3,
	       "configuration layout");

struct blk;
struct blk_request {
	struct disk_request disk; /* what the backend is doing for it */
	struct blk *blk;
	struct blk_request *next; /* of those that are free */
	struct blk_header header; /* as it was read, once */
	uint64_t data_len;	  /* bytes of data, in one direction or the other */
	uint8_t *status;	  /* the last byte that the device may write */
	struct blk_range range[RANGES_MAX];
	unsigned nranges, next_range;
	struct vq_chain chain;
	struct iovec iov[VQ_IOV_MAX]; /* of the data */
};

struct blk {
	struct virtio_dev *dev;
	struct disk *disk;
	struct blk_config config;
	char id[DISK_ID_MAX];	  /* filled up with zeros, and without one if it is that long (5.2.6) */
	bool durable_writes;	  /* writethrough: a write is on stable storage when it is complete */
	bool waiting;		  /* there may be more in the ring, but no request was free for it */
	struct blk_request *free; /* given back, the last one first */
	unsigned fresh;		  /* of the array, how many were ever needed: memory that was never touched costs nothing */
	struct blk_request request[VIRTIO_QUEUE_MAX];
};

static void disk_done(struct disk_request *disk, int err);

/* The next request that is free, or NULL. */
static struct blk_request *next_free(struct blk *b)
{
	if (!b->free && b->fresh < VIRTIO_QUEUE_MAX) {
		b->free = &b->request[b->fresh++];
		b->free->blk = b;
		b->free->disk.done = disk_done;
	}
	return b->free;
}

/* Gives a request back. `written`: bytes of its data that the device wrote, from the first one on without a gap. */
static void finish(struct blk_request *r, uint8_t status, uint64_t written)
{
	struct blk *b = r->blk;

	// TODO 4.12: the status byte, and the chain back to the driver. Hint: virtqueue_push() wants to know how many
	// bytes were written from the start of the writable part without a gap: the status byte is the last of them.
	(void)status;
	(void)written;
	lab_todo(b->dev->vm, "4.12", "finish() in blk.c: status and length of a request");
	r->next = b->free;
	b->free = r;
}

/* The backend is done with what was submitted. */
static void disk_done(struct disk_request *disk, int err)
{
	struct blk_request *r = (struct blk_request *)((uint8_t *)disk - offsetof(struct blk_request, disk));

	// TODO 4.13: what is still to do before the driver may know: the other ranges of a discard or write-zeroes,
	// and, when blk->durable_writes says so, a flush behind a write.
	// TODO 4.12: finish() with S_OK or S_IOERR, and with how many bytes of data the device wrote.
	(void)err;
	finish(r, S_IOERR, 0);
}

/* Do these sectors exist? A sector's number is any number of 64 bits. */
static bool inside(const struct blk *b, uint64_t sector, uint64_t sectors)
{
	// TODO 4.12: true if all of them are below config.capacity. Hint: sector + sectors may be smaller than sector.
	(void)sector;
	(void)sectors;
	return lab_todo(b->dev->vm, "4.12", "inside() in blk.c: bounds of a request"), false;
}

/* T_IN and T_OUT. */
static void transfer(struct blk *b, struct blk_request *r)
{
	bool in = r->header.type == T_IN;

	// TODO 4.13: a disk that is read-only takes no writes.
	// TODO 4.12: from the image to the driver, or the other way round. Hint: data_len must be whole sectors that
	// exist. chain_in_iov() and chain_out_iov() find them for r->iov, the header is in front of what is written.
	// Then disk_submit(), and it goes on in disk_done().
	(void)in;
	(void)inside;
	finish(r, S_IOERR, 0);
	lab_todo(b->dev->vm, "4.12", "transfer() in blk.c: read and write");
}

/* T_DISCARD and T_WRITE_ZEROES. */
static void ranges(struct blk *b, struct blk_request *r)
{
	// TODO 4.13: the ranges are the request's data, 1 to RANGES_MAX of them. Hint: chain_read() into r->range; each
	// must exist and have no flag but RANGE_UNMAP, a discard not even that: S_UNSUPP. DISK_DISCARD and DISK_ZERO do
	// it, one range after the other.
	finish(r, S_UNSUPP, 0);
	lab_todo(b->dev->vm, "4.13", "ranges() in blk.c: discard and write-zeroes");
}

static void flush(struct blk *b, struct blk_request *r)
{
	// TODO 4.13: what was written is on stable storage before the driver hears of it. Hint: DISK_FLUSH.
	finish(r, S_UNSUPP, 0);
	lab_todo(b->dev->vm, "4.13", "flush() in blk.c: durable before it is complete");
}

/* Takes a chain apart and begins with what it asks for. */
static void begin(struct blk *b, struct blk_request *r)
{
	// TODO 4.12: header, data and status of a request. Hint: chain_read() gets the header, wherever it lies;
	// data_len is what is left in its direction, and chain_in_iov() finds the last byte, which is the status.
	// Without header or status: virtio_broken(). Then transfer(), flush(), ranges(), the 20 bytes of b->id for
	// T_GET_ID, and S_UNSUPP for what there is not.
	(void)transfer;
	(void)flush;
	(void)ranges;
	(void)r;
	lab_todo(b->dev->vm, "4.12", "begin() in blk.c: what does the driver ask for?");
}

static void blk_kick(struct virtio_dev *d, struct virtqueue *q)
{
	struct blk *b = d->state;
	struct blk_request *r;

	// TODO 4.14: all requests of the queue. Hint: each takes next_free(b), and finish() gives it back; when there
	// is none, b->waiting says that there may be more in the queue. disk_start() begins with what was submitted.
	// Here is what does for one request at a time.
	while ((r = next_free(b)) && virtqueue_pop(q, &r->chain) > 0) {
		b->free = r->next;
		begin(b, r);
		disk_drain(b->disk);
	}
	virtqueue_notify(q);
}

/* The backend has completed some requests. */
static void blk_reaped(void *opaque)
{
	struct blk *b = opaque;
	struct virtqueue *q = &b->dev->queue[0];

	virtqueue_notify(q);
	if (b->waiting)
		virtqueue_again(q);
	b->waiting = false;
}

/* The memory of a driver that resets its device is its own again when the reset is over. */
static void blk_drain(struct virtio_dev *d)
{
	struct blk *b = d->state;

	// TODO 4.14: no request may be in flight any more when this returns.
	lab_todo(b->dev->vm, "4.14", "blk_drain() in blk.c: reset with requests in flight");
}

/* Writeback: a write is durable when a flush behind it is complete. Writethrough: when it is complete itself. The driver chooses,
 * if it can; one that does not know of flushes gets the second (5.2.6.2). */
static void choose_cache(struct blk *b)
{
	// TODO 4.13: b->durable_writes. Hint: with BLK_F_CONFIG_WCE config.writeback decides, else whether the driver
	// accepted BLK_F_FLUSH.
	(void)b;
}

static void blk_agreed(struct virtio_dev *d)
{
	struct blk *b = d->state;

	/* 5.2.5.2: a driver that can choose, but not flush, begins with writethrough, and reads that before DRIVER_OK already. */
	if (virtio_has(d, BLK_F_CONFIG_WCE) && !virtio_has(d, BLK_F_FLUSH))
		b->config.writeback = 0;
	choose_cache(b);
}

static void blk_reset(struct virtio_dev *d)
{
	struct blk *b = d->state;

	b->config.writeback = 1;
}

static void blk_config_write(struct virtio_dev *d, unsigned offset, unsigned size, uint32_t value)
{
	struct blk *b = d->state;

	if (offset != offsetof(struct blk_config, writeback) || size != 1 || !virtio_has(d, BLK_F_CONFIG_WCE))
		return;
	b->config.writeback = value != 0;
	choose_cache(b);
}

static bool blk_busy(struct virtio_dev *d)
{
	return !disk_settled(((struct blk *)d->state)->disk);
}

static void blk_resume(struct virtio_dev *d)
{
	disk_resume(((struct blk *)d->state)->disk);
}

/* The image is the same or a copy: as large, and its blocks too. Who it says that it is moves along. */
static void blk_state(struct virtio_dev *d, struct state_io *io)
{
	struct blk *b = d->state;
	uint64_t capacity = b->config.capacity;
	uint32_t block = b->config.blk_size;

	STATE(io, capacity);
	STATE(io, block);
	STATE(io, b->config.writeback);
	state_bytes(io, b->id, sizeof b->id);
	state_check(io, capacity == b->config.capacity, "the disk had %llu sectors, and here it has %llu", (unsigned long long)capacity,
		    (unsigned long long)b->config.capacity);
	state_check(io, block == b->config.blk_size, "the disk had blocks of %u bytes, and here they have %u", block, b->config.blk_size);
	state_check(io, b->config.writeback == 1 || (!b->config.writeback && virtio_has(d, BLK_F_CONFIG_WCE)), "it has no such cache");
	if (io->loading && d->status & STATUS_FEATURES_OK)
		choose_cache(b);
}

static void blk_destroy(struct virtio_dev *d)
{
	struct blk *b = d->state;

	disk_close(b->disk);
	sparse_free(b, sizeof *b);
}

static void blk_stats(struct virtio_dev *d, FILE *out)
{
	const struct disk *disk = ((struct blk *)d->state)->disk;

	fprintf(out, ",\"aio\":\"%s\",\"reads\":%llu,\"writes\":%llu,\"flushes\":%llu,\"discards\":%llu,\"errors\":%llu",
		disk->aio->name, (unsigned long long)disk->reads, (unsigned long long)disk->writes,
		(unsigned long long)disk->flushes, (unsigned long long)disk->discards, (unsigned long long)disk->errors);
}

static const struct virtio_ops blk_ops = {
	.name = "block",
	.id = VIRTIO_ID_BLOCK,
	.nqueues = 1,
	.kick = blk_kick,
	.agreed = blk_agreed,
	.drain = blk_drain,
	.reset = blk_reset,
	.config_write = blk_config_write,
	.destroy = blk_destroy,
	.stats = blk_stats,
	.busy = blk_busy,
	.resume = blk_resume,
	.state = blk_state,
};

/* The option of --disk: what disk_parse() takes. */
int blk_create(struct vm *vm, const char *arg)
{
	struct blk *b = sparse_alloc(sizeof *b);
	struct disk_options options;
	char err[sizeof vm->reason];
	uint64_t features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH;

	if (!b)
		return -ENOMEM;
	if (!disk_parse(arg, &options, err, sizeof err)) {
		options.moving = vm->opt.incoming;
		b->disk = disk_open(&options, &vm->loop, blk_reaped, b, err, sizeof err);
	}
	if (!b->disk) {
		sparse_free(b, sizeof *b);
		return vm_stop(vm, HV_USAGE, "%s", err);
	}
	b->config = (struct blk_config){
		.capacity = b->disk->size / SECTOR,
		.seg_max = VIRTIO_QUEUE_MAX - 2, /* header and status */
		.blk_size = b->disk->block,
		.writeback = 1,
		.num_queues = 1,
		.max_discard_sectors = RANGE_SECTORS_MAX,
		.max_discard_seg = RANGES_MAX,
		.discard_sector_alignment = PAGE / SECTOR,
		.max_write_zeroes_sectors = RANGE_SECTORS_MAX,
		.max_write_zeroes_seg = RANGES_MAX,
		.write_zeroes_may_unmap = 1,
	};
	snprintf(b->id, sizeof b->id, "hv-disk-%u", vm->nvirtio);
	if (options.id[0])
		memcpy(b->id, options.id, sizeof b->id);
	features |= options.read_only ? BLK_F_RO : BLK_F_CONFIG_WCE | BLK_F_DISCARD | BLK_F_WRITE_ZEROES;
	b->dev = virtio_create(vm, &blk_ops, b, features, &b->config, BLK_CONFIG_LEN);
	if (!b->dev) {
		disk_close(b->disk);
		sparse_free(b, sizeof *b);
		return -ECANCELED;
	}
	return 0;
}
