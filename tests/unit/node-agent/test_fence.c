/* The end of the lease, and of the membership, as the agent sees it.
 *
 * LDFLAGS: -Wl,--wrap=proc_boot_ms
 */
#include "tests/unit/node-agent/schedkit.h"

static uint64_t suspended; /* so many milliseconds, of which CLOCK_MONOTONIC knows nothing */

uint64_t __real_proc_boot_ms(void);
uint64_t __wrap_proc_boot_ms(void);
uint64_t __wrap_proc_boot_ms(void)
{
	return __real_proc_boot_ms() + suspended;
}

/* One guest that runs. */
static void one(struct world *w, bool fenced)
{
	until(w, is_here, NULL);
	want(w, 0)->fenced = fenced;
	say_all(w);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.starts, 1);
}

static bool a_beat_waits(struct world *w, void *arg)
{
	(void)arg;
	return w->late_beat != 0;
}

static bool starts_are(struct world *w, void *count)
{
	return w->fake.starts == (uintptr_t)count && is_ready(w, UID(1));
}

static void answer_late(struct world *w)
{
	Um__Envelope env = wire_env(UINT64_C(1) << 62);
	Um__HeartbeatReply reply = UM__HEARTBEAT_REPLY__INIT;

	reply.seq = w->late_beat;
	reply.lease_ms = w->lease_ms;
	env.body_case = UM__ENVELOPE__BODY_HEARTBEAT_REPLY;
	env.heartbeat_reply = &reply;
	sched_send(w, &env);
}

/* A heartbeat was sent, then the machine was suspended, and given up; the answer comes when
 * it is back.  It is of a lease that is over. */
static void test_suspended(void **state)
{
	struct world *w = *state;

	one(w, true);
	w->late = true;
	until(w, a_beat_waits, NULL);
	suspended += 60000;
	answer_late(w);
	assert_false(within(w, 200, never, NULL));
	assert_true(w->fake.kills > 0);
	assert_int_equal(w->fake.starts, 1);
	assert_int_equal(link_lease(w->agent->link), 0);
	/* And of one that is sent now. */
	w->late = false;
	until(w, starts_are, (void *)2);
}

/* The same for an answer that comes in time by itself, but after the cut. */
static void test_before_the_cut(void **state)
{
	struct world *w = *state;

	one(w, true);
	w->late = true;
	w->late_beat = 0;
	until(w, a_beat_waits, NULL);
	w->fake.lease_until = 1; /* the fencer was quicker */
	answer_late(w);
	assert_false(within(w, 150, never, NULL));
	assert_true(w->fake.kills > 0);
	assert_int_equal(w->fake.starts, 1);
	w->late = false;
	until(w, starts_are, (void *)2);
}

/* What it cannot keep to it does not agree to. */
static void test_lease_refused(void **state)
{
	struct world *w = *state;

	w->lease_ms = 90; /* with a heartbeat each 50 ms */
	until(w, is_here, NULL);
	assert_false(within(w, 200, never, NULL));
	assert_false(link_up(w->agent->link));
	assert_int_equal(w->beats, 0);
	w->lease_ms = 300;
	one(w, true);
}

static bool was_refused(struct world *w, void *arg)
{
	(void)arg;
	return w->refusals > 0;
}

static bool is_noted(struct world *w, void *yes)
{
	char path[PATH_MAX];

	(void)str_format(path, sizeof(path), "%s/expelled", w->config.state);
	return (access(path, F_OK) == 0) == (yes != NULL);
}

static bool is_dead(struct world *w, void *arg)
{
	(void)arg;
	return !fake_runner(&w->fake, 1) || !fake_runner(&w->fake, 1)->alive;
}

/* The cluster has given the host up, and started its guests elsewhere, of all policies: that
 * is not forgotten when the agent is started again and hears nobody. */
static void test_expelled(void **state)
{
	struct world *w = *state;

	one(w, false);
	w->removed = true;
	sched_close(w);
	sched_open(w);
	until(w, was_refused, NULL);
	until(w, is_dead, NULL);
	assert_true(is_noted(w, UID(1)));
	w->mute = true;
	restart_all(w);
	assert_false(within(w, 1500, never, NULL));
	assert_int_equal(w->fake.starts, 1);
	/* It is one of the cluster again. */
	w->removed = w->mute = false;
	until(w, is_here, NULL);
	say_all(w);
	until(w, starts_are, (void *)2);
	until(w, is_noted, NULL);
}

#define T(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_suspended),
		T(test_before_the_cut),
		T(test_lease_refused),
		T(test_expelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
