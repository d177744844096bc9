#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The framing: docs/stream.md. */
#define HEADER 32
#define SECTION 24
#define PAYLOAD_MAX (8u << 20)
#define TYPE_PAGES 3
#define PAGES_HEADER 24
#define KIND_RAW 0
#define KIND_ZSTD 2
#define PAGE 4096
#define HEX_MAX 1024 /* bytes of a payload that are told */

#define FAULTS 16
#define CONNECT_TRIES 200 /* of 25 ms: the other side may not listen yet */
#define REFUSED_TRIES 4   /* its socket is there: it is about to listen, or it is gone */

enum { SOURCE, DESTINATION };

struct fault {
	unsigned connection;
	int direction;
	enum { AT_MESSAGE, AT_TYPE, AT_BYTE } by;
	uint64_t where;
	enum { CUT, CUT_AFTER, MUTE, FLIP, DROP, SWAP, TWICE, EMPTY, KILL, WAIT } what;
	uint64_t value;
	const char *text;
	bool done;
};

static struct fault faults[FAULTS];
static unsigned nfaults;
static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;

struct connection {
	unsigned number;
	int side[2];	    /* sockets: of the source, of the destination */
	volatile bool mute; /* nothing passes any more */
};

/* One direction of it. */
struct flow {
	struct connection *c;
	int from;	/* SOURCE or DESTINATION */
	uint64_t bytes; /* in front of the present message */
	unsigned messages;
	uint8_t *message, *held; /* held: waits for the one behind it */
	size_t length, held_length;
};

static uint32_t crc_table[256];

/* Castagnoli's polynomial, bits reversed (RFC 3720, appendix B.4). */
static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (unsigned bit = 0; bit < 8; bit++)
			v = v >> 1 ^ (v & 1 ? 0x82f63b78 : 0);
		crc_table[i] = v;
	}
}

static uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
	for (crc = ~crc; n; n--)
		crc = crc_table[(uint8_t)(crc ^ *p++)] ^ crc >> 8;
	return ~crc;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++, v >>= 8)
		p[i] = (uint8_t)v;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void rest(uint64_t ms)
{
	nanosleep(&(struct timespec){ (time_t)(ms / 1000), (long)(ms % 1000 * 1000000) }, NULL);
}

/* How many of n bytes came before the end. */
static size_t receive(int fd, uint8_t *p, size_t n)
{
	size_t got = 0;

	while (got < n) {
		ssize_t r = read(fd, p + got, n - got);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		got += (size_t)r;
	}
	return got;
}

