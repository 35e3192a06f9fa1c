/* hosts: the managed block of /etc/hosts.
 *
 * The block lies between two marker lines; what the image has around it is kept.
 * It names localhost, the guest itself, and the members of its networks; changes
 * come as HostsUpdate (its rules: proto/umlaut.proto).  hosts_update() only marks;
 * hosts_flush() writes, once for many updates.
 */
#ifndef UMLAUT_GUEST_INIT_HOSTS_H
#define UMLAUT_GUEST_INIT_HOSTS_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"
#include "lib/net.h"
#include "proto/umlaut.pb-c.h"

#define HOSTS_MAX 65536

struct hosts_entry {
	struct net_addr ip;
	char name[64];
};

struct hosts {
	struct hosts_entry *entries;
	size_t count, capacity;
	const Um__GuestConfig *config; /* own name and addresses; borrowed */
	bool dirty;
};

/* Takes config->hosts; dirty afterwards. */
int hosts_init(struct hosts *hosts, const Um__GuestConfig *config, struct err *err);
void hosts_free(struct hosts *hosts);
int hosts_update(struct hosts *hosts, const Um__HostsUpdate *update, struct err *err);
int hosts_flush(struct hosts *hosts, struct err *err);

#endif
