#include "node-agent/blobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/fetch.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/link.h"
#include "node-agent/moves.h"
#include "node-agent/report.h"

#define RETRY_MS 1000
#define RETRY_MAX_MS 30000

/* One that is wanted and not there. */
struct blob {
	struct blobs *blobs;
	uint8_t id[MANIFEST_HASH];
	uint64_t size;
	Um__BlobRef *ref; /* owned: the newest sources */
	enum { BLOB_QUEUED, BLOB_FETCHING, BLOB_WAITS } state;
	struct imgfetch *fetch;
	struct loop_timer *retry;
	unsigned failures;
	uint64_t done, total;
	char trouble[GUESTS_REASON];
	int code;		/* of the trouble */
	struct guest **waiting; /* each once; freed with the blob */
	size_t waiting_count, waiting_capacity;
	uint64_t *moves; /* each once */
	size_t moves_count;
	bool prefetch;
	UT_hash_handle hh;
};

struct discard {
	uint8_t id[MANIFEST_HASH];
	UT_hash_handle hh;
};

struct blobs {
	struct agent *agent;
	struct blob *all; /* in order of arrival */
	unsigned fetches;
	struct discard *discards;
	bool stopped;
};

static const char *const kinds[GUESTS_BLOBS] = {"image", "kernel", "modules"};

static void start_some(struct blobs *blobs);

int blobs_open(struct agent *agent, struct blobs **out, struct err *err)
{
	struct blobs *blobs = calloc(1, sizeof(*blobs));

	if (!blobs)
		return err_set(err, -ENOMEM, "memory is short");
	blobs->agent = agent;
	*out = blobs;
	return 0;
}

static struct blob *find(const struct blobs *blobs, const uint8_t id[MANIFEST_HASH])
{
	struct blob *b = NULL;

	HASH_FIND(hh, blobs->all, id, MANIFEST_HASH, b);
	return b;
}

static void drop(struct blob *b)
{
	struct blobs *blobs = b->blobs;

	if (b->fetch) {
		imgfetch_close(b->fetch);
		blobs->fetches--;
	}
	HASH_DEL(blobs->all, b);
	loop_timer_close(b->retry);
	if (b->ref)
		um__blob_ref__free_unpacked(b->ref, NULL);
	free(b->waiting);
	free(b->moves);
	free(b);
}

void blobs_stop(struct blobs *blobs)
{
	struct blob *b, *next;

	if (!blobs)
		return;
	blobs->stopped = true;
	HASH_ITER (hh, blobs->all, b, next)
		drop(b);
}

void blobs_free(struct blobs *blobs)
{
	struct discard *d, *next;

	if (!blobs)
		return;
	HASH_ITER (hh, blobs->discards, d, next) {
		HASH_DEL(blobs->discards, d);
		free(d);
	}
	free(blobs);
}

/* ---------------------------------------------------------------- fetching */

static void touch_waiting(struct blob *b)
{
	for (size_t i = 0; i < b->waiting_count; i++) {
		report_guest(b->waiting[i]);
		guests_touch(b->waiting[i]);
	}
	if (b->moves_count)
		moves_blob(b->blobs->agent->moves);
}

static void on_progress(void *arg, struct imgfetch *f, uint64_t done, uint64_t total)
{
	struct blob *b = arg;
	bool news = !b->total || !total || done * 10 / total != b->done * 10 / b->total;

	(void)f;
	b->done = done;
	b->total = total;
	for (size_t i = 0; news && i < b->waiting_count; i++)
		report_guest(b->waiting[i]); /* each tenth */
	if (news && b->moves_count)
		moves_blob(b->blobs->agent->moves);
}

static void on_retry(void *arg)
{
	struct blob *b = arg;

	b->state = BLOB_QUEUED;
	start_some(b->blobs);
}

