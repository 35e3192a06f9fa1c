/* hosts: the names of its networks' members, for each guest's /etc/hosts.
 *
 * A guest gets the whole list with its configuration; when members change, those
 * with a NIC in the network are told what changed, at most HOSTS_DELAY_MS after the
 * first change.  A runner that was not connected gets the whole list at its hello.
 */
#ifndef UMLAUT_NODE_AGENT_HOSTS_H
#define UMLAUT_NODE_AGENT_HOSTS_H

#include "node-agent/nets.h"

#define HOSTS_DELAY_MS 200

struct hosts;

int hosts_open(struct agent *agent, struct hosts **out, struct err *err);
void hosts_stop(struct hosts *hosts);
void hosts_free(struct hosts *hosts);

/* A name in NET now has other addresses, or none. */
void hosts_changed(struct hosts *hosts, struct net *net, const char *name);
/* The network goes: nothing of it is kept. */
void hosts_net_gone(struct hosts *hosts, uint32_t vni);
/* The guest has (or had) NICs in its networks: who is to be told. */
void hosts_add(struct guest *g, struct err *err);
void hosts_forget(struct guest *g);
/* Its runner said hello. */
void hosts_connected(struct guest *g);

/* Everything a guest should know.  Free with hosts_list_free(). */
struct hosts_list {
	Um__HostEntry *entries;
	Um__HostEntry **pointers;
	size_t count, capacity;
};
int hosts_list(struct guest *g, struct hosts_list *out, struct err *err);
void hosts_list_free(struct hosts_list *list);

#endif
