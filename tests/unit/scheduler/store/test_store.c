/* The store: one conformance suite for every implementation, then what only the
 * one on disk must stand: reopening, a second scheduler, damage, a full disk and
 * kill -9 in the middle of commits. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/loop.h"
#include "lib/str.h"
#include "scheduler/store/store.h"

#define DEADLINE_MS 30000
#define CALLS_MAX 512

struct call {
	int tag, rc;
	uint64_t revision;
};

struct world {
	char dir[64], url[128];
	struct loop *loop;
	struct loop_timer *deadline;
	struct store *store;
	struct err err;
	struct call calls[CALLS_MAX];
	size_t call_count;
	size_t wanted;
	bool waiting;
	enum store_health until;
	char seen[4096]; /* what range or a watch told, as text */
};

static const char *backend; /* "memory:" or "sqlite:", set by the group's set-up */

static void on_deadline(void *arg)
{
	(void)arg;
	fail_msg("the test took too long");
}

static void open_store(struct world *w)
{
	unit_ok(store_open(w->loop, w->url, &w->store, &w->err), &w->err);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	unit_dir_make(w->dir);
	if (strcmp(backend, "memory:") == 0)
		(void)snprintf(w->url, sizeof(w->url), "memory:");
	else
		(void)snprintf(w->url, sizeof(w->url), "sqlite:%s/cluster.db", w->dir);
	unit_ok(loop_new(&w->loop, &w->err), &w->err);
	unit_ok(loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &w->err),
		&w->err);
	loop_timer_arm(w->deadline, DEADLINE_MS);
	open_store(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	store_close(w->store);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
	(void)umount2(w->dir, MNT_DETACH); /* left behind by a test that failed */
	unit_dir_remove(w->dir);
	free(w);
	return 0;
}

static struct world *current; /* callbacks carry their number as the argument */

static void on_done(void *arg, int rc, uint64_t revision, const struct err *err)
{
	struct world *w = current;

	(void)err;
	assert_true(w->call_count < CALLS_MAX);
	w->calls[w->call_count++] =
		(struct call){.tag = (int)(intptr_t)arg, .rc = rc, .revision = revision};
	if (w->call_count >= w->wanted)
		w->waiting = false;
}

static void queue(struct world *w, int tag, const struct store_compare *compares, size_t n,
	const struct store_op *ops, size_t count)
{
	current = w;
	unit_ok(store_txn(
			w->store, compares, n, ops, count, on_done, (void *)(intptr_t)tag, &w->err),
		&w->err);
}

static void queue_put(struct world *w, int tag, const char *key, const char *value)
{
	const struct store_op op = {key, value, value ? strlen(value) : 0};

	queue(w, tag, NULL, 0, &op, 1);
}

static void wait_for(struct world *w, size_t calls)
{
	w->wanted = calls;
	w->waiting = w->call_count < calls;
	loop_run_while(w->loop, &w->waiting);
	assert_true(w->call_count >= calls);
}

static struct call put(struct world *w, const char *key, const char *value)
{
	queue_put(w, 0, key, value);
	wait_for(w, w->call_count + 1);
	return w->calls[--w->call_count];
}

static int note(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct world *w = arg;
	size_t n = strlen(w->seen);

	(void)snprintf(w->seen + n, sizeof(w->seen) - n, "%s=%.*s@%" PRIu64 " ", key,
		value ? (int)size : 1, value ? (const char *)value : "-", revision);
	return 0;
}

static void note_watch(
	void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	(void)note(arg, key, value, size, revision);
}

static const char *range(struct world *w, const char *prefix)
{
	w->seen[0] = 0;
	unit_ok(store_range(w->store, prefix, note, w, &w->err), &w->err);
	return w->seen;
}

/* ---------------------------------------------------------------- conformance */

static void test_put_get_delete(void **state)
{
	struct world *w = *state;

	assert_string_equal(range(w, ""), "");
	assert_int_equal(store_revision(w->store), 0);
	assert_int_equal(put(w, "b/2", "two").revision, 1);
	assert_int_equal(put(w, "b/1", "one").revision, 2);
	assert_int_equal(put(w, "a", "").revision, 3);
	assert_int_equal(put(w, "b0", "after").revision, 4);
	assert_string_equal(range(w, ""), "a=@3 b/1=one@2 b/2=two@1 b0=after@4 ");
	assert_string_equal(range(w, "b/"), "b/1=one@2 b/2=two@1 ");
	assert_int_equal(put(w, "b/1", "uno").revision, 5);
	assert_int_equal(put(w, "b/2", NULL).revision, 6);
	assert_int_equal(put(w, "never/there", NULL).rc, 0);
	assert_string_equal(range(w, "b/"), "b/1=uno@5 ");
	assert_int_equal(store_revision(w->store), 7);
	assert_int_equal(store_pending(w->store), 0);
}

