/* Two real guests on two hosts, over the overlay: full-size packets that must not
 * be fragmented, and a TCP run.  Also the proof that COW files, command lines and
 * taps of ours fit together. */
#include "guest/cmdline.h"
#include "guest/cow.h"
#include "tests/unit/node-agent/netkit.h"

#define MEGABYTES "32"

static struct kit_net k;

/* Linux hands unknown NAME=VALUE options of its command line to init. */
static const char script[] =
	"#!/bin/sh\n"
	"B=/bin/busybox\n"
	"$B mount -t proc proc /proc\n"
	"$B ip link set lo up\n"
	"$B ip link set vec0 mtu 1450 up\n"
	"$B ip addr add $MY_IP/24 dev vec0\n"
	"if [ $MY_ROLE = server ]; then\n"
	"  echo server-ready\n"
	"  $B nc -l -p 5000 > /tmp/got\n"
	"  echo got-$($B wc -c < /tmp/got)-$($B md5sum < /tmp/got)\n"
	"else\n"
	"  $B ping -c 3 -i 0.2 -W 5 -s 1422 $PEER && echo ping-fine\n"
	/* One byte more does not fit the MTU, and busybox's ping fragments then. */
	"  $B ping -c 1 -W 5 -s 1423 $PEER && echo long-ping-fine\n"
	"  $B ip neigh show\n"
	"  $B dd if=/dev/zero bs=1M count=" MEGABYTES " of=/tmp/data 2>/dev/null\n"
	"  t0=$($B cut -d' ' -f1 /proc/uptime)\n"
	"  $B nc $PEER 5000 < /tmp/data\n"
	"  t1=$($B cut -d' ' -f1 /proc/uptime)\n"
	"  echo sent-from-$t0-to-$t1-end\n"
	"fi\n"
	"$B sync\n"
	"$B poweroff -f\n";

struct boot {
	struct kit_host *host;
	const char *role, *ip, *peer, *tap, *log;
	struct net_mac mac;
	char cow[128], base[128], uml[128];
	int console;
	pid_t pid;
};

static int start(void *arg, struct err *err)
{
	struct boot *b = arg;
	const struct cmdline_nic nic = {.ifname = b->tap, .mac = b->mac};
	const struct cmdline_spec spec = {.kernel = KIT_KERNEL,
		.memory = 96u << 20,
		.cow = b->cow,
		.base = b->base,
		.console_fd = 1,
		.agent_fd = -1,
		.nics = &nic,
		.nic_count = 1,
		.uml_dir = b->uml,
		.umid = b->role};
	struct cmdline line;
	int console = b->console, rc = cmdline_build(&spec, &line, err);

	if (rc < 0)
		return rc;
	b->pid = fork();
	if (b->pid == 0) {
		char role[64], ip[64], peer[64], root[] = "root=/dev/ubda", init[] = "init=/init";
		char rw[] = "rw", *more[] = {role, ip, peer, root, init, rw}, *argv[64] = {NULL};

		(void)snprintf(role, sizeof(role), "MY_ROLE=%s", b->role);
		(void)snprintf(ip, sizeof(ip), "MY_IP=%s", b->ip);
		(void)snprintf(peer, sizeof(peer), "PEER=%s", b->peer);
		memcpy(argv, line.argv, line.argc * sizeof(*argv));
		memcpy(argv + line.argc, more, sizeof(more));
		(void)setpgid(0, 0);
		if (dup2(console, 1) < 0 || dup2(console, 2) < 0 || chdir("/") < 0)
			_exit(1);
		(void)execv(argv[0], argv);
		_exit(127);
	}
	cmdline_free(&line);
	return b->pid < 0 ? -EAGAIN : 0;
}

