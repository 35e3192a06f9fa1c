/* A real guest that writes numbered records with fsync is moved forth and back between
 * two real agents: none is lost or repeated, its file system is clean each time it is
 * stopped, its console goes on where it was.  Skipped where there is no kernel, or the
 * programs are not built. */
#include "tests/unit/node-agent/movekit.h"

#include <libgen.h>

#define MOVES 20
#define KILLED_MOVES 8
#define TICKS 60 /* of 3 ms: between two kills, about */
#define IMAGE_BYTES (24 << 20)

static char bin[PATH_MAX + 32];

/* The console has a line for each record, after its fsync. */
static const char script[] =
	"[ -e /records ] || : > /records\n"
	"( n=$(tail -n 1 /records); n=${n:-0}\n"
	"while :; do\n"
	"  n=$((n + 1))\n"
	"  echo $n | dd of=/records oflag=append conv=notrunc,fsync 2>/dev/null || exit\n"
	"  echo record $n > /dev/console\n"
	"done ) </dev/null >/dev/null 2>&1 &\n";

static int run(const char *command)
{
	char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
		(char *)(uintptr_t)command, NULL};
	int status;
	pid_t pid;

	if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) != 0 ||
		waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *kernel(void)
{
	static char fast[PATH_MAX + 64];

	(void)snprintf(fast, sizeof(fast), "%s/../kernel/linux-fast", bin);
	return access(fast, X_OK) == 0 ? fast : "/usr/bin/linux.uml";
}

static bool find_programs(void)
{
	char path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);

	if (n < 0)
		return false;
	path[n] = '\0';
	/* BUILD/san/unit/node-agent/test_moves_guests, BUILD/bin */
	(void)snprintf(bin, sizeof(bin), "%s/../../../bin", dirname(path));
	(void)snprintf(path, sizeof(path), "%s/umlaut-agent", bin);
	return access(path, X_OK) == 0 && access(kernel(), X_OK) == 0 &&
	       access("/bin/busybox", X_OK) == 0;
}

static void make_artefacts(struct world *w)
{
	char command[PATH_MAX * 3], path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/root", w->dir);
	(void)snprintf(command, sizeof(command),
		"set -e; r=%s; mkdir -p $r/bin $r/sbin $r/proc $r/sys $r/dev $r/tmp $r/etc $r/run; "
		"cp /bin/busybox $r/bin/busybox; "
		"for a in sh dd tail echo sync; do ln -s busybox $r/bin/$a; done; "
		"mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d $r $r.img %dk",
		path, IMAGE_BYTES >> 10);
	assert_int_equal(run(command), 0);
	(void)snprintf(path, sizeof(path), "%s/root.img", w->dir);
	ok(imgstore_add_file(w->store, path, w->image, &err));
	(void)snprintf(path, sizeof(path), "%s/linux", w->dir);
	(void)snprintf(command, sizeof(command), "cp %s %s", kernel(), path);
	assert_int_equal(run(command), 0);
	ok(imgstore_add_file(w->store, path, w->kernel, &err));
}

