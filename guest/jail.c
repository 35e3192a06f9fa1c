#include "guest/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/oom.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/jail_int.h"

#define FDS_MAX 16

/* The pipes between caller and reaper. */
struct lines {
	int go[2];     /* a byte from the caller: admitted, begin */
	int report[2]; /* a struct err from the child; closed by a successful exec */
	int status[2]; /* the program's wait status, an int, from the reaper */
	int netns;
};

static void lines_close(struct lines *l)
{
	int *all[] = {&l->go[0], &l->go[1], &l->report[0], &l->report[1], &l->status[0],
		&l->status[1], &l->netns};
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		if (*all[i] >= 0)
			(void)close(*all[i]);
		*all[i] = -1;
	}
}

static int lines_open(struct lines *l, const struct jail_spec *spec, struct err *err)
{
	memset(l, -1, sizeof(*l));
	if (pipe2(l->go, O_CLOEXEC) < 0 || pipe2(l->report, O_CLOEXEC) < 0 ||
		pipe2(l->status, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(err, errno, "jail: pipe");
	if (spec->netns && spec->netns[0]) {
		l->netns = open(spec->netns, O_RDONLY | O_CLOEXEC);
		if (l->netns < 0)
			return err_errno(err, errno, "jail: network namespace %s", spec->netns);
	}
	return 0;
}

/* ---------------------------------------------------------------- in the child */

static __attribute__((noreturn)) void report(const struct lines *l, const struct err *err)
{
	/* Smaller than PIPE_BUF, so it is there whole or not at all. */
	ssize_t n = write(l->report[1], err, sizeof(*err));

	_exit(n == (ssize_t)sizeof(*err) ? 1 : 2);
}

/* PDEATHSIG is lost when the identity changes, so it is set again after that;
 * and it says nothing about a caller that died before: its end of the report
 * pipe does. */
static int die_with_caller(const struct lines *l, struct err *err)
{
	struct pollfd p = {.fd = l->report[1], .events = 0};

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return err_errno(err, errno, "jail: PDEATHSIG");
	if (poll(&p, 1, 0) != 0)
		_exit(2);
	return 0;
}

static void default_signals(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;
	int sig;

	for (sig = 1; sig < NSIG; sig++)
		(void)sigaction(sig, &dfl, NULL); /* KILL, STOP and libc's own refuse */
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Moves every descriptor that is wanted above the range, then into place. */
static int place_fds(const struct jail_spec *spec, int keep, struct err *err)
{
	int high[FDS_MAX], null;
	size_t i;

	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return err_errno(err, errno, "jail: open /dev/null");
	for (i = 0; i < spec->fd_count; i++) {
		int from = spec->fds[i] >= 0 ? spec->fds[i] : null;

		high[i] = fcntl(from, F_DUPFD_CLOEXEC, 64);
		if (high[i] < 0)
			return err_errno(err, errno, "jail: pass descriptor %d", from);
	}
	for (i = 0; i < spec->fd_count; i++)
		if (dup2(high[i], (int)i) < 0)
			return err_errno(err, errno, "jail: pass descriptor %zu", i);
	/* `keep` lies above, see reserve(). */
	if (syscall(SYS_close_range, (unsigned)spec->fd_count, (unsigned)keep - 1, 0) < 0 ||
		syscall(SYS_close_range, (unsigned)keep + 1, ~0u, 0) < 0)
		return err_errno(err, errno, "jail: close descriptors");
	return 0;
}

/* A copy of FD that place_fds() does not run over. */
static int reserve(int fd, struct err *err)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, 48);

	return high < 0 ? err_errno(err, errno, "jail: descriptor") : high;
}

static __attribute__((noreturn)) void run_program(const struct jail_spec *spec, struct lines *l)
{
	struct err err = ERR_INIT;
	int fd = reserve(l->report[1], &err);

	if (fd >= 0)
		l->report[1] = fd;
	if (fd >= 0 && place_fds(spec, fd, &err) >= 0) {
		default_signals();
		(void)umask(077);
		/* UML restarts itself without randomisation anyway; without it from the
		 * start, the gap that it must map as guest memory is small, always the same,
		 * and costs no page structures: up to 20 MB more for a guest of 64 MB. */
		(void)personality(ADDR_NO_RANDOMIZE);
		(void)execve(spec->argv[0], (char *const *)(uintptr_t)spec->argv,
			(char *const *)(uintptr_t)spec->envp);
		(void)err_errno(&err, errno, "jail: execute %s", spec->argv[0]);
	}
	report(l, &err);
}

static __attribute__((noreturn)) void reap(const struct lines *l, pid_t program)
{
	int status, out = l->status[1];
	pid_t pid;
	ssize_t n;

	(void)prctl(PR_SET_NAME, "umlaut-reaper", 0, 0, 0);
	if (out > 0)
		(void)syscall(SYS_close_range, 0u, (unsigned)out - 1, 0);
	(void)syscall(SYS_close_range, (unsigned)out + 1, ~0u, 0);
	for (;;) {
		pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0 || pid == program)
			break;
	}
	if (pid == program) {
		n = write(out, &status, sizeof(status));
		(void)n; /* nobody there to read it: nobody to tell */
	}
	_exit(0); /* and with PID 1 all that is left goes */
}

