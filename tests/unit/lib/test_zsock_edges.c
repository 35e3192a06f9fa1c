/* ZeroMQ sockets at their limits: full queues, peers that go and come back,
 * handles closed inside their callbacks, damage, clean ends. */
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "tests/unit/lib/zsockkit.h"

/* ---------------------------------------------------------------- limits */

static int send_bulk(struct zsock *sock, const struct zpeer *peer, const void *bulk, size_t size,
	struct err *err)
{
	Um__Envelope env = wire_env(1);
	Um__Ok ok = UM__OK__INIT;

	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	return zsock_send(sock, peer, &env, bulk, size, err);
}

/* The largest bulk gets through CURVE, and one byte more is refused here. */
static void test_largest(void **state)
{
	uint8_t *bulk = calloc(1, WIRE_MESSAGE_MAX + 1);
	struct err err = ERR_INIT;
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	connect_client(&w, true, w.server_key.public_key);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_true(w.up);
	assert_int_equal(send_bulk(w.client, NULL, bulk, WIRE_MESSAGE_MAX + 1, &err), -EMSGSIZE);
	unit_ok(send_bulk(w.client, NULL, bulk, WIRE_MESSAGE_MAX, &err), &err);
	w.wanted = 1;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.bulk, WIRE_MESSAGE_MAX);
	assert_int_equal(w.bad, 0);
	world_close(&w);
	free(bulk);
}

static void on_step(void *arg)
{
	struct world *w = arg;

	loop_stop(w->loop);
}

static void turn(struct world *w, uint64_t ms)
{
	loop_timer_arm(w->step, ms);
	assert_int_equal(loop_run(w->loop, NULL), 0);
	assert_false(w->timed_out);
}

static void *raw_dealer(struct world *w, void *ctx)
{
	void *raw = zmq_socket(ctx, ZMQ_DEALER);
	int hwm = 5, linger = 0;

	assert_non_null(raw);
	(void)zmq_setsockopt(raw, ZMQ_RCVHWM, &hwm, sizeof(hwm));
	(void)zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof(linger));
	assert_int_equal(zmq_connect(raw, zsock_endpoint(w->server)), 0);
	return raw;
}

static void raw_send(void *raw, const void *data, size_t size, bool more)
{
	assert_int_equal(zmq_send(raw, data, size, more ? ZMQ_SNDMORE : 0), (int)size);
}

static void pack_hello(struct buf *out)
{
	Um__Envelope env = wire_env(77);
	Um__ClientHello hello = UM__CLIENT_HELLO__INIT;

	hello.version = (char *)(uintptr_t) "0.1.0 of a peer";
	env.body_case = UM__ENVELOPE__BODY_CLIENT_HELLO;
	env.client_hello = &hello;
	assert_int_equal(wire_pack(&env, WIRE_MESSAGE_MAX, out, NULL), 0);
}

/* A peer that does not read: its queue fills, -EAGAIN at once; when it is gone,
 * -EHOSTUNREACH.  Ending waits for it no longer than it was told to. */
static void full_queue(bool goes, int linger_ms)
{
	uint8_t *bulk = calloc(1, 1u << 20);
	struct err err = ERR_INIT;
	struct buf hello;
	struct world w;
	void *raw, *ctx = zmq_ctx_new();
	uint64_t start;
	int rc, sent = 0;

	world_open(&w, NULL, false);
	w.send_hwm = 5;
	server_open(&w, "tcp://127.0.0.1:0", false);
	assert_int_equal(loop_timer_open(w.loop, "step", on_step, &w, &w.step, NULL), 0);
	raw = raw_dealer(&w, ctx);
	buf_init(&hello);
	pack_hello(&hello);
	raw_send(raw, hello.data, hello.size, false);
	w.silent = true;
	w.stop_at = 1;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_int_equal(w.got, 1);
	start = proc_mono_ms();
	for (int quiet = 0; quiet < 5;) { /* ZeroMQ's own thread moves some on */
		rc = send_bulk(w.server, &w.last_peer, bulk, 1u << 20, &err);
		sent += rc == 0;
		quiet = rc ? quiet + 1 : 0;
		if (rc)
			turn(&w, 20);
		assert_true(sent < 200);
	}
	assert_int_equal(rc, -EAGAIN);
	unit_says(&err, "queue is full");
	assert_true(sent >= 5);
	assert_true(proc_mono_ms() - start < 20000);
	start = proc_mono_ms();
	if (goes) {
		(void)zmq_close(raw);
		raw = NULL;
		while ((rc = send_bulk(w.server, &w.last_peer, bulk, 10, &err)) == -EAGAIN || !rc) {
			assert_true(proc_mono_ms() - start < 20000);
			turn(&w, 20);
		}
		assert_int_equal(rc, -EHOSTUNREACH);
	}
	start = proc_mono_ms();
	zsock_close(w.server, linger_ms);
	w.server = NULL;
	assert_true(proc_mono_ms() - start < 200);
	loop_timer_close(w.step);
	world_close(&w);
	assert_true(proc_mono_ms() - start < 5000);
	if (raw)
		(void)zmq_close(raw);
	(void)zmq_ctx_term(ctx);
	buf_free(&hello);
	free(bulk);
}

static void test_full_queue(void **state)
{
	(void)state;
	full_queue(true, 0);
}

static void test_linger_ends(void **state)
{
	(void)state;
	full_queue(false, 300);
	full_queue(false, -1); /* for ever, to ZeroMQ */
}

