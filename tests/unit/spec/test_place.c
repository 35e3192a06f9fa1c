/* Requirements of placement without YAML: texts, what a client may send, hashes. */
#include "spec/spec.h"

#include <errno.h>

#include "tests/unit/unit.h"

static void *grow(void *list, size_t n)
{
	void *p = realloc(list, (n + 1) * sizeof(void *));

	assert_non_null(p);
	return p;
}

static void set(char **field, const char *text)
{
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = strdup(text);
}

static Um__Placement *add_group(Um__DeploymentSpec *s, const char *name, int count)
{
	Um__GroupSpec *group = malloc(sizeof(*group));
	Um__GuestSpec *guest = malloc(sizeof(*guest));

	assert_true(group && guest);
	um__group_spec__init(group);
	um__guest_spec__init(guest);
	group->name = strdup(name);
	group->guest = guest;
	group->count_set = count >= 0;
	group->count = count >= 0 ? (uint32_t)count : 0;
	guest->image = strdup("busybox");
	s->groups = grow(s->groups, s->n_groups);
	s->groups[s->n_groups++] = group;
	unit_ok(spec_defaults(s, NULL), NULL);
	return guest->placement;
}

static Um__DeploymentSpec *new_spec(Um__Placement **web)
{
	Um__DeploymentSpec *s = malloc(sizeof(*s));

	assert_non_null(s);
	um__deployment_spec__init(s);
	s->name = strdup("d");
	(void)add_group(s, "db", -1);
	*web = add_group(s, "web", 4);
	return s;
}

static void release(Um__DeploymentSpec *s)
{
	um__deployment_spec__free_unpacked(s, NULL);
}

static Um__LabelExpr *add_expr(Um__Placement *p, const char *text)
{
	Um__LabelExpr *e = malloc(sizeof(*e));
	struct err err = ERR_INIT;
	size_t at;

	assert_non_null(e);
	um__label_expr__init(e);
	unit_ok(spec_expr_parse(text, e, &at, &err), &err);
	p->where = grow(p->where, p->n_where);
	p->where[p->n_where++] = e;
	return e;
}

static Um__Toleration *add_toleration(Um__Placement *p, const char *text)
{
	Um__Toleration *t = malloc(sizeof(*t));
	struct err err = ERR_INIT;
	size_t at;

	assert_non_null(t);
	um__toleration__init(t);
	unit_ok(spec_toleration_parse(text, t, &at, &err), &err);
	p->tolerate = grow(p->tolerate, p->n_tolerate);
	p->tolerate[p->n_tolerate++] = t;
	return t;
}

static Um__Affinity *add_affinity(Um__Placement *p, const char *guest, bool apart, const char *over)
{
	Um__Affinity *a = malloc(sizeof(*a));

	assert_non_null(a);
	um__affinity__init(a);
	set(&a->guest, guest);
	set(&a->over, over);
	a->apart = apart;
	p->affinity = grow(p->affinity, p->n_affinity);
	p->affinity[p->n_affinity++] = a;
	return a;
}

static Um__SpreadOver *add_spread(Um__Placement *p, const char *over, uint32_t skew)
{
	Um__SpreadOver *o = malloc(sizeof(*o));

	assert_non_null(o);
	um__spread_over__init(o);
	set(&o->over, over);
	o->max_skew = skew;
	p->spread = grow(p->spread, p->n_spread);
	p->spread[p->n_spread++] = o;
	return o;
}

/* Exactly N errors, one of them TEXT at guests.web.placement.PATH; frees S. */
static void errors(Um__DeploymentSpec *s, int n, const char *path, const char *text)
{
	struct spec_errors e;
	char full[256];
	bool found = !n;

	(void)snprintf(full, sizeof(full), "guests.web.placement.%s", path);
	spec_errors_init(&e);
	if (spec_check(s, &e) != n)
		found = false;
	else
		for (size_t i = 0; i < e.count; i++)
			found |= strcmp(e.items[i].path, full) == 0 &&
				 strstr(e.items[i].message, text);
	for (size_t i = 0; i < e.count && !found; i++)
		print_message("%s: %s\n", e.items[i].path, e.items[i].message);
	if (!found)
		fail_msg("not '%s' at %s", text, path);
	spec_errors_free(&e);
	release(s);
}

/* ---- texts ---- */

