/* `hv nested`: the lab's nested tables (ept.c, npt.c, nested.c, dirty.c, twodim.c) at work on a script, without a virtual machine. */
#ifndef HV_NESTED_COMMAND_H
#define HV_NESTED_COMMAND_H

/*
 * The command `hv nested [FILE]`; hv nested --help describes the script. Returns the exit status of hv: HV_TODO, with its sentence, where
 * a step is reached that is not written.
 */
int nested_main(int argc, char **argv);

#endif
