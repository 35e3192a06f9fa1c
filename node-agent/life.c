#include "node-agent/life.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/crash.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/units.h"
#include "node-agent/agent.h"
#include "node-agent/blobs.h"
#include "node-agent/fence.h"
#include "node-agent/hosts.h"
#include "node-agent/moves.h"
#include "node-agent/report.h"
#include "node-agent/relay.h"

#define TROUBLE_MS 1000
#define TROUBLE_MAX_MS 30000

static const char *name_of(const struct guest *g)
{
	return g->assign ? g->assign->name : "";
}

#define GUEST_FIELDS(g) LOG_STR("guest", name_of(g)), LOG_U64("epoch", guest_epoch(g))

/* ---------------------------------------------------------------- what is, what is wanted */

static enum reconcile_policy policy(const struct guest *g)
{
	switch (g->assign->spec->restart) {
	case UM__RESTART_POLICY__RESTART_NEVER:
		return RECONCILE_NEVER;
	case UM__RESTART_POLICY__RESTART_ON_FAILURE:
		return RECONCILE_ON_FAILURE;
	case UM__RESTART_POLICY__RESTART_ALWAYS:
	default:
		return RECONCILE_ALWAYS;
	}
}

static struct reconcile_want want_of(const struct guest *g)
{
	struct reconcile_want want = {.gone = g->gone || !g->assign};

	if (!g->assign)
		return want;
	want.run = g->assign->run && !guest_frozen(g) && !fence_cuts(g);
	want.epoch = g->assign->epoch;
	want.generation = g->assign->generation;
	want.disk_generation = g->assign->disk_generation;
	want.restart = policy(g);
	return want;
}

static bool success(const struct guest_status *last)
{
	return last->phase == UM__PHASE__STOPPED && last->exit_status == 0;
}

static struct reconcile_have have_of(const struct guest *g)
{
	return (struct reconcile_have){
		.busy = g->busy != GUEST_IDLE,
		.saved = g->saved_revision == g->revision,
		.save_failed = g->save_failed,
		.runner = g->run != NULL,
		.stop_asked = g->stop_asked,
		.ended = g->ended,
		.noted = g->noted,
		.forgot = g->forgot,
		.run_epoch = g->run_epoch,
		.run_generation = g->run_generation,
		.run_disk_generation = g->run_disk_generation,
		.end = g->end,
		.end_epoch = g->end_epoch,
		.end_generation = g->end_generation,
		.end_by_request = g->last.by_request,
		.end_success = success(&g->last),
		.retry_at = g->retry_at,
		.artefacts = false, /* asked only when it matters: life_step() */
		.disk_generation = g->disk_generation,
		.takes = guest_takes(g),
		.moves = g->moving && !g->frozen_move,
		.disk_checked = g->disk_checked,
		.disk_open = moves_busy(g),
		.slot = g->boot == BOOT_GRANTED,
		.hold = guests_held(g->agent->guests),
	};
}

/* ---------------------------------------------------------------- troubles, ends */

void life_trouble(struct guest *g, const struct err *err)
{
	uint64_t ms = TROUBLE_MS;

	for (uint32_t i = 0; i < g->trouble_count && ms < TROUBLE_MAX_MS; i++)
		ms *= 2;
	g->trouble_count++;
	(void)snprintf(g->trouble, sizeof(g->trouble), "%s", err_msg(err));
	g->retry_at = proc_wall_ms() + (ms < TROUBLE_MAX_MS ? ms : TROUBLE_MAX_MS);
	log_warn("a guest's next step failed; tried again", GUEST_FIELDS(g), LOG_ERR(err));
	guests_boot_done(g);
	report_guest(g);
	guests_touch(g);
}

static void clear_trouble(struct guest *g)
{
	g->trouble[0] = '\0';
	g->trouble_count = 0;
}

/* The same end may be told twice: by the runner, and by what it left behind. */
static bool known_end(const struct guest *g, const struct guest_status *status)
{
	return g->end && g->end_epoch == g->run_epoch && g->end_generation == g->run_generation &&
	       g->last.started_at == status->started_at && g->last.boots == status->boots &&
	       g->last.phase == status->phase && status->started_at;
}

