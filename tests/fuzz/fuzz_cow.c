/* COW files: any bytes, read in every way.  The file is made as long as its
 * header claims (up to a limit), so that what lies behind the header is reached. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/cow.h"

#define LIMIT (32u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct cow *cow)
{
	struct cow_count count = {0};
	struct err err = ERR_INIT;
	const struct cow_info *info = cow_info(cow);
	uint8_t buf[3000];
	uint64_t at = info->size / 2;

	(void)cow_check(cow, &err);
	if (cow_count(cow, &count, &err) == 0 &&
		(count.data_bytes > count.set_bytes || count.set_bytes > info->size))
		abort();
	if (info->size > sizeof(buf) &&
		cow_read(cow, -1, at - at % 512, buf, sizeof(buf) / 2, &err) < 0 &&
		at + sizeof(buf) < info->size)
		abort();
	(void)cow_is_set(cow, info->size - 1, &err);
	if (cow_write(cow, 0, buf, info->block < sizeof(buf) ? info->block : 512, &err) == 0 &&
		cow_is_set(cow, 0, &err) != 1)
		abort();
	if (cow_rewrite_backing(cow, "/new/base", 1, &err) == 0 && info->mtime != 1)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cow_info info;
	struct cow *cow = NULL;
	char path[64];
	int fd;

	if (cow_parse(data, size, UINT64_MAX, &info, NULL) < 0)
		return 0;
	if (info.data_offset + info.size > LIMIT)
		return 0;
	fd = memfd_create("cow", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	if (size < info.data_offset + info.size &&
		ftruncate(fd, (off_t)(info.data_offset + info.size)) < 0)
		abort();
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (cow_open(path, true, &cow, NULL) == 0)
		use(cow);
	cow_close(cow);
	(void)close(fd);
	return 0;
}
