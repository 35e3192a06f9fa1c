#include "node-agent/purge.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest/cgroup.h"
#include "guest/runnerctl.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "node-agent/agent.h"
#include "node-agent/fencer.h"
#include "node-agent/overlay.h"

#define END_MS 20000

typedef int each_fn(const char *dir, struct err *err);

static int each_guest(const char *guests, each_fn *fn, struct err *err)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *dir = opendir(guests);
	int rc = 0;

	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", guests);
	while (rc == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' ||
			fs_join(path, sizeof(path), guests, entry->d_name, NULL) < 0)
			continue;
		rc = fn(path, err);
	}
	(void)closedir(dir);
	return rc;
}

static int kill_one(const char *dir, struct err *err)
{
	int rc = runnerctl_kill(dir, err);

	return rc < 0 ? rc : 0;
}

/* Until its runner is really gone. */
static int discard_one(const char *dir, struct err *err)
{
	const struct timespec ms10 = {.tv_nsec = 10000000};
	uint64_t end = proc_mono_ms() + END_MS;
	int rc;

	while ((rc = runnerctl_discard(dir, err)) == -EBUSY && proc_mono_ms() < end) {
		(void)runnerctl_kill(dir, NULL);
		(void)nanosleep(&ms10, NULL);
	}
	return rc;
}

static int remove_groups(const struct agentconf *config, struct err *err)
{
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	char name[128];
	int rc = cgroup_probe(NULL, 0, &host, err);

	if (rc < 0)
		return rc;
	agent_cgroup(config, name);
	rc = cgroup_find(host, name, &cg, err);
	if (rc == 0)
		rc = cgroup_remove(cg, err);
	cgroup_free(cg);
	cgroup_host_free(host);
	return rc;
}

/* All but the lock that we hold; its folder goes last. */
static int remove_state(const struct agentconf *config, struct err *err)
{
	int rc = fs_remove_tree(config->state, err);

	if (rc == 0 && config->run_dir[0])
		rc = fs_remove_tree(config->run_dir, err);
	return rc;
}

int purge_all(const struct agentconf *config, struct err *err)
{
	char guests[PATH_MAX], netns[PATH_MAX];
	int lock = -1, rc;

	if (access(config->state, F_OK) < 0 && errno == ENOENT)
		return 0;
	rc = agent_lock(config, &lock, err);
	if (rc < 0)
		return rc;
	rc = fs_join(guests, sizeof(guests), config->state, "guests", err);
	if (rc == 0)
		rc = fs_join(netns, sizeof(netns), config->state, "overlay.netns", err);
	/* All at once first, then one after the other: they end together. */
	if (rc == 0)
		rc = each_guest(guests, kill_one, err);
	if (rc == 0)
		rc = each_guest(guests, discard_one, err);
	if (rc == 0)
		rc = overlay_purge(netns, err);
	if (rc == 0)
		rc = remove_groups(config, err);
	if (rc == 0) {
		fencer_end(config->state);
		rc = remove_state(config, err);
	}
	(void)close(lock);
	if (rc == 0)
		log_info("removed", LOG_STR("state", config->state));
	return rc;
}
