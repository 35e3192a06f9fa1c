/* The fencer: a process of its own, over folders of guests; what it would kill is noted.
 *
 * LDFLAGS: -Wl,--wrap=runnerctl_kill
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"
#include "lib/wire.h"
#include "node-agent/fencer.h"

static char dir[64];
static struct fencer *renews; /* at the first kill: an agent that is late, too */
static int fails;	      /* so many kills; in the fencer's process */

int __wrap_runnerctl_kill(const char *folder, struct err *err);
int __wrap_runnerctl_kill(const char *folder, struct err *err)
{
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/killed-%s", dir, strrchr(folder, '/') + 1);
	if (fails > 0) {
		fails--;
		return err_set(err, -ENOENT, "runner.id is not written yet");
	}
	(void)close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	if (renews)
		(void)fencer_renew(renews, NULL, proc_boot_ms() + 3600000, NULL);
	return 0;
}

static void add_guest(const char *name, bool fenced)
{
	Um__RunnerSpec spec = UM__RUNNER_SPEC__INIT;
	uint8_t packed[64];
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/guests/%s", dir, name);
	assert_int_equal(fs_mkdirs(path, 0700, NULL), 0);
	(void)snprintf(path, sizeof(path), "%s/guests/%s/%s", dir, name, RUNNERDIR_SPEC);
	spec.uid = 1;
	spec.fenced = fenced;
	assert_int_equal(
		fs_write_atomic(path, packed, um__runner_spec__pack(&spec, packed), 0600, NULL), 0);
}

static unsigned killed(void)
{
	static const char *const names[] = {"a", "b", "c", "w"};
	char path[256];
	unsigned n = 0;

	for (size_t i = 0; i < 4; i++) {
		(void)snprintf(path, sizeof(path), "%s/killed-%s", dir, names[i]);
		n += access(path, F_OK) == 0;
	}
	(void)snprintf(path, sizeof(path), "%s/killed-w", dir);
	assert_int_equal(access(path, F_OK), -1);
	return n;
}

static void nap(void)
{
	const struct timespec ms10 = {.tv_nsec = 10000000};

	(void)nanosleep(&ms10, NULL);
}

/* The lock is there, and taken. */
static bool locked(void)
{
	char path[128];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/fencer.lock", dir);
	return stat(path, &st) == 0 && st.st_size > 0;
}

static pid_t start(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(fencer_main(dir));
	for (int i = 0; i < 1000 && !locked(); i++)
		nap();
	assert_true(locked());
	return pid;
}

/* -1: it lives. */
static int status_of(pid_t pid, bool wait)
{
	int status;

	for (int i = 0; i < (wait ? 1000 : 1); i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		nap();
	}
	return -1;
}

static struct fencer *no_lease(void)
{
	struct fencer *f = NULL;
	struct err err = ERR_INIT;

	assert_int_equal(fencer_open(dir, &f, &err), 0);
	assert_int_equal(fencer_left(f), 0);
	return f;
}

