#include "image/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "image/store_int.h"
#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"

struct artefact *imgstore_find(struct imgstore *store, const uint8_t id[MANIFEST_HASH])
{
	struct artefact *a = NULL;

	HASH_FIND(hh, store->all, id, MANIFEST_HASH, a);
	return a;
}

int imgstore_id_path(const struct imgstore *store, const uint8_t id[MANIFEST_HASH], bool partial,
	const char *name, char path[PATH_MAX], struct err *err)
{
	char hex[MANIFEST_TEXT];

	manifest_id_text(hex, id);
	if (str_format(path, PATH_MAX, "%s/%s%s%s%s", store->dir, partial ? PARTIAL "/" : "", hex,
		    name ? "/" : "", name ? name : "") < 0)
		return err_set(err, -ENAMETOOLONG, "store: path is too long");
	return 0;
}

int imgstore_enter(struct imgstore *store, struct manifest *m, struct err *err)
{
	struct artefact *a = calloc(1, sizeof(*a));
	int rc;

	if (!a) {
		manifest_free(m);
		return err_set(err, -ENOMEM, "store: memory is short");
	}
	/* A manifest is always given.
	 * NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker) */
	memcpy(a->id, m->id, sizeof(a->id));
	a->m = m;
	a->data_size = manifest_data_size(m);
	rc = chunkindex_add(&store->index, a, err);
	if (rc < 0) {
		manifest_free(m);
		free(a);
		return rc;
	}
	HASH_ADD(hh, store->all, id, MANIFEST_HASH, a);
	return 0;
}

int imgstore_trash(struct imgstore *store, const char *path, char *trash_path, struct err *err)
{
	if (str_format(trash_path, PATH_MAX, "%s/" PARTIAL "/" TRASH "%d-%llu", store->dir,
		    (int)getpid(), (unsigned long long)++store->trash) < 0)
		return err_set(err, -ENAMETOOLONG, "store: path is too long");
	if (rename(path, trash_path) < 0)
		return err_errno(err, errno, "remove %s", path);
	return 0;
}

/* ---------------------------------------------------------------- scan */

/* 0: whole; -EBADMSG: damaged; else a real failure. */
static int load_one(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct manifest *m = NULL;
	char path[PATH_MAX];
	struct buf data;
	struct stat st;
	int rc = imgstore_id_path(store, id, false, "manifest", path, err);

	if (rc < 0)
		return rc;
	buf_init(&data);
	rc = fs_read(path, MANIFEST_BYTES_MAX, &data, err);
	if (rc == 0)
		rc = manifest_parse(data.data, data.size, &m, err);
	buf_free(&data);
	if (rc == 0 && memcmp(m->id, id, sizeof(m->id)) != 0)
		rc = err_set(err, -EBADMSG, "%s is another's manifest", path);
	if (rc == 0)
		rc = imgstore_id_path(store, id, false, "data", path, err);
	if (rc == 0 && (lstat(path, &st) < 0 || !S_ISREG(st.st_mode) ||
			       (uint64_t)st.st_size != m->size || st.st_mtime != IMGSTORE_MTIME))
		rc = err_set(err, -EBADMSG, "%s was changed", path);
	if (rc < 0) {
		manifest_free(m);
		return rc == -ENOMEM ? rc : -EBADMSG;
	}
	return imgstore_enter(store, m, err);
}

/* Back among the partial ones, where the next commit verifies every byte. */
static void put_aside(struct imgstore *store, const uint8_t id[MANIFEST_HASH])
{
	char from[PATH_MAX], to[PATH_MAX];

	store->damaged++;
	if (imgstore_id_path(store, id, false, NULL, from, NULL) < 0 ||
		imgstore_id_path(store, id, true, NULL, to, NULL) < 0)
		return;
	(void)fs_remove_tree(to, NULL);
	(void)rename(from, to);
}

