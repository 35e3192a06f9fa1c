/* The source's side of a move. */
#include <errno.h>
#include <string.h>

#include "lib/crash.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "node-agent/moves_int.h"
#include "node-agent/report.h"

#define DOWNTIME_MS 300

static struct guest *guest_of(const struct move *m)
{
	return guests_find(m->moves->agent->guests, m->uid);
}

void move_out_close(struct move *m)
{
	struct movesend *send = m->send;

	m->send = NULL;
	if (send) {
		m->moves->closing++;
		movesend_close(send);
	}
	loop_timer_close(m->tick);
	m->tick = NULL;
}

/* ---------------------------------------------------------------- numbers */

static void look(struct move *m)
{
	if (!m->send)
		return;
	movesend_status(m->send, &m->status);
	if (m->status.progress.round != m->seen_round) {
		m->last_round_bytes = m->this_round_bytes;
		m->seen_round = m->status.progress.round;
	}
	m->this_round_bytes = m->status.progress.round_bytes;
	if (m->last)
		return;
	if (m->status.state == MS_ROUND)
		moves_state(m, UM__MOVE_STATE__MOVE_COPYING);
	else if (m->status.state == MS_READY)
		moves_state(m, UM__MOVE_STATE__MOVE_SMALL);
}

/* Of a round nobody knows before its end how much it will be: the first one has at most
 * what the file has, a later one is taken to be as large as the one before it, and both
 * in proportion to what was not looked at yet. */
static uint64_t left(const struct move *m, uint64_t allocated)
{
	const struct moveout_progress *p = &m->status.progress;
	uint64_t whole = p->round <= 1 ? allocated : m->last_round_bytes;

	if (!p->segments || m->status.state == MS_READY || m->status.state == MS_SEALED)
		return 0;
	return (uint64_t)((double)whole * (double)(p->segments - p->looked) / (double)p->segments);
}

/* How long its last boot took from its kernel's start, which it will do once more; 0: not
 * known. */
static uint32_t boot_ms(const struct guest *g)
{
	const uint64_t *at = g ? g->status.times.at : NULL;
	uint64_t from = at ? at[UM__BOOT_STEP__BOOT_RUNNER] : 0;
	uint64_t to = at ? at[UM__BOOT_STEP__BOOT_READY] : 0;

	return from && to > from && to - from < UINT64_C(600000000) ? (uint32_t)((to - from) / 1000)
								    : 0;
}

void move_out_observe(struct move *m, Um__MoveObserved *out)
{
	const struct movesend_status *s = &m->status;
	struct guest *g = guest_of(m);
	Um__GuestObserved of;
	char reason[GUESTS_REASON];
	uint64_t allocated = 0;

	look(m);
	if (g && g->assign && s->progress.round <= 1) {
		report_observe(g, &of, reason);
		allocated = of.cow_bytes;
	}
	out->state = m->state;
	out->round = s->progress.round;
	out->bytes_done = s->progress.round_bytes;
	out->bytes_left = left(m, allocated);
	out->bytes_total = s->bytes;
	out->wire_bytes = s->wire_bytes;
	out->rate = s->rate;
	if (m->frozen_at)
		out->frozen_ms = (uint32_t)(loop_now(m->moves->agent->loop) - m->frozen_since);
	if (s->expected_ms != UINT32_MAX)
		out->expected_ms = s->expected_ms + boot_ms(g);
}

static void on_tick(void *arg)
{
	struct move *m = arg;

	loop_timer_arm(m->tick, MOVES_TICK_MS);
	moves_news(m);
	if (m->sync_id && loop_now(m->moves->agent->loop) - m->sync_at >= MOVES_SYNC_MS) {
		m->sync_id = 0;
		m->synced = true; /* as far as it went: its clean stop writes the rest */
		move_out_step(m);
	}
}

/* ---------------------------------------------------------------- the session */

static void on_ready(void *arg)
{
	struct move *m = arg;

	look(m);
	move_out_step(m);
}

