/* Files that are loaded beside the image: the initrd, and modules. */
#include "boot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The highest page-aligned place for len bytes that ends at or below end; 0 when it would begin below floor. */
static uint64_t place_below(uint64_t end, uint64_t len, uint64_t floor)
{
	if (len > end)
		return 0;
	uint64_t gpa = (end - len) & ~(PAGE - 1);
	return gpa >= floor ? gpa : 0;
}

struct boot_room boot_room(const struct guest_mem *mem, const struct boot_state *boot, uint64_t max_addr)
{
	uint64_t end = max_addr < mem->size ? max_addr + 1 : mem->size;

	return (struct boot_room){
		.above_lo = (boot->load_hi + PAGE - 1) & ~(PAGE - 1),
		.above_hi = end,
		.below_hi = boot->load_lo < end ? boot->load_lo : end,
	};
}

/* Takes room for len bytes: its gpa, or 0. */
static uint64_t take_room(struct boot_room *room, uint64_t len, bool low)
{
	uint64_t gpa = place_below(room->above_hi, len, room->above_lo);

	if (gpa && low) {
		gpa = room->above_lo;
		room->above_lo = (gpa + len + PAGE - 1) & ~(PAGE - 1);
	} else if (gpa) {
		room->above_hi = gpa;
	} else {
		gpa = place_below(room->below_hi, len, BOOT_IMAGE_MIN);
		if (gpa)
			room->below_hi = gpa;
	}
	return gpa;
}

int boot_file_load(struct guest_mem *mem, const char *path, const char *what, struct boot_room *room, bool low,
		   struct boot_file *file, char *err, size_t errlen)
{
	uint8_t *data;
	size_t len;
	int r = file_read_all(path, what, &data, &len, err, errlen);

	if (r)
		return r;
	uint64_t gpa = take_room(room, len, low);
	if (gpa && !guest_write(mem, gpa, data, len))
		*file = (struct boot_file){ .gpa = gpa, .len = len };
	else
		r = boot_fail(err, errlen, -ENOMEM,
			      "the %s '%s' of %zu KiB does not fit beside the image in the %llu MiB of guest memory "
			      "that it may use",
			      what, path, len / 1024, (unsigned long long)(room->above_hi / MiB));
	free(data);
	return r;
}

int boot_initrd_load(struct guest_mem *mem, const struct boot_request *req, const struct boot_state *boot, uint64_t max_addr,
		     struct boot_file *initrd, char *err, size_t errlen)
{
	struct boot_room room = boot_room(mem, boot, max_addr);

	*initrd = (struct boot_file){ 0 };
	return req->initrd ? boot_file_load(mem, req->initrd, "initrd", &room, false, initrd, err, errlen) : 0;
}

/* One module from its line, "FILE ARGUMENTS", of which the guest gets a copy at text. */
static int module_load(struct guest_mem *mem, const char *line, struct boot_room *room, bool low, uint64_t text,
		       struct boot_file *file, char *err, size_t errlen)
{
	char *path = strndup(line, strcspn(line, " "));
	int r = path ? boot_file_load(mem, path, "module", room, low, file, err, errlen)
		     : boot_fail(err, errlen, -ENOMEM, "the host has no memory for a module's name");

	free(path);
	if (!r) {
		r = guest_write(mem, text, line, strlen(line) + 1);
		file->text = text;
	}
	return r;
}

int boot_modules_load(struct guest_mem *mem, const struct boot_request *req, const struct boot_state *boot, bool low,
		      struct boot_file file[BOOT_MODULES], char *err, size_t errlen)
{
	struct boot_room room = boot_room(mem, boot, UINT64_MAX);
	uint64_t text = BOOT_MODULE_TEXT, end = text + BOOT_MODULE_TEXT_MAX;
	int n = 0, r = 0;

	boot_area(mem, BOOT_MODULE_TEXT, BOOT_MODULE_TEXT_MAX);
	/* The initrd is the first one, with its name alone. Names may have blanks; module_load() would take it apart. */
	if (req->initrd) {
		r = boot_file_load(mem, req->initrd, "initrd", &room, low, &file[n], err, errlen);
		if (!r && strlen(req->initrd) < end - text) {
			guest_write(mem, text, req->initrd, strlen(req->initrd) + 1);
			file[n].text = text;
			text += strlen(req->initrd) + 1;
		}
		n++;
	}
	for (unsigned i = 0; !r && i < req->nmodules; i++) {
		size_t len = strlen(req->module[i]) + 1;
		if (n == BOOT_MODULES)
			return boot_fail(err, errlen, -E2BIG, "there are more than %u modules", BOOT_MODULES);
		if (len > end - text)
			return boot_fail(err, errlen, -E2BIG,
					 "the modules' names and arguments are longer than %u bytes together",
					 BOOT_MODULE_TEXT_MAX);
		r = module_load(mem, req->module[i], &room, low, text, &file[n++], err, errlen);
		text += len;
	}
	return r ? r : n;
}
