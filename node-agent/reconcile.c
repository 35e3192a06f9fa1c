#include "node-agent/reconcile.h"

#define BACKOFF_MS 1000
#define BACKOFF_MAX_MS 60000

static bool fits(const struct reconcile_want *want, const struct reconcile_have *have)
{
	return !want->gone && want->run && have->run_epoch == want->epoch &&
	       have->run_generation == want->generation &&
	       have->run_disk_generation == want->disk_generation;
}

/* A disk that is full is not asked anew in the same moment. */
static enum reconcile_step save(
	enum reconcile_step step, const struct reconcile_have *have, uint64_t now)
{
	return have->save_failed && now < have->retry_at ? RECONCILE_WAIT : step;
}

static enum reconcile_step with_runner(
	const struct reconcile_want *want, const struct reconcile_have *have, uint64_t now)
{
	/* What is to go ends also when that cannot be written: its end makes room. */
	bool unwritten = want->gone && have->save_failed;

	if (have->ended && !have->noted && !unwritten)
		return save(RECONCILE_NOTE, have, now);
	if (have->ended)
		return have->forgot ? RECONCILE_NOTHING : RECONCILE_FORGET;
	if (!have->saved && !unwritten)
		return save(RECONCILE_SAVE, have, now);
	if (fits(want, have) || have->stop_asked)
		return RECONCILE_NOTHING;
	return RECONCILE_STOP;
}

/* Did the run that was wanted end for good? */
static bool over(const struct reconcile_want *want, const struct reconcile_have *have)
{
	return have->end && have->end_epoch == want->epoch &&
	       have->end_generation == want->generation && !have->end_by_request &&
	       !reconcile_restarts(want->restart, have->end_success);
}

enum reconcile_step reconcile_next(
	const struct reconcile_want *want, const struct reconcile_have *have, uint64_t now)
{
	bool disk_only = have->takes || (have->moves && !have->disk_generation);

	if (have->busy)
		return RECONCILE_NOTHING;
	if (have->runner)
		return with_runner(want, have, now);
	if (!have->saved)
		return save(RECONCILE_SAVE, have, now);
	if (want->gone)
		return now < have->retry_at ? RECONCILE_WAIT : RECONCILE_REMOVE;
	if (!disk_only && (!want->run || over(want, have)))
		return RECONCILE_NOTHING;
	if (now < have->retry_at)
		return RECONCILE_WAIT;
	if (have->hold && !disk_only)
		return RECONCILE_NOTHING;
	if (!have->artefacts)
		return RECONCILE_FETCH;
	if (have->disk_open)
		return RECONCILE_NOTHING;
	if (have->takes || !have->disk_checked || have->disk_generation != want->disk_generation)
		return RECONCILE_DISK;
	return have->slot ? RECONCILE_START : RECONCILE_QUEUE;
}

bool reconcile_restarts(enum reconcile_policy policy, bool success)
{
	return policy == RECONCILE_ALWAYS || (policy == RECONCILE_ON_FAILURE && !success);
}

uint64_t reconcile_backoff(uint32_t failures)
{
	uint64_t ms = BACKOFF_MS;

	while (failures > 1 && ms < BACKOFF_MAX_MS) {
		ms *= 2;
		failures--;
	}
	return ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
}

const char *reconcile_name(enum reconcile_step step)
{
	static const char *const names[RECONCILE_STEPS] = {
		[RECONCILE_NOTHING] = "nothing",
		[RECONCILE_SAVE] = "save",
		[RECONCILE_NOTE] = "note",
		[RECONCILE_FORGET] = "forget",
		[RECONCILE_STOP] = "stop",
		[RECONCILE_REMOVE] = "remove",
		[RECONCILE_WAIT] = "wait",
		[RECONCILE_FETCH] = "fetch",
		[RECONCILE_DISK] = "disk",
		[RECONCILE_QUEUE] = "queue",
		[RECONCILE_START] = "start",
	};

	return step < RECONCILE_STEPS ? names[step] : "?";
}
