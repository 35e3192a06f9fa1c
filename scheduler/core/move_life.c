/* Moves: what becomes of them when something becomes of their guests and hosts; loading. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/move_int.h"

/* The guest is stopped and neither side says anything: the link, or an agent, hangs. */
#define SILENCE_MS 60000u
/* The target gets ready, and nothing of that is to be seen. */
#define PREPARE_MS 300000u

/* The target failed to start it so many times in a row: it goes back. */
#define START_TRIES 5u

/* ---------------------------------------------------------------- what becomes of guests */

void move_off(struct core *core, struct core_guest *guest, const char *why, struct core_out *out)
{
	struct core_move *m = guest->move;

	guest->from_move = 0;
	if (!m)
		return;
	if (move_before_handover(m))
		move_back(core, m, m->heard_at, out, "%s", why);
	else
		move_drop(core, m, m->heard_at, out);
}

void move_changed(struct core *core, struct core_guest *guest, bool new_disk, struct core_out *out)
{
	if (new_disk)
		guest->from_move = 0;
	if (guest->move && move_before_handover(guest->move))
		move_back(core, guest->move, guest->move->heard_at, out, "its lab was changed");
}

/* Its kernel was started there, under the newest epoch, and is not about to come up. */
static bool has_run(const struct core_guest *guest, const struct core_observed *seen)
{
	return guest->phase == CORE_RUNNING || seen->final ||
	       (seen->ran && guest->phase >= CORE_STOPPING);
}

/* Handed over, and not yet seen to have run there. */
static void starts(struct core *core, struct core_move *m, const struct core_observed *seen,
	uint64_t now, struct core_out *out)
{
	const struct core_guest *guest = m->guest;
	bool stopped = guest->phase == CORE_STOPPED;

	if (has_run(guest, seen) || (stopped && !guest->want_run && !core_move_recalled(m)))
		move_drop(core, m, now, out);
	else if (stopped && core_move_recalled(m) && !move_lost(core, m->source))
		move_give_back(core, m, out);
	else if (seen->troubles >= START_TRIES && !core_move_recalled(m) &&
		 !move_lost(core, m->source)) {
		m->recalled = true;
		move_recall(m, out, "%s: %s", m->target, guest->reason);
	}
}

void move_noted(struct core *core, struct core_guest *guest, const struct core_observed *seen,
	uint64_t now, struct core_out *out)
{
	struct core_move *m = guest->move;

	if (m && move_before_handover(m))
		return;
	/* One that is stopped takes its disk when it starts. */
	if (guest->phase == CORE_RUNNING && guest->from_move)
		guest->from_move = 0;
	if (m)
		starts(core, m, seen, now, out);
}

bool move_returns(struct core *core, struct core_guest *guest, struct core_out *out)
{
	struct core_move *m = guest->move;
	struct core_host *source;

	if (!m || m->phase != CORE_MOVE_START)
		return false;
	(void)snprintf(m->reason, sizeof(m->reason), "host %s is lost", m->target);
	source = host_get(core, m->source);
	if (move_lost(core, m->source)) {
		/* Both are away: whichever is back has a whole disk of it. */
		if (source)
			orphan_expect_on(core, guest, source, m->epoch,
				"its host was lost while it moved; it was started again from its "
				"image",
				out);
		move_abandon(core, m, out);
		return false;
	}
	/* It may have run there for a moment. */
	orphan_expect_on(core, guest, guest->host, guest->epoch,
		"its host was lost just after it had moved there; it went on where it came from",
		out);
	move_give_back(core, m, out);
	return true;
}

bool move_keeps(const struct core *core, const struct core_host *host, uint64_t uid)
{
	const struct core_guest *guest = core_guest(core, uid);
	const struct core_move *m = guest ? guest->move : NULL;

	return m && m->phase == CORE_MOVE_START && move_names(m->source, host->name);
}

void move_left(struct core *core, const struct core_host *host, uint64_t uid, uint64_t now,
	struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next)
		if (m->phase == CORE_MOVE_DROP && m->uid == uid &&
			move_names(m->source, host->name))
			move_finish(core, m, now, out);
}

