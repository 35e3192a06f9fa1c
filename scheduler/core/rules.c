/* What a group asks of hosts beyond room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/run.h"

const struct core_rules rules_none;

const char *refusal_text(enum refusal refusal)
{
	static const char *const texts[REFUSALS] = {
		[FITS] = "fits",
		[NOT_UP] = "not up",
		[IS_CORDONED] = "cordoned",
		[IS_AVOIDED] = "guests failed to start there, tried again soon",
		[OTHER_HOST] = "not the host asked for",
		[TAINTED] = "has a taint that is not tolerated",
		[LABELS] = "labels do not match",
		[WAITS_FOR] = "the guests it is to be with have no host yet",
		[BESIDE] = "without the guests it is to be with",
		[APART] = "has guests it is to be apart from",
		[SKEW] = "would have more than its share of the group",
		[MAX_PER_HOST] = "max_per_host reached",
		[EXCLUSIVE] = "held for one guest alone, or not empty",
		[PROMISED] = "room is being made for guests of higher priority",
		[MTU] = "underlay MTU too small",
		[NO_MEMORY] = "not enough memory",
		[NO_CPU] = "not enough CPU",
		[NO_DISK] = "not enough disk",
		[TORN] = "others are to be with it and would be left behind",
		[DISK_FULL] = "its disk is too full",
	};

	return texts[refusal];
}

/* Bounded decimal; false for what is no number. */
static bool number(const char *text, int64_t *out)
{
	bool minus = *text == '-';
	int64_t n = 0;

	text += minus;
	if (!*text)
		return false;
	for (int digits = 0; *text; text++, digits++) {
		if (*text < '0' || *text > '9' || digits > 17)
			return false;
		n = n * 10 + (*text - '0');
	}
	*out = minus ? -n : n;
	return true;
}

static bool one_of(const struct core_expr *e, const char *value)
{
	for (uint32_t i = 0; i < e->value_count; i++)
		if (strcmp(e->values[i], value) == 0)
			return true;
	return false;
}

static bool expr_holds(const struct core_expr *e, const char *value)
{
	int64_t n;

	switch (e->op) {
	case CORE_IN:
		return value && one_of(e, value);
	case CORE_NOT_IN:
		return !value || !one_of(e, value);
	case CORE_EXISTS:
		return value != NULL;
	case CORE_ABSENT:
		return value == NULL;
	case CORE_AT_LEAST:
		return value && number(value, &n) && n >= e->number;
	case CORE_AT_MOST:
		return value && number(value, &n) && n <= e->number;
	}
	return false;
}

static bool tolerated(const struct core_rules *rules, const struct core_taint *taint)
{
	for (size_t i = 0; i < rules->toleration_count; i++) {
		const struct core_toleration *t = &rules->tolerations[i];

		if (*t->key && strcmp(t->key, taint->key) != 0)
			continue;
		if (t->any_value || strcmp(t->value, taint->value) == 0)
			return true;
	}
	return false;
}

enum refusal rules_class(const struct run *run, const struct core_host *host, uint32_t *penalty)
{
	const struct core_rules *rules = run->rules;

	for (size_t i = 0; i < host->taints.count; i++) {
		const struct core_taint *t = &host->taints.items[i];

		if (tolerated(rules, t))
			continue;
		if (!t->preferred)
			return TAINTED;
		++*penalty;
	}
	for (size_t i = 0; i < rules->expr_count; i++) {
		const struct core_expr *e = &rules->exprs[i];

		if (strcmp(e->key, "host") == 0 || expr_holds(e, index_label(host, e->key)))
			continue;
		if (!e->preferred)
			return LABELS;
		++*penalty;
	}
	return FITS;
}

struct core_group *rules_target(const struct run *run, const struct core_affinity *a)
{
	return deployment_group(run->group->deployment, a->guest);
}

static bool wants_beside(const struct core_group *group, const char *guest)
{
	const struct core_rules *r = group->spec.rules;

	for (size_t i = 0; r && i < r->affinity_count; i++)
		if (!r->affinities[i].apart && !r->affinities[i].preferred &&
			strcmp(r->affinities[i].guest, guest) == 0)
			return true;
	return false;
}