static void test_texts(void **state)
{
	static const struct {
		const char *text, *again;
	} same[] = {
		{"zone = a", "zone = a"},
		{" zone=a ", "zone = a"},
		{"zone==a", "zone = a"},
		{"zone\t!=\n'a'", "zone != a"},
		{"zone in (a)", "zone = a"},
		{"zone in(a,b)", "zone in (a, b)"},
		{"zone not in ( a , \"b,c\" )", "zone not in (a, \"b,c\")"},
		{"zone = ''", "zone = \"\""},
		{"zone = 'a\"b'", "zone = 'a\"b'"},
		{"zone = \"it's\"", "zone = \"it's\""},
		{"x.y/z_1-2", "x.y/z_1-2"},
		{"! gpu", "!gpu"},
		{"not gpu", "!gpu"},
		{"not", "not"},
		{"not in (a, b)", "not in (a, b)"},
		{"not not in (a, b)", "not not in (a, b)"},
		{"in in (in, not)", "in in (in, not)"},
		{"cores>=8", "cores >= 8"},
		{"cores <= -8", "cores <= -8"},
		{"cores >= '8'", "cores >= 8"},
		{"price >= -9223372036854775808", "price >= -9223372036854775808"},
		{"version = 1.2-rc3+x@y:z~", "version = 1.2-rc3+x@y:z~"},
		{"zone = \xc3\xa4", "zone = \xc3\xa4"},
	};
	static const char *const tolerations[] = {"gpu", "gpu=yes", "gpu=", "*", "a.b/c=d=e"};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(same); i++) {
		Um__Placement p = UM__PLACEMENT__INIT;
		Um__LabelExpr *e = add_expr(&p, same[i].text);
		struct buf b;

		buf_init(&b);
		spec_expr_text(e, &b);
		assert_string_equal(buf_text(&b), same[i].again);
		/* What is shown can be read again. */
		e = add_expr(&p, buf_text(&b));
		assert_int_equal(e->op, p.where[0]->op);
		assert_int_equal(e->n_values, p.where[0]->n_values);
		for (size_t k = 0; k < e->n_values; k++)
			assert_string_equal(e->values[k], p.where[0]->values[k]);
		assert_true(e->number == p.where[0]->number);
		buf_free(&b);
		um__label_expr__free_unpacked(p.where[0], NULL);
		um__label_expr__free_unpacked(p.where[1], NULL);
		free(p.where);
	}
	for (size_t i = 0; i < UNIT_COUNT(tolerations); i++) {
		Um__Placement p = UM__PLACEMENT__INIT;
		struct buf b;

		buf_init(&b);
		spec_toleration_text(add_toleration(&p, tolerations[i]), &b);
		assert_string_equal(buf_text(&b), tolerations[i]);
		buf_free(&b);
		um__toleration__free_unpacked(p.tolerate[0], NULL);
		free(p.tolerate);
	}
}

/* Every beginning and every change of a byte is read without harm, and a mistake
 * stands within the text. */
static void test_torn(void **state)
{
	static const char text[] = "zone not in (a, \"b c\", 'd') >= 8 != !x";

	(void)state;
	for (size_t n = 0; n < sizeof(text); n++) {
		for (unsigned ch = 0; ch < 256; ch++) {
			Um__LabelExpr e = UM__LABEL_EXPR__INIT, *copy = malloc(sizeof(e));
			struct err err = ERR_INIT;
			char torn[sizeof(text)];
			size_t at = 999;
			int rc;

			memcpy(torn, text, sizeof(text));
			torn[n] = (char)ch;
			torn[sizeof(text) - 1] = 0;
			rc = spec_expr_parse(torn, &e, &at, &err);
			assert_true(rc == 0 || rc == -EINVAL);
			assert_true(rc == 0 || (at <= strlen(torn) && err_msg(&err)[0]));
			assert_non_null(copy);
			*copy = e;
			um__label_expr__free_unpacked(copy, NULL);
		}
	}
}

/* ---- what only a client can send ---- */

