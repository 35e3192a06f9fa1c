#include "node-agent/relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/life.h"
#include "node-agent/link.h"
#include "node-agent/conlog.h"
#include "node-agent/memory.h"

struct stream {
	struct relay *relay;
	uint64_t id;  /* the scheduler's */
	uint64_t rid; /* the runner's; 0: the agent itself answers, by `logs` */
	struct guest *g;
	struct conlog *logs;
	struct stream *prev, *next; /* of the guest */
	UT_hash_handle hh;
};

struct relay {
	struct agent *agent;
	struct stream *all;
};

int relay_open(struct agent *agent, struct relay **out, struct err *err)
{
	struct relay *relay = calloc(1, sizeof(*relay));

	if (!relay)
		return err_set(err, -ENOMEM, "memory is short");
	relay->agent = agent;
	*out = relay;
	return 0;
}

static void drop(struct stream *s)
{
	HASH_DEL(s->relay->all, s);
	*(s->prev ? &s->prev->next : &s->g->streams) = s->next;
	if (s->next)
		s->next->prev = s->prev;
	conlog_close(s->logs);
	free(s);
}

void relay_stop(struct relay *relay)
{
	struct stream *s, *next;

	if (!relay)
		return;
	HASH_ITER (hh, relay->all, s, next)
		drop(s);
}

void relay_free(struct relay *relay)
{
	free(relay);
}

/* ---------------------------------------------------------------- sending */

static void send_end(struct agent *agent, uint64_t id, int code, const char *message)
{
	Um__Envelope env = wire_env(id);
	Um__StreamEnd end = UM__STREAM_END__INIT;
	Um__Error error = UM__ERROR__INIT;

	if (code) {
		error.code = wire_code_from_errno(code);
		error.message = (char *)(uintptr_t)message;
		end.error = &error;
		end.exit_status = -1;
	}
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	(void)link_send(agent->link, &env, NULL);
}

static void end_at_runner(struct stream *s)
{
	Um__Envelope env = wire_env(s->rid);
	Um__StreamEnd end = UM__STREAM_END__INIT;

	if (!s->rid || !s->g->run)
		return;
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	(void)s->g->agent->driver.ops->send(s->g->run, &env, NULL);
}

/* ---------------------------------------------------------------- logs from files */

static void on_logs_data(void *arg, const void *data, size_t size)
{
	struct stream *s = arg;
	Um__Envelope env = wire_env(s->id);
	Um__StreamData body = UM__STREAM_DATA__INIT;

	body.channel = 1;
	body.data.data = (uint8_t *)(uintptr_t)data;
	body.data.len = size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	(void)link_send(s->g->agent->link, &env, NULL);
}

static void on_logs_end(void *arg, const struct err *err)
{
	struct stream *s = arg;

	send_end(s->g->agent, s->id, err ? err->code : 0, err ? err_msg(err) : "");
	drop(s);
}

static int open_logs(struct stream *s, const Um__StreamOpen *open, struct err *err)
{
	static const struct conlog_ops ops = {.on_data = on_logs_data, .on_end = on_logs_end};
	struct agent *agent = s->g->agent;
	Um__Envelope env = wire_env(s->id);
	Um__StreamOpened opened = UM__STREAM_OPENED__INIT;
	int rc = open->kind == UM__STREAM_KIND__STREAM_MEMORY
			 ? memory_open(s->g, &ops, s, &s->logs, err)
			 : conlog_open(agent->loop, s->g->dir, open->tail, &ops, s, &s->logs, err);

	if (rc < 0)
		return rc;
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
	env.stream_opened = &opened;
	(void)link_send(agent->link, &env, NULL);
	return 0;
}

/* ---------------------------------------------------------------- from the scheduler */

static struct stream *find(struct relay *relay, uint64_t id)
{
	struct stream *s = NULL;

	HASH_FIND(hh, relay->all, &id, sizeof(id), s);
	return s;
}

static int check_open(
	struct relay *relay, const Um__Envelope *env, struct guest **out, struct err *err)
{
	const Um__StreamOpen *open = env->stream_open;
	struct guest *g = guests_find(relay->agent->guests, open->uid);
	char reason[GUESTS_REASON];
	unsigned count = 0;

