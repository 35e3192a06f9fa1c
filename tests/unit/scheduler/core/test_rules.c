/* What guests ask of hosts: labels, taints, affinity, spread, gangs, priorities; the
 * answer to why; and random histories in which every placement is checked anew. */
#include "tests/unit/scheduler/core/corekit.h"

#include "scheduler/core/orphan.h"

#include <stdlib.h>
#include <utlist.h>

/* A host in a zone, perhaps with a taint. */
static void host_in(struct world *w, const char *name, uint64_t mib, const char *zone,
	const char *taint, bool preferred)
{
	struct core_label labels[2];
	struct core_taint taints[1];
	struct core_hostfacts facts = {.memory = mib << 20,
		.disk = 1ull << 40,
		.cpu = 4000,
		.underlay_mtu = 1500,
		.labels = {.items = labels, .count = 1},
		.taints = {.items = taints, .count = taint != NULL}};

	memset(labels, 0, sizeof(labels));
	memset(taints, 0, sizeof(taints));
	(void)str_copy(labels[0].key, CORE_NAME, "zone");
	(void)str_copy(labels[0].value, CORE_NAME, zone);
	if (taint) {
		(void)str_copy(taints[0].key, CORE_NAME, taint);
		(void)str_copy(taints[0].value, CORE_NAME, "yes");
		taints[0].preferred = preferred;
	}
	(void)str_copy(facts.name, sizeof(facts.name), name);
	unit_ok(net_addr_parse("10.0.0.1", &facts.vtep, &w->err), &w->err);
	unit_ok(core_host_hello(w->core, &facts, NULL, 0, w->now, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

/* Six hosts of 640 MiB in three zones. */
static void six_hosts(struct world *w)
{
	static const char *const zones[] = {"a", "a", "b", "b", "c", "c"};
	char name[16];

	world_open(w);
	for (int i = 0; i < 6; i++) {
		(void)snprintf(name, sizeof(name), "h%d", i + 1);
		host_in(w, name, 640, zones[i], NULL, false);
	}
}

static void add_group(struct lab *lab, size_t at, const char *name, uint32_t count)
{
	lab->groups[at] = lab->groups[0];
	lab->groups[at].rules = NULL;
	(void)str_copy(lab->groups[at].name, CORE_NAME, name);
	lab->groups[at].count = count;
	lab->apply.group_count = at + 1;
}

static void expr(
	struct core_rules *r, const char *key, enum core_cmp op, const char *value, bool preferred)
{
	static char values[8][1][CORE_NAME];
	struct core_expr *e = &r->exprs[r->expr_count];

	memset(e, 0, sizeof(*e));
	(void)str_copy(e->key, CORE_NAME, key);
	e->op = op;
	e->preferred = preferred;
	e->values = values[r->expr_count++];
	(void)str_copy(e->values[0], CORE_NAME, value ? value : "");
	e->value_count = value != NULL;
}

static void affinity(
	struct core_rules *r, const char *guest, const char *over, bool apart, bool preferred)
{
	struct core_affinity *a = &r->affinities[r->affinity_count++];

	(void)str_copy(a->guest, CORE_NAME, guest);
	(void)str_copy(a->over, CORE_NAME, over);
	a->apart = apart;
	a->preferred = preferred;
}

static void spread(struct core_rules *r, const char *over, uint32_t skew, bool preferred)
{
	struct core_spread *s = &r->spreads[r->spread_count++];

	(void)str_copy(s->over, CORE_NAME, over);
	s->max_skew = skew;
	s->preferred = preferred;
}

static const char *zone_of(const struct core_host *host)
{
	for (size_t i = 0; host && i < host->labels.count; i++)
		if (strcmp(host->labels.items[i].key, "zone") == 0)
			return host->labels.items[i].value;
	return "";
}

static uint32_t in_zone(const struct world *w, const char *group, const char *zone)
{
	uint32_t n = 0;

	for (const struct core_guest *g = core_guests(w->core); g; g = g->hh.next)
		n += g->group && g->host && strcmp(g->group->spec.name, group) == 0 &&
		     strcmp(zone_of(g->host), zone) == 0;
	return n;
}

static const struct core_guest *guest(const struct world *w, const char *name)
{
	const struct core_guest *g = core_guest_named(w->core, name);

	assert_non_null(g);
	return g;
}

static uint32_t waiting(const struct world *w)
{
	uint32_t n = 0;

	for (const struct core_guest *g = core_guests(w->core); g; g = g->hh.next)
		n += g->pending;
	return n;
}

static void test_labels(void **state)
{
	struct core_rules r = {0};
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 4);
	expr(&r, "zone", CORE_IN, "b", false);
	lab.groups[0].rules = &r;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(in_zone(&w, "web", "b"), 4);
	/* What is preferred yields when there is no other way. */
	add_group(&lab, 1, "soft", 3);
	struct core_rules soft = {0};
	expr(&soft, "zone", CORE_IN, "nowhere", true);
	lab.groups[1].rules = &soft;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 0);
	assert_non_null(strstr(guest(&w, "lab/soft-1")->placed_because, "preferences"));
	/* What is required does not. */
	soft.exprs[0].preferred = false;
	lab.groups[1].count = 4;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 1);
	assert_non_null(strstr(guest(&w, "lab/soft-4")->reason, "labels do not match"));
	world_close(&w);
}

