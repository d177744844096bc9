/*
 * One virtual machine: memory, buses, devices, vCPUs, the engine that runs it, and how it ended.
 */
#ifndef HV_VM_H
#define HV_VM_H

#include "bus.h"
#include "console.h"
#include "crtc.h"
#include "devices.h"
#include "i8042.h"
#include "ioapic.h"
#include "lapic.h"
#include "loader.h"
#include "loop.h"
#include "mem.h"
#include "ring_order.h"
#include "trace.h"
#include "vcpu.h"
#include "virtio.h"
#include "written.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct engine_ops;
struct machine;
struct gdbstub;
struct control;
struct job;
struct incoming;
struct page_log;

/* Exit statuses of the hv program. */
enum {
	HV_OK = 0,           /* the guest ended itself with exit code 0, powered off, or the user left with Ctrl-A x */
	HV_GUEST_FAILED = 1, /* the guest ended itself with another exit code; it is named on stderr */
	HV_USAGE = 2,        /* wrong flag, or a file that cannot be used */
	HV_HOST = 3,         /* this machine lacks what was asked for */
	HV_STOPPED = 4,      /* the guest did something that cannot go on (triple fault, ...); the reason is on stderr */
	HV_TODO = 5,         /* a lab step that is not written yet was reached; its number and hint are on stderr */
	HV_TIMEOUT = 124,    /* --timeout */
	HV_INTERRUPTED = 130 /* Ctrl-C / SIGTERM */
};

/* A device that the command line asked for (virtio_devices.c). */
struct device_option {
	int (*create)(struct vm *vm, const char *arg); /* 0, or -errno after vm_stop() */
	const char *arg;                               /* what stands behind the option, or NULL */
	uint64_t rings;                                /* features of the rings that it offers */
	const char *name;                              /* of the option, without hyphens */
};

struct vm_options {
	const char *engine;
	uint64_t mem_size;
	unsigned cpus; /* 1 to VM_CPUS_MAX; more than one on the kvm engine only */
	const char *image, *initrd, *append;
	const char *module[BOOT_MODULES]; /* each "FILE ARGUMENTS" */
	unsigned nmodules;
	double timeout; /* seconds, 0 = none */
	bool trace_exits, stats_json;
	int gdb_port; /* -1 = none */
	const char *control, *name; /* of the control socket (control.h); at most one of them, or NULL */
	bool mirror_if; /* trap engine: the machine's RFLAGS.IF follows the virtual one, so that pushf tells the truth */
	uint64_t sample_steps; /* 0 = none */
	bool hash_memory;
	bool patch; /* trap engine: pushf and popf in the image are replaced by instructions that trap (patch.h) */
	int shadow; /* trap engine: enum shadow_mode (spt.h) */
	unsigned shadow_pages; /* size of the pool of shadow pages */
	enum { DUMP_NOTHING, DUMP_GVA, DUMP_ALL } dump; /* of the page tables, at the end (dump_tables.h) */
	uint64_t dump_gva;
	const char *dump_html; /* file, or NULL */
	const char *neighbour; /* hvm engine: image of a second VM, or NULL (neighbour.h) */
	const char *plan;      /* hvm engine: file, or NULL (plan.h) */
	unsigned page_level;   /* hvm engine: the largest pages that nested tables use (1 to 3), 0: not said */
	bool premap;           /* hvm engine: all of guest memory is mapped before the guest begins */
	struct device_option device[VIRTIO_SLOTS];
	unsigned ndevices;
	bool watch_used; /* ring_order.h */
	const char *incoming; /* URI at which a migrating VM is waited for, or NULL */
	const char *restore;  /* file that a VM was saved in, or NULL */
	const char *record;   /* file that decides who has the VM (migration.h), or NULL */
	bool lazy;            /* memory is mapped from that file and read when it is touched */
	bool event_fds; /* kicks and interrupts of virtio devices go through eventfds where the engine has them */
};

