/*
 * Checkpoint 1.17: SYSCALL and SYSRET. The code at LSTAR runs into an exception at once, whose frame shows what SYSCALL made
 * of CS, SS, RSP, RIP and RFLAGS; the registers show RCX and R11. MODE 1 has DF and the arithmetic flags as well, and what
 * AMD and Intel do differently, as Intel does it.
 */
#include "event.h"

PARAMS;

enum { RSP0 = EVENT_PARAMS, STAR, SFMASK, USER_FLAGS, RETURN_FLAGS, MODE, NON_CANONICAL };

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define EFER_SCE 1

SNIPPET(do_syscall, "syscall; ud2");
SNIPPET(undefined, "ud2");
SNIPPET(turn_round, "mov %r8, %r11; sysretq");
SNIPPET(do_sysret, "sysretq");

static void start(bool user, uint64_t flags)
{
	if (user)
		trial_start_user(flags);
	else
		trial_start(flags);
	if (!params[MODE])
		trial.rflags = trial.in.r[R_FLAGS] &= ~(FLAGS_ARITHMETIC | FLAGS_DF);
}

static void finish(const char *name)
{
	trial_run(name);
	reset_state();
}

/* SYSRET at CPL 0 to the code at CODE + 128. */
static void sysret(const char *name, uint64_t rip)
{
	PLACE(params[CODE], do_sysret);
	start(false, FLAGS_IF);
	trial.in.r[R_CX] = rip;
	trial.in.r[R_11] = params[RETURN_FLAGS];
	finish(name);
}

static void agreed(void)
{
	uint64_t efer = rdmsr(MSR_EFER), flags = params[USER_FLAGS];

	wrmsr(MSR_EFER, efer & ~EFER_SCE);
	PLACE(params[CODE], do_syscall);
	start(true, flags);
	finish("off");
	sysret("offret", params[CODE] + 128);
	wrmsr(MSR_EFER, efer | EFER_SCE);

	/* With the chosen mask; with one that keeps all flags; from CPL 0. */
	PLACE(params[CODE], do_syscall);
	start(true, flags);
	finish("call");
	wrmsr(MSR_SFMASK, 0);
	start(true, flags);
	finish("nomask");
	wrmsr(MSR_SFMASK, params[SFMASK]);
	start(false, FLAGS_IF);
	finish("kernel");

	PLACE(params[CODE] + 128, undefined);
	sysret("return", params[CODE] + 128);
	PLACE(params[CODE], do_sysret);
	start(true, FLAGS_IF);
	trial.in.r[R_CX] = params[CODE] + 128;
	finish("user");

	/* Forth and back without an exception in between. */
	wrmsr(MSR_LSTAR, PLACE(params[CODE] + 192, turn_round));
	PLACE(params[CODE], do_syscall);
	start(true, flags);
	trial.in.r[R_8] = params[RETURN_FLAGS];
	finish("round");

	/* Switched off again, and tried at once: the machine must not have carried out any of it. */
	wrmsr(MSR_EFER, efer & ~EFER_SCE);
	start(false, FLAGS_IF);
	finish("offagain");
}

static void manual(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	PLACE(params[CODE], do_syscall);
	start(true, params[USER_FLAGS]);
	finish("call");
	wrmsr(MSR_SFMASK, 0);
	start(true, params[USER_FLAGS]);
	finish("nomask");

	/* SYSRET sets the RPL of both selectors itself. */
	wrmsr(MSR_STAR, params[STAR] & ~(3ull << 48));
	PLACE(params[CODE] + 128, undefined);
	sysret("rpl", params[CODE] + 128);
	wrmsr(MSR_STAR, params[STAR]);
	sysret("away", params[NON_CANONICAL]);
}

int guest_main(void)
{
	events_begin();
	tables_load();
	tss.rsp[0] = params[RSP0];
	wrmsr(MSR_STAR, params[STAR]);
	wrmsr(MSR_LSTAR, PLACE(params[CODE] + 64, undefined));
	wrmsr(MSR_SFMASK, params[SFMASK]);
	if (params[MODE])
		manual();
	else
		agreed();
	return 0;
}
