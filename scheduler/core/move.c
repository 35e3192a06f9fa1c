#include "scheduler/core/move.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/move_int.h"
#include "scheduler/core/run.h"

#define ACTIVE_MAX 1024u
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
static void trim(struct core *core, struct core_out *out)
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
}

/* ---------------------------------------------------------------- beginning, cancelling */

static int choose(struct core *core, struct core_guest *guest, const char *to,
	struct core_host **host, struct err *err)
{
	char text[CORE_REASON];
	uint32_t penalty = 0;
	enum refusal refusal;
	struct run run;
	int rc = 0;

	*host = NULL;
	/* The rules see the group as it will be: without this one where it is. */
	guest_count_place(guest, -1);
	run_begin(&run, core, guest->group, guest->host);
	run.need.memory = guest->memory;
	run.need.disk = guest->disk;
	run.need.cpu = guest->cpu;
	run.bytes = guest->cow_bytes;
	if (run.failed) {
		rc = err_set(err, -ENOMEM, "memory is short");
	} else if (*to) {
		*host = host_get(core, to);
		rules_least(&run);
		refusal = run_judge(&run, *host, &penalty);
		run_describe(&run, *host, refusal, text);
		if (refusal != FITS)
			rc = err_set(err, -EHOSTUNREACH, "host %s does not take guest %s: %s%s%s%s",
				to, guest->name, refusal_text(refusal), *text ? " (" : "", text,
				*text ? ")" : "");
	} else {
		*host = run_next(&run, NULL);
		if (!*host) {
			run_explain(&run, text);
			rc = err_set(
				err, -EHOSTUNREACH, "guest %s cannot move: %s", guest->name, text);
		}
	}
	run_end(&run);
	guest_count_place(guest, 1);
	return rc;
}

static int moves_already(const struct core_move *m, struct err *err)
{
	if (core_move_recalled(m))
		return err_set(
			err, -EBUSY, "guest %s is on its way back to %s", m->name, m->source);
	if (m->phase == CORE_MOVE_START)
		return err_set(err, -EBUSY,
			"guest %s has moved to %s and does not run there yet ('clusterctl migrate "
			"%s --cancel' brings it back to %s)",
			m->name, m->target, m->name, m->source);
	return err_set(err, -EBUSY,
		"guest %s moves already, to %s ('clusterctl migrate %s --cancel' ends it)", m->name,
		m->target, m->name);
}

static int may_move(
	const struct core *core, const struct core_guest *guest, const char *to, struct err *err)
{
	if (!guest || guest->deleting)
		return err_set(err, -ENOENT, "no such guest");
	if (!guest->host)
		return err_set(err, -EBUSY, "guest %s has no host yet", guest->name);
	if (guest->evicted)
		return err_set(err, -EBUSY, "guest %s gives way to others", guest->name);
	if (guest->move)
		return moves_already(guest->move, err);
	if (guest->host->state == CORE_HOST_LOST || guest->host->state == CORE_HOST_JOINING)
		return err_set(err, -EBUSY, "guest %s: its host %s is %s", guest->name,
			guest->host->name, core_host_state_name(guest->host->state));
	if (*to && !host_get(core, to))
		return err_set(err, -ENOENT, "no host '%s'", to);
	if (move_names(guest->host->name, to))
		return err_set(err, -EBUSY, "guest %s is on host %s", guest->name, to);
	if (HASH_COUNT(core->moves) - core->moves_ended >= ACTIVE_MAX)
		return err_set(err, -EBUSY, "%u guests are moving already", ACTIVE_MAX);
	return 0;
}