static int same_bytes(void *arg, const char *key, const void *value, size_t size, uint64_t rev)
{
	(void)key, (void)rev;
	assert_int_equal(size, 5);
	assert_memory_equal(value, arg, 5);
	return 0;
}

static void test_bytes(void **state)
{
	struct world *w = *state;
	const char value[] = {0, 1, (char)0xff, 0, 'x'};
	const struct store_op op = {"bin", value, sizeof(value)};

	queue(w, 1, NULL, 0, &op, 1);
	wait_for(w, 1);
	unit_ok(store_range(w->store, "bin", same_bytes, (void *)(uintptr_t)value, &w->err),
		&w->err);
	/* Order is by bytes, not by a locale. */
	(void)put(w, "Z", "1");
	(void)put(w, "a", "1");
	(void)put(w, "\xc3\xa4", "1");
	(void)range(w, "");
	assert_true(strstr(w->seen, "Z=") < strstr(w->seen, "a="));
	assert_true(strstr(w->seen, "a=") < strstr(w->seen, "\xc3\xa4="));
}

static int stop_at_two(void *arg, const char *key, const void *value, size_t size, uint64_t rev)
{
	int *n = arg;

	(void)key, (void)value, (void)size, (void)rev;
	return ++*n == 2 ? -ECANCELED : 0;
}

static void test_range_ends_early(void **state)
{
	struct world *w = *state;
	int n = 0;

	for (int i = 0; i < 5; i++) {
		char key[16];

		(void)snprintf(key, sizeof(key), "k%d", i);
		(void)put(w, key, "v");
	}
	assert_int_equal(store_range(w->store, "", stop_at_two, &n, &w->err), -ECANCELED);
	assert_int_equal(n, 2);
}

static void test_transactions(void **state)
{
	struct world *w = *state;
	const struct store_op both[] = {{"x", "1", 1}, {"y", "1", 1}};
	struct store_compare compares[] = {{"x", 0}, {"y", 0}};

	/* Both are new: taken.  The same again: stale, nothing is done. */
	queue(w, 1, compares, 2, both, 2);
	queue(w, 2, compares, 2, (struct store_op[]){{"x", "2", 1}, {"z", "2", 1}}, 2);
	wait_for(w, 2);
	assert_int_equal(w->calls[0].rc, 0);
	assert_int_equal(w->calls[0].revision, 1);
	assert_int_equal(w->calls[1].rc, -ESTALE);
	assert_string_equal(range(w, ""), "x=1@1 y=1@1 ");
	assert_int_equal(store_revision(w->store), 1);
	/* One condition of two fails. */
	compares[0].revision = 1;
	queue(w, 3, compares, 2, both, 2);
	compares[1].revision = 1;
	queue(w, 4, compares, 2, (struct store_op[]){{"x", "4", 1}, {"y", NULL, 0}}, 2);
	/* A deleted key is at revision 0 again; a condition alone changes nothing. */
	queue(w, 5, (struct store_compare[]){{"y", 0}}, 1, NULL, 0);
	queue(w, 6, (struct store_compare[]){{"x", 1}}, 1, NULL, 0);
	wait_for(w, 6);
	assert_int_equal(w->calls[2].rc, -ESTALE);
	assert_int_equal(w->calls[3].rc, 0);
	assert_int_equal(w->calls[3].revision, 2);
	assert_int_equal(w->calls[4].rc, 0);
	assert_int_equal(w->calls[5].rc, -ESTALE);
	assert_string_equal(range(w, ""), "x=4@2 ");
	assert_int_equal(store_revision(w->store), 2);
}

