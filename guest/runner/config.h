/* config: a guest's configuration and host lists, cut into frames for its line.
 *
 * The configuration of a guest (files of 4 MiB, a script of 1 MiB, thousands of
 * host names) goes over a line whose frames hold 64 KiB: in parts, merged by the
 * guest as the proto says at GuestConfig.  Pure.
 */
#ifndef UMLAUT_GUEST_RUNNER_CONFIG_H
#define UMLAUT_GUEST_RUNNER_CONFIG_H

#include "lib/wire.h"

/* What is known only when it is sent. */
struct config_now {
	uint64_t time_ms;
	const uint8_t *seed;
	size_t seed_size;
	bool first_boot;
};

/* Appends the frames of CONFIG to OUT.  -EMSGSIZE names an item that fits in no
 * frame (one variable of the environment of nearly 64 KiB). */
int config_frames(const Um__GuestConfig *config, const struct config_now *now, struct buf *out,
	struct err *err);

/* Appends the frames of UPDATE: the first has `full` and `removed`, the others go
 * on as deltas.  Entries of one name must stand together: they stay together. */
int config_hosts_frames(const Um__HostsUpdate *update, struct buf *out, struct err *err);

#endif
