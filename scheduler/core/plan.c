/* What an apply would do, without doing it. */
#include "scheduler/core/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "lib/units.h"

void core_plan_free(struct core_plan *plan)
{
	free(plan->items);
	memset(plan, 0, sizeof(*plan));
}

static int add(
	struct core_plan *plan, enum core_op op, bool network, const char *name, const char *detail)
{
	struct core_plan_item *item;

	if (op == CORE_UNCHANGED) {
		plan->unchanged++;
		return 0;
	}
	if (plan->count == plan->room) {
		size_t room = plan->room ? plan->room * 2 : 64;
		struct core_plan_item *items = realloc(plan->items, room * sizeof(*items));

		if (!items)
			return -ENOMEM;
		plan->items = items;
		plan->room = room;
	}
	item = &plan->items[plan->count++];
	item->op = op;
	item->network = network;
	(void)snprintf(item->name, sizeof(item->name), "%s", name);
	(void)snprintf(item->detail, sizeof(item->detail), "%s", detail);
	return 0;
}

static bool same_prefix(const struct net_prefix *a, const struct net_prefix *b)
{
	return a->len == b->len && net_addr_equal(&a->addr, &b->addr);
}

bool plan_only_guard(const struct core_netspec *old, const struct core_netspec *new)
{
	struct core_netspec same = *new;
	char detail[CORE_REASON];

	same.guarded = old->guarded;
	return old->guarded != new->guarded &&plan_network(old, &same, detail) == CORE_UNCHANGED;
}

enum core_op plan_network(
	const struct core_netspec *old, const struct core_netspec *new, char detail[CORE_REASON])
{
	char a[NET_ADDR_TEXT], b[NET_ADDR_TEXT];

	detail[0] = 0;
	if (!same_prefix(&old->prefix4, &new->prefix4))
		(void)snprintf(detail, CORE_REASON, "subnet: %s -> %s; its guests restart",
			net_prefix_text(a, &old->prefix4), net_prefix_text(b, &new->prefix4));
	else if (!same_prefix(&old->prefix6, &new->prefix6))
		(void)snprintf(detail, CORE_REASON, "subnet6: %s -> %s; its guests restart",
			net_prefix_text(a, &old->prefix6), net_prefix_text(b, &new->prefix6));
	else if (!net_addr_equal(&old->gateway4, &new->gateway4) ||
		 !net_addr_equal(&old->gateway6, &new->gateway6))
		(void)snprintf(detail, CORE_REASON, "gateway; its guests restart");
	else if (old->mtu != new->mtu)
		(void)snprintf(detail, CORE_REASON, "mtu: %u -> %u; its guests restart", old->mtu,
			new->mtu);
	else if (old->guarded != new->guarded)
		(void)snprintf(detail, CORE_REASON, "spoofing: %s; nothing restarts",
			new->guarded ? "allow -> deny" : "deny -> allow");
	return detail[0] ? CORE_CHANGE : CORE_UNCHANGED;
}

bool plan_same_nics(const struct core_groupspec *a, const struct core_groupspec *b)
{
	if (a->nic_count != b->nic_count)
		return false;
	for (size_t i = 0; i < a->nic_count; i++) {
		const struct core_nicspec *x = &a->nics[i], *y = &b->nics[i];

		if (strcmp(x->network, y->network) != 0 || !net_addr_equal(&x->ip4, &y->ip4) ||
			!net_addr_equal(&x->ip6, &y->ip6) ||
			memcmp(&x->mac, &y->mac, sizeof(x->mac)) != 0)
			return false;
	}
	return true;
}

