/* The overlay on the real kernel: three hosts as namespaces with an underlay, taps
 * that the test reads and writes itself, and ip and bridge as judges. */
#include "tests/unit/node-agent/netkit.h"

#include <sys/mount.h>
#include <sys/sysmacros.h>

static struct kit_net k;

#define VNI 42u
#define MTU 1450u

static int make(void **state)
{
	(void)state;
	kit_net_make(&k, false);
	return 0;
}

static int make6(void **state)
{
	(void)state;
	kit_net_make(&k, true);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	kit_net_remove(&k);
	return 0;
}

static void ok(int rc, const struct err *err)
{
	if (rc < 0)
		fail_msg("%s", err_msg(err));
}

/* Guest N (1 ..) of the network, on host HOST (-1: not placed). */
static struct overlay_member guest(unsigned n, int host)
{
	struct overlay_member m = {.mac = kit_mac(n)};
	char text[64];

	(void)snprintf(text, sizeof(text), "10.1.%u.%u", n / 250, n % 250 + 1);
	m.ip4 = kit_addr(text);
	(void)snprintf(text, sizeof(text), "fd01::%x", n);
	m.ip6 = kit_addr(text);
	if (host >= 0)
		m.vtep = k.hosts[host].vtep;
	return m;
}

static void state_net(struct kit_host *h, uint32_t mtu)
{
	struct err err = ERR_INIT;

	ok(overlay_net(h->ov, VNI, "lab/net", mtu, &err), &err);
}

static void state_members(struct kit_host *h, bool full, const struct overlay_member *m, size_t n)
{
	struct err err = ERR_INIT;

	ok(overlay_members(h->ov, VNI, full, m, n, NULL, 0, &err), &err);
}

static void state_port(struct kit_host *h, uint32_t slot, const struct overlay_member *self)
{
	char name[OVERLAY_IFNAME], want[32];
	struct err err = ERR_INIT;

	ok(overlay_port(h->ov, VNI, slot, 0, 700000 + slot, self, name, &err), &err);
	(void)snprintf(want, sizeof(want), "t%u.0", slot);
	assert_string_equal(name, want);
}

static void state_all(struct kit_host *h, const struct overlay_member *m, size_t n)
{
	state_net(h, MTU);
	state_members(h, true, m, n);
}

static uint64_t changes(const struct kit_host *h)
{
	uint64_t sends, count;

	overlay_counts(h->ov, &sends, &count);
	return count;
}

static void assert_has(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' is not in:\n%.900s", part, text);
}

static void assert_has_not(const char *text, const char *part)
{
	if (strstr(text, part))
		fail_msg("'%s' is in:\n%.900s", part, text);
}

/* Guests 1 and 2 on host 0 and 1; host 2 has none of the network. */
static void two_guests(int taps[2])
{
	const struct overlay_member m[] = {guest(1, 0), guest(2, 1)};

	for (unsigned i = 0; i < 2; i++) {
		state_all(&k.hosts[i], m, 2);
		state_port(&k.hosts[i], i + 7, &m[i]);
		taps[i] = kit_tap_open(&k.hosts[i], i ? "t8.0" : "t7.0");
	}
	state_net(&k.hosts[2], MTU);
	state_members(&k.hosts[2], true, m, 2);
	/* The underlay's neighbours are known before anything is counted. */
	for (unsigned i = 0; i < KIT_HOSTS; i++)
		(void)kit_vxlan_seen(&k.hosts[i], NULL);
}

/* ---- what the kernel has ---- */

