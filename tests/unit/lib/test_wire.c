/* Envelopes and frames: versions, limits, damage of every kind, resync. */
#include "tests/unit/unit.h"

#include <errno.h>

#include "lib/wire.h"

static uint32_t seed = 20260301;

static uint32_t next(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

/* A message with everything in it: texts, lists, maps, bytes. */
static void pack_sample(struct buf *out, bool frame)
{
	Um__Envelope env = wire_env(0x1234567890ull);
	Um__GetReply reply = UM__GET_REPLY__INIT;
	Um__GuestInfo guest = UM__GUEST_INFO__INIT, *guests[] = {&guest, &guest, &guest};
	Um__Nic nic = UM__NIC__INIT, *nics[] = {&nic};
	uint8_t mac[6] = {2, 0, 0, 1, 2, 3};
	char name[] = "hello/web-1", state[] = "running";
	struct err err = ERR_INIT;

	nic.mac = (ProtobufCBinaryData){.len = sizeof(mac), .data = mac};
	nic.vni = 70000;
	guest.name = name;
	guest.state = state;
	guest.uid = UINT64_MAX;
	guest.memory_bytes = 64u << 20;
	guest.exit_status = -1;
	guest.n_nics = 1;
	guest.nics = nics;
	reply.n_guests = 3;
	reply.guests = guests;
	env.more = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &reply;
	unit_ok(frame ? wire_frame(&env, WIRE_MESSAGE_MAX, out, &err)
		      : wire_pack(&env, WIRE_MESSAGE_MAX, out, &err),
		&err);
}

static void frame_ok(struct buf *out, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__Ok ok = UM__OK__INIT;
	struct err err = ERR_INIT;

	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	unit_ok(wire_frame(&env, WIRE_LINE_MAX, out, &err), &err);
}

static void test_round_trip(void **state)
{
	struct buf out;
	struct err err = ERR_INIT;
	Um__Envelope *env = NULL;

	(void)state;
	buf_init(&out);
	pack_sample(&out, false);
	unit_ok(wire_unpack(out.data, out.size, &env, &err), &err);
	assert_int_equal(env->major, WIRE_MAJOR);
	assert_int_equal(env->minor, WIRE_MINOR);
	assert_int_equal(env->id, 0x1234567890ull);
	assert_true(env->more);
	assert_int_equal(env->body_case, UM__ENVELOPE__BODY_GET_REPLY);
	assert_int_equal(env->get_reply->n_guests, 3);
	assert_string_equal(env->get_reply->guests[2]->name, "hello/web-1");
	assert_int_equal(env->get_reply->guests[2]->nics[0]->mac.len, 6);
	um__envelope__free_unpacked(env, NULL);
	buf_free(&out);
}

static void test_refusals(void **state)
{
	Um__Envelope env = wire_env(9), *got = NULL;
	Um__StreamData data = UM__STREAM_DATA__INIT;
	struct err err = ERR_INIT;
	struct buf out;
	uint8_t *big = calloc(1, WIRE_MESSAGE_MAX + 1);

	(void)state;
	buf_init(&out);
	assert_int_equal(wire_pack(&env, WIRE_MESSAGE_MAX, &out, &err), -EINVAL);
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &data;
	data.data = (ProtobufCBinaryData){.len = WIRE_LINE_MAX, .data = big};
	buf_add_str(&out, "before");
	assert_int_equal(wire_frame(&env, WIRE_LINE_MAX, &out, &err), -EMSGSIZE);
	unit_says(&err, "stream_data");
	assert_int_equal(out.size, 6); /* nothing was appended */
	data.data.len = 5;
	out.size = 0;
	unit_ok(wire_pack(&env, WIRE_LINE_MAX, &out, &err), &err);

	/* Another major version: field 1 comes first. */
	assert_int_equal(out.data[0], 0x08);
	out.data[1] = 2;
	assert_int_equal(wire_unpack(out.data, out.size, &got, &err), -EPROTO);
	unit_says(&err, "version 2, we speak 1");
	/* No body: an Envelope of its first fields, or of a body that we do not know. */
	out.data[1] = 1;
	assert_int_equal(wire_unpack(out.data, 4, &got, &err), -EBADMSG);
	assert_int_equal(wire_unpack("\x08\x01\x10\x07\xba\x3e\x01\x00", 8, &got, &err), -EBADMSG);
	unit_says(&err, "minor 7");
	assert_int_equal(wire_unpack("", 0, &got, &err), -EPROTO);
	assert_int_equal(wire_unpack(big, WIRE_MESSAGE_MAX + 1, &got, &err), -EBADMSG);
	assert_null(got);
	free(big);
	buf_free(&out);
}

/* Whatever comes: refused with a reason, or a whole message that can be packed. */
static int try_unpack(const uint8_t *data, size_t size)
{
	Um__Envelope *env = NULL;
	struct err err = ERR_INIT;
	struct buf out;
	int rc = wire_unpack(data, size, &env, &err);

	if (rc < 0) {
		assert_null(env);
		assert_int_equal(err.code, rc);
		assert_string_not_equal(err.msg, "");
		return rc;
	}
	assert_int_not_equal(env->body_case, UM__ENVELOPE__BODY__NOT_SET);
	buf_init(&out);
	unit_ok(wire_pack(env, WIRE_MESSAGE_MAX, &out, &err), &err);
	buf_free(&out);
	um__envelope__free_unpacked(env, NULL);
	return 0;
}

static void test_flips(void **state)
{
	struct buf out;
	size_t refused = 0;

	(void)state;
	buf_init(&out);
	pack_sample(&out, false);
	for (int i = 0; i < 2000; i++) {
		uint8_t *copy = malloc(out.size); /* exactly: ASan sees each byte beyond */
		size_t flips = 1 + next() % 4;

		memcpy(copy, out.data, out.size);
		while (flips--)
			copy[next() % out.size] ^= (uint8_t)(1 + next() % 255);
		refused += try_unpack(copy, out.size) < 0;
		free(copy);
	}
	assert_true(refused > 500);
	buf_free(&out);
}

static void test_truncations(void **state)
{
	struct buf out;

	(void)state;
	buf_init(&out);
	pack_sample(&out, false);
	for (size_t size = 0; size < out.size; size++) {
		uint8_t *copy = malloc(size + !size);

		memcpy(copy, out.data, size);
		assert_true(try_unpack(copy, size) < 0);
		free(copy);
	}
	buf_free(&out);
}

/* 1 and the id, 0, or negative. */
static int read_one(struct wire_reader *r, uint64_t *id)
{
	Um__Envelope *env = NULL;
	struct err err = ERR_INIT;
	int rc = wire_reader_next(r, &env, &err);

	if (rc == 1) {
		*id = env->id;
		um__envelope__free_unpacked(env, NULL);
	} else if (rc < 0) {
		assert_string_not_equal(err.msg, "");
	}
	return rc;
}

/* Frames in pieces of any size, one by one or many at a time. */
static void test_pieces(void **state)
{
	struct wire_reader r;
	struct buf out;
	uint64_t id, seen = 0;

	(void)state;
	buf_init(&out);
	for (uint64_t i = 1; i <= 500; i++)
		frame_ok(&out, i);
	wire_reader_init(&r, WIRE_LINE_MAX, false);
	for (size_t at = 0; at < out.size;) {
		size_t n = 1 + next() % 200;

		n = n < out.size - at ? n : out.size - at;
		assert_int_equal(wire_reader_add(&r, out.data + at, n, NULL), 0);
		at += n;
		while (read_one(&r, &id) == 1)
			assert_int_equal(id, ++seen);
	}
	assert_int_equal(seen, 500);
	assert_int_equal(wire_reader_held(&r), 0);
	/* And all at once. */
	assert_int_equal(wire_reader_add(&r, out.data, out.size, NULL), 0);
	for (seen = 0; read_one(&r, &id) == 1;)
		assert_int_equal(id, ++seen);
	assert_int_equal(seen, 500);
	wire_reader_free(&r);
	buf_free(&out);
}

/* Each single damage of a header is found; a cut frame waits for more. */
static void test_frame_damage(void **state)
{
	struct buf out;
	uint64_t id;

	(void)state;
	buf_init(&out);
	pack_sample(&out, true);
	for (size_t at = 0; at < WIRE_FRAME_HEADER; at++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct wire_reader r;

			wire_reader_init(&r, WIRE_LINE_MAX, false);
			out.data[at] ^= (uint8_t)(1u << bit);
			assert_int_equal(wire_reader_add(&r, out.data, out.size, NULL), 0);
			assert_int_equal(read_one(&r, &id), -EBADMSG);
			out.data[at] ^= (uint8_t)(1u << bit);
			wire_reader_free(&r);
		}
	}
	for (int i = 0; i < 300; i++) {
		struct wire_reader r;
		size_t at = next() % out.size;
		uint8_t flip = (uint8_t)(1 + next() % 255);
		int rc;

		wire_reader_init(&r, WIRE_LINE_MAX, false);
		out.data[at] ^= flip;
		assert_int_equal(wire_reader_add(&r, out.data, out.size, NULL), 0);
		rc = read_one(&r, &id);
		/* A flip in the payload may leave a message: never one that waits. */
		assert_true(rc == -EBADMSG || rc == -EPROTO || rc == 1);
		out.data[at] ^= flip;
		wire_reader_free(&r);
	}
	for (size_t size = 0; size < out.size; size++) {
		struct wire_reader r;

		wire_reader_init(&r, WIRE_LINE_MAX, false);
		assert_int_equal(wire_reader_add(&r, out.data, size, NULL), 0);
		assert_int_equal(read_one(&r, &id), 0);
		wire_reader_free(&r);
	}
	buf_free(&out);
}

