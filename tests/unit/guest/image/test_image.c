/* Images: built twice the same, clean to e2fsck, and holding what they should, as
 * debugfs sees it; by root and by an ordinary user. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/image/busybox.h"
#include "guest/image/ext4.h"
#include "guest/image/import.h"
#include "guest/image/modules.h"
#include "guest/image/tool.h"
#include "lib/fs.h"
#include "lib/proc.h"

static char dir[64];

static int begin(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/umlaut-test-image.XXXXXX");
	assert_non_null(mkdtemp(dir));
	/* Also for the ordinary user of a test. */
	return chmod(dir, 01777);
}

static int finish(void **state)
{
	(void)state;
	return fs_remove_tree(dir, NULL);
}

static char output[65536];

/* A command of the host, in the test's folder; its exit status. */
static int host(const char *script)
{
	size_t have = 0;
	int fds[2], status = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		(void)dup2(fds[1], 1);
		(void)dup2(fds[1], 2);
		if (chdir(dir) == 0)
			(void)execl("/bin/sh", "sh", "-ec", script, (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	while ((n = read(fds[0], output + have, sizeof(output) - have - 1)) > 0)
		have += (size_t)n;
	close(fds[0]);
	output[have] = '\0';
	(void)waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void host_ok(const char *script)
{
	if (host(script))
		fail_msg("%s:\n%s", script, output);
}

static void expect(const char *script, const char *want)
{
	host_ok(script);
	if (strcmp(output, want) != 0)
		fail_msg("%s: '%s' and not '%s'", script, output, want);
}

static const char *in(const char *name)
{
	static char paths[4][PATH_MAX];
	static int turn;
	char *path = paths[turn++ % 4];

	(void)snprintf(path, PATH_MAX, "%s/%s", dir, name);
	return path;
}

static void ok(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%s", err_msg(err));
}

static void test_busybox(void **state)
{
	struct err err = ERR_INIT;
	uint64_t start = proc_mono_ms();
	char left[128];

	(void)state;
	ok(busybox_build(NULL, 0, in("a.img"), &err), &err);
	print_message("busybox image in %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	ok(busybox_build(NULL, 0, in("b.img"), &err), &err);
	host_ok("cmp a.img b.img; e2fsck -fn a.img; test $(stat -c %s a.img) = 67108864");
	host_ok("test $(stat -c %b a.img) -lt 24000"); /* sparse */
	expect("debugfs -R 'cat /etc/inittab' a.img 2>/dev/null | grep -c respawn", "1\n");
	expect("debugfs -R 'stat /sbin/init' a.img 2>/dev/null | grep -o 'Fast link dest.*'",
		"Fast link dest: \"/bin/busybox\"\n");
	expect("debugfs -R 'cat /bin/busybox' a.img 2>/dev/null | cmp - /bin/busybox && echo same",
		"same\n");
	expect("debugfs -R 'stat /etc/shadow' a.img 2>/dev/null | grep -o 'Mode: .* Flags'",
		"Mode:  0600   Flags\n");
	expect("debugfs -R 'stat /tmp' a.img 2>/dev/null | grep -o 'Mode: .* Flags'",
		"Mode:  01777   Flags\n");
	expect("TZ=UTC debugfs -R 'stat /usr/bin/wget' a.img 2>/dev/null | "
	       "grep -c 'Thu Jan  1 00:00:01 1970'",
		"4\n");
	assert_int_equal(busybox_build("/bin/false", 0, in("c.img"), &err), -ENOEXEC);
	assert_int_equal(busybox_build("/no/busybox", 0, in("c.img"), &err), -ENOENT);
	assert_int_equal(access(in("c.img"), F_OK), -1);
	/* Of this process: other tests build images at the same time. */
	(void)snprintf(left, sizeof(left),
		"ls /dev/shm /tmp | grep -c 'umlaut-image.%d[.]' || true", (int)getpid());
	host_ok(left);
	assert_string_equal(output, "0\n");
}

/* The same bytes when an ordinary user makes it. */
static void test_busybox_as_user(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		struct err err = ERR_INIT;

		/* Dumpable, as a program that this user started is: /proc/self is its own. */
		if (setgid(12345) || setuid(12345) || prctl(PR_SET_DUMPABLE, 1))
			_exit(2);
		if (busybox_build(NULL, 0, in("user.img"), &err)) {
			(void)fprintf(stderr, "%s\n", err_msg(&err));
			_exit(1);
		}
		_exit(0);
	}
	(void)waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	host_ok("cmp user.img a.img");
}

static void test_folder(void **state)
{
	struct ext4_spec spec = {.tree = in("tree"), .out = in("tree.img"), .label = "a label"};
	struct err err = ERR_INIT;

	(void)state;
	host_ok("mkdir -p tree/sub/deep 'tree/a name' && echo one > tree/one && ln tree/one "
		"tree/two && "
		"ln tree/one tree/sub/three && ln -s $(printf '%0100d' 1) tree/long && chown 7:8 "
		"tree/one && "
		"chmod 6755 tree/sub && { setfattr -n user.x -v y tree/one 2>/dev/null || true; }; "
		"head -c 3000000 /dev/urandom > tree/sub/deep/data; truncate -s 9000000 tree/hole");
	ok(ext4_build(&spec, &err), &err);
	host_ok("cp tree.img first.img; cat tree/one > /dev/null; touch -a tree/sub; chmod 755 "
		"tree/sub; chmod 6755 tree/sub");
	ok(ext4_build(&spec, &err), &err);
	host_ok("cmp tree.img first.img; e2fsck -fn tree.img");
	expect("debugfs -R 'stat /sub/three' tree.img 2>/dev/null | grep -oE '(User|Links): "
	       "*[0-9]+' | tr -s ' '",
		"User: 7\nLinks: 3\n");
	expect("debugfs -R 'cat /sub/deep/data' tree.img 2>/dev/null | cmp - tree/sub/deep/data && "
	       "echo same",
		"same\n");
	expect("dumpe2fs -h tree.img 2>/dev/null | grep -c 'a label'", "1\n");

	spec.size = 8u << 20;
	assert_int_equal(ext4_build(&spec, &err), -ENOSPC);
	assert_non_null(strstr(err_msg(&err), "do not fit into 8 MiB"));
	assert_int_equal(access(in("tree.img"), F_OK), -1);
	spec.size = 100u << 20;
	ok(ext4_build(&spec, &err), &err);
	host_ok("e2fsck -fn tree.img; test $(stat -c %s tree.img) = 104857600");
	spec.tree = "/no/such/folder";
	assert_int_equal(ext4_build(&spec, &err), -ENOENT);
}

static void test_import(void **state)
{
	struct err err = ERR_INIT;
	enum import_kind kind;

	(void)state;
	host_ok("mkdir -p i/etc i/dev && echo x > i/etc/file && chown 5:6 i/etc/file && tar -C i "
		"-czf i.tgz . && "
		"tar -C i -cf i.tar . && truncate -s 5000000 raw && printf start | dd of=raw "
		"conv=notrunc 2>/dev/null && "
		"printf end | dd of=raw bs=1 seek=4000000 conv=notrunc 2>/dev/null");
	ok(import_kind(in("i"), &kind, &err), &err);
	assert_int_equal(kind, IMPORT_FOLDER);
	ok(import_kind(in("i.tar"), &kind, &err), &err);
	assert_int_equal(kind, IMPORT_TAR);
	ok(import_kind(in("raw"), &kind, &err), &err);
	assert_int_equal(kind, IMPORT_RAW);
	ok(import_image(in("i"), 0, "i", in("1.img"), &err), &err);
	ok(import_image(in("i.tgz"), 0, "i", in("2.img"), &err), &err);
	ok(import_image(in("i.tar"), 32u << 20, "i", in("3.img"), &err), &err);
	host_ok("for i in 1 2 3; do e2fsck -fn $i.img; debugfs -R 'stat /etc/file' $i.img "
		"2>/dev/null | grep -q 'User:     5'; done");
	/* Room to work in, and sparse. */
	host_ok("test $(stat -c %s 1.img) -ge 67108864; test $(stat -c %b 1.img) -lt 24000");
	ok(import_image(in("raw"), 0, NULL, in("4.img"), &err), &err);
	host_ok("cmp raw 4.img; test $(stat -c %b 4.img) -lt 1000");
	assert_int_equal(import_image(in("raw"), 1u << 20, NULL, in("4.img"), &err), -EINVAL);
	assert_int_equal(import_image(in("nothing"), 0, NULL, in("5.img"), &err), -ENOENT);
	host_ok("head -c 30000 i.tgz | head -c 100 > broken.tgz");
	assert_int_equal(import_image(in("broken.tgz"), 0, NULL, in("5.img"), &err), -EIO);
	assert_non_null(strstr(err_msg(&err), "tar failed"));
}

static void test_modules(void **state)
{
	struct err err = ERR_INIT;
	uint64_t start;
	char release[64], path[PATH_MAX];

	(void)state;
	host_ok("linux.uml --version");
	(void)snprintf(release, sizeof(release), "%.*s", (int)strcspn(output, "\n"), output);
	start = proc_mono_ms();
	ok(modules_build("/usr/lib/uml/modules", release, in("m1.img"), &err), &err);
	print_message("modules image in %llu ms\n", (unsigned long long)(proc_mono_ms() - start));
	(void)snprintf(path, sizeof(path), "/usr/lib/uml/modules/%s/", release);
	ok(modules_build(path, release, in("m2.img"), &err), &err);
	host_ok("cmp m1.img m2.img; e2fsck -fn m1.img; dumpe2fs -h m1.img 2>/dev/null | grep "
		"features | grep -vq has_journal");
	expect("debugfs -R 'cat /modules.dep' m1.img 2>/dev/null | cmp - "
	       "/usr/lib/uml/modules/$(linux.uml --version)/modules.dep && echo same",
		"same\n");
	assert_int_equal(
		modules_build("/usr/lib/uml/modules", "1.2.3", in("m3.img"), &err), -ENOENT);
	assert_non_null(strstr(err_msg(&err), release));
	assert_int_equal(
		modules_build("/usr/lib/uml/modules", "../x", in("m3.img"), &err), -EINVAL);
	/* Lists that are missing are made, the folder stays as it is. */
	host_ok("mkdir -p mods/9.9.9/kernel/net && cp "
		"/usr/lib/uml/modules/*/kernel/net/ipv6/ipv6.ko "
		"/usr/lib/uml/modules/*/kernel/lib/crc-ccitt.ko mods/9.9.9/kernel/net/");
	if (tool_find("depmod", path, sizeof(path), NULL)) {
		assert_int_equal(modules_build(in("mods"), "9.9.9", in("m3.img"), &err), -ENOENT);
		assert_non_null(
			strstr(err_msg(&err), "depmod is not installed (Debian package kmod)"));
		return;
	}
	ok(modules_build(in("mods"), "9.9.9", in("m3.img"), &err), &err);
	expect("debugfs -R 'cat /modules.dep' m3.img 2>/dev/null | grep ipv6; ls mods/9.9.9",
		"kernel/net/ipv6.ko: kernel/net/crc-ccitt.ko\nkernel\n");
}

static void test_tool(void **state)
{
	const char *missing[] = {"no-such-tool", NULL};
	const char *fails[] = {"sh", "-c", "echo first >&2; echo 'the reason' >&2; exit 3", NULL};
	const char *reads[] = {"sh", "-c", "test $(wc -c) = 200000", NULL};
	const char *silent[] = {"sh", "-c", "exec 0<&-; exit 0", NULL};
	static char text[200001];
	struct tool tool = {.argv = missing};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(tool_run(&tool, &err), -ENOENT);
	assert_non_null(strstr(err_msg(&err), "no-such-tool is not installed"));
	tool.argv = fails;
	assert_int_equal(tool_run(&tool, &err), -EIO);
	assert_string_equal(err_msg(&err), "sh failed (status 3): the reason");
	memset(text, 'x', 200000);
	tool.input = text;
	tool.argv = reads;
	ok(tool_run(&tool, &err), &err);
	tool.argv = silent;
	ok(tool_run(&tool, &err), &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tool),
		cmocka_unit_test(test_busybox),
		cmocka_unit_test(test_busybox_as_user),
		cmocka_unit_test(test_folder),
		cmocka_unit_test(test_import),
		cmocka_unit_test(test_modules),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
