/* Streams through a runner with a real guest: console, logs, copies, credits. */
#include "tests/unit/guest/runner/runnerkit.h"

#include <openssl/sha.h>

static const char *wanted;

static bool shown(struct rk *rk)
{
	return rk->ended || rk->gone || strstr(buf_text(&rk->out), wanted);
}

static void wait_shown(struct rk *rk, const char *text)
{
	wanted = text;
	rk_wait(rk, shown);
	if (!strstr(buf_text(&rk->out), text))
		fail_msg("'%s' did not come, but: %s", text, buf_text(&rk->out));
}

static void open_kind(struct rk *rk, Um__StreamKind kind, uint32_t tail, bool follow)
{
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;

	open.kind = kind;
	open.tail = tail;
	open.follow = follow;
	rk_open(rk, &open);
}

static void end_stream(struct rk *rk)
{
	Um__Envelope env = wire_env(rk->id);
	Um__StreamEnd end = UM__STREAM_END__INIT;
	struct err err = ERR_INIT;

	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	assert_int_equal(runnerctl_send(rk->rc, &env, &err), 0);
}

static size_t count_lines(const struct buf *buf)
{
	size_t n = 0;

	for (size_t i = 0; i < buf->size; i++)
		n += buf->data[i] == '\n';
	return n;
}

static void test_console(void **state)
{
	struct rk *rk = *state;

	open_kind(rk, UM__STREAM_KIND__STREAM_CONSOLE, 0, false);
	assert_int_equal(rk_exec(rk, "true"), 0); /* another stream takes over rk->id */
	open_kind(rk, UM__STREAM_KIND__STREAM_CONSOLE, 0, false);
	rk_send_data(rk, "\n", 1, false);
	wait_shown(rk, "#");
	rk_send_data(rk, "echo typed-$((40+2))\n", 21, false);
	wait_shown(rk, "typed-42");
	assert_true(rk->opened);
	/* What was typed was taken, so we may type on. */
	assert_true(rk->credit >= WIRE_STREAM_WINDOW);
	end_stream(rk);
}

static void test_logs(void **state)
{
	struct rk *rk = *state;

	assert_int_equal(
		rk_exec(rk, "for i in $(seq 1 40); do echo line-$i; done > /dev/console"), 0);
	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 3, false);
	rk_wait(rk, rk_stream_ended);
	assert_string_equal(rk->end_error, "");
	assert_int_equal(rk->end_status, 0);
	assert_int_equal(count_lines(&rk->out), 3);
	assert_non_null(strstr(buf_text(&rk->out), "line-38"));

	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 0, false);
	rk_wait(rk, rk_stream_ended);
	assert_non_null(strstr(buf_text(&rk->out), "Linux version"));

	struct rk other = *rk; /* exec meanwhile, on the same connection */

	(void)other;
	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 1, true);
	wait_shown(rk, "line-40");
	uint64_t logs_id = rk->id;

	rk_open_exec(rk, "echo followed > /dev/console");
	rk->id = logs_id;
	wait_shown(rk, "followed");
	assert_false(rk->ended);
	end_stream(rk);
}

static bool has_credit(struct rk *rk)
{
	return rk->ended || rk->gone || rk->other_credit >= WIRE_STREAM_DATA;
}

