/* Records that are there and cannot be read are never taken for missing: that would cost a
 * disk.
 *
 * LDFLAGS: -Wl,--wrap=fs_read -Wl,--wrap=fs_remove_tree
 */
#include "node-agent/movedisk.h"
#include "tests/unit/node-agent/schedkit.h"

static const char *broken; /* paths with this in them cannot be read */

int __real_fs_read(const char *path, size_t limit, struct buf *out, struct err *err);
int __wrap_fs_read(const char *path, size_t limit, struct buf *out, struct err *err);
int __wrap_fs_read(const char *path, size_t limit, struct buf *out, struct err *err)
{
	if (broken && strstr(path, broken))
		return err_set(err, -EIO, "%s: planted", path);
	return __real_fs_read(path, limit, out, err);
}

static const char *stays; /* what has this in its path cannot be removed */
static unsigned removals;

int __real_fs_remove_tree(const char *path, struct err *err);
int __wrap_fs_remove_tree(const char *path, struct err *err);
int __wrap_fs_remove_tree(const char *path, struct err *err)
{
	if (!stays || !strstr(path, stays))
		return __real_fs_remove_tree(path, err);
	removals++;
	return err_set(err, -EROFS, "%s: planted", path);
}

static void put(const struct world *w, const char *name, const void *data, size_t size)
{
	char path[PATH_MAX], *slash;

	assert_int_equal(str_format(path, sizeof(path), "%s/%s", w->config.state, name) < 0, false);
	slash = strrchr(path, '/');
	*slash = '\0';
	assert_int_equal(fs_mkdirs(path, 0700, NULL), 0);
	*slash = '/';
	assert_int_equal(fs_write_atomic(path, data, size, 0600, NULL), 0);
}

static bool there(const struct world *w, const char *name)
{
	char path[PATH_MAX];

	(void)str_format(path, sizeof(path), "%s/%s", w->config.state, name);
	return access(path, F_OK) == 0;
}

/* The agent goes on while NAME cannot be read, and leaves KEPT alone, also when it hears that
 * the scheduler knows nothing of it. */
static void goes_on(struct world *w, const char *name, const char *kept)
{
	broken = name;
	restart_all(w);
	until(w, is_here, NULL);
	say_guests(w, true, 0, 0);
	assert_false(within(w, 500, never, NULL));
	broken = NULL;
	assert_true(there(w, kept));
	restart_all(w);
	assert_true(there(w, kept));
}

static void test_kept(void **state)
{
	struct world *w = *state;
	Um__AgentGuest local = UM__AGENT_GUEST__INIT;
	uint8_t packed[64];

	local.disk_generation = 1;
	local.runs = 3;
	put(w, "kept/0000000000000001/local.pb", packed, um__agent_guest__pack(&local, packed));
	put(w, "kept/0000000000000001/cow", "written", 7);
	until(w, is_here, NULL);
	broken = "kept/0000000000000001/local.pb";
	(void)want(w, 0);
	say_all(w);
	assert_false(within(w, 500, never, NULL));
	assert_true(there(w, "kept/0000000000000001/cow"));
	broken = NULL;
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.fresh, 0);
	assert_true(there(w, "guests/0000000000000001/cow"));
}

static void put_seal(struct world *w)
{
	static uint8_t digest[MOVE_DIGEST];
	Um__MoveSeal seal = UM__MOVE_SEAL__INIT;
	uint8_t packed[128];

	seal.move = 5;
	seal.digest = (ProtobufCBinaryData){.len = sizeof(digest), .data = digest};
	put(w, "moves/0000000000000005/sealed.pb", packed, um__move_seal__pack(&seal, packed));
	put(w, "moves/0000000000000005/cow", "moved", 5);
}

