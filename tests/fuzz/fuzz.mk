# The fuzz targets: `make fuzz` builds and runs them. All of hv but its command line is compiled by clang, with libFuzzer's instrumentation and
# the address and undefined-behaviour sanitizers. A target is fuzz_NAME.c, one of a virtio device linked with harness.c.

ifndef fuzz_targets
fuzz_targets := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz_flags := -std=gnu17 -O1 -g $(WARN) -Wno-gnu-variable-sized-type-not-at-end -fno-omit-frame-pointer -Ilabs/common/hv -Itests/fuzz -fsanitize=address,undefined -fno-sanitize-recover=all
fuzz_frame := $(patsubst labs/common/hv/%.c,build/fuzz/obj/%.o,$(filter-out labs/common/hv/main.c labs/common/hv/clock.c,$(wildcard labs/common/hv/*.c)))
fuzz_labs := $(foreach n,$(LABS),$(patsubst %.c,build/fuzz/obj/%.o,$(call files_of,$(n))))

.PHONY: fuzz fuzz-targets
FUZZ_SECONDS ?= 600
fuzz: fuzz-targets ## let random drivers loose on each virtio device, and damaged streams on who reads them, for FUZZ_SECONDS=600 each
	@$(PYTHON) tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

fuzz-targets: tools $(fuzz_targets:%=build/fuzz/%)
	@:

$(fuzz_frame): build/fuzz/obj/%.o: labs/common/hv/%.c Makefile tests/fuzz/fuzz.mk
	@mkdir -p $(@D)
	@echo "  FUZZ $<"
	@clang $(fuzz_flags) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<
define fuzz_lab_rule
$(patsubst %.c,build/fuzz/obj/%.o,$(call files_of,$(1))): build/fuzz/obj/%.o: $(base)/$(DIR_$(1))/%.c Makefile tests/fuzz/fuzz.mk
	@mkdir -p $$(@D)
	@echo "  FUZZ $$<"
	@clang $(fuzz_flags) -fsanitize=fuzzer-no-link -MMD -MP -c -o $$@ $$<
endef
$(foreach n,$(LABS),$(eval $(call fuzz_lab_rule,$(n))))

# The receiver of streams is no device: it has a VM of its own in place of the harness.
$(filter-out build/fuzz/stream,$(fuzz_targets:%=build/fuzz/%)): tests/fuzz/harness.c
build/fuzz/stream: tests/fuzz/stream_vm.c tests/fuzz/stream_vm.h
$(fuzz_targets:%=build/fuzz/%): build/fuzz/%: tests/fuzz/fuzz_%.c tests/fuzz/harness.h $(fuzz_frame) $(fuzz_labs)
	@echo "  FUZZ $@"
	@clang $(fuzz_flags) -fsanitize=fuzzer -o $@ $(filter %.c %.o,$^) $(LDLIBS)

-include $(wildcard build/fuzz/obj/*.d)
endif
