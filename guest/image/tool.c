#include "guest/image/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/str.h"

#define ENV_MAX 16
#define TAIL_SIZE 400

static const char search_path[] =
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static const char *package_of(const char *name)
{
	static const char *const packages[][2] = {{"mke2fs", "e2fsprogs"}, {"debugfs", "e2fsprogs"},
		{"depmod", "kmod"}, {"tar", "tar"}, {"busybox", "busybox-static"}};
	size_t i;

	for (i = 0; i < sizeof(packages) / sizeof(packages[0]); i++)
		if (strcmp(packages[i][0], name) == 0)
			return packages[i][1];
	return name;
}

int tool_find(const char *name, char *path, size_t size, struct err *err)
{
	const char *dirs = search_path + strlen("PATH=");

	if (strchr(name, '/')) {
		if (access(name, X_OK))
			return err_errno(err, errno, "%s", name);
		return str_copy(path, size, name);
	}
	while (*dirs) {
		size_t len = strcspn(dirs, ":");

		if (str_format(path, size, "%.*s/%s", (int)len, dirs, name) > 0 &&
			access(path, X_OK) == 0)
			return 0;
		dirs += len;
		dirs += *dirs == ':';
	}
	return err_set(
		err, -ENOENT, "%s is not installed (Debian package %s)", name, package_of(name));
}

struct child {
	const char *path;
	char *const *argv;
	char *const *envp;
	int in, err;
	bool userns;
	char uid_map[48], gid_map[48];
};

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

static void complain(int fd, const char *what)
{
	(void)!write(fd, what, strlen(what));
}

/* After fork(): async-signal-safe calls only, the caller may have threads. */
static void __attribute__((noreturn)) child_run(const struct child *c)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (c->userns && (unshare(CLONE_NEWUSER) || write_file("/proc/self/setgroups", "deny") ||
				 write_file("/proc/self/uid_map", c->uid_map) ||
				 write_file("/proc/self/gid_map", c->gid_map))) {
		complain(c->err, "this machine lets ordinary users make no user namespace: run it "
				 "as root\n");
		_exit(126);
	}
	if (null < 0 || dup2(c->in >= 0 ? c->in : null, 0) < 0 || dup2(null, 1) < 0 ||
		dup2(c->err, 2) < 0)
		_exit(126);
	(void)execve(c->path, c->argv, c->envp);
	complain(2, "cannot be executed\n");
	_exit(127);
}

/* Feeds TEXT and keeps the end of what comes back, until the child closes it. */
static void converse(int in, const char *text, int out, char tail[TAIL_SIZE])
{
	size_t left = text ? strlen(text) : 0, have = 0;

	for (;;) {
		struct pollfd fds[2] = {
			{.fd = out, .events = POLLIN}, {.fd = in, .events = POLLOUT}};
		char data[1024];
		ssize_t n;

		if (in >= 0 && left == 0) {
			close(in);
			fds[1].fd = in = -1;
		}
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents) {
			n = send(in, text, left, MSG_NOSIGNAL);
			if (n < 0 && errno != EAGAIN && errno != EINTR)
				left = 0;
			else if (n > 0) {
				text += n;
				left -= (size_t)n;
			}
		}
		if (!fds[0].revents)
			continue;
		n = read(out, data, sizeof(data));
		if (n <= 0)
			break;
		if ((size_t)n > TAIL_SIZE / 2) {
			memcpy(tail, data + n - TAIL_SIZE / 2, TAIL_SIZE / 2);
			have = TAIL_SIZE / 2;
		} else {
			if (have + (size_t)n >= TAIL_SIZE) {
				memmove(tail, tail + have - TAIL_SIZE / 4, TAIL_SIZE / 4);
				have = TAIL_SIZE / 4;
			}
			memcpy(tail + have, data, (size_t)n);
			have += (size_t)n;
		}
	}
	if (in >= 0)
		close(in);
	tail[have] = '\0';
}

static const char *last_line(char *tail)
{
	size_t len = strlen(tail);
	char *line;

	while (len > 0 && (tail[len - 1] == '\n' || tail[len - 1] == ' '))
		tail[--len] = '\0';
	line = strrchr(tail, '\n');
	return line ? line + 1 : tail;
}

static int wait_child(pid_t pid, const char *name, char *tail, struct err *err)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(err, errno, "%s: wait", name);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFSIGNALED(status))
		return err_set(err, -EIO, "%s was ended by signal %d", name, WTERMSIG(status));
	return err_set(err, -EIO, "%s failed (status %d): %s", name, WEXITSTATUS(status),
		*tail ? last_line(tail) : "no message");
}

/* execve() takes no const. */
static char *const *unconst(const char *const *list)
{
	union {
		const char *const *c;
		char *const *p;
	} u = {.c = list};

	return u.p;
}

static void close_pair(int fds[2])
{
	if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
}

int tool_run(const struct tool *tool, struct err *err)
{
	const char *env[ENV_MAX + 3] = {search_path, "LC_ALL=C"};
	char path[PATH_MAX], tail[TAIL_SIZE + 1] = "";
	struct child c = {
		.path = path, .argv = unconst(tool->argv), .envp = unconst(env), .in = -1};
	int in[2] = {-1, -1}, out[2] = {-1, -1};
	size_t i;
	pid_t pid;
	int rc;

	rc = tool_find(tool->argv[0], path, sizeof(path), err);
	if (rc)
		return rc;
	for (i = 0; tool->env && tool->env[i] && i < ENV_MAX; i++)
		env[i + 2] = tool->env[i];
	c.userns = tool->as_root && geteuid() != 0;
	(void)str_format(c.uid_map, sizeof(c.uid_map), "0 %u 1", (unsigned)geteuid());
	(void)str_format(c.gid_map, sizeof(c.gid_map), "0 %u 1", (unsigned)getegid());
	/* A socket, because a write to a program that ended must not be a signal. */
	if (pipe2(out, O_CLOEXEC) ||
		(tool->input && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in))) {
		rc = err_errno(err, errno, "%s: pipe", tool->argv[0]);
		goto fail;
	}
	c.in = in[0];
	c.err = out[1];
	pid = fork();
	if (pid == 0)
		child_run(&c);
	if (pid < 0) {
		rc = err_errno(err, errno, "%s: fork", tool->argv[0]);
		goto fail;
	}
	close(out[1]);
	if (in[0] >= 0)
		close(in[0]);
	if (in[1] >= 0)
		(void)fcntl(in[1], F_SETFL, O_NONBLOCK);
	converse(in[1], tool->input, out[0], tail);
	close(out[0]);
	return wait_child(pid, tool->argv[0], tail, err);
fail:
	close_pair(in);
	close_pair(out);
	return rc;
}
