#include "scheduler/core/batch.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/pack.h"
#include "scheduler/core/run.h"

/* In one event, of all groups that came with it. */
#define PLANS 8u
/* Hosts with little room that are looked at beside one for each guest. */
#define FULL_HOSTS 256u

static int by_rank(const void *a, const void *b)
{
	const struct core_groupspec *x = &(*(struct core_group *const *)a)->spec;
	const struct core_groupspec *y = &(*(struct core_group *const *)b)->spec;

	if (x->priority != y->priority)
		return x->priority > y->priority ? -1 : 1;
	if (x->strategy != y->strategy)
		return x->strategy == CORE_PACK ? -1 : 1;
	if (x->strategy == CORE_PACK && x->memory != y->memory)
		return x->memory > y->memory ? -1 : 1;
	return 0;
}

void batch_sort(struct core_group **groups, size_t n)
{
	place_sort(groups, n, by_rank);
}

/* ---------------------------------------------------------------- which groups */

static bool same_expr(const struct core_expr *a, const struct core_expr *b)
{
	if (strcmp(a->key, b->key) != 0 || a->op != b->op || a->value_count != b->value_count ||
		a->number != b->number)
		return false;
	for (uint32_t i = 0; i < a->value_count; i++)
		if (strcmp(a->values[i], b->values[i]) != 0)
			return false;
	return true;
}

/* They ask the same of labels and taints. */
static bool same_rules(const struct core_rules *a, const struct core_rules *b)
{
	a = a ? a : &rules_none;
	b = b ? b : &rules_none;
	if (a->expr_count != b->expr_count || a->toleration_count != b->toleration_count)
		return false;
	for (size_t i = 0; i < a->expr_count; i++)
		if (!same_expr(&a->exprs[i], &b->exprs[i]))
			return false;
	for (size_t i = 0; i < a->toleration_count; i++) {
		const struct core_toleration *x = &a->tolerations[i], *y = &b->tolerations[i];

		if (strcmp(x->key, y->key) != 0 || strcmp(x->value, y->value) != 0 ||
			x->any_value != y->any_value)
			return false;
	}
	return true;
}

/* Nothing ties its guests to certain hosts or to each other. */
static bool is_free(const struct core_group *group)
{
	const struct core_rules *rules = group->spec.rules;

	if (group->spec.strategy != CORE_PACK || *group->spec.host || group->spec.max_per_host ||
		group->deployment->deleting || group->deployment->aparts)
		return false;
	for (size_t i = 0; rules && i < rules->expr_count; i++)
		if (rules->exprs[i].preferred || strcmp(rules->exprs[i].key, "host") == 0)
			return false;
	return !rules || (!rules->exclusive && !rules->affinity_count && !rules->spread_count);
}

static bool goes_with(const struct core_group *first, const struct core_group *group)
{
	return is_free(group) && first->deployment->gang == group->deployment->gang &&
	       (!first->deployment->gang || first->deployment == group->deployment) &&
	       same_rules(first->spec.rules, group->spec.rules);
}

/* ---------------------------------------------------------------- one plan */

struct draft {
	struct batch *batch;
	struct core_group **groups;
	uint32_t *guests; /* by group */
	size_t group_count, items;
	struct pack_size *sizes;
	size_t size_count;
	struct core_host **hosts;
	struct pack_bin *bins;
	size_t host_count, host_room;
	uint32_t *to;
};

static uint32_t without_host(const struct core_group *group)
{
	const struct core_guest *guest;
	uint32_t n = 0;

	DL_FOREACH2(group->pending, guest, pending_next)
	n += !guest->host;
	return n;
}

/* The group AT and those that go with it; their sizes.  False: not worth a plan. */
static bool gather(struct draft *d, size_t at)
{
	struct batch *b = d->batch;
	const struct core_groupspec *first = &b->groups[at]->spec;

	for (size_t i = at; i < b->count; i++) {
		struct core_group *group = b->groups[i];
		uint32_t n;

		if (group->spec.priority != first->priority || group->spec.strategy != CORE_PACK)
			break;
		if (b->taken[i] || !goes_with(b->groups[at], group))
			continue;
		b->taken[i] = true;
		n = b->waiting ? b->waiting[i] : without_host(group);
		if (!n)
			continue;
		d->items += n;
		if (d->items > PACK_ITEMS_MAX)
			return false;
		d->guests[d->group_count] = n;
		d->groups[d->group_count++] = group;
		if (!d->size_count || d->sizes[d->size_count - 1].size != group->spec.memory)
			d->sizes[d->size_count++] = (struct pack_size){.size = group->spec.memory};
		d->sizes[d->size_count - 1].count += n;
	}
	return d->size_count > 1;
}

static void host_add(struct draft *d, struct run *run, struct core_host *host)
{
	uint32_t penalty = 0;

	if (host->looked_at == run->serial || d->host_count == d->host_room)
		return;
	host->looked_at = run->serial;
	if (run_judge_rules(run, host, &penalty) != FITS || penalty)
		return;
	d->bins[d->host_count] =
		(struct pack_bin){.room = host->free_memory, .used = host->guest_count > 0};
	d->hosts[d->host_count++] = host;
}

/* Of each class of hosts that will do: the fullest that have room for any, and for
 * each guest one that has room for the largest. */
