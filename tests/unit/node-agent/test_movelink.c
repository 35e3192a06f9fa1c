/* Both sessions of a move over real sockets: rounds, rate, breaks, restarts of
 * either side, refusals. */
#include "tests/unit/guest/umlkit.h"

#include <openssl/sha.h>
#include <uv.h>

#include "guest/cow.h"
#include "node-agent/moverecv.h"
#include "node-agent/movesend.h"

#define DISK (32u << 20)
#define UID 42u

static struct kit_dir dir;
static char base[128], from[128], to[128], endpoint[160];
static const uint8_t image[32] = {1, 2, 3};
static uint64_t seed;

struct world {
	struct loop *loop;
	struct zctx *zctx;
	struct zsock *router;
	struct movesend *send;
	struct moverecv *recv;
	struct loop_timer *deadline;
	unsigned batches, offers;
	unsigned cut_after; /* batches, then the target restarts; 0: never */
	bool source_restarts, mute;
	bool strict;
	uint64_t last_at, last_ms; /* the stop, and how long what came then took */
	unsigned writes;	   /* pieces before the stop; 0: 20 */
	unsigned readies, again;   /* READYs to be left by another round */
	struct loop_timer *stop;
	bool released, let_go;
	uint32_t most_ms;
	bool timed_out, ready, sealed_there, sealed_here, failed;
	uint64_t epoch, rate;
	char why[ERR_MSG_SIZE];
};

#define ok(call)                                                  \
	do {                                                      \
		struct err err = ERR_INIT;                        \
		if ((call) < 0)                                   \
			fail_msg("%s: %s", #call, err_msg(&err)); \
	} while (0)

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static struct cow_spec spec_of(void)
{
	return (struct cow_spec){.backing = base,
		.size = DISK,
		.mtime = 1,
		.mode = 0600,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1};
}

static void scribble(unsigned count)
{
	static uint8_t data[16 * 1024];
	struct cow *cow = NULL;

	ok(cow_open(from, true, &cow, &err));
	for (unsigned i = 0; i < count; i++) {
		for (size_t b = 0; b < sizeof(data); b++)
			data[b] = (uint8_t)rnd();
		ok(cow_write(cow, rnd() % ((DISK - sizeof(data)) / 512) * 512, data, sizeof(data),
			&err));
	}
	cow_close(cow);
}

static void sum_of(const char *path, uint8_t out[32])
{
	struct cow *cow = NULL;
	uint8_t *data = malloc(DISK);

	assert_non_null(data);
	ok(cow_open(path, false, &cow, &err));
	ok(cow_check(cow, &err));
	ok(cow_read(cow, -1, 0, data, DISK, &err));
	(void)SHA256(data, DISK, out);
	cow_close(cow);
	free(data);
}

static void assert_same(void)
{
	uint8_t a[32], b[32];

	sum_of(from, a);
	sum_of(to, b);
	assert_memory_equal(a, b, 32);
}

/* ---------------------------------------------------------------- the two sides */

static void open_recv(struct world *w);
static void open_send(struct world *w);

static void there_sealed(void *arg, const uint8_t digest[MOVE_DIGEST])
{
	struct world *w = arg;

	(void)digest;
	w->sealed_there = true;
	moverecv_close(w->recv);
	w->recv = NULL;
}

static void there_released(void *arg)
{
	struct world *w = arg;

	w->let_go = true;
}

static void open_recv(struct world *w)
{
	static const struct moverecv_ops ops = {
		.on_sealed = there_sealed, .on_released = there_released};
	struct moverecv_config config = {.move = UID,
		.epoch = 5,
		.disk_generation = 1,
		.path = to,
		.spec = spec_of(),
		.image_id = image};

	ok(moverecv_open(w->loop, &config, &ops, w, &w->recv, &err));
}

/* The guest has written since, and then ended. */
static void on_stop(void *arg)
{
	struct world *w = arg;

	if (!movesend_fresh(w->send)) {
		movesend_again(w->send);
		return;
	}
	scribble(w->writes ? w->writes : 20);
	w->last_at = kit_now_ms();
	movesend_last(w->send, 0, 0);
}

static void on_ready(void *arg)
{
	struct world *w = arg;

	w->ready = true;
	w->readies++;
	assert_true(movesend_fresh(w->send));
	if (w->readies <= w->again)
		loop_timer_arm(w->stop, MOVESEND_FRESH_MS + 100);
	else
		on_stop(w);
}

static void on_sealed(void *arg, const uint8_t digest[MOVE_DIGEST])
{
	struct world *w = arg;

	(void)digest;
	w->sealed_here = true;
	w->last_ms = kit_now_ms() - w->last_at;
	loop_stop(w->loop);
}

static void on_failed(void *arg, const struct err *err)
{
	struct world *w = arg;

	w->failed = true;
	(void)snprintf(w->why, sizeof(w->why), "%s", err->msg);
	loop_stop(w->loop);
}

static void on_released(void *arg)
{
	struct world *w = arg;

	w->released = true;
}

static void open_send(struct world *w)
{
	static const struct movesend_ops ops = {on_ready, on_sealed, on_failed, on_released};
	struct movesend_config config = {.cow = from,
		.move = UID,
		.epoch = w->epoch,
		.disk_generation = 1,
		.image_id = image,
		.endpoint = endpoint,
		.rate = w->rate,
		.max_downtime_ms = w->most_ms ? w->most_ms : 200,
		.strict = w->strict,
		.quiet_ms = w->cut_after || w->mute || w->offers ? 1000 : 20000,
		.patience_ms = w->mute ? 3500 : 0};

	ok(movesend_open(w->loop, w->zctx, &config, &ops, w, &w->send, &err));
}

static void restart(struct world *w)
{
	w->batches = 0;
	if (w->source_restarts) {
		movesend_close(w->send);
		open_send(w);
	}
	moverecv_close(w->recv);
	open_recv(w);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;

	w->offers += env->body_case == UM__ENVELOPE__BODY_MOVE_OFFER;
	w->batches += env->body_case == UM__ENVELOPE__BODY_MOVE_BLOCKS;
	if (w->cut_after && w->batches == w->cut_after) {
		w->cut_after += w->offers < 4;
		if (w->offers >= 4)
			w->cut_after = 0;
		restart(w);
		return;
	}
	if (w->recv && !w->mute)
		(void)moverecv_message(w->recv, sock, peer, env, bulk, bulk_size);
}

static void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static void begin(struct world *w)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "there"};

	w->epoch = w->epoch ? w->epoch : 5;
	ok(loop_new(&w->loop, &err));
	ok(zctx_new(&w->zctx, &err));
	ok(loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &err));
	loop_timer_arm(w->deadline, 120000);
	ok(loop_timer_open(w->loop, "stop", on_stop, w, &w->stop, &err));
	ok(zsock_open(w->loop, w->zctx, &config, &ops, w, &w->router, &err));
	ok(zsock_bind(w->router, endpoint, &err));
	open_recv(w);
	open_send(w);
}