static void test_devices(void **state)
{
	int taps[2];
	char *out;

	(void)state;
	two_guests(taps);
	out = kit_print(&k, k.hosts[0].overlay_ns, "ip", "-d", "link", "show");
	assert_has(out, "b42: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450");
	assert_has(out, "<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue master b42");
	assert_has(out, "vxlan id 42 local 192.0.2.1");
	assert_has(out, "dstport 4789 nolearning ttl 64");
	assert_has(out, "tun type tap pi off vnet_hdr on persist on user 700007");
	assert_has(out, "stp_state 0");
	assert_has(out, "mcast_snooping 0");
	free(out);
	out = kit_print(&k, k.hosts[0].overlay_ns, "bridge", "-d", "link", "show", "dev", "x42");
	assert_has(out, "learning off flood off mcast_flood on bcast_flood on");
	assert_has(out, "neigh_suppress on");
	assert_has(out, "locked off");
	free(out);
	out = kit_print(&k, k.hosts[0].overlay_ns, "bridge", "-d", "link", "show", "dev", "t7.0");
	assert_has(out, "mtu 1450 master b42 state forwarding");
	assert_has(out, "learning off flood off mcast_flood on bcast_flood on");
	assert_has(out, "neigh_suppress off");
	assert_has(out, "locked on");
	free(out);
	out = kit_print(&k, k.hosts[0].overlay_ns, "bridge", "fdb", "show", "br", "b42");
	assert_has(out, "02:00:00:00:00:01 dev t7.0 master b42 static");
	assert_has(out, "02:00:00:00:00:02 dev x42 master b42 static");
	assert_has(out, "02:00:00:00:00:02 dev x42 dst 192.0.2.2");
	assert_has(out, "00:00:00:00:00:00 dev x42 dst 192.0.2.2");
	assert_has_not(out, "dst 192.0.2.1 ");
	assert_has_not(out, "dst 192.0.2.3 ");
	free(out);
	out = kit_print(&k, k.hosts[0].overlay_ns, "ip", "neigh", "show", "dev", "b42");
	assert_has(out, "10.1.0.3 lladdr 02:00:00:00:00:02 PERMANENT");
	assert_has(out, "10.1.0.2 lladdr 02:00:00:00:00:01 PERMANENT");
	assert_has(out, "fd01::2 lladdr 02:00:00:00:00:02 PERMANENT");
	free(out);
	/* No addresses, and nothing of ours in the host's own namespace. */
	out = kit_print(&k, k.hosts[0].overlay_ns, "ip", "addr", "show");
	assert_has_not(out, "inet6");
	free(out);
	out = kit_print(&k, k.hosts[0].ns, "ip", "-d", "link", "show");
	assert_has_not(out, "vxlan");
	assert_has_not(out, "b42");
	free(out);
	out = kit_print(&k, k.hosts[0].overlay_ns, "sh", "-c",
		"cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/bridge/bridge-nf-call-iptables "
		"2>/dev/null | tr -d '\\n'");
	assert_true(strcmp(out, "00") == 0 || strcmp(out, "0") == 0);
	free(out);
	(void)close(taps[0]);
	(void)close(taps[1]);
}

static int attach_as_owner(void *arg, struct err *err)
{
	pid_t pid = fork();

	(void)err;
	if (pid == 0) {
		struct kit_tap t = {.ifname = "t7.0", .node = kit_path(&k.dir, "tun")};
		const uid_t uid = *(const uid_t *)arg;

		if (setgid(uid) < 0 || setuid(uid) < 0)
			_exit(2);
		_exit(kit_attach(&t, NULL) < 0 ? 1 : 0);
	}
	return kit_wait(pid, 5000);
}

/* The guest's user may attach to its tap, another may not. */
static void test_owner(void **state)
{
	const struct overlay_member self = guest(1, 0);
	uid_t owner = 700007, other = 700008;
	struct err err = ERR_INIT;
	struct kit_host *h = &k.hosts[0];
	int fd;

	(void)state;
	state_all(h, &self, 1);
	state_port(h, 7, &self);
	fd = overlay_netns_fd(h->ov);
	/* Not every host lets all users open /dev/net/tun: a jail has a node of its own. */
	assert_int_equal(mknod(kit_path(&k.dir, "tun"), S_IFCHR | 0666, makedev(10, 200)), 0);
	assert_int_equal(chmod(kit_path(&k.dir, "tun"), 0666), 0);
	assert_int_equal(netns_run(fd, attach_as_owner, &owner, &err), 0);
	assert_int_equal(netns_run(fd, attach_as_owner, &other, &err), 1);
	/* Another owner: made anew. */
	char name[OVERLAY_IFNAME];

	ok(overlay_port(h->ov, VNI, 7, 0, other, &self, name, &err), &err);
	assert_int_equal(netns_run(fd, attach_as_owner, &other, &err), 0);
	assert_int_equal(netns_run(fd, attach_as_owner, &owner, &err), 1);
}

/* ---- frames ---- */

