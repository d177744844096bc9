/* hv migrate-report: a migration as a picture, from what hv ctl migrate printed at its end. */
#ifndef HV_MIGRATE_REPORT_H
#define HV_MIGRATE_REPORT_H

#include "job_facts.h"

#include <stdio.h>

/* Draws it as SVG that needs nothing else: pages of each round, how fast the guest wrote them and hv sent them,
 * throttle, and the downtime in its parts; with a text alternative. */
void migrate_picture(const struct job_facts *f, FILE *out);
/* hv migrate-report FILE: the picture on stdout ("-": reads stdin). HV_OK, HV_USAGE. */
int migrate_report_main(int argc, char **argv);

#endif
