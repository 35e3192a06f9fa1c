/* Two whole agents move a guest between them: forth and back, stopped, cancelled, with
 * a spoiled copy, a full disk, and with either agent killed at every named point. */
#include "tests/unit/node-agent/movekit.h"

#include <sys/mount.h>
#include <sys/statvfs.h>

static int setup(void **state)
{
	struct world *w = kit_new();
	static const struct log_config quiet = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = 2};

	log_init(&quiet);
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	*state = w;
	return 0;
}

/* The guest is stopped from the beginning: it has no disk. */
static int setup_stopped(void **state)
{
	struct world *w = kit_new();

	w->run = false;
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	*state = w;
	return 0;
}

static int setup_never(void **state)
{
	struct world *w = kit_new();

	w->never = true;
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (size_t i = 0; i < 2; i++)
		if (w->hosts[i].pid && waitpid(w->hosts[i].pid, NULL, WNOHANG) != 0)
			w->hosts[i].pid = 0;
	kit_free(w);
	return 0;
}

static void some_more(struct world *w)
{
	kit_write(w, 20);
}

static void console(struct world *w, const struct host *h, const char *name, const char *text)
{
	char path[PATH_MAX];

	kit_path(w, h, name, path);
	ok(fs_write_atomic(path, text, strlen(text), 0600, &err));
}

static void assert_console(
	struct world *w, const struct host *h, const char *name, const char *text)
{
	char path[PATH_MAX];
	struct buf data;

	buf_init(&data);
	kit_path(w, h, name, path);
	ok(fs_read(path, 1 << 20, &data, &err));
	assert_string_equal(buf_text(&data), text);
	buf_free(&data);
}

/* ---------------------------------------------------------------- as it should be */

static void test_forth_and_back(void **state)
{
	struct world *w = *state;

	console(w, kit_source(w), "console.log", "the newest lines\n");
	console(w, kit_source(w), "console.log.1", "those before\n");
	w->on_small = some_more;
	for (unsigned i = 0; i < 6; i++) {
		kit_write(w, 40);
		kit_migrate(w);
		kit_moved(w);
		assert_int_equal(w->source, (i + 1) % 2);
		assert_console(w, kit_source(w), "console.log", "the newest lines\n");
		assert_console(w, kit_source(w), "console.log.1", "those before\n");
	}
}

static void test_nothing_changed(void **state)
{
	struct world *w = *state;

	kit_migrate(w);
	kit_moved(w);
	assert_true(kit_target(w)->wire_bytes < 256 * 1024);
}

/* The count of restarts goes with it. */
static void test_restarts(void **state)
{
	struct world *w = *state;
	struct kit_runner *r = fake_runner(kit_source(w)->fake, GUEST);

	/* Its agent is away: it finds the end, and starts it again. */
	kit_kill(kit_source(w));
	r->run = NULL;
	fake_end(r, 256 + 9, false);
	kit_source(w)->has_guest = kit_source(w)->guest_ready = false;
	kit_start(w, kit_source(w));
	kit_until_runs(w);
	assert_int_equal(kit_source(w)->restarts, 1);
	w->restarts = 1;
	kit_write(w, 10);
	kit_migrate(w);
	kit_moved(w);
}

static void until_final(struct world *w, const struct host *h)
{
	uint64_t end = proc_mono_ms() + 60000;

	while (!(h->has_guest && h->guest_final) && proc_mono_ms() < end) {
		loop_timer_arm(w->tick, 0);
		w->deadline = proc_mono_ms() + 50;
		ok(loop_run(w->loop, &err));
	}
	assert_true(h->has_guest && h->guest_final);
	assert_int_equal(h->guest_phase, UM__PHASE__FAILED);
	assert_int_equal(h->guest_exit, 3);
}

/* One that has done what it was for, and is not to be started again: nor is it by a move. */
static void test_ended(void **state)
{
	struct world *w = *state;

	kit_write(w, 10);
	/* Its agent is away meanwhile. */
	kit_kill(kit_source(w));
	fake_runner(kit_source(w)->fake, GUEST)->run = NULL;
	fake_end(fake_runner(kit_source(w)->fake, GUEST), 3, false);
	kit_source(w)->has_guest = kit_source(w)->guest_ready = false;
	kit_start(w, kit_source(w));
	until_final(w, kit_source(w));
	w->ended = true;
	kit_migrate(w);
	kit_moved(w);
	assert_int_equal(kit_source(w)->fake->starts, 0);
	until_final(w, kit_source(w));
	/* It is on the disk. */
	kit_kill(kit_source(w));
	kit_source(w)->has_guest = kit_source(w)->guest_final = false;
	kit_start(w, kit_source(w));
	until_final(w, kit_source(w));
	assert_int_equal(kit_source(w)->fake->starts, 0);
	/* And on from there. */
	kit_migrate(w);
	kit_moved(w);
	until_final(w, kit_source(w));
	assert_int_equal(kit_source(w)->fake->starts, 1); /* its only one */
}