void life_note_end(struct guest *g, const struct guest_status *status)
{
	bool sound = g->run_since && loop_now(g->agent->loop) - g->run_since >= RECONCILE_SOUND_MS;
	bool wanted = g->assign && !g->gone && !fence_cuts(g) && g->assign->run &&
		      g->assign->epoch == g->run_epoch &&
		      g->assign->generation == g->run_generation;

	if (known_end(g, status))
		return;
	g->last = *status;
	/* What we wanted ended is no failure, whatever the runner makes of it. */
	g->last.by_request = status->by_request || !wanted;
	g->end = true;
	g->end_epoch = g->run_epoch;
	g->end_generation = g->run_generation;
	if (g->last.by_request || sound)
		g->failures = 0;
	if (!g->last.by_request) {
		g->failures++;
		g->retry_at = proc_wall_ms() + reconcile_backoff(g->failures);
	}
	log_info("guest ended", GUEST_FIELDS(g), LOG_STR("reason", status->reason),
		LOG_I64("exit_status", status->exit_status),
		LOG_BOOL("by_request", g->last.by_request));
	g->revision++; /* to be saved */
}

/* ---------------------------------------------------------------- the runner's words */

static void on_hello(void *arg)
{
	struct guest *g = arg;

	g->stop_asked = false; /* it may not have heard it */
	hosts_connected(g);
	guests_touch(g);
}

static void on_ended(struct guest *g)
{
	g->ended = true;
	guests_boot_done(g);
	life_note_end(g, &g->status);
	g->noted = g->saved_revision == g->revision;
}

static void on_status(void *arg, const Um__RunnerStatus *status)
{
	struct guest *g = arg;
	Um__Phase before = g->status.phase;

	guest_status_set(&g->status, status);
	if (g->status.phase == UM__PHASE__RUNNING && !g->run_since) {
		g->run_since = loop_now(g->agent->loop);
		guests_boot_done(g);
		clear_trouble(g);
	}
	if (before != g->status.phase)
		log_info("guest", GUEST_FIELDS(g),
			LOG_STR("phase", g->status.phase == UM__PHASE__RUNNING	  ? "running"
					 : g->status.phase == UM__PHASE__STARTING ? "starting"
					 : g->status.phase == UM__PHASE__STOPPING ? "stopping"
										  : "ended"));
	if (guest_status_ended(&g->status) && !g->ended)
		on_ended(g);
	report_guest(g);
	guests_touch(g);
}

static void on_message(void *arg, const Um__Envelope *env)
{
	if (!moves_reply(arg, env))
		relay_from_runner(arg, env);
}

static void on_lost(void *arg, const struct err *err)
{
	struct guest *g = arg;

	relay_runner_lost(g, err);
	g->stop_asked = g->forgot = false;
	g->hosts_stale = true;
	guests_touch(g);
}

static void on_gone(void *arg, const Um__RunnerStatus *last)
{
	struct guest *g = arg;

	relay_runner_lost(g, NULL);
	guest_status_set(&g->status, last);
	if (!g->ended)
		on_ended(g);
	if (!g->forgot) { /* nobody cleared away what it left */
		g->discard = true;
		g->revision++;
	}
	g->agent->driver.ops->close(g->run);
	g->run = NULL;
	g->ended = g->noted = g->forgot = g->stop_asked = false;
	g->run_since = 0;
	loop_timer_disarm(g->timer);
	report_guest(g);
	guests_touch(g);
}

static const struct driver_events events = {.on_hello = on_hello,
	.on_status = on_status,
	.on_message = on_message,
	.on_lost = on_lost,
	.on_gone = on_gone};

int life_adopt(struct guest *g, struct err *err)
{
	struct agent *agent = g->agent;
	int rc = agent->driver.ops->adopt(
		agent->driver.self, agent->loop, g->dir, &events, g, &g->run, err);

	if (rc < 0)
		return rc;
	g->status = (struct guest_status){.phase = UM__PHASE__STARTING};
	g->hosts_stale = true;
	return 0;
}

/* ---------------------------------------------------------------- steps */

static void ask_stop(struct guest *g)
{
	const struct driver_ops *ops = g->agent->driver.ops;
	/* What is removed with its disk need not write it cleanly; and where the disk is kept
	 * the guest runs elsewhere already, with the same addresses. */
	bool force = g->gone || fence_cuts(g);
	uint32_t timeout = g->assign && g->assign->spec->stop_timeout_ms
				   ? g->assign->spec->stop_timeout_ms
				   : LIFE_STOP_MS;
	struct err err = ERR_INIT;
	int rc;

	if (guest_frozen(g))
		crash_point("move-frozen");
	rc = ops->stop(g->run, timeout, force, &err);

	log_info("stopping a guest", GUEST_FIELDS(g), LOG_BOOL("force", force));
	if (rc < 0 && rc != -ENOTCONN)
		log_warn("a runner cannot be told to stop", GUEST_FIELDS(g), LOG_ERR(&err));
	/* Not connected: asked at its hello; killed when that does not come. */
	g->stop_asked = true;
	guests_boot_done(g);
	loop_timer_arm(g->timer, (force || rc < 0 ? 0 : timeout) + LIFE_KILL_MS);
	report_guest(g);
}

