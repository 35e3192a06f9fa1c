/* The filter of ports that may send only from their own addresses: its program, run by
 * the kernel on a socket, and the overlay that puts it on taps. */
#include "node-agent/guard.h"

#include <linux/pkt_cls.h>

#include "tests/unit/node-agent/netkit.h"

#define VNI 42u
#define MTU 1450u

static const struct net_mac me = {{2, 0, 0, 0, 0, 1}}, other = {{2, 0, 0, 0, 0, 2}};

struct frame {
	uint8_t data[256];
	size_t size;
};

static struct frame ether(uint16_t type, size_t size)
{
	struct frame f = {.size = 0};

	f.size = kit_frame(f.data, other, me, type, 0, size);
	return f;
}

static struct frame ip4(const char *source)
{
	struct frame f = ether(0x0800, 60);

	f.data[14] = 0x45;
	f.data[17] = 46;
	f.data[22] = 64;
	f.data[23] = 17;
	memcpy(f.data + 26, kit_addr(source).bytes, 4);
	memcpy(f.data + 30, kit_addr("10.1.0.9").bytes, 4);
	return f;
}

static struct frame arp(const struct net_mac *hardware, const char *sender, uint8_t op)
{
	static const uint8_t head[7] = {0, 1, 8, 0, 6, 4, 0};
	struct frame f = ether(0x0806, 42);

	memcpy(f.data + 14, head, sizeof(head));
	f.data[21] = op;
	memcpy(f.data + 22, hardware->bytes, 6);
	memcpy(f.data + 28, kit_addr(sender).bytes, 4);
	return f;
}

static struct frame ip6(const char *source, uint8_t next, uint8_t first)
{
	struct frame f = ether(0x86dd, 14 + 40 + 32);

	f.data[14] = 0x60;
	f.data[19] = 32;
	f.data[20] = next;
	f.data[21] = 255;
	memcpy(f.data + 22, kit_addr(source).bytes, 16);
	memcpy(f.data + 38, kit_addr("ff02::1").bytes, 16);
	f.data[54] = first;
	return f;
}

static struct frame advert(const char *source, const char *target)
{
	struct frame f = ip6(source, 58, 136);

	memcpy(f.data + 62, kit_addr(target).bytes, 16);
	return f;
}

/* A hop-by-hop header, and in it NEXT of TYPE. */
static struct frame hop(const char *source, uint8_t next, uint8_t type)
{
	struct frame f = ip6(source, 0, next);

	f.data[62] = type;
	return f;
}

static struct frame cut(struct frame f, size_t size)
{
	f.size = size;
	return f;
}

/* ---------------------------------------------------------------- the program */

/* The kernel runs it on what is sent to a socket: 0 drops, so OK must not be 0 there. */
static bool passes(struct sock_filter *program, size_t count, const struct frame *f)
{
	struct sock_filter copy[GUARD_MAX];
	struct sock_fprog prog = {.len = (unsigned short)count, .filter = copy};
	uint8_t got[512];
	int ends[2];
	ssize_t n;

	memcpy(copy, program, count * sizeof(copy[0]));
	for (size_t i = 0; i < count; i++)
		if (copy[i].code == (BPF_RET | BPF_K))
			copy[i].k = copy[i].k == TC_ACT_OK ? 0xffff : 0;
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)), 0);
	(void)send(ends[1], f->data, f->size, 0);
	n = recv(ends[0], got, sizeof(got), 0);
	(void)close(ends[0]);
	(void)close(ends[1]);
	return n >= 0;
}

struct verdict {
	const char *what;
	struct frame frame;
	bool v4, v6; /* passes a port with an IPv4, with an IPv6 address */
};

