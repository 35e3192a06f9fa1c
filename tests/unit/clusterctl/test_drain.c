/* The verb drain against a scheduler that is a script: what it asks, what it says while it
 * waits, how it ends. */
#include "clusterctl/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/buf.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "tests/unit/unit.h"

#define DEADLINE_MS 20000u
#define STARTED UINT64_C(1700000000000)

static char dir[64], endpoint[128];

/* What is told next: of the host, or of a move. */
struct step {
	enum { END, HOST, MOVE } what;
	/* HOST */
	const char *state;
	uint32_t guests, moving, stuck;
	const char *reason;
	bool drain, empty, removed;
	uint64_t retry_at;
	/* MOVE; also `state` and `reason` */
	uint64_t number;
	const char *guest, *from;
	bool drains, older;
};

struct server {
	struct loop *loop;
	struct zctx *zctx;
	struct zsock *sock;
	struct loop_timer *tick;
	struct zpeer client;
	const struct step *next;
	uint64_t hosts, moves; /* the requests that watch */
	bool interrupt;	       /* Ctrl-C after the last step */
	bool refuse;
	unsigned asked, looks;
	/* The request. */
	char host[64];
	uint32_t parallel, max_downtime_ms;
	uint64_t rate, deadline;
	bool dry_run, cancel;
	pid_t child;
	int status, out, err;
	struct buf output, errors;
};

static char *text(const char *t)
{
	return (char *)(uintptr_t)(t ? t : "");
}

static void send_env(struct server *s, Um__Envelope *env)
{
	(void)zsock_send(s->sock, &s->client, env, NULL, 0, NULL);
}

static void tell_host(struct server *s, const struct step *step)
{
	Um__Envelope env = wire_env(s->hosts);
	Um__GetReply reply = UM__GET_REPLY__INIT;
	Um__HostInfo host = UM__HOST_INFO__INIT, *hosts[] = {&host};
	Um__HostDrain drain = UM__HOST_DRAIN__INIT;
	char *deleted[] = {text("h1")};

	host.name = text("h1");
	host.state = text(step->state);
	host.guests = step->guests;
	drain.started_at = STARTED;
	drain.ended_at = step->empty ? STARTED + 5000 : 0;
	drain.moving = step->moving;
	drain.stuck = step->stuck;
	drain.reason = text(step->reason);
	drain.retry_at = step->retry_at;
	host.drain = step->drain ? &drain : NULL;
	if (step->removed) {
		reply.deleted = deleted;
		reply.n_deleted = 1;
	} else {
		reply.hosts = hosts;
		reply.n_hosts = 1;
	}
	reply.synced = true;
	env.more = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &reply;
	send_env(s, &env);
}

static void tell_move(struct server *s, const struct step *step, uint64_t id, bool more)
{
	Um__Envelope env = wire_env(id);
	Um__GetReply reply = UM__GET_REPLY__INIT;
	Um__MigrationInfo move = UM__MIGRATION_INFO__INIT, *moves[] = {&move};

	if (step) {
		move.move = step->number;
		move.guest = text(step->guest);
		move.from = text(step->from ? step->from : "h1");
		move.to = text("h2");
		move.state = text(step->state);
		move.reason = text(step->reason);
		move.drain = step->drains;
		move.started_at = step->older ? STARTED - 60000 : STARTED + 100;
		move.frozen_at = move.started_at + 1000;
		move.running_at = move.started_at + 1500;
		move.ended_at = strcmp(step->state, "copying") != 0 ? move.started_at + 1600 : 0;
		reply.migrations = moves;
		reply.n_migrations = 1;
	}
	reply.synced = true;
	env.more = more;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &reply;
	send_env(s, &env);
}

