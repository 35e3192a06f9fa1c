/* Addresses, prefixes, MACs. */
#include "lib/net.h"

#include <errno.h>

#include "tests/unit/unit.h"

static struct net_prefix prefix(const char *text)
{
	struct net_prefix p;
	struct err err = ERR_INIT;

	unit_ok(net_prefix_parse(text, &p, &err), &err);
	return p;
}

static struct net_addr addr(const char *text)
{
	struct net_addr a;
	struct err err = ERR_INIT;

	unit_ok(net_addr_parse(text, &a, &err), &err);
	return a;
}

static void test_addr(void **state)
{
	static const char *const bad[] = {"", "1.2.3", "1.2.3.256", "1.2.3.4 ", " 1.2.3.4",
		"::1%eth0", "1.2.3.4/24", "host", "fd00:::1", "01.2.3.4.5"};
	struct net_addr a = addr("10.1.0.1"), b;
	char t[NET_ADDR_TEXT];

	(void)state;
	assert_string_equal(net_addr_text(t, &a), "10.1.0.1");
	a = addr("FD00::0:1");
	assert_string_equal(net_addr_text(t, &a), "fd00::1");
	assert_int_equal(net_addr_size(&a), 16);
	for (size_t i = 0; i < UNIT_COUNT(bad); i++)
		assert_int_equal(net_addr_parse(bad[i], &b, NULL), -EINVAL);
	assert_int_equal(net_addr_from("\x0a\1\0\1", 4, &b), 0);
	a = addr("10.1.0.1");
	assert_true(net_addr_equal(&a, &b));
	assert_int_equal(net_addr_from(NULL, 0, &b), 0);
	assert_int_equal(b.family, 0);
	assert_string_equal(net_addr_text(t, &b), "");
	assert_int_equal(net_addr_from(t, 5, &b), -EINVAL);
	b = addr("::ffff:10.1.0.1");
	assert_false(net_addr_equal(&a, &b));
	assert_true(net_addr_cmp(&a, &b) < 0 && net_addr_cmp(&b, &a) > 0);
}

static void test_prefix(void **state)
{
	static const char *const bad[] = {"10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1",
		"10.0.0.0/8x", "/24", "fd00::/129", "x/24", "10.0.0.0/24/24"};
	struct net_prefix p, q;
	struct net_addr a;
	struct err err = ERR_INIT;
	char t[NET_ADDR_TEXT];

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(bad); i++)
		assert_int_equal(net_prefix_parse(bad[i], &p, NULL), -EINVAL);
	assert_int_equal(net_prefix_parse("10.1.0.7/22", &p, &err), -EINVAL);
	unit_says(&err, "10.1.0.0/22");
	p = prefix("10.1.4.0/22");
	assert_string_equal(net_prefix_text(t, &p), "10.1.4.0/22");
	a = addr("10.1.7.255");
	assert_true(net_prefix_contains(&p, &a));
	a = addr("10.1.8.0");
	assert_false(net_prefix_contains(&p, &a));
	a = addr("::10.1.4.1");
	assert_false(net_prefix_contains(&p, &a));
	q = prefix("10.1.7.128/25");
	assert_true(net_prefix_overlaps(&p, &q) && net_prefix_overlaps(&q, &p));
	q = prefix("10.1.8.0/22");
	assert_false(net_prefix_overlaps(&p, &q) || net_prefix_overlaps(&q, &p));
	q = prefix("0.0.0.0/0");
	assert_true(net_prefix_overlaps(&p, &q) && net_prefix_overlaps(&q, &p));
	q = prefix("::/0");
	assert_false(net_prefix_overlaps(&p, &q) || net_prefix_overlaps(&q, &p));
}

