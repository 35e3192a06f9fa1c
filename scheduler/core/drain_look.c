/* What the emptying of a host would come to: each guest in its turn, with what those before
 * it would take elsewhere.  All is put back as it was. */
#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "scheduler/core/move_int.h"

struct look {
	struct core *core;
	struct core_move *moves; /* pretended */
	size_t count;
	core_drain_look_fn *fn;
	void *arg;
};

static void take(struct look *l, struct core_guest *guest, struct core_host *host)
{
	struct core_move *m = &l->moves[l->count++];

	m->guest = guest;
	guest->move = m;
	move_hold(l->core, m, host, true);
	move_count_coming(m);
	/* Where it is it counts no more: the others are judged as if it had left. */
	guest_count_place(guest, -1);
}

static void give_back(struct look *l)
{
	while (l->count) {
		struct core_move *m = &l->moves[--l->count];

		guest_count_place(m->guest, 1);
		m->guest->move = NULL;
		move_uncount_coming(m);
		move_release(l->core, m);
	}
}

static int look_at(struct look *l, struct core_guest *guest, struct err *err)
{
	struct move_set set = {.count = 0};
	int rc;

	if (guest->deleting || guest->evicted)
		return err_set(err, -EBUSY, "guest %s leaves by itself", guest->name);
	if (guest->move)
		return err_set(err, -EBUSY, "guest %s moves already, to %s", guest->name,
			guest->move->target);
	rc = move_choose(l->core, guest, "", &set, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < set.count; i++) {
		take(l, set.guests[i], set.host);
		l->fn(l->arg, set.guests[i], set.host, NULL);
	}
	move_set_free(&set);
	return 0;
}

int core_drain_look(
	struct core *core, const char *name, core_drain_look_fn *fn, void *arg, struct err *err)
{
	struct core_host *host = host_get(core, name);
	struct look l = {.core = core, .fn = fn, .arg = arg};
	bool place_due = core->place_due;
	struct core_guest *guest;

	if (!host)
		return err_set(err, -ENOENT, "no host '%s'", name);
	l.moves = calloc(host->guest_count + 1, sizeof(*l.moves));
	if (!l.moves)
		return err_set(err, -ENOMEM, "memory is short");
	DL_FOREACH2(host->guests, guest, host_next)
	{
		bool taken = guest->move >= l.moves && guest->move < l.moves + l.count;
		struct err why = ERR_INIT;

		if (!taken && look_at(&l, guest, &why) < 0)
			fn(arg, guest, NULL, &why);
	}
	give_back(&l);
	free(l.moves);
	core->place_due = place_due;
	return 0;
}
