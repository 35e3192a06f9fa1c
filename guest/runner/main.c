/* umlaut-guest: the runner, one per guest; outlives the agent that started it.
 *
 *   umlaut-guest --dir DIR [--foreground]
 *
 * Reads DIR/runner.pb, goes into the background, starts the guest's kernel, and
 * serves DIR/runner.sock until the guest has ended and that was noted.  See
 * guest/runnerctl.h for the folder, run.h for its states.
 *
 * When descriptor 3 is open at the start it gets one line: "ok", or "error: " and
 * what to do about it ("busy" when another runner has the folder).
 *
 * Exit status: 0 the guest ran and ended, 1 it could not be started, 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/runner/record.h"
#include "guest/runner/run.h"
#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/usage.h"

#define WHO "umlaut-guest"
#define READY_FD 3
#define LOG_MAX (256 << 10) /* runner.log begins anew beyond that */

struct options {
	char dir[PATH_MAX];
	bool foreground;
};

static void usage(FILE *to)
{
	(void)fprintf(to, "usage: umlaut-guest --dir DIR [--foreground]\n"
			  "Runs the guest that DIR/runner.pb describes. Started by umlaut-agent.\n"
			  "  --dir DIR      the guest's folder\n"
			  "  --foreground   stay attached, messages to standard error\n"
			  "  --version, --help\n");
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"dir", required_argument, NULL, 'd'},
		{"foreground", no_argument, NULL, 'f'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		switch (c) {
		case 'd':
			if (!realpath(optarg, o->dir))
				return usage_wrong(
					WHO, "--dir %s: %s", optarg, strerrordesc_np(errno));
			break;
		case 'f':
			o->foreground = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		case 'V':
			(void)printf("umlaut-guest %s\n", UMLAUT_VERSION);
			return 0;
		default:
			return usage_getopt(WHO, c, argv, longs);
		}
	}
	if (optind != argc)
		return usage_wrong(WHO, "unexpected argument '%.60s'", argv[optind]);
	if (!o->dir[0])
		return usage_wrong(WHO, "--dir is missing");
	return -1;
}

/* ---------------------------------------------------------------- start-up steps */

static bool ready_open(void)
{
	int flags = fcntl(READY_FD, F_GETFD);

	return flags >= 0 && fcntl(READY_FD, F_SETFD, flags | FD_CLOEXEC) == 0;
}

static void say_ready(bool *open, const struct err *err)
{
	char text[ERR_MSG_SIZE + 16];
	int n;

	if (!*open)
		return;
	*open = false;
	if (!err)
		n = snprintf(text, sizeof(text), "ok\n");
	else
		n = snprintf(text, sizeof(text), "error: %s%s\n",
			err->code == -EBUSY ? "busy: " : "", err_msg(err));
	if (write(READY_FD, text, (size_t)n) != n)
		log_debug("the agent has gone");
	(void)close(READY_FD);
}

/* A session of our own: no terminal, no signals of our agent's group. */
static int detach(struct err *err)
{
	pid_t pid = fork();

	if (pid < 0)
		return err_errno(err, errno, "fork");
	if (pid > 0)
		_exit(0);
	if (setsid() < 0)
		return err_errno(err, errno, "setsid");
	return 0;
}

/* Standard streams: /dev/null, and runner.log for what we have to say. */
static int redirect(const char *dir, struct err *err)
{
	char path[PATH_MAX];
	struct stat st;
	int null, file, rc;

	rc = fs_join(path, sizeof(path), dir, RUNNERDIR_LOG, err);
	if (rc < 0)
		return rc;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return err_errno(err, errno, "open /dev/null");
	file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (file < 0) {
		(void)close(null);
		return err_errno(err, errno, "open %s", path);
	}
	if (fstat(file, &st) == 0 && st.st_size > LOG_MAX && ftruncate(file, 0) < 0)
		rc = err_errno(err, errno, "truncate %s", path);
	if (dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(file, 2) < 0)
		rc = err_errno(err, errno, "redirect");
	(void)close(null);
	(void)close(file);
	return rc;
}

/* Held until we end, however we end.  An open file description lock: unlike
 * flock(2) it can be asked for without being taken (runnerctl_look()). */
static int take_lock(const char *dir, struct err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX];
	int fd, rc = fs_join(path, sizeof(path), dir, RUNNERDIR_LOCK, err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, errno, "open %s", path);
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
		rc = errno == EAGAIN || errno == EACCES
			     ? err_set(err, -EBUSY, "a runner of this guest lives")
			     : err_errno(err, errno, "lock %s", path);
		(void)close(fd);
		return rc;
	}
	return fd;
}

