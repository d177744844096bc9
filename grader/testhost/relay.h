/*
 * Between the two sides of a migration: a relay that both sides' bytes go through, that tells what passed, and that does harm where it was
 * told to. It knows the stream's framing (docs/stream.md) and nothing of hv.
 *
 * It listens at one Unix socket and connects to another one, connection after connection; when one side hangs up, so does it at the other.
 * A message is the header that a direction begins with (message 0), or a section (messages 1, 2, ...). Each is taken whole, told on
 * standard output as one line, and passed on then: so the answer to a message is told behind it. A line is
 *
 *	CONNECTION S|D NUMBER header version V flags F id I crc ok|wrong
 *	CONNECTION S|D NUMBER type T instance I length L sequence N crc ok|wrong [...]
 *
 * S is what the side that connected sends, D what the other one sends. Behind that of a run of pages: gfn G count C kind K data
 * D, and of raw pages " :" and the CRC-32C of each; else, if it is not long, " =" and the payload in hexadecimal. At a fault:
 * CONNECTION fault WHAT. At the end of a direction: CONNECTION S|D end, with the number of bytes that belonged to no whole
 * message.
 */
#ifndef GRADER_RELAY_H
#define GRADER_RELAY_H

#include <stdbool.h>

/*
 * relay FROM TO [--times N] [--fault WHERE WHAT]...
 *
 * --times: that many connections are served, then FROM is nobody's any more (without it: as many as come).
 * WHERE, always of the first connection unless it begins with CONNECTION/:
 *	S7, D2    message 7 of the source, message 2 of the destination
 *	S:68      the first section of type 68
 *	S@1234    the message that has byte 1234 of that direction
 * WHAT:
 *	cut       the message is not passed on (with S@N: up to that byte), and both sides see the end
 *	cut-after it is passed on; then they see the end
 *	mute      neither it nor anything behind it is passed on, either way, and nobody sees an end
 *	flip=N    bit N of the message is the other way round (with S@N: the lowest bit of that byte)
 *	drop      it is left out
 *	swap      the next message of its direction comes before it
 *	twice     it is passed on twice
 *	empty     the section comes without its payload, and whole
 *	kill=PID  the process gets SIGKILL, and half a second goes by before the message is passed on
 *	wait=MS   that long goes by before it is passed on
 * Ends with status 0 when all connections are served, 2 for wrong arguments, 1 when the system fails it.
 */
int relay_main(int argc, char **argv);

/* Tells what a file has, in lines as above, as if a source had sent it. false: it cannot be read. */
bool relay_tell(const char *path);

#endif
