/* Guests beside and apart from others. */
#include "spec/spec_int.h"

#include <stdlib.h>
#include <string.h>

static size_t affinities(const Um__Placement *p)
{
	return p->n_affinity < SPEC_AFFINITIES_MAX ? p->n_affinity : SPEC_AFFINITIES_MAX;
}

/* Where in the YAML's list `with` or `apart` it stands. */
static size_t affinity_index(const Um__Placement *p, size_t i)
{
	size_t n = 0;

	for (size_t k = 0; k < i; k++)
		n += p->affinity[k]->apart == p->affinity[i]->apart;
	return n;
}

static const char *over_of(const Um__Affinity *a)
{
	return given(a->over) ? a->over : "host";
}

static bool of_host(const Um__Affinity *a)
{
	return strcmp(over_of(a), "host") == 0;
}

static void unknown_guest(struct check *c, const char *name, const char *at)
{
	const Um__DeploymentSpec *spec = c->spec;
	const Um__GroupSpec *of;
	const char *near = NULL;
	uint32_t i;

	/* Suggestions cost time, and the first few mistakes tell enough. */
	if (c->group_list && c->out->count < 50)
		near = str_nearest(name, c->group_list, spec->n_groups);
	of = c->out->count < 50 ? spec_find_guest(spec, name, &i) : NULL;
	if (of)
		spec_errors_add(c->out, at, "'%.80s' is one of the guests of '%s'; write '%s'",
			name, of->name, of->name);
	else
		spec_errors_add(c->out, at, "there is no guest '%.80s' in this lab%s%s%s", name,
			near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Guests are placed after those that they are to be with: of none, never. */
static void check_any(
	struct check *c, const Um__GroupSpec *group, const Um__GroupSpec *other, const char *at)
{
	if (other != group && spec_group_size(group) > 0 && spec_group_size(other) == 0)
		spec_errors_add(c->out, at,
			"guest '%s' has the count 0, so this one would wait for ever; give it a "
			"count, or set 'preferred: true' here",
			other->name);
}

/* What stands against being on one host with guests of OTHER. */
static void check_beside(
	struct check *c, const Um__GroupSpec *group, const Um__GroupSpec *other, const char *at)
{
	const Um__Placement *p = group->guest->placement;
	const Um__Placement *q = other->guest ? other->guest->placement : NULL;
	bool self = other == group;
	struct spec_errors *out = c->out;

	if (self && !other->count_set)
		spec_errors_add(out, at, "guest '%s' is always beside itself", other->name);
	else if (p->exclusive || (q && q->exclusive))
		spec_errors_add(out, at, "%s%s%s has a host of its own ('exclusive')",
			p->exclusive ? "this guest" : "guest '", p->exclusive ? "" : other->name,
			p->exclusive ? "" : "'");
	else if (self && p->max_per_host && p->max_per_host < other->count)
		spec_errors_add(out, at,
			"all %u guests on one host, but 'max_per_host' allows %u there",
			other->count, p->max_per_host);
	else if (!self && q && given(p->host) && given(q->host) && strcmp(p->host, q->host) != 0)
		spec_errors_add(out, at, "guest '%s' has the fixed host '%s', this one '%s'",
			other->name, q->host, p->host);
}

/* The first I of the list are fine; what is wrong with this one beside them. */
static void check_pairs(struct check *c, const Um__Placement *p, size_t i, const char *at)
{
	const Um__Affinity *a = p->affinity[i];

	for (size_t k = 0; k < i; k++) {
		const Um__Affinity *b = p->affinity[k], *with = a->apart ? b : a;

		if (strcmp(a->guest, b->guest) != 0)
			continue;
		if (a->apart == b->apart) {
			if (strcmp(over_of(a), over_of(b)) != 0)
				continue;
			spec_errors_add(c->out, at, "guest '%s' is given twice", a->guest);
			return;
		}
		if (a->preferred || b->preferred ||
			(!of_host(with) && strcmp(over_of(a), over_of(b)) != 0))
			continue;
		spec_errors_add(c->out, at, "both with and apart from guest '%s'", a->guest);
		return;
	}
}

void check_affinities(struct check *c, size_t group, const char *where)
{
	const Um__GroupSpec *g = c->spec->groups[group];
	const Um__Placement *p = g->guest->placement;
	char path[SPEC_WHERE], at[SPEC_WHERE];
	uint64_t other;

	if (p->n_affinity > SPEC_AFFINITIES_MAX)
		spec_errors_add(c->out,
			check_at(at, where, p->affinity[0]->apart ? "apart" : "with"),
			"%zu entries of with and apart are more than %d", p->n_affinity,
			SPEC_AFFINITIES_MAX);
	for (size_t i = 0; i < affinities(p); i++) {
		const Um__Affinity *a = p->affinity[i];

		check_at_index(path, where, a->apart ? "apart" : "with", affinity_index(p, i));
		if (given(a->over) && !spec_is_label_key(a->over))
			spec_errors_add(c->out, check_at(at, path, "over"),
				"label '%.80s' must be 1 to %d letters, digits, '.', '_', '/' or "
				"'-'",
				a->over, SPEC_LABEL_KEY_MAX);
		if (!given(a->guest)) {
			spec_errors_add(c->out, check_at(at, path, "guest"),
				"the name of the guest is missing");
			continue;
		}
		if (!seen_get(&c->group_names, a->guest, &other)) {
			unknown_guest(c, a->guest, check_at(at, path, "guest"));
			continue;
		}
		if (!a->apart && !a->preferred)
			check_any(c, g, c->spec->groups[other], path);
		if (!a->apart && !a->preferred && of_host(a))
			check_beside(c, g, c->spec->groups[other], path);
		check_pairs(c, p, i, path);
	}
}

/* ---- circles ---- */

/* Guests are placed after those that they are to be with.  Of two that want to be
 * with each other one begins; in a longer circle none can. */

static const Um__Placement *placement_of(const struct check *c, uint64_t group)
{
	const Um__GuestSpec *g = c->spec->groups[group]->guest;

	return g ? g->placement : NULL;
}

static bool wants(const struct check *c, uint64_t group, const char *guest)
{
	const Um__Placement *p = placement_of(c, group);

	for (size_t i = 0; p && i < affinities(p); i++)
		if (!p->affinity[i]->apart && !p->affinity[i]->preferred &&
			strcmp(p->affinity[i]->guest, guest) == 0)
			return true;
	return false;
}

/* The group that GROUP has to wait for because of its I-th affinity. */
static bool waits_for(const struct check *c, uint64_t group, size_t i, uint64_t *other)
{
	const Um__Affinity *a = placement_of(c, group)->affinity[i];

	return !a->apart && !a->preferred && seen_get(&c->group_names, a->guest, other) &&
	       *other != group && !wants(c, *other, c->spec->groups[group]->name);
}

struct walk {
	uint64_t group;
	size_t next; /* of its affinities */
};

static void tell_circle(struct check *c, const struct walk *stack, size_t depth, uint64_t back)
{
	const struct walk *last = &stack[depth - 1];
	char where[SPEC_WHERE], path[SPEC_WHERE], at[SPEC_WHERE];
	size_t first = depth;
	struct buf names;

	buf_init(&names);
	while (first && stack[first - 1].group != back)
		first--;
	for (size_t i = first ? first - 1 : 0; i < depth; i++) {
		if (i - first < 8 || i + 1 == first)
			buf_printf(&names, "%s -> ", c->spec->groups[stack[i].group]->name);
		else if (i - first == 8)
			buf_add_str(&names, "... -> ");
	}
	check_at(where, "guests", c->spec->groups[last->group]->name);
	check_at(path, where, "placement");
	check_at_index(
		at, path, "with", affinity_index(placement_of(c, last->group), last->next - 1));
	spec_errors_add(c->out, at, "each waits for the next to be placed: %s%s", buf_text(&names),
		c->spec->groups[back]->name);
	c->out->failed |= names.failed;
	buf_free(&names);
}

/* Depth first, without recursion: a lab may have many thousand guests. */
static bool circle_from(struct check *c, uint64_t from, uint8_t *mark, struct walk *stack)
{
	enum { NEW, OPEN, DONE };
	size_t depth = 1;
	uint64_t other;

	stack[0] = (struct walk){.group = from};
	mark[from] = OPEN;
	while (depth) {
		struct walk *w = &stack[depth - 1];
		const Um__Placement *p = placement_of(c, w->group);

		if (!p || w->next >= affinities(p)) {
			mark[w->group] = DONE;
			depth--;
			continue;
		}
		if (!waits_for(c, w->group, w->next++, &other) || mark[other] == DONE)
			continue;
		if (mark[other] == OPEN) {
			tell_circle(c, stack, depth, other);
			return true;
		}
		mark[other] = OPEN;
		stack[depth++] = (struct walk){.group = other};
	}
	return false;
}

void check_circles(struct check *c)
{
	size_t n = c->spec->n_groups;
	uint8_t *mark = calloc(n + 1, 1);
	struct walk *stack = calloc(n + 1, sizeof(*stack));

	if (!mark || !stack)
		c->out->failed = true;
	else
		for (size_t i = 0; i < n; i++)
			if (!mark[i] && circle_from(c, i, mark, stack))
				break;
	free(mark);
	free(stack);
}
