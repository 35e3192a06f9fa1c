/* umlaut-init: the first process of every guest, and Umlaut's agent inside it.
 *
 * It comes in an initrd in front of an unmodified root image.  boot.h has the order
 * of the start.  Then the agent serves its line: streams (stream.h), the start-up
 * script and ready probe (run.h), the hosts file, statistics, and the shutdown
 * (stop.h), beside the image's init or as process 1 itself.  One thread, one poll();
 * an idle guest's agent sleeps without a timer.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <linux/magic.h>
#include <unistd.h>

#include "guest/init/boot.h"
#include "guest/init/console.h"
#include "guest/init/run.h"
#include "guest/init/stop.h"
#include "guest/init/stream.h"
#include "guest/init/sys.h"

#define SYNCS_MAX 8

struct agent {
	struct boot boot;
	struct streams streams;
	struct run run;
	struct stop stop;
	struct console console;
	/* Flushes under way, each a child. */
	struct {
		pid_t pid;
		uint64_t id;
	} syncs[SYNCS_MAX];
	int signal_fd;
};

enum { FD_LINE, FD_SIGNAL, FD_CONSOLE, FD_RUN, FD_STREAMS = FD_RUN + RUN_FDS };
#define FDS_MAX (FD_STREAMS + STREAMS_MAX * STREAM_FDS)

/* ---------------------------------------------------------------- requests */

static uint64_t meminfo(const char *text, const char *key)
{
	const char *p = strstr(text, key);

	return p ? strtoull(p + strlen(key), NULL, 10) * 1024 : 0;
}

static void send_stats(struct agent *a, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__GuestStats stats = UM__GUEST_STATS__INIT;
	struct sysinfo info;
	char text[2048];

	if (sys_read("/proc/meminfo", text, sizeof(text)) < 0)
		text[0] = '\0';
	stats.mem_total = meminfo(text, "MemTotal:");
	stats.mem_free = meminfo(text, "MemAvailable:");
	stats.uptime_ms = sys_uptime_ms();
	if (sysinfo(&info) == 0) {
		stats.procs = info.procs;
		stats.load_milli = (uint32_t)(info.loads[0] * 1000 >> SI_LOAD_SHIFT);
	}
	env.body_case = UM__ENVELOPE__BODY_GUEST_STATS;
	env.guest_stats = &stats;
	line_send(&a->boot.line, &env);
}

static void update_hosts(struct agent *a, const Um__Envelope *env)
{
	struct err err = ERR_INIT;

	/* Written once for all updates that came together. */
	if (hosts_update(&a->boot.hosts, env->hosts_update, &err))
		line_error(&a->boot.line, env->id, wire_code_from_errno(err.code), err_msg(&err));
	else
		line_ok(&a->boot.line, env->id);
}

/* In a child: the disk may take long, and the streams go on. */
static void begin_sync(struct agent *a, uint64_t id)
{
	size_t i;

	for (i = 0; i < SYNCS_MAX && a->syncs[i].pid; i++)
		;
	if (i == SYNCS_MAX) {
		line_error(&a->boot.line, id, UM__ERROR_CODE__UNAVAILABLE,
			"too many flushes under way");
		return;
	}
	a->syncs[i].pid = fork();
	a->syncs[i].id = id;
	if (a->syncs[i].pid == 0) {
		sync();
		_exit(0);
	}
	if (a->syncs[i].pid < 0) {
		a->syncs[i].pid = 0;
		sync();
		line_ok(&a->boot.line, id);
	}
}

static void sync_child(struct agent *a, pid_t pid, int status)
{
	size_t i;

	for (i = 0; i < SYNCS_MAX; i++) {
		if (a->syncs[i].pid != pid)
			continue;
		a->syncs[i].pid = 0;
		if (status == 0)
			line_ok(&a->boot.line, a->syncs[i].id);
		else
			line_error(&a->boot.line, a->syncs[i].id, UM__ERROR_CODE__INTERNAL,
				"the flush was interrupted");
	}
}

/* The host is short of memory. What is not written yet stays; the kernel tells its host of
 * the pages that became free (guest/kernel/patches/give-back.patch). */
static void trim(void)
{
	if (sys_write("/proc/sys/vm/drop_caches", "3"))
		sys_log("caches cannot be given up: %s", strerror(errno));
}

