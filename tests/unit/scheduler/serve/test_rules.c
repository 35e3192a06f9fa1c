/* Requirements of placement, from the message to the core. */
#include "scheduler/serve/serve_int.h"

#include <errno.h>

#include "spec/spec.h"
#include "tests/unit/unit.h"

/* Room for more than is allowed. */
struct made {
	Um__Placement p;
	Um__LabelExpr exprs[20], *expr_list[20];
	Um__Placement__HostLabelsEntry label, *label_list[1];
	Um__Toleration tolerations[20], *toleration_list[20];
	Um__Affinity affinities[20], *affinity_list[20];
	Um__SpreadOver spreads[20], *spread_list[20];
};

static void make(struct made *m)
{
	memset(m, 0, sizeof(*m));
	um__placement__init(&m->p);
	for (size_t i = 0; i < 20; i++) {
		um__label_expr__init(m->expr_list[i] = &m->exprs[i]);
		um__toleration__init(m->toleration_list[i] = &m->tolerations[i]);
		um__affinity__init(m->affinity_list[i] = &m->affinities[i]);
		um__spread_over__init(m->spread_list[i] = &m->spreads[i]);
	}
	um__placement__host_labels_entry__init(m->label_list[0] = &m->label);
	m->p.where = m->expr_list;
	m->p.host_labels = m->label_list;
	m->p.tolerate = m->toleration_list;
	m->p.affinity = m->affinity_list;
	m->p.spread = m->spread_list;
}

static void parse(struct made *m, const char *text)
{
	struct err err = ERR_INIT;
	size_t at;

	unit_ok(spec_expr_parse(text, &m->exprs[m->p.n_where++], &at, &err), &err);
}

static void release(struct made *m)
{
	for (size_t i = 0; i < 20; i++) {
		for (size_t k = 0; k < m->exprs[i].n_values; k++)
			free(m->exprs[i].values[k]);
		free(m->exprs[i].values);
		if (m->exprs[i].key != protobuf_c_empty_string)
			free(m->exprs[i].key);
	}
}

#define T(text) ((char *)(uintptr_t)(text))

static void test_all(void **state)
{
	static const enum core_cmp ops[] = {CORE_IN, CORE_NOT_IN, CORE_EXISTS, CORE_ABSENT,
		CORE_AT_LEAST, CORE_AT_MOST, CORE_IN};
	struct core_rules *r;
	struct err err = ERR_INIT;
	struct made m;

	(void)state;
	make(&m);
	unit_ok(rules_convert(NULL, &r, &err), &err);
	assert_null(r);
	unit_ok(rules_convert(&m.p, &r, &err), &err);
	assert_null(r);
	m.p.n_host_labels = 1;
	m.label.key = T("room");
	m.label.value = T("b12");
	parse(&m, "zone not in (a, b)");
	parse(&m, "ssd");
	parse(&m, "!gpu");
	parse(&m, "cores >= -8");
	parse(&m, "cores <= 64");
	parse(&m, "rack = r1");
	m.exprs[5].preferred = true;
	m.p.n_tolerate = 2;
	m.tolerations[0].any_value = true;
	m.tolerations[1].key = T("gpu");
	m.tolerations[1].value = T("yes");
	m.p.n_affinity = 2;
	m.affinities[0].guest = T("db");
	m.affinities[0].over = T("host");
	m.affinities[0].apart = true;
	m.affinities[1].guest = T("web");
	m.affinities[1].over = T("zone");
	m.affinities[1].preferred = true;
	m.p.n_spread = 1;
	m.spreads[0].over = T("zone");
	m.spreads[0].max_skew = 3;
	m.p.exclusive = true;
	unit_ok(rules_convert(&m.p, &r, &err), &err);
	assert_int_equal(r->expr_count, 7);
	for (size_t i = 0; i < 7; i++) {
		assert_int_equal(r->exprs[i].op, ops[i]);
		assert_int_equal(r->exprs[i].preferred, i == 6);
	}
	assert_string_equal(r->exprs[0].key, "room");
	assert_string_equal(r->exprs[0].values[0], "b12");
	assert_int_equal(r->exprs[1].value_count, 2);
	assert_string_equal(r->exprs[1].values[1], "b");
	assert_int_equal(r->exprs[2].value_count, 0);
	assert_int_equal(r->exprs[4].number, -8);
	assert_true(r->tolerations[0].any_value && !*r->tolerations[0].key);
	assert_string_equal(r->tolerations[1].value, "yes");
	assert_int_equal(r->affinity_count, 2);
	assert_string_equal(r->affinities[0].over, "");
	assert_true(r->affinities[0].apart && !r->affinities[0].preferred);
	assert_string_equal(r->affinities[1].over, "zone");
	assert_true(!r->affinities[1].apart && r->affinities[1].preferred);
	assert_int_equal(r->spreads[0].max_skew, 3);
	assert_true(r->exclusive);
	core_rules_free(r);
	release(&m);
}

