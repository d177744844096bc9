#include "programs.h"

const struct program more_programs[MAX_MORE_PROGRAMS + 1]; /* none */
