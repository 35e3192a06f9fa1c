/* The target's side of a move. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/crash.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/blobs.h"
#include "node-agent/desired.h"
#include "node-agent/movelog.h"
#include "node-agent/moves_int.h"
#include "node-agent/reconcile.h"

#define OFFER "offer.pb"
#define OFFER_MAX (16u << 20)
#define RESERVE "reserve"
#define RESERVE_BASE (64u << 10) /* beside the guest's record, twice */
#define SEAL_MAX 4096u

static int dir_of(const char *state, uint64_t number, char out[PATH_MAX - 64])
{
	return str_format(out, PATH_MAX - 64, "%s/moves/%016" PRIx64, state, number);
}

/* 1: read; 0: not there.  What is there and cannot be read is an error: taken for missing
 * it would cost a disk. */
static int read_record(
	const char *dir, const char *name, size_t max, struct buf *out, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, name, err);

	if (rc == 0)
		rc = fs_read(path, max, out, err);
	return rc == -ENOENT ? 0 : rc < 0 ? rc : 1;
}

/* *OUT is NULL when there is none, or it is no good. */
static int read_seal(const char *dir, Um__MoveSeal **out, struct err *err)
{
	Um__MoveSeal *seal = NULL;
	struct buf data;
	int rc;

	buf_init(&data);
	rc = read_record(dir, MOVERECV_SEALED, SEAL_MAX, &data, err);
	if (rc > 0)
		seal = um__move_seal__unpack(NULL, data.size, data.data);
	buf_free(&data);
	if (seal && seal->digest.len != MOVE_DIGEST) {
		um__move_seal__free_unpacked(seal, NULL);
		seal = NULL;
	}
	*out = seal;
	return rc < 0 ? rc : 0;
}

/* ---------------------------------------------------------------- artefacts */

static const Um__BlobRef *ref_of(const struct move *m, size_t i)
{
	const Um__GuestAssign *a = m->target->guest;

	return i == 0 ? a->image : i == 1 ? a->kernel : a->modules;
}

/* True when all are here, and held. */
static bool hold_blobs(struct move *m)
{
	struct agent *agent = m->moves->agent;
	bool all = true;

	for (size_t i = 0; i < GUESTS_BLOBS; i++) {
		const Um__BlobRef *ref = ref_of(m, i);

		if (!ref || m->held[i])
			continue;
		m->held[i] = imgstore_hold(agent->store, ref->id.data, NULL) == 0;
		if (!m->held[i])
			blobs_prefetch(agent->blobs, ref);
		all = all && m->held[i];
	}
	return all;
}

static void drop_blobs(struct move *m)
{
	for (size_t i = 0; i < GUESTS_BLOBS; i++)
		if (m->held[i]) {
			imgstore_drop(m->moves->agent->store, ref_of(m, i)->id.data);
			m->held[i] = false;
		}
}

void move_in_close(struct move *m)
{
	moverecv_close(m->recv);
	m->recv = NULL;
	loop_timer_close(m->tick);
	m->tick = NULL;
	drop_blobs(m);
}

/* ---------------------------------------------------------------- in the pool */

struct move_job {
	struct move *m;
	bool forget;
	char dir[PATH_MAX - 64];
	uint8_t *offer;
	size_t offer_size;
	uint8_t image[MANIFEST_HASH];
	uint64_t disk_bytes;
	struct stat base;
	bool sealed;
	uint8_t digest[MOVE_DIGEST];
	int rc;
	struct err err;
};

/* Room for the records that the guest needs here when its disk is this host's alone: then
 * a full disk must not leave it nowhere (moves_make_room()). */
static int reserve(const struct move_job *job, struct err *err)
{
	size_t size = RESERVE_BASE + 2 * job->offer_size;
	char path[PATH_MAX];
	uint8_t *zeroes;
	int rc = fs_join(path, sizeof(path), job->dir, RESERVE, err);

	if (rc < 0 || access(path, F_OK) == 0)
		return rc;
	zeroes = calloc(1, size);
	rc = zeroes ? fs_write_atomic(path, zeroes, size, 0600, err)
		    : err_set(err, -ENOMEM, "memory is short");
	free(zeroes);
	return rc;
}

void moves_make_room(const char *state, uint64_t number)
{
	char dir[PATH_MAX - 64], path[PATH_MAX];

	if (dir_of(state, number, dir) >= 0 && fs_join(path, sizeof(path), dir, RESERVE, NULL) == 0)
		(void)unlink(path);
}

