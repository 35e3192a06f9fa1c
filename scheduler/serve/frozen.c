#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

void frozen_health(void *arg, enum store_health health, const char *why)
{
	struct serve *s = arg;
	uint64_t now = proc_mono_ms();

	if (health == STORE_STUCK) {
		log_error("the state cannot be written: nothing is changed until it can; guests "
			  "and leases go on",
			LOG_STR("why", why));
		s->stuck = true;
		s->stuck_at = now;
		return;
	}
	if (health == STORE_LOW)
		log_warn("little space is left for the state: nothing new is taken",
			LOG_STR("why", why));
	else
		log_info("there is space for the state again");
	if (!s->stuck)
		return;
	s->stuck = false;
	log_info("the state is written again", LOG_U64("after_ms", now - s->stuck_at));
	/* Leases were given up to this moment: each host has a whole one yet. */
	core_slept(s->core, now, now);
	serve_tick_soon(s);
}

/* What takes room, and can be asked for later. */
static bool grows(const Um__Envelope *env)
{
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_APPLY_REQUEST:
		return !env->apply_request->dry_run;
	case UM__ENVELOPE__BODY_JOIN_REQUEST:
	case UM__ENVELOPE__BODY_TOKEN_REQUEST:
	case UM__ENVELOPE__BODY_ARTEFACT_ADD:
	case UM__ENVELOPE__BODY_ARTEFACT_COMMIT:
		return true;
	default:
		return false;
	}
}

/* What is recorded. */
static bool changes(const Um__Envelope *env)
{
	switch (env->body_case) {
	case UM__ENVELOPE__BODY_DELETE_REQUEST:
		return !env->delete_request->dry_run;
	case UM__ENVELOPE__BODY_MIGRATE_REQUEST:
	case UM__ENVELOPE__BODY_DRAIN_REQUEST:
	case UM__ENVELOPE__BODY_PRUNE_REQUEST:
	case UM__ENVELOPE__BODY_GUEST_ACTION:
	case UM__ENVELOPE__BODY_HOST_ACTION:
	case UM__ENVELOPE__BODY_ARTEFACT_REMOVE:
		return true;
	default:
		return grows(env);
	}
}

bool frozen_message(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const char *why;
	enum store_health health = store_health(s->store, &why);

	if (health == STORE_WELL || !(health == STORE_STUCK ? changes(env) : grows(env)))
		return false;
	serve_refuse(s, from, env->id, UM__ERROR_CODE__NO_SPACE,
		"this was not done: the scheduler has no room to record it (%s); free some, "
		"then try again",
		why);
	return true;
}
