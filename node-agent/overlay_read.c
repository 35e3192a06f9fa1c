#include "node-agent/overlay_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What an index of the namespace is, for the dumps of entries. */
struct device {
	uint32_t index; /* key */
	struct onet *net;
	struct oport *port;
	enum { DEVICE_BRIDGE, DEVICE_VXLAN, DEVICE_PORT } kind;
	uint32_t master;
	UT_hash_handle hh;
};

struct reader {
	struct overlay *ov;
	struct device *devices;
	int rc; /* -ENOMEM */
};

/* ---- attributes ---- */

struct table {
	const struct nlattr **tb;
	size_t size;
};

static int collect(const struct nlattr *attr, void *data)
{
	struct table *t = data;

	if (mnl_attr_get_type(attr) < t->size)
		t->tb[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

static void nested(const struct nlattr *attr, const struct nlattr **tb, size_t size)
{
	struct table t = {.tb = tb, .size = size};

	if (attr)
		(void)mnl_attr_parse_nested(attr, collect, &t);
}

static bool is_u8(const struct nlattr *attr, uint8_t value)
{
	return attr && mnl_attr_get_payload_len(attr) >= 1 && mnl_attr_get_u8(attr) == value;
}

static bool is_u16(const struct nlattr *attr, uint16_t value)
{
	return attr && mnl_attr_get_payload_len(attr) >= 2 && mnl_attr_get_u16(attr) == value;
}

static uint32_t u32_of(const struct nlattr *attr)
{
	return attr && mnl_attr_get_payload_len(attr) >= 4 ? mnl_attr_get_u32(attr) : 0;
}

static struct net_addr addr_of(const struct nlattr *attr)
{
	struct net_addr addr = {0};

	if (attr)
		(void)net_addr_from(
			mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr), &addr);
	return addr;
}

/* ---- devices ---- */

/* A device as a dump shows it. */
struct seen {
	uint32_t index, mtu, master;
	bool up;
	const char *name, *kind, *slave_kind;
	const struct nlattr *data, *slave_data;
};

static bool port_fits(const struct seen *s, bool tap)
{
	const struct nlattr *tb[IFLA_BRPORT_MAX + 1] = {NULL};
	size_t count;
	const struct overlay_port_option *o = overlay_port_options(tap, &count);

	if (!s->slave_data || !s->slave_kind || strcmp(s->slave_kind, "bridge") != 0)
		return false;
	nested(s->slave_data, tb, IFLA_BRPORT_MAX + 1);
	for (size_t i = 0; i < count; i++) {
		if (!is_u8(tb[o[i].attr], o[i].value))
			return false;
	}
	return s->up;
}

static struct device *add_device(struct reader *r, const struct seen *s)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d) {
		r->rc = -ENOMEM;
		return NULL;
	}
	d->index = s->index;
	d->master = s->master;
	HASH_ADD(hh, r->devices, index, sizeof(d->index), d);
	return d;
}

static void see_bridge(struct reader *r, const struct seen *s, uint32_t vni)
{
	const struct nlattr *tb[IFLA_BR_MAX + 1] = {NULL};
	struct onet *net = overlay_get_net(r->ov, vni);
	struct device *d = net ? add_device(r, s) : NULL;

	if (!d) {
		r->rc = -ENOMEM;
		return;
	}
	d->kind = DEVICE_BRIDGE;
	d->net = net;
	nested(s->data, tb, IFLA_BR_MAX + 1);
	net->bridge = s->index;
	net->k_bridge_mtu = s->mtu;
	net->k_bridge_fits = s->up && tb[IFLA_BR_STP_STATE] && u32_of(tb[IFLA_BR_STP_STATE]) == 0 &&
			     is_u8(tb[IFLA_BR_MCAST_SNOOPING], 0);
}

static void see_vxlan(struct reader *r, const struct seen *s, uint32_t vni)
{
	const struct nlattr *tb[IFLA_VXLAN_MAX + 1] = {NULL};
	struct onet *net = overlay_get_net(r->ov, vni);
	struct device *d = net ? add_device(r, s) : NULL;
	struct net_addr local;

	if (!d) {
		r->rc = -ENOMEM;
		return;
	}
	d->kind = DEVICE_VXLAN;
	d->net = net;
	nested(s->data, tb, IFLA_VXLAN_MAX + 1);
	local = addr_of(tb[r->ov->vtep.family == 4 ? IFLA_VXLAN_LOCAL : IFLA_VXLAN_LOCAL6]);
	net->vxlan = s->index;
	net->k_vxlan_mtu = s->mtu;
	net->k_vxlan_alien = u32_of(tb[IFLA_VXLAN_ID]) != vni ||
			     !net_addr_equal(&local, &r->ov->vtep) ||
			     !is_u16(tb[IFLA_VXLAN_PORT], htons(r->ov->vxlan_port)) ||
			     !is_u8(tb[IFLA_VXLAN_LEARNING], 0);
	net->k_vxlan_fits = port_fits(s, false);
}

