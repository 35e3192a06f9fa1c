/* The guest's line, configuration in parts, and the table of streams, with a guest
 * that is a socketpair in this process. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/runner/config.h"
#include "guest/runner/console.h"
#include "guest/runner/line.h"
#include "guest/runner/logs.h"
#include "guest/runner/reason.h"
#include "guest/runner/stream.h"
#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"

struct fixture {
	struct loop *loop;
	struct line *line;
	int guest;	       /* the guest's end of the line, non-blocking */
	struct wire_reader in; /* what the guest read */
	struct loop_timer *timer;
	unsigned messages, closes;
	Um__Envelope__BodyCase last;
	char dir[64];
};

static void on_message(void *arg, const Um__Envelope *env)
{
	struct fixture *f = arg;

	f->messages++;
	f->last = env->body_case;
}

static void on_close(void *arg, const struct err *err)
{
	struct fixture *f = arg;

	(void)err;
	f->closes++;
}

static const struct line_ops ops = {.on_message = on_message, .on_close = on_close};

static void on_timer(void *arg)
{
	struct fixture *f = arg;

	loop_stop(f->loop);
}

/* Lets the loop run for a moment: everything here is local and instant. */
static void turn(struct fixture *f)
{
	struct err err = ERR_INIT;

	loop_timer_arm(f->timer, 5);
	assert_true(loop_run(f->loop, &err) >= 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct log_config log = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = STDERR_FILENO};
	struct err err = ERR_INIT;
	int ends[2];

	assert_non_null(f);
	log_init(&log);
	assert_int_equal(loop_new(&f->loop, &err), 0);
	assert_int_equal(loop_timer_open(f->loop, "turn", on_timer, f, &f->timer, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	f->guest = ends[1];
	assert_int_equal(line_open(f->loop, ends[0], &ops, f, &f->line, &err), 0);
	wire_reader_init(&f->in, WIRE_LINE_MAX, true);
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/umlaut-line-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	line_close(f->line);
	loop_timer_close(f->timer);
	assert_int_equal(loop_free(f->loop), 0);
	wire_reader_free(&f->in);
	(void)close(f->guest);
	(void)fs_remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

/* Reads at most MAX bytes as the guest; how many there were. */
static size_t guest_read(struct fixture *f, size_t max)
{
	uint8_t data[4096];
	size_t total = 0;

	while (total < max) {
		size_t want_size = max - total < sizeof(data) ? max - total : sizeof(data);
		ssize_t n = read(f->guest, data, want_size);

		if (n <= 0)
			break;
		assert_int_equal(wire_reader_add(&f->in, data, (size_t)n, NULL), 0);
		total += (size_t)n;
	}
	return total;
}

/* The next message that came, or NULL; the caller frees it. */
static Um__Envelope *guest_next(struct fixture *f)
{
	Um__Envelope *env = NULL;
	struct err err = ERR_INIT;
	int rc = wire_reader_next(&f->in, &env, &err);

	assert_true(rc >= 0);
	return rc ? env : NULL;
}

static void guest_send(struct fixture *f, Um__Envelope *env)
{
	struct buf frame;

	buf_init(&frame);
	assert_int_equal(wire_frame(env, WIRE_LINE_MAX, &frame, NULL), 0);
	assert_int_equal(write(f->guest, frame.data, frame.size), (ssize_t)frame.size);
	buf_free(&frame);
}

static void guest_hello(struct fixture *f, uint32_t window)
{
	Um__Envelope env = wire_env(0);
	Um__GuestHello hello = UM__GUEST_HELLO__INIT;

	hello.line_window = window;
	env.body_case = UM__ENVELOPE__BODY_GUEST_HELLO;
	env.guest_hello = &hello;
	guest_send(f, &env);
}

static void guest_ack(struct fixture *f, uint64_t bytes)
{
	Um__Envelope env = wire_env(0);
	Um__LineAck ack = UM__LINE_ACK__INIT;

	ack.bytes = bytes;
	env.body_case = UM__ENVELOPE__BODY_LINE_ACK;
	env.line_ack = &ack;
	guest_send(f, &env);
}

static Um__Envelope data_env(uint64_t id, Um__StreamData *body, void *data, size_t size)
{
	Um__Envelope env = wire_env(id);

	um__stream_data__init(body);
	body->data.data = data;
	body->data.len = size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = body;
	return env;
}

static void send_sync(struct fixture *f, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__GuestSync body = UM__GUEST_SYNC__INIT;

	env.body_case = UM__ENVELOPE__BODY_GUEST_SYNC;
	env.guest_sync = &body;
	assert_int_equal(line_send(f->line, &env, NULL), 0);
}

/* Two flows take turns; a control frame overtakes both. */
static void test_order(void **state)
{
	struct fixture *f = *state;
	struct line_flow flows[2];
	static uint8_t block[WIRE_STREAM_DATA];
	Um__StreamData body;
	unsigned seen[2] = {0, 0}, bulk_before = 0;
	bool control = false;
	Um__Envelope *got;

	for (int i = 0; i < 2; i++) {
		line_flow_init(&flows[i]);
		for (int k = 0; k < 16; k++) {
			Um__Envelope env = data_env((uint64_t)i + 1, &body, block, sizeof(block));

			assert_int_equal(line_flow_add(f->line, &flows[i], &env, NULL), 0);
		}
	}
	turn(f);
	send_sync(f, 77);
	for (int i = 0; i < 200; i++) {
		(void)guest_read(f, 8192);
		turn(f);
		while ((got = guest_next(f))) {
			if (got->id == 77)
				control = true;
			else
				seen[got->id - 1]++;
			bulk_before += !control;
			um__envelope__free_unpacked(got, NULL);
		}
		if (seen[0] + seen[1] == 32 && control)
			break;
		/* In turn: neither is ever far ahead. */
		if (control)
			assert_true(abs((int)seen[0] - (int)seen[1]) <= 8);
	}
	assert_int_equal(seen[0], 16);
	assert_int_equal(seen[1], 16);
	assert_true(control);
	assert_true(bulk_before <= 8); /* of 32: what the socket held already */
}

/* With a window no more is on its way than the guest has confirmed. */
static void test_window(void **state)
{
	struct fixture *f = *state;
	uint64_t total = 0;

	guest_hello(f, 1000);
	turn(f);
	assert_int_equal(f->last, UM__ENVELOPE__BODY_GUEST_HELLO);
	for (uint64_t id = 1; id <= 200; id++)
		send_sync(f, id);
	turn(f);
	for (int i = 0; i < 100; i++) {
		size_t n = guest_read(f, 65536);

		assert_true(n <= 1000);
		total += n;
		if (n == 0)
			break;
		turn(f);
		assert_int_equal(guest_read(f, 65536), 0);
		guest_ack(f, total);
		turn(f);
	}
	for (uint64_t id = 1; id <= 200; id++) {
		Um__Envelope *env = guest_next(f);

		assert_non_null(env);
		assert_int_equal(env->id, id);
		um__envelope__free_unpacked(env, NULL);
	}
}

/* Rubbish between, before and inside frames costs only itself. */
static void test_rubbish(void **state)
{
	struct fixture *f = *state;
	static uint8_t noise[200000];
	unsigned before;

	guest_hello(f, 0);
	proc_random(noise, sizeof(noise));
	for (size_t i = 0; i < sizeof(noise);) {
		ssize_t n = write(f->guest, noise + i, sizeof(noise) - i);

		if (n > 0)
			i += (size_t)n;
		turn(f);
	}
	before = f->messages;
	assert_true(before >= 1);
	/* Flips of every byte of a frame's header. */
	for (size_t flip = 0; flip < WIRE_FRAME_HEADER; flip++) {
		struct buf frame;
		Um__Envelope env = wire_env(5);
		Um__Ok ok = UM__OK__INIT;

		env.body_case = UM__ENVELOPE__BODY_OK;
		env.ok = &ok;
		buf_init(&frame);
		assert_int_equal(wire_frame(&env, WIRE_LINE_MAX, &frame, NULL), 0);
		frame.data[flip] ^= 0x41;
		assert_true(write(f->guest, frame.data, frame.size) > 0);
		buf_free(&frame);
		turn(f);
	}
	guest_hello(f, 0);
	turn(f);
	assert_true(f->messages > before);
	assert_int_equal(f->last, UM__ENVELOPE__BODY_GUEST_HELLO);
	assert_int_equal(f->closes, 0);
	(void)shutdown(f->guest, SHUT_RDWR);
	turn(f);
	assert_int_equal(f->closes, 1);
}

/* ---------------------------------------------------------------- configuration */

static char *text_of(size_t size, char c)
{
	char *text = malloc(size + 1);

	assert_non_null(text);
	memset(text, c, size);
	text[size] = '\0';
	return text;
}

static void test_config_parts(void **state)
{
	struct fixture *f = *state;
	Um__GuestConfig config = UM__GUEST_CONFIG__INIT;
	Um__FileSpec files[3], *file_list[3] = {&files[0], &files[1], &files[2]};
	Um__HostEntry *hosts[3000];
	char *run = text_of(200001, 'r'), host[] = "h", path[] = "/f";
	uint8_t *content = malloc(100000), ip[4] = {10, 0, 0, 1}, seed[4] = {1, 2, 3, 4};
	struct config_now now = {.time_ms = 99, .seed = seed, .seed_size = 4, .first_boot = true};
	struct buf out;
	struct err err = ERR_INIT;
	size_t n_hosts = 0, n_bytes = 0, n_run = 0, parts = 0;
	bool last = false;

	assert_non_null(content);
	proc_random(content, 100000);
	for (int i = 0; i < 3; i++) {
		um__file_spec__init(&files[i]);
		files[i].path = path;
		files[i].content.data = content;
		files[i].content.len = i == 0 ? 0 : i == 1 ? 100000 : 7;
	}
	for (int i = 0; i < 3000; i++) {
		hosts[i] = malloc(sizeof(**hosts));
		um__host_entry__init(hosts[i]);
		hosts[i]->name = text_of(60, 'n');
		hosts[i]->ip.data = ip;
		hosts[i]->ip.len = 4;
	}
	config.hostname = host;
	config.files = file_list;
	config.n_files = 3;
	config.hosts = hosts;
	config.n_hosts = 3000;
	config.run = run;
	config.first_boot = true;
	buf_init(&out);
	assert_int_equal(config_frames(&config, &now, &out, &err), 0);
	assert_int_equal(wire_reader_add(&f->in, out.data, out.size, NULL), 0);
	for (Um__Envelope *env; (env = guest_next(f)); parts++) {
		const Um__GuestConfig *part = env->guest_config;

		assert_int_equal(env->body_case, UM__ENVELOPE__BODY_GUEST_CONFIG);
		assert_false(last);
		last = !part->more;
		n_hosts += part->n_hosts;
		n_run += strlen(part->run);
		for (size_t i = 0; i < part->n_files; i++) {
			assert_memory_equal(part->files[i]->content.data,
				content + (part->files[i]->content.len == 7 ? 0 : n_bytes),
				part->files[i]->content.len);
			n_bytes += part->files[i]->content.len;
		}
		if (last) {
			assert_string_equal(part->hostname, "h");
			assert_int_equal(part->time_ms, 99);
			assert_int_equal(part->seed.len, 4);
			assert_true(part->first_boot);
		}
		um__envelope__free_unpacked(env, NULL);
	}
	assert_true(last);
	assert_true(parts > 10);
	assert_int_equal(n_hosts, 3000);
	assert_int_equal(n_run, 200001);
	assert_int_equal(n_bytes, 100007);
	for (int i = 0; i < 3000; i++) {
		free(hosts[i]->name);
		free(hosts[i]);
	}
	free(run);
	free(content);
	buf_free(&out);
}

/* Long lists of hosts: one full, the rest deltas, the entries of a name together. */
static void test_config_hosts(void **state)
{
	struct fixture *f = *state;
	Um__HostsUpdate update = UM__HOSTS_UPDATE__INIT;
	static Um__HostEntry entries[4000], *list[4000];
	static char names[4000][64];
	uint8_t ip[16] = {0};
	char *removed[500];
	struct buf out;
	size_t seen = 0, gone = 0, parts = 0;
	char previous[64] = "";

	for (int i = 0; i < 4000; i++) {
		um__host_entry__init(&entries[i]);
		(void)snprintf(names[i], sizeof(names[i]), "guest-with-a-long-name-%d", i / 2);
		entries[i].name = names[i];
		entries[i].ip.data = ip;
		entries[i].ip.len = i % 2 ? 16 : 4;
		list[i] = &entries[i];
	}
	for (int i = 0; i < 500; i++)
		removed[i] = names[i];
	update.hosts = list;
	update.n_hosts = 4000;
	update.removed = removed;
	update.n_removed = 500;
	update.full = true;
	buf_init(&out);
	assert_int_equal(config_hosts_frames(&update, &out, NULL), 0);
	assert_int_equal(wire_reader_add(&f->in, out.data, out.size, NULL), 0);
	for (Um__Envelope *env; (env = guest_next(f)); parts++) {
		const Um__HostsUpdate *part = env->hosts_update;

		assert_int_equal(part->full, parts == 0);
		gone += part->n_removed;
		seen += part->n_hosts;
		if (part->n_hosts) {
			assert_string_not_equal(part->hosts[0]->name, previous);
			(void)snprintf(previous, sizeof(previous), "%s",
				part->hosts[part->n_hosts - 1]->name);
		}
		um__envelope__free_unpacked(env, NULL);
	}
	assert_true(parts > 2);
	assert_int_equal(seen, 4000);
	assert_int_equal(gone, 500);
	buf_free(&out);
}

/* ---------------------------------------------------------------- streams */

struct agent {
	struct conn *near, *far; /* the runner's and the agent's end */
	unsigned ended, data;
	char error[200];
	uint64_t credit;
};

static void far_message(void *arg, struct conn *conn, const Um__Envelope *env)
{
	struct agent *a = arg;

	(void)conn;
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_DATA)
		a->data += (unsigned)env->stream_data->data.len;
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_CREDIT)
		a->credit += env->stream_credit->bytes;
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_END) {
		a->ended++;
		if (env->stream_end->error)
			(void)snprintf(
				a->error, sizeof(a->error), "%s", env->stream_end->error->message);
	}
	if (env->body_case == UM__ENVELOPE__BODY_ERROR) {
		a->ended++;
		(void)snprintf(a->error, sizeof(a->error), "%s", env->error->message);
	}
}

