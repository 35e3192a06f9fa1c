#include "guest/init/nic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/init/announce.h"
#include "guest/init/module.h"
#include "guest/init/nl.h"
#include "guest/init/sys.h"
#include "lib/net.h"
#include "lib/str.h"

#define METRIC6 1024 /* the kernel's own default for IPv6 */

struct net_state {
	struct nl nl;
	struct nl_link links[NL_LINKS_MAX];
	size_t count;
};

static struct nl_link *by_name(struct net_state *s, const char *name)
{
	size_t i;

	for (i = 0; i < s->count; i++)
		if (strcmp(s->links[i].name, name) == 0)
			return &s->links[i];
	return NULL;
}

static struct nl_link *by_mac(struct net_state *s, const uint8_t *mac)
{
	size_t i;

	for (i = 0; i < s->count; i++)
		if (memcmp(s->links[i].mac.bytes, mac, 6) == 0)
			return &s->links[i];
	return NULL;
}

static int rename_link(struct net_state *s, struct nl_link *link, const char *name, struct err *err)
{
	struct nl_link *other = by_name(s, name);
	char aside[16];
	int rc;

	if (other == link)
		return 0;
	if (other) {
		/* Another device has the name: it gets one of its own later, or keeps this. */
		(void)str_format(aside, sizeof(aside), "was%d", other->index);
		rc = rename_link(s, other, aside, err);
		if (rc)
			return rc;
	}
	rc = nl_link_rename(&s->nl, link->index, name, err);
	return rc ? rc : str_copy(link->name, sizeof(link->name), name);
}

