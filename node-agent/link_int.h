/* Inside of the link: shared by link.c and link_join.c. */
#ifndef UMLAUT_NODE_AGENT_LINK_INT_H
#define UMLAUT_NODE_AGENT_LINK_INT_H

#include "lib/log.h"
#include "lib/rpc.h"
#include "node-agent/cluster.h"
#include "node-agent/desired.h"
#include "node-agent/link.h"

#define LINK_BEATS 64 /* heartbeats that may be unanswered */

enum link_state { LINK_DOWN, LINK_JOINING, LINK_HELLO, LINK_UP };

struct link {
	struct agent *agent;
	enum link_state state;
	struct zsock *sock;
	struct rpc *rpc;
	struct loop_timer *timer;
	struct imgvia via;
	struct cluster cluster;
	struct curve_token token; /* while joining */
	uint64_t join_id;
	struct log_rate rate;
	unsigned refused; /* by the server, one after the other */
	/* HELLO */
	uint64_t hello_id, hellos;
	uint64_t hello_at; /* proc_boot_ms(), as are sent_at and lease_until */
	/* UP */
	uint64_t session, beat, heartbeat_ms, lease_ms;
	uint64_t sent_at[LINK_BEATS];
	uint64_t heard_at, lease_until;
	uint64_t observed_seq; /* of the last report */
	struct desired_state desired;
	uint64_t full_asked_at;
};

/* link.c: (re)connects to link->cluster with KEYS. */
int link_socket(struct link *link, const struct curve_pair *keys, struct err *err);

/* link_join.c: reads what we have joined, or begins to join: sets the state and
 * connects.  -EINVAL: neither is possible. */
int link_configure(struct link *link, struct err *err);
/* Our key is not known over there any more: joins again if there is a token. */
void link_rejoin(struct link *link);
void link_join_send(struct link *link);

#endif
