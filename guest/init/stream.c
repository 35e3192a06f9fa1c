#include "guest/init/stream.h"

#include <errno.h>
#include <string.h>

#include "lib/wire.h"

#define CREDIT_STEP (WIRE_STREAM_WINDOW / 4)

static char *unconst(const char *text)
{
	union {
		const char *c;
		char *p;
	} u = {.c = text};

	return u.p;
}

void stream_init(struct stream *s, const struct stream_ops *ops)
{
	s->ops = ops;
	s->credit = WIRE_STREAM_WINDOW;
	s->window = WIRE_STREAM_WINDOW;
}

size_t stream_budget(const struct stream *s)
{
	if (s->ended || !line_room(s->line))
		return 0;
	return s->credit < WIRE_STREAM_DATA ? s->credit : WIRE_STREAM_DATA;
}

void stream_send(struct stream *s, uint32_t channel, const uint8_t *data, size_t size)
{
	Um__Envelope env = wire_env(s->id);
	Um__StreamData body = UM__STREAM_DATA__INIT;
	union {
		const uint8_t *c;
		uint8_t *p;
	} bytes = {.c = data};

	body.channel = channel;
	body.data.data = bytes.p;
	body.data.len = size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	s->credit -= size < s->credit ? size : s->credit;
	line_send(s->line, &env);
}

void stream_consumed(struct stream *s, size_t size)
{
	Um__Envelope env = wire_env(s->id);
	Um__StreamCredit body = UM__STREAM_CREDIT__INIT;

	s->owed += size;
	if (s->ended || s->owed < CREDIT_STEP)
		return;
	body.bytes = (uint32_t)s->owed;
	s->window += s->owed;
	s->owed = 0;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &body;
	line_send(s->line, &env);
}

static void send_end(
	struct line *line, uint64_t id, int exit_status, int signum, const struct err *err)
{
	Um__Envelope env = wire_env(id);
	Um__StreamEnd body = UM__STREAM_END__INIT;
	Um__Error error = UM__ERROR__INIT;

	body.exit_status = exit_status;
	body.signal = (uint32_t)signum;
	if (err) {
		error.code = wire_code_from_errno(err->code);
		error.message = unconst(err_msg(err));
		body.error = &error;
	}
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &body;
	line_send(line, &env);
}

void stream_end(struct stream *s, int exit_status, int signum)
{
	if (!s->ended)
		send_end(s->line, s->id, exit_status, signum, NULL);
	s->ended = true;
}

void stream_fail(struct stream *s, int exit_status, const struct err *err)
{
	if (!s->ended)
		send_end(s->line, s->id, exit_status, 0, err);
	s->ended = true;
}

/* ---------------------------------------------------------------- the table */

static struct stream *find(struct streams *t, uint64_t id)
{
	size_t i;

	for (i = 0; i < t->count; i++)
		if (t->all[i]->id == id)
			return t->all[i];
	return NULL;
}

static void sweep(struct streams *t)
{
	size_t kept = 0, i;

	for (i = 0; i < t->count; i++) {
		struct stream *s = t->all[i];

		if (s->ended)
			s->ops->destroy(s);
		else
			t->all[kept++] = s;
	}
	t->count = kept;
}

static int exit_status_of(int code)
{
	/* As a shell says it: no such program, or not one that can run. */
	return code == -ENOENT ? 127 : 126;
}

static void open_stream(struct streams *t, uint64_t id, const Um__StreamOpen *open)
{
	Um__Envelope env = wire_env(id);
	Um__StreamOpened body = UM__STREAM_OPENED__INIT;
	struct err err = ERR_INIT;
	struct stream *s = NULL;
	int rc;

	if (id == 0 || find(t, id))
		rc = err_set(&err, -EEXIST, "a stream with this id is open");
	else if (t->closed)
		rc = err_set(&err, -EAGAIN, "the guest is shutting down");
	else if (t->count == STREAMS_MAX)
		rc = err_set(
			&err, -EAGAIN, "the guest has %d streams open, its limit", STREAMS_MAX);
	else if (open->kind == UM__STREAM_KIND__STREAM_EXEC)
		rc = exec_open(t->config, open, &s, &err);
	else if (open->kind == UM__STREAM_KIND__STREAM_COPY_TO)
		rc = copy_to_open(open, &s, &err);
	else if (open->kind == UM__STREAM_KIND__STREAM_COPY_FROM)
		rc = copy_from_open(open, &s, &err);
	else
		rc = err_set(&err, -EINVAL, "the guest has no streams of kind %d", (int)open->kind);
	if (rc || !s) {
		if (id)
			send_end(t->line, id, exit_status_of(rc), 0, &err);
		return;
	}
	s->id = id;
	s->line = t->line;
	t->all[t->count++] = s;
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
	env.stream_opened = &body;
	line_send(t->line, &env);
}

static void take_data(struct stream *s, const Um__StreamData *d)
{
	struct err err = ERR_INIT;

	if (d->data.len > s->window) {
		(void)err_set(&err, -EPROTO, "the client sent more than it was granted");
		stream_fail(s, 1, &err);
		return;
	}
	s->window -= d->data.len;
	if (d->channel == 0)
		s->ops->data(s, d->data.data, d->data.len, d->eof);
}

void streams_message(struct streams *t, const Um__Envelope *env)
{
	struct stream *s;

	if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN) {
		open_stream(t, env->id, env->stream_open);
		return;
	}
	/* Messages of a stream that just ended are on their way: not an error. */
	s = find(t, env->id);
	if (!s)
		return;
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_STREAM_DATA:
		take_data(s, env->stream_data);
		break;
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
		if (s->credit < (64u << 20))
			s->credit += env->stream_credit->bytes;
		break;
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
		if (s->ops->control)
			s->ops->control(s, env->stream_control);
		break;
	case UM__ENVELOPE__BODY_STREAM_END:
		s->ended = true;
		break;
	default:
		break;
	}
	if (s->ended)
		sweep(t);
}

size_t streams_poll(struct streams *t, struct pollfd *fds)
{
	size_t i, j;

	for (i = 0; i < t->count; i++) {
		for (j = 0; j < STREAM_FDS; j++)
			fds[i * STREAM_FDS + j] = (struct pollfd){.fd = -1};
		t->all[i]->ops->poll(t->all[i], &fds[i * STREAM_FDS]);
	}
	return t->count * STREAM_FDS;
}

bool streams_busy(const struct streams *t)
{
	size_t i;

	for (i = 0; i < t->count; i++)
		if (t->all[i]->ops->busy(t->all[i]))
			return true;
	return false;
}

void streams_run(struct streams *t, const struct pollfd *fds)
{
	size_t count = t->count, i;

	for (i = 0; i < count; i++) {
		size_t at = (t->turn + i) % count;

		if (!t->all[at]->ended)
			t->all[at]->ops->run(t->all[at], &fds[at * STREAM_FDS]);
	}
	t->turn++;
	sweep(t);
}

void streams_child(struct streams *t, pid_t pid, int wait_status)
{
	size_t i;

	for (i = 0; i < t->count; i++)
		if (t->all[i]->ops->child)
			t->all[i]->ops->child(t->all[i], pid, wait_status);
}

void streams_close(struct streams *t)
{
	struct err err = ERR_INIT;
	size_t i;

	(void)err_set(&err, -EAGAIN, "the guest is shutting down");
	for (i = 0; i < t->count; i++)
		stream_fail(t->all[i], 1, &err);
	sweep(t);
	t->closed = true;
}
