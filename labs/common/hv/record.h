#ifndef RECORD_H
#define RECORD_H
#include "migration.h"
int record_create(struct migration *m);
int record_accept(struct migration *m);
int record_open(struct migration *m, const void *p, size_t n);
void record_close(struct migration *m);
#endif