static void test_numbers_and_hosts(void **state)
{
	struct core_rules r = {0};
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_in(&w, "small", 640, "4", NULL, false);
	host_in(&w, "large", 640, "16", NULL, false);
	lab_init(&lab, "lab", 3);
	expr(&r, "zone", CORE_AT_LEAST, NULL, false);
	r.exprs[0].number = 8;
	lab.groups[0].rules = &r;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(in_zone(&w, "web", "16"), 3);
	memset(&r, 0, sizeof(r));
	expr(&r, "host", CORE_IN, "small", false);
	add_group(&lab, 1, "there", 2);
	lab.groups[1].rules = &r;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(in_zone(&w, "there", "4"), 2);
	world_close(&w);
}

static void test_taints(void **state)
{
	struct core_rules r = {.toleration_count = 1};
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_in(&w, "web", 640, "a", "dedicated", false);
	lab_init(&lab, "lab", 1);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 1);
	assert_non_null(strstr(guest(&w, "lab/web-1")->reason, "taint"));
	(void)str_copy(r.tolerations[0].key, CORE_NAME, "dedicated");
	(void)str_copy(r.tolerations[0].value, CORE_NAME, "no");
	add_group(&lab, 1, "t", 1);
	lab.groups[1].rules = &r;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 2);
	(void)str_copy(r.tolerations[0].value, CORE_NAME, "yes");
	add_group(&lab, 1, "u", 1);
	lab.groups[1].rules = &r;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_non_null(guest(&w, "lab/u-1")->host);
	/* A host to be kept off if possible is taken last. */
	host_in(&w, "old", 6400, "a", "old", true);
	host_in(&w, "new", 640, "a", NULL, false);
	lab_init(&lab, "two", 10);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(core_host(w.core, "new")->guest_count, 10);
	world_close(&w);
}

static void test_affinity(void **state)
{
	struct core_rules beside = {0}, apart = {0};
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 1);
	/* The one that follows is written first. */
	add_group(&lab, 1, "db", 2);
	affinity(&beside, "db", "", false, false);
	affinity(&apart, "db", "zone", true, false);
	lab.groups[0].rules = &beside;
	lab.groups[0].count = 4;
	add_group(&lab, 2, "copy", 1);
	lab.groups[2].rules = &apart;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 0);
	for (int i = 1; i <= 4; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "lab/web-%d", i);
		assert_true(guest(&w, name)->host == guest(&w, "lab/db-1")->host ||
			    guest(&w, name)->host == guest(&w, "lab/db-2")->host);
	}
	assert_int_equal(in_zone(&w, "db", zone_of(guest(&w, "lab/copy-1")->host)), 0);
	world_close(&w);
}

