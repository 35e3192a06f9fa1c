#include "node-agent/movespace.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/units.h"

#define LEAST (UINT64_C(64) << 20)
#define MOST (UINT64_C(1) << 30)

uint64_t movespace_reserve(uint64_t disk_bytes)
{
	uint64_t reserve = disk_bytes / 100;

	if (reserve < LEAST)
		reserve = LEAST;
	if (reserve > MOST)
		reserve = MOST;
	return reserve < disk_bytes / 8 ? reserve : disk_bytes / 8;
}

int movespace_check(int fd, const char *path, uint64_t bytes, struct err *err)
{
	char need[UNITS_TEXT], left[UNITS_TEXT], kept[UNITS_TEXT];
	struct statvfs fs;
	uint64_t available, reserve;

	if (fstatvfs(fd, &fs) < 0)
		return err_errno(err, errno, "look at the file system of %s", path);
	available = (uint64_t)fs.f_bavail * fs.f_frsize;
	reserve = movespace_reserve((uint64_t)fs.f_blocks * fs.f_frsize);
	if (available >= reserve && available - reserve >= bytes)
		return 0;
	return err_set(err, -ENOSPC,
		"No space left for %s: %s are to come, %s are free, and %s of that are kept for "
		"guests",
		path, units_size(need, bytes), units_size(left, available),
		units_size(kept, reserve));
}

int movespace_check_copy(int fd, const char *path, uint64_t bytes, struct err *err)
{
	struct stat st;
	uint64_t there;

	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "look at %s", path);
	there = (uint64_t)st.st_blocks * 512;
	return movespace_check(fd, path, bytes > there ? bytes - there : 0, err);
}
