#include "report.h"
#include "lab1.h"

#include <stdio.h>

int report_main(void)
{
	const char *missing = NULL;

	for (unsigned i = 0; i < POPEK_INSNS; i++) {
		const struct popek_entry *e = &popek_report[i];
		bool known = e->answer == POPEK_TRAPS || e->answer == POPEK_SILENT;

		if (!e->insn) /* a row was removed */
			continue;
		printf("%s=%s\n", e->insn, !known ? "unknown" : e->answer == POPEK_TRAPS ? "traps" : "silent");
		if (!known && !missing)
			missing = e->insn;
	}
	if (!missing)
		return HV_OK;
	fprintf(stderr, "hv: step 1.21 is not written yet: popek_report[] in sensitive.c has no answer for %s; run "
			"build/guests/lab1/popek.elf with --trace exits\n", missing);
	return HV_TODO;
}
