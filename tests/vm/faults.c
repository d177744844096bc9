/*
 * faults HV ENGINE SEED [KIND]...
 *
 * One guest that lives through hundreds of migrations, each with one fault in it (test_migration_faults.py). It moves
 * from one hv to a fresh one, with a relay between them that does the harm (grader/testhost/relay.h); where it runs
 * afterwards it is found for the next fault. It dies only when the process that has it is killed: then there is a new
 * one.
 *
 * Behind each fault the driver looks who runs: whose guest prints on. What both processes have printed, one behind the
 * other, has to be the heart's lines (faults_vm.h) without a byte missing, twice, or of a memory that is not right; and
 * the one that did not get the guest must end by itself, without having printed anything. What it found is one line of
 * JSON for each fault; "trouble" says what must never be.
 */
#define _GNU_SOURCE
#include "faults_life.h"
#include "faults_relay.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define APART "/tmp/apart" /* a directory that each destination has of its own */
#define SETTLE_MS 60000	   /* a migration, with all its patience */
#define SILENT_MS 1500	   /* a destination whose source is dead, and that prints nothing for so long, does not run */
#define STAND_MS 300	   /* and so long one is watched that says that it stands */
#define END_SOON_MS 60	   /* a destination that has lost ends in this time, or is left to itself */
#define SAVE_US 30000	   /* about as long as it takes to save */

/* --- one migration with a fault ---------------------------------------------------------------------------------- */

/* Until the source has done with it, one way or the other. Its reason. */
static const char *settle(struct side *there)
{
	static char account[16384];

	for (uint64_t end = now_ms() + SETTLE_MS; now_ms() < end; sides_wait(&home, there, 20)) {
		/* Once the destination speaks, what the source has printed is older; all behind it would be two that
		 * run. */
		side_look(there);
		bool spoke = there->unheard;
		hear(&home);
		if (spoke && hear(&home) > 0)
			complain("both sides print");
		if (!side_ask(&home, "job", account, sizeof account)) {
			if (!side_wait(&home, 2000))
				continue;
			hear(&home);
			return side_sentence(&home);
		}
		const char *state = member(account, "state");
		if (strcmp(state, "running") && strcmp(state, "done"))
			return member(account, "reason");
	}
	complain("it is still under way after %u s: %s", SETTLE_MS / 1000, account);
	return member(account, "reason");
}

/* Which of the two has the guest now. committed: the destination's record says that it has it. */
static const char *find_guest(struct side *there, bool committed)
{
	char answer[300];

	/* Nobody can know, so it stands, until the user says that there is no other one. */
	if (!home.ended && side_ask(&home, "status", answer, sizeof answer) &&
	    !strcmp(member(answer, "state"), "standing")) {
		if (hear_beats(&home, 1, STAND_MS))
			complain("it says that it stands, and runs");
		if (!side_wait(there, 0))
			complain("it stands although the destination is there");
		side_ask(&home, "resume", answer, sizeof answer);
		return hear_beats(&home, 1, BEAT_MS) ? "source, when told so" : "nobody";
	}
	if (!home.ended) {
		if (hear_beats(&home, 1, BEAT_MS))
			return "source";
		complain("the source is there, and its guest does not run");
		return "nobody";
	}
	/* A destination that has not committed waits in silence until it gives up. */
	return hear_beats(there, 1, home.status && !committed ? SILENT_MS : BEAT_MS) ? "destination" : "nobody";
}

