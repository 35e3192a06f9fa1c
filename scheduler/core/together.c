/* Where a guest moves to, and who has to go with it.
 *
 * A required rule to be beside others holds on before, during (the guests of a set are all
 * on their way to one host) and after a move.  So a guest may move alone when its own rules
 * hold where it goes, and nobody stays behind who was beside it and has no other of its kind
 * left.  Where that cannot be, all go together that such rules tie to it on its host: in
 * either direction, directly or through others.
 *
 * For guests without such ties the search takes the logarithm of the hosts.  For the others
 * it looks at each host: what one host must have for several groups is in no index. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/move_int.h"
#include "scheduler/core/run.h"

/* Those of a set that are of one group, and so judged alike. */
struct kind {
	struct core_group *group;
	int count;
	struct run run;
};

/* A rule of those that stay that breaks when the set leaves: the host itself, or this
 * domain. */
struct torn {
	const struct core_guest *who;
	const struct index_domain *domain; /* NULL: the host */
};

struct search {
	struct core *core;
	const struct move_set *set;
	struct core_host *from;
	struct kind *kinds;
	size_t kind_count;
	struct torn *torn;
	size_t torn_count, torn_room;
	struct index_need need; /* of all together */
	uint64_t bytes;		/* of their disks */
	bool failed;		/* memory was short */
};

void move_set_free(struct move_set *set)
{
	free(set->guests);
	*set = (struct move_set){.guests = NULL};
}

static bool names(const struct core_affinity *a, const struct core_group *group)
{
	return !a->apart && !a->preferred && strcmp(a->guest, group->spec.name) == 0;
}

/* Does GROUP want to be with others, or somebody with it? */
static bool is_tied(const struct core_group *group)
{
	const struct core_group *other;

	if (group->with)
		return true;
	DL_FOREACH2(group->deployment->withs, other, with_next)
	{
		const struct core_rules *r = other->spec.rules;

		for (size_t i = 0; i < r->affinity_count; i++)
			if (names(&r->affinities[i], group))
				return true;
	}
	return false;
}

/* ---------------------------------------------------------------- who goes together */

static bool leaves(const struct core_guest *g)
{
	return g->deleting || g->evicted || (g->move && move_before_handover(g->move));
}

struct ties {
	struct core_group **groups;
	size_t count, room;
	bool failed;
};

/* Those that have nobody on the host tie nobody there. */
static void tie(struct ties *t, struct core_group *group, const struct core_host *host)
{
	if (!group || group->marked || !counts_of(&group->on_hosts, host->order))
		return;
	if (t->count == t->room) {
		size_t room = t->room ? t->room * 2 : 8;
		struct core_group **more = realloc(t->groups, room * sizeof(struct core_group *));

		if (!more) {
			t->failed = true;
			return;
		}
		t->groups = more;
		t->room = room;
	}
	group->marked = true;
	t->groups[t->count++] = group;
}

static void tie_others(struct ties *t, const struct core_group *group, const struct core_host *host)
{
	const struct core_rules *r = group->spec.rules;
	struct core_group *other;

	for (size_t i = 0; r && i < r->affinity_count; i++)
		if (!r->affinities[i].apart && !r->affinities[i].preferred)
			tie(t, deployment_group(group->deployment, r->affinities[i].guest), host);
	DL_FOREACH2(group->deployment->withs, other, with_next)
	for (size_t i = 0; i < other->spec.rules->affinity_count; i++)
		if (names(&other->spec.rules->affinities[i], group))
			tie(t, other, host);
}

/* GUEST, and those on its host that it is tied to. */
static int gather(struct core_guest *guest, struct move_set *set, struct err *err)
{
	struct core_host *host = guest->host;
	struct ties t = {.count = 0};
	struct core_guest *g;

	set->guests = calloc(host->guest_count, sizeof(struct core_guest *));
	tie(&t, guest->group, host);
	for (size_t i = 0; i < t.count; i++)
		tie_others(&t, t.groups[i], host);
	t.failed |= !set->guests;
	if (!t.failed)
		set->guests[set->count++] = guest;
	DL_FOREACH2(host->guests, g, host_next)
	if (!t.failed && g != guest && g->group && g->group->marked && !leaves(g))
		set->guests[set->count++] = g;
	for (size_t i = 0; i < t.count; i++)
		t.groups[i]->marked = false;
	free(t.groups);
	return t.failed ? err_set(err, -ENOMEM, "memory is short") : 0;
}