static void exchange(unsigned overhead)
{
	const struct net_mac a = kit_mac(1), b = kit_mac(2), nobody = kit_mac(99);
	const struct net_mac all = {{255, 255, 255, 255, 255, 255}},
			     group = {{1, 0, 0x5e, 1, 2, 3}};
	uint8_t frame[4096];
	size_t largest;
	int taps[2];

	two_guests(taps);
	/* There and back. */
	kit_send(taps[0], frame, kit_frame(frame, b, a, 0x88b5, 0x11, 100));
	assert_true(kit_gets(taps[1], 0x11, 5000));
	kit_send(taps[1], frame, kit_frame(frame, a, b, 0x88b5, 0x12, 100));
	assert_true(kit_gets(taps[0], 0x12, 5000));
	assert_int_equal(kit_vxlan_seen(&k.hosts[0], NULL), 2);
	assert_int_equal(kit_vxlan_seen(&k.hosts[1], NULL), 2);
	/* As large as the network's MTU: one packet that fills the underlay's. */
	kit_send(taps[0], frame, kit_frame(frame, b, a, 0x88b5, 0x13, 1500 - overhead + 14));
	assert_true(kit_gets(taps[1], 0x13, 5000));
	assert_int_equal(kit_vxlan_seen(&k.hosts[1], &largest), 1);
	assert_int_equal(largest, 1514);
	/* Broadcast and multicast: to the host with a member. */
	kit_send(taps[0], frame, kit_frame(frame, all, a, 0x88b5, 0x14, 100));
	assert_true(kit_gets(taps[1], 0x14, 5000));
	kit_send(taps[0], frame, kit_frame(frame, group, a, 0x88b5, 0x15, 100));
	assert_true(kit_gets(taps[1], 0x15, 5000));
	/* A destination nobody has, and a source that is not the port's (another
	 * guest's, an unknown one): nothing leaves.  The last frame proves that
	 * those before it are through. */
	assert_int_equal(kit_vxlan_seen(&k.hosts[0], NULL), 3);
	kit_send(taps[0], frame, kit_frame(frame, nobody, a, 0x88b5, 0x16, 100));
	kit_send(taps[0], frame, kit_frame(frame, b, nobody, 0x88b5, 0x17, 100));
	kit_send(taps[0], frame, kit_frame(frame, all, nobody, 0x88b5, 0x18, 100));
	kit_send(taps[0], frame, kit_frame(frame, all, b, 0x88b5, 0x19, 100));
	kit_send(taps[0], frame, kit_frame(frame, b, a, 0x88b5, 0x1a, 100));
	assert_true(kit_gets(taps[1], 0x1a, 5000));
	assert_int_equal(kit_vxlan_seen(&k.hosts[0], NULL), 1);
	/* All that time the third host got nothing. */
	assert_int_equal(kit_vxlan_seen(&k.hosts[2], NULL), 0);
	(void)close(taps[0]);
	(void)close(taps[1]);
}

static void test_frames(void **state)
{
	struct overlay_stats s;
	struct err err = ERR_INIT;

	(void)state;
	exchange(50);
	ok(overlay_port_stats(k.hosts[1].ov, 8, 0, &s, &err), &err);
	assert_true(s.rx_packets >= 5 && s.rx_bytes > 1450 && s.tx_packets == 1);
	assert_int_equal(overlay_port_stats(k.hosts[1].ov, 9, 0, &s, &err), -ENOENT);
}

static void test_frames_over_ipv6(void **state)
{
	uint32_t mtu;
	char name[OVERLAY_IFNAME];
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(overlay_overhead(&k.hosts[0].vtep), 70);
	kit_enter(k.hosts[0].ns);
	int rc = overlay_underlay_mtu(&k.hosts[0].vtep, &mtu, name, &err);

	kit_leave(&k);
	ok(rc, &err);
	assert_int_equal(mtu, 1500);
	exchange(70);
}

struct __attribute__((packed)) arp {
	uint8_t head[8];
	uint8_t sha[6], spa[4], tha[6], tpa[4];
};

static size_t arp_request(uint8_t *frame, struct net_mac from, const char *ip, const char *target)
{
	const struct net_mac all = {{255, 255, 255, 255, 255, 255}};
	struct arp arp = {.head = {0, 1, 8, 0, 6, 4, 0, 1}};
	size_t size = kit_frame(frame, all, from, 0x0806, 0, 14 + sizeof(arp));

	memcpy(arp.sha, from.bytes, 6);
	memcpy(arp.spa, kit_addr(ip).bytes, 4);
	memcpy(arp.tpa, kit_addr(target).bytes, 4);
	memcpy(frame + 14, &arp, sizeof(arp));
	return size;
}

