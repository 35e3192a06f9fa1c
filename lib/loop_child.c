#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/loop.h"
#include "lib/loop_int.h"

struct loop_child {
	struct loop_head head;
	uv_process_t uv;
	loop_child_fn *fn;
	void *arg;
	bool closed; /* by the owner; we stay to reap it */
	bool ended;
};

static void child_free(uv_handle_t *handle)
{
	free(handle->data);
}

static void child_destroy(struct loop_head *head)
{
	struct loop_child *child = (struct loop_child *)head;

	if (!uv_is_closing((uv_handle_t *)&child->uv))
		uv_close((uv_handle_t *)&child->uv, child_free);
}

static void child_exit(uv_process_t *uv, int64_t status, int signum)
{
	struct loop_child *child = uv->data;

	child->ended = true;
	if (child->closed) {
		child_destroy(&child->head);
		return;
	}
	if (child->fn)
		child->fn(child->arg, signum ? 256 + signum : (int)status);
}

#define FDS_MAX 64

int loop_child_open(struct loop *loop, const struct loop_child_spec *spec, loop_child_fn *fn,
	void *arg, struct loop_child **out, struct err *err)
{
	static const char *const no_env[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	uv_stdio_container_t fds[FDS_MAX];
	uv_process_options_t options = {0};
	struct loop_child *child;
	size_t count = spec->fd_count < 3 ? 3 : spec->fd_count;
	int null, rc;

	if (count > FDS_MAX)
		return err_set(err, -EINVAL, "%s: more than %d descriptors for a child", spec->name,
			FDS_MAX);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return err_errno(err, errno, "open /dev/null for %s", spec->name);
	child = calloc(1, sizeof(*child));
	if (!child) {
		(void)close(null);
		return err_set(err, -ENOMEM, "memory is short to start %s", spec->name);
	}
	for (size_t i = 0; i < count; i++) {
		int fd = i < spec->fd_count ? spec->fds[i] : -1;

		fds[i].flags = UV_INHERIT_FD;
		fds[i].data.fd = fd >= 0 ? fd : null;
	}
	loop_head_init(&child->head, spec->name, child_destroy);
	child->fn = fn;
	child->arg = arg;
	child->uv.data = child;
	options.exit_cb = child_exit;
	options.file = spec->argv[0];
	/* libuv does not write to them; its types predate const. */
	memcpy(&options.args, &spec->argv, sizeof(options.args));
	const char *const *env = spec->envp ? spec->envp : no_env;
	memcpy(&options.env, &env, sizeof(options.env));
	options.cwd = spec->cwd;
	options.stdio_count = (int)count;
	options.stdio = fds;
	if (spec->detach)
		options.flags |= UV_PROCESS_DETACHED;
	/* Ours are all closed on exec; this is for what we inherited. */
	(void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	rc = uv_spawn(&loop->uv, &child->uv, &options);
	(void)close(null);
	if (rc < 0) {
		/* The handle is initialised even then. */
		uv_close((uv_handle_t *)&child->uv, child_free);
		return err_errno(err, rc, "start %s (%s)", spec->name, spec->argv[0]);
	}
	*out = child;
	return 0;
}

pid_t loop_child_pid(const struct loop_child *child)
{
	return child->uv.pid;
}

int loop_child_kill(struct loop_child *child, int signum)
{
	if (child->ended)
		return -ESRCH;
	return uv_process_kill(&child->uv, signum);
}

void loop_child_close(struct loop_child *child)
{
	if (!child || child->closed)
		return;
	child->closed = true;
	if (child->ended) {
		child_destroy(&child->head);
		return;
	}
	/* Stay, without keeping the loop alive, so that it leaves no zombie. */
	uv_unref((uv_handle_t *)&child->uv);
}