static void hosts_of(struct draft *d)
{
	struct index_need any = {.memory = UINT64_MAX, .disk = UINT64_MAX, .cpu = UINT64_MAX};
	struct index_need all = {0};
	struct run run;

	for (size_t i = 0; i < d->group_count; i++) {
		const struct core_groupspec *s = &d->groups[i]->spec;

		any.memory = s->memory < any.memory ? s->memory : any.memory;
		any.disk = s->disk < any.disk ? s->disk : any.disk;
		any.cpu = s->cpu < any.cpu ? s->cpu : any.cpu;
	}
	all = any;
	all.memory = d->sizes[0].size;
	run_begin(&run, d->batch->core, d->groups[0], NULL);
	rules_least(&run);
	for (int pass = 0; pass < 2; pass++) {
		size_t most = pass ? d->items : d->items + FULL_HOSTS;

		for (size_t i = 0; i < run.class_count; i++) {
			const struct run_class *rc = &run.classes[i];
			const struct index_need *need = pass ? &all : &any;
			struct core_host *host = NULL;

			if (rc->refusal != FITS || rc->penalty)
				continue;
			for (size_t n = 0; n < most; n++) {
				host = index_next_pack(rc->class, need, host);
				if (!host)
					break;
				host_add(d, &run, host);
			}
		}
	}
	run_end(&run);
}

/* Guests whose host will not have CPU or disk enough. */
static size_t refused(const struct draft *d)
{
	struct index_need *left = calloc(d->host_count + 1, sizeof(*left));
	size_t n = 0, item = 0;

	if (!left)
		return SIZE_MAX;
	for (size_t h = 0; h < d->host_count; h++)
		left[h] = index_free(d->batch->core, d->hosts[h]);
	for (size_t i = 0; i < d->group_count; i++) {
		const struct core_groupspec *s = &d->groups[i]->spec;

		for (uint32_t k = d->guests[i]; k; k--) {
			uint32_t to = d->to[item++];

			if (to == PACK_NONE)
				continue;
			if (left[to].cpu < s->cpu || left[to].disk < s->disk) {
				n++;
				continue;
			}
			left[to].cpu -= s->cpu;
			left[to].disk -= s->disk;
		}
	}
	free(left);
	return n;
}

/* Each guest that is refused may need a host for itself: the plan must save more. */
static bool is_better(const struct draft *d, const struct pack_plan *plan)
{
	if (plan->cost.unplaced != plan->best_fit.unplaced)
		return refused(d) < plan->best_fit.unplaced - plan->cost.unplaced;
	return plan->cost.opened < plan->best_fit.opened &&
	       refused(d) < plan->best_fit.opened - plan->cost.opened;
}

static bool draft_plan(struct draft *d)
{
	struct batch *b = d->batch;
	struct pack_in in = {.sizes = d->sizes, .size_count = d->size_count, .steps = b->steps};
	struct pack_plan plan;
	size_t item = 0;

	d->host_room = (2 * d->items + FULL_HOSTS) * HASH_COUNT(b->core->index.classes);
	if (d->host_room > PACK_BINS_MAX)
		d->host_room = PACK_BINS_MAX;
	d->hosts = calloc(d->host_room + 1, sizeof(struct core_host *));
	d->bins = calloc(d->host_room + 1, sizeof(*d->bins));
	d->to = calloc(d->items, sizeof(*d->to));
	b->places = calloc(d->items, sizeof(*b->places));
	if (!d->hosts || !d->bins || !d->to || !b->places)
		return false;
	hosts_of(d);
	in.bins = d->bins;
	in.bin_count = d->host_count;
	if (pack_plan(&in, d->to, &plan) < 0)
		return false;
	b->steps -= plan.steps < b->steps ? plan.steps : b->steps;
	if (!is_better(d, &plan))
		return false;
	for (size_t i = 0; i < d->group_count; i++)
		for (uint32_t k = d->guests[i]; k; k--) {
			uint32_t to = d->to[item++];

			if (to != PACK_NONE)
				b->places[b->place_count++] = (struct batch_place){
					.group = d->groups[i], .host = d->hosts[to]};
		}
	return true;
}

/* ---------------------------------------------------------------- batch */

void batch_begin(struct batch *batch, struct core *core, struct core_group **groups,
	const uint32_t *waiting, size_t n)
{
	*batch = (struct batch){.core = core,
		.groups = groups,
		.waiting = waiting,
		.count = n,
		.steps = PACK_STEPS,
		.plans = PLANS};
	/* One group alone is of one size. */
	if (n > 1)
		batch->taken = calloc(n, sizeof(*batch->taken));
}

bool batch_next(struct batch *batch, size_t at)
{
	struct draft d = {.batch = batch};
	bool good = false;

	free(batch->places);
	batch->places = NULL;
	batch->place_count = 0;
	if (!batch->taken || batch->taken[at] || !batch->plans || !is_free(batch->groups[at]))
		return false;
	batch->plans--;
	d.groups = calloc(batch->count - at, sizeof(struct core_group *));
	d.guests = calloc(batch->count - at, sizeof(*d.guests));
	d.sizes = calloc(batch->count - at, sizeof(*d.sizes));
	if (d.groups && d.guests && d.sizes && gather(&d, at))
		good = draft_plan(&d);
	free(d.groups);
	free(d.guests);
	free(d.sizes);
	free(d.hosts);
	free(d.bins);
	free(d.to);
	return good;
}

void batch_end(struct batch *batch)
{
	free(batch->taken);
	free(batch->places);
}
