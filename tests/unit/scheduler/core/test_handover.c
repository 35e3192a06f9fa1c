/* After the hand-over, and just before it: who has the guest when a host is lost, when the
 * target cannot start it, when a user wants it back. */
#include "tests/unit/scheduler/core/movecorekit.h"

#include "scheduler/core/orphan.h"

static void restarts_on_loss(struct world *w, struct lab *lab)
{
	lab->groups[0].on_loss = CORE_LOSS_RESTART;
	assert_int_equal(apply(w, lab, false, NULL), 0);
}

/* The target is lost just after the hand-over, before the guest ran there: the source has
 * all of it, and it goes on there.  Its disk must not be told to go. */
static void test_given_back(void **state)
{
	const struct core_guest *g;
	const struct core_move *m;
	uint64_t number, epoch, generation;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	restarts_on_loss(&w, &lab);
	host_up(&w, "b", 1ull << 30);
	host_up(&w, "c", 1ull << 30);
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	m = core_move(w.core, number);
	up_to_start(&w, number, "a", "b");
	epoch = g->epoch;
	generation = g->disk_generation;
	core_out_reset(&w.out);
	only_heard(&w, "a", "c", 7000);
	assert_string_equal(g->host->name, "a");
	assert_true(g->epoch > epoch);
	assert_true(g->disk_generation == generation);
	assert_true(g->from_move == 0);
	assert_int_equal(m->phase, CORE_MOVE_FAILED);
	assert_false(removal_of(&w, "a", g->epoch) || told(&w, CORE_TELL_REMOVE, "a"));
	/* Told of the guest, then that the move has ended: else it would run it under the
	 * epoch of before. */
	assert_true(told_at(&w, CORE_TELL_GUEST, "a") < told_at(&w, CORE_TELL_MOVE, "a"));
	/* What it may have written at the target for a moment is kept. */
	assert_non_null(core_orphan(w.core, epoch));
	assert_string_equal(core_orphan(w.core, epoch)->host, "b");
	assert_true(core_host(w.core, "b")->memory_reserved == 0);
	observe(&w, g, CORE_RUNNING, true);
	assert_int_equal(migrate(&w, g, "c", &number), 0);
	world_close(&w);
}

/* The source is lost as well: from the image, and both disks are kept. */
static void test_both_lost(void **state)
{
	const struct core_guest *g;
	uint64_t number, before, after;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	restarts_on_loss(&w, &lab);
	host_up(&w, "b", 1ull << 30);
	before = g->epoch;
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	up_to_start(&w, number, "a", "b");
	after = g->epoch;
	host_up(&w, "c", 1ull << 30);
	only_heard(&w, "c", NULL, 7000);
	assert_string_equal(g->host->name, "c");
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_FAILED);
	assert_non_null(core_orphan(w.core, before));
	assert_string_equal(core_orphan(w.core, before)->host, "a");
	assert_non_null(core_orphan(w.core, after));
	assert_string_equal(core_orphan(w.core, after)->host, "b");
	world_close(&w);
}

/* One that waits for its host waits for the target, which has it, and the source's copy
 * stays; a user may give that up. */
static void test_waits_for_target(void **state)
{
	const struct core_guest *g;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	lab.groups[0].on_loss = CORE_LOSS_WAIT;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	host_up(&w, "b", 1ull << 30);
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	up_to_start(&w, number, "a", "b");
	core_out_reset(&w.out);
	only_heard(&w, "a", NULL, 20000);
	assert_string_equal(g->host->name, "b");
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_START);
	assert_false(told(&w, CORE_TELL_REMOVE, "a"));
	assert_int_equal(core_move_cancel(w.core, g->uid, w.now, &w.out, &w.err), -EBUSY);
	w.err = (struct err)ERR_INIT;
	unit_ok(core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_string_equal(g->host->name, "a");
	assert_false(told(&w, CORE_TELL_REMOVE, "a"));
	world_close(&w);
}

