#include "node-agent/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/str.h"
#include "node-agent/netns.h"
#include "node-agent/overlay_int.h"

#define VXLAN_PORT 4789 /* RFC 7348 */
#define MTU_MIN 68	/* RFC 791 */

/* ---- names ---- */

void overlay_bridge_name(char name[OVERLAY_IFNAME], uint32_t vni)
{
	(void)str_format(name, OVERLAY_IFNAME, "b%" PRIu32, vni);
}

void overlay_vxlan_name(char name[OVERLAY_IFNAME], uint32_t vni)
{
	(void)str_format(name, OVERLAY_IFNAME, "x%" PRIu32, vni);
}

int overlay_port_name(char name[OVERLAY_IFNAME], uint32_t slot, uint32_t nic, struct err *err)
{
	if (slot > OVERLAY_SLOT_MAX || nic > OVERLAY_NIC_MAX)
		return err_set(err, -EINVAL,
			"overlay: slot %" PRIu32 ", NIC %" PRIu32 " is past the limit of %u, %u",
			slot, nic, OVERLAY_SLOT_MAX, OVERLAY_NIC_MAX);
	return str_format(name, OVERLAY_IFNAME, "t%" PRIu32 ".%" PRIu32, slot, nic) < 0 ? -EINVAL
											: 0;
}

bool overlay_parse_name(const char *name, char kind, uint32_t max, uint32_t *number)
{
	uint64_t n;

	if (name[0] != kind || str_u64(name + 1, 0, max, &n) < 0)
		return false;
	*number = (uint32_t)n;
	return true;
}

bool overlay_parse_port(const char *name, uint64_t *key)
{
	char text[OVERLAY_IFNAME];
	uint32_t slot;
	uint64_t nic;

	if (str_copy(text, sizeof(text), name) < 0)
		return false;
	char *dot = strchr(text, '.');

	if (!dot)
		return false;
	*dot = '\0';
	if (!overlay_parse_name(text, 't', OVERLAY_SLOT_MAX, &slot) ||
		str_u64(dot + 1, 0, OVERLAY_NIC_MAX, &nic) < 0)
		return false;
	*key = (uint64_t)slot << 8 | nic;
	return true;
}

/* ---- objects ---- */

struct onet *overlay_find_net(struct overlay *ov, uint32_t vni)
{
	struct onet *net;

	HASH_FIND(hh, ov->nets, &vni, sizeof(vni), net);
	return net;
}

struct onet *overlay_get_net(struct overlay *ov, uint32_t vni)
{
	struct onet *net = overlay_find_net(ov, vni);

	if (net)
		return net;
	net = calloc(1, sizeof(*net));
	if (!net)
		return NULL;
	net->vni = vni;
	HASH_ADD(hh, ov->nets, vni, sizeof(net->vni), net);
	return net;
}

void overlay_forget_net(struct overlay *ov, struct onet *net)
{
	struct oport *p, *next;

	HASH_ITER (hh, ov->ports, p, next) {
		if (p->net == net)
			p->net = NULL;
	}
	overlay_free_entries(net);
	HASH_DEL(ov->nets, net); /* NOLINT: uthash unlinks it */
	free(net);
}

int overlay_refresh(struct overlay *ov, struct err *err)
{
	int rc;

	if (!ov->stale)
		return 0;
	rc = overlay_read(ov, err);
	if (rc < 0)
		return rc;
	ov->stale = false;
	/* What was lost meanwhile goes out with the next messages for the network. */
	for (struct onet *net = ov->nets; net; net = net->hh.next) {
		if (net->full)
			overlay_touch_all(net);
	}
	return 0;
}

int overlay_commit(struct overlay *ov, struct err *err)
{
	overlay_link_delete_group(ov);
	int rc = nl_commit(ov->nl, err);

	if (rc < 0)
		ov->stale = true;
	return rc;
}

/* ---- life ---- */

static int write_sysctl(const char *name, const char *value)
{
	char path[128], old[8];
	ssize_t n;
	int rc = 0, fd;

	if (str_format(path, sizeof(path), "/proc/sys/net/%s", name) < 0)
		return -ENAMETOOLONG;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno; /* this kernel has no such thing to turn off */
	n = read(fd, old, sizeof(old));
	if (n < 1 || old[0] != value[0]) {
		n = pwrite(fd, value, 1, 0);
		rc = n == 1 ? 0 : -errno;
	}
	(void)close(fd);
	return rc;
}

