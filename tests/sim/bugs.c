/* Bugs that are planted on purpose (sim --bug NAME), to show that the simulator finds
 * them.  Each takes the place of a function of the programs, by the linker's --wrap;
 * the Makefile reads the names below.  Those of the agent are in bugs_agent.c.
 *
 * WRAP: records_op
 * WRAP: store_txn
 * WRAP: out_tell_remove
 * WRAP: addrs_add
 * WRAP: index_moved
 * WRAP: guest_reserve
 * WRAP: core_host_hello
 * WRAP: drains_restore
 * WRAP: orphans_restore
 * WRAP: loss_tick
 * WRAP: out_tell_guest
 */
#include <string.h>

#include "scheduler/core/core_int.h"
#include "scheduler/serve/serve_int.h"
#include "tests/sim/sim.h"

static const struct bug_text bugs[] = {
	{"store-lies", "scheduler: one commit in twenty is not durable although it says so"},
	{"told-early", "scheduler: what was decided is told before it is durable"},
	{"counters-forgotten", "scheduler: the counters of uids and epochs are not recorded"},
	{"removal-unsaid", "scheduler: agents are not told that a guest must go"},
	{"drain-forgotten", "scheduler: that a host is being emptied is not read again"},
	{"hello-unread", "scheduler: what an agent has, by its hello, is not looked at"},
	{"address-unnoted", "core: an address that was given is not noted as taken"},
	{"index-stale", "core: the index does not hear of what a host gave away"},
	{"room-early", "core: a smaller spec frees memory while the larger guest still runs"},
	{"orphans-forgotten", "scheduler: what is known of old disks is not read again"},
	{"move-dropped", "core: what the source has is told to go at the hand-over"},
	{"reports-lost", "agent: one report in twenty is not sent"},
	{"reports-unnumbered", "agent: reports have no numbers: loss and order go unseen"},
	{"gaps-unseen", "agent: a gap in what it is told goes unseen"},
	{"margin-none", "agent, scheduler: nothing lies between the ends of their leases"},
	{"lease-from-reply", "agent: the lease is counted from the reply, not from the sending"},
	{"lease-unkept", "agent: the end of the lease goes unseen, and there is no fencer"},
	{"not-adopted", "agent: after a restart it does not take over runners that live"},
	{"start-unsaved", "agent: a guest is started before its record is on the disk"},
	{"error-as-missing",
		"agent: a record that cannot be read is taken for one that is not there"},
	{"files-unsynced", "agent: records are written, and not synced"},
	{"orphans-tossed", "agent: old disks are removed at once"},
	{"prune-unheard", "agent: it does not hear that an old disk is wanted no more"},
	{"frozen-forgotten",
		"agent: frozen guests are forgotten with a restart or a lost connection"},
	{"thaw-early", "agent: a guest is frozen only until it has stopped"},
};

const struct bug_text *bug_list(size_t *count)
{
	*count = sizeof(bugs) / sizeof(*bugs);
	return bugs;
}

bool bug(const char *name)
{
	return sim && sim->options.bug && strcmp(sim->options.bug, name) == 0;
}

#define WRAP(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)

WRAP(void, records_op, struct serve *s, const struct core_dirty *dirty, struct arena *a,
	struct store_op *op);
WRAP(int, store_txn, struct store *store, const struct store_compare *compares,
	size_t compare_count, const struct store_op *ops, size_t op_count, store_done_fn *fn,
	void *arg, struct err *err);
WRAP(void, out_tell_remove, struct core_out *out, const char *host, uint64_t uid, uint64_t epoch);
WRAP(int, addrs_add, struct core_addrs *addrs, struct core_nic *nic, bool v6);
WRAP(void, index_moved, struct core *core, struct core_host *host);
WRAP(void, guest_reserve, struct core *core, struct core_guest *guest,
	const struct core_groupspec *spec);
WRAP(int, drains_restore, struct serve *s, const char *host, const Um__HostDrain *r,
	struct err *err);
WRAP(int, orphans_restore, struct serve *s, const Um__StoredOrphan *r, struct err *err);
WRAP(void, out_tell_guest, struct core_out *out, const struct core_guest *guest);
WRAP(int, core_host_hello, struct core *core, const struct core_hostfacts *facts,
	const struct core_observed *observed, size_t count, uint64_t now, uint64_t mono,
	struct core_out *out, struct err *err);

WRAP(uint64_t, loss_tick, struct core *core, struct core_host *host, uint64_t silent, uint64_t now,
	uint64_t mono, struct core_out *out);

uint64_t __wrap_loss_tick(struct core *core, struct core_host *host, uint64_t silent, uint64_t now,
	uint64_t mono, struct core_out *out)
{
	if (bug("margin-none"))
		silent += core->config.margin_ms;
	return __real_loss_tick(core, host, silent, now, mono, out);
}

void __wrap_records_op(
	struct serve *s, const struct core_dirty *dirty, struct arena *a, struct store_op *op)
{
	__real_records_op(s, dirty, a, op);
	if (dirty->kind == CORE_KIND_META && bug("counters-forgotten") && sim->now > 4 * SIM_SECOND)
		op->key = "nowhere";
}

int __wrap_store_txn(struct store *store, const struct store_compare *compares,
	size_t compare_count, const struct store_op *ops, size_t op_count, store_done_fn *fn,
	void *arg, struct err *err)
{
	int rc;

	if (!bug("told-early"))
		return __real_store_txn(
			store, compares, compare_count, ops, op_count, fn, arg, err);
	rc = __real_store_txn(store, compares, compare_count, ops, op_count, NULL, NULL, err);
	if (rc == 0 && fn)
		fn(arg, 0, store_revision(store), NULL);
	return rc;
}

void __wrap_out_tell_remove(struct core_out *out, const char *host, uint64_t uid, uint64_t epoch)
{
	if (!bug("removal-unsaid"))
		__real_out_tell_remove(out, host, uid, epoch);
}

int __wrap_addrs_add(struct core_addrs *addrs, struct core_nic *nic, bool v6)
{
	return bug("address-unnoted") ? 0 : __real_addrs_add(addrs, nic, v6);
}

void __wrap_index_moved(struct core *core, struct core_host *host)
{
	if (!bug("index-stale"))
		__real_index_moved(core, host);
}

void __wrap_guest_reserve(
	struct core *core, struct core_guest *guest, const struct core_groupspec *spec)
{
	__real_guest_reserve(core, guest, spec);
	if (bug("room-early"))
		guest_settle(core, guest);
}

int __wrap_drains_restore(
	struct serve *s, const char *host, const Um__HostDrain *r, struct err *err)
{
	return bug("drain-forgotten") ? 0 : __real_drains_restore(s, host, r, err);
}

int __wrap_orphans_restore(struct serve *s, const Um__StoredOrphan *r, struct err *err)
{
	return bug("orphans-forgotten") ? 0 : __real_orphans_restore(s, r, err);
}

void __wrap_out_tell_guest(struct core_out *out, const struct core_guest *guest)
{
	const struct core_move *m = guest->move;

	__real_out_tell_guest(out, guest);
	if (bug("move-dropped") && m && m->phase == CORE_MOVE_START && !core_move_recalled(m))
		out_tell_remove(out, m->source, m->uid, guest->epoch);
}

int __wrap_core_host_hello(struct core *core, const struct core_hostfacts *facts,
	const struct core_observed *observed, size_t count, uint64_t now, uint64_t mono,
	struct core_out *out, struct err *err)
{
	return __real_core_host_hello(
		core, facts, observed, bug("hello-unread") ? 0 : count, now, mono, out, err);
}
