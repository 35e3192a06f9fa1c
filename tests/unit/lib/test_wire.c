/* Messages and frames: round trips, versions, limits, damage. */
#include "tests/unit/unit.h"

#include <errno.h>

#include "lib/wire.h"

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed >> 12; /* xorshift64* */
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 2685821657736338717ull;
}

/* A message with something of everything: strings, lists, bytes, nesting. */
static void sample(struct buf *out, bool frame)
{
	Um__Envelope env = wire_env(42);
	Um__Desired desired = UM__DESIRED__INIT;
	Um__GuestAssign guest = UM__GUEST_ASSIGN__INIT, *guests[] = {&guest};
	Um__GuestSpec spec = UM__GUEST_SPEC__INIT;
	Um__Nic nic = UM__NIC__INIT, *nics[] = {&nic};
	char name[] = "lab/web-1", image[] = "busybox", network[] = "lan";
	uint8_t mac[] = {2, 0, 0, 0, 0, 1}, ip4[] = {10, 0, 0, 1};

	spec.image = image;
	spec.memory_bytes = 64 << 20;
	nic.network = network;
	nic.mac = (ProtobufCBinaryData){.data = mac, .len = sizeof(mac)};
	nic.ip4 = (ProtobufCBinaryData){.data = ip4, .len = sizeof(ip4)};
	guest.uid = 7;
	guest.name = name;
	guest.spec = &spec;
	guest.nics = nics;
	guest.n_nics = 1;
	desired.guests = guests;
	desired.n_guests = 1;
	env.body_case = UM__ENVELOPE__BODY_DESIRED;
	env.desired = &desired;
	if (frame)
		assert_int_equal(wire_frame(&env, WIRE_MESSAGE_MAX, out, NULL), 0);
	else
		assert_int_equal(wire_pack(&env, WIRE_MESSAGE_MAX, out, NULL), 0);
}

static void test_round_trip(void **state)
{
	Um__Envelope *env = NULL;
	struct buf b;

	(void)state;
	buf_init(&b);
	sample(&b, false);
	assert_int_equal(wire_unpack(b.data, b.size, &env, NULL), 0);
	assert_int_equal(env->id, 42);
	assert_string_equal(env->desired->guests[0]->name, "lab/web-1");
	assert_string_equal(wire_body_name(env->body_case), "desired");
	um__envelope__free_unpacked(env, NULL);
	buf_free(&b);
}

static void test_versions_and_limits(void **state)
{
	Um__Envelope env = wire_env(1), *out = NULL;
	Um__Ok ok = UM__OK__INIT;
	Um__ChunkGet get = UM__CHUNK_GET__INIT;
	uint8_t id[200] = {1}, packed[64];
	struct err err = ERR_INIT;
	struct buf b;
	size_t n;

	(void)state;
	buf_init(&b);
	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	env.major = 2;
	n = um__envelope__pack(&env, packed);
	assert_int_equal(wire_unpack(packed, n, &out, &err), -EPROTO);
	unit_says(&err, "version 2");
	assert_null(out);
	/* No body, or one we do not know. */
	env = wire_env(1);
	n = um__envelope__pack(&env, packed);
	assert_int_equal(wire_unpack(packed, n, &out, &err), -EBADMSG);
	assert_int_equal(wire_pack(&env, 100, &b, &err), -EINVAL);
	/* Too large to send. */
	get.id = (ProtobufCBinaryData){.data = id, .len = sizeof(id)};
	env.body_case = UM__ENVELOPE__BODY_CHUNK_GET;
	env.chunk_get = &get;
	assert_int_equal(wire_pack(&env, 100, &b, &err), -EMSGSIZE);
	assert_int_equal(b.size, 0);
	buf_free(&b);
}

