/* movedisk: a COW disk as a move sees it: segments of cells, their hashes, and what
 * the other side has (docs/migration.md, "What is sent").
 *
 *   block    512 bytes, a bit of the COW file
 *   cell     4 KiB, 8 blocks; its mask says which are set, mask 0: no such cell
 *   segment  256 KiB, 64 cells
 *
 * Only COW files with blocks of 512 bytes (all that the kernel and cow_create() make).
 * All but movemap_* block: for the loop's pool.
 */
#ifndef UMLAUT_NODE_AGENT_MOVEDISK_H
#define UMLAUT_NODE_AGENT_MOVEDISK_H

#include "guest/cow.h"
#include "lib/wire.h"

#define MOVE_CELL 4096u
#define MOVE_CELLS 64u /* of a segment */
#define MOVE_SEGMENT (MOVE_CELL * MOVE_CELLS)
#define MOVE_HASH 16u
#define MOVE_DIGEST 32u
/* A batch is full with this many bytes; the last segment may go beyond it. */
#define MOVE_BATCH (1u << 20)
#define MOVE_BATCH_MAX (MOVE_BATCH + MOVE_SEGMENT)
#define MOVE_BATCH_SEGMENTS 1024u
#define MOVE_HAVE_SEGMENTS 512u
#define MOVE_WINDOW 8u /* batches that no MoveAck has confirmed */
/* Of a disk's reading one job in the pool does about so much. */
#define MOVE_SLICE_MS 50u
/* "Not done yet, the time is up": not an error, call it again. */
#define MOVE_MORE 2

struct moveslice {
	uint32_t ms;	/* 0: no end */
	uint64_t until; /* monotonic */
};
void moveslice_begin(struct moveslice *slice);
bool moveslice_over(const struct moveslice *slice);

/* One segment of a COW file, as read. */
struct moveseg {
	uint64_t index;
	uint64_t cells; /* bit n: cell n is there */
	uint64_t zero;	/* of those: all set blocks are zeroes */
	uint8_t mask[MOVE_CELLS];
	uint8_t hash[MOVE_CELLS][MOVE_HASH];
	uint8_t data[MOVE_SEGMENT]; /* of set blocks; the others are zeroes */
};

int moveseg_check(const struct cow *cow, struct err *err); /* can it be moved? */
/* Reads the first segment at or after FROM that has a cell, with hashes.  1: found;
 * 0: there is none. */
int moveseg_next(struct cow *cow, uint64_t from, struct moveseg *out, struct err *err);

/* Of the blocks of DATA (a cell) that MASK names. */
void movecell_hash(uint8_t mask, const uint8_t *data, uint8_t out[MOVE_HASH]);
/* The set blocks of a cell one after the other into OUT; returns their bytes. */
size_t movecell_pack(uint8_t mask, const uint8_t *data, uint8_t *out);

/* The digest of a whole disk, cell by cell in ascending order. */
struct movesum;
int movesum_new(uint64_t disk_size, struct movesum **out, struct err *err);
void movesum_add(struct movesum *sum, const struct moveseg *seg);
int movesum_end(struct movesum *sum, uint8_t out[MOVE_DIGEST], struct err *err);
void movesum_free(struct movesum *sum);

/* Which cells a side has.  Memory: 1.2 KiB for each segment that has a cell. */
struct movemap;
int movemap_new(uint64_t disk_size, struct movemap **out, struct err *err);
void movemap_free(struct movemap *map);
uint64_t movemap_segments(const struct movemap *map); /* of the disk */
uint64_t movemap_cells(const struct movemap *map);    /* that are known */
/* The cells of SEG that the map has not, or otherwise. */
uint64_t movemap_differ(const struct movemap *map, const struct moveseg *seg);
/* -ESTALE: the map has a block in this segment that SEG has not. */
int movemap_within(const struct movemap *map, const struct moveseg *seg, struct err *err);
/* Takes over the cells of SEG that CELLS names (0 is fine). */
int movemap_set(struct movemap *map, const struct moveseg *seg, uint64_t cells, struct err *err);
/* The known cells of segment SEG->index, with masks and hashes, without data. */
void movemap_get(const struct movemap *map, struct moveseg *seg);
/* The known cells of a segment; 0: none. */
uint64_t movemap_known(const struct movemap *map, uint64_t index);

/* A segment's CELLS in a message and back.  HASHES and MASKS are the caller's room
 * for MOVE_CELLS of each.  Decoding checks everything against the disk's size and
 * leaves data alone. */
void moveseg_encode(const struct moveseg *seg, uint64_t cells, uint8_t *masks, uint8_t *hashes,
	Um__MoveSegment *out);
int moveseg_decode(
	const Um__MoveSegment *in, uint64_t disk_size, struct moveseg *out, struct err *err);

#endif
