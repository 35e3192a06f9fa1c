/* moves_int: what the parts of moves share. */
#ifndef UMLAUT_NODE_AGENT_MOVES_INT_H
#define UMLAUT_NODE_AGENT_MOVES_INT_H

#include "node-agent/agent.h"
#include "node-agent/moverecv.h"
#include "node-agent/moves.h"
#include "node-agent/movesend.h"

#define MOVES_TICK_MS 500  /* between two reports of progress */
#define MOVES_SYNC_MS 3000 /* for a flush in the guest */
#define MOVES_MAX 4096
#define MOVES_OFFER "offer.pb"
#define MOVES_RESERVE "reserve"

struct move {
	struct moves *moves;
	uint64_t number, uid;
	Um__MoveSide side;
	uint64_t mark;
	bool ended, gone;
	bool dirty;		 /* there is news */
	struct loop_timer *tick; /* source: progress; target: a removal tried again */
	bool busy;		 /* a job in the pool */
	bool holding;		 /* a session has, or had, the disk open and has not let go */
	Um__MoveState state;
	char reason[GUESTS_REASON];
	uint8_t digest[MOVE_DIGEST];
	uint64_t frozen_at;    /* wall clock, when its stop began */
	uint64_t frozen_since; /* the same in loop time */
	/* The source's. */
	Um__MoveSource *source; /* owned */
	struct movesend *send;
	struct movesend_status status; /* as of the last look */
	uint64_t last_round_bytes, this_round_bytes;
	uint32_t seen_round;
	uint64_t sync_id, sync_at; /* of the flush under way; loop time */
	bool synced, last;
	uint64_t mark_revision; /* of the guest, with which the frozen mark is on disk */
	uint64_t rate;		/* as the session was told */
	/* The target's. */
	Um__MoveTarget *target; /* owned */
	char dir[PATH_MAX - 64];
	bool held[GUESTS_BLOBS], waits[GUESTS_BLOBS];
	bool prepared, taken;
	uint32_t failures; /* of the removal, in a row */
	struct cow_spec spec;
	struct moverecv *recv;
	UT_hash_handle hh;
};

struct moves {
	struct agent *agent;
	struct move *all;
	bool stopped;
	struct loop_defer *sweep; /* what must not be done from inside a callback */
	bool sweep_blobs;
	bool preparing;	  /* one copy at a time: an image is read whole for it */
	unsigned closing; /* sessions that were closed and have not let go */
};

struct move *moves_find(const struct moves *moves, uint64_t number);
struct move *moves_add(struct moves *moves, uint64_t number, uint64_t uid, Um__MoveSide side);
void moves_news(struct move *m);
void moves_state(struct move *m, Um__MoveState state);
void moves_fail(struct move *m, const struct err *err);
/* Nothing is left of it here: told once more, then freed. */
void moves_gone(struct move *m);

/* A session has let go of the disk. */
void moves_released(struct move *m);
/* Those that wait for an artefact, or for their turn, look again; soon. */
void moves_again(struct moves *moves);

/* The folder of a copy. */
int moves_dir(const char *state, uint64_t number, char out[PATH_MAX - 64]);
/* *OUT is NULL when there is none, or it is no good. */
int moves_read_seal(const char *dir, Um__MoveSeal **out, struct err *err);

/* Does what can be done now. */
void move_out_step(struct move *m);
void move_out_observe(struct move *m, Um__MoveObserved *out);
void move_out_close(struct move *m);
void move_in_step(struct move *m);
void move_in_close(struct move *m);

#endif