static void see_tap(struct reader *r, const struct seen *s, uint64_t key)
{
	const struct nlattr *tb[IFLA_TUN_MAX + 1] = {NULL};
	struct oport *port = overlay_get_port(r->ov, key);
	struct device *d = port ? add_device(r, s) : NULL;

	if (!d) {
		r->rc = -ENOMEM;
		return;
	}
	d->kind = DEVICE_PORT;
	d->port = port;
	nested(s->data, tb, IFLA_TUN_MAX + 1);
	port->index = s->index;
	port->k_mtu = s->mtu;
	/* An owner that is not ours makes overlay_port() replace the tap. */
	port->uid = tb[IFLA_TUN_OWNER] ? u32_of(tb[IFLA_TUN_OWNER]) : (uid_t)-1;
	if (!is_u8(tb[IFLA_TUN_TYPE], IFF_TAP) || !is_u8(tb[IFLA_TUN_VNET_HDR], 1) ||
		!is_u8(tb[IFLA_TUN_PERSIST], 1) || !is_u8(tb[IFLA_TUN_PI], 0))
		port->uid = (uid_t)-1;
	port->k_fits = port_fits(s, true);
	r->ov->locked_seen |= port->k_fits;
}

static int see_link(void *arg, const struct nlmsghdr *h)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
	const struct nlattr *tb[IFLA_LINKINFO + 1] = {NULL}, *info[IFLA_INFO_MAX + 1] = {NULL};
	struct table t = {.tb = tb, .size = IFLA_LINKINFO + 1};
	struct reader *r = arg;
	struct seen s = {0};
	uint32_t vni;
	uint64_t key;

	if (h->nlmsg_type != RTM_NEWLINK || mnl_nlmsg_get_payload_len(h) < sizeof(*ifi))
		return 0;
	(void)mnl_attr_parse(h, sizeof(*ifi), collect, &t);
	nested(tb[IFLA_LINKINFO], info, IFLA_INFO_MAX + 1);
	if (!tb[IFLA_IFNAME] || !info[IFLA_INFO_KIND])
		return 0;
	s.index = (uint32_t)ifi->ifi_index;
	s.up = (ifi->ifi_flags & IFF_UP) != 0;
	s.mtu = u32_of(tb[IFLA_MTU]);
	s.master = u32_of(tb[IFLA_MASTER]);
	s.name = mnl_attr_get_str(tb[IFLA_IFNAME]);
	s.kind = mnl_attr_get_str(info[IFLA_INFO_KIND]);
	s.data = info[IFLA_INFO_DATA];
	s.slave_kind =
		info[IFLA_INFO_SLAVE_KIND] ? mnl_attr_get_str(info[IFLA_INFO_SLAVE_KIND]) : NULL;
	s.slave_data = info[IFLA_INFO_SLAVE_DATA];
	if (strcmp(s.kind, "bridge") == 0 && overlay_parse_name(s.name, 'b', OVERLAY_VNI_MAX, &vni))
		see_bridge(r, &s, vni);
	else if (strcmp(s.kind, "vxlan") == 0 &&
		 overlay_parse_name(s.name, 'x', OVERLAY_VNI_MAX, &vni))
		see_vxlan(r, &s, vni);
	else if (strcmp(s.kind, "tun") == 0 && overlay_parse_port(s.name, &key))
		see_tap(r, &s, key);
	return 0;
}

static struct device *device_of(struct reader *r, uint32_t index)
{
	struct device *d;

	HASH_FIND(hh, r->devices, &index, sizeof(index), d);
	return d;
}

/* Masters are known when all devices have been seen. */
static void join_masters(struct reader *r)
{
	for (struct device *d = r->devices; d; d = d->hh.next) {
		const struct device *m = d->master ? device_of(r, d->master) : NULL;
		struct onet *net = m && m->kind == DEVICE_BRIDGE ? m->net : NULL;

		if (d->kind == DEVICE_VXLAN && net != d->net)
			d->net->k_vxlan_fits = false;
		if (d->kind != DEVICE_PORT)
			continue;
		/* A stated port that is elsewhere is put back by the next overlay_port(). */
		if (d->port->stated && d->port->net != net)
			d->port->k_fits = false;
		else if (!d->port->stated)
			d->port->net = net;
	}
}

/* ---- entries ---- */

static void see_self_entry(
	struct reader *r, struct onet *net, const struct net_mac *mac, const struct net_addr *dst)
{
	static const struct net_mac all = {{0}};

