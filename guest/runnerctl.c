#include "guest/runnerctl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guest/runnerctl_int.h"
#include "guest/runnerdir.h"
#include "lib/conn.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"

#define RETRY_MIN_MS 10
#define RETRY_MAX_MS 1000
#define QUEUE_MAX (48u << 20) /* as the runner's: all streams' windows */
#define READY_MAX 600
#define LINGER_MS 5000

/* See the table in runnerctl.h. */
enum state { STARTING, CONNECTING, UP, SWEEPING, GONE };

struct runnerctl {
	struct loop *loop;
	char dir[PATH_MAX];
	const struct runnerctl_ops *ops;
	void *arg;
	enum state state;
	int ready_fd; /* -1: none */
	struct loop_fd *ready_watch;
	char ready[READY_MAX];
	size_t ready_size;
	struct loop_fd *exit_watch;
	bool exited;
	struct conn *conn;
	struct loop_timer *retry;
	uint64_t retry_ms;
	uint64_t next_id;
	Um__RunnerStatus *last; /* as told, or how the start failed */
	struct sweep *sweep;
	unsigned busy; /* inside the owner's callbacks */
	bool closed;
};

/* In the pool; may outlive its runnerctl. */
struct sweep {
	struct runnerctl *rc; /* NULL: closed meanwhile */
	char dir[PATH_MAX];
	Um__RunnerStatus *last;
	int result;
	struct err err;
};

static void connect_now(struct runnerctl *rc);

/* ---------------------------------------------------------------- memory */

static void free_status(Um__RunnerStatus *status)
{
	if (status)
		um__runner_status__free_unpacked(status, NULL);
}

static void release(struct runnerctl *rc)
{
	free_status(rc->last);
	free(rc);
}

static void enter(struct runnerctl *rc)
{
	rc->busy++;
}

/* False: the owner closed it in the callback; RC is gone when no other is active. */
static bool leave(struct runnerctl *rc)
{
	bool closed = rc->closed;

	rc->busy--;
	if (closed && !rc->busy)
		release(rc);
	return !closed;
}

static void ready_close(struct runnerctl *rc)
{
	loop_fd_close(rc->ready_watch);
	rc->ready_watch = NULL;
	if (rc->ready_fd >= 0)
		(void)close(rc->ready_fd);
	rc->ready_fd = -1;
}

/* Ends all that is on the loop. */
static void detach(struct runnerctl *rc)
{
	ready_close(rc);
	loop_exit_close(rc->exit_watch);
	rc->exit_watch = NULL;
	conn_close(rc->conn);
	rc->conn = NULL;
	loop_timer_close(rc->retry);
	rc->retry = NULL;
}

void runnerctl_close(struct runnerctl *rc)
{
	if (!rc || rc->closed)
		return;
	rc->closed = true;
	detach(rc);
	if (rc->sweep)
		rc->sweep->rc = NULL;
	if (!rc->busy)
		release(rc);
}

/* ---------------------------------------------------------------- the end */

static int sweep_once(struct sweep *sweep)
{
	sweep->result = runnerctl_sweep(sweep->dir, &sweep->err);
	return sweep->result;
}

static void sweep_work(void *arg)
{
	struct sweep *sweep = arg;
	uint64_t end = proc_mono_ms() + LINGER_MS;
	struct timespec ms10 = {.tv_nsec = 10000000};

	/* A runner that could not start says so just before it ends. */
	while (sweep_once(sweep) == -EBUSY && proc_mono_ms() < end)
		(void)nanosleep(&ms10, NULL);
	(void)runnerctl_exit_read(sweep->dir, &sweep->last, NULL);
}

static void sweep_done(void *arg, bool cancelled)
{
	struct sweep *sweep = arg;
	struct runnerctl *rc = sweep->rc;

	if (sweep->result < 0)
		log_error("a guest is not cleared away", LOG_STR("folder", sweep->dir),
			LOG_ERR(&sweep->err));
	if (rc && !cancelled) {
		rc->sweep = NULL;
		rc->state = GONE;
		if (sweep->last) {
			free_status(rc->last);
			rc->last = sweep->last;
			sweep->last = NULL;
		}
		enter(rc);
		rc->ops->on_gone(rc->arg, rc, rc->last);
		(void)leave(rc);
	}
	free_status(sweep->last);
	free(sweep);
}