static void tell_forget(struct guest *g)
{
	struct err err = ERR_INIT;

	/* Not connected: it exits by itself, or asks at its hello. */
	if (g->agent->driver.ops->forget(g->run, &err) < 0)
		log_debug("a runner cannot be told to forget", GUEST_FIELDS(g), LOG_ERR(&err));
	g->forgot = true;
}

/* By policy: counts, and is on disk before it is done. */
static bool restart_saved(struct guest *g)
{
	if (!g->end)
		return true;
	if (g->end_epoch == g->assign->epoch && g->end_generation == g->assign->generation &&
		!g->last.by_request)
		g->restarts++;
	g->end = false;
	g->revision++;
	guests_touch(g);
	return false;
}

static void start(struct guest *g)
{
	struct err err = ERR_INIT;

	if (!restart_saved(g))
		return;
	/* By policy, or tried again: this start begins here. */
	if (g->times.at[UM__BOOT_STEP__BOOT_SLOT])
		memset(&g->times, 0, sizeof(g->times));
	boottimes_mark(&g->times, UM__BOOT_STEP__BOOT_SLOT);
	g->status = (struct guest_status){.phase = UM__PHASE__STARTING};
	g->run_epoch = g->assign->epoch;
	g->run_generation = g->assign->generation;
	g->run_disk_generation = g->assign->disk_generation;
	g->run_since = 0;
	g->ended = g->noted = g->forgot = g->stop_asked = false;
	if (g->assign->from_move)
		crash_point("move-start");
	if (life_start(g, &err) < 0) {
		life_trouble(g, &err);
		return;
	}
	g->runs++;
	g->booted = true;
	g->hosts_stale = false;
	clear_trouble(g);
	g->retry_at = 0;
	log_info("guest started", GUEST_FIELDS(g), LOG_U64("generation", g->run_generation),
		LOG_U64("restarts", g->restarts), LOG_U64("slot", g->slot));
	loop_timer_arm(g->timer, LIFE_BOOT_MS);
}

int life_run(struct guest *g, const Um__RunnerSpec *spec, struct err *err)
{
	struct agent *agent = g->agent;

	return agent->driver.ops->start(
		agent->driver.self, agent->loop, g->dir, spec, &events, g, &g->run, err);
}

static void wait(struct guest *g, uint64_t now)
{
	loop_timer_arm(g->timer, g->retry_at > now ? g->retry_at - now : 0);
	report_guest(g);
}

void life_step(struct guest *g)
{
	struct reconcile_want want = want_of(g);
	struct reconcile_have have = have_of(g);
	uint64_t now = proc_wall_ms();
	enum reconcile_step step = reconcile_next(&want, &have, now);

	/* A clock that was set back must not stop a guest for ever. */
	if (step == RECONCILE_WAIT && g->retry_at - now > 10 * (uint64_t)60000)
		g->retry_at = now + 1000;
	if (step == RECONCILE_FETCH && blobs_get(g)) {
		have.artefacts = true;
		boottimes_mark(&g->times, UM__BOOT_STEP__BOOT_FETCHED);
		step = reconcile_next(&want, &have, now);
	}
	if (step != RECONCILE_NOTHING)
		log_debug("step", GUEST_FIELDS(g), LOG_STR("step", reconcile_name(step)));
	if (!want.run && !want.gone)
		guests_boot_done(g);
	switch (step) {
	case RECONCILE_SAVE:
	case RECONCILE_NOTE:
		life_save(g);
		break;
	case RECONCILE_FORGET:
		tell_forget(g);
		break;
	case RECONCILE_STOP:
		ask_stop(g);
		break;
	case RECONCILE_REMOVE:
		guests_boot_done(g);
		life_remove(g);
		break;
	case RECONCILE_WAIT:
		wait(g, now);
		break;
	case RECONCILE_DISK:
		life_disk(g);
		break;
	case RECONCILE_QUEUE:
		guests_boot_wait(g);
		break;
	case RECONCILE_START:
		start(g);
		break;
	case RECONCILE_FETCH: /* blobs.c is at it */
	case RECONCILE_NOTHING:
	case RECONCILE_STEPS:
		break;
	}
	report_guest(g);
	moves_guest(g);
}

void life_wanted(struct guest *g)
{
	g->spec_revision = ++g->revision;
	g->retry_at = 0;
	g->disk_checked = false;
	clear_trouble(g);
	/* Stopped by its user: how it ended before is history, and so are its failures. */
	if (g->assign && !g->assign->run && !g->run) {
		g->end = false;
		g->failures = 0;
	}
	/* Started by its user: the end before is history too, and no save of its own. */
	if (g->assign && g->assign->run && !g->run && g->end &&
		(g->end_epoch != g->assign->epoch || g->end_generation != g->assign->generation ||
			g->last.by_request))
		g->end = false;
	report_guest(g);
	guests_touch(g);
}

