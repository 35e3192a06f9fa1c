/* Manifests: one encoding of a content, everything else refused. */
#include "tests/unit/image/imgkit.h"

#include <openssl/evp.h>

static void test_build(void **state)
{
	struct kit *kit = *state;
	struct manifest *m, *again = NULL;
	struct err err = ERR_INIT;
	uint8_t hash[MANIFEST_HASH];

	kit_make(kit, "f", 7, 1000);
	m = kit_manifest(kit, "f");
	assert_int_equal(m->size, kit->size);
	assert_int_equal(m->count, 7);
	assert_int_equal(m->bytes_size, MANIFEST_HEADER + 7 * MANIFEST_HASH);
	assert_int_equal(manifest_chunk_size(m, 6), MANIFEST_CHUNK - 1000);
	for (uint32_t i = 0; i < 7; i++) {
		size_t at = (size_t)i * MANIFEST_CHUNK;

		assert_int_equal(manifest_is_hole(m, i), i % 3 == 2);
		assert_int_equal(
			manifest_check_chunk(m, i, kit->data + at, manifest_chunk_size(m, i), &err),
			0);
		if (i % 3 == 2)
			continue;
		(void)EVP_Digest(
			kit->data + at, manifest_chunk_size(m, i), hash, NULL, EVP_sha256(), NULL);
		assert_memory_equal(hash, manifest_hash(m, i), MANIFEST_HASH);
		kit->data[at + 17] ^= 1;
		assert_int_equal(
			manifest_check_chunk(m, i, kit->data + at, manifest_chunk_size(m, i), &err),
			-EBADMSG);
		kit->data[at + 17] ^= 1;
	}
	assert_int_equal(manifest_data_size(m), 5 * MANIFEST_CHUNK - 1000);
	(void)EVP_Digest(m->bytes, m->bytes_size, hash, NULL, EVP_sha256(), NULL);
	assert_memory_equal(hash, m->id, MANIFEST_HASH);
	assert_int_equal(manifest_parse(m->bytes, m->bytes_size, &again, &err), 0);
	assert_memory_equal(again->id, m->id, MANIFEST_HASH);
	assert_int_equal(again->size, m->size);
	manifest_free(again);
	manifest_free(m);
}

/* A file without holes but with zeroes has the same id as the sparse one. */
static void test_zeroes_are_holes(void **state)
{
	struct kit *kit = *state;
	struct manifest *sparse, *dense;
	int fd;

	kit_make(kit, "sparse", 6, 5);
	sparse = kit_manifest(kit, "sparse");
	fd = open(kit_path(kit, "dense"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_int_equal(write(fd, kit->data, kit->size), kit->size);
	(void)close(fd);
	dense = kit_manifest(kit, "dense");
	assert_memory_equal(sparse->id, dense->id, MANIFEST_HASH);
	manifest_free(sparse);
	manifest_free(dense);
}

static void test_refused(void **state)
{
	struct kit *kit = *state;
	struct manifest *m, *out = NULL;
	struct err err = ERR_INIT;

	kit_make(kit, "f", 3, 0);
	m = kit_manifest(kit, "f");
	for (size_t n = 0; n < m->bytes_size; n++)
		assert_int_equal(manifest_parse(m->bytes, n, &out, &err), -EBADMSG);
	/* A flip in the header is refused or (in the size's low bits) still makes sense;
	 * a flip anywhere gives another id. */
	for (size_t bit = 0; bit < 8 * m->bytes_size; bit++) {
		m->bytes[bit / 8] = (uint8_t)(m->bytes[bit / 8] ^ (1u << (bit % 8)));
		if (manifest_parse(m->bytes, m->bytes_size, &out, &err) == 0) {
			assert_memory_not_equal(out->id, m->id, MANIFEST_HASH);
			manifest_free(out);
		}
		m->bytes[bit / 8] = (uint8_t)(m->bytes[bit / 8] ^ (1u << (bit % 8)));
	}
	manifest_free(m);
	/* Empty, no file, too large. */
	assert_int_equal(truncate(kit_path(kit, "f"), 0), 0);
	{
		int fd = open(kit_path(kit, "f"), O_RDWR | O_CLOEXEC);

		assert_int_equal(manifest_build(fd, NULL, NULL, &out, &err), -EINVAL);
		assert_int_equal(ftruncate(fd, (off_t)MANIFEST_SIZE_MAX + 1), 0);
		assert_int_equal(manifest_build(fd, NULL, NULL, &out, &err), -EFBIG);
		/* A large hole is quick. */
		assert_int_equal(ftruncate(fd, (off_t)MANIFEST_SIZE_MAX), 0);
		assert_int_equal(manifest_build(fd, NULL, NULL, &out, &err), 0);
		assert_int_equal(out->bytes_size, MANIFEST_BYTES_MAX);
		manifest_free(out);
		(void)close(fd);
	}
}

static void test_id_text(void **state)
{
	uint8_t id[MANIFEST_HASH], back[MANIFEST_HASH];
	char text[MANIFEST_TEXT], with[MANIFEST_TEXT + 8];
	struct err err = ERR_INIT;

	(void)state;
	proc_random(id, sizeof(id));
	manifest_id_text(text, id);
	assert_int_equal(manifest_id_parse(text, back, &err), 0);
	assert_memory_equal(id, back, sizeof(id));
	(void)str_format(with, sizeof(with), "sha256:%s", text);
	assert_int_equal(manifest_id_parse(with, back, &err), 0);
	text[3] = 'x';
	assert_int_equal(manifest_id_parse(text, back, &err), -EINVAL);
	assert_int_equal(manifest_id_parse("", back, &err), -EINVAL);
}

struct started {
	struct loop *loop;
	struct manifest *m;
	int code;
};

static void on_manifest(void *arg, struct manifest *m, const struct err *err)
{
	struct started *s = arg;

	s->m = m;
	s->code = err ? err->code : 0;
	loop_stop(s->loop);
}

static void test_pool(void **state)
{
	struct kit *kit = *state;
	struct started s = {0};
	struct err err = ERR_INIT;
	struct manifest *m;

	kit_make(kit, "f", 4, 1);
	assert_int_equal(loop_new(&s.loop, &err), 0);
	assert_int_equal(manifest_start(s.loop, kit_path(kit, "f"), on_manifest, &s, &err), 0);
	assert_int_equal(loop_run(s.loop, &err), 0);
	assert_int_equal(s.code, 0);
	m = kit_manifest(kit, "f");
	assert_memory_equal(m->id, s.m->id, MANIFEST_HASH);
	manifest_free(m);
	manifest_free(s.m);
	assert_int_equal(manifest_start(s.loop, kit_path(kit, "none"), on_manifest, &s, &err), 0);
	assert_int_equal(loop_run(s.loop, &err), 0);
	assert_int_equal(s.code, -ENOENT);
	assert_null(s.m);
	assert_int_equal(loop_free(s.loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_build, kit_setup, kit_teardown),
		cmocka_unit_test_setup_teardown(test_zeroes_are_holes, kit_setup, kit_teardown),
		cmocka_unit_test_setup_teardown(test_refused, kit_setup, kit_teardown),
		cmocka_unit_test_setup_teardown(test_pool, kit_setup, kit_teardown),
		cmocka_unit_test(test_id_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
