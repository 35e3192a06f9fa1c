/* Moves of guests: what agents are told and say of them, records, and what clients ask. */
#include "scheduler/core/move.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crash.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

#define MIGRATE_MAX 1000u

/* ---------------------------------------------------------------- agents */

static void tell_again(struct serve *s, const char *host, uint64_t number)
{
	struct core_action action = {.kind = CORE_TELL_MOVE, .move = number};
	struct core_action *bigger;

	(void)str_copy(action.host, sizeof(action.host), host);
	if (s->out.action_count == s->out.action_room) {
		bigger = realloc(s->out.actions, (s->out.action_room + 64) * sizeof(*bigger));
		if (!bigger)
			abort();
		s->out.actions = bigger;
		s->out.action_room += 64;
	}
	s->out.actions[s->out.action_count++] = action;
}

/* Where the other side is reached, and by which key, is known from now on. */
static void tell_others(struct serve *s, const char *host)
{
	for (const struct core_move *m = core_moves(s->core); m; m = m->hh.next) {
		if (!core_move_active(m))
			continue;
		if (strcmp(m->source, host) == 0 && core_move_into(m, m->target))
			tell_again(s, m->target, m->number);
		if (strcmp(m->target, host) == 0 && core_move_out_of(m, m->source))
			tell_again(s, m->source, m->number);
	}
}

static bool convert(const Um__MoveObserved *o, struct core_move_seen *out)
{
	if ((o->side != UM__MOVE_SIDE__MOVE_SOURCE && o->side != UM__MOVE_SIDE__MOVE_TARGET) ||
		(int)o->state < 0 || (int)o->state > CORE_MOVE_HAS_FAILED)
		return false;
	*out = (struct core_move_seen){
		.number = o->move,
		.side = (enum core_move_side)o->side,
		.state = (enum core_move_state)o->state,
		.gone = o->gone,
		.reason = str_is_utf8(o->reason, strlen(o->reason)) ? o->reason : "",
		.digest = o->digest.len == CORE_DIGEST ? o->digest.data : NULL,
		.frozen_ms = o->frozen_ms,
		.numbers = {.round = o->round,
			.bytes_done = o->bytes_done,
			.bytes_left = o->bytes_left,
			.bytes_total = o->bytes_total,
			.wire_bytes = o->wire_bytes,
			.rate = o->rate,
			.expected_ms = o->expected_ms},
	};
	return true;
}

void moves_observed(struct serve *s, const struct agent *agent, Um__MoveObserved **moves,
	size_t count, bool hello)
{
	struct core_move_seen *seen = calloc(count + 1, sizeof(*seen));
	struct err err = ERR_INIT;
	size_t n = 0;

	if (!seen)
		abort();
	for (size_t i = 0; i < count; i++)
		n += convert(moves[i], &seen[n]);
	if ((n || hello) && core_move_observed(s->core, agent->host, seen, n, hello, proc_wall_ms(),
				    &s->out, &err) < 0)
		log_warn("what was said of moves was refused", LOG_STR("host", agent->host),
			LOG_ERR(&err));
	if (hello)
		tell_others(s, agent->host);
	free(seen);
}

Um__MoveSource *moves_source_view(struct serve *s, const struct core_move *m, struct arena *a)
{
	const struct agent *target = agents_by_host(s, m->target);
	Um__MoveSource *out = arena_get(a, sizeof(*out));

	um__move_source__init(out);
	out->move = m->number;
	out->uid = m->uid;
	out->epoch = m->epoch;
	out->freeze = m->phase >= CORE_MOVE_FREEZE;
	out->rate = m->rate;
	out->max_downtime_ms = m->max_downtime_ms;
	if (target) {
		out->target = arena_get(a, sizeof(*out->target));
		um__blob_source__init(out->target);
		out->target->endpoint = arena_str(a, target->endpoint);
		out->target->pubkey = arena_bytes(a, target->pubkey, CURVE_KEY);
	}
	return out;
}

/* Of an agent that is away: the key that it joined with. */
static const uint8_t *key_of(struct serve *s, const char *host)
{
	const struct agent *agent = agents_by_host(s, host);

	if (agent)
		return agent->pubkey;
	for (const struct key *key = s->keys_known; key; key = key->hh.next)
		if (key->role == ROLE_AGENT && strcmp(key->name, host) == 0)
			return key->pubkey;
	return NULL;
}

Um__MoveTarget *moves_target_view(
	struct serve *s, const struct core_move *m, Um__GuestAssign *assign, struct arena *a)
{
	const uint8_t *key = key_of(s, m->source);
	Um__MoveTarget *out = arena_get(a, sizeof(*out));

