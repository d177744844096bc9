/* `hv walk`: the lab's page-table walker (walk.c) on tables that are made up, without a virtual machine. */
#ifndef HV_WALK_COMMAND_H
#define HV_WALK_COMMAND_H

/*
 * The command `hv walk [options]`; hv walk --help describes what it prints. Returns the exit status of hv: HV_TODO, with its
 * sentence, where a step is reached that is not written.
 */
int walk_main(int argc, char **argv);

#endif