/* A size over the limit is refused from the header alone. */
static void test_frame_too_big(void **state)
{
	uint8_t header[WIRE_FRAME_HEADER];
	uint32_t size = WIRE_LINE_MAX + 1;
	struct wire_reader r;
	struct wr w;
	uint64_t id;

	(void)state;
	wr_init(&w, header, sizeof(header));
	wr_u32(&w, 0x554d4631);
	wr_u32(&w, size);
	wr_u32(&w, 0x554d4631 ^ size ^ 0x5a5a5a5a);
	assert_int_equal(w.error, 0);
	wire_reader_init(&r, WIRE_LINE_MAX, false);
	assert_int_equal(wire_reader_add(&r, header, sizeof(header), NULL), 0);
	assert_int_equal(read_one(&r, &id), -EBADMSG);
	wire_reader_free(&r);
	wire_reader_init(&r, WIRE_LINE_MAX + 1, false);
	assert_int_equal(wire_reader_add(&r, header, sizeof(header), NULL), 0);
	assert_int_equal(read_one(&r, &id), 0);
	wire_reader_free(&r);
}

/* A guest's line: noise of a kernel, half magics, damaged frames; every whole
 * frame behind them arrives. */
static void test_resync(void **state)
{
	static const char *const noise[] = {"Core dump limits :\r\n", "U", "UM", "UMF", "UMF1",
		"UMF1UMF1\x01\x02", "UMF1\0\0\0\5xxxx", "\x1b[0m[    0.000000] Linux", "UUUMF"};
	struct wire_reader r;
	struct buf out;
	uint64_t id, seen = 0, wanted = 0;

	(void)state;
	buf_init(&out);
	for (int i = 0; i < 300; i++) {
		const char *text = noise[next() % UNIT_COUNT(noise)];

		if (i % 3 == 0) {
			/* A frame with a good header and a payload of nothing. */
			size_t start = out.size;

			frame_ok(&out, 77);
			memset(out.data + start + WIRE_FRAME_HEADER, 0xff,
				out.size - start - WIRE_FRAME_HEADER);
		}
		buf_add_str(&out, text);
		frame_ok(&out, ++wanted);
	}
	wire_reader_init(&r, WIRE_LINE_MAX, true);
	for (size_t at = 0; at < out.size;) {
		size_t n = 1 + next() % 50;

		n = n < out.size - at ? n : out.size - at;
		assert_int_equal(wire_reader_add(&r, out.data + at, n, NULL), 0);
		at += n;
		while (read_one(&r, &id) == 1)
			assert_int_equal(id, ++seen);
	}
	assert_int_equal(seen, wanted);
	assert_true(r.skipped > 1000);
	wire_reader_free(&r);
	/* The same is an end on a socket. */
	wire_reader_init(&r, WIRE_LINE_MAX, false);
	assert_int_equal(wire_reader_add(&r, "Core", 4, NULL), 0);
	assert_int_equal(read_one(&r, &id), -EBADMSG);
	wire_reader_free(&r);
	buf_free(&out);
}