static void test_stopped(void **state)
{
	struct world *w = *state;

	kit_write(w, 30);
	w->run = false;
	kit_migrate(w);
	kit_moved(w);
	assert_int_equal(kit_source(w)->fake->starts, 0);
	/* And on, though it never ran there. */
	kit_migrate(w);
	kit_moved(w);
	w->run = true;
	kit_phase(w, AT_SOURCE);
	kit_until_runs(w);
	kit_compare(w, kit_source(w));
}

static void test_never_ran(void **state)
{
	struct world *w = *state;

	kit_migrate(w);
	kit_moved(w);
	kit_migrate(w);
	kit_moved(w);
	w->run = true;
	kit_phase(w, AT_SOURCE);
	kit_until_runs(w);
	kit_write(w, 10);
	kit_migrate(w);
	kit_moved(w);
}

static void test_cancel(void **state)
{
	struct world *w = *state;

	w->cancel = true; /* when both have sealed */
	w->on_small = some_more;
	kit_write(w, 30);
	kit_migrate(w);
	kit_put_back(w);
	assert_int_equal(kit_source(w)->guest_epoch, w->epoch);
	w->cancel = false;
	kit_migrate(w);
	kit_moved(w);
}

/* ---------------------------------------------------------------- what goes wrong */

/* A bit of the copy turns over at the target before the guest is stopped. */
static void spoil(struct world *w)
{
	struct cow *cow = NULL;
	char path[PATH_MAX];
	uint8_t byte;
	int fd;

	some_more(w);
	(void)snprintf(path, sizeof(path), "%s/%s/moves/%016" PRIx64 "/cow", w->dir,
		kit_target(w)->name, w->move);
	ok(cow_open(path, false, &cow, &err));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	for (uint64_t at = 0; at < DISK; at += 512) {
		off_t where = (off_t)(cow_info(cow)->data_offset + at);

		if (cow_is_set(cow, at, NULL) != 1)
			continue;
		assert_int_equal(pread(fd, &byte, 1, where), 1);
		byte ^= 16;
		assert_int_equal(pwrite(fd, &byte, 1, where), 1);
		break;
	}
	(void)close(fd);
	cow_close(cow);
}

static void test_spoiled(void **state)
{
	struct world *w = *state;

	kit_write(w, 30);
	w->on_small = spoil;
	kit_migrate(w);
	kit_moved(w);
}

static void test_disk_full(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX];

	kit_write(w, 700); /* about 4 MiB */
	(void)snprintf(path, sizeof(path), "%s/%s/moves", w->dir, kit_target(w)->name);
	ok(fs_mkdirs(path, 0700, &err));
	assert_int_equal(mount("tmpfs", path, "tmpfs", MS_NOSUID, "size=1m"), 0);
	kit_migrate(w);
	/* The guest ran on all the time. */
	assert_int_equal(kit_source(w)->fake->stops, 0);
	assert_non_null(strstr(kit_source(w)->reason, "No space left"));
	kit_put_back(w);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	kit_migrate(w);
	kit_moved(w);
}

/* Not a byte is left at the target when the guest is already its own. */
static void fill_up(struct world *w)
{
	static const uint8_t piece[4096] = {1};
	char path[PATH_MAX];
	ssize_t n = 1;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s/filler", w->dir, kit_target(w)->name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (n > 0)
		n = write(fd, piece, sizeof(piece));
	assert_int_equal(errno, ENOSPC);
	(void)close(fd);
}

static void test_full_at_the_end(void **state)
{
	struct world *w = kit_new();
	char path[PATH_MAX];

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/%s", w->dir, w->hosts[1].name);
	ok(fs_mkdirs(path, 0711, &err));
	assert_int_equal(mount("tmpfs", path, "tmpfs", MS_NOSUID, "size=48m"), 0);
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	kit_write(w, 50);
	w->on_sealed = fill_up;
	kit_migrate(w);
	kit_moved(w);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	kit_free(w);
}

/* The rest of the file system at PATH is used up, but for LEFT bytes. */
static void fill(const char *path, uint64_t left)
{
	static uint8_t data[64 << 10];
	char file[PATH_MAX + 16];
	struct statvfs fs;
	int fd;

	(void)snprintf(file, sizeof(file), "%s/filler", path);
	fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	for (;;) {
		assert_int_equal(fstatvfs(fd, &fs), 0);
		if ((uint64_t)fs.f_bavail * fs.f_frsize <= left ||
			write(fd, data, left ? sizeof(data) : 4096) < 0)
			break;
	}
	(void)close(fd);
}

