/* The store's part that looks at what is there: whole artefacts, and those made longer. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image/store_int.h"
#include "lib/str.h"

#define KNOWN_S 3600 /* what was good that long ago is looked at again */

int imgstore_check(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct manifest *m = NULL, *now = NULL;
	int fd, rc = imgstore_manifest(store, id, &m, err);

	if (rc < 0)
		return rc;
	fd = imgstore_open_data(store, id, err);
	rc = fd < 0 ? fd : manifest_build(fd, NULL, NULL, &now, err);
	if (rc == 0 && now->size != m->size)
		rc = err_set(err, -EBADMSG, "the size is another");
	for (uint32_t i = 0; rc == 0 && i < m->count; i++)
		if (memcmp(manifest_hash(m, i), manifest_hash(now, i), MANIFEST_HASH) != 0)
			rc = err_set(err, -EBADMSG, "chunk %u of %u is damaged", i, m->count);
	if (fd >= 0)
		(void)close(fd);
	manifest_free(m);
	manifest_free(now);
	return rc;
}

static int make_sized(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint64_t size,
	const char *path, struct err *err)
{
	char tmp[PATH_MAX];
	struct stat st;
	int in, out = -1, rc = 0;

	if (str_format(tmp, sizeof(tmp), "%s.tmp", path) < 0)
		return err_set(err, -ENAMETOOLONG, "store: path is too long");
	in = imgstore_open_data(store, id, err);
	if (in < 0)
		return in;
	(void)unlink(tmp);
	out = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (out < 0 || fstat(in, &st) < 0)
		rc = err_errno(err, errno, "%s", tmp);
	if (rc == 0)
		rc = imgfile_copy_sparse(in, out, (uint64_t)st.st_size, err);
	if (rc == 0 && ftruncate(out, (off_t)size) < 0)
		rc = err_errno(
			err, errno, "make %s %llu bytes long", tmp, (unsigned long long)size);
	if (rc == 0)
		rc = imgfile_seal(out, err);
	if (rc == 0 && rename(tmp, path) < 0)
		rc = err_errno(err, errno, "rename %s", tmp);
	if (rc < 0)
		(void)unlink(tmp);
	if (out >= 0)
		(void)close(out);
	(void)close(in);
	return rc;
}

/* Where the file is for a disk of SIZE bytes.  1: it is `data` itself. */
static int sized_path(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err)
{
	struct imgstore_info info;
	char name[64];
	int rc = imgstore_info(store, id, &info, err);

	if (rc < 0)
		return rc;
	if (size == info.size) {
		rc = imgstore_path(store, id, path, err);
		return rc < 0 ? rc : 1;
	}
	if (size < info.size || size % 512 || size > INT64_MAX)
		return err_set(err, -EINVAL,
			"a disk of %llu bytes cannot hold an image of %llu bytes",
			(unsigned long long)size, (unsigned long long)info.size);
	(void)str_format(name, sizeof(name), "data-%llu", (unsigned long long)size);
	return imgstore_id_path(store, id, false, name, path, err);
}

int imgstore_sized(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err)
{
	struct stat st;
	int rc = sized_path(store, id, size, path, err);

	if (rc != 0)
		return rc < 0 ? rc : 0;
	(void)pthread_mutex_lock(&store->sized_lock);
	if (lstat(path, &st) < 0 || (uint64_t)st.st_size != size || st.st_mtime != IMGSTORE_MTIME)
		rc = make_sized(store, id, size, path, err);
	(void)pthread_mutex_unlock(&store->sized_lock);
	return rc;
}

/* ---------------------------------------------------------------- checked before use */

static bool known(struct imgstore *store, const struct stat *st)
{
	bool found = false;

	(void)pthread_mutex_lock(&store->lock);
	for (size_t i = 0; i < IMGSTORE_KNOWN; i++) {
		const struct known_file *k = &store->known[i];

		found |= k->dev == st->st_dev && k->inode == st->st_ino && k->size == st->st_size &&
			 k->ctime.tv_sec == st->st_ctim.tv_sec &&
			 k->ctime.tv_nsec == st->st_ctim.tv_nsec && time(NULL) - k->at < KNOWN_S &&
			 time(NULL) >= k->at;
	}
	(void)pthread_mutex_unlock(&store->lock);
	return found;
}

