#include "faults_relay.h"
#include "faults_vm.h"
#include "../../grader/testhost/relay.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COMMIT 67 /* types of messages */
#define COMMITTED 68
#define LISTENS 0x10000 /* in /proc/net/unix: __SO_ACCEPTCON (include/linux/net.h) */

bool await_listener(const char *path, unsigned ms)
{
	char line[300], name[120];
	unsigned flags;

	for (uint64_t end = now_ms() + ms; now_ms() < end; rest(5)) {
		FILE *f = fopen("/proc/net/unix", "r");
		bool found = false;
		while (f && !found && fgets(line, sizeof line, f))
			found = sscanf(line, "%*s %*s %*s %x %*s %*s %*s %119s", &flags, name) == 2 && flags & LISTENS &&
				!strcmp(name, path);
		if (f)
			fclose(f);
		if (found)
			return true;
	}
	return false;
}

pid_t start_relay(const char *from, const char *to, const char *told, const struct fault *f, pid_t victim)
{
	char what[48];
	pid_t pid = fork();

	if (pid)
		return pid;
	snprintf(what, sizeof what, f->victim ? "%s=%d" : "%s", f->what, (int)victim);
	char *words[] = { "relay", (char *)from, (char *)to, "--fault", (char *)f->where, what, NULL };
	if (!freopen(told, "w", stdout))
		_exit(1);
	_exit(relay_main(f->where[0] ? 6 : 3, words));
}

void read_passed(const char *told, struct passed *p)
{
	char line[256], direction;
	unsigned length, number, type;
	FILE *f = fopen(told, "r");

	*p = (struct passed){ 0 };
	while (f && fgets(line, sizeof line, f)) {
		bool whole = strchr(line, '\n');
		unsigned d = sscanf(line, "%*u %c %u", &direction, &number) == 2 ? direction == 'D' : 2;

		p->harmed = p->harmed || !strncmp(line + strspn(line, "0123456789"), " fault ", 7);
		if (d < 2) {
			p->messages[d]++;
			bool section = sscanf(line, "%*u %*c %*u type %u instance %*u length %u", &type, &length) == 2;
			p->bytes[d] += section ? 24 + length : 32;
			p->committed = p->committed || (section && (type == COMMIT || type == COMMITTED));
		}
		while (!whole && fgets(line, sizeof line, f))
			whole = strchr(line, '\n');
	}
	if (f)
		fclose(f);
}
