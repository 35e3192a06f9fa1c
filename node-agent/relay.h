/* relay: exec, console, logs and copies, relayed between the scheduler and a
 * guest's runner.
 *
 * Messages are passed on with their ids mapped; they are never kept: the windows
 * of the two ends bound what is on its way (lib/wire.h).  When one side is lost the
 * other is told (StreamEnd).  The logs of a guest without a runner come from its
 * console files (conlog.c).
 */
#ifndef UMLAUT_NODE_AGENT_RELAY_H
#define UMLAUT_NODE_AGENT_RELAY_H

#include "lib/wire.h"
#include "node-agent/guests.h"

#define RELAY_GUEST_MAX 256

struct relay;

int relay_open(struct agent *agent, struct relay **out, struct err *err);
void relay_stop(struct relay *relay);
void relay_free(struct relay *relay);

void relay_from_scheduler(struct relay *relay, const Um__Envelope *env);
void relay_from_runner(struct guest *g, const Um__Envelope *env);
/* ERR may be NULL: the guest has ended. */
void relay_runner_lost(struct guest *g, const struct err *err);
void relay_link_lost(struct relay *relay);
/* The guest is being freed. */
void relay_forget(struct guest *g);

#endif
