#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/loop.h"
#include "lib/loop_int.h"

struct loop_fd {
	struct loop_head head;
	uv_poll_t uv;
	loop_fd_fn *fn;
	void *arg;
	unsigned want;
	bool stopped; /* libuv stops a watcher that it found an error on */
	/* loop_exit: the pidfd is ours */
	int pidfd;
	loop_exit_fn *exit_fn;
};

static void fd_free(uv_handle_t *handle)
{
	struct loop_fd *watch = handle->data;

	if (watch->pidfd >= 0)
		(void)close(watch->pidfd);
	free(watch);
}

static void fd_destroy(struct loop_head *head)
{
	loop_fd_close((struct loop_fd *)head);
}

static int start(struct loop_fd *watch);

static void fd_cb(uv_poll_t *uv, int status, int events)
{
	struct loop_fd *watch = uv->data;
	unsigned ready = 0;

	if (status < 0) {
		/* The owner finds the error itself when it reads or writes.  It may
		 * have passed then (a netlink socket that overflowed), so we go on
		 * watching unless the owner ends it. */
		watch->stopped = true;
		watch->fn(watch->arg, watch->want | LOOP_HUP);
		if (watch->stopped && !uv_is_closing((uv_handle_t *)&watch->uv))
			(void)start(watch);
		return;
	}
	if (events & UV_READABLE)
		ready |= LOOP_READ;
	if (events & UV_WRITABLE)
		ready |= LOOP_WRITE;
	if (events & UV_PRIORITIZED)
		ready |= LOOP_PRI;
	if (events & UV_DISCONNECT)
		ready |= LOOP_HUP;
	watch->fn(watch->arg, ready);
}

static int start(struct loop_fd *watch)
{
	int events = 0;

	watch->stopped = false;
	if (watch->want & LOOP_READ)
		events |= UV_READABLE;
	if (watch->want & LOOP_WRITE)
		events |= UV_WRITABLE;
	if (watch->want & LOOP_PRI)
		events |= UV_PRIORITIZED;
	if (!events)
		return uv_poll_stop(&watch->uv);
	return uv_poll_start(&watch->uv, events, fd_cb);
}

int loop_fd_open(struct loop *loop, const char *name, int fd, loop_fd_fn *fn, void *arg,
	struct loop_fd **out, struct err *err)
{
	struct loop_fd *watch = calloc(1, sizeof(*watch));
	int rc;

	if (!watch)
		return err_set(err, -ENOMEM, "memory is short to watch %s", name);
	loop_head_init(&watch->head, name, fd_destroy);
	watch->fn = fn;
	watch->arg = arg;
	watch->pidfd = -1;
	rc = uv_poll_init(&loop->uv, &watch->uv, fd);
	if (rc < 0) {
		free(watch);
		return loop_fail(err, rc, "watch", name);
	}
	watch->uv.data = watch;
	*out = watch;
	return 0;
}

int loop_fd_want(struct loop_fd *watch, unsigned events)
{
	if (uv_is_closing((uv_handle_t *)&watch->uv))
		return -EBADF;
	if (watch->want == events && !watch->stopped)
		return 0;
	watch->want = events;
	return start(watch);
}

void loop_fd_close(struct loop_fd *watch)
{
	if (watch && !uv_is_closing((uv_handle_t *)&watch->uv))
		uv_close((uv_handle_t *)&watch->uv, fd_free);
}

static void exit_ready(void *arg, unsigned events)
{
	struct loop_fd *watch = arg;

	(void)events;
	(void)loop_fd_want(watch, 0);
	watch->exit_fn(watch->arg);
}

static void exit_cb(uv_poll_t *uv, int status, int events)
{
	(void)status;
	exit_ready(uv->data, (unsigned)events);
}

int loop_exit_open(struct loop *loop, const struct proc_id *id, loop_exit_fn *fn, void *arg,
	struct loop_fd **out, struct err *err)
{
	struct loop_fd *watch;
	int pidfd = proc_open(id, err), rc;

	if (pidfd < 0)
		return pidfd;
	rc = loop_fd_open(loop, "process exit", pidfd, NULL, arg, &watch, err);
	if (rc < 0) {
		(void)close(pidfd);
		return rc;
	}
	/* Set, as that succeeded. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	watch->pidfd = pidfd;
	watch->exit_fn = fn;
	watch->want = LOOP_READ;
	rc = uv_poll_start(&watch->uv, UV_READABLE, exit_cb);
	if (rc < 0) {
		loop_fd_close(watch);
		return loop_fail(err, rc, "watch", "process exit");
	}
	*out = watch;
	return 0;
}

void loop_exit_close(struct loop_fd *watch)
{
	loop_fd_close(watch);
}
