/* batch: guests of different sizes that are to be packed, planned together (pack.h).
 *
 * Placed one after the other, the largest first, they may use a fifth more hosts than
 * needed.  A batch is of groups that came at the same time, with the same priority and
 * the strategy pack, which ask the same of labels and taints and nothing of particular
 * hosts or of other guests; of all others, and of guests that are all of one size, no
 * plan is made: for them the best fit is as good.
 *
 * Plans are about memory.  What a host refuses for another reason is placed like any
 * other guest; where that might cost more hosts than the plan saves, there is no plan.
 */
#ifndef UMLAUT_SCHEDULER_CORE_BATCH_H
#define UMLAUT_SCHEDULER_CORE_BATCH_H

#include "scheduler/core/core_int.h"

/* High priorities first; then those to be packed, the largest first; then the lab's order. */
void batch_sort(struct core_group **groups, size_t n);

/* The next guest of GROUP without a place goes to HOST. */
struct batch_place {
	struct core_group *group;
	struct core_host *host;
};

struct batch {
	struct core *core;
	struct core_group **groups; /* as batch_sort() leaves them; borrowed */
	const uint32_t *waiting;
	size_t count;
	bool *taken; /* groups that were in a plan */
	uint64_t steps;
	uint32_t plans; /* left */
	/* The plan: all places of one group follow each other. */
	struct batch_place *places;
	size_t place_count;
};

/* WAITING (borrowed): how many guests of each want a place; NULL: those that are pending
 * and have no host.  Memory that is short means: no plans. */
void batch_begin(struct batch *batch, struct core *core, struct core_group **groups,
	const uint32_t *waiting, size_t n);
/* Plans for group number AT and those that follow and go with it, as the hosts are now.
 * False: there is no plan that is better than best fit, or they were in one before. */
bool batch_next(struct batch *batch, size_t at);
void batch_end(struct batch *batch);

#endif
