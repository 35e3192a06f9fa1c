/* moves: this host's part in moving guests, by the numbers of the moves
 * (docs/migration.md).
 *
 * What is wanted comes with Desired, what is goes with AgentHello and Observed.  A
 * move that is not listed in a full Desired, or named as ended, is put away: at the
 * source the guest runs again if it is still wanted under the same epoch, at the
 * target the copy is forgotten unless a guest was assigned that takes it.
 *
 *   source (moves_out.c)                            left by
 *   PREPARING   session not begun                   the target's answer
 *   COPYING     rounds (movesend.h)                 the rest is small
 *   SMALL       waits for `freeze`                  freeze: flush; another round unless the
 *                                                   last is fresh; record, clean stop
 *   FROZEN      the guest has ended; last           the target has sealed
 *               difference, log
 *   SEALED      -                                   ended
 *
 *   target (moves_in.c)                             left by
 *   PREPARING   fetches image, kernel, modules;     all is there
 *               folder and base image
 *   READY       takes sessions (moverecv.h)         the digest was read back
 *   SEALED      waits for a guest to take it        ended
 *
 * FAILED with a reason, from each; only its end leads on.
 *
 * On disk: the guest's local.pb says that it is frozen for a move, under which epoch,
 * before it is stopped.  At the target <state>/moves/<number, 16 hex digits>/:
 *
 *   offer.pb    Um__MoveTarget as told
 *   cow         the copy; console.log, console.log.1
 *   sealed.pb   Um__MoveSeal, once it is whole
 *   reserve     room for what the guest's start here writes, should the disk be full then
 *
 * Taking it is life's disk step (moves_take()): renamed into the guest's folder, then
 * noted in its local.pb; sealed.pb stays until that is done, so it can be repeated.
 *
 * All on the loop's thread but moves_take() and moves_make_room().
 */
#ifndef UMLAUT_NODE_AGENT_MOVES_H
#define UMLAUT_NODE_AGENT_MOVES_H

#include "lib/zsock.h"
#include "node-agent/guests.h"

struct moves;

int moves_open(struct agent *agent, struct moves **out, struct err *err);
/* What is on disk from before; after the guests were loaded. */
int moves_load(struct moves *moves, struct err *err);
void moves_stop(struct moves *moves);
void moves_free(struct moves *moves);

/* What the scheduler says; MARK as in desired.c. */
void moves_source(struct moves *moves, const Um__MoveSource *want, uint64_t mark);
void moves_target(struct moves *moves, const Um__MoveTarget *want, uint64_t mark);
void moves_end(struct moves *moves, uint64_t number);
/* A full state has been heard: those that were not in it have ended. */
void moves_keep(struct moves *moves, uint64_t mark);
/* The guest was not in it, but its disk is the source of a move that was: it stays. */
bool moves_holds(struct moves *moves, const struct guest *g, uint64_t mark);

/* Its disk is moving away under the epoch that is wanted: it must not run. */
bool guest_frozen(const struct guest *g);
/* Its disk came by a move and is not in its folder yet. */
bool guest_takes(const struct guest *g);
/* A session that is over has its disk open, perhaps locked, for some milliseconds more: a
 * kernel would not get it. */
bool moves_busy(const struct guest *g);
/* The guest changed; cheap when no move is about it. */
void moves_guest(struct guest *g);
/* From its runner; true: it was an answer to a flush. */
bool moves_reply(struct guest *g, const Um__Envelope *env);
/* Nothing of a guest is left here. */
void moves_removed(struct moves *moves, uint64_t uid);
/* There is news of an artefact that a move waits for. */
void moves_blob(struct moves *moves);

/* Takes the copy of a move into DIR.  Caller frees *SEAL.  -ENOENT: there is none, or
 * it is not whole.  Pool. */
int moves_take(
	const char *state, uint64_t number, const char *dir, Um__MoveSeal **seal, struct err *err);
/* The disk is full: what was kept free for this is given up.  Pool. */
void moves_make_room(const char *state, uint64_t number);
/* That is done, and on disk. */
void moves_taken(struct guest *g);

/* The peer channel: whose key is let in for a move, and its messages. */
bool moves_key(const struct moves *moves, const uint8_t key[32]);
bool moves_message(struct moves *moves, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size);

/* Everything (ALL), or what changed since it was told.  *LIST and what it points to is
 * free()d by the caller in one go; NULL when there is nothing. */
size_t moves_observe(struct moves *moves, bool all, Um__MoveObserved ***list);
/* What moves_observe() gave is on its way. */
void moves_told(struct moves *moves);

#endif
