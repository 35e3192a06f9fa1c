/* image/ without content: an artefact is there or not, as a file in its machine's
 * store; a transfer takes a while and may fail. */
#include <errno.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "image/fetch.h"
#include "image/receive.h"
#include "image/serve.h"
#include "lib/fs.h"
#include "lib/str.h"
#include "tests/sim/event.h"

#define ARTEFACTS_MAX 32
#define SIZE (64u << 20)

struct imgstore {
	char dir[256];
	struct imgstore_info list[ARTEFACTS_MAX];
	size_t count;
};

int imgstore_open(const char *dir, struct imgstore **out, struct err *err)
{
	struct imgstore *s;
	struct dirent *entry;
	DIR *d;
	int rc = fs_mkdirs(dir, 0755, err);

	if (rc < 0)
		return rc;
	d = opendir(dir);
	if (!d)
		return err_set(err, -EIO, "%s", dir);
	s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	(void)str_copy(s->dir, sizeof(s->dir), dir);
	while ((entry = readdir(d))) {
		struct imgstore_info *i = &s->list[s->count];

		if (strlen(entry->d_name) == 64 && s->count < ARTEFACTS_MAX &&
			str_unhex(i->id, sizeof(i->id), entry->d_name) == 0) {
			i->size = i->data_size = SIZE;
			s->count++;
		}
	}
	(void)closedir(d);
	*out = s;
	return 0;
}

void imgstore_close(struct imgstore *store)
{
	free(store);
}

uint32_t imgstore_damaged(const struct imgstore *store)
{
	(void)store;
	return 0;
}

static struct imgstore_info *find(struct imgstore *s, const uint8_t *id)
{
	for (size_t i = 0; i < s->count; i++)
		if (memcmp(s->list[i].id, id, MANIFEST_HASH) == 0)
			return &s->list[i];
	return NULL;
}

static void path_of(const struct imgstore *s, const uint8_t *id, char path[PATH_MAX])
{
	char hex[2 * MANIFEST_HASH + 1];

	str_hex(hex, id, MANIFEST_HASH);
	(void)fs_join(path, PATH_MAX, s->dir, hex, NULL);
}

static int add(struct imgstore *s, const uint8_t *id, struct err *err)
{
	char path[PATH_MAX];
	int rc;

	if (find(s, id))
		return 0;
	path_of(s, id, path);
	rc = fs_write_atomic(path, "x", 1, 0444, err);
	if (rc < 0 || s->count == ARTEFACTS_MAX)
		return rc;
	s->list[s->count] = (struct imgstore_info){.size = SIZE, .data_size = SIZE};
	memcpy(s->list[s->count++].id, id, MANIFEST_HASH);
	return 0;
}

bool imgstore_has(struct imgstore *s, const uint8_t id[MANIFEST_HASH])
{
	return find(s, id);
}

int imgstore_path(
	struct imgstore *s, const uint8_t id[MANIFEST_HASH], char path[PATH_MAX], struct err *err)
{
	if (!find(s, id))
		return err_set(err, -ENOENT, "no such artefact");
	path_of(s, id, path);
	return 0;
}

int imgstore_check(struct imgstore *s, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct imgstore_info info;

	return imgstore_info(s, id, &info, err);
}

int imgstore_sized(struct imgstore *s, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err)
{
	(void)size;
	return imgstore_path(s, id, path, err);
}

int imgstore_checked(struct imgstore *s, const uint8_t id[MANIFEST_HASH], uint64_t size,
	char path[PATH_MAX], struct err *err)
{
	return imgstore_sized(s, id, size, path, err);
}

int imgstore_info(struct imgstore *s, const uint8_t id[MANIFEST_HASH], struct imgstore_info *out,
	struct err *err)
{
	struct imgstore_info *i = find(s, id);

	if (!i)
		return err_set(err, -ENOENT, "no such artefact");
	*out = *i;
	return 0;
}

int imgstore_each(struct imgstore *s, imgstore_each_fn *fn, void *arg, struct err *err)
{
	int rc = 0;

	(void)err;
	for (size_t i = 0; rc == 0 && i < s->count; i++)
		rc = fn(arg, &s->list[i]);
	return rc;
}

int imgstore_hold(struct imgstore *s, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct imgstore_info *i = find(s, id);

	if (!i)
		return err_set(err, -ENOENT, "no such artefact");
	i->holds++;
	return 0;
}

