/* Text helpers. */
#include "lib/str.h"

#include <errno.h>
#include <stdlib.h>

#include "tests/unit/unit.h"

static void test_copy(void **state)
{
	char b[4] = "zzz";

	(void)state;
	assert_int_equal(str_copy(b, 4, "abc"), 0);
	assert_string_equal(b, "abc");
	assert_int_equal(str_copy(b, 4, "abcd"), -ENAMETOOLONG);
	assert_string_equal(b, "");
	b[0] = 'q';
	assert_int_equal(str_copy(b, 0, ""), -ENAMETOOLONG);
	assert_int_equal(b[0], 'q');
	assert_int_equal(str_format(b, 4, "%d", 123), 3);
	assert_int_equal(str_format(b, 4, "%d", 1234), -ENAMETOOLONG);
	assert_string_equal(b, "");
}

static void test_names(void **state)
{
	static const char *const good[] = {"a", "0", "a-b", "web-1", "a--b",
		"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff123"};
	static const char *const bad[] = {"", "-", "-a", "a-", "A", "a_b", "a.b", "a/b", "a b",
		"\xc3\xa4", "a\n", "%s%n",
		"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234"};
	struct err err;

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(good); i++) {
		err = ERR_INIT;
		unit_ok(str_check_name("guest", good[i], &err), &err);
	}
	for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
		err = ERR_INIT;
		assert_int_equal(str_check_name("guest", bad[i], &err), -EINVAL);
		unit_says(&err, "guest");
	}
}

static void test_nearest(void **state)
{
	static const char *const words[] = {"networks", "guests", "name", "defaults", "run"};
	char long_word[200];

	(void)state;
	assert_string_equal(str_nearest("netwroks", words, 5), "networks");
	assert_string_equal(str_nearest("guest", words, 5), "guests");
	assert_string_equal(str_nearest("nmae", words, 5), "name");
	assert_string_equal(str_nearest("default", words, 5), "defaults");
	assert_null(str_nearest("xyzzy", words, 5));
	assert_null(str_nearest("", words, 5));
	assert_null(str_nearest("q", words, 5));
	assert_null(str_nearest("name", words, 0));
	memset(long_word, 'n', sizeof(long_word) - 1);
	long_word[sizeof(long_word) - 1] = 0;
	assert_null(str_nearest(long_word, words, 5));
}

static void test_hex(void **state)
{
	uint8_t data[3] = {0};
	char text[7];

	(void)state;
	str_hex(text, "\x00\xaf\xff", 3);
	assert_string_equal(text, "00afff");
	assert_int_equal(str_unhex(data, 3, "00aFfF"), 0);
	assert_memory_equal(data, "\x00\xaf\xff", 3);
	assert_int_equal(str_unhex(data, 3, "00afff0"), -EINVAL);
	assert_int_equal(str_unhex(data, 3, "00aff"), -EINVAL);
	assert_int_equal(str_unhex(data, 3, "11111g"), -EINVAL);
	assert_memory_equal(data, "\x00\xaf\xff", 3); /* unchanged on failure */
}

static void test_numbers(void **state)
{
	uint64_t u = 7;
	int64_t i = 7;

	(void)state;
	assert_int_equal(str_u64("18446744073709551615", 0, UINT64_MAX, &u), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(str_u64("18446744073709551616", 0, UINT64_MAX, &u), -ERANGE);
	assert_int_equal(str_u64("99999999999999999999999", 0, UINT64_MAX, &u), -ERANGE);
	assert_int_equal(str_u64("", 0, 9, &u), -EINVAL);
	assert_int_equal(str_u64("+1", 0, 9, &u), -EINVAL);
	assert_int_equal(str_u64("-1", 0, 9, &u), -EINVAL);
	assert_int_equal(str_u64("1 ", 0, 9, &u), -EINVAL);
	assert_int_equal(str_u64("0x1", 0, 9, &u), -EINVAL);
	assert_int_equal(str_u64("4", 5, 9, &u), -ERANGE);
	assert_int_equal(str_u64("10", 5, 9, &u), -ERANGE);
	assert_true(u == UINT64_MAX);
	assert_int_equal(str_u64("0005", 5, 9, &u), 0);
	assert_true(u == 5);
	assert_int_equal(str_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &i), 0);
	assert_true(i == INT64_MIN);
	assert_int_equal(str_i64("-9223372036854775809", INT64_MIN, INT64_MAX, &i), -ERANGE);
	assert_int_equal(str_i64("9223372036854775808", INT64_MIN, INT64_MAX, &i), -ERANGE);
	assert_int_equal(str_i64("-", INT64_MIN, INT64_MAX, &i), -EINVAL);
	assert_int_equal(str_i64("--1", INT64_MIN, INT64_MAX, &i), -EINVAL);
	assert_int_equal(str_i64("-0", -1, 1, &i), 0);
	assert_true(i == 0);
	assert_int_equal(str_i64("-5", -4, 4, &i), -ERANGE);
}

static void test_utf8(void **state)
{
	static const struct {
		const char *text;
		size_t size;
		bool good;
	} cases[] = {{"", 0, true}, {"abc", 3, true}, {"a\0b", 3, false}, {"\xc3\xa4", 2, true},
		{"\xc3", 1, false}, {"\xa4", 1, false}, {"\xc0\x80", 2, false},
		{"\xe2\x82\xac", 3, true}, {"\xe0\x80\xaf", 3, false}, {"\xed\xa0\x80", 3, false},
		{"\xf0\x9f\x98\x80", 4, true}, {"\xf4\x90\x80\x80", 4, false},
		{"\xf8\x88\x80\x80\x80", 5, false}, {"\xff", 1, false}, {"\xe2\x82", 2, false}};

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(cases); i++)
		if (str_is_utf8(cases[i].text, cases[i].size) != cases[i].good)
			fail_msg("case %zu", i);
	assert_true(str_starts("abc", ""));
	assert_true(str_starts("abc", "ab"));
	assert_false(str_starts("ab", "abc"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_hex),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_utf8),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