static void failed(struct blob *b, const struct err *err)
{
	char id[MANIFEST_TEXT];
	uint64_t ms = RETRY_MS;

	for (unsigned i = 0; i < b->failures && ms < RETRY_MAX_MS; i++)
		ms *= 2;
	b->failures++;
	b->state = BLOB_WAITS;
	b->code = err->code;
	(void)snprintf(b->trouble, sizeof(b->trouble), "%s", err_msg(err));
	manifest_id_text(id, b->id);
	log_warn("an artefact cannot be fetched; tried again", LOG_STR("artefact", id),
		LOG_ERR(err));
	loop_timer_arm(b->retry, ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS);
	touch_waiting(b);
}

static void on_done(void *arg, struct imgfetch *f, const struct err *err)
{
	struct blob *b = arg;
	struct blobs *blobs = b->blobs;
	char id[MANIFEST_TEXT];

	b->fetch = NULL;
	blobs->fetches--;
	if (err) {
		failed(b, err);
	} else {
		manifest_id_text(id, b->id);
		log_info("artefact fetched", LOG_STR("artefact", id),
			LOG_U64("received", imgfetch_received(f)));
		report_blob(blobs->agent->report, b->id, true);
		touch_waiting(b);
		drop(b);
	}
	imgfetch_close(f);
	start_some(blobs);
}

static int start_fetch(struct blob *b, struct err *err)
{
	static const struct imgfetch_ops ops = {.on_progress = on_progress, .on_done = on_done};
	struct agent *agent = b->blobs->agent;
	struct imgfetch_source sources[IMGFETCH_SOURCES_MAX] = {{0}};
	struct imgfetch_config config = {.loop = agent->loop,
		.store = agent->store,
		.zctx = agent->zctx,
		.keys = &agent->keys,
		.size = b->size,
		.sources = sources};

	memcpy(config.id, b->id, sizeof(config.id));
	for (size_t i = 0; b->ref && i < b->ref->n_sources; i++) {
		const Um__BlobSource *s = b->ref->sources[i];

		if (config.source_count == IMGFETCH_SOURCES_MAX - 1)
			break;
		if (s->pubkey.len != CURVE_KEY || !s->endpoint[0])
			continue;
		if (memcmp(s->pubkey.data, agent->keys.public_key, CURVE_KEY) == 0)
			continue; /* that is us */
		sources[config.source_count++] =
			(struct imgfetch_source){.endpoint = s->endpoint, .pubkey = s->pubkey.data};
	}
	sources[config.source_count++].via = link_via(agent->link);
	return imgfetch_start(&config, &ops, b, &b->fetch, err);
}

static void start_some(struct blobs *blobs)
{
	struct blob *b, *next;

	/* Before there is a link (the agent's start) all wait: it kicks. */
	if (blobs->stopped || !blobs->agent->link)
		return;
	HASH_ITER (hh, blobs->all, b, next) {
		struct err err = ERR_INIT;

		if (blobs->fetches >= BLOBS_FETCHES)
			return;
		if (b->state != BLOB_QUEUED)
			continue;
		if (start_fetch(b, &err) < 0) {
			failed(b, &err);
			continue;
		}
		b->state = BLOB_FETCHING;
		blobs->fetches++;
	}
}

static struct blob *want(struct blobs *blobs, const uint8_t id[MANIFEST_HASH], uint64_t size)
{
	struct blob *b = find(blobs, id);

	if (b)
		return b;
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->blobs = blobs;
	memcpy(b->id, id, sizeof(b->id));
	b->size = size;
	if (loop_timer_open(blobs->agent->loop, "artefact retry", on_retry, b, &b->retry, NULL) <
		0) {
		free(b);
		return NULL;
	}
	HASH_ADD(hh, blobs->all, id, MANIFEST_HASH, b);
	return b;
}

static void set_sources(struct blob *b, const Um__BlobRef *ref)
{
	Um__BlobRef *copy = wire_copy(&ref->base);

	if (!copy)
		return;
	if (b->ref)
		um__blob_ref__free_unpacked(b->ref, NULL);
	b->ref = copy;
}

static void add_waiting(struct blob *b, struct guest *g)
{
	for (size_t i = 0; i < b->waiting_count; i++)
		if (b->waiting[i] == g)
			return;
	if (b->waiting_count == b->waiting_capacity) {
		size_t capacity = b->waiting_capacity ? 2 * b->waiting_capacity : 8;
		struct guest **more = realloc(b->waiting, capacity * sizeof(struct guest *));

		if (!more)
			return; /* the next touch tries again */
		b->waiting = more;
		b->waiting_capacity = capacity;
	}
	b->waiting[b->waiting_count++] = g;
}

