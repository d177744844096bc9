/*
 * hv restore --lazy: memory is mapped from the file, privately, so that a page is read when it is touched for the first time and the file
 * never changes. Only the sections' headers are read, so their CRCs are not checked: they go over the pages. What lies at which address
 * is checked as always. A file that is cut off behind our back while the VM runs is its end (SIGBUS).
 */
#include "incoming.h"
#include "lab5.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Maps one section's pages: 1; 0 when it has to be read; -errno. The file stands behind the section's header. */
static int map_section(struct vm *vm, struct stream *s, const struct section_header *h, uint64_t *seen, off_t file_size)
{
	struct pages_header p;
	off_t at = lseek(s->wire.fd, 0, SEEK_CUR);

	if (h->length < sizeof p || pread(s->wire.fd, &p, sizeof p, at) != sizeof p || p.kind != PAGES_RAW)
		return 0;
	off_t data = at + p.data;
	if (data % (off_t)PAGE)
		return 0;
	if (!p.count || p.count > PAGES_MAX || p.gfn >= vm->mem.size / PAGE || p.count > vm->mem.size / PAGE - p.gfn ||
	    p.data > h->length || p.size != h->length - p.data || p.size != p.count * PAGE || at + h->length > file_size)
		return stream_fail(s, EPROTO, "section %u has pages that do not make sense", h->sequence);
	if (mmap(vm->mem.hva + p.gfn * PAGE, p.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, s->wire.fd, data) ==
	    MAP_FAILED)
		return stream_fail(s, errno, "its memory cannot be mapped: %s", strerror(errno));
	for (uint64_t gfn = p.gfn; gfn < p.gfn + p.count; gfn++)
		seen[gfn / 64] |= 1ull << gfn % 64;
	if (lseek(s->wire.fd, at + h->length, SEEK_SET) < 0)
		return stream_fail(s, errno, "it cannot be read at another place: %s", strerror(errno));
	s->next_in++;
	return 1;
}

int lazy_next(struct vm *vm, struct stream *s, uint64_t *seen)
{
	struct section_header h;
	struct stat st;
	off_t at = lseek(s->wire.fd, 0, SEEK_CUR);

	if (at < 0 || fstat(s->wire.fd, &st) || !S_ISREG(st.st_mode))
		return stream_fail(s, EINVAL, "--lazy needs a regular file");
	if (pread(s->wire.fd, &h, sizeof h, at) != sizeof h || h.type != SECTION_PAGES || h.sequence != s->next_in ||
	    h.length > SECTION_MAX || lseek(s->wire.fd, sizeof h, SEEK_CUR) < 0)
		return 0;
	int mapped = map_section(vm, s, &h, seen, st.st_size);
	if (!mapped && lseek(s->wire.fd, at, SEEK_SET) < 0)
		return stream_fail(s, errno, "it cannot be read at another place: %s", strerror(errno));
	return mapped;
}
