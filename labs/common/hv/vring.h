/*
 * The rings as they lie in guest memory (virtio 1.2, 2.7 split, 2.8 packed). All fields are little-endian, as the hosts are that hv
 * runs on. The guest writes here at any time: read each field once, with ring_load16() or ring_desc(), and look at what was read.
 */
#ifndef HV_VRING_H
#define HV_VRING_H

#include <stdint.h>

#define DESC_F_NEXT 1u
#define DESC_F_WRITE 2u
#define DESC_F_INDIRECT 4u

/* 2.7.5 */
struct split_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* 2.7.6: behind the ring comes used_event. */
#define AVAIL_F_NO_INTERRUPT 1u
struct split_avail {
	uint16_t flags, idx;
	uint16_t ring[];
};

/* 2.7.8: behind the ring comes avail_event. */
#define USED_F_NO_NOTIFY 1u
struct split_used_elem {
	uint32_t id, len;
};
struct split_used {
	uint16_t flags, idx;
	struct split_used_elem ring[];
};

/* 2.8.13 */
#define PACKED_F_AVAIL (1u << 7)
#define PACKED_F_USED (1u << 15)
struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

/* 2.8.14 */
enum { PACKED_EVENT_ENABLE = 0, PACKED_EVENT_DISABLE = 1, PACKED_EVENT_DESC = 2 };
struct packed_event {
	uint16_t off_wrap; /* bits 0-14: slot, bit 15: wrap counter */
	uint16_t flags;
};

_Static_assert(sizeof(struct split_desc) == 16 && sizeof(struct packed_desc) == 16, "descriptor layout");
_Static_assert(sizeof(struct split_used_elem) == 8 && sizeof(struct packed_event) == 4, "ring layout");

/* An index or flags that the driver changes. What the driver wrote before it is seen by what is read after it (2.7.13, 2.8.21). */
static inline uint16_t ring_load16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
/* The other direction: what was written before is there when the driver sees this. */
static inline void ring_store16(uint16_t *p, uint16_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
}
/* Between a store and a load of another place that must not change places: what is used and what event the driver waits for. */
static inline void ring_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/*
 * A descriptor, each field read once. It may lie anywhere: the queue's own are aligned, but of an indirect table nothing is said
 * (2.7.5.3), and C does not allow to read through a pointer that is not aligned for its type.
 */
static inline struct split_desc ring_desc(const void *p)
{
	const volatile struct __attribute__((packed)) {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} *d = p;

	return (struct split_desc){ .addr = d->addr, .len = d->len, .flags = d->flags, .next = d->next };
}

/* The same for a packed ring. The flags first: what they say is there is seen by what is read after them (2.8.21). */
static inline struct packed_desc ring_packed_desc(const void *p)
{
	const volatile struct __attribute__((packed)) {
		uint64_t addr;
		uint32_t len;
		uint16_t id, flags;
	} *d = p;
	uint16_t flags = d->flags;

	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return (struct packed_desc){ .addr = d->addr, .len = d->len, .id = d->id, .flags = flags };
}

#endif