static void play(const struct fault *f, struct passed *passed)
{
	char name[16], from[24], to[24], told[24], shared[40], record[56], uri[32], incoming[32], command[64], answer[300],
		text[80], why[1000];
	struct side there;

	look_at_late(false);
	begin();
	snprintf(text, sizeof text, "%s %s", f->where, f->what);
	snprintf(name, sizeof name, "h%u", ++serial);
	snprintf(from, sizeof from, "r%u", serial);
	snprintf(to, sizeof to, "d%u", serial);
	snprintf(told, sizeof told, "t%u", serial);
	snprintf(shared, sizeof shared, "%s.record", to);
	snprintf(record, sizeof record, "%s.committed", shared);
	snprintf(uri, sizeof uri, "unix:%s", from);
	snprintf(incoming, sizeof incoming, "unix:%s", to);
	snprintf(command, sizeof command, "migrate %s --detach", uri);
	if (!side_start(&there, name, f->apart ? APART : NULL,
			(const char *const[]){ hv, "run", "--engine", engine, "--mem", MEM, "--incoming", incoming,
					       "--record", f->apart ? APART "/record" : shared, NULL }))
		complain("hv could not be started");
	if (!await_listener(to, BEAT_MS))
		complain("the destination does not listen: %s", side_sentence(&there));
	pid_t relay = start_relay(from, to, told, f, f->victim == SOURCE ? home.pid : there.pid);
	if (!side_ask(&home, command, answer, sizeof answer) || strcmp(member(answer, "state"), "running"))
		complain("the migration does not begin: %s", answer);
	snprintf(why, sizeof why, "%s", settle(&there));
	bool committed = !access(record, F_OK);
	const char *who = find_guest(&there, committed);
	kill(relay, SIGKILL);
	waitpid(relay, NULL, 0);
	read_passed(told, passed);
	committed = committed || passed->committed;
	unlink(from), unlink(told);

	if (!strcmp(who, "destination")) {
		if (home.status != 0 && f->victim != SOURCE)
			complain("the source ended with status %d", home.status);
		tell(f->kind, text, passed->harmed, who, committed, why, NULL);
		side_forget(&home);
		home = there;
		return;
	}
	bool ended = side_wait(&there, END_SOON_MS);
	if (ended)
		judge_loser(&there);
	tell(f->kind, text, passed->harmed, who, committed, why, &there);
	if (ended)
		side_forget(&there);
	else
		leave(&there, text);
	if (!strcmp(who, "nobody"))
		be_born();
}

/* --- faults while it is saved ------------------------------------------------------------------------------------ */

static uint64_t file_sum(const char *path)
{
	uint64_t sum = 0;
	FILE *f = fopen(path, "r");

	for (int c; f && (c = getc(f)) != EOF;)
		sum = beat_add(sum, (unsigned)c + 1);
	if (f)
		fclose(f);
	return sum;
}

/* Saves and waits. false, with the reason, if it was not done. */
static bool save(const char *file, char *why, size_t len)
{
	char command[64], account[16384];

	snprintf(command, sizeof command, "save %s --detach", file);
	if (!side_ask(&home, command, account, sizeof account))
		return false;
	do {
		rest(5);
		hear(&home);
		if (!side_ask(&home, "job", account, sizeof account))
			return false;
	} while (!strcmp(member(account, "state"), "running"));
	snprintf(why, len, "%s", member(account, "reason"));
	return !strcmp(member(account, "state"), "done");
}

/* The disk gets full: the file that was there is still there, and the guest goes on. */
static void fill_disk(void)
{
	char why[1000] = "", options[40];
	struct stat st;

	begin();
	mkdir("small", 0700);
	if (mount("small", "small", "tmpfs", 0, "size=16m"))
		complain("no small disk");
	if (!save("small/vm", why, sizeof why) || stat("small/vm", &st))
		complain("it could not be saved: %s", why);
	uint64_t sum = file_sum("small/vm");
	/* There is room for a part of the new file. It takes as much as the old one, holes left out, and the size is rounded up to pages. */
	uint64_t taken = (uint64_t)st.st_blocks * 512;
	snprintf(options, sizeof options, "size=%llu", (unsigned long long)(taken + random_below(taken - 2 * 4096)));
	if (mount("small", "small", NULL, MS_REMOUNT, options))
		complain("the disk does not get small");
	if (save("small/vm", why, sizeof why))
		complain("it was saved where there is no room");
	if (file_sum("small/vm") != sum)
		complain("the old file is another one");
	if (!access("small/vm.partial", F_OK))
		complain("a part of the new file is left");
	bool runs = hear_beats(&home, 1, BEAT_MS);
	umount2("small", MNT_DETACH);
	tell("save-full", options, true, runs ? "source" : "nobody", false, why, NULL);
	if (!runs)
		be_born();
}