static void on_drain(struct server *s, const Um__Envelope *env)
{
	const Um__DrainRequest *r = env->drain_request;
	Um__Envelope reply = wire_env(env->id);
	Um__DrainReply body = UM__DRAIN_REPLY__INIT;
	Um__MigrateItem good = UM__MIGRATE_ITEM__INIT, bad = UM__MIGRATE_ITEM__INIT,
			*items[] = {&good, &bad};
	Um__Error error = UM__ERROR__INIT;

	s->asked++;
	(void)str_copy(s->host, sizeof(s->host), r->host);
	s->parallel = r->parallel;
	s->rate = r->rate;
	s->max_downtime_ms = r->max_downtime_ms;
	s->dry_run = r->dry_run;
	s->cancel = r->cancel;
	if (s->refuse) {
		error.code = UM__ERROR_CODE__NOT_FOUND;
		error.message = text("no host 'h1'");
		reply.body_case = UM__ENVELOPE__BODY_ERROR;
		reply.error = &error;
		send_env(s, &reply);
		return;
	}
	body.guests = 7;
	if (r->dry_run) {
		good.guest = text("a/one");
		good.from = text("h1");
		good.to = text("h3");
		bad.guest = text("a/two");
		error.message = text("guest a/two cannot move: not the host asked for");
		bad.error = &error;
		body.items = items;
		body.n_items = 2;
	}
	reply.body_case = UM__ENVELOPE__BODY_DRAIN_REPLY;
	reply.drain_reply = &body;
	send_env(s, &reply);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct server *s = arg;
	Um__Envelope reply = wire_env(env->id);
	Um__ServerInfo info = UM__SERVER_INFO__INIT;
	const struct step late = {
		.what = MOVE, .number = 99, .guest = "a/last", .state = "done", .drains = true};

	(void)sock;
	(void)bulk;
	(void)bulk_size;
	s->client = *peer;
	if (env->body_case == UM__ENVELOPE__BODY_CLIENT_HELLO) {
		reply.body_case = UM__ENVELOPE__BODY_SERVER_INFO;
		reply.server_info = &info;
		send_env(s, &reply);
	} else if (env->body_case == UM__ENVELOPE__BODY_DRAIN_REQUEST) {
		on_drain(s, env);
	} else if (env->body_case != UM__ENVELOPE__BODY_GET_REQUEST) {
		return;
	} else if (env->get_request->kind == UM__KIND__KIND_HOSTS) {
		assert_int_equal(env->get_request->n_names, 1);
		assert_string_equal(env->get_request->names[0], "h1");
		s->hosts = env->id;
	} else if (env->get_request->watch) {
		s->moves = env->id;
	} else {
		/* Looked at once, in the end: one move more. */
		s->looks++;
		tell_move(s, &late, env->id, false);
	}
}

static void take(int fd, struct buf *to)
{
	char piece[4096];
	ssize_t n;

	while ((n = read(fd, piece, sizeof(piece))) > 0)
		buf_add(to, piece, (size_t)n);
}

static void on_tick(void *arg)
{
	struct server *s = arg;
	bool ended = waitpid(s->child, &s->status, WNOHANG) == s->child;

	take(s->out, &s->output);
	take(s->err, &s->errors);
	if (ended) {
		loop_stop(s->loop);
		return;
	}
	if (proc_mono_ms() > s->deadline) {
		(void)kill(s->child, SIGKILL);
		print_message("the verb did not end\n");
	}
	if (s->hosts && s->moves && s->next && s->next->what != END) {
		if (s->next->what == HOST)
			tell_host(s, s->next);
		else
			tell_move(s, s->next, s->moves, true);
		s->next++;
	} else if (s->hosts && s->interrupt && s->errors.size) {
		s->interrupt = false;
		(void)kill(s->child, SIGINT);
	}
	loop_timer_arm(s->tick, 20);
}

static void child(const char *line, int out, int err)
{
	struct ctl ctl = {.server = endpoint};
	char words[256], *argv[16], *rest = words;
	int argc = 0, rc;

	(void)dup2(out, 1);
	(void)dup2(err, 2);
	(void)str_copy(words, sizeof(words), line);
	while (argc < 15 && (argv[argc] = strsep(&rest, " ")))
		argc++;
	argv[argc] = NULL;
	ctl.verb = verb_find("drain");
	rc = ctl.verb->run(&ctl, argc, argv);
	ctl_close(&ctl);
	(void)fflush(stdout);
	exit(rc);
}