static void begin_stop(struct agent *a, uint32_t timeout_ms, bool restart)
{
	run_stop(&a->run);
	console_close(&a->console);
	streams_close(&a->streams);
	stop_begin(&a->stop, timeout_ms, restart);
}

static void send_ping(struct line *line, const Um__GuestPing *ping)
{
	Um__Envelope env = wire_env(0);
	Um__GuestPing back = UM__GUEST_PING__INIT;

	back.number = ping->number;
	env.body_case = UM__ENVELOPE__BODY_GUEST_PING;
	env.guest_ping = &back;
	line_send(line, &env);
}

static void handle(struct agent *a, const Um__Envelope *env)
{
	struct line *line = &a->boot.line;

	switch (env->body_case) {
	case UM__ENVELOPE__BODY_STREAM_OPEN:
	case UM__ENVELOPE__BODY_STREAM_DATA:
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
	case UM__ENVELOPE__BODY_STREAM_END:
		streams_message(&a->streams, env);
		break;
	case UM__ENVELOPE__BODY_HOSTS_UPDATE:
		update_hosts(a, env);
		break;
	case UM__ENVELOPE__BODY_GUEST_SYNC:
		begin_sync(a, env->id);
		break;
	case UM__ENVELOPE__BODY_GUEST_TRIM:
		trim();
		break;
	case UM__ENVELOPE__BODY_GUEST_STATS_REQUEST:
		send_stats(a, env->id);
		break;
	case UM__ENVELOPE__BODY_GUEST_SHUTDOWN:
		line_ok(line, env->id);
		begin_stop(a, env->guest_shutdown->timeout_ms, env->guest_shutdown->reboot);
		break;
	case UM__ENVELOPE__BODY_GUEST_PING:
		send_ping(line, env->guest_ping);
		break;
	case UM__ENVELOPE__BODY_GUEST_CONFIG:
		line_error(
			line, env->id, UM__ERROR_CODE__CONFLICT, "the guest is configured already");
		break;
	default:
		line_error(line, env->id, UM__ERROR_CODE__INVALID, "not a message for a guest");
		break;
	}
}

static void read_line(struct agent *a)
{
	struct err err = ERR_INIT;
	Um__Envelope *env;

	line_read(&a->boot.line);
	while ((env = line_next(&a->boot.line))) {
		handle(a, env);
		um__envelope__free_unpacked(env, NULL);
	}
	if (hosts_flush(&a->boot.hosts, &err))
		sys_log("%s", err_msg(&err));
}

/* ---------------------------------------------------------------- signals */

static void reap(struct agent *a)
{
	for (;;) {
		int status = 0;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid <= 0) {
			if (pid < 0)
				stop_child(&a->stop, true);
			return;
		}
		run_child(&a->run, pid, status);
		streams_child(&a->streams, pid, status);
		console_child(&a->console, pid);
		sync_child(a, pid, status);
	}
}

/* What busybox's and systemd's tools send to process 1. */
static void init_signal(struct agent *a, int signum)
{
	if (signum == SIGINT || signum == SIGTERM || signum == SIGRTMIN + 5)
		begin_stop(a, 0, true);
	else if (signum != SIGHUP)
		begin_stop(a, 0, false);
}

