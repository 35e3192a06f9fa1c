/* facts: what this host is and offers to guests. */
#ifndef UMLAUT_NODE_AGENT_FACTS_H
#define UMLAUT_NODE_AGENT_FACTS_H

#include "lib/wire.h"
#include "node-agent/agent.h"

/* A HostFacts and what it points to. */
struct facts {
	Um__HostFacts msg;
	Um__HostFacts__LabelsEntry labels[AGENTCONF_LABELS_MAX];
	Um__HostFacts__LabelsEntry *label_list[AGENTCONF_LABELS_MAX];
	char *taint_list[AGENTCONF_TAINTS_MAX];
	char vtep[NET_ADDR_TEXT], kernel[80];
};

void facts_fill(struct agent *agent, struct facts *out);
/* For a heartbeat.  A few small reads, whatever the number of guests. */
void facts_usage(struct agent *agent, Um__HostUsage *out);
/* Our address on the way to ENDPOINT ("tcp://ADDRESS:PORT").  Sends nothing. */
int facts_source(const char *endpoint, struct net_addr *out, struct err *err);

#endif
