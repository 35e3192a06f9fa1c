/* Streams between clients and guests: relayed, not looked into.  The windows are
 * kept by the two ends (lib/wire.h), so at most one window is on its way here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/memuse.h"
#include "scheduler/serve/serve_int.h"

#define STREAMS_MAX 4096u

static size_t client_key(
	uint8_t key[ZPEER_ID_MAX + sizeof(uint64_t)], const struct zpeer *peer, uint64_t id)
{
	memset(key, 0, ZPEER_ID_MAX + sizeof(uint64_t));
	memcpy(key, &id, sizeof(id));
	memcpy(key + sizeof(id), peer->id, peer->id_size);
	return ZPEER_ID_MAX + sizeof(uint64_t);
}

static void drop(struct serve *s, struct stream *stream)
{
	HASH_DEL(s->streams, stream);
	HASH_DELETE(hh_client, s->streams_by_client, stream);
	free(stream);
}

const struct core_guest *serve_find_guest(const struct serve *s, const char *name, struct err *err)
{
	const struct core_guest *found = NULL, *g;

	if (strchr(name, '/')) {
		found = core_guest_named(s->core, name);
		if (!found)
			(void)err_set(err, -ENOENT, "no guest '%.120s'", name);
		return found;
	}
	for (const struct core_deployment *d = core_deployments(s->core); d; d = d->hh.next) {
		char full[CORE_FULLNAME];

		if (str_format(full, sizeof(full), "%s/%s", d->name, name) < 0)
			continue;
		g = core_guest_named(s->core, full);
		if (g && found) {
			(void)err_set(err, -EINVAL,
				"'%.60s' is the name of several guests: write DEPLOYMENT/%.60s "
				"(%s, %s)",
				name, name, found->name, g->name);
			return NULL;
		}
		if (g)
			found = g;
	}
	if (!found)
		(void)err_set(err, -ENOENT, "no guest '%.120s'", name);
	return found;
}

static int forward(const struct peer *to, const Um__Envelope *env, uint64_t id)
{
	/* The body is passed on as it is. */
	Um__Envelope copy = *env;

	copy.id = id;
	return zsock_send(to->sock, &to->z, &copy, NULL, 0, NULL);
}

static void end_at_agent(struct serve *s, const struct stream *stream)
{
	struct agent *agent = agents_by_host(s, stream->host);
	Um__Envelope env = wire_env(stream->agent_id);
	Um__StreamEnd end = UM__STREAM_END__INIT;

	if (!agent || agent->session != stream->session)
		return;
	end.exit_status = -1;
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	serve_send(s, &agent->peer, &env);
}

static void end_at_client(struct serve *s, const struct stream *stream, const char *why)
{
	Um__Envelope env = wire_env(stream->client_id);
	Um__StreamEnd end = UM__STREAM_END__INIT;
	Um__Error error = UM__ERROR__INIT;

	error.code = UM__ERROR_CODE__UNAVAILABLE;
	error.message = (char *)(uintptr_t)why;
	end.exit_status = -1;
	end.error = &error;
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	serve_send(s, &stream->client, &env);
}

/* What the scheduler itself holds: the data of a stream that ends at once. */
static void tell_memory(struct serve *s, const struct peer *from, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__StreamOpened opened = UM__STREAM_OPENED__INIT;
	Um__StreamData data = UM__STREAM_DATA__INIT;
	Um__StreamEnd end = UM__STREAM_END__INIT;
	Um__MemoryReport report = UM__MEMORY_REPORT__INIT;
	struct memuse use = {0};
	struct err err = ERR_INIT;
	uint8_t packed[256];

	if (memuse_add(getpid(), &use, &err) < 0) {
		serve_error(s, from, id, &err);
		return;
	}
	report.scheduler = use.own + use.shmem;
	report.tables = use.tables;
	report.processes = use.processes;
	data.channel = 1;
	data.data.data = packed;
	data.data.len = um__memory_report__pack(&report, packed);
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
	env.stream_opened = &opened;
	serve_send(s, from, &env);
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &data;
	serve_send(s, from, &env);
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	serve_send(s, from, &env);
}

