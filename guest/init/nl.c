#include "guest/init/nl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/str.h"

struct request {
	struct nlmsghdr h;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg addr;
		struct rtmsg route;
	} u;
	uint8_t attrs[256];
};

int nl_open(struct nl *nl, struct err *err)
{
	nl->seq = 1;
	nl->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (nl->fd < 0)
		return err_errno(err, errno, "netlink");
	return 0;
}

void nl_close(struct nl *nl)
{
	if (nl->fd >= 0)
		close(nl->fd);
	nl->fd = -1;
}

static void request_init(struct request *r, uint16_t type, uint16_t flags, size_t body)
{
	memset(r, 0, sizeof(*r));
	r->h.nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
	r->h.nlmsg_type = type;
	r->h.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
}

static void request_attr(struct request *r, uint16_t type, const void *data, size_t size)
{
	struct rtattr *a = (struct rtattr *)(void *)((uint8_t *)r + NLMSG_ALIGN(r->h.nlmsg_len));

	/* Attributes are few and fixed: sizeof(attrs) holds them all. */
	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(size);
	memcpy(RTA_DATA(a), data, size);
	r->h.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->h.nlmsg_len) + RTA_ALIGN(a->rta_len));
}

static int request_send(struct nl *nl, struct request *r)
{
	r->h.nlmsg_seq = ++nl->seq;
	if (send(nl->fd, r, r->h.nlmsg_len, 0) < 0)
		return -errno;
	return 0;
}

/* Sends and waits for the acknowledgement. */
static int transact(struct nl *nl, struct request *r)
{
	uint8_t data[4096] __attribute__((aligned(8)));
	int rc;

	r->h.nlmsg_flags |= NLM_F_ACK;
	rc = request_send(nl, r);
	while (rc == 0) {
		const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)data;
		ssize_t n = recv(nl->fd, data, sizeof(data), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if ((size_t)n < sizeof(*h) || h->nlmsg_seq != nl->seq)
			continue;
		if (h->nlmsg_type == NLMSG_ERROR &&
			(size_t)n >= NLMSG_LENGTH(sizeof(struct nlmsgerr)))
			return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
	}
	return rc;
}

static void parse_link(const struct nlmsghdr *h, struct nl_link *link)
{
	const struct ifinfomsg *info = NLMSG_DATA(h);
	const uint8_t *p = (const uint8_t *)h + NLMSG_ALIGN(NLMSG_LENGTH(sizeof(*info)));
	const uint8_t *end = (const uint8_t *)h + h->nlmsg_len;

	memset(link, 0, sizeof(*link));
	link->index = info->ifi_index;
	while (p + sizeof(struct rtattr) <= end) {
		const struct rtattr *a = (const struct rtattr *)(const void *)p;

		if (a->rta_len < sizeof(*a) || a->rta_len > end - p)
			break;
		if (a->rta_type == IFLA_IFNAME)
			(void)str_copy(link->name, sizeof(link->name), RTA_DATA(a));
		else if (a->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(a) == 6)
			memcpy(link->mac.bytes, RTA_DATA(a), 6);
		p += RTA_ALIGN(a->rta_len);
	}
}

int nl_links(struct nl *nl, struct nl_link *links, size_t max, struct err *err)
{
	uint8_t data[16384] __attribute__((aligned(8)));
	struct request r;
	size_t count = 0;
	int rc;

	request_init(&r, RTM_GETLINK, NLM_F_DUMP, sizeof(r.u.link));
	rc = request_send(nl, &r);
	if (rc)
		return err_errno(err, rc, "list the network devices");
	for (;;) {
		ssize_t n = recv(nl->fd, data, sizeof(data), 0);
		size_t at = 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "list the network devices");
		while (at + sizeof(struct nlmsghdr) <= (size_t)n) {
			const struct nlmsghdr *h =
				(const struct nlmsghdr *)(const void *)(data + at);

			if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > (size_t)n - at)
				break;
			at += NLMSG_ALIGN(h->nlmsg_len);
			if (h->nlmsg_seq != nl->seq)
				continue;
			if (h->nlmsg_type == NLMSG_DONE)
				return (int)count;
			if (h->nlmsg_type == NLMSG_ERROR)
				return err_set(err, -EIO, "list the network devices: refused");
			if (h->nlmsg_type == RTM_NEWLINK && count < max)
				parse_link(h, &links[count++]);
		}
	}
}

