#include "node-agent/inventory.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/blobs.h"
#include "node-agent/desired.h"
#include "node-agent/hosts.h"
#include "node-agent/life.h"

#define SPEC_MAX (16u << 20)
#define LOCAL_MAX (64u << 10)
#define KEPT_S (7 * 24 * 3600) /* a disk set aside and not asked for */

/* 1: read; 0: not there.  What is there and cannot be read is an error: taken for missing
 * it would cost the guest its disk. */
static int read_record(
	const char *dir, const char *name, size_t max, struct buf *out, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, name, err);

	out->size = 0;
	if (rc == 0)
		rc = fs_read(path, max, out, err);
	return rc == -ENOENT ? 0 : rc < 0 ? rc : 1;
}

static int load_spec(struct guest *g, struct buf *data, struct err *err)
{
	Um__GuestAssign *a;
	struct err why = ERR_INIT;
	int rc = read_record(g->dir, "spec.pb", SPEC_MAX, data, err);

	if (rc <= 0)
		return rc;
	a = um__guest_assign__unpack(NULL, data->size, data->data);
	if (!a || a->uid != g->uid || desired_check(a, &why) < 0) {
		log_error("a guest's record makes no sense; its disk is set aside",
			LOG_STR("folder", g->dir), LOG_ERR(&why));
		um__guest_assign__free_unpacked(a, NULL);
		g->keep_disk = true;
		return 0;
	}
	g->assign = a;
	return 0;
}

static int load_local(struct guest *g, struct buf *data, struct err *err)
{
	Um__AgentGuest *l;
	int rc = read_record(g->dir, "local.pb", LOCAL_MAX, data, err);

	if (rc <= 0)
		return rc;
	l = um__agent_guest__unpack(NULL, data->size, data->data);
	if (!l)
		return err_set(err, -EBADMSG,
			"local.pb is damaged; with the folder moved away the guest gets a fresh "
			"disk");
	if (guests_claim_slot(g->agent->guests, l->slot, NULL) >= 0)
		g->slot = l->slot;
	g->disk_generation = l->disk_generation;
	g->restarts = l->restarts;
	g->failures = l->failures;
	g->runs = l->runs;
	g->booted = l->runs > 0;
	g->frozen_move = l->frozen_move;
	g->frozen_epoch = l->frozen_epoch;
	g->taken_move = l->taken_move;
	g->end = l->ended;
	g->end_epoch = l->ended_epoch;
	g->end_generation = l->ended_generation;
	g->retry_at = l->retry_at;
	if (l->last)
		guest_status_set(&g->last, l->last);
	g->gone = l->removing;
	g->keep_disk = l->keep_disk || g->keep_disk;
	(void)str_format(g->keep_reason, sizeof(g->keep_reason), "%.200s", l->keep_reason);
	g->gone_epoch = l->removing_epoch;
	um__agent_guest__free_unpacked(l, NULL);
	return 0;
}

/* What the runner that is there, or was, was started for. */
static int load_run(struct guest *g, struct buf *data, struct err *err)
{
	Um__RunnerSpec *s = NULL;
	int rc = read_record(g->dir, RUNNERDIR_SPEC, RUNNERDIR_SPEC_MAX, data, err);

	g->run_disk_generation = g->disk_generation;
	if (rc > 0)
		s = um__runner_spec__unpack(NULL, data->size, data->data);
	if (!s)
		return rc < 0 ? rc : 0;
	g->run_epoch = s->epoch;
	g->run_generation = s->generation;
	g->booted = true;
	for (size_t i = 0; i < s->n_taps; i++)
		if (s->taps[i]->index < 32)
			g->ports |= 1u << s->taps[i]->index;
	um__runner_spec__free_unpacked(s, NULL);
	return 0;
}