/* Pure noise never holds more than half a header back. */
static void test_noise(void **state)
{
	struct wire_reader r;
	uint64_t id;

	(void)state;
	wire_reader_init(&r, WIRE_LINE_MAX, true);
	for (int i = 0; i < 1000; i++) {
		uint8_t data[512];

		for (size_t at = 0; at < sizeof(data); at++)
			data[at] = (uint8_t)next();
		assert_int_equal(wire_reader_add(&r, data, sizeof(data), NULL), 0);
		assert_int_equal(read_one(&r, &id), 0);
		assert_true(wire_reader_held(&r) < WIRE_FRAME_HEADER);
	}
	assert_true(r.in.capacity < 16384);
	wire_reader_free(&r);
}

static void test_names_and_codes(void **state)
{
	(void)state;
	assert_string_equal(wire_body_name(UM__ENVELOPE__BODY_AGENT_HELLO), "agent_hello");
	assert_string_equal(wire_body_name(UM__ENVELOPE__BODY__NOT_SET), "unknown");
	assert_string_equal(wire_body_name((Um__Envelope__BodyCase)9999), "unknown");
	assert_int_equal(wire_code_from_errno(-ENOENT), UM__ERROR_CODE__NOT_FOUND);
	assert_int_equal(wire_code_from_errno(EACCES), UM__ERROR_CODE__DENIED);
	assert_int_equal(wire_code_from_errno(-12345), UM__ERROR_CODE__INTERNAL);
	assert_int_equal(wire_errno_from_code((Um__ErrorCode)12345), -EIO);
	/* Each code comes back as itself. */
	for (unsigned i = 0; i < um__error_code__descriptor.n_values; i++) {
		Um__ErrorCode code = (Um__ErrorCode)um__error_code__descriptor.values[i].value;

		assert_true(wire_errno_from_code(code) < 0);
		if (code)
			assert_int_equal(wire_code_from_errno(wire_errno_from_code(code)), code);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_flips),
		cmocka_unit_test(test_truncations),
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_frame_damage),
		cmocka_unit_test(test_frame_too_big),
		cmocka_unit_test(test_resync),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_names_and_codes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
