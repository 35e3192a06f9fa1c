#include "image/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/str.h"

/* Left free for everything else on the disk. */
#define DISK_MARGIN (16u << 20)

/* ---------------------------------------------------------------- which chunks are alike */

static void link_twins(struct imgstore_transfer *t, uint32_t *table, size_t capacity)
{
	const struct manifest *m = t->m;

	for (uint32_t i = 0; i < m->count; i++) {
		uint32_t key, first = 0;
		size_t at;

		if (bit_get(t->have, i))
			continue;
		memcpy(&key, manifest_hash(m, i), sizeof(key));
		for (at = key & (capacity - 1); table[at]; at = (at + 1) & (capacity - 1)) {
			first = table[at] - 1;
			if (manifest_chunk_size(m, first) == manifest_chunk_size(m, i) &&
				memcmp(manifest_hash(m, first), manifest_hash(m, i),
					MANIFEST_HASH) == 0)
				break;
		}
		if (!table[at]) {
			table[at] = i + 1;
			continue;
		}
		t->twins[i] = t->twins[first];
		t->twins[first] = i;
		bit_set(t->second, i);
	}
}

static int find_twins(struct imgstore_transfer *t, struct err *err)
{
	size_t capacity = 64;
	uint32_t *table;

	while (capacity < 2 * (size_t)t->m->count)
		capacity *= 2;
	table = calloc(capacity, sizeof(*table));
	t->twins = calloc(t->m->count, sizeof(*t->twins));
	t->second = calloc(1, transfer_have_size(t->m));
	if (!table || !t->twins || !t->second) {
		free(table);
		return err_set(err, -ENOMEM, "transfer: memory is short");
	}
	link_twins(t, table, capacity);
	free(table);
	return 0;
}

/* ---------------------------------------------------------------- opening */

static int write_manifest(struct imgstore_transfer *t, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), t->path, "manifest", err);

	if (rc == 0)
		rc = fs_mkdirs(t->path, 0755, err);
	return rc < 0 ? rc : fs_write_atomic(path, t->m->bytes, t->m->bytes_size, 0444, err);
}

/* Is the manifest there ours? */
static bool same_manifest(struct imgstore_transfer *t)
{
	char path[PATH_MAX];
	struct buf data;
	bool same;

	if (fs_join(path, sizeof(path), t->path, "manifest", NULL) < 0)
		return false;
	buf_init(&data);
	same = fs_read(path, MANIFEST_BYTES_MAX, &data, NULL) == 0 &&
	       data.size == t->m->bytes_size && memcmp(data.data, t->m->bytes, data.size) == 0;
	buf_free(&data);
	return same;
}

static int open_data(struct imgstore_transfer *t, bool *claims, struct err *err)
{
	char path[PATH_MAX];
	struct stat st;
	int rc = fs_join(path, sizeof(path), t->path, "data", err);

	if (rc < 0)
		return rc;
	t->data_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (t->data_fd < 0 || fstat(t->data_fd, &st) < 0)
		return err_errno(err, errno, "%s", path);
	*claims = (uint64_t)st.st_size == t->m->size;
	if (!*claims &&
		(ftruncate(t->data_fd, 0) < 0 || ftruncate(t->data_fd, (off_t)t->m->size) < 0))
		return err_errno(err, errno, "%s", path);
	/* The last commit broke off after it was sealed. */
	if (fchmod(t->data_fd, 0600) < 0)
		return err_errno(err, errno, "%s", path);
	return 0;
}

/* CLAIMS: the data has its length, so a missing `have` claims every chunk. */
static int open_have(struct imgstore_transfer *t, bool claims, struct err *err)
{
	size_t size = transfer_have_size(t->m);
	char path[PATH_MAX];
	ssize_t n;
	int rc = fs_join(path, sizeof(path), t->path, "have", err);

	if (rc < 0)
		return rc;
	t->have = calloc(1, size);
	if (!t->have)
		return err_set(err, -ENOMEM, "transfer: memory is short");
	if (claims && access(path, F_OK) < 0 && errno == ENOENT)
		memset(t->have, 0xff, size);
	else
		claims = claims && access(path, F_OK) == 0;
	t->have_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (t->have_fd < 0)
		return err_errno(err, errno, "%s", path);
	n = claims ? pread(t->have_fd, t->have, size, 0) : 0;
	if (n < 0)
		return err_errno(err, errno, "%s", path);
	return imgfile_write_at(t->have_fd, t->have, size, 0, err);
}

