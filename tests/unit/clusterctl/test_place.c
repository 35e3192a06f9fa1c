/* Placement in YAML: what is read of it, and its mistakes with their places. */
#include "clusterctl/lab.h"

#include "tests/unit/clusterctl/labkit.h"

#define LAB "name: t\nguests:\n  db: {image: b}\n  app: {image: b, count: 4}\n"
/* Line 8 is the first of TEXT, at column 7. */
#define PLACE LAB "  web:\n    image: b\n    placement:\n      "

static const struct bad bad[] = {
	{"wher: [ssd]", "8:7: ", "unknown key 'wher' in placement; did you mean 'where'?"},
	{"affinity: [db]", "8:7: ", "it may have strategy, host, host_labels, where"},
	/* Expressions: the column is that of the mistake. */
	{"where: [zone in (a]", "8:25: ", "the ')' is missing"},
	{"where: [zone in (a, b)]", "8:25: ", "an expression with commas needs quotes|"},
	{"where: zone in (a", "8:24: ", "the ')' is missing"},
	{"where: zone in (a b)", "8:25: ", "expected ',' or ')' before 'b)'"},
	{"where: zone in ()", "8:22: ", "the list of values is empty"},
	{"where: zone in (a, )", "8:26: ", "a value must stand before ')'"},
	{"where: zone in a", "8:22: ", "must stand in ( ), as in 'zone in (a, b)'"},
	{"where: zone not in a", "8:26: ", "as in 'zone not in (a, b)'"},
	{"where: zone not a", "8:23: ", "expected 'in' after 'not'"},
	{"where: zone is a", "8:19: ", "'is' is unknown; did you mean 'in'? (one of =, !=, in"},
	{"where: zone =", "8:20: ", "a value is missing"},
	{"where: zone = a b", "8:23: ", "'b' is too much after 'zone = a'"},
	{"where: ssd hdd", "8:18: ", "'hdd' is unknown"},
	{"where: \"!ssd hdd\"", "8:20: ", "'hdd' is too much after '!ssd'"},
	{"where: \"\"", "8:15: ", "the expression is empty"},
	{"where: \"  \"", "8:17: ", "the expression is empty"},
	{"where: \"= a\"", "8:15: ", "a label's name must stand before '= a'"},
	{"where: \"!\"", "8:16: ", "the expression is empty"},
	{"where: zo%ne = a", "8:16: ", "label 'zo%ne' must be 1 to 63 letters"},
	{"where: \"\\u00e4 = a\"", "8:14: ", "must be 1 to 63 letters"},
	{"where: cores > 8", "8:20: ", "write >= for whole numbers"},
	{"where: cores >= many", "8:23: ", "'many' is not a whole number"},
	{"where: cores >= 8.5", "8:23: ", "'8.5' is not a whole number"},
	{"where: cores <= 99999999999999999999", "8:23: ", "of 64 bits"},
	{"where: zone = 'a b", "8:21: ", "the closing ' is missing"},
	{"where: zone = "
	 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234",
		"8:21: ", "a value is at most 63 bytes long"},
	{"where: zone in (1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17)",
		"8:62: ", "more than 16 values"},
	{"where: [ssd, [gpu]]", "8:20: ", "where: expected a text, not a list"},
	{"where: {zone: a}", "8:14: ", "expected a list, not a map"},
	{"where: [{zone: a}]", "8:15: ", "expected a text, not a map (write zone = a)"},
	{"where: [zone: a]", "8:15: ", "(write zone = a)"},
	{"with: {guest: db}", "8:13: ", "expected a list, not a map"},
	{"where: [!gpu ]", "8:15: ", "a text that starts with '!' needs quotes"},
	{"prefer: [ssd, cores >= x]", "8:30: ", "prefer: 'x' is not a whole number"},
	{"where:\n        - ssd\n        - 'zone in [a]'", "10:20: ", "must stand in ( )"},
	{"where: >-\n        zone in\n        a", "8:14: ", "must stand in ( )"},
	{"where: host = H1", "8:14: ", "may only have a-z"},
	{"where: \"!host\"", "8:14: ", "every host has a name"},
	{"where: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]",
		"8:7: ", "17 expressions and host_labels are more than 16"},
	{"prefer: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]", "8:7: ", "more than 16"},
	/* What cannot be. */
	{"where: [zone = a, zone = b]", "8:15: ", "'zone = a' and 'zone = b' exclude each other"},
	{"where: [zone = a, zone != a]", "8:15: ", "exclude each other"},
	{"where: [ssd, \"!ssd\"]", "8:15: ", "'ssd' and '!ssd' exclude each other"},
	{"where: [zone = a, not zone]", "8:15: ", "exclude each other"},
	{"where: [cores >= 8, cores <= 4]", "8:15: ", "exclude each other"},
	{"where: [cores <= 4, cores >= 8]", "8:15: ", "exclude each other"},
	{"where: [cores = 4, cores >= 8]", "8:15: ", "exclude each other"},
	{"where: [\"z in (a, b)\", z != a, z != b]",
		"8:15: ", "required of label 'z' no value is left"},
	{"host: h1\n      where: [\"host not in (h1, h2)\"]",
		"9:15: ", "'host not in (h1, h2)' and 'host = h1' of host exclude"},
	{"host_labels: {zone: a}\n      where: [zone = b]", "9:15: ", "of host_labels exclude"},
	{"host_labels: {zone: "
	 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234}",
		"8:27: ", "at most 63 bytes"},
	{"exclusive: true\n      max_per_host: 2", "9:21: ", "'exclusive' means one guest"},
	/* Tolerations. */
	{"tolerate: [a b]", "8:19: ", "'a b' is not KEY, KEY=VALUE or '*'"},
	{"tolerate: \"\"", "8:18: ", "is not KEY"},
	{"tolerate: [\"=x\"]", "8:19: ", "is not KEY"},
	{"tolerate: [{gpu: x}]", "8:18: ", "expected a text, not a map"},
	{"tolerate: [gpu, gpu]", "8:23: ", "is given twice"},
	{"tolerate: [*]", "8:", "|"},
	/* Neighbours. */
	{"with: [dbb]", "8:14: ", "there is no guest 'dbb' in this lab; did you mean 'db'?"},
	{"with: [app-2]", "8:14: ", "'app-2' is one of the guests of 'app'; write 'app'"},
	{"with: [web]", "8:14: ", "guest 'web' is always beside itself"},
	{"with: [db, db]", "8:18: ", "guest 'db' is given twice"},
	{"with: [{guest: db, over: host}, db]", "8:39: ", "guest 'db' is given twice"},
	{"with: db\n      apart: db", "9:14: ", "both with and apart from guest 'db'"},
	{"with: [{guest: db, over: zone}]\n      apart: [{guest: db, over: zone}]",
		"9:15: ", "both with and apart"},
	{"with: db\n      exclusive: true", "8:13: ", "this guest has a host of its own"},
	{"with: [{gest: db}]",
		"8:15: ", "unknown key 'gest' in a neighbour; did you mean 'guest'?"},
	{"with: [{over: zone}]", "8:14: ", "the name of the guest is missing"},
	{"with: [{guest: db, over: \"a b\"}]", "8:32: ", "label 'a b' must be"},
	{"apart: [{guest: db, preferred: yes}]", "8:38: ", "'yes' is neither true nor false"},
	{"apart: [[db]]", "8:15: ", "expected a map, not a list"},
	{"apart: nobody", "8:14: ", "there is no guest 'nobody'"},
	{"apart: [{guest: nobody}]", "8:23: ", "there is no guest 'nobody'"},
	/* Spread. */
	{"spread: [zone, zone]", "8:22: ", "'zone' is given twice"},
	{"spread: [{max_skew: 1}]", "8:16: ", "the label to spread over is missing"},
	{"spread: [{over: zone, max_skew: 0}]", "8:39: ", "a skew of 0 is not within 1 to"},
	{"spread: [{over: zone, max_skew: -1}]", "8:39: ", "is not within"},
	{"spread: [{over: zone, skew: 1}]", "8:29: ", "unknown key 'skew' in a spread"},
	{"spread: [a, b, c, d, e]", "8:7: ", "5 are more than 4"},
	{"spread: \"a b\"", "8:15: ", "label 'a b' must be"},
	{"exclusive: yes", "8:18: ", "'yes' is neither true nor false"},
	{"exclusive: [true]", "8:18: ", "expected a text, not a list"},
};

