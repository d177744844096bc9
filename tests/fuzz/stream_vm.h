/*
 * The VM of the stream's fuzz target: without an engine that runs anything, with all devices, some of them at work.
 */
#ifndef STREAM_VM_H
#define STREAM_VM_H

#include "lab5.h"

#define SECTIONS 64

/* What clock_ns() says. */
extern uint64_t now;
extern struct vm vm;
/* What is restored, and what is saved of that: memory may be mapped from the first one. */
extern int file, again;

/* The sections that a VM of the trap engine's kind [0] and of kvm's [1] is saved as. */
struct piece {
	uint16_t type, version;
	uint32_t instance, length;
	uint8_t *payload;
};
extern struct piece saved[2][SECTIONS];
extern unsigned nsaved[2];

/* Once: makes the files, saves a VM of each kind, and looks that it is accepted as it is. */
void start(void);
/* The file as it is now, into a new VM, which is there until end_vm(). Whether it was accepted. */
bool load(unsigned which, bool lazy);
void end_vm(void);
/* Saves it. 0, or an error of machine_save(). */
int save(int fd, unsigned which);

/* A register of a virtio device, and all of them as a driver writes them; packed rings where the slot is odd. The rings
 * are empty. */
void reg(const struct virtio_dev *d, unsigned offset, uint32_t value);
void start_device(const struct virtio_dev *d);

#endif