/* The exit status of the command line LINE; what it printed is in S. */
static int run(struct server *s, const char *line, const struct step *script)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "fake"};
	struct err err = ERR_INIT;
	int out[2], errs[2];

	s->next = script;
	buf_init(&s->output);
	buf_init(&s->errors);
	assert_int_equal(pipe2(out, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(pipe2(errs, O_CLOEXEC | O_NONBLOCK), 0);
	(void)fflush(NULL);
	s->child = fork();
	assert_true(s->child >= 0);
	if (s->child == 0)
		child(line, out[1], errs[1]);
	(void)close(out[1]);
	(void)close(errs[1]);
	s->out = out[0];
	s->err = errs[0];
	s->deadline = proc_mono_ms() + DEADLINE_MS;
	unit_ok(loop_new(&s->loop, &err), &err);
	unit_ok(zctx_new(&s->zctx, &err), &err);
	unit_ok(zsock_open(s->loop, s->zctx, &config, &ops, s, &s->sock, &err), &err);
	unit_ok(zsock_bind(s->sock, endpoint, &err), &err);
	unit_ok(loop_timer_open(s->loop, "tick", on_tick, s, &s->tick, &err), &err);
	loop_timer_arm(s->tick, 1);
	unit_ok(loop_run(s->loop, &err), &err);
	loop_timer_close(s->tick);
	zsock_close(s->sock, 0);
	assert_int_equal(loop_free(s->loop), 0);
	zctx_free(s->zctx);
	(void)close(s->out);
	(void)close(s->err);
	assert_true(WIFEXITED(s->status));
	return WEXITSTATUS(s->status);
}

static void done(struct server *s)
{
	buf_free(&s->output);
	buf_free(&s->errors);
}

static void says(struct buf *b, const char *what)
{
	if (!strstr(buf_text(b), what))
		fail_msg("'%s' is not in '%s'", what, buf_text(b));
}

static unsigned times(struct buf *b, const char *what)
{
	unsigned n = 0;

	for (const char *at = buf_text(b); (at = strstr(at, what)); at++)
		n++;
	return n;
}

/* ---------------------------------------------------------------- what is asked */

static void test_asks(void **state)
{
	struct server s = {0};

	(void)state;
	assert_int_equal(
		run(&s, "drain h1 --parallel 2 --rate 10M --max-downtime 500ms", NULL), EXIT_OK);
	assert_int_equal(s.asked, 1);
	assert_string_equal(s.host, "h1");
	assert_int_equal(s.parallel, 2);
	assert_int_equal(s.rate, 10u << 20);
	assert_int_equal(s.max_downtime_ms, 500);
	assert_false(s.dry_run || s.cancel);
	says(&s.output, "h1 is being emptied (guests there: 7)");
	done(&s);

	s = (struct server){0};
	assert_int_equal(run(&s, "drain h1", NULL), EXIT_OK);
	assert_int_equal(s.parallel, 0);
	assert_int_equal(s.rate, 0);
	assert_int_equal(s.max_downtime_ms, 0);
	done(&s);
}

static void test_cancel(void **state)
{
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "drain h1 --cancel", NULL), EXIT_OK);
	assert_true(s.cancel);
	says(&s.output, "h1 is not emptied any more; it stays cordoned (guests there: 7)");
	done(&s);
}

static void test_dry_run(void **state)
{
	struct server s = {0};

	(void)state;
	/* --wait has nothing to wait for. */
	assert_int_equal(run(&s, "drain h1 --dry-run --wait", NULL), EXIT_FAILED);
	assert_true(s.dry_run);
	assert_int_equal(s.hosts, 0);
	says(&s.output, "a/one would move from h1 to h3");
	says(&s.errors, "a/two cannot move: not the host asked for");
	done(&s);
}

static void test_refused(void **state)
{
	struct server s = {.refuse = true};

	(void)state;
	assert_int_equal(run(&s, "drain h1 --wait", NULL), EXIT_NOT_FOUND);
	says(&s.errors, "no host 'h1'");
	assert_int_equal(s.hosts, 0);
	done(&s);
}

static void test_usage(void **state)
{
	static const char *const wrong[] = {"drain", "drain h1 h2", "drain h1 --parallel 0",
		"drain h1 --parallel 65", "drain h1 --parallel some", "drain h1 --rate fast",
		"drain h1 --max-downtime 0s", "drain h1 --max-downtime soon",
		"drain h1 --timeout 5s", "drain h1 --wait --timeout x", "drain h1 --cancel --wait",
		"drain h1 --cancel --parallel 2", "drain h1 --cancel --dry-run"};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct server s = {0};
		int rc = run(&s, wrong[i], NULL);

		if (rc != EXIT_USAGE || s.asked || !s.errors.size)
			fail_msg("'%s': status %d, asked %u times: %s", wrong[i], rc, s.asked,
				buf_text(&s.errors));
		done(&s);
	}
}

/* ---------------------------------------------------------------- waiting */

#define AT(left, now) \
	.what = HOST, .state = "draining", .drain = true, .guests = left, .moving = now
#define MOVED(n, name) .what = MOVE, .number = n, .guest = name, .state = "done", .drains = true

