#include "lib/zsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

#include "lib/curve.h"
#include "lib/log.h"
#include "lib/str.h"

#define HWM_DEFAULT 1000
#define DRAIN_MAX 64 /* messages in one turn; then others have theirs */
#define HEARTBEAT_MS 2000
#define HEARTBEAT_TIMEOUT_MS 10000
#define RECONNECT_MS 100
#define RECONNECT_MAX_MS 2000

struct zctx {
	void *zmq;
	unsigned open; /* sockets of ours */
};

struct zsock {
	struct loop *loop;
	struct zctx *ctx;
	void *zmq, *monitor;
	struct loop_fd *watch, *monitor_watch;
	struct loop_defer *pump, *monitor_pump;
	struct loop_timer *again;
	struct zsock_config config;
	struct zsock_ops ops;
	void *arg;
	char name[64];
	char endpoint[256];
	bool ipc;
	bool up;      /* DEALER: the handshake is through */
	bool refused; /* DEALER: said so, for this connection */
	bool closed;
	unsigned depth;
	struct log_rate rate;
};

int zctx_new(struct zctx **out, struct err *err)
{
	struct zctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx)
		return err_set(err, -ENOMEM, "memory is short for ZeroMQ");
	ctx->zmq = zmq_ctx_new();
	if (!ctx->zmq) {
		free(ctx);
		return err_set(err, -ENOMEM, "ZeroMQ does not start");
	}
	/* Sockets of this program, not connections. */
	(void)zmq_ctx_set(ctx->zmq, ZMQ_MAX_SOCKETS, 65536);
	*out = ctx;
	return 0;
}

void zctx_free(struct zctx *ctx)
{
	if (!ctx)
		return;
	if (ctx->open) {
		/* Ending the context would wait for them for ever. */
		log_error("sockets still open at the end", LOG_U64("sockets", ctx->open));
		(void)zmq_ctx_shutdown(ctx->zmq);
		return;
	}
	/* Waits for what lingers, at most each socket's linger time. */
	while (zmq_ctx_term(ctx->zmq) < 0 && zmq_errno() == EINTR)
		;
	free(ctx);
}

void *zctx_raw(struct zctx *ctx)
{
	return ctx->zmq;
}

void zctx_count(struct zctx *ctx, int change)
{
	ctx->open += (unsigned)change;
}

static int zmq_fail(struct err *err, const struct zsock *sock, const char *what)
{
	int code = zmq_errno();

	/* ZeroMQ's own codes lie above errno's. */
	if (code >= ZMQ_HAUSNUMERO)
		return err_set(err, -EIO, "%s %s: %s", sock->name, what, zmq_strerror(code));
	return err_errno(err, code, "%s %s", sock->name, what);
}

static int set_int(struct zsock *sock, int option, int value, struct err *err)
{
	if (zmq_setsockopt(sock->zmq, option, &value, sizeof(value)) < 0)
		return zmq_fail(err, sock, "option");
	return 0;
}

static int set_key(struct zsock *sock, int option, const uint8_t *key, struct err *err)
{
	if (zmq_setsockopt(sock->zmq, option, key, CURVE_KEY) < 0)
		return zmq_fail(err, sock, "CURVE key");
	return 0;
}

