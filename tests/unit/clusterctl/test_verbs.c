/* Verbs against a scheduler that is a script: a ROUTER in this process; each verb
 * runs in a child, with pipes or a pseudo terminal as its standard streams. */
#include "clusterctl/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "lib/proc.h"
#include "lib/str.h"
#include "tests/unit/unit.h"

#define DEADLINE_MS 20000u

static char dir[64], endpoint[128];
static int input = -1; /* of the next verb, instead of a pipe */

struct server {
	struct loop *loop;
	struct zctx *zctx;
	struct zsock *sock;
	struct loop_timer *tick;
	struct zpeer client;
	uint64_t stream;
	size_t credit;	  /* we may send */
	size_t window;	  /* the client may still send */
	size_t flood;	  /* bytes still to send */
	struct buf got;	  /* the client's input, or its tar */
	struct buf reply; /* COPY_FROM: the tar to send */
	Um__StreamKind kind;
	char word[64]; /* argv[0] */
	uint32_t rows, cols, signals;
	bool eof, over, broke, tty;
	pid_t child;
	int status;
	int out, err, in; /* our ends */
	struct buf output, errors;
	uint64_t deadline;
};

static void send_env(struct server *s, Um__Envelope *env)
{
	struct err err = ERR_INIT;

	if (zsock_send(s->sock, &s->client, env, NULL, 0, &err) < 0)
		s->broke = true;
}

static void send_data(struct server *s, uint32_t channel, const void *data, size_t size)
{
	Um__Envelope env = wire_env(s->stream);
	Um__StreamData d = UM__STREAM_DATA__INIT;

	assert_true(size <= s->credit);
	s->credit -= size;
	d.channel = channel;
	d.data.data = (uint8_t *)(uintptr_t)data;
	d.data.len = size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &d;
	send_env(s, &env);
}

static void send_end(struct server *s, int status, uint32_t signal)
{
	Um__Envelope env = wire_env(s->stream);
	Um__StreamEnd e = UM__STREAM_END__INIT;

	e.exit_status = status;
	e.signal = signal;
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &e;
	send_env(s, &env);
}

static void send_error(struct server *s, uint64_t id, Um__ErrorCode code, const char *text)
{
	Um__Envelope env = wire_env(id);
	Um__Error e = UM__ERROR__INIT;

	e.code = code;
	e.message = (char *)(uintptr_t)text;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &e;
	send_env(s, &env);
}

static void flood(struct server *s)
{
	static uint8_t piece[WIRE_STREAM_DATA];

	while (s->flood && s->credit) {
		size_t n = s->flood < sizeof(piece) ? s->flood : sizeof(piece);

		if (n > s->credit)
			n = s->credit;
		for (size_t i = 0; i < n; i++)
			piece[i] = (uint8_t)((s->flood - i) % 251);
		send_data(s, 1, piece, n);
		s->flood -= n;
		if (!s->flood)
			send_end(s, 7, 0);
	}
}

static void send_reply(struct server *s)
{
	while (s->reply.size && s->credit) {
		size_t n = s->reply.size < WIRE_STREAM_DATA ? s->reply.size : WIRE_STREAM_DATA;

		if (n > s->credit)
			n = s->credit;
		send_data(s, 1, s->reply.data, n);
		buf_consume(&s->reply, n);
		if (!s->reply.size)
			send_end(s, 0, 0);
	}
}

static void on_open(struct server *s, const Um__Envelope *env)
{
	Um__Envelope reply = wire_env(env->id);
	Um__StreamOpened opened = UM__STREAM_OPENED__INIT;
	const Um__StreamOpen *o = env->stream_open;

	s->stream = env->id;
	s->kind = o->kind;
	s->credit = s->window = WIRE_STREAM_WINDOW;
	s->rows = o->rows;
	s->cols = o->cols;
	s->tty = o->tty;
	(void)str_format(s->word, sizeof(s->word), "%s", o->n_argv ? o->argv[0] : o->guest);
	if (strcmp(o->guest, "no/guest") == 0) {
		send_error(s, env->id, UM__ERROR_CODE__NOT_FOUND, "no guest 'no/guest'");
		return;
	}
	reply.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
	reply.stream_opened = &opened;
	send_env(s, &reply);
	if (strcmp(s->word, "flood") == 0) {
		s->flood = 3000000;
		flood(s);
	} else if (strcmp(s->word, "both") == 0) {
		send_data(s, 1, "out\n", 4);
		send_data(s, 2, "err\n", 4);
		send_end(s, 0, 0);
	} else if (strcmp(s->word, "killed") == 0) {
		send_end(s, -1, 9);
	} else if (strcmp(s->word, "late-error") == 0) {
		send_error(s, env->id, UM__ERROR_CODE__UNAVAILABLE, "the host went away");
	} else if (strcmp(s->word, "lost") == 0) {
		zsock_close(s->sock, 0);
		s->sock = NULL;
	} else if (o->kind == UM__STREAM_KIND__STREAM_LOGS) {
		send_data(s, 1, "line\n", 5);
		send_end(s, 0, 0);
	} else if (o->kind == UM__STREAM_KIND__STREAM_COPY_FROM) {
		send_reply(s);
	}
}

