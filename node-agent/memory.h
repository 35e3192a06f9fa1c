/* memory: what a guest holds of this host's memory, in its parts, when somebody asks
 * (lib/memuse.h): nothing is measured, or counted, for guests that nobody asks about.
 *
 *   part      from
 *   guest     Pss_Shmem of all below the guest's runner: the file that is its memory
 *   kernel    Pss_Anon + Pss_File of its kernel, and of the processes that stand for its own
 *   runner    all Pss of umlaut-guest and its guard
 *   tables    VmPTE and a kernel stack a thread, of all these
 *   disk      mincore(2) of its COW file
 *   image     mincore(2) of its image, shared with the host's other guests that have it
 *   agent     this process
 */
#ifndef UMLAUT_NODE_AGENT_MEMORY_H
#define UMLAUT_NODE_AGENT_MEMORY_H

#include "node-agent/conlog.h"

/* One Um__MemoryReport, packed; closed like a log.  -EAGAIN comes by on_end when it does
 * not run. */
int memory_open(struct guest *g, const struct conlog_ops *ops, void *arg, struct conlog **out,
	struct err *err);

#endif
