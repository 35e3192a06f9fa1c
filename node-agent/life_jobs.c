#include "node-agent/life.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/crash.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/blobs.h"
#include "node-agent/hosts.h"
#include "node-agent/moves.h"
#include "node-agent/orphans.h"
#include "node-agent/report.h"
#include "node-agent/relay.h"

#define LOCAL_MAX 65536u /* bytes of local.pb */

/* One at a time for each guest, which stays until it is done. */
struct life_job {
	struct guest *g;
	enum guest_busy kind;
	uint64_t revision;
	bool discard;
	uint8_t *spec_data, *local_data;
	size_t spec_size, local_size;
	uint64_t back_generation; /* of a disk that was kept, and is back */
	char dir[PATH_MAX - 64], kept[PATH_MAX - 64];
	/* GUEST_DISK */
	uint8_t image[MANIFEST_HASH];
	uint64_t disk_bytes;
	uid_t uid;
	bool fresh;
	uint64_t take;	/* number of the move by which it came; 0: it did not */
	uint64_t epoch; /* that it comes under */
	Um__MoveSeal *seal;
	char backing[PATH_MAX];
	bool gone; /* it is to be removed */
	/* GUEST_REMOVING */
	bool keep_disk, orphaned;
	uint8_t *orphan; /* its record */
	size_t orphan_size;
	bool moved; /* its disk is on another host by now */
	uint64_t fence;
	int rc;
	struct err err;
};

/* ---------------------------------------------------------------- records */

int life_pack_local(
	const struct guest *g, bool removing, uint8_t **data, size_t *size, struct err *err)
{
	Um__AgentGuest local = UM__AGENT_GUEST__INIT;
	Um__RunnerStatus last = UM__RUNNER_STATUS__INIT;
	char reason[GUESTS_REASON];

	(void)snprintf(reason, sizeof(reason), "%s", g->last.reason);
	last.phase = g->last.phase;
	last.reason = reason;
	last.started_at = g->last.started_at;
	last.exit_status = g->last.exit_status;
	last.boots = g->last.boots;
	last.by_request = g->last.by_request;
	local.slot = g->slot;
	local.disk_generation = g->disk_generation;
	local.restarts = g->restarts;
	local.failures = g->failures;
	local.ended = g->end;
	local.ended_epoch = g->end_epoch;
	local.ended_generation = g->end_generation;
	local.last = &last;
	local.retry_at = g->end ? g->retry_at : 0;
	local.removing = removing;
	local.keep_disk = g->keep_disk;
	local.removing_epoch = g->gone_epoch;
	local.keep_reason = (char *)(uintptr_t)g->keep_reason;
	local.runs = g->runs;
	local.frozen_move = g->frozen_move;
	local.frozen_epoch = g->frozen_epoch;
	local.taken_move = g->taken_move;
	*size = um__agent_guest__get_packed_size(&local);
	*data = malloc(*size + 1);
	if (!*data)
		return err_set(err, -ENOMEM, "memory is short");
	(void)um__agent_guest__pack(&local, *data);
	return 0;
}

static int pack_spec(const struct guest *g, uint8_t **data, size_t *size, struct err *err)
{
	*size = um__guest_assign__get_packed_size(g->assign);
	*data = malloc(*size + 1);
	if (!*data)
		return err_set(err, -ENOMEM, "memory is short");
	(void)um__guest_assign__pack(g->assign, *data);
	return 0;
}

static int write_record(
	const char *dir, const char *name, const uint8_t *data, size_t size, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, name, err);

	return rc < 0 ? rc : fs_write_atomic(path, data, size, 0600, err);
}

/* ---------------------------------------------------------------- in the pool */

/* What disk it is that comes back, told by the local.pb kept with it, goes into the
 * record that is about to take its place.  Without one it is made anew; one that cannot be
 * read is an error. */
