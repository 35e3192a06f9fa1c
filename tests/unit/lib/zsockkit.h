/* zsockkit: a server and a client on one loop, for the tests of lib/zsock. */
#ifndef UMLAUT_TESTS_ZSOCKKIT_H
#define UMLAUT_TESTS_ZSOCKKIT_H

#include "tests/unit/unit.h"

#include <errno.h>

#include "lib/curve.h"
#include "lib/zsock.h"

struct world {
	struct loop *loop;
	struct zctx *ctx;
	struct curve_zap *zap;
	struct zsock *server, *client;
	struct curve_pair server_key, client_key;
	struct loop_timer *deadline, *step;
	struct zpeer last_peer;
	uint64_t got, replies, bad, wanted, sent, sum, ups, bulk, stop_at;
	int send_hwm;
	bool timed_out, refused, up, allow, silent, close_server, close_client;
	char detail[200];
};

static inline int allow(
	void *arg, const uint8_t pubkey[CURVE_KEY], const char *address, char user[64])
{
	struct world *w = arg;

	assert_string_not_equal(address, "");
	if (!w->allow || memcmp(pubkey, w->client_key.public_key, CURVE_KEY) != 0)
		return -EACCES;
	memcpy(user, "alice", 6);
	return 0;
}

static inline void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static inline void server_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;
	Um__Envelope reply = wire_env(env->id);
	Um__Ok ok = UM__OK__INIT;

	w->got++;
	w->bulk = bulk_size;
	w->last_peer = *peer;
	for (size_t i = 0; i < bulk_size; i++)
		w->sum += ((const uint8_t *)bulk)[i];
	reply.body_case = UM__ENVELOPE__BODY_OK;
	reply.ok = &ok;
	if (w->got == w->stop_at)
		loop_stop(w->loop);
	if (!w->silent)
		assert_int_equal(zsock_send(sock, peer, &reply, NULL, 0, NULL), 0);
	if (w->close_server) {
		zsock_close(sock, 0);
		zsock_close(sock, 0); /* twice is as once */
		w->server = NULL;
	}
}

static inline void server_bad(
	void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id, const struct err *err)
{
	struct world *w = arg;

	(void)sock;
	(void)peer;
	(void)id;
	assert_true(err->code < 0);
	assert_string_not_equal(err->msg, "");
	w->bad++;
}

static inline void send_some(struct world *w)
{
	static const uint8_t bulk[3] = {1, 2, 3};

	/* A window of 500: the high-water marks are not the subject here. */
	while (w->sent < w->wanted && w->sent - w->replies < 500) {
		Um__Envelope env = wire_env(w->sent + 1);
		Um__ClientHello hello = UM__CLIENT_HELLO__INIT;
		bool with_bulk = w->sent % 10 == 0;

		env.body_case = UM__ENVELOPE__BODY_CLIENT_HELLO;
		env.client_hello = &hello;
		if (zsock_send(w->client, NULL, &env, with_bulk ? bulk : NULL,
			    with_bulk ? sizeof(bulk) : 0, NULL) < 0)
			return;
		w->sent++;
	}
}

static inline void client_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;

	(void)sock;
	(void)bulk;
	(void)bulk_size;
	assert_null(peer);
	w->replies++;
	assert_int_equal(env->id, w->replies);
	if (w->close_client) {
		zsock_close(w->client, 0);
		w->client = NULL;
		loop_stop(w->loop);
		return;
	}
	if (w->replies == w->wanted)
		loop_stop(w->loop);
	else
		send_some(w);
}

static inline void client_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct world *w = arg;

	(void)sock;
	w->up = up;
	(void)snprintf(w->detail, sizeof(w->detail), "%s", detail);
	w->ups += up;
	if (up) {
		send_some(w);
		if (!w->wanted)
			loop_stop(w->loop);
	} else {
		w->refused = true;
		if (!w->wanted || !w->allow)
			loop_stop(w->loop);
	}
}

static const struct zsock_ops server_ops = {.on_message = server_message, .on_bad = server_bad};
static const struct zsock_ops client_ops = {.on_message = client_message, .on_state = client_state};

static inline void server_open(struct world *w, const char *bind, bool curve)
{
	struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "server"};
	struct err err = ERR_INIT;

	config.send_hwm = w->send_hwm;
	if (curve) {
		config.server = true;
		config.secret_key = w->server_key.secret_key;
		config.public_key = w->server_key.public_key;
	}
	assert_int_equal(zsock_open(w->loop, w->ctx, &config, &server_ops, w, &w->server, &err), 0);
	if (zsock_bind(w->server, bind, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline void world_open(struct world *w, const char *bind, bool curve)
{
	struct err err = ERR_INIT;

	memset(w, 0, sizeof(*w));
	w->allow = true;
	assert_int_equal(loop_new(&w->loop, &err), 0);
	assert_int_equal(zctx_new(&w->ctx, &err), 0);
	curve_generate(&w->server_key);
	curve_generate(&w->client_key);
	assert_int_equal(
		loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &err), 0);
	loop_timer_arm(w->deadline, 60000);
	assert_int_equal(curve_zap_open(w->loop, w->ctx, allow, w, &w->zap, &err), 0);
	if (bind)
		server_open(w, bind, curve);
}

static inline void connect_client(struct world *w, bool curve, const uint8_t *server_key)
{
	struct zsock_config config = {.type = ZSOCK_DEALER, .name = "client"};
	struct err err = ERR_INIT;

	if (curve) {
		config.secret_key = w->client_key.secret_key;
		config.public_key = w->client_key.public_key;
		config.server_key = server_key;
	}
	assert_int_equal(zsock_open(w->loop, w->ctx, &config, &client_ops, w, &w->client, &err), 0);
	assert_int_equal(zsock_connect(w->client, zsock_endpoint(w->server), &err), 0);
}

static inline void world_close(struct world *w)
{
	zsock_close(w->client, 0);
	zsock_close(w->server, 0);
	curve_zap_close(w->zap);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->ctx);
}

#endif
