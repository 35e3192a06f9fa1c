/* Requests: replies, streams of replies, timeouts, failure of all, and callbacks
 * that add, cancel and free. */
#include "tests/unit/unit.h"

#include <errno.h>

#include "lib/rpc.h"

struct world {
	struct loop *loop;
	struct loop_timer *deadline;
	struct rpc *rpc;
	uint64_t id, other, calls, ends, more, bulk;
	uint64_t last_at;
	int code;
	char msg[200];
	bool timed_out, add, free_it, cancel_it, stop;
};

static void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static void world_open(struct world *w)
{
	memset(w, 0, sizeof(*w));
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	assert_int_equal(
		loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, NULL), 0);
	loop_timer_arm(w->deadline, 20000);
	assert_int_equal(rpc_new(w->loop, &w->rpc, NULL), 0);
}

static void world_close(struct world *w)
{
	rpc_free(w->rpc);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
}

static void run(struct world *w)
{
	assert_int_equal(loop_run(w->loop, NULL), 0);
	assert_false(w->timed_out);
}

static void on_reply(
	void *arg, const Um__Envelope *env, const void *bulk, size_t size, const struct err *err)
{
	struct world *w = arg;

	(void)bulk;
	w->calls++;
	w->bulk += size;
	w->code = err ? err->code : 0;
	(void)snprintf(w->msg, sizeof(w->msg), "%.190s", err ? err->msg : "");
	assert_true(env || err);
	if (env && env->more)
		w->more++;
	else
		w->ends++;
	if (w->cancel_it)
		rpc_cancel(w->rpc, w->other);
	if (w->add) {
		w->add = false;
		w->id = rpc_add(w->rpc, 60000, on_reply, w);
	}
	if (w->free_it) {
		rpc_free(w->rpc);
		w->rpc = NULL;
	}
	if (w->stop)
		loop_stop(w->loop);
}

static bool deliver(struct world *w, uint64_t id, bool more, size_t bulk)
{
	static const uint8_t data[100];
	Um__Envelope env = wire_env(id);
	Um__Ok ok = UM__OK__INIT;

	env.more = more;
	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	return rpc_deliver(w->rpc, &env, bulk ? data : NULL, bulk);
}

static void test_replies(void **state)
{
	struct world w;
	uint64_t id, second;

	(void)state;
	world_open(&w);
	id = rpc_add(w.rpc, 1000, on_reply, &w);
	second = rpc_add(w.rpc, 0, on_reply, &w);
	assert_true(id && second && id != second);
	assert_int_equal(rpc_pending(w.rpc), 2);
	assert_false(deliver(&w, 0, false, 0));
	assert_false(deliver(&w, 4711, false, 0));
	assert_true(deliver(&w, id, true, 7));
	assert_true(deliver(&w, id, true, 0));
	assert_true(deliver(&w, id, false, 10));
	assert_int_equal(w.more, 2);
	assert_int_equal(w.ends, 1);
	assert_int_equal(w.bulk, 17);
	assert_false(deliver(&w, id, false, 0)); /* it has ended */
	rpc_cancel(w.rpc, second);
	rpc_cancel(w.rpc, second);
	assert_false(deliver(&w, second, false, 0));
	assert_int_equal(w.calls, 3);
	assert_int_equal(rpc_pending(w.rpc), 0);
	world_close(&w);
}

static void test_error_reply(void **state)
{
	Um__Envelope env = wire_env(0);
	Um__Error error = UM__ERROR__INIT;
	struct world w;

	(void)state;
	world_open(&w);
	error.code = UM__ERROR_CODE__NOT_FOUND;
	error.message = (char *)(uintptr_t) "no guest of this name";
	env.id = rpc_add(w.rpc, 1000, on_reply, &w);
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	assert_true(rpc_deliver(w.rpc, &env, NULL, 0));
	assert_int_equal(w.code, -ENOENT);
	assert_string_equal(w.msg, "no guest of this name");
	error.message = (char *)(uintptr_t) "";
	env.id = rpc_add(w.rpc, 1000, on_reply, &w);
	assert_true(rpc_deliver(w.rpc, &env, NULL, 0));
	assert_string_equal(w.msg, "refused without a reason");
	world_close(&w);
}

static void test_timeout(void **state)
{
	struct world w;
	uint64_t start, id;

	(void)state;
	world_open(&w);
	start = loop_now(w.loop);
	assert_true(rpc_add(w.rpc, 0, on_reply, &w) != 0); /* none */
	assert_true(rpc_add(w.rpc, 60000, on_reply, &w) != 0);
	id = rpc_add(w.rpc, 30, on_reply, &w);
	w.stop = true;
	run(&w);
	assert_true(loop_now(w.loop) - start >= 30);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.code, -ETIMEDOUT);
	assert_string_equal(w.msg, "no answer within 30 ms");
	assert_false(deliver(&w, id, false, 0)); /* too late */
	assert_int_equal(rpc_pending(w.rpc), 2);
	world_close(&w);
}

struct many {
	struct world *w;
	uint64_t deadline;
};

