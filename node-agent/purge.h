/* purge: removes every trace of an agent: guests, devices, groups, state. */
#ifndef UMLAUT_NODE_AGENT_PURGE_H
#define UMLAUT_NODE_AGENT_PURGE_H

#include "node-agent/config.h"

/* Works after any crash or reboot, and again and again.  The state folder must not
 * be in use by an agent.  Blocking. */
int purge_all(const struct agentconf *config, struct err *err);

#endif
