/* A tar stream from a guest into files here.  See copy.h for what is not trusted. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clusterctl/copy.h"
#include "lib/str.h"
#include "lib/tar.h"

#define DIRS_MAX 65536

struct made_dir {
	char *path;
	mode_t mode;
};

struct unpacker {
	struct tar_reader tar;
	int root;		   /* everything is beneath it; -1: to standard output */
	char rename[NAME_MAX + 1]; /* not "": name of the one top-level member */
	char top[NAME_MAX + 1];	   /* its name in the archive, once seen */
	int file;		   /* being written, or -1 */
	unsigned members;
	mode_t umask;
	struct made_dir *dirs; /* modes are set at the end */
	size_t dir_count;
	struct tar_entry now;
};

static int open_beneath(int root, const char *path, int flags, mode_t mode)
{
	struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* The name of a member here, or a refusal. */
static int map_path(struct unpacker *u, const char *path, char out[PATH_MAX], struct err *err)
{
	size_t top = strcspn(path, "/");
	const char *rest = path[top] == '/' ? path + top + 1 : path + top;

	if (!*path || *path == '/')
		return err_set(err, -EPERM, "the guest sent the path '%.200s'", path);
	if (!*u->rename)
		return str_copy(out, PATH_MAX, path);
	if (top > NAME_MAX ||
		(*u->top && (strlen(u->top) != top || strncmp(u->top, path, top) != 0)))
		return err_set(err, -EPERM, "the guest sent more than the one file or folder");
	if (!*u->top)
		(void)str_format(u->top, sizeof(u->top), "%.*s", (int)top, path);
	return str_format(out, PATH_MAX, "%s%s%s", u->rename, *rest ? "/" : "", rest) < 0
		       ? err_set(err, -ENAMETOOLONG, "'%.200s...': the path is too long", path)
		       : 0;
}

/* Splits PATH and opens its folder. */
static int open_parent(struct unpacker *u, char *path, const char **leaf, struct err *err)
{
	char *slash = strrchr(path, '/');
	int fd;

	*leaf = slash ? slash + 1 : path;
	if (strcmp(*leaf, "..") == 0)
		return err_set(err, -EPERM, "the guest sent the path '%.200s'", path);
	if (slash)
		*slash = 0;
	fd = open_beneath(u->root, slash ? path : ".", O_PATH | O_DIRECTORY, 0);
	if (slash)
		*slash = '/';
	if (fd < 0)
		return err_errno(err, fd, "'%.200s' from the guest", path);
	return fd;
}

static int make_dir(struct unpacker *u, const char *path, int parent, const char *leaf,
	const struct tar_entry *e, struct err *err)
{
	struct made_dir *grown;
	struct stat st;

	if (strcmp(leaf, ".") == 0)
		return 0;
	if (mkdirat(parent, leaf, 0700) < 0) {
		if (errno != EEXIST || fstatat(parent, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return err_errno(err, errno, "make the folder %.200s", path);
		if (!S_ISDIR(st.st_mode))
			return err_set(err, -ENOTDIR, "%.200s is there, and no folder", path);
		return 0; /* it keeps its mode */
	}
	if (u->dir_count == DIRS_MAX)
		return err_set(err, -E2BIG, "the guest sent more than %d folders", DIRS_MAX);
	grown = realloc(u->dirs, (u->dir_count + 1) * sizeof(*grown));
	if (!grown)
		return err_set(err, -ENOMEM, "memory is short");
	u->dirs = grown;
	grown[u->dir_count].path = str_dup(path);
	grown[u->dir_count].mode = e->mode & 0777 & ~u->umask;
	if (!grown[u->dir_count].path)
		return err_set(err, -ENOMEM, "memory is short");
	u->dir_count++;
	return 0;
}

static int clear_place(int parent, const char *leaf, const char *path, struct err *err)
{
	if (unlinkat(parent, leaf, 0) < 0 && errno != ENOENT)
		return err_errno(err, errno, "replace %.200s", path);
	return 0;
}

static int make_link(struct unpacker *u, const char *path, int parent, const char *leaf,
	const struct tar_entry *e, struct err *err)
{
	char target[PATH_MAX] = "";
	const char *name;
	int from, rc;

	if (e->type == TAR_SYMLINK) {
		if (symlinkat(e->link, parent, leaf) < 0)
			return err_errno(err, errno, "make the link %.200s", path);
		return 0;
	}
	rc = map_path(u, e->link, target, err);
	from = rc < 0 ? rc : open_parent(u, target, &name, err);
	if (from < 0)
		return from;
	rc = linkat(from, name, parent, leaf, 0) < 0
		     ? err_errno(err, errno, "link %.200s to %.100s", path, target)
		     : 0;
	(void)close(from);
	return rc;
}

static int make_member(struct unpacker *u, char *path, const struct tar_entry *e, struct err *err)
{
	const char *leaf;
	int parent = open_parent(u, path, &leaf, err), rc;

	if (parent < 0)
		return parent;
	if (e->type == TAR_DIR) {
		rc = make_dir(u, path, parent, leaf, e, err);
		goto out;
	}
	rc = clear_place(parent, leaf, path, err);
	if (rc < 0)
		goto out;
	if (e->type == TAR_FILE) {
		u->file = openat(parent, leaf, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			e->mode & 0777);
		rc = u->file < 0 ? err_errno(err, errno, "create %.200s", path) : 0;
	} else {
		rc = make_link(u, path, parent, leaf, e, err);
	}
out:
	(void)close(parent);
	return rc;
}

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	struct unpacker *u = arg;
	char path[PATH_MAX] = "";
	int rc;

	if (e->type == TAR_CHAR || e->type == TAR_BLOCKDEV || e->type == TAR_FIFO)
		return 0;
	if (u->root < 0) {
		if (u->members++ || e->type != TAR_FILE)
			return err_set(err, -EISDIR, "only one file can go to standard output");
		u->file = 1;
		return 0;
	}
	u->members++;
	u->now = *e;
	rc = map_path(u, e->path, path, err);
	return rc < 0 ? rc : make_member(u, path, e, err);
}

static int on_data(void *arg, const uint8_t *data, size_t size, struct err *err)
{
	struct unpacker *u = arg;

	while (size && u->file >= 0) {
		ssize_t n = write(u->file, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "write %.200s",
				u->root < 0 ? "standard output" : u->now.path);
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

static int on_done(void *arg, struct err *err)
{
	struct unpacker *u = arg;
	struct timespec times[2];
	int fd = u->file;

	u->file = -1;
	if (fd < 0 || u->root < 0)
		return 0;
	times[0] = times[1] = (struct timespec){.tv_sec = (time_t)u->now.mtime};
	(void)futimens(fd, times);
	if (close(fd) < 0)
		return err_errno(err, errno, "write %.200s", u->now.path);
	return 0;
}

static int open_target(struct unpacker *u, const char *target, struct err *err)
{
	char copy[PATH_MAX], copy2[PATH_MAX];
	struct stat st;
	size_t n = strlen(target);

	if (str_copy(copy, sizeof(copy), target) < 0 ||
		str_copy(copy2, sizeof(copy2), target) < 0 || !n)
		return err_set(err, -ENAMETOOLONG, "'%.100s' is empty or too long", target);
	if (stat(target, &st) == 0 && S_ISDIR(st.st_mode)) {
		u->root = open(target, O_PATH | O_DIRECTORY | O_CLOEXEC);
	} else {
		if (target[n - 1] == '/')
			return err_set(err, -ENOTDIR, "%.200s is no folder", target);
		if (str_copy(u->rename, sizeof(u->rename), basename(copy)) < 0)
			return err_set(err, -ENAMETOOLONG, "%.200s: the name is too long", target);
		u->root = open(dirname(copy2), O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	return u->root < 0 ? err_errno(err, errno, "open the folder of %.200s", target) : 0;
}

int unpacker_new(const char *target, struct unpacker **out, struct err *err)
{
	static const struct tar_ops ops = {.entry = on_entry, .data = on_data, .done = on_done};
	struct unpacker *u = calloc(1, sizeof(*u));
	int rc = 0;

	if (!u)
		return err_set(err, -ENOMEM, "memory is short");
	u->root = u->file = -1;
	u->umask = umask(0);
	(void)umask(u->umask);
	tar_reader_init(&u->tar, &ops, u);
	if (strcmp(target, "-") != 0)
		rc = open_target(u, target, err);
	if (rc < 0) {
		unpacker_free(u);
		return rc;
	}
	*out = u;
	return 0;
}

int unpacker_add(struct unpacker *u, const uint8_t *data, size_t size, struct err *err)
{
	return tar_reader_add(&u->tar, data, size, err);
}

int unpacker_finish(struct unpacker *u, struct err *err)
{
	int rc = tar_reader_finish(&u->tar, err);

	/* The deepest first, as long as their parents let us in. */
	while (rc == 0 && u->dir_count) {
		struct made_dir *d = &u->dirs[--u->dir_count];
		int fd = open_beneath(u->root, d->path, O_RDONLY | O_DIRECTORY, 0);

		if (fd >= 0) {
			(void)fchmod(fd, d->mode);
			(void)close(fd);
		}
		free(d->path);
	}
	if (rc == 0 && !u->members)
		rc = err_set(err, -ENOENT, "the guest sent nothing");
	return rc;
}

void unpacker_free(struct unpacker *u)
{
	if (!u)
		return;
	while (u->dir_count)
		free(u->dirs[--u->dir_count].path);
	free(u->dirs);
	if (u->file > 2)
		(void)close(u->file);
	if (u->root >= 0)
		(void)close(u->root);
	tar_reader_free(&u->tar);
	free(u);
}