static void test_grouping_keeps_order(void **state)
{
	struct world *w = *state;
	char last[32];

	for (int i = 0; i < 200; i++) {
		char value[16];

		(void)snprintf(value, sizeof(value), "%d", i);
		queue_put(w, i, "key", value);
		/* Some while a commit is under way, some waiting together. */
		if (i % 50 == 0)
			wait_for(w, (size_t)i / 2);
	}
	assert_true(store_pending(w->store) > 0);
	wait_for(w, 200);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(w->calls[i].tag, i);
		assert_int_equal(w->calls[i].rc, 0);
		assert_int_equal(w->calls[i].revision, i + 1);
	}
	(void)snprintf(last, sizeof(last), "key=199@200 ");
	assert_string_equal(range(w, ""), last);
}

static void test_watch(void **state)
{
	struct world *w = *state;
	struct store_watch *watch, *other;
	const struct store_op ops[] = {{"a/2", "y", 1}, {"b/1", "z", 1}, {"a/1", NULL, 0}};
	struct world told = {0};

	unit_ok(store_watch_open(w->store, "a/", note_watch, w, &watch, &w->err), &w->err);
	unit_ok(store_watch_open(w->store, "", note_watch, &told, &other, &w->err), &w->err);
	queue_put(w, 1, "a/1", "x");
	queue(w, 2, NULL, 0, ops, 3);
	queue(w, 3, (struct store_compare[]){{"a/2", 77}}, 1, ops, 1);
	wait_for(w, 3);
	assert_string_equal(w->seen, "a/1=x@1 a/2=y@2 a/1=-@2 ");
	assert_string_equal(told.seen, "a/1=x@1 a/2=y@2 b/1=z@2 a/1=-@2 ");
	store_watch_close(watch);
	queue_put(w, 4, "a/1", "again");
	wait_for(w, 4);
	assert_string_equal(w->seen, "a/1=x@1 a/2=y@2 a/1=-@2 ");
	store_watch_close(other);
	store_watch_close(NULL);
}

static void test_bounds(void **state)
{
	struct world *w = *state;
	char key[STORE_KEY_MAX + 2];
	uint8_t *value = calloc(1, STORE_VALUE_MAX + 1);
	struct store_op op = {key, value, 1};

	assert_non_null(value);
	memset(key, 'k', sizeof(key));
	key[STORE_KEY_MAX + 1] = 0;
	assert_int_equal(store_txn(w->store, NULL, 0, &op, 1, on_done, NULL, &w->err), -EINVAL);
	key[STORE_KEY_MAX] = 0;
	op.size = STORE_VALUE_MAX + 1;
	assert_int_equal(store_txn(w->store, NULL, 0, &op, 1, on_done, NULL, &w->err), -EINVAL);
	op.key = "";
	op.size = 1;
	assert_int_equal(store_txn(w->store, NULL, 0, &op, 1, on_done, NULL, &w->err), -EINVAL);
	assert_int_equal(store_pending(w->store), 0);
	op.key = key;
	op.size = STORE_VALUE_MAX;
	queue(w, 1, NULL, 0, &op, 1);
	wait_for(w, 1);
	assert_int_equal(w->calls[0].rc, 0);
	free(value);
}

/* A callback queues the next change: as the scheduler does. */
static int chain_left;

static void on_chain(void *arg, int rc, uint64_t revision, const struct err *err)
{
	struct world *w = arg;
	const struct store_op op = {"chain", "v", 1};

	(void)revision, (void)err;
	assert_int_equal(rc, 0);
	if (chain_left-- > 0)
		unit_ok(store_txn(w->store, NULL, 0, &op, 1, on_chain, w, &w->err), &w->err);
}

static void test_close_writes_the_queue(void **state)
{
	struct world *w = *state;
	const struct store_op op = {"chain", "v", 1};
	bool memory = strcmp(backend, "memory:") == 0;

	for (int i = 0; i < 50; i++)
		queue_put(w, i, "k", "v");
	chain_left = 3;
	unit_ok(store_txn(w->store, NULL, 0, &op, 1, on_chain, w, &w->err), &w->err);
	store_close(w->store);
	assert_int_equal(w->call_count, 50);
	for (int i = 0; i < 50; i++)
		assert_int_equal(w->calls[i].rc, 0);
	assert_int_equal(chain_left, -1);
	open_store(w);
	assert_string_equal(range(w, ""), memory ? "" : "chain=v@54 k=v@50 ");
	/* Also while a commit is under way. */
	queue_put(w, 100, "k", "w");
	wait_for(w, 51);
	queue_put(w, 101, "k", "x");
	queue_put(w, 102, "k", "y");
	store_close(w->store);
	w->store = NULL;
	assert_int_equal(w->call_count, 53);
}

