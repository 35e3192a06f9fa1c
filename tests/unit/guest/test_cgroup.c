/* Control groups: the files of both versions against fake trees, and life, killing
 * and limits against whatever this host really has. */
#include <sys/mman.h>

#include "tests/unit/guest/umlkit.h"

#include "guest/cgroup.h"
#include "lib/buf.h"
#include "lib/fs.h"

static void make_file(const char *dir, const char *name, const char *text)
{
	char path[400];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "we");
	assert_non_null(f);
	(void)fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* Writes go over the beginning of a fake's file: the rest is cut off at '|'. */
static void assert_file(const char *dir, const char *name, const char *text)
{
	char path[400];
	struct buf got;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	buf_init(&got);
	assert_int_equal(fs_read(path, 4096, &got, NULL), 0);
	if (strncmp(buf_text(&got), text, strlen(text)) != 0)
		fail_msg("%s is '%s', not '%s'", name, buf_text(&got), text);
	buf_free(&got);
}

static void make_dir(char *out, size_t size, const char *dir, const char *name)
{
	(void)snprintf(out, size, "%s/%s", dir, name);
	assert_int_equal(mkdir(out, 0755), 0);
}

/* What a v2 tree with controllers would get. */
static void test_fake_v2(void **state)
{
	char dir[] = "/tmp/umlaut-cg-XXXXXX", root[64], own[128], mid[256], group[300], text[100];
	const char *roots[1] = {root};
	const struct cgroup_limits limits = {
		.memory_bytes = 100 << 20, .cpu_milli = 250, .pids_max = 77};
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	struct cgroup_usage usage;
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(root, sizeof(root), "v2=%s", dir);
	make_file(dir, "cgroup.controllers", "cpuset cpu io memory pids\n");
	make_file(dir, "cgroup.subtree_control", "");
	make_dir(own, sizeof(own), dir, "umlaut");
	make_file(own, "cgroup.subtree_control", "");
	make_dir(mid, sizeof(mid), own, "h1");
	make_file(mid, "cgroup.subtree_control", "");
	make_dir(group, sizeof(group), mid, "g");
	make_file(group, "memory.max", "");
	make_file(group, "memory.oom.group", "");
	make_file(group, "cpu.weight", "");
	make_file(group, "cpu.max", "");
	make_file(group, "pids.max", "");
	make_file(group, "cgroup.procs", "");
	make_file(group, "cgroup.kill", "");
	make_file(group, "memory.current", "4096\n");
	make_file(group, "memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n");
	make_file(group, "cpu.stat", "usage_usec 1234\nuser_usec 1000\n");
	make_file(group, "pids.current", "5\n");

	assert_int_equal(cgroup_probe(roots, 1, &host, &err), 0);
	for (int i = 0; i < CGROUP_CONTROLLERS; i++)
		assert_null(cgroup_missing(host, (enum cgroup_controller)i));
	if (cgroup_create(host, "h1/g", &limits, &cg, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_string_equal(cgroup_note(cg), "");
	(void)snprintf(text, sizeof(text), "%d", 100 << 20);
	assert_file(group, "memory.max", text);
	assert_file(group, "memory.oom.group", "1");
	assert_file(group, "cpu.weight", "25");
	assert_file(group, "cpu.max", "25000 100000");
	assert_file(group, "pids.max", "77");
	assert_file(own, "cgroup.subtree_control", "+");
	assert_file(mid, "cgroup.subtree_control", "+");
	assert_int_equal(cgroup_add(cg, 4242, &err), 0);
	assert_file(group, "cgroup.procs", "4242");
	assert_int_equal(cgroup_kill(cg, &err), 0);
	assert_file(group, "cgroup.kill", "1");
	assert_int_equal(cgroup_usage(cg, &usage, &err), 0);
	assert_true(usage.has_memory && usage.has_cpu && usage.has_pids);
	assert_int_equal(usage.memory_bytes, 4096);
	assert_int_equal(usage.oom_kills, 2);
	assert_int_equal(usage.cpu_us, 1234);
	assert_int_equal(usage.pids, 5);
	cgroup_free(cg);

	/* A controller that the parent cannot hand down is left out, and noted. */
	char path[400];

	(void)snprintf(path, sizeof(path), "%s/cgroup.subtree_control", own);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(cgroup_create(host, "h1/g", &limits, &cg, &err), 0);
	assert_non_null(strstr(cgroup_note(cg), "not limited"));
	cgroup_free(cg);
	cgroup_host_free(host);
	assert_int_equal(fs_remove_tree(dir, NULL), 0);
}

static void test_fake_v1(void **state)
{
	static const char *const names[] = {"memory", "cpu", "pids", "freezer"};
	char dir[] = "/tmp/umlaut-cg-XXXXXX", roots_text[4][64], group[4][200];
	const char *roots[4];
	const struct cgroup_limits limits = {
		.memory_bytes = 1 << 30, .cpu_milli = 2500, .pids_max = 9};
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	struct cgroup_usage usage;
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(mkdtemp(dir));
	for (int i = 0; i < 4; i++) {
		char top[100], own[150];

		(void)snprintf(
			roots_text[i], sizeof(roots_text[i]), "%s=%s/%s", names[i], dir, names[i]);
		roots[i] = roots_text[i];
		make_dir(top, sizeof(top), dir, names[i]);
		make_dir(own, sizeof(own), top, "umlaut");
		make_dir(group[i], sizeof(group[i]), own, "g");
		make_file(group[i], "cgroup.procs", "");
	}
	make_file(group[0], "memory.limit_in_bytes", "");
	make_file(group[0], "memory.usage_in_bytes", "8192\n");
	make_file(group[0], "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
	make_file(group[1], "cpu.shares", "");
	make_file(group[1], "cpu.cfs_period_us", "");
	make_file(group[1], "cpu.cfs_quota_us", "");
	make_file(group[2], "pids.max", "");
	make_file(group[3], "freezer.state", "");
	assert_int_equal(cgroup_probe(roots, 4, &host, &err), 0);
	if (cgroup_create(host, "g", &limits, &cg, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_file(group[0], "memory.limit_in_bytes", "1073741824");
	assert_file(group[1], "cpu.shares", "2560");
	assert_file(group[1], "cpu.cfs_period_us", "100000");
	assert_file(group[1], "cpu.cfs_quota_us", "250000");
	assert_file(group[2], "pids.max", "9");
	assert_int_equal(cgroup_kill(cg, &err), 0);
	assert_file(group[3], "freezer.state", "THAWED"); /* FROZEN came before */
	assert_int_equal(cgroup_usage(cg, &usage, &err), 0);
	assert_true(usage.has_memory && !usage.has_cpu);
	assert_int_equal(usage.oom_kills, 4);
	cgroup_free(cg);
	cgroup_host_free(host);
	assert_int_equal(fs_remove_tree(dir, NULL), 0);
}

static void test_names(void **state)
{
	static const char *const bad[] = {
		"", "/", "a/", "/a", "a//b", "..", "a/../b", ".hidden", "a b", "a\nb", "\xc3\xa4"};
	const char *roots[1] = {"memory=relative"};
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(cgroup_probe(roots, 1, &host, &err), -EINVAL);
	roots[0] = "disk=/sys";
	assert_int_equal(cgroup_probe(roots, 1, &host, &err), -EINVAL);
	roots[0] = "pids=/nonexistent";
	assert_int_equal(cgroup_probe(roots, 1, &host, &err), 0);
	assert_non_null(cgroup_missing(host, CGROUP_MEMORY));
	assert_non_null(strstr(cgroup_missing(host, CGROUP_KILL), "freezer"));
	assert_null(cgroup_missing(host, CGROUP_PIDS));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cgroup_find(host, bad[i], &cg, &err), -EINVAL);
	assert_int_equal(cgroup_find(host, "a/b-1.x", &cg, &err), 0);
	assert_int_equal(cgroup_kill(cg, &err), 0); /* not there: nothing to do */
	assert_int_equal(cgroup_count(cg, &err), 0);
	assert_int_equal(cgroup_remove(cg, &err), 0);
	cgroup_free(cg);
	cgroup_host_free(host);
	assert_true(cgroup_memory_limit(64 << 20) == (136u << 20));
}

/* ---------------------------------------------------------------- the real thing */

/* A process that forks on, in its own sessions, as fast as it may. */
static pid_t spawn_tree(int depth)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	for (int i = 0; i < depth; i++)
		if (fork() == 0)
			(void)setsid();
	for (;;)
		(void)pause();
}

static void kill_really(const char *const *roots, size_t count, const char *what)
{
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	struct cgroup_limits limits = {.pids_max = 200};
	struct err err = ERR_INIT;
	char name[64];
	uint64_t end = kit_now_ms() + 10000;
	int status;
	pid_t pid;

	(void)snprintf(name, sizeof(name), "test-cgroup-%d/%s", (int)getpid(), what);
	assert_int_equal(cgroup_probe(roots, count, &host, &err), 0);
	if (cgroup_create(host, name, &limits, &cg, &err) < 0) {
		cgroup_host_free(host);
		print_message("%s: %s\n", what, err_msg(&err));
		skip();
	}
	pid = spawn_tree(0);
	assert_true(pid > 0);
	assert_int_equal(cgroup_add(cg, pid, &err), 0);
	assert_int_equal(cgroup_count(cg, &err), 1);
	assert_int_equal(cgroup_remove(cg, &err), -EBUSY);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);

	/* Through its door a process goes by itself, into every hierarchy. */
	struct cgroup_door door;

	assert_int_equal(cgroup_door_open(cg, &door, &err), 0);
	assert_int_equal(door.count, count ? count : door.count);
	pid = fork();
	if (pid == 0) {
		if (cgroup_door_enter(&door, false, NULL) < 0)
			_exit(1);
		for (;;)
			(void)pause();
	}
	cgroup_door_close(&door);
	assert_int_equal(door.count, 0);
	while (cgroup_count(cg, &err) < 1 && kit_now_ms() < end)
		kit_pause();
	assert_int_equal(cgroup_count(cg, &err), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WTERMSIG(status), SIGKILL);

	/* A tree: in the group from its first process on. */
	int go[2];

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		char byte;

		(void)!read(go[0], &byte, 1);
		(void)spawn_tree(4);
		(void)spawn_tree(4);
		for (;;)
			(void)pause();
	}
	assert_int_equal(cgroup_add(cg, pid, &err), 0);
	assert_int_equal(write(go[1], "g", 1), 1);
	while (cgroup_count(cg, &err) < 33 && kit_now_ms() < end)
		kit_pause();
	assert_int_equal(cgroup_count(cg, &err), 33);
	if (cgroup_end(cg, 10000, &err) < 0)
		fail_msg("%s: %s", what, err_msg(&err));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_int_equal(cgroup_count(cg, &err), 0);
	assert_int_equal(cgroup_usage(cg, &(struct cgroup_usage){0}, &err), -ENOENT);
	assert_int_equal(cgroup_remove(cg, &err), 0);
	(void)close(go[0]);
	(void)close(go[1]);
	cgroup_free(cg);
	cgroup_host_free(host);
}

static void test_kill_default(void **state)
{
	(void)state;
	kill_really(NULL, 0, "default");
}

static void test_kill_freezer(void **state)
{
	const char *roots[] = {"freezer=/sys/fs/cgroup/freezer"};

	(void)state;
	if (access("/sys/fs/cgroup/freezer/cgroup.procs", F_OK) < 0)
		skip();
	kill_really(roots, 1, "freezer");
}

/* No way to freeze: by repetition. */
static void test_kill_plain(void **state)
{
	const char *roots[] = {"pids=/sys/fs/cgroup/pids"};

	(void)state;
	if (access("/sys/fs/cgroup/pids/cgroup.procs", F_OK) < 0)
		skip();
	kill_really(roots, 1, "plain");
}

static void test_kill_v2(void **state)
{
	const char *roots[1];

	(void)state;
	if (access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0)
		roots[0] = "v2=/sys/fs/cgroup/unified";
	else if (access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0)
		roots[0] = "v2=/sys/fs/cgroup";
	else
		skip();
	kill_really(roots, 1, "v2");
}

/* The limits hold: memory kills, pids refuse, and the usage shows it. */
static void test_limits_hold(void **state)
{
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	struct cgroup_limits limits = {.memory_bytes = 16 << 20, .cpu_milli = 500, .pids_max = 3};
	struct cgroup_usage usage;
	struct err err = ERR_INIT;
	char name[64];
	int go[2], status;
	pid_t pid;

	(void)state;
	(void)snprintf(name, sizeof(name), "test-limits-%d", (int)getpid());
	assert_int_equal(cgroup_probe(NULL, 0, &host, &err), 0);
	if (cgroup_missing(host, CGROUP_MEMORY) || cgroup_missing(host, CGROUP_PIDS)) {
		cgroup_host_free(host);
		skip();
	}
	if (cgroup_create(host, name, &limits, &cg, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		char byte;
		pid_t child;
		int refused = 0;

		(void)!read(go[0], &byte, 1);
		for (int i = 0; i < 6; i++) {
			child = fork();
			if (child == 0) {
				for (;;)
					(void)pause();
			}
			refused += child < 0;
		}
		if (refused != 4)
			_exit(9);
		for (size_t i = 0; i < 64; i++) {
			volatile char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			for (size_t k = 0; k < 1 << 20; k += 4096)
				p[k] = 1;
		}
		_exit(8);
	}
	assert_int_equal(cgroup_add(cg, pid, &err), 0);
	assert_int_equal(write(go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_int_equal(cgroup_usage(cg, &usage, &err), 0);
	assert_true(usage.has_memory && usage.oom_kills >= 1);
	assert_true(usage.has_pids);
	if (cgroup_end(cg, 10000, &err) < 0)
		fail_msg("%s", err_msg(&err));
	(void)close(go[0]);
	(void)close(go[1]);
	cgroup_free(cg);
	cgroup_host_free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fake_v2),
		cmocka_unit_test(test_fake_v1),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_kill_default),
		cmocka_unit_test(test_kill_freezer),
		cmocka_unit_test(test_kill_plain),
		cmocka_unit_test(test_kill_v2),
		cmocka_unit_test(test_limits_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
