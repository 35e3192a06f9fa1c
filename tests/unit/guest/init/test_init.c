/* umlaut-init in real guests: start, configuration, hosts, shutdown, failures. */
#include "tests/unit/guest/init/vm.h"

static struct vm_world world;
static struct vm vm;

static int setup(void **state)
{
	(void)state;
	vm.line = vm.console = -1;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vm_end(&vm);
	return 0;
}

static int make_world(void **state)
{
	(void)state;
	vm_world_make(&world);
	return 0;
}

static int free_world(void **state)
{
	(void)state;
	vm_world_free(&world);
	return 0;
}

/* Starts a script by the guest's shell; the stream's id. */
static uint64_t start_sh(const char *script)
{
	Um__Envelope env = wire_env(vm.next_id++);
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char *argv[] = {vm_text("sh"), vm_text("-c"), vm_text(script)};

	body.kind = UM__STREAM_KIND__STREAM_EXEC;
	body.argv = argv;
	body.n_argv = 3;
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = &body;
	vm_send(&vm, &env);
	return env.id;
}

/* Runs it to its end; its output and exit status. */
static int guest_sh(const char *script, char *out, size_t size)
{
	uint64_t id = start_sh(script);
	size_t have = 0;
	int status;

	for (;;) {
		Um__Envelope *in = vm_next(&vm);

		if (!in)
			fail_msg("the guest ended; console:\n%s", vm_console(&vm));
		if (in->body_case == UM__ENVELOPE__BODY_STREAM_DATA && in->id == id) {
			size_t n = in->stream_data->data.len;

			if (n > size - have - 1)
				n = size - have - 1;
			memcpy(out + have, in->stream_data->data.data, n);
			have += n;
		} else if (in->body_case == UM__ENVELOPE__BODY_STREAM_END && in->id == id) {
			status = in->stream_end->exit_status;
			if (in->stream_end->error)
				fail_msg("exec: %s", in->stream_end->error->message);
			vm_free(in);
			out[have] = '\0';
			return status;
		}
		vm_free(in);
	}
}

static void expect_sh(const char *script, const char *want)
{
	char out[4096];
	int status = guest_sh(script, out, sizeof(out));

	if (status != 0 || strcmp(out, want) != 0)
		fail_msg("%s: status %d, '%s' and not '%s'\nconsole:\n%s", script, status, out,
			want, vm_console(&vm));
}

static void test_everything_configured(void **state)
{
	Um__GuestConfig c = vm_config();
	Um__FileSpec file = UM__FILE_SPEC__INIT, deep = UM__FILE_SPEC__INIT;
	Um__FileSpec names = UM__FILE_SPEC__INIT, *files[] = {&file, &deep, &names};
	Um__HostEntry other = UM__HOST_ENTRY__INIT;
	Um__HostEntry *hosts[] = {&other};
	Um__GuestConfig__EnvEntry var = UM__GUEST_CONFIG__ENV_ENTRY__INIT;
	Um__GuestConfig__EnvEntry *env[] = {&var};
	uint8_t ip[] = {10, 1, 0, 9};
	uint8_t seed[32] = {1};

	(void)state;
	file.path = vm_text("/etc/motd");
	file.content.data = (uint8_t *)vm_text("hello\n");
	file.content.len = 6;
	deep.path = vm_text("/a/new/folder/key");
	deep.mode = 0640;
	deep.uid = 33;
	deep.gid = 34;
	names.path = vm_text("/etc/hosts");
	names.content.data = (uint8_t *)vm_text("192.0.2.9 by-hand\n");
	names.content.len = 18;
	other.name = vm_text("other-1");
	other.ip.data = ip;
	other.ip.len = sizeof(ip);
	var.key = vm_text("COLOUR");
	var.value = vm_text("blue = green");
	c.files = files;
	c.n_files = 3;
	c.hosts = hosts;
	c.n_hosts = 1;
	c.env = env;
	c.n_env = 1;
	c.seed.data = seed;
	c.seed.len = sizeof(seed);
	c.time_ms = 2000000000000u;
	c.run = vm_text("echo \"run sees $COLOUR\"; echo $COLOUR > /colour");
	vm_boot(&vm, &world, "all", world.busybox, NULL);
	vm_ready(&vm, &c);
	print_message("guest ready %llu ms after its kernel's start\n",
		(unsigned long long)vm.uptime_ready);
	expect_sh("hostname; cat /etc/hostname", "probe\nprobe\n");
	expect_sh("cat /etc/motd; stat -c '%a %u %g %s' /a/new/folder/key", "hello\n640 33 34 0\n");
	expect_sh("cat /colour; echo $COLOUR", "blue = green\nblue = green\n");
	expect_sh("cat /proc/1/comm; ls /init /dev/tty1 2>&1 | wc -l", "init\n2\n");
	expect_sh("tr '\\0' ' ' < /proc/1/environ | grep -o 'COLOUR=blue'", "COLOUR=blue\n");
	expect_sh("test $(date +%s) -ge 2000000000 && echo late", "late\n");
	expect_sh("grep -c other-1 /etc/hosts; grep '^10.1.0.9' /etc/hosts",
		"1\n10.1.0.9\tother-1\n");
	/* Names that the lab gives stand beside the members'. */
	expect_sh("grep -c by-hand /etc/hosts", "1\n");
	expect_sh("for m in /proc /sys /dev /dev/pts /dev/shm /run; do grep -c \" $m \" "
		  "/proc/mounts; done",
		"1\n1\n1\n1\n1\n1\n");
	expect_sh("ip -o addr show lo | grep -o 'inet 127[^ ]*'", "inet 127.0.0.1/8\n");
	expect_sh("cat /proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n");
	assert_non_null(strstr(vm_console(&vm), "run sees blue = green"));
	vm_type(&vm, "echo typed-$((6*7)) $COLOUR\n", "typed-42 blue = green");
	vm_shutdown(&vm, 10000, false);
	assert_int_equal(vm_wait(&vm), 0);
	vm_disk_clean(&vm);
}

