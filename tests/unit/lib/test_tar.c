/* The tar writer and parser against each other, the host's tar, and damaged
 * archives. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/tar.h"
#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"

struct seen {
	struct tar_entry last;
	struct buf data;
	unsigned entries, done;
};

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	struct seen *s = arg;

	(void)err;
	s->last = *e;
	s->data.size = 0;
	s->entries++;
	return 0;
}

static int on_data(void *arg, const uint8_t *data, size_t size, struct err *err)
{
	struct seen *s = arg;

	(void)err;
	assert_true(size > 0);
	buf_add(&s->data, data, size);
	return 0;
}

static int on_done(void *arg, struct err *err)
{
	struct seen *s = arg;

	(void)err;
	assert_true(s->data.size == s->last.size);
	s->done++;
	return 0;
}

static const struct tar_ops ops = {.entry = on_entry, .data = on_data, .done = on_done};

/* Feeds the archive in pieces of STEP bytes; the result of the last call. */
static int feed(struct seen *s, const uint8_t *data, size_t size, size_t step, struct err *err)
{
	struct tar_reader r;
	size_t at;
	int rc = 0;

	memset(s, 0, sizeof(*s));
	buf_init(&s->data);
	tar_reader_init(&r, &ops, s);
	for (at = 0; rc == 0 && at < size; at += step)
		rc = tar_reader_add(&r, data + at, size - at < step ? size - at : step, err);
	if (rc == 0)
		rc = tar_reader_finish(&r, err);
	tar_reader_free(&r);
	buf_free(&s->data);
	return rc;
}

static void fill(char *text, size_t len, char c)
{
	memset(text, c, len);
	text[len] = '\0';
}

static void add(struct buf *out, const struct tar_entry *e, const char *content)
{
	static const uint8_t pad[TAR_BLOCK];

	tar_header(out, e);
	buf_add(out, content, strlen(content));
	buf_add(out, pad, tar_padding(strlen(content)));
}

static void test_round_trip(void **state)
{
	static const size_t lengths[] = {1, 99, 100, 101, 155, 256, 990, 991, 992, 4000};
	struct tar_entry e;
	struct seen s;
	struct buf out;
	size_t i, step;

	(void)state;
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct err err = ERR_INIT;

		buf_init(&out);
		memset(&e, 0, sizeof(e));
		e.type = i % 2 ? TAR_SYMLINK : TAR_FILE;
		fill(e.path, lengths[i], 'p');
		if (e.type == TAR_SYMLINK)
			fill(e.link, lengths[i], 'l');
		e.mode = 04751;
		e.uid = i > 4 ? 4000000000u : 33;
		e.gid = 70000000;
		e.mtime = i > 6 ? -5 : 1700000000;
		e.size = e.type == TAR_FILE ? 7 : 0;
		add(&out, &e, e.type == TAR_FILE ? "content" : "");
		tar_end(&out);
		assert_int_equal(out.size % TAR_BLOCK, 0);
		for (step = 1; step < 2000; step = step * 3 + 1) {
			if (feed(&s, out.data, out.size, step, &err))
				fail_msg("%s", err_msg(&err));
			assert_int_equal(s.entries, 1);
			assert_int_equal(s.done, 1);
			assert_string_equal(s.last.path, e.path);
			assert_string_equal(s.last.link, e.link);
			assert_int_equal(s.last.mode, e.mode);
			assert_int_equal(s.last.uid, e.uid);
			assert_int_equal(s.last.gid, e.gid);
			assert_true(s.last.mtime == e.mtime);
			assert_true(s.last.size == e.size && s.last.type == e.type);
		}
		buf_free(&out);
	}
}

