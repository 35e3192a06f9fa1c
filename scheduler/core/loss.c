/* Hosts that are lost, and their guests; docs/availability.md has the arithmetic.
 *
 * At the end of the lease the host is LOST.  A margin later its agent has surely ended
 * those guests that may be started elsewhere (they are fenced), and they are placed again,
 * under a new epoch and with a new disk.  Should the host come back, what it still has of
 * them is of an older epoch, and is removed.
 */
#include <errno.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

#define FOR_GOOD UINT64_MAX

static enum core_on_loss policy(const struct core_guest *guest)
{
	return guest->group ? guest->group->spec.on_loss : CORE_LOSS_WAIT;
}

static bool may_leave(const struct core_guest *guest)
{
	return guest->group && guest->want_run && policy(guest) == CORE_LOSS_RESTART &&
	       !guest->unfenced;
}

static const char *what_next(const struct core_guest *guest)
{
	if (guest->deleting)
		return "its host is lost; removed when that is back";
	if (may_leave(guest))
		return "its host is lost; started elsewhere in a moment";
	if (policy(guest) == CORE_LOSS_NONE)
		return "its host is lost; it waits for you";
	return "its host is lost; it comes back with it";
}

static void lose(struct core *core, struct core_host *host, uint64_t now, struct core_out *out)
{
	struct core_guest *guest;

	host->state = CORE_HOST_LOST;
	host->lost_at = now;
	host->released = false;
	index_take(core, host);
	out_dirty(out, CORE_KIND_HOST, host->name);
	out_log(out, "host", host->name, "Lost", true, host->name,
		"no heartbeat for a whole lease; %u guests are there", host->guest_count);
	move_host_lost(core, host, now, out);
	DL_FOREACH2(host->guests, guest, host_next)
	{
		guest_set_phase(guest, CORE_LOST, what_next(guest));
		out_dirty_guest(out, guest);
		out_log(out, "guest", guest->name, "Lost", true, host->name, "host %s is lost",
			host->name);
	}
}

/* From its image: what it wrote is on the lost host. */
static void leave(struct core *core, struct core_guest *guest, struct core_out *out)
{
	char reason[CORE_REASON];

	if (move_returns(core, guest, out))
		return;
	out_log(out, "guest", guest->name, "StartedElsewhere", true, guest->host->name,
		"host %s is lost", guest->host->name);
	(void)str_format(reason, sizeof(reason),
		"host %s is lost; it starts elsewhere, from its image", guest->host->name);
	guest->unfenced = false;
	orphan_expect(core, guest, out);
	guest_unplace(core, guest, reason, out);
}

static void release(struct core *core, struct core_host *host, struct core_out *out)
{
	struct core_guest *guest, *next;

	host->released = true;
	move_host_released(core, host, out);
	DL_FOREACH_SAFE2(host->guests, guest, next, host_next)
	{
		if (may_leave(guest))
			leave(core, guest, out);
	}
}

uint64_t loss_tick(struct core *core, struct core_host *host, uint64_t silent, uint64_t now,
	uint64_t mono, struct core_out *out)
{
	uint64_t sure = (uint64_t)core->config.lease_ms + core->config.margin_ms;

	if (host->state != CORE_HOST_LOST)
		lose(core, host, now, out);
	if (host->released)
		return FOR_GOOD;
	if (silent < sure)
		return sure - silent;
	/* One of our predecessors may have granted it a longer lease than ours. */
	if (mono < core->granted_until)
		return core->granted_until - mono;
	release(core, host, out);
	return FOR_GOOD;
}

void loss_back(
	struct core_guest *guest, enum core_phase before, uint64_t ran_since, struct core_out *out)
{
	/* An agent that is quick has started it again before it heard of anything. */
	bool goes_on =
		guest->phase == CORE_RUNNING && (!ran_since || guest->started_at == ran_since);

	if (before != CORE_LOST || !guest->want_run || guest->deleting ||
		policy(guest) != CORE_LOSS_NONE || goes_on)
		return;
	guest->want_run = false;
	guest_set_reason(guest, "its host was lost; start it when you want it");
	out_dirty_guest(out, guest);
	out_tell_guest(out, guest);
}

int loss_recover(struct core *core, struct core_guest *guest, struct core_out *out, struct err *err)
{
	const struct core_host *host = guest->host;

	if (!host || host->state != CORE_HOST_LOST)
		return err_set(err, -EBUSY, "guest %s is on host %s, which is not lost",
			guest->name, host ? host->name : "none");
	if (!host->released)
		return err_set(err, -EBUSY, "host %s was lost just now; try again in some seconds",
			host->name);
	guest->want_run = true;
	leave(core, guest, out);
	return 0;
}

void loss_started(struct core *core, struct core_guest *guest, struct core_out *out)
{
	if (guest->host && guest->host->state == CORE_HOST_LOST && guest->host->released &&
		may_leave(guest))
		leave(core, guest, out);
}
