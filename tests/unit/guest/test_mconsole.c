/* The management console's client: against a real kernel (also one in a chroot
 * and network namespace of its own), and against impostors. */
#include "tests/unit/guest/umlkit.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest/cmdline.h"
#include "guest/kernelinfo.h"
#include "guest/mconsole.h"

static struct kit_dir dir;

struct fixture {
	struct loop *loop;
	struct mconsole *mc;
	int root_fd;
	unsigned calls;
	int code;
	char text[70000];
};

static int setup(void **state)
{
	(void)state;
	kit_dir_make(&dir);
	assert_int_equal(mkdir(kit_path(&dir, "mc"), 0755), 0);
	assert_int_equal(mkdir(kit_path(&dir, "uml"), 0777), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_dir_remove(&dir);
	return 0;
}

/* ROOT: the folder that the kernel sees as its root. */
static void open_client_at(struct fixture *f, const char *root, const char *socket, const char *mc)
{
	struct err err = ERR_INIT;

	memset(f, 0, sizeof(*f));
	assert_int_equal(loop_new(&f->loop, &err), 0);
	f->root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->root_fd >= 0);
	const struct mconsole_config config = {
		.root_fd = f->root_fd, .socket = socket, .reply_dir = mc};

	if (mconsole_open(f->loop, &config, &f->mc, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static void open_client(struct fixture *f, const char *socket)
{
	open_client_at(f, dir.path, socket, "mc");
}

static void close_client(struct fixture *f)
{
	mconsole_close(f->mc);
	(void)loop_run(f->loop, NULL);
	assert_int_equal(loop_free(f->loop), 0);
	(void)close(f->root_fd);
	/* No reply socket is left. */
	assert_int_equal(kit_run("rmdir", kit_path(&dir, "mc")), 0);
	assert_int_equal(mkdir(kit_path(&dir, "mc"), 0755), 0);
}

static void on_done(void *arg, const struct err *err, const char *text)
{
	struct fixture *f = arg;

	f->calls++;
	f->code = err ? err->code : 0;
	(void)snprintf(f->text, sizeof(f->text), "%s", err ? err_msg(err) : text);
	loop_stop(f->loop);
}

/* Sends and waits; the outcome. */
static int ask(struct fixture *f, const char *command, uint32_t ms)
{
	struct err err = ERR_INIT;
	unsigned before = f->calls;
	int rc = mconsole_request(f->mc, command, ms, on_done, f, &err);

	if (rc < 0) {
		(void)snprintf(f->text, sizeof(f->text), "%s", err_msg(&err));
		return rc;
	}
	assert_int_equal(f->calls, before);
	assert_int_equal(loop_run(f->loop, NULL), 0);
	assert_int_equal(f->calls, before + 1);
	return f->code;
}

/* ---- impostors: a child that answers as told ---- */

struct reply {
	uint32_t err, more, len;
	char data[512];
};

typedef void impostor_fn(int fd, const struct sockaddr_un *from, socklen_t len);

static pid_t impostor(impostor_fn *fn)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	pid_t pid;

	(void)mkdir(kit_path(&dir, "uml/f"), 0777);
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%.60s/uml/f/mconsole", dir.path);
	(void)unlink(addr.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid > 0) {
		(void)close(fd);
		return pid;
	}
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || chdir(dir.path) < 0)
		_exit(1);
	for (;;) {
		struct sockaddr_un from;
		socklen_t len = sizeof(from);
		char buf[1024];

		if (recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len) < 0)
			_exit(1);
		fn(fd, &from, len);
	}
}

