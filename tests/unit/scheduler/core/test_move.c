/* Moves of guests: each phase, all that may come between, random histories, loading. */
#include "tests/unit/scheduler/core/movecorekit.h"

#include <utlist.h>

#include "scheduler/core/move.h"

static void test_whole(void **state)
{
	const struct core_guest *g;
	const struct core_move *m;
	uint64_t number, epoch;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	host_up(&w, "b", 1ull << 30);
	epoch = g->epoch;
	core_out_reset(&w.out);
	assert_int_equal(migrate(&w, g, "", &number), 0);
	m = core_move(w.core, number);
	assert_string_equal(m->target, "b");
	/* Its room is kept at the target; the source hears of it when that is ready. */
	assert_true(core_host(w.core, "b")->memory_reserved == g->memory);
	assert_true(told(&w, CORE_TELL_MOVE, "b"));
	assert_false(told(&w, CORE_TELL_MOVE, "a"));
	assert_true(core_move_into(m, "b") && !core_move_out_of(m, "a"));
	assert_int_equal(migrate(&w, g, "b", &epoch), -EBUSY);
	epoch = g->epoch;
	core_out_reset(&w.out);
	up_to_start(&w, number, "a", "b");
	assert_string_equal(g->host->name, "b");
	assert_true(g->epoch > epoch);
	assert_true(g->from_move == number);
	assert_true(told(&w, CORE_TELL_GUEST, "b"));
	assert_true(told(&w, CORE_TELL_NET, "b"));
	/* It may come back yet. */
	assert_true(core_host(w.core, "a")->memory_reserved == g->memory);
	/* What the source has stays until the target runs it, whatever it says. */
	core_out_reset(&w.out);
	observe_under(&w, g, "a", epoch, CORE_STOPPED, false);
	assert_int_equal(actions(&w, CORE_TELL_REMOVE), 0);
	assert_true(core_move_out_of(m, "a"));
	observe(&w, g, CORE_STARTING, false);
	assert_int_equal(m->phase, CORE_MOVE_START);
	observe(&w, g, CORE_RUNNING, true);
	assert_int_equal(m->phase, CORE_MOVE_DROP);
	assert_true(g->from_move == 0);
	assert_true(core_host(w.core, "a")->memory_reserved == 0);
	assert_true(removal_of(&w, "a", g->epoch));
	/* It is told that the move has ended only when nothing is left there: it would
	 * start the guest again. */
	assert_false(told(&w, CORE_TELL_MOVE, "a"));
	observe_under(&w, g, "a", g->epoch, CORE_STOPPED, true);
	assert_int_equal(m->phase, CORE_MOVE_DONE);
	assert_true(told(&w, CORE_TELL_MOVE, "a"));
	assert_true(core_host(w.core, "a")->disk_reserved == 0);
	/* And back again. */
	assert_int_equal(migrate(&w, g, "a", &number), 0);
	world_close(&w);
}