static int bring_lo_up(struct err *err)
{
	struct ifreq ifr = {.ifr_name = "lo"};
	int rc = 0, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_errno(err, errno, "overlay: open a socket");
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		rc = -errno;
	else if (!(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		rc = ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
	}
	(void)close(fd);
	return rc < 0 ? err_errno(err, rc, "overlay: bring lo up") : 0;
}

/* Inside the namespace: it forwards bridged frames, and nothing else.  It has no
 * addresses, does not route, says nothing of its own, and hands no frame to the
 * host's iptables (br_netfilter). */
static int prepare(void *arg, struct err *err)
{
	static const struct {
		const char *name, *value;
	} settings[] = {{"ipv4/ip_forward", "0"}, {"ipv4/conf/default/forwarding", "0"},
		{"ipv6/conf/all/forwarding", "0"}, {"ipv6/conf/lo/disable_ipv6", "1"},
		/* IPv6 is on, or no neighbour entries could be made, but without addresses:
		 * IN6_ADDR_GEN_MODE_NONE. */
		{"ipv6/conf/default/disable_ipv6", "0"}, {"ipv6/conf/default/addr_gen_mode", "1"},
		{"ipv6/conf/default/accept_ra", "0"}, {"ipv6/conf/default/autoconf", "0"},
		{"bridge/bridge-nf-call-iptables", "0"}, {"bridge/bridge-nf-call-ip6tables", "0"},
		{"bridge/bridge-nf-call-arptables", "0"}};
	struct overlay *ov = arg;

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		int rc = write_sysctl(settings[i].name, settings[i].value);

		if (rc < 0)
			return err_errno(err, rc, "overlay: set net/%s", settings[i].name);
	}
	ov->ipv6 = access("/proc/sys/net/ipv6", F_OK) == 0;
	return bring_lo_up(err);
}

int overlay_open(const struct overlay_config *config, struct overlay **out, struct err *err)
{
	struct overlay *ov = calloc(1, sizeof(*ov));
	int rc;

	if (!ov)
		return err_set(err, -ENOMEM, "out of memory");
	ov->vtep = config->vtep;
	ov->vxlan_port = config->vxlan_port ? config->vxlan_port : VXLAN_PORT;
	ov->ns_fd = -1;
	if (!config->vtep.family) {
		rc = err_set(err, -EINVAL, "overlay: no underlay address");
		goto out;
	}
	rc = netns_open(config->netns_path, NULL);
	if (rc < 0)
		rc = netns_make(config->netns_path, err);
	if (rc < 0)
		goto out;
	ov->ns_fd = rc;
	rc = netns_run(ov->ns_fd, prepare, ov, err);
	if (rc == 0)
		rc = nl_open(-1, &ov->host, err);
	if (rc == 0)
		rc = nl_open(ov->ns_fd, &ov->nl, err);
	if (rc == 0)
		rc = overlay_read(ov, err);
out:
	if (rc < 0) {
		overlay_close(ov);
		return rc;
	}
	*out = ov;
	return 0;
}

void overlay_close(struct overlay *ov)
{
	struct onet *net, *net_next;
	struct oport *p, *p_next;

	if (!ov)
		return;
	HASH_ITER (hh, ov->ports, p, p_next)
		overlay_forget_port(ov, p);
	HASH_ITER (hh, ov->nets, net, net_next)
		overlay_forget_net(ov, net);
	nl_close(ov->host);
	nl_close(ov->nl);
	if (ov->ns_fd >= 0)
		(void)close(ov->ns_fd);
	free(ov);
}

int overlay_netns_fd(const struct overlay *ov)
{
	return ov->ns_fd;
}

void overlay_counts(const struct overlay *ov, uint64_t *sends, uint64_t *changes)
{
	struct nl_counts host, here;

	nl_counts(ov->host, &host);
	nl_counts(ov->nl, &here);
	*sends = host.sends + here.sends;
	*changes = host.changes + here.changes;
}