static void test_mistakes(void **state)
{
	static const struct bad whole[] = {
		{"name: t\ngang: 1\n", "2:7: ", "gang: '1' is neither true nor false"},
		{"name: t\ngnag: true\n", "2:1: ", "did you mean 'gang'?"},
		{LAB "  e: {image: b, placement: {exclusive: true}}\n"
		     "  f: {image: b, placement: {with: [e]}}\n",
			"6:36: ", "guest 'e' has a host of its own"},
		{LAB "  e: {image: b, placement: {host: h1}}\n"
		     "  f: {image: b, placement: {host: h2, with: [e]}}\n",
			"6:46: ", "guest 'e' has the fixed host 'h1', this one 'h2'"},
		{LAB "  e: {image: b, count: 3, placement: {with: [e], max_per_host: 2}}\n",
			"5:46: ", "all 3 guests on one host, but 'max_per_host' allows 2"},
		{"name: t\ndefaults: {image: b}\nguests:\n"
		 "  a: {placement: {with: [{guest: b, over: zone}]}}\n"
		 "  b: {placement: {apart: a, with: c}}\n  c: {placement: {with: a}}\n",
			"6:25: ", "each waits for the next to be placed: a -> b -> c -> a"},
		/* A mistake in what all take is one mistake. */
		{"name: t\ndefaults: {image: b, placement: {where: [a in b]}}\n"
		 "guests: {a: , b: , c: }\n",
			"2:47: ", "must stand in ( )"},
	};

	(void)state;
	wrong = 0;
	for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
		char yaml[2048];

		(void)snprintf(yaml, sizeof(yaml), PLACE "%s\n", bad[i].text);
		expect(yaml, bad[i].place, bad[i].says);
	}
	for (size_t i = 0; i < UNIT_COUNT(whole); i++)
		expect(whole[i].text, whole[i].place, whole[i].says);
	assert_int_equal(wrong, 0);
}