void move_returned(struct core *core, struct core_guest *guest, struct core_out *out)
{
	struct core_move *m, *next;

	if (!guest->host->held_count)
		return;
	HASH_ITER (hh, core->moves, m, next)
		if (m->phase == CORE_MOVE_DROP && m->uid == guest->uid &&
			move_names(m->source, guest->host->name))
			move_finish(core, m, m->heard_at, out);
}

/* ---------------------------------------------------------------- what becomes of hosts */

void move_hello(struct core *core, const struct core_host *host,
	const struct core_observed *observed, size_t count, uint64_t now, struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next) {
		bool there = false;

		if (m->phase != CORE_MOVE_DROP || !move_names(m->source, host->name))
			continue;
		for (size_t i = 0; i < count && !there; i++)
			there = observed[i].uid == m->uid && !observed[i].gone;
		if (!there)
			move_finish(core, m, now, out);
	}
}

/* The source alone is lost, in the end of the move: the target may have it all by now, and
 * then the guest had ended and was frozen before (movesend_last()). */
static bool may_be_whole(
	const struct core *core, const struct core_move *m, const struct core_host *lost)
{
	return m->phase >= CORE_MOVE_FREEZE && move_names(m->source, lost->name) &&
	       !move_lost(core, m->target);
}

void move_host_lost(struct core *core, struct core_host *host, uint64_t now, struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next) {
		bool source = move_names(m->source, host->name),
		     target = move_names(m->target, host->name);

		if (!core_move_active(m) || (!source && !target))
			continue;
		if (move_before_handover(m) && !may_be_whole(core, m, host))
			move_back(core, m, now, out, "host %s is lost", host->name);
		else if ((m->phase == CORE_MOVE_BACK && target) ||
			 (m->phase == CORE_MOVE_DROP && source))
			move_finish(core, m, now, out);
		else if (source && core_move_recalled(m)) {
			/* There it stays: nobody else can take it. */
			m->cancelled = m->recalled = false;
			out_tell_guest(out, m->guest);
			move_dirty(m, out);
		}
	}
}

void move_host_released(struct core *core, struct core_host *host, struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next) {
		if (!move_before_handover(m) || !move_names(m->source, host->name))
			continue;
		if (m->sealed)
			move_hand_over(core, m, m->heard_at, out);
		else
			move_back(core, m, m->heard_at, out, "host %s is lost", host->name);
	}
}

void move_refuse_into(
	struct core *core, const struct core_host *host, uint64_t now, struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next) {
		if (!move_names(m->target, host->name))
			continue;
		if (move_before_handover(m)) {
			move_back(core, m, now, out, "host %s is being emptied", host->name);
		} else if (m->phase == CORE_MOVE_START && m->guest->troubles &&
			   !core_move_recalled(m) && !move_lost(core, m->source)) {
			m->recalled = true;
			move_recall(m, out, "host %s is being emptied", host->name);
		}
	}
}

void move_cancel_drain(
	struct core *core, const struct core_host *host, uint64_t now, struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next) {
		if (!m->drain || !move_before_handover(m) || !move_names(m->source, host->name))
			continue;
		/* With those that have left already it goes as well. */
		if (move_handed_over(core, m)) {
			if (m->ready)
				move_copy(m, out);
			continue;
		}
		m->cancelled = true;
		move_back(core, m, now, out, "the emptying of %s was cancelled", host->name);
	}
}

static bool is_up(const struct core *core, const char *name)
{
	const struct core_host *host = host_get(core, name);

	return host && host->state == CORE_HOST_UP;
}

void move_slept(struct core *core, uint64_t ms)
{
	for (struct core_move *m = core->moves; m; m = m->hh.next) {
		m->silent_since += ms;
		m->still_since += ms;
	}
}

