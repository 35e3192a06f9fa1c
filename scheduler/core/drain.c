#include "scheduler/core/drain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/move_int.h"

/* Guests looked at in one event; the others follow in the next ones. */
#define TRIES 32u
#define RETRY_MAX_MS 60000u
#define FAR_AWAY UINT64_MAX

#define EACH(core, host) for ((host) = (core)->draining; (host); (host) = (host)->drain->next)

static uint64_t pause_ms(uint32_t passes)
{
	uint64_t ms = DRAIN_RETRY_MS;

	for (; passes > 1 && ms < RETRY_MAX_MS; passes--)
		ms *= 2;
	return ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
}

static void begin_pass(
	struct core *core, struct core_drain *d, struct core_host *host, uint64_t now)
{
	d->at = host->guests;
	d->looked_at = now;
	d->failed = false;
	d->stuck = 0;
	d->retry_at = 0;
	core->drain_due = true;
}

static void list_add(struct core *core, struct core_host *host)
{
	host->drain->prev = NULL;
	host->drain->next = core->draining;
	if (core->draining)
		core->draining->drain->prev = host;
	core->draining = host;
}

void drain_forget(struct core *core, struct core_host *host)
{
	struct core_drain *d = host->drain;

	if (!d)
		return;
	if (d->next)
		d->next->drain->prev = d->prev;
	if (d->prev)
		d->prev->drain->next = d->next;
	else
		core->draining = d->next;
	host->drain = NULL;
	free(d);
}

/* ---------------------------------------------------------------- moves */

static struct core_drain *of_move(struct core *core, const struct core_move *m)
{
	struct core_host *source = m->drain ? host_get(core, m->source) : NULL;

	return source ? source->drain : NULL;
}

void drain_moving(struct core *core, struct core_move *m)
{
	struct core_drain *d = of_move(core, m);

	m->counts = d != NULL;
	if (d)
		d->moving++;
}

void drain_moved(struct core *core, struct core_move *m, bool away)
{
	struct core_drain *d = of_move(core, m);

	/* One of an earlier drain of the host counts for nothing. */
	if (!m->counts || !d)
		return;
	m->counts = false;
	d->moving--;
	core->drain_due = true;
	if (away) {
		d->passes = 0;
		return;
	}
	d->stuck++;
	d->failed = true;
	(void)snprintf(d->reason, sizeof(d->reason), "%s: %s", m->name, m->reason);
}

void drain_left(struct core *core, struct core_guest *guest)
{
	struct core_drain *d = guest->host->drain;

	if (!d)
		return;
	if (d->at == guest)
		d->at = guest->host_next;
	core->drain_due = true;
}

/* Of the rate, for one of so many. */
static uint64_t share_of(const struct core_drain *d, uint32_t many)
{
	uint64_t share = many ? d->rate / many : d->rate;

	return d->rate && !share ? 1 : share;
}

/* What is under way, in two ways: those that are being copied or start, of which there are
 * never more than asked for; and those that send, which share the rate. */
static void count_moves(
	const struct core *core, const struct core_host *host, uint32_t *busy, uint32_t *sending)
{
	*busy = *sending = 0;
	for (const struct core_move *m = core->moves; m; m = m->hh.next) {
		if (!m->counts || strcmp(m->source, host->name) != 0)
			continue;
		*busy += m->phase >= CORE_MOVE_COPY && m->phase <= CORE_MOVE_START;
		*sending += m->phase >= CORE_MOVE_COPY && m->phase <= CORE_MOVE_LAST;
	}
}

/* Guests of a set are held for at their target all at once, and take their turns. */
static void take_turns(struct core *core, const struct core_host *host, struct core_out *out)
{
	const struct core_drain *d = host->drain;
	uint32_t busy, sending;

	if (!d->moving)
		return;
	count_moves(core, host, &busy, &sending);
	for (struct core_move *m = core->moves; m && busy < d->parallel; m = m->hh.next) {
		if (!m->counts || !m->ready || strcmp(m->source, host->name) != 0)
			continue;
		move_copy(m, out);
		busy++;
		sending++;
	}
	for (struct core_move *m = core->moves; m; m = m->hh.next)
		if (m->counts && m->phase >= CORE_MOVE_COPY && m->phase <= CORE_MOVE_LAST &&
			strcmp(m->source, host->name) == 0)
			move_set_rate(m, share_of(d, sending), out);
}