static int scan(struct imgstore *store, struct err *err)
{
	uint8_t id[MANIFEST_HASH];
	struct dirent *entry;
	DIR *dir = opendir(store->dir);
	int rc = 0;

	if (!dir)
		return err_errno(err, errno, "%s", store->dir);
	while (rc == 0 && (entry = readdir(dir))) {
		if (manifest_id_parse(entry->d_name, id, NULL) < 0)
			continue;
		rc = load_one(store, id, err);
		if (rc == -EBADMSG) {
			put_aside(store, id);
			rc = 0;
		}
	}
	(void)closedir(dir);
	return rc;
}

/* Calls FN for each name in the partial folder. */
static int each_partial(struct imgstore *store,
	int (*fn)(struct imgstore *store, const char *name, const char *path, void *arg,
		struct err *err),
	void *arg, struct err *err)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *dir;
	int rc = fs_join(path, sizeof(path), store->dir, PARTIAL, err);

	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (!dir)
		return err_errno(err, errno, "%s", path);
	while (rc >= 0 && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (str_format(path, sizeof(path), "%s/" PARTIAL "/%s", store->dir,
			    entry->d_name) >= 0)
			rc = fn(store, entry->d_name, path, arg, err);
	}
	(void)closedir(dir);
	return rc < 0 ? rc : 0;
}

static int empty_trash(
	struct imgstore *store, const char *name, const char *path, void *arg, struct err *err)
{
	(void)store;
	(void)arg;
	return str_starts(name, TRASH) ? fs_remove_tree(path, err) : 0;
}

static int open_dir(struct imgstore *store, const char *dir, struct err *err)
{
	char path[PATH_MAX];
	int rc = str_copy(store->dir, sizeof(store->dir), dir);

	if (rc < 0)
		return err_set(err, rc, "store folder: path is too long");
	rc = fs_join(path, sizeof(path), dir, PARTIAL, err);
	if (rc == 0)
		rc = fs_mkdirs(path, 0755, err);
	if (rc == 0)
		rc = fs_join(path, sizeof(path), dir, ".lock", err);
	if (rc < 0)
		return rc;
	store->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (store->lock_fd < 0)
		return err_errno(err, errno, "%s", path);
	if (proc_lock(store->lock_fd) < 0)
		return err_set(err, -EBUSY, "the store %s is used by another program", dir);
	return 0;
}

int imgstore_open(const char *dir, struct imgstore **out, struct err *err)
{
	struct imgstore *store = calloc(1, sizeof(*store));
	int rc;

	if (!store)
		return err_set(err, -ENOMEM, "store: memory is short");
	store->lock_fd = -1;
	(void)pthread_mutex_init(&store->lock, NULL);
	(void)pthread_mutex_init(&store->sized_lock, NULL);
	rc = open_dir(store, dir, err);
	if (rc == 0)
		rc = each_partial(store, empty_trash, NULL, err);
	if (rc == 0)
		rc = scan(store, err);
	if (rc < 0) {
		imgstore_close(store);
		return rc;
	}
	*out = store;
	return 0;
}

static void free_artefact(struct imgstore *store, struct artefact *a)
{
	HASH_DEL(store->all, a);
	manifest_free(a->m);
	free(a);
}

void imgstore_close(struct imgstore *store)
{
	struct artefact *a, *next;

	if (!store)
		return;
	HASH_ITER (hh, store->all, a, next)
		free_artefact(store, a);
	chunkindex_free(&store->index);
	if (store->lock_fd >= 0)
		(void)close(store->lock_fd);
	(void)pthread_mutex_destroy(&store->lock);
	(void)pthread_mutex_destroy(&store->sized_lock);
	free(store);
}

uint32_t imgstore_damaged(const struct imgstore *store)
{
	return store->damaged;
}

/* ---------------------------------------------------------------- what is there */

static int none(const uint8_t id[MANIFEST_HASH], struct err *err)
{
	char hex[MANIFEST_TEXT];

	manifest_id_text(hex, id);
	return err_set(err, -ENOENT, "artefact %.16s is not in the store", hex);
}

