/* The loop: timers, deferred work, the pool, children, exits, connections, rpc. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/conn.h"
#include "lib/curve.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/rpc.h"

struct world {
	struct loop *loop;
	struct loop_timer *deadline, *timer;
	struct loop_defer *defer;
	struct loop_child *child;
	struct loop_fd *exit;
	bool timed_out;
	int count, status, closes;
	struct err err;
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
	unit_ok(loop_new(&w->loop, &w->err), &w->err);
	unit_ok(loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &w->err),
		&w->err);
	loop_timer_arm(w->deadline, 20000);
}

static void world_close(struct world *w)
{
	assert_false(w->timed_out);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
}

static void on_timer(void *arg)
{
	struct world *w = arg;

	if (++w->count == 3) {
		loop_timer_close(w->timer); /* inside its own callback */
		loop_stop(w->loop);
		return;
	}
	loop_timer_arm(w->timer, 1);
}

static void test_timer(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	unit_ok(loop_timer_open(w.loop, "t", on_timer, &w, &w.timer, &w.err), &w.err);
	loop_timer_arm(w.timer, 1);
	assert_true(loop_timer_armed(w.timer));
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.count, 3);
	world_close(&w);
}

static void on_defer(void *arg)
{
	struct world *w = arg;

	if (++w->count < 5) {
		loop_defer_run(w->defer);
		loop_defer_run(w->defer); /* once is enough */
		return;
	}
	loop_defer_close(w->defer);
	loop_stop(w->loop);
}

static void test_defer(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	unit_ok(loop_defer_open(w.loop, "d", on_defer, &w, &w.defer, &w.err), &w.err);
	loop_defer_run(w.defer);
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.count, 5);
	world_close(&w);
}

static void work(void *arg)
{
	struct world *w = arg;

	w->count += 10;
}

static void work_done(void *arg, bool cancelled)
{
	struct world *w = arg;

	assert_false(cancelled);
	w->count++;
	loop_stop(w->loop);
}

static void test_work(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	unit_ok(loop_work_run(w.loop, "w", work, work_done, &w, &w.err), &w.err);
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.count, 11);
	world_close(&w);
}

static void on_child(void *arg, int status)
{
	struct world *w = arg;

	w->status = status;
	loop_child_close(w->child);
	loop_stop(w->loop);
}

static void child_status(const char *script, int wanted)
{
	const char *const argv[] = {"/bin/sh", "-c", script, NULL};
	const struct loop_child_spec spec = {.name = "sh", .argv = argv};
	struct world w;

	world_open(&w);
	unit_ok(loop_child_open(w.loop, &spec, on_child, &w, &w.child, &w.err), &w.err);
	assert_true(loop_child_pid(w.child) > 0);
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.status, wanted);
	world_close(&w);
}

static void test_children(void **state)
{
	const char *const missing[] = {"/does/not/exist", NULL};
	const struct loop_child_spec spec = {.name = "missing", .argv = missing};
	char script[64];
	struct world w;
	int fd;

	(void)state;
	child_status("exit 7", 7);
	child_status("kill -9 $$", 256 + SIGKILL);
	/* What is open here is not open in a child. */
	fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	(void)snprintf(script, sizeof(script), "test ! -e /proc/self/fd/%d", fd);
	child_status(script, 0);
	(void)close(fd);
	world_open(&w);
	assert_int_equal(loop_child_open(w.loop, &spec, on_child, &w, &w.child, &w.err), -ENOENT);
	unit_says(&w.err, "/does/not/exist");
	world_close(&w);
}

static void on_exit_seen(void *arg)
{
	struct world *w = arg;

	w->count++;
	loop_exit_close(w->exit);
	loop_stop(w->loop);
}

static void test_exit_of_stranger(void **state)
{
	struct proc_id id;
	struct world w;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)pause();
		_exit(0);
	}
	world_open(&w);
	unit_ok(proc_identify(pid, &id, &w.err), &w.err);
	unit_ok(loop_exit_open(w.loop, &id, on_exit_seen, &w, &w.exit, &w.err), &w.err);
	unit_ok(proc_kill(&id, SIGKILL, &w.err), &w.err);
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.count, 1);
	(void)waitpid(pid, NULL, 0);
	assert_int_equal(loop_exit_open(w.loop, &id, on_exit_seen, &w, &w.exit, &w.err), -ESRCH);
	world_close(&w);
}

