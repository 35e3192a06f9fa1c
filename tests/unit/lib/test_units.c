/* Sizes, durations, CPUs: what is taken, what is refused, and back to text. */
#include "lib/units.h"

#include <errno.h>

#include "tests/unit/unit.h"

struct one {
	const char *text;
	int rc;
	uint64_t value;
};

static void test_size(void **state)
{
	static const struct one cases[] = {{"0", 0, 0}, {"65536", 0, 65536}, {"64M", 0, 64u << 20},
		{"64m", 0, 64u << 20}, {"64 MiB", 0, 64u << 20}, {"1.5G", 0, 1610612736},
		{"1GB", 0, 1u << 30}, {"512K", 0, 524288}, {".5K", 0, 512},
		{"8388607T", 0, UINT64_C(8388607) << 40}, {"9223372036854775807", 0, INT64_MAX},
		{"9223372036854775808", -ERANGE, 0}, {"8388608T", -ERANGE, 0},
		{"16777216T", -ERANGE, 0}, {"", -EINVAL, 0}, {"M", -EINVAL, 0}, {"-1M", -EINVAL, 0},
		{"1X", -EINVAL, 0}, {"1MM", -EINVAL, 0}, {"1e9", -EINVAL, 0}, {".", -EINVAL, 0},
		{"1.2.3M", -EINVAL, 0}, {"0x10", -EINVAL, 0}, {"1M ", -EINVAL, 0},
		{"99999999999999999999999999", -EINVAL, 0}, {"64M\n", -EINVAL, 0}};
	struct err err;

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		uint64_t v = 77;
		int rc;

		err = ERR_INIT;
		rc = units_parse_size(cases[i].text, &v, &err);
		if (rc != cases[i].rc || v != (rc ? 77 : cases[i].value))
			fail_msg("'%s': %d, %llu", cases[i].text, rc, (unsigned long long)v);
		if (rc)
			unit_says(&err, "size");
	}
}

static void test_duration(void **state)
{
	static const struct one cases[] = {{"500ms", 0, 500}, {"10", 0, 10000}, {"10s", 0, 10000},
		{"1.5s", 0, 1500}, {"5m", 0, 300000}, {"2h", 0, 7200000}, {"1d", 0, 86400000},
		{"0", 0, 0}, {"", -EINVAL, 0}, {"s", -EINVAL, 0}, {"5 weeks", -EINVAL, 0},
		{"-5s", -EINVAL, 0}, {"9223372036854775807d", -ERANGE, 0}};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		uint64_t v = 77;
		int rc = units_parse_duration(cases[i].text, &v, NULL);

		if (rc != cases[i].rc || v != (rc ? 77 : cases[i].value))
			fail_msg("'%s': %d, %llu", cases[i].text, rc, (unsigned long long)v);
	}
}

static void test_cpus(void **state)
{
	static const struct one cases[] = {{"0.5", 0, 500}, {"2", 0, 2000}, {"250m", 0, 250},
		{"0.001", 0, 1}, {"1.25", 0, 1250}, {"", -EINVAL, 0}, {"two", -EINVAL, 0},
		{"5000000", -ERANGE, 0}, {"1M2", -EINVAL, 0}};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		uint32_t v = 77;
		int rc = units_parse_cpus(cases[i].text, &v, NULL);

		if (rc != cases[i].rc || v != (rc ? 77 : cases[i].value))
			fail_msg("'%s': %d, %u", cases[i].text, rc, v);
	}
}

static void test_text(void **state)
{
	char b[UNITS_TEXT];

	(void)state;
	assert_string_equal(units_size(b, 0), "0");
	assert_string_equal(units_size(b, 1023), "1023");
	assert_string_equal(units_size(b, 64u << 20), "64M");
	assert_string_equal(units_size(b, 1610612736), "1.5G");
	assert_string_equal(units_size(b, UINT64_MAX), "16.0E");
	assert_string_equal(units_duration(b, 0), "0ms");
	assert_string_equal(units_duration(b, 999), "999ms");
	assert_string_equal(units_duration(b, 3000), "3s");
	assert_string_equal(units_duration(b, 3099), "3s");
	assert_string_equal(units_duration(b, 9999), "9.9s");
	assert_string_equal(units_duration(b, 10900), "10s");
	assert_string_equal(units_duration(b, 130000), "2m10s");
	assert_string_equal(units_duration(b, 5 * 3600000), "5h");
	assert_string_equal(units_duration(b, 76 * 3600000), "3d4h");
	assert_non_null(units_duration(b, UINT64_MAX));
	assert_string_equal(units_cpus(b, 500), "0.5");
	assert_string_equal(units_cpus(b, 2000), "2");
	assert_string_equal(units_cpus(b, 1250), "1.25");
	assert_string_equal(units_cpus(b, 1), "0.001");
	for (uint64_t v = 1; v < UINT64_C(1) << 60; v <<= 1) { /* there and back */
		uint64_t back;

		assert_int_equal(
			units_parse_size(units_size(b, v), &back, NULL), v >> 50 ? -EINVAL : 0);
		if (!(v >> 50))
			assert_true(back == v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_duration),
		cmocka_unit_test(test_cpus),
		cmocka_unit_test(test_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
