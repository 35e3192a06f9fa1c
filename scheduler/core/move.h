/* move: guests on their way from one host to another, with their disks; what the two
 * agents do and why is in docs/migration.md.
 *
 *   phase    the guest is at   left by                            to
 *   PREPARE  source            target ready                       COPY
 *   COPY     source            source: what is left is small      FREEZE
 *   FREEZE   source            source: it has ended               LAST
 *   LAST     source, stopped   target has it all, sealed          START (hand-over)
 *   START    target, new epoch target: it runs, or has run; or    DROP
 *                              is stopped, as it should be
 *                              given back, under a newer epoch    BACK
 *   DROP     target            source: nothing is left            DONE
 *   BACK     source            target: nothing is left            FAILED, CANCELLED
 *
 * The hand-over is one event, so one transaction: place, epoch and record.  Before it
 * everything that goes wrong leads to BACK.  After it the source's copy, which is whole and
 * frozen, stays until the guest has run at the target.  As long as it has not, it can be
 * given back: when the target is lost (loss.c), or says that the guest never ran there and
 * does not now, which it is asked for when a user cancels or when it cannot start it.
 *
 * What is held for a move beside the guest's own reservation: up to START all that the
 * guest needs where it is not, so that it fits on either side; the same in BACK, at the
 * target; in DROP its disk, at the source.
 *
 * From BACK and DROP on the guest is free: it may be moved again.
 *
 * Guests that required rules tie together go to one host in one set (together.c): all that
 * they need is held there from the beginning, and as long as none of them was handed over,
 * one that is put back takes the others with it.
 *
 * At most CORE_MOVES_AT_ONCE copy out of a host, and as many into it: the others wait in
 * PREPARE, in the order in which they were asked for.
 */
#ifndef UMLAUT_SCHEDULER_CORE_MOVE_H
#define UMLAUT_SCHEDULER_CORE_MOVE_H

#include "scheduler/core/core.h"

#define CORE_DIGEST 32
#define CORE_MOVES_AT_ONCE 8u

/* Stored: numbers stay. */
enum core_move_phase {
	CORE_MOVE_PREPARE = 0,
	CORE_MOVE_COPY = 1,
	CORE_MOVE_FREEZE = 2,
	CORE_MOVE_LAST = 3,
	CORE_MOVE_START = 4,
	CORE_MOVE_DROP = 5,
	CORE_MOVE_BACK = 6,
	CORE_MOVE_DONE = 7,
	CORE_MOVE_FAILED = 8,
	CORE_MOVE_CANCELLED = 9,
};
const char *core_move_phase_name(enum core_move_phase phase);

/* What an agent says.  The numbers are those of MoveSide, MoveState in the protocol. */
enum core_move_side { CORE_MOVE_SOURCE = 0, CORE_MOVE_TARGET = 1 };
enum core_move_state {
	CORE_MOVE_IS_PREPARING = 0,
	CORE_MOVE_IS_READY = 1,
	CORE_MOVE_IS_COPYING = 2,
	CORE_MOVE_IS_SMALL = 3,
	CORE_MOVE_IS_FROZEN = 4,
	CORE_MOVE_IS_SEALED = 5,
	CORE_MOVE_HAS_FAILED = 6,
};
struct core_move_numbers {
	uint32_t round, expected_ms;
	uint64_t bytes_done, bytes_left, bytes_total, wire_bytes, rate;
};
struct core_move_seen {
	uint64_t number;
	enum core_move_side side;
	enum core_move_state state;
	bool gone;
	const char *reason; /* borrowed */
	struct core_move_numbers numbers;
	const uint8_t *digest; /* borrowed; NULL: none */
	uint32_t frozen_ms;    /* source: so long ago the guest's stop began */
};

struct core_move {
	uint64_t number; /* of the counter of epochs */
	uint64_t uid;
	struct core_guest *guest; /* NULL from DROP, BACK on */
	char name[CORE_FULLNAME];
	char source[CORE_NAME], target[CORE_NAME];
	enum core_move_phase phase;
	bool cancelled;
	bool drain;	/* of a host that is being emptied */
	uint64_t set;	/* those of one number go to one host together; 0: alone */
	uint64_t epoch; /* of the source */
	uint64_t rate;	/* bytes a second; 0: no limit */
	uint32_t max_downtime_ms;
	char reason[CORE_REASON];
	uint64_t started_at, frozen_at, running_at, ended_at; /* wall clock */
	/* Not stored: */
	uint64_t heard_at;
	bool heard;	       /* since the last tick */
	uint64_t silent_since; /* monotonic */
	bool progressed;       /* PREPARE: the target said something new since the last tick */
	uint64_t still_since;  /* monotonic */
	bool counts;	       /* among those that its host's drain has under way */
	bool ready;	       /* its target is, and it waits for its turn */
	bool recalled;	       /* START: the target cannot start it */
	bool sealed;
	bool dry; /* of a dry run: nobody hears of it */
	uint8_t digests[2][CORE_DIGEST];
	bool has_digest[2];
	struct core_move_numbers numbers;
	struct core_host *held; /* where something is reserved for it */
	uint64_t held_memory, held_disk;
	uint32_t held_cpu;
	bool held_exclusive;
	struct core_group *counted; /* on that host, for the rules of all; NULL: not */
	UT_hash_handle hh;
};
const struct core_move *core_move(const struct core *core, uint64_t number);
const struct core_move *core_moves(const struct core *core); /* the oldest; ->hh.next */
/* Neither done, failed nor cancelled. */
bool core_move_active(const struct core_move *move);
/* What HOST is to be told of it: it is its source, its target, or neither (any more). */
bool core_move_out_of(const struct core_move *move, const char *host);
bool core_move_into(const struct core_move *move, const char *host);
/* Handed over, and wanted back: the target must not start it. */
bool core_move_recalled(const struct core_move *move);

