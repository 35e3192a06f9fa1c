#include "image/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/serve.h"
#include "lib/str.h"

#define BUSY_RETRY_MS 50
#define COMMIT_TIMEOUT_MS 600000 /* a large artefact is read and hashed over there */

struct slot {
	struct imgupload *up;
	enum { FREE, PACKING, SENT } state;
	uint32_t index;
	uint64_t request;
	uint8_t *raw, *bulk; /* MANIFEST_CHUNK each */
	size_t size, bulk_size;
	bool zstd;
	int rc;
	struct err err;
};

struct imgupload {
	struct loop *loop;
	const struct imgvia *via;
	struct imgupload_ops ops;
	void *arg;
	int fd;
	char *path;
	Um__ArtefactInfo *info; /* NULL: no commit */
	bool replace;
	struct manifest *m;
	uint8_t id[MANIFEST_HASH];
	uint32_t *need; /* indexes the other side lacks */
	size_t need_count, need_capacity, next;
	uint64_t done_bytes, total_bytes, sent;
	uint64_t request; /* ArtefactAdd, ArtefactCommit */
	struct slot slots[IMGUPLOAD_WINDOW];
	struct loop_timer *retry;
	unsigned jobs;
	uint64_t stalled_at; /* since when nothing can be sent; 0: it can */
	bool add_waits, commit_waits, committing, done, closed;
};

static void pump(void *arg);

/* ---------------------------------------------------------------- the end */

static void release(struct imgupload *up)
{
	if (!up->closed || up->jobs)
		return;
	for (size_t i = 0; i < IMGUPLOAD_WINDOW; i++) {
		free(up->slots[i].raw);
		free(up->slots[i].bulk);
	}
	if (up->fd >= 0)
		(void)close(up->fd);
	if (up->info)
		um__artefact_info__free_unpacked(up->info, NULL);
	manifest_free(up->m);
	free(up->need);
	free(up->path);
	free(up);
}

static void cancel_requests(struct imgupload *up)
{
	if (up->request)
		up->via->cancel(up->via->arg, up->request);
	up->request = 0;
	for (size_t i = 0; i < IMGUPLOAD_WINDOW; i++) {
		if (up->slots[i].state != SENT)
			continue;
		up->via->cancel(up->via->arg, up->slots[i].request);
		up->slots[i].state = FREE;
	}
}

static void finish(struct imgupload *up, const struct err *err)
{
	struct err copy = err ? *err : ERR_INIT;

	if (up->done || up->closed)
		return;
	up->done = true;
	cancel_requests(up);
	loop_timer_disarm(up->retry);
	up->ops.on_done(up->arg, up, err ? &copy : NULL);
}

void imgupload_close(struct imgupload *up)
{
	if (!up || up->closed)
		return;
	cancel_requests(up);
	up->closed = true;
	loop_timer_close(up->retry);
	release(up);
}

static void progress(struct imgupload *up, const char *step, uint64_t done)
{
	if (up->ops.on_progress)
		up->ops.on_progress(up->arg, up, step, done, up->total_bytes);
}

/* ---------------------------------------------------------------- requests */

/* After a failed request.  True: the queue is full or there is no connection yet,
 * and pump() runs again soon; not for ever. */
static bool may_retry(struct imgupload *up, struct err *err)
{
	if (err->code != -EAGAIN)
		return false;
	if (!up->stalled_at)
		up->stalled_at = loop_now(up->loop);
	if (loop_now(up->loop) - up->stalled_at >= IMGUPLOAD_TIMEOUT_MS) {
		(void)err_set(err, -ETIMEDOUT, "the other side does not connect");
		return false;
	}
	loop_timer_arm(up->retry, BUSY_RETRY_MS);
	return true;
}

/* Sends, or arms the timer that calls pump() again; *WAITS says which. */
static void request(
	struct imgupload *up, Um__Envelope *env, uint64_t timeout, rpc_fn *fn, bool *waits)
{
	struct err err = ERR_INIT;

	up->request = up->via->request(up->via->arg, env, NULL, 0, timeout, fn, up, &err);
	*waits = false;
	if (up->request)
		up->stalled_at = 0;
	else if (!(*waits = may_retry(up, &err)))
		finish(up, &err);
}

static void on_commit(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct imgupload *up = arg;
	struct err bad = ERR_INIT;

	(void)bulk;
	(void)bulk_size;
	up->request = 0;
	if (!err && (!env || env->body_case != UM__ENVELOPE__BODY_OK)) {
		(void)err_set(&bad, -EPROTO, "the other side answers something else");
		err = &bad;
	}
	if (!err)
		progress(up, "storing", up->total_bytes);
	finish(up, err);
}

static void send_commit(struct imgupload *up)
{
	Um__Envelope env = wire_env(0);
	Um__ArtefactCommit commit = UM__ARTEFACT_COMMIT__INIT;

	if (!up->info) {
		finish(up, NULL);
		return;
	}
	up->committing = true;
	progress(up, "storing", 0);
	commit.info = up->info;
	commit.replace = up->replace;
	env.body_case = UM__ENVELOPE__BODY_ARTEFACT_COMMIT;
	env.artefact_commit = &commit;
	request(up, &env, COMMIT_TIMEOUT_MS, on_commit, &up->commit_waits);
}