static int take_back(struct life_job *job)
{
	Um__AgentGuest *old = NULL, *now = NULL;
	char path[PATH_MAX];
	struct buf data;
	int rc = fs_join(path, sizeof(path), job->kept, "local.pb", &job->err);

	buf_init(&data);
	if (rc == 0)
		rc = fs_read(path, LOCAL_MAX, &data, &job->err);
	if (rc == 0)
		old = um__agent_guest__unpack(NULL, data.size, data.data);
	if (rc == -ENOENT)
		rc = 0;
	now = um__agent_guest__unpack(NULL, job->local_size, job->local_data);
	if (old && now && !now->disk_generation) {
		size_t size;
		uint8_t *packed;

		now->disk_generation = old->disk_generation;
		size = um__agent_guest__get_packed_size(now);
		packed = malloc(size ? size : 1);
		if (packed) {
			(void)um__agent_guest__pack(now, packed);
			free(job->local_data);
			job->local_data = packed;
			job->local_size = size;
			job->back_generation = old->disk_generation;
		}
	}
	um__agent_guest__free_unpacked(old, NULL);
	um__agent_guest__free_unpacked(now, NULL);
	buf_free(&data);
	return rc;
}

/* A disk that was kept aside comes back with its folder. */
static int make_folder(struct life_job *job)
{
	int rc;

	if (access(job->dir, F_OK) == 0)
		return 0;
	if (access(job->kept, F_OK) == 0) {
		rc = take_back(job);
		if (rc == 0 && rename(job->kept, job->dir) < 0)
			rc = err_errno(&job->err, errno, "take back %s", job->kept);
		return rc;
	}
	if (errno != ENOENT)
		return err_errno(&job->err, errno, "%s", job->kept);
	return fs_mkdirs(job->dir, 0755, &job->err);
}

/* A guest that is to go must go from a full disk above all: what nobody will read any more
 * makes room for the record of it.  DISK: its disk too. */
static void make_room(const struct life_job *job, bool disk)
{
	static const char *const names[] = {
		"console.log.1", "console.log", "runner.log", "hosts.log", "cow"};
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) - !disk; i++)
		if (fs_join(path, sizeof(path), job->dir, names[i], NULL) == 0)
			(void)unlink(path);
}

static int write_records(struct life_job *job)
{
	const struct fs_file records[] = {{"local.pb", job->local_data, job->local_size},
		{"spec.pb", job->spec_data, job->spec_size}};

	/* local.pb first: a folder with a spec has a slot. */
	return fs_write_files(job->dir, records, job->spec_data ? 2 : 1, 0600, &job->err);
}

static int put_records(struct life_job *job)
{
	int rc = make_folder(job); /* may bring its own local.pb */

	return rc < 0 ? rc : write_records(job);
}

static int save_work(struct life_job *job)
{
	struct agent *agent = job->g->agent;
	int rc = put_records(job);

	if (rc == -ENOSPC && (job->gone || job->take)) {
		if (job->gone)
			make_room(job, false);
		else
			moves_make_room(agent->config.state, job->take);
		rc = put_records(job);
	}
	/* The end is noted: what tells of it may go. */
	if (rc == 0 && job->discard)
		rc = agent->driver.ops->discard(agent->driver.self, job->dir, &job->err);
	return rc;
}

/* What came with a moved disk goes into the record that is about to be written. */
static int pack_taken(struct life_job *job)
{
	Um__AgentGuest *local = um__agent_guest__unpack(NULL, job->local_size, job->local_data);
	uint8_t *packed;
	size_t size;

	if (!local)
		return err_set(&job->err, -ENOMEM, "memory is short");
	local->restarts = job->seal->restarts;
	local->runs = job->seal->runs;
	local->taken_move = job->take;
	if (job->seal->ended && !local->ended) {
		um__runner_status__free_unpacked(local->last, NULL);
		local->last = job->seal->ended;
		local->ended = true;
		local->ended_epoch = job->epoch;
		local->ended_generation = job->seal->ended_generation;
	}
	size = um__agent_guest__get_packed_size(local);
	packed = malloc(size + 1);
	if (packed) {
		(void)um__agent_guest__pack(local, packed);
		free(job->local_data);
		job->local_data = packed;
		job->local_size = size;
	}
	if (local->last == job->seal->ended)
		local->last = NULL;
	um__agent_guest__free_unpacked(local, NULL);
	return packed ? 0 : err_set(&job->err, -ENOMEM, "memory is short");
}