static int prepare(struct move_job *job)
{
	struct imgstore *store = job->m->moves->agent->store;
	const struct fs_file offer = {OFFER, job->offer, job->offer_size};
	char path[PATH_MAX];
	struct imgstore_info info;
	Um__MoveSeal *seal;
	int rc = fs_mkdirs(job->dir, 0700, &job->err);

	if (rc == 0)
		rc = fs_write_files(job->dir, &offer, 1, 0600, &job->err);
	if (rc == 0)
		rc = reserve(job, &job->err);
	/* A disk means nothing on an image that is not what it was. */
	if (rc == 0) {
		rc = imgstore_check(store, job->image, &job->err);
		if (rc < 0)
			return err_wrap(&job->err, "the image on this host is damaged");
	}
	if (rc == 0)
		rc = imgstore_info(store, job->image, &info, &job->err);
	if (rc == 0)
		rc = job->disk_bytes > info.size
			     ? imgstore_sized(store, job->image, job->disk_bytes, path, &job->err)
			     : imgstore_path(store, job->image, path, &job->err);
	if (rc < 0)
		return rc;
	if (stat(path, &job->base) < 0)
		return err_errno(&job->err, errno, "%s", path);
	rc = read_seal(job->dir, &seal, &job->err);
	if (rc < 0)
		return rc;
	if (seal) {
		job->sealed = true;
		memcpy(job->digest, seal->digest.data, sizeof(job->digest));
		um__move_seal__free_unpacked(seal, NULL);
	}
	return 0;
}

/* The seal goes first: what is left of a removal that was interrupted must not look like
 * a whole copy (forget_one()). */
static int forget(const char *dir, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, MOVERECV_SEALED, err);

	if (rc == 0 && access(path, F_OK) == 0) {
		rc = fs_remove_tree(path, err);
		if (rc == 0)
			rc = fs_sync_dir(dir, err);
	}
	return rc < 0 ? rc : fs_remove_tree(dir, err);
}

static void work(void *arg)
{
	struct move_job *job = arg;

	job->rc = job->forget ? forget(job->dir, &job->err) : prepare(job);
}

static void prepared(struct move *m, const struct move_job *job)
{
	m->prepared = true;
	m->spec = (struct cow_spec){.backing = RUNNERDIR_JAIL_BASE,
		.size = (uint64_t)job->base.st_size,
		.mtime = (uint32_t)job->base.st_mtime,
		.mode = 0600,
		.uid = (uid_t)-1,
		.gid = (gid_t)-1};
	if (!job->sealed)
		return;
	memcpy(m->digest, job->digest, sizeof(m->digest));
	moves_state(m, UM__MOVE_STATE__MOVE_SEALED);
}

static void on_again(void *arg)
{
	move_in_step(arg);
}

/* A disk that has errors, or is read-only: what is there counts until it is gone. */
static void not_removed(struct move *m, const struct err *err)
{
	log_warn("a copy cannot be removed", LOG_U64("move", m->number), LOG_ERR(err));
	(void)snprintf(m->reason, sizeof(m->reason), "%s", err_msg(err));
	moves_news(m);
	if (!m->tick &&
		loop_timer_open(m->moves->agent->loop, "move", on_again, m, &m->tick, NULL) < 0)
		return; /* at the next start, then */
	loop_timer_arm(m->tick, reconcile_backoff(++m->failures));
}

static void done(void *arg, bool cancelled)
{
	struct move_job *job = arg;
	struct move *m = job->m;

	m->busy = false;
	if (!cancelled && !m->moves->stopped) {
		if (job->forget && job->rc < 0) {
			not_removed(m, &job->err);
		} else if (job->forget) {
			crash_point("move-forget");
			moves_gone(m);
		} else {
			if (job->rc < 0)
				moves_fail(m, &job->err);
			else
				prepared(m, job);
			move_in_step(m);
		}
	}
	free(job->offer);
	free(job);
}

static void run_job(struct move *m, bool forget)
{
	struct move_job *job = calloc(1, sizeof(*job));
	struct err err = ERR_INIT;

	if (!job) {
		(void)err_set(&err, -ENOMEM, "memory is short");
		moves_fail(m, &err);
		return;
	}
	job->m = m;
	job->forget = forget;
	memcpy(job->dir, m->dir, sizeof(job->dir));
	if (!forget) {
		memcpy(job->image, m->target->guest->image->id.data, sizeof(job->image));
		job->disk_bytes = m->target->guest->spec->disk_bytes;
		job->offer_size = um__move_target__get_packed_size(m->target);
		job->offer = malloc(job->offer_size + 1);
		if (job->offer)
			(void)um__move_target__pack(m->target, job->offer);
	}
	m->busy = true;
	if ((forget || job->offer) &&
		loop_work_run(m->moves->agent->loop, "move", work, done, job, &err) == 0)
		return;
	m->busy = false;
	free(job->offer);
	free(job);
	(void)err_set(&err, -ENOMEM, "memory is short");
	moves_fail(m, &err);
}

