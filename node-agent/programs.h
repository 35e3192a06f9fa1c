/* programs: where umlaut-guest and umlaut-init are: as given, beside this program,
 * or in ../lib/umlaut from it. */
#ifndef UMLAUT_NODE_AGENT_PROGRAMS_H
#define UMLAUT_NODE_AGENT_PROGRAMS_H

#include "node-agent/config.h"

/* Fills in config->runner and config->init.  -ENOENT: says which is missing. */
int programs_find(struct agentconf *config, struct err *err);

#endif
