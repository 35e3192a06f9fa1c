/* Guests that a required rule ties together, when they move. */
#include "tests/unit/scheduler/core/movecorekit.h"

#include <utlist.h>

#include "scheduler/core/drain.h"

#define GIB (1ull << 30)
#define MIB (1ull << 20)

/* Two groups, web and db, on host a; the rules are set by the caller. */
struct pair {
	struct core_rules rules[2];
};

static void with(struct lab *lab, struct pair *p, size_t which, const char *other, const char *over)
{
	struct core_affinity *a = &p->rules[which].affinities[p->rules[which].affinity_count++];

	(void)str_copy(a->guest, sizeof(a->guest), other);
	(void)str_copy(a->over, sizeof(a->over), over);
	lab->groups[which].rules = &p->rules[which];
}

static void two_groups(struct lab *lab, struct pair *p, uint32_t webs, uint32_t dbs)
{
	memset(p, 0, sizeof(*p));
	lab_init(lab, "lab", webs);
	lab->groups[1] = lab->groups[0];
	(void)str_copy(lab->groups[1].name, CORE_NAME, "db");
	lab->groups[1].count = dbs;
	lab->apply.group_count = dbs ? 2 : 1;
}

static void start(struct world *w, struct lab *lab)
{
	assert_int_equal(apply(w, lab, false, NULL), 0);
	for (const struct core_guest *g = core_guests(w->core); g; g = g->hh.next) {
		assert_non_null(g->host);
		observe(w, g, CORE_RUNNING, true);
	}
}

static void zoned_host(struct world *w, const char *name, const char *zone, uint64_t memory)
{
	struct core_label label = {.key = "zone"};
	struct core_hostfacts facts = {.memory = memory,
		.disk = 1ull << 40,
		.cpu = 4000,
		.underlay_mtu = 1500,
		.labels = {.items = &label, .count = 1}};

	(void)str_copy(label.value, sizeof(label.value), zone);
	(void)str_copy(facts.name, sizeof(facts.name), name);
	unit_ok(net_addr_parse("10.0.0.1", &facts.vtep, &w->err), &w->err);
	unit_ok(core_host_hello(w->core, &facts, NULL, 0, w->now, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

static const struct core_guest *named(const struct world *w, const char *name)
{
	const struct core_guest *g = core_guest_named(w->core, name);

	assert_non_null(g);
	return g;
}

static const char *host_of(const struct world *w, const char *name)
{
	const struct core_guest *g = named(w, name);

	return g->host ? g->host->name : "";
}

/* One step of whatever moves; false: nothing does. */
static bool step_moves(struct world *w)
{
	for (const struct core_move *m = core_moves(w->core); m; m = m->hh.next) {
		const struct core_guest *g = m->guest;
		uint64_t number = m->number, epoch = g ? g->epoch : 0;
		char from[CORE_NAME];

		if (!g || m->phase != CORE_MOVE_COPY)
			continue;
		(void)str_copy(from, sizeof(from), m->source);
		up_to_start(w, number, m->source, m->target);
		observe(w, g, CORE_RUNNING, true);
		observe_under(w, g, from, epoch, CORE_STOPPED, true);
		return true;
	}
	return false;
}

/* All targets are ready, and all moves come to their end. */
static void go_on(struct world *w)
{
	bool any = true;

	while (any) {
		any = false;
		for (const struct core_move *m = core_moves(w->core); m; m = m->hh.next)
			if (m->phase == CORE_MOVE_PREPARE && !m->ready) {
				says(w, m->number, m->target, CORE_MOVE_TARGET, CORE_MOVE_IS_READY,
					false);
				any = true;
			}
		any |= step_moves(w);
	}
}

static void drain(struct world *w, const char *host, uint32_t parallel)
{
	unit_ok(core_drain(w->core, host, parallel, 0, 0, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static void emptied(struct world *w, const char *host, const char *to)
{
	drain(w, host, 2);
	go_on(w);
	assert_int_equal(core_host(w->core, host)->guest_count, 0);
	assert_true(core_host(w->core, host)->drain->ended_at != 0);
	for (const struct core_guest *g = core_guests(w->core); g; g = g->hh.next)
		if (to)
			assert_string_equal(g->host->name, to);
}

/* All of a group are to be on one host. */
static void test_drain_self(void **state)
{
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 5, 0);
	with(&lab, &p, 0, "web", "");
	start(&w, &lab);
	host_up(&w, "b", GIB);
	host_up(&w, "small", 128 * MIB);
	emptied(&w, "a", "b");
	world_close(&w);
}

/* They are held for together, and copied two at a time as asked for. */
static void test_drain_bounds(void **state)
{
	size_t copying = 0, waiting = 0;
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 5, 0);
	with(&lab, &p, 0, "web", "");
	start(&w, &lab);
	host_up(&w, "b", GIB);
	drain(&w, "a", 2);
	assert_true(core_host(w.core, "b")->memory_reserved == 5 * 64 * MIB);
	for (const struct core_move *m = core_moves(w.core); m; m = m->hh.next)
		says(&w, m->number, "b", CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
	for (const struct core_move *m = core_moves(w.core); m; m = m->hh.next) {
		copying += m->phase == CORE_MOVE_COPY;
		waiting += m->phase == CORE_MOVE_PREPARE;
	}
	assert_int_equal(copying, 2);
	assert_int_equal(waiting, 3);
	go_on(&w);
	assert_int_equal(core_host(w.core, "a")->guest_count, 0);
	world_close(&w);
}

static void test_drain_mutual(void **state)
{
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 1, 1);
	with(&lab, &p, 0, "db", "");
	with(&lab, &p, 1, "web", "");
	start(&w, &lab);
	host_up(&w, "b", GIB);
	emptied(&w, "a", "b");
	world_close(&w);
}

/* web is to be with db: both orders of arrival; and db is alone where it would fit. */
static void test_drain_one_sided(void **state)
{
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 1, 1);
	with(&lab, &p, 0, "db", "");
	start(&w, &lab);
	host_up(&w, "small", 100 * MIB);
	drain(&w, "a", 0);
	assert_null(core_moves(w.core));
	assert_int_equal(core_host(w.core, "a")->drain->stuck, 2);
	assert_non_null(strstr(core_host(w.core, "a")->drain->reason, " with lab/"));
	unit_ok(core_drain_cancel(w.core, "a", w.now, &w.out, &w.err), &w.err);
	host_up(&w, "b", GIB);
	emptied(&w, "a", "b");
	world_close(&w);
}

/* Where others of its kind stay, a guest moves alone. */
static void test_alone(void **state)
{
	uint64_t number;
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 1, 2);
	with(&lab, &p, 0, "db", "");
	start(&w, &lab);
	host_up(&w, "b", GIB);
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "b", &number), 0);
	assert_int_equal(HASH_COUNT(core_moves(w.core)), 1);
	assert_true(core_move(w.core, number)->set == 0);
	/* The last one, while the other is on its way, takes who is to be with it along. */
	assert_int_equal(migrate(&w, named(&w, "lab/db-2"), "b", &number), 0);
	assert_int_equal(HASH_COUNT(core_moves(w.core)), 3);
	assert_true(core_move(w.core, number)->set != 0);
	world_close(&w);
}

