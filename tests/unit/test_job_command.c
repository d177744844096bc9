// sources: job_command.c job_facts.c control_path.c
/* hv ctl's save and migrate against a VM that is a process of this test: which line it gets, what is shown, and how it ends. */
#define _GNU_SOURCE
#include "control.h"
#include "control_path.h"
#include "job_command.h"
#include "vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUND_1 "{\"pages\":500,\"zero\":12,\"bytes\":2097152,\"ms\":20.5,\"dirty\":40,\"throttle\":0}"
#define ROUND_2 "{\"pages\":40,\"zero\":0,\"bytes\":163840,\"ms\":2,\"dirty\":3,\"throttle\":20}"
#define ACCOUNT(state, rounds, reason)                                                                                      \
	"{\"job\":\"migrate\",\"state\":\"" state "\",\"rounds\":[" rounds "],\"dirty_rate\":1500,\"bandwidth\":1e8,\"expected_" \
	"downtime_ms\":0.12,\"downtime\":{\"final_round_ms\":1,\"state_ms\":2,\"send_ms\":3,\"commit_ms\":4},\"reason\":\"" reason "\"}\n"
#define BEGUN "{\"job\":\"migrate\",\"state\":\"running\"}\n"

static char directory[] = "/tmp/job-test-XXXXXX", path[64], out_path[64], err_path[64], heard_path[64];

static char *read_file(const char *name)
{
	static char text[3][8192];
	static unsigned next;
	char *to = text[next++ % 3];
	FILE *f = fopen(name, "r");
	size_t n = f ? fread(to, 1, sizeof *text - 1, f) : 0;

	to[n] = 0;
	if (f)
		fclose(f);
	return to;
}

/* A VM that gives these answers, one to each line it hears; the last one comes without being asked for, and then it ends. An answer of
 * nothing only waits for a line or for the end of the connection. */
static pid_t serve(const char *const *answers)
{
	struct sockaddr_un addr;
	char err[100], line[1000];

	unlink(path);
	assert_int_equal(control_address(path, &addr, err, sizeof err), 0);
	int listening = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(listening, (struct sockaddr *)&addr, sizeof addr) | listen(listening, 1), 0);
	pid_t pid = fork();
	if (pid) {
		close(listening);
		return pid;
	}
	alarm(30);
	int fd = accept(listening, NULL, NULL);
	FILE *in = fdopen(fd, "r"), *heard = fopen(heard_path, "w");
	setvbuf(heard, NULL, _IOLBF, 0); /* the test may kill us */
	for (; *answers; answers++) {
		if ((answers[1] || !answers[0][0]) && fgets(line, sizeof line, in))
			fputs(line, heard);
		if (write(fd, *answers, strlen(*answers)) < 0)
			break;
	}
	_exit(0);
}

static int command(const char *const *answers, char **argv)
{
	pid_t server = serve(answers), client = fork();
	int argc = 0, status;

	while (argv[argc])
		argc++;
	if (!client) {
		alarm(30);
		if (!freopen(out_path, "w", stdout) || !freopen(err_path, "w", stderr) || chdir(directory))
			_exit(99);
		status = job_main(path, argc, argv);
		fflush(NULL);
		_exit(status);
	}
	assert_int_equal(waitpid(client, &status, 0), client);
	kill(server, SIGKILL); /* it waits for a client that did not even begin */
	waitpid(server, NULL, 0);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}
#define COMMAND(answers, ...) command((const char *const[]){ answers, NULL }, (char *[]){ __VA_ARGS__, NULL })
#define ANSWERS(...) __VA_ARGS__

static void test_done(void **state)
{
	(void)state;
	assert_int_equal(COMMAND(ANSWERS(BEGUN, ACCOUNT("running", "", ""), ACCOUNT("running", ROUND_1, ""),
					 ACCOUNT("done", ROUND_1 "," ROUND_2, "moved")),
				 "migrate", "--downtime", "50", "unix:b.sock", "--step"),
			 HV_OK);
	assert_string_equal(read_file(out_path), ACCOUNT("done", ROUND_1 "," ROUND_2, "moved"));
	assert_string_equal(read_file(err_path), "round 1: 500 pages, 12 of zeros, 2.0 MiB in 20 ms; 40 written meanwhile\n"
						 "round 2: 40 pages, 0 of zeros, 0.2 MiB in 2 ms; 3 written meanwhile; vCPUs stand for "
						 "20 % of their time\n");
	char wanted[200];
	snprintf(wanted, sizeof wanted, "migrate unix:%s/b.sock --downtime 50 --step\njob\njob\n", directory);
	assert_string_equal(read_file(heard_path), wanted);
}

