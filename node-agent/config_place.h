/* config_place: the settings that decide which guests a host is given.  Lists as
 * "A,B" or, in the file, also "[A, B]" and "{KEY: VALUE}". */
#ifndef UMLAUT_NODE_AGENT_CONFIG_PLACE_H
#define UMLAUT_NODE_AGENT_CONFIG_PLACE_H

#include "node-agent/config.h"

/* "zone=a,ssd=1" */
int agentconf_set_labels(struct agentconf *config, const char *value, struct err *err);
/* "gpu,db=yes,old:prefer" */
int agentconf_set_taints(struct agentconf *config, const char *value, struct err *err);
/* "memory=1.5,cpu=16,disk=2" */
int agentconf_set_overcommit(struct agentconf *config, const char *value, struct err *err);

#endif
