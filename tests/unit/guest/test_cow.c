/* COW files against the tools of uml-utilities and a real kernel. */
#include "tests/unit/guest/umlkit.h"

#include "guest/cow.h"

static struct kit_dir dir;
static char base[256], cowfile[256], raw[256], raw2[256];

static int setup(void **state)
{
	(void)state;
	kit_dir_make(&dir);
	(void)snprintf(base, sizeof(base), "%s/base", dir.path);
	(void)snprintf(cowfile, sizeof(cowfile), "%s/cow", dir.path);
	(void)snprintf(raw, sizeof(raw), "%s/raw", dir.path);
	(void)snprintf(raw2, sizeof(raw2), "%s/raw2", dir.path);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kit_dir_remove(&dir);
	return 0;
}

/* A sparse base of SIZE bytes with a recognisable pattern in places. */
static void make_base(off_t size)
{
	int fd = open(base, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	char block[4096];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	for (int i = 0; i < 8; i++) {
		memset(block, 'A' + i, sizeof(block));
		assert_int_equal(pwrite(fd, block, sizeof(block), size / 8 * i), sizeof(block));
	}
	(void)close(fd);
}

static struct cow_spec spec_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (struct cow_spec){.backing = path,
		.size = (uint64_t)st.st_size,
		.mtime = (uint32_t)st.st_mtime,
		.mode = 0640,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1};
}

