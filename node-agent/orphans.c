#include "node-agent/orphans.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/blobs.h"
#include "node-agent/report.h"

#define RECORD "orphan.pb"
#define RECORD_MAX (64u << 10)
#define PRUNED ".gone" /* follows the name of a folder that goes */

struct orphan {
	struct orphans *orphans;
	uint64_t epoch;
	Um__OrphanDisk *disk; /* owned */
	bool held;	      /* its base image */
	bool dirty, busy;
	UT_hash_handle hh;
};

struct orphans {
	struct agent *agent;
	struct orphan *all;
};

/* A pruned one, or one that never was: told, then forgotten. */
#define GONE(o) ((o)->disk->gone)

static int dir_of(const char *state, uint64_t epoch, char out[PATH_MAX], struct err *err)
{
	if (str_format(out, PATH_MAX, "%s/orphans/%016" PRIx64, state, epoch) < 0)
		return err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	return 0;
}

static void set_text(char **field, const char *text)
{
	char *copy = str_dup(text);

	if (!copy)
		return;
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = copy;
}

/* ---------------------------------------------------------------- the table */

static void let_go(struct orphan *o)
{
	if (o->held)
		blobs_release(o->orphans->agent->blobs, o->disk->image_id.data);
	o->held = false;
}

static void drop(struct orphan *o)
{
	let_go(o);
	HASH_DEL(o->orphans->all, o);
	um__orphan_disk__free_unpacked(o->disk, NULL);
	free(o);
}

/* Where a person finds the two files. */
static void find_files(struct orphan *o)
{
	struct agent *agent = o->orphans->agent;
	char path[PATH_MAX], file[PATH_MAX];
	const uint8_t *image = o->disk->image_id.data;
	struct imgstore_info info;
	int rc;

	if (dir_of(agent->config.state, o->epoch, path, NULL) == 0 &&
		fs_join(file, sizeof(file), path, "cow", NULL) == 0)
		set_text(&o->disk->path, file);
	if (!o->held || imgstore_info(agent->store, image, &info, NULL) < 0)
		return;
	rc = o->disk->disk_bytes > info.size
		     ? imgstore_sized(agent->store, image, o->disk->disk_bytes, path, NULL)
		     : imgstore_path(agent->store, image, path, NULL);
	if (rc == 0)
		set_text(&o->disk->base_path, path);
}

/* Takes DISK. */
static struct orphan *add(struct orphans *orphans, Um__OrphanDisk *disk)
{
	struct orphan *o = calloc(1, sizeof(*o));

	if (!o) {
		um__orphan_disk__free_unpacked(disk, NULL);
		return NULL;
	}
	o->orphans = orphans;
	o->epoch = disk->epoch;
	o->disk = disk;
	o->held = disk->image_id.len == MANIFEST_HASH &&
		  imgstore_hold(orphans->agent->store, disk->image_id.data, NULL) == 0;
	HASH_ADD(hh, orphans->all, epoch, sizeof(o->epoch), o);
	find_files(o);
	return o;
}

static struct orphan *find(const struct orphans *orphans, uint64_t epoch)
{
	struct orphan *o = NULL;

	HASH_FIND(hh, orphans->all, &epoch, sizeof(epoch), o);
	return o;
}

/* ---------------------------------------------------------------- becoming one */

int orphans_record(const struct guest *g, uint8_t **record, size_t *size, struct err *err)
{
	Um__OrphanDisk disk = UM__ORPHAN_DISK__INIT;

	if (!g->keep_disk || !g->assign || !g->disk_generation || !g->booted)
		return 0;
	disk.uid = g->uid;
	disk.epoch = g->assign->epoch;
	disk.name = g->assign->name;
	disk.since = proc_wall_ms();
	disk.reason = (char *)(uintptr_t)g->keep_reason;
	disk.runs = g->runs;
	disk.image_id = g->assign->image->id;
	disk.disk_bytes = g->assign->spec->disk_bytes;
	*size = um__orphan_disk__get_packed_size(&disk);
	*record = malloc(*size + 1);
	if (!*record)
		return err_set(err, -ENOMEM, "memory is short");
	(void)um__orphan_disk__pack(&disk, *record);
	return 1;
}

