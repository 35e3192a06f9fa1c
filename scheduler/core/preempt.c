#include "scheduler/core/preempt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define HOSTS_MAX 200u /* looked at for one guest, those with the most room first */
#define VICTIMS_MAX 256u

struct victims {
	struct core_guest *guests[VICTIMS_MAX];
	size_t count;
	int32_t highest;
	uint64_t memory;
	struct core_host *host;
};

void preempt_forget(struct core_group *group)
{
	if (!group->nominee)
		return;
	group->nominee->nominated = NULL;
	group->nominee = NULL;
}

static bool anyone_lower(const struct core *core, int32_t priority)
{
	uint32_t mine = place_priority_id(priority), pos = 0;
	const struct core_count *at;

	while ((at = counts_next(&core->priorities, &pos)))
		if (at->id < mine)
			return true;
	return false;
}

static void add_room(struct index_need *left, const struct core_guest *guest, bool add)
{
	left->memory += add ? guest->memory : -guest->memory;
	left->disk += add ? guest->disk : -guest->disk;
	left->cpu += add ? guest->cpu : (uint64_t) - (int64_t)guest->cpu;
}

static bool enough(const struct index_need *left, const struct index_need *need)
{
	return left->memory >= need->memory && left->disk >= need->disk && left->cpu >= need->cpu;
}

/* The lowest priority first; of equals the largest. */
static bool goes_first(const struct core_guest *a, const struct core_guest *b)
{
	int32_t x = a->group->spec.priority, y = b->group->spec.priority;

	return x != y ? x < y : a->memory > b->memory;
}

static void take(struct victims *v, struct core_guest *guest)
{
	size_t at = v->count;

	if (v->count == VICTIMS_MAX) {
		if (!goes_first(guest, v->guests[--at]))
			return;
	} else {
		v->count++;
	}
	for (; at && goes_first(guest, v->guests[at - 1]); at--)
		v->guests[at] = v->guests[at - 1];
	v->guests[at] = guest;
}

/* Who would have to go from HOST; false when that does not help. */
static bool choose(const struct run *run, struct core_host *host, struct victims *v)
{
	struct index_need left = index_free(run->core, host);
	struct core_guest *guest;
	size_t n = 0;

	*v = (struct victims){.host = host, .highest = INT32_MIN};
	DL_FOREACH2(host->guests, guest, host_next)
	{
		if (guest->deleting || guest->evicted)
			add_room(&left, guest, true);
		else if (guest->group && !guest->group->spec.persistent &&
			 guest->group->spec.priority < run->spec->priority)
			take(v, guest);
	}
	while (n < v->count && !enough(&left, &run->need))
		add_room(&left, v->guests[n++], true);
	if (!enough(&left, &run->need))
		return false;
	/* Not all of them may be needed: the highest are spared first. */
	v->count = n;
	for (size_t i = n; i-- > 0;) {
		add_room(&left, v->guests[i], false);
		if (enough(&left, &run->need)) {
			memmove(&v->guests[i], &v->guests[i + 1],
				(v->count - i - 1) * sizeof(struct core_guest *));
			v->count--;
		} else {
			add_room(&left, v->guests[i], true);
		}
	}
	for (size_t i = 0; i < v->count; i++) {
		int32_t p = v->guests[i]->group->spec.priority;

		v->highest = p > v->highest ? p : v->highest;
		v->memory += v->guests[i]->memory;
	}
	return true;
}

static bool less_harm(const struct victims *a, const struct victims *b)
{
	if (a->highest != b->highest)
		return a->highest < b->highest;
	if (a->count != b->count)
		return a->count < b->count;
	return a->memory < b->memory;
}

static void evict(struct run *run, const struct victims *v, struct core_out *out)
{
	const struct core_group *group = run->group;
	char text[CORE_REASON];

	(void)snprintf(text, sizeof(text), "gives way to %s/%s (priority %d)",
		group->deployment->name, group->spec.name, group->spec.priority);
	for (size_t i = 0; i < v->count; i++) {
		struct core_guest *guest = v->guests[i];

		move_off(run->core, guest, text, out);
		guest->evicted = true;
		guest_set_ready(guest, false);
		guest_set_reason(guest, text);
		out_dirty_guest(out, guest);
		out_tell_remove(out, guest->host->name, guest->uid, guest->epoch);
		out_log(out, "guest", guest->name, "Preempted", true, guest->host->name, "%s",
			text);
	}
}

static bool still_leaving(const struct core_host *host)
{
	const struct core_guest *guest;

	DL_FOREACH2(host->guests, guest, host_next)
	if (guest->deleting || guest->evicted)
		return true;
	return false;
}

bool preempt_for(struct run *run, struct core_out *out, char text[CORE_REASON])
{
	static const struct index_need nothing;
	struct core_group *group = run->group;
	struct victims best = {.count = 0}, now;
	uint32_t looked = 0;

	if (!anyone_lower(run->core, run->spec->priority))
		return false;
	if (group->nominee && group->nominee->index_class && still_leaving(group->nominee)) {
		(void)snprintf(text, CORE_REASON, "room is being made on %s", group->nominee->name);
		return true;
	}
	preempt_forget(group);
	rules_least(run);
	for (size_t i = 0; i < run->class_count && looked < HOSTS_MAX; i++) {
		const struct run_class *rc = &run->classes[i];
		struct core_host *host = NULL;

		if (rc->refusal != FITS)
			continue;
		while (looked++ < HOSTS_MAX &&
			(host = index_next_spread(rc->class, &nothing, host))) {
			uint32_t penalty = 0;

			if (run_judge_rules(run, host, &penalty) != FITS ||
				!choose(run, host, &now))
				continue;
			if (!best.host || less_harm(&now, &best))
				best = now;
		}
	}
	if (!best.host)
		return false;
	evict(run, &best, out);
	group->nominee = best.host;
	best.host->nominated = group;
	(void)snprintf(text, CORE_REASON,
		"room is being made on %s: %zu guests of lower priority go", best.host->name,
		best.count);
	return true;
}
