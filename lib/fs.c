#include "lib/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/str.h"

int fs_read(const char *path, size_t limit, struct buf *out, struct err *err)
{
	size_t before = out->size;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return err_errno(err, errno, "open %s", path);
	for (;;) {
		ssize_t n;

		if (!buf_reserve(out, 65536)) {
			rc = err_set(err, -ENOMEM, "read %s: memory is short", path);
			break;
		}
		n = read(fd, out->data + out->size, 65536);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = err_errno(err, errno, "read %s", path);
			break;
		}
		if (!n)
			break;
		out->size += (size_t)n;
		if (out->size - before > limit) {
			rc = err_set(err, -EFBIG, "%s is larger than %zu bytes", path, limit);
			break;
		}
	}
	(void)close(fd);
	if (rc < 0)
		out->size = before;
	return rc;
}

static int write_all(int fd, const void *data, size_t size)
{
	const uint8_t *p = data;

	while (size) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

static int sync_parent(const char *path, struct err *err)
{
	char dir[PATH_MAX], *slash;

	if (str_copy(dir, sizeof(dir), path) < 0)
		return err_set(err, -ENAMETOOLONG, "path is too long: %.60s...", path);
	slash = strrchr(dir, '/');
	if (!slash)
		return fs_sync_dir(".", err);
	if (slash == dir)
		slash++;
	*slash = 0;
	return fs_sync_dir(dir, err);
}

/* PATH.tmp, and then it is PATH. */
static int write_renamed(
	const char *path, const void *data, size_t size, mode_t mode, bool sync, struct err *err)
{
	char tmp[PATH_MAX];
	int fd, rc;

	if (str_format(tmp, sizeof(tmp), "%s.tmp", path) < 0)
		return err_set(err, -ENAMETOOLONG, "path is too long: %.60s...", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return err_errno(err, errno, "create %s", tmp);
	rc = write_all(fd, data, size);
	if (rc < 0)
		rc = err_errno(err, rc, "write %s", tmp);
	else if (fchmod(fd, mode) < 0 || (sync && fsync(fd) < 0))
		rc = err_errno(err, errno, "write %s", tmp);
	if (close(fd) < 0 && rc == 0)
		rc = err_errno(err, errno, "close %s", tmp);
	if (rc == 0 && rename(tmp, path) < 0)
		rc = err_errno(err, errno, "rename %s to %s", tmp, path);
	if (rc < 0)
		(void)unlink(tmp);
	return rc;
}

int fs_write_atomic(const char *path, const void *data, size_t size, mode_t mode, struct err *err)
{
	int rc = write_renamed(path, data, size, mode, true, err);

	return rc < 0 ? rc : sync_parent(path, err);
}

int fs_write_quick(const char *path, const void *data, size_t size, mode_t mode, struct err *err)
{
	return write_renamed(path, data, size, mode, false, err);
}

int fs_write_files(
	const char *dir, const struct fs_file *files, size_t count, mode_t mode, struct err *err)
{
	char path[PATH_MAX];
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = fs_join(path, sizeof(path), dir, files[i].name, err);
		if (rc == 0)
			rc = write_renamed(path, files[i].data, files[i].size, mode, true, err);
	}
	return rc < 0 ? rc : fs_sync_dir(dir, err);
}

int fs_mkdirs(const char *path, mode_t mode, struct err *err)
{
	char part[PATH_MAX];
	struct stat st;

	if (!*path || str_copy(part, sizeof(part), path) < 0)
		return err_set(err, -ENAMETOOLONG, "path is empty or too long: %.60s", path);
	for (char *p = part + 1;; p++) {
		char c = *p;

		if (c != '/' && c)
			continue;
		*p = 0;
		if (mkdir(part, mode) < 0 && errno != EEXIST)
			return err_errno(err, errno, "create folder %s", part);
		if (!c)
			break;
		*p = c;
	}
	if (stat(path, &st) < 0)
		return err_errno(err, errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "%s is there, but is not a folder", path);
	return 0;
}

#define TREE_DEPTH 256

/* Removes NAME in folder AT.  DEV: the file system that must not be left. */
static int remove_at(
	int at, const char *name, dev_t dev, unsigned depth, const char *top, struct err *err)
{
	struct stat st;
	struct dirent *entry;
	DIR *dir;
	int fd, rc = 0;

	if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "remove %s: %s", top, name);
	if (!S_ISDIR(st.st_mode)) {
		if (unlinkat(at, name, 0) < 0 && errno != ENOENT)
			return err_errno(err, errno, "remove %s: %s", top, name);
		return 0;
	}
	if (st.st_dev != dev)
		return err_set(
			err, -EXDEV, "remove %s: %s is a mount; unmount it first", top, name);
	if (depth > TREE_DEPTH)
		return err_set(err, -ELOOP, "remove %s: nested too deeply", top);
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "remove %s: %s", top, name);
	dir = fdopendir(fd);
	if (!dir) {
		rc = err_errno(err, errno, "remove %s: %s", top, name);
		(void)close(fd);
		return rc;
	}
	while (rc == 0 && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			rc = remove_at(fd, entry->d_name, dev, depth + 1, top, err);
	(void)closedir(dir);
	if (rc == 0 && unlinkat(at, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		rc = err_errno(err, errno, "remove %s: %s", top, name);
	return rc;
}

int fs_remove_tree(const char *path, struct err *err)
{
	char parent[PATH_MAX];
	struct stat up;
	char *slash;
	const char *dir = ".";

	if (str_copy(parent, sizeof(parent), path) < 0 || !*path)
		return err_set(err, -ENAMETOOLONG, "path is empty or too long: %.60s", path);
	slash = strrchr(parent, '/');
	if (slash) {
		*slash = 0;
		dir = slash == parent ? "/" : parent;
	}
	if (stat(dir, &up) < 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", dir);
	return remove_at(AT_FDCWD, path, up.st_dev, 0, path, err);
}

int fs_sync_dir(const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return err_errno(err, errno, "open folder %s", path);
	if (fsync(fd) < 0)
		rc = err_errno(err, errno, "sync folder %s", path);
	(void)close(fd);
	return rc;
}

int fs_join(char *buf, size_t size, const char *dir, const char *name, struct err *err)
{
	if (str_format(buf, size, "%s/%s", dir, name) < 0)
		return err_set(err, -ENAMETOOLONG, "path is too long: %.60s.../%.60s", dir, name);
	return 0;
}