static bool belongs(const char *name)
{
	static const char *const names[] = {
		".", "..", RECORD, "cow", "console.log", "console.log.1"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* What was of the run: tried again at the next start. */
static void tidy(const char *dir)
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *list = opendir(dir);

	while (list && (entry = readdir(list)))
		if (!belongs(entry->d_name) &&
			fs_join(path, sizeof(path), dir, entry->d_name, NULL) == 0)
			(void)fs_remove_tree(path, NULL);
	if (list)
		(void)closedir(list);
}

int orphans_keep(
	struct agent *agent, const char *dir, const uint8_t *record, size_t size, struct err *err)
{
	Um__OrphanDisk *disk = um__orphan_disk__unpack(NULL, size, record);
	char path[PATH_MAX], to[PATH_MAX];
	struct stat st;
	int rc = disk ? fs_join(path, sizeof(path), dir, "cow", err)
		      : err_set(err, -ENOMEM, "memory is short");

	if (rc == 0 && stat(path, &st) < 0) {
		rc = errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
		goto out;
	}
	if (rc == 0)
		rc = fs_join(path, sizeof(path), dir, RECORD, err);
	if (rc == 0)
		rc = fs_write_atomic(path, record, size, 0600, err);
	if (rc == 0)
		rc = dir_of(agent->config.state, disk->epoch, to, err);
	if (rc == 0)
		rc = fs_join(path, sizeof(path), agent->config.state, "orphans", err);
	if (rc == 0)
		rc = fs_mkdirs(path, 0700, err);
	if (rc == 0 && rename(dir, to) < 0)
		rc = errno == ENOTEMPTY || errno == EEXIST
			     ? err_set(err, -EEXIST, "%s is there already", to)
			     : err_errno(err, errno, "keep %s", dir);
	if (rc < 0)
		goto out;
	rc = fs_sync_dir(path, err);
	if (rc == 0 && fs_join(path, sizeof(path), agent->config.state, "guests", err) == 0)
		rc = fs_sync_dir(path, err);
	if (rc < 0)
		log_warn("an old disk is kept; a power loss now may make it a guest's again, until "
			 "the next start",
			LOG_STR("disk", to), LOG_ERR(err));
	tidy(to);
	/* It is where it belongs, and must be told of. */
	rc = 1;
out:
	um__orphan_disk__free_unpacked(disk, NULL);
	return rc;
}

void orphans_kept(struct orphans *orphans, const uint8_t *record, size_t size)
{
	Um__OrphanDisk *disk = um__orphan_disk__unpack(NULL, size, record);
	struct orphan *o = disk ? find(orphans, disk->epoch) : NULL;
	struct stat st;

	/* One that was asked for in vain before it came. */
	if (o && !o->busy)
		drop(o);
	o = disk ? add(orphans, disk) : NULL;
	if (!o)
		return; /* found at the next start */
	if (stat(o->disk->path, &st) == 0)
		o->disk->cow_bytes = (uint64_t)st.st_blocks * 512;
	o->dirty = true;
	log_info("the disk of a guest that runs elsewhere is kept", LOG_STR("guest", disk->name),
		LOG_U64("epoch", disk->epoch), LOG_STR("disk", disk->path));
	report_orphans(orphans->agent->report);
}

/* ---------------------------------------------------------------- pruning */

struct prune_job {
	struct orphan *o;
	char dir[PATH_MAX];
	int rc;
	struct err err;
};

/* Renamed first: no half of one is ever taken for a whole. */
static void prune_work(void *arg)
{
	struct prune_job *job = arg;
	char gone[PATH_MAX];

	if (str_format(gone, sizeof(gone), "%s" PRUNED, job->dir) < 0)
		job->rc = err_set(&job->err, -ENAMETOOLONG, "the state folder's path is too long");
	else if (rename(job->dir, gone) < 0 && errno != ENOENT)
		job->rc = err_errno(&job->err, errno, "remove %s", job->dir);
	else
		job->rc = fs_remove_tree(gone, &job->err);
}

static void prune_done(void *arg, bool cancelled)
{
	struct prune_job *job = arg;
	struct orphan *o = job->o;

	o->busy = false;
	if (!cancelled && !o->orphans->agent->stopping) {
		o->dirty = true;
		if (job->rc < 0) {
			log_warn("an orphan cannot be removed", LOG_STR("guest", o->disk->name),
				LOG_ERR(&job->err));
			set_text(&o->disk->reason, err_msg(&job->err));
		} else {
			log_info("an orphan was removed", LOG_STR("guest", o->disk->name),
				LOG_U64("epoch", o->epoch));
			o->disk->gone = true;
			let_go(o);
		}
		report_orphans(o->orphans->agent->report);
	}
	free(job);
}

static void prune(struct orphan *o)
{
	struct agent *agent = o->orphans->agent;
	struct prune_job *job = calloc(1, sizeof(*job));

	if (!job || dir_of(agent->config.state, o->epoch, job->dir, NULL) < 0) {
		free(job);
		return;
	}
	job->o = o;
	o->busy = true;
	if (loop_work_run(agent->loop, "orphan prune", prune_work, prune_done, job, NULL) < 0) {
		o->busy = false;
		free(job);
	}
}

void orphans_prune(struct orphans *orphans, const Um__GuestRemove *which)
{
	struct orphan *o = find(orphans, which->epoch);
	struct guest *g = guests_find(orphans->agent->guests, which->uid);
	Um__OrphanDisk *disk;

	if (o && o->busy)
		return;
	if (o && !GONE(o)) {
		prune(o);
		return;
	}
	if (!o && g && guest_epoch(g) == which->epoch)
		return; /* told again when it is one */
	if (!o) {
		disk = calloc(1, sizeof(*disk));
		if (!disk)
			return;
		um__orphan_disk__init(disk);
		disk->uid = which->uid;
		disk->epoch = which->epoch;
		disk->gone = true;
		o = add(orphans, disk);
	}
	if (!o)
		return;
	o->dirty = true;
	report_orphans(orphans->agent->report);
}

/* ---------------------------------------------------------------- telling */

size_t orphans_observe(struct orphans *orphans, bool all, Um__OrphanDisk ***list)
{
	size_t count = HASH_COUNT(orphans->all), n = 0;
	struct orphan *o, *next;

	*list = count ? calloc(count, sizeof(**list)) : NULL;
	if (!*list)
		return 0;
	HASH_ITER (hh, orphans->all, o, next)
		if (all || o->dirty)
			(*list)[n++] = o->disk;
	return n;
}

void orphans_told(struct orphans *orphans)
{
	struct orphan *o, *next;

	HASH_ITER (hh, orphans->all, o, next) {
		o->dirty = false;
		if (GONE(o) && !o->busy)
			drop(o);
	}
}

/* ---------------------------------------------------------------- the start */

/* What cannot be read is an error: taken for missing, the scheduler would forget it. */
static int load(struct orphans *orphans, const char *parent, const char *name, struct err *err)
{
	char dir[PATH_MAX], path[PATH_MAX];
	Um__OrphanDisk *disk = NULL;
	struct orphan *o;
	struct stat st;
	struct buf data;
	int rc = fs_join(dir, sizeof(dir), parent, name, err);

	buf_init(&data);
	if (rc == 0)
		rc = fs_join(path, sizeof(path), dir, RECORD, err);
	if (rc == 0)
		rc = fs_read(path, RECORD_MAX, &data, err);
	if (rc == 0)
		disk = um__orphan_disk__unpack(NULL, data.size, data.data);
	buf_free(&data);
	if (!disk || disk->gone || find(orphans, disk->epoch)) {
		um__orphan_disk__free_unpacked(disk, NULL);
		if (rc < 0 && rc != -ENOENT)
			return rc;
		log_warn("a folder of an orphan without its record is left alone",
			LOG_STR("folder", dir));
		return 0;
	}
	tidy(dir);
	o = add(orphans, disk);
	if (!o)
		return err_set(err, -ENOMEM, "memory is short");
	if (stat(o->disk->path, &st) == 0)
		o->disk->cow_bytes = (uint64_t)st.st_blocks * 512;
	return 0;
}

int orphans_open(struct agent *agent, struct orphans **out, struct err *err)
{
	struct orphans *orphans = calloc(1, sizeof(*orphans));
	char path[PATH_MAX], gone[PATH_MAX];
	struct dirent *entry;
	DIR *list;
	int rc;

	if (!orphans)
		return err_set(err, -ENOMEM, "memory is short");
	orphans->agent = agent;
	*out = orphans;
	rc = agent_path(agent, "orphans", path, err);
	if (rc < 0)
		return rc;
	list = opendir(path);
	if (!list)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
	while (rc == 0 && (entry = readdir(list))) {
		if (strlen(entry->d_name) == 16)
			rc = load(orphans, path, entry->d_name, err);
		else if (strlen(entry->d_name) == 16 + strlen(PRUNED) &&
			 strcmp(entry->d_name + 16, PRUNED) == 0 &&
			 fs_join(gone, sizeof(gone), path, entry->d_name, err) == 0)
			(void)fs_remove_tree(gone, NULL); /* else at the next start */
	}
	(void)closedir(list);
	return rc;
}

void orphans_free(struct orphans *orphans)
{
	struct orphan *o, *next;

	if (!orphans)
		return;
	HASH_ITER (hh, orphans->all, o, next) {
		HASH_DEL(orphans->all, o);
		um__orphan_disk__free_unpacked(o->disk, NULL);
		free(o);
	}
	free(orphans);
}
