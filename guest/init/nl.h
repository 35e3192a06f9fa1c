/* nl: the little of rtnetlink(7) that a guest's start needs: links, addresses,
 * routes.  Each call is one request with an acknowledgement, on a blocking socket.
 * Sources: linux/rtnetlink.h, linux/if_addr.h, rtnetlink(7), netlink(7).
 */
#ifndef UMLAUT_GUEST_INIT_NL_H
#define UMLAUT_GUEST_INIT_NL_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/net.h"

struct nl {
	int fd;
	uint32_t seq;
};

int nl_open(struct nl *nl, struct err *err);
void nl_close(struct nl *nl);

#define NL_LINKS_MAX 256
struct nl_link {
	int index;
	char name[16];
	struct net_mac mac;
};
/* All links, at most NL_LINKS_MAX: their number, or negative. */
int nl_links(struct nl *nl, struct nl_link *links, size_t max, struct err *err);

int nl_link_rename(struct nl *nl, int index, const char *name, struct err *err);
/* MTU 0: as it is. */
int nl_link_up(struct nl *nl, int index, uint32_t mtu, struct err *err);
int nl_addr_add(
	struct nl *nl, int index, const struct net_addr *addr, uint8_t prefix, struct err *err);
/* INDEX 0: the link through which VIA is reached.  METRIC 0: the kernel's. */
int nl_route_add(struct nl *nl, const struct net_prefix *to, const struct net_addr *via, int index,
	uint32_t metric, struct err *err);

#endif
