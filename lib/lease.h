/* lease: how long a host is believed in after its last heartbeat, as the scheduler chooses
 * it and the agent takes it: one place for both (docs/availability.md). */
#ifndef UMLAUT_LIB_LEASE_H
#define UMLAUT_LIB_LEASE_H

#include <stdint.h>

#include "lib/err.h"

/* A scheduler grants no shorter one: a tenth of it, the margins' unit, must do for a pause
 * of a busy machine. */
#define LEASE_MIN_MS 1000u
#define LEASE_MAX_MS 3600000u
#define LEASE_DEFAULT_MS 5000u
/* Heartbeats in a lease: as many may be lost, less one. */
#define LEASE_BEATS_MIN 4u
#define LEASE_BEAT_MIN_MS 50u

/* What a user chose; 0: not, then it is filled in.  -EINVAL with the option's name. */
int lease_choose(uint32_t *lease_ms, uint32_t *heartbeat_ms, struct err *err);

/* What a scheduler said.  An agent keeps to it to the millisecond, or is not in the
 * cluster: one of its own choice could be longer than what the scheduler waits for. */
int lease_told(uint32_t lease_ms, uint32_t heartbeat_ms, struct err *err);

#endif