static struct core_move *begin(struct core *core, struct core_guest *guest, struct core_host *host,
	const struct core_migrate *how, uint64_t now)
{
	struct core_move *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->dry = how->dry_run;
	m->number = m->dry ? UINT64_MAX - core->rehearsed++ : ++core->meta.next_epoch;
	m->uid = guest->uid;
	m->guest = guest;
	m->epoch = guest->epoch;
	(void)str_copy(m->name, sizeof(m->name), guest->name);
	(void)str_copy(m->source, sizeof(m->source), guest->host->name);
	(void)str_copy(m->target, sizeof(m->target), host->name);
	m->rate = how->rate;
	m->max_downtime_ms = how->max_downtime_ms;
	m->drain = how->drain;
	m->started_at = m->heard_at = m->progress_at = now;
	guest->move = m;
	HASH_ADD(hh, core->moves, number, sizeof(m->number), m);
	move_hold(core, m, host, true);
	move_count_coming(m);
	return m;
}

int core_migrate(struct core *core, uint64_t uid, const struct core_migrate *how, uint64_t now,
	struct core_migrate_plan *plan, struct core_out *out, struct err *err)
{
	struct core_guest *guest;
	struct core_host *host;
	struct core_move *m;
	int rc;

	HASH_FIND(hh, core->guests, &uid, sizeof(uid), guest);
	rc = may_move(core, guest, how->to, err);
	if (rc == 0)
		rc = choose(core, guest, how->to, &host, err);
	if (rc < 0)
		return rc;
	*plan = (struct core_migrate_plan){.number = 0};
	(void)str_copy(plan->from, sizeof(plan->from), guest->host->name);
	(void)str_copy(plan->to, sizeof(plan->to), host->name);
	m = begin(core, guest, host, how, now);
	if (!m)
		return err_set(err, -ENOMEM, "memory is short");
	if (m->dry)
		return 0;
	drain_moving(core, m);
	plan->number = m->number;
	out_dirty(out, CORE_KIND_META, "meta");
	move_dirty(m, out);
	move_tell(m, m->target, out);
	move_say(m, "Moving", false, out);
	trim(core, out);
	return 0;
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

/* It is wanted back, and may have run there by now. */
static int recall(struct core *core, struct core_move *m, struct core_out *out, struct err *err)
{
	if (move_lost(core, m->source))
		return err_set(err, -EBUSY, "guest %s is on host %s by now, and host %s is lost",
			m->name, m->target, m->source);
	if (move_lost(core, m->target))
		return err_set(err, -EBUSY,
			"guest %s is on host %s, which is lost, and may run there; 'clusterctl "
			"recover' gives that up",
			m->name, m->target);
	if (m->cancelled)
		return 0;
	m->cancelled = true;
	move_recall(m, out, "cancelled by a user");
	return 0;
}

int core_move_cancel(
	struct core *core, uint64_t uid, uint64_t now, struct core_out *out, struct err *err)
{
	struct core_guest *guest;
	struct core_move *m;

	HASH_FIND(hh, core->guests, &uid, sizeof(uid), guest);
	m = guest ? guest->move : NULL;
	if (!m)
		return err_set(
			err, -ENOENT, "guest %s does not move", guest ? guest->name : "(unknown)");
	if (!move_before_handover(m))
		return recall(core, m, out, err);
	m->cancelled = true;
	move_back(core, m, now, out, "cancelled by a user");
	move_queue(core, out);
	place_pending(core, now, out);
	return 0;
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
	uint64_t now, struct core_out *out)
{
	char reason[CORE_REASON];

	(void)snprintf(reason, sizeof(reason), "%s", seen->reason ? seen->reason : "");
	if (strcmp(reason, m->reason) != 0 && !m->ready) {
		memcpy(m->reason, reason, sizeof(m->reason));
		m->progress_at = now;
		move_shown(m, out);
	}
	if (m->phase == CORE_MOVE_PREPARE) {
		if (memcmp(&m->numbers, &seen->numbers, sizeof(m->numbers)) != 0) {
			m->progress_at = now;
			move_shown(m, out);
		}
		m->numbers = seen->numbers;
		m->ready = seen->state == CORE_MOVE_IS_READY;
		core->moves_due |= m->ready;
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
		target_says(core, m, seen, now, out);
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
