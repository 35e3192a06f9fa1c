/* apply --wait and delete --wait against a scheduler that is a script: lists of guests
 * that it tells one after the other. */
#include "clusterctl/waiting.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/proc.h"
#include "lib/str.h"
#include "tests/unit/unit.h"

#define DEADLINE_MS 20000u
#define GUESTS_MAX 40

static char dir[64], endpoint[128];

/* One guest of the script; a NULL name ends a step. */
struct row {
	const char *name, *state, *reason, *desired;
	bool ready, final;
	uint32_t restarts;
};

struct server {
	struct loop *loop;
	struct zctx *zctx;
	struct zsock *sock;
	struct loop_timer *tick;
	struct zpeer client;
	const struct row *next; /* the step to be told, NULL: all was */
	uint64_t request, deadline, began, ended;
	const char *console; /* what `logs` shows; NULL: refused */
	unsigned logs;	     /* streams that were opened */
	bool interrupt;	     /* Ctrl-C after the last step */
	bool at_once;	     /* and with it */
	pid_t child;
	int status, err;
	struct buf errors;
};

static void send_env(struct server *s, Um__Envelope *env)
{
	(void)zsock_send(s->sock, &s->client, env, NULL, 0, NULL);
}

static char *text(const char *t)
{
	return (char *)(uintptr_t)(t ? t : "");
}

static void tell_step(struct server *s)
{
	Um__Envelope env = wire_env(s->request);
	Um__GetReply reply = UM__GET_REPLY__INIT;
	Um__GuestInfo info[GUESTS_MAX], *list[GUESTS_MAX];
	char *deleted[GUESTS_MAX], uids[GUESTS_MAX][17];
	const struct row *r = s->next;

	for (; r->name; r++) {
		uint64_t uid = (uint64_t)(unsigned char)r->name[4] + 1;

		if (strcmp(r->state, "gone") == 0) {
			(void)snprintf(uids[reply.n_deleted], sizeof(uids[0]), "%016llx",
				(unsigned long long)uid);
			deleted[reply.n_deleted] = uids[reply.n_deleted];
			reply.n_deleted++;
			continue;
		}
		um__guest_info__init(&info[reply.n_guests]);
		info[reply.n_guests].uid = uid;
		info[reply.n_guests].name = text(r->name);
		info[reply.n_guests].state = text(r->state);
		info[reply.n_guests].reason = text(r->reason);
		info[reply.n_guests].desired = text(r->desired ? r->desired : "running");
		info[reply.n_guests].ready = r->ready;
		info[reply.n_guests].final = r->final;
		info[reply.n_guests].restarts = r->restarts;
		list[reply.n_guests] = &info[reply.n_guests];
		reply.n_guests++;
	}
	reply.guests = list;
	reply.deleted = deleted;
	reply.synced = true;
	env.more = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &reply;
	send_env(s, &env);
	s->next = r[1].name ? r + 1 : NULL;
}

static void on_logs(struct server *s, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__StreamOpened opened = UM__STREAM_OPENED__INIT;
	Um__StreamData data = UM__STREAM_DATA__INIT;
	Um__StreamEnd end = UM__STREAM_END__INIT;
	Um__Error error = UM__ERROR__INIT;

	s->logs++;
	if (!s->console) {
		error.code = UM__ERROR_CODE__UNAVAILABLE;
		error.message = text("its host is away");
		env.body_case = UM__ENVELOPE__BODY_ERROR;
		env.error = &error;
		send_env(s, &env);
		return;
	}
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
	env.stream_opened = &opened;
	send_env(s, &env);
	env = wire_env(id);
	data.channel = 1;
	data.data.data = (uint8_t *)(uintptr_t)s->console;
	data.data.len = strlen(s->console);
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &data;
	send_env(s, &env);
	env = wire_env(id);
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	send_env(s, &env);
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
	} else if (env->body_case == UM__ENVELOPE__BODY_GET_REQUEST) {
		s->request = env->id;
		s->began = proc_mono_ms();
		tell_step(s);
	} else if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN) {
		on_logs(s, env->id);
	}
}

static void drain(struct server *s)
{
	char piece[4096];
	ssize_t n;

	while ((n = read(s->err, piece, sizeof(piece))) > 0)
		buf_add(&s->errors, piece, (size_t)n);
}

static void on_tick(void *arg)
{
	struct server *s = arg;

	drain(s);
	if (waitpid(s->child, &s->status, WNOHANG) == s->child) {
		s->ended = proc_mono_ms();
		drain(s);
		loop_stop(s->loop);
		return;
	}
	if (proc_mono_ms() > s->deadline) {
		(void)kill(s->child, SIGKILL);
		print_message("the verb did not end\n");
	}
	if (s->request && s->next) {
		tell_step(s);
		if (!s->next && s->at_once)
			(void)kill(s->child, SIGINT);
	} else if (s->request && s->interrupt) {
		(void)kill(s->child, SIGINT);
		s->interrupt = false;
	}
	loop_timer_arm(s->tick, 50);
}

