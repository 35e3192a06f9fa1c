/* Who must know what of the networks.  A host that has members of a network has
 * its whole member list: it gets it when its first member comes, and changes as
 * they happen.  A change of one guest costs the hosts of its networks. */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

static void tell(struct core_out *out, enum core_action_kind kind, const struct core_host *host,
	const struct core_network *network, const struct core_nic *nic, const struct net_mac *mac)
{
	struct core_action action = {.kind = kind, .vni = network->vni};

	(void)str_copy(action.host, sizeof(action.host), host->name);
	if (nic) {
		action.uid = nic->guest->uid;
		action.nic = nic->index;
	}
	if (mac)
		action.mac = *mac;
	out_action(out, &action);
}

static void tell_others(struct core_out *out, enum core_action_kind kind,
	const struct core_network *network, const struct core_host *but, const struct core_nic *nic,
	const struct net_mac *mac)
{
	const struct core *core = network->deployment->core;
	const struct core_count *at;
	uint32_t pos = 0;

	/* Where the whole network goes, its hosts are told that. */
	if (network->bulk || network->deployment->deleting)
		return;
	while ((at = counts_next(&network->hosts, &pos)))
		if (core->by_order[at->id] != but)
			tell(out, kind, core->by_order[at->id], network, nic, mac);
}

void netplan_bulk(struct core *core, struct core_network *network)
{
	if (network->bulk)
		return;
	network->bulk = true;
	LL_PREPEND2(core->bulk, network, bulk_next);
}

void netplan_bulk_end(struct core *core, struct core_out *out)
{
	while (core->bulk) {
		struct core_network *network = core->bulk;
		const struct core_count *at;
		uint32_t pos = 0;

		LL_DELETE2(core->bulk, network, bulk_next);
		network->bulk = false;
		while ((at = counts_next(&network->hosts, &pos)))
			tell(out, CORE_TELL_NET, core->by_order[at->id], network, NULL, NULL);
	}
}

void netplan_placed(struct core_guest *guest, struct core_out *out)
{
	for (uint32_t i = 0; i < guest->nic_count; i++) {
		struct core_nic *nic = &guest->nics[i];
		struct core_network *network = nic->network;
		bool first = !counts_of(&network->hosts, guest->host->order);

		if (counts_add(&network->hosts, guest->host->order, 1) < 0) {
			out->failed = true;
			return;
		}
		if (first && !network->bulk)
			tell(out, CORE_TELL_NET, guest->host, network, NULL, NULL);
		tell_others(out, CORE_TELL_MEMBER, network, first ? guest->host : NULL, nic, NULL);
	}
}

void netplan_leaving(struct core_guest *guest, struct core_out *out)
{
	for (uint32_t i = 0; i < guest->nic_count; i++) {
		struct core_network *network = guest->nics[i].network;

		(void)counts_add(&network->hosts, guest->host->order, -1);
		if (out && !counts_of(&network->hosts, guest->host->order))
			tell(out, CORE_TELL_NET_GONE, guest->host, network, NULL, NULL);
	}
}

void netplan_member(const struct core_nic *nic, struct core_out *out)
{
	tell_others(out, CORE_TELL_MEMBER, nic->network, NULL, nic, NULL);
}

void netplan_member_gone(
	const struct core_network *network, const struct net_mac *mac, struct core_out *out)
{
	tell_others(out, CORE_TELL_MEMBER_GONE, network, NULL, NULL, mac);
}
