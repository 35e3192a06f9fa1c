/* Back-off of hosts where guests cannot be started. */
#include "tests/unit/scheduler/core/corekit.h"

static void trouble(struct world *w, const char *name, uint32_t troubles)
{
	const struct core_guest *g = core_guest_named(w->core, name);
	struct core_observed seen = {.uid = g->uid,
		.epoch = g->epoch,
		.generation = g->generation,
		.phase = CORE_STARTING,
		.troubles = troubles,
		.reason = "the disk is full"};

	unit_ok(core_observe(w->core, g->host->name, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static void open_three(struct world *w, struct lab *lab)
{
	world_open(w);
	host_up(w, "h1", 1ull << 30);
	lab_init(lab, "lab", 3);
	assert_int_equal(apply(w, lab, false, NULL), 0);
}

static void test_three_in_a_row(void **state)
{
	const struct core_host *h;
	struct core_why why = {0};
	struct world w;
	struct lab lab;

	(void)state;
	open_three(&w, &lab);
	h = core_host(w.core, "h1");
	trouble(&w, "lab/web-1", 1);
	trouble(&w, "lab/web-2", 1);
	assert_int_equal(h->avoid_until, 0);
	core_out_reset(&w.out);
	trouble(&w, "lab/web-3", 1);
	assert_int_equal(h->avoid_until, w.now + 5000);
	assert_string_equal(w.out.logs[0].reason, "Avoided");
	/* A new guest waits, and is told why. */
	lab.groups[0].count = 4;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_null(core_guest_named(w.core, "lab/web-4")->host);
	unit_ok(core_why(w.core, core_guest_named(w.core, "lab/web-4")->uid, &why, &w.err), &w.err);
	assert_non_null(strstr(why.items[0].what, "failed to start"));
	/* Tried again by itself. */
	w.now += 4999;
	assert_in_range(core_tick(w.core, w.now, w.now - 5000, &w.out), 1, 1);
	assert_null(core_guest_named(w.core, "lab/web-4")->host);
	w.now += 1;
	(void)core_tick(w.core, w.now, w.now - 5000, &w.out);
	check(&w);
	assert_non_null(core_guest_named(w.core, "lab/web-4")->host);
	/* The second time it takes longer. */
	trouble(&w, "lab/web-1", 2);
	trouble(&w, "lab/web-2", 2);
	trouble(&w, "lab/web-3", 2);
	assert_int_equal(h->avoid_until, w.now + 10000);
	world_close(&w);
}

static void test_one_that_runs_ends_it(void **state)
{
	const struct core_host *h;
	struct world w;
	struct lab lab;

	(void)state;
	open_three(&w, &lab);
	h = core_host(w.core, "h1");
	for (uint32_t i = 1; i < 9; i++)
		trouble(&w, "lab/web-1", i); /* it may be at fault itself */
	assert_int_equal(h->avoid_until, 0);
	trouble(&w, "lab/web-2", 1);
	trouble(&w, "lab/web-3", 1);
	assert_int_not_equal(h->avoid_until, 0);
	observe(&w, core_guest_named(w.core, "lab/web-2"), CORE_RUNNING, true);
	assert_int_equal(h->avoid_until, 0);
	assert_int_equal(h->troubles, 0);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_three_in_a_row),
		cmocka_unit_test(test_one_that_runs_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