static void test_self_affinity(void **state)
{
	struct core_rules same = {0}, each = {0};
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 4);
	affinity(&same, "web", "zone", false, false);
	lab.groups[0].rules = &same;
	add_group(&lab, 1, "db", 7);
	affinity(&each, "db", "", true, false);
	lab.groups[1].rules = &each;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(in_zone(&w, "web", zone_of(guest(&w, "lab/web-1")->host)), 4);
	/* One on each of six hosts, the seventh waits. */
	assert_int_equal(waiting(&w), 1);
	assert_non_null(strstr(guest(&w, "lab/db-7")->reason, "apart"));
	world_close(&w);
}

static void test_spread(void **state)
{
	struct core_rules r = {0};
	struct core_plan plan = {0};
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	/* Zone c has no room: a skew of 1 then stops the others. */
	unit_ok(core_cordon(w.core, "h6", true, w.now, &w.out, &w.err), &w.err);
	lab_init(&lab, "lab", 20);
	lab.groups[0].memory = 160ull << 20;
	spread(&r, "zone", 1, false);
	lab.groups[0].rules = &r;
	assert_int_equal(apply(&w, &lab, true, &plan), 0);
	assert_int_equal(plan.short_count, 1);
	assert_int_equal(plan.shorts[0].missing, 20 - 14);
	core_plan_free(&plan);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(in_zone(&w, "web", "c"), 4);
	assert_int_equal(in_zone(&w, "web", "a"), 5);
	assert_int_equal(in_zone(&w, "web", "b"), 5);
	assert_non_null(strstr(guest(&w, "lab/web-20")->reason, "share of the group"));
	unit_ok(core_cordon(w.core, "h6", false, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_int_equal(waiting(&w), 0);
	/* 20 over three zones. */
	assert_in_range(in_zone(&w, "web", "a"), 6, 7);
	assert_in_range(in_zone(&w, "web", "b"), 6, 7);
	assert_in_range(in_zone(&w, "web", "c"), 6, 7);
	world_close(&w);
}

static void test_exclusive_and_max(void **state)
{
	struct core_rules r = {.exclusive = true};
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 2);
	lab.groups[0].rules = &r;
	add_group(&lab, 1, "few", 10);
	lab.groups[1].max_per_host = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(guest(&w, "lab/web-1")->host->guest_count, 1);
	assert_int_equal(guest(&w, "lab/web-2")->host->guest_count, 1);
	/* Four hosts are left, with two each. */
	assert_int_equal(waiting(&w), 2);
	world_close(&w);
}

static void test_overcommit(void **state)
{
	struct core_hostfacts facts = {.memory = 640ull << 20,
		.disk = 1ull << 40,
		.cpu = 4000,
		.overcommit = {.memory = 1500}};
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	(void)str_copy(facts.name, sizeof(facts.name), "h");
	unit_ok(core_host_hello(w.core, &facts, NULL, 0, 1, 1, &w.out, &w.err), &w.err);
	lab_init(&lab, "lab", 20);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 5);
	world_close(&w);
}

static void test_gang(void **state)
{
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 40);
	add_group(&lab, 1, "db", 21);
	lab.apply.gang = true;
	core_out_reset(&w.out);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(waiting(&w), 61);
	assert_int_equal(actions(&w, CORE_TELL_GUEST), 0);
	assert_non_null(strstr(guest(&w, "lab/web-1")->reason, "gang"));
	host_in(&w, "h7", 640, "a", NULL, false);
	assert_int_equal(waiting(&w), 0);
	world_close(&w);
}