static void send_hosts(bool full, const char *const *names, size_t count, const char *removed)
{
	Um__Envelope env = wire_env(vm.next_id++);
	Um__HostsUpdate body = UM__HOSTS_UPDATE__INIT;
	Um__HostEntry entries[4], *list[4];
	uint8_t ips[4][4];
	char *gone = vm_text(removed);
	Um__Envelope *reply;
	size_t i;

	for (i = 0; i < count; i++) {
		um__host_entry__init(&entries[i]);
		ips[i][0] = 10;
		ips[i][1] = ips[i][2] = 0;
		ips[i][3] = (uint8_t)names[i][0];
		entries[i].name = vm_text(names[i]);
		entries[i].ip.data = ips[i];
		entries[i].ip.len = 4;
		list[i] = &entries[i];
	}
	body.full = full;
	body.hosts = list;
	body.n_hosts = count;
	body.removed = &gone;
	body.n_removed = removed ? 1 : 0;
	env.body_case = UM__ENVELOPE__BODY_HOSTS_UPDATE;
	env.hosts_update = &body;
	vm_send(&vm, &env);
	reply = vm_next(&vm);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, UM__ENVELOPE__BODY_OK);
	vm_free(reply);
}

static void test_hosts_sync_stats(void **state)
{
	const char *const two[] = {"a", "b"}, *const one[] = {"c"};
	Um__GuestConfig c = vm_config();
	Um__Envelope env;
	Um__GuestSync sync_body = UM__GUEST_SYNC__INIT;
	Um__GuestStatsRequest stats = UM__GUEST_STATS_REQUEST__INIT;
	Um__Envelope *reply;

	(void)state;
	c.init = vm_text("umlaut");
	vm_boot(&vm, &world, "hosts", world.busybox, NULL);
	vm_ready(&vm, &c);
	expect_sh("echo '192.0.2.1 mine' >> /etc/hosts; cat /proc/1/comm", "init\n");
	send_hosts(true, two, 2, NULL);
	expect_sh("grep ^10 /etc/hosts; grep mine /etc/hosts",
		"10.0.0.97\ta\n10.0.0.98\tb\n192.0.2.1 mine\n");
	send_hosts(false, one, 1, "a");
	send_hosts(false, one, 1, NULL);
	expect_sh("grep ^10 /etc/hosts; grep -c mine /etc/hosts; grep -c localhost$ /etc/hosts",
		"10.0.0.98\tb\n10.0.0.99\tc\n1\n1\n");
	expect_sh("getent hosts b 2>/dev/null || nslookup -h 2>&1 | head -c0; ping -c 1 -W 1 probe "
		  "| grep -c '1 packets received'",
		"1\n");

	env = wire_env(77);
	env.body_case = UM__ENVELOPE__BODY_GUEST_SYNC;
	env.guest_sync = &sync_body;
	vm_send(&vm, &env);
	reply = vm_next(&vm);
	assert_int_equal(reply->body_case, UM__ENVELOPE__BODY_OK);
	assert_int_equal(reply->id, 77);
	vm_free(reply);

	env = wire_env(78);
	env.body_case = UM__ENVELOPE__BODY_GUEST_STATS_REQUEST;
	env.guest_stats_request = &stats;
	vm_send(&vm, &env);
	reply = vm_next(&vm);
	assert_int_equal(reply->body_case, UM__ENVELOPE__BODY_GUEST_STATS);
	assert_in_range(reply->guest_stats->mem_total, 30u << 20, 64u << 20);
	assert_in_range(reply->guest_stats->mem_free, 1u << 20, reply->guest_stats->mem_total);
	print_message("memory free in a 64 MiB guest: %llu of %llu KiB\n",
		(unsigned long long)reply->guest_stats->mem_free >> 10,
		(unsigned long long)reply->guest_stats->mem_total >> 10);
	vm_free(reply);

	/* A second configuration is refused. */
	env = wire_env(79);
	env.body_case = UM__ENVELOPE__BODY_GUEST_CONFIG;
	env.guest_config = &c;
	vm_send(&vm, &env);
	reply = vm_next(&vm);
	assert_int_equal(reply->body_case, UM__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, UM__ERROR_CODE__CONFLICT);
	vm_free(reply);
	vm_shutdown(&vm, 10000, false);
	assert_int_equal(vm_wait(&vm), 0);
	vm_disk_clean(&vm);
}

