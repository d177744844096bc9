/*
 * Does it make a difference whether the guest's page tables count? Without shadow paging the trap engine ignores them (gva.h): memory is
 * flat. A guest may change over from there to an engine that follows its tables, and back, if they map all of its memory one to one.
 */
#ifndef HV_FLAT_MEMORY_H
#define HV_FLAT_MEMORY_H

#include "vcpu.h"

#include <stdbool.h>

/* v is in long mode. true: each address below FLAT_LIMIT is mapped to itself (where there is no RAM, or not at all), may be written, and
 * nothing is mapped above. Rights of CPL 3 are not asked for: flat memory has none. */
bool flat_equivalent(const struct vcpu *v);

#endif
