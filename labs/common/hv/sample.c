#include "sample.h"
#include "vm_life.h"
#include "vm_pause.h"

/* Is it an instruction with a REP prefix? A step is then one of its repetitions. */
static bool repeats(struct vm *vm, const struct vcpu *v)
{
	struct insn insn;

	return vm_insn_at(vm, v, &insn) && insn.rep;
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
		result = vm_run(vm);
		/* The last one ended the VM; or a signal did, and it was none. */
		if (result == RUN_STOPPED && vm->trace.interventions == before)
			break;
		vm->engine->get_state(vm, &v);
		if (result == RUN_DEBUG && v.rip == rip && repeats(vm, &v))
			continue;
		s->instructions++;
		s->intervened += vm->trace.interventions != before;
		before = vm->trace.interventions;
	}
	vm->engine->set_debug(vm, false, false);
	return result;
}