/* ---------------------------------------------------------------- who would be left behind */

static const struct index_domain *domain_of(const struct core_host *host, const char *key)
{
	for (size_t i = 0; i < host->domain_count; i++)
		if (strcmp(host->domains[i]->key, key) == 0)
			return host->domains[i];
	return NULL;
}

static bool is_there(
	const struct core_host *host, const struct core_host *at, const struct index_domain *domain)
{
	return domain ? domain_of(host, domain->key) == domain : host == at;
}

/* Of GROUP, those that stay there when the set has gone; and (*COMING) those that are on
 * their way there.  *WHO: one of them. */
static uint32_t staying(const struct search *s, const struct core_group *group,
	const struct index_domain *domain, uint32_t *coming, const struct core_guest **who)
{
	const struct core_guest *g;
	uint32_t count = 0;

	*coming = 0;
	DL_FOREACH2(group->guests, g, group_next)
	{
		bool comes =
			g->move && g->move->counted && is_there(g->move->held, s->from, domain);
		/* One that moves within the domain stays there. */
		bool here = g->host && !g->marked && (!leaves(g) || comes) &&
			    is_there(g->host, s->from, domain);

		count += here;
		*coming += comes && !here;
		if (here || comes)
			*who = g;
	}
	return count;
}

static void add_torn(
	struct search *s, const struct core_guest *who, const struct index_domain *domain)
{
	if (s->torn_count == s->torn_room) {
		size_t room = s->torn_room ? s->torn_room * 2 : 4;
		struct torn *more = realloc(s->torn, room * sizeof(*more));

		if (!more) {
			s->failed = true;
			return;
		}
		s->torn = more;
		s->torn_room = room;
	}
	s->torn[s->torn_count++] = (struct torn){.who = who, .domain = domain};
}

/* OTHER's rule A, about one of the groups of the set. */
static void look_behind(struct search *s, const struct core_group *other,
	const struct core_affinity *a, const struct core_group *group)
{
	bool over_host = !*a->over || strcmp(a->over, "host") == 0;
	const struct index_domain *domain = over_host ? NULL : domain_of(s->from, a->over);
	const struct core_guest *who = NULL, *unused;
	uint32_t left, coming, comes;

	if (!over_host && !domain)
		return;
	left = staying(s, other, domain, &coming, &who);
	if (!who)
		return;
	if (other == group ? left + coming == 1 : !staying(s, group, domain, &comes, &unused))
		add_torn(s, who, domain);
}

static void find_torn(struct search *s)
{
	for (size_t k = 0; k < s->kind_count; k++) {
		const struct core_group *group = s->kinds[k].group, *other;

		DL_FOREACH2(group->deployment->withs, other, with_next)
		for (size_t i = 0; i < other->spec.rules->affinity_count; i++)
			if (names(&other->spec.rules->affinities[i], group))
				look_behind(s, other, &other->spec.rules->affinities[i], group);
	}
}

static const struct core_guest *torn_by(const struct search *s, const struct core_host *host)
{
	for (size_t i = 0; i < s->torn_count; i++) {
		const struct torn *t = &s->torn[i];

		if (!t->domain || domain_of(host, t->domain->key) != t->domain)
			return t->who;
	}
	return NULL;
}

/* ---------------------------------------------------------------- where to */

/* As it would be with all of the set there. */
static enum refusal judge_kinds(struct search *s, struct core_host *host, uint32_t *penalty)
{
	enum refusal refusal = FITS;