/* ---------------------------------------------------------------- from other artefacts */

struct local_run {
	uint8_t id[MANIFEST_HASH];
	uint32_t from, to, count; /* chunks */
	uint64_t bytes;
};

/* The longest run of missing chunks at I that one artefact has in the same order;
 * that artefact is held. */
static bool find_run(struct imgstore_transfer *t, uint32_t i, struct local_run *run)
{
	struct artefact *a;
	uint32_t chunk = 0;

	(void)pthread_mutex_lock(&t->store->lock);
	a = chunkindex_find(
		&t->store->index, manifest_hash(t->m, i), manifest_chunk_size(t->m, i), &chunk);
	if (a) {
		*run = (struct local_run){.from = chunk, .to = i};
		memcpy(run->id, a->id, sizeof(run->id));
		a->holds++;
		while (i < t->m->count && chunk < a->m->count && !bit_get(t->have, i) &&
			manifest_chunk_size(a->m, chunk) == manifest_chunk_size(t->m, i) &&
			memcmp(manifest_hash(a->m, chunk), manifest_hash(t->m, i), MANIFEST_HASH) ==
				0) {
			run->bytes += manifest_chunk_size(t->m, i++);
			run->count++;
			chunk++;
		}
	}
	(void)pthread_mutex_unlock(&t->store->lock);
	return a != NULL;
}

