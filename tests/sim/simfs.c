/* lib/fs.h, and the system calls on files that agents make themselves, over files in
 * memory: one tree for each machine, below "/sim/NAME".
 *
 * What a power loss may take back: changes since the last one that was synced, in the
 * order in which they were made, as of a journalling file system (ext4, data=ordered):
 * some last part of them is gone.  fs_write_atomic() and fs_sync_dir() sync; rename(),
 * mkdir(), a removal, fs_write_quick() and write() do not.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <uthash.h>
#include <utlist.h>

#include "lib/fs.h"
#include "lib/str.h"
#include "tests/sim/keep.h"
#include "tests/sim/event.h"

struct sim_node {
	char *path;
	bool folder;
	uint8_t *data;
	size_t size;
	uint64_t changed; /* virtual time */
	UT_hash_handle hh;
};

/* To take back: PATH was OLD (NULL: not there). */
struct sim_undo {
	char *path;
	struct sim_node *old;
	struct sim_undo *next;
};

static char *copy(const char *text)
{
	char *s = strdup(text);

	if (!s)
		abort();
	return s;
}

struct sim_machine *fs_machine(const char *path)
{
	if (!str_starts(path, "/sim/"))
		return NULL;
	for (size_t i = 0; i < sim->machine_count; i++) {
		const char *name = sim->machines[i].name;
		size_t n = strlen(name);

		if (strncmp(path + 5, name, n) == 0 && (path[5 + n] == '/' || !path[5 + n]))
			return &sim->machines[i];
	}
	return NULL;
}

static struct sim_node *find(const struct sim_machine *m, const char *path)
{
	struct sim_node *n;

	HASH_FIND_STR(m->files, path, n);
	return n;
}

static void node_free(struct sim_node *n)
{
	if (!n)
		return;
	free(n->path);
	free(n->data);
	free(n);
}

static struct sim_node *node_copy(const struct sim_node *from)
{
	struct sim_node *n;

	if (!from)
		return NULL;
	n = calloc(1, sizeof(*n));
	if (!n)
		abort();
	*n = *from;
	memset(&n->hh, 0, sizeof(n->hh));
	n->path = copy(from->path);
	n->data = NULL;
	if (from->data) {
		n->data = malloc(from->size + 1);
		if (!n->data)
			abort();
		memcpy(n->data, from->data, from->size);
	}
	return n;
}

/* ---------------------------------------------------------------- what is not synced yet */

static void remember(struct sim_machine *m, const char *path)
{
	struct sim_undo *u = calloc(1, sizeof(*u));

	if (!u)
		abort();
	u->path = copy(path);
	u->old = node_copy(find(m, path));
	u->next = m->undo;
	m->undo = u;
}

static void undo_free(struct sim_undo *u)
{
	free(u->path);
	node_free(u->old);
	free(u);
}

static void sync_all(struct sim_machine *m)
{
	while (m->undo) {
		struct sim_undo *u = m->undo;

		m->undo = u->next;
		undo_free(u);
	}
}

static void set(struct sim_machine *m, const char *path, struct sim_node *n)
{
	struct sim_node *have = find(m, path);

	if (have) {
		HASH_DEL(m->files, have);
		node_free(have);
	}
	if (n)
		HASH_ADD_KEYPTR(hh, m->files, n->path, strlen(n->path), n);
}

void fs_power_loss(struct sim_machine *m)
{
	uint64_t count = 0, lost;
	struct sim_undo *u;

	LL_FOREACH (m->undo, u)
		count++;
	lost = sim_between(m, DRAW_POWER, 0, count);
	for (; lost; lost--) {
		u = m->undo;
		m->undo = u->next;
		set(m, u->path, u->old);
		u->old = NULL;
		undo_free(u);
	}
	sync_all(m);
}

void fs_machine_free(struct sim_machine *m)
{
	struct sim_node *n, *next;

	sync_all(m);
	HASH_ITER (hh, m->files, n, next) {
		HASH_DEL(m->files, n);
		node_free(n);
	}
}

bool fs_exists(const struct sim_machine *m, const char *path)
{
	return find(m, path);
}

bool fs_synced(const struct sim_machine *m, const char *path)
{
	struct sim_undo *u;

	LL_FOREACH (m->undo, u)
		if (strcmp(u->path, path) == 0)
			return false;
	return true;
}

const void *fs_peek(const struct sim_machine *m, const char *path, size_t *size)
{
	struct sim_node *n = find(m, path);

	*size = n ? n->size : 0;
	return n ? n->data : NULL;
}

