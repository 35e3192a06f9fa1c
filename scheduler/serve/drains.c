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

struct looking {
	Um__DrainReply *body;
	const char *host;
	struct arena *a;
};

static void looked_at(void *arg, const struct core_guest *guest, const struct core_host *to,
	const struct err *why)
{
	struct looking *l = arg;
	Um__MigrateItem *item;

	if (l->body->n_items == LOOKED_AT_MAX)
		return;
	item = arena_get(l->a, sizeof(*item));
	um__migrate_item__init(item);
	item->guest = arena_str(l->a, guest->name);
	item->from = arena_str(l->a, l->host);
	item->to = arena_str(l->a, to ? to->name : "");
	item->error = to ? NULL : moves_refusal(why, l->a);
	l->body->items[l->body->n_items++] = item;
}

static int look(struct serve *s, const struct core_host *host, Um__DrainReply *body,
	struct arena *a, struct err *err)
{
	struct looking l = {.body = body, .host = host->name, .a = a};

	body->items = (Um__MigrateItem **)arena_list(
		a, host->guest_count < LOOKED_AT_MAX ? host->guest_count : LOOKED_AT_MAX);
	return core_drain_look(s->core, host->name, looked_at, &l, err);
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
		rc = look(s, host, &body, &a, &err);
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
