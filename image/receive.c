#include "image/receive.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "image/serve.h"

struct upload {
	uint8_t id[MANIFEST_HASH];
	struct imgstore_transfer *t;
	unsigned jobs; /* of ours, that use t */
	uint64_t last; /* when something came */
	UT_hash_handle hh;
};

struct imgreceive {
	struct loop *loop;
	struct imgstore *store;
	struct imgreceive_ops ops;
	void *arg;
	struct upload *uploads;
	struct loop_timer *idle;
	unsigned jobs;
	bool closed;
};

enum job_kind { JOB_ADD, JOB_PUT, JOB_COMMIT };

struct receive_job {
	struct imgreceive *rx;
	enum job_kind kind;
	struct zsock *sock;
	struct zpeer peer;
	uint64_t id;	   /* of the request */
	struct upload *up; /* PUT, COMMIT (NULL: whole already) */
	uint8_t *bulk;	   /* ADD: the manifest; PUT: the chunk */
	size_t bulk_size;
	Um__ChunkData head;
	Um__ArtefactCommit *commit;
	/* Results: */
	struct imgstore_transfer *t; /* ADD */
	struct imgstore_info info;   /* COMMIT */
	uint8_t artefact[MANIFEST_HASH];
	uint32_t *need;
	size_t need_count;
	int rc;
	struct err err;
};

/* ---------------------------------------------------------------- in the pool */

static int list_missing(struct receive_job *job)
{
	uint32_t count = imgstore_transfer_manifest(job->t)->count;
	uint32_t missing = imgstore_missing_count(job->t);

	job->need = calloc((size_t)missing + 1, sizeof(*job->need));
	if (!job->need)
		return err_set(&job->err, -ENOMEM, "memory is short");
	for (uint32_t i = imgstore_missing(job->t, 0); i < count && job->need_count < missing;
		i = imgstore_missing(job->t, i + 1))
		job->need[job->need_count++] = i;
	return 0;
}

static int add_work(struct receive_job *job)
{
	struct manifest *m = NULL;
	int rc = manifest_parse(job->bulk, job->bulk_size, &m, &job->err);

	if (rc < 0)
		return rc;
	memcpy(job->artefact, m->id, sizeof(job->artefact));
	rc = imgstore_begin(job->rx->store, m, &job->t, &job->err);
	manifest_free(m);
	if (rc == -EEXIST)
		return 0;
	return rc < 0 ? rc : list_missing(job);
}

static int put_work(struct receive_job *job)
{
	uint8_t *raw = malloc(MANIFEST_CHUNK);
	int rc;

	if (!raw)
		return err_set(&job->err, -ENOMEM, "memory is short");
	rc = imgserve_unpack(&job->head, job->bulk, job->bulk_size, raw, &job->err);
	if (rc > 0)
		rc = imgstore_put(job->up->t, job->head.index, raw, (size_t)rc, &job->err);
	free(raw);
	return rc;
}

static int commit_work(struct receive_job *job)
{
	int rc = job->up ? imgstore_commit(job->up->t, &job->err) : 0;

	return rc < 0 ? rc : imgstore_info(job->rx->store, job->artefact, &job->info, &job->err);
}

static void receive_work(void *arg)
{
	struct receive_job *job = arg;

	switch (job->kind) {
	case JOB_ADD:
		job->rc = add_work(job);
		break;
	case JOB_PUT:
		job->rc = put_work(job);
		break;
	case JOB_COMMIT:
		job->rc = commit_work(job);
		break;
	}
}

/* ---------------------------------------------------------------- answers */

static void send(struct receive_job *job, Um__Envelope *env)
{
	/* A peer that left, or does not read: it asks again, or never. */
	(void)zsock_send(job->sock, &job->peer, env, NULL, 0, NULL);
}

static void refuse(
	struct zsock *sock, const struct zpeer *peer, uint64_t id, int code, const char *message)
{
	Um__Envelope env = wire_env(id);
	Um__Error error = UM__ERROR__INIT;
	struct err text = ERR_INIT;

	(void)err_set(&text, code, "%s", message);
	error.code = code == -EBADMSG ? UM__ERROR_CODE__INVALID : wire_code_from_errno(code);
	error.message = text.msg;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	(void)zsock_send(sock, peer, &env, NULL, 0, NULL);
}

static void send_needs(struct receive_job *job)
{
	size_t at = 0;

	do {
		Um__Envelope env = wire_env(job->id);
		Um__ArtefactNeed need = UM__ARTEFACT_NEED__INIT;
		size_t n = job->need_count - at;

		n = n < IMGRECEIVE_NEED_MAX ? n : IMGRECEIVE_NEED_MAX;
		need.id.data = job->artefact;
		need.id.len = sizeof(job->artefact);
		need.chunks = job->need + at;
		need.n_chunks = n;
		at += n;
		env.more = at < job->need_count;
		env.body_case = UM__ENVELOPE__BODY_ARTEFACT_NEED;
		env.artefact_need = &need;
		send(job, &env);
	} while (at < job->need_count);
}

