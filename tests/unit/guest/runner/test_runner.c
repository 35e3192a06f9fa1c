/* The runner with real kernels in the jail: life, adoption, ends, leftovers. */
#include <sched.h>

#include "tests/unit/guest/runner/runnerkit.h"

#include "guest/runner/boot.h"

static void test_boot_exec_stop(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	rk_boot(rk, "stop", &(struct rk_options){.run = "echo started > /started"});
	assert_int_equal(rk->phase, UM__PHASE__RUNNING);
	assert_int_equal(rk->boots, 1);

	assert_int_equal(rk_exec(rk, "cat /started; hostname; exit 7"), 7);
	assert_string_equal(buf_text(&rk->out), "started\nguest\n");

	assert_int_equal(runnerctl_stop(rk->rc, 20000, false, &err), 0);
	rk_wait(rk, rk_has_ended);
	assert_int_equal(rk->phase, UM__PHASE__STOPPED);
	assert_true(rk->by_request);
	assert_int_equal(rk->exit_status, 0);
	assert_string_equal(rk->reason, "stopped on request");
	rk_finish(rk);
	rk_assert_clean(rk);
}

/* The value after "KEY:" in a file of /proc. */
static long proc_value(pid_t pid, const char *file, const char *key, int base)
{
	char path[100];
	const char *at;
	struct buf text;
	long value = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	buf_init(&text);
	assert_true(fs_read(path, 1u << 20, &text, NULL) >= 0);
	at = strstr(buf_text(&text), key);
	if (at)
		value = strtol(at + strlen(key), NULL, base);
	buf_free(&text);
	return value;
}

/* What the host sees of a jailed kernel, and what the runner costs. */
static void test_jailed(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;
	char path[100];
	struct buf groups;

	rk_boot(rk, "jailed", &(struct rk_options){0});
	rk_wait(rk, rk_find_kernel);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nUid:\t", 10), RK_UID);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nGid:\t", 10), RK_UID);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nCapEff:\t", 16), 0);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nCapPrm:\t", 16), 0);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nCapBnd:\t", 16), 0);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nNoNewPrivs:\t", 10), 1);
	assert_int_equal(proc_value(rk->kernel_pid, "status", "\nSeccomp:\t", 10), 2);

	assert_true(rk_cgroups() > 0);
	(void)snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)rk->kernel_pid);
	buf_init(&groups);
	assert_true(fs_read(path, 65536, &groups, &err) >= 0);
	assert_non_null(strstr(buf_text(&groups), "/umlaut/test-"));
	buf_free(&groups);

	/* Its root: what the jail shows, and no more. */
	(void)snprintf(path, sizeof(path), "/proc/%d/root", (int)rk->kernel_pid);
	DIR *root = opendir(path);
	struct dirent *e;

	assert_non_null(root);
	while ((e = readdir(root))) {
		static const char known[] = " . .. dev proc tmp kernel initrd base cow uml mc "
					    "lib lib64 usr ";
		char name[300];

		(void)snprintf(name, sizeof(name), " %s ", e->d_name);
		if (!strstr(known, name))
			fail_msg("the jail shows /%s", e->d_name);
	}
	closedir(root);
	print_message("runner: %ld kB proportional, %ld kB private, %ld kB resident\n",
		proc_value(rk->runner_pid, "smaps_rollup", "\nPss:", 10),
		proc_value(rk->runner_pid, "smaps_rollup", "\nPrivate_Dirty:", 10),
		proc_value(rk->runner_pid, "smaps_rollup", "\nRss:", 10));
	assert_int_equal(runnerctl_stop(rk->rc, 0, true, &err), 0);
	rk_finish(rk);
}