static void note(struct imgstore *store, const struct stat *st)
{
	(void)pthread_mutex_lock(&store->lock);
	store->known[store->known_next++ % IMGSTORE_KNOWN] = (struct known_file){.dev = st->st_dev,
		.inode = st->st_ino,
		.size = st->st_size,
		.ctime = st->st_ctim,
		.at = time(NULL)};
	(void)pthread_mutex_unlock(&store->lock);
}

/* Zeroes from FROM to the end? */
static int check_tail(int fd, uint64_t from, uint64_t size, uint8_t *data, struct err *err)
{
	while (from < size) {
		off_t at = lseek(fd, (off_t)from, SEEK_DATA);
		size_t n;
		int rc;

		/* What comes next may be behind what is looked at. */
		if ((at < 0 && errno == ENXIO) || at >= (off_t)size)
			return 0;
		if (at > (off_t)from)
			from = (uint64_t)at;
		n = size - from < MANIFEST_CHUNK ? (size_t)(size - from) : MANIFEST_CHUNK;
		rc = imgfile_read_at(fd, data, n, from, err);
		if (rc < 0)
			return rc;
		for (size_t i = 0; i < n; i++)
			if (data[i])
				return err_set(err, -EBADMSG, "there is data behind its end");
		from += n;
	}
	return 0;
}

/* The artefact, and zeroes behind it. */
static int check_file(int fd, const struct manifest *m, uint64_t size, struct err *err)
{
	uint8_t *data = malloc(MANIFEST_CHUNK);
	int rc = data ? 0 : err_set(err, -ENOMEM, "store: memory is short");

	for (uint32_t i = 0; rc == 0 && i < m->count; i++) {
		uint32_t n = manifest_chunk_size(m, i);
		uint64_t from = (uint64_t)i * MANIFEST_CHUNK;

		if (manifest_is_hole(m, i)) {
			rc = check_tail(fd, from, from + n, data, err);
			continue;
		}
		rc = imgfile_read_at(fd, data, n, from, err);
		if (rc >= 0)
			rc = manifest_check_chunk(m, i, data, n, err);
		if (rc > 0)
			rc = 0;
	}
	if (rc == 0)
		rc = check_tail(fd, m->size, size, data, err);
	free(data);
	return rc;
}

/* Of SIZE bytes.  1: it was found good before; 0: it is good; negative: it is not. */
static int check_path(struct imgstore *store, const struct manifest *m, uint64_t size,
	const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		rc = err_errno(err, errno, "%s", path);
	else if ((uint64_t)st.st_size != size)
		rc = err_set(err, -EBADMSG, "%s has another size", path);
	else if (!known(store, &st)) {
		rc = check_file(fd, m, size, err);
		if (rc == 0)
			note(store, &st);
	}
	if (fd >= 0)
		(void)close(fd);
	return rc;
}

static int checked(struct imgstore *store, const struct manifest *m, uint64_t size,
	char path[PATH_MAX], struct err *err)
{
	int where = sized_path(store, m->id, size, path, err), rc;

	if (where < 0)
		return where;
	rc = check_path(store, m, size, path, err);
	if (rc == 0 || where == 1)
		return rc;
	/* A longer one is a copy: made again from the artefact, if that is good, and checked. */
	rc = imgstore_check(store, m->id, err);
	(void)pthread_mutex_lock(&store->sized_lock);
	if (rc == 0)
		rc = make_sized(store, m->id, size, path, err);
	(void)pthread_mutex_unlock(&store->sized_lock);
	return rc < 0 ? rc : check_path(store, m, size, path, err);
}

int imgstore_checked(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err)
{
	struct manifest *m = NULL;
	int rc = imgstore_manifest(store, id, &m, err);

	if (rc < 0)
		return rc;
	rc = checked(store, m, size > m->size ? size : m->size, path, err);
	manifest_free(m);
	return rc;
}
