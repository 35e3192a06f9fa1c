/* Which ports may send only from their own addresses: guard.h as a filter of tc, in
 * the kernel for as long as the tap is there. */
#include "node-agent/overlay_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include "node-agent/guard.h"

#define PRIORITY 1u
#define HANDLE 1u

static struct tcmsg *tc_msg(struct overlay *ov, uint16_t type, uint16_t flags, uint32_t index,
	int ignore, struct nlmsghdr **h)
{
	struct tcmsg *tc;

	*h = nl_add(ov->nl, type, flags, sizeof(*tc), ignore);
	tc = mnl_nlmsg_get_payload(*h);
	tc->tcm_family = AF_UNSPEC;
	tc->tcm_ifindex = (int)index;
	return tc;
}

/* A clsact qdisc takes filters and no time. */
static void add_clsact(struct overlay *ov, uint32_t index)
{
	struct nlmsghdr *h;
	struct tcmsg *tc = tc_msg(ov, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, index, EEXIST, &h);

	tc->tcm_parent = TC_H_CLSACT;
	tc->tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
	mnl_attr_put_strz(h, TCA_KIND, "clsact");
}

/* In place of an older one of the same handle, with no moment in between. */
static void add_filter(struct overlay *ov, const struct oport *port)
{
	struct sock_filter program[GUARD_MAX];
	size_t count = guard_program(program, &port->mac, &port->ip4, &port->ip6);
	struct nlmsghdr *h;
	struct tcmsg *tc = tc_msg(ov, RTM_NEWTFILTER, NLM_F_CREATE, port->index, 0, &h);
	struct nlattr *options;

	tc->tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
	tc->tcm_handle = HANDLE;
	tc->tcm_info = TC_H_MAKE(PRIORITY << 16, htons(ETH_P_ALL));
	mnl_attr_put_strz(h, TCA_KIND, "bpf");
	options = mnl_attr_nest_start(h, TCA_OPTIONS);
	mnl_attr_put_u16(h, TCA_BPF_OPS_LEN, (uint16_t)count);
	mnl_attr_put(h, TCA_BPF_OPS, count * sizeof(program[0]), program);
	mnl_attr_put_u32(h, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
	mnl_attr_nest_end(h, options);
}

static void remove_clsact(struct overlay *ov, uint32_t index)
{
	struct nlmsghdr *h;
	struct tcmsg *tc = tc_msg(ov, RTM_DELQDISC, 0, index, ENOENT, &h);

	tc->tcm_parent = TC_H_CLSACT;
}

static bool own(const struct net_addr *a, const struct net_addr *b)
{
	return a->family && net_addr_equal(a, b);
}

/* Those that others route through send for others. */
static bool guarded(const struct onet *net, const struct oport *port)
{
	return net->guard.on && !own(&net->guard.free4, &port->ip4) &&
	       !own(&net->guard.free6, &port->ip6);
}

void overlay_guard_port(struct overlay *ov, const struct onet *net, struct oport *port)
{
	enum oguard want = guarded(net, port) ? OGUARD_ON : OGUARD_OFF;

	if (!port->index || (port->k_guard == want && port->k_guard_fits))
		return;
	if (want == OGUARD_ON) {
		add_clsact(ov, port->index);
		add_filter(ov, port);
	} else if (port->k_guard == OGUARD_ON) {
		remove_clsact(ov, port->index);
	}
	port->k_guard = want;
	port->k_guard_fits = true;
}

/* A port that runs from before we started knows its addresses when its member was told. */
static bool addresses_known(struct onet *net, struct oport *port)
{
	const struct omember *m = overlay_find_member(net, &port->mac);

	if (port->stated)
		return true;
	if (!m || m->port != port || (!m->ip4.family && !m->ip6.family))
		return false;
	if (!net_addr_equal(&m->ip4, &port->ip4) || !net_addr_equal(&m->ip6, &port->ip6))
		port->k_guard_fits = false;
	port->ip4 = m->ip4;
	port->ip6 = m->ip6;
	return true;
}

void overlay_guard_ports(struct overlay *ov, struct onet *net)
{
	for (struct oport *p = ov->ports; p; p = p->hh.next)
		if (p->net == net && (addresses_known(net, p) || !net->guard.on))
			overlay_guard_port(ov, net, p);
}

int overlay_guard(
	struct overlay *ov, uint32_t vni, const struct overlay_guard *guard, struct err *err)
{
	struct onet *net;
	int rc = overlay_refresh(ov, err);

	if (rc < 0)
		return rc;
	net = overlay_find_net(ov, vni);
	if (!net || !net->stated)
		return err_set(err, -ENOENT, "overlay: network %u is not there", vni);
	net->guard = *guard;
	overlay_guard_ports(ov, net);
	return overlay_guard_commit(ov, err);
}

int overlay_guard_commit(struct overlay *ov, struct err *err)
{
	int rc = overlay_commit(ov, err);

	if (rc == 0)
		return 0;
	if (rc == -ENOENT || rc == -EOPNOTSUPP || rc == -EINVAL)
		return err_set(err, -EOPNOTSUPP,
			"overlay: 'spoofing: deny' needs tc's clsact and BPF filters in the host's "
			"kernel (modules sch_ingress and cls_bpf): %s",
			strerrordesc_np(-rc));
	return rc;
}
