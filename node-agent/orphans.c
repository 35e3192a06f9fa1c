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
#include "node-agent/reconcile.h"
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
	bool pruning;		  /* it is wanted no more */
	bool unread;		  /* its record could not be read */
	struct loop_timer *again; /* what failed, its removal or its record; NULL: nothing */
	uint32_t failures;	  /* in a row */
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
	loop_timer_close(o->again);
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
static void set_disk(struct orphan *o, Um__OrphanDisk *disk)
{
	struct stat st;

	um__orphan_disk__free_unpacked(o->disk, NULL);
	o->disk = disk;
	o->held = disk->image_id.len == MANIFEST_HASH &&
		  imgstore_hold(o->orphans->agent->store, disk->image_id.data, NULL) == 0;
	find_files(o);
	if (*disk->path && stat(disk->path, &st) == 0)
		disk->cow_bytes = (uint64_t)st.st_blocks * 512;
}

/* Takes DISK. */
static struct orphan *add(struct orphans *orphans, Um__OrphanDisk *disk)
{
	struct orphan *o = disk ? calloc(1, sizeof(*o)) : NULL;

	if (!o) {
		um__orphan_disk__free_unpacked(disk, NULL);
		return NULL;
	}
	o->orphans = orphans;
	o->epoch = disk->epoch;
	HASH_ADD(hh, orphans->all, epoch, sizeof(o->epoch), o);
	set_disk(o, disk);
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

	/* One that was asked for in vain before it came. */
	if (o && !o->busy)
		drop(o);
	o = disk ? add(orphans, disk) : NULL;
	if (!o)
		return; /* found at the next start */
	o->dirty = true;
	log_info("the disk of a guest that runs elsewhere is kept", LOG_STR("guest", disk->name),
		LOG_U64("epoch", disk->epoch), LOG_STR("disk", disk->path));
	report_orphans(orphans->agent->report);
}

/* ---------------------------------------------------------------- pruning */

struct orphan_job {
	struct orphan *o;
	char dir[PATH_MAX];
	bool read; /* its record; else it is removed */
	Um__OrphanDisk *disk;
	int rc;
	struct err err;
};

static Um__OrphanDisk *read_disk(const char *dir, uint64_t epoch, struct err *err);

/* Renamed first: no half of one is ever taken for a whole. */
static void job_work(void *arg)
{
	struct orphan_job *job = arg;
	char gone[PATH_MAX];

	if (job->read)
		job->disk = read_disk(job->dir, job->o->epoch, &job->err);
	else if (str_format(gone, sizeof(gone), "%s" PRUNED, job->dir) < 0)
		job->rc = err_set(&job->err, -ENAMETOOLONG, "the state folder's path is too long");
	else if (rename(job->dir, gone) < 0 && errno != ENOENT)
		job->rc = err_errno(&job->err, errno, "remove %s", job->dir);
	else
		job->rc = fs_remove_tree(gone, &job->err);
}

static void run_job(struct orphan *o);

static void on_again(void *arg)
{
	struct orphan *o = arg;

	if (!o->busy && !GONE(o))
		run_job(o);
}

static void again(struct orphan *o)
{
	if (!o->again && loop_timer_open(o->orphans->agent->loop, "orphan", on_again, o, &o->again,
				 NULL) < 0)
		return; /* at the next start, then */
	loop_timer_arm(o->again, reconcile_backoff(++o->failures));
}

/* A disk that has errors, or is read-only: it is told once why, and tried less and less
 * often.  The scheduler, which asks again whenever it hears of it, does not hurry it. */
static void not_removed(struct orphan *o, const struct err *err)
{
	log_warn("an orphan cannot be removed; tried again", LOG_STR("guest", o->disk->name),
		LOG_ERR(err));
	if (strcmp(o->disk->reason, err_msg(err)) != 0) {
		set_text(&o->disk->reason, err_msg(err));
		o->dirty = true;
	}
	again(o);
}

static void removed(struct orphan *o)
{
	log_info("an orphan was removed", LOG_STR("guest", o->disk->name),
		LOG_U64("epoch", o->epoch));
	o->disk->gone = o->dirty = true;
	let_go(o);
}

/* What is not there, or makes no sense, stays so; a disk's errors may pass. */
static bool may_pass(const struct err *why)
{
	return why->code != -ENOENT && why->code != -EBADMSG;
}

static void was_read(struct orphan *o, struct orphan_job *job)
{
	if (!job->disk) {
		if (may_pass(&job->err))
			again(o);
		return;
	}
	set_disk(o, job->disk);
	job->disk = NULL;
	o->unread = false;
	o->failures = 0;
	o->dirty = true;
}

static void job_done(void *arg, bool cancelled)
{
	struct orphan_job *job = arg;
	struct orphan *o = job->o;

	o->busy = false;
	if (!cancelled && !o->orphans->agent->stopping) {
		if (job->read)
			was_read(o, job);
		else if (job->rc < 0)
			not_removed(o, &job->err);
		else
			removed(o);
		if (job->read && o->pruning)
			run_job(o);
		if (o->dirty)
			report_orphans(o->orphans->agent->report);
	}
	um__orphan_disk__free_unpacked(job->disk, NULL);
	free(job);
}