/* ---------------------------------------------------------------- steps */

static void try_one(struct core *core, struct core_drain *d, struct core_guest *guest, uint64_t now,
	struct core_out *out)
{
	struct core_migrate how = {.to = "", .max_downtime_ms = d->max_downtime_ms, .drain = true};
	struct core_migrate_plan plan;
	struct err err = ERR_INIT;

	/* It leaves by itself, or moves by a user's wish. */
	if (guest->deleting || guest->evicted || guest->move)
		return;
	how.rate = share_of(d, d->parallel);
	if (core_migrate(core, guest->uid, &how, now, &plan, out, &err) == 0) {
		core_migrate_plan_free(&plan);
		return;
	}
	d->stuck++;
	(void)snprintf(d->reason, sizeof(d->reason), "%s", err_msg(&err));
	if (!d->passes)
		out_log(out, "guest", guest->name, "CannotMove", true, guest->host->name, "%s",
			d->reason);
}

static bool ends(struct core_host *host, uint64_t now, struct core_out *out)
{
	struct core_drain *d = host->drain;

	if (host->guest_count || host->held_count) {
		/* Somebody came nevertheless. */
		d->ended_at = 0;
		return false;
	}
	if (d->ended_at)
		return true;
	d->ended_at = now;
	d->stuck = 0;
	d->reason[0] = '\0';
	d->retry_at = 0;
	out_dirty(out, CORE_KIND_HOST, host->name);
	out_log(out, "host", host->name, "Drained", false, host->name,
		"nothing of a guest is left there");
	return true;
}

static void step(struct core *core, struct core_host *host, uint64_t now, struct core_out *out)
{
	struct core_drain *d = host->drain;
	uint32_t moving = d->moving, stuck = d->stuck;

	if (ends(host, now, out) || host->state == CORE_HOST_LOST ||
		host->state == CORE_HOST_JOINING)
		return;
	for (uint32_t tries = 0; d->at && d->moving < d->parallel && tries < TRIES; tries++) {
		struct core_guest *guest = d->at;

		d->at = guest->host_next;
		try_one(core, d, guest, now, out);
	}
	take_turns(core, host, out);
	if (d->moving != moving || d->stuck != stuck)
		out_dirty(out, CORE_KIND_HOST, host->name); /* for those who watch */
	/* The clock may have been set back. */
	if (!d->at && !d->moving && (!d->retry_at || d->retry_at > now + RETRY_MAX_MS))
		d->retry_at = now + pause_ms(++d->passes);
}

void drain_step(struct core *core, uint64_t now, struct core_out *out)
{
	struct core_host *host;

	if (!core->drain_due)
		return;
	core->drain_due = false;
	EACH(core, host)
	step(core, host, now, out);
}

void drain_room(struct core *core, uint64_t now)
{
	struct core_host *host;

	EACH(core, host)
	{
		struct core_drain *d = host->drain;

		/* What failed frees the room it had: not a reason to try it at once. */
		if (d->ended_at || !d->retry_at || d->failed)
			continue;
		if (now < d->looked_at) /* the clock was set back */
			d->looked_at = 0;
		if (now >= d->looked_at + DRAIN_RETRY_MS)
			begin_pass(core, d, host, now);
		else if (d->retry_at > d->looked_at + DRAIN_RETRY_MS)
			d->retry_at = d->looked_at + DRAIN_RETRY_MS;
	}
}