static int set_options(struct zsock *sock, struct err *err)
{
	const struct zsock_config *c = &sock->config;
	const struct {
		int option, value;
	} ints[] = {
		{ZMQ_SNDHWM, c->send_hwm ? c->send_hwm : HWM_DEFAULT},
		{ZMQ_RCVHWM, c->recv_hwm ? c->recv_hwm : HWM_DEFAULT},
		{ZMQ_LINGER, 0},
		{ZMQ_IPV6, 1},
		{ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS},
		{ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS},
		{ZMQ_RECONNECT_IVL, RECONNECT_MS},
		{ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS},
	};
	/* CURVE wraps each part: 33 bytes and a nonce (RFC 26). */
	int64_t max = WIRE_MESSAGE_MAX + 256;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(ints) / sizeof(ints[0]); i++)
		rc = set_int(sock, ints[i].option, ints[i].value, err);
	if (rc == 0 && zmq_setsockopt(sock->zmq, ZMQ_MAXMSGSIZE, &max, sizeof(max)) < 0)
		rc = zmq_fail(err, sock, "option");
	if (rc == 0 && c->type == ZSOCK_ROUTER) {
		/* An unknown peer is an error to us, and a peer that comes back
		 * under its old name takes over. */
		rc = set_int(sock, ZMQ_ROUTER_MANDATORY, 1, err);
		if (rc == 0)
			rc = set_int(sock, ZMQ_ROUTER_HANDOVER, 1, err);
	}
	if (rc == 0 && c->type == ZSOCK_DEALER)
		/* Nothing is queued for a peer that is not there. */
		rc = set_int(sock, ZMQ_IMMEDIATE, 1, err);
	if (rc == 0 && c->routing_id &&
		zmq_setsockopt(sock->zmq, ZMQ_ROUTING_ID, c->routing_id, strlen(c->routing_id)) < 0)
		rc = zmq_fail(err, sock, "routing id");
	if (rc == 0 && c->secret_key) {
		rc = set_key(sock, ZMQ_CURVE_SECRETKEY, c->secret_key, err);
		if (rc == 0)
			rc = set_key(sock, ZMQ_CURVE_PUBLICKEY, c->public_key, err);
		if (rc == 0 && c->server) {
			rc = set_int(sock, ZMQ_CURVE_SERVER, 1, err);
			if (rc == 0 && zmq_setsockopt(sock->zmq, ZMQ_ZAP_DOMAIN, "umlaut", 6) < 0)
				rc = zmq_fail(err, sock, "ZAP domain");
		} else if (rc == 0 && c->server_key) {
			rc = set_key(sock, ZMQ_CURVE_SERVERKEY, c->server_key, err);
		}
	}
	return rc;
}

/* ---------------------------------------------------------------- receiving */

static void release(struct zsock *sock)
{
	free(sock);
}

static void leave(struct zsock *sock)
{
	if (--sock->depth == 0 && sock->closed)
		release(sock);
}

/* The ZAP handler puts the Z85 key in front of the user's name (lib/curve.c). */
static void fill_peer(struct zsock *sock, struct zpeer *peer, zmq_msg_t *body)
{
	const char *user;

	peer->local = sock->ipc;
	if (!sock->config.secret_key)
		return;
	user = zmq_msg_gets(body, "User-Id");
	if (!user || strlen(user) < CURVE_TEXT - 1)
		return;
	char key[CURVE_TEXT];

	memcpy(key, user, CURVE_TEXT - 1);
	key[CURVE_TEXT - 1] = 0;
	if (curve_parse(key, peer->pubkey, NULL) == 0)
		(void)str_copy(peer->user, sizeof(peer->user), user + CURVE_TEXT - 1);
}

static void bad(
	struct zsock *sock, const struct zpeer *peer, zmq_msg_t *body, const struct err *why)
{
	uint64_t id = 0;

	if (sock->ops.on_bad) {
		/* A message of another version may still tell its id. */
		Um__Envelope *env =
			um__envelope__unpack(NULL, zmq_msg_size(body), zmq_msg_data(body));

		if (env) {
			id = env->id;
			um__envelope__free_unpacked(env, NULL);
		}
		sock->ops.on_bad(sock->arg, sock, peer, id, why);
	} else if (log_rate_pass(&sock->rate)) {
		log_warn("dropped a message", LOG_STR("socket", sock->name), LOG_ERR(why));
	}
}

#define PARTS_MAX 3

static void handle(struct zsock *sock, zmq_msg_t *parts, size_t count, bool too_many)
{
	bool router = sock->config.type == ZSOCK_ROUTER;
	size_t first = router ? 1 : 0;
	struct zpeer peer = {0};
	struct err err = ERR_INIT;
	Um__Envelope *env = NULL;

	if (count <= first)
		return;
	zmq_msg_t *body = &parts[first];
	if (router) {
		peer.id_size = zmq_msg_size(&parts[0]);
		if (peer.id_size > sizeof(peer.id))
			return;
		memcpy(peer.id, zmq_msg_data(&parts[0]), peer.id_size);
		fill_peer(sock, &peer, body);
	}
	if (too_many) {
		(void)err_set(&err, -EBADMSG, "a message of too many parts");
		bad(sock, router ? &peer : NULL, body, &err);
		return;
	}
	if (wire_unpack(zmq_msg_data(body), zmq_msg_size(body), &env, &err) < 0) {
		bad(sock, router ? &peer : NULL, body, &err);
		return;
	}
	zmq_msg_t *bulk = count > first + 1 ? &parts[first + 1] : NULL;
	sock->ops.on_message(sock->arg, sock, router ? &peer : NULL, env,
		bulk ? zmq_msg_data(bulk) : NULL, bulk ? zmq_msg_size(bulk) : 0);
	um__envelope__free_unpacked(env, NULL);
}