/* ---------------------------------------------------------------- guests */

static const Um__BlobRef *ref_of(const struct guest *g, size_t i)
{
	const Um__GuestAssign *a = g->assign;

	if (!a)
		return NULL;
	return i == 0 ? a->image : i == 1 ? a->kernel : a->modules;
}

/* Holds artefact I of the guest when it is there. */
static bool hold(struct guest *g, size_t i, const Um__BlobRef *ref)
{
	struct imgstore *store = g->agent->store;

	if (g->blob_held[i] && memcmp(g->blob_ids[i], ref->id.data, MANIFEST_HASH) == 0)
		return true;
	if (imgstore_hold(store, ref->id.data, NULL) < 0)
		return false;
	if (g->blob_held[i])
		imgstore_drop(store, g->blob_ids[i]);
	memcpy(g->blob_ids[i], ref->id.data, MANIFEST_HASH);
	g->blob_held[i] = true;
	return true;
}

bool blobs_get(struct guest *g)
{
	struct blobs *blobs = g->agent->blobs;
	bool all = true, queued = false;

	for (size_t i = 0; i < GUESTS_BLOBS; i++) {
		const Um__BlobRef *ref = ref_of(g, i);
		struct blob *b;

		if (!ref || hold(g, i, ref))
			continue;
		all = false;
		b = want(blobs, ref->id.data, ref->size);
		if (!b)
			continue;
		if (!b->waiting_count || ref->n_sources)
			set_sources(b, ref);
		add_waiting(b, g);
		queued |= b->state == BLOB_QUEUED;
	}
	if (queued)
		start_some(blobs);
	return all;
}

unsigned blobs_explain_one(const struct blobs *blobs, const uint8_t id[MANIFEST_HASH], size_t kind,
	char *out, size_t size, int *code)
{
	const struct blob *b = find(blobs, id);

	*code = 0;
	if (!b)
		return 0;
	if (b->trouble[0] && b->state == BLOB_WAITS)
		(void)snprintf(out, size, "%s: %s", kinds[kind], b->trouble);
	else if (b->total)
		(void)snprintf(
			out, size, "%s: %u %%", kinds[kind], (unsigned)(b->done * 100 / b->total));
	else
		(void)snprintf(out, size, "%s: waiting to be fetched", kinds[kind]);
	*code = b->state == BLOB_WAITS ? b->code : 0;
	return b->failures;
}

void blobs_explain(const struct guest *g, char *out, size_t size)
{
	int code;

	*out = '\0';
	for (size_t i = 0; i < GUESTS_BLOBS && !*out; i++) {
		const Um__BlobRef *ref = ref_of(g, i);

		if (!ref || g->blob_held[i])
			continue;
		(void)blobs_explain_one(g->agent->blobs, ref->id.data, i, out, size, &code);
		if (code && strlen(out) < size)
			(void)snprintf(out + strlen(out), size - strlen(out), "; tried again");
	}
}

static bool wanted(const struct blob *b)
{
	return b->waiting_count || b->moves_count || b->prefetch;
}

static void remove_discarded(struct blobs *blobs, const uint8_t id[MANIFEST_HASH]);

void blobs_let_go(struct guest *g)
{
	struct blobs *blobs = g->agent->blobs;

	for (size_t i = 0; i < GUESTS_BLOBS; i++) {
		const Um__BlobRef *ref = ref_of(g, i);
		struct blob *b = ref ? find(blobs, ref->id.data) : NULL;

		for (size_t k = 0; b && k < b->waiting_count; k++)
			if (b->waiting[k] == g)
				b->waiting[k--] = b->waiting[--b->waiting_count];
		if (b && !wanted(b))
			drop(b); /* what came stays for the next who asks */
		if (!g->blob_held[i])
			continue;
		imgstore_drop(g->agent->store, g->blob_ids[i]);
		g->blob_held[i] = false;
		remove_discarded(blobs, g->blob_ids[i]);
	}
	start_some(blobs);
}

