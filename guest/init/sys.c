#include "guest/init/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/str.h"

uint64_t sys_uptime_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t sys_uptime_us(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000 + 1;
}

int sys_mount(const char *source, const char *target, const char *type, unsigned long flags,
	const char *data, struct err *err)
{
	int rc = mount(source, target, type, flags, data);

	if (rc && errno == ENOENT && !sys_mkdirs(target, 0755))
		rc = mount(source, target, type, flags, data);
	/* Already there: an image or a kernel that mounts by itself. */
	if (rc && errno != EBUSY)
		return err_errno(err, errno, "mount %s on %s as %s", source, target, type);
	return 0;
}

int sys_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int rc = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

ssize_t sys_read(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, text, size - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return n;
	if (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = '\0';
	return n;
}

int sys_write_all(int fd, const void *data, size_t size)
{
	const uint8_t *p = data;

	while (size > 0) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

int sys_mkdirs(const char *path, mode_t mode)
{
	char work[PATH_MAX];
	char *p;

	if (str_copy(work, sizeof(work), path))
		return -ENAMETOOLONG;
	for (p = strchr(work + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(work, mode) && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(work, mode) && errno != EEXIST)
		return -errno;
	return 0;
}

bool sys_executable(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

void sys_log(const char *fmt, ...)
{
	char line[512] = "umlaut: ";
	size_t have = strlen(line);
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line + have, sizeof(line) - have - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	have = strlen(line);
	line[have++] = '\n';
	(void)!write(STDERR_FILENO, line, have);
}
