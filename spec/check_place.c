/* What a guest requires of its host, and what of that cannot be. */
#include "spec/spec_int.h"

#include <string.h>

/* One thing that a host's labels must fulfil. */
struct demand {
	Um__LabelExpr expr;
	char *value;	   /* the expression's only one, of `host` and `host_labels` */
	const char *field; /* "where", "host_labels" or "host" */
	size_t index;	   /* of `where` */
};

struct place {
	struct check *c;
	const Um__Placement *p;
	const Um__GroupSpec *group;
	const char *where;
	struct demand demands[SPEC_EXPRS_MAX + SPEC_HOST_LABELS_MAX + 1];
	size_t demand_count;
};

static size_t at_most(size_t n, size_t max)
{
	return n < max ? n : max;
}

/* ---- expressions ---- */

/* Which of the two YAML lists an expression stands in, and where. */
static size_t expr_index(const Um__Placement *p, size_t i)
{
	size_t n = 0;

	for (size_t k = 0; k < i; k++)
		n += p->where[k]->preferred == p->where[i]->preferred;
	return n;
}

static void check_expr(struct place *s, const Um__LabelExpr *e, const char *at)
{
	bool values = e->op == UM__LABEL_OP__LABEL_IN || e->op == UM__LABEL_OP__LABEL_NOT_IN;
	struct spec_errors *out = s->c->out;

	if (!spec_is_label_key(e->key))
		spec_errors_add(out, at,
			"label '%.80s' must be 1 to %d letters, digits, '.', '_', '/' or '-'",
			e->key, SPEC_LABEL_KEY_MAX);
	if ((int)e->op < 0 || e->op > UM__LABEL_OP__LABEL_AT_MOST)
		spec_errors_add(out, at, "operator %d is unknown", (int)e->op);
	if (values && (!e->n_values || e->n_values > SPEC_VALUES_MAX))
		spec_errors_add(
			out, at, "%zu values are not within 1 to %d", e->n_values, SPEC_VALUES_MAX);
	if (!values && e->n_values)
		spec_errors_add(out, at, "only 'in' and 'not in' have values");
	for (size_t i = 0; i < at_most(e->n_values, SPEC_VALUES_MAX); i++) {
		struct err err = ERR_INIT;

		if (strlen(e->values[i]) > SPEC_HOST_LABEL_MAX)
			spec_errors_add(
				out, at, "a value is at most %d bytes long", SPEC_HOST_LABEL_MAX);
		else if (strcmp(e->key, "host") == 0 &&
			 str_check_name("host", e->values[i], &err) < 0)
			spec_errors_add(out, at, "%s", err_msg(&err));
	}
	if (strcmp(e->key, "host") == 0 && e->op == UM__LABEL_OP__LABEL_ABSENT)
		spec_errors_add(out, at, "every host has a name");
}

static struct demand *add_demand(struct place *s, const char *field)
{
	struct demand *d = &s->demands[s->demand_count++];

	um__label_expr__init(&d->expr);
	d->field = field;
	return d;
}

static void add_fixed(struct place *s, const char *field, char *key, char *value)
{
	struct demand *d = add_demand(s, field);

	d->value = value;
	d->expr.key = key;
	d->expr.values = &d->value;
	d->expr.n_values = 1;
}

static void check_exprs(struct place *s)
{
	const Um__Placement *p = s->p;
	size_t preferred = 0, all = p->n_where + p->n_host_labels;
	char at[SPEC_WHERE];

	for (size_t i = 0; i < at_most(p->n_where, SPEC_EXPRS_MAX); i++) {
		const Um__LabelExpr *e = p->where[i];
		size_t index = expr_index(p, i);

		preferred += e->preferred ? 1 : 0;
		check_at_index(at, s->where, e->preferred ? "prefer" : "where", index);
		check_expr(s, e, at);
		/* What has too many values is wrong already, and would take its time. */
		if (!e->preferred && e->n_values <= SPEC_VALUES_MAX) {
			struct demand *d = add_demand(s, "where");

			d->expr = *e;
			d->index = index;
		}
	}
	if (all > SPEC_EXPRS_MAX)
		spec_errors_add(s->c->out,
			check_at(at, s->where,
				!p->n_where					   ? "host_labels"
				: preferred == at_most(p->n_where, SPEC_EXPRS_MAX) ? "prefer"
										   : "where"),
			"%zu expressions and host_labels are more than %d", all, SPEC_EXPRS_MAX);
}

