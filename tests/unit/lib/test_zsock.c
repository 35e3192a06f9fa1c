/* ZeroMQ sockets on the loop: CURVE and ZAP, many messages, wrong keys, ipc. */
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/unit/lib/zsockkit.h"

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
	/* The same word at each attempt, and nothing behind it. */
	for (int i = 0; i < 2; i++) {
		assert_non_null(strstr(w.detail, "refuses this key"));
		assert_int_equal(loop_run(w.loop, NULL), 0);
		assert_false(w.timed_out);
	}
	assert_int_equal(w.got, 0);
	/* Let in later, it is served, though ZeroMQ itself gives up. */
	w.allow = true;
	w.wanted = 100;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_int_equal(w.replies, 100);
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
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_false(w.up);
	assert_int_equal(w.got, 0);
	assert_non_null(strstr(w.detail, "is the server key right?"));
	world_close(&w);
}

static void test_ipc(void **state)
{
	char dir[64], endpoint[100];
	struct stat st;
	struct world w;

	(void)state;
	unit_dir_make(dir);
	(void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/sock", dir);
	world_open(&w, endpoint, false);
	assert_int_equal(stat(endpoint + 6, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	connect_client(&w, false, NULL);
	w.wanted = 1000;
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_false(w.timed_out);
	assert_true(w.last_peer.local);
	assert_string_equal(w.last_peer.user, "");
	assert_int_equal(w.replies, 1000);
	world_close(&w);
	unit_dir_remove(dir);
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
		cmocka_unit_test(test_ipc),
		cmocka_unit_test(test_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
