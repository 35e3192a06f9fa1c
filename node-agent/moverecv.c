#include "node-agent/moverecv.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/crash.h"
#include "lib/fs.h"
#include "lib/str.h"
#include "node-agent/movelog.h"
#include "node-agent/movespace.h"

#define AGAIN_MS 20 /* a full queue to the source is tried again */

/* A message that waits for the pool, or is in it. */
struct item {
	struct item *next;
	uint64_t session;
	Um__Envelope *env; /* owned */
	uint8_t *bulk;
	size_t bulk_size;
	/* What came of it. */
	int rc;
	struct err err;
	bool begun;	   /* this is not its first turn in the pool */
	struct buf *haves; /* packed; of this turn */
	size_t have_count, have_sent;
	uint64_t written;
	bool synced;
};

struct moverecv {
	struct loop *loop;
	struct moverecv_config config;
	const struct moverecv_ops *ops;
	void *arg;
	char path[COW_PATH_MAX], backing[COW_PATH_MAX], dir[COW_PATH_MAX];
	uint8_t image_id[32];
	struct loop_timer *alive, *again;
	struct item *current; /* the one message that is worked at; NULL: none */
	bool closed, busy;    /* busy: in the pool */
	/* The pool's while busy. */
	bool is_sealed;
	uint8_t digest[MOVE_DIGEST];
	struct movein *in;
	uint64_t written, unsynced;
	/* The session; 0: none. */
	uint64_t session, sessions, request, seq;
	struct zsock *sock;
	struct zpeer peer;
	struct item *first, **last;
	unsigned queued;
};

static void next_job(struct moverecv *r);

static void haves_free(struct item *item)
{
	for (size_t i = 0; i < item->have_count; i++)
		buf_free(&item->haves[i]);
	free(item->haves);
	item->haves = NULL;
	item->have_count = item->have_sent = 0;
}

static void item_free(struct item *item)
{
	if (!item)
		return;
	haves_free(item);
	free(item->bulk);
	if (item->env)
		um__envelope__free_unpacked(item->env, NULL);
	free(item);
}

static void drop_queue(struct moverecv *r)
{
	while (r->first) {
		struct item *item = r->first;

		r->first = item->next;
		item_free(item);
	}
	r->last = &r->first;
	r->queued = 0;
}

/* ---------------------------------------------------------------- the pool */

struct job {
	struct moverecv *recv;
	struct item *item;
};

static int keep_have(void *arg, const Um__MoveHave *have, struct err *err)
{
	struct job *job = arg;
	struct item *item = job->item;
	Um__Envelope env = wire_env(item->env->id);
	Um__MoveHave mine = *have;
	struct buf *grown = realloc(item->haves, (item->have_count + 1) * sizeof(*grown));

	if (!grown)
		return err_set(err, -ENOMEM, "memory is short");
	item->haves = grown;
	mine.move = job->recv->config.move;
	env.more = have->n_segments != 0;
	env.body_case = UM__ENVELOPE__BODY_MOVE_HAVE;
	env.move_have = &mine;
	buf_init(&grown[item->have_count]);
	return wire_pack(&env, WIRE_MESSAGE_MAX, &grown[item->have_count++], err);
}

static int open_copy(struct moverecv *r, const Um__MoveOffer *offer, struct err *err)
{
	int rc = 0;

	movein_close(r->in);
	r->in = NULL;
	if (offer->anew && !r->is_sealed && unlink(r->path) < 0 && errno != ENOENT)
		return err_errno(err, errno, "remove %s", r->path);
	rc = r->is_sealed ? movein_reopen(r->path, &r->config.spec, &r->in, err)
			  : movein_open(r->path, &r->config.spec, &r->in, err);
	if (rc < 0)
		return rc;
	movein_slice(r->in, MOVE_SLICE_MS);
	return r->is_sealed
		       ? 0
		       : movespace_check_copy(movein_fd(r->in), r->path, offer->data_bytes, err);
}