/* All was there and sealed when the source was lost. */
static void test_source_lost_sealed(void **state)
{
	(void)state;
	for (int phase = CORE_MOVE_FREEZE; phase <= CORE_MOVE_LAST; phase++) {
		for (int sealed = 0; sealed < 3; sealed++) {
			const struct core_guest *g;
			uint64_t number;
			struct world w;
			struct lab lab;

			if (phase == CORE_MOVE_LAST && sealed == 1)
				continue;
			world_open(&w);
			host_up(&w, "a", 1ull << 30);
			g = placed_lab(&w, &lab, 1);
			restarts_on_loss(&w, &lab);
			observe(&w, g, CORE_RUNNING, true);
			host_up(&w, "b", 1ull << 30);
			assert_int_equal(migrate(&w, g, "b", &number), 0);
			says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
			says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
			if (phase == CORE_MOVE_LAST)
				says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_FROZEN, false);
			if (sealed == 1) /* before the loss */
				says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, false);
			only_heard(&w, "b", NULL, 5000);
			assert_int_equal(core_host(w.core, "a")->state, CORE_HOST_LOST);
			/* Not before the host has surely ended it. */
			assert_int_equal(core_move(w.core, number)->phase, phase);
			if (sealed == 2 && phase == CORE_MOVE_FREEZE)
				says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, false);
			only_heard(&w, "b", NULL, 1000);
			if (sealed && phase == CORE_MOVE_FREEZE) {
				assert_string_equal(g->host->name, "b");
				assert_true(g->disk_generation == 1);
				assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_START);
				observe(&w, g, CORE_RUNNING, true);
				assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_DONE);
			} else {
				assert_true(g->disk_generation == 2);
			}
			world_close(&w);
		}
	}
}

static const struct core_guest *started(struct world *w, struct lab *lab, uint64_t *number)
{
	const struct core_guest *g;

	world_open(w);
	host_up(w, "a", 1ull << 30);
	g = placed_lab(w, lab, 1);
	host_up(w, "b", 1ull << 30);
	assert_int_equal(migrate(w, g, "b", number), 0);
	up_to_start(w, *number, "a", "b");
	core_out_reset(&w->out);
	return g;
}

/* A guest that ran while nobody looked, or that will not run, does not lock its move. */
static void test_start_ends(void **state)
{
	static const struct core_observed ends[] = {
		{.phase = CORE_STOPPED, .final = true}, /* it had ended at the source */
		{.phase = CORE_STOPPED, .ran = true},	/* a one-shot */
		{.phase = CORE_FAILED, .ran = true},	/* tried again by policy */
		{.phase = CORE_RUNNING, .ran = true},
	};
	static const struct core_observed waits[] = {
		{.phase = CORE_STARTING, .ran = true}, /* it boots */
		{.phase = CORE_STARTING, .troubles = 1},
		{.phase = CORE_FAILED}, /* its runner could not start it */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		uint64_t number;
		struct world w;
		struct lab lab;
		const struct core_guest *g = started(&w, &lab, &number);

		observe_seen(&w, g, ends[i]);
		assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_DROP);
		world_close(&w);
	}
	for (size_t i = 0; i < sizeof(waits) / sizeof(*waits); i++) {
		uint64_t number, other;
		struct world w;
		struct lab lab;
		const struct core_guest *g = started(&w, &lab, &number);

		observe_seen(&w, g, waits[i]);
		assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_START);
		assert_int_equal(migrate(&w, g, "a", &other), -EBUSY);
		assert_non_null(strstr(err_msg(&w.err), "brings it back to a"));
		world_close(&w);
	}
}

/* Cancelled after the hand-over: the target does not start it any more; whether it ever ran
 * there decides. */
