/* Networks: subnets, gateways, MTU, room for their members. */
#include "spec/spec_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const family_name[2] = {"IPv4", "IPv6"};
static const char *const subnet_field[2] = {"subnet", "subnet6"};
static const char *const gateway_field[2] = {"gateway", "gateway6"};

/* Ranges that no guest can use as its network. */
static const struct {
	const char *prefix, *what;
} unusable[] = {{"0.0.0.0/8", "this host (0.0.0.0/8)"}, {"127.0.0.0/8", "loopback (127.0.0.0/8)"},
	{"224.0.0.0/3", "multicast or reserved (224.0.0.0/3)"}, {"::/128", "unspecified"},
	{"::1/128", "loopback"}, {"::ffff:0:0/96", "IPv4-mapped"},
	{"fe80::/10", "link-local (fe80::/10)"}, {"ff00::/8", "multicast (ff00::/8)"}};

static void check_usable(struct check *c, const char *at, const struct net_prefix *prefix)
{
	for (size_t i = 0; i < sizeof(unusable) / sizeof(unusable[0]); i++) {
		struct net_prefix bad;

		if (net_prefix_parse(unusable[i].prefix, &bad, NULL) == 0 &&
			net_prefix_overlaps(prefix, &bad)) {
			spec_errors_add(c->out, at, "this range is for %s addresses; use one of %s",
				unusable[i].what,
				prefix->addr.family == 4
					? "10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
					: "fd00::/8");
			return;
		}
	}
}

static void check_subnet(struct check *c, struct check_net *net, const char *where, int k)
{
	const char *text = k ? net->spec->subnet6 : net->spec->subnet;
	struct err err = ERR_INIT;
	struct net_prefix prefix;
	char at[SPEC_WHERE];

	if (!given(text))
		return;
	if (net_prefix_parse(text, &prefix, &err) < 0) {
		check_add(c, where, subnet_field[k], &err);
		return;
	}
	check_at(at, where, subnet_field[k]);
	if (prefix.addr.family != (k ? 6 : 4)) {
		spec_errors_add(c->out, at, "'%s' is %s; write it as %s", text, family_name[!k],
			subnet_field[!k]);
		return;
	}
	net->prefix[k] = prefix;
	check_usable(c, at, &prefix);
}

static void check_gateway(struct check *c, struct check_net *net, const char *where, int k)
{
	const char *text = k ? net->spec->gateway6 : net->spec->gateway;
	struct net_addr addr;
	struct err err = ERR_INIT;
	char at[SPEC_WHERE], sub[NET_ADDR_TEXT];
	uint64_t n;

	if (!given(text))
		return;
	if (net_addr_parse(text, &addr, &err) < 0) {
		check_add(c, where, gateway_field[k], &err);
		return;
	}
	check_at(at, where, gateway_field[k]);
	if (addr.family != (k ? 6 : 4)) {
		spec_errors_add(c->out, at, "'%s' is %s; write it as %s", text, family_name[!k],
			gateway_field[!k]);
		return;
	}
	if (!net->prefix[k].addr.family) {
		if (!given(k ? net->spec->subnet6 : net->spec->subnet))
			spec_errors_add(c->out, at, "the network has a %s, but no %s",
				gateway_field[k], subnet_field[k]);
		return;
	}
	if (!net_prefix_contains(&net->prefix[k], &addr))
		spec_errors_add(c->out, at, "gateway %s is outside of the subnet %s", text,
			net_prefix_text(sub, &net->prefix[k]));
	else if (net_prefix_index(&net->prefix[k], &addr, &n) < 0)
		spec_errors_add(c->out, at,
			"gateway %s is not an address that a guest can have in %s", text,
			net_prefix_text(sub, &net->prefix[k]));
	else
		net->gateway[k] = addr;
}