/* Nobody else has the disk by now: a full one must not stop this. */
static int take_disk(struct life_job *job)
{
	const char *state = job->g->agent->config.state;
	int rc = moves_take(state, job->take, job->dir, &job->seal, &job->err);

	if (rc != -ENOSPC)
		return rc;
	moves_make_room(state, job->take);
	return moves_take(state, job->take, job->dir, &job->seal, &job->err);
}

static int note_disk(struct life_job *job)
{
	int rc = write_record(job->dir, "local.pb", job->local_data, job->local_size, &job->err);

	if (rc != -ENOSPC || !job->take)
		return rc;
	moves_make_room(job->g->agent->config.state, job->take);
	return write_record(job->dir, "local.pb", job->local_data, job->local_size, &job->err);
}

static int disk_work(struct life_job *job)
{
	struct agent *agent = job->g->agent;
	struct driver_disk disk = {.backing = job->backing, .uid = job->uid, .fresh = job->fresh};
	char path[PATH_MAX];
	int rc;

	if (job->disk_bytes)
		rc = imgstore_sized(
			agent->store, job->image, job->disk_bytes, job->backing, &job->err);
	else
		rc = imgstore_path(agent->store, job->image, job->backing, &job->err);
	if (rc == 0)
		rc = fs_join(path, sizeof(path), job->dir, "cow", &job->err);
	if (rc == 0 && job->take)
		rc = take_disk(job);
	disk.path = path;
	if (rc == 0)
		rc = agent->driver.ops->disk(agent->driver.self, &disk, &job->err);
	/* Only now does the new disk count: till here it would be made again. */
	if (rc == 0 && job->take)
		rc = pack_taken(job);
	if (rc == 0 && (job->fresh || job->take))
		rc = note_disk(job);
	return rc < 0 ? err_wrap(&job->err, "disk") : 0;
}

static int keep_disk(struct life_job *job)
{
	char from[PATH_MAX], to[PATH_MAX];
	int rc = fs_remove_tree(job->kept, &job->err);

	if (rc == 0)
		rc = fs_mkdirs(job->kept, 0700, &job->err);
	for (size_t i = 0; rc == 0 && i < 2; i++) {
		const char *name = i ? "cow" : "local.pb";

		if (fs_join(from, sizeof(from), job->dir, name, &job->err) < 0 ||
			fs_join(to, sizeof(to), job->kept, name, &job->err) < 0)
			return -ENAMETOOLONG;
		if (rename(from, to) < 0 && errno != ENOENT)
			rc = err_errno(&job->err, errno, "keep %s", from);
	}
	return rc;
}

static int write_fence(struct life_job *job)
{
	return job->fence ? guests_fence_write(
				    job->g->agent->config.state, job->g->uid, job->fence, &job->err)
			  : 0;
}

static int remove_work(struct life_job *job)
{
	struct agent *agent = job->g->agent;
	int rc = write_fence(job);

	/* That it goes is on disk already. */
	if (rc == -ENOSPC) {
		make_room(job, !job->keep_disk && !job->orphan);
		rc = write_fence(job);
	}

	if (job->moved)
		crash_point("move-remove");
	if (rc == 0)
		rc = agent->driver.ops->discard(agent->driver.self, job->dir, &job->err);
	if (rc == 0 && job->orphan) {
		rc = orphans_keep(agent, job->dir, job->orphan, job->orphan_size, &job->err);
		job->orphaned = rc > 0;
	} else if (rc == 0 && job->keep_disk) {
		rc = keep_disk(job);
	}
	if (job->orphaned)
		return 0;
	return rc < 0 ? rc : fs_remove_tree(job->dir, &job->err);
}