static void test_kernel_killed(void **state)
{
	struct rk *rk = *state;

	rk_boot(rk, "killed", &(struct rk_options){0});
	rk_wait(rk, rk_find_kernel);
	assert_true(rk_processes(NULL) > 2); /* reaper, kernel, its guest's processes */
	assert_int_equal(kill(rk->kernel_pid, SIGKILL), 0);
	rk_wait(rk, rk_has_ended);
	assert_int_equal(rk->phase, UM__PHASE__FAILED);
	assert_int_equal(rk->exit_status, 256 + SIGKILL);
	assert_false(rk->by_request);
	assert_string_equal(rk->reason, "the kernel was killed by signal 9 (Killed)");
	rk_assert_clean(rk); /* no stub of a guest process is left */
	rk_finish(rk);
	assert_int_equal(rk->exit_status, 256 + SIGKILL);
}

static void test_runner_killed(void **state)
{
	struct rk *rk = *state;
	enum runnerctl_found found;
	Um__RunnerStatus *last = NULL;
	struct err err = ERR_INIT;

	rk_boot(rk, "orphan", &(struct rk_options){0});
	assert_true(rk_processes(NULL) > 2);
	assert_int_equal(runnerctl_kill(rk->guest, &err), 1);
	rk_wait(rk, rk_is_gone);
	assert_int_equal(rk->phase, UM__PHASE__FAILED);
	assert_int_equal(rk->exit_status, -1);
	assert_string_equal(rk->reason, "the runner was killed");
	assert_int_equal(rk->losts, 1);
	rk_assert_clean(rk);
	runnerctl_close(rk->rc);
	rk->rc = NULL;

	assert_int_equal(runnerctl_look(rk->guest, &found, &last, &err), 0);
	assert_int_equal(found, RUNNERCTL_ENDED);
	assert_int_equal(last->phase, UM__PHASE__FAILED);
	um__runner_status__free_unpacked(last, NULL);
	assert_int_equal(runnerctl_discard(rk->guest, &err), 0);
	assert_int_equal(runnerctl_look(rk->guest, &found, &last, &err), 0);
	assert_int_equal(found, RUNNERCTL_NONE);
	assert_int_equal(runnerctl_adopt(rk->loop, rk->guest, &rk_ops, rk, &rk->rc, &err), -ESRCH);
}

static bool runner_left(struct rk *rk)
{
	enum runnerctl_found found = RUNNERCTL_ALIVE;
	Um__RunnerStatus *last = NULL;

	if (runnerctl_look(rk->guest, &found, &last, NULL) == 0 && last)
		um__runner_status__free_unpacked(last, NULL);
	return found == RUNNERCTL_ENDED;
}

/* The agent goes away and comes back; the guest ends while it is away. */
static void test_adopt(void **state)
{
	struct rk *rk = *state;
	enum runnerctl_found found;
	Um__RunnerStatus *last = NULL;
	struct err err = ERR_INIT;

	rk_boot(rk, "adopt", &(struct rk_options){0});
	assert_int_equal(rk_exec(rk, "echo kept > /dev/shm/mark || echo kept > /mark"), 0);
	runnerctl_close(rk->rc);
	rk->rc = NULL;

	assert_int_equal(runnerctl_look(rk->guest, &found, &last, &err), 0);
	assert_int_equal(found, RUNNERCTL_ALIVE);
	assert_int_equal(runnerctl_discard(rk->guest, &err), -EBUSY);
	rk_forget_told(rk);
	assert_int_equal(runnerctl_adopt(rk->loop, rk->guest, &rk_ops, rk, &rk->rc, &err), 0);
	rk_wait(rk, rk_is_up);
	assert_int_equal(rk->phase, UM__PHASE__RUNNING);
	assert_true(rk->ready);
	assert_int_equal(rk->boots, 1);
	assert_int_equal(rk_exec(rk, "cat /dev/shm/mark || cat /mark"), 0);
	assert_string_equal(buf_text(&rk->out), "kept\n");

	rk_wait(rk, rk_find_kernel);
	runnerctl_close(rk->rc);
	rk->rc = NULL;
	assert_int_equal(kill(rk->kernel_pid, SIGTERM), 0); /* UML ends with a status */
	rk_wait(rk, runner_left);
	rk_assert_clean(rk);
	assert_int_equal(runnerctl_look(rk->guest, &found, &last, &err), 0);
	assert_int_equal(found, RUNNERCTL_ENDED);
	assert_true(last->exit_status >= 0);
	assert_int_equal(last->boots, 1);
	um__runner_status__free_unpacked(last, NULL);
	assert_int_equal(runnerctl_discard(rk->guest, &err), 0);
}

