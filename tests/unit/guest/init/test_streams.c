/* umlaut-init's streams in a real guest: exec on pipes and terminals. */
#include "tests/unit/guest/init/streamkit.h"

#include <openssl/sha.h>

static void test_pipes(void **state)
{
	struct result r;
	uint64_t id;

	(void)state;
	expect("echo out; echo err >&2; exit 42", 42, "out\n", "err\n");
	expect("kill -9 $$", 137, "", "");
	expect("cat; pwd; umask; echo $HOME $USER", 0, "/\n0022\n/root root\n", "");
	expect("ls /proc/self/fd", 0, "0\n1\n2\n3\n", "");
	/* Who is left behind does not keep the stream open. */
	expect("sleep 300 & echo fast", 0, "fast\n", "");
	expect("trap 'echo got; exit 3' TERM; kill -TERM $$", 3, "got\n", "");

	result_init(&r);
	id = open_sh("tr a-z A-Z; echo done", true, false);
	send_data(id, "hello ", 6, false);
	send_data(id, "there\n", 6, true);
	run_to_end(id, &r);
	assert_string_equal(text(&r, 1), "HELLO THERE\ndone\n");
	assert_int_equal(r.status, 0);
	result_free(&r);
}

static void test_not_run(void **state)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char *argv[] = {vm_text("no-such-program")}, *folder[] = {vm_text("/etc")},
	     *text_file[] = {vm_text("/etc/passwd")}, *list[] = {vm_text("ls")};
	struct result r;

	(void)state;
	body.kind = UM__STREAM_KIND__STREAM_EXEC;
	body.argv = argv;
	body.n_argv = 1;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_int_equal(r.status, 127);
	assert_string_equal(r.error, "no-such-program: not found in the guest");
	result_free(&r);

	body.argv = folder;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_int_equal(r.status, 126);
	result_free(&r);

	body.argv = text_file;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_int_equal(r.status, 126);
	result_free(&r);

	body.argv = list;
	body.path = vm_text("/nowhere");
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_string_equal(r.error, "folder /nowhere: No such file or directory");
	result_free(&r);

	body.kind = UM__STREAM_KIND__STREAM_LOGS;
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_true(r.status != 0 && *r.error);
	result_free(&r);
}

static void test_env_and_cwd(void **state)
{
	Um__StreamOpen body = UM__STREAM_OPEN__INIT;
	char *argv[] = {vm_text("sh"), vm_text("-c"), vm_text("pwd; echo $A-$TERM")};
	char *env[] = {vm_text("A=x y"), vm_text("TERM=screen"), vm_text("broken")};
	struct result r;

	(void)state;
	body.kind = UM__STREAM_KIND__STREAM_EXEC;
	body.argv = argv;
	body.n_argv = 3;
	body.env = env;
	body.n_env = 3;
	body.path = vm_text("/etc/init.d");
	result_init(&r);
	run_to_end(open_stream(&body), &r);
	assert_string_equal(text(&r, 1), "/etc/init.d\nx y-screen\n");
	result_free(&r);
}

