/* Gives places to guests that wait: fresh groups at once, the others in turns when
 * room becomes free. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/batch.h"
#include "scheduler/core/preempt.h"
#include "scheduler/core/run.h"

/* So many of the groups that wait are tried in one event; the others follow in the
 * next ones, the first of which core_tick() asks for at once. */
#define TRIES 64u
/* Why a group waits is told anew at each try where that is cheap. */
#define EXPLAIN_HOSTS 256u

uint32_t place_priority_id(int32_t priority)
{
	/* Priorities are within +-10^9 (spec/); ids begin at 1. */
	return (uint32_t)(priority + 1000000001);
}

/* ---------------------------------------------------------------- lists */

static void list_remove(struct core *core, struct core_group *group)
{
	if (group->list == CORE_FRESH) {
		DL_DELETE2(core->fresh, group, wait_prev, wait_next);
		core->fresh_count--;
	} else if (group->list == CORE_WAITING) {
		if (core->retry_at == group)
			core->retry_at = group->wait_next;
		DL_DELETE2(core->waiting, group, wait_prev, wait_next);
		core->waiting_count--;
	}
	group->list = CORE_NO_LIST;
}

void place_wait(struct core *core, struct core_group *group)
{
	if (!group->pending_count) {
		list_remove(core, group);
		preempt_forget(group);
		return;
	}
	if (group->list != CORE_NO_LIST)
		return;
	group->list = CORE_FRESH;
	core->fresh_count++;
	DL_APPEND2(core->fresh, group, wait_prev, wait_next);
}

void place_priority_changed(struct core *core, struct core_group *group, int32_t before)
{
	const struct core_guest *guest;
	int placed = 0;

	DL_FOREACH2(group->guests, guest, group_next)
	placed += guest->host != NULL;
	(void)counts_add(&core->priorities, place_priority_id(before), -placed);
	(void)counts_add(&core->priorities, place_priority_id(group->spec.priority), placed);
	/* It waits anew, in its new rank. */
	list_remove(core, group);
	place_wait(core, group);
}

/* Behind all of the same or a higher priority; most have the same. */
static void list_wait(struct core *core, struct core_group *group)
{
	struct core_group *at;

	list_remove(core, group);
	at = core->waiting ? core->waiting->wait_prev : NULL;
	group->list = CORE_WAITING;
	core->waiting_count++;
	while (at && at->spec.priority < group->spec.priority)
		at = at == core->waiting ? NULL : at->wait_prev;
	if (!at || !core->waiting)
		DL_PREPEND2(core->waiting, group, wait_prev, wait_next);
	else
		DL_APPEND_ELEM2(core->waiting, at, group, wait_prev, wait_next);
}

/* ---------------------------------------------------------------- one group */

/* COST is NULL for a guest that was placed as planned. */
static void because(const struct run *run, const struct core_host *host,
	const struct run_cost *cost, char text[CORE_REASON])
{
	struct index_need total = index_total(run->core, host);
	uint64_t used = total.memory ? host->memory_reserved * 100 / total.memory : 100;
	size_t n;

	if (!cost) {
		(void)snprintf(text, CORE_REASON,
			"pack: planned together with others so that few hosts are used, %" PRIu64
			" %% of its memory reserved",
			used);
		return;
	}

	if (*run->spec->host)
		n = (size_t)snprintf(text, CORE_REASON, "the lab asks for this host");
	else if (run->spec->strategy == CORE_PACK)
		n = (size_t)snprintf(text, CORE_REASON,
			"pack: of those with room the fullest, %" PRIu64
			" %% of its memory reserved",
			used);
	else
		n = (size_t)snprintf(text, CORE_REASON,
			"spread: %u of its group here, %" PRIu64 " %% of its memory reserved",
			cost->count, used);
	if (run->listed && !*run->spec->host && n < CORE_REASON)
		n += (size_t)snprintf(text + n, CORE_REASON - n,
			"; one of %zu hosts named by rules", run->list_count);
	if (cost->penalty && n < CORE_REASON)
		(void)snprintf(text + n, CORE_REASON - n, "; not all preferences could be met");
}

static void announce(struct core *core, struct core_guest *guest, struct core_out *out)
{
	guest_unpend(core, guest);
	guest->epoch = ++core->meta.next_epoch;
	guest_set_phase(guest, CORE_PLACED, "waits for its host to take it");
	out_dirty_guest(out, guest);
	netplan_placed(guest, out);
	out_tell_guest(out, guest);
	move_returned(core, guest, out);
	out_log(out, "guest", guest->name, "Placed", false, guest->host->name, "on %s: %s",
		guest->host->name, guest->placed_because);
}

