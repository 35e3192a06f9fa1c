/* drain: hosts that are being emptied.
 *
 * A host that is drained is cordoned, and its guests are moved (move.h) to where their own
 * rules let them go, some at a time.  The wish is durable, what it came to is not: after a
 * restart the guests that are still there are looked at again.
 *
 *   pass      all guests of the host are looked at once, in the order of their arrival; as
 *             many moves are under way as asked for, and share the rate.  Guests that are
 *             tied together (together.c) get their room elsewhere all at once, and are
 *             copied in turns
 *   stuck     no host takes the guest now, or its move failed: it stays and runs
 *   between   after a pass that left guests behind: 2 s, doubled each time up to a minute
 *             while no guest gets away
 *   drained   nothing of a guest is left there.  The host stays so until it is uncordoned
 *
 * Moves to the host that were under way when it began are put back.  A guest that is
 * stopped moves as well: its disk does.  Guests that leave in another way (deleted, evicted)
 * are waited for.  A host that is lost keeps the wish; its guests are judged as lost ones.
 */
#ifndef UMLAUT_SCHEDULER_CORE_DRAIN_H
#define UMLAUT_SCHEDULER_CORE_DRAIN_H

#include "scheduler/core/move.h"

#define CORE_DRAIN_PARALLEL 4u /* moves at once, where nothing is said */
#define CORE_DRAIN_PARALLEL_MAX 64u
#define DRAIN_RETRY_MS 2000u /* between two tries; longer while nothing changes */

struct core_drain {
	uint32_t parallel;
	uint64_t rate;		  /* bytes a second for all of its moves together; 0: no limit */
	uint32_t max_downtime_ms; /* of each; 0: move.h's */
	uint64_t started_at, ended_at; /* wall clock; ended 0: guests are left */
	uint32_t total;		       /* guests when it began */
	/* Not stored: */
	uint32_t moving; /* of its moves, until the guest runs elsewhere; with those that wait
			  * for their turn */
	uint32_t stuck;	 /* in this pass */
	char reason[CORE_FULLNAME + CORE_REASON + 2]; /* of the last that is stuck; "": none */
	struct core_guest *at;	       /* to be looked at next; NULL: the pass is over */
	uint32_t passes;	       /* in a row by which no guest got away */
	uint64_t retry_at;	       /* wall clock; 0: not waiting */
	uint64_t looked_at;	       /* wall clock; when the pass began */
	bool failed;		       /* in this pass: a move, not only the search for a host */
	struct core_host *prev, *next; /* all hosts with a drain */
};

/* Begins, or goes on with other numbers.  PARALLEL 0: as above.  -ENOENT; -EINVAL. */
int core_drain(struct core *core, const char *host, uint32_t parallel, uint64_t rate,
	uint32_t max_downtime_ms, uint64_t now, struct core_out *out, struct err *err);
/* The host stays cordoned.  Guests whose disk is on its way stay where they are; those that
 * were handed over by now have left.  -ENOENT: no host, or it is not being emptied. */
int core_drain_cancel(
	struct core *core, const char *host, uint64_t now, struct core_out *out, struct err *err);
/* What would become of each guest, in order, when HOST were emptied now: TO, or NULL and WHY
 * it stays.  Nothing is changed.  -ENOENT. */
typedef void core_drain_look_fn(void *arg, const struct core_guest *guest,
	const struct core_host *to, const struct err *why);
int core_drain_look(
	struct core *core, const char *host, core_drain_look_fn *fn, void *arg, struct err *err);
/* After core_load_host(), before its guests. */
int core_load_drain(
	struct core *core, const char *host, const struct core_drain *drain, struct err *err);

/* ---------------------------------------------------------------- within the core */

/* At the end of an event: begins moves where there is room for some. */
void drain_step(struct core *core, uint64_t now, struct core_out *out);
/* Room became free somewhere, a host came or takes guests again: those that found no host
 * are tried again, at the earliest DRAIN_RETRY_MS after the last time.  O(drains). */
void drain_room(struct core *core, uint64_t now);
/* The milliseconds until it should be called again. */
uint64_t drain_tick(struct core *core, uint64_t now, struct core_out *out);
/* The guest leaves its host's list. */
void drain_left(struct core *core, struct core_guest *guest);
/* A move of a drain has begun; the guest came through it, or stays. */
void drain_moving(struct core *core, struct core_move *move);
void drain_moved(struct core *core, struct core_move *move, bool away);
/* All that was loaded is there. */
void drain_loaded(struct core *core);
void drain_forget(struct core *core, struct core_host *host);

#endif
