#include "lib/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/str.h"

#define QUEUE_DEFAULT (4u << 20)
#define READ_CHUNK 65536u
#define KEEP_MAX (1u << 20)  /* of memory, while nothing is queued */
#define ACCEPT_AGAIN_MS 100u /* when descriptors are short */

struct conn {
	struct loop *loop;
	struct loop_fd *watch;
	struct loop_defer *later; /* reports a write error outside of conn_send() */
	int fd;
	bool socket; /* send(2) can be told to raise no SIGPIPE */
	struct conn_config config;
	struct conn_ops ops;
	void *arg;
	struct wire_reader in;
	struct buf out;
	size_t sent; /* bytes at the front of `out` that are gone */
	bool paused, want_drain;
	bool ended;	/* on_close was called */
	bool closed;	/* by the owner */
	unsigned depth; /* callbacks on the stack */
	struct err broken;
};

static void release(struct conn *conn)
{
	wire_reader_free(&conn->in);
	buf_free(&conn->out);
	free(conn);
}

static void update_watch(struct conn *conn)
{
	unsigned want = 0;

	if (conn->closed || conn->ended)
		return;
	if (conn->broken.code) {
		(void)loop_fd_want(conn->watch, 0); /* run_later() ends it */
		return;
	}
	if (!conn->paused)
		want |= LOOP_READ;
	if (conn->out.size > conn->sent)
		want |= LOOP_WRITE;
	(void)loop_fd_want(conn->watch, want);
}

static void end(struct conn *conn, const struct err *why)
{
	if (conn->ended || conn->closed)
		return;
	conn->ended = true;
	(void)loop_fd_want(conn->watch, 0);
	conn->ops.on_close(conn->arg, conn, why);
}

static int flush(struct conn *conn, struct err *err)
{
	while (conn->sent < conn->out.size) {
		const uint8_t *data = conn->out.data + conn->sent;
		size_t size = conn->out.size - conn->sent;
		ssize_t n = conn->socket ? send(conn->fd, data, size, MSG_NOSIGNAL)
					 : write(conn->fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return err_errno(err, errno, "write to %s", conn->config.name);
		conn->sent += (size_t)n;
	}
	if (conn->sent == conn->out.size) {
		conn->out.size = 0;
		conn->sent = 0;
		if (conn->out.capacity > KEEP_MAX)
			buf_free(&conn->out);
	} else if (conn->sent > READ_CHUNK && conn->sent > conn->out.size / 2) {
		/* Moved only when at least half is gone: linear in what is sent. */
		buf_consume(&conn->out, conn->sent);
		conn->sent = 0;
	}
	return 0;
}

static void tell_drained(struct conn *conn)
{
	if (!conn->want_drain || conn_queued(conn) > conn->config.queue_max / 2)
		return;
	conn->want_drain = false;
	if (conn->ops.on_drain)
		conn->ops.on_drain(conn->arg, conn);
}

/* Gives whole messages to the owner.  False when the connection is over. */
static bool deliver(struct conn *conn)
{
	for (;;) {
		struct err err = ERR_INIT;
		Um__Envelope *env = NULL;
		int rc;

		if (conn->paused)
			return true;
		rc = wire_reader_next(&conn->in, &env, &err);
		if (rc == 0)
			return true;
		if (rc < 0) {
			end(conn, &err);
			return false;
		}
		conn->ops.on_message(conn->arg, conn, env);
		um__envelope__free_unpacked(env, NULL);
		if (conn->closed || conn->ended)
			return false;
	}
}

/* How much was read; 0: there is nothing more, or an end of it. */
static size_t read_some(struct conn *conn)
{
	static const struct err by_peer = {.code = 0, .msg = "closed by peer"};
	uint8_t data[READ_CHUNK];
	struct err err = ERR_INIT;
	ssize_t n;

	do
		n = read(conn->fd, data, sizeof(data));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE))) {
		end(conn, &by_peer);
		return 0;
	}
	if (n < 0)
		(void)err_errno(&err, errno, "read from %s", conn->config.name);
	else
		(void)wire_reader_add(&conn->in, data, (size_t)n, &err);
	if (err.code) {
		end(conn, &err);
		return 0;
	}
	return deliver(conn) ? (size_t)n : 0;
}

static void readable(struct conn *conn)
{
	/* A few rounds, then others have their turn. */
	for (int round = 0; round < 4 && !conn->paused; round++)
		if (read_some(conn) < READ_CHUNK)
			return;
}

/* Writing has failed.  What the peer sent before it went is still worth reading;
 * mostly its end is found there, and is a clean one. */
