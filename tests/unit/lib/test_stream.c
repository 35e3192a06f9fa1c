/* The credit window: bounds of both sides, when credit is due, and that two ends
 * never come to a standstill. */
#include "tests/unit/unit.h"

#include <errno.h>

#include "lib/stream.h"
#include "lib/wire.h"

static void holds(const struct stream_window *w)
{
	assert_int_equal(w->may_come + stream_window_held(w) + w->owed, (size_t)WIRE_STREAM_WINDOW);
	assert_true(w->can_send <= STREAM_CREDIT_MAX);
}

static void test_sending(void **state)
{
	struct stream_window w;
	struct err err = ERR_INIT;
	size_t sent = 0, n;

	(void)state;
	stream_window_init(&w);
	while ((n = stream_window_room(&w)) > 0) {
		assert_true(n <= WIRE_STREAM_DATA);
		stream_window_sent(&w, n);
		sent += n;
	}
	assert_int_equal(sent, WIRE_STREAM_WINDOW);
	assert_int_equal(stream_window_credit(&w, 100, &err), 0);
	assert_int_equal(stream_window_room(&w), 100);
	stream_window_sent(&w, 4000); /* more than was granted: never below nothing */
	assert_int_equal(stream_window_room(&w), 0);
	holds(&w);
}

static void test_too_much_credit(void **state)
{
	struct stream_window w;
	struct err err = ERR_INIT;

	(void)state;
	stream_window_init(&w);
	assert_int_equal(stream_window_credit(&w, UINT32_MAX, &err), -EPROTO);
	assert_int_equal(stream_window_credit(&w, STREAM_CREDIT_MAX - WIRE_STREAM_WINDOW, &err), 0);
	assert_int_equal(stream_window_credit(&w, 1, &err), -EPROTO);
	unit_says(&err, "grants 1 bytes");
	holds(&w);
}

static void test_receiving(void **state)
{
	struct stream_window w;
	struct err err = ERR_INIT;

	(void)state;
	stream_window_init(&w);
	assert_int_equal(stream_window_received(&w, WIRE_STREAM_WINDOW, &err), 0);
	assert_int_equal(stream_window_received(&w, 0, &err), 0);
	assert_int_equal(stream_window_received(&w, 1, &err), -EPROTO);
	unit_says(&err, "may send 0");
	assert_int_equal(stream_window_received(&w, SIZE_MAX, &err), -EPROTO);
	stream_window_consumed(&w, WIRE_STREAM_WINDOW / 2 - 1);
	assert_int_equal(stream_window_due(&w), 0);
	stream_window_consumed(&w, 1);
	assert_int_equal(stream_window_due(&w), WIRE_STREAM_WINDOW / 2);
	/* It could not be sent: it stays due, with what was taken since. */
	stream_window_consumed(&w, 10);
	assert_int_equal(stream_window_due(&w), WIRE_STREAM_WINDOW / 2 + 10);
	stream_window_granted(&w, WIRE_STREAM_WINDOW / 2 + 10);
	assert_int_equal(stream_window_due(&w), 0);
	assert_int_equal(stream_window_held(&w), WIRE_STREAM_WINDOW / 2 - 10);
	/* More than is held, or than is owed, changes nothing beyond the bounds. */
	stream_window_consumed(&w, SIZE_MAX);
	assert_int_equal(stream_window_held(&w), 0);
	stream_window_granted(&w, UINT32_MAX);
	assert_int_equal(w.may_come, WIRE_STREAM_WINDOW);
	holds(&w);
}

/* Two ends, any sizes: all bytes arrive, nobody breaks the rules, no standstill. */
static void test_two_ends(void **state)
{
	struct stream_window a, b;
	struct err err = ERR_INIT;
	size_t left = 16u << 20, credits = 0;
	uint32_t seed = 7;

	(void)state;
	stream_window_init(&a);
	stream_window_init(&b);
	while (left) {
		size_t n = stream_window_room(&a), held;
		uint32_t due;

		seed = seed * 1664525u + 1013904223u;
		if (n > seed >> 18)
			n = seed >> 18;
		if (n > left)
			n = left;
		stream_window_sent(&a, n);
		unit_ok(stream_window_received(&b, n, &err), &err);
		left -= n;
		held = stream_window_held(&b);
		assert_true(held <= WIRE_STREAM_WINDOW);
		/* The user takes some, or, where the sender can do nothing, all. */
		stream_window_consumed(&b, stream_window_room(&a) ? held * (seed >> 30) / 4 : held);
		due = stream_window_due(&b);
		if (due && (seed & 1024 || !stream_window_room(&a))) {
			stream_window_granted(&b, due);
			unit_ok(stream_window_credit(&a, due, &err), &err);
			credits++;
		}
		assert_true(stream_window_room(&a) > 0);
		holds(&a);
		holds(&b);
	}
	assert_true(credits >= 64 && credits <= 128);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sending),
		cmocka_unit_test(test_too_much_credit),
		cmocka_unit_test(test_receiving),
		cmocka_unit_test(test_two_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
