/* Files and folders into a tar stream, a piece at a time. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clusterctl/copy.h"
#include "lib/str.h"
#include "lib/tar.h"

#define DEPTH_MAX 128
#define PIECE 65536u

struct level {
	DIR *dir;
	size_t path_len; /* of its name in the archive */
};

struct packer {
	struct level levels[DEPTH_MAX];
	size_t depth;
	struct tar_entry entry; /* entry.path: the name of what is being sent */
	int file;		/* being read, or -1 */
	uint64_t left;		/* of it */
	size_t pad;
	struct buf out;
	size_t sent; /* of out */
	bool finished;
};

/* The name of a path in the archive. */
static int member_name(const char *path, char out[TAR_PATH_MAX], struct err *err)
{
	size_t n = strlen(path), start;

	while (n > 1 && path[n - 1] == '/')
		n--;
	start = n;
	while (start && path[start - 1] != '/')
		start--;
	if (n - start > NAME_MAX)
		return err_set(err, -ENAMETOOLONG, "%.200s: the name is too long", path);
	if (!n || n == start || strncmp(path + start, ".", n - start) == 0 ||
		strncmp(path + start, "..", n - start) == 0)
		return str_copy(out, TAR_PATH_MAX, ".");
	return str_format(out, TAR_PATH_MAX, "%.*s", (int)(n - start), path + start) < 0 ? -EINVAL
											 : 0;
}

static int push_dir(struct packer *p, int fd, struct err *err)
{
	DIR *dir;

	if (p->depth == DEPTH_MAX) {
		(void)close(fd);
		return err_set(
			err, -ELOOP, "%.200s: more than %d folders deep", p->entry.path, DEPTH_MAX);
	}
	dir = fdopendir(fd);
	if (!dir) {
		int rc = err_errno(err, errno, "read folder %.200s", p->entry.path);

		(void)close(fd);
		return rc;
	}
	p->levels[p->depth++] = (struct level){dir, strlen(p->entry.path)};
	return 0;
}

static int open_content(struct packer *p, int fd, struct err *err)
{
	if (p->entry.type == TAR_DIR)
		return push_dir(p, fd, err);
	p->file = fd;
	p->left = p->entry.size;
	p->pad = tar_padding(p->entry.size);
	return 0;
}

/* Starts the member NAME of folder AT, whose archive name is in p->entry.path.
 * FOLLOW: the first one. */
static int begin(struct packer *p, int at, const char *name, bool follow, struct err *err)
{
	struct tar_entry *e = &p->entry;
	struct stat st;
	int fd = -1;
	ssize_t n;

	if (fstatat(at, name, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, errno, "%.300s", follow ? name : e->path);
	e->mode = st.st_mode & 07777;
	e->mtime = st.st_mtim.tv_sec;
	e->size = 0;
	e->uid = e->gid = 0;
	e->link[0] = 0;
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
		/* Not a pipe that was put there meanwhile: O_NONBLOCK. */
		fd = openat(
			at, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (follow ? 0 : O_NOFOLLOW));
		if (fd < 0 || fstat(fd, &st) < 0) {
			int rc = err_errno(err, errno, "open %.300s", follow ? name : e->path);

			if (fd >= 0)
				(void)close(fd);
			return rc;
		}
		e->type = S_ISDIR(st.st_mode) ? TAR_DIR : TAR_FILE;
		e->size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
		break;
	case S_IFLNK:
		n = readlinkat(at, name, e->link, sizeof(e->link) - 1);
		if (n < 0)
			return err_errno(err, errno, "read link %.300s", e->path);
		e->link[n] = 0;
		e->type = TAR_SYMLINK;
		break;
	default:
		if (follow)
			return err_set(err, -EINVAL, "%.300s is no file and no folder", name);
		return 0;
	}
	tar_header(&p->out, e);
	return fd >= 0 ? open_content(p, fd, err) : 0;
}

/* A file that shrinks is filled up with zeros, one that grows is cut. */
static int read_file(struct packer *p, struct err *err)
{
	size_t want = p->left < PIECE ? (size_t)p->left : PIECE;
	ssize_t n = 0;

	if (want) {
		if (!buf_reserve(&p->out, want))
			return err_set(err, -ENOMEM, "memory is short");
		do
			n = read(p->file, p->out.data + p->out.size, want);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return err_errno(err, errno, "read %.300s", p->entry.path);
		if (!n) {
			memset(p->out.data + p->out.size, 0, want);
			n = (ssize_t)want;
		}
		p->out.size += (size_t)n;
		p->left -= (size_t)n;
	}
	if (!p->left) {
		static const uint8_t zeros[TAR_BLOCK];

		buf_add(&p->out, zeros, p->pad);
		(void)close(p->file);
		p->file = -1;
	}
	return 0;
}

