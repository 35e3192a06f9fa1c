#include "scheduler/core/move.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/move_int.h"

#define ENDED_MAX 64u /* that are remembered */
/* What the source's agent puts before an error of the target (node-agent/movesend.c). */
static const char of_target[] = "the target: ";

/* ---------------------------------------------------------------- reading */

const char *core_move_phase_name(enum core_move_phase phase)
{
	static const char *const names[] = {"preparing", "copying", "freezing", "last", "starting",
		"dropping", "back", "done", "failed", "cancelled"};

	return (size_t)phase < sizeof(names) / sizeof(names[0]) ? names[phase] : "unknown";
}

struct core_move *move_find(const struct core *core, uint64_t number)
{
	struct core_move *m;

	HASH_FIND(hh, core->moves, &number, sizeof(number), m);
	return m;
}

const struct core_move *core_move(const struct core *core, uint64_t number)
{
	return move_find(core, number);
}

const struct core_move *core_moves(const struct core *core)
{
	return core->moves;
}

bool core_move_active(const struct core_move *m)
{
	return m->phase < CORE_MOVE_DONE;
}

bool core_move_out_of(const struct core_move *m, const char *host)
{
	return m->phase >= CORE_MOVE_COPY && m->phase <= CORE_MOVE_START &&
	       move_names(m->source, host);
}

bool core_move_into(const struct core_move *m, const char *host)
{
	return move_before_handover(m) && move_names(m->target, host);
}

bool core_move_recalled(const struct core_move *m)
{
	return m->phase == CORE_MOVE_START && (m->cancelled || m->recalled);
}

/* ---------------------------------------------------------------- parts */

void move_dirty(const struct core_move *m, struct core_out *out)
{
	char key[CORE_NAME];

	(void)snprintf(key, sizeof(key), "%016" PRIx64, m->number);
	out_dirty(out, CORE_KIND_MOVE, key);
}

/* Its progress: for those who watch. */
void move_shown(const struct core_move *m, struct core_out *out)
{
	char key[CORE_NAME];

	(void)snprintf(key, sizeof(key), "%016" PRIx64, m->number);
	out_shown(out, CORE_KIND_MOVE, key);
}

void move_tell(const struct core_move *m, const char *host, struct core_out *out)
{
	struct core_action action = {
		.kind = CORE_TELL_MOVE, .uid = m->uid, .epoch = m->epoch, .move = m->number};

	(void)str_copy(action.host, sizeof(action.host), host);
	out_action(out, &action);
}

void move_say(const struct core_move *m, const char *reason, bool warning, struct core_out *out)
{
	out_log(out, "guest", m->name, reason, warning, m->target, "from %s to %s%s%s", m->source,
		m->target, *m->reason ? ": " : "", m->reason);
}

/* All that the guest needs, or its disk alone. */
void move_hold(struct core *core, struct core_move *m, struct core_host *host, bool all)
{
	const struct core_guest *guest = m->guest;

	m->held = host;
	m->held_disk = guest->disk;
	m->held_memory = all ? guest->memory : 0;
	m->held_cpu = all ? guest->cpu : 0;
	m->held_exclusive = all && guest->exclusive;
	host->memory_reserved += m->held_memory;
	host->cpu_reserved += m->held_cpu;
	host->disk_reserved += m->held_disk;
	host->exclusive_count += m->held_exclusive;
	host->held_count++;
	index_moved(core, host);
}

void move_count_coming(struct core_move *m)
{
	m->counted = m->guest->group;
	if (!m->counted)
		return;
	m->counted->coming++;
	group_count_at(m->counted, m->held, 1);
}

void move_uncount_coming(struct core_move *m)
{
	if (!m->counted)
		return;
	m->counted->coming--;
	group_count_at(m->counted, m->held, -1);
	m->counted = NULL;
}

void move_count_domains(struct core *core, const struct core_host *host, int by)
{
	for (const struct core_move *m = core->moves; m; m = m->hh.next)
		for (size_t i = 0; m->counted && m->held == host && i < host->domain_count; i++)
			(void)counts_add(&m->counted->on_domains, host->domains[i]->id, by);
}

void move_release(struct core *core, struct core_move *m)
{
	struct core_host *host = m->held;

	if (!host)
		return;
	m->held = NULL;
	host->memory_reserved -= m->held_memory;
	host->cpu_reserved -= m->held_cpu;
	host->disk_reserved -= m->held_disk;
	host->exclusive_count -= m->held_exclusive;
	host->held_count--;
	index_moved(core, host);
	core->place_due = true;
}

void move_resized(struct core *core, struct core_move *m)
{
	struct core_host *host = m->held;

	if (!host)
		return;
	move_release(core, m);
	move_hold(core, m, host, true);
}