static size_t verdicts(struct verdict *v)
{
	static const char mine6[] = "fd01::1", local[] = "fe80::ff:fe00:1", theirs[] = "fd01::2";
	static const char lan[] = "10.1.0.1";
	const struct verdict list[] = {
		{"own IPv4", ip4(lan), true, false},
		{"another's IPv4", ip4("10.1.0.2"), false, false},
		{"a neighbour number", ip4("10.1.0.0"), false, false},
		{"no source, as DHCP has", ip4("0.0.0.0"), false, false},
		{"multicast source", ip4("224.0.0.1"), false, false},
		{"IPv4 cut in its header", cut(ip4(lan), 32), false, false},
		{"own ARP", arp(&me, lan, 1), true, false},
		{"own ARP reply", arp(&me, lan, 2), true, false},
		{"ARP probe", arp(&me, "0.0.0.0", 1), true, true},
		{"ARP for another", arp(&me, "10.1.0.2", 2), false, false},
		{"own address, another's MAC", arp(&other, lan, 2), false, false},
		{"ARP cut", cut(arp(&me, lan, 2), 40), false, false},
		{"own IPv6", ip6(mine6, 6, 0), false, true},
		{"link-local IPv6", ip6(local, 17, 0), true, true},
		{"another's IPv6", ip6(theirs, 6, 0), false, false},
		{"another's link-local", ip6("fe80::ff:fe00:2", 6, 0), false, false},
		{"own ping", ip6(mine6, 58, 128), false, true},
		{"solicitation", ip6(mine6, 58, 135), false, true},
		{"router advertisement", ip6(local, 58, 134), false, false},
		{"redirect", ip6(local, 58, 137), false, false},
		{"own advertisement", advert(mine6, mine6), false, true},
		{"own, of link-local", advert(local, local), true, true},
		{"advertisement for another", advert(mine6, theirs), false, false},
		{"the same from link-local", advert(local, theirs), false, false},
		{"advertisement cut", cut(advert(local, local), 70), false, false},
		{"duplicate address detection", ip6("::", 58, 135), true, true},
		{"advertisement from nobody", advert("::", mine6), false, false},
		{"anything from nobody", ip6("::", 17, 0), false, false},
		{"listener report", hop(local, 58, 143), true, true},
		{"listener report from nobody", hop("::", 58, 131), true, true},
		{"RA behind hop-by-hop", hop(local, 58, 134), false, false},
		{"UDP behind hop-by-hop", hop(local, 17, 0), false, false},
		{"routing header", ip6(local, 43, 58), false, false},
		{"destination options", ip6(local, 60, 58), false, false},
		{"fragment", ip6(local, 44, 17), true, true},
		{"IPv6 cut", cut(ip6(local, 17, 0), 50), false, false},
		{"VLAN tag", ether(0x8100, 64), false, false},
		{"provider tag", ether(0x88a8, 64), false, false},
		{"LLDP", ether(0x88cc, 64), false, false},
		{"a length, as 802.2 has", ether(60, 74), false, false},
	};

	memcpy(v, list, sizeof(list));
	return sizeof(list) / sizeof(list[0]);
}

static void test_program(void **state)
{
	static struct verdict v[64];
	const struct net_addr lan = kit_addr("10.1.0.1"), mine6 = kit_addr("fd01::1"), none = {0};
	struct sock_filter program[GUARD_MAX];
	size_t n = verdicts(v);

	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		const struct net_addr *a = kind & 1 ? &lan : &none, *b = kind & 2 ? &mine6 : &none;
		size_t count = guard_program(program, &me, a, b);

		assert_true(count <= GUARD_MAX);
		for (size_t i = 0; i < n; i++) {
			bool both = v[i].v4 && v[i].v6;
			bool want = both || (kind & 1 && v[i].v4) || (kind & 2 && v[i].v6);

			/* What needs no global address passes at any port. */
			if (strstr(v[i].what, "link-local") && v[i].v4)
				want = true;
			if (passes(program, count, &v[i].frame) != want)
				fail_msg("port %d: '%s' should %s", kind, v[i].what,
					want ? "pass" : "be dropped");
		}
	}
}

/* ---------------------------------------------------------------- on taps */

static struct kit_net k;

static void ok(int rc, const struct err *err)
{
	if (rc < 0)
		fail_msg("%s", err_msg(err));
}

static struct overlay_member guest(unsigned n, unsigned host)
{
	struct overlay_member m = {.mac = kit_mac(n), .vtep = k.hosts[host].vtep};
	char text[64];

	(void)snprintf(text, sizeof(text), "10.1.0.%u", n);
	m.ip4 = kit_addr(text);
	(void)snprintf(text, sizeof(text), "fd01::%x", n);
	m.ip6 = kit_addr(text);
	return m;
}

static void set_net(unsigned host)
{
	struct err err = ERR_INIT;

	ok(overlay_net(k.hosts[host].ov, VNI, "lab/net", MTU, &err), &err);
}

static void set_members(unsigned host)
{
	const struct overlay_member m[] = {guest(1, 0), guest(2, 1)};
	struct err err = ERR_INIT;

	ok(overlay_members(k.hosts[host].ov, VNI, true, m, 2, NULL, 0, &err), &err);
}