static void test_bad_url(void **state)
{
	struct world *w = *state;
	struct store *none;

	assert_int_equal(store_open(w->loop, "etcd:x", &none, &w->err), -EINVAL);
	unit_says(&w->err, "sqlite:PATH");
}

/* ---------------------------------------------------------------- on disk */

static void check_integrity(const struct world *w)
{
	char path[128], out[64] = "";
	char *argv[] = {(char *)(uintptr_t) "sqlite3", path,
		(char *)(uintptr_t) "pragma integrity_check", NULL};
	char *envp[] = {NULL};
	posix_spawn_file_actions_t actions;
	int fds[2], status;
	pid_t pid;

	(void)snprintf(path, sizeof(path), "%s/cluster.db", w->dir);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
	assert_int_equal(posix_spawn_file_actions_adddup2(&actions, fds[1], 1), 0);
	assert_int_equal(posix_spawn(&pid, "/usr/bin/sqlite3", &actions, NULL, argv, envp), 0);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(fds[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(read(fds[0], out, sizeof(out) - 1) > 0);
	(void)close(fds[0]);
	assert_string_equal(out, "ok\n");
	assert_int_equal(status, 0);
}

static void reopen(struct world *w)
{
	store_close(w->store);
	w->store = NULL;
	open_store(w);
}

static void test_reopen(void **state)
{
	struct world *w = *state;

	(void)put(w, "a", "1");
	(void)put(w, "b", "2");
	(void)put(w, "a", "3");
	reopen(w);
	assert_string_equal(range(w, ""), "a=3@3 b=2@2 ");
	assert_int_equal(store_revision(w->store), 3);
	assert_int_equal(put(w, "c", "4").revision, 4);
	/* Conditions hold across the restart. */
	queue(w, 1, (struct store_compare[]){{"a", 3}}, 1, (struct store_op[]){{"a", "5", 1}}, 1);
	wait_for(w, 1);
	assert_int_equal(w->calls[0].rc, 0);
	store_close(w->store);
	w->store = NULL;
	check_integrity(w);
}

static void test_second_open_is_refused(void **state)
{
	struct world *w = *state;
	struct store *second = NULL;

	assert_int_equal(store_open(w->loop, w->url, &second, &w->err), -EBUSY);
	unit_says(&w->err, "in use by another scheduler");
	unit_says(&w->err, "cluster.db");
	assert_int_equal(put(w, "still", "good").rc, 0);
}

static void overwrite(const struct world *w, off_t at, size_t size)
{
	char path[128], junk[4096];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/cluster.db", w->dir);
	memset(junk, 0x5a, sizeof(junk));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, junk, size, at), size);
	(void)close(fd);
}

static void test_damage_is_refused(void **state)
{
	struct world *w = *state;

	(void)put(w, "a", "1");
	store_close(w->store);
	w->store = NULL;
	overwrite(w, 0, 100); /* the header */
	assert_int_equal(store_open(w->loop, w->url, &w->store, &w->err), -EBADMSG);
	unit_says(&w->err, "damaged");
	unit_says(&w->err, "backup");
	assert_null(w->store);
}

static void test_damaged_page_is_refused(void **state)
{
	struct world *w = *state;
	char value[3000];
	int rc;

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = 0;
	for (int i = 0; i < 50; i++) {
		char key[16];

		(void)snprintf(key, sizeof(key), "key%d", i);
		(void)put(w, key, value);
	}
	store_close(w->store);
	w->store = NULL;
	overwrite(w, 4096, 4096); /* the root page of the table */
	rc = store_open(w->loop, w->url, &w->store, &w->err);
	if (rc == 0)
		rc = store_range(w->store, "", note, w, &w->err);
	assert_int_equal(rc, -EBADMSG);
	unit_says(&w->err, "damaged");
}

