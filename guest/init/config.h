/* config: the guest's configuration, gathered from its parts (GuestConfig with
 * more = true but for the last) and checked.
 *
 * Merging: see GuestConfig in proto/umlaut.proto.  Limits: CONFIG_SIZE_MAX bytes
 * in all, and those of the schema.  Pure but for malloc.
 */
#ifndef UMLAUT_GUEST_INIT_CONFIG_H
#define UMLAUT_GUEST_INIT_CONFIG_H

#include "lib/buf.h"
#include "lib/err.h"
#include "proto/umlaut.pb-c.h"

#define CONFIG_SIZE_MAX (8u << 20)
#define CONFIG_NICS_MAX 32
#define CONFIG_HOSTS_MAX 65536

struct config_parts {
	struct buf packed; /* the parts, packed one after the other: protobuf merges them */
	struct buf run;
	unsigned count;
};

void config_init(struct config_parts *parts);
void config_free(struct config_parts *parts);
int config_add(struct config_parts *parts, Um__GuestConfig *part, struct err *err);
/* The whole, checked; the caller frees it with um__guest_config__free_unpacked(). */
int config_finish(struct config_parts *parts, Um__GuestConfig **out, struct err *err);

#endif
