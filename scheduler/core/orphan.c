#include "scheduler/core/orphan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

static struct core_orphan *get(const struct core *core, uint64_t epoch)
{
	struct core_orphan *o;

	HASH_FIND(hh, core->orphans, &epoch, sizeof(epoch), o);
	return o;
}

const struct core_orphan *core_orphan(const struct core *core, uint64_t epoch)
{
	return get(core, epoch);
}

const struct core_orphan *core_orphans(const struct core *core)
{
	return core->orphans;
}

static void dirty(const struct core_orphan *o, struct core_out *out)
{
	char key[CORE_NAME];

	(void)snprintf(key, sizeof(key), "%016" PRIx64, o->epoch);
	out_dirty(out, CORE_KIND_ORPHAN, key);
}

/* What it takes of its host's disk. */
static void reserve(struct core *core, struct core_orphan *o, uint64_t bytes)
{
	struct core_host *host = host_get(core, o->host);

	if (o->reserved == bytes || !host)
		return;
	host->disk_reserved += bytes - o->reserved;
	o->reserved = bytes;
	index_moved(core, host);
}

/* What its hosts were not heard of yet is looked for each time the guest starts, goes, or is
 * deleted. */
static void list(struct core *core, struct core_orphan *o)
{
	struct core_guest *guest;

	HASH_FIND(hh, core->guests, &o->facts.uid, sizeof(o->facts.uid), guest);
	if (!guest || o->state == CORE_ORPHAN_KEPT || o->guest)
		return;
	o->guest = guest;
	DL_APPEND2(guest->orphans, o, guest_prev, guest_next);
}

static void unlist(struct core_orphan *o)
{
	if (o->guest)
		DL_DELETE2(o->guest->orphans, o, guest_prev, guest_next);
	o->guest = NULL;
}

static void set_state(struct core_orphan *o, enum core_orphan_state state)
{
	o->state = state;
	if (state == CORE_ORPHAN_KEPT)
		unlist(o);
}

void orphan_guest_freed(struct core_guest *guest)
{
	while (guest->orphans)
		unlist(guest->orphans);
}

void orphan_loaded(struct core *core)
{
	for (struct core_orphan *o = core->orphans; o; o = o->hh.next)
		list(core, o);
}

static void forget(struct core *core, struct core_orphan *o, struct core_out *out)
{
	if (out)
		dirty(o, out);
	unlist(o);
	reserve(core, o, 0);
	HASH_DEL(core->orphans, o);
	free(o);
}

static struct core_orphan *add(struct core *core, const char *host, enum core_orphan_state state,
	const struct core_orphan_facts *facts)
{
	struct core_orphan *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->epoch = facts->epoch;
	o->state = state;
	o->facts = *facts;
	(void)str_copy(o->host, sizeof(o->host), host);
	HASH_ADD(hh, core->orphans, epoch, sizeof(o->epoch), o);
	list(core, o);
	return o;
}

/* ---------------------------------------------------------------- what is expected */

void orphan_expect(struct core *core, const struct core_guest *guest, struct core_out *out)
{
	/* One that gives way was told to go with its disk before. */
	if (guest->evicted)
		return;
	orphan_expect_on(core, guest, guest->host, guest->epoch,
		"its host was lost; it was started again from its image", out);
}

void orphan_expect_on(struct core *core, const struct core_guest *guest,
	const struct core_host *host, uint64_t epoch, const char *why, struct core_out *out)
{
	struct core_orphan_facts facts = {.uid = guest->uid, .epoch = epoch};
	struct core_orphan *o;

	/* A host that was never told of it has nothing. */
	if (!epoch || get(core, epoch))
		return;
	facts.since = host->lost_at;
	facts.bytes = guest->cow_bytes;
	(void)str_copy(facts.name, sizeof(facts.name), guest->name);
	(void)str_format(facts.reason, sizeof(facts.reason), "%s", why);
	if (guest->group) {
		memcpy(facts.image_id, guest->group->spec.image_id, CORE_ID);
		facts.has_image = true;
	}
	o = add(core, host->name, CORE_ORPHAN_EXPECTED, &facts);
	if (o)
		dirty(o, out);
	else
		out->failed = true;
}

