/* lib/zsock.h, contexts and ZAP over a pretended network.
 *
 * A connection has a queue each way.  Without trouble it delivers in order, after a
 * random time.  Fate may lose, repeat and reorder messages (sim->lose ...), cut machines
 * from one another (what is on its way waits; after a while the connection breaks, and
 * all that was on its way is lost), or break a connection.  Of the user's connection only
 * its end is in fate's hands: what users see of lost answers is in client.c.
 */
#include "lib/zsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "lib/curve.h"
#include "lib/str.h"
#include "tests/sim/event.h"

#define QUEUE_MAX 100000u
#define RETRY_MIN (100 * SIM_MS)
#define RETRY_MAX (1500 * SIM_MS)
#define REFUSED_RETRY (2 * SIM_SECOND)
#define BREAK_MAX (12 * SIM_SECOND) /* a dead connection is noticed */

struct zctx {
	curve_allow_fn *allow;
	void *arg;
};

struct message {
	uint8_t *data, *bulk;
	size_t size, bulk_size;
	uint64_t due;
	struct message *prev, *next;
};

struct sim_conn {
	struct zsock *end[2]; /* 0: the ROUTER, 1: the DEALER */
	uint8_t id[8];
	char user[64];
	struct message *queue[2]; /* to that end */
	size_t count[2];
	struct sim_event pump[2], breaks;
	bool fated; /* by fate's rules */
	struct sim_conn *prev, *next;
	UT_hash_handle hh; /* by id */
};
static struct sim_conn *by_id;

struct zsock {
	struct loop *loop;
	struct sim_proc *proc;
	struct zctx *ctx;
	struct zsock_config config;
	struct zsock_ops ops;
	void *arg;
	char endpoint[256];
	uint8_t pubkey[32];
	bool bound, closed, told_up, cut_off;
	unsigned depth;
	struct sim_conn *conn; /* a DEALER's */
	struct sim_event connect, tell;
	bool up;
	struct zsock *prev, *next;
};

struct cut {
	uint32_t a, b;
	struct cut *prev, *next;
};
static struct cut *cuts;

/* ---------------------------------------------------------------- the wires */

static bool same_cut(const struct cut *c, uint32_t a, uint32_t b)
{
	return (c->a == a || c->a == UINT32_MAX) && (c->b == b || c->b == UINT32_MAX);
}

bool net_reaches(uint32_t from, uint32_t to)
{
	struct cut *c;

	if (from == to)
		return true;
	if (!sim->machines[from].powered || !sim->machines[to].powered)
		return false;
	DL_FOREACH (cuts, c)
		if (same_cut(c, from, to))
			return false;
	return true;
}

static uint64_t break_time(void)
{
	return sim_between(NULL, DRAW_FATE, 500 * SIM_MS, BREAK_MAX);
}

static void watch_conns(void)
{
	struct sim_conn *c;

	DL_FOREACH (sim->conns, c) {
		uint32_t a = c->end[0]->proc->machine, b = c->end[1]->proc->machine;
		bool fine = net_reaches(a, b) && net_reaches(b, a);

		if (fine)
			sim_event_remove(&c->breaks);
		else if (!c->breaks.queued)
			sim_event_add(&c->breaks, sim->now + break_time());
	}
}

void net_cut(uint32_t a, uint32_t b, bool cut)
{
	struct cut *c, *next;

	DL_FOREACH_SAFE (cuts, c, next) {
		if (c->a != a || c->b != b)
			continue;
		DL_DELETE(cuts, c);
		free(c);
	}
	if (cut) {
		c = calloc(1, sizeof(*c));
		if (!c)
			abort();
		c->a = a;
		c->b = b;
		DL_APPEND(cuts, c);
	}
	watch_conns();
}

void net_heal(void)
{
	while (cuts) {
		struct cut *c = cuts;

		DL_DELETE(cuts, c);
		free(c);
	}
	watch_conns();
}

/* ---------------------------------------------------------------- connections */

static void message_free(struct message *m)
{
	free(m->data);
	free(m->bulk);
	free(m);
}

