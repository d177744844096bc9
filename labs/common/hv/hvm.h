/*
 * The hvm engine: the guest runs in guest mode (AMD SVM) or VMX non-root operation (Intel VT-x) inside the machine, and the CPU
 * itself leaves it when hv has asked to be asked. Two back ends, `svm` and `vmx`, tell what happened in one vocabulary, struct
 * hvm_exit, so that everything above them is written once.
 */
#ifndef HV_HVM_H
#define HV_HVM_H

#include "engine.h"
#include "machine.h"
#include "nested.h"
#include "vm.h"

/* The machine's memory: monitor and control structures from ma 0, nested (or shadow) tables, and the guest's RAM where every
 * size of page fits and a forgotten translation shows at once. */
#define HVM_MONITOR_SIZE (2 * MiB)
#define HVM_POOL_MA (2 * MiB)
#define HVM_POOL_SIZE (2 * MiB)
#define HVM_GUEST_MA (4 * GiB)
#define HVM_GUEST_SLOT 1 /* the memory slot of guest RAM */

/* Hypercalls: number in RAX, argument in RBX; the result comes in RAX, -ENOSYS for a number that is none, -EPERM
 * outside CPL 0. */
#define HVM_CALL_STAGE 1 /* "I have come to stage RBX": see plan.h */

/* Why the guest was left. */
enum hvm_exit_kind {
	HVM_VIOLATION,  /* nested page fault / EPT violation */
	HVM_MISCONFIG,  /* an entry of the nested tables is not valid (NPT: reserved bit) */
	HVM_CPUID,
	HVM_HLT,
	HVM_IO,         /* a port that the I/O bitmap names */
	HVM_RDMSR, HVM_WRMSR, /* an MSR that the MSR bitmap names */
	HVM_CR,         /* mov to a control register, clts, lmsw */
	HVM_DR,
	HVM_INVLPG,
	HVM_EXCEPTION,  /* one that the exception bitmap names */
	HVM_IRQ_WINDOW, /* the guest takes interrupts from now on */
	HVM_NMI_WINDOW, /* the guest takes NMIs from now on */
	HVM_PAUSE,      /* too many PAUSE instructions in a row */
	HVM_HYPERCALL,  /* VMMCALL, VMCALL */
	HVM_VIRT,       /* another instruction of SVM or VMX: VMRUN, VMXON, INVEPT, ... */
	HVM_XSETBV,
	HVM_CACHE,      /* WBINVD, INVD */
	HVM_TASK,       /* task switch */
	HVM_SHUTDOWN,   /* triple fault */
	HVM_STEP,       /* hv's own single step (h->step): one instruction is done */
	HVM_KICK,       /* hv itself wanted the CPU back (an NMI of the machine) */
	HVM_REFUSED,    /* the CPU does not take the control structure: a bug of hv's, or of the lab's */
	HVM_UNKNOWN,    /* nothing above: x->raw */
	HVM_KINDS
};
extern const char *const hvm_exit_names[HVM_KINDS]; /* for --trace and --stats */

/* An event on its way into the guest, or one whose delivery the exit interrupted. Type as both vendors encode it in bits 10:8
 * (SDM vol. 3, 24.8.3; APM vol. 2, 15.20). */
struct hvm_event {
	bool valid;
	enum { HVM_EXT_INTR = 0, HVM_NMI = 2, HVM_EXCEPTION_HW = 3, HVM_SOFT_INTR = 4, HVM_SOFT_EXCEPTION = 6 } type;
	uint8_t vector;
	bool has_error;
	uint32_t error;
	unsigned insn_len; /* software interrupts and exceptions: of the instruction that raised them (VMX wants to know) */
};

