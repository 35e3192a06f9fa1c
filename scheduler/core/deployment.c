#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

struct core_network *deployment_network(const struct core_deployment *deployment, const char *name)
{
	struct core_network *network;

	HASH_FIND_STR(deployment->networks_by_name, name, network);
	return network;
}

struct core_group *deployment_group(const struct core_deployment *deployment, const char *name)
{
	struct core_group *group;

	HASH_FIND_STR(deployment->groups_by_name, name, group);
	return group;
}

void core_rules_free(struct core_rules *rules)
{
	if (!rules)
		return;
	for (size_t i = 0; i < rules->expr_count; i++)
		free(rules->exprs[i].values);
	free(rules);
}

static struct core_rules *rules_copy(const struct core_rules *from)
{
	struct core_rules *to = malloc(sizeof(*to));

	if (!to)
		return NULL;
	*to = *from;
	for (size_t i = 0; i < to->expr_count; i++)
		to->exprs[i].values = NULL;
	for (size_t i = 0; i < to->expr_count; i++) {
		struct core_expr *e = &to->exprs[i];

		if (!e->value_count)
			continue;
		e->values = calloc(e->value_count, sizeof(*e->values));
		if (!e->values) {
			core_rules_free(to);
			return NULL;
		}
		memcpy(e->values, from->exprs[i].values, e->value_count * sizeof(*e->values));
	}
	return to;
}

static int use_keys(struct core *core, const struct core_rules *rules, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < rules->expr_count; i++)
		rc = index_use(core, rules->exprs[i].key, err);
	for (size_t i = 0; rc == 0 && i < rules->spread_count; i++)
		rc = index_use(core, rules->spreads[i].over, err);
	for (size_t i = 0; rc == 0 && i < rules->affinity_count; i++)
		if (*rules->affinities[i].over)
			rc = index_use(core, rules->affinities[i].over, err);
	return rc;
}

static bool has_affinity(const struct core_rules *rules, bool apart)
{
	for (size_t i = 0; rules && i < rules->affinity_count; i++)
		if (rules->affinities[i].apart == apart && !rules->affinities[i].preferred)
			return true;
	return false;
}

/* Its rules on the lists of those by which others are judged too, or off them. */
static void list_rules(struct core_group *group, const struct core_rules *rules)
{
	bool apart = has_affinity(rules, true), with = has_affinity(rules, false);

	if (apart && !group->apart)
		DL_APPEND2(group->deployment->aparts, group, apart_prev, apart_next);
	else if (!apart && group->apart)
		DL_DELETE2(group->deployment->aparts, group, apart_prev, apart_next);
	if (with && !group->with)
		DL_APPEND2(group->deployment->withs, group, with_prev, with_next);
	else if (!with && group->with)
		DL_DELETE2(group->deployment->withs, group, with_prev, with_next);
	group->apart = apart;
	group->with = with;
}

int group_set_spec(struct core *core, struct core_group *group, const struct core_groupspec *spec,
	struct err *err)
{
	struct core_rules *rules = NULL;
	int rc = 0;

	if (spec->rules) {
		rules = rules_copy(spec->rules);
		if (!rules)
			return err_set(err, -ENOMEM, "memory is short for guest %s", spec->name);
		rc = use_keys(core, rules, err);
	}
	if (rc < 0) {
		core_rules_free(rules);
		return rc;
	}
	core_rules_free(group->spec.rules);
	group->spec = *spec;
	group->spec.rules = rules;
	list_rules(group, rules);
	return 0;
}

struct core_group *group_new(struct core *core, struct core_deployment *deployment,
	const struct core_groupspec *spec, struct err *err)
{
	struct core_group *group = calloc(1, sizeof(*group));

	if (!group) {
		(void)err_set(err, -ENOMEM, "memory is short for guest %s", spec->name);
		return NULL;
	}
	group->deployment = deployment;
	group->why = text_none;
	if (group_set_spec(core, group, spec, err) < 0) {
		free(group);
		return NULL;
	}
	DL_APPEND(deployment->groups, group);
	HASH_ADD_KEYPTR(hh, deployment->groups_by_name, group->spec.name,
		(unsigned)strlen(group->spec.name), group);
	return group;
}

void group_free(struct core *core, struct core_group *group)
{
	place_wait(core, group);
	text_set(core, &group->why, "");
	list_rules(group, NULL);
	HASH_DELETE(hh, group->deployment->groups_by_name, group);
	DL_DELETE(group->deployment->groups, group);
	counts_free(&group->on_hosts);
	counts_free(&group->on_domains);
	core_rules_free(group->spec.rules);
	free(group);
}

uint32_t network_auto_mtu(struct core *core)
{
	uint32_t least = 0;

	if (core->auto_mtu)
		return core->auto_mtu;
	for (struct core_host *h = core->hosts; h; h = h->hh.next) {
		uint32_t overhead = h->vtep.family == 6 ? 70 : 50;
		uint32_t mtu = h->underlay_mtu > overhead ? h->underlay_mtu - overhead : 0;

		if (mtu && (!least || mtu < least))
			least = mtu;
	}
	/* With no host known yet: what an ordinary Ethernet allows. */
	core->auto_mtu = least ? least : 1450;
	return core->auto_mtu;
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
	HASH_ADD_KEYPTR(hh, deployment->networks_by_name, network->spec.name,
		(unsigned)strlen(network->spec.name), network);
	deployment->network_count++;
	*out = network;
	return 0;
}

void network_forget_name(struct core_network *network)
{
	/* One that leaves has given its name free already. */
	if (!network->leaving)
		HASH_DELETE(hh, network->deployment->networks_by_name, network);
}

void network_leave(struct core_network *network)
{
	network_forget_name(network);
	network->leaving = true;
}

void network_free(struct core *core, struct core_network *network)
{
	counts_free(&network->hosts);
	addrs_free(&network->by4);
	addrs_free(&network->by6);
	network_forget_name(network);
	if (network->bulk)
		LL_DELETE2(core->bulk, network, bulk_next);
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
		group_free(core, group);
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