/* The disk as one file: the image with what is in COW over it. */
static void merge(struct world *w, const char *cow_path, const char *out)
{
	char base[PATH_MAX];
	struct cow *cow = NULL;
	int from, to = open(out, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ok(imgstore_path(w->store, w->image, base, &err));
	from = open(base, O_RDONLY | O_CLOEXEC);
	assert_true(from >= 0 && to >= 0);
	ok(cow_open(cow_path, false, &cow, &err));
	ok(cow_check(cow, &err));
	ok(cow_merge(cow, from, to, NULL, &err));
	cow_close(cow);
	(void)close(from);
	(void)close(to);
}

static unsigned records;

/* At the target, before it is started there. */
static void check_disk(struct world *w)
{
	char path[PATH_MAX], out[128], command[1024];
	struct buf text;
	unsigned n = 0;

	(void)snprintf(path, sizeof(path), "%s/%s/moves/%016" PRIx64 "/cow", w->dir,
		kit_target(w)->name, w->move);
	(void)snprintf(out, sizeof(out), "%s/whole", w->dir);
	merge(w, path, out);
	(void)snprintf(command, sizeof(command),
		"e2fsck -fn %s > %s.log 2>&1 || { cat %s.log; exit 1; }; "
		"debugfs -R 'cat /records' %s > %s.records 2>/dev/null",
		out, out, out, out, out);
	assert_int_equal(run(command), 0);
	(void)snprintf(path, sizeof(path), "%s.records", out);
	buf_init(&text);
	ok(fs_read(path, 1 << 24, &text, &err));
	for (const char *at = buf_text(&text); *at; n++) {
		char *end;

		assert_int_equal(strtoul(at, &end, 10), n + 1);
		assert_int_equal(*end, '\n');
		at = end + 1;
	}
	buf_free(&text);
	/* All that there were before, and more. */
	assert_true(n > records);
	records = n;
}

/* Each record was said once, in order, from the first boot on.  One that was on the disk
 * when the guest was stopped may not have been said any more. */
static unsigned check_console(struct world *w)
{
	char path[PATH_MAX];
	struct buf text;
	unsigned n = 0;
	const char *at;

	kit_path(w, kit_source(w), "console.log", path);
	buf_init(&text);
	ok(fs_read(path, 1 << 24, &text, &err));
	at = buf_text(&text);
	while ((at = strstr(at, "record "))) {
		unsigned long number = strtoul(at + 7, NULL, 10);

		if (number <= n || number > n + 2)
			fail_msg("record %lu after %u", number, n);
		n = (unsigned)number;
		at += 7;
	}
	buf_free(&text);
	return n;
}

static bool wrote(struct world *w, unsigned more)
{
	static unsigned from;

	if (!more) {
		from = check_console(w);
		return true;
	}
	return check_console(w) >= from + more;
}

static void until_writes(struct world *w)
{
	uint64_t end = proc_mono_ms() + 20000;

	(void)wrote(w, 0);
	while (!wrote(w, 5)) {
		if (proc_mono_ms() > end)
			fail_msg("the guest writes nothing");
		w->deadline = proc_mono_ms() + 50;
		loop_timer_arm(w->tick, 0);
		ok(loop_run(w->loop, &err));
	}
}

static void move_it(struct world *w)
{
	until_writes(w);
	kit_migrate(w);
	if (!w->moved)
		fail_msg("not moved: '%s', '%s'", w->hosts[0].reason, w->hosts[1].reason);
}

static struct world *begin(void)
{
	struct world *w = kit_new();

	make_artefacts(w);
	w->bin = bin;
	w->script = script;
	w->on_sealed = check_disk;
	records = 0;
	kit_start(w, &w->hosts[0]);
	kit_start(w, &w->hosts[1]);
	kit_until_runs(w);
	return w;
}

static void end(struct world *w)
{
	char command[PATH_MAX * 2];

	kit_end(&w->hosts[0]);
	kit_end(&w->hosts[1]);
	for (size_t i = 0; i < 2; i++) {
		(void)snprintf(command, sizeof(command),
			"%s/umlaut-agent --purge --state=%s/%s --run-dir=%s/%s.run "
			"--log-level=error",
			bin, w->dir, w->hosts[i].name, w->dir, w->hosts[i].name);
		(void)run(command);
	}
	kit_free(w);
}

static void test_records(void **state)
{
	struct world *w;

	(void)state;
	if (!find_programs())
		skip();
	w = begin();
	for (unsigned i = 0; i < MOVES; i++)
		move_it(w);
	until_writes(w);
	assert_true(check_console(w) >= records);
	end(w);
}

/* Either agent is killed again and again, at any time; a move may then be put back. */
static void test_records_kills(void **state)
{
	struct world *w;
	unsigned moved = 0;

	(void)state;
	if (!find_programs())
		skip();
	w = begin();
	w->seed ^= proc_random_u64() | 1;
	print_message("seed %llu\n", (unsigned long long)w->seed);
	for (unsigned i = 0; i < KILLED_MOVES; i++) {
		until_writes(w);
		w->chaos = TICKS;
		kit_migrate(w);
		w->chaos = 0;
		kit_until_runs(w);
		moved += w->moved;
	}
	assert_true(moved > 0 && w->killed > 0);
	until_writes(w);
	assert_true(check_console(w) >= records);
	end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_records),
		cmocka_unit_test(test_records_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
