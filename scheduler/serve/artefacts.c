/* The catalogue of images and kernels, and the scheduler's own copies. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"
#include "spec/spec.h"

#define SOURCES_MAX 3

static void make_key(char key[CORE_FULLNAME + 4], Um__ArtefactKind kind, const char *name)
{
	(void)snprintf(key, CORE_FULLNAME + 4, "%d/%s", (int)kind, name);
}

int artefacts_put(struct serve *s, Um__ArtefactInfo *info, struct err *err)
{
	struct artefact *art;
	char key[CORE_FULLNAME + 4];

	make_key(key, info->kind, info->name);
	HASH_FIND_STR(s->artefacts, key, art);
	if (!art) {
		art = calloc(1, sizeof(*art));
		if (!art) {
			um__artefact_info__free_unpacked(info, NULL);
			return err_set(err, -ENOMEM, "memory is short");
		}
		memcpy(art->key, key, sizeof(key));
		HASH_ADD_STR(s->artefacts, key, art);
	} else {
		um__artefact_info__free_unpacked(art->info, NULL);
	}
	art->info = info;
	return 0;
}

const Um__ArtefactInfo *artefacts_find(
	const struct serve *s, Um__ArtefactKind kind, const char *name)
{
	struct artefact *art;
	char key[CORE_FULLNAME + 4];
	uint8_t id[CORE_ID];

	if (spec_is_artefact_id(name) && str_unhex(id, CORE_ID, name + strlen("sha256:")) == 0) {
		for (art = s->artefacts; art; art = art->hh.next)
			if (art->info->kind == kind && memcmp(art->info->id.data, id, CORE_ID) == 0)
				return art->info;
		return NULL;
	}
	make_key(key, kind, name);
	HASH_FIND_STR(s->artefacts, key, art);
	return art ? art->info : NULL;
}

const Um__ArtefactInfo *artefacts_kernel(const struct serve *s, const char *name, struct err *err)
{
	static const char *const preferred[] = {"fast", "debian"};
	const Um__ArtefactInfo *kernel = NULL;

	if (*name) {
		kernel = artefacts_find(s, UM__ARTEFACT_KIND__ARTEFACT_KERNEL, name);
		if (!kernel)
			(void)err_set(err, -ENOENT,
				"kernel '%.80s' is not in the cluster ('clusterctl get kernels' "
				"lists those that are)",
				name);
		return kernel;
	}
	for (size_t i = 0; i < 2 && !kernel; i++)
		kernel = artefacts_find(s, UM__ARTEFACT_KIND__ARTEFACT_KERNEL, preferred[i]);
	for (struct artefact *art = s->artefacts; art && !kernel; art = art->hh.next)
		if (art->info->kind == UM__ARTEFACT_KIND__ARTEFACT_KERNEL)
			kernel = art->info;
	if (!kernel)
		(void)err_set(err, -ENOENT,
			"the cluster has no kernel yet: clusterctl kernel add /usr/bin/linux.uml "
			"--name debian");
	return kernel;
}

Um__BlobRef *artefacts_ref(
	struct serve *s, const uint8_t id[CORE_ID], const char *for_host, struct arena *a)
{
	Um__BlobRef *ref = arena_get(a, sizeof(*ref));
	struct imgstore_info info;
	struct blob *blob;

	um__blob_ref__init(ref);
	ref->id = arena_bytes(a, id, CORE_ID);
	if (imgstore_info(s->images, id, &info, NULL) == 0)
		ref->size = info.size;
	HASH_FIND(hh, s->blobs, id, CORE_ID, blob);
	ref->sources = (Um__BlobSource **)arena_list(a, SOURCES_MAX);
	/* Starting at another one each time spreads the load. */
	for (size_t i = 0; blob && i < blob->host_count && ref->n_sources < SOURCES_MAX; i++) {
		size_t at = (blob->turn + i) % blob->host_count;
		const struct core_host *host = core_host(s->core, blob->hosts[at].host);
		struct agent *agent = agents_by_host(s, blob->hosts[at].host);
		Um__BlobSource *source;

		/* One that does not answer costs whoever asks it seconds. */
		if (!host || host->state != CORE_HOST_UP)
			continue;
		if (!agent || !*agent->endpoint || strcmp(agent->host, for_host) == 0)
			continue;
		source = arena_get(a, sizeof(*source));
		um__blob_source__init(source);
		source->endpoint = arena_str(a, agent->endpoint);
		source->pubkey = arena_bytes(a, agent->pubkey, CURVE_KEY);
		ref->sources[ref->n_sources++] = source;
	}
	if (blob)
		blob->turn++;
	return ref;
}

