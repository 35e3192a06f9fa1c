#include "guest/cow.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/cow_int.h"
#include "lib/fs.h"
#include "lib/str.h"

#define COW_MAGIC 0x4f4f4f4d	 /* "OOOM" */
#define COW_GRAIN_MAX (1u << 20) /* of block and align */

/* Where the fields of a layout lie; see the table in the header. */
struct layout {
	uint32_t version;
	bool padded;
	size_t mtime, size, block, align, format, path, path_max, header;
};

static const struct layout layouts[] = {
	{.version = 1,
		.mtime = 264,
		.size = 268,
		.block = 276,
		.path = 8,
		.path_max = 256,
		.header = 280},
	{.version = 2,
		.mtime = 4104,
		.size = 4108,
		.block = 4116,
		.path = 8,
		.path_max = 4096,
		.header = 4120},
	{.version = 3,
		.mtime = 8,
		.size = 12,
		.block = 20,
		.align = 24,
		.format = 28,
		.path = 32,
		.path_max = 4096,
		.header = 4128},
	{.version = 3,
		.padded = true,
		.mtime = 8,
		.size = 16,
		.block = 24,
		.align = 28,
		.format = 32,
		.path = 36,
		.path_max = 4096,
		.header = 4136},
};

enum { LAYOUT_V3 = 2, LAYOUT_V3_PADDED = 3 };

