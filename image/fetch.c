#include "image/fetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/serve.h"
#include "lib/str.h"

#define BUSY_RETRY_MS 50
#define BUSY_RETRIES 200 /* "try again later" from one source */
#define MENDS_MAX 3	 /* rounds after a commit that found damage */

enum state { LOOK, MANIFEST, BEGIN, CHUNKS, COMMIT, DONE };

struct source {
	const struct imgvia *via;
	char endpoint[160];
	uint8_t pubkey[32];
	bool has_key;
};

/* A chunk under way: asked of the source, then stored in the pool. */
struct slot {
	struct imgfetch *f;
	enum { FREE, ASKED, STORING } state;
	uint64_t request;
	uint32_t index;
	size_t source; /* whom it was asked of */
	/* For the pool: */
	Um__ChunkData head;
	uint8_t *bulk;
	size_t bulk_size;
	int rc;
	bool damaged; /* by the source */
	struct err err;
};

struct imgfetch {
	struct imgfetch_config config;
	struct imgfetch_ops ops;
	void *arg;
	struct source sources[IMGFETCH_SOURCES_MAX];
	size_t source_count, source;
	struct imgvia_dealer *dealer;
	const struct imgvia *via; /* of the current source; NULL: not open */
	enum state state;
	struct loop_defer *pump;
	struct loop_timer *retry;
	struct manifest *m; /* BEGIN */
	struct imgstore_transfer *t;
	uint64_t total;
	uint64_t manifest_request;
	struct slot slots[IMGFETCH_WINDOW];
	uint32_t cursor;
	unsigned jobs; /* in the pool: f lives on until they end */
	unsigned busy_replies, mends;
	uint64_t stalled_at; /* since when nothing can be sent; 0: it can */
	bool source_failed, closed;
	uint64_t received;
	struct err fatal;      /* not the source's fault: ends it */
	struct err source_err; /* of the last source */
};

/* ---------------------------------------------------------------- the end */

static void release(struct imgfetch *f)
{
	if (!f->closed || f->jobs)
		return;
	for (size_t i = 0; i < IMGFETCH_WINDOW; i++)
		free(f->slots[i].bulk);
	manifest_free(f->m);
	imgstore_transfer_close(f->t);
	free(f);
}

static void cancel_requests(struct imgfetch *f)
{
	for (size_t i = 0; i < IMGFETCH_WINDOW; i++) {
		if (f->slots[i].state != ASKED)
			continue;
		f->via->cancel(f->via->arg, f->slots[i].request);
		f->slots[i].state = FREE;
	}
	if (f->manifest_request)
		f->via->cancel(f->via->arg, f->manifest_request);
	f->manifest_request = 0;
}

static void close_source(struct imgfetch *f)
{
	if (f->via)
		cancel_requests(f);
	imgvia_dealer_close(f->dealer);
	f->dealer = NULL;
	f->via = NULL;
}

static void finish(struct imgfetch *f, const struct err *err)
{
	struct err copy = err ? *err : ERR_INIT; /* f may go in the callback */

	f->state = DONE;
	close_source(f);
	loop_timer_disarm(f->retry);
	f->ops.on_done(f->arg, f, err ? &copy : NULL);
}

void imgfetch_close(struct imgfetch *f)
{
	if (!f || f->closed)
		return;
	f->closed = true;
	f->state = DONE;
	close_source(f);
	loop_defer_close(f->pump);
	loop_timer_close(f->retry);
	release(f);
}

/* ---------------------------------------------------------------- jobs in the pool */

struct fetch_job {
	struct imgfetch *f;
	enum state state; /* LOOK, BEGIN, COMMIT */
	struct imgstore_transfer *t;
	bool whole;
	int rc;
	struct err err;
};

static void job_work(void *arg)
{
	struct fetch_job *job = arg;
	struct imgfetch *f = job->f;

	switch (job->state) {
	case LOOK:
		job->whole = imgstore_has(f->config.store, f->config.id);
		if (!job->whole)
			job->rc =
				imgstore_resume(f->config.store, f->config.id, &job->t, &job->err);
		break;
	case BEGIN:
		job->rc = imgstore_begin(f->config.store, f->m, &job->t, &job->err);
		break;
	case COMMIT:
		job->rc = imgstore_commit(f->t, &job->err);
		job->whole = job->rc == 0;
		break;
	case MANIFEST:
	case CHUNKS:
	case DONE:
		break;
	}
	if (job->rc == -EEXIST) {
		job->whole = true;
		job->rc = 0;
	}
}