static void tell_prune(const struct core_orphan *o, struct core_out *out)
{
	struct core_action action = {
		.kind = CORE_TELL_PRUNE, .uid = o->facts.uid, .epoch = o->epoch};

	(void)str_copy(action.host, sizeof(action.host), o->host);
	out_action(out, &action);
}

static bool expected_on(const struct core_orphan *o, const char *host)
{
	return o->state == CORE_ORPHAN_EXPECTED && strcmp(o->host, host) == 0;
}

const struct core_orphan *core_orphan_expected(
	const struct core *core, uint64_t uid, const char *host, uint64_t epoch)
{
	const struct core_orphan *o = get(core, epoch);
	const struct core_guest *guest = core_guest(core, uid);

	if (o && expected_on(o, host))
		return o;
	for (o = guest ? guest->orphans : NULL; o; o = o->guest_next)
		if (o->epoch < epoch && expected_on(o, host))
			return o;
	return NULL;
}

static void not_there(struct core *core, struct core_orphan *o, struct core_out *out)
{
	if (o->state == CORE_ORPHAN_EXPECTED)
		forget(core, o, out);
	else if (o->state == CORE_ORPHAN_PRUNED)
		tell_prune(o, out); /* is it gone as well? */
}

void orphan_absent(
	struct core *core, const struct core_host *host, uint64_t epoch, struct core_out *out)
{
	struct core_orphan *o = get(core, epoch);

	if (o && strcmp(o->host, host->name) == 0)
		not_there(core, o, out);
}

void orphan_absent_before(struct core *core, const struct core_guest *guest,
	const struct core_host *host, uint64_t epoch, struct core_out *out)
{
	struct core_orphan *o, *next;

	DL_FOREACH_SAFE2(guest->orphans, o, next, guest_next)
	{
		if (o->epoch < epoch && strcmp(o->host, host->name) == 0)
			not_there(core, o, out);
	}
}

void orphan_forget(struct core *core, const struct core_guest *guest, struct core_out *out)
{
	struct core_orphan *o, *next;

	DL_FOREACH_SAFE2(guest->orphans, o, next, guest_next)
	{
		if (o->state == CORE_ORPHAN_EXPECTED)
			forget(core, o, out);
	}
}

void orphan_host_gone(struct core *core, const struct core_host *host, struct core_out *out)
{
	struct core_orphan *o, *next;

	HASH_ITER (hh, core->orphans, o, next)
		if (strcmp(o->host, host->name) == 0)
			forget(core, o, out);
}

/* ---------------------------------------------------------------- what is there */

void orphan_hello(struct core *core, const struct core_host *host,
	const struct core_observed *observed, size_t count)
{
	struct core_orphan *o, *next;

	/* Those that the host still has as guests are to come; it may never have been told of
	 * the epoch, when the guest was given back to it (move_give_back()). */
	HASH_ITER (hh, core->orphans, o, next) {
		o->seen = false;
		for (size_t i = 0; !o->seen && i < count && strcmp(o->host, host->name) == 0; i++)
			o->seen = !observed[i].gone && o->facts.uid == observed[i].uid &&
				  (o->epoch == observed[i].epoch ||
					  (o->state == CORE_ORPHAN_EXPECTED &&
						  o->epoch > observed[i].epoch));
	}
}

static void gone(struct core *core, struct core_orphan *o, struct core_out *out)
{
	bool asked = o->state == CORE_ORPHAN_PRUNED;

	out_log(out, "guest", o->facts.name, asked ? "Pruned" : "OrphanGone", !asked, o->host,
		asked ? "its old disk on %s was removed"
		      : "its old disk is no longer on %s, and nobody asked for that",
		o->host);
	forget(core, o, out);
}

