/* The artefact store: transfers, resuming, damage, full disks. */
#include "tests/unit/image/imgkit.h"

#include <sys/mount.h>
#include <utime.h>

static void put_chunk(const struct kit *kit, struct imgstore_transfer *t, uint32_t i, int expected)
{
	const struct manifest *m = imgstore_transfer_manifest(t);
	struct err err = ERR_INIT;
	int rc = imgstore_put(
		t, i, kit->data + (size_t)i * MANIFEST_CHUNK, manifest_chunk_size(m, i), &err);

	if (rc != expected)
		fail_msg("chunk %u: %d %s", i, rc, err_msg(&err));
}

static uint32_t put_missing(const struct kit *kit, struct imgstore_transfer *t)
{
	const struct manifest *m = imgstore_transfer_manifest(t);
	uint32_t n = 0;

	for (uint32_t i = imgstore_missing(t, 0); i < m->count; i = imgstore_missing(t, i + 1)) {
		put_chunk(kit, t, i, 0);
		n++;
	}
	return n;
}

static void commit(struct imgstore_transfer *t)
{
	struct err err = ERR_INIT;

	if (imgstore_commit(t, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static struct imgstore_transfer *begin(struct imgstore *store, const struct manifest *m)
{
	struct imgstore_transfer *t = NULL;
	struct err err = ERR_INIT;

	if (imgstore_begin(store, m, &t, &err) < 0)
		fail_msg("%s", err_msg(&err));
	return t;
}

static void test_whole(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct imgstore_transfer *t = NULL;
	struct imgstore_info info;
	struct imgstore_total total;
	struct err err = ERR_INIT;
	char path[PATH_MAX];
	uint8_t chunk[MANIFEST_CHUNK];
	struct manifest *m;
	struct stat st;

	kit_make(kit, "f", 8, 77);
	m = kit_manifest(kit, "f");
	t = begin(store, m);
	assert_int_equal(imgstore_missing_count(t), 6);
	put_chunk(kit, t, 0, 0);
	put_chunk(kit, t, 0, 0); /* again */
	assert_int_equal(imgstore_commit(t, &err), -ENODATA);
	assert_int_equal(imgstore_put(t, 1, kit->data, MANIFEST_CHUNK, &err), -EBADMSG);
	assert_int_equal(imgstore_put(t, 1, kit->data, 5, &err), -EBADMSG);
	assert_int_equal(imgstore_put(t, 99, kit->data, 5, &err), -EBADMSG);
	assert_false(imgstore_has(store, m->id));
	assert_int_equal(put_missing(kit, t), 5);
	commit(t);
	commit(t);
	imgstore_transfer_close(t);

	assert_true(imgstore_has(store, m->id));
	assert_int_equal(imgstore_begin(store, m, &t, &err), -EEXIST);
	assert_int_equal(imgstore_path(store, m->id, path, &err), 0);
	kit_same_file(kit, path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mtime, IMGSTORE_MTIME);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_true(st.st_blocks * 512 <= 6 * MANIFEST_CHUNK + 65536); /* holes stay holes */
	assert_int_equal(imgstore_check(store, m->id, &err), 0);
	assert_int_equal(imgstore_read(store, m->id, 7, chunk, &err), MANIFEST_CHUNK - 77);
	assert_memory_equal(chunk, kit->data + 7 * MANIFEST_CHUNK, MANIFEST_CHUNK - 77);
	assert_int_equal(imgstore_read(store, m->id, 8, chunk, &err), -ERANGE);

	assert_int_equal(imgstore_hold(store, m->id, &err), 0);
	assert_int_equal(imgstore_remove(store, m->id, &err), -EBUSY);
	assert_int_equal(imgstore_info(store, m->id, &info, &err), 0);
	assert_int_equal(info.holds, 1);
	assert_int_equal(info.data_size, 6 * MANIFEST_CHUNK - 77);
	assert_int_equal(imgstore_total(store, &total, &err), 0);
	assert_int_equal(total.artefacts, 1);
	assert_int_equal(total.size, kit->size);

	/* Another program may not use the folder; the same one finds all again. */
	{
		struct imgstore *other = NULL;

		assert_int_equal(imgstore_open(kit_path(kit, "store"), &other, &err), -EBUSY);
	}
	imgstore_close(store);
	store = kit_store(kit, "store");
	assert_true(imgstore_has(store, m->id));
	assert_int_equal(imgstore_damaged(store), 0);
	assert_int_equal(imgstore_remove(store, m->id, &err), 0);
	assert_false(imgstore_has(store, m->id));
	assert_int_equal(imgstore_read(store, m->id, 0, chunk, &err), -ENOENT);
	assert_int_equal(imgstore_remove(store, m->id, &err), 0);
	imgstore_close(store);
	manifest_free(m);
}

/* What was received survives the end of the program. */
static void test_resume(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct imgstore_transfer *t, *same = NULL;
	struct imgstore_total total;
	struct err err = ERR_INIT;
	struct manifest *m;

	kit_make(kit, "f", 30, 1);
	m = kit_manifest(kit, "f");
	t = begin(store, m);
	for (uint32_t i = 0; i < 10; i++)
		if (i % 3 != 2)
			put_chunk(kit, t, i, 0);
	imgstore_transfer_close(t);
	imgstore_close(store);

	store = kit_store(kit, "store");
	assert_int_equal(imgstore_total(store, &total, &err), 0);
	assert_int_equal(total.partials, 1);
	assert_int_equal(imgstore_resume(store, m->id, &t, &err), 0);
	assert_int_equal(imgstore_missing_count(t), 20 - 7);
	assert_int_equal(imgstore_have_bytes(t), 7 * MANIFEST_CHUNK);
	/* Two may have it open. */
	assert_int_equal(imgstore_begin(store, m, &same, &err), 0);
	assert_ptr_equal(t, same);
	imgstore_transfer_close(same);
	assert_int_equal(imgstore_remove(store, m->id, &err), -EBUSY);
	assert_int_equal(imgstore_sweep(store, 0, &err), 0);
	assert_int_equal(put_missing(kit, t), 13);
	commit(t);
	imgstore_transfer_close(t);
	assert_true(imgstore_has(store, m->id));
	assert_int_equal(imgstore_check(store, m->id, &err), 0);
	imgstore_close(store);
	manifest_free(m);
}

static void test_abort_and_sweep(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct imgstore_transfer *t;
	struct imgstore_total total;
	const struct utimbuf old = {.actime = 1000, .modtime = 1000};
	struct err err = ERR_INIT;
	char hex[MANIFEST_TEXT], name[128];
	struct manifest *m;

	kit_make(kit, "f", 3, 1);
	m = kit_manifest(kit, "f");
	t = begin(store, m);
	put_chunk(kit, t, 0, 0);
	imgstore_abort(t);
	assert_int_equal(imgstore_total(store, &total, &err), 0);
	assert_int_equal(total.partials, 0);
	assert_int_equal(imgstore_resume(store, m->id, &t, &err), -ENOENT);

	t = begin(store, m);
	put_chunk(kit, t, 0, 0);
	imgstore_transfer_close(t);
	assert_int_equal(imgstore_sweep(store, 3600, &err), 0);
	assert_int_equal(imgstore_total(store, &total, &err), 0);
	assert_int_equal(total.partials, 1);
	manifest_id_text(hex, m->id);
	(void)str_format(name, sizeof(name), "store/partial/%s/have", hex);
	assert_int_equal(utime(kit_path(kit, name), &old), 0);
	assert_int_equal(imgstore_sweep(store, 3600, &err), 0);
	assert_int_equal(imgstore_total(store, &total, &err), 0);
	assert_int_equal(total.partials, 0);
	imgstore_close(store);
	manifest_free(m);
}

static void flip(const char *path, off_t at)
{
	int fd;
	uint8_t b;

	assert_int_equal(chmod(path, 0600), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &b, 1, at), 1);
	b ^= 0x10;
	assert_int_equal(pwrite(fd, &b, 1, at), 1);
	(void)close(fd);
}

/* `have` says too much, as after a loss of power: the commit finds out. */
static void test_damaged_partial(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct imgstore_transfer *t;
	struct err err = ERR_INIT;
	char hex[MANIFEST_TEXT], name[128];
	struct manifest *m;

	kit_make(kit, "f", 9, 1);
	m = kit_manifest(kit, "f");
	t = begin(store, m);
	(void)put_missing(kit, t);
	manifest_id_text(hex, m->id);
	(void)str_format(name, sizeof(name), "store/partial/%s/data", hex);
	flip(kit_path(kit, name), 4 * MANIFEST_CHUNK + 3);
	flip(kit_path(kit, name), 5 * MANIFEST_CHUNK + 3); /* a hole */
	assert_int_equal(imgstore_commit(t, &err), -EBADMSG);
	assert_int_equal(imgstore_missing_count(t), 1);
	assert_int_equal(imgstore_missing(t, 0), 4);
	assert_int_equal(put_missing(kit, t), 1);
	commit(t);
	imgstore_transfer_close(t);
	assert_int_equal(imgstore_check(store, m->id, &err), 0);

	/* Only a hole is wrong: mended at once. */
	assert_int_equal(imgstore_remove(store, m->id, &err), 0);
	t = begin(store, m);
	(void)put_missing(kit, t);
	flip(kit_path(kit, name), 8 * MANIFEST_CHUNK + 3);
	commit(t);
	imgstore_transfer_close(t);
	assert_int_equal(imgstore_check(store, m->id, &err), 0);
	imgstore_close(store);
	manifest_free(m);
}

/* A whole artefact that somebody touched is put aside at the next start; its
 * good chunks are not needed again. */
static void test_damaged_whole(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct imgstore_transfer *t = NULL;
	struct err err = ERR_INIT;
	char path[PATH_MAX];
	uint8_t id[MANIFEST_HASH];
	struct manifest *m;

	kit_make(kit, "f", 9, 1);
	m = kit_manifest(kit, "f");
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "f"), id, &err), 0);
	assert_memory_equal(id, m->id, sizeof(id));
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "f"), id, &err), 0);
	assert_int_equal(imgstore_path(store, id, path, &err), 0);
	flip(path, 1 * MANIFEST_CHUNK + 9);
	assert_int_equal(imgstore_check(store, id, &err), -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "chunk 1"));
	imgstore_close(store);

	store = kit_store(kit, "store");
	assert_int_equal(imgstore_damaged(store), 1);
	assert_false(imgstore_has(store, id));
	t = begin(store, m);
	assert_int_equal(imgstore_missing_count(t), 0);
	assert_int_equal(imgstore_commit(t, &err), -EBADMSG);
	assert_int_equal(put_missing(kit, t), 1);
	commit(t);
	imgstore_transfer_close(t);
	assert_int_equal(imgstore_check(store, id, &err), 0);
	imgstore_close(store);
	manifest_free(m);
}