static void test_hosts(void **state)
{
	static const struct {
		const char *prefix;
		uint64_t hosts;
		const char *first, *last;
	} cases[] = {{"10.0.0.0/24", 254, "10.0.0.1", "10.0.0.254"},
		{"10.0.0.0/30", 2, "10.0.0.1", "10.0.0.2"},
		{"10.0.0.0/31", 2, "10.0.0.0", "10.0.0.1"},
		{"10.0.0.9/32", 1, "10.0.0.9", "10.0.0.9"},
		{"10.0.0.0/8", 16777214, "10.0.0.1", "10.255.255.254"},
		{"0.0.0.0/0", 4294967294, "0.0.0.1", "255.255.255.254"},
		{"fd00::/64", UINT64_C(1) << 32, "fd00::1", "fd00::1:0:0"},
		{"fd00::/126", 3, "fd00::1", "fd00::3"}, {"fd00::/127", 2, "fd00::", "fd00::1"},
		{"fd00::5/128", 1, "fd00::5", "fd00::5"},
		{"::/0", UINT64_C(1) << 32, "::1", "::1:0:0"}};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		struct net_prefix p = prefix(cases[i].prefix);
		uint64_t n = net_prefix_hosts(&p), back = 99;
		struct net_addr a, want;

		assert_true(n == cases[i].hosts);
		assert_int_equal(net_prefix_host(&p, 0, &a), 0);
		want = addr(cases[i].first);
		assert_true(net_addr_equal(&a, &want));
		assert_int_equal(net_prefix_index(&p, &a, &back), 0);
		assert_true(back == 0);
		assert_int_equal(net_prefix_host(&p, n - 1, &a), 0);
		want = addr(cases[i].last);
		assert_true(net_addr_equal(&a, &want));
		assert_int_equal(net_prefix_index(&p, &a, &back), 0);
		assert_true(back == n - 1);
		assert_int_equal(net_prefix_host(&p, n, &a), -ERANGE);
	}
}

static void test_index(void **state)
{
	struct net_prefix p = prefix("10.0.0.0/24"), six = prefix("fd00::/64");
	struct net_addr a;
	uint64_t n = 99;

	(void)state;
	a = addr("10.0.0.0");
	assert_int_equal(net_prefix_index(&p, &a, &n), -ERANGE);
	a = addr("10.0.0.255");
	assert_int_equal(net_prefix_index(&p, &a, &n), -ERANGE);
	a = addr("10.0.1.1");
	assert_int_equal(net_prefix_index(&p, &a, &n), -ERANGE);
	a = addr("fd00::");
	assert_int_equal(net_prefix_index(&six, &a, &n), -ERANGE);
	a = addr("fd00::ffff:ffff:ffff:ffff");
	assert_int_equal(net_prefix_index(&six, &a, &n), -ERANGE);
	assert_true(n == 99);
	for (uint64_t i = 0; i < 254; i++) {
		assert_int_equal(net_prefix_host(&p, i, &a), 0);
		assert_int_equal(net_prefix_index(&p, &a, &n), 0);
		assert_true(n == i);
	}
}

static void test_mac(void **state)
{
	static const char *const bad[] = {"", "02:00:00:00:00", "02:00:00:00:00:0g", "020000000001",
		"02-00-00-00-00-01", "02:00:00:00:00:01:", "2:0:0:0:0:1", "02:00:00:00:00:011"};
	struct net_mac m;
	char t[NET_ADDR_TEXT];

	(void)state;
	assert_int_equal(net_mac_parse("02:00:AB:cd:00:01", &m, NULL), 0);
	assert_string_equal(net_mac_text(t, &m), "02:00:ab:cd:00:01");
	assert_true(net_mac_is_unicast(&m));
	for (size_t i = 0; i < UNIT_COUNT(bad); i++)
		assert_int_equal(net_mac_parse(bad[i], &m, NULL), -EINVAL);
	assert_int_equal(net_mac_parse("01:00:5e:00:00:01", &m, NULL), 0);
	assert_false(net_mac_is_unicast(&m));
	assert_int_equal(net_mac_parse("00:00:00:00:00:00", &m, NULL), 0);
	assert_false(net_mac_is_unicast(&m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addr),
		cmocka_unit_test(test_prefix),
		cmocka_unit_test(test_hosts),
		cmocka_unit_test(test_index),
		cmocka_unit_test(test_mac),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
