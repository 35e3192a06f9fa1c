/* Hosts that are being emptied, and the rules of others while guests are on their way. */
#include "tests/unit/scheduler/core/movecorekit.h"

#include "scheduler/core/drain.h"

static void drain(struct world *w, const char *host, uint32_t parallel)
{
	unit_ok(core_drain(w->core, host, parallel, 0, 0, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static const struct core_move *active_out_of(const struct world *w, const char *host, size_t *count)
{
	const struct core_move *found = NULL;

	*count = 0;
	for (const struct core_move *m = core_moves(w->core); m; m = m->hh.next)
		if (core_move_active(m) && m->phase <= CORE_MOVE_START &&
			strcmp(m->source, host) == 0) {
			found = m;
			++*count;
		}
	return found;
}

/* To its end: runs at the target, nothing left at the source. */
static void complete(struct world *w, const struct core_move *m)
{
	const struct core_guest *g = m->guest;
	char from[CORE_NAME], to[CORE_NAME];

	(void)str_copy(from, sizeof(from), m->source);
	(void)str_copy(to, sizeof(to), m->target);
	up_to_start(w, m->number, from, to);
	observe(w, g, CORE_RUNNING, true);
	observe_under(w, g, from, g->epoch, CORE_STOPPED, true);
}

static bool event_said(const struct world *w, const char *reason)
{
	for (size_t i = 0; i < w->out.log_count; i++)
		if (strcmp(w->out.logs[i].reason, reason) == 0)
			return true;
	return false;
}

static void tick(struct world *w, const char *const *hosts, uint64_t ms)
{
	for (uint64_t at = 0; at < ms; at += 1000) {
		w->now += 1000;
		for (const char *const *h = hosts; *h; h++)
			assert_int_equal(
				core_heartbeat(w->core, *h, 1, w->now, w->now, &w->out), 0);
		(void)core_tick(w->core, w->now, w->now, &w->out);
		check(w);
	}
}

static void test_whole(void **state)
{
	const struct core_host *a;
	const struct core_move *m;
	size_t count, most = 0, moved = 0;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 7);
	host_up(&w, "b", 1ull << 30);
	a = core_host(w.core, "a");
	assert_int_equal(a->guest_count, 7);
	core_out_reset(&w.out);
	drain(&w, "a", 2);
	assert_true(event_said(&w, "Draining"));
	assert_true(a->cordoned);
	assert_int_equal(a->drain->total, 7);
	while ((m = active_out_of(&w, "a", &count))) {
		most = count > most ? count : most;
		assert_true(m->drain);
		complete(&w, m);
		assert_true(++moved <= 7);
	}
	assert_int_equal(most, 2);
	assert_int_equal(moved, 7);
	assert_int_equal(a->guest_count, 0);
	assert_true(a->drain->ended_at != 0);
	assert_true(event_said(&w, "Drained"));
	/* It stays so until it is uncordoned, and takes no guests meanwhile. */
	lab_init(&lab, "more", 3);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(a->guest_count, 0);
	unit_ok(core_cordon(w.core, "a", false, w.now, &w.out, &w.err), &w.err);
	assert_null(a->drain);
	assert_false(a->cordoned);
	world_close(&w);
}

/* Where nothing takes them they stay, with a reason, and are tried again. */
static void test_stuck(void **state)
{
	static const char *const hosts[] = {"a", NULL}, *const both[] = {"a", "b", NULL};
	const struct core_host *a;
	size_t count;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 3);
	a = core_host(w.core, "a");
	drain(&w, "a", 0);
	assert_null(active_out_of(&w, "a", &count));
	assert_int_equal(a->drain->stuck, 3);
	assert_non_null(strstr(a->drain->reason, "cannot move"));
	assert_true(event_said(&w, "CannotMove"));
	core_out_reset(&w.out);
	tick(&w, hosts, 10000);
	assert_int_equal(a->drain->stuck, 3);
	/* Said once, not at each try. */
	assert_false(event_said(&w, "CannotMove"));
	tick(&w, hosts, 100000); /* by now a minute lies between two tries */
	host_up(&w, "b", 1ull << 30);
	(void)active_out_of(&w, "a", &count);
	if (count == 0) /* it had looked within the last two seconds */
		tick(&w, both, 2000);
	(void)active_out_of(&w, "a", &count);
	assert_int_equal(count, 3);
	world_close(&w);
}

/* A move of it that failed is tried again after a while. */
static void test_failed(void **state)
{
	static const char *const both[] = {"a", "b", NULL};
	const struct core_move *m;
	uint64_t number;
	size_t count;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 1);
	host_up(&w, "b", 1ull << 30);
	drain(&w, "a", 1);
	m = active_out_of(&w, "a", &count);
	number = m->number;
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_HAS_FAILED, false);
	assert_null(active_out_of(&w, "a", &count));
	assert_int_equal(core_host(w.core, "a")->drain->stuck, 1);
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_HAS_FAILED, true);
	tick(&w, both, 10000);
	m = active_out_of(&w, "a", &count);
	assert_non_null(m);
	assert_true(m->number != number);
	complete(&w, m);
	assert_true(core_host(w.core, "a")->drain->ended_at != 0);
	world_close(&w);
}

