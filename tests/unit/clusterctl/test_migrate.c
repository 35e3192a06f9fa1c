/* The verb migrate against a scheduler that is a script: what it asks, what it says while
 * it waits, how it ends. */
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

/* What is told next: a move as it is, one that is forgotten, the end of the list; or the
 * connection breaks. */
struct step {
	enum { END, MOVE, GONE, SYNCED, BREAK } what;
	uint64_t number;
	const char *guest, *state, *reason;
};

struct server {
	struct loop *loop;
	struct zctx *zctx;
	struct zsock *sock;
	struct loop_timer *tick;
	struct zpeer client;
	const struct step *next;
	uint64_t watch; /* the request that watches */
	unsigned asked, watched;
	bool interrupt; /* Ctrl-C after the last step */
	/* The request. */
	size_t guests;
	char to[64];
	uint64_t rate, deadline;
	uint32_t max_downtime_ms;
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

static void tell(struct server *s, const struct step *step)
{
	Um__Envelope env = wire_env(s->watch);
	Um__GetReply reply = UM__GET_REPLY__INIT;
	Um__MigrationInfo move = UM__MIGRATION_INFO__INIT, *moves[] = {&move};
	char number[20], *deleted[] = {number};

	(void)snprintf(number, sizeof(number), "%016llx", (unsigned long long)step->number);
	if (step->what == MOVE) {
		move.move = step->number;
		move.guest = text(step->guest);
		move.from = text("h1");
		move.to = text("h2");
		move.state = text(step->state);
		move.reason = text(step->reason);
		move.started_at = STARTED;
		move.frozen_at = STARTED + 1000;
		move.running_at = STARTED + 1500;
		reply.migrations = moves;
		reply.n_migrations = 1;
	} else if (step->what == GONE) {
		reply.deleted = deleted;
		reply.n_deleted = 1;
	}
	reply.synced = step->what == SYNCED;
	env.more = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &reply;
	send_env(s, &env);
}

/* What is asked of each guest is numbered from 1; those called "bad" are refused. */
static void on_migrate(struct server *s, const Um__Envelope *env)
{
	const Um__MigrateRequest *r = env->migrate_request;
	Um__Envelope reply = wire_env(env->id);
	Um__MigrateReply body = UM__MIGRATE_REPLY__INIT;
	Um__MigrateItem items[8], *list[8];
	Um__Error error = UM__ERROR__INIT;

	s->asked++;
	s->guests = r->n_guests;
	(void)str_copy(s->to, sizeof(s->to), r->to);
	s->rate = r->rate;
	s->max_downtime_ms = r->max_downtime_ms;
	s->dry_run = r->dry_run;
	s->cancel = r->cancel;
	error.code = UM__ERROR_CODE__UNPLACEABLE;
	error.message = text("host h2 does not take guest a/bad: not enough memory (needs 64M, "
			     "32M free)");
	for (size_t i = 0; i < r->n_guests && i < 8; i++) {
		um__migrate_item__init(&items[i]);
		items[i].guest = r->guests[i];
		items[i].from = text("h1");
		items[i].to = text("h2");
		if (strcmp(r->guests[i], "a/bad") == 0)
			items[i].error = &error;
		else if (!r->dry_run)
			items[i].move = i + 1;
		list[body.n_items++] = &items[i];
	}
	body.items = list;
	reply.body_case = UM__ENVELOPE__BODY_MIGRATE_REPLY;
	reply.migrate_reply = &body;
	send_env(s, &reply);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct server *s = arg;
	Um__Envelope reply = wire_env(env->id);
	Um__ServerInfo info = UM__SERVER_INFO__INIT;

	(void)sock;
	(void)bulk;
	(void)bulk_size;
	s->client = *peer;
	if (env->body_case == UM__ENVELOPE__BODY_CLIENT_HELLO) {
		reply.body_case = UM__ENVELOPE__BODY_SERVER_INFO;
		reply.server_info = &info;
		send_env(s, &reply);
	} else if (env->body_case == UM__ENVELOPE__BODY_MIGRATE_REQUEST) {
		on_migrate(s, env);
	} else if (env->body_case == UM__ENVELOPE__BODY_GET_REQUEST) {
		assert_int_equal(env->get_request->kind, UM__KIND__KIND_MIGRATIONS);
		s->watch = env->id;
		s->watched++;
	}
}

static void open_sock(struct server *s)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "fake"};
	struct err err = ERR_INIT;

	unit_ok(zsock_open(s->loop, s->zctx, &config, &ops, s, &s->sock, &err), &err);
	unit_ok(zsock_bind(s->sock, endpoint, &err), &err);
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
	if (s->watch && s->next && s->next->what == BREAK) {
		s->watch = 0;
		s->next++;
		zsock_close(s->sock, 0);
		open_sock(s);
	} else if (s->watch && s->next && s->next->what != END) {
		tell(s, s->next++);
	} else if (s->watch && s->interrupt && s->errors.size) {
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
	ctl.verb = verb_find("migrate");
	rc = ctl.verb->run(&ctl, argc, argv);
	ctl_close(&ctl);
	(void)fflush(stdout);
	exit(rc);
}

