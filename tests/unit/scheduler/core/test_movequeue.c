/* Moves that wait for their turn or for their target, room for them, what is said of
 * failures. */
#include "tests/unit/scheduler/core/movecorekit.h"

#define MIB (UINT64_C(1) << 20)

static void ready(struct world *w, uint64_t number)
{
	says(w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
}

static void trouble(struct world *w, uint64_t number, const char *host, enum core_move_side side,
	enum core_move_state state, const char *reason)
{
	struct core_move_seen seen = {
		.number = number, .side = side, .state = state, .reason = reason};

	unit_ok(core_move_observed(w->core, host, &seen, 1, false, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

/* So many at once out of a host, and into it; the others in their order, with a reason. */
static void test_turns(void **state)
{
	uint64_t numbers[12];
	const struct core_guest *g;
	const struct core_move *m;
	struct world w;
	struct lab lab;
	size_t n = 0;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 12);
	host_up(&w, "b", 1ull << 30);
	for (g = core_guests(w.core); g; g = g->hh.next)
		assert_int_equal(migrate(&w, g, "b", &numbers[n++]), 0);
	for (size_t i = 0; i < 12; i++)
		ready(&w, numbers[i]);
	for (size_t i = 0; i < 12; i++) {
		m = core_move(w.core, numbers[i]);
		assert_int_equal(
			m->phase, i < CORE_MOVES_AT_ONCE ? CORE_MOVE_COPY : CORE_MOVE_PREPARE);
		assert_string_equal(m->reason,
			i < CORE_MOVES_AT_ONCE ? "" : "waits: 8 moves are under way on a");
	}
	/* A place is free: after a hand-over, after a failure, after a cancel. */
	says(&w, numbers[0], "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
	says(&w, numbers[0], "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_FROZEN, false);
	says(&w, numbers[0], "b", CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, false);
	assert_int_equal(core_move(w.core, numbers[8])->phase, CORE_MOVE_COPY);
	assert_string_equal(core_move(w.core, numbers[8])->reason, "");
	assert_int_equal(core_move(w.core, numbers[9])->phase, CORE_MOVE_PREPARE);
	says(&w, numbers[1], "b", CORE_MOVE_TARGET, CORE_MOVE_HAS_FAILED, false);
	assert_int_equal(core_move(w.core, numbers[9])->phase, CORE_MOVE_COPY);
	g = core_guest(w.core, core_move(w.core, numbers[2])->uid);
	unit_ok(core_move_cancel(w.core, g->uid, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(core_move(w.core, numbers[10])->phase, CORE_MOVE_COPY);
	/* To wait for one's turn is no fault. */
	only_heard(&w, "a", "b", 400000);
	assert_int_equal(core_move(w.core, numbers[11])->phase, CORE_MOVE_PREPARE);
	world_close(&w);
}

/* The target does not get ready: what it says is shown, and the move ends when it says
 * nothing new for long. */
static void test_unprepared(void **state)
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
	core_out_reset(&w.out);
	trouble(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_PREPARING, "image web: 10 %");
	assert_string_equal(m->reason, "image web: 10 %");
	/* Shown, and nothing is written. */
	assert_int_equal(w.out.dirty_count, 1);
	assert_true(w.out.dirty[0].shown_only);
	only_heard(&w, "a", "b", 200000);
	trouble(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_PREPARING, "image web: 20 %");
	only_heard(&w, "a", "b", 299000);
	assert_int_equal(m->phase, CORE_MOVE_PREPARE);
	/* Said again, but nothing new. */
	trouble(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_PREPARING, "image web: 20 %");
	only_heard(&w, "a", "b", 2000);
	assert_int_equal(m->phase, CORE_MOVE_BACK);
	assert_non_null(strstr(m->reason, "b did not get ready"));
	assert_non_null(strstr(m->reason, "image web: 20 %"));
	world_close(&w);
}

/* Progress is for those who watch. */
static void test_progress_is_not_written(void **state)
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
	ready(&w, number);
	core_out_reset(&w.out);
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_COPYING, false);
	assert_int_equal(w.out.dirty_count, 1);
	assert_true(w.out.dirty[0].shown_only);
	/* A change of the record in the same event counts. */
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
	assert_int_equal(w.out.dirty_count, 1);
	assert_false(w.out.dirty[0].shown_only);
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_COPYING, false);
	assert_false(w.out.dirty[0].shown_only);
	world_close(&w);
}

/* The source hears of errors of the target: it is named. */
static void test_whose_error(void **state)
{
	static const struct {
		const char *host;
		enum core_move_side side;
		const char *reason, *shown;
	} cases[] = {
		{"a", CORE_MOVE_SOURCE, "the target: write cow: No space left",
			"b: write cow: No space left"},
		{"a", CORE_MOVE_SOURCE, "read cow: Input/output error",
			"a: read cow: Input/output error"},
		{"b", CORE_MOVE_TARGET, "the image on this host is damaged",
			"b: the image on this host is damaged"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct core_guest *g;
		uint64_t number;
		struct world w;
		struct lab lab;

		world_open(&w);
		host_up(&w, "a", 1ull << 30);
		g = placed_lab(&w, &lab, 1);
		host_up(&w, "b", 1ull << 30);
		assert_int_equal(migrate(&w, g, "b", &number), 0);
		ready(&w, number);
		trouble(&w, number, cases[i].host, cases[i].side, CORE_MOVE_HAS_FAILED,
			cases[i].reason);
		assert_string_equal(core_move(w.core, number)->reason, cases[i].shown);
		world_close(&w);
	}
}

/* By the clock of the scheduler alone. */
static void test_standstill(void **state)
{
	struct core_move_seen frozen = {.side = CORE_MOVE_SOURCE,
		.state = CORE_MOVE_IS_FROZEN,
		.reason = "",
		.frozen_ms = 700};
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
	ready(&w, number);
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
	frozen.number = number;
	unit_ok(core_move_observed(w.core, "a", &frozen, 1, false, w.now, &w.out, &w.err), &w.err);
	assert_true(core_move(w.core, number)->frozen_at == w.now - 700);
	world_close(&w);
}

static void disk_of(struct world *w, const struct core_guest *g, uint64_t bytes)
{
	observe_seen(w, g, (struct core_observed){.phase = CORE_RUNNING, .cow_bytes = bytes});
}

/* What is on the guest's disk must fit on the target's, beside what is on its way there. */
static void test_disk(void **state)
{
	const struct core_guest *g, *second;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 2);
	second = g->hh.next;
	disk_of(&w, g, 600 * MIB);
	disk_of(&w, second, 600 * MIB);
	host_up(&w, "b", 1ull << 30);
	assert_int_equal(core_heartbeat(w.core, "b", 500 * MIB, w.now, w.now, &w.out), 0);
	assert_int_equal(migrate(&w, g, "", &number), -EHOSTUNREACH);
	assert_non_null(strstr(err_msg(&w.err), "its disk is too full"));
	assert_int_equal(migrate(&w, g, "b", &number), -EHOSTUNREACH);
	assert_string_equal(err_msg(&w.err),
		"host b does not take guest lab/web-1: its disk is too full (needs 701M, 500M "
		"free)");
	assert_int_equal(core_heartbeat(w.core, "b", 1000 * MIB, w.now, w.now, &w.out), 0);
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	assert_int_equal(migrate(&w, second, "b", &number), -EHOSTUNREACH);
	assert_non_null(strstr(err_msg(&w.err), "400M free"));
	world_close(&w);
}

static void test_memory_in_numbers(void **state)
{
	const struct core_guest *g;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 1);
	host_up(&w, "b", 32 * MIB);
	assert_int_equal(migrate(&w, g, "b", &number), -EHOSTUNREACH);
	assert_string_equal(err_msg(&w.err),
		"host b does not take guest lab/web-1: not enough memory (needs 64M, 32M free)");
	world_close(&w);
}

static int rehearse(struct world *w, const struct core_guest *g, const char *to)
{
	const struct core_migrate how = {.to = to, .dry_run = true};
	struct core_migrate_plan plan = {0};

	w->err = (struct err)ERR_INIT;
	return core_migrate(w->core, g->uid, &how, w->now, &plan, &w->out, &w->err);
}

/* A dry run of several says what would become of several. */
static void test_dry_run(void **state)
{
	const struct core_guest *g;
	uint64_t number;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	g = placed_lab(&w, &lab, 2);
	host_up(&w, "b", 100 * MIB);
	core_out_reset(&w.out);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(rehearse(&w, g, "b"), 0);
		assert_int_equal(rehearse(&w, g, "b"), -EBUSY);
		assert_int_equal(rehearse(&w, g->hh.next, "b"), -EHOSTUNREACH);
		core_migrate_rehearsed(w.core);
		check(&w);
		assert_null(core_moves(w.core));
		assert_null(g->move);
		assert_true(core_host(w.core, "b")->memory_reserved == 0);
	}
	assert_int_equal(w.out.dirty_count + w.out.action_count + w.out.log_count, 0);
	/* And that is what becomes of them. */
	assert_int_equal(migrate(&w, g, "b", &number), 0);
	assert_int_equal(migrate(&w, g->hh.next, "b", &number), -EHOSTUNREACH);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_turns),
		cmocka_unit_test(test_unprepared),
		cmocka_unit_test(test_progress_is_not_written),
		cmocka_unit_test(test_whose_error),
		cmocka_unit_test(test_standstill),
		cmocka_unit_test(test_disk),
		cmocka_unit_test(test_memory_in_numbers),
		cmocka_unit_test(test_dry_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