static void child(bool gone, uint64_t timeout_ms, int err)
{
	struct ctl ctl = {.server = endpoint};
	int rc;

	(void)dup2(err, 2);
	ctl.verb = verb_find("apply");
	rc = ctl_connect(&ctl);
	if (rc == 0)
		rc = gone ? waiting_gone(&ctl, "lab", timeout_ms)
			  : waiting_ready(&ctl, "lab", timeout_ms);
	ctl_close(&ctl);
	exit(rc);
}

/* The exit code of a wait for what SCRIPT tells; S->errors is what it printed. */
static int run(struct server *s, const struct row *script, bool gone, uint64_t timeout_ms)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "fake"};
	struct err err = ERR_INIT;
	int fds[2];

	s->next = script;
	buf_init(&s->errors);
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	(void)fflush(NULL);
	s->child = fork();
	assert_true(s->child >= 0);
	if (s->child == 0)
		child(gone, timeout_ms, fds[1]);
	(void)close(fds[1]);
	s->err = fds[0];
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
	(void)close(s->err);
	/* After its end Ctrl-C is what it is to any program. */
	if (s->at_once && WIFSIGNALED(s->status) && WTERMSIG(s->status) == SIGINT)
		return 130;
	assert_true(WIFEXITED(s->status));
	return WEXITSTATUS(s->status);
}

static bool says(struct server *s, const char *want)
{
	if (strstr(buf_text(&s->errors), want))
		return true;
	print_message("no '%s' in:\n%s\n", want, buf_text(&s->errors));
	return false;
}

#define STEP                 \
	{                    \
		.name = NULL \
	}
#define END                  \
	{.name = NULL},      \
	{                    \
		.name = NULL \
	}

static void test_ready(void **state)
{
	static const struct row script[] = {{.name = "lab/a", .state = "starting"},
		{.name = "lab/b", .state = "pending"}, STEP,
		{.name = "lab/a", .state = "running", .ready = true}, STEP,
		/* A new start of it passes through here, and is not the end. */
		{.name = "lab/b", .state = "stopped"}, STEP, {.name = "lab/b", .state = "starting"},
		STEP, {.name = "lab/b", .state = "running", .ready = true}, END};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, script, false, 15000), EXIT_OK);
	assert_true(says(&s, "lab: 2/2 ready"));
	assert_int_equal(s.logs, 0);
	buf_free(&s.errors);
}

/* Stopped by its user, or ended well for good: nothing to wait for. */
static void test_stopped(void **state)
{
	static const struct row script[] = {
		{.name = "lab/a", .state = "stopped", .desired = "stopped"},
		{.name = "lab/job",
			.state = "stopped",
			.reason = "the guest powered off",
			.final = true},
		END};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, script, false, 15000), EXIT_OK);
	buf_free(&s.errors);
}

/* Failures for good end it soon, with who, why, the console, and what to do. */
static void test_failed(void **state)
{
	static const struct row script[] = {{.name = "lab/a", .state = "starting"},
		{.name = "lab/b", .state = "starting"}, {.name = "lab/c", .state = "pending"}, STEP,
		{.name = "lab/b",
			.state = "failed",
			.reason = "Kernel panic: no root",
			.final = true},
		STEP,
		{.name = "lab/a",
			.state = "running",
			.reason = "run: exit status 3",
			.final = true},
		END};
	struct server s = {.console = "one\n\n\033[31mtwo\033[0m \007x\nlast"};

	(void)state;
	assert_int_equal(run(&s, script, false, 15000), EXIT_FAILED);
	assert_true(s.ended - s.began < 5000); /* c was still pending */
	assert_true(says(&s, "2 of the 3 guests of lab have failed"));
	assert_true(says(&s, "  lab/a: running, run: exit status 3\n"));
	assert_true(says(&s, "  lab/b: failed, Kernel panic: no root\n"));
	assert_null(strstr(buf_text(&s.errors), "lab/c"));
	assert_true(says(&s, "the end of the console of lab/b:\n  | one\n  | two ?x\n  | last\n"));
	assert_true(says(&s, "clusterctl restart lab/a"));
	assert_int_equal(s.logs, 2);
	buf_free(&s.errors);
}

