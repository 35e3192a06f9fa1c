#include "guest/init/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/init/sys.h"
#include "lib/str.h"

static int write_temp(
	const char *temp, const void *data, size_t size, mode_t mode, uid_t uid, gid_t gid)
{
	int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0)
		return -errno;
	rc = sys_write_all(fd, data, size);
	if (!rc && (uid || gid) && fchown(fd, uid, gid))
		rc = -errno;
	if (!rc && fchmod(fd, mode))
		rc = -errno;
	if (close(fd) && !rc)
		rc = -errno;
	return rc;
}

int files_write(const char *path, const void *data, size_t size, mode_t mode, uid_t uid, gid_t gid,
	struct err *err)
{
	char temp[PATH_MAX];
	char *slash;
	int rc;

	if (str_format(temp, sizeof(temp), "%s.umlaut-new", path) < 0)
		return err_set(err, -ENAMETOOLONG, "file '%.100s...': the path is too long", path);
	(void)unlink(temp);
	rc = write_temp(temp, data, size, mode, uid, gid);
	if (rc == -ENOENT) {
		slash = strrchr(temp, '/');
		*slash = '\0';
		rc = slash == temp ? 0 : sys_mkdirs(temp, 0755);
		*slash = '/';
		if (!rc)
			rc = write_temp(temp, data, size, mode, uid, gid);
	}
	if (!rc && rename(temp, path))
		rc = -errno;
	if (rc) {
		(void)unlink(temp);
		return err_errno(err, rc, "file '%s'", path);
	}
	return 0;
}

int files_apply(const Um__GuestConfig *c, struct err *err)
{
	size_t i;

	for (i = 0; i < c->n_files; i++) {
		const Um__FileSpec *f = c->files[i];
		mode_t mode = f->mode ? f->mode & 07777 : 0644;
		int rc = files_write(
			f->path, f->content.data, f->content.len, mode, f->uid, f->gid, err);

		if (rc)
			return rc;
	}
	return 0;
}

int files_identity(const Um__GuestConfig *c, struct err *err)
{
	char line[128];
	int n, rc;

	if (*c->hostname) {
		if (sethostname(c->hostname, strlen(c->hostname)))
			return err_errno(err, errno, "host name '%s'", c->hostname);
		n = str_format(line, sizeof(line), "%s\n", c->hostname);
		rc = files_write("/etc/hostname", line, n > 0 ? (size_t)n : 0, 0644, 0, 0, err);
		if (rc)
			return rc;
	}
	if (!*c->machine_id || strlen(c->machine_id) > 64)
		return 0;
	if (access("/etc/machine-id", F_OK) && access("/lib/systemd/systemd", F_OK))
		return 0;
	n = str_format(line, sizeof(line), "%s\n", c->machine_id);
	return files_write("/etc/machine-id", line, n > 0 ? (size_t)n : 0, 0444, 0, 0, err);
}
