/* simulate: many agents in one process, for load.
 *
 * Each speaks the real protocol with the scheduler over a ZeroMQ connection of its
 * own; only the guests are pretended: one is "starting" at once and "running" and
 * ready after `boot_ms`.  Nothing is kept: after an end all of them are gone.
 */
#ifndef UMLAUT_NODE_AGENT_SIMULATE_H
#define UMLAUT_NODE_AGENT_SIMULATE_H

#include "lib/loop.h"
#include "lib/zsock.h"
#include "node-agent/config.h"

struct simulate;

/* config->simulate agents, called NAME-1, NAME-2 ...  Over ipc://, as an
 * administrator of the scheduler's machine. */
int simulate_open(const struct agentconf *config, struct loop *loop, struct zctx *zctx,
	struct simulate **out, struct err *err);
void simulate_stop(struct simulate *sim);
void simulate_free(struct simulate *sim);

#endif