static void test_recalled(void **state)
{
	(void)state;
	for (int ran = 0; ran < 2; ran++) {
		uint64_t number, epoch;
		struct world w;
		struct lab lab;
		const struct core_guest *g = started(&w, &lab, &number);
		const struct core_move *m = core_move(w.core, number);

		epoch = g->epoch;
		unit_ok(core_move_cancel(w.core, g->uid, w.now, &w.out, &w.err), &w.err);
		check(&w);
		assert_true(core_move_recalled(m));
		assert_true(told(&w, CORE_TELL_GUEST, "b"));
		assert_int_equal(m->phase, CORE_MOVE_START);
		core_out_reset(&w.out);
		observe_seen(&w, g, (struct core_observed){.phase = CORE_STARTING});
		assert_int_equal(m->phase, CORE_MOVE_START);
		observe_seen(&w, g, (struct core_observed){.phase = CORE_STOPPED, .ran = ran});
		if (ran) {
			assert_int_equal(m->phase, CORE_MOVE_DROP);
			assert_string_equal(g->host->name, "b");
			assert_true(told(&w, CORE_TELL_GUEST, "b")); /* to run */
			world_close(&w);
			continue;
		}
		assert_int_equal(m->phase, CORE_MOVE_BACK);
		assert_string_equal(g->host->name, "a");
		assert_true(g->epoch > epoch);
		assert_true(removal_of(&w, "b", epoch));
		assert_true(told_at(&w, CORE_TELL_GUEST, "a") < told_at(&w, CORE_TELL_MOVE, "a"));
		assert_null(core_orphan(w.core, epoch));
		says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, true);
		assert_int_equal(m->phase, CORE_MOVE_CANCELLED);
		world_close(&w);
	}
}

/* The target fails to start it, again and again: it goes back by itself. */
static void test_cannot_start(void **state)
{
	uint64_t number;
	struct world w;
	struct lab lab;
	const struct core_guest *g = started(&w, &lab, &number);

	(void)state;
	observe_seen(&w, g,
		(struct core_observed){
			.phase = CORE_STARTING, .troubles = 4, .reason = "eth0: no room"});
	assert_false(core_move_recalled(core_move(w.core, number)));
	observe_seen(&w, g,
		(struct core_observed){
			.phase = CORE_STARTING, .troubles = 5, .reason = "eth0: no room"});
	assert_true(core_move_recalled(core_move(w.core, number)));
	observe_seen(&w, g, (struct core_observed){.phase = CORE_STOPPED});
	assert_string_equal(g->host->name, "a");
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, true);
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_FAILED);
	assert_string_equal(core_move(w.core, number)->reason, "b: eth0: no room");
	world_close(&w);
}

/* What is held for the way back is what the guest needs now. */
static void test_grows(void **state)
{
	uint64_t number;
	struct world w;
	struct lab lab;
	const struct core_guest *g = started(&w, &lab, &number);

	(void)state;
	lab.groups[0].memory = 128ull << 20;
	lab.groups[0].boot_hash = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_START);
	assert_true(core_host(w.core, "a")->memory_reserved == 128ull << 20);
	unit_ok(core_move_cancel(w.core, g->uid, w.now, &w.out, &w.err), &w.err);
	observe_seen(&w, g, (struct core_observed){.phase = CORE_STOPPED});
	assert_string_equal(g->host->name, "a");
	assert_true(core_host(w.core, "a")->memory_reserved == 128ull << 20);
	world_close(&w);
}

/* The source is lost while it is wanted back: then it stays where it is, and runs. */
static void test_recalled_in_vain(void **state)
{
	uint64_t number;
	struct world w;
	struct lab lab;
	const struct core_guest *g = started(&w, &lab, &number);

	(void)state;
	unit_ok(core_move_cancel(w.core, g->uid, w.now, &w.out, &w.err), &w.err);
	core_out_reset(&w.out);
	only_heard(&w, "b", NULL, 6000);
	assert_false(core_move_recalled(core_move(w.core, number)));
	assert_true(told(&w, CORE_TELL_GUEST, "b"));
	observe(&w, g, CORE_RUNNING, true);
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_DONE);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_given_back),
		cmocka_unit_test(test_both_lost),
		cmocka_unit_test(test_waits_for_target),
		cmocka_unit_test(test_source_lost_sealed),
		cmocka_unit_test(test_start_ends),
		cmocka_unit_test(test_recalled),
		cmocka_unit_test(test_cannot_start),
		cmocka_unit_test(test_grows),
		cmocka_unit_test(test_recalled_in_vain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
