/* The numbered invariants of docs/invariants.md. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

#define BROKEN(n, fmt, ...) err_set(err, -EPROTO, "invariant " #n ": " fmt, __VA_ARGS__)

static int check_host(const struct core *core, const struct core_host *host, struct err *err)
{
	uint64_t memory = 0, disk = 0;
	uint32_t cpu = 0, count = 0, ready = 0, held = 0;
	const struct core_guest *guest;

	DL_FOREACH2(host->guests, guest, host_next)
	{
		if (guest->host != host)
			return BROKEN(2, "%s is on the list of %s but not placed there",
				guest->name, host->name);
		memory += guest->memory;
		disk += guest->disk;
		cpu += guest->cpu;
		count++;
		ready += guest->ready;
	}
	for (const struct core_move *m = core->moves; m; m = m->hh.next) {
		if (m->held != host)
			continue;
		memory += m->held_memory;
		disk += m->held_disk;
		cpu += m->held_cpu;
		held++;
	}
	for (const struct core_orphan *o = core->orphans; o; o = o->hh.next) {
		if (strcmp(o->host, host->name) == 0)
			disk += o->reserved;
	}
	if (held != host->held_count)
		return BROKEN(3, "the moves of host %s do not match", host->name);
	if (memory != host->memory_reserved || disk != host->disk_reserved ||
		cpu != host->cpu_reserved || count != host->guest_count ||
		ready != host->ready_count)
		return BROKEN(3, "the sums of host %s do not match its guests", host->name);
	/* A host may shrink (less memory after a reboot): only then is it over. */
	return 0;
}

static int check_move(const struct core *core, const struct core_move *m, struct err *err)
{
	const struct core_guest *guest = m->guest;
	const char *at = m->phase <= CORE_MOVE_LAST ? m->source : m->target, *other;

	if (m->number > core->meta.next_epoch)
		return BROKEN(14, "move of %s was never given", m->name);
	if ((guest != NULL) != (m->phase <= CORE_MOVE_START) || (m->held && !core_move_active(m)))
		return BROKEN(14, "move of %s: %s", m->name, core_move_phase_name(m->phase));
	if (m->counted && (!guest || m->counted != guest->group || !m->held ||
				  !counts_of(&m->counted->on_hosts, m->held->order)))
		return BROKEN(14, "%s is not counted on %s, where it moves", m->name, m->target);
	if (!guest)
		return 0;
	if (guest->move != m || guest->uid != m->uid || guest->deleting || guest->evicted)
		return BROKEN(14, "%s does not move as its move says", m->name);
	if (!guest->host || strcmp(guest->host->name, at) != 0 ||
		(guest->epoch == m->epoch) != (m->phase <= CORE_MOVE_LAST))
		return BROKEN(
			14, "%s, %s, is not on %s", m->name, core_move_phase_name(m->phase), at);
	other = m->phase <= CORE_MOVE_LAST ? m->target : m->source;
	if (!m->held || strcmp(m->held->name, other) != 0 || m->held_memory < guest->memory)
		return BROKEN(14, "nothing is held for %s on %s", m->name, other);
	return 0;
}

static int check_guest(const struct core *core, const struct core_guest *guest, struct err *err)
{
	const struct core_guest *same;

	if (guest->uid > core->meta.next_uid)
		return BROKEN(4, "uid of %s was never given", guest->name);
	if (guest->epoch > core->meta.next_epoch)
		return BROKEN(5, "epoch of %s was never given", guest->name);
	if (guest->host && guest->pending)
		return BROKEN(6, "%s is placed and waits for a place", guest->name);
	if (guest->host && !guest->epoch)
		return BROKEN(5, "%s is placed without an epoch", guest->name);
	if (!guest->host && !guest->pending && guest->want_run && !guest->deleting)
		return BROKEN(6, "%s has no host and does not wait for one", guest->name);
	if (guest->ready && (guest->phase != CORE_RUNNING || !guest->host))
		return BROKEN(7, "%s is ready but %s", guest->name, core_phase_name(guest->phase));
	if (guest->from_move && !guest->host)
		return BROKEN(14, "%s has a disk that moved, and no host", guest->name);
	if (guest->deleting != (guest->group == NULL))
		return BROKEN(8, "%s is being removed and in a group", guest->name);
	if (!guest->deleting) {
		same = core_guest_named(core, guest->name);
		if (same != guest)
			return BROKEN(1, "two guests are called %s", guest->name);
	}
	return 0;
}