static void test_config_in_parts(void **state)
{
	Um__GuestConfig c = vm_config(), part = UM__GUEST_CONFIG__INIT;
	Um__FileSpec file = UM__FILE_SPEC__INIT;
	Um__FileSpec *files[] = {&file};
	static uint8_t half[50000];
	static char script[40001];
	char message[512];

	(void)state;
	memset(half, 'x', sizeof(half));
	memset(script, ':', 40000);
	script[39999] = '\n';
	file.path = vm_text("/big");
	file.content.data = half;
	file.content.len = sizeof(half);
	vm_boot(&vm, &world, "parts", world.busybox, NULL);
	vm_hello(&vm);
	c.files = files;
	c.n_files = 1;
	c.more = true;
	vm_configure(&vm, &c);
	part.files = files;
	part.n_files = 1;
	part.more = true;
	vm_configure(&vm, &part);
	um__guest_config__init(&part);
	script[0] = '#';
	part.run = script;
	part.more = true;
	vm_configure(&vm, &part);
	vm_configure(&vm, &part);
	part.run = vm_text("echo done > /done\n");
	part.more = false;
	vm_configure(&vm, &part);
	assert_null(vm_outcome(&vm, message, sizeof(message), NULL, 0));
	expect_sh("stat -c %s /big; tr -d x < /big | wc -c; cat /done", "100000\n0\ndone\n");
}

static char *failure(const char *name, const char *base, Um__GuestConfig *c)
{
	static char message[512];
	char *failed;

	vm_boot(&vm, &world, name, base, NULL);
	vm_hello(&vm);
	vm_configure(&vm, c);
	failed = vm_outcome(&vm, message, sizeof(message), NULL, 0);
	if (!failed)
		fail_msg("ready, but it should have failed");
	print_message("%s: %s\n", name, failed);
	return failed;
}

static void test_bad_config(void **state)
{
	Um__GuestConfig c = vm_config();

	(void)state;
	c.init = vm_text("nonsense");
	assert_non_null(strstr(failure("bad", world.busybox, &c), "nonsense"));
	assert_int_equal(vm_wait(&vm), 0);
	vm_end(&vm);
	/* Nothing of the disk was touched: there is no COW of a guest that never opened it. */
	c = vm_config();
	c.root_device = vm_text("/dev/ubdc");
	assert_non_null(strstr(failure("noroot", world.busybox, &c), "/dev/ubdc"));
	assert_int_equal(vm_wait(&vm), 0);
}

