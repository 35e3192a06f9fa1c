/* guests: the guests of this host, by uid; marks, so that work is proportional to
 * what changed; slots; the queue of those that wait to boot.
 *
 * A guest's folder <state>/guests/<uid, 16 hex digits>/ has, beside what the runner
 * keeps there (guest/runnerctl.h):
 *
 *   spec.pb    Um__GuestAssign as accepted, without the sources of its artefacts
 *   local.pb   Um__AgentGuest: slot, disk generation, restarts, the last end
 *   cow        its disk
 *
 * Both are written before anything is done on their account.  A folder without a
 * readable spec.pb was never complete, and is removed.
 */
#ifndef UMLAUT_NODE_AGENT_GUESTS_H
#define UMLAUT_NODE_AGENT_GUESTS_H

#include <limits.h>

#include "image/manifest.h"
#include "lib/boottimes.h"
#include "lib/loop.h"
#include "lib/wire.h"
#include "node-agent/reconcile.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#include <uthash.h>
#pragma GCC diagnostic pop

struct agent;
struct driver_run;
struct guests;
struct stream;

#define GUESTS_SLOTS 65536u
#define GUESTS_REASON 201 /* as in GuestObserved, with the NUL */
#define GUESTS_BLOBS 3	  /* image, kernel, modules */

/* What the pool does for a guest just now. */
enum guest_busy { GUEST_IDLE, GUEST_SAVING, GUEST_DISK, GUEST_REMOVING };

/* What a runner said of its guest. */
struct guest_status {
	Um__Phase phase; /* PHASE_UNKNOWN: nothing yet */
	bool ready, by_request, final;
	char reason[GUESTS_REASON];
	uint64_t started_at;
	int32_t exit_status;
	uint32_t boots;
	struct boottimes times;
};

struct guest {
	struct agent *agent;
	uint64_t uid;
	char dir[PATH_MAX - 64];
	/* What is wanted. */
	Um__GuestAssign *assign; /* owned; NULL: a folder that only has to go */
	bool gone, keep_disk;
	char keep_reason[GUESTS_REASON];
	uint64_t gone_epoch;
	uint64_t revision, saved_revision; /* of what is wanted; equal: it is on disk */
	uint64_t spec_revision;		   /* the last one that changed the spec */
	uint64_t mark;			   /* seen in this full Desired */
	/* What is kept in local.pb. */
	uint32_t slot;
	uint64_t disk_generation;
	uint32_t restarts, failures;
	uint64_t runs;
	bool end;
	uint64_t end_epoch, end_generation;
	uint64_t frozen_move, frozen_epoch; /* its disk is moving away: moves.h */
	uint64_t taken_move;		    /* its disk came by it */
	struct guest_status last;	    /* how the last run ended */
	uint64_t retry_at;		    /* wall clock */
	bool save_failed;		    /* `trouble` is of its record */
	uint64_t failed_revision;	    /* the newest that could not be saved */
	/* What goes on. */
	enum guest_busy busy;
	bool disk_checked;
	char backing[PATH_MAX];
	char trouble[GUESTS_REASON]; /* why the last step failed; "" */
	uint32_t trouble_count;
	struct driver_run *run; /* NULL: no runner */
	uint64_t run_epoch, run_generation, run_disk_generation;
	uint64_t run_since; /* loop time of RUNNING; 0: not yet */
	struct guest_status status;
	struct boottimes times; /* of the start under way, as far as the agent knows */
	Um__BootTimes times_message;
	bool stop_asked, ended, noted, forgot;
	uint32_t ports;	  /* bit per NIC: its port was made */
	bool booted;	  /* its disk has been used */
	bool discard;	  /* a dead runner's remains are to be removed */
	bool hosts_told;  /* while changes are being told */
	bool hosts_stale; /* its runner has not been told all names */
	/* Artefacts: image, kernel, modules. */
	uint8_t blob_ids[GUESTS_BLOBS][MANIFEST_HASH];
	bool blob_held[GUESTS_BLOBS];
	/* Lists. */
	enum { BOOT_NONE, BOOT_WAITS, BOOT_GRANTED } boot;
	struct guest *boot_prev, *boot_next;
	bool touched, reported;
	bool moving; /* a move may be about it */
	struct guest *touched_next, *reported_next;
	uint64_t report_hash; /* of what the scheduler was told last */
	struct stream *streams;
	struct loop_timer *timer;
	UT_hash_handle hh;
};

int guests_open(struct agent *agent, struct guests **out, struct err *err);
/* Closes runners and timers; guests and their folders stay. */
void guests_stop(struct guests *guests);
void guests_free(struct guests *guests);

struct guest *guests_find(struct guests *guests, uint64_t uid);
size_t guests_count(const struct guests *guests);
struct guest *guests_first(struct guests *guests);
struct guest *guests_next(struct guest *g);
/* A fresh one, without a slot. */
struct guest *guests_add(struct guests *guests, uint64_t uid, struct err *err);
/* Takes it out and frees it: nothing of it may be under way. */
void guests_drop(struct guest *g);

/* The lowest free slot; or SLOT itself, -EEXIST when another has it. */
int guests_take_slot(struct guests *guests, struct err *err);
int guests_claim_slot(struct guests *guests, uint32_t slot, struct err *err);

/* Something changed: life_step() runs for it in this turn of the loop. */
void guests_touch(struct guest *g);
/* While frozen, marks are kept and nothing is done (a Desired in several parts). */
void guests_freeze(struct guests *guests, bool frozen);
/* Starts are held back until the scheduler was heard: the host has just booted. */
void guests_hold(struct guests *guests, bool hold);
bool guests_held(const struct guests *guests);

/* Boot slots, first come, first served. */
void guests_boot_wait(struct guest *g);
void guests_boot_done(struct guest *g); /* gives back, or leaves the queue */

/* Epochs of guests that were removed: what is older than these is refused.
 * Durable; bounded to the newest GUESTS_FENCES. */
#define GUESTS_FENCES 65536u
uint64_t guests_fence(struct guests *guests, uint64_t uid); /* 0: none */
void guests_fence_set(struct guests *guests, uint64_t uid, uint64_t epoch);
/* Appends to <state>/fences, durably.  Pool. */
int guests_fence_write(const char *state, uint64_t uid, uint64_t epoch, struct err *err);

/* Copies what a runner said; texts are cut. */
void guest_status_set(struct guest_status *to, const Um__RunnerStatus *from);
bool guest_status_ended(const struct guest_status *status);
uint64_t guest_epoch(const struct guest *g); /* the newest known */

#endif
