/* event: one event of the queue; embedded in what it belongs to, or its own. */
#ifndef UMLAUT_TESTS_SIM_EVENT_H
#define UMLAUT_TESTS_SIM_EVENT_H

#include "tests/sim/sim.h"

struct sim_event {
	uint64_t at, seq;
	size_t place; /* in the heap */
	sim_fn *fn;
	void *arg;
	struct sim_proc *proc;
	bool queued, own; /* own: freed when it has run */
};

void sim_event_add(struct sim_event *e, uint64_t at);
void sim_event_remove(struct sim_event *e); /* not queued: fine */

/* simloop.c: what was deferred runs after each event of its process. */
void sim_loop_deferred(struct loop *loop);
struct sim_proc *sim_loop_proc(const struct loop *loop);
/* check.c: true when what should run runs; else WHY says what is missing. */
bool check_settled(char *why, size_t size);

#endif
