/* The jail, seen from inside: busybox in place of a kernel. */
#include <arpa/inet.h>
#include <dirent.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tests/unit/guest/umlkit.h"

#include "guest/jail.h"
#include "guest/jail_int.h"
#include "lib/buf.h"
#include "lib/fs.h"

#define JAIL_UID 718282u

struct fixture {
	char dir[64], root[96], shared[96], readonly[96];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	FILE *file;

	assert_non_null(f);
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/umlaut-jail-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->root, sizeof(f->root), "%s/root", f->dir);
	(void)snprintf(f->shared, sizeof(f->shared), "%s/shared", f->dir);
	(void)snprintf(f->readonly, sizeof(f->readonly), "%s/readonly", f->dir);
	assert_int_equal(mkdir(f->root, 0700), 0);
	assert_int_equal(mkdir(f->shared, 0700), 0);
	assert_int_equal(chown(f->shared, JAIL_UID, JAIL_UID), 0);
	file = fopen(f->readonly, "we");
	assert_non_null(file);
	(void)fputs("constant\n", file);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(chmod(f->readonly, 0444), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	(void)fs_remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static pid_t admitted;

static int admit(void *arg, pid_t pid, struct err *err)
{
	(void)err;
	admitted = pid;
	return *(int *)arg ? err_set(err, -EPERM, "not admitted") : 0;
}

static int born_fd;	    /* of the next jail: a v2 control group */
static bool refuse_joining; /* the message tells whether it was born there */

static int join(void *arg, bool born, struct err *err)
{
	assert_ptr_equal(arg, &born_fd);
	return refuse_joining ? err_set(err, -EPERM, "born %d, pid %d", born, (int)getpid()) : 0;
}

/* Starts `sh -c SCRIPT` in a jail; its output comes at *OUT_FD. */
static int start(struct fixture *f, const char *script, bool none, const char *netns, int refuse,
	struct jail *jail, int *out_fd, struct err *err)
{
	const struct jail_mount mounts[] = {
		{"/bin/busybox", "/bin/busybox", false},
		{f->shared, "/shared", true},
		{f->readonly, "/etc/readonly", false},
	};
	const char *argv[] = {"/bin/busybox", "sh", "-c", script, NULL};
	const char *envp[] = {"PATH=/bin", NULL};
	int ends[2], rc;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	const int fds[] = {-1, ends[1], ends[1]};
	const struct jail_spec spec = {
		.none = none,
		.root = f->root,
		.uid = JAIL_UID,
		.gid = JAIL_UID,
		.netns = netns,
		.hostname = "inside",
		.mounts = mounts,
		.mount_count = 3,
		.tmp_bytes = 8 << 20,
		.file_max = 5 << 20,
		.argv = argv,
		.envp = envp,
		.fds = fds,
		.fd_count = 3,
		.admit = admit,
		.admit_arg = &refuse,
		.cgroup_fd = born_fd,
		.join = join,
		.join_arg = &born_fd,
	};

	*jail = JAIL_INIT;
	rc = jail_start(&spec, jail, err);
	(void)close(ends[1]);
	*out_fd = ends[0];
	return rc;
}

/* Runs SCRIPT to its end; output in OUT; its status. */
static int run(struct fixture *f, const char *script, struct buf *out)
{
	struct jail jail;
	struct err err = ERR_INIT;
	struct pollfd p;
	char data[4096];
	ssize_t n;
	int fd;

	if (start(f, script, false, NULL, 0, &jail, &fd, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_int_equal(admitted, jail.pid);
	buf_init(out);
	while ((n = read(fd, data, sizeof(data))) > 0)
		buf_add(out, data, (size_t)n);
	(void)close(fd);
	p = (struct pollfd){.fd = jail.pidfd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	return jail_reap(&jail);
}

static void expect(struct fixture *f, const char *script, int status, const char *text)
{
	struct buf out;
	int got = run(f, script, &out);

	if (got != status || strcmp(buf_text(&out), text) != 0)
		fail_msg("'%s' gave %d and '%s'", script, got, buf_text(&out));
	buf_free(&out);
}

static void test_identity(void **state)
{
	struct fixture *f = *state;

	expect(f, "exit 42", 42, "");
	expect(f, "kill -9 $$", 256 + 9, "");
	expect(f, "busybox id -u; busybox id -g; busybox id -G", 0, "718282\n718282\n718282\n");
	expect(f, "busybox grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status", 0,
		"Groups:\t \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n"
		"CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"
		"CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n");
	expect(f, "busybox hostname; busybox hostname other || echo kept", 0,
		"inside\nhostname: sethostname: Operation not permitted\nkept\n");
	expect(f, "ulimit -c; ulimit -n; ulimit -f", 0, "0\n4096\n10240\n");
}

/* A host that is out of memory ends it before the caller. */
static void test_memory(void **state)
{
	struct fixture *f = *state;
	char text[32];
	int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	long adj;

	assert_true(n > 0);
	(void)close(fd);
	text[n] = '\0';
	adj = strtol(text, NULL, 10) + JAIL_OOM_MORE;
	(void)snprintf(text, sizeof(text), "%ld\n", adj < 1000 ? adj : 1000);
	expect(f, "busybox cat /proc/self/oom_score_adj", 0, text);
}

/* It sees itself, the reaper, and no file, process, device of the host. */
static void test_sees_nothing(void **state)
{
	struct fixture *f = *state;

	expect(f, "cd /; echo *", 0, "bin dev etc proc shared tmp\n");
	expect(f, "cd /dev; echo * net/*", 0, "net null random urandom zero net/tun\n");
	expect(f, "cd /proc; echo [0-9]*; busybox cat 1/comm; echo $$", 0,
		"1 2\numlaut-reaper\n2\n");
	expect(f,
		"cd /proc; echo sys/* bus/* fs/* irq/*; busybox wc -c < interrupts; "
		"busybox wc -c < cmdline",
		0, "sys/* bus/* fs/* irq/*\n0\n0\n");
	expect(f, "busybox cut -d: -f1 /proc/net/dev | busybox tr -d ' ' | busybox tail -n +3", 0,
		"lo\n");
	expect(f, "busybox cat /proc/1/environ /proc/1/maps > /dev/null && echo read", 1,
		"cat: can't open '/proc/1/environ': Permission denied\n"
		"cat: can't open '/proc/1/maps': Permission denied\n");
	expect(f, "busybox kill -9 1; echo $?", 0, "0\n"); /* the kernel ignores it */
	expect(f, "busybox ls /proc/self/fd", 0, "0\n1\n2\n3\n");
}

static void test_writes(void **state)
{
	struct fixture *f = *state;
	char path[128];
	struct buf out;

	expect(f,
		"for d in / /bin /dev /etc /proc; do echo x > $d/new && echo wrote $d; done 2>&1 "
		"| busybox grep -c -E 'Read-only|denied|nonexistent'",
		0, "5\n");
	expect(f, "echo x >> /etc/readonly", 1,
		"sh: can't create /etc/readonly: Permission denied\n");
	expect(f, "busybox cat /etc/readonly; echo written > /shared/file", 0, "constant\n");
	(void)snprintf(path, sizeof(path), "%s/file", f->shared);
	buf_init(&out);
	assert_int_equal(fs_read(path, 100, &out, NULL), 0);
	assert_string_equal(buf_text(&out), "written\n");
	buf_free(&out);
	/* /tmp executes (a kernel's RAM must), /shared does not. */
	expect(f, "busybox cp /bin/busybox /shared/b && /shared/b true", 126,
		"sh: /shared/b: Permission denied\n");
	/* Bounds: a file of 5 MiB, 8 MiB of /tmp in all. */
	expect(f, "busybox dd if=/dev/zero of=/tmp/a bs=1M count=6 2>/dev/null; echo $?", 0,
		"153\n");
	expect(f,
		"for i in 1 2 3; do busybox dd if=/dev/zero of=/tmp/$i bs=1M count=3 "
		"2>/dev/null || echo full $i; done",
		0, "full 3\n");
}

static void test_denied(void **state)
{
	struct fixture *f = *state;
	struct buf out;

	expect(f, "busybox mount -t tmpfs x /tmp", 1, "mount: permission denied (are you root?)\n");
	run(f,
		"busybox mount -o remount,rw /; busybox umount /proc; busybox chroot /tmp /bin/x; "
		"busybox unshare -U true; busybox unshare -n true; "
		"busybox nsenter -t 2 -n true; busybox insmod /etc/readonly; busybox swapon "
		"/tmp/x; "
		"busybox date -s 2001-01-01; busybox ping -c1 127.0.0.1",
		&out);
	/* Each of them fails, one way or another. */
	for (const char *p = buf_text(&out); *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : "")
		if (strncmp(p, "PING", 4) != 0 && !strstr(p, "ermi") && !strstr(p, "root") &&
			!strstr(p, "not") && !strstr(p, "can't") && *p != '\n')
			print_message("note: %s\n", p);
	assert_null(strstr(buf_text(&out), "0% packet loss"));
	buf_free(&out);
}

/* The filter's answers, call by call: a process that only dropped its privileges. */
static int probe(void)
{
	const struct jail_spec spec = {.uid = JAIL_UID, .gid = JAIL_UID};
	struct err err = ERR_INIT;

	if (jail_drop(&spec, &err) < 0)
		return 100;
#define REFUSED(n, code, call)                      \
	do {                                        \
		errno = 0;                          \
		if ((call) >= 0 || errno != (code)) \
			return n;                   \
	} while (0)
	REFUSED(1, EPERM, unshare(CLONE_NEWUSER));
	REFUSED(2, EPERM, syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
	REFUSED(3, ENOSYS, syscall(SYS_clone3, NULL, 0));
	REFUSED(4, EPERM, syscall(SYS_bpf, 0, NULL, 0));
	REFUSED(5, EPERM, syscall(SYS_keyctl, 0, 0));
	REFUSED(6, EPERM, syscall(SYS_userfaultfd, 0));
	REFUSED(7, EPERM, syscall(SYS_io_uring_setup, 1, NULL));
	REFUSED(8, EPERM, syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
	REFUSED(9, EPERM, syscall(SYS_open_by_handle_at, -1, NULL, 0));
	REFUSED(10, EPERM, mount("x", "/tmp", "tmpfs", 0, NULL));
	REFUSED(11, EPERM, chroot("/"));
	REFUSED(12, EAFNOSUPPORT, socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
	REFUSED(13, EAFNOSUPPORT, socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
	REFUSED(14, EAFNOSUPPORT, socket(40 /* vsock */, SOCK_STREAM | SOCK_CLOEXEC, 0));
	REFUSED(15, EPERM, setuid(0));
	/* What a kernel needs goes on: ptrace, plain fork, unix and inet sockets. */
	if (socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0)
		return 20;
	if (socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) < 0)
		return 21;
	pid_t pid = fork();

	if (pid == 0) {
		(void)syscall(SYS_ptrace, 0 /* TRACEME */, 0, 0, 0);
		(void)raise(SIGSTOP);
		_exit(0);
	}
	int status = 0;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		return 22;
	(void)kill(pid, SIGKILL);
	return waitpid(pid, NULL, 0) == pid ? 0 : 23;
}

static void test_filter(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0)
		_exit(probe());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void refused(struct fixture *f, const char *netns, int refuse, int code, const char *text)
{
	struct jail jail;
	struct err err = ERR_INIT;
	int fd;

	assert_int_equal(start(f, "true", false, netns, refuse, &jail, &fd, &err), code);
	if (!strstr(err_msg(&err), text))
		fail_msg("'%s' does not say '%s'", err_msg(&err), text);
	assert_int_equal(jail.pid, 0);
	(void)close(fd);
}

/* A step that fails is named; nothing of the tree is left. */
static void test_failures(void **state)
{
	struct fixture *f = *state;
	char data[4];
	struct jail jail;
	struct err err = ERR_INIT;
	int fd;

	refused(f, "/nonexistent/netns", 0, -ENOENT, "network namespace /nonexistent/netns");
	refused(f, "/dev/null", 0, -EINVAL, "enter network namespace");
	refused(f, NULL, 1, -EPERM, "not admitted");
	refuse_joining = true;
	refused(f, NULL, 0, -EPERM, "born 0, pid 1");
	/* What is no group, or may not be entered, is tried without. */
	born_fd = open("/tmp", O_PATH | O_CLOEXEC);
	refused(f, NULL, 0, -EPERM, "born 0, pid 1");
	(void)close(born_fd);
	born_fd = 0;
	refuse_joining = false;
	assert_int_equal(rmdir(f->root), 0);
	refused(f, NULL, 0, -ENOENT, "jail: mount tmpfs on ");
	assert_int_equal(mkdir(f->root, 0700), 0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* all reaped */

	/* jail_kill() ends the whole tree, also what has hidden in its own session. */
	assert_int_equal(start(f, "busybox setsid busybox sleep 1000 & busybox sleep 1000", false,
				 NULL, 0, &jail, &fd, &err),
		0);
	jail_kill(&jail);
	assert_int_equal(read(fd, data, 1), 0); /* nobody holds the pipe any more */
	assert_int_equal(jail_reap(&jail), 256 + SIGKILL);
	(void)close(fd);
}

/* Born in a control group of v2, where the host has one. */
static void test_born(void **state)
{
	static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	struct fixture *f = *state;
	struct statfs fs;
	char dir[128] = "";

	for (size_t i = 0; i < 2; i++)
		if (statfs(places[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
			(void)snprintf(
				dir, sizeof(dir), "%s/test-jail-%d", places[i], (int)getpid());
	if (!dir[0] || mkdir(dir, 0755) < 0)
		skip();
	born_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(born_fd > 0);
	refuse_joining = true;
	refused(f, NULL, 0, -EPERM, "born 1, pid 1");
	refuse_joining = false;
	expect(f, "busybox true", 0, "");
	(void)close(born_fd);
	born_fd = 0;
	assert_int_equal(rmdir(dir), 0);
}

/* The caller's death is the jail's: no process, no mount outlives it. */
static void test_caller_dies(void **state)
{
	struct fixture *f = *state;
	struct jail jail;
	struct err err = ERR_INIT;
	struct pollfd p;
	int fd, tell[2], status;
	pid_t pid, reaper = 0;

	assert_int_equal(pipe2(tell, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		if (start(f, "busybox setsid busybox sleep 1000 & busybox sleep 1000", false, NULL,
			    0, &jail, &fd, &err) < 0)
			_exit(1);
		if (write(tell[1], &jail.pid, sizeof(jail.pid)) != sizeof(jail.pid))
			_exit(2);
		for (;;)
			(void)pause();
	}
	assert_int_equal(read(tell[0], &reaper, sizeof(reaper)), sizeof(reaper));
	p.fd = (int)syscall(SYS_pidfd_open, reaper, 0);
	p.events = POLLIN;
	assert_true(p.fd >= 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(poll(&p, 1, 10000), 1);
	(void)close(p.fd);
	(void)close(tell[0]);
	(void)close(tell[1]);
}

/* `none`: the host's files and the caller's user, but a tree of its own that ends. */
static void test_none(void **state)
{
	struct fixture *f = *state;
	struct jail jail;
	struct err err = ERR_INIT;
	char data[200];
	size_t used = 0;
	ssize_t n;
	int fd;

	assert_int_equal(start(f,
				 "busybox sleep 1000 & cd /proc; echo [0-9]*; busybox id -u; "
				 "echo $(pwd); busybox test -e /etc/passwd && echo host",
				 true, NULL, 0, &jail, &fd, &err),
		0);
	while (used < sizeof(data) - 1 && (n = read(fd, data + used, sizeof(data) - 1 - used)) > 0)
		used += (size_t)n;
	data[used] = '\0';
	assert_string_equal(data, "1 2 3\n0\n/proc\nhost\n");
	assert_int_equal(jail_reap(&jail), 0);
	(void)close(fd);
}

static void test_filter_names(void **state)
{
	static const char *const must[] = {"mount", "umount2", "pivot_root", "chroot", "unshare",
		"setns", "bpf", "keyctl", "perf_event_open", "userfaultfd", "kexec_load",
		"init_module", "finit_module", "open_by_handle_at", "io_uring_setup"};

	(void)state;
	for (size_t i = 0; i < sizeof(must) / sizeof(must[0]); i++) {
		size_t k = 0;

		while (jail_denied(k) && strcmp(jail_denied(k), must[i]) != 0)
			k++;
		if (!jail_denied(k))
			fail_msg("%s is not denied", must[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sees_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_denied, setup, teardown),
		cmocka_unit_test(test_filter_names),
		cmocka_unit_test(test_filter),
		cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_born, setup, teardown),
		cmocka_unit_test_setup_teardown(test_caller_dies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
