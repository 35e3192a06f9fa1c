#include "node-agent/overlay_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/str.h"
#include "node-agent/netns.h"

#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

/* ---- objects ---- */

struct oport *overlay_find_port(struct overlay *ov, uint64_t key)
{
	struct oport *p;

	HASH_FIND(hh, ov->ports, &key, sizeof(key), p);
	return p;
}

struct oport *overlay_get_port(struct overlay *ov, uint64_t key)
{
	struct oport *p = overlay_find_port(ov, key);

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->key = key;
	(void)overlay_port_name(p->ifname, (uint32_t)(key >> 8), (uint32_t)(key & 0xff), NULL);
	HASH_ADD(hh, ov->ports, key, sizeof(p->key), p);
	return p;
}

void overlay_forget_port(struct overlay *ov, struct oport *port)
{
	HASH_DEL(ov->ports, port); /* NOLINT: uthash unlinks it */
	free(port);
}

static uint64_t key_of(uint32_t slot, uint32_t nic)
{
	return (uint64_t)slot << 8 | nic;
}

/* ---- the tap ---- */

struct tap_job {
	const struct oport *port;
	uid_t uid;
};

/* In the overlay's namespace: a tun device belongs to where it was opened.
 * linux/Documentation/networking/tuntap.rst; rtnetlink cannot make one. */
static int make_tap(void *arg, struct err *err)
{
	const struct tap_job *job = arg;
	struct ifreq ifr = {.ifr_flags = TAP_FLAGS};
	int rc = 0, fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_errno(err, errno, "overlay: open /dev/net/tun");
	(void)str_copy(ifr.ifr_name, sizeof(ifr.ifr_name), job->port->ifname);
	/* A persistent one that is there is only attached to; a running guest has it: EBUSY. */
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		rc = err_errno(err, errno, "overlay: make tap %s", job->port->ifname);
	else if (ioctl(fd, TUNSETOWNER, (unsigned long)job->uid) < 0)
		rc = err_errno(err, errno, "overlay: give tap %s to user %u", job->port->ifname,
			(unsigned)job->uid);
	else if (ioctl(fd, TUNSETPERSIST, 1UL) < 0)
		rc = err_errno(err, errno, "overlay: keep tap %s", job->port->ifname);
	(void)close(fd);
	return rc;
}

/* ---- does this kernel lock ports? ---- */

static int find_locked(const struct nlattr *attr, void *data)
{
	bool *found = data;

	if (mnl_attr_get_type(attr) == IFLA_BRPORT_LOCKED && mnl_attr_get_payload_len(attr) == 1)
		*found = mnl_attr_get_u8(attr) == 1;
	return MNL_CB_OK;
}

static int find_slave_data(const struct nlattr *attr, void *data)
{
	if (mnl_attr_get_type(attr) == IFLA_INFO_SLAVE_DATA)
		(void)mnl_attr_parse_nested(attr, find_locked, data);
	return MNL_CB_OK;
}

static int find_linkinfo(const struct nlattr *attr, void *data)
{
	if (mnl_attr_get_type(attr) == IFLA_LINKINFO)
		(void)mnl_attr_parse_nested(attr, find_slave_data, data);
	return MNL_CB_OK;
}

static int see_locked(void *arg, const struct nlmsghdr *h)
{
	(void)mnl_attr_parse(h, sizeof(struct ifinfomsg), find_linkinfo, arg);
	return 0;
}

/* A kernel before 5.18 ignores the option silently: then nothing would keep
 * a guest from sending under another's MAC, and that must be known. */
static int check_locked(struct overlay *ov, const struct oport *port, struct err *err)
{
	bool locked = false;
	int rc;

	if (ov->locked_seen)
		return 0;
	struct nlmsghdr *h = nl_add(ov->nl, RTM_GETLINK, 0, sizeof(struct ifinfomsg), 0);
	struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);

	ifi->ifi_index = (int)port->index;
	rc = nl_query(ov->nl, see_locked, &locked, err);
	if (rc < 0)
		return rc;
	if (!locked)
		return err_set(err, -EOPNOTSUPP,
			"overlay: this host's kernel has no locked bridge ports; Linux 5.18 or "
			"later "
			"is needed");
	ov->locked_seen = true;
	return 0;
}

/* ---- a port ---- */

