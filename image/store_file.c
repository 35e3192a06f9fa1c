#include "image/store_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

int imgfile_read_at(int fd, void *data, size_t size, uint64_t offset, struct err *err)
{
	size_t at = 0;

	while (at < size) {
		ssize_t n = pread(fd, (uint8_t *)data + at, size - at, (off_t)(offset + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "read");
		if (!n)
			return err_set(err, -EIO, "read: the file is too short");
		at += (size_t)n;
	}
	return 0;
}

int imgfile_write_at(int fd, const void *data, size_t size, uint64_t offset, struct err *err)
{
	size_t at = 0;

	while (at < size) {
		ssize_t n = pwrite(fd, (const uint8_t *)data + at, size - at, (off_t)(offset + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
			return err_set(err, -ENOSPC, "the disk is full");
		if (n < 0)
			return err_errno(err, errno, "write");
		at += (size_t)n;
	}
	return 0;
}

static int copy_by_hand(int in, uint64_t from, int out, uint64_t to, uint64_t size, struct err *err)
{
	uint8_t *data = malloc(MANIFEST_CHUNK);
	int rc = data ? 0 : err_set(err, -ENOMEM, "memory is short");

	while (rc == 0 && size) {
		size_t n = size < MANIFEST_CHUNK ? (size_t)size : MANIFEST_CHUNK;

		rc = imgfile_read_at(in, data, n, from, err);
		if (rc == 0)
			rc = imgfile_write_at(out, data, n, to, err);
		from += n;
		to += n;
		size -= n;
	}
	free(data);
	return rc;
}

int imgfile_copy(int in, uint64_t from, int out, uint64_t to, uint64_t size, struct err *err)
{
	struct file_clone_range range = {
		.src_fd = in, .src_offset = from, .src_length = size, .dest_offset = to};
	loff_t off_in = (loff_t)from, off_out = (loff_t)to;

	if (ioctl(out, FICLONERANGE, &range) == 0)
		return 0;
	while (size) {
		ssize_t n = copy_file_range(in, &off_in, out, &off_out, size, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
			return err_set(err, -ENOSPC, "the disk is full");
		if (n <= 0) /* not between these file systems */
			return copy_by_hand(
				in, (uint64_t)off_in, out, (uint64_t)off_out, size, err);
		size -= (uint64_t)n;
	}
	return 0;
}

int imgfile_copy_sparse(int in, int out, uint64_t size, struct err *err)
{
	off_t at = 0, hole;

	if (ioctl(out, FICLONE, in) == 0)
		return 0;
	while ((uint64_t)at < size) {
		int rc;

		at = lseek(in, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			break;
		if (at < 0)
			return err_errno(err, errno, "seek");
		hole = lseek(in, at, SEEK_HOLE);
		if (hole < 0)
			return err_errno(err, errno, "seek");
		rc = imgfile_copy(in, (uint64_t)at, out, (uint64_t)at, (uint64_t)(hole - at), err);
		if (rc < 0)
			return rc;
		at = hole;
	}
	return 0;
}

int imgfile_seal(int fd, struct err *err)
{
	const struct timespec times[2] = {{.tv_sec = IMGSTORE_MTIME}, {.tv_sec = IMGSTORE_MTIME}};
	uint8_t magic[4] = {0};
	mode_t mode = 0444;

	/* A kernel is executed from here by the guests' users. */
	if (pread(fd, magic, sizeof(magic), 0) == sizeof(magic) &&
		memcmp(magic, "\177ELF", sizeof(magic)) == 0)
		mode = 0555;
	if (fchmod(fd, mode) < 0 || futimens(fd, times) < 0)
		return err_errno(err, errno, "set mode and time");
	if (fsync(fd) < 0)
		return err_errno(err, errno, "sync");
	return 0;
}