/* hv is killed while it saves: whatever lies at the file's name can be restored, and is one of the two. */
static void kill_saver(void)
{
	struct heart before = heart;
	char why[1000] = "", answer[300], fault[40], name[16];

	begin();
	if (!save("vm", why, sizeof why))
		complain("it could not be saved: %s", why);
	uint64_t sum = file_sum("vm"), us = random_below(SAVE_US);
	snprintf(fault, sizeof fault, "kill behind %llu us", (unsigned long long)us);
	hear_beats(&home, 2, BEAT_MS);
	if (!side_ask(&home, "save vm --detach", answer, sizeof answer))
		complain("nobody answers");
	usleep((useconds_t)us);
	side_kill(&home);
	bool old = file_sum("vm") == sum;
	uint64_t last = heart.n + 8 - before.n; /* beats that it may have come to meanwhile */
	side_forget(&home);
	heart = before;
	snprintf(name, sizeof name, "h%u", ++serial);
	side_start(&home, name, NULL, (const char *const[]){ hv, "restore", "vm", NULL });
	int beats = 0;
	for (uint64_t end = now_ms() + BEAT_MS; !beats && now_ms() < end && !home.ended; sides_wait(&home, NULL, 20)) {
		side_look(&home);
		beats = heart_find(&heart, home.text, home.unheard, (unsigned)last);
	}
	home.unheard = 0;
	if (beats <= 0)
		complain(beats ? "what was restored prints something else" : "what lies there does not begin: %s",
			 side_sentence(&home));
	tell("save-kill", fault, true, beats > 0 ? "source" : "nobody", false, old ? "the old file" : "the new file", NULL);
	if (beats <= 0)
		be_born();
}

/* --- which faults ------------------------------------------------------------------------------------------------ */

static bool wanted(const char *kind, char **kinds)
{
	bool any = !*kinds;

	for (; *kinds; kinds++)
		any = any || !strcmp(*kinds, kind);
	return any;
}

static void fault(char **kinds, const char *kind, int victim, const char *what, const char *where, ...)
	__attribute__((format(printf, 5, 6)));
static void fault(char **kinds, const char *kind, int victim, const char *what, const char *where, ...)
{
	struct fault f = { .kind = kind, .victim = victim, .apart = !strncmp(kind, "apart", 5) };
	struct passed passed;
	va_list args;

	if (!wanted(kind, kinds))
		return;
	va_start(args, where);
	vsnprintf(f.where, sizeof f.where, where, args);
	va_end(args);
	snprintf(f.what, sizeof f.what, "%s", what);
	play(&f, &passed);
}

/*
 * Every boundary of a message in both directions, bytes and bits by chance. n: of a migration that went well. Messages
 * behind which the source waits for an answer are left out of what would only make both wait for 10 s, but for a few.
 */