/* Chunks that another artefact has, and chunks that occur twice, come once. */
static void test_local_chunks(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct imgstore_transfer *t;
	struct err err = ERR_INIT;
	uint8_t id[MANIFEST_HASH];
	struct manifest *m;
	int fd;

	kit_make(kit, "a", 9, 100);
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "a"), id, &err), 0);
	/* b: a with chunk 3 another, chunk 1 again at 9 and a new one twice at 10, 11. */
	fd = open(kit_path(kit, "b"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	kit->data = realloc(kit->data, 12 * MANIFEST_CHUNK);
	memset(kit->data + kit->size, 0, 100);
	kit->size = 12 * MANIFEST_CHUNK;
	proc_random(kit->data + 3 * MANIFEST_CHUNK, 1000);
	memcpy(kit->data + 9 * MANIFEST_CHUNK, kit->data + 1 * MANIFEST_CHUNK, MANIFEST_CHUNK);
	proc_random(kit->data + 10 * MANIFEST_CHUNK, MANIFEST_CHUNK);
	memcpy(kit->data + 11 * MANIFEST_CHUNK, kit->data + 10 * MANIFEST_CHUNK, MANIFEST_CHUNK);
	assert_int_equal(write(fd, kit->data, kit->size), kit->size);
	(void)close(fd);
	m = kit_manifest(kit, "b");
	t = begin(store, m);
	/* Missing: 3, and 10 with its twin 11 (8 is a hole in both). */
	assert_int_equal(imgstore_missing_count(t), 3);
	assert_int_equal(imgstore_missing(t, 0), 3);
	assert_int_equal(imgstore_missing(t, 4), 10);
	assert_int_equal(imgstore_missing(t, 11), 12);
	assert_int_equal(put_missing(kit, t), 2);
	commit(t);
	imgstore_transfer_close(t);
	assert_int_equal(imgstore_check(store, m->id, &err), 0);
	/* With a gone, its chunks are still found in b. */
	assert_int_equal(imgstore_remove(store, id, &err), 0);
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "a"), id, &err), 0);
	assert_int_equal(imgstore_check(store, id, &err), 0);
	manifest_free(m);
	imgstore_close(store);
}

