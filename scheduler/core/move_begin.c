/* Moves: beginning and cancelling them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/move_int.h"

#define ACTIVE_MAX 1024u

static int moves_already(const struct core_move *m, struct err *err)
{
	if (core_move_recalled(m))
		return err_set(
			err, -EBUSY, "guest %s is on its way back to %s", m->name, m->source);
	if (m->phase == CORE_MOVE_START)
		return err_set(err, -EBUSY,
			"guest %s has moved to %s and does not run there yet ('clusterctl migrate "
			"%s --cancel' brings it back to %s)",
			m->name, m->target, m->name, m->source);
	return err_set(err, -EBUSY,
		"guest %s moves already, to %s ('clusterctl migrate %s --cancel' ends it)", m->name,
		m->target, m->name);
}

static int may_move(
	const struct core *core, const struct core_guest *guest, const char *to, struct err *err)
{
	if (!guest || guest->deleting)
		return err_set(err, -ENOENT, "no such guest");
	if (!guest->host)
		return err_set(err, -EBUSY, "guest %s has no host yet", guest->name);
	if (guest->evicted)
		return err_set(err, -EBUSY, "guest %s gives way to others", guest->name);
	if (guest->move)
		return moves_already(guest->move, err);
	if (guest->host->state == CORE_HOST_LOST || guest->host->state == CORE_HOST_JOINING)
		return err_set(err, -EBUSY, "guest %s: its host %s is %s", guest->name,
			guest->host->name, core_host_state_name(guest->host->state));
	if (*to && !host_get(core, to))
		return err_set(err, -ENOENT, "no host '%s'", to);
	if (move_names(guest->host->name, to))
		return err_set(err, -EBUSY, "guest %s is on host %s", guest->name, to);
	if (HASH_COUNT(core->moves) - core->moves_ended >= ACTIVE_MAX)
		return err_set(err, -EBUSY, "%u guests are moving already", ACTIVE_MAX);
	return 0;
}

static struct core_move *begin(struct core *core, struct core_guest *guest, struct core_host *host,
	const struct core_migrate *how, uint64_t now, struct core_out *out)
{
	struct core_move *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->dry = how->dry_run;
	m->number = m->dry ? UINT64_MAX - core->rehearsed++ : ++core->meta.next_epoch;
	m->uid = guest->uid;
	m->guest = guest;
	m->epoch = guest->epoch;
	(void)str_copy(m->name, sizeof(m->name), guest->name);
	(void)str_copy(m->source, sizeof(m->source), guest->host->name);
	(void)str_copy(m->target, sizeof(m->target), host->name);
	m->rate = how->rate;
	m->max_downtime_ms = how->max_downtime_ms;
	m->drain = how->drain;
	m->started_at = m->heard_at = now;
	m->heard = m->progressed = true;
	guest->move = m;
	HASH_ADD(hh, core->moves, number, sizeof(m->number), m);
	move_hold(core, m, host, true);
	move_count_coming(m);
	if (m->dry)
		return m;
	drain_moving(core, m);
	move_dirty(m, out);
	move_tell(m, m->target, out);
	move_say(m, "Moving", false, out);
	return m;
}

static void begin_all(struct core *core, const struct move_set *set, const struct core_migrate *how,
	uint64_t now, struct core_migrate_plan *plan, struct core_out *out)
{
	for (size_t i = 0; i < set->count; i++) {
		struct core_move *m = begin(core, set->guests[i], set->host, how, now, out);

		if (!m) {
			out->failed = true;
			return;
		}
		if (m->dry)
			continue;
		if (!i)
			plan->number = m->number;
		else
			plan->also[i - 1].number = m->number;
		m->set = set->count > 1 ? plan->number : 0;
	}
	if (how->dry_run)
		return;
	out_dirty(out, CORE_KIND_META, "meta");
	move_trim(core, out);
}

/* Whoever has to go along may be kept from it as well. */
static int may_move_all(const struct core *core, const struct move_set *set,
	struct core_migrate_plan *plan, struct err *err)
{
	if (HASH_COUNT(core->moves) - core->moves_ended + set->count > ACTIVE_MAX)
		return err_set(err, -EBUSY,
			"%zu guests would move together, and %u at most move "
			"at once",
			set->count, ACTIVE_MAX);
	if (set->count > 1)
		plan->also = calloc(set->count - 1, sizeof(*plan->also));
	if (set->count > 1 && !plan->also)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 1; i < set->count; i++) {
		struct err why = ERR_INIT;
		int rc = may_move(core, set->guests[i], "", &why);

		if (rc < 0)
			return err_set(err, rc, "guest %s moves together with %s: %s",
				set->guests[0]->name, set->guests[i]->name, err_msg(&why));
		plan->also[plan->also_count++].uid = set->guests[i]->uid;
	}
	return 0;
}

