#include "guest/runner/logs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"

#define BLOCK 8192

struct logs {
	char path[PATH_MAX];
	int old;	     /* console.log.1, read first; -1: none, or done */
	int current;	     /* console.log; -1: none yet */
	uint64_t generation; /* of the current file */
};

/* Where the last *LINES lines of FD begin; *LINES becomes how many more are wanted. */
static off_t find_tail(int fd, uint32_t *lines)
{
	struct stat st;
	char block[BLOCK];
	off_t at, size;

	if (fstat(fd, &st) < 0)
		return 0;
	at = size = st.st_size;
	while (at > 0) {
		size_t n = at < BLOCK ? (size_t)at : BLOCK;
		ssize_t got = pread(fd, block, n, at - (off_t)n);

		if (got != (ssize_t)n)
			break;
		at -= (off_t)n;
		while (n-- > 0) {
			/* The end of the last line begins no line. */
			if (block[n] != '\n' || at + (off_t)n + 1 == size)
				continue;
			if (--*lines == 0)
				return at + (off_t)n + 1;
		}
	}
	if (size > 0 && *lines)
		--*lines; /* the first line of the file */
	return 0;
}

static int open_log(const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? err_errno(err, errno, "open %s", path) : fd;
}

int logs_open(
	const char *dir, uint32_t tail, uint64_t generation, struct logs **out, struct err *err)
{
	struct logs *logs = calloc(1, sizeof(*logs));
	char old_path[PATH_MAX];
	uint32_t want = tail;
	int rc;

	if (!logs)
		return err_set(err, -ENOMEM, "out of memory");
	logs->old = logs->current = -1;
	logs->generation = generation;
	rc = fs_join(logs->path, sizeof(logs->path), dir, RUNNERDIR_CONSOLE, err);
	if (rc >= 0)
		rc = fs_join(old_path, sizeof(old_path), dir, RUNNERDIR_CONSOLE_OLD, err);
	if (rc < 0) {
		free(logs);
		return rc;
	}
	logs->current = open_log(logs->path, NULL);
	if (tail && logs->current >= 0)
		(void)lseek(logs->current, find_tail(logs->current, &want), SEEK_SET);
	if (!tail || want) {
		logs->old = open_log(old_path, NULL);
		if (tail && logs->old >= 0)
			(void)lseek(logs->old, find_tail(logs->old, &want), SEEK_SET);
	}
	*out = logs;
	return 0;
}

static ssize_t read_fd(int fd, void *data, size_t size)
{
	ssize_t n;

	do
		n = read(fd, data, size);
	while (n < 0 && errno == EINTR);
	return n;
}

int logs_read(struct logs *logs, uint64_t generation, void *data, size_t size, struct err *err)
{
	ssize_t n;

	for (;;) {
		int *fd = logs->old >= 0 ? &logs->old : &logs->current;

		n = *fd >= 0 ? read_fd(*fd, data, size) : 0;
		if (n < 0)
			return err_errno(err, errno, "read the console's log");
		if (n > 0)
			return (int)n;
		if (fd == &logs->old) {
			(void)close(logs->old);
			logs->old = -1;
			continue;
		}
		if (logs->current >= 0 && logs->generation == generation)
			return 0;
		/* Rotated: what we hold is read to its end, go on in the new one. */
		if (logs->current >= 0)
			(void)close(logs->current);
		logs->generation = generation;
		logs->current = open_log(logs->path, err);
		if (logs->current < 0)
			return logs->current == -ENOENT ? 0 : logs->current;
	}
}

void logs_close(struct logs *logs)
{
	if (!logs)
		return;
	if (logs->old >= 0)
		(void)close(logs->old);
	if (logs->current >= 0)
		(void)close(logs->current);
	free(logs);
}