/* Bulk into the guest, while commands are still answered quickly. */
static void test_fairness(void **state)
{
	struct rk *rk = *state;
	static uint8_t block[WIRE_STREAM_DATA];
	size_t left = 2u << 20;
	uint64_t begin, took;
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char sh[] = "/bin/sh", c[] = "-c", text[] = "cat > /bulk; wc -c < /bulk";
	char *argv[] = {sh, c, text};

	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.argv = argv;
	open.n_argv = 3;
	open.stdin_open = true;
	rk_open(rk, &open);
	rk->other_id = rk->id;
	rk->other_credit = rk->credit;
	memset(block, 'x', sizeof(block));
	/* The whole window at once: over a tenth of a second of the line's time. */
	while (rk->other_credit) {
		rk_send_data(rk, block, sizeof(block), false);
		rk->other_credit -= sizeof(block);
		left -= sizeof(block);
	}
	begin = proc_mono_ms();
	assert_int_equal(rk_exec(rk, "echo quick"), 0);
	took = proc_mono_ms() - begin;
	print_message("a command beside a full window took %llu ms\n", (unsigned long long)took);
	rk->id = rk->other_id;
	rk->ended = false;
	rk->out.size = 0;
	while (left) {
		rk_wait(rk, has_credit);
		rk_send_data(rk, block, sizeof(block), false);
		rk->other_credit -= sizeof(block);
		left -= sizeof(block);
	}
	rk_send_data(rk, NULL, 0, true);
	rk_wait(rk, rk_stream_ended);
	assert_string_equal(rk->end_error, "");
	assert_int_equal(strtol(buf_text(&rk->out), NULL, 10), 2 << 20);
}

/* Out of the guest by credits: nothing lost, nothing beyond the window. */
static void test_out(void **state)
{
	struct rk *rk = *state;

	assert_int_equal(rk_exec(rk, "dd if=/dev/zero bs=65536 count=128 2>/dev/null"), 0);
	assert_int_equal(rk->out.size, 8u << 20);
}

/* Large data does not creep in byte by byte through the console (1 to 2 MB/s): it goes
 * by the bulk window, and arrives whole. */
static void test_in(void **state)
{
	struct rk *rk = *state;
	const size_t size = 24u << 20;
	uint8_t *data = malloc(size), digest[SHA256_DIGEST_LENGTH];
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char sh[] = "/bin/sh", c[] = "-c", text[] = "sha256sum", want[65];
	char *argv[] = {sh, c, text};
	uint64_t begin = proc_mono_ms(), took;

	assert_non_null(data);
	proc_random(data, size);
	(void)SHA256(data, size, digest);
	str_hex(want, digest, sizeof(digest));
	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.argv = argv;
	open.n_argv = 3;
	open.stdin_open = true;
	rk_open(rk, &open);
	rk->other_id = rk->id;
	rk->other_credit = rk->credit;
	for (size_t at = 0; at < size; at += WIRE_STREAM_DATA) {
		rk_wait(rk, has_credit);
		assert_false(rk->ended);
		rk_send_data(rk, data + at, WIRE_STREAM_DATA, false);
		rk->other_credit -= WIRE_STREAM_DATA;
	}
	rk_send_data(rk, NULL, 0, true);
	rk_wait(rk, rk_stream_ended);
	took = proc_mono_ms() - begin;
	assert_string_equal(rk->end_error, "");
	assert_int_equal(strncmp(buf_text(&rk->out), want, 64), 0);
	print_message("24 MiB in within %llu ms\n", (unsigned long long)took);
	assert_true(took < 24 * 200); /* 5 MB/s, with sanitizers and a hash in the guest */
	free(data);
}

/* The window is another disk of the guest, and not for its users. */
static void test_bulk_device(void **state)
{
	struct rk *rk = *state;

	assert_int_equal(rk_exec(rk, "cat /sys/block/ubdh/ro; test ! -e /dev/ubdh; echo $?"), 0);
	assert_string_equal(buf_text(&rk->out), "1\n0\n");
	/* Nor may its root write it: what the runner put there stays. */
	assert_int_equal(rk_exec(rk, "mknod /tmp/b b 98 112; echo x > /tmp/b || echo refused"), 0);
	assert_non_null(strstr(buf_text(&rk->out), "refused"));
}

/* More than was granted ends the stream, and only it. */
static void test_overrun(void **state)
{
	struct rk *rk = *state;
	static uint8_t block[WIRE_STREAM_DATA];
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char sleep_path[] = "/bin/sleep", hundred[] = "100";
	char *argv[] = {sleep_path, hundred};

	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.argv = argv;
	open.n_argv = 2;
	open.stdin_open = true;
	rk_open(rk, &open);
	for (int i = 0; i < 40; i++) /* a pipe of the guest takes some of them */
		rk_send_data(rk, block, sizeof(block), false);
	rk_wait(rk, rk_stream_ended);
	assert_string_equal(rk->end_error, "more data than was granted");
	assert_int_equal(rk_exec(rk, "true"), 0);
}

