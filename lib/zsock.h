/* zsock: a ZeroMQ socket on a loop, carrying Envelopes.
 *
 * ZMQ_FD is edge-triggered: the socket is drained until EAGAIN after every
 * wake-up, send and receive, by prepare and check handles (the way of flux's
 * ev_zmq.c).  High-water marks are set on purpose (config).
 *
 * Security: a TCP endpoint always has CURVE.  A server socket names a zap_fn
 * through lib/curve.h; an ipc:// endpoint is guarded by its file mode.
 *
 * Peers: on a ROUTER each message comes with `struct zpeer`: the routing id,
 * the CURVE public key (all zero on ipc), and the User-Id of ZAP.
 */
#ifndef UMLAUT_LIB_ZSOCK_H
#define UMLAUT_LIB_ZSOCK_H

#include "lib/loop.h"
#include "lib/wire.h"

struct zctx;
struct zsock;

#define ZPEER_ID_MAX 32
struct zpeer {
	uint8_t id[ZPEER_ID_MAX]; /* routing id */
	size_t id_size;
	char user[64];	    /* the name that the ZAP handler gave the key; "" on ipc */
	uint8_t pubkey[32]; /* all zero on ipc */
	bool local;	    /* came over ipc */
};

enum zsock_type { ZSOCK_ROUTER, ZSOCK_DEALER };

struct zsock_config {
	enum zsock_type type;
	const char *name;	/* for logs */
	int send_hwm, recv_hwm; /* messages; 0: 1000 */
	/* CURVE: NULL for ipc only. 32-byte raw keys. */
	const uint8_t *secret_key, *public_key;
	const uint8_t *server_key; /* client: whom we expect */
	bool server;		   /* ROUTER: CURVE server with ZAP */
	const char *routing_id;	   /* client: fixed routing id, or NULL */
};

struct zsock_ops {
	/* ENV and BULK are borrowed for the call.  BULK is the second part (NULL,
	 * 0 when absent).  PEER is NULL on a DEALER. */
	void (*on_message)(void *arg, struct zsock *sock, const struct zpeer *peer,
		const Um__Envelope *env, const void *bulk, size_t bulk_size);
	/* A message that is no good (size, version, not an Envelope). ID is the
	 * request's id when it could be read, else 0.  May be NULL: logged, dropped. */
	void (*on_bad)(void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id,
		const struct err *err);
	/* DEALER: connected / handshake refused / disconnected, from the socket
	 * monitor.  The socket goes on trying in each case.  May be NULL: then an
	 * endpoint that refused a handshake is not tried again. */
	void (*on_state)(void *arg, struct zsock *sock, bool up, const char *detail);
};

int zctx_new(struct zctx **out, struct err *err);
/* After all sockets are closed; waits at most for the longest linger of them.
 * Sockets still open are logged, and the context is left behind. */
void zctx_free(struct zctx *ctx);
/* For lib/curve.c: the context of ZeroMQ, and that one socket more or less is in it. */
void *zctx_raw(struct zctx *ctx);
void zctx_count(struct zctx *ctx, int change);

int zsock_open(struct loop *loop, struct zctx *ctx, const struct zsock_config *config,
	const struct zsock_ops *ops, void *arg, struct zsock **out, struct err *err);
int zsock_bind(struct zsock *sock, const char *endpoint, struct err *err);
/* The endpoint really bound (tcp://...:0 resolved); connected to, on a DEALER. */
const char *zsock_endpoint(const struct zsock *sock);
int zsock_connect(struct zsock *sock, const char *endpoint, struct err *err);
int zsock_disconnect(struct zsock *sock, const char *endpoint, struct err *err);
/* Never blocks.  -EAGAIN: the peer's queue is full (nothing sent);
 * -EHOSTUNREACH: ROUTER, the peer is gone.  BULK is copied. */
int zsock_send(struct zsock *sock, const struct zpeer *peer, Um__Envelope *env, const void *bulk,
	size_t bulk_size, struct err *err);
/* The same for an Envelope that was packed before (wire_pack()). */
int zsock_send_packed(struct zsock *sock, const struct zpeer *peer, const void *packed, size_t size,
	const void *bulk, size_t bulk_size, struct err *err);
/* Gives up to LINGER_MS for what is queued, in the background. */
void zsock_close(struct zsock *sock, int linger_ms);

#endif
