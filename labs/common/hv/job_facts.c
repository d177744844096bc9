#include "job_facts.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const part_names[JOB_PARTS] = { "final_round_ms", "state_ms", "send_ms", "commit_ms" };

struct reader {
	char *err;
	size_t errlen;
	bool failed;
};

static void wrong(struct reader *r, const char *fmt, const char *what)
{
	char sentence[160];

	snprintf(sentence, sizeof sentence, fmt, what);
	if (!r->failed)
		snprintf(r->err, r->errlen, "this is no report of a migration: %s", sentence);
	r->failed = true;
}

/* A number that is not negative. The largest that means something fits into 53 bits, so a double holds all of them exactly. */
static double number(struct reader *r, const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	if (cJSON_IsNumber(item) && isfinite(item->valuedouble) && item->valuedouble >= 0 && item->valuedouble < 0x1p53)
		return item->valuedouble;
	wrong(r, "its member \"%s\" is no number that could be true", name);
	return 0;
}

static void string(struct reader *r, const cJSON *object, const char *name, char *to, size_t len)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	if (cJSON_IsString(item))
		snprintf(to, len, "%s", item->valuestring);
	else
		wrong(r, "its member \"%s\" is no string", name);
}

static void read_rounds(struct reader *r, const cJSON *rounds, struct job_facts *f)
{
	const cJSON *item;

	if (!cJSON_IsArray(rounds))
		wrong(r, "its member \"%s\" is no list", "rounds");
	cJSON_ArrayForEach(item, rounds)
	{
		if (f->rounds == ROUNDS_MAX) {
			wrong(r, "%s", "it has more rounds than there can be");
			return;
		}
		f->round[f->rounds++] = (struct job_round){
			.pages = number(r, item, "pages"),
			.zero = number(r, item, "zero"),
			.bytes = number(r, item, "bytes"),
			.ms = number(r, item, "ms"),
			.dirty = number(r, item, "dirty"),
			.throttle = number(r, item, "throttle"),
		};
		if (f->round[f->rounds - 1].zero > f->round[f->rounds - 1].pages)
			wrong(r, "%s", "a round has more pages of zeros than pages");
	}
}

static enum job_state read_state(struct reader *r, const cJSON *json)
{
	static const char *const names[] = { "running", "done", "failed", "standing" };
	char name[16] = "";

	string(r, json, "state", name, sizeof name);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(name, names[i]))
			return (enum job_state)i;
	wrong(r, "there is no state \"%s\"", name);
	return JOB_FAILED;
}

int job_facts_read(struct job_facts *f, const char *text, char *err, size_t errlen)
{
	struct reader r = { err, errlen, false };
	cJSON *json = cJSON_Parse(text);

	*f = (struct job_facts){ 0 };
	if (!cJSON_IsObject(json))
		wrong(&r, "%s", "it is not JSON, or not an object");
	string(&r, json, "job", f->job, sizeof f->job);
	f->state = read_state(&r, json);
	string(&r, json, "reason", f->reason, sizeof f->reason);
	f->dirty_rate = number(&r, json, "dirty_rate");
	f->bandwidth = number(&r, json, "bandwidth");
	f->expected_ms = number(&r, json, "expected_downtime_ms");
	const cJSON *parts = cJSON_GetObjectItemCaseSensitive(json, "downtime");
	for (unsigned i = 0; i < JOB_PARTS; i++)
		f->part_ms[i] = number(&r, parts, part_names[i]);
	read_rounds(&r, cJSON_GetObjectItemCaseSensitive(json, "rounds"), f);
	cJSON_Delete(json);
	return r.failed ? -EINVAL : 0;
}

bool job_refused(const char *text, char *sentence, size_t len)
{
	cJSON *json = cJSON_Parse(text);
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, "error");
	bool refused = cJSON_IsString(item);

	if (refused)
		snprintf(sentence, len, "%s", item->valuestring);
	cJSON_Delete(json);
	return refused;
}