static void job_outcome(struct imgfetch *f, const struct fetch_job *job)
{
	if (job->whole) {
		finish(f, NULL);
		return;
	}
	if (job->t) {
		f->t = job->t;
		f->total = manifest_data_size(imgstore_transfer_manifest(f->t));
		f->state = CHUNKS;
	} else if (job->state == LOOK && job->rc == -ENOENT) {
		f->state = MANIFEST;
	} else if (job->state == COMMIT && job->rc == -EBADMSG && f->mends++ < MENDS_MAX) {
		f->cursor = 0;
		f->state = CHUNKS;
	} else {
		f->fatal = job->err;
	}
	loop_defer_run(f->pump);
}

static void job_done(void *arg, bool cancelled)
{
	struct fetch_job *job = arg;
	struct imgfetch *f = job->f;

	if (cancelled)
		job->rc = err_set(&job->err, -ECANCELED, "cancelled");
	if (f->closed)
		imgstore_transfer_close(job->t);
	else
		job_outcome(f, job);
	free(job);
	f->jobs--;
	release(f);
}

static void start_job(struct imgfetch *f, enum state state)
{
	struct fetch_job *job = calloc(1, sizeof(*job));

	f->state = state;
	if (!job) {
		(void)err_set(&f->fatal, -ENOMEM, "memory is short");
		loop_defer_run(f->pump);
		return;
	}
	job->f = f;
	job->state = state;
	if (loop_work_run(f->config.loop, "artefact fetch", job_work, job_done, job, &f->fatal) <
		0) {
		free(job);
		loop_defer_run(f->pump);
		return;
	}
	f->jobs++;
}

/* ---------------------------------------------------------------- answers */

static void fail_source(struct imgfetch *f, const struct err *err)
{
	f->source_failed = true;
	if (err)
		f->source_err = *err;
	loop_defer_run(f->pump);
}

/* True: the source is only busy, and is asked again soon. */
static bool just_busy(struct imgfetch *f, const struct err *err)
{
	if (err->code != wire_errno_from_code(UM__ERROR_CODE__UNAVAILABLE) ||
		f->busy_replies++ >= BUSY_RETRIES)
		return false;
	if (!loop_timer_armed(f->retry))
		loop_timer_arm(f->retry, BUSY_RETRY_MS);
	return true;
}

static void on_manifest(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct imgfetch *f = arg;
	struct manifest *m = NULL;
	struct err bad = ERR_INIT;

	(void)bulk;
	(void)bulk_size;
	f->manifest_request = 0;
	if (err && err->code) {
		if (!env || !just_busy(f, err))
			fail_source(f, err);
		return;
	}
	if (!env || env->body_case != UM__ENVELOPE__BODY_MANIFEST_DATA)
		(void)err_set(&bad, -EPROTO, "the source answers something else");
	else if (manifest_parse(env->manifest_data->manifest.data, env->manifest_data->manifest.len,
			 &m, &bad) == 0) {
		if (memcmp(m->id, f->config.id, sizeof(m->id)) != 0)
			(void)err_set(&bad, -EBADMSG, "the source sent another's manifest");
		else if (f->config.size && m->size != f->config.size)
			(void)err_set(&bad, -EBADMSG, "the artefact has another size");
	}
	if (bad.code) {
		manifest_free(m);
		fail_source(f, &bad);
		return;
	}
	f->m = m;
	start_job(f, BEGIN);
}

static void put_work(void *arg)
{
	struct slot *slot = arg;
	uint8_t *raw = malloc(MANIFEST_CHUNK);

	if (!raw) {
		slot->rc = err_set(&slot->err, -ENOMEM, "memory is short");
		return;
	}
	slot->rc = imgserve_unpack(&slot->head, slot->bulk, slot->bulk_size, raw, &slot->err);
	if (slot->rc > 0)
		slot->rc = imgstore_put(slot->f->t, slot->index, raw, (size_t)slot->rc, &slot->err);
	slot->damaged = slot->rc == -EBADMSG;
	free(raw);
}

static void put_done(void *arg, bool cancelled)
{
	struct slot *slot = arg;
	struct imgfetch *f = slot->f;

	slot->state = FREE;
	free(slot->bulk);
	slot->bulk = NULL;
	if (!f->closed && !cancelled) {
		if (slot->damaged && slot->source == f->source)
			fail_source(f, &slot->err);
		else if (slot->damaged) /* of a source that was left already */
			f->cursor = 0;
		else if (slot->rc < 0)
			f->fatal = slot->err;
		else if (f->ops.on_progress)
			f->ops.on_progress(f->arg, f, imgstore_have_bytes(f->t), f->total);
	}
	if (!f->closed)
		loop_defer_run(f->pump);
	f->jobs--; /* only now: a callback may have closed f */
	release(f);
}

