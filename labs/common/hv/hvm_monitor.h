/*
 * What the monitors of both back ends have in common: their place in the machine, the page tables and descriptor tables that the
 * machine's CPU runs on while it is not in the guest, and the stubs that report what must not happen.
 */
#ifndef HV_HVM_MONITOR_H
#define HV_HVM_MONITOR_H

#include "hvm.h"

/* Machine addresses. The machine's own tables map the first HVM_IDENTITY bytes one to one: monitor and nested tables, not the guest. */
#define HVM_CODE_MA 0x1000   /* the back end's code */
#define HVM_GDT_MA 0x2000
#define HVM_TSS_MA 0x3000
#define HVM_IDT_MA 0x4000
#define HVM_STUBS_MA 0x5000  /* 32 stubs of 16 bytes: out %al,$vector */
#define HVM_STACK_MA 0x8000  /* top */
#define HVM_REPLAY_MA 0x6000 /* code: stores entries of the nested tables again, see hvm_replay() */
#define HVM_LIST_MA 0x9000   /* their addresses: NESTED_CHANGES of them */
#define HVM_PML4_MA 0x10000  /* PML4, PDPT, page directory */
#define HVM_OWN_MA 0x20000   /* from here on: the back end's */
#define HVM_IDENTITY (4 * MiB)

#define HVM_CS 0x08
#define HVM_DS 0x10
#define HVM_TR 0x18

#define HVM_PORT_NMI VEC_NMI /* stubs write to the port of their vector */
#define HVM_PORT_EXIT 0xee   /* the guest was left */
#define HVM_PORT_REPLAYED 0xef

/* Writes tables, descriptors and stubs into h->mon. */
void hvm_monitor_write(struct hvm *h);
/* Special registers of a CPU that runs the monitor: long mode, CPL 0. cr4 and efer: what the back end needs beyond that. */
void hvm_monitor_sregs(struct kvm_sregs *s, uint64_t cr4, uint64_t efer);
/*
 * KVM, which is the machine here, has tables of its own, made from the nested ones, and does not see what hv stores through its mapping.
 * So the machine's CPU stores all entries that changed once more. 0, or negative with the VM stopped. Leaves the CPU's general registers
 * undefined, and its rip behind HVM_REPLAY_MA.
 */
int hvm_replay(struct hvm *h);
/* The same for all of the tables at once, when there were too many changes to note: the machine's memory slot is taken out and put in. */
int hvm_forget_tables(struct hvm *h);
/* A stub of the monitor's reported. true: it was the NMI by which hv wanted the CPU back; else the VM is stopped. */
bool hvm_monitor_stub(struct hvm *h, const struct machine_exit *x);

/* General registers of the machine, all but RSP (and RAX, on SVM): where the guest's are while it runs. */
void hvm_gpr_to_kvm(struct kvm_regs *r, const uint64_t *gpr);
void hvm_gpr_from_kvm(uint64_t *gpr, const struct kvm_regs *r);

/* What neither control structure keeps: MSRs that live in the machine's registers. read: into v->msr; else from it. 0
 * or negative, stopped. */
int hvm_msrs(struct hvm *h, bool read);

#endif