/* A user moves one: the other goes along, or it is said why not. */
static void test_migrate(void **state)
{
	const struct core_migrate dry = {.to = "b", .dry_run = true};
	struct core_migrate_plan plan = {0};
	uint64_t number;
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 1, 1);
	with(&lab, &p, 0, "db", "");
	start(&w, &lab);
	host_up(&w, "small", 100 * MIB);
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "small", &number), -EHOSTUNREACH);
	assert_non_null(strstr(err_msg(&w.err), "with lab/web-1: not enough memory"));
	w.err = (struct err)ERR_INIT;
	host_up(&w, "b", GIB);
	unit_ok(core_migrate(
			w.core, named(&w, "lab/db-1")->uid, &dry, w.now, &plan, &w.out, &w.err),
		&w.err);
	assert_int_equal(plan.also_count, 1);
	assert_true(plan.also[0].uid == named(&w, "lab/web-1")->uid);
	core_migrate_rehearsed(w.core);
	assert_null(core_moves(w.core));
	core_migrate_plan_free(&plan);
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "b", &number), 0);
	go_on(&w);
	assert_string_equal(host_of(&w, "lab/db-1"), "b");
	assert_string_equal(host_of(&w, "lab/web-1"), "b");
	world_close(&w);
}

/* One that fails, or is cancelled, keeps the other; but not when that is there by now. */
static void test_back(void **state)
{
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	for (int how = 0; how < 3; how++) {
		const struct core_guest *db, *web;
		uint64_t number, other;

		world_open(&w);
		host_up(&w, "a", GIB);
		two_groups(&lab, &p, 1, 1);
		with(&lab, &p, 0, "db", "");
		start(&w, &lab);
		host_up(&w, "b", GIB);
		db = named(&w, "lab/db-1");
		web = named(&w, "lab/web-1");
		assert_int_equal(migrate(&w, db, "b", &number), 0);
		other = web->move->number;
		if (how == 0)
			says(&w, number, "b", CORE_MOVE_TARGET, CORE_MOVE_HAS_FAILED, false);
		else if (how == 1)
			unit_ok(core_move_cancel(w.core, web->uid, w.now, &w.out, &w.err), &w.err);
		else
			up_to_start(&w, number, "a", "b");
		check(&w);
		if (how == 2) {
			assert_int_equal(
				core_move_cancel(w.core, web->uid, w.now, &w.out, &w.err), -EBUSY);
			w.err = (struct err)ERR_INIT;
			says(&w, other, "b", CORE_MOVE_TARGET, CORE_MOVE_HAS_FAILED, false);
			assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_START);
		} else {
			assert_int_equal(core_move(w.core, number)->phase, CORE_MOVE_BACK);
			assert_null(db->move);
		}
		assert_int_equal(core_move(w.core, other)->phase, CORE_MOVE_BACK);
		assert_null(web->move);
		world_close(&w);
	}
}