	um__move_target__init(out);
	out->move = m->number;
	out->guest = assign;
	if (key)
		out->source_key = arena_bytes(a, key, CURVE_KEY);
	return out;
}

/* ---------------------------------------------------------------- records */

Um__StoredMove *moves_record(const struct serve *s, uint64_t number, struct arena *a)
{
	const struct core_move *m = core_move(s->core, number);
	Um__StoredMove *r;

	if (!m)
		return NULL;
	r = arena_get(a, sizeof(*r));
	um__stored_move__init(r);
	r->move = m->number;
	r->uid = m->uid;
	r->name = arena_str(a, m->name);
	r->source = arena_str(a, m->source);
	r->target = arena_str(a, m->target);
	r->phase = (uint32_t)m->phase;
	r->epoch = m->epoch;
	r->rate = m->rate;
	r->max_downtime_ms = m->max_downtime_ms;
	r->drain = m->drain;
	r->cancelled = m->cancelled;
	r->set = m->set;
	r->reason = arena_str(a, m->reason);
	r->started_at = m->started_at;
	r->frozen_at = m->frozen_at;
	r->running_at = m->running_at;
	r->ended_at = m->ended_at;
	return r;
}

uint32_t moves_phases(const struct serve *s)
{
	uint32_t phases = 0;

	for (size_t i = 0; i < s->out.dirty_count; i++) {
		const struct core_dirty *d = &s->out.dirty[i];
		const struct core_move *m = d->kind == CORE_KIND_MOVE && !d->shown_only
						    ? core_move(s->core, strtoull(d->key, NULL, 16))
						    : NULL;

		phases |= m ? 1u << (unsigned)m->phase : 0;
	}
	return phases;
}

void moves_recorded(uint32_t phases)
{
	static const char *const points[] = {
		[CORE_MOVE_PREPARE] = "move-record",
		[CORE_MOVE_FREEZE] = "move-freeze",
		[CORE_MOVE_START] = "move-commit",
		[CORE_MOVE_DROP] = "move-drop",
		[CORE_MOVE_BACK] = "move-back",
		[CORE_MOVE_DONE] = "move-done",
		[CORE_MOVE_FAILED] = "move-done",
		[CORE_MOVE_CANCELLED] = "move-done",
	};

	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		if (phases & 1u << i && points[i])
			crash_point(points[i]);
}

int moves_restore(struct serve *s, const Um__StoredMove *r, struct err *err)
{
	const struct core_load_move load = {
		.number = r->move,
		.uid = r->uid,
		.epoch = r->epoch,
		.rate = r->rate,
		.max_downtime_ms = r->max_downtime_ms,
		.phase = (enum core_move_phase)r->phase,
		.drain = r->drain,
		.cancelled = r->cancelled,
		.set = r->set,
		.started_at = r->started_at,
		.frozen_at = r->frozen_at,
		.running_at = r->running_at,
		.ended_at = r->ended_at,
		.name = r->name,
		.source = r->source,
		.target = r->target,
		.reason = r->reason,
	};

	return core_load_move(s->core, &load, err);
}

/* ---------------------------------------------------------------- clients */

Um__MigrationInfo *moves_view(const struct core_move *m, struct arena *a)
{
	Um__MigrationInfo *out = arena_get(a, sizeof(*out));

	um__migration_info__init(out);
	out->move = m->number;
	out->guest = arena_str(a, m->name);
	out->from = arena_str(a, m->source);
	out->to = arena_str(a, m->target);
	out->state = arena_str(a, core_move_phase_name(m->phase));
	out->reason = arena_str(a, m->reason);
	out->round = m->numbers.round;
	out->bytes_done = m->numbers.bytes_done;
	out->bytes_left = m->numbers.bytes_left;
	out->bytes_total = m->numbers.bytes_total;
	out->wire_bytes = m->numbers.wire_bytes;
	out->rate = m->numbers.rate;
	out->expected_ms = m->numbers.expected_ms;
	out->started_at = m->started_at;
	out->frozen_at = m->frozen_at;
	out->running_at = m->running_at;
	out->ended_at = m->ended_at;
	out->drain = m->drain;
	return out;
}

Um__Error *moves_refusal(const struct err *err, struct arena *a)
{
	Um__Error *out = arena_get(a, sizeof(*out));

	um__error__init(out);
	out->code = err->code == -ENOENT	 ? UM__ERROR_CODE__NOT_FOUND
		    : err->code == -EHOSTUNREACH ? UM__ERROR_CODE__UNPLACEABLE
		    : err->code == -EBUSY	 ? UM__ERROR_CODE__CONFLICT
						 : UM__ERROR_CODE__INTERNAL;
	out->message = arena_str(a, err_msg(err));
	return out;
}