static void quiet_ipv6(const char *name)
{
	static const char *const zero[] = {"accept_dad", "accept_ra"};
	char path[96];
	size_t i;

	for (i = 0; i < sizeof(zero) / sizeof(zero[0]); i++) {
		(void)str_format(
			path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", name, zero[i]);
		(void)sys_write(path, "0");
	}
}

/* Each device that comes up reports its groups as often as mld_qrv says, to all others of
 * its network: of five hundred guests that boot together each would be woken two thousand
 * times.  Once is enough where nothing is lost; a multicast router sets its own value by
 * its first query. */
static void report_groups(const char *times)
{
	(void)sys_write("/proc/sys/net/ipv6/mld_qrv", times);
}

/* The kernel takes the largest window of TCP from its memory: a guest of 128 MiB would get
 * 1 MiB, one of 32 MiB 128 KiB, and spend most of its time waiting for the other end, whose
 * answers take a millisecond and more.  So guests get what every larger machine has; what
 * all connections may hold together stays bounded by tcp_mem, a tenth of the memory. */
#define WINDOW_IN (6ul << 20)
#define WINDOW_OUT (4ul << 20)

static void widen(const char *path, unsigned long most)
{
	unsigned long v[3];
	char text[96], *at = text;
	size_t i;

	if (sys_read(path, text, sizeof(text)) <= 0)
		return;
	for (i = 0; i < 3; i++)
		v[i] = strtoul(at, &at, 10);
	if (v[0] == 0 || v[2] >= most)
		return;
	if (str_format(text, sizeof(text), "%lu %lu %lu", v[0], v[1], most) > 0)
		(void)sys_write(path, text);
}

static int apply_one(struct net_state *s, const Um__Nic *nic, struct err *err)
{
	struct net_addr addr;
	struct net_mac mac;
	struct nl_link *link = by_mac(s, nic->mac.data);
	char name[16], text[NET_ADDR_TEXT];
	int rc;

	(void)str_format(name, sizeof(name), "eth%u", nic->index);
	memcpy(mac.bytes, nic->mac.data, 6);
	if (!link)
		return err_set(err, -ENODEV, "%s: no network device has the MAC %s", name,
			net_mac_text(text, &mac));
	rc = rename_link(s, link, name, err);
	if (rc)
		return err_wrap(err, "%s", name);
	quiet_ipv6(name);
	rc = nl_link_up(&s->nl, link->index, nic->mtu, err);
	if (rc)
		return err_wrap(err, "%s", name);
	if (nic->ip4.len && !net_addr_from(nic->ip4.data, nic->ip4.len, &addr))
		rc = nl_addr_add(&s->nl, link->index, &addr, (uint8_t)nic->prefix4, err);
	if (!rc && nic->ip6.len && !net_addr_from(nic->ip6.data, nic->ip6.len, &addr))
		rc = nl_addr_add(&s->nl, link->index, &addr, (uint8_t)nic->prefix6, err);
	return rc ? err_wrap(err, "%s", name) : 0;
}

static bool is_own(const Um__GuestConfig *c, const ProtobufCBinaryData *ip)
{
	size_t i;

	for (i = 0; i < c->n_nics; i++) {
		const ProtobufCBinaryData *own = ip->len == 4 ? &c->nics[i]->ip4 : &c->nics[i]->ip6;

		if (own->len == ip->len && memcmp(own->data, ip->data, ip->len) == 0)
			return true;
	}
	return false;
}

/* The default route through a network's gateway; the first NIC is preferred.  The
 * gateway itself gets none: it forwards. */
static int gateway(struct net_state *s, const Um__GuestConfig *c, const Um__Nic *nic,
	const ProtobufCBinaryData *ip, struct err *err)
{
	bool v4 = ip->len == 4;
	struct net_prefix all = {.len = 0};
	struct net_addr via;
	const struct nl_link *link = by_mac(s, nic->mac.data);

	if (ip->len == 0 || !link)
		return 0;
	if (is_own(c, ip)) {
		(void)sys_write(v4 ? "/proc/sys/net/ipv4/ip_forward"
				   : "/proc/sys/net/ipv6/conf/all/forwarding",
			"1");
		return 0;
	}
	if ((v4 ? nic->ip4.len : nic->ip6.len) == 0 || net_addr_from(ip->data, ip->len, &via))
		return 0;
	all.addr.family = via.family;
	return nl_route_add(&s->nl, &all, &via, link->index, nic->index + (v4 ? 0 : METRIC6), err);
}

static int explicit_route(struct net_state *s, const Um__RouteSpec *route, struct err *err)
{
	struct net_prefix to = {.len = 0};
	struct net_addr via;
	int rc = net_addr_parse(route->via, &via, err);

	if (rc)
		return err_wrap(err, "route to %s", route->to);
	if (strcmp(route->to, "default") == 0) {
		to.addr.family = via.family;
	} else {
		rc = net_prefix_parse(route->to, &to, err);
		if (rc)
			return err_wrap(err, "route via %s", route->via);
		if (to.addr.family != via.family)
			return err_set(err, -EINVAL, "route to %s via %s: IPv4 and IPv6 mixed",
				route->to, route->via);
	}
	return nl_route_add(&s->nl, &to, &via, 0, 0, err);
}

static int need_ipv6(const Um__GuestConfig *c, struct err *err)
{
	size_t i;

	for (i = 0; i < c->n_nics; i++)
		if (c->nics[i]->ip6.len)
			break;
	if (i == c->n_nics || access("/proc/net/if_inet6", F_OK) == 0)
		return 0;
	if (module_load("ipv6", err))
		return err_wrap(err,
			"eth%u has an IPv6 address, but the guest's kernel has no IPv6",
			c->nics[i]->index);
	return 0;
}

/* Nothing depends on it: a kernel without packet sockets says nothing. */
static void announce(struct net_state *s, const Um__Nic *nic)
{
	struct nl_link *link = by_mac(s, nic->mac.data);
	struct net_addr addr;

	if (!link)
		return;
	if (!net_addr_from(nic->ip4.data, nic->ip4.len, &addr))
		(void)announce_send(link->index, nic->mac.data, &addr, NULL);
	if (!net_addr_from(nic->ip6.data, nic->ip6.len, &addr))
		(void)announce_send(link->index, nic->mac.data, &addr, NULL);
}

static int apply(struct net_state *s, const Um__GuestConfig *c, struct err *err)
{
	struct nl_link *lo;
	size_t i;
	int rc;

	rc = nl_links(&s->nl, s->links, NL_LINKS_MAX, err);
	if (rc < 0)
		return rc;
	s->count = (size_t)rc;
	lo = by_name(s, "lo");
	if (lo) {
		rc = nl_link_up(&s->nl, lo->index, 0, err);
		if (rc)
			return err_wrap(err, "lo");
	}
	for (i = 0; i < c->n_nics; i++) {
		rc = apply_one(s, c->nics[i], err);
		if (rc)
			return rc;
	}
	for (i = 0; i < c->n_nics; i++) {
		rc = gateway(s, c, c->nics[i], &c->nics[i]->gateway4, err);
		if (!rc)
			rc = gateway(s, c, c->nics[i], &c->nics[i]->gateway6, err);
		if (rc)
			return err_wrap(err, "eth%u", c->nics[i]->index);
	}
	for (i = 0; c->announce && i < c->n_nics; i++)
		announce(s, c->nics[i]);
	for (i = 0; i < c->n_routes; i++) {
		rc = explicit_route(s, c->routes[i], err);
		if (rc)
			return rc;
	}
	return 0;
}

int nic_apply(const Um__GuestConfig *c, struct err *err)
{
	static struct net_state state;
	int rc = need_ipv6(c, err);

	if (rc)
		return rc;
	/* Anyone may ping without being root, as on a current desktop. */
	(void)sys_write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	rc = nl_open(&state.nl, err);
	if (rc)
		return rc;
	widen("/proc/sys/net/ipv4/tcp_rmem", WINDOW_IN);
	widen("/proc/sys/net/ipv4/tcp_wmem", WINDOW_OUT);
	report_groups("1");
	rc = apply(&state, c, err);
	report_groups("2"); /* the kernel's own: for devices that are made later */
	nl_close(&state.nl);
	return rc;
}
