/* announce: tells the others of a network that an address is (again) at this MAC, by a
 * gratuitous ARP (RFC 5227, 3) and an unsolicited neighbour advertisement (RFC 4861,
 * 7.2.6).  For a guest that has come from another host: what bridges and routers beside
 * the overlay remember of it leads to where it was.  And for one with an address that
 * another guest may have had before, which its neighbours may remember. */
#ifndef UMLAUT_GUEST_INIT_ANNOUNCE_H
#define UMLAUT_GUEST_INIT_ANNOUNCE_H

#include "lib/net.h"

#define ANNOUNCE_ARP 42u /* bytes of each frame */
#define ANNOUNCE_NA 86u

void announce_arp(const uint8_t mac[6], const uint8_t ip[4], uint8_t frame[ANNOUNCE_ARP]);
void announce_na(const uint8_t mac[6], const uint8_t ip[16], uint8_t frame[ANNOUNCE_NA]);
/* Sends what ADDR needs on the device. */
int announce_send(int ifindex, const uint8_t mac[6], const struct net_addr *addr, struct err *err);

#endif
