/* When a disk was copied often enough, and how fast it is sent: numbers only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "node-agent/moverate.h"

#define M (UINT64_C(1) << 20)

/* A disk of `whole` bytes, of which `writes` a second are written anew, but never more than
 * `most` different ones; sent with `link` bytes a second and looked at in `look` ms. */
struct guest {
	uint64_t whole, writes, most, link, look;
	uint64_t now, dirty;
	unsigned rounds;
};

/* One round as a session does it: in batches, as the rate lets it. */
static uint64_t round_of(struct guest *g, struct moverate *r)
{
	uint64_t bytes = g->rounds ? g->dirty : g->whole, began = g->now;

	moverate_round(r, g->now);
	for (uint64_t left = bytes; left;) {
		uint64_t batch = left < M ? left : M;

		g->now += moverate_wait(r, g->now, true);
		moverate_sent(r, g->now, batch);
		g->now += batch * 1000 / g->link;
		left -= batch;
	}
	g->now += g->look;
	g->dirty = (g->now - began) * g->writes / 1000;
	if (g->dirty > g->most)
		g->dirty = g->most;
	g->rounds++;
	return bytes;
}

static int copy(struct guest *g, struct moverate *r, struct err *err)
{
	int rc = 1;

	while (rc > 0) {
		uint64_t bytes = round_of(g, r);

		rc = moverate_end(r, g->now, g->rounds == 1, bytes, err);
		assert_true(g->rounds <= 20);
	}
	return rc;
}

static void test_idle(void **state)
{
	struct guest g = {.whole = 256 * M, .link = 300 * M, .look = 150};
	struct moverate r;

	(void)state;
	moverate_init(&r, 0, 300, true);
	assert_int_equal(copy(&g, &r, NULL), 0);
	assert_int_equal(g.rounds, 2);
	/* The look, not "nothing at 1 byte a second". */
	assert_true(r.expected_ms >= 150 && r.expected_ms <= 152);
	assert_true(r.measured > 100 * M);
}

/* An empty disk: no rate can be told, and none is made up. */
static void test_empty(void **state)
{
	struct guest g = {.link = 300 * M, .look = 1};
	struct moverate r;

	(void)state;
	moverate_init(&r, 0, 300, false);
	assert_int_equal(copy(&g, &r, NULL), 0);
	assert_int_equal(r.measured, 0);
	assert_true(r.expected_ms <= 3);
}

static void test_converges(void **state)
{
	struct guest g = {
		.whole = 256 * M, .writes = 5 * M, .most = 256 * M, .link = 100 * M, .look = 100};
	struct moverate r;

	(void)state;
	moverate_init(&r, 0, 300, true);
	assert_int_equal(copy(&g, &r, NULL), 0);
	assert_true(g.rounds >= 2 && g.rounds <= 4 && r.expected_ms <= 300);
}

/* 2 MB/s for a guest that writes 5: a user's limit is kept, or the move is not made. */
static void test_strict(void **state)
{
	struct guest g = {
		.whole = 256 * M, .writes = 5 * M, .most = 256 * M, .link = 100 * M, .look = 100};
	struct err err = ERR_INIT;
	struct moverate r;

	(void)state;
	moverate_init(&r, 2 * M, 300, true);
	assert_int_equal(copy(&g, &r, &err), -ETIMEDOUT);
	assert_int_equal(g.rounds, MOVERATE_ROUNDS);
	assert_non_null(strstr(err.msg, "does not converge: the guest writes 2"));
	assert_non_null(strstr(err.msg, "the rate is 2"));
	assert_non_null(strstr(err.msg, "raise --rate or --max-downtime"));
}

/* Without a wish it goes on in the end; and what is expected is not what the rate would
 * take, as that is not kept while the guest stands still. */
static void test_habit(void **state)
{
	struct guest g = {
		.whole = 256 * M, .writes = 5 * M, .most = 256 * M, .link = 100 * M, .look = 100};
	struct moverate r;

	(void)state;
	moverate_init(&r, 2 * M, 300, false);
	assert_int_equal(copy(&g, &r, NULL), 0);
	assert_int_equal(g.rounds, MOVERATE_ROUNDS);
	assert_true(r.expected_ms > 2000 && r.expected_ms < 4000);
	/* The guest has ended. */
	r.free = true;
	assert_int_equal(moverate_wait(&r, g.now, true), 0);
}

/* A large quiet disk: no rounds for nothing where only the look takes long. */
static void test_look(void **state)
{
	struct guest g = {
		.whole = 20000 * M, .writes = M / 10, .most = M, .link = 100 * M, .look = 8000};
	struct err err = ERR_INIT;
	struct moverate r;
	struct guest again = g;

	(void)state;
	moverate_init(&r, 0, 300, false);
	assert_int_equal(copy(&g, &r, NULL), 0);
	assert_int_equal(g.rounds, 2);
	assert_true(r.expected_ms >= 8000);
	moverate_init(&r, 0, 300, true);
	assert_int_equal(copy(&again, &r, &err), -ETIMEDOUT);
	assert_int_equal(again.rounds, 2);
	assert_non_null(strstr(err.msg, "the whole disk is read once more"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_converges),
		cmocka_unit_test(test_strict),
		cmocka_unit_test(test_habit),
		cmocka_unit_test(test_look),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
