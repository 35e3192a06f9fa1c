/* Hosts that are being emptied: what clients ask, records. */
#include "scheduler/core/drain.h"

#include <errno.h>

#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

#define LOOKED_AT_MAX 10000u /* guests of a dry run */

Um__HostDrain *drains_view(const struct core_host *host, struct arena *a)
{
	const struct core_drain *d = host->drain;
	Um__HostDrain *out;

	if (!d)
		return NULL;
	out = arena_get(a, sizeof(*out));
	um__host_drain__init(out);
	out->parallel = d->parallel;
	out->rate = d->rate;
	out->max_downtime_ms = d->max_downtime_ms;
	out->started_at = d->started_at;
	out->ended_at = d->ended_at;
	out->total = d->total;
	out->moving = d->moving;
	out->stuck = d->stuck;
	out->reason = arena_str(a, d->reason);
	out->retry_at = d->retry_at;
	return out;
}

int drains_restore(struct serve *s, const char *host, const Um__HostDrain *r, struct err *err)
{
	const struct core_drain drain = {.parallel = r->parallel,
		.rate = r->rate,
		.max_downtime_ms = r->max_downtime_ms,
		.started_at = r->started_at,
		.ended_at = r->ended_at,
		.total = r->total};

	return core_load_drain(s->core, host, &drain, err);
}

/* One after the other, each with the room that those before it leave. */
static void look(
	struct serve *s, const struct core_host *host, Um__DrainReply *body, struct arena *a)
{
	const struct core_migrate how = {.to = "", .dry_run = true};
	const struct core_guest *g;

	body->items = (Um__MigrateItem **)arena_list(a, host->guest_count);
	DL_FOREACH2(host->guests, g, host_next)
	{
		Um__MigrateItem *item = arena_get(a, sizeof(*item));
		struct core_migrate_plan plan = {0};
		struct err err = ERR_INIT;

		if (body->n_items == LOOKED_AT_MAX)
			break;
		um__migrate_item__init(item);
		item->guest = arena_str(a, g->name);
		if (core_migrate(s->core, g->uid, &how, proc_wall_ms(), &plan, &s->out, &err) < 0)
			item->error = moves_refusal(&err, a);
		item->from = arena_str(a, host->name);
		item->to = arena_str(a, plan.to);
		body->items[body->n_items++] = item;
	}
	core_migrate_rehearsed(s->core);
}

void drains_request(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__DrainRequest *r = env->drain_request;
	const struct core_host *host = core_host(s->core, r->host);
	Um__Envelope reply = wire_env(env->id);
	Um__DrainReply body = UM__DRAIN_REPLY__INIT;
	struct err err = ERR_INIT;
	struct arena a = {0};
	int rc = 0;

	if (!host) {
		serve_refuse(
			s, from, env->id, UM__ERROR_CODE__NOT_FOUND, "no host '%.80s'", r->host);
		return;
	}
	if (r->dry_run)
		look(s, host, &body, &a);
	else if (r->cancel)
		rc = core_drain_cancel(s->core, r->host, proc_wall_ms(), &s->out, &err);
	else
		rc = core_drain(s->core, r->host, r->parallel, r->rate, r->max_downtime_ms,
			proc_wall_ms(), &s->out, &err);
	if (rc < 0) {
		commit_event(s, NULL, NULL, NULL, 0);
		serve_error(s, from, env->id, &err);
	} else {
		body.guests = host->guest_count;
		reply.body_case = UM__ENVELOPE__BODY_DRAIN_REPLY;
		reply.drain_reply = &body;
		commit_event(s, from, &reply, NULL, 0);
	}
	arena_free(&a);
}