/* Two connections: the newest is told, both are served; a second runner is not. */
static void test_two_agents(void **state)
{
	struct rk *rk = *state, second = {.loop = rk->loop, .tick = rk->tick};
	struct err err = ERR_INIT;
	char command[PATH_MAX + 400];
	unsigned before;

	rk_boot(rk, "two", &(struct rk_options){0});
	(void)snprintf(
		command, sizeof(command), "%s --dir %s 3>&1 2>/dev/null", rk->program, rk->guest);
	FILE *pipe_file = NULL;
	int ends[2];
	char text[200];

	(void)pipe_file;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)dup2(ends[1], 1);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	(void)close(ends[1]);
	ssize_t n = read(ends[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	assert_string_equal(text, "error: busy: a runner of this guest lives\n");
	(void)close(ends[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);

	(void)snprintf(second.guest, sizeof(second.guest), "%s", rk->guest);
	buf_init(&second.out);
	assert_int_equal(
		runnerctl_adopt(rk->loop, rk->guest, &rk_ops, &second, &second.rc, &err), 0);
	rk_wait(&second, rk_is_up);
	assert_true(second.ready);
	assert_int_equal(rk_exec(rk, "echo one"), 0);
	assert_string_equal(buf_text(&rk->out), "one\n");
	assert_int_equal(rk_exec(&second, "echo two"), 0);
	assert_string_equal(buf_text(&second.out), "two\n");

	before = rk->statuses;
	assert_int_equal(runnerctl_stop(second.rc, 0, true, &err), 0);
	rk_wait(&second, rk_has_ended);
	assert_int_equal(second.phase, UM__PHASE__STOPPED);
	assert_true(second.by_request);
	assert_int_equal(second.exit_status, 256 + SIGKILL);
	assert_string_equal(second.reason, "killed on request");
	assert_int_equal(rk->statuses, before);
	rk_finish(&second);
	rk_wait(rk, rk_is_gone);
	assert_int_equal(rk->phase, UM__PHASE__RUNNING == rk->phase ? rk->phase : rk->phase);
	runnerctl_close(rk->rc);
	rk->rc = NULL;
	buf_free(&second.out);
	rk_assert_clean(rk);
}

static void test_stop_deadline(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	rk_boot(rk, "deadline", &(struct rk_options){0});
	assert_int_equal(runnerctl_stop(rk->rc, 1, false, &err), 0);
	rk_wait(rk, rk_has_ended);
	assert_int_equal(rk->phase, UM__PHASE__STOPPED);
	assert_true(rk->by_request);
	assert_int_equal(rk->exit_status, 256 + SIGKILL);
	assert_string_equal(rk->reason, "did not stop in time and was killed");
	rk_finish(rk);

	/* Before its agent is there it has nothing to lose. */
	rk_new_guest(rk, "early");
	rk_start(rk, &(struct rk_options){0});
	rk_wait(rk, rk_is_up);
	assert_int_equal(rk->phase, UM__PHASE__STARTING);
	assert_int_equal(runnerctl_forget(rk->rc, &err), 0); /* refused: it lives */
	assert_int_equal(runnerctl_stop(rk->rc, 30000, false, &err), 0);
	assert_true(rk_wait_ms(rk, rk_has_ended, 20000));
	rk_finish(rk);
	rk_assert_clean(rk);
}

static bool booted_twice(struct rk *rk)
{
	return rk->gone || (rk->boots == 2 && rk->ready);
}

static bool stats_there(struct rk *rk)
{
	return rk->has_stats || rk->ended;
}

static void send_simple(struct rk *rk, Um__Envelope__BodyCase body)
{
	Um__Envelope env;
	Um__GuestStatsRequest stats = UM__GUEST_STATS_REQUEST__INIT;
	Um__GuestSync sync_request = UM__GUEST_SYNC__INIT;
	struct err err = ERR_INIT;

	rk->id = runnerctl_id(rk->rc);
	rk->has_ok = rk->has_stats = rk->ended = false;
	env = wire_env(rk->id);
	env.body_case = body;
	if (body == UM__ENVELOPE__BODY_GUEST_SYNC)
		env.guest_sync = &sync_request;
	else
		env.guest_stats_request = &stats;
	assert_int_equal(runnerctl_send(rk->rc, &env, &err), 0);
}

static bool synced(struct rk *rk)
{
	return rk->has_ok || rk->ended;
}

/* Every step from FIRST on was passed, each not before the one before it. */
static void check_times(const struct rk *rk, size_t first)
{
	const uint64_t *at = rk->times.at;

	for (size_t i = 0; i < BOOTTIMES_STEPS; i++) {
		if ((i < first) != (at[i] == 0))
			fail_msg("step %zu: %llu", i, (unsigned long long)at[i]);
		if (i > first)
			assert_true(at[i] >= at[i - 1]);
	}
	assert_true(at[BOOTTIMES_STEPS - 1] <= proc_wall_us());
	assert_true(at[BOOTTIMES_STEPS - 1] - at[first] < 60 * UINT64_C(1000000));
}

/* A reboot inside: the same process, configured again, with the hosts of now. */
static void test_reboot(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;
	uint8_t ip[4] = {10, 1, 2, 3};
	char name[] = "later";
	Um__HostEntry entry = UM__HOST_ENTRY__INIT, *entries[1] = {&entry};
	Um__HostsUpdate update = UM__HOSTS_UPDATE__INIT;
	pid_t before;

	rk_boot(rk, "reboot", &(struct rk_options){.run = "echo x >> /runs"});
	rk_wait(rk, rk_find_kernel);
	check_times(rk, UM__BOOT_STEP__BOOT_RUNNER);
	before = rk->kernel_pid;
	entry.name = name;
	entry.ip.data = ip;
	entry.ip.len = 4;
	update.hosts = entries;
	update.n_hosts = 1;
	assert_int_equal(runnerctl_hosts(rk->rc, &update, &err), 0);
	assert_int_equal(
		rk_exec(rk, "for i in 1 2 3 4 5 6 7 8 9; do grep -q later /etc/hosts && break; "
			    "sleep 0.2; done; grep later /etc/hosts"),
		0);
	assert_non_null(strstr(buf_text(&rk->out), "10.1.2.3"));

	send_simple(rk, UM__ENVELOPE__BODY_GUEST_STATS_REQUEST);
	rk_wait(rk, stats_there);
	assert_true(rk->has_stats && rk->stats.mem_total > (32u << 20));
	send_simple(rk, UM__ENVELOPE__BODY_GUEST_SYNC);
	rk_wait(rk, synced);
	assert_true(rk->has_ok);

	rk_open_exec(rk, "sync; reboot -f; sleep 1000");
	rk_wait(rk, rk_stream_ended);
	rk_wait(rk, booted_twice);
	check_times(rk, UM__BOOT_STEP__BOOT_KERNEL);
	assert_int_equal(rk->phase, UM__PHASE__RUNNING);
	rk_wait(rk, rk_find_kernel);
	assert_int_equal(rk->kernel_pid, before);
	assert_int_equal(
		rk_exec(rk, "for i in 1 2 3 4 5 6 7 8 9; do grep -q later /etc/hosts && break; "
			    "sleep 0.2; done; grep later /etc/hosts; wc -l < /runs"),
		0);
	assert_non_null(strstr(buf_text(&rk->out), "10.1.2.3"));
	assert_non_null(strstr(buf_text(&rk->out), "2\n"));
	assert_int_equal(runnerctl_stop(rk->rc, 20000, false, &err), 0);
	rk_finish(rk);
	assert_int_equal(rk->exit_status, 0);
	rk_assert_clean(rk);
}

/* What is wrong is said at the start, and nothing is left. */
static bool never(struct rk *rk)
{
	(void)rk;
	return false;
}

/* Its disk is locked when it starts: as by what is left of the kernel before a reboot, on a
 * busy host.  It waits. */
static void test_locked_disk(void **state)
{
	struct rk *rk = *state;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct err err = ERR_INIT;
	char cow[400];
	int fd;

	rk_new_guest(rk, "locked");
	(void)snprintf(cow, sizeof(cow), "%s/cow", rk->guest);
	fd = open(cow, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETLK, &lock), 0);
	rk_start(rk, &(struct rk_options){0});
	assert_false(rk_wait_ms(rk, never, 3000));
	assert_false(rk_has_ended(rk));
	(void)close(fd);
	rk_wait(rk, rk_is_ready);
	assert_true(rk->ready);
	assert_int_equal(runnerctl_stop(rk->rc, 20000, false, &err), 0);
	rk_finish(rk);
	assert_int_equal(rk->exit_status, 0);
}

static void test_refusals(void **state)
{
	struct rk *rk = *state;
	static const struct {
		struct rk_options o;
		const char *text;
	} bad[] = {
		{{.jail_uid = 4711}, "belongs to user 718281, the guest runs as user 4711"},
		{{.kernel = "/nonexistent/linux"}, "kernel /nonexistent/linux: No such file"},
		{{.kernel = "/etc/passwd"}, "/etc/passwd"},
		{{.isolation = "cage"}, "isolation 'cage'"},
		{{.kernel_args = "ubd3=/etc/shadow"}, "ubd3"},
	};

	rk_new_guest(rk, "refused");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rk_start(rk, &bad[i].o);
		rk_wait(rk, rk_is_gone);
		assert_int_equal(rk->phase, UM__PHASE__FAILED);
		assert_int_equal(rk->exit_status, -1);
		if (!strstr(rk->reason, bad[i].text))
			fail_msg("'%s' does not say '%s'", rk->reason, bad[i].text);
		runnerctl_close(rk->rc);
		rk->rc = NULL;
		rk_assert_clean(rk);
	}
}

