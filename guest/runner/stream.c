#include "guest/runner/stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/runner/logs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"

#define CREDIT_MAX (4u * WIRE_STREAM_WINDOW) /* what either side may have granted at a time */
#define CHANNEL_IN 0u
#define CHANNEL_OUT 1u

enum kind { FREE, GUEST, CONSOLE, LOGS, REQUEST };

struct stream {
	enum kind kind;
	struct conn *conn;
	uint64_t id;	  /* the agent's */
	uint64_t line_id; /* ours, on the guest's line */
	uint64_t since_ms;
	struct line_flow flow;
	size_t to_client; /* bytes that may go to the agent's side */
	size_t to_guest;  /* bytes that the agent's side may send */
	/* CONSOLE */
	uint64_t pos, lost;
	size_t typed; /* not yet taken by the guest */
	/* LOGS */
	struct logs *logs;
	bool follow;
};

struct streams {
	const char *dir;
	struct line *line;
	struct console *console;
	bool guest_up, ended;
	uint64_t next_id;
	size_t count;
	struct stream *slots[STREAMS_MAX];
	struct log_rate rate;
};

int streams_new(const char *dir, struct line *line, struct console *console, struct streams **out,
	struct err *err)
{
	struct streams *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->dir = dir;
	s->line = line;
	s->console = console;
	*out = s;
	return 0;
}

/* ---------------------------------------------------------------- slots */

static void slot_free(struct streams *s, size_t i)
{
	struct stream *st = s->slots[i];

	line_flow_drop(s->line, &st->flow);
	logs_close(st->logs);
	free(st);
	s->slots[i] = NULL;
	s->count--;
}

void streams_free(struct streams *s)
{
	size_t i;

	if (!s)
		return;
	for (i = 0; i < STREAMS_MAX; i++)
		if (s->slots[i])
			slot_free(s, i);
	free(s);
}

size_t streams_count(const struct streams *s)
{
	return s->count;
}

static size_t slot_find(const struct streams *s, const struct conn *conn, uint64_t id)
{
	size_t i;

	for (i = 0; i < STREAMS_MAX; i++)
		if (s->slots[i] && s->slots[i]->conn == conn && s->slots[i]->id == id)
			return i;
	return STREAMS_MAX;
}

/* A request that was never answered makes room when room is needed. */
static size_t slot_unused(struct streams *s)
{
	uint64_t now = proc_mono_ms();
	size_t i;

	for (i = 0; i < STREAMS_MAX; i++)
		if (!s->slots[i])
			return i;
	for (i = 0; i < STREAMS_MAX; i++)
		if (s->slots[i]->kind == REQUEST &&
			now - s->slots[i]->since_ms > STREAM_REQUEST_MS) {
			slot_free(s, i);
			return i;
		}
	return STREAMS_MAX;
}

static struct stream *slot_new(struct streams *s, enum kind kind, struct conn *conn, uint64_t id)
{
	size_t i = slot_unused(s);
	struct stream *st;

	if (i == STREAMS_MAX)
		return NULL;
	st = calloc(1, sizeof(*st));
	if (!st)
		return NULL;
	st->kind = kind;
	st->conn = conn;
	st->id = id;
	st->line_id = ++s->next_id * STREAMS_MAX + i;
	st->since_ms = proc_mono_ms();
	st->to_client = st->to_guest = WIRE_STREAM_WINDOW;
	line_flow_init(&st->flow);
	s->slots[i] = st;
	s->count++;
	return st;
}

static size_t slot_of(const struct stream *st)
{
	return (size_t)(st->line_id % STREAMS_MAX);
}

/* ---------------------------------------------------------------- sending */

static int send_error(struct conn *conn, uint64_t id, Um__ErrorCode code, const char *text)
{
	Um__Envelope env = wire_env(id);
	Um__Error error = UM__ERROR__INIT;

	error.code = code;
	error.message = (char *)(uintptr_t)text;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	return conn_send(conn, &env, NULL);
}

static void send_end(struct stream *st, Um__ErrorCode code, const char *text)
{
	Um__Envelope env = wire_env(st->id);
	Um__StreamEnd end = UM__STREAM_END__INIT;
	Um__Error error = UM__ERROR__INIT;

	if (text) {
		error.code = code;
		error.message = (char *)(uintptr_t)text;
		end.error = &error;
		end.exit_status = -1;
	}
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	(void)conn_send(st->conn, &env, NULL);
}

/* The guest need not go on with it. */
static void tell_guest_end(struct streams *s, const struct stream *st)
{
	Um__Envelope env = wire_env(st->line_id);
	Um__StreamEnd end = UM__STREAM_END__INIT;

	if (st->kind != GUEST || !s->guest_up)
		return;
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	(void)line_send(s->line, &env, NULL);
}

