/*
 * What --net takes. Words with commas between; the first says which network.
 */
#include "netback.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 160u

static int bad(char *err, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int bad(char *err, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, size, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* A decimal number of at most `most`, and nothing else. false when it is none. */
static bool number(const char *s, unsigned most, unsigned *value)
{
	char *end;
	unsigned long n;

	if (!isdigit((unsigned char)*s) || strlen(s) > 9)
		return false;
	n = strtoul(s, &end, 10);
	*value = (unsigned)n;
	return !*end && n <= most;
}

static bool parse_mac(const char *s, uint8_t *mac)
{
	for (unsigned i = 0; i < 6; i++, s += 3) {
		if (!isxdigit((unsigned char)s[0]) || !isxdigit((unsigned char)s[1]) || s[2] != (i < 5 ? ':' : 0))
			return false;
		mac[i] = (uint8_t)strtoul(s, NULL, 16);
	}
	return true;
}

/* ADDR:PORT, the address may be empty and is then left alone. Changes s. */
static bool parse_end(char *s, struct in_addr *addr, uint16_t *port)
{
	char *colon = strchr(s, ':');
	unsigned n;

	if (!colon || !number(colon + 1, 65535, &n) || !n)
		return false;
	*colon = 0;
	*port = (uint16_t)n;
	return !*s || inet_pton(AF_INET, s, addr) == 1;
}

/* tcp:[ADDR]:PORT-[GUEST]:PORT, or udp. Only this machine itself can connect unless it says otherwise. Changes s. */
static bool parse_forward(char *s, struct net_forward *f)
{
	char *dash = strchr(s, '-');

	*f = (struct net_forward){ .udp = !strncmp(s, "udp:", 4), .host = { htonl(INADDR_LOOPBACK) } };
	if (!dash || (!f->udp && strncmp(s, "tcp:", 4)))
		return false;
	*dash = 0;
	return parse_end(s + 4, &f->host, &f->host_port) && parse_end(dash + 1, &f->guest, &f->guest_port);
}

static int parse_kind(const char *word, struct net_options *o, char *err, size_t size)
{
	if (!strcmp(word, "user")) {
		o->kind = NET_USER;
		return 0;
	}
	if (!strncmp(word, "tap=", 4)) {
		o->kind = NET_TAP;
		word += 4;
		if (!*word || strlen(word) >= IFNAMSIZ)
			return bad(err, size,
				   "--net tap= takes the name of an interface, of at most %u characters, not \"%s\"",
				   IFNAMSIZ - 1, word);
	} else if (!strncmp(word, "socket=", 7)) {
		o->kind = NET_SOCKET;
		word += 7;
		if (!*word || strlen(word) >= sizeof o->name)
			return bad(err, size, "--net socket= takes a path of at most %zu characters, not \"%s\"",
				   sizeof o->name - 1, word);
	} else {
		return bad(err, size, "--net takes user, tap=NAME or socket=PATH, not \"%s\"", word);
	}
	strcpy(o->name, word); /* fits: looked at above */
	return 0;
}

static int parse_option(char *word, struct net_options *o, char *err, size_t size)
{
	if (!strncmp(word, "mac=", 4)) {
		o->has_mac = parse_mac(word + 4, o->mac);
		/* Bit 0 of the first byte: a group's address, which no single interface has. */
		if (!o->has_mac || o->mac[0] & 1 || !memcmp(o->mac, (uint8_t[6]){ 0 }, 6))
			return bad(err, size,
				   "--net: mac= takes the address of one interface, such as 02:00:00:00:00:01, not \"%s\"",
				   word + 4);
		return 0;
	}
	if (!strncmp(word, "mtu=", 4)) {
		if (!number(word + 4, NET_MTU_MAX, &o->mtu) || o->mtu < NET_MTU_MIN)
			return bad(err, size, "--net: mtu= takes a number of bytes from %u to %u, not \"%s\"", NET_MTU_MIN,
				   NET_MTU_MAX, word + 4);
		return 0;
	}
	if (strncmp(word, "hostfwd=", 8) && strncmp(word, "restrict=", 9))
		return bad(err, size,
			   "--net has no option \"%s\"; it is mac=, mtu=, and for user hostfwd= and restrict=", word);
	if (o->kind != NET_USER)
		return bad(err, size, "--net: %s is for user only", word);
	if (word[0] == 'r') {
		o->restricted = !strcmp(word + 9, "on");
		if (!o->restricted && strcmp(word + 9, "off"))
			return bad(err, size, "--net: restrict= takes on or off, not \"%s\"", word + 9);
		return 0;
	}
	if (o->nforwards == NET_FORWARDS)
		return bad(err, size, "--net: there is room for %u hostfwd=", NET_FORWARDS);

	char copy[WORD_MAX];

	snprintf(copy, sizeof copy, "%s", word + 8); /* the parser cuts it to pieces */
	if (!parse_forward(copy, &o->forward[o->nforwards++]))
		return bad(err, size,
			   "--net: hostfwd= takes tcp:[ADDR]:PORT-[GUEST]:PORT, or udp, such as tcp::8080-:80, not \"%s\"",
			   word + 8);
	return 0;
}

int net_parse(const char *text, struct net_options *o, char *err, size_t size)
{
	*o = (struct net_options){ .mtu = NET_MTU_DEFAULT };
	for (bool first = true;; first = false) {
		size_t len = strcspn(text, ",");
		char word[WORD_MAX];

		if (len >= sizeof word)
			return bad(err, size, "--net: \"%.40s...\" is too long", text);
		memcpy(word, text, len);
		word[len] = 0;
		if (first ? parse_kind(word, o, err, size) : parse_option(word, o, err, size))
			return -EINVAL;
		if (!text[len])
			return 0;
		text += len + 1;
	}
}