static void try_again(struct zsock *dealer, uint64_t after)
{
	if (!dealer->closed && *dealer->endpoint && !dealer->proc->dead) {
		sim_event_remove(&dealer->connect);
		sim_event_add(&dealer->connect, sim->now + after);
	}
}

static void conn_free(struct sim_conn *c)
{
	struct zsock *dealer = c->end[1];

	for (int i = 0; i < 2; i++) {
		while (c->queue[i]) {
			struct message *m = c->queue[i];

			DL_DELETE(c->queue[i], m);
			message_free(m);
		}
		sim_event_remove(&c->pump[i]);
	}
	sim_event_remove(&c->breaks);
	DL_DELETE(sim->conns, c);
	HASH_DEL(by_id, c);
	dealer->conn = NULL;
	free(c);
	/* The dealer hears of it, and goes on trying. */
	if (!dealer->closed && !dealer->proc->dead) {
		sim_event_remove(&dealer->tell);
		sim_event_add(
			&dealer->tell, sim->now + sim_between(NULL, DRAW_LATENCY, 0, 20 * SIM_MS));
		try_again(dealer, sim_between(NULL, DRAW_CONNECT, RETRY_MIN, RETRY_MAX));
	}
}

static void conn_breaks(void *arg)
{
	conn_free(arg);
}

static void leave(struct zsock *sock)
{
	if (sock->closed && !sock->depth) {
		DL_DELETE(sim->socks, sock);
		free(sock);
	}
}

static void tell_state(void *arg)
{
	struct zsock *sock = arg;
	bool up = sock->conn;

	if (up == sock->told_up || !sock->ops.on_state)
		return;
	sock->told_up = up;
	sock->depth++;
	sock->ops.on_state(sock->arg, sock, up, up ? "connected" : "disconnected");
	sock->depth--;
	leave(sock);
}

/* For --trace: what a Desired says of guests and networks. */
static void trace_desired(const Um__Desired *d)
{
	for (size_t i = 0; i < d->n_guests; i++)
		sim_note("      %s epoch %llu %s", d->guests[i]->name,
			(unsigned long long)d->guests[i]->epoch,
			d->guests[i]->run ? "run" : "stop");
	for (size_t i = 0; i < d->n_removed; i++)
		sim_note("      removed uid %llu epoch %llu",
			(unsigned long long)d->removed[i]->uid,
			(unsigned long long)d->removed[i]->epoch);
	for (size_t i = 0; i < d->n_networks; i++) {
		const Um__NetState *n = d->networks[i];

		sim_note("      network %s vni %u%s, %zu members, %zu gone", n->name, n->vni,
			n->full ? " whole" : "", n->n_members, n->n_removed_macs);
		for (size_t k = 0; k < n->n_members; k++)
			sim_note("        %s at %s", n->members[k]->name, n->members[k]->vtep);
	}
	for (size_t i = 0; i < d->n_removed_vnis; i++)
		sim_note("      network %u goes", d->removed_vnis[i]);
}

static void deliver(struct sim_conn *c, int to)
{
	struct zsock *sock = c->end[to];
	struct message *m = c->queue[to];
	struct zpeer peer = {0};
	Um__Envelope *env = NULL;
	struct err err = ERR_INIT;

	DL_DELETE(c->queue[to], m);
	c->count[to]--;
	sim_hash(m->data, m->size);
	sim_hash(&sim->now, sizeof(sim->now));
	if (to == 0) {
		memcpy(peer.id, c->id, sizeof(c->id));
		peer.id_size = sizeof(c->id);
		memcpy(peer.pubkey, c->end[1]->pubkey, sizeof(peer.pubkey));
		(void)str_copy(peer.user, sizeof(peer.user), c->user);
		peer.local = str_starts(sock->endpoint, "ipc://");
		if (peer.local)
			memset(peer.pubkey, 0, sizeof(peer.pubkey));
	}
	if (wire_unpack(m->data, m->size, &env, &err) < 0) {
		sim_fail("a message that cannot be read: %s", err_msg(&err));
		message_free(m);
		return;
	}
	if (sim->options.trace)
		sim_note("%s -> %s: %s", sim->machines[c->end[!to]->proc->machine].name,
			sim->machines[sock->proc->machine].name, wire_body_name(env->body_case));
	if (sim->options.trace && env->body_case == UM__ENVELOPE__BODY_DESIRED)
		trace_desired(env->desired);
	sock->depth++;
	sock->ops.on_message(sock->arg, sock, to == 0 ? &peer : NULL, env, m->bulk, m->bulk_size);
	sock->depth--;
	um__envelope__free_unpacked(env, NULL);
	message_free(m);
	leave(sock);
}

