/* Event, update, record, act: what the core decided becomes durable in one
 * transaction, and only then is sent.  Messages are made at the time of the event,
 * from the state as it is then: a later event's changes cannot leak out early. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

struct outgoing {
	struct peer to;
	char host[CORE_NAME]; /* of an agent: dropped when its session is another one */
	uint64_t session;
	struct buf bytes;
	struct outgoing *next;
};

struct batch {
	struct serve *s;
	struct outgoing *first, **tail;
	struct core_dirty *dirty;
	size_t dirty_count;
	uint32_t phases;	/* of moves, that are recorded */
	Um__EventInfo **events; /* borrowed from the ring */
	uint64_t first_event, last_event;
};

static void add_message(
	struct batch *b, const struct peer *to, const struct agent *agent, Um__Envelope *env)
{
	struct outgoing *m = calloc(1, sizeof(*m));
	struct err err = ERR_INIT;

	if (!m)
		return;
	buf_init(&m->bytes);
	m->to = *to;
	if (agent) {
		(void)str_copy(m->host, sizeof(m->host), agent->host);
		m->session = agent->session;
	}
	if (wire_pack(env, WIRE_MESSAGE_MAX, &m->bytes, &err) < 0) {
		log_error("a message cannot be made", LOG_ERR(&err));
		buf_free(&m->bytes);
		free(m);
		return;
	}
	*b->tail = m;
	b->tail = &m->next;
}

static void add_told(void *arg, struct agent *agent, Um__Envelope *env)
{
	add_message(arg, &agent->peer, agent, env);
}

static void send_message(struct serve *s, struct outgoing *m)
{
	struct agent *agent = NULL;
	struct err err = ERR_INIT;

	if (*m->host) {
		agent = agents_by_host(s, m->host);
		/* A new session was, or will be, told everything. */
		if (!agent || agent->session != m->session)
			return;
	}
	if (zsock_send_packed(m->to.sock, &m->to.z, m->bytes.data, m->bytes.size, NULL, 0, &err) ==
		0)
		return;
	if (agent) {
		/* The gap in seq makes it ask for everything; so does this mark. */
		agent->full_due = true;
		serve_tick_soon(s);
	}
	log_debug("a message was not sent", LOG_ERR(&err));
}

static void batch_done(void *arg, int rc, uint64_t revision, const struct err *err)
{
	struct batch *b = arg;
	struct serve *s = b->s;

	(void)revision;
	if (rc == 0)
		moves_recorded(b->phases);
	while (b->first) {
		struct outgoing *m = b->first;

		b->first = m->next;
		if (rc == 0)
			send_message(s, m);
		buf_free(&m->bytes);
		free(m);
	}
	for (size_t i = 0; rc == 0 && i < b->dirty_count; i++)
		watch_changed(s, b->dirty[i].kind, b->dirty[i].key);
	for (uint64_t seq = b->first_event; rc == 0 && seq && seq <= b->last_event; seq++)
		if (s->event_seq - seq < SERVE_EVENTS_MAX)
			watch_event(s, s->events[seq % SERVE_EVENTS_MAX]);
	free(b->dirty);
	free(b);
	if (rc < 0 && !s->broken) {
		s->broken = true;
		s->config.on_broken(s->config.arg, err);
	}
}

static struct batch *batch_new(struct serve *s)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b) {
		log_error("memory is short; ending, the state is in the store");
		abort();
	}
	b->s = s;
	b->tail = &b->first;
	return b;
}