void fs_guest_write(struct sim_machine *m, const char *path, const void *data, size_t size)
{
	struct sim_node *n = find(m, path);

	if (!n)
		return;
	free(n->data);
	n->data = malloc(size + 1);
	if (!n->data)
		abort();
	memcpy(n->data, data, size);
	n->size = size;
	n->changed = sim->now;
}

size_t fs_folders(const struct sim_machine *m, const char *path)
{
	size_t size = strlen(path), count = 0;

	for (const struct sim_node *n = m->files; n; n = n->hh.next)
		count += n->folder && strncmp(n->path, path, size) == 0 && n->path[size] == '/' &&
			 !strchr(n->path + size + 1, '/');
	return count;
}

/* ---------------------------------------------------------------- steps */

/* The machine of PATH, when a change may be made there now; else NULL, and ERRNO. */
static struct sim_machine *may(const char *path, bool grows, const char *what)
{
	struct sim_machine *m = fs_machine(path);

	if (!m || !sim_step(what)) {
		errno = EIO;
		return NULL;
	}
	if (grows && m->disk_full) {
		errno = ENOSPC;
		return NULL;
	}
	if (m->disk_bad && sim_chance(m, DRAW_FATE, 0.3)) {
		errno = EIO;
		return NULL;
	}
	return m;
}

static bool parent_there(const struct sim_machine *m, const char *path)
{
	char parent[PATH_MAX], *slash;
	struct sim_node *n;

	(void)str_copy(parent, sizeof(parent), path);
	slash = strrchr(parent, '/');
	if (!slash)
		return false;
	*slash = '\0';
	if (strlen(parent) <= 5 + strlen(m->name))
		return true; /* the machine's root */
	n = find(m, parent);
	return n && n->folder;
}

static int put(struct sim_machine *m, const char *path, const void *data, size_t size, bool folder)
{
	struct sim_node *n;

	if (!parent_there(m, path)) {
		errno = ENOENT;
		return -1;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		abort();
	n->path = copy(path);
	n->folder = folder;
	n->changed = sim->now;
	if (!folder) {
		n->data = malloc(size + 1);
		if (!n->data)
			abort();
		if (size)
			memcpy(n->data, data, size);
		n->size = size;
	}
	remember(m, path);
	set(m, path, n);
	return 0;
}

/* ---------------------------------------------------------------- lib/fs.h */

int fs_join(char *buf, size_t size, const char *dir, const char *name, struct err *err)
{
	if (str_format(buf, size, "%s/%s", dir, name) < 0)
		return err_set(err, -ENAMETOOLONG, "%s/%s: path is too long", dir, name);
	return 0;
}

int fs_read(const char *path, size_t limit, struct buf *out, struct err *err)
{
	struct sim_machine *m = fs_machine(path);
	struct sim_node *n = m ? find(m, path) : NULL;

	if (!sim_alive())
		return err_set(err, -EIO, "dead");
	if (!n)
		return err_set(err, -ENOENT, "%s: No such file or directory", path);
	if (m->disk_bad && sim_chance(m, DRAW_FATE, 0.1))
		return err_set(err, bug("error-as-missing") ? -ENOENT : -EIO,
			"%s: Input/output error", path);
	if (n->size > limit)
		return err_set(err, -EFBIG, "%s: too large", path);
	buf_add(out, n->data, n->size);
	return 0;
}

static int write_one(const char *path, const void *data, size_t size, bool synced, struct err *err)
{
	struct sim_machine *m = may(path, true, "write");

	if (!m || put(m, path, data, size, false) < 0)
		return err_errno(err, errno, "%s", path);
	if (synced)
		sync_all(m);
	return 0;
}

int fs_write_atomic(const char *path, const void *data, size_t size, mode_t mode, struct err *err)
{
	(void)mode;
	return write_one(path, data, size, true, err);
}

int fs_write_quick(const char *path, const void *data, size_t size, mode_t mode, struct err *err)
{
	(void)mode;
	return write_one(path, data, size, false, err);
}

int fs_write_files(
	const char *dir, const struct fs_file *files, size_t count, mode_t mode, struct err *err)
{
	char path[PATH_MAX];
	int rc = 0;

	(void)mode;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = fs_join(path, sizeof(path), dir, files[i].name, err);
		if (rc == 0)
			rc = write_one(path, files[i].data, files[i].size, false, err);
	}
	if (bug("files-unsynced"))
		return rc;
	return rc < 0 ? rc : fs_sync_dir(dir, err);
}

int fs_mkdirs(const char *path, mode_t mode, struct err *err)
{
	char part[PATH_MAX];
	struct sim_machine *m = fs_machine(path);

	(void)mode;
	if (!m)
		return err_set(err, -EIO, "%s: not of the simulator", path);
	(void)str_copy(part, sizeof(part), path);
	for (char *p = part + 6 + strlen(m->name);; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = '\0';
		if (!find(m, part)) {
			if (!may(part, true, "mkdir") || put(m, part, NULL, 0, true) < 0)
				return err_errno(err, errno, "%s", part);
		}
		*p = c;
		if (!c)
			return 0;
	}
}