static void test_waits(void **state)
{
	static const struct step script[] = {
		{AT(3, 2)},
		{AT(3, 2)}, /* nothing new: not said again */
		{.what = MOVE, .number = 1, .guest = "a/one", .state = "copying", .drains = true},
		{MOVED(1, "a/one")},
		{MOVED(1, "a/one")},
		{MOVED(2, "b/older"), .older = true},
		{MOVED(3, "b/other"), .from = "h9"},
		{.what = MOVE, .number = 4, .guest = "b/user", .state = "done"},
		{.what = MOVE,
			.number = 5,
			.guest = "a/two",
			.state = "failed",
			.reason = "the disk is full",
			.drains = true},
		{AT(2, 1), .stuck = 1, .reason = "a/two: the disk is full"},
		{MOVED(6, "a/two")},
		{.what = HOST, .state = "drained", .drain = true, .empty = true},
		{.what = END},
	};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "drain h1 --wait --timeout 15s", script), EXIT_OK);
	assert_int_equal(times(&s.errors, "h1: 3 left, 2 moving"), 1);
	says(&s.errors, "h1: 2 left, 1 moving, 1 cannot leave: a/two: the disk is full");
	says(&s.errors, "a/two stays on h1: the disk is full");
	assert_int_equal(times(&s.output, "a/one moved from h1 to h2"), 1);
	assert_int_equal(times(&s.output, "a/two moved from h1 to h2"), 1);
	says(&s.output, "stopped for 500ms");
	/* Those of others, and of before. */
	assert_int_equal(times(&s.output, "b/"), 0);
	/* What was not told before the end is looked up. */
	assert_int_equal(s.looks, 1);
	assert_int_equal(times(&s.output, "a/last moved from h1 to h2"), 1);
	says(&s.output, "h1 is empty: 3 moved");
	assert_int_equal(times(&s.output, "being emptied"), 0);
	done(&s);
}

static void test_too_late(void **state)
{
	static const struct step script[] = {
		{AT(1, 0), .stuck = 1, .reason = "guest a/x cannot move: no host"}, {.what = END}};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "drain h1 --wait --timeout 600ms", script), EXIT_TIMEOUT);
	says(&s.errors, "h1 is not empty yet");
	says(&s.errors, "a/x cannot move");
	says(&s.errors, "clusterctl drain h1 --cancel");
	done(&s);
}

/* Without a time to wait for: until two tries in a row left the same guests behind. */
static void test_stuck(void **state)
{
	static const struct step script[] = {
		{AT(2, 0), .stuck = 2, .reason = "a/two: no host", .retry_at = STARTED + 1},
		{AT(2, 0), .stuck = 2, .reason = "a/two: no host", .retry_at = STARTED + 1},
		{AT(2, 1)}, {MOVED(1, "a/one")},
		{AT(1, 0), .stuck = 1, .reason = "a/two: no host", .retry_at = STARTED + 2},
		{AT(1, 0), .stuck = 1, .reason = "a/two: no host", .retry_at = STARTED + 3},
		{.what = END}};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "drain h1 -w", script), EXIT_FAILED);
	says(&s.errors, "guest a/two cannot move: not the host asked for");
	says(&s.errors, "h1 is not empty: 2 moved, 1 cannot leave");
	says(&s.output, "a/one moved from h1 to h2");
	/* Each is asked for with its reason. */
	assert_int_equal(s.asked, 2);
	assert_true(s.dry_run);
	done(&s);
}

static void test_interrupted(void **state)
{
	static const struct step script[] = {{AT(5, 2)}, {.what = END}};
	struct server s = {.interrupt = true};

	(void)state;
	assert_int_equal(run(&s, "drain h1 -w", script), 130);
	says(&s.errors, "the moves go on ('clusterctl drain h1 --cancel' stops them)");
	assert_int_equal(s.asked, 1); /* nothing was cancelled */
	done(&s);
}

static void test_lost(void **state)
{
	static const struct step script[] = {
		{.what = HOST, .state = "lost", .drain = true, .guests = 4},
		{.what = HOST, .state = "drained", .drain = true, .empty = true}, {.what = END}};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "drain h1 -w", script), EXIT_OK);
	says(&s.errors, "h1: 4 left, 0 moving; the host is lost");
	done(&s);
}

/* Somebody else uncordons the host, or removes it. */
static void test_ended_by_others(void **state)
{
	static const struct step uncordoned[] = {
		{AT(5, 2)}, {.what = HOST, .state = "up", .guests = 4}, {.what = END}};
	static const struct step removed[] = {
		{AT(5, 2)}, {.what = HOST, .removed = true}, {.what = END}};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "drain h1 -w", uncordoned), EXIT_FAILED);
	says(&s.errors, "h1 is not emptied any more");
	done(&s);
	s = (struct server){0};
	assert_int_equal(run(&s, "drain h1 -w", removed), EXIT_FAILED);
	says(&s.errors, "h1 is not emptied any more");
	done(&s);
}

static int setup(void **state)
{
	(void)state;
	unit_dir_make(dir);
	(void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/s.sock", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unit_dir_remove(dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_asks),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_dry_run),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_usage),
		cmocka_unit_test(test_waits),
		cmocka_unit_test(test_too_late),
		cmocka_unit_test(test_stuck),
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_ended_by_others),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
