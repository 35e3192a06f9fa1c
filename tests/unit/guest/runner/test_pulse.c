/* Guests that give no sign of life any more, each for another reason. */
#include "guest/runner/pulse.h"

#include "tests/unit/guest/runner/runnerkit.h"

#define EVERY_MS 500u

static pid_t child_of(pid_t pid)
{
	pid_t child = 0;

	return pulse_children(pid, &child, 1) ? child : 0;
}

static void boot(struct rk *rk, const char *name)
{
	rk_boot(rk, name, &(struct rk_options){.pulse_ms = EVERY_MS});
	rk_wait(rk, rk_find_kernel);
}

static bool not_ready(struct rk *rk)
{
	return rk->gone || !rk->ready;
}

/* All processes of the guest's user space, killed from outside as an administrator's
 * careless `pkill` does it. */
static void test_stubs_killed(void **state)
{
	struct rk *rk = *state;
	pid_t stubs[64];
	size_t n;

	/* All of them; and all but the oldest, that of the guest's process 1. */
	for (size_t spared = 0; spared < 2; spared++) {
		boot(rk, spared ? "others" : "all");
		n = pulse_children(rk->kernel_pid, stubs, 64);
		assert_true(n >= 2);
		for (size_t i = spared; i < n; i++)
			assert_int_equal(kill(stubs[i], SIGKILL), 0);
		rk_wait(rk, rk_has_ended);
		assert_int_equal(rk->phase, UM__PHASE__FAILED);
		assert_false(rk->by_request);
		print_message("%s\n", rk->reason);
		assert_true(strcmp(rk->reason, PULSE_KILLED) == 0 ||
			    strstr(rk->reason, "Kernel panic"));
		rk_finish(rk);
		rk_assert_clean(rk);
	}
}

/* The guest's root kills our agent: its business; but it is told. */
static void test_agent_killed(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	boot(rk, "agent");
	rk_open_exec(rk, "kill -STOP $PPID");
	rk_wait(rk, not_ready);
	assert_int_equal(rk->phase, UM__PHASE__RUNNING);
	assert_non_null(strstr(rk->reason, "its agent does not answer"));
	assert_int_equal(runnerctl_stop(rk->rc, 300, true, &err), 0);
	rk_finish(rk);
}

static bool later(struct rk *rk)
{
	return rk->gone || proc_mono_ms() > rk->wait_end;
}

/* One that is stopped by a person is not judged, and goes on. */
static void test_stopped(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	boot(rk, "stopped");
	assert_int_equal(kill(rk->kernel_pid, SIGSTOP), 0);
	rk->wait_end = proc_mono_ms() + 5 * EVERY_MS;
	rk_wait(rk, later);
	assert_true(rk->ready);
	assert_int_equal(kill(rk->kernel_pid, SIGCONT), 0);
	assert_int_equal(rk_exec(rk, "echo alive"), 0);
	/* Idle or busy, it answers. */
	rk->wait_end = proc_mono_ms() + 5 * EVERY_MS;
	rk_wait(rk, later);
	assert_int_equal(rk_exec(rk, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"), 0);
	assert_true(rk->ready);
	assert_int_equal(runnerctl_stop(rk->rc, 0, true, &err), 0);
	rk_finish(rk);
}

/* ---------------------------------------------------------------- the rules alone */

struct fake {
	struct loop *loop;
	struct pulse *pulse;
	uint64_t heard;
	unsigned pings, asked, gone, back;
	const char *why;
	bool answers, deaf;
};

static void ping(void *arg)
{
	struct fake *f = arg;

	f->pings++;
	f->heard += f->answers;
}

static uint64_t heard(void *arg)
{
	return ((struct fake *)arg)->heard;
}

static bool ask_kernel(void *arg, uint32_t timeout_ms)
{
	struct fake *f = arg;

	(void)timeout_ms;
	f->asked++;
	return true;
}

static void agent_gone(void *arg, bool gone)
{
	struct fake *f = arg;

	f->gone += gone;
	f->back += !gone;
}

static void hangs(void *arg, const char *why)
{
	((struct fake *)arg)->why = why;
}

static void tick(void *arg)
{
	struct fake *f = arg;

	/* What mconsole would say. */
	if (f->asked)
		pulse_kernel(f->pulse, !f->deaf);
	f->asked = 0;
	loop_stop(f->loop);
}

static void run_for(struct fake *f, uint64_t ms)
{
	uint64_t end = proc_mono_ms() + ms;
	struct loop_timer *timer = NULL;
	struct err err = ERR_INIT;

	assert_int_equal(loop_timer_open(f->loop, "tick", tick, f, &timer, &err), 0);
	while (proc_mono_ms() < end) {
		loop_timer_arm(timer, 5);
		assert_true(loop_run(f->loop, &err) >= 0);
	}
	loop_timer_close(timer);
}

static void test_rules(void **state)
{
	static const struct pulse_ops ops = {ping, heard, ask_kernel, agent_gone, hangs};
	struct fake f = {.answers = true};
	struct err err = ERR_INIT;
	pid_t reaper;

	(void)state;
	assert_int_equal(loop_new(&f.loop, &err), 0);
	/* A process with a child that does nothing, in place of a kernel. */
	reaper = fork();
	if (reaper == 0) {
		pid_t child = fork();

		for (;;)
			(void)pause();
		(void)child;
	}
	while (!child_of(reaper))
		(void)poll(NULL, 0, 5);
	assert_int_equal(pulse_open(f.loop, 20, reaper, &ops, &f, &f.pulse, &err), 0);
	pulse_start(f.pulse);
	run_for(&f, 200);
	assert_true(f.pings >= 2);
	assert_int_equal(f.gone, 0);
	assert_null(f.why);
	/* The agent is silent, the kernel is there: told once, and when it is back. */
	f.answers = false;
	run_for(&f, 300);
	assert_int_equal(f.gone, 1);
	f.answers = true;
	run_for(&f, 200);
	assert_int_equal(f.back, 1);
	assert_null(f.why);
	/* Both are. */
	f.answers = false;
	f.deaf = true;
	run_for(&f, 400);
	assert_string_equal(f.why, "its kernel does not answer any more");
	/* Judged once. */
	f.why = NULL;
	f.pings = 0;
	run_for(&f, 100);
	assert_null(f.why);
	assert_int_equal(f.pings, 0);
	pulse_close(f.pulse);
	assert_int_equal(loop_free(f.loop), 0);
	(void)kill(child_of(reaper), SIGKILL);
	(void)kill(reaper, SIGKILL);
	(void)waitpid(reaper, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules),
		cmocka_unit_test_setup_teardown(test_stubs_killed, rk_setup, rk_teardown),
		cmocka_unit_test_setup_teardown(test_agent_killed, rk_setup, rk_teardown),
		cmocka_unit_test_setup_teardown(test_stopped, rk_setup, rk_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
