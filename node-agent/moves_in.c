/* The target's side of a move. */
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
#include "node-agent/link.h"
#include "node-agent/moves_int.h"
#include "node-agent/reconcile.h"

#define FETCH_TRIES 6		 /* in a row, with the scheduler in reach: half a minute */
#define RESERVE_BASE (64u << 10) /* beside the guest's record, twice */

/* ---------------------------------------------------------------- artefacts */

static const Um__BlobRef *ref_of(const struct move *m, size_t i)
{
	const Um__GuestAssign *a = m->target->guest;

	return i == 0 ? a->image : i == 1 ? a->kernel : a->modules;
}

static void explain(struct move *m, const char *reason)
{
	if (strcmp(m->reason, reason) == 0)
		return;
	(void)snprintf(m->reason, sizeof(m->reason), "%s", reason);
	moves_news(m);
}

/* One of those that are missing.  -ENOSPC, or what it is: it will not come. */
static int wait_for(struct move *m, size_t i, struct err *err)
{
	struct agent *agent = m->moves->agent;
	const Um__BlobRef *ref = ref_of(m, i);
	char reason[GUESTS_REASON] = "";
	unsigned failures;
	int code;

	m->waits[i] = true;
	blobs_wait(agent->blobs, ref, m->number);
	failures = blobs_explain_one(agent->blobs, ref->id.data, i, reason, sizeof(reason), &code);
	if (code == -ENOSPC || (code && failures >= FETCH_TRIES && link_up(agent->link)))
		return err_set(err, code, "what it needs cannot be had there: %s", reason);
	if (code)
		(void)snprintf(
			reason + strlen(reason), sizeof(reason) - strlen(reason), "; tried again");
	explain(m, reason);
	return 0;
}

/* 1: all are here, and held; 0: not yet. */
static int hold_blobs(struct move *m, struct err *err)
{
	struct agent *agent = m->moves->agent;
	int rc = 1;

	for (size_t i = 0; i < GUESTS_BLOBS && rc >= 0; i++) {
		const Um__BlobRef *ref = ref_of(m, i);

		if (!ref || m->held[i])
			continue;
		m->held[i] = imgstore_hold(agent->store, ref->id.data, NULL) == 0;
		if (!m->held[i])
			rc = wait_for(m, i, err);
	}
	return rc;
}

static void drop_blobs(struct move *m)
{
	struct agent *agent = m->moves->agent;

	for (size_t i = 0; i < GUESTS_BLOBS; i++) {
		if (m->held[i])
			blobs_release(agent->blobs, ref_of(m, i)->id.data);
		else if (m->waits[i] && !agent->stopping)
			blobs_unwait(agent->blobs, ref_of(m, i)->id.data, m->number);
		m->held[i] = m->waits[i] = false;
	}
}

static void close_session(struct move *m)
{
	struct moverecv *recv = m->recv;

	m->recv = NULL;
	if (!recv)
		return;
	m->moves->closing++;
	moverecv_close(recv);
}

void move_in_close(struct move *m)
{
	close_session(m);
	loop_timer_close(m->tick);
	m->tick = NULL;
	drop_blobs(m);
}

/* ---------------------------------------------------------------- in the pool */

struct move_job {
	struct move *m;
	bool forget, unread; /* unread: nobody knows what it is */
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
	int rc = fs_join(path, sizeof(path), job->dir, MOVES_RESERVE, err);

	if (rc < 0 || access(path, F_OK) == 0)
		return rc;
	zeroes = calloc(1, size);
	rc = zeroes ? fs_write_atomic(path, zeroes, size, 0600, err)
		    : err_set(err, -ENOMEM, "memory is short");
	free(zeroes);
	return rc;
}

/* The file that the guest's kernel will have under its disk, checked to its last byte: a
 * disk means nothing on an image that is not what it was. */
static int check_base(struct move_job *job)
{
	char path[PATH_MAX];
	int rc = imgstore_checked(
		job->m->moves->agent->store, job->image, job->disk_bytes, path, &job->err);

	if (rc < 0)
		return err_wrap(&job->err, "the image on this host is damaged");
	if (stat(path, &job->base) < 0)
		return err_errno(&job->err, errno, "%s", path);
	return 0;
}