/* A host whose memory is out ends guests, not the agent that reports it, nor whatever else the
 * host is there for.  Where /proc cannot be written that is no reason not to start. */
static void first_out_of_memory(void)
{
	int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	char text[16] = "";
	long adj;

	if (fd < 0)
		return;
	if (pread(fd, text, sizeof(text) - 1, 0) > 0) {
		adj = strtol(text, NULL, 10) + JAIL_OOM_MORE;
		(void)dprintf(fd, "%ld", adj < OOM_SCORE_ADJ_MAX ? adj : OOM_SCORE_ADJ_MAX);
	}
	(void)close(fd);
}

static int enter(const struct jail_spec *spec, const struct lines *l, struct err *err)
{
	const char *host = spec->hostname ? spec->hostname : "guest";
	int rc = die_with_caller(l, err);

	if (rc < 0)
		return rc;
	if (setsid() < 0)
		return err_errno(err, errno, "jail: setsid");
	first_out_of_memory();
	if (l->netns >= 0 && setns(l->netns, CLONE_NEWNET) < 0)
		return err_errno(err, errno, "jail: enter network namespace %s", spec->netns);
	if (spec->none) {
		rc = jail_root_proc(err);
		return rc < 0 ? rc : jail_limits(spec, err);
	}
	if (l->netns < 0 && unshare(CLONE_NEWNET) < 0)
		return err_errno(err, errno, "jail: new network namespace");
	if (sethostname(host, strlen(host)) < 0)
		return err_errno(err, errno, "jail: host name %s", host);
	rc = jail_root_enter(spec, err);
	if (rc >= 0)
		rc = jail_limits(spec, err);
	if (rc >= 0)
		rc = jail_drop(spec, err);
	/* The reaper holds a copy of the caller's memory: not for its own uid's eyes. */
	if (rc >= 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		rc = err_errno(err, errno, "jail: dumpable");
	return rc < 0 ? rc : die_with_caller(l, err);
}

static __attribute__((noreturn)) void child_main(
	const struct jail_spec *spec, struct lines *l, bool born)
{
	struct err err = ERR_INIT;
	char byte;
	pid_t program;

	(void)close(l->go[1]);
	l->go[1] = -1;
	(void)close(l->report[0]);
	l->report[0] = -1;
	if (read(l->go[0], &byte, 1) != 1)
		_exit(2);
	(void)umask(022); /* the jail's folders are for its user to search */
	if (spec->join && spec->join(spec->join_arg, born, &err) < 0)
		report(l, &err);
	if (enter(spec, l, &err) < 0)
		report(l, &err);
	program = fork();
	if (program == 0)
		run_program(spec, l);
	if (program < 0) {
		(void)err_errno(&err, errno, "jail: fork");
		report(l, &err);
	}
	reap(l, program);
}

/* ---------------------------------------------------------------- in the caller */

static int check(const struct jail_spec *spec, struct err *err)
{
	if (!spec->none && (spec->uid == 0 || spec->gid == 0))
		return err_set(err, -EINVAL, "jail: user and group 0 are not for guests");
	if (spec->fd_count > FDS_MAX)
		return err_set(err, -EINVAL, "jail: more than %d descriptors", FDS_MAX);
	return 0;
}

static int spawn(const struct jail_spec *spec, struct lines *l, struct jail *jail, struct err *err)
{
	struct clone_args args = {.flags = CLONE_PIDFD, .exit_signal = SIGCHLD};
	bool born = spec->cgroup_fd > 0;
	long pid;

	args.pidfd = (uint64_t)(uintptr_t)&jail->pidfd;
	args.flags |= CLONE_NEWPID | CLONE_NEWNS;
	if (!spec->none)
		args.flags |= CLONE_NEWIPC | CLONE_NEWUTS;
	if (born) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (unsigned)spec->cgroup_fd;
	}
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0 && born) { /* a kernel before 5.7, or not allowed there */
		born = false;
		args.flags &= ~(uint64_t)CLONE_INTO_CGROUP;
		args.cgroup = 0;
		pid = syscall(SYS_clone3, &args, sizeof(args));
	}
	if (pid < 0)
		return err_errno(err, errno, "jail: clone");
	if (pid == 0)
		child_main(spec, l, born);
	jail->pid = (pid_t)pid;
	return 0;
}