static void test_refused(void **state)
{
	const struct core_guest *g;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 2);
	assert_int_equal(migrate(&w, g, "", &number), -EHOSTUNREACH);
	host_up(&w, "small", 32ull << 20);
	assert_int_equal(migrate(&w, g, "small", &number), -EHOSTUNREACH);
	assert_int_equal(migrate(&w, g, "none", &number), -ENOENT);
	assert_int_equal(migrate(&w, g, "a", &number), -EBUSY);
	host_up(&w, "b", 100ull << 20);
	unit_ok(core_cordon(w.core, "b", true, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(migrate(&w, g, "b", &number), -EHOSTUNREACH);
	unit_ok(core_cordon(w.core, "b", false, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	/* There is room for one there, and it is taken. */
	assert_int_equal(migrate(&w, g->hh.next, "b", &number), -EHOSTUNREACH);
	world_close(&w);
}

/* Whatever ends a move before the hand-over leaves the guest where it is. */
static void test_back(void **state)
{
	(void)state;
	for (int phase = CORE_MOVE_PREPARE; phase <= CORE_MOVE_LAST; phase++) {
		for (int why = 0; why < 6; why++) {
			const struct core_guest *g;
			const struct core_move *m;
			uint64_t number, epoch;
			struct world w;
			struct lab lab;

			world_open(&w);
			host_up(&w, "a", 1ull << 30);
			g = placed_lab(&w, &lab, 1);
			host_up(&w, "b", 1ull << 30);
			epoch = g->epoch;
			assert_int_equal(migrate(&w, g, "b", &number), 0);
			m = core_move(w.core, number);
			if (phase >= CORE_MOVE_COPY)
				says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
			if (phase >= CORE_MOVE_FREEZE)
				says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
			if (phase >= CORE_MOVE_LAST)
				says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_FROZEN, false);
			assert_int_equal(m->phase, phase);
			core_out_reset(&w.out);
			switch (why) {
			case 0:
				unit_ok(core_move_cancel(w.core, g->uid, w.now, &w.out, &w.err),
					&w.err);
				break;
			case 1:
				says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_HAS_FAILED,
					false);
				break;
			case 2:
				says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_HAS_FAILED,
					false);
				break;
			case 3: /* the target is lost: nobody waits for it */
				w.now += 3000;
				assert_int_equal(
					core_heartbeat(w.core, "a", 1, w.now, w.now, &w.out), 0);
				w.now += 3000;
				(void)core_tick(w.core, w.now, w.now, &w.out);
				assert_int_equal(m->phase, CORE_MOVE_FAILED);
				break;
			case 4:
				lab.groups[0].boot_hash = 2;
				assert_int_equal(apply(&w, &lab, false, NULL), 0);
				break;
			default: {
				struct core_plan plan = {0};

				unit_ok(core_delete(
						w.core, "lab", false, w.now, &plan, &w.out, &w.err),
					&w.err);
				core_plan_free(&plan);
			}
			}
			check(&w);
			assert_int_equal(g->host ? strcmp(g->host->name, "a") : 1, 0);
			assert_true(g->epoch == epoch);
			assert_true(told(&w, CORE_TELL_MOVE, "a") && told(&w, CORE_TELL_MOVE, "b"));
			assert_false(core_move_out_of(m, "a") || core_move_into(m, "b"));
			if (why != 3) {
				assert_int_equal(m->phase, CORE_MOVE_BACK);
				assert_true(core_host(w.core, "b")->memory_reserved != 0);
				says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, true);
				assert_int_equal(m->phase,
					why == 0 ? CORE_MOVE_CANCELLED : CORE_MOVE_FAILED);
			}
			assert_true(core_host(w.core, "b")->memory_reserved == 0);
			world_close(&w);
		}
	}
}

/* After the hand-over the source does not matter any more. */
static void test_source_lost(void **state)
{
	const struct core_guest *g;
	const struct core_move *m;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	host_up(&w, "b", 1ull << 30);
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	m = core_move(w.core, number);
	up_to_start(&w, number, "a", "b");
	w.now += 3000;
	assert_int_equal(core_heartbeat(w.core, "b", 1, w.now, w.now, &w.out), 0);
	w.now += 3000;
	(void)core_tick(w.core, w.now, w.now, &w.out);
	check(&w);
	assert_int_equal(m->phase, CORE_MOVE_START);
	assert_string_equal(g->host->name, "b");
	observe(&w, g, CORE_RUNNING, true);
	assert_int_equal(m->phase, CORE_MOVE_DONE);
	world_close(&w);
}

static void test_silence(void **state)
{
	const struct core_guest *g;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	host_up(&w, "b", 1ull << 30);
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
	for (int i = 0; i < 70; i++) {
		/* The wall clock is set, forward and back: that is no silence. */
		uint64_t wall = w.now + 1000 + (i / 20 % 2 ? 7200000 : 0);

		w.now += 1000;
		assert_int_equal(core_heartbeat(w.core, "a", 1, wall, w.now, &w.out), 0);
		assert_int_equal(core_heartbeat(w.core, "b", 1, wall, w.now, &w.out), 0);
		(void)core_tick(w.core, wall, w.now, &w.out);
		check(&w);
		/* It runs from the first tick after the last that was heard. */
		assert_int_equal(core_move(w.core, number)->phase,
			i < 61 ? CORE_MOVE_FREEZE : CORE_MOVE_BACK);
	}
	world_close(&w);
}

/* ---------------------------------------------------------------- random histories */

