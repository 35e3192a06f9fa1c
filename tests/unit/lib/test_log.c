/* Logs: one line per message whatever is in it; JSON stays JSON when cut. */
#include "lib/log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/unit.h"

static int pipes[2];

static void start(bool json, enum log_level level)
{
	log_init(&(struct log_config){.program = "agent",
		.instance = "h1",
		.level = level,
		.json = json,
		.fd = pipes[1]});
}

static const char *line(void)
{
	static char text[65536];
	ssize_t n = read(pipes[0], text, sizeof(text) - 1);

	if (n < 0) {
		assert_int_equal(errno, EAGAIN);
		n = 0;
	}
	text[n] = 0;
	return text;
}

static void test_text(void **state)
{
	const char *got;

	(void)state;
	start(false, LOG_INFO);
	log_debug("not seen");
	assert_string_equal(line(), "");
	log_info("guest started", LOG_STR("guest", "hello/web-1"), LOG_U64("epoch", UINT64_MAX),
		LOG_I64("status", -1), LOG_BOOL("ok", true), LOG_STR("none", NULL),
		LOG_STR("empty", ""), LOG_STR("evil", "a\nERROR b=\"c\" \x1b[31m\xff"));
	got = line();
	assert_int_equal(strlen(got), strcspn(got, "\n") + 1);
	assert_memory_equal(got + 4, "-", 1);
	assert_memory_equal(got + 23, "Z INFO  agent h1: ", 18);
	assert_string_equal(strstr(got, "guest started"),
		"guest started guest=hello/web-1 epoch=18446744073709551615 status=-1 ok=true "
		"none=- empty=\"\" evil=\"a\\nERROR b=\\\"c\\\" \\u001b[31m\\u00ff\"\n");
	log_set_level(LOG_DEBUG);
	log_debug("seen");
	assert_non_null(strstr(line(), "seen"));
}

/* Enough of a JSON reader to know that a line is one whole object. */
static bool whole_json(const char *p)
{
	bool text = false;
	int depth = 0;

	for (; *p && *p != '\n'; p++) {
		if (text && *p == '\\') {
			if (!p[1] || p[1] == '\n')
				return false;
			if (p[1] == 'u' && strspn(p + 2, "0123456789abcdef") < 4)
				return false;
			p++;
		} else if (*p == '"') {
			text = !text;
		} else if (!text && *p == '{') {
			depth++;
		} else if (!text && *p == '}') {
			depth--;
		}
		if (!depth)
			return !text && p[1] == '\n' && !p[2];
	}
	return false;
}

static void test_json(void **state)
{
	static char big[3 * LOG_LINE_MAX];
	const char *got;

	(void)state;
	start(true, LOG_INFO);
	log_warn("say \"hi\"", LOG_STR("a", "b\tc"), LOG_STR("n", NULL), LOG_U64("u", 1));
	got = line();
	assert_true(whole_json(got));
	assert_non_null(
		strstr(got, "\"level\":\"warn\",\"program\":\"agent\",\"instance\":\"h1\","
			    "\"msg\":\"say \\\"hi\\\"\",\"a\":\"b\\u0009c\",\"n\":null,\"u\":1}"));
	/* Cut at every phase of escapes and of two-byte letters. */
	for (size_t shift = 0; shift < 16; shift++) {
		memset(big, 'x', shift);
		for (size_t i = shift; i < sizeof(big) - 1; i += 2)
			memcpy(big + i, shift & 1 ? "\1\"" : "\xc3\xa4", 2);
		big[sizeof(big) - 3 - (shift & 1)] = 0;
		log_info("big", LOG_STR("v", big), LOG_STR("w", "later"));
		got = line();
		if (!whole_json(got))
			fail_msg("shift %zu: ...%s", shift, got + strlen(got) - 40);
		assert_true(strlen(got) <= LOG_LINE_MAX && strlen(got) > LOG_LINE_MAX - 80);
	}
	/* Cut between fields. */
	for (size_t n = LOG_LINE_MAX - 160; n < LOG_LINE_MAX; n++) {
		memset(big, 'x', n);
		big[n] = 0;
		log_info(big, LOG_U64("number", 123456789), LOG_STR("t", "text"),
			LOG_BOOL("b", false));
		if (!whole_json(line()))
			fail_msg("size %zu", n);
	}
}

static void test_levels(void **state)
{
	struct err err = ERR_INIT;
	enum log_level level;

	(void)state;
	assert_int_equal(log_level_parse("warn", &level, &err), 0);
	assert_int_equal(level, LOG_WARN);
	assert_int_equal(log_level_parse("verbose", &level, &err), -EINVAL);
	unit_says(&err, "debug, info, warn, error");
}

static void test_rate(void **state)
{
	struct log_rate rate = {0};
	int passed = 0;

	(void)state;
	start(false, LOG_INFO);
	for (int i = 0; i < 100; i++)
		passed += log_rate_pass(&rate);
	assert_int_equal(passed, 5);
	assert_int_equal(rate.dropped, 95);
	rate.window_ms -= rate.window_ms > 20000 ? 20000 : rate.window_ms - 1;
	if (log_rate_pass(&rate))
		assert_non_null(strstr(line(), "count=95"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_levels),
		cmocka_unit_test(test_rate),
	};

	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
