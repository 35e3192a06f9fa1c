#include "guest/init/module.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "lib/str.h"

#define FINIT_COMPRESSED 4 /* MODULE_INIT_COMPRESSED_FILE, linux/module.h */
#define NEEDS_MAX 64

/* "kernel/net/ipv6/ipv6.ko" or ".ko.xz": is it module NAME? */
static bool is_module(const char *path, size_t len, const char *name)
{
	size_t want = strlen(name);
	size_t start = len;

	while (start > 0 && path[start - 1] != '/')
		start--;
	return len - start >= want + 3 && strncmp(path + start, name, want) == 0 &&
	       strncmp(path + start + want, ".ko", 3) == 0;
}

static int load_file(const char *dir, const char *path, size_t len, struct err *err)
{
	char full[PATH_MAX];
	int flags = len > 3 && strncmp(path + len - 3, ".ko", 3) == 0 ? 0 : FINIT_COMPRESSED;
	int fd, rc = 0;

	if (str_format(full, sizeof(full), "%s/%.*s", dir, (int)len, path) < 0)
		return err_set(err, -ENAMETOOLONG, "module path too long");
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "module %s", full);
	if (syscall(SYS_finit_module, fd, "", flags) && errno != EEXIST)
		rc = err_errno(err, errno, "load module %s", full);
	close(fd);
	return rc;
}

/* LINE: "path: need need ...", the last needed first (depmod's order). */
static int load_line(const char *dir, const char *line, struct err *err)
{
	const char *needs[NEEDS_MAX];
	size_t lens[NEEDS_MAX];
	size_t count = 0, i;
	const char *p = line;

	while (*p && *p != '\n') {
		size_t len = strcspn(p, ": \n");

		if (len > 0) {
			if (count == NEEDS_MAX)
				return err_set(err, -E2BIG, "a module needs too many others");
			needs[count] = p;
			lens[count++] = len;
		}
		p += len;
		p += *p == ':' || *p == ' ';
	}
	for (i = count; i-- > 0;) {
		int rc = load_file(dir, needs[i], lens[i], err);

		if (rc)
			return rc;
	}
	return 0;
}

int module_load(const char *name, struct err *err)
{
	struct utsname uts;
	char dir[PATH_MAX], path[PATH_MAX];
	char *line = NULL;
	size_t size = 0;
	FILE *f;
	int rc;

	(void)uname(&uts);
	if (str_format(dir, sizeof(dir), "/lib/modules/%s", uts.release) < 0 ||
		str_format(path, sizeof(path), "%s/modules.dep", dir) < 0)
		return err_set(err, -ENAMETOOLONG, "module path too long");
	f = fopen(path, "re");
	if (!f)
		return err_errno(err, errno, "module %s: %s", name, path);
	rc = -ENOENT;
	while (rc == -ENOENT && getline(&line, &size, f) > 0) {
		size_t len = strcspn(line, ":");

		if (line[len] == ':' && is_module(line, len, name)) {
			rc = load_line(dir, line, err);
			if (rc == -ENOENT)
				rc = -EIO; /* a file that the list names is missing */
		}
	}
	free(line);
	(void)fclose(f);
	if (rc == -ENOENT)
		return err_set(err, rc, "the kernel's modules have no %s", name);
	return rc;
}
