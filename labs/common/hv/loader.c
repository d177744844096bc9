#include "loader.h"
#include "boot.h"
#include "mptable.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads exactly len bytes. 0 or -errno; -ENODATA when the file ends early. */
static int read_exactly(int fd, uint8_t *dst, size_t len)
{
	while (len) {
		ssize_t n = read(fd, dst, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		dst += n;
		len -= (size_t)n;
	}
	return 0;
}

int file_read_all(const char *path, const char *what, uint8_t **data, size_t *len, char *err, size_t errlen)
{
	struct stat st;
	int r = 0;

	/* O_NONBLOCK: the name of a FIFO must lead to an error and not to waiting for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st)) {
		r = boot_fail(err, errlen, -errno, "cannot open the %s '%s': %s", what, path, strerror(errno));
	} else if (S_ISDIR(st.st_mode)) {
		r = boot_fail(err, errlen, -EISDIR, "the %s '%s' is a directory", what, path);
	} else if (!S_ISREG(st.st_mode)) {
		r = boot_fail(err, errlen, -EINVAL, "the %s '%s' is not a regular file", what, path);
	} else if (st.st_size == 0) {
		r = boot_fail(err, errlen, -ENODATA, "the %s '%s' is empty", what, path);
	} else if ((uint64_t)st.st_size > MEM_MAX) {
		/* Before malloc: a sparse file may claim any size. */
		r = boot_fail(err, errlen, -EFBIG, "the %s '%s' is larger than the largest guest memory, %llu MiB", what,
			      path, MEM_MAX / MiB);
	} else {
		*len = (size_t)st.st_size;
		*data = malloc(*len);
		r = *data ? read_exactly(fd, *data, *len) : -ENOMEM;
		if (r) {
			free(*data);
			boot_fail(err, errlen, r, "cannot read the %s '%s': %s", what, path, strerror(-r));
		}
	}
	if (fd >= 0)
		close(fd);
	return r;
}

/* The formats' sentences are about "it"; the user may have given several files, so the name goes in front. */
static void name_file(const char *path, char *err, size_t errlen)
{
	char sentence[512];

	snprintf(sentence, sizeof(sentence), "%s", err);
	snprintf(err, errlen, "%s: %s", path, sentence);
}

int boot_load(struct guest_mem *mem, const struct boot_request *req, struct boot_state *boot, char *err, size_t errlen)
{
	uint8_t *image;
	size_t len;
	int r = file_read_all(req->image, "image", &image, &len, err, errlen);
	if (r)
		return r;

	acpi_tables_write(mem, req);
	if (req->cpus)
		mptable_write(mem, req);
	*boot = (struct boot_state){ 0 };
	/* QEMU's order, but for ELF files that have the mark of a bzImage by chance. */
	if (multiboot_probe(image, len) && (elf_probe(image, len) || !bzimage_probe(image, len))) {
		r = multiboot_load(mem, image, len, req, boot, err, errlen);
	} else if (elf_probe(image, len)) {
		r = elf_load(mem, image, len, boot, err, errlen);
		if (!r)
			r = start_info_write(mem, req, boot, err, errlen);
	} else if (req->nmodules && (bzimage_probe(image, len) || boot_sector_probe(image, len))) {
		r = boot_fail(err, errlen, -ENOEXEC, "modules are for multiboot and ELF images; this is neither");
	} else if (bzimage_probe(image, len)) {
		r = bzimage_load(mem, image, len, req, boot, err, errlen);
	} else if (boot_sector_probe(image, len)) {
		r = boot_sector_load(mem, image, len, req, boot, err, errlen);
	} else {
		r = boot_fail(err, errlen, -ENOEXEC, "this is neither an ELF file nor a multiboot image nor a Linux bzImage nor a "
			      "boot sector");
	}
	free(image);
	if (!r && boot->mode != BOOT_REAL) /* a boot sector has that memory to itself */
		boot_tables_write(mem);
	if (r)
		name_file(req->image, err, errlen);
	return r;
}