static void on_sealed(void *arg, const uint8_t digest[MOVE_DIGEST])
{
	struct move *m = arg;

	look(m);
	memcpy(m->digest, digest, MOVE_DIGEST);
	moves_state(m, UM__MOVE_STATE__MOVE_SEALED);
	move_out_close(m);
}

static void on_failed(void *arg, const struct err *err)
{
	struct move *m = arg;

	look(m);
	moves_fail(m, err);
}

static void on_released(void *arg)
{
	moves_released(arg);
}

static int begin(struct move *m, struct guest *g, struct err *err)
{
	static const struct movesend_ops ops = {.on_ready = on_ready,
		.on_sealed = on_sealed,
		.on_failed = on_failed,
		.on_released = on_released};
	struct agent *agent = m->moves->agent;
	const Um__MoveSource *s = m->source;
	char cow[PATH_MAX];
	struct movesend_config config = {.cow = cow,
		.logs = g->dir,
		.move = m->number,
		.epoch = s->epoch,
		.disk_generation = g->disk_generation,
		.image_id = g->assign->image->id.data,
		.endpoint = s->target->endpoint,
		.secret_key = agent->keys.secret_key,
		.public_key = agent->keys.public_key,
		.rate = s->rate,
		.max_downtime_ms = s->max_downtime_ms ? s->max_downtime_ms : DOWNTIME_MS,
		.strict = s->max_downtime_ms != 0};
	int rc;

	if (s->target->pubkey.len != CURVE_KEY || !config.endpoint[0])
		return err_set(err, -EINVAL, "the target's agent takes no connections of others");
	config.server_key = s->target->pubkey.data;
	rc = fs_join(cow, sizeof(cow), g->dir, "cow", err);
	if (rc >= 0)
		rc = loop_timer_open(agent->loop, "move", on_tick, m, &m->tick, err);
	if (rc >= 0)
		rc = movesend_open(agent->loop, agent->zctx, &config, &ops, m, &m->send, err);
	if (rc < 0)
		return rc;
	m->holding = true;
	m->rate = s->rate;
	loop_timer_arm(m->tick, MOVES_TICK_MS);
	return 0;
}

/* ---------------------------------------------------------------- freezing */

/* What the guest has not written yet is written while it still runs: its stop, and the
 * last difference, are the shorter. */
static bool flush(struct move *m, struct guest *g)
{
	const struct driver_ops *ops = m->moves->agent->driver.ops;
	Um__GuestSync request = UM__GUEST_SYNC__INIT;
	Um__Envelope env;
	struct err err = ERR_INIT;

	if (!g->run || g->ended || g->stop_asked || g->status.phase != UM__PHASE__RUNNING ||
		!ops->up(g->run))
		return false;
	if (m->sync_id)
		return true;
	m->sync_id = ops->id(g->run);
	m->sync_at = loop_now(m->moves->agent->loop);
	env = wire_env(m->sync_id);
	env.body_case = UM__ENVELOPE__BODY_GUEST_SYNC;
	env.guest_sync = &request;
	if (ops->send(g->run, &env, &err) < 0) {
		m->sync_id = 0;
		return false;
	}
	crash_point("move-flush");
	return true;
}

bool moves_reply(struct guest *g, const Um__Envelope *env)
{
	struct move *m, *next;

	if (!g->moving || (env->body_case != UM__ENVELOPE__BODY_OK &&
				  env->body_case != UM__ENVELOPE__BODY_ERROR))
		return false;
	HASH_ITER (hh, g->agent->moves->all, m, next)
		if (m->uid == g->uid && m->sync_id && m->sync_id == env->id) {
			m->sync_id = 0;
			m->synced = true;
			move_out_step(m);
			return true;
		}
	return false;
}

/* It ended by itself before: what that came to holds at the target as well. */
static void tell_end(struct move *m, const struct guest *g)
{
	Um__RunnerStatus last = UM__RUNNER_STATUS__INIT;
	char reason[GUESTS_REASON];

	if (!g->end || g->last.by_request || g->end_epoch != g->assign->epoch)
		return;
	(void)snprintf(reason, sizeof(reason), "%s", g->last.reason);
	last.phase = g->last.phase;
	last.reason = reason;
	last.started_at = g->last.started_at;
	last.exit_status = g->last.exit_status;
	last.boots = g->last.boots;
	movesend_ended(m->send, &last, g->end_generation);
}

