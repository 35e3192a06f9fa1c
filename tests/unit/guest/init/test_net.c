/* The network of a guest, seen from a tap on the host: names by MAC, MTU, IPv4 and
 * IPv6 (a module of Debian's kernel) without a wait, routes, forwarding. */
#include "tests/unit/guest/init/vm.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "lib/net.h"

static struct vm_world world;
static struct vm vm;
static int taps[2] = {-1, -1};

static void make_tap(int i)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	char out[1024];

	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "utap%d", i);
	taps[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	assert_true(taps[i] >= 0);
	assert_int_equal(ioctl(taps[i], TUNSETIFF, &ifr), 0);
	assert_int_equal(ioctl(taps[i], TUNSETPERSIST, 1), 0);
	/* The guest's kernel opens it by name. */
	close(taps[i]);
	if (vm_tool(out, sizeof(out),
		    "ip link set utap%d mtu 1400 up && ip addr add 10.9.%d.1/24 dev utap%d && "
		    "ip -6 addr add fd00:%d::1/64 dev utap%d nodad",
		    i, i, i, i, i))
		fail_msg("%s", out);
}

static int begin(void **state)
{
	char out[1024];

	(void)state;
	/* A network namespace of our own: nothing of the machine's is touched. */
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	if (vm_tool(out, sizeof(out), "ip link set lo up"))
		fail_msg("%s", out);
	make_tap(0);
	make_tap(1);
	vm_world_make(&world);
	return 0;
}

static int finish(void **state)
{
	(void)state;
	vm_end(&vm);
	vm_world_free(&world);
	return 0;
}

static void host_ok(const char *command)
{
	char out[4096];

	if (vm_tool(out, sizeof(out), "%s", command))
		fail_msg("%s: %s\n%s", command, out, vm_console(&vm));
}

static void set_nic(Um__Nic *nic, uint32_t index, uint8_t mac[6], uint8_t ip[4], uint8_t ip6[16])
{
	um__nic__init(nic);
	nic->index = index;
	nic->mac.data = mac;
	nic->mac.len = 6;
	nic->ip4.data = ip;
	nic->ip4.len = 4;
	nic->prefix4 = 24;
	nic->ip6.data = ip6;
	nic->ip6.len = 16;
	nic->prefix6 = 64;
	nic->mtu = 1400;
}

/* What the guest's run script found, for the host to look at. */
static const char script[] =
	"set -e\n"
	"ip -o link show eth0 | grep 'mtu 1400' | grep -q 02:00:00:00:00:0b\n"
	"ip -o link show eth1 | grep -q 02:00:00:00:00:0a\n"
	"ip -o -4 addr show eth0 | grep -q 'inet 10.9.1.2/24 brd 10.9.1.255'\n"
	"ip -o -6 addr show eth0 | grep fd00:1::2/64 | grep -vq tentative\n"
	"ip -o -6 addr show eth0 | grep fe80 | grep -vq tentative\n"
	"ip route | grep -q '^default via 10.9.1.1 dev eth0'\n"
	"ip -6 route | grep -q '^default via fd00:1::1 dev eth0'\n"
	"ip route | grep -q '^192.0.2.0/24 via 10.9.0.1 dev eth1'\n"
	"test $(cat /proc/sys/net/ipv4/ip_forward) = 1\n"
	"test $(cat /proc/sys/net/ipv6/conf/all/forwarding) = 0\n"
	"grep -q '^10.9.1.2\tprobe' /etc/hosts; grep -q '^fd00:1::2\tprobe' /etc/hosts\n"
	"set -- $(cat /proc/sys/net/ipv4/tcp_rmem); test $3 -ge 6291456\n"
	"set -- $(cat /proc/sys/net/ipv4/tcp_wmem); test $3 -ge 4194304\n"
	"test $(cat /proc/sys/net/ipv6/mld_qrv) = 2\n"
	"modprobe dummy; lsmod | grep -q ^dummy\n"
	"ping -c 1 -W 5 10.9.1.1; ping -c 1 -W 5 fd00:1::1; echo network is right\n";

static void test_two_nics(void **state)
{
	uint8_t mac0[] = {2, 0, 0, 0, 0, 0x0a}, mac1[] = {2, 0, 0, 0, 0, 0x0b};
	uint8_t a4[] = {10, 9, 1, 2}, b4[] = {10, 9, 0, 2};
	uint8_t a6[16] = {0xfd, 0, 0, 1, [15] = 2}, b6[16] = {0xfd, [15] = 2};
	uint8_t gw4[] = {10, 9, 1, 1}, gw6[16] = {0xfd, 0, 0, 1, [15] = 1};
	const char *const extra[] = {
		"vec0:transport=tap,ifname=utap0,depth=64,gro=1,mac=02:00:00:00:00:0a",
		"vec1:transport=tap,ifname=utap1,depth=64,gro=1,mac=02:00:00:00:00:0b", NULL, NULL};
	const char *args[4] = {extra[0], extra[1], NULL, NULL};
	Um__RouteSpec route = UM__ROUTE_SPEC__INIT, *routes[] = {&route};
	Um__GuestConfig c = vm_config();
	Um__Nic nics[2], *list[] = {&nics[0], &nics[1]};
	char modules[PATH_MAX], ubd1[PATH_MAX + 8], release[64];
	struct err err = ERR_INIT;

	(void)state;
	(void)snprintf(modules, sizeof(modules), "%s/modules.img", world.dir);
	assert_int_equal(vm_tool(release, sizeof(release), VM_KERNEL " --version"), 0);
	release[strcspn(release, "\n")] = '\0';
	vm_check(modules_build("/usr/lib/uml/modules", release, modules, &err), &err);
	(void)snprintf(ubd1, sizeof(ubd1), "ubd1r=%s", modules);
	args[2] = ubd1;
	/* eth0 is the second device of the kernel. */
	set_nic(&nics[0], 0, mac1, a4, a6);
	set_nic(&nics[1], 1, mac0, b4, b6);
	nics[0].gateway4.data = gw4;
	nics[0].gateway4.len = 4;
	nics[0].gateway6.data = gw6;
	nics[0].gateway6.len = 16;
	/* The guest is the gateway of its second network. */
	nics[1].gateway4.data = b4;
	nics[1].gateway4.len = 4;
	route.to = vm_text("192.0.2.0/24");
	route.via = vm_text("10.9.0.1");
	c.nics = list;
	c.n_nics = 2;
	c.routes = routes;
	c.n_routes = 1;
	c.modules_device = vm_text("/dev/ubdb");
	c.run = vm_text(script);
	vm_boot(&vm, &world, "net", world.busybox, args);
	vm_ready(&vm, &c);
	print_message("ready with IPv6 %llu ms after the kernel's start\n",
		(unsigned long long)vm.uptime_ready);
	assert_non_null(strstr(vm_console(&vm), "network is right"));
	host_ok("ping -c 2 -W 5 -s 1372 -M do 10.9.1.2");
	host_ok("ping -c 2 -W 5 10.9.0.2");
	host_ok("ping -6 -c 2 -W 5 -s 1352 -M do fd00:1::2");
	host_ok("ping -6 -c 2 -W 5 fd00::2");
	vm_shutdown(&vm, 10000, false);
	assert_int_equal(vm_wait(&vm), 0);
	vm_disk_clean(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_two_nics),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