/* PATH and all that is in it, copies. */
static char **below(const struct sim_machine *m, const char *path, size_t *count)
{
	size_t size = strlen(path);
	char **list = NULL;

	*count = 0;
	for (const struct sim_node *n = m->files; n; n = n->hh.next) {
		if (strncmp(n->path, path, size) != 0 || (n->path[size] && n->path[size] != '/'))
			continue;
		list = realloc(list, (*count + 1) * sizeof(char *));
		if (!list)
			abort();
		list[(*count)++] = copy(n->path);
	}
	return list;
}

int fs_remove_tree(const char *path, struct err *err)
{
	struct sim_machine *m = may(path, false, "remove");
	size_t count;
	char **list;

	if (!m)
		return err_errno(err, errno, "%s", path);
	list = below(m, path, &count);
	for (size_t i = 0; i < count; i++)
		keep_removed(m, list[i]);
	for (size_t i = 0; i < count; i++) {
		remember(m, list[i]);
		set(m, list[i], NULL);
		free(list[i]);
	}
	free(list);
	return 0;
}

int fs_sync_dir(const char *path, struct err *err)
{
	struct sim_machine *m = may(path, false, "sync");

	if (!m)
		return err_errno(err, errno, "%s", path);
	sync_all(m);
	return 0;
}

/* ---------------------------------------------------------------- system calls */

/* Declared here: the linker makes calls of NAME come to __wrap_NAME. */
#define REAL(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)

REAL(int, rename, const char *from, const char *to);
REAL(int, stat, const char *path, struct stat *st);
REAL(int, access, const char *path, int mode);
REAL(int, unlink, const char *path);
REAL(int, statvfs, const char *path, struct statvfs *fs);
REAL(DIR *, opendir, const char *path);
REAL(struct dirent *, readdir, DIR *dir);
REAL(int, closedir, DIR *dir);
REAL(ssize_t, write, int fd, const void *data, size_t size);
REAL(int, fdatasync, int fd);
REAL(int, close, int fd);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

/* A folder and all that is in it. */
int __wrap_rename(const char *from, const char *to)
{
	struct sim_machine *m;
	size_t size = strlen(from), count;
	char **list;

	if (!str_starts(from, "/sim/"))
		return __real_rename(from, to);
	m = may(from, false, "rename");
	if (!m)
		return -1;
	if (!find(m, from) || !parent_there(m, to)) {
		errno = ENOENT;
		return -1;
	}
	list = below(m, from, &count);
	for (size_t i = 0; i < count; i++) {
		char path[PATH_MAX];
		struct sim_node *moved = node_copy(find(m, list[i]));

		(void)str_format(path, sizeof(path), "%s%s", to, list[i] + size);
		free(moved->path);
		moved->path = copy(path);
		keep_removed(m, path);
		remember(m, list[i]);
		remember(m, path);
		set(m, list[i], NULL);
		set(m, path, moved);
		free(list[i]);
	}
	free(list);
	return 0;
}

int __wrap_stat(const char *path, struct stat *st)
{
	struct sim_machine *m = str_starts(path, "/sim/") ? fs_machine(path) : NULL;
	struct sim_node *n;

	if (!m)
		return __real_stat(path, st);
	n = find(m, path);
	if (!n) {
		errno = ENOENT;
		return -1;
	}
	memset(st, 0, sizeof(*st));
	st->st_size = (off_t)n->size;
	st->st_blocks = 8;
	st->st_mode = n->folder ? S_IFDIR | 0755 : S_IFREG | 0600;
	st->st_ctime = (time_t)(sim_wall_us(m) / 1000000);
	return 0;
}

int __wrap_access(const char *path, int mode)
{
	struct stat st;

	return str_starts(path, "/sim/") ? __wrap_stat(path, &st) : __real_access(path, mode);
}

int __wrap_unlink(const char *path)
{
	struct sim_machine *m;

	if (!str_starts(path, "/sim/"))
		return __real_unlink(path);
	m = may(path, false, "unlink");
	if (!m)
		return -1;
	if (!find(m, path)) {
		errno = ENOENT;
		return -1;
	}
	keep_removed(m, path);
	remember(m, path);
	set(m, path, NULL);
	return 0;
}

