/* reconcile: what to do next for one guest, from what is wanted and what is there.
 * Pure: no clock, no I/O.  life.c carries the steps out, one at a time, and asks
 * again when something has changed; so a step may fail, or the agent die in the
 * middle of it, and the next question finds the way on.
 *
 *   there is       wanted                      step
 *   a runner       its guest has ended         NOTE the end durably, then FORGET it
 *                  just this                   NOTHING (SAVE first when what is wanted is
 *                                              not on disk)
 *                  anything else               SAVE, then STOP
 *   no runner      nothing (gone)              REMOVE
 *                  any, its disk has come      SAVE, FETCH, DISK, also when it is stopped
 *                  from another host
 *                  stopped, to move, no disk   SAVE, FETCH, DISK
 *                  stopped                     SAVE, then NOTHING
 *                  running, not yet its turn   WAIT (back-off), or NOTHING (ended for
 *                                              good, or starts are held)
 *                  running                     SAVE, FETCH, DISK, QUEUE, START, in this
 *                                              order, each when it is not done yet; no
 *                                              DISK and no START while it is open elsewhere
 */
#ifndef UMLAUT_NODE_AGENT_RECONCILE_H
#define UMLAUT_NODE_AGENT_RECONCILE_H

#include <stdbool.h>
#include <stdint.h>

enum reconcile_policy { RECONCILE_ALWAYS, RECONCILE_ON_FAILURE, RECONCILE_NEVER };

struct reconcile_want {
	bool gone; /* nothing of it is wanted here */
	bool run;
	uint64_t epoch, generation, disk_generation;
	enum reconcile_policy restart;
};

struct reconcile_have {
	bool busy;	  /* a step is under way */
	bool saved;	  /* what is wanted is on disk */
	bool save_failed; /* the last attempt to put it there */

	/* The runner, if any, and what it was started for. */
	bool runner;
	bool stop_asked;
	bool ended;  /* it says that its guest has ended */
	bool noted;  /* that end is on disk */
	bool forgot; /* it was told so */
	uint64_t run_epoch, run_generation, run_disk_generation;

	/* How the last run ended, if it did and that is not history (not `end`). */
	bool end;
	uint64_t end_epoch, end_generation;
	bool end_by_request, end_success;

	uint64_t retry_at;	  /* not before this time; 0: none */
	bool artefacts;		  /* image, kernel, modules are in the store */
	uint64_t disk_generation; /* of the disk here; 0: none */
	bool takes;		  /* its disk came from another host, and is to be taken */
	bool moves;		  /* it is to move, and so needs a disk, also when it never ran */
	bool disk_checked;	  /* it was seen to since the agent's start */
	bool disk_open;		  /* a move that has ended has not let go of it yet */
	bool slot;		  /* it is its turn to boot */
	bool hold;		  /* nothing may be started (the host has just booted) */
};

enum reconcile_step {
	RECONCILE_NOTHING,
	RECONCILE_SAVE,	  /* write what is wanted to disk */
	RECONCILE_NOTE,	  /* write the end to disk */
	RECONCILE_FORGET, /* tell the runner */
	RECONCILE_STOP,	  /* ask the runner to stop the guest */
	RECONCILE_REMOVE, /* remove its files */
	RECONCILE_WAIT,	  /* until retry_at */
	RECONCILE_FETCH,
	RECONCILE_DISK,	 /* make or check it */
	RECONCILE_QUEUE, /* wait for a boot slot */
	RECONCILE_START,
	RECONCILE_STEPS,
};

enum reconcile_step reconcile_next(
	const struct reconcile_want *want, const struct reconcile_have *have, uint64_t now);
/* "save", for logs. */
const char *reconcile_name(enum reconcile_step step);

/* Would a run that ended like this be started again by policy? */
bool reconcile_restarts(enum reconcile_policy policy, bool success);
/* Milliseconds before the next start after FAILURES ends in a row: 1 s, doubled
 * to at most 60 s. */
uint64_t reconcile_backoff(uint32_t failures);
/* A run of at least this many milliseconds ends a row of failures. */
#define RECONCILE_SOUND_MS 60000

#endif
