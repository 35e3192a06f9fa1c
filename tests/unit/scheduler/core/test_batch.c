/* Guests of different sizes that are packed together: on hosts of a real core, with all
 * that may come between a plan and its hosts. */
#include "tests/unit/scheduler/core/corekit.h"

#include <stdlib.h>

#define GROUPS 90u

struct many {
	struct core_apply apply;
	struct core_groupspec groups[GROUPS];
};

static void add(struct many *m, uint64_t mib)
{
	struct core_groupspec *g = &m->groups[m->apply.group_count];

	(void)snprintf(g->name, sizeof(g->name), "g%zu", m->apply.group_count);
	m->apply.group_count++;
	g->memory = mib << 20;
	g->boot_hash = g->disk_hash = 1;
	g->strategy = CORE_PACK;
}

static struct many *many_new(const char *name)
{
	struct many *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	(void)str_copy(m->apply.name, sizeof(m->apply.name), name);
	m->apply.groups = m->groups;
	return m;
}

/* Three go into 1000 MiB, nothing is left (Falkenauer 1996). */
static struct many *triplets(const char *name, size_t bins, uint64_t seed)
{
	struct many *m = many_new(name);

	for (size_t i = 0; i < bins; i++) {
		uint64_t a = 380 + next_random(&seed) % 111, rest = 1000 - a;
		uint64_t b = 250 + next_random(&seed) % (rest / 2 - 250);

		add(m, a);
		add(m, b);
		add(m, rest - b);
	}
	return m;
}

static void host_of(struct world *w, uint32_t n, uint64_t mib, uint32_t cpu, const char *zone)
{
	struct core_label label;
	struct core_hostfacts facts = {.memory = mib << 20,
		.disk = 1ull << 40,
		.cpu = cpu,
		.underlay_mtu = 1500,
		.labels = {.items = &label, .count = 1}};

	memset(&label, 0, sizeof(label));
	(void)str_copy(label.key, CORE_NAME, "zone");
	(void)str_copy(label.value, CORE_NAME, zone);
	(void)snprintf(facts.name, sizeof(facts.name), "h%u", n);
	unit_ok(net_addr_parse("10.0.0.1", &facts.vtep, &w->err), &w->err);
	unit_ok(core_host_hello(w->core, &facts, NULL, 0, w->now, w->now, &w->out, &w->err),
		&w->err);
}

static void hosts(struct world *w, uint32_t count, uint64_t mib, uint32_t cpu)
{
	world_open(w);
	for (uint32_t n = 0; n < count; n++)
		host_of(w, n, mib, cpu, n % 2 ? "b" : "a");
	check(w);
}

static void put_on(struct world *w, struct many *m)
{
	struct core_plan plan = {0};

	unit_ok(core_apply(w->core, &m->apply, false, w->now, &plan, &w->out, &w->err), &w->err);
	core_plan_free(&plan);
	check(w);
}

static uint32_t used(const struct world *w)
{
	uint32_t n = 0;

	for (const struct core_host *h = core_hosts(w->core); h; h = h->hh.next)
		n += h->guest_count > 0;
	return n;
}

static uint32_t placed(const struct world *w)
{
	uint32_t n = 0;

	for (const struct core_host *h = core_hosts(w->core); h; h = h->hh.next)
		n += h->guest_count;
	return n;
}

static const struct core_guest *guest(const struct world *w, const char *lab, size_t group)
{
	char name[CORE_FULLNAME];
	const struct core_guest *g;

	(void)snprintf(name, sizeof(name), "%s/g%zu", lab, group);
	g = core_guest_named(w->core, name);
	assert_non_null(g);
	return g;
}

static void test_few_hosts(void **state)
{
	struct many *m = triplets("lab", 20, 1);
	struct world w;

	(void)state;
	hosts(&w, 60, 1000, 64000);
	put_on(&w, m);
	assert_int_equal(placed(&w), 60);
	assert_int_equal(used(&w), 20);
	assert_non_null(strstr(guest(&w, "lab", 0)->placed_because, "planned together"));
	world_close(&w);
	free(m);
}

/* No more hosts than are needed: only the plan has room for all; a gang gets it too, and
 * the dry run knows. */
static void test_exact_and_gang(void **state)
{
	for (int gang = 0; gang < 2; gang++) {
		struct many *m = triplets("lab", 20, 2);
		struct core_plan plan = {0};
		struct world w;

		m->apply.gang = gang;
		hosts(&w, 20, 1000, 64000);
		unit_ok(core_apply(w.core, &m->apply, true, w.now, &plan, &w.out, &w.err), &w.err);
		assert_string_equal(plan.warning, "");
		core_plan_free(&plan);
		check(&w);
		assert_int_equal(placed(&w), 0);
		put_on(&w, m);
		assert_int_equal(placed(&w), 60);
		world_close(&w);
		/* One host fewer: some wait, or all of the gang. */
		hosts(&w, 19, 1000, 64000);
		memset(&plan, 0, sizeof(plan));
		unit_ok(core_apply(w.core, &m->apply, true, w.now, &plan, &w.out, &w.err), &w.err);
		assert_string_not_equal(plan.warning, "");
		core_plan_free(&plan);
		put_on(&w, m);
		assert_true(gang ? placed(&w) == 0 : placed(&w) > 40 && placed(&w) < 60);
		world_close(&w);
		free(m);
	}
	(void)state;
}