static int work_offer(struct job *job, struct err *err)
{
	struct moverecv *r = job->recv;
	Um__MoveHave end = UM__MOVE_HAVE__INIT;
	int rc = job->item->begun ? 0 : open_copy(r, job->item->env->move_offer, err);

	if (rc >= 0)
		rc = movein_have(r->in, keep_have, job, err);
	return rc != 0 ? rc : keep_have(job, &end, err);
}

static int work_blocks(struct moverecv *r, struct item *item, struct err *err)
{
	uint64_t before = movein_written(r->in);
	int rc;

	if (r->is_sealed)
		return err_set(err, -EPERM, "the disk is complete here: nothing may change in it");
	rc = movespace_check(movein_fd(r->in), r->path, item->env->move_blocks->raw_size, err);
	if (rc < 0)
		return rc;
	rc = movein_blocks(r->in, item->env->move_blocks, item->bulk, item->bulk_size, err);
	item->written = movein_written(r->in) - before;
	crash_point("move-write");
	if (rc >= 0 && r->unsynced + item->written >= MOVERECV_SYNC) {
		rc = movein_sync(r->in, err);
		item->synced = rc >= 0;
	}
	return rc;
}

static int work_log(struct moverecv *r, struct item *item, struct err *err)
{
	if (!r->dir[0] || r->is_sealed)
		return 0;
	return movelog_take(r->dir, item->env->move_log, item->bulk, item->bulk_size, err);
}

/* That the copy is whole must be known after a restart, and before anybody is told. */
static int keep_seal(struct moverecv *r, const Um__MoveSeal *seal, struct err *err)
{
	uint8_t packed[1024];
	char path[PATH_MAX];
	int rc;

	if (!r->dir[0])
		return 0;
	if (um__move_seal__get_packed_size(seal) > sizeof(packed))
		return err_set(err, -EBADMSG, "a seal that makes no sense");
	rc = movelog_sync(r->dir, err);
	if (rc >= 0)
		rc = fs_join(path, sizeof(path), r->dir, MOVERECV_SEALED, err);
	return rc < 0 ? rc
		      : fs_write_atomic(path, packed, um__move_seal__pack(seal, packed), 0600, err);
}

static int work_seal(struct moverecv *r, const Um__MoveSeal *seal, struct err *err)
{
	int rc;

	if (!seal->digest.len) {
		rc = seal->last ? movein_prove(r->in, err) : movein_settle(r->in, err);
		if (rc == 0)
			crash_point("move-sync");
		return rc;
	}
	if (seal->digest.len != MOVE_DIGEST)
		return err_set(err, -EBADMSG, "a digest of %zu bytes", seal->digest.len);
	if (r->is_sealed)
		return memcmp(seal->digest.data, r->digest, MOVE_DIGEST) == 0
			       ? 0
			       : err_set(err, -EPERM, "another disk was sealed here");
	rc = movein_seal(r->in, seal->digest.data, err);
	if (rc == 0)
		rc = keep_seal(r, seal, err);
	if (rc != 0)
		return rc;
	r->is_sealed = true;
	memcpy(r->digest, seal->digest.data, MOVE_DIGEST);
	crash_point("move-sealed");
	return 0;
}

static void work(void *arg)
{
	struct job *job = arg;
	struct item *item = job->item;

	item->err = ERR_INIT;
	if (item->env->body_case == UM__ENVELOPE__BODY_MOVE_OFFER)
		item->rc = work_offer(job, &item->err);
	else if (!job->recv->in)
		item->rc = err_set(&item->err, -EPROTO, "blocks without an offer");
	else if (item->env->body_case == UM__ENVELOPE__BODY_MOVE_BLOCKS)
		item->rc = work_blocks(job->recv, item, &item->err);
	else if (item->env->body_case == UM__ENVELOPE__BODY_MOVE_LOG)
		item->rc = work_log(job->recv, item, &item->err);
	else
		item->rc = work_seal(job->recv, item->env->move_seal, &item->err);
}

/* ---------------------------------------------------------------- answers */

