/*
 * The sweep that finds what must be patched goes through the code from front to back: where one instruction ends the next
 * begins. In general that is unsound. x86 code may hold data (jump tables, constants of hand-written assembly), and a sweep
 * that takes data for code can change a constant, or lose its step and pass over real instructions; code that is loaded,
 * generated or unpacked later is never seen at all. Nor can a byte be judged alone: 0x9d is popf, and part of many other
 * instructions, and where instructions begin is undecidable from the bytes.
 *
 * Binary translators therefore wait until the guest gets there: they translate one basic block at a time, when its first
 * instruction is about to be executed and its beginning is known, run only the translation, and write-protect the original so
 * that they hear of changes. The course's guests are compiled, keep constants out of executable segments, and stand still, so
 * that a sweep is good enough for them.
 */
#include "lab1.h"

int patch_image(struct vcpu *v, const struct boot_state *boot)
{
	struct vm *vm = v->vm;
	struct insn insn;
	char text[96];

	if (!boot->ncode)
		return vm_stop(vm, HV_USAGE, "--patch on finds code by the executable segments of an ELF64 image, and this %s has none",
			       boot->kind);
	for (unsigned i = 0; i < boot->ncode; i++) {
		uint64_t gpa = boot->code[i].lo, hi = boot->code[i].hi;
		const uint8_t *bytes = guest_range(&vm->mem, gpa, hi - gpa);

		while (gpa < hi) {
			if (insn_decode(bytes + (gpa - boot->code[i].lo), hi - gpa, 64, &insn)) {
				gpa++; /* no instruction begins here, so it is data */
				continue;
			}
			if (patch_instruction(v, gpa, &insn) && vm->trace.exits) {
				insn_text(&insn, gpa, text, sizeof text);
				trace_exit(vm, "patched", gpa, text, "%s", "");
			}
			if (vm->stopping)
				return -ECANCELED;
			gpa += insn.len;
		}
	}
	return 0;
}

/* Prefixes that a pushf or popf may carry: segments, sizes, repetition, REX. LOCK makes it undefined. (SDM vol. 2, 2.1.1, 2.2.1) */
static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf2: case 0xf3:
		return true;
	default:
		return byte >> 4 == 4;
	}
}

bool patch_fetch(struct vcpu *v, uint64_t rip, struct insn *insn)
{
	uint8_t bytes[INSN_MAX];
	unsigned n, i = 0;

	if (!v->vm->opt.patch)
		return false;
	n = gva_peek(v, rip, bytes, INSN_MAX);
	while (i < n && is_prefix(bytes[i]))
		i++;
	if (i == n || (bytes[i] != PATCHED_PUSHF && bytes[i] != PATCHED_POPF))
		return false;
	bytes[i] = bytes[i] == PATCHED_PUSHF ? 0x9c : 0x9d;
	return !insn_decode(bytes, n, 64, insn);
}
