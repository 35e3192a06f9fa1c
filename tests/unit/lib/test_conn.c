/* Framed connections: order, bounds, back-pressure, broken peers, listening. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/conn.h"

struct end {
	struct world *world;
	struct conn *conn;
	uint64_t seen, closes, drains, stop_at, close_at, pause_at;
	bool echo, in_order;
	struct err why;
};

struct world {
	struct loop *loop;
	struct loop_timer *deadline;
	struct end a, b;
	int fds[2];
	struct conn_listener *listener;
	int accepted, accepts;
	bool timed_out, close_listener;
};

static void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static int send_data(struct conn *conn, uint64_t id, size_t size, struct err *err)
{
	static uint8_t data[WIRE_MESSAGE_MAX];
	Um__Envelope env = wire_env(id);
	Um__StreamData body = UM__STREAM_DATA__INIT;

	body.data = (ProtobufCBinaryData){.len = size, .data = data};
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	return conn_send(conn, &env, err);
}

static void on_message(void *arg, struct conn *conn, const Um__Envelope *env)
{
	struct end *end = arg;

	assert_ptr_equal(conn, end->conn);
	end->seen++;
	if (end->in_order)
		assert_int_equal(env->id, end->seen);
	if (end->echo)
		assert_int_equal(send_data(conn, env->id, 1, NULL), 0);
	if (end->seen == end->pause_at)
		conn_pause(conn, true);
	if (end->seen == end->close_at) {
		conn_close(conn);
		end->conn = NULL;
	}
	if (end->seen == end->stop_at)
		loop_stop(end->world->loop);
}

static void on_close(void *arg, struct conn *conn, const struct err *err)
{
	struct end *end = arg;

	end->closes++;
	end->why = *err;
	assert_int_equal(send_data(conn, 1, 1, NULL), -ENOTCONN);
	conn_close(conn);
	conn_close(NULL);
	end->conn = NULL;
	loop_stop(end->world->loop);
}

static void on_drain(void *arg, struct conn *conn)
{
	struct end *end = arg;

	(void)conn;
	end->drains++;
}

static const struct conn_ops ops = {on_message, on_close, on_drain};

static void end_open(
	struct world *w, struct end *end, int fd, size_t max, size_t queue, bool resync)
{
	struct conn_config config = {
		.name = "test", .message_max = max, .queue_max = queue, .resync = resync};
	struct err err = ERR_INIT;

	end->world = w;
	unit_ok(conn_open(w->loop, fd, &config, &ops, end, &end->conn, &err), &err);
}

static void world_open(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->accepted = -1;
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	assert_int_equal(
		loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, NULL), 0);
	loop_timer_arm(w->deadline, 20000);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, w->fds), 0);
}

static void run(struct world *w)
{
	assert_int_equal(loop_run(w->loop, NULL), 0);
	assert_false(w->timed_out);
}

static void world_close(struct world *w)
{
	conn_close(w->a.conn);
	conn_close(w->b.conn);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
}

static void test_many(void **state)
{
	struct world w;
	pid_t pid;
	uid_t uid;

	(void)state;
	world_open(&w);
	end_open(&w, &w.a, w.fds[0], WIRE_MESSAGE_MAX, 64u << 20, false);
	end_open(&w, &w.b, w.fds[1], WIRE_MESSAGE_MAX, 64u << 20, false);
	assert_int_equal(conn_peer(w.a.conn, &pid, &uid), 0);
	assert_int_equal(pid, getpid());
	assert_int_equal(uid, getuid());
	w.b.echo = w.b.in_order = w.a.in_order = true;
	w.a.stop_at = 20000;
	for (uint64_t i = 1; i <= 20000; i++)
		assert_int_equal(send_data(w.a.conn, i, i % 700, NULL), 0);
	run(&w);
	assert_int_equal(w.b.seen, 20000);
	assert_int_equal(conn_queued(w.a.conn), 0);
	/* The largest that fits, and no more. */
	w.b.echo = w.b.in_order = false;
	w.b.stop_at = 20001;
	assert_int_equal(send_data(w.a.conn, 1, WIRE_MESSAGE_MAX, NULL), -EMSGSIZE);
	assert_int_equal(send_data(w.a.conn, 1, WIRE_MESSAGE_MAX - 64, NULL), 0);
	run(&w);
	world_close(&w);
}

