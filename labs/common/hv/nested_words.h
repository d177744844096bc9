/* The words of a script of `hv nested`: how operands are read and answers written. */
#ifndef HV_NESTED_WORDS_H
#define HV_NESTED_WORDS_H

#include "nested_script.h"

#define GPA_END (1ull << 48)

/* CAPS */
enum { CAP_2M = 1, CAP_1G = 2, CAP_AD = 4, CAP_X = 8 };

/* Says in s->problem what is wrong (printf style); -EINVAL. */
int words_problem(struct script *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Reads an operand of the kind that its name says: RIGHTS and AD give their bits, TYPE, KIND (absent, table, page) and FORMAT (0 ept,
 * 1 npt) the number of the choice, CAPS bits; GPA, GVA and LEVEL:MIN-MAX are numbers within bounds, everything else is any number.
 * 0 or -EINVAL with s->problem.
 */
int words_parse(struct script *s, const char *name, const char *word, uint64_t *value);

/* The same backwards. Valid until the next call of the same function. */
const char *words_rights(unsigned rights);
const char *words_ad(bool accessed, bool dirty);
const char *words_kind(enum nested_kind kind);
const char *words_type(enum nested_type type);
/* "0", "-EINVAL", ..., or the number. */
const char *words_status(int status);

#endif