static bool has_ended(const Um__RunnerStatus *status)
{
	return status &&
	       (status->phase == UM__PHASE__STOPPED || status->phase == UM__PHASE__FAILED);
}

/* The process is gone.  TEXT: why, when nobody noted anything better. */
static void begin_sweep(struct runnerctl *rc, const char *text)
{
	struct sweep *sweep;
	struct err err = ERR_INIT;

	if (rc->state >= SWEEPING)
		return;
	rc->state = SWEEPING;
	detach(rc);
	if (!has_ended(rc->last)) {
		free_status(rc->last);
		rc->last = runnerctl_failed(text);
	}
	sweep = calloc(1, sizeof(*sweep));
	if (!rc->last || !sweep) {
		log_error("memory is short", LOG_STR("folder", rc->dir));
		free(sweep);
		return; /* the agent's next start finds it ended */
	}
	sweep->rc = rc;
	(void)str_copy(sweep->dir, sizeof(sweep->dir), rc->dir);
	rc->sweep = sweep;
	if (loop_work_run(rc->loop, "sweep a guest", sweep_work, sweep_done, sweep, &err) < 0) {
		log_error("a guest is not cleared away", LOG_ERR(&err));
		sweep_done(sweep, false);
	}
}

static void on_exit_watch(void *arg)
{
	struct runnerctl *rc = arg;

	rc->exited = true;
	loop_exit_close(rc->exit_watch);
	rc->exit_watch = NULL;
	/* What it still said is in the socket; its end comes after that. */
	if (!rc->conn)
		begin_sweep(rc, "the runner was killed");
}

/* ---------------------------------------------------------------- the connection */

static void keep_status(struct runnerctl *rc, const Um__RunnerStatus *status)
{
	size_t size = um__runner_status__get_packed_size(status);
	uint8_t *data = malloc(size ? size : 1);
	Um__RunnerStatus *copy;

	if (!data)
		return;
	(void)um__runner_status__pack(status, data);
	copy = um__runner_status__unpack(NULL, size, data);
	free(data);
	if (!copy)
		return;
	free_status(rc->last);
	rc->last = copy;
}

static void on_message(void *arg, struct conn *conn, const Um__Envelope *env)
{
	struct runnerctl *rc = arg;

	(void)conn;
	enter(rc);
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_RUNNER_HELLO:
		rc->state = UP;
		rc->retry_ms = RETRY_MIN_MS;
		rc->ops->on_hello(rc->arg, rc, env->runner_hello);
		break;
	case UM__ENVELOPE__BODY_RUNNER_STATUS:
		keep_status(rc, env->runner_status);
		rc->ops->on_status(rc->arg, rc, env->runner_status);
		break;
	default:
		if (env->id)
			rc->ops->on_message(rc->arg, rc, env);
	}
	(void)leave(rc);
}

static void on_close(void *arg, struct conn *conn, const struct err *err)
{
	struct runnerctl *rc = arg;
	bool was_up = rc->state == UP;

	(void)conn;
	enter(rc);
	conn_close(rc->conn);
	rc->conn = NULL;
	rc->state = CONNECTING;
	if (was_up && rc->ops->on_lost)
		rc->ops->on_lost(rc->arg, rc, err);
	if (!rc->closed) {
		if (rc->exited)
			begin_sweep(rc, "the runner was killed");
		else
			loop_timer_arm(rc->retry, RETRY_MIN_MS);
	}
	(void)leave(rc);
}

static void on_drain(void *arg, struct conn *conn)
{
	struct runnerctl *rc = arg;

	(void)conn;
	if (!rc->ops->on_drain)
		return;
	enter(rc);
	rc->ops->on_drain(rc->arg, rc);
	(void)leave(rc);
}

static const struct conn_ops conn_ops = {
	.on_message = on_message,
	.on_close = on_close,
	.on_drain = on_drain,
};

/* Watches the process that runner.id names.  False: not (yet) possible. */
static bool watch_process(struct runnerctl *rc)
{
	struct proc_id id;

	if (rc->exit_watch)
		return true;
	return runnerctl_id_read(rc->dir, &id, NULL) >= 0 &&
	       loop_exit_open(rc->loop, &id, on_exit_watch, rc, &rc->exit_watch, NULL) >= 0;
}

