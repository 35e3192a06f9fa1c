#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

#define FAR_AWAY 60000u

struct core_host *host_get(const struct core *core, const char *name)
{
	struct core_host *host;

	HASH_FIND_STR(core->hosts, name, host);
	return host;
}

static int copy_labels(struct core_labels *to, const struct core_labels *from)
{
	struct core_label *items = NULL;

	if (from->count) {
		items = malloc(from->count * sizeof(*items));
		if (!items)
			return -ENOMEM;
		memcpy(items, from->items, from->count * sizeof(*items));
	}
	free(to->items);
	to->items = items;
	to->count = from->count;
	return 0;
}

static int copy_taints(struct core_taints *to, const struct core_taints *from)
{
	struct core_taint *items = NULL;

	if (from->count) {
		items = malloc(from->count * sizeof(*items));
		if (!items)
			return -ENOMEM;
		memcpy(items, from->items, from->count * sizeof(*items));
	}
	free(to->items);
	to->items = items;
	to->count = from->count;
	return 0;
}

/* The lowest free number: tables by it stay as small as the cluster. */
static int give_order(struct core *core, struct core_host *host)
{
	uint32_t order = core->order_hint ? core->order_hint : 1;

	while (order < core->order_room && core->by_order[order])
		order++;
	if (order >= core->order_room) {
		uint32_t room = core->order_room ? core->order_room * 2 : 64;
		struct core_host **bigger =
			realloc(core->by_order, room * sizeof(struct core_host *));

		if (!bigger)
			return -ENOMEM;
		memset(bigger + core->order_room, 0,
			(room - core->order_room) * sizeof(struct core_host *));
		core->by_order = bigger;
		core->order_room = room;
	}
	host->order = order;
	core->auto_mtu = 0;
	core->by_order[order] = host;
	core->order_hint = order + 1;
	return 0;
}

static int set_facts(struct core_host *host, const struct core_hostfacts *facts, struct err *err)
{
	if (copy_labels(&host->labels, &facts->labels) < 0 ||
		copy_taints(&host->taints, &facts->taints) < 0)
		return err_set(err, -ENOMEM, "memory is short for host %s", facts->name);
	host->overcommit = facts->overcommit;
	host->memory = facts->memory;
	host->disk = facts->disk;
	host->disk_free = facts->disk_free;
	host->cpu = facts->cpu;
	host->underlay_mtu = facts->underlay_mtu;
	host->vtep = facts->vtep;
	return 0;
}

int host_new(struct core *core, const struct core_hostfacts *facts, struct core_host **out,
	struct err *err)
{
	struct core_host *host = calloc(1, sizeof(*host));
	int rc;

	if (!host)
		return err_set(err, -ENOMEM, "memory is short for host %s", facts->name);
	(void)str_copy(host->name, sizeof(host->name), facts->name);
	rc = set_facts(host, facts, err);
	if (rc == 0 && give_order(core, host) < 0)
		rc = err_set(err, -ENOMEM, "memory is short for host %s", facts->name);
	if (rc < 0) {
		free(host->labels.items);
		free(host->taints.items);
		free(host);
		return rc;
	}
	HASH_ADD_STR(core->hosts, name, host);
	DL_APPEND(core->host_list, host);
	*out = host;
	return 0;
}

void host_free(struct core *core, struct core_host *host)
{
	avoid_forget(core, host);
	drain_forget(core, host);
	core->auto_mtu = 0;
	index_take(core, host);
	core->by_order[host->order] = NULL;
	if (host->order < core->order_hint)
		core->order_hint = host->order;
	HASH_DEL(core->hosts, host);
	DL_DELETE(core->host_list, host);
	free(host->labels.items);
	free(host->taints.items);
	free(host->domains);
	free(host);
}

static void heard(struct core *core, struct core_host *host, uint64_t now, uint64_t mono)
{
	host->last_seen = now;
	host->seen_mono = mono;
	/* Stays sorted: the longest unheard first. */
	DL_DELETE(core->host_list, host);
	DL_APPEND(core->host_list, host);
}

/* True when it runs, or should, on HOST under this epoch. */
static bool is_ours(const struct core_guest *guest, const struct core_host *host,
	const struct core_observed *seen)
{
	return guest && guest->host == host && guest->epoch == seen->epoch;
}

static bool takes_phase(enum core_phase phase)
{
	return phase >= CORE_PLACED && phase <= CORE_FAILED;
}

