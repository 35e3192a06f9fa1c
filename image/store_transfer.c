#include "image/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/str.h"

size_t transfer_have_size(const struct manifest *m)
{
	return ((size_t)m->count + 7) / 8;
}

void transfer_free(struct imgstore_transfer *t)
{
	if (t->data_fd >= 0)
		(void)close(t->data_fd);
	if (t->have_fd >= 0)
		(void)close(t->have_fd);
	(void)pthread_mutex_destroy(&t->busy);
	manifest_free(t->m);
	free(t->have);
	free(t->twins);
	free(t->second);
	free(t);
}

void transfer_count(struct imgstore_transfer *t)
{
	t->missing = 0;
	t->have_bytes = 0;
	for (uint32_t i = 0; i < t->m->count; i++) {
		if (manifest_is_hole(t->m, i))
			bit_set(t->have, i);
		else if (bit_get(t->have, i))
			t->have_bytes += manifest_chunk_size(t->m, i);
		else
			t->missing++;
	}
}

void transfer_note(struct imgstore_transfer *t, uint32_t i)
{
	if (bit_get(t->have, i))
		return;
	bit_set(t->have, i);
	t->missing--;
	t->have_bytes += manifest_chunk_size(t->m, i);
}

static int save_have(struct imgstore_transfer *t, uint32_t i, struct err *err)
{
	uint8_t byte;

	(void)pthread_mutex_lock(&t->store->lock);
	byte = t->have[i / 8];
	(void)pthread_mutex_unlock(&t->store->lock);
	return imgfile_write_at(t->have_fd, &byte, 1, i / 8, err);
}

/* ---------------------------------------------------------------- chunks */

const struct manifest *imgstore_transfer_manifest(const struct imgstore_transfer *t)
{
	return t->m;
}

uint32_t imgstore_missing(struct imgstore_transfer *t, uint32_t from)
{
	uint32_t i;

	(void)pthread_mutex_lock(&t->store->lock);
	for (i = from; i < t->m->count; i++) {
		if (i % 8 == 0 && t->have[i / 8] == 0xff)
			i += 7; /* eight at a time */
		else if (!bit_get(t->have, i) && !bit_get(t->second, i))
			break;
	}
	(void)pthread_mutex_unlock(&t->store->lock);
	return i < t->m->count ? i : t->m->count;
}

uint32_t imgstore_missing_count(struct imgstore_transfer *t)
{
	uint32_t n;

	(void)pthread_mutex_lock(&t->store->lock);
	n = t->missing;
	(void)pthread_mutex_unlock(&t->store->lock);
	return n;
}

uint64_t imgstore_have_bytes(struct imgstore_transfer *t)
{
	uint64_t n;

	(void)pthread_mutex_lock(&t->store->lock);
	n = t->have_bytes;
	(void)pthread_mutex_unlock(&t->store->lock);
	return n;
}

int imgstore_put(
	struct imgstore_transfer *t, uint32_t index, const void *data, size_t size, struct err *err)
{
	bool there;
	int rc = manifest_check_chunk(t->m, index, data, size, err);

	if (rc < 0)
		return rc;
	(void)pthread_mutex_lock(&t->store->lock);
	there = bit_get(t->have, index) || t->whole;
	(void)pthread_mutex_unlock(&t->store->lock);
	if (there)
		return 0;
	/* This chunk, and those with the same content. */
	for (uint32_t i = index, n = 0; rc == 0 && n < t->m->count; n++) {
		rc = imgfile_write_at(t->data_fd, data, size, (uint64_t)i * MANIFEST_CHUNK, err);
		if (rc < 0)
			break;
		(void)pthread_mutex_lock(&t->store->lock);
		transfer_note(t, i);
		(void)pthread_mutex_unlock(&t->store->lock);
		rc = save_have(t, i, err);
		i = t->twins[i];
		if (!i)
			break;
	}
	return rc < 0 ? err_wrap(err, "chunk %u", index) : 0;
}

/* ---------------------------------------------------------------- the end */

/* Every chunk is what the manifest says, and every hole is one. */
static int verify(struct imgstore_transfer *t, struct err *err)
{
	struct manifest *now = NULL;
	uint32_t bad = 0;
	int rc = manifest_build(t->data_fd, NULL, NULL, &now, err);

	if (rc < 0)
		return rc;
	if (now->size != t->m->size) {
		manifest_free(now);
		return err_set(err, -EIO, "the file under way has another length");
	}
	(void)pthread_mutex_lock(&t->store->lock);
	for (uint32_t i = 0; i < t->m->count; i++) {
		if (memcmp(manifest_hash(t->m, i), manifest_hash(now, i), MANIFEST_HASH) == 0)
			continue;
		bad++;
		bit_clear(t->have, i);
		bit_clear(t->second, i);
		t->twins[i] = 0;
	}
	(void)pthread_mutex_unlock(&t->store->lock);
	manifest_free(now);
	if (!bad)
		return 0;
	return err_set(err, -EBADMSG, "%u of %u chunks were damaged and are needed again", bad,
		t->m->count);
}