bool rules_first(const struct run *run, const struct core_affinity *a)
{
	const struct core_group *target = rules_target(run, a);

	if (!target || target->on_hosts.used)
		return false;
	/* Its own kind; or two groups that want to be with each other: one begins. */
	if (target == run->group)
		return true;
	return wants_beside(target, run->spec->name) && !run->group->on_hosts.used &&
	       strcmp(run->spec->name, target->spec.name) < 0;
}

static const struct index_domain *domain_of(const struct core_host *host, const char *key)
{
	for (size_t i = 0; i < host->domain_count; i++)
		if (strcmp(host->domains[i]->key, key) == 0)
			return host->domains[i];
	return NULL;
}

static bool over_host(const char *over)
{
	return !*over || strcmp(over, "host") == 0;
}

static bool in_domain(const struct core_host *host, const struct index_domain *d)
{
	for (size_t i = 0; i < host->domain_count; i++)
		if (host->domains[i] == d)
			return true;
	return false;
}

/* Of GROUP on HOST, or (not NULL) in D, who may be relied on: not those that are on their
 * way there, who may yet stay where they are, nor those that are about to leave. */
static uint32_t firm(const struct run *run, const struct core_group *group,
	const struct core_host *host, const struct index_domain *d)
{
	uint32_t there =
		d ? counts_of(&group->on_domains, d->id) : counts_of(&group->on_hosts, host->order);

	for (const struct core_move *m = run->core->moves; m && group->coming; m = m->hh.next) {
		bool from, to;

		if (m->counted != group)
			continue;
		from = d ? in_domain(m->guest->host, d) : m->guest->host == host;
		to = d ? in_domain(m->held, d) : m->held == host;
		/* Within a domain one of the two is there in any case. */
		there -= (uint32_t)(from || to);
	}
	return there;
}

/* One affinity, given how many of its target are there. */
static enum refusal affinity(
	const struct run *run, const struct core_affinity *a, uint32_t there, uint32_t *penalty)
{
	const struct core_group *target;

	if (a->apart ? !there : there != 0)
		return FITS;
	if (a->preferred) {
		++*penalty;
		return FITS;
	}
	if (a->apart)
		return APART;
	if (rules_first(run, a))
		return FITS;
	target = rules_target(run, a);
	return target && target->on_hosts.used ? BESIDE : WAITS_FOR;
}

enum refusal rules_domain(const struct run *run, const struct core_host *host, uint32_t *penalty)
{
	const struct core_rules *rules = run->rules;
	enum refusal refusal = FITS;

	for (size_t i = 0; i < rules->spread_count; i++) {
		const struct core_spread *s = &rules->spreads[i];
		const struct index_domain *d;
		uint32_t there, skew;

		if (over_host(s->over))
			continue;
		d = domain_of(host, s->over);
		there = d ? counts_of(&run->group->on_domains, d->id) : 0;
		skew = there + 1 - run->least[i];
		if (d && skew <= s->max_skew) {
			/* Within the skew, the emptier domain comes first all the same. */
			*penalty += s->max_skew > 1 ? skew - 1 : 0;
			continue;
		}
		if (!s->preferred)
			return SKEW;
		*penalty += d ? skew : 1;
	}
	for (size_t i = 0; i < run->foe_count; i++) {
		const struct run_foe *foe = &run->foes[i];
		const struct index_domain *d;

		if (over_host(foe->over))
			continue;
		d = domain_of(host, foe->over);
		if (d && counts_of(&foe->group->on_domains, d->id))
			return APART;
	}
	for (size_t i = 0; refusal == FITS && i < rules->affinity_count; i++) {
		const struct core_affinity *a = &rules->affinities[i];
		const struct core_group *target;
		const struct index_domain *d;

		if (over_host(a->over))
			continue;
		target = rules_target(run, a);
		d = domain_of(host, a->over);
		refusal = affinity(run, a,
			!target || !d ? 0
			: a->apart    ? counts_of(&target->on_domains, d->id)
				      : firm(run, target, host, d),
			penalty);
	}
	return refusal;
}

static bool mtu_fits(const struct run *run, const struct core_host *host)
{
	uint32_t overhead = host->vtep.family == 6 ? 70 : 50;

	for (size_t i = 0; host->underlay_mtu && i < run->spec->nic_count; i++) {
		const struct core_network *network =
			deployment_network(run->group->deployment, run->spec->nics[i].network);

		if (network && network->mtu + overhead > host->underlay_mtu)
			return false;
	}
	return true;
}

