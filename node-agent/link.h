/* link: the connection to the scheduler.
 *
 *   state    meaning                                          left by
 *   DOWN     not joined yet and no token, or stopped          (stays)
 *   JOINING  connected under the token's key, asks to be let  JoinReply -> HELLO
 *            in with our own                                  refused: tried again
 *   HELLO    AgentHello sent, again each LINK_HELLO_MS        AgentWelcome -> UP
 *   UP       a heartbeat each `heartbeat_ms`; the lease runs  no answer for 2 leases, refused, or
 *            from the sending of the last answered one        disconnected -> HELLO
 *
 * Where we have joined (endpoint, key, cluster) is kept in <state>/cluster; another
 * cluster's welcome is refused, as its wishes would remove our guests.
 */
#ifndef UMLAUT_NODE_AGENT_LINK_H
#define UMLAUT_NODE_AGENT_LINK_H

#include "image/via.h"
#include "lib/wire.h"
#include "node-agent/agent.h"

#define LINK_HELLO_MS 3000

int link_open(struct agent *agent, struct link **out, struct err *err);
void link_stop(struct link *link);
void link_free(struct link *link);

bool link_up(const struct link *link);
/* Milliseconds left of the lease; 0: none. */
uint64_t link_lease(const struct link *link);
/* Sends ENV as it is.  -ENOTCONN unless up. */
int link_send(struct link *link, Um__Envelope *env, struct err *err);
/* The next report: its number and session are filled in. */
int link_observed(struct link *link, Um__Observed *observed, struct err *err);
/* Requests to the scheduler, for fetching. */
const struct imgvia *link_via(struct link *link);
/* Something was lost: hello again, which tells everything. */
void link_again(struct link *link);
void link_resync(struct link *link);

#endif
