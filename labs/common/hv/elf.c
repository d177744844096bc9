/*
 * ELF images (System V ABI, chapters 4 and 5): the PT_LOAD segments go to their physical addresses. The headers of a 32-bit file are
 * widened when they are read, so that one set of checks serves both classes.
 */
#include "boot.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define OWNER "Trapdoor" /* of the note with TRAPDOOR_NOTE_LONG_ENTRY */

struct elf_segment {
	unsigned index; /* of its program header: what readelf -l would number it */
	const uint8_t *src;
	uint8_t *dst;
	uint64_t filesz, lo, hi, gva;
	int executable;
};

int elf_probe(const uint8_t *image, size_t len)
{
	return len >= SELFMAG && !memcmp(image, ELFMAG, SELFMAG);
}

static const char *machine_name(unsigned machine)
{
	switch (machine) {
	case EM_386: return "32-bit x86";
	case EM_X86_64: return "x86-64";
	case EM_ARM: return "32-bit Arm";
	case EM_AARCH64: return "AArch64";
	case EM_RISCV: return "RISC-V";
	case EM_PPC64: return "PowerPC";
	case EM_S390: return "S/390";
	default: return "unknown";
	}
}

/* The file's header, in 64-bit form whatever its class. */
static int read_header(const uint8_t *image, size_t len, Elf64_Ehdr *eh, char *err, size_t errlen)
{
	Elf32_Ehdr narrow;
	bool is32 = len > EI_CLASS && image[EI_CLASS] == ELFCLASS32;
	size_t size = is32 ? sizeof(narrow) : sizeof(*eh);

	if (len < size)
		return boot_fail(err, errlen, -ENOEXEC, "the file is truncated: %zu bytes, and the ELF header alone has %zu",
				 len, size);
	if (!is32) {
		memcpy(eh, image, sizeof(*eh));
		return 0;
	}
	memcpy(&narrow, image, sizeof(narrow));
	*eh = (Elf64_Ehdr){
		.e_type = narrow.e_type,
		.e_machine = narrow.e_machine,
		.e_entry = narrow.e_entry,
		.e_phoff = narrow.e_phoff,
		.e_phentsize = narrow.e_phentsize,
		.e_phnum = narrow.e_phnum,
	};
	memcpy(eh->e_ident, narrow.e_ident, EI_NIDENT);
	return 0;
}

static bool is_elf32(const Elf64_Ehdr *eh)
{
	return eh->e_ident[EI_CLASS] == ELFCLASS32;
}

/* Is this an x86 program that needs no relocation, with a program header table inside the file? */
static int check_header(const uint8_t *image, size_t len, Elf64_Ehdr *eh, char *err, size_t errlen)
{
	int r = read_header(image, len, eh, err, errlen);
	if (r)
		return r;
	bool is32 = is_elf32(eh);
	unsigned machine = is32 ? EM_386 : EM_X86_64;
	size_t phsize = is32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);

	if (!is32 && eh->e_ident[EI_CLASS] != ELFCLASS64)
		return boot_fail(err, errlen, -ENOEXEC, "ELF class %u is neither ELF64 nor ELF32", eh->e_ident[EI_CLASS]);
	if (eh->e_ident[EI_DATA] != ELFDATA2LSB)
		return boot_fail(err, errlen, -ENOEXEC, "this is a big-endian ELF file; x86 is little-endian");
	if (eh->e_machine != machine)
		return boot_fail(err, errlen, -ENOEXEC,
				 "this ELF file is for another architecture (%s, machine %u), not %s as an %s is here",
				 machine_name(eh->e_machine), eh->e_machine, machine_name(machine),
				 is32 ? "ELF32" : "ELF64");
	if (eh->e_type == ET_DYN)
		return boot_fail(
			err, errlen, -ENOEXEC,
			"this ELF file is position independent, and nothing here relocates it; link it with -no-pie");
	if (eh->e_type != ET_EXEC)
		return boot_fail(err, errlen, -ENOEXEC, "this ELF file is not an executable (type %u)", eh->e_type);
	if (eh->e_phnum && eh->e_phentsize != phsize)
		return boot_fail(err, errlen, -ENOEXEC, "program headers of %u bytes; %s has %zu", eh->e_phentsize,
				 is32 ? "ELF32" : "ELF64", phsize);
	/* The product of two 16-bit numbers fits; adding e_phoff might wrap, so it is compared by subtraction. */
	if (eh->e_phoff > len || (uint64_t)eh->e_phnum * eh->e_phentsize > len - eh->e_phoff)
		return boot_fail(err, errlen, -ENOEXEC, "the %u program headers lie outside the file", eh->e_phnum);
	return 0;
}