static void test_slow_peer(void **state)
{
	struct world w;
	struct err err = ERR_INIT;
	uint64_t sent = 0;

	(void)state;
	world_open(&w);
	end_open(&w, &w.a, w.fds[0], WIRE_LINE_MAX, 1u << 20, false);
	end_open(&w, &w.b, w.fds[1], WIRE_LINE_MAX, 0, false);
	conn_pause(w.b.conn, true);
	while (send_data(w.a.conn, sent + 1, 10000, &err) == 0) {
		sent++;
		assert_true(sent < 1000);
	}
	assert_int_equal(err.code, -ENOBUFS);
	assert_in_range(conn_queued(w.a.conn), 1u << 20, (1u << 20) + WIRE_LINE_MAX);
	/* Nothing moves while it is paused, and nothing turns. */
	loop_timer_arm(w.deadline, 100);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_true(w.timed_out);
	assert_int_equal(w.b.seen + w.a.drains, 0);
	w.timed_out = false;
	loop_timer_arm(w.deadline, 20000);
	w.b.in_order = true;
	w.b.stop_at = sent;
	conn_pause(w.b.conn, false);
	run(&w);
	assert_int_equal(w.a.drains, 1);
	assert_int_equal(send_data(w.a.conn, 1, 1, NULL), 0);
	world_close(&w);
}

/* A pause within a batch holds back the rest of it, and an end behind it too. */
static void test_pause_in_batch(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	end_open(&w, &w.a, w.fds[0], WIRE_LINE_MAX, 0, false);
	end_open(&w, &w.b, w.fds[1], WIRE_LINE_MAX, 0, false);
	for (uint64_t i = 1; i <= 10; i++)
		assert_int_equal(send_data(w.a.conn, i, 10, NULL), 0);
	conn_close(w.a.conn); /* what was queued is sent */
	w.a.conn = NULL;
	w.b.pause_at = w.b.stop_at = 3;
	run(&w);
	loop_timer_arm(w.deadline, 50);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	assert_int_equal(w.b.seen, 3);
	assert_int_equal(w.b.closes, 0);
	w.timed_out = false;
	loop_timer_arm(w.deadline, 20000);
	conn_pause(w.b.conn, false);
	run(&w);
	assert_int_equal(w.b.seen, 10);
	assert_int_equal(w.b.closes, 1);
	assert_int_equal(w.b.why.code, 0);
	unit_says(&w.b.why, "closed by peer");
	world_close(&w);
}

static void test_closed_inside(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	end_open(&w, &w.a, w.fds[0], WIRE_LINE_MAX, 0, false);
	end_open(&w, &w.b, w.fds[1], WIRE_LINE_MAX, 0, false);
	w.b.close_at = 2;
	for (uint64_t i = 1; i <= 5; i++)
		assert_int_equal(send_data(w.a.conn, i, 10, NULL), 0);
	run(&w); /* until A hears of it */
	assert_int_equal(w.b.seen, 2);
	assert_int_equal(w.b.closes, 0);
	assert_int_equal(w.a.closes, 1);
	world_close(&w);
}

/* The peer wrote its last words and went, while we write to it: no SIGPIPE, its
 * words are heard, its end is a clean one. */
static void test_last_words(void **state)
{
	struct conn *raw;
	struct world w;

	(void)state;
	world_open(&w);
	end_open(&w, &w.a, w.fds[0], WIRE_LINE_MAX, 0, false);
	end_open(&w, &w.b, w.fds[1], WIRE_LINE_MAX, 0, false);
	w.b.in_order = true;
	for (uint64_t i = 1; i <= 50; i++)
		assert_int_equal(send_data(w.a.conn, i, 900, NULL), 0);
	conn_close(w.a.conn);
	w.a.conn = NULL;
	raw = w.b.conn;
	assert_int_equal(send_data(raw, 1, 10, NULL), 0); /* fails later */
	assert_int_equal(send_data(raw, 1, 10, NULL), -ENOTCONN);
	run(&w);
	assert_int_equal(w.b.seen, 50);
	assert_int_equal(w.b.closes, 1);
	assert_int_equal(w.b.why.code, 0);
	world_close(&w);
}

