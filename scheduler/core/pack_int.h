/* pack_int: what pack.c, pack_fill.c and pack_cover.c share. */
#ifndef UMLAUT_SCHEDULER_CORE_PACK_INT_H
#define UMLAUT_SCHEDULER_CORE_PACK_INT_H

#include "scheduler/core/pack.h"

/* COUNT items of a size go to a bin. */
struct pack_put {
	uint32_t bin, size, count;
};

/* So many bins at most are searched together. */
#define PACK_COVER_BINS 64u

struct pack_cover;

struct pack {
	const struct pack_in *in;
	uint64_t steps; /* left */
	uint64_t seed;
	uint32_t fitting; /* sizes below this number fit in no bin */
	uint32_t misfits; /* their items */
	uint32_t zero;	  /* sizes from this number on are 0 */
	/* One attempt. */
	uint32_t *left;	       /* items not put, by size */
	uint64_t left_bytes;   /* the sum of those */
	uint64_t *room;	       /* by bin */
	struct pack_put *puts; /* in the order they were made */
	size_t put_count;
	uint32_t *by_room; /* bins, the least room (when empty) first */
	/* Those bins that an attempt fills, the largest first. */
	uint32_t *order;
	size_t order_count;
	bool by_pairs;	/* pack_fill() begins with the item that is hardest to complete */
	uint64_t waste; /* so much of their room may stay empty */
	/* Sizes with items left, the largest first, and the bytes left from each on. */
	uint32_t *live;
	uint64_t *tail;
	size_t live_count;
	/* The best of all attempts. */
	struct pack_put *best;
	size_t best_count;
	struct pack_cost cost;
	/* Room for all kinds of sorting and marking, as many as bins or sizes or items. */
	uint32_t *sorted, *scratch, *stack;
	struct pack_cover *cover;
};

/* xorshift64* (Vigna 2016). */
uint64_t pack_random(struct pack *p);
void pack_spend(struct pack *p, uint64_t steps);
/* COUNT more items of SIZE go to BIN; they fit. */
void pack_put(struct pack *p, uint32_t bin, uint32_t size, uint32_t count);
/* Fills in live and tail. */
void pack_live(struct pack *p);
/* Sorts N of IDS by KEY[id], the smallest first; stable.  SCRATCH has room for N. */
void pack_sort(uint32_t *ids, uint32_t *scratch, size_t n, const uint64_t *key);

/* pack_fill.c: puts the largest item left that fits, and with it those that leave the
 * least of BIN empty. */
void pack_fill(struct pack *p, uint32_t bin);

/* pack_cover.c: puts all that is left into the last COUNT bins of the order, as far as
 * it is found how, in at most LIMIT steps. */
int pack_cover_new(struct pack *p);
void pack_cover_free(struct pack *p);
bool pack_cover(struct pack *p, size_t count, uint64_t limit);

#endif