static void pump(struct sim_conn *c, int to)
{
	uint32_t from_machine = c->end[!to]->proc->machine, to_machine = c->end[to]->proc->machine;
	struct message *m = c->queue[to];

	if (!m)
		return;
	if (!net_reaches(from_machine, to_machine)) {
		/* Sent again until it comes through. */
		sim_event_add(&c->pump[to], sim->now + 100 * SIM_MS);
		return;
	}
	if (m->next)
		sim_event_add(&c->pump[to], m->next->due > sim->now ? m->next->due : sim->now);
	deliver(c, to);
}

static void pump_router(void *arg)
{
	pump(arg, 0);
}

static void pump_dealer(void *arg)
{
	pump(arg, 1);
}

static struct zsock *find_router(const char *endpoint)
{
	struct zsock *sock;

	DL_FOREACH (sim->socks, sock)
		if (sock->bound && !sock->closed && !sock->proc->dead &&
			strcmp(sock->endpoint, endpoint) == 0)
			return sock;
	return NULL;
}

/* As the server's process.  False: refused. */
static bool let_in(struct zsock *router, struct zsock *dealer, char user[64])
{
	struct sim_proc *cur = sim->cur;
	int rc = 0;

	user[0] = '\0';
	if (router->config.server) {
		sim->cur = router->proc;
		rc = router->ctx->allow ? router->ctx->allow(router->ctx->arg, dealer->pubkey,
						  "10.0.0.1", user)
					: -EPERM;
		sim->cur = cur;
	}
	return rc == 0;
}

