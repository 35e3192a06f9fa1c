/* netkit: hosts as network namespaces joined by an underlay, and taps driven by
 * hand, for tests of the overlay.  Header only. */
#ifndef UMLAUT_TESTS_NETKIT_H
#define UMLAUT_TESTS_NETKIT_H

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "node-agent/netns.h"
#include "node-agent/overlay.h"
#include "tests/unit/guest/umlkit.h"

#define KIT_HOSTS 3
#define KIT_VNET 10 /* struct virtio_net_hdr in front of each frame of a tap */

struct kit_host {
	char ns[32];	     /* of the host */
	char overlay[128];   /* path of its overlay's namespace */
	char overlay_ns[40]; /* the same by a name that ip and bridge know */
	struct net_addr vtep;
	struct overlay *ov;
	int sniff; /* sees what the host gets and sends on the underlay */
};

struct kit_net {
	struct kit_dir dir;
	char prefix[16];
	int home; /* our own namespace */
	bool ipv6;
	struct kit_host hosts[KIT_HOSTS];
};

/* Runs a tool in a namespace. */
#define kit_in(ns, ...) kit_run("ip", "netns", "exec", ns, __VA_ARGS__)

/* What a tool prints in a namespace; caller frees. */
static inline char *kit_output(const struct kit_net *k, const char *const *argv)
{
	const char *file = kit_path(&k->dir, "output");

	assert_int_equal(kit_wait(kit_spawn(argv, NULL, file), 20000), 0);
	return kit_slurp(file, NULL);
}

#define kit_print(k, ns, ...) \
	kit_output(k, (const char *const[]){"ip", "netns", "exec", ns, __VA_ARGS__, NULL})

static inline void kit_enter(const char *ns)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "/run/netns/%s", ns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(setns(fd, CLONE_NEWNET), 0);
	(void)close(fd);
}

static inline void kit_leave(const struct kit_net *k)
{
	assert_int_equal(setns(k->home, CLONE_NEWNET), 0);
}

static inline struct net_addr kit_addr(const char *text)
{
	struct net_addr a;

	assert_int_equal(net_addr_parse(text, &a, NULL), 0);
	return a;
}

