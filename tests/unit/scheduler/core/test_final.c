/* What will not become ready by itself: as its host says, of the spec of now. */
#include "tests/unit/scheduler/core/corekit.h"

static void say(struct world *w, const struct core_guest *g, uint64_t generation, bool final)
{
	struct core_observed seen = {.uid = g->uid,
		.epoch = g->epoch,
		.generation = generation,
		.disk_generation = g->disk_generation,
		.phase = CORE_FAILED,
		.final = final,
		.reason = "it ended"};

	unit_ok(core_observe(w->core, g->host->name, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static void test_final(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 1);
	unit_ok(apply(&w, &lab, false, NULL), &w.err);
	g = core_guest_named(w.core, "lab/web-1");
	assert_non_null(g);
	assert_false(g->final);
	say(&w, g, g->generation, false); /* it is started again */
	assert_false(g->final);
	say(&w, g, g->generation, true);
	assert_true(g->final);
	/* A new spec is a new chance, also when what is said of the old one comes late. */
	lab.groups[0].boot_hash = 2;
	unit_ok(apply(&w, &lab, false, NULL), &w.err);
	assert_false(g->final);
	say(&w, g, g->generation - 1, true);
	assert_false(g->final);
	say(&w, g, g->generation, true);
	assert_true(g->final);
	/* So is a start by hand. */
	unit_ok(core_guest_verb(w.core, g->uid, CORE_START, w.now, &w.out, &w.err), &w.err);
	assert_false(g->final);
	observe(&w, g, CORE_RUNNING, true);
	assert_false(g->final);
	assert_true(g->ready);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_final),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