static void end_broken(struct conn *conn)
{
	for (int round = 0; round < 64 && !conn->paused && !conn->closed; round++)
		if (!read_some(conn))
			break;
	end(conn, &conn->broken);
}

static void enter(struct conn *conn)
{
	conn->depth++;
}

static void leave(struct conn *conn)
{
	conn->depth--;
	if (conn->closed && conn->depth == 0)
		release(conn);
	else
		update_watch(conn);
}

static void ready(void *arg, unsigned events)
{
	struct conn *conn = arg;

	enter(conn);
	if (events & LOOP_WRITE) {
		if (flush(conn, &conn->broken) < 0)
			end_broken(conn);
		else
			tell_drained(conn);
	}
	if ((events & (LOOP_READ | LOOP_HUP)) && !conn->closed && !conn->ended)
		readable(conn);
	leave(conn);
}

/* Runs outside of the owner's calls: write errors, and messages that were held
 * back while paused. */
static void run_later(void *arg)
{
	struct conn *conn = arg;

	enter(conn);
	if (conn->broken.code)
		end_broken(conn);
	else if (!conn->closed && !conn->ended)
		(void)deliver(conn);
	leave(conn);
}

int conn_open(struct loop *loop, int fd, const struct conn_config *config,
	const struct conn_ops *ops, void *arg, struct conn **out, struct err *err)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	socklen_t size = sizeof(int);
	int flags, type, rc;

	if (!conn)
		return err_set(err, -ENOMEM, "memory is short for %s", config->name);
	conn->loop = loop;
	conn->config = *config;
	if (!conn->config.queue_max)
		conn->config.queue_max = QUEUE_DEFAULT;
	conn->ops = *ops;
	conn->arg = arg;
	wire_reader_init(&conn->in, config->message_max, config->resync);
	buf_init(&conn->out);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		rc = err_errno(err, errno, "%s", config->name);
		goto fail;
	}
	rc = loop_defer_open(loop, config->name, run_later, conn, &conn->later, err);
	if (rc < 0)
		goto fail;
	rc = loop_fd_open(loop, config->name, fd, ready, conn, &conn->watch, err);
	if (rc < 0)
		goto fail;
	conn->fd = fd;
	conn->socket = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
	(void)loop_fd_want(conn->watch, LOOP_READ);
	*out = conn;
	return 0;
fail:
	loop_defer_close(conn->later);
	free(conn);
	return rc;
}

int conn_send(struct conn *conn, Um__Envelope *env, struct err *err)
{
	size_t before = conn->out.size;
	int rc;

	if (conn->ended || conn->closed || conn->broken.code)
		return err_set(err, -ENOTCONN, "%s is closed", conn->config.name);
	if (conn_queued(conn) >= conn->config.queue_max) {
		conn->want_drain = true;
		return err_set(
			err, -ENOBUFS, "%s does not take what it is sent", conn->config.name);
	}
	rc = wire_frame(env, conn->config.message_max, &conn->out, err);
	if (rc < 0) {
		conn->out.size = before;
		conn->out.failed = false;
		return rc;
	}
	/* A failure is reported outside of the owner's call. */
	if (flush(conn, &conn->broken) < 0)
		loop_defer_run(conn->later);
	if (conn_queued(conn) > conn->config.queue_max / 2)
		conn->want_drain = true;
	update_watch(conn);
	return 0;
}

size_t conn_queued(const struct conn *conn)
{
	return conn->out.size - conn->sent;
}

void conn_pause(struct conn *conn, bool paused)
{
	if (conn->paused == paused || conn->closed)
		return;
	conn->paused = paused;
	update_watch(conn);
	if (!paused && wire_reader_held(&conn->in))
		loop_defer_run(conn->later);
}

void conn_close(struct conn *conn)
{
	if (!conn || conn->closed)
		return;
	if (!conn->ended && !conn->broken.code)
		(void)flush(conn, NULL);
	conn->closed = true;
	loop_defer_close(conn->later);
	/* The watcher stops using the descriptor at once (uv_poll's close). */
	loop_fd_close(conn->watch);
	(void)close(conn->fd);
	if (conn->depth == 0)
		release(conn);
}

int conn_peer(const struct conn *conn, pid_t *pid, uid_t *uid)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return -errno;
	*pid = cred.pid;
	*uid = cred.uid;
	return 0;
}

/* ---------------------------------------------------------------- listening */

/* Fills ADDR for PATH.  Where it is too long for sun_path, its folder is opened
 * (into *DIRFD) and reached through /proc/self/fd. */
