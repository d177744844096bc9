#include "programs.h"

#include "proc.h"
#include "user.h"

const struct program programs[MAX_PROGRAMS + 1] = {
	PROGRAMS_OF_LAB1,
};