/* Ends a stream or request towards both sides and frees it. */
static void finish(struct streams *s, struct stream *st, Um__ErrorCode code, const char *text)
{
	tell_guest_end(s, st);
	if (st->kind == REQUEST)
		(void)send_error(st->conn, st->id, code, text ? text : "no answer");
	else
		send_end(st, code, text);
	slot_free(s, slot_of(st));
}

static int send_data(struct stream *st, const void *data, size_t size)
{
	Um__Envelope env = wire_env(st->id);
	Um__StreamData body = UM__STREAM_DATA__INIT;
	int rc;

	body.channel = CHANNEL_OUT;
	body.data.data = (uint8_t *)(uintptr_t)data;
	body.data.len = size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	rc = conn_send(st->conn, &env, NULL);
	if (rc >= 0)
		st->to_client -= size;
	return rc;
}

static void send_credit(struct stream *st, size_t size)
{
	Um__Envelope env = wire_env(st->id);
	Um__StreamCredit credit = UM__STREAM_CREDIT__INIT;

	credit.channel = CHANNEL_IN;
	credit.bytes = (uint32_t)size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &credit;
	if (conn_send(st->conn, &env, NULL) >= 0)
		st->to_guest += size;
}

static void send_opened(struct stream *st)
{
	Um__Envelope env = wire_env(st->id);
	Um__StreamOpened opened = UM__STREAM_OPENED__INIT;

	env.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
	env.stream_opened = &opened;
	(void)conn_send(st->conn, &env, NULL);
}

/* ---------------------------------------------------------------- console and logs */

static void pump_console(struct streams *s, struct stream *st)
{
	uint8_t data[WIRE_STREAM_DATA];

	while (st->to_client) {
		size_t room = st->to_client < sizeof(data) ? st->to_client : sizeof(data), n;
		uint64_t back = st->pos;

		n = console_read(s->console, &st->pos, data, room, &st->lost);
		if (st->lost) {
			char note[80];
			int len = snprintf(note, sizeof(note),
				"\r\n[%llu bytes of console output were missed]\r\n",
				(unsigned long long)st->lost);

			if ((size_t)len <= st->to_client && send_data(st, note, (size_t)len) >= 0)
				st->lost = 0;
			n = n < st->to_client ? n : st->to_client;
		}
		if (n == 0)
			return;
		if (send_data(st, data, n) < 0) { /* full: on at streams_drain() */
			st->pos = back;
			return;
		}
	}
}

/* False: the stream has ended. */
static bool pump_logs(struct streams *s, struct stream *st)
{
	uint8_t data[WIRE_STREAM_DATA];
	struct err err = ERR_INIT;

	while (st->to_client) {
		size_t room = st->to_client < sizeof(data) ? st->to_client : sizeof(data);
		int n;

		n = logs_read(st->logs, console_generation(s->console), data, room, &err);
		if (n < 0) {
			finish(s, st, UM__ERROR_CODE__INTERNAL, err_msg(&err));
			return false;
		}
		if (n == 0 && (!st->follow || s->ended)) {
			finish(s, st, UM__ERROR_CODE__ERROR_UNSPECIFIED, NULL);
			return false;
		}
		if (n == 0)
			return true;
		if (send_data(st, data, (size_t)n) < 0) {
			finish(s, st, UM__ERROR_CODE__UNAVAILABLE, "the reader is too slow");
			return false;
		}
	}
	return true;
}

static void pump(struct streams *s, struct stream *st)
{
	if (st->kind == CONSOLE)
		pump_console(s, st);
	else if (st->kind == LOGS)
		(void)pump_logs(s, st);
}

void streams_console_output(struct streams *s)
{
	size_t i;

	for (i = 0; i < STREAMS_MAX && s->count; i++)
		if (s->slots[i])
			pump(s, s->slots[i]);
}

void streams_console_input(struct streams *s, size_t size)
{
	size_t i;

	for (i = 0; i < STREAMS_MAX && size; i++) {
		struct stream *st = s->slots[i];
		size_t n;

		if (!st || st->kind != CONSOLE || !st->typed)
			continue;
		n = st->typed < size ? st->typed : size;
		st->typed -= n;
		size -= n;
		send_credit(st, n);
	}
}

/* ---------------------------------------------------------------- from an agent */

/* ENV as it is, under another id. */
static int relay_control(
	struct streams *s, const struct stream *st, const Um__Envelope *env, struct err *err)
{
	Um__Envelope out = *env;

	out.id = st->line_id;
	return line_send(s->line, &out, err);
}

static void open_guest(
	struct streams *s, struct conn *conn, const Um__Envelope *env, enum kind kind)
{
	struct err err = ERR_INIT;
	struct stream *st;