/* Records of what the core touched; each once, as it is now. */
static size_t collect(struct serve *s, struct arena *a, struct store_op *ops)
{
	size_t n = 0;

	for (size_t i = 0; i < s->out.dirty_count; i++)
		if (!s->out.dirty[i].shown)
			records_op(s, &s->out.dirty[i], a, &ops[n++]);
	for (size_t i = 0; i < s->out.dirty_count; i++)
		if (s->out.dirty[i].kind == CORE_KIND_GUEST &&
			!core_guest(s->core, strtoull(s->out.dirty[i].key, NULL, 16)))
			boots_drop(s, strtoull(s->out.dirty[i].key, NULL, 16));
	for (size_t i = 0; i < s->out.dirty_count; i++)
		if (s->out.dirty[i].kind == CORE_KIND_DEPLOYMENT &&
			!core_deployment(s->core, s->out.dirty[i].key))
			labs_drop(s, s->out.dirty[i].key);
	return n;
}

void commit_event(struct serve *s, const struct peer *to, Um__Envelope *env,
	const struct store_op *more, size_t more_count)
{
	size_t room = s->out.dirty_count + 2 * s->out.log_count + more_count + 1, n;
	struct store_op *ops = calloc(room, sizeof(*ops));
	struct batch *b = batch_new(s);
	struct err err = ERR_INIT;
	struct arena a = {0};
	struct tell *t;

	if (!ops || s->out.failed) {
		log_error("memory is short; ending, the state is in the store");
		abort();
	}
	n = collect(s, &a, ops);
	b->phases = moves_phases(s);
	for (size_t i = 0; i < s->out.log_count; i++) {
		Um__EventInfo *event = NULL;

		n += events_add(s, &s->out.logs[i], &a, ops + n, &event);
		if (!b->first_event)
			b->first_event = event->seq;
		b->last_event = event->seq;
	}
	for (size_t i = 0; i < more_count; i++)
		ops[n++] = more[i];
	t = tell_begin(s);
	for (size_t i = 0; i < s->out.action_count; i++)
		tell_action(t, &s->out.actions[i]);
	tell_end(t, add_told, b);
	if (env)
		add_message(b, to, NULL, env);
	if (s->out.dirty_count) {
		b->dirty = malloc(s->out.dirty_count * sizeof(*b->dirty));
		if (b->dirty) {
			b->dirty_count = s->out.dirty_count;
			memcpy(b->dirty, s->out.dirty, b->dirty_count * sizeof(*b->dirty));
		}
	}
	core_out_reset(&s->out);
	if (store_txn(s->store, NULL, 0, ops, n, batch_done, b, &err) < 0)
		batch_done(b, err.code, 0, &err);
	arena_free(&a);
	free(ops);
}

void commit_reply(struct serve *s, const struct peer *to, Um__Envelope *env)
{
	struct batch *b;
	struct err err = ERR_INIT;

	/* With nothing on its way to the disk there is nothing to wait for; nor is there,
	 * for who knows how long, when the disk is full. */
	if (s->stuck || !store_pending(s->store)) {
		serve_send(s, to, env);
		return;
	}
	b = batch_new(s);
	add_message(b, to, NULL, env);
	if (store_txn(s->store, NULL, 0, NULL, 0, batch_done, b, &err) < 0)
		batch_done(b, err.code, 0, &err);
}

void serve_send(struct serve *s, const struct peer *to, Um__Envelope *env)
{
	struct err err = ERR_INIT;

	(void)s;
	if (zsock_send(to->sock, &to->z, env, NULL, 0, &err) < 0)
		log_debug("an answer was not sent", LOG_ERR(&err));
}

void serve_refuse(struct serve *s, const struct peer *to, uint64_t id, Um__ErrorCode code,
	const char *fmt, ...)
{
	Um__Envelope env = wire_env(id);
	Um__Error error = UM__ERROR__INIT;
	char text[ERR_MSG_SIZE];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	error.code = code;
	error.message = text;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	/* A refusal may tell of what was decided just now: not before that is durable. */
	commit_reply(s, to, &env);
}

void serve_error(struct serve *s, const struct peer *to, uint64_t id, const struct err *err)
{
	serve_refuse(s, to, id, wire_code_from_errno(err->code), "%s", err_msg(err));
}

void serve_ok(struct serve *s, const struct peer *to, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__Ok ok = UM__OK__INIT;

	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	commit_reply(s, to, &env);
}
