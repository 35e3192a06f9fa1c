#include "guest/kernelinfo.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/buf.h"
#include "lib/proc.h"
#include "lib/str.h"

#define OUTPUT_MAX (2u << 20) /* --showconfig of a distribution's kernel: 80 KB */

/* ---- running the binary ---- */

static void set_limit(int what, rlim_t value)
{
	const struct rlimit limit = {.rlim_cur = value, .rlim_max = value};

	(void)setrlimit((__rlimit_resource_t)what, &limit);
}

/* ... as nobody, where the caller is root and names no user. */
#define NOBODY 65534u
#define KILLED_BY 200 /* exit status of one that a signal ended, and its number */

/* In the child, between clone and exec: only async-signal-safe calls, and the raw
 * system calls for the ids (glibc's would want the other threads). */
static void __attribute__((noreturn))
become(int file, const char *path, const char *option, uid_t uid, int out)
{
	char *const argv[] = {(char *)(uintptr_t)path, (char *)(uintptr_t)option, NULL};
	char *const envp[] = {NULL};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(null, 2) < 0)
		_exit(126);
	set_limit(RLIMIT_CORE, 0);
	set_limit(RLIMIT_FSIZE, 0);
	set_limit(RLIMIT_CPU, 10);
	if (geteuid() == 0 &&
		(syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, uid, uid, uid) < 0 ||
			syscall(SYS_setresuid, uid, uid, uid) < 0))
		_exit(126);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(126);
	/* By its descriptor: the folders above it need not be anybody's. A script's
	 * interpreter opens it again, so it stays open. */
	(void)fcntl(file, F_SETFD, 0);
	(void)syscall(SYS_execveat, file, "", argv, envp, AT_EMPTY_PATH);
	_exit(127);
}

/* The first process of the namespaces: when it ends, all in them do. A kernel must not be
 * the first itself. */