static void test_dangling(void **state)
{
	const struct log_config quiet = {.program = "test", .level = LOG_ERROR, .fd = -1};
	struct loop_timer *timer;
	struct world w;

	(void)state;
	log_init(&quiet);
	world_open(&w);
	unit_ok(loop_timer_open(w.loop, "forgotten", on_timer, &w, &timer, &w.err), &w.err);
	loop_timer_close(w.deadline);
	assert_int_equal(loop_free(w.loop), 1);
}

/* ---------------------------------------------------------------- connections */

struct pair {
	struct world w;
	struct conn *a, *b;
	int got, wanted;
	bool closed, drained;
};

static void on_message(void *arg, struct conn *conn, const Um__Envelope *env)
{
	struct pair *p = arg;

	(void)conn;
	assert_int_equal(env->id, ++p->got);
	if (p->got == p->wanted)
		loop_stop(p->w.loop);
}

static void on_close(void *arg, struct conn *conn, const struct err *err)
{
	struct pair *p = arg;

	(void)err;
	p->closed = true;
	conn_close(conn); /* inside the callback */
	if (conn == p->a)
		p->a = NULL;
	else
		p->b = NULL;
	loop_stop(p->w.loop);
}

static void on_drain(void *arg, struct conn *conn)
{
	struct pair *p = arg;

	(void)conn;
	p->drained = true;
}

static const struct conn_ops ops = {
	.on_message = on_message, .on_close = on_close, .on_drain = on_drain};

static void pair_open(struct pair *p, int *raw)
{
	const struct conn_config config = {
		.name = "pair", .message_max = WIRE_MESSAGE_MAX, .queue_max = 200000};
	int fds[2];

	memset(p, 0, sizeof(*p));
	world_open(&p->w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	unit_ok(conn_open(p->w.loop, fds[0], &config, &ops, p, &p->a, &p->w.err), &p->w.err);
	if (raw) {
		*raw = fds[1];
		return;
	}
	unit_ok(conn_open(p->w.loop, fds[1], &config, &ops, p, &p->b, &p->w.err), &p->w.err);
}

static void pair_close(struct pair *p)
{
	conn_close(p->a);
	conn_close(p->b);
	world_close(&p->w);
}

static int send_one(struct pair *p, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__StreamData data = UM__STREAM_DATA__INIT;
	static uint8_t bytes[1000];

	data.data = (ProtobufCBinaryData){.data = bytes, .len = sizeof(bytes)};
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &data;
	return conn_send(p->a, &env, &p->w.err);
}

static void test_conn(void **state)
{
	struct pair p;
	int sent = 0;

	(void)state;
	pair_open(&p, NULL);
	/* A peer that does not read fills a bounded queue. */
	while (send_one(&p, (uint64_t)sent + 1) == 0)
		sent++;
	assert_int_equal(p.w.err.code, -ENOBUFS);
	assert_true(sent > 100 && sent < 2000);
	assert_true(conn_queued(p.a) >= 200000);
	p.wanted = sent;
	(void)loop_run(p.w.loop, NULL);
	assert_int_equal(p.got, sent);
	assert_true(p.drained);
	conn_close(p.a);
	p.a = NULL;
	(void)loop_run(p.w.loop, NULL);
	assert_true(p.closed);
	pair_close(&p);
}

static void test_conn_broken_frame(void **state)
{
	struct pair p;
	int raw;

	(void)state;
	pair_open(&p, &raw);
	assert_int_equal(write(raw, "GET / HTTP/1.1\r\n\r\n", 18), 18);
	(void)loop_run(p.w.loop, NULL);
	assert_true(p.closed);
	(void)close(raw);
	pair_close(&p);
}

static void accepted(void *arg, int fd)
{
	struct world *w = arg;

	w->count++;
	(void)close(fd);
	loop_stop(w->loop);
}

static void test_listen(void **state)
{
	struct conn_listener *listener = NULL, *second = NULL;
	char dir[64], path[400];
	struct world w;
	int fd;

	(void)state;
	world_open(&w);
	unit_dir_make(dir);
	/* Longer than sun_path. */
	(void)snprintf(path, sizeof(path), "%s/%0100d", dir, 1);
	unit_ok(fs_mkdirs(path, 0700, &w.err), &w.err);
	(void)snprintf(path + strlen(path), sizeof(path) - strlen(path), "/sock");
	unit_ok(conn_listen(w.loop, path, 0600, accepted, &w, &listener, &w.err), &w.err);
	assert_int_equal(
		conn_listen(w.loop, path, 0600, accepted, &w, &second, &w.err), -EADDRINUSE);
	fd = conn_connect(path, &w.err);
	unit_ok(fd, &w.err);
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.count, 1);
	(void)close(fd);
	/* What a crash leaves behind is replaced. */
	conn_listener_close(listener, false);
	assert_int_equal(conn_connect(path, &w.err), -ECONNREFUSED);
	unit_ok(conn_listen(w.loop, path, 0600, accepted, &w, &listener, &w.err), &w.err);
	conn_listener_close(listener, true);
	unit_dir_remove(dir);
	world_close(&w);
}