	if (!s->guest_up) {
		(void)send_error(conn, env->id, UM__ERROR_CODE__UNAVAILABLE,
			s->ended ? "the guest has ended" : "the guest is not up yet");
		return;
	}
	st = slot_new(s, kind, conn, env->id);
	if (!st) {
		(void)send_error(conn, env->id, UM__ERROR_CODE__UNAVAILABLE,
			"too many streams of this guest are open");
		return;
	}
	if (relay_control(s, st, env, &err) < 0) {
		(void)send_error(conn, env->id, wire_code_from_errno(err.code), err_msg(&err));
		slot_free(s, slot_of(st));
	}
}

static void open_console(struct streams *s, struct conn *conn, uint64_t id)
{
	struct stream *st = s->ended ? NULL : slot_new(s, CONSOLE, conn, id);
	uint64_t end = console_end(s->console);

	if (!st) {
		(void)send_error(conn, id, UM__ERROR_CODE__UNAVAILABLE,
			s->ended ? "the guest has ended"
				 : "too many streams of this guest are open");
		return;
	}
	st->pos = end > STREAM_REPLAY ? end - STREAM_REPLAY : 0;
	send_opened(st);
	pump_console(s, st);
}

static void open_logs(struct streams *s, struct conn *conn, uint64_t id, const Um__StreamOpen *open)
{
	struct stream *st = slot_new(s, LOGS, conn, id);
	struct err err = ERR_INIT;

	if (!st) {
		(void)send_error(conn, id, UM__ERROR_CODE__UNAVAILABLE,
			"too many streams of this guest are open");
		return;
	}
	st->follow = open->follow;
	if (logs_open(s->dir, open->tail, console_generation(s->console), &st->logs, &err) < 0) {
		(void)send_error(conn, id, wire_code_from_errno(err.code), err_msg(&err));
		slot_free(s, slot_of(st));
		return;
	}
	send_opened(st);
	(void)pump_logs(s, st);
}

static void open_stream(struct streams *s, struct conn *conn, const Um__Envelope *env)
{
	if (env->id == 0 || slot_find(s, conn, env->id) != STREAMS_MAX) {
		(void)send_error(
			conn, env->id, UM__ERROR_CODE__PROTOCOL, "a stream needs an id of its own");
		return;
	}
	switch (env->stream_open->kind) {
	case UM__STREAM_KIND__STREAM_CONSOLE:
		open_console(s, conn, env->id);
		break;
	case UM__STREAM_KIND__STREAM_LOGS:
		open_logs(s, conn, env->id, env->stream_open);
		break;
	case UM__STREAM_KIND__STREAM_EXEC:
	case UM__STREAM_KIND__STREAM_COPY_TO:
	case UM__STREAM_KIND__STREAM_COPY_FROM:
		open_guest(s, conn, env, GUEST);
		break;
	default:
		(void)send_error(
			conn, env->id, UM__ERROR_CODE__PROTOCOL, "a stream of unknown kind");
	}
}

static void data_from_agent(struct streams *s, struct stream *st, const Um__Envelope *env)
{
	size_t size = env->stream_data->data.len;
	struct err err = ERR_INIT;
	int rc = 0;

	if (size > st->to_guest || size > WIRE_STREAM_DATA) {
		finish(s, st, UM__ERROR_CODE__PROTOCOL, "more data than was granted");
		return;
	}
	st->to_guest -= size;
	if (st->kind == GUEST) {
		Um__Envelope out = *env;

		out.id = st->line_id;
		rc = line_flow_add(s->line, &st->flow, &out, &err);
	} else if (st->kind == CONSOLE && size) {
		rc = console_write(s->console, env->stream_data->data.data, size, &err);
		if (rc >= 0)
			st->typed += size;
	}
	if (rc < 0)
		finish(s, st, wire_code_from_errno(rc), err_msg(&err));
}

static void credit_from_agent(struct streams *s, struct stream *st, const Um__Envelope *env)
{
	const Um__StreamCredit *credit = env->stream_credit;

	if (credit->channel != CHANNEL_OUT)
		return;
	if (credit->bytes > CREDIT_MAX - st->to_client) {
		finish(s, st, UM__ERROR_CODE__PROTOCOL, "credit beyond all bounds");
		return;
	}
	st->to_client += credit->bytes;
	if (st->kind == GUEST)
		(void)relay_control(s, st, env, NULL);
	else
		pump(s, st);
}