static void __attribute__((noreturn))
first(int file, const char *path, const char *option, uid_t uid, int out)
{
	int status = 0;
	long pid;

	(void)setpgid(0, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		become(file, path, option, uid, out);
	if (pid < 0)
		_exit(126);
	(void)close(out);
	while (waitpid((pid_t)pid, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : KILLED_BY + WTERMSIG(status));
}

/* Its own processes, network, mounts and so on, where that is allowed. */
static pid_t start(int file, const char *path, const char *option, uid_t uid, int out)
{
	const unsigned long apart =
		CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
	const unsigned long tries[] = {apart | (geteuid() ? CLONE_NEWUSER : 0u), 0};
	long pid = -1;

	for (size_t i = 0; pid < 0 && i < 2; i++) {
		pid = syscall(SYS_clone, tries[i] | SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid == 0)
			first(file, path, option, uid, out);
	}
	return (pid_t)pid;
}

/* Collects the output until its end; -ETIMEDOUT, -EMSGSIZE. */
static int collect(int fd, uint64_t deadline, struct buf *out)
{
	for (;;) {
		uint64_t now = proc_mono_ms();
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (now >= deadline)
			return -ETIMEDOUT;
		int rc = poll(&p, 1, (int)(deadline - now));

		if (rc < 0 && errno != EINTR)
			return -errno;
		if (rc <= 0)
			continue;
		if (!buf_reserve(out, 65536))
			return -EMSGSIZE;
		ssize_t n = read(fd, out->data + out->size, out->capacity - out->size);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		out->size += n > 0 ? (size_t)n : 0;
		if (out->size > OUTPUT_MAX)
			return -EMSGSIZE;
	}
}

/* Waits for the end of PID, which has closed its output (or is killed). */
static int reap(pid_t pid, uint64_t deadline, bool kill_it)
{
	siginfo_t info;
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	int status = 0;

	if (fd >= 0 && !kill_it) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint64_t now = proc_mono_ms();

		kill_it = poll(&p, 1, now < deadline ? (int)(deadline - now) : 0) != 1;
	}
	if (fd >= 0)
		(void)close(fd);
	/* Its group is of its making and it is not reaped yet: no stranger is hit. */
	if (kill_it)
		(void)kill(-pid, SIGKILL);
	/* Children of the child that keep running would be in its group. */
	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0)
		(void)kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (kill_it)
		return -ETIMEDOUT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static int run(const char *path, const char *option, uid_t uid, uint64_t deadline, struct buf *out,
	struct err *err)
{
	int fds[2], rc, status, file = open(path, O_RDONLY | O_CLOEXEC);
	pid_t pid;

	if (file < 0)
		return err_errno(err, errno, "read it");
	if (pipe2(fds, O_CLOEXEC) < 0) {
		rc = err_errno(err, errno, "make a pipe");
		(void)close(file);
		return rc;
	}
	pid = start(file, path, option, uid == (uid_t)-1 ? NOBODY : uid, fds[1]);
	rc = errno;
	(void)close(fds[1]);
	(void)close(file);
	if (pid < 0) {
		(void)close(fds[0]);
		return err_errno(err, rc, "start %s", path);
	}
	(void)setpgid(pid, pid);
	rc = collect(fds[0], deadline, out);
	(void)close(fds[0]);
	status = reap(pid, deadline, rc < 0);
	if (rc == 0 && status < 0)
		rc = status;
	if (rc == -ETIMEDOUT)
		return err_set(err, rc, "%s %s does not end; is it a User-Mode Linux kernel?", path,
			option);
	if (rc < 0)
		return err_errno(err, rc, "%s %s", path, option);
	if (status == 126 || status == 127)
		return err_set(err, -ENOEXEC, "%s cannot be executed on this machine", path);
	if (status > KILLED_BY)
		return err_set(err, -ENOEXEC, "%s %s was killed by signal %d", path, option,
			status > 256 ? status - 256 : status - KILLED_BY);
	return 0;
}

int kernelinfo_read(
	const char *path, uid_t uid, uint32_t timeout_ms, struct kernelinfo *out, struct err *err)
{
	static const char *const options[3] = {"--version", "--showconfig", "--help"};
	uint64_t deadline = proc_mono_ms() + timeout_ms;
	struct buf text[3];
	int rc = 0;

	for (size_t i = 0; i < 3; i++)
		buf_init(&text[i]);
	if (access(path, X_OK) < 0)
		rc = err_errno(err, errno, "kernel %s", path);
	for (size_t i = 0; rc == 0 && i < 3; i++)
		rc = run(path, options[i], uid, deadline, &text[i], err);
	if (rc == 0)
		rc = kernelinfo_parse(
			buf_text(&text[0]), buf_text(&text[1]), buf_text(&text[2]), out, err);
	if (rc < 0)
		(void)err_wrap(err, "kernel %s", path);
	for (size_t i = 0; i < 3; i++)
		buf_free(&text[i]);
	return rc;
}

int kernelinfo_config(
	const char *path, uid_t uid, uint32_t timeout_ms, struct buf *out, struct err *err)
{
	struct buf text;
	int rc;

	buf_init(&text);
	rc = run(path, "--showconfig", uid, proc_mono_ms() + timeout_ms, &text, err);
	if (rc == 0)
		rc = kernelinfo_options(buf_text(&text), out, err);
	buf_free(&text);
	return rc < 0 ? err_wrap(err, "kernel %s", path) : 0;
}

/* ---- what it says ---- */

/* The line "NAME=y" (or its value VALUE) in a configuration. */
static bool has_line(const char *config, const char *line)
{
	size_t len = strlen(line);

	for (const char *p = strstr(config, line); p; p = strstr(p + 1, line)) {
		if ((p == config || p[-1] == '\n') && (p[len] == '\n' || p[len] == '\0'))
			return true;
	}
	return false;
}

static int parse_release(const char *version, struct kernelinfo *out, struct err *err)
{
	size_t len = strcspn(version, "\r\n");

	if (len == 0 || len >= sizeof(out->release) || !isdigit((unsigned char)version[0]))
		return err_set(err, -EPROTO, "--version does not print a kernel release");
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)version[i]) && !strchr(".-+_~", version[i]))
			return err_set(err, -EPROTO, "--version does not print a kernel release");
	}
	memcpy(out->release, version, len);
	out->release[len] = '\0';
	return 0;
}

