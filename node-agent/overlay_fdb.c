#include "node-agent/overlay_int.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Keys are compared as bytes: no rest behind an IPv4 address. */
static struct net_addr clean(const struct net_addr *addr)
{
	struct net_addr out = {.family = addr->family};

	memcpy(out.bytes, addr->bytes, net_addr_size(addr));
	return out;
}

static bool same_mac(const struct net_mac *a, const struct net_mac *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

/* ---- objects ---- */

struct omember *overlay_find_member(struct onet *net, const struct net_mac *mac)
{
	struct omember *m;

	HASH_FIND(hh, net->members, mac->bytes, sizeof(mac->bytes), m);
	return m;
}

struct omember *overlay_get_member(struct onet *net, const struct net_mac *mac)
{
	struct omember *m = overlay_find_member(net, mac);

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->mac = *mac;
	HASH_ADD(hh, net->members, mac.bytes, sizeof(m->mac.bytes), m);
	return m;
}

struct oneigh *overlay_get_neigh(struct onet *net, const struct net_addr *ip)
{
	struct net_addr key = clean(ip);
	struct oneigh *n;

	HASH_FIND(hh, net->neighs, &key, sizeof(key), n);
	if (n)
		return n;
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->ip = key;
	HASH_ADD(hh, net->neighs, ip, sizeof(n->ip), n);
	return n;
}

struct oflood *overlay_get_flood(struct onet *net, const struct net_addr *vtep)
{
	struct net_addr key = clean(vtep);
	struct oflood *f;

	HASH_FIND(hh, net->floods, &key, sizeof(key), f);
	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->vtep = key;
	HASH_ADD(hh, net->floods, vtep, sizeof(f->vtep), f);
	return f;
}

static void touch_member(struct onet *net, struct omember *m)
{
	if (m->dirty)
		return;
	m->dirty = true;
	m->next_dirty = net->dirty_members;
	net->dirty_members = m;
}

static void touch_neigh(struct onet *net, struct oneigh *n)
{
	if (n->dirty)
		return;
	n->dirty = true;
	n->next_dirty = net->dirty_neighs;
	net->dirty_neighs = n;
}

static void touch_flood(struct onet *net, struct oflood *f)
{
	if (f->dirty)
		return;
	f->dirty = true;
	f->next_dirty = net->dirty_floods;
	net->dirty_floods = f;
}

void overlay_touch_all(struct onet *net)
{
	for (struct omember *m = net->members; m; m = m->hh.next)
		touch_member(net, m);
	for (struct oneigh *n = net->neighs; n; n = n->hh.next)
		touch_neigh(net, n);
	for (struct oflood *f = net->floods; f; f = f->hh.next)
		touch_flood(net, f);
}

void overlay_free_entries(struct onet *net)
{
	struct omember *m, *m_next;
	struct oneigh *n, *n_next;
	struct oflood *f, *f_next;

	HASH_ITER (hh, net->members, m, m_next) {
		HASH_DEL(net->members, m); /* NOLINT: uthash unlinks it */
		free(m);
	}
	HASH_ITER (hh, net->neighs, n, n_next) {
		HASH_DEL(net->neighs, n); /* NOLINT: uthash unlinks it */
		free(n);
	}
	HASH_ITER (hh, net->floods, f, f_next) {
		HASH_DEL(net->floods, f); /* NOLINT: uthash unlinks it */
		free(f);
	}
	net->dirty_members = NULL;
	net->dirty_neighs = NULL;
	net->dirty_floods = NULL;
}

/* ---- what is wanted ---- */

/* Where a member is for us: remote only when no port of ours has it. */
static const struct net_addr *remote_of(const struct omember *m)
{
	return !m->port && m->vtep.family ? &m->vtep : NULL;
}

static bool is_placed(const struct omember *m)
{
	return m->port || m->vtep.family;
}

static int count_flood(struct onet *net, const struct net_addr *vtep, int change)
{
	struct oflood *f;

	if (!vtep)
		return 0;
	f = overlay_get_flood(net, vtep);
	if (!f)
		return -ENOMEM;
	f->members += (uint32_t)change;
	touch_flood(net, f);
	return 0;
}

/* An address is of MAC (or, not WANTED, no longer is). */
static int want_neigh(
	struct onet *net, const struct net_addr *ip, const struct net_mac *mac, bool wanted)
{
	struct oneigh *n;

	if (!ip->family)
		return 0;
	n = overlay_get_neigh(net, ip);
	if (!n)
		return -ENOMEM;
	/* Taken over by another MAC meanwhile: not ours to withdraw. */
	if (!wanted && n->wanted && !same_mac(&n->mac, mac))
		return 0;
	n->wanted = wanted;
	n->mac = *mac;
	touch_neigh(net, n);
	return 0;
}

int overlay_set_member(struct onet *net, struct omember *m, const struct net_addr *vtep,
	struct oport *port, const struct net_addr *ip4, const struct net_addr *ip6)
{
	int rc = count_flood(net, remote_of(m), -1);

	if (is_placed(m)) {
		rc = rc < 0 ? rc : want_neigh(net, &m->ip4, &m->mac, false);
		rc = rc < 0 ? rc : want_neigh(net, &m->ip6, &m->mac, false);
	}
	m->vtep = clean(vtep);
	m->port = port;
	m->ip4 = clean(ip4);
	m->ip6 = clean(ip6);
	rc = rc < 0 ? rc : count_flood(net, remote_of(m), 1);
	if (is_placed(m)) {
		rc = rc < 0 ? rc : want_neigh(net, &m->ip4, &m->mac, true);
		rc = rc < 0 ? rc : want_neigh(net, &m->ip6, &m->mac, true);
	}
	touch_member(net, m);
	return rc;
}

int overlay_place(struct onet *net, struct omember *m, struct oport *port)
{
	return m->port == port ? 0 : overlay_set_member(net, m, &m->vtep, port, &m->ip4, &m->ip6);
}

/* ---- messages ---- */

static struct nlmsghdr *fdb_msg(struct overlay *ov, uint16_t type, uint16_t flags, uint32_t index,
	uint8_t ntf, const uint8_t mac[6])
{
	struct nlmsghdr *h = nl_add(
		ov->nl, type, flags, sizeof(struct ndmsg), type == RTM_DELNEIGH ? ENOENT : 0);
	struct ndmsg *ndm = mnl_nlmsg_get_payload(h);

	ndm->ndm_family = AF_BRIDGE;
	ndm->ndm_ifindex = (int)index;
	ndm->ndm_flags = ntf;
	/* What `bridge fdb add ... static` says: static for the bridge, and not to be
	 * aged by the vxlan device. */
	ndm->ndm_state = NUD_NOARP | NUD_REACHABLE;
	mnl_attr_put(h, NDA_LLADDR, 6, mac);
	return h;
}

static void put_dst(struct nlmsghdr *h, const struct net_addr *addr)
{
	mnl_attr_put(h, NDA_DST, net_addr_size(addr), addr->bytes);
}

static void sync_member(struct overlay *ov, const struct onet *net, struct omember *m)
{
	const struct net_addr *remote = remote_of(m);
	uint32_t master = m->port ? m->port->index : remote ? net->vxlan : 0;

	if (remote && (!net_addr_equal(remote, &m->k_vtep) || m->k_master != master)) {
		/* Both tables in one message. */
		put_dst(fdb_msg(ov, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, net->vxlan,
				NTF_SELF | NTF_MASTER, m->mac.bytes),
			remote);
		m->k_vtep = *remote;
		m->k_master = master;
		return;
	}
	if (!remote && m->k_vtep.family) {
		(void)fdb_msg(ov, RTM_DELNEIGH, 0, net->vxlan, NTF_SELF, m->mac.bytes);
		m->k_vtep = (struct net_addr){0};
	}
	if (m->k_master == master)
		return;
	if (master)
		(void)fdb_msg(ov, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, master, NTF_MASTER,
			m->mac.bytes);
	else
		(void)fdb_msg(ov, RTM_DELNEIGH, 0, m->k_master, NTF_MASTER, m->mac.bytes);
	m->k_master = master;
}

static void sync_flood(struct overlay *ov, const struct onet *net, struct oflood *f)
{
	static const uint8_t all[6] = {0};

	if (f->k_there == (f->members > 0))
		return;
	put_dst(fdb_msg(ov, f->members ? RTM_NEWNEIGH : RTM_DELNEIGH,
			f->members ? NLM_F_CREATE | NLM_F_APPEND : 0, net->vxlan, NTF_SELF, all),
		&f->vtep);
	f->k_there = f->members > 0;
}

static void sync_neigh(struct overlay *ov, const struct onet *net, struct oneigh *n)
{
	bool want =
		n->wanted && (n->ip.family == 4 || (ov->ipv6 && net->mtu >= OVERLAY_IPV6_MTU_MIN));
	struct nlmsghdr *h;
	struct ndmsg *ndm;

	if (want == n->k_there && (!want || same_mac(&n->mac, &n->k_mac)))
		return;
	h = nl_add(ov->nl, want ? RTM_NEWNEIGH : RTM_DELNEIGH,
		want ? NLM_F_CREATE | NLM_F_REPLACE : 0, sizeof(*ndm), want ? 0 : ENOENT);
	ndm = mnl_nlmsg_get_payload(h);
	ndm->ndm_family = n->ip.family == 4 ? AF_INET : AF_INET6;
	ndm->ndm_ifindex = (int)net->bridge;
	ndm->ndm_state = NUD_PERMANENT;
	put_dst(h, &n->ip);
	if (want)
		mnl_attr_put(h, NDA_LLADDR, 6, n->mac.bytes);
	n->k_there = want;
	n->k_mac = n->mac;
}

/* Deletions first: an address that moves from one MAC to another, or a MAC from
 * a port to the vxlan, is one replacement and not concerned. */
void overlay_sync(struct overlay *ov, struct onet *net)
{
	while (net->dirty_floods) {
		struct oflood *f = net->dirty_floods;

		net->dirty_floods = f->next_dirty;
		f->dirty = false;
		sync_flood(ov, net, f);
		if (!f->k_there) {
			HASH_DEL(net->floods, f); /* NOLINT: uthash unlinks it */
			free(f);
		}
	}
	while (net->dirty_members) {
		struct omember *m = net->dirty_members;

		net->dirty_members = m->next_dirty;
		m->dirty = false;
		sync_member(ov, net, m);
		if (!is_placed(m)) {
			HASH_DEL(net->members, m); /* NOLINT: uthash unlinks it */
			free(m);
		}
	}
	while (net->dirty_neighs) {
		struct oneigh *n = net->dirty_neighs;

		net->dirty_neighs = n->next_dirty;
		n->dirty = false;
		sync_neigh(ov, net, n);
		if (!n->wanted) {
			HASH_DEL(net->neighs, n); /* NOLINT: uthash unlinks it */
			free(n);
		}
	}
}

/* ---- the interface ---- */

static int check_member(const struct overlay_member *m, struct err *err)
{
	char mac[NET_ADDR_TEXT];

	if (!net_mac_is_unicast(&m->mac))
		return err_set(
			err, -EINVAL, "overlay: %s is no unicast MAC", net_mac_text(mac, &m->mac));
	if ((m->ip4.family != 0 && m->ip4.family != 4) ||
		(m->ip6.family != 0 && m->ip6.family != 6))
		return err_set(err, -EINVAL,
			"overlay: member %s has an address of the wrong family",
			net_mac_text(mac, &m->mac));
	return 0;
}

static int state_member(struct overlay *ov, struct onet *net, const struct overlay_member *in)
{
	static const struct net_addr none = {0};
	struct omember *m = overlay_get_member(net, &in->mac);
	bool ours = net_addr_equal(&in->vtep, &ov->vtep);

	if (!m)
		return -ENOMEM;
	m->listed = true;
	/* A port that was stated knows its addresses; one found at the start does not. */
	if (m->port && m->port->stated)
		return overlay_set_member(
			net, m, ours ? &none : &in->vtep, m->port, &m->ip4, &m->ip6);
	return overlay_set_member(net, m, ours ? &none : &in->vtep, m->port, &in->ip4, &in->ip6);
}

/* What the full list does not name is not remote; a port stays. */
static int withdraw(struct onet *net, struct omember *m)
{
	static const struct net_addr none = {0};
	bool keep = m->port && m->port->stated;

	return overlay_set_member(
		net, m, &none, m->port, keep ? &m->ip4 : &none, keep ? &m->ip6 : &none);
}

static int state_members(struct overlay *ov, struct onet *net, bool full,
	const struct overlay_member *members, size_t count, const struct net_mac *removed,
	size_t removed_count)
{
	int rc = 0;

	for (struct omember *m = net->members; m && full; m = m->hh.next)
		m->listed = false;
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = state_member(ov, net, &members[i]);
	for (struct omember *m = net->members; m && full && rc == 0; m = m->hh.next) {
		if (!m->listed)
			rc = withdraw(net, m);
	}
	for (size_t i = 0; rc == 0 && i < removed_count; i++) {
		struct omember *m = overlay_find_member(net, &removed[i]);

		rc = m ? withdraw(net, m) : 0;
	}
	return rc;
}

int overlay_members(struct overlay *ov, uint32_t vni, bool full,
	const struct overlay_member *members, size_t count, const struct net_mac *removed,
	size_t removed_count, struct err *err)
{
	struct onet *net;
	int rc = overlay_refresh(ov, err);

	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = check_member(&members[i], err);
	if (rc < 0)
		return rc;
	net = overlay_find_net(ov, vni);
	if (!net || !net->stated)
		return err_set(err, -ENOENT, "overlay: network %u is not there", vni);
	rc = overlay_ensure_net(ov, net, err);
	if (rc < 0)
		return rc;
	rc = state_members(ov, net, full, members, count, removed, removed_count);
	if (rc < 0) {
		ov->stale = true;
		return err_set(err, rc, "out of memory");
	}
	if (full) {
		/* Also what the kernel had from earlier and nobody wants. */
		net->full = true;
		overlay_touch_all(net);
	}
	overlay_guard_ports(ov, net);
	overlay_sync(ov, net);
	rc = overlay_guard_commit(ov, err);
	return rc < 0 ? err_wrap(err, "overlay: members of network %u", vni) : 0;
}