static int prepare(struct move_job *job)
{
	const struct fs_file offer = {MOVES_OFFER, job->offer, job->offer_size};
	Um__MoveSeal *seal = NULL;
	int rc = fs_mkdirs(job->dir, 0700, &job->err);

	crash_point("move-prepare");
	if (rc == 0)
		rc = fs_write_files(job->dir, &offer, 1, 0600, &job->err);
	if (rc == 0)
		rc = reserve(job, &job->err);
	crash_point("move-prepared");
	if (rc == 0)
		rc = check_base(job);
	if (rc == 0)
		rc = moves_read_seal(job->dir, &seal, &job->err);
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

/* Of what could not be read only that is removed which was surely not whole: else it may be
 * all that there is of a disk. */
static int forget_unread(const char *dir, struct err *err)
{
	Um__MoveSeal *seal = NULL;
	struct err why = ERR_INIT;
	int rc = moves_read_seal(dir, &seal, &why);

	if (rc == 0 && !seal)
		return forget(dir, err);
	um__move_seal__free_unpacked(seal, NULL);
	log_warn("a copy without the record of its move is left alone", LOG_STR("folder", dir));
	return 0;
}

static void work(void *arg)
{
	struct move_job *job = arg;

	job->rc = !job->forget	? prepare(job)
		  : job->unread ? forget_unread(job->dir, &job->err)
				: forget(job->dir, &job->err);
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
	if (!job->forget) {
		m->moves->preparing = false;
		moves_again(m->moves);
	}
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
	job->unread = !m->target;
	memcpy(job->dir, m->dir, sizeof(job->dir));
	if (!forget) {
		/* Without a target it is to be forgotten.
		 * NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
		memcpy(job->image, m->target->guest->image->id.data, sizeof(job->image));
		job->disk_bytes = m->target->guest->spec->disk_bytes;
		job->offer_size = um__move_target__get_packed_size(m->target);
		job->offer = malloc(job->offer_size + 1);
		if (job->offer)
			(void)um__move_target__pack(m->target, job->offer);
	}
	m->busy = true;
	m->moves->preparing |= !forget;
	if ((forget || job->offer) &&
		loop_work_run(m->moves->agent->loop, "move", work, done, job, &err) == 0)
		return;
	m->busy = false;
	m->moves->preparing &= forget;
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

static void on_released(void *arg)
{
	moves_released(arg);
}

static void take_sessions(struct move *m)
{
	static const struct moverecv_ops ops = {
		.on_sealed = on_sealed, .on_trouble = on_trouble, .on_released = on_released};
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
	if (rc < 0) {
		moves_fail(m, &err);
		return;
	}
	m->holding = true;
	if (!sealed)
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

/* The guest that is to take it, if it is here.  Of a move that could not be read only its
 * number is known. */
static struct guest *taker(const struct move *m)
{
	struct guests *guests = m->moves->agent->guests;
	struct guest *g = m->uid ? guests_find(guests, m->uid) : guests_first(guests);

	for (; g; g = m->uid ? NULL : guests_next(g))
		if (g->assign && !g->gone && g->assign->from_move == m->number)
			return g;
	return NULL;
}

/* A copy is begun when all that it needs is here, in its turn. */
static void begin(struct move *m)
{
	struct err err = ERR_INIT;
	int rc = hold_blobs(m, &err);

	if (rc < 0) {
		moves_fail(m, &err);
		return;
	}
	if (rc == 0 || (!m->prepared && m->moves->preparing))
		return;
	explain(m, "");
	if (m->prepared) {
		take_sessions(m);
		return;
	}
	crash_point("move-fetched");
	run_job(m, false);
}

void move_in_step(struct move *m)
{
	struct agent *agent = m->moves->agent;
	struct guest *its = taker(m);

	if (m->busy || m->gone || agent->stopping)
		return;
	if (!m->dir[0] && moves_dir(agent->config.state, m->number, m->dir) < 0) {
		moves_gone(m);
		return;
	}
	/* The guest's, from here on: no source may touch it any more. */
	if (its)
		close_session(m);
	if (m->ended && !(its && guest_takes(its))) {
		move_in_close(m);
		run_job(m, true);
		return;
	}
	if (its || m->ended || m->recv || m->state == UM__MOVE_STATE__MOVE_FAILED)
		return;
	/* An older copy on its way out: moves_removed() comes here again. */
	if (guests_find(agent->guests, m->uid))
		explain(m, "what this host has of the guest is not removed yet");
	else
		begin(m);
}