	if (memcmp(mac, &all, sizeof(all)) == 0) {
		struct oflood *f = overlay_get_flood(net, dst);

		if (f)
			f->k_there = true;
		else
			r->rc = -ENOMEM;
		return;
	}
	struct omember *m = overlay_get_member(net, mac);

	if (m)
		m->k_vtep = *dst;
	else
		r->rc = -ENOMEM;
}

static void see_bridge_entry(struct reader *r, const struct device *d, const struct net_mac *mac)
{
	struct onet *net = d->kind == DEVICE_VXLAN ? d->net : d->port->net;
	struct omember *m;

	if (!net || d->kind == DEVICE_BRIDGE)
		return;
	m = overlay_get_member(net, mac);
	if (!m) {
		r->rc = -ENOMEM;
		return;
	}
	m->k_master = d->index;
	/* A port that runs from earlier: what is on it stays until we are told. */
	if (d->kind == DEVICE_PORT && !d->port->stated) {
		d->port->mac = *mac;
		if (overlay_place(net, m, d->port) < 0)
			r->rc = -ENOMEM;
	}
}

static int see_fdb(void *arg, const struct nlmsghdr *h)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(h);
	const struct nlattr *tb[NDA_MASTER + 1] = {NULL};
	struct table t = {.tb = tb, .size = NDA_MASTER + 1};
	struct reader *r = arg;
	struct net_mac mac;
	struct net_addr dst;

	if (h->nlmsg_type != RTM_NEWNEIGH || mnl_nlmsg_get_payload_len(h) < sizeof(*ndm))
		return 0;
	const struct device *d = device_of(r, (uint32_t)ndm->ndm_ifindex);

	(void)mnl_attr_parse(h, sizeof(*ndm), collect, &t);
	if (!d || !tb[NDA_LLADDR] || mnl_attr_get_payload_len(tb[NDA_LLADDR]) != 6)
		return 0;
	memcpy(mac.bytes, mnl_attr_get_payload(tb[NDA_LLADDR]), 6);
	dst = addr_of(tb[NDA_DST]);
	if (d->kind == DEVICE_VXLAN && (ndm->ndm_flags & NTF_SELF) && dst.family)
		see_self_entry(r, d->net, &mac, &dst);
	/* Static ones only: the devices' own addresses are permanent. */
	else if (tb[NDA_MASTER] && (ndm->ndm_state & NUD_NOARP))
		see_bridge_entry(r, d, &mac);
	return 0;
}

static int see_neigh(void *arg, const struct nlmsghdr *h)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(h);
	const struct nlattr *tb[NDA_MASTER + 1] = {NULL};
	struct table t = {.tb = tb, .size = NDA_MASTER + 1};
	struct reader *r = arg;

	if (h->nlmsg_type != RTM_NEWNEIGH || mnl_nlmsg_get_payload_len(h) < sizeof(*ndm))
		return 0;
	const struct device *d = device_of(r, (uint32_t)ndm->ndm_ifindex);

	(void)mnl_attr_parse(h, sizeof(*ndm), collect, &t);
	if (!d || d->kind != DEVICE_BRIDGE || !(ndm->ndm_state & NUD_PERMANENT) ||
		!tb[NDA_LLADDR] || mnl_attr_get_payload_len(tb[NDA_LLADDR]) != 6)
		return 0;
	const struct net_addr ip = addr_of(tb[NDA_DST]);

	if (!ip.family)
		return 0;
	struct oneigh *n = overlay_get_neigh(d->net, &ip);

	if (!n) {
		r->rc = -ENOMEM;
		return 0;
	}
	n->k_there = true;
	memcpy(n->k_mac.bytes, mnl_attr_get_payload(tb[NDA_LLADDR]), 6);
	return 0;
}

/* ---- all of it ---- */

/* Nothing is known of the kernel; what is wanted stays. */
static void forget_links(struct reader *r)
{
	struct device *d, *d_next;
	struct oport *p;
	struct onet *net;

	HASH_ITER (hh, r->devices, d, d_next) {
		HASH_DEL(r->devices, d); /* NOLINT: uthash unlinks it */
		free(d);
	}
	for (net = r->ov->nets; net; net = net->hh.next) {
		net->bridge = net->vxlan = 0;
		net->k_bridge_fits = net->k_vxlan_fits = net->k_vxlan_alien = false;
	}
	for (p = r->ov->ports; p; p = p->hh.next) {
		p->index = 0;
		p->k_fits = false;
	}
}

static void restart_links(void *arg)
{
	forget_links(arg);
}

static void restart_fdb(void *arg)
{
	struct reader *r = arg;

	for (struct onet *net = r->ov->nets; net; net = net->hh.next) {
		for (struct omember *m = net->members; m; m = m->hh.next) {
			m->k_vtep = (struct net_addr){0};
			m->k_master = 0;
			if (m->port && !m->port->stated && overlay_place(net, m, NULL) < 0)
				r->rc = -ENOMEM;
		}
		for (struct oflood *f = net->floods; f; f = f->hh.next)
			f->k_there = false;
	}
}