static struct streams *near_streams;

static void near_message(void *arg, struct conn *conn, const Um__Envelope *env)
{
	(void)arg;
	streams_from_agent(near_streams, conn, env);
}

static void conn_gone(void *arg, struct conn *conn, const struct err *err)
{
	(void)arg;
	(void)conn;
	(void)err;
}

static void agent_open(struct fixture *f, struct agent *a)
{
	static const struct conn_ops near_ops = {near_message, conn_gone, NULL};
	static const struct conn_ops far_ops = {far_message, conn_gone, NULL};
	static const struct conn_config config = {
		.name = "test", .message_max = WIRE_MESSAGE_MAX, .queue_max = 64u << 20};
	int ends[2];

	memset(a, 0, sizeof(*a));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(conn_open(f->loop, ends[0], &config, &near_ops, a, &a->near, NULL), 0);
	assert_int_equal(conn_open(f->loop, ends[1], &config, &far_ops, a, &a->far, NULL), 0);
}

static void agent_exec(struct agent *a, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;

	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = &open;
	assert_int_equal(conn_send(a->far, &env, NULL), 0);
}

static void console_output(void *arg)
{
	(void)arg;
}

static void console_input(void *arg, size_t size)
{
	(void)arg;
	(void)size;
}

/* A guest that reads nothing, sends too much, or answers to nobody. */
static void test_streams_bounds(void **state)
{
	struct fixture *f = *state;
	static const struct console_ops console_ops = {console_output, console_input};
	struct console_config config = {.dir = f->dir};
	struct console *console = NULL;
	struct streams *s = NULL;
	struct agent a;
	static uint8_t block[WIRE_STREAM_DATA];
	Um__StreamData body;
	Um__Envelope env, *got;
	uint64_t line_id = 0;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(
		console_open(f->loop, ends[0], &config, &console_ops, f, &console, NULL), 0);
	assert_int_equal(streams_new(f->dir, f->line, console, &s, NULL), 0);
	near_streams = s;
	agent_open(f, &a);

	/* Not up yet. */
	agent_exec(&a, 1);
	turn(f);
	assert_int_equal(a.ended, 1);
	assert_string_equal(a.error, "the guest is not up yet");
	streams_guest(s, true, NULL);

	/* The guest reads nothing; the agent sends more than its window. */
	agent_exec(&a, 2);
	for (int i = 0; i < 17; i++) {
		env = data_env(2, &body, block, sizeof(block));
		assert_int_equal(conn_send(a.far, &env, NULL), 0);
	}
	turn(f);
	assert_int_equal(a.ended, 2);
	assert_string_equal(a.error, "more data than was granted");
	assert_int_equal(streams_count(s), 0);
	while (guest_read(f, 65536))
		turn(f);
	while ((got = guest_next(f)))
		um__envelope__free_unpacked(got, NULL);

	/* The guest sends more than it was granted, also to streams there are not. */
	agent_exec(&a, 3);
	turn(f);
	(void)guest_read(f, 65536);
	got = guest_next(f);
	assert_non_null(got);
	assert_int_equal(got->body_case, UM__ENVELOPE__BODY_STREAM_OPEN);
	line_id = got->id;
	um__envelope__free_unpacked(got, NULL);
	for (uint64_t i = 0; i < 20; i++) {
		env = data_env(line_id + i % 2, &body, block, sizeof(block));
		streams_from_guest(s, &env);
	}
	turn(f);
	assert_int_equal(a.ended, 2);
	assert_int_equal(a.data, 10 * sizeof(block));
	for (int i = 0; i < 7; i++) {
		env = data_env(line_id, &body, block, sizeof(block));
		streams_from_guest(s, &env);
	}
	turn(f);
	assert_int_equal(a.ended, 3);
	assert_string_equal(a.error, "the guest sent more than it was granted");

	/* The table is finite; a connection's end frees its part. */
	for (uint64_t id = 10; id < 10 + STREAMS_MAX + 1; id++)
		agent_exec(&a, id);
	turn(f);
	assert_int_equal(streams_count(s), STREAMS_MAX);
	assert_string_equal(a.error, "too many streams of this guest are open");
	streams_drop(s, a.near);
	assert_int_equal(streams_count(s), 0);

	streams_free(s);
	conn_close(a.near);
	conn_close(a.far);
	console_close(console);
	(void)close(ends[1]);
}