static void life_work(void *arg)
{
	struct life_job *job = arg;

	if (job->kind == GUEST_SAVING)
		job->rc = save_work(job);
	else if (job->kind == GUEST_DISK)
		job->rc = disk_work(job);
	else
		job->rc = remove_work(job);
}

/* ---------------------------------------------------------------- and back */

static void saved(struct guest *g, const struct life_job *job)
{
	if (g->save_failed)
		g->trouble[0] = '\0';
	g->save_failed = false;
	g->saved_revision = job->revision;
	if (job->back_generation && !g->disk_generation)
		g->disk_generation = job->back_generation;
	boottimes_mark(&g->times, UM__BOOT_STEP__BOOT_SAVED);
	if (job->discard)
		g->discard = false;
	if (g->ended && g->saved_revision == g->revision)
		g->noted = true;
	if (job->spec_data) /* its generation may be told */
		report_guest(g);
}

static void disk_made(struct guest *g, const struct life_job *job)
{
	(void)str_copy(g->backing, sizeof(g->backing), job->backing);
	g->disk_checked = true;
	boottimes_mark(&g->times, UM__BOOT_STEP__BOOT_DISK);
	if (job->fresh)
		g->booted = false;
	if (!job->take)
		return;
	g->taken_move = job->take;
	g->restarts = job->seal->restarts;
	g->runs = job->seal->runs;
	g->booted = g->runs > 0;
	if (job->seal->ended && !g->end) {
		guest_status_set(&g->last, job->seal->ended);
		g->end = true;
		g->end_epoch = job->epoch;
		g->end_generation = job->seal->ended_generation;
	}
	log_info("a moved disk was taken", LOG_STR("guest", g->assign->name),
		LOG_U64("move", job->take));
	moves_taken(g);
}

/* False: that was its end. */
static bool removed(struct guest *g, const struct life_job *job)
{
	struct agent *agent = g->agent;
	uint64_t uid = g->uid;

	guests_fence_set(agent->guests, g->uid, job->fence);
	if (job->orphaned)
		orphans_kept(agent->orphans, job->orphan, job->orphan_size);
	if (g->gone) {
		if (job->moved)
			crash_point("move-removed");
		log_info("guest removed", LOG_STR("guest", g->assign ? g->assign->name : ""),
			LOG_U64("epoch", job->fence));
		if (g->assign)
			report_gone(agent->report, g->uid, job->fence);
		blobs_let_go(g);
		hosts_forget(g);
		report_forget(g);
		relay_forget(g);
		guests_drop(g);
		moves_removed(agent->moves, uid);
		return false;
	}
	/* Wanted again meanwhile: from the beginning. */
	g->disk_generation = 0;
	g->disk_checked = false;
	g->end = false;
	g->spec_revision = ++g->revision;
	return true;
}

static void outcome(struct guest *g, struct life_job *job)
{
	if (job->rc < 0) {
		if (job->kind == GUEST_DISK && (job->fresh || job->take))
			g->disk_generation = 0;
		g->save_failed = job->kind == GUEST_SAVING;
		if (g->save_failed)
			g->failed_revision = job->revision;
		life_trouble(g, &job->err);
	} else if (job->kind == GUEST_SAVING) {
		saved(g, job);
	} else if (job->kind == GUEST_DISK) {
		disk_made(g, job);
	} else if (!removed(g, job)) {
		return;
	}
	guests_touch(g);
}

static void life_done(void *arg, bool cancelled)
{
	struct life_job *job = arg;

	job->g->busy = GUEST_IDLE;
	if (cancelled)
		job->rc = err_set(&job->err, -ECANCELED, "cancelled");
	if (!job->g->agent->stopping)
		outcome(job->g, job);
	um__move_seal__free_unpacked(job->seal, NULL);
	free(job->spec_data);
	free(job->local_data);
	free(job->orphan);
	free(job);
}

