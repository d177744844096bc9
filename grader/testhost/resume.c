/* resume: where a shell script is process 1 (scripts/testhost-run), waits for the job and unpacks it. Does nothing when the machine
 * was not started for a snapshot. */
#include "runner.h"

int main(void)
{
	if (mailbox_expected()) {
		channel_open();
		mailbox_take();
	}
	return 0;
}
