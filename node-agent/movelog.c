#include "node-agent/movelog.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

#include "lib/fs.h"

#define FILES 2
#define LEVEL 1

static const char *const names[FILES] = {"console.log", "console.log.1"};

struct movelog {
	int fds[FILES]; /* -1: none, or done */
	struct movelog_mark *mark;
	uint64_t move;
	unsigned file;
	uint8_t raw[MOVELOG_PIECE], packed[MOVELOG_PIECE];
};

static int open_one(const char *dir, unsigned file, struct movelog_mark *mark)
{
	char path[PATH_MAX];
	struct stat st;
	uint64_t size;
	int fd;

	if (fs_join(path, sizeof(path), dir, names[file], NULL) < 0)
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
		(void)close(fd);
		fd = -1;
	}
	if (fd < 0)
		return -1;
	size = (uint64_t)st.st_size;
	/* Another one, or one that was cut, or grew beyond what is kept of it: from its start. */
	if (mark->inode[file] != st.st_ino || size < mark->from[file] + mark->sent[file] ||
		size - mark->from[file] > MOVELOG_MAX) {
		mark->inode[file] = st.st_ino;
		mark->from[file] = size > MOVELOG_MAX ? size - MOVELOG_MAX : 0;
		mark->sent[file] = 0;
		mark->fresh[file] = true;
	}
	return fd;
}

int movelog_open(const char *dir, uint64_t move, struct movelog_mark *mark, struct movelog **out,
	struct err *err)
{
	struct movelog *log = malloc(sizeof(*log));

	if (!log)
		return err_set(err, -ENOMEM, "memory is short");
	log->move = move;
	log->mark = mark;
	log->file = 0;
	for (unsigned i = 0; i < FILES; i++)
		log->fds[i] = open_one(dir, i, mark);
	*out = log;
	return 0;
}

void movelog_close(struct movelog *log)
{
	if (!log)
		return;
	for (unsigned i = 0; i < FILES; i++)
		if (log->fds[i] >= 0)
			(void)close(log->fds[i]);
	free(log);
}

static void fill(struct movelog *log, uint64_t at, size_t size, struct movelog_piece *piece)
{
	size_t n = size > 64 ? ZSTD_compress(log->packed, size - 1, log->raw, size, LEVEL) : 0;
	bool zstd = n && !ZSTD_isError(n);

	um__move_log__init(&piece->log);
	piece->log.move = log->move;
	piece->log.file = log->file;
	piece->log.offset = at;
	piece->log.raw_size = (uint32_t)size;
	piece->log.zstd = zstd;
	piece->bulk = zstd ? log->packed : log->raw;
	piece->bulk_size = zstd ? n : size;
}

int movelog_next(struct movelog *log, struct movelog_piece *piece)
{
	for (; log->file < FILES; log->file++) {
		struct movelog_mark *mark = log->mark;
		unsigned f = log->file;
		uint64_t at = mark->sent[f];
		ssize_t n = log->fds[f] < 0 || at >= MOVELOG_MAX
				    ? -1
				    : pread(log->fds[f], log->raw, MOVELOG_PIECE,
					      (off_t)(mark->from[f] + at));

		if (n < 0 || (n == 0 && !mark->fresh[f]))
			continue;
		fill(log, at, (size_t)n, piece);
		mark->sent[f] = at + (size_t)n;
		mark->fresh[f] = false;
		return 1;
	}
	return 0;
}

/* ---------------------------------------------------------------- at the target */

static int write_all(int fd, const uint8_t *data, size_t size, uint64_t at)
{
	while (size) {
		ssize_t n = pwrite(fd, data, size, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		size -= (size_t)n;
		at += (size_t)n;
	}
	return 0;
}

static int write_piece(
	const char *dir, const Um__MoveLog *piece, const uint8_t *raw, struct err *err)
{
	char path[PATH_MAX];
	int fd, rc = fs_join(path, sizeof(path), dir, names[piece->file], err);

	if (rc < 0)
		return rc;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (piece->offset ? 0 : O_TRUNC),
		0600);
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	rc = write_all(fd, raw, piece->raw_size, piece->offset);
	if (close(fd) < 0 && rc == 0)
		rc = -errno;
	return rc < 0 ? err_errno(err, rc, "write %s", path) : 0;
}

int movelog_take(const char *dir, const Um__MoveLog *piece, const void *bulk, size_t bulk_size,
	struct err *err)
{
	uint8_t *raw;
	int rc;

	if (piece->file >= FILES || piece->raw_size > MOVELOG_PIECE ||
		piece->offset > MOVELOG_MAX || (!piece->zstd && bulk_size != piece->raw_size))
		return err_set(err, -EBADMSG, "a piece of a log that makes no sense");
	raw = malloc(piece->raw_size + 1);
	if (!raw)
		return err_set(err, -ENOMEM, "memory is short");
	if (!piece->zstd && bulk_size)
		memcpy(raw, bulk, bulk_size);
	if (piece->zstd &&
		ZSTD_decompress(raw, piece->raw_size, bulk, bulk_size) != piece->raw_size)
		rc = err_set(err, -EBADMSG, "a piece of a log that cannot be decompressed");
	else
		rc = write_piece(dir, piece, raw, err);
	free(raw);
	return rc;
}

int movelog_sync(const char *dir, struct err *err)
{
	char path[PATH_MAX];

	for (unsigned i = 0; i < FILES; i++) {
		int fd, rc = fs_join(path, sizeof(path), dir, names[i], err);

		if (rc < 0)
			return rc;
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0 || fsync(fd) < 0)
			rc = err_errno(err, errno, "sync %s", path);
		if (fd >= 0)
			(void)close(fd);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int movelog_rename(const char *from, const char *to, struct err *err)
{
	char old[PATH_MAX], new[PATH_MAX];

	for (unsigned i = 0; i < FILES; i++) {
		int rc = fs_join(old, sizeof(old), from, names[i], err);

		if (rc == 0)
			rc = fs_join(new, sizeof(new), to, names[i], err);
		if (rc < 0)
			return rc;
		if (rename(old, new) < 0 && errno != ENOENT)
			return err_errno(err, errno, "rename %s", old);
	}
	return 0;
}