/* A request that is being answered. */
struct asked {
	struct serve *s;
	const Um__MigrateRequest *r;
	Um__MigrateReply *body;
	size_t room;
	struct arena *a;
};

static Um__MigrateItem *add_item(
	struct asked *q, const char *guest, const char *from, const char *to, uint64_t number)
{
	Um__MigrateItem *item = arena_get(q->a, sizeof(*item)), **more;

	if (q->body->n_items == q->room) {
		q->room = q->room ? q->room * 2 : 16;
		more = (Um__MigrateItem **)arena_list(q->a, q->room);
		if (q->body->n_items)
			memcpy(more, q->body->items, q->body->n_items * sizeof(*more));
		q->body->items = more;
	}
	um__migrate_item__init(item);
	item->guest = arena_str(q->a, guest);
	item->from = arena_str(q->a, from);
	item->to = arena_str(q->a, to);
	item->move = number;
	q->body->items[q->body->n_items++] = item;
	return item;
}

/* It came along with one that was named before. */
static bool is_done(const struct asked *q, const char *guest)
{
	for (size_t i = 0; i < q->body->n_items; i++)
		if (strcmp(q->body->items[i]->guest, guest) == 0)
			return true;
	return false;
}

static void refuse(struct asked *q, const char *guest, const struct err *err)
{
	add_item(q, guest, "", "", 0)->error = moves_refusal(err, q->a);
}

static void begin(struct asked *q, const struct core_guest *g)
{
	const struct core_migrate how = {.to = q->r->to,
		.rate = q->r->rate,
		.max_downtime_ms = q->r->max_downtime_ms,
		.dry_run = q->r->dry_run};
	struct core_migrate_plan plan = {0};
	struct err err = ERR_INIT;

	if (core_migrate(q->s->core, g->uid, &how, proc_wall_ms(), &plan, &q->s->out, &err) < 0) {
		refuse(q, g->name, &err);
		return;
	}
	(void)add_item(q, g->name, plan.from, plan.to, plan.number);
	for (size_t i = 0; i < plan.also_count; i++) {
		const struct core_guest *other = core_guest(q->s->core, plan.also[i].uid);

		if (!is_done(q, other->name))
			(void)add_item(q, other->name, plan.from, plan.to, plan.also[i].number);
	}
	core_migrate_plan_free(&plan);
}

static void cancel(struct asked *q, const struct core_guest *g)
{
	const struct core_move *move = g->move;
	uint64_t set = move ? move->set : 0;
	struct err err = ERR_INIT;
	bool *with = calloc(
		core_moves(q->s->core) ? HASH_COUNT(core_moves(q->s->core)) + 1 : 1, sizeof(*with));
	size_t i = 0;

	if (!with)
		abort();
	for (const struct core_move *m = core_moves(q->s->core); m; m = m->hh.next)
		with[i++] = set && m->set == set && m != move && m->guest;
	i = 0;
	if (core_move_cancel(q->s->core, g->uid, proc_wall_ms(), &q->s->out, &err) < 0) {
		refuse(q, g->name, &err);
	} else {
		/* Without one that was refused.
		 * NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
		(void)add_item(q, g->name, move->source, move->target, move->number);
		for (const struct core_move *m = core_moves(q->s->core); m; m = m->hh.next)
			if (with[i++] && !is_done(q, m->name))
				(void)add_item(q, m->name, m->source, m->target, m->number);
	}
	free(with);
}

static void one(struct asked *q, const char *name)
{
	struct err err = ERR_INIT;
	const struct core_guest *g = serve_find_guest(q->s, name, &err);

	if (!g)
		refuse(q, name, &err);
	else if (is_done(q, g->name))
		return;
	else if (q->r->cancel)
		cancel(q, g);
	else
		begin(q, g);
}

void moves_migrate(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__MigrateRequest *r = env->migrate_request;
	Um__Envelope reply = wire_env(env->id);
	Um__MigrateReply body = UM__MIGRATE_REPLY__INIT;
	struct arena a = {0};
	struct asked q = {.s = s, .r = r, .body = &body, .a = &a};

	if (!r->n_guests || r->n_guests > MIGRATE_MAX) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__INVALID,
			"%zu guests to move; at least one, at most %u", r->n_guests, MIGRATE_MAX);
		return;
	}
	for (size_t i = 0; i < r->n_guests; i++)
		one(&q, r->guests[i]);
	core_migrate_rehearsed(s->core);
	reply.body_case = UM__ENVELOPE__BODY_MIGRATE_REPLY;
	reply.migrate_reply = &body;
	commit_event(s, from, &reply, NULL, 0);
	arena_free(&a);
}
