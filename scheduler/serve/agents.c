/* Agents: their sessions, and what they say. What they are told: tell.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

struct agent *agents_by_host(const struct serve *s, const char *host)
{
	struct agent *agent;

	HASH_FIND_STR(s->agents, host, agent);
	return agent;
}

static struct agent *by_peer(const struct serve *s, const struct zpeer *peer)
{
	struct agent *agent;

	HASH_FIND(hh_peer, s->agents_by_peer, peer->id, (unsigned)peer->id_size, agent);
	return agent;
}

static void agent_free(struct serve *s, struct agent *agent)
{
	HASH_DEL(s->agents, agent);
	if (agent->peer_id_size)
		HASH_DELETE(hh_peer, s->agents_by_peer, agent);
	if (agent->facts)
		um__host_facts__free_unpacked(agent->facts, NULL);
	free(agent);
}

void agents_free(struct serve *s)
{
	struct agent *agent, *next;
	struct blob *blob, *next_blob;

	HASH_ITER (hh, s->agents, agent, next)
		agent_free(s, agent);
	HASH_ITER (hh, s->blobs, blob, next_blob) {
		HASH_DEL(s->blobs, blob);
		free(blob->hosts);
		free(blob);
	}
}

/* ---------------------------------------------------------------- who has what */

void agents_blob_add(struct serve *s, const uint8_t *id, const char *host)
{
	struct blob *blob;

	HASH_FIND(hh, s->blobs, id, CORE_ID, blob);
	if (!blob) {
		blob = calloc(1, sizeof(*blob));
		if (!blob)
			return;
		memcpy(blob->id, id, CORE_ID);
		HASH_ADD(hh, s->blobs, id, CORE_ID, blob);
	}
	for (size_t i = 0; i < blob->host_count; i++)
		if (strcmp(blob->hosts[i].host, host) == 0)
			return;
	if (blob->host_count == blob->host_room) {
		size_t room = blob->host_room ? blob->host_room * 2 : 4;
		struct blob_at *hosts = realloc(blob->hosts, room * sizeof(*hosts));

		if (!hosts)
			return;
		blob->hosts = hosts;
		blob->host_room = room;
	}
	(void)str_copy(blob->hosts[blob->host_count++].host, CORE_NAME, host);
}

void agents_blob_remove(struct serve *s, const uint8_t *id, const char *host)
{
	struct blob *blob;

	HASH_FIND(hh, s->blobs, id, CORE_ID, blob);
	for (size_t i = 0; blob && i < blob->host_count; i++) {
		if (strcmp(blob->hosts[i].host, host) != 0)
			continue;
		blob->hosts[i] = blob->hosts[--blob->host_count];
		break;
	}
}

static void blobs_forget(struct serve *s, const char *host)
{
	for (struct blob *blob = s->blobs; blob; blob = blob->hh.next)
		agents_blob_remove(s, blob->id, host);
}

/* ---------------------------------------------------------------- hello */

static int convert_observed(const Um__GuestObserved *o, struct core_observed *out)
{
	*out = (struct core_observed){
		.uid = o->uid,
		.epoch = o->epoch,
		.generation = o->generation,
		.disk_generation = o->disk_generation,
		.phase = (int)o->phase >= 0 && (int)o->phase <= CORE_LOST
				 ? (enum core_phase)o->phase
				 : CORE_UNKNOWN,
		.ready = o->ready,
		.gone = o->gone,
		.final = o->final,
		.ran = o->ran,
		.reason = str_is_utf8(o->reason, strlen(o->reason)) ? o->reason : "",
		.restarts = o->restarts,
		.exit_status = o->exit_status,
		.started_at = o->started_at,
		.cow_bytes = o->cow_bytes,
		.troubles = o->troubles,
	};
	return 0;
}

