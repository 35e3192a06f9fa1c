/* The core: plans, placement, observation, loss, and random histories that keep
 * every invariant. */
#include "tests/unit/scheduler/core/corekit.h"

static void test_apply_and_run(void **state)
{
	struct core_plan plan = {0};
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	host_up(&w, "h2", 1ull << 30);
	lab_init(&lab, "lab", 4);
	core_out_reset(&w.out);
	assert_int_equal(apply(&w, &lab, true, &plan), 0);
	assert_int_equal(plan.count, 5);
	assert_int_equal(core_guest_count(w.core), 0);
	assert_int_equal(w.out.dirty_count, 0);
	core_plan_free(&plan);

	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(core_guest_count(w.core), 4);
	assert_int_equal(core_host(w.core, "h1")->guest_count, 2);
	assert_int_equal(core_host(w.core, "h2")->guest_count, 2);
	assert_int_equal(actions(&w, CORE_TELL_GUEST), 4);
	assert_int_equal(actions(&w, CORE_TELL_NET), 2);
	g = core_guest_named(w.core, "lab/web-3");
	assert_non_null(g);
	assert_int_equal(g->phase, CORE_PLACED);
	assert_int_equal(g->nics[0].ip4.family, 4);
	assert_int_equal(g->nics[0].ip6.family, 6);
	observe(&w, g, CORE_RUNNING, true);
	assert_true(g->ready);
	assert_int_equal(core_deployment(w.core, "lab")->ready_count, 1);

	/* The same again changes nothing. */
	assert_int_equal(apply(&w, &lab, true, &plan), 0);
	assert_int_equal(plan.count, 0);
	assert_int_equal(plan.unchanged, 5);
	core_plan_free(&plan);
	world_close(&w);
}

static void test_changes(void **state)
{
	struct core_plan plan = {0};
	const struct core_guest *g;
	struct net_addr before;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 3);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	g = core_guest_named(w.core, "lab/web-1");
	before = g->nics[0].ip4;

	lab.groups[0].boot_hash = 2;
	lab.groups[0].memory = 128ull << 20;
	assert_int_equal(apply(&w, &lab, false, &plan), 0);
	assert_int_equal(plan.count, 3);
	assert_int_equal(plan.items[0].op, CORE_CHANGE);
	assert_string_equal(plan.items[0].detail, "memory: 64M -> 128M; restarts");
	core_plan_free(&plan);
	assert_int_equal(g->generation, 2);
	assert_int_equal(g->disk_generation, 1);
	assert_true(net_addr_equal(&before, &g->nics[0].ip4));
	assert_int_equal(core_host(w.core, "h1")->memory_reserved, 3 * (128ull << 20));

	lab.groups[0].disk_hash = 2;
	assert_int_equal(apply(&w, &lab, false, &plan), 0);
	assert_int_equal(plan.items[0].op, CORE_REPLACE);
	core_plan_free(&plan);
	assert_int_equal(g->disk_generation, 2);

	/* Another subnet: new addresses, restarted. */
	(void)net_prefix_parse("10.9.0.0/24", &lab.networks[0].prefix4, NULL);
	assert_int_equal(apply(&w, &lab, false, &plan), 0);
	assert_int_equal(plan.items[0].op, CORE_CHANGE);
	core_plan_free(&plan);
	assert_true(net_prefix_contains(&lab.networks[0].prefix4, &g->nics[0].ip4));
	assert_int_equal(g->generation, 4);

	/* Fewer: the highest numbers leave; their memory only when they are gone. */
	lab.groups[0].count = 1;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_null(core_guest_named(w.core, "lab/web-2"));
	assert_int_equal(core_host(w.core, "h1")->guest_count, 3);
	world_close(&w);
}