/* ---------------------------------------------------------------- requests */

static void on_reply(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct world *w = arg;

	(void)bulk;
	(void)bulk_size;
	w->count++;
	if (!env) {
		w->status = err->code;
		loop_stop(w->loop);
	}
}

static void test_rpc(void **state)
{
	Um__Envelope env;
	Um__Ok ok = UM__OK__INIT;
	uint64_t a, b, c;
	struct world w;
	struct rpc *rpc;

	(void)state;
	world_open(&w);
	unit_ok(rpc_new(w.loop, &rpc, &w.err), &w.err);
	a = rpc_add(rpc, 20, on_reply, &w);
	b = rpc_add(rpc, 0, on_reply, &w);
	c = rpc_add(rpc, 10000, on_reply, &w);
	assert_true(a && b && c && a != b && b != c);
	env = wire_env(b);
	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	env.more = true;
	assert_true(rpc_deliver(rpc, &env, NULL, 0));
	env.more = false;
	assert_true(rpc_deliver(rpc, &env, NULL, 0));
	assert_false(rpc_deliver(rpc, &env, NULL, 0));
	assert_int_equal(w.count, 2);
	(void)loop_run(w.loop, NULL);
	assert_int_equal(w.status, -ETIMEDOUT);
	assert_int_equal(rpc_pending(rpc), 1);
	rpc_fail_all(rpc, &(const struct err){.code = -ENOTCONN, .msg = "gone"});
	assert_int_equal(w.status, -ENOTCONN);
	assert_int_equal(rpc_pending(rpc), 0);
	rpc_free(rpc);
	world_close(&w);
}

static void test_keys_and_tokens(void **state)
{
	struct curve_token token = {.endpoint = "tcp://[fd00::1]:7711"}, back;
	struct curve_pair pair, again;
	char dir[64], path[100], text[CURVE_TOKEN_MAX];
	struct err err = ERR_INIT;

	(void)state;
	unit_dir_make(dir);
	(void)snprintf(path, sizeof(path), "%s/key", dir);
	unit_ok(curve_load_or_make(path, &pair, &err), &err);
	unit_ok(curve_load_or_make(path, &again, &err), &err);
	assert_memory_equal(&pair, &again, sizeof(pair));
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(curve_load_or_make(path, &again, &err), -EPERM);
	unit_dir_remove(dir);

	curve_generate(&token.pair);
	memcpy(token.server_key, pair.public_key, CURVE_KEY);
	unit_ok(curve_token_text(text, &token, &err), &err);
	unit_ok(curve_token_parse(text, &back, &err), &err);
	assert_memory_equal(&token.pair, &back.pair, sizeof(back.pair));
	assert_string_equal(token.endpoint, back.endpoint);
	text[strlen(text) - 1] = 0;
	assert_int_equal(curve_token_parse(text, &back, &err), -EINVAL);
	assert_int_equal(curve_token_parse("umlaut1:", &back, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_timer),
		cmocka_unit_test(test_defer),
		cmocka_unit_test(test_work),
		cmocka_unit_test(test_children),
		cmocka_unit_test(test_exit_of_stranger),
		cmocka_unit_test(test_dangling),
		cmocka_unit_test(test_conn),
		cmocka_unit_test(test_conn_broken_frame),
		cmocka_unit_test(test_listen),
		cmocka_unit_test(test_rpc),
		cmocka_unit_test(test_keys_and_tokens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