/* The exit status of the command line LINE; what it printed is in S. */
static int run(struct server *s, const char *line, const struct step *script)
{
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
	open_sock(s);
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

/* ---------------------------------------------------------------- what is asked */

static void test_asks(void **state)
{
	struct server s = {0};

	(void)state;
	assert_int_equal(
		run(&s, "migrate a/x a/y --to h2 --rate 10M --max-downtime 500ms", NULL), EXIT_OK);
	assert_int_equal(s.guests, 2);
	assert_string_equal(s.to, "h2");
	assert_int_equal(s.rate, 10u << 20);
	assert_int_equal(s.max_downtime_ms, 500);
	assert_false(s.dry_run || s.cancel);
	says(&s.output, "a/x moves from h1 to h2");
	says(&s.output, "a/y moves from h1 to h2");
	done(&s);

	s = (struct server){0};
	assert_int_equal(run(&s, "migrate a/x a/bad --dry-run", NULL), EXIT_FAILED);
	assert_true(s.dry_run);
	assert_int_equal(s.rate, 0);
	says(&s.output, "a/x would move from h1 to h2");
	says(&s.errors, "does not take guest a/bad: not enough memory (needs 64M, 32M free)");
	done(&s);

	s = (struct server){0};
	assert_int_equal(run(&s, "migrate a/x --cancel", NULL), EXIT_OK);
	assert_true(s.cancel);
	says(&s.output, "a/x stays on h1");
	done(&s);
}

static void test_usage(void **state)
{
	static const char *const wrong[] = {"migrate", "migrate a/x --rate fast",
		"migrate a/x --rate 0", "migrate a/x --rate 1", "migrate a/x --rate 63K",
		"migrate a/x --max-downtime 0s", "migrate a/x --timeout 5s",
		"migrate a/x --wait --timeout x", "migrate a/x --wait --timeout 0s",
		"migrate a/x --cancel --wait", "migrate a/x --cancel --to h2",
		"migrate a/x --cancel --timeout 5s"};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct server s = {0};
		int rc = run(&s, wrong[i], NULL);

		if (rc != EXIT_USAGE || s.asked || !s.errors.size)
			fail_msg("'%s': status %d, asked %u times: %s", wrong[i], rc, s.asked,
				buf_text(&s.errors));
		if (strstr(wrong[i], "--rate 1"))
			says(&s.errors, "'1' is too little to get anywhere: at least 64K");
		done(&s);
	}
}

/* ---------------------------------------------------------------- waiting */

static void test_waits(void **state)
{
	static const struct step script[] = {
		{.what = MOVE,
			.number = 1,
			.guest = "a/x",
			.state = "preparing",
			.reason = "waits: 8 moves are under way on h1"},
		{.what = MOVE, .number = 2, .guest = "a/y", .state = "copying"},
		{.what = SYNCED},
		{.what = MOVE, .number = 9, .guest = "b/other", .state = "failed"},
		{.what = MOVE, .number = 1, .guest = "a/x", .state = "done"},
		{.what = GONE, .number = 1}, /* known to have ended */
		{.what = MOVE,
			.number = 2,
			.guest = "a/y",
			.state = "failed",
			.reason = "h2: write cow: No space left"},
		{.what = END},
	};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "migrate a/x a/y --wait --timeout 15s", script), EXIT_FAILED);
	says(&s.errors, "a/x: preparing: waits: 8 moves are under way on h1");
	says(&s.output, "a/x moved from h1 to h2");
	says(&s.output, "stopped for 500ms");
	says(&s.errors, "a/y stays on h1: h2: write cow: No space left");
	assert_null(strstr(buf_text(&s.errors), "b/other"));
	done(&s);
}

/* Its move ended while the connection was away, and others have taken its place among
 * those that are remembered. */
static void test_forgotten(void **state)
{
	static const struct step script[] = {
		{.what = MOVE, .number = 1, .guest = "a/x", .state = "copying"},
		{.what = MOVE, .number = 2, .guest = "a/y", .state = "copying"},
		{.what = SYNCED},
		{.what = BREAK},
		{.what = MOVE, .number = 2, .guest = "a/y", .state = "done"},
		{.what = SYNCED},
		{.what = END},
	};
	static const struct step gone[] = {
		{.what = MOVE, .number = 1, .guest = "a/x", .state = "copying"},
		{.what = SYNCED},
		{.what = GONE, .number = 1},
		{.what = END},
	};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "migrate a/x a/y --wait", script), EXIT_FAILED);
	assert_int_equal(s.watched, 2);
	says(&s.output, "a/y moved from h1 to h2");
	says(&s.errors, "a/x: its move has ended, and what came of it is not known any more");
	done(&s);
	s = (struct server){0};
	assert_int_equal(run(&s, "migrate a/x --wait", gone), EXIT_FAILED);
	says(&s.errors, "a/x: its move has ended");
	done(&s);
}

static void test_too_late(void **state)
{
	static const struct step script[] = {
		{.what = MOVE, .number = 1, .guest = "a/x", .state = "copying"},
		{.what = SYNCED},
		{.what = END},
	};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, "migrate a/x --wait --timeout 600ms", script), EXIT_TIMEOUT);
	says(&s.errors, "not over yet; it goes on");
	says(&s.errors, "'clusterctl migrate --cancel a/x'");
	done(&s);
	s = (struct server){.interrupt = true};
	assert_int_equal(run(&s, "migrate a/x -w", script), 130);
	says(&s.errors, "it goes on");
	assert_int_equal(s.asked, 1); /* nothing was cancelled */
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
		cmocka_unit_test(test_usage),
		cmocka_unit_test(test_waits),
		cmocka_unit_test(test_forgotten),
		cmocka_unit_test(test_too_late),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