static inline struct net_mac kit_mac(unsigned n)
{
	return (struct net_mac){
		{2, 0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
}

static inline void kit_open_overlay(struct kit_net *k, struct kit_host *h)
{
	const struct overlay_config config = {.netns_path = h->overlay, .vtep = h->vtep};
	struct err err = ERR_INIT;

	kit_enter(h->ns);
	int rc = overlay_open(&config, &h->ov, &err);

	kit_leave(k);
	if (rc < 0)
		fail_msg("%s", err_msg(&err));
}

/* One host: its namespace, a veth into the underlay's bridge, an address. */
static inline void kit_make_host(struct kit_net *k, unsigned i)
{
	struct kit_host *h = &k->hosts[i];
	char addr[64], port[16], under[32];
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};

	(void)snprintf(h->ns, sizeof(h->ns), "%s-h%u", k->prefix, i);
	(void)snprintf(h->overlay, sizeof(h->overlay), "/run/netns/%s-o%u", k->prefix, i);
	(void)snprintf(h->overlay_ns, sizeof(h->overlay_ns), "%s-o%u", k->prefix, i);
	(void)snprintf(under, sizeof(under), "%s-u", k->prefix);
	(void)snprintf(port, sizeof(port), "p%u", i);
	(void)snprintf(addr, sizeof(addr), k->ipv6 ? "fd00::%u/64" : "192.0.2.%u/24", i + 1);
	assert_int_equal(kit_run("ip", "netns", "add", h->ns), 0);
	assert_int_equal(kit_run("ip", "-n", under, "link", "add", port, "type", "veth", "peer",
				 "name", "eth0", "netns", h->ns),
		0);
	assert_int_equal(kit_run("ip", "-n", under, "link", "set", port, "master", "br0", "up"), 0);
	assert_int_equal(
		kit_run("ip", "-n", h->ns, "addr", "add", addr, "dev", "eth0", "nodad"), 0);
	assert_int_equal(kit_run("ip", "-n", h->ns, "link", "set", "eth0", "up"), 0);
	assert_int_equal(kit_run("ip", "-n", h->ns, "link", "set", "lo", "up"), 0);
	*strchr(addr, '/') = '\0';
	h->vtep = kit_addr(addr);
	kit_enter(h->ns);
	h->sniff = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
	ll.sll_ifindex = (int)if_nametoindex("eth0");
	assert_int_equal(bind(h->sniff, (struct sockaddr *)&ll, sizeof(ll)), 0);
	kit_leave(k);
	kit_open_overlay(k, h);
}

/* A bridge's port forwards some time after its carrier came: until then frames are lost. */
static inline void kit_wait_forwarding(const char *ns)
{
	uint64_t end = kit_now_ms() + 20000;

	while (kit_in(
		ns, "sh", "-c", "! bridge link show | grep -v 'state forwarding' | grep -q .")) {
		if (kit_now_ms() > end)
			fail_msg("a bridge in %s does not forward", ns);
		(void)poll(NULL, 0, 20);
	}
}

static inline void kit_net_make(struct kit_net *k, bool ipv6)
{
	char under[32];

	memset(k, 0, sizeof(*k));
	kit_dir_make(&k->dir);
	k->ipv6 = ipv6;
	(void)snprintf(k->prefix, sizeof(k->prefix), "umt%d", (int)getpid());
	(void)snprintf(under, sizeof(under), "%s-u", k->prefix);
	k->home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(k->home >= 0);
	assert_int_equal(kit_run("ip", "netns", "add", under), 0);
	assert_int_equal(kit_run("ip", "-n", under, "link", "add", "br0", "type", "bridge",
				 "mcast_snooping", "0"),
		0);
	assert_int_equal(kit_run("ip", "-n", under, "link", "set", "br0", "up"), 0);
	for (unsigned i = 0; i < KIT_HOSTS; i++)
		kit_make_host(k, i);
	kit_wait_forwarding(under);
}

static inline void kit_net_remove(struct kit_net *k)
{
	struct err err = ERR_INIT;
	char under[32];

	for (unsigned i = 0; i < KIT_HOSTS; i++) {
		struct kit_host *h = &k->hosts[i];

		overlay_close(h->ov);
		if (overlay_purge(h->overlay, &err) < 0)
			fail_msg("%s", err_msg(&err));
		assert_int_equal(access(h->overlay, F_OK), -1);
		(void)close(h->sniff);
		(void)kit_run("ip", "netns", "del", h->ns);
	}
	(void)snprintf(under, sizeof(under), "%s-u", k->prefix);
	(void)kit_run("ip", "netns", "del", under);
	(void)close(k->home);
	kit_dir_remove(&k->dir);
}

/* ---- taps by hand ---- */

struct kit_tap {
	const char *ifname;
	const char *node; /* NULL: /dev/net/tun */
	int fd;
};

static inline int kit_attach(void *arg, struct err *err)
{
	struct kit_tap *t = arg;
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

	t->fd = open(t->node ? t->node : "/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", t->ifname);
	if (t->fd < 0 || ioctl(t->fd, TUNSETIFF, &ifr) < 0)
		return err_errno(err, errno, "attach to %s", t->ifname);
	return 0;
}

static inline int kit_tap_open(const struct kit_host *h, const char *ifname)
{
	struct kit_tap t = {.ifname = ifname};
	struct err err = ERR_INIT;

	if (netns_run(overlay_netns_fd(h->ov), kit_attach, &t, &err) < 0)
		fail_msg("%s", err_msg(&err));
	kit_wait_forwarding(h->overlay_ns);
	return t.fd;
}

/* An Ethernet frame of SIZE bytes, filled with FILL behind the header. */
static inline size_t kit_frame(uint8_t *out, struct net_mac dst, struct net_mac src, uint16_t type,
	uint8_t fill, size_t size)
{
	memcpy(out, dst.bytes, 6);
	memcpy(out + 6, src.bytes, 6);
	out[12] = (uint8_t)(type >> 8);
	out[13] = (uint8_t)type;
	memset(out + 14, fill, size - 14);
	return size;
}

static inline void kit_send(int tap, const uint8_t *frame, size_t size)
{
	uint8_t buf[70000] = {0};

	memcpy(buf + KIT_VNET, frame, size);
	assert_int_equal(write(tap, buf, size + KIT_VNET), (ssize_t)(size + KIT_VNET));
}

/* The next frame, or -1 after MS. */
static inline ssize_t kit_receive(int tap, uint8_t *frame, size_t size, int ms)
{
	uint8_t buf[70000];
	struct pollfd p = {.fd = tap, .events = POLLIN};

	if (poll(&p, 1, ms) != 1)
		return -1;
	ssize_t n = read(tap, buf, sizeof(buf));

	if (n < KIT_VNET)
		return -1;
	n -= KIT_VNET;
	memcpy(frame, buf + KIT_VNET, (size_t)n < size ? (size_t)n : size);
	return n;
}

/* Waits until a frame with FILL as its first byte of payload comes. */
static inline bool kit_gets(int tap, uint8_t fill, int ms)
{
	uint64_t end = kit_now_ms() + (uint64_t)ms;
	uint8_t frame[2048];

	while (kit_now_ms() < end) {
		ssize_t n = kit_receive(tap, frame, sizeof(frame), (int)(end - kit_now_ms()));

		if (n > 14 && frame[14] == fill)
			return true;
	}
	return false;
}

static inline void kit_drain(int tap)
{
	uint8_t frame[2048];

	while (kit_receive(tap, frame, sizeof(frame), 0) >= 0)
		;
}

/* How many VXLAN packets the host's underlay device saw since the last call. */
static inline unsigned kit_vxlan_seen(struct kit_host *h, size_t *largest)
{
	uint8_t p[4096];
	unsigned count = 0;
	ssize_t n;

	if (largest)
		*largest = 0;
	while ((n = recv(h->sniff, p, sizeof(p), 0)) > 0) {
		bool v4 = n > 42 && p[12] == 8 && p[13] == 0 && p[23] == 17;
		bool v6 = n > 62 && p[12] == 0x86 && p[13] == 0xdd && p[20] == 17;
		size_t at = v4 ? 36 : 56;

		if (!(v4 || v6) || (p[at] << 8 | p[at + 1]) != 4789)
			continue;
		count++;
		if (largest && (size_t)n > *largest)
			*largest = (size_t)n;
	}
	return count;
}

#endif
