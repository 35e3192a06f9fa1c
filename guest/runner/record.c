#include "guest/runner/record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"

static int read_file(
	const char *dir, const char *name, size_t max, struct buf *out, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, name, err);

	return rc < 0 ? rc : fs_read(path, max, out, err);
}

int record_spec(const char *dir, Um__RunnerSpec **out, struct err *err)
{
	struct buf data;
	Um__RunnerSpec *spec;
	int rc;

	buf_init(&data);
	rc = read_file(dir, RUNNERDIR_SPEC, RUNNERDIR_SPEC_MAX, &data, err);
	if (rc >= 0) {
		spec = um__runner_spec__unpack(NULL, data.size, data.data);
		if (spec)
			*out = spec;
		else
			rc = err_set(err, -EBADMSG, "%s/" RUNNERDIR_SPEC " is damaged", dir);
	}
	buf_free(&data);
	return rc < 0 ? rc : 0;
}

int record_exit(const char *dir, const Um__RunnerStatus *status, struct err *err)
{
	size_t size = um__runner_status__get_packed_size(status);
	uint8_t *data = malloc(size ? size : 1);
	char path[PATH_MAX];
	int rc;

	if (!data)
		return err_set(err, -ENOMEM, "out of memory");
	(void)um__runner_status__pack(status, data);
	rc = fs_join(path, sizeof(path), dir, RUNNERDIR_EXIT, err);
	if (rc >= 0)
		rc = fs_write_atomic(path, data, size, 0600, err);
	free(data);
	return rc < 0 ? rc : 0;
}

int record_hosts(const char *dir, const struct buf *frames, bool full, struct err *err)
{
	char path[PATH_MAX];
	const uint8_t *data = frames->data;
	size_t left = frames->size;
	struct stat st;
	int rc, fd;

	rc = fs_join(path, sizeof(path), dir, RUNNERDIR_HOSTS, err);
	if (rc < 0)
		return rc;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (full ? O_TRUNC : 0), 0600);
	if (fd < 0)
		return err_errno(err, errno, "open %s", path);
	rc = 0;
	if (fstat(fd, &st) < 0)
		rc = err_errno(err, errno, "stat %s", path);
	else if ((uint64_t)st.st_size + left > RECORD_HOSTS_MAX)
		rc = err_set(err, -EFBIG, "%s holds too many changes, a full list is needed", path);
	while (rc >= 0 && left) {
		ssize_t n = write(fd, data, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = err_errno(err, errno, "write %s", path);
			break;
		}
		data += n;
		left -= (size_t)n;
	}
	/* Half a frame would spoil the line. */
	if (rc < 0 && rc != -EFBIG && ftruncate(fd, full ? 0 : st.st_size) < 0)
		record_remove(dir, RUNNERDIR_HOSTS);
	(void)close(fd);
	return rc;
}

int record_hosts_read(const char *dir, struct buf *out, struct err *err)
{
	int rc = read_file(dir, RUNNERDIR_HOSTS, RECORD_HOSTS_MAX, out, err);

	return rc == -ENOENT ? 0 : rc;
}

void record_hosts_clear(const char *dir)
{
	record_remove(dir, RUNNERDIR_HOSTS);
}

void record_remove(const char *dir, const char *name)
{
	char path[PATH_MAX];

	if (fs_join(path, sizeof(path), dir, name, NULL) >= 0)
		(void)unlink(path);
}