static void empty(const char *path)
{
	char file[PATH_MAX + 16];

	(void)snprintf(file, sizeof(file), "%s/filler", path);
	(void)unlink(file);
}

static void small_disk(struct world *w, const struct host *h, const char *name, const char *size,
	char path[PATH_MAX])
{
	(void)snprintf(path, PATH_MAX, "%s/%s/%s", w->dir, h->name, name);
	ok(fs_mkdirs(path, 0711, &err));
	assert_int_equal(mount("tmpfs", path, "tmpfs", MS_NOSUID, size), 0);
}

/* The target keeps room for its guests: refused before anything is sent. */
static void test_reserve(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX];
	struct statvfs fs;

	kit_write(w, 700); /* about 4 MiB */
	small_disk(w, kit_target(w), "moves", "size=32m", path);
	fill(path, 6 << 20); /* of which 4 are kept */
	kit_migrate(w);
	assert_int_equal(kit_source(w)->fake->stops, 0);
	assert_non_null(strstr(kit_source(w)->reason, "No space left"));
	assert_non_null(strstr(kit_source(w)->reason, "kept for guests"));
	assert_int_equal(kit_source(w)->bytes, 0);
	assert_int_equal(statvfs(path, &fs), 0);
	assert_true((uint64_t)fs.f_bavail * fs.f_frsize >= 5 << 20);
	kit_put_back(w);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	kit_migrate(w);
	kit_moved(w);
}

/* The image does not fit there: the move says so, and does not try for ever. */
static void test_store_full(void **state)
{
	struct world *w = kit_new();
	char path[PATH_MAX];

	(void)state;
	small_disk(w, kit_target(w), "store", "size=32m", path);
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	fill(path, 0);
	kit_migrate(w);
	assert_int_equal(kit_source(w)->fake->stops, 0);
	assert_non_null(strstr(kit_target(w)->reason, "cannot be had"));
	/* Whichever of them met the full disk first. */
	assert_true(
		strstr(kit_target(w)->reason, "image") || strstr(kit_target(w)->reason, "kernel"));
	kit_put_back(w);
	empty(path);
	kit_migrate(w);
	kit_moved(w);
	kit_kill(&w->hosts[1]);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	kit_free(w);
}

static char guests_path[PATH_MAX];

static void fill_guests(struct world *w)
{
	(void)w;
	fill(guests_path, 0);
}

/* At the source it cannot be written down that the guest is frozen: it never stops. */
static void test_source_full(void **state)
{
	struct world *w = kit_new();

	(void)state;
	small_disk(w, kit_source(w), "guests", "size=24m", guests_path);
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	kit_write(w, 20);
	w->on_small = fill_guests;
	kit_migrate(w);
	assert_int_equal(kit_source(w)->fake->stops, 0);
	assert_non_null(strstr(kit_source(w)->reason, "frozen cannot be written down"));
	kit_put_back(w);
	empty(guests_path);
	w->on_small = NULL;
	kit_migrate(w);
	kit_moved(w);
	assert_int_equal(umount2(guests_path, MNT_DETACH), 0);
	kit_free(w);
}

static void turn(struct world *w, uint64_t ms)
{
	loop_timer_arm(w->tick, 0);
	w->deadline = proc_mono_ms() + ms;
	ok(loop_run(w->loop, &err));
	w->deadline = proc_mono_ms() + 60000;
}

/* A move that waits with little left. */
static void until_small(struct world *w)
{
	uint64_t end = proc_mono_ms() + 60000;

	w->hold = true;
	w->move = ++w->counter;
	kit_phase(w, PREPARE);
	while (!kit_source(w)->small && proc_mono_ms() < end)
		turn(w, 50);
	assert_true(kit_source(w)->small);
}

/* No guest is stopped for a target that is not there. */
static void test_target_away(void **state)
{
	struct world *w = *state;

	kit_write(w, 30);
	until_small(w);
	kit_kill(kit_target(w));
	w->hold = false;
	turn(w, 3000);
	assert_int_equal(w->phase, FREEZE);
	assert_int_equal(kit_source(w)->fake->stops, 0);
	kit_start(w, kit_target(w));
	kit_run(w);
	kit_moved(w);
}

/* Of a move nothing can be read: it has failed, and the agent is there for the others. */
static void test_unreadable(void **state)
{
	struct world *w = *state;
	char path[PATH_MAX];

	kit_write(w, 30);
	until_small(w);
	kit_kill(kit_target(w));
	(void)snprintf(path, sizeof(path), "%s/%s/moves/%016" PRIx64 "/offer.pb", w->dir,
		kit_target(w)->name, w->move);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	kit_start(w, kit_target(w));
	kit_run(w);
	assert_int_equal(kit_source(w)->fake->stops, 0);
	kit_put_back(w);
	w->hold = false;
	kit_migrate(w);
	kit_moved(w);
}