/* A kernel that fails time and again is no better; one failure is not yet the end. */
static void test_crash_loop(void **state)
{
	static const struct row script[] = {
		{.name = "lab/a", .state = "failed", .reason = "x", .restarts = 7}, STEP,
		{.name = "lab/a", .state = "starting", .restarts = 8}, STEP,
		{.name = "lab/a", .state = "failed", .reason = "x", .restarts = 9}, STEP,
		{.name = "lab/a", .state = "starting", .restarts = 10}, STEP,
		{.name = "lab/a",
			.state = "failed",
			.reason = "panic; starts again within 4s",
			.restarts = 10},
		END};
	static const struct row mended[] = {
		{.name = "lab/a", .state = "failed", .reason = "x", .restarts = 1}, STEP,
		{.name = "lab/a", .state = "starting", .restarts = 2}, STEP,
		{.name = "lab/a", .state = "running", .ready = true, .restarts = 2}, END};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, script, false, 15000), EXIT_FAILED);
	assert_true(says(&s, "1 of the 1 guests of lab has failed"));
	assert_int_equal(s.logs, 1); /* refused: left out */
	assert_null(strstr(buf_text(&s.errors), "console of"));
	buf_free(&s.errors);
	s = (struct server){0};
	assert_int_equal(run(&s, mended, false, 15000), EXIT_OK);
	buf_free(&s.errors);
}

/* Another mends it within the grace: the wait goes on to its good end. */
static void test_mended(void **state)
{
	static const struct row script[] = {
		{.name = "lab/a", .state = "failed", .reason = "x", .final = true},
		{.name = "lab/b", .state = "starting"}, STEP,
		{.name = "lab/a", .state = "starting"}, STEP,
		{.name = "lab/a", .state = "running", .ready = true},
		{.name = "lab/b", .state = "running", .ready = true}, END};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, script, false, 15000), EXIT_OK);
	buf_free(&s.errors);
}

static void test_timeout(void **state)
{
	static const struct row script[] = {
		{.name = "lab/a", .state = "pending", .reason = "no host has 64G of memory free"},
		{.name = "lab/b", .state = "running", .ready = true}, END};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, script, false, 700), EXIT_TIMEOUT);
	assert_true(says(&s, "  lab/a: pending, no host has 64G of memory free\n"));
	assert_null(strstr(buf_text(&s.errors), "lab/b:"));
	assert_true(says(&s, "It goes on: clusterctl get guests --deployment lab --watch"));
	buf_free(&s.errors);
}

/* Ctrl-C ends the waiting, not the lab, and says so. */
static void test_interrupt(void **state)
{
	static const struct row script[] = {{.name = "lab/a", .state = "starting"},
		{.name = "lab/b", .state = "running", .ready = true}, END};
	static const struct row leaving[] = {{.name = "lab/a", .state = "deleting"}, END};
	struct server s = {.interrupt = true};

	(void)state;
	assert_int_equal(run(&s, script, false, 15000), 130);
	assert_true(says(&s, "no longer waiting; the lab goes on (lab: 1/2 ready, 1 starting)"));
	assert_true(says(&s, "clusterctl delete lab"));
	buf_free(&s.errors);
	s = (struct server){.interrupt = true};
	assert_int_equal(run(&s, leaving, true, 15000), 130);
	assert_true(says(&s, "no longer waiting; the deletion goes on"));
	assert_null(strstr(buf_text(&s.errors), "clusterctl delete"));
	buf_free(&s.errors);
}

/* Ctrl-C, or the timer, in the same turn of the loop as the end: all was ready. */
static void test_interrupt_at_the_end(void **state)
{
	static const struct row script[] = {{.name = "lab/a", .state = "starting"}, STEP,
		{.name = "lab/a", .state = "running", .ready = true}, END};

	(void)state;
	for (int i = 0; i < 10; i++) {
		struct server s = {.at_once = true};
		int rc = run(&s, script, false, 15000);

		assert_true(rc == EXIT_OK || rc == 130);
		if (rc == 130)
			assert_null(strstr(buf_text(&s.errors), "goes on (lab: 1/1 ready)"));
		buf_free(&s.errors);
	}
}

static void test_gone(void **state)
{
	static const struct row script[] = {{.name = "lab/a", .state = "deleting"},
		{.name = "lab/b", .state = "failed", .final = true}, STEP,
		{.name = "lab/a", .state = "gone"}, STEP, {.name = "lab/b", .state = "gone"}, END};
	struct server s = {0};

	(void)state;
	assert_int_equal(run(&s, script, true, 15000), EXIT_OK);
	buf_free(&s.errors);
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
		cmocka_unit_test(test_ready),
		cmocka_unit_test(test_stopped),
		cmocka_unit_test(test_failed),
		cmocka_unit_test(test_crash_loop),
		cmocka_unit_test(test_mended),
		cmocka_unit_test(test_timeout),
		cmocka_unit_test(test_interrupt),
		cmocka_unit_test(test_interrupt_at_the_end),
		cmocka_unit_test(test_gone),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