static void test_cancel(void **state)
{
	const struct core_host *a;
	const struct core_move *m;
	size_t count;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 4);
	host_up(&w, "b", 1ull << 30);
	a = core_host(w.core, "a");
	assert_int_equal(core_drain_cancel(w.core, "a", w.now, &w.out, &w.err), -ENOENT);
	w.err = (struct err)ERR_INIT;
	drain(&w, "a", 3);
	m = active_out_of(&w, "a", &count);
	assert_int_equal(count, 3);
	up_to_start(&w, m->number, "a", "b");
	unit_ok(core_drain_cancel(w.core, "a", w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_null(a->drain);
	assert_true(a->cordoned);
	/* The one that was handed over is gone, the others stay. */
	assert_int_equal(m->phase, CORE_MOVE_START);
	(void)active_out_of(&w, "a", &count);
	assert_int_equal(count, 1);
	assert_int_equal(a->guest_count, 3);
	world_close(&w);
}

/* What is on its way to a host that is to be emptied stays where it is. */
static void test_into(void **state)
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
	drain(&w, "b", 0);
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_BACK);
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, true);
	assert_true(core_host(w.core, "b")->drain->ended_at != 0);
	world_close(&w);
}

/* One of a group to a host, at most: also of those that are only on their way there. */
static void test_rules_see_what_comes(void **state)
{
	const struct core_guest *first, *second;
	uint64_t number, other;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	host_up(&w, "b", 1ull << 30);
	lab_init(&lab, "lab", 2);
	lab.groups[0].max_per_host = 1;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	first = core_guest_named(w.core, "lab/web-1");
	second = core_guest_named(w.core, "lab/web-2");
	observe(&w, first, CORE_RUNNING, true);
	observe(&w, second, CORE_RUNNING, true);
	host_up(&w, "c", 1ull << 30);
	assert_int_equal(migrate(&w, first, "", &number), 0);
	assert_int_equal(migrate(&w, second, "", &other), -EHOSTUNREACH);
	/* And no new one of the group is placed there, until the way is free again. */
	lab.groups[0].count = 3;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_null(core_guest_named(w.core, "lab/web-3")->host);
	unit_ok(core_move_cancel(w.core, first->uid, w.now, &w.out, &w.err), &w.err);
	says(&w, number, "c", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, true);
	(void)core_tick(w.core, w.now, w.now, &w.out);
	check(&w);
	assert_string_equal(core_guest_named(w.core, "lab/web-3")->host->name, "c");
	world_close(&w);
}

/* What is asked for together is shared by those that send: the last one has all of it. */
static void test_rate(void **state)
{
	const struct core_move *first, *m;
	uint64_t number;
	size_t count;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 2);
	host_up(&w, "b", 1ull << 30);
	unit_ok(core_drain(w.core, "a", 4, 1000, 0, w.now, &w.out, &w.err), &w.err);
	first = active_out_of(&w, "a", &count);
	assert_int_equal(count, 2);
	number = first->number;
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
	assert_int_equal(first->rate, 1000);
	for (m = core_moves(w.core); m; m = m->hh.next)
		if (m != first)
			says(&w, m->number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
	assert_int_equal(first->rate, 500);
	core_out_reset(&w.out);
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
	says(&w, number, "a", CORE_MOVE_SOURCE, CORE_MOVE_IS_FROZEN, false);
	says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, false);
	assert_int_equal(first->phase, CORE_MOVE_START);
	m = core_moves(w.core) == first ? first->hh.next : core_moves(w.core);
	assert_int_equal(m->rate, 1000);
	assert_true(told(&w, CORE_TELL_MOVE, "a"));
	world_close(&w);
}

/* What an earlier drain of the host has left under way is none of the new one's. */
static void test_begun_again(void **state)
{
	const struct core_host *a;
	const struct core_move *m;
	uint64_t number;
	size_t count;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	(void)placed_lab(&w, &lab, 6);
	host_up(&w, "b", 1ull << 30);
	a = core_host(w.core, "a");
	drain(&w, "a", 2);
	m = active_out_of(&w, "a", &count);
	number = m->number;
	up_to_start(&w, number, "a", "b");
	unit_ok(core_drain_cancel(w.core, "a", w.now, &w.out, &w.err), &w.err);
	drain(&w, "a", 2);
	assert_int_equal(a->drain->moving, 2);
	/* It comes to its end: no third one is begun for it. */
	observe(&w, core_move(w.core, number)->guest, CORE_RUNNING, true);
	assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_DROP);
	assert_int_equal(a->drain->moving, 2);
	(void)active_out_of(&w, "a", &count);
	assert_int_equal(count, 2);
	world_close(&w);
}

static void test_refused(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	host_up(&w, "a", 1ull << 30);
	assert_int_equal(core_drain(w.core, "none", 0, 0, 0, w.now, &w.out, &w.err), -ENOENT);
	w.err = (struct err)ERR_INIT;
	assert_int_equal(core_drain(w.core, "a", 65, 0, 0, w.now, &w.out, &w.err), -EINVAL);
	assert_false(core_host(w.core, "a")->cordoned);
	w.err = (struct err)ERR_INIT;
	/* An empty host is empty at once. */
	drain(&w, "a", 0);
	assert_true(core_host(w.core, "a")->drain->ended_at != 0);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_stuck),
		cmocka_unit_test(test_failed),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_into),
		cmocka_unit_test(test_rules_see_what_comes),
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_begun_again),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
