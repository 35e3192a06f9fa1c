/* moveout: a disk on its way to another host: the source's side.
 *
 *   moveout_open -> moveout_have ... -> moveout_round -> moveout_batch ... 0
 *                                            ^-----------------------------'
 *   and, once the guest's kernel has ended, moveout_last() before the last round:
 *   after it moveout_digest() gives the digest of the disk as it was sent.
 *
 * A batch counts as sent when it is made.  When one may have been lost (the
 * connection broke, either side restarted), close and begin anew: moveout_have()
 * with what the target reads from its own disk then says where to go on.
 *
 * No sockets: the caller carries messages and keeps the window (MOVE_WINDOW) and the
 * rate.  Blocking (reads, hashes, compresses): for the loop's pool, one thread at a
 * time.
 */
#ifndef UMLAUT_NODE_AGENT_MOVEOUT_H
#define UMLAUT_NODE_AGENT_MOVEOUT_H

#include "node-agent/movedisk.h"

struct moveout;

struct moveout_progress {
	uint32_t round;
	uint64_t looked;      /* segments of the disk passed in this round */
	uint64_t segments;    /* of the disk */
	uint64_t cells;	      /* seen in this round */
	uint64_t round_bytes; /* of set blocks sent in this round, before zstd */
	uint64_t bytes;	      /* in all rounds */
	uint64_t wire_bytes;  /* after zstd, with heads */
	uint64_t known;	      /* cells that the target has, or will have */
};

/* A batch: an Envelope's MoveBlocks and its second part. */
struct moveout_batch {
	Um__MoveBlocks blocks; /* its pointers lead into the moveout: until the next call */
	const uint8_t *bulk;
	size_t bulk_size;
};

int moveout_open(const char *cow, uint64_t move, struct moveout **out, struct err *err);
void moveout_close(struct moveout *out); /* NULL is fine */
/* moveout_batch() comes back after about MS milliseconds (0, as at first: not before it has
 * something): so a whole look at a large disk is many jobs, and others have their turns. */
void moveout_slice(struct moveout *out, uint32_t ms);
uint64_t moveout_size(const struct moveout *out);
/* Bytes that the target would have to store if it had none of it.  Reads the bitmap. */
int moveout_data(const struct moveout *out, uint64_t *bytes, struct err *err);
/* What the target has. */
int moveout_have(struct moveout *out, const Um__MoveHave *have, struct err *err);
/* The next round begins at the disk's start. */
int moveout_round(struct moveout *out, struct err *err);
/* The guest's kernel has ended: takes the lock on the file, so nothing writes any
 * more.  -EBUSY while something does. */
int moveout_last(struct moveout *out, struct err *err);
/* 1: a batch; 0: the round has ended; MOVE_MORE: nothing yet, but the time is up: call it
 * again.  -ESTALE: the target's copy is of another disk. */
int moveout_batch(struct moveout *out, struct moveout_batch *batch, struct err *err);
/* After the last round; -EINVAL otherwise. */
int moveout_digest(struct moveout *out, uint8_t digest[MOVE_DIGEST], struct err *err);
void moveout_progress(const struct moveout *out, struct moveout_progress *progress);

#endif