static bool pass(struct flow *f, const uint8_t *p, size_t n)
{
	while (n && !f->c->mute) {
		ssize_t r = send(f->c->side[!f->from], p, n, MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

/* Both sides see the end; the other direction's thread, too. */
static void hang_up(struct connection *c)
{
	shutdown(c->side[SOURCE], SHUT_RDWR);
	shutdown(c->side[DESTINATION], SHUT_RDWR);
}

/* --- messages -------------------------------------------------------------------------------------------------------------------- */

/* Reads one message whole. false at the end; f->length is what came of it then. */
static bool take(struct flow *f, int fd)
{
	size_t head = f->messages ? SECTION : HEADER;

	f->length = receive(fd, f->message, head);
	if (f->length < head)
		return false;
	if (f->messages) {
		uint32_t payload = get32(f->message + 8);

		if (payload > PAYLOAD_MAX)
			return false;
		f->length += receive(fd, f->message + SECTION, payload);
		return f->length == SECTION + payload;
	}
	return true;
}

static void tell_payload(const uint8_t *p, size_t n, unsigned type)
{
	bool run = type == TYPE_PAGES && n >= PAGES_HEADER;

	if (run) {
		uint32_t count = get32(p + 8), kind = get32(p + 12), data = get32(p + 16), size = get32(p + 20);

		printf(" gfn %llu count %u kind %u data %u", (unsigned long long)get64(p), count, kind, data);
		if (kind == KIND_RAW && data <= n && size <= n - data && size == (uint64_t)count * PAGE) {
			printf(" :");
			for (uint32_t i = 0; i < count; i++)
				printf(" %x", crc32c(0, p + data + (size_t)i * PAGE, PAGE));
		}
	}
	if (n <= HEX_MAX && (!run || get32(p + 12) == KIND_ZSTD)) {
		printf(" =");
		for (size_t i = 0; i < n; i++)
			printf("%s%02x", i ? "" : " ", p[i]);
	}
}

static void tell(const struct flow *f)
{
	const uint8_t *m = f->message;

	pthread_mutex_lock(&telling);
	printf("%u %c %u ", f->c->number, "SD"[f->from], f -> messages);
	if (!f->messages) {
		printf("header version %u flags %u id %llx crc %s", get32(m + 8), get32(m + 12),
		       (unsigned long long)get64(m + 16),
		       crc32c(0, m, HEADER - 4) == get32(m + HEADER - 4) ? "ok" : "wrong");
	} else {
		uint32_t length = get32(m + 8);
		uint32_t crc = crc32c(crc32c(0, m, SECTION - 4), m + SECTION, length);

		printf("type %u instance %u length %u sequence %u crc %s", get16(m), get32(m + 4), length, get32(m + 12),
		       crc == get32(m + SECTION - 4) ? "ok" : "wrong");
		tell_payload(m + SECTION, length, get16(m));
	}
	putchar('\n');
	fflush(stdout);
	pthread_mutex_unlock(&telling);
}

static void say(const struct connection *c, const char *what, const char *more)
{
	pthread_mutex_lock(&telling);
	printf("%u %s %s\n", c->number, what, more);
	fflush(stdout);
	pthread_mutex_unlock(&telling);
}

/* --- faults ---------------------------------------------------------------------------------------------------------------------- */

static struct fault *fault_at(const struct flow *f)
{
	for (struct fault *t = faults; t < faults + nfaults; t++) {
		if (t->done || t->connection != f->c->number || t->direction != f->from)
			continue;
		if (t->by == AT_MESSAGE ? t->where == f->messages
		    : t->by == AT_TYPE	? f->messages && t->where == get16(f->message)
					: t->where >= f->bytes && t->where < f->bytes + f->length)
			return t;
	}
	return NULL;
}

/* Does what is to be done in front of the message, or to it. false: it must not be passed on, or nothing more. */
static bool harm(struct flow *f, struct fault *t)
{
	uint64_t bit = t->by == AT_BYTE ? (t->where - f->bytes) * 8 : t->value;

	t->done = true;
	say(f->c, "fault", t->text);
	switch (t->what) {
	case CUT:
		if (t->by == AT_BYTE)
			pass(f, f->message, t->where - f->bytes);
		hang_up(f->c);
		return false;
	case MUTE: f->c->mute = true; return true;
	case FLIP:
		if (bit / 8 < f->length)
			f->message[bit / 8] ^= (uint8_t)(1 << bit % 8);
		return true;
	case TWICE: return pass(f, f->message, f->length);
	case EMPTY:
		f->length = SECTION;
		put32(f->message + 8, 0);
		put32(f->message + SECTION - 4, crc32c(0, f->message, SECTION - 4));
		return true;
	case KILL:
		kill((pid_t)t->value, SIGKILL);
		rest(500);
		return true;
	case WAIT: rest(t->value); return true;
	case DROP:
	case SWAP: return false;
	case CUT_AFTER: return true;
	}
	return true;
}

/* Passes the message on, as the fault says that is for it. false: this direction ends. */
static bool forward(struct flow *f)
{
	struct fault *t = fault_at(f);
	bool goes = !t || harm(f, t);

	if (goes && !pass(f, f->message, f->length))
		return false;
	if (f->held_length && !pass(f, f->held, f->held_length))
		return false;
	f->held_length = 0;
	if (t && t->what == SWAP) {
		memcpy(f->held, f->message, f->length);
		f->held_length = f->length;
	} else if (t && t->what == CUT_AFTER) {
		hang_up(f->c);
	}
	return goes || t->what != CUT;
}

static void *flow_run(void *opaque)
{
	struct flow *f = opaque;
	char end[40];

	while (take(f, f->c->side[f->from])) {
		tell(f);
		if (!forward(f)) {
			f->length = 0;
			break;
		}
		f->bytes += f->length;
		f->messages++;
	}
	snprintf(end, sizeof end, "end %zu", f->length);
	say(f->c, f->from == SOURCE ? "S" : "D", end);
	/* What is not a whole message is passed on as well: the other side has to cope with it. */
	pass(f, f->message, f->length);
	if (!f->c->mute)
		hang_up(f->c);
	return NULL;
}

/* --- connections ----------------------------------------------------------------------------------------------------------------- */

static int address(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof a->sun_path)
		return -1;
	strcpy(a->sun_path, path);
	return 0;
}

static int connect_to(const char *path)
{
	struct sockaddr_un a;

	if (address(path, &a))
		return -1;
	for (int i = 0, refused = 0; i < CONNECT_TRIES; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0 || !connect(fd, (struct sockaddr *)&a, sizeof a))
			return fd;
		close(fd);
		if (errno == ECONNREFUSED && ++refused == REFUSED_TRIES)
			return -1;
		rest(25);
	}
	return -1;
}

static int listen_at(const char *path)
{
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || address(path, &a) || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4)) {
		perror(path);
		return -1;
	}
	return fd;
}