/* One whole message.  False when there is none. */
static bool receive(struct zsock *sock)
{
	zmq_msg_t parts[PARTS_MAX];
	size_t count = 0;
	bool too_many = false, more = true;

	while (more) {
		zmq_msg_t extra, *part = count < PARTS_MAX ? &parts[count] : &extra;

		(void)zmq_msg_init(part);
		/* The parts of a message arrive together. */
		if (zmq_msg_recv(part, sock->zmq, ZMQ_DONTWAIT) < 0) {
			(void)zmq_msg_close(part);
			break;
		}
		more = zmq_msg_more(part);
		if (part == &extra) {
			too_many = true;
			(void)zmq_msg_close(part);
		} else {
			count++;
		}
	}
	if (count && !more)
		handle(sock, parts, count,
			too_many || count > (sock->config.type == ZSOCK_ROUTER ? 3u : 2u));
	for (size_t i = 0; i < count; i++)
		(void)zmq_msg_close(&parts[i]);
	return count > 0;
}

static bool has_input(void *zmq)
{
	int events = 0;
	size_t size = sizeof(events);

	return zmq_getsockopt(zmq, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN);
}

/* ZMQ_FD only tells of a change (edge): so after each wake-up and each send all
 * that is there is taken, and when a turn's share was used up, again later. */
static void pump(void *arg)
{
	struct zsock *sock = arg;
	int n = 0;

	sock->depth++;
	while (!sock->closed && n < DRAIN_MAX && has_input(sock->zmq) && receive(sock))
		n++;
	if (!sock->closed && n == DRAIN_MAX)
		loop_defer_run(sock->pump);
	leave(sock);
}

static void woken(void *arg, unsigned events)
{
	(void)events;
	pump(arg);
}

/* ---------------------------------------------------------------- monitor */

static void tell(struct zsock *sock, bool up, const char *detail)
{
	sock->up = up;
	sock->refused = !up;
	sock->ops.on_state(sock->arg, sock, up, detail);
}

static bool monitor_event(struct zsock *sock)
{
	static const char no_handshake[] = "the handshake failed (is the server key right?)";
	zmq_msg_t part;
	uint16_t event = 0;
	uint32_t value = 0;
	char detail[160] = "";
	bool got, more;

	(void)zmq_msg_init(&part);
	got = zmq_msg_recv(&part, sock->monitor, ZMQ_DONTWAIT) >= 0;
	if (got && zmq_msg_size(&part) >= 6) {
		const uint8_t *data = zmq_msg_data(&part);

		memcpy(&event, data, 2);
		memcpy(&value, data + 2, 4);
	}
	more = got && zmq_msg_more(&part);
	(void)zmq_msg_close(&part);
	while (more) { /* the address, of no use here */
		(void)zmq_msg_init(&part);
		more = zmq_msg_recv(&part, sock->monitor, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&part);
		(void)zmq_msg_close(&part);
	}
	if (!got)
		return false;
	switch (event) {
	case ZMQ_EVENT_CONNECTED:
		sock->refused = false;
		break;
	case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
		tell(sock, true, "connected");
		break;
	case ZMQ_EVENT_DISCONNECTED:
		/* A server that cannot read our first words just closes. */
		if (!sock->refused)
			tell(sock, false, sock->up ? "disconnected" : no_handshake);
		break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
		(void)str_format(detail, sizeof(detail),
			"the server refuses this key (ZAP status %u)", value);
		loop_timer_arm(sock->again, RECONNECT_MAX_MS);
		tell(sock, false, detail);
		break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
	case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
		loop_timer_arm(sock->again, RECONNECT_MAX_MS);
		tell(sock, false, no_handshake);
		break;
	default:
		break;
	}
	return true;
}

/* After a failed handshake ZeroMQ gives an endpoint up for good.  But a key may be
 * let in later, so we go on. */
static void connect_again(void *arg)
{
	struct zsock *sock = arg;

	if (sock->up || !*sock->endpoint)
		return;
	(void)zmq_disconnect(sock->zmq, sock->endpoint);
	(void)zmq_connect(sock->zmq, sock->endpoint);
	loop_defer_run(sock->pump);
}