static void make_cow(void)
{
	struct cow_spec spec = spec_of(base);
	struct err err = ERR_INIT;

	(void)unlink(cowfile);
	if (cow_create(cowfile, &spec, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static struct cow *must_open(const char *path, bool write)
{
	struct cow *cow = NULL;
	struct err err = ERR_INIT;

	if (cow_open(path, write, &cow, &err) < 0)
		fail_msg("%s", err_msg(&err));
	return cow;
}

static uint64_t merge_to(struct cow *cow, const char *out)
{
	int base_fd = open(base, O_RDONLY | O_CLOEXEC);
	int fd = open(out, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	struct err err = ERR_INIT;
	uint64_t bytes = 0;

	assert_true(base_fd >= 0 && fd >= 0);
	if (cow_merge(cow, base_fd, fd, &bytes, &err) < 0)
		fail_msg("%s", err_msg(&err));
	(void)close(fd);
	(void)close(base_fd);
	return bytes;
}

static void assert_same(const char *a, const char *b)
{
	assert_int_equal(kit_run("cmp", a, b), 0);
}

/* ---- creation ---- */

static void test_create_is_what_mkcow_makes(void **state)
{
	char *ours, *theirs;
	size_t n, m;
	struct stat st;

	(void)state;
	make_base(3 << 20);
	make_cow();
	assert_int_equal(kit_run("uml_mkcow", "-f", raw, base), 0);
	ours = kit_slurp(cowfile, &n);
	theirs = kit_slurp(raw, &m);
	assert_int_equal(n, m);
	/* The tools leave garbage after the path; up to it, and after the header, all is equal. */
	assert_memory_equal(ours, theirs, 32 + strlen(base) + 1);
	assert_memory_equal(ours + 4128, theirs + 4128, n - 4128);
	free(ours);
	free(theirs);
	assert_int_equal(stat(cowfile, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_true(st.st_blocks * 512 < 64 * 1024);
}

static void test_create_refuses(void **state)
{
	struct err err = ERR_INIT;
	struct cow_spec spec;
	char longpath[5000];

	(void)state;
	make_base(1 << 20);
	make_cow();
	spec = spec_of(base);
	assert_int_equal(cow_create(cowfile, &spec, &err), -EEXIST);
	spec.backing = "relative";
	assert_int_equal(cow_create(raw, &spec, &err), -EINVAL);
	memset(longpath, 'a', sizeof(longpath));
	longpath[0] = '/';
	longpath[4096] = '\0';
	spec.backing = longpath;
	assert_int_equal(cow_create(raw, &spec, &err), -ENAMETOOLONG);
	longpath[4095] = '\0';
	(void)unlink(raw);
	assert_int_equal(cow_create(raw, &spec, &err), 0);
	struct cow *cow = must_open(raw, false);

	assert_string_equal(cow_info(cow)->backing, longpath);
	cow_close(cow);
	spec = spec_of(base);
	spec.size = 100000;
	assert_int_equal(cow_create(raw2, &spec, &err), -EINVAL);
	spec.size = 512;
	assert_int_equal(cow_create(raw2, &spec, &err), -EINVAL);
	spec.size = UINT64_C(1) << 50;
	assert_int_equal(cow_create(raw2, &spec, &err), -EINVAL);
	spec.size = 1 << 20;
	assert_int_equal(cow_create("/nonexistent/x", &spec, &err), -ENOENT);
}

static void test_open_refuses(void **state)
{
	struct err err = ERR_INIT;
	struct cow *cow = NULL;

	(void)state;
	make_base(1 << 20);
	make_cow();
	assert_int_equal(cow_open(base, false, &cow, &err), -EBADMSG);
	assert_int_equal(cow_open(dir.path, false, &cow, &err), -EINVAL);
	assert_int_equal(cow_open("/nonexistent", false, &cow, &err), -ENOENT);
	assert_int_equal(truncate(cowfile, (1 << 20) - 1 + 12288), 0);
	assert_int_equal(cow_open(cowfile, false, &cow, &err), -EPROTO);
	assert_non_null(strstr(err_msg(&err), "cut short"));
	assert_int_equal(truncate(cowfile, 100), 0);
	assert_int_equal(cow_open(cowfile, false, &cow, &err), -EPROTO);
	assert_int_equal(truncate(cowfile, 0), 0);
	assert_int_equal(cow_open(cowfile, false, &cow, &err), -EBADMSG);
	assert_null(cow);
}

/* ---- other layouts, made by hand from the kernel's structures ---- */

struct __attribute__((packed)) v1 {
	uint32_t magic, version;
	char backing[256];
	uint32_t mtime;
	uint64_t size;
	uint32_t block;
};
struct __attribute__((packed)) v2 {
	uint32_t magic, version;
	char backing[4096];
	uint32_t mtime;
	uint64_t size;
	uint32_t block;
};
struct v3_padded {
	uint32_t magic, version;
	int64_t mtime;
	uint64_t size;
	uint32_t block, align, format;
	char backing[4096];
};
_Static_assert(sizeof(struct v1) == 280, "packed");
_Static_assert(sizeof(struct v2) == 4120, "packed");
_Static_assert(sizeof(struct v3_padded) == 4136, "with its holes");

/* Writes HEADER, sets the bits of blocks 1 and 9 and fills these with '1' and '9'. */
static void write_old(const void *header, size_t size, off_t bitmap, off_t data, off_t disk)
{
	int fd = open(cowfile, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	uint8_t bits[2] = {0x02, 0x02};
	char block[512];

	assert_true(fd >= 0);
	assert_int_equal(write(fd, header, size), (ssize_t)size);
	assert_int_equal(pwrite(fd, bits, 2, bitmap), 2);
	memset(block, '1', sizeof(block));
	assert_int_equal(pwrite(fd, block, 512, data + 512), 512);
	memset(block, '9', sizeof(block));
	assert_int_equal(pwrite(fd, block, 512, data + 9 * 512), 512);
	assert_int_equal(ftruncate(fd, data + disk), 0);
	(void)close(fd);
}

static void check_old(uint32_t version, bool padded, uint64_t data, uint32_t mtime)
{
	struct cow *cow = must_open(cowfile, false);
	const struct cow_info *info = cow_info(cow);
	struct cow_count count;
	char block[1024];

	assert_int_equal(info->version, version);
	assert_int_equal(info->padded, padded);
	assert_int_equal(info->size, 1 << 20);
	assert_int_equal(info->block, 512);
	assert_int_equal(info->mtime, mtime);
	assert_int_equal(info->data_offset, data);
	assert_string_equal(info->backing, base);
	assert_int_equal(cow_check(cow, NULL), 0);
	assert_int_equal(cow_count(cow, &count, NULL), 0);
	assert_int_equal(count.set_bytes, 1024);
	assert_int_equal(count.data_bytes, 1024);
	assert_int_equal(cow_read(cow, -1, 256, block, sizeof(block), NULL), 0);
	assert_int_equal(block[255], 0);
	assert_int_equal(block[256], '1');
	assert_int_equal(block[767], '1');
	assert_int_equal(block[768], 0);
	assert_int_equal(cow_is_set(cow, 9 * 512 + 5, NULL), 1);
	assert_int_equal(cow_is_set(cow, 8 * 512, NULL), 0);
	cow_close(cow);
	assert_int_equal(cow_open(cowfile, true, &cow, NULL), 0);
	assert_int_equal(cow_rewrite_backing(cow, "/x", 1, NULL), -EOPNOTSUPP);
	cow_close(cow);
}

static void test_old_layouts(void **state)
{
	struct v1 v1 = {
		.magic = 0x4f4f4f4d, .version = 1, .mtime = 77, .size = 1 << 20, .block = 512};
	struct v2 v2 = {.magic = __builtin_bswap32(0x4f4f4f4d),
		.version = __builtin_bswap32(2),
		.mtime = __builtin_bswap32(1000000000),
		.size = __builtin_bswap64(1 << 20),
		.block = __builtin_bswap32(512)};
	struct v3_padded v3 = {.magic = __builtin_bswap32(0x4f4f4f4d),
		.version = __builtin_bswap32(3),
		.mtime = (int64_t)__builtin_bswap32(1100000000),
		.size = __builtin_bswap64(1 << 20),
		.block = __builtin_bswap32(512),
		.align = __builtin_bswap32(4096)};

	(void)state;
	make_base(1 << 20);
	(void)snprintf(v1.backing, sizeof(v1.backing), "%s", base);
	(void)snprintf(v2.backing, sizeof(v2.backing), "%s", base);
	(void)snprintf(v3.backing, sizeof(v3.backing), "%s", base);
	/* 2048 blocks: 256 bytes of bitmap. */
	write_old(&v1, sizeof(v1), 280, 1024, 1 << 20);
	check_old(1, false, 1024, 77);
	write_old(&v2, sizeof(v2), 4120, 4608, 1 << 20);
	check_old(2, false, 4608, 1000000000);
	write_old(&v3, sizeof(v3), 8192, 12288, 1 << 20);
	check_old(3, true, 12288, 1100000000);
	/* A big-endian host's v1. */
	v1.magic = __builtin_bswap32(v1.magic);
	v1.version = __builtin_bswap32(v1.version);
	v1.mtime = __builtin_bswap32(v1.mtime);
	v1.size = __builtin_bswap64(v1.size);
	v1.block = __builtin_bswap32(v1.block);
	write_old(&v1, sizeof(v1), 280, 1024, 1 << 20);
	check_old(1, false, 1024, 77);
}

static void test_old_layouts_as_moo_reads_them(void **state)
{
	struct v2 v2 = {.magic = __builtin_bswap32(0x4f4f4f4d),
		.version = __builtin_bswap32(2),
		.size = __builtin_bswap64(1 << 20),
		.block = __builtin_bswap32(512)};
	struct stat st;

	(void)state;
	make_base(1 << 20);
	assert_int_equal(stat(base, &st), 0);
	v2.mtime = __builtin_bswap32((uint32_t)st.st_mtime);
	(void)snprintf(v2.backing, sizeof(v2.backing), "%s", base);
	write_old(&v2, sizeof(v2), 4120, 4608, 1 << 20);
	struct cow *cow = must_open(cowfile, false);

	merge_to(cow, raw);
	cow_close(cow);
	assert_int_equal(kit_run("uml_moo", cowfile, raw2), 0);
	assert_same(raw, raw2);
}

/* ---- blocks ---- */

struct seen {
	struct cow_extent extents[64];
	size_t count;
	int stop_after;
};

static int see(void *arg, const struct cow_extent *extent)
{
	struct seen *seen = arg;

	assert_true(seen->count < 64);
	seen->extents[seen->count++] = *extent;
	return seen->stop_after && (int)seen->count == seen->stop_after ? 42 : 0;
}

static void put(struct cow *cow, uint64_t offset, char c, size_t size)
{
	char *data = malloc(size);
	struct err err = ERR_INIT;

	memset(data, c, size);
	if (cow_write(cow, offset, data, size, &err) < 0)
		fail_msg("%s", err_msg(&err));
	free(data);
}

static void test_write_map_merge(void **state)
{
	struct seen seen = {0};
	struct cow *cow;
	struct err err = ERR_INIT;
	char buf[2048];
	int base_fd;

	(void)state;
	make_base(64 << 20);
	make_cow();
	cow = must_open(cowfile, true);
	put(cow, 0, 'a', 512);
	put(cow, 4096, 'b', 4096);
	put(cow, 4096 + 4096, 'c', 512);
	put(cow, 33 << 20, 'd', 1 << 20);
	put(cow, (64 << 20) - 512, 'e', 512);
	assert_int_equal(cow_map(cow, 0, UINT64_MAX, see, &seen, &err), 0);
	assert_int_equal(seen.count, 4);
	assert_int_equal(seen.extents[0].offset, 0);
	assert_int_equal(seen.extents[0].size, 512);
	assert_int_equal(seen.extents[1].offset, 4096);
	assert_int_equal(seen.extents[1].size, 4096 + 512);
	assert_int_equal(seen.extents[2].offset, 33 << 20);
	assert_int_equal(seen.extents[2].size, 1 << 20);
	assert_int_equal(seen.extents[3].offset, (64 << 20) - 512);
	assert_false(seen.extents[3].hole);
	/* A part of it, and a stop. */
	seen = (struct seen){0};
	assert_int_equal(cow_map(cow, 4096 + 512, 34 << 20, see, &seen, &err), 0);
	assert_int_equal(seen.count, 2);
	assert_int_equal(seen.extents[0].offset, 4096 + 512);
	assert_int_equal(seen.extents[0].size, 4096);
	seen = (struct seen){.stop_after = 2};
	assert_int_equal(cow_map(cow, 0, UINT64_MAX, see, &seen, &err), 42);
	assert_int_equal(seen.count, 2);
	/* Reads: across a border of set and not set. */
	base_fd = open(base, O_RDONLY | O_CLOEXEC);
	assert_int_equal(cow_check_backing(cow, base_fd, &err), 0);
	assert_int_equal(cow_read(cow, base_fd, 0, buf, sizeof(buf), &err), 0);
	assert_int_equal(buf[511], 'a');
	assert_int_equal(buf[512], 'A');
	assert_int_equal(cow_read(cow, base_fd, 64 << 20, buf, 1, &err), -ERANGE);
	assert_int_equal(cow_is_set(cow, 64 << 20, &err), -ERANGE);
	assert_int_equal(cow_write(cow, 100, buf, 512, &err), -EINVAL);
	assert_int_equal(cow_write(cow, 512, buf, 100, &err), -EINVAL);
	assert_int_equal(cow_write(cow, (64 << 20) - 512, buf, 1024, &err), -ERANGE);
	(void)close(base_fd);
	merge_to(cow, raw);
	cow_close(cow);
	assert_int_equal(kit_run("uml_moo", cowfile, raw2), 0);
	assert_same(raw, raw2);
}

/* A set block without data in the file reads as zeroes and hides the base's data. */
static void test_holes(void **state)
{
	struct seen seen = {0};
	struct cow_count count;
	struct stat st;

	(void)state;
	make_base(8 << 20);
	make_cow();
	struct cow *cow = must_open(cowfile, true);

	put(cow, 0, 'x', 1 << 20);
	assert_int_equal(fallocate(cow_fd(cow), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)cow_info(cow)->data_offset + 65536, 131072),
		0);
	assert_int_equal(cow_map(cow, 0, UINT64_MAX, see, &seen, NULL), 0);
	assert_int_equal(seen.count, 3);
	assert_true(seen.extents[1].hole);
	assert_int_equal(seen.extents[1].offset, 65536);
	assert_int_equal(seen.extents[1].size, 131072);
	assert_int_equal(cow_count(cow, &count, NULL), 0);
	assert_int_equal(count.set_bytes, 1 << 20);
	assert_int_equal(count.data_bytes, (1 << 20) - 131072);
	assert_int_equal(count.extents, 3);
	merge_to(cow, raw);
	cow_close(cow);
	assert_int_equal(kit_run("uml_moo", cowfile, raw2), 0);
	assert_same(raw, raw2);
	/* Sparse: 1 MiB less the hole, and the base's 7 other blocks. */
	assert_int_equal(stat(raw, &st), 0);
	assert_true(st.st_blocks * 512 <= (1 << 20));
}

/* The map's work depends on what is set, not on the size of the disk. */
static void test_large_disk(void **state)
{
	struct cow_spec spec = {.backing = "/base",
		.size = COW_SIZE_MAX,
		.mtime = 1,
		.mode = 0600,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1};
	struct seen seen = {0};
	struct err err = ERR_INIT;

	(void)state;
	(void)unlink(cowfile);
	int rc = cow_create(cowfile, &spec, &err);

	if (rc == -EFBIG) /* this file system's files end at 16 TiB or earlier */
		skip();
	assert_int_equal(rc, 0);
	struct cow *cow = must_open(cowfile, true);
	uint64_t start = kit_now_ms();

	put(cow, (UINT64_C(3) << 40) + 512, 'z', 512);
	assert_int_equal(cow_map(cow, 0, UINT64_MAX, see, &seen, &err), 0);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.extents[0].offset, (UINT64_C(3) << 40) + 512);
	assert_true(kit_now_ms() - start < 1000);
	assert_int_equal(cow_check(cow, &err), 0);
	cow_close(cow);
}

static void test_check_finds_stray_bits(void **state)
{
	(void)state;
	make_base((1 << 20) + 512);
	make_cow();
	struct cow *cow = must_open(cowfile, true);
	const uint8_t stray = 0x02;
	struct err err = ERR_INIT;
	struct cow_count count;

	assert_int_equal(cow_check(cow, &err), 0);
	assert_int_equal(
		pwrite(cow_fd(cow), &stray, 1, (off_t)cow_info(cow)->bitmap_offset + 256), 1);
	assert_int_equal(cow_check(cow, &err), -EPROTO);
	assert_int_equal(cow_count(cow, &count, &err), 0);
	assert_int_equal(count.set_bytes, 0);
	cow_close(cow);
}

static void test_rewrite_backing(void **state)
{
	struct err err = ERR_INIT;
	struct cow *second = NULL;

	(void)state;
	make_base(1 << 20);
	make_cow();
	struct cow *cow = must_open(cowfile, true);

	put(cow, 512, 'q', 512);
	assert_int_equal(cow_open(cowfile, true, &second, &err), -EBUSY);
	assert_int_equal(cow_rewrite_backing(cow, "not/absolute", 5, &err), -EINVAL);
	assert_int_equal(cow_rewrite_backing(cow, "/short", 5, &err), 0);
	assert_int_equal(cow_rewrite_backing(cow, raw2, 1, &err), 0);
	assert_int_equal(cow_info(cow)->mtime, 1);
	cow_close(cow);
	cow = must_open(cowfile, false);
	assert_string_equal(cow_info(cow)->backing, raw2);
	assert_int_equal(cow_info(cow)->mtime, 1);
	assert_int_equal(cow_is_set(cow, 512, &err), 1);
	assert_int_equal(cow_rewrite_backing(cow, "/x", 1, &err), -EBADF);
	int fd = open(base, O_RDONLY | O_CLOEXEC);

	assert_int_equal(cow_check_backing(cow, fd, &err), -ESTALE);
	(void)close(fd);
	cow_close(cow);
	/* The tools agree: with the base moved and dated, moo reads through the new header. */
	const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

	assert_int_equal(rename(base, raw2), 0);
	assert_int_equal(utimensat(AT_FDCWD, raw2, times, 0), 0);
	assert_int_equal(kit_run("uml_moo", cowfile, raw), 0);
	char *data = kit_slurp(raw, NULL);

	assert_int_equal(data[511], 'A');
	assert_int_equal(data[512], 'q');
	free(data);
	(void)unlink(raw2);
}

/* ---- damage ---- */

/* Whatever a header says: refused with a message, or every reading function works. */
static void use_all(void)
{
	struct cow *cow = NULL;
	struct err err = ERR_INIT;
	struct cow_count count;
	char buf[1024];

	if (cow_open(cowfile, false, &cow, &err) < 0) {
		assert_true(err_msg(&err)[0] != '\0');
		assert_null(cow);
		return;
	}
	const struct cow_info *info = cow_info(cow);
	struct stat st;

	assert_int_equal(fstat(cow_fd(cow), &st), 0);
	assert_true(info->data_offset + info->size <= (uint64_t)st.st_size);
	assert_true(info->bitmap_offset + info->bitmap_size <= info->data_offset);
	assert_int_equal(cow_count(cow, &count, &err), 0);
	assert_true(count.data_bytes <= count.set_bytes && count.set_bytes <= info->size);
	if (info->size >= sizeof(buf))
		assert_int_equal(
			cow_read(cow, -1, info->size - sizeof(buf), buf, sizeof(buf), &err), 0);
	(void)cow_check(cow, &err);
	cow_close(cow);
}

static void test_byte_flips(void **state)
{
	uint32_t seed = 12345;
	struct err err = ERR_INIT;
	unsigned refused = 0, total = 0;

	(void)state;
	make_base(1 << 20);
	make_cow();
	struct cow *cow = must_open(cowfile, true);

	put(cow, 0, 'f', 4096);
	put(cow, 512 * 1000, 'f', 512);
	cow_close(cow);
	int fd = open(cowfile, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < 1000; i++) {
		uint8_t old, new;
		off_t at;

		seed = seed * 1664525 + 1013904223;
		/* Every bit of the fixed fields, then anywhere in header and bitmap. */
		at = i < 256 ? (off_t)(i / 8) : (off_t)(seed >> 8) % 8500;
		assert_int_equal(pread(fd, &old, 1, at), 1);
		new = (uint8_t)(old ^ (i < 256 ? 1u << i % 8 : (seed >> 24 | 1)));
		assert_int_equal(pwrite(fd, &new, 1, at), 1);
		use_all();
		total++;
		cow = NULL;
		if (cow_open(cowfile, false, &cow, &err) < 0)
			refused++;
		cow_close(cow);
		assert_int_equal(pwrite(fd, &old, 1, at), 1);
	}
	(void)close(fd);
	print_message("%u flips, %u refused\n", total, refused);
	assert_true(refused > 100);
	use_all();
}

/* ---- a real kernel ---- */

static const char script[] =
	"#!/bin/sh\n"
	"/bin/busybox mount -t proc proc /proc\n"
	"echo booted-$$\n"
	"i=0\n"
	"while [ $i -lt 40 ]; do\n"
	"  /bin/busybox dd if=/dev/urandom of=/file$i bs=1000 count=$i 2>/dev/null\n"
	"  i=$((i+3))\n"
	"done\n"
	"/bin/busybox sha256sum /file* > /sums\n"
	"/bin/busybox sync\n"
	"echo guest-done\n"
	"/bin/busybox poweroff -f\n";

static void boot(const char *cow_arg)
{
	char disk[600], udir[300];
	const char *log = kit_path(&dir, "log");

	(void)snprintf(disk, sizeof(disk), "ubd0=%s,%s", cow_arg, base);
	(void)snprintf(udir, sizeof(udir), "uml_dir=%s/uml", dir.path);
	const char *const argv[] = {KIT_KERNEL, "mem=64M", disk, "root=/dev/ubda", "rw",
		"init=/init", "con=null", "con0=null,fd:1", udir, "umid=t", NULL};

	(void)kit_wait(kit_spawn(argv, dir.path, log), 60000);
	kit_expect(log, "guest-done", 100);
}

static void check_real(const char *path)
{
	struct cow *cow = must_open(path, false);
	const struct cow_info *info = cow_info(cow);
	struct cow_count count;
	struct err err = ERR_INIT;
	int fd = open(base, O_RDONLY | O_CLOEXEC);

	assert_int_equal(info->version, 3);
	assert_false(info->padded);
	assert_int_equal(info->block, COW_BLOCK);
	assert_int_equal(info->align, COW_ALIGN);
	if (cow_check_backing(cow, fd, &err) < 0 || cow_check(cow, &err) < 0)
		fail_msg("%s", err_msg(&err));
	(void)close(fd);
	assert_int_equal(cow_count(cow, &count, &err), 0);
	/* At least the files written, and not the whole disk. */
	assert_true(count.data_bytes > 270000 && count.data_bytes < 8 << 20);
	print_message("%s: %llu bytes set, %llu with data, %llu extents\n", path,
		(unsigned long long)count.set_bytes, (unsigned long long)count.data_bytes,
		(unsigned long long)count.extents);
	merge_to(cow, raw);
	cow_close(cow);
	assert_int_equal(kit_run("uml_moo", path, raw2), 0);
	assert_same(raw, raw2);
	assert_int_equal(kit_run("e2fsck", "-fn", raw), 0);
}

static void test_real_kernel(void **state)
{
	char theirs[300];

	(void)state;
	if (access(KIT_KERNEL, X_OK) < 0)
		skip();
	kit_make_root(&dir, base, "16M", script);
	/* A COW file that we made, written to by a kernel. */
	make_cow();
	boot(cowfile);
	check_real(cowfile);
	/* One that the kernel made. */
	(void)snprintf(theirs, sizeof(theirs), "%s/theirs", dir.path);
	boot(theirs);
	check_real(theirs);
	/* Moved block by block into a new file, it is the same disk. */
	struct cow *from = must_open(theirs, false), *to;

	make_cow();
	to = must_open(cowfile, true);
	char buf[4096];

	for (uint64_t at = 0; at < cow_info(from)->size; at += sizeof(buf)) {
		for (uint64_t b = at; b < at + sizeof(buf); b += COW_BLOCK) {
			if (cow_is_set(from, b, NULL) != 1)
				continue;
			assert_int_equal(cow_read(from, -1, b, buf, COW_BLOCK, NULL), 0);
			assert_int_equal(cow_write(to, b, buf, COW_BLOCK, NULL), 0);
		}
	}
	cow_close(from);
	cow_close(to);
	check_real(cowfile);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_is_what_mkcow_makes),
		cmocka_unit_test(test_create_refuses),
		cmocka_unit_test(test_open_refuses),
		cmocka_unit_test(test_old_layouts),
		cmocka_unit_test(test_old_layouts_as_moo_reads_them),
		cmocka_unit_test(test_write_map_merge),
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_large_disk),
		cmocka_unit_test(test_check_finds_stray_bits),
		cmocka_unit_test(test_rewrite_backing),
		cmocka_unit_test(test_byte_flips),
		cmocka_unit_test(test_real_kernel),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
