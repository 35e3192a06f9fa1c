/* conn: framed Envelopes over a connected stream descriptor (Unix socket, a
 * guest's line), on a loop.
 *
 * Outgoing frames are queued; the queue is bounded (`queue_max` bytes): beyond
 * it conn_send() fails with -ENOBUFS and nothing is queued, so a slow peer
 * cannot eat our memory.  conn_queued() lets streams stop early.
 *
 * The callback gets each Envelope (borrowed for the call).  At the end of the
 * connection, or after a broken frame, `on_close` is called once, with the
 * reason; the owner then calls conn_close().  conn_close() is safe inside the callbacks.
 */
#ifndef UMLAUT_LIB_CONN_H
#define UMLAUT_LIB_CONN_H

#include "lib/loop.h"
#include "lib/wire.h"

struct conn;
struct conn_listener;

struct conn_ops {
	void (*on_message)(void *arg, struct conn *conn, const Um__Envelope *env);
	/* ERR code 0 and "closed by peer" for a clean end. */
	void (*on_close)(void *arg, struct conn *conn, const struct err *err);
	/* The queue fell below half of queue_max after a conn_send() had failed or
	 * conn_queued() was above it.  May be NULL. */
	void (*on_drain)(void *arg, struct conn *conn);
};

struct conn_config {
	const char *name;   /* for logs */
	size_t message_max; /* WIRE_MESSAGE_MAX or WIRE_LINE_MAX */
	size_t queue_max;   /* 0: 4 MiB */
	bool resync;	    /* guest line: skip to the next magic */
};

/* Takes ownership of FD (made non-blocking) on success. */
int conn_open(struct loop *loop, int fd, const struct conn_config *config,
	const struct conn_ops *ops, void *arg, struct conn **out, struct err *err);
int conn_send(struct conn *conn, Um__Envelope *env, struct err *err);
size_t conn_queued(const struct conn *conn);
/* Stops or goes on reading (back-pressure). */
void conn_pause(struct conn *conn, bool paused);
/* Sends what is queued if it can be sent at once, then closes. */
void conn_close(struct conn *conn);
/* Peer's credentials of a Unix socket. */
int conn_peer(const struct conn *conn, pid_t *pid, uid_t *uid);

/* Unix stream socket at PATH (mode MODE).  A stale socket file (connection
 * refused) is replaced; a live one is -EADDRINUSE.  Paths over sun_path are
 * reached through /proc/self/fd of the folder. */
typedef void conn_accept_fn(void *arg, int fd);
int conn_listen(struct loop *loop, const char *path, unsigned mode, conn_accept_fn *fn, void *arg,
	struct conn_listener **out, struct err *err);
void conn_listener_close(struct conn_listener *listener, bool unlink_path);
/* A connected descriptor, or negative (-ECONNREFUSED, -ENOENT). Never blocks. */
int conn_connect(const char *path, struct err *err);

#endif
