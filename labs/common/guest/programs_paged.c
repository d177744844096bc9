#include "programs.h"

#include "pgtable.h"
#include "proc.h"
#include "user_paged.h"

extern const char kernel_data[]; /* paged.ld */

const struct program more_programs[MAX_MORE_PROGRAMS + 1] = {
	{ "tree", user_tree, 2, NOT_KILLED },
	{ "zero", user_zero, 64, NOT_KILLED },
	{ "deep", user_deep, 500, NOT_KILLED },
	{ "bottom", user_bottom, 0, VEC_PF },
	{ "readonly", user_readonly, 0, VEC_PF },
	{ "noexec", user_noexec, 0, VEC_PF },
	{ "spy", user_spy, (uint64_t)kernel_data, VEC_PF },
	{ "tables", user_spy, PT_ROOT_SELF, VEC_PF },
	{ "null", user_null, 0, VEC_PF },
	{ "patch", user_patch, 0, NOT_KILLED },
	{ "bigfork", user_bigfork, 1024, NOT_KILLED },
};