static void boot(struct boot *b, unsigned slot)
{
	struct overlay_member self = {.mac = b->mac, .ip4 = kit_addr(b->ip)};
	char name[OVERLAY_IFNAME];
	struct err err = ERR_INIT;
	struct stat st;

	if (overlay_port(b->host->ov, 5, slot, 0, 0, &self, name, &err) < 0)
		fail_msg("%s", err_msg(&err));
	b->tap = slot == 1 ? "t1.0" : "t2.0";
	assert_string_equal(name, b->tap);
	(void)snprintf(b->base, sizeof(b->base), "%s/base", k.dir.path);
	(void)snprintf(b->cow, sizeof(b->cow), "%s/cow-%s", k.dir.path, b->role);
	(void)snprintf(b->uml, sizeof(b->uml), "%s/uml", k.dir.path);
	assert_int_equal(stat(b->base, &st), 0);
	const struct cow_spec spec = {.backing = b->base,
		.size = (uint64_t)st.st_size,
		.mtime = (uint32_t)st.st_mtime,
		.mode = 0600,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1};

	/* Not in the thread that enters the namespace: its helper would die with it. */
	b->console = kit_console(b->log);
	if (cow_create(b->cow, &spec, &err) < 0 ||
		netns_run(overlay_netns_fd(b->host->ov), start, b, &err) < 0)
		fail_msg("%s", err_msg(&err));
	(void)close(b->console);
}

static void test_ping_and_tcp(void **state)
{
	char server_log[128], client_log[128], base[128];
	struct boot server = {.host = &k.hosts[0],
		.role = "server",
		.ip = "10.5.0.1",
		.peer = "10.5.0.2",
		.mac = kit_mac(1)};
	struct boot client = {.host = &k.hosts[1],
		.role = "client",
		.ip = "10.5.0.2",
		.peer = "10.5.0.1",
		.mac = kit_mac(2)};
	const struct overlay_member m[] = {
		{.mac = server.mac, .ip4 = kit_addr(server.ip), .vtep = k.hosts[0].vtep},
		{.mac = client.mac, .ip4 = kit_addr(client.ip), .vtep = k.hosts[1].vtep}};
	struct err err = ERR_INIT;
	double from = 0, to = 0;

	(void)state;
	(void)snprintf(base, sizeof(base), "%s/base", k.dir.path);
	(void)snprintf(server_log, sizeof(server_log), "%s/server.log", k.dir.path);
	(void)snprintf(client_log, sizeof(client_log), "%s/client.log", k.dir.path);
	server.log = server_log;
	client.log = client_log;
	kit_make_root(&k.dir, base, "96M", script);
	for (unsigned i = 0; i < 2; i++) {
		if (overlay_net(k.hosts[i].ov, 5, "net", 1450, &err) < 0 ||
			overlay_members(k.hosts[i].ov, 5, true, m, 2, NULL, 0, &err) < 0)
			fail_msg("%s", err_msg(&err));
	}
	boot(&server, 1);
	kit_expect(server_log, "server-ready", 60000);
	boot(&client, 2);
	kit_expect(client_log, "ping-fine", 60000);
	kit_expect(client_log, "sent-from-", 60000);
	kit_expect(client_log, "-end", 5000);
	kit_expect(server_log, "got-33554432-", 20000);
	(void)kit_wait(client.pid, 20000);
	(void)kit_wait(server.pid, 20000);
	char *text = kit_slurp(client_log, NULL);

	assert_non_null(strstr(text, "3 packets received, 0% packet loss"));
	assert_int_equal(sscanf(strstr(text, "sent-from-"), "sent-from-%lf-to-%lf", &from, &to), 2);
	double mbits = 8.0 * 33.554432 / (to - from > 0.01 ? to - from : 0.01);

	print_message(
		"TCP between the guests: %s MiB in %.2f s, %.0f Mbit/s (busybox nc reads 1 KiB "
		"at a time)\n",
		MEGABYTES, to - from, mbits);
	/* With a wrong MTU it is 0.1 to 10. */
	assert_true(mbits > 20);
	free(text);
	/* Nothing of it reached the third host. */
	assert_int_equal(kit_vxlan_seen(&k.hosts[2], NULL), 0);
}

static int make(void **state)
{
	(void)state;
	kit_net_make(&k, false);
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	kit_net_remove(&k);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_ping_and_tcp, make, unmake)};

	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) < 0 ||
		access(KIT_KERNEL, X_OK) < 0) {
		print_message("needs root, /dev/net/tun and " KIT_KERNEL ": skipped\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
