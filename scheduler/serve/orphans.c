/* Orphans: what agents say of them, records, and what clients see and prune. */
#include "scheduler/core/orphan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

/* ---------------------------------------------------------------- there and back */

static void copy_text(char *to, size_t size, const char *from)
{
	(void)str_format(to, size, "%s", str_is_utf8(from, strlen(from)) ? from : "");
}

/* False: it makes no sense. */
static bool convert(const Um__OrphanDisk *d, struct core_orphan_facts *out)
{
	if (!d || !d->epoch)
		return false;
	*out = (struct core_orphan_facts){.uid = d->uid,
		.epoch = d->epoch,
		.since = d->since,
		.bytes = d->cow_bytes,
		.runs = d->runs,
		.disk_bytes = d->disk_bytes,
		.gone = d->gone,
		.has_image = d->image_id.len == CORE_ID};
	if (out->has_image)
		memcpy(out->image_id, d->image_id.data, CORE_ID);
	copy_text(out->name, sizeof(out->name), d->name);
	copy_text(out->reason, sizeof(out->reason), d->reason);
	copy_text(out->path, sizeof(out->path), d->path);
	copy_text(out->base, sizeof(out->base), d->base_path);
	return d->gone || *out->name;
}

static Um__OrphanDisk *disk_of(const struct core_orphan *o, struct arena *a)
{
	Um__OrphanDisk *d = arena_get(a, sizeof(*d));

	um__orphan_disk__init(d);
	d->uid = o->facts.uid;
	d->epoch = o->epoch;
	d->name = arena_str(a, o->facts.name);
	d->since = o->facts.since;
	d->reason = arena_str(a, o->facts.reason);
	d->cow_bytes = o->facts.bytes;
	d->runs = o->facts.runs;
	d->disk_bytes = o->facts.disk_bytes;
	if (o->facts.has_image)
		d->image_id = arena_bytes(a, o->facts.image_id, CORE_ID);
	d->path = arena_str(a, o->facts.path);
	d->base_path = arena_str(a, o->facts.base);
	return d;
}

void orphans_observed(struct serve *s, const struct agent *agent, Um__OrphanDisk **disks,
	size_t count, bool hello)
{
	struct core_orphan_facts *seen = calloc(count + 1, sizeof(*seen));
	size_t n = 0;

	if (!seen)
		abort();
	for (size_t i = 0; i < count; i++)
		n += convert(disks[i], &seen[n]);
	if (n || hello)
		core_orphans_observed(s->core, agent->host, seen, n, hello, &s->out);
	free(seen);
}

Um__StoredOrphan *orphans_record_of(const struct serve *s, uint64_t epoch, struct arena *a)
{
	const struct core_orphan *o = core_orphan(s->core, epoch);
	Um__StoredOrphan *r;

	if (!o)
		return NULL;
	r = arena_get(a, sizeof(*r));
	um__stored_orphan__init(r);
	r->disk = disk_of(o, a);
	r->host = arena_str(a, o->host);
	r->state = (uint32_t)o->state;
	return r;
}

int orphans_restore(struct serve *s, const Um__StoredOrphan *r, struct err *err)
{
	struct core_orphan_facts facts;

	if (!convert(r->disk, &facts))
		return err_set(err, -EBADMSG, "an orphan's record makes no sense");
	return core_load_orphan(s->core, r->host, (enum core_orphan_state)r->state, &facts, err);
}

Um__OrphanInfo *orphans_view(const struct serve *s, const struct core_orphan *o, struct arena *a)
{
	const struct core_host *host = core_host(s->core, o->host);
	Um__OrphanInfo *out = arena_get(a, sizeof(*out));
	bool here = host && (host->state == CORE_HOST_UP || host->state == CORE_HOST_SUSPECT);

	um__orphan_info__init(out);
	out->disk = disk_of(o, a);
	out->host = arena_str(a, o->host);
	out->state = arena_str(a, o->state == CORE_ORPHAN_PRUNED     ? "pruned"
				  : o->state == CORE_ORPHAN_EXPECTED ? "expected"
				  : here			     ? "kept"
								     : "away");
	return out;
}

/* ---------------------------------------------------------------- prune */

static bool named(const Um__PruneRequest *r, const struct core_orphan *o, bool *found)
{
	const char *slash = strchr(o->facts.name, '/');
	char epoch[24];
	bool any = !r->n_names;

	(void)str_format(epoch, sizeof(epoch), "%" PRIu64, o->epoch);
	for (size_t i = 0; i < r->n_names; i++) {
		const char *name = r->names[i];

		if (strcmp(name, o->facts.name) != 0 && strcmp(name, epoch) != 0 &&
			(!slash || strcmp(name, slash + 1) != 0))
			continue;
		any = found[i] = true;
	}
	return any;
}

static bool chosen(const Um__PruneRequest *r, const struct core_orphan *o, bool *found)
{
	uint64_t now = proc_wall_ms();

	return named(r, o, found) && (!*r->host || strcmp(r->host, o->host) == 0) &&
	       (!r->older_ms || (now > o->facts.since && now - o->facts.since >= r->older_ms));
}

void orphans_prune_asked(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__PruneRequest *r = env->prune_request;
	Um__Envelope reply = wire_env(env->id);
	Um__PruneReply body = UM__PRUNE_REPLY__INIT;
	bool *found = calloc(r->n_names + 1, sizeof(*found));
	const struct core_orphan *o;
	struct arena a = {0};
	size_t count = 0;

	if (!found)
		abort();
	for (o = core_orphans(s->core); o; o = o->hh.next)
		count++;
	body.orphans = (Um__OrphanInfo **)arena_list(&a, count);
	for (o = core_orphans(s->core); o; o = o->hh.next)
		if (chosen(r, o, found))
			body.orphans[body.n_orphans++] = orphans_view(s, o, &a);
	for (size_t i = 0; i < r->n_names; i++) {
		if (found[i])
			continue;
		serve_refuse(s, from, env->id, UM__ERROR_CODE__NOT_FOUND, "no orphan '%.120s'",
			r->names[i]);
		goto out;
	}
	reply.body_case = UM__ENVELOPE__BODY_PRUNE_REPLY;
	reply.prune_reply = &body;
	if (r->dry_run) {
		commit_reply(s, from, &reply);
		goto out;
	}
	for (size_t i = 0; i < body.n_orphans; i++)
		(void)core_prune(s->core, body.orphans[i]->disk->epoch, &s->out, NULL);
	commit_event(s, from, &reply, NULL, 0);
out:
	free(found);
	arena_free(&a);
}