/* 300 streams of frames with random damage: refused once, or read to the end. */
static void test_damage(void **state)
{
	uint32_t seed = 42;
	size_t refused = 0;

	(void)state;
	for (int i = 0; i < 300; i++) {
		struct buf out;
		struct world w;

		buf_init(&out);
		for (uint64_t id = 1; id <= 5; id++) {
			Um__Envelope env = wire_env(id);
			Um__ClientHello hello = UM__CLIENT_HELLO__INIT;

			hello.version = (char *)(uintptr_t) "1.2.3";
			env.body_case = UM__ENVELOPE__BODY_CLIENT_HELLO;
			env.client_hello = &hello;
			assert_int_equal(wire_frame(&env, WIRE_LINE_MAX, &out, NULL), 0);
		}
		seed = seed * 1664525u + 1013904223u;
		out.data[(seed >> 8) % out.size] ^= (uint8_t)(1 + (seed >> 8) % 255);
		if (i % 3 == 0) /* cut as well */
			out.size -= (seed >> 16) % out.size;
		world_open(&w);
		end_open(&w, &w.b, w.fds[1], WIRE_LINE_MAX, 0, false);
		assert_int_equal(write(w.fds[0], out.data, out.size), out.size);
		(void)close(w.fds[0]);
		run(&w);
		assert_int_equal(w.b.closes, 1);
		assert_true(
			w.b.why.code == 0 || w.b.why.code == -EBADMSG || w.b.why.code == -EPROTO);
		assert_true(w.b.seen <= 5);
		refused += w.b.why.code != 0;
		world_close(&w);
		buf_free(&out);
	}
	assert_true(refused > 100);
}

/* A guest's line: the kernel's words before and between. */
static void test_line(void **state)
{
	static const char noise[] = "Checking that ptrace can change system call numbers...OK\r\n";
	struct world w;

	(void)state;
	world_open(&w);
	end_open(&w, &w.a, w.fds[0], WIRE_LINE_MAX, 0, true);
	end_open(&w, &w.b, w.fds[1], WIRE_LINE_MAX, 0, true);
	w.b.in_order = true;
	w.b.stop_at = 50;
	for (uint64_t i = 1; i <= 50; i++) {
		assert_int_equal(write(w.fds[0], noise, sizeof(noise)), sizeof(noise));
		assert_int_equal(send_data(w.a.conn, i, 10, NULL), 0);
	}
	run(&w);
	assert_int_equal(w.b.closes, 0);
	world_close(&w);
}

/* ---------------------------------------------------------------- listening */

static void on_accept(void *arg, int fd)
{
	struct world *w = arg;

	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	w->accepts++;
	if (w->accepted >= 0)
		(void)close(w->accepted);
	w->accepted = fd;
	if (w->close_listener) {
		conn_listener_close(w->listener, true);
		w->listener = NULL;
	}
	loop_stop(w->loop);
}

static void listener_check(struct world *w, const char *path)
{
	struct err err = ERR_INIT;
	struct conn_listener *second = NULL;
	struct stat st;
	int fd;

	unit_ok(conn_listen(w->loop, path, 0600, on_accept, w, &w->listener, &err), &err);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0600);
	fd = conn_connect(path, &err);
	unit_ok(fd, &err);
	run(w);
	assert_int_equal(w->accepts, 1);
	end_open(w, &w->a, w->accepted, WIRE_LINE_MAX, 0, false);
	end_open(w, &w->b, fd, WIRE_LINE_MAX, 0, false);
	w->accepted = -1;
	w->b.stop_at = 1;
	assert_int_equal(send_data(w->a.conn, 1, 10, NULL), 0);
	run(w);
	/* Somebody is there: not replaced. */
	assert_int_equal(
		conn_listen(w->loop, path, 0600, on_accept, w, &second, &err), -EADDRINUSE);
	assert_null(second);
	w->accepts = 0;
	run(w); /* the probe of it */
	(void)close(w->accepted);
	w->accepted = -1;
	/* A socket file that a dead program left behind is. */
	conn_listener_close(w->listener, false);
	assert_int_equal(conn_connect(path, &err), -ECONNREFUSED);
	unit_ok(conn_listen(w->loop, path, 0600, on_accept, w, &w->listener, &err), &err);
	w->close_listener = true;
	fd = conn_connect(path, &err);
	unit_ok(fd, &err);
	run(w);
	assert_int_equal(stat(path, &st), -1);
	(void)close(fd);
	(void)close(w->accepted);
}