/* ---------------------------------------------------------------- uploads */

static void on_commit(void *arg, struct zsock *sock, const struct zpeer *z, uint64_t id,
	const Um__ArtefactCommit *commit)
{
	struct serve *s = arg;
	struct peer to = {.sock = sock, .z = *z};
	Um__ArtefactInfo *info = wire_copy(&commit->info->base);
	const Um__ArtefactInfo *have;
	Um__Envelope reply = wire_env(id);
	Um__Ok ok = UM__OK__INIT;
	struct err err = ERR_INIT;
	struct arena a = {0};
	struct store_op op;

	if (!info)
		return;
	if (spec_check_artefact("name", info->name, &err) < 0 || info->n_meta > 64 ||
		um__artefact_info__get_packed_size(info) > SERVE_META_MAX ||
		(info->modules_id.len && info->modules_id.len != CORE_ID)) {
		if (!err.code)
			(void)err_set(&err, -EINVAL, "artefact %.60s: meta or modules_id is wrong",
				info->name);
		goto refuse;
	}
	have = artefacts_find(s, info->kind, info->name);
	if (have && !commit->replace && memcmp(have->id.data, info->id.data, CORE_ID) != 0) {
		(void)err_set(&err, -EEXIST,
			"'%s' is in the cluster already, with other content: remove it or replace "
			"it",
			info->name);
		goto refuse;
	}
	if (info->modules_id.len && !imgstore_has(s->images, info->modules_id.data)) {
		(void)err_set(&err, -ENOENT, "kernel %s: its modules are not here", info->name);
		goto refuse;
	}
	info->created_at = have ? have->created_at : proc_wall_ms();
	log_info("artefact", LOG_STR("name", info->name));
	records_artefact(info, &a, &op);
	if (artefacts_put(s, info, &err) < 0) {
		info = NULL;
		goto refuse;
	}
	reply.body_case = UM__ENVELOPE__BODY_OK;
	reply.ok = &ok;
	commit_event(s, &to, &reply, &op, 1);
	arena_free(&a);
	return;
refuse:
	if (info)
		um__artefact_info__free_unpacked(info, NULL);
	serve_error(s, &to, id, &err);
	arena_free(&a);
}

int artefacts_open(struct serve *s, struct err *err)
{
	static const struct imgreceive_ops ops = {.on_commit = on_commit};
	char path[600];
	int rc;

	if (str_format(path, sizeof(path), "%s/artefacts", s->state_dir) < 0)
		return err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	rc = imgstore_open(path, &s->images, err);
	if (rc == 0)
		rc = imgserve_new(s->loop, s->images, &s->imgserve, err);
	if (rc == 0)
		rc = imgreceive_new(s->loop, s->images, &ops, s, &s->imgreceive, err);
	return rc;
}

void artefacts_close(struct serve *s)
{
	struct artefact *art, *next;

	imgreceive_free(s->imgreceive);
	imgserve_free(s->imgserve);
	HASH_ITER (hh, s->artefacts, art, next) {
		HASH_DEL(s->artefacts, art);
		um__artefact_info__free_unpacked(art->info, NULL);
		free(art);
	}
}

bool artefacts_message(struct serve *s, const struct peer *from, const Um__Envelope *env,
	const void *bulk, size_t bulk_size)
{
	if (imgserve_message(s->imgserve, from->sock, &from->z, env))
		return true;
	return imgreceive_message(s->imgreceive, from->sock, &from->z, env, bulk, bulk_size);
}