struct hvm_exit {
	enum hvm_exit_kind kind;
	uint64_t raw;     /* the CPU's own number: exit code (APM vol. 2, appendix C), exit reason (SDM vol. 3, appendix C) */
	uint64_t info;    /* EXITINFO1, exit qualification: for --trace and for sentences */
	unsigned len;     /* of the instruction, 0 when this CPU does not say: hvm_skip() then decodes it */
	struct hvm_event interrupted; /* its delivery was under way: it must be injected again */
	union {
		struct {
			uint64_t gpa;
			unsigned access;   /* NESTED_R, W or X: what was tried */
			unsigned allowed;  /* the rights that the tables give there, as far as the CPU says (EPT); else 0 */
			bool in_walk;      /* the access was the CPU's own, to one of the guest's page tables */
		} violation; /* HVM_VIOLATION, HVM_MISCONFIG (gpa only) */
		struct {
			uint16_t port;
			unsigned size;     /* 1, 2, 4 */
			bool in, string, rep;
		} io;
		struct {
			uint8_t vector;
			uint32_t error;
			uint64_t address;  /* #PF: what goes to CR2; #DB: DR6's new bits (VMX) */
		} exception;
		struct {
			unsigned number;
			bool read;
		} cr; /* HVM_CR, HVM_DR: the instruction at rip says the rest */
	};
};

struct hvm;
struct cpuid_result;

/* What svm and vmx do. All return 0, or negative with the VM stopped. */
struct hvm_backend {
	const char *name;                /* "svm", "vmx" */
	const struct nested_format *format;
	/* Does the machine have everything? One sentence for what is missing (vm_stop(HV_HOST)). Fills h->caps. Called when the
	 * vCPU is there and has its CPUID. */
	int (*check)(struct hvm *h);
	/* Writes the monitor and the control structures into h->mon, puts the machine's CPU before the monitor's first instruction. The
	 * guest's state is what vm->vcpu says. */
	int (*create)(struct hvm *h);
	/* Brings what of vm->vcpu changed, h->inject, the windows and a due flush into the control structure. The next
	 * machine_run() enters. */
	int (*enter)(struct hvm *h);
	/* Behind a machine_run() that came back with MACHINE_IO. true: the guest was left, the state that exits need is in vm->vcpu
	 * (all of it behind fetch()), *x says why. false: it was nothing of the guest's (a stub of the monitor's); run on. */
	bool (*left)(struct hvm *h, const struct machine_exit *m, struct hvm_exit *x);
	/* The rest of the state into vm->vcpu: segments, tables, debug registers, MSRs. */
	int (*fetch)(struct hvm *h);
	/* The other way: what fetch() reads was changed in vm->vcpu by hv. Only behind fetch(). */
	int (*store)(struct hvm *h);
	void (*destroy)(struct hvm *h);
};
extern const struct hvm_backend hvm_svm, hvm_vmx;

struct hvm {
	struct vm *vm;
	struct machine m;
	const struct hvm_backend *backend;
	void *state;            /* the back end's own */
	uint64_t guest_ma;      /* machine address of gpa 0 */
	uint8_t *mon;           /* monitor, control structures and tables: machine addresses from 0 */
	struct nested nested;
	bool shadow;            /* --shadow: nested paging is off, the CPU walks Lab 2's shadows */
	uint64_t shadow_cr3;    /* their root */
	bool shadow_flush;      /* the CPU must forget what it knows of them */
	uint64_t shadow_cr4, shadow_efer; /* the guest's, when they were looked at last */
	bool hidden;            /* the exit was none to the guest: it repeats the instruction */
	bool fetched;           /* vm->vcpu is complete: fetch() was called since the exit */

	/* Lab 3, events.c: what the next entry does. */
	struct hvm_event inject;     /* at the next entry */
	struct hvm_event again;      /* its delivery was interrupted */
	bool irq_window, nmi_window; /* leave the guest as soon as it takes interrupts, NMIs */
	bool nmi_pending;            /* somebody wants the guest to have an NMI */
	bool nmi_blocked;            /* it is in an NMI handler: no second one before IRET. VMX: the CPU's own; SVM: hv watches IRET */

	bool step;                   /* leave the guest behind one instruction: HVM_STEP */
	bool debug_step, debug_breakpoints; /* what the debugger asked for */
	bool forcing;                /* the machine was interrupted, an NMI is on its way to force the guest out */