uint64_t drain_tick(struct core *core, uint64_t now, struct core_out *out)
{
	uint64_t next = FAR_AWAY;
	struct core_host *host;

	EACH(core, host)
	{
		struct core_drain *d = host->drain;

		if (d->ended_at)
			continue;
		if (d->retry_at && d->retry_at <= now)
			begin_pass(core, d, host, now);
		if (d->at && d->moving < d->parallel)
			core->drain_due = true;
	}
	drain_step(core, now, out);
	EACH(core, host)
	{
		struct core_drain *d = host->drain;
		uint64_t wait = d->retry_at > now ? d->retry_at - now : FAR_AWAY;

		if (d->ended_at || host->state == CORE_HOST_LOST ||
			host->state == CORE_HOST_JOINING)
			continue;
		if (d->at && d->moving < d->parallel)
			wait = 1; /* too many for one event */
		next = wait < next ? wait : next;
	}
	return next;
}

/* ---------------------------------------------------------------- wishes */

int core_drain(struct core *core, const char *name, uint32_t parallel, uint64_t rate,
	uint32_t max_downtime_ms, uint64_t now, struct core_out *out, struct err *err)
{
	struct core_host *host = host_get(core, name);
	struct core_drain *d;
	int rc;

	if (!host)
		return err_set(err, -ENOENT, "no host '%s'", name);
	if (parallel > CORE_DRAIN_PARALLEL_MAX)
		return err_set(err, -EINVAL, "%u moves at once; at most %u", parallel,
			CORE_DRAIN_PARALLEL_MAX);
	d = host->drain;
	if (!d) {
		d = calloc(1, sizeof(*d));
		if (!d)
			return err_set(err, -ENOMEM, "memory is short");
	}
	if (!host->cordoned) {
		host->cordoned = true;
		rc = index_put(core, host, err);
		if (rc < 0) {
			if (!host->drain)
				free(d);
			/* Else it is the host's. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
			return rc;
		}
	}
	d->parallel = parallel ? parallel : CORE_DRAIN_PARALLEL;
	d->rate = rate;
	d->max_downtime_ms = max_downtime_ms;
	d->passes = 0;
	d->ended_at = 0;
	if (!host->drain) {
		host->drain = d;
		list_add(core, host);
		d->started_at = now;
		d->total = host->guest_count;
		out_log(out, "host", name, "Draining", false, name,
			"guests that are to leave it: %u", host->guest_count);
	}
	move_refuse_into(core, host, now, out);
	begin_pass(core, d, host, now);
	out_dirty(out, CORE_KIND_HOST, host->name);
	place_pending(core, now, out);
	return 0;
}

int core_drain_cancel(
	struct core *core, const char *name, uint64_t now, struct core_out *out, struct err *err)
{
	struct core_host *host = host_get(core, name);

	if (!host)
		return err_set(err, -ENOENT, "no host '%s'", name);
	if (!host->drain)
		return err_set(err, -ENOENT, "host %s is not being emptied", name);
	out_log(out, "host", name, "DrainCancelled", false, name, "guests that stay there: %u",
		host->guest_count);
	/* Those that go on all the same belong to no later drain of the host. */
	for (struct core_move *m = core->moves; m; m = m->hh.next)
		if (strcmp(m->source, host->name) == 0)
			m->counts = false;
	drain_forget(core, host);
	move_cancel_drain(core, host, now, out);
	out_dirty(out, CORE_KIND_HOST, host->name);
	place_pending(core, now, out);
	return 0;
}

/* ---------------------------------------------------------------- loading */

int core_load_drain(
	struct core *core, const char *name, const struct core_drain *drain, struct err *err)
{
	struct core_host *host = host_get(core, name);
	struct core_drain *d;

	if (!host || host->drain)
		return err_set(err, -EPROTO, "host %s is stored twice, or not", name);
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(err, -ENOMEM, "memory is short");
	d->parallel = drain->parallel && drain->parallel <= CORE_DRAIN_PARALLEL_MAX
			      ? drain->parallel
			      : CORE_DRAIN_PARALLEL;
	d->rate = drain->rate;
	d->max_downtime_ms = drain->max_downtime_ms;
	d->started_at = drain->started_at;
	d->ended_at = drain->ended_at;
	d->total = drain->total;
	host->drain = d;
	list_add(core, host);
	return 0;
}

void drain_loaded(struct core *core)
{
	struct core_host *host;

	EACH(core, host)
	begin_pass(core, host->drain, host, 0);
}
