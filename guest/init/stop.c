#include "guest/init/stop.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "guest/init/spawn.h"
#include "guest/init/sys.h"
#include "lib/str.h"

#define TIMEOUT_DEFAULT_MS 10000
#define ASK_AGAIN_MS 250     /* an init that has just begun does not hear yet */
#define LOOK_MS 20	     /* between looks at what still runs */
#define INIT_GRACE_MS 700    /* of busybox's second between SIGTERM and SIGKILL */
#define KILL_GRACE_MS 1000   /* for killed processes to be gone */
#define READONLY_WAIT_MS 500 /* for the kernel's emergency remount */
#define MOUNTS_MAX 128

void stop_init(struct stop *s, struct line *line, bool pid1)
{
	memset(s, 0, sizeof(*s));
	s->line = line;
	s->pid1 = pid1;
}

/* ---------------------------------------------------------------- the end */

static bool root_readonly(void)
{
	struct statvfs fs;

	return statvfs("/", &fs) == 0 && (fs.f_flag & ST_RDONLY);
}

/* Everything on a disk but the root, last mounted first. */
static void unmount_disks(void)
{
	static char text[16384];
	char *targets[MOUNTS_MAX];
	size_t count = 0;
	char *line = text, *next;

	if (sys_read("/proc/self/mounts", text, sizeof(text)) < 0)
		return;
	for (; line && *line && count < MOUNTS_MAX; line = next) {
		char *target;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		target = strchr(line, ' ');
		if (!str_starts(line, "/dev/") || !target)
			continue;
		*target++ = '\0';
		target[strcspn(target, " ")] = '\0';
		if (strcmp(target, "/") != 0)
			targets[count++] = target;
	}
	while (count > 0)
		if (umount2(targets[--count], 0))
			(void)mount(NULL, targets[count], NULL, MS_REMOUNT | MS_RDONLY, NULL);
}

static void root_to_readonly(void)
{
	uint64_t end;

	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0 || root_readonly())
		return;
	/* A file is still open for writing, or deleted and in use: the kernel can force it. */
	(void)sys_write("/proc/sys/kernel/sysrq", "1");
	if (sys_write("/proc/sysrq-trigger", "u"))
		return;
	end = sys_uptime_ms() + READONLY_WAIT_MS;
	while (!root_readonly() && sys_uptime_ms() < end)
		(void)poll(NULL, 0, LOOK_MS);
}

static void finish(struct stop *s)
{
	sync();
	unmount_disks();
	root_to_readonly();
	sync();
	if (s->theirs) {
		/* The image's init knows whether this is a halt or a restart. */
		s->state = STOP_NONE;
		return;
	}
	line_drain(s->line, 1000);
	(void)reboot(s->reboot ? RB_AUTOBOOT : RB_POWER_OFF);
	sys_log("power off: %s", strerror(errno));
	s->state = STOP_NONE;
}

/* ---------------------------------------------------------------- who still runs */

