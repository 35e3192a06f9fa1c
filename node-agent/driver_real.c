/* The driver of real guests: runnerctl, cow, overlay, cgroup. */
#include "node-agent/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/cgroup.h"
#include "guest/cow.h"
#include "guest/runnerdir.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/fencer.h"

struct real {
	struct fencer *fencer;
	struct overlay *overlay;
	struct cgroup_host *cgroups;
	char runner[PATH_MAX], netns[PATH_MAX], cgroup[128];
};

struct driver_run {
	struct runnerctl *rc;
	struct fencer *fencer;
	bool fenced;
	uint64_t uid; /* once it is among those that the fencer knows; 0: it is not */
	const struct driver_events *events;
	void *arg;
};

/* ---------------------------------------------------------------- runners */

/* The owner may close, and so free, the run in each of these: it is not touched
 * afterwards. */
static void on_hello(void *arg, struct runnerctl *rc, const Um__RunnerHello *hello)
{
	struct driver_run *run = arg;
	struct err err = ERR_INIT;

	(void)rc;
	if (run->fenced && !run->uid) {
		if (fencer_add(run->fencer, hello->uid, hello->pid, &err) < 0)
			log_warn("a guest is fenced by its folder only", LOG_ERR(&err));
		else
			run->uid = hello->uid;
	}
	run->events->on_hello(run->arg);
}

static void on_status(void *arg, struct runnerctl *rc, const Um__RunnerStatus *status)
{
	struct driver_run *run = arg;

	(void)rc;
	run->events->on_status(run->arg, status);
}

static void on_message(void *arg, struct runnerctl *rc, const Um__Envelope *env)
{
	struct driver_run *run = arg;

	(void)rc;
	run->events->on_message(run->arg, env);
}

static void on_lost(void *arg, struct runnerctl *rc, const struct err *err)
{
	struct driver_run *run = arg;

	(void)rc;
	run->events->on_lost(run->arg, err);
}

static void on_gone(void *arg, struct runnerctl *rc, const Um__RunnerStatus *last)
{
	struct driver_run *run = arg;

	(void)rc;
	if (run->uid)
		fencer_drop(run->fencer, run->uid);
	run->events->on_gone(run->arg, last);
}

static const struct runnerctl_ops runner_ops = {.on_hello = on_hello,
	.on_status = on_status,
	.on_message = on_message,
	.on_lost = on_lost,
	.on_gone = on_gone};

static struct driver_run *new_run(struct real *real, bool fenced,
	const struct driver_events *events, void *arg, struct err *err)
{
	struct driver_run *run = calloc(1, sizeof(*run));

	if (!run) {
		(void)err_set(err, -ENOMEM, "memory is short");
		return NULL;
	}
	run->fencer = real->fencer;
	run->fenced = fenced;
	run->events = events;
	run->arg = arg;
	return run;
}

static int real_look(void *self, const char *dir, enum runnerctl_found *found,
	Um__RunnerStatus **last, struct err *err)
{
	(void)self;
	return runnerctl_look(dir, found, last, err);
}

static int real_start(void *self, struct loop *loop, const char *dir, const Um__RunnerSpec *spec,
	const struct driver_events *events, void *arg, struct driver_run **out, struct err *err)
{
	struct real *real = self;
	struct driver_run *run = new_run(real, spec->fenced, events, arg, err);
	int rc;

	if (!run)
		return -ENOMEM;
	rc = runnerctl_start(loop, real->runner, dir, spec, &runner_ops, run, &run->rc, err);
	if (rc < 0) {
		free(run);
		return rc;
	}
	*out = run;
	return 0;
}

static int real_adopt(void *self, struct loop *loop, const char *dir,
	const struct driver_events *events, void *arg, struct driver_run **out, struct err *err)
{
	struct driver_run *run = new_run(self, fencer_is_fenced(dir), events, arg, err);
	int rc;

	if (!run)
		return -ENOMEM;
	rc = runnerctl_adopt(loop, dir, &runner_ops, run, &run->rc, err);
	if (rc < 0) {
		free(run);
		return rc;
	}
	*out = run;
	return 0;
}