int kernelinfo_parse(const char *version, const char *config, const char *help,
	struct kernelinfo *out, struct err *err)
{
	struct kernelinfo info = {0};
	int rc = parse_release(version, &info, err);

	if (rc < 0)
		return rc;
	if (!has_line(config, "CONFIG_UML=y"))
		return err_set(err, -EPROTO,
			"--showconfig does not print a User-Mode Linux configuration");
	info.vector = has_line(config, "CONFIG_UML_NET_VECTOR=y");
	info.blk_dev_ubd = has_line(config, "CONFIG_BLK_DEV_UBD=y");
	info.mconsole = has_line(config, "CONFIG_MCONSOLE=y");
	info.initrd = has_line(config, "CONFIG_BLK_DEV_INITRD=y");
	info.ext4 = has_line(config, "CONFIG_EXT4_FS=y");
	info.modules = has_line(config, "CONFIG_MODULES=y");
	info.ipv6 = has_line(config, "CONFIG_IPV6=y");
	info.time_travel = has_line(config, "CONFIG_UML_TIME_TRAVEL_SUPPORT=y");
	info.smp = has_line(config, "CONFIG_SMP=y");
	info.static_link = has_line(config, "CONFIG_STATIC_LINK=y");
	info.seccomp_mode = strstr(help, "seccomp=<") != NULL;
	kernelinfo_features(config, info.seccomp_mode, info.features);
	*out = info;
	return 0;
}

int kernelinfo_usable(const struct kernelinfo *info, struct err *err)
{
	const struct {
		bool have;
		const char *name;
	} needed[] = {{info->vector, "CONFIG_UML_NET_VECTOR"},
		{info->blk_dev_ubd, "CONFIG_BLK_DEV_UBD"}, {info->mconsole, "CONFIG_MCONSOLE"},
		{info->initrd, "CONFIG_BLK_DEV_INITRD"}, {info->ext4, "CONFIG_EXT4_FS"}};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (!needed[i].have)
			return err_set(err, -EOPNOTSUPP, "kernel %s lacks %s=y, which guests need",
				info->release, needed[i].name);
	}
	return 0;
}

/* ---- in the pool ---- */

struct job {
	char *path;
	uid_t uid;
	int rc;
	struct kernelinfo info;
	struct err err;
	kernelinfo_fn *fn;
	void *arg;
};

static void job_work(void *arg)
{
	struct job *job = arg;

	job->rc =
		kernelinfo_read(job->path, job->uid, KERNELINFO_TIMEOUT_MS, &job->info, &job->err);
}

static void job_done(void *arg, bool cancelled)
{
	struct job *job = arg;

	if (cancelled)
		job->rc = err_set(&job->err, -ECANCELED, "kernel %s: cancelled", job->path);
	job->fn(job->arg, job->rc < 0 ? &job->err : NULL, job->rc < 0 ? NULL : &job->info);
	free(job->path);
	free(job);
}

int kernelinfo_start(struct loop *loop, const char *path, uid_t uid, kernelinfo_fn *fn, void *arg,
	struct err *err)
{
	struct job *job = calloc(1, sizeof(*job));
	int rc;

	if (!job)
		return err_set(err, -ENOMEM, "out of memory");
	*job = (struct job){.path = str_dup(path), .uid = uid, .fn = fn, .arg = arg};
	if (!job->path)
		rc = err_set(err, -ENOMEM, "out of memory");
	else
		rc = loop_work_run(loop, "kernelinfo", job_work, job_done, job, err);
	if (rc < 0) {
		free(job->path);
		free(job);
	}
	return rc; /* NOLINT(clang-analyzer-unix.Malloc): the loop holds the job */
}