static int next_in_folder(struct packer *p, struct err *err)
{
	struct level *l = &p->levels[p->depth - 1];
	struct dirent *d;

	errno = 0;
	p->entry.path[l->path_len] = 0;
	d = readdir(l->dir);
	if (!d && errno)
		return err_errno(err, errno, "read folder %.300s", p->entry.path);
	if (!d) {
		(void)closedir(l->dir);
		p->depth--;
		return 0;
	}
	if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
		return 0;
	if (str_format(p->entry.path + l->path_len, TAR_PATH_MAX - l->path_len, "/%s", d->d_name) <
		0)
		return err_set(err, -ENAMETOOLONG, "%.200s.../%.60s: the path is too long",
			p->entry.path, d->d_name);
	return begin(p, dirfd(l->dir), d->d_name, false, err);
}

/* The size must be known before the content, so input is kept in an unnamed file
 * first. */
static int from_stdin(struct packer *p, const char *remote, struct err *err)
{
	const char *tmp = getenv("TMPDIR"); /* NOLINT: one thread */
	struct tar_entry *e = &p->entry;
	char piece[PIECE];
	ssize_t n;
	int rc, fd;

	rc = member_name(remote, e->path, err);
	if (rc < 0)
		return rc;
	if (strcmp(e->path, ".") == 0)
		return err_set(err, -EINVAL,
			"what comes from standard input needs a name: write GUEST:PATH/NAME");
	fd = open(tmp && *tmp ? tmp : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(
			err, errno, "make a temporary file in %.200s", tmp && *tmp ? tmp : "/tmp");
	p->file = fd;
	while ((n = read(0, piece, sizeof(piece))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "read standard input");
		for (ssize_t at = 0; at < n;) {
			ssize_t w = write(fd, piece + at, (size_t)(n - at));

			if (w < 0 && errno != EINTR)
				return err_errno(err, errno, "write a temporary file");
			at += w > 0 ? w : 0;
		}
		e->size += (uint64_t)n;
	}
	if (lseek(fd, 0, SEEK_SET) < 0)
		return err_errno(err, errno, "read a temporary file");
	e->type = TAR_FILE;
	e->mode = 0644;
	e->mtime = (int64_t)time(NULL);
	p->left = e->size;
	p->pad = tar_padding(e->size);
	tar_header(&p->out, e);
	return 0;
}

int packer_new(const char *path, const char *remote, struct packer **out, struct err *err)
{
	struct packer *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "memory is short");
	p->file = -1;
	buf_init(&p->out);
	if (strcmp(path, "-") == 0) {
		rc = from_stdin(p, remote, err);
	} else {
		rc = member_name(path, p->entry.path, err);
		if (rc == 0)
			rc = begin(p, AT_FDCWD, path, true, err);
	}
	if (rc < 0) {
		packer_free(p);
		return rc;
	}
	*out = p;
	return 0;
}

int packer_peek(struct packer *p, const uint8_t **data, size_t *size, struct err *err)
{
	int rc = 0;

	while (rc == 0 && p->sent == p->out.size && !p->finished) {
		p->sent = p->out.size = 0;
		if (p->file >= 0) {
			rc = read_file(p, err);
		} else if (p->depth) {
			rc = next_in_folder(p, err);
		} else {
			tar_end(&p->out);
			p->finished = true;
		}
		if (rc == 0 && p->out.failed)
			rc = err_set(err, -ENOMEM, "memory is short");
	}
	*data = p->out.data + p->sent;
	*size = rc < 0 ? 0 : p->out.size - p->sent;
	return rc;
}

void packer_consume(struct packer *p, size_t size)
{
	p->sent += size;
}

void packer_free(struct packer *p)
{
	if (!p)
		return;
	while (p->depth)
		(void)closedir(p->levels[--p->depth].dir);
	if (p->file >= 0)
		(void)close(p->file);
	buf_free(&p->out);
	free(p);
}
