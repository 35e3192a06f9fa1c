/* Carries out what plan.c found.  Everything that can be refused was refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"
#include "scheduler/core/plan.h"

/* So many changes of one apply are gathered for each network. */
#define BULK 16u

struct change {
	struct core *core;
	struct core_deployment *deployment;
	const struct core_apply *apply;
	uint64_t now;
	struct core_out *out;
	struct err *err;
};

/* Gives a guest NICs anew; it keeps addresses where its networks stay. */
static int renew_nics(struct change *c, struct core_guest *guest, const struct core_groupspec *spec)
{
	struct core_groupspec *want = malloc(sizeof(*want));
	uint32_t old_count = guest->nic_count;
	struct {
		char network[CORE_NAME];
		struct net_addr ip4, ip6;
		bool fixed4, fixed6;
	} old[CORE_NICS_MAX];
	int rc;

	if (!want)
		return err_set(c->err, -ENOMEM, "memory is short");
	*want = *spec;
	for (uint32_t i = 0; i < old_count; i++) {
		const struct core_nic *nic = &guest->nics[i];

		(void)str_copy(old[i].network, sizeof(old[i].network), nic->network->spec.name);
		old[i].ip4 = nic->ip4;
		old[i].ip6 = nic->ip6;
		old[i].fixed4 = nic->fixed4;
		old[i].fixed6 = nic->fixed6;
	}
	if (guest->host)
		netplan_leaving(guest, c->out);
	guest_drop_nics(c->core, guest, c->out);
	for (size_t i = 0; i < want->nic_count; i++) {
		struct core_network *network =
			deployment_network(c->deployment, want->nics[i].network);

		for (uint32_t k = 0; network && k < old_count; k++) {
			if (strcmp(old[k].network, want->nics[i].network) != 0)
				continue;
			/* An address that was chosen for it stays, if it still can. */
			if (!want->nics[i].ip4.family && !old[k].fixed4 &&
				net_prefix_contains(&network->spec.prefix4, &old[k].ip4))
				want->nics[i].ip4 = old[k].ip4;
			if (!want->nics[i].ip6.family && !old[k].fixed6 &&
				net_prefix_contains(&network->spec.prefix6, &old[k].ip6))
				want->nics[i].ip6 = old[k].ip6;
			old[k].network[0] = 0;
			break;
		}
	}
	rc = guest_make_nics(guest, want, c->err);
	for (uint32_t i = 0; rc == 0 && i < guest->nic_count; i++) {
		guest->nics[i].fixed4 = spec->nics[i].ip4.family != 0;
		guest->nics[i].fixed6 = spec->nics[i].ip6.family != 0;
		netplan_member(&guest->nics[i], c->out);
	}
	if (rc == 0 && guest->host)
		netplan_placed(guest, c->out);
	free(want);
	return rc;
}

static void restart(struct change *c, struct core_guest *guest, bool new_disk)
{
	move_changed(c->core, guest, new_disk, c->out);
	guest->generation++;
	if (new_disk)
		guest->disk_generation++;
	guest->final = false;
	guest_set_ready(guest, false);
	out_dirty_guest(c->out, guest);
	out_tell_guest(c->out, guest);
}

static int create_guest(struct change *c, struct core_group *group, uint32_t number)
{
	struct core_guest *guest;
	char name[CORE_FULLNAME];
	int rc;

	guest_name(name, c->apply->name, &group->spec, number);
	guest = guest_new(
		c->core, c->deployment, group, number, name, ++c->core->meta.next_uid, c->err);
	if (!guest)
		return -ENOMEM;
	guest->created_at = c->now;
	rc = guest_make_nics(guest, &group->spec, c->err);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < guest->nic_count; i++)
		netplan_member(&guest->nics[i], c->out);
	guest_pend(c->core, guest);
	out_dirty_guest(c->out, guest);
	return 0;
}

/* Networks that stay but change: their guests get new addresses and restart. */
static int change_network(
	struct change *c, struct core_network *network, const struct core_netspec *spec)
{
	char detail[CORE_REASON];
	struct core_nic *nic, **nics;
	struct core_netspec old = network->spec;
	size_t n = 0;
	int rc = 0;