void core_migrate_plan_free(struct core_migrate_plan *plan)
{
	free(plan->also);
	plan->also = NULL;
	plan->also_count = 0;
}

int core_migrate(struct core *core, uint64_t uid, const struct core_migrate *how, uint64_t now,
	struct core_migrate_plan *plan, struct core_out *out, struct err *err)
{
	struct core_migrate_plan found = {.number = 0};
	struct core_guest *guest;
	struct move_set set = {.count = 0};
	int rc;

	HASH_FIND(hh, core->guests, &uid, sizeof(uid), guest);
	rc = may_move(core, guest, how->to, err);
	if (rc == 0)
		rc = move_choose(core, guest, how->to, &set, err);
	if (rc < 0)
		return rc;
	rc = may_move_all(core, &set, &found, err);
	if (rc < 0)
		core_migrate_plan_free(&found);
	if (rc == 0) {
		(void)str_copy(found.from, sizeof(found.from), guest->host->name);
		(void)str_copy(found.to, sizeof(found.to), set.host->name);
		begin_all(core, &set, how, now, &found, out);
		*plan = found;
	}
	move_set_free(&set);
	return rc;
}

/* It is wanted back, and may have run there by now. */
static int recall(struct core *core, struct core_move *m, struct core_out *out, struct err *err)
{
	if (move_lost(core, m->source))
		return err_set(err, -EBUSY, "guest %s is on host %s by now, and host %s is lost",
			m->name, m->target, m->source);
	if (move_lost(core, m->target))
		return err_set(err, -EBUSY,
			"guest %s is on host %s, which is lost, and may run there; 'clusterctl "
			"recover' gives that up",
			m->name, m->target);
	if (m->cancelled)
		return 0;
	m->cancelled = true;
	move_recall(m, out, "cancelled by a user");
	return 0;
}

int core_move_cancel(
	struct core *core, uint64_t uid, uint64_t now, struct core_out *out, struct err *err)
{
	const struct core_move *over;
	struct core_guest *guest;
	struct core_move *m;

	HASH_FIND(hh, core->guests, &uid, sizeof(uid), guest);
	m = guest ? guest->move : NULL;
	if (!m)
		return err_set(
			err, -ENOENT, "guest %s does not move", guest ? guest->name : "(unknown)");
	/* One of a set alone would be torn from the others. */
	if (!move_before_handover(m) && !m->set)
		return recall(core, m, out, err);
	over = move_handed_over(core, m);
	if (over == m)
		return err_set(err, -EBUSY, "guest %s is on host %s by now: nothing to cancel",
			m->name, m->target);
	if (over)
		return err_set(err, -EBUSY,
			"guest %s moves together with %s, which is on host %s by now: nothing to "
			"cancel",
			m->name, over->name, over->target);
	m->cancelled = true;
	move_back(core, m, now, out, "cancelled by a user");
	move_queue(core, out);
	place_pending(core, now, out);
	return 0;
}