static int address(const char *path, struct sockaddr_un *addr, int *dirfd, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char dir[4096];

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	*dirfd = -1;
	if (str_copy(addr->sun_path, sizeof(addr->sun_path), path) == 0)
		return 0;
	if (!slash || str_format(dir, sizeof(dir), "%.*s", (int)(slash - path), path) < 0)
		return err_set(err, -ENAMETOOLONG, "socket path is too long: %.80s", path);
	*dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*dirfd < 0)
		return err_errno(err, errno, "open folder %s", dir);
	if (str_format(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", *dirfd,
		    slash + 1) < 0) {
		(void)close(*dirfd);
		*dirfd = -1;
		return err_set(err, -ENAMETOOLONG, "socket name is too long: %.80s", slash + 1);
	}
	return 0;
}

int conn_connect(const char *path, struct err *err)
{
	struct sockaddr_un addr;
	int dirfd, fd, rc = address(path, &addr, &dirfd, err);

	if (rc < 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		rc = err_errno(err, errno, "socket");
	} else if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = err_errno(err, errno, "connect to %s", path);
		(void)close(fd);
		fd = -1;
	}
	if (dirfd >= 0)
		(void)close(dirfd);
	return rc < 0 ? rc : fd;
}

struct conn_listener {
	struct loop_fd *watch;
	struct loop_timer *again;
	int fd;
	conn_accept_fn *fn;
	void *arg;
	char *path;
};

static void acceptable(void *arg, unsigned events)
{
	struct conn_listener *listener = arg;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		listener->fn(listener->arg, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
		/* The peer goes on waiting, and would wake us at once again. */
		(void)loop_fd_want(listener->watch, 0);
		loop_timer_arm(listener->again, ACCEPT_AGAIN_MS);
	}
}

static void accept_again(void *arg)
{
	struct conn_listener *listener = arg;

	(void)loop_fd_want(listener->watch, LOOP_READ);
}

/* Binds FD; replaces a socket file that nobody listens on. */
static int bind_path(int fd, const char *path, const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	int probe;

	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return err_errno(err, errno, "bind %s", path);
	/* A file of another kind refuses connections as a dead socket does. */
	if (lstat(addr->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "%s is there and is no socket", path);
	probe = conn_connect(path, NULL);
	if (probe >= 0) {
		(void)close(probe);
		return err_set(err, -EADDRINUSE, "%s is in use by a running program", path);
	}
	if (probe != -ECONNREFUSED)
		return err_errno(err, probe, "bind %s", path);
	if (unlink(addr->sun_path) < 0 ||
		bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return err_errno(err, errno, "bind %s", path);
	return 0;
}

int conn_listen(struct loop *loop, const char *path, unsigned mode, conn_accept_fn *fn, void *arg,
	struct conn_listener **out, struct err *err)
{
	struct conn_listener *listener = calloc(1, sizeof(*listener));
	struct sockaddr_un addr;
	int dirfd = -1, rc;

	if (!listener)
		return err_set(err, -ENOMEM, "memory is short to listen on %s", path);
	listener->fn = fn;
	listener->arg = arg;
	listener->fd = -1;
	listener->path = str_dup(path);
	rc = listener->path ? address(path, &addr, &dirfd, err) : -ENOMEM;
	if (rc < 0)
		goto out;
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0) {
		rc = err_errno(err, errno, "socket");
		goto out;
	}
	rc = bind_path(listener->fd, path, &addr, err);
	if (rc < 0)
		goto out;
	/* Nobody can connect before listen(): the mode is right in time. */
	if (chmod(addr.sun_path, mode) < 0 || listen(listener->fd, 64) < 0) {
		rc = err_errno(err, errno, "listen on %s", path);
		(void)unlink(addr.sun_path);
		goto out;
	}
	rc = loop_timer_open(loop, "listener", accept_again, listener, &listener->again, err);
	if (rc == 0)
		rc = loop_fd_open(loop, "listener", listener->fd, acceptable, listener,
			&listener->watch, err);
	if (rc == 0)
		(void)loop_fd_want(listener->watch, LOOP_READ);
out:
	if (dirfd >= 0)
		(void)close(dirfd);
	if (rc < 0) {
		loop_timer_close(listener->again);
		if (listener->fd >= 0)
			(void)close(listener->fd);
		free(listener->path);
		free(listener);
		return rc;
	}
	*out = listener;
	return 0;
}

void conn_listener_close(struct conn_listener *listener, bool unlink_path)
{
	if (!listener)
		return;
	loop_fd_close(listener->watch);
	loop_timer_close(listener->again);
	(void)close(listener->fd);
	if (unlink_path)
		(void)unlink(listener->path);
	free(listener->path);
	free(listener);
}