static uint16_t checksum(const uint8_t *p, size_t size, uint32_t sum)
{
	for (size_t i = 0; i + 1 < size; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* A neighbour solicitation (RFC 4861, 4.3) for TARGET. */
static size_t nd_request(uint8_t *frame, struct net_mac from, const char *ip, const char *target)
{
	struct net_addr src = kit_addr(ip), dst = kit_addr("ff02::1:ff00:0"),
			tgt = kit_addr(target);
	struct net_mac group = {{0x33, 0x33, 0xff, 0, 0, 0}};
	uint8_t *ip6 = frame + 14, *icmp = frame + 54;

	memcpy(group.bytes + 3, tgt.bytes + 13, 3);
	memcpy(dst.bytes + 13, tgt.bytes + 13, 3);
	size_t size = kit_frame(frame, group, from, 0x86dd, 0, 14 + 40 + 32);

	ip6[0] = 0x60;
	ip6[5] = 32;
	ip6[6] = 58;
	ip6[7] = 255;
	memcpy(ip6 + 8, src.bytes, 16);
	memcpy(ip6 + 24, dst.bytes, 16);
	icmp[0] = 135;
	memcpy(icmp + 8, tgt.bytes, 16);
	icmp[24] = 1;
	icmp[25] = 1;
	memcpy(icmp + 26, from.bytes, 6);
	uint32_t pseudo = 32 + 58;

	for (size_t i = 8; i < 40; i += 2)
		pseudo += (uint32_t)(ip6[i] << 8 | ip6[i + 1]);
	uint16_t sum = checksum(icmp, 32, pseudo);

	icmp[2] = (uint8_t)(sum >> 8);
	icmp[3] = (uint8_t)sum;
	return size;
}

/* Requests for known addresses are answered on the spot, and do not travel. */
static void test_suppression(void **state)
{
	uint8_t frame[2048];
	struct arp arp;
	int taps[2];
	ssize_t n;

	(void)state;
	two_guests(taps);
	kit_drain(taps[0]);
	kit_send(taps[0], frame, arp_request(frame, kit_mac(1), "10.1.0.2", "10.1.0.3"));
	n = kit_receive(taps[0], frame, sizeof(frame), 5000);
	assert_true(n >= (ssize_t)(14 + sizeof(arp)));
	memcpy(&arp, frame + 14, sizeof(arp));
	assert_int_equal(frame[12] << 8 | frame[13], 0x0806);
	assert_int_equal(arp.head[7], 2);
	assert_memory_equal(arp.sha, kit_mac(2).bytes, 6);
	assert_memory_equal(arp.spa, kit_addr("10.1.0.3").bytes, 4);
	kit_send(taps[0], frame, nd_request(frame, kit_mac(1), "fd01::1", "fd01::2"));
	n = kit_receive(taps[0], frame, sizeof(frame), 5000);
	assert_true(n >= 14 + 40 + 32);
	assert_int_equal(frame[54], 136);
	assert_memory_equal(frame + 62, kit_addr("fd01::2").bytes, 16);
	assert_memory_equal(frame + 80, kit_mac(2).bytes, 6);
	assert_int_equal(kit_vxlan_seen(&k.hosts[0], NULL), 0);
	/* One for an address nobody is known to have goes to the members' hosts. */
	kit_send(taps[0], frame, arp_request(frame, kit_mac(1), "10.1.0.2", "10.1.0.77"));
	assert_true(kit_receive(taps[1], frame, sizeof(frame), 5000) > 0);
	assert_int_equal(kit_vxlan_seen(&k.hosts[0], NULL), 1);
	assert_int_equal(kit_vxlan_seen(&k.hosts[2], NULL), 0);
	(void)close(taps[0]);
	(void)close(taps[1]);
}

/* ---- changes of members ---- */

static char *fdb_of(struct kit_host *h)
{
	return kit_print(&k, h->overlay_ns, "bridge", "fdb", "show", "br", "b42");
}

static void test_members_change(void **state)
{
	struct kit_host *h = &k.hosts[0];
	struct overlay_member m[] = {
		guest(1, 0), guest(2, 1), guest(3, 1), guest(4, 2), guest(5, -1)};
	const struct net_mac gone = kit_mac(3);
	struct err err = ERR_INIT;
	char *out;

	(void)state;
	state_all(h, m, 5);
	uint64_t before = changes(h);

	/* The same again, in full or in part: nothing to do. */
	state_members(h, true, m, 5);
	state_members(h, false, m, 3);
	assert_int_equal(changes(h), before);
	out = fdb_of(h);
	assert_has(out, "00:00:00:00:00:00 dev x42 dst 192.0.2.3");
	assert_has(out, "02:00:00:00:00:04 dev x42 dst 192.0.2.3");
	assert_has_not(out, "02:00:00:00:00:05");
	free(out);
	/* A move: one message for the entry, and the last host's broadcast entry. */
	m[3].vtep = k.hosts[1].vtep;
	state_members(h, false, &m[3], 1);
	assert_int_equal(changes(h) - before, 2);
	out = fdb_of(h);
	assert_has(out, "02:00:00:00:00:04 dev x42 dst 192.0.2.2");
	assert_has_not(out, "dst 192.0.2.3");
	free(out);
	/* One goes, one is placed. */
	m[4].vtep = k.hosts[2].vtep;
	ok(overlay_members(h->ov, VNI, false, &m[4], 1, &gone, 1, &err), &err);
	out = fdb_of(h);
	assert_has_not(out, "02:00:00:00:00:03");
	assert_has(out, "02:00:00:00:00:05 dev x42 dst 192.0.2.3");
	free(out);
	/* An address changes hands. */
	m[1].ip4 = m[4].ip4;
	m[4].ip4 = kit_addr("10.1.9.9");
	state_members(h, false, &m[1], 1);
	state_members(h, false, &m[4], 1);
	out = kit_print(&k, h->overlay_ns, "ip", "-4", "neigh", "show", "dev", "b42");
	assert_has(out, "10.1.0.6 lladdr 02:00:00:00:00:02 PERMANENT");
	assert_has(out, "10.1.9.9 lladdr 02:00:00:00:00:05 PERMANENT");
	assert_has_not(out, "10.1.0.3 ");
	free(out);
	/* Full: the others go, with their addresses. */
	state_members(h, true, m, 2);
	out = fdb_of(h);
	assert_has_not(out, "02:00:00:00:00:04");
	assert_has_not(out, "02:00:00:00:00:05");
	assert_has_not(out, "dst 192.0.2.3");
	assert_has(out, "02:00:00:00:00:02 dev x42 dst 192.0.2.2");
	free(out);
	state_members(h, true, NULL, 0);
	out = fdb_of(h);
	assert_has_not(out, " dst ");
	free(out);
	out = kit_print(&k, h->overlay_ns, "ip", "neigh", "show");
	assert_string_equal(out, "");
	free(out);
}

/* A guest that moves: remote here, then ours, then remote again. */
static void test_local_and_remote(void **state)
{
	struct kit_host *h = &k.hosts[0];
	struct overlay_member m[] = {guest(1, 0), guest(2, 1)};
	struct err err = ERR_INIT;
	char *out;

	(void)state;
	state_all(h, m, 2);
	state_port(h, 7, &m[0]);
	/* The port is made while the guest is still told to be remote. */
	state_port(h, 8, &m[1]);
	out = fdb_of(h);
	assert_has(out, "02:00:00:00:00:02 dev t8.0 master b42 static");
	assert_has_not(out, "dst 192.0.2.2");
	free(out);
	m[1].vtep = h->vtep;
	state_members(h, false, &m[1], 1);
	/* Told to be remote while the port is there: the port wins until it goes. */
	m[1].vtep = k.hosts[2].vtep;
	state_members(h, false, &m[1], 1);
	out = fdb_of(h);
	assert_has(out, "02:00:00:00:00:02 dev t8.0 master b42 static");
	assert_has_not(out, "dst 192.0.2.3");
	free(out);
	ok(overlay_port_remove(h->ov, 8, 0, &err), &err);
	ok(overlay_port_remove(h->ov, 8, 0, &err), &err);
	out = fdb_of(h);
	assert_has(out, "02:00:00:00:00:02 dev x42 dst 192.0.2.3");
	assert_has(out, "02:00:00:00:00:02 dev x42 master b42 static");
	assert_has(out, "00:00:00:00:00:00 dev x42 dst 192.0.2.3");
	free(out);
	out = kit_print(&k, h->overlay_ns, "ip", "-4", "neigh", "show", "dev", "b42");
	assert_has(out, "10.1.0.3 lladdr 02:00:00:00:00:02 PERMANENT");
	free(out);
	/* A port whose MAC changes. */
	struct overlay_member other = guest(9, 0);

	state_port(h, 7, &other);
	out = fdb_of(h);
	assert_has(out, "02:00:00:00:00:09 dev t7.0 master b42 static");
	assert_has_not(out, "02:00:00:00:00:01");
	free(out);
	/* The same MAC on a second port is a mistake. */
	char name[OVERLAY_IFNAME];

	assert_int_equal(overlay_port(h->ov, VNI, 11, 0, 1, &other, name, &err), -EEXIST);
}

static void test_refusals(void **state)
{
	struct kit_host *h = &k.hosts[0];
	struct overlay_member m = guest(1, 1);
	char name[OVERLAY_IFNAME];
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(overlay_net(h->ov, 0, "n", MTU, &err), -EINVAL);
	assert_int_equal(overlay_net(h->ov, 1u << 24, "n", MTU, &err), -EINVAL);
	assert_int_equal(overlay_net(h->ov, 1, "n", 10, &err), -EINVAL);
	assert_int_equal(overlay_net(h->ov, 1, "n", 100000, &err), -EINVAL);
	assert_int_equal(overlay_members(h->ov, 5, true, &m, 1, NULL, 0, &err), -ENOENT);
	assert_int_equal(overlay_port(h->ov, 5, 1, 0, 1, &m, name, &err), -ENOENT);
	state_net(h, MTU);
	m.mac.bytes[0] = 1;
	assert_int_equal(overlay_members(h->ov, VNI, true, &m, 1, NULL, 0, &err), -EINVAL);
	assert_int_equal(overlay_port(h->ov, VNI, 1, 0, 1, &m, name, &err), -EINVAL);
	m = guest(1, 1);
	m.ip4 = m.ip6;
	assert_int_equal(overlay_members(h->ov, VNI, true, &m, 1, NULL, 0, &err), -EINVAL);
	m = guest(1, 1);
	assert_int_equal(overlay_port(h->ov, VNI, 65536, 0, 1, &m, name, &err), -EINVAL);
	assert_int_equal(overlay_port(h->ov, VNI, 0, 64, 1, &m, name, &err), -EINVAL);
	ok(overlay_net_remove(h->ov, 77, &err), &err);
	const struct overlay_config none = {.netns_path = "/nonexistent/x", .vtep = h->vtep};
	struct overlay *ov = NULL;

	assert_int_equal(overlay_open(&none, &ov, &err), -ENOENT);
	assert_null(ov);
}

/* ---- restart, repair, removal ---- */

/* A socket that hears of every change in the overlay's namespace. */
static int listen_in(void *arg, struct err *err)
{
	const uint32_t groups = RTMGRP_LINK | RTMGRP_NEIGH;
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = groups};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_errno(err, errno, "listen");
	*(int *)arg = fd;
	return 0;
}

static void test_restart(void **state)
{
	struct kit_host *h = &k.hosts[0];
	const struct overlay_member m[] = {guest(1, 0), guest(2, 1), guest(3, 2)};
	const uint32_t vnis[] = {VNI}, slots[] = {7};
	struct err err = ERR_INIT;
	int fd = -1, watch = dup(overlay_netns_fd(h->ov));
	char buf[8192], *before, *after;

	(void)state;
	state_all(h, m, 3);
	state_port(h, 7, &m[0]);
	before = fdb_of(h);
	/* Down, up, and everything stated again, ports last or first. */
	for (int order = 0; order < 2; order++) {
		overlay_close(h->ov);
		h->ov = NULL;
		ok(netns_run(watch, listen_in, &fd, &err), &err);
		kit_open_overlay(&k, h);
		state_net(h, MTU);
		if (order == 0) {
			state_members(h, true, m, 3);
			state_port(h, 7, &m[0]);
		} else {
			state_port(h, 7, &m[0]);
			state_members(h, true, m, 3);
		}
		ok(overlay_keep_only(h->ov, vnis, 1, slots, 1, &err), &err);
		assert_int_equal(changes(h), 0);
		assert_int_equal(recv(fd, buf, sizeof(buf), 0), -1);
		(void)close(fd);
	}
	after = fdb_of(h);
	assert_string_equal(before, after);
	free(before);
	free(after);
	/* Members that went while we were away. */
	overlay_close(h->ov);
	kit_open_overlay(&k, h);
	state_net(h, MTU);
	state_members(h, true, m, 2);
	after = fdb_of(h);
	assert_has_not(after, "02:00:00:00:00:03");
	assert_has_not(after, "192.0.2.3");
	assert_has(after, "02:00:00:00:00:01 dev t7.0 master b42 static");
	free(after);
	(void)close(watch);
}

/* Networks and guests that went while we were away are removed. */
static void test_keep_only(void **state)
{
	struct kit_host *h = &k.hosts[0];
	const struct overlay_member m[] = {guest(1, 0), guest(2, 0)};
	const uint32_t vnis[] = {VNI}, slots[] = {8};
	struct err err = ERR_INIT;
	char *out;

	(void)state;
	state_all(h, m, 2);
	state_port(h, 7, &m[0]);
	state_port(h, 8, &m[1]);
	ok(overlay_net(h->ov, 43, "other", MTU, &err), &err);
	overlay_close(h->ov);
	kit_open_overlay(&k, h);
	ok(overlay_keep_only(h->ov, vnis, 1, slots, 1, &err), &err);
	out = kit_print(&k, h->overlay_ns, "ip", "-br", "link");
	assert_has(out, "b42");
	assert_has(out, "x42");
	assert_has(out, "t8.0");
	assert_has_not(out, "t7.0");
	assert_has_not(out, "b43");
	assert_has_not(out, "x43");
	free(out);
	ok(overlay_keep_only(h->ov, NULL, 0, NULL, 0, &err), &err);
	out = kit_print(&k, h->overlay_ns, "ip", "-br", "link");
	assert_has_not(out, "42");
	assert_has_not(out, "t8");
	free(out);
}

/* Somebody breaks what we made: the next statement fails at most once, and mends it. */
static void test_repair(void **state)
{
	static const char *const damage[][8] = {{"ip", "link", "del", "x42", NULL},
		{"ip", "link", "del", "b42", NULL}, {"ip", "link", "del", "t7.0", NULL},
		{"ip", "link", "set", "t7.0", "nomaster", NULL},
		{"bridge", "link", "set", "dev", "x42", "learning", "on", NULL},
		{"ip", "link", "set", "b42", "down", NULL}};
	struct kit_host *h = &k.hosts[0];
	struct overlay_member m[] = {guest(1, 0), guest(2, 1), guest(3, 2), guest(4, 2)};
	struct err err = ERR_INIT;
	char name[OVERLAY_IFNAME], *out;

	(void)state;
	for (size_t i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
		const char *argv[16] = {"ip", "netns", "exec", h->overlay_ns};
		bool failed = false;

		state_all(h, m, 3);
		state_port(h, 7, &m[0]);
		for (size_t j = 0; damage[i][j]; j++)
			argv[4 + j] = damage[i][j];
		assert_int_equal(kit_wait(kit_spawn(argv, NULL, NULL), 5000), 0);
		/* Provokes messages for the lost devices. */
		failed |= overlay_members(h->ov, VNI, false, &m[3], 1, NULL, 0, &err) < 0;
		struct overlay_member other = m[0];

		other.ip4 = kit_addr("10.1.200.1");
		failed |= overlay_port(h->ov, VNI, 7, 0, 700007, &other, name, &err) < 0;
		if (!failed) {
			/* Not noticed by itself; a restart notices. */
			overlay_close(h->ov);
			kit_open_overlay(&k, h);
		}
		state_all(h, m, 3);
		state_port(h, 7, &m[0]);
		out = fdb_of(h);
		assert_has(out, "02:00:00:00:00:01 dev t7.0 master b42 static");
		assert_has(out, "02:00:00:00:00:02 dev x42 dst 192.0.2.2");
		assert_has(out, "02:00:00:00:00:02 dev x42 master b42 static");
		assert_has(out, "00:00:00:00:00:00 dev x42 dst 192.0.2.3");
		free(out);
		out = kit_print(&k, h->overlay_ns, "ip", "-4", "neigh", "show", "dev", "b42");
		assert_has(out, "10.1.0.3 lladdr 02:00:00:00:00:02 PERMANENT");
		assert_has(out, "10.1.0.2 lladdr 02:00:00:00:00:01 PERMANENT");
		free(out);
		out = kit_print(&k, h->overlay_ns, "bridge", "-d", "link");
		assert_has_not(out, "learning on");
		assert_has_not(out, "learning_sync on");
		free(out);
	}
}

static void test_mtu_and_address_change(void **state)
{
	struct kit_host *h = &k.hosts[0];
	const struct overlay_member m[] = {guest(1, 0), guest(2, 1)};
	char *out;

	(void)state;
	state_all(h, m, 2);
	state_port(h, 7, &m[0]);
	state_net(h, 1300);
	out = kit_print(&k, h->overlay_ns, "ip", "link");
	assert_has(out, "mtu 1300");
	assert_has_not(out, "mtu 1450");
	free(out);
	state_net(h, 1430);
	out = kit_print(&k, h->overlay_ns, "ip", "link");
	assert_has_not(out, "mtu 1300");
	free(out);
	/* The host's underlay address is another after a restart. */
	overlay_close(h->ov);
	h->vtep = kit_addr("192.0.2.77");
	kit_open_overlay(&k, h);
	state_net(h, 1430);
	state_members(h, true, &m[1], 1);
	state_port(h, 7, &m[0]);
	out = kit_print(&k, h->overlay_ns, "ip", "-d", "link", "show", "x42");
	assert_has(out, "local 192.0.2.77");
	free(out);
	out = fdb_of(h);
	assert_has(out, "02:00:00:00:00:02 dev x42 dst 192.0.2.2");
	assert_has(out, "02:00:00:00:00:02 dev x42 master b42 static");
	free(out);
}

static void test_underlay(void **state)
{
	struct net_addr nowhere = kit_addr("203.0.113.9");
	uint32_t mtu;
	char name[OVERLAY_IFNAME];
	struct err err = ERR_INIT;
	int first, second;

	(void)state;
	assert_int_equal(overlay_overhead(&k.hosts[1].vtep), 50);
	assert_int_equal(
		kit_run("ip", "-n", k.hosts[1].ns, "link", "set", "eth0", "mtu", "1400"), 0);
	kit_enter(k.hosts[1].ns);
	first = overlay_underlay_mtu(&k.hosts[1].vtep, &mtu, name, &err);
	second = overlay_underlay_mtu(&nowhere, &mtu, name, NULL);
	kit_leave(&k);
	ok(first, &err);
	assert_int_equal(mtu, 1400);
	assert_string_equal(name, "eth0");
	assert_int_equal(second, -EADDRNOTAVAIL);
}

static void test_purge(void **state)
{
	struct kit_host *h = &k.hosts[0];
	const struct overlay_member m[] = {guest(1, 0), guest(2, 1)};
	int watch = dup(overlay_netns_fd(h->ov)), fd = -1;
	struct err err = ERR_INIT;
	char *out;

	(void)state;
	state_all(h, m, 2);
	state_port(h, 7, &m[0]);
	overlay_close(h->ov);
	h->ov = NULL;
	/* Even when something holds the namespace, no device of ours is left in it. */
	ok(overlay_purge(h->overlay, &err), &err);
	assert_int_equal(access(h->overlay, F_OK), -1);
	assert_int_equal(kit_run("touch", h->overlay), 0);
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", watch);
	assert_int_equal(mount(path, h->overlay, NULL, MS_BIND, NULL), 0);
	out = kit_print(&k, h->overlay_ns, "ip", "-br", "link");
	assert_has_not(out, "42");
	assert_has_not(out, "t7");
	free(out);
	ok(overlay_purge(h->overlay, &err), &err);
	ok(overlay_purge(h->overlay, &err), &err);
	/* A plain file in its place (a reboot leaves one). */
	assert_int_equal(kit_run("touch", h->overlay), 0);
	kit_open_overlay(&k, h);
	(void)close(watch);
	(void)fd;
}

/* ---- how long ---- */

static void test_scale(void **state)
{
	enum { PORTS = 500, ENTRIES = 5000 };
	struct kit_host *h = &k.hosts[0];
	struct overlay_member *m = calloc(PORTS + ENTRIES, sizeof(*m));
	uint64_t sends[2], count, t[6];
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(m);
	for (unsigned i = 0; i < PORTS + ENTRIES; i++)
		m[i] = guest(i + 1, i < PORTS ? 0 : 1 + (int)(i % 2));
	t[0] = kit_now_ms();
	state_net(h, MTU);
	overlay_counts(h->ov, &sends[0], &count);
	state_members(h, true, m, PORTS + ENTRIES);
	overlay_counts(h->ov, &sends[1], &count);
	t[1] = kit_now_ms();
	for (unsigned i = 0; i < PORTS; i++)
		state_port(h, i, &m[i]);
	t[2] = kit_now_ms();
	overlay_close(h->ov);
	kit_open_overlay(&k, h);
	t[3] = kit_now_ms();
	state_net(h, MTU);
	state_members(h, true, m, PORTS + ENTRIES);
	for (unsigned i = 0; i < PORTS; i++)
		state_port(h, i, &m[i]);
	assert_int_equal(changes(h), 0);
	t[4] = kit_now_ms();
	/* A change of one guest costs one guest. */
	overlay_counts(h->ov, &sends[0], &count);
	m[PORTS].vtep = k.hosts[2].vtep;
	state_members(h, false, &m[PORTS], 1);
	assert_int_equal(changes(h), 1);
	ok(overlay_keep_only(h->ov, NULL, 0, NULL, 0, &err), &err);
	t[5] = kit_now_ms();
	print_message("%d remote members (%d entries): %llu ms in %llu sends; %d ports: %llu ms; "
		      "adopted in %llu ms, stated again in %llu ms, removed in %llu ms\n",
		ENTRIES, ENTRIES * 4, (unsigned long long)(t[1] - t[0]),
		(unsigned long long)(sends[1] - sends[0]), PORTS, (unsigned long long)(t[2] - t[1]),
		(unsigned long long)(t[3] - t[2]), (unsigned long long)(t[4] - t[3]),
		(unsigned long long)(t[5] - t[4]));
	assert_true(sends[1] - sends[0] <= 20);
	free(m);
}

int main(void)
{
#define WITH_NET(test) cmocka_unit_test_setup_teardown(test, make, unmake)
	const struct CMUnitTest tests[] = {
		WITH_NET(test_devices),
		WITH_NET(test_owner),
		WITH_NET(test_frames),
		cmocka_unit_test_setup_teardown(test_frames_over_ipv6, make6, unmake),
		WITH_NET(test_suppression),
		WITH_NET(test_members_change),
		WITH_NET(test_local_and_remote),
		WITH_NET(test_refusals),
		WITH_NET(test_restart),
		WITH_NET(test_keep_only),
		WITH_NET(test_repair),
		WITH_NET(test_mtu_and_address_change),
		WITH_NET(test_underlay),
		WITH_NET(test_purge),
		WITH_NET(test_scale),
	};

	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) < 0) {
		print_message("needs root and /dev/net/tun: skipped\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