static void monitor_run(void *arg)
{
	struct zsock *sock = arg;

	sock->depth++;
	while (!sock->closed && monitor_event(sock))
		;
	leave(sock);
}

static void monitor_woken(void *arg, unsigned events)
{
	(void)events;
	monitor_run(arg);
}

static int watch_fd(struct zsock *sock, void *zmq, const char *what, loop_fd_fn *fn,
	struct loop_fd **out, struct err *err)
{
	int fd, rc;
	size_t size = sizeof(fd);

	if (zmq_getsockopt(zmq, ZMQ_FD, &fd, &size) < 0)
		return zmq_fail(err, sock, "descriptor");
	rc = loop_fd_open(sock->loop, what, fd, fn, sock, out, err);
	if (rc == 0)
		(void)loop_fd_want(*out, LOOP_READ);
	return rc;
}

static int open_monitor(struct zsock *sock, struct zctx *ctx, struct err *err)
{
	char endpoint[64];
	int linger = 0;

	(void)str_format(endpoint, sizeof(endpoint), "inproc://monitor-%p", (void *)sock);
	if (zmq_socket_monitor(sock->zmq, endpoint,
		    ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
			    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
			    ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) < 0)
		return zmq_fail(err, sock, "monitor");
	sock->monitor = zmq_socket(ctx->zmq, ZMQ_PAIR);
	if (!sock->monitor ||
		zmq_setsockopt(sock->monitor, ZMQ_LINGER, &linger, sizeof(linger)) < 0 ||
		zmq_connect(sock->monitor, endpoint) < 0)
		return zmq_fail(err, sock, "monitor");
	int rc = loop_defer_open(
		sock->loop, "zsock monitor", monitor_run, sock, &sock->monitor_pump, err);
	if (rc == 0)
		rc = loop_timer_open(
			sock->loop, "zsock connect", connect_again, sock, &sock->again, err);
	if (rc == 0)
		rc = watch_fd(sock, sock->monitor, "zsock monitor", monitor_woken,
			&sock->monitor_watch, err);
	if (rc == 0)
		loop_defer_run(sock->monitor_pump);
	return rc;
}

/* ---------------------------------------------------------------- interface */

int zsock_open(struct loop *loop, struct zctx *ctx, const struct zsock_config *config,
	const struct zsock_ops *ops, void *arg, struct zsock **out, struct err *err)
{
	struct zsock *sock = calloc(1, sizeof(*sock));
	int rc;

	if (!sock)
		return err_set(err, -ENOMEM, "memory is short for a socket");
	sock->loop = loop;
	sock->ctx = ctx;
	sock->config = *config;
	sock->ops = *ops;
	sock->arg = arg;
	sock->depth = 1;
	(void)str_copy(sock->name, sizeof(sock->name), config->name ? config->name : "socket");
	sock->zmq = zmq_socket(ctx->zmq, config->type == ZSOCK_ROUTER ? ZMQ_ROUTER : ZMQ_DEALER);
	if (!sock->zmq) {
		rc = zmq_fail(err, sock, "open");
		goto fail;
	}
	zctx_count(ctx, 1);
	rc = set_options(sock, err);
	if (rc == 0)
		rc = loop_defer_open(loop, "zsock", pump, sock, &sock->pump, err);
	if (rc == 0)
		rc = watch_fd(sock, sock->zmq, "zsock", woken, &sock->watch, err);
	if (rc == 0 && ops->on_state && config->type == ZSOCK_DEALER)
		rc = open_monitor(sock, ctx, err);
	if (rc < 0)
		goto fail;
	sock->depth = 0;
	/* The caller's buffers need not outlive this call. */
	sock->config.name = sock->name;
	sock->config.server_key = NULL;
	sock->config.routing_id = NULL;
	*out = sock;
	return 0;
fail:
	zsock_close(sock, 0);
	/* Held till here: depth. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	leave(sock);
	return rc;
}

int zsock_bind(struct zsock *sock, const char *endpoint, struct err *err)
{
	size_t size = sizeof(sock->endpoint);
	bool ipc = str_starts(endpoint, "ipc://");
	/* Who may connect is decided by the file's mode, from the beginning. */
	mode_t mask = ipc ? umask(0177) : 0;
	int rc = zmq_bind(sock->zmq, endpoint) < 0 ? zmq_fail(err, sock, "bind") : 0;

	if (ipc)
		(void)umask(mask);
	if (rc < 0)
		return err_wrap(err, "%s", endpoint);
	sock->ipc = ipc;
	if (ipc && chmod(endpoint + 6, 0600) < 0)
		return err_errno(err, errno, "%s", endpoint);
	if (zmq_getsockopt(sock->zmq, ZMQ_LAST_ENDPOINT, sock->endpoint, &size) < 0)
		return zmq_fail(err, sock, "endpoint");
	loop_defer_run(sock->pump);
	return 0;
}

