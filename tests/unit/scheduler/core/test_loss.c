/* Hosts that are lost: what becomes of their guests, and when. */
#include "tests/unit/scheduler/core/corekit.h"

static void silence(struct world *w, uint64_t ms)
{
	w->now += ms;
	assert_int_equal(core_heartbeat(w->core, "h2", 0, w->now, w->now), 0);
	(void)core_tick(w->core, w->now, w->now, &w->out);
	check(w);
}

/* h1 with the guest; h2 goes on. */
static const struct core_guest *one(struct world *w, struct lab *lab, enum core_on_loss on_loss)
{
	const struct core_guest *g;

	world_open(w);
	host_up(w, "h1", 1ull << 30);
	lab_init(lab, "lab", 1);
	lab->groups[0].on_loss = on_loss;
	assert_int_equal(apply(w, lab, false, NULL), 0);
	g = core_guest_named(w->core, "lab/web-1");
	observe(w, g, CORE_RUNNING, true);
	host_up(w, "h2", 1ull << 30);
	return g;
}

static void back(struct world *w, uint64_t uid, uint64_t epoch, enum core_phase phase)
{
	struct core_hostfacts facts = {.memory = 1ull << 30, .disk = 1ull << 40, .cpu = 4000};
	struct core_observed seen = {
		.uid = uid, .epoch = epoch, .generation = 1, .phase = phase, .reason = ""};

	(void)str_copy(facts.name, sizeof(facts.name), "h1");
	core_out_reset(&w->out);
	unit_ok(core_host_hello(w->core, &facts, &seen, 1, w->now, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

static void test_restart(void **state)
{
	const struct core_guest *g;
	uint64_t epoch, disk;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	epoch = g->epoch;
	disk = g->disk_generation;
	silence(&w, 4999);
	assert_string_equal(g->host->name, "h1");
	silence(&w, 1);
	assert_int_equal(g->phase, CORE_LOST);
	assert_string_equal(g->host->name, "h1");
	/* Not before its agent has surely ended it. */
	silence(&w, 499);
	assert_string_equal(g->host->name, "h1");
	silence(&w, 1);
	assert_string_equal(g->host->name, "h2");
	assert_true(g->epoch > epoch);
	assert_int_equal(g->disk_generation, disk + 1);
	/* The old host comes back with the old one: it must go, and once. */
	back(&w, g->uid, epoch, CORE_RUNNING);
	assert_int_equal(actions(&w, CORE_TELL_REMOVE), 1);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

static void test_wait_and_recover(void **state)
{
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_WAIT);
	epoch = g->epoch;
	assert_int_equal(
		core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), -EBUSY);
	silence(&w, 5000);
	assert_int_equal(
		core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), -EBUSY);
	silence(&w, 4000);
	silence(&w, 600000);
	assert_string_equal(g->host->name, "h1");
	assert_int_equal(g->phase, CORE_LOST);
	back(&w, g->uid, epoch, CORE_RUNNING);
	assert_int_equal(g->phase, CORE_RUNNING);
	silence(&w, 4000);
	silence(&w, 4000);
	unit_ok(core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

static void test_none(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_NONE);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_int_equal(g->phase, CORE_LOST);
	/* Still running there: it goes on.  Not running: left to its user. */
	back(&w, g->uid, g->epoch, CORE_RUNNING);
	assert_true(g->want_run);
	silence(&w, 4000);
	silence(&w, 4000);
	back(&w, g->uid, g->epoch, CORE_STARTING);
	assert_false(g->want_run);
	assert_true(actions(&w, CORE_TELL_GUEST) > 0);
	world_close(&w);
}

/* What runs was started under `wait`: its agent does not end it with the lease. */
static void test_policy_changed_just_now(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_WAIT);
	lab.groups[0].on_loss = CORE_LOSS_RESTART;
	lab.groups[0].boot_hash = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_true(g->unfenced);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_string_equal(g->host->name, "h1");
	back(&w, g->uid, g->epoch, CORE_RUNNING);
	observe(&w, g, CORE_RUNNING, true); /* under the new one */
	assert_false(g->unfenced);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

/* One that was stopped stays with its disk; started while its host is lost, it moves. */
static void test_stopped(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	unit_ok(core_guest_verb(w.core, g->uid, CORE_STOP, w.now, &w.out, &w.err), &w.err);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_string_equal(g->host->name, "h1");
	unit_ok(core_guest_verb(w.core, g->uid, CORE_START, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_wait_and_recover),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_policy_changed_just_now),
		cmocka_unit_test(test_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
