#include "guest/runnerctl_int.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "guest/cgroup.h"
#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/str.h"

#define SWEEP_MS 10000

int runnerctl_locked(const char *dir, struct err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX];
	int fd, rc = fs_join(path, sizeof(path), dir, RUNNERDIR_LOCK, err);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "open %s", path);
	rc = 0;
	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		rc = err_errno(err, errno, "lock %s", path);
	(void)close(fd);
	return rc < 0 ? rc : lock.l_type != F_UNLCK;
}

/* A small file of DIR as text. */
static int read_text(const char *dir, const char *name, char *text, size_t size, struct err *err)
{
	char path[PATH_MAX];
	struct buf data;
	int rc = fs_join(path, sizeof(path), dir, name, err);

	if (rc < 0)
		return rc;
	buf_init(&data);
	rc = fs_read(path, size - 1, &data, err);
	if (rc >= 0)
		rc = str_copy(text, size, buf_text(&data));
	buf_free(&data);
	return rc < 0 ? rc : 0;
}

int runnerctl_id_read(const char *dir, struct proc_id *out, struct err *err)
{
	char text[PROC_TEXT + 8];
	int rc = read_text(dir, RUNNERDIR_ID, text, sizeof(text), err);

	return rc < 0 ? rc : proc_parse(text, out, err);
}

int runnerctl_exit_read(const char *dir, Um__RunnerStatus **out, struct err *err)
{
	char path[PATH_MAX];
	struct buf data;
	Um__RunnerStatus *status;
	int rc = fs_join(path, sizeof(path), dir, RUNNERDIR_EXIT, err);

	if (rc < 0)
		return rc;
	buf_init(&data);
	rc = fs_read(path, RUNNERDIR_EXIT_MAX, &data, err);
	if (rc >= 0) {
		status = um__runner_status__unpack(NULL, data.size, data.data);
		if (status)
			*out = status;
		else
			rc = err_set(err, -EBADMSG, "%s is damaged", path);
	}
	buf_free(&data);
	return rc < 0 ? rc : 0;
}

Um__RunnerStatus *runnerctl_failed(const char *reason)
{
	Um__RunnerStatus *status = malloc(sizeof(*status));

	if (!status)
		return NULL;
	um__runner_status__init(status);
	status->phase = UM__PHASE__FAILED;
	status->exit_status = -1;
	status->reason = str_dup(reason);
	if (!status->reason) {
		free(status);
		return NULL;
	}
	return status;
}

static int exists(const char *dir, const char *name)
{
	char path[PATH_MAX];

	return fs_join(path, sizeof(path), dir, name, NULL) >= 0 && access(path, F_OK) == 0;
}

int runnerctl_look(
	const char *dir, enum runnerctl_found *found, Um__RunnerStatus **last, struct err *err)
{
	Um__RunnerStatus *status = NULL;
	int rc = runnerctl_locked(dir, err);

	if (rc < 0)
		return rc;
	if (rc > 0) {
		*found = RUNNERCTL_ALIVE;
		return 0;
	}
	rc = runnerctl_exit_read(dir, &status, err);
	if (rc == -ENOENT || rc == -EBADMSG) {
		if (rc == -ENOENT && !exists(dir, RUNNERDIR_ID)) {
			*found = RUNNERCTL_NONE;
			return 0;
		}
		status = runnerctl_failed("the runner was killed, or the host restarted");
		rc = status ? 0 : err_set(err, -ENOMEM, "out of memory");
	}
	if (rc < 0)
		return rc;
	*found = RUNNERCTL_ENDED;
	*last = status;
	return 0;
}

static int sweep_cgroup(const Um__RunnerSpec *spec, struct err *err)
{
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	int rc;

	if (!spec->cgroup[0])
		return 0;
	rc = cgroup_probe(
		(const char *const *)spec->cgroup_roots, spec->n_cgroup_roots, &host, err);
	if (rc >= 0)
		rc = cgroup_find(host, spec->cgroup, &cg, err);
	if (rc >= 0)
		rc = cgroup_end(cg, SWEEP_MS, err);
	cgroup_free(cg);
	cgroup_host_free(host);
	return rc;
}

/* Which control group it was is in runner.pb. */
static int sweep_processes(const char *dir, struct err *err)
{
	char path[PATH_MAX];
	struct buf data;
	Um__RunnerSpec *spec;
	int rc = fs_join(path, sizeof(path), dir, RUNNERDIR_SPEC, err);

	if (rc < 0)
		return rc;
	buf_init(&data);
	rc = fs_read(path, RUNNERDIR_SPEC_MAX, &data, err);
	/* Empty: the host lost its power, and nothing of the guest runs. */
	if (rc >= 0 && data.size) {
		spec = um__runner_spec__unpack(NULL, data.size, data.data);
		rc = spec ? sweep_cgroup(spec, err) : err_set(err, -EBADMSG, "%s is damaged", path);
		if (spec)
			um__runner_spec__free_unpacked(spec, NULL);
	}
	buf_free(&data);
	/* No runner.pb: the runner itself has forgotten the guest, and cleared all. */
	return rc == -ENOENT ? 0 : rc;
}

static void remove_name(const char *dir, const char *name)
{
	char path[PATH_MAX];

	if (fs_join(path, sizeof(path), dir, name, NULL) >= 0)
		(void)fs_remove_tree(path, NULL);
}

int runnerctl_sweep(const char *dir, struct err *err)
{
	static const char *const names[] = {
		RUNNERDIR_SOCK, RUNNERDIR_HOSTS, RUNNERDIR_UML, RUNNERDIR_REPLY, RUNNERDIR_ROOT};
	size_t i;
	int rc = runnerctl_locked(dir, err);

	if (rc != 0)
		return rc < 0 ? rc : err_set(err, -EBUSY, "the runner in %s lives", dir);
	rc = sweep_processes(dir, err);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		remove_name(dir, names[i]);
	return rc < 0 ? rc : 0;
}

int runnerctl_discard(const char *dir, struct err *err)
{
	int rc = runnerctl_sweep(dir, err);

	if (rc < 0)
		return rc;
	/* exit.pb before runner.id: without the latter it would still say "ended". */
	remove_name(dir, RUNNERDIR_SPEC);
	remove_name(dir, RUNNERDIR_EXIT);
	remove_name(dir, RUNNERDIR_ID);
	return 0;
}

int runnerctl_kill(const char *dir, struct err *err)
{
	struct proc_id id;
	int rc = runnerctl_locked(dir, err);

	if (rc <= 0)
		return rc;
	rc = runnerctl_id_read(dir, &id, err);
	if (rc < 0)
		return rc;
	rc = proc_kill(&id, SIGKILL, err);
	return rc == -ESRCH ? 0 : rc < 0 ? rc : 1;
}