static void test_listen(void **state)
{
	char dir[64], path[100];
	struct world w;

	(void)state;
	unit_dir_make(dir);
	world_open(&w);
	(void)close(w.fds[0]);
	(void)close(w.fds[1]);
	(void)snprintf(path, sizeof(path), "%s/sock", dir);
	listener_check(&w, path);
	assert_int_equal(conn_connect(path, NULL), -ENOENT);
	world_close(&w);
	unit_dir_remove(dir);
}

static void test_long_path(void **state)
{
	char dir[64], path[400];
	struct world w;
	struct err err = ERR_INIT;

	(void)state;
	unit_dir_make(dir);
	world_open(&w);
	(void)close(w.fds[0]);
	(void)close(w.fds[1]);
	(void)snprintf(path, sizeof(path), "%s/%0100d/%0100d", dir, 1, 2);
	unit_ok(fs_mkdirs(path, 0700, &err), &err);
	(void)snprintf(path, sizeof(path), "%s/%0100d/%0100d/sock", dir, 1, 2);
	listener_check(&w, path);
	world_close(&w);
	unit_dir_remove(dir);
}

/* A file that is no socket is not touched. */
static void test_listen_on_file(void **state)
{
	char dir[64], path[100];
	struct err err = ERR_INIT;
	struct stat st;
	struct world w;

	(void)state;
	unit_dir_make(dir);
	world_open(&w);
	(void)snprintf(path, sizeof(path), "%s/file", dir);
	unit_ok(fs_write_atomic(path, "precious", 8, 0600, &err), &err);
	assert_int_equal(
		conn_listen(w.loop, path, 0600, on_accept, &w, &w.listener, &err), -EEXIST);
	unit_says(&err, "no socket");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 8);
	(void)close(w.fds[0]);
	(void)close(w.fds[1]);
	world_close(&w);
	unit_dir_remove(dir);
}

/* With no descriptor to be had, the loop does not turn; later all is well. */
static void test_descriptors_short(void **state)
{
	struct rlimit limit, small;
	struct rusage before, after;
	char dir[64], path[100];
	struct err err = ERR_INIT;
	struct world w;
	int fd;

	(void)state;
	unit_dir_make(dir);
	world_open(&w);
	(void)snprintf(path, sizeof(path), "%s/sock", dir);
	unit_ok(conn_listen(w.loop, path, 0600, on_accept, &w, &w.listener, &err), &err);
	fd = conn_connect(path, &err);
	unit_ok(fd, &err);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	small = limit;
	small.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
	loop_timer_arm(w.deadline, 400);
	(void)getrusage(RUSAGE_THREAD, &before);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	(void)getrusage(RUSAGE_THREAD, &after);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(w.timed_out);
	assert_int_equal(w.accepts, 0);
	assert_true((after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 +
			    after.ru_utime.tv_usec - before.ru_utime.tv_usec <
		    100000);
	w.timed_out = false;
	loop_timer_arm(w.deadline, 20000);
	run(&w);
	assert_int_equal(w.accepts, 1);
	conn_listener_close(w.listener, true);
	conn_listener_close(NULL, true);
	(void)close(fd);
	(void)close(w.accepted);
	(void)close(w.fds[0]);
	(void)close(w.fds[1]);
	world_close(&w);
	unit_dir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_slow_peer),
		cmocka_unit_test(test_pause_in_batch),
		cmocka_unit_test(test_closed_inside),
		cmocka_unit_test(test_last_words),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_line),
		cmocka_unit_test(test_listen),
		cmocka_unit_test(test_long_path),
		cmocka_unit_test(test_listen_on_file),
		cmocka_unit_test(test_descriptors_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
