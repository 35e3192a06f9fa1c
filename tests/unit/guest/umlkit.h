/* umlkit: what the tests of this room share: temporary folders, running tools,
 * and a real User-Mode Linux guest with a busybox root.  Header only. */
#ifndef UMLAUT_TESTS_UMLKIT_H
#define UMLAUT_TESTS_UMLKIT_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/err.h"

#define KIT_KERNEL "/usr/bin/linux.uml"
#define KIT_ARGS 32

static inline uint64_t kit_now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline void kit_pause(void)
{
	(void)poll(NULL, 0, 5);
}

/* Starts ARGV with output to LOG (NULL: /dev/null), in a process group of its own. */
static inline pid_t kit_spawn(const char *const *argv, const char *cwd, const char *log)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid > 0) {
		(void)setpgid(pid, pid);
		return pid;
	}
	(void)setpgid(0, 0);
	int in = open("/dev/null", O_RDONLY);
	int out = log ? open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644) : open("/dev/null", O_WRONLY);

	if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	if (cwd && chdir(cwd) < 0)
		_exit(125);
	char *copy[KIT_ARGS + 1];
	size_t n = 0;

	for (; argv[n] && n < KIT_ARGS; n++)
		copy[n] = strdup(argv[n]);
	copy[n] = NULL;
	execvp(copy[0], copy);
	_exit(127);
}

/* Waits until PID ends; kills its group after MS.  Exit status, 256 + signal. */
static inline int kit_wait(pid_t pid, uint64_t ms)
{
	uint64_t end = kit_now_ms() + ms;
	int status = 0;

	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got == pid)
			break;
		if (kit_now_ms() > end) {
			(void)kill(-pid, SIGKILL);
			(void)waitpid(pid, &status, 0);
			break;
		}
		kit_pause();
	}
	(void)kill(-pid, SIGKILL);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

#define kit_run(...) \
	kit_wait(kit_spawn((const char *const[]){__VA_ARGS__, NULL}, NULL, NULL), 60000)

/* TEXT of a file, bounded; caller frees.  NULL when it is not there. */
static inline char *kit_slurp(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *data;
	size_t n = 0, cap = 64u << 20;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	cap = (size_t)st.st_size + 65536;
	data = malloc(cap + 1);
	assert_non_null(data);
	for (;;) {
		ssize_t got = read(fd, data + n, cap - n);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	data[n] = '\0';
	(void)close(fd);
	if (size)
		*size = n;
	return data;
}

static inline void kit_write(const char *path, const void *data, size_t size, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), (ssize_t)size);
	assert_int_equal(fchmod(fd, mode), 0);
	(void)close(fd);
}

struct kit_dir {
	char path[64];
};

static inline void kit_dir_make(struct kit_dir *d)
{
	memset(d, 0, sizeof(*d));
	(void)snprintf(d->path, sizeof(d->path), "/tmp/umlaut-test-XXXXXX");
	assert_non_null(mkdtemp(d->path));
	assert_int_equal(chmod(d->path, 0755), 0);
}

/* Kills what still runs with the folder's (unique) path in its arguments: parts of
 * a kernel outlive the process that a failed test kills. */
static inline void kit_sweep(const struct kit_dir *d)
{
	DIR *proc = opendir("/proc");
	const struct dirent *e;

	while (proc && (e = readdir(proc))) {
		long pid = strtol(e->d_name, NULL, 10);
		char path[300], args[4096];
		ssize_t n;

		if (pid <= 1 || pid == getpid())
			continue;
		(void)snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		n = fd < 0 ? -1 : read(fd, args, sizeof(args));
		if (n > 0 && memmem(args, (size_t)n, d->path, strlen(d->path)))
			(void)kill((pid_t)pid, SIGKILL);
		if (fd >= 0)
			(void)close(fd);
	}
	if (proc)
		(void)closedir(proc);
}

static inline void kit_dir_remove(struct kit_dir *d)
{
	kit_sweep(d);
	assert_int_equal(kit_run("rm", "-rf", "--one-file-system", d->path), 0);
}

/* "DIR/NAME"; the last 16 results stay valid. */
static inline const char *kit_path(const struct kit_dir *d, const char *name)
{
	static char text[16][256];
	static unsigned next;
	char *p = text[next++ % 16];

	(void)snprintf(p, 256, "%.60s/%.180s", d->path, name);
	return p;
}

/* An ext4 image of MB megabytes with busybox and SCRIPT as /init. */
static inline void kit_make_root(
	struct kit_dir *d, const char *image, const char *mb, const char *script)
{
	static const char *const dirs[] = {
		"root", "root/bin", "root/dev", "root/proc", "root/sys", "root/tmp"};

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		(void)mkdir(kit_path(d, dirs[i]), 0755);
	assert_int_equal(kit_run("cp", "/bin/busybox", kit_path(d, "root/bin/busybox")), 0);
	assert_int_equal(kit_run("ln", "-sf", "busybox", kit_path(d, "root/bin/sh")), 0);
	kit_write(kit_path(d, "root/init"), script, strlen(script), 0755);
	assert_int_equal(kit_run("truncate", "-s", mb, image), 0);
	assert_int_equal(
		kit_run("mke2fs", "-q", "-F", "-t", "ext4", "-E",
			"lazy_itable_init=0,lazy_journal_init=0", "-d", kit_path(d, "root"), image),
		0);
}

/* A socket whose other end goes to LOG: what the runner gives a kernel as a
 * console (a plain file will not do, it cannot be watched). */
static inline int kit_console(const char *log)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		int out = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || dup2(pair[0], 0) < 0 ||
			dup2(out, 1) < 0)
			_exit(1);
		(void)execlp("cat", "cat", (char *)NULL);
		_exit(127);
	}
	(void)close(pair[0]);
	return pair[1];
}

/* Waits until FILE holds TEXT. */
static inline void kit_expect(const char *file, const char *text, uint64_t ms)
{
	uint64_t end = kit_now_ms() + ms;

	for (;;) {
		char *have = kit_slurp(file, NULL);
		bool found = have && strstr(have, text);

		if (!found && kit_now_ms() > end) {
			size_t len = have ? strlen(have) : 0;

			/* cmocka cuts long messages. */
			print_error("'%s' did not come in %s, which ends:\n", text, file);
			print_error("%s\n", have ? have + (len > 900 ? len - 900 : 0) : "");
			free(have);
			fail();
		}
		free(have);
		if (found)
			return;
		kit_pause();
	}
}

#endif
