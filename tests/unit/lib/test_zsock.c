/* ZeroMQ sockets on the loop: CURVE and ZAP, many messages, wrong keys, ipc. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "lib/curve.h"
#include "lib/rpc.h"
#include "lib/zsock.h"

struct world {
	struct loop *loop;
	struct zctx *ctx;
	struct curve_zap *zap;
	struct zsock *server, *client;
	struct curve_pair server_key, client_key;
	struct loop_timer *deadline, *step;
	struct zpeer last_peer;
	uint64_t got, replies, bad, wanted, sent, sum;
	bool timed_out, refused, up, allow;
	char detail[200];
};

static int allow(void *arg, const uint8_t pubkey[CURVE_KEY], const char *address, char user[64])
{
	struct world *w = arg;

	assert_string_not_equal(address, "");
	if (!w->allow || memcmp(pubkey, w->client_key.public_key, CURVE_KEY) != 0)
		return -EACCES;
	memcpy(user, "alice", 6);
	return 0;
}

static void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static void server_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;
	Um__Envelope reply = wire_env(env->id);
	Um__Ok ok = UM__OK__INIT;

	w->got++;
	w->last_peer = *peer;
	for (size_t i = 0; i < bulk_size; i++)
		w->sum += ((const uint8_t *)bulk)[i];
	reply.body_case = UM__ENVELOPE__BODY_OK;
	reply.ok = &ok;
	assert_int_equal(zsock_send(sock, peer, &reply, NULL, 0, NULL), 0);
}

static void server_bad(void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id,
	const struct err *err)
{
	struct world *w = arg;

	(void)sock;
	(void)peer;
	(void)id;
	assert_true(err->code < 0);
	w->bad++;
}

static void send_some(struct world *w)
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

static void client_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;

	(void)sock;
	(void)bulk;
	(void)bulk_size;
	assert_null(peer);
	w->replies++;
	assert_int_equal(env->id, w->replies);
	if (w->replies == w->wanted)
		loop_stop(w->loop);
	else
		send_some(w);
}

static void client_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct world *w = arg;

	(void)sock;
	w->up = up;
	(void)snprintf(w->detail, sizeof(w->detail), "%s", detail);
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

static const struct zsock_ops server_ops = {
	.on_message = server_message, .on_bad = server_bad};
static const struct zsock_ops client_ops = {
	.on_message = client_message, .on_state = client_state};

static void world_open(struct world *w, const char *bind, bool curve)
{
	struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "server"};
	struct err err = ERR_INIT;

	memset(w, 0, sizeof(*w));
	w->allow = true;
	assert_int_equal(loop_new(&w->loop, &err), 0);
	assert_int_equal(zctx_new(&w->ctx, &err), 0);
	curve_generate(&w->server_key);
	curve_generate(&w->client_key);
	assert_int_equal(loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &err), 0);
	loop_timer_arm(w->deadline, 60000);
	assert_int_equal(curve_zap_open(w->loop, w->ctx, allow, w, &w->zap, &err), 0);
	if (curve) {
		config.server = true;
		config.secret_key = w->server_key.secret_key;
		config.public_key = w->server_key.public_key;
	}
	assert_int_equal(zsock_open(w->loop, w->ctx, &config, &server_ops, w, &w->server, &err), 0);
	if (zsock_bind(w->server, bind, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static void connect_client(struct world *w, bool curve, const uint8_t *server_key)
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

static void world_close(struct world *w)
{
	zsock_close(w->client, 0);
	zsock_close(w->server, 0);
	curve_zap_close(w->zap);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->ctx);
}

static void test_curve_many(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	connect_client(&w, true, w.server_key.public_key);
	w.wanted = 100000;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.got, w.wanted);
	assert_int_equal(w.replies, w.wanted);
	assert_int_equal(w.sum, w.wanted / 10 * 6);
	assert_string_equal(w.last_peer.user, "alice");
	assert_memory_equal(w.last_peer.pubkey, w.client_key.public_key, CURVE_KEY);
	assert_false(w.last_peer.local);
	world_close(&w);
}

static void test_refused_key(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	w.allow = false;
	connect_client(&w, true, w.server_key.public_key);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_true(w.refused);
	assert_int_equal(w.got, 0);
	world_close(&w);
}

static void test_wrong_server(void **state)
{
	struct curve_pair other;
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	curve_generate(&other);
	w.wanted = 1;
	w.allow = false; /* ends the loop at the first refusal */
	connect_client(&w, true, other.public_key);
	loop_timer_arm(w.deadline, 1500);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.up);
	assert_int_equal(w.got, 0);
	world_close(&w);
}

static void test_ipc_and_nonsense(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "ipc:///tmp/umlaut-test-zsock.sock", false);
	connect_client(&w, false, NULL);
	w.wanted = 1000;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_true(w.last_peer.local);
	assert_int_equal(w.replies, 1000);
	world_close(&w);
	(void)remove("/tmp/umlaut-test-zsock.sock");
}

/* An idle pair must not turn the loop. */
static void test_idle(void **state)
{
	struct rusage before, after;
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	connect_client(&w, true, w.server_key.public_key);
	assert_int_equal(loop_run(w.loop, NULL), 0); /* until it is up */
	assert_true(w.up);
	loop_timer_arm(w.deadline, 1000);
	(void)getrusage(RUSAGE_THREAD, &before);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	(void)getrusage(RUSAGE_THREAD, &after);
	int64_t used = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 +
		       after.ru_utime.tv_usec - before.ru_utime.tv_usec;

	assert_true(used < 100000);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_curve_many),
		cmocka_unit_test(test_refused_key),
		cmocka_unit_test(test_wrong_server),
		cmocka_unit_test(test_ipc_and_nonsense),
		cmocka_unit_test(test_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