/* Removes it, when that is wanted, or reads its record. */
static void run_job(struct orphan *o)
{
	struct agent *agent = o->orphans->agent;
	struct orphan_job *job = calloc(1, sizeof(*job));

	if (!job || dir_of(agent->config.state, o->epoch, job->dir, NULL) < 0) {
		free(job);
		return;
	}
	job->o = o;
	job->read = !o->pruning;
	o->busy = true;
	if (loop_work_run(agent->loop, "orphan", job_work, job_done, job, NULL) < 0) {
		o->busy = false;
		free(job);
	}
}

void orphans_prune(struct orphans *orphans, const Um__GuestRemove *which)
{
	struct orphan *o = find(orphans, which->epoch);
	struct guest *g = guests_find(orphans->agent->guests, which->uid);
	Um__OrphanDisk *disk;

	if (o && !GONE(o)) {
		/* Asked for again while it is tried: its time comes. */
		if (o->pruning && (o->busy || (o->again && loop_timer_armed(o->again))))
			return;
		o->pruning = true;
		o->failures = 0;
		if (!o->busy)
			run_job(o);
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

/* NULL: it makes no sense, or cannot be read. */
static Um__OrphanDisk *read_disk(const char *dir, uint64_t epoch, struct err *err)
{
	Um__OrphanDisk *disk = NULL;
	char path[PATH_MAX];
	struct buf data;
	int rc = fs_join(path, sizeof(path), dir, RECORD, err);

	buf_init(&data);
	if (rc == 0)
		rc = fs_read(path, RECORD_MAX, &data, err);
	if (rc == 0)
		disk = um__orphan_disk__unpack(NULL, data.size, data.data);
	buf_free(&data);
	if (disk && (disk->gone || disk->epoch != epoch || !disk->uid)) {
		um__orphan_disk__free_unpacked(disk, NULL);
		disk = NULL;
	}
	if (!disk && rc == 0)
		(void)err_set(err, -EBADMSG, "it is damaged");
	return disk;
}

/* Without a record that can be read the folder still says which orphan it is.  It is told
 * of as kept, so that the scheduler does not forget it, and a person can look into it and
 * prune it; one of these must not keep the agent from starting. */
static Um__OrphanDisk *unread(uint64_t epoch, const struct err *why)
{
	Um__OrphanDisk *disk = calloc(1, sizeof(*disk));
	char text[200];

	if (!disk)
		return NULL;
	um__orphan_disk__init(disk);
	disk->epoch = epoch;
	(void)str_format(text, sizeof(text), "unknown/%016" PRIx64, epoch);
	set_text(&disk->name, text);
	(void)str_format(text, sizeof(text), "its record cannot be read: %.150s", err_msg(why));
	set_text(&disk->reason, text);
	return disk;
}

static int load(struct orphans *orphans, uint64_t epoch, struct err *err)
{
	char dir[PATH_MAX];
	Um__OrphanDisk *disk;
	struct err why = ERR_INIT;
	struct orphan *o;
	int rc = dir_of(orphans->agent->config.state, epoch, dir, err);

	if (rc < 0)
		return rc;
	disk = read_disk(dir, epoch, &why);
	if (disk)
		tidy(dir);
	o = add(orphans, disk ? disk : unread(epoch, &why));
	if (!o)
		return err_set(err, -ENOMEM, "memory is short");
	o->unread = why.code != 0;
	if (!o->unread)
		return 0;
	log_error("the record of an orphan cannot be read; it is kept", LOG_STR("folder", dir),
		LOG_ERR(&why));
	if (may_pass(&why))
		again(o);
	return 0;
}

/* The epoch that is a folder's name; 0: it is another's. */
static uint64_t epoch_of(const char *name)
{
	uint8_t raw[8];
	uint64_t epoch = 0;

	if (strlen(name) != 16 || str_unhex(raw, sizeof(raw), name) < 0)
		return 0;
	for (size_t i = 0; i < sizeof(raw); i++)
		epoch = epoch << 8 | raw[i];
	return epoch;
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
		if (epoch_of(entry->d_name))
			rc = load(orphans, epoch_of(entry->d_name), err);
		else if (strlen(entry->d_name) == 16 + strlen(PRUNED) &&
			 strcmp(entry->d_name + 16, PRUNED) == 0 &&
			 fs_join(gone, sizeof(gone), path, entry->d_name, err) == 0)
			(void)fs_remove_tree(gone, NULL); /* else at the next start */
	}
	(void)closedir(list);
	return rc;
}

void orphans_stop(struct orphans *orphans)
{
	if (!orphans)
		return;
	for (struct orphan *o = orphans->all; o; o = o->hh.next) {
		loop_timer_close(o->again);
		o->again = NULL;
	}
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
