/* fence: an agent that its scheduler may have given up ends the guests that may be
 * started elsewhere, before that can happen; docs/availability.md has the arithmetic.
 *
 *   state    meaning                                  left by
 *   FRESH    the agent has just started: those that   the whole state was heard -> HELD;
 *            run go on, none is started; the record   the lease's end -> CUT
 *            on disk may be older than the truth
 *   HELD     the lease runs; guests as they are told  its end -> CUT
 *   CUT      fenced guests are killed, and are not    the whole state was heard -> HELD
 *            started again
 *
 * The lease is the one of link.c, from the sending of the last heartbeat that was
 * answered; here it ends a tenth earlier (FENCE_GUARD).  Half a tenth later the fencer
 * (fencer.h) does the same, should the agent hang or be dead.
 */
#ifndef UMLAUT_NODE_AGENT_FENCE_H
#define UMLAUT_NODE_AGENT_FENCE_H

#include "node-agent/guests.h"

/* Of the lease: what the agent is quicker by; half of it the fencer. */
#define FENCE_GUARD 10u

struct fence;

/* After the inventory: goes on with the lease that an earlier agent had. */
int fence_open(struct agent *agent, struct fence **out, struct err *err);
void fence_stop(struct fence *fence);
void fence_free(struct fence *fence);

/* What was sent at SENT (proc_boot_ms()) was answered: from then on a lease of LEASE
 * milliseconds runs.  One that is over by now is none. */
void fence_renew(struct fence *fence, uint64_t sent, uint64_t lease);
/* The whole state was heard: what is wanted may run, if a lease runs, and one that was
 * asked for after the cut. */
void fence_lift(struct fence *fence);
/* The cluster has given this host up for good, and started its guests elsewhere: all are
 * ended, until it is welcome again.  <state>/expelled is there for as long. */
void fence_expel(struct fence *fence);
/* This guest must not run now. */
bool fence_cuts(const struct guest *g);

#endif