static int setup(void **state)
{
	(void)state;
	(void)str_copy(dir, sizeof(dir), "/tmp/umlaut-fencer-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	renews = NULL;
	fails = 0;
	add_guest("a", true);
	add_guest("b", true);
	add_guest("c", true);
	add_guest("w", false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return fs_remove_tree(dir, NULL);
}

static void test_ends(void **state)
{
	struct fencer *f = no_lease();
	pid_t pid = start();

	(void)state;
	assert_int_equal(status_of(pid, true), 0);
	assert_int_equal(killed(), 3);
	fencer_close(f);
}

/* It was late: the lease is good again while it kills.  What the agent started since
 * lives. */
static void test_renewed_meanwhile(void **state)
{
	struct fencer *f = no_lease();
	pid_t pid;

	(void)state;
	renews = f;
	pid = start();
	for (int i = 0; i < 1000 && !killed(); i++)
		nap();
	assert_int_equal(status_of(pid, false), -1);
	assert_int_equal(killed(), 1);
	/* A purge ends it. */
	fencer_end(dir);
	assert_true(WIFSIGNALED(status_of(pid, true)));
	assert_int_equal(killed(), 1);
	/* Nobody there: nobody is killed. */
	fencer_end(dir);
	fencer_close(f);
}

/* A runner that is just being started, or a disk with errors: again until it is done. */
static void test_again(void **state)
{
	struct fencer *f = no_lease();

	(void)state;
	fails = 10;
	assert_int_equal(status_of(start(), true), 0);
	assert_int_equal(killed(), 3);
	fencer_close(f);
}

/* What was started for the guest cannot be known: it may be one. */
static void test_unreadable(void **state)
{
	struct fencer *f = no_lease();
	char path[256];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/guests/a/%s", dir, RUNNERDIR_SPEC);
	assert_int_equal(fs_write_atomic(path, "\xff\xff", 2, 0600, NULL), 0);
	(void)snprintf(path, sizeof(path), "%s/guests/b/%s", dir, RUNNERDIR_SPEC);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0); /* reading it is an error */
	/* That of one that was never started is not there. */
	(void)snprintf(path, sizeof(path), "%s/guests/w/%s", dir, RUNNERDIR_SPEC);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(status_of(start(), true), 0);
	assert_int_equal(killed(), 3);
	fencer_close(f);
}

static pid_t sleeper(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		for (;;)
			(void)pause();
	return pid;
}

/* The state's disk is no help: what the agent has listed is killed all the same, and the
 * fencer does not take the others for ended. */
static void test_without_disk(void **state)
{
	struct fencer *f = no_lease();
	char guests[128], away[128];
	struct err err = ERR_INIT;
	pid_t runner = sleeper(), other = sleeper(), spared = sleeper(), pid;
	int status;

	(void)state;
	assert_int_equal(fencer_add(f, 1, other, &err), 0);
	assert_int_equal(fencer_add(f, 2, spared, &err), 0);
	assert_int_equal(fencer_add(f, 1, runner, &err), 0); /* its next run */
	fencer_drop(f, 2);
	(void)snprintf(guests, sizeof(guests), "%s/guests", dir);
	(void)snprintf(away, sizeof(away), "%s/away", dir);
	assert_int_equal(rename(guests, away), 0);
	(void)close(open(guests, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)); /* no folder */
	pid = start();
	status = status_of(runner, true);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	for (int i = 0; i < 300; i++)
		nap();
	assert_int_equal(status_of(pid, false), -1);
	assert_int_equal(status_of(other, false), -1);
	assert_int_equal(status_of(spared, false), -1);
	assert_int_equal(unlink(guests), 0);
	assert_int_equal(rename(away, guests), 0);
	assert_int_equal(status_of(pid, true), 0);
	assert_int_equal(killed(), 3);
	assert_int_equal(kill(other, SIGKILL) | kill(spared, SIGKILL), 0);
	assert_true(WIFSIGNALED(status_of(other, true)));
	assert_true(WIFSIGNALED(status_of(spared, true)));
	fencer_close(f);
}

/* The list outlives the agent; of a process that is gone nothing stays. */
static void test_next_agent(void **state)
{
	struct fencer *f = no_lease();
	struct err err = ERR_INIT;
	pid_t runner = sleeper(), gone = sleeper(), pid;

	(void)state;
	assert_int_equal(fencer_add(f, 1, runner, &err), 0);
	assert_int_equal(fencer_add(f, 2, gone, &err), 0);
	fencer_close(f);
	assert_int_equal(kill(gone, SIGKILL), 0);
	assert_true(WIFSIGNALED(status_of(gone, true)));
	f = no_lease();
	pid = start();
	assert_true(WIFSIGNALED(status_of(runner, true)));
	assert_int_equal(status_of(pid, true), 0);
	fencer_close(f);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	static const struct log_config quiet = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = 2};
	const struct CMUnitTest tests[] = {
		T(test_ends),
		T(test_renewed_meanwhile),
		T(test_again),
		T(test_unreadable),
		T(test_without_disk),
		T(test_next_agent),
	};

	log_init(&quiet);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
