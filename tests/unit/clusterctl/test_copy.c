/* cp's two ends: packing and unpacking, and archives that mean harm. */
#include "clusterctl/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/tar.h"
#include "tests/unit/unit.h"

static char dir[64];

static const char *at(const char *name)
{
	static char path[8][256];
	static unsigned i;

	i = (i + 1) % 8;
	(void)snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void put(const char *name, const char *text, mode_t mode)
{
	struct err err = ERR_INIT;

	unit_ok(fs_write_atomic(at(name), text, strlen(text), mode, &err), &err);
}

static void expect_file(const char *name, const char *text, mode_t mode)
{
	struct buf b;
	struct stat st;
	struct err err = ERR_INIT;

	buf_init(&b);
	unit_ok(fs_read(at(name), 1 << 20, &b, &err), &err);
	assert_string_equal(buf_text(&b), text);
	assert_int_equal(lstat(at(name), &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
	buf_free(&b);
}

static int setup(void **state)
{
	(void)state;
	unit_dir_make(dir);
	(void)umask(022);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unit_dir_remove(dir);
	return 0;
}

/* The whole archive of PATH; pieces of STEP bytes are consumed at a time. */
static int pack(const char *path, size_t step, struct buf *out, struct err *err)
{
	struct packer *p;
	int rc = packer_new(path, "/remote", &p, err);

	while (rc == 0) {
		const uint8_t *data;
		size_t size;

		rc = packer_peek(p, &data, &size, err);
		if (rc < 0 || !size)
			break;
		if (size > step)
			size = step;
		buf_add(out, data, size);
		packer_consume(p, size);
	}
	if (rc == 0 || out->size)
		packer_free(p);
	return rc;
}

static int unpack(const struct buf *in, size_t step, const char *target, struct err *err)
{
	struct unpacker *u;
	int rc = unpacker_new(target, &u, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < in->size && rc == 0; i += step)
		rc = unpacker_add(u, in->data + i, in->size - i < step ? in->size - i : step, err);
	if (rc == 0)
		rc = unpacker_finish(u, err);
	unpacker_free(u);
	return rc;
}

static void run(const char *command)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		if (chdir(dir) < 0)
			_exit(126);
		(void)execl("/bin/sh", "sh", "-ec", command, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status)
		fail_msg("%s: %d", command, status);
}

static void make_tree(void)
{
	assert_int_equal(mkdir(at("tree"), 0755), 0);
	assert_int_equal(mkdir(at("tree/sub"), 0750), 0);
	assert_int_equal(mkdir(at("tree/shut"), 0500), 0);
	assert_int_equal(mkdir(at("tree/empty"), 0700), 0);
	put("tree/f", "hello", 0644);
	put("tree/sub/script", "#!/bin/sh\n", 0755);
	put("tree/sub/none", "", 0600);
	put("tree/shut/in", "x", 0400);
	assert_int_equal(symlink("sub/script", at("tree/link")), 0);
	assert_int_equal(symlink("/etc/passwd", at("tree/away")), 0);
	assert_int_equal(mkfifo(at("tree/pipe"), 0644), 0);
}

static void test_round_trip(void **state)
{
	struct err err = ERR_INIT;
	struct buf b, again;

	(void)state;
	make_tree();
	buf_init(&b);
	buf_init(&again);
	unit_ok(pack(at("tree"), 16384, &b, &err), &err);
	unit_ok(pack(at("tree/"), 1, &again, &err), &err);
	assert_int_equal(b.size, again.size);
	/* A pipe is left out; tar understands the rest. */
	unit_ok(fs_write_atomic(at("t.tar"), b.data, b.size, 0600, &err), &err);
	run("rm -f tree/pipe; mkdir by-tar; tar xpf t.tar --no-same-owner -C by-tar;"
	    "diff -r --no-dereference tree by-tar/tree");
	/* Into a folder, and under another name; whole, and in odd pieces. */
	assert_int_equal(mkdir(at("into"), 0755), 0);
	unit_ok(unpack(&b, 7, at("into"), &err), &err);
	unit_ok(unpack(&b, 100000, at("other"), &err), &err);
	run("for t in into/tree other; do diff -r --no-dereference tree $t;"
	    "for f in sub shut empty f sub/script; do"
	    " test $(stat -c %a tree/$f) = $(stat -c %a $t/$f); done; done");
	/* Again over what is there. */
	unit_ok(unpack(&b, 512, at("into"), &err), &err);
	buf_free(&b);
	buf_free(&again);
}

static void test_one_file(void **state)
{
	struct err err = ERR_INIT;
	struct buf b;
	struct stat st, st2;

	(void)state;
	buf_init(&b);
	put("one", "content\n", 0640);
	assert_int_equal(symlink("one", at("to-one")), 0);
	unit_ok(pack(at("one"), 99, &b, &err), &err);
	unit_ok(unpack(&b, 33, at("new-name"), &err), &err);
	expect_file("new-name", "content\n", 0640);
	assert_int_equal(stat(at("one"), &st), 0);
	assert_int_equal(stat(at("new-name"), &st2), 0);
	assert_int_equal(st.st_mtime, st2.st_mtime);
	/* A file that is a link here is replaced, what it names is left alone. */
	put("victim", "safe", 0600);
	assert_int_equal(symlink("victim", at("trap")), 0);
	unit_ok(unpack(&b, 33, at("trap"), &err), &err);
	expect_file("victim", "safe", 0600);
	expect_file("trap", "content\n", 0640);
	/* A link that is named itself is followed. */
	b.size = 0;
	unit_ok(pack(at("to-one"), 99, &b, &err), &err);
	unit_ok(unpack(&b, 512, at("followed"), &err), &err);
	expect_file("followed", "content\n", 0640);
	/* Cut off: an error, not a short file that looks whole. */
	b.size = 700;
	assert_int_equal(unpack(&b, 512, at("cut"), &err), -EBADMSG);
	b.size = 0;
	assert_int_equal(unpack(&b, 512, at("cut2"), &err), -ENOENT);
	buf_free(&b);
	assert_int_equal(pack(at("nothing"), 1, &b, &err), -ENOENT);
	assert_int_equal(pack("/dev/null", 1, &b, &err), -EINVAL);
	assert_int_equal(unpack(&b, 1, at("no/where"), &err), -ENOENT);
	assert_int_equal(unpack(&b, 1, at("one/"), &err), -ENOTDIR);
	assert_int_equal(unpack(&b, 1, "", &err), -ENAMETOOLONG);
}

struct member {
	enum tar_type type;
	const char *path, *link;
	uint32_t mode;
};

/* An archive of MEMBERS, each file with the content "evil", into the folder "jail". */
static int hostile(const struct member *members, size_t count, const char *target, struct err *err)
{
	struct buf b;
	int rc;

	buf_init(&b);
	for (size_t i = 0; i < count; i++) {
		struct tar_entry e = {.type = members[i].type, .mode = members[i].mode};

		(void)snprintf(e.path, sizeof(e.path), "%s", members[i].path);
		(void)snprintf(
			e.link, sizeof(e.link), "%s", members[i].link ? members[i].link : "");
		e.size = e.type == TAR_FILE ? 4 : 0;
		tar_header(&b, &e);
		if (e.type == TAR_FILE) {
			static const uint8_t zeros[TAR_BLOCK];

			buf_add(&b, "evil", 4);
			buf_add(&b, zeros, tar_padding(4));
		}
	}
	tar_end(&b);
	rc = unpack(&b, 512, target, err);
	buf_free(&b);
	return rc;
}

static void test_hostile(void **state)
{
	struct err err = ERR_INIT;
	const char *jail;
	static const struct {
		const char *what;
		size_t count;
		struct member m[3];
	} cases[] = {
		{"dots", 1, {{TAR_FILE, "../secret", NULL, 0644}}},
		{"inner dots", 2,
			{{TAR_DIR, "a", NULL, 0755}, {TAR_FILE, "a/../../secret", NULL, 0644}}},
		{"only dots", 1, {{TAR_FILE, "..", NULL, 0644}}},
		{"through a link", 2,
			{{TAR_SYMLINK, "l", "..", 0777}, {TAR_FILE, "l/secret", NULL, 0644}}},
		{"through an absolute link", 2,
			{{TAR_SYMLINK, "l", "/tmp", 0777},
				{TAR_FILE, "l/umlaut-evil", NULL, 0644}}},
		{"through an inner link", 3,
			{{TAR_DIR, "d", NULL, 0755}, {TAR_SYMLINK, "l", "d", 0777},
				{TAR_FILE, "l/f", NULL, 0644}}},
		{"folder over a link", 3,
			{{TAR_SYMLINK, "l", "..", 0777}, {TAR_DIR, "l", NULL, 0755},
				{TAR_FILE, "l/secret", NULL, 0644}}},
		{"hard link out", 1, {{TAR_HARDLINK, "h", "../secret", 0644}}},
		{"hard link through a link", 2,
			{{TAR_SYMLINK, "l", "..", 0777}, {TAR_HARDLINK, "h", "l/secret", 0644}}},
		{"hard link to the world", 1, {{TAR_HARDLINK, "h", "/etc/passwd", 0644}}},
	};

	(void)state;
	put("secret", "untouched", 0600);
	for (size_t i = 0; i < UNIT_COUNT(cases); i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "jail%zu", i);
		jail = at(name);
		assert_int_equal(mkdir(jail, 0755), 0);
		if (hostile(cases[i].m, cases[i].count, jail, &err) >= 0)
			fail_msg("taken: %s", cases[i].what);
		expect_file("secret", "untouched", 0600);
	}
	assert_int_equal(access("/tmp/umlaut-evil", F_OK), -1);
	/* Set-id bits are dropped; devices and pipes are left out. */
	assert_int_equal(mkdir(at("jail"), 0755), 0);
	{
		static const struct member m[] = {{TAR_FILE, "su", NULL, 06777},
			{TAR_CHAR, "dev", NULL, 0666}, {TAR_FIFO, "pipe", NULL, 0666}};

		unit_ok(hostile(m, 3, at("jail"), &err), &err);
		expect_file("jail/su", "evil", 0755);
		assert_int_equal(access(at("jail/dev"), F_OK), -1);
		assert_int_equal(access(at("jail/pipe"), F_OK), -1);
	}
	/* One thing was asked for under a new name, two came. */
	{
		static const struct member m[] = {
			{TAR_FILE, "a", NULL, 0644}, {TAR_FILE, "b", NULL, 0644}};

		assert_int_equal(hostile(m, 2, at("renamed"), &err), -EPERM);
		assert_int_equal(access(at("b"), F_OK), -1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_one_file),
		cmocka_unit_test(test_hostile),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