	if (plan_network(&old, spec, detail) == CORE_UNCHANGED)
		return 0;
	if (plan_only_guard(&old, spec)) {
		network->spec.guarded = spec->guarded;
		netplan_bulk(c->core, network);
		return 0;
	}
	nics = calloc(network->member_count + 1, sizeof(struct core_nic *));
	if (!nics)
		return err_set(c->err, -ENOMEM, "memory is short");
	network->spec = *spec;
	network->mtu = spec->mtu ? spec->mtu : network_auto_mtu(c->core);
	network->cursor4 = network->cursor6 = 0;
	DL_FOREACH (network->members, nic)
		if (!nic->guest->deleting)
			nics[n++] = nic;
	/* Each guest once, even with two NICs here. */
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct core_guest *guest = nics[i] ? nics[i]->guest : NULL;
		const struct core_groupspec *group_spec;

		if (!guest)
			continue;
		for (size_t k = i; k < n; k++)
			if (nics[k] && nics[k]->guest == guest)
				nics[k] = NULL;
		group_spec = plan_find_group(c->apply, guest->group->spec.name);
		/* Guests that leave, or change anyway, are seen to with their group. */
		if (!group_spec || !plan_same_nics(&guest->group->spec, group_spec))
			continue;
		rc = renew_nics(c, guest, group_spec);
		if (rc == 0)
			restart(c, guest, false);
	}
	free(nics);
	return rc;
}

static int apply_networks(struct change *c)
{
	struct core_network *network;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->apply->network_count; i++) {
		const struct core_netspec *spec = &c->apply->networks[i];
		uint32_t vni;

		network = deployment_network(c->deployment, spec->name);
		if (network) {
			rc = change_network(c, network, spec);
			continue;
		}
		rc = alloc_vni(c->core, &vni);
		if (rc < 0)
			return err_set(c->err, rc, "no VXLAN network identifier is free");
		rc = network_new(c->core, c->deployment, spec, vni,
			spec->mtu ? spec->mtu : network_auto_mtu(c->core), &network, c->err);
		if (rc == 0)
			netplan_bulk(c->core, network);
	}
	return rc;
}

/* Networks that the lab no longer has go with their last member. */
static void drop_networks(struct change *c)
{
	struct core_network *network, *next;

	DL_FOREACH_SAFE (c->deployment->networks, network, next) {
		bool wanted = false;

		for (size_t i = 0; i < c->apply->network_count && !wanted; i++)
			wanted = strcmp(c->apply->networks[i].name, network->spec.name) == 0;
		if (wanted || network->leaving)
			continue;
		if (network->member_count)
			network_leave(network);
		else
			network_free(c->core, network);
	}
}

static void drop_guests(struct change *c)
{
	struct core_group *group, *next_group;
	struct core_guest *guest, *next;

	DL_FOREACH_SAFE (c->deployment->groups, group, next_group) {
		const struct core_groupspec *spec = plan_find_group(c->apply, group->spec.name);
		bool renamed = spec && spec->count_set != group->spec.count_set;

		DL_FOREACH_SAFE2(group->guests, guest, next, group_next)
		if (!spec || renamed || guest->number > plan_numbers(spec))
			guest_delete(c->core, guest, c->out);
		if (!spec) {
			group_free(c->core, group);
		}
	}
}

static int change_group(
	struct change *c, struct core_group *group, const struct core_groupspec *spec)
{
	struct core_groupspec *old = malloc(sizeof(*old));
	char detail[CORE_REASON];
	struct core_guest *guest;
	enum core_op op;
	bool same_nics;
	int rc = 0;

	if (!old)
		return err_set(c->err, -ENOMEM, "memory is short");
	*old = group->spec;
	op = plan_group(old, spec, detail);
	same_nics = plan_same_nics(old, spec);
	rc = group_set_spec(c->core, group, spec, c->err);
	if (rc < 0) {
		free(old);
		return rc;
	}
	if (old->priority != spec->priority)
		place_priority_changed(c->core, group, old->priority);
	/* What a name meant when the guest was made holds until it is replaced. */
	if (old->disk_hash == spec->disk_hash)
		memcpy(group->spec.image_id, old->image_id, CORE_ID);
	if (old->boot_hash == spec->boot_hash) {
		/* The cluster's default may be another one by now. */
		memcpy(group->spec.kernel, old->kernel, sizeof(old->kernel));
		memcpy(group->spec.kernel_id, old->kernel_id, CORE_ID);
		memcpy(group->spec.modules_id, old->modules_id, CORE_ID);
	}
	DL_FOREACH2(group->guests, guest, group_next)
	{
		/* Room for another size is held where it goes. */
		if (old->memory != spec->memory || old->cpu != spec->cpu || old->disk != spec->disk)
			move_changed(c->core, guest, false, c->out);
		guest_reserve(c->core, guest, &group->spec);
		if (old->on_loss != CORE_LOSS_RESTART && spec->on_loss == CORE_LOSS_RESTART &&
			guest->host)
			guest->unfenced = true;
		if (op == CORE_UNCHANGED)
			continue;
		if (!same_nics)
			rc = renew_nics(c, guest, &group->spec);
		if (rc < 0)
			break;
		restart(c, guest, op == CORE_REPLACE);
	}
	/* What did not fit before may fit now. */
	c->core->place_due = true;
	free(old);
	return rc;
}

