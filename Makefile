# Trapdoor: everything is reached from here. `make` alone lists the targets.
#
# Objects of the frame (labs/common/hv) are compiled once and shared by every hv: the reference solution's, the student's
# and each one that the grader builds. SAN=1 keeps a second set of everything, with the address and undefined-behaviour
# sanitizers, under build/san-*.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:

CC := gcc
PYTHON := python3
CPPCHECK := cppcheck
# A student's tree has no solutions: there hv is the student's.
LAB ?= $(if $(wildcard reference-solution),,1)

LABS := 1 2 3 4 5
DIR_1 := 01-trap-emulate
DIR_2 := 02-shadow-paging
DIR_3 := 03-ept
DIR_4 := 04-virtio
DIR_5 := 05-migration

WARN := -Wall -Wextra
CFLAGS := -std=gnu17 -O2 -g $(WARN) -Ilabs/common/hv
LDLIBS := -lZydis -luring -lzstd -lcjson -lm -pthread
comma := ,
SANFLAGS := $(if $(SAN),-O1 -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
# The sanitizers' own code makes GCC warn of things that are not there (its manual says so), so there warnings are no errors.
WERROR := $(if $(SAN),,-Werror)
pre := build/$(if $(SAN),san-)

# Which hv: LABFILES=DIR OUT=DIR (the grader's way), LAB=N (the student's files) or the reference solution. One lab's files are the
# student's; those of the other labs are the solved ones where there are any, so that a lab does not depend on another one's mistakes.
ifneq ($(LABFILES),)
ifeq ($(OUT),)
$(error LABFILES=$(LABFILES) also needs OUT=, the directory that the new hv is put into, for example OUT=build/mine)
endif
which := $(or $(LAB),1)
src := $(LABFILES)
out := $(OUT)
else ifneq ($(LAB),)
which := $(LAB)
src := labs/$(DIR_$(which))
out := $(pre)lab$(LAB)
else
which := $(LABS)
out := $(pre)reference
endif
ifeq ($(filter $(which),$(LABS)),)
$(error There is no lab $(which). Labs: $(LABS))
endif
base := $(if $(wildcard reference-solution),reference-solution,labs)
baseout := $(pre)$(if $(wildcard reference-solution),reference,base)

frame := $(patsubst labs/common/hv/%.c,$(pre)frame/%.o,$(wildcard labs/common/hv/*.c))
# The starter files say which files a lab consists of.
files_of = $(notdir $(wildcard labs/$(DIR_$(1))/*.c))
files := $(if $(src),$(call files_of,$(which)))
lab := $(patsubst %.c,$(out)/%.o,$(files))
others := $(foreach n,$(if $(src),$(filter-out $(which),$(LABS)),$(LABS)),$(patsubst %.c,$(baseout)/%.o,$(call files_of,$(n))))

.DEFAULT_GOAL := help
.PHONY: FORCE help demo test setup tools doctor hv guests testhost grade bench bench-io bench-migrate popek requirements starters unit lint docs docs-commands slides slides-lint slides-demos clean

help: ## this list
	@echo 'Trapdoor: build a hypervisor, one lab at a time. Start with `make demo`. Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r t d; do printf '  %-13s %s\n' "$$t" "$$d"; done

demo: setup ## a guided tour in under two minutes: four guests and the grader
	@scripts/demo.sh

test: setup ## every test there is; the last line is "N passed, M failed"
	@$(PYTHON) scripts/test.py

setup: ## install what is missing (Debian and Ubuntu: through apt)
	@scripts/setup.sh

# Said before a compiler says it less clearly.
tools:
	@scripts/setup.sh --check

doctor: ## what works on this machine, and what to do about the rest
	@$(PYTHON) scripts/doctor.py

hv: tools $(out)/hv ## the hypervisor: the reference, or with LAB=1 yours; SAN=1 adds sanitizers
	@:

testhost: tools ## download and unpack the kernel that the test host runs
	@scripts/testhost.sh

grade: tools ## check your work: make grade LAB=1
	@./grader/grade $(or $(LAB),1)

requirements: tools ## Popek and Goldberg's three requirements as numbers for each engine, measured now
	@$(PYTHON) scripts/requirements.py

bench: tools ## cost of one trap, beside the cheapest possible one; cost of operations on page tables
	@$(PYTHON) scripts/bench.py
	@echo
	@$(PYTHON) scripts/bench_memory.py

bench-io: setup testhost hv build/vmmrun ## hv and QEMU side by side: boot, memory, disk, network (ARGS=--quick: one short run)
	@scripts/setup.sh --bench
	@$(PYTHON) scripts/bench_io.py $(ARGS)

bench-migrate: setup testhost hv ## hv and QEMU side by side: the same guest moves (ARGS=--quick: one migration of each)
	@$(PYTHON) scripts/bench_migrate.py $(ARGS)

# HOST=native uses this machine's /dev/kvm: faster, and only as true as that one is.
popek_files := popek.txt popek.json popek.html
ifeq ($(HOST),native)
popek: hv
	@$(out)/hv popek $(popek_files:%=--output build/%)
else
popek: hv testhost ## which x86 instructions break Popek and Goldberg's condition
	@scripts/testhost-run --file $(out)/hv $(foreach f,$(popek_files),--get /tmp/$(f):build/$(f)) \
		-- hv popek $(popek_files:%=--output /tmp/%)
endif
	@cat build/popek.txt && echo && echo 'The same as a slide: build/popek.html; for programs: build/popek.json'

starters: ## write the starter files anew from the solved ones
	@$(PYTHON) scripts/starters.py

lint: ## static checks of all C and Python
	@CPPCHECK=$(CPPCHECK) $(PYTHON) scripts/lint.py

slides: ## the lecture slides as HTML and PDF, in build/slides
	@slides/build.sh

slides-lint: ## check the slides: breaks, overflow, text alternatives, notes
	@slides/build.sh --tools
	@cd slides && $(PYTHON) -m unittest -q test_demos.py && node test-lint.mjs && node lint.mjs

slides-demos: hv guests testhost ## run the commands that the slides show
	@slides/demos.py

docs: setup ## the documentation as pages to read, and the manual page of hv
	@scripts/docs.sh

docs-commands: hv guests testhost ## run the commands that the documentation shows
	@$(PYTHON) scripts/docs_commands.py

clean: ## remove build/
	@rm -rf build

FORCE:

# --- hv ---------------------------------------------------------------------------------------------------------------

$(pre)frame/%.o: labs/common/hv/%.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $<"
	@$(CC) $(CFLAGS) $(WERROR) $(SANFLAGS) -MMD -MP -c -o $@ $<

# Only the files that the lab names are taken from the directory, whatever else lies there. A directory given by LABFILES
# may be older than what OUT holds from another one, so times say nothing there and its files are always compiled. But one that is
# the solved one, byte for byte, has been compiled already: a mutant differs in one file.
solved := $(if $(LABFILES),$(wildcard reference-solution/$(DIR_$(which))))
$(lab): $(out)/%.o: $(src)/%.c Makefile $(if $(LABFILES),FORCE) $(if $(solved),| $(baseout)/%.o)
	@mkdir -p $(@D)
	@if [ -n "$(solved)" ] && cmp -s $< $(solved)/$*.c; then cp $(baseout)/$*.o $@; else \
		echo "  CC   $<"; $(CC) $(CFLAGS) $(SANFLAGS) -MMD -MP -c -o $@ $<; fi

ifneq ($(files),)
$(addprefix $(src)/,$(files)):
	@echo "$@ is missing: lab $(which) consists of $(files)." >&2; exit 1
endif

define base_rule
$(baseout)/%.o: $(base)/$(DIR_$(1))/%.c Makefile
	@mkdir -p $$(@D)
	@echo "  CC   $$<"
	@$$(CC) $$(CFLAGS) $(if $(filter reference-solution,$(base)),$(WERROR)) $$(SANFLAGS) -MMD -MP -c -o $$@ $$<
endef
$(foreach n,$(LABS),$(eval $(call base_rule,$(n))))

$(out)/hv: $(frame) $(lab) $(others)
	@echo "  LD   $@"
	@$(CC) $(SANFLAGS) -o $@ $^ $(LDLIBS)

# --- guests: freestanding 64-bit programs, linked at 1 MiB --------------------------------------------------------------

GUEST_CFLAGS := -std=gnu17 -O2 -g $(WARN) -Werror -ffreestanding -fno-pic -mno-red-zone -mgeneral-regs-only \
	-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -Ilabs/common/guest
GUEST_LDFLAGS := -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-T,labs/common/guest/guest.ld

objects = $(patsubst $(1)/%,$(2)/%.o,$(basename $(wildcard $(1)/*.c $(1)/*.S)))
# The runtime's files are named in runtime.list, what else lies beside them is the course kernel. There are two of it, without
# and with paging: flat.list and paged.list name what only one of them has. All of the second is compiled apart from the
# first, for the upper half of the address space.
listed = $(patsubst %,$(2)/%.o,$(basename $(file <labs/common/guest/$(1).list)))
runtime := $(call listed,runtime,build/guests/obj)
kernel := $(filter-out $(runtime) $(call listed,paged,build/guests/obj),$(call objects,labs/common/guest,build/guests/obj))
paged := $(filter-out $(call listed,flat,build/guests/paged),$(call objects,labs/common/guest,build/guests/paged))
# Each lab's guests: every source is one image. NAME.boot.S is a boot sector, NAME.bin; NAME.32.c begins in 32-bit protected mode.
lab_objects = $(call objects,labs/$(DIR_$(1))/guests,build/guests/lab$(1)/obj)
lab_images = $(patsubst build/guests/lab$(1)/obj/%,build/guests/lab$(1)/%,$(patsubst %.o,%.elf,$(patsubst %.32.o,%.o,\
	$(patsubst %.boot.o,%.bin,$(lab_objects)))))

guests: tools build/guests/kernel.elf build/guests/paging.elf build/guests/initrd.cpio $(foreach n,$(LABS),$(call lab_images,$(n))) ## the course kernels, the test guests, a RAM disk
	@:

build_guest_object = @mkdir -p $(@D); echo "  CC   $<"; $(CC) $(GUEST_CFLAGS) -MMD -MP -c -o $@ $<

build/guests/obj/%.o: labs/common/guest/%.c Makefile
	$(build_guest_object)
build/guests/obj/%.o: labs/common/guest/%.S Makefile
	$(build_guest_object)
build/guests/paged/%.o: GUEST_CFLAGS += -mcmodel=kernel
build/guests/paged/%.o: labs/common/guest/%.c Makefile
	$(build_guest_object)
build/guests/paged/%.o: labs/common/guest/%.S Makefile
	$(build_guest_object)
build/guests/m32/%.o: GUEST_CFLAGS += -m32
build/guests/m32/%.o: labs/common/guest/m32/%.S Makefile
	$(build_guest_object)
build/guests/m32/%.o: labs/common/guest/%.c Makefile
	$(build_guest_object)
define lab_guest_rules
build/guests/lab$(1)/obj/%.32.o: GUEST_CFLAGS += -m32
build/guests/lab$(1)/obj/%.o: labs/$(DIR_$(1))/guests/%.c Makefile
	$$(build_guest_object)
build/guests/lab$(1)/obj/%.o: labs/$(DIR_$(1))/guests/%.S Makefile
	$$(build_guest_object)
build/guests/lab$(1)/%.elf: build/guests/lab$(1)/obj/%.o build/guests/libguest.a labs/common/guest/guest.ld
	@echo "  LD   $$@"
	@$$(CC) $$(GUEST_LDFLAGS) -o $$@ $$(filter %.o %.a,$$^)
build/guests/lab$(1)/%.elf: build/guests/lab$(1)/obj/%.32.o build/guests/m32/start.o build/guests/m32/dbg.o labs/common/guest/guest.ld
	@echo "  LD   $$@"
	@$$(CC) -m32 $$(GUEST_LDFLAGS) -o $$@ $$(filter %.o,$$^)
build/guests/lab$(1)/%.bin: build/guests/lab$(1)/obj/%.boot.o
	@echo "  LD   $$@"
	@$$(CC) -nostdlib -static -no-pie -Wl,--build-id=none,-Ttext=0x7c00,--oformat=binary -o $$@ $$<
endef
$(foreach n,$(LABS),$(eval $(call lab_guest_rules,$(n))))

build/guests/libguest.a: $(runtime) labs/common/guest/runtime.list
	@rm -f $@
	@echo "  AR   $@"
	@ar rcs $@ $(filter %.o,$^)

build/guests/kernel.elf: $(kernel) build/guests/libguest.a labs/common/guest/guest.ld
	@echo "  LD   $@"
	@$(CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o %.a,$^)

build/guests/paging.elf: $(paged) labs/common/guest/paged.ld
	@echo "  LD   $@"
	@$(CC) $(GUEST_LDFLAGS:%guest.ld=%paged.ld) -o $@ $(filter %.o,$^)

# For Linux guests: busybox.
build/guests/initrd.cpio: scripts/guest_initrd.py grader/lib/initramfs.py
	@mkdir -p $(@D)
	@echo "  GEN  $@"
	@$(PYTHON) scripts/guest_initrd.py $@

build/guests/obj/bench.o: scripts/bench.S Makefile
	$(build_guest_object)
build/guests/bench.elf: build/guests/obj/bench.o build/guests/libguest.a labs/common/guest/guest.ld
	@echo "  LD   $@"
	@$(CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o %.a,$^)

# --- the probe of /dev/kvm, static so that it runs anywhere; on the trap engine's own monitor ------------------------------

build/probe: scripts/probe.c labs/common/hv/monitor.c labs/common/hv/trapengine.h Makefile
	@mkdir -p $(@D)
	@echo "  CC   $@"
	@$(CC) $(CFLAGS) -Werror -static -o $@ $(filter %.c,$^)

# Measures a VMM from outside, hv or another one.
build/vmmrun: scripts/vmmrun.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $@"
	@$(CC) $(CFLAGS) -Werror -static -o $@ $<

# --- unit tests: one program each; the first line of the source, "// sources: a.c b.c", says what it links, of the frame or of a lab ---

unit_tests := $(patsubst tests/unit/%.c,$(pre)unit/%,$(wildcard tests/unit/test_*.c))
# One process reads all first lines, as test_elf:elf.c test_elf:mem.c ..., because every make would wait for one process for each.
unit_sources := $(shell awk 'FNR == 1 && sub("^// sources:", "") { split(FILENAME, path, /[\/.]/); for (i = 1; i <= NF; i++) print path[3] ":" $$i }' \
	/dev/null $(wildcard tests/unit/test_*.c))
sources_of = $(patsubst $(1):%,%,$(filter $(1):%,$(unit_sources)))

unit: tools $(unit_tests) ## build and run the unit tests (SAN=1: with sanitizers)
	@failed=0; for t in $(unit_tests); do timeout -k 5 200 $$t || { echo "$$t: status $$?"; failed=1; }; done; exit $$failed

define unit_rule
$(pre)unit/$(1): tests/unit/$(1).c $(foreach s,$(call sources_of,$(1)),$(if $(wildcard labs/common/hv/$(s)),$(pre)frame,$(baseout))/$(s:.c=.o)) Makefile
	@mkdir -p $$(@D)
	@echo "  TEST $$<"
	@$(CC) $(CFLAGS) $(WERROR) $(SANFLAGS) -MMD -MP -MF $$@.d -o $$@ $$(filter %.c %.o,$$^) -lcmocka $(LDLIBS)
endef
$(foreach t,$(notdir $(unit_tests)),$(eval $(call unit_rule,$(t))))

-include tests/vm/vm.mk
-include tests/fuzz/fuzz.mk

-include $(wildcard $(pre)frame/*.d $(out)/*.d $(baseout)/*.d $(pre)unit/*.d build/guests/obj/*.d build/guests/paged/*.d build/guests/m32/*.d build/guests/lab*/obj/*.d)