/* What has been taken in is granted again. */
static void grant(struct server *s, size_t size)
{
	Um__Envelope env = wire_env(s->stream);
	Um__StreamCredit c = UM__STREAM_CREDIT__INIT;

	c.bytes = (uint32_t)size;
	s->window += size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &c;
	send_env(s, &env);
}

static void echo(struct server *s)
{
	while (s->reply.size && s->credit) {
		size_t n = s->reply.size < WIRE_STREAM_DATA ? s->reply.size : WIRE_STREAM_DATA;

		if (n > s->credit)
			n = s->credit;
		send_data(s, 1, s->reply.data, n);
		buf_consume(&s->reply, n);
		grant(s, n);
	}
	if (s->eof && !s->reply.size)
		send_end(s, 0, 0);
}

static void on_data(struct server *s, const Um__Envelope *env)
{
	const Um__StreamData *d = env->stream_data;

	if (d->data.len > s->window)
		s->over = true; /* more than was granted */
	s->window -= d->data.len;
	buf_add(&s->got, d->data.data, d->data.len);
	s->eof |= d->eof;
	if (strcmp(s->word, "cat") == 0) {
		buf_add(&s->reply, d->data.data, d->data.len);
		echo(s);
		return;
	}
	if (d->data.len)
		grant(s, d->data.len);
	if (d->eof)
		send_end(s, 0, 0);
}

static void on_why(struct server *s, const Um__Envelope *env)
{
	Um__Envelope reply = wire_env(env->id);
	Um__WhyItem memory = UM__WHY_ITEM__INIT, labels = UM__WHY_ITEM__INIT,
		    *items[] = {&memory, &labels};
	Um__WhyReply r = UM__WHY_REPLY__INIT;
	char *help[] = {(char *)(uintptr_t) "add a host"};

	r.guest = env->why_request->guest;
	if (strcmp(r.guest, "no/guest") == 0) {
		send_error(s, env->id, UM__ERROR_CODE__NOT_FOUND, "no guest 'no/guest'");
		return;
	}
	r.because = (char *)(uintptr_t) "room \033[31m";
	if (strcmp(r.guest, "a/placed") == 0) {
		r.host = (char *)(uintptr_t) "h1";
	} else {
		memory.what = (char *)(uintptr_t) "not enough memory";
		memory.hosts = 12;
		memory.example = (char *)(uintptr_t) "h7";
		memory.detail = (char *)(uintptr_t) "needs 64M, 12M free";
		labels.what = (char *)(uintptr_t) "other labels";
		labels.hosts = 1;
		r.items = items;
		r.n_items = 2;
		r.help = help;
		r.n_help = 1;
	}
	reply.body_case = UM__ENVELOPE__BODY_WHY_REPLY;
	reply.why_reply = &r;
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
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_CLIENT_HELLO:
		reply.body_case = UM__ENVELOPE__BODY_SERVER_INFO;
		reply.server_info = &info;
		send_env(s, &reply);
		break;
	case UM__ENVELOPE__BODY_WHY_REQUEST:
		on_why(s, env);
		break;
	case UM__ENVELOPE__BODY_STREAM_OPEN:
		on_open(s, env);
		break;
	case UM__ENVELOPE__BODY_STREAM_DATA:
		on_data(s, env);
		break;
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
		s->credit += env->stream_credit->bytes;
		flood(s);
		if (strcmp(s->word, "cat") == 0)
			echo(s);
		if (s->kind == UM__STREAM_KIND__STREAM_COPY_FROM)
			send_reply(s);
		break;
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
		if (env->stream_control->rows) {
			s->rows = env->stream_control->rows;
			s->cols = env->stream_control->cols;
		}
		if (env->stream_control->signal) {
			s->signals++;
			send_end(s, -1, env->stream_control->signal);
		}
		break;
	default:
		break;
	}
}

