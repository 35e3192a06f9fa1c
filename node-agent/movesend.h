/* movesend: the source's session of a move: connects to the target's peer channel,
 * sends rounds, keeps window and rate, begins anew after any break
 * (docs/migration.md).
 *
 *   state    meaning                                        left when
 *   CONNECT  no answer from the target yet                  MoveHave's last part is in
 *   ROUND    batches go; at most MOVE_WINDOW unconfirmed    all are confirmed, durably
 *   READY    on_ready was called: the rest is small; the    movesend_last(), movesend_again()
 *            caller flushes and stops the guest
 *   LAST     the guest has ended; last difference           MoveSealed
 *   SEALED   on_sealed was called: the target has it all    -
 *   FAILED   on_failed was called                           -
 *
 * The rate is kept while the guest runs, and forgotten in LAST.  READY comes when the last
 * difference is expected to take less than `max_downtime_ms`, or more rounds do not help;
 * with `strict` that is FAILED (moverate.h).
 *
 * A break of the connection, or MOVESEND_QUIET_MS without a word from the target,
 * leads to CONNECT; what was confirmed is not sent again.  FAILED after
 * MOVESEND_TRIES breaks in a row with an answer in between but no batch confirmed, or
 * when nothing was heard for `patience_ms` (`last_patience_ms` while the guest stands
 * still).  An Error from the target, or one of reading here: FAILED at once; but one
 * that says UNAVAILABLE to the offer only means to ask again.
 *
 * A copy with a block that this disk has not is of another disk, or was spoiled: once in a
 * session's life it is made anew, and in LAST only one of at most MOVESEND_ANEW bytes.
 *
 * On the loop's thread; files are read in the pool.
 */
#ifndef UMLAUT_NODE_AGENT_MOVESEND_H
#define UMLAUT_NODE_AGENT_MOVESEND_H

#include "lib/loop.h"
#include "lib/zsock.h"
#include "node-agent/moveout.h"

#define MOVESEND_QUIET_MS 5000 /* the target at work tells each second */
#define MOVESEND_PATIENCE_MS 60000
#define MOVESEND_LAST_PATIENCE_MS 15000
#define MOVESEND_TRIES 5
#define MOVESEND_FRESH_MS 2000
#define MOVESEND_ANEW (UINT64_C(256) << 20)

struct movesend;

enum movesend_state { MS_CONNECT, MS_ROUND, MS_READY, MS_LAST, MS_SEALED, MS_FAILED };

struct movesend_config {
	const char *cow;
	const char *logs;		       /* folder of the console's log; NULL: none is sent */
	uint64_t move, epoch, disk_generation; /* of the guest */
	const uint8_t *image_id;	       /* 32 bytes */
	const char *endpoint;		       /* of the target */
	/* CURVE; NULL for ipc. */
	const uint8_t *secret_key, *public_key, *server_key;
	uint64_t rate;				/* bytes a second before zstd; 0: no limit */
	uint32_t max_downtime_ms;		/* of the copying alone */
	bool strict;				/* it is a wish of the user's, no habit of ours */
	uint32_t quiet_ms;			/* 0: MOVESEND_QUIET_MS */
	uint32_t patience_ms, last_patience_ms; /* 0: as above */
};

/* Each may close the session. */
struct movesend_ops {
	void (*on_ready)(void *arg);
	void (*on_sealed)(void *arg, const uint8_t digest[MOVE_DIGEST]);
	void (*on_failed)(void *arg, const struct err *err);
	/* The last that is called, after movesend_close() or from inside it: until then the
	 * disk may be open, and locked.  May be NULL. */
	void (*on_released)(void *arg);
};

struct movesend_status {
	enum movesend_state state;
	struct moveout_progress progress;
	uint64_t bytes, wire_bytes; /* of all sessions */
	uint64_t rate;		    /* bytes a second, of this round so far, else of the last */
	uint32_t expected_ms;	    /* for the last difference; UINT32_MAX: not known yet */
	uint32_t breaks;
};

/* CONFIG is copied. */
int movesend_open(struct loop *loop, struct zctx *zctx, const struct movesend_config *config,
	const struct movesend_ops *ops, void *arg, struct movesend **out, struct err *err);
/* Before movesend_last(): the guest ended by itself, so, of that generation.  Copied. */
void movesend_ended(struct movesend *send, const Um__RunnerStatus *last, uint64_t generation);
#define MOVESEND_REASON 201
/* The guest's kernel has ended, after so many restarts and runs.  From any state before
 * SEALED; once. */
void movesend_last(struct movesend *send, uint32_t restarts, uint64_t runs);
/* READY, the target is there, and what has changed since can only be little: now the guest
 * may be stopped. */
bool movesend_fresh(const struct movesend *send);
/* From READY that is not fresh: another round, or a connection and a round; on_ready comes
 * again.  Nothing in other states. */
void movesend_again(struct movesend *send);
void movesend_set_rate(struct movesend *send, uint64_t rate);
void movesend_status(const struct movesend *send, struct movesend_status *out);
/* No callback but on_released comes any more; the memory goes when the pool is done with it. */
void movesend_close(struct movesend *send); /* NULL is fine */

#endif
