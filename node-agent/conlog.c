#include "node-agent/conlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/str.h"

struct conlog {
	char dir[PATH_MAX - 64];
	uint32_t tail;
	struct conlog_maker maker; /* make NULL: the log */
	struct conlog_ops ops;
	void *arg;
	struct buf text;
	size_t at;
	uint64_t credit;
	bool read, ended, closed, busy;
	unsigned depth;
	int rc;
	struct err err;
};

/* ---------------------------------------------------------------- in the pool */

/* The newest part of a file that may grow, be cut off or be renamed meanwhile. */
static int add_file(struct conlog *logs, const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	off_t from;
	int fd, rc = fs_join(path, sizeof(path), logs->dir, name, &logs->err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno(&logs->err, errno, "%s", path);
	if (fstat(fd, &st) < 0)
		rc = err_errno(&logs->err, errno, "%s", path);
	from = rc == 0 && st.st_size > CONLOG_BYTES_MAX / 2 ? st.st_size - CONLOG_BYTES_MAX / 2 : 0;
	while (rc == 0) {
		ssize_t n;

		if (!buf_reserve(&logs->text, 65536)) {
			rc = err_set(&logs->err, -ENOMEM, "memory is short");
			break;
		}
		n = pread(fd, logs->text.data + logs->text.size, 65536, from);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = err_errno(&logs->err, errno, "%s", path);
		if (n <= 0 || logs->text.size > CONLOG_BYTES_MAX)
			break;
		logs->text.size += (size_t)n;
		from += n;
	}
	(void)close(fd);
	return rc;
}

static void keep_tail(struct conlog *logs)
{
	size_t at = logs->text.size;
	uint32_t lines = 0;

	if (!logs->tail || !at)
		return;
	at--; /* the last line's own end */
	while (at && !(logs->text.data[at - 1] == '\n' && ++lines == logs->tail))
		at--;
	logs->at = at;
}

static void read_work(void *arg)
{
	struct conlog *logs = arg;

	if (logs->maker.make) {
		logs->rc = logs->maker.make(logs->maker.arg, &logs->text, &logs->err);
		return;
	}
	logs->rc = add_file(logs, RUNNERDIR_CONSOLE_OLD);
	if (logs->rc == 0)
		logs->rc = add_file(logs, RUNNERDIR_CONSOLE);
	if (logs->rc == 0)
		keep_tail(logs);
}

/* ---------------------------------------------------------------- giving it out */

static void release(struct conlog *logs)
{
	if (!logs->closed || logs->busy || logs->depth)
		return;
	if (logs->maker.free)
		logs->maker.free(logs->maker.arg);
	buf_free(&logs->text);
	free(logs);
}

static void give(struct conlog *logs)
{
	logs->depth++;
	while (!logs->closed && logs->credit && logs->at < logs->text.size) {
		size_t n = logs->text.size - logs->at;

		n = n < WIRE_STREAM_DATA ? n : WIRE_STREAM_DATA;
		n = n < logs->credit ? n : (size_t)logs->credit;
		logs->credit -= n;
		logs->at += n;
		logs->ops.on_data(logs->arg, logs->text.data + logs->at - n, n);
	}
	if (!logs->closed && !logs->ended && (logs->rc < 0 || logs->at == logs->text.size)) {
		logs->ended = true;
		logs->ops.on_end(logs->arg, logs->rc < 0 ? &logs->err : NULL);
	}
	logs->depth--;
	release(logs);
}

static void read_done(void *arg, bool cancelled)
{
	struct conlog *logs = arg;

	logs->busy = false;
	logs->read = true;
	if (cancelled)
		logs->rc = err_set(&logs->err, -ECANCELED, "cancelled");
	give(logs);
}

void conlog_credit(struct conlog *logs, uint32_t bytes)
{
	if (logs->credit < UINT32_MAX)
		logs->credit += bytes;
	if (logs->read)
		give(logs);
}

static int start(struct loop *loop, struct conlog *logs, const struct conlog_ops *ops, void *arg,
	struct conlog **out, struct err *err)
{
	int rc;

	logs->ops = *ops;
	logs->arg = arg;
	logs->credit = WIRE_STREAM_WINDOW;
	rc = loop_work_run(loop, "logs", read_work, read_done, logs, err);
	if (rc < 0) {
		conlog_close(logs);
		return rc;
	}
	logs->busy = true;
	*out = logs;
	return 0;
}

int conlog_open(struct loop *loop, const char *dir, uint32_t tail, const struct conlog_ops *ops,
	void *arg, struct conlog **out, struct err *err)
{
	struct conlog *logs = calloc(1, sizeof(*logs));

	if (!logs)
		return err_set(err, -ENOMEM, "memory is short");
	buf_init(&logs->text);
	(void)str_copy(logs->dir, sizeof(logs->dir), dir);
	logs->tail = tail;
	return start(loop, logs, ops, arg, out, err);
}

int conlog_make(struct loop *loop, const struct conlog_maker *maker, const struct conlog_ops *ops,
	void *arg, struct conlog **out, struct err *err)
{
	struct conlog *logs = calloc(1, sizeof(*logs));

	if (!logs) {
		maker->free(maker->arg);
		return err_set(err, -ENOMEM, "memory is short");
	}
	buf_init(&logs->text);
	logs->maker = *maker;
	return start(loop, logs, ops, arg, out, err);
}

void conlog_close(struct conlog *logs)
{
	if (!logs)
		return;
	logs->closed = true;
	release(logs);
}