static void note(struct core *core, struct core_guest *guest, const struct core_observed *seen,
	uint64_t now, struct core_out *out)
{
	enum core_phase before = guest->phase;
	uint64_t ran_since = guest->started_at;
	bool was_ready = guest->ready;

	if (!takes_phase(seen->phase))
		return;
	guest->restarts = seen->restarts;
	guest->exit_status = seen->exit_status;
	guest->started_at = seen->started_at;
	guest->cow_bytes = seen->cow_bytes;
	guest_set_phase(guest, seen->phase, seen->reason ? seen->reason : "");
	if (guest->group && seen->generation == guest->generation)
		guest_settle(core, guest);
	if (seen->phase == CORE_RUNNING && before != CORE_RUNNING)
		orphan_absent_before(core, guest, guest->host, guest->epoch, out);
	if (seen->troubles > guest->troubles)
		avoid_failed(core, guest->host, guest, now, out);
	else if (seen->phase == CORE_RUNNING && before != CORE_RUNNING)
		avoid_fine(core, guest->host, out);
	guest->troubles = (uint8_t)(seen->troubles < UINT8_MAX ? seen->troubles : UINT8_MAX);
	if (seen->generation == guest->generation)
		guest->unfenced = false;
	loss_back(guest, before, ran_since, out);
	/* Ready under an older spec is not ready. */
	guest_set_ready(guest, seen->phase == CORE_RUNNING && seen->ready && !guest->deleting &&
				       seen->generation == guest->generation);
	move_noted(core, guest, seen, now, out);
	/* What an older spec came to says nothing of this one. */
	guest->final = seen->final && seen->generation == guest->generation;
	out_dirty_guest(out, guest);
	if (guest->ready && !was_ready)
		out_log(out, "guest", guest->name, "Ready", false, guest->host->name, "%s",
			guest->reason);
	else if (guest->phase != before)
		out_log(out, "guest", guest->name,
			guest->phase == CORE_FAILED    ? "Failed"
			: guest->phase == CORE_STOPPED ? "Stopped"
			: guest->phase == CORE_RUNNING ? "Running"
						       : "Progress",
			guest->phase == CORE_FAILED, guest->host->name, "%s%s%s",
			core_phase_name(guest->phase), *guest->reason ? ": " : "", guest->reason);
}

/* Nothing is left of an older placement, or of what is not known. */
static void old_is_gone(struct core *core, const struct core_host *host,
	const struct core_guest *guest, const struct core_observed *seen, uint64_t now,
	struct core_out *out)
{
	move_left(core, host, seen->uid, now, out);
	orphan_absent(core, host, seen->epoch, out);
	/* It came back to where it was: its host made way for that first. */
	if (guest && guest->host == host)
		out_tell_guest(out, guest);
}

static void observe_one(struct core *core, struct core_host *host, const struct core_observed *seen,
	uint64_t now, struct core_out *out)
{
	struct core_guest *guest;

	HASH_FIND(hh, core->guests, &seen->uid, sizeof(seen->uid), guest);
	if (!is_ours(guest, host, seen)) {
		/* Unknown, moved away, or of an older placement: it must go. */
		if (seen->gone)
			old_is_gone(core, host, guest, seen, now, out);
		else if (!move_keeps(core, host, seen->uid))
			out_tell_remove(out, host->name, seen->uid, seen->epoch);
		return;
	}
	if (!seen->gone) {
		note(core, guest, seen, now, out);
		if (guest->deleting || guest->evicted)
			out_tell_remove(out, host->name, seen->uid, seen->epoch);
		return;
	}
	orphan_absent_before(core, guest, host, seen->epoch, out);
	if (guest->deleting)
		guest_gone(core, guest, out);
	else if (guest->evicted)
		guest_unplace(core, guest, "gave way to guests of higher priority", out);
	else
		out_tell_guest(out, guest);
}

int core_host_hello(struct core *core, const struct core_hostfacts *facts,
	const struct core_observed *observed, size_t count, uint64_t now, uint64_t mono,
	struct core_out *out, struct err *err)
{
	struct core_action full = {.kind = CORE_TELL_FULL};
	struct core_host *host = host_get(core, facts->name);
	struct core_guest *guest, *next;
	bool was_up = host && host->state == CORE_HOST_UP;
	int rc;

	rc = host ? set_facts(host, facts, err) : host_new(core, facts, &host, err);
	if (rc < 0)
		return rc;
	if (!host->joined_at)
		host->joined_at = now;
	host->state = CORE_HOST_UP;
	host->released = false;
	core->auto_mtu = 0;
	heard(core, host, now, mono);
	rc = index_put(core, host, err);
	if (rc < 0) {
		out->failed = true;
		return rc;
	}
	out_dirty(out, CORE_KIND_HOST, host->name);
	core->drain_due |= core->draining != NULL;
	if (!was_up)
		out_log(out, "host", host->name, "Up", false, host->name, "is up");
	for (size_t i = 0; i < count; i++)
		observe_one(core, host, &observed[i], now, out);
	move_hello(core, host, observed, count, now, out);
	orphan_hello(core, host, observed, count);
	/* What was being removed and is not there any more is gone; what was lost
	 * and has not been heard of is to be started. */
	DL_FOREACH_SAFE2(host->guests, guest, next, host_next)
	{
		bool seen = false;

		if (!guest->deleting && !guest->evicted && guest->phase != CORE_LOST)
			continue;
		for (size_t i = 0; i < count && !seen; i++)
			seen = observed[i].uid == guest->uid;
		if (seen)
			continue;
		if (guest->deleting) {
			guest_gone(core, guest, out);
		} else if (guest->evicted) {
			guest_unplace(core, guest, "gave way to guests of higher priority", out);
		} else {
			guest_set_phase(guest, CORE_PLACED, "its host is back without it");
			loss_back(guest, CORE_LOST, 0, out);
			out_dirty_guest(out, guest);
		}
	}
	(void)str_copy(full.host, sizeof(full.host), host->name);
	out_action(out, &full);
	core->place_due = true;
	place_pending(core, now, out);
	return 0;
}

