/* Whether a lab fits beside what is there: its guests are put on hosts for a moment,
 * in a copy of its groups, and taken away again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/batch.h"
#include "scheduler/core/plan.h"
#include "scheduler/core/run.h"

struct put {
	struct core_host *host;
	struct core_group *group;
};

struct fit {
	struct core *core;
	struct core_deployment shadow; /* has the lab's groups as they will be */
	struct put *puts;
	size_t count, room;
	bool failed;
};

static void reserve(struct fit *fit, struct core_group *group, struct core_host *host, bool add)
{
	const struct core_groupspec *spec = &group->spec;
	bool exclusive = spec->rules && spec->rules->exclusive;
	int by = add ? 1 : -1;

	host->memory_reserved += add ? spec->memory : -spec->memory;
	host->disk_reserved += add ? spec->disk : -spec->disk;
	host->cpu_reserved += add ? spec->cpu : -spec->cpu;
	host->guest_count += (uint32_t)by;
	host->exclusive_count += exclusive ? (uint32_t)by : 0;
	group_count_at(group, host, by);
	index_moved(fit->core, host);
}

static void put(struct fit *fit, struct core_group *group, struct core_host *host)
{
	if (fit->count == fit->room) {
		size_t room = fit->room ? fit->room * 2 : 256;
		struct put *puts = realloc(fit->puts, room * sizeof(*puts));

		if (!puts) {
			fit->failed = true;
			return;
		}
		fit->puts = puts;
		fit->room = room;
	}
	fit->puts[fit->count++] = (struct put){.host = host, .group = group};
	reserve(fit, group, host, true);
}

static int copy_counts(struct core_counts *to, const struct core_counts *from)
{
	const struct core_count *at;
	uint32_t pos = 0;
	int rc = 0;

	while (rc == 0 && (at = counts_next(from, &pos)))
		rc = counts_add(to, at->id, (int)at->count);
	return rc;
}

/* How many more guests the plan makes of SPEC; HAVE: the group as it is, or NULL. */
static uint32_t to_create(const struct core_group *have, const struct core_groupspec *spec)
{
	uint32_t want = plan_numbers(spec), there = 0;

	if (have && have->spec.count_set == spec->count_set)
		there = have->guest_count;
	/* Those of the group that wait for a place are as good as new ones. */
	return (want > there ? want - there : 0) + (have ? have->pending_count : 0);
}

static void short_of(struct core_plan *plan, const char *group, uint32_t wanted, uint32_t missing,
	const char *why)
{
	struct core_short *s;

	if (plan->short_count == sizeof(plan->shorts) / sizeof(plan->shorts[0])) {
		plan->short_more++;
		return;
	}
	s = &plan->shorts[plan->short_count++];
	(void)str_copy(s->group, sizeof(s->group), group);
	s->wanted = wanted;
	s->missing = missing;
	(void)snprintf(s->why, sizeof(s->why), "%s", why);
}

/* Returns how many of NEW_ONES have no place. */
static uint32_t try_group(
	struct fit *fit, struct core_group *group, uint32_t new_ones, char why[CORE_REASON])
{
	struct run run;
	uint32_t left = new_ones;

	run_begin(&run, fit->core, group, NULL);
	while (left && !fit->failed) {
		struct core_host *host = run_next(&run, NULL);

		if (!host)
			break;
		put(fit, group, host);
		run_placed(&run);
		left--;
	}
	if (left)
		run_explain(&run, why);
	run_end(&run);
	return left;
}

static void summary(struct core_plan *plan, bool gang, uint32_t missing, uint32_t wanted)
{
	if (!missing || !plan->short_count)
		return;
	(void)snprintf(plan->warning, sizeof(plan->warning),
		"%u of %u new guests do not fit now%s: %.60s: %.180s", missing, wanted,
		gang ? ", so none is placed (gang)" : "", plan->shorts[0].group,
		plan->shorts[0].why);
}

static int make_shadow(
	struct fit *fit, const struct core_apply *apply, const struct core_deployment *have)
{
	struct err err = ERR_INIT;