static void test_hostile(void **state)
{
	static char long_text[1000];
	Um__DeploymentSpec *s;
	Um__Placement *p;
	Um__LabelExpr *e;

	(void)state;
	memset(long_text, 'x', sizeof(long_text) - 1);
	s = new_spec(&p);
	errors(s, 0, "", "");

	s = new_spec(&p);
	set(&add_expr(p, "a = b")->key, "");
	errors(s, 1, "where[0]", "label '' must be");
	s = new_spec(&p);
	set(&add_expr(p, "a = b")->key, long_text);
	errors(s, 1, "where[0]", "1 to 63 letters");
	s = new_spec(&p);
	set(&add_expr(p, "a = b")->values[0], long_text);
	errors(s, 1, "where[0]", "at most 63 bytes");
	s = new_spec(&p);
	add_expr(p, "a")->op = UM__LABEL_OP__LABEL_IN;
	errors(s, 1, "where[0]", "0 values are not within 1 to 16");
	s = new_spec(&p);
	add_expr(p, "a = b")->op = UM__LABEL_OP__LABEL_AT_LEAST;
	errors(s, 1, "where[0]", "only 'in' and 'not in' have values");
	s = new_spec(&p);
	add_expr(p, "a")->op = (Um__LabelOp)77;
	errors(s, 1, "where[0]", "operator 77 is unknown");
	s = new_spec(&p);
	add_expr(p, "a")->op = (Um__LabelOp)-1;
	errors(s, 1, "where[0]", "operator -1 is unknown");
	/* The path counts in the list where the YAML has it. */
	s = new_spec(&p);
	add_expr(p, "a")->preferred = true;
	(void)add_expr(p, "b");
	e = add_expr(p, "c");
	set(&e->key, "c c");
	e->preferred = true;
	errors(s, 1, "prefer[1]", "label 'c c'");
	s = new_spec(&p);
	for (int i = 0; i < 1000; i++)
		(void)add_expr(p, "a");
	errors(s, 1, "where", "1000 expressions and host_labels are more than 16");
	/* A million values: refused in no time. */
	s = new_spec(&p);
	for (int i = 0; i < 2; i++) {
		static char name[] = "x";

		e = add_expr(p, "a = b");
		free(e->values[0]);
		free(e->values);
		e->n_values = 1000000;
		e->values = malloc(e->n_values * sizeof(*e->values));
		assert_non_null(e->values);
		for (size_t k = 0; k < e->n_values; k++)
			e->values[k] = i ? (char *)(uintptr_t)protobuf_c_empty_string : name;
	}
	{
		struct spec_errors list;

		spec_errors_init(&list);
		assert_int_equal(spec_check(s, &list), 2);
		spec_errors_free(&list);
		for (int i = 0; i < 2; i++)
			p->where[i]->n_values = 0;
		free(p->where[0]->values);
		free(p->where[1]->values);
		p->where[0]->values = p->where[1]->values = NULL;
	}
	release(s);
	/* Preferred ones contradict nothing. */
	s = new_spec(&p);
	(void)add_expr(p, "a = b");
	add_expr(p, "a != b")->preferred = true;
	errors(s, 0, "", "");

	s = new_spec(&p);
	set(&add_toleration(p, "a")->key, "a b");
	errors(s, 1, "tolerate[0]", "'a b' must be");
	s = new_spec(&p);
	set(&add_toleration(p, "a=b")->key, "");
	errors(s, 1, "tolerate[0]", "must be");
	s = new_spec(&p);
	add_toleration(p, "a=b")->any_value = true;
	errors(s, 1, "tolerate[0]", "either a value or any");
	s = new_spec(&p);
	set(&add_toleration(p, "a=b")->value, long_text);
	errors(s, 1, "tolerate[0]", "at most 63");
	s = new_spec(&p);
	for (int i = 0; i < 17; i++) {
		char text[16];

		(void)snprintf(text, sizeof(text), "t%d", i);
		(void)add_toleration(p, text);
	}
	errors(s, 1, "tolerate", "17 are more than 16");

	s = new_spec(&p);
	(void)add_affinity(p, "", false, "");
	errors(s, 1, "with[0].guest", "is missing");
	s = new_spec(&p);
	(void)add_affinity(p, "db", true, "");
	(void)add_affinity(p, long_text, true, "");
	errors(s, 1, "apart[1].guest", "there is no guest 'xxx");
	s = new_spec(&p);
	for (int i = 0; i < 17; i++) {
		char over[16];

		(void)snprintf(over, sizeof(over), "o%d", i);
		(void)add_affinity(p, "db", i & 1, over);
	}
	errors(s, 1, "with", "17 entries of with and apart are more than 16");
	/* A group may be beside and apart from itself. */
	s = new_spec(&p);
	(void)add_affinity(p, "web", false, "zone");
	(void)add_affinity(p, "web", true, "");
	errors(s, 0, "", "");
	s = new_spec(&p);
	(void)add_affinity(p, "web", false, "");
	(void)add_affinity(p, "web", true, "zone");
	errors(s, 1, "apart[0]", "both with and apart");
	s = new_spec(&p);
	(void)add_affinity(p, "web", false, "");
	p->exclusive = true;
	errors(s, 1, "with[0]", "has a host of its own");

	/* Of none there is no neighbour. */
	for (int i = 0; i < 4; i++) {
		s = new_spec(&p);
		s->groups[0]->count_set = true;
		s->groups[0]->count = 0;
		(void)add_affinity(p, s->groups[0]->name, i == 1, i == 3 ? "zone" : "");
		p->affinity[0]->preferred = i == 2;
		errors(s, i == 0 || i == 3, i == 0 || i == 3 ? "with[0]" : "",
			i == 0 || i == 3 ? "has the count 0" : "");
	}

	s = new_spec(&p);
	(void)add_spread(p, "", 1);
	errors(s, 1, "spread[0].over", "is missing");
	s = new_spec(&p);
	(void)add_spread(p, "zone", 0);
	errors(s, 1, "spread[0].max_skew", "a skew of 0");
	s = new_spec(&p);
	(void)add_spread(p, "zone", UINT32_MAX);
	errors(s, 1, "spread[0].max_skew", "a skew of 4294967295");
}

