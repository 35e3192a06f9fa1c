/* A guest's interfaces and routes. */
#include "spec/spec_int.h"

#include <inttypes.h>
#include <string.h>

static const char *const address_field[2] = {"address", "address6"};

/* What one interface is checked against. */
struct nic_at {
	size_t group;
	bool counted; /* several guests share this spec */
	const char *where;
};

static bool parse_address(struct check *c, const struct nic_at *at, const struct check_net *net,
	const char *text, int k, struct net_addr *out)
{
	struct err err = ERR_INIT;
	char path[SPEC_WHERE], sub[NET_ADDR_TEXT];
	uint64_t n;

	if (net_addr_parse(text, out, &err) < 0) {
		check_add(c, at->where, address_field[k], &err);
		return false;
	}
	check_at(path, at->where, address_field[k]);
	if (out->family != (k ? 6 : 4)) {
		spec_errors_add(c->out, path, "'%s' is %s; write it as %s", text,
			k ? "IPv4" : "IPv6", address_field[!k]);
		return false;
	}
	if (!net->prefix[k].addr.family) {
		/* A subnet that could not be read has its own error. */
		if (!given(k ? net->spec->subnet6 : net->spec->subnet))
			spec_errors_add(c->out, path, "network '%s' has no %s", net->spec->name,
				k ? "subnet6" : "subnet");
		return false;
	}
	if (!net_prefix_contains(&net->prefix[k], out)) {
		spec_errors_add(c->out, path, "%s is outside of the subnet %s of network '%s'",
			text, net_prefix_text(sub, &net->prefix[k]), net->spec->name);
		return false;
	}
	if (net_prefix_index(&net->prefix[k], out, &n) < 0) {
		spec_errors_add(c->out, path, "%s is %s of %s, which no guest can have", text,
			net_addr_equal(out, &net->prefix[k].addr) ? "the network address"
			: k					  ? "not among the usable addresses"
								  : "the broadcast address",
			net_prefix_text(sub, &net->prefix[k]));
		return false;
	}
	return true;
}

static void check_address(
	struct check *c, const struct nic_at *at, struct check_net *net, const char *text, int k)
{
	char path[SPEC_WHERE], key[SPEC_WHERE], plain[NET_ADDR_TEXT];
	struct net_addr addr;
	uint64_t other;
	bool first;

	if (!given(text))
		return;
	if (at->counted) {
		spec_errors_add(c->out, check_at(path, at->where, address_field[k]),
			"a group of %u guests cannot share one address; leave it out, or write "
			"each guest by itself",
			c->spec->groups[at->group]->count);
		return;
	}
	if (!parse_address(c, at, net, text, k, &addr))
		return;
	net->fixed[k]++;
	if (net->gateway[k].family && net_addr_equal(&addr, &net->gateway[k]))
		net->gateway_taken[k] = true;
	(void)str_format(
		key, sizeof(key), "%zu %s", (size_t)(net - c->nets), net_addr_text(plain, &addr));
	other = seen_put(&c->addresses, key, at->group, &first);
	if (!first)
		spec_errors_add(c->out, check_at(path, at->where, address_field[k]),
			"%s is already the address of guest '%s' in network '%s'", text,
			c->spec->groups[other]->name, net->spec->name);
}

static void check_mac(struct check *c, const struct nic_at *at, const char *text)
{
	char path[SPEC_WHERE], key[NET_ADDR_TEXT];
	struct err err = ERR_INIT;
	struct net_mac mac;
	uint64_t other;
	bool first;

	if (!given(text))
		return;
	check_at(path, at->where, "mac");
	if (at->counted) {
		spec_errors_add(c->out, path, "a group of %u guests cannot share one MAC address",
			c->spec->groups[at->group]->count);
		return;
	}
	if (net_mac_parse(text, &mac, &err) < 0) {
		check_add(c, at->where, "mac", &err);
		return;
	}
	if (!net_mac_is_unicast(&mac)) {
		spec_errors_add(c->out, path,
			"%s is a group address or all zero; the second digit must be even", text);
		return;
	}
	other = seen_put(&c->macs, net_mac_text(key, &mac), at->group, &first);
	if (!first)
		spec_errors_add(c->out, path, "%s is already the MAC address of guest '%s'", text,
			c->spec->groups[other]->name);
}

static struct check_net *find_network(struct check *c, const char *name, const char *where)
{
	const char *near;
	char path[SPEC_WHERE];
	uint64_t i;