int __wrap_statvfs(const char *path, struct statvfs *fs)
{
	struct sim_machine *m = str_starts(path, "/sim/") ? fs_machine(path) : NULL;

	if (!m)
		return __real_statvfs(path, fs);
	memset(fs, 0, sizeof(*fs));
	fs->f_frsize = 4096;
	fs->f_blocks = 1u << 26;
	fs->f_bavail = m->disk_full ? 0 : 1u << 25;
	return 0;
}

/* ---------------------------------------------------------------- folders */

#define DIR_MAGIC UINT64_C(0x53494d4449520001)
struct sim_dir {
	uint64_t magic;
	char **names;
	size_t count, at;
	struct dirent entry;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

DIR *__wrap_opendir(const char *path)
{
	struct sim_machine *m = str_starts(path, "/sim/") ? fs_machine(path) : NULL;
	size_t size = strlen(path);
	struct sim_dir *d;
	struct sim_node *n;

	if (!m)
		return __real_opendir(path);
	n = find(m, path);
	if (!n || !n->folder || !sim_alive()) {
		errno = ENOENT;
		return NULL;
	}
	d = calloc(1, sizeof(*d));
	if (!d)
		abort();
	d->magic = DIR_MAGIC;
	for (n = m->files; n; n = n->hh.next) {
		if (strncmp(n->path, path, size) != 0 || n->path[size] != '/' ||
			strchr(n->path + size + 1, '/'))
			continue;
		d->names = realloc(d->names, (d->count + 1) * sizeof(char *));
		if (!d->names)
			abort();
		d->names[d->count++] = copy(n->path + size + 1);
	}
	if (d->count)
		qsort(d->names, d->count, sizeof(char *), by_name);
	return (DIR *)(void *)d;
}

struct dirent *__wrap_readdir(DIR *dir)
{
	struct sim_dir *d = (struct sim_dir *)(void *)dir;

	if (d->magic != DIR_MAGIC)
		return __real_readdir(dir);
	if (d->at == d->count)
		return NULL;
	(void)str_copy(d->entry.d_name, sizeof(d->entry.d_name), d->names[d->at++]);
	d->entry.d_type = DT_UNKNOWN;
	return &d->entry;
}

int __wrap_closedir(DIR *dir)
{
	struct sim_dir *d = (struct sim_dir *)(void *)dir;

	if (d->magic != DIR_MAGIC)
		return __real_closedir(dir);
	for (size_t i = 0; i < d->count; i++)
		free(d->names[i]);
	free(d->names);
	free(d);
	return 0;
}

/* ---------------------------------------------------------------- files that are appended to */

#define FD_BASE (1 << 24)
#define FD_MAX 64
static struct {
	char path[PATH_MAX];
	bool used;
} open_files[FD_MAX];

int __wrap_open(const char *path, int flags, ...)
{
	struct sim_machine *m = str_starts(path, "/sim/") ? fs_machine(path) : NULL;
	mode_t mode = 0;

	if (!m) {
		if (flags & O_CREAT) {
			va_list ap;

			va_start(ap, flags);
			mode = va_arg(ap, mode_t);
			va_end(ap);
		}
		return __real_open(path, flags, mode);
	}
	if (!find(m, path)) {
		if (!(flags & O_CREAT)) {
			errno = ENOENT;
			return -1;
		}
		if (!may(path, true, "create") || put(m, path, NULL, 0, false) < 0)
			return -1;
	}
	for (int i = 0; i < FD_MAX; i++) {
		if (open_files[i].used)
			continue;
		open_files[i].used = true;
		(void)str_copy(open_files[i].path, sizeof(open_files[i].path), path);
		return FD_BASE + i;
	}
	errno = EMFILE;
	return -1;
}

ssize_t __wrap_write(int fd, const void *data, size_t size)
{
	const char *path;
	struct sim_machine *m;
	struct sim_node *n;
	uint8_t *all;

	if (fd < FD_BASE)
		return __real_write(fd, data, size);
	path = open_files[fd - FD_BASE].path;
	m = may(path, true, "append");
	n = m ? find(m, path) : NULL;
	if (!n)
		return -1;
	all = malloc(n->size + size + 1);
	if (!all)
		abort();
	if (n->size)
		memcpy(all, n->data, n->size);
	memcpy(all + n->size, data, size);
	(void)put(m, path, all, n->size + size, false);
	free(all);
	return (ssize_t)size;
}

int __wrap_fdatasync(int fd)
{
	struct sim_machine *m;

	if (fd < FD_BASE)
		return __real_fdatasync(fd);
	m = may(open_files[fd - FD_BASE].path, false, "fdatasync");
	if (!m)
		return -1;
	sync_all(m);
	return 0;
}

int __wrap_close(int fd)
{
	if (fd < FD_BASE)
		return __real_close(fd);
	open_files[fd - FD_BASE].used = false;
	return 0;
}