static void test_many(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct err err = ERR_INIT;
	uint8_t ids[40][MANIFEST_HASH];

	/* Enough for the chunk index to grow, and to be rebuilt with holes in it. */
	for (unsigned i = 0; i < 40; i++) {
		kit_make(kit, "f", 40, i);
		assert_int_equal(imgstore_add_file(store, kit_path(kit, "f"), ids[i], &err), 0);
		if (i % 2)
			assert_int_equal(imgstore_remove(store, ids[i - 1], &err), 0);
	}
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(imgstore_has(store, ids[i]), i % 2);
	imgstore_close(store);
	store = kit_store(kit, "store");
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(imgstore_has(store, ids[i]), i % 2);
	imgstore_close(store);
}

/* A bit of the file turns over, as it does: neither size nor mtime say so. */
static void rot(const char *path, off_t at)
{
	struct timespec times[2] = {{.tv_sec = IMGSTORE_MTIME}, {.tv_sec = IMGSTORE_MTIME}};
	uint8_t byte;
	int fd;

	assert_int_equal(chmod(path, 0644), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	assert_int_equal(fchmod(fd, 0444), 0);
	assert_int_equal(futimens(fd, times), 0);
	(void)close(fd);
}

/* The file that a disk really stands on is looked at, not only the artefact. */
static void test_checked(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct err err = ERR_INIT;
	uint8_t id[MANIFEST_HASH], sparse[MANIFEST_HASH];
	char path[PATH_MAX], data[PATH_MAX];
	struct stat before, after;
	off_t at[] = {1000, 0, (1 << 30) - 10};

	kit_make(kit, "f", 4, 512);
	at[1] = (off_t)kit->size + 3; /* behind the artefact */
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "f"), id, &err), 0);
	assert_int_equal(imgstore_checked(store, id, 0, data, &err), 0);
	assert_non_null(strstr(data, "/data"));
	assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), 0);
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		assert_int_equal(stat(path, &before), 0);
		assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), 0);
		assert_int_equal(stat(path, &after), 0);
		assert_int_equal(before.st_ino, after.st_ino);
		rot(path, at[i]);
		/* Size and mtime are enough for those who only want it. */
		assert_int_equal(imgstore_sized(store, id, 1 << 30, path, &err), 0);
		assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), 0);
		assert_int_equal(stat(path, &after), 0);
		assert_int_not_equal(before.st_ino, after.st_ino);
		assert_int_equal(truncate(path, (off_t)kit->size), 0);
		kit_same_file(kit, path);
		assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), 0);
	}
	/* With a hole before data. */
	assert_int_equal(truncate(kit_path(kit, "f"), 0), 0);
	assert_int_equal(truncate(kit_path(kit, "f"), 6 * MANIFEST_CHUNK), 0);
	rot(kit_path(kit, "f"), 5 * MANIFEST_CHUNK);
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "f"), sparse, &err), 0);
	assert_int_equal(imgstore_checked(store, sparse, 0, path, &err), 0);
	rot(path, 2 * MANIFEST_CHUNK);
	assert_int_equal(imgstore_checked(store, sparse, 0, path, &err), -EBADMSG);
	assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), 0);
	rot(data, 1000);
	assert_int_equal(imgstore_checked(store, id, 0, data, &err), -EBADMSG);
	/* Good as it was made; but from what is bad now it cannot be made again. */
	assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), 0);
	rot(path, 1000);
	assert_int_equal(imgstore_checked(store, id, 1 << 30, path, &err), -EBADMSG);
	imgstore_close(store);
}

