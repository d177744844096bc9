/* Strings in the JSON that hv writes: statistics and what control commands answer. */
#ifndef HV_JSON_H
#define HV_JSON_H

#include <stdio.h>

/*
 * Writes a string with its quotes. UTF-8 stays as it is. Control characters are escaped as \u00NN, also those that JSON would
 * allow (0x7f to 0x9f), because to a terminal they are commands. A byte that belongs to no UTF-8 character, which a file's
 * name may well contain, becomes the four characters \xNN: JSON has no way to say it.
 */
void json_string(FILE *out, const char *s);

#endif