/* 0 when the program was executed, else what the child says. */
static int await_report(int fd, struct err *err)
{
	struct err said;
	ssize_t n;

	do
		n = read(fd, &said, sizeof(said));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	if (n != (ssize_t)sizeof(said))
		return err_set(err, -EIO, "jail: broken report");
	said.msg[sizeof(said.msg) - 1] = '\0';
	return err_set(err, said.code, "%s", said.msg);
}

int jail_start(const struct jail_spec *spec, struct jail *out, struct err *err)
{
	struct jail jail = JAIL_INIT;
	struct lines l;
	int rc = check(spec, err);

	if (rc < 0)
		return rc;
	rc = lines_open(&l, spec, err);
	if (rc >= 0)
		rc = spawn(spec, &l, &jail, err);
	if (rc < 0)
		goto out;
	(void)close(l.report[1]);
	l.report[1] = -1;
	(void)close(l.status[1]);
	l.status[1] = -1;
	jail.status_fd = l.status[0];
	l.status[0] = -1;
	if (spec->admit)
		rc = spec->admit(spec->admit_arg, jail.pid, err);
	if (rc >= 0 && write(l.go[1], "g", 1) != 1)
		rc = err_errno(err, errno, "jail: begin");
	if (rc >= 0)
		rc = await_report(l.report[0], err);
	if (rc >= 0) {
		*out = jail;
		jail = JAIL_INIT;
	}
out:
	lines_close(&l);
	if (jail.pid) {
		jail_kill(&jail);
		(void)jail_reap(&jail);
	}
	return rc < 0 ? rc : 0;
}

void jail_kill(const struct jail *jail)
{
	if (jail->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, jail->pidfd, SIGKILL, NULL, 0);
}

int jail_reap(struct jail *jail)
{
	int status, result = 256 + SIGKILL;
	siginfo_t info;
	int rc;

	do
		rc = waitid(P_PIDFD, (id_t)jail->pidfd, &info, WEXITED);
	while (rc < 0 && errno == EINTR);
	if (read(jail->status_fd, &status, sizeof(status)) == (ssize_t)sizeof(status))
		result = WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
	(void)close(jail->status_fd);
	(void)close(jail->pidfd);
	*jail = JAIL_INIT;
	return result;
}
