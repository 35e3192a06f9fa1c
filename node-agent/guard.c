#include "node-agent/guard.h"

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <string.h>

/* Offsets in the frame. */
#define AT_TYPE 12u
#define AT_NET 14u
#define AT_ARP_OP_SHA (AT_NET + 8)
#define AT_ARP_SPA (AT_NET + 14)
#define AT_IP4_SOURCE (AT_NET + 12)
#define AT_IP6_NEXT (AT_NET + 6)
#define AT_IP6_SOURCE (AT_NET + 8)
#define AT_IP6_BODY (AT_NET + 40)
#define ND_TARGET (AT_IP6_BODY + 8)

#define ICMP6_TYPE_RA 134
#define ICMP6_TYPE_NS 135
#define ICMP6_TYPE_NA 136
#define ICMP6_TYPE_REDIRECT 137

/* Targets of jumps that are known only later; resolved when they are placed. */
enum label {
	NEXT, /* the instruction behind */
	PASS,
	DROP,
	IP4,
	ARP,
	IP6,
	ARP_SENDER,
	IP6_LOCAL,
	IP6_UNSPECIFIED,
	IP6_OWN,
	ND_ADVERT,
	ND_LOCAL,
	HOP_BY_HOP,
	LABELS,
};

struct code {
	struct sock_filter *to;
	size_t count;
	struct {
		uint8_t yes, no;
	} jumps[GUARD_MAX];
	size_t at[LABELS];
};

static void place(struct code *c, enum label label)
{
	c->at[label] = c->count;
}

static void op(struct code *c, uint16_t code, uint32_t k)
{
	if (c->count < GUARD_MAX)
		c->to[c->count] = (struct sock_filter)BPF_STMT(code, k);
	c->count++;
}

/* Compares what was loaded last. */
static void test(struct code *c, uint16_t how, uint32_t k, enum label yes, enum label no)
{
	if (c->count < GUARD_MAX) {
		c->jumps[c->count].yes = (uint8_t)yes;
		c->jumps[c->count].no = (uint8_t)no;
	}
	op(c, BPF_JMP | how | BPF_K, k);
}

static void equal(struct code *c, uint32_t k, enum label yes, enum label no)
{
	test(c, BPF_JEQ, k, yes, no);
}

static void load(struct code *c, uint16_t size, uint32_t at)
{
	op(c, BPF_LD | size | BPF_ABS, at);
}

static void at_least(struct code *c, uint32_t size)
{
	op(c, BPF_LD | BPF_W | BPF_LEN, 0);
	test(c, BPF_JGE, size, NEXT, DROP);
}

static uint32_t word(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* An IPv6 address at AT: NO as soon as it is another one. */
static void address(
	struct code *c, uint32_t at, const uint8_t bytes[16], enum label yes, enum label no)
{
	for (unsigned i = 0; i < 4; i++) {
		load(c, BPF_W, at + 4 * i);
		equal(c, word(bytes + 4 * i), i == 3 ? yes : NEXT, no);
	}
}

static void link_local(uint8_t out[16], const struct net_mac *mac)
{
	const uint8_t *m = mac->bytes;
	const uint8_t bytes[16] = {
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]};

	memcpy(out, bytes, sizeof(bytes));
}

static void arp(struct code *c, const struct net_mac *mac, const struct net_addr *ip4)
{
	place(c, ARP);
	at_least(c, AT_NET + 28);
	load(c, BPF_W, AT_NET);
	equal(c, 0x00010800, NEXT, DROP); /* IPv4 over Ethernet */
	load(c, BPF_H, AT_NET + 4);
	equal(c, 0x0604, NEXT, DROP);
	load(c, BPF_W, AT_ARP_SPA);
	if (ip4->family)
		equal(c, word(ip4->bytes), ARP_SENDER, NEXT);
	equal(c, 0, ARP_SENDER, DROP);
	place(c, ARP_SENDER);
	load(c, BPF_W, AT_ARP_OP_SHA);
	equal(c, word(mac->bytes), NEXT, DROP);
	load(c, BPF_H, AT_ARP_OP_SHA + 4);
	equal(c, (uint32_t)mac->bytes[4] << 8 | mac->bytes[5], PASS, DROP);
}

