#include "scheduler/core/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "lib/units.h"

/* So many hosts that already have guests of the group are passed over in the hope
 * of one that has none, before the best of them is taken. */
#define LOOKS 256u
#define DISK_MARGIN (64u << 20)

static bool better(const struct run_candidate *a, const struct run_candidate *b)
{
	if (a->cost.penalty != b->cost.penalty)
		return a->cost.penalty < b->cost.penalty;
	if (a->cost.count != b->cost.count)
		return a->cost.count < b->cost.count;
	if (a->cost.key != b->cost.key)
		return a->cost.key < b->cost.key;
	return a->host->order < b->host->order;
}

static uint64_t key_of(const struct run *run, const struct core_host *host)
{
	return run->spec->strategy == CORE_PACK ? host->by_free.key : ~host->by_share.key;
}

static uint32_t count_of(const struct run *run, const struct core_host *host)
{
	return run->by_count ? counts_of(&run->group->on_hosts, host->order) : 0;
}

/* Free on the disk of HOST for what comes, without that which is on its way there. */
static uint64_t disk_left(const struct run *run, const struct core_host *host)
{
	uint64_t coming = 0;

	for (const struct core_move *m = run->core->moves; m && host->held_count; m = m->hh.next)
		if (m->held == host && m->guest && m->guest->host != host &&
			m->phase <= CORE_MOVE_LAST)
			coming += m->guest->cow_bytes;
	return host->disk_free > coming ? host->disk_free - coming : 0;
}

/* Logs and records grow as well. */
static uint64_t disk_needed(const struct run *run)
{
	return run->bytes + run->bytes / 16 + DISK_MARGIN;
}

/* A host that does not say how much is free of its disk is believed to have it. */
static bool too_full(const struct run *run, const struct core_host *host)
{
	return run->bytes && host->disk_free && disk_left(run, host) < disk_needed(run);
}

enum refusal run_room(const struct run *run, const struct core_host *host)
{
	/* Not in the index: its room is not kept up there. */
	struct index_need left = index_free(run->core, host);

	return left.memory < run->need.memory ? NO_MEMORY
	       : left.cpu < run->need.cpu     ? NO_CPU
	       : left.disk < run->need.disk   ? NO_DISK
	       : too_full(run, host)	      ? DISK_FULL
					      : FITS;
}

void run_describe(const struct run *run, const struct core_host *host, enum refusal refusal,
	char text[CORE_REASON])
{
	struct index_need left = index_free(run->core, host);
	char a[UNITS_TEXT], b[UNITS_TEXT];

	text[0] = 0;
	if (refusal == NO_MEMORY)
		(void)snprintf(text, CORE_REASON, "needs %s, %s free",
			units_size(a, run->need.memory), units_size(b, left.memory));
	else if (refusal == NO_DISK)
		(void)snprintf(text, CORE_REASON, "needs %s, %s free",
			units_size(a, run->need.disk), units_size(b, left.disk));
	else if (refusal == NO_CPU)
		(void)snprintf(text, CORE_REASON, "needs %s CPUs, %s free",
			units_cpus(a, (uint32_t)run->need.cpu), units_cpus(b, (uint32_t)left.cpu));
	else if (refusal == DISK_FULL)
		(void)snprintf(text, CORE_REASON, "needs %s, %s free",
			units_size(a, disk_needed(run)), units_size(b, disk_left(run, host)));
}

/* ---------------------------------------------------------------- heap */

static void swap(struct run_candidate *a, struct run_candidate *b)
{
	struct run_candidate t = *a;

	*a = *b;
	*b = t;
}

static void sink(struct run_class *rc, size_t at)
{
	for (;;) {
		size_t best = at, left = 2 * at + 1;

		for (size_t c = left; c < rc->count && c <= left + 1; c++)
			if (better(&rc->heap[c], &rc->heap[best]))
				best = c;
		if (best == at)
			return;
		swap(&rc->heap[at], &rc->heap[best]);
		at = best;
	}
}

