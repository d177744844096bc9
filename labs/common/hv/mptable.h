/*
 * The tables of Intel's MultiProcessor Specification, version 1.4: how kernels found CPUs and interrupt wires before ACPI, and how
 * small teaching kernels find them today. They say the same as the MADT.
 */
#ifndef HV_MPTABLE_H
#define HV_MPTABLE_H

#include "loader.h"

/* In the BIOS's area, one of three places where a guest looks for it (MP 1.4, chapter 4). */
#define BOOT_MP 0xf0000

/* Writes the floating pointer at BOOT_MP and the configuration table behind it, for req->cpus. */
void mptable_write(struct guest_mem *mem, const struct boot_request *req);

#endif
