/* serve: the scheduler as its peers see it: agents and clients over ZeroMQ, the
 * core's decisions made durable and carried out.
 *
 * One event takes this way (commit.c): a message arrives and is checked (api.c,
 * auth.c, agents.c); the core decides; what changed goes to the store in one
 * transaction; when that is durable the messages made of the core's actions, and
 * the answer, are sent, in the order of the events.
 */
#ifndef UMLAUT_SCHEDULER_SERVE_SERVE_H
#define UMLAUT_SCHEDULER_SERVE_SERVE_H

#include "lib/loop.h"

struct serve;

struct serve_config {
	const char *state_dir;	   /* keys, images; the store unless STORE says otherwise */
	const char *store;	   /* "sqlite:PATH", "memory:"; NULL: <state>/cluster.db */
	const char *const *listen; /* tcp:// endpoints, with CURVE */
	size_t listen_count;
	const char *local; /* ipc:// endpoint, or NULL */
	/* The same, for agents: many of them do not keep clients waiting. */
	const char *local_agents;
	const char *advertise;		 /* endpoint in tokens; NULL: the first of LISTEN */
	uint32_t lease_ms, heartbeat_ms; /* lib/lease.h; 0: as it says there */
	/* Called when the store is broken: the process must end. */
	void (*on_broken)(void *arg, const struct err *err);
	void *arg;
};

/* Loads the state, then serves.  Makes keys, the cluster's id, <state>/admin.key
 * and <state>/join.token when they are not there. */
int serve_open(
	struct loop *loop, const struct serve_config *config, struct serve **out, struct err *err);
/* Writes what is queued; guests and agents go on. */
void serve_close(struct serve *serve);

#endif