/* A network of guest 1 on host 0, 2 on host 1; what is sent from TAPS[0] is looked at. */
static void open_net(int taps[2])
{
	const struct overlay_member m[] = {guest(1, 0), guest(2, 1)};
	char name[OVERLAY_IFNAME];
	struct err err = ERR_INIT;

	for (unsigned i = 0; i < 2; i++) {
		struct overlay *ov = k.hosts[i].ov;

		set_net(i);
		set_members(i);
		ok(overlay_port(ov, VNI, 7 + i, 0, 700000, &m[i], name, &err), &err);
		taps[i] = kit_tap_open(&k.hosts[i], name);
	}
	kit_drain(taps[1]);
}

/* From TAP, to guest 2: marked by the byte behind the Ethernet header's end. */
static bool arrives(int from, int to, const char *source)
{
	struct frame f = ip4(source), sure = ip4("10.1.0.1");
	uint8_t got[2048];
	bool seen = false;

	kit_drain(to);
	f.data[50] = 0x77;
	sure.data[50] = 0x78;
	kit_send(from, f.data, f.size);
	kit_send(from, sure.data, sure.size); /* behind it: then the first was dropped */
	for (int i = 0; i < 20; i++) {
		ssize_t n = kit_receive(to, got, sizeof(got), 5000);

		if (n < 0)
			fail_msg("even what is the guest's own does not arrive");
		if (n < 52)
			continue;
		seen |= got[50] == 0x77;
		if (got[50] == 0x78)
			break;
	}
	return seen;
}

static void set_guard(unsigned host, bool on, const char *free4)
{
	struct overlay_guard guard = {.on = on};
	struct err err = ERR_INIT;

	if (free4)
		guard.free4 = kit_addr(free4);
	ok(overlay_guard(k.hosts[host].ov, VNI, &guard, &err), &err);
}

static uint64_t changes(unsigned host)
{
	uint64_t sends, count;

	overlay_counts(k.hosts[host].ov, &sends, &count);
	return count;
}

static void test_taps(void **state)
{
	struct overlay_member m = guest(1, 0);
	char name[OVERLAY_IFNAME];
	struct err err = ERR_INIT;
	uint64_t before;
	int taps[2];

	(void)state;
	open_net(taps);
	assert_true(arrives(taps[0], taps[1], "10.1.0.99"));
	set_guard(0, true, NULL);
	assert_false(arrives(taps[0], taps[1], "10.1.0.99"));
	before = changes(0);
	set_guard(0, true, NULL); /* it is so already */
	ok(overlay_port(k.hosts[0].ov, VNI, 7, 0, 700000, &m, name, &err), &err);
	assert_int_equal(changes(0), before);
	/* The gateway sends for others. */
	set_guard(0, true, "10.1.0.1");
	assert_true(arrives(taps[0], taps[1], "10.1.0.99"));
	set_guard(0, true, "10.1.0.2");
	assert_false(arrives(taps[0], taps[1], "10.1.0.99"));
	/* Another address: the filter follows. */
	m.ip4 = kit_addr("10.1.0.55");
	ok(overlay_port(k.hosts[0].ov, VNI, 7, 0, 700000, &m, name, &err), &err);
	m.ip4 = kit_addr("10.1.0.1");
	ok(overlay_port(k.hosts[0].ov, VNI, 7, 0, 700000, &m, name, &err), &err);
	assert_false(arrives(taps[0], taps[1], "10.1.0.55"));
	set_guard(0, false, NULL);
	assert_true(arrives(taps[0], taps[1], "10.1.0.99"));
	(void)close(taps[0]);
	(void)close(taps[1]);
}

/* An agent that starts anew finds the filter, and changes it as it should be now. */
static void test_restart(void **state)
{
	int taps[2];

	(void)state;
	open_net(taps);
	set_guard(0, true, NULL);
	overlay_close(k.hosts[0].ov);
	kit_open_overlay(&k, &k.hosts[0]);
	/* Nobody has said anything yet: it still holds. */
	assert_false(arrives(taps[0], taps[1], "10.1.0.99"));
	/* Told anew of network, guard and members, while the guest runs on. */
	for (int i = 0; i < 3; i++) {
		set_net(0);
		set_guard(0, i != 1, NULL);
		set_members(0);
		assert_int_equal(arrives(taps[0], taps[1], "10.1.0.99"), i == 1);
		overlay_close(k.hosts[0].ov);
		kit_open_overlay(&k, &k.hosts[0]);
	}
	/* And when it starts again. */
	(void)close(taps[0]);
	(void)close(taps[1]);
	open_net(taps);
	assert_true(arrives(taps[0], taps[1], "10.1.0.99"));
	(void)close(taps[0]);
	(void)close(taps[1]);
}

static int setup(void **state)
{
	(void)state;
	kit_net_make(&k, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_net_remove(&k);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_program),
		cmocka_unit_test_setup_teardown(test_taps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
