/* peers: where other agents fetch artefacts from this host.
 *
 * A CURVE server on --peer-listen; only keys that the scheduler has named are let
 * in (ZAP), and all they may ask for is manifests and chunks; or, while a guest is to come
 * here by a move, its source's, which sends its disk (moves.h).
 */
#ifndef UMLAUT_NODE_AGENT_PEERS_H
#define UMLAUT_NODE_AGENT_PEERS_H

#include "lib/wire.h"
#include "node-agent/agent.h"

struct peers;

/* Without peer_listen nothing is bound. */
int peers_open(struct agent *agent, struct peers **out, struct err *err);
void peers_stop(struct peers *peers);
void peers_free(struct peers *peers);

/* FULL: exactly these; else these too. */
void peers_allow(struct peers *peers, const ProtobufCBinaryData *keys, size_t count, bool full);
/* Where others reach it; "" when nowhere. */
const char *peers_endpoint(const struct peers *peers);

#endif
