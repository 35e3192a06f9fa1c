/* The JSON writer. */
#include "lib/json.h"

#include <math.h>

#include "tests/unit/unit.h"

static void test_compact(void **state)
{
	struct buf b;
	struct json j;

	(void)state;
	buf_init(&b);
	json_init(&j, &b, 0);
	json_object(&j, NULL);
	json_str(&j, "a\"\\\n\t\1", "x\x7f\xc3\xa4\xff");
	json_str(&j, "ok", "\xc3\xa4/");
	json_strn(&j, "nul", "a\0b", 3);
	json_str(&j, "none", NULL);
	json_u64(&j, "u", UINT64_MAX);
	json_i64(&j, "i", INT64_MIN);
	json_double(&j, "d", 0.5);
	json_double(&j, "nan", (double)NAN);
	json_double(&j, "inf", -(double)INFINITY);
	json_array(&j, "list");
	json_bool(&j, NULL, true);
	json_bool(&j, NULL, false);
	json_object(&j, NULL);
	json_end(&j);
	json_array(&j, NULL);
	json_end(&j);
	json_end(&j);
	json_null(&j, "z");
	json_end(&j);
	assert_string_equal(buf_text(&b),
		"{\"a\\\"\\\\\\n\\t\\u0001\":\"x\\u007f\\u00c3\\u00a4\\u00ff\",\"ok\":\"\xc3\xa4/"
		"\","
		"\"nul\":\"a\\u0000b\",\"none\":null,\"u\":18446744073709551615,"
		"\"i\":-9223372036854775808,\"d\":0.5,\"nan\":null,\"inf\":null,"
		"\"list\":[true,false,{},[]],\"z\":null}");
	buf_free(&b);
}

static void test_indent(void **state)
{
	struct buf b;
	struct json j;

	(void)state;
	buf_init(&b);
	json_init(&j, &b, 2);
	json_array(&j, NULL);
	json_object(&j, NULL);
	json_u64(&j, "a", 1);
	json_u64(&j, "b", 2);
	json_end(&j);
	json_object(&j, NULL);
	json_end(&j);
	json_end(&j);
	assert_string_equal(buf_text(&b), "[\n  {\n    \"a\": 1,\n    \"b\": 2\n  },\n  {}\n]");
	buf_free(&b);
}

static void test_wrong_use(void **state)
{
	struct buf b;
	struct json j;

	(void)state;
	buf_init(&b);
	json_init(&j, &b, 0);
	for (int i = 0; i < 70; i++)
		json_array(&j, NULL);
	assert_true(b.failed);
	buf_free(&b);
	json_init(&j, &b, 0);
	json_end(&j);
	assert_true(b.failed);
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_compact),
		cmocka_unit_test(test_indent),
		cmocka_unit_test(test_wrong_use),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