static void reply(struct moverecv *r, Um__Envelope *env)
{
	/* An answer that cannot go is missed by the source: it begins anew. */
	(void)zsock_send(r->sock, &r->peer, env, NULL, 0, NULL);
}

static void end_session(struct moverecv *r, const struct err *err)
{
	Um__Envelope env = wire_env(r->request);
	Um__Error error = UM__ERROR__INIT;

	error.code = wire_code_from_errno(err->code);
	if (err->code == -ESTALE)
		error.code = UM__ERROR_CODE__CONFLICT;
	/* By a session of ours that is ending. */
	if (err->code == -EBUSY)
		error.code = UM__ERROR_CODE__UNAVAILABLE;
	error.message = (char *)(uintptr_t)err->msg;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	reply(r, &env);
	r->session = 0;
	drop_queue(r);
	if (r->ops->on_trouble)
		r->ops->on_trouble(r->arg, err);
}

static void ack(struct moverecv *r, uint64_t seq, bool durable)
{
	Um__Envelope env = wire_env(r->request);
	Um__MoveAck message = UM__MOVE_ACK__INIT;

	message.move = r->config.move;
	message.seq = seq;
	message.durable = durable;
	env.body_case = UM__ENVELOPE__BODY_MOVE_ACK;
	env.move_ack = &message;
	reply(r, &env);
}

static void sealed(struct moverecv *r, const Um__MoveSeal *seal)
{
	Um__Envelope env = wire_env(r->request);
	Um__MoveSealed message = UM__MOVE_SEALED__INIT;

	message.move = r->config.move;
	message.digest = seal->digest;
	env.body_case = UM__ENVELOPE__BODY_MOVE_SEALED;
	env.move_sealed = &message;
	reply(r, &env);
	r->ops->on_sealed(r->arg, seal->digest.data);
}

static void answer(struct moverecv *r, struct item *item)
{
	const Um__Envelope *env = item->env;

	if (item->rc < 0)
		end_session(r, &item->err);
	else if (env->body_case == UM__ENVELOPE__BODY_MOVE_BLOCKS) {
		r->seq = env->move_blocks->seq;
		ack(r, r->seq, item->synced);
	} else if (env->body_case == UM__ENVELOPE__BODY_MOVE_LOG) {
		r->seq = env->move_log->seq;
		ack(r, r->seq, false);
	} else if (env->body_case == UM__ENVELOPE__BODY_MOVE_SEAL && env->move_seal->digest.len)
		sealed(r, env->move_seal);
	else if (env->body_case == UM__ENVELOPE__BODY_MOVE_SEAL)
		ack(r, r->seq, true);
}

static void release(struct moverecv *r)
{
	const struct moverecv_ops *ops = r->ops;
	void *arg = r->arg;

	drop_queue(r);
	item_free(r->current);
	movein_close(r->in);
	free(r);
	if (ops->on_released)
		ops->on_released(arg);
}

static void work_done(void *arg, bool cancelled);

/* The guest stands still: it waits for no other disk. */
static bool is_urgent(const struct item *item)
{
	const Um__Envelope *env = item->env;

	return env->body_case == UM__ENVELOPE__BODY_MOVE_SEAL &&
	       (env->move_seal->last || env->move_seal->digest.len);
}

static void go_on(struct moverecv *r, struct item *item)
{
	struct err err = ERR_INIT;
	struct job *job = calloc(1, sizeof(*job));
	int rc;

	r->current = item;
	r->busy = true;
	if (job) {
		job->recv = r;
		job->item = item;
		rc = is_urgent(item) ? loop_work_run(r->loop, "move", work, work_done, job, &err)
				     : loop_heavy_run(r->loop, "move", work, work_done, job, &err);
		if (rc >= 0)
			return;
	}
	free(job);
	r->busy = false;
	r->current = NULL;
	item_free(item);
	(void)err_set(&err, -ENOMEM, "memory is short");
	end_session(r, &err);
}

/* What the target has goes on as it is read: neither memory nor ZeroMQ's queue holds all of
 * a large disk's.  False: the queue is full, later. */
