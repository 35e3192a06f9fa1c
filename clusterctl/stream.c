#include "clusterctl/stream.h"

#include <errno.h>
#include <string.h>

#define OPEN_MS 30000u
#define RETRY_MS 10u

static int send_env(struct stream *s, Um__Envelope *env)
{
	env->id = s->id;
	return zsock_send(s->ctl->sock, NULL, env, NULL, 0, NULL);
}

static void end(struct stream *s)
{
	s->state = STREAM_ENDED;
	loop_stop(s->ctl->loop);
}

static void take_error(struct stream *s, const Um__Error *error)
{
	(void)err_set(&s->err, wire_errno_from_code(error->code), "%s",
		*error->message ? error->message : "the stream failed");
}

static void on_message(void *arg, const Um__Envelope *env)
{
	struct stream *s = arg;

	if (env->id != s->id || s->state == STREAM_ENDED)
		return;
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_STREAM_OPENED:
		s->state = STREAM_OPEN;
		loop_stop(s->ctl->loop);
		break;
	case UM__ENVELOPE__BODY_STREAM_DATA:
		s->state = STREAM_OPEN;
		if (env->stream_data->data.len)
			s->ops->data(s->arg, s, env->stream_data->channel,
				env->stream_data->data.data, env->stream_data->data.len);
		break;
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
		/* What is beyond any sense is no credit. */
		if (s->credit + env->stream_credit->bytes <= 16u * WIRE_STREAM_WINDOW)
			s->credit += env->stream_credit->bytes;
		if (s->ops->writable)
			s->ops->writable(s->arg, s);
		break;
	case UM__ENVELOPE__BODY_STREAM_END:
		s->exit_status = env->stream_end->exit_status;
		s->signal = (int)env->stream_end->signal;
		if (env->stream_end->error)
			take_error(s, env->stream_end->error);
		end(s);
		break;
	case UM__ENVELOPE__BODY_ERROR:
		s->exit_status = -1;
		take_error(s, env->error);
		end(s);
		break;
	default:
		break;
	}
}

/* A number that no request has. */
static void no_reply(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	(void)arg;
	(void)env;
	(void)bulk;
	(void)bulk_size;
	(void)err;
}

static int wait_open(struct stream *s, struct err *err)
{
	uint64_t deadline = loop_now(s->ctl->loop) + OPEN_MS;
	int rc = 0;

	loop_timer_arm(s->retry, OPEN_MS);
	while (s->state == STREAM_OPENING && rc == 0) {
		rc = loop_run(s->ctl->loop, err);
		if (s->ctl->interrupted)
			return err_set(err, -EINTR, "interrupted");
		if (s->downs != s->ctl->downs)
			return err_set(
				err, -ECONNREFUSED, "the connection to the scheduler was lost");
		if (s->state == STREAM_OPENING && loop_now(s->ctl->loop) >= deadline)
			return err_set(err, -ETIMEDOUT,
				"no answer from the guest's host within %u s", OPEN_MS / 1000);
	}
	loop_timer_disarm(s->retry);
	return rc;
}

static void on_timer(void *arg)
{
	struct stream *s = arg;

	if (s->state == STREAM_OPENING)
		loop_stop(s->ctl->loop);
	else if (s->state == STREAM_OPEN && s->ops->writable)
		s->ops->writable(s->arg, s);
}

int stream_open(struct stream *s, struct ctl *ctl, Um__StreamOpen *open,
	const struct stream_ops *ops, void *arg, struct err *err)
{
	Um__Envelope env = wire_env(0);
	int rc;

	*s = (struct stream){.ctl = ctl, .ops = ops, .arg = arg, .credit = WIRE_STREAM_WINDOW};
	s->downs = ctl->downs;
	rc = loop_timer_open(ctl->loop, "stream", on_timer, s, &s->retry, err);
	if (rc < 0)
		return rc;
	s->id = rpc_add(ctl->rpc, 0, no_reply, NULL);
	if (!s->id)
		return err_set(err, -ENOMEM, "memory is short");
	rpc_cancel(ctl->rpc, s->id);
	ctl->on_stray = on_message;
	ctl->stray_arg = s;
	env.id = s->id;
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = open;
	rc = ctl_send(ctl, &env, err);
	if (rc == 0)
		rc = wait_open(s, err);
	if (rc == 0 && s->state == STREAM_ENDED && s->err.code) {
		*err = s->err;
		rc = s->err.code;
	}
	return rc;
}

size_t stream_room(const struct stream *s)
{
	return s->state == STREAM_OPEN ? s->credit : 0;
}

bool stream_send(struct stream *s, const void *data, size_t size, bool eof)
{
	Um__Envelope env = wire_env(0);
	Um__StreamData d = UM__STREAM_DATA__INIT;

	if (s->state != STREAM_OPEN)
		return false;
	d.data.data = (uint8_t *)(uintptr_t)data;
	d.data.len = size;
	d.eof = eof;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &d;
	if (send_env(s, &env) < 0) {
		loop_timer_arm(s->retry, RETRY_MS);
		return false;
	}
	s->credit -= size;
	return true;
}

void stream_consumed(struct stream *s, size_t size)
{
	Um__Envelope env = wire_env(0);
	Um__StreamCredit c = UM__STREAM_CREDIT__INIT;

	s->owed += size;
	if (s->state != STREAM_OPEN || s->owed < WIRE_STREAM_WINDOW / 4)
		return;
	c.bytes = (uint32_t)s->owed;
	c.channel = 1;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &c;
	/* Not sent now, it goes with the next. */
	if (send_env(s, &env) == 0)
		s->owed = 0;
}

void stream_control(struct stream *s, uint32_t rows, uint32_t cols, int signal)
{
	Um__Envelope env = wire_env(0);
	Um__StreamControl c = UM__STREAM_CONTROL__INIT;

	if (s->state != STREAM_OPEN)
		return;
	c.rows = rows;
	c.cols = cols;
	c.signal = (uint32_t)signal;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CONTROL;
	env.stream_control = &c;
	(void)send_env(s, &env);
}

void stream_break(struct stream *s, const struct err *err)
{
	Um__Envelope env = wire_env(0);
	Um__StreamEnd e = UM__STREAM_END__INIT;

	if (s->state == STREAM_ENDED)
		return;
	if (err) {
		s->err = *err;
		s->exit_status = -1;
	}
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &e;
	(void)send_env(s, &env);
	end(s);
}

int stream_result(const struct stream *s)
{
	if (s->err.code) {
		int code = ctl_fail_err(&s->err);

		/* "No such command" is 127, as a shell has it. */
		return s->exit_status > 0 && s->exit_status < 256 ? s->exit_status : code;
	}
	if (s->signal)
		return 128 + s->signal;
	return s->exit_status < 0 ? EXIT_FAILED : s->exit_status & 255;
}

void stream_close(struct stream *s)
{
	if (!s->ctl)
		return;
	stream_break(s, NULL);
	s->ctl->on_stray = NULL;
	loop_timer_close(s->retry);
	s->retry = NULL;
}