/* ---------------------------------------------------------------- the session */

static void on_sealed(void *arg, const uint8_t digest[MOVE_DIGEST])
{
	struct move *m = arg;

	memcpy(m->digest, digest, MOVE_DIGEST);
	m->reason[0] = '\0';
	moves_state(m, UM__MOVE_STATE__MOVE_SEALED);
}

static void on_trouble(void *arg, const struct err *err)
{
	struct move *m = arg;

	log_warn("a session of a move failed", LOG_U64("move", m->number), LOG_ERR(err));
	if (m->state == UM__MOVE_STATE__MOVE_SEALED)
		return;
	(void)snprintf(m->reason, sizeof(m->reason), "%s", err_msg(err));
	moves_news(m);
}

static void take_sessions(struct move *m)
{
	static const struct moverecv_ops ops = {.on_sealed = on_sealed, .on_trouble = on_trouble};
	const Um__GuestAssign *a = m->target->guest;
	bool sealed = m->state == UM__MOVE_STATE__MOVE_SEALED;
	char path[PATH_MAX];
	struct moverecv_config config = {.move = m->number,
		.epoch = a->epoch,
		.disk_generation = a->disk_generation,
		.path = path,
		.dir = m->dir,
		.sealed = sealed ? m->digest : NULL,
		.spec = m->spec,
		.image_id = a->image->id.data};
	struct err err = ERR_INIT;
	int rc = fs_join(path, sizeof(path), m->dir, "cow", &err);

	if (rc >= 0)
		rc = moverecv_open(m->moves->agent->loop, &config, &ops, m, &m->recv, &err);
	if (rc < 0)
		moves_fail(m, &err);
	else if (!sealed)
		moves_state(m, UM__MOVE_STATE__MOVE_READY);
}

bool moves_key(const struct moves *moves, const uint8_t key[32])
{
	for (struct move *m = moves->all; m; m = m->hh.next)
		if (m->target && m->target->source_key.len == CURVE_KEY && !m->gone &&
			memcmp(m->target->source_key.data, key, CURVE_KEY) == 0)
			return true;
	return false;
}

static uint64_t number_of(const Um__Envelope *env)
{
	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_MOVE_OFFER:
		return env->move_offer->move;
	case UM__ENVELOPE__BODY_MOVE_BLOCKS:
		return env->move_blocks->move;
	case UM__ENVELOPE__BODY_MOVE_LOG:
		return env->move_log->move;
	case UM__ENVELOPE__BODY_MOVE_SEAL:
		return env->move_seal->move;
	default:
		return 0;
	}
}

static void refuse(
	struct zsock *sock, const struct zpeer *peer, uint64_t id, const char *text, bool later)
{
	Um__Envelope env = wire_env(id);
	Um__Error error = UM__ERROR__INIT;

	error.code = later ? UM__ERROR_CODE__UNAVAILABLE : UM__ERROR_CODE__CONFLICT;
	error.message = (char *)(uintptr_t)text;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	(void)zsock_send(sock, peer, &env, NULL, 0, NULL);
}

bool moves_message(struct moves *moves, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	uint64_t number = number_of(env);
	struct move *m = number ? moves_find(moves, number) : NULL;

	if (!number)
		return false;
	if (m && m->recv &&
		(peer->local || memcmp(peer->pubkey, m->target->source_key.data, CURVE_KEY) == 0))
		return moverecv_message(m->recv, sock, peer, env, bulk, bulk_size);
	/* Of what is under way, the source hears when it offers again. */
	if (env->body_case != UM__ENVELOPE__BODY_MOVE_OFFER)
		return true;
	if (m && m->state == UM__MOVE_STATE__MOVE_FAILED)
		refuse(sock, peer, env->id, m->reason, false);
	else
		refuse(sock, peer, env->id, "this move is not expected here yet", true);
	return true;
}

/* ---------------------------------------------------------------- steps */

void move_in_step(struct move *m)
{
	struct agent *agent = m->moves->agent;
	struct guest *g = guests_find(agent->guests, m->uid);
	bool its = g && g->assign && !g->gone && g->assign->from_move == m->number;

	if (m->busy || m->gone || agent->stopping)
		return;
	if (!m->dir[0] && dir_of(agent->config.state, m->number, m->dir) < 0) {
		moves_gone(m);
		return;
	}
	/* The guest's, from here on: no source may touch it any more. */
	if (its) {
		moverecv_close(m->recv);
		m->recv = NULL;
	}
	if (m->ended && !(its && guest_takes(g))) {
		move_in_close(m);
		run_job(m, true);
		return;
	}
	if (its || m->ended || m->recv || m->state == UM__MOVE_STATE__MOVE_FAILED)
		return;
	if (g) { /* an older copy on its way out: moves_removed() comes here again */
		(void)snprintf(m->reason, sizeof(m->reason), "%s",
			"what this host has of the guest is not removed yet");
		moves_news(m);
		return;
	}
	if (!hold_blobs(m))
		return;
	m->reason[0] = '\0';
	if (!m->prepared)
		run_job(m, false);
	else
		take_sessions(m);
}