	for (size_t k = 0; k < s->kind_count; k++)
		group_count_at(s->kinds[k].group, host, s->kinds[k].count);
	for (size_t k = 0; refusal == FITS && k < s->kind_count; k++) {
		struct kind *kind = &s->kinds[k];

		if (kind->run.rules->exclusive && s->set->count > 1) {
			refusal = EXCLUSIVE;
			break;
		}
		group_count_at(kind->group, host, -1);
		rules_least(&kind->run);
		refusal = run_judge_rules(&kind->run, host, penalty);
		group_count_at(kind->group, host, 1);
	}
	for (size_t k = 0; k < s->kind_count; k++)
		group_count_at(s->kinds[k].group, host, -s->kinds[k].count);
	return refusal;
}

static enum refusal judge(struct search *s, struct core_host *host, uint32_t *penalty)
{
	enum refusal refusal = judge_kinds(s, host, penalty);

	if (refusal == FITS)
		refusal = run_room(&s->kinds[0].run, host);
	return refusal == FITS && torn_by(s, host) ? TORN : refusal;
}

/* The order of run.h, by the guest that was asked for. */
static bool is_better(const struct search *s, const struct core_host *a, uint32_t penalty,
	const struct core_host *b, uint32_t penalty_b)
{
	const struct run *run = &s->kinds[0].run;
	uint32_t there, there_b;

	if (!b || penalty != penalty_b)
		return !b || penalty < penalty_b;
	there = run->by_count ? counts_of(&run->group->on_hosts, a->order) : 0;
	there_b = run->by_count ? counts_of(&run->group->on_hosts, b->order) : 0;
	if (there != there_b)
		return there < there_b;
	if (run->spec->strategy == CORE_PACK)
		return a->by_free.key < b->by_free.key;
	return a->by_share.key > b->by_share.key;
}

/* The others of the set, for a person: " with d/cache and 3 others". */
static const char *others(const struct move_set *set, char text[CORE_FULLNAME + 40])
{
	text[0] = '\0';
	if (set->count == 2)
		(void)snprintf(text, CORE_FULLNAME + 40, " with %s", set->guests[1]->name);
	else if (set->count > 2)
		(void)snprintf(text, CORE_FULLNAME + 40, " with %s and %zu others",
			set->guests[1]->name, set->count - 2);
	return text;
}

static int look_at(struct search *s, struct core_host *to, struct core_host **best, struct err *err)
{
	const struct core_guest *guest = s->set->guests[0], *left = torn_by(s, to);
	char with[CORE_FULLNAME + 40], text[CORE_REASON];
	uint32_t penalty = 0;
	enum refusal refusal = judge(s, to, &penalty);

	*best = to;
	if (refusal == FITS)
		return 0;
	if (refusal == TORN)
		return err_set(err, -EHOSTUNREACH,
			"host %s does not take guest %s%s: %s is to be with it, and would be left "
			"behind",
			to->name, guest->name, others(s->set, with), left->name);
	run_describe(&s->kinds[0].run, to, refusal, text);
	return err_set(err, -EHOSTUNREACH, "host %s does not take guest %s%s: %s%s%s%s", to->name,
		guest->name, others(s->set, with), refusal_text(refusal), *text ? " (" : "", text,
		*text ? ")" : "");
}

static int look_at_all(struct search *s, struct core_host **best, struct err *err)
{
	const struct core_guest *guest = s->set->guests[0];
	uint32_t count[REFUSALS] = {0}, least = 0;
	char with[CORE_FULLNAME + 40], text[CORE_REASON];

	*best = NULL;
	for (struct core_host *host = s->core->hosts; host; host = host->hh.next) {
		uint32_t penalty = 0;
		enum refusal refusal = judge(s, host, &penalty);

		count[refusal]++;
		if (refusal != FITS || !is_better(s, host, penalty, *best, least))
			continue;
		*best = host;
		least = penalty;
	}
	if (*best)
		return 0;
	run_refusals(count, s->need.memory, text);
	return err_set(err, -EHOSTUNREACH, "guest %s cannot move%s: %s", guest->name,
		others(s->set, with), text);
}