/* facts_free() afterwards in any case. */
static int convert_facts(const Um__AgentHello *hello, struct core_hostfacts *out, struct err *err)
{
	const Um__HostFacts *f = hello->facts;

	if (str_check_name("host", hello->host, err) < 0)
		return err->code;
	if (!f)
		return err_set(err, -EINVAL, "facts are missing");
	if (net_addr_parse(f->vtep, &out->vtep, err) < 0)
		return err_wrap(err, "facts.vtep");
	if (f->pubkey.len && f->pubkey.len != CURVE_KEY)
		return err_set(err, -EINVAL, "facts.pubkey is no key");
	(void)str_copy(out->name, sizeof(out->name), hello->host);
	out->memory = f->memory_bytes;
	out->disk = f->disk_bytes;
	out->disk_free = f->disk_free_bytes;
	out->cpu = f->cpu_milli;
	out->underlay_mtu = f->underlay_mtu;
	return facts_convert(f, out, err);
}

/* *NEW_KEY: the other agents do not know it yet. */
static struct agent *session(
	struct serve *s, const struct peer *from, const Um__AgentHello *hello, bool *new_key)
{
	struct agent *agent = agents_by_host(s, hello->host), *other;
	uint8_t before[CURVE_KEY] = {0};

	other = by_peer(s, &from->z);
	if (other && other != agent) {
		streams_agent_gone(s, other->host);
		agent_free(s, other);
	}
	if (agent) {
		memcpy(before, agent->pubkey, CURVE_KEY);
		streams_agent_gone(s, agent->host);
		HASH_DELETE(hh_peer, s->agents_by_peer, agent);
		um__host_facts__free_unpacked(agent->facts, NULL);
		agent->facts = NULL;
	} else {
		agent = calloc(1, sizeof(*agent));
		if (!agent)
			abort();
		(void)str_copy(agent->host, sizeof(agent->host), hello->host);
		HASH_ADD_STR(s->agents, host, agent);
	}
	agent->peer = *from;
	agent->session = ++s->next_session;
	agent->seq = agent->beat_seq = agent->beat_desired = agent->observed_seq = 0;
	agent->behind = agent->unheard = 0;
	agent->observed_gap = false;
	agent->instance = hello->instance;
	agent->hello = hello->number;
	agent->heard_at = proc_mono_ms();
	memset(agent->boot_id, 0, sizeof(agent->boot_id));
	if (hello->boot_id.len == sizeof(agent->boot_id))
		memcpy(agent->boot_id, hello->boot_id.data, sizeof(agent->boot_id));
	agent->full_due = false;
	memcpy(agent->peer_id, from->z.id, from->z.id_size);
	agent->peer_id_size = from->z.id_size;
	HASH_ADD(hh_peer, s->agents_by_peer, peer_id, (unsigned)agent->peer_id_size, agent);
	agent->facts = wire_copy(&hello->facts->base);
	if (!agent->facts)
		abort();
	memcpy(agent->pubkey, from->z.pubkey, CURVE_KEY);
	if (from->z.local && hello->facts->pubkey.len == CURVE_KEY)
		memcpy(agent->pubkey, hello->facts->pubkey.data, CURVE_KEY);
	*new_key = memcmp(before, agent->pubkey, CURVE_KEY) != 0;
	(void)str_format(
		agent->endpoint, sizeof(agent->endpoint), "%s", hello->facts->peer_endpoint);
	return agent;
}

/* To all agents but EXCEPT: these keys, or (FULL) these and no others. */
static void tell_keys(struct serve *s, const struct agent *except, bool full)
{
	ProtobufCBinaryData *keys = calloc(HASH_COUNT(s->agents) + 1, sizeof(*keys));

	if (!keys)
		abort();
	for (struct agent *a = s->agents; a; a = a->hh.next) {
		Um__Envelope env = wire_env(0);
		Um__Desired d = UM__DESIRED__INIT;

		if (a == except)
			continue;
		if (full) {
			for (struct agent *o = s->agents; o; o = o->hh.next)
				if (o != a)
					keys[d.n_peer_keys++] = (ProtobufCBinaryData){
						.len = CURVE_KEY, .data = o->pubkey};
		} else {
			keys[d.n_peer_keys++] = (ProtobufCBinaryData){
				.len = CURVE_KEY, .data = (uint8_t *)(uintptr_t)except->pubkey};
		}
		d.seq = ++a->seq;
		d.peer_keys = keys;
		d.peers_full = full;
		env.body_case = UM__ENVELOPE__BODY_DESIRED;
		env.desired = &d;
		/* In order with what is already on its way. */
		commit_reply(s, &a->peer, &env);
	}
	free(keys);
}

