/* What the simulator found in the core, each as a short story. */
#include "tests/unit/scheduler/core/corekit.h"

/* The lab with "router" at 10.1.0.1, and without it. */
static void router(struct lab *lab, bool there)
{
	lab->groups[1] = lab->groups[0];
	lab->groups[1].count_set = false;
	(void)str_copy(lab->groups[1].name, CORE_NAME, "router");
	(void)net_addr_parse("10.1.0.1", &lab->groups[1].nics[0].ip4, NULL);
	lab->apply.group_count = there ? 2 : 1;
}

/* A guest with a fixed address is removed and comes back before its host has let go of
 * the old one: refused as a whole, where half of it used to be carried out. */
static void test_address_of_one_that_leaves(void **state)
{
	struct world w;
	struct lab lab;
	const struct core_guest *old;
	struct core_observed gone = {.gone = true};

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 1ull << 30);
	lab_init(&lab, "lab", 1);
	router(&lab, true);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	old = core_guest_named(w.core, "lab/router");
	observe(&w, old, CORE_RUNNING, true);
	gone.uid = old->uid;
	gone.epoch = old->epoch;
	router(&lab, false);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	router(&lab, true);
	assert_int_equal(apply(&w, &lab, false, NULL), -EADDRINUSE);
	assert_non_null(strstr(err_msg(&w.err), "being removed"));
	assert_null(core_guest_named(w.core, "lab/router"));
	unit_ok(core_observe(w.core, "h1", &gone, 1, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_non_null(core_guest_named(w.core, "lab/router")->host);
	world_close(&w);
}

/* What runs with the old, larger spec keeps its memory until it has ended. */
static void test_room_until_the_end(void **state)
{
	struct core_observed old = {.phase = CORE_RUNNING, .reason = ""};
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 256ull << 20);
	lab_init(&lab, "lab", 1);
	lab.groups[0].memory = 256ull << 20;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	g = core_guest_named(w.core, "lab/web-1");
	observe(&w, g, CORE_RUNNING, true);
	old.uid = g->uid;
	old.epoch = g->epoch;
	old.generation = g->generation;
	lab.groups[0].memory = 64ull << 20;
	lab.groups[0].boot_hash = 2;
	lab.groups[0].count = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_equal(core_host(w.core, "h1")->memory_reserved, 256ull << 20);
	assert_null(core_guest_named(w.core, "lab/web-2")->host);
	/* It still runs: nothing changes. */
	unit_ok(core_observe(w.core, "h1", &old, 1, w.now, &w.out, &w.err), &w.err);
	assert_null(core_guest_named(w.core, "lab/web-2")->host);
	observe(&w, g, CORE_STARTING, false);
	assert_int_equal(core_host(w.core, "h1")->memory_reserved, 128ull << 20);
	assert_non_null(core_guest_named(w.core, "lab/web-2")->host);
	world_close(&w);
}

/* Two groups that each would still fit, and both do not. */
static void test_groups_grow_together(void **state)
{
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	host_up(&w, "h1", 256ull << 20);
	lab_init(&lab, "lab", 1);
	lab.groups[1] = lab.groups[0];
	(void)str_copy(lab.groups[1].name, CORE_NAME, "db");
	lab.apply.group_count = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	for (int i = 0; i < 2; i++) {
		lab.groups[i].memory = 160ull << 20;
		lab.groups[i].boot_hash = 2;
	}
	assert_int_equal(apply(&w, &lab, false, NULL), -ERANGE);
	assert_int_equal(core_host(w.core, "h1")->memory_reserved, 128ull << 20);
	lab.groups[1].memory = 64ull << 20;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	world_close(&w);
}