int overlay_purge(const char *netns_path, struct err *err)
{
	/* The address does not matter for reading and removing. */
	struct overlay ov = {.vtep = {.family = 4}, .ns_fd = netns_open(netns_path, NULL)};
	struct onet *net, *net_next;
	struct oport *p, *p_next;
	int rc = 0;

	if (ov.ns_fd >= 0) {
		rc = nl_open(ov.ns_fd, &ov.nl, err);
		if (rc == 0)
			rc = overlay_read(&ov, err);
		HASH_ITER (hh, ov.ports, p, p_next) {
			if (rc == 0 && p->index)
				overlay_link_delete(&ov, p->index);
			overlay_forget_port(&ov, p);
		}
		HASH_ITER (hh, ov.nets, net, net_next) {
			if (rc == 0 && net->vxlan)
				overlay_link_delete(&ov, net->vxlan);
			if (rc == 0 && net->bridge)
				overlay_link_delete(&ov, net->bridge);
			overlay_forget_net(&ov, net);
		}
		if (rc == 0)
			rc = overlay_commit(&ov, err);
		nl_close(ov.nl);
		(void)close(ov.ns_fd);
	}
	return rc < 0 ? rc : netns_drop(netns_path, err);
}

/* ---- networks ---- */

void overlay_lost_vxlan(struct onet *net)
{
	for (struct omember *m = net->members; m; m = m->hh.next) {
		if (m->k_master && m->k_master == net->vxlan)
			m->k_master = 0;
		m->k_vtep = (struct net_addr){0};
	}
	for (struct oflood *f = net->floods; f; f = f->hh.next)
		f->k_there = false;
	net->vxlan = 0;
	net->k_vxlan_fits = net->k_vxlan_alien = false;
}

void overlay_lost_bridge(struct overlay *ov, struct onet *net)
{
	for (struct omember *m = net->members; m; m = m->hh.next)
		m->k_master = 0;
	for (struct oneigh *n = net->neighs; n; n = n->hh.next)
		n->k_there = false;
	for (struct oport *p = ov->ports; p; p = p->hh.next) {
		if (p->net == net)
			p->k_fits = false;
	}
	net->bridge = 0;
	net->k_bridge_fits = net->k_vxlan_fits = false;
}

/* Index of NAME in the overlay's namespace. */
static int index_of(struct overlay *ov, const char *name, uint32_t *index, struct err *err)
{
	int rc = nl_ifindex(ov->nl, name);

	if (rc < 0)
		return err_errno(err, rc, "overlay: device %s", name);
	*index = (uint32_t)rc;
	return 0;
}

static int make_bridge(struct overlay *ov, struct onet *net, struct err *err)
{
	char name[OVERLAY_IFNAME];
	int rc;

	overlay_link_bridge(ov, net);
	if (net->bridge) {
		overlay_link_up(ov, net->bridge);
		rc = overlay_commit(ov, err);
	} else {
		overlay_lost_bridge(ov, net);
		rc = overlay_commit(ov, err);
		overlay_bridge_name(name, net->vni);
		rc = rc < 0 ? rc : index_of(ov, name, &net->bridge, err);
		/* Up before any neighbour entry: going down and up would flush them. */
		if (rc == 0) {
			overlay_link_up(ov, net->bridge);
			rc = overlay_commit(ov, err);
		}
	}
	if (rc == 0) {
		net->k_bridge_fits = true;
		net->k_bridge_mtu = net->mtu;
	}
	return rc;
}

static int make_vxlan(struct overlay *ov, struct onet *net, struct err *err)
{
	char name[OVERLAY_IFNAME];
	int rc = 0;

	if (net->vxlan && net->k_vxlan_alien) {
		overlay_link_delete(ov, net->vxlan);
		overlay_lost_vxlan(net);
		rc = overlay_commit(ov, err);
	}
	if (rc == 0 && !net->vxlan) {
		overlay_lost_vxlan(net);
		overlay_link_vxlan(ov, net);
		rc = nl_commit(ov->host, err);
		ov->stale |= rc < 0;
		overlay_vxlan_name(name, net->vni);
		rc = rc < 0 ? rc : index_of(ov, name, &net->vxlan, err);
	}
	if (rc < 0)
		return rc;
	overlay_link_vxlan_setup(ov, net);
	rc = overlay_commit(ov, err);
	if (rc == 0) {
		net->k_vxlan_fits = true;
		net->k_vxlan_mtu = net->mtu;
	}
	return rc;
}

/* Ports follow the network's MTU, and come back to a bridge made anew. */
static void mend_ports(struct overlay *ov, struct onet *net)
{
	for (struct oport *p = ov->ports; p; p = p->hh.next) {
		if (p->net != net || !p->index)
			continue;
		if (!p->k_fits) {
			overlay_link_port(ov, p);
			overlay_link_up(ov, p->index);
			p->k_fits = true;
		} else if (p->k_mtu != net->mtu) {
			overlay_link_mtu(ov, p->index, net->mtu);
		}
		p->k_mtu = net->mtu;
	}
}