/* 20 MB out: whole, and never more than was granted. */
static void test_big_out(void **state)
{
	const size_t size = 20u << 20;
	char want[65], got[65];
	uint8_t digest[SHA256_DIGEST_LENGTH];
	uint64_t id, start;
	struct result r, sum;

	(void)state;
	result_init(&sum);
	run_to_end(open_sh("head -c 20971520 /dev/urandom > /tmp/big; sha256sum /tmp/big", false,
			   false),
		&sum);
	(void)str_copy(want, sizeof(want), "");
	memcpy(want, text(&sum, 1), 64);
	want[64] = '\0';
	result_init(&r);
	id = open_sh("cat /tmp/big", false, false);
	start = proc_mono_ms();
	while (r.out[1].size < WIRE_STREAM_WINDOW)
		step(id, &r, false);
	/* The window is used up: a second stream is served, this one waits. */
	expect("echo other", 0, "other\n", "");
	assert_int_equal(r.out[1].size, WIRE_STREAM_WINDOW);
	send_credit(id, WIRE_STREAM_WINDOW);
	run_to_end(id, &r);
	print_message("20 MiB out in %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	assert_int_equal(r.out[1].size, size);
	(void)SHA256(r.out[1].data, r.out[1].size, digest);
	str_hex(got, digest, sizeof(digest));
	assert_string_equal(got, want);
	assert_int_equal(r.status, 0);
	result_free(&r);
	result_free(&sum);
}

static void test_big_in(void **state)
{
	const size_t size = 2u << 20;
	uint8_t *data = malloc(size), digest[SHA256_DIGEST_LENGTH];
	char want[65];
	struct result r;
	uint64_t id, start;

	(void)state;
	assert_non_null(data);
	proc_random(data, size);
	(void)SHA256(data, size, digest);
	str_hex(want, digest, sizeof(digest));
	result_init(&r);
	id = open_sh("sha256sum", true, false);
	start = proc_mono_ms();
	put_all(id, &r, data, size);
	run_to_end(id, &r);
	print_message("2 MiB in within %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	assert_int_equal(strncmp(text(&r, 1), want, 64), 0);
	result_free(&r);

	/* A program that does not read its input does not hold up anybody. */
	result_init(&r);
	id = open_sh("exec 0<&-; sleep 0.2; echo done", true, false);
	put_all(id, &r, data, size / 2);
	run_to_end(id, &r);
	assert_string_equal(text(&r, 1), "done\n");
	result_free(&r);
	free(data);
}

static void test_too_much(void **state)
{
	static uint8_t data[WIRE_STREAM_DATA];
	struct result r;
	uint64_t id;
	int i;

	(void)state;
	result_init(&r);
	id = open_sh("sleep 5", true, false);
	for (i = 0; i < 40 && !r.ended; i++) {
		send_data(id, data, sizeof(data), false);
		if (i == 20) /* past the window and a pipe: it must have ended */
			run_to_end(id, &r);
	}
	assert_non_null(strstr(r.error, "granted"));
	result_free(&r);
}

static void test_tty(void **state)
{
	struct result r;
	uint64_t id;
	Um__Envelope env;
	Um__StreamControl control = UM__STREAM_CONTROL__INIT;

	(void)state;
	result_init(&r);
	run_to_end(open_sh("tty; stty size; test -t 2 && echo all; exit 5", true, true), &r);
	assert_string_equal(text(&r, 1), "/dev/pts/0\r\n33 111\r\nall\r\n");
	assert_int_equal(r.status, 5);
	result_free(&r);

	/* Typed input with echo, a new size, Ctrl-C to the foreground job. */
	result_init(&r);
	id = open_sh(
		"trap 'stty size; exit 9' INT; echo go; while :; do sleep 0.1; done", true, true);
	while (!strstr(text(&r, 1), "go"))
		step(id, &r, true);
	control.rows = 50;
	control.cols = 90;
	env = wire_env(id);
	env.body_case = UM__ENVELOPE__BODY_STREAM_CONTROL;
	env.stream_control = &control;
	vm_send(&vm, &env);
	send_data(id, "\003", 1, false);
	run_to_end(id, &r);
	assert_non_null(strstr(text(&r, 1), "50 90\r\n"));
	assert_int_equal(r.status, 9);
	result_free(&r);

	/* The end of input ends the shell. */
	result_init(&r);
	id = open_sh("cat; echo over", true, true);
	send_data(id, "x\n", 2, true);
	run_to_end(id, &r);
	assert_non_null(strstr(text(&r, 1), "over"));
	result_free(&r);
}

/* The kernel hangs a terminal up when its session's leader ends: nothing is lost,
 * also when the client takes the last of it much later. */
static void test_tty_big(void **state)
{
	struct result r;
	uint64_t id;
	int i;

	(void)state;
	expect("seq 1 39893 > /tmp/seq", 0, "", "");
	for (i = 0; i < 5; i++) {
		result_init(&r);
		id = open_sh("exec cat /tmp/seq", true, true);
		while (r.out[1].size < WIRE_STREAM_WINDOW)
			step(id, &r, false);
		expect("while ps | grep -q '[c]at /tmp/seq'; do usleep 10000; done", 0, "", "");
		send_credit(id, WIRE_STREAM_WINDOW);
		run_to_end(id, &r);
		assert_int_equal(r.out[1].size, 268145);
		assert_string_equal(text(&r, 1) + r.out[1].size - 7, "39893\r\n");
		result_free(&r);
	}
}

static void test_client_gone(void **state)
{
	struct result r;
	uint64_t id;
	int i;

	(void)state;
	result_init(&r);
	id = open_sh("echo up; (sleep 777 | sleep 777) & sleep 777", true, false);
	while (!strstr(text(&r, 1), "up"))
		step(id, &r, true);
	send_end(id);
	result_free(&r);
	result_init(&r);
	id = open_sh("echo up; sleep 777", true, true);
	while (!strstr(text(&r, 1), "up"))
		step(id, &r, true);
	send_end(id);
	result_free(&r);
	for (i = 0; i < 50; i++) {
		result_init(&r);
		run_to_end(open_sh("ps | grep -c '[s]leep 777'", false, false), &r);
		if (strcmp(text(&r, 1), "0\n") == 0)
			break;
		result_free(&r);
	}
	assert_true(i < 50);
	result_free(&r);
}

static void test_many(void **state)
{
	struct result r[64];
	uint64_t ids[64];
	size_t i, left = 64;
	struct result extra;

	(void)state;
	for (i = 0; i < 64; i++) {
		result_init(&r[i]);
		ids[i] = open_sh("read x; echo $x", true, false);
	}
	result_init(&extra);
	run_to_end(open_sh("true", false, false), &extra);
	assert_non_null(strstr(extra.error, "64 streams"));
	result_free(&extra);
	for (i = 0; i < 64; i++)
		send_data(ids[i], "same\n", 5, true);
	while (left > 0) {
		Um__Envelope *env = vm_next(&vm);

		for (i = 0; i < 64; i++) {
			if (env->id != ids[i])
				continue;
			if (env->body_case == UM__ENVELOPE__BODY_STREAM_DATA)
				buf_add(&r[i].out[1], env->stream_data->data.data,
					env->stream_data->data.len);
			left -= env->body_case == UM__ENVELOPE__BODY_STREAM_END;
		}
		vm_free(env);
	}
	for (i = 0; i < 64; i++) {
		assert_string_equal(text(&r[i], 1), "same\n");
		result_free(&r[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pipes),
		cmocka_unit_test(test_not_run),
		cmocka_unit_test(test_env_and_cwd),
		cmocka_unit_test(test_big_out),
		cmocka_unit_test(test_big_in),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_tty),
		cmocka_unit_test(test_tty_big),
		cmocka_unit_test(test_client_gone),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