static void gone(struct world *w, uint64_t uid, uint64_t epoch, const char *host)
{
	struct core_observed seen = {.uid = uid, .epoch = epoch, .gone = true};

	unit_ok(core_observe(w->core, host, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

/* A lab that names no kernel keeps the one that was the default when it was made. */
static void test_default_kernel(void **state)
{
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 1);
	(void)str_copy(lab.groups[0].kernel, CORE_FULLNAME, "debian");
	lab.groups[0].kernel_id[0] = 1;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	(void)str_copy(lab.groups[0].kernel, CORE_FULLNAME, "fast");
	lab.groups[0].kernel_id[0] = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_string_equal(core_guest_named(w.core, "lab/web-1")->group->spec.kernel, "debian");
	assert_int_equal(core_guest_named(w.core, "lab/web-1")->group->spec.kernel_id[0], 1);
	world_close(&w);
}

static void test_delete(void **state)
{
	struct core_plan plan = {0};
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 3);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	core_out_reset(&w.out);
	unit_ok(core_delete(w.core, "lab", false, w.now, &plan, &w.out, &w.err), &w.err);
	core_plan_free(&plan);
	check(&w);
	assert_int_equal(actions(&w, CORE_TELL_REMOVE), 3);
	assert_int_equal(apply(&w, &lab, false, NULL), -EBUSY);
	while (core_guests(w.core)) {
		const struct core_guest *g = core_guests(w.core);

		gone(&w, g->uid, g->epoch, "h1");
	}
	assert_null(core_deployment(w.core, "lab"));
	assert_null(core_networks(w.core));
	assert_int_equal(core_host(w.core, "h1")->memory_reserved, 0);
	assert_int_equal(core_delete(w.core, "lab", false, w.now, &plan, &w.out, &w.err), -ENOENT);
	/* Pending guests go at once. */
	lab.groups[0].memory = 2ull << 30;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(core_guest_count(w.core), 3);
	unit_ok(core_delete(w.core, "lab", false, w.now, &plan, &w.out, &w.err), &w.err);
	core_plan_free(&plan);
	assert_null(core_deployment(w.core, "lab"));
	check(&w);
	world_close(&w);
}

static void test_unplaceable(void **state)
{
	struct core_plan plan = {0};
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 100ull << 20);
	lab_init(&lab, "lab", 3);
	assert_int_equal(apply(&w, &lab, true, &plan), 0);
	assert_non_null(strstr(plan.warning, "2 of 3"));
	core_plan_free(&plan);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	g = core_guest_named(w.core, "lab/web-2");
	assert_int_equal(g->phase, CORE_PENDING);
	assert_non_null(strstr(g->reason, "not enough memory"));
	host_up(&w, "h2", 1ull << 30);
	assert_int_equal(g->phase, CORE_PLACED);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

static void test_fixed_addresses(void **state)
{
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 3);
	lab.groups[1] = lab.groups[0];
	lab.groups[1].count_set = false;
	(void)str_copy(lab.groups[1].name, CORE_NAME, "router");
	(void)net_addr_parse("10.1.0.1", &lab.groups[1].nics[0].ip4, NULL);
	lab.apply.group_count = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_true(net_addr_equal(
		&core_guest_named(w.core, "lab/router")->nics[0].ip4, &lab.groups[1].nics[0].ip4));
	/* An address that another holds is refused, and nothing happens. */
	lab.groups[2] = lab.groups[1];
	(void)str_copy(lab.groups[2].name, CORE_NAME, "late");
	lab.apply.group_count = 3;
	assert_int_equal(apply(&w, &lab, false, NULL), -EADDRINUSE);
	assert_int_equal(core_guest_count(w.core), 4);
	world_close(&w);
}