static void test_moves(void **state)
{
	struct world *w = *state;

	until(w, is_here, NULL);
	put(w, "moves/0000000000000005/offer.pb", "", 0);
	put_seal(w);
	goes_on(w, "moves/0000000000000005/offer.pb", "moves/0000000000000005/cow");
	/* Without a good offer, and not known whether it is whole. */
	goes_on(w, "moves/0000000000000005/sealed.pb", "moves/0000000000000005/cow");
	/* One that was never whole is nobody's. */
	put(w, "moves/0000000000000006/cow", "half", 4);
	restart_all(w);
	assert_false(there(w, "moves/0000000000000006"));
	assert_true(there(w, "moves/0000000000000005/cow"));
}

#define RECORD_OF_7 "orphans/0000000000000007/orphan.pb"

static void put_orphan(struct world *w)
{
	Um__OrphanDisk disk = UM__ORPHAN_DISK__INIT;
	uint8_t packed[128];

	until(w, is_here, NULL);
	disk.uid = 1;
	disk.epoch = 7;
	disk.name = (char *)(uintptr_t) "lab/a";
	put(w, RECORD_OF_7, packed, um__orphan_disk__pack(&disk, packed));
	put(w, "orphans/0000000000000007/cow", "written", 7);
}

static bool was_read(struct world *w, void *arg)
{
	(void)arg;
	return w->orphan.uid == 1;
}

static bool pruned(struct world *w, void *arg)
{
	(void)arg;
	return w->orphan.gone;
}

static void say_prune(struct world *w)
{
	Um__Desired d = UM__DESIRED__INIT;
	Um__GuestRemove r = UM__GUEST_REMOVE__INIT, *list = &r;

	r.uid = 1;
	r.epoch = 7;
	d.prune = &list;
	d.n_prune = 1;
	say(w, &d);
}

/* One that cannot be read is told of all the same, and does not stop the agent; when the
 * disk is well again it is known what it is. */
static void test_orphans(void **state)
{
	struct world *w = *state;

	put_orphan(w);
	put(w, "orphans/0000000000000007/runner.pb", "left", 4);
	put(w, "orphans/0000000000000008.gone/cow", "pruned", 6);
	broken = RECORD_OF_7;
	restart_all(w);
	until(w, is_here, NULL);
	assert_true(w->orphan.there && w->orphan.epoch == 7 && w->orphan.uid == 0);
	assert_non_null(strstr(w->orphan.reason, "planted"));
	broken = NULL;
	until(w, was_read, NULL);
	restart_all(w);
	until(w, is_here, NULL);
	assert_true(w->orphan.there && w->orphan.uid == 1);
	assert_false(there(w, "orphans/0000000000000007/runner.pb"));
	assert_false(there(w, "orphans/0000000000000008.gone"));
}

/* Nor is one without a record, or with a damaged one, forgotten: it can be pruned. */
static void test_orphan_damaged(void **state)
{
	struct world *w = *state;

	put_orphan(w);
	put(w, RECORD_OF_7, "\xff\xff", 2);
	restart_all(w);
	until(w, is_here, NULL);
	assert_true(w->orphan.there && w->orphan.epoch == 7);
	say_all(w);
	say_prune(w);
	until(w, pruned, NULL);
	assert_false(there(w, "orphans/0000000000000007"));
}

static bool many_removals(struct world *w, void *arg)
{
	(void)w;
	return removals >= (uintptr_t)arg;
}

/* A removal that fails is told once, and tried again after a while, however often the
 * scheduler, which asks when it hears of the orphan, asks for it. */
static void test_prune_fails(void **state)
{
	struct world *w = *state;
	unsigned reports;

	put_orphan(w);
	restart_all(w);
	until(w, is_here, NULL);
	say_all(w);
	stays = "orphans/0000000000000007";
	removals = 0;
	reports = w->orphan_reports;
	say_prune(w);
	for (unsigned i = 0; i < 20; i++) {
		assert_false(within(w, 25, never, NULL));
		say_prune(w);
	}
	assert_int_equal(removals, 1);
	assert_int_equal(w->orphan_reports, reports + 1);
	assert_non_null(strstr(w->orphan.reason, "planted"));
	until(w, many_removals, (void *)2);
	stays = NULL;
	until(w, pruned, NULL);
}

#define T(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_kept),
		T(test_moves),
		T(test_orphans),
		T(test_orphan_damaged),
		T(test_prune_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