static void kill_runner(struct guest *g)
{
	struct agent *agent = g->agent;
	struct err err = ERR_INIT;

	log_warn("a guest does not stop; killed", GUEST_FIELDS(g));
	if (agent->driver.ops->kill(agent->driver.self, g->dir, &err) < 0)
		log_error("a runner cannot be killed", GUEST_FIELDS(g), LOG_ERR(&err));
	loop_timer_arm(g->timer, LIFE_KILL_MS);
}

void life_on_timer(void *arg)
{
	struct guest *g = arg;

	if (g->run && g->stop_asked)
		kill_runner(g);
	else if (g->run)
		guests_boot_done(g); /* it takes long: others may boot */
	guests_touch(g);
}

/* ---------------------------------------------------------------- for a person */

static void cut(char *out, const char *text)
{
	(void)snprintf(out, GUESTS_REASON, "%s", text);
}

static Um__Phase ended_phase(struct guest *g, char *reason)
{
	bool again = reconcile_restarts(policy(g), success(&g->last));
	uint64_t now = proc_wall_ms();
	char left[UNITS_TEXT];

	if (!again) {
		cut(reason, g->last.reason);
		return success(&g->last) ? UM__PHASE__STOPPED : UM__PHASE__FAILED;
	}
	if (g->retry_at > now)
		(void)snprintf(reason, GUESTS_REASON, "%.150s; starts again within %s",
			g->last.reason, units_duration(left, g->retry_at - now + 999));
	else
		cut(reason, g->last.reason);
	return UM__PHASE__FAILED;
}

static Um__Phase starting_phase(struct guest *g, char *reason)
{
	struct reconcile_have have = have_of(g);
	bool held = true;

	if (g->trouble[0]) {
		(void)snprintf(reason, GUESTS_REASON, "%.170s; tried again", g->trouble);
		return UM__PHASE__STARTING;
	}
	if (fence_cuts(g)) {
		cut(reason, "ended with the lease; starts again when the scheduler is heard");
		return UM__PHASE__STARTING;
	}
	if (have.hold) {
		cut(reason, "waiting for the scheduler, as this host has just booted");
		return UM__PHASE__STARTING;
	}
	for (size_t i = 0; i < GUESTS_BLOBS; i++)
		held = held && (g->blob_held[i] || (i == 2 && !g->assign->modules));
	if (!held) {
		blobs_explain(g, reason, GUESTS_REASON);
		return UM__PHASE__FETCHING;
	}
	if (g->boot == BOOT_WAITS)
		cut(reason, "waiting for a boot slot");
	else
		cut(reason, g->busy == GUEST_DISK ? "making its disk" : "");
	return UM__PHASE__STARTING;
}

/* Its last end is that of the run that is wanted. */
static bool ended_so(const struct guest *g)
{
	return g->end && g->end_epoch == g->assign->epoch &&
	       g->end_generation == g->assign->generation && !g->last.by_request;
}

bool life_ran(const struct guest *g)
{
	if (!g->assign)
		return false;
	if (g->run && g->run_epoch == g->assign->epoch &&
		(g->status.started_at || g->status.phase == UM__PHASE__RUNNING))
		return true;
	return g->end_epoch == g->assign->epoch && (g->last.started_at || !g->last.boots);
}

bool life_final(const struct guest *g)
{
	if (g->gone || !g->assign || !g->assign->run)
		return false;
	if (g->run && !g->ended)
		return g->status.final && g->status.phase == UM__PHASE__RUNNING && !g->stop_asked;
	return ended_so(g) && !reconcile_restarts(policy(g), success(&g->last));
}

Um__Phase life_phase(struct guest *g, char *reason)
{
	*reason = '\0';
	if (g->gone || !g->assign) {
		cut(reason, g->trouble[0] ? g->trouble : "being removed");
		return UM__PHASE__STOPPING;
	}
	if (g->run && !g->ended) {
		if (g->save_failed) /* what is wanted of it now cannot be done */
			(void)snprintf(reason, GUESTS_REASON, "%.170s; tried again", g->trouble);
		else
			cut(reason, g->status.reason);
		return g->stop_asked				     ? UM__PHASE__STOPPING
		       : g->status.phase == UM__PHASE__PHASE_UNKNOWN ? UM__PHASE__STARTING
								     : g->status.phase;
	}
	if (!g->assign->run) {
		cut(reason, "stopped");
		return UM__PHASE__STOPPED;
	}
	if (guest_frozen(g)) {
		cut(reason, "stopped to move to another host");
		return UM__PHASE__MIGRATING;
	}
	if (ended_so(g))
		return ended_phase(g, reason);
	return starting_phase(g, reason);
}