static int store_chunk(struct slot *slot, const Um__ChunkData *chunk, const void *bulk,
	size_t bulk_size, struct err *err)
{
	struct imgfetch *f = slot->f;

	if (chunk->index != slot->index || chunk->id.len != MANIFEST_HASH ||
		memcmp(chunk->id.data, f->config.id, MANIFEST_HASH) != 0)
		return err_set(err, -EPROTO, "the source answers with another chunk");
	if (!bulk_size || bulk_size > MANIFEST_CHUNK)
		return err_set(err, -EPROTO, "the source sent a chunk of %zu bytes", bulk_size);
	slot->bulk = malloc(bulk_size);
	if (!slot->bulk)
		return err_set(err, -ENOMEM, "memory is short");
	memcpy(slot->bulk, bulk, bulk_size);
	slot->bulk_size = bulk_size;
	slot->head = (Um__ChunkData)UM__CHUNK_DATA__INIT;
	slot->head.raw_size = chunk->raw_size;
	slot->head.zstd = chunk->zstd;
	slot->rc = 0;
	slot->damaged = false;
	if (loop_work_run(f->config.loop, "artefact chunk", put_work, put_done, slot, err) < 0) {
		free(slot->bulk);
		slot->bulk = NULL;
		return err->code;
	}
	slot->state = STORING;
	f->jobs++;
	f->received += bulk_size;
	f->busy_replies = 0;
	return 0;
}

static void on_chunk(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct slot *slot = arg;
	struct imgfetch *f = slot->f;
	struct err bad = ERR_INIT;

	slot->state = FREE;
	slot->request = 0;
	if (err && err->code) {
		f->cursor = 0;
		if (!env || !just_busy(f, err))
			fail_source(f, err);
		return;
	}
	if (!env || env->body_case != UM__ENVELOPE__BODY_CHUNK_DATA)
		(void)err_set(&bad, -EPROTO, "the source answers something else");
	else
		(void)store_chunk(slot, env->chunk_data, bulk, bulk_size, &bad);
	if (bad.code)
		fail_source(f, &bad);
	loop_defer_run(f->pump);
}

/* ---------------------------------------------------------------- asking */

/* 0: sent; -EAGAIN: later; else the source has failed. */
static int ask(struct imgfetch *f, Um__Envelope *env, rpc_fn *fn, void *arg, uint64_t *id)
{
	struct err err = ERR_INIT;
	uint64_t timeout = f->config.timeout_ms ? f->config.timeout_ms : IMGFETCH_TIMEOUT_MS;

	/* Asked only while a source is open.
	 * NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	*id = f->via->request(f->via->arg, env, NULL, 0, timeout, fn, arg, &err);
	if (*id) {
		f->stalled_at = 0;
		return 0;
	}
	if (err.code == -EAGAIN) {
		/* Not connected, or its queue is full: not for ever. */
		if (!f->stalled_at)
			f->stalled_at = loop_now(f->config.loop);
		if (loop_now(f->config.loop) - f->stalled_at >= timeout) {
			(void)err_set(&err, -ETIMEDOUT, "the source does not connect");
			fail_source(f, &err);
			return -ETIMEDOUT;
		}
		if (!loop_timer_armed(f->retry))
			loop_timer_arm(f->retry, BUSY_RETRY_MS);
		return -EAGAIN;
	}
	fail_source(f, &err);
	return -EIO;
}

static void ask_manifest(struct imgfetch *f)
{
	Um__Envelope env = wire_env(0);
	Um__ManifestGet get = UM__MANIFEST_GET__INIT;

	if (f->manifest_request || f->m)
		return;
	get.id.data = f->config.id;
	get.id.len = sizeof(f->config.id);
	env.body_case = UM__ENVELOPE__BODY_MANIFEST_GET;
	env.manifest_get = &get;
	(void)ask(f, &env, on_manifest, f, &f->manifest_request);
}

static bool under_way(const struct imgfetch *f, uint32_t index)
{
	for (size_t i = 0; i < IMGFETCH_WINDOW; i++)
		if (f->slots[i].state != FREE && f->slots[i].index == index)
			return true;
	return false;
}

