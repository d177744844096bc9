/*
 * The commands of hv ctl that begin something which takes its time: save, migrate, migrate-resume. The VM answers at
 * once; this side asks it how far it is until that has ended.
 */
#ifndef HV_JOB_COMMAND_H
#define HV_JOB_COMMAND_H

#include <stdbool.h>

/* Is it one of them? */
bool job_command(const char *name);
/*
 * Gives the command argv[0] with its values and options to the VM whose control socket lies at path, and shows on stderr
 * how far it is: one line that changes on a terminal, else a line for each round. The VM's last account goes to stdout as
 * JSON. Files are named from here: they need not be absolute. With --detach it does not wait. HV_OK when it was done;
 * HV_GUEST_FAILED with one sentence when it was not, or when nobody can say; HV_USAGE; HV_HOST when no VM answers.
 */
int job_main(const char *path, int argc, char **argv);

#endif
