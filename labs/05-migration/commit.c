/*
 * Lab 5, checkpoints 5.14 to 5.17: who has the VM. Two sides that talk over a connection which may break at any byte can never both be
 * sure (the two generals' problem). So one message decides, MSG_COMMIT; before it the source has the VM, and behind it there is a record
 * that only one side can rename, or a question that is asked until somebody answers.
 */
#include "lab5.h"

#include <stdio.h>

/* hear(): the message that was waited for came. */
#define HEARD (-1)

enum commit_fate commit_fate(enum commit_stage stage, enum commit_news news)
{
	// TODO 5.17: the failure table of the handout: for each stage and each news the one fate that never lets both
	// sides run, and lets one run whenever it can be known that the other never will. Hint: what does the other
	// side know at most? Before any part of MSG_COMMIT has left, the VM is the source's. Behind it, only the record
	// or an answer tells; silence tells nothing.
	(void)stage;
	(void)news;
	return FATE_STAND;
}

/* Reads the next message: HEARD if it is the one wanted, else what it is for news. Sentences go to m->reason. */
static int hear(struct migration *m, uint16_t wanted)
{
	struct section sec;

	if (section_read(&m->stream, &sec)) {
		snprintf(m->reason, sizeof m->reason, "the connection broke: %s", m->stream.err);
		return m->cancel ? NEWS_CANCEL : NEWS_BROKEN;
	}
	if (sec.header.type == MSG_READY)
		m->heard_ready = clock_ns(); /* for the account of the downtime */
	if (sec.header.type == wanted)
		return HEARD;
	if (sec.header.type == MSG_CANCEL) {
		snprintf(m->reason, sizeof m->reason, "it was cancelled at the source");
		return NEWS_CANCEL;
	}
	if (sec.header.type == MSG_REFUSE) {
		snprintf(m->reason, sizeof m->reason, "the destination refused: %.*s", (int)sec.header.length, (const char *)sec.payload);
		return NEWS_REFUSED;
	}
	snprintf(m->reason, sizeof m->reason, "the other side says %u where %u is due", sec.header.type, wanted);
	return NEWS_BROKEN;
}

/* Says a message, which may arrive or not, and waits for the answer to it. */
static int say(struct migration *m, uint16_t message, uint16_t answer)
{
	if (!section_write(&m->stream, message, 0, NULL, 0))
		return hear(m, answer);
	snprintf(m->reason, sizeof m->reason, "the connection broke: %s", m->stream.err);
	return NEWS_BROKEN;
}

/* What the record says or, without one, whoever answers. */
static enum commit_news inquire(struct migration *m)
{
	// TODO 5.16: find out whether the destination has committed. Hint: record_take() first, which also keeps it
	// from doing so later; where there is no record, migration_ask().
	lab_todo(m->vm, "5.16", "inquire() in commit.c: a connection that broke behind the commit");
	return NEWS_SILENCE;
}

int commit_source(struct migration *m, enum commit_fate *fate)
{
	// TODO 5.14: wait for MSG_READY, send MSG_COMMIT, wait for MSG_COMMITTED, and find out who has the VM then.
	// Hint: hear(), say() and commit_fate() with the stage that you are in. From the moment at which MSG_COMMIT
	// *may* have left, it is SRC_COMMITTING. FATE_COMMIT: send it (again); FATE_ASK: inquire(), until it is one of
	// the others. A user who cancels is told to the other side.
	(void)say;
	(void)inquire;
	*fate = FATE_RUN;
	lab_todo(m->vm, "5.14", "commit_source() in commit.c: the source gives the VM away");
	return -ENOSYS;
}

int commit_destination(struct migration *m, enum commit_fate *fate)
{
	// TODO 5.14: say MSG_READY, wait for MSG_COMMIT, enter it in the record, say MSG_COMMITTED: FATE_RUN. Hint:
	// record_commit() returns 0 when the source was faster: then the VM is not yours (NEWS_LOST). FATE_WAIT:
	// migration_await() waits for a source that asks, behind which MSG_COMMIT may come again; when nobody asks,
	// that is NEWS_SILENCE.
	(void)say;
	*fate = FATE_END;
	lab_todo(m->vm, "5.14", "commit_destination() in commit.c: the destination takes the VM over");
	return -ENOSYS;
}
