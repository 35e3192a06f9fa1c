/* desired: what the scheduler wants, checked, into guests and nets.
 *
 * Messages are numbered: a gap makes the agent ask for everything (ResyncRequest).
 * A full state may come in parts; nothing is started or removed before its last
 * part is in.  A guest of an older epoch than the newest known is refused.
 */
#ifndef UMLAUT_NODE_AGENT_DESIRED_H
#define UMLAUT_NODE_AGENT_DESIRED_H

#include "lib/wire.h"
#include "node-agent/agent.h"

/* Where in the numbered messages we are; lies in the link. */
struct desired_state {
	uint64_t seq;  /* of the last one applied; 0: none in this session */
	bool in_full;  /* parts of a full state are coming in */
	bool complete; /* a full state was applied in this session */
	uint64_t mark; /* of the full state that is coming in */
};

/* A new session begins; a state in parts is given up. */
void desired_reset(struct agent *agent, struct desired_state *state);
/* 0; -ESTALE: a gap, ask for everything. */
int desired_apply(struct agent *agent, struct desired_state *state, const Um__Desired *desired,
	struct err *err);
/* Checks what a GuestAssign holds.  -EINVAL with the field. */
int desired_check(const Um__GuestAssign *assign, struct err *err);

#endif