static void ask_chunks(struct imgfetch *f)
{
	uint32_t count = imgstore_transfer_manifest(f->t)->count;
	unsigned busy = 0;

	for (size_t i = 0; i < IMGFETCH_WINDOW; i++) {
		struct slot *slot = &f->slots[i];
		Um__Envelope env = wire_env(0);
		Um__ChunkGet get = UM__CHUNK_GET__INIT;

		if (slot->state != FREE) {
			busy++;
			continue;
		}
		do
			f->cursor = imgstore_missing(f->t, f->cursor);
		while (f->cursor < count && under_way(f, f->cursor) && ++f->cursor);
		if (f->cursor >= count)
			continue;
		get.id.data = f->config.id;
		get.id.len = sizeof(f->config.id);
		get.index = f->cursor;
		env.body_case = UM__ENVELOPE__BODY_CHUNK_GET;
		env.chunk_get = &get;
		if (ask(f, &env, on_chunk, slot, &slot->request) < 0)
			return;
		slot->state = ASKED;
		slot->source = f->source;
		slot->index = f->cursor++;
		busy++;
	}
	if (busy || loop_timer_armed(f->retry))
		return;
	if (!imgstore_missing_count(f->t))
		start_job(f, COMMIT);
	else { /* what came was not enough: from the start */
		f->cursor = 0;
		loop_timer_arm(f->retry, BUSY_RETRY_MS);
	}
}

static int open_source(struct imgfetch *f, struct err *err)
{
	const struct source *s = &f->sources[f->source];

	if (s->via) {
		f->via = s->via;
		return 0;
	}
	if (imgvia_dealer_open(f->config.loop, f->config.zctx, s->endpoint,
		    s->has_key ? s->pubkey : NULL, f->config.keys, &f->dealer, err) < 0)
		return err->code;
	f->via = imgvia_dealer_via(f->dealer);
	return 0;
}

/* Makes sure that there is a source; false when all have failed. */
static bool have_source(struct imgfetch *f)
{
	if (f->source_failed) {
		close_source(f);
		f->source_failed = false;
		f->source++;
		f->cursor = 0;
		f->busy_replies = 0;
		f->stalled_at = 0;
	}
	while (!f->via && f->source < f->source_count) {
		struct err err = ERR_INIT;

		if (open_source(f, &err) == 0)
			return true;
		f->source_err = err;
		f->source++;
	}
	return f->via != NULL;
}

static void pump(void *arg)
{
	struct imgfetch *f = arg;

	if (f->closed || f->state == DONE)
		return;
	if (f->fatal.code) {
		finish(f, &f->fatal);
		return;
	}
	if (f->state != MANIFEST && f->state != CHUNKS)
		return;
	/* Everything may be here already: then no source is needed. */
	if (f->state == CHUNKS && !imgstore_missing_count(f->t)) {
		if (f->via)
			cancel_requests(f);
		ask_chunks(f);
		return;
	}
	if (!have_source(f)) {
		if (!f->source_err.code)
			(void)err_set(&f->source_err, -ENOENT, "there is no source to fetch from");
		finish(f, &f->source_err);
		return;
	}
	if (f->state == MANIFEST)
		ask_manifest(f);
	else
		ask_chunks(f);
}

/* ---------------------------------------------------------------- start */

static int copy_sources(struct imgfetch *f, struct err *err)
{
	size_t count = f->config.source_count;

	if (count > IMGFETCH_SOURCES_MAX)
		count = IMGFETCH_SOURCES_MAX;
	for (size_t i = 0; i < count; i++) {
		const struct imgfetch_source *from = &f->config.sources[i];
		struct source *to = &f->sources[f->source_count++];

		to->via = from->via;
		if (from->via)
			continue;
		if (str_copy(to->endpoint, sizeof(to->endpoint), from->endpoint) < 0)
			return err_set(err, -ENAMETOOLONG, "endpoint '%.40s...' is too long",
				from->endpoint);
		to->has_key = from->pubkey != NULL;
		if (to->has_key)
			memcpy(to->pubkey, from->pubkey, sizeof(to->pubkey));
	}
	return 0;
}

int imgfetch_start(const struct imgfetch_config *config, const struct imgfetch_ops *ops, void *arg,
	struct imgfetch **out, struct err *err)
{
	struct imgfetch *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return err_set(err, -ENOMEM, "memory is short");
	f->config = *config;
	f->ops = *ops;
	f->arg = arg;
	for (size_t i = 0; i < IMGFETCH_WINDOW; i++)
		f->slots[i].f = f;
	rc = copy_sources(f, err);
	f->config.sources = NULL;
	if (rc == 0)
		rc = loop_defer_open(config->loop, "fetch", pump, f, &f->pump, err);
	if (rc == 0)
		rc = loop_timer_open(config->loop, "fetch retry", pump, f, &f->retry, err);
	if (rc == 0) {
		start_job(f, LOOK);
		if (f->fatal.code)
			rc = err_set(err, f->fatal.code, "%s", f->fatal.msg);
	}
	if (rc < 0) {
		imgfetch_close(f);
		return rc;
	}
	*out = f;
	return 0;
}

uint64_t imgfetch_received(const struct imgfetch *f)
{
	return f->received;
}
