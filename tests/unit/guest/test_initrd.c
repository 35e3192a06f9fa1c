/* The initrd: read back by an independent cpio, the same bytes each time. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/initrd.h"
#include "lib/fs.h"

static char dir[64];

static int begin(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/umlaut-test-initrd.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int finish(void **state)
{
	(void)state;
	return fs_remove_tree(dir, NULL);
}

static int host(const char *fmt, const char *path)
{
	char command[2 * PATH_MAX] = "";
	const char *at = strchr(fmt, '@');
	int status = 0;
	pid_t pid;

	(void)snprintf(command, sizeof(command), "cd %s && %.*s%s%s", dir, (int)(at - fmt), fmt,
		path, at + 1);
	pid = fork();
	if (pid == 0) {
		(void)execl("/bin/sh", "sh", "-ec", command, (char *)NULL);
		_exit(127);
	}
	(void)waitpid(pid, &status, 0);
	return status;
}

static void test_make(void **state)
{
	char path[PATH_MAX], again[PATH_MAX];
	struct err err = ERR_INIT;
	struct stat st, st2;

	(void)state;
	if (initrd_make("/bin/busybox", dir, path, sizeof(path), &err))
		fail_msg("%s", err_msg(&err));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	/* A program of the same content elsewhere: the same file, not written again. */
	assert_int_equal(host("cp /bin/busybox copy; : @", ""), 0);
	{
		char copy[PATH_MAX];

		(void)snprintf(copy, sizeof(copy), "%s/copy", dir);
		assert_int_equal(initrd_make(copy, dir, again, sizeof(again), &err), 0);
	}
	assert_string_equal(path, again);
	assert_int_equal(stat(path, &st2), 0);
	assert_true(st.st_ino == st2.st_ino && st.st_mtim.tv_nsec == st2.st_mtim.tv_nsec);
	assert_int_equal(
		host("mkdir out; cd out; busybox cpio -idm < @ 2>/dev/null; cmp init /bin/busybox;"
		     "test -x init; test -c dev/console; test \"$(stat -c '%t %T' dev/tty1)\" = '4 "
		     "1';"
		     "test \"$(find . | sort | tr '\\n' ' ')\" = '. ./dev ./dev/console ./dev/null "
		     "./dev/tty1 ./init ./proc ./root ./sys '",
			path),
		0);
}

static void test_refusals(void **state)
{
	char path[PATH_MAX];
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(initrd_make("/bin/ls", dir, path, sizeof(path), &err), -ENOEXEC);
	assert_non_null(strstr(err_msg(&err), "not statically linked"));
	assert_int_equal(initrd_make("/etc/passwd", dir, path, sizeof(path), &err), -ENOEXEC);
	assert_int_equal(initrd_make("/none", dir, path, sizeof(path), &err), -ENOENT);
	assert_int_equal(initrd_make("/bin/busybox", "/none", path, sizeof(path), &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_make),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