static int begin(struct search *s)
{
	const struct move_set *set = s->set;

	s->kinds = calloc(set->count, sizeof(*s->kinds));
	if (!s->kinds)
		return -ENOMEM;
	for (size_t i = 0; i < set->count; i++) {
		struct core_guest *g = set->guests[i];
		size_t k = 0;

		g->marked = true;
		s->need.memory += g->memory;
		s->need.disk += g->disk;
		s->need.cpu += g->cpu;
		s->bytes += g->cow_bytes;
		while (k < s->kind_count && s->kinds[k].group != g->group)
			k++;
		s->kinds[k].group = g->group;
		s->kinds[k].count++;
		s->kind_count = k == s->kind_count ? k + 1 : s->kind_count;
		/* The rules see the groups as they will be: without these where they are. */
		guest_count_place(g, -1);
	}
	for (size_t k = 0; k < s->kind_count; k++) {
		run_begin(&s->kinds[k].run, s->core, s->kinds[k].group, s->from);
		s->failed |= s->kinds[k].run.failed;
	}
	/* Room is judged by the first of them, for all. */
	s->kinds[0].run.need = s->need;
	s->kinds[0].run.bytes = s->bytes;
	find_torn(s);
	return s->failed ? -ENOMEM : 0;
}

static int search(struct core *core, struct move_set *set, struct core_host *to, struct err *err)
{
	struct search s = {.core = core, .set = set, .from = set->guests[0]->host};
	int rc = begin(&s);

	if (rc < 0)
		(void)err_set(err, rc, "memory is short");
	else if (to)
		rc = look_at(&s, to, &set->host, err);
	else
		rc = look_at_all(&s, &set->host, err);
	for (size_t k = 0; k < s.kind_count; k++)
		run_end(&s.kinds[k].run);
	for (size_t i = 0; s.kinds && i < set->count; i++) {
		set->guests[i]->marked = false;
		guest_count_place(set->guests[i], 1);
	}
	free(s.kinds);
	free(s.torn);
	return rc;
}

/* Nobody is tied to it. */
static int choose_alone(struct core *core, struct core_guest *guest, struct core_host *to,
	struct core_host **host, struct err *err)
{
	char text[CORE_REASON];
	uint32_t penalty = 0;
	enum refusal refusal;
	struct run run;
	int rc = 0;

	/* The rules see the group as it will be: without this one where it is. */
	guest_count_place(guest, -1);
	run_begin(&run, core, guest->group, guest->host);
	run.need.memory = guest->memory;
	run.need.disk = guest->disk;
	run.need.cpu = guest->cpu;
	run.bytes = guest->cow_bytes;
	*host = to;
	if (run.failed) {
		rc = err_set(err, -ENOMEM, "memory is short");
	} else if (to) {
		rules_least(&run);
		refusal = run_judge(&run, to, &penalty);
		run_describe(&run, to, refusal, text);
		if (refusal != FITS)
			rc = err_set(err, -EHOSTUNREACH, "host %s does not take guest %s: %s%s%s%s",
				to->name, guest->name, refusal_text(refusal), *text ? " (" : "",
				text, *text ? ")" : "");
	} else {
		*host = run_next(&run, NULL);
		if (!*host) {
			run_explain(&run, text);
			rc = err_set(
				err, -EHOSTUNREACH, "guest %s cannot move: %s", guest->name, text);
		}
	}
	run_end(&run);
	guest_count_place(guest, 1);
	return rc;
}

int move_choose(struct core *core, struct core_guest *guest, const char *to, struct move_set *set,
	struct err *err)
{
	struct core_host *host = *to ? host_get(core, to) : NULL;
	struct move_set all = {.guests = NULL};
	struct err why = ERR_INIT;
	int rc;

	*set = (struct move_set){.guests = calloc(1, sizeof(struct core_guest *)), .count = 1};
	if (!set->guests)
		return err_set(err, -ENOMEM, "memory is short");
	set->guests[0] = guest;
	if (!is_tied(guest->group)) {
		rc = choose_alone(core, guest, host, &set->host, err);
	} else {
		rc = search(core, set, host, &why);
		if (rc == -EHOSTUNREACH && gather(guest, &all, &why) == 0 && all.count > 1) {
			move_set_free(set);
			*set = all;
			all.guests = NULL;
			rc = search(core, set, host, &why);
		}
		if (rc < 0)
			(void)err_set(err, rc, "%s", err_msg(&why));
	}
	free(all.guests);
	if (rc < 0)
		move_set_free(set);
	return rc;
}
