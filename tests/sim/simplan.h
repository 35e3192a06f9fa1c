/* simplan: what users and fate do in one run, drawn from the seed before it begins.
 *
 * A plan is a list of items in the order of time.  Leaving out items gives another run
 * that differs in little else; simplan_shrink() leaves out as many as it can while the run
 * still fails in the same way, and what is left is the story.
 */
#ifndef UMLAUT_TESTS_SIM_SIMPLAN_H
#define UMLAUT_TESTS_SIM_SIMPLAN_H

#include "tests/sim/sim.h"

struct sim_plan *simplan_make(uint64_t seed, const struct sim_options *options);
void simplan_free(struct sim_plan *plan);
/* Makes the machines and queues the items.  `sim` is set. */
void simplan_begin(struct sim_plan *plan);
uint64_t simplan_end(const struct sim_plan *plan); /* when all is healed */
/* The machine that is drained in the end; 0: none. */
uint32_t simplan_emptied(const struct sim_plan *plan);
/* Ends all trouble that is under way. */
void simplan_heal(void);

/* What came of the run. */
struct plan_outcome {
	bool held;
	char failure[512];
	uint64_t at, events, history, starts, applies, crashes, hosts;
};
void simplan_result(struct sim_plan *plan, const struct sim *world);
const struct plan_outcome *simplan_outcome(const struct sim_plan *plan);

/* Fewer items, same failure.  Runs the simulator up to LIMIT times. */
void simplan_shrink(
	uint64_t seed, struct sim_plan *plan, const struct sim_options *options, unsigned limit);
/* For a person. */
void simplan_print(const struct sim_plan *plan, FILE *out);

#endif
