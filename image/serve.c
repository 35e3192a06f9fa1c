#include "image/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <zstd.h>

#define ZSTD_LEVEL 1 /* disks are large and networks of a cluster fast */

struct serve_peer {
	uint8_t id[ZPEER_ID_MAX];
	size_t id_size;
	unsigned busy;
	UT_hash_handle hh;
};

struct imgserve {
	struct loop *loop;
	struct imgstore *store;
	struct serve_peer *peers; /* with requests under way */
	unsigned busy;
	bool closed;
	struct imgserve_stats stats;
};

struct serve_job {
	struct imgserve *serve;
	struct zsock *sock;
	struct zpeer peer;
	uint64_t id; /* of the request */
	uint8_t artefact[MANIFEST_HASH];
	bool manifest;
	uint32_t index;
	/* Results: */
	struct manifest *m;
	uint8_t *bulk;
	size_t bulk_size, raw_size;
	bool zstd;
	int rc;
	struct err err;
};

size_t imgserve_pack(const void *data, size_t size, void *bulk, bool *zstd)
{
	/* Room for less than SIZE: a result that is not smaller is an error here. */
	size_t n = size > 64 ? ZSTD_compress(bulk, size - 1, data, size, ZSTD_LEVEL) : 0;

	*zstd = n && !ZSTD_isError(n);
	if (*zstd)
		return n;
	memcpy(bulk, data, size);
	return size;
}

int imgserve_unpack(
	const Um__ChunkData *head, const void *bulk, size_t bulk_size, void *out, struct err *err)
{
	size_t n = head->raw_size;

	if (!n || n > MANIFEST_CHUNK || !bulk_size || bulk_size > MANIFEST_CHUNK)
		return err_set(err, -EBADMSG, "a chunk of %zu bytes in %zu", n, bulk_size);
	if (!head->zstd) {
		if (n != bulk_size)
			return err_set(
				err, -EBADMSG, "a chunk of %zu bytes, not %zu", bulk_size, n);
		memcpy(out, bulk, n);
		return (int)n;
	}
	if (ZSTD_decompress(out, n, bulk, bulk_size) != n)
		return err_set(err, -EBADMSG, "a chunk that cannot be decompressed");
	return (int)n;
}

/* ---------------------------------------------------------------- in the pool */

static void serve_work(void *arg)
{
	struct serve_job *job = arg;
	uint8_t *raw = NULL;

	if (job->manifest) {
		job->rc = imgstore_manifest(job->serve->store, job->artefact, &job->m, &job->err);
		return;
	}
	raw = malloc(MANIFEST_CHUNK);
	job->bulk = malloc(MANIFEST_CHUNK);
	if (!raw || !job->bulk)
		job->rc = err_set(&job->err, -ENOMEM, "memory is short");
	else
		job->rc =
			imgstore_read(job->serve->store, job->artefact, job->index, raw, &job->err);
	if (job->rc > 0) {
		job->raw_size = (size_t)job->rc;
		job->bulk_size = imgserve_pack(raw, job->raw_size, job->bulk, &job->zstd);
	}
	free(raw);
}

static void reply_error(
	struct zsock *sock, const struct zpeer *peer, uint64_t id, int code, const char *message)
{
	Um__Envelope env = wire_env(id);
	Um__Error error = UM__ERROR__INIT;
	char text[ERR_MSG_SIZE];

	(void)memcpy(text, message, strnlen(message, sizeof(text) - 1) + 1);
	text[sizeof(text) - 1] = '\0';
	error.code = wire_code_from_errno(code);
	error.message = text;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	(void)zsock_send(sock, peer, &env, NULL, 0, NULL);
}

static void reply(struct serve_job *job)
{
	struct imgserve_stats *stats = &job->serve->stats;
	Um__Envelope env = wire_env(job->id);
	Um__ManifestData manifest = UM__MANIFEST_DATA__INIT;
	Um__ChunkData chunk = UM__CHUNK_DATA__INIT;

	if (job->manifest) {
		manifest.manifest.data = job->m->bytes;
		manifest.manifest.len = job->m->bytes_size;
		env.body_case = UM__ENVELOPE__BODY_MANIFEST_DATA;
		env.manifest_data = &manifest;
		stats->manifests++;
	} else {
		chunk.id.data = job->artefact;
		chunk.id.len = sizeof(job->artefact);
		chunk.index = job->index;
		chunk.raw_size = (uint32_t)job->raw_size;
		chunk.zstd = job->zstd;
		env.body_case = UM__ENVELOPE__BODY_CHUNK_DATA;
		env.chunk_data = &chunk;
		stats->chunks++;
		stats->bytes += job->bulk_size;
	}
	/* A full queue or a peer that left: its timeout mends it. */
	(void)zsock_send(job->sock, &job->peer, &env, job->bulk, job->bulk_size, NULL);
}