enum core_op plan_group(const struct core_groupspec *old, const struct core_groupspec *new,
	char detail[CORE_REASON])
{
	char a[UNITS_TEXT], b[UNITS_TEXT];

	detail[0] = 0;
	if (old->disk_hash != new->disk_hash) {
		if (strcmp(old->image, new->image) != 0)
			(void)snprintf(detail, CORE_REASON, "image: %.50s -> %.50s; new disk",
				old->image, new->image);
		else
			(void)snprintf(detail, CORE_REASON, "disk; new disk");
		return CORE_REPLACE;
	}
	if (old->boot_hash == new->boot_hash && plan_same_nics(old, new))
		return CORE_UNCHANGED;
	if (old->memory != new->memory)
		(void)snprintf(detail, CORE_REASON, "memory: %s -> %s; restarts",
			units_size(a, old->memory), units_size(b, new->memory));
	else if (old->cpu != new->cpu)
		(void)snprintf(detail, CORE_REASON, "cpus: %s -> %s; restarts",
			units_cpus(a, old->cpu), units_cpus(b, new->cpu));
	else if (strcmp(old->kernel, new->kernel) != 0)
		(void)snprintf(detail, CORE_REASON, "kernel: %.50s -> %.50s; restarts", old->kernel,
			new->kernel);
	else if (!plan_same_nics(old, new))
		(void)snprintf(detail, CORE_REASON, "networks; restarts");
	else
		(void)snprintf(detail, CORE_REASON, "configuration; restarts");
	return CORE_CHANGE;
}

uint32_t plan_numbers(const struct core_groupspec *spec)
{
	return spec->count_set ? spec->count : 1;
}

static const struct core_netspec *find_network(const struct core_apply *apply, const char *name)
{
	for (size_t i = 0; i < apply->network_count; i++)
		if (strcmp(apply->networks[i].name, name) == 0)
			return &apply->networks[i];
	return NULL;
}

const struct core_groupspec *plan_find_group(const struct core_apply *apply, const char *name)
{
	for (size_t i = 0; i < apply->group_count; i++)
		if (strcmp(apply->groups[i].name, name) == 0)
			return &apply->groups[i];
	return NULL;
}

static int plan_networks(
	const struct core_deployment *have, const struct core_apply *apply, struct core_plan *plan)
{
	struct core_network *network;
	char detail[CORE_REASON];
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < apply->network_count; i++) {
		const struct core_netspec *spec = &apply->networks[i];

		network = have ? deployment_network(have, spec->name) : NULL;
		if (!network) {
			rc = add(plan, CORE_CREATE, true, spec->name, "");
			continue;
		}
		rc = add(
			plan, plan_network(&network->spec, spec, detail), true, spec->name, detail);
	}
	if (have)
		DL_FOREACH (have->networks, network)
			if (rc == 0 && !network->leaving &&
				!find_network(apply, network->spec.name))
				rc = add(plan, CORE_DELETE, true, network->spec.name, "");
	return rc;
}

/* True when one of the group's networks changes so that its guests restart. */
static bool networks_change(const struct core_deployment *have, const struct core_apply *apply,
	const struct core_groupspec *spec, char detail[CORE_REASON])
{
	for (size_t i = 0; i < spec->nic_count; i++) {
		struct core_network *network = deployment_network(have, spec->nics[i].network);
		const struct core_netspec *new = find_network(apply, spec->nics[i].network);

		if (network && new && !plan_only_guard(&network->spec, new) &&
			plan_network(&network->spec, new, detail) != CORE_UNCHANGED) {
			(void)snprintf(
				detail, CORE_REASON, "network %s changes; restarts", new->name);
			return true;
		}
	}
	return false;
}

static const char *short_name(const struct core_guest *guest)
{
	const char *slash = strchr(guest->name, '/');

	return slash ? slash + 1 : guest->name;
}