/* Damaged messages are refused or read as something: never a crash. */
static void test_damaged_messages(void **state)
{
	uint64_t seed = 4711;
	unsigned refused = 0;
	struct buf b;

	(void)state;
	buf_init(&b);
	sample(&b, false);
	for (int i = 0; i < 2000; i++) {
		uint8_t *copy = malloc(b.size);
		size_t size = b.size;
		Um__Envelope *env = NULL;
		struct err err = ERR_INIT;

		assert_non_null(copy);
		memcpy(copy, b.data, size);
		if (i % 4 == 0)
			size = next_random(&seed) % size;
		else
			copy[next_random(&seed) % size] ^= (uint8_t)(1u << next_random(&seed) % 8);
		if (wire_unpack(copy, size, &env, &err) < 0) {
			refused++;
			assert_null(env);
			assert_string_not_equal(err_msg(&err), "");
		} else {
			um__envelope__free_unpacked(env, NULL);
		}
		free(copy);
	}
	assert_true(refused > 200);
	buf_free(&b);
}

static void test_frames_in_pieces(void **state)
{
	struct wire_reader r;
	Um__Envelope *env;
	unsigned got = 0;
	struct buf b;

	(void)state;
	buf_init(&b);
	for (int i = 0; i < 50; i++)
		sample(&b, true);
	wire_reader_init(&r, WIRE_MESSAGE_MAX, false);
	for (size_t at = 0; at < b.size; at += 7) {
		size_t n = b.size - at < 7 ? b.size - at : 7;

		assert_int_equal(wire_reader_add(&r, b.data + at, n, NULL), 0);
		while (wire_reader_next(&r, &env, NULL) == 1) {
			got++;
			um__envelope__free_unpacked(env, NULL);
		}
	}
	assert_int_equal(got, 50);
	wire_reader_free(&r);
	buf_free(&b);
}

static void test_broken_frames(void **state)
{
	uint64_t seed = 99;
	struct buf b;

	(void)state;
	buf_init(&b);
	sample(&b, true);
	for (int i = 0; i < 500; i++) {
		struct wire_reader r;
		Um__Envelope *env = NULL;
		int rc;

		wire_reader_init(&r, 4096, false);
		assert_int_equal(wire_reader_add(&r, b.data, b.size, NULL), 0);
		r.in.data[next_random(&seed) % WIRE_FRAME_HEADER] ^=
			(uint8_t)(1u << next_random(&seed) % 8);
		rc = wire_reader_next(&r, &env, NULL);
		assert_int_equal(rc, -EBADMSG);
		wire_reader_free(&r);
	}
	buf_free(&b);
}

/* On a guest's line what the kernel wrote is passed over. */
static void test_resync(void **state)
{
	static const char noise[] = "Kernel panic - not UMF syncing: UMF1 nonsense\r\n";
	struct wire_reader r;
	Um__Envelope *env = NULL;
	struct buf b;

	(void)state;
	buf_init(&b);
	buf_add_str(&b, noise);
	sample(&b, true);
	buf_add_str(&b, "UMF");
	sample(&b, true);
	wire_reader_init(&r, WIRE_LINE_MAX, true);
	assert_int_equal(wire_reader_add(&r, b.data, b.size, NULL), 0);
	assert_int_equal(wire_reader_next(&r, &env, NULL), 1);
	um__envelope__free_unpacked(env, NULL);
	assert_int_equal(wire_reader_next(&r, &env, NULL), 1);
	um__envelope__free_unpacked(env, NULL);
	assert_int_equal(wire_reader_next(&r, &env, NULL), 0);
	assert_int_equal(r.skipped, strlen(noise) + 3);
	wire_reader_free(&r);
	buf_free(&b);
}

static void test_codes(void **state)
{
	(void)state;
	assert_int_equal(wire_code_from_errno(-ENOENT), UM__ERROR_CODE__NOT_FOUND);
	assert_int_equal(wire_errno_from_code(UM__ERROR_CODE__NOT_FOUND), -ENOENT);
	assert_int_equal(wire_code_from_errno(-12345), UM__ERROR_CODE__INTERNAL);
	assert_int_equal(wire_errno_from_code((Um__ErrorCode)999), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_versions_and_limits),
		cmocka_unit_test(test_damaged_messages),
		cmocka_unit_test(test_frames_in_pieces),
		cmocka_unit_test(test_broken_frames),
		cmocka_unit_test(test_resync),
		cmocka_unit_test(test_codes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