/* The agent says that nothing is left. */
static void gone(struct world *w, const struct core_guest *g)
{
	struct core_observed seen = {.uid = g->uid, .epoch = g->epoch, .gone = true};

	unit_ok(core_observe(w->core, g->host->name, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static void test_preemption(void **state)
{
	const struct core_guest *victim = NULL;
	uint32_t victims = 0;
	struct world w;
	struct lab low, high, mid;

	(void)state;
	world_open(&w);
	host_in(&w, "h1", 640, "a", NULL, false);
	host_in(&w, "h2", 640, "a", NULL, false);
	lab_init(&low, "low", 20);
	assert_int_equal(apply(&w, &low, false, NULL), 0);
	assert_int_equal(waiting(&w), 0);
	/* No higher than they: it waits. */
	lab_init(&mid, "mid", 1);
	assert_int_equal(apply(&w, &mid, false, NULL), 0);
	lab_init(&high, "high", 1);
	high.groups[0].memory = 128ull << 20;
	high.groups[0].priority = 10;
	core_out_reset(&w.out);
	assert_int_equal(apply(&w, &high, false, NULL), 0);
	assert_int_equal(actions(&w, CORE_TELL_REMOVE), 2);
	for (const struct core_guest *g = core_guests(w.core); g; g = g->hh.next)
		victims += g->evicted;
	assert_int_equal(victims, 2);
	/* Their room is theirs until nothing of them is left; then it goes to the high
	 * one and not to those that waited before. */
	for (int i = 0; i < 2; i++) {
		assert_null(guest(&w, "high/web-1")->host);
		for (const struct core_guest *g = core_guests(w.core); g; g = g->hh.next)
			if (g->evicted)
				victim = g;
		gone(&w, victim);
	}
	assert_non_null(guest(&w, "high/web-1")->host);
	assert_null(guest(&w, "mid/web-1")->host);
	assert_int_equal(waiting(&w), 3);
	world_close(&w);
}

/* One that gives way was told to go with its disk: that is not waited for as an old disk
 * when its host is lost before it has heard so. */
static void test_evicted_and_lost(void **state)
{
	struct world w;
	struct lab low, high;
	size_t kept = 0;

	(void)state;
	world_open(&w);
	host_in(&w, "h1", 640, "a", NULL, false);
	lab_init(&low, "low", 10);
	low.groups[0].on_loss = CORE_LOSS_RESTART;
	assert_int_equal(apply(&w, &low, false, NULL), 0);
	lab_init(&high, "high", 1);
	high.groups[0].memory = 128ull << 20;
	high.groups[0].priority = 10;
	assert_int_equal(apply(&w, &high, false, NULL), 0);
	for (int i = 0; i < 20; i++) {
		w.now += 500;
		(void)core_tick(w.core, w.now, w.now, &w.out);
		check(&w);
	}
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_LOST);
	assert_int_equal(core_host(w.core, "h1")->guest_count, 0);
	for (const struct core_orphan *o = core_orphans(w.core); o; o = o->hh.next)
		kept++;
	assert_int_equal(kept, 8);
	world_close(&w);
}

static void test_why(void **state)
{
	struct core_rules r = {0};
	struct core_why why;
	struct world w;
	struct lab lab;
	bool near = false;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 1);
	lab.groups[0].memory = 700ull << 20;
	expr(&r, "zone", CORE_NOT_IN, "c", false);
	lab.groups[0].rules = &r;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	unit_ok(core_why(w.core, guest(&w, "lab/web-1")->uid, &why, &w.err), &w.err);
	assert_null(why.host);
	assert_int_equal(why.count, 2);
	for (size_t i = 0; i < why.count; i++)
		near |= strcmp(why.items[i].what, "not enough memory") == 0 &&
			why.items[i].hosts == 4 &&
			strstr(why.items[i].detail, "needs 700M, 640M free");
	assert_true(near);
	assert_true(why.help_count >= 2);
	assert_non_null(strstr(why.help[0], "60M"));
	lab.groups[0].memory = 64ull << 20;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	unit_ok(core_why(w.core, guest(&w, "lab/web-1")->uid, &why, &w.err), &w.err);
	assert_non_null(why.host);
	assert_non_null(strstr(why.because, "spread"));
	assert_int_equal(core_why(w.core, 4711, &why, &w.err), -ENOENT);
	world_close(&w);
}

/* A host that there is not: said in the plan, and what there is in the answer to why. */
static void test_why_no_host(void **state)
{
	struct core_plan plan = {0};
	struct core_why why;
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 1);
	(void)str_copy(lab.groups[0].host, CORE_NAME, "h9");
	assert_int_equal(apply(&w, &lab, false, &plan), 0);
	assert_non_null(strstr(plan.warning, "there is no host 'h9'"));
	core_plan_free(&plan);
	unit_ok(core_why(w.core, guest(&w, "lab/web-1")->uid, &why, &w.err), &w.err);
	assert_null(why.host);
	assert_int_equal(why.help_count, 2);
	assert_string_equal(
		why.help[0], "there is no host 'h9'; there are h1, h2, h3, h4, h5 and 1 more");
	world_close(&w);
}