static uint32_t get32(const uint8_t *p, bool little)
{
	if (little)
		return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t get64(const uint8_t *p, bool little)
{
	uint64_t first = get32(p, little), second = get32(p + 4, little);

	return little ? second << 32 | first : first << 32 | second;
}

static void put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

static uint64_t round_up(uint64_t n, uint64_t grain)
{
	return (n + grain - 1) / grain * grain;
}

static bool is_grain(uint32_t n)
{
	return n >= COW_BLOCK && n <= COW_GRAIN_MAX && (n & (n - 1)) == 0;
}

/* The offsets that follow from the other fields (the kernel's cow_sizes()). */
static void set_offsets(struct cow_info *info, size_t header)
{
	if (info->version < 3) {
		info->bitmap_offset = header;
		info->bitmap_size = (info->size + info->block - 1) / (8 * (uint64_t)info->block);
	} else {
		info->bitmap_offset = round_up(header, info->align);
		info->bitmap_size =
			round_up(round_up(info->size, info->block) / info->block, 8) / 8;
	}
	info->data_offset = round_up(info->bitmap_offset + info->bitmap_size, info->align);
}

static int find_layout(
	const uint8_t *p, size_t size, const struct layout **out, bool *little, struct err *err)
{
	if (size < 8 || (memcmp(p, "OOOM", 4) != 0 && memcmp(p, "MOOO", 4) != 0))
		return err_set(err, -EBADMSG, "not a COW file: no magic number at its start");
	*little = p[0] == 'M';
	uint32_t version = get32(p + 4, *little);

	if (version < 1 || version > 3 || (*little && version != 1))
		return err_set(err, -EPROTO, "COW header: version %" PRIu32 "%s is not known",
			version, *little ? " in little-endian order" : "");
	const struct layout *layout = &layouts[version - 1];

	/* In the padded layout the format, always 0, lies where a path must start. */
	if (version == 3 && size >= 36 && get32(p + 32, false) == 0)
		layout = &layouts[LAYOUT_V3_PADDED];
	if (size < layout->header)
		return err_set(err, -EPROTO,
			"COW header: the file ends after %zu bytes, inside its version %" PRIu32
			" header of %zu bytes",
			size, version, layout->header);
	*out = layout;
	return 0;
}

static int parse_path(
	const uint8_t *p, const struct layout *layout, struct cow_info *out, struct err *err)
{
	const uint8_t *end = memchr(p + layout->path, 0, layout->path_max);

	if (!end)
		return err_set(err, -EPROTO, "COW header: the backing file's path does not end");
	if (end == p + layout->path)
		return err_set(err, -EPROTO, "COW header: the backing file's path is empty");
	memcpy(out->backing, p + layout->path, (size_t)(end - (p + layout->path)) + 1);
	return 0;
}

static int check_info(const struct cow_info *info, struct err *err)
{
	if (!is_grain(info->block))
		return err_set(err, -EPROTO,
			"COW header: block size %" PRIu32
			" is not a power of two from 512 to 1 MiB",
			info->block);
	if (!is_grain(info->align))
		return err_set(err, -EPROTO,
			"COW header: alignment %" PRIu32 " is not a power of two from 512 to 1 MiB",
			info->align);
	if (info->size == 0 || info->size > COW_SIZE_MAX)
		return err_set(err, -EPROTO,
			"COW header: disk size %" PRIu64 " is not from 1 byte to 4 TiB",
			info->size);
	return 0;
}

static int check_offsets(const struct cow_info *info, uint64_t file_size, struct err *err)
{
	if (info->data_offset > COW_OFFSET_MAX)
		return err_set(err, -EPROTO,
			"COW header: the data would start at %" PRIu64
			", past the kernel's limit of 2 GiB",
			info->data_offset);
	if (file_size < info->data_offset + info->size)
		return err_set(err, -EPROTO,
			"COW file is cut short: %" PRIu64 " bytes, but its disk ends at %" PRIu64,
			file_size, info->data_offset + info->size);
	return 0;
}

int cow_parse(
	const void *data, size_t size, uint64_t file_size, struct cow_info *out, struct err *err)
{
	const uint8_t *p = data;
	const struct layout *layout = NULL;
	struct cow_info info = {0};
	bool little = false;
	int rc = find_layout(p, size, &layout, &little, err);

	if (rc < 0 || !layout)
		return rc;
	info.version = layout->version;
	info.padded = layout->padded;
	info.mtime = get32(p + layout->mtime, little);
	info.size = get64(p + layout->size, little);
	info.block = get32(p + layout->block, little);
	info.align = layout->align ? get32(p + layout->align, little) : info.block;
	if (layout->format && get32(p + layout->format, little) != 0)
		return err_set(err, -EPROTO, "COW header: format %" PRIu32 " is not known",
			get32(p + layout->format, little));
	rc = parse_path(p, layout, &info, err);
	if (rc < 0)
		return rc;
	rc = check_info(&info, err);
	if (rc < 0)
		return rc;
	set_offsets(&info, layout->header);
	rc = check_offsets(&info, file_size, err);
	if (rc < 0)
		return rc;
	*out = info;
	return 0;
}

int cow_pread_all(int fd, void *data, size_t size, uint64_t offset)
{
	uint8_t *p = data;

	while (size > 0) {
		ssize_t n = pread(fd, p, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EBADMSG;
		p += n;
		offset += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

int cow_pwrite_all(int fd, const void *data, size_t size, uint64_t offset)
{
	const uint8_t *p = data;

	while (size > 0) {
		ssize_t n = pwrite(fd, p, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		offset += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

static int check_backing_path(const char *backing, struct err *err)
{
	if (!backing || backing[0] != '/')
		return err_set(err, -EINVAL,
			"COW file: the backing file's path '%s' is not absolute",
			backing ? backing : "");
	if (strlen(backing) >= COW_PATH_MAX)
		return err_set(err, -ENAMETOOLONG,
			"COW file: the backing file's path is longer than %d bytes",
			COW_PATH_MAX - 1);
	return 0;
}

/* A v3 header as the kernel writes it (zeroes after the path). */
static void make_header(uint8_t *p, const struct cow_spec *spec)
{
	const struct layout *l = &layouts[LAYOUT_V3];

	put32(p, COW_MAGIC);
	put32(p + 4, l->version);
	put32(p + l->mtime, spec->mtime);
	put32(p + l->size, (uint32_t)(spec->size >> 32));
	put32(p + l->size + 4, (uint32_t)spec->size);
	put32(p + l->block, COW_BLOCK);
	put32(p + l->align, COW_ALIGN);
	put32(p + l->format, 0);
	(void)str_copy((char *)p + l->path, l->path_max, spec->backing);
}

static int fill_new(int fd, const char *path, const struct cow_spec *spec, struct err *err)
{
	uint8_t header[COW_HEADER_MAX] = {0};
	struct cow_info info = {
		.version = 3, .size = spec->size, .block = COW_BLOCK, .align = COW_ALIGN};
	int rc;

	make_header(header, spec);
	set_offsets(&info, layouts[LAYOUT_V3].header);
	if (info.data_offset > COW_OFFSET_MAX)
		return err_set(err, -EFBIG, "COW file %s: a disk of %" PRIu64 " bytes is too large",
			path, spec->size);
	rc = cow_pwrite_all(fd, header, layouts[LAYOUT_V3].header, 0);
	if (rc < 0)
		return err_errno(err, rc, "write %s", path);
	if (ftruncate(fd, (off_t)(info.data_offset + info.size)) < 0)
		return err_errno(err, errno, "extend %s", path);
	if (fchmod(fd, spec->mode) < 0)
		return err_errno(err, errno, "set the mode of %s", path);
	if (spec->uid != (uid_t)-1 && fchown(fd, spec->uid, spec->gid) < 0)
		return err_errno(err, errno, "give %s to user %u", path, (unsigned)spec->uid);
	if (fsync(fd) < 0)
		return err_errno(err, errno, "sync %s", path);
	return 0;
}

static int check_spec(const char *path, const struct cow_spec *spec, struct err *err)
{
	int rc = check_backing_path(spec->backing, err);

	if (rc < 0)
		return rc;
	if (spec->size < COW_SIZE_MIN || spec->size > COW_SIZE_MAX || spec->size % COW_BLOCK != 0)
		return err_set(err, -EINVAL,
			"COW file %s: a backing file of %" PRIu64
			" bytes; it must be a multiple of 512 from 64 KiB to 4 TiB",
			path, spec->size);
	return 0;
}

int cow_create(const char *path, const struct cow_spec *spec, struct err *err)
{
	char tmp[COW_PATH_MAX], dir[COW_PATH_MAX];
	int fd = -1, rc = check_spec(path, spec, err);

	if (rc < 0)
		return rc;
	if (str_format(tmp, sizeof(tmp), "%s.new", path) < 0 ||
		str_copy(dir, sizeof(dir), path) < 0)
		return err_set(err, -ENAMETOOLONG, "COW file: its path is too long: %s", path);
	char *slash = strrchr(dir, '/');

	if (slash)
		slash[slash == dir ? 1 : 0] = '\0';
	else
		(void)str_copy(dir, sizeof(dir), ".");
	/* Left over from a crash: nobody else makes files of this name. */
	(void)unlink(tmp);
	fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, errno, "create %s", tmp);
	rc = fill_new(fd, tmp, spec, err);
	if (rc == 0 && renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
		rc = err_errno(err, errno, "create %s", path);
	if (rc < 0)
		(void)unlink(tmp);
	(void)close(fd);
	return rc < 0 ? rc : fs_sync_dir(dir, err);
}

/* The lock that a kernel holds on its COW file: os_lock_file(), fcntl(F_SETLK).
 * Ours belongs to the open file, not the process, and meets the same conflicts. */
static int lock(int fd, const char *path, struct err *err)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, -EBUSY, "COW file %s is in use by a running guest", path);
	return err_errno(err, errno, "lock %s", path);
}

static int load(struct cow *cow, const char *path, struct err *err)
{
	uint8_t header[COW_HEADER_MAX] = {0};
	size_t have;
	struct stat st;
	int rc;

	if (fstat(cow->fd, &st) < 0)
		return err_errno(err, errno, "look at %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "COW file %s is not a regular file", path);
	have = st.st_size < COW_HEADER_MAX ? (size_t)st.st_size : COW_HEADER_MAX;
	rc = cow_pread_all(cow->fd, header, have, 0);
	if (rc < 0)
		return err_errno(err, rc, "read the header of %s", path);
	rc = cow_parse(header, have, (uint64_t)st.st_size, &cow->info, err);
	return rc < 0 ? err_wrap(err, "%s", path) : 0;
}

int cow_open(const char *path, bool write, struct cow **out, struct err *err)
{
	struct cow *cow = calloc(1, sizeof(*cow));
	int rc = 0;

	if (!cow)
		return err_set(err, -ENOMEM, "out of memory");
	cow->write = write;
	/* O_NONBLOCK: a FIFO in the file's place must not hold us up. */
	cow->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (cow->fd < 0)
		rc = err_errno(err, errno, "open COW file %s", path);
	if (rc == 0)
		rc = load(cow, path, err);
	if (rc == 0 && write)
		rc = lock(cow->fd, path, err);
	if (rc < 0) {
		cow_close(cow);
		return rc;
	}
	*out = cow;
	return 0;
}

void cow_close(struct cow *cow)
{
	if (!cow)
		return;
	if (cow->fd >= 0)
		(void)close(cow->fd);
	free(cow);
}

const struct cow_info *cow_info(const struct cow *cow)
{
	return &cow->info;
}

int cow_fd(const struct cow *cow)
{
	return cow->fd;
}

int cow_check_backing(const struct cow *cow, int base_fd, struct err *err)
{
	struct stat st;

	if (fstat(base_fd, &st) < 0)
		return err_errno(err, errno, "look at the backing file");
	if (!S_ISREG(st.st_mode))
		return err_set(err, -ESTALE, "the backing file is not a regular file");
	if ((uint64_t)st.st_size != cow->info.size)
		return err_set(err, -ESTALE,
			"the backing file has %" PRIu64
			" bytes, the COW file was made for one of %" PRIu64,
			(uint64_t)st.st_size, cow->info.size);
	if (st.st_mtime != (time_t)cow->info.mtime)
		return err_set(err, -ESTALE,
			"the backing file's modification time is %lld, the COW file was made for "
			"%" PRIu32,
			(long long)st.st_mtime, cow->info.mtime);
	return 0;
}

int cow_rewrite_backing(struct cow *cow, const char *backing, uint32_t mtime, struct err *err)
{
	const struct layout *l = &layouts[LAYOUT_V3];
	uint8_t header[COW_HEADER_MAX] = {0};
	int rc = check_backing_path(backing, err);

	if (rc < 0)
		return rc;
	if (!cow->write)
		return err_set(err, -EBADF, "COW file is open for reading only");
	if (cow->info.version != 3 || cow->info.padded)
		return err_set(err, -EOPNOTSUPP,
			"COW file has an old layout (version %" PRIu32
			"%s); merge it with its backing file instead",
			cow->info.version, cow->info.padded ? ", padded" : "");
	rc = cow_pread_all(cow->fd, header, l->path, 0);
	if (rc < 0)
		return err_errno(err, rc, "read the COW header");
	put32(header + l->mtime, mtime);
	/* One write up to the path's end: within a disk sector for paths of usual
	 * length, so a crash leaves the old header or the new one. */
	memcpy(header + l->path, backing, strlen(backing) + 1);
	rc = cow_pwrite_all(cow->fd, header, l->path + strlen(backing) + 1, 0);
	if (rc == 0 && fdatasync(cow->fd) < 0)
		rc = -errno;
	if (rc < 0)
		return err_errno(err, rc, "write the COW header");
	cow->info.mtime = mtime;
	return str_copy(cow->info.backing, sizeof(cow->info.backing), backing);
}
