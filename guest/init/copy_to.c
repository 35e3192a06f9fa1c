/* copy_to: unpacks a tar stream from the client under a path of the guest.
 *
 * Where: a path that is a folder gets the archive's members in it.  Any other path
 * is the new name of the archive's one top-level member, as `cp -r A B` does it; its
 * parent must exist.  Members with ".." and links that lead out of the target folder
 * are refused: every path is resolved beneath it (openat2, RESOLVE_BENEATH).
 * Existing files are replaced; existing folders keep their mode.
 */
#include "guest/init/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/init/sys.h"
#include "lib/tar.h"
#include "lib/str.h"

#define DIRS_MAX 65536

struct dir {
	char *path;
	uint32_t mode;
	int64_t mtime;
};

struct copy_to {
	struct stream s;
	struct tar_reader tar;
	int root;		   /* what everything is beneath */
	char rename[NAME_MAX + 1]; /* not "": the top-level member's name in `root` */
	char top[NAME_MAX + 1];	   /* its name in the archive, once seen */
	int file;		   /* being written */
	const struct tar_entry *entry;
	struct dir *dirs; /* made here: mode and time are set at the end */
	size_t dir_count;
};

static int open_beneath(int root, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC), .resolve = RESOLVE_BENEATH};
	long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* Makes the folder of PATH (all but its last component) and opens it. */
static int make_parents(int root, char *path)
{
	int at = open_beneath(root, ".", O_PATH | O_DIRECTORY);
	char *part = path, *slash;

	while (at >= 0 && (slash = strchr(part, '/'))) {
		int next;

		*slash = '\0';
		next = open_beneath(root, path, O_PATH | O_DIRECTORY);
		if (next == -ENOENT && mkdirat(at, part, 0755) == 0)
			next = open_beneath(root, path, O_PATH | O_DIRECTORY);
		*slash = '/';
		close(at);
		at = next;
		part = slash + 1;
	}
	return at;
}

/* The folder that PATH (normalised) lies in, and its last component. */
static int open_parent(int root, char *path, const char **leaf)
{
	char *slash = strrchr(path, '/');
	int fd;

	*leaf = slash ? slash + 1 : path;
	if (!slash)
		return open_beneath(root, ".", O_PATH | O_DIRECTORY);
	*slash = '\0';
	fd = open_beneath(root, path, O_PATH | O_DIRECTORY);
	*slash = '/';
	return fd == -ENOENT ? make_parents(root, path) : fd;
}

/* Drops leading and double slashes and "."; refuses "..". */
static int normalise(char out[PATH_MAX], const char *path, struct err *err)
{
	size_t len = 0;

	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && path[0] == '.' && path[1] == '.')
			return err_set(
				err, -EINVAL, "archive: a member's path leads out with '..'");
		if (n > 0 && !(n == 1 && path[0] == '.')) {
			if (len + n + 2 > PATH_MAX || n > NAME_MAX)
				return err_set(err, -ENAMETOOLONG, "archive: a path is too long");
			if (len > 0)
				out[len++] = '/';
			memcpy(out + len, path, n);
			len += n;
		}
		path += n;
		path += *path == '/';
	}
	out[len] = '\0';
	return 0;
}

/* A member's path in the archive to its path beneath `root`; "" for root itself. */
static int map_path(struct copy_to *c, char out[PATH_MAX], const char *path, struct err *err)
{
	char plain[PATH_MAX];
	size_t n;
	int rc = normalise(plain, path, err);

	if (rc)
		return rc;
	if (!*c->rename)
		return str_copy(out, PATH_MAX, plain);
	n = strcspn(plain, "/");
	if (!*c->top)
		(void)str_format(c->top, sizeof(c->top), "%.*s", (int)n, plain);
	if (strlen(c->top) != n || strncmp(c->top, plain, n) != 0)
		return err_set(err, -ENOTDIR,
			"the target is not a folder, and there is more than one thing to copy");
	if (str_format(out, PATH_MAX, "%s%s", c->rename, plain + n) < 0)
		return err_set(err, -ENAMETOOLONG, "archive: a path is too long");
	return 0;
}

static void remember_dir(struct copy_to *c, const char *path, const struct tar_entry *e)
{
	struct dir *dir;

	if ((c->dir_count & (c->dir_count - 1)) == 0) {
		size_t capacity = c->dir_count ? c->dir_count * 2 : 1;
		struct dir *more = realloc(c->dirs, capacity * sizeof(*more));

		if (!more || c->dir_count >= DIRS_MAX) {
			c->dirs = more ? more : c->dirs;
			return;
		}
		c->dirs = more;
	}
	dir = &c->dirs[c->dir_count];
	dir->path = str_dup(path);
	dir->mode = e->mode;
	dir->mtime = e->mtime;
	c->dir_count += dir->path != NULL;
}