static void explain(struct core *core, struct core_group *group, const char *text, bool warn,
	struct core_out *out)
{
	struct core_guest *guest;
	const char *before = group->why;

	text_set(core, &group->why, text);
	DL_FOREACH2(group->pending, guest, pending_next)
	{
		if (strcmp(guest->reason, text) == 0)
			continue;
		text_set(core, &guest->placed_because, text);
		guest_set_reason(guest, text);
		out_dirty_guest(out, guest);
	}
	if (warn && before != group->why)
		out_log(out, "guest", group->pending->name, "Unplaceable", true, "",
			"%u of its group wait: %s", group->pending_count, text);
}

static bool place_group(struct core *core, struct core_group *group, struct core_out *out)
{
	bool first = group->list == CORE_FRESH, any = false;
	char text[CORE_REASON];
	struct run run;

	run_begin(&run, core, group, NULL);
	while (group->pending) {
		struct core_guest *guest = group->pending;
		struct run_cost cost;
		struct core_host *host = run_next(&run, &cost);

		if (!host)
			break;
		because(&run, host, &cost, text);
		text_set(core, &guest->placed_because, text);
		guest_attach_host(guest, host);
		announce(core, guest, out);
		run_placed(&run);
		any = true;
	}
	if (run.failed) {
		out->failed = true;
	} else if (group->pending) {
		if (preempt_for(&run, out, text)) {
			explain(core, group, text, true, out);
		} else if (first || any || HASH_COUNT(core->hosts) <= EXPLAIN_HOSTS) {
			run_explain(&run, text);
			explain(core, group, text, true, out);
		}
		list_wait(core, group);
	}
	run_end(&run);
	return any;
}

/* ---------------------------------------------------------------- plans */

struct gang {
	struct core_guest **guests;
	size_t count;
};

static struct core_guest *without_host(struct core_guest *guest)
{
	while (guest && guest->host)
		guest = guest->pending_next;
	return guest;
}

/* Places guests as planned, where the host takes them; the others stay as they are.
 * Those of a GANG (else NULL) for now. */
static bool place_planned(
	struct core *core, const struct batch *batch, struct gang *gang, struct core_out *out)
{
	struct core_group *group = NULL;
	struct core_guest *guest = NULL, *next;
	char text[CORE_REASON];
	bool any = false;
	struct run run;

	for (size_t i = 0; i < batch->place_count; i++) {
		struct core_host *host = batch->places[i].host;
		uint32_t penalty = 0;

		if (batch->places[i].group != group) {
			if (group)
				run_end(&run);
			group = batch->places[i].group;
			run_begin(&run, core, group, NULL);
			rules_least(&run);
			out->failed |= run.failed;
			guest = without_host(group->pending);
		}
		if (!guest || run.failed || run_judge(&run, host, &penalty) != FITS || penalty)
			continue;
		because(&run, host, NULL, text);
		text_set(core, &guest->placed_because, text);
		guest_attach_host(guest, host);
		next = without_host(guest->pending_next);
		if (gang)
			gang->guests[gang->count++] = guest;
		else
			announce(core, guest, out);
		guest = next;
		any = true;
	}
	if (group)
		run_end(&run);
	return any;
}

/* ---------------------------------------------------------------- gangs */

/* Puts all pending guests of GROUP on hosts, for now. */
static bool try_group(
	struct core *core, struct core_group *group, struct gang *gang, char text[CORE_REASON])
{
	struct core_guest *guest;
	bool all = true;
	struct run run;

	run_begin(&run, core, group, NULL);
	DL_FOREACH2(group->pending, guest, pending_next)
	{
		struct run_cost cost;
		struct core_host *host;

		if (guest->host)
			continue;
		host = run_next(&run, &cost);
		if (!host) {
			char why[CORE_REASON];

			run_explain(&run, why);
			(void)snprintf(text, CORE_REASON, "gang: waits until all fit; %.30s: %.90s",
				group->spec.name, why);
			all = false;
			break;
		}
		because(&run, host, &cost, text);
		text_set(core, &guest->placed_because, text);
		guest_attach_host(guest, host);
		gang->guests[gang->count++] = guest;
		run_placed(&run);
	}
	all = all && !run.failed;
	run_end(&run);
	return all;
}

/* As many as can be, for now.  False: out of memory; BLOCKED: a group that has not all,
 * and why. */
static bool try_gang(struct core *core, struct core_deployment *deployment, struct gang *gang,
	struct core_group **blocked, char text[CORE_REASON], struct core_out *out)
{
	size_t room = HASH_CNT(hh, deployment->groups_by_name), n = 0;
	struct core_group **groups = calloc(room + 1, sizeof(struct core_group *));
	struct core_group *group;
	struct batch batch;
	bool more = true;