/* The member of the port's MAC no longer lives on it. */
static int detach(struct overlay *ov, struct oport *port)
{
	static const struct net_addr none = {0};
	struct omember *m = port->net ? overlay_find_member(port->net, &port->mac) : NULL;
	int rc = 0;

	if (m && m->port == port) {
		/* Where it is remote, its addresses stay; else they go with it. */
		bool remote = m->vtep.family != 0;

		rc = overlay_set_member(port->net, m, &m->vtep, NULL, remote ? &m->ip4 : &none,
			remote ? &m->ip6 : &none);
		if (rc == 0)
			overlay_sync(ov, port->net);
	}
	return rc;
}

static int attach(
	struct overlay *ov, struct onet *net, struct oport *port, const struct overlay_member *self)
{
	struct omember *m = overlay_get_member(net, &self->mac);

	if (!m)
		return -ENOMEM;
	port->net = net;
	port->mac = self->mac;
	int rc = overlay_set_member(net, m, &m->vtep, port, &self->ip4, &self->ip6);

	if (rc == 0)
		overlay_sync(ov, net);
	return rc;
}

/* The tap is there, with the right owner. */
static int ensure_tap(struct overlay *ov, struct oport *port, uid_t uid, struct err *err)
{
	struct tap_job job = {.port = port, .uid = uid};
	int rc;

	if (port->index && port->uid != uid) {
		overlay_link_delete(ov, port->index);
		rc = overlay_commit(ov, err);
		if (rc < 0)
			return rc;
		port->index = 0;
		port->k_fits = false;
	}
	if (port->index)
		return 0;
	rc = netns_run(ov->ns_fd, make_tap, &job, err);
	if (rc < 0)
		return rc;
	rc = nl_ifindex(ov->nl, port->ifname);
	if (rc < 0)
		return err_errno(err, rc, "overlay: tap %s", port->ifname);
	port->index = (uint32_t)rc;
	port->uid = uid;
	port->k_fits = false;
	port->k_guard = OGUARD_OFF;
	port->k_guard_fits = true;
	return 0;
}

static int set_port(struct overlay *ov, struct onet *net, struct oport *port,
	const struct overlay_member *self, struct err *err)
{
	bool moved = port->net != net, up = !port->k_fits;
	int rc = 0;

	if (moved || memcmp(&port->mac, &self->mac, sizeof(self->mac)) != 0)
		rc = detach(ov, port);
	if (memcmp(&port->mac, &self->mac, sizeof(self->mac)) != 0 ||
		!net_addr_equal(&port->ip4, &self->ip4) || !net_addr_equal(&port->ip6, &self->ip6))
		port->k_guard_fits = false;
	if (rc == 0) {
		port->mac = self->mac;
		port->ip4 = self->ip4;
		port->ip6 = self->ip6;
		overlay_guard_port(ov, net, port); /* before it is up */
		port->net = net;
		if (moved || !port->k_fits || port->k_mtu != net->mtu) {
			overlay_link_port(ov, port);
			port->k_mtu = net->mtu;
		}
		/* Entries behind the move to the bridge: leaving one flushes them.  */
		rc = attach(ov, net, port, self);
	}
	if (rc < 0) {
		nl_discard(ov->nl);
		ov->stale = true;
		return err_set(err, rc, "out of memory");
	}
	if (up)
		overlay_link_up(ov, port->index);
	rc = overlay_guard_commit(ov, err);
	if (rc == 0)
		rc = check_locked(ov, port, err);
	if (rc == 0) {
		port->k_fits = true;
		port->stated = true;
	}
	return rc;
}

static int check_port(
	uint32_t vni, const struct onet *net, const struct overlay_member *self, struct err *err)
{
	char mac[NET_ADDR_TEXT];

	if (!net || !net->stated)
		return err_set(err, -ENOENT, "overlay: network %u is not there", vni);
	if (!net_mac_is_unicast(&self->mac))
		return err_set(err, -EINVAL, "overlay: %s is no unicast MAC",
			net_mac_text(mac, &self->mac));
	if ((self->ip4.family != 0 && self->ip4.family != 4) ||
		(self->ip6.family != 0 && self->ip6.family != 6))
		return err_set(err, -EINVAL, "overlay: an address of the wrong family");
	return 0;
}

