/* overlay: the virtual networks of one host.
 *
 * One network namespace (bind-mounted at <state>/overlay.netns, so that it
 * outlives the agent) holds, for each network with members on this host, a
 * bridge "b<vni>" and a VXLAN device "x<vni>" (RFC 7348), and for each NIC of a
 * guest a persistent tap "t<slot>.<nic>" owned by that guest's user.  The VXLAN
 * device is made from the host's namespace (its UDP socket stays there) but is
 * born inside the overlay's: the host's own configuration is not touched.
 *
 * Nothing is learned and no unknown destination is flooded: all forwarding and
 * neighbour entries come from the scheduler through overlay_members().
 * Broadcast and multicast go by head-end replication, only to hosts with
 * members.  A port may send only from its own MAC, and where the network says so
 * (overlay_guard()) only from its own addresses.
 *
 * Level-triggered: the functions state what must be; existing devices that
 * already fit are kept (so a restarted agent disturbs nothing); work is
 * proportional to the difference.  All netlink, batched, no process spawned.
 * Synchronous: rtnetlink answers within the call.
 */
#ifndef UMLAUT_NODE_AGENT_OVERLAY_H
#define UMLAUT_NODE_AGENT_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/net.h"

struct overlay;

#define OVERLAY_IFNAME 16

struct overlay_config {
	const char *netns_path; /* <state>/overlay.netns */
	struct net_addr vtep;	/* our underlay address; decides the underlay device and MTU */
	uint16_t vxlan_port;	/* 0: 4789 */
};

struct overlay_member {
	struct net_mac mac;
	struct net_addr ip4, ip6; /* family 0: none */
	struct net_addr vtep;	  /* family 0: not placed, no entry is made */
};

/* Makes or adopts the namespace; reads what is there (one dump). */
int overlay_open(const struct overlay_config *config, struct overlay **out, struct err *err);
/* Leaves everything in the kernel as it is. */
void overlay_close(struct overlay *ov);
/* Removes every device and the namespace's mount.  For `--purge` and tests.
 * Works without an open overlay, also after a crash. */
int overlay_purge(const char *netns_path, struct err *err);

/* MTU of the underlay device that carries the vtep address, and its name. */
int overlay_underlay_mtu(
	const struct net_addr *vtep, uint32_t *mtu, char ifname[OVERLAY_IFNAME], struct err *err);
/* Bytes of encapsulation: 50 over IPv4, 70 over IPv6. */
uint32_t overlay_overhead(const struct net_addr *vtep);

/* The network exists, with this MTU.  NAME for messages. */
int overlay_net(struct overlay *ov, uint32_t vni, const char *name, uint32_t mtu, struct err *err);
/* ON: ports of the network, there and to come, may send only from their own addresses
 * (guard.h), but for the ones that have the address `free4` or `free6` (family 0: none):
 * the gateways.  -EOPNOTSUPP: the kernel has no such filters. */
struct overlay_guard {
	bool on;
	struct net_addr free4, free6;
};
int overlay_guard(
	struct overlay *ov, uint32_t vni, const struct overlay_guard *guard, struct err *err);
/* Its devices go, with all ports.  Success when it was not there. */
int overlay_net_remove(struct overlay *ov, uint32_t vni, struct err *err);

/* FULL: exactly these remote members (entries of others go).  Otherwise these
 * are added or changed; REMOVED are MACs that go.  Members whose vtep is our own
 * are skipped (local ports are overlay_port()'s). */
int overlay_members(struct overlay *ov, uint32_t vni, bool full,
	const struct overlay_member *members, size_t count, const struct net_mac *removed,
	size_t removed_count, struct err *err);

/* A port: tap "t<slot>.<nic>" with vnet_hdr, owner UID, on network VNI, up, with
 * static forwarding (and neighbour) entries for its MAC and addresses, and only
 * that source MAC let in.  SLOT: the guest's slot on this host, 0..65535.
 * Fills IFNAME. */
int overlay_port(struct overlay *ov, uint32_t vni, uint32_t slot, uint32_t nic, uid_t uid,
	const struct overlay_member *self, char ifname[OVERLAY_IFNAME], struct err *err);
int overlay_port_remove(struct overlay *ov, uint32_t slot, uint32_t nic, struct err *err);

/* After start-up and a full Desired: removes networks not in VNIS and ports not
 * in SLOTS (slots, every nic). */
int overlay_keep_only(struct overlay *ov, const uint32_t *vnis, size_t vni_count,
	const uint32_t *slots, size_t slot_count, struct err *err);

/* Byte and packet counters of a port (from the guest's point of view). */
struct overlay_stats {
	uint64_t rx_bytes, rx_packets, tx_bytes, tx_packets, dropped;
};
int overlay_port_stats(struct overlay *ov, uint32_t slot, uint32_t nic, struct overlay_stats *out,
	struct err *err);

/* System calls that sent netlink requests so far, and changes asked for in them. */
void overlay_counts(const struct overlay *ov, uint64_t *sends, uint64_t *changes);

/* A descriptor of the namespace (borrowed), for setns(). */
int overlay_netns_fd(const struct overlay *ov);

#endif