static void drain(int fd, struct buf *to)
{
	char piece[65536];
	ssize_t n;

	while (fd >= 0 && (n = read(fd, piece, sizeof(piece))) > 0)
		buf_add(to, piece, (size_t)n);
}

static void on_tick(void *arg)
{
	struct server *s = arg;

	drain(s->out, &s->output);
	drain(s->err, &s->errors);
	if (waitpid(s->child, &s->status, WNOHANG) == s->child) {
		s->child = 0;
		drain(s->out, &s->output);
		drain(s->err, &s->errors);
		loop_stop(s->loop);
		return;
	}
	if (proc_mono_ms() > s->deadline) {
		(void)kill(s->child, SIGKILL);
		print_message("the verb did not end\n");
	}
	loop_timer_arm(s->tick, 5);
}

/* ---- the child ---- */

static void child(char **argv, int in, int out, int err)
{
	struct ctl ctl = {.server = endpoint};
	int argc = 0, rc;

	(void)dup2(in, 0);
	(void)dup2(out, 1);
	(void)dup2(err, 2);
	(void)sigaction(SIGPIPE, &(const struct sigaction){.sa_handler = SIG_IGN}, NULL);
	while (argv[argc])
		argc++;
	ctl.verb = verb_find(argv[0]);
	rc = ctl.verb->run(&ctl, argc, argv);
	ctl_close(&ctl);
	(void)fflush(stdout);
	/* exit() runs what puts the terminal back, and the leak check. */
	exit(rc);
}

static void nonblock(int fd)
{
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* Starts the verb; MASTER >= 0: its standard input and output are this terminal. */
static void start(struct server *s, char **argv, int slave)
{
	int in[2], out[2], err[2];

	memset(s, 0, sizeof(*s));
	buf_init(&s->got);
	buf_init(&s->reply);
	buf_init(&s->output);
	buf_init(&s->errors);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(err, O_CLOEXEC), 0);
	(void)fflush(NULL);
	s->child = fork();
	assert_true(s->child >= 0);
	if (s->child == 0) {
		/* Our ends, or the end of the input would never come. */
		(void)close(in[1]);
		(void)close(out[0]);
		(void)close(err[0]);
		child(argv,
			slave >= 0   ? slave
			: input >= 0 ? input
				     : in[0],
			slave >= 0 ? slave : out[1], err[1]);
	}
	(void)close(in[0]);
	(void)close(out[1]);
	(void)close(err[1]);
	s->in = in[1];
	s->out = out[0];
	s->err = err[0];
	nonblock(s->out);
	nonblock(s->err);
}

static void serve(struct server *s)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "fake"};
	struct err err = ERR_INIT;

	s->deadline = proc_mono_ms() + DEADLINE_MS;
	unit_ok(loop_new(&s->loop, &err), &err);
	unit_ok(zctx_new(&s->zctx, &err), &err);
	unit_ok(zsock_open(s->loop, s->zctx, &config, &ops, s, &s->sock, &err), &err);
	unit_ok(zsock_bind(s->sock, endpoint, &err), &err);
	unit_ok(loop_timer_open(s->loop, "tick", on_tick, s, &s->tick, &err), &err);
	loop_timer_arm(s->tick, 1);
	unit_ok(loop_run(s->loop, &err), &err);
	assert_false(s->over);
}

static void finish(struct server *s)
{
	loop_timer_close(s->tick);
	if (s->sock)
		zsock_close(s->sock, 0);
	assert_int_equal(loop_free(s->loop), 0);
	zctx_free(s->zctx);
	if (s->in >= 0)
		(void)close(s->in);
	if (s->out >= 0)
		(void)close(s->out);
	(void)close(s->err);
	buf_free(&s->got);
	buf_free(&s->reply);
	buf_free(&s->output);
	buf_free(&s->errors);
}

/* Runs a verb to its end with no input; the exit code. */
static int verb(struct server *s, char **argv)
{
	start(s, argv, -1);
	(void)close(s->in);
	s->in = -1;
	serve(s);
	if (!WIFEXITED(s->status))
		fail_msg("ended by signal %d: %s", WTERMSIG(s->status), buf_text(&s->errors));
	return WEXITSTATUS(s->status);
}