static void play_all(const struct passed *n, char **kinds)
{
	static const char side[] = "SD";

	for (unsigned d = 0; d < 2; d++) {
		for (unsigned m = 0; m < n->messages[d]; m++) {
			fault(kinds, "cut", NOBODY, "cut", "%c%u", side[d], m);
			fault(kinds, "cut", NOBODY, "cut-after", "%c%u", side[d], m);
			fault(kinds, "twice", NOBODY, "twice", "%c%u", side[d], m);
		}
		for (unsigned i = 0; i < (d ? 20 : 100); i++)
			fault(kinds, "byte", NOBODY, "cut", "%c@%llu", side[d],
			      (unsigned long long)random_below(n->bytes[d]));
		for (unsigned i = 0; i < (d ? 20 : 80); i++)
			fault(kinds, "flip", NOBODY, "flip", "%c@%llu", side[d],
			      (unsigned long long)random_below(n->bytes[d]));
	}
	for (unsigned m = 2; m + 3 < n->messages[0]; m++) {
		fault(kinds, "swap", NOBODY, "swap", "S%u", m);
		fault(kinds, "drop", NOBODY, "drop", "S%u", m);
	}
	for (unsigned i = 0; i < 20; i++) {
		char bit[24];
		snprintf(bit, sizeof bit, "flip=%llu", (unsigned long long)random_below(24 * 8));
		fault(kinds, "flip", NOBODY, bit, "S%llu", (unsigned long long)(1 + random_below(n->messages[0] - 1)));
	}
	for (unsigned i = 0; i < 10; i++) {
		fault(kinds, "kill-source", SOURCE, "kill", "S%llu", (unsigned long long)random_below(n->messages[0]));
		fault(kinds, "kill-destination", DESTINATION, "kill", "S%llu",
		      (unsigned long long)random_below(n->messages[0]));
	}
	for (unsigned m = 1; m < n->messages[1]; m++) {
		fault(kinds, "kill-source", SOURCE, "kill", "D%u", m);
		fault(kinds, "kill-destination", DESTINATION, "kill", "D%u", m);
		fault(kinds, "wait", NOBODY, "wait=300", "D%u", m);
	}
	for (unsigned i = 0; i < 6; i++)
		fault(kinds, "wait", NOBODY, "wait=300", "S%llu", (unsigned long long)random_below(n->messages[0]));
	/* Around the commit, without a record that both can see: END, READY, COMMIT, COMMITTED. */
	for (unsigned i = 0; i < 3; i++) {
		fault(kinds, "apart-before", NOBODY, "cut", "S:8");
		fault(kinds, "apart-before", NOBODY, "cut", "D:66");
		fault(kinds, "apart-behind", NOBODY, "cut", "S:67");
		fault(kinds, "apart-behind", NOBODY, "cut-after", "S:67");
		fault(kinds, "apart-behind", NOBODY, "cut", "D:68");
		fault(kinds, "apart-behind", NOBODY, "cut-after", "D:68");
	}
	fault(kinds, "apart-killed", DESTINATION, "kill", "S:67");
	/* Nothing comes any more, and nobody hangs up: patience decides. */
	fault(kinds, "mute", NOBODY, "mute", "S%llu", (unsigned long long)random_below(n->messages[0] - 2));
	fault(kinds, "mute", NOBODY, "mute", "S%u", n->messages[0] - 1);
	fault(kinds, "mute", NOBODY, "mute", "D%u", n->messages[1] - 1);
	for (unsigned i = 0; i < 10; i++) {
		if (wanted("save-full", kinds))
			fill_disk();
		if (wanted("save-kill", kinds))
			kill_saver();
	}
}

int main(int argc, char **argv)
{
	const struct fault none = { .kind = "none" };
	struct passed passed;

	if (argc < 4) {
		fprintf(stderr, "usage: faults HV ENGINE SEED [KIND]...\n");
		return 2;
	}
	hv = argv[1];
	engine = argv[2];
	random_state = strtoull(argv[3], NULL, 0);
	mkdir(APART, 0700);
	be_born();
	play(&none, &passed);
	play_all(&passed, argv + 4);
	look_at_late(true);
	side_kill(&home);
	side_forget(&home);
	printf("{\"kind\":\"end\",\"lives\":%u,\"messages\":[%u,%u],\"bytes\":[%llu,%llu]}\n", lives, passed.messages[0],
	       passed.messages[1], (unsigned long long)passed.bytes[0], (unsigned long long)passed.bytes[1]);
	return 0;
}