/* What was sent just before the end still arrives. */
static void test_linger_delivers(void **state)
{
	struct zctx *other;
	struct zctx *ctx;
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	assert_int_equal(zctx_new(&other, NULL), 0);
	ctx = w.ctx;
	w.ctx = other;
	connect_client(&w, true, w.server_key.public_key);
	w.ctx = ctx;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_true(w.up);
	w.silent = true;
	for (int i = 0; i < 500; i++)
		assert_int_equal(send_bulk(w.client, NULL, "x", 1, NULL), 0);
	zsock_close(w.client, 5000);
	w.client = NULL;
	w.stop_at = 500;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.got, 500);
	zctx_free(other);
	world_close(&w);
}

/* A socket that was forgotten is named, and does not hang the end. */
static void test_forgotten(void **state)
{
	struct log_config config = {.program = "test", .instance = "", .level = LOG_INFO};
	char text[1000] = "";
	struct world w;
	int log[2];

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	assert_int_equal(pipe(log), 0);
	config.fd = log[1];
	log_init(&config);
	zctx_free(w.ctx);
	config.fd = 2;
	log_init(&config);
	assert_true(read(log[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "sockets still open"));
	assert_non_null(strstr(text, "sockets=2"));
	(void)close(log[0]);
	(void)close(log[1]);
	world_close(&w);
}

/* ---------------------------------------------------------------- going and coming */

static void test_restart(void **state)
{
	uint64_t deadline = proc_mono_ms() + 10000;
	char endpoint[100];
	struct err err = ERR_INIT;
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	connect_client(&w, true, w.server_key.public_key);
	w.wanted = 1000;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_int_equal(w.replies, 1000);
	(void)snprintf(endpoint, sizeof(endpoint), "%s", zsock_endpoint(w.server));
	zsock_close(w.server, 0);
	w.server = NULL;
	w.wanted = 0;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.up);
	assert_string_equal(w.detail, "disconnected");
	/* Nothing is queued for a server that is away; ZeroMQ's own thread tells of
	 * its end a moment before it lets go of the queue. */
	while (send_bulk(w.client, NULL, NULL, 0, &err) != -EAGAIN)
		assert_true(proc_mono_ms() < deadline);
	server_open(&w, endpoint, true);
	w.wanted = 2000;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.ups, 2);
	assert_int_equal(w.got, 2000);
	assert_int_equal(w.replies, 2000);
	world_close(&w);
}

static void test_closed_inside(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", true);
	connect_client(&w, true, w.server_key.public_key);
	w.wanted = 300;
	w.close_client = true;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.replies, 1);
	assert_null(w.client);
	world_close(&w);

	world_open(&w, "tcp://127.0.0.1:0", true);
	connect_client(&w, true, w.server_key.public_key);
	w.wanted = 300;
	w.close_server = w.silent = true;
	w.stop_at = 1;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.got, 1);
	world_close(&w);
}

static void closing_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct world *w = arg;

	(void)detail;
	w->up = up;
	zsock_close(sock, 0);
	w->client = NULL;
	loop_stop(w->loop);
}

static void test_closed_in_state(void **state)
{
	static const struct zsock_ops ops = {
		.on_message = client_message, .on_state = closing_state};
	struct zsock_config config = {.type = ZSOCK_DEALER, .name = "client"};
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", false);
	assert_int_equal(zsock_open(w.loop, w.ctx, &config, &ops, &w, &w.client, NULL), 0);
	assert_int_equal(zsock_connect(w.client, zsock_endpoint(w.server), NULL), 0);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_true(w.up);
	assert_null(w.client);
	world_close(&w);
}

/* ---------------------------------------------------------------- damage */

/* 400 damaged or cut messages and wrong numbers of parts: each is refused or is a
 * message; and the next good one is heard. */
static void test_damage(void **state)
{
	void *raw, *ctx = zmq_ctx_new();
	uint32_t seed = 99;
	struct buf hello;
	struct world w;

	(void)state;
	world_open(&w, "tcp://127.0.0.1:0", false);
	raw = raw_dealer(&w, ctx);
	w.silent = true;
	buf_init(&hello);
	pack_hello(&hello);
	for (int i = 0; i < 400; i++) {
		uint8_t copy[100];
		size_t size = hello.size;

		assert_true(size <= sizeof(copy));
		memcpy(copy, hello.data, size);
		seed = seed * 1664525u + 1013904223u;
		copy[(seed >> 8) % size] ^= (uint8_t)(1 + (seed >> 16) % 255);
		if (i % 3 == 0)
			size = (seed >> 12) % size;
		raw_send(raw, copy, size, false);
	}
	for (int parts = 1; parts <= 6; parts++)
		for (int i = parts; i > 0; i--)
			raw_send(raw, hello.data, hello.size, i > 1);
	w.stop_at = UINT64_MAX;
	loop_timer_arm(w.deadline, 20000);
	while (w.got + w.bad < 406 && !w.timed_out) {
		struct loop_timer *step;

		assert_int_equal(loop_timer_open(w.loop, "step", on_step, &w, &step, NULL), 0);
		loop_timer_arm(step, 10);
		assert_int_equal(loop_run(w.loop, NULL), 0);
		loop_timer_close(step);
	}
	assert_int_equal(w.got + w.bad, 406);
	assert_true(w.bad > 200);
	assert_true(w.got >= 2);
	(void)zmq_close(raw);
	(void)zmq_ctx_term(ctx);
	buf_free(&hello);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_largest),
		cmocka_unit_test(test_full_queue),
		cmocka_unit_test(test_linger_ends),
		cmocka_unit_test(test_linger_delivers),
		cmocka_unit_test(test_forgotten),
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_closed_inside),
		cmocka_unit_test(test_closed_in_state),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