static int copy_run(struct imgstore_transfer *t, const struct local_run *run, struct err *err)
{
	char path[PATH_MAX];
	int fd, rc = imgstore_id_path(t->store, run->id, false, "data", path, err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	rc = imgfile_copy(fd, (uint64_t)run->from * MANIFEST_CHUNK, t->data_fd,
		(uint64_t)run->to * MANIFEST_CHUNK, run->bytes, err);
	(void)close(fd);
	return rc;
}

/* The commit verifies these as all others: a damaged neighbour costs a second
 * fetch, never a wrong artefact. */
static int copy_local(struct imgstore_transfer *t, struct err *err)
{
	for (uint32_t i = 0; i < t->m->count; i++) {
		struct local_run run;
		int rc;

		if (bit_get(t->have, i) || !find_run(t, i, &run))
			continue;
		rc = copy_run(t, &run, err);
		imgstore_drop(t->store, run.id);
		if (rc == -ENOSPC)
			return rc;
		(void)pthread_mutex_lock(&t->store->lock);
		for (uint32_t k = 0; rc == 0 && k < run.count; k++)
			transfer_note(t, i + k);
		(void)pthread_mutex_unlock(&t->store->lock);
		i += run.count - 1;
	}
	return imgfile_write_at(t->have_fd, t->have, transfer_have_size(t->m), 0, err);
}

static int check_room(struct imgstore_transfer *t, struct err *err)
{
	uint64_t need = (uint64_t)t->missing * MANIFEST_CHUNK, room;
	struct statvfs fs;

	if (statvfs(t->store->dir, &fs) < 0)
		return err_errno(err, errno, "%s", t->store->dir);
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (need && need + DISK_MARGIN > room)
		return err_set(err, -ENOSPC, "%llu MiB needed in %s, %llu MiB free",
			(unsigned long long)((need + DISK_MARGIN) >> 20), t->store->dir,
			(unsigned long long)(room >> 20));
	return 0;
}

static int open_files(struct imgstore_transfer *t, struct err *err)
{
	bool claims = false;
	int rc = 0;

	if (!same_manifest(t)) {
		rc = fs_remove_tree(t->path, err);
		if (rc == 0)
			rc = write_manifest(t, err);
	}
	if (rc == 0)
		rc = open_data(t, &claims, err);
	if (rc == 0)
		rc = open_have(t, claims, err);
	if (rc < 0)
		return rc;
	transfer_count(t);
	rc = check_room(t, err);
	if (rc == 0)
		rc = copy_local(t, err);
	if (rc == 0)
		rc = find_twins(t, err);
	if (rc == 0)
		t->ready = true;
	return rc;
}

/* A new entry, busy until it is opened; or the one that is there. */
static int enter(struct imgstore *store, const struct manifest *m, struct imgstore_transfer **out,
	bool *fresh, struct err *err)
{
	struct imgstore_transfer *t = calloc(1, sizeof(*t)), *old = NULL;
	char path[PATH_MAX];
	int rc = 0;

	if (!t)
		return err_set(err, -ENOMEM, "transfer: memory is short");
	t->store = store;
	t->data_fd = t->have_fd = -1;
	t->refs = 1;
	(void)pthread_mutex_init(&t->busy, NULL);
	memcpy(t->id, m->id, sizeof(t->id));
	t->m = manifest_clone(m);
	t->have = NULL;
	if (!t->m)
		rc = err_set(err, -ENOMEM, "transfer: memory is short");
	if (rc == 0)
		rc = imgstore_id_path(store, m->id, true, NULL, path, err);
	if (rc == 0 && str_copy(t->path, sizeof(t->path), path) < 0)
		rc = err_set(err, -ENAMETOOLONG, "store: path is too long");
	if (rc < 0) {
		transfer_free(t);
		return rc;
	}
	(void)pthread_mutex_lock(&t->busy);
	(void)pthread_mutex_lock(&store->lock);
	if (imgstore_find(store, m->id))
		rc = err_set(err, -EEXIST, "the artefact is there already");
	else
		HASH_FIND(hh, store->transfers, m->id, MANIFEST_HASH, old);
	if (rc == 0 && old)
		old->refs++;
	else if (rc == 0)
		HASH_ADD(hh, store->transfers, id, MANIFEST_HASH, t);
	(void)pthread_mutex_unlock(&store->lock);
	*fresh = rc == 0 && !old;
	*out = old ? old : t;
	if (rc < 0 || old) {
		(void)pthread_mutex_unlock(&t->busy);
		transfer_free(t);
	}
	return rc;
}

int imgstore_begin(struct imgstore *store, const struct manifest *m, struct imgstore_transfer **out,
	struct err *err)
{
	struct imgstore_transfer *t = NULL;
	bool fresh = false, ready;
	int rc = enter(store, m, &t, &fresh, err);

	if (rc < 0)
		return rc;
	if (fresh)
		rc = open_files(t, err);
	else
		(void)pthread_mutex_lock(&t->busy); /* until the other has opened it */
	ready = t->ready;
	(void)pthread_mutex_unlock(&t->busy);
	if (!ready) {
		if (!fresh)
			rc = err_set(err, -EIO, "the transfer could not be begun");
		/* Nothing half-done stays behind a begin that failed. */
		imgstore_abort(t);
		return rc;
	}
	*out = t;
	return 0;
}

int imgstore_resume(struct imgstore *store, const uint8_t id[MANIFEST_HASH],
	struct imgstore_transfer **out, struct err *err)
{
	struct manifest *m = NULL;
	char path[PATH_MAX];
	struct buf data;
	int rc = imgstore_id_path(store, id, true, "manifest", path, err);

	if (rc < 0)
		return rc;
	buf_init(&data);
	if (access(path, F_OK) < 0)
		rc = err_set(err, -ENOENT, "no transfer of the artefact is under way");
	else
		rc = fs_read(path, MANIFEST_BYTES_MAX, &data, err);
	if (rc == 0)
		rc = manifest_parse(data.data, data.size, &m, err);
	buf_free(&data);
	if (rc == 0 && memcmp(m->id, id, sizeof(m->id)) != 0)
		rc = -EBADMSG;
	if (rc == 0)
		rc = imgstore_begin(store, m, out, err);
	else if (rc == -EBADMSG)
		rc = err_set(err, -ENOENT, "what is there of the artefact is damaged");
	manifest_free(m);
	return rc;
}