static bool has_fixed(const struct core_groupspec *spec)
{
	for (size_t i = 0; i < spec->nic_count; i++)
		if (spec->nics[i].ip4.family || spec->nics[i].ip6.family)
			return true;
	return false;
}

/* Changes and creates; FIXED: groups that ask for addresses, which go first so
 * that no automatic address is in their way. */
static int apply_groups(struct change *c, bool fixed)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->apply->group_count; i++) {
		const struct core_groupspec *spec = &c->apply->groups[i];
		struct core_group *group = deployment_group(c->deployment, spec->name);

		if (has_fixed(spec) != fixed)
			continue;
		if (!group) {
			group = group_new(c->core, c->deployment, spec, c->err);
			if (!group)
				return -ENOMEM;
		} else {
			rc = change_group(c, group, spec);
		}
		for (uint32_t n = group->guest_count + 1; rc == 0 && n <= plan_numbers(spec); n++)
			rc = create_guest(c, group, n);
	}
	return rc;
}

static struct core_deployment *deployment_new(struct core *core, const char *name, uint64_t now)
{
	struct core_deployment *deployment = calloc(1, sizeof(*deployment));

	if (!deployment)
		return NULL;
	deployment->core = core;
	(void)str_copy(deployment->name, sizeof(deployment->name), name);
	deployment->created_at = now;
	HASH_ADD_STR(core->deployments, name, deployment);
	return deployment;
}

int core_apply(struct core *core, const struct core_apply *apply, bool dry_run, uint64_t now,
	struct core_plan *plan, struct core_out *out, struct err *err)
{
	struct change c = {.core = core, .apply = apply, .now = now, .out = out, .err = err};
	struct core_network *network;
	int rc;

	HASH_FIND_STR(core->deployments, apply->name, c.deployment);
	rc = plan_check(c.deployment, apply, err);
	if (rc == 0)
		rc = plan_make(c.deployment, apply, plan, err);
	if (rc < 0)
		return rc;
	if (dry_run) {
		fit_check(core, apply, plan);
		return 0;
	}
	if (!c.deployment) {
		c.deployment = deployment_new(core, apply->name, now);
		if (!c.deployment)
			return err_set(err, -ENOMEM, "memory is short");
	}
	/* Policies may change without a line in the plan: the record is written. */
	c.deployment->revision++;
	c.deployment->gang = apply->gang;
	c.deployment->changed_at = now;
	out_dirty(out, CORE_KIND_META, "meta");
	out_dirty(out, CORE_KIND_DEPLOYMENT, c.deployment->name);
	/* Many changes at once: a host is told a network whole, not member by member. */
	if (plan->count > BULK)
		DL_FOREACH (c.deployment->networks, network)
			netplan_bulk(core, network);
	drop_guests(&c);
	rc = apply_networks(&c);
	if (rc == 0)
		rc = apply_groups(&c, true);
	if (rc == 0)
		rc = apply_groups(&c, false);
	if (rc < 0) {
		/* Only memory can be short here: the state is no longer whole. */
		out->failed = true;
		return rc;
	}
	drop_networks(&c);
	out_log(out, "deployment", c.deployment->name, "Applied", false, "",
		"revision %llu: %zu changes, %u unchanged",
		(unsigned long long)c.deployment->revision, plan->count, plan->unchanged);
	place_pending(core, now, out);
	netplan_bulk_end(core, out);
	fit_pending(c.deployment, plan);
	return 0;
}