static void check_network(struct check *c, size_t i)
{
	struct check_net *net = &c->nets[i];
	const Um__NetworkSpec *spec = net->spec;
	struct err err = ERR_INIT;
	char where[SPEC_WHERE], at[SPEC_WHERE];
	uint64_t other;
	bool first;

	other = seen_put(&c->net_names, spec->name, i, &first);
	(void)check_at(where, "networks", spec->name);
	if (!given(spec->name) || !first)
		(void)check_at_index(where, "", "networks", i);
	if (str_check_name("network name", spec->name, &err) < 0)
		check_add(c, where, "name", &err);
	if (!first)
		spec_errors_add(c->out, where,
			"network '%s' is there twice (as number %" PRIu64 " and %zu)", spec->name,
			other + 1, i + 1);
	if (!given(spec->subnet) && !given(spec->subnet6))
		spec_errors_add(c->out, check_at(at, where, "subnet"),
			"network '%s' needs a subnet (like 10.1.0.0/24) or a subnet6 (like "
			"fd00:1::/64)",
			spec->name);
	for (int k = 0; k < 2; k++) {
		check_subnet(c, net, where, k);
		check_gateway(c, net, where, k);
	}
	if (spec->spoofing != UM__SPOOFING__SPOOFING_ALLOW &&
		spec->spoofing != UM__SPOOFING__SPOOFING_DENY)
		spec_errors_add(c->out, check_at(at, where, "spoofing"),
			"spoofing %d is unknown (allow, deny)", (int)spec->spoofing);
	check_at(at, where, "mtu");
	if (spec->mtu && (spec->mtu < SPEC_MTU_MIN || spec->mtu > SPEC_MTU_MAX))
		spec_errors_add(c->out, at, "an MTU of %u is not within %u to %u", spec->mtu,
			SPEC_MTU_MIN, SPEC_MTU_MAX);
	else if (spec->mtu && spec->mtu < SPEC_MTU6_MIN && given(spec->subnet6))
		spec_errors_add(c->out, at, "an MTU of %u is less than the %u that IPv6 needs",
			spec->mtu, SPEC_MTU6_MIN);
}

struct subnet {
	struct net_prefix prefix;
	size_t net;
	int k;
};

static int by_address(const void *a, const void *b)
{
	const struct subnet *x = a, *y = b;
	int rc = net_addr_cmp(&x->prefix.addr, &y->prefix.addr);

	if (rc)
		return rc;
	if (x->prefix.len != y->prefix.len)
		return x->prefix.len < y->prefix.len ? -1 : 1;
	return x->net < y->net ? -1 : x->net > y->net;
}

/* Prefixes are nested or apart, so in this order each need only be compared with
 * the last one that nothing encloses. */
static void check_overlaps(struct check *c)
{
	struct subnet *all = calloc(2 * c->spec->n_networks + 1, sizeof(*all));
	const struct subnet *outer = NULL;
	char at[SPEC_WHERE], where[SPEC_WHERE], text[NET_ADDR_TEXT];
	size_t n = 0;

	if (!all) {
		c->out->failed = true;
		return;
	}
	for (size_t i = 0; i < c->spec->n_networks; i++)
		for (int k = 0; k < 2; k++)
			if (c->nets[i].prefix[k].addr.family)
				all[n++] = (struct subnet){c->nets[i].prefix[k], i, k};
	qsort(all, n, sizeof(*all), by_address);
	for (size_t i = 0; i < n; i++) {
		const struct subnet *s = &all[i];

		if (!outer || !net_prefix_overlaps(&outer->prefix, &s->prefix)) {
			outer = s;
			continue;
		}
		check_at(where, "networks", c->nets[s->net].spec->name);
		spec_errors_add(c->out, check_at(at, where, subnet_field[s->k]),
			"overlaps the subnet %s of network '%s'",
			net_prefix_text(text, &outer->prefix), c->nets[outer->net].spec->name);
	}
	free(all);
}

void check_networks(struct check *c)
{
	for (size_t i = 0; i < c->spec->n_networks; i++) {
		c->nets[i].spec = c->spec->networks[i];
		c->net_list[i] = c->spec->networks[i]->name;
		check_network(c, i);
	}
	check_overlaps(c);
}

void check_network_room(struct check *c)
{
	char where[SPEC_WHERE], at[SPEC_WHERE], text[NET_ADDR_TEXT];

	for (size_t i = 0; i < c->spec->n_networks; i++) {
		const struct check_net *net = &c->nets[i];

		check_at(where, "networks", net->spec->name);
		for (int k = 0; k < 2; k++) {
			bool kept = net->gateway[k].family && !net->gateway_taken[k];
			uint64_t room;

			if (!net->prefix[k].addr.family)
				continue;
			room = net_prefix_hosts(&net->prefix[k]);
			if (net->members + kept <= room)
				continue;
			spec_errors_add(c->out, check_at(at, where, subnet_field[k]),
				"%s has %" PRIu64
				" addresses for guests%s, too few for the %" PRIu64 " members",
				net_prefix_text(text, &net->prefix[k]), room,
				kept ? " with the gateway's" : "", net->members);
		}
	}
}