static void close_upload(struct imgreceive *rx, struct upload *up)
{
	HASH_DEL(rx->uploads, up);
	imgstore_transfer_close(up->t);
	free(up);
}

static void arm_idle(struct imgreceive *rx)
{
	if (rx->uploads && !loop_timer_armed(rx->idle))
		loop_timer_arm(rx->idle, IMGRECEIVE_IDLE_MS / 2);
}

static void added(struct imgreceive *rx, struct receive_job *job)
{
	struct upload *up = NULL;

	HASH_FIND(hh, rx->uploads, job->artefact, MANIFEST_HASH, up);
	if (up && job->t) { /* two clients began it at the same time */
		imgstore_transfer_close(job->t);
		job->t = NULL;
	} else if (job->t) {
		up = HASH_COUNT(rx->uploads) < IMGRECEIVE_OPEN_MAX ? calloc(1, sizeof(*up)) : NULL;
		if (!up) {
			refuse(job->sock, &job->peer, job->id, -EAGAIN,
				"too many uploads at once; try again later");
			return;
		}
		memcpy(up->id, job->artefact, sizeof(up->id));
		up->t = job->t;
		job->t = NULL;
		HASH_ADD(hh, rx->uploads, id, MANIFEST_HASH, up);
	}
	if (up)
		up->last = loop_now(rx->loop);
	arm_idle(rx);
	send_needs(job);
}

static void committed(struct imgreceive *rx, struct receive_job *job)
{
	job->commit->info->size = job->info.size;
	job->commit->info->allocated = job->info.data_size;
	rx->ops.on_commit(rx->arg, job->sock, &job->peer, job->id, job->commit);
}

static void stored(struct receive_job *job)
{
	Um__Envelope env = wire_env(job->id);
	Um__Ok ok = UM__OK__INIT;

	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	send(job, &env);
}

static void answer(struct imgreceive *rx, struct receive_job *job)
{
	if (job->rc < 0)
		refuse(job->sock, &job->peer, job->id, job->rc, err_msg(&job->err));
	else if (job->kind == JOB_ADD)
		added(rx, job);
	else if (job->kind == JOB_PUT)
		stored(job);
	else
		committed(rx, job);
}

static void free_job(struct receive_job *job)
{
	if (job->commit)
		um__artefact_commit__free_unpacked(job->commit, NULL);
	imgstore_transfer_close(job->t);
	free(job->bulk);
	free(job->need);
	free(job);
}

static void release(struct imgreceive *rx)
{
	struct upload *up, *next;

	if (!rx->closed || rx->jobs)
		return;
	HASH_ITER (hh, rx->uploads, up, next)
		close_upload(rx, up);
	free(rx);
}

static void receive_done(void *arg, bool cancelled)
{
	struct receive_job *job = arg;
	struct imgreceive *rx = job->rx;
	struct upload *up = job->up;

	if (!rx->closed && !cancelled)
		answer(rx, job);
	if (up) {
		up->jobs--;
		up->last = loop_now(rx->loop);
		if (job->kind == JOB_COMMIT && job->rc == 0 && !up->jobs)
			close_upload(rx, up);
	}
	free_job(job);
	rx->jobs--;
	release(rx);
}

/* ---------------------------------------------------------------- requests */

static void start(struct imgreceive *rx, struct receive_job *job)
{
	struct err err = ERR_INIT;

	if (rx->jobs >= IMGRECEIVE_MAX || loop_work_run(rx->loop, "artefact receive", receive_work,
						  receive_done, job, &err) < 0) {
		refuse(job->sock, &job->peer, job->id, -EAGAIN, "too much at once; try again");
		free_job(job);
		return;
	}
	rx->jobs++;
	if (job->up) {
		job->up->jobs++;
		job->up->last = loop_now(rx->loop);
	}
}

static struct receive_job *new_job(struct imgreceive *rx, enum job_kind kind, struct zsock *sock,
	const struct zpeer *peer, uint64_t id, const void *bulk, size_t bulk_size)
{
	struct receive_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->rx = rx;
	job->kind = kind;
	job->sock = sock;
	job->peer = *peer;
	job->id = id;
	job->bulk = malloc(bulk_size + 1);
	job->bulk_size = bulk_size;
	if (!job->bulk) {
		free(job);
		return NULL;
	}
	if (bulk_size)
		memcpy(job->bulk, bulk, bulk_size);
	return job;
}

