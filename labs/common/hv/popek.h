/*
 * `hv popek`: Popek and Goldberg's theorem, tried out on this x86. Each probe is one instruction. It is run on the bare machine
 * and under the trap engine, at different levels and with the machine's state in different places; what it did each time is
 * recorded, and everything that is then said about it follows from that.
 */
#ifndef HV_POPEK_H
#define HV_POPEK_H

#include "vcpu.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The command `hv popek [options]`. Returns the exit status of hv. */
int popek_main(int argc, char **argv);

/* --- the instructions: popek_probes.c --------------------------------------------------------------------------------- */

/* What the manual says of an instruction that is executed at CPL 3. The only thing in this demonstration that is not tried. */
enum popek_manual {
	MANUAL_PRIVILEGED, /* #GP unless CPL is 0 (SDM vol. 3, 5.9) */
	MANUAL_IOPL,       /* #GP when CPL is above IOPL, and for ports without permission (SDM vol. 1, 19.5) */
	MANUAL_CHECKED,    /* a protection check of this operand refuses it at CPL 3 (SDM vol. 3, 5.5 to 5.8) */
	MANUAL_OPTION,     /* traps where a control bit asks for it, which is set here */
	MANUAL_UMIP,       /* #GP with CR4.UMIP (SDM vol. 3, 2.5), otherwise allowed */
	MANUAL_ALLOWED,    /* allowed at every level */
	MANUAL_TRAPS       /* leads to the supervisor from every level: that is what it is for */
};

struct popek_probe {
	const char *name;  /* instruction and operands as in the manuals: destination first */
	bool robin_irvine; /* a form of an instruction that Robin and Irvine list (2000) */
	enum popek_manual manual;
	const char *section;
	const uint8_t *code, *end; /* one instruction */
	/* What it finds when it begins, where that is not zero. */
	uint64_t rax, rcx, rdx, rsi, rdi, r11;
	uint64_t stack[5];
	uint64_t set_cr4;   /* on in every configuration */
	bool if_off;        /* interrupts are off */
	bool clock;         /* its result is the time, and is not compared */
	bool idle;          /* it does nothing: a difference that it leaves is the machine's fault */
};

extern const struct popek_probe popek_probes[];
extern const unsigned popek_nprobes;

/* Where the probes' operands are, the same in every configuration: gva, below 1 MiB. The assembler needs plain numbers. */
#define POPEK_TARGET 0x50100   /* where jumps go */
#define POPEK_DATA 0x51000     /* 16 bytes to be written */
#define POPEK_FAR_KERNEL 0x51020     /* far pointers: offset (4 bytes), selector */
#define POPEK_FAR_CONFORMING 0x51028
#define POPEK_FAR_FS 0x51030
#define POPEK_NEW_TABLE 0x51038      /* what lgdt and lidt load */
#define POPEK_BYTE 0x51048           /* one byte to be sent to a device */
#define POPEK_STACK 0x52800
#define POPEK_NEW_CR3 0x54000
#define POPEK_PORT_IN 0xe4           /* a device that answers, and one that listens */
#define POPEK_PORT_OUT 0xe5
#define POPEK_INT 0x40
/* CR0 in every guest that is run here: with TS and AM, so that clts has something to do and smsw something to tell. */
#define POPEK_CR0 (CR0_PE | CR0_MP | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG)
#define POPEK_CR4 (CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT)

/* Selectors of the GDT in which the probes run. */
enum {
	SEL_KCODE = 0x10, SEL_KDATA = 0x18, SEL_UDATA = 0x20, SEL_UCODE = 0x28, SEL_TSS = 0x30, SEL_LDT = 0x40,
	SEL_CONFORMING = 0x50, SEL_TSS2 = 0x58, SEL_LDT2 = 0x68, SEL_EXAMINED = 0x78, SEL_FS = 0x80
};

/* --- running them: popek_trial.c -------------------------------------------------------------------------------------- */

/* In which machine, at which level. "Moved": the machine's privileged state is not the guest's but lies elsewhere and has other
 * values, as when a monitor keeps the machine for itself. */
enum popek_config {
	POPEK_CPL0,       /* the reference: bare machine, CPL 0 */
	POPEK_CPL0_MOVED, /* only the place differs */
	POPEK_CPL3_HOME,  /* only the level differs */
	POPEK_CPL3,       /* deprivileged: both differ */
	POPEK_UMIP,       /* the same with CR4.UMIP */
	POPEK_TRAP,       /* under the trap engine */
	POPEK_PATCH,      /* under the trap engine with --patch on */
	POPEK_CONFIGS
};

