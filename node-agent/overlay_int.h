/* overlay_int: what the files of the overlay share.
 *
 *   overlay.c       life, networks, purge, underlay
 *   overlay_link.c  the messages that make and set up devices
 *   overlay_fdb.c   forwarding and neighbour entries
 *   overlay_port.c  taps
 *   overlay_read.c  reading the kernel's state (start, and after a failure)
 *
 * Each object knows what is wanted of it and what the kernel has (`k_...`); a
 * change of either makes it `dirty`, and overlay_sync() sends the difference of
 * the dirty ones in one batch.  When a batch fails, what the kernel has is no
 * longer known: `stale` is set, and the next call reads it anew first.
 *
 * In the kernel, for a network with VNI 5 and a guest in slot 3:
 *
 *   b5    bridge: no STP, no multicast snooping, no IP
 *   x5    vxlan, port of b5: no learning (in both), no flooding of unknown
 *         unicast, neighbour suppression
 *   t3.0  tap, port of b5: no learning, no flooding of unknown unicast, locked
 *         (a frame whose source is not a static entry of this port is dropped)
 *   fdb   x5 "self": MAC -> remote vtep;  00:..:00 -> each remote vtep
 *         b5: MAC -> port x5 or t3.0, static
 *   neigh b5: IP -> MAC, permanent: what suppression answers from
 */
#ifndef UMLAUT_NODE_AGENT_OVERLAY_INT_H
#define UMLAUT_NODE_AGENT_OVERLAY_INT_H

#include <uthash.h>

#include "node-agent/nl.h"
#include "node-agent/overlay.h"

struct onet;

/* Has the kernel a filter on the port (overlay_guard.c)? */
enum oguard { OGUARD_OFF, OGUARD_ON };

/* A NIC with its tap.  Key: slot << 8 | nic. */
struct oport {
	uint64_t key;
	char ifname[OVERLAY_IFNAME];
	struct onet *net; /* NULL: it is on no bridge of ours */
	uid_t uid;
	struct net_mac mac;
	struct net_addr ip4, ip6;
	bool stated; /* overlay_port() was called */
	/* what the kernel has */
	uint32_t index;
	uint32_t k_mtu;
	bool k_fits; /* flags, port options, owner */
	enum oguard k_guard;
	bool k_guard_fits; /* it is for these addresses */
	UT_hash_handle hh;
};

/* A MAC of the network. */
struct omember {
	struct net_mac mac;
	struct net_addr ip4, ip6;
	struct net_addr vtep; /* family 0: not remote */
	struct oport *port;   /* local: wins over vtep */
	bool listed;	      /* mark of a full update */
	/* what the kernel has */
	struct net_addr k_vtep; /* entry of the vxlan device */
	uint32_t k_master;	/* entry of the bridge: index of the port */
	bool dirty;
	struct omember *next_dirty;
	UT_hash_handle hh;
};

/* An address of the network. */
struct oneigh {
	struct net_addr ip;
	struct net_mac mac; /* wanted */
	bool wanted;
	struct net_mac k_mac;
	bool k_there;
	bool dirty;
	struct oneigh *next_dirty;
	UT_hash_handle hh;
};

/* A host that gets our broadcasts. */
struct oflood {
	struct net_addr vtep;
	uint32_t members; /* remote members there */
	bool k_there;
	bool dirty;
	struct oflood *next_dirty;
	UT_hash_handle hh;
};

struct onet {
	uint32_t vni;
	uint32_t mtu;
	bool stated; /* overlay_net() was called */
	bool full;   /* overlay_members() told all members once */
	struct overlay_guard guard;
	/* what the kernel has: index 0 is no device */
	uint32_t bridge, vxlan;
	uint32_t k_bridge_mtu, k_vxlan_mtu;
	bool k_bridge_fits, k_vxlan_fits;
	bool k_vxlan_alien; /* other id, address or port: must be made anew */
	struct omember *members;
	struct oneigh *neighs;
	struct oflood *floods;
	struct omember *dirty_members;
	struct oneigh *dirty_neighs;
	struct oflood *dirty_floods;
	UT_hash_handle hh;
};

struct overlay {
	struct net_addr vtep;
	uint16_t vxlan_port;
	int ns_fd;
	struct nl *host;  /* the caller's namespace, for making vxlan devices */
	struct nl *nl;	  /* the overlay's */
	bool locked_seen; /* this kernel has locked bridge ports */
	bool ipv6;	  /* the kernel has it: neighbour entries for it can be made */
	bool stale;
	uint32_t doomed; /* device group that the next commit removes, 0: none */
	struct onet *nets;
	struct oport *ports;
};

