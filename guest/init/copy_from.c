/* copy_from: sends a file or a folder of the guest as a tar stream.
 *
 * Members are named from the last component of the path ("/etc/ssh" gives "ssh",
 * "ssh/sshd_config"; "/" gives "."); the path itself may be a symbolic link, which
 * is followed, links below are sent as links.  Other file systems mounted below are
 * left out, as are sockets and device nodes.  A file that shrinks while it is read is
 * filled up with zeros, one that grows is cut at the size it had.
 */
#include "guest/init/stream.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/tar.h"
#include "lib/str.h"

#define DEPTH_MAX 64

struct level {
	DIR *dir;
	size_t path_len; /* of its name in the archive */
};

struct copy_from {
	struct stream s;
	struct tar_entry entry; /* entry.path: the name of what is being sent */
	struct level levels[DEPTH_MAX];
	size_t depth;
	dev_t dev;
	int file; /* being read, or -1 */
	uint64_t left;
	size_t pad;
	struct buf out; /* made, not yet sent */
	size_t sent;
	bool finished; /* nothing more to make */
};

static int push_dir(struct copy_from *c, int fd, struct err *err)
{
	DIR *dir;

	if (c->depth == DEPTH_MAX) {
		close(fd);
		return err_set(err, -ELOOP, "'%.200s': more than %d folders deep", c->entry.path,
			DEPTH_MAX);
	}
	dir = fdopendir(fd);
	if (!dir) {
		int code = errno;

		close(fd);
		return err_errno(err, code, "read folder '%.200s'", c->entry.path);
	}
	c->levels[c->depth].dir = dir;
	c->levels[c->depth++].path_len = strlen(c->entry.path);
	return 0;
}

static int entry_type(const struct stat *st)
{
	switch (st->st_mode & S_IFMT) {
	case S_IFREG:
		return TAR_FILE;
	case S_IFDIR:
		return TAR_DIR;
	case S_IFLNK:
		return TAR_SYMLINK;
	case S_IFIFO:
		return TAR_FIFO;
	default:
		return -1;
	}
}

static void fill_entry(struct tar_entry *e, int type, const struct stat *st)
{
	e->type = (enum tar_type)type;
	e->link[0] = '\0';
	e->mode = st->st_mode & 07777;
	e->uid = st->st_uid;
	e->gid = st->st_gid;
	e->size = type == TAR_FILE ? (uint64_t)st->st_size : 0;
	e->mtime = st->st_mtime;
}

/* FD: an open file or folder, taken. */
static int begin_open(struct copy_from *c, int fd, const struct stat *st, int type, struct err *err)
{
	fill_entry(&c->entry, type, st);
	tar_header(&c->out, &c->entry);
	if (type == TAR_DIR)
		return push_dir(c, fd, err);
	c->file = fd;
	c->left = c->entry.size;
	c->pad = tar_padding(c->left);
	return 0;
}

/* NAME in the open folder DIR. */
static int begin(struct copy_from *c, int dir, const char *name, struct err *err)
{
	struct stat st;
	ssize_t n;
	int type, fd;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : err_errno(err, errno, "read '%.200s'", c->entry.path);
	type = entry_type(&st);
	if (type < 0)
		return 0;
	if (type == TAR_FILE || (type == TAR_DIR && st.st_dev == c->dev)) {
		fd = openat(dir, name,
			O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC |
				(type == TAR_DIR ? O_DIRECTORY : 0));
		if (fd < 0)
			return errno == ENOENT
				       ? 0
				       : err_errno(err, errno, "read '%.200s'", c->entry.path);
		return begin_open(c, fd, &st, type, err);
	}
	fill_entry(&c->entry, type, &st);
	if (type == TAR_SYMLINK) {
		n = readlinkat(dir, name, c->entry.link, sizeof(c->entry.link) - 1);
		if (n < 0)
			return err_errno(err, errno, "read '%.200s'", c->entry.path);
		c->entry.link[n] = '\0';
	}
	tar_header(&c->out, &c->entry);
	return 0;
}

/* The next name of the folder on top; closes it at its end. */
static int next(struct copy_from *c, struct err *err)
{
	struct level *top;
	struct dirent *d;

	if (c->depth == 0) {
		tar_end(&c->out);
		c->finished = true;
		return 0;
	}
	top = &c->levels[c->depth - 1];
	errno = 0;
	d = readdir(top->dir);
	c->entry.path[top->path_len] = '\0';
	if (!d) {
		int code = errno;

		closedir(top->dir);
		c->depth--;
		return code ? err_errno(err, code, "read folder '%.200s'", c->entry.path) : 0;
	}
	if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
		return 0;
	if (top->path_len + strlen(d->d_name) + 3 > sizeof(c->entry.path))
		return err_set(err, -ENAMETOOLONG, "'%.200s...': path too long", c->entry.path);
	c->entry.path[top->path_len] = '/';
	(void)str_copy(c->entry.path + top->path_len + 1, sizeof(c->entry.path) - top->path_len - 1,
		d->d_name);
	return begin(c, dirfd(top->dir), d->d_name, err);
}