static bool send_haves(struct moverecv *r, struct item *item)
{
	for (; item->have_sent < item->have_count; item->have_sent++) {
		const struct buf *have = &item->haves[item->have_sent];

		if (zsock_send_packed(r->sock, &r->peer, have->data, have->size, NULL, 0, NULL) ==
			-EAGAIN)
			return false;
	}
	haves_free(item);
	return true;
}

/* After a turn in the pool, or when the queue was full: the next turn, or the answer. */
static void carry_on(struct moverecv *r)
{
	struct item *item = r->current;

	if (item->session == r->session && item->rc >= 0) {
		if (!send_haves(r, item)) {
			loop_timer_arm(r->again, AGAIN_MS);
			return;
		}
		if (item->rc == MOVE_MORE) {
			item->begun = true;
			go_on(r, item);
			return;
		}
	}
	/* Still at work: a callback may close us. */
	r->busy = true;
	if (item->session == r->session)
		answer(r, item);
	r->busy = false;
	r->current = NULL;
	item_free(item);
	if (r->closed)
		release(r);
	else
		next_job(r);
}

static void on_again(void *arg)
{
	carry_on(arg);
}

static void work_done(void *arg, bool cancelled)
{
	struct job *job = arg;
	struct moverecv *r = job->recv;
	struct item *item = job->item;

	free(job);
	r->busy = false;
	r->written += item->written;
	r->unsynced = item->synced ? 0 : r->unsynced + item->written;
	if (cancelled)
		item->session = UINT64_MAX; /* none: nothing is answered */
	if (r->closed)
		release(r);
	else
		carry_on(r);
}

/* The pool is at it: a large disk takes its time. */
static void on_alive(void *arg)
{
	struct moverecv *r = arg;

	if (!r->current || !r->session)
		return;
	ack(r, r->seq, false);
	loop_timer_arm(r->alive, MOVERECV_ALIVE_MS);
}

static void next_job(struct moverecv *r)
{
	struct item *item = r->first;

	if (!item || r->current)
		return;
	r->first = item->next;
	if (!r->first)
		r->last = &r->first;
	r->queued--;
	if (!loop_timer_armed(r->alive))
		loop_timer_arm(r->alive, MOVERECV_ALIVE_MS);
	go_on(r, item);
}

/* ---------------------------------------------------------------- what comes */

static void queue(struct moverecv *r, const Um__Envelope *env, const void *bulk, size_t size)
{
	struct item *item = calloc(1, sizeof(*item));
	struct err err = ERR_INIT;
	struct buf packed;
	int rc = item ? 0 : -ENOMEM;

	/* The message is only borrowed; a packed copy is the one deep copy there is. */
	buf_init(&packed);
	if (rc == 0)
		rc = wire_pack((Um__Envelope *)(uintptr_t)env, WIRE_MESSAGE_MAX, &packed, &err);
	if (rc >= 0)
		rc = wire_unpack(packed.data, packed.size, &item->env, &err);
	buf_free(&packed);
	if (rc >= 0 && size) {
		item->bulk = malloc(size);
		rc = item->bulk ? 0 : -ENOMEM;
	}
	if (rc < 0) {
		item_free(item);
		(void)err_set(&err, rc, "memory is short");
		end_session(r, &err);
		return;
	}
	if (size)
		memcpy(item->bulk, bulk, size);
	item->bulk_size = size;
	item->session = r->session;
	*r->last = item;
	r->last = &item->next;
	r->queued++;
	next_job(r);
}

static int check_offer(const struct moverecv *r, const Um__MoveOffer *offer, struct err *err)
{
	const struct moverecv_config *c = &r->config;

	if (offer->epoch != c->epoch || offer->disk_generation != c->disk_generation ||
		offer->disk_size != c->spec.size || offer->image_id.len != sizeof(r->image_id) ||
		memcmp(offer->image_id.data, r->image_id, sizeof(r->image_id)) != 0)
		return err_set(err, -EPERM,
			"move %" PRIu64 ": a guest of epoch %" PRIu64
			" with this disk is not expected here",
			c->move, offer->epoch);
	return 0;
}