/* ---------------------------------------------------------------- peers */

static struct serve_peer *peer_of(struct imgserve *serve, const struct zpeer *peer)
{
	struct serve_peer *p = NULL;

	HASH_FIND(hh, serve->peers, peer->id, peer->id_size, p);
	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	memcpy(p->id, peer->id, peer->id_size);
	p->id_size = peer->id_size;
	HASH_ADD_KEYPTR(hh, serve->peers, p->id, p->id_size, p);
	return p;
}

static void peer_release(struct imgserve *serve, const struct zpeer *peer)
{
	struct serve_peer *p = NULL;

	HASH_FIND(hh, serve->peers, peer->id, peer->id_size, p);
	if (p && --p->busy == 0) {
		HASH_DEL(serve->peers, p);
		free(p);
	}
}

static void serve_done(void *arg, bool cancelled)
{
	struct serve_job *job = arg;
	struct imgserve *serve = job->serve;

	serve->busy--;
	peer_release(serve, &job->peer);
	if (!serve->closed && !cancelled && job->rc < 0)
		reply_error(job->sock, &job->peer, job->id, job->rc, err_msg(&job->err));
	else if (!serve->closed && !cancelled)
		reply(job);
	manifest_free(job->m);
	free(job->bulk);
	free(job);
	if (serve->closed && !serve->busy)
		free(serve);
}

int imgserve_new(struct loop *loop, struct imgstore *store, struct imgserve **out, struct err *err)
{
	struct imgserve *serve = calloc(1, sizeof(*serve));

	if (!serve)
		return err_set(err, -ENOMEM, "memory is short");
	serve->loop = loop;
	serve->store = store;
	*out = serve;
	return 0;
}

static void start_job(struct imgserve *serve, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const ProtobufCBinaryData *id)
{
	struct serve_peer *p = peer_of(serve, peer);
	struct serve_job *job;
	struct err err = ERR_INIT;

	if (!p || p->busy >= IMGSERVE_PEER_MAX || serve->busy >= IMGSERVE_MAX) {
		serve->stats.refused++;
		if (p && !p->busy) {
			p->busy = 1;
			peer_release(serve, peer);
		}
		reply_error(sock, peer, env->id, -EAGAIN, "too many requests at once; try again");
		return;
	}
	p->busy++;
	job = calloc(1, sizeof(*job));
	if (job) {
		job->serve = serve;
		job->sock = sock;
		job->peer = *peer;
		job->id = env->id;
		memcpy(job->artefact, id->data, sizeof(job->artefact));
		job->manifest = env->body_case == UM__ENVELOPE__BODY_MANIFEST_GET;
		job->index = job->manifest ? 0 : env->chunk_get->index;
	}
	if (!job || loop_work_run(
			    serve->loop, "artefact serve", serve_work, serve_done, job, &err) < 0) {
		free(job);
		peer_release(serve, peer);
		reply_error(sock, peer, env->id, -EAGAIN, "memory is short");
		return;
	}
	serve->busy++;
}

bool imgserve_message(struct imgserve *serve, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env)
{
	const ProtobufCBinaryData *id;

	if (env->body_case == UM__ENVELOPE__BODY_MANIFEST_GET)
		id = &env->manifest_get->id;
	else if (env->body_case == UM__ENVELOPE__BODY_CHUNK_GET)
		id = &env->chunk_get->id;
	else
		return false;
	if (id->len != MANIFEST_HASH)
		reply_error(sock, peer, env->id, -EINVAL, "an artefact's id has 32 bytes");
	else
		start_job(serve, sock, peer, env, id);
	return true;
}

const struct imgserve_stats *imgserve_stats(const struct imgserve *serve)
{
	return &serve->stats;
}

void imgserve_free(struct imgserve *serve)
{
	if (!serve)
		return;
	serve->closed = true;
	if (!serve->busy)
		free(serve);
}