static void test_newer_schema_is_refused(void **state)
{
	struct world *w = *state;
	char path[128];
	sqlite3 *db;

	store_close(w->store);
	w->store = NULL;
	(void)snprintf(path, sizeof(path), "%s/cluster.db", w->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 2", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	assert_int_equal(store_open(w->loop, w->url, &w->store, &w->err), -EPROTO);
	unit_says(&w->err, "newer Umlaut");
}

static void on_health(void *arg, enum store_health health, const char *why)
{
	struct world *w = arg;

	(void)snprintf(w->seen, sizeof(w->seen), "%d %s", (int)health, why);
	if (health == w->until)
		w->waiting = false;
}

static void until_health(struct world *w, enum store_health health)
{
	w->until = health;
	w->wanted = SIZE_MAX;
	w->waiting = store_health(w->store, NULL) != health;
	loop_run_while(w->loop, &w->waiting);
}

/* The next put is done, or is stuck. */
static bool put_goes(struct world *w, int tag, const char *value)
{
	char key[16];

	(void)snprintf(key, sizeof(key), "k%02d", tag);
	queue_put(w, tag, key, value);
	w->wanted = w->call_count + 1;
	w->until = STORE_STUCK;
	w->waiting = true;
	loop_run_while(w->loop, &w->waiting);
	return w->call_count == w->wanted;
}

static void disk_of(struct world *w, const char *options)
{
	store_close(w->store);
	w->store = NULL;
	if (mount("none", w->dir, "tmpfs", 0, options) < 0)
		skip();
	open_store(w);
	store_on_health(w->store, on_health, w);
}

/* What finds no room is kept, in its order, and done once there is room. */
static void test_full_disk(void **state)
{
	struct world *w = *state;
	char *value = malloc(100001);
	size_t done;
	int at = 0;

	assert_non_null(value);
	memset(value, 'v', 100000);
	value[100000] = 0;
	disk_of(w, "size=2m");
	assert_int_equal(store_health(w->store, NULL), STORE_LOW);
	while (at < 100 && put_goes(w, at, value))
		at++;
	assert_in_range(at, 2, 50);
	assert_int_equal(store_health(w->store, NULL), STORE_STUCK);
	assert_non_null(strstr(w->seen, "the disk is full"));
	/* Behind it, also when there would be room for this one. */
	done = w->call_count;
	queue_put(w, 98, "small", "x");
	queue_put(w, 99, "small", "y");
	loop_timer_arm(w->deadline, DEADLINE_MS);
	assert_int_equal(mount("none", w->dir, "tmpfs", MS_REMOUNT, "size=40m"), 0);
	wait_for(w, done + 3);
	for (size_t i = 0; i < w->call_count; i++) {
		assert_int_equal(w->calls[i].rc, 0);
		assert_int_equal(w->calls[i].revision, i + 1);
	}
	assert_int_equal(w->calls[done + 2].tag, 99);
	until_health(w, STORE_WELL);
	assert_string_equal(w->seen, "0 ");
	store_close(w->store);
	open_store(w);
	assert_int_equal(store_revision(w->store), (uint64_t)done + 3);
	free(value);
	store_close(w->store);
	w->store = NULL;
	assert_int_equal(umount(w->dir), 0);
}

static void fill_up(const struct world *w)
{
	char path[128], block[4096] = "";
	int fd;

	(void)snprintf(path, sizeof(path), "%s/filler", w->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	assert_int_equal(errno, ENOSPC);
	(void)close(fd);
}

/* Somebody else fills it: the reserve lets through what is under way.  Then it is stuck,
 * and what waits when it ends was not done. */
static void test_reserve(void **state)
{
	struct world *w = *state;
	char *value = malloc(1000001), path[128];
	uint64_t revision;
	int at = 0;

	assert_non_null(value);
	memset(value, 'v', 1000000);
	value[1000000] = 0;
	(void)snprintf(path, sizeof(path), "%s/cluster.db.reserve", w->dir);
	disk_of(w, "size=40m");
	assert_int_equal(store_health(w->store, NULL), STORE_WELL);
	assert_int_equal(access(path, F_OK), 0);
	fill_up(w);
	assert_true(put_goes(w, at++, value));
	assert_int_equal(store_health(w->store, NULL), STORE_LOW);
	assert_int_equal(access(path, F_OK), -1);
	assert_true(put_goes(w, at++, value));
	fill_up(w);
	while (at < 50 && put_goes(w, at, value))
		at++;
	assert_int_equal(store_health(w->store, NULL), STORE_STUCK);
	revision = store_revision(w->store);
	w->call_count = 0;
	queue_put(w, 98, "small", "x");
	store_close(w->store);
	w->store = NULL;
	assert_int_equal(w->call_count, 2);
	assert_int_equal(w->calls[0].rc, -ENOSPC);
	assert_int_equal(w->calls[1].rc, -ENOSPC);
	/* It begins, though full; and has a reserve again when there is room. */
	open_store(w);
	store_on_health(w->store, on_health, w);
	assert_int_equal(store_revision(w->store), revision);
	assert_int_equal(store_health(w->store, NULL), STORE_LOW);
	(void)snprintf(path, sizeof(path), "%s/filler", w->dir);
	assert_int_equal(unlink(path), 0);
	until_health(w, STORE_WELL);
	assert_int_equal(put(w, "more", "room").rc, 0);
	free(value);
	store_close(w->store);
	w->store = NULL;
	assert_int_equal(umount(w->dir), 0);
}

/* ---------------------------------------------------------------- kill -9 */

struct writer {
	struct store *store;
	uint64_t next;
	int fd;
};

static void on_written(void *arg, int rc, uint64_t revision, const struct err *err);

static void write_next(struct writer *w)
{
	char key[32];
	const struct store_op op = {key, "v", 1};

	(void)snprintf(key, sizeof(key), "n/%08" PRIu64, ++w->next);
	if (store_txn(w->store, NULL, 0, &op, 1, on_written, w, NULL) < 0)
		_exit(3);
}

static void on_written(void *arg, int rc, uint64_t revision, const struct err *err)
{
	struct writer *w = arg;

	(void)err;
	/* One change per number: the revision is the number. */
	if (rc < 0 || write(w->fd, &revision, sizeof(revision)) != sizeof(revision))
		_exit(4);
	write_next(w);
}

static void child(const char *url, int fd)
{
	struct writer w = {.fd = fd};
	struct loop *loop;

	if (loop_new(&loop, NULL) < 0 || store_open(loop, url, &w.store, NULL) < 0)
		_exit(2);
	w.next = store_revision(w.store);
	for (int i = 0; i < 8; i++) /* some at a time, so that commits are groups */
		write_next(&w);
	(void)loop_run(loop, NULL);
	_exit(5);
}

static int count_one(void *arg, const char *key, const void *value, size_t size, uint64_t rev)
{
	uint64_t *n = arg;

	(void)value, (void)size;
	/* None in the middle is missing. */
	assert_int_equal(strtoull(key + 2, NULL, 10), ++*n);
	assert_int_equal(rev, *n);
	return 0;
}

static void test_kill_loses_nothing(void **state)
{
	struct world *w = *state;
	uint64_t last = 0;

	store_close(w->store);
	w->store = NULL;
	for (int round = 0; round < 8; round++) {
		uint64_t told = 0, n = 0, wanted = last + 20 + (uint64_t)round * 7;
		int fds[2], status;
		pid_t pid;

		assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			child(w->url, fds[1]);
		(void)close(fds[1]);
		while (last < wanted && read(fds[0], &told, sizeof(told)) == sizeof(told))
			last = told;
		assert_int_equal(kill(pid, SIGKILL), 0);
		while (read(fds[0], &told, sizeof(told)) == sizeof(told))
			last = told;
		(void)close(fds[0]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		assert_true(last >= wanted);
		open_store(w);
		unit_ok(store_range(w->store, "n/", count_one, &n, &w->err), &w->err);
		assert_true(n >= last);
		assert_int_equal(store_revision(w->store), n);
		store_close(w->store);
		w->store = NULL;
		check_integrity(w);
		last = n;
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest both[] = {
		TEST(test_put_get_delete),
		TEST(test_bytes),
		TEST(test_range_ends_early),
		TEST(test_transactions),
		TEST(test_grouping_keeps_order),
		TEST(test_watch),
		TEST(test_bounds),
		TEST(test_close_writes_the_queue),
		TEST(test_bad_url),
	};
	const struct CMUnitTest disk[] = {
		TEST(test_reopen),
		TEST(test_second_open_is_refused),
		TEST(test_damage_is_refused),
		TEST(test_damaged_page_is_refused),
		TEST(test_newer_schema_is_refused),
		TEST(test_full_disk),
		TEST(test_reserve),
		TEST(test_kill_loses_nothing),
	};
	int failed;

	backend = "memory:";
	failed = cmocka_run_group_tests_name("store memory", both, NULL, NULL);
	backend = "sqlite:";
	failed += cmocka_run_group_tests_name("store sqlite", both, NULL, NULL);
	failed += cmocka_run_group_tests_name("store on disk", disk, NULL, NULL);
	return failed;
}
