#include "dump_html.h"
void dump_html(struct dump *d, FILE *out)
{
	(void)d, (void)out;
}