static bool push(struct run_class *rc, const struct run_candidate *candidate)
{
	size_t at = rc->count;

	if (rc->count == rc->room) {
		size_t bigger = rc->room ? rc->room * 2 : 16;
		struct run_candidate *heap = realloc(rc->heap, bigger * sizeof(*heap));

		if (!heap)
			return false;
		rc->heap = heap;
		rc->room = bigger;
	}
	rc->heap[rc->count++] = *candidate;
	while (at && better(&rc->heap[at], &rc->heap[(at - 1) / 2])) {
		swap(&rc->heap[at], &rc->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	return true;
}

static void pop(struct run_class *rc)
{
	rc->heap[0] = rc->heap[--rc->count];
	sink(rc, 0);
}

/* ---------------------------------------------------------------- candidates */

static struct core_host *after(
	const struct run *run, const struct run_class *rc, const struct core_host *host)
{
	return run->spec->strategy == CORE_PACK ? index_next_pack(rc->class, &run->need, host)
						: index_next_spread(rc->class, &run->need, host);
}

/* The next of the index becomes a candidate, if the host itself has nothing against
 * it.  True when it did. */
static bool look(struct run *run, struct run_class *rc)
{
	struct core_host *host = rc->next;
	struct run_candidate c = {.host = host};

	rc->next = after(run, rc, host);
	/* One that was a candidate and got a guest stands further on now. */
	if (host->looked_at == run->serial)
		return false;
	host->looked_at = run->serial;
	if (rules_host(run, host, &c.cost.penalty) != FITS || too_full(run, host))
		return false;
	c.cost.count = count_of(run, host);
	c.cost.key = key_of(run, host);
	if (!push(rc, &c))
		run->failed = true;
	return true;
}

/* True when the next of the index cannot be better than the best candidate. */
static bool settled(const struct run *run, const struct run_class *rc)
{
	struct run_candidate hope;

	if (!rc->next)
		return true;
	if (!rc->count)
		return false;
	hope = (struct run_candidate){.host = rc->next, .cost = {.key = key_of(run, rc->next)}};
	return better(&rc->heap[0], &hope);
}

static struct run_candidate *best_of(struct run *run, struct run_class *rc)
{
	for (uint32_t looks = 0; !settled(run, rc) && !run->failed;)
		if (look(run, rc) && ++looks >= LOOKS)
			break;
	return rc->count ? &rc->heap[0] : NULL;
}

static bool skewed(const struct run *run, uint32_t count)
{
	for (size_t i = 0; i < run->rules->spread_count; i++) {
		const struct core_spread *s = &run->rules->spreads[i];

		if (strcmp(s->over, "host") == 0 && !s->preferred &&
			count + 1 - run->least[i] > s->max_skew)
			return true;
	}
	return false;
}

static struct core_host *next_listed(struct run *run, struct run_cost *cost)
{
	struct run_candidate best = {0};

	for (size_t i = 0; i < run->list_count; i++) {
		struct run_candidate c = {.host = run->list[i]};

		if (run_judge(run, c.host, &c.cost.penalty) != FITS)
			continue;
		c.cost.count = count_of(run, c.host);
		c.cost.key = key_of(run, c.host);
		if (!best.host || better(&c, &best))
			best = c;
	}
	run->taken = NULL;
	if (cost)
		*cost = best.cost;
	return best.host;
}

struct core_host *run_next(struct run *run, struct run_cost *cost)
{
	struct run_candidate best = {0};

	rules_least(run);
	if (run->listed)
		return next_listed(run, cost);
	for (size_t i = 0; i < run->class_count; i++) {
		struct run_class *rc = &run->classes[i];
		uint32_t penalty = rc->penalty;
		struct run_candidate *c, mine;

		if (rc->refusal != FITS ||
			rules_domain(run, rc->class->by_free->host, &penalty) != FITS ||
			(best.host && best.cost.penalty < penalty))
			continue;
		c = best_of(run, rc);
		if (!c || skewed(run, c->cost.count))
			continue;
		mine = *c;
		mine.cost.penalty += penalty;
		if (!best.host || better(&mine, &best)) {
			best = mine;
			run->taken = rc;
		}
	}
	if (cost)
		*cost = best.cost;
	return run->failed ? NULL : best.host;
}

void run_placed(struct run *run)
{
	struct run_class *rc = run->taken;
	struct run_candidate *c;

	if (!rc)
		return;
	c = &rc->heap[0];
	c->cost.penalty = 0;
	if (rules_host(run, c->host, &c->cost.penalty) != FITS || run_room(run, c->host) != FITS) {
		pop(rc);
		return;
	}
	c->cost.count = count_of(run, c->host);
	c->cost.key = key_of(run, c->host);
	sink(rc, 0);
}

/* ---------------------------------------------------------------- begin, end */

static void list_add(struct run *run, struct core_host *host, size_t room_for)
{
	if (!run->list)
		run->list = calloc(room_for + 1, sizeof(struct core_host *));
	if (!run->list)
		run->failed = true;
	else if (run->list_count < room_for)
		run->list[run->list_count++] = host;
}

/* Hosts that are named, by one rule or another: only they come into question. */
static void make_list(struct run *run)
{
	const struct core_counts *on = NULL;
	const struct core_count *at;
	uint32_t pos = 0;

	if (*run->spec->host) {
		struct core_host *host = host_get(run->core, run->spec->host);

		run->listed = true;
		if (host)
			list_add(run, host, 1);
		return;
	}
	for (size_t i = 0; i < run->rules->expr_count; i++) {
		const struct core_expr *e = &run->rules->exprs[i];

		if (e->op != CORE_IN || e->preferred || strcmp(e->key, "host") != 0)
			continue;
		run->listed = true;
		for (uint32_t v = 0; v < e->value_count; v++) {
			struct core_host *host = host_get(run->core, e->values[v]);

			if (host)
				list_add(run, host, e->value_count);
		}
		return;
	}
	for (size_t i = 0; i < run->rules->affinity_count; i++) {
		const struct core_affinity *a = &run->rules->affinities[i];
		const struct core_group *target = rules_target(run, a);

		if (a->apart || a->preferred || (*a->over && strcmp(a->over, "host") != 0) ||
			rules_first(run, a))
			continue;
		run->listed = true;
		if (target && (!on || target->on_hosts.used < on->used))
			on = &target->on_hosts;
	}
	while (on && (at = counts_next(on, &pos)))
		list_add(run, run->core->by_order[at->id], on->used);
}

void run_begin(
	struct run *run, struct core *core, struct core_group *group, const struct core_host *avoid)
{
	size_t classes = HASH_COUNT(core->index.classes);

	*run = (struct run){
		.core = core,
		.group = group,
		.spec = &group->spec,
		.rules = group->spec.rules ? group->spec.rules : &rules_none,
		.avoid = avoid,
		.need = {.memory = group->spec.memory,
			.disk = group->spec.disk,
			.cpu = group->spec.cpu},
		.by_count = group->spec.strategy == CORE_SPREAD,
		.serial = ++core->run_serial,
	};
	for (size_t i = 0; i < run->rules->spread_count; i++)
		if (strcmp(run->rules->spreads[i].over, "host") == 0)
			run->by_count = true;
	run->classes = calloc(classes + 1, sizeof(*run->classes));
	if (!run->classes) {
		run->failed = true;
		return;
	}
	if (rules_foes(run) < 0)
		run->failed = true;
	for (struct index_class *c = core->index.classes; c; c = c->hh.next) {
		struct run_class *rc = &run->classes[run->class_count++];

		rc->class = c;
		rc->refusal = rules_class(run, c->by_free->host, &rc->penalty);
	}
	make_list(run);
	for (size_t i = 0; !run->listed && i < run->class_count; i++)
		if (run->classes[i].refusal == FITS)
			run->classes[i].next = after(run, &run->classes[i], NULL);
}

void run_end(struct run *run)
{
	for (size_t i = 0; i < run->class_count; i++)
		free(run->classes[i].heap);
	free(run->classes);
	free(run->list);
	free(run->foes);
}

/* ---------------------------------------------------------------- judging */

enum refusal run_judge_rules(struct run *run, const struct core_host *host, uint32_t *penalty)
{
	enum refusal refusal;

	if (host->state != CORE_HOST_UP)
		return NOT_UP;
	if (host->cordoned)
		return IS_CORDONED;
	if (host->avoid_until)
		return IS_AVOIDED;
	refusal = rules_class(run, host, penalty);
	if (refusal == FITS)
		refusal = rules_domain(run, host, penalty);
	if (refusal == FITS)
		refusal = rules_host(run, host, penalty);
	if (refusal == FITS && skewed(run, count_of(run, host)))
		refusal = SKEW;
	return refusal;
}

enum refusal run_judge(struct run *run, const struct core_host *host, uint32_t *penalty)
{
	enum refusal refusal = run_judge_rules(run, host, penalty);

	return refusal == FITS ? run_room(run, host) : refusal;
}

void run_refusals(const uint32_t count[REFUSALS], uint64_t memory, char text[CORE_REASON])
{
	char need[UNITS_TEXT];
	size_t used = 0;

	text[0] = 0;
	for (int r = NOT_UP; r < REFUSALS; r++) {
		int n;

		if (!count[r] || used >= CORE_REASON)
			continue;
		n = snprintf(text + used, CORE_REASON - used, "%s%u host%s: %s",
			used ? "; " : "no host: ", count[r], count[r] == 1 ? "" : "s",
			refusal_text((enum refusal)r));
		used += n > 0 ? (size_t)n : 0;
		if (r == NO_MEMORY && used < CORE_REASON) {
			n = snprintf(text + used, CORE_REASON - used, " (needs %s)",
				units_size(need, memory));
			used += n > 0 ? (size_t)n : 0;
		}
	}
}

void run_explain(struct run *run, char text[CORE_REASON])
{
	uint32_t count[REFUSALS] = {0};

	if (!run->core->hosts) {
		(void)snprintf(text, CORE_REASON, "no host has joined the cluster");
		return;
	}
	if (*run->spec->host && !host_get(run->core, run->spec->host)) {
		(void)snprintf(text, CORE_REASON, "there is no host '%s'", run->spec->host);
		return;
	}
	rules_least(run);
	for (struct core_host *h = run->core->hosts; h; h = h->hh.next) {
		uint32_t penalty = 0;

		count[run_judge(run, h, &penalty)]++;
	}
	run_refusals(count, run->need.memory, text);
}