/* The other agents let the new one fetch from them. */
static void announce_key(struct serve *s, const struct agent *fresh)
{
	tell_keys(s, fresh, false);
}

void agents_host_changed(struct serve *s, const char *name)
{
	const struct core_host *host = core_host(s->core, name);
	struct agent *agent;

	if (host && host->state != CORE_HOST_LOST)
		return;
	/* It is asked for nothing any more; when it is back, it says what it has. */
	blobs_forget(s, name);
	agent = host ? NULL : agents_by_host(s, name);
	if (!agent)
		return;
	streams_agent_gone(s, name);
	agent_free(s, agent);
	tell_keys(s, NULL, true);
}

/* False: this host was given up, or was never here. */
static bool keeps_lease(struct serve *s, const char *name, uint64_t disk_free)
{
	const struct core_host *host = core_host(s->core, name);

	/* After a restart the core has not heard of any host yet, and cannot be told now. */
	if (s->stuck && host && host->state == CORE_HOST_JOINING)
		return true;
	if (core_heartbeat(s->core, name, disk_free, proc_wall_ms(), proc_mono_ms(), &s->out) < 0)
		return false;
	/* It had been suspect.  Where nothing can be recorded that is said later. */
	if (!s->stuck && (s->out.dirty_count || s->out.log_count))
		commit_event(s, NULL, NULL, NULL, 0);
	return true;
}

/* A copy of a machine has its key and its name, and would run its guests as well.  An agent
 * that is started again is on the same boot; a machine that was is not heard meanwhile, and
 * let in before it counts as lost. */
static bool is_copy(const struct serve *s, const struct agent *agent, const Um__AgentHello *h)
{
	return h->boot_id.len == sizeof(agent->boot_id) && agent->instance != h->instance &&
	       memcmp(h->boot_id.data, agent->boot_id, sizeof(agent->boot_id)) != 0 &&
	       proc_mono_ms() - agent->heard_at < s->config.lease_ms / 2;
}