enum refusal rules_host(const struct run *run, const struct core_host *host, uint32_t *penalty)
{
	const struct core_rules *rules = run->rules;
	const struct core_groupspec *spec = run->spec;
	enum refusal refusal = FITS;

	if (host == run->avoid)
		return OTHER_HOST;
	if (*spec->host && strcmp(spec->host, host->name) != 0)
		return OTHER_HOST;
	for (size_t i = 0; i < rules->expr_count; i++) {
		const struct core_expr *e = &rules->exprs[i];

		if (strcmp(e->key, "host") != 0 || expr_holds(e, host->name))
			continue;
		if (!e->preferred)
			return OTHER_HOST;
		++*penalty;
	}
	for (size_t i = 0; refusal == FITS && i < rules->affinity_count; i++) {
		const struct core_affinity *a = &rules->affinities[i];
		const struct core_group *target;

		if (!over_host(a->over))
			continue;
		target = rules_target(run, a);
		refusal = affinity(run, a,
			!target	   ? 0
			: a->apart ? counts_of(&target->on_hosts, host->order)
				   : firm(run, target, host, NULL),
			penalty);
	}
	if (refusal != FITS)
		return refusal;
	for (size_t i = 0; i < run->foe_count; i++)
		if (over_host(run->foes[i].over) &&
			counts_of(&run->foes[i].group->on_hosts, host->order))
			return APART;
	if (spec->max_per_host &&
		counts_of(&run->group->on_hosts, host->order) >= spec->max_per_host)
		return MAX_PER_HOST;
	if (host->exclusive_count || (rules->exclusive && (host->guest_count || host->held_count)))
		return EXCLUSIVE;
	if (host->nominated && host->nominated != run->group &&
		spec->priority <= host->nominated->spec.priority)
		return PROMISED;
	return mtu_fits(run, host) ? FITS : MTU;
}

int rules_foes(struct run *run)
{
	const struct core_group *group;
	size_t room = 0;

	DL_FOREACH2(run->group->deployment->aparts, group, apart_next)
	{
		const struct core_rules *rules = group->spec.rules;

		for (size_t i = 0; group != run->group && i < rules->affinity_count; i++) {
			const struct core_affinity *a = &rules->affinities[i];

			if (!a->apart || a->preferred || strcmp(a->guest, run->spec->name) != 0)
				continue;
			if (run->foe_count == room) {
				struct run_foe *foes;

				room = room ? room * 2 : 4;
				foes = realloc(run->foes, room * sizeof(*foes));
				if (!foes)
					return -ENOMEM;
				run->foes = foes;
			}
			run->foes[run->foe_count++] =
				(struct run_foe){.group = group, .over = a->over};
		}
	}
	return 0;
}

/* Over the hosts themselves: 0 as long as one that comes into question has none. */
static uint32_t least_on_hosts(const struct run *run)
{
	const struct core_counts *on = &run->group->on_hosts;
	const struct core_count *at;
	uint32_t hosts = 0, least = UINT32_MAX, pos = 0;

	for (size_t i = 0; i < run->class_count; i++)
		if (run->classes[i].refusal == FITS)
			hosts += run->classes[i].class->host_count;
	if (on->used < hosts)
		return 0;
	while ((at = counts_next(on, &pos)))
		least = at->count < least ? at->count : least;
	return least == UINT32_MAX ? 0 : least;
}

void rules_least(struct run *run)
{
	for (size_t s = 0; s < run->rules->spread_count; s++) {
		const char *over = run->rules->spreads[s].over;
		uint32_t least = UINT32_MAX;

		if (over_host(over)) {
			run->least[s] = least_on_hosts(run);
			continue;
		}
		for (size_t i = 0; i < run->class_count && least; i++) {
			const struct run_class *rc = &run->classes[i];
			const struct index_domain *d;
			uint32_t there;

			if (rc->refusal != FITS)
				continue;
			d = index_value(rc->class, over);
			if (!d)
				continue;
			there = counts_of(&run->group->on_domains, d->id);
			least = there < least ? there : least;
		}
		run->least[s] = least == UINT32_MAX ? 0 : least;
	}
}
