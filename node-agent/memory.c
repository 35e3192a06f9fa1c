#include "node-agent/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/memuse.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/agent.h"

struct job {
	char dir[PATH_MAX - 64], cow[PATH_MAX], image[PATH_MAX];
	struct memuse kernel, runner;
	uid_t uid; /* of the runner */
};

/* The runner and its guard have our name and its user; whatever name a guest's kernel
 * gives itself, it has a user of its own. */
static bool is_runner(const struct job *job, pid_t pid)
{
	char path[64];
	struct buf comm;
	struct stat st;
	bool ours;

	(void)str_format(path, sizeof(path), "/proc/%d", (int)pid);
	if (stat(path, &st) < 0 || st.st_uid != job->uid)
		return false;
	(void)str_format(path, sizeof(path), "/proc/%d/comm", (int)pid);
	buf_init(&comm);
	ours = fs_read(path, 64, &comm, NULL) >= 0 && str_starts(buf_text(&comm), "umlaut-");
	buf_free(&comm);
	return ours;
}

static int on_process(void *arg, pid_t pid)
{
	struct job *job = arg;

	/* One that has ended meanwhile holds nothing. */
	(void)memuse_add(pid, is_runner(job, pid) ? &job->runner : &job->kernel, NULL);
	return 0;
}

static int find_runner(const struct job *job, struct proc_id *id, struct err *err)
{
	char path[PATH_MAX];
	struct buf text;
	int rc = fs_join(path, sizeof(path), job->dir, RUNNERDIR_ID, err);

	buf_init(&text);
	if (rc >= 0)
		rc = fs_read(path, PROC_TEXT, &text, NULL);
	if (rc >= 0)
		rc = proc_parse(buf_text(&text), id, NULL);
	if (rc < 0 || !proc_alive(id))
		rc = err_set(err, -EAGAIN, "the guest does not run");
	buf_free(&text);
	return rc < 0 ? rc : 0;
}

static int make(void *arg, struct buf *out, struct err *err)
{
	struct job *job = arg;
	Um__MemoryReport r = UM__MEMORY_REPORT__INIT;
	struct memuse agent = {0};
	struct proc_id id;
	char path[64];
	struct stat st;
	uint8_t packed[256];
	int rc = find_runner(job, &id, err);

	if (rc < 0)
		return rc;
	(void)str_format(path, sizeof(path), "/proc/%d", (int)id.pid);
	if (stat(path, &st) < 0)
		return err_set(err, -EAGAIN, "the guest does not run");
	job->uid = st.st_uid;
	rc = memuse_tree(id.pid, on_process, job, err);
	if (rc < 0)
		return rc;
	(void)memuse_add(getpid(), &agent, NULL);
	r.guest = job->kernel.shmem;
	r.kernel = job->kernel.own;
	r.runner = job->runner.own + job->runner.shmem;
	r.tables = job->kernel.tables + job->runner.tables;
	r.processes = job->kernel.processes + job->runner.processes;
	r.agent = agent.own + agent.shmem + agent.tables;
	(void)memuse_cached(job->cow, &r.disk, NULL);
	if (*job->image)
		(void)memuse_cached(job->image, &r.image, NULL);
	buf_add(out, packed, um__memory_report__pack(&r, packed));
	return 0;
}

int memory_open(struct guest *g, const struct conlog_ops *ops, void *arg, struct conlog **out,
	struct err *err)
{
	struct job *job = calloc(1, sizeof(*job));
	struct conlog_maker maker = {.make = make, .free = free, .arg = job};

	if (!job)
		return err_set(err, -ENOMEM, "memory is short");
	(void)str_copy(job->dir, sizeof(job->dir), g->dir);
	(void)str_copy(job->image, sizeof(job->image), g->backing);
	(void)fs_join(job->cow, sizeof(job->cow), g->dir, "cow", NULL);
	return conlog_make(g->agent->loop, &maker, ops, arg, out, err);
}