/* Guests whose image or kernel it is, wherever they are. */
static uint32_t users(const struct serve *s, const uint8_t *id)
{
	uint32_t n = 0;

	for (const struct core_deployment *d = core_deployments(s->core); d; d = d->hh.next) {
		const struct core_group *g;

		DL_FOREACH (d->groups, g)
			if (memcmp(g->spec.image_id, id, CORE_ID) == 0 ||
				memcmp(g->spec.kernel_id, id, CORE_ID) == 0 ||
				memcmp(g->spec.modules_id, id, CORE_ID) == 0)
				n += g->guest_count;
	}
	return n;
}

struct removal {
	struct serve *s;
	uint8_t id[CORE_ID];
};

static void remove_work(void *arg)
{
	struct removal *r = arg;

	(void)imgstore_remove(r->s->images, r->id, NULL);
}

static void remove_done(void *arg, bool cancelled)
{
	(void)cancelled;
	free(arg);
}

/* True when another name means the same bytes. */
static bool still_named(const struct serve *s, const uint8_t *id)
{
	for (struct artefact *art = s->artefacts; art; art = art->hh.next)
		if (memcmp(art->info->id.data, id, CORE_ID) == 0 ||
			(art->info->modules_id.len == CORE_ID &&
				memcmp(art->info->modules_id.data, id, CORE_ID) == 0))
			return true;
	return false;
}

static void drop_bytes(struct serve *s, const uint8_t *id)
{
	struct removal *r = calloc(1, sizeof(*r));

	if (!r || still_named(s, id)) {
		free(r);
		return;
	}
	r->s = s;
	memcpy(r->id, id, CORE_ID);
	for (struct agent *agent = s->agents; agent; agent = agent->hh.next) {
		Um__Envelope env = wire_env(0);
		Um__Desired d = UM__DESIRED__INIT;
		ProtobufCBinaryData blob = {.len = CORE_ID, .data = r->id};

		d.seq = ++agent->seq;
		d.n_drop_blobs = 1;
		d.drop_blobs = &blob;
		env.body_case = UM__ENVELOPE__BODY_DESIRED;
		env.desired = &d;
		commit_reply(s, &agent->peer, &env);
	}
	if (loop_work_run(s->loop, "remove artefact", remove_work, remove_done, r, NULL) < 0)
		free(r);
}

void artefacts_remove(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__ArtefactRemove *r = env->artefact_remove;
	Um__Envelope reply = wire_env(env->id);
	Um__Ok ok = UM__OK__INIT;
	uint8_t id[CORE_ID], modules[CORE_ID];
	struct arena a = {0};
	struct artefact *art;
	struct store_op op;
	char key[CORE_FULLNAME + 4];
	bool has_modules;
	uint32_t n;

	make_key(key, r->kind, r->name);
	HASH_FIND_STR(s->artefacts, key, art);
	if (!art) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__NOT_FOUND,
			"'%.80s' is not in the cluster", r->name);
		return;
	}
	n = users(s, art->info->id.data);
	if (n && !r->force) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__CONFLICT,
			"'%s' is used by %u guests: delete them first", art->info->name, n);
		return;
	}
	memcpy(id, art->info->id.data, CORE_ID);
	has_modules = art->info->modules_id.len == CORE_ID;
	if (has_modules)
		memcpy(modules, art->info->modules_id.data, CORE_ID);
	records_artefact_gone(art->info, &a, &op);
	HASH_DEL(s->artefacts, art);
	um__artefact_info__free_unpacked(art->info, NULL);
	free(art);
	reply.body_case = UM__ENVELOPE__BODY_OK;
	reply.ok = &ok;
	commit_event(s, from, &reply, &op, 1);
	/* Bytes that guests still run on stay. */
	if (!n)
		drop_bytes(s, id);
	if (!n && has_modules)
		drop_bytes(s, modules);
	arena_free(&a);
}
