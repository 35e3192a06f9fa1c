/* inventory: at the agent's start, what is on disk and what runs.
 *
 *   in a guest's folder                     what becomes of it
 *   spec.pb, a runner that lives            adopted, untouched
 *   spec.pb, a runner that has ended        its end is noted; then as the policy says
 *   spec.pb, no runner                      as the policy says
 *   local.pb says it is being removed       removed
 *   no (good) spec.pb                       removed
 *
 * Blocking; before the loop runs.
 */
#ifndef UMLAUT_NODE_AGENT_INVENTORY_H
#define UMLAUT_NODE_AGENT_INVENTORY_H

#include "node-agent/agent.h"

struct inventory {
	uint32_t guests, running, broken;
};

int inventory_load(struct agent *agent, struct inventory *out, struct err *err);

#endif