	if (!g || !g->assign || g->gone)
		return err_set(err, -ENOENT, "the guest is not on this host");
	if (open->epoch && open->epoch != g->assign->epoch)
		return err_set(err, -EAGAIN, "the guest is being moved");
	for (struct stream *s = g->streams; s; s = s->next)
		count++;
	if (count >= RELAY_GUEST_MAX)
		return err_set(err, -EAGAIN, "the guest has %u streams already", count);
	*out = g;
	if (open->kind == UM__STREAM_KIND__STREAM_LOGS ||
		(g->run && relay->agent->driver.ops->up(g->run)))
		return 0;
	(void)life_phase(g, reason);
	return err_set(err, -EAGAIN, "guest %s is not running%s%s", g->assign->name,
		reason[0] ? ": " : "", reason);
}

static int pass_open(struct stream *s, const Um__Envelope *env, struct err *err)
{
	const struct driver_ops *ops = s->g->agent->driver.ops;
	Um__Envelope copy = *env;

	if (env->stream_open->kind == UM__STREAM_KIND__STREAM_MEMORY || !s->g->run ||
		!ops->up(s->g->run))
		return open_logs(s, env->stream_open, err);
	s->rid = ops->id(s->g->run);
	copy.id = s->rid;
	return ops->send(s->g->run, &copy, err);
}

static void on_open(struct relay *relay, const Um__Envelope *env)
{
	struct err err = ERR_INIT;
	struct guest *g = NULL;
	struct stream *s;

	if (!env->id || find(relay, env->id)) {
		send_end(relay->agent, env->id, -EINVAL, "the stream's id is in use");
		return;
	}
	if (check_open(relay, env, &g, &err) < 0) {
		send_end(relay->agent, env->id, err.code, err_msg(&err));
		return;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		send_end(relay->agent, env->id, -EAGAIN, "memory is short");
		return;
	}
	s->relay = relay;
	s->id = env->id;
	s->g = g;
	s->next = g->streams;
	if (s->next)
		s->next->prev = s;
	g->streams = s;
	HASH_ADD(hh, relay->all, id, sizeof(s->id), s);
	if (pass_open(s, env, &err) < 0) {
		send_end(relay->agent, s->id, err.code, err_msg(&err));
		drop(s);
	}
}

void relay_from_scheduler(struct relay *relay, const Um__Envelope *env)
{
	bool end = env->body_case == UM__ENVELOPE__BODY_STREAM_END;
	Um__Envelope copy = *env;
	struct err err = ERR_INIT;
	struct stream *s;

	if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN) {
		on_open(relay, env);
		return;
	}
	s = find(relay, env->id);
	if (!s)
		return; /* it has ended meanwhile */
	if (s->rid) {
		copy.id = s->rid;
		if (s->g->agent->driver.ops->send(s->g->run, &copy, &err) < 0 && !end) {
			send_end(relay->agent, s->id, err.code, err_msg(&err));
			end = true;
		}
	} else if (env->body_case == UM__ENVELOPE__BODY_STREAM_CREDIT && !end) {
		conlog_credit(s->logs, env->stream_credit->bytes);
		return; /* perhaps that was its end */
	}
	if (end)
		drop(s);
}

/* ---------------------------------------------------------------- from the runner */

void relay_from_runner(struct guest *g, const Um__Envelope *env)
{
	bool last = env->body_case == UM__ENVELOPE__BODY_STREAM_END ||
		    env->body_case == UM__ENVELOPE__BODY_ERROR;
	Um__Envelope copy = *env;
	struct stream *s;

	for (s = g->streams; s && s->rid != env->id; s = s->next)
		;
	if (!s)
		return;
	copy.id = s->id;
	if (env->body_case == UM__ENVELOPE__BODY_ERROR) {
		send_end(g->agent, s->id, wire_errno_from_code(env->error->code),
			env->error->message);
	} else if (link_send(g->agent->link, &copy, NULL) < 0 && !last) {
		/* A byte lost is a stream lost. */
		end_at_runner(s);
		send_end(g->agent, s->id, -EAGAIN, "the scheduler does not keep up");
		last = true;
	}
	if (last)
		drop(s);
}

void relay_runner_lost(struct guest *g, const struct err *err)
{
	struct stream *s = g->streams;

	while (s) {
		struct stream *next = s->next;

		if (s->rid) {
			send_end(g->agent, s->id, -EAGAIN,
				err ? "the guest's runner is lost" : "the guest has ended");
			drop(s);
		}
		s = next;
	}
}

void relay_link_lost(struct relay *relay)
{
	struct stream *s, *next;

	HASH_ITER (hh, relay->all, s, next) {
		end_at_runner(s);
		drop(s);
	}
}

void relay_forget(struct guest *g)
{
	while (g->streams) {
		/* drop() takes it off. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		send_end(g->agent, g->streams->id, -ENOENT, "the guest is removed");
		drop(g->streams);
	}
}