/* Over a label: within the zone alone, out of it together; and not when somebody on another
 * host of the zone would be left behind. */
static void test_zone(void **state)
{
	uint64_t number;
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	zoned_host(&w, "a", "x", GIB);
	two_groups(&lab, &p, 1, 1);
	with(&lab, &p, 0, "db", "zone");
	start(&w, &lab);
	zoned_host(&w, "a2", "x", 100 * MIB);
	zoned_host(&w, "b", "y", GIB);
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "a2", &number), 0);
	assert_true(core_move(w.core, number)->set == 0);
	go_on(&w);
	assert_string_equal(host_of(&w, "lab/db-1"), "a2");
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "b", &number), -EHOSTUNREACH);
	assert_non_null(strstr(err_msg(&w.err), "lab/web-1 is to be with it"));
	w.err = (struct err)ERR_INIT;
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "a", &number), 0);
	go_on(&w);
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "b", &number), 0);
	assert_true(core_move(w.core, number)->set != 0);
	go_on(&w);
	assert_string_equal(host_of(&w, "lab/web-1"), "b");
	world_close(&w);
}

/* Nobody is placed beside one that is about to leave. */
static void test_new_ones(void **state)
{
	uint64_t number;
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 0, 1);
	with(&lab, &p, 0, "db", "");
	start(&w, &lab);
	host_up(&w, "b", GIB);
	assert_int_equal(migrate(&w, named(&w, "lab/db-1"), "b", &number), 0);
	lab.groups[0].count = 1;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_null(named(&w, "lab/web-1")->host);
	go_on(&w);
	assert_string_equal(host_of(&w, "lab/web-1"), "b");
	world_close(&w);
}

struct seen {
	size_t go, stay;
};

static void count_looked(void *arg, const struct core_guest *guest, const struct core_host *to,
	const struct err *why)
{
	struct seen *s = arg;

	(void)guest;
	s->go += to != NULL;
	s->stay += why != NULL;
}

/* What would become of a host is looked at one guest after the other. */
static void test_look(void **state)
{
	struct seen seen = {0};
	struct world w;
	struct lab lab;
	struct pair p;

	(void)state;
	world_open(&w);
	host_up(&w, "a", GIB);
	two_groups(&lab, &p, 6, 0);
	start(&w, &lab);
	host_up(&w, "b", 200 * MIB); /* for three */
	unit_ok(core_drain_look(w.core, "a", count_looked, &seen, &w.err), &w.err);
	check(&w);
	assert_int_equal(seen.go, 3);
	assert_int_equal(seen.stay, 3);
	assert_int_equal(core_host(w.core, "b")->memory_reserved, 0);
	assert_int_equal(core_drain_look(w.core, "none", count_looked, &seen, &w.err), -ENOENT);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_drain_self),
		cmocka_unit_test(test_drain_bounds),
		cmocka_unit_test(test_drain_mutual),
		cmocka_unit_test(test_drain_one_sided),
		cmocka_unit_test(test_alone),
		cmocka_unit_test(test_migrate),
		cmocka_unit_test(test_back),
		cmocka_unit_test(test_zone),
		cmocka_unit_test(test_new_ones),
		cmocka_unit_test(test_look),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