static void take_offer(
	struct moverecv *r, struct zsock *sock, const struct zpeer *peer, const Um__Envelope *env)
{
	struct err err = ERR_INIT;

	drop_queue(r);
	r->sock = sock;
	r->peer = *peer;
	r->session = ++r->sessions;
	r->request = env->id;
	r->seq = 0;
	if (check_offer(r, env->move_offer, &err) < 0) {
		end_session(r, &err);
		return;
	}
	crash_point("move-accept");
	queue(r, env, NULL, 0);
}

static bool from_peer(const struct moverecv *r, const struct zpeer *peer, const Um__Envelope *env)
{
	return r->session && env->id == r->request && peer->id_size == r->peer.id_size &&
	       memcmp(peer->id, r->peer.id, peer->id_size) == 0;
}

static bool is_mine(const struct moverecv *r, const Um__Envelope *env)
{
	if (env->body_case == UM__ENVELOPE__BODY_MOVE_OFFER)
		return env->move_offer->move == r->config.move;
	if (env->body_case == UM__ENVELOPE__BODY_MOVE_BLOCKS)
		return env->move_blocks->move == r->config.move;
	if (env->body_case == UM__ENVELOPE__BODY_MOVE_LOG)
		return env->move_log->move == r->config.move;
	return env->body_case == UM__ENVELOPE__BODY_MOVE_SEAL &&
	       env->move_seal->move == r->config.move;
}

bool moverecv_message(struct moverecv *recv, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct err err = ERR_INIT;

	if (!is_mine(recv, env))
		return false;
	if (env->body_case == UM__ENVELOPE__BODY_MOVE_OFFER) {
		take_offer(recv, sock, peer, env);
	} else if (!from_peer(recv, peer, env)) {
		/* Of a session that is over: nobody waits for an answer. */
		return true;
	} else if (recv->queued > MOVE_WINDOW || bulk_size > MOVE_BATCH_MAX) {
		(void)err_set(&err, -EPROTO, "more was sent than may be on its way");
		end_session(recv, &err);
	} else {
		queue(recv, env, bulk, bulk_size);
	}
	return true;
}

/* ---------------------------------------------------------------- life */

int moverecv_open(struct loop *loop, const struct moverecv_config *config,
	const struct moverecv_ops *ops, void *arg, struct moverecv **out, struct err *err)
{
	struct moverecv *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(err, -ENOMEM, "memory is short");
	r->loop = loop;
	r->config = *config;
	r->ops = ops;
	r->arg = arg;
	r->last = &r->first;
	memcpy(r->image_id, config->image_id, sizeof(r->image_id));
	r->is_sealed = config->sealed != NULL;
	if (config->sealed)
		memcpy(r->digest, config->sealed, sizeof(r->digest));
	rc = str_copy(r->path, sizeof(r->path), config->path) < 0 ||
			     str_copy(r->dir, sizeof(r->dir), config->dir ? config->dir : "") < 0 ||
			     str_copy(r->backing, sizeof(r->backing), config->spec.backing) < 0
		     ? err_set(err, -ENAMETOOLONG, "the path of the copy is too long")
		     : loop_timer_open(loop, "move-alive", on_alive, r, &r->alive, err);
	if (rc >= 0)
		rc = loop_timer_open(loop, "move-again", on_again, r, &r->again, err);
	if (rc < 0) {
		loop_timer_close(r->alive);
		free(r);
		return rc;
	}
	r->config.sealed = NULL;
	r->config.path = r->path;
	r->config.spec.backing = r->backing;
	*out = r;
	return 0;
}

uint64_t moverecv_written(const struct moverecv *recv)
{
	return recv->written;
}

void moverecv_close(struct moverecv *recv)
{
	if (!recv || recv->closed)
		return;
	recv->closed = true;
	recv->session = 0;
	drop_queue(recv);
	loop_timer_close(recv->alive);
	loop_timer_close(recv->again);
	recv->alive = recv->again = NULL;
	if (!recv->busy)
		release(recv);
}
