/* Buffers and cursors: growth, limits, sticky errors. */
#include "lib/buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"

static void test_grow(void **state)
{
	struct buf b;
	size_t n;
	uint8_t *p;

	(void)state;
	buf_init(&b);
	assert_string_equal(buf_text(&b), "");
	for (int i = 0; i < 10000; i++)
		buf_printf(&b, "%d,", i);
	assert_false(b.failed);
	assert_int_equal(b.size, 48890);
	assert_memory_equal(b.data + b.size - 5, "9999,", 5);
	assert_int_equal(strlen(buf_text(&b)), b.size);
	buf_consume(&b, b.size - 5);
	assert_string_equal(buf_text(&b), "9999,");
	buf_consume(&b, 100);
	assert_int_equal(b.size, 0);
	buf_add(&b, "x\0y", 3);
	buf_add_byte(&b, 'z');
	buf_add(&b, NULL, 0);
	p = buf_steal(&b, &n);
	assert_int_equal(n, 4);
	assert_memory_equal(p, "x\0yz", 4);
	free(p);
	assert_null(b.data);
	buf_free(&b);
}

static void test_limit(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b);
	b.limit = 10;
	buf_add_str(&b, "0123456789");
	assert_false(b.failed);
	assert_string_equal(buf_text(&b), "0123456789");
	buf_add_byte(&b, 'x');
	assert_true(b.failed);
	assert_int_equal(b.size, 10);
	buf_consume(&b, 5);
	buf_add_byte(&b, 'x'); /* sticky */
	assert_int_equal(b.size, 5);
	assert_string_equal(buf_text(&b), "");
	buf_free(&b);
	assert_false(buf_reserve(&b, SIZE_MAX));
	assert_true(b.failed);
	buf_free(&b);
}

static void test_cursors(void **state)
{
	uint8_t data[15];
	struct wr w;
	struct rd r;

	(void)state;
	wr_init(&w, data, sizeof(data));
	wr_u8(&w, 0xab);
	wr_u16(&w, 0x1234);
	wr_u32(&w, 0xdeadbeef);
	wr_u64(&w, UINT64_C(0x0102030405060708));
	assert_int_equal(w.error, 0);
	wr_u8(&w, 1);
	assert_int_equal(w.error, -ENOSPC);
	assert_int_equal(w.pos, 15);
	assert_memory_equal(data, "\xab\x12\x34\xde\xad\xbe\xef\1\2\3\4\5\6\7\x08", 15);

	rd_init(&r, data, sizeof(data));
	assert_int_equal(rd_u8(&r), 0xab);
	assert_int_equal(rd_u16(&r), 0x1234);
	assert_int_equal(rd_u32(&r), 0xdeadbeef);
	assert_int_equal(rd_left(&r), 8);
	assert_non_null(rd_bytes(&r, 0));
	assert_true(rd_u64(&r) == UINT64_C(0x0102030405060708));
	assert_int_equal(r.error, 0);
	assert_int_equal(rd_u8(&r), 0);
	assert_int_equal(r.error, -EBADMSG);

	rd_init(&r, data, 3);
	assert_int_equal(rd_u32(&r), 0); /* half there is not there */
	assert_int_equal(rd_u8(&r), 0);	 /* sticky */
	assert_int_equal(rd_left(&r), 0);
	rd_init(&r, data, 3);
	rd_skip(&r, SIZE_MAX);
	assert_int_equal(r.error, -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grow),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_cursors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
