/* `hv stream`: what Lab 5's files do without a virtual machine (stream.c, and the rules in precopy.c, commit.c, state.c), as a
 * script says. */
#ifndef HV_STREAM_COMMAND_H
#define HV_STREAM_COMMAND_H

/*
 * The command `hv stream [FILE]`; hv stream --help describes the script. Returns the exit status of hv: HV_TODO, with its sentence, where a
 * step is reached that is not written.
 */
int stream_main(int argc, char **argv);

#endif