/* From the port's own address.  What can speak of other addresses is neighbour discovery. */
static void ip6_own(struct code *c, const uint8_t local[16], const struct net_addr *ip6)
{
	place(c, IP6_OWN);
	load(c, BPF_B, AT_IP6_NEXT);
	equal(c, 0, HOP_BY_HOP, NEXT);
	equal(c, 43, DROP, NEXT);
	equal(c, 51, DROP, NEXT);
	equal(c, 60, DROP, NEXT);
	equal(c, 135, DROP, NEXT); /* mobility */
	equal(c, 58, NEXT, PASS);
	at_least(c, AT_IP6_BODY + 4);
	load(c, BPF_B, AT_IP6_BODY);
	equal(c, ICMP6_TYPE_RA, DROP, NEXT);
	equal(c, ICMP6_TYPE_REDIRECT, DROP, NEXT);
	equal(c, ICMP6_TYPE_NA, ND_ADVERT, PASS);
	place(c, ND_ADVERT);
	at_least(c, ND_TARGET + 16);
	if (ip6->family)
		address(c, ND_TARGET, ip6->bytes, PASS, ND_LOCAL);
	place(c, ND_LOCAL);
	address(c, ND_TARGET, local, PASS, DROP);
	/* Multicast listener reports carry a router alert (RFC 2710, RFC 3810). */
	place(c, HOP_BY_HOP);
	at_least(c, AT_IP6_BODY + 12);
	load(c, BPF_H, AT_IP6_BODY);
	equal(c, 58 << 8, NEXT, DROP);
	load(c, BPF_B, AT_IP6_BODY + 8);
	equal(c, 143, PASS, NEXT);
	test(c, BPF_JGE, 130, NEXT, DROP);
	test(c, BPF_JGT, 132, DROP, PASS);
}

static void ip6_frames(struct code *c, const struct net_mac *mac, const struct net_addr *ip6)
{
	static const uint8_t none[16];
	uint8_t local[16];

	link_local(local, mac);
	place(c, IP6);
	at_least(c, AT_IP6_BODY);
	if (ip6->family)
		address(c, AT_IP6_SOURCE, ip6->bytes, IP6_OWN, IP6_LOCAL);
	place(c, IP6_LOCAL);
	address(c, AT_IP6_SOURCE, local, IP6_OWN, IP6_UNSPECIFIED);
	place(c, IP6_UNSPECIFIED);
	address(c, AT_IP6_SOURCE, none, NEXT, DROP);
	load(c, BPF_B, AT_IP6_NEXT);
	equal(c, 0, HOP_BY_HOP, NEXT);
	equal(c, 58, NEXT, DROP);
	at_least(c, AT_IP6_BODY + 4);
	load(c, BPF_B, AT_IP6_BODY);
	equal(c, ICMP6_TYPE_NS, PASS, DROP);
	ip6_own(c, local, ip6);
}

/* Distances instead of labels. */
static void resolve(struct code *c)
{
	for (size_t i = 0; i < c->count; i++) {
		size_t yes = c->jumps[i].yes, no = c->jumps[i].no;

		if (BPF_CLASS(c->to[i].code) != BPF_JMP)
			continue;
		c->to[i].jt = (uint8_t)(yes == NEXT ? 0 : c->at[yes] - i - 1);
		c->to[i].jf = (uint8_t)(no == NEXT ? 0 : c->at[no] - i - 1);
	}
}

size_t guard_program(struct sock_filter program[GUARD_MAX], const struct net_mac *mac,
	const struct net_addr *ip4, const struct net_addr *ip6)
{
	struct code c = {.to = program};

	op(&c, BPF_LD | BPF_B | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT));
	equal(&c, 0, NEXT, DROP);
	load(&c, BPF_H, AT_TYPE);
	equal(&c, ETH_P_IP, IP4, NEXT);
	equal(&c, ETH_P_ARP, ARP, NEXT);
	equal(&c, ETH_P_IPV6, IP6, DROP);
	place(&c, IP4);
	at_least(&c, AT_NET + 20);
	load(&c, BPF_W, AT_IP4_SOURCE);
	/* 0 is nobody's. */
	equal(&c, ip4->family ? word(ip4->bytes) : 0, ip4->family ? PASS : DROP, DROP);
	arp(&c, mac, ip4);
	ip6_frames(&c, mac, ip6);
	place(&c, PASS);
	op(&c, BPF_RET | BPF_K, TC_ACT_OK);
	place(&c, DROP);
	op(&c, BPF_RET | BPF_K, TC_ACT_SHOT);
	resolve(&c);
	return c.count;
}
