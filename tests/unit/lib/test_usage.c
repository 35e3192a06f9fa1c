/* All five programs say in one way that they were called wrongly. */
#include "lib/usage.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/buf.h"
#include "tests/unit/unit.h"

static const char *const programs[] = {
	"clusterctl", "umlaut-scheduler", "umlaut-agent", "umlaut-guest", "umlaut-init"};

/* Exit status; what it printed in OUT and ERR. */
static int run(const char *program, const char *arg, const char *more, struct buf out[2])
{
	char self[PATH_MAX], path[PATH_MAX + 64], piece[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int pipes[2][2], status = 0;
	char *build;
	pid_t pid;

	self[n] = '\0';
	build = strstr(self, "/unit/lib/");
	assert_non_null(build);
	*build = '\0';
	(void)snprintf(path, sizeof(path), "%s/bin/%s", self, program);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pipe2(pipes[i], O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		(void)dup2(pipes[0][1], 1);
		(void)dup2(pipes[1][1], 2);
		(void)execl(path, program, arg, more, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 2; i++) {
		(void)close(pipes[i][1]);
		buf_init(&out[i]);
		while ((n = read(pipes[i][0], piece, sizeof(piece))) > 0)
			buf_add(&out[i], piece, (size_t)n);
		(void)close(pipes[i][0]);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* Standard error is exactly "PROGRAM: WHAT" and where help is. */
static void wrong(const char *program, const char *arg, const char *more, const char *what)
{
	struct buf out[2];
	char want[512];
	int status = run(program, arg, more, out);

	(void)snprintf(want, sizeof(want), "%s: %s\nTry '%s --help'.\n", program, what, program);
	assert_string_equal(buf_text(&out[1]), want);
	assert_string_equal(buf_text(&out[0]), "");
	assert_int_equal(status, USAGE_WRONG);
	buf_free(&out[0]);
	buf_free(&out[1]);
}

static void test_wrong(void **state)
{
	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(programs); i++)
		wrong(programs[i], "--nosuch", NULL, "unknown option '--nosuch'");
	wrong("umlaut-scheduler", "-x", NULL, "unknown option '-x'");
	wrong("umlaut-agent", "-x", NULL, "unknown option '-x'");
	wrong("umlaut-guest", "-x", NULL, "unknown option '-x'");
	wrong("umlaut-scheduler", "--sttae", NULL,
		"unknown option '--sttae' (did you mean --state?)");
	wrong("umlaut-agent", "--stat", "x", "unknown option '--stat' (did you mean --state?)");
	wrong("umlaut-guest", "--did=1", NULL, "unknown option '--did=1' (did you mean --dir?)");
	wrong("clusterctl", "--sever", NULL, "unknown option '--sever' (did you mean --server?)");
	wrong("clusterctl", "aply", NULL, "unknown verb 'aply' (did you mean apply?)");
	wrong("clusterctl", "--server", NULL, "--server needs a value");
	wrong("umlaut-scheduler", "--state", NULL, "--state needs a value");
	wrong("umlaut-agent", "--state", NULL, "--state needs a value");
	wrong("umlaut-guest", "--dir", NULL, "--dir needs a value");
	wrong("umlaut-guest", "--foreground=1", NULL, "--foreground takes no value");
	wrong("umlaut-guest", NULL, NULL, "--dir is missing");
	wrong("umlaut-guest", "--dir", "/no/such", "--dir /no/such: No such file or directory");
	wrong("umlaut-scheduler", "more", NULL, "unexpected argument 'more'");
	wrong("umlaut-agent", "more", NULL, "unexpected argument 'more'");
	wrong("umlaut-guest", "more", NULL, "unexpected argument 'more'");
	wrong("umlaut-init", "more", NULL, "unexpected argument 'more'");
	wrong("umlaut-scheduler", "--lease", "1ms", "--lease: must be 1s to 1h");
	wrong("umlaut-scheduler", "--lease", "150ms", "--lease: must be 1s to 1h");
	wrong("umlaut-scheduler", "--heartbeat", "2s",
		"--heartbeat: with --lease 5s at most a quarter of it, 1.2s");
}

static void test_help(void **state)
{
	struct buf out[2];
	char want[64];

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(programs); i++) {
		assert_int_equal(run(programs[i], "--help", NULL, out), 0);
		(void)snprintf(want, sizeof(want), "usage: %s", programs[i]);
		assert_int_equal(strncmp(buf_text(&out[0]), want, strlen(want)), 0);
		assert_string_equal(buf_text(&out[1]), "");
		buf_free(&out[0]);
		buf_free(&out[1]);
		assert_int_equal(run(programs[i], "--version", NULL, out), 0);
		(void)snprintf(want, sizeof(want), "%s %s\n", programs[i], UMLAUT_VERSION);
		assert_string_equal(buf_text(&out[0]), want);
		buf_free(&out[0]);
		buf_free(&out[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