#define OVERLAY_VNI_MAX 0xffffffu
#define OVERLAY_SLOT_MAX 65535u
#define OVERLAY_NIC_MAX 63u
#define OVERLAY_IPV6_MTU_MIN 1280u /* below, the kernel has no IPv6 on a device */

/* Names of devices, and back (false: not one of ours). */
void overlay_bridge_name(char name[OVERLAY_IFNAME], uint32_t vni);
void overlay_vxlan_name(char name[OVERLAY_IFNAME], uint32_t vni);
int overlay_port_name(char name[OVERLAY_IFNAME], uint32_t slot, uint32_t nic, struct err *err);
bool overlay_parse_name(const char *name, char kind, uint32_t max, uint32_t *number);
bool overlay_parse_port(const char *name, uint64_t *key);

/* overlay.c: objects by key; _get makes what is not there (NULL: no memory). */
struct onet *overlay_find_net(struct overlay *ov, uint32_t vni);
struct onet *overlay_get_net(struct overlay *ov, uint32_t vni);
void overlay_forget_net(struct overlay *ov, struct onet *net);
/* Makes or mends what is missing of a network's devices; nothing when all fits. */
int overlay_ensure_net(struct overlay *ov, struct onet *net, struct err *err);
/* The kernel's device is gone, and all entries that were in it. */
void overlay_lost_vxlan(struct onet *net);
void overlay_lost_bridge(struct overlay *ov, struct onet *net);
/* Is N in the sorted LIST? */
bool overlay_contains(const uint32_t *list, size_t count, uint32_t n);
/* Reads the kernel's state when it is stale.  First thing in every call. */
int overlay_refresh(struct overlay *ov, struct err *err);
/* nl_commit() of the overlay's socket; a failure makes the state stale. */
int overlay_commit(struct overlay *ov, struct err *err);

/* overlay_link.c: adds messages to nl. */
void overlay_link_bridge(struct overlay *ov, const struct onet *net);
void overlay_link_vxlan(struct overlay *ov, const struct onet *net); /* on ov->host */
void overlay_link_vxlan_setup(struct overlay *ov, const struct onet *net);
void overlay_link_port(struct overlay *ov, const struct oport *port);
void overlay_link_up(struct overlay *ov, uint32_t index);
void overlay_link_mtu(struct overlay *ov, uint32_t index, uint32_t mtu);
/* Removal is slow, and as slow for one device as for many: devices are put into
 * a group, and overlay_commit() removes that in one go, after all else. */
void overlay_link_delete(struct overlay *ov, uint32_t index);
void overlay_link_delete_group(struct overlay *ov);
/* Options of a bridge port that must be so; PORT: a tap, else the vxlan. */
struct overlay_port_option {
	uint16_t attr; /* IFLA_BRPORT_... */
	uint8_t value;
};
const struct overlay_port_option *overlay_port_options(bool tap, size_t *count);

/* overlay_fdb.c */
struct omember *overlay_find_member(struct onet *net, const struct net_mac *mac);
struct omember *overlay_get_member(struct onet *net, const struct net_mac *mac);
struct oneigh *overlay_get_neigh(struct onet *net, const struct net_addr *ip);
struct oflood *overlay_get_flood(struct onet *net, const struct net_addr *vtep);
/* States what a member is; no messages yet. */
int overlay_set_member(struct onet *net, struct omember *m, const struct net_addr *vtep,
	struct oport *port, const struct net_addr *ip4, const struct net_addr *ip6);
/* The same member, now on PORT (NULL: on none). */
int overlay_place(struct onet *net, struct omember *m, struct oport *port);
void overlay_touch_all(struct onet *net);
/* Adds the messages for what is dirty, and drops what is neither wanted nor there. */
void overlay_sync(struct overlay *ov, struct onet *net);
void overlay_free_entries(struct onet *net);

/* overlay_port.c */
struct oport *overlay_find_port(struct overlay *ov, uint64_t key);
struct oport *overlay_get_port(struct overlay *ov, uint64_t key);
void overlay_forget_port(struct overlay *ov, struct oport *port);
/* Adds the messages that remove all ports not in SLOTS (sorted). */
int overlay_remove_other_ports(struct overlay *ov, const uint32_t *slots, size_t count);

/* overlay_guard.c: adds the messages that make the port's filter as the network wants it;
 * then overlay_guard_commit() in place of overlay_commit(). */
void overlay_guard_port(struct overlay *ov, const struct onet *net, struct oport *port);
/* The same for all ports of the network whose addresses are known. */
void overlay_guard_ports(struct overlay *ov, struct onet *net);
int overlay_guard_commit(struct overlay *ov, struct err *err);

/* overlay_read.c */
int overlay_read(struct overlay *ov, struct err *err);

#endif