static void again(struct runnerctl *rc)
{
	loop_timer_arm(rc->retry, rc->retry_ms);
	rc->retry_ms = rc->retry_ms * 2 < RETRY_MAX_MS ? rc->retry_ms * 2 : RETRY_MAX_MS;
}

static void connect_now(struct runnerctl *rc)
{
	static const struct conn_config config = {
		.name = "runner",
		.message_max = WIRE_MESSAGE_MAX,
		.queue_max = QUEUE_MAX,
	};
	char path[PATH_MAX];
	int fd;

	rc->state = CONNECTING;
	if (!watch_process(rc)) {
		/* Not written yet, or another's by now: the lock knows. */
		if (runnerctl_locked(rc->dir, NULL) == 0)
			begin_sweep(rc, "the runner was killed");
		else
			again(rc);
		return;
	}
	if (fs_join(path, sizeof(path), rc->dir, RUNNERDIR_SOCK, NULL) < 0)
		return;
	fd = conn_connect(path, NULL);
	if (fd >= 0 && conn_open(rc->loop, fd, &config, &conn_ops, rc, &rc->conn, NULL) < 0) {
		(void)close(fd);
		fd = -1;
	}
	if (fd < 0)
		again(rc);
}

static void on_retry(void *arg)
{
	connect_now(arg);
}

/* ---------------------------------------------------------------- starting */

static void start_answered(struct runnerctl *rc)
{
	char *text = rc->ready, *end = strchr(text, '\n');

	if (end)
		*end = '\0';
	ready_close(rc);
	if (strcmp(text, "ok") == 0 || str_starts(text, "error: busy"))
		connect_now(rc); /* busy: another agent's start was quicker, adopt it */
	else if (str_starts(text, "error: "))
		begin_sweep(rc, text + strlen("error: "));
	else
		begin_sweep(rc, "the runner died at its start, see runner.log");
}

static void on_ready(void *arg, unsigned events)
{
	struct runnerctl *rc = arg;
	ssize_t n;

	(void)events;
	n = read(rc->ready_fd, rc->ready + rc->ready_size, sizeof(rc->ready) - 1 - rc->ready_size);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		rc->ready_size += (size_t)n;
	rc->ready[rc->ready_size] = '\0';
	if (n <= 0 || strchr(rc->ready, '\n') || rc->ready_size == sizeof(rc->ready) - 1)
		start_answered(rc);
}

static int new_rc(struct loop *loop, const char *dir, const struct runnerctl_ops *ops, void *arg,
	struct runnerctl **out, struct err *err)
{
	struct runnerctl *rc = calloc(1, sizeof(*rc));
	int rv;

	if (!rc)
		return err_set(err, -ENOMEM, "out of memory");
	rc->loop = loop;
	rc->ops = ops;
	rc->arg = arg;
	rc->ready_fd = -1;
	rc->retry_ms = RETRY_MIN_MS;
	rv = str_copy(rc->dir, sizeof(rc->dir), dir);
	if (rv < 0 || dir[0] != '/' || strlen(dir) > PATH_MAX - 64)
		rv = err_set(err, -EINVAL, "'%.100s' is not an absolute path", dir);
	if (rv >= 0)
		rv = loop_timer_open(loop, "runner retry", on_retry, rc, &rc->retry, err);
	if (rv < 0) {
		free(rc);
		return rv;
	}
	*out = rc;
	return 0;
}

static int write_spec(const char *dir, const Um__RunnerSpec *spec, struct err *err)
{
	size_t size = um__runner_spec__get_packed_size(spec);
	uint8_t *data;
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, RUNNERDIR_SPEC, err);

	if (rc < 0)
		return rc;
	if (size > RUNNERDIR_SPEC_MAX)
		return err_set(err, -EFBIG, "the guest's specification has %zu bytes", size);
	data = malloc(size ? size : 1);
	if (!data)
		return err_set(err, -ENOMEM, "out of memory");
	(void)um__runner_spec__pack(spec, data);
	/* For the runner, which is started next, and for what ends it: of no use to
	 * anyone after a power loss, so the start does not wait for the disk. */
	rc = fs_write_quick(path, data, size, 0600, err);
	free(data);
	return rc < 0 ? rc : 0;
}

