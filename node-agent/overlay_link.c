#include "node-agent/overlay_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>

#include "lib/proc.h"

#define VXLAN_TTL 64

/* linux/if_link.h: br_port options.  The vxlan's port carries what other hosts
 * send; a tap's what a guest sends. */
static const struct overlay_port_option vxlan_options[] = {{IFLA_BRPORT_LEARNING, 0},
	{IFLA_BRPORT_UNICAST_FLOOD, 0}, {IFLA_BRPORT_MCAST_FLOOD, 1}, {IFLA_BRPORT_BCAST_FLOOD, 1},
	{IFLA_BRPORT_NEIGH_SUPPRESS, 1}};
static const struct overlay_port_option tap_options[] = {{IFLA_BRPORT_LEARNING, 0},
	{IFLA_BRPORT_UNICAST_FLOOD, 0}, {IFLA_BRPORT_MCAST_FLOOD, 1}, {IFLA_BRPORT_BCAST_FLOOD, 1},
	{IFLA_BRPORT_NEIGH_SUPPRESS, 0}, {IFLA_BRPORT_LOCKED, 1}};

const struct overlay_port_option *overlay_port_options(bool tap, size_t *count)
{
	*count = tap ? sizeof(tap_options) / sizeof(tap_options[0])
		     : sizeof(vxlan_options) / sizeof(vxlan_options[0]);
	return tap ? tap_options : vxlan_options;
}

static struct nlmsghdr *link_msg(struct nl *nl, uint16_t type, uint16_t flags, uint32_t index)
{
	struct nlmsghdr *h = nl_add(nl, type, flags, sizeof(struct ifinfomsg), 0);
	struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);

	ifi->ifi_index = (int)index;
	return h;
}

void overlay_link_up(struct overlay *ov, uint32_t index)
{
	struct nlmsghdr *h = link_msg(ov->nl, RTM_NEWLINK, 0, index);
	struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);

	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
}

void overlay_link_mtu(struct overlay *ov, uint32_t index, uint32_t mtu)
{
	mnl_attr_put_u32(link_msg(ov->nl, RTM_NEWLINK, 0, index), IFLA_MTU, mtu);
}

void overlay_link_delete(struct overlay *ov, uint32_t index)
{
	struct nlmsghdr *h = nl_add(ov->nl, RTM_NEWLINK, 0, sizeof(struct ifinfomsg), ENODEV);
	struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);

	/* A new number each time: a device left over in an older group is not meant. */
	if (!ov->doomed)
		ov->doomed = (uint32_t)proc_random_u64() | 1u << 31;
	ifi->ifi_index = (int)index;
	mnl_attr_put_u32(h, IFLA_GROUP, ov->doomed);
}

void overlay_link_delete_group(struct overlay *ov)
{
	if (ov->doomed)
		mnl_attr_put_u32(nl_add(ov->nl, RTM_DELLINK, 0, sizeof(struct ifinfomsg), ENODEV),
			IFLA_GROUP, ov->doomed);
	ov->doomed = 0;
}

void overlay_link_bridge(struct overlay *ov, const struct onet *net)
{
	struct nlmsghdr *h = link_msg(
		ov->nl, RTM_NEWLINK, net->bridge ? 0 : NLM_F_CREATE | NLM_F_EXCL, net->bridge);
	/* Locally administered, unlike any MAC that guests get. */
	const uint8_t address[6] = {0x0e, 0x75, 0x6c, (uint8_t)(net->vni >> 16),
		(uint8_t)(net->vni >> 8), (uint8_t)net->vni};
	struct nlattr *info, *data;
	char name[OVERLAY_IFNAME];

	overlay_bridge_name(name, net->vni);
	/* An address of its own: one that followed the ports' would change with them,
	 * and each change flushes the neighbour table. */
	if (!net->bridge) {
		mnl_attr_put_strz(h, IFLA_IFNAME, name);
		mnl_attr_put(h, IFLA_ADDRESS, sizeof(address), address);
	}
	mnl_attr_put_u32(h, IFLA_MTU, net->mtu);
	info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "bridge");
	data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
	mnl_attr_put_u32(h, IFLA_BR_STP_STATE, 0);
	mnl_attr_put_u8(h, IFLA_BR_MCAST_SNOOPING, 0);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
}

void overlay_link_vxlan(struct overlay *ov, const struct onet *net)
{
	struct nlmsghdr *h = link_msg(ov->host, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
	struct nlattr *info, *data;
	char name[OVERLAY_IFNAME];

	overlay_vxlan_name(name, net->vni);
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	/* Born over there; its socket stays here (vxlan->net is the requester's). */
	mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)ov->ns_fd);
	mnl_attr_put_u32(h, IFLA_MTU, net->mtu);
	info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "vxlan");
	data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
	mnl_attr_put_u32(h, IFLA_VXLAN_ID, net->vni);
	mnl_attr_put(h, ov->vtep.family == 4 ? IFLA_VXLAN_LOCAL : IFLA_VXLAN_LOCAL6,
		net_addr_size(&ov->vtep), ov->vtep.bytes);
	mnl_attr_put_u16(h, IFLA_VXLAN_PORT, htons(ov->vxlan_port));
	mnl_attr_put_u8(h, IFLA_VXLAN_TTL, VXLAN_TTL);
	mnl_attr_put_u8(h, IFLA_VXLAN_LEARNING, 0);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
}

/* Options of INDEX as a port of its bridge: after it has been put there. */
static void port_options(struct overlay *ov, uint32_t index, bool tap)
{
	struct nlmsghdr *h = link_msg(ov->nl, RTM_NEWLINK, 0, index);
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO), *data;
	size_t count;
	const struct overlay_port_option *o = overlay_port_options(tap, &count);

	mnl_attr_put_strz(h, IFLA_INFO_SLAVE_KIND, "bridge");
	data = mnl_attr_nest_start(h, IFLA_INFO_SLAVE_DATA);
	for (size_t i = 0; i < count; i++)
		mnl_attr_put_u8(h, o[i].attr, o[i].value);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
}

/* Puts INDEX on the network's bridge, still down or not, with its options. */
static void enslave(struct overlay *ov, const struct onet *net, uint32_t index, bool tap)
{
	struct nlmsghdr *h = link_msg(ov->nl, RTM_NEWLINK, 0, index);

	mnl_attr_put_u32(h, IFLA_MASTER, net->bridge);
	mnl_attr_put_u32(h, IFLA_MTU, net->mtu);
	port_options(ov, index, tap);
}

void overlay_link_vxlan_setup(struct overlay *ov, const struct onet *net)
{
	enslave(ov, net, net->vxlan, false);
	overlay_link_up(ov, net->vxlan);
}

void overlay_link_port(struct overlay *ov, const struct oport *port)
{
	enslave(ov, port->net, port->index, true);
}