static void real_close(struct driver_run *run)
{
	if (!run)
		return;
	runnerctl_close(run->rc);
	free(run);
}

static bool real_up(const struct driver_run *run)
{
	return runnerctl_up(run->rc);
}

static int real_stop(struct driver_run *run, uint32_t timeout_ms, bool force, struct err *err)
{
	return runnerctl_stop(run->rc, timeout_ms, force, err);
}

static int real_forget(struct driver_run *run, struct err *err)
{
	return runnerctl_forget(run->rc, err);
}

static int real_hosts(struct driver_run *run, const Um__HostsUpdate *update, struct err *err)
{
	return runnerctl_hosts(run->rc, update, err);
}

static uint64_t real_id(struct driver_run *run)
{
	return runnerctl_id(run->rc);
}

static int real_send(struct driver_run *run, Um__Envelope *env, struct err *err)
{
	return runnerctl_send(run->rc, env, err);
}

static int real_kill(void *self, const char *dir, struct err *err)
{
	int rc = runnerctl_kill(dir, err);

	(void)self;
	return rc < 0 ? rc : 0;
}

static int real_discard(void *self, const char *dir, struct err *err)
{
	(void)self;
	return access(dir, F_OK) < 0 && errno == ENOENT ? 0 : runnerctl_discard(dir, err);
}

/* ---------------------------------------------------------------- disks */

static int make_cow(const struct driver_disk *disk, const struct stat *base, struct err *err)
{
	const struct cow_spec spec = {
		.backing = RUNNERDIR_JAIL_BASE,
		.size = (uint64_t)base->st_size,
		.mtime = (uint32_t)base->st_mtime,
		.mode = 0600,
		.uid = disk->uid,
		.gid = (gid_t)disk->uid,
	};

	if (unlink(disk->path) < 0 && errno != ENOENT)
		return err_errno(err, errno, "remove %s", disk->path);
	return cow_create(disk->path, &spec, err);
}

static int check_cow(const struct driver_disk *disk, int base, struct err *err)
{
	struct cow *cow = NULL;
	struct stat st;
	int rc = cow_open(disk->path, false, &cow, err);

	if (rc < 0)
		return rc;
	rc = cow_check_backing(cow, base, err);
	if (rc == 0 && fstat(cow_fd(cow), &st) < 0)
		rc = err_errno(err, errno, "%s", disk->path);
	/* It may have been another slot's, before it was set aside. */
	if (rc == 0 && st.st_uid != disk->uid &&
		fchown(cow_fd(cow), disk->uid, (gid_t)disk->uid) < 0)
		rc = err_errno(err, errno, "own %s", disk->path);
	cow_close(cow);
	return rc;
}