/* ---------------------------------------------------------------- taking */

int moves_take(
	const char *state, uint64_t number, const char *dir, Um__MoveSeal **seal, struct err *err)
{
	char from[PATH_MAX - 64], old[PATH_MAX], new[PATH_MAX];
	int rc;

	if (dir_of(state, number, from) < 0)
		return err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	rc = read_seal(from, seal, err);
	if (rc < 0)
		return rc;
	if (!*seal)
		return err_set(err, -ENOENT,
			"the disk of move %" PRIu64 " is not here, or not whole", number);
	rc = movelog_rename(from, dir, err);
	if (rc == 0)
		rc = fs_join(old, sizeof(old), from, "cow", err);
	if (rc == 0)
		rc = fs_join(new, sizeof(new), dir, "cow", err);
	/* Not there: it was renamed before a restart. */
	if (rc == 0 && rename(old, new) < 0 && (errno != ENOENT || access(new, F_OK) < 0))
		rc = err_errno(err, errno, "rename %s", old);
	if (rc == 0)
		rc = fs_sync_dir(dir, err);
	crash_point("move-rename");
	if (rc < 0) {
		um__move_seal__free_unpacked(*seal, NULL);
		*seal = NULL;
	}
	return rc;
}

/* ---------------------------------------------------------------- at the start */

/* *OUT is NULL when there is none, or it is no good. */
static int read_offer(const char *dir, uint64_t number, Um__MoveTarget **out, struct err *err)
{
	Um__MoveTarget *offer = NULL;
	struct buf data;
	int rc;

	buf_init(&data);
	rc = read_record(dir, OFFER, OFFER_MAX, &data, err);
	if (rc > 0)
		offer = um__move_target__unpack(NULL, data.size, data.data);
	buf_free(&data);
	if (offer &&
		(offer->move != number || !offer->guest || offer->source_key.len != CURVE_KEY ||
			desired_check(offer->guest, NULL) < 0)) {
		um__move_target__free_unpacked(offer, NULL);
		offer = NULL;
	}
	*out = offer;
	return rc < 0 ? rc : 0;
}

/* Without its offer: a whole copy may be all that there is of a disk, and a guest that
 * takes it needs no offer. */
static int forget_one(const char *dir, struct err *err)
{
	Um__MoveSeal *seal = NULL;
	int rc = read_seal(dir, &seal, err);

	if (rc < 0)
		return rc;
	if (seal) {
		log_warn("a copy without the record of its move is left alone",
			LOG_STR("folder", dir));
		um__move_seal__free_unpacked(seal, NULL);
		return 0;
	}
	log_warn("a move that was never begun is forgotten", LOG_STR("folder", dir));
	(void)fs_remove_tree(dir, NULL);
	return 0;
}

static int load_one(struct moves *moves, const char *dir, uint64_t number, struct err *err)
{
	Um__MoveTarget *offer = NULL;
	struct move *m;
	int rc = read_offer(dir, number, &offer, err);

	if (rc < 0)
		return err_wrap(err, "move %" PRIu64, number);
	if (!offer)
		return forget_one(dir, err);
	m = moves_add(moves, number, offer->guest->uid, UM__MOVE_SIDE__MOVE_TARGET);
	if (!m) {
		um__move_target__free_unpacked(offer, NULL);
		return err_set(err, -ENOMEM, "memory is short");
	}
	m->target = offer;
	m->dirty = true;
	move_in_step(m);
	return 0;
}

int moves_load(struct moves *moves, struct err *err)
{
	char path[PATH_MAX], one[PATH_MAX - 64];
	struct dirent *entry;
	DIR *dir;
	int rc = agent_path(moves->agent, "moves", path, err);

	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", path);
	while (rc == 0 && (entry = readdir(dir))) {
		uint8_t raw[8];
		uint64_t number = 0;

		if (strlen(entry->d_name) != 16 || str_unhex(raw, sizeof(raw), entry->d_name) < 0)
			continue;
		for (size_t i = 0; i < sizeof(raw); i++)
			number = number << 8 | raw[i];
		if (dir_of(moves->agent->config.state, number, one) >= 0)
			rc = load_one(moves, one, number, err);
	}
	(void)closedir(dir);
	return rc;
}