int core_heartbeat(struct core *core, const char *name, uint64_t disk_free, uint64_t now,
	uint64_t mono, struct core_out *out)
{
	struct core_host *host = host_get(core, name);

	/* One that was given up, or is not known, must say hello first. */
	if (!host || host->state == CORE_HOST_LOST || host->state == CORE_HOST_JOINING)
		return -ENOENT;
	if (host->state == CORE_HOST_SUSPECT) {
		struct err err = ERR_INIT;

		host->state = CORE_HOST_UP;
		/* Where memory is short it takes no guests until its next hello. */
		(void)index_put(core, host, &err);
		core->place_due = true;
		out_shown(out, CORE_KIND_HOST, host->name);
		out_log(out, "host", host->name, "HeardAgain", false, host->name,
			"is up: it was silent for less than its lease");
	}
	host->disk_free = disk_free;
	heard(core, host, now, mono);
	return 0;
}

int core_observe(struct core *core, const char *name, const struct core_observed *observed,
	size_t count, uint64_t now, struct core_out *out, struct err *err)
{
	struct core_host *host = host_get(core, name);

	if (!host)
		return err_set(err, -ENOENT, "host '%s' is not known", name);
	for (size_t i = 0; i < count; i++)
		observe_one(core, host, &observed[i], now, out);
	place_pending(core, now, out);
	return 0;
}

uint64_t core_tick(struct core *core, uint64_t now, uint64_t mono, struct core_out *out)
{
	uint64_t lease = core->config.lease_ms, next = FAR_AWAY, avoided, drain;
	struct core_host *host;

	DL_FOREACH (core->host_list, host) {
		uint64_t silent = mono > host->seen_mono ? mono - host->seen_mono : 0;

		if (host->state == CORE_HOST_LOST || silent >= lease) {
			uint64_t wait = loss_tick(core, host, silent, now, mono, out);

			if (wait < next)
				next = wait;
		} else if (silent >= lease / 2) {
			if (host->state == CORE_HOST_UP) {
				host->state = CORE_HOST_SUSPECT;
				index_take(core, host);
				out_shown(out, CORE_KIND_HOST, host->name);
				out_log(out, "host", host->name, "Suspect", true, host->name,
					"no heartbeat for half a lease");
			}
			if (lease - silent < next)
				next = lease - silent;
		} else {
			/* All that follow were heard later. */
			if (lease / 2 - silent < next)
				next = lease / 2 - silent;
			break;
		}
	}
	if (core->meta.lease_ms > lease && mono >= core->granted_until) {
		core->meta.lease_ms = (uint32_t)lease;
		out_dirty(out, CORE_KIND_META, "meta");
	}
	move_tick(core, now, mono, out);
	avoided = avoid_tick(core, now, out);
	if (avoided < next)
		next = avoided;
	drain = drain_tick(core, now, out);
	if (drain < next)
		next = drain;
	place_pending(core, now, out);
	if (core->retry_left)
		return 1;
	return next ? next : 1;
}

void core_slept(struct core *core, uint64_t ms, uint64_t mono)
{
	struct core_host *host;

	DL_FOREACH (core->host_list, host) {
		host->seen_mono += ms;
		if (host->seen_mono > mono)
			host->seen_mono = mono;
	}
	move_slept(core, ms);
}

int core_cordon(struct core *core, const char *name, bool cordoned, uint64_t now,
	struct core_out *out, struct err *err)
{
	struct core_host *host = host_get(core, name);

	if (!host)
		return err_set(err, -ENOENT, "no host '%s'", name);
	if (!cordoned && host->drain) {
		int rc = core_drain_cancel(core, name, now, out, err);

		if (rc < 0)
			return rc;
	}
	if (host->cordoned == cordoned)
		return 0;
	host->cordoned = cordoned;
	if (index_put(core, host, err) < 0)
		return err->code;
	out_dirty(out, CORE_KIND_HOST, host->name);
	out_log(out, "host", name, cordoned ? "Cordoned" : "Uncordoned", false, name,
		"asked for by a user");
	core->place_due = true;
	place_pending(core, now, out);
	return 0;
}