static void attempt(void *arg)
{
	struct zsock *dealer = arg, *router = find_router(dealer->endpoint);
	uint32_t from = dealer->proc->machine;
	struct sim_conn *c;
	char user[64];

	if (dealer->conn)
		return;
	if (!router || !net_reaches(from, router->proc->machine) ||
		!net_reaches(router->proc->machine, from) ||
		router->proc->paused_until > sim->now) {
		try_again(dealer, sim_between(NULL, DRAW_CONNECT, RETRY_MIN, RETRY_MAX));
		return;
	}
	if (!let_in(router, dealer, user)) {
		try_again(dealer, REFUSED_RETRY);
		dealer->depth++;
		if (dealer->ops.on_state)
			dealer->ops.on_state(dealer->arg, dealer, false,
				"the server refuses this key (ZAP status 400)");
		dealer->depth--;
		leave(dealer);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		abort();
	sim->next_conn++;
	memcpy(c->id, &sim->next_conn, sizeof(c->id));
	memcpy(c->user, user, sizeof(user));
	c->end[0] = router;
	c->end[1] = dealer;
	c->fated = dealer->proc->kind != SIM_PROC_CLIENT;
	for (int i = 0; i < 2; i++) {
		c->pump[i].fn = i ? pump_dealer : pump_router;
		c->pump[i].arg = c;
		c->pump[i].proc = c->end[i]->proc;
	}
	c->breaks.fn = conn_breaks;
	c->breaks.arg = c;
	DL_APPEND(sim->conns, c);
	HASH_ADD(hh, by_id, id, sizeof(c->id), c);
	dealer->conn = c;
	tell_state(dealer);
}

void net_drop_all(struct sim_proc *proc)
{
	struct sim_conn *c, *next;
	struct zsock *sock;

	DL_FOREACH_SAFE (sim->conns, c, next)
		if (c->end[0]->proc == proc || c->end[1]->proc == proc)
			conn_free(c);
	DL_FOREACH (sim->socks, sock)
		if (sock->proc == proc) {
			sim_event_remove(&sock->connect);
			sim_event_remove(&sock->tell);
		}
}

void net_free(void)
{
	while (sim->conns)
		conn_free(sim->conns);
	net_heal();
}

/* ---------------------------------------------------------------- sending */

static uint64_t latency(const struct zsock *from)
{
	struct sim_machine *m = &sim->machines[from->proc->machine];
	uint64_t most = m->slow ? 1500 * SIM_MS : sim->latency_max;

	/* Most are quick, few take long. */
	if (sim_draw(NULL, DRAW_LATENCY) % 8)
		most /= 10;
	return sim_between(NULL, DRAW_LATENCY, 50, most);
}

static void enqueue(struct sim_conn *c, int to, const void *data, size_t size, const void *bulk,
	size_t bulk_size)
{
	struct message *m = calloc(1, sizeof(*m)), *last = c->queue[to] ? c->queue[to]->prev : NULL;
	bool fate = c->fated && !sim->healed;

	if (!m || !(m->data = malloc(size + 1)))
		abort();
	memcpy(m->data, data, size);
	m->size = size;
	if (bulk && bulk_size) {
		m->bulk = malloc(bulk_size);
		if (!m->bulk)
			abort();
		memcpy(m->bulk, bulk, bulk_size);
		m->bulk_size = bulk_size;
	}
	m->due = sim->now + latency(c->end[!to]);
	if (last && fate && sim_chance(NULL, DRAW_FATE, sim->reorder)) {
		m->due = last->due;
		DL_PREPEND_ELEM(c->queue[to], last, m);
	} else {
		if (last && last->due > m->due)
			m->due = last->due;
		DL_APPEND(c->queue[to], m);
	}
	c->count[to]++;
	if (!c->pump[to].queued)
		sim_event_add(&c->pump[to], c->queue[to]->due);
}

static struct sim_conn *find_conn(struct zsock *sock, const struct zpeer *peer)
{
	struct sim_conn *c;

	if (sock->config.type == ZSOCK_DEALER)
		return sock->conn;
	HASH_FIND(hh, by_id, peer->id, sizeof(c->id), c);
	return c && c->end[0] == sock ? c : NULL;
}

/* What the scheduler says must be durable by then. */
static void look(const struct zsock *sock, const void *packed, size_t size)
{
	Um__Envelope *env = NULL;

	if (sock->proc->kind != SIM_PROC_SCHEDULER || wire_unpack(packed, size, &env, NULL) < 0)
		return;
	if (env->body_case == UM__ENVELOPE__BODY_DESIRED)
		check_told(env->desired);
	um__envelope__free_unpacked(env, NULL);
}

int zsock_send_packed(struct zsock *sock, const struct zpeer *peer, const void *packed, size_t size,
	const void *bulk, size_t bulk_size, struct err *err)
{
	struct sim_conn *c;
	bool fate;
	int to;

	if (sock->closed || !sim_step("send"))
		return err_set(err, -ENOTCONN, "%s is closed", sock->config.name);
	c = find_conn(sock, peer);
	if (!c)
		return sock->config.type == ZSOCK_DEALER
			       ? err_set(err, -EAGAIN, "the peer is away or its queue is full")
			       : err_set(err, -EHOSTUNREACH, "the peer is gone");
	fate = c->fated && !sim->healed;
	to = sock->config.type == ZSOCK_DEALER ? 0 : 1;
	if (c->count[to] > QUEUE_MAX ||
		(fate && sim->busy_queue && sim_chance(NULL, DRAW_FATE, 0.02)))
		return err_set(err, -EAGAIN, "the peer's queue is full");
	if (fate && sim_chance(NULL, DRAW_FATE, sim->lose))
		return 0;
	look(sock, packed, size);
	enqueue(c, to, packed, size, bulk, bulk_size);
	if (fate && sim_chance(NULL, DRAW_FATE, sim->repeat))
		enqueue(c, to, packed, size, bulk, bulk_size);
	return 0;
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

/* ---------------------------------------------------------------- sockets */

int zctx_new(struct zctx **out, struct err *err)
{
	(void)err;
	*out = calloc(1, sizeof(**out));
	if (!*out)
		abort();
	return 0;
}

void zctx_free(struct zctx *ctx)
{
	free(ctx);
}

int zsock_open(struct loop *loop, struct zctx *ctx, const struct zsock_config *config,
	const struct zsock_ops *ops, void *arg, struct zsock **out, struct err *err)
{
	struct zsock *sock = calloc(1, sizeof(*sock));

	(void)err;
	if (!sock)
		abort();
	sock->loop = loop;
	sock->proc = sim_loop_proc(loop);
	sock->ctx = ctx;
	sock->config = *config;
	sock->ops = *ops;
	sock->arg = arg;
	if (config->public_key)
		memcpy(sock->pubkey, config->public_key, sizeof(sock->pubkey));
	sock->connect.fn = attempt;
	sock->connect.arg = sock;
	sock->connect.proc = sock->proc;
	sock->tell.fn = tell_state;
	sock->tell.arg = sock;
	sock->tell.proc = sock->proc;
	DL_APPEND(sim->socks, sock);
	*out = sock;
	return 0;
}

int zsock_bind(struct zsock *sock, const char *endpoint, struct err *err)
{
	if (!sim_step("bind"))
		return err_set(err, -EIO, "dead");
	if (find_router(endpoint))
		return err_set(err, -EADDRINUSE, "%s: address in use", endpoint);
	(void)str_copy(sock->endpoint, sizeof(sock->endpoint), endpoint);
	sock->bound = true;
	return 0;
}

const char *zsock_endpoint(const struct zsock *sock)
{
	return sock->endpoint;
}

int zsock_connect(struct zsock *sock, const char *endpoint, struct err *err)
{
	(void)err;
	(void)str_copy(sock->endpoint, sizeof(sock->endpoint), endpoint);
	try_again(sock, sim_between(NULL, DRAW_CONNECT, 200, 5 * SIM_MS));
	return 0;
}

int zsock_disconnect(struct zsock *sock, const char *endpoint, struct err *err)
{
	(void)err;
	if (strcmp(sock->endpoint, endpoint) == 0)
		sock->endpoint[0] = '\0';
	if (sock->conn)
		conn_free(sock->conn);
	return 0;
}

void zsock_close(struct zsock *sock, int linger_ms)
{
	struct sim_conn *c, *next;

	(void)linger_ms;
	if (!sock || sock->closed)
		return;
	sock->closed = true;
	DL_FOREACH_SAFE (sim->conns, c, next)
		if (c->end[0] == sock || c->end[1] == sock)
			conn_free(c);
	sim_event_remove(&sock->connect);
	sim_event_remove(&sock->tell);
	leave(sock);
}

/* ---------------------------------------------------------------- ZAP */

struct curve_zap {
	struct zctx *ctx;
};

int __wrap_curve_zap_open(struct loop *loop, struct zctx *ctx, curve_allow_fn *allow, void *arg,
	struct curve_zap **out, struct err *err);
void __wrap_curve_zap_close(struct curve_zap *zap);

int __wrap_curve_zap_open(struct loop *loop, struct zctx *ctx, curve_allow_fn *allow, void *arg,
	struct curve_zap **out, struct err *err)
{
	(void)loop;
	(void)err;
	ctx->allow = allow;
	ctx->arg = arg;
	*out = calloc(1, sizeof(**out));
	if (!*out)
		abort();
	(*out)->ctx = ctx;
	return 0;
}

void __wrap_curve_zap_close(struct curve_zap *zap)
{
	if (!zap)
		return;
	zap->ctx->allow = NULL;
	free(zap);
}

/* Only for lib/curve.c, whose ZAP is not in use here. */
void *zctx_raw(struct zctx *ctx)
{
	(void)ctx;
	return NULL;
}

void zctx_count(struct zctx *ctx, int change)
{
	(void)ctx;
	(void)change;
}