/* What spec_check() would have refused: never a word too many in the core. */
static void test_too_much(void **state)
{
	char name[100];

	(void)state;
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	for (int i = 0; i < 11; i++) {
		char *values[17];
		struct core_rules *r;
		struct err err = ERR_INIT;
		struct made m;

		for (size_t k = 0; k < 17; k++)
			values[k] = T("v");
		make(&m);
		m.p.n_host_labels = m.p.n_where = m.p.n_tolerate = m.p.n_affinity = m.p.n_spread =
			1;
		switch (i) {
		case 0:
			m.label.key = name;
			break;
		case 1:
			m.label.value = name;
			break;
		case 2:
			m.p.n_where = 16;
			break;
		case 3:
			m.exprs[0].op = (Um__LabelOp)6;
			break;
		case 4:
			m.exprs[0].values = values;
			m.exprs[0].n_values = 17;
			break;
		case 5:
			m.p.n_tolerate = 17;
			break;
		case 6:
			m.p.n_affinity = 17;
			break;
		case 7:
			m.p.n_spread = 5;
			break;
		case 8:
			m.tolerations[0].value = name;
			break;
		case 9:
			m.affinities[0].over = name;
			break;
		default:
			m.spreads[0].over = name;
			break;
		}
		if (rules_convert(&m.p, &r, &err) != -EINVAL)
			fail_msg("case %d passed", i);
		assert_null(r);
	}
}

/* What an agent says comes back the same after a restart of the scheduler. */
static void test_facts(void **state)
{
	char *taints[65] = {T("gpu"), T("db=yes"), T("old:prefer"), T("a=b=c:prefer"), T("e=")};
	static const char *const again[] = {"gpu", "db=yes", "old:prefer", "a=b=c:prefer", "e"};
	static const char *const bad[] = {"", "=a", ":prefer", "=a:prefer",
		"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234",
		"k=aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234"};
	Um__HostFacts__LabelsEntry label = UM__HOST_FACTS__LABELS_ENTRY__INIT, *list[] = {&label};
	Um__HostFacts f = UM__HOST_FACTS__INIT, back = UM__HOST_FACTS__INIT;
	struct core_hostfacts facts = {0};
	struct core_host host = {0};
	struct err err = ERR_INIT;
	struct arena a = {0};

	(void)state;
	label.key = T("zone");
	label.value = T("a");
	f.labels = list;
	f.n_labels = 1;
	f.taints = taints;
	f.n_taints = 5;
	f.memory_overcommit = 1500;
	f.disk_overcommit = 100000;
	unit_ok(facts_convert(&f, &facts, &err), &err);
	assert_int_equal(facts.overcommit.memory, 1500);
	assert_int_equal(facts.overcommit.cpu, 0);
	host.labels = facts.labels;
	host.taints = facts.taints;
	host.overcommit = facts.overcommit;
	facts_of(&host, &back, &a);
	assert_int_equal(back.n_taints, 5);
	for (size_t i = 0; i < 5; i++)
		assert_string_equal(back.taints[i], again[i]);
	assert_int_equal(back.n_labels, 1);
	assert_string_equal(back.labels[0]->key, "zone");
	assert_string_equal(back.labels[0]->value, "a");
	assert_int_equal(back.disk_overcommit, 100000);
	arena_free(&a);
	facts_free(&facts);
	for (size_t i = 0; i < UNIT_COUNT(bad) + 2; i++) {
		facts = (struct core_hostfacts){0};
		err = ERR_INIT;
		f.n_taints = 1;
		if (i < UNIT_COUNT(bad))
			taints[0] = T(bad[i]);
		else if (i == UNIT_COUNT(bad))
			f.n_taints = 65;
		else
			f.disk_overcommit++;
		assert_int_equal(facts_convert(&f, &facts, &err), -EINVAL);
		facts_free(&facts);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_facts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