static void hello(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__AgentHello *h = env->agent_hello;
	struct core_hostfacts facts = {0};
	struct core_observed *observed;
	Um__Envelope reply = wire_env(env->id);
	Um__AgentWelcome welcome = UM__AGENT_WELCOME__INIT;
	struct err err = ERR_INIT;
	struct key *key = auth_find(s, from->z.pubkey);
	struct agent *agent;
	bool new_key;

	if (convert_facts(h, &facts, &err) < 0) {
		facts_free(&facts);
		serve_error(s, from, env->id, &err);
		return;
	}
	if (!from->z.local && key && strcmp(key->name, h->host) != 0) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__DENIED,
			"this key joined as host '%s', not '%s'", key->name, h->host);
		facts_free(&facts);
		return;
	}
	agent = agents_by_host(s, h->host);
	if (agent && h->number && agent->instance == h->instance && h->number <= agent->hello) {
		/* Overtaken by a newer one: what it says is no longer so. */
		facts_free(&facts);
		return;
	}
	if (agent && is_copy(s, agent, h)) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__CONFLICT,
			"another machine is host '%s', and was heard just now; if this one is a "
			"copy "
			"of it: umlaut-agent --purge, and a name and a token of its own",
			h->host);
		facts_free(&facts);
		return;
	}
	observed = calloc(h->n_guests + 1, sizeof(*observed));
	if (!observed)
		abort();
	for (size_t i = 0; i < h->n_guests; i++) {
		(void)convert_observed(h->guests[i], &observed[i]);
		boots_seen(s, h->host, h->guests[i]);
	}
	if (s->stuck && !keeps_lease(s, h->host, facts.disk_free)) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__NO_SPACE,
			"the scheduler's disk is full: it cannot take host '%s' in now", h->host);
		facts_free(&facts);
		free(observed);
		return;
	}
	agent = session(s, from, h, &new_key);
	/* What it had before it may have no longer. */
	blobs_forget(s, agent->host);
	for (size_t i = 0; i < h->n_blobs; i++)
		if (h->blobs[i].len == CORE_ID)
			agents_blob_add(s, h->blobs[i].data, agent->host);
	welcome.cluster_id = s->cluster_id;
	welcome.session = agent->session;
	welcome.heartbeat_ms = s->config.heartbeat_ms;
	welcome.lease_ms = s->config.lease_ms;
	reply.body_case = UM__ENVELOPE__BODY_AGENT_WELCOME;
	reply.agent_welcome = &welcome;
	commit_reply(s, from, &reply);
	if (s->stuck) {
		/* Its lease goes on; what it says is asked for again. */
		agent->observed_gap = true;
		agent->full_due = true;
	} else if (core_host_hello(s->core, &facts, observed, h->n_guests, proc_wall_ms(),
			   proc_mono_ms(), &s->out, &err) < 0) {
		serve_error(s, from, env->id, &err);
		core_out_reset(&s->out);
	} else {
		moves_observed(s, agent, h->moves, h->n_moves, true);
		orphans_observed(s, agent, h->orphans, h->n_orphans, true);
		log_info("host is here", LOG_STR("host", h->host), LOG_U64("guests", h->n_guests));
		commit_event(s, NULL, NULL, NULL, 0);
		if (new_key)
			announce_key(s, agent);
	}
	free(observed);
	facts_free(&facts);
	serve_tick_soon(s);
}

/* ---------------------------------------------------------------- the rest */

static void resync(struct serve *s, struct agent *agent);

#define BEHIND_MAX 3 /* heartbeats */

/* What was sent to the agent and never taken is sent again, as a whole.  A slow agent,
 * or link, takes a step now and then. */
static void check_behind(struct serve *s, struct agent *agent, const Um__Heartbeat *h)
{
	bool behind = h->desired_seq < agent->beat_seq && h->desired_seq == agent->beat_desired;

	agent->behind = behind ? agent->behind + 1 : 0;
	agent->beat_desired = h->desired_seq;
	agent->beat_seq = agent->seq;
	if (agent->behind < BEHIND_MAX)
		return;
	log_warn("the host does not hear what it is told; told anew", LOG_STR("host", agent->host));
	agent->behind = 0;
	resync(s, agent);
}

/* True when reports of the agent never came. */
static bool reports_lost(struct agent *agent, const Um__Heartbeat *h)
{
	agent->unheard = h->observed_seq > agent->observed_seq ? agent->unheard + 1 : 0;
	return agent->observed_gap || agent->unheard >= BEHIND_MAX;
}

static void heartbeat(struct serve *s, struct agent *agent, const Um__Envelope *env)
{
	const Um__Heartbeat *h = env->heartbeat;
	Um__Envelope reply = wire_env(env->id);
	Um__HeartbeatReply body = UM__HEARTBEAT_REPLY__INIT;

	if (h->session != agent->session) {
		serve_refuse(s, &agent->peer, env->id, UM__ERROR_CODE__CONFLICT,
			"the session is over: say hello again");
		return;
	}
	if (!s->stuck && reports_lost(agent, h)) {
		serve_refuse(s, &agent->peer, env->id, UM__ERROR_CODE__CONFLICT,
			"a report was lost: say hello again");
		return;
	}
	if (!keeps_lease(s, agent->host, h->usage ? h->usage->disk_free_bytes : 0)) {
		serve_refuse(s, &agent->peer, env->id, UM__ERROR_CODE__CONFLICT,
			"this host was given up: say hello again");
		return;
	}
	if (h->usage)
		agent->memory_used = h->usage->memory_used_bytes;
	agent->heard_at = proc_mono_ms();
	body.seq = h->seq;
	body.lease_ms = s->config.lease_ms;
	reply.body_case = UM__ENVELOPE__BODY_HEARTBEAT_REPLY;
	reply.heartbeat_reply = &body;
	serve_send(s, &agent->peer, &reply);
	if (!s->stuck)
		check_behind(s, agent, h);
}

