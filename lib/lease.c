#include "lib/lease.h"

#include <errno.h>

#include "lib/units.h"

#define BEATS 5u	  /* unless chosen */
#define BEAT_MAX_MS 1000u /* likewise: what is missed is seen by heartbeats, too */
#define TOLD_MIN_MS 100u  /* what timers can keep */
#define TOLD_BEATS_MIN 2u

int lease_choose(uint32_t *lease_ms, uint32_t *heartbeat_ms, struct err *err)
{
	uint32_t lease = *lease_ms ? *lease_ms : LEASE_DEFAULT_MS;
	uint32_t beat = *heartbeat_ms ? *heartbeat_ms : lease / BEATS;
	char most[UNITS_TEXT], given[UNITS_TEXT];

	if (lease < LEASE_MIN_MS || lease > LEASE_MAX_MS)
		return err_set(err, -EINVAL, "--lease: must be 1s to 1h");
	if (!*heartbeat_ms && beat > BEAT_MAX_MS)
		beat = BEAT_MAX_MS;
	if (beat < LEASE_BEAT_MIN_MS)
		return err_set(err, -EINVAL, "--heartbeat: must be at least 50ms");
	if (beat > lease / LEASE_BEATS_MIN)
		return err_set(err, -EINVAL,
			"--heartbeat: with --lease %s at most a quarter of it, %s",
			units_duration(given, lease),
			units_duration(most, lease / LEASE_BEATS_MIN));
	*lease_ms = lease;
	*heartbeat_ms = beat;
	return 0;
}

int lease_told(uint32_t lease_ms, uint32_t heartbeat_ms, struct err *err)
{
	if (lease_ms >= TOLD_MIN_MS && lease_ms <= LEASE_MAX_MS && heartbeat_ms &&
		heartbeat_ms <= lease_ms / TOLD_BEATS_MIN)
		return 0;
	return err_set(err, -EINVAL,
		"it grants a lease of %u ms with a heartbeat each %u ms, which this agent cannot "
		"keep to",
		lease_ms, heartbeat_ms);
}