void move_let_go(struct core *core, struct core_move *m)
{
	move_uncount_coming(m);
	if (!m->guest)
		return;
	m->guest->move = NULL;
	m->guest = NULL;
	drain_moved(core, m, m->phase == CORE_MOVE_DROP);
}

static void forget(struct core *core, struct core_move *m)
{
	move_let_go(core, m);
	move_release(core, m);
	if (!core_move_active(m))
		core->moves_ended--;
	HASH_DEL(core->moves, m);
	free(m);
}

void move_free_all(struct core *core)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next)
		forget(core, m);
}

/* The oldest of those that have ended make room. */
void move_trim(struct core *core, struct core_out *out)
{
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next) {
		if (core->moves_ended <= ENDED_MAX)
			return;
		if (core_move_active(m))
			continue;
		move_dirty(m, out);
		forget(core, m);
	}
}

void move_finish(struct core *core, struct core_move *m, uint64_t now, struct core_out *out)
{
	move_let_go(core, m);
	move_release(core, m);
	core->drain_due |= core->draining != NULL;
	m->phase = m->phase == CORE_MOVE_DROP ? CORE_MOVE_DONE
		   : m->cancelled	      ? CORE_MOVE_CANCELLED
					      : CORE_MOVE_FAILED;
	m->ended_at = now;
	core->moves_ended++;
	move_dirty(m, out);
	move_tell(m, m->source, out);
	move_tell(m, m->target, out);
	if (m->phase == CORE_MOVE_DONE)
		move_say(m, "Moved", false, out);
}

const struct core_move *move_handed_over(const struct core *core, const struct core_move *m)
{
	for (const struct core_move *o = core->moves; o && m->set; o = o->hh.next)
		if (o->set == m->set && o->phase >= CORE_MOVE_START && o->phase <= CORE_MOVE_DONE &&
			o->phase != CORE_MOVE_BACK)
			return o;
	return NULL;
}

/* Those that were to go with M stay with it; but when some are there by now, the others
 * follow them. */
static void back_together(
	struct core *core, struct core_move *m, uint64_t now, struct core_out *out)
{
	struct core_move *o, *next;

	if (!m->set || move_handed_over(core, m))
		return;
	HASH_ITER (hh, core->moves, o, next) {
		if (o->set != m->set || !move_before_handover(o))
			continue;
		o->set = 0;
		o->cancelled = m->cancelled;
		move_back(core, o, now, out, "it moves together with %s, which stays", m->name);
	}
}

void move_back(struct core *core, struct core_move *m, uint64_t now, struct core_out *out,
	const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(m->reason, sizeof(m->reason), fmt, ap);
	va_end(ap);
	m->phase = CORE_MOVE_BACK;
	core->moves_due = true;
	move_let_go(core, m);
	move_dirty(m, out);
	move_tell(m, m->source, out);
	move_tell(m, m->target, out);
	move_say(m, m->cancelled ? "MoveCancelled" : "MoveFailed", !m->cancelled, out);
	/* What a lost host has of it, it forgets when it is told everything anew. */
	if (move_lost(core, m->target))
		move_finish(core, m, now, out);
	back_together(core, m, now, out);
}

void core_migrate_rehearsed(struct core *core)
{
	bool due = core->place_due;
	struct core_move *m, *next;

	HASH_ITER (hh, core->moves, m, next)
		if (m->dry)
			forget(core, m);
	core->rehearsed = 0;
	core->place_due = due;
}

/* ---------------------------------------------------------------- what agents say */

static void to_phase(struct core_move *m, enum core_move_phase phase, struct core_out *out)
{
	m->phase = phase;
	move_dirty(m, out);
	move_tell(m, m->source, out);
}

void move_copy(struct core_move *m, struct core_out *out)
{
	m->ready = false;
	m->reason[0] = '\0';
	to_phase(m, CORE_MOVE_COPY, out);
}

void move_set_rate(struct core_move *m, uint64_t rate, struct core_out *out)
{
	if (m->rate == rate)
		return;
	m->rate = rate;
	move_dirty(m, out);
	move_tell(m, m->source, out);
}

static void take_digest(struct core_move *m, const struct core_move_seen *seen)
{
	if (!seen->digest)
		return;
	memcpy(m->digests[seen->side], seen->digest, CORE_DIGEST);
	m->has_digest[seen->side] = true;
}

static void source_says(
	struct core_move *m, const struct core_move_seen *seen, uint64_t now, struct core_out *out)
{
	enum core_move_state state = seen->state;