/* User-space processes but process 1 and us. */
static bool others_run(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *d;
	bool found = false;

	while (dir && !found && (d = readdir(dir))) {
		char path[64], line[8];
		uint64_t pid;

		if (!isdigit((unsigned char)d->d_name[0]) ||
			str_u64(d->d_name, 2, INT32_MAX, &pid) || (pid_t)pid == getpid())
			continue;
		/* Kernel threads and zombies have no command line. */
		(void)str_format(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
		found = sys_read(path, line, sizeof(line)) > 0;
	}
	if (dir)
		closedir(dir);
	return found;
}

static void signal_all(int signum)
{
	/* Not to process 1 and not to us: kill(2). */
	(void)kill(-1, signum);
}

static void enter_kill(struct stop *s, uint64_t now)
{
	s->state = STOP_KILL;
	signal_all(SIGKILL);
	s->t_end = now + KILL_GRACE_MS;
	s->t_look = now + LOOK_MS;
}

/* ---------------------------------------------------------------- asking the image's init */

/* Its own tools know how to reach it. */
static void spawn_poweroff(bool restart)
{
	char off[] = "poweroff", again[] = "reboot", path[] = "PATH=/sbin:/usr/sbin:/bin:/usr/bin";
	char *argv[] = {restart ? again : off, NULL};
	char *envp[] = {path, NULL};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct spawn spawn = {.argv = argv, .envp = envp, .fds = {null, null, null}};
	struct err err = ERR_INIT;

	if (null < 0 || spawn_start(&spawn, &err) < 0)
		sys_log("ask the image's init to shut down: %s", err_msg(&err));
	if (null >= 0)
		close(null);
}

/* True: asked by a signal, which may come again. */
static bool ask_init(bool restart)
{
	char comm[64] = "", exe[256] = "";
	ssize_t n;

	(void)sys_read("/proc/1/comm", comm, sizeof(comm));
	n = readlink("/proc/1/exe", exe, sizeof(exe) - 1);
	exe[n > 0 ? n : 0] = '\0';
	if (strcmp(comm, "systemd") == 0 || strstr(exe, "/systemd"))
		(void)kill(1, SIGRTMIN + (restart ? 5 : 4));
	else if (strstr(exe, "busybox"))
		(void)kill(1, restart ? SIGTERM : SIGUSR2);
	else {
		spawn_poweroff(restart);
		return false;
	}
	return true;
}

/* ---------------------------------------------------------------- transitions */

void stop_begin(struct stop *s, uint32_t timeout_ms, bool restart)
{
	uint64_t now = sys_uptime_ms();
	uint32_t total = timeout_ms ? timeout_ms : TIMEOUT_DEFAULT_MS;
	uint64_t t_kill = now + (uint64_t)total * 4 / 5;

	if (s->state != STOP_NONE && !s->theirs) {
		if (t_kill < s->t_kill)
			s->t_kill = t_kill;
		return;
	}
	s->reboot = restart;
	s->theirs = false;
	s->t_kill = t_kill;
	line_progress(s->line, "stopping");
	if (s->pid1) {
		s->state = STOP_TERM;
		signal_all(SIGTERM);
		/* As in stop_from_init(). */
		signal_all(SIGHUP);
		signal_all(SIGCONT);
	} else if (s->state == STOP_NONE) {
		s->state = STOP_ASKED;
		s->t_look = ask_init(restart) ? now + ASK_AGAIN_MS : UINT64_MAX;
	}
}

void stop_from_init(struct stop *s)
{
	uint64_t now = sys_uptime_ms();

	if (s->pid1 || s->state == STOP_TERM || s->state == STOP_KILL)
		return;
	s->theirs = s->state == STOP_NONE;
	s->state = STOP_TERM;
	/* The shell on the console heeds only this; stopped processes only after that. */
	signal_all(SIGHUP);
	signal_all(SIGCONT);
	s->t_kill = now + INIT_GRACE_MS;
	s->t_look = now + LOOK_MS;
}

void stop_child(struct stop *s, bool last)
{
	if (s->pid1 && last && (s->state == STOP_TERM || s->state == STOP_KILL))
		finish(s);
}

uint64_t stop_wakeup(const struct stop *s)
{
	uint64_t at;

	if (s->state == STOP_NONE)
		return 0;
	at = s->state == STOP_KILL ? s->t_end : s->t_kill;
	if (!s->pid1 && s->t_look < at)
		at = s->t_look;
	return at;
}

void stop_tick(struct stop *s, uint64_t now)
{
	if (s->state == STOP_NONE || now < stop_wakeup(s))
		return;
	if (s->state == STOP_KILL && now >= s->t_end) {
		finish(s);
		return;
	}
	if (s->state != STOP_KILL && now >= s->t_kill) {
		enter_kill(s, now);
		return;
	}
	if (s->state == STOP_ASKED) {
		(void)ask_init(s->reboot);
		s->t_look = now + ASK_AGAIN_MS;
		return;
	}
	s->t_look = now + LOOK_MS;
	if (!s->pid1 && !others_run())
		finish(s);
}
