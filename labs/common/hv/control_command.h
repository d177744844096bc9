/* `hv ctl` and `hv list`: the other side of the control socket (control.h). */
#ifndef HV_CONTROL_COMMAND_H
#define HV_CONTROL_COMMAND_H

/*
 * hv ctl SOCKET|NAME COMMAND [VALUE]. Returns the exit status of hv: HV_OK and the answer on standard output, HV_GUEST_FAILED with
 * the VM's sentence when it refuses, HV_USAGE, or HV_HOST when no VM answers there.
 */
int ctl_main(int argc, char **argv);
/* hv list: one line for each VM of this user that has a name. Sockets that VMs have left behind are removed. Same statuses. */
int list_main(int argc, char **argv);

#endif