void streams_from_agent(struct streams *s, struct conn *conn, const Um__Envelope *env)
{
	struct stream *st;
	size_t i;

	if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN) {
		open_stream(s, conn, env);
		return;
	}
	if (env->body_case == UM__ENVELOPE__BODY_GUEST_STATS_REQUEST ||
		env->body_case == UM__ENVELOPE__BODY_GUEST_SYNC) {
		if (env->id)
			open_guest(s, conn, env, REQUEST);
		return;
	}
	i = slot_find(s, conn, env->id);
	if (i == STREAMS_MAX)
		return; /* it has just ended from the other side */
	st = s->slots[i];
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_STREAM_DATA:
		data_from_agent(s, st, env);
		break;
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
		credit_from_agent(s, st, env);
		break;
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
		if (st->kind == GUEST)
			(void)relay_control(s, st, env, NULL);
		break;
	case UM__ENVELOPE__BODY_STREAM_END:
		tell_guest_end(s, st);
		slot_free(s, i);
		break;
	default:
		break;
	}
}

/* ---------------------------------------------------------------- from the guest */

static void data_from_guest(struct streams *s, struct stream *st, Um__Envelope *out)
{
	size_t size = out->stream_data->data.len;

	if (size > st->to_client) {
		if (log_rate_pass(&s->rate))
			log_warn("the guest sent more than it was granted", LOG_U64("bytes", size));
		finish(s, st, UM__ERROR_CODE__PROTOCOL, "the guest sent more than it was granted");
		return;
	}
	st->to_client -= size;
	if (conn_send(st->conn, out, NULL) < 0)
		finish(s, st, UM__ERROR_CODE__UNAVAILABLE, "the reader is too slow");
}

static void credit_from_guest(struct streams *s, struct stream *st, Um__Envelope *out)
{
	if (out->stream_credit->channel != CHANNEL_IN)
		return;
	if (out->stream_credit->bytes > CREDIT_MAX - st->to_guest) {
		finish(s, st, UM__ERROR_CODE__PROTOCOL, "the guest granted beyond all bounds");
		return;
	}
	st->to_guest += out->stream_credit->bytes;
	(void)conn_send(st->conn, out, NULL);
}

void streams_from_guest(struct streams *s, const Um__Envelope *env)
{
	struct stream *st = s->slots[env->id % STREAMS_MAX];
	Um__Envelope out = *env;

	/* Also what an earlier boot's streams still echo ends here. */
	if (!st || st->line_id != env->id || (st->kind != GUEST && st->kind != REQUEST))
		return;
	out.id = st->id;
	if (st->kind == GUEST && env->body_case == UM__ENVELOPE__BODY_STREAM_DATA) {
		data_from_guest(s, st, &out);
	} else if (st->kind == GUEST && env->body_case == UM__ENVELOPE__BODY_STREAM_CREDIT) {
		credit_from_guest(s, st, &out);
	} else if (st->kind == GUEST && env->body_case == UM__ENVELOPE__BODY_STREAM_OPENED) {
		(void)conn_send(st->conn, &out, NULL);
	} else if (env->body_case == UM__ENVELOPE__BODY_STREAM_END ||
		   env->body_case == UM__ENVELOPE__BODY_ERROR ||
		   env->body_case == UM__ENVELOPE__BODY_OK ||
		   env->body_case == UM__ENVELOPE__BODY_GUEST_STATS) {
		out.more = false;
		(void)conn_send(st->conn, &out, NULL);
		slot_free(s, slot_of(st));
	}
}

/* ---------------------------------------------------------------- ends */

void streams_guest(struct streams *s, bool up, const char *why)
{
	size_t i;

	s->guest_up = up;
	for (i = 0; i < STREAMS_MAX && !up; i++)
		if (s->slots[i] && (s->slots[i]->kind == GUEST || s->slots[i]->kind == REQUEST))
			finish(s, s->slots[i], UM__ERROR_CODE__UNAVAILABLE, why);
}

void streams_ended(struct streams *s, const char *why)
{
	size_t i;

	s->ended = true;
	streams_guest(s, false, why);
	for (i = 0; i < STREAMS_MAX; i++) {
		struct stream *st = s->slots[i];

		if (!st)
			continue;
		pump(s, st);
		if (s->slots[i] == st && st->kind == CONSOLE)
			finish(s, st, UM__ERROR_CODE__ERROR_UNSPECIFIED, NULL);
	}
}

void streams_drain(struct streams *s, struct conn *conn)
{
	size_t i;

	for (i = 0; i < STREAMS_MAX; i++)
		if (s->slots[i] && s->slots[i]->conn == conn)
			pump(s, s->slots[i]);
}

void streams_drop(struct streams *s, struct conn *conn)
{
	size_t i;

	for (i = 0; i < STREAMS_MAX; i++)
		if (s->slots[i] && s->slots[i]->conn == conn) {
			tell_guest_end(s, s->slots[i]);
			slot_free(s, i);
		}
}
