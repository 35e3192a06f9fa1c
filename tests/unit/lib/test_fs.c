/* Files: bounds, atomic writes, removal of trees. */
#include "lib/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"

static char dir[64];

static const char *at(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned i;

	i = (i + 1) % 4;
	assert_int_equal(fs_join(path[i], sizeof(path[i]), dir, name, NULL), 0);
	return path[i];
}

static int setup(void **state)
{
	(void)state;
	unit_dir_make(dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unit_dir_remove(dir);
	return 0;
}

static void contains(const char *name, const char *text)
{
	struct err err = ERR_INIT;
	struct buf b;

	buf_init(&b);
	unit_ok(fs_read(at(name), 64, &b, &err), &err);
	assert_string_equal(buf_text(&b), text);
	buf_free(&b);
}

static void test_write_read(void **state)
{
	struct buf b;
	struct stat st;
	struct err err = ERR_INIT;
	static char big[200000];

	(void)state;
	buf_init(&b);
	unit_ok(fs_write_atomic(at("f"), "hello", 5, 0640, &err), &err);
	assert_int_equal(stat(at("f"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	unit_ok(fs_read(at("f"), 5, &b, &err), &err);
	assert_string_equal(buf_text(&b), "hello");
	/* Too large: refused, the buffer stays. */
	assert_int_equal(fs_read(at("f"), 4, &b, &err), -EFBIG);
	assert_string_equal(buf_text(&b), "hello");
	unit_ok(fs_write_atomic(at("f"), big, sizeof(big), 0600, &err), &err);
	buf_free(&b);
	unit_ok(fs_read(at("f"), sizeof(big), &b, &err), &err);
	assert_int_equal(b.size, sizeof(big));
	assert_int_equal(fs_read("/dev/zero", 1 << 20, &b, &err), -EFBIG);
	assert_int_equal(fs_read(at("none"), 4, &b, &err), -ENOENT);
	unit_says(&err, "none");
	assert_int_equal(access(at("f.tmp"), F_OK), -1);
	/* A link planted at the temporary name is not followed. */
	assert_int_equal(symlink(at("victim"), at("g.tmp")), 0);
	assert_true(fs_write_atomic(at("g"), "x", 1, 0600, &err) < 0);
	assert_int_equal(access(at("victim"), F_OK), -1);
	/* Failure leaves no temporary file. */
	assert_int_equal(mkdir(at("d"), 0755), 0);
	assert_true(fs_write_atomic(at("d"), "x", 1, 0600, &err) < 0);
	assert_int_equal(access(at("d.tmp"), F_OK), -1);
	assert_int_equal(fs_write_atomic(at("no/f"), "x", 1, 0600, &err), -ENOENT);

	/* Without waiting for the disk; and several at once, in order. */
	const struct fs_file files[] = {{"one", "1", 1}, {"two", "22", 2}, {"d", "x", 1}};

	unit_ok(fs_write_quick(at("f"), "quick", 5, 0600, &err), &err);
	contains("f", "quick");
	unit_ok(fs_write_files(dir, files, 2, 0600, &err), &err);
	contains("one", "1");
	contains("two", "22");
	assert_true(fs_write_files(dir, files, 3, 0600, &err) < 0); /* d is a folder */
	assert_int_equal(access(at("d.tmp"), F_OK), -1);
	buf_free(&b);
}

static void test_mkdirs(void **state)
{
	struct err err = ERR_INIT;
	char lengthy[PATH_MAX + 10];

	(void)state;
	unit_ok(fs_mkdirs(at("a/b/c"), 0755, &err), &err);
	unit_ok(fs_mkdirs(at("a/b/c"), 0755, &err), &err);
	unit_ok(fs_mkdirs(at("a//x/"), 0755, &err), &err);
	unit_ok(fs_write_atomic(at("a/file"), "", 0, 0600, &err), &err);
	assert_int_equal(fs_mkdirs(at("a/file"), 0755, &err), -ENOTDIR);
	assert_int_equal(fs_mkdirs(at("a/file/x"), 0755, &err), -ENOTDIR);
	memset(lengthy, 'x', sizeof(lengthy));
	lengthy[sizeof(lengthy) - 1] = 0;
	assert_int_equal(fs_mkdirs(lengthy, 0755, &err), -ENAMETOOLONG);
	assert_int_equal(fs_join(lengthy, 8, "1234", "56", &err), 0);
	assert_int_equal(fs_join(lengthy, 8, "1234", "567", &err), -ENAMETOOLONG);
}

static void test_remove(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	unit_ok(fs_remove_tree(at("nothing"), &err), &err);
	unit_ok(fs_remove_tree(at("no/thing"), &err), &err);
	unit_ok(fs_mkdirs(at("t/a/b"), 0755, &err), &err);
	unit_ok(fs_mkdirs(at("keep"), 0755, &err), &err);
	unit_ok(fs_write_atomic(at("keep/me"), "x", 1, 0600, &err), &err);
	unit_ok(fs_write_atomic(at("t/a/f"), "x", 1, 0400, &err), &err);
	assert_int_equal(symlink(at("keep"), at("t/a/b/link")), 0);
	unit_ok(fs_remove_tree(at("t"), &err), &err);
	assert_int_equal(access(at("t"), F_OK), -1);
	assert_int_equal(access(at("keep/me"), F_OK), 0);
	/* A link itself goes, not what it names. */
	assert_int_equal(symlink(at("keep"), at("l")), 0);
	unit_ok(fs_remove_tree(at("l"), &err), &err);
	assert_int_equal(access(at("keep/me"), F_OK), 0);
	/* A mount below stops it. */
	unit_ok(fs_mkdirs(at("m/mnt"), 0755, &err), &err);
	if (mount("tmpfs", at("m/mnt"), "tmpfs", 0, NULL) == 0) {
		assert_int_equal(fs_remove_tree(at("m"), &err), -EXDEV);
		assert_int_equal(umount(at("m/mnt")), 0);
	}
	unit_ok(fs_remove_tree(at("m"), &err), &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_read),
		cmocka_unit_test(test_mkdirs),
		cmocka_unit_test(test_remove),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
