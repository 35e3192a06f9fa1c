#include "guest/init/announce.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ICMPV6 58
#define ADVERTISEMENT 136
#define OVERRIDE 0x20
#define TARGET_LINK_ADDRESS 2

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

void announce_arp(const uint8_t mac[6], const uint8_t ip[4], uint8_t f[ANNOUNCE_ARP])
{
	memset(f, 0, ANNOUNCE_ARP);
	memset(f, 0xff, 6);
	memcpy(f + 6, mac, 6);
	put16(f + 12, ETH_P_ARP);
	put16(f + 14, 1); /* Ethernet */
	put16(f + 16, ETH_P_IP);
	f[18] = 6;
	f[19] = 4;
	put16(f + 20, 1); /* a request for what the sender has itself */
	memcpy(f + 22, mac, 6);
	memcpy(f + 28, ip, 4);
	memcpy(f + 38, ip, 4);
}

static unsigned add(unsigned sum, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < size; i += 2)
		sum += (unsigned)data[i] << 8 | data[i + 1];
	return sum;
}

void announce_na(const uint8_t mac[6], const uint8_t ip[16], uint8_t f[ANNOUNCE_NA])
{
	static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
	uint8_t *ip6 = f + 14, *na = f + 54;
	unsigned sum;

	memset(f, 0, ANNOUNCE_NA);
	put16(f, 0x3333);
	f[5] = 1;
	memcpy(f + 6, mac, 6);
	put16(f + 12, ETH_P_IPV6);
	ip6[0] = 0x60;
	put16(ip6 + 4, 32);
	ip6[6] = ICMPV6;
	ip6[7] = 255;
	memcpy(ip6 + 8, ip, 16);
	memcpy(ip6 + 24, all_nodes, 16);
	na[0] = ADVERTISEMENT;
	na[4] = OVERRIDE;
	memcpy(na + 8, ip, 16);
	na[24] = TARGET_LINK_ADDRESS;
	na[25] = 1; /* times eight bytes */
	memcpy(na + 26, mac, 6);
	/* Over addresses, length, next header, and the message. */
	sum = add(add(32 + ICMPV6, ip6 + 8, 32), na, 32);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	put16(na + 2, ~sum & 0xffff);
}

int announce_send(int ifindex, const uint8_t mac[6], const struct net_addr *addr, struct err *err)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = ifindex, .sll_halen = 6};
	uint8_t frame[ANNOUNCE_NA];
	size_t size = addr->family == 4 ? ANNOUNCE_ARP : ANNOUNCE_NA;
	int fd, rc = 0;

	if (!addr->family)
		return 0;
	/* Protocol 0: nothing is received. */
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, errno, "packet socket");
	if (addr->family == 4)
		announce_arp(mac, addr->bytes, frame);
	else
		announce_na(mac, addr->bytes, frame);
	memcpy(to.sll_addr, frame, 6);
	to.sll_protocol = htons(addr->family == 4 ? ETH_P_ARP : ETH_P_IPV6);
	if (sendto(fd, frame, size, 0, (struct sockaddr *)&to, sizeof(to)) != (ssize_t)size)
		rc = err_errno(err, errno, "announce an address");
	(void)close(fd);
	return rc;
}