	if (!groups)
		return false;
	DL_FOREACH (deployment->groups, group)
		if (group->pending && n < room)
			groups[n++] = group;
	batch_sort(groups, n);
	batch_begin(&batch, core, groups, NULL, n);
	for (size_t i = 0; i < n; i++)
		if (batch_next(&batch, i))
			(void)place_planned(core, &batch, gang, out);
	batch_end(&batch);
	/* Again as long as it helps: some groups wait for others to be placed. */
	while (more) {
		size_t before = gang->count;

		*blocked = NULL;
		for (size_t i = 0; i < n; i++)
			if (!try_group(core, groups[i], gang, text))
				*blocked = groups[i];
		more = *blocked && gang->count > before;
	}
	free(groups);
	return true;
}

/* All that wait of a deployment, or none. */
static bool place_gang(struct core *core, struct core_deployment *deployment, struct core_out *out)
{
	struct gang gang = {0};
	struct core_group *group, *blocked = NULL;
	char text[CORE_REASON] = "";
	size_t pending = 0;

	DL_FOREACH (deployment->groups, group)
		pending += group->pending_count;
	gang.guests = calloc(pending + 1, sizeof(struct core_guest *));
	if (!gang.guests || !try_gang(core, deployment, &gang, &blocked, text, out)) {
		free(gang.guests);
		out->failed = true;
		return false;
	}
	for (size_t i = 0; i < gang.count; i++) {
		if (blocked) {
			guest_detach_host(gang.guests[i]);
			text_set(core, &gang.guests[i]->placed_because, "");
		} else {
			announce(core, gang.guests[i], out);
		}
	}
	if (blocked)
		DL_FOREACH (deployment->groups, group)
			if (group->pending) {
				explain(core, group, text, group == blocked, out);
				list_wait(core, group);
			}
	free(gang.guests);
	return !blocked;
}

/* ---------------------------------------------------------------- all that wait */

static bool place_one(struct core *core, struct core_group *group, struct core_out *out)
{
	struct core_deployment *deployment = group->deployment;

	if (deployment->deleting) {
		list_remove(core, group);
		return false;
	}
	return deployment->gang ? place_gang(core, deployment, out) : place_group(core, group, out);
}

static void place_fresh(struct core *core, struct core_out *out)
{
	size_t count = core->fresh_count, n = 0;
	struct core_group **groups, *group;
	bool progress = true;
	struct batch batch;

	if (!count)
		return;
	groups = calloc(count, sizeof(struct core_group *));
	if (!groups) {
		out->failed = true;
		return;
	}
	DL_FOREACH2(core->fresh, group, wait_next)
	groups[n++] = group;
	batch_sort(groups, n);
	batch_begin(&batch, core, groups, NULL, n);
	/* Again for those that wait for others to be placed first. */
	for (int pass = 0; progress && pass < 8; pass++) {
		progress = false;
		for (size_t i = 0; i < n; i++) {
			group = groups[i];
			if (!pass && !group->deployment->gang && batch_next(&batch, i))
				progress |= place_planned(core, &batch, NULL, out);
			if (!group->pending || (pass && !group->spec.rules))
				continue;
			progress |= place_one(core, group, out);
		}
	}
	batch_end(&batch);
	free(groups);
}

void place_pending(struct core *core, uint64_t now, struct core_out *out)
{
	uint64_t epoch = core->meta.next_epoch;

	if (core->place_due) {
		core->place_due = false;
		core->retry_left = core->waiting_count;
		core->retry_at = core->waiting;
		drain_room(core, now);
	}
	for (uint32_t tries = 0; tries < TRIES && core->retry_left; tries++) {
		struct core_group *group = core->retry_at;

		if (!group) {
			core->retry_left = 0;
			break;
		}
		core->retry_left--;
		core->retry_at = group->wait_next;
		(void)place_one(core, group, out);
	}
	place_fresh(core, out);
	drain_step(core, now, out);
	if (core->meta.next_epoch != epoch)
		out_dirty(out, CORE_KIND_META, "meta");
}

struct core_host *place_choose(struct core *core, struct core_group *group,
	const struct core_host *avoid, char text[CORE_REASON])
{
	struct core_host *host;
	struct run_cost cost;
	struct run run;

	run_begin(&run, core, group, avoid);
	host = run_next(&run, &cost);
	if (host)
		because(&run, host, &cost, text);
	else
		run_explain(&run, text);
	run_end(&run);
	return host;
}