static void observe_one(struct core *core, const struct core_host *host,
	const struct core_orphan_facts *seen, struct core_out *out)
{
	struct core_orphan *o = get(core, seen->epoch);
	struct core_orphan_facts known;
	bool fresh = !o || o->state == CORE_ORPHAN_EXPECTED;

	if (o && strcmp(o->host, host->name) != 0)
		return; /* an epoch is of one host */
	/* A host that cannot read what it was says only where, how large and why: what is
	 * known of it stays. */
	if (o && !seen->uid && !seen->gone) {
		known = o->facts;
		known.bytes = seen->bytes;
		memcpy(known.reason, seen->reason, sizeof(known.reason));
		memcpy(known.path, seen->path, sizeof(known.path));
		seen = &known;
	}
	if (seen->gone) {
		if (o && o->state == CORE_ORPHAN_EXPECTED)
			forget(core, o, out);
		else if (o)
			gone(core, o, out);
		return;
	}
	if (!o)
		o = add(core, host->name, CORE_ORPHAN_KEPT, seen);
	if (!o) {
		out->failed = true;
		return;
	}
	o->facts = *seen;
	o->seen = true;
	if (fresh) {
		set_state(o, CORE_ORPHAN_KEPT);
		out_log(out, "guest", seen->name, "OrphanKept", true, host->name,
			"the disk that it left on %s is kept: 'clusterctl get orphans', "
			"'clusterctl "
			"prune'",
			host->name);
	}
	reserve(core, o, seen->bytes);
	dirty(o, out);
	if (o->state == CORE_ORPHAN_PRUNED)
		tell_prune(o, out);
}

void core_orphans_observed(struct core *core, const char *name,
	const struct core_orphan_facts *seen, size_t count, bool hello, struct core_out *out)
{
	const struct core_host *host = host_get(core, name);
	struct core_orphan *o, *next;

	if (!host)
		return;
	for (size_t i = 0; i < count; i++)
		observe_one(core, host, &seen[i], out);
	if (!hello)
		return;
	HASH_ITER (hh, core->orphans, o, next) {
		if (o->seen || strcmp(o->host, name) != 0)
			continue;
		if (o->state == CORE_ORPHAN_EXPECTED)
			forget(core, o, out);
		else
			gone(core, o, out);
	}
}

int core_prune(struct core *core, uint64_t epoch, struct core_out *out, struct err *err)
{
	struct core_orphan *o = get(core, epoch);

	if (!o)
		return err_set(err, -ENOENT, "no such orphan");
	if (o->state == CORE_ORPHAN_PRUNED)
		return 0;
	set_state(o, CORE_ORPHAN_PRUNED);
	dirty(o, out);
	out_log(out, "guest", o->facts.name, "Prune", false, o->host,
		"its old disk on %s is to go: asked for by a user", o->host);
	tell_prune(o, out);
	return 0;
}

/* ---------------------------------------------------------------- loading */

int core_load_orphan(struct core *core, const char *host, enum core_orphan_state state,
	const struct core_orphan_facts *facts, struct err *err)
{
	struct core_orphan *o;

	if (get(core, facts->epoch) || facts->epoch > core->meta.next_epoch ||
		!host_get(core, host) || state > CORE_ORPHAN_PRUNED)
		return err_set(
			err, -EPROTO, "the orphan of %s on %s makes no sense", facts->name, host);
	o = add(core, host, state, facts);
	if (!o)
		return err_set(err, -ENOMEM, "memory is short");
	if (state != CORE_ORPHAN_EXPECTED)
		reserve(core, o, facts->bytes);
	return 0;
}

void orphan_free_all(struct core *core)
{
	struct core_orphan *o, *next;

	HASH_ITER (hh, core->orphans, o, next) {
		unlist(o);
		HASH_DEL(core->orphans, o);
		free(o);
	}
}