bool imgstore_has(struct imgstore *store, const uint8_t id[MANIFEST_HASH])
{
	bool has;

	(void)pthread_mutex_lock(&store->lock);
	has = imgstore_find(store, id) != NULL;
	(void)pthread_mutex_unlock(&store->lock);
	return has;
}

int imgstore_path(struct imgstore *store, const uint8_t id[MANIFEST_HASH], char path[PATH_MAX],
	struct err *err)
{
	return imgstore_has(store, id) ? imgstore_id_path(store, id, false, "data", path, err)
				       : none(id, err);
}

int imgstore_manifest(struct imgstore *store, const uint8_t id[MANIFEST_HASH],
	struct manifest **out, struct err *err)
{
	struct manifest *m = NULL;
	struct artefact *a;

	(void)pthread_mutex_lock(&store->lock);
	a = imgstore_find(store, id);
	if (a)
		m = manifest_clone(a->m);
	(void)pthread_mutex_unlock(&store->lock);
	if (!a)
		return none(id, err);
	if (!m)
		return err_set(err, -ENOMEM, "manifest: memory is short");
	*out = m;
	return 0;
}

static void fill_info(const struct artefact *a, struct imgstore_info *out)
{
	memcpy(out->id, a->id, sizeof(out->id));
	out->size = a->m->size;
	out->data_size = a->data_size;
	out->holds = a->holds;
}

int imgstore_info(struct imgstore *store, const uint8_t id[MANIFEST_HASH],
	struct imgstore_info *out, struct err *err)
{
	struct artefact *a;

	(void)pthread_mutex_lock(&store->lock);
	a = imgstore_find(store, id);
	if (a)
		fill_info(a, out);
	(void)pthread_mutex_unlock(&store->lock);
	return a ? 0 : none(id, err);
}

int imgstore_each(struct imgstore *store, imgstore_each_fn *fn, void *arg, struct err *err)
{
	struct imgstore_info *list;
	struct artefact *a, *next;
	size_t count = 0;
	int rc = 0;

	(void)pthread_mutex_lock(&store->lock);
	list = calloc((size_t)HASH_COUNT(store->all) + 1, sizeof(*list));
	if (list)
		HASH_ITER (hh, store->all, a, next)
			fill_info(a, &list[count++]);
	(void)pthread_mutex_unlock(&store->lock);
	if (!list)
		return err_set(err, -ENOMEM, "store: memory is short");
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = fn(arg, &list[i]);
	free(list);
	return rc;
}

static int count_partial(
	struct imgstore *store, const char *name, const char *path, void *arg, struct err *err)
{
	(void)store;
	(void)path;
	(void)err;
	if (!str_starts(name, TRASH))
		++*(uint32_t *)arg;
	return 0;
}

int imgstore_total(struct imgstore *store, struct imgstore_total *out, struct err *err)
{
	struct imgstore_total total = {0};
	struct artefact *a, *next;
	struct statvfs fs;
	int rc;

	if (statvfs(store->dir, &fs) < 0)
		return err_errno(err, errno, "%s", store->dir);
	total.disk_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
	total.disk_free = (uint64_t)fs.f_bavail * fs.f_frsize;
	rc = each_partial(store, count_partial, &total.partials, err);
	if (rc < 0)
		return rc;
	(void)pthread_mutex_lock(&store->lock);
	HASH_ITER (hh, store->all, a, next) {
		total.artefacts++;
		total.size += a->m->size;
		total.data_size += a->data_size;
	}
	(void)pthread_mutex_unlock(&store->lock);
	*out = total;
	return 0;
}

/* ---------------------------------------------------------------- holding, removing */

int imgstore_hold(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct artefact *a;

	(void)pthread_mutex_lock(&store->lock);
	a = imgstore_find(store, id);
	if (a)
		a->holds++;
	(void)pthread_mutex_unlock(&store->lock);
	return a ? 0 : none(id, err);
}

void imgstore_drop(struct imgstore *store, const uint8_t id[MANIFEST_HASH])
{
	struct artefact *a;

	(void)pthread_mutex_lock(&store->lock);
	a = imgstore_find(store, id);
	if (a && a->holds)
		a->holds--;
	(void)pthread_mutex_unlock(&store->lock);
}

