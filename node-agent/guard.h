/* guard: the filter of a port that may send only from its own addresses
 * (`spoofing: deny`), as a classic BPF program (bpf(4); linux/filter.h) that
 * tc's cls_bpf runs on each frame that comes out of the guest.  Pure.
 *
 *   a frame is let in when it is            and
 *   IPv4                                    its source is the port's address
 *   ARP for IPv4 over Ethernet              the sender's hardware address is the port's, the
 *                                           protocol address the port's, or 0 (a probe, RFC 5227)
 *   IPv6                                    its source is the port's address, or the link-local
 *                                           address made of its MAC (RFC 4291, appendix A); and
 *                                           it is no router advertisement or redirect, and a
 *                                           neighbour advertisement only for such an address
 *   IPv6 from "::"                          it is a neighbour solicitation (duplicate address
 *                                           detection) or a multicast listener report
 *
 * Everything else is dropped: other protocols, VLAN tags, IPv6 with routing, destination
 * or authentication headers (behind which something could hide), frames too short for
 * what they claim to be, DHCP requests.  That the frame's own source MAC is the port's
 * the bridge sees to already (overlay.h).
 */
#ifndef UMLAUT_NODE_AGENT_GUARD_H
#define UMLAUT_NODE_AGENT_GUARD_H

#include <linux/filter.h>
#include <stddef.h>

#include "lib/net.h"

#define GUARD_MAX 104 /* instructions */

/* Fills PROGRAM; how many instructions it has.  Addresses of family 0: none.  The program
 * returns TC_ACT_OK or TC_ACT_SHOT (linux/pkt_cls.h). */
size_t guard_program(struct sock_filter program[GUARD_MAX], const struct net_mac *mac,
	const struct net_addr *ip4, const struct net_addr *ip6);

#endif