static const char good[] =
	"name: t\n"
	"gang: true\n"
	"defaults:\n"
	"  image: b\n"
	"  placement: {tolerate: [lab, \"*\", gpu=yes], prefer: ssd}\n"
	"guests:\n"
	"  db:\n"
	"    count: 3\n"
	"    placement:\n"
	"      where:\n"
	"        - zone in (a, \"b c\", 'd')\n"
	"        - zone not in (x,y)\n"
	"        - rack = r1\n"
	"        - rack != r2\n"
	"        - kvm\n"
	"        - \"!gpu\"\n"
	"        - not old\n"
	"        - cores >= 8\n"
	"        - cores <= -3\n"
	"        - not = x\n"
	"        - generation=3\n"
	"      spread: [zone, {over: host, max_skew: 2, preferred: true}]\n"
	"      with: [{guest: db, over: region}]\n"
	"      exclusive: true\n"
	"  web:\n"
	"    placement: {apart: [db, {guest: db, over: zone, preferred: true}], with: web2}\n"
	"  web2: {placement: {with: web}}\n";

static void test_good(void **state)
{
	static const char *const texts[] = {"zone in (a, \"b c\", d)", "zone not in (x, y)",
		"rack = r1", "rack != r2", "kvm", "!gpu", "!old", "cores >= 8", "cores <= -3",
		"not = x", "generation = 3", "ssd"};
	struct labs labs = {0};
	char *got = complaints(good, strlen(good), &labs);
	const Um__DeploymentSpec *spec;
	const Um__Placement *p;

	(void)state;
	/* "cores >= 8, cores <= -3" cannot be: the only mistake. */
	assert_non_null(strstr(got, "f.yaml:18:11: "));
	assert_null(strchr(got, '\n')[1] ? got : NULL);
	free(got);
	labs_free(&labs);
	{
		char fine[sizeof(good)];

		memcpy(fine, good, sizeof(good));
		memcpy(strstr(fine, "-3"), "64", 2);
		got = complaints(fine, strlen(fine), &labs);
	}
	assert_string_equal(got, "");
	free(got);
	spec = labs.items[0].spec;
	assert_true(spec->gang);
	p = spec->groups[0]->guest->placement;
	assert_int_equal(p->n_where, UNIT_COUNT(texts));
	for (size_t i = 0; i < p->n_where; i++) {
		struct buf b;

		buf_init(&b);
		spec_expr_text(p->where[i], &b);
		if (i != 8)
			assert_string_equal(buf_text(&b), texts[i]);
		assert_int_equal(p->where[i]->preferred, i == 11);
		buf_free(&b);
	}
	assert_int_equal(p->n_tolerate, 3);
	assert_true(p->tolerate[0]->any_value && p->tolerate[1]->any_value);
	assert_string_equal(p->tolerate[1]->key, "");
	assert_false(p->tolerate[2]->any_value);
	assert_string_equal(p->tolerate[2]->value, "yes");
	assert_int_equal(p->n_spread, 2);
	assert_int_equal(p->spread[0]->max_skew, 1);
	assert_int_equal(p->spread[1]->max_skew, 2);
	assert_true(p->spread[1]->preferred && p->exclusive);
	p = spec->groups[1]->guest->placement;
	assert_int_equal(p->n_affinity, 3);
	assert_int_equal(p->n_tolerate, 3);
	assert_int_equal(p->n_where, 1);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(p->affinity[i]->apart, i < 2);
	assert_string_equal(p->affinity[1]->over, "zone");
	assert_string_equal(p->affinity[2]->guest, "web2");
	labs_free(&labs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_good),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