static int write_id(const char *dir, struct err *err)
{
	char path[PATH_MAX], text[PROC_TEXT];
	struct proc_id id;
	int rc = proc_identify(getpid(), &id, err);

	if (rc >= 0)
		rc = fs_join(path, sizeof(path), dir, RUNNERDIR_ID, err);
	if (rc < 0)
		return rc;
	proc_text(text, &id);
	return fs_write_atomic(path, text, strlen(text), 0600, err);
}

/* What a runner still needs when its guest runs: to end processes of the guest's
 * user, and to reach and clear that user's folder (mconsole).  It reads what a guest
 * sends, so the rest goes, for good. */
static int drop_privileges(struct err *err)
{
	static const cap_value_t keep[] = {CAP_KILL, CAP_DAC_OVERRIDE};
	const int count = (int)(sizeof(keep) / sizeof(keep[0]));
	cap_t caps;
	cap_value_t cap;
	int rc = 0;

	if (geteuid() != 0)
		return 0;
	caps = cap_init();
	if (!caps)
		return err_set(err, -ENOMEM, "out of memory");
	for (cap = 0; cap_get_bound(cap) >= 0; cap++)
		(void)cap_drop_bound(cap); /* without CAP_SETPCAP it has no more than we */
	if (cap_set_flag(caps, CAP_PERMITTED, count, keep, CAP_SET) < 0 ||
		cap_set_flag(caps, CAP_EFFECTIVE, count, keep, CAP_SET) < 0 ||
		cap_set_proc(caps) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = err_errno(err, errno, "drop privileges");
	(void)cap_free(caps);
	return rc;
}

/* ---------------------------------------------------------------- running */

struct program {
	struct loop *loop;
	struct run *run;
	struct loop_signal *term;
	uint64_t began_us;
};

/* The host shuts down: end the guest cleanly, it is to run again afterwards. */
static void on_term(void *arg, int signum)
{
	struct program *p = arg;

	(void)signum;
	(void)run_stop(p->run, 0, false, false, NULL);
}

static int serve(struct program *p, const char *dir, bool *ready, struct err *err)
{
	int rc = loop_new(&p->loop, err);

	if (rc >= 0)
		rc = run_open(p->loop, dir, p->began_us, &p->run, err);
	if (rc >= 0)
		rc = loop_signal_open(p->loop, SIGTERM, on_term, p, &p->term, err);
	if (rc >= 0)
		rc = drop_privileges(err);
	if (rc >= 0) {
		(void)malloc_trim(0);
		say_ready(ready, NULL);
		rc = loop_run(p->loop, err);
	}
	loop_signal_close(p->term);
	run_close(p->run);
	if (p->loop)
		(void)loop_free(p->loop);
	return rc;
}

int main(int argc, char **argv)
{
	struct log_config log = {
		.program = "guest", .instance = "", .level = LOG_INFO, .fd = STDERR_FILENO};
	struct options o = {0};
	struct program program = {.began_us = proc_wall_us()};
	struct err err = ERR_INIT;
	bool ready;
	int rc = parse(argc, argv, &o), lock = -1;

	if (rc >= 0)
		return rc;
	ready = ready_open();
	(void)syscall(SYS_close_range, ready ? READY_FD + 1u : READY_FD, ~0u, 0);
	(void)umask(077);
	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	/* One per guest: small counts.  One arena, and what is free is given back. */
	(void)mallopt(M_ARENA_MAX, 1);
	(void)mallopt(M_TRIM_THRESHOLD, 64 << 10);
	(void)mallopt(M_MMAP_THRESHOLD, 64 << 10);
	log_init(&log);

	rc = o.foreground ? 0 : detach(&err);
	if (rc >= 0)
		rc = lock = take_lock(o.dir, &err);
	if (rc >= 0 && !o.foreground)
		rc = redirect(o.dir, &err);
	if (rc >= 0)
		rc = write_id(o.dir, &err);
	if (rc >= 0)
		rc = serve(&program, o.dir, &ready, &err);
	if (rc < 0) {
		log_error("the guest is not started", LOG_ERR(&err));
		say_ready(&ready, &err);
	}
	if (lock >= 0)
		record_remove(o.dir, RUNNERDIR_ID);
	return rc < 0 ? 1 : 0;
}