static void end(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

static void say(
	int fd, const struct sockaddr_un *to, socklen_t len, const struct reply *r, size_t size)
{
	if (sendto(fd, r, size, 0, (const struct sockaddr *)to, len) < 0)
		_exit(2);
}

static void say_nothing(int fd, const struct sockaddr_un *from, socklen_t len)
{
	(void)fd;
	(void)from;
	(void)len;
}

static void say_endlessly(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {.more = 1, .len = 512};

	memset(r.data, 'x', sizeof(r.data));
	while (sendto(fd, &r, sizeof(r), 0, (const struct sockaddr *)from, len) >= 0)
		;
}

static void say_empty_endlessly(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {.more = 1, .len = 0};

	while (sendto(fd, &r, 12, 0, (const struct sockaddr *)from, len) >= 0)
		;
}

static void say_short(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {0};

	say(fd, from, len, &r, 5);
}

static void say_too_long(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {.len = 100};

	say(fd, from, len, &r, 20);
}

static void say_huge_len(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {.len = 0xffffffff};

	say(fd, from, len, &r, sizeof(r));
}

static void say_error_in_parts(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {.err = 1, .more = 1, .len = 4, .data = "bad "};

	say(fd, from, len, &r, 12 + 4);
	r = (struct reply){.len = 5, .data = "luck"};
	say(fd, from, len, &r, 12 + 5);
}

static void say_unterminated(int fd, const struct sockaddr_un *from, socklen_t len)
{
	struct reply r = {.len = 512};

	memset(r.data, 'y', sizeof(r.data));
	say(fd, from, len, &r, sizeof(r));
}

static void test_impostors(void **state)
{
	static const struct {
		impostor_fn *fn;
		int code;
	} cases[] = {{say_nothing, -ETIMEDOUT}, {say_endlessly, -EMSGSIZE},
		{say_empty_endlessly, -EBADMSG}, {say_short, -EBADMSG}, {say_too_long, -EBADMSG},
		{say_huge_len, -EBADMSG}, {say_error_in_parts, -EREMOTEIO}, {say_unterminated, 0}};
	struct fixture *f = malloc(sizeof(*f));

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		pid_t pid = impostor(cases[i].fn);

		open_client(f, "uml/f/mconsole");
		assert_int_equal(ask(f, "version", 300), cases[i].code);
		if (cases[i].fn == say_error_in_parts)
			assert_non_null(strstr(f->text, "bad luck"));
		if (cases[i].fn == say_unterminated)
			assert_int_equal(strlen(f->text), 512);
		close_client(f);
		end(pid);
	}
	free(f);
}

static void test_no_kernel(void **state)
{
	struct fixture *f = malloc(sizeof(*f));
	pid_t pid = impostor(say_nothing);
	char path[200], other[200];

	(void)state;
	end(pid);
	open_client(f, "uml/f/mconsole");
	/* A socket file nobody listens to. */
	assert_int_equal(ask(f, "version", 1000), -ECONNREFUSED);
	(void)snprintf(path, sizeof(path), "%s/uml/f/mconsole", dir.path);
	(void)snprintf(other, sizeof(other), "%s/uml/f/other", dir.path);
	/* A link in its place is not followed, even to a living socket. */
	pid = impostor(say_short);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink("other", path), 0);
	assert_int_equal(ask(f, "version", 1000), -ENOTSOCK);
	(void)unlink(path);
	assert_int_equal(ask(f, "version", 1000), -ENOENT);
	kit_write(path, "x", 1, 0644);
	assert_int_equal(ask(f, "version", 1000), -ENOTSOCK);
	assert_int_equal(ask(f, "", 1000), -EINVAL);
	assert_int_equal(f->calls, 0);
	close_client(f);
	end(pid);
	free(f);
}

static void test_full_queue_and_cancel(void **state)
{
	struct fixture *f = malloc(sizeof(*f));
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned sent = 0;
	int rc = 0;

	(void)state;
	/* A guest that does not read: its queue fills up, and that is an error at once. */
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%.60s/uml/full", dir.path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	open_client(f, "uml/full");
	while (sent < 10000 && rc == 0) {
		rc = mconsole_request(f->mc, "version", 60000, on_done, f, NULL);
		sent += rc == 0;
	}
	assert_int_equal(rc, -EAGAIN);
	mconsole_close(f->mc);
	f->mc = NULL;
	assert_int_equal(f->calls, sent);
	assert_int_equal(f->code, -ECANCELED);
	close_client(f);
	(void)close(fd);
	free(f);
}

static void test_stale_replies_are_swept(void **state)
{
	struct fixture *f = malloc(sizeof(*f));
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%.60s/mc/r0", dir.path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	(void)close(fd);
	open_client(f, "uml/f/mconsole");
	close_client(f);
	free(f);
}

/* ---- notifications ---- */

static void test_notify(void **state)
{
	struct {
		uint32_t magic, version, type, len;
		char data[512];
	} m = {0xcafebabe, 2, 1, 6, "panic"};
	struct mconsole_notify n;

	(void)state;
	assert_int_equal(mconsole_notify_parse(&m, 16 + 6, &n, NULL), 0);
	assert_int_equal(n.type, MCONSOLE_NOTIFY_PANIC);
	assert_string_equal(n.text, "panic");
	assert_int_equal(mconsole_notify_parse(&m, 16 + 5, &n, NULL), -EBADMSG);
	assert_int_equal(mconsole_notify_parse(&m, 15, &n, NULL), -EBADMSG);
	m.len = 512;
	memset(m.data, 'z', 512);
	assert_int_equal(mconsole_notify_parse(&m, sizeof(m), &n, NULL), 0);
	assert_int_equal(strlen(n.text), 512);
	m.len = 513;
	assert_int_equal(mconsole_notify_parse(&m, sizeof(m), &n, NULL), -EBADMSG);
	m.len = 1;
	m.type = 4;
	assert_int_equal(mconsole_notify_parse(&m, sizeof(m), &n, NULL), -EBADMSG);
	m.type = 0;
	m.magic = 1;
	assert_int_equal(mconsole_notify_parse(&m, sizeof(m), &n, NULL), -EBADMSG);
}