static int check_network(const struct core_network *network, struct err *err)
{
	char text[NET_ADDR_TEXT];
	const struct core_nic *nic, *other;
	const struct core_count *at;
	uint32_t pos = 0;
	uint32_t members = 0, placed = 0, counted = 0;

	DL_FOREACH (network->members, nic) {
		members++;
		if (nic->network != network)
			return BROKEN(9, "a member of %s is not in it", network->name);
		placed += nic->guest->host != NULL;
		if (nic->ip4.family) {
			other = addrs_find(&network->by4, &nic->ip4, false);
			if (other != nic)
				return BROKEN(9, "address %s is used twice in %s",
					net_addr_text(text, &nic->ip4), network->name);
			if (!net_prefix_contains(&network->spec.prefix4, &nic->ip4) &&
				!nic->guest->deleting)
				return BROKEN(9, "address %s is not of network %s",
					net_addr_text(text, &nic->ip4), network->name);
		}
		if (nic->ip6.family) {
			other = addrs_find(&network->by6, &nic->ip6, true);
			if (other != nic)
				return BROKEN(9, "address %s is used twice in %s",
					net_addr_text(text, &nic->ip6), network->name);
		}
	}
	while ((at = counts_next(&network->hosts, &pos)))
		counted += at->count;
	if (members != network->member_count || placed != counted)
		return BROKEN(10, "the sums of network %s do not match its members", network->name);
	return 0;
}

static int check_group(const struct core *core, const struct core_group *group, struct err *err)
{
	const struct core_guest *guest;
	const struct core_count *at;
	uint32_t placed = 0, pending = 0, counted = 0, pos = 0;

	DL_FOREACH2(group->guests, guest, group_next)
	{
		placed += guest->host != NULL;
		pending += guest->pending;
		if (guest->host && !counts_of(&group->on_hosts, guest->host->order))
			return BROKEN(13, "%s is not counted on its host", guest->name);
	}
	while ((at = counts_next(&group->on_hosts, &pos))) {
		counted += at->count;
		if (at->id >= core->order_room || !core->by_order[at->id])
			return BROKEN(
				13, "group %s counts on a host that is gone", group->spec.name);
	}
	if (placed + group->coming != counted || pending != group->pending_count ||
		(pending != 0) != (group->list != CORE_NO_LIST))
		return BROKEN(
			13, "the counts of group %s do not match its guests", group->spec.name);
	return 0;
}

int core_check(const struct core *core, struct err *err)
{
	const struct core_deployment *d;
	int rc = index_check(core, err);

	for (const struct core_host *h = core->hosts; rc == 0 && h; h = h->hh.next)
		rc = check_host(core, h, err);
	for (const struct core_guest *g = core->guests; rc == 0 && g; g = g->hh.next)
		rc = check_guest(core, g, err);
	for (const struct core_network *n = core->by_vni; rc == 0 && n; n = n->hh_vni.next)
		rc = check_network(n, err);
	for (const struct core_move *m = core->moves; rc == 0 && m; m = m->hh.next)
		rc = check_move(core, m, err);
	for (d = core->deployments; rc == 0 && d; d = d->hh.next) {
		const struct core_group *group;
		const struct core_guest *guest;
		uint32_t count = 0, ready = 0;

		DL_FOREACH (d->groups, group) {
			rc = check_group(core, group, err);
			if (rc < 0)
				return rc;
			DL_FOREACH2(group->guests, guest, group_next)
			{
				count++;
				ready += guest->ready;
			}
		}
		DL_FOREACH2(d->leaving, guest, group_next)
		{
			count++;
			ready += guest->ready;
		}
		if (count != d->guest_count || ready != d->ready_count)
			rc = BROKEN(11, "the sums of deployment %s do not match", d->name);
	}
	return rc;
}