static void ended(struct server *s, int code)
{
	if (!WIFEXITED(s->status) || WEXITSTATUS(s->status) != code)
		fail_msg("status %#x, expected %d: %s", (unsigned)s->status, code,
			buf_text(&s->errors));
}

#define ARGV(...) ((char *[]){__VA_ARGS__, NULL})
#define W(text) ((char *)(uintptr_t)(text))

/* ---- tests ---- */

static void test_why(void **state)
{
	static const struct {
		const char *guest, *format;
		int code;
		const char *out, *err;
	} cases[] = {
		{"a/placed", "table", 0, "a/placed is on h1: room ?[31m\n", ""},
		{"a/waits", "table", 0,
			"a/waits has no host: room ?[31m\n\n"
			"REASON             HOSTS  NEAREST  DETAIL\n"
			"not enough memory  12     h7       needs 64M, 12M free\n"
			"other labels       1      -        -\n"
			"\nwhat would help:\n  - add a host\n",
			""},
		{"a/placed", "json", 0,
			"{\n  \"guest\": \"a/placed\",\n  \"host\": \"h1\",\n"
			"  \"because\": \"room \\u001b[31m\",\n  \"reasons\": [],\n"
			"  \"help\": []\n}\n",
			""},
		{"a/waits", "yaml", 0,
			"guest: a/waits\nhost: null\nbecause: \"room \\u001b[31m\"\nreasons:\n"
			"  - reason: not enough memory\n    hosts: 12\n    nearest: h7\n"
			"    detail: \"needs 64M, 12M free\"\n  - reason: other labels\n"
			"    hosts: 1\n    nearest: null\n    detail: \"\"\n"
			"help:\n  - add a host\n",
			""},
		{"no/guest", "table", EXIT_NOT_FOUND, "", "no guest 'no/guest'"},
		{"a/b", "wide", EXIT_USAGE, "", "'wide' is none of table, json, yaml"},
	};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		struct server s;
		int code = verb(&s, ARGV(W("why"), W(cases[i].guest), W("-o"), W(cases[i].format)));

		assert_string_equal(buf_text(&s.output), cases[i].out);
		assert_non_null(strstr(buf_text(&s.errors), cases[i].err));
		assert_int_equal(code, cases[i].code);
		finish(&s);
	}
}

static void test_exit_codes(void **state)
{
	static const struct {
		const char *command, *guest;
		int code;
		const char *out, *err;
	} cases[] = {
		{"both", "a/b", 0, "out\n", "err\n"},
		{"killed", "a/b", 137, "", ""},
		{"late-error", "a/b", 1, "", "the host went away"},
		{"both", "no/guest", 3, "", "clusterctl: no guest 'no/guest'\n"},
		{"lost", "a/b", 5, "", "connection to the scheduler was lost"},
	};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		struct server s;
		int rc = verb(&s, ARGV(W("exec"), W(cases[i].guest), W("--"), W(cases[i].command)));

		if (rc != cases[i].code || strcmp(buf_text(&s.output), cases[i].out) != 0 ||
			!strstr(buf_text(&s.errors), cases[i].err))
			fail_msg("%s: %d, '%s', '%s'", cases[i].command, rc, buf_text(&s.output),
				buf_text(&s.errors));
		finish(&s);
	}
}

static void test_usage(void **state)
{
	struct server s;

	(void)state;
	assert_int_equal(verb(&s, ARGV(W("exec"))), 2);
	assert_non_null(strstr(buf_text(&s.errors), "which guest?"));
	finish(&s);
	assert_int_equal(verb(&s, ARGV(W("exec"), W("a/b"))), 2);
	finish(&s);
	assert_int_equal(verb(&s, ARGV(W("exec"), W("--sdtin"), W("a/b"), W("x"))), 2);
	assert_non_null(strstr(buf_text(&s.errors), "did you mean --stdin?"));
	finish(&s);
	assert_int_equal(verb(&s, ARGV(W("logs"), W("--tail"), W("x"), W("a/b"))), 2);
	finish(&s);
	assert_int_equal(verb(&s, ARGV(W("cp"), W("a"), W("b"))), 2);
	finish(&s);
	/* What stands after the guest is the command's own. */
	assert_int_equal(verb(&s, ARGV(W("exec"), W("a/b"), W("both"), W("-x"), W("--yes"))), 0);
	finish(&s);
	assert_int_equal(verb(&s, ARGV(W("exec"), W("a/b"), W("-i"), W("--"), W("both"))), 0);
	finish(&s);
}