static void hello_of(struct world *w, const char *name)
{
	struct core_hostfacts facts = {
		.memory = 400ull << 20, .disk = 1ull << 40, .cpu = 4000, .underlay_mtu = 1500};

	(void)str_copy(facts.name, sizeof(facts.name), name);
	unit_ok(net_addr_parse("10.0.0.1", &facts.vtep, &w->err), &w->err);
	unit_ok(core_host_hello(w->core, &facts, NULL, 0, w->now, w->now, &w->out, &w->err),
		&w->err);
	check(w);
	unit_ok(core_move_observed(w->core, name, NULL, 0, true, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

/* Mostly what comes next. */
static void random_report(struct world *w, const struct core_move *m, uint64_t *seed)
{
	bool source = next_random(seed) % 2;
	const char *host = source ? m->source : m->target;
	const struct core_guest *g = core_guest(w->core, m->uid);
	enum core_move_state next = m->phase == CORE_MOVE_PREPARE  ? CORE_MOVE_IS_READY
				    : m->phase == CORE_MOVE_COPY   ? CORE_MOVE_IS_SMALL
				    : m->phase == CORE_MOVE_FREEZE ? CORE_MOVE_IS_FROZEN
								   : CORE_MOVE_IS_SEALED;

	if (next_random(seed) % 8 == 0)
		says(w, m->number, host, source ? CORE_MOVE_SOURCE : CORE_MOVE_TARGET,
			(enum core_move_state)(next_random(seed) % 7), next_random(seed) % 8 == 0);
	else if (m->phase == CORE_MOVE_DROP && g)
		observe_under(w, g, m->source, g->epoch, CORE_STOPPED, true);
	else if (m->phase == CORE_MOVE_START && g && g->host->state == CORE_HOST_UP)
		observe(w, g, CORE_RUNNING, true);
	else
		says(w, m->number, host, source ? CORE_MOVE_SOURCE : CORE_MOVE_TARGET, next,
			m->phase == CORE_MOVE_BACK && next_random(seed) % 2);
}

static void random_step(struct world *w, struct lab *lab, uint64_t *seed)
{
	static const char *const hosts[] = {"a", "b", "c", "d"};
	size_t n = core_guest_count(w->core), at = n ? next_random(seed) % n : 0;
	const struct core_guest *g = core_guests(w->core);
	const char *host = hosts[next_random(seed) % 4];
	const struct core_move *m = core_moves(w->core);
	struct err err = ERR_INIT;
	uint64_t number;

	while (g && at--)
		g = g->hh.next;
	/* Rarely one that has ended. */
	while (m && m->hh.next && (!core_move_active(m) || next_random(seed) % 3 == 0))
		m = m->hh.next;
	w->now += next_random(seed) % 300;
	switch (next_random(seed) % 16) {
	case 0:
	case 1:
	case 2:
		if (g)
			(void)migrate(w, g, next_random(seed) % 2 ? host : "", &number);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
	case 7:
		if (m) {
			random_report(w, m, seed);
		}
		break;
	case 8:
	case 9:
		if (g && g->host && g->host->state == CORE_HOST_UP)
			observe(w, g, next_random(seed) % 4 ? CORE_RUNNING : CORE_STOPPED, true);
		break;
	case 10:
		if (g && core_host(w->core, host))
			observe_under(w, g, host, next_random(seed) % 2 ? g->epoch : 1,
				CORE_STOPPED, next_random(seed) % 2);
		break;
	case 11:
		if (g)
			(void)core_move_cancel(w->core, g->uid, w->now, &w->out, &err);
		break;
	case 12:
		if (g)
			(void)core_guest_verb(w->core, g->uid,
				(enum core_verb)(next_random(seed) % 4), w->now, &w->out, &err);
		break;
	case 13:
		lab->groups[0].count = (uint32_t)(next_random(seed) % 12);
		lab->groups[0].boot_hash += next_random(seed) % 2;
		lab->groups[0].disk_hash += next_random(seed) % 8 == 0;
		lab->groups[0].memory = (32 + 32 * (next_random(seed) % 2)) << 20;
		(void)apply(w, lab, false, NULL);
		break;
	case 14:
		hello_of(w, host);
		break;
	default:
		w->now += next_random(seed) % 4000;
		for (size_t i = 0; i < 4; i++)
			if (next_random(seed) % 4)
				(void)core_heartbeat(w->core, hosts[i], 1, w->now, w->now, &w->out);
		(void)core_tick(w->core, w->now, w->now, &w->out);
	}
	check(w);
	core_out_reset(&w->out);
}

static void test_random(void **state)
{
	size_t done = 0, back = 0;

	(void)state;
	for (uint64_t run = 1; run <= 60; run++) {
		uint64_t seed = run * 7919;
		struct world w;
		struct lab lab;

		world_open(&w);
		for (const char *h = "abcd"; *h; h++)
			hello_of(&w, (const char[]){*h, 0});
		(void)placed_lab(&w, &lab, 8);
		for (int i = 0; i < 1500; i++)
			random_step(&w, &lab, &seed);
		for (const struct core_move *m = core_moves(w.core); m; m = m->hh.next) {
			done += m->phase == CORE_MOVE_DONE;
			back += m->phase == CORE_MOVE_FAILED;
		}
		world_close(&w);
	}
	/* The histories reach both ends. */
	assert_true(done > 20);
	assert_true(back > 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_back),
		cmocka_unit_test(test_source_lost),
		cmocka_unit_test(test_silence),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
