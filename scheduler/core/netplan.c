/* Who must know what of the networks.  A host that has members of a network has
 * its whole member list: it gets it when its first member comes, and changes as
 * they happen.  A change of one guest costs the hosts of its networks. */
#include <stdlib.h>
#include <string.h>

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
	struct core_nethost *at, *next;

	HASH_ITER (hh, network->hosts, at, next)
		if (at->host != but)
			tell(out, kind, at->host, network, nic, mac);
}

void netplan_placed(struct core_guest *guest, struct core_out *out)
{
	for (uint32_t i = 0; i < guest->nic_count; i++) {
		struct core_nic *nic = &guest->nics[i];
		struct core_network *network = nic->network;
		struct core_nethost *at;

		HASH_FIND_PTR(network->hosts, &guest->host, at);
		if (!at) {
			at = calloc(1, sizeof(*at));
			if (!at) {
				out->failed = true;
				return;
			}
			at->host = guest->host;
			HASH_ADD_PTR(network->hosts, host, at);
			tell(out, CORE_TELL_NET, guest->host, network, NULL, NULL);
			at->members = 1;
			tell_others(out, CORE_TELL_MEMBER, network, guest->host, nic, NULL);
		} else {
			at->members++;
			tell_others(out, CORE_TELL_MEMBER, network, NULL, nic, NULL);
		}
	}
}

void netplan_leaving(struct core_guest *guest, struct core_out *out)
{
	for (uint32_t i = 0; i < guest->nic_count; i++) {
		struct core_network *network = guest->nics[i].network;
		struct core_nethost *at;

		HASH_FIND_PTR(network->hosts, &guest->host, at);
		if (at && --at->members == 0) {
			HASH_DEL(network->hosts, at);
			if (out)
				tell(out, CORE_TELL_NET_GONE, at->host, network, NULL, NULL);
			free(at);
		}
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