static void test_sized(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct err err = ERR_INIT;
	uint8_t id[MANIFEST_HASH];
	char path[PATH_MAX], again[PATH_MAX];
	struct stat st, st2;

	kit_make(kit, "f", 4, 512);
	assert_int_equal(imgstore_add_file(store, kit_path(kit, "f"), id, &err), 0);
	assert_int_equal(imgstore_sized(store, id, kit->size, path, &err), 0);
	assert_non_null(strstr(path, "/data"));
	kit_same_file(kit, path);
	assert_int_equal(imgstore_sized(store, id, kit->size - 512, path, &err), -EINVAL);
	assert_int_equal(imgstore_sized(store, id, 1 << 30, path, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 1 << 30);
	assert_int_equal(st.st_mtime, IMGSTORE_MTIME);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_true(st.st_blocks * 512 < 8 * MANIFEST_CHUNK);
	assert_int_equal(imgstore_sized(store, id, 1 << 30, again, &err), 0);
	assert_string_equal(path, again);
	assert_int_equal(stat(path, &st2), 0);
	assert_int_equal(st.st_ino, st2.st_ino); /* made once */
	assert_int_equal(truncate(path, (off_t)kit->size), 0);
	kit_same_file(kit, path);
	imgstore_close(store);
}

/* A program is executable. */
static void test_kernel(void **state)
{
	struct kit *kit = *state;
	struct imgstore *store = kit_store(kit, "store");
	struct err err = ERR_INIT;
	uint8_t id[MANIFEST_HASH];
	char path[PATH_MAX];
	struct stat st;

	assert_int_equal(imgstore_add_file(store, "/proc/self/exe", id, &err), 0);
	assert_int_equal(imgstore_path(store, id, path, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0555);
	imgstore_close(store);
}

static void test_disk_full(void **state)
{
	struct kit *kit = *state;
	struct imgstore_transfer *t = NULL;
	struct imgstore_total total;
	struct err err = ERR_INIT;
	struct imgstore *store;
	struct manifest *m;
	char big[PATH_MAX];
	int fd, rc = 0;

	if (geteuid() != 0)
		skip();
	assert_int_equal(mkdir(kit_path(kit, "disk"), 0755), 0);
	assert_int_equal(
		mount("none", kit_path(kit, "disk"), "tmpfs", MS_NODEV | MS_NOSUID, "size=24m"), 0);
	store = kit_store(kit, "disk/store");
	/* Said before anything is begun. */
	kit_make(kit, "f", 60, 0);
	m = kit_manifest(kit, "f");
	assert_int_equal(imgstore_begin(store, m, &t, &err), -ENOSPC);
	assert_non_null(strstr(err_msg(&err), "MiB needed"));
	assert_int_equal(imgstore_total(store, &total, &err), 0);
	assert_int_equal(total.partials, 0);
	manifest_free(m);
	/* Somebody else fills it while we receive. */
	kit_make(kit, "f", 24, 0);
	m = kit_manifest(kit, "f");
	t = begin(store, m);
	(void)str_copy(big, sizeof(big), kit_path(kit, "disk/big"));
	fd = open(big, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(posix_fallocate(fd, 0, 23 << 20), 0);
	for (uint32_t i = 0; rc == 0 && i < m->count; i++)
		if (i % 3 != 2)
			rc = imgstore_put(
				t, i, kit->data + (size_t)i * MANIFEST_CHUNK, MANIFEST_CHUNK, &err);
	assert_int_equal(rc, -ENOSPC);
	assert_true(imgstore_missing_count(t) > 0);
	assert_int_equal(imgstore_commit(t, &err), -ENODATA);
	/* With room again it goes on. */
	assert_int_equal(unlink(big), 0);
	(void)close(fd);
	(void)put_missing(kit, t);
	commit(t);
	imgstore_transfer_close(t);
	assert_int_equal(imgstore_check(store, m->id, &err), 0);
	imgstore_close(store);
	manifest_free(m);
	assert_int_equal(umount2(kit_path(kit, "disk"), MNT_DETACH), 0);
}

static int disk_teardown(void **state)
{
	struct kit *kit = *state;

	(void)umount2(kit_path(kit, "disk"), MNT_DETACH);
	return kit_teardown(state);
}

#define T(f) cmocka_unit_test_setup_teardown(f, kit_setup, kit_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_whole),
		T(test_resume),
		T(test_abort_and_sweep),
		T(test_damaged_partial),
		T(test_damaged_whole),
		T(test_local_chunks),
		T(test_many),
		T(test_checked),
		T(test_sized),
		T(test_kernel),
		cmocka_unit_test_setup_teardown(test_disk_full, kit_setup, disk_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