static void test_failed(void **state)
{
	(void)state;
	assert_int_equal(COMMAND(ANSWERS(BEGUN, ACCOUNT("running", "", ""), ACCOUNT("failed", "", "the connection broke")), "migrate",
				 "tcp:127.0.0.1:1"),
			 HV_GUEST_FAILED);
	assert_string_equal(read_file(out_path), ACCOUNT("failed", "", "the connection broke"));
	assert_string_equal(read_file(err_path), "hv: the connection broke\n");
	assert_int_equal(COMMAND(ANSWERS(BEGUN, ACCOUNT("standing", "", "nobody knows")), "migrate-resume", "tcp:127.0.0.1:1"),
			 HV_GUEST_FAILED);
	assert_string_equal(read_file(err_path), "hv: nobody knows\n");
}

static void test_refused(void **state)
{
	(void)state;
	assert_int_equal(COMMAND(ANSWERS("{\"error\":\"the VM moves already\"}\n", ""), "migrate", "unix:/x"), HV_GUEST_FAILED);
	assert_string_equal(read_file(err_path), "hv: the VM moves already\n");
	assert_string_equal(read_file(out_path), "");
}

/* No account, half of one, one that is nonsense: nothing of that is an end. */
static void test_no_end(void **state)
{
	static const char *const bad[] = { "{\"job\":\"mig", "{\"job\":\"migrate\"}\n", "[]\n", "\n", ACCOUNT("lost", "", ""),
					   ACCOUNT("done", "{\"pages\":-1}", "") };
	(void)state;

	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(COMMAND(ANSWERS(BEGUN, bad[i]), "migrate", "unix:/x"), HV_GUEST_FAILED);
		assert_non_null(strstr(read_file(err_path), "hv: "));
		assert_string_equal(read_file(out_path), "");
	}
	assert_int_equal(COMMAND(ANSWERS(BEGUN, ""), "save", "x"), HV_GUEST_FAILED);
	assert_string_equal(read_file(err_path), "hv: the VM has ended and did not say what became of it\n");
}

static void test_detached(void **state)
{
	(void)state;
	assert_int_equal(COMMAND(ANSWERS(BEGUN, ""), "save", "--detach", "a file", "--quit"), HV_OK);
	assert_string_equal(read_file(out_path), BEGUN);
	char wanted[200];
	snprintf(wanted, sizeof wanted, "save %s/a file --detach --quit\n", directory);
	assert_memory_equal(read_file(heard_path), wanted, strlen(wanted));
}

static void test_usage(void **state)
{
	char *const wrong[][5] = { { "save" }, { "save", "a", "b" }, { "migrate", "--step" }, { "migrate", "unix:/x", "--downtime" },
				   { "save", "a\nquit" } };
	char longest[CONTROL_LINE + 1];
	(void)state;

	memset(longest, 'a', sizeof longest - 1);
	longest[0] = '/';
	longest[sizeof longest - 1] = 0;
	assert_int_equal(COMMAND(ANSWERS(BEGUN, ""), "save", longest), HV_USAGE);
	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(command((const char *const[]){ BEGUN, "", NULL }, (char **)wrong[i]), HV_USAGE);
	assert_true(job_command("migrate-resume"));
	assert_false(job_command("migrate-cancel"));
}

static int clean_up(void **state)
{
	(void)state;
	unlink(path);
	unlink(out_path);
	unlink(err_path);
	unlink(heard_path);
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_done),	 cmocka_unit_test(test_failed),	  cmocka_unit_test(test_refused),
		cmocka_unit_test(test_no_end), cmocka_unit_test(test_detached), cmocka_unit_test(test_usage),
	};

	if (!mkdtemp(directory))
		return 1;
	snprintf(path, sizeof path, "%s/vm.sock", directory);
	snprintf(out_path, sizeof out_path, "%s/out", directory);
	snprintf(err_path, sizeof err_path, "%s/err", directory);
	snprintf(heard_path, sizeof heard_path, "%s/heard", directory);
	return cmocka_run_group_tests(tests, NULL, clean_up);
}