static void on_many(
	void *arg, const Um__Envelope *env, const void *bulk, size_t size, const struct err *err)
{
	struct many *m = arg;

	(void)bulk;
	(void)size;
	assert_null(env);
	assert_int_equal(err->code, -ETIMEDOUT);
	/* In the order of their deadlines, never before. */
	assert_true(m->deadline >= m->w->last_at);
	assert_true(loop_now(m->w->loop) >= m->deadline);
	m->w->last_at = m->deadline;
	if (--m->w->calls == 0)
		loop_stop(m->w->loop);
}

/* Thousands of random deadlines, two thirds cancelled from both ends. */
static void test_many(void **state)
{
	static struct many many[9000];
	static uint64_t ids[9000];
	struct world w;
	uint32_t seed = 5;

	(void)state;
	world_open(&w);
	for (size_t i = 0; i < UNIT_COUNT(many); i++) {
		seed = seed * 1664525u + 1013904223u;
		uint64_t timeout = 50 + (seed >> 8) % 400;

		many[i] = (struct many){.w = &w, .deadline = loop_now(w.loop) + timeout};
		ids[i] = rpc_add(w.rpc, timeout, on_many, &many[i]);
	}
	for (size_t i = 0; i < UNIT_COUNT(many); i += 3)
		rpc_cancel(w.rpc, ids[i]);
	for (size_t i = UNIT_COUNT(many) - 2; i < UNIT_COUNT(many); i -= 3)
		rpc_cancel(w.rpc, ids[i]);
	w.calls = UNIT_COUNT(many) / 3;
	assert_int_equal(rpc_pending(w.rpc), w.calls);
	run(&w);
	assert_int_equal(w.calls, 0);
	assert_int_equal(rpc_pending(w.rpc), 0);
	world_close(&w);
}

static void on_more(void *arg)
{
	struct world *w = arg;

	if (w->ends) {
		loop_stop(w->loop);
		return;
	}
	if (w->more < 5)
		assert_true(deliver(w, w->id, true, 0));
	loop_timer_arm((struct loop_timer *)(uintptr_t)w->other, 30);
}

/* Each reply with `more` gives the request its time anew. */
static void test_more_restarts(void **state)
{
	struct loop_timer *timer;
	struct world w;
	uint64_t start;

	(void)state;
	world_open(&w);
	assert_int_equal(loop_timer_open(w.loop, "more", on_more, &w, &timer, NULL), 0);
	w.other = (uintptr_t)timer;
	start = loop_now(w.loop);
	w.id = rpc_add(w.rpc, 80, on_reply, &w);
	loop_timer_arm(timer, 30);
	run(&w);
	assert_int_equal(w.more, 5);
	assert_int_equal(w.code, -ETIMEDOUT);
	assert_true(loop_now(w.loop) - start >= 150 + 80);
	loop_timer_close(timer);
	world_close(&w);
}

static void test_fail_all(void **state)
{
	struct err gone = ERR_INIT;
	struct world w;

	(void)state;
	world_open(&w);
	(void)err_set(&gone, -EHOSTUNREACH, "the scheduler is gone");
	for (int i = 0; i < 100; i++)
		assert_true(rpc_add(w.rpc, i % 2 ? 1000 : 0, on_reply, &w) != 0);
	w.add = true; /* the first adds a new one, which is not failed */
	rpc_fail_all(w.rpc, &gone);
	assert_int_equal(w.calls, 100);
	assert_int_equal(w.code, -EHOSTUNREACH);
	assert_int_equal(rpc_pending(w.rpc), 1);
	assert_true(deliver(&w, w.id, false, 0));
	world_close(&w);
}

/* A callback cancels another that is due, frees all, by each of the three ways. */
static void test_inside(void **state)
{
	struct err gone = ERR_INIT;
	struct world w;

	(void)state;
	(void)err_set(&gone, -EHOSTUNREACH, "gone");
	world_open(&w);
	assert_true(rpc_add(w.rpc, 10, on_reply, &w) != 0);
	w.other = rpc_add(w.rpc, 10, on_reply, &w);
	w.cancel_it = w.stop = true;
	run(&w);
	assert_int_equal(w.calls, 1);
	assert_int_equal(rpc_pending(w.rpc), 0);
	world_close(&w);

	for (int way = 0; way < 3; way++) {
		uint64_t id;

		world_open(&w);
		id = rpc_add(w.rpc, 10, on_reply, &w);
		assert_true(rpc_add(w.rpc, 10, on_reply, &w) != 0);
		assert_true(rpc_add(w.rpc, 0, on_reply, &w) != 0);
		w.free_it = w.stop = true;
		if (way == 0)
			run(&w);
		else if (way == 1)
			rpc_fail_all(w.rpc, &gone);
		else
			assert_true(deliver(&w, id, true, 0));
		assert_int_equal(w.calls, 1);
		world_close(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replies),
		cmocka_unit_test(test_error_reply),
		cmocka_unit_test(test_timeout),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_more_restarts),
		cmocka_unit_test(test_fail_all),
		cmocka_unit_test(test_inside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