void imgstore_drop(struct imgstore *s, const uint8_t id[MANIFEST_HASH])
{
	struct imgstore_info *i = find(s, id);

	if (i && i->holds)
		i->holds--;
	else if (i)
		sim_fail("an artefact is let go once too often");
}

int imgstore_remove(struct imgstore *s, const uint8_t id[MANIFEST_HASH], struct err *err)
{
	struct imgstore_info *i = find(s, id);
	char path[PATH_MAX];

	if (!i)
		return 0;
	if (i->holds)
		return err_set(err, -EBUSY, "held");
	path_of(s, id, path);
	*i = s->list[--s->count];
	return fs_remove_tree(path, err);
}

int imgstore_sweep(struct imgstore *s, uint64_t age_s, struct err *err)
{
	(void)s;
	(void)age_s;
	(void)err;
	return 0;
}

/* ---------------------------------------------------------------- fetching */

struct imgfetch {
	struct imgfetch_config config;
	struct imgfetch_ops ops;
	void *arg;
	struct loop_timer *timer;
	bool closed, calling;
};

static void fetched(void *arg)
{
	struct imgfetch *f = arg;
	struct sim_machine *m = sim_here();
	struct err err = ERR_INIT;
	int rc = 0;

	if (!sim->healed && sim_chance(m, DRAW_FETCH, 0.1))
		rc = err_set(&err, -ETIMEDOUT, "no source answers");
	else
		rc = add(f->config.store, f->config.id, &err);
	f->calling = true;
	f->ops.on_done(f->arg, f, rc < 0 ? &err : NULL);
	f->calling = false;
	if (f->closed)
		free(f);
}

int imgfetch_start(const struct imgfetch_config *config, const struct imgfetch_ops *ops, void *arg,
	struct imgfetch **out, struct err *err)
{
	struct imgfetch *f = calloc(1, sizeof(*f));

	if (!f)
		abort();
	f->config = *config;
	f->ops = *ops;
	f->arg = arg;
	(void)loop_timer_open(config->loop, "fetch", fetched, f, &f->timer, err);
	loop_timer_arm(f->timer, sim_between(sim_here(), DRAW_FETCH, 1, 2000));
	*out = f;
	return 0;
}

void imgfetch_close(struct imgfetch *f)
{
	if (!f || f->closed)
		return;
	f->closed = true;
	loop_timer_close(f->timer);
	if (!f->calling)
		free(f);
}

uint64_t imgfetch_received(const struct imgfetch *f)
{
	(void)f;
	return SIZE;
}

/* ---------------------------------------------------------------- serving, receiving */

struct imgserve {
	struct imgstore *store;
};

int imgserve_new(struct loop *loop, struct imgstore *store, struct imgserve **out, struct err *err)
{
	(void)loop;
	(void)err;
	*out = calloc(1, sizeof(**out));
	if (!*out)
		abort();
	(*out)->store = store;
	return 0;
}

bool imgserve_message(struct imgserve *serve, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env)
{
	(void)serve;
	(void)sock;
	(void)peer;
	(void)env;
	return false;
}

void imgserve_free(struct imgserve *serve)
{
	free(serve);
}

struct imgreceive {
	struct imgstore *store;
	struct imgreceive_ops ops;
	void *arg;
};

int imgreceive_new(struct loop *loop, struct imgstore *store, const struct imgreceive_ops *ops,
	void *arg, struct imgreceive **out, struct err *err)
{
	struct imgreceive *rx = calloc(1, sizeof(*rx));

	(void)loop;
	(void)err;
	if (!rx)
		abort();
	rx->store = store;
	rx->ops = *ops;
	rx->arg = arg;
	*out = rx;
	return 0;
}

/* The bytes are there as soon as they are spoken of. */
bool imgreceive_message(struct imgreceive *rx, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	(void)bulk;
	(void)bulk_size;
	if (env->body_case != UM__ENVELOPE__BODY_ARTEFACT_COMMIT)
		return false;
	if (add(rx->store, env->artefact_commit->info->id.data, NULL) == 0)
		rx->ops.on_commit(rx->arg, sock, peer, env->id, env->artefact_commit);
	return true;
}

void imgreceive_free(struct imgreceive *rx)
{
	free(rx);
}
