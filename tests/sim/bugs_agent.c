/* Planted bugs of the agent; see bugs.c.
 *
 * WRAP: link_observed
 * WRAP: desired_apply
 * WRAP: life_adopt
 * WRAP: reconcile_next
 * WRAP: fence_cuts
 * WRAP: fence_renew
 * WRAP: orphans_record
 * WRAP: orphans_prune
 * WRAP: guest_frozen
 * WRAP: um__agent_guest__unpack
 * WRAP: desired_reset
 */
#include <errno.h>
#include <string.h>

#include "node-agent/desired.h"
#include "node-agent/fence.h"
#include "node-agent/life.h"
#include "node-agent/link.h"
#include "node-agent/moves.h"
#include "node-agent/orphans.h"
#include "node-agent/reconcile.h"
#include "tests/sim/sim.h"

#define WRAP(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)

WRAP(int, link_observed, struct link *link, Um__Observed *observed, struct err *err);
WRAP(int, desired_apply, struct agent *agent, struct desired_state *state,
	const Um__Desired *desired, struct err *err);
WRAP(bool, fence_cuts, const struct guest *g);
WRAP(int, orphans_record, const struct guest *g, uint8_t **record, size_t *size, struct err *err);
WRAP(void, orphans_prune, struct orphans *orphans, const Um__GuestRemove *which);
WRAP(bool, guest_frozen, const struct guest *g);
WRAP(Um__AgentGuest *, um__agent_guest__unpack, ProtobufCAllocator *allocator, size_t size,
	const uint8_t *data);
WRAP(void, desired_reset, struct agent *agent, struct desired_state *state);
WRAP(int, life_adopt, struct guest *g, struct err *err);
WRAP(enum reconcile_step, reconcile_next, const struct reconcile_want *want,
	const struct reconcile_have *have, uint64_t now);

WRAP(void, fence_renew, struct fence *fence, uint64_t left, uint64_t lease);

void __wrap_fence_renew(struct fence *fence, uint64_t left, uint64_t lease)
{
	if (bug("margin-none"))
		left += lease / FENCE_GUARD;
	if (bug("lease-from-reply"))
		left = lease;
	__real_fence_renew(fence, left, lease);
}

bool __wrap_fence_cuts(const struct guest *g)
{
	return bug("lease-unkept") ? false : __real_fence_cuts(g);
}

int __wrap_link_observed(struct link *link, Um__Observed *observed, struct err *err)
{
	Um__Envelope env = wire_env(0);

	if (bug("reports-lost") && sim_chance(NULL, DRAW_FATE, 0.05))
		return 0;
	if (!bug("reports-unnumbered"))
		return __real_link_observed(link, observed, err);
	env.body_case = UM__ENVELOPE__BODY_OBSERVED;
	env.observed = observed;
	return link_send(link, &env, err);
}

int __wrap_desired_apply(struct agent *agent, struct desired_state *state,
	const Um__Desired *desired, struct err *err)
{
	if (bug("gaps-unseen") && state->seq)
		state->seq = desired->seq - 1;
	return __real_desired_apply(agent, state, desired, err);
}

int __wrap_orphans_record(const struct guest *g, uint8_t **record, size_t *size, struct err *err)
{
	return bug("orphans-tossed") ? 0 : __real_orphans_record(g, record, size, err);
}

void __wrap_orphans_prune(struct orphans *orphans, const Um__GuestRemove *which)
{
	if (!bug("prune-unheard"))
		__real_orphans_prune(orphans, which);
}

bool __wrap_guest_frozen(const struct guest *g)
{
	return __real_guest_frozen(g) && !(bug("thaw-early") && !g->run);
}

/* Its records, as they are read. */
Um__AgentGuest *__wrap_um__agent_guest__unpack(
	ProtobufCAllocator *allocator, size_t size, const uint8_t *data)
{
	Um__AgentGuest *local = __real_um__agent_guest__unpack(allocator, size, data);

	if (local && bug("frozen-forgotten"))
		local->frozen_move = local->frozen_epoch = 0;
	return local;
}

/* A new session with the scheduler. */
void __wrap_desired_reset(struct agent *agent, struct desired_state *state)
{
	struct guest *g = bug("frozen-forgotten") ? guests_first(agent->guests) : NULL;

	__real_desired_reset(agent, state);
	for (; g; g = guests_next(g)) {
		g->frozen_move = g->frozen_epoch = 0;
		guests_touch(g);
	}
}

int __wrap_life_adopt(struct guest *g, struct err *err)
{
	return bug("not-adopted") ? err_set(err, -ESRCH, "no runner") : __real_life_adopt(g, err);
}

enum reconcile_step __wrap_reconcile_next(
	const struct reconcile_want *want, const struct reconcile_have *have, uint64_t now)
{
	struct reconcile_have seen = *have;

	if (bug("start-unsaved"))
		seen.saved = true;
	return __real_reconcile_next(want, &seen, now);
}