static void read_signals(struct agent *a)
{
	struct signalfd_siginfo si;

	while (read(a->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		int signum = (int)si.ssi_signo;

		if (signum == SIGCHLD)
			reap(a);
		else if (a->boot.pid1)
			init_signal(a, signum);
		else if (signum == SIGTERM && si.ssi_pid == 1)
			stop_from_init(&a->stop);
	}
}

static int open_signals(struct agent *a, struct err *err)
{
	const int wanted[] = {SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGPWR, SIGHUP, SIGPIPE,
		SIGRTMIN + 3, SIGRTMIN + 4, SIGRTMIN + 5};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigset_t set;
	size_t i;

	(void)sigaction(SIGPIPE, &ignore, NULL);
	sigemptyset(&set);
	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		sigaddset(&set, wanted[i]);
	if (sigprocmask(SIG_SETMASK, &set, NULL))
		return err_errno(err, errno, "signals");
	a->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (a->signal_fd < 0)
		return err_errno(err, errno, "signals");
	return 0;
}

/* ---------------------------------------------------------------- the loop */

static int wait_ms(const struct agent *a)
{
	uint64_t run = run_wakeup(&a->run), stop = stop_wakeup(&a->stop);
	uint64_t at = !run || (stop && stop < run) ? stop : run;
	uint64_t now;

	if (streams_busy(&a->streams))
		return 0;
	if (at == 0)
		return -1;
	now = sys_uptime_ms();
	return at <= now ? 0 : (int)(at - now);
}

static void turn(struct agent *a)
{
	struct line *line = &a->boot.line;
	struct pollfd fds[FDS_MAX];
	uint64_t now;
	size_t n;

	fds[FD_LINE] = (struct pollfd){.fd = line->dead ? -1 : line->fd};
	/* A peer that asks faster than it reads waits for its answers. */
	if (line_queued(line) < LINE_QUEUE_READ)
		fds[FD_LINE].events = POLLIN;
	if (line_queued(line) > 0)
		fds[FD_LINE].events |= POLLOUT;
	fds[FD_SIGNAL] = (struct pollfd){.fd = a->signal_fd, .events = POLLIN};
	console_poll(&a->console, &fds[FD_CONSOLE]);
	run_poll(&a->run, &fds[FD_RUN]);
	n = streams_poll(&a->streams, &fds[FD_STREAMS]);
	if (poll(fds, FD_STREAMS + n, wait_ms(a)) < 0 && errno != EINTR)
		sys_log("poll: %s", strerror(errno));
	(void)line_flush(line);
	/* Streams first: a message may close one, and FDS is of before. */
	streams_run(&a->streams, &fds[FD_STREAMS]);
	run_ready(&a->run, &fds[FD_RUN]);
	console_ready(&a->console, &fds[FD_CONSOLE]);
	if (fds[FD_SIGNAL].revents)
		read_signals(a);
	if (fds[FD_LINE].revents & (POLLIN | POLLHUP | POLLERR))
		read_line(a);
	now = sys_uptime_ms();
	run_tick(&a->run, now);
	stop_tick(&a->stop, now);
}

static bool in_initramfs(void)
{
	struct statfs fs;

	return getpid() == 1 && statfs("/", &fs) == 0 &&
	       (fs.f_type == RAMFS_MAGIC || fs.f_type == TMPFS_MAGIC);
}

/* Called by a person: there is nothing to do outside of a guest. */
static int elsewhere(int argc, char **argv)
{
	const char *arg = argc > 1 ? argv[1] : "";

	if (strcmp(arg, "--version") == 0) {
		(void)printf("umlaut-init %s\n", UMLAUT_VERSION);
		return 0;
	}
	if (strcmp(arg, "--help") == 0) {
		(void)printf("usage: umlaut-init\n"
			     "The first process of every guest; umlaut-agent puts it into their "
			     "initrd.\n"
			     "  --version, --help\n");
		return 0;
	}
	if (*arg)
		(void)fprintf(stderr, "umlaut-init: %s '%.60s'\n",
			*arg == '-' ? "unknown option" : "unexpected argument", arg);
	else
		(void)fprintf(stderr, "umlaut-init: it is the first process of a guest, and of no "
				      "use elsewhere\n");
	(void)fprintf(stderr, "Try 'umlaut-init --help'.\n");
	return 2;
}

int main(int argc, char **argv)
{
	static struct agent agent;
	struct err err = ERR_INIT;
	struct boot *boot = &agent.boot;

	boot->started_us = sys_uptime_us();
	if (!in_initramfs())
		return elsewhere(argc, argv);
	/* systemd spares processes of the initramfs whose name begins so. */
	argv[0][0] = '@';
	if (boot_early(boot, &err) || boot_await_config(boot, &err) || boot_apply(boot, &err) ||
		open_signals(&agent, &err) || boot_handover(boot, &err))
		boot_fail(boot, &err);
	agent.streams.line = &boot->line;
	agent.streams.config = boot->config;
	stop_init(&agent.stop, &boot->line, boot->pid1);
	console_init(&agent.console, boot->config, boot->pid1);
	run_start(&agent.run, &boot->line, boot->config);
	for (;;)
		turn(&agent);
}
