#include "popek.h"
void popek_html(const struct popek_table *t, FILE *out) { (void)t; (void)out; }
