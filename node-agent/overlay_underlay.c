#include "node-agent/overlay.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/str.h"
#include "node-agent/nl.h"

/* Ethernet, IP, UDP, VXLAN: 14 + 20 (40) + 8 + 8 (RFC 7348, section 5). */
uint32_t overlay_overhead(const struct net_addr *vtep)
{
	return vtep->family == 6 ? 70 : 50;
}

struct search {
	const struct net_addr *vtep;
	uint32_t index; /* of its device, 0: not found */
	bool matches;	/* the address being looked at does */
	uint32_t mtu;
	char name[OVERLAY_IFNAME];
};

static int see_addr_attr(const struct nlattr *attr, void *data)
{
	struct search *s = data;
	struct net_addr addr;
	uint16_t type = mnl_attr_get_type(attr);

	if ((type == IFA_LOCAL || type == IFA_ADDRESS) &&
		net_addr_from(mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr), &addr) ==
			0)
		s->matches |= net_addr_equal(&addr, s->vtep);
	return MNL_CB_OK;
}

static int see_addr(void *arg, const struct nlmsghdr *h)
{
	const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(h);
	struct search *s = arg;

	if (h->nlmsg_type != RTM_NEWADDR || mnl_nlmsg_get_payload_len(h) < sizeof(*ifa))
		return 0;
	s->matches = false;
	(void)mnl_attr_parse(h, sizeof(*ifa), see_addr_attr, s);
	if (s->matches)
		s->index = ifa->ifa_index;
	return 0;
}

static int see_link_attr(const struct nlattr *attr, void *data)
{
	struct search *s = data;

	if (mnl_attr_get_type(attr) == IFLA_MTU && mnl_attr_get_payload_len(attr) >= 4)
		s->mtu = mnl_attr_get_u32(attr);
	if (mnl_attr_get_type(attr) == IFLA_IFNAME &&
		mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) == 0)
		(void)str_copy(s->name, sizeof(s->name), mnl_attr_get_str(attr));
	return MNL_CB_OK;
}

static int see_link(void *arg, const struct nlmsghdr *h)
{
	(void)mnl_attr_parse(h, sizeof(struct ifinfomsg), see_link_attr, arg);
	return 0;
}

static int look(struct nl *nl, struct search *s, struct err *err)
{
	struct nlmsghdr *h = nl_add(nl, RTM_GETADDR, NLM_F_DUMP, sizeof(struct ifaddrmsg), 0);
	char text[NET_ADDR_TEXT];
	int rc;

	*(uint8_t *)mnl_nlmsg_get_payload(h) = s->vtep->family == 6 ? AF_INET6 : AF_INET;
	rc = nl_dump(nl, see_addr, NULL, s, err);
	if (rc < 0)
		return rc;
	if (!s->index)
		return err_set(err, -EADDRNOTAVAIL,
			"underlay: no device of this host has the address %s",
			net_addr_text(text, s->vtep));
	h = nl_add(nl, RTM_GETLINK, 0, sizeof(struct ifinfomsg), 0);
	((struct ifinfomsg *)mnl_nlmsg_get_payload(h))->ifi_index = (int)s->index;
	return nl_query(nl, see_link, s, err);
}

int overlay_underlay_mtu(
	const struct net_addr *vtep, uint32_t *mtu, char ifname[OVERLAY_IFNAME], struct err *err)
{
	struct search s = {.vtep = vtep};
	struct nl *nl = NULL;
	int rc = nl_open(-1, &nl, err);

	if (rc == 0)
		rc = look(nl, &s, err);
	nl_close(nl);
	if (rc < 0)
		return rc;
	*mtu = s.mtu;
	return str_copy(ifname, OVERLAY_IFNAME, s.name);
}