/* A guest whose start-up script fails runs, and is not ready. */
static bool has_reason(struct rk *rk)
{
	return rk->gone || (rk->phase == UM__PHASE__RUNNING && rk->reason[0]);
}

static void test_run_fails(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	rk_new_guest(rk, "unready");
	rk_start(rk, &(struct rk_options){.run = "exit 9"});
	rk_wait(rk, has_reason);
	assert_int_equal(rk->phase, UM__PHASE__RUNNING);
	assert_false(rk->ready);
	assert_true(rk->final); /* nothing will make it so */
	assert_int_equal(rk_exec(rk, "echo alive"), 0);
	assert_int_equal(runnerctl_stop(rk->rc, 0, true, &err), 0);
	rk_finish(rk);
}

/* A kernel that panics says why. */
static void test_panic(void **state)
{
	struct rk *rk = *state;

	rk_boot(rk, "panic", &(struct rk_options){0});
	rk_open_exec(rk, "echo c > /proc/sysrq-trigger");
	rk_wait(rk, rk_has_ended);
	assert_int_equal(rk->phase, UM__PHASE__FAILED);
	assert_true(rk->exit_status > 0);
	assert_string_equal(rk->reason, "Kernel panic - not syncing: sysrq triggered crash");
	rk_finish(rk);
	rk_assert_clean(rk);
}

