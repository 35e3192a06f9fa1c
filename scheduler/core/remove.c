/* Hosts that leave the cluster. */
#include <errno.h>
#include <stdio.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

/* The first few of its guests, for a person. */
static void name_guests(const struct core_host *host, char out[CORE_REASON])
{
	const struct core_guest *guest;
	unsigned told = 0;
	size_t at = 0;

	out[0] = 0;
	DL_FOREACH2(host->guests, guest, host_next)
	{
		int n;

		if (told == 3 || at > CORE_REASON / 2) {
			(void)snprintf(out + at, CORE_REASON - at, " and others");
			return;
		}
		n = snprintf(
			out + at, CORE_REASON - at, "%s%.40s", told++ ? ", " : "", guest->name);
		at += n > 0 ? (size_t)n : 0;
	}
}

static uint32_t moves_with(const struct core *core, const struct core_host *host)
{
	uint32_t count = 0;

	for (const struct core_move *m = core->moves; m; m = m->hh.next)
		count += core_move_active(m) &&
			 (strcmp(m->source, host->name) == 0 || strcmp(m->target, host->name) == 0);
	return count;
}

static uint32_t orphans_on(const struct core *core, const struct core_host *host)
{
	uint32_t count = 0;

	for (const struct core_orphan *o = core->orphans; o; o = o->hh.next)
		count += strcmp(o->host, host->name) == 0;
	return count;
}

static int refuse(
	const struct core *core, const struct core_host *host, bool force, struct err *err)
{
	uint32_t orphans = orphans_on(core, host), moves = moves_with(core, host);
	char names[CORE_REASON];

	if (host->state == CORE_HOST_UP || host->state == CORE_HOST_SUSPECT)
		return err_set(err, -EBUSY, "host %s is up; stop its agent first", host->name);
	if (moves)
		return err_set(
			err, -EBUSY, "host %s has a part in %u moves of guests", host->name, moves);
	name_guests(host, names);
	if (host->guest_count && !force)
		return err_set(err, -EBUSY,
			"host %s has %u guests (%s); delete or move them first; if it never comes "
			"back, --force starts them elsewhere, without what is on their disks",
			host->name, host->guest_count, names);
	if (orphans && !force)
		return err_set(err, -EBUSY,
			"host %s has %u old disks of guests (get orphans); prune them when it is "
			"back, or give them up with --force",
			host->name, orphans);
	/* A guest that may still run there must not be started elsewhere; and who uses force
	 * revokes its key, so the host must be known to be away. */
	if ((host->guest_count || force) && (host->state != CORE_HOST_LOST || !host->released))
		return err_set(err, -EBUSY,
			"host %s was lost just now, or is not known to be; try again in some "
			"seconds",
			host->name);
	return 0;
}

/* All that was there is given up. */
static void give_up(struct core *core, struct core_host *host, struct core_out *out)
{
	struct core_guest *guest, *next;
	char reason[CORE_REASON];

	(void)str_format(reason, sizeof(reason),
		"host %s was removed; it starts elsewhere, from its image", host->name);
	DL_FOREACH_SAFE2(host->guests, guest, next, host_next)
	{
		if (guest->deleting) {
			guest_gone(core, guest, out);
			continue;
		}
		out_log(out, "guest", guest->name, "StartedElsewhere", true, host->name,
			"host %s was removed; what it wrote is given up", host->name);
		guest->unfenced = false;
		guest_unplace(core, guest, reason, out);
	}
}

int core_host_removable(const struct core *core, const char *name, bool force, struct err *err)
{
	const struct core_host *host = host_get(core, name);

	return host ? refuse(core, host, force, err) : err_set(err, -ENOENT, "no host '%s'", name);
}

int core_host_remove(struct core *core, const char *name, bool force, uint64_t now,
	struct core_out *out, struct err *err)
{
	struct core_host *host = host_get(core, name);
	int rc;

	if (!host)
		return err_set(err, -ENOENT, "no host '%s'", name);
	rc = refuse(core, host, force, err);
	if (rc < 0)
		return rc;
	give_up(core, host, out);
	orphan_host_gone(core, host, out);
	out_dirty(out, CORE_KIND_HOST, host->name);
	out_log(out, "host", name, "Removed", false, name,
		force ? "asked for by a user, by force" : "asked for by a user");
	host_free(core, host);
	place_pending(core, now, out);
	return 0;
}
