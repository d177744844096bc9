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
	// SOLUTION 5.17
	switch (stage) {
	case SRC_SENDING:
	case SRC_READY:
		/* The destination cannot have heard what was never said. If somebody says that it runs all the same, it must
		 * not run twice. */
		return news == NEWS_LOST || news == NEWS_ANSWER_YES ? FATE_END : FATE_RUN;
	case SRC_COMMITTING:
		switch (news) {
		case NEWS_BROKEN:
		case NEWS_CANCEL: return FATE_ASK;
		case NEWS_REFUSED:
		case NEWS_TAKEN: return FATE_RUN;
		case NEWS_LOST:
		case NEWS_ANSWER_YES: return FATE_END;
		case NEWS_ANSWER_NO: return FATE_COMMIT;
		case NEWS_SILENCE: return FATE_STAND;
		}
		return FATE_STAND;
	case SRC_COMMITTED:
	case DST_LOADING: return FATE_END;
	case DST_READY: return news == NEWS_BROKEN ? FATE_WAIT : FATE_END;
	case DST_COMMITTED: return FATE_RUN;
	}
	return FATE_STAND;
	// STARTER 5.17: the failure table of the handout: for each stage and each news the one fate that never lets both sides
	// run, and lets one run whenever it can be known that the other never will. Hint: what does the other side know at
	// most? Before any part of MSG_COMMIT has left, the VM is the source's. Behind it, only the record or an answer tells;
	// silence tells nothing.
	//	(void)stage;
	//	(void)news;
	//	return FATE_STAND;
	// END
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
	// SOLUTION 5.16
	switch (record_take(m)) {
	case 1: return NEWS_TAKEN;
	case 0: return NEWS_LOST;
	default: return (enum commit_news)migration_ask(m);
	}
	// STARTER 5.16: find out whether the destination has committed. Hint: record_take() first, which also keeps it from doing so
	// later; where there is no record, migration_ask().
	//	lab_todo(m->vm, "5.16", "inquire() in commit.c: a connection that broke behind the commit");
	//	return NEWS_SILENCE;
	// END
}

int commit_source(struct migration *m, enum commit_fate *fate)
{
	// SOLUTION 5.14
	enum commit_stage stage = SRC_SENDING;
	int news = hear(m, MSG_READY);

	if (news == HEARD) {
		stage = SRC_READY;
		news = m->cancel ? NEWS_CANCEL : HEARD;
	}
	*fate = news == HEARD ? FATE_COMMIT : commit_fate(stage, news);
	while (*fate == FATE_COMMIT || *fate == FATE_ASK) {
		if (*fate == FATE_COMMIT) {
			/* Now, and not behind the write: a part of it may arrive even when that fails. */
			stage = SRC_COMMITTING;
			news = say(m, MSG_COMMIT, MSG_COMMITTED);
			if (news == HEARD) {
				stage = SRC_COMMITTED;
				*fate = FATE_END;
				break;
			}
		} else {
			news = inquire(m);
		}
		*fate = commit_fate(stage, news);
	}
	if (*fate == FATE_RUN && news == NEWS_CANCEL)
		section_write(&m->stream, MSG_CANCEL, 0, NULL, 0); /* if it does not arrive, the end of the connection will */
	return 0;
	// STARTER 5.14: wait for MSG_READY, send MSG_COMMIT, wait for MSG_COMMITTED, and find out who has the VM then. Hint:
	// hear(), say() and commit_fate() with the stage that you are in. From the moment at which MSG_COMMIT *may* have left,
	// it is SRC_COMMITTING. FATE_COMMIT: send it (again); FATE_ASK: inquire(), until it is one of the others. A user who
	// cancels is told to the other side.
	//	(void)say;
	//	(void)inquire;
	//	*fate = FATE_RUN;
	//	lab_todo(m->vm, "5.14", "commit_source() in commit.c: the source gives the VM away");
	//	return -ENOSYS;
	// END
}

int commit_destination(struct migration *m, enum commit_fate *fate)
{
	// SOLUTION 5.14
	int news = say(m, MSG_READY, MSG_COMMIT);

	for (;;) {
		if (news == HEARD) {
			if (record_commit(m) != 0)
				break;
			news = NEWS_LOST;
			snprintf(m->reason, sizeof m->reason, "the source has taken it back");
		}
		*fate = commit_fate(DST_READY, news);
		if (*fate != FATE_WAIT)
			return 0;
		/* The source may come back and ask. */
		news = migration_await(m, false) ? NEWS_SILENCE : hear(m, MSG_COMMIT);
	}
	/* The record says so already, so it makes no difference whether this arrives. */
	section_write(&m->stream, MSG_COMMITTED, 0, NULL, 0);
	*fate = FATE_RUN;
	return 0;
	// STARTER 5.14: say MSG_READY, wait for MSG_COMMIT, enter it in the record, say MSG_COMMITTED: FATE_RUN. Hint: record_commit()
	// returns 0 when the source was faster: then the VM is not yours (NEWS_LOST). FATE_WAIT: migration_await() waits for a source
	// that asks, behind which MSG_COMMIT may come again; when nobody asks, that is NEWS_SILENCE.
	//	(void)say;
	//	*fate = FATE_END;
	//	lab_todo(m->vm, "5.14", "commit_destination() in commit.c: the destination takes the VM over");
	//	return -ENOSYS;
	// END
}