const char *zsock_endpoint(const struct zsock *sock)
{
	return sock->endpoint;
}

int zsock_connect(struct zsock *sock, const char *endpoint, struct err *err)
{
	if (zmq_connect(sock->zmq, endpoint) < 0) {
		(void)zmq_fail(err, sock, "connect");
		return err_wrap(err, "%s", endpoint);
	}
	(void)str_copy(sock->endpoint, sizeof(sock->endpoint), endpoint);
	loop_defer_run(sock->pump);
	return 0;
}

int zsock_disconnect(struct zsock *sock, const char *endpoint, struct err *err)
{
	if (zmq_disconnect(sock->zmq, endpoint) < 0) {
		(void)zmq_fail(err, sock, "disconnect");
		return err_wrap(err, "%s", endpoint);
	}
	if (strcmp(sock->endpoint, endpoint) == 0)
		*sock->endpoint = 0;
	return 0;
}

/* The first part decides: once it is taken, the rest of the message is too. */
int zsock_send_packed(struct zsock *sock, const struct zpeer *peer, const void *packed, size_t size,
	const void *bulk, size_t bulk_size, struct err *err)
{
	int rc = 0, more = bulk ? ZMQ_SNDMORE : 0;

	if (sock->closed)
		return err_set(err, -ENOTCONN, "%s is closed", sock->name);
	if (bulk_size > WIRE_MESSAGE_MAX)
		return err_set(err, -EMSGSIZE, "%zu bytes in one message", bulk_size);
	if (sock->config.type == ZSOCK_ROUTER &&
		zmq_send(sock->zmq, peer->id, peer->id_size, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
		rc = zmq_errno() == EAGAIN
			     ? err_set(err, -EAGAIN, "%s: the peer's queue is full", sock->name)
			     : zmq_fail(err, sock, "send");
	if (rc == 0 && zmq_send(sock->zmq, packed, size, ZMQ_DONTWAIT | more) < 0)
		rc = zmq_errno() == EAGAIN
			     ? err_set(err, -EAGAIN, "%s: the peer is away or its queue is full",
				       sock->name)
			     : zmq_fail(err, sock, "send");
	if (rc == 0 && bulk && zmq_send(sock->zmq, bulk, bulk_size, ZMQ_DONTWAIT) < 0)
		rc = zmq_fail(err, sock, "send");
	/* A send may have taken the edge of something that came in. */
	loop_defer_run(sock->pump);
	return rc;
}

int zsock_send(struct zsock *sock, const struct zpeer *peer, Um__Envelope *env, const void *bulk,
	size_t bulk_size, struct err *err)
{
	struct buf packed;
	int rc;

	buf_init(&packed);
	rc = wire_pack(env, WIRE_MESSAGE_MAX, &packed, err);
	if (rc == 0)
		rc = zsock_send_packed(sock, peer, packed.data, packed.size, bulk, bulk_size, err);
	buf_free(&packed);
	return rc;
}

void zsock_close(struct zsock *sock, int linger_ms)
{
	if (!sock || sock->closed)
		return;
	sock->closed = true;
	sock->depth++;
	if (linger_ms < 0) /* for ever, to ZeroMQ */
		linger_ms = 0;
	/* The watchers go before the sockets, whose descriptors they watch. */
	loop_fd_close(sock->watch);
	loop_fd_close(sock->monitor_watch);
	loop_defer_close(sock->pump);
	loop_defer_close(sock->monitor_pump);
	loop_timer_close(sock->again);
	if (sock->monitor) {
		(void)zmq_socket_monitor(sock->zmq, NULL, 0);
		(void)zmq_close(sock->monitor);
	}
	if (sock->zmq) {
		(void)zmq_setsockopt(sock->zmq, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
		(void)zmq_close(sock->zmq);
		zctx_count(sock->ctx, -1);
	}
	leave(sock);
}