static int plan_one_group(const struct core_deployment *have, const struct core_apply *apply,
	const struct core_groupspec *spec, struct core_plan *plan)
{
	struct core_group *group = have ? deployment_group(have, spec->name) : NULL;
	uint32_t want = plan_numbers(spec), existing = 0;
	char detail[CORE_REASON] = "", name[CORE_FULLNAME];
	const struct core_guest *guest;
	enum core_op op = CORE_CREATE;
	int rc = 0;

	if (group && group->spec.count_set == spec->count_set) {
		op = plan_group(&group->spec, spec, detail);
		if (op == CORE_UNCHANGED && networks_change(have, apply, spec, detail))
			op = CORE_CHANGE;
		DL_FOREACH2(group->guests, guest, group_next)
		{
			bool stays = guest->number <= want;

			existing += stays;
			if (rc == 0)
				rc = add(plan, stays ? op : CORE_DELETE, false, short_name(guest),
					stays ? detail : "");
		}
	} else if (group) {
		DL_FOREACH2(group->guests, guest, group_next)
		if (rc == 0)
			rc = add(plan, CORE_DELETE, false, short_name(guest), "");
	}
	/* Numbers have no gaps: what is missing are the highest. */
	for (uint32_t n = existing + 1; rc == 0 && n <= want; n++) {
		guest_name(name, apply->name, spec, n);
		rc = add(plan, CORE_CREATE, false, strchr(name, '/') + 1, "");
	}
	return rc;
}

int plan_make(const struct core_deployment *have, const struct core_apply *apply,
	struct core_plan *plan, struct err *err)
{
	const struct core_guest *guest;
	struct core_group *group;
	int rc = plan_networks(have, apply, plan);

	for (size_t i = 0; rc == 0 && i < apply->group_count; i++)
		rc = plan_one_group(have, apply, &apply->groups[i], plan);
	if (have)
		DL_FOREACH (have->groups, group)
			if (!plan_find_group(apply, group->spec.name))
				DL_FOREACH2(group->guests, guest, group_next)
	if (rc == 0)
		rc = add(plan, CORE_DELETE, false, short_name(guest), "");
	return rc < 0 ? err_set(err, rc, "memory is short for the plan") : 0;
}

/* ---------------------------------------------------------------- what must hold */

/* Addresses asked for must be free, or the guest's own; and each network must
 * have room for all, those on their way out included. */
static int check_network(const struct core_deployment *have, const struct core_apply *apply,
	const struct core_netspec *spec, struct err *err)
{
	struct core_network *network = have ? deployment_network(have, spec->name) : NULL;
	uint64_t need = 0, room4, room6;
	char text[NET_ADDR_TEXT];
	bool gateway_taken = false;

	for (size_t g = 0; g < apply->group_count; g++) {
		const struct core_groupspec *group = &apply->groups[g];

		for (size_t i = 0; i < group->nic_count; i++) {
			if (strcmp(group->nics[i].network, spec->name) != 0)
				continue;
			need += plan_numbers(group);
			gateway_taken |= group->nics[i].ip4.family &&
					 net_addr_equal(&group->nics[i].ip4, &spec->gateway4);
		}
	}
	if (spec->gateway4.family && !gateway_taken)
		need++;
	if (network) {
		const struct core_nic *nic;

		DL_FOREACH (network->members, nic)
			need += nic->guest->deleting;
	}
	room4 = net_prefix_hosts(&spec->prefix4);
	room6 = net_prefix_hosts(&spec->prefix6);
	if ((room4 && need > room4) || (room6 && need > room6))
		return err_set(err, -ENOSPC, "network %s: %llu addresses are needed, %s has %llu",
			spec->name, (unsigned long long)need,
			net_prefix_text(
				text, room4 && need > room4 ? &spec->prefix4 : &spec->prefix6),
			(unsigned long long)(room4 && need > room4 ? room4 : room6));
	return 0;
}

/* One that is being removed has given up its name, but not yet its address. */
static bool is_called(const struct core_guest *guest, const char *name)
{
	return !guest->deleting && strcmp(guest->name, name) == 0;
}

