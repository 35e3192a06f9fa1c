#include "scheduler/core/core.h"

#include <errno.h>
#include <stdlib.h>

#include "scheduler/core/core_int.h"

#define LEASE_DEFAULT_MS 5000u
#define CPU_OVERCOMMIT_DEFAULT 8000u

int core_new(const struct core_config *config, struct core **out, struct err *err)
{
	struct core *core = calloc(1, sizeof(*core));

	if (!core)
		return err_set(err, -ENOMEM, "memory is short");
	core->config = *config;
	if (!core->config.lease_ms)
		core->config.lease_ms = LEASE_DEFAULT_MS;
	if (!core->config.margin_ms)
		core->config.margin_ms = core->config.lease_ms / 10;
	if (!core->config.overcommit.memory)
		core->config.overcommit.memory = 1000;
	if (!core->config.overcommit.disk)
		core->config.overcommit.disk = 1000;
	if (!core->config.overcommit.cpu)
		core->config.overcommit.cpu = CPU_OVERCOMMIT_DEFAULT;
	*out = core;
	return 0;
}

void core_free(struct core *core)
{
	struct core_deployment *deployment, *next_deployment;
	struct core_host *host, *next_host;

	if (!core)
		return;
	move_free_all(core);
	orphan_free_all(core);
	HASH_ITER (hh, core->deployments, deployment, next_deployment)
		deployment_free(core, deployment);
	HASH_ITER (hh, core->hosts, host, next_host)
		host_free(core, host);
	index_free_all(core);
	text_free_all(core);
	counts_free(&core->priorities);
	free(core->by_order);
	free(core);
}

const struct core_host *core_host(const struct core *core, const char *name)
{
	return host_get(core, name);
}

const struct core_host *core_hosts(const struct core *core)
{
	return core->hosts;
}

const struct core_deployment *core_deployment(const struct core *core, const char *name)
{
	struct core_deployment *deployment;

	HASH_FIND_STR(core->deployments, name, deployment);
	return deployment;
}

const struct core_deployment *core_deployments(const struct core *core)
{
	return core->deployments;
}

const struct core_guest *core_guest(const struct core *core, uint64_t uid)
{
	struct core_guest *guest;

	HASH_FIND(hh, core->guests, &uid, sizeof(uid), guest);
	return guest;
}

const struct core_guest *core_guest_named(const struct core *core, const char *name)
{
	struct core_guest *guest;

	HASH_FIND(hh_name, core->by_name, name, (unsigned)strlen(name), guest);
	return guest;
}

const struct core_guest *core_guests(const struct core *core)
{
	return core->guests;
}

size_t core_guest_count(const struct core *core)
{
	return HASH_COUNT(core->guests);
}

const struct core_network *core_network(const struct core *core, uint32_t vni)
{
	struct core_network *network;

	HASH_FIND(hh_vni, core->by_vni, &vni, sizeof(vni), network);
	return network;
}

const struct core_network *core_networks(const struct core *core)
{
	return core->by_vni;
}

const char *core_phase_name(enum core_phase phase)
{
	static const char *const names[] = {"unknown", "pending", "placed", "fetching", "starting",
		"running", "migrating", "stopping", "stopped", "failed", "lost"};
	size_t i = (size_t)phase;

	_Static_assert(sizeof(names) / sizeof(names[0]) == CORE_LOST + 1, "a name for each phase");
	return i <= CORE_LOST ? names[i] : "unknown";
}

const char *core_host_state_name(enum core_host_state state)
{
	switch (state) {
	case CORE_HOST_JOINING:
		return "joining";
	case CORE_HOST_UP:
		return "up";
	case CORE_HOST_SUSPECT:
		return "suspect";
	case CORE_HOST_LOST:
		return "lost";
	}
	return "unknown";
}