static bool has_prompt(struct rk *rk)
{
	return rk->ended || rk->gone || strstr(buf_text(&rk->out), "# ");
}

static bool has_typed(struct rk *rk)
{
	return rk->ended || rk->gone || strstr(buf_text(&rk->out), "typed-42");
}

/* No agent of ours in the guest: what it wrote is on the disk after a stop. */
static void test_without_agent(void **state)
{
	struct rk *rk = *state;
	static const char text[] = "mount -o remount,rw /; echo precious > /precious; "
				   "echo typed-$((6*7))\n";
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char cow[400], merged[400];
	struct err err = ERR_INIT;

	rk_new_guest(rk, "bare");
	rk_start(rk, &(struct rk_options){.no_initrd = true});
	rk_wait(rk, rk_is_up);
	open.kind = UM__STREAM_KIND__STREAM_CONSOLE;
	rk_open(rk, &open);
	rk_wait(rk, has_prompt);
	rk_send_data(rk, text, sizeof(text) - 1, false);
	rk_wait(rk, has_typed);
	assert_int_equal(rk->phase, UM__PHASE__STARTING); /* as far as we know */
	assert_int_equal(runnerctl_stop(rk->rc, 20000, false, &err), 0);
	rk_finish(rk);
	assert_int_equal(rk->phase, UM__PHASE__STOPPED);
	assert_string_equal(rk->reason, "stopped on request, disks flushed");
	rk_assert_clean(rk);

	(void)snprintf(cow, sizeof(cow), "%s/cow", rk->guest);
	(void)snprintf(merged, sizeof(merged), "%s/merged", rk->dir);
	assert_int_equal(
		kit_wait(kit_spawn((const char *[]){"uml_moo", "-b", rk->image, cow, merged, NULL},
				 NULL, NULL),
			30000),
		0);
	char log[400];
	struct buf out;

	(void)snprintf(log, sizeof(log), "%s/debugfs.log", rk->dir);
	assert_int_equal(
		kit_wait(kit_spawn((const char *[]){"debugfs", "-R", "cat /precious", merged, NULL},
				 NULL, log),
			30000),
		0);
	buf_init(&out);
	assert_int_equal(fs_read(log, 4096, &out, &err), 0);
	assert_non_null(strstr(buf_text(&out), "precious\n"));
	buf_free(&out);
}