/* The first few groups that do not fit are told one by one, of the others how many. */
static void test_many_short(void **state)
{
	struct core_groupspec groups[11];
	struct core_plan plan = {0};
	struct world w;
	struct lab lab;

	(void)state;
	six_hosts(&w);
	lab_init(&lab, "lab", 1);
	for (int i = 0; i < 11; i++) {
		groups[i] = lab.groups[0];
		groups[i].memory = 1ull << 40;
		(void)snprintf(groups[i].name, sizeof(groups[i].name), "g%d", i);
	}
	lab.apply.groups = groups;
	lab.apply.group_count = 11;
	assert_int_equal(apply(&w, &lab, true, &plan), 0);
	assert_int_equal(plan.short_count, 8);
	assert_int_equal(plan.short_more, 3);
	core_plan_free(&plan);
	assert_int_equal(apply(&w, &lab, false, &plan), 0);
	assert_int_equal(plan.short_count + plan.short_more, 11);
	core_plan_free(&plan);
	world_close(&w);
}

/* ---------------------------------------------------------------- random histories */

/* Every required rule, asked of each guest anew, by plain counting. */
static void rules_hold(struct world *w, uint64_t since_epoch)
{
	for (const struct core_guest *g = core_guests(w->core); g; g = g->hh.next) {
		const struct core_rules *r;
		uint32_t here = 0, apart = 0;

		/* Rules hold at the moment of placement, not for ever. */
		if (!g->host || !g->group || g->epoch <= since_epoch)
			continue;
		r = g->group->spec.rules;
		for (const struct core_guest *o = g->host->guests; o; o = o->host_next) {
			here += o->group == g->group;
			apart += o->group && strcmp(o->group->spec.name, "db") == 0 &&
				 o->deployment == g->deployment;
		}
		if (g->group->spec.max_per_host)
			assert_true(here <= g->group->spec.max_per_host);
		for (size_t i = 0; r && i < r->expr_count; i++)
			if (!r->exprs[i].preferred)
				assert_string_equal(zone_of(g->host), r->exprs[i].values[0]);
		if (r && r->affinity_count && r->affinities[0].apart)
			assert_int_equal(apart, 0);
		if (r && r->exclusive)
			assert_int_equal(g->host->guest_count, 1);
		assert_true(g->host->memory_reserved <= g->host->memory);
	}
}

static void random_rules(struct core_rules *r, uint64_t x, uint32_t *max)
{
	static const char *const zones[] = {"a", "b", "c"};

	memset(r, 0, sizeof(*r));
	switch (x % 6) {
	case 0:
		expr(r, "zone", CORE_IN, zones[(x >> 8) % 3], (x >> 12) % 2);
		break;
	case 1:
		affinity(r, "db", "", true, false);
		break;
	case 2:
		spread(r, "zone", 1 + (uint32_t)(x >> 8) % 3, (x >> 12) % 2);
		break;
	case 3:
		r->exclusive = true;
		break;
	case 4:
		*max = 1 + (uint32_t)(x >> 8) % 3;
		break;
	default:
		break;
	}
}