static void restart_neigh(void *arg)
{
	struct reader *r = arg;

	for (struct onet *net = r->ov->nets; net; net = net->hh.next) {
		for (struct oneigh *n = net->neighs; n; n = n->hh.next)
			n->k_there = false;
	}
}

/* ---- filters of ports ---- */

static int see_qdisc(void *arg, const struct nlmsghdr *h)
{
	const struct tcmsg *tc = mnl_nlmsg_get_payload(h);
	const struct nlattr *tb[TCA_MAX + 1] = {NULL};
	struct table t = {.tb = tb, .size = TCA_MAX + 1};
	struct reader *r = arg;
	struct device *d;
	uint32_t index;

	if (h->nlmsg_type != RTM_NEWQDISC || mnl_nlmsg_get_payload_len(h) < sizeof(*tc))
		return 0;
	(void)mnl_attr_parse(h, sizeof(*tc), collect, &t);
	if (!tb[TCA_KIND] || strcmp(mnl_attr_get_str(tb[TCA_KIND]), "clsact") != 0)
		return 0;
	index = (uint32_t)tc->tcm_ifindex;
	HASH_FIND(hh, r->devices, &index, sizeof(index), d);
	if (d && d->kind == DEVICE_PORT) {
		d->port->k_guard = OGUARD_ON;
		d->port->k_guard_fits = false;
	}
	return 0;
}

static void restart_qdiscs(void *arg)
{
	struct reader *r = arg;

	for (struct oport *p = r->ov->ports; p; p = p->hh.next) {
		p->k_guard = OGUARD_OFF;
		p->k_guard_fits = true;
	}
}

/* Objects that neither we nor the kernel have. */
static void drop_ghosts(struct overlay *ov)
{
	struct onet *net, *net_next;
	struct oport *p, *p_next;

	HASH_ITER (hh, ov->nets, net, net_next) {
		/* cppcheck-suppress uninitvar ; HASH_ITER sets it */
		if (!net->stated && !net->bridge && !net->vxlan)
			overlay_forget_net(ov, net);
	}
	HASH_ITER (hh, ov->ports, p, p_next) {
		/* cppcheck-suppress uninitvar ; HASH_ITER sets it */
		if (!p->stated && !p->index)
			overlay_forget_port(ov, p);
	}
}

static int dump(struct reader *r, uint16_t type, uint8_t family, size_t header, nl_msg_fn *see,
	nl_restart_fn *restart, struct err *err)
{
	struct nlmsghdr *h = nl_add(r->ov->nl, type, NLM_F_DUMP, header, 0);
	int rc;

	/* The family is the first byte of every one of these headers. */
	*(uint8_t *)mnl_nlmsg_get_payload(h) = family;
	restart(r);
	rc = nl_dump(r->ov->nl, see, restart, r, err);
	if (rc == 0 && r->rc < 0)
		rc = err_set(err, r->rc, "out of memory");
	return rc;
}

int overlay_read(struct overlay *ov, struct err *err)
{
	struct reader r = {.ov = ov};
	int rc = dump(
		&r, RTM_GETLINK, AF_UNSPEC, sizeof(struct ifinfomsg), see_link, restart_links, err);

	if (rc == 0) {
		join_masters(&r);
		rc = dump(&r, RTM_GETNEIGH, AF_BRIDGE, sizeof(struct ndmsg), see_fdb, restart_fdb,
			err);
	}
	if (rc == 0)
		rc = dump(&r, RTM_GETQDISC, AF_UNSPEC, sizeof(struct tcmsg), see_qdisc,
			restart_qdiscs, err);
	if (rc == 0)
		rc = dump(&r, RTM_GETNEIGH, AF_INET, sizeof(struct ndmsg), see_neigh, restart_neigh,
			err);
	if (rc == 0 && ov->ipv6) {
		struct nlmsghdr *h =
			nl_add(ov->nl, RTM_GETNEIGH, NLM_F_DUMP, sizeof(struct ndmsg), 0);

		*(uint8_t *)mnl_nlmsg_get_payload(h) = AF_INET6;
		rc = nl_dump(ov->nl, see_neigh, NULL, &r, err);
	}
	if (rc == 0)
		drop_ghosts(ov);
	struct device *d, *d_next;

	HASH_ITER (hh, r.devices, d, d_next) {
		HASH_DEL(r.devices, d); /* NOLINT: uthash unlinks it */
		free(d);
	}
	return rc < 0 ? err_wrap(err, "overlay: read the namespace") : 0;
}
