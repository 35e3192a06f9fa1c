#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

struct core_network *deployment_network(const struct core_deployment *deployment, const char *name)
{
	struct core_network *network;

	DL_FOREACH (deployment->networks, network)
		if (!network->leaving && strcmp(network->spec.name, name) == 0)
			return network;
	return NULL;
}

struct core_group *deployment_group(const struct core_deployment *deployment, const char *name)
{
	struct core_group *group;

	DL_FOREACH (deployment->groups, group)
		if (strcmp(group->spec.name, name) == 0)
			return group;
	return NULL;
}

uint32_t network_auto_mtu(const struct core *core)
{
	uint32_t least = 0;

	for (struct core_host *h = core->hosts; h; h = h->hh.next) {
		uint32_t overhead = h->vtep.family == 6 ? 70 : 50;
		uint32_t mtu = h->underlay_mtu > overhead ? h->underlay_mtu - overhead : 0;

		if (mtu && (!least || mtu < least))
			least = mtu;
	}
	/* With no host known yet: what an ordinary Ethernet allows. */
	return least ? least : 1450;
}

int network_new(struct core *core, struct core_deployment *deployment,
	const struct core_netspec *spec, uint32_t vni, uint32_t mtu, struct core_network **out,
	struct err *err)
{
	struct core_network *network = calloc(1, sizeof(*network)), *taken;

	if (!network)
		return err_set(err, -ENOMEM, "memory is short for network %s", spec->name);
	network->deployment = deployment;
	network->spec = *spec;
	network->vni = vni;
	network->mtu = mtu;
	(void)str_format(
		network->name, sizeof(network->name), "%s/%s", deployment->name, spec->name);
	HASH_FIND(hh_vni, core->by_vni, &vni, sizeof(vni), taken);
	if (taken || vni < CORE_VNI_MIN || vni > CORE_VNI_MAX) {
		free(network);
		return err_set(err, -EPROTO, "network %s/%s: VNI %u is taken or out of range",
			deployment->name, spec->name, vni);
	}
	HASH_ADD(hh_vni, core->by_vni, vni, sizeof(network->vni), network);
	DL_APPEND(deployment->networks, network);
	deployment->network_count++;
	*out = network;
	return 0;
}

void network_free(struct core *core, struct core_network *network)
{
	struct core_nethost *at, *next;

	HASH_ITER (hh, network->hosts, at, next) {
		HASH_DEL(network->hosts, at);
		free(at);
	}
	HASH_DELETE(hh_vni, core->by_vni, network);
	DL_DELETE(network->deployment->networks, network);
	network->deployment->network_count--;
	free(network);
}

void deployment_free(struct core *core, struct core_deployment *deployment)
{
	struct core_group *group, *next_group;
	struct core_network *network, *next_network;
	struct core_guest *guest, *next_guest;

	DL_FOREACH_SAFE2(deployment->leaving, guest, next_guest, group_next)
	guest_free(core, guest);
	DL_FOREACH_SAFE (deployment->groups, group, next_group) {
		DL_FOREACH_SAFE2(group->guests, guest, next_guest, group_next)
		guest_free(core, guest);
		DL_DELETE(deployment->groups, group);
		free(group);
	}
	DL_FOREACH_SAFE (deployment->networks, network, next_network)
		network_free(core, network);
	HASH_DEL(core->deployments, deployment);
	free(deployment);
}

int core_delete(struct core *core, const char *name, bool dry_run, uint64_t now,
	struct core_plan *plan, struct core_out *out, struct err *err)
{
	const struct core_apply nothing = {.networks = NULL};
	struct core_apply apply = nothing;
	struct core_deployment *deployment;
	struct core_guest *guest, *next;
	struct core_group *group;
	int rc;

	HASH_FIND_STR(core->deployments, name, deployment);
	if (!deployment)
		return err_set(err, -ENOENT, "no deployment '%s'", name);
	/* The plan of a deletion is that of an empty lab. */
	(void)str_copy(apply.name, sizeof(apply.name), name);
	if (!deployment->deleting) {
		struct core_out none = {0};

		rc = core_apply(core, &apply, true, now, plan, &none, err);
		core_out_free(&none);
		if (rc < 0)
			return rc;
	}
	if (dry_run || deployment->deleting)
		return 0;
	deployment->deleting = true;
	deployment->changed_at = now;
	out_dirty(out, CORE_KIND_DEPLOYMENT, deployment->name);
	out_log(out, "deployment", deployment->name, "Deleting", false, "", "%u guests",
		deployment->guest_count);
	if (!deployment->guest_count) {
		out_log(out, "deployment", deployment->name, "Deleted", false, "", "all is gone");
		deployment_free(core, deployment);
		return 0;
	}
	/* The last guest that goes takes the deployment with it: nothing of it may
	 * be touched after the loop. */
	uint32_t left = deployment->guest_count;

	DL_FOREACH (deployment->groups, group) {
		DL_FOREACH_SAFE2(group->guests, guest, next, group_next)
		{
			left -= guest->host == NULL;
			if (!left) {
				guest_delete(core, guest, out);
				return 0;
			}
			guest_delete(core, guest, out);
		}
	}
	place_pending(core, now, out);
	return 0;
}