	fit->shadow.core = fit->core;
	fit->shadow.gang = apply->gang;
	(void)str_copy(fit->shadow.name, sizeof(fit->shadow.name), apply->name);
	if (have)
		fit->shadow.networks_by_name = have->networks_by_name;
	for (size_t i = 0; i < apply->group_count; i++) {
		const struct core_group *old =
			have ? deployment_group(have, apply->groups[i].name) : NULL;
		struct core_group *group =
			group_new(fit->core, &fit->shadow, &apply->groups[i], &err);

		if (!group ||
			(old && (copy_counts(&group->on_hosts, &old->on_hosts) < 0 ||
					copy_counts(&group->on_domains, &old->on_domains) < 0)))
			return -1;
	}
	return 0;
}

/* As place.c does: those that are planned together first.  LEFT: guests of each group
 * that have no place. */
static void try_planned(struct fit *fit, struct core_group **groups, uint32_t *left, size_t n)
{
	struct batch batch;
	struct run run;

	batch_begin(&batch, fit->core, groups, left, n);
	for (size_t i = 0; i < n; i++) {
		if (!batch_next(&batch, i))
			continue;
		for (size_t k = 0, g = i; k < batch.place_count && !fit->failed; k++) {
			const struct batch_place *place = &batch.places[k];
			uint32_t penalty = 0;

			while (groups[g] != place->group)
				g++;
			run_begin(&run, fit->core, place->group, NULL);
			rules_least(&run);
			if (left[g] && !run.failed &&
				run_judge(&run, place->host, &penalty) == FITS && !penalty) {
				put(fit, place->group, place->host);
				left[g]--;
			}
			run_end(&run);
		}
	}
	batch_end(&batch);
}

/* Twice over where groups wait for others to be placed.  Returns how many of WANTED
 * guests have no place. */
static uint32_t try_all(struct fit *fit, struct core_group **groups, uint32_t *left, size_t n,
	uint32_t wanted, struct core_plan *plan)
{
	uint32_t missing = wanted, before;
	char why[CORE_REASON] = "";

	try_planned(fit, groups, left, n);
	do {
		before = missing;
		missing = 0;
		plan->short_count = plan->short_more = 0;
		for (size_t i = 0; i < n; i++) {
			if (left[i])
				left[i] = try_group(fit, groups[i], left[i], why);
			if (left[i])
				short_of(plan, groups[i]->spec.name, plan_numbers(&groups[i]->spec),
					left[i], why);
			missing += left[i];
		}
	} while (missing && missing < before);
	return missing;
}

void fit_check(struct core *core, const struct core_apply *apply, struct core_plan *plan)
{
	struct fit fit = {.core = core};
	struct core_deployment *have;
	struct core_group *group, *next, **groups;
	uint32_t *left = calloc(apply->group_count + 1, sizeof(*left));
	uint32_t wanted = 0;
	size_t n = 0;

	HASH_FIND_STR(core->deployments, apply->name, have);
	groups = calloc(apply->group_count + 1, sizeof(struct core_group *));
	if (!left || !groups || make_shadow(&fit, apply, have) < 0)
		goto out;
	DL_FOREACH (fit.shadow.groups, group)
		groups[n++] = group;
	batch_sort(groups, n);
	for (size_t i = 0; i < n; i++) {
		left[i] = to_create(have ? deployment_group(have, groups[i]->spec.name) : NULL,
			&groups[i]->spec);
		wanted += left[i];
	}
	summary(plan, apply->gang, try_all(&fit, groups, left, n, wanted, plan), wanted);
out:
	while (fit.count) {
		struct put *p = &fit.puts[--fit.count];

		reserve(&fit, p->group, p->host, false);
	}
	DL_FOREACH_SAFE (fit.shadow.groups, group, next)
		group_free(core, group);
	free(fit.puts);
	free(groups);
	free(left);
}

void fit_pending(const struct core_deployment *deployment, struct core_plan *plan)
{
	uint32_t wanted = 0, missing = 0;
	const struct core_group *group;

	DL_FOREACH (deployment->groups, group) {
		wanted += group->guest_count;
		missing += group->pending_count;
		if (group->pending_count)
			short_of(plan, group->spec.name, group->guest_count, group->pending_count,
				group->why);
	}
	summary(plan, deployment->gang, missing, wanted);
}