/* One program header, in 64-bit form; check_header() has seen that it is there. */
static Elf64_Phdr read_segment(const uint8_t *image, const Elf64_Ehdr *eh, unsigned index)
{
	Elf64_Phdr ph;
	Elf32_Phdr narrow;

	if (!is_elf32(eh)) {
		memcpy(&ph, image + eh->e_phoff + index * sizeof(ph), sizeof(ph));
		return ph;
	}
	memcpy(&narrow, image + eh->e_phoff + index * sizeof(narrow), sizeof(narrow));
	return (Elf64_Phdr){
		.p_type = narrow.p_type,
		.p_flags = narrow.p_flags,
		.p_offset = narrow.p_offset,
		.p_vaddr = narrow.p_vaddr,
		.p_paddr = narrow.p_paddr,
		.p_filesz = narrow.p_filesz,
		.p_memsz = narrow.p_memsz,
	};
}

/* One PT_LOAD header, checked against the file and guest memory. */
static int check_segment(const struct guest_mem *mem, const uint8_t *image, size_t len, const Elf64_Phdr *ph, unsigned index,
			 struct elf_segment *seg, char *err, size_t errlen)
{
	if (ph->p_filesz > ph->p_memsz)
		return boot_fail(err, errlen, -ENOEXEC,
				 "segment %u has more bytes in the file (0x%llx) than in memory (0x%llx)", index,
				 (unsigned long long)ph->p_filesz, (unsigned long long)ph->p_memsz);
	if (ph->p_offset > len || ph->p_filesz > len - ph->p_offset)
		return boot_fail(err, errlen, -ENOEXEC, "the file is truncated: segment %u ends behind its end", index);
	uint64_t lo = ph->p_paddr, hi;
	if (__builtin_add_overflow(lo, ph->p_memsz, &hi))
		return boot_fail(err, errlen, -ENOEXEC, "segment %u at 0x%llx wraps around the end of the address space",
				 index, (unsigned long long)lo);
	if (lo < BOOT_IMAGE_MIN)
		return boot_fail(err, errlen, -ENOEXEC,
				 "segment %u at 0x%llx lies below 1 MiB, where the boot data is; link it at 1 MiB or above",
				 index, (unsigned long long)lo);
	uint8_t *dst = guest_range(mem, lo, ph->p_memsz);
	if (!dst)
		return boot_fail(err, errlen, -ENOMEM, "segment %u at 0x%llx-0x%llx lies outside guest memory of %llu MiB",
				 index, (unsigned long long)lo, (unsigned long long)hi,
				 (unsigned long long)(mem->size / MiB));
	*seg = (struct elf_segment){ index, image + ph->p_offset, dst, ph->p_filesz, lo, hi, ph->p_vaddr, ph->p_flags & PF_X };
	return 0;
}

/* Collects all segments that occupy memory. The number of them or -errno. */
static int collect_segments(const struct guest_mem *mem, const uint8_t *image, size_t len, const Elf64_Ehdr *eh,
			    struct elf_segment seg[ELF_SEGMENTS], char *err, size_t errlen)
{
	int n = 0;

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph = read_segment(image, eh, i);
		if (ph.p_type != PT_LOAD || !ph.p_memsz)
			continue;
		if (n == ELF_SEGMENTS)
			return boot_fail(err, errlen, -ENOEXEC, "more than %d loadable segments", ELF_SEGMENTS);
		int r = check_segment(mem, image, len, &ph, i, &seg[n], err, errlen);
		if (r)
			return r;
		for (int k = 0; k < n; k++)
			if (seg[n].lo < seg[k].hi && seg[k].lo < seg[n].hi)
				return boot_fail(err, errlen, -ENOEXEC, "segments %u and %u overlap in memory", seg[k].index,
						 i);
		n++;
	}
	if (!n)
		return boot_fail(err, errlen, -ENOEXEC, "there is no loadable segment (PT_LOAD) in this ELF file");
	return n;
}

/* Rounds up to the next multiple of 4, as a note's name and descriptor are padded. */
static uint64_t padded(uint32_t size)
{
	return (size + 3ull) & ~3ull;
}

/* What the notes say about how the image begins. */
struct entries {
	bool pvh;           /* owner "Xen", type 18, an address of 4 or 8 bytes (Xen's public header elfnote.h); */
	uint64_t pvh_entry; /* the first of them */
	bool long_entry;    /* e_entry is 64-bit code for this loader (loader.h) */
};