/* Cancelled while the source reads a large disk for the last time, with the lock on it: the
 * guest starts at once, but not before that is gone. */
static void test_cancel_frozen(void **state)
{
	struct world *w = kit_new();
	struct cow *cow = NULL;
	char path[PATH_MAX];

	(void)state;
	w->disk_bytes = UINT64_C(256) << 20;
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	kit_write(w, 30);
	kit_path(w, kit_source(w), "cow", path);
	ok(cow_open(path, true, &cow, &err));
	for (uint64_t at = DISK; at < w->disk_bytes; at += 1 << 20)
		ok(cow_zero(cow, at, 1 << 20, &err));
	cow_close(cow);
	w->cancel_frozen = true;
	kit_migrate(w);
	kit_put_back(w);
	assert_int_equal(kit_source(w)->restarts, 0);
	w->cancel_frozen = false;
	kit_migrate(w);
	kit_moved(w);
	kit_free(w);
}

/* ---------------------------------------------------------------- crashes */

static void crash_at(const char *point, bool at_source)
{
	struct world *w = kit_new();

	(void)snprintf(w->hosts[at_source ? 0 : 1].crash, 32, "%s", point);
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	console(w, kit_source(w), "console.log", "what it said\n");
	w->on_small = some_more;
	kit_write(w, 200);
	kit_migrate(w);
	if (w->hosts[at_source ? 0 : 1].deaths != 1)
		fail_msg("nothing passed by %s", point);
	kit_moved(w);
	assert_console(w, kit_source(w), "console.log", "what it said\n");
	/* And home again. */
	kit_write(w, 10);
	kit_migrate(w);
	kit_moved(w);
	kit_free(w);
}

static void test_source_crashes(void **state)
{
	static const char *const points[] = {"move-offer", "move-have", "move-batch",
		"move-batch:3", "move-round", "move-flush", "move-frozen", "move-stopped",
		"move-last", "move-seal"};

	(void)state;
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		crash_at(points[i], true);
}

static void test_target_crashes(void **state)
{
	static const char *const points[] = {"move-fetched", "move-prepare", "move-prepared",
		"move-accept", "move-write", "move-write:2", "move-sync", "move-sealed",
		"move-rename", "move-start"};

	(void)state;
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		crash_at(points[i], false);
}

/* The target's agent is not there yet, so nobody can say where it is. */
static void until_told(struct world *w)
{
	uint64_t end = proc_mono_ms() + 60000;

	/* And for some looks more: it must not give up. */
	for (unsigned looks = 0; looks < 20 && proc_mono_ms() < end;) {
		loop_timer_arm(w->tick, 0);
		w->deadline = proc_mono_ms() + 50;
		ok(loop_run(w->loop, &err));
		looks +=
			kit_source(w)->has_move && kit_source(w)->guest_phase == UM__PHASE__RUNNING;
	}
	assert_true(kit_source(w)->has_move);
}

/* Both at once, while the copy is under way: it goes on where it was. */
static void both_restart(struct world *w, bool source_first)
{
	uint64_t before;

	kit_write(w, 700);
	until_small(w);
	before = kit_source(w)->bytes;
	assert_true(before > 3u << 20);
	kit_kill(&w->hosts[0]);
	kit_kill(&w->hosts[1]);
	kit_source(w)->bytes = 0;
	kit_start(w, &w->hosts[0]);
	if (source_first)
		until_told(w);
	kit_start(w, &w->hosts[1]);
	w->hold = false;
	w->on_small = some_more;
	kit_run(w);
	kit_moved(w);
	/* As now the other one is the source. */
	assert_true(kit_target(w)->bytes < 1u << 20);
}

static void test_both_restart(void **state)
{
	both_restart(*state, false);
}

static void test_source_first(void **state)
{
	both_restart(*state, true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_forth_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restarts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ended, setup_never, teardown),
		cmocka_unit_test_setup_teardown(test_stopped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_never_ran, setup_stopped, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spoiled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
		cmocka_unit_test(test_full_at_the_end),
		cmocka_unit_test_setup_teardown(test_reserve, setup, teardown),
		cmocka_unit_test(test_store_full),
		cmocka_unit_test(test_source_full),
		cmocka_unit_test_setup_teardown(test_target_away, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
		cmocka_unit_test(test_cancel_frozen),
		cmocka_unit_test_setup_teardown(test_both_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_source_first, setup, teardown),
		cmocka_unit_test(test_source_crashes),
		cmocka_unit_test(test_target_crashes),
	};

	kit_agent(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