/* What the runner keeps while the guest runs. */
static void test_privileges(void **state)
{
	struct rk *rk = *state;

	rk_boot(rk, "privileges", &(struct rk_options){0});
	assert_int_equal(proc_value(rk->runner_pid, "status", "\nCapEff:\t", 16), 0x22);
	assert_int_equal(proc_value(rk->runner_pid, "status", "\nCapBnd:\t", 16), 0);
	assert_int_equal(proc_value(rk->runner_pid, "status", "\nNoNewPrivs:\t", 10), 1);
	/* The host shuts down: SIGTERM stops the guest, not by the user's request. */
	assert_int_equal(kill(rk->runner_pid, SIGTERM), 0);
	rk_wait(rk, rk_has_ended);
	assert_int_equal(rk->phase, UM__PHASE__STOPPED);
	assert_false(rk->by_request);
	assert_int_equal(rk->exit_status, 0);
	rk_finish(rk);
	rk_assert_clean(rk);
}

static int tool(const char *const *argv)
{
	return kit_wait(kit_spawn(argv, NULL, NULL), 10000);
}

/* A NIC: the jailed kernel attaches to a tap in a network namespace that is not
 * its own, without any privilege but to be the tap's owner. */
static void test_network(void **state)
{
	struct rk *rk = *state;
	char ns[32], path[64], uid[16];
	struct err err = ERR_INIT;

	(void)snprintf(ns, sizeof(ns), "umlaut-rk-%d", (int)getpid());
	(void)snprintf(path, sizeof(path), "/run/netns/%s", ns);
	(void)snprintf(uid, sizeof(uid), "%u", RK_UID);
	if (tool((const char *[]){"ip", "netns", "add", ns, NULL}) != 0)
		skip();
	const char *setup[][16] = {
		{"ip", "-n", ns, "tuntap", "add", "dev", "t0", "mode", "tap", "user", uid,
			"vnet_hdr", NULL},
		{"ip", "-n", ns, "addr", "add", "10.9.8.1/24", "dev", "t0", NULL},
		{"ip", "-n", ns, "link", "set", "t0", "up", NULL},
	};
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(tool(setup[i]), 0);
	rk_boot(rk, "network", &(struct rk_options){.netns = path, .tap = "t0"});
	int down = rk_exec(rk, "ip addr show eth0; ping -c 2 -W 5 -s 1300 10.9.8.1");

	if (down)
		print_message("%s\n", buf_text(&rk->out));
	assert_non_null(strstr(buf_text(&rk->out), "10.9.8.7/24"));
	assert_non_null(strstr(buf_text(&rk->out), "02:00:00:00:00:07"));
	assert_int_equal(runnerctl_stop(rk->rc, 20000, false, &err), 0);
	rk_finish(rk);
	assert_int_equal(tool((const char *[]){"ip", "netns", "del", ns, NULL}), 0);
	assert_int_equal(down, 0);
	rk_assert_clean(rk);
}