	if (given(name) && seen_get(&c->net_names, name, &i))
		return &c->nets[i];
	check_at(path, where, "network");
	if (!given(name)) {
		spec_errors_add(c->out, path, "the name of the network is missing");
		return NULL;
	}
	near = str_nearest(name, c->net_list, c->spec->n_networks);
	if (near)
		spec_errors_add(c->out, path, "there is no network '%.80s'; did you mean '%s'?",
			name, near);
	else if (!c->spec->n_networks)
		spec_errors_add(c->out, path,
			"there is no network '%.80s'; the lab defines none (under networks:)",
			name);
	else
		spec_errors_add(c->out, path, "there is no network '%.80s'", name);
	return NULL;
}

void check_nics(struct check *c, size_t group, const char *where)
{
	const Um__GroupSpec *g = c->spec->groups[group];
	uint32_t guests = spec_group_size(g);
	char nic_where[SPEC_WHERE];
	struct nic_at at = {group, g->count_set && g->count != 1, nic_where};

	if (g->guest->n_nics > SPEC_NICS_MAX) {
		char path[SPEC_WHERE];

		spec_errors_add(c->out, check_at(path, where, "networks"),
			"%zu interfaces are more than %d", g->guest->n_nics, SPEC_NICS_MAX);
		return;
	}
	for (size_t i = 0; i < g->guest->n_nics; i++) {
		const Um__NicSpec *nic = g->guest->nics[i];
		struct check_net *net;

		check_at_index(nic_where, where, "networks", i);
		check_mac(c, &at, nic->mac);
		net = find_network(c, nic->network, nic_where);
		if (!net)
			continue;
		net->members += guests;
		check_address(c, &at, net, nic->address, 0);
		check_address(c, &at, net, nic->address6, 1);
	}
}

/* Is VIA in a subnet of one of the guest's networks?  Also when one of them
 * could not be read: that has its own error. */
static bool reaches(const struct check *c, const Um__GuestSpec *g, const struct net_addr *via)
{
	int k = via->family == 6;

	if (k && via->bytes[0] == 0xfe && (via->bytes[1] & 0xc0) == 0x80)
		return g->n_nics == 1; /* link-local: only where the link is clear */
	for (size_t i = 0; i < g->n_nics; i++) {
		uint64_t n;

		if (!seen_get(&c->net_names, g->nics[i]->network, &n))
			return true;
		if (net_prefix_contains(&c->nets[n].prefix[k], via) ||
			(!c->nets[n].prefix[k].addr.family &&
				given(k ? c->nets[n].spec->subnet6 : c->nets[n].spec->subnet)))
			return true;
	}
	return false;
}

static void check_route(
	struct check *c, const Um__GuestSpec *g, const Um__RouteSpec *r, const char *where)
{
	struct net_prefix to = {0};
	struct net_addr via;
	struct err err = ERR_INIT;
	char path[SPEC_WHERE];
	bool by_default = strcmp(r->to, "default") == 0, good = true;

	if (!by_default && net_prefix_parse(r->to, &to, &err) < 0) {
		spec_errors_add(
			c->out, check_at(path, where, "to"), "%s, or 'default'", err_msg(&err));
		err = ERR_INIT;
		good = false;
	}
	if (!given(r->via)) {
		spec_errors_add(c->out, check_at(path, where, "via"),
			"a route needs `via`, the address of the next hop");
		return;
	}
	if (net_addr_parse(r->via, &via, &err) < 0) {
		check_add(c, where, "via", &err);
		return;
	}
	check_at(path, where, "via");
	if (good && !by_default && to.addr.family != via.family)
		spec_errors_add(
			c->out, path, "%s and %s are of different IP versions", r->to, r->via);
	else if (!reaches(c, g, &via))
		spec_errors_add(c->out, path,
			"%s is in none of the guest's networks, so it cannot be reached", r->via);
}

void check_routes(struct check *c, const Um__GuestSpec *g, const char *where)
{
	char path[SPEC_WHERE];

	if (g->n_routes > SPEC_ROUTES_MAX) {
		spec_errors_add(c->out, check_at(path, where, "routes"),
			"%zu routes are more than %d", g->n_routes, SPEC_ROUTES_MAX);
		return;
	}
	for (size_t i = 0; i < g->n_routes; i++)
		check_route(c, g, g->routes[i], check_at_index(path, where, "routes", i));
}