/* A file larger than ustar can say: its header alone. */
static void test_huge_size(void **state)
{
	struct tar_entry e = {.type = TAR_FILE, .path = "huge", .size = 1ull << 40};
	struct err err = ERR_INIT;
	struct seen s;
	struct buf out;

	(void)state;
	buf_init(&out);
	tar_header(&out, &e);
	assert_int_equal(feed(&s, out.data, out.size, 512, &err), -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "middle of 'huge'"));
	assert_true(s.last.size == e.size);
	buf_free(&out);
}

static void test_padding(void **state)
{
	(void)state;
	assert_int_equal(tar_padding(0), 0);
	assert_int_equal(tar_padding(1), 511);
	assert_int_equal(tar_padding(512), 0);
	assert_int_equal(tar_padding(1025), 511);
}

/* The host's tar lists what we write as we meant it. */
static void test_against_tar(void **state)
{
	char name[] = "/tmp/umlaut-test-tar.XXXXXX", command[256], line[8192] = "";
	struct tar_entry e = {.type = TAR_DIR, .path = "d", .mode = 0755, .uid = 1, .gid = 2};
	struct err err = ERR_INIT;
	struct buf out;
	int fd = mkstemp(name), fds[2], status;
	pid_t pid;
	ssize_t n;
	size_t have = 0;

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	buf_init(&out);
	add(&out, &e, "");
	e.type = TAR_FILE;
	fill(e.path, 300, 'f');
	e.size = 3;
	e.mode = 0640;
	e.mtime = 86400;
	add(&out, &e, "abc");
	e.type = TAR_HARDLINK;
	(void)str_copy(e.path, sizeof(e.path), "h");
	fill(e.link, 300, 'f');
	add(&out, &e, "");
	tar_end(&out);
	assert_int_equal(fs_write_atomic(name, out.data, out.size, 0600, &err), 0);
	buf_free(&out);
	assert_int_equal(pipe(fds), 0);
	(void)snprintf(command, sizeof(command), "TZ=UTC tar --numeric-owner -tvf %s 2>&1", name);
	pid = fork();
	if (pid == 0) {
		(void)dup2(fds[1], 1);
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	while ((n = read(fds[0], line + have, sizeof(line) - have - 1)) > 0)
		have += (size_t)n;
	close(fds[0]);
	(void)waitpid(pid, &status, 0);
	(void)unlink(name);
	assert_int_equal(status, 0);
	assert_non_null(strstr(line, "drwxr-xr-x 1/2 "));
	assert_non_null(strstr(line, " 0 1970-01-01 00:00 d/\n"));
	assert_non_null(strstr(line, "-rw-r----- 1/2 "));
	assert_non_null(strstr(line, " 3 1970-01-02 00:00 fff"));
	assert_non_null(strstr(line, " h link to fff"));
}

/* Any byte changed: an answer, never a crash, and bounded memory. */
static void test_damage(void **state)
{
	struct tar_entry e = {.type = TAR_FILE, .mode = 0600, .size = 600, .mtime = -1};
	static char content[601];
	struct buf out;
	struct seen s;
	unsigned refused = 0, i;

	(void)state;
	fill(content, 600, 'c');
	fill(e.path, 2000, 'p');
	buf_init(&out);
	add(&out, &e, content);
	add(&out, &e, content);
	tar_end(&out);
	for (i = 0; i < 20000; i++) {
		size_t at = (size_t)(proc_random_u64() % out.size);
		uint8_t old = out.data[at];
		struct err err = ERR_INIT;
		size_t cut = i % 5 ? out.size : (size_t)(proc_random_u64() % out.size);

		out.data[at] = (uint8_t)proc_random_u64();
		if (feed(&s, out.data, cut, 1 + (size_t)(proc_random_u64() % 1500), &err)) {
			assert_true(err.code < 0 && *err_msg(&err));
			refused++;
		}
		out.data[at] = old;
	}
	assert_true(refused > 5000);
	buf_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_huge_size),
		cmocka_unit_test(test_padding),
		cmocka_unit_test(test_against_tar),
		cmocka_unit_test(test_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