/* ---------------------------------------------------------------- events */

struct core_migrate {
	const char *to; /* host; "": the best by the guest's own rules */
	uint64_t rate;
	uint32_t max_downtime_ms;
	bool dry_run, drain;
};
struct core_migrate_plan {
	uint64_t number; /* 0: dry run */
	char from[CORE_NAME], to[CORE_NAME];
	/* Those that move along (together.c); owned. */
	struct core_also {
		uint64_t uid, number;
	} * also;
	size_t also_count;
};
void core_migrate_plan_free(struct core_migrate_plan *plan);
/* PLAN is empty before; core_migrate_plan_free() after success.  -ENOENT; -EBUSY: not now,
 * and why; -EHOSTUNREACH: no host, or not that one, takes it.  Dry runs see what those
 * before them would take, until core_migrate_rehearsed(). */
int core_migrate(struct core *core, uint64_t uid, const struct core_migrate *how, uint64_t now,
	struct core_migrate_plan *plan, struct core_out *out, struct err *err);
/* The dry runs are over. */
void core_migrate_rehearsed(struct core *core);
/* Back to where it was, and those that move with it.  Once handed over: unless it has run at
 * the target by then.  -ENOENT: no move of the guest; -EBUSY: it moves with others that are
 * handed over by now, or one of the hosts is lost. */
int core_move_cancel(
	struct core *core, uint64_t uid, uint64_t now, struct core_out *out, struct err *err);
/* What HOST said; HELLO: all that it has, after core_host_hello(). */
int core_move_observed(struct core *core, const char *host, const struct core_move_seen *seen,
	size_t count, bool hello, uint64_t now, struct core_out *out, struct err *err);

/* After the guests, before core_loaded(). */
struct core_load_move {
	uint64_t number, uid, epoch, rate, started_at, frozen_at, running_at, ended_at;
	enum core_move_phase phase;
	uint32_t max_downtime_ms;
	bool drain, cancelled;
	uint64_t set;
	const char *name, *source, *target, *reason;
};
int core_load_move(struct core *core, const struct core_load_move *load, struct err *err);

/* ---------------------------------------------------------------- within the core */

/* The guest leaves its host, for good or to wait for another; all of it is told there. */
void move_off(struct core *core, struct core_guest *guest, const char *why, struct core_out *out);
/* Its spec is another one; NEW_DISK: so is its disk. */
void move_changed(struct core *core, struct core_guest *guest, bool new_disk, struct core_out *out);
/* Its guest needs more room, or less: so does what is held. */
void move_resized(struct core *core, struct core_move *move);
/* What its host said of it, SEEN, was noted. */
void move_noted(struct core *core, struct core_guest *guest, const struct core_observed *seen,
	uint64_t now, struct core_out *out);
/* Its host is lost, and it may be started elsewhere.  True: it is where it came from again,
 * with its disk, as it never ran on the lost one.  Else what other hosts have of it is to
 * be kept, and the caller goes on. */
bool move_returns(struct core *core, struct core_guest *guest, struct core_out *out);
/* HOST has a guest under an epoch that is not the newest: true while a move needs it. */
bool move_keeps(const struct core *core, const struct core_host *host, uint64_t uid);
/* It was placed anew. Where that is the host that it had been moved from, and that was
 * told to drop its copy, there is nothing to wait for: the folder is the guest's again. */
void move_returned(struct core *core, struct core_guest *guest, struct core_out *out);
/* Nothing of the guest is left on HOST. */
void move_left(struct core *core, const struct core_host *host, uint64_t uid, uint64_t now,
	struct core_out *out);
/* HOST said hello with these, and has no others. */
void move_hello(struct core *core, const struct core_host *host,
	const struct core_observed *observed, size_t count, uint64_t now, struct core_out *out);
void move_host_lost(struct core *core, struct core_host *host, uint64_t now, struct core_out *out);
void move_tick(struct core *core, uint64_t now, uint64_t mono, struct core_out *out);
/* As core_slept(). */
void move_slept(struct core *core, uint64_t ms);
/* Nothing runs there any more that may be started elsewhere. */
void move_host_released(struct core *core, struct core_host *host, struct core_out *out);
/* HOST is emptied: what is on its way there stays where it is. */
void move_refuse_into(
	struct core *core, const struct core_host *host, uint64_t now, struct core_out *out);
/* HOST is not emptied any more. */
void move_cancel_drain(
	struct core *core, const struct core_host *host, uint64_t now, struct core_out *out);
/* HOST's domains change: those that are on their way there count in them. */
void move_count_domains(struct core *core, const struct core_host *host, int by);
void move_free_all(struct core *core);

#endif
