/* Processes by identity: a stranger under a known pid is never hit. */
#include "lib/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/unit.h"

static pid_t start_child(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		/* A name that would fool a careless parser of /proc/PID/stat. */
		(void)prctl(PR_SET_NAME, "a) Z 1 2 (b");
		for (;;)
			(void)pause();
	}
	return pid;
}

static void test_identity(void **state)
{
	struct err err = ERR_INIT;
	struct proc_id id, self, stranger, back;
	char text[PROC_TEXT];
	int status, fd;
	pid_t pid = start_child();

	(void)state;
	unit_ok(proc_identify(pid, &id, &err), &err);
	unit_ok(proc_identify(getpid(), &self, &err), &err);
	assert_true(id.start_ticks >= self.start_ticks);
	assert_true(proc_alive(&id));
	fd = proc_open(&id, &err);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	(void)close(fd);

	stranger = id;
	stranger.start_ticks--;
	assert_false(proc_alive(&stranger));
	assert_int_equal(proc_kill(&stranger, SIGKILL, &err), -ESRCH);
	stranger = id;
	stranger.boot_id[3] ^= 1;
	assert_int_equal(proc_kill(&stranger, SIGKILL, &err), -ESRCH);
	stranger = id;
	stranger.pid = 0;
	assert_int_equal(proc_kill(&stranger, SIGKILL, &err), -ESRCH);
	stranger.pid = -pid;
	assert_int_equal(proc_kill(&stranger, SIGKILL, &err), -ESRCH);
	assert_true(proc_alive(&id));

	proc_text(text, &id);
	unit_ok(proc_parse(text, &back, &err), &err);
	assert_int_equal(back.pid, pid);
	assert_true(back.start_ticks == id.start_ticks);
	assert_memory_equal(back.boot_id, id.boot_id, 16);

	unit_ok(proc_kill(&back, SIGKILL, &err), &err);
	/* A zombie is not alive. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
	assert_false(proc_alive(&id));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_false(proc_alive(&id));
	assert_int_equal(proc_kill(&id, SIGKILL, &err), -ESRCH);
	assert_int_equal(proc_identify(pid, &back, &err), -ESRCH);
}

static void test_parse(void **state)
{
	static const char *const bad[] = {"", "1", "1 2", "0 2 00112233445566778899aabbccddeeff",
		"-1 2 00112233445566778899aabbccddeeff", "1 x 00112233445566778899aabbccddeeff",
		"1 2 0011", "1 2 00112233445566778899aabbccddeeff0",
		"1 2  00112233445566778899aabbccddeeff",
		"99999999999 2 00112233445566778899aabbccddeeff",
		"1 2 00112233445566778899aabbccddeeff and then a lot more text than there is room "
		"for"};
	struct proc_id id = {.pid = 42};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(bad); i++)
		if (proc_parse(bad[i], &id, NULL) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(id.pid, 42);
	assert_int_equal(proc_parse("1 2 00112233445566778899aabbccddeeff\n", &id, NULL), 0);
}

static void test_random_and_clocks(void **state)
{
	uint64_t a = proc_random_u64(), b = proc_random_u64(), t = proc_mono_ms();

	(void)state;
	assert_true(a && b && a != b);
	assert_true(proc_mono_ms() >= t);
	assert_true(proc_wall_ms() > UINT64_C(1600000000000));
}

/* A cpuset or an affinity leaves fewer than the machine has. */
static void test_cpus(void **state)
{
	cpu_set_t before, one;
	uint32_t all = proc_cpus();

	(void)state;
	assert_true(all >= 1);
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	assert_int_equal(all, CPU_COUNT(&before));
	CPU_ZERO(&one);
	for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &before))
			CPU_SET(i, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(proc_cpus(), 1);
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

static void test_lock(void **state)
{
	FILE *file = tmpfile();
	char path[64];
	int other;

	(void)state;
	assert_non_null(file);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fileno(file));
	other = open(path, O_RDWR | O_CLOEXEC);
	assert_true(other >= 0);
	assert_int_equal(proc_lock(fileno(file)), 0);
	assert_int_equal(proc_lock(other), -EWOULDBLOCK);
	(void)fclose(file);
	assert_int_equal(proc_lock(other), 0);
	(void)close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpus),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_random_and_clocks),
		cmocka_unit_test(test_lock),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
