/* moverecv: the target's session of a move, on the peer channel's ROUTER
 * (docs/migration.md).
 *
 * A MoveOffer begins a session, and ends the one before it: the newest source
 * connection counts.  The scheduler's word that this guest may come makes the object;
 * until then offers for it find nobody.  One message after the other goes through the
 * pool; a source that sends more than MOVE_WINDOW of them unconfirmed is told so and
 * its session is over.  A failure is told to the source as an Error, and ends the
 * session, not the object: another offer may come.  What reads the whole disk takes turns
 * of MOVE_SLICE_MS, and tells what it has found after each.  While a message is worked at,
 * a MoveAck goes each MOVERECV_ALIVE_MS, so that the source waits.
 *
 * Batches are refused that would leave this host's guests too little room (movespace.h).
 *
 * Once sealed the copy takes no more blocks; an offer that comes all the same (the
 * source did not hear of it) is answered, and its digest compared.
 */
#ifndef UMLAUT_NODE_AGENT_MOVERECV_H
#define UMLAUT_NODE_AGENT_MOVERECV_H

#include "lib/loop.h"
#include "lib/zsock.h"
#include "node-agent/movein.h"

/* Written bytes after which the copy is synced in between. */
#define MOVERECV_SYNC (64u << 20)

#define MOVERECV_ALIVE_MS 1000

/* Below `dir`: the MoveSeal of a copy that is whole. */
#define MOVERECV_SEALED "sealed.pb"

struct moverecv;

struct moverecv_config {
	uint64_t move, epoch, disk_generation; /* what must be offered */
	const char *path;		       /* of the copy; its folder is there */
	const char *dir;		       /* for logs and the seal; NULL: not kept */
	const uint8_t *sealed;		       /* digest, when it was sealed before; or NULL */
	struct cow_spec spec;		       /* `backing` as the guest's kernel will see it */
	const uint8_t *image_id;	       /* 32 bytes */
};

struct moverecv_ops {
	/* The copy is whole.  May close the object. */
	void (*on_sealed)(void *arg, const uint8_t digest[MOVE_DIGEST]);
	/* A session failed; for a person.  May be NULL. */
	void (*on_trouble)(void *arg, const struct err *err);
	/* The last that is called, after moverecv_close() or from inside it: until then the
	 * copy may be open, and locked.  May be NULL. */
	void (*on_released)(void *arg);
};

/* CONFIG is copied. */
int moverecv_open(struct loop *loop, const struct moverecv_config *config,
	const struct moverecv_ops *ops, void *arg, struct moverecv **out, struct err *err);
/* True when ENV is a message for this move: answered, now or later, on SOCK. */
bool moverecv_message(struct moverecv *recv, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size);
uint64_t moverecv_written(const struct moverecv *recv); /* bytes, of all sessions */
/* Before SOCK is closed.  The copy stays.  What the pool is at ends soon (on_released). */
void moverecv_close(struct moverecv *recv); /* NULL is fine */

#endif
