/*
 * The guest that lives through all faults, wherever it runs; what must never be; and one line of JSON for each fault.
 */
#ifndef FAULTS_LIFE_H
#define FAULTS_LIFE_H

#include "faults_vm.h"

#define MEM "2M"
#define BEAT_MS 10000 /* until whoever has the guest prints */

/* The hv that is tried, the engine, and how many processes and guests there have been. */
extern const char *hv, *engine;
extern unsigned serial, lives;
extern struct heart heart;
extern struct side home; /* has the guest */

/* Numbers from a seed. */
extern uint64_t random_state;
uint64_t random_below(uint64_t n);

/* A fault begins: nothing is wrong yet. */
void begin(void);
/* Something is as it must never be. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What is known of a fault, as a line of JSON. harmed: it came to it. */
void tell(const char *kind, const char *fault, bool harmed, const char *ran, bool committed, const char *source,
	  const struct side *there);
/* The text of a string in an answer in JSON, still escaped; "" if there is none. Until the next call. */
const char *member(const char *json, const char *name);

/* Takes what the guest printed there. How many beats it was. */
int hear(struct side *s);
/* So many beats, in that time. */
bool hear_beats(struct side *s, int wanted, unsigned ms);
/* A guest that begins, in place of the one that there was. */
void be_born(void);

/* Of a process that never got the guest: it was silent. */
void judge_loser(struct side *s);
/* It has lost, but does not know yet: it may wait for a source that asks. It is looked at later. */
void leave(struct side *s, const char *fault);
/* Those that were left: they must end, silently. wait: until they all have. */
void look_at_late(bool wait);

#endif
