# Guests of the tests in tests/vm: `make vmguests`. The Makefile reads this with `-include tests/vm/vm.mk`; without that line
# `make -f Makefile -f tests/vm/vm.mk vmguests` does the same. A guest is NAME.c, and NAME-*.S and NAME-*.c belong to it.

ifndef vm_guests
vm_guests := apic beat diff hostile held writes
vm_sources = $(wildcard tests/vm/guests/$(1).c tests/vm/guests/$(1)-*.c tests/vm/guests/$(1)-*.S)

# One 32-bit kernel in three containers: ELF32, the same in an ELF64 file, and a flat binary with the addresses in its header.
teaching := build/vm/teaching.elf build/vm/teaching64.elf build/vm/teaching.bin

.PHONY: vmguests
vmguests: tools $(vm_guests:%=build/vm/%.elf) build/vm/real.bin $(teaching) build/vm/usage build/vm/faults ## the guests of the tests in tests/vm
	@:

build/vm/usage build/vm/nameserver build/vm/keeper: build/vm/%: tests/vm/%.c Makefile
	@mkdir -p $(@D)
	@echo "  CC   $<"
	@$(CC) -std=gnu17 -O2 $(WARN) -Werror -static -pthread -o $@ $< -lz

build/vm/faults: $(wildcard tests/vm/faults*.[ch]) tests/vm/guests/beat.h grader/testhost/relay.c grader/testhost/relay.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	@$(CC) -std=gnu17 -O2 -g $(WARN) -Werror -static -o $@ $(filter %.c,$^) -pthread

build/vm/obj/%.o: tests/vm/guests/%.c Makefile
	$(build_guest_object)
build/vm/obj/%.o: tests/vm/guests/%.S Makefile
	$(build_guest_object)

build/vm/real.bin: build/vm/obj/real.o
	@echo "  LD   $@"
	@$(CC) -nostdlib -static -no-pie -Wl,--build-id=none,-Ttext=0x7c00,--oformat=binary -o $@ $<

build/vm/obj/teaching.o build/vm/obj/teaching-start.o build/vm/obj/teaching-flat.o: GUEST_CFLAGS += -m32
build/vm/obj/teaching-flat.o: GUEST_CFLAGS += -DADDRESSES
build/vm/obj/teaching-flat.o: tests/vm/guests/teaching-start.S Makefile
	$(build_guest_object)
link_teaching = @echo "  LD   $@"; $(CC) -m32 $(subst -T$(comma)labs/common/guest/guest.ld,-T$(comma)tests/vm/guests/teaching.ld,$(GUEST_LDFLAGS))
build/vm/teaching.elf: build/vm/obj/teaching-start.o build/vm/obj/teaching.o build/guests/m32/dbg.o tests/vm/guests/teaching.ld
	$(link_teaching) -o $@ $(filter %.o,$^)
build/vm/teaching-flat.elf: build/vm/obj/teaching-flat.o build/vm/obj/teaching.o build/guests/m32/dbg.o tests/vm/guests/teaching.ld
	$(link_teaching) -o $@ $(filter %.o,$^)
build/vm/teaching64.elf: build/vm/teaching.elf
	@objcopy -I elf32-i386 -O elf64-x86-64 $< $@
build/vm/teaching.bin: build/vm/teaching-flat.elf
	@objcopy -O binary $< $@

define vm_guest_rule
build/vm/$(1).elf: $(patsubst tests/vm/guests/%,build/vm/obj/%.o,$(basename $(call vm_sources,$(1)))) \
		build/guests/libguest.a labs/common/guest/guest.ld
	@echo "  LD   $$@"
	@$$(CC) $$(GUEST_LDFLAGS) -o $$@ $$(filter %.o %.a,$$^)
endef
$(foreach g,$(vm_guests),$(eval $(call vm_guest_rule,$(g))))

-include $(wildcard build/vm/obj/*.d)
endif