static int find_run(struct guest *g, struct err *err)
{
	const struct driver *d = &g->agent->driver;
	enum runnerctl_found found = RUNNERCTL_NONE;
	Um__RunnerStatus *last = NULL;
	struct guest_status status;
	int rc = d->ops->look(d->self, g->dir, &found, &last, err);

	if (rc < 0)
		return rc;
	if (found == RUNNERCTL_ALIVE) {
		rc = life_adopt(g, err);
		if (rc != -ESRCH)
			return rc;
		/* It ended just now. */
		rc = d->ops->look(d->self, g->dir, &found, &last, err);
		if (rc < 0)
			return rc;
	}
	if (found == RUNNERCTL_ENDED && last) {
		guest_status_set(&status, last);
		life_note_end(g, &status);
		g->discard = true;
		g->revision++;
	}
	if (last)
		um__runner_status__free_unpacked(last, NULL);
	return 0;
}

static int load_guest(struct agent *agent, uint64_t uid, struct inventory *found, struct err *err)
{
	struct guest *g = guests_add(agent->guests, uid, err);
	struct buf data;
	int rc;

	if (!g)
		return -ENOMEM;
	buf_init(&data);
	rc = load_spec(g, &data, err);
	if (rc == 0)
		rc = load_local(g, &data, err);
	if (rc == 0)
		rc = load_run(g, &data, err);
	buf_free(&data);
	if (rc < 0)
		return err_wrap(err, "guest %016" PRIx64, uid);
	/* On disk as it is; find_run() may add to it. */
	g->saved_revision = g->spec_revision = g->revision;
	rc = find_run(g, err);
	if (rc < 0)
		return err_wrap(err, "%s", g->dir);
	if (!g->assign) {
		log_warn("a guest without a record is removed", LOG_STR("folder", g->dir));
		g->saved_revision = g->revision;
		g->gone = true;
		found->broken++;
	} else {
		(void)blobs_get(g);
		hosts_add(g, NULL);
		found->guests++;
		if (g->run)
			found->running++;
	}
	guests_touch(g);
	return 0;
}

static int scan(struct agent *agent, struct inventory *found, struct err *err)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *dir;
	int rc = agent_path(agent, "guests", path, err);

	if (rc == 0)
		rc = fs_mkdirs(path, 0711, err);
	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (!dir)
		return err_errno(err, errno, "%s", path);
	while (rc == 0 && (entry = readdir(dir))) {
		uint8_t raw[8];
		uint64_t uid = 0;

		if (strlen(entry->d_name) != 16 || str_unhex(raw, sizeof(raw), entry->d_name) < 0)
			continue;
		for (size_t i = 0; i < sizeof(raw); i++)
			uid = uid << 8 | raw[i];
		rc = load_guest(agent, uid, found, err);
	}
	(void)closedir(dir);
	return rc;
}

/* Disks that were set aside long ago. */
static void sweep_kept(struct agent *agent)
{
	char path[PATH_MAX], one[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	if (agent_path(agent, "kept", path, NULL) < 0)
		return;
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (strlen(entry->d_name) != 16 ||
			fs_join(one, sizeof(one), path, entry->d_name, NULL) < 0 ||
			stat(one, &st) < 0 || st.st_ctime + KEPT_S > time(NULL))
			continue;
		log_info("a disk that nobody asked for is removed", LOG_STR("folder", one));
		(void)fs_remove_tree(one, NULL);
	}
	if (dir)
		(void)closedir(dir);
}

/* After a boot of the host its guests may have been given to others: nothing is
 * started before the scheduler was heard. */
static int check_boot(struct agent *agent, struct err *err)
{
	char path[PATH_MAX], now[40];
	struct buf text;
	int rc = agent_path(agent, "boot_id", path, err);

	if (rc < 0)
		return rc;
	str_hex(now, agent->boot_id, sizeof(agent->boot_id));
	buf_init(&text);
	rc = fs_read(path, 64, &text, NULL);
	if (rc != -ENOENT && (rc < 0 || strcmp(buf_text(&text), now) != 0))
		guests_hold(agent->guests, true);
	buf_free(&text);
	return fs_write_atomic(path, now, strlen(now), 0600, err);
}

int inventory_load(struct agent *agent, struct inventory *out, struct err *err)
{
	struct inventory found = {0};
	int rc = check_boot(agent, err);

	if (rc == 0)
		rc = scan(agent, &found, err);
	if (rc == 0)
		sweep_kept(agent);
	if (rc == 0)
		*out = found;
	return rc;
}