static void random_apply(struct world *w, uint64_t *seed)
{
	static const char *const labs[] = {"a", "b", "c"};
	uint64_t x = next_random(seed), before;
	struct core_plan plan = {0}, again = {0};
	struct core_rules rules;
	struct core_meta meta;
	struct lab lab;
	bool dry = (x >> 40) % 3 == 0;

	lab_init(&lab, labs[x % 3], (uint32_t)(x >> 4) % 9);
	lab.groups[0].priority = (int32_t)((x >> 8) % 3);
	lab.groups[0].memory = (32 + (x >> 12) % 256) << 20;
	lab.groups[0].strategy = (x >> 20) % 2 ? CORE_PACK : CORE_SPREAD;
	random_rules(&rules, next_random(seed), &lab.groups[0].max_per_host);
	lab.groups[0].rules = &rules;
	add_group(&lab, 1, "db", (uint32_t)(x >> 24) % 4);
	lab.apply.gang = (x >> 30) % 4 == 0;
	core_meta(w->core, &meta);
	before = meta.next_epoch;
	if (core_apply(w->core, &lab.apply, dry, w->now, &plan, &w->out, &w->err) == 0 && dry) {
		/* A dry run leaves no trace: the next says the same. */
		check(w);
		assert_int_equal(
			core_apply(w->core, &lab.apply, true, w->now, &again, &w->out, &w->err), 0);
		assert_string_equal(plan.warning, again.warning);
	}
	core_plan_free(&plan);
	core_plan_free(&again);
	check(w);
	rules_hold(w, before);
}

static void random_guest(struct world *w, uint64_t *seed)
{
	uint64_t x = next_random(seed), n = x % (core_guest_count(w->core) + 1);
	const struct core_guest *g = core_guests(w->core);
	struct core_meta meta;

	while (g && n--)
		g = g->hh.next;
	if (!g || !g->host)
		return;
	core_meta(w->core, &meta);
	if (g->deleting || g->evicted || (x >> 32) % 8 == 0)
		gone(w, g);
	else
		observe(w, g, CORE_RUNNING, true);
	rules_hold(w, meta.next_epoch);
}

static void test_random(void **state)
{
	(void)state;
	for (uint64_t s = 1; s <= 150; s++) {
		uint64_t seed = s * 0x9e3779b97f4a7c15ull;
		struct world w;

		six_hosts(&w);
		for (int i = 0; i < 200; i++) {
			uint64_t r = next_random(&seed) % 12;
			char name[16];

			(void)snprintf(
				name, sizeof(name), "h%u", (unsigned)(next_random(&seed) % 6 + 1));
			if (r < 4)
				random_apply(&w, &seed);
			else if (r == 4)
				(void)core_cordon(w.core, name, next_random(&seed) % 2, w.now,
					&w.out, &w.err);
			else if (r == 5)
				(void)core_tick(w.core, w.now, w.now, &w.out);
			else
				random_guest(&w, &seed);
			check(&w);
			core_out_reset(&w.out);
		}
		world_close(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_labels),
		cmocka_unit_test(test_numbers_and_hosts),
		cmocka_unit_test(test_taints),
		cmocka_unit_test(test_affinity),
		cmocka_unit_test(test_self_affinity),
		cmocka_unit_test(test_spread),
		cmocka_unit_test(test_exclusive_and_max),
		cmocka_unit_test(test_overcommit),
		cmocka_unit_test(test_gang),
		cmocka_unit_test(test_preemption),
		cmocka_unit_test(test_evicted_and_lost),
		cmocka_unit_test(test_why),
		cmocka_unit_test(test_why_no_host),
		cmocka_unit_test(test_many_short),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
