/* cluster: which cluster this host has joined, kept in <state>/cluster.
 *
 *   cluster ID
 *   endpoint tcp://...
 *   server Z85-KEY
 */
#ifndef UMLAUT_NODE_AGENT_CLUSTER_H
#define UMLAUT_NODE_AGENT_CLUSTER_H

#include "lib/curve.h"

#define CLUSTER_ID 64

struct cluster {
	char id[CLUSTER_ID]; /* "": not known yet */
	char endpoint[160];
	uint8_t server_key[CURVE_KEY];
	bool curve; /* server_key is set */
};

/* -ENOENT: none. */
int cluster_load(const char *path, struct cluster *out, struct err *err);
int cluster_save(const char *path, const struct cluster *cluster, struct err *err);

#endif