/* ---- a real kernel ---- */

static const char script[] = "#!/bin/sh\n"
			     "/bin/busybox mount -t proc proc /proc\n"
			     "echo user-space-is-up\n"
			     "while :; do /bin/busybox sleep 1000; done\n";

/* Starts the kernel with our own command line; JAILED: in a chroot that is the
 * test's folder and in a network namespace of its own. */
static pid_t boot(bool jailed, const char *log)
{
	const char *prefix = jailed ? "" : dir.path;
	char kernel[200], disk[200], udir[200], notify[200];
	struct cmdline line;
	struct err err = ERR_INIT;
	pid_t pid;

	(void)snprintf(kernel, sizeof(kernel), "%s", jailed ? "/kernel" : KIT_KERNEL);
	(void)snprintf(disk, sizeof(disk), "%s/disk", prefix);
	(void)snprintf(udir, sizeof(udir), "%s/uml", prefix);
	(void)snprintf(notify, sizeof(notify), "%s/mc/notify", prefix);
	const struct cmdline_spec spec = {.kernel = kernel,
		.memory = 48u << 20,
		.cow = disk,
		.console_fd = 1,
		.agent_fd = -1,
		.uml_dir = udir,
		.umid = "g",
		.notify = notify,
		.extra = "init=/init"};

	/* init= is refused to users; the test needs it. */
	assert_int_equal(cmdline_build(&spec, &line, &err), -EINVAL);
	struct cmdline_spec plain = spec;

	plain.extra = NULL;
	assert_int_equal(cmdline_build(&plain, &line, &err), 0);
	int console = kit_console(log);

	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char *argv[64] = {NULL};
		char init[] = "init=/init", root[] = "root=/dev/ubda";

		for (size_t i = 0; i < line.argc; i++)
			argv[i] = line.argv[i];
		argv[line.argc] = init;
		argv[line.argc + 1] = root;
		(void)setpgid(0, 0);
		(void)setenv("TMPDIR", jailed ? "/tmp" : "/dev/shm", 1);
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || dup2(console, 1) < 0 ||
			dup2(console, 2) < 0)
			_exit(1);
		if (jailed && (unshare(CLONE_NEWNET) < 0 || chroot(dir.path) < 0))
			_exit(2);
		if (chdir("/") < 0)
			_exit(3);
		(void)execv(argv[0], argv);
		_exit(127);
	}
	(void)close(console);
	cmdline_free(&line);
	return pid;
}

/* What a kernel in a chroot needs: libraries, /proc, /dev/shm-like space. */
static void make_jail(void)
{
	struct kernelinfo_needs needs;
	char to[400], from[300];

	assert_int_equal(kernelinfo_needs(KIT_KERNEL, &needs, NULL), 0);
	for (size_t i = 0; i < needs.count; i++) {
		(void)snprintf(from, sizeof(from), "%s", needs.files[i]);
		(void)snprintf(to, sizeof(to), "%.60s%.300s", dir.path, needs.files[i]);
		*strrchr(to, '/') = '\0';
		assert_int_equal(kit_run("mkdir", "-p", to), 0);
		assert_int_equal(kit_run("cp", "-L", from, to), 0);
	}
	assert_int_equal(kit_run("cp", KIT_KERNEL, kit_path(&dir, "kernel")), 0);
	assert_int_equal(kit_run("mkdir", "-p", kit_path(&dir, "proc"), kit_path(&dir, "tmp"),
				 kit_path(&dir, "dev")),
		0);
	assert_int_equal(kit_run("mount", "-t", "proc", "proc", kit_path(&dir, "proc")), 0);
	assert_int_equal(kit_run("mount", "-t", "tmpfs", "tmpfs", kit_path(&dir, "tmp")), 0);
	kit_write(kit_path(&dir, "dev/null"), "", 0, 0666);
}