static void end(struct world *w)
{
	moverecv_close(w->recv);
	movesend_close(w->send);
	zsock_close(w->router, 0);
	loop_timer_close(w->deadline);
	loop_timer_close(w->stop);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->zctx);
}

static int setup(void **state)
{
	struct cow_spec spec = spec_of();
	char empty[1] = {0};

	(void)state;
	seed = 88172645463325252u;
	kit_dir_make(&dir);
	(void)snprintf(base, sizeof(base), "%s/base", dir.path);
	(void)snprintf(from, sizeof(from), "%s/cow", dir.path);
	(void)snprintf(to, sizeof(to), "%s/in", dir.path);
	(void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/peers", dir.path);
	kit_write(base, empty, 1, 0600);
	ok(cow_create(from, &spec, &err));
	scribble(600);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_dir_remove(&dir);
	return 0;
}

static void loop_once(struct loop *loop)
{
	(void)uv_run(loop_uv(loop), UV_RUN_ONCE);
}

static void expect_moved(struct world *w)
{
	ok(loop_run(w->loop, &err));
	if (w->failed)
		fail_msg("%s", w->why);
	assert_false(w->timed_out);
	assert_true(w->sealed_here && w->sealed_there);
}

static void test_plain(void **state)
{
	struct world w = {0};
	struct movesend_status st;

	(void)state;
	begin(&w);
	expect_moved(&w);
	movesend_status(w.send, &st);
	assert_true(w.ready);
	assert_int_equal(st.state, MS_SEALED);
	assert_int_equal(st.breaks, 0);
	assert_true(st.progress.round >= 2);
	assert_true(st.bytes > 8u << 20 && st.wire_bytes <= st.bytes + st.bytes / 20);
	end(&w);
	assert_same();
}

static void test_rate(void **state)
{
	struct world w = {.rate = 8u << 20};
	uint64_t began = kit_now_ms(), took;
	struct movesend_status st;

	(void)state;
	begin(&w);
	expect_moved(&w);
	took = kit_now_ms() - began;
	movesend_status(w.send, &st);
	/* The first batch, and the last, wait for nobody. */
	assert_true(took + 1500 >= st.bytes * 1000 / (8u << 20));
	end(&w);
	assert_same();
}

/* While the guest stands still the rate does not count. */
static void test_rate_last(void **state)
{
	struct world w = {.rate = 4u << 20, .writes = 800};

	(void)state;
	begin(&w);
	expect_moved(&w);
	/* 12 MiB: 3 s at that rate. */
	assert_true(w.last_ms < 2000);
	end(&w);
	assert_same();
}

/* A READY that is old is followed by another round before the guest is stopped. */
static void test_again(void **state)
{
	struct world w = {.again = 1};
	struct movesend_status st;

	(void)state;
	begin(&w);
	expect_moved(&w);
	movesend_status(w.send, &st);
	assert_int_equal(w.readies, 2);
	assert_true(st.progress.round >= 4);
	end(&w);
	assert_same();
}

/* The target's copy has a block that the source never had: it is made anew, once. */
static void test_foreign(void **state)
{
	struct cow_spec spec = spec_of();
	char was[128];
	struct world w = {0};

	(void)state;
	ok(cow_create(to, &spec, &err));
	(void)snprintf(was, sizeof(was), "%s", from);
	(void)snprintf(from, sizeof(from), "%s", to);
	scribble(5);
	(void)snprintf(from, sizeof(from), "%s", was);
	begin(&w);
	expect_moved(&w);
	assert_int_equal(w.offers, 2);
	end(&w);
	assert_same();
}

/* Closed in the middle of a long look, with the lock on the disk: it is free as soon as that
 * is said, and that is soon. */
static void test_closed_busy(void **state)
{
	struct world w = {0};
	struct cow *cow = NULL;
	uint64_t began;

	(void)state;
	ok(cow_open(from, true, &cow, &err));
	for (uint64_t at = 0; at < DISK; at += 1 << 20)
		ok(cow_zero(cow, at, 1 << 20, &err));
	cow_close(cow);
	begin(&w);
	while (!w.last_at)
		loop_once(w.loop);
	began = kit_now_ms();
	movesend_close(w.send);
	w.send = NULL;
	while (!w.released)
		loop_once(w.loop);
	assert_true(kit_now_ms() - began < 1000);
	ok(cow_open(from, true, &cow, &err));
	cow_close(cow);
	end(&w);
}

/* The same at the target, while it reads what it has. */
static void test_target_closed_busy(void **state)
{
	struct cow_spec spec = spec_of();
	struct world w = {0};
	struct cow *cow = NULL;

	(void)state;
	ok(cow_create(to, &spec, &err));
	ok(cow_open(to, true, &cow, &err));
	ok(cow_zero(cow, 0, DISK, &err));
	cow_close(cow);
	begin(&w);
	while (!w.offers)
		loop_once(w.loop);
	moverecv_close(w.recv);
	w.recv = NULL;
	while (!w.let_go)
		loop_once(w.loop);
	ok(cow_open(to, true, &cow, &err));
	cow_close(cow);
	end(&w);
}

/* A user's limit that cannot be kept ends it, while the guest still runs. */
static void test_strict(void **state)
{
	struct world w = {.strict = true, .most_ms = 1};

	(void)state;
	begin(&w);
	ok(loop_run(w.loop, &err));
	assert_true(w.failed && !w.ready && !w.timed_out);
	assert_non_null(strstr(w.why, "raise --max-downtime"));
	end(&w);
}

static void test_target_restarts(void **state)
{
	struct world w = {.cut_after = 2};

	(void)state;
	begin(&w);
	expect_moved(&w);
	assert_true(w.offers >= 3);
	end(&w);
	assert_same();
}

static void test_both_restart(void **state)
{
	struct world w = {.cut_after = 2, .source_restarts = true};

	(void)state;
	begin(&w);
	expect_moved(&w);
	assert_true(w.offers >= 3);
	end(&w);
	assert_same();
}

static void test_refused(void **state)
{
	struct world w = {.epoch = 4};

	(void)state;
	begin(&w);
	ok(loop_run(w.loop, &err));
	assert_true(w.failed && !w.timed_out && !w.sealed_there);
	assert_non_null(strstr(w.why, "not expected"));
	end(&w);
	assert_int_equal(access(to, F_OK), -1);
}

static void test_silence(void **state)
{
	struct world w = {.mute = true};

	(void)state;
	begin(&w);
	ok(loop_run(w.loop, &err));
	assert_true(w.failed && !w.timed_out);
	assert_non_null(strstr(w.why, "does not answer"));
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_plain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rate_last, setup, teardown),
		cmocka_unit_test_setup_teardown(test_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_foreign, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_target_closed_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_strict, setup, teardown),
		cmocka_unit_test_setup_teardown(test_target_restarts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_both_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silence, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