/* Some of the file's content, at most ROOM bytes. */
static int read_file(struct copy_from *c, size_t room, struct err *err)
{
	size_t want = room < c->left ? room : (size_t)c->left;
	ssize_t n;

	if (c->left == 0) {
		static const uint8_t zeros[TAR_BLOCK];

		buf_add(&c->out, zeros, c->pad);
		close(c->file);
		c->file = -1;
		return 0;
	}
	if (!buf_reserve(&c->out, want))
		return 0;
	n = read(c->file, c->out.data + c->out.size, want);
	if (n < 0)
		return err_errno(err, errno, "read '%.200s'", c->entry.path);
	if (n == 0) {
		memset(c->out.data + c->out.size, 0, want);
		n = (ssize_t)want;
	}
	c->out.size += (size_t)n;
	c->left -= (uint64_t)n;
	return 0;
}

static void copy_run(struct stream *s, const struct pollfd fds[STREAM_FDS])
{
	struct copy_from *c = (struct copy_from *)s;
	struct err err = ERR_INIT;
	size_t budget = stream_budget(s), n;
	int rc = 0;

	(void)fds;
	if (budget == 0)
		return;
	while (rc == 0 && !c->finished && c->out.size - c->sent < budget && !c->out.failed)
		rc = c->file >= 0 ? read_file(c, budget - (c->out.size - c->sent), &err)
				  : next(c, &err);
	if (c->out.failed)
		rc = err_set(&err, -ENOMEM, "the guest is out of memory");
	if (rc) {
		stream_fail(s, 1, &err);
		return;
	}
	n = c->out.size - c->sent;
	if (n > budget)
		n = budget;
	stream_send(s, 1, c->out.data + c->sent, n);
	c->sent += n;
	if (c->sent == c->out.size) {
		c->sent = c->out.size = 0;
		if (c->finished)
			stream_end(s, 0, 0);
	}
}

static void copy_poll(struct stream *s, struct pollfd fds[STREAM_FDS])
{
	(void)s;
	(void)fds;
}

static bool copy_busy(const struct stream *s)
{
	return stream_budget(s) > 0;
}

static void copy_data(struct stream *s, const uint8_t *data, size_t size, bool eof)
{
	/* Nothing is expected from the client. */
	(void)data;
	(void)eof;
	stream_consumed(s, size);
}

static void copy_destroy(struct stream *s)
{
	struct copy_from *c = (struct copy_from *)s;

	while (c->depth > 0)
		closedir(c->levels[--c->depth].dir);
	if (c->file >= 0)
		close(c->file);
	buf_free(&c->out);
	free(c);
}

static const struct stream_ops ops = {.poll = copy_poll,
	.busy = copy_busy,
	.run = copy_run,
	.data = copy_data,
	.destroy = copy_destroy};

/* The last component, without trailing slashes. */
static int base_name(char name[TAR_PATH_MAX], const char *path, struct err *err)
{
	size_t end = strlen(path), start;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (start = end; start > 0 && path[start - 1] != '/'; start--)
		;
	if (end == start || (end - start == 2 && strncmp(path + start, "..", 2) == 0))
		return str_copy(name, TAR_PATH_MAX, ".");
	if (str_format(name, TAR_PATH_MAX, "%.*s", (int)(end - start), path + start) < 0)
		return err_set(err, -ENAMETOOLONG, "path too long");
	return 0;
}

static int start(struct copy_from *c, const char *path, struct err *err)
{
	struct stat st;
	int fd, type, rc;

	rc = base_name(c->entry.path, path, err);
	if (rc)
		return rc;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "'%.200s'", path);
	if (fstat(fd, &st)) {
		rc = err_errno(err, errno, "'%.200s'", path);
		close(fd);
		return rc;
	}
	type = entry_type(&st);
	if (type != TAR_FILE && type != TAR_DIR) {
		close(fd);
		return err_set(err, -EINVAL, "'%.200s' is neither a file nor a folder", path);
	}
	c->dev = st.st_dev;
	return begin_open(c, fd, &st, type, err);
}

int copy_from_open(const Um__StreamOpen *open_, struct stream **out, struct err *err)
{
	struct copy_from *c;
	int rc;

	if (open_->path[0] != '/')
		return err_set(err, -EINVAL, "'%.200s' is not an absolute path", open_->path);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, -ENOMEM, "the guest is out of memory");
	stream_init(&c->s, &ops);
	buf_init(&c->out);
	c->file = -1;
	rc = start(c, open_->path, err);
	if (rc) {
		copy_destroy(&c->s);
		return rc;
	}
	*out = &c->s;
	return 0;
}