static int real_disk(void *self, const struct driver_disk *disk, struct err *err)
{
	struct stat st;
	int base = open(disk->backing, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc;

	(void)self;
	if (base < 0)
		return err_errno(err, errno, "%s", disk->backing);
	if (fstat(base, &st) < 0)
		rc = err_errno(err, errno, "%s", disk->backing);
	else
		rc = disk->fresh ? make_cow(disk, &st, err) : check_cow(disk, base, err);
	(void)close(base);
	return rc;
}

/* ---------------------------------------------------------------- networks */

static const char *real_netns(void *self)
{
	struct real *real = self;

	return real->netns;
}

static int real_net(void *self, uint32_t vni, const char *name, uint32_t mtu, struct err *err)
{
	struct real *real = self;

	return overlay_net(real->overlay, vni, name, mtu, err);
}

static int real_guard(void *self, uint32_t vni, const struct overlay_guard *guard, struct err *err)
{
	struct real *real = self;

	return overlay_guard(real->overlay, vni, guard, err);
}

static int real_net_remove(void *self, uint32_t vni, struct err *err)
{
	struct real *real = self;

	return overlay_net_remove(real->overlay, vni, err);
}

static int real_members(void *self, uint32_t vni, bool full, const struct overlay_member *members,
	size_t count, const struct net_mac *removed, size_t removed_count, struct err *err)
{
	struct real *real = self;

	return overlay_members(
		real->overlay, vni, full, members, count, removed, removed_count, err);
}

static int real_port(void *self, uint32_t vni, uint32_t slot, uint32_t nic, uid_t uid,
	const struct overlay_member *member, char ifname[OVERLAY_IFNAME], struct err *err)
{
	struct real *real = self;

	return overlay_port(real->overlay, vni, slot, nic, uid, member, ifname, err);
}

static int real_port_remove(void *self, uint32_t slot, uint32_t nic, struct err *err)
{
	struct real *real = self;

	return overlay_port_remove(real->overlay, slot, nic, err);
}

static int real_keep_only(void *self, const uint32_t *vnis, size_t vni_count, const uint32_t *slots,
	size_t slot_count, struct err *err)
{
	struct real *real = self;

	return overlay_keep_only(real->overlay, vnis, vni_count, slots, slot_count, err);
}

/* ---------------------------------------------------------------- usage */

static int real_usage(void *self, struct driver_usage *out, struct err *err)
{
	struct real *real = self;
	struct cgroup_usage usage;
	struct cgroup *cg = NULL;
	int rc = cgroup_find(real->cgroups, real->cgroup, &cg, err);

	if (rc < 0)
		return rc;
	rc = cgroup_usage(cg, &usage, err);
	cgroup_free(cg);
	if (rc < 0)
		return rc;
	out->memory_bytes = usage.has_memory ? usage.memory_bytes : 0;
	out->cpu_us = usage.has_cpu ? usage.cpu_us : 0;
	return 0;
}

static int real_lease(void *self, struct loop *loop, uint64_t until, struct err *err)
{
	struct real *real = self;

	return fencer_renew(real->fencer, loop, until, err);
}

static uint64_t real_lease_left(void *self)
{
	struct real *real = self;

	return fencer_left(real->fencer);
}

static const struct driver_ops ops = {
	.look = real_look,
	.start = real_start,
	.adopt = real_adopt,
	.close = real_close,
	.up = real_up,
	.stop = real_stop,
	.forget = real_forget,
	.hosts = real_hosts,
	.id = real_id,
	.send = real_send,
	.kill = real_kill,
	.discard = real_discard,
	.disk = real_disk,
	.netns = real_netns,
	.net = real_net,
	.guard = real_guard,
	.net_remove = real_net_remove,
	.members = real_members,
	.port = real_port,
	.port_remove = real_port_remove,
	.keep_only = real_keep_only,
	.lease = real_lease,
	.lease_left = real_lease_left,
	.usage = real_usage,
};

int driver_real_open(const struct driver_real_config *config, struct driver *out, struct err *err)
{
	const struct overlay_config overlay = {.netns_path = config->netns_path,
		.vtep = config->vtep,
		.vxlan_port = config->vxlan_port};
	struct real *real = calloc(1, sizeof(*real));
	struct driver driver = {.ops = &ops, .self = real};
	int rc;

	if (!real)
		return err_set(err, -ENOMEM, "memory is short");
	if (str_copy(real->runner, sizeof(real->runner), config->runner) < 0 ||
		str_copy(real->netns, sizeof(real->netns), config->netns_path) < 0 ||
		str_copy(real->cgroup, sizeof(real->cgroup), config->cgroup) < 0)
		rc = err_set(err, -ENAMETOOLONG, "a path is too long");
	else
		rc = cgroup_probe(NULL, 0, &real->cgroups, err);
	if (rc == 0)
		rc = fencer_open(config->state, &real->fencer, err);
	if (rc == 0)
		rc = overlay_open(&overlay, &real->overlay, err);
	if (rc < 0) {
		driver_real_close(&driver);
		return rc;
	}
	*out = driver;
	return 0;
}

void driver_real_stop(struct driver *driver)
{
	struct real *real = driver->self;

	if (real)
		fencer_stop(real->fencer);
}

void driver_real_close(struct driver *driver)
{
	struct real *real = driver->self;

	if (!real)
		return;
	fencer_close(real->fencer);
	if (real->overlay)
		overlay_close(real->overlay);
	cgroup_host_free(real->cgroups);
	free(real);
	driver->self = NULL;
}