static void on_stored(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct slot *slot = arg;
	struct imgupload *up = slot->up;
	struct err bad = ERR_INIT;

	(void)bulk;
	(void)bulk_size;
	if (env && err && err->code == wire_errno_from_code(UM__ERROR_CODE__UNAVAILABLE)) {
		/* The other side has enough to do: this chunk goes again. */
		slot->state = PACKING;
		slot->request = 0;
		loop_timer_arm(up->retry, BUSY_RETRY_MS);
		return;
	}
	slot->state = FREE;
	if (!err && (!env || env->body_case != UM__ENVELOPE__BODY_OK)) {
		(void)err_set(&bad, -EPROTO, "the other side answers something else");
		err = &bad;
	}
	if (err) {
		finish(up, err);
		return;
	}
	up->done_bytes += slot->size;
	up->sent += slot->bulk_size;
	progress(up, "sending", up->done_bytes);
	if (!up->done && !up->closed)
		pump(up);
}

static void send_chunk(struct slot *slot)
{
	struct imgupload *up = slot->up;
	Um__Envelope env = wire_env(0);
	Um__ChunkData chunk = UM__CHUNK_DATA__INIT;
	struct err err = ERR_INIT;

	chunk.id.data = up->id;
	chunk.id.len = sizeof(up->id);
	chunk.index = slot->index;
	chunk.raw_size = (uint32_t)slot->size;
	chunk.zstd = slot->zstd;
	env.body_case = UM__ENVELOPE__BODY_CHUNK_DATA;
	env.chunk_data = &chunk;
	slot->request = up->via->request(up->via->arg, &env, slot->bulk, slot->bulk_size,
		IMGUPLOAD_TIMEOUT_MS, on_stored, slot, &err);
	if (slot->request) {
		slot->state = SENT;
		up->stalled_at = 0;
	} else if (!may_retry(up, &err)) { /* else it stays packed */
		finish(up, &err);
	}
}

/* ---------------------------------------------------------------- chunks */

