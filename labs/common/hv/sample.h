/*
 * Popek and Goldberg's third requirement, efficiency, as a number: which share of a guest's instructions the machine carries out
 * by itself. A sample is single-stepped, so that every instruction can be looked at (hv run --sample-steps N).
 */
#ifndef HV_SAMPLE_H
#define HV_SAMPLE_H

#include "engine.h"

/* Single-steps the guest's next vm->opt.sample_steps instructions and counts them in vm->sample; then the guest runs on by itself. Returns
 * like run() of the engine, with RUN_DEBUG when the sample is complete. One instruction with a REP prefix counts once. A guest
 * that sets TF itself is not stepped right.
 *
 * On the kvm engine the delivery of an exception or interrupt clears TF, and KVM does not set it again: handlers run unseen, up to their
 * IRETQ. So does the instruction behind a load of SS. */
enum run_result sample_run(struct vm *vm);

#endif