static void check_host_labels(struct place *s)
{
	static char host[] = "host";
	const Um__Placement *p = s->p;
	char path[SPEC_WHERE], at[SPEC_WHERE];
	struct seen seen;

	seen_init(&seen);
	check_at(path, s->where, "host_labels");
	for (size_t i = 0; i < at_most(p->n_host_labels, SPEC_HOST_LABELS_MAX); i++) {
		char *key = p->host_labels[i]->key, *value = p->host_labels[i]->value;

		check_labels(s->c, path, key, value, &seen);
		if (strlen(value) > SPEC_HOST_LABEL_MAX)
			spec_errors_add(s->c->out, check_at(at, path, key),
				"a host's label is at most %d bytes long", SPEC_HOST_LABEL_MAX);
		add_fixed(s, "host_labels", key, value);
	}
	s->c->out->failed |= seen.failed;
	seen_free(&seen);
	if (given(p->host))
		add_fixed(s, "host", host, p->host);
}

/* ---- expressions that exclude each other ---- */

static bool accepts(const Um__LabelExpr *e, const char *value)
{
	int64_t n;
	size_t i = 0;

	switch (e->op) {
	case UM__LABEL_OP__LABEL_IN:
	case UM__LABEL_OP__LABEL_NOT_IN:
		while (i < e->n_values && strcmp(e->values[i], value) != 0)
			i++;
		return (i < e->n_values) == (e->op == UM__LABEL_OP__LABEL_IN);
	case UM__LABEL_OP__LABEL_AT_LEAST:
		return str_i64(value, INT64_MIN, INT64_MAX, &n) == 0 && n >= e->number;
	case UM__LABEL_OP__LABEL_AT_MOST:
		return str_i64(value, INT64_MIN, INT64_MAX, &n) == 0 && n <= e->number;
	case UM__LABEL_OP__LABEL_ABSENT:
		return false;
	default:
		return true;
	}
}

static bool accepts_one_of(const Um__LabelExpr *e, const Um__LabelExpr *in)
{
	for (size_t i = 0; i < in->n_values; i++)
		if (accepts(e, in->values[i]))
			return true;
	return false;
}

static bool exclude(const Um__LabelExpr *a, const Um__LabelExpr *b)
{
	if (strcmp(a->key, b->key) != 0)
		return false;
	if (a->op == UM__LABEL_OP__LABEL_IN)
		return !accepts_one_of(b, a);
	if (b->op == UM__LABEL_OP__LABEL_IN)
		return !accepts_one_of(a, b);
	if (a->op == UM__LABEL_OP__LABEL_ABSENT || b->op == UM__LABEL_OP__LABEL_ABSENT)
		return a->op != b->op && a->op != UM__LABEL_OP__LABEL_NOT_IN &&
		       b->op != UM__LABEL_OP__LABEL_NOT_IN;
	if (a->op == UM__LABEL_OP__LABEL_AT_LEAST && b->op == UM__LABEL_OP__LABEL_AT_MOST)
		return a->number > b->number;
	if (a->op == UM__LABEL_OP__LABEL_AT_MOST && b->op == UM__LABEL_OP__LABEL_AT_LEAST)
		return b->number > a->number;
	return false;
}

static const char *demand_at(const struct place *s, const struct demand *d, char at[SPEC_WHERE])
{
	char path[SPEC_WHERE];

	if (strcmp(d->field, "where") == 0)
		return check_at_index(at, s->where, "where", d->index);
	if (strcmp(d->field, "host") == 0)
		return check_at(at, s->where, "host");
	return check_at(at, check_at(path, s->where, d->field), d->expr.key);
}

static void tell_exclusion(struct place *s, const struct demand *a, const struct demand *b)
{
	struct buf x, y;
	char at[SPEC_WHERE];

	buf_init(&x);
	buf_init(&y);
	spec_expr_text(&a->expr, &x);
	spec_expr_text(&b->expr, &y);
	spec_errors_add(s->c->out, demand_at(s, a, at),
		"'%.80s' and '%.80s'%s%s exclude each other", buf_text(&x), buf_text(&y),
		strcmp(b->field, "where") == 0 ? "" : " of ",
		strcmp(b->field, "where") == 0 ? "" : b->field);
	s->c->out->failed |= x.failed || y.failed;
	buf_free(&x);
	buf_free(&y);
}

/* Any two that exclude each other; or all that is said of one label. */
static void check_demands(struct place *s)
{
	const struct demand *d = s->demands;
	char at[SPEC_WHERE];

	for (size_t i = 0; i < s->demand_count; i++)
		for (size_t k = i + 1; k < s->demand_count; k++)
			if (exclude(&d[i].expr, &d[k].expr)) {
				tell_exclusion(s, &d[i], &d[k]);
				return;
			}
	for (size_t i = 0; i < s->demand_count; i++) {
		const Um__LabelExpr *e = &d[i].expr;
		bool some = e->op != UM__LABEL_OP__LABEL_IN || !e->n_values;

		for (size_t v = 0; v < e->n_values && !some; v++) {
			some = true;
			for (size_t k = 0; k < s->demand_count && some; k++)
				some = strcmp(d[k].expr.key, e->key) != 0 ||
				       accepts(&d[k].expr, e->values[v]);
		}
		if (some)
			continue;
		spec_errors_add(s->c->out, demand_at(s, &d[i], at),
			"with all that is required of label '%s' no value is left", e->key);
		return;
	}
}