int imgstore_remove(struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	char path[PATH_MAX], partial[PATH_MAX], trash[2][PATH_MAX];
	struct imgstore_transfer *t = NULL;
	struct artefact *a;
	int n = 0, rc = imgstore_id_path(store, id, false, NULL, path, err);

	if (rc == 0)
		rc = imgstore_id_path(store, id, true, NULL, partial, err);
	if (rc < 0)
		return rc;
	(void)pthread_mutex_lock(&store->lock);
	a = imgstore_find(store, id);
	HASH_FIND(hh, store->transfers, id, MANIFEST_HASH, t);
	if (a && a->holds)
		rc = err_set(err, -EBUSY, "the artefact is in use (%u)", a->holds);
	else if (t)
		rc = err_set(err, -EBUSY, "the artefact is being received");
	else if (a)
		rc = imgstore_trash(store, path, trash[n], err);
	if (rc == 0 && a) {
		n++;
		chunkindex_remove(&store->index, a);
		free_artefact(store, a);
	}
	if (rc == 0 && imgstore_trash(store, partial, trash[n], NULL) == 0)
		n++;
	(void)pthread_mutex_unlock(&store->lock);
	if (rc == 0 && a)
		rc = fs_sync_dir(store->dir, err);
	for (int i = 0; i < n; i++)
		if (fs_remove_tree(trash[i], rc == 0 ? err : NULL) < 0 && rc == 0)
			rc = -EIO;
	return rc;
}

struct sweep {
	time_t before;
};

static int sweep_one(
	struct imgstore *store, const char *name, const char *path, void *arg, struct err *err)
{
	const struct sweep *sweep = arg;
	struct imgstore_transfer *t = NULL;
	uint8_t id[MANIFEST_HASH];
	char trash[PATH_MAX], have[PATH_MAX];
	struct stat st;
	int rc = -1;

	if (manifest_id_parse(name, id, NULL) < 0)
		return 0;
	/* `have` is written with every chunk, the folder itself only at the begin. */
	if (fs_join(have, sizeof(have), path, "have", err) < 0 ||
		(stat(have, &st) < 0 && stat(path, &st) < 0) || st.st_mtime >= sweep->before)
		return 0;
	(void)pthread_mutex_lock(&store->lock);
	HASH_FIND(hh, store->transfers, id, MANIFEST_HASH, t);
	if (!t)
		rc = imgstore_trash(store, path, trash, NULL);
	(void)pthread_mutex_unlock(&store->lock);
	return rc == 0 ? fs_remove_tree(trash, err) : 0;
}

int imgstore_sweep(struct imgstore *store, uint64_t age_s, struct err *err)
{
	struct sweep sweep = {.before = time(NULL) - (time_t)age_s};

	return each_partial(store, sweep_one, &sweep, err);
}

/* ---------------------------------------------------------------- reading */

int imgstore_open_data(
	const struct imgstore *store, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	char path[PATH_MAX];
	int fd, rc = imgstore_id_path(store, id, false, "data", path, err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_errno(err, errno, "%s", path) : fd;
}

int imgstore_read(struct imgstore *store, const uint8_t id[MANIFEST_HASH], uint32_t index,
	void *data, struct err *err)
{
	uint32_t size = 0, count = 0;
	struct artefact *a;
	int fd, rc;

	(void)pthread_mutex_lock(&store->lock);
	a = imgstore_find(store, id);
	if (a) {
		count = a->m->count;
		if (index < count)
			size = manifest_chunk_size(a->m, index);
	}
	(void)pthread_mutex_unlock(&store->lock);
	if (!count)
		return none(id, err);
	if (!size)
		return err_set(err, -ERANGE, "chunk %u of %u", index, count);
	fd = imgstore_open_data(store, id, err);
	if (fd < 0)
		return fd;
	rc = imgfile_read_at(fd, data, size, (uint64_t)index * MANIFEST_CHUNK, err);
	(void)close(fd);
	return rc < 0 ? rc : (int)size;
}