static void test_loss_and_return(void **state)
{
	struct core_observed seen;
	struct core_hostfacts facts = {.memory = 1ull << 30, .disk = 1ull << 40, .cpu = 4000};
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 1);
	lab.groups[0].on_loss = CORE_LOSS_WAIT;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	g = core_guest_named(w.core, "lab/web-1");
	observe(&w, g, CORE_RUNNING, true);
	w.now += 2600;
	(void)core_tick(w.core, w.now, w.now, &w.out);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_SUSPECT);
	w.now += 3000;
	(void)core_tick(w.core, w.now, w.now, &w.out);
	check(&w);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_LOST);
	assert_int_equal(g->phase, CORE_LOST);
	assert_int_equal(core_heartbeat(w.core, "h1", 0, w.now, w.now, &w.out), -ENOENT);
	seen = (struct core_observed){.uid = g->uid,
		.epoch = g->epoch,
		.phase = CORE_RUNNING,
		.ready = true,
		.generation = g->generation};
	(void)str_copy(facts.name, sizeof(facts.name), "h1");
	core_out_reset(&w.out);
	unit_ok(core_host_hello(w.core, &facts, &seen, 1, w.now, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_int_equal(g->phase, CORE_RUNNING);
	assert_true(g->ready);
	assert_int_equal(actions(&w, CORE_TELL_FULL), 1);
	/* What the cluster does not know, or knows under a newer epoch, must go. */
	seen.epoch = g->epoch - 1;
	core_out_reset(&w.out);
	unit_ok(core_observe(w.core, "h1", &seen, 1, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(actions(&w, CORE_TELL_REMOVE), 1);
	world_close(&w);
}

static void random_step(struct world *w, uint64_t *seed)
{
	static const char *const hosts[] = {"h1", "h2", "h3"}, *const labs[] = {"a", "b"};
	static const char *const prefixes[] = {"10.1.0.0/24", "10.2.0.0/28", "10.3.0.0/27"};
	uint64_t r = next_random(seed) % 10, x = next_random(seed);
	struct core_plan plan = {0};
	const struct core_guest *g;
	struct lab lab;

	w->now += x % 900;
	switch (r) {
	case 0:
		host_up(w, hosts[x % 3], (200 + x % 600) << 20);
		break;
	case 1:
	case 2:
		lab_init(&lab, labs[x % 2], (uint32_t)(x >> 8) % 12);
		lab.groups[0].boot_hash = (x >> 16) % 2;
		lab.groups[0].disk_hash = (x >> 17) % 2;
		lab.groups[0].strategy = (x >> 18) % 2 ? CORE_PACK : CORE_SPREAD;
		lab.groups[0].nic_count = (x >> 19) % 2;
		lab.groups[0].memory = (32 + (x >> 20) % 64) << 20;
		(void)net_prefix_parse(prefixes[(x >> 30) % 3], &lab.networks[0].prefix4, NULL);
		(void)core_apply(
			w->core, &lab.apply, (x >> 40) % 4 == 0, w->now, &plan, &w->out, &w->err);
		core_plan_free(&plan);
		break;
	case 3:
		(void)core_delete(w->core, labs[x % 2], false, w->now, &plan, &w->out, &w->err);
		core_plan_free(&plan);
		break;
	case 4:
		(void)core_tick(w->core, w->now, w->now, &w->out);
		break;
	case 5:
		(void)core_heartbeat(w->core, hosts[x % 3], 0, w->now, w->now, &w->out);
		break;
	case 6:
		(void)core_cordon(w->core, hosts[x % 3], (x >> 8) % 2, w->now, &w->out, &w->err);
		break;
	default:
		/* A random guest is heard of, stopped, or gone. */
		x %= core_guest_count(w->core) + 1;
		g = core_guests(w->core);
		while (g && x--)
			g = g->hh.next;
		if (!g)
			break;
		if (r == 7) {
			(void)core_guest_verb(w->core, g->uid,
				(enum core_verb)(next_random(seed) % 3), w->now, &w->out, &w->err);
		} else if (g->host) {
			struct core_observed seen = {.uid = g->uid,
				.epoch = g->epoch,
				.generation = g->generation,
				.reason = "r",
				.phase = (enum core_phase)(next_random(seed) % 11),
				.ready = next_random(seed) % 2,
				.gone = r == 9};

			(void)core_observe(
				w->core, g->host->name, &seen, 1, w->now, &w->out, &w->err);
		}
		break;
	}
	check(w);
	core_out_reset(&w->out);
}

static void test_random_histories(void **state)
{
	(void)state;
	for (uint64_t s = 1; s <= 200; s++) {
		uint64_t seed = s * 0x9e3779b97f4a7c15ull;
		struct world w;

		world_open(&w);
		for (int i = 0; i < 200; i++)
			random_step(&w, &seed);
		world_close(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_apply_and_run),
		cmocka_unit_test(test_changes),
		cmocka_unit_test(test_default_kernel),
		cmocka_unit_test(test_delete),
		cmocka_unit_test(test_unplaceable),
		cmocka_unit_test(test_fixed_addresses),
		cmocka_unit_test(test_loss_and_return),
		cmocka_unit_test(test_random_histories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