static struct upload *find_upload(struct imgreceive *rx, const ProtobufCBinaryData *id)
{
	struct upload *up = NULL;

	if (id->len == MANIFEST_HASH)
		HASH_FIND(hh, rx->uploads, id->data, MANIFEST_HASH, up);
	return up;
}

static struct receive_job *chunk_job(struct imgreceive *rx, struct zsock *sock,
	const struct zpeer *peer, const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct upload *up = find_upload(rx, &env->chunk_data->id);
	struct receive_job *job;

	if (!up) {
		refuse(sock, peer, env->id, -ENOENT,
			"no upload of this artefact is under way; begin it anew");
		return NULL;
	}
	if (!bulk_size || bulk_size > MANIFEST_CHUNK) {
		refuse(sock, peer, env->id, -EINVAL, "a chunk has 1 to 262144 bytes");
		return NULL;
	}
	job = new_job(rx, JOB_PUT, sock, peer, env->id, bulk, bulk_size);
	if (!job) {
		refuse(sock, peer, env->id, -EAGAIN, "memory is short");
		return NULL;
	}
	job->up = up;
	job->head = (Um__ChunkData)UM__CHUNK_DATA__INIT;
	job->head.index = env->chunk_data->index;
	job->head.raw_size = env->chunk_data->raw_size;
	job->head.zstd = env->chunk_data->zstd;
	return job;
}

static struct receive_job *commit_job(struct imgreceive *rx, struct zsock *sock,
	const struct zpeer *peer, const Um__Envelope *env)
{
	const Um__ArtefactCommit *commit = env->artefact_commit;
	struct receive_job *job;
	struct upload *up;

	if (!commit->info || commit->info->id.len != MANIFEST_HASH) {
		refuse(sock, peer, env->id, -EINVAL, "a commit needs the artefact's id");
		return NULL;
	}
	up = find_upload(rx, &commit->info->id);
	if (!up && !imgstore_has(rx->store, commit->info->id.data)) {
		refuse(sock, peer, env->id, -ENOENT,
			"the artefact was not sent; begin the upload anew");
		return NULL;
	}
	job = new_job(rx, JOB_COMMIT, sock, peer, env->id, NULL, 0);
	if (job)
		job->commit = wire_copy(&commit->base);
	if (!job || !job->commit) {
		if (job)
			free_job(job);
		refuse(sock, peer, env->id, -EAGAIN, "memory is short");
		return NULL;
	}
	job->up = up;
	memcpy(job->artefact, commit->info->id.data, sizeof(job->artefact));
	return job;
}

bool imgreceive_message(struct imgreceive *rx, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct receive_job *job;

	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_ARTEFACT_ADD:
		job = new_job(rx, JOB_ADD, sock, peer, env->id, env->artefact_add->manifest.data,
			env->artefact_add->manifest.len);
		if (!job)
			refuse(sock, peer, env->id, -EAGAIN, "memory is short");
		break;
	case UM__ENVELOPE__BODY_CHUNK_DATA:
		job = chunk_job(rx, sock, peer, env, bulk, bulk_size);
		break;
	case UM__ENVELOPE__BODY_ARTEFACT_COMMIT:
		job = commit_job(rx, sock, peer, env);
		break;
	default:
		return false;
	}
	if (job)
		start(rx, job);
	return true;
}

/* ---------------------------------------------------------------- life */

static void on_idle(void *arg)
{
	struct imgreceive *rx = arg;
	uint64_t now = loop_now(rx->loop);
	struct upload *up, *next;

	/* At most IMGRECEIVE_OPEN_MAX. */
	HASH_ITER (hh, rx->uploads, up, next)
		if (!up->jobs && now - up->last >= IMGRECEIVE_IDLE_MS)
			close_upload(rx, up);
	arm_idle(rx);
}

int imgreceive_new(struct loop *loop, struct imgstore *store, const struct imgreceive_ops *ops,
	void *arg, struct imgreceive **out, struct err *err)
{
	struct imgreceive *rx = calloc(1, sizeof(*rx));
	int rc;

	if (!rx)
		return err_set(err, -ENOMEM, "memory is short");
	rx->loop = loop;
	rx->store = store;
	rx->ops = *ops;
	rx->arg = arg;
	rc = loop_timer_open(loop, "upload idle", on_idle, rx, &rx->idle, err);
	if (rc < 0) {
		free(rx);
		return rc;
	}
	*out = rx;
	return 0;
}

void imgreceive_free(struct imgreceive *rx)
{
	if (!rx)
		return;
	rx->closed = true;
	loop_timer_close(rx->idle);
	release(rx);
}