/* ---- hashes and differences ---- */

struct told {
	char text[1024];
};

static void note(void *arg, enum spec_effect effect, const char *text)
{
	struct told *t = arg;
	size_t n = strlen(t->text);

	assert_int_equal(effect, SPEC_LIVE);
	(void)snprintf(t->text + n, sizeof(t->text) - n, "%s|", text);
}

static void change(Um__Placement *p, int i)
{
	switch (i) {
	case 0:
		(void)add_expr(p, "zone in (a, b)");
		break;
	case 1:
		add_expr(p, "ssd")->preferred = true;
		break;
	case 2:
		(void)add_toleration(p, "*");
		break;
	case 3:
		(void)add_affinity(p, "db", false, "rack");
		break;
	case 4:
		add_affinity(p, "db", true, "")->preferred = true;
		break;
	case 5:
		(void)add_spread(p, "zone", 2);
		break;
	case 6:
		p->exclusive = true;
		break;
	case 7:
		p->strategy = UM__STRATEGY__PACK;
		p->max_per_host = 3;
		p->priority = -2;
		break;
	default:
		break;
	}
}

static void test_changes(void **state)
{
	static const char *const texts[] = {"where: none -> zone in (a, b)|",
		"prefer: none -> ssd|", "tolerate: none -> *|", "with: none -> db over rack|",
		"apart: none -> db preferred|", "spread: none -> zone by 2|",
		"placement: none -> exclusive|",
		"placement: none -> pack, 3 per host, priority -2|"};
	uint64_t hashes[UNIT_COUNT(texts)];

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(texts); i++) {
		Um__Placement *old, *new;
		Um__DeploymentSpec *a = new_spec(&old), *b = new_spec(&new);
		const Um__GuestSpec *x = a->groups[1]->guest, *y = b->groups[1]->guest;
		struct told told = {""};

		change(new, (int)i);
		assert_int_equal(spec_guest_diff(x, y, note, &told), SPEC_LIVE);
		assert_string_equal(told.text, texts[i]);
		/* Told alone it is the same. */
		{
			const char *arrow = strstr(texts[i], " none -> ");
			char line[128];
			struct buf told_text;

			(void)snprintf(line, sizeof(line), "%.*s %s", (int)(arrow - texts[i]),
				texts[i], arrow + strlen(" none -> "));
			line[strlen(line) - 1] = '\n';
			buf_init(&told_text);
			spec_placement_text(y->placement, &told_text);
			assert_string_equal(buf_text(&told_text), line);
			buf_free(&told_text);
		}
		/* A running guest is left alone. */
		assert_true(spec_boot_hash(x) == spec_boot_hash(y));
		assert_true(spec_disk_hash(x) == spec_disk_hash(y));
		assert_true(spec_live_hash(x) != spec_live_hash(y));
		hashes[i] = spec_live_hash(y);
		for (size_t k = 0; k < i; k++)
			assert_true(hashes[i] != hashes[k]);
		release(a);
		release(b);
	}
	{
		Um__Placement *p;
		Um__DeploymentSpec *s = new_spec(&p);
		uint64_t hash = spec_hash(s);

		s->gang = true;
		assert_true(spec_hash(s) != hash);
		release(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_torn),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