	struct dirty_log *dirty;     /* of write protection (lab3.h) */
	struct policy *policy;       /* what the guest may do where (hvm_policy.h) */
	struct plan *plan;           /* --plan, or NULL (plan.h) */
	bool passing;                /* one instruction is let through a watch */
	struct {
		uint64_t rip, gpa;
		unsigned access, times;
	} last;                      /* violation, and how often it came in a row */
};

static inline struct hvm *hvm_of(const struct vcpu *v) { return v->vm->engine_state; }

/* All of the guest's state, if it is not there yet. 0 or negative, VM stopped. */
int hvm_fetch(struct vcpu *v);
/* Steps over the instruction of this exit: by x->len, or by decoding. An interrupt shadow ends, a single step's #DB is queued. 0 or
 * negative, VM stopped. */
int hvm_skip(struct vcpu *v, const struct hvm_exit *x);
/* The instruction at which the guest stood has been carried out by hv: an interrupt shadow ends, a single step's #DB is queued. */
void hvm_completed(struct vcpu *v);
/*
 * hv delivers the event whose delivery this exit interrupted (h->again) by itself, with Lab 1's code, because the CPU cannot: on its way is
 * memory that hv must access in its place, or a fault of the guest's own tables. What faults on the way is delivered instead, or makes
 * a double fault, or the third one stops the VM (SDM vol. 3, table 6-5). 0 or negative, VM stopped.
 */
int hvm_deliver(struct vcpu *v);

/* --- the engine's own files: hvm_services.c, hvm_shadow.c ------------------------------------------------------------------- */

/* A violation: the lab's exit_violation(), and an end to one that comes back for ever. */
int hvm_violation(struct vcpu *v, const struct hvm_exit *x);
int hvm_hypercall(struct vcpu *v, const struct hvm_exit *x);
/* --shadow: tables, the root for the guest's present mode, their end. */
int hvm_shadow_create(struct hvm *h);
int hvm_shadow_root(struct vcpu *v);
void hvm_shadow_destroy(struct hvm *h);

/* hvm_saving.c: hooks of struct engine_ops. */
void hvm_cpu_io(struct vm *vm, unsigned cpu, struct state_io *io);
int hvm_log_start(struct vm *vm);
int hvm_log_fetch(struct vm *vm, uint64_t *bitmap);
void hvm_log_stop(struct vm *vm);

/* --- for the lab's files ---------------------------------------------------------------------------------------------------- */

/* The guest's rights on the page at gpa: NESTED_..., all of them unless --plan says otherwise. */
unsigned hvm_rights(const struct hvm *h, uint64_t gpa);
/* The level (1 to 3) of the largest page around gpa that lies within guest memory, has the same rights everywhere, is not needed
 * in smaller pieces (--page-size, the dirty log), and where nothing is mapped yet. */
unsigned hvm_level(struct hvm *h, uint64_t gpa);
/* The guest did what the policy forbids: a watch reports it and lets it through, anything else stops the VM. 0 or negative, stopped. */
int hvm_forbidden(struct vcpu *v, const struct hvm_exit *x);
/* What the guest's CPUID answers: Lab 1's policy, and features of paging that only the trap engine has to do without. */
struct cpuid_result hvm_cpuid(struct vcpu *v, uint32_t leaf, uint32_t subleaf);
/* Gives control register n a value that cr_value_valid() has found right, with all that follows from it. 0 or negative, VM stopped. */
int hvm_set_cr(struct vcpu *v, unsigned n, uint64_t value);
/* The pool of tables is used up: everything is unmapped, and comes back on demand. 0 or negative, VM stopped. */
int hvm_out_of_tables(struct vcpu *v);
/* --shadow: a page fault, INVLPG. 0 or negative, VM stopped. (hvm_shadow.c) */
int hvm_shadow_exit(struct vcpu *v, const struct hvm_exit *x);

#endif