	if (m->phase > CORE_MOVE_PREPARE)
		m->numbers = seen->numbers;
	if (m->phase == CORE_MOVE_COPY && state == CORE_MOVE_IS_SMALL) {
		to_phase(m, CORE_MOVE_FREEZE, out);
		move_say(m, "Freezing", false, out);
	} else if (m->phase == CORE_MOVE_FREEZE &&
		   (state == CORE_MOVE_IS_FROZEN || state == CORE_MOVE_IS_SEALED)) {
		/* By our clock, as the time when it runs again will be. */
		m->frozen_at = seen->frozen_ms < now ? now - seen->frozen_ms : now;
		m->phase = CORE_MOVE_LAST;
		move_dirty(m, out);
	} else {
		move_shown(m, out);
	}
	if (state == CORE_MOVE_IS_SEALED)
		take_digest(m, seen);
}

static void target_says(struct core *core, struct core_move *m, const struct core_move_seen *seen,
	struct core_out *out)
{
	char reason[CORE_REASON];

	(void)snprintf(reason, sizeof(reason), "%s", seen->reason ? seen->reason : "");
	if (strcmp(reason, m->reason) != 0 && !m->ready) {
		memcpy(m->reason, reason, sizeof(m->reason));
		m->progressed = true;
		move_shown(m, out);
	}
	if (m->phase == CORE_MOVE_PREPARE) {
		if (memcmp(&m->numbers, &seen->numbers, sizeof(m->numbers)) != 0) {
			m->progressed = true;
			move_shown(m, out);
		}
		m->numbers = seen->numbers;
		m->ready = seen->state == CORE_MOVE_IS_READY;
		/* Of a drain: when it is its turn (drain.c). */
		core->drain_due |= m->ready && m->counts;
		core->moves_due |= m->ready && !m->counts;
	}
	m->sealed = seen->state == CORE_MOVE_IS_SEALED;
	if (m->sealed)
		take_digest(m, seen);
}

/* The source hears some errors from the target, and says so. */
static void failed(struct core *core, struct core_move *m, const char *host,
	const struct core_move_seen *seen, uint64_t now, struct core_out *out)
{
	const char *reason =
		seen->reason && *seen->reason ? seen->reason : "has nothing of it any more";

	if (seen->side == CORE_MOVE_SOURCE && strlen(reason) >= sizeof(of_target) &&
		memcmp(reason, of_target, sizeof(of_target) - 1) == 0) {
		reason += sizeof(of_target) - 1;
		host = m->target;
	}
	move_back(core, m, now, out, "%s: %s", host, reason);
}

static void observe(struct core *core, const char *host, const struct core_move_seen *seen,
	uint64_t now, struct core_out *out)
{
	struct core_move *m = move_find(core, seen->number);
	struct core_move unknown = {.number = seen->number};
	bool target = m && seen->side == CORE_MOVE_TARGET && move_names(m->target, host);
	bool source = m && seen->side == CORE_MOVE_SOURCE && move_names(m->source, host);

	/* An agent that knows nothing of a move cannot know its side of it. */
	if (m && seen->gone && m->phase == CORE_MOVE_BACK && move_names(m->target, host)) {
		move_finish(core, m, now, out);
		return;
	}
	if ((!target && !source) || !core_move_active(m)) {
		if (!seen->gone)
			move_tell(m ? m : &unknown, host, out);
		return;
	}
	m->heard_at = now;
	m->heard = true;
	if (m->phase == CORE_MOVE_BACK || m->phase == CORE_MOVE_DROP) {
		/* The source is told when it has nothing any more (move_finish()). */
		if (!seen->gone && (m->phase == CORE_MOVE_BACK || target))
			move_tell(m, host, out);
		return;
	}
	if (!move_before_handover(m))
		return;
	if (seen->state == CORE_MOVE_HAS_FAILED || seen->gone) {
		failed(core, m, host, seen, now, out);
		/* Nothing to wait for. */
		if (target && seen->gone)
			move_finish(core, m, now, out);
		return;
	}
	if (source)
		source_says(m, seen, now, out);
	else
		target_says(core, m, seen, out);
	/* LAST: the source said that the guest has ended, under the epoch that it had. */
	if (m->phase == CORE_MOVE_LAST && m->sealed)
		move_hand_over(core, m, now, out);
}

int core_move_observed(struct core *core, const char *host, const struct core_move_seen *seen,
	size_t count, bool hello, uint64_t now, struct core_out *out, struct err *err)
{
	struct core_move *m, *next;

	if (!host_get(core, host))
		return err_set(err, -ENOENT, "host '%s' is not known", host);
	for (size_t i = 0; i < count; i++)
		observe(core, host, &seen[i], now, out);
	HASH_ITER (hh, core->moves, m, next) {
		bool there = false;

		if (!hello)
			break;
		if (m->phase != CORE_MOVE_BACK || !move_names(m->target, host))
			continue;
		for (size_t i = 0; i < count && !there; i++)
			there = seen[i].number == m->number;
		if (!there)
			move_finish(core, m, now, out);
	}
	move_queue(core, out);
	place_pending(core, now, out);
	return 0;
}