int overlay_ensure_net(struct overlay *ov, struct onet *net, struct err *err)
{
	bool bridge = net->bridge && net->k_bridge_fits && net->k_bridge_mtu == net->mtu;
	bool vxlan = net->vxlan && net->k_vxlan_fits && !net->k_vxlan_alien &&
		     net->k_vxlan_mtu == net->mtu;
	int rc = 0;

	if (bridge && vxlan)
		return 0;
	if (!bridge)
		rc = make_bridge(ov, net, err);
	if (rc == 0)
		rc = make_vxlan(ov, net, err);
	if (rc == 0) {
		mend_ports(ov, net);
		/* Entries that went with a device that was lost. */
		if (net->full) {
			overlay_touch_all(net);
			overlay_sync(ov, net);
		}
		rc = overlay_commit(ov, err);
	}
	return rc;
}

int overlay_net(struct overlay *ov, uint32_t vni, const char *name, uint32_t mtu, struct err *err)
{
	struct onet *net;
	int rc = overlay_refresh(ov, err);

	if (rc < 0)
		return rc;
	if (vni == 0 || vni > OVERLAY_VNI_MAX)
		return err_set(err, -EINVAL,
			"overlay: network %s: VNI %" PRIu32 " is not from 1 to %u", name, vni,
			OVERLAY_VNI_MAX);
	if (mtu < MTU_MIN || mtu > 65535)
		return err_set(err, -EINVAL,
			"overlay: network %s: MTU %" PRIu32 " is not from %d to 65535", name, mtu,
			MTU_MIN);
	net = overlay_get_net(ov, vni);
	if (!net)
		return err_set(err, -ENOMEM, "out of memory");
	net->mtu = mtu;
	net->stated = true;
	rc = overlay_ensure_net(ov, net, err);
	return rc < 0 ? err_wrap(err, "overlay: network %s", name) : 0;
}

/* Adds the messages that remove the network and its ports, and forgets them. */
static void remove_net(struct overlay *ov, struct onet *net)
{
	struct oport *p, *next;

	HASH_ITER (hh, ov->ports, p, next) {
		if (p->net != net)
			continue;
		if (p->index)
			overlay_link_delete(ov, p->index);
		overlay_forget_port(ov, p);
	}
	if (net->vxlan)
		overlay_link_delete(ov, net->vxlan);
	if (net->bridge)
		overlay_link_delete(ov, net->bridge);
	overlay_forget_net(ov, net);
}

int overlay_net_remove(struct overlay *ov, uint32_t vni, struct err *err)
{
	struct onet *net;
	int rc = overlay_refresh(ov, err);

	if (rc < 0)
		return rc;
	net = overlay_find_net(ov, vni);
	if (!net)
		return 0;
	remove_net(ov, net);
	rc = overlay_commit(ov, err);
	return rc < 0 ? err_wrap(err, "overlay: remove network %" PRIu32, vni) : 0;
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

bool overlay_contains(const uint32_t *list, size_t count, uint32_t n)
{
	return count > 0 && bsearch(&n, list, count, sizeof(n), compare_u32);
}

static uint32_t *sorted(const uint32_t *list, size_t count)
{
	uint32_t *copy = calloc(count + 1, sizeof(*copy));

	if (copy && count > 0) {
		memcpy(copy, list, count * sizeof(*copy));
		qsort(copy, count, sizeof(*copy), compare_u32);
	}
	return copy;
}

int overlay_keep_only(struct overlay *ov, const uint32_t *vnis, size_t vni_count,
	const uint32_t *slots, size_t slot_count, struct err *err)
{
	uint32_t *nets = sorted(vnis, vni_count), *guests = sorted(slots, slot_count);
	struct onet *net, *next;
	int rc = nets && guests ? overlay_refresh(ov, err) : err_set(err, -ENOMEM, "out of memory");

	if (rc < 0)
		goto out;
	rc = overlay_remove_other_ports(ov, guests, slot_count);
	HASH_ITER (hh, ov->nets, net, next) {
		if (!overlay_contains(nets, vni_count, net->vni))
			remove_net(ov, net);
	}
	int sent = overlay_commit(ov, err);

	if (rc < 0) {
		ov->stale = true;
		rc = err_set(err, rc, "out of memory");
	} else {
		rc = sent < 0 ? err_wrap(err, "overlay: remove what is not wanted") : 0;
	}
out:
	free(nets);
	free(guests);
	return rc;
}
