/* movecorekit: moves in the core, as the two agents would report them. */
#ifndef UMLAUT_TESTS_MOVECOREKIT_H
#define UMLAUT_TESTS_MOVECOREKIT_H

#include "tests/unit/scheduler/core/corekit.h"
#include "scheduler/core/move.h"

static inline const struct core_guest *placed_lab(struct world *w, struct lab *lab, uint32_t count)
{
	lab_init(lab, "lab", count);
	assert_int_equal(apply(w, lab, false, NULL), 0);
	for (const struct core_guest *g = core_guests(w->core); g; g = g->hh.next)
		if (g->host)
			observe(w, g, CORE_RUNNING, true);
	return core_guests(w->core);
}

static inline int migrate(
	struct world *w, const struct core_guest *g, const char *to, uint64_t *number)
{
	const struct core_migrate how = {.to = to};
	struct core_migrate_plan plan = {0};
	int rc;

	w->err = (struct err)ERR_INIT;
	rc = core_migrate(w->core, g->uid, &how, w->now, &plan, &w->out, &w->err);
	check(w);
	*number = plan.number;
	core_migrate_plan_free(&plan);
	return rc;
}

static inline void says(struct world *w, uint64_t number, const char *host,
	enum core_move_side side, enum core_move_state state, bool gone)
{
	const uint8_t digest[CORE_DIGEST] = {7};
	struct core_move_seen seen = {.number = number,
		.side = side,
		.state = state,
		.gone = gone,
		.reason = "",
		.digest = state == CORE_MOVE_IS_SEALED ? digest : NULL};

	unit_ok(core_move_observed(w->core, host, &seen, 1, false, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

static inline bool told(const struct world *w, enum core_action_kind kind, const char *host)
{
	for (size_t i = 0; i < w->out.action_count; i++)
		if (w->out.actions[i].kind == kind && strcmp(w->out.actions[i].host, host) == 0)
			return true;
	return false;
}

static inline bool removal_of(const struct world *w, const char *host, uint64_t epoch)
{
	for (size_t i = 0; i < w->out.action_count; i++)
		if (w->out.actions[i].kind == CORE_TELL_REMOVE &&
			strcmp(w->out.actions[i].host, host) == 0 &&
			w->out.actions[i].epoch == epoch)
			return true;
	return false;
}

static inline void observe_under(struct world *w, const struct core_guest *g, const char *host,
	uint64_t epoch, enum core_phase phase, bool gone)
{
	struct core_observed seen = {.uid = g->uid,
		.epoch = epoch,
		.generation = g->generation,
		.disk_generation = g->disk_generation,
		.phase = phase,
		.gone = gone,
		.reason = ""};

	unit_ok(core_observe(w->core, host, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

static inline void up_to_start(struct world *w, uint64_t number, const char *from, const char *to)
{
	says(w, number, to, CORE_MOVE_TARGET, CORE_MOVE_IS_READY, false);
	assert_int_equal(core_move(w->core, number)->phase, CORE_MOVE_COPY);
	says(w, number, from, CORE_MOVE_SOURCE, CORE_MOVE_IS_COPYING, false);
	says(w, number, from, CORE_MOVE_SOURCE, CORE_MOVE_IS_SMALL, false);
	assert_int_equal(core_move(w->core, number)->phase, CORE_MOVE_FREEZE);
	says(w, number, from, CORE_MOVE_SOURCE, CORE_MOVE_IS_FROZEN, false);
	assert_int_equal(core_move(w->core, number)->phase, CORE_MOVE_LAST);
	says(w, number, to, CORE_MOVE_TARGET, CORE_MOVE_IS_SEALED, false);
	assert_int_equal(core_move(w->core, number)->phase, CORE_MOVE_START);
}

/* Time goes by, and only those hosts are heard. */
static inline void only_heard(struct world *w, const char *a, const char *b, uint64_t ms)
{
	for (uint64_t at = 0; at < ms; at += 500) {
		w->now += 500;
		assert_int_equal(core_heartbeat(w->core, a, 1, w->now, w->now, &w->out), 0);
		if (b)
			assert_int_equal(core_heartbeat(w->core, b, 1, w->now, w->now, &w->out), 0);
		(void)core_tick(w->core, w->now, w->now, &w->out);
		check(w);
	}
}

/* The last place of an action in what was decided; or none. */
static inline size_t told_at(const struct world *w, enum core_action_kind kind, const char *host)
{
	size_t at = SIZE_MAX;

	for (size_t i = 0; i < w->out.action_count; i++)
		if (w->out.actions[i].kind == kind && strcmp(w->out.actions[i].host, host) == 0)
			at = i;
	return at;
}

static inline void observe_seen(
	struct world *w, const struct core_guest *g, struct core_observed seen)
{
	seen.uid = g->uid;
	seen.epoch = g->epoch;
	seen.generation = g->generation;
	seen.disk_generation = g->disk_generation;
	seen.reason = seen.reason ? seen.reason : "";
	unit_ok(core_observe(w->core, g->host->name, &seen, 1, w->now, &w->out, &w->err), &w->err);
	check(w);
}

#endif
