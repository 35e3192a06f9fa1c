#include "node-agent/fencer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "guest/runnerctl.h"
#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"

#define PAGE 4096

struct fencer {
	char state[PATH_MAX];
	_Atomic uint64_t *until; /* boot time, ms */
	struct loop_child *child;
	bool lives; /* one that we started */
	int lock;   /* to see whether another agent's does */
};

static int map_lease(const char *state, bool make, _Atomic uint64_t **out, struct err *err)
{
	char path[PATH_MAX];
	void *page;
	int fd, rc = fs_join(path, sizeof(path), state, "lease", err);

	if (rc < 0)
		return rc;
	fd = open(path, (make ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	/* Allocated: a full disk later on must not spoil it. */
	rc = make ? posix_fallocate(fd, 0, PAGE) : 0;
	if (rc)
		rc = err_errno(err, rc, "%s", path);
	if (rc == 0) {
		page = mmap(
			NULL, PAGE, make ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
		if (page == MAP_FAILED)
			rc = err_errno(err, errno, "map %s", path);
		else
			*out = page;
	}
	(void)close(fd);
	return rc;
}

static int open_lock(const char *state, int *out, struct err *err)
{
	char path[PATH_MAX];
	int fd, rc = fs_join(path, sizeof(path), state, "fencer.lock", err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	*out = fd;
	return 0;
}

/* ---------------------------------------------------------------- the agent's side */

int fencer_open(const char *state, struct fencer **out, struct err *err)
{
	struct fencer *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return err_set(err, -ENOMEM, "memory is short");
	f->lock = -1;
	rc = str_copy(f->state, sizeof(f->state), state);
	if (rc < 0)
		(void)err_set(err, rc, "the state folder's path is too long");
	else
		rc = map_lease(state, true, &f->until, err);
	if (rc == 0)
		rc = open_lock(state, &f->lock, err);
	/* Of another boot of the machine: the clock has begun anew. */
	if (rc == 0 && atomic_load(f->until) > proc_boot_ms() + 3600000)
		atomic_store(f->until, 0);
	if (rc < 0) {
		fencer_close(f);
		return rc;
	}
	*out = f;
	return 0;
}

static void ended(void *arg, int status)
{
	struct fencer *f = arg;

	(void)status;
	loop_child_close(f->child);
	f->child = NULL;
	f->lives = false;
}

/* One that an earlier agent started. */
static bool other_lives(struct fencer *f)
{
	if (flock(f->lock, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK;
	(void)flock(f->lock, LOCK_UN);
	return false;
}

int fencer_renew(struct fencer *f, struct loop *loop, uint64_t until, struct err *err)
{
	const char *const argv[] = {"/proc/self/exe", "--fence-for", f->state, NULL};
	const struct loop_child_spec spec = {
		.name = "fencer", .argv = argv, .detach = true, .cwd = "/"};
	int rc = 0;

	atomic_store(f->until, until);
	/* Should it end just now, the next renewal sees it. */
	if (f->lives || other_lives(f))
		return 0;
	rc = loop_child_open(loop, &spec, ended, f, &f->child, err);
	f->lives = rc == 0;
	return rc;
}

uint64_t fencer_left(const struct fencer *f)
{
	uint64_t until = atomic_load(f->until), now = proc_boot_ms();

	return until > now ? until - now : 0;
}

void fencer_stop(struct fencer *f)
{
	if (!f)
		return;
	loop_child_close(f->child);
	f->child = NULL;
}

/* Who has the lock has written who it is. */
void fencer_end(const char *state)
{
	char text[32] = "";
	uint64_t pid;
	int lock;

	if (open_lock(state, &lock, NULL) < 0)
		return;
	if (flock(lock, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK &&
		read(lock, text, sizeof(text) - 1) > 0 && str_u64(text, 2, INT32_MAX, &pid) == 0)
		(void)kill((pid_t)pid, SIGKILL);
	(void)close(lock);
}

void fencer_close(struct fencer *f)
{
	if (!f)
		return;
	fencer_stop(f);
	if (f->lock >= 0)
		(void)close(f->lock);
	if (f->until)
		(void)munmap((void *)(uintptr_t)f->until, PAGE);
	free(f);
}

/* ---------------------------------------------------------------- the process */

static bool is_fenced(const char *dir)
{
	char path[PATH_MAX];
	Um__RunnerSpec *spec = NULL;
	struct buf data;
	bool fenced = false;

	buf_init(&data);
	if (fs_join(path, sizeof(path), dir, RUNNERDIR_SPEC, NULL) == 0 &&
		fs_read(path, RUNNERDIR_SPEC_MAX, &data, NULL) == 0)
		spec = um__runner_spec__unpack(NULL, data.size, data.data);
	if (spec)
		fenced = spec->fenced;
	um__runner_spec__free_unpacked(spec, NULL);
	buf_free(&data);
	return fenced;
}

static bool over(_Atomic uint64_t *until)
{
	return proc_boot_ms() >= atomic_load(until);
}

/* KILL false: only looks, so that all that is needed is in memory.  False: the lease was
 * renewed meanwhile; what the agent has started since must not be killed late. */
static bool fence_all(const char *state, _Atomic uint64_t *until, bool kill_them)
{
	char guests[PATH_MAX], dir[PATH_MAX];
	struct err err = ERR_INIT;
	struct dirent *entry;
	unsigned killed = 0;
	bool renewed = false;
	DIR *d;

	if (fs_join(guests, sizeof(guests), state, "guests", NULL) < 0)
		return true;
	d = opendir(guests);
	while (d && (entry = readdir(d))) {
		if (entry->d_name[0] == '.' ||
			fs_join(dir, sizeof(dir), guests, entry->d_name, NULL) < 0 ||
			!is_fenced(dir) || !kill_them)
			continue;
		renewed = !over(until);
		if (renewed)
			break;
		if (runnerctl_kill(dir, &err) < 0)
			log_error(
				"a guest cannot be fenced", LOG_STR("folder", dir), LOG_ERR(&err));
		else
			killed++;
	}
	if (d)
		(void)closedir(d);
	if (!kill_them || (renewed && !killed))
		return !renewed;
	log_warn("the lease has ended and no agent has renewed it: guests that may be started "
		 "elsewhere are killed",
		LOG_U64("folders", killed), LOG_BOOL("renewed_meanwhile", renewed));
	return !renewed;
}

/* The machine may be short of everything just then. */
static void be_hard_to_kill(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, "-1000", 5);
		(void)close(fd);
	}
	(void)setpriority(PRIO_PROCESS, 0, -10);
	/* What is in memory now, not all that is mapped. */
	(void)mlockall(MCL_CURRENT | MCL_ONFAULT);
}

static void write_pid(int lock)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%d", (int)getpid());

	if (ftruncate(lock, 0) == 0)
		(void)!pwrite(lock, text, (size_t)n, 0);
}

int fencer_main(const char *state)
{
	_Atomic uint64_t *until;
	struct err err = ERR_INIT;
	int lock;

	if (open_lock(state, &lock, &err) < 0) {
		log_error("no guest would be fenced", LOG_ERR(&err));
		return 1;
	}
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return 0; /* another is at it */
	if (map_lease(state, false, &until, &err) < 0) {
		log_error("the lease cannot be read", LOG_ERR(&err));
		return 1;
	}
	write_pid(lock);
	(void)fence_all(state, until, false);
	be_hard_to_kill();
	for (;;) {
		uint64_t end = atomic_load(until);
		struct timespec t = {
			.tv_sec = (time_t)(end / 1000), .tv_nsec = (long)(end % 1000) * 1000000};

		if (proc_boot_ms() >= end) {
			if (fence_all(state, until, true))
				return 0;
			continue;
		}
		(void)clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL);
	}
}
