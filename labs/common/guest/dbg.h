/*
 * Debug console and exit: the two ports that hv and QEMU (isa-debugcon, isa-debug-exit) have in common. Only OUT is used, so
 * this works on a hypervisor that can do nothing else yet.
 */
#ifndef GUEST_DBG_H
#define GUEST_DBG_H

#include <stdint.h>

void dputc(char c);
void dputs(const char *s);
/* Lower case, without prefix and without leading zeros. */
void dprint_hex(uint64_t v);
/* One observation, as a line `key=hexvalue`. What it means is decided by whoever reads it. */
void report(const char *key, uint64_t value);
/* Ends the VM: hv's "exit code" (0 is success), 2 * code + 1 as QEMU's exit status. */
_Noreturn void guest_exit(uint32_t code);

#endif
