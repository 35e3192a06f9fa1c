/* movein: a disk on its way to this host: the target's copy.
 *
 *   state     meaning                               calls
 *   PARTIAL   has some of the disk                  have, blocks, sync, seal
 *   SEALED    has all of it, synced and read back   digest only: nothing changes any more
 *   BROKEN    a write failed: the copy on the disk  none; close, open anew, and tell
 *             may be less than was said             what it really has
 *
 * The copy is its own record of progress: movein_have() reads it.  It is never
 * started from: the agent renames it when the scheduler has committed the move.
 *
 * No sockets.  Blocking: for the loop's pool, one thread at a time.  Messages are
 * checked in full.
 */
#ifndef UMLAUT_NODE_AGENT_MOVEIN_H
#define UMLAUT_NODE_AGENT_MOVEIN_H

#include "node-agent/movedisk.h"

struct movein;

/* Opens the copy at PATH, or makes it when it is not there.  One that is of another
 * size, or no COW file at all, is removed and made anew: it was a move's, and only
 * costs sending again.  -EBUSY: another has it. */
int movein_open(
	const char *path, const struct cow_spec *spec, struct movein **out, struct err *err);
void movein_close(struct movein *in); /* NULL is fine; the file stays */

/* What reads the disk comes back after about MS milliseconds (0, as at first: not before it is
 * done) with MOVE_MORE: to be called again in the same way, with nothing else in between. */
void movein_slice(struct movein *in, uint32_t ms);
int movein_fd(const struct movein *in); /* borrowed: for a look at its file system */

/* The same for one that is whole: never made anew.  -ENOENT. */
int movein_reopen(
	const char *path, const struct cow_spec *spec, struct movein **out, struct err *err);

/* Reads what is there.  FN for each message of at most MOVE_HAVE_SEGMENTS segments;
 * HAVE is borrowed, `move` is 0.  FN's failure ends it.  May give MOVE_MORE, as the three
 * below that read. */
typedef int movein_have_fn(void *arg, const Um__MoveHave *have, struct err *err);
int movein_have(struct movein *in, movein_have_fn *fn, void *arg, struct err *err);

/* Checks a batch whole (sizes, places, hashes), then writes it.  -EBADMSG: nothing was
 * written, the copy is as it was.  Others (-ENOSPC, -EIO): BROKEN. */
int movein_blocks(struct movein *in, const Um__MoveBlocks *blocks, const void *bulk,
	size_t bulk_size, struct err *err);
/* All that was written is on the disk. */
int movein_sync(struct movein *in, struct err *err);
/* The same, and what was written since the last time is read back from the disk, not from
 * memory; what that finds is in memory afterwards, where movein_seal() reads it. */
int movein_settle(struct movein *in, struct err *err);
/* The guest has ended: settles, and reads and hashes all that is there.  What is not written
 * again is not read again by movein_seal(): so the target reads while the source does. */
int movein_prove(struct movein *in, struct err *err);
/* Syncs, reads back (from the disk) what was not settled and (from anywhere) what was not
 * proved, and compares all with the source's digest.
 * -ESTALE: they differ; have() and another round mend it. */
int movein_seal(struct movein *in, const uint8_t digest[MOVE_DIGEST], struct err *err);
bool movein_sealed(const struct movein *in);
uint64_t movein_written(const struct movein *in); /* bytes, since it was opened */

#endif
