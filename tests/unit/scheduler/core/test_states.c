/* Small things that guests and networks are: whether a guest will become ready by itself,
 * and whether a network's members may send from any address. */
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

/* Who may send from which address changes without a restart: the hosts are told. */
static void test_guarded(void **state)
{
	const struct core_guest *g;
	struct core_plan plan = {0};
	struct world w;
	struct lab lab;
	uint64_t generation;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 1);
	unit_ok(apply(&w, &lab, false, NULL), &w.err);
	g = core_guest_named(w.core, "lab/web-1");
	observe(&w, g, CORE_RUNNING, true);
	generation = g->generation;
	core_out_free(&w.out);
	lab.networks[0].guarded = true;
	unit_ok(apply(&w, &lab, false, &plan), &w.err);
	assert_int_equal(plan.count, 1);
	assert_true(plan.items[0].network);
	assert_string_equal(plan.items[0].detail, "spoofing: allow -> deny; nothing restarts");
	core_plan_free(&plan);
	assert_int_equal(g->generation, generation);
	assert_true(g->ready);
	assert_int_equal(actions(&w, CORE_TELL_NET), 1);
	assert_int_equal(actions(&w, CORE_TELL_GUEST), 0);
	assert_true(g->nics[0].network->spec.guarded);
	/* Together with what needs one it is a restart like any other. */
	lab.networks[0].guarded = false;
	lab.networks[0].mtu = 1300;
	unit_ok(apply(&w, &lab, false, NULL), &w.err);
	assert_int_equal(g->generation, generation + 1);
	assert_false(g->nics[0].network->spec.guarded);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_final),
		cmocka_unit_test(test_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
