#include "node-agent/fencer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
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
#include "node-agent/fencelist.h"

#define RETRY_MS 20 /* between two passes, at first */
#define RETRY_MAX_MS 500
#define QUIET_MS 2000 /* what was just being started has shown itself by then */

struct fencer {
	char state[PATH_MAX];
	struct fencelist *list;
	struct loop_child *child;
	bool lives; /* one that we started */
	int lock;   /* to see whether another agent's does */
};

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
		rc = fencelist_open(state, true, &f->list, err);
	if (rc == 0)
		rc = open_lock(state, &f->lock, err);
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

	fencelist_set_until(f->list, until);
	/* Should it end just now, the next renewal sees it. */
	if (f->lives || other_lives(f))
		return 0;
	rc = loop_child_open(loop, &spec, ended, f, &f->child, err);
	f->lives = rc == 0;
	return rc;
}

uint64_t fencer_left(const struct fencer *f)
{
	uint64_t until = fencelist_until(f->list), now = proc_boot_ms();

	return until > now ? until - now : 0;
}

int fencer_add(struct fencer *f, uint64_t uid, pid_t pid, struct err *err)
{
	return fencelist_add(f->list, uid, pid, err);
}

void fencer_drop(struct fencer *f, uint64_t uid)
{
	fencelist_drop(f->list, uid);
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
	fencelist_close(f->list);
	free(f);
}

/* ---------------------------------------------------------------- the process */

/* What cannot be read may be one. */
bool fencer_is_fenced(const char *dir)
{
	char path[PATH_MAX];
	Um__RunnerSpec *spec = NULL;
	struct buf data;
	bool fenced = true;
	int rc;

	buf_init(&data);
	rc = fs_join(path, sizeof(path), dir, RUNNERDIR_SPEC, NULL);
	if (rc == 0)
		rc = fs_read(path, RUNNERDIR_SPEC_MAX, &data, NULL);
	if (rc == 0 && data.size)
		spec = um__runner_spec__unpack(NULL, data.size, data.data);
	if (spec || rc == -ENOENT)
		fenced = spec && spec->fenced;
	um__runner_spec__free_unpacked(spec, NULL);
	buf_free(&data);
	return fenced;
}

/* One look at all that is to end.  What the agent has started since the lease was renewed
 * must not be killed late: `renewed` ends it. */
struct pass {
	const char *state;
	struct fencelist *list;
	bool only_looks; /* so that all that is needed is in memory */
	bool renewed;
	unsigned killed; /* or could not be; they are looked at again */
	unsigned unsure;
	struct log_rate *rate;
};

static bool may_kill(struct pass *p)
{
	if (p->only_looks)
		return false;
	p->renewed = p->renewed || proc_boot_ms() < fencelist_until(p->list);
	return !p->renewed;
}

static void failed(struct pass *p, const char *what, const struct err *err)
{
	p->unsure++;
	if (log_rate_pass(p->rate))
		log_error("a guest cannot be fenced; tried again", LOG_STR("folder", what),
			LOG_ERR(err));
}

/* From memory: no disk, whatever it does, keeps these alive. */
static void pass_list(struct pass *p)
{
	struct err err = ERR_INIT;
	struct proc_id id;

	for (size_t i = 0; i < FENCELIST_MAX && !p->renewed; i++) {
		int rc;

		if (!fencelist_get(p->list, i, &id) || !proc_alive(&id) || !may_kill(p))
			continue;
		rc = proc_kill(&id, SIGKILL, &err);
		if (rc < 0 && rc != -ESRCH)
			failed(p, "a process", &err);
		else if (rc == 0)
			p->killed++;
	}
}

/* Those that are not in the list: of an earlier agent, or just being started. */
static void pass_folders(struct pass *p)
{
	char guests[PATH_MAX], dir[PATH_MAX];
	struct err err = ERR_INIT;
	struct dirent *entry;
	DIR *d = NULL;

	if (p->renewed || fs_join(guests, sizeof(guests), p->state, "guests", NULL) < 0)
		return;
	d = opendir(guests);
	if (!d && errno != ENOENT) {
		(void)err_errno(&err, errno, "open");
		failed(p, guests, &err);
	}
	while (d && !p->renewed && (errno = 0, entry = readdir(d))) {
		int rc;

		if (entry->d_name[0] == '.' ||
			fs_join(dir, sizeof(dir), guests, entry->d_name, NULL) < 0 ||
			!fencer_is_fenced(dir) || !may_kill(p))
			continue;
		rc = runnerctl_kill(dir, &err);
		if (rc < 0)
			failed(p, dir, &err);
		else
			p->killed += rc > 0;
	}
	if (d && !p->renewed && errno) {
		(void)err_errno(&err, errno, "read");
		failed(p, guests, &err);
	}
	if (d)
		(void)closedir(d);
}

static void sleep_ms(uint64_t ms)
{
	const struct timespec t = {
		.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

	(void)clock_nanosleep(CLOCK_BOOTTIME, 0, &t, NULL);
}

/* The lease is over.  Again and again, until nothing of them has been seen for a while;
 * false: the lease was renewed meanwhile. */
static bool fence_all(const char *state, struct fencelist *list)
{
	uint64_t wait = RETRY_MS, seen_at = proc_boot_ms();
	struct log_rate rate = {0};
	bool told = false;

	for (;;) {
		struct pass p = {.state = state, .list = list, .rate = &rate};

		pass_list(&p);
		pass_folders(&p);
		if (p.killed && !told)
			log_warn("the lease has ended and no agent has renewed it: guests that may "
				 "be started elsewhere are killed",
				LOG_U64("guests", p.killed));
		told = told || p.killed;
		if (!may_kill(&p))
			return false;
		if (p.killed || p.unsure)
			seen_at = proc_boot_ms();
		else if (proc_boot_ms() - seen_at >= QUIET_MS)
			return true;
		sleep_ms(wait);
		wait = wait * 2 < RETRY_MAX_MS ? wait * 2 : RETRY_MAX_MS;
	}
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

/* All that will be needed is used once, so that it is in memory: the program is on a disk,
 * too. */
static void rehearse(const char *state, struct fencelist *list)
{
	struct log_rate rate = {0};
	struct pass p = {.state = state, .list = list, .only_looks = true, .rate = &rate};
	struct proc_id self;

	if (proc_identify(getpid(), &self, NULL) == 0)
		(void)proc_kill(&self, 0, NULL);
	pass_list(&p);
	pass_folders(&p);
}

int fencer_main(const char *state)
{
	struct fencelist *list;
	struct err err = ERR_INIT;
	int lock;

	if (open_lock(state, &lock, &err) < 0) {
		log_error("no guest would be fenced", LOG_ERR(&err));
		return 1;
	}
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return 0; /* another is at it */
	if (fencelist_open(state, false, &list, &err) < 0) {
		log_error("the lease cannot be read", LOG_ERR(&err));
		return 1;
	}
	write_pid(lock);
	rehearse(state, list);
	be_hard_to_kill();
	for (;;) {
		uint64_t end = fencelist_until(list);
		struct timespec t = {
			.tv_sec = (time_t)(end / 1000), .tv_nsec = (long)(end % 1000) * 1000000};

		if (proc_boot_ms() < end)
			(void)clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL);
		else if (fence_all(state, list))
			break;
	}
	fencelist_close(list);
	return 0;
}
