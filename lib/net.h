/* net: IP addresses, prefixes, MACs as values.  Pure (inet_pton only). */
#ifndef UMLAUT_LIB_NET_H
#define UMLAUT_LIB_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define NET_ADDR_TEXT 64 /* any of the texts below */

struct net_addr {
	uint8_t family;	   /* 0 unset, 4 or 6 */
	uint8_t bytes[16]; /* network order; the first 4 for IPv4 */
};

struct net_prefix {
	struct net_addr addr; /* host bits zero */
	uint8_t len;
};

struct net_mac {
	uint8_t bytes[6];
};

int net_addr_parse(const char *text, struct net_addr *out, struct err *err);
/* From 4 or 16 bytes off the wire (0 bytes: unset). -EINVAL for other sizes. */
int net_addr_from(const void *data, size_t size, struct net_addr *out);
size_t net_addr_size(const struct net_addr *addr); /* 0, 4, 16 */
const char *net_addr_text(char buf[NET_ADDR_TEXT], const struct net_addr *addr);
bool net_addr_equal(const struct net_addr *a, const struct net_addr *b);
int net_addr_cmp(const struct net_addr *a, const struct net_addr *b);

/* "10.1.0.0/24"; host bits set are an error that names the right prefix. */
int net_prefix_parse(const char *text, struct net_prefix *out, struct err *err);
const char *net_prefix_text(char buf[NET_ADDR_TEXT], const struct net_prefix *prefix);
bool net_prefix_contains(const struct net_prefix *prefix, const struct net_addr *addr);
bool net_prefix_overlaps(const struct net_prefix *a, const struct net_prefix *b);
/* Number of addresses guests may have: without network and broadcast address
 * (IPv4, len < 31) or the all-zero router anycast address (IPv6); capped at 2^32. */
uint64_t net_prefix_hosts(const struct net_prefix *prefix);
/* The N-th such address (0-based), and back (-ERANGE when ADDR is none). */
int net_prefix_host(const struct net_prefix *prefix, uint64_t n, struct net_addr *out);
int net_prefix_index(const struct net_prefix *prefix, const struct net_addr *addr, uint64_t *n);

int net_mac_parse(const char *text, struct net_mac *out, struct err *err);
const char *net_mac_text(char buf[NET_ADDR_TEXT], const struct net_mac *mac);
bool net_mac_is_unicast(const struct net_mac *mac); /* and not all zero */

#endif