/* How a trial ended. */
enum popek_end {
	END_MISSING, /* not on this machine: it was not run */
	END_BEHIND,  /* the guest went on behind the instruction */
	END_TARGET,  /* ... at the address that the instruction was given */
	END_VECTOR,  /* in the handler of a vector */
	END_SYSCALL, /* where LSTAR points to */
	END_HALTED,
	END_STOPPED  /* the machine or hv gave up; see `reason` */
};

/* What is looked at before and after: registers, memory, privileged state. */
enum popek_kind { SEEN_RESULT, SEEN_SEGMENT, SEEN_PRIVILEGED };
#define POPEK_FIELDS_MAX 64
struct popek_seen {
	enum popek_end end;
	uint8_t vector;  /* END_VECTOR */
	bool heard;      /* it did not happen silently: the machine trapped, or hv had an exit for this instruction */
	char reason[512];
	uint64_t before[POPEK_FIELDS_MAX], after[POPEK_FIELDS_MAX];
};
extern const unsigned popek_nfields;
const char *popek_field_name(unsigned field);
enum popek_kind popek_field_kind(unsigned field);

/* Runs a probe once. 0, or the exit status of hv when the host or a lab step does not allow it; the
 * sentence is then in err. */
int popek_try(const struct popek_probe *probe, enum popek_config config, struct popek_seen *seen, char *err, size_t errlen);
/* After the last one: frees the machines. */
void popek_try_end(void);

/* --- what follows from it: popek.c -------------------------------------------------------------------------------------- */

enum popek_outcome {
	POPEK_NOT_HERE,  /* the machine does not have this configuration */
	POPEK_REFERENCE, /* the cell of CPL 0 */
	POPEK_TRAPPED,   /* it trapped; under the trap engine the virtual result is the reference's */
	POPEK_SAME,      /* no trap, same result */
	POPEK_DIFFERENT, /* no trap, another result */
	POPEK_ANSWERED   /* trap engine: it trapped, and the monitor's answer is another one */
};

struct popek_row {
	const struct popek_probe *probe;
	struct popek_seen seen[POPEK_CONFIGS];
	enum popek_outcome outcome[POPEK_CONFIGS];
	uint64_t differs[POPEK_CONFIGS]; /* bit set: fields that differ from the reference */
	bool privileged;       /* by trial: traps at CPL 3, not at CPL 0, all else equal */
	bool always;           /* leads to the supervisor at CPL 0 too */
	bool control;          /* changed privileged state at CPL 0 */
	bool mode, location;   /* result depends on the level, on where the machine's state is */
	bool manual_agrees;
};

struct popek_table {
	struct popek_row *row;
	unsigned rows;
	bool umip; /* the machine has it */
};

/* An instruction that breaks the theorem's condition in this configuration: sensitive, and it did not trap. */
bool popek_breaks(const struct popek_row *row, enum popek_config config);
static inline bool popek_sensitive(const struct popek_row *r) { return r->control || r->mode || r->location; }
/* Does an instruction that does nothing leave no difference? Otherwise the machine is not one to learn about x86 from. */
bool popek_faithful(const struct popek_table *t);
/* Does the manual's word mean a trap at CPL 3 (where CPL 0 has none)? */
bool popek_manual_traps(enum popek_manual manual, bool umip);

/* --- output: popek_show.c, popek_html.c ------------------------------------------------------------------------------- */

/* The five configurations that are columns, in order, and their headings. */
#define POPEK_COLUMNS 5
extern const struct popek_column {
	enum popek_config config;
	const char *key, *title;
} popek_columns[POPEK_COLUMNS];

/* A cell in a few words, ASCII, numbers hexadecimal: "#GP", "IF 1->0", "base 20000/30000" (at CPL 0 / here). */
void popek_cell(const struct popek_row *row, enum popek_config config, char *buf, size_t len);
/* "control", "mode + location", "innocuous"; "yes", "no", "always traps". */
const char *popek_class(const struct popek_row *row, char *buf, size_t len);
const char *popek_manual_word(enum popek_manual manual);
const char *popek_trial_word(const struct popek_row *row);
/* The instructions that break the condition, without their operands and each once, with blanks between. Returns how many; *named is
 * how many of them Robin and Irvine name. */
unsigned popek_breakers(const struct popek_table *t, enum popek_config config, char *buf, size_t len, unsigned *named);
/* How many instructions of the table they name. (They speak of seventeen; their list has eighteen names.) */
unsigned popek_named(const struct popek_table *t);

void popek_text(const struct popek_table *t, FILE *out);
void popek_json(const struct popek_table *t, FILE *out);
void popek_html(const struct popek_table *t, FILE *out);

#endif
