/*
 * durable FILE SEED [MS]: for a Linux guest. Writes numbered records to a file, and says of each on the console that it is on stable
 * storage, when fsync(2) has said so; with MS it rests so long behind each. Goes on until somebody ends it, at the latest after LAST
 * records. A record is a sector: its number, and numbers that follow from that and the seed.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define WORDS 64
#define LAST 20000

int main(int argc, char **argv)
{
	int fd = argc >= 3 ? open(argv[1], O_CREAT | O_WRONLY, 0644) : -1;
	uint64_t seed = argc >= 3 ? strtoull(argv[2], NULL, 10) : 0, record[WORDS];

	if (fd < 0)
		return 2;
	for (uint64_t n = 1; n <= LAST; n++) {
		record[0] = n;
		for (unsigned i = 1; i < WORDS; i++)
			record[i] = (record[i - 1] ^ seed) * 6364136223846793005u + 1442695040888963407u;
		if (pwrite(fd, record, sizeof record, (off_t)((n - 1) * sizeof record)) != sizeof record || fsync(fd))
			return 1;
		printf("durable %llu\n", (unsigned long long)n);
		fflush(stdout);
		if (argc > 3)
			usleep((useconds_t)atoi(argv[3]) * 1000);
	}
	return 0;
}
