#include "guest/image/import.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/image/ext4.h"
#include "guest/image/tool.h"
#include "lib/fs.h"
#include "lib/str.h"

#define TAR_MAGIC_AT 257
#define COPY_MAX (64u << 20) /* in one call */

static bool is_tar(const uint8_t *head, size_t size)
{
	static const struct {
		const char *bytes;
		size_t size;
	} compressed[] = {{"\x1f\x8b", 2}, {"\x28\xb5\x2f\xfd", 4}, {"\xfd\x37zXZ", 5}, {"BZh", 3}};
	size_t i;

	for (i = 0; i < sizeof(compressed) / sizeof(compressed[0]); i++)
		if (size >= compressed[i].size &&
			memcmp(head, compressed[i].bytes, compressed[i].size) == 0)
			return true;
	return size >= TAR_MAGIC_AT + 5 && memcmp(head + TAR_MAGIC_AT, "ustar", 5) == 0;
}

int import_kind(const char *from, enum import_kind *kind, struct err *err)
{
	uint8_t head[512];
	struct stat st;
	ssize_t n;
	int fd = open(from, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return err_errno(err, errno, "%s", from);
	if (fstat(fd, &st)) {
		n = -errno;
		close(fd);
		return err_errno(err, (int)n, "%s", from);
	}
	if (S_ISDIR(st.st_mode)) {
		close(fd);
		*kind = IMPORT_FOLDER;
		return 0;
	}
	n = S_ISREG(st.st_mode) ? read(fd, head, sizeof(head)) : 0;
	close(fd);
	if (!S_ISREG(st.st_mode) || n <= 0)
		return err_set(err, -EINVAL, "%s is empty, or neither a folder nor a file", from);
	*kind = is_tar(head, (size_t)n) ? IMPORT_TAR : IMPORT_RAW;
	return 0;
}

static int from_folder(
	const char *tree, uint64_t size, const char *label, const char *out, struct err *err)
{
	char name[17] = "";
	struct ext4_spec spec = {
		.tree = tree, .out = out, .size = size, .free = IMPORT_FREE, .label = name};

	if (label)
		(void)str_format(name, sizeof(name), "%.16s", label);
	return ext4_build(&spec, err);
}

static int from_tar(
	const char *tar, uint64_t size, const char *label, const char *out, struct err *err)
{
	const bool root = geteuid() == 0;
	const char *tmp = getenv("TMPDIR");
	char stage[PATH_MAX];
	const char *argv[16];
	struct tool tool = {.argv = argv};
	size_t n = 0;
	int rc;

	if (str_format(stage, sizeof(stage), "%s/umlaut-import.XXXXXX",
		    tmp && *tmp == '/' ? tmp : "/var/tmp") < 0 ||
		!mkdtemp(stage))
		return err_errno(err, errno, "temporary folder %s", stage);
	argv[n++] = "tar";
	argv[n++] = "-x";
	argv[n++] = "-f";
	argv[n++] = tar;
	argv[n++] = "-C";
	argv[n++] = stage;
	argv[n++] = "-p";
	argv[n++] = "--numeric-owner";
	if (root) {
		argv[n++] = "--xattrs";
		argv[n++] = "--xattrs-include=*";
	} else {
		/* Nobody else's files, no nodes: the guest's /dev is the kernel's. */
		argv[n++] = "--no-same-owner";
		argv[n++] = "--exclude=./dev/*";
		argv[n++] = "--exclude=dev/*";
	}
	argv[n] = NULL;
	rc = tool_run(&tool, err);
	if (!rc)
		(void)chmod(stage, 0755);
	if (!rc)
		rc = from_folder(stage, size, label, out, err);
	(void)fs_remove_tree(stage, NULL);
	return rc;
}

/* Data by data, so that holes stay holes. */
static int copy_sparse(int in, int out, off_t size)
{
	off_t at = 0;

	while (at < size) {
		off_t data = lseek(in, at, SEEK_DATA);
		off_t end;

		if (data < 0 && errno == ENXIO)
			break;
		if (data < 0)
			return -errno;
		end = lseek(in, data, SEEK_HOLE);
		if (end < 0)
			return -errno;
		if (lseek(out, data, SEEK_SET) < 0 || lseek(in, data, SEEK_SET) < 0)
			return -errno;
		for (at = data; at < end;) {
			uint8_t block[65536];
			size_t want = end - at < (off_t)sizeof(block) ? (size_t)(end - at)
								      : sizeof(block);
			ssize_t n = copy_file_range(in, NULL, out, NULL,
				end - at < (off_t)COPY_MAX ? (size_t)(end - at) : COPY_MAX, 0);

			if (n <= 0) {
				/* Between file systems of old kernels: by hand. */
				n = read(in, block, want);
				if (n > 0 && write(out, block, (size_t)n) != n)
					return errno ? -errno : -EIO;
			}
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			at += n;
		}
	}
	return ftruncate(out, size) ? -errno : 0;
}

static int from_raw(const char *from, const char *path, struct err *err)
{
	struct stat st;
	int rc = 0, out = -1;
	int in = open(from, O_RDONLY | O_CLOEXEC);

	if (in < 0)
		return err_errno(err, errno, "%s", from);
	(void)unlink(path);
	out = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (out < 0)
		rc = err_errno(err, errno, "%s", path);
	if (!rc && fstat(in, &st))
		rc = err_errno(err, errno, "%s", from);
	if (!rc) {
		rc = copy_sparse(in, out, st.st_size);
		if (rc)
			(void)err_errno(err, rc, "copy %s to %s", from, path);
	}
	if (out >= 0 && close(out) && !rc)
		rc = err_errno(err, errno, "%s", path);
	close(in);
	if (rc && out >= 0)
		(void)unlink(path);
	return rc;
}

int import_image(
	const char *from, uint64_t size, const char *label, const char *out, struct err *err)
{
	enum import_kind kind = IMPORT_RAW;
	int rc = import_kind(from, &kind, err);

	if (rc)
		return rc;
	if (kind == IMPORT_FOLDER)
		return from_folder(from, size, label, out, err);
	if (kind == IMPORT_TAR)
		return from_tar(from, size, label, out, err);
	if (size)
		return err_set(err, -EINVAL, "%s is a disk image: it has its size", from);
	return from_raw(from, out, err);
}