static void test_missing_nic(void **state)
{
	Um__GuestConfig c = vm_config();
	Um__Nic nic = UM__NIC__INIT, *nics[] = {&nic};
	uint8_t mac[] = {2, 0, 0, 0, 0, 9};

	(void)state;
	nic.mac.data = mac;
	nic.mac.len = 6;
	c.nics = nics;
	c.n_nics = 1;
	assert_non_null(strstr(failure("nonic", world.busybox, &c), "02:00:00:00:00:09"));
	assert_int_equal(vm_wait(&vm), 0);
}

static void test_run_fails(void **state)
{
	Um__GuestConfig c = vm_config();

	(void)state;
	c.run = vm_text("echo first; echo 'cannot find the thing' >&2; exit 7");
	assert_string_equal(
		failure("runfail", world.busybox, &c), "exit status 7: cannot find the thing");
	/* It stays, for a look inside. */
	expect_sh("echo here", "here\n");
	vm_shutdown(&vm, 5000, false);
	assert_int_equal(vm_wait(&vm), 0);
}

static void test_ready_probe(void **state)
{
	Um__GuestConfig c = vm_config();
	Um__ReadyProbe probe = UM__READY_PROBE__INIT;
	char *argv[] = {vm_text("test"), vm_text("-e"), vm_text("/run/up")};
	char *never[] = {vm_text("sh"), vm_text("-c"), vm_text("exit 3")};

	(void)state;
	probe.exec = argv;
	probe.n_exec = 3;
	probe.interval_ms = 100;
	probe.timeout_ms = 30000;
	c.ready = &probe;
	c.run = vm_text("(usleep 700000; touch /run/up) &");
	vm_boot(&vm, &world, "probe", world.busybox, NULL);
	vm_ready(&vm, &c);
	vm_end(&vm);
	probe.exec = never;
	probe.timeout_ms = 400;
	c.run = vm_text("");
	assert_non_null(strstr(
		failure("never", world.busybox, &c), "within 400 ms (last try: exit status 3)"));
}

/* An image with no init: umlaut-init stays process 1, reaps, and shuts down. */
static void test_no_init(void **state)
{
	Um__GuestConfig c = vm_config();
	char tree[PATH_MAX], base[PATH_MAX], path[PATH_MAX + 32];
	struct ext4_spec spec = {.tree = tree, .out = base, .free = 8u << 20};
	struct err err = ERR_INIT;

	(void)state;
	(void)snprintf(tree, sizeof(tree), "%s/tree", world.dir);
	(void)snprintf(base, sizeof(base), "%s/noinit.img", world.dir);
	assert_int_equal(mkdir(tree, 0755), 0);
	vm_check(busybox_tree(NULL, tree, &err), &err);
	(void)snprintf(path, sizeof(path), "%s/sbin/init", tree);
	assert_int_equal(unlink(path), 0);
	vm_check(ext4_build(&spec, &err), &err);
	vm_boot(&vm, &world, "noinit", base, NULL);
	vm_ready(&vm, &c);
	expect_sh("tr '\\0' '\\n' < /proc/1/cmdline | head -1", "@init\n");
	/* A shell on the console from the first key on, and again after its end. */
	expect_sh("ps | grep -c '[s]h -l'; true", "0\n");
	vm_type(&vm, "echo typed-$((6*7)) on $(tty)\nexit\n", "typed-42 on /dev/tty0");
	/* What is typed while the first one ends is that one's. */
	expect_sh("for i in $(seq 100); do ps | grep -q '[s]h -l' || break; usleep 100000; done; "
		  "ps | "
		  "grep -c '[s]h -l'; true",
		"0\n");
	vm_type(&vm, "\necho again-$((6*8))\n", "again-48");
	expect_sh("(sleep 0.01 &) ; usleep 300000; ps -o stat,comm | grep -c '^Z'; true", "0\n");
	/* Its own power-off, from inside. */
	start_sh("kill -USR2 1");
	assert_int_equal(vm_wait(&vm), 0);
	vm_end(&vm);
	c.init = vm_text("image");
	assert_non_null(strstr(failure("mustinit", base, &c), "no init"));
	assert_int_equal(vm_wait(&vm), 0);
}