struct vm {
	struct vm_options opt;
	struct guest_mem mem;
	struct bus pio, mmio;
	struct loop loop;
	struct console con;
	pthread_mutex_t lock; /* held whenever a device, the bus or an interrupt controller is touched; recursive */
	pthread_cond_t wake;  /* a halted vCPU waits here, and who pauses or is paused (vm_pause.h) */
	pthread_t vcpu_thread; /* vCPU 0's; an engine with several has the other threads */
	bool vcpu_running;     /* vcpu_thread is valid and may be signalled */
	volatile unsigned pauses; /* vm_pause() calls that no vm_resume() has taken back */
	unsigned cpus_inside;     /* vCPUs that are in the guest or may enter it */

	struct neighbour {
		uint8_t *block; /* the memory of both VMs, or NULL: there is one only */
		unsigned index; /* which of the two this is */
		pid_t child;
	} neighbour;

	struct uart uart;
	struct pic pic; /* these three: irqchip.h; not where the engine has its own */
	struct ioapic ioapic;
	struct lapic lapic;
	struct pit pit;
	struct cmos cmos;
	struct debugdev debug;
	struct i8042 i8042;
	struct crtc crtc;
	struct acpi_pm acpi;
	struct virtio_dev *virtio[VIRTIO_SLOTS];
	unsigned nvirtio;
	struct written written; /* by devices, the engine has yet to hear of it */
	struct ring_order ring_order; /* with --watch-used */
	struct loop_timer virtio_rest; /* for the kicks that had to stop in between */
	bool virtio_stands; /* no device takes anything from its queues (virtio_state.h) */

	struct vcpu vcpu;
	const struct engine_ops *engine;
	/* The guest has a CPU of its own with all its modes (kvm, hvm): 16- and 32-bit code runs, and CR0.PG says whether its page
	 * tables count. Else (trap) it is in 64-bit mode always, and its tables count when there is a shadow. Set by the engine. */
	bool all_modes;
	void *engine_state;
	struct machine *machine; /* the engine's */
	struct shadow *shadow; /* trap engine with --shadow=vtlb or cached, else NULL: memory is flat */
	unsigned phys_bits;    /* width of the CPU's physical addresses (CPUID 0x80000008) */
	struct gdbstub *gdb; /* NULL without --gdb */
	struct control *control; /* NULL without --control and --name */
	bool paused;             /* by a command on the control socket */
	struct incoming *arrival;  /* where the VM came from, or NULL (incoming.c) */
	struct job *job;           /* saving or migrating away, or the last that was (job.c); NULL: none yet */
	struct page_log *page_log; /* which pages were written, or NULL: nobody wants to know (page_log.c) */
	/* When it was stopped to be saved or moved: by clock_ns() (in this hv's time, when it was loaded) and CLOCK_REALTIME;
	 * whether it moves while it runs; how far its clocks go on past what they were then. */
	uint64_t stopped_ns, stopped_real;
	bool moves;
	uint64_t gap_ns;
	/* Asks the guest to give up that many MiB of its memory. Set by the balloon device; NULL: there is none. */
	void (*balloon_set)(struct vm *vm, uint64_t mib);
	struct trace trace;
	struct sample {
		uint64_t instructions; /* that were single-stepped */
		uint64_t intervened;   /* of these: not carried out by the machine alone */
	} sample;

	/* How it ended. Set once, by the first vm_stop(). */
	volatile int stopping;
	volatile bool kicked; /* since the vCPU last looked up */
	int status;
	uint32_t guest_code; /* with HV_GUEST_FAILED */
	char reason[512];
};

/*
 * Ends the VM with a status and one sentence (printf style; may be empty for HV_OK). The first call counts. Callable from
 * any thread, lock held or not. Returns -ECANCELED, so that `return vm_stop(...)` unwinds a call chain.
 */
int vm_stop(struct vm *vm, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Makes every vCPU leave KVM_RUN or HLT soon, so that it looks at interrupts, the debugger and vm->stopping. */
void vm_kick(struct vm *vm);

/* A lab step that the student has not written. Stops the VM with HV_TODO, naming the step and its hint; -ECANCELED. */
int vm_todo(struct vm *vm, const char *step, const char *hint);
/* The same under the name that the labs' files use. */
#define lab_todo(vm, step, hint) vm_todo((vm), (step), (hint))

#endif
