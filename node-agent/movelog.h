/* movelog: the console's log (console.log, console.log.1) of a guest that moves.
 *
 * Read at the source in pieces, written at the target as they come.  A log that cannot
 * be read, or is not there, is left out: no reason to keep a guest where it is.
 * Blocking: for the loop's pool.
 */
#ifndef UMLAUT_NODE_AGENT_MOVELOG_H
#define UMLAUT_NODE_AGENT_MOVELOG_H

#include <stdbool.h>

#include "lib/wire.h"

#define MOVELOG_PIECE (1u << 20)
#define MOVELOG_MAX (16u << 20) /* of one file: the newest of a longer one */

struct movelog;

struct movelog_piece {
	Um__MoveLog log; /* `seq` is the caller's */
	const uint8_t *bulk;
	size_t bulk_size;
};

/* How far a session has sent each file, so that the next look sends what came since.  All
 * zero: nothing yet.  A file that was rotated meanwhile is another one, and sent whole. */
struct movelog_mark {
	uint64_t inode[2], from[2], sent[2];
	bool fresh[2]; /* its first piece is to be sent, though it were empty: what is there goes */
};

/* DIR: the guest's folder.  MARK is read and kept up to date; it must stay. */
int movelog_open(const char *dir, uint64_t move, struct movelog_mark *mark, struct movelog **out,
	struct err *err);
void movelog_close(struct movelog *log); /* NULL is fine */
/* 1: a piece, valid until the next call; 0: that was all. */
int movelog_next(struct movelog *log, struct movelog_piece *piece);

/* Checks a piece and writes it below DIR. */
int movelog_take(const char *dir, const Um__MoveLog *piece, const void *bulk, size_t bulk_size,
	struct err *err);
/* All that was taken is on the disk but for the folder, which the caller syncs. */
int movelog_sync(const char *dir, struct err *err);
/* Takes what came from one folder to another, in place of what is there. */
int movelog_rename(const char *from, const char *to, struct err *err);

#endif