int overlay_port(struct overlay *ov, uint32_t vni, uint32_t slot, uint32_t nic, uid_t uid,
	const struct overlay_member *self, char ifname[OVERLAY_IFNAME], struct err *err)
{
	char name[OVERLAY_IFNAME];
	struct oport *port;
	struct onet *net;
	int rc = overlay_refresh(ov, err);

	if (rc == 0)
		rc = overlay_port_name(name, slot, nic, err);
	if (rc < 0)
		return rc;
	net = overlay_find_net(ov, vni);
	rc = check_port(vni, net, self, err);
	if (rc == 0)
		rc = overlay_ensure_net(ov, net, err);
	if (rc < 0)
		return rc;
	struct omember *m = overlay_find_member(net, &self->mac);

	port = overlay_get_port(ov, key_of(slot, nic));
	if (!port)
		return err_set(err, -ENOMEM, "out of memory");
	if (m && m->port && m->port != port && m->port->stated) {
		char mac[NET_ADDR_TEXT];

		rc = err_set(err, -EEXIST, "overlay: MAC %s is already that of port %s",
			net_mac_text(mac, &self->mac), m->port->ifname);
	}
	if (rc == 0)
		rc = ensure_tap(ov, port, uid, err);
	if (rc == 0)
		rc = set_port(ov, net, port, self, err);
	if (rc < 0) {
		if (!port->index && !port->stated)
			overlay_forget_port(ov, port);
		return err_wrap(err, "overlay: port %s", name);
	}
	(void)str_copy(ifname, OVERLAY_IFNAME, name);
	return 0;
}

/* Adds the messages and forgets the port. */
static int remove_port(struct overlay *ov, struct oport *port)
{
	struct omember *m = port->net ? overlay_find_member(port->net, &port->mac) : NULL;
	int rc;

	/* The device takes its forwarding entries with it. */
	if (port->index)
		overlay_link_delete(ov, port->index);
	if (m && m->k_master == port->index)
		m->k_master = 0;
	rc = detach(ov, port);
	overlay_forget_port(ov, port);
	return rc;
}

int overlay_port_remove(struct overlay *ov, uint32_t slot, uint32_t nic, struct err *err)
{
	char name[OVERLAY_IFNAME];
	struct oport *port;
	int rc = overlay_refresh(ov, err);

	if (rc == 0)
		rc = overlay_port_name(name, slot, nic, err);
	if (rc < 0)
		return rc;
	port = overlay_find_port(ov, key_of(slot, nic));
	if (!port)
		return 0;
	rc = remove_port(ov, port);
	int sent = overlay_commit(ov, err);

	if (rc < 0) {
		ov->stale = true;
		return err_set(err, rc, "out of memory");
	}
	return sent < 0 ? err_wrap(err, "overlay: port %s", name) : 0;
}

int overlay_remove_other_ports(struct overlay *ov, const uint32_t *slots, size_t count)
{
	struct oport *port, *next;
	int rc = 0;

	HASH_ITER (hh, ov->ports, port, next) {
		/* cppcheck-suppress uninitvar ; HASH_ITER sets it */
		uint32_t slot = (uint32_t)(port->key >> 8);

		if (!overlay_contains(slots, count, slot) && rc == 0)
			rc = remove_port(ov, port);
	}
	return rc;
}

/* ---- counters ---- */

static int see_stats(const struct nlattr *attr, void *data)
{
	struct rtnl_link_stats64 s = {0};
	struct overlay_stats *out = data;
	size_t size = mnl_attr_get_payload_len(attr);

	if (mnl_attr_get_type(attr) != IFLA_STATS64)
		return MNL_CB_OK;
	memcpy(&s, mnl_attr_get_payload(attr), size < sizeof(s) ? size : sizeof(s));
	/* What the tap receives the guest has sent. */
	*out = (struct overlay_stats){.rx_bytes = s.tx_bytes,
		.rx_packets = s.tx_packets,
		.tx_bytes = s.rx_bytes,
		.tx_packets = s.rx_packets,
		.dropped = s.tx_dropped + s.rx_dropped};
	return MNL_CB_STOP;
}

static int see_link(void *arg, const struct nlmsghdr *h)
{
	(void)mnl_attr_parse(h, sizeof(struct ifinfomsg), see_stats, arg);
	return 0;
}

int overlay_port_stats(
	struct overlay *ov, uint32_t slot, uint32_t nic, struct overlay_stats *out, struct err *err)
{
	struct overlay_stats stats = {0};
	struct oport *port;
	int rc = overlay_refresh(ov, err);

	if (rc < 0)
		return rc;
	port = overlay_find_port(ov, key_of(slot, nic));
	if (!port || !port->index)
		return err_set(err, -ENOENT, "overlay: port t%u.%u is not there", slot, nic);
	struct nlmsghdr *h = nl_add(ov->nl, RTM_GETLINK, 0, sizeof(struct ifinfomsg), 0);
	struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);

	ifi->ifi_index = (int)port->index;
	rc = nl_query(ov->nl, see_link, &stats, err);
	if (rc < 0) {
		ov->stale |= rc == -ENODEV;
		return err_wrap(err, "overlay: port %s", port->ifname);
	}
	*out = stats;
	return 0;
}