/* ---- tolerations, spreads ---- */

static void check_tolerations(struct place *s)
{
	const Um__Placement *p = s->p;
	char at[SPEC_WHERE];

	if (p->n_tolerate > SPEC_TOLERATIONS_MAX)
		spec_errors_add(s->c->out, check_at(at, s->where, "tolerate"),
			"%zu are more than %d", p->n_tolerate, SPEC_TOLERATIONS_MAX);
	for (size_t i = 0; i < at_most(p->n_tolerate, SPEC_TOLERATIONS_MAX); i++) {
		const Um__Toleration *t = p->tolerate[i];

		check_at_index(at, s->where, "tolerate", i);
		if (given(t->key) ? !spec_is_label_key(t->key) : !t->any_value)
			spec_errors_add(s->c->out, at,
				"'%.80s' must be 1 to %d letters, digits, '.', '_', '/' or '-'",
				t->key, SPEC_LABEL_KEY_MAX);
		if (strlen(t->value) > SPEC_HOST_LABEL_MAX)
			spec_errors_add(s->c->out, at, "a value is at most %d bytes long",
				SPEC_HOST_LABEL_MAX);
		if (t->any_value && given(t->value))
			spec_errors_add(s->c->out, at, "either a value or any, not both");
		for (size_t k = 0; k < i; k++)
			if (strcmp(t->key, p->tolerate[k]->key) == 0 &&
				strcmp(t->value, p->tolerate[k]->value) == 0 &&
				t->any_value == p->tolerate[k]->any_value) {
				spec_errors_add(s->c->out, at, "is given twice");
				break;
			}
	}
}

static void check_spreads(struct place *s)
{
	const Um__Placement *p = s->p;
	char path[SPEC_WHERE], at[SPEC_WHERE];

	if (p->n_spread > SPEC_SPREADS_MAX)
		spec_errors_add(s->c->out, check_at(at, s->where, "spread"), "%zu are more than %d",
			p->n_spread, SPEC_SPREADS_MAX);
	for (size_t i = 0; i < at_most(p->n_spread, SPEC_SPREADS_MAX); i++) {
		const Um__SpreadOver *o = p->spread[i];

		check_at_index(path, s->where, "spread", i);
		if (!given(o->over))
			spec_errors_add(s->c->out, check_at(at, path, "over"),
				"the label to spread over is missing ('host': over the hosts)");
		else if (!spec_is_label_key(o->over))
			spec_errors_add(s->c->out, check_at(at, path, "over"),
				"label '%.80s' must be 1 to %d letters, digits, '.', '_', '/' or "
				"'-'",
				o->over, SPEC_LABEL_KEY_MAX);
		if (o->max_skew < 1 || o->max_skew > SPEC_GUESTS_MAX)
			spec_errors_add(s->c->out, check_at(at, path, "max_skew"),
				"a skew of %u is not within 1 to %d", o->max_skew, SPEC_GUESTS_MAX);
		for (size_t k = 0; k < i; k++)
			if (strcmp(o->over, p->spread[k]->over) == 0) {
				spec_errors_add(s->c->out, check_at(at, path, "over"),
					"'%s' is given twice", o->over);
				break;
			}
	}
}

void check_placement(struct check *c, size_t group, const char *where)
{
	struct place s = {.c = c, .group = c->spec->groups[group], .where = where};
	const Um__Placement *p = s.p = s.group->guest->placement;
	struct err err = ERR_INIT;
	char at[SPEC_WHERE];

	if (given(p->host) && str_check_name("host", p->host, &err) < 0)
		check_add(c, where, "host", &err);
	if (p->strategy != UM__STRATEGY__STRATEGY_DEFAULT && p->strategy != UM__STRATEGY__SPREAD &&
		p->strategy != UM__STRATEGY__PACK)
		spec_errors_add(c->out, check_at(at, where, "strategy"),
			"strategy %d is unknown (spread, pack)", (int)p->strategy);
	if (p->priority < -SPEC_PRIORITY_MAX || p->priority > SPEC_PRIORITY_MAX)
		spec_errors_add(c->out, check_at(at, where, "priority"),
			"%d is not within %d to %d", p->priority, -SPEC_PRIORITY_MAX,
			SPEC_PRIORITY_MAX);
	if (p->exclusive && p->max_per_host > 1)
		spec_errors_add(c->out, check_at(at, where, "max_per_host"),
			"'exclusive' means one guest on a host, not %u", p->max_per_host);
	check_exprs(&s);
	check_host_labels(&s);
	check_demands(&s);
	check_tolerations(&s);
	check_spreads(&s);
	check_affinities(c, group, where);
}