void blobs_wait(struct blobs *blobs, const Um__BlobRef *ref, uint64_t move)
{
	struct blob *b = want(blobs, ref->id.data, ref->size);
	uint64_t *more;

	if (!b)
		return; /* the next step tries again */
	for (size_t i = 0; i < b->moves_count; i++)
		if (b->moves[i] == move)
			return;
	more = realloc(b->moves, (b->moves_count + 1) * sizeof(*more));
	if (more) {
		more[b->moves_count++] = move;
		b->moves = more;
	}
	if (!b->ref || ref->n_sources)
		set_sources(b, ref);
	start_some(blobs);
}

void blobs_unwait(struct blobs *blobs, const uint8_t id[MANIFEST_HASH], uint64_t move)
{
	struct blob *b = find(blobs, id);

	for (size_t i = 0; b && i < b->moves_count; i++)
		if (b->moves[i] == move)
			b->moves[i--] = b->moves[--b->moves_count];
	if (b && !wanted(b))
		drop(b);
	start_some(blobs);
}

void blobs_prefetch(struct blobs *blobs, const Um__BlobRef *ref)
{
	struct blob *b;

	if (ref->id.len != MANIFEST_HASH || imgstore_has(blobs->agent->store, ref->id.data))
		return;
	b = want(blobs, ref->id.data, ref->size);
	if (!b)
		return;
	set_sources(b, ref);
	b->prefetch = true;
	start_some(blobs);
}

void blobs_kick(struct blobs *blobs)
{
	struct blob *b, *next;

	HASH_ITER (hh, blobs->all, b, next) {
		if (b->state != BLOB_WAITS)
			continue;
		b->state = BLOB_QUEUED;
		b->failures = 0;
		loop_timer_disarm(b->retry);
	}
	start_some(blobs);
}

/* ---------------------------------------------------------------- removing */

struct remove_job {
	struct agent *agent;
	uint8_t id[MANIFEST_HASH];
	int rc;
};

static void remove_work(void *arg)
{
	struct remove_job *job = arg;

	job->rc = imgstore_remove(job->agent->store, job->id, NULL);
}

static void remove_done(void *arg, bool cancelled)
{
	struct remove_job *job = arg;
	struct discard *d = NULL;
	struct blobs *blobs = job->agent->blobs;

	if (!cancelled && job->rc == 0 && !job->agent->stopping) {
		HASH_FIND(hh, blobs->discards, job->id, MANIFEST_HASH, d);
		if (d) {
			HASH_DEL(blobs->discards, d);
			free(d);
		}
		report_blob(job->agent->report, job->id, false);
	}
	free(job);
}

static void remove_discarded(struct blobs *blobs, const uint8_t id[MANIFEST_HASH])
{
	struct imgstore_info info;
	struct remove_job *job;
	struct discard *d = NULL;

	HASH_FIND(hh, blobs->discards, id, MANIFEST_HASH, d);
	if (!d || blobs->stopped)
		return;
	if (imgstore_info(blobs->agent->store, id, &info, NULL) == 0 && info.holds)
		return;
	job = calloc(1, sizeof(*job));
	if (!job)
		return;
	job->agent = blobs->agent;
	memcpy(job->id, id, sizeof(job->id));
	if (loop_work_run(
		    blobs->agent->loop, "artefact remove", remove_work, remove_done, job, NULL) < 0)
		free(job);
}

void blobs_discard(struct blobs *blobs, const uint8_t id[MANIFEST_HASH])
{
	struct discard *d = NULL;

	HASH_FIND(hh, blobs->discards, id, MANIFEST_HASH, d);
	if (!d) {
		d = calloc(1, sizeof(*d));
		if (!d)
			return;
		memcpy(d->id, id, sizeof(d->id));
		HASH_ADD(hh, blobs->discards, id, MANIFEST_HASH, d);
	}
	remove_discarded(blobs, id);
}

void blobs_release(struct blobs *blobs, const uint8_t id[MANIFEST_HASH])
{
	imgstore_drop(blobs->agent->store, id);
	remove_discarded(blobs, id);
}
