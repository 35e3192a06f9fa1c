/* nets: the networks with members on this host, and who their members are.
 *
 * Told by Desired; handed on to the overlay (forwarding, neighbours) and to hosts
 * (names).  Kept in <state>/networks.pb, written some time after a change, so that a
 * guest that is started while the scheduler is away knows its neighbours.
 */
#ifndef UMLAUT_NODE_AGENT_NETS_H
#define UMLAUT_NODE_AGENT_NETS_H

#include "lib/net.h"
#include "lib/str.h"
#include "node-agent/guests.h"
#include "node-agent/overlay.h"

struct nets;

struct net_member {
	struct net_mac mac;
	struct net_addr ip4, ip6, vtep;
	char name[STR_NAME_MAX + 1];
	struct net_member *same_name; /* others of that name */
	UT_hash_handle hh;
};

/* The members that have one name. */
struct net_name {
	char name[STR_NAME_MAX + 1];
	struct net_member *first;
	UT_hash_handle hh;
};

struct net {
	uint32_t vni, mtu;
	struct overlay_guard guard;
	char name[STR_FULLNAME_MAX + 1];
	struct net_member *members; /* by MAC */
	struct net_name *names;
	uint64_t mark;
	bool trouble; /* the overlay does not have it as it should be */
	UT_hash_handle hh;
};

int nets_open(struct agent *agent, struct nets **out, struct err *err);
void nets_stop(struct nets *nets);
void nets_free(struct nets *nets);

/* Applies one NetState of a Desired; what is no good is skipped and logged. */
void nets_apply(struct nets *nets, const Um__NetState *state, uint64_t mark);
void nets_remove(struct nets *nets, uint32_t vni);
/* A full Desired is complete: what does not carry MARK goes. */
void nets_keep(struct nets *nets, uint64_t mark);

struct net *nets_find(struct nets *nets, uint32_t vni);
/* The member with MAC; NULL. */
struct net_member *nets_member(struct net *net, const struct net_mac *mac);
struct net_name *nets_name(struct net *net, const char *name);
size_t nets_count(const struct nets *nets);
/* Makes sure that the overlay has it.  -ENOENT: not a network of this host. */
int nets_ensure(struct nets *nets, uint32_t vni, struct err *err);

#endif
