#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

int alloc_vni(struct core *core, uint32_t *vni)
{
	for (uint32_t tries = 0; tries < CORE_VNI_MAX; tries++) {
		struct core_network *taken;
		uint32_t v;

		/* Round and round: a freed VNI is not used again at once. */
		core->vni_cursor = core->vni_cursor % CORE_VNI_MAX + 1;
		v = core->vni_cursor;
		HASH_FIND(hh_vni, core->by_vni, &v, sizeof(v), taken);
		if (!taken) {
			*vni = v;
			return 0;
		}
	}
	return -ENOSPC;
}

/* Locally administered, unicast, from the guest's uid (never used twice) and the
 * index: unique without a table as long as uids stay below 2^40. */
static void automatic_mac(const struct core_nic *nic, struct net_mac *mac)
{
	uint64_t uid = nic->guest->uid;

	mac->bytes[0] = (uint8_t)(0x02u | (nic->index & 0x1fu) << 2);
	for (int i = 0; i < 5; i++)
		mac->bytes[1 + i] = (uint8_t)(uid >> (8 * (4 - i)));
}

static struct core_nic *holder(struct core_network *network, const struct net_addr *addr)
{
	return addr->family == 4 ? addrs_find(&network->by4, addr, false)
				 : addrs_find(&network->by6, addr, true);
}

/* The gateway's address is for whoever asks for it by name. */
static bool usable(struct core_network *network, const struct net_addr *addr)
{
	return !holder(network, addr) && !net_addr_equal(addr, &network->spec.gateway4) &&
	       !net_addr_equal(addr, &network->spec.gateway6);
}

/* One after the other: the cursor only grows, and beyond the subnet's hosts each address has
 * been given before (*AGAIN). */
static int next_free(struct core_network *network, const struct net_prefix *prefix,
	uint64_t *cursor, struct net_addr *out, bool *again)
{
	uint64_t hosts = net_prefix_hosts(prefix);
	/* At most as many are taken as there are members, and two gateways. */
	uint64_t tries = (uint64_t)network->member_count + 3;

	for (uint64_t i = 0; i < tries && i < hosts; i++) {
		uint64_t n = *cursor + i;

		if (net_prefix_host(prefix, n % hosts, out) == 0 && usable(network, out)) {
			*cursor = n + 1;
			*again |= n >= hosts;
			return 0;
		}
	}
	return -ENOSPC;
}

static int choose(struct core_network *network, const struct net_prefix *prefix, uint64_t *cursor,
	const struct net_addr *want, struct net_addr *out, bool *again, struct err *err)
{
	char text[NET_ADDR_TEXT];
	struct core_nic *other;

	if (!prefix->addr.family)
		return 0;
	if (!want->family) {
		if (next_free(network, prefix, cursor, out, again) < 0)
			return err_set(err, -ENOSPC, "network %s: no address is free in %s",
				network->name, net_prefix_text(text, prefix));
		return 0;
	}
	other = holder(network, want);
	if (other)
		return err_set(err, -EADDRINUSE, "network %s: address %s is held by %s%s",
			network->name, net_addr_text(text, want), other->guest->name,
			other->guest->deleting ? ", which is being removed; try again in a moment"
					       : "");
	*out = *want;
	*again = true;
	return 0;
}

static int join(struct core_nic *nic, struct core_network *network, struct err *err)
{
	if (nic->ip4.family && addrs_add(&network->by4, nic, false) < 0)
		goto fail;
	if (nic->ip6.family && addrs_add(&network->by6, nic, true) < 0) {
		addrs_remove(&network->by4, nic, false);
		goto fail;
	}
	nic->network = network;
	DL_APPEND(network->members, nic);
	network->member_count++;
	return 0;
fail:
	return err_set(err, -ENOMEM, "memory is short for network %s", network->name);
}

int alloc_nic(struct core_nic *nic, struct core_network *network, const struct core_nicspec *want,
	struct err *err)
{
	static const struct net_mac none;
	struct net_addr ip4 = {0}, ip6 = {0};
	bool again = false;
	int rc = choose(
		network, &network->spec.prefix4, &network->cursor4, &want->ip4, &ip4, &again, err);

	if (rc == 0)
		rc = choose(network, &network->spec.prefix6, &network->cursor6, &want->ip6, &ip6,
			&again, err);
	if (rc < 0)
		return rc;
	nic->ip4 = ip4;
	nic->ip6 = ip6;
	nic->fixed4 = want->ip4.family != 0;
	nic->fixed6 = want->ip6.family != 0;
	nic->announce = again;
	if (memcmp(&want->mac, &none, sizeof(none)) != 0)
		nic->mac = want->mac;
	else
		automatic_mac(nic, &nic->mac);
	return join(nic, network, err);
}

void alloc_release(struct core *core, struct core_nic *nic)
{
	struct core_network *network = nic->network;

	if (!network)
		return;
	if (nic->ip4.family)
		addrs_remove(&network->by4, nic, false);
	if (nic->ip6.family)
		addrs_remove(&network->by6, nic, true);
	DL_DELETE(network->members, nic);
	network->member_count--;
	nic->network = NULL;
	if (network->leaving && !network->member_count)
		network_free(core, network);
}

int alloc_restore(struct core_nic *nic, struct core_network *network,
	const struct core_load_nic *load, struct err *err)
{
	char text[NET_ADDR_TEXT];

	if ((load->ip4.family && holder(network, &load->ip4)) ||
		(load->ip6.family && holder(network, &load->ip6)))
		return err_set(err, -EPROTO, "network %s: address %s is stored twice",
			network->name,
			net_addr_text(text, load->ip4.family ? &load->ip4 : &load->ip6));
	nic->mac = load->mac;
	nic->ip4 = load->ip4;
	nic->ip6 = load->ip6;
	nic->announce = load->announce;
	return join(nic, network, err);
}