static int listen_notify(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%.60s/mc/notify", dir.path);
	(void)unlink(addr.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void await_notify(int fd)
{
	uint64_t limit = kit_now_ms() + 30000;
	struct mconsole_notify n;
	char buf[1024];
	ssize_t got;

	while ((got = recv(fd, buf, sizeof(buf), 0)) < 0 && kit_now_ms() < limit)
		kit_pause();
	assert_int_equal(mconsole_notify_parse(buf, (size_t)(got < 0 ? 0 : got), &n, NULL), 0);
	assert_int_equal(n.type, MCONSOLE_NOTIFY_SOCKET);
	assert_non_null(strstr(n.text, "/uml/g/mconsole"));
	(void)unlink(kit_path(&dir, "mc/notify"));
	(void)close(fd);
}

/* What the official tool prints must be what we got (it cannot reach a jail). */
static void compare_with_uml_mconsole(const char *text)
{
	char sock[200];
	const char *log = kit_path(&dir, "official");

	(void)snprintf(sock, sizeof(sock), "%s/uml/g/mconsole", dir.path);
	const char *const argv[] = {"uml_mconsole", sock, "version", NULL};

	assert_int_equal(kit_wait(kit_spawn(argv, NULL, log), 10000), 0);
	char *out = kit_slurp(log, NULL);

	assert_non_null(out);
	assert_non_null(strstr(out, text));
	free(out);
}

static void converse(struct fixture *f, bool jailed)
{
	char version[300];

	assert_int_equal(ask(f, "version", 5000), 0);
	assert_int_equal(strncmp(f->text, "Linux (none) ", 13), 0);
	(void)snprintf(version, sizeof(version), "%.250s", f->text);
	if (!jailed)
		compare_with_uml_mconsole(version);
	/* Answers in several packets. */
	assert_int_equal(ask(f, "help", 5000), 0);
	assert_true(strlen(f->text) > 512 && strstr(f->text, "stack <pid>"));
	assert_int_equal(ask(f, "proc cpuinfo", 5000), 0);
	assert_non_null(strstr(f->text, "UML"));
	/* A refusal in the kernel's own words. */
	assert_int_equal(ask(f, "nonsense", 5000), -EREMOTEIO);
	assert_non_null(strstr(f->text, "Unknown command"));
	assert_int_equal(ask(f, "config ubd1", 5000), 0);
	/* Stopped, it still answers. */
	assert_int_equal(ask(f, "stop", 5000), 0);
	assert_int_equal(ask(f, "version", 5000), 0);
	assert_int_equal(ask(f, "go", 5000), 0);
	assert_int_equal(ask(f, "sysrq s", 5000), 0);
	assert_int_equal(ask(f, "halt", 5000), 0);
}

static void with_kernel(bool jailed)
{
	struct fixture *f = malloc(sizeof(*f));
	char log[200], sock[100], mc[100];
	int notify, status = -1;
	pid_t pid;

	if (access(KIT_KERNEL, X_OK) < 0) {
		free(f);
		skip();
	}
	kit_make_root(&dir, kit_path(&dir, "disk"), "8M", script);
	(void)snprintf(log, sizeof(log), "%s/log", dir.path);
	if (jailed)
		make_jail();
	(void)snprintf(sock, sizeof(sock), "%.60s/uml/g/mconsole", dir.path + 1);
	(void)snprintf(mc, sizeof(mc), "%.60s/mc", dir.path + 1);
	if (jailed)
		open_client(f, "uml/g/mconsole");
	else
		open_client_at(f, "/", sock, mc);
	notify = listen_notify();
	pid = boot(jailed, log);
	await_notify(notify);
	kit_expect(log, "user-space-is-up", 30000);
	converse(f, jailed);
	status = kit_wait(pid, 10000);
	print_message("the kernel ended with %d\n", status);
	/* Its socket is gone with it. */
	int rc = ask(f, "version", 500);

	assert_true(rc == -ENOENT || rc == -ECONNREFUSED);
	close_client(f);
	free(f);
}

static void test_real_kernel(void **state)
{
	(void)state;
	with_kernel(false);
}

static void test_real_kernel_in_a_jail(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	with_kernel(true);
}

static int undo_jail(void **state)
{
	(void)state;
	(void)kit_run("umount", "-l", kit_path(&dir, "proc"));
	(void)kit_run("umount", "-l", kit_path(&dir, "tmp"));
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_notify),
		cmocka_unit_test(test_impostors), cmocka_unit_test(test_no_kernel),
		cmocka_unit_test(test_full_queue_and_cancel),
		cmocka_unit_test(test_stale_replies_are_swept), cmocka_unit_test(test_real_kernel),
		cmocka_unit_test_teardown(test_real_kernel_in_a_jail, undo_jail)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