static void test_reboot_inside(void **state)
{
	Um__GuestConfig c = vm_config();
	char out[64];

	(void)state;
	vm_boot(&vm, &world, "reboot", world.busybox, NULL);
	vm_ready(&vm, &c);
	expect_sh("echo kept > /kept", "");
	(void)guest_sh("reboot", out, sizeof(out));
	/* The same process starts again and asks for its configuration anew. */
	for (;;) {
		Um__Envelope *env = vm_next(&vm);

		assert_non_null(env);
		if (env->body_case == UM__ENVELOPE__BODY_GUEST_HELLO) {
			vm_free(env);
			break;
		}
		vm_free(env);
	}
	vm_configure(&vm, &c);
	assert_null(vm_outcome(&vm, out, sizeof(out), NULL, 0));
	expect_sh("cat /kept", "kept\n");
	vm_shutdown(&vm, 10000, true);
	for (;;) {
		Um__Envelope *env = vm_next(&vm);

		assert_non_null(env);
		if (env->body_case == UM__ENVELOPE__BODY_GUEST_HELLO) {
			vm_free(env);
			break;
		}
		vm_free(env);
	}
	/* Asked to stop before it was configured. */
	vm_shutdown(&vm, 1000, false);
	assert_int_equal(vm_wait(&vm), 0);
	vm_disk_clean(&vm);
}

/* busybox's own power-off leaves a clean disk too. */
static void test_poweroff_inside(void **state)
{
	Um__GuestConfig c = vm_config();

	(void)state;
	vm_boot(&vm, &world, "poweroff", world.busybox, NULL);
	vm_ready(&vm, &c);
	expect_sh("echo x > /file", "");
	start_sh("poweroff");
	assert_int_equal(vm_wait(&vm), 0);
	vm_disk_clean(&vm);
}

/* A disk larger than its file system: it grows at the start, and again. */
static void test_larger_disk(void **state)
{
	Um__GuestConfig c = vm_config();
	char out[4096], disk[PATH_MAX];
	const char *extra[] = {disk, NULL};
	int i;

	(void)state;
	if (vm_tool(out, sizeof(out), "cp --sparse=always %s %s/larger", world.busybox, world.dir))
		fail_msg("%s", out);
	for (i = 1; i <= 2; i++) {
		(void)snprintf(disk, sizeof(disk), "%s/larger", world.dir);
		assert_int_equal(truncate(disk, (off_t)i * 300 << 20), 0);
		(void)snprintf(disk, sizeof(disk), "ubd0=%s/larger", world.dir);
		vm_boot(&vm, &world, "larger", NULL, extra);
		vm_ready(&vm, &c);
		(void)snprintf(out, sizeof(out),
			"test $(df -m / | awk 'END {print $2}') -ge %d; echo $?", i * 300 - 40);
		expect_sh(out, "0\n");
		vm_shutdown(&vm, 10000, false);
		assert_int_equal(vm_wait(&vm), 0);
		vm_end(&vm);
		if (vm_tool(out, sizeof(out), "e2fsck -fn %s/larger", world.dir))
			fail_msg("%s", out);
	}
}

/* Programs that ignore SIGTERM do not keep the guest; the disk is clean all the same. */
static void test_stubborn(void **state)
{
	Um__GuestConfig c = vm_config();
	uint64_t start;

	(void)state;
	c.run = vm_text(
		"(trap '' TERM HUP; exec 3> /open; while :; do echo x >&3; sleep 1; done) &");
	vm_boot(&vm, &world, "stubborn", world.busybox, NULL);
	vm_ready(&vm, &c);
	start = proc_mono_ms();
	vm_shutdown(&vm, 4000, false);
	assert_int_equal(vm_wait(&vm), 0);
	print_message("stopped in %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	assert_true(proc_mono_ms() - start < 20000);
	vm_disk_clean(&vm);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_everything_configured),
		TEST(test_hosts_sync_stats),
		TEST(test_config_in_parts),
		TEST(test_bad_config),
		TEST(test_missing_nic),
		TEST(test_run_fails),
		TEST(test_ready_probe),
		TEST(test_no_init),
		TEST(test_reboot_inside),
		TEST(test_stubborn),
		TEST(test_poweroff_inside),
		TEST(test_larger_disk),
	};

	return cmocka_run_group_tests(tests, make_world, free_world);
}