static int check_fixed(const struct core_deployment *have, const struct core_apply *apply,
	const struct core_groupspec *spec, struct err *err)
{
	char name[CORE_FULLNAME], text[NET_ADDR_TEXT];

	guest_name(name, apply->name, spec, 1);
	for (size_t i = 0; have && i < spec->nic_count; i++) {
		struct core_network *network = deployment_network(have, spec->nics[i].network);
		const struct core_nicspec *want = &spec->nics[i];
		const struct core_nic *nic4 = NULL, *nic6 = NULL, *nic;

		if (network && want->ip4.family)
			nic4 = addrs_find(&network->by4, &want->ip4, false);
		if (network && want->ip6.family)
			nic6 = addrs_find(&network->by6, &want->ip6, true);
		nic = nic4 && !is_called(nic4->guest, name) ? nic4 : nic6;
		if (!nic || is_called(nic->guest, name))
			continue;
		return err_set(err, -EADDRINUSE, "guest %s: address %s is held by %s%s", name,
			net_addr_text(text, nic == nic4 ? &want->ip4 : &want->ip6),
			nic->guest->name,
			nic->guest->deleting ? ", which is being removed; try again in a moment"
					     : "; give it another address first, or delete it");
	}
	return 0;
}

/* What GROUP's guests need more than they have, host by host, is added to GROW (by
 * host->order). */
static const struct core_guest *add_growth(
	const struct core_group *group, const struct core_groupspec *spec, uint64_t *grow)
{
	const struct core_guest *guest, *over = NULL;

	DL_FOREACH2(group->guests, guest, group_next)
	{
		if (!guest->host || guest->number > plan_numbers(spec) ||
			spec->memory <= guest->memory)
			continue;
		grow[guest->host->order] += spec->memory - guest->memory;
		if (guest->host->memory_reserved + grow[guest->host->order] >
			index_total(group->deployment->core, guest->host).memory)
			over = guest;
	}
	return over;
}

/* Guests that grow must still fit on the hosts where their disks are, all together. */
static int check_growth(
	const struct core_deployment *have, const struct core_apply *apply, struct err *err)
{
	uint64_t *grow = have ? calloc(have->core->order_room + 1, sizeof(*grow)) : NULL;
	char a[UNITS_TEXT], b[UNITS_TEXT];
	int rc = 0;

	if (have && !grow)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; rc == 0 && have && i < apply->group_count; i++) {
		const struct core_groupspec *spec = &apply->groups[i];
		const struct core_group *group = deployment_group(have, spec->name);
		const struct core_guest *over;

		if (!group || spec->memory <= group->spec.memory)
			continue;
		over = add_growth(group, spec, grow);
		if (over)
			rc = err_set(err, -ERANGE,
				"guest %s: %s of memory do not fit on host %s, where its disk is "
				"(%s more is needed)",
				over->name, units_size(a, spec->memory), over->host->name,
				units_size(b, over->host->memory_reserved +
						      grow[over->host->order] -
						      index_total(have->core, over->host).memory));
	}
	free(grow);
	return rc;
}

int plan_check(const struct core_deployment *have, const struct core_apply *apply, struct err *err)
{
	int rc = 0;

	if (have && have->deleting)
		return err_set(err, -EBUSY,
			"deployment %s is being deleted; apply again when it is gone", apply->name);
	for (size_t i = 0; rc == 0 && i < apply->network_count; i++)
		rc = check_network(have, apply, &apply->networks[i], err);
	for (size_t i = 0; rc == 0 && i < apply->group_count; i++) {
		rc = check_fixed(have, apply, &apply->groups[i], err);
		for (size_t k = 0; rc == 0 && k < apply->groups[i].nic_count; k++)
			if (!find_network(apply, apply->groups[i].nics[k].network))
				rc = err_set(err, -EINVAL, "guest %s: no network '%s'",
					apply->groups[i].name, apply->groups[i].nics[k].network);
	}
	return rc < 0 ? rc : check_growth(have, apply, err);
}
