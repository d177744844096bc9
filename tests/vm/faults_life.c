#include "faults_life.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LATE 24	     /* destinations that have lost and have not noticed yet */
#define END_MS 30000 /* and how long they may take */

/* --- numbers and words ------------------------------------------------------------------------------------------- */

uint64_t random_state;

uint64_t random_below(uint64_t n)
{
	return beat_mix(random_state += 0x9e3779b97f4a7c15) % n;
}

static char trouble[600]; /* of the present fault */
static uint64_t begun;	  /* when it was */

void begin(void)
{
	trouble[0] = 0;
	begun = now_ms();
}

void complain(const char *fmt, ...)
{
	va_list args;
	size_t n = strlen(trouble);

	va_start(args, fmt);
	n += (size_t)snprintf(trouble + n, sizeof trouble - n, "%s", n ? "; " : "");
	if (n < sizeof trouble)
		vsnprintf(trouble + n, sizeof trouble - n, fmt, args);
	va_end(args);
}

static void put_string(const char *name, const char *s)
{
	printf(",\"%s\":\"", name);
	for (; *s; s++)
		printf(*s == '"' || *s == '\\' ? "\\%c" : (unsigned char)*s < 0x20 ? "\\u%04x" : "%c", *s);
	putchar('"');
}

const char *member(const char *json, const char *name)
{
	static char value[1000];
	char key[40];
	size_t n = 0;

	snprintf(key, sizeof key, "\"%s\":\"", name);
	const char *at = strstr(json, key);
	for (at = at ? at + strlen(key) : ""; at[n] && at[n] != '"' && n < sizeof value - 2; n++)
		if (at[n] == '\\' && at[n + 1])
			n++;
	snprintf(value, sizeof value, "%.*s", (int)n, at);
	return value;
}

/* --- who runs ---------------------------------------------------------------------------------------------------- */

const char *hv, *engine;
struct heart heart;
struct side home;
static struct late {
	struct side side; /* must end, and be silent */
	uint64_t since;
	char fault[80];
} late[LATE];
unsigned serial, lives;

int hear(struct side *s)
{
	side_look(s);
	int beats = heart_hear(&heart, s->text, s->unheard);
	if (beats < 0)
		complain("at %s the guest printed \"%.*s\" where \"%.*s\" was due", s->name,
			 (int)(s->unheard > 60 ? 60 : s->unheard), s->text, (int)strcspn(heart.line, "\n"), heart.line);
	s->unheard = 0;
	return beats;
}

bool hear_beats(struct side *s, int wanted, unsigned ms)
{
	int beats = 0;

	for (uint64_t end = now_ms() + ms; beats < wanted && now_ms() < end; sides_wait(s, NULL, 20)) {
		int n = hear(s);
		if (n < 0 || (s->ended && !n))
			return false;
		beats += n;
	}
	return beats >= wanted;
}

void be_born(void)
{
	char name[16];

	side_kill(&home);
	side_forget(&home);
	snprintf(name, sizeof name, "h%u", ++serial);
	if (!side_start(&home, name, NULL,
			(const char *const[]){ hv, "run", "--engine", engine, "--mem", MEM, "beat.elf", NULL }))
		complain("hv could not be started");
	heart_begin(&heart);
	lives++;
	if (!hear_beats(&home, 2, BEAT_MS))
		complain("the guest does not begin: %s", side_sentence(&home));
}

/* --- those that have lost ---------------------------------------------------------------------------------------- */

void tell(const char *kind, const char *fault, bool harmed, const char *ran, bool committed, const char *source,
	  const struct side *there)
{
	printf("{\"kind\":\"%s\",\"fault\":\"%s\",\"harmed\":%s,\"ran\":\"%s\",\"committed\":%s,\"source\":\"%s\"", kind,
	       fault, harmed ? "true" : "false", ran, committed ? "true" : "false", source);
	printf(",\"ms\":%llu,\"destination_status\":%d", (unsigned long long)(now_ms() - begun),
	       there && there->ended ? there->status : -1);
	put_string("destination", there ? side_sentence(there) : "");
	put_string("trouble", trouble);
	puts("}");
	fflush(stdout);
	trouble[0] = 0;
}

void judge_loser(struct side *s)
{
	if (s->unheard)
		complain("two ran: %s printed \"%.*s\"", s->name, (int)(s->unheard > 60 ? 60 : s->unheard), s->text);
}

void look_at_late(bool wait)
{
	for (struct late *l = late; l < late + LATE; l++) {
		if (!l->side.pid || (!side_wait(&l->side, wait ? END_MS : 0) && now_ms() - l->since < END_MS))
			continue;
		if (!l->side.ended) {
			complain("it does not end");
			side_kill(&l->side);
		}
		judge_loser(&l->side);
		tell("late", l->fault, true, "nobody", false, "", &l->side);
		side_forget(&l->side);
	}
}

void leave(struct side *s, const char *fault)
{
	for (;; look_at_late(false), rest(20))
		for (struct late *l = late; l < late + LATE; l++)
			if (!l->side.pid) {
				l->side = *s;
				l->since = now_ms();
				snprintf(l->fault, sizeof l->fault, "%s", fault);
				return;
			}
}
