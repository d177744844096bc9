/*
 * As much of JSON as hv ctl and hv list need to read what a running hv answers.
 */
#ifndef HV_JSON_READ_H
#define HV_JSON_READ_H

#include <stdbool.h>
#include <stddef.h>

/*
 * The value of the first member called key, from JSON that hv wrote (members without blanks around the colon). A string is
 * unescaped, anything else is copied up to the next comma or bracket. false when there is none or it does not fit in len bytes.
 */
bool json_member(const char *json, const char *key, char *value, size_t len);
/* The string, with its quotes, that *json points to; moves *json behind it. false when there is none or it does not fit. */
bool json_unquote(const char **json, char *value, size_t len);

#endif