static int spawn(struct runnerctl *rc, const char *program, struct err *err)
{
	const char *argv[] = {program, "--dir", rc->dir, NULL};
	struct loop_child *child;
	int ends[2], rv;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(err, errno, "pipe");
	const int fds[] = {-1, -1, -1, ends[1]};
	const struct loop_child_spec spec = {
		.name = "umlaut-guest", .argv = argv, .fds = fds, .fd_count = 4, .detach = true};

	rv = loop_fd_open(rc->loop, "runner start", ends[0], on_ready, rc, &rc->ready_watch, err);
	if (rv >= 0)
		rv = loop_fd_want(rc->ready_watch, LOOP_READ);
	if (rv >= 0)
		rv = loop_child_open(rc->loop, &spec, NULL, NULL, &child, err);
	(void)close(ends[1]);
	if (rv < 0) {
		loop_fd_close(rc->ready_watch);
		rc->ready_watch = NULL;
		(void)close(ends[0]);
		return rv;
	}
	/* It goes into the background and this process ends at once. */
	loop_child_close(child);
	rc->ready_fd = ends[0];
	return 0;
}

int runnerctl_start(struct loop *loop, const char *program, const char *dir,
	const Um__RunnerSpec *spec, const struct runnerctl_ops *ops, void *arg,
	struct runnerctl **out, struct err *err)
{
	struct runnerctl *rc = NULL;
	int rv = new_rc(loop, dir, ops, arg, &rc, err);

	if (rv < 0)
		return rv;
	rv = runnerctl_discard(dir, err); /* -EBUSY when one lives */
	if (rv >= 0)
		rv = write_spec(dir, spec, err);
	if (rv >= 0)
		rv = spawn(rc, program, err);
	if (rv < 0) {
		runnerctl_close(rc);
		return rv;
	}
	*out = rc;
	return 0;
}

int runnerctl_adopt(struct loop *loop, const char *dir, const struct runnerctl_ops *ops, void *arg,
	struct runnerctl **out, struct err *err)
{
	struct runnerctl *rc = NULL;
	int rv = runnerctl_locked(dir, err);

	if (rv < 0)
		return rv;
	if (rv == 0)
		return err_set(err, -ESRCH, "no runner lives in %s", dir);
	rv = new_rc(loop, dir, ops, arg, &rc, err);
	if (rv < 0)
		return rv;
	rc->state = CONNECTING;
	loop_timer_arm(rc->retry, 0); /* no callback before we have returned */
	*out = rc;
	return 0;
}

/* ---------------------------------------------------------------- commands */

bool runnerctl_up(const struct runnerctl *rc)
{
	return rc->state == UP;
}

uint64_t runnerctl_id(struct runnerctl *rc)
{
	return ++rc->next_id;
}

int runnerctl_send(struct runnerctl *rc, Um__Envelope *env, struct err *err)
{
	if (rc->state != UP)
		return err_set(err, -ENOTCONN, "the guest's runner is not connected");
	return conn_send(rc->conn, env, err);
}

size_t runnerctl_queued(const struct runnerctl *rc)
{
	return rc->conn ? conn_queued(rc->conn) : 0;
}

int runnerctl_stop(struct runnerctl *rc, uint32_t timeout_ms, bool force, struct err *err)
{
	Um__Envelope env = wire_env(0);
	Um__RunnerStop stop = UM__RUNNER_STOP__INIT;

	stop.timeout_ms = timeout_ms;
	stop.force = force;
	env.body_case = UM__ENVELOPE__BODY_RUNNER_STOP;
	env.runner_stop = &stop;
	return runnerctl_send(rc, &env, err);
}

int runnerctl_forget(struct runnerctl *rc, struct err *err)
{
	Um__Envelope env = wire_env(0);
	Um__RunnerForget forget = UM__RUNNER_FORGET__INIT;

	env.body_case = UM__ENVELOPE__BODY_RUNNER_FORGET;
	env.runner_forget = &forget;
	return runnerctl_send(rc, &env, err);
}

int runnerctl_hosts(struct runnerctl *rc, const Um__HostsUpdate *update, struct err *err)
{
	Um__Envelope env = wire_env(0);
	Um__HostsUpdate copy = *update;

	env.body_case = UM__ENVELOPE__BODY_HOSTS_UPDATE;
	env.hosts_update = &copy;
	return runnerctl_send(rc, &env, err);
}