static bool serve(struct connection *c)
{
	struct flow flow[2] = { { .c = c, .from = SOURCE }, { .c = c, .from = DESTINATION } };
	pthread_t thread;
	bool good = true;

	for (int i = 0; i < 2; i++) {
		flow[i].message = malloc(SECTION + PAYLOAD_MAX);
		flow[i].held = malloc(SECTION + PAYLOAD_MAX);
		good = good && flow[i].message && flow[i].held;
	}
	if (good && !pthread_create(&thread, NULL, flow_run, &flow[1])) {
		flow_run(&flow[0]);
		pthread_join(thread, NULL);
	} else {
		perror("relay");
		good = false;
	}
	for (int i = 0; i < 2; i++) {
		free(flow[i].message);
		free(flow[i].held);
		close(c->side[i]);
	}
	return good;
}

/* --- files ----------------------------------------------------------------------------------------------------------------------- */

bool relay_tell(const char *path)
{
	struct connection c = { 0 };
	struct flow f = { .c = &c, .from = SOURCE, .message = malloc(SECTION + PAYLOAD_MAX) };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool good = fd >= 0 && f.message;

	crc_init();
	for (; good && take(&f, fd); f.messages++)
		tell(&f);
	if (good)
		printf("0 S end %zu\n", f.length);
	free(f.message);
	if (fd >= 0)
		close(fd);
	return good;
}

/* --- arguments ------------------------------------------------------------------------------------------------------------------- */

static bool parse_where(struct fault *t, const char *s)
{
	char *end;

	if (strchr(s, '/')) {
		t->connection = (unsigned)strtoul(s, &end, 10);
		s = end + 1;
	}
	if (*s != 'S' && *s != 'D')
		return false;
	t->direction = *s++ == 'S' ? SOURCE : DESTINATION;
	t->by = *s == ':' ? AT_TYPE : *s == '@' ? AT_BYTE : AT_MESSAGE;
	s += t->by != AT_MESSAGE;
	t->where = strtoull(s, &end, 10);
	return end != s && !*end;
}

static bool parse_what(struct fault *t, const char *s)
{
	static const char *const names[] = {
		[CUT] = "cut",	 [CUT_AFTER] = "cut-after", [MUTE] = "mute",   [FLIP] = "flip", [DROP] = "drop",
		[SWAP] = "swap", [TWICE] = "twice",	    [EMPTY] = "empty", [KILL] = "kill", [WAIT] = "wait"
	};
	size_t n = strcspn(s, "=");

	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		if (strlen(names[i]) == n && !strncmp(s, names[i], n)) {
			t->what = i;
			t->value = s[n] ? strtoull(s + n + 1, NULL, 10) : 0;
			t->text = s;
			return true;
		}
	}
	return false;
}

int relay_main(int argc, char **argv)
{
	unsigned long times = 0;

	crc_init();
	for (int i = 3; i < argc;) {
		if (!strcmp(argv[i], "--times") && i + 1 < argc) {
			times = strtoul(argv[i + 1], NULL, 10);
			i += 2;
		} else if (!strcmp(argv[i], "--fault") && i + 2 < argc && nfaults < FAULTS &&
			   parse_where(&faults[nfaults], argv[i + 1]) && parse_what(&faults[nfaults], argv[i + 2])) {
			nfaults++;
			i += 3;
		} else {
			fprintf(stderr, "relay: what is \"%s\"?\n", argv[i]);
			return 2;
		}
	}
	int listening = argc > 2 ? listen_at(argv[1]) : -1;
	if (listening < 0)
		return argc > 2 ? 1 : 2;
	for (unsigned n = 0; !times || n < times; n++) {
		struct connection c = { .number = n, .side = { accept4(listening, NULL, NULL, SOCK_CLOEXEC), -1 } };

		if (n + 1 == times) {
			close(listening);
			unlink(argv[1]);
		}
		if (c.side[SOURCE] < 0)
			return 1;
		c.side[DESTINATION] = connect_to(argv[2]);
		if (c.side[DESTINATION] < 0) {
			say(&c, "refused", argv[2]);
			close(c.side[SOURCE]);
		} else if (!serve(&c)) {
			return 1;
		}
	}
	return 0;
}