/* A slow reader: the guest is held back, nothing is lost. */
static void test_flood(void **state)
{
	struct server s;
	int rc = verb(&s, ARGV(W("exec"), W("a/b"), W("flood")));

	(void)state;
	assert_int_equal(rc, 7);
	assert_int_equal(s.output.size, 3000000);
	for (size_t i = 0; i < s.output.size; i++)
		if (s.output.data[i] != (uint8_t)((3000000 - i) % 251))
			fail_msg("byte %zu", i);
	finish(&s);
}

static pid_t feed(int fd, const uint8_t *data, size_t size)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n <= 0)
			_exit(1);
		data += n;
		size -= (size_t)n;
	}
	_exit(0);
}

/* 2 MB through the guest's cat; the window is kept (on_data checks). */
static void test_input(void **state)
{
	struct server s;
	struct err err = ERR_INIT;
	char path[128];
	uint8_t *data = malloc(2000000);

	(void)state;
	assert_non_null(data);
	proc_random(data, 2000000);
	(void)snprintf(path, sizeof(path), "%s/input", dir);
	unit_ok(fs_write_atomic(path, data, 2000000, 0600, &err), &err);
	for (int from_file = 0; from_file < 2; from_file++) {
		pid_t feeder = 0;

		if (from_file) /* which epoll does not take */
			input = open(path, O_RDONLY | O_CLOEXEC);
		start(&s, ARGV(W("exec"), W("-i"), W("a/b"), W("cat")), -1);
		if (!from_file)
			feeder = feed(s.in, data, 2000000);
		(void)close(s.in);
		s.in = -1;
		serve(&s);
		if (feeder)
			(void)waitpid(feeder, NULL, 0);
		ended(&s, 0);
		assert_true(s.eof);
		assert_int_equal(s.output.size, 2000000);
		assert_memory_equal(s.output.data, data, 2000000);
		finish(&s);
	}
	(void)close(input);
	input = -1;
	free(data);
}

/* head(1) goes away: the verb ends as a shell expects. */
static void test_closed_pipe(void **state)
{
	struct server s;

	(void)state;
	start(&s, ARGV(W("exec"), W("a/b"), W("flood")), -1);
	(void)close(s.in);
	(void)close(s.out);
	s.in = s.out = -1;
	serve(&s);
	ended(&s, 128 + SIGPIPE);
	finish(&s);
}

static void press(void *arg)
{
	struct server *s = arg;

	if (*s->word)
		(void)kill(s->child, SIGINT);
	else if (s->child)
		loop_timer_arm(s->tick, 5);
}

/* Ctrl-C goes to the command. */
static void test_interrupt(void **state)
{
	struct server s;
	struct loop_timer *t;
	struct err err = ERR_INIT;
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "fake"};

	(void)state;
	start(&s, ARGV(W("exec"), W("a/b"), W("hang")), -1);
	s.deadline = proc_mono_ms() + DEADLINE_MS;
	unit_ok(loop_new(&s.loop, &err), &err);
	unit_ok(zctx_new(&s.zctx, &err), &err);
	unit_ok(zsock_open(s.loop, s.zctx, &config, &ops, &s, &s.sock, &err), &err);
	unit_ok(zsock_bind(s.sock, endpoint, &err), &err);
	unit_ok(loop_timer_open(s.loop, "tick", on_tick, &s, &s.tick, &err), &err);
	unit_ok(loop_timer_open(s.loop, "press", press, &s, &t, &err), &err);
	loop_timer_arm(s.tick, 1);
	loop_timer_arm(t, 500);
	unit_ok(loop_run(s.loop, &err), &err);
	loop_timer_close(t);
	ended(&s, 128 + SIGINT);
	assert_int_equal(s.signals, 1);
	finish(&s);
}

