/* corekit: a core with hosts and labs, for its tests. */
#ifndef UMLAUT_TESTS_UNIT_SCHEDULER_CORE_COREKIT_H
#define UMLAUT_TESTS_UNIT_SCHEDULER_CORE_COREKIT_H

#include "tests/unit/unit.h"

#include <errno.h>

#include "scheduler/core/core.h"

struct world {
	struct core *core;
	struct core_out out;
	struct err err;
	uint64_t now;
};

static inline void world_open(struct world *w)
{
	const struct core_config config = {.lease_ms = 5000};

	memset(w, 0, sizeof(*w));
	w->now = 1000000;
	unit_ok(core_new(&config, &w->core, &w->err), &w->err);
}

static inline void world_close(struct world *w)
{
	core_free(w->core);
	core_out_free(&w->out);
}

static inline void check(struct world *w)
{
	assert_false(w->out.failed);
	unit_ok(core_check(w->core, &w->err), &w->err);
}

static inline void host_up(struct world *w, const char *name, uint64_t memory)
{
	struct core_hostfacts facts = {
		.memory = memory, .disk = 1ull << 40, .cpu = 4000, .underlay_mtu = 1500};

	(void)str_copy(facts.name, sizeof(facts.name), name);
	unit_ok(net_addr_parse("10.0.0.1", &facts.vtep, &w->err), &w->err);
	unit_ok(core_host_hello(w->core, &facts, NULL, 0, w->now, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

struct lab {
	struct core_apply apply;
	struct core_netspec networks[2];
	struct core_groupspec groups[3];
};

static inline void lab_init(struct lab *lab, const char *name, uint32_t count)
{
	memset(lab, 0, sizeof(*lab));
	(void)str_copy(lab->apply.name, sizeof(lab->apply.name), name);
	lab->apply.networks = lab->networks;
	lab->apply.groups = lab->groups;
	lab->apply.network_count = 1;
	lab->apply.group_count = 1;
	(void)str_copy(lab->networks[0].name, CORE_NAME, "lan");
	(void)net_prefix_parse("10.1.0.0/24", &lab->networks[0].prefix4, NULL);
	(void)net_prefix_parse("fd00::/64", &lab->networks[0].prefix6, NULL);
	lab->groups[0].count_set = true;
	lab->groups[0].count = count;
	lab->groups[0].memory = 64ull << 20;
	lab->groups[0].cpu = 100;
	lab->groups[0].boot_hash = 1;
	lab->groups[0].disk_hash = 1;
	lab->groups[0].nic_count = 1;
	(void)str_copy(lab->groups[0].name, CORE_NAME, "web");
	(void)str_copy(lab->groups[0].nics[0].network, CORE_NAME, "lan");
}

static inline int apply(struct world *w, struct lab *lab, bool dry, struct core_plan *plan)
{
	struct core_plan own = {0};
	int rc =
		core_apply(w->core, &lab->apply, dry, w->now, plan ? plan : &own, &w->out, &w->err);

	core_plan_free(&own);
	check(w);
	return rc;
}

static inline void observe(
	struct world *w, const struct core_guest *g, enum core_phase phase, bool ready)
{
	struct core_observed seen = {.uid = g->uid,
		.epoch = g->epoch,
		.generation = g->generation,
		.disk_generation = g->disk_generation,
		.phase = phase,
		.ready = ready,
		.reason = "ok"};

	unit_ok(core_observe(w->core, g->host->name, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static inline size_t actions(const struct world *w, enum core_action_kind kind)
{
	size_t n = 0;

	for (size_t i = 0; i < w->out.action_count; i++)
		n += w->out.actions[i].kind == kind;
	return n;
}

static inline uint64_t next_random(uint64_t *seed)
{
	/* xorshift64* (Vigna 2016) */
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 2685821657736338717ull;
}

#endif
