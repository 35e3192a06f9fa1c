/* Requirements of placement as the core takes them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/serve/serve_int.h"
#include "spec/spec.h"

_Static_assert(SPEC_EXPRS_MAX <= CORE_RULES_MAX && SPEC_TOLERATIONS_MAX <= CORE_RULES_MAX &&
		       SPEC_AFFINITIES_MAX <= CORE_RULES_MAX &&
		       SPEC_SPREADS_MAX <= CORE_SPREADS_MAX && SPEC_VALUES_MAX <= CORE_VALUES_MAX,
	"what is valid has room");

static int too_long(struct err *err, const char *text)
{
	return err_set(err, -EINVAL, "placement: '%.80s' is too long", text);
}

/* The next expression, with room for N values. */
static int add_expr(struct core_rules *r, const char *key, enum core_cmp op, size_t n,
	struct core_expr **out, struct err *err)
{
	struct core_expr *e = &r->exprs[r->expr_count];

	if (r->expr_count == CORE_RULES_MAX || n > CORE_VALUES_MAX)
		return err_set(err, -EINVAL, "placement: too many expressions or values");
	if (str_copy(e->key, sizeof(e->key), key) < 0)
		return too_long(err, key);
	r->expr_count++;
	e->op = op;
	if (n) {
		e->values = calloc(n, sizeof(*e->values));
		if (!e->values)
			return err_set(err, -ENOMEM, "memory is short");
	}
	*out = e;
	return 0;
}

static int add_value(struct core_expr *e, const char *value, struct err *err)
{
	if (str_copy(e->values[e->value_count], CORE_NAME, value) < 0)
		return too_long(err, value);
	e->value_count++;
	return 0;
}

static int convert_exprs(const Um__Placement *from, struct core_rules *to, struct err *err)
{
	static const enum core_cmp ops[] = {
		[UM__LABEL_OP__LABEL_IN] = CORE_IN,
		[UM__LABEL_OP__LABEL_NOT_IN] = CORE_NOT_IN,
		[UM__LABEL_OP__LABEL_EXISTS] = CORE_EXISTS,
		[UM__LABEL_OP__LABEL_ABSENT] = CORE_ABSENT,
		[UM__LABEL_OP__LABEL_AT_LEAST] = CORE_AT_LEAST,
		[UM__LABEL_OP__LABEL_AT_MOST] = CORE_AT_MOST,
	};
	struct core_expr *e = NULL;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < from->n_host_labels; i++) {
		rc = add_expr(to, from->host_labels[i]->key, CORE_IN, 1, &e, err);
		if (rc == 0 && e)
			rc = add_value(e, from->host_labels[i]->value, err);
	}
	for (size_t i = 0; rc == 0 && i < from->n_where; i++) {
		const Um__LabelExpr *x = from->where[i];

		if ((unsigned)x->op >= sizeof(ops) / sizeof(ops[0]))
			return err_set(
				err, -EINVAL, "placement: operator %d is unknown", (int)x->op);
		rc = add_expr(to, x->key, ops[x->op], x->n_values, &e, err);
		if (rc < 0 || !e)
			break;
		e->number = x->number;
		e->preferred = x->preferred;
		for (size_t k = 0; rc == 0 && k < x->n_values; k++)
			rc = add_value(e, x->values[k], err);
	}
	return rc;
}

static int convert_rest(const Um__Placement *from, struct core_rules *to, struct err *err)
{
	if (from->n_tolerate > CORE_RULES_MAX || from->n_affinity > CORE_RULES_MAX ||
		from->n_spread > CORE_SPREADS_MAX)
		return err_set(
			err, -EINVAL, "placement: too many tolerations, neighbours or spreads");
	for (size_t i = 0; i < from->n_tolerate; i++) {
		const Um__Toleration *x = from->tolerate[i];
		struct core_toleration *t = &to->tolerations[to->toleration_count++];

		if (str_copy(t->key, sizeof(t->key), x->key) < 0 ||
			str_copy(t->value, sizeof(t->value), x->value) < 0)
			return too_long(err, x->key);
		t->any_value = x->any_value;
	}
	for (size_t i = 0; i < from->n_affinity; i++) {
		const Um__Affinity *x = from->affinity[i];
		struct core_affinity *a = &to->affinities[to->affinity_count++];
		/* The label "host" is the same as none. */
		const char *over = strcmp(x->over, "host") == 0 ? "" : x->over;

		if (str_copy(a->guest, sizeof(a->guest), x->guest) < 0 ||
			str_copy(a->over, sizeof(a->over), over) < 0)
			return too_long(err, x->guest);
		a->apart = x->apart;
		a->preferred = x->preferred;
	}
	for (size_t i = 0; i < from->n_spread; i++) {
		const Um__SpreadOver *x = from->spread[i];
		struct core_spread *s = &to->spreads[to->spread_count++];

		if (str_copy(s->over, sizeof(s->over), x->over) < 0)
			return too_long(err, x->over);
		s->max_skew = x->max_skew;
		s->preferred = x->preferred;
	}
	to->exclusive = from->exclusive;
	return 0;
}

int rules_convert(const Um__Placement *from, struct core_rules **out, struct err *err)
{
	struct core_rules *to;
	int rc;

	*out = NULL;
	if (!from || !(from->n_host_labels + from->n_where + from->n_tolerate + from->n_affinity +
			     from->n_spread + (from->exclusive ? 1 : 0)))
		return 0;
	to = calloc(1, sizeof(*to));
	if (!to)
		return err_set(err, -ENOMEM, "memory is short");
	rc = convert_exprs(from, to, err);
	if (rc == 0)
		rc = convert_rest(from, to, err);
	if (rc < 0) {
		core_rules_free(to);
		return rc;
	}
	*out = to;
	return 0;
}

/* ---------------------------------------------------------------- why */

void rules_why(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	Um__Envelope reply = wire_env(env->id);
	Um__WhyReply body = UM__WHY_REPLY__INIT;
	struct err err = ERR_INIT;
	const struct core_guest *g = serve_find_guest(s, env->why_request->guest, &err);
	struct core_why why;
	struct arena a = {0};

	if (!g || core_why(s->core, g->uid, &why, &err) < 0) {
		serve_error(s, from, env->id, &err);
		return;
	}
	body.guest = arena_str(&a, g->name);
	body.host = arena_str(&a, why.host ? why.host->name : "");
	body.because = arena_str(&a, why.because);
	body.items = (Um__WhyItem **)arena_list(&a, why.count);
	for (size_t i = 0; i < why.count; i++) {
		Um__WhyItem *item = arena_get(&a, sizeof(*item));

		um__why_item__init(item);
		item->what = arena_str(&a, why.items[i].what);
		item->hosts = why.items[i].hosts;
		item->example = arena_str(&a, why.items[i].example);
		item->detail = arena_str(&a, why.items[i].detail);
		body.items[body.n_items++] = item;
	}
	body.help = (char **)arena_list(&a, why.help_count);
	for (size_t i = 0; i < why.help_count; i++)
		body.help[body.n_help++] = arena_str(&a, why.help[i]);
	reply.body_case = UM__ENVELOPE__BODY_WHY_REPLY;
	reply.why_reply = &body;
	commit_reply(s, from, &reply);
	arena_free(&a);
}
