/* pack: which guests of different sizes go together so that few hosts are used.
 *
 * Bin packing with memory as the size.  Best-fit decreasing (the largest first, each
 * to the fullest bin that has room) comes first; where the lower bound says that fewer
 * bins may do, they are filled anew, one after the other, each as full as the items
 * left allow (minimum bin slack: Gupta & Ho 1999, with the largest item in each bin as
 * Fleszar & Hindi 2002), and the last bins by a search over all completions of low
 * waste, the item with the fewest first (bin completion: Martello & Toth 1990, Korf
 * 2002; as an exact cover: Knuth 2000).  That is begun again, differently, until the
 * bound is met or the budget is used up, and the best of all is taken: it is never
 * worse than best-fit decreasing.
 *
 * Pure and without a clock: the budget counts steps (a few ns each), the same input
 * has the same plan.  All memory is given back before it returns.
 *
 * Lower bound: the fewest unused bins, the largest first, that hold all bytes; and L2
 * of Martello & Toth with all bins as large as the largest.
 */
#ifndef UMLAUT_SCHEDULER_CORE_PACK_H
#define UMLAUT_SCHEDULER_CORE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACK_NONE UINT32_MAX
#define PACK_ITEMS_MAX 16384u
#define PACK_BINS_MAX 65536u
/* About 50 ms. */
#define PACK_STEPS 8000000u

struct pack_size {
	uint64_t size;
	uint32_t count; /* items of this size */
};

struct pack_bin {
	uint64_t room; /* free in it */
	bool used;     /* costs nothing: there is something in it already */
};

struct pack_in {
	const struct pack_size *sizes; /* the largest first, each once */
	size_t size_count;
	const struct pack_bin *bins; /* of equal room the first is preferred */
	size_t bin_count;
	uint64_t steps; /* budget, PACK_STEPS; 0: only best-fit decreasing */
};

struct pack_cost {
	uint32_t unplaced; /* items */
	uint32_t opened;   /* bins not used before that have items now */
};

struct pack_plan {
	struct pack_cost cost, best_fit; /* of the plan; of best-fit decreasing alone */
	uint32_t bound;			 /* no plan opens fewer, if it places all that can be */
	uint64_t steps;			 /* used */
};

/* TO gets the bin of each item, in the order of the sizes, or PACK_NONE.  -EINVAL: sizes
 * not in order, or too many; -ENOMEM; PLAN and TO are then unchanged. */
int pack_plan(const struct pack_in *in, uint32_t *to, struct pack_plan *plan);

#endif