/* A host that has no CPU left for what was planned: the guests go elsewhere. */
static void test_other_room(void **state)
{
	for (uint32_t cpu = 1; cpu <= 4; cpu++) {
		struct many *m = triplets("lab", 20, 3);
		struct world w;

		for (size_t i = 0; i < m->apply.group_count; i++)
			m->groups[i].cpu = i % 7 == 0 ? 200 : 100;
		hosts(&w, 60, 1000, cpu * 100 + 50);
		put_on(&w, m);
		assert_int_equal(placed(&w), 60);
		world_close(&w);
		free(m);
	}
	(void)state;
}

/* Those with other rules are planned for themselves, or not at all. */
static void test_rules(void **state)
{
	struct many *m = triplets("lab", 20, 4);
	struct core_rules zone, apart;
	char value[1][CORE_NAME];
	struct world w;

	(void)state;
	memset(&zone, 0, sizeof(zone));
	memset(&apart, 0, sizeof(apart));
	memset(value, 0, sizeof(value));
	(void)str_copy(value[0], CORE_NAME, "b");
	(void)str_copy(zone.exprs[0].key, CORE_NAME, "zone");
	zone.exprs[0].op = CORE_IN;
	zone.exprs[0].values = value;
	zone.exprs[0].value_count = 1;
	zone.expr_count = 1;
	apart.exclusive = true;
	for (size_t i = 0; i < 30; i++)
		m->groups[i].rules = &zone;
	m->groups[31].rules = &apart;
	(void)str_copy(m->groups[32].host, CORE_NAME, "h6");
	m->groups[33].strategy = CORE_SPREAD;
	m->groups[34].max_per_host = 1;
	hosts(&w, 60, 1000, 64000);
	put_on(&w, m);
	assert_int_equal(placed(&w), 60);
	for (size_t i = 0; i < 30; i++)
		assert_string_equal(guest(&w, "lab", i)->host->labels.items[0].value, "b");
	assert_int_equal(guest(&w, "lab", 31)->host->guest_count, 1);
	assert_string_equal(guest(&w, "lab", 32)->host->name, "h6");
	assert_true(used(&w) <= 24);
	world_close(&w);
	free(m);
}

/* Where there is not room for all, higher priorities come first, planned or not. */
static void test_priorities(void **state)
{
	struct many *m = triplets("lab", 20, 5);
	struct world w;

	(void)state;
	for (size_t i = 0; i < 30; i++)
		m->groups[i].priority = i < 15 ? 10 : 5;
	for (size_t i = 15; i < 30; i++)
		m->groups[i].strategy = CORE_SPREAD;
	hosts(&w, 10, 1000, 64000);
	put_on(&w, m);
	for (size_t i = 0; i < 15; i++)
		assert_non_null(guest(&w, "lab", i)->host);
	assert_true(placed(&w) >= 20);
	world_close(&w);
	/* One more host than the best: all of the higher ones, on as few as can be. */
	hosts(&w, 60, 1000, 64000);
	put_on(&w, m);
	assert_int_equal(placed(&w), 60);
	world_close(&w);
	free(m);
}

/* What is in use already is filled before another host is opened. */
static void test_used_hosts(void **state)
{
	struct many *first = many_new("first"), *m = triplets("lab", 20, 6);
	struct world w;

	(void)state;
	hosts(&w, 40, 1500, 64000);
	for (int i = 0; i < 10; i++) {
		char name[16];

		add(first, 500);
		(void)snprintf(name, sizeof(name), "h%d", 2 * i + 1);
		(void)str_copy(first->groups[i].host, CORE_NAME, name);
	}
	put_on(&w, first);
	assert_int_equal(used(&w), 10);
	/* 20,000 MiB: ten of them in what is left there, the others in seven of 1,500. */
	put_on(&w, m);
	assert_int_equal(placed(&w), 70);
	assert_true(used(&w) <= 18);
	world_close(&w);
	free(first);
	free(m);
}

/* Hosts and labs that come and go at random; every plan leaves the core in order. */
static void test_random(void **state)
{
	uint64_t seed = 77;

	(void)state;
	for (int round = 0; round < 15; round++) {
		struct world w;

		world_open(&w);
		for (uint32_t n = (uint32_t)(1 + next_random(&seed) % 30); n--;)
			host_of(&w, n, 300 + next_random(&seed) % 1000,
				(uint32_t)(200 + next_random(&seed) % 2000), n % 2 ? "b" : "a");
		for (int lab = 0; lab < 6; lab++) {
			char name[16];
			struct many *m;

			(void)snprintf(name, sizeof(name), "lab%d", lab);
			m = many_new(name);
			m->apply.gang = next_random(&seed) % 4 == 0;
			for (uint64_t n = 1 + next_random(&seed) % 40; n--;) {
				struct core_groupspec *g = &m->groups[m->apply.group_count];

				add(m, 10 + next_random(&seed) % 400);
				g->cpu = (uint32_t)(next_random(&seed) % 150);
				g->count_set = true;
				g->count = (uint32_t)(1 + next_random(&seed) % 3);
			}
			put_on(&w, m);
			/* Room becomes free, and others have waited for it. */
			if (next_random(&seed) % 3 == 0) {
				struct core_plan plan = {0};

				unit_ok(core_delete(
						w.core, name, false, w.now, &plan, &w.out, &w.err),
					&w.err);
				core_plan_free(&plan);
				check(&w);
			}
			w.now += 1000;
			free(m);
		}
		world_close(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_few_hosts),
		cmocka_unit_test(test_exact_and_gang),
		cmocka_unit_test(test_other_room),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_priorities),
		cmocka_unit_test(test_used_hosts),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
