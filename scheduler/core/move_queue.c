/* Moves that wait until it is their turn to copy. */
#include <stdio.h>
#include <string.h>

#include "scheduler/core/move_int.h"

/* As many as are under way out of their source, and into their target. */
static void count_copies(struct core *core)
{
	for (struct core_move *m = core->moves; m; m = m->hh.next) {
		struct core_host *source = host_get(core, m->source),
				 *target = host_get(core, m->target);
		bool copies = m->phase >= CORE_MOVE_COPY && m->phase <= CORE_MOVE_LAST;

		if (source)
			source->copies_out += copies;
		if (target)
			target->copies_in += copies;
	}
}

static void forget_copies(struct core *core)
{
	for (struct core_move *m = core->moves; m; m = m->hh.next) {
		struct core_host *source = host_get(core, m->source),
				 *target = host_get(core, m->target);

		if (source)
			source->copies_out = 0;
		if (target)
			target->copies_in = 0;
	}
}

static void waits_for(struct core_move *m, const struct core_host *host, struct core_out *out)
{
	char reason[CORE_REASON];

	(void)snprintf(reason, sizeof(reason), "waits: %u moves are under way on %s",
		CORE_MOVES_AT_ONCE, host->name);
	if (strcmp(reason, m->reason) == 0)
		return;
	memcpy(m->reason, reason, sizeof(m->reason));
	move_shown(m, out);
}

void move_queue(struct core *core, struct core_out *out)
{
	if (!core->moves_due)
		return;
	core->moves_due = false;
	count_copies(core);
	for (struct core_move *m = core->moves; m; m = m->hh.next) {
		struct core_host *source, *target = m->held;

		if (m->phase != CORE_MOVE_PREPARE || !m->ready || m->counts)
			continue;
		source = m->guest->host;
		if (source->copies_out >= CORE_MOVES_AT_ONCE) {
			waits_for(m, source, out);
		} else if (target->copies_in >= CORE_MOVES_AT_ONCE) {
			waits_for(m, target, out);
		} else {
			source->copies_out++;
			target->copies_in++;
			move_copy(m, out);
		}
	}
	forget_copies(core);
}
