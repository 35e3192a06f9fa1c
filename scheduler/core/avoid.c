/* Back-off of hosts: where one guest after the other cannot be started for the host's own
 * reasons (disk full, no descriptors, no devices), no more are placed for a while, which
 * doubles each time; a guest that comes up there ends it.  Kept in memory only: after a
 * restart of the scheduler the host gets a new chance. */
#include <utlist.h>

#include "scheduler/core/core_int.h"

#define TROUBLES 3     /* in a row, not all of one guest */
#define FIRST_MS 5000u /* doubled each time */
#define LONGEST_MS 60000u

static void lift(struct core *core, struct core_host *host, struct core_out *out)
{
	struct err err = ERR_INIT;

	host->avoid_until = 0;
	host->troubles = 0;
	DL_DELETE2(core->avoided, host, avoid_prev, avoid_next);
	/* Where memory is short it takes no guests until its next hello. */
	(void)index_put(core, host, &err);
	core->place_due = true;
	if (out)
		out_log(out, "host", host->name, "TriedAgain", false, host->name,
			"gets guests again");
}

void avoid_failed(struct core *core, struct core_host *host, const struct core_guest *guest,
	uint64_t now, struct core_out *out)
{
	uint64_t ms = FIRST_MS;

	/* One guest alone may be at fault itself. */
	if (host->troubles && host->trouble_uid == guest->uid)
		return;
	host->trouble_uid = guest->uid;
	if (++host->troubles < TROUBLES || host->avoid_until)
		return;
	for (uint32_t i = 0; i < host->avoided && ms < LONGEST_MS; i++)
		ms *= 2;
	if (ms > LONGEST_MS)
		ms = LONGEST_MS;
	host->avoided++;
	host->avoid_until = now + ms;
	DL_APPEND2(core->avoided, host, avoid_prev, avoid_next);
	index_take(core, host);
	out_log(out, "host", host->name, "Avoided", true, host->name,
		"%u guests in a row could not be started there (%s: %.80s); it gets no more for "
		"%llu s",
		host->troubles, guest->name, guest->reason, (unsigned long long)(ms / 1000));
}

void avoid_fine(struct core *core, struct core_host *host, struct core_out *out)
{
	host->troubles = host->avoided = 0;
	if (host->avoid_until)
		lift(core, host, out);
}

void avoid_forget(struct core *core, struct core_host *host)
{
	if (host->avoid_until)
		DL_DELETE2(core->avoided, host, avoid_prev, avoid_next);
	host->avoid_until = 0;
}

uint64_t avoid_tick(struct core *core, uint64_t now, struct core_out *out)
{
	struct core_host *host, *tmp;
	uint64_t next = UINT64_MAX;

	DL_FOREACH_SAFE2(core->avoided, host, tmp, avoid_next)
	{
		/* The wall clock may have been set back: never longer than the longest. */
		if (host->avoid_until <= now || host->avoid_until - now > LONGEST_MS)
			lift(core, host, out);
		else if (host->avoid_until - now < next)
			next = host->avoid_until - now;
	}
	return next;
}