static void pack_work(void *arg)
{
	struct slot *slot = arg;
	struct imgupload *up = slot->up;
	size_t at = 0;

	while (at < slot->size) {
		ssize_t n = pread(up->fd, slot->raw + at, slot->size - at,
			(off_t)((uint64_t)slot->index * MANIFEST_CHUNK + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			slot->rc = err_errno(&slot->err, n < 0 ? errno : EIO, "read %s", up->path);
			return;
		}
		at += (size_t)n;
	}
	slot->rc = manifest_check_chunk(up->m, slot->index, slot->raw, slot->size, NULL);
	if (slot->rc < 0)
		slot->rc = err_set(&slot->err, -EIO, "%s was changed while it was sent", up->path);
	else
		slot->bulk_size = imgserve_pack(slot->raw, slot->size, slot->bulk, &slot->zstd);
}

static void pack_done(void *arg, bool cancelled)
{
	struct slot *slot = arg;
	struct imgupload *up = slot->up;

	slot->request = 0;
	if (!up->done && !up->closed && !cancelled) {
		if (slot->rc < 0)
			finish(up, &slot->err);
		else
			send_chunk(slot);
	}
	up->jobs--;
	release(up);
}

#define IN_POOL UINT64_MAX /* slot->request while the pool works on it */

static int pack(struct slot *slot, uint32_t index, struct err *err)
{
	struct imgupload *up = slot->up;

	if (!slot->raw)
		slot->raw = malloc(MANIFEST_CHUNK);
	if (!slot->bulk)
		slot->bulk = malloc(MANIFEST_CHUNK);
	if (!slot->raw || !slot->bulk)
		return err_set(err, -ENOMEM, "memory is short");
	slot->index = index;
	slot->size = manifest_chunk_size(up->m, index);
	if (loop_work_run(up->loop, "artefact pack", pack_work, pack_done, slot, err) < 0)
		return err->code;
	slot->state = PACKING;
	slot->request = IN_POOL;
	up->jobs++;
	return 0;
}

static void send_add(struct imgupload *up);

static void pump_some(struct imgupload *up)
{
	struct err err = ERR_INIT;
	unsigned busy = 0;

	if (up->add_waits) {
		send_add(up);
		return;
	}
	if (up->commit_waits) {
		send_commit(up);
		return;
	}
	if (!up->m || up->request || up->committing)
		return;
	for (size_t i = 0; i < IMGUPLOAD_WINDOW && !up->done; i++) {
		struct slot *slot = &up->slots[i];

		if (slot->state == PACKING && !slot->request)
			send_chunk(slot);
		else if (slot->state == FREE && up->next < up->need_count) {
			if (pack(slot, up->need[up->next++], &err) < 0) {
				finish(up, &err);
				return;
			}
		}
		busy += slot->state != FREE;
	}
	if (!busy && !up->done && !up->closed)
		send_commit(up);
}

/* Goes on with whatever can go on. */
static void pump(void *arg)
{
	struct imgupload *up = arg;

	if (up->done || up->closed)
		return;
	up->jobs++; /* on_done may close it under us */
	pump_some(up);
	up->jobs--;
	release(up);
}

static int add_needs(struct imgupload *up, const Um__ArtefactNeed *need, struct err *err)
{
	if (need->id.len != MANIFEST_HASH || memcmp(need->id.data, up->id, MANIFEST_HASH) != 0)
		return err_set(err, -EPROTO, "the other side answers for another artefact");
	if (up->need_count + need->n_chunks > up->m->count)
		return err_set(err, -EPROTO, "the other side asks for too many chunks");
	if (!up->need) {
		up->need_capacity = up->m->count;
		up->need = calloc(up->need_capacity, sizeof(*up->need));
		if (!up->need)
			return err_set(err, -ENOMEM, "memory is short");
	}
	for (size_t i = 0; i < need->n_chunks; i++) {
		if (need->chunks[i] >= up->m->count || manifest_is_hole(up->m, need->chunks[i]))
			return err_set(
				err, -EPROTO, "the other side asks for chunk %u", need->chunks[i]);
		up->need[up->need_count++] = need->chunks[i];
		up->total_bytes += manifest_chunk_size(up->m, need->chunks[i]);
	}
	return 0;
}

static void on_need(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct imgupload *up = arg;
	struct err bad = ERR_INIT;

	(void)bulk;
	(void)bulk_size;
	if (!err && (!env || env->body_case != UM__ENVELOPE__BODY_ARTEFACT_NEED))
		(void)err_set(&bad, -EPROTO, "the other side answers something else");
	else if (!err)
		(void)add_needs(up, env->artefact_need, &bad);
	if (!env || !env->more)
		up->request = 0;
	if (err || bad.code) {
		finish(up, err ? err : &bad);
		return;
	}
	/* Without one that was an error. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	if (!env->more) {
		progress(up, "sending", 0);
		pump(up);
	}
}

static void send_add(struct imgupload *up)
{
	Um__Envelope env = wire_env(0);
	Um__ArtefactAdd add = UM__ARTEFACT_ADD__INIT;

	add.manifest.data = up->m->bytes;
	add.manifest.len = up->m->bytes_size;
	env.body_case = UM__ENVELOPE__BODY_ARTEFACT_ADD;
	env.artefact_add = &add;
	request(up, &env, COMMIT_TIMEOUT_MS, on_need, &up->add_waits);
}

/* ---------------------------------------------------------------- start */

static void on_hashed(void *arg, struct manifest *m, const struct err *err)
{
	struct imgupload *up = arg;

	up->m = m;
	if (!up->closed && err)
		finish(up, err);
	else if (!up->closed) {
		memcpy(up->id, m->id, sizeof(up->id));
		if (up->info) {
			up->info->id.data = malloc(MANIFEST_HASH);
			up->info->id.len = up->info->id.data ? MANIFEST_HASH : 0;
			if (up->info->id.data)
				memcpy(up->info->id.data, m->id, MANIFEST_HASH);
			up->info->size = m->size;
			up->info->allocated = manifest_data_size(m);
		}
		up->total_bytes = m->size;
		progress(up, "hashing", m->size);
		up->total_bytes = 0;
		if (!up->closed)
			send_add(up);
	}
	up->jobs--;
	release(up);
}

/* A deep copy, without an id. */
static Um__ArtefactInfo *copy_info(const Um__ArtefactInfo *info)
{
	Um__ArtefactInfo *copy = wire_copy(&info->base);

	if (copy && copy->id.data) {
		free(copy->id.data);
		copy->id.data = NULL;
		copy->id.len = 0;
	}
	return copy;
}

int imgupload_start(struct loop *loop, const struct imgvia *via, const char *path,
	const Um__ArtefactInfo *info, bool replace, const struct imgupload_ops *ops, void *arg,
	struct imgupload **out, struct err *err)
{
	struct imgupload *up = calloc(1, sizeof(*up));
	int rc = 0;

	if (!up)
		return err_set(err, -ENOMEM, "memory is short");
	up->loop = loop;
	up->via = via;
	up->ops = *ops;
	up->arg = arg;
	up->replace = replace;
	for (size_t i = 0; i < IMGUPLOAD_WINDOW; i++)
		up->slots[i].up = up;
	up->path = str_dup(path);
	up->info = info ? copy_info(info) : NULL;
	up->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (up->fd < 0)
		rc = err_errno(err, errno, "%s", path);
	else if (!up->path || (info && !up->info))
		rc = err_set(err, -ENOMEM, "memory is short");
	if (rc == 0)
		rc = loop_timer_open(loop, "upload retry", pump, up, &up->retry, err);
	if (rc == 0)
		rc = manifest_start(loop, path, on_hashed, up, err);
	if (rc < 0) {
		imgupload_close(up);
		return rc;
	}
	up->jobs++;
	*out = up;
	return 0;
}

const uint8_t *imgupload_id(const struct imgupload *up)
{
	return up->id;
}

uint64_t imgupload_sent(const struct imgupload *up)
{
	return up->sent;
}