static void open_stream(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	Um__StreamOpen open = *env->stream_open;
	Um__Envelope out = *env;
	const struct core_guest *g;
	struct agent *agent;
	struct stream *stream;
	struct err err = ERR_INIT;
	uint8_t key[ZPEER_ID_MAX + sizeof(uint64_t)];
	size_t key_size = client_key(key, &from->z, env->id);

	HASH_FIND(hh_client, s->streams_by_client, key, key_size, stream);
	if (!env->id || stream || HASH_COUNT(s->streams) >= STREAMS_MAX) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__INVALID,
			"stream id %llu is 0 or in use, or there are too many streams",
			(unsigned long long)env->id);
		return;
	}
	if (open.kind == UM__STREAM_KIND__STREAM_MEMORY && !*open.guest) {
		tell_memory(s, from, env->id);
		return;
	}
	g = serve_find_guest(s, open.guest, &err);
	if (!g) {
		serve_error(s, from, env->id, &err);
		return;
	}
	agent = g->host ? agents_by_host(s, g->host->name) : NULL;
	if (!agent || g->host->state == CORE_HOST_LOST) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__UNAVAILABLE,
			"guest %s cannot be reached: it is %s%s%s", g->name,
			core_phase_name(g->phase), *g->reason ? ", " : "", g->reason);
		return;
	}
	stream = calloc(1, sizeof(*stream));
	if (!stream)
		return;
	stream->client_id = env->id;
	stream->client = *from;
	stream->agent_id = ++s->next_stream;
	stream->session = agent->session;
	(void)str_copy(stream->host, sizeof(stream->host), agent->host);
	memcpy(stream->client_key, key, key_size);
	open.guest = (char *)(uintptr_t)g->name;
	open.uid = g->uid;
	open.epoch = g->epoch;
	out.id = stream->agent_id;
	out.stream_open = &open;
	if (zsock_send(agent->peer.sock, &agent->peer.z, &out, NULL, 0, &err) < 0) {
		free(stream);
		/* Its agent has gone, and the next one has not said hello yet. */
		if (err.code == -EHOSTUNREACH)
			serve_refuse(s, from, env->id, UM__ERROR_CODE__UNAVAILABLE,
				"host %s is not connected just now; try again in a moment",
				agent->host);
		else
			serve_error(s, from, env->id, &err);
		return;
	}
	HASH_ADD(hh, s->streams, agent_id, sizeof(stream->agent_id), stream);
	HASH_ADD(hh_client, s->streams_by_client, client_key, sizeof(stream->client_key), stream);
}

static bool is_stream(const Um__Envelope *env)
{
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_STREAM_OPEN:
	case UM__ENVELOPE__BODY_STREAM_OPENED:
	case UM__ENVELOPE__BODY_STREAM_DATA:
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
	case UM__ENVELOPE__BODY_STREAM_END:
		return true;
	default:
		return false;
	}
}

static void from_agent(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	bool last = env->body_case == UM__ENVELOPE__BODY_STREAM_END ||
		    env->body_case == UM__ENVELOPE__BODY_ERROR;
	struct stream *stream;
	struct agent *agent;

	HASH_FIND(hh, s->streams, &env->id, sizeof(env->id), stream);
	agent = stream ? agents_by_host(s, stream->host) : NULL;
	/* Only the agent that has the stream may speak on it. */
	if (!agent || agent->peer.z.id_size != from->z.id_size ||
		memcmp(agent->peer.z.id, from->z.id, from->z.id_size) != 0)
		return;
	if (forward(&stream->client, env, stream->client_id) < 0 && !last) {
		/* The client is gone, or takes nothing. */
		end_at_agent(s, stream);
		last = true;
	}
	if (last)
		drop(s, stream);
}

static void from_client(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	uint8_t key[ZPEER_ID_MAX + sizeof(uint64_t)];
	size_t key_size = client_key(key, &from->z, env->id);
	struct stream *stream;
	struct agent *agent;

	HASH_FIND(hh_client, s->streams_by_client, key, key_size, stream);
	if (!stream)
		return; /* it has ended meanwhile */
	agent = agents_by_host(s, stream->host);
	if (!agent || agent->session != stream->session ||
		forward(&agent->peer, env, stream->agent_id) < 0) {
		end_at_client(s, stream, "the connection to the guest's host is lost");
		drop(s, stream);
		return;
	}
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_END)
		drop(s, stream);
}

bool streams_message(struct serve *s, const struct peer *from, const Um__Envelope *env, bool agent)
{
	/* An agent may also refuse a stream. */
	if (agent && env->body_case == UM__ENVELOPE__BODY_ERROR) {
		from_agent(s, from, env);
		return true;
	}
	if (!is_stream(env))
		return false;
	if (agent)
		from_agent(s, from, env);
	else if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN)
		open_stream(s, from, env);
	else
		from_client(s, from, env);
	return true;
}

void streams_agent_gone(struct serve *s, const char *host)
{
	struct stream *stream, *next;

	HASH_ITER (hh, s->streams, stream, next) {
		if (strcmp(stream->host, host) != 0)
			continue;
		end_at_client(s, stream, "the agent of the guest's host has restarted");
		drop(s, stream);
	}
}

void streams_free(struct serve *s)
{
	struct stream *stream, *next;

	HASH_ITER (hh, s->streams, stream, next)
		drop(s, stream);
}