/* A guest that does not move holds up nobody but itself. */
static void test_frozen(void **state)
{
	struct rk *rk = *state;
	static uint8_t block[WIRE_STREAM_DATA];
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char sleep_path[] = "/bin/sleep", hundred[] = "100";
	char *argv[] = {sleep_path, hundred};

	rk_wait(rk, rk_find_kernel);
	assert_int_equal(kill(rk->kernel_pid, SIGSTOP), 0);
	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.argv = argv;
	open.n_argv = 2;
	for (int k = 0; k < 4; k++) {
		rk_open(rk, &open);
		for (int i = 0; i < 17; i++)
			rk_send_data(rk, block, sizeof(block), false);
		rk_wait(rk, rk_stream_ended);
		assert_string_equal(rk->end_error, "more data than was granted");
	}
	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 1, false);
	rk_wait(rk, rk_stream_ended);
	assert_string_equal(rk->end_error, "");
	assert_int_equal(kill(rk->kernel_pid, SIGCONT), 0);
	assert_int_equal(rk_exec(rk, "echo thawed"), 0);
	assert_string_equal(buf_text(&rk->out), "thawed\n");
}

static off_t size_of(struct rk *rk, const char *name)
{
	char path[400];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/%s", rk->guest, name);
	return stat(path, &st) == 0 ? st.st_size : -1;
}

/* The console's log is bounded, and read across its rotation. */
static void test_rotation(void **state)
{
	struct rk *rk = *state;

	assert_int_equal(rk_exec(rk, "for i in $(seq 1 3000); do "
				     "echo filler-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxxx; done "
				     "> /dev/console; echo the-end > /dev/console"),
		0);
	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 1, true);
	wait_shown(rk, "the-end");
	end_stream(rk);
	assert_true(size_of(rk, RUNNERDIR_CONSOLE) <= 64 << 10);
	assert_true(size_of(rk, RUNNERDIR_CONSOLE_OLD) > 0);
	assert_true(size_of(rk, RUNNERDIR_CONSOLE_OLD) <= 64 << 10);
	/* A whole old file is there at least, 64 KiB: more than 1,400 of these lines. */
	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 1400, false);
	rk_wait(rk, rk_stream_ended);
	assert_int_equal(count_lines(&rk->out), 1400);
	assert_non_null(strstr(buf_text(&rk->out), "the-end"));
	assert_non_null(strstr(buf_text(&rk->out), "filler-1700-"));
}

/* Everything ends with the guest: exec with an error, console and logs cleanly. */
static void test_end(void **state)
{
	struct rk *rk = *state;
	struct err err = ERR_INIT;

	rk_open_exec(rk, "sleep 1000");
	assert_int_equal(runnerctl_stop(rk->rc, 0, true, &err), 0);
	rk_wait(rk, rk_stream_ended);
	assert_string_equal(rk->end_error, "the guest has ended");
	rk_wait(rk, rk_has_ended);
	open_kind(rk, UM__STREAM_KIND__STREAM_LOGS, 1, true);
	rk_wait(rk, rk_stream_ended);
	assert_int_equal(rk->end_status, 0);
	rk_open_exec(rk, "true");
	rk_wait(rk, rk_stream_ended);
	assert_string_equal(rk->end_error, "the guest has ended");
	rk_finish(rk);
	rk_assert_clean(rk);
}

static int setup(void **state)
{
	int rc = rk_setup(state);

	rk_boot(*state, "streams", &(struct rk_options){.console_max = 64 << 10});
	return rc;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_console),
		cmocka_unit_test(test_logs),
		cmocka_unit_test(test_fairness),
		cmocka_unit_test(test_out),
		cmocka_unit_test(test_in),
		cmocka_unit_test(test_bulk_device),
		cmocka_unit_test(test_overrun),
		cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_rotation),
		cmocka_unit_test(test_end),
	};

	return cmocka_run_group_tests(tests, setup, rk_teardown);
}