int nl_link_rename(struct nl *nl, int index, const char *name, struct err *err)
{
	struct request r;
	int rc;

	request_init(&r, RTM_NEWLINK, 0, sizeof(r.u.link));
	r.u.link.ifi_index = index;
	request_attr(&r, IFLA_IFNAME, name, strlen(name) + 1);
	rc = transact(nl, &r);
	if (rc)
		return err_errno(err, rc, "rename network device %d to %s", index, name);
	return 0;
}

int nl_link_up(struct nl *nl, int index, uint32_t mtu, struct err *err)
{
	struct request r;
	int rc;

	request_init(&r, RTM_NEWLINK, 0, sizeof(r.u.link));
	r.u.link.ifi_index = index;
	r.u.link.ifi_flags = IFF_UP;
	r.u.link.ifi_change = IFF_UP;
	if (mtu)
		request_attr(&r, IFLA_MTU, &mtu, sizeof(mtu));
	rc = transact(nl, &r);
	if (rc)
		return err_errno(err, rc, "start network device %d (MTU %u)", index, mtu);
	return 0;
}

int nl_addr_add(
	struct nl *nl, int index, const struct net_addr *addr, uint8_t prefix, struct err *err)
{
	char text[NET_ADDR_TEXT];
	struct request r;
	uint32_t flags = IFA_F_NODAD;
	int rc;

	request_init(&r, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof(r.u.addr));
	r.u.addr.ifa_family = addr->family == 4 ? AF_INET : AF_INET6;
	r.u.addr.ifa_prefixlen = prefix;
	r.u.addr.ifa_index = (uint32_t)index;
	request_attr(&r, IFA_LOCAL, addr->bytes, net_addr_size(addr));
	request_attr(&r, IFA_ADDRESS, addr->bytes, net_addr_size(addr));
	if (addr->family == 6) {
		/* Addresses are handed out once: no need to ask the network first. */
		request_attr(&r, IFA_FLAGS, &flags, sizeof(flags));
	} else if (prefix < 31) {
		uint32_t broadcast;

		memcpy(&broadcast, addr->bytes, 4);
		broadcast |= htonl(prefix ? UINT32_MAX >> prefix : UINT32_MAX);
		request_attr(&r, IFA_BROADCAST, &broadcast, 4);
	}
	rc = transact(nl, &r);
	if (rc)
		return err_errno(err, rc, "address %s/%u", net_addr_text(text, addr), prefix);
	return 0;
}

int nl_route_add(struct nl *nl, const struct net_prefix *to, const struct net_addr *via, int index,
	uint32_t metric, struct err *err)
{
	char text[NET_ADDR_TEXT], text2[NET_ADDR_TEXT];
	struct request r;
	uint32_t oif = (uint32_t)index;
	int rc;

	request_init(&r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof(r.u.route));
	r.u.route.rtm_family = via->family == 4 ? AF_INET : AF_INET6;
	r.u.route.rtm_dst_len = to->len;
	r.u.route.rtm_table = RT_TABLE_MAIN;
	r.u.route.rtm_protocol = RTPROT_STATIC;
	r.u.route.rtm_scope = RT_SCOPE_UNIVERSE;
	r.u.route.rtm_type = RTN_UNICAST;
	if (to->len)
		request_attr(&r, RTA_DST, to->addr.bytes, net_addr_size(via));
	request_attr(&r, RTA_GATEWAY, via->bytes, net_addr_size(via));
	if (index)
		request_attr(&r, RTA_OIF, &oif, sizeof(oif));
	if (metric)
		request_attr(&r, RTA_PRIORITY, &metric, sizeof(metric));
	rc = transact(nl, &r);
	if (rc)
		return err_errno(err, rc, "route to %s via %s", net_prefix_text(text, to),
			net_addr_text(text2, via));
	return 0;
}