/* A host whose /dev/shm and /tmp are noexec: said beforehand where it matters,
 * and of no matter in the jail. */
static void test_noexec(void **state)
{
	struct rk *rk = *state;
	int status = 0;
	pid_t pid;

	rk_new_guest(rk, "noexec");
	pid = fork();
	if (pid == 0) {
		Um__RunnerSpec spec = UM__RUNNER_SPEC__INIT;
		Um__GuestConfig config = UM__GUEST_CONFIG__INIT;
		struct boot boot = BOOT_INIT;
		struct err err = ERR_INIT;
		char kernel[] = KIT_KERNEL, none[] = "none", jail[] = "jail", cow[400];
		unsigned long flags = MS_NOEXEC | MS_NOSUID | MS_NODEV;

		(void)snprintf(cow, sizeof(cow), "%s/cow", rk->guest);
		spec.uid = 1;
		spec.kernel = kernel;
		spec.cow = cow;
		spec.backing = rk->image;
		spec.memory_bytes = 64u << 20;
		spec.config = &config;
		spec.jail_uid = RK_UID;
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
			mount("x", "/dev/shm", "tmpfs", flags, NULL) ||
			mount("/tmp", "/tmp", NULL, MS_BIND, NULL) ||
			mount(NULL, "/tmp", NULL, MS_BIND | MS_REMOUNT | flags, NULL))
			_exit(1);
		spec.isolation = none;
		if (boot_start(&spec, rk->guest, &boot, &err) != -EACCES ||
			!strstr(err_msg(&err), "noexec"))
			_exit(2);
		spec.isolation = jail;
		if (boot_start(&spec, rk->guest, &boot, &err) < 0)
			_exit(3);
		/* It prints once it has its memory. */
		char text[64];
		ssize_t n = read(boot.console_fd, text, sizeof(text));

		boot_undo(&boot, rk->guest);
		_exit(n > 0 ? 0 : 4);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	rk_assert_clean(rk);
}

/* Without a jail. */
static void test_none(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	rk_boot(rk, "none", &(struct rk_options){.isolation = "none"});
	assert_int_equal(rk_exec(rk, "echo $((6 * 7))"), 0);
	assert_string_equal(buf_text(&rk->out), "42\n");
	assert_int_equal(runnerctl_stop(rk->rc, 20000, false, &err), 0);
	rk_finish(rk);
	assert_int_equal(rk->exit_status, 0);
	rk_assert_clean(rk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot_exec_stop),
		cmocka_unit_test(test_jailed),
		cmocka_unit_test(test_kernel_killed),
		cmocka_unit_test(test_runner_killed),
		cmocka_unit_test(test_adopt),
		cmocka_unit_test(test_two_agents),
		cmocka_unit_test(test_stop_deadline),
		cmocka_unit_test(test_reboot),
		cmocka_unit_test(test_locked_disk),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_run_fails),
		cmocka_unit_test(test_panic),
		cmocka_unit_test(test_without_agent),
		cmocka_unit_test(test_privileges),
		cmocka_unit_test(test_network),
		cmocka_unit_test(test_noexec),
		cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests(tests, rk_setup, rk_teardown);
}
