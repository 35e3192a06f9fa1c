/* Keys in files and tokens; damage of them.  ZAP is in test_zsock.c. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "lib/curve.h"

static void test_generate(void **state)
{
	char public_text[CURVE_TEXT], secret_text[CURVE_TEXT], derived[CURVE_TEXT];
	struct curve_pair a, b;
	uint8_t key[CURVE_KEY];
	struct err err = ERR_INIT;

	(void)state;
	curve_generate(&a);
	curve_generate(&b);
	assert_memory_not_equal(a.secret_key, b.secret_key, CURVE_KEY);
	/* ZeroMQ derives the same public key. */
	curve_text(public_text, a.public_key);
	curve_text(secret_text, a.secret_key);
	assert_int_equal(zmq_curve_public(derived, secret_text), 0);
	assert_string_equal(derived, public_text);
	assert_int_equal(curve_parse(public_text, key, &err), 0);
	assert_memory_equal(key, a.public_key, CURVE_KEY);
	curve_wipe(&a);
	memset(&b, 0, sizeof(b));
	assert_memory_equal(&a, &b, sizeof(a));
}

static void test_parse(void **state)
{
	static const char *const wrong[] = {"", "x", "0123456789012345678901234567890123456789x",
		"012345678901234567890123456789012345678",
		"01234567890123456789 12345678901234567890",
		"\"123456789012345678901234567890123456789"};
	uint8_t key[CURVE_KEY] = {7};
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < UNIT_COUNT(wrong); i++) {
		assert_int_equal(curve_parse(wrong[i], key, &err), -EINVAL);
		assert_int_equal(key[0], 7);
	}
	/* Z85 of more than 32 bits: refused or not, never a crash. */
	(void)curve_parse("########################################", key, &err);
}

static void test_file(void **state)
{
	char dir[64], path[100];
	struct curve_pair a, b;
	struct err err = ERR_INIT;
	struct stat st;

	(void)state;
	unit_dir_make(dir);
	(void)snprintf(path, sizeof(path), "%s/key", dir);
	unit_ok(curve_load_or_make(path, &a, &err), &err);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	unit_ok(curve_load_or_make(path, &b, &err), &err);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(curve_load_or_make(path, &b, &err), -EPERM);
	unit_says(&err, "chmod 600");
	(void)snprintf(path, sizeof(path), "%s/no/such/folder/key", dir);
	assert_true(curve_load_or_make(path, &b, &err) < 0);
	unit_dir_remove(dir);
}

/* A damaged key file is refused (or only its white space was hit), never replaced. */
static void test_file_damage(void **state)
{
	char dir[64], path[100];
	struct curve_pair a, b;
	struct err err = ERR_INIT;
	struct buf good, now;
	uint32_t seed = 11;

	(void)state;
	unit_dir_make(dir);
	(void)snprintf(path, sizeof(path), "%s/key", dir);
	unit_ok(curve_load_or_make(path, &a, &err), &err);
	buf_init(&good);
	buf_init(&now);
	unit_ok(fs_read(path, 4096, &good, &err), &err);
	for (int i = 0; i < 300; i++) {
		size_t size = good.size;
		uint8_t *copy = malloc(size);
		int rc;

		memcpy(copy, good.data, size);
		seed = seed * 1664525u + 1013904223u;
		if (i % 4 == 0)
			size = (seed >> 8) % (size - 1);
		else
			copy[(seed >> 8) % size] ^= (uint8_t)(1 + (seed >> 16) % 255);
		unit_ok(fs_write_atomic(path, copy, size, 0600, &err), &err);
		memset(&b, 0, sizeof(b));
		rc = curve_load_or_make(path, &b, &err);
		if (rc == 0)
			assert_memory_equal(b.public_key, a.public_key, CURVE_KEY);
		else
			assert_int_equal(rc, -EBADMSG);
		now.size = 0;
		unit_ok(fs_read(path, 4096, &now, &err), &err);
		assert_int_equal(now.size, size);
		assert_memory_equal(now.data, copy, size);
		free(copy);
	}
	buf_free(&good);
	buf_free(&now);
	unit_dir_remove(dir);
}

static void test_token(void **state)
{
	struct curve_token token = {0}, back, before;
	char text[CURVE_TOKEN_MAX], line[CURVE_TOKEN_MAX + 2];
	struct curve_pair server;
	struct err err = ERR_INIT;
	size_t size, refused = 0;
	uint32_t seed = 3;

	(void)state;
	curve_generate(&server);
	curve_generate(&token.pair);
	memcpy(token.server_key, server.public_key, CURVE_KEY);
	(void)snprintf(token.endpoint, sizeof(token.endpoint), "tcp://[2001:db8::1]:7270");
	unit_ok(curve_token_text(text, &token, &err), &err);
	assert_null(strpbrk(text, " \t\n"));
	(void)snprintf(line, sizeof(line), "%s\n", text);
	unit_ok(curve_token_parse(line, &back, &err), &err);
	assert_memory_equal(&back, &token, sizeof(back));

	size = strlen(text);
	before = back;
	for (size_t n = 0; n < size; n++) {
		char cut[CURVE_TOKEN_MAX];

		memcpy(cut, text, n);
		cut[n] = 0;
		if (curve_token_parse(cut, &back, &err) < 0)
			refused++;
	}
	assert_int_equal(refused, size);
	assert_memory_equal(&back, &before, sizeof(back));
	for (int i = 0; i < 300; i++) {
		char bad[CURVE_TOKEN_MAX];

		seed = seed * 1664525u + 1013904223u;
		memcpy(bad, text, size + 1);
		bad[(seed >> 8) % size] ^= (char)(1 + (seed >> 20) % 127);
		if (curve_token_parse(bad, &back, &err) < 0)
			unit_says(&err, "not a join token");
	}
	memset(token.endpoint, 'e', sizeof(token.endpoint) - 1);
	unit_ok(curve_token_text(text, &token, &err), &err);
	unit_ok(curve_token_parse(text, &back, &err), &err);
	assert_memory_equal(&back, &token, sizeof(back));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_generate),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_damage),
		cmocka_unit_test(test_token),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
