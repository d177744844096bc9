/*
 * A name server for one test: answers every question on 127.0.0.1, port 53, with the IPv4 address 10.9.8.7, until it is ended.
 */
#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

/* RFC 1035, 4.1: the name is that of the question (a pointer to offset 12), type A, class IN, one minute, four bytes. */
static const unsigned char answer[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 8, 7 };

int main(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET,
				    .sin_port = htons(53),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) },
			   from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned char message[512 + sizeof answer];

	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here))
		return 1;
	for (;;) {
		socklen_t fromlen = sizeof from;
		ssize_t n = recvfrom(fd, message, 512, 0, (struct sockaddr *)&from, &fromlen);

		if (n < 12)
			continue;
		message[2] = 0x81; /* a response, recursion available; no error */
		message[3] = 0x80;
		message[7] = 1; /* answers */
		memcpy(message + n, answer, sizeof answer);
		sendto(fd, message, (size_t)n + sizeof answer, 0, (struct sockaddr *)&from, fromlen);
	}
}