/* ---------------------------------------------------------------- console and reasons */

static void test_console_ring(void **state)
{
	struct fixture *f = *state;
	static const struct console_ops console_ops = {console_output, console_input};
	struct console_config config = {.dir = f->dir, .max_bytes = 10000};
	struct console *console = NULL;
	uint64_t pos = 0, lost = 0;
	char text[CONSOLE_RING];
	int ends[2];
	struct logs *logs = NULL;
	size_t total = 0;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(
		console_open(f->loop, ends[0], &config, &console_ops, f, &console, NULL), 0);
	assert_int_equal(logs_open(f->dir, 0, console_generation(console), &logs, NULL), 0);
	for (int i = 0; i < 6000; i++) {
		char line_text[32];
		int n = snprintf(line_text, sizeof(line_text), "line %06d\n", i);

		assert_int_equal(write(ends[1], line_text, (size_t)n), n);
		if (i % 100 == 0) {
			turn(f);
			/* A follower that keeps up misses nothing over many rotations. */
			for (int rc; (rc = logs_read(logs, console_generation(console), text,
					      sizeof(text), NULL)) > 0;)
				total += (size_t)rc;
		}
	}
	turn(f);
	for (int rc;
		(rc = logs_read(logs, console_generation(console), text, sizeof(text), NULL)) > 0;)
		total += (size_t)rc;
	assert_int_equal(console_end(console), 6000 * 12);
	assert_true(total >= 6000 * 12 - 10000); /* a whole generation may pass between looks */
	assert_int_equal(console_read(console, &pos, text, sizeof(text), &lost), CONSOLE_RING);
	assert_int_equal(lost, 6000 * 12 - CONSOLE_RING);
	assert_int_equal(pos, 6000 * 12);
	assert_memory_equal(text + sizeof(text) - 12, "line 005999\n", 12);
	logs_close(logs);

	/* A few lines, over the border of the two files. */
	assert_int_equal(logs_open(f->dir, 900, console_generation(console), &logs, NULL), 0);
	total = 0;
	for (int rc;
		(rc = logs_read(logs, console_generation(console), text, sizeof(text), NULL)) > 0;)
		total += (size_t)rc;
	assert_int_equal(total, 900 * 12);
	logs_close(logs);

	(void)close(ends[1]);
	console_finish(console);
	assert_int_equal(console_write(console, "x", 1, NULL), -EPIPE);
	console_close(console);
}

static void test_reasons(void **state)
{
	char text[200];
	static const char panic[] =
		"x\nKernel panic - not syncing: VFS: Unable\tto mount\x1b[1m\nCPU";

	(void)state;
	reason_end(text, sizeof(text), 256 + 9);
	assert_string_equal(text, "the kernel was killed by signal 9 (Killed)");
	reason_end(text, sizeof(text), 3);
	assert_string_equal(text, "the kernel ended with status 3");
	assert_true(reason_panic(text, sizeof(text), panic, sizeof(panic) - 1));
	assert_string_equal(text, "Kernel panic - not syncing: VFS: Unable to mount?[1m");
	assert_false(reason_panic(text, sizeof(text), "all is well", 11));
	reason_clean(text, 8,
		"  a\n b\x80"
		"cdefgh");
	assert_string_equal(text, "a b?cde");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_window, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rubbish, setup, teardown),
		cmocka_unit_test_setup_teardown(test_config_parts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_config_hosts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_streams_bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_console_ring, setup, teardown),
		cmocka_unit_test(test_reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