/* Not one of an older session, one heard before, or one that was overtaken. */
static bool is_next(struct agent *agent, const Um__Observed *o)
{
	if (!o->seq)
		return true;
	if (o->session != agent->session || o->seq <= agent->observed_seq)
		return false;
	agent->observed_gap |= o->seq != agent->observed_seq + 1;
	agent->observed_seq = o->seq;
	return true;
}

static void observed(struct serve *s, struct agent *agent, const Um__Envelope *env)
{
	const Um__Observed *o = env->observed;
	struct core_observed *list = calloc(o->n_guests + 1, sizeof(*list));
	struct err err = ERR_INIT;

	if (!list)
		abort();
	if (!is_next(agent, o)) {
		free(list);
		return;
	}
	for (size_t i = 0; i < o->n_guests; i++) {
		(void)convert_observed(o->guests[i], &list[i]);
		boots_seen(s, agent->host, o->guests[i]);
	}
	for (size_t i = 0; i < o->n_blobs_added; i++)
		if (o->blobs_added[i].len == CORE_ID)
			agents_blob_add(s, o->blobs_added[i].data, agent->host);
	for (size_t i = 0; i < o->n_blobs_removed; i++)
		if (o->blobs_removed[i].len == CORE_ID)
			agents_blob_remove(s, o->blobs_removed[i].data, agent->host);
	if (core_observe(s->core, agent->host, list, o->n_guests, proc_wall_ms(), &s->out, &err) <
		0) {
		core_out_reset(&s->out);
		log_warn("a report was refused", LOG_STR("host", agent->host), LOG_ERR(&err));
	} else {
		moves_observed(s, agent, o->moves, o->n_moves, false);
		orphans_observed(s, agent, o->orphans, o->n_orphans, false);
		commit_event(s, NULL, NULL, NULL, 0);
	}
	free(list);
}

static void resync(struct serve *s, struct agent *agent)
{
	struct core_action full = {.kind = CORE_TELL_FULL};
	struct core_action *actions = s->out.actions;
	size_t count = s->out.action_count, room = s->out.action_room;

	(void)str_copy(full.host, sizeof(full.host), agent->host);
	/* The core has nothing to say: an event of one action. */
	s->out.actions = &full;
	s->out.action_count = 1;
	commit_event(s, NULL, NULL, NULL, 0);
	s->out.actions = actions;
	s->out.action_count = count;
	s->out.action_room = room;
	s->out.action_count = 0;
}

void agents_resync(struct serve *s)
{
	struct agent *agent, *next;

	HASH_ITER (hh, s->agents, agent, next)
		if (agent->full_due)
			resync(s, agent);
}

bool agents_message(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	struct agent *agent;

	switch (env->body_case) {
	case UM__ENVELOPE__BODY_AGENT_HELLO:
		hello(s, from, env);
		return true;
	case UM__ENVELOPE__BODY_HEARTBEAT:
	case UM__ENVELOPE__BODY_OBSERVED:
	case UM__ENVELOPE__BODY_RESYNC_REQUEST:
		break;
	default:
		return false;
	}
	agent = by_peer(s, &from->z);
	if (!agent) {
		serve_refuse(
			s, from, env->id, UM__ERROR_CODE__CONFLICT, "no session: say hello first");
		return true;
	}
	if (env->body_case == UM__ENVELOPE__BODY_HEARTBEAT)
		heartbeat(s, agent, env);
	else if (s->stuck && env->body_case == UM__ENVELOPE__BODY_OBSERVED)
		agent->observed_gap = true;
	else if (s->stuck)
		agent->full_due = true;
	else if (env->body_case == UM__ENVELOPE__BODY_OBSERVED)
		observed(s, agent, env);
	else
		resync(s, agent);
	return true;
}
