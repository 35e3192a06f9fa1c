/* preempt: guests of lower priority give way.
 *
 * Where no host takes a guest, the host is sought where the least must go: the
 * highest priority that goes first, then the number, then the memory.  Its victims
 * are told to go (`evicted`), and wait for another place when their agent says that
 * nothing is left of them; until then the room is theirs.  Meanwhile the host is
 * nominated: nobody of the same or a lower priority may take what becomes free.
 */
#ifndef UMLAUT_SCHEDULER_CORE_PREEMPT_H
#define UMLAUT_SCHEDULER_CORE_PREEMPT_H

#include "scheduler/core/run.h"

/* True when room is being made for the first pending guest of the run's group; TEXT
 * says where. */
bool preempt_for(struct run *run, struct core_out *out, char text[CORE_REASON]);
/* GROUP no longer needs its nominated host. */
void preempt_forget(struct core_group *group);

#endif