static void load_guest(struct world *w, const char *group, uint64_t uid, uint32_t vni)
{
	struct core_load_guest *g = calloc(1, sizeof(*g));

	assert_non_null(g);
	g->uid = uid;
	g->number = 1;
	g->epoch = uid;
	g->deleting = !*group;
	g->want_run = *group != 0;
	g->memory = 64ull << 20;
	g->nic_count = 1;
	(void)str_copy(g->deployment, sizeof(g->deployment), "lab");
	(void)str_copy(g->group, sizeof(g->group), group);
	(void)str_copy(g->name, sizeof(g->name), "lab/web-1");
	(void)str_copy(g->host, sizeof(g->host), "h1");
	(void)str_copy(g->nics[0].network, CORE_NAME, "lan");
	g->nics[0].vni = vni;
	(void)net_addr_parse("10.1.0.5", &g->nics[0].ip4, NULL);
	unit_ok(core_load_guest(w->core, g, &w->err), &w->err);
	free(g);
}

/* A lab dropped its network and has a new one of that name; the old one lives on in a
 * guest on its way out, with the same address.  The records of both can be loaded, and
 * the old VNI is given to nobody. */
static void test_network_again(void **state)
{
	const struct core_meta meta = {.next_uid = 10, .next_epoch = 10};
	const struct core_load_network lan = {.name = "lan", .vni = 6, .mtu = 1450};
	struct core_hostfacts facts = {.memory = 1ull << 30, .disk = 1ull << 40, .cpu = 4000};
	struct world w;
	struct lab lab;

	(void)state;
	world_open(&w);
	lab_init(&lab, "lab", 1);
	core_load_meta(w.core, &meta);
	(void)str_copy(facts.name, sizeof(facts.name), "h1");
	(void)net_addr_parse("10.0.0.1", &facts.vtep, NULL);
	unit_ok(core_load_host(w.core, &facts, false, 1, &w.err), &w.err);
	unit_ok(core_load_deployment(w.core, &lab.apply, false, 3, 1, 1, &lan, 1, &w.err), &w.err);
	load_guest(&w, "web", 2, 6);
	load_guest(&w, "", 1, 7);
	unit_ok(core_loaded(w.core, w.now, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_true(core_network(w.core, 7)->leaving);
	lab_init(&lab, "other", 1);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_int_not_equal(core_guest_named(w.core, "other/web-1")->nics[0].network->vni, 7);
	world_close(&w);
}

/* A scheduler that has just started gave an address again that a guest had had a moment
 * before, and others of the network still sent to that one's MAC (found by t_chaos.sh). */
static void test_address_after_restart(void **state)
{
	const struct core_meta meta = {.next_uid = 10, .next_epoch = 10};
	const struct core_load_network lan = {.name = "lan", .vni = 6, .mtu = 1450, .cursor4 = 7};
	struct world w;
	struct lab lab;
	char text[NET_ADDR_TEXT];

	(void)state;
	world_open(&w);
	lab_init(&lab, "lab", 0);
	core_load_meta(w.core, &meta);
	unit_ok(core_load_deployment(w.core, &lab.apply, false, 3, 1, 1, &lan, 1, &w.err), &w.err);
	unit_ok(core_loaded(w.core, w.now, w.now, &w.out, &w.err), &w.err);
	lab_init(&lab, "lab", 1);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_string_equal(
		net_addr_text(text, &core_guest_named(w.core, "lab/web-1")->nics[0].ip4),
		"10.1.0.8");
	assert_int_equal(core_network(w.core, 6)->cursor4, 8);
	/* Nobody had it before; once all of the subnet were given, somebody may have. */
	assert_false(core_guest_named(w.core, "lab/web-1")->nics[0].announce);
	((struct core_network *)(uintptr_t)core_network(w.core, 6))->cursor4 =
		net_prefix_hosts(&core_network(w.core, 6)->spec.prefix4) + 20;
	lab_init(&lab, "lab", 2);
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_string_equal(
		net_addr_text(text, &core_guest_named(w.core, "lab/web-2")->nics[0].ip4),
		"10.1.0.21");
	assert_true(core_guest_named(w.core, "lab/web-2")->nics[0].announce);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_address_of_one_that_leaves),
		cmocka_unit_test(test_room_until_the_end),
		cmocka_unit_test(test_groups_grow_together),
		cmocka_unit_test(test_network_again),
		cmocka_unit_test(test_address_after_restart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
