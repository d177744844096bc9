#include "sample.h"
#include "decode.h"

/* The instruction at rip when it has a REP prefix: a step is then one of its repetitions. */
static bool repeats(struct vm *vm, uint64_t rip)
{
	uint8_t bytes[INSN_MAX];
	unsigned n = INSN_MAX;
	struct insn insn;
	uint64_t gpa;

	if (vm->engine->translate(vm, rip, &gpa))
		return false;
	while (n && guest_read(&vm->mem, gpa, bytes, n))
		n--;
	return n && !insn_decode(bytes, n, &insn) && insn.rep;
}

enum run_result sample_run(struct vm *vm)
{
	struct sample *s = &vm->sample;
	struct vcpu v = { .vm = vm };
	enum run_result result = RUN_DEBUG;
	uint64_t before = vm->trace.interventions;

	vm->engine->get_state(vm, &v);
	while (s->instructions < vm->opt.sample_steps && result == RUN_DEBUG) {
		uint64_t rip = v.rip;

		/* Anew for each step: KVM forgets it where it emulates an instruction. */
		if (vm->engine->set_debug(vm, true, false)) {
			vm_stop(vm, HV_HOST, "this KVM cannot single-step a guest");
			return RUN_STOPPED;
		}
		result = vm->engine->run(vm);
		/* The last one ended the VM; or a signal did, and it was none. */
		if (result == RUN_STOPPED && vm->trace.interventions == before)
			break;
		vm->engine->get_state(vm, &v);
		if (result == RUN_DEBUG && v.rip == rip && repeats(vm, rip))
			continue;
		s->instructions++;
		s->intervened += vm->trace.interventions != before;
		before = vm->trace.interventions;
	}
	vm->engine->set_debug(vm, false, false);
	return result;
}
