/*
 * The guest's registers as the debugger sees them: numbers, widths and names are told to it in a target description
 * (GDB manual, appendix G), so the table in gdbregs.c is the only place that knows them.
 */
#ifndef HV_GDBREGS_H
#define HV_GDBREGS_H

#include "vcpu.h"

#include <stddef.h>

/* The longest register, of the x87 stack. */
#define GDB_REG_BYTES_MAX 10
#define GDB_XML_MAX 8192

unsigned gdb_reg_count(void);
/* Width in bytes of a register below gdb_reg_count(). */
size_t gdb_reg_size(unsigned n);
/* The register's bytes, little end first; false when hv does not keep it (the x87 registers). */
bool gdb_reg_get(const struct vcpu *v, unsigned n, uint8_t out[GDB_REG_BYTES_MAX]);
/*
 * Sets a register from gdb_reg_size() bytes. 0, or -EINVAL: not kept, reserved bits, or another selector, which needs a
 * descriptor to go with it and is the guest's to load.
 */
int gdb_reg_set(struct vcpu *v, unsigned n, const uint8_t *in);

/* Writes target.xml; returns its length. */
size_t gdb_target_xml(char xml[GDB_XML_MAX]);

#endif