/* The guest goes on until the target is there and next to nothing is left: it is flushed, and
 * when all that took long, or the target went away meanwhile, there is another round first. */
static bool may_stop(struct move *m, struct guest *g)
{
	struct movesend_status status;

	movesend_status(m->send, &status);
	if (status.state != MS_READY)
		return false;
	if (!m->synced && flush(m, g))
		return false;
	m->synced = true;
	if (movesend_fresh(m->send))
		return true;
	movesend_again(m->send);
	return false;
}

/* On disk before it is stopped (reconcile.h: SAVE comes before STOP). */
static void mark(struct move *m, struct guest *g)
{
	g->frozen_move = m->number;
	g->frozen_epoch = g->assign->epoch;
	m->mark_revision = ++g->revision;
	m->frozen_at = proc_wall_ms(); /* its clean stop is part of the time away */
	m->frozen_since = loop_now(m->moves->agent->loop);
	log_info("freezing a guest", LOG_STR("guest", g->assign->name), LOG_U64("move", m->number));
	report_guest(g);
	guests_touch(g);
}

/* A disk that is full: the guest runs on as if it had never been asked, instead of waiting
 * here, unmarked and not to be started again, for room that nobody makes. */
static bool unmarked(struct move *m, struct guest *g)
{
	struct err err = ERR_INIT;

	if (!g->save_failed || !m->mark_revision || g->failed_revision < m->mark_revision ||
		g->saved_revision >= m->mark_revision)
		return false;
	(void)err_set(&err, -ENOSPC, "that it is frozen cannot be written down: %s", g->trouble);
	g->frozen_move = g->frozen_epoch = 0;
	g->revision++; /* some of it may have been written */
	m->frozen_at = 0;
	report_guest(g);
	guests_touch(g);
	moves_fail(m, &err);
	return true;
}

static void freeze(struct move *m, struct guest *g)
{
	if (g->frozen_move != m->number) {
		if (may_stop(m, g))
			mark(m, g);
		return;
	}
	if (unmarked(m, g))
		return;
	if (m->last || g->run || g->busy != GUEST_IDLE || g->saved_revision != g->revision)
		return;
	m->last = true;
	if (!m->frozen_at) {
		m->frozen_at = proc_wall_ms();
		m->frozen_since = loop_now(m->moves->agent->loop);
	}
	crash_point("move-stopped");
	moves_state(m, UM__MOVE_STATE__MOVE_FROZEN);
	tell_end(m, g);
	movesend_last(m->send, g->restarts, g->runs);
}

/* ---------------------------------------------------------------- steps */

static int check(const struct move *m, const struct guest *g, struct err *err)
{
	if (!g || !g->assign || g->gone || g->assign->epoch != m->source->epoch)
		return err_set(err, -ESTALE, "the guest is not here under epoch %llu",
			(unsigned long long)m->source->epoch);
	return 0;
}

void move_out_step(struct move *m)
{
	struct guest *g = guest_of(m);
	struct err err = ERR_INIT;

	if (m->gone)
		return;
	if (m->ended) {
		moves_gone(m);
		return;
	}
	if (m->state == UM__MOVE_STATE__MOVE_FAILED || m->state == UM__MOVE_STATE__MOVE_SEALED)
		return;
	if (check(m, g, &err) < 0) {
		moves_fail(m, &err);
		return;
	}
	g->moving = true;
	if (!m->send) {
		/* The target's agent is away: said again when it is back. */
		if (!m->source->target)
			return;
		/* Its disk is being made, also when it is stopped: life comes here again. */
		if (!g->disk_generation || g->busy == GUEST_DISK || guest_takes(g))
			return;
		if (begin(m, g, &err) < 0) {
			moves_fail(m, &err);
			return;
		}
	}
	if (m->rate != m->source->rate) {
		m->rate = m->source->rate;
		movesend_set_rate(m->send, m->rate);
	}
	if (m->source->freeze)
		freeze(m, g);
}