/* A terminal: raw while it lasts, its size told, put back at the end. */
static void test_tty(void **state)
{
	struct winsize size = {.ws_row = 33, .ws_col = 111};
	struct termios before, after;
	struct server s;
	int master, slave;

	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
	assert_int_equal(tcgetattr(slave, &before), 0);
	start(&s, ARGV(W("exec"), W("-it"), W("a/b"), W("cat")), slave);
	(void)close(s.out);
	s.out = master;
	nonblock(master);
	/* Ctrl-C is a byte in raw mode; typed once cat has echoed the first ones. */
	assert_int_equal(write(master, "hi", 2), 2);
	{
		pid_t typist = fork();

		if (typist == 0) {
			/* until the terminal is raw */
			for (int i = 0; i < 2000; i++) {
				struct termios t;

				if (tcgetattr(slave, &t) == 0 && !(t.c_lflag & ICANON))
					break;
				(void)poll(NULL, 0, 5);
			}
			(void)!write(master, "\003\004", 2);
			(void)poll(NULL, 0, 300);
			(void)kill(s.child, SIGTERM);
			_exit(0);
		}
		serve(&s);
		(void)waitpid(typist, NULL, 0);
	}
	ended(&s, 130);
	assert_true(s.tty);
	assert_int_equal(s.rows, 33);
	assert_int_equal(s.cols, 111);
	assert_true(s.got.size >= 2);
	assert_memory_equal(s.got.data + s.got.size - 2, "\003\004", 2);
	assert_int_equal(tcgetattr(slave, &after), 0);
	assert_int_equal(after.c_lflag, before.c_lflag);
	assert_int_equal(after.c_iflag, before.c_iflag);
	s.out = -1;
	finish(&s);
	(void)close(master);
	(void)close(slave);
}

/* Ctrl-] leaves a console, and is not sent. */
static void test_console(void **state)
{
	struct server s;
	int master, slave;

	(void)state;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	start(&s, ARGV(W("console"), W("a/b")), slave);
	(void)close(s.out);
	s.out = master;
	nonblock(master);
	{
		pid_t typist = fork();

		if (typist == 0) {
			for (int i = 0; i < 2000; i++) {
				struct termios t;

				if (tcgetattr(slave, &t) == 0 && !(t.c_lflag & ICANON))
					break;
				(void)poll(NULL, 0, 5);
			}
			(void)!write(master, "ls\r\035", 4);
			_exit(0);
		}
		serve(&s);
		(void)waitpid(typist, NULL, 0);
	}
	ended(&s, 0);
	assert_null(memchr(buf_text(&s.got), 035, s.got.size));
	s.out = -1;
	finish(&s);
	(void)close(master);
	(void)close(slave);
}

static void test_logs(void **state)
{
	struct server s;

	(void)state;
	assert_int_equal(verb(&s, ARGV(W("logs"), W("--tail"), W("5"), W("a/b"))), 0);
	assert_string_equal(buf_text(&s.output), "line\n");
	finish(&s);
}

/* Into a guest and out again: the tar that came in is sent back. */
static void test_cp(void **state)
{
	struct server s;
	struct buf tar, back;
	struct err err = ERR_INIT;
	char from[128], to[128];
	static char data[700000];

	(void)state;
	(void)snprintf(from, sizeof(from), "%s/from", dir);
	(void)snprintf(to, sizeof(to), "%s/to", dir);
	proc_random(data, sizeof(data));
	unit_ok(fs_write_atomic(from, data, sizeof(data), 0644, &err), &err);
	assert_int_equal(verb(&s, ARGV(W("cp"), from, W("a/b:/root/from"))), 0);
	assert_true(s.eof);
	assert_int_equal(s.kind, UM__STREAM_KIND__STREAM_COPY_TO);
	tar = s.got;
	buf_init(&s.got);
	finish(&s);
	start(&s, ARGV(W("cp"), W("a/b:/root/from"), to), -1);
	s.reply = tar;
	serve(&s);
	ended(&s, 0);
	finish(&s);
	buf_init(&back);
	unit_ok(fs_read(to, sizeof(data), &back, &err), &err);
	assert_int_equal(back.size, sizeof(data));
	assert_memory_equal(back.data, data, sizeof(data));
	buf_free(&back);
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
		cmocka_unit_test(test_why),
		cmocka_unit_test(test_exit_codes),
		cmocka_unit_test(test_usage),
		cmocka_unit_test(test_flood),
		cmocka_unit_test(test_input),
		cmocka_unit_test(test_closed_pipe),
		cmocka_unit_test(test_interrupt),
		cmocka_unit_test(test_tty),
		cmocka_unit_test(test_console),
		cmocka_unit_test(test_logs),
		cmocka_unit_test(test_cp),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