/* A hole that is none in the file is made one again. */
static int mend_holes(struct imgstore_transfer *t, struct err *err)
{
	for (uint32_t i = 0; i < t->m->count; i++) {
		if (!manifest_is_hole(t->m, i) || bit_get(t->have, i))
			continue;
		if (fallocate(t->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    (off_t)((uint64_t)i * MANIFEST_CHUNK),
			    (off_t)manifest_chunk_size(t->m, i)) < 0)
			return err_errno(err, errno, "make a hole");
	}
	return 0;
}

static int make_whole(struct imgstore_transfer *t, struct err *err)
{
	char path[PATH_MAX], have[PATH_MAX];
	struct manifest *m = manifest_clone(t->m);
	int rc = m ? 0 : err_set(err, -ENOMEM, "transfer: memory is short");

	if (rc == 0)
		rc = imgstore_id_path(t->store, t->id, false, NULL, path, err);
	if (rc == 0)
		rc = fs_join(have, sizeof(have), t->path, "have", err);
	if (rc == 0)
		rc = imgfile_seal(t->data_fd, err);
	if (rc == 0 && unlink(have) < 0 && errno != ENOENT)
		rc = err_errno(err, errno, "%s", have);
	if (rc == 0)
		rc = fs_sync_dir(t->path, err);
	if (rc < 0) {
		manifest_free(m);
		return rc;
	}
	(void)pthread_mutex_lock(&t->store->lock);
	if (rename(t->path, path) < 0)
		rc = err_errno(err, errno, "rename %s", t->path);
	if (rc == 0)
		rc = imgstore_enter(t->store, m, err);
	else
		manifest_free(m);
	if (rc == 0)
		t->whole = true;
	(void)pthread_mutex_unlock(&t->store->lock);
	return rc < 0 ? rc : fs_sync_dir(t->store->dir, err);
}

int imgstore_commit(struct imgstore_transfer *t, struct err *err)
{
	uint32_t missing;
	int rc = 0;

	(void)pthread_mutex_lock(&t->busy);
	missing = imgstore_missing_count(t);
	if (t->whole)
		goto out;
	if (missing) {
		rc = err_set(err, -ENODATA, "%u of %u chunks are missing", missing, t->m->count);
		goto out;
	}
	rc = verify(t, err);
	if (rc == -EBADMSG) {
		if (mend_holes(t, NULL) == 0) {
			(void)pthread_mutex_lock(&t->store->lock);
			transfer_count(t);
			missing = t->missing;
			(void)pthread_mutex_unlock(&t->store->lock);
			(void)imgfile_write_at(
				t->have_fd, t->have, transfer_have_size(t->m), 0, NULL);
			if (!missing) /* only holes were wrong */
				rc = verify(t, err);
		}
	}
	if (rc == 0)
		rc = make_whole(t, err);
out:
	(void)pthread_mutex_unlock(&t->busy);
	return rc;
}

static void close_transfer(struct imgstore_transfer *t, bool abort)
{
	struct imgstore *store;
	char trash[PATH_MAX];
	bool last, remove = false;

	if (!t)
		return;
	store = t->store;
	(void)pthread_mutex_lock(&store->lock);
	t->abort |= abort;
	last = --t->refs == 0;
	if (last) {
		HASH_DEL(store->transfers, t);
		remove = t->abort && !t->whole && imgstore_trash(store, t->path, trash, NULL) == 0;
	}
	(void)pthread_mutex_unlock(&store->lock);
	if (!last)
		return;
	transfer_free(t);
	if (remove)
		(void)fs_remove_tree(trash, NULL);
}

void imgstore_transfer_close(struct imgstore_transfer *t)
{
	close_transfer(t, false);
}

void imgstore_abort(struct imgstore_transfer *t)
{
	close_transfer(t, true);
}

static int add_missing(struct imgstore_transfer *t, int fd, struct err *err)
{
	uint8_t *data = malloc(MANIFEST_CHUNK);
	int rc = data ? 0 : err_set(err, -ENOMEM, "memory is short");

	for (uint32_t i = imgstore_missing(t, 0); rc == 0 && i < t->m->count;
		i = imgstore_missing(t, i + 1)) {
		uint32_t size = manifest_chunk_size(t->m, i);

		rc = imgfile_read_at(fd, data, size, (uint64_t)i * MANIFEST_CHUNK, err);
		if (rc == 0)
			rc = imgstore_put(t, i, data, size, err);
	}
	free(data);
	return rc;
}

int imgstore_add_file(
	struct imgstore *store, const char *path, uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct imgstore_transfer *t = NULL;
	struct manifest *m = NULL;
	int rc, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	rc = manifest_build(fd, NULL, NULL, &m, err);
	if (rc == 0)
		rc = imgstore_begin(store, m, &t, err);
	if (rc == 0)
		rc = add_missing(t, fd, err);
	if (rc == 0)
		rc = imgstore_commit(t, err);
	if (rc == -EEXIST)
		rc = 0;
	if (rc == 0)
		memcpy(id, m->id, MANIFEST_HASH);
	else
		rc = err_wrap(err, "%s", path);
	if (rc == 0)
		imgstore_transfer_close(t);
	else
		imgstore_abort(t);
	manifest_free(m);
	(void)close(fd);
	return rc;
}
