/*
 * Writing AML, the bytecode of ACPI (ACPI 6.5 chapter 20): as much of it as describes devices, and no code. Every function appends to
 * *a; when the buffer is full nothing more is written and a->full is set, which one look at the end tells.
 */
#ifndef HV_ACPI_AML_H
#define HV_ACPI_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *bytes;
	size_t len, room;
	bool full;
};

/* What comes until aml_end() is inside. The result is for aml_end(). name: a path such as "\\_SB_", segments of 4 characters. */
size_t aml_scope(struct aml *a, const char *name);
size_t aml_device(struct aml *a, const char *name);
size_t aml_package(struct aml *a, uint8_t elements);
/* A resource template (6.4): descriptors, as a buffer. */
size_t aml_resources(struct aml *a);
void aml_end(struct aml *a, size_t begin);
void aml_resources_end(struct aml *a, size_t begin);

/* Name (name, ...): the object comes next, by one of the others. */
void aml_name(struct aml *a, const char *name);
void aml_integer(struct aml *a, uint32_t value);
void aml_string(struct aml *a, const char *text);

/* Descriptors: Memory32Fixed (ReadWrite, base, len) and Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }. */
void aml_memory32(struct aml *a, uint32_t base, uint32_t len);
void aml_interrupt(struct aml *a, uint32_t gsi);

#endif