static int read_notes(const uint8_t *image, size_t len, const Elf64_Ehdr *eh, struct entries *found, char *err, size_t errlen)
{
	*found = (struct entries){ 0 };
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph = read_segment(image, eh, i);
		if (ph.p_type != PT_NOTE)
			continue;
		if (ph.p_offset > len || ph.p_filesz > len - ph.p_offset)
			return boot_fail(err, errlen, -ENOEXEC,
					 "the file is truncated: the notes in segment %u end behind its end", i);
		const uint8_t *at = image + ph.p_offset;
		uint64_t left = ph.p_filesz;
		while (left) {
			Elf32_Nhdr note; /* the same in both classes */
			if (left < sizeof(note))
				return boot_fail(err, errlen, -ENOEXEC, "the notes in segment %u are malformed", i);
			memcpy(&note, at, sizeof(note));
			uint64_t name = sizeof(note), desc = name + padded(note.n_namesz),
				 end = desc + padded(note.n_descsz);
			if (end > left)
				return boot_fail(err, errlen, -ENOEXEC, "the notes in segment %u are malformed", i);
			if (!found->pvh && note.n_type == PHYS32_ENTRY && note.n_namesz == 4 && !memcmp(at + name, "Xen", 4) &&
			    (note.n_descsz == 4 || note.n_descsz == 8)) {
				found->pvh = true;
				memcpy(&found->pvh_entry, at + desc, note.n_descsz);
			}
			if (note.n_type == TRAPDOOR_NOTE_LONG_ENTRY && note.n_namesz == sizeof(OWNER) &&
			    !memcmp(at + name, OWNER, sizeof(OWNER)))
				found->long_entry = true;
			at += end;
			left -= end;
		}
	}
	return 0;
}

/* Is entry an address that is loaded? One that is only the virtual address of such a place becomes the place: without paging there are
 * no others, and kernels that are linked for the upper half may have it in their header. */
static bool find_entry(const struct elf_segment *seg, int n, bool paging, uint64_t *entry)
{
	for (int i = 0; i < n; i++)
		if (*entry >= seg[i].lo && *entry < seg[i].hi)
			return true;
	for (int i = 0; i < n && !paging; i++)
		if (seg[i].executable && *entry >= seg[i].gva && *entry - seg[i].gva < seg[i].hi - seg[i].lo) {
			*entry = *entry - seg[i].gva + seg[i].lo;
			return true;
		}
	return false;
}

/* p_paddr decides where a segment goes. e_entry is the entry, in 32-bit protected mode, if protected is set; else the notes decide. */
static int load(struct guest_mem *mem, const uint8_t *image, size_t len, bool protected, struct boot_state *boot, char *err,
		size_t errlen)
{
	struct elf_segment seg[ELF_SEGMENTS];
	struct entries notes = { 0 };
	Elf64_Ehdr eh;

	int r = check_header(image, len, &eh, err, errlen);
	if (r)
		return r;
	int n = collect_segments(mem, image, len, &eh, seg, err, errlen);
	if (n < 0)
		return n;
	if (!protected)
		r = read_notes(image, len, &eh, &notes, err, errlen);
	if (r)
		return r;

	bool is32 = is_elf32(&eh), pvh = notes.pvh && (is32 || !notes.long_entry), begins32 = is32 || pvh || protected;
	uint64_t lo = UINT64_MAX, hi = 0, entry = pvh ? notes.pvh_entry : eh.e_entry;
	for (int i = 0; i < n; i++) {
		lo = seg[i].lo < lo ? seg[i].lo : lo;
		hi = seg[i].hi > hi ? seg[i].hi : hi;
	}
	if (!find_entry(seg, n, !begins32, &entry))
		return boot_fail(err, errlen, -ENOEXEC, "the entry point 0x%llx lies outside all segments",
				 (unsigned long long)entry);

	/* Nothing is written before everything has been checked. */
	*boot = (struct boot_state){
		.kind = is32 ? "ELF32" : "ELF64",
		.mode = begins32 ? BOOT_PROTECTED : BOOT_LONG,
		.entry = entry,
		.load_lo = lo,
		.load_hi = hi,
	};
	for (int i = 0; i < n; i++) {
		memcpy(seg[i].dst, seg[i].src, seg[i].filesz);
		memset(seg[i].dst + seg[i].filesz, 0, seg[i].hi - seg[i].lo - seg[i].filesz); /* .bss */
		if (seg[i].executable)
			boot->code[boot->ncode++] = (struct boot_code){ seg[i].lo, seg[i].lo + seg[i].filesz };
	}
	return 0;
}

int elf_load(struct guest_mem *mem, const uint8_t *image, size_t len, struct boot_state *boot, char *err, size_t errlen)
{
	return load(mem, image, len, false, boot, err, errlen);
}

int elf_load_protected(struct guest_mem *mem, const uint8_t *image, size_t len, struct boot_state *boot, char *err, size_t errlen)
{
	return load(mem, image, len, true, boot, err, errlen);
}