static void unprepared(struct core *core, struct core_move *m, uint64_t now, struct core_out *out)
{
	char reason[CORE_REASON];

	memcpy(reason, m->reason, sizeof(reason));
	move_back(core, m, now, out,
		"%s did not get ready, and nothing new came for %u minutes%s%s", m->target,
		PREPARE_MS / 60000, *reason ? ": " : "", reason);
}

/* How long nothing was heard is told by the monotonic clock: the other one may be set. */
void move_tick(struct core *core, uint64_t now, uint64_t mono, struct core_out *out)
{
	struct core_move *m, *next;

	if (HASH_COUNT(core->moves) == core->moves_ended)
		return;
	HASH_ITER (hh, core->moves, m, next) {
		/* Nothing is heard before both are there. */
		if (m->heard || !is_up(core, m->source) || !is_up(core, m->target))
			m->silent_since = mono;
		if (m->progressed || m->ready || !is_up(core, m->target))
			m->still_since = mono;
		m->heard = m->progressed = false;
		if (!m->heard_at)
			m->heard_at = now; /* of one that was loaded */
		if ((m->phase == CORE_MOVE_FREEZE || m->phase == CORE_MOVE_LAST) &&
			mono > m->silent_since && mono - m->silent_since > SILENCE_MS)
			move_back(core, m, now, out, "nothing was heard of it for %u s",
				SILENCE_MS / 1000);
		else if (m->phase == CORE_MOVE_PREPARE && mono > m->still_since &&
			 mono - m->still_since > PREPARE_MS)
			unprepared(core, m, now, out);
	}
	move_queue(core, out);
}

/* ---------------------------------------------------------------- loading */

int core_load_move(struct core *core, const struct core_load_move *load, struct err *err)
{
	struct core_move *m = calloc(1, sizeof(*m));
	struct core_host *source, *target;

	if (!m)
		return err_set(err, -ENOMEM, "memory is short");
	m->number = load->number;
	m->uid = load->uid;
	m->epoch = load->epoch;
	m->rate = load->rate;
	m->phase = load->phase;
	m->max_downtime_ms = load->max_downtime_ms;
	m->drain = load->drain;
	m->cancelled = load->cancelled;
	m->set = load->set;
	m->started_at = load->started_at;
	m->heard = m->progressed = true;
	m->frozen_at = load->frozen_at;
	m->running_at = load->running_at;
	m->ended_at = load->ended_at;
	if (move_find(core, load->number) || load->number > core->meta.next_epoch ||
		load->phase > CORE_MOVE_CANCELLED ||
		str_copy(m->name, sizeof(m->name), load->name) < 0 ||
		str_copy(m->source, sizeof(m->source), load->source) < 0 ||
		str_copy(m->target, sizeof(m->target), load->target) < 0) {
		free(m);
		return err_set(err, -EPROTO, "move %" PRIu64 " is stored twice, or makes no sense",
			load->number);
	}
	(void)snprintf(m->reason, sizeof(m->reason), "%s", load->reason);
	HASH_ADD(hh, core->moves, number, sizeof(m->number), m);
	core->moves_ended += !core_move_active(m);
	source = host_get(core, m->source);
	target = host_get(core, m->target);
	if (!core_move_active(m))
		return 0;
	HASH_FIND(hh, core->guests, &m->uid, sizeof(m->uid), m->guest);
	if (m->phase <= CORE_MOVE_START) {
		const struct core_host *at = move_before_handover(m) ? source : target;

		if (!m->guest || m->guest->host != at || m->guest->move || !source || !target)
			return err_set(err, -EPROTO, "move %" PRIu64 " is not of guest %s on %s",
				m->number, m->name, at ? at->name : "a host that is not stored");
		m->guest->move = m;
		move_hold(core, m, move_before_handover(m) ? target : source, true);
		move_count_coming(m);
		drain_moving(core, m);
		return 0;
	}
	/* Nobody else got what is held before all agents were heard again. */
	if (m->guest && m->phase == CORE_MOVE_BACK && target)
		move_hold(core, m, target, true);
	else if (m->guest && source)
		move_hold(core, m, source, false);
	m->guest = NULL;
	return 0;
}