static struct life_job *new_job(struct guest *g, enum guest_busy kind, struct err *err)
{
	struct life_job *job = calloc(1, sizeof(*job));

	if (!job) {
		(void)err_set(err, -ENOMEM, "memory is short");
		return NULL;
	}
	job->g = g;
	job->kind = kind;
	job->revision = g->revision;
	job->gone = g->gone;
	(void)str_copy(job->dir, sizeof(job->dir), g->dir);
	(void)str_format(job->kept, sizeof(job->kept), "%s/kept/%016llx", g->agent->config.state,
		(unsigned long long)g->uid);
	return job;
}

static void run_job(struct life_job *job, struct err *err)
{
	struct guest *g = job->g;

	g->busy = job->kind;
	if (err->code ||
		loop_work_run(g->agent->loop, "guest", life_work, life_done, job, err) < 0) {
		g->busy = GUEST_IDLE;
		life_trouble(g, err);
		free(job->spec_data);
		free(job->local_data);
		free(job->orphan);
		free(job);
	}
}

/* The slot is the guest's for as long as its folder is. */
static int need_slot(struct guest *g, struct err *err)
{
	int slot;

	if (g->slot < GUESTS_SLOTS)
		return 0;
	slot = guests_take_slot(g->agent->guests, err);
	if (slot < 0)
		return slot;
	g->slot = (uint32_t)slot;
	return 0;
}

void life_save(struct guest *g)
{
	struct err err = ERR_INIT;
	struct life_job *job = new_job(g, GUEST_SAVING, &err);

	if (!job) {
		life_trouble(g, &err);
		return;
	}
	if (need_slot(g, &err) == 0 &&
		life_pack_local(g, g->gone, &job->local_data, &job->local_size, &err) == 0 &&
		g->assign && g->spec_revision > g->saved_revision)
		(void)pack_spec(g, &job->spec_data, &job->spec_size, &err);
	job->discard = g->discard && !g->run;
	/* One that takes is assigned. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	job->take = guest_takes(g) ? g->assign->from_move : 0;
	run_job(job, &err);
}

void life_disk(struct guest *g)
{
	struct err err = ERR_INIT;
	struct life_job *job = new_job(g, GUEST_DISK, &err);
	struct imgstore_info info;

	if (!job) {
		life_trouble(g, &err);
		return;
	}
	memcpy(job->image, g->assign->image->id.data, sizeof(job->image));
	job->take = guest_takes(g) ? g->assign->from_move : 0;
	job->epoch = g->assign->epoch;
	job->fresh = !job->take && g->disk_generation != g->assign->disk_generation;
	job->uid = life_uid(g);
	if (imgstore_info(g->agent->store, job->image, &info, &err) == 0 &&
		g->assign->spec->disk_bytes > info.size)
		job->disk_bytes = g->assign->spec->disk_bytes;
	if (job->fresh || job->take)
		g->disk_generation = g->assign->disk_generation; /* as it will be */
	(void)life_pack_local(g, false, &job->local_data, &job->local_size, &err);
	run_job(job, &err);
	report_guest(g);
}

void life_remove(struct guest *g)
{
	struct err err = ERR_INIT;
	struct life_job *job = new_job(g, GUEST_REMOVING, &err);

	if (!job) {
		life_trouble(g, &err);
		return;
	}
	life_ports_remove(g);
	/* Without a readable record nobody can tell whose it is: set aside as it is. */
	job->keep_disk = g->keep_disk && !g->assign;
	(void)orphans_record(g, &job->orphan, &job->orphan_size, &err);
	job->moved = g->frozen_move != 0 && !g->keep_disk;
	job->fence = guest_epoch(g);
	run_job(job, &err);
}