static int make_dir(struct copy_to *c, char *path, const struct tar_entry *e)
{
	const char *leaf;
	int parent = open_parent(c->root, path, &leaf);
	int rc = 0, fd;

	if (parent < 0)
		return parent;
	if (mkdirat(parent, leaf, e->mode | 0700)) {
		rc = -errno;
		/* A folder, or a link to one beneath: it is used as it is. */
		fd = rc == -EEXIST ? open_beneath(c->root, path, O_PATH | O_DIRECTORY) : -1;
		if (fd >= 0) {
			close(fd);
			rc = 0;
		}
	} else {
		if ((e->uid || e->gid) &&
			fchownat(parent, leaf, e->uid, e->gid, AT_SYMLINK_NOFOLLOW))
			rc = -errno;
		remember_dir(c, path, e);
	}
	close(parent);
	return rc;
}

static int set_times(int dir, const char *leaf, int64_t mtime)
{
	struct timespec times[2] = {{.tv_sec = (time_t)mtime}, {.tv_sec = (time_t)mtime}};

	return utimensat(dir, leaf, times, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int make_file(struct copy_to *c, int parent, const char *leaf, const struct tar_entry *e)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;

	c->file = openat(parent, leaf, flags | O_CLOEXEC, 0600);
	if (c->file < 0 && errno == EEXIST && unlinkat(parent, leaf, 0) == 0)
		c->file = openat(parent, leaf, flags | O_CLOEXEC, 0600);
	if (c->file < 0)
		return -errno;
	if ((e->uid || e->gid) && fchown(c->file, e->uid, e->gid))
		return -errno;
	return fchmod(c->file, e->mode) ? -errno : 0;
}

static int make_hardlink(struct copy_to *c, int parent, const char *leaf, char *target)
{
	const char *name;
	int dir = open_parent(c->root, target, &name);
	int rc = 0;

	if (dir < 0)
		return dir;
	if (linkat(dir, name, parent, leaf, 0) && (errno != EEXIST || unlinkat(parent, leaf, 0) ||
							  linkat(dir, name, parent, leaf, 0)))
		rc = -errno;
	close(dir);
	return rc;
}

static int make_special(int parent, const char *leaf, const struct tar_entry *e)
{
	int attempt;

	for (attempt = 0; attempt < 2; attempt++) {
		int rc = e->type == TAR_SYMLINK ? symlinkat(e->link, parent, leaf)
						: mkfifoat(parent, leaf, e->mode);

		if (rc == 0)
			break;
		if (errno != EEXIST || attempt > 0 || unlinkat(parent, leaf, 0))
			return -errno;
	}
	if ((e->uid || e->gid) && fchownat(parent, leaf, e->uid, e->gid, AT_SYMLINK_NOFOLLOW))
		return -errno;
	return set_times(parent, leaf, e->mtime);
}

/* "" as a member: the archive is of a folder's inside. */
static int take_root(struct copy_to *c, const struct tar_entry *e)
{
	char path[NAME_MAX + 1];
	int fd, rc;

	if (e->type != TAR_DIR)
		return -EINVAL;
	if (!*c->rename || *c->top)
		return 0;
	(void)str_copy(path, sizeof(path), c->rename);
	rc = make_dir(c, path, e);
	if (rc)
		return rc;
	fd = open_beneath(c->root, c->rename, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	/* From here on the new folder is the target; its own mode is set below it. */
	if (c->dir_count == 1) {
		free(c->dirs[0].path);
		c->dirs[0].path = str_dup(".");
		c->dir_count = c->dirs[0].path != NULL;
	}
	close(c->root);
	c->root = fd;
	c->rename[0] = '\0';
	return 0;
}

static int make_member(struct copy_to *c, char *path, char *target, const struct tar_entry *e)
{
	const char *leaf;
	int parent, rc;

	if (e->type == TAR_DIR)
		return make_dir(c, path, e);
	parent = open_parent(c->root, path, &leaf);
	if (parent < 0)
		return parent;
	switch (e->type) {
	case TAR_FILE:
		rc = make_file(c, parent, leaf, e);
		break;
	case TAR_HARDLINK:
		rc = make_hardlink(c, parent, leaf, target);
		break;
	case TAR_SYMLINK:
	case TAR_FIFO:
		rc = make_special(parent, leaf, e);
		break;
	default:
		rc = -EOPNOTSUPP;
		break;
	}
	close(parent);
	return rc;
}

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	struct copy_to *c = arg;
	char path[PATH_MAX] = "", target[PATH_MAX] = "";
	int rc = normalise(path, e->path, err);

	if (rc)
		return rc;
	c->entry = e;
	if (!*path) {
		rc = take_root(c, e);
		return rc ? err_errno(err, rc, "copy the folder itself") : 0;
	}
	rc = map_path(c, path, e->path, err);
	if (!rc && e->type == TAR_HARDLINK)
		rc = map_path(c, target, e->link, err);
	if (rc)
		return rc;
	rc = make_member(c, path, target, e);
	if (rc == -EXDEV)
		return err_set(err, -EINVAL, "'%.200s' lies outside the target folder", e->path);
	return rc ? err_errno(err, rc, "write '%.200s'", e->path) : 0;
}

static int on_data(void *arg, const uint8_t *data, size_t size, struct err *err)
{
	struct copy_to *c = arg;
	int rc = sys_write_all(c->file, data, size);

	return rc ? err_errno(err, rc, "write '%.200s'", c->entry->path) : 0;
}

static int on_done(void *arg, struct err *err)
{
	struct copy_to *c = arg;
	struct timespec times[2];
	int rc = 0;

	if (c->file < 0)
		return 0;
	times[0] = times[1] = (struct timespec){.tv_sec = (time_t)c->entry->mtime};
	(void)futimens(c->file, times);
	if (close(c->file))
		rc = err_errno(err, errno, "write '%.200s'", c->entry->path);
	c->file = -1;
	return rc;
}

static const struct tar_ops tar_ops = {.entry = on_entry, .data = on_data, .done = on_done};

/* Deepest last made, so first: a read-only folder does not stand in the way. */
static void finish_dirs(struct copy_to *c)
{
	while (c->dir_count > 0) {
		struct dir *dir = &c->dirs[--c->dir_count];
		int fd = open_beneath(c->root, dir->path, O_RDONLY | O_DIRECTORY);

		if (fd >= 0) {
			struct timespec times[2] = {
				{.tv_sec = (time_t)dir->mtime}, {.tv_sec = (time_t)dir->mtime}};

			(void)fchmod(fd, dir->mode);
			(void)futimens(fd, times);
			close(fd);
		}
		free(dir->path);
	}
}

static void copy_poll(struct stream *s, struct pollfd fds[STREAM_FDS])
{
	(void)s;
	(void)fds;
}

static bool copy_busy(const struct stream *s)
{
	(void)s;
	return false;
}

static void copy_run(struct stream *s, const struct pollfd fds[STREAM_FDS])
{
	(void)s;
	(void)fds;
}

static void copy_data(struct stream *s, const uint8_t *data, size_t size, bool eof)
{
	struct copy_to *c = (struct copy_to *)s;
	struct err err = ERR_INIT;
	int rc = tar_reader_add(&c->tar, data, size, &err);

	if (!rc && eof)
		rc = tar_reader_finish(&c->tar, &err);
	if (rc) {
		stream_fail(s, 1, &err);
		return;
	}
	stream_consumed(s, size);
	if (eof) {
		finish_dirs(c);
		stream_end(s, 0, 0);
	}
}

static void copy_destroy(struct stream *s)
{
	struct copy_to *c = (struct copy_to *)s;

	if (c->root >= 0)
		finish_dirs(c);
	if (c->file >= 0)
		close(c->file);
	if (c->root >= 0)
		close(c->root);
	free(c->dirs);
	tar_reader_free(&c->tar);
	free(c);
}

static const struct stream_ops ops = {.poll = copy_poll,
	.busy = copy_busy,
	.run = copy_run,
	.data = copy_data,
	.destroy = copy_destroy};

/* The folder to work in: PATH itself, or its parent with a name to give. */
static int open_target(struct copy_to *c, const char *path, struct err *err)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');

	c->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->root >= 0)
		return 0;
	if ((errno != ENOENT && errno != ENOTDIR) || slash[1] == '\0' ||
		strcmp(slash + 1, ".") == 0 || strcmp(slash + 1, "..") == 0)
		return err_errno(err, errno, "folder '%.200s'", path);
	if (str_copy(c->rename, sizeof(c->rename), slash + 1) ||
		str_format(parent, sizeof(parent), "%.*s", (int)(slash - path), path) < 0)
		return err_set(err, -ENAMETOOLONG, "path too long");
	c->root = open(*parent ? parent : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->root < 0)
		return err_errno(err, errno, "folder '%.200s'", parent);
	return 0;
}

int copy_to_open(const Um__StreamOpen *open_, struct stream **out, struct err *err)
{
	struct copy_to *c;
	int rc;

	if (open_->path[0] != '/' || strlen(open_->path) >= PATH_MAX)
		return err_set(err, -EINVAL, "'%.200s' is not an absolute path", open_->path);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, -ENOMEM, "the guest is out of memory");
	stream_init(&c->s, &ops);
	tar_reader_init(&c->tar, &tar_ops, c);
	c->file = -1;
	c->root = -1;
	rc = open_target(c, open_->path, err);
	if (rc) {
		copy_destroy(&c->s);
		return rc;
	}
	*out = &c->s;
	return 0;
}
